//! DaemonSets: one pod on each node.

use serde_json::{Value, json};

use super::{pod, rules};
use crate::{
    checks::{self, SelectorOptions},
    kit::{Errors, Path, Read, Write},
    strategy::{Part, Strategy},
    table::{
        Printer, age_of, columns,
        printers::{labels, name, selector},
    },
};

/// Counts the versions of the template. It was a field once, and clients of that time read it.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

pub(crate) static DAEMON_SET: Strategy = Strategy {
    generation: true,
    defaults,
    prepare_create: |set, _| {
        let generation = template_generation(set).max(1);
        set_template_generation(set, generation);
        super::drop_disabled(set, &Value::Null);
        set.set(
            "status",
            json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0}),
        );
    },
    prepare_update: |new, old| {
        super::drop_disabled(new, old);
        let is_same = new.part("spec").part("template") == old.part("spec").part("template");
        set_template_generation(new, template_generation(old) + i64::from(!is_same));
    },
    parts: &[Part {
        name: "status",
        prepare: |new, old| {
            new.restore("spec", old);
            set_template_generation(new, template_generation(old));
        },
        validate: |new, old, errors| {
            rules::non_negative(new.part("status"), &COUNTS, &Path::at("status"), errors);
            rules::collisions(new, old, errors);
        },
    }],
    validate: |set, errors| validate(set, None, errors),
    validate_update: Some(|new, old, errors| {
        rules::immutable_selector(new, old, errors);
        validate(new, Some(old), errors);
    }),
    warnings: |set, old| match old {
        Some(old) if template_generation(old) == template_generation(set) => Vec::new(),
        _ => super::template_warnings(set, None),
    },
    printer: &Printer {
        columns: columns::DAEMON_SET,
        cells: |set, now| {
            let (spec, status) = (set.part("spec"), set.part("status"));
            let template = spec.part("template");
            let [names, images] = pod::container_cells(template);
            vec![
                name(set),
                status.int("desiredNumberScheduled").into(),
                status.int("currentNumberScheduled").into(),
                status.int("numberReady").into(),
                status.int("updatedNumberScheduled").into(),
                status.int("numberAvailable").into(),
                labels(template.part("spec").some("nodeSelector")).into(),
                age_of(set, now),
                names,
                images,
                selector(spec.some("selector")).into(),
            ]
        },
    },
    ..Strategy::PLAIN
};

fn defaults(set: &mut Value) {
    let spec = set.make("spec");
    pod::default_template(spec.make("template"));
    let strategy = spec.make("updateStrategy");
    strategy.default_text("type", "RollingUpdate");
    if strategy.text("type") == "RollingUpdate" {
        let rolling = strategy.make("rollingUpdate");
        rolling.default_to("maxUnavailable", 1);
        rolling.default_to("maxSurge", 0);
    }
    spec.default_to("revisionHistoryLimit", 10);
    // Inside of upstream's server it is a number, which is there whatever the author wrote.
    let generation = template_generation(set);
    set_template_generation(set, generation);
}

/// What a status counts.
const COUNTS: [&str; 9] = [
    "currentNumberScheduled",
    "numberMisscheduled",
    "desiredNumberScheduled",
    "numberReady",
    "observedGeneration",
    "updatedNumberScheduled",
    "numberAvailable",
    "numberUnavailable",
    "collisionCount",
];

fn validate(set: &Value, old: Option<&Value>, errors: &mut Errors) {
    let (spec, path) = (set.part("spec"), Path::at("spec"));
    let (selector, template) = (spec.part("selector"), spec.part("template"));
    let known = old.map(|old| old.part("spec").part("selector"));
    let options = SelectorOptions::for_update(known);
    checks::label_selector(selector, options, &path.field("selector"), errors);
    let understood = rules::Selector::of(selector);
    let at = path.field("template");
    let labels = template.part("metadata").part("labels");
    if !matches!(understood, rules::Selector::Invalid) && !understood.matches(labels) {
        rules::not_selected(labels, &at, errors);
    }
    if !selector.is_null() && checks::is_empty_selector(selector) {
        let detail = "empty selector is invalid for daemonset";
        rules::invalid_selector(selector, detail, &path.field("selector"), errors);
    }
    pod::rules::validate_template(template, rules::template_options(old), &at, errors);
    rules::endless(template, "DaemonSet", &at, errors);
    rules::non_negative(spec, &["minReadySeconds"], &path, errors);
    let generation = template_generation(set);
    checks::non_negative(generation, &path.field("templateGeneration"), errors);
    update_strategy(spec.part("updateStrategy"), &path.field("updateStrategy"), errors);
    rules::non_negative(spec, &["revisionHistoryLimit"], &path, errors);
}

fn update_strategy(strategy: &Value, path: &Path<'_>, errors: &mut Errors) {
    match strategy.text("type") {
        "OnDelete" => {}
        "RollingUpdate" => match strategy.some("rollingUpdate") {
            None => errors.required(&path.field("rollingUpdate"), ""),
            Some(rolling) => rolling_update(rolling, &path.field("rollingUpdate"), errors),
        },
        _ => {
            let supported = ["RollingUpdate", "OnDelete"];
            rules::unsupported_struct("DaemonSetUpdateStrategy", strategy, &supported, path, errors);
        }
    }
}

fn rolling_update(rolling: &Value, path: &Path<'_>, errors: &mut Errors) {
    let keys = ["maxUnavailable", "maxSurge"];
    for key in keys {
        checks::positive_int_or_percent(rolling.part(key), &path.field(key), errors);
    }
    for key in keys {
        checks::at_most_100_percent(rolling.part(key), &path.field(key), errors);
    }
    match keys.map(|key| rules::int_or_percent(rolling.part(key)) != 0) {
        [true, true] => {
            let detail = "may not be set when maxUnavailable is non-zero";
            errors.invalid(&path.field("maxSurge"), rolling.part("maxSurge").clone(), detail);
        }
        [false, false] => errors.required(&path.field("maxUnavailable"), "cannot be 0 when maxSurge is 0"),
        _ => {}
    }
}

/// How often the template has changed, as the annotation has it.
pub(super) fn template_generation(set: &Value) -> i64 {
    set.part("metadata").part("annotations").text(TEMPLATE_GENERATION).parse().unwrap_or(0)
}

fn set_template_generation(set: &mut Value, generation: i64) {
    set.make("metadata").make("annotations").set(TEMPLATE_GENERATION, generation.to_string());
}
