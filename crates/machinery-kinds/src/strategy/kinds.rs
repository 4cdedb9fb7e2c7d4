//! The strategies of the built-in kinds, one value each, in the order of the catalogue.

use serde_json::{Value, json};

use super::{Durability, Part, Selectable, Strategy, restore};
use crate::{
    defaults,
    kit::{Read, Write},
    rules,
    rules::update,
    table::printers,
};

pub(crate) static CUSTOM_RESOURCE_DEFINITION: Strategy = Strategy {
    generation: true,
    defaults: defaults::custom_resource_definition,
    validate: crate::custom::validate,
    validate_update: Some(|new, old, errors| {
        crate::custom::validate(new, errors);
        errors.extend(update::custom_resource_definition(new, old));
    }),
    printer: &printers::CUSTOM_RESOURCE_DEFINITIONS,
    ..Strategy::PLAIN
};

pub(crate) static CERTIFICATE_SIGNING_REQUEST: Strategy = Strategy {
    prepare_create: |request, creation| {
        if let Some(spec) = request.get_mut("spec").and_then(Value::as_object_mut) {
            spec.insert("username".to_owned(), creation.user.into());
            spec.insert("groups".to_owned(), creation.groups.into());
            spec.remove("uid");
            spec.remove("extra");
        }
        request["status"] = json!({});
    },
    // What was signed, and who requested it, is no longer up to anyone.
    prepare_update: |new, old| restore(new, old, "spec"),
    parts: &[
        Part {
            prepare: |new, old| {
                new.restore("spec", old);
                if !new.part("status").has("conditions") && old.part("status").has("conditions") {
                    let before = old.part("status").part("conditions").clone();
                    new.make("status").set("conditions", before);
                }
            },
            ..Part::STATUS
        },
        Part {
            name: "approval",
            prepare: |new, old| {
                let conditions = new.part("status").some("conditions").cloned();
                new.restore("spec", old);
                new.restore("status", old);
                if let Some(conditions) = conditions {
                    new.make("status").set("conditions", conditions);
                }
            },
            ..Part::STATUS
        },
    ],
    selectable: &[Selectable::field("spec.signerName")],
    defaults: defaults::signing_request,
    validate: |object, errors| errors.extend(rules::signing_request(object)),
    validate_update: Some(|new, old, errors| {
        errors.extend(rules::signing_request(new));
        errors.extend(update::signing_request(new, old));
    }),
    printer: &printers::SIGNING_REQUESTS,
    ..Strategy::PLAIN
};

/// Leases come often, nobody watches one by name, and the next renewal repairs what was lost.
pub(crate) static LEASE: Strategy = Strategy {
    durability: Durability::Lazy,
    name_field: false,
    validate: |object, errors| errors.extend(rules::lease(object)),
    printer: &printers::LEASES,
    ..Strategy::PLAIN
};

pub(crate) static RUNTIME_CLASS: Strategy = Strategy {
    validate: |object, errors| errors.extend(rules::runtime_class(object)),
    validate_update: Some(|new, old, errors| {
        errors.extend(rules::runtime_class(new));
        errors.extend(update::runtime_class(new, old));
    }),
    printer: &printers::RUNTIME_CLASSES,
    ..Strategy::PLAIN
};

/// Kinds of CustomResourceDefinitions: rules and columns come with their schema.
pub(crate) static CUSTOM: Strategy =
    Strategy { generation: true, kube_finalizers: false, unconditional_update: false, ..Strategy::PLAIN };
