//! Objects as Go reads and writes them: two walks along a type.
//!
//! [`decode`] takes what a client sent: unknown fields and nulls are taken away, zero values that JSON would leave out too,
//! times, quantities and base64 come into their canonical form, and a value of a wrong type is an error in the words of Go's
//! decoder. [`complete`] puts an object into the form in which it is stored and answered: fields that Go always writes are
//! there, empty ones that it leaves out are not.

mod time;

use std::{borrow::Cow, fmt::Write as _};

use api_kube::{Quantity, base64_text};
use serde_json::{Map, Value};

use crate::{
    bounded::{cut, push_bounded},
    field_error::UNKNOWN_FIELDS_MAX,
    go::json_type,
    types::{Field, Items, Omit, Shape, Type},
};
pub use time::{TimeForm, canonical_time};

/// A body is not of its type; in the words of Go's decoder.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(pub String);

/// A value shown in an error is cut to this.
const SHOWN_BYTES_MAX: usize = 512;

/// Reads an object of a type, in place; gives the paths of unknown fields, a hundred of them at most.
///
/// # Errors
/// The first value whose type is wrong.
pub fn decode(of: Type, object: &mut Value) -> Result<Vec<String>, DecodeError> {
    let mut walk =
        Decode { path: String::new(), fields: Vec::new(), unknown: Vec::new(), error: None, is_strict: true };
    match object {
        Value::Object(map) => walk.structure(of, map),
        other => {
            let found = json_type(other);
            let name = of.go_name();
            walk.fail(format!("json: cannot unmarshal {found} into Go value of type {}", qualified(of, name)));
        }
    }
    match walk.error {
        Some(error) => Err(DecodeError(error)),
        None => Ok(walk.unknown),
    }
}

/// Reads metadata that belong to an object of another kind; paths begin with `at`.
///
/// # Errors
/// As [`decode`].
pub fn decode_at(of: Type, object: &mut Value, at: &str) -> Result<Vec<String>, DecodeError> {
    let mut walk =
        Decode { path: at.to_owned(), fields: Vec::new(), unknown: Vec::new(), error: None, is_strict: true };
    let top = at.to_owned();
    walk.fields.push((String::new(), top));
    match object {
        Value::Object(map) => walk.structure(of, map),
        other => walk.mistyped(other, &qualified(of, of.go_name())),
    }
    match walk.error {
        Some(error) => Err(DecodeError(error)),
        None => Ok(walk.unknown),
    }
}

/// `v1.ObjectMeta`: the last part of the package and the name.
fn qualified(of: Type, name: &str) -> String {
    let package = of.name().rsplit('.').nth(1).unwrap_or_default();
    format!("{package}.{name}")
}

struct Decode {
    /// Where the walk is, with list positions and map keys, for unknown fields.
    path: String,
    /// The struct and the name of each field on the way, for errors of Go's decoder.
    fields: Vec<(String, String)>,
    unknown: Vec<String>,
    error: Option<String>,
    /// Types with a decoder of their own do not report unknown fields.
    is_strict: bool,
}

impl Decode {
    fn fail(&mut self, error: String) {
        // Go's decoder continues after a value of a wrong type and reports the first.
        self.error.get_or_insert(error);
    }

    fn mistyped(&mut self, value: &Value, go_type: &str) {
        self.cannot(json_type(value), go_type);
    }

    fn cannot(&mut self, found: &str, go_type: &str) {
        let place: Vec<&str> = self.fields.iter().map(|(_, name)| name.as_str()).collect();
        let within = self.fields.last().map_or("", |(name, _)| name.as_str());
        let mut error = String::from("json: cannot unmarshal ");
        error.push_str(found);
        if place.is_empty() {
            let _ = write!(error, " into Go value of type {go_type}");
        } else {
            let _ = write!(error, " into Go struct field {within}.{} of type {go_type}", place.join("."));
        }
        self.fail(error);
    }

    fn structure(&mut self, of: Type, map: &mut Map<String, Value>) {
        let name = of.go_name();
        map.retain(|key, value| {
            let Some(field) = of.field(key) else {
                if self.is_strict && self.unknown.len() < UNKNOWN_FIELDS_MAX {
                    let mark = enter(&mut self.path, key);
                    self.unknown.push(self.path.clone());
                    self.path.truncate(mark);
                }
                return false;
            };
            if value.is_null() && field.shape() != Shape::Json {
                return false;
            }
            let mark = enter(&mut self.path, key);
            self.fields.push((name.to_owned(), key.clone()));
            self.value(field.shape(), field.go_type(), value);
            self.fields.pop();
            self.path.truncate(mark);
            !(field.omit() != Omit::Never && !field.is_pointer() && is_zero_scalar(field.shape(), value))
        });
    }

    fn value(&mut self, shape: Shape, go_type: &str, value: &mut Value) {
        match (shape, &mut *value) {
            (Shape::Struct(of), Value::Object(map)) => self.structure(of, map),
            (Shape::List(items), Value::Array(list)) => {
                for (position, item) in list.iter_mut().enumerate() {
                    let mark = enter_item(&mut self.path, position);
                    self.item(items, item);
                    self.path.truncate(mark);
                }
            }
            (Shape::Map(items), Value::Object(map)) => {
                for (key, item) in map {
                    let mark = enter(&mut self.path, key);
                    self.item(items, item);
                    self.path.truncate(mark);
                }
            }
            (Shape::Bool, Value::Bool(_)) | (Shape::Json, _) => {}
            (Shape::Float, Value::Number(number)) => *value = float(number.as_f64().unwrap_or_default()),
            (Shape::String | Shape::Duration, Value::String(_)) => {}
            (Shape::Int32 | Shape::Int64, Value::Number(number)) => {
                let fits = number.as_i64().is_some_and(|whole| shape == Shape::Int64 || i32::try_from(whole).is_ok());
                if !fits {
                    let found = format!("number {number}");
                    self.cannot(&found, go_type);
                }
            }
            (Shape::Bytes, Value::String(text)) => match base64_text::canonical(text) {
                Ok(Cow::Borrowed(_)) => {}
                Ok(Cow::Owned(canonical)) => *text = canonical,
                Err(error) => self.fail(error.to_string()),
            },
            (Shape::Time | Shape::MicroTime, Value::String(text)) => {
                let form = if shape == Shape::Time { TimeForm::Seconds } else { TimeForm::Micros };
                match canonical_time(text, form) {
                    Ok(canonical) => *value = canonical.map_or(Value::Null, Value::String),
                    Err(error) => self.fail(cut(&error, SHOWN_BYTES_MAX).to_owned()),
                }
            }
            (Shape::Time | Shape::MicroTime, other) => {
                let error = format!("json: cannot unmarshal {} into Go value of type string", json_type(other));
                self.fail(error);
            }
            (Shape::Quantity, other) => {
                let text = match &*other {
                    Value::String(text) => text.trim().to_owned(),
                    other => cut(&other.to_string(), SHOWN_BYTES_MAX).to_owned(),
                };
                match text.parse::<Quantity>() {
                    Ok(quantity) => *value = Value::String(quantity.to_string()),
                    Err(error) => self.fail(error.to_string()),
                }
            }
            (Shape::IntOrString, Value::String(_)) => {}
            (Shape::IntOrString, Value::Number(number)) => {
                if number.as_i64().is_none_or(|whole| i32::try_from(whole).is_err()) {
                    let error = format!("json: cannot unmarshal number {number} into Go value of type int32");
                    self.fail(error);
                }
            }
            (Shape::IntOrString, other) => {
                let error = format!("json: cannot unmarshal {} into Go value of type int32", json_type(other));
                self.fail(error);
            }
            (Shape::RawExtension | Shape::FieldsV1, _) => {}
            (Shape::SchemaOrBool, Value::Bool(_)) => {}
            (Shape::SchemaOrBool | Shape::SchemaOrArray | Shape::SchemaOrStrings, Value::Object(_)) => {
                self.schema(value);
            }
            (Shape::SchemaOrArray, Value::Array(list)) => list.iter_mut().for_each(|schema| self.schema(schema)),
            (Shape::SchemaOrStrings, Value::Array(list)) if list.iter().all(Value::is_string) => {}
            (Shape::SchemaOrBool, _) => self.fail("boolean or JSON schema expected".to_owned()),
            (_, other) => self.mistyped(other, go_type),
        }
    }

    fn item(&mut self, items: Items, value: &mut Value) {
        if value.is_null() {
            // Go decodes a null into the zero value of the type; of bytes, none are no others than empty ones once they are stored.
            *value = if items.shape() == Shape::Bytes { Value::String(String::new()) } else { zero(items.shape()) };
        }
        self.value(items.shape(), items.go_type(), value);
    }

    /// A JSON schema within a type that has a decoder of its own.
    fn schema(&mut self, value: &mut Value) {
        let Value::Object(map) = value else { return };
        let (was_strict, fields) = (std::mem::replace(&mut self.is_strict, false), std::mem::take(&mut self.fields));
        self.structure(Type::json_schema(), map);
        self.is_strict = was_strict;
        self.fields = fields;
    }
}

/// Puts an object of a type into the form in which it is stored and answered.
pub fn complete(of: Type, object: &mut Value) {
    complete_as(of, object, Empty::Stored);
}

/// Puts an object of a type into the form in which Go has it before it is stored: the empty lists and maps that its author wrote
/// into fields that are always there are not null yet.
pub fn complete_unstored(of: Type, object: &mut Value) {
    complete_as(of, object, Empty::Written);
}

fn complete_as(of: Type, object: &mut Value, empty: Empty) {
    if let Value::Object(map) = object {
        complete_structure(of, map, empty);
    }
}

/// What becomes of an empty list or map in a field that is always there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Empty {
    /// Null: protobuf, in which upstream stores, has nothing to say of it.
    Stored,
    Written,
}

fn complete_structure(of: Type, map: &mut Map<String, Value>, empty: Empty) {
    let is_kept = empty == Empty::Written || of.name().contains(".apiextensions.");
    for field in of.fields() {
        match map.get_mut(field.name()) {
            Some(value) if !value.is_null() => {
                complete_value(field.shape(), value, empty);
                if is_left_out(field, value) {
                    map.remove(field.name());
                } else if field.omit() == Omit::Never && !is_kept && is_empty(field, value) {
                    *value = Value::Null;
                }
            }
            _ => match absent(field) {
                Some(value) => drop(map.insert(field.name().to_owned(), value)),
                None => drop(map.remove(field.name())),
            },
        }
    }
}

fn complete_value(shape: Shape, value: &mut Value, empty: Empty) {
    match (shape, value) {
        (Shape::Struct(of), Value::Object(map)) => complete_structure(of, map, empty),
        (Shape::List(items), Value::Array(list)) if is_nested(items.shape()) => {
            list.iter_mut().for_each(|item| complete_value(items.shape(), item, empty));
        }
        (Shape::Map(items), Value::Object(map)) if is_nested(items.shape()) => {
            map.values_mut().for_each(|item| complete_value(items.shape(), item, empty));
        }
        (Shape::SchemaOrArray, Value::Array(list)) => {
            list.iter_mut().for_each(|schema| complete_value(Shape::Struct(Type::json_schema()), schema, empty));
        }
        (Shape::SchemaOrArray | Shape::SchemaOrBool, schema @ Value::Object(_)) => {
            complete_value(Shape::Struct(Type::json_schema()), schema, empty);
        }
        _ => {}
    }
}

fn is_nested(shape: Shape) -> bool {
    matches!(shape, Shape::Struct(_) | Shape::List(_) | Shape::Map(_))
}

/// Whether it is a list or a map with nothing in it.
fn is_empty(field: Field, value: &Value) -> bool {
    match (field.shape(), value) {
        (Shape::List(_), Value::Array(list)) => list.is_empty(),
        (Shape::Map(_), Value::Object(map)) => map.is_empty(),
        _ => false,
    }
}

/// Whether Go leaves out a value that is there.
fn is_left_out(field: Field, value: &Value) -> bool {
    if field.omit() == Omit::Never {
        return false;
    }
    match (field.shape(), value) {
        (Shape::List(_), Value::Array(list)) => !field.is_pointer() && list.is_empty(),
        (Shape::Map(_), Value::Object(map)) => !field.is_pointer() && map.is_empty(),
        (shape, value) => !field.is_pointer() && is_zero_scalar(shape, value),
    }
}

/// What Go writes for a field that is not there.
fn absent(field: Field) -> Option<Value> {
    if field.is_pointer() {
        return (field.omit() == Omit::Never).then_some(Value::Null);
    }
    match (field.omit(), field.shape()) {
        (Omit::Never, shape) => Some(zero(shape)),
        (Omit::Zero, _) => None,
        // In Go these are structs, which are never empty.
        (
            Omit::Empty,
            shape @ (Shape::Struct(_)
            | Shape::Time
            | Shape::MicroTime
            | Shape::Quantity
            | Shape::IntOrString
            | Shape::RawExtension),
        ) => Some(zero(shape)),
        (Omit::Empty, _) => None,
    }
}

/// Go's zero value of a type, as JSON writes it.
fn zero(shape: Shape) -> Value {
    match shape {
        Shape::Bool => Value::Bool(false),
        Shape::Int32 | Shape::Int64 | Shape::Float | Shape::IntOrString => Value::from(0),
        Shape::String => Value::String(String::new()),
        Shape::Duration => Value::String("0s".to_owned()),
        Shape::Quantity => Value::String("0".to_owned()),
        Shape::FieldsV1 => Value::Object(Map::new()),
        Shape::Struct(of) => {
            let mut map = Map::new();
            complete_structure(of, &mut map, Empty::Stored);
            Value::Object(map)
        }
        Shape::Bytes
        | Shape::Time
        | Shape::MicroTime
        | Shape::RawExtension
        | Shape::Json
        | Shape::SchemaOrArray
        | Shape::SchemaOrBool
        | Shape::SchemaOrStrings
        | Shape::List(_)
        | Shape::Map(_) => Value::Null,
    }
}

/// Whether a value is the zero of a type that is neither struct nor list nor map.
fn is_zero_scalar(shape: Shape, value: &Value) -> bool {
    match (shape, value) {
        (Shape::Bool, Value::Bool(flag)) => !flag,
        (Shape::Int32 | Shape::Int64 | Shape::Float, Value::Number(number)) => number.as_f64() == Some(0.0),
        (Shape::String | Shape::Bytes | Shape::Duration, Value::String(text)) => text.is_empty(),
        (_, Value::Null) => shape != Shape::Json,
        _ => false,
    }
}

/// A number of a floating-point field as Go writes it: without a fraction when it has none.
pub(crate) fn float(number: f64) -> Value {
    const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() <= WHOLE_MAX {
        #[allow(clippy::cast_possible_truncation)]
        let whole = number as i64;
        return whole.into();
    }
    Value::from(number)
}

/// Appends a field name to a path, as far as there is space; the returned length takes it off again by `truncate`.
pub fn enter(path: &mut String, name: &str) -> usize {
    let mark = path.len();
    if mark > 0 {
        push_bounded(path, ".");
    }
    push_bounded(path, name);
    mark
}

/// Appends a list position to a path, as [`enter`] does a name.
pub fn enter_item(path: &mut String, position: usize) -> usize {
    let mark = path.len();
    push_bounded(path, &format!("[{position}]"));
    mark
}

/// Reads the metadata of any object; what has a wrong type is left for others to report. Paths begin with `metadata`.
pub fn prune_metadata(metadata: &mut Value) -> Vec<String> {
    decode_at(Type::object_meta(), metadata, "metadata").unwrap_or_default()
}

#[cfg(test)]
mod tests;
