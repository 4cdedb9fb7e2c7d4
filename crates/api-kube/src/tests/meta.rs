use std::borrow::Cow;

use crate::meta::{ObjectView, OwnerReference, Text};

const POD: &str = r#"{
    "apiVersion": "v1", "kind": "Pod",
    "metadata": {
        "name": "web-1", "namespace": "shop", "uid": "u-1", "resourceVersion": "42", "generation": 3,
        "creationTimestamp": "2026-01-31T12:00:00Z", "deletionTimestamp": "2026-01-31T13:00:00+01:00",
        "labels": {"app": "web", "odd": "a\"b"}, "annotations": null, "finalizers": ["selvedge.dev/x"],
        "ownerReferences": [
            {"apiVersion": "v1", "kind": "ConfigMap", "name": "c", "uid": "u-2"},
            {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "web", "uid": "u-3", "controller": true, "blockOwnerDeletion": true}
        ],
        "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:metadata": {}}}]
    },
    "spec": {"containers": []}
}"#;

#[test]
fn metadata_points_into_the_objects_bytes() {
    let view = ObjectView::read(POD.as_bytes()).expect("a pod");
    let meta = &view.metadata;
    assert_eq!((&*view.api_version, &*view.kind), ("v1", "Pod"));
    assert_eq!((meta.full_name().as_str(), &*meta.uid, &*meta.resource_version), ("shop/web-1", "u-1", "42"));
    assert_eq!((meta.generation, meta.label("app"), meta.annotation("x")), (3, Some("web"), None));
    assert_eq!(meta.finalizers, ["selvedge.dev/x"]);
    assert!(meta.is_being_deleted() && meta.is_controlled_by("u-3") && !meta.is_controlled_by("u-2"));
    assert_eq!(meta.deletion_timestamp, meta.creation_timestamp, "13:00 at +01:00 is noon in UTC");
    assert!(meta.owner_references.iter().all(|owner| matches!(owner.uid.0, Cow::Borrowed(_))));
    assert!(meta.labels.iter().all(|(key, _)| matches!(key.0, Cow::Borrowed(_))));
    assert!(matches!(meta.labels["app"].0, Cow::Borrowed(_)));
    assert!(matches!(&meta.labels["odd"].0, Cow::Owned(text) if text == "a\"b"), "escapes are undone in a copy");
}

#[test]
fn what_is_absent_or_null_is_empty() {
    for json in ["{}", r#"{"metadata": null}"#, r#"{"metadata": {"name": null, "labels": {}, "generation": null}}"#] {
        let view = ObjectView::read(json.as_bytes()).unwrap_or_else(|error| panic!("{json}: {error}"));
        assert_eq!(view, ObjectView::default(), "{json}");
    }
    let view = ObjectView::read(br#"{"metadata": {"labels": {"a": null}, "name": "n"}}"#).expect("null in a map");
    assert_eq!((view.metadata.label("a"), view.metadata.full_name().as_str()), (Some(""), "n"));
    assert!(ObjectView::read(br#"{"metadata": {"name": 7}}"#).is_err());
}

#[test]
fn metadata_is_read_from_a_value_too() {
    let value: serde_json::Value = serde_json::from_str(POD).expect("JSON");
    let view: ObjectView<'_> = serde::Deserialize::deserialize(&value).expect("a pod");
    assert_eq!(view, ObjectView::read(POD.as_bytes()).expect("a pod"));
    assert!(matches!(view.metadata.name.0, Cow::Borrowed(_)));
}

#[test]
fn a_controllers_reference_is_written_as_kubernetes_writes_it() {
    let owner = OwnerReference::controller("apps/v1", "DaemonSet", String::from("web"), "u-3");
    let json = serde_json::to_value(&owner).expect("plain data");
    assert_eq!(
        json,
        serde_json::json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "web", "uid": "u-3", "controller": true, "blockOwnerDeletion": true})
    );
    let view = ObjectView::read(POD.as_bytes()).expect("a pod");
    assert_eq!(view.metadata.controller().cloned().map(OwnerReference::into_owned), Some(owner.into_owned()));
    assert_eq!(Text::from("x"), "x");
}
