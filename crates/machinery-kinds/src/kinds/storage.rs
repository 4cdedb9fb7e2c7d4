//! Kinds of the group `storage.k8s.io`.

mod csi_driver;
mod csi_node;
mod csi_storage_capacity;
mod storage_class;
mod volume_attachment;
mod volume_attributes_class;

use std::collections::HashSet;

use serde_json::Value;

use crate::{
    checks,
    kit::{Errors, Path, Read},
    strategy::Strategy,
};

/// What is special about a kind of this group.
pub(crate) fn strategy(kind: &str) -> Option<&'static Strategy> {
    Some(match kind {
        "CSIDriver" => &csi_driver::STRATEGY,
        "CSINode" => &csi_node::STRATEGY,
        "CSIStorageCapacity" => &csi_storage_capacity::STRATEGY,
        "StorageClass" => &storage_class::STRATEGY,
        "VolumeAttachment" => &volume_attachment::STRATEGY,
        "VolumeAttributesClass" => &volume_attributes_class::STRATEGY,
        _ => return None,
    })
}

const PARAMETERS_MAX: usize = 512;
const PARAMETERS_BYTES_MAX: usize = 256 * 1024;
const DRIVER_BYTES_MAX: usize = 63;

/// The driver that a class is for.
fn check_provisioner(provisioner: &str, at: &Path<'_>, errors: &mut Errors) {
    if provisioner.is_empty() {
        return errors.required(at, "");
    }
    let lower = provisioner.to_lowercase();
    errors.invalid_each(at, &lower, checks::qualified_name(&lower));
}

/// What a class says to its driver.
fn check_parameters(parameters: &Value, may_be_empty: bool, at: &Path<'_>, errors: &mut Errors) {
    let parameters: Vec<(&str, &str)> = parameters
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default()))
        .collect();
    if parameters.len() > PARAMETERS_MAX {
        return errors.too_long(at, PARAMETERS_MAX);
    }
    if parameters.iter().any(|(key, _)| key.is_empty()) {
        errors.invalid(at, "", "field can not be empty.");
    }
    if parameters.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > PARAMETERS_BYTES_MAX {
        errors.too_long(at, PARAMETERS_BYTES_MAX);
    }
    if !may_be_empty && parameters.is_empty() {
        errors.required(at, "must contain at least one key/value pair");
    }
}

/// The name of a driver of the Container Storage Interface.
pub(in crate::kinds) fn check_csi_driver(driver: &str, at: &Path<'_>, errors: &mut Errors) {
    if driver.is_empty() {
        return errors.required(at, "");
    }
    if driver.len() > DRIVER_BYTES_MAX {
        errors.too_long(at, DRIVER_BYTES_MAX);
    }
    errors.invalid_each(at, driver, checks::dns_subdomain(&driver.to_lowercase()));
}

/// One expression of a topology: a label, and the values that it may have.
fn check_topology_term(term: &Value, at: &Path<'_>, errors: &mut Errors) {
    let at = at.field("matchLabelExpressions");
    let mut keys = HashSet::new();
    for (number, expression) in term.items("matchLabelExpressions").iter().enumerate() {
        let (at, key) = (at.index(number), expression.text("key"));
        let values_at = at.field("values");
        if expression.items("values").is_empty() {
            errors.required(&values_at, "");
        }
        let mut values = HashSet::new();
        for (number, value) in expression.texts("values").enumerate() {
            if !values.insert(value) {
                errors.duplicate(&values_at.index(number), value);
            }
        }
        errors.invalid_each(&at.field("key"), key, checks::qualified_name(key));
        if !keys.insert(key) {
            errors.duplicate(&at.field("key"), key);
        }
    }
}
