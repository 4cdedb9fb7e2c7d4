use serde_json::json;

use super::*;
use crate::schema::Untyped;

fn set(json: Value) -> FieldSet {
    FieldSet::from_value(&json).expect("the set is well formed")
}

use serde_json::Value;

#[test]
fn a_set_is_read_and_written_in_upstreams_order() {
    let text = r#"{"f:a":{},"f:b":{".":{},"f:c":{},"k:{\"n\":2}":{},"k:{\"n\":10}":{".":{},"f:x":{}},"v:1":{},"v:\"a\\u0026\"":{},"i:3":{}}}"#;
    let read = set(serde_json::from_str(text).expect("it is JSON"));
    assert_eq!(read.to_json(), text);
    assert_eq!(set(read.to_value()), read);
    assert_eq!(read.len(), 9);
}

#[test]
fn what_a_later_version_may_add_is_skipped_and_what_is_no_path_refused() {
    assert_eq!(set(json!({"x:future": {"f:a": {}}, "f:b": {}})), set(json!({"f:b": {}})));
    let why = |fields: Value| FieldSet::from_value(&fields).expect_err("it is no set").to_string();
    assert!(why(json!({"a": {}})).contains("key must be 2 characters long:"));
    assert!(why(json!({"abc": {}})).contains("missing colon: abc"));
    assert!(why(json!({"f:a": 1})).contains("expect { or n, but found 1"));
    assert!(why(json!({"k:{": {}})).starts_with("parsing key as path element"));
    let mut deep = json!({});
    for _ in 0..crate::DEPTH_MAX {
        deep = json!({"f:a": deep});
    }
    assert_eq!(FieldSet::from_value(&deep), Err(ParseFieldsError::TooDeep));
}

#[test]
fn sets_join_meet_and_differ() {
    let (a, b) = (set(json!({"f:x": {".": {}, "f:y": {}}, "f:z": {}})), set(json!({"f:x": {"f:y": {}, "f:w": {}}})));
    assert_eq!(a.union(&b), set(json!({"f:x": {".": {}, "f:y": {}, "f:w": {}}, "f:z": {}})));
    assert_eq!(a.intersection(&b), set(json!({"f:x": {"f:y": {}}})));
    assert_eq!(a.difference(&b), set(json!({"f:x": {}, "f:z": {}})));
    assert_eq!(b.difference(&a), set(json!({"f:x": {"f:w": {}}})));
    assert_eq!(b.recursive_difference(&a), FieldSet::default());
    assert_eq!(a.leaves(), set(json!({"f:x": {"f:y": {}}, "f:z": {}})));
}

#[test]
fn numbers_in_keys_are_the_same_whether_whole_or_not() {
    let (whole, other) = (set(json!({"k:{\"p\":80}": {}})), set(json!({"k:{\"p\":80.0}": {}})));
    assert_eq!(whole, other);
    assert_eq!(whole.difference(&other), FieldSet::default());
}

#[test]
fn paths_read_as_in_messages() {
    let mut paths = Vec::new();
    let fields = json!({"f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}}}, "f:set": {"v:\"a\"": {}}}});
    set(fields).for_each(&mut |path| paths.push(path_text(path)));
    assert_eq!(
        paths,
        [r#".spec.ports[port=80,protocol="TCP"]"#, r#".spec.ports[port=80,protocol="TCP"].name"#, r#".spec.set[="a"]"#]
    );
}

#[test]
fn owners_within_what_became_atomic_own_the_whole() {
    // Nothing is reconciled where nothing is known.
    assert_eq!(set(json!({"f:a": {"f:b": {}}})).reconciled(Untyped::Deduced), None);
    let schema = crate::tests::openapi::Place::of(&crate::tests::openapi::schemas()["io.k8s.api.core.v1.PodSpec"]);
    // `nodeSelector` is atomic today.
    assert_eq!(
        set(json!({"f:nodeSelector": {".": {}, "f:disk": {}}, "f:hostname": {}})).reconciled(schema),
        Some(set(json!({"f:nodeSelector": {}, "f:hostname": {}})))
    );
    assert_eq!(set(json!({"f:nodeSelector": {}, "f:hostname": {}})).reconciled(schema), None);
}
