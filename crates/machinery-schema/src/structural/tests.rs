//! Schemas as data: what they remove, fill in and refuse.

use serde_json::{Value, json};

use super::Structural;

fn with_spec(spec: Value) -> Structural {
    let schema = json!({"type": "object", "properties": {"spec": spec}});
    Structural::parse(&schema, "schema").unwrap_or_else(|errors| panic!("{errors:?}"))
}

/// The only error that a spec gets; empty when there is none.
#[track_caller]
fn check(schema: Value, spec: Value, wanted: &str) {
    let errors: Vec<String> =
        with_spec(schema).validate(&json!({"spec": spec})).iter().map(ToString::to_string).collect();
    assert_eq!(errors.join("\n"), wanted);
}

/// What is wrong with a schema.
#[track_caller]
fn check_schema(spec: Value, wanted: &str) {
    let schema = json!({"type": "object", "properties": {"spec": spec}});
    let errors = Structural::parse(&schema, "schema").expect_err("the schema must be refused");
    assert!(errors.iter().any(|error| error.to_string().contains(wanted)), "{errors:?} tells {wanted}");
}

#[test]
fn values_are_refused_in_the_words_of_the_reference() {
    check(
        json!({"type": "integer"}),
        json!("x"),
        "spec: Invalid value: \"string\": spec in body must be of type integer: \"string\"",
    );
    check(
        json!({"type": "integer", "minimum": 1}),
        json!(0),
        "spec: Invalid value: 0: spec in body should be greater than or equal to 1",
    );
    check(
        json!({"type": "integer", "maximum": 1}),
        json!(2),
        "spec: Invalid value: 2: spec in body should be less than or equal to 1",
    );
    check(
        json!({"type": "string", "enum": ["A", "B"]}),
        json!("C"),
        "spec: Unsupported value: \"C\": supported values: \"A\", \"B\"",
    );
    check(
        json!({"type": "string", "minLength": 1}),
        json!(""),
        "spec: Invalid value: \"\": spec in body should be at least 1 chars long",
    );
    check(json!({"type": "string", "maxLength": 2}), json!("abc"), "spec: Too long: may not be more than 2 bytes");
    check(
        json!({"type": "string", "pattern": "^a+$"}),
        json!("b"),
        "spec: Invalid value: \"b\": spec in body should match '^a+$'",
    );
    check(
        json!({"type": "array", "items": {"type": "string"}, "maxItems": 1}),
        json!(["a", "b"]),
        "spec: Too many: 2: must have at most 1 items",
    );
    check(
        json!({"type": "object", "required": ["sql"], "properties": {"sql": {"type": "string"}}}),
        json!({}),
        "spec.sql: Required value",
    );
    check(
        json!({"type": "array", "items": {"type": "object", "properties": {"n": {"type": "boolean"}}}}),
        json!([{}, {"n": 1}]),
        "spec[1].n: Invalid value: \"integer\": spec[1].n in body must be of type boolean: \"integer\"",
    );
    check(
        json!({"type": "string"}),
        json!(null),
        "spec: Invalid value: \"null\": spec in body must be of type string: \"null\"",
    );
    check(
        json!({"type": "string", "format": "date-time"}),
        json!("yesterday"),
        "spec: Invalid value: \"yesterday\": spec in body must be of type date-time: \"yesterday\"",
    );
    check(
        json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}),
        json!(["a", "a"]),
        "spec[1]: Duplicate value: \"a\"",
    );
    check(
        json!({"x-kubernetes-preserve-unknown-fields": true, "not": {"required": ["a"]}}),
        json!({"a": 1}),
        "spec: Invalid value: {\"a\":1}: spec in body must not validate the schema (not)",
    );
}

#[test]
fn good_values_pass() {
    check(json!({"type": "string", "nullable": true}), json!(null), "");
    check(json!({"type": "integer"}), json!(1.0), "");
    check(json!({"x-kubernetes-int-or-string": true}), json!("50%"), "");
    check(json!({"x-kubernetes-int-or-string": true}), json!(5), "");
    check(json!({"type": "string", "format": "byte"}), json!("YWI="), "");
    check(json!({"type": "string", "format": "hostname"}), json!("what ever"), "");
    check(
        json!({"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}], "x-kubernetes-preserve-unknown-fields": true}),
        json!({"b": 1}),
        "",
    );
    let keyed = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"], "items": {"type": "object", "properties": {"type": {"type": "string"}}}});
    check(keyed, json!([{"type": "a"}, {"type": "b"}]), "");
}

#[test]
fn unknown_fields_go_but_where_they_are_welcome() {
    let schema = with_spec(json!({"type": "object", "properties": {
        "known": {"type": "string"},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"inner": {"type": "object", "properties": {}}}},
        "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"a": {"type": "string"}}}},
        "list": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}},
    }}));
    let mut object = json!({
        "apiVersion": "v1", "kind": "X", "metadata": {"name": "a", "typo": 1}, "extra": 1,
        "spec": {"known": "k", "unknown": 1, "free": {"x": 1, "inner": {"y": 1}}, "map": {"k": {"a": "1", "b": 2}}, "list": [{"b": 1}]},
    });
    let unknown = schema.prune(&mut object);
    assert_eq!(
        unknown,
        ["extra", "metadata.typo", "spec.free.inner.y", "spec.list[0].b", "spec.map.k.b", "spec.unknown"]
    );
    assert_eq!(
        object,
        json!({
            "apiVersion": "v1", "kind": "X", "metadata": {"name": "a"},
            "spec": {"known": "k", "free": {"x": 1, "inner": {}}, "map": {"k": {"a": "1"}}, "list": [{}]},
        })
    );
    assert!(schema.prune(&mut object).is_empty());
}

#[test]
fn defaults_fill_what_is_missing_at_every_depth() {
    let schema = with_spec(json!({"type": "object", "default": {}, "properties": {
        "a": {"type": "integer", "default": 1},
        "b": {"type": "object", "properties": {"c": {"type": "string", "default": "x"}}},
        "l": {"type": "array", "items": {"type": "object", "properties": {"d": {"type": "boolean", "default": true}}}},
    }}));
    let defaulted = |mut object: Value| {
        schema.apply_defaults(&mut object);
        object
    };
    assert_eq!(defaulted(json!({})), json!({"spec": {"a": 1}}));
    assert_eq!(
        defaulted(json!({"spec": {"a": null, "b": {}, "l": [{}, {"d": false}]}})),
        json!({"spec": {"a": 1, "b": {"c": "x"}, "l": [{"d": true}, {"d": false}]}})
    );
    assert_eq!(defaulted(json!({"spec": {"a": 7}})), json!({"spec": {"a": 7}}));
}

#[test]
fn a_schema_that_is_not_structural_is_refused() {
    check_schema(json!({"properties": {}}), "schema.properties[spec].type: Required value");
    check_schema(json!({"type": "text"}), "Unsupported value: \"text\"");
    check_schema(json!({"type": "array"}), "schema.properties[spec].items: Required value");
    check_schema(json!({"type": "string", "pattern": "("}), "schema.properties[spec].pattern: Invalid value");
    check_schema(json!({"type": "object", "$ref": "#/x"}), "$ref is not supported");
    check_schema(json!({"type": "integer", "default": "x"}), "must be of type integer");
    check_schema(
        json!({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "string"}}),
        "must not be used together",
    );
    let mut deep = json!({"type": "string"});
    for _ in 0..crate::DEPTH_MAX + 2 {
        deep = json!({"type": "object", "properties": {"a": deep}});
    }
    check_schema(deep, "schemas may nest at most");
}
