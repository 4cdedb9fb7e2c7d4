//! Nodes out of reach are marked, and that is all: their pods are theirs and go on without us.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};
use tracing::{info, warn};

use crate::cache::Lister;
use crate::driver::FirstFailure;
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
    seen: BTreeMap<String, Heartbeat>,
}

/// What is known of one node's heartbeat.
struct Heartbeat {
    renewed: String,
    /// When we saw `renewed` for the first time.
    since: Instant,
    /// Whether it changed while we were looking. A hub that has just started knows no more than what is written.
    is_heard: bool,
}

impl Heartbeats {
    /// Takes the leases as they are now in. A node never seen before gets the time that every node has.
    pub(crate) fn observe<'a>(&mut self, nodes: impl Iterator<Item = &'a str>, leases: &[Value], now: Instant) {
        let renewals: BTreeMap<&str, &str> = leases
            .iter()
            .filter_map(|lease| Some((lease["metadata"]["name"].as_str()?, lease["spec"]["renewTime"].as_str()?)))
            .collect();
        let mut seen = BTreeMap::new();
        for node in nodes {
            let renewed = renewals.get(node).copied().unwrap_or_default();
            let heartbeat = match self.seen.remove(node) {
                Some(old) if old.renewed == renewed => old,
                old => Heartbeat { renewed: renewed.to_owned(), since: now, is_heard: old.is_some() },
            };
            seen.insert(node.to_owned(), heartbeat);
        }
        self.seen = seen;
    }

    /// Whether the node has been silent for too long.
    pub(crate) fn is_silent(&self, node: &str, now: Instant) -> bool {
        self.seen.get(node).is_some_and(|heartbeat| now.duration_since(heartbeat.since) > SILENCE_MAX)
    }

    /// Whether the node should carry the mark: a silent one does; one that carries it keeps it until it is heard.
    pub(crate) fn should_mark(&self, node: &str, is_marked: bool, now: Instant) -> bool {
        let is_heard = self.seen.get(node).is_some_and(|heartbeat| heartbeat.is_heard);
        self.is_silent(node, now) || (is_marked && !is_heard)
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
        let mut failures = FirstFailure::default();
        for ((_, name), node) in nodes.iter() {
            let is_silent = self.should_mark(name, is_marked(node), now);
            if is_silent == is_marked(node) && (!is_silent || is_status_unknown(node)) {
                continue;
            }
            failures.note(set_mark(name, node, is_silent, writer, recorder, wall).await);
        }
        failures.into_result()
    }
}

/// Marks a node, or takes the mark away.
async fn set_mark(
    name: &str,
    node: &Value,
    is_silent: bool,
    writer: &Writer,
    recorder: &Recorder,
    wall: Timestamp,
) -> Result<(), WriteError> {
    let Some(fresh) = writer.get_now(Kind::Node, ("", name)).await? else { return Ok(()) };
    let is_written = writer.replace(Kind::Node, &mark(&fresh, is_silent, wall)).await?;
    if !is_written {
        // Someone else wrote meanwhile; the next look comes soon.
        return Ok(());
    }
    if is_silent {
        writer.replace_status_of(Kind::Node, name, |current| mark_status(current, wall)).await?;
        warn!(node = name, "A node has been silent for too long; its pods are left alone.");
        let message = format!("Node {name} has not been heard of for {} s", SILENCE_MAX.as_secs());
        recorder.warning(Kind::Node, node, "NodeNotReady", message);
    } else {
        info!(node = name, "A node is back.");
        recorder.normal(Kind::Node, node, "NodeReady", format!("Node {name} is back"));
    }
    Ok(())
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

#[cfg(test)]
mod tests;
