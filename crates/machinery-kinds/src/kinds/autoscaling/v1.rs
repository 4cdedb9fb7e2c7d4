//! HorizontalPodAutoscaler, version 1: one target for the processor, and annotations for all that came later.
//!
//! The annotations hold JSON as upstream writes it, key by key in the order of its structs.

use machinery_schema::types::Type;
use serde_json::{Map, Value, json};

use super::{
    rules,
    v2::{self, BEHAVIOR, CONDITIONS, CURRENT_METRICS, METRICS, cells, default_metrics, drop_round_trip},
};
use crate::{
    kit::{Read, Write},
    strategy::{Part, Strategy},
    table::{Printer, columns},
};

pub(super) static STRATEGY: Strategy = Strategy {
    stored_as: Some(("autoscaling", "horizontalpodautoscalers", "v2")),
    from_stored,
    to_stored,
    defaults: |autoscaler| autoscaler.make("spec").default_to("minReplicas", 1),
    parts: &[Part {
        validate: |new, old, errors| rules::validate_status(&stored(new), &stored(old), errors),
        ..Part::STATUS
    }],
    validate: |autoscaler, errors| rules::validate(&stored(autoscaler), None, errors),
    validate_update: Some(|new, old, errors| rules::validate(&stored(new), Some(&stored(old)), errors)),
    printer: &Printer {
        columns: columns::HORIZONTAL_POD_AUTOSCALER,
        cells: |autoscaler, now| cells(&stored(autoscaler), now),
    },
    ..Strategy::PLAIN
};

fn stored(autoscaler: &Value) -> Value {
    let mut autoscaler = autoscaler.clone();
    to_stored(&mut autoscaler);
    autoscaler
}

/// Whether a metric is the one that version 1 has a field for.
fn is_cpu_target(metric: &Value) -> bool {
    let resource = metric.part("resource");
    metric.text("type") == "Resource"
        && resource.text("name") == "cpu"
        && resource.part("target").has("averageUtilization")
}

fn from_stored(autoscaler: &mut Value) {
    convert_from_stored(autoscaler);
    complete("v1", autoscaler);
}

/// Puts an object into the form in which its version is written.
fn complete(version: &str, autoscaler: &mut Value) {
    let of = Type::of_kind("autoscaling", version, "HorizontalPodAutoscaler").expect("both versions are published");
    machinery_schema::decode::complete(of, autoscaler);
}

fn convert_from_stored(autoscaler: &mut Value) {
    let (spec, status) = (autoscaler.part("spec").clone(), autoscaler.part("status").clone());
    let mut annotations = Map::new();
    let others: Vec<String> = spec
        .items("metrics")
        .iter()
        .filter(|metric| !is_cpu_target(metric))
        .map(|metric| old_metric(metric, false))
        .collect();
    if !others.is_empty() {
        annotations.insert(METRICS.to_owned(), format!("[{}]", others.join(",")).into());
    }
    let current: Vec<String> = status.items("currentMetrics").iter().map(|metric| old_metric(metric, true)).collect();
    if !current.is_empty() {
        annotations.insert(CURRENT_METRICS.to_owned(), format!("[{}]", current.join(",")).into());
    }
    if let Some(behavior) = spec.some("behavior") {
        annotations.insert(BEHAVIOR.to_owned(), behavior_text(behavior).into());
    }
    let conditions: Vec<String> = status.items("conditions").iter().map(condition_text).collect();
    if !conditions.is_empty() {
        annotations.insert(CONDITIONS.to_owned(), format!("[{}]", conditions.join(",")).into());
    }
    if !annotations.is_empty() {
        autoscaler.make("metadata").make("annotations").fields().extend(annotations);
    }
    let old_spec = autoscaler.make("spec");
    old_spec.unset("metrics");
    old_spec.unset("behavior");
    if let Some(metric) = spec.items("metrics").iter().find(|metric| is_cpu_target(metric)) {
        let percent = metric.part("resource").part("target").int("averageUtilization");
        old_spec.set("targetCPUUtilizationPercentage", percent);
    }
    let old_status = autoscaler.make("status");
    old_status.unset("currentMetrics");
    old_status.unset("conditions");
    let measured = status.items("currentMetrics").iter().rev().find_map(|metric| {
        let resource = metric.part("resource");
        let is_cpu = metric.text("type") == "Resource" && resource.text("name") == "cpu";
        resource.part("current").some_int("averageUtilization").filter(|_| is_cpu)
    });
    if let Some(percent) = measured {
        old_status.set("currentCPUUtilizationPercentage", percent);
    }
}

fn to_stored(autoscaler: &mut Value) {
    let annotations = autoscaler.part("metadata").part("annotations").clone();
    let held = |key: &str| annotations.text(key).parse::<Value>().ok();
    let mut metrics: Vec<Value> = match held(METRICS) {
        Some(Value::Array(old)) => old.iter().map(|metric| new_metric(metric, false)).collect(),
        _ => Vec::new(),
    };
    let spec = autoscaler.make("spec");
    if let Some(percent) = spec.unset("targetCPUUtilizationPercentage").filter(|percent| !percent.is_null()) {
        let target = json!({"type": "Utilization", "averageUtilization": percent});
        metrics.push(json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
    }
    if !metrics.is_empty() {
        spec.set("metrics", metrics);
    }
    if let Some(behavior) = held(BEHAVIOR).as_ref().and_then(new_behavior) {
        spec.set("behavior", behavior);
    }
    default_metrics(spec);
    if autoscaler.has("status") {
        let status = autoscaler.make("status");
        if let Some(percent) = status.unset("currentCPUUtilizationPercentage").filter(|percent| !percent.is_null()) {
            let current = json!({"averageUtilization": percent});
            status
                .set("currentMetrics", json!([{"type": "Resource", "resource": {"name": "cpu", "current": current}}]));
        }
        if let Some(Value::Array(old)) = held(CURRENT_METRICS) {
            let metrics: Vec<Value> = old.iter().map(|metric| new_metric(metric, true)).collect();
            status.set("currentMetrics", metrics);
        }
        if let Some(conditions @ Value::Array(_)) = held(CONDITIONS) {
            status.set("conditions", conditions);
        }
    }
    drop_round_trip(autoscaler);
    v2::defaults(autoscaler);
    complete("v2", autoscaler);
}

/// Fields in order, those that are absent left out.
fn object(fields: impl IntoIterator<Item = (&'static str, Option<Value>)>) -> String {
    let fields: Vec<String> =
        fields.into_iter().filter_map(|(key, value)| value.map(|value| format!("\"{key}\":{value}"))).collect();
    format!("{{{}}}", fields.join(","))
}

/// The sources, in the order of upstream's struct.
const SOURCES: [&str; 5] = ["object", "pods", "resource", "containerResource", "external"];

/// A metric's target or value as version 1 writes it.
fn old_metric(metric: &Value, is_status: bool) -> String {
    let kind = Value::from(metric.text("type"));
    let Some(source) = SOURCES.into_iter().find(|source| metric.has(source)) else {
        return format!("{{\"type\":{kind}}}");
    };
    format!("{{\"type\":{kind},\"{source}\":{}}}", old_source(source, metric.part(source), is_status))
}

fn old_source(kind: &str, source: &Value, is_status: bool) -> String {
    let values = source.part(if is_status { "current" } else { "target" });
    let some = |key: &str| values.some(key).cloned();
    // A quantity that is no pointer is zero when there is none.
    let amount = |key: &str| Some(some(key).unwrap_or_else(|| "0".into()));
    let metric_name = Some(Value::from(source.part("metric").text("name")));
    let selector = source.part("metric").some("selector").cloned();
    let name = Some(Value::from(source.text("name")));
    let container = Some(Value::from(source.text("container")));
    let key = |target: &'static str, current: &'static str| if is_status { current } else { target };
    match kind {
        "object" => {
            let described = source.part("describedObject");
            let target = object([
                ("kind", Some(described.text("kind").into())),
                ("name", Some(described.text("name").into())),
                ("apiVersion", described.some("apiVersion").cloned()),
            ]);
            let rest = object([
                ("metricName", metric_name),
                (key("targetValue", "currentValue"), amount("value")),
                ("selector", selector),
                ("averageValue", some("averageValue")),
            ]);
            format!("{{\"target\":{target},{}", &rest[1..])
        }
        "pods" => object([
            ("metricName", metric_name),
            (key("targetAverageValue", "currentAverageValue"), amount("averageValue")),
            ("selector", selector),
        ]),
        "external" => object([
            ("metricName", metric_name),
            ("metricSelector", selector),
            (key("targetValue", "currentValue"), if is_status { amount("value") } else { some("value") }),
            (key("targetAverageValue", "currentAverageValue"), some("averageValue")),
        ]),
        kind => object([
            ("name", name),
            (key("targetAverageUtilization", "currentAverageUtilization"), some("averageUtilization")),
            (
                key("targetAverageValue", "currentAverageValue"),
                if is_status { amount("averageValue") } else { some("averageValue") },
            ),
            ("container", container.filter(|_| kind == "containerResource")),
        ]),
    }
}

/// A metric's target or value of version 1 as version 2 has it.
fn new_metric(metric: &Value, is_status: bool) -> Value {
    let mut new = json!({"type": metric.text("type")});
    if let Some(source) = SOURCES.into_iter().find(|source| metric.has(source)) {
        new.set(source, new_source(source, metric.part(source), is_status));
    }
    new
}

fn new_source(kind: &str, source: &Value, is_status: bool) -> Value {
    let (value_key, average_key, percent_key) = if is_status {
        ("currentValue", "currentAverageValue", "currentAverageUtilization")
    } else {
        ("targetValue", "targetAverageValue", "targetAverageUtilization")
    };
    let mut values = json!({});
    let mut copy = |from: &str, to: &str| {
        if let Some(value) = source.some(from) {
            values.set(to, value.clone());
        }
    };
    let average_key = if kind == "object" { "averageValue" } else { average_key };
    copy(average_key, "averageValue");
    copy(percent_key, "averageUtilization");
    let is_zero = checks_zero(source.part(value_key));
    if matches!(kind, "object" | "external")
        && (is_status || kind == "external" || !source.has(average_key) || !is_zero)
    {
        copy(value_key, "value");
    }
    if !is_status {
        let target_type = match kind {
            "object" if source.has("averageValue") => "AverageValue",
            "object" => "Value",
            "external" if source.has(value_key) => "Value",
            "external" | "pods" => "AverageValue",
            _ if source.has(percent_key) => "Utilization",
            _ => "AverageValue",
        };
        values.set("type", target_type);
    }
    let mut new = json!({});
    match kind {
        "object" | "pods" | "external" => {
            let mut metric = json!({"name": source.text("metricName")});
            let selector = if kind == "external" { "metricSelector" } else { "selector" };
            if let Some(selector) = source.some(selector) {
                metric.set("selector", selector.clone());
            }
            new.set("metric", metric);
            if kind == "object" {
                new.set("describedObject", source.part("target").clone());
            }
        }
        _ => {
            new.set("name", source.text("name"));
            if kind == "containerResource" {
                new.set("container", source.text("container"));
            }
        }
    }
    new.set(if is_status { "current" } else { "target" }, values);
    new
}

fn checks_zero(value: &Value) -> bool {
    crate::checks::quantity(value).is_zero()
}

/// The behavior as upstream's own structs have it, whose fields have no names of JSON.
fn behavior_text(behavior: &Value) -> String {
    let rules = |rules: &Value| -> String {
        if rules.is_null() {
            return "null".to_owned();
        }
        let policies = match rules.some("policies").and_then(Value::as_array) {
            None => "null".to_owned(),
            Some(policies) => {
                let policies: Vec<String> = policies
                    .iter()
                    .map(|policy| {
                        let kind = Value::from(policy.text("type"));
                        let (value, period) = (policy.int("value"), policy.int("periodSeconds"));
                        format!("{{\"Type\":{kind},\"Value\":{value},\"PeriodSeconds\":{period}}}")
                    })
                    .collect();
                format!("[{}]", policies.join(","))
            }
        };
        format!(
            "{{\"StabilizationWindowSeconds\":{},\"SelectPolicy\":{},\"Policies\":{policies},\"Tolerance\":{}}}",
            rules.part("stabilizationWindowSeconds"),
            rules.part("selectPolicy"),
            rules.part("tolerance"),
        )
    };
    format!("{{\"ScaleUp\":{},\"ScaleDown\":{}}}", rules(behavior.part("scaleUp")), rules(behavior.part("scaleDown")))
}

/// Reads what [`behavior_text`] wrote; Go takes names of fields in any case.
fn new_behavior(text: &Value) -> Option<Value> {
    let lower = |value: &Value| -> Value {
        let fields = value.as_object().into_iter().flatten();
        let fields = fields.filter(|(_, value)| !value.is_null());
        fields
            .map(|(key, value)| {
                let mut chars = key.chars();
                let first = chars.next().map(|first| first.to_ascii_lowercase());
                (first.into_iter().chain(chars).collect::<String>(), value.clone())
            })
            .collect::<Map<_, _>>()
            .into()
    };
    let mut behavior = lower(text);
    for direction in ["scaleUp", "scaleDown"] {
        if behavior.has(direction) {
            let mut rules = lower(behavior.part(direction));
            let policies: Vec<Value> = rules.items("policies").iter().map(lower).collect();
            if rules.has("policies") {
                rules.set("policies", policies);
            }
            behavior.set(direction, rules);
        }
    }
    let is_some = behavior.has("scaleUp") || behavior.has("scaleDown");
    is_some.then_some(behavior)
}

fn condition_text(condition: &Value) -> String {
    object([
        ("type", Some(condition.text("type").into())),
        ("status", Some(condition.text("status").into())),
        ("lastTransitionTime", Some(condition.part("lastTransitionTime").clone())),
        ("reason", condition.some("reason").cloned()),
        ("message", condition.some("message").cloned()),
    ])
}
