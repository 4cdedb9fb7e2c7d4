//! What a kind asks of its objects beyond their types.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::pods;
use crate::{
    FieldError,
    metadata::{NameRule, validate_labels},
};

/// A Secret or ConfigMap is read whole by every node that mounts it.
const DATA_BYTES_MAX: usize = 1024 * 1024;

/// Which names a kind takes.
pub(crate) fn name_rule(group: &str, kind: &str) -> NameRule {
    match (group, kind) {
        ("", "Namespace") => NameRule::Label,
        _ => NameRule::Subdomain,
    }
}

/// The rules of one kind, for an object whose types are right.
pub(super) fn validate(group: &str, kind: &str, object: &Value) -> Vec<FieldError> {
    match (group, kind) {
        ("", "Pod") => match object.get("spec") {
            Some(spec) => pods::validate(spec, "spec"),
            None => vec![FieldError::required("spec", "")],
        },
        ("", "ConfigMap") => data(object, &["data", "binaryData"]),
        ("", "Secret") => {
            let mut errors = data(object, &["data"]);
            errors.extend(secret_type(object));
            errors
        }
        ("", "Node") => node(object),
        ("apps", "DaemonSet") => daemon_set(object),
        ("apps", "ControllerRevision") => {
            let revision = object.get("revision").and_then(Value::as_i64).unwrap_or_default();
            at_least("revision", revision, 0).into_iter().collect()
        }
        ("apiextensions.k8s.io", "CustomResourceDefinition") => crate::crd::validate(object),
        ("certificates.k8s.io", "CertificateSigningRequest") => signing_request(object),
        ("coordination.k8s.io", "Lease") => lease(object),
        ("node.k8s.io", "RuntimeClass") => {
            let handler = object.get("handler").and_then(Value::as_str).unwrap_or_default();
            if crate::is_dns_label(handler) {
                return Vec::new();
            }
            vec![FieldError::invalid("handler", &handler.into(), api_kube::names::DNS_LABEL_MESSAGE)]
        }
        _ => Vec::new(),
    }
}

fn data(object: &Value, fields: &[&str]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut bytes = 0;
    for field in fields {
        for (key, value) in object.get(*field).and_then(Value::as_object).into_iter().flatten() {
            let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            let is_good =
                !key.is_empty() && key.len() <= 253 && key.bytes().all(good) && key != "." && !key.starts_with("..");
            if !is_good {
                let detail = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
                errors.push(FieldError::invalid(format!("{field}[{key}]"), &key.as_str().into(), detail));
            }
            bytes += value.as_str().map_or(0, str::len);
        }
    }
    // Data of Secrets counts encoded here, so a third more is let in than its limit says.
    if bytes > DATA_BYTES_MAX * 4 / 3 {
        errors.push(FieldError::too_long(fields.first().copied().unwrap_or_default(), DATA_BYTES_MAX));
    }
    errors
}

/// Keys that a type of Secret must have.
fn secret_type(object: &Value) -> Vec<FieldError> {
    let wanted: &[&str] = match object.get("type").and_then(Value::as_str).unwrap_or_default() {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    };
    let has = |key: &str| object.get("data").and_then(|data| data.get(key)).is_some();
    wanted.iter().filter(|key| !has(key)).map(|key| FieldError::required(format!("data[{key}]"), "")).collect()
}

fn node(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let taints = object.pointer("/spec/taints").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    for (position, taint) in taints.iter().enumerate() {
        let path = format!("spec.taints[{position}]");
        let key = taint.get("key").and_then(Value::as_str).unwrap_or_default();
        if !crate::is_qualified_name(key) {
            errors.push(FieldError::invalid(
                format!("{path}.key"),
                &key.into(),
                "must be a qualified name such as example.com/gpu",
            ));
        }
        let effect = taint.get("effect").unwrap_or(&Value::Null);
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        if !effect.as_str().is_some_and(|effect| effects.contains(&effect)) {
            errors.push(FieldError::not_supported(format!("{path}.effect"), effect, &effects));
        }
    }
    errors
}

fn daemon_set(object: &Value) -> Vec<FieldError> {
    let Some(spec) = object.get("spec") else { return vec![FieldError::required("spec", "")] };
    let mut errors = Vec::new();
    let selector = spec.get("selector").unwrap_or(&Value::Null);
    errors.extend(validate_selector(selector, "spec.selector"));
    let template = spec.get("template").unwrap_or(&Value::Null);
    let no_labels = Map::new();
    let labels = template.pointer("/metadata/labels").and_then(Value::as_object).unwrap_or(&no_labels);
    errors.extend(validate_labels(labels, "spec.template.metadata.labels"));
    if is_empty_selector(selector) {
        let detail = "empty selector is invalid for daemonset";
        errors.push(FieldError::invalid("spec.selector", selector, detail));
    } else if !selects(selector, labels) {
        let detail = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid("spec.template.metadata.labels", &Value::Object(labels.clone()), detail));
    }
    match template.get("spec") {
        Some(pod) => {
            errors.extend(pods::validate(pod, "spec.template.spec"));
            let policy = pod.get("restartPolicy").unwrap_or(&Value::Null);
            if policy.as_str() != Some("Always") {
                errors.push(FieldError::not_supported("spec.template.spec.restartPolicy", policy, &["Always"]));
            }
            if pod.get("activeDeadlineSeconds").is_some() {
                errors.push(FieldError::forbidden(
                    "spec.template.spec.activeDeadlineSeconds",
                    "activeDeadlineSeconds in DaemonSet is not Supported",
                ));
            }
        }
        None => errors.push(FieldError::required("spec.template.spec", "")),
    }
    let strategy = spec.pointer("/updateStrategy/type").unwrap_or(&Value::Null);
    if !matches!(strategy.as_str(), Some("OnDelete" | "RollingUpdate")) {
        errors.push(FieldError::not_supported("spec.updateStrategy.type", strategy, &["OnDelete", "RollingUpdate"]));
    }
    for key in ["minReadySeconds", "revisionHistoryLimit"] {
        let number = spec.get(key).and_then(Value::as_i64).unwrap_or_default();
        errors.extend(at_least(&format!("spec.{key}"), number, 0));
    }
    errors
}

fn signing_request(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = object.get("spec").unwrap_or(&Value::Null);
    let signer = spec.get("signerName").and_then(Value::as_str).unwrap_or_default();
    if signer.is_empty() {
        errors.push(FieldError::required("spec.signerName", ""));
    } else if !signer.contains('/') {
        let detail = "must be a fully qualified domain and path of the form \"example.com/signer-name\"";
        errors.push(FieldError::invalid("spec.signerName", &signer.into(), detail));
    }
    if spec.get("request").and_then(Value::as_str).unwrap_or_default().is_empty() {
        errors.push(FieldError::required("spec.request", ""));
    }
    if spec.get("usages").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        errors.push(FieldError::required("spec.usages", "usages are required"));
    }
    if let Some(seconds) = spec.get("expirationSeconds").and_then(Value::as_i64) {
        errors.extend(at_least("spec.expirationSeconds", seconds, 600));
    }
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let has = |kind: &str| conditions.iter().any(|c| c.get("type").and_then(Value::as_str) == Some(kind));
    if has("Approved") && has("Denied") {
        let detail = "Approved and Denied conditions are mutually exclusive";
        errors.push(FieldError::invalid("status.conditions", &Value::from("Denied"), detail));
    }
    errors
}

fn lease(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let at = |key: &str| object.pointer(&format!("/spec/{key}"));
    if let Some(seconds) = at("leaseDurationSeconds").and_then(Value::as_i64) {
        errors.extend(at_least("spec.leaseDurationSeconds", seconds, 1));
    }
    if let Some(transitions) = at("leaseTransitions").and_then(Value::as_i64) {
        errors.extend(at_least("spec.leaseTransitions", transitions, 0));
    }
    errors
}

/// A number that must not be smaller than `least`.
pub(super) fn at_least(path: &str, number: i64, least: i64) -> Option<FieldError> {
    (number < least)
        .then(|| FieldError::invalid(path, &number.into(), format!("must be greater than or equal to {least}")))
}

/// Checks a label selector's own form.
fn validate_selector(selector: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if let Some(labels) = selector.get("matchLabels").and_then(Value::as_object) {
        errors.extend(validate_labels(labels, &format!("{path}.matchLabels")));
    }
    for (position, expression) in expressions(selector).iter().enumerate() {
        let path = format!("{path}.matchExpressions[{position}]");
        let values = expression.get("values").and_then(Value::as_array).map_or(0, Vec::len);
        let operator = expression.get("operator").unwrap_or(&Value::Null);
        match operator.as_str() {
            Some("In" | "NotIn") if values == 0 => {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(FieldError::required(format!("{path}.values"), detail));
            }
            Some("Exists" | "DoesNotExist") if values > 0 => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(FieldError::forbidden(format!("{path}.values"), detail));
            }
            Some("In" | "NotIn" | "Exists" | "DoesNotExist") => {}
            _ => {
                errors.push(FieldError::invalid(format!("{path}.operator"), operator, "not a valid selector operator"))
            }
        }
    }
    errors
}

fn is_empty_selector(selector: &Value) -> bool {
    selector.get("matchLabels").and_then(Value::as_object).is_none_or(Map::is_empty) && expressions(selector).is_empty()
}

fn selects(selector: &Value, labels: &Map<String, Value>) -> bool {
    let wanted = selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten();
    let wanted: BTreeMap<&String, &Value> = wanted.collect();
    wanted.iter().all(|(key, value)| labels.get(*key) == Some(value))
        && expressions(selector).iter().all(|expression| {
            let label = labels.get(expression.get("key").and_then(Value::as_str).unwrap_or_default());
            let values = expression.get("values").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            match expression.get("operator").and_then(Value::as_str) {
                Some("In") => label.is_some_and(|label| values.contains(label)),
                Some("NotIn") => label.is_none_or(|label| !values.contains(label)),
                Some("Exists") => label.is_some(),
                Some("DoesNotExist") => label.is_none(),
                _ => false,
            }
        })
}

fn expressions(selector: &Value) -> &[Value] {
    selector.get("matchExpressions").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
