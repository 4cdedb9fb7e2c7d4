//! Nodes out of reach are marked, and that is all: their pods are theirs and go on without us.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};
use tracing::{info, warn};

use crate::cache::Lister;
use crate::events::{Recorder, seconds};
use crate::kinds::Kind;
use crate::writer::{WriteError, Writer};

/// Four heartbeats: one lost is normal on a radio link, four are not.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(40);
/// How often leases are looked at.
pub(crate) const LOOK_PERIOD: Duration = Duration::from_secs(5);

const LEASE_NAMESPACE: &str = "kube-node-lease";
const TAINT: &str = "node.kubernetes.io/unreachable";
const REASON: &str = "NodeStatusUnknown";

/// What is known of the nodes' heartbeats.
///
/// A node's clock may be wrong by years, so its own times are never compared with ours: what counts is when *we* saw a
/// lease change.
#[derive(Default)]
pub(crate) struct Heartbeats {
    seen: BTreeMap<String, (String, Instant)>,
}

impl Heartbeats {
    /// Takes the leases as they are now in. A node never seen before has just been heard.
    pub(crate) fn observe<'a>(&mut self, nodes: impl Iterator<Item = &'a str>, leases: &[Value], now: Instant) {
        let mut seen = BTreeMap::new();
        for node in nodes {
            let lease = leases.iter().find(|lease| lease["metadata"]["name"] == node);
            let renewed = lease.and_then(|lease| lease["spec"]["renewTime"].as_str()).unwrap_or_default().to_owned();
            let since = match self.seen.get(node) {
                Some((old, since)) if *old == renewed => *since,
                _ => now,
            };
            seen.insert(node.to_owned(), (renewed, since));
        }
        self.seen = seen;
    }

    /// Whether the node has been silent for too long.
    pub(crate) fn is_silent(&self, node: &str, now: Instant) -> bool {
        self.seen.get(node).is_some_and(|(_, since)| now.duration_since(*since) > SILENCE_MAX)
    }

    /// One run over all nodes.
    pub(crate) async fn reconcile(
        &mut self,
        lister: &dyn Lister,
        writer: &Writer,
        recorder: &Recorder,
        now: Instant,
        wall: Timestamp,
    ) -> Result<(), WriteError> {
        let nodes = lister.list(Kind::Node);
        let leases = writer.list_now(Kind::Lease, LEASE_NAMESPACE).await?;
        self.observe(nodes.keys().map(|(_, name)| name.as_str()), &leases, now);
        for ((_, name), node) in nodes.iter() {
            let is_silent = self.is_silent(name, now);
            if is_silent == is_marked(node) && (!is_silent || is_status_unknown(node)) {
                continue;
            }
            let Some(fresh) = writer.get_now(Kind::Node, ("", name)).await? else { continue };
            let marked = mark(&fresh, is_silent, wall);
            if writer.replace(Kind::Node, &marked).await? && is_silent {
                writer.replace_status_of(Kind::Node, name, |current| mark_status(current, wall)).await?;
            }
            if is_silent {
                warn!(node = name, "A node has been silent for too long; its pods are left alone.");
                recorder.warning(
                    Kind::Node,
                    node,
                    "NodeNotReady",
                    format!("Node {name} has not been heard of for {} s", SILENCE_MAX.as_secs()),
                );
            } else {
                info!(node = name, "A node is back.");
                recorder.normal(Kind::Node, node, "NodeReady", format!("Node {name} is back"));
            }
        }
        Ok(())
    }
}

fn is_marked(node: &Value) -> bool {
    node["spec"]["taints"].as_array().into_iter().flatten().any(|taint| taint["key"] == TAINT)
}

fn is_status_unknown(node: &Value) -> bool {
    node["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|one| one["type"] == "Ready" && one["status"] == "Unknown")
}

/// The node with or without the taint.
pub(crate) fn mark(node: &Value, is_silent: bool, now: Timestamp) -> Value {
    let mut marked = node.clone();
    let taints = node["spec"]["taints"].as_array();
    let mut kept: Vec<Value> = taints.into_iter().flatten().filter(|taint| taint["key"] != TAINT).cloned().collect();
    if is_silent {
        kept.push(json!({"key": TAINT, "effect": "NoSchedule", "timeAdded": seconds(now)}));
    }
    marked["spec"]["taints"] = kept.into();
    marked
}

/// The node with its conditions unknown, as nobody tells them any more.
pub(crate) fn mark_status(mut node: Value, now: Timestamp) -> Value {
    let mut conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    if !conditions.iter().any(|condition| condition["type"] == "Ready") {
        conditions.push(json!({"type": "Ready"}));
    }
    for condition in &mut conditions {
        if condition["status"] != "Unknown" {
            condition["lastTransitionTime"] = json!(seconds(now));
        }
        condition["status"] = json!("Unknown");
        condition["reason"] = json!(REASON);
        condition["message"] = json!("Kubelet stopped posting node status.");
    }
    node["status"]["conditions"] = conditions.into();
    node
}
