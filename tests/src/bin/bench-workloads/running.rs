//! Deployments on hollow nodes: until all their pods are Running, through a rolling update of all, and the memory after it.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use selvedge_tests::hub::{Hub, PATIENCE};
use serde_json::json;
use testkit::hollow::Fleet;
use testkit::process;

use crate::load::{self, DEPLOYMENTS, PODS};
use crate::scrape::Scheduler;
use crate::{Bench, start};

/// Bytes as the limit has them.
fn megabytes(kib: u64) -> f64 {
    kib as f64 * 1024.0 / 1e6
}

fn scheduler(hub: &Hub) -> Result<Scheduler> {
    Scheduler::parse(&hub.metrics()?)
}

/// A rolling update of all Deployments at once; seconds, and the hub's largest memory meanwhile, in MB.
fn update_all(hub: &Hub, fleet: &mut Fleet, deployments: usize, pods: usize) -> Result<(f64, f64)> {
    let before = load::uids(hub)?;
    let begin = Instant::now();
    let patch = json!({"spec": {"template": {"metadata": {"annotations": {"example.com/version": "two"}}}}});
    load::names(deployments).try_for_each(|name| hub.merge(&format!("{DEPLOYMENTS}/{name}"), &patch))?;
    let pid = hub.program.pid();
    let (stop_tx, stop) = std::sync::mpsc::channel::<()>();
    let watching = std::thread::spawn(move || {
        let mut peak = 0;
        while let Err(std::sync::mpsc::RecvTimeoutError::Timeout) =
            stop.recv_timeout(std::time::Duration::from_millis(100))
        {
            peak = peak.max(process::memory(pid).map_or(0, |memory| memory.rss_kib));
        }
        peak
    });
    load::wait_rolled_out(hub)?;
    fleet.wait_running(pods as u64, PATIENCE)?;
    let took = begin.elapsed().as_secs_f64();
    drop(stop_tx);
    let peak = watching.join().ok().context("who watches the memory ended badly")?;
    ensure!(load::uids(hub)?.is_disjoint(&before), "pods of the first template are left");
    Ok((took, megabytes(peak)))
}

pub fn running(bench: &mut Bench) -> Result<()> {
    let size = bench.size;
    let (nodes, pods, deployments) = (size.nodes, size.pods, size.deployments);
    let hub = Hub::start()?;
    let mut fleet = hub.hollow(nodes, &[])?;
    let (mut rates, mut hub_cpu, mut fleet_cpu, mut decisions) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for run in 0..size.runs {
        let (before, cpu, of_fleet) = (scheduler(&hub)?, hub.cpu(), process::cpu_seconds(fleet.pid()));
        let begin = Instant::now();
        load::create(&hub, deployments, pods)?;
        fleet.wait_running(pods as u64, PATIENCE)?;
        rates.push(pods as f64 / begin.elapsed().as_secs_f64());
        hub_cpu.push((hub.cpu() - cpu) * 1e6 / pods as f64);
        fleet_cpu.push((process::cpu_seconds(fleet.pid()) - of_fleet) * 1e6 / pods as f64);
        decisions.push(scheduler(&hub)?.decision_ms(&before, 0.99).context("pods were bound without a decision")?);
        load::wait_rolled_out(&hub)?;
        if run == 0 {
            measure_update(bench, &hub, &mut fleet)?;
        }
        load::delete(&hub, deployments)?;
        fleet.wait_running(0, PATIENCE)?;
        hub.settle();
    }
    let faults = fleet.faults()?;
    ensure!(faults.is_empty(), "hollow nodes found faults: {faults:#?}");
    let report = &mut bench.report;
    let what = format!("{pods} pods of {deployments} Deployments, {nodes} hollow nodes");
    report.add(format!("pods Running, {what}"), "1/s", rates, Some("≥ 1000"), None);
    report.add(format!("a decision, {what}, p99"), "ms", decisions, Some("≤ 5"), None);
    report.add(format!("CPU of the hub for one of them, {what}"), "µs", hub_cpu, None, None);
    report.add(format!("CPU of the hollow nodes for one of them, {what}"), "µs", fleet_cpu, None, None);
    Ok(())
}

fn measure_update(bench: &mut Bench, hub: &Hub, fleet: &mut Fleet) -> Result<()> {
    let size = bench.size;
    let (nodes, pods) = (size.nodes, size.pods);
    hub.settle();
    let rss = |hub: &Hub| process::memory(hub.program.pid()).map(|memory| memory.rss_kib).context("the hub runs");
    let what = format!("{pods} pods, {nodes} hollow nodes");
    bench.report.add(format!("RSS of the hub, {what}"), "MB", vec![megabytes(rss(hub)?)], None, None);
    let (took, peak) = update_all(hub, fleet, size.deployments, pods)?;
    hub.settle();
    let after = megabytes(rss(hub)?);
    let report = &mut bench.report;
    report.add(format!("rolling update of all, {what}"), "s", vec![took], None, None);
    report.add(format!("RSS of the hub at most meanwhile, {what}"), "MB", vec![peak], None, None);
    report.add(format!("RSS of the hub after it, {what}"), "MB", vec![after], Some("≤ 180"), None);
    let page = hub.metrics()?;
    for (figure, name) in [
        ("objects as they are stored", "selvedge_store_object_bytes"),
        ("what finds them", "selvedge_store_index_bytes"),
        ("the watch cache window", "selvedge_store_window_bytes"),
    ] {
        let bytes = testkit::wire::figure(&page, name)?;
        report.add(format!("of that {figure}, {what}"), "MB", vec![bytes / 1e6], None, None);
    }
    let events = events(hub)?;
    report.add(format!("Events that are there then, {what}"), "Events", vec![events], None, None);
    let runs = start::measure(hub, size.starts)?;
    start::add(report, &format!("beside {what}"), runs);
    ensure!(load::uids(hub)?.len() == pods, "pods are left or missing under {PODS}");
    Ok(())
}

fn events(hub: &Hub) -> Result<f64> {
    let mut count = 0_u32;
    load::for_each(hub, "/api/v1/namespaces/default/events", |_| {
        count += 1;
        Ok(())
    })?;
    Ok(f64::from(count))
}
