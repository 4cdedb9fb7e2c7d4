//! ReplicationControllers: the elders of ReplicaSets.

use serde_json::{Value, json};

use super::pod;
use crate::{
    kit::{Read, Write},
    strategy::{Selectable, Strategy},
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
