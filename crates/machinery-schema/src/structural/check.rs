//! Checks a value against a schema, in the words of the reference implementation.

use std::{
    cmp::Ordering,
    net::{Ipv4Addr, Ipv6Addr},
};

use serde_json::{Map, Number, Value};

use super::{Additional, Format, Limits, ListType, Logic, Node, NodeType};
use crate::{
    DEPTH_MAX, FieldError,
    builtin::{enter, enter_item, is_base64},
    field_error::type_name,
};

/// Beyond this many mistakes nobody reads on, and the answer would grow without bound.
const ERRORS_MAX: usize = 64;

pub(super) fn check(node: &Node, value: &Value, path: &mut String, errors: &mut Vec<FieldError>, depth: usize) {
    if errors.len() >= ERRORS_MAX {
        return;
    }
    if depth > DEPTH_MAX {
        errors.push(FieldError::forbidden(path.as_str(), format!("nested deeper than {DEPTH_MAX} levels")));
        return;
    }
    if value.is_null() && node.nullable {
        return;
    }
    if !has_type(node, value) {
        let expected = if node.int_or_string { "integer,string" } else { node.kind.map_or("object", NodeType::as_str) };
        let found = Value::String(type_name(value).to_owned());
        let detail = format!("{path} in body must be of type {expected}: {found}");
        errors.push(FieldError::type_invalid(path.as_str(), &found, detail));
        return;
    }
    if let Some(allowed) = &node.allowed
        && !allowed.iter().any(|word| equal(word, value))
    {
        let words: Vec<String> =
            allowed.iter().map(|word| word.as_str().map_or_else(|| word.to_string(), str::to_owned)).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        errors.push(FieldError::not_supported(path.as_str(), value, &words));
    }
    if let Some(limits) = &node.limits {
        check_limits(limits, value, path, errors);
    }
    match value {
        Value::Object(map) => check_object(node, map, path, errors, depth),
        Value::Array(items) => check_array(node, value, items, path, errors, depth),
        _ => {}
    }
    if let Some(logic) = &node.logic {
        check_logic(logic, value, path, errors, depth);
    }
}

fn has_type(node: &Node, value: &Value) -> bool {
    if node.int_or_string {
        return value.is_string() || value.is_i64() || value.is_u64();
    }
    match node.kind {
        None => true,
        Some(NodeType::Object) => value.is_object(),
        Some(NodeType::Array) => value.is_array(),
        Some(NodeType::String) => value.is_string(),
        Some(NodeType::Boolean) => value.is_boolean(),
        Some(NodeType::Number) => value.is_number(),
        // 1.0 is an integer to JSON Schema.
        Some(NodeType::Integer) => value.as_f64().is_some_and(|number| number.fract() == 0.0),
    }
}

fn check_object(node: &Node, map: &Map<String, Value>, path: &mut String, errors: &mut Vec<FieldError>, depth: usize) {
    for name in &node.required {
        if !map.contains_key(&**name) {
            let mark = enter(path, name);
            errors.push(FieldError::required(path.as_str(), ""));
            path.truncate(mark);
        }
    }
    for (name, value) in map {
        let inner = match (node.properties.get(name.as_str()), &node.additional) {
            (Some(inner), _) => inner,
            (None, Some(Additional::Schema(inner))) => inner,
            _ => continue,
        };
        let mark = enter(path, name);
        check(inner, value, path, errors, depth + 1);
        path.truncate(mark);
    }
}

fn check_array(
    node: &Node,
    value: &Value,
    items: &[Value],
    path: &mut String,
    errors: &mut Vec<FieldError>,
    depth: usize,
) {
    if let Some(inner) = &node.items {
        for (position, item) in items.iter().enumerate() {
            let mark = enter_item(path, position);
            check(inner, item, path, errors, depth + 1);
            path.truncate(mark);
        }
    }
    let is_unique = node.limits.as_ref().is_some_and(|limits| limits.unique_items);
    let identity = |item: &Value| -> Option<String> {
        match &node.list_type {
            ListType::Map(keys) => {
                let keys: Vec<Option<&Value>> = keys.iter().map(|key| item.get(&**key)).collect();
                Some(format!("{keys:?}"))
            }
            ListType::Set => Some(item.to_string()),
            ListType::Atomic if is_unique => Some(item.to_string()),
            ListType::Atomic => None,
        }
    };
    let mut seen = std::collections::HashSet::new();
    for (position, item) in items.iter().enumerate() {
        if let Some(identity) = identity(item)
            && !seen.insert(identity)
        {
            if is_unique {
                let detail = format!("{path} in body shouldn't contain duplicates");
                errors.push(FieldError::invalid(path.as_str(), value, detail));
                return;
            }
            let mark = enter_item(path, position);
            errors.push(FieldError::duplicate(path.as_str(), item));
            path.truncate(mark);
        }
    }
}

fn check_limits(limits: &Limits, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let mut refuse = |detail: String| errors.push(FieldError::invalid(path, value, format!("{path} in body {detail}")));
    match value {
        Value::Number(number) => {
            if let Some(minimum) = &limits.minimum {
                match (compare(number, minimum), limits.exclusive_minimum) {
                    (Ordering::Less, false) => refuse(format!("should be greater than or equal to {minimum}")),
                    (Ordering::Less | Ordering::Equal, true) => refuse(format!("should be greater than {minimum}")),
                    _ => {}
                }
            }
            if let Some(maximum) = &limits.maximum {
                match (compare(number, maximum), limits.exclusive_maximum) {
                    (Ordering::Greater, false) => refuse(format!("should be less than or equal to {maximum}")),
                    (Ordering::Greater | Ordering::Equal, true) => refuse(format!("should be less than {maximum}")),
                    _ => {}
                }
            }
            if let (Some(step), Some(number)) = (limits.multiple_of, number.as_f64())
                && step > 0.0
                && ((number / step) - (number / step).round()).abs() > 1e-9
            {
                refuse(format!("should be a multiple of {step}"));
            }
        }
        Value::String(text) => {
            if let Some(least) = limits.length_min
                && text.chars().count() < least
            {
                refuse(format!("should be at least {least} chars long"));
            }
            if let Some(pattern) = &limits.pattern
                && !pattern.is_match(text)
            {
                refuse(format!("should match '{pattern}'"));
            }
            if let Some(most) = limits.length_max
                && text.chars().count() > most
            {
                errors.push(FieldError::too_long(path, most));
            }
        }
        Value::Array(items) => {
            if let Some(least) = limits.items_min
                && items.len() < least
            {
                refuse(format!("should have at least {least} items"));
            }
            if let Some(most) = limits.items_max
                && items.len() > most
            {
                errors.push(FieldError::too_many(path, items.len(), most));
            }
        }
        Value::Object(map) => {
            if let Some(least) = limits.properties_min
                && map.len() < least
            {
                refuse(format!("should have at least {least} properties"));
            }
            if let Some(most) = limits.properties_max
                && map.len() > most
            {
                errors.push(FieldError::too_many(path, map.len(), most));
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
    if let Some(format) = limits.format
        && let Some(name) = misses_format(format, value)
    {
        let detail = format!("{path} in body must be of type {name}: {value}");
        errors.push(FieldError::invalid(path, value, detail));
    }
}

/// The name of the format when the value does not have it.
fn misses_format(format: Format, value: &Value) -> Option<&'static str> {
    let text = value.as_str();
    let (name, holds) = match format {
        Format::Int32 => {
            ("int32", value.as_f64().is_none_or(|number| (-2_147_483_648.0..=2_147_483_647.0).contains(&number)))
        }
        Format::Int64 => ("int64", !value.is_number() || value.is_i64() || value.is_f64()),
        Format::DateTime => ("date-time", text.is_none_or(|text| text.parse::<jiff::Timestamp>().is_ok())),
        Format::Date => ("date", text.is_none_or(|text| text.parse::<jiff::civil::Date>().is_ok())),
        Format::Byte => ("byte", text.is_none_or(is_base64)),
        Format::Ipv4 => ("ipv4", text.is_none_or(|text| text.parse::<Ipv4Addr>().is_ok())),
        Format::Ipv6 => ("ipv6", text.is_none_or(|text| text.parse::<Ipv6Addr>().is_ok())),
        Format::Uuid => ("uuid", text.is_none_or(is_uuid)),
    };
    (!holds).then_some(name)
}

fn check_logic(logic: &Logic, value: &Value, path: &mut String, errors: &mut Vec<FieldError>, depth: usize) {
    let mut holds = |node: &Node| {
        let mut found = Vec::new();
        check(node, value, path, &mut found, depth + 1);
        found
    };
    let mut refused: Vec<FieldError> = logic.all_of.iter().flat_map(&mut holds).collect();
    let any_of: Vec<_> = logic.any_of.iter().map(&mut holds).collect();
    let one_of = logic.one_of.iter().map(&mut holds).filter(Vec::is_empty).count();
    let not = logic.not.as_ref().map(&mut holds);
    if !any_of.is_empty() && !any_of.iter().any(Vec::is_empty) {
        let detail = format!("{path} in body must validate at least one schema (anyOf)");
        refused.push(FieldError::invalid(path.as_str(), value, detail));
        refused.extend(any_of.into_iter().next().unwrap_or_default());
    }
    if !logic.one_of.is_empty() && one_of != 1 {
        let detail =
            format!("{path} in body must validate one and only one schema (oneOf). Found {one_of} valid alternatives");
        refused.push(FieldError::invalid(path.as_str(), value, detail));
    }
    if not.is_some_and(|found| found.is_empty()) {
        let detail = format!("{path} in body must not validate the schema (not)");
        refused.push(FieldError::invalid(path.as_str(), value, detail));
    }
    errors.extend(refused);
}

fn is_uuid(text: &str) -> bool {
    let hex = text.bytes().filter(u8::is_ascii_hexdigit).count();
    let dashes = text.bytes().filter(|byte| *byte == b'-').count();
    hex == 32 && hex + dashes == text.len() && (dashes == 4 || dashes == 0)
}

fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => compare(a, b) == Ordering::Equal,
        _ => a == b,
    }
}

/// Whole numbers are compared as such: large ones are not exact as floats.
fn compare(a: &Number, b: &Number) -> Ordering {
    match (a.as_i64(), b.as_i64()) {
        (Some(a), Some(b)) => a.cmp(&b),
        _ => a.as_f64().partial_cmp(&b.as_f64()).unwrap_or(Ordering::Equal),
    }
}
