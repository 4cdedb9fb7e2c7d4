//! Compiled modules on disk, and the child that compiles.
//!
//! An entry is named after the module's digest and everything that decides whether its code runs here (engine
//! version, settings, CPU features). Its own digest lies beside it: an entry that does not match is compiled
//! again, never loaded, since the engine trusts what it maps.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::ExitCode,
    time::SystemTime,
};

use wasmtime::Engine;

use super::{Artefact, Format, engine::engine, format_of, read_bounded, sha256_hex};
use crate::{RuntimeError, state::io_error};

/// Larger than any module of a language runtime; the compiler needs several times as much memory.
const MODULE_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// Optimised code is some three times the module.
const ARTEFACT_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// Entry of the hidden subcommand `wasm-compile`: `wasm-compile <module> <cache folder> <bytes of cache>`; prints where
/// the compiled module is. It exits, so that the compiler's memory goes with it.
pub fn wasm_compile_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let result = match args.as_slice() {
        [module, cache, bytes_max] => match bytes_max.to_str().and_then(|text| text.parse().ok()) {
            Some(bytes_max) => compile(Path::new(module), Path::new(cache), bytes_max),
            None => Err("the cache's size is not a number".to_owned()),
        },
        _ => Err("this subcommand is run by the node itself: wasm-compile <module> <cache> <bytes>".to_owned()),
    };
    let printed = result.and_then(|artefact| serde_json::to_string(&artefact).map_err(|error| error.to_string()));
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

/// Makes the cache folder, for us alone. A folder of another owner, or open to others, is refused: code in it would be run.
pub(super) fn make_private(folder: &Path) -> Result<(), RuntimeError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .and_then(|()| fs::set_permissions(folder, fs::Permissions::from_mode(0o700)))
        .map_err(|source| io_error("create", folder, source))
}

fn compile(module: &Path, cache: &Path, bytes_max: u64) -> Result<Artefact, String> {
    let bytes = read_bounded(module, MODULE_BYTES_MAX).map_err(|error| format!("failed to read it: {error}"))?;
    let format = format_of(&bytes)?;
    let engine = engine()?;
    let sha256 = sha256_hex(&bytes);
    let path = cache.join(format!("{sha256}-{:016x}.cwasm", compatibility(&engine)));
    if !is_sound(&path) {
        let code = match format {
            Format::Module => engine.precompile_module(&bytes),
            Format::Component => engine.precompile_component(&bytes),
        };
        let code = code.map_err(|error| format!("failed to compile it: {error:#}"))?;
        store(&path, &code).map_err(|error| format!("failed to write {}: {error}", path.display()))?;
        prune(cache, &path, bytes_max);
    } else if let Ok(file) = File::open(&path) {
        // The time of last use decides what goes when the cache is full.
        let _ = file.set_modified(SystemTime::now());
    }
    Ok(Artefact { path, sha256 })
}

fn compatibility(engine: &Engine) -> u64 {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.finish()
}

fn digest_path(path: &Path) -> PathBuf {
    path.with_extension("sha256")
}

fn is_sound(path: &Path) -> bool {
    let (Ok(code), Ok(digest)) = (read_bounded(path, ARTEFACT_BYTES_MAX), read_bounded(&digest_path(path), 64)) else {
        return false;
    };
    sha256_hex(&code).as_bytes() == digest
}

/// The code first: with its digest beside it an entry is whole.
fn store(path: &Path, code: &[u8]) -> io::Result<()> {
    write_whole(path, code)?;
    write_whole(&digest_path(path), sha256_hex(code).as_bytes())
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}.tmp", std::process::id()));
    let draft = PathBuf::from(draft);
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
        let is_code = path.extension().is_some_and(|extension| extension == "cwasm");
        if let (true, Ok(meta)) = (is_code, entry.metadata()) {
            entries.push((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), meta.len(), path));
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
