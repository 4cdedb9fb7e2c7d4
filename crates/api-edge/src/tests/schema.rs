//! The definitions that a hub installs, compared with the structs by which the planes read what users wrote.
//!
//! Whatever the API accepts must be readable by the node, and whatever a struct holds must survive the API: so a definition
//! has the struct's fields with their types, demands at least what the struct cannot do without, and lets no number in that
//! the struct's type does not hold. It may demand more.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use crate::identity::NodeIdentitySpec;
use crate::resources::{
    DeviceProfileSpec, DeviceSpec, ExportSpec, FleetStatus, NodeAssignmentSpec, NodeAssignmentStatus, RuleSpec,
    StreamSpec,
};

/// What a definition has beyond its struct, with the reason.
const ONLY_DEFINED: &[(&str, &str)] = &[
    ("DeviceProfile.spec.apiVersion", "published EdgeX profiles carry it, and it says nothing here"),
    ("DeviceProfile.spec.deviceResources[].properties.readWrite=WR", "an alias of RW in published profiles"),
    ("DeviceProfile.spec.deviceCommands[].readWrite=WR", "an alias of RW in published profiles"),
];

/// [`api_kube::Condition`], whose crate knows no schemas. Kept equal to it by a test.
#[derive(JsonSchema, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code, reason = "only its shape is of use")]
pub(crate) struct ConditionShape {
    r#type: String,
    status: StatusShape,
    reason: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    observed_generation: Option<i64>,
    #[serde(default)]
    last_transition_time: Option<String>,
}

#[derive(JsonSchema, serde::Serialize, serde::Deserialize)]
enum StatusShape {
    True,
    False,
    Unknown,
}

/// Every part of every kind, by its struct.
fn structs() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        ("DeviceProfile", "spec", derived::<DeviceProfileSpec>()),
        ("Device", "spec", derived::<DeviceSpec>()),
        ("Device", "status", derived::<FleetStatus>()),
        ("Stream", "spec", derived::<StreamSpec>()),
        ("Stream", "status", derived::<FleetStatus>()),
        ("Rule", "spec", derived::<RuleSpec>()),
        ("Rule", "status", derived::<FleetStatus>()),
        ("Export", "spec", derived::<ExportSpec>()),
        ("Export", "status", derived::<FleetStatus>()),
        ("NodeAssignment", "spec", derived::<NodeAssignmentSpec>()),
        ("NodeAssignment", "status", derived::<NodeAssignmentStatus>()),
        ("NodeIdentity", "spec", derived::<NodeIdentitySpec>()),
    ]
}

fn derived<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

/// Every part of every kind, as it is served.
fn served() -> Vec<(String, String, Value)> {
    let parts = |crd: Value| {
        let kind = crd["spec"]["names"]["kind"].as_str().expect("a kind").to_owned();
        let properties = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"].clone();
        ["spec", "status"]
            .into_iter()
            .filter(move |part| properties.get(part).is_some())
            .map({
                let properties = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"].clone();
                move |part| (kind.clone(), part.to_owned(), properties[part].clone())
            })
            .collect::<Vec<_>>()
    };
    crate::crds::all().into_iter().flat_map(parts).collect()
}

/// The type of a schema, without the `null` of an optional field.
fn type_of(schema: &Value) -> Option<&str> {
    match &schema["type"] {
        Value::String(name) => Some(name),
        Value::Array(names) => names.iter().filter_map(Value::as_str).find(|name| *name != "null"),
        _ => None,
    }
}

/// The values that a text may have, when they are listed.
fn values_of(schema: &Value) -> Option<BTreeSet<String>> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    if let Some(values) = schema["enum"].as_array() {
        return Some(values.iter().filter_map(text).collect());
    }
    let one_of = schema["oneOf"].as_array()?;
    let each = |one: &Value| match one.get("const") {
        Some(value) => text(value).into_iter().collect(),
        None => values_of(one).unwrap_or_default(),
    };
    Some(one_of.iter().flat_map(each).collect())
}

/// The struct behind an optional one.
fn unwrapped(schema: &Value) -> &Value {
    let of = schema["anyOf"].as_array().into_iter().flatten().find(|one| one["type"] != "null");
    of.unwrap_or(schema)
}

/// Names each path at which the definition and the struct differ.
fn compare(path: &str, derived: &Value, served: &Value, found: &mut Vec<String>) {
    let derived = unwrapped(derived);
    if let Some(values) = values_of(derived) {
        let listed = values_of(served).unwrap_or_default();
        found.extend(values.difference(&listed).map(|value| format!("{path}={value}: only the struct has it")));
        found.extend(listed.difference(&values).map(|value| format!("{path}={value}: only the definition has it")));
        return;
    }
    let Some(r#type) = type_of(derived) else {
        if served["x-kubernetes-preserve-unknown-fields"] != true {
            found.push(format!("{path}: the struct takes anything, the definition prunes it"));
        }
        return;
    };
    if Some(r#type) != type_of(served) {
        found.push(format!("{path}: {} in the definition, {type} in the struct", served["type"]));
        return;
    }
    if let Some(least) = derived["minimum"].as_f64()
        && served["minimum"].as_f64().is_none_or(|served| served < least)
    {
        found.push(format!("{path}: the definition has no minimum, the struct takes none below {least}"));
    }
    match r#type {
        "array" => compare(&format!("{path}[]"), &derived["items"], &served["items"], found),
        "object" => compare_fields(path, derived, served, found),
        _ => {}
    }
}

fn compare_fields(path: &str, derived: &Value, served: &Value, found: &mut Vec<String>) {
    let empty = serde_json::Map::new();
    let fields = |schema: &'_ Value| schema["properties"].as_object().cloned().unwrap_or_else(|| empty.clone());
    let (of_struct, defined) = (fields(derived), fields(served));
    if of_struct.is_empty() {
        match &derived["additionalProperties"] {
            // A map with values of any kind.
            Value::Bool(true) if served["x-kubernetes-preserve-unknown-fields"] != true => {
                found.push(format!("{path}: the struct takes any field, the definition prunes them"));
            }
            Value::Object(_) => {
                let (values, served) = (&derived["additionalProperties"], &served["additionalProperties"]);
                compare(&format!("{path}{{}}"), values, served, found);
            }
            _ => {}
        }
    }
    for (name, schema) in &of_struct {
        match defined.get(name) {
            Some(served) => compare(&format!("{path}.{name}"), schema, served, found),
            None => found.push(format!("{path}.{name}: only the struct has it")),
        }
    }
    for name in defined.keys().filter(|name| !of_struct.contains_key(*name)) {
        found.push(format!("{path}.{name}: only the definition has it"));
    }
    let required = |schema: &Value| -> BTreeSet<String> {
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    for name in required(derived).difference(&required(served)) {
        found.push(format!("{path}.{name}: the struct cannot do without it, the definition can"));
    }
}

#[test]
fn the_definitions_are_those_of_the_structs() {
    let (structs, served) = (structs(), served());
    let names = |parts: Vec<(String, String)>| parts.into_iter().collect::<BTreeSet<_>>();
    assert_eq!(
        names(served.iter().map(|(kind, part, _)| (kind.clone(), part.clone())).collect()),
        names(structs.iter().map(|(kind, part, _)| ((*kind).to_owned(), (*part).to_owned())).collect()),
        "each part of each kind has its struct"
    );
    let mut found = Vec::new();
    for (kind, part, derived) in &structs {
        let (_, _, definition) =
            served.iter().find(|(name, of, _)| name == kind && of == part).expect("compared just above");
        compare(&format!("{kind}.{part}"), derived, definition, &mut found);
    }
    let mut excepted = BTreeSet::new();
    found.retain(|difference| {
        let known = ONLY_DEFINED.iter().find(|(path, _)| *difference == format!("{path}: only the definition has it"));
        excepted.extend(known.map(|(path, _)| *path));
        known.is_none()
    });
    assert!(found.is_empty(), "the definitions and the structs differ:\n  {}", found.join("\n  "));
    assert_eq!(excepted.len(), ONLY_DEFINED.len(), "an exception is of no use any more: {excepted:?}");
}

#[test]
fn a_difference_is_found_and_named() {
    let derived = derived::<StreamSpec>();
    let check = |served: Value, expected: &[&str]| {
        let mut found = Vec::new();
        compare("s", &derived, &served, &mut found);
        assert_eq!(found, expected);
    };
    let selector = json!({"type": "object", "additionalProperties": {"type": "string"}});
    let text = json!({"type": "string"});
    let of =
        |properties: Value, required: Value| json!({"type": "object", "required": required, "properties": properties});
    check(of(json!({"nodeSelector": selector, "sql": text}), json!(["sql"])), &[]);
    check(
        of(json!({"nodeSelector": selector, "sql": text}), json!([])),
        &["s.sql: the struct cannot do without it, the definition can"],
    );
    check(of(json!({"nodeSelector": selector}), json!(["sql"])), &["s.sql: only the struct has it"]);
    check(
        of(json!({"nodeSelector": {"type": "object"}, "sql": {"type": "integer"}, "x": text}), json!(["sql"])),
        &[
            "s.nodeSelector{}: null in the definition, string in the struct",
            "s.sql: \"integer\" in the definition, string in the struct",
            "s.x: only the definition has it",
        ],
    );
}

#[test]
fn a_condition_has_the_shape_that_is_compared() {
    let time: api_kube::Time = "2026-01-02T03:04:05Z".parse().unwrap();
    for status in [true.into(), false.into(), api_kube::ConditionStatus::Unknown] {
        let mut condition = api_kube::Condition::new("Ready", status, "Why", "because").for_generation(3);
        condition.last_transition_time = Some(time);
        let written = serde_json::to_value(&condition).unwrap();
        let shape: ConditionShape = serde_json::from_value(written.clone()).expect("the same fields");
        assert_eq!(serde_json::to_value(&shape).unwrap(), written);
    }
}
