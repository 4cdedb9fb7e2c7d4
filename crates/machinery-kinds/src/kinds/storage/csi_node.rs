//! CSINode: which storage drivers a node has.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::check_csi_driver;
use crate::{
    FieldError, checks,
    kit::{Errors, Path, Read, Write},
    metadata::OnUpdate,
    strategy::Strategy,
    table::{Printer, age_of, columns, printers::name},
};

pub(super) static STRATEGY: Strategy = Strategy {
    unconditional_update: false,
    metadata_on_update: OnUpdate::Whole,
    validate,
    validate_update: Some(|new, old, errors| {
        validate(new, errors);
        let fixed = |driver: &Value| {
            let mut driver = driver.clone();
            driver.unset("allocatable");
            driver
        };
        for before in old.part("spec").items("drivers") {
            for driver in
                new.part("spec").items("drivers").iter().filter(|driver| driver.part("name") == before.part("name"))
            {
                if !checks::same(&fixed(driver), &fixed(before)) {
                    errors.push(FieldError::invalid_as("spec.drivers", &shown(driver), checks::IMMUTABLE));
                }
            }
        }
    }),
    printer: &PRINTER,
    ..Strategy::PLAIN
};

/// A driver as upstream shows it: by the names of its fields in Go.
fn shown(driver: &Value) -> String {
    let keys = driver.some("topologyKeys").cloned().unwrap_or_default();
    format!(
        "{{\"Name\":{},\"NodeID\":{},\"TopologyKeys\":{keys},\"Allocatable\":null}}",
        json!(driver.text("name")),
        json!(driver.text("nodeID"))
    )
}

const NODE_ID_BYTES_MAX: usize = 256;

fn validate(node: &Value, errors: &mut Errors) {
    let at = Path::at("spec.drivers");
    let mut names = HashSet::new();
    for (number, driver) in node.part("spec").items("drivers").iter().enumerate() {
        let at = at.index(number);
        check_csi_driver(driver.text("name"), &at.field("name"), errors);
        let id = driver.text("nodeID");
        if id.is_empty() {
            errors.required(&at.field("nodeID"), "");
        }
        if id.len() > NODE_ID_BYTES_MAX {
            errors.invalid(&at.field("nodeID"), id, format!("must be {NODE_ID_BYTES_MAX} characters or less"));
        }
        if let Some(count) = driver.part("allocatable").some_int("count") {
            checks::non_negative(count, &at.field("allocatable").field("count"), errors);
        }
        if !names.insert(driver.text("name")) {
            errors.duplicate(&at.field("name"), driver.text("name"));
        }
        let mut keys = HashSet::new();
        for key in driver.texts("topologyKeys") {
            if key.is_empty() {
                errors.required(&at, "");
            }
            if !keys.insert(key) {
                errors.duplicate(&at, key);
            }
            errors.invalid_each(&at, key, checks::qualified_name(key));
        }
    }
}

static PRINTER: Printer = Printer {
    columns: columns::CSI_NODE,
    cells: |node, now| vec![name(node), node.part("spec").items("drivers").len().into(), age_of(node, now)],
};
