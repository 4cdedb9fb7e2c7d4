//! The strategies of the built-in kinds, one value each, in the order of the catalogue.

use machinery_crd::definition;

use super::{Part, Strategy, is_terminating, restore_metadata_of};
use crate::table::printers;

pub(crate) static CUSTOM_RESOURCE_DEFINITION: Strategy = Strategy {
    generation: true,
    unconditional_update: false,
    defaults: definition::apply_defaults,
    keeps_status_on_create: true,
    prepare_create: |new, _| definition::prepare_create(new),
    prepare_update: definition::prepare_update,
    // The first deletion leaves a finalizer of our own, which holds the definition until its objects are removed.
    is_held: |object| !is_terminating(object),
    begin_deletion: definition::begin_deletion,
    warnings: definition::warnings,
    validate: |new, errors| crate::custom::validate(new, None, errors),
    validate_update: Some(|new, old, errors| crate::custom::validate(new, Some(old), errors)),
    parts: &[Part { validate: |new, _, errors| errors.extend(definition::validate_status(new)), ..Part::STATUS }],
    printer: &printers::CUSTOM_RESOURCE_DEFINITIONS,
    ..Strategy::PLAIN
};

/// Kinds of CustomResourceDefinitions: rules and columns come with their schema.
pub(crate) static CUSTOM: Strategy = Strategy {
    generation: true,
    kube_finalizers: false,
    unconditional_update: false,
    warnings: crate::custom::warnings,
    parts: &[Part {
        prepare: |new, old| {
            restore_metadata_of(new, old);
            (Part::STATUS.prepare)(new, old);
        },
        ..Part::STATUS
    }],
    ..Strategy::PLAIN
};
