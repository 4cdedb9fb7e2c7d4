//! Definitions as data: which are rejected, and with which words.

use serde_json::{Value, json};

use super::{
    OtherNames, apply_defaults, begin_deletion, is_established, prepare_create, prepare_update, settle, validate,
    warnings,
};

const NOW: &str = "2026-01-01T00:00:00Z";

fn definition(schema: Value) -> Value {
    let mut definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
        },
    });
    apply_defaults(&mut definition);
    prepare_create(&mut definition);
    definition
}

fn errors(definition: &Value, old: Option<&Value>) -> Vec<String> {
    let mut errors: Vec<String> = validate(definition, old).iter().map(ToString::to_string).collect();
    errors.sort();
    errors
}

/// The errors for a property `a` with this schema, without the path to it.
#[track_caller]
fn check(property: Value, expected: &[&str]) {
    let found = errors(&definition(json!({"type": "object", "properties": {"a": property}})), None);
    let found: Vec<&str> = found
        .iter()
        .map(|error| error.strip_prefix("spec.validation.openAPIV3Schema.properties[a]").unwrap_or(error))
        .collect();
    assert_eq!(found, expected);
}

#[track_caller]
fn check_changed(change: impl FnOnce(&mut Value), expected: &[&str]) {
    let mut definition = definition(json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}));
    change(&mut definition);
    assert_eq!(errors(&definition, None), expected);
}

#[test]
fn a_good_definition_gets_what_its_author_left_out() {
    let definition = definition(json!({"type": "object"}));
    assert_eq!(errors(&definition, None), [""; 0]);
    assert_eq!(
        definition["spec"]["names"],
        json!({"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"})
    );
    assert_eq!(definition["spec"]["conversion"], json!({"strategy": "None"}));
    assert_eq!(definition["status"]["storedVersions"], json!(["v1"]));
}

#[test]
fn schemas_must_be_structural() {
    check(json!({}), &[".type: Required value: must not be empty for specified object fields"]);
    check(json!({"type": "array"}), &[".items: Required value: must be specified"]);
    check(
        json!({"type": "integer", "anyOf": [{"type": "integer"}]}),
        &[".anyOf[0].type: Forbidden: must be empty to be structural"],
    );
    check(json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}), &[]);
    check(
        json!({"type": "object", "properties": {"b": {"type": "string"}}, "allOf": [{"properties": {"c": {"minLength": 1}}}]}),
        &[],
    );
    check(
        json!({"type": "object", "x-kubernetes-embedded-resource": true}),
        &[
            ".properties: Required value: must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
        ],
    );
    check(json!({"$ref": "x", "type": "string"}), &[".$ref: Forbidden: $ref is not supported"]);
    check(
        json!({"type": "string", "pattern": "("}),
        &[
            ".pattern: Invalid value: \"(\": must be a valid regular expression, but isn't: error parsing regexp: missing closing ): `(`",
        ],
    );
}

#[test]
fn lists_with_keys_have_items_with_keys() {
    let list = |change: fn(&mut Value)| {
        let mut list = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}}}});
        change(&mut list);
        list
    };
    check(list(|_| {}), &[]);
    check(
        list(|list| list["x-kubernetes-list-map-keys"] = json!([])),
        &[".x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map"],
    );
    check(
        list(|list| list["items"]["required"] = json!([])),
        &[
            ".items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
        ],
    );
    check(
        json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "object"}}),
        &[
            ".items.x-kubernetes-map-type: Invalid value: null: must be atomic as item of a list with x-kubernetes-list-type=set",
        ],
    );
}

#[test]
fn defaults_must_be_what_their_schema_accepts() {
    check(
        json!({"type": "integer", "default": "x"}),
        &[".default: Invalid value: \"string\":  in body must be of type integer: \"string\""],
    );
    check(
        json!({"type": "object", "default": {"x": 1}}),
        &[".default: Invalid value: {\"x\":1}: must not have unknown fields"],
    );
    check(
        json!({"type": "object", "required": ["y"], "properties": {"y": {"type": "integer"}}, "default": {}}),
        &[".default.y: Required value"],
    );
}

#[test]
fn paths_speak_of_the_version_where_versions_differ() {
    check_changed(
        |definition| {
            definition["spec"]["versions"] = json!([
                {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}},
                {"name": "v2", "served": true, "storage": false, "schema": {"openAPIV3Schema": {"type": "string"}}},
            ]);
        },
        &["spec.versions[1].schema.openAPIV3Schema.type: Invalid value: \"string\": must be object at the root"],
    );
    check_changed(
        |definition| {
            definition["spec"]["versions"][0]["additionalPrinterColumns"] =
                json!([{"name": "A", "type": "odd", "jsonPath": "a"}])
        },
        &[
            "spec.additionalPrinterColumns[0].JSONPath: Invalid value: \"a\": must be a simple json path starting with .",
            "spec.additionalPrinterColumns[0].type: Invalid value: \"odd\": must be one of boolean,date,integer,number,string",
        ],
    );
}

#[test]
fn versions_are_shown_as_the_reference_implementation_holds_them() {
    check_changed(
        |definition| definition["spec"]["versions"][0]["storage"] = json!(false),
        &[
            "spec.versions: Invalid value: [{\"Name\":\"v1\",\"Served\":true,\"Storage\":false,\"Deprecated\":false,\"DeprecationWarning\":null,\"Schema\":null,\"Subresources\":null,\"AdditionalPrinterColumns\":null,\"SelectableFields\":null}]: must have exactly one version marked as storage version",
        ],
    );
}

#[test]
fn a_group_of_the_community_needs_an_approval() {
    let group = |annotation: Option<&'static str>| {
        move |definition: &mut Value| {
            definition["metadata"]["name"] = json!("widgets.x.k8s.io");
            definition["spec"]["group"] = json!("x.k8s.io");
            if let Some(annotation) = annotation {
                definition["metadata"]["annotations"] = json!({"api-approved.kubernetes.io": annotation});
            }
        }
    };
    check_changed(
        group(None),
        &[
            "metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111",
        ],
    );
    check_changed(group(Some("unapproved, for a test")), &[]);
    check_changed(group(Some("https://github.com/kubernetes/enhancements/pull/1")), &[]);
}

#[test]
fn what_names_the_resource_cannot_change() {
    let mut old = definition(json!({"type": "object"}));
    settle(&mut old, &OtherNames::default(), NOW);
    let mut new = old.clone();
    new["spec"]["names"]["kind"] = json!("Wodget");
    new["spec"]["scope"] = json!("Cluster");
    assert_eq!(
        errors(&new, Some(&old)),
        [
            "spec.names.kind: Invalid value: \"Wodget\": field is immutable",
            "spec.scope: Invalid value: \"Cluster\": field is immutable"
        ]
    );
}

#[test]
fn a_version_that_objects_are_stored_in_stays() {
    let old = definition(json!({"type": "object"}));
    let mut new = old.clone();
    new["spec"]["versions"][0]["name"] = json!("v2");
    prepare_update(&mut new, &old);
    assert_eq!(new["status"]["storedVersions"], json!(["v1", "v2"]));
    let found = errors(&new, Some(&old));
    assert!(
        found.len() == 1
            && found[0].starts_with("status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions"),
        "{found:?}"
    );
}

#[test]
fn formats_that_nobody_checks_are_warned_of() {
    let of =
        |format: &str| definition(json!({"type": "object", "properties": {"a": {"type": "string", "format": format}}}));
    assert_eq!(warnings(&of("nothing"), None), ["unrecognized format \"nothing\""]);
    assert_eq!(warnings(&of("nothing"), Some(&of("nothing"))), [""; 0]);
    assert_eq!(warnings(&of("date-time"), None), [""; 0]);
}

#[test]
fn whoever_is_first_keeps_a_name() {
    let mut first = definition(json!({"type": "object"}));
    assert!(settle(&mut first, &OtherNames::default(), NOW));
    assert!(is_established(&first));
    assert!(!settle(&mut first, &OtherNames::default(), "later"), "nothing changes twice");

    let mut others = OtherNames::default();
    others.add(&first);
    let mut second = definition(json!({"type": "object"}));
    second["metadata"]["name"] = json!("gadgets.example.com");
    second["spec"]["names"]["plural"] = json!("gadgets");
    settle(&mut second, &others, NOW);
    assert!(!is_established(&second));
    assert_eq!(second["status"]["acceptedNames"], json!({"plural": "gadgets", "kind": ""}));
    let accepted = &second["status"]["conditions"][0];
    assert_eq!(
        (&accepted["reason"], &accepted["message"]),
        (&json!("ListKindConflict"), &json!("\"WidgetList\" is already in use"))
    );

    settle(&mut second, &OtherNames::default(), NOW);
    assert!(is_established(&second), "the names are free");
}

#[test]
fn a_deleted_definition_waits_for_its_objects() {
    let mut definition = definition(json!({"type": "object"}));
    definition["metadata"]["deletionTimestamp"] = json!(NOW);
    begin_deletion(&mut definition);
    begin_deletion(&mut definition);
    assert_eq!(definition["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]));
    assert_eq!(definition["status"]["conditions"][0]["type"], "Terminating");
}

/// Sixty kilobytes of definition that took a gigabyte for as long as it existed.
#[test]
fn a_thousand_patterns_of_unicode_classes_are_too_large_and_of_ascii_are_not() {
    let patterns = |class: &str| {
        let properties: serde_json::Map<String, Value> = (0..1000)
            .map(|number| {
                (format!("p{number}"), json!({"type": "string", "pattern": format!("^{class}{{1,20}}${number}")}))
            })
            .collect();
        definition(json!({"type": "object", "properties": properties}))
    };
    let large = patterns(r"\p{L}");
    let found = errors(&large, None);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("Forbidden: the patterns of the schema take more than"), "{found:?}");
    assert_eq!(errors(&large, Some(&large)), [""; 0], "what is stored stays, and its labels can be set");
    assert_eq!(errors(&patterns("[a-z0-9]"), None), [""; 0]);
    check(
        json!({"type": "string", "pattern": "a\\C"}),
        &[
            ".pattern: Invalid value: \"a\\\\C\": must be a valid regular expression, but isn't: error parsing regexp: invalid \
           escape sequence: `\\C`",
        ],
    );
}
