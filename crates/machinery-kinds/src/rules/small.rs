//! What a kind requires of its objects beyond their types: one function per kind, which its strategy names.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::pods;
use crate::{FieldError, metadata::validate_labels};

pub(crate) fn pod(pod: &Value) -> Vec<FieldError> {
    match pod.get("spec") {
        Some(spec) => pods::validate(spec, "spec"),
        None => vec![FieldError::required("spec", "")],
    }
}

pub(crate) fn controller_revision(object: &Value) -> Vec<FieldError> {
    let revision = object.get("revision").and_then(Value::as_i64).unwrap_or_default();
    at_least("revision", revision, 0).into_iter().collect()
}

pub(crate) fn daemon_set(object: &Value) -> Vec<FieldError> {
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
    if strategy.as_str() == Some("RollingUpdate") {
        match spec.pointer("/updateStrategy/rollingUpdate") {
            Some(rolling) => errors.extend(rolling_update(rolling, "spec.updateStrategy.rollingUpdate")),
            None => errors.push(FieldError::required("spec.updateStrategy.rollingUpdate", "")),
        }
    }
    for key in ["minReadySeconds", "revisionHistoryLimit"] {
        let number = spec.get(key).and_then(Value::as_i64).unwrap_or_default();
        errors.extend(at_least(&format!("spec.{key}"), number, 0));
    }
    errors
}

/// Either nodes may lack a pod meanwhile, or further pods may run beside the old ones; not both, not neither.
fn rolling_update(rolling: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let fields = ["maxUnavailable", "maxSurge"].map(|key| (format!("{path}.{key}"), rolling.get(key)));
    let fields = fields.map(|(path, value)| (path, value.unwrap_or(&Value::Null)));
    for (path, value) in &fields {
        errors.extend(positive_int_or_percent(value, path));
    }
    for (path, value) in &fields {
        if percent(value).is_some_and(|percent| percent > 100) {
            errors.push(FieldError::invalid(path, value, "must not be greater than 100%"));
        }
    }
    let is_some = |value: &Value| percent(value).or_else(|| value.as_i64()).unwrap_or_default() != 0;
    let [(unavailable_path, unavailable), (surge_path, surge)] = &fields;
    match (is_some(unavailable), is_some(surge)) {
        (true, true) => {
            errors.push(FieldError::invalid(surge_path, surge, "may not be set when maxUnavailable is non-zero"));
        }
        (false, false) => errors.push(FieldError::required(unavailable_path, "cannot be 0 when maxSurge is 0")),
        _ => {}
    }
    errors
}

fn positive_int_or_percent(value: &Value, path: &str) -> Option<FieldError> {
    match value {
        Value::Null => None,
        Value::String(text) if is_percent(text) => None,
        Value::String(_) => {
            let detail = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
            Some(FieldError::invalid(path, value, detail))
        }
        _ => at_least(path, value.as_i64().unwrap_or_default(), 0),
    }
}

fn is_percent(text: &str) -> bool {
    text.strip_suffix('%').is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The number before the sign; what does not fit counts as more than all.
fn percent(value: &Value) -> Option<i64> {
    let text = value.as_str().filter(|text| is_percent(text))?;
    Some(text.trim_end_matches('%').parse().unwrap_or(i64::MAX))
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
    let required = selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten();
    let required: BTreeMap<&String, &Value> = required.collect();
    required.iter().all(|(key, value)| labels.get(*key) == Some(value))
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
