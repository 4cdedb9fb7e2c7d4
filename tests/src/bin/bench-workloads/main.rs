//! `cargo xtask bench workloads`: how fast workloads get their pods, and what the hub takes for it, on the shipped binary.
//!
//! Usage: `bench-workloads DIRECTORY [--small] [--only NAME,…]`. Writes `workloads.json` and `workloads.md` there, unless only a part
//! is measured. `--small` is a smoke run with few nodes and pods; its figures say nothing.
//!
//! ```text
//! bind      scheduler and store alone: Node objects at which no node reports, pods that wait and are released by one write
//! running   Deployments on hollow nodes, until all pods are Running; a rolling update of all; memory after it
//! start     one pod, from its creation to Running, as a watcher sees it
//! replace   processor time of the hub for one deleted pod, among few pods and among many
//! away      every node loses the hub and comes back; kubectl meanwhile
//! ```
//!
//! Hollow nodes are kubelets in a process of their own, each with its own key, identity and TLS connection. They share the cores with
//! the hub, and their processor time is in the report.

mod away;
mod bind;
mod load;
mod replace;
mod running;
mod scrape;
mod start;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use selvedge_tests::figures::Report;

const PREAMBLE: &str = "Load, hollow nodes and hub share the cores; hollow nodes take what the hub leaves (niceness 19). Hollow nodes \
    have a key, an identity and a TLS connection each, renew their Lease every ten seconds, watch their pods and report them Running. \
    Decisions are those of the hub's own histogram, interpolated within its buckets, which double.";

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Nodes, hollow ones or objects alone.
    pub nodes: usize,
    /// Pods of all Deployments together.
    pub pods: usize,
    /// Deployments that share them.
    pub deployments: usize,
    /// Repetitions.
    pub runs: usize,
    /// Pods that are started one after the other, …
    pub starts: usize,
    /// … and that are deleted so, in one run.
    pub deletions: usize,
    /// Of the Deployment among whose pods one is deleted.
    pub replicas: [usize; 2],
    /// Nodes that lose the hub.
    pub away_nodes: usize,
    /// For how long they do: within the grace of their Leases and, at full size, beyond it.
    pub away: &'static [Duration],
}

const FULL: Size = Size {
    nodes: 1000,
    pods: 10_000,
    deployments: 10,
    runs: 3,
    starts: 200,
    deletions: 120,
    replicas: [1000, 10_000],
    away_nodes: 5000,
    away: &[Duration::from_secs(30), Duration::from_secs(60)],
};
/// Enough to see that all of it works.
const SMALL: Size = Size {
    nodes: 20,
    pods: 200,
    deployments: 4,
    runs: 1,
    starts: 10,
    deletions: 5,
    replicas: [50, 200],
    away_nodes: 40,
    away: &[Duration::from_secs(5)],
};

/// What every group has.
pub struct Bench {
    /// What was measured so far.
    pub report: Report,
    /// How much is measured.
    pub size: Size,
}

type Group = fn(&mut Bench) -> Result<()>;

const GROUPS: [(&str, Group); 5] = [
    ("bind", bind::bind),
    ("running", running::running),
    ("start", start::start),
    ("replace", replace::replace),
    ("away", away::away),
];

fn main() -> Result<()> {
    testkit::hollow::lift_descriptor_limit();
    let (mut out, mut size, mut only, mut args) = (None, FULL, None, std::env::args().skip(1));
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--small" => size = SMALL,
            "--only" => only = Some(args.next().context("--only needs names")?),
            _ if out.is_none() && !arg.starts_with('-') => out = Some(PathBuf::from(arg)),
            other => bail!("`{other}` is no argument; there are DIRECTORY, --small and --only NAME,…"),
        }
    }
    let out = out.context("usage: bench-workloads DIRECTORY [--small] [--only NAME,…]")?;
    let names: Vec<&str> = only.as_deref().map(|names| names.split(',').collect()).unwrap_or_default();
    if let Some(name) = names.iter().find(|name| GROUPS.iter().all(|(group, _)| group != *name)) {
        bail!("`{name}` is no group; there are {:?}", GROUPS.map(|(name, _)| name));
    }
    let mut bench = Bench { report: Report::new("workloads", PREAMBLE), size };
    for (name, measure) in GROUPS {
        if only.is_none() || names.contains(&name) {
            println!("── {name}");
            measure(&mut bench).with_context(|| format!("failed to measure {name}"))?;
        }
    }
    // Some groups, or a smoke run, are no report.
    if only.is_none() && size.nodes == FULL.nodes { bench.report.write(&out) } else { Ok(()) }
}
