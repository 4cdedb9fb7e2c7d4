//! What is served before and after definitions come and go.

use serde_json::{Value, json};

use super::{Registry, compare_versions};

pub(crate) fn widgets() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"kind": "Widget", "plural": "widgets", "shortNames": ["wd"], "categories": ["all"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "description": "A widget.", "properties": {
                    "spec": {"type": "object", "properties": {"size": {"type": "integer", "default": 1, "description": "How big."}}},
                    "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                }}},
                "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}],
                "selectableFields": [{"jsonPath": ".spec.size"}],
            }],
        },
    })
}

#[test]
fn a_definition_brings_its_resources_and_takes_them_away() {
    let mut registry = Registry::builtin();
    let before = registry.clone();
    let installed = registry.install_crd(&widgets()).expect("the definition is good");
    assert_eq!(installed.resources.len(), 1);
    let widget = registry.resource("example.com", "v1", "widgets").expect("installed");
    assert_eq!((&*widget.list_kind, &*widget.singular, widget.has_status()), ("WidgetList", "widget", true));
    assert_eq!(widget.selectable_value(&json!({"spec": {"size": 3}}), "spec.size").as_deref(), Some("3"));
    assert!(widget.patch_schema().is_none());
    assert!(before.resource("example.com", "v1", "widgets").is_none(), "a snapshot stays as it is");
    registry.install_crd(&widgets()).expect("a definition may be installed again");
    assert!(registry.remove_crd("widgets.example.com"));
    assert!(!registry.remove_crd("widgets.example.com"));
    assert_eq!(registry.groups().count(), before.groups().count());
}

#[test]
fn our_own_definitions_are_good() {
    let mut registry = Registry::builtin();
    let definitions =
        registry.resource("apiextensions.k8s.io", "v1", "customresourcedefinitions").cloned().expect("built in");
    for mut crd in api_edge::crds::all() {
        assert_eq!(definitions.decode(&mut crd), Ok(Vec::new()));
        definitions.apply_defaults(&mut crd).expect("small defaults");
        assert_eq!(definitions.validate(&crd), []);
        registry.install_crd(&crd).expect("good");
    }
    assert!(registry.resource_by_kind(api_edge::GROUP, api_edge::VERSION, "Device").is_some());
}

#[test]
fn a_definition_without_names_is_rejected_and_changes_nothing() {
    let mut registry = Registry::builtin();
    let mut crd = widgets();
    crd["spec"]["names"]["plural"] = json!("");
    let errors = registry.install_crd(&crd).expect_err("it has no name");
    assert_eq!(errors[0].to_string(), "spec.names.plural: Required value");
    assert_eq!(registry.groups().count(), Registry::builtin().groups().count());
}

#[test]
fn a_definition_is_served_under_the_names_that_it_was_given() {
    let mut registry = Registry::builtin();
    let mut crd = widgets();
    crd["status"] =
        json!({"acceptedNames": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "Widgets"}});
    registry.install_crd(&crd).expect("the definition is good");
    let widget = registry.resource("example.com", "v1", "widgets").expect("installed");
    assert_eq!((&*widget.list_kind, widget.short_names.len()), ("Widgets", 0));
}

#[test]
fn clients_of_a_deprecated_version_learn_which_to_use() {
    let mut registry = Registry::builtin();
    let mut crd = widgets();
    let mut newer = crd["spec"]["versions"][0].clone();
    newer["name"] = json!("v2");
    newer["storage"] = json!(false);
    crd["spec"]["versions"][0]["deprecated"] = json!(true);
    crd["spec"]["versions"].as_array_mut().expect("a list").push(newer);
    registry.install_crd(&crd).expect("the definition is good");
    let deprecation =
        |version: &str| registry.resource("example.com", version, "widgets").expect("installed").deprecation();
    assert_eq!(deprecation("v1"), Some("example.com/v1 Widget is deprecated; use example.com/v2 Widget"));
    assert_eq!(deprecation("v2"), None);
}

#[test]
fn stable_versions_come_first() {
    let mut versions = ["v1alpha1", "foo1", "v1beta2", "v11", "v2", "v1beta10", "v1", "bar"];
    versions.sort_by(|a, b| compare_versions(a, b));
    assert_eq!(versions, ["v11", "v2", "v1", "v1beta10", "v1beta2", "v1alpha1", "bar", "foo1"]);
}

#[test]
fn a_selector_compares_a_missing_value_as_its_default() {
    let registry = Registry::builtin();
    let value = |plural: &str, object: Value, field: &str| {
        registry.resource("", "v1", plural).expect("built in").selectable_value(&object, field)
    };
    assert_eq!(value("pods", json!({"spec": {"nodeName": "n"}}), "spec.nodeName").as_deref(), Some("n"));
    assert_eq!(value("pods", json!({}), "spec.nodeName").as_deref(), Some(""));
    assert_eq!(value("nodes", json!({}), "spec.unschedulable").as_deref(), Some("false"));
    assert_eq!(value("events", json!({"source": {"component": "kubelet"}}), "source").as_deref(), Some("kubelet"));
    assert_eq!(value("events", json!({"reportingComponent": "hub"}), "source").as_deref(), Some("hub"));
    assert_eq!(value("configmaps", json!({"metadata": {"name": "a"}}), "metadata.name").as_deref(), Some("a"));
    assert_eq!(value("configmaps", json!({}), "data.x"), None);
}

/// To read a large definition takes a while, and controllers write their definitions' labels and conditions often.
#[test]
fn a_definition_is_read_again_only_when_its_resources_change() {
    let mut registry = Registry::builtin();
    let mut definition = widgets();
    let first = registry.install_crd(&definition).expect("the definition is good").resources;
    definition["metadata"]["labels"] = json!({"a": "b"});
    definition["status"] = json!({"conditions": [{"type": "Established", "status": "True"}]});
    let same = registry.install_crd(&definition).expect("the definition is good").resources;
    assert!(std::sync::Arc::ptr_eq(&first[0], &same[0]));
    for (change, value) in [
        ("/spec/versions/0/schema/openAPIV3Schema/description", json!("Another.")),
        ("/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z")),
        ("/metadata/generation", json!(2)),
        ("/status/acceptedNames", json!({"plural": "widgets", "kind": "Widget"})),
    ] {
        let mut changed = definition.clone();
        let (parent, key) = change.rsplit_once('/').expect("a path");
        changed.pointer_mut(parent).expect("it is there")[key] = value;
        let other = registry.clone().install_crd(&changed).expect("the definition is good").resources;
        assert!(!std::sync::Arc::ptr_eq(&first[0], &other[0]), "{change}");
    }
}
