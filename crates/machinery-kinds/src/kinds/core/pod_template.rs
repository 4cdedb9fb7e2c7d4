//! PodTemplates: a template of pods as an object of its own.

use serde_json::Value;

use super::pod;
use crate::{
    kit::{Read, Write},
    strategy::Strategy,
    table::{
        Printer, columns,
        printers::{labels, name},
    },
};

pub(crate) static POD_TEMPLATE: Strategy = Strategy {
    generation: true,
    defaults: |object| pod::default_template(object.make("template")),
    prepare_create: |object, _| pod::drop_disabled(object.make("template").make("spec"), &Value::Null),
    prepare_update: |new, old| pod::drop_disabled(new.make("template").make("spec"), old.part("template").part("spec")),
    printer: &Printer {
        columns: columns::POD_TEMPLATE,
        cells: |object, _| {
            let template = object.part("template");
            let [names, images] = pod::container_cells(template);
            vec![name(object), names, images, labels(template.part("metadata").some("labels")).into()]
        },
    },
    ..Strategy::PLAIN
};
