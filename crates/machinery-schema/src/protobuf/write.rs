//! Objects into messages.

use api_kube::{MicroTime, base64_text};
use serde_json::Value;

use crate::types::{Field, Items, Shape, Type, Wire};

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;

static NULL: Value = Value::Null;

/// Writes an object of a type.
pub(super) fn message(of: Type, object: &Value, out: &mut Vec<u8>) {
    fields(of, 0, object, out);
}

/// Writes the fields of a struct (`via` 0) or of one that is embedded in it, by ascending tag.
fn fields(of: Type, via: u16, object: &Value, out: &mut Vec<u8>) {
    let own = of.fields().filter(|field| field.via() == via && field.tag() > 0).map(|field| (field.tag(), Some(field)));
    let mut order: Vec<(u16, Option<Field>)> = own.collect();
    let mut embedded: Vec<u16> = of.fields().filter_map(|field| field.embedded_in(via)).collect();
    embedded.sort_unstable();
    embedded.dedup();
    order.extend(embedded.into_iter().map(|tag| (tag, None)));
    order.sort_unstable_by_key(|(tag, _)| *tag);
    for (tag, field) in order {
        match field {
            Some(field) => self::field(field, object.get(field.name()).unwrap_or(&NULL), out),
            // An embedded struct is no pointer: its message is always there.
            None => nested(out, tag, |inner| fields(of, via * 32 + tag, object, inner)),
        }
    }
}

fn field(field: Field, value: &Value, out: &mut Vec<u8>) {
    let tag = field.tag();
    match (field.shape(), value) {
        (Shape::List(items), Value::Array(list)) if field.is_wrapped_list() => nested(out, tag, |inner| {
            for item in list {
                item_field(items, 1, item, inner);
            }
        }),
        (Shape::List(items), Value::Array(list)) => {
            for item in list {
                item_field(items, tag, item, out);
            }
        }
        (Shape::Map(items), Value::Object(map)) => {
            for (key, item) in map {
                let mut entry = Vec::new();
                bytes_field(&mut entry, 1, key.as_bytes());
                item_field(items, 2, item, &mut entry);
                bytes_field(out, tag, &entry);
            }
        }
        (Shape::List(_) | Shape::Map(_), _) => {}
        // What can be nil and is not there is not written, the rest always.
        (Shape::Bytes | Shape::Json, Value::Null) => {}
        (_, Value::Null) if field.is_pointer() => {}
        (shape, value) => scalar(shape, field.wire(), tag, value, out),
    }
}

fn item_field(items: Items, tag: u16, value: &Value, out: &mut Vec<u8>) {
    match (items.shape(), value) {
        // A list within a map is a message with the items as its first field.
        (Shape::List(inner), Value::Array(list)) => {
            let mut message = Vec::new();
            for item in list {
                item_field(inner, 1, item, &mut message);
            }
            bytes_field(out, tag, &message);
        }
        (shape, value) => {
            let wire = match shape {
                Shape::Bool | Shape::Int32 | Shape::Int64 => Wire::Varint,
                Shape::Float => Wire::Fixed64,
                _ => Wire::Bytes,
            };
            scalar(shape, wire, tag, value, out);
        }
    }
}

fn scalar(shape: Shape, wire: Wire, tag: u16, value: &Value, out: &mut Vec<u8>) {
    match (shape, wire) {
        (Shape::Bool, _) => varint_field(out, tag, u64::from(value.as_bool().unwrap_or_default())),
        (Shape::Int32 | Shape::Int64, _) => varint_field(out, tag, value.as_i64().unwrap_or_default().cast_unsigned()),
        (Shape::Float, _) => {
            key(out, tag, FIXED64);
            out.extend_from_slice(&value.as_f64().unwrap_or_default().to_le_bytes());
        }
        (Shape::String, _) => bytes_field(out, tag, text(value).as_bytes()),
        (Shape::Bytes, _) => bytes_field(out, tag, &bytes(value)),
        (Shape::Json | Shape::RawExtension | Shape::FieldsV1, _) => {
            let mut raw = Vec::new();
            if !value.is_null() {
                bytes_field(&mut raw, 1, value.to_string().as_bytes());
            }
            bytes_field(out, tag, &raw);
        }
        (Shape::Struct(of), _) => nested(out, tag, |inner| message(of, value, inner)),
        (Shape::Time | Shape::MicroTime, _) => nested(out, tag, |inner| time(value, inner)),
        (Shape::Duration, _) => nested(out, tag, |inner| varint_field(inner, 1, 0)),
        (Shape::Quantity, _) => {
            nested(out, tag, |inner| bytes_field(inner, 1, value.as_str().unwrap_or("0").as_bytes()));
        }
        (Shape::IntOrString, _) => nested(out, tag, |inner| {
            varint_field(inner, 1, u64::from(value.is_string()));
            varint_field(inner, 2, value.as_i64().unwrap_or_default().cast_unsigned());
            bytes_field(inner, 3, text(value).as_bytes());
        }),
        (Shape::SchemaOrArray, _) => nested(out, tag, |inner| match value {
            Value::Array(list) => {
                for schema in list {
                    nested(inner, 2, |one| message(Type::json_schema(), schema, one));
                }
            }
            schema => nested(inner, 1, |one| message(Type::json_schema(), schema, one)),
        }),
        (Shape::SchemaOrBool, _) => nested(out, tag, |inner| {
            varint_field(inner, 1, u64::from(value.as_bool().unwrap_or(true)));
            if value.is_object() {
                nested(inner, 2, |one| message(Type::json_schema(), value, one));
            }
        }),
        (Shape::SchemaOrStrings, _) => nested(out, tag, |inner| match value {
            Value::Array(list) => list.iter().for_each(|item| bytes_field(inner, 2, text(item).as_bytes())),
            schema => nested(inner, 1, |one| message(Type::json_schema(), schema, one)),
        }),
        (Shape::List(_) | Shape::Map(_), _) => {}
    }
}

/// What a text says in base64. One that says nothing goes out as it is: a value that looks wrong is seen, an empty one is believed.
fn bytes(value: &Value) -> Vec<u8> {
    let text = text(value);
    base64_text::decode(text).unwrap_or_else(|_| text.as_bytes().to_vec())
}

fn time(value: &Value, out: &mut Vec<u8>) {
    let Ok(time) = text(value).parse::<MicroTime>() else { return };
    let time = time.timestamp();
    varint_field(out, 1, time.as_second().cast_unsigned());
    varint_field(out, 2, u64::from(time.subsec_nanosecond().unsigned_abs()));
}

fn nested(out: &mut Vec<u8>, tag: u16, write: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    write(&mut inner);
    bytes_field(out, tag, &inner);
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn key(out: &mut Vec<u8>, tag: u16, wire: u64) {
    varint(out, u64::from(tag) << 3 | wire);
}

fn varint_field(out: &mut Vec<u8>, tag: u16, value: u64) {
    key(out, tag, VARINT);
    varint(out, value);
}

/// A field of bytes, a text or a message.
pub(super) fn bytes_field(out: &mut Vec<u8>, tag: u16, bytes: &[u8]) {
    key(out, tag, BYTES);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
