//! Tests of `selector`: its decisions, as data.

use serde_json::{Value, json};

use super::*;

fn fit(spec: &Value, node: &Value) -> Fit {
    let (spec, node) = (spec.to_string(), node.to_string());
    let placement: Placement<'_> = serde_json::from_str(&spec).unwrap();
    placement.fit(&serde_json::from_str(&node).unwrap())
}

fn check(spec: Value, node: Value, expected: bool) {
    assert_eq!(fit(&spec, &node) == Fit::Run, expected, "{spec} on {node}");
}

fn node(labels: Value, taints: Value) -> Value {
    json!({"metadata": {"name": "gw-1", "labels": labels}, "spec": {"taints": taints}})
}

#[test]
fn a_node_selector_demands_every_label() {
    check(json!({}), node(json!({}), json!(null)), true);
    check(json!({"nodeSelector": {"a": "1"}}), node(json!({"a": "1", "b": "2"}), json!(null)), true);
    check(json!({"nodeSelector": {"a": "1", "b": "3"}}), node(json!({"a": "1", "b": "2"}), json!(null)), false);
}

#[test]
fn a_node_that_is_named_is_the_only_one() {
    let gw_1 = node(json!({}), json!(null));
    for (name, expected) in [(json!("gw-1"), true), (json!("gw-2"), false), (json!(""), true), (json!(null), true)] {
        check(json!({"nodeName": name}), gw_1.clone(), expected);
    }
}

#[test]
fn affinity_demands_one_of_its_terms() {
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
    let long = "n".repeat(100);
    let named = json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [long]}]}]);
    check(affinity(named), json!({"metadata": {"name": long}}), true);
    for without_demand in [
        json!([{}]),
        json!([{"matchExpressions": [], "matchFields": []}]),
        json!([{"matchExpressions": []}]),
        json!([]),
        json!(null),
    ] {
        check(affinity(without_demand), node(json!({}), json!(null)), false);
    }
    let one_of_two = json!([{"matchExpressions": []}, term("In", json!(["5"]))]);
    check(affinity(one_of_two), node(json!({"n": "5"}), json!(null)), true);
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
    let unavailable = json!([{"key": "node.kubernetes.io/network-unavailable", "effect": "NoSchedule"}]);
    check(json!({}), node(json!({}), unavailable.clone()), false);
    check(json!({"hostNetwork": true}), node(json!({}), unavailable), true);
}

#[test]
fn only_a_taint_that_executes_drives_a_running_pod_away() {
    let taint = |effect: &str| node(json!({}), json!([{"key": "k", "effect": effect}]));
    assert_eq!(fit(&json!({}), &taint("NoSchedule")), Fit::Stay);
    assert_eq!(fit(&json!({}), &taint("NoExecute")), Fit::Leave);
    let both = json!([{"key": "k", "effect": "NoSchedule"}, {"key": "l", "effect": "NoExecute"}]);
    assert_eq!(fit(&json!({}), &node(json!({}), both)), Fit::Leave);
    let leaving = json!({"metadata": {"name": "gw-1", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
    assert_eq!(fit(&json!({}), &leaving), Fit::Run);
}

#[test]
fn a_selector_matches_labels_and_expressions() {
    let matches = |selector: Value, labels: Value| {
        let (selector, labels) = (selector.to_string(), labels.to_string());
        let selector: LabelSelector<'_> = serde_json::from_str(&selector).unwrap();
        selector.matches(&serde_json::from_str(&labels).unwrap())
    };
    assert!(matches(json!({}), json!({"a": "1"})));
    let selector = json!({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "DoesNotExist"}]});
    assert!(matches(selector.clone(), json!({"a": "1"})));
    assert!(!matches(selector, json!({"a": "1", "b": "2"})));
}
