//! What a HorizontalPodAutoscaler must be, in version 2.

use serde_json::Value;

use crate::{
    checks,
    kinds::resources::container_resource_name,
    kit::{Errors, Path, Read},
};

/// How a reference names the version of an API.
#[derive(Clone, Copy, Debug)]
struct VersionOptions {
    allow_core: bool,
    allow_any: bool,
}

const WINDOW_SECONDS_MAX: i64 = 3600;
const PERIOD_SECONDS_MAX: i64 = 1800;

/// Rules for the whole; `old` when it is a new version.
pub(super) fn validate(autoscaler: &Value, old: Option<&Value>, errors: &mut Errors) {
    let (at, spec) = (Path::at("spec"), autoscaler.part("spec"));
    let before = old.map_or(&Value::Null, |old| old.part("spec"));
    let (min, max) = (spec.some_int("minReplicas"), spec.int("maxReplicas"));
    let least = if before.some_int("minReplicas") == Some(0) { 0 } else { 1 };
    let max_at = at.field("maxReplicas");
    if let Some(min) = min.filter(|min| *min < least) {
        errors.invalid(&at.field("minReplicas"), min, format!("must be greater than or equal to {least}"));
    }
    match max {
        0 => errors.required(&max_at, "must be set and greater than 0"),
        1.. => {}
        _ => errors.invalid(&max_at, max, "must be greater than or equal to 1"),
    }
    if min.is_some_and(|min| max < min) {
        errors.invalid(&max_at, max, "must be greater than or equal to `minReplicas`");
    }
    let target = spec.part("scaleTargetRef");
    let held = before.part("scaleTargetRef");
    let is_same = old.is_some()
        && held.text("apiVersion") == target.text("apiVersion")
        && held.text("kind") == target.text("kind");
    let options =
        VersionOptions { allow_any: is_same, allow_core: !is_same && target.text("kind") == "ReplicationController" };
    check_reference(target, options, &at.field("scaleTargetRef"), errors);

    let mut options = VersionOptions { allow_core: true, allow_any: false };
    options.allow_any = before.items("metrics").iter().any(|metric| {
        let described = metric.part("object").part("describedObject");
        metric.text("type") == "Object" && metric.has("object") && version_error(described, options).is_some()
    });
    let metrics_at = at.field("metrics");
    for (number, metric) in spec.items("metrics").iter().enumerate() {
        check_metric(metric, options, &metrics_at.index(number), errors);
    }
    let scales_to_zero = |metric: &Value| matches!(metric.text("type"), "Object" | "External");
    if min == Some(0) && !spec.items("metrics").iter().any(scales_to_zero) {
        let detail = "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.forbidden(&metrics_at, detail);
    }
    let behavior_at = at.field("behavior");
    for direction in ["scaleUp", "scaleDown"].into_iter().filter(|direction| spec.part("behavior").has(direction)) {
        check_scaling(spec.part("behavior").part(direction), &behavior_at.field(direction), errors);
    }
}

/// Rules for a new status.
pub(super) fn validate_status(new: &Value, _old: &Value, errors: &mut Errors) {
    let (at, status) = (Path::at("status"), new.part("status"));
    for field in ["currentReplicas", "desiredReplicas"] {
        checks::non_negative(status.int(field), &at.field(field), errors);
    }
}

fn check_reference(reference: &Value, options: VersionOptions, at: &Path<'_>, errors: &mut Errors) {
    for field in ["kind", "name"] {
        match reference.text(field) {
            "" => errors.required(&at.field(field), ""),
            text => errors.invalid_each(&at.field(field), text, checks::path_segment_name(text)),
        }
    }
    if let Some(detail) = version_error(reference, options) {
        errors.invalid(&at.field("apiVersion"), reference.text("apiVersion"), detail);
    }
}

fn version_error(reference: &Value, options: VersionOptions) -> Option<String> {
    let version = reference.text("apiVersion");
    if options.allow_any {
        return None;
    }
    match version.matches('/').count() {
        0 if options.allow_core => None,
        0 => Some("apiVersion must specify API group".to_owned()),
        1 if version == "/" || !version.starts_with('/') || options.allow_core => {
            // A lone slash is an empty group version to Go.
            let is_core = version == "/" || version.starts_with('/');
            (is_core && !options.allow_core).then(|| "apiVersion must specify API group".to_owned())
        }
        1 => Some("apiVersion must specify API group".to_owned()),
        _ => Some(format!("unexpected GroupVersion string: {version}")),
    }
}

fn check_scaling(rules: &Value, at: &Path<'_>, errors: &mut Errors) {
    let window_at = at.field("stabilizationWindowSeconds");
    match rules.some_int("stabilizationWindowSeconds") {
        Some(seconds) if seconds < 0 => errors.invalid(&window_at, seconds, "must be greater than or equal to zero"),
        Some(seconds) if seconds > WINDOW_SECONDS_MAX => {
            errors.invalid(&window_at, seconds, format!("must be less than or equal to {WINDOW_SECONDS_MAX}"));
        }
        _ => {}
    }
    if let Some(policy) = rules.part("selectPolicy").as_str()
        && !matches!(policy, "Disabled" | "Max" | "Min")
    {
        errors.not_supported(&at.field("selectPolicy"), policy, &["Disabled", "Max", "Min"]);
    }
    let policies_at = at.field("policies");
    if rules.items("policies").is_empty() {
        errors.required(&policies_at, "must specify at least one Policy");
    }
    for (number, policy) in rules.items("policies").iter().enumerate() {
        let at = policies_at.index(number);
        let kind = policy.text("type");
        if !matches!(kind, "Pods" | "Percent") {
            errors.not_supported(&at.field("type"), kind, &["Percent", "Pods"]);
        }
        let (value, period) = (policy.int("value"), policy.int("periodSeconds"));
        if value <= 0 {
            errors.invalid(&at.field("value"), value, "must be greater than zero");
        }
        if period <= 0 {
            errors.invalid(&at.field("periodSeconds"), period, "must be greater than zero");
        }
        if period > PERIOD_SECONDS_MAX {
            let detail = format!("must be less than or equal to {PERIOD_SECONDS_MAX}");
            errors.invalid(&at.field("periodSeconds"), period, detail);
        }
    }
    if rules.has("tolerance") {
        checks::non_negative_quantity(rules.part("tolerance"), &at.field("tolerance"), errors);
    }
}

const TYPES: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];
const SOURCES: [(&str, &str); 5] = [
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];

fn check_metric(metric: &Value, options: VersionOptions, at: &Path<'_>, errors: &mut Errors) {
    let kind = metric.text("type");
    if kind.is_empty() {
        errors.required(&at.field("type"), "must specify a metric source type");
    }
    let expected = SOURCES.iter().find(|(known, _)| *known == kind).map(|(_, field)| *field);
    if expected.is_none() {
        errors.not_supported(&at.field("type"), kind, &TYPES);
    }
    let present: Vec<&str> = SOURCES.iter().map(|(_, field)| *field).filter(|field| metric.has(field)).collect();
    if let Some(first) = present.first() {
        check_source(first, metric.part(first), options, &at.field(first), errors);
    }
    match expected {
        Some(field) if !metric.has(field) => {
            errors.required(&at.field(field), "must populate information for the given metric source");
        }
        Some(_) => {}
        // Upstream says it twice.
        None => errors.not_supported(&at.field("type"), kind, &TYPES),
    }
    if present.len() != 1 {
        for field in present.into_iter().filter(|field| Some(*field) != expected) {
            errors.forbidden(&at.field(field), "must populate the given metric source only");
        }
    }
}

fn check_source(kind: &str, source: &Value, options: VersionOptions, at: &Path<'_>, errors: &mut Errors) {
    let target_at = at.field("target");
    let target = source.part("target");
    let has = |field: &str| target.has(field);
    match kind {
        "object" | "external" | "pods" => {
            if kind == "object" {
                check_reference(source.part("describedObject"), options, &at.field("describedObject"), errors);
            }
            let metric = source.part("metric");
            let name_at = at.field("metric");
            match metric.text("name") {
                "" => errors.required(&name_at.field("name"), "must specify a metric name"),
                name => errors.invalid_each(&name_at.field("name"), name, checks::path_segment_name(name)),
            }
        }
        _ => {
            match source.text("name") {
                "" => errors.required(&at.field("name"), "must specify a resource name"),
                name if kind == "containerResource" => container_resource_name(name, &at.field("name"), errors),
                _ => {}
            }
            if kind == "containerResource" {
                match source.text("container") {
                    "" => errors.required(&at.field("container"), "must specify a container"),
                    container => {
                        errors.invalid_each(&at.field("container"), container, checks::dns_label(container));
                    }
                }
            }
        }
    }
    check_target(target, &target_at, errors);
    let average_at = target_at.field("averageValue");
    match kind {
        "object" if !has("value") && !has("averageValue") => {
            errors.required(&average_at, "must set either a target value or averageValue");
        }
        "external" if !has("value") && !has("averageValue") => {
            errors.required(&average_at, "must set either a target value for metric or a per-pod target");
        }
        "external" if has("value") && has("averageValue") => {
            let detail = "may not set both a target value for metric and a per-pod target";
            errors.forbidden(&target_at.field("value"), detail);
        }
        "pods" if !has("averageValue") => {
            errors.required(&average_at, "must specify a positive target averageValue");
        }
        "resource" | "containerResource" => match (has("averageUtilization"), has("averageValue")) {
            (false, false) => {
                let detail = "must set either a target raw value or a target utilization";
                errors.required(&target_at.field("averageUtilization"), detail);
            }
            (true, true) => {
                errors.forbidden(&average_at, "may not set both a target raw value and a target utilization");
            }
            _ => {}
        },
        _ => {}
    }
}

fn check_target(target: &Value, at: &Path<'_>, errors: &mut Errors) {
    let kind = target.text("type");
    if kind.is_empty() {
        errors.required(&at.field("type"), "must specify a metric target type");
    }
    if !matches!(kind, "Utilization" | "Value" | "AverageValue") {
        errors.invalid(&at.field("type"), kind, "must be either Utilization, Value, or AverageValue");
    }
    for field in ["value", "averageValue"].into_iter().filter(|field| target.has(field)) {
        let quantity = checks::quantity(target.part(field));
        if quantity.is_zero() || quantity.is_negative() {
            errors.invalid(&at.field(field), quantity.to_string(), "must be positive");
        }
    }
    if let Some(percent) = target.some_int("averageUtilization").filter(|percent| *percent < 1) {
        errors.invalid(&at.field("averageUtilization"), percent, "must be greater than 0");
    }
}
