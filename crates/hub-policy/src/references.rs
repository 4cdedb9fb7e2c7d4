//! What is read out of an object's JSON: texts, and whether a spec refers to anything.

use serde_json::Value;

/// The text at a JSON pointer, or nothing.
pub(crate) fn text_at<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Whether a spec names anything that its node could then read: a mirror pod must not become a key.
pub(crate) fn refers_to_any(spec: &Value) -> bool {
    const KEYS: [&str; 9] = [
        "secret",
        "secretName",
        "secretRef",
        "secretKeyRef",
        "configMap",
        "configMapRef",
        "configMapKeyRef",
        "imagePullSecrets",
        "persistentVolumeClaim",
    ];
    match spec {
        Value::Object(fields) => fields.iter().any(|(key, value)| KEYS.contains(&key.as_str()) || refers_to_any(value)),
        Value::Array(items) => items.iter().any(refers_to_any),
        _ => false,
    }
}
