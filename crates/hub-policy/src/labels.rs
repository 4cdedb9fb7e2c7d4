//! Which labels a node may set on itself.
//!
//! Labels draw pods, rules and with them Secrets to a node. So a node sets those by which the kubelet describes the
//! machine and no others: the rest is the administrator's, by `kubectl label` or by the token with which the node joined.

use serde_json::{Map, Value};

/// What a kubelet says of its machine, as Kubernetes' NodeRestriction lists it.
const OF_THE_KUBELET: [&str; 14] = [
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.kubernetes.io/zone",
    "failure-domain.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "kubernetes.io/instance-type",
];

/// Whether a node may set this label on itself.
pub fn is_nodes_own(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let is_of = |of: &str| domain == of || domain.strip_suffix(of).is_some_and(|rest| rest.ends_with('.'));
    OF_THE_KUBELET.contains(&key) || is_of("node.kubernetes.io") || is_of("kubelet.kubernetes.io")
}

/// The labels of an object.
pub(crate) fn of(object: &Value) -> Map<String, Value> {
    object.pointer("/metadata/labels").and_then(Value::as_object).cloned().unwrap_or_default()
}

/// Labels that differ between two versions of a Node and are not the node's to set, in order.
pub(crate) fn foreign_changes(old: &Value, new: &Value) -> Vec<String> {
    let (before, after) = (of(old), of(new));
    let mut keys: Vec<String> = before.keys().chain(after.keys()).filter(|key| !is_nodes_own(key)).cloned().collect();
    keys.retain(|key| before.get(key) != after.get(key));
    keys.sort();
    keys.dedup();
    keys
}
