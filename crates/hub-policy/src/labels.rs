//! Which labels a node may set on itself.
//!
//! Labels draw pods, rules and with them Secrets to a node. So a node sets those by which the kubelet describes the
//! machine and no others: the rest is the administrator's, by `kubectl label` or by the token with which the node joined.
//!
//! Stricter than upstream: a node's hostname label is its name, because a single box is selected by it, and where the box
//! is (`topology.kubernetes.io/…`) is not its own word either.

use serde_json::{Map, Value};

const HOSTNAME: &str = "kubernetes.io/hostname";

/// What a kubelet says of its machine.
const OF_THE_KUBELET: [&str; 7] = [
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/instance-type",
];

/// Whether this node may set this label to this value on itself.
pub fn is_nodes_own(node: &str, key: &str, value: &Value) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let is_of = |of: &str| domain == of || domain.strip_suffix(of).is_some_and(|rest| rest.ends_with('.'));
    match key {
        HOSTNAME => value == node,
        _ => OF_THE_KUBELET.contains(&key) || is_of("node.kubernetes.io") || is_of("kubelet.kubernetes.io"),
    }
}

/// The labels of an object.
pub(crate) fn of(object: &Value) -> Map<String, Value> {
    object.pointer("/metadata/labels").and_then(Value::as_object).cloned().unwrap_or_default()
}

/// Labels that differ between two versions of a node's Node and are not the node's to set, in order.
pub(crate) fn foreign_changes(node: &str, old: &Value, new: &Value) -> Vec<String> {
    let (before, after) = (of(old), of(new));
    let mut keys: Vec<String> = before.keys().chain(after.keys()).cloned().collect();
    keys.retain(|key| {
        let new = after.get(key);
        before.get(key) != new && !is_nodes_own(node, key, new.unwrap_or(&Value::Null))
    });
    keys.sort();
    keys.dedup();
    keys
}
