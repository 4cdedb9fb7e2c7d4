//! HorizontalPodAutoscaler, version 2: how many pods a workload has depends on what is measured.

use serde_json::{Value, json};

use super::rules;
use crate::{
    kit::{Read, Write},
    strategy::{Part, Strategy},
    table::{Printer, age_of, columns, printers::name},
};

/// Annotations in which version 1 keeps what it has no fields for; nobody else may have them.
pub(super) const ROUND_TRIP: [&str; 6] = [
    METRICS,
    BEHAVIOR,
    "autoscaling.alpha.kubernetes.io/scale-down-tolerance",
    "autoscaling.alpha.kubernetes.io/scale-up-tolerance",
    CURRENT_METRICS,
    CONDITIONS,
];
pub(super) const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
pub(super) const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
pub(super) const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
pub(super) const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";

/// Percent of what pods request of a processor.
const CPU_UTILIZATION: i64 = 80;

pub(super) static STRATEGY: Strategy = Strategy {
    defaults,
    parts: &[Part { validate: rules::validate_status, ..Part::STATUS }],
    validate: |autoscaler, errors| rules::validate(autoscaler, None, errors),
    validate_update: Some(|new, old, errors| rules::validate(new, Some(old), errors)),
    printer: &PRINTER,
    ..Strategy::PLAIN
};

pub(super) fn defaults(autoscaler: &mut Value) {
    drop_round_trip(autoscaler);
    let spec = autoscaler.make("spec");
    spec.default_to("minReplicas", 1);
    default_metrics(spec);
    if let Some(behavior) = spec.some_mut("behavior") {
        let policy = |kind: &str, value: i64| json!({"type": kind, "value": value, "periodSeconds": 15});
        let up = json!({
            "stabilizationWindowSeconds": 0, "selectPolicy": "Max",
            "policies": [policy("Pods", 4), policy("Percent", 100)],
        });
        let down = json!({"selectPolicy": "Max", "policies": [policy("Percent", 100)]});
        for (direction, rules) in [("scaleUp", up), ("scaleDown", down)] {
            let given = behavior.make(direction);
            for (field, value) in rules.as_object().into_iter().flatten() {
                given.default_to(field, value.clone());
            }
        }
    }
}

pub(super) fn default_metrics(spec: &mut Value) {
    if spec.items("metrics").is_empty() {
        let target = json!({"type": "Utilization", "averageUtilization": CPU_UTILIZATION});
        spec.set("metrics", json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]));
    }
}

pub(super) fn drop_round_trip(autoscaler: &mut Value) {
    let metadata = autoscaler.make("metadata");
    let Some(annotations) = metadata.some_mut("annotations").and_then(Value::as_object_mut) else { return };
    let before = annotations.len();
    annotations.retain(|key, _| !ROUND_TRIP.contains(&key.as_str()));
    if annotations.is_empty() && before > 0 {
        metadata.unset("annotations");
    }
}

static PRINTER: Printer = Printer { columns: columns::HORIZONTAL_POD_AUTOSCALER, cells };

pub(super) fn cells(autoscaler: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let (spec, status) = (autoscaler.part("spec"), autoscaler.part("status"));
    let target = spec.part("scaleTargetRef");
    vec![
        name(autoscaler),
        format!("{}/{}", target.text("kind"), target.text("name")).into(),
        metrics(spec.items("metrics"), status.items("currentMetrics")).into(),
        spec.some_int("minReplicas").map_or_else(|| "<unset>".to_owned(), |count| count.to_string()).into(),
        spec.int("maxReplicas").into(),
        status.int("currentReplicas").into(),
        age_of(autoscaler, now),
    ]
}

/// `cpu: 12%/80%, <unknown>/1k + 1 more...`: what is, and what should be.
fn metrics(specs: &[Value], statuses: &[Value]) -> String {
    const SHOWN_MAX: usize = 2;
    if specs.is_empty() {
        return "<none>".to_owned();
    }
    let one = |(number, spec): (usize, &Value)| metric(spec, statuses.get(number).unwrap_or(&Value::Null));
    let list: Vec<String> = specs.iter().enumerate().map(one).take(SHOWN_MAX).collect();
    let shown = list.join(", ");
    if specs.len() > SHOWN_MAX { format!("{shown} + {} more...", specs.len() - SHOWN_MAX) } else { shown }
}

fn metric(spec: &Value, status: &Value) -> String {
    // An amount that is not there is a nil pointer, and Go says so.
    let amount = |values: &Value, key: &str| values.part(key).as_str().unwrap_or("<nil>").to_owned();
    let percent = |values: &Value| values.some_int("averageUtilization").map(|percent| format!("{percent}%"));
    let unknown = || "<unknown>".to_owned();
    let (key, is_resource) = match spec.text("type") {
        "External" => ("external", false),
        "Pods" => ("pods", false),
        "Object" => ("object", false),
        "Resource" => ("resource", true),
        "ContainerResource" => ("containerResource", true),
        _ => return "<unknown type>".to_owned(),
    };
    let (source, measured) = (spec.part(key), status.part(key));
    let (target, current) = (source.part("target"), measured.part("current"));
    let has_average = target.has("averageValue");
    let is_measured = !measured.is_null();
    if is_resource {
        let resource = source.text("name");
        if has_average {
            let current = if is_measured { amount(current, "averageValue") } else { unknown() };
            return format!("{resource}: {current}/{}", amount(target, "averageValue"));
        }
        let current = percent(current).unwrap_or_else(unknown);
        return format!("{resource}: {current}/{}", percent(target).unwrap_or_else(|| "<auto>".to_owned()));
    }
    if key == "pods" {
        let current = if is_measured { amount(current, "averageValue") } else { unknown() };
        return format!("{current}/{}", amount(target, "averageValue"));
    }
    if has_average {
        let current = if current.has("averageValue") { amount(current, "averageValue") } else { unknown() };
        return format!("{current}/{} (avg)", amount(target, "averageValue"));
    }
    let current = if is_measured { amount(current, "value") } else { unknown() };
    format!("{current}/{}", amount(target, "value"))
}
