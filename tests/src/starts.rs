//! From a pod's creation to the moment at which a watcher sees it Running.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use testkit::wire::{Access, Connection, Lines};

use crate::site::{PODS, milliseconds};

/// Between two pods, so that each start is alone.
const PAUSE: Duration = Duration::from_millis(100);

/// Creates these pods one after the other, and deletes each before the next; milliseconds of each.
///
/// # Errors
/// When one does not become Running.
pub async fn created_to_running(access: &Access, pods: Vec<Value>) -> Result<Vec<f64>> {
    let (writer, watcher) = (access.connect().await?, access.connect().await?);
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
