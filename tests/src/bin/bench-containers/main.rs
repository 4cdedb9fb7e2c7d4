//! `cargo xtask bench containers`: containers of images and their network on the shipped binary, each figure beside the program that
//! others use for it, in the same run.
//!
//! Usage: `bench-containers DIRECTORY [--quick] [--only NAME,…]`. Writes `containers.json` and `containers.md` there. Everything runs in
//! a network and mounts of its own, so that the machine's stay as they are; needs root. A peer that is not installed is named in the
//! report. A group that fails is, too, and the others are measured still.
//!
//! ```text
//! start    a container beside runc and crun, a pod and a command in it beside containerd with CNI plugins
//! hub      from a pod's creation at the hub to Running, as a watcher sees it
//! back     everything is killed, no hub            memory   agent and shims beside containerd, its shims and pauses
//! pull     300 MB over loopback beside containerd  network  a pod's beside a chain of CNI plugins; Services beside nft and no rule
//! dns      answers beside dnsmasq                  cycles   memory and leftovers after 1,000 pods came and went
//! ```

mod containerd;
mod cycles;
mod network;
mod oci;
mod place;
mod plugins;
mod pods;
mod pull;
mod start;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use selvedge_tests::figures::Report;
use testkit::figures::Measured;
use testkit::image::Image;

const PREAMBLE: &str = "Who measures shares the cores with what is measured. The image is Debian's static busybox. runc and crun get \
    a root that is mounted and namespaces that are joined before the clock starts, and no seccomp profile; ours mounts it within, and has \
    one. containerd is asked over CRI, by a client that stays connected.";

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Pods or containers of which each is timed.
    pub pods: usize,
    /// Repetitions of what takes longer.
    pub runs: usize,
    /// Pods that come and go for what is left of them.
    pub cycles: usize,
    /// Of the large image, unpacked.
    pub image_bytes: u64,
    /// Of each load of questions.
    pub dns_seconds: u32,
}

const FULL: Size = Size { pods: 100, runs: 5, cycles: 1_000, image_bytes: 300_000_000, dns_seconds: 3 };
/// Enough to see that all of it works.
const QUICK: Size = Size { pods: 10, runs: 2, cycles: 60, image_bytes: 30_000_000, dns_seconds: 1 };

/// What every group has.
pub struct Bench {
    /// What was measured so far.
    pub report: Report,
    /// How much is measured.
    pub size: Size,
    /// Of every container.
    pub image: Image,
    /// Programs of examples.
    examples: PathBuf,
}

impl Bench {
    /// Runs a program of examples; its figures by their names.
    pub fn example(&self, name: &str, args: &[&str]) -> Result<Measurements> {
        let dir = tempfile::tempdir()?;
        Ok(Measurements(testkit::figures::run(&self.examples.join(name), args, dir.path())?))
    }
}

/// What an example has measured.
pub struct Measurements(Vec<Measured>);

impl Measurements {
    /// A figure by its name.
    pub fn of(&self, figure: &str) -> Result<Vec<f64>> {
        let found = self.0.iter().find(|one| one.figure == figure);
        Ok(found.with_context(|| format!("the example has no figure `{figure}`"))?.values.clone())
    }
}

/// The value that one in a hundred is above.
pub fn p99(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() * 99 / 100).copied().into_iter().collect()
}

type Group = fn(&mut Bench) -> Result<()>;

const GROUPS: [(&str, Group); 8] = [
    ("start", start::start),
    ("hub", pods::hub),
    ("back", pods::back),
    ("memory", pods::memory),
    ("pull", pull::pull),
    ("network", network::network),
    ("dns", network::dns),
    ("cycles", cycles::cycles),
];

fn main() -> Result<()> {
    let (mut out, mut size, mut only, mut args) = (None, FULL, None, std::env::args().skip(1));
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" => size = QUICK,
            "--only" => only = Some(args.next().context("--only needs names")?),
            _ if out.is_none() && !arg.starts_with('-') => out = Some(PathBuf::from(arg)),
            other => bail!("`{other}` is no argument; there are DIRECTORY, --quick and --only NAME,…"),
        }
    }
    let out = out.context("usage: bench-containers DIRECTORY [--quick] [--only NAME,…]")?;
    let names: Vec<&str> = only.as_deref().map(|names| names.split(',').collect()).unwrap_or_default();
    if let Some(name) = names.iter().find(|name| GROUPS.iter().all(|(group, _)| group != *name)) {
        bail!("`{name}` is no group; there are {:?}", GROUPS.map(|(name, _)| name));
    }
    place::leave()?;
    let image = Image::busybox().context("there is no static /bin/busybox; install busybox-static")?;
    let examples = std::env::var_os("SELVEDGE_EXAMPLES").context("SELVEDGE_EXAMPLES names no directory")?.into();
    let mut bench = Bench { report: Report::new("containers", PREAMBLE), size, image, examples };
    let mut failed = Vec::new();
    for (name, group) in GROUPS {
        if (only.is_none() || names.contains(&name))
            && let Err(error) = group(&mut bench)
        {
            bench.report.note(format!("the group `{name}` failed: {error:#}"));
            failed.push(name);
        }
    }
    // Some groups, or few runs, are no report.
    if only.is_none() && size.pods == FULL.pods {
        bench.report.write(&out)?;
    }
    ensure!(failed.is_empty(), "these groups failed: {}", failed.join(", "));
    Ok(())
}

/// Whether a program can be started by its name.
pub fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Writes a file whose directory may be missing.
pub fn write(path: &Path, text: impl AsRef<[u8]>) -> Result<()> {
    std::fs::create_dir_all(path.parent().context("a file is in a directory")?)?;
    std::fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))
}
