//! Parts of a definition as messages show them.
//!
//! The reference implementation puts its own structures into some messages (`spec.versions: Invalid value: [{"Name":"v1",…`),
//! so their field names and order are part of the contract.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Dependency, Items, Limits, Rule, Schema, SchemaOrBool};
use crate::go::{write_json, write_json_text};

/// Writes a structure field by field.
struct Struct<'o> {
    out: &'o mut String,
    is_first: bool,
}

impl<'o> Struct<'o> {
    fn new(out: &'o mut String) -> Self {
        out.push('{');
        Self { out, is_first: true }
    }

    fn field(&mut self, name: &str) -> &mut String {
        if !self.is_first {
            self.out.push(',');
        }
        self.is_first = false;
        write_json_text(self.out, name);
        self.out.push(':');
        self.out
    }

    fn json(&mut self, name: &str, value: impl Into<Value>) {
        write_json(self.field(name), &value.into());
    }

    fn end(self) {
        self.out.push('}');
    }
}

/// `spec.versions` as it is inside of the reference implementation. What all versions have in common has moved out of
/// them, so such fields are null.
pub(crate) fn show_versions(versions: &[Value], is_common: impl Fn(&str) -> bool) -> String {
    let mut out = String::new();
    write_list(&mut out, versions, true, |out, version| {
        let empty = Map::new();
        let version = version.as_object().unwrap_or(&empty);
        let given = |key: &str| version.get(key).filter(|value| !value.is_null() && !is_common(key));
        let mut fields = Struct::new(out);
        fields.json("Name", super::text(version, "name").as_ref());
        fields.json("Served", super::flag(version, "served"));
        fields.json("Storage", super::flag(version, "storage"));
        fields.json("Deprecated", super::flag(version, "deprecated"));
        fields.json("DeprecationWarning", version.get("deprecationWarning").cloned().unwrap_or_default());
        let schema = fields.field("Schema");
        match given("schema") {
            Some(validation) => {
                let mut inner = Struct::new(schema);
                let found = validation.get("openAPIV3Schema").filter(|schema| schema.is_object());
                let read = found.and_then(|schema| Schema::read(schema).ok());
                write_optional(inner.field("OpenAPIV3Schema"), read.as_ref(), write_schema);
                inner.end();
            }
            None => schema.push_str("null"),
        }
        write_optional(fields.field("Subresources"), given("subresources"), write_subresources);
        let columns = given("additionalPrinterColumns").and_then(Value::as_array);
        write_columns(fields.field("AdditionalPrinterColumns"), columns.map_or(&[], Vec::as_slice));
        let selectable = given("selectableFields").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        write_list(fields.field("SelectableFields"), selectable, false, |out, field| {
            let mut fields = Struct::new(out);
            fields.json("JSONPath", field.get("jsonPath").cloned().unwrap_or_else(|| "".into()));
            fields.end();
        });
        fields.end();
    });
    out
}

pub(crate) fn show_schema(schema: &Schema) -> String {
    let mut out = String::new();
    write_schema(&mut out, schema);
    out
}

pub(crate) fn show_rule(rule: &Rule) -> String {
    let mut out = String::new();
    write_rule(&mut out, rule);
    out
}

fn write_columns(out: &mut String, columns: &[Value]) {
    write_list(out, columns, false, |out, column| {
        let empty = Map::new();
        let column = column.as_object().unwrap_or(&empty);
        let mut fields = Struct::new(out);
        for (name, key) in [("Name", "name"), ("Type", "type"), ("Format", "format"), ("Description", "description")] {
            fields.json(name, super::text(column, key).as_ref());
        }
        fields.json("Priority", column.get("priority").and_then(Value::as_i64).unwrap_or(0));
        fields.json("JSONPath", super::text(column, "jsonPath").as_ref());
        fields.end();
    });
}

fn write_subresources(out: &mut String, subresources: &Value) {
    let mut fields = Struct::new(out);
    let status = subresources.get("status").filter(|status| !status.is_null());
    write_optional(fields.field("Status"), status, |out, _| out.push_str("{}"));
    let scale = subresources.get("scale").and_then(Value::as_object);
    write_optional(fields.field("Scale"), scale, |out, scale| {
        let mut fields = Struct::new(out);
        fields.json("SpecReplicasPath", super::text(scale, "specReplicasPath").as_ref());
        fields.json("StatusReplicasPath", super::text(scale, "statusReplicasPath").as_ref());
        fields.json("LabelSelectorPath", scale.get("labelSelectorPath").cloned().unwrap_or_default());
        fields.end();
    });
    fields.end();
}

fn write_rule(out: &mut String, rule: &Rule) {
    let mut fields = Struct::new(out);
    fields.json("Rule", &*rule.rule);
    fields.json("Message", &*rule.message);
    fields.json("MessageExpression", &*rule.message_expression);
    fields.json("Reason", rule.reason.as_deref().map_or(Value::Null, Value::from));
    fields.json("FieldPath", &*rule.field_path);
    fields.json("OptionalOldSelf", rule.optional_old_self.map_or(Value::Null, Value::from));
    fields.end();
}

fn write_schema(out: &mut String, schema: &Schema) {
    let none = Limits::default();
    let limits = schema.limits.as_deref().unwrap_or(&none);
    let unsupported = schema.unsupported.clone().unwrap_or_default();
    let words = schema.words.clone().unwrap_or_default();
    let number = |number: Option<f64>| number.map_or(Value::Null, Value::from);
    let count = |count: Option<i64>| count.map_or(Value::Null, Value::from);
    let mut fields = Struct::new(out);
    fields.json("ID", &*unsupported.id);
    fields.json("Schema", &*unsupported.schema);
    fields.json("Ref", unsupported.reference.as_deref().map_or(Value::Null, Value::from));
    fields.json("Description", &*words.description);
    fields.json("Type", &*schema.kind);
    fields.json("Nullable", schema.nullable);
    fields.json("Format", &*schema.format);
    fields.json("Title", &*words.title);
    fields.json("Default", schema.default.clone().unwrap_or_default());
    fields.json("Maximum", number(limits.maximum));
    fields.json("ExclusiveMaximum", limits.exclusive_maximum);
    fields.json("Minimum", number(limits.minimum));
    fields.json("ExclusiveMinimum", limits.exclusive_minimum);
    fields.json("MaxLength", count(limits.length_max));
    fields.json("MinLength", count(limits.length_min));
    fields.json("Pattern", &*limits.pattern);
    fields.json("MaxItems", count(limits.items_max));
    fields.json("MinItems", count(limits.items_min));
    fields.json("UniqueItems", limits.unique_items);
    fields.json("MultipleOf", number(limits.multiple_of));
    fields.json("Enum", if schema.allowed.is_empty() { Value::Null } else { schema.allowed.clone().into() });
    fields.json("MaxProperties", count(limits.properties_max));
    fields.json("MinProperties", count(limits.properties_min));
    write_names(fields.field("Required"), &schema.required);
    write_optional(fields.field("Items"), schema.items.as_ref(), |out, items| {
        let mut fields = Struct::new(out);
        let (one, many): (Option<&Schema>, &[Schema]) = match items {
            Items::One(item) => (Some(item), &[]),
            Items::Many(items) => (None, items),
        };
        write_optional(fields.field("Schema"), one, write_schema);
        write_list(fields.field("JSONSchemas"), many, false, write_schema);
        fields.end();
    });
    write_list(fields.field("AllOf"), schema.all_of(), false, write_schema);
    write_list(fields.field("OneOf"), schema.one_of(), false, write_schema);
    write_list(fields.field("AnyOf"), schema.any_of(), false, write_schema);
    write_optional(fields.field("Not"), schema.not(), write_schema);
    write_schemas(fields.field("Properties"), &schema.properties);
    write_optional(fields.field("AdditionalProperties"), schema.additional.as_ref(), write_schema_or_bool);
    write_schemas(fields.field("PatternProperties"), &unsupported.pattern_properties);
    write_optional(fields.field("Dependencies"), unsupported.dependencies.as_ref(), |out, dependencies| {
        let mut fields = Struct::new(out);
        for (name, dependency) in dependencies {
            let mut inner = Struct::new(fields.field(name));
            let (schema, names): (Option<&Schema>, &[Box<str>]) = match dependency {
                Dependency::Schema(schema) => (Some(schema), &[]),
                Dependency::Property(names) => (None, names),
            };
            write_optional(inner.field("Schema"), schema, write_schema);
            write_names(inner.field("Property"), names);
            inner.end();
        }
        fields.end();
    });
    write_optional(fields.field("AdditionalItems"), unsupported.additional_items.as_ref(), write_schema_or_bool);
    write_schemas(fields.field("Definitions"), &unsupported.definitions);
    write_optional(fields.field("ExternalDocs"), words.external_docs.as_ref(), |out, docs| {
        let mut fields = Struct::new(out);
        fields.json("Description", docs.get("description").cloned().unwrap_or_else(|| "".into()));
        fields.json("URL", docs.get("url").cloned().unwrap_or_else(|| "".into()));
        fields.end();
    });
    fields.json("Example", words.example.clone().unwrap_or_default());
    fields.json("XPreserveUnknownFields", schema.preserve_unknown.map_or(Value::Null, Value::from));
    fields.json("XEmbeddedResource", schema.embedded_resource);
    fields.json("XIntOrString", schema.int_or_string);
    write_names(fields.field("XListMapKeys"), &schema.list_map_keys);
    fields.json("XListType", schema.list_type.as_deref().map_or(Value::Null, Value::from));
    fields.json("XMapType", schema.map_type.as_deref().map_or(Value::Null, Value::from));
    write_list(fields.field("XValidations"), &schema.rules, false, write_rule);
    fields.end();
}

fn write_schema_or_bool(out: &mut String, value: &SchemaOrBool) {
    let (allows, schema) = match value {
        SchemaOrBool::Bool(allows) => (*allows, None),
        SchemaOrBool::Schema(schema) => (true, Some(&**schema)),
    };
    let mut fields = Struct::new(out);
    fields.json("Allows", allows);
    write_optional(fields.field("Schema"), schema, write_schema);
    fields.end();
}

fn write_schemas(out: &mut String, schemas: &BTreeMap<Box<str>, Schema>) {
    if schemas.is_empty() {
        out.push_str("null");
        return;
    }
    let mut fields = Struct::new(out);
    for (name, schema) in schemas {
        write_schema(fields.field(name), schema);
    }
    fields.end();
}

fn write_names(out: &mut String, names: &[Box<str>]) {
    write_list(out, names, false, |out, name| write_json_text(out, name));
}

/// A list; an empty one is null unless it was given as empty.
fn write_list<T>(out: &mut String, items: &[T], is_given: bool, mut write: impl FnMut(&mut String, &T)) {
    if items.is_empty() && !is_given {
        out.push_str("null");
        return;
    }
    out.push('[');
    for (position, item) in items.iter().enumerate() {
        if position > 0 {
            out.push(',');
        }
        write(out, item);
    }
    out.push(']');
}

fn write_optional<T: ?Sized>(out: &mut String, value: Option<&T>, write: impl FnOnce(&mut String, &T)) {
    match value {
        Some(value) => write(out, value),
        None => out.push_str("null"),
    }
}
