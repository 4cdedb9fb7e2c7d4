//! What the API fills in when a client leaves it out, as Kubernetes documents it.
//!
//! Controllers and the kubelet rely on these; and `kubectl apply` compares with them. A value of the wrong type is left
//! for validation to report.

use serde_json::{Map, Value, json};

pub(crate) fn secret(secret: &mut Value) {
    move_string_data(secret);
    if let Some(secret) = secret.as_object_mut() {
        set(secret, "type", || json!("Opaque"));
    }
}

pub(crate) fn signing_request(request: &mut Value) {
    if let Some(spec) = entry(request, "spec") {
        set(spec, "usages", || json!(["digital signature", "key encipherment"]));
    }
}

/// `stringData` is for writing only: it wins over `data` and is stored encoded.
pub(crate) fn move_string_data(secret: &mut Value) {
    let Some(secret) = secret.as_object_mut() else { return };
    let is_text =
        secret.get("stringData").and_then(Value::as_object).is_some_and(|data| data.values().all(Value::is_string));
    if !is_text {
        return;
    }
    let Some(Value::Object(plain)) = secret.remove("stringData") else { return };
    let Some(data) = secret.entry("data").or_insert_with(|| json!({})).as_object_mut() else { return };
    for (key, value) in plain {
        let encoded = base64(value.as_str().unwrap_or_default().as_bytes());
        data.insert(key, Value::String(encoded));
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for position in 0..4 {
            let digit = DIGITS[(group >> (18 - 6 * position)) as usize & 63];
            text.push(if position <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

pub(crate) fn namespace(object: &mut Value) {
    let name = object.pointer("/metadata/name").cloned();
    if let (Some(name), Some(metadata)) = (name, object.get_mut("metadata").and_then(Value::as_object_mut))
        && let Some(labels) = metadata.entry("labels").or_insert_with(|| json!({})).as_object_mut()
    {
        // Selectors on namespaces rely on this label being true.
        labels.insert("kubernetes.io/metadata.name".to_owned(), name);
    }
    if let Some(status) = entry(object, "status") {
        set(status, "phase", || json!("Active"));
    }
}

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
