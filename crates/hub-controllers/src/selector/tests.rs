//! Tests of `selector`: its decisions, as data.

use serde_json::json;

use super::*;

fn check(spec: Value, node: Value, expected: bool) {
    assert_eq!(fits_node(&json!({"spec": spec}), &node), expected, "{spec} on {node}");
}

fn node(labels: Value, taints: Value) -> Value {
    json!({"metadata": {"name": "gw-1", "labels": labels}, "spec": {"taints": taints}})
}

#[test]
fn a_node_selector_wants_every_label() {
    check(json!({}), node(json!({}), json!(null)), true);
    check(json!({"nodeSelector": {"a": "1"}}), node(json!({"a": "1", "b": "2"}), json!(null)), true);
    check(json!({"nodeSelector": {"a": "1", "b": "3"}}), node(json!({"a": "1", "b": "2"}), json!(null)), false);
}

#[test]
fn affinity_wants_one_of_its_terms() {
    let affinity = |terms: Value| json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}});
    let term = |operator: &str, values: Value| json!({"matchExpressions": [{"key": "n", "operator": operator, "values": values}]});
    for (operator, values, expected) in [
        ("In", json!(["4", "5"]), true),
        ("NotIn", json!(["5"]), false),
        ("Exists", json!(null), true),
        ("DoesNotExist", json!(null), false),
        ("Gt", json!(["4"]), true),
        ("Lt", json!(["5"]), false),
    ] {
        check(affinity(json!([term(operator, values)])), node(json!({"n": "5"}), json!(null)), expected);
    }
    let named = json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["gw-1"]}]}]);
    check(affinity(named), node(json!({}), json!(null)), true);
    check(affinity(json!([{}])), node(json!({}), json!(null)), false);
}

#[test]
fn a_taint_keeps_out_who_does_not_tolerate_it() {
    let taint = json!([{"key": "k", "value": "v", "effect": "NoSchedule"}]);
    check(json!({}), node(json!({}), taint.clone()), false);
    check(json!({"tolerations": [{"key": "k", "value": "v"}]}), node(json!({}), taint.clone()), true);
    check(json!({"tolerations": [{"key": "k", "value": "other"}]}), node(json!({}), taint.clone()), false);
    check(json!({"tolerations": [{"operator": "Exists"}]}), node(json!({}), taint), true);
    let unreachable = json!([{"key": "node.kubernetes.io/unreachable", "effect": "NoSchedule"}]);
    check(json!({}), node(json!({}), unreachable), true);
}

#[test]
fn an_absent_label_selector_matches_nothing() {
    assert!(!label_selector_matches(&Value::Null, &json!({"a": "1"})));
    assert!(label_selector_matches(&json!({}), &json!({"a": "1"})));
    let selector = json!({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "DoesNotExist"}]});
    assert!(label_selector_matches(&selector, &json!({"a": "1"})));
    assert!(!label_selector_matches(&selector, &json!({"a": "1", "b": "2"})));
}
