//! From a pod's creation to the moment at which a watcher sees it Running.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use selvedge_tests::figures::Report;
use serde_json::{Value, json};
use testkit::wire::{Connection, Lines};

use crate::site::{NODE, PODS, Site, examples, milliseconds};

const PODS_EACH: usize = 100;
/// Between two pods, so that each start is alone.
const PAUSE: Duration = Duration::from_millis(100);

pub fn start(report: &mut Report) -> Result<()> {
    let site = Site::start()?;
    let kinds: [(&str, &str, &str, Vec<Value>); 2] =
        [("process", "≤ 12", "57", pods(|number| Ok(site.pod(number)))?), ("wasm", "≤ 15", "57", pods(wasm)?)];
    for (kind, limit, before, pods) in kinds {
        // The first one compiles the module, and maps the code of this way through the agent.
        let mut runs = site.runtime.block_on(created_to_running(&site, pods))?.split_off(1);
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

async fn created_to_running(site: &Site, pods: Vec<Value>) -> Result<Vec<f64>> {
    let (writer, watcher) = (site.access.connect().await?, site.access.connect().await?);
    let mut taken = Vec::new();
    for pod in pods {
        let name = pod["metadata"]["name"].as_str().context("a name")?.to_owned();
        let list = writer.get(PODS).await?.ok()?.json();
        let since = list["metadata"]["resourceVersion"].as_str().context("a revision")?.to_owned();
        let watch = format!("{PODS}?watch=1&resourceVersion={since}&fieldSelector=metadata.name%3D{name}");
        let mut lines = watcher.watch(&watch).await?;
        let start = Instant::now();
        writer.post(PODS, &pod).await?.ok()?;
        until_running(&mut lines, &name).await?;
        taken.push(milliseconds(start.elapsed()));
        end(&writer, &mut lines, &name).await?;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(taken)
}

async fn until_running(lines: &mut Lines, name: &str) -> Result<()> {
    loop {
        let line = lines.next().await?.with_context(|| format!("the watch of {name} ended"))?;
        let event: Value = serde_json::from_slice(&line)?;
        let phase = &event["object"]["status"]["phase"];
        ensure!(phase != "Failed" && phase != "Succeeded", "{name}: {event}");
        if phase == "Running" {
            return Ok(());
        }
    }
}

async fn end(writer: &Connection, lines: &mut Lines, name: &str) -> Result<()> {
    writer.delete(&format!("{PODS}/{name}")).await?.ok()?;
    loop {
        let line = lines.next().await?.with_context(|| format!("the watch of {name} ended"))?;
        let event: Value = serde_json::from_slice(&line)?;
        if event["type"] == "DELETED" {
            return Ok(());
        }
    }
}
