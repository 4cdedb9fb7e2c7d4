//! Walks a value along its definition: unknown fields, nulls, types, required fields.

use serde_json::Value;

use super::{Definition, Shape, definition_at};
use crate::{
    DEPTH_MAX, FieldError,
    bounded::push_bounded,
    field_error::{ERRORS_MAX, UNKNOWN_FIELDS_MAX},
};

/// See [`super::prune`]. `path` is where `object` is and is left as it was.
pub fn prune_object(
    definition: &'static Definition,
    object: &mut Value,
    path: &mut String,
    unknown: &mut Vec<String>,
    depth: usize,
) {
    let Value::Object(map) = object else { return };
    if definition.fields.is_empty() {
        return;
    }
    map.retain(|name, value| {
        let Some(field) = definition.field(name) else {
            if unknown.len() < UNKNOWN_FIELDS_MAX {
                let mark = enter(path, name);
                unknown.push(path.clone());
                path.truncate(mark);
            }
            return false;
        };
        if value.is_null() && !matches!(field.shape, Shape::Any) {
            return false;
        }
        let mark = enter(path, name);
        prune_shape(&field.shape, value, path, unknown, depth + 1);
        path.truncate(mark);
        true
    });
}

fn prune_shape(shape: &'static Shape, value: &mut Value, path: &mut String, unknown: &mut Vec<String>, depth: usize) {
    if depth > DEPTH_MAX {
        return;
    }
    match (shape, value) {
        (Shape::Object(number), value) => prune_object(definition_at(*number), value, path, unknown, depth),
        (Shape::Map(inner), Value::Object(map)) => {
            for (key, value) in map {
                // Go decodes a null into the zero value of the type.
                if value.is_null() && matches!(inner, Shape::Text) {
                    *value = Value::String(String::new());
                }
                let mark = enter(path, key);
                prune_shape(inner, value, path, unknown, depth + 1);
                path.truncate(mark);
            }
        }
        (Shape::List(list), Value::Array(items)) => {
            for (position, item) in items.iter_mut().enumerate() {
                let mark = enter_item(path, position);
                prune_shape(&list.items, item, path, unknown, depth + 1);
                path.truncate(mark);
            }
        }
        _ => {}
    }
}

/// Where types differ from the definition and which required fields are missing, up to [`ERRORS_MAX`] of them. `path` is empty at the top.
pub fn validate_types(definition: &'static Definition, object: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check_object(definition, object, &mut path.to_owned(), &mut errors, 0);
    errors
}

fn check_object(
    definition: &'static Definition,
    object: &Value,
    path: &mut String,
    errors: &mut Vec<FieldError>,
    depth: usize,
) {
    if errors.len() >= ERRORS_MAX {
        return;
    }
    let Value::Object(map) = object else {
        errors.push(wrong_type(path, object, "object"));
        return;
    };
    for field in definition.fields {
        match map.get(field.name) {
            Some(value) if !value.is_null() => {
                let mark = enter(path, field.name);
                check_shape(&field.shape, value, path, errors, depth + 1);
                path.truncate(mark);
            }
            Some(_) if matches!(field.shape, Shape::Any) => {}
            _ if field.required => {
                let mark = enter(path, field.name);
                errors.push(FieldError::required(path.as_str(), ""));
                path.truncate(mark);
            }
            _ => {}
        }
    }
}

fn check_shape(shape: &'static Shape, value: &Value, path: &mut String, errors: &mut Vec<FieldError>, depth: usize) {
    if errors.len() >= ERRORS_MAX {
        return;
    }
    if depth > DEPTH_MAX {
        errors.push(FieldError::forbidden(path.as_str(), format!("nested deeper than {DEPTH_MAX} levels")));
        return;
    }
    let expected = match (shape, value) {
        (Shape::Any, _) => return,
        (Shape::Object(number), _) if definition_at(*number).fields.is_empty() => match value {
            Value::Object(_) => return,
            _ => "object",
        },
        (Shape::Object(number), _) => return check_object(definition_at(*number), value, path, errors, depth),
        (Shape::Map(inner), Value::Object(map)) => {
            for (key, value) in map {
                let mark = enter(path, key);
                // Go decodes a null into the zero value of the type.
                if !value.is_null() {
                    check_shape(inner, value, path, errors, depth + 1);
                }
                path.truncate(mark);
            }
            return;
        }
        (Shape::List(list), Value::Array(items)) => {
            for (position, item) in items.iter().enumerate() {
                let mark = enter_item(path, position);
                check_shape(&list.items, item, path, errors, depth + 1);
                path.truncate(mark);
            }
            return;
        }
        (Shape::Text, Value::String(_)) | (Shape::Boolean, Value::Bool(_)) | (Shape::Number, Value::Number(_)) => {
            return;
        }
        (Shape::AnyObject, Value::Object(_)) => return,
        (Shape::Integer32, Value::Number(number)) => match number.as_i64() {
            Some(number) if i32::try_from(number).is_ok() => return,
            Some(_) => {
                errors.push(FieldError::invalid(path.as_str(), value, "must fit into 32 bits"));
                return;
            }
            None => "integer",
        },
        (Shape::Integer64, Value::Number(number)) if number.is_i64() => return,
        (Shape::IntOrString, Value::String(_)) => return,
        (Shape::IntOrString, Value::Number(number)) if number.is_i64() => return,
        (Shape::Quantity, Value::Number(_) | Value::String(_)) => {
            // A number is read as its text is.
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            if let Err(error) = text.parse::<api_kube::Quantity>() {
                errors.push(FieldError::invalid(path.as_str(), value, error.to_string()));
            }
            return;
        }
        (Shape::Time, Value::String(text)) => {
            if text.parse::<api_kube::MicroTime>().is_err() {
                errors.push(FieldError::invalid(path.as_str(), value, "must be a time in RFC 3339 form"));
            }
            return;
        }
        (Shape::MicroTime, Value::String(text)) => {
            // Go's clients take exactly six digits here, and fail on a whole list that has others.
            let has_six = text.as_bytes().get(19) == Some(&b'.')
                && text.bytes().skip(20).take_while(u8::is_ascii_digit).count() == 6;
            if !has_six || text.parse::<api_kube::MicroTime>().is_err() {
                let detail = "must be a time in RFC 3339 form with six digits of a fraction";
                errors.push(FieldError::invalid(path.as_str(), value, detail));
            }
            return;
        }
        (Shape::Base64, Value::String(text)) => {
            if !is_base64(text) {
                errors.push(FieldError::invalid(path.as_str(), value, "must be base64"));
            }
            return;
        }
        (shape, _) => match shape {
            Shape::Text | Shape::Time | Shape::MicroTime | Shape::Base64 => "string",
            Shape::Boolean => "boolean",
            Shape::Number => "number",
            Shape::Integer32 | Shape::Integer64 => "integer",
            Shape::IntOrString => "integer or string",
            Shape::Quantity => "string",
            Shape::List(_) => "array",
            _ => "object",
        },
    };
    errors.push(wrong_type(path, value, expected));
}

fn wrong_type(path: &str, value: &Value, expected: &str) -> FieldError {
    let shown = if path.is_empty() { "body" } else { path };
    let found = Value::String(crate::field_error::type_name(value).to_owned());
    FieldError::type_invalid(path, &found, format!("{shown} in body must be of type {expected}: {found}"))
}

/// Standard alphabet with padding; Go skips line ends within.
pub fn is_base64(text: &str) -> bool {
    let (mut digits, mut pads) = (0usize, 0usize);
    for byte in text.bytes() {
        match byte {
            b'\r' | b'\n' => {}
            b'=' => pads += 1,
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' if pads == 0 => digits += 1,
            _ => return false,
        }
    }
    (digits + pads).is_multiple_of(4) && pads <= 2
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
