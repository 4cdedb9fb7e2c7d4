//! What the API fills in when a client leaves it out, as Kubernetes documents it.
//!
//! Controllers and the kubelet rely on these; and `kubectl apply` compares with them. A value of the wrong type is left
//! for validation to report.

use serde_json::{Map, Value, json};

pub(crate) fn pod(pod: &mut Value) {
    if let Some(spec) = entry(pod, "spec") {
        pod_spec(spec);
    }
    if let Some(status) = entry(pod, "status") {
        set(status, "phase", || json!("Pending"));
    }
}

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

fn pod_spec(spec: &mut Map<String, Value>) {
    set(spec, "restartPolicy", || json!("Always"));
    set(spec, "dnsPolicy", || json!("ClusterFirst"));
    set(spec, "terminationGracePeriodSeconds", || json!(30));
    set(spec, "schedulerName", || json!("default-scheduler"));
    set(spec, "securityContext", || json!({}));
    set(spec, "enableServiceLinks", || json!(true));
    // The two names are one field; old clients read the second.
    match (name_of(spec, "serviceAccountName"), name_of(spec, "serviceAccount")) {
        (Some(name), _) => {
            spec.insert("serviceAccount".to_owned(), name);
        }
        (None, Some(name)) => {
            spec.insert("serviceAccountName".to_owned(), name);
        }
        (None, None) => {}
    }
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for key in ["initContainers", "containers", "ephemeralContainers"] {
        for container in objects(spec, key) {
            self::container(container, host_network);
        }
    }
    for volume in objects(spec, "volumes") {
        self::volume(volume);
    }
}

fn container(container: &mut Map<String, Value>, host_network: bool) {
    set(container, "terminationMessagePath", || json!("/dev/termination-log"));
    set(container, "terminationMessagePolicy", || json!("File"));
    set(container, "resources", || json!({}));
    let policy = pull_policy(container.get("image").and_then(Value::as_str).unwrap_or_default());
    set(container, "imagePullPolicy", || json!(policy));
    for port in objects(container, "ports") {
        set(port, "protocol", || json!("TCP"));
        if host_network && let Some(number) = port.get("containerPort").cloned() {
            set(port, "hostPort", || number);
        }
    }
    for variable in objects(container, "env") {
        let field = variable.get_mut("valueFrom").and_then(|from| from.get_mut("fieldRef"));
        if let Some(field) = field.and_then(Value::as_object_mut) {
            set(field, "apiVersion", || json!("v1"));
        }
    }
    for key in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(key).and_then(Value::as_object_mut) {
            self::probe(probe);
        }
    }
    if let Some(Value::Object(lifecycle)) = container.get_mut("lifecycle") {
        for hook in lifecycle.values_mut() {
            if let Some(get) = hook.get_mut("httpGet").and_then(Value::as_object_mut) {
                http_get(get);
            }
        }
    }
    // What is limited and not requested is requested as limited.
    if let Some(Value::Object(resources)) = container.get_mut("resources")
        && let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned()
        && let Some(requests) = resources.entry("requests").or_insert_with(|| json!({})).as_object_mut()
    {
        for (name, limit) in limits {
            requests.entry(name).or_insert(limit);
        }
    }
}

/// Only an image that is pinned may be taken from the cache.
fn pull_policy(image: &str) -> &'static str {
    let last_part = image.rsplit('/').next().unwrap_or(image);
    let is_pinned = image.contains('@') || last_part.split_once(':').is_some_and(|(_, tag)| tag != "latest");
    // A file on the node is never pulled.
    if is_pinned || image.starts_with("file://") { "IfNotPresent" } else { "Always" }
}

fn probe(probe: &mut Map<String, Value>) {
    for (key, value) in [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        set(probe, key, || json!(value));
    }
    if let Some(get) = probe.get_mut("httpGet").and_then(Value::as_object_mut) {
        http_get(get);
    }
    if let Some(grpc) = probe.get_mut("grpc").and_then(Value::as_object_mut) {
        set(grpc, "service", || json!(""));
    }
}

fn http_get(get: &mut Map<String, Value>) {
    set(get, "path", || json!("/"));
    set(get, "scheme", || json!("HTTP"));
}

/// Permissions of files in volumes: `rw-r--r--`.
const FILE_MODE: u32 = 0o644;

fn volume(volume: &mut Map<String, Value>) {
    let has_source = volume.keys().any(|key| key != "name");
    if !has_source {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
    for key in ["configMap", "secret", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(key).and_then(Value::as_object_mut) {
            set(source, "defaultMode", || json!(FILE_MODE));
            if key == "projected" {
                for token in objects(source, "sources") {
                    if let Some(token) = token.get_mut("serviceAccountToken").and_then(Value::as_object_mut) {
                        set(token, "expirationSeconds", || json!(3600));
                    }
                }
            }
            for item in objects(source, "items") {
                if let Some(field) = item.get_mut("fieldRef").and_then(Value::as_object_mut) {
                    set(field, "apiVersion", || json!("v1"));
                }
            }
        }
    }
    if let Some(host_path) = volume.get_mut("hostPath").and_then(Value::as_object_mut) {
        set(host_path, "type", || json!(""));
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

pub(crate) fn daemon_set(object: &mut Value) {
    let Some(spec) = entry(object, "spec") else { return };
    set(spec, "revisionHistoryLimit", || json!(10));
    set(spec, "updateStrategy", || json!({}));
    if let Some(strategy) = spec.get_mut("updateStrategy").and_then(Value::as_object_mut) {
        set(strategy, "type", || json!("RollingUpdate"));
        if strategy.get("type") == Some(&json!("RollingUpdate")) {
            set(strategy, "rollingUpdate", || json!({}));
            if let Some(rolling) = strategy.get_mut("rollingUpdate").and_then(Value::as_object_mut) {
                set(rolling, "maxUnavailable", || json!(1));
                set(rolling, "maxSurge", || json!(0));
            }
        }
    }
    if let Some(spec) =
        spec.get_mut("template").and_then(|template| template.get_mut("spec")).and_then(Value::as_object_mut)
    {
        pod_spec(spec);
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

fn name_of(map: &Map<String, Value>, key: &str) -> Option<Value> {
    map.get(key).filter(|name| name.as_str().is_some_and(|name| !name.is_empty())).cloned()
}

/// The object under `key`, created when it is not there.
fn entry<'v>(object: &'v mut Value, key: &str) -> Option<&'v mut Map<String, Value>> {
    let value = object.as_object_mut()?.entry(key).or_insert_with(|| json!({}));
    value.as_object_mut()
}

fn objects<'v>(map: &'v mut Map<String, Value>, key: &str) -> impl Iterator<Item = &'v mut Map<String, Value>> {
    map.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}
