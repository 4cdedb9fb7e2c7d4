//! Schemas as data: what they remove, fill in and reject.

use serde_json::{Value, json};

use super::{MetadataRules, Part, Scale, Structural};
use crate::{Budget, FieldError};

/// Metadata as they are, but for one field that is not known.
struct Plain;

impl MetadataRules for Plain {
    fn decode(&self, metadata: &mut Value) -> Result<Vec<String>, String> {
        let removed = metadata.as_object_mut().and_then(|fields| fields.remove("removed"));
        Ok(removed.map(|_| "removed".to_owned()).into_iter().collect())
    }

    fn validate(&self, _: &Value, _: &str) -> Vec<FieldError> {
        Vec::new()
    }
}

fn read(schema: &Value) -> Structural {
    Structural::read(schema, None).expect("the schema is small")
}

fn errors(structural: &Structural, object: &Value, old: Option<&Value>) -> Vec<String> {
    let mut errors = Vec::new();
    structural.validate(object, old, Part::Whole, &Plain, &mut errors, &mut Budget::of_request());
    errors.iter().map(ToString::to_string).collect()
}

/// The errors that a spec gets.
#[track_caller]
fn check(schema: Value, spec: Value, expected: &str) {
    let structural = read(&json!({"type": "object", "properties": {"spec": schema}}));
    assert_eq!(errors(&structural, &json!({"spec": spec}), None).join("\n"), expected);
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
        json!({"type": "integer", "maximum": 1, "exclusiveMaximum": true}),
        json!(1),
        "spec: Invalid value: 1: spec in body should be less than 1",
    );
    check(
        json!({"type": "number", "multipleOf": 0.5}),
        json!(0.7),
        "spec: Invalid value: 0.7: spec in body should be a multiple of 0.5",
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
        json!({"type": "string", "pattern": "^a$"}),
        json!("b"),
        "spec: Invalid value: \"b\": spec in body should match '^a$'",
    );
    check(json!({"type": "object", "required": ["a"]}), json!({}), "spec.a: Required value");
    check(
        json!({"type": "array", "maxItems": 1, "items": {"type": "integer"}}),
        json!([1, 2]),
        "spec: Too many: 2: must have at most 1 item",
    );
    check(
        json!({"type": "array", "items": {"type": "integer"}}),
        json!([1, "b"]),
        "spec[1]: Invalid value: \"string\": spec[1] in body must be of type integer: \"string\"",
    );
    check(
        json!({"type": "object", "minProperties": 1}),
        json!({}),
        "spec: Invalid value: 0: spec in body should have at least 1 properties",
    );
    check(
        json!({"type": "string", "format": "date"}),
        json!(5),
        "spec: Invalid value: \"int64\": spec in body must be of type date: \"int64\"",
    );
}

#[test]
fn numbers_have_the_range_of_their_format() {
    check(
        json!({"type": "integer", "format": "int32"}),
        json!(2_147_483_648_u64),
        "<nil>: Invalid value: \"\": Checked value must be of type integer with format int32 in spec",
    );
    check(json!({"type": "integer"}), json!(1.0), "");
    check(
        json!({"type": "integer"}),
        json!(1.5),
        "spec: Invalid value: \"number\": spec in body must be of type integer: \"number\"\n\
         <nil>: Invalid value: \"\": Checked value must be of type integer (default format) in spec",
    );
}

#[test]
fn of_alternatives_the_closest_is_explained() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
        "oneOf": [{"required": ["a"]}, {"required": ["b"]}]});
    check(
        schema.clone(),
        json!({"a": "x", "b": "y"}),
        "<nil>: Invalid value: \"\": \"spec\" must validate one and only one schema (oneOf). Found 2 valid alternatives",
    );
    check(
        schema,
        json!({}),
        "<nil>: Invalid value: \"\": \"spec\" must validate one and only one schema (oneOf). Found none valid\nspec.a: Required value",
    );
    check(
        json!({"type": "integer", "not": {"enum": [3]}}),
        json!(3),
        "<nil>: Invalid value: \"\": \"spec\" must not validate the schema (not)",
    );
}

#[test]
fn keys_of_lists_are_unique() {
    check(
        json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}),
        json!(["a", "b", "a", "a"]),
        "spec[2]: Duplicate value: \"a\"",
    );
    let map = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
        "items": {"type": "object", "properties": {"k": {"type": "string"}}}});
    check(map, json!([{"k": "a"}, {"k": "a", "v": 1}]), "spec[1]: Duplicate value: {\"k\":\"a\"}");
}

#[test]
fn what_was_wrong_before_stays_allowed() {
    let structural = read(&json!({"type": "object", "properties": {
        "a": {"type": "string", "maxLength": 1}, "b": {"type": "string"}}}));
    let (old, new) = (json!({"a": "long", "b": "1"}), json!({"a": "long", "b": "2"}));
    assert_eq!(errors(&structural, &new, Some(&old)), [""; 0]);
    let changed = json!({"a": "longer"});
    assert_eq!(errors(&structural, &changed, Some(&old)), ["a: Too long: may not be more than 1 byte"]);
}

#[test]
fn unknown_fields_are_removed_and_named() {
    let structural = read(&json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "known": {"type": "string"},
        "m": {"type": "object", "additionalProperties": {"type": "object", "properties": {"x": {"type": "integer"}}}},
        "keep": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {
            "inner": {"type": "object", "properties": {"y": {"type": "string"}}}}},
        "l": {"type": "array", "items": {"type": "object", "properties": {"z": {"type": "string"}}}},
        "e": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {
            "spec": {"type": "object", "properties": {"s": {"type": "string"}}}}},
    }}}}));
    let mut object = json!({"kind": "K", "metadata": {"any": 1}, "other": 1, "spec": {
        "removed": 1, "m": {"a": {"x": 1, "removed": 2}}, "keep": {"free": {"deep": 1}, "inner": {"removed": true}},
        "l": [{"z": "z", "removed": 1}], "e": {"kind": "T", "metadata": {"removed": 1}, "removed": 1},
    }});
    let unknown = structural.prune(&mut object, &Plain).expect("metadata are good");
    assert_eq!(
        unknown,
        [
            "other",
            "spec.e.removed",
            "spec.keep.inner.removed",
            "spec.l[0].removed",
            "spec.m.a.removed",
            "spec.removed",
            "spec.e.metadata.removed"
        ]
    );
    assert_eq!(
        object,
        json!({"kind": "K", "metadata": {"any": 1}, "spec": {
            "m": {"a": {"x": 1}}, "keep": {"free": {"deep": 1}, "inner": {}}, "l": [{"z": "z"}],
            "e": {"kind": "T", "metadata": {}},
        }})
    );
}

#[test]
fn defaults_are_filled_in_below_what_is_there() {
    let structural = read(&json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "size": {"type": "integer", "default": 3},
        "deep": {"type": "object", "default": {"a": 1}, "properties": {"b": {"type": "string", "default": "x"}}},
        "nul": {"type": "string", "nullable": true, "default": "d"},
        "list": {"type": "array", "items": {"type": "object", "properties": {"k": {"type": "string", "default": "v"}}}},
        "map": {"type": "object", "additionalProperties": {"type": "string", "default": "m"}},
    }}}}));
    let mut object = json!({"spec": {"size": null, "nul": null, "list": [{}], "map": {"a": null}}});
    structural.prune(&mut object, &Plain).expect("there are no metadata");
    structural.apply_defaults(&mut object, &mut Budget::of_request()).expect("the defaults are small");
    let spec = json!({"size": 3, "deep": {"a": 1, "b": "x"}, "nul": null, "list": [{"k": "v"}], "map": {"a": "m"}});
    assert_eq!(object, json!({"spec": spec}));
}

#[test]
fn large_defaults_are_not_copied_without_end() {
    let schema = json!({"type": "object", "properties": {"l": {"type": "array", "items": {"type": "object", "properties": {
        "d": {"type": "string", "default": "x".repeat(100_000)}}}}}});
    let mut object = json!({"l": vec![json!({}); 20_000]});
    assert!(read(&schema).apply_defaults(&mut object, &mut Budget::of_request()).is_err());
}

#[test]
fn a_scale_is_where_its_definition_says() {
    let subresources = json!({"scale": {"specReplicasPath": ".spec.n", "statusReplicasPath": ".status.n", "labelSelectorPath": ".status.s"}});
    let scale = Scale::read(&subresources).expect("it is there");
    let mut object = json!({"status": {"n": 2, "s": "a=b"}});
    assert_eq!(
        (scale.spec_replicas(&object), scale.status_replicas(&object), scale.selector(&object)),
        (Ok(None), Ok(Some(2)), Ok("a=b"))
    );
    scale.set_spec_replicas(&mut object, 4).expect("the way is free");
    assert_eq!(object["spec"]["n"], 4);
    let structural = Structural::read(&json!({"type": "object"}), Some(scale)).expect("the schema is small");
    object = json!({"spec": {"n": "x"}, "status": {"n": -1}});
    assert_eq!(
        errors(&structural, &object, None),
        [
            ".spec.n: Invalid value: 0: .spec.n accessor error: x is of the type string, expected int64",
            ".status.n: Invalid value: -1: should be a non-negative integer",
        ]
    );
}

/// Patterns are compiled by the objects that meet them, which pay for it: each once, and each text by its length.
#[test]
fn an_object_pays_for_the_patterns_that_it_meets() {
    let properties: serde_json::Map<String, Value> = (0..200)
        .map(|number| {
            (format!("p{number}"), json!({"type": "string", "pattern": format!("^\\p{{L}}{{1,20}}(x{number})?$")}))
        })
        .collect();
    let structural = read(&json!({"type": "object", "properties": properties}));
    let cost = |object: &Value| {
        let (mut errors, mut budget) = (Vec::new(), Budget::of_request());
        structural.validate(object, None, Part::Whole, &Plain, &mut errors, &mut budget);
        (errors.iter().map(ToString::to_string).collect::<Vec<_>>(), budget.spent())
    };
    let (found, first) = cost(&json!({"p0": "abc"}));
    assert_eq!(found, [""; 0]);
    assert!((100_000..300_000).contains(&first), "a megabyte is compiled: {first}");
    assert_eq!(cost(&json!({"p0": "abc"})).1, first, "the same for who comes later");
    let (found, _) = cost(&json!({"p0": "1"}));
    assert_eq!(found.len(), 1);
    assert!(found[0].contains("should match"), "{found:?}");
    let all: serde_json::Map<String, Value> = (0..200).map(|number| (format!("p{number}"), json!("abc"))).collect();
    let (found, spent) = cost(&all.into());
    assert!(found[0].contains("it is too large to be checked against its schema"), "{found:?} {spent}");

    // A list whose items all have the same pattern compiles it once.
    let short = json!({"type": "string", "pattern": "^[a-z]+$"});
    let structural = read(&json!({"type": "object", "properties": {"l": {"type": "array", "items": short}}}));
    assert_eq!(errors(&structural, &json!({"l": vec!["abc"; 100_000]}), None), [""; 0]);
    let (mut errors, mut budget) = (Vec::new(), Budget::new(500_000));
    let long = json!({"l": vec!["a".repeat(1_000_000); 4]});
    structural.validate(&long, None, Part::Whole, &Plain, &mut errors, &mut budget);
    assert!(
        errors[0].to_string().contains("too large to be checked"),
        "each text is searched by its length: {errors:?}"
    );
}

/// What a client writes in three bytes, the author of a schema has filled with megabytes.
#[test]
fn defaults_are_not_copied_beyond_a_bound_in_bytes() {
    let text = json!({"type": "string", "default": "z".repeat(10_000)});
    let objects = json!({"type": "array", "items": {"type": "object"}, "default": vec![json!({}); 50_000]});
    let number = json!({"type": "integer", "default": 1});
    for (property, items, filled_max) in [(&text, 100_000, 3_300), (&objects, 1_000, 35), (&number, 200_000, 70_000)] {
        let items_schema = json!({"type": "object", "properties": {"s": property}});
        let structural =
            read(&json!({"type": "object", "properties": {"a": {"type": "array", "items": items_schema}}}));
        let mut object = json!({"a": vec![json!({}); items]});
        let filled = structural.apply_defaults(&mut object, &mut Budget::of_request());
        assert!(filled.expect_err("too much").to_string().contains("bytes copied into its object"));
        let count = |object: &Value| {
            let items = object["a"].as_array().map_or(&[][..], Vec::as_slice);
            items.iter().filter(|item| item.get("s").is_some()).count()
        };
        assert!((1..filled_max).contains(&count(&object)), "{} items are filled", count(&object));
        // A few are nothing.
        let mut object = json!({"a": vec![json!({}); 20]});
        structural.apply_defaults(&mut object, &mut Budget::of_request()).expect("it is within the bound");
        assert_eq!(count(&object), 20);
    }
}
