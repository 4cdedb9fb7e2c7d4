//! Every node loses the hub at once, and all come back at once. People look at it with kubectl meanwhile.
//!
//! The first time is within the grace of the leases. The second is beyond it: every node is noted as out of reach, and its pods are left
//! alone all the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use selvedge_tests::hub::{Hub, PATIENCE};
use selvedge_tests::site::milliseconds;
use testkit::kubectl::Kubectl;
use testkit::process;
use testkit::wait::eventually;

use crate::{Bench, Size, load};

/// Between two commands: kubectl itself takes the cores that hub and nodes need.
const PAUSE: Duration = Duration::from_millis(100);
/// What people look at.
const COMMANDS: [&[&str]; 3] = [
    &["get", "deployments"],
    &["get", "node", "hollow-7"],
    &["get", "pods", "-A", "--field-selector", "spec.nodeName=hollow-7", "-o", "wide"],
];

/// How kubectl fared.
#[derive(Default)]
struct Seen {
    /// Milliseconds of each command.
    times: Vec<f64>,
    /// What those said that failed.
    failures: Vec<String>,
}

/// Runs kubectl over and over.
struct Looking {
    is_over: Arc<AtomicBool>,
    seen: JoinHandle<Seen>,
}

impl Looking {
    fn start(kubectl: Kubectl) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let seen = std::thread::spawn({
            let is_over = is_over.clone();
            move || {
                let mut seen = Seen::default();
                for command in COMMANDS.iter().cycle() {
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    let begin = Instant::now();
                    seen.failures.extend(kubectl.ok(command).err().map(|error| format!("{error:#}")));
                    seen.times.push(milliseconds(begin.elapsed()));
                    std::thread::sleep(PAUSE);
                }
                seen
            }
        });
        Self { is_over, seen }
    }

    fn stop(self) -> Result<Seen> {
        self.is_over.store(true, Ordering::Relaxed);
        self.seen.join().ok().context("who runs kubectl ended badly")
    }
}

/// Waits until no node is tainted.
fn wait_reachable(hub: &Hub) -> Result<()> {
    eventually("nodes within reach", PATIENCE, || {
        let mut away = 0;
        let look = load::for_each(hub, "/api/v1/nodes", |node| {
            away += usize::from(node["spec"]["taints"].as_array().is_some_and(|taints| !taints.is_empty()));
            Ok(())
        });
        look.map_err(|error| format!("{error:#}"))?;
        if away == 0 { Ok(()) } else { Err(format!("{away} are tainted")) }
    })
}

pub fn away(bench: &mut Bench) -> Result<()> {
    let Size { away_nodes: nodes, away, deployments, .. } = bench.size;
    let hub = Hub::start()?;
    let Some(kubectl) = Kubectl::newest(&hub.kubeconfig()) else {
        bench.report.note("nodes that lose the hub: there is no kubectl");
        return Ok(());
    };
    let begin = Instant::now();
    let mut fleet = hub.hollow(nodes, &[])?;
    bench.report.add(format!("{nodes} hollow nodes join"), "s", vec![begin.elapsed().as_secs_f64()], None, None);
    load::create(&hub, deployments, nodes)?;
    fleet.wait_running(nodes as u64, PATIENCE)?;
    load::wait_rolled_out(&hub)?;
    hub.settle();
    let pods = load::uids(&hub)?;
    ensure!(pods.len() == nodes, "{} of {nodes} pods are there", pods.len());
    // What kubectl keeps of a first run is there.
    COMMANDS.iter().try_for_each(|command| kubectl.ok(command).map(drop))?;
    for time in away {
        let (cpu, of_fleet) = (hub.cpu(), process::cpu_seconds(fleet.pid()));
        let looking = Looking::start(kubectl.clone());
        fleet.ask("pause")?;
        std::thread::sleep(*time);
        let begin = Instant::now();
        fleet.ask("resume")?;
        fleet.wait_following(PATIENCE)?;
        let back = begin.elapsed().as_secs_f64();
        wait_reachable(&hub)?;
        load::wait_rolled_out(&hub)?;
        let settled = begin.elapsed().as_secs_f64();
        let Seen { mut times, failures } = looking.stop()?;
        times.sort_by(f64::total_cmp);
        let replaced = pods.difference(&load::uids(&hub)?).count();
        let what = format!("{nodes} nodes are away for {} s", time.as_secs());
        let report = &mut bench.report;
        report.add(format!("pods replaced, {what}"), "pods", vec![replaced as f64], Some("0"), None);
        let p99 = times[times.len() * 99 / 100];
        report.add(format!("kubectl get throughout, {what}, p50"), "ms", times, None, None);
        report.add(format!("kubectl get throughout, {what}, p99"), "ms", vec![p99], Some("≤ 1000"), None);
        for failure in &failures {
            println!("{failure}");
        }
        report.add(
            format!("kubectl get that failed, {what}"),
            "commands",
            vec![failures.len() as f64],
            Some("0"),
            None,
        );
        report.add(format!("until all watch again, {what}"), "s", vec![back], Some("≤ 30"), None);
        report.add(format!("until all is as it was before, {what}"), "s", vec![settled], None, None);
        report.add(format!("CPU of the hub, {what}"), "s", vec![hub.cpu() - cpu], None, None);
        let of_fleet = process::cpu_seconds(fleet.pid()) - of_fleet;
        report.add(format!("CPU of the hollow nodes, {what}"), "s", vec![of_fleet], None, None);
        hub.settle();
    }
    let rss = process::memory(hub.program.pid()).context("the hub runs")?.rss_kib as f64 * 1024.0 / 1e6;
    bench.report.add(format!("RSS of the hub then, {nodes} nodes and as many pods"), "MB", vec![rss], None, None);
    let faults = fleet.faults()?;
    ensure!(faults.is_empty(), "hollow nodes found faults: {faults:#?}");
    Ok(())
}
