//! Which Secrets and ConfigMaps a pod refers to: what its node may read.

use serde_json::Value;

/// The text at a JSON pointer, or nothing.
pub(crate) fn text_at<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn items<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Whether a pod's spec refers to this Secret or ConfigMap of its namespace.
pub(crate) fn refers(spec: &Value, is_secret: bool, name: &str) -> bool {
    let is_it = |value: &Value, pointer: &str| value.pointer(pointer).and_then(Value::as_str) == Some(name);
    let (volume, projected, env, env_from) = if is_secret {
        ("/secret/secretName", "/secret/name", "/valueFrom/secretKeyRef/name", "/secretRef/name")
    } else {
        ("/configMap/name", "/configMap/name", "/valueFrom/configMapKeyRef/name", "/configMapRef/name")
    };
    let by_volume = items(spec, "volumes").iter().any(|one| {
        is_it(one, volume)
            || one.get("projected").is_some_and(|it| items(it, "sources").iter().any(|source| is_it(source, projected)))
    });
    let by_container = ["containers", "initContainers", "ephemeralContainers"].iter().any(|kind| {
        items(spec, kind).iter().any(|container| {
            items(container, "env").iter().any(|one| is_it(one, env))
                || items(container, "envFrom").iter().any(|one| is_it(one, env_from))
        })
    });
    let by_pull = is_secret && items(spec, "imagePullSecrets").iter().any(|one| is_it(one, "/name"));
    by_volume || by_container || by_pull
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
