//! PodTemplates: a template of pods as an object of its own.

use serde_json::Value;

use super::pod::{
    self,
    rules::{Options, validate_template},
};
use crate::{
    kit::{Path, Read, Write},
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
    validate: |object, errors| {
        validate_template(object.part("template"), Options::default(), &Path::at("template"), errors);
    },
    validate_update: Some(|new, old, errors| {
        let options = Options::for_update(old.part("template"));
        validate_template(new.part("template"), options, &Path::at("template"), errors);
    }),
    warnings: |object, old| {
        if !pod::warnings::is_new_spec(object, old) {
            return Vec::new();
        }
        pod::warnings::of_template(object.part("template"), &Path::at("template"))
    },
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
