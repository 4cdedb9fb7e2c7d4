//! ReplicaSets: so many pods of one template.

use serde_json::{Value, json};

use super::{pod, rules};
use crate::{
    kit::{Errors, Path, Read, Write},
    strategy::{Part, Selectable, Strategy},
    table::{
        Printer, age_of, columns,
        printers::{name, selector},
    },
};

pub(crate) static REPLICA_SET: Strategy = Strategy {
    generation: true,
    selectable: &[Selectable { absent: "0", ..Selectable::field("status.replicas") }],
    defaults: |set| {
        let spec = set.make("spec");
        pod::default_template(spec.make("template"));
        spec.default_to("replicas", 1);
    },
    prepare_create: |set, _| {
        super::drop_disabled(set, &Value::Null);
        set.set("status", json!({"replicas": 0}));
    },
    prepare_update: super::drop_disabled,
    parts: &[Part {
        validate: |new, _, errors| {
            let (status, path) = (new.part("status"), Path::at("status"));
            rules::non_negative(status, &COUNTS, &path, errors);
            let parts = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
            rules::at_most_replicas(status, &parts, "cannot be greater than readyReplicas", &path, errors);
        },
        ..Part::STATUS
    }],
    validate: |set, errors| validate(set, None, errors),
    validate_update: Some(|new, old, errors| {
        validate(new, Some(old), errors);
        rules::immutable_selector(new, old, errors);
    }),
    warnings: super::warnings,
    printer: &Printer {
        columns: columns::REPLICA_SET,
        cells: |set, now| {
            let (spec, status) = (set.part("spec"), set.part("status"));
            let [names, images] = pod::container_cells(spec.part("template"));
            vec![
                name(set),
                spec.int("replicas").into(),
                status.int("replicas").into(),
                status.int("readyReplicas").into(),
                age_of(set, now),
                names,
                images,
                selector(spec.some("selector")).into(),
            ]
        },
    },
    ..Strategy::PLAIN
};

/// What a status counts.
const COUNTS: [&str; 6] = [
    "replicas",
    "fullyLabeledReplicas",
    "readyReplicas",
    "availableReplicas",
    "observedGeneration",
    "terminatingReplicas",
];

fn validate(set: &Value, old: Option<&Value>, errors: &mut Errors) {
    let (spec, path) = (set.part("spec"), Path::at("spec"));
    rules::non_negative(spec, &["replicas", "minReadySeconds"], &path, errors);
    rules::selector_and_template(spec, rules::template_options(old), &path, errors);
}
