//! ReplicaSets: so many pods of one template.

use serde_json::{Value, json};

use super::pod;
use crate::{
    kit::{Read, Write},
    strategy::{Selectable, Strategy},
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
