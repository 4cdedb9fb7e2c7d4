//! What the hub shows of a pod is what is so on the node, whoever else writes it and however often the kubelet starts.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use testkit::wait::eventually;

use super::{PATIENCE, PODS, Site};

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
