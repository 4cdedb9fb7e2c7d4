//! One pod after the other, from its creation to the moment at which a watcher sees it Running on a hollow node that the scheduler chose.

use anyhow::Result;
use selvedge_tests::figures::Report;
use selvedge_tests::hub::Hub;
use selvedge_tests::starts::created_to_running;
use serde_json::json;

use crate::{Bench, load};

/// Milliseconds of each.
///
/// # Errors
/// When one does not become Running.
pub fn measure(hub: &Hub, count: usize) -> Result<Vec<f64>> {
    // The first one finds nothing in any cache.
    let pods = (0..=count).map(|number| {
        let mut spec = load::pod_spec();
        spec["terminationGracePeriodSeconds"] = 0.into();
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("one-{number}")}, "spec": spec})
    });
    let runs = hub.runtime.block_on(created_to_running(&hub.admin, pods.collect()))?;
    Ok(runs.into_iter().skip(1).collect())
}

/// Adds the value in the middle, and the one that one in a hundred is above.
pub fn add(report: &mut Report, what: &str, mut runs: Vec<f64>) {
    runs.sort_by(f64::total_cmp);
    let p99 = runs[runs.len() * 99 / 100];
    report.add(format!("created to Running seen, one pod, {what}, p50"), "ms", runs, Some("≤ 20"), None);
    report.add(format!("created to Running seen, one pod, {what}, p99"), "ms", vec![p99], Some("≤ 100"), None);
}

pub fn start(bench: &mut Bench) -> Result<()> {
    let hub = Hub::start()?;
    let _fleet = hub.hollow(bench.size.nodes, &[])?;
    hub.settle();
    let runs = measure(&hub, bench.size.starts)?;
    add(&mut bench.report, &format!("{} hollow nodes", bench.size.nodes), runs);
    Ok(())
}
