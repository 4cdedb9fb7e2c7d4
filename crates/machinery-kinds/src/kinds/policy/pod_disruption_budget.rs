//! PodDisruptionBudget: how many of some pods may be evicted at a time.

use serde_json::Value;

use crate::{
    FieldError,
    checks::{self, SelectorOptions},
    kit::{Errors, Path, Read},
    strategy::{Part, Strategy},
    table::{Printer, age_of, columns, printers::name},
};

pub(super) static STRATEGY: Strategy = Strategy {
    generation: true,
    unconditional_update: false,
    parts: &[Part { validate: |new, _, errors| validate_status(new, errors), ..Part::STATUS }],
    validate: |budget, errors| validate(budget, SelectorOptions::default(), errors),
    validate_update: Some(|new, old, errors| {
        validate(new, SelectorOptions::for_update([old.part("spec").part("selector")]), errors);
    }),
    printer: &PRINTER,
    ..Strategy::PLAIN
};

fn validate(budget: &Value, options: SelectorOptions, errors: &mut Errors) {
    let (at, spec) = (Path::at("spec"), budget.part("spec"));
    if spec.has("minAvailable") && spec.has("maxUnavailable") {
        // By the names of its fields in Go.
        let shown = format!(
            "{{\"MinAvailable\":{},\"Selector\":{},\"MaxUnavailable\":{},\"UnhealthyPodEvictionPolicy\":{}}}",
            spec.part("minAvailable"),
            spec.part("selector"),
            spec.part("maxUnavailable"),
            spec.part("unhealthyPodEvictionPolicy")
        );
        errors.push(FieldError::invalid_as("spec", &shown, "minAvailable and maxUnavailable cannot be both set"));
    }
    for field in ["minAvailable", "maxUnavailable"].into_iter().filter(|field| spec.has(field)) {
        checks::positive_int_or_percent(spec.part(field), &at.field(field), errors);
        checks::at_most_100_percent(spec.part(field), &at.field(field), errors);
    }
    checks::label_selector(spec.part("selector"), options, &at.field("selector"), errors);
    if let Some(policy) = spec.part("unhealthyPodEvictionPolicy").as_str()
        && !matches!(policy, "AlwaysAllow" | "IfHealthyBudget")
    {
        let supported = ["AlwaysAllow", "IfHealthyBudget"];
        errors.not_supported(&at.field("unhealthyPodEvictionPolicy"), policy, &supported);
    }
}

fn validate_status(budget: &Value, errors: &mut Errors) {
    let (at, status) = (Path::at("status"), budget.part("status"));
    checks::conditions(status.part("conditions"), &at.field("conditions"), errors);
    for field in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
        checks::non_negative(status.int(field), &at.field(field), errors);
    }
}

static PRINTER: Printer = Printer {
    columns: columns::POD_DISRUPTION_BUDGET,
    cells: |budget, now| {
        let bound = |key: &str| match budget.part("spec").part(key) {
            Value::Null => Value::from("N/A"),
            Value::String(text) => text.as_str().into(),
            number => number.to_string().into(),
        };
        vec![
            name(budget),
            bound("minAvailable"),
            bound("maxUnavailable"),
            budget.part("status").int("disruptionsAllowed").into(),
            age_of(budget, now),
        ]
    },
};
