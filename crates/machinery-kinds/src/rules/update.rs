//! What may not change once an object exists.

use serde_json::Value;

use crate::FieldError;

pub(crate) fn custom_resource_definition(new: &Value, old: &Value) -> Vec<FieldError> {
    let fields = ["/spec/group", "/spec/scope", "/spec/names/plural", "/spec/names/kind"];
    fields.iter().flat_map(|field| unchanged(new, old, field)).collect()
}

/// The field at a pointer keeps its value.
fn unchanged(new: &Value, old: &Value, pointer: &str) -> Vec<FieldError> {
    let (now, before) = (new.pointer(pointer), old.pointer(pointer));
    if now == before {
        return Vec::new();
    }
    let path = pointer.trim_start_matches('/').replace('/', ".");
    vec![FieldError::invalid(path, now.unwrap_or(&Value::Null), "field is immutable")]
}
