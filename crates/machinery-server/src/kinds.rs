//! What the server itself does to objects of certain kinds: fields it owns, parts that a subresource may write.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use machinery_schema::ResourceInfo;
use machinery_store::Durability;
use serde_json::{Map, Value, json};

use crate::Identity;
use crate::object::{is_terminating, metadata, name_of, text_at};

/// A pod that says nothing else gets this long to end, as in Kubernetes.
const GRACE_SECONDS: i64 = 30;

/// Metadata that the server alone writes.
const SYSTEM_METADATA: [&str; 7] = [
    "uid",
    "creationTimestamp",
    "generation",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "resourceVersion",
    "namespace",
];

/// Leases and Events come often and are repaired by the next one; all else is on disk before it is answered.
pub(crate) fn durability(info: &ResourceInfo) -> Durability {
    if matches!(&*info.kind, "Lease" | "Event") { Durability::Lazy } else { Durability::Group }
}

/// Sets what a new object has whatever its author wrote.
pub(crate) fn prepare_create(info: &ResourceInfo, object: &mut Value, identity: &Identity, now: &str) {
    let fields = metadata(object);
    for field in ["selfLink", "managedFields", "deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion"] {
        fields.remove(field);
    }
    fields.insert("uid".to_owned(), uuid::Uuid::new_v4().to_string().into());
    fields.insert("creationTimestamp".to_owned(), now.into());
    if has_generation(info) {
        fields.insert("generation".to_owned(), 1.into());
    } else {
        fields.remove("generation");
    }
    match (&*info.group, &*info.kind) {
        ("", "Namespace") => {
            let name = name_of(object).to_owned();
            let labels = metadata(object).entry("labels").or_insert_with(|| json!({}));
            if let Some(labels) = labels.as_object_mut() {
                labels.insert("kubernetes.io/metadata.name".to_owned(), name.into());
            }
            object["spec"] = json!({"finalizers": ["kubernetes"]});
            object["status"] = json!({"phase": "Active"});
        }
        ("", "Pod") => {
            let class = api_kube::QosClass::of_pod_spec(object.get("spec").unwrap_or(&Value::Null));
            object["status"] = json!({"phase": "Pending", "qosClass": class});
        }
        ("", "Secret") => merge_string_data(object),
        // A kubelet tells its status along with itself.
        ("", "Node") => {}
        ("certificates.k8s.io", "CertificateSigningRequest") => {
            if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
                spec.insert("username".to_owned(), identity.user.clone().into());
                spec.insert("groups".to_owned(), identity.groups.clone().into());
                spec.remove("uid");
                spec.remove("extra");
            }
            object["status"] = json!({});
        }
        _ if info.has_status() => {
            if let Some(fields) = object.as_object_mut() {
                fields.remove("status");
            }
        }
        _ => {}
    }
}

/// Makes of a client's new version and the stored one what the request may write: the rest stays as it was.
pub(crate) fn prepare_update(info: &ResourceInfo, subresource: Option<&str>, new: &mut Value, old: &Value) {
    match subresource {
        None => {
            restore_metadata(new, old);
            if info.has_status() {
                restore(new, old, "status");
            }
            match (&*info.group, &*info.kind) {
                ("", "Secret") => merge_string_data(new),
                ("", "Namespace") => restore(new, old, "spec"),
                // What was signed, and who asked, is no longer up to anyone.
                ("certificates.k8s.io", "CertificateSigningRequest") => restore(new, old, "spec"),
                _ => {}
            }
        }
        Some(part) => keep_only(info, part, new, old),
    }
    if has_generation(info) && has_new_spec(info, new, old) {
        let generation = old.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
        metadata(new).insert("generation".to_owned(), (generation + 1).into());
    }
}

/// The stored object, but for what a subresource may write.
fn keep_only(info: &ResourceInfo, part: &str, new: &mut Value, old: &Value) {
    let mut kept = old.clone();
    let conditions = |object: &Value| object.pointer("/status/conditions").cloned();
    match part {
        "finalize" => {
            let finalizers = new.pointer("/spec/finalizers").cloned().unwrap_or_else(|| json!([]));
            kept["spec"]["finalizers"] = finalizers;
        }
        "approval" => {
            if let Some(conditions) = conditions(new) {
                kept["status"]["conditions"] = conditions;
            }
        }
        _ => {
            set_or_remove(&mut kept, "status", new.get("status"));
            // A kubelet tells of attached volumes in an annotation when it writes its status.
            if &*info.kind == "Node" {
                for field in ["annotations", "labels"] {
                    if let Some(value) = new.pointer(&format!("/metadata/{field}")) {
                        metadata(&mut kept).insert(field.to_owned(), value.clone());
                    }
                }
            }
            if &*info.kind == "CertificateSigningRequest"
                && let Some(conditions) = conditions(old)
                && new.pointer("/status/conditions").is_none()
            {
                kept["status"]["conditions"] = conditions;
            }
        }
    }
    *new = kept;
}

fn restore_metadata(new: &mut Value, old: &Value) {
    let empty = Map::new();
    let held = old.get("metadata").and_then(Value::as_object).unwrap_or(&empty);
    let fields = metadata(new);
    fields.remove("selfLink");
    fields.remove("managedFields");
    for field in SYSTEM_METADATA {
        match held.get(field) {
            Some(value) => fields.insert(field.to_owned(), value.clone()),
            None => fields.remove(field),
        };
    }
    // A finalizer that comes after the deletion began would hold an object that everyone takes for gone.
    if is_terminating(old) {
        let before = held.get("finalizers").and_then(Value::as_array).cloned().unwrap_or_default();
        if let Some(finalizers) = fields.get_mut("finalizers").and_then(Value::as_array_mut) {
            finalizers.retain(|finalizer| before.contains(finalizer));
        }
    }
}

fn restore(new: &mut Value, old: &Value, field: &str) {
    set_or_remove(new, field, old.get(field));
}

fn set_or_remove(object: &mut Value, field: &str, value: Option<&Value>) {
    let Some(fields) = object.as_object_mut() else { return };
    match value {
        Some(value) => fields.insert(field.to_owned(), value.clone()),
        None => fields.remove(field),
    };
}

/// Kinds whose controllers compare generations.
fn has_generation(info: &ResourceInfo) -> bool {
    info.is_custom() || matches!(&*info.kind, "Pod" | "DaemonSet" | "CustomResourceDefinition")
}

/// Whether anything changed that the object's author is the one to say.
fn has_new_spec(info: &ResourceInfo, new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return false };
    let is_spec = |key: &str| match key {
        "metadata" | "apiVersion" | "kind" => false,
        "status" => !info.has_status(),
        _ => true,
    };
    let keys = new.keys().chain(old.keys()).filter(|key| is_spec(key));
    keys.into_iter().any(|key| new.get(key) != old.get(key))
}

/// `stringData` is how people write Secrets; `data` is how they are kept.
fn merge_string_data(object: &mut Value) {
    let Some(fields) = object.as_object_mut() else { return };
    let Some(Value::Object(texts)) = fields.remove("stringData") else { return };
    let data = fields.entry("data").or_insert_with(|| json!({}));
    if data.is_null() {
        *data = json!({});
    }
    if let Some(data) = data.as_object_mut() {
        for (key, text) in texts {
            let text = text.as_str().map(|text| STANDARD.encode(text));
            data.insert(key, text.map_or(Value::Null, Value::String));
        }
    }
}

/// How long a pod may take to end, when the client that deletes it does not say.
pub(crate) fn grace_seconds(pod: &Value) -> i64 {
    pod.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(GRACE_SECONDS)
}

/// Whether a kubelet holds the pod, so that only it can tell when the pod has ended.
pub(crate) fn is_held_by_node(pod: &Value) -> bool {
    !text_at(pod, "/spec/nodeName").is_empty() && !matches!(text_at(pod, "/status/phase"), "Succeeded" | "Failed")
}

#[cfg(test)]
mod tests;
