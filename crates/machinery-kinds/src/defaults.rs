//! What the API fills in when a client leaves it out, as Kubernetes documents it.
//!
//! Controllers and the kubelet rely on these; and `kubectl apply` compares with them. A value of the wrong type is left
//! for validation to report.

use serde_json::{Map, Value, json};

pub(crate) fn custom_resource_definition(object: &mut Value) {
    let Some(spec) = entry(object, "spec") else { return };
    set(spec, "conversion", || json!({"strategy": "None"}));
    if let Some(names) = spec.get_mut("names").and_then(Value::as_object_mut)
        && let Some(kind) = names.get("kind").and_then(Value::as_str).map(str::to_owned)
    {
        set(names, "singular", || json!(kind.to_lowercase()));
        set(names, "listKind", || json!(format!("{kind}List")));
    }
}

fn set(map: &mut Map<String, Value>, key: &str, value: impl FnOnce() -> Value) {
    if map.get(key).is_none_or(Value::is_null) {
        map.insert(key.to_owned(), value());
    }
}

/// The object under `key`, created when it is not there.
fn entry<'v>(object: &'v mut Value, key: &str) -> Option<&'v mut Map<String, Value>> {
    let value = object.as_object_mut()?.entry(key).or_insert_with(|| json!({}));
    value.as_object_mut()
}
