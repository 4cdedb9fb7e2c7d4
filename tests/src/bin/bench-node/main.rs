//! `cargo xtask bench node`: how fast pods start and come back, and what they and their agent cost, on the shipped binary.
//!
//! Usage: `bench-node DIRECTORY [--only NAME,…]`. Writes `node.json` and `node.md` there. Pods are plain `sleep` programs that bear
//! a number in their arguments; whether one runs is what the kernel says of its process, and only what is asked of the hub is read
//! from the hub. Who measures shares the machine's cores with what is measured.
//!
//! ```text
//! back     everything is killed, no hub       start    from a pod's creation to Running, as a watcher sees it
//! memory   agent, shims, init processes       probes   CPU of 40 of them
//! slow     a hub that takes 15 s for a status, a line of 64 kbit/s
//! disk     fdatasync calls                    cycles   memory after 4,000 pods came and went
//! ```

mod back;
mod costs;
mod cycles;
mod slow;
mod start;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use selvedge_tests::figures::Report;
use testkit::program::{binary, run};

const PREAMBLE: &str =
    "Who measures shares the cores with hub and node. \"before\" is commit 8ed292a on a machine of the same kind.";

type Group = fn(&mut Report) -> Result<()>;

const GROUPS: [(&str, Group); 8] = [
    ("sizes", sizes),
    ("back", back::back),
    ("start", start::start),
    ("memory", costs::memory),
    ("probes", costs::probes),
    ("slow", slow::slow),
    ("disk", costs::disk),
    ("cycles", cycles::cycles),
];

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let out = PathBuf::from(args.next().context("usage: bench-node DIRECTORY [--only NAME,…]")?);
    let only = match (args.next().as_deref(), args.next()) {
        (None, _) => None,
        (Some("--only"), Some(names)) => Some(names),
        (Some(other), _) => bail!("`{other}` is no argument; there is --only NAME,…"),
    };
    let names: Vec<&str> = only.as_deref().map(|names| names.split(',').collect()).unwrap_or_default();
    if let Some(name) = names.iter().find(|name| GROUPS.iter().all(|(group, _)| group != *name)) {
        bail!("`{name}` is no group; there are {:?}", GROUPS.map(|(name, _)| name));
    }
    let mut report = Report::new("node", PREAMBLE);
    for (name, group) in GROUPS {
        if only.is_none() || names.contains(&name) {
            group(&mut report).with_context(|| format!("the group {name}"))?;
        }
    }
    // Some groups are no report.
    if only.is_none() { report.write(&out) } else { Ok(()) }
}

fn sizes(report: &mut Report) -> Result<()> {
    let mib = |path: &Path| std::fs::metadata(path).map(|data| data.len() as f64 / 1024.0 / 1024.0);
    report.add("size of the binary, full", "MiB", vec![mib(&binary())?], Some("≤ 40"), None);
    if let Some(node) = std::env::var_os("SELVEDGE_BIN_NODE_ALONE") {
        report.add("size of the binary, node alone", "MiB", vec![mib(Path::new(&node))?], Some("≤ 12"), None);
    }
    // A program that does not start is no figure.
    run(["--version"])?.ok()?;
    Ok(())
}
