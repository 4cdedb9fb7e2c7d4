//! What upstream says of a value that a strategic merge patch made and that does not fit its type.
//!
//! Such a patch never becomes text: its result is turned into the type by reflection, which has words of its own.

use machinery_schema::types::{Shape, Type};
use serde_json::Value;

/// The first value that does not fit. Types that read their own JSON are left to the decoder.
pub(super) fn misfit(of: Type, object: &Value) -> Option<String> {
    in_shape(Shape::Struct(of), "", object)
}

fn in_shape(shape: Shape, go_type: &str, value: &Value) -> Option<String> {
    let name = go_type.trim_start_matches('*');
    match (shape, value) {
        (_, Value::Null) => None,
        (Shape::Struct(of), Value::Object(map)) => of
            .fields()
            .find_map(|field| map.get(field.name()).and_then(|value| in_shape(field.shape(), field.go_type(), value))),
        (Shape::Struct(_), other) => Some(format!("cannot restore struct from: {}", kind(other))),
        (Shape::List(items), Value::Array(list)) => {
            list.iter().find_map(|item| in_shape(items.shape(), items.go_type(), item))
        }
        (Shape::List(_), other) => Some(format!("cannot restore slice from {}", kind(other))),
        (Shape::Map(items), Value::Object(map)) => {
            map.values().find_map(|item| in_shape(items.shape(), items.go_type(), item))
        }
        (Shape::Map(_), other) => Some(format!("cannot restore map from {}", kind(other))),
        (Shape::Bytes, Value::String(_)) => None,
        (Shape::Bytes, other) => Some(format!("cannot restore slice from {}", kind(other))),
        (Shape::Bool, Value::Bool(_)) | (Shape::String, Value::String(_)) | (Shape::Float, Value::Number(_)) => None,
        (Shape::Int32 | Shape::Int64, Value::Number(number)) => {
            let is_whole = !number.is_f64() || number.as_f64().is_some_and(|float| float.fract() == 0.0);
            (!is_whole).then(|| format!("cannot convert float64 to {name}"))
        }
        (Shape::String, Value::Number(number)) if !number.is_f64() => Some(format!("cannot convert int64 to {name}")),
        (Shape::Bool, _) => Some("unrecognized type: bool".to_owned()),
        (Shape::String, _) => Some("unrecognized type: string".to_owned()),
        (Shape::Int32, _) => Some("unrecognized type: int32".to_owned()),
        (Shape::Int64, _) => Some("unrecognized type: int64".to_owned()),
        (Shape::Float, _) => Some("unrecognized type: float64".to_owned()),
        _ => None,
    }
}

/// The kind of a decoded value, in Go.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "invalid",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
    }
}
