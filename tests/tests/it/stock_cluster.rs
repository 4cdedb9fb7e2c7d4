//! A node and its assignment on a cluster with a stock control plane that has our manifests.

use anyhow::{Context as _, Result, ensure};
use testkit::apiserver::KubeApiserver;
use testkit::kubectl::Kubectl;

use crate::common::root;

/// What the node `gw-1` may, as whoever plays it: by its own name alone, and the names of the parts of its assignment.
fn check(kubectl: &Kubectl) -> Result<()> {
    for (name, node) in [("gw-1", "gw-1"), ("gw-1.part-1", "gw-1"), ("gw-10", "gw-10")] {
        let labels = format!("{}: {node}", "selvedge.dev/node");
        kubectl
            .apply(&format!(
                "apiVersion: edge.selvedge.dev/v1alpha1\nkind: NodeAssignment\nmetadata: {{ name: {name}, labels: {{ {labels} }} }}\n\
                 spec: {{ nodeName: {node}, part: 0, parts: 1, entries: [] }}\n"
            ))?
            .ok()?;
    }
    let as_node = |args: &[&str]| {
        let who = ["--as", "system:node:gw-1", "--as-group", "system:nodes", "--as-group", "system:authenticated"];
        kubectl.run(&[&who, args].concat())
    };
    let base = "/apis/edge.selvedge.dev/v1alpha1/nodeassignments";
    for (path, may) in [
        ("?fieldSelector=metadata.name%3Dgw-1", true),
        ("?fieldSelector=metadata.name%3Dgw-1.part-1", true),
        ("?fieldSelector=metadata.name%3Dgw-1&watch=true&timeoutSeconds=1", true),
        ("/gw-1", true),
        ("/gw-1.part-1", true),
        ("", false),
        ("?watch=true&timeoutSeconds=1", false),
        ("?fieldSelector=metadata.name%3Dgw-10", false),
        ("?fieldSelector=metadata.name%3Dgw-10&watch=true&timeoutSeconds=1", false),
        ("/gw-10", false),
    ] {
        let found = as_node(&["get", "--raw", &format!("{base}{path}")])?;
        match may {
            true => {
                let text = found.ok().with_context(|| path.to_owned())?;
                ensure!(text.contains("gw-1") && !text.contains("gw-10"), "{path}: {text}");
            }
            false => {
                let text = found.refused().with_context(|| path.to_owned())?;
                ensure!(text.contains("Forbidden"), "{path}: {text}");
            }
        }
    }
    let patch = r#"{"status":{"observedGeneration":1,"entries":[]}}"#;
    for (name, may) in [("gw-1", true), ("gw-1.part-1", true), ("gw-10", false)] {
        let args = ["patch", "nodeassignment", name, "--subresource", "status", "--type", "merge", "-p", patch];
        let written = as_node(&args)?;
        match may {
            true => drop(written.ok()?),
            false => ensure!(written.refused()?.contains("Forbidden"), "{name}"),
        }
    }
    let meddling =
        as_node(&["patch", "nodeassignment", "gw-1", "--type", "merge", "-p", r#"{"spec":{"entries":[]}}"#])?;
    ensure!(meddling.refused()?.contains("Forbidden"));
    Ok(())
}

#[test]
fn a_node_follows_its_assignment_by_name_on_a_stock_cluster() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let Some(cluster) = KubeApiserver::start(dir.path())? else { return Ok(()) };
    let Some(kubectl) = Kubectl::newest(&cluster.kubeconfig()) else { return Ok(()) };
    let manifests = root().join("examples/stock-cluster");
    for name in ["10-kinds.yaml", "20-classes.yaml", "30-join.yaml"] {
        kubectl.ok(&["apply", "-f", &manifests.join(name).display().to_string()])?;
    }
    let of_node = std::fs::read_to_string(manifests.join("40-node.yaml"))?;
    kubectl.apply(&of_node.replace("${NODE_NAME}", "gw-1"))?.ok()?;
    kubectl.ok(&[
        "wait",
        "--for",
        "condition=Established",
        "crd/nodeassignments.edge.selvedge.dev",
        "--timeout",
        "30s",
    ])?;
    check(&kubectl)
}
