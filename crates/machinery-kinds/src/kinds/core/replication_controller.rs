//! ReplicationControllers: the elders of ReplicaSets.

use serde_json::{Value, json};

use super::pod::{
    self,
    rules::{Options, validate_template},
};
use crate::{
    kinds::apps::rules,
    kit::{Errors, Path, Read, Write},
    strategy::{Part, Selectable, Strategy},
    table::{
        Printer, age_of, columns,
        printers::{labels, name},
    },
};

pub(crate) static REPLICATION_CONTROLLER: Strategy = Strategy {
    generation: true,
    selectable: &[Selectable { absent: "0", ..Selectable::field("status.replicas") }],
    defaults,
    prepare_create: |controller, _| {
        if let Some(template) = controller.make("spec").some_mut("template") {
            pod::drop_disabled(template.make("spec"), &Value::Null);
        }
        controller.set("status", json!({"replicas": 0}));
    },
    prepare_update: |new, old| {
        if let Some(template) = new.make("spec").some_mut("template") {
            pod::drop_disabled(template.make("spec"), old.part("spec").part("template").part("spec"));
        }
    },
    parts: &[Part {
        validate: |new, _, errors| {
            let (status, path) = (new.part("status"), Path::at("status"));
            rules::non_negative(status, &COUNTS, &path, errors);
            let parts = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
            rules::at_most_replicas(status, &parts, "cannot be greater than readyReplicas", &path, errors);
        },
        ..Part::STATUS
    }],
    validate: |controller, errors| validate(controller, &Value::Null, errors),
    validate_update: Some(|new, old, errors| validate(new, old.part("spec").part("template"), errors)),
    warnings,
    printer: &Printer {
        columns: columns::REPLICATION_CONTROLLER,
        cells: |controller, now| {
            let (spec, status) = (controller.part("spec"), controller.part("status"));
            let [names, images] = pod::container_cells(spec.part("template"));
            vec![
                name(controller),
                spec.int("replicas").into(),
                status.int("replicas").into(),
                status.int("readyReplicas").into(),
                age_of(controller, now),
                names,
                images,
                labels(spec.some("selector")).into(),
            ]
        },
    },
    ..Strategy::PLAIN
};

fn defaults(controller: &mut Value) {
    let spec = controller.make("spec");
    spec.default_to("replicas", 1);
    let Some(template) = spec.some_mut("template") else { return };
    pod::default_template(template);
    let Some(labels) = template.part("metadata").some("labels").cloned() else { return };
    if spec.entries("selector").next().is_none() {
        spec.set("selector", labels.clone());
    }
    let metadata = controller.make("metadata");
    if metadata.entries("labels").next().is_none() {
        metadata.set("labels", labels);
    }
}

/// What a status counts.
const COUNTS: [&str; 5] =
    ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"];

fn warnings(controller: &Value, old: Option<&Value>) -> Vec<String> {
    let mut warnings = if old.is_none() { pod::warnings::of_name(controller) } else { Vec::new() };
    if pod::warnings::is_new_spec(controller, old) {
        // Of an update upstream looks at the old template.
        let template = old.unwrap_or(controller).part("spec").part("template");
        warnings.extend(pod::warnings::of_template(template, &Path::at("spec.template")));
    }
    warnings
}

fn validate(controller: &Value, old_template: &Value, errors: &mut Errors) {
    let (spec, path) = (controller.part("spec"), Path::at("spec"));
    rules::non_negative(spec, &["minReadySeconds"], &path, errors);
    let is_empty = spec.entries("selector").next().is_none();
    if is_empty {
        errors.required(&path.field("selector"), "");
    }
    if !spec.has("replicas") {
        errors.required(&path.field("replicas"), "");
    }
    rules::non_negative(spec, &["replicas"], &path, errors);
    let at = path.field("template");
    let Some(template) = spec.some("template") else {
        errors.required(&at, "");
        return;
    };
    let labels = template.part("metadata").part("labels");
    if spec.entries("selector").any(|(key, value)| labels.part(key) != value) {
        rules::not_selected(labels, &at, errors);
    }
    validate_template(template, Options::for_update(old_template), &at, errors);
    rules::endless(template, "ReplicationController", &at, errors);
}
