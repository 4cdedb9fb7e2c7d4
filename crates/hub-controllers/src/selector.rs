//! Which labels a selector means, and which node a pod fits on.

use serde_json::Value;

/// Taints that a DaemonSet's pod puts up with in any case: what happens to a node must not drive its daemons away.
const DAEMON_TOLERATES: &[&str] = &[
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
    "node.kubernetes.io/disk-pressure",
    "node.kubernetes.io/memory-pressure",
    "node.kubernetes.io/pid-pressure",
    "node.kubernetes.io/unschedulable",
];

/// Whether labels satisfy a `metav1.LabelSelector`. An empty selector matches everything, an absent one nothing.
pub(crate) fn label_selector_matches(selector: &Value, labels: &Value) -> bool {
    if !selector.is_object() {
        return false;
    }
    node_selector_matches(&selector["matchLabels"], labels)
        && each(&selector["matchExpressions"], |expression| {
            expression_matches(expression, &labels[text(&expression["key"])])
        })
}

/// Whether labels have every pair of a `nodeSelector`.
pub(crate) fn node_selector_matches(selector: &Value, labels: &Value) -> bool {
    selector.as_object().into_iter().flatten().all(|(key, value)| labels[key.as_str()] == *value)
}

/// Whether a daemon's pod template fits on a node: node selector, required node affinity, taints.
pub(crate) fn fits_node(template: &Value, node: &Value) -> bool {
    is_wanted_on(template, node, |_| true)
}

/// Whether a daemon's pod that runs on a node may stay: of the taints only `NoExecute` drives it away.
pub(crate) fn may_stay(template: &Value, node: &Value) -> bool {
    is_wanted_on(template, node, |taint| taint["effect"] == "NoExecute")
}

/// Whether selector and affinity want the node, and each of its taints that `counts` is tolerated.
fn is_wanted_on(template: &Value, node: &Value, counts: impl Fn(&Value) -> bool) -> bool {
    let spec = &template["spec"];
    node_selector_matches(&spec["nodeSelector"], &node["metadata"]["labels"])
        && affinity_matches(&spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"], node)
        && each(&node["spec"]["taints"], |taint| !counts(taint) || is_tolerated(taint, &spec["tolerations"]))
}

/// Required node affinity: one of the terms must hold; no terms at all is no demand.
fn affinity_matches(required: &Value, node: &Value) -> bool {
    let Some(terms) = required["nodeSelectorTerms"].as_array() else { return true };
    terms.iter().any(|term| {
        let has_demand = !term["matchExpressions"].is_null() || !term["matchFields"].is_null();
        let labels = &node["metadata"]["labels"];
        has_demand
            && each(&term["matchExpressions"], |one| expression_matches(one, &labels[text(&one["key"])]))
            && each(&term["matchFields"], |one| {
                one["key"] == "metadata.name" && expression_matches(one, &node["metadata"]["name"])
            })
    })
}

fn expression_matches(expression: &Value, value: &Value) -> bool {
    let values = expression["values"].as_array();
    let is_among = || values.into_iter().flatten().any(|one| one == value);
    let compare = |holds: fn(i64, i64) -> bool| {
        let number = |value: &Value| value.as_str().and_then(|text| text.parse::<i64>().ok());
        let wanted = values.and_then(|values| values.first()).and_then(number);
        matches!((number(value), wanted), (Some(value), Some(wanted)) if holds(value, wanted))
    };
    match text(&expression["operator"]) {
        "In" => !value.is_null() && is_among(),
        "NotIn" => value.is_null() || !is_among(),
        "Exists" => !value.is_null(),
        "DoesNotExist" => value.is_null(),
        "Gt" => compare(|value, wanted| value > wanted),
        "Lt" => compare(|value, wanted| value < wanted),
        _ => false,
    }
}

fn is_tolerated(taint: &Value, tolerations: &Value) -> bool {
    let key = text(&taint["key"]);
    if taint["effect"] == "PreferNoSchedule" || DAEMON_TOLERATES.contains(&key) {
        return true;
    }
    tolerations.as_array().into_iter().flatten().any(|toleration| {
        let is_effect =
            toleration["effect"].is_null() || toleration["effect"] == "" || toleration["effect"] == taint["effect"];
        let wanted = text(&toleration["key"]);
        let is_value = if toleration["operator"] == "Exists" {
            wanted.is_empty() || wanted == key
        } else {
            wanted == key && text(&toleration["value"]) == text(&taint["value"])
        };
        is_effect && is_value
    })
}

fn each(list: &Value, holds: impl Fn(&Value) -> bool) -> bool {
    list.as_array().into_iter().flatten().all(holds)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests;
