//! VolumeAttributesClass: properties of volumes that may change while they exist.

use serde_json::Value;

use super::{check_parameters, check_provisioner};
use crate::{
    checks,
    kit::{Errors, Path, Read},
    metadata::OnUpdate,
    strategy::Strategy,
    table::{Printer, age_of, columns, printers::name},
};

pub(super) static STRATEGY: Strategy = Strategy {
    metadata_on_update: OnUpdate::WholeAndChanges,
    validate,
    validate_update: Some(|new, old, errors| {
        if new.text("driverName") != old.text("driverName") {
            errors.forbidden(&Path::at("driverName"), "updates to driverName are forbidden.");
        }
        if !checks::same(new.part("parameters"), old.part("parameters")) {
            errors.forbidden(&Path::at("parameters"), "updates to parameters are forbidden.");
        }
        validate(new, errors);
    }),
    printer: &PRINTER,
    ..Strategy::PLAIN
};

fn validate(class: &Value, errors: &mut Errors) {
    check_provisioner(class.text("driverName"), &Path::at("driverName"), errors);
    check_parameters(class.part("parameters"), false, &Path::at("parameters"), errors);
}

static PRINTER: Printer = Printer {
    columns: columns::VOLUME_ATTRIBUTES_CLASS,
    cells: |class, now| vec![name(class), class.text("driverName").into(), age_of(class, now)],
};
