//! Container pods of a hub and a node: how fast they start and come back, and what they take.

use std::time::{Duration, Instant};

use anyhow::Result;
use selvedge_tests::figures::Peer;
use selvedge_tests::site::{Site, milliseconds};
use selvedge_tests::starts::created_to_running;
use testkit::process;

use crate::containerd::Containerd;
use crate::{Bench, p99};

/// How long an agent is left alone before its memory is looked at.
const REST: Duration = Duration::from_secs(10);

/// From a pod's creation at the hub to Running, as a watcher sees it.
pub fn hub(bench: &mut Bench) -> Result<()> {
    let count = bench.size.pods;
    let dir = tempfile::tempdir()?;
    let theirs = match Containerd::start(bench, dir.path())? {
        Some(containerd) => containerd.cri("pods", count)?.whole(),
        None => Vec::new(),
    };
    let site = Site::start_containers(&bench.image)?;
    let pods = (0..=count).map(|number| site.pod(number)).collect();
    // The first one finds nothing in any cache.
    let runs = site.runtime.block_on(created_to_running(&site.access, pods))?.split_off(1);
    let peer = |values: Vec<f64>| Peer::new("containerd, its pod alone by CRI", values);
    let figure = "pod created at the hub to Running seen there";
    bench.report.add_beside(format!("{figure}, p50"), "ms", runs.clone(), Some("≤ 40"), peer(theirs.clone()));
    bench.report.add_beside(format!("{figure}, p99"), "ms", p99(&runs), Some("≤ 80"), peer(p99(&theirs)));
    Ok(())
}

/// Everything is killed while there is no hub.
pub fn back(bench: &mut Bench) -> Result<()> {
    let mut site = Site::start_containers(&bench.image)?;
    let mut created = 0;
    for (pods, limit) in [(10, "≤ 500"), (40, "≤ 1200")] {
        site.create((created..pods).map(|number| site.pod(number)))?;
        created = pods;
        site.wait_programs(0..pods, Instant::now())?;
        site.wait_shown(pods)?;
        // Frozen, it answers nobody; the next size needs it again.
        site.hub.freeze();
        let mut runs = Vec::new();
        for _ in 0..bench.size.runs {
            site.kill_all(0..pods)?;
            let start = Instant::now();
            site.node.start_again("ephemeral")?;
            runs.push(milliseconds(site.wait_programs(0..pods, start)?));
        }
        bench.report.add(format!("all killed, no hub: {pods} container pods run"), "ms", runs, Some(limit), None);
        site.hub.thaw();
        site.wait_shown(pods)?;
    }
    Ok(())
}

fn pss_mb(pids: &[u32]) -> f64 {
    pids.iter().filter_map(|pid| process::memory(*pid)).map(|memory| memory.pss_kib as f64 / 1000.0 * 1.024).sum()
}

const SIZES: [(usize, &str); 3] = [(0, "≤ 12"), (10, "≤ 20"), (40, "≤ 40")];

/// PSS of what is there for pods, and not of their programs.
pub fn memory(bench: &mut Bench) -> Result<()> {
    let theirs = memory_of_containerd(bench)?;
    let site = Site::start_containers(&bench.image)?;
    let mut created = 0;
    for (index, (pods, limit)) in SIZES.into_iter().enumerate() {
        site.create((created..pods).map(|number| site.pod(number)))?;
        created = pods;
        site.wait_shown(pods)?;
        std::thread::sleep(REST);
        let (agent, shims) = (pss_mb(&[site.node.pid()]), pss_mb(&site.keepers(0..pods)));
        let peer = theirs.get(index).map(|value| vec![*value]).unwrap_or_default();
        let peer = Peer::new("containerd, its shims and pauses, no kubelet", peer);
        let figure = format!("PSS of agent and shims, {pods} container pods");
        bench.report.add_beside(figure, "MB", vec![agent + shims], Some(limit), peer);
        if pods > 0 {
            let figure = format!("of it each shim, {pods} container pods");
            bench.report.add(figure, "MB", vec![shims / pods as f64], Some("≤ 0.5"), None);
        }
    }
    Ok(())
}

fn memory_of_containerd(bench: &mut Bench) -> Result<Vec<f64>> {
    let dir = tempfile::tempdir()?;
    let Some(containerd) = Containerd::start(bench, dir.path())? else { return Ok(Vec::new()) };
    let mut measured = Vec::new();
    for (pods, _) in SIZES {
        // One client for each size: ports of the node are numbered from the first on by each.
        containerd.cri("drop", 0)?;
        containerd.cri("hold", pods)?;
        std::thread::sleep(REST);
        let mut all = containerd.keepers();
        all.push(containerd.pid());
        measured.push(pss_mb(&all));
    }
    Ok(measured)
}
