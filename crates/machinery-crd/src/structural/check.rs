//! Checks a value against a schema, with the messages of the reference implementation.

use std::{
    cmp::Ordering,
    net::{Ipv4Addr, Ipv6Addr},
};

use serde_json::{Map, Number, Value};

use super::{Additional, Format, Limits, ListType, Logic, Node, NodeType};
use crate::{
    Budget, DEPTH_MAX, FieldError,
    bounded::shown,
    builtin::{enter, enter_item, is_base64},
    field_error::{ERRORS_MAX, SHOWN_CHARS_MAX, type_name},
};

/// What an error costs to write, beside the check that found it.
const STEPS_PER_ERROR: usize = 8;

/// States of a pattern that are looked at in the time of one step.
const STEP_STATES: u64 = 64;

/// What a check has found, and what it may still cost.
struct Report<'b> {
    errors: Vec<FieldError>,
    /// A check ends with so many errors: with one where it only matters whether there is any.
    errors_max: usize,
    budget: &'b mut Budget,
}

impl Report<'_> {
    fn is_full(&self) -> bool {
        self.errors.len() >= self.errors_max
    }

    /// Pays for work; `false` when it must not be done. The budget stays spent, so that everything after ends at once.
    fn may_spend(&mut self, steps: usize) -> bool {
        self.budget.spend_items(steps).is_ok()
    }
}

/// Checks a value against a schema. Each schema that applies to a value is one step: a schema may combine thousands of
/// others, a list may have a hundred thousand items, and the two together are one request.
pub(super) fn check_whole(node: &Node, value: &Value, path: &str, budget: &mut Budget) -> Vec<FieldError> {
    let mut report = Report { errors: Vec::new(), errors_max: ERRORS_MAX, budget };
    check(node, value, &mut path.to_owned(), &mut report, 0);
    if let Err(error) = report.budget.spend(0) {
        let detail = format!("it is too large to be checked against its schema: {error}");
        report.errors.insert(0, FieldError::forbidden(path, detail));
    }
    report.errors
}

fn check(node: &Node, value: &Value, path: &mut String, report: &mut Report<'_>, depth: usize) {
    if report.is_full() || !report.may_spend(1 + node.required.len()) {
        return;
    }
    if depth > DEPTH_MAX {
        let detail = format!("nested deeper than {DEPTH_MAX} levels");
        report.errors.push(FieldError::forbidden(path.as_str(), detail));
        return;
    }
    if value.is_null() && node.nullable {
        return;
    }
    if !has_type(node, value) {
        let expected = if node.int_or_string { "integer,string" } else { node.kind.map_or("object", NodeType::as_str) };
        let found = Value::String(type_name(value).to_owned());
        let detail = format!("{path} in body must be of type {expected}: {found}");
        report.errors.push(FieldError::type_invalid(path.as_str(), &found, detail));
        return;
    }
    if let Some(allowed) = &node.allowed {
        if !report.may_spend(allowed.len()) {
            return;
        }
        if !allowed.iter().any(|word| equal(word, value)) {
            let words: Vec<String> =
                allowed.iter().map(|word| word.as_str().map_or_else(|| word.to_string(), str::to_owned)).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            report.errors.push(FieldError::not_supported(path.as_str(), value, &words));
        }
    }
    if let Some(limits) = &node.limits {
        check_limits(limits, value, path, report);
    }
    match value {
        Value::Object(map) => check_object(node, map, path, report, depth),
        Value::Array(items) => check_array(node, value, items, path, report, depth),
        _ => {}
    }
    if let Some(logic) = &node.logic {
        check_logic(logic, value, path, report, depth);
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

fn check_object(node: &Node, map: &Map<String, Value>, path: &mut String, report: &mut Report<'_>, depth: usize) {
    for name in &node.required {
        if !map.contains_key(&**name) {
            let mark = enter(path, name);
            report.errors.push(FieldError::required(path.as_str(), ""));
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
        check(inner, value, path, report, depth + 1);
        path.truncate(mark);
    }
}

fn check_array(node: &Node, value: &Value, items: &[Value], path: &mut String, report: &mut Report<'_>, depth: usize) {
    if let Some(inner) = &node.items {
        for (position, item) in items.iter().enumerate() {
            let mark = enter_item(path, position);
            check(inner, item, path, report, depth + 1);
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
    // Duplicates are found in a set; what is written out for it is paid for.
    let keys = if let ListType::Map(keys) = &node.list_type { keys.len() } else { 1 };
    if !report.may_spend(items.len().saturating_mul(keys)) {
        return;
    }
    let mut seen = std::collections::HashSet::new();
    for (position, item) in items.iter().enumerate() {
        if let Some(identity) = identity(item)
            && !seen.insert(identity)
        {
            if is_unique {
                let detail = format!("{path} in body shouldn't contain duplicates");
                report.errors.push(FieldError::invalid(path.as_str(), value, detail));
                return;
            }
            if report.is_full() {
                return;
            }
            let mark = enter_item(path, position);
            report.errors.push(FieldError::duplicate(path.as_str(), item));
            path.truncate(mark);
        }
    }
}

fn check_limits(limits: &Limits, value: &Value, path: &str, report: &mut Report<'_>) {
    // A pattern looks at every byte, in each of its states.
    if let (Some(pattern), Value::String(text)) = (&limits.pattern, value) {
        let steps = u64::try_from(text.len()).unwrap_or(u64::MAX).saturating_mul(pattern.steps_per_byte);
        if report.budget.spend(1 + steps / STEP_STATES).is_err() {
            return;
        }
    }
    let errors = &mut report.errors;
    let mut reject = |detail: String| errors.push(FieldError::invalid(path, value, format!("{path} in body {detail}")));
    match value {
        Value::Number(number) => {
            if let Some(minimum) = &limits.minimum {
                match (compare(number, minimum), limits.exclusive_minimum) {
                    (Ordering::Less, false) => reject(format!("should be greater than or equal to {minimum}")),
                    (Ordering::Less | Ordering::Equal, true) => reject(format!("should be greater than {minimum}")),
                    _ => {}
                }
            }
            if let Some(maximum) = &limits.maximum {
                match (compare(number, maximum), limits.exclusive_maximum) {
                    (Ordering::Greater, false) => reject(format!("should be less than or equal to {maximum}")),
                    (Ordering::Greater | Ordering::Equal, true) => reject(format!("should be less than {maximum}")),
                    _ => {}
                }
            }
            if let (Some(step), Some(number)) = (limits.multiple_of, number.as_f64())
                && step > 0.0
                && ((number / step) - (number / step).round()).abs() > 1e-9
            {
                reject(format!("should be a multiple of {step}"));
            }
        }
        Value::String(text) => {
            if let Some(least) = limits.length_min
                && text.chars().count() < least
            {
                reject(format!("should be at least {least} chars long"));
            }
            if let Some(pattern) = &limits.pattern
                && !pattern.regex.is_match(text)
            {
                reject(format!("should match '{}'", pattern.regex));
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
                reject(format!("should have at least {least} items"));
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
                reject(format!("should have at least {least} properties"));
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
        let detail = format!("{path} in body must be of type {name}: {}", shown(value, SHOWN_CHARS_MAX));
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

fn check_logic(logic: &Logic, value: &Value, path: &mut String, report: &mut Report<'_>, depth: usize) {
    let budget = &mut *report.budget;
    let mut found_by = |node: &Node, errors_max: usize| {
        let mut inner = Report { errors: Vec::new(), errors_max, budget: &mut *budget };
        check(node, value, path, &mut inner, depth + 1);
        // A message takes many times as long as a comparison.
        inner.may_spend(inner.errors.len().saturating_mul(STEPS_PER_ERROR));
        inner.errors
    };
    let mut rejected = Vec::new();
    for node in &logic.all_of {
        if rejected.len() < ERRORS_MAX {
            rejected.extend(found_by(node, ERRORS_MAX));
        }
    }
    let mut first_of_any = None;
    let mut holds_any = logic.any_of.is_empty();
    for node in &logic.any_of {
        if !holds_any {
            let found = found_by(node, if first_of_any.is_none() { ERRORS_MAX } else { 1 });
            holds_any = found.is_empty();
            first_of_any.get_or_insert(found);
        }
    }
    let one_of = logic.one_of.iter().filter(|node| found_by(node, 1).is_empty()).count();
    let not = logic.not.as_ref().map(|node| found_by(node, 1));
    if !holds_any {
        let detail = format!("{path} in body must validate at least one schema (anyOf)");
        rejected.push(FieldError::invalid(path.as_str(), value, detail));
        rejected.extend(first_of_any.unwrap_or_default());
    }
    if !logic.one_of.is_empty() && one_of != 1 {
        let detail =
            format!("{path} in body must validate one and only one schema (oneOf). Found {one_of} valid alternatives");
        rejected.push(FieldError::invalid(path.as_str(), value, detail));
    }
    if not.is_some_and(|found| found.is_empty()) {
        let detail = format!("{path} in body must not validate the schema (not)");
        rejected.push(FieldError::invalid(path.as_str(), value, detail));
    }
    report.errors.extend(rejected);
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
