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

/// Kinds of CustomResourceDefinitions: rules and columns come with their schema.
pub(crate) static CUSTOM: Strategy =
    Strategy { generation: true, kube_finalizers: false, unconditional_update: false, ..Strategy::PLAIN };
