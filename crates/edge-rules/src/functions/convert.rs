//! From one type to another.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::datum::Datum;
use crate::eval::{Eval, EvalError, fail, typed};
use crate::sql::ast::ColumnType;

/// What `cast` takes as its second argument.
pub(crate) const CAST_TYPES: [&str; 5] = ["bigint", "float", "string", "boolean", "bytea"];

/// Floats below fit an `i64`.
const INT_BELOW: f64 = 9.2e18;

pub(super) fn cast(arguments: &[Datum]) -> Eval {
    let value = &arguments[0];
    let target = arguments[1].to_text();
    let wrong = || fail(format!("cannot convert {} to {target}", typed(value)));
    Ok(match (target.as_str(), value) {
        ("bigint", Datum::Int(_))
        | ("float", Datum::Float(_))
        | ("string", Datum::String(_))
        | ("boolean", Datum::Bool(_))
        | ("bytea", Datum::Bytes(_)) => value.clone(),
        ("bigint", Datum::Float(number)) if number.abs() < INT_BELOW => Datum::Int(*number as i64),
        ("bigint", Datum::Bool(flag)) => Datum::Int(i64::from(*flag)),
        ("bigint", Datum::String(text)) => {
            text.trim().parse().map_or_else(|_| wrong(), |value| Ok(Datum::Int(value)))?
        }
        ("float", Datum::Int(number)) => Datum::Float(*number as f64),
        ("float", Datum::Bool(flag)) => Datum::Float(f64::from(u8::from(*flag))),
        ("float", Datum::String(text)) => {
            text.trim().parse().map_or_else(|_| wrong(), |value| Ok(Datum::Float(value)))?
        }
        ("string", Datum::Bytes(bytes)) => match std::str::from_utf8(bytes) {
            Ok(text) => Datum::from(text),
            Err(_) => return wrong(),
        },
        ("string", Datum::Int(_) | Datum::Float(_) | Datum::Bool(_)) => Datum::from(value.to_text()),
        ("boolean", Datum::Int(number)) => Datum::Bool(*number != 0),
        ("boolean", Datum::Float(number)) => Datum::Bool(*number != 0.0),
        ("boolean", Datum::String(text)) => match text.to_ascii_lowercase().as_str() {
            "true" | "t" | "1" => Datum::Bool(true),
            "false" | "f" | "0" => Datum::Bool(false),
            _ => return wrong(),
        },
        ("bytea", Datum::String(text)) => match BASE64.decode(text.as_bytes()) {
            Ok(bytes) => Datum::Bytes(bytes.into()),
            Err(_) => return wrong(),
        },
        _ => return wrong(),
    })
}

pub(super) fn encode(arguments: &[Datum]) -> Eval {
    match (&arguments[0], arguments[1].to_text().as_str()) {
        (Datum::String(text), "base64") => Ok(Datum::from(BASE64.encode(text.as_bytes()))),
        (Datum::Bytes(bytes), "base64") => Ok(Datum::from(BASE64.encode(bytes))),
        (_, "base64") => fail(format!("cannot encode {}", typed(&arguments[0]))),
        (_, other) => fail(format!("`{other}` is no encoding; `base64` is")),
    }
}

pub(super) fn decode(arguments: &[Datum]) -> Eval {
    match (&arguments[0], arguments[1].to_text().as_str()) {
        (Datum::String(text), "base64") => match BASE64.decode(text.as_bytes()) {
            Ok(bytes) => Ok(Datum::Bytes(bytes.into())),
            Err(error) => fail(format!("fail to decode base64: {error}")),
        },
        (_, "base64") => fail(format!("cannot decode {}", typed(&arguments[0]))),
        (_, other) => fail(format!("`{other}` is no encoding; `base64` is")),
    }
}

pub(super) fn hex2dec(arguments: &[Datum]) -> Eval {
    let text = arguments[0].to_text();
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(&text);
    match i64::from_str_radix(digits, 16) {
        Ok(value) => Ok(Datum::Int(value)),
        Err(_) => fail(format!("invalid hexadecimal value: {text}")),
    }
}

pub(super) fn dec2hex(arguments: &[Datum]) -> Eval {
    match &arguments[0] {
        Datum::Int(value) if *value < 0 => Ok(Datum::from(format!("-0x{:x}", value.unsigned_abs()))),
        Datum::Int(value) => Ok(Datum::from(format!("0x{value:x}"))),
        other => fail(format!("cannot convert {} to int64", typed(other))),
    }
}

pub(super) fn to_json(arguments: &[Datum]) -> Eval {
    Ok(Datum::from(arguments[0].to_json().to_string()))
}

pub(super) fn parse_json(arguments: &[Datum]) -> Eval {
    match &arguments[0] {
        Datum::String(text) => match serde_json::from_str::<serde_json::Value>(text) {
            Ok(value) => Ok(Datum::from(&value)),
            Err(error) => fail(format!("fail to parse json: {error}")),
        },
        other => fail(format!("parse_json takes a text, not {}", typed(other))),
    }
}

/// A message's value as a strict stream's column.
pub(crate) fn convert(value: &Datum, to: &ColumnType) -> Eval {
    let name = match to {
        ColumnType::Bigint => "int64",
        ColumnType::Float => "float64",
        ColumnType::String => "string",
        ColumnType::Bytea => "bytea",
        ColumnType::Datetime => "datetime",
        ColumnType::Boolean => "bool",
        ColumnType::Array(_) => "array",
        ColumnType::Struct(_) => "object",
    };
    Ok(match (to, value) {
        (_, Datum::Null)
        | (ColumnType::Bigint, Datum::Int(_))
        | (ColumnType::Float, Datum::Float(_))
        | (ColumnType::String, Datum::String(_))
        | (ColumnType::Bytea, Datum::Bytes(_))
        | (ColumnType::Datetime, Datum::Int(_) | Datum::String(_))
        | (ColumnType::Boolean, Datum::Bool(_)) => value.clone(),
        (ColumnType::Float, Datum::Int(number)) => Datum::Float(*number as f64),
        // JSON knows one kind of number, so 3.0 is a fine BIGINT.
        (ColumnType::Bigint, Datum::Float(number)) if number.fract() == 0.0 && number.abs() < INT_BELOW => {
            Datum::Int(*number as i64)
        }
        (ColumnType::Bytea, Datum::String(text)) => match BASE64.decode(text.as_bytes()) {
            Ok(bytes) => Datum::Bytes(bytes.into()),
            Err(_) => return fail(format!("cannot convert {} to {name}", typed(value))),
        },
        (ColumnType::Array(element), Datum::Array(items)) => {
            Datum::from(items.iter().map(|item| convert(item, element)).collect::<Result<Vec<_>, EvalError>>()?)
        }
        (ColumnType::Struct(columns), Datum::Object(fields)) => {
            let mut converted = std::collections::BTreeMap::new();
            for column in columns {
                if let Some(value) = fields.get(&column.name) {
                    converted.insert(column.name.clone(), convert(value, &column.column_type)?);
                }
            }
            Datum::from(converted)
        }
        _ => return fail(format!("cannot convert {} to {name}", typed(value))),
    })
}
