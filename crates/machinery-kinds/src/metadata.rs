//! What all objects share: names, labels, annotations and the other fields of `metadata`.

use api_kube::names::{
    DNS_LABEL_MESSAGE, DNS_SUBDOMAIN_MESSAGE, LABEL_BYTES_MAX, LABEL_VALUE_MESSAGE, QUALIFIED_NAME_MESSAGE,
    SUBDOMAIN_BYTES_MAX, is_dns_label, is_dns_subdomain, is_label_value, is_qualified_name,
};
use serde_json::{Map, Value};

use crate::{FieldError, builtin, field_error::ERRORS_MAX, strategy::INDEXED_ITEMS_MAX};

/// All annotations of one object together, as Kubernetes limits them.
const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

/// Which names a kind takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NameRule {
    /// Dots allowed: most kinds.
    Subdomain,
    /// No dots: namespaces.
    Label,
}

/// Checks `metadata` of a whole object.
pub(crate) fn validate(object: &Value, namespaced: bool, rule: NameRule) -> Vec<FieldError> {
    let Some(metadata) = object.get("metadata") else {
        return vec![FieldError::required("metadata", "")];
    };
    let errors = builtin::validate_types(builtin::object_meta(), metadata, "metadata");
    if !errors.is_empty() {
        return errors;
    }
    let mut errors = Vec::new();
    let text = |key: &str| metadata.get(key).and_then(Value::as_str).unwrap_or_default();
    match (text("name"), rule) {
        ("", _) => errors.push(FieldError::required("metadata.name", "name or generateName is required")),
        (name, NameRule::Label) if !is_dns_label(name) => {
            errors.push(name_error("metadata.name", name, LABEL_BYTES_MAX, DNS_LABEL_MESSAGE));
        }
        (name, NameRule::Subdomain) if !is_dns_subdomain(name) => {
            errors.push(name_error("metadata.name", name, SUBDOMAIN_BYTES_MAX, DNS_SUBDOMAIN_MESSAGE));
        }
        _ => {}
    }
    match (namespaced, text("namespace")) {
        (true, "") => errors.push(FieldError::required("metadata.namespace", "")),
        (true, namespace) if !is_dns_label(namespace) => {
            errors.push(name_error("metadata.namespace", namespace, LABEL_BYTES_MAX, DNS_LABEL_MESSAGE));
        }
        (false, namespace) if !namespace.is_empty() => {
            errors.push(FieldError::forbidden("metadata.namespace", "not allowed on this type"));
        }
        _ => {}
    }
    // These are kept in the index of every object, in memory.
    let lengths = [
        ("labels", metadata.get("labels").and_then(Value::as_object).map_or(0, Map::len)),
        ("ownerReferences", items(metadata, "ownerReferences").len()),
    ];
    for (key, count) in lengths.into_iter().filter(|(_, count)| *count > INDEXED_ITEMS_MAX) {
        errors.push(FieldError::too_many(format!("metadata.{key}"), count, INDEXED_ITEMS_MAX));
    }
    if let Some(labels) = metadata.get("labels").and_then(Value::as_object) {
        errors.extend(validate_labels(labels, "metadata.labels"));
    }
    if let Some(annotations) = metadata.get("annotations").and_then(Value::as_object) {
        errors.extend(validate_annotations(annotations));
    }
    for (position, finalizer) in items(metadata, "finalizers").iter().enumerate() {
        if !finalizer.as_str().is_some_and(is_qualified_name) {
            let path = format!("metadata.finalizers[{position}]");
            errors.push(FieldError::invalid(path, finalizer, QUALIFIED_NAME_MESSAGE));
        }
    }
    errors.extend(validate_owners(items(metadata, "ownerReferences")));
    errors
}

/// Checks what may not change in `metadata`. What a client left out counts as unchanged: the server fills it in.
pub(crate) fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for key in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let (now, before) = (new.pointer(&format!("/metadata/{key}")), old.pointer(&format!("/metadata/{key}")));
        if let Some(now) = now.filter(|now| Some(*now) != before) {
            errors.push(FieldError::invalid(format!("metadata.{key}"), now, "field is immutable"));
        }
    }
    errors
}

/// Checks the keys and values of labels, or of a selector's `matchLabels`.
pub(crate) fn validate_labels(labels: &Map<String, Value>, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (key, value) in labels {
        if errors.len() >= ERRORS_MAX {
            break;
        }
        if !is_qualified_name(key) {
            errors.push(FieldError::invalid(path, &Value::String(key.clone()), QUALIFIED_NAME_MESSAGE));
        }
        match value.as_str() {
            Some(text) if text.len() > LABEL_BYTES_MAX => {
                errors.push(FieldError::invalid(path, value, format!("must be no more than {LABEL_BYTES_MAX} bytes")));
            }
            Some(text) if !is_label_value(text) => errors.push(FieldError::invalid(path, value, LABEL_VALUE_MESSAGE)),
            _ => {}
        }
    }
    errors
}

fn validate_annotations(annotations: &Map<String, Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut bytes = 0;
    for (key, value) in annotations {
        bytes += key.len() + value.as_str().map_or(0, str::len);
        if !is_qualified_name(&key.to_lowercase()) {
            let key = Value::String(key.clone());
            errors.push(FieldError::invalid("metadata.annotations", &key, QUALIFIED_NAME_MESSAGE));
        }
    }
    if bytes > ANNOTATIONS_BYTES_MAX {
        errors.push(FieldError::too_long("metadata.annotations", ANNOTATIONS_BYTES_MAX));
    }
    errors
}

fn validate_owners(owners: &[Value]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut controllers = 0;
    for (position, owner) in owners.iter().enumerate() {
        for key in ["apiVersion", "kind", "name", "uid"] {
            if owner.get(key).and_then(Value::as_str).unwrap_or_default().is_empty() {
                let path = format!("metadata.ownerReferences[{position}].{key}");
                errors.push(FieldError::required(path, "must not be empty"));
            }
        }
        controllers += usize::from(owner.get("controller") == Some(&Value::Bool(true)));
    }
    if controllers > 1 {
        let detail = "only one reference can have controller set to true";
        errors.push(FieldError::invalid("metadata.ownerReferences", &Value::Array(owners.to_vec()), detail));
    }
    errors
}

fn name_error(path: &str, name: &str, bytes_max: usize, message: &str) -> FieldError {
    let value = Value::String(name.to_owned());
    if name.len() > bytes_max {
        return FieldError::invalid(path, &value, format!("must be no more than {bytes_max} characters"));
    }
    FieldError::invalid(path, &value, message)
}

fn items<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
