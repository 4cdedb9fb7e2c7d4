//! What kubectl looks for in the documents.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::Registry;

fn registry() -> Registry {
    let mut registry = Registry::builtin();
    registry.install_crd(&crate::registry::tests::widgets()).expect("the definition is good");
    registry
}

fn document(group: &str) -> Value {
    let text = registry().openapi_document(group, "v1").expect("served");
    serde_json::from_str(&text).expect("documents are JSON")
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|inner| references(inner, found));
        }
        Value::Array(items) => items.iter().for_each(|inner| references(inner, found)),
        _ => {}
    }
}

#[test]
fn every_reference_of_every_document_leads_somewhere() {
    for group in ["", "apps", "example.com"] {
        let document = document(group);
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(!found.is_empty());
        for reference in found {
            assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{group}: {reference}");
        }
    }
}

#[test]
fn a_patch_operation_says_what_the_server_offers() {
    for (group, path, kinds) in [
        ("", "/api/v1/namespaces/{namespace}/pods/{name}", 4),
        ("example.com", "/apis/example.com/v1/namespaces/{namespace}/widgets/{name}", 2),
    ] {
        let document = document(group);
        let patch = &document["paths"][path]["patch"];
        let names: Vec<&str> =
            patch["parameters"].as_array().expect("parameters").iter().filter_map(|p| p["name"].as_str()).collect();
        assert!(names.contains(&"dryRun") && names.contains(&"fieldValidation"), "{names:?}");
        assert_eq!(patch["x-kubernetes-action"], "patch");
        assert_eq!(patch["x-kubernetes-group-version-kind"]["group"], *group);
        assert_eq!(patch["requestBody"]["content"].as_object().map(serde_json::Map::len), Some(kinds));
    }
}

#[test]
fn schemas_explain_fields_and_lists() {
    let core = document("");
    let spec = &core["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"];
    assert_eq!(spec["type"], "object");
    let containers = &spec["properties"]["containers"];
    assert_eq!((&containers["type"], &containers["x-kubernetes-patch-merge-key"]), (&json!("array"), &json!("name")));
    assert!(containers["description"].as_str().is_some_and(|text| text.contains("container")));
    let widget = &document("example.com")["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(
        widget["x-kubernetes-group-version-kind"],
        json!([{"group": "example.com", "version": "v1", "kind": "Widget"}])
    );
    assert_eq!(widget["properties"]["spec"]["properties"]["size"]["description"], "How big.");
}

#[test]
fn an_address_changes_with_its_document() {
    let before = registry();
    let mut after = before.clone();
    let mut crd = crate::registry::tests::widgets();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"] = json!("Another.");
    after.install_crd(&crd).expect("still good");
    let url = |registry: &Registry, path: &str| registry.openapi_index()["paths"][path]["serverRelativeURL"].clone();
    assert_eq!(url(&before, "api/v1"), url(&after, "api/v1"));
    assert_ne!(url(&before, "apis/example.com/v1"), url(&after, "apis/example.com/v1"));
    let hash = after.openapi_hash("example.com", "v1").expect("served");
    assert!(url(&after, "apis/example.com/v1").as_str().is_some_and(|url| url.ends_with(&hash)));
    assert!(after.openapi_document("example.com", "v2").is_none());
}
