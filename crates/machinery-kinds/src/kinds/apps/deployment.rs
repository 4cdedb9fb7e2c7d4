//! Deployments: a ReplicaSet at a time, and the way from one to the next.

use serde_json::{Value, json};

use super::pod;
use crate::{
    kit::{Read, Write},
    strategy::{Part, Strategy},
    table::{
        Printer, age_of, columns,
        printers::{name, selector_text},
    },
};

pub(crate) static DEPLOYMENT: Strategy = Strategy {
    generation: true,
    defaults,
    prepare_create: |deployment, _| {
        super::drop_disabled(deployment, &Value::Null);
        deployment.set("status", json!({}));
    },
    prepare_update: |new, old| {
        super::drop_disabled(new, old);
        // The annotations are handed down to the replica sets, so that they count as a part of the spec.
        let (before, after) = (old.part("metadata"), new.part("metadata"));
        if before.entries("annotations").ne(after.entries("annotations")) {
            let generation = before.int("generation").saturating_add(1);
            new.make("metadata").set("generation", generation);
        }
    },
    parts: &[Part {
        prepare: |new, old| {
            new.restore("spec", old);
            new.make("metadata").restore("labels", old.part("metadata"));
        },
        ..Part::STATUS
    }],
    warnings: super::warnings,
    printer: &Printer {
        columns: columns::DEPLOYMENT,
        cells: |deployment, now| {
            let (spec, status) = (deployment.part("spec"), deployment.part("status"));
            let [names, images] = pod::container_cells(spec.part("template"));
            vec![
                name(deployment),
                format!("{}/{}", status.int("readyReplicas"), spec.int("replicas")).into(),
                status.int("updatedReplicas").into(),
                status.int("availableReplicas").into(),
                age_of(deployment, now),
                names,
                images,
                selector_text(spec.some("selector")).into(),
            ]
        },
    },
    ..Strategy::PLAIN
};

fn defaults(deployment: &mut Value) {
    let spec = deployment.make("spec");
    pod::default_template(spec.make("template"));
    spec.default_to("replicas", 1);
    let strategy = spec.make("strategy");
    strategy.default_text("type", "RollingUpdate");
    if strategy.text("type") == "RollingUpdate" {
        let rolling = strategy.make("rollingUpdate");
        rolling.default_to("maxUnavailable", "25%");
        rolling.default_to("maxSurge", "25%");
    }
    spec.default_to("revisionHistoryLimit", 10);
    spec.default_to("progressDeadlineSeconds", 600);
}
