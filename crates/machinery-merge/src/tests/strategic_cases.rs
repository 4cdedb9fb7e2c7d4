//! Strategic merge on the types of real kinds.

use machinery_kinds::{PatchSchema, Registry};
use serde_json::{Value, json};

use crate::{PatchError, strategic_merge};

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
}

#[test]
fn items_with_the_same_key_merge_and_those_of_the_patch_come_first() {
    check(
        json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}),
        json!({"containers": [{"name": "c", "image": "1"}, {"name": "a", "image": "2"}]}),
        json!({"containers": [{"name": "c", "image": "1"}, {"name": "a", "image": "2"}, {"name": "b", "image": "1"}]}),
    );
    check(
        json!({"containers": [{"name": "a"}, {"name": "b"}]}),
        json!({"containers": [{"name": "c"}]}),
        json!({"containers": [{"name": "c"}, {"name": "a"}, {"name": "b"}]}),
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
        json!({"containers": []}),
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
        json!({"finalizers": ["c", "a"]}),
        json!({"finalizers": ["c", "a", "b"]}),
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
    let merged = strategic_merge(
        &json!({"spec": {"volumes": [{"name": "a"}]}}),
        &json!({"spec": {"volumes": [{"name": "a", "$retainKeys": ["name"], "emptyDir": {}}]}}),
        &schema("", "pods"),
    );
    assert_eq!(merged, Err(PatchError::BadRequest("invalid patch format of retainKeys".to_owned())));
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
fn what_is_new_loses_its_nulls_and_its_directives() {
    check(
        json!({}),
        json!({"securityContext": {"fsGroup": null, "seLinuxOptions": {"$patch": "delete"}, "runAsUser": 1}}),
        json!({"securityContext": {"runAsUser": 1}}),
    );
    check(
        json!({}),
        json!({"containers": [{"name": "a", "$patch": "delete"}, {"name": "b", "tty": null}]}),
        json!({"containers": [{"name": "b"}]}),
    );
}

/// The words and the kind of an error are upstream's.
#[test]
fn a_bad_directive_is_refused_in_upstreams_words() {
    let pod = json!({
        "metadata": {"finalizers": ["a"]},
        "spec": {"securityContext": {"runAsUser": 1}, "containers": [{"name": "a"}], "volumes": [{"name": "v"}]},
    });
    let check = |patch: Value, expected: PatchError| {
        assert_eq!(strategic_merge(&pod, &patch, &schema("", "pods")), Err(expected), "{patch}");
    };
    let bad = |why: &str| PatchError::BadRequest(why.to_owned());
    let failed = |why: &str| PatchError::Failed(why.to_owned());
    check(json!([1]), bad("json: cannot unmarshal array into Go value of type map[string]interface {}"));
    check(json!({"spec": {"$patch": "explode"}}), failed("unknown patch type: explode in map: map[$patch:explode]"));
    check(json!({"spec": {"$patch": "merge"}}), failed("unknown patch type: merge in map: map[$patch:merge]"));
    check(
        json!({"spec": {"containers": [{"image": "x"}]}}),
        failed("map: map[image:x] does not contain declared merge key: name"),
    );
    check(
        json!({"spec": {"containers": [{"name": "a"}, "b"]}}),
        failed("list element types are not identical: [[map[name:a]] [map[name:a] b]]"),
    );
    check(
        json!({"spec": {"containers": [{"name": "a", "$patch": "merge"}]}}),
        failed("merging lists cannot yet be specified in the patch"),
    );
    check(
        json!({"spec": {"containers": [["x"]]}}),
        failed("list element types are not identical: [[map[name:a]] [[x]]]"),
    );
    check(json!({"metadata": {"$deleteFromPrimitiveList": ["a"]}}), bad("invalid patch format of primitive list"));
    check(json!({"metadata": {"$setElementOrder": ["a"]}}), bad("invalid patch format of setElementOrder list"));
    check(
        json!({"metadata": {"$setElementOrder/finalizers": {}}}),
        failed("expected a []interface {}, but received a map[string]interface {}"),
    );
    check(
        json!({"spec": {"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "b"}]}}),
        failed("The order in patch list:\n[map[name:b]]\n doesn't match $setElementOrder list:\n[map[name:a]]\n"),
    );
    check(json!({"spec": {"securityContext": {"$retainKeys": "a"}}}), bad("invalid patch format of retainKeys"));
}
