//! What the hub shows of a pod is what is so on the node, whoever else writes it and however often the kubelet starts.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use testkit::wait::eventually;

use super::{PATIENCE, PODS, Site};
use crate::common::condition;

#[test]
fn a_status_that_another_has_written_is_corrected() -> Result<()> {
    let site = Site::start()?;
    site.create_pods(0..1)?;
    site.wait_shown(0..1, PATIENCE)?;
    let lie = json!({"status": {"phase": "Pending", "conditions": [], "containerStatuses": []}});
    site.api.patch(&format!("{PODS}/p0/status"), &lie)?;
    site.wait_shown(0..1, Duration::from_secs(15))?;
    eventually("a running phase", Duration::from_secs(15), || {
        let pod = site.api.get(&format!("{PODS}/p0")).map_err(|error| error.to_string())?;
        if pod["status"]["phase"] == "Running" { Ok(()) } else { Err(pod["status"].to_string()) }
    })
}

#[test]
fn a_start_of_the_agent_leaves_a_ready_pod_ready() -> Result<()> {
    let mut site = Site::start()?;
    let probes = site.dir.path().join("probes");
    let mut pod = site.pod(0);
    let append = format!("echo probe >> {}", probes.display());
    pod["spec"]["containers"][0]["readinessProbe"] = json!({
        "exec": {"command": ["/bin/sh", "-c", append]}, "initialDelaySeconds": 2, "periodSeconds": 1,
    });
    site.api.create(PODS, &pod)?;
    site.wait_shown(0..1, PATIENCE)?;
    let shown = site.api.get(&format!("{PODS}/p0"))?;
    let since = |pod: &serde_json::Value| condition(pod, "Ready").map(|ready| ready["lastTransitionTime"].clone());
    site.node.kill();
    let probed = || std::fs::read_to_string(&probes).unwrap_or_default().lines().count();
    let before = probed();
    site.node.start_again("ephemeral")?;
    eventually("two probes of the new agent", PATIENCE, || {
        let now = site.api.get(&format!("{PODS}/p0")).map_err(|error| error.to_string())?;
        let ready = condition(&now, "Ready");
        // Had it been otherwise for a moment, the transition would be a later one, too.
        if since(&now) != since(&shown) {
            return Ok(Err(anyhow::anyhow!("{ready:?} after {:?}", condition(&shown, "Ready"))));
        }
        if probed() >= before + 2 { Ok(Ok(())) } else { Err(format!("{} probes", probed() - before)) }
    })??;
    site.wait_shown(0..1, PATIENCE)
}

#[test]
fn a_changed_image_restarts_the_container() -> Result<()> {
    let site = Site::start()?;
    site.create_pods(0..2)?;
    let before = site.wait_programs(0..2, PATIENCE)?;
    site.wait_shown(0..2, PATIENCE)?;
    let image = "file:///usr/bin/sleep";
    let patch = json!({"spec": {"containers": [{"name": "main", "image": image}]}});
    site.api.patch_strategic(&format!("{PODS}/p0"), &patch)?;
    let pod = eventually("another container", PATIENCE, || {
        let pod = site.api.get(&format!("{PODS}/p0")).map_err(|error| error.to_string())?;
        let status = &pod["status"]["containerStatuses"][0];
        let is_new = status["restartCount"] == 1 && status["image"] == image && status["state"]["running"].is_object();
        if is_new { Ok(pod) } else { Err(status.to_string()) }
    })?;
    let after = site.wait_programs(0..2, PATIENCE)?;
    ensure!(after[0] != before[0] && after[1] == before[1], "{before:?} became {after:?}: {pod}");
    Ok(())
}
