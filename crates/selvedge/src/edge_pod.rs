//! The edge plane as a static pod of the node: a process of its own, with a memory limit, logs and restarts.

use anyhow::Result;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::config::NodeConfig;
use crate::node::{Node, this_program};
use crate::paths::DataDir;

/// Keeps the edge plane running as a static pod while the node is assigned anything.
pub async fn keep(node: &Node, data_dir: &DataDir, config: &NodeConfig, shutdown: CancellationToken) -> Result<()> {
    let pod = edge_pod(data_dir, config, &node.name)?;
    let mut present = node.kubelet.assignment_present();
    loop {
        let is_present = *present.borrow_and_update();
        match is_present {
            Some(true) => {
                info!("This node has devices, rules or exports: its edge plane runs as a pod.");
                node.kubelet.set_static_pods(vec![pod.clone()]).await;
            }
            Some(false) => {
                info!("This node has no devices, rules or exports yet: no edge plane is needed.");
                node.kubelet.set_static_pods(Vec::new()).await;
            }
            // What was kept cannot be read, and the hub has not said: an edge plane that runs continues to read its devices.
            None => {}
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            changed = present.changed() => if changed.is_err() { return Ok(()) },
        }
    }
}

fn edge_pod(data_dir: &DataDir, config: &NodeConfig, node_name: &str) -> Result<Value> {
    let dir = data_dir.path().to_string_lossy();
    let mut container = json!({
        "name": "edge",
        "image": format!("file://{}", this_program()?.display()),
        "args": ["edge", "--data-dir", dir, "--node-dir", dir],
        // It is a part of the node: it has the node's identity, and opens whatever device is assigned to it.
        "securityContext": {"privileged": true},
        "env": [
            {"name": "SELVEDGE_EDGE_JOURNAL_BYTES_MAX", "value": config.journal_bytes_max.to_string()},
            {"name": "SELVEDGE_EDGE_LOG", "value": config.log},
        ],
    });
    // Without root there are no control groups to set limits in, and no limit is better than no edge plane.
    if rustix::process::geteuid().is_root() {
        container["resources"] = json!({"limits": {"memory": config.edge_memory_bytes_max.to_string()}});
    }
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": format!("selvedge-edge-{node_name}"), "namespace": "kube-system", "labels": {"app": "selvedge-edge"}},
        "spec": {
            "runtimeClassName": api_edge::RUNTIME_CLASS_PROCESS,
            "hostNetwork": true,
            "terminationGracePeriodSeconds": config.shutdown_grace_seconds,
            "containers": [container],
        },
    }))
}
