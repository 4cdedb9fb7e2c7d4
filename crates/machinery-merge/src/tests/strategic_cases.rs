//! Strategic merge on the types of real kinds.

use machinery_kinds::{PatchSchema, Registry};
use serde_json::{Value, json};

use crate::strategic_merge;

pub(super) fn schema(group: &str, plural: &str) -> PatchSchema {
    let registry = Registry::builtin();
    registry.resource(group, "v1", plural).and_then(|resource| resource.patch_schema()).expect("a built-in kind")
}

/// Patches the `spec` of a pod.
#[track_caller]
fn check(spec: Value, patch: Value, expected: Value) {
    let merged = strategic_merge(&json!({"spec": spec}), &json!({"spec": patch}), &schema("", "pods"));
    assert_eq!(merged.map(|mut pod| pod["spec"].take()), Ok(expected), "{spec} patched by {patch}");
}

#[track_caller]
fn check_metadata(metadata: Value, patch: Value, expected: Value) {
    let merged = strategic_merge(&json!({"metadata": metadata}), &json!({"metadata": patch}), &schema("", "pods"));
    assert_eq!(merged.map(|mut pod| pod["metadata"].take()), Ok(expected), "{metadata} patched by {patch}");
}

#[track_caller]
fn check_rejected(patch: Value, place: &str) {
    let error = strategic_merge(&json!({}), &patch, &schema("", "pods")).expect_err("the patch must be rejected");
    assert!(error.to_string().contains(place), "{error} names {place}");
}

#[test]
fn objects_merge_and_null_removes() {
    check(
        json!({"nodeName": "a", "hostname": "h"}),
        json!({"nodeName": "b"}),
        json!({"nodeName": "b", "hostname": "h"}),
    );
    check(json!({"nodeName": "a"}), json!({"nodeName": null, "hostname": null}), json!({}));
    check(
        json!({"nodeSelector": {"a": "1", "b": "2"}}),
        json!({"nodeSelector": {"a": null, "c": "3"}}),
        json!({"nodeSelector": {"b": "2", "c": "3"}}),
    );
    check(json!({}), json!({"nodeSelector": {"a": null, "b": "1"}}), json!({"nodeSelector": {"b": "1"}}));
    check(
        json!({"securityContext": {"runAsUser": 1}}),
        json!({"securityContext": {"$patch": "replace", "fsGroup": 2}}),
        json!({"securityContext": {"fsGroup": 2}}),
    );
    check(
        json!({"securityContext": {"runAsUser": 1}}),
        json!({"securityContext": {"$patch": "delete"}}),
        json!({"securityContext": {}}),
    );
    check(
        json!({"securityContext": {"runAsUser": 1}}),
        json!({"securityContext": {"$patch": "merge", "fsGroup": 2}}),
        json!({"securityContext": {"runAsUser": 1, "fsGroup": 2}}),
    );
}

#[test]
fn items_with_the_same_key_merge_and_new_ones_come_last() {
    check(
        json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}),
        json!({"containers": [{"name": "c", "image": "1"}, {"name": "a", "image": "2"}]}),
        json!({"containers": [{"name": "a", "image": "2"}, {"name": "b", "image": "1"}, {"name": "c", "image": "1"}]}),
    );
    check(
        json!({"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]}]}),
        json!({"containers": [{"name": "a", "env": [{"name": "Y", "$patch": "delete"}, {"name": "X", "value": null}]}]}),
        json!({"containers": [{"name": "a", "env": [{"name": "X"}]}]}),
    );
    check(
        json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "protocol": "TCP"}]}]}),
        json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "name": "http"}]}]}),
        json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "protocol": "TCP", "name": "http"}]}]}),
    );
}

#[test]
fn lists_without_a_key_are_replaced() {
    check(
        json!({"containers": [{"name": "a", "args": ["x", "y"]}]}),
        json!({"containers": [{"name": "a", "args": ["z"]}]}),
        json!({"containers": [{"name": "a", "args": ["z"]}]}),
    );
    check(
        json!({"tolerations": [{"key": "a"}]}),
        json!({"tolerations": [{"key": "b"}]}),
        json!({"tolerations": [{"key": "b"}]}),
    );
}

#[test]
fn an_item_is_deleted_by_its_key() {
    let two = json!({"volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "emptyDir": {}}]});
    check(
        two.clone(),
        json!({"volumes": [{"name": "a", "$patch": "delete"}]}),
        json!({"volumes": [{"name": "b", "emptyDir": {}}]}),
    );
    check(two.clone(), json!({"volumes": [{"name": "z", "$patch": "delete"}]}), two);
    check(json!({}), json!({"volumes": [{"name": "z", "$patch": "delete"}]}), json!({"volumes": []}));
}

#[test]
fn a_list_is_replaced_when_an_item_says_so() {
    check(
        json!({"containers": [{"name": "a", "image": "1"}]}),
        json!({"containers": [{"$patch": "replace"}, {"name": "b", "image": "2"}]}),
        json!({"containers": [{"name": "b", "image": "2"}]}),
    );
    check(
        json!({"containers": [{"name": "a", "image": "1", "tty": true}]}),
        json!({"containers": [{"name": "a", "image": "2", "$patch": "replace"}]}),
        json!({"containers": [{"name": "a", "image": "2"}]}),
    );
}

#[test]
fn plain_values_join_a_set_and_leave_it() {
    check_metadata(
        json!({"finalizers": ["a", "b"]}),
        json!({"finalizers": ["b", "c"]}),
        json!({"finalizers": ["a", "b", "c"]}),
    );
    check_metadata(
        json!({"finalizers": ["a", "b"]}),
        json!({"$deleteFromPrimitiveList/finalizers": ["a"]}),
        json!({"finalizers": ["b"]}),
    );
    check_metadata(
        json!({"finalizers": ["a", "b"]}),
        json!({"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"], "$setElementOrder/finalizers": ["c", "b"]}),
        json!({"finalizers": ["c", "b"]}),
    );
    check_metadata(json!({}), json!({"$deleteFromPrimitiveList/finalizers": ["a"]}), json!({}));
    check_metadata(
        json!({"ownerReferences": [{"uid": "1", "name": "a"}]}),
        json!({"ownerReferences": [{"uid": "1", "$patch": "delete"}, {"uid": "2", "name": "b"}]}),
        json!({"ownerReferences": [{"uid": "2", "name": "b"}]}),
    );
}

#[test]
fn an_order_sorts_what_it_names_and_keeps_the_rest_in_place() {
    let named =
        |names: &[&str]| json!({"containers": names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>()});
    let order = |names: &[&str]| json!({"$setElementOrder/containers": names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>()});
    check(named(&["a", "b", "c"]), order(&["c", "a", "b"]), named(&["c", "a", "b"]));
    // `x` is the server's own: it stood between `a` and `b`.
    check(named(&["a", "x", "b"]), order(&["a", "b"]), named(&["a", "x", "b"]));
    check(named(&["x", "a", "b"]), order(&["b", "a"]), named(&["x", "b", "a"]));
    let mut patch = order(&["new", "a"]);
    patch["containers"] = json!([{"name": "new"}]);
    check(named(&["a", "x"]), patch, named(&["new", "a", "x"]));
}

#[test]
fn only_retained_keys_stay() {
    check(
        json!({"volumes": [{"name": "a", "hostPath": {"path": "/x"}}]}),
        json!({"volumes": [{"name": "a", "$retainKeys": ["name", "emptyDir"], "emptyDir": {}}]}),
        json!({"volumes": [{"name": "a", "emptyDir": {}}]}),
    );
    let merged = strategic_merge(
        &json!({"spec": {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}}}),
        &json!({"spec": {"updateStrategy": {"$retainKeys": ["type"], "type": "OnDelete", "rollingUpdate": null}}}),
        &schema("apps", "daemonsets"),
    );
    assert_eq!(merged, Ok(json!({"spec": {"updateStrategy": {"type": "OnDelete"}}})));
    check_rejected(json!({"spec": {"volumes": [{"name": "a", "$retainKeys": ["name"], "emptyDir": {}}]}}), "emptyDir");
}

#[test]
fn status_conditions_merge_by_type() {
    let merged = strategic_merge(
        &json!({"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "x"}, {"type": "PIDPressure", "status": "False"}]}}),
        &json!({"status": {"$setElementOrder/conditions": [{"type": "PIDPressure"}, {"type": "Ready"}], "conditions": [{"type": "Ready", "status": "True"}]}}),
        &schema("", "nodes"),
    );
    let expected = json!({"status": {"conditions": [{"type": "PIDPressure", "status": "False"}, {"type": "Ready", "status": "True", "reason": "x"}]}});
    assert_eq!(merged, Ok(expected));
}

#[test]
fn an_unknown_field_merges_as_json_does() {
    check(
        json!({"foo": {"a": 1, "b": [1]}}),
        json!({"foo": {"b": [2], "c": 3}}),
        json!({"foo": {"a": 1, "b": [2], "c": 3}}),
    );
}

#[test]
fn a_bad_directive_names_its_place() {
    check_rejected(json!([1]), "its top");
    check_rejected(json!({"spec": {"$patch": "explode"}}), "spec.$patch");
    check_rejected(json!({"spec": {"containers": [{"image": "x"}]}}), "spec.containers[0]");
    check_rejected(json!({"spec": {"containers": [{"name": "a"}, "b"]}}), "spec.containers[1]");
    check_rejected(json!({"metadata": {"$deleteFromPrimitiveList/finalizers": "a"}}), "finalizers");
    check_rejected(json!({"spec": {"securityContext": {"$retainKeys": "a"}}}), "spec.securityContext.$retainKeys");
}
