//! What `selvedge up` says of itself: where things are, and when they work.

use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::Api;
use kube::runtime::wait::await_condition;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::hub::Hub;
use crate::paths::DataDir;

/// What runs where, and what to try next: five lines.
pub(super) fn greet(data_dir: &DataDir, hub: &Hub, node: &str) {
    let kubeconfig = data_dir.kubeconfig();
    println!(
        "selvedge: hub   {} (Kubernetes {}), state in {}",
        hub.url,
        api_edge::KUBERNETES_VERSION,
        data_dir.path().display()
    );
    println!("selvedge: node  {node}, runs pods of images, and of the classes selvedge-process and selvedge-wasm");
    println!(
        "selvedge: edge  devices, rules and export of {node}; see `selvedge status --data-dir {}`",
        data_dir.path().display()
    );
    println!("selvedge: try   export KUBECONFIG={}; kubectl get nodes,pods,devices,rules", kubeconfig.display());
    println!("selvedge: try   kubectl label node {node} selvedge.dev/role=gateway; Ctrl-C stops everything");
}

/// Says in the log when the node is Ready and when the first reading has arrived.
pub(super) async fn log_milestones(
    client: kube::Client,
    telemetry: hub_telemetry::Telemetry,
    node: String,
    stopping: CancellationToken,
) {
    let both = async {
        match is_ready(&client, &node).await {
            Ok(()) => info!("node {node} is Ready"),
            Err(error) => warn!("Failed to wait for node {node}: {error:#}"),
        }
        // The store of readings has no news channel; this ends with the first one.
        let mut look = tokio::time::interval(Duration::from_millis(50));
        let empty = telemetry.usage().bytes;
        while telemetry.usage().bytes == empty {
            look.tick().await;
        }
        info!("first reading stored");
    };
    tokio::select! {
        () = stopping.cancelled() => {}
        () = both => {}
    }
}

/// Waits until a node is Ready.
pub(super) async fn is_ready(client: &kube::Client, node: &str) -> Result<()> {
    let nodes: Api<NodeObject> = Api::all(client.clone());
    let ready = |node: Option<&NodeObject>| {
        let conditions = node.and_then(|node| node.status.as_ref()?.conditions.as_ref());
        conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    await_condition(nodes, node, ready).await.context("failed to watch the node").map(|_| ())
}
