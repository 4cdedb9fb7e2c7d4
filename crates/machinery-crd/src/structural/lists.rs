//! Lists whose items are unique: sets, and maps by their keys.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::{
    DEPTH_MAX, FieldError,
    field_error::{ERRORS_MAX, type_name},
    go,
    schema::Schema,
};

/// Checks all lists of an object.
pub(super) fn check_lists(schema: &Schema, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check(schema, object, "", &mut errors, 0);
    errors
}

fn check(schema: &Schema, value: &Value, path: &str, errors: &mut Vec<FieldError>, depth: usize) {
    if depth > DEPTH_MAX || errors.len() >= ERRORS_MAX {
        return;
    }
    match value {
        Value::Object(map) => {
            for (name, inner) in map {
                if let Some(additional) = schema.additional_schema()
                    && matters(inner)
                {
                    check(additional, inner, &format!("{path}[{name}]"), errors, depth + 1);
                }
                if let Some(property) = schema.properties.get(name.as_str())
                    && matters(inner)
                {
                    let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    check(property, inner, &below, errors, depth + 1);
                }
            }
        }
        Value::Array(items) => {
            match schema.list_type.as_deref() {
                Some("set") => {
                    for position in duplicates(items) {
                        let path = format!("{path}[{position}]");
                        errors.push(duplicate(path, &items[position]));
                    }
                }
                Some("map") => check_map(schema, items, path, errors),
                _ => {}
            }
            if let Some(item) = schema.item() {
                for (position, inner) in items.iter().enumerate().filter(|(_, inner)| matters(inner)) {
                    check(item, inner, &format!("{path}[{position}]"), errors, depth + 1);
                }
            }
        }
        _ => {}
    }
}

fn matters(value: &Value) -> bool {
    value.is_object() || value.is_array()
}

fn check_map(schema: &Schema, items: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    let other = items.iter().position(|item| !item.is_null() && !item.is_object());
    if let Some(position) = other {
        let detail = "must be an object for an array of list-type map";
        errors.push(FieldError::invalid(format!("{path}[{position}]"), &items[position], detail));
        return;
    }
    let keys: Vec<Value> = items.iter().map(|item| key_of(schema, item)).collect();
    for position in duplicates(&keys) {
        errors.push(duplicate(format!("{path}[{position}]"), &keys[position]));
    }
}

/// The part of an item that distinguishes it from the others.
pub(super) fn key_of(schema: &Schema, item: &Value) -> Value {
    let given = |name: &str| item.get(name).map(|value| (name.to_owned(), value.clone()));
    Value::Object(schema.list_map_keys.iter().filter_map(|name| given(name)).collect::<Map<_, _>>())
}

fn duplicate(path: String, value: &Value) -> FieldError {
    FieldError::duplicate(path, value)
}

/// Where a value appears for the second time; a third time is not reported.
fn duplicates(items: &[Value]) -> Vec<usize> {
    let mut seen: HashMap<String, usize> = HashMap::with_capacity(items.len());
    let mut found = Vec::new();
    for (position, item) in items.iter().enumerate() {
        // The type is a part of the key: 1 and "1" are two values.
        let times = seen.entry(format!("{}:{}", type_name(item), go::json(item))).or_default();
        *times += 1;
        if *times == 2 {
            found.push(position);
        }
    }
    found
}
