//! Schemas as data: what they remove, fill in and reject.

use serde_json::{Value, json};

use super::Structural;
use machinery_schema::Budget;

fn with_spec(spec: Value) -> Structural {
    let schema = json!({"type": "object", "properties": {"spec": spec}});
    Structural::parse(&schema, "schema").unwrap_or_else(|errors| panic!("{errors:?}"))
}

/// The only error that a spec gets; empty when there is none.
#[track_caller]
fn check(schema: Value, spec: Value, expected: &str) {
    let errors: Vec<String> = with_spec(schema)
        .validate(&json!({"spec": spec}), &mut Budget::of_request())
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(errors.join("\n"), expected);
}

/// What is wrong with a schema.
#[track_caller]
fn check_schema(spec: Value, expected: &str) {
    let schema = json!({"type": "object", "properties": {"spec": spec}});
    let errors = Structural::parse(&schema, "schema").expect_err("the schema must be rejected");
    assert!(errors.iter().any(|error| error.to_string().contains(expected)), "{errors:?} names {expected}");
}

#[test]
fn values_are_rejected_with_the_messages_of_the_reference() {
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
        schema.apply_defaults(&mut object, &mut Budget::of_request()).expect("small defaults");
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
fn a_schema_that_is_not_structural_is_rejected() {
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

fn errors_of(schema: &Structural, object: &Value, budget: &mut Budget) -> Vec<String> {
    schema.validate(object, budget).iter().map(ToString::to_string).collect()
}

#[test]
fn schema_times_object_is_bounded() {
    let branches: Vec<Value> = (0..1_000).map(|n| json!({"maximum": n})).collect();
    let words: Vec<Value> = (0..2_000).map(|n| json!(format!("w{n}"))).collect();
    let required: Vec<String> = (0..2_000).map(|n| format!("r{n}")).collect();
    let cases = [
        (json!({"type": "integer", "anyOf": branches}), json!(vec![999; 20_000])),
        (json!({"type": "string", "enum": words}), json!(vec!["w1999"; 20_000])),
        (
            json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "anyOf": [{"required": required}, {}]}),
            json!(vec![json!({}); 20_000]),
        ),
        (
            json!({"type": "string", "pattern": "^([a-z]{1,9}-?){1,40}$"}),
            json!(vec!["abcdefg-hijkl".repeat(20); 20_000]),
        ),
    ];
    for (number, (inner, list)) in cases.into_iter().enumerate() {
        let schema = with_spec(json!({"type": "array", "items": inner}));
        let mut budget = Budget::of_request();
        let errors = errors_of(&schema, &json!({"spec": list}), &mut budget);
        assert!(errors[0].contains("too large to be checked against its schema"), "case {number}: {}", errors[0]);
        // Little of the object alone fits: what is bounded is the product.
        let few = json!({"spec": list.as_array().expect("a list")[..10]});
        assert_eq!(errors_of(&schema, &few, &mut Budget::of_request()), [""; 0], "case {number}");
    }
}

#[test]
fn defaults_times_items_are_bounded() {
    let item = json!({"type": "object", "properties": {"large": {"type": "string", "default": "x".repeat(100_000)}}});
    let schema = with_spec(json!({"type": "array", "items": item}));
    let mut many = json!({"spec": vec![json!({}); 100_000]});
    assert!(schema.apply_defaults(&mut many, &mut Budget::of_request()).is_err());
    let mut few = json!({"spec": vec![json!({}); 10]});
    assert!(schema.apply_defaults(&mut few, &mut Budget::of_request()).is_ok());
    assert_eq!(few["spec"][9]["large"].as_str().map(str::len), Some(100_000));
}

#[test]
fn a_pattern_is_bounded_by_what_it_is_compiled_to() {
    check_schema(json!({"type": "string", "pattern": "((a{99}){99}){99}"}), "must be a regular expression");
    check_schema(json!({"type": "string", "pattern": "a".repeat(5_000)}), "may not be more than 4096 bytes");
    let many: serde_json::Map<String, Value> =
        (0..2_000).map(|n| (format!("p{n}"), json!({"type": "string", "pattern": format!("^x{n}$")}))).collect();
    check_schema(json!({"type": "object", "properties": many}), "all patterns together");
    // What real definitions have: an address in all its forms.
    let address = "^(([0-9a-fA-F]{1,4}:){7,7}[0-9a-fA-F]{1,4}|([0-9a-fA-F]{1,4}:){1,7}:|([0-9a-fA-F]{1,4}:){1,6}:[0-9a-fA-F]{1,4}\
                   |fe80:(:[0-9a-fA-F]{0,4}){0,4}%[0-9a-zA-Z]{1,}|((25[0-5]|(2[0-4]|1{0,1}[0-9]){0,1}[0-9])\\.){3,3}(25[0-5]|(2[0-4]|1{0,1}[0-9]){0,1}[0-9]))$";
    check(json!({"type": "string", "pattern": address}), json!("10.0.0.1"), "");
}

#[test]
fn mistakes_and_unknown_fields_are_counted_before_they_are_kept() {
    let schema = with_spec(json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "integer"}}));
    let wrong = json!({"spec": vec!["x"; 10_000]});
    assert_eq!(errors_of(&schema, &wrong, &mut Budget::of_request()).len(), 64);
    let same = json!({"spec": vec![1; 10_000]});
    assert_eq!(errors_of(&schema, &same, &mut Budget::of_request()).len(), 64);
    let fields: serde_json::Map<String, Value> = (0..10_000).map(|n| (format!("f{n}"), json!(1))).collect();
    let schema = with_spec(json!({"type": "object"}));
    assert_eq!(schema.prune(&mut json!({"spec": fields})).len(), 100);
}

#[test]
fn a_long_name_does_not_multiply_with_the_places_below_it() {
    let name = "n".repeat(1_000_000);
    let inner: serde_json::Map<String, Value> = (0..200).map(|n| (format!("p{n}"), json!({"type": "what"}))).collect();
    let schema = json!({"type": "object", "properties": {name: {"type": "object", "properties": inner}}});
    let errors = Structural::parse(&schema, "schema").expect_err("the types are unknown");
    assert!(errors.iter().all(|error| error.to_string().len() < 2_000));
    assert!(errors.len() <= 64, "{} errors", errors.len());
}

#[test]
fn a_schema_has_a_largest_size() {
    let places: serde_json::Map<String, Value> =
        (0..60_000).map(|n| (format!("p{n}"), json!({"type": "string"}))).collect();
    check_schema(json!({"type": "object", "properties": places}), "at most 50000 places");
}
