//! From a pod's creation to the moment at which a watcher sees it Running.

use anyhow::Result;
use selvedge_tests::figures::Report;
use selvedge_tests::site::{NODE, Site, examples};
use selvedge_tests::starts::created_to_running;
use serde_json::{Value, json};

const PODS_EACH: usize = 100;

pub fn start(report: &mut Report) -> Result<()> {
    let site = Site::start()?;
    let kinds: [(&str, &str, &str, Vec<Value>); 2] =
        [("process", "≤ 12", "57", pods(|number| Ok(site.pod(number)))?), ("wasm", "≤ 15", "57", pods(wasm)?)];
    for (kind, limit, before, pods) in kinds {
        // The first one compiles the module, and maps the code of this way through the agent.
        let mut runs = site.runtime.block_on(created_to_running(&site.access, pods))?.split_off(1);
        runs.sort_by(f64::total_cmp);
        let p99 = runs[runs.len() * 99 / 100];
        report.add(format!("created to Running seen, {kind}, p50"), "ms", runs, Some(limit), Some(before));
        report.add(format!("created to Running seen, {kind}, p99"), "ms", vec![p99], Some("≤ 30"), None);
    }
    Ok(())
}

fn pods(of: impl Fn(usize) -> Result<Value>) -> Result<Vec<Value>> {
    (0..PODS_EACH).map(of).collect()
}

fn wasm(number: usize) -> Result<Value> {
    let image = format!("file://{}", examples()?.join("first-light/images/heartbeat.wasm").display());
    Ok(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("w{number}")},
        "spec": {
            "nodeName": NODE, "runtimeClassName": "selvedge-wasm", "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": false, "containers": [{"name": "main", "image": image}],
        },
    }))
}
