//! Schemas of custom resources as documents show them.
//!
//! The text has upstream's order of keywords, so that the documents of both compare byte by byte. OpenAPI v2 has fewer
//! keywords, and kubectl reads less out of it than out of v3, so upstream leaves out what either would not understand.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::Form;
use crate::ResourceInfo;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const OBJECT_META: &str = "Standard object's metadata. More info: \
                           https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";
const LIST_META: &str = "Standard list metadata. More info: \
                         https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized \
     schemas to the latest internal value, and may reject unrecognized values. More info: \
     https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint \
     the client submits requests to. Cannot be updated. In CamelCase. More info: \
     https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const EMBEDDED_API_VERSION: &str = "apiVersion defines the versioned schema of this representation of an object. More info: \
     https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const EMBEDDED_KIND: &str = "kind is a string value representing the type of this object. In CamelCase. More info: \
     https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";

/// Where a schema is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// At the root of an object.
    Root,
    /// Where the structure is described.
    Structure,
    /// Within `allOf` and the like, which say nothing of the structure.
    Logic,
}

/// The definition of a kind.
pub(super) fn of_kind(form: Form, resource: &ResourceInfo, schema: &Value) -> String {
    let schema = schema.as_object();
    // Beside named properties kubectl takes no others, so there are none where others are allowed.
    let is_open = form == Form::V2 && schema.is_some_and(|schema| flag(schema, PRESERVE));
    let extensions = of_resource(resource, &resource.kind);
    let mut text = Text::new();
    match schema.filter(|_| !is_open) {
        Some(schema) => place(form, Place::Root, schema, extensions, &mut text),
        None => {
            text.value("type", &"object".into());
            text.extensions(extensions);
        }
    }
    text.end()
}

/// The definition of a list of a kind.
pub(super) fn of_list(form: Form, resource: &ResourceInfo, item: &str) -> String {
    let mut items = Text::new();
    let why = format!(
        "List of {}. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md",
        resource.plural
    );
    items.value("description", &why.into());
    items.value("type", &"array".into());
    items.raw("items", &format!("{{\"$ref\":{}}}", form.reference(item)));
    let properties = BTreeMap::from([
        ("apiVersion", text_property(API_VERSION)),
        ("items", items.end()),
        ("kind", text_property(KIND)),
        ("metadata", reference_property(form, LIST_META, "ListMeta")),
    ]);
    let mut text = Text::new();
    text.value("description", &format!("{} is a list of {}", resource.list_kind, resource.kind).into());
    text.value("type", &"object".into());
    text.raw("required", "[\"items\"]");
    text.properties(properties);
    text.extensions(of_resource(resource, &resource.list_kind));
    text.end()
}

/// `{"group": …, "version": …, "kind": …}`; v2 documents have such maps sorted.
pub(super) fn group_version_kind(form: Form, resource: &ResourceInfo, kind: &str) -> String {
    let [group, version, kind] = [&*resource.group, &*resource.version, kind].map(quoted);
    match form {
        Form::V2 => format!("{{\"group\":{group},\"kind\":{kind},\"version\":{version}}}"),
        Form::V3 => format!("{{\"group\":{group},\"version\":{version},\"kind\":{kind}}}"),
    }
}

pub(super) fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
const EMBEDDED: &str = "x-kubernetes-embedded-resource";
const INT_OR_STRING: &str = "x-kubernetes-int-or-string";
const VALIDATIONS: &str = "x-kubernetes-validations";

/// Extensions of kinds; schemas have their maps sorted in both forms.
fn of_resource(resource: &ResourceInfo, kind: &str) -> BTreeMap<&'static str, String> {
    let gvk = format!("[{}]", group_version_kind(Form::V2, resource, kind));
    let mut extensions = BTreeMap::from([("x-kubernetes-group-version-kind", gvk)]);
    if !resource.selectable_fields.is_empty() {
        let fields = resource.selectable_fields.iter();
        let fields: Vec<String> = fields.map(|field| format!("{{\"fieldPath\":{}}}", quoted(&field.name))).collect();
        extensions.insert("x-kubernetes-selectable-fields", format!("[{}]", fields.join(",")));
    }
    extensions
}

/// Extensions that a schema has of itself.
fn keywords(form: Form, schema: &Map<String, Value>, extensions: &mut BTreeMap<&'static str, String>) {
    for keyword in [PRESERVE, EMBEDDED, INT_OR_STRING] {
        if flag(schema, keyword) {
            extensions.insert(keyword, "true".to_owned());
        }
    }
    for keyword in ["x-kubernetes-list-map-keys", "x-kubernetes-list-type", "x-kubernetes-map-type"] {
        let is_empty = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        if let Some(value) = schema.get(keyword).filter(|value| !is_empty(value)) {
            extensions.insert(keyword, value.to_string());
        }
    }
    let rules = schema.get(VALIDATIONS).and_then(Value::as_array).filter(|rules| !rules.is_empty());
    if let Some(rules) = rules {
        let shown = match form {
            Form::V2 => Value::from(rules.clone()).to_string(),
            Form::V3 => format!("[{}]", rules.iter().map(rule).collect::<Vec<_>>().join(",")),
        };
        extensions.insert(VALIDATIONS, shown);
    }
}

/// A rule in the order of upstream's structure.
fn rule(rule: &Value) -> String {
    let mut text = Text::new();
    for key in ["rule", "message", "messageExpression", "reason", "fieldPath", "optionalOldSelf"] {
        text.optional(rule.as_object(), key);
    }
    text.end()
}

/// Writes a schema; what is read follows a definition whose depth is bounded, as it was read before.
fn place(
    form: Form,
    place: Place,
    schema: &Map<String, Value>,
    mut extensions: BTreeMap<&'static str, String>,
    text: &mut Text,
) {
    let is_structure = place != Place::Logic;
    let is_old = form == Form::V2;
    let (is_nullable, is_open) = (flag(schema, "nullable"), flag(schema, PRESERVE));
    // Readers of v2 cannot have parts beside values of no type, and not beside other fields.
    let has_parts = !is_old || !(is_nullable || is_open);
    let items = schema.get("items").and_then(Value::as_object).filter(|_| has_parts);
    let kind = schema.get("type").and_then(Value::as_str).unwrap_or_default();
    let is_untyped = is_old && (is_nullable || (kind == "array" && items.is_none()) || (kind == "object" && is_open));
    text.optional(Some(schema), "description");
    if !kind.is_empty() && !is_untyped {
        text.value("type", &kind.into());
    }
    if is_nullable && !is_old {
        text.raw("nullable", "true");
    }
    text.optional(Some(schema), "format");
    text.optional(Some(schema), "title");
    // Defaults are pruned, as those of built-in kinds are.
    if let Some(default) = schema.get("default").filter(|default| !is_old && !default.is_null()) {
        text.value("default", default);
    }
    for key in ["maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum", "maxLength", "minLength", "pattern"] {
        text.optional(Some(schema), key);
    }
    for key in ["maxItems", "minItems", "uniqueItems", "multipleOf", "enum", "maxProperties", "minProperties"] {
        text.optional(Some(schema), key);
    }
    let is_embedded = is_structure && flag(schema, EMBEDDED) && !(is_old && is_open);
    let properties = schema.get("properties").and_then(Value::as_object).filter(|_| has_parts);
    let required = required(schema, properties, is_old, is_embedded);
    if !required.is_empty() {
        text.value("required", &required.into());
    }
    if let Some(item) = items {
        let place = if is_structure { Place::Structure } else { Place::Logic };
        text.raw("items", &nested(form, place, item));
    }
    if !is_old {
        logic(schema, is_structure && flag(schema, INT_OR_STRING), text);
    }
    let mut parts: BTreeMap<&str, String> = BTreeMap::new();
    for (name, property) in properties.into_iter().flatten() {
        let within = if is_structure { Place::Structure } else { Place::Logic };
        let property = property.as_object().map_or_else(|| "{}".to_owned(), |property| nested(form, within, property));
        parts.insert(name, property);
    }
    if place == Place::Root {
        parts.insert("apiVersion", text_property(API_VERSION));
        parts.insert("kind", text_property(KIND));
        parts.insert("metadata", reference_property(form, OBJECT_META, "ObjectMeta"));
    }
    if is_embedded {
        parts.insert("apiVersion", text_property(EMBEDDED_API_VERSION));
        parts.insert("kind", text_property(EMBEDDED_KIND));
        parts.insert("metadata", reference_property(form, OBJECT_META, "ObjectMeta"));
    }
    text.properties(parts);
    match schema.get("additionalProperties") {
        Some(Value::Bool(allows)) => text.value("additionalProperties", &(*allows).into()),
        Some(Value::Object(inner)) => text.raw("additionalProperties", &nested(form, Place::Structure, inner)),
        _ => {}
    }
    if let Some(docs) = schema.get("externalDocs").and_then(Value::as_object) {
        let mut inner = Text::new();
        inner.optional(Some(docs), "description");
        inner.optional(Some(docs), "url");
        text.raw("externalDocs", &inner.end());
    }
    if let Some(example) = schema.get("example").filter(|example| !example.is_null()) {
        text.value("example", example);
    }
    keywords(form, schema, &mut extensions);
    text.extensions(extensions);
}

fn nested(form: Form, within: Place, schema: &Map<String, Value>) -> String {
    let mut text = Text::new();
    place(form, within, schema, BTreeMap::new(), &mut text);
    text.end()
}

fn logic(schema: &Map<String, Value>, is_int_or_string: bool, text: &mut Text) {
    const EITHER: &str = r#"[{"type":"integer"},{"type":"string"}]"#;
    let list = |key: &str| -> Vec<String> {
        let branches = schema.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object);
        branches.map(|branch| nested(Form::V3, Place::Logic, branch)).collect()
    };
    let [mut all, one, mut any] = ["allOf", "oneOf", "anyOf"].map(list);
    let shown = |branches: &[String]| format!("[{}]", branches.join(","));
    let says_so = shown(&any) == EITHER || all.first().is_some_and(|first| *first == format!("{{\"anyOf\":{EITHER}}}"));
    if is_int_or_string && !says_so {
        if any.is_empty() {
            any = ["integer", "string"].map(|kind| format!("{{\"type\":\"{kind}\"}}")).into();
        } else {
            all.insert(0, format!("{{\"anyOf\":{EITHER}}}"));
        }
    }
    for (key, branches) in [("allOf", all), ("oneOf", one), ("anyOf", any)] {
        if !branches.is_empty() {
            text.raw(key, &shown(&branches));
        }
    }
    if let Some(not) = schema.get("not").and_then(Value::as_object) {
        text.raw("not", &nested(Form::V3, Place::Logic, not));
    }
}

/// Names of properties that must be there. In v2 those are left out whose values may be null.
fn required(
    schema: &Map<String, Value>,
    properties: Option<&Map<String, Value>>,
    is_old: bool,
    is_embedded: bool,
) -> Vec<String> {
    let is_nullable = |value: Option<&Value>| value.is_some_and(|value| value.get("nullable") == Some(&true.into()));
    let mut names: Vec<String> = Vec::new();
    if !(is_old && is_nullable(schema.get("additionalProperties"))) {
        let given = schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        names.extend(given.map(str::to_owned));
    }
    names.retain(|name| !is_old || !is_nullable(properties.and_then(|properties| properties.get(name))));
    if is_embedded {
        for name in ["kind", "apiVersion"] {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
    }
    names
}

fn text_property(description: &str) -> String {
    let mut text = Text::new();
    text.value("description", &description.into());
    text.value("type", &"string".into());
    text.end()
}

/// A property that is described in another place. In v3 nothing may be beside a reference.
fn reference_property(form: Form, description: &str, name: &str) -> String {
    let reference = form.reference(&format!("{META}.{name}"));
    let mut text = Text::new();
    text.value("description", &description.into());
    match form {
        Form::V2 => text.raw("$ref", &reference),
        Form::V3 => text.raw("allOf", &format!("[{{\"$ref\":{reference}}}]")),
    }
    text.end()
}

fn flag(schema: &Map<String, Value>, key: &str) -> bool {
    schema.get(key) == Some(&Value::Bool(true))
}

/// A JSON object in the order in which it is written.
pub(super) struct Text(String);

impl Text {
    pub(super) fn new() -> Self {
        Self("{".to_owned())
    }

    /// A member whose value is JSON.
    pub(super) fn raw(&mut self, key: &str, value: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push_str(&quoted(key));
        self.0.push(':');
        self.0.push_str(value);
    }

    pub(super) fn value(&mut self, key: &str, value: &Value) {
        let mut shown = String::new();
        write(value, &mut shown);
        self.raw(key, &shown);
    }

    /// A member that is left out when it says nothing.
    fn optional(&mut self, of: Option<&Map<String, Value>>, key: &str) {
        let Some(value) = of.and_then(|of| of.get(key)) else { return };
        let is_nothing = match value {
            Value::Null | Value::Bool(false) => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            _ => false,
        };
        if !is_nothing {
            self.value(key, value);
        }
    }

    fn properties(&mut self, properties: BTreeMap<&str, String>) {
        if properties.is_empty() {
            return;
        }
        let mut inner = Self::new();
        for (name, property) in properties {
            inner.raw(name, &property);
        }
        self.raw("properties", &inner.end());
    }

    fn extensions(&mut self, extensions: BTreeMap<&str, String>) {
        for (name, extension) in extensions {
            self.raw(name, &extension);
        }
    }

    pub(super) fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// JSON with Go's forms of numbers.
fn write(value: &Value, out: &mut String) {
    match value {
        Value::Number(number) if !number.is_i64() && !number.is_u64() => {
            let float = number.as_f64().unwrap_or_default();
            let shown = number.to_string();
            match shown.split_once('e') {
                _ if float.fract() == 0.0 && float.abs() < 1e21 => out.push_str(&format!("{float:.0}")),
                Some((digits, exponent)) if !exponent.starts_with(['-', '+']) => {
                    out.push_str(&format!("{digits}e+{exponent}"));
                }
                _ => out.push_str(&shown),
            }
        }
        Value::Array(items) => {
            out.push('[');
            for (number, item) in items.iter().enumerate() {
                if number > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        Value::Object(members) => {
            let mut text = Text::new();
            for (key, value) in members {
                text.value(key, value);
            }
            out.push_str(&text.end());
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}
