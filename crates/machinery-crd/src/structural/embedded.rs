//! Resources within resources: `x-kubernetes-embedded-resource` gives a place the metadata that every object has.

use serde_json::{Map, Value};

use crate::{DEPTH_MAX, FieldError, field_error::ERRORS_MAX, schema::Schema};

/// What is known of `metadata` outside of this crate: its types and its rules.
pub trait MetadataRules {
    /// Brings `metadata` into its canonical form; gives the paths of unknown fields, or why it cannot be decoded.
    ///
    /// # Errors
    /// When a field has the wrong type; in the words of the decoder.
    fn decode(&self, metadata: &mut Value) -> Result<Vec<String>, String>;

    /// Checks decoded metadata of an embedded resource, with paths below `path`.
    fn validate(&self, metadata: &Value, path: &str) -> Vec<FieldError>;
}

/// Decodes the metadata of embedded resources and checks the types of what identifies them. Gives the paths of unknown
/// fields, sorted.
pub(crate) fn coerce(
    schema: &Schema,
    value: &mut Value,
    is_resource_root: bool,
    rules: &dyn MetadataRules,
) -> Result<Vec<String>, FieldError> {
    let mut unknown = Vec::new();
    coerce_place(schema, value, "", is_resource_root, rules, &mut unknown, 0)?;
    unknown.sort();
    Ok(unknown)
}

fn coerce_place(
    schema: &Schema,
    value: &mut Value,
    path: &str,
    is_resource: bool,
    rules: &dyn MetadataRules,
    unknown: &mut Vec<String>,
    depth: usize,
) -> Result<(), FieldError> {
    if depth > DEPTH_MAX {
        return Ok(());
    }
    match value {
        Value::Object(map) => {
            for (name, inner) in map.iter_mut() {
                if is_resource || schema.embedded_resource {
                    coerce_meta(name, inner, path, rules, unknown)?;
                }
                if let Some(property) = schema.properties.get(name.as_str()) {
                    coerce_place(property, inner, &child(path, name), false, rules, unknown, depth + 1)?;
                } else if let Some(additional) = schema.additional_schema() {
                    coerce_place(additional, inner, &format!("{path}[{name}]"), false, rules, unknown, depth + 1)?;
                }
            }
        }
        Value::Array(items) => {
            if let Some(item) = schema.item() {
                for (position, inner) in items.iter_mut().enumerate() {
                    coerce_place(item, inner, &format!("{path}[{position}]"), false, rules, unknown, depth + 1)?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}

fn coerce_meta(
    name: &str,
    value: &mut Value,
    path: &str,
    rules: &dyn MetadataRules,
    unknown: &mut Vec<String>,
) -> Result<(), FieldError> {
    match name {
        "apiVersion" | "kind" if !value.is_string() => {
            Err(FieldError::invalid(child(path, name), value, "must be a string"))
        }
        "metadata" => {
            let path = child(path, name);
            let found = match value {
                Value::Null => {
                    *value = Value::Object(Map::new());
                    Vec::new()
                }
                value => {
                    let before = value.clone();
                    rules.decode(value).map_err(|error| FieldError::invalid(path.as_str(), &before, error))?
                }
            };
            unknown.extend(found.into_iter().map(|inner| format!("{path}.{inner}")));
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Checks what identifies embedded resources, and their metadata.
pub(crate) fn check_embedded(
    schema: &Schema,
    value: &Value,
    path: &str,
    is_resource_root: bool,
    rules: &dyn MetadataRules,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check(schema, value, path, is_resource_root, rules, &mut errors, 0);
    errors
}

fn check(
    schema: &Schema,
    value: &Value,
    path: &str,
    is_resource: bool,
    rules: &dyn MetadataRules,
    errors: &mut Vec<FieldError>,
    depth: usize,
) {
    if depth > DEPTH_MAX || errors.len() >= ERRORS_MAX {
        return;
    }
    match value {
        Value::Object(map) => {
            if is_resource || schema.embedded_resource {
                check_resource(map, path, rules, errors);
            }
            for (name, inner) in map {
                if let Some(property) = schema.properties.get(name.as_str()) {
                    check(property, inner, &child(path, name), false, rules, errors, depth + 1);
                } else if let Some(additional) = schema.additional_schema() {
                    check(additional, inner, &format!("{path}[{name}]"), false, rules, errors, depth + 1);
                }
            }
        }
        Value::Array(items) => {
            if let Some(item) = schema.item() {
                for (position, inner) in items.iter().enumerate() {
                    check(item, inner, &format!("{path}[{position}]"), false, rules, errors, depth + 1);
                }
            }
        }
        _ => {}
    }
}

fn check_resource(map: &Map<String, Value>, path: &str, rules: &dyn MetadataRules, errors: &mut Vec<FieldError>) {
    for name in ["apiVersion", "kind"] {
        let path = child(path, name);
        match map.get(name) {
            None => errors.push(FieldError::required(path, "")),
            Some(Value::String(text)) if text.is_empty() => {
                errors.push(FieldError::invalid(path, &"".into(), "must not be empty"));
            }
            Some(Value::String(text)) if name == "apiVersion" && text.matches('/').count() > 1 => {
                let detail = format!("unexpected GroupVersion string: {text}");
                errors.push(FieldError::invalid(path, &text.as_str().into(), detail));
            }
            Some(Value::String(text)) if name == "kind" => {
                if let Some(why) = crate::names::dns_1035_label(&text.to_lowercase()) {
                    let detail = format!("may have mixed case, but should otherwise match: {why}");
                    errors.push(FieldError::invalid(path, &text.as_str().into(), detail));
                }
            }
            Some(Value::String(_)) => {}
            Some(other) => errors.push(FieldError::invalid(path, other, "must be a string")),
        }
    }
    if let Some(metadata) = map.get("metadata") {
        errors.extend(rules.validate(metadata, &child(path, "metadata")));
    }
}

fn child(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
