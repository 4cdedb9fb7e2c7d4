//! What kubectl looks for in the documents.

use std::{collections::BTreeSet, io::Read as _};

use proptest::prelude::{Just, Strategy, any, prop, prop_assert_eq, prop_oneof, proptest};
use serde_json::{Value, json};

use crate::Registry;

fn registry() -> Registry {
    let mut registry = Registry::builtin();
    registry.install_crd(&crate::registry::tests::widgets()).expect("the definition is good");
    registry
}

fn document(group: &str) -> Value {
    let path = if group.is_empty() { "api/v1".to_owned() } else { format!("apis/{group}/v1") };
    let text = registry().openapi_document(&path).expect("served");
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
        ("example.com", "/apis/example.com/v1/namespaces/{namespace}/widgets/{name}", 3),
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
    let hash = after.openapi_hash("apis/example.com/v1").expect("served");
    assert!(url(&after, "apis/example.com/v1").as_str().is_some_and(|url| url.ends_with(&hash)));
    assert!(after.openapi_document("apis/example.com/v2").is_none());
}

/// What a kube-apiserver 1.36 with default settings publishes of some definitions: their texts, and of whole documents the
/// hashes; those of protobuf with the keys of YAML sorted, which in two groups of built-in kinds they are not.
fn recorded() -> Value {
    let packed = include_bytes!("../../../../tests/data/kubernetes/openapi/custom-1.36.json.gz");
    serde_json::from_slice(&inflated(packed)).expect("the recording is JSON")
}

fn recorded_registry(recorded: &Value) -> Registry {
    let mut registry = Registry::builtin();
    for crd in recorded["definitions"].as_array().expect("a list") {
        registry.install_crd(crd).expect("kube-apiserver took it");
    }
    registry
}

fn inflated(packed: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(packed).read_to_end(&mut bytes).expect("it is gzip");
    bytes
}

#[track_caller]
fn check_text(what: &str, ours: &str, theirs: &str) {
    let same = ours.bytes().zip(theirs.bytes()).take_while(|(one, other)| one == other).count();
    let around = |text: &str| {
        String::from_utf8_lossy(&text.as_bytes()[same.saturating_sub(80)..text.len().min(same + 120)]).into_owned()
    };
    assert!(ours == theirs, "{what} differs at {same}:\n{}\n{}", around(ours), around(theirs));
}

#[test]
fn documents_of_custom_resources_are_upstream_s() {
    let recorded = recorded();
    let registry = recorded_registry(&recorded);
    for (path, theirs) in recorded["v3"].as_object().expect("documents by path") {
        let ours = registry.openapi_document(path).expect("served");
        check_text(path, &ours, theirs.as_str().expect("a text"));
    }
    let v2 = inflated(&registry.openapi_v2());
    let v2 = String::from_utf8(v2).expect("JSON is text");
    let document: std::collections::BTreeMap<String, Box<super::RawValue>> =
        serde_json::from_str(&v2).expect("it is JSON");
    for part in ["paths", "definitions"] {
        let ours: super::Texts<'_> = serde_json::from_str(document[part].get()).expect("it is JSON");
        for (name, theirs) in recorded["v2"][part].as_object().expect("texts by name") {
            check_text(name, ours[name].get(), theirs.as_str().expect("a text"));
        }
    }
    assert_eq!(super::hash(v2.as_bytes()).to_string(), recorded["hashes"]["json"], "the whole document");
    let protobuf = inflated(&registry.openapi_v2_protobuf());
    assert_eq!(super::hash(&protobuf).to_string(), recorded["hashes"]["protobuf"], "the whole document");
}

#[test]
fn the_document_of_built_in_kinds_is_upstream_s_in_both_forms() {
    let (registry, recorded) = (Registry::builtin(), recorded());
    let json = inflated(&registry.openapi_v2());
    assert_eq!(super::hash(&json).to_string(), recorded["hashes"]["json-of-built-in"]);
    let protobuf = inflated(&registry.openapi_v2_protobuf());
    assert_eq!(super::hash(&protobuf).to_string(), recorded["hashes"]["protobuf-of-built-in"]);
}

#[test]
fn the_hash_of_v2_changes_with_names_and_scope() {
    let hash = |change: fn(&mut Value)| {
        let mut crd = crate::registry::tests::widgets();
        change(&mut crd);
        let mut registry = Registry::builtin();
        registry.install_crd(&crd).expect("still good");
        registry.openapi_v2_hash()
    };
    let before = hash(|_| {});
    assert_eq!(before, hash(|_| {}));
    assert_ne!(before, Registry::builtin().openapi_v2_hash());
    assert_ne!(before, hash(|crd| crd["spec"]["scope"] = json!("Cluster")));
    assert_ne!(before, hash(|crd| crd["spec"]["names"]["listKind"] = json!("Widgetses")));
}

/// Schemas as no definition has them: every keyword with every kind of value.
fn any_schema() -> impl Strategy<Value = Value> {
    const KEYWORDS: &[&str] = &[
        "type",
        "description",
        "properties",
        "items",
        "additionalProperties",
        "required",
        "nullable",
        "default",
        "enum",
        "maximum",
        "minLength",
        "anyOf",
        "not",
        "externalDocs",
        "example",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-embedded-resource",
        "x-kubernetes-int-or-string",
        "x-kubernetes-validations",
        "x-kubernetes-list-map-keys",
        "a\"b\n",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        prop_oneof![Just("object"), Just("array"), Just("string")].prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((prop::sample::select(KEYWORDS), inner), 0..6).prop_map(|members| {
                members
                    .into_iter()
                    .map(|(key, value)| (key.to_owned(), value))
                    .collect::<serde_json::Map<_, _>>()
                    .into()
            }),
        ]
    })
}

/// Reads the fields of a message; none when its lengths do not fit.
fn fields_of(mut bytes: &[u8]) -> Option<usize> {
    fn varint(bytes: &mut &[u8]) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (first, rest) = bytes.split_first()?;
            *bytes = rest;
            number |= u64::from(first & 0x7f) << shift;
            if *first < 0x80 {
                return Some(number);
            }
        }
        None
    }
    let mut count = 0;
    while !bytes.is_empty() {
        let length = match varint(&mut bytes)? & 7 {
            0 => {
                varint(&mut bytes)?;
                0
            }
            1 => 8,
            2 => usize::try_from(varint(&mut bytes)?).ok()?,
            _ => return None,
        };
        bytes = bytes.get(length..)?;
        count += 1;
    }
    Some(count)
}

proptest! {
    #[test]
    fn whatever_a_schema_is_its_definitions_are_json_and_protobuf(schema in any_schema()) {
        let registry = registry();
        let widgets = registry.resource("example.com", "v1", "widgets").expect("it was installed");
        for form in [super::Form::V2, super::Form::V3] {
            let text = super::schema::of_kind(form, widgets, &schema);
            let shown: Value = serde_json::from_str(&text).expect("definitions are JSON");
            prop_assert_eq!(&shown["x-kubernetes-group-version-kind"][0]["kind"], "Widget");
            let raw = |text: &str| super::RawValue::from_string(text.to_owned()).expect("it is JSON");
            let mut document = super::protobuf::Document::new(&raw("\"2.0\""), &raw("{\"title\":\"T\"}"));
            document.paths(std::iter::empty());
            document.definitions([("Widget", text.as_str())].into_iter());
            let bytes = document.finish(&raw("{}"), &raw("[]"), &raw("{}"));
            // Of the security requirements there are none.
            prop_assert_eq!(fields_of(&bytes), Some(6));
        }
    }
}
