//! What is left after many container pods came and went.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use selvedge_tests::site::{Site, until};
use testkit::process;

use crate::Bench;

/// Pods that come and go together.
const BATCH: usize = 20;
const REST: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(60);

/// Counts of what pods have of the kernel and the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    namespaces: usize,
    mounts: usize,
    links: usize,
    rules: usize,
    files: usize,
}

impl Held {
    fn of(site: &Site) -> Result<Self> {
        let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", site.node.pid()))?;
        let links = std::fs::read_to_string("/proc/self/net/dev")?;
        let rules = Command::new("nft").args(["list", "table", "ip", "selvedge"]).output().context("nft is needed")?;
        ensure!(rules.status.success(), "{}", String::from_utf8_lossy(&rules.stderr));
        Ok(Self {
            namespaces: mounts.lines().filter(|line| line.contains(" - nsfs ")).count(),
            mounts: mounts.lines().count(),
            links: links.lines().count(),
            rules: String::from_utf8_lossy(&rules.stdout).lines().count(),
            files: files(site.node.data_dir()) + files(Path::new("/run/selvedge")),
        })
    }

    fn named(self) -> [(&'static str, usize); 5] {
        [
            ("pinned namespaces", self.namespaces),
            ("mounts", self.mounts),
            ("links", self.links),
            ("rules", self.rules),
            ("files", self.files),
        ]
    }
}

fn files(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| 1 + if entry.file_type().is_ok_and(|kind| kind.is_dir()) { files(&entry.path()) } else { 0 })
        .sum()
}

pub fn cycles(bench: &mut Bench) -> Result<()> {
    let cycles = bench.size.cycles;
    let warm_at = (cycles / 5).next_multiple_of(BATCH);
    let site = Site::start_containers(&bench.image)?;
    let anonymous_mb = || -> Result<f64> {
        std::thread::sleep(REST);
        let memory = process::memory(site.node.pid()).context("the agent runs")?;
        Ok(memory.anonymous_kib as f64 * 1.024 / 1000.0)
    };
    let mut warm = None;
    for first in (0..cycles).step_by(BATCH) {
        let numbers = first..first + BATCH;
        site.create(numbers.clone().map(|number| site.pod(number)))?;
        site.wait_shown(BATCH)?;
        site.delete(numbers.clone())?;
        if numbers.end == warm_at {
            warm = Some((anonymous_mb()?, Held::of(&site)?));
        }
    }
    let (warm_mb, held) = warm.context("there are more cycles than that")?;
    let growth = anonymous_mb()? - warm_mb;
    let report = &mut bench.report;
    report.add(format!("anonymous memory of the agent after {warm_at} cycles"), "MB", vec![warm_mb], None, None);
    let figure = format!("growth of it by {} cycles more", cycles.next_multiple_of(BATCH) - warm_at);
    report.add(figure, "MB", vec![growth], Some("≤ 1"), None);
    // A veth is deleted by the kernel when it comes to it.
    let start = std::time::Instant::now();
    let mut last = held;
    let _ = until("nothing left", start, PATIENCE, || {
        last = Held::of(&site).map_err(|error| format!("{error:#}"))?;
        let is_clean = last.named().iter().zip(held.named()).all(|((_, now), (_, before))| *now <= before);
        if is_clean { Ok(()) } else { Err(format!("{held:?} before, {last:?} now")) }
    })
    .inspect_err(|error| eprintln!("{error:#}"));
    for ((what, now), (_, before)) in last.named().into_iter().zip(held.named()) {
        report.add(format!("{what} more after the cycles"), "", vec![now as f64 - before as f64], Some("≤ 0"), None);
    }
    Ok(())
}
