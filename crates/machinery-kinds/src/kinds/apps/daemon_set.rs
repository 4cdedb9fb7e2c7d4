//! DaemonSets: one pod on each node.

use serde_json::{Value, json};

use super::pod;
use crate::{
    kit::{Read, Write},
    strategy::Strategy,
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
    parts: &[crate::strategy::Part {
        prepare: |new, old| {
            new.restore("spec", old);
            set_template_generation(new, template_generation(old));
        },
        ..crate::strategy::Part::STATUS
    }],
    validate: |object, errors| errors.extend(crate::rules::daemon_set(object)),
    validate_update: Some(|new, old, errors| {
        errors.extend(crate::rules::daemon_set(new));
        errors.extend(crate::rules::update::daemon_set(new, old));
    }),
    warnings: super::warnings,
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
}

/// How often the template has changed, as the annotation has it.
pub(super) fn template_generation(set: &Value) -> i64 {
    set.part("metadata").part("annotations").text(TEMPLATE_GENERATION).parse().unwrap_or(0)
}

fn set_template_generation(set: &mut Value, generation: i64) {
    set.make("metadata").make("annotations").set(TEMPLATE_GENERATION, generation.to_string());
}
