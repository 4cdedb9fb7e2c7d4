//! What all objects share: names, labels, annotations and the other fields of `metadata`.

use serde_json::{Map, Value};

use crate::{FieldError, builtin};

/// A DNS label's length is given by RFC 1035.
const LABEL_BYTES_MAX: usize = 63;
/// A DNS name's length, minus the root's dot and length byte.
const SUBDOMAIN_BYTES_MAX: usize = 253;
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

/// `press-4`: lowercase letters, digits and `-`, at most 63 bytes, as RFC 1123 has it.
pub fn is_dns_label(text: &str) -> bool {
    let edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.len() <= LABEL_BYTES_MAX
        && bytes.first().is_some_and(|byte| edge(*byte))
        && bytes.last().is_some_and(|byte| edge(*byte))
        && bytes.iter().all(|byte| edge(*byte) || *byte == b'-')
}

/// `press-4.hall-2`: parts like [`is_dns_label`] but of any length, joined by dots, at most 253 bytes in all.
pub fn is_dns_subdomain(text: &str) -> bool {
    let edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() <= SUBDOMAIN_BYTES_MAX
        && text.split('.').all(|part| {
            let bytes = part.as_bytes();
            bytes.first().is_some_and(|byte| edge(*byte))
                && bytes.last().is_some_and(|byte| edge(*byte))
                && bytes.iter().all(|byte| edge(*byte) || *byte == b'-')
        })
}

/// `selvedge.dev/role`: an optional subdomain and a slash, then up to 63 letters, digits, `-`, `_`, `.`.
pub fn is_qualified_name(text: &str) -> bool {
    let name = match text.split_once('/') {
        Some((prefix, name)) => {
            if !is_dns_subdomain(prefix) {
                return false;
            }
            name
        }
        None => text,
    };
    !name.is_empty() && is_label_value(name)
}

/// Empty, or up to 63 letters, digits, `-`, `_`, `.` with a letter or digit at both ends.
pub fn is_label_value(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    bytes.len() <= LABEL_BYTES_MAX
        && ends.into_iter().flatten().all(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// `500m`, `1.5Gi`, `2e3`: a decimal number with an optional SI, binary or exponent suffix.
pub(crate) fn is_quantity(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let number_len = unsigned.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
    let (number, suffix) = unsigned.split_at(number_len);
    let is_number =
        number.bytes().any(|byte| byte.is_ascii_digit()) && number.bytes().filter(|byte| *byte == b'.').count() <= 1;
    let is_suffix = match suffix {
        "" | "n" | "u" | "m" | "k" | "M" | "G" | "T" | "P" | "E" => true,
        "Ki" | "Mi" | "Gi" | "Ti" | "Pi" | "Ei" => true,
        _ => suffix.strip_prefix(['e', 'E']).is_some_and(|exponent| exponent.parse::<i16>().is_ok()),
    };
    is_number && is_suffix
}

pub(crate) const LABEL_MESSAGE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
pub(crate) const SUBDOMAIN_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED_NAME_MESSAGE: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE_MESSAGE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

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
            errors.push(name_error("metadata.name", name, LABEL_BYTES_MAX, LABEL_MESSAGE));
        }
        (name, NameRule::Subdomain) if !is_dns_subdomain(name) => {
            errors.push(name_error("metadata.name", name, SUBDOMAIN_BYTES_MAX, SUBDOMAIN_MESSAGE));
        }
        _ => {}
    }
    match (namespaced, text("namespace")) {
        (true, "") => errors.push(FieldError::required("metadata.namespace", "")),
        (true, namespace) if !is_dns_label(namespace) => {
            errors.push(name_error("metadata.namespace", namespace, LABEL_BYTES_MAX, LABEL_MESSAGE));
        }
        (false, namespace) if !namespace.is_empty() => {
            errors.push(FieldError::forbidden("metadata.namespace", "not allowed on this type"));
        }
        _ => {}
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
