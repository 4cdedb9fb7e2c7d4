//! Compiled modules on disk, and the child that compiles.
//!
//! An entry is named after the module's digest and everything that decides whether its code runs here (engine
//! version, settings, CPU features). Its own digest lies beside it: an entry that does not match is compiled
//! again, never loaded, since the engine trusts what it maps. Who compiles a module holds the lock of its digest,
//! `<digest>.lock`; whoever comes second finds the entry.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use node_shim::sys;
use wasmtime::Engine;

use super::{Artefact, Format, engine::engine, format_of, hex, read_bounded, sha256_hex};
use crate::{RuntimeError, supervisor::io_error};

/// Larger than any module of a language runtime; the compiler needs several times as much memory.
pub(super) const MODULE_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// Optimised code is some three times the module.
const ARTEFACT_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// The time of last use is written at most this often.
const TOUCH_PERIOD: Duration = Duration::from_secs(60);

/// A draft that nobody has written to for so long belongs to a compiler that was killed.
const DRAFT_AGE_MAX: Duration = Duration::from_secs(3600);

/// A compiler gives way to what runs.
const NICE: i32 = 10;

/// Entry of the hidden subcommand `wasm-compile`:
/// `wasm-compile <module> <its digest> <cache directory> <bytes of cache> [<bytes of memory>]`; prints where the compiled
/// module is. It exits, so that the compiler's memory goes with it.
///
/// Its stdin is a pipe from the node's agent: one byte is the word to begin, and its end is the agent's, or that nobody waits
/// for the result any more; the process exits then, whatever it is doing. The bytes of memory are named where no control
/// group holds it.
pub fn wasm_compile_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<String> = args.into_iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let printed = compile_for_agent(&args)
        .and_then(|artefact| serde_json::to_string(&artefact).map_err(|error| error.to_string()));
    match printed {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn compile_for_agent(args: &[String]) -> Result<Artefact, String> {
    let usage =
        || "this subcommand is run by the node itself: wasm-compile <module> <digest> <cache> <bytes>".to_owned();
    let (module, sha256, cache, bytes_max, memory) = match args {
        [module, sha256, cache, bytes_max] => (module, sha256, cache, bytes_max, None),
        [module, sha256, cache, bytes_max, memory] => (module, sha256, cache, bytes_max, Some(memory)),
        _ => return Err(usage()),
    };
    let bytes_max = bytes_max.parse().map_err(|_| usage())?;
    // In its control group before it reads anything.
    io::stdin().read_exact(&mut [0]).map_err(|_| "the node's agent is not there any more".to_owned())?;
    std::thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        sys::exit_now(1);
    });
    // The first to be given up: it can be started again. It has the agent's own score from its start.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    // Where it fails this takes the same share as everything else.
    sys::be_nice(NICE);
    if let Some(bytes) = memory {
        let bytes = bytes.parse().map_err(|_| usage())?;
        sys::limit_memory(bytes).map_err(|error| format!("failed to limit the compiler's memory: {error}"))?;
    }
    compile(Path::new(module), Some(sha256), Path::new(cache), bytes_max)
}

/// Makes the cache folder, for us alone. A folder of another owner, or open to others, is refused: code in it would be run.
pub(super) fn make_private(folder: &Path) -> Result<(), RuntimeError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .and_then(|()| match fs::metadata(folder)?.permissions().mode() & 0o777 {
            // Nothing is written to a disk that became read-only.
            0o700 => Ok(()),
            _ => fs::set_permissions(folder, fs::Permissions::from_mode(0o700)),
        })
        .map_err(|source| io_error("create", folder, source))
}

fn compile(module: &Path, expected: Option<&str>, cache: &Path, bytes_max: u64) -> Result<Artefact, String> {
    let bytes = read_bounded(module, MODULE_BYTES_MAX).map_err(|error| format!("failed to read it: {error}"))?;
    let format = format_of(&bytes)?;
    let sha256 = sha256_hex(&bytes);
    if expected.is_some_and(|expected| expected != sha256) {
        return Err("it was changed while it was compiled".to_owned());
    }
    let engine = engine()?;
    let path = artefact_path(cache, &sha256, &compatibility(&engine));
    let _lock = DigestLock::take(cache, &sha256).map_err(|error| format!("failed to lock {sha256}: {error}"))?;
    let is_there = File::open(&path).is_ok_and(|file| {
        let sound = is_sound(&file, &path);
        if sound {
            touch(&file);
        }
        sound
    });
    if !is_there {
        let code = match format {
            Format::Module => engine.precompile_module(&bytes),
            Format::Component => engine.precompile_component(&bytes),
        };
        let code = code.map_err(|error| format!("failed to compile it: {error:#}"))?;
        store(&path, &code).map_err(|error| format!("failed to write {}: {error}", path.display()))?;
        prune(cache, &path, bytes_max);
    }
    Ok(Artefact { path, sha256 })
}

fn compatibility(engine: &Engine) -> String {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Where the artefact of a module is, for an engine of this compatibility.
pub(super) fn artefact_path(cache: &Path, sha256: &str, compatibility: &str) -> PathBuf {
    cache.join(format!("{sha256}-{compatibility}.cwasm"))
}

/// The other way round.
pub(super) fn compatibility_of(artefact: &Path) -> Option<String> {
    Some(artefact.file_stem()?.to_str()?.split_once('-')?.1.to_owned())
}

fn digest_path(path: &Path) -> PathBuf {
    path.with_extension("sha256")
}

/// Whether the artefact `file`, which is at `path`, is what was once written there.
pub(super) fn is_sound(file: &File, path: &Path) -> bool {
    let digest = read_bounded(&digest_path(path), 64);
    digest.is_ok_and(|digest| {
        sha256_of(&mut file.take(ARTEFACT_BYTES_MAX)).is_ok_and(|sha256| sha256.as_bytes() == digest)
    })
}

/// Digest of what can be read, by pieces: the agent never holds a module in its memory.
pub(super) fn sha256_of(reader: &mut impl Read) -> io::Result<String> {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(hex(context.finish().as_ref())),
            Ok(bytes) => context.update(&buffer[..bytes]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Notes that an artefact is used; `false` when that was noted a short while ago.
pub(super) fn touch(file: &File) -> bool {
    let now = SystemTime::now();
    let last = file.metadata().and_then(|meta| meta.modified());
    // A clock that was set back makes the last use one of the future: it is put right.
    let recent = last.is_ok_and(|last| now.duration_since(last).is_ok_and(|age| age < TOUCH_PERIOD));
    !recent && file.set_modified(now).is_ok()
}

/// Held by the one that compiles a module; the kernel releases it when the process ends.
struct DigestLock {
    path: PathBuf,
    _file: File,
}

impl DigestLock {
    /// Waits while another process has it.
    fn take(cache: &Path, sha256: &str) -> io::Result<Self> {
        let path = cache.join(format!("{sha256}.lock"));
        loop {
            let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
            file.lock()?;
            // Its last holder has removed it: a lock on a file without a name keeps nobody out.
            let is_named =
                fs::metadata(&path).is_ok_and(|named| file.metadata().is_ok_and(|own| own.ino() == named.ino()));
            if is_named {
                return Ok(Self { path, _file: file });
            }
        }
    }
}

impl Drop for DigestLock {
    fn drop(&mut self) {
        // While it is still held.
        let _ = fs::remove_file(&self.path);
    }
}

/// The code first: with its digest beside it an entry is whole.
fn store(path: &Path, code: &[u8]) -> io::Result<()> {
    write_whole(path, code)?;
    write_whole(&digest_path(path), sha256_hex(code).as_bytes())
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // Only the holder of the lock writes here: what a killed one has left is written over.
    let draft = path.with_added_extension("tmp");
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, path)
    };
    write().inspect_err(|_| drop(fs::remove_file(&draft)))
}

/// Drops the longest unused entries until the rest fits, but never `keep`. Workers that map one go on: the file lives as
/// long as it is mapped.
fn prune(cache: &Path, keep: &Path, bytes_max: u64) {
    let mut entries = Vec::new();
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        let path = entry.path();
        let (Some(extension), Ok(meta)) = (path.extension(), entry.metadata()) else { continue };
        let modified = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        if extension == "cwasm" {
            entries.push((modified, meta.len(), path));
        } else if extension == "tmp" && modified.elapsed().is_ok_and(|age| age > DRAFT_AGE_MAX) {
            let _ = fs::remove_file(&path);
        }
    }
    entries.sort();
    let mut total: u64 = entries.iter().map(|(_, bytes, _)| bytes).sum();
    for (_, bytes, path) in entries {
        if total <= bytes_max {
            return;
        }
        if path != keep {
            let _ = fs::remove_file(digest_path(&path));
            let _ = fs::remove_file(&path);
            total -= bytes;
        }
    }
}

#[cfg(test)]
mod tests;
