//! A large image over loopback, into memory and onto the disk, beside containerd.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Result, ensure};
use selvedge_tests::figures::{Peer, median};
use serde_json::json;
use testkit::image::digest;
use testkit::process;
use testkit::program::{Outcome, binary};
use testkit::registry::Registry;

use crate::containerd::Containerd;
use crate::place::Mounted;
use crate::{Bench, has, write};

/// Layers of the image: as many as are fetched side by side.
const LAYERS: u64 = 3;
/// A larger file would make one layer much larger than the others.
const FILE_BYTES_MAX: u64 = 20_000_000;
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// A way of compressing, by the program that builders of images have it from.
const KINDS: [(&str, &[&str]); 2] = [("gzip", &["gzip", "-6"]), ("zstd", &["zstd", "-3", "-q"])];

/// Seconds of the clock and of CPU.
type Taken = (f64, f64);
/// One of them.
type Part = fn(&Taken) -> f64;

pub fn pull(bench: &mut Bench) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let memory = Mounted::tmpfs(&dir.path().join("memory"))?;
    let at = dir.path().join("memory");
    let registry = Registry::start()?;
    let layers = layers(&at.join("layers"), bench.size.image_bytes)?;
    let mut names = Vec::new();
    for (kind, compress) in KINDS {
        match has(compress[0]) {
            true => names.push((kind, serve(&registry, kind, compress, &layers)?)),
            false => bench.report.note(format!("no image in {kind}: `{}` is not installed", compress[0])),
        }
    }
    std::fs::remove_dir_all(at.join("layers"))?;
    let disk = dir.path().join("disk");
    for (kind, name) in &names {
        compare(bench, &registry, ("tmpfs", &at), (kind, name.as_str()))?;
    }
    if let Some((kind, name)) = names.first() {
        compare(bench, &registry, ("disk", &disk), (kind, name.as_str()))?;
    }
    drop(memory);
    Ok(())
}

/// Pulls in turns, because the machine has other things to do.
fn compare(bench: &mut Bench, registry: &Registry, place: (&str, &Path), image: (&str, &str)) -> Result<()> {
    let ((place, dir), (kind, name)) = (place, image);
    std::fs::create_dir_all(dir)?;
    let containerd = Containerd::start(bench, dir)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..bench.size.runs.min(3) {
        ours.push(by_selvedge(registry, dir, name)?);
        if let Some(containerd) = &containerd {
            theirs.push(by_containerd(containerd, name)?);
        }
    }
    let limit = if (place, kind) == ("tmpfs", "gzip") { "≤ 0.7 of the peer" } else { "≤ 1.0 of the peer" };
    let megabytes = bench.size.image_bytes / 1_000_000;
    let parts: [(&str, Part); 2] = [("time", |taken| taken.0), ("CPU", |taken| taken.1)];
    for (what, of) in parts {
        let peer = Peer::new("ctr images pull", theirs.iter().map(of).collect());
        let figure = format!("pull of {megabytes} MB, {kind}, to {place}: {what}");
        bench.report.add_beside(figure, "s", ours.iter().map(of).collect(), Some(limit), peer);
    }
    if (place, kind) == ("tmpfs", "gzip") {
        let rate = megabytes as f64 / median(ours.iter().map(|taken| taken.0).collect());
        bench.report.add("of it unpacked each second", "MB/s", vec![rate], None, None);
    }
    Ok(())
}

/// By hand, with no node, so that what it takes is one process's.
fn by_selvedge(registry: &Registry, dir: &Path, name: &str) -> Result<Taken> {
    let data_dir = dir.join("selvedge");
    let (config, registries) = (dir.join("node.yaml"), dir.join("registries.yaml"));
    write(&registries, format!("plainHttp: [\"{}\"]\n", registry.host()))?;
    write(&config, format!("registriesFile: {}\n", registries.display()))?;
    let mut pull = Command::new(binary());
    pull.args(["image", "pull", "--data-dir"]).arg(&data_dir).arg("--config").arg(&config).arg(name);
    settle()?;
    let (start, used) = (Instant::now(), cpu_of_children());
    Outcome::of(pull.stdin(Stdio::null()))?.ok()?;
    let taken = (start.elapsed().as_secs_f64(), cpu_of_children() - used);
    std::fs::remove_dir_all(&data_dir)?;
    Ok(taken)
}

fn by_containerd(containerd: &Containerd, name: &str) -> Result<Taken> {
    settle()?;
    let used = || cpu_of_children() + process::cpu_seconds_with_children(containerd.pid());
    let (start, before) = (Instant::now(), used());
    containerd.pull(name)?;
    let taken = (start.elapsed().as_secs_f64(), used() - before);
    containerd.remove(name)?;
    Ok(taken)
}

/// What others have written must not be waited for by who comes next.
fn settle() -> Result<()> {
    ensure!(Command::new("sync").status()?.success(), "sync failed");
    Ok(())
}

/// Seconds of CPU of all children that have ended.
fn cpu_of_children() -> f64 {
    // SAFETY: zeroes are a value of it.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to one value that outlives the call.
    unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// Archives of files of this machine, so that they compress as programs do.
fn layers(dir: &Path, bytes: u64) -> Result<Vec<PathBuf>> {
    std::fs::create_dir_all(dir)?;
    let mut files = Files { left: bytes, all: Vec::new() };
    for root in ["/usr/lib", "/usr/share", "/usr/bin"] {
        files.take(Path::new(root));
    }
    ensure!(files.left == 0, "this machine has too few files below /usr for the image");
    let mut archives = Vec::new();
    for (number, part) in files.all.chunks(files.all.len().div_ceil(LAYERS as usize)).enumerate() {
        let (list, archive) = (dir.join(format!("list-{number}")), dir.join(format!("layer-{number}.tar")));
        let names: Vec<u8> =
            part.iter().flat_map(|file| [file.as_os_str().as_encoded_bytes(), b"\0"].concat()).collect();
        std::fs::write(&list, names)?;
        let mut tar = Command::new("tar");
        tar.args(["-P", "--transform=s,^/,,", "--null", "--no-recursion", "-cf"]).arg(&archive);
        ensure!(tar.arg("--files-from").arg(&list).status()?.success(), "tar failed");
        archives.push(archive);
    }
    Ok(archives)
}

struct Files {
    left: u64,
    all: Vec<PathBuf>,
}

impl Files {
    /// Files in the order of their names, until there are enough bytes.
    fn take(&mut self, dir: &Path) {
        let mut entries: Vec<_> = std::fs::read_dir(dir).into_iter().flatten().flatten().collect();
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let Ok(data) = entry.path().symlink_metadata() else { continue };
            if self.left == 0 {
                return;
            }
            if data.is_dir() {
                self.take(&entry.path());
            } else if data.is_file() && data.len() <= FILE_BYTES_MAX && File::open(entry.path()).is_ok() {
                self.left = self.left.saturating_sub(data.len());
                self.all.push(entry.path());
            }
        }
    }
}

/// Puts the image into the registry, compressed one way; its name.
fn serve(registry: &Registry, kind: &str, compress: &[&str], layers: &[PathBuf]) -> Result<String> {
    let (mut diff_ids, mut parts) = (Vec::new(), Vec::new());
    for layer in layers {
        diff_ids.push(digest(&std::fs::read(layer)?));
        let output = Command::new(compress[0]).args(&compress[1..]).arg("-c").arg(layer).output()?;
        ensure!(output.status.success(), "{}: {}", compress[0], String::from_utf8_lossy(&output.stderr));
        let bytes = output.stdout.len();
        let media_type = format!("application/vnd.oci.image.layer.v1.tar+{kind}");
        parts.push(json!({"mediaType": media_type, "size": bytes, "digest": registry.add_blob(output.stdout)}));
    }
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": architecture, "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = config.to_string().into_bytes();
    let bytes = config.len();
    let config = json!({"mediaType": CONFIG, "size": bytes, "digest": registry.add_blob(config)});
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": parts});
    registry.add_manifest("bench/large", kind, MANIFEST, manifest.to_string().into_bytes());
    Ok(format!("{}/bench/large:{kind}", registry.host()))
}
