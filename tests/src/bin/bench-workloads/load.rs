//! Deployments whose pods cost nothing but what the hub does for them.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use selvedge_tests::hub::{Hub, PATIENCE};
use serde_json::{Value, json};
use testkit::wait::eventually;

/// Where pods are.
pub const PODS: &str = "/api/v1/namespaces/default/pods";
/// Where Deployments are.
pub const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
/// Objects in a page of a list.
const PAGE: usize = 500;

/// A pod's spec: requests small enough for any number of pods that a node takes.
pub fn pod_spec() -> Value {
    json!({
        "containers": [{
            "name": "main", "image": "registry.example.com/app:1", "args": ["3600"],
            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
            "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
        }],
    })
}

/// A Deployment with the strategy that it has by default.
pub fn deployment(name: &str, replicas: usize) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": pod_spec()},
        },
    })
}

/// Names of so many.
pub fn names(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|number| format!("app-{number}"))
}

/// Creates so many Deployments which share so many pods.
///
/// # Errors
/// When the hub rejects one.
pub fn create(hub: &Hub, count: usize, pods: usize) -> Result<()> {
    ensure!(pods.is_multiple_of(count), "{count} Deployments do not share {pods} pods");
    names(count).try_for_each(|name| hub.create(DEPLOYMENTS, &deployment(&name, pods / count)))
}

/// Deletes them; their pods follow.
///
/// # Errors
/// When the hub rejects it.
pub fn delete(hub: &Hub, count: usize) -> Result<()> {
    names(count).try_for_each(|name| hub.delete(&format!("{DEPLOYMENTS}/{name}")))
}

/// Waits until every Deployment says that all its pods are of the newest template and available.
///
/// # Errors
/// With the last status, when that does not happen.
pub fn wait_rolled_out(hub: &Hub) -> Result<()> {
    eventually("rollout of every Deployment", PATIENCE, || {
        let list = hub.get(DEPLOYMENTS).map_err(|error| format!("{error:#}"))?;
        for one in list["items"].as_array().into_iter().flatten() {
            let (replicas, status) = (&one["spec"]["replicas"], &one["status"]);
            let is_seen = status["observedGeneration"] == one["metadata"]["generation"];
            let counts = ["replicas", "updatedReplicas", "availableReplicas"];
            if !is_seen || counts.iter().any(|count| status[count] != *replicas) {
                return Err(format!("{}: {status}", one["metadata"]["name"]));
            }
        }
        Ok(())
    })
}

/// Calls `each` for every object of a collection, a page at a time.
///
/// # Errors
/// When the hub does not list it.
pub fn for_each(hub: &Hub, path: &str, mut each: impl FnMut(&Value) -> Result<()>) -> Result<()> {
    let mut next = String::new();
    loop {
        let list = hub.get(&format!("{path}?limit={PAGE}{next}"))?;
        list["items"].as_array().context("a list has items")?.iter().try_for_each(&mut each)?;
        match list["metadata"]["continue"].as_str() {
            None | Some("") => return Ok(()),
            Some(token) => next = format!("&continue={}", escaped(token)),
        }
    }
}

/// A token as part of a query.
fn escaped(token: &str) -> String {
    token.replace('%', "%25").replace('+', "%2B").replace('=', "%3D").replace('/', "%2F")
}

/// The uids of all pods that are not being deleted.
///
/// # Errors
/// When the hub does not list them.
pub fn uids(hub: &Hub) -> Result<BTreeSet<String>> {
    let mut uids = BTreeSet::new();
    for_each(hub, PODS, |pod| {
        if pod["metadata"]["deletionTimestamp"].is_null() {
            uids.insert(pod["metadata"]["uid"].as_str().context("a pod has a uid")?.to_owned());
        }
        Ok(())
    })?;
    Ok(uids)
}
