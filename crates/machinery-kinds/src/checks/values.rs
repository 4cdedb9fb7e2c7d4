//! Numbers, quantities, ports, and what may not change.

use api_kube::Quantity;
use serde_json::Value;

use super::names::{is_percent, percent};
use crate::kit::{Errors, Path, Read};

pub(crate) const NEGATIVE: &str = "must be greater than or equal to 0";
pub(crate) const NOT_POSITIVE: &str = "must be greater than zero";
pub(crate) const IMMUTABLE: &str = "field is immutable";

pub(crate) fn non_negative(number: i64, path: &Path<'_>, errors: &mut Errors) {
    if number < 0 {
        errors.invalid(path, number, NEGATIVE);
    }
}

pub(crate) fn positive(number: i64, path: &Path<'_>, errors: &mut Errors) {
    if number <= 0 {
        errors.invalid(path, number, NOT_POSITIVE);
    }
}

/// A quantity as it was decoded; zero when it is absent.
pub(crate) fn quantity(value: &Value) -> Quantity {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_default()
}

pub(crate) fn non_negative_quantity(value: &Value, path: &Path<'_>, errors: &mut Errors) {
    let quantity = quantity(value);
    if quantity.is_negative() {
        errors.invalid(path, quantity.to_string(), NEGATIVE);
    }
}

pub(crate) fn positive_quantity(value: &Value, path: &Path<'_>, errors: &mut Errors) {
    let quantity = quantity(value);
    if quantity.is_negative() || quantity.is_zero() {
        errors.invalid(path, quantity.to_string(), NOT_POSITIVE);
    }
}

/// `field is immutable` when two values differ; the new one is shown. What is absent equals an empty list or map, as in
/// upstream's semantic comparison.
pub(crate) fn immutable(new: &Value, old: &Value, path: &Path<'_>, errors: &mut Errors) {
    if !same(new, old) {
        errors.invalid(path, new.clone(), IMMUTABLE);
    }
}

/// The same for a field of the object, `new.field`; for text and numbers that are no pointers, absent is shown as zero.
pub(crate) fn immutable_text(new: &Value, old: &Value, field: &str, path: &Path<'_>, errors: &mut Errors) {
    if new.text(field) != old.text(field) {
        errors.invalid(&path.field(field), new.text(field), IMMUTABLE);
    }
}

/// Whether two values are equal where nil and empty lists and maps are: upstream's `Semantic.DeepEqual`. Quantities are
/// canonical already.
pub(crate) fn same(one: &Value, other: &Value) -> bool {
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    match (one, other) {
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.iter().all(|(key, value)| same(value, other.part(key)))
                && other.iter().all(|(key, value)| one.contains_key(key) || is_empty(value))
        }
        (one, other) => one == other || (is_empty(one) && is_empty(other)),
    }
}

/// A number, or a text that is a percentage: `maxUnavailable` and its kin must not be negative and be a percentage when they
/// are text.
pub(crate) fn positive_int_or_percent(value: &Value, path: &Path<'_>, errors: &mut Errors) {
    match value {
        Value::String(text) => errors.invalid_each(path, text, percent(text)),
        other => non_negative(other.as_i64().unwrap_or_default(), path, errors),
    }
}

/// The number of a percentage, when the value is one.
pub(crate) fn percentage(value: &Value) -> Option<i64> {
    let text = value.as_str().filter(|text| is_percent(text))?;
    // More than any number is more than a hundred all the same.
    Some(text.trim_end_matches('%').parse().unwrap_or(i64::MAX))
}

/// A percentage is at most a hundred.
pub(crate) fn at_most_100_percent(value: &Value, path: &Path<'_>, errors: &mut Errors) {
    if percentage(value).is_some_and(|percent| percent > 100) {
        errors.invalid(path, value.clone(), "must not be greater than 100%");
    }
}

/// `TCP`, `UDP` or `SCTP`.
pub(crate) fn is_protocol(text: &str) -> bool {
    matches!(text, "TCP" | "UDP" | "SCTP")
}

/// A struct as Go writes it when a message shows it: fields in their order. Types inside of the server have no names for
/// JSON, so the names are those of Go.
pub(crate) fn go_struct(fields: &[(&str, &Value)]) -> String {
    let fields: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("\"{name}\":{}", machinery_schema::field_error::json_text(value)))
        .collect();
    format!("{{{}}}", fields.join(","))
}
