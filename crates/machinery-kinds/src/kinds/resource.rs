//! Kinds of the group `resource.k8s.io`: devices, who offers them, and who has claimed them.

mod claims;
mod common;
mod slices;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    checks,
    kit::{Path, Read, Write},
    metadata::{NameRule, OnUpdate},
    strategy::{Part, Selectable, Strategy, restore_metadata_for_status},
    table::{Printer, age_of, columns, printers::name},
};

/// What is special about a kind of this group.
pub(crate) fn strategy(kind: &str) -> Option<&'static Strategy> {
    Some(match kind {
        "DeviceClass" => &DEVICE_CLASS,
        "ResourceClaim" => &CLAIM,
        "ResourceClaimTemplate" => &CLAIM_TEMPLATE,
        "ResourceSlice" => &SLICE,
        _ => return None,
    })
}

static DEVICE_CLASS: Strategy = Strategy {
    generation: true,
    // The beginning of a generated name is not looked at, only what becomes of it.
    name_rule: NameRule::Own(|name, is_prefix| if is_prefix { Vec::new() } else { checks::long_name(name) }),
    metadata_on_update: OnUpdate::WholeAndChanges,
    validate: |class, errors| claims::class(class, None, errors),
    validate_update: Some(|new, old, errors| claims::class(new, Some(old), errors)),
    printer: &Printer { columns: columns::DEVICE_CLASS, cells: name_and_age },
    ..Strategy::PLAIN
};

static CLAIM: Strategy = Strategy {
    metadata_on_update: OnUpdate::WholeAndChanges,
    defaults: |claim| default_requests(claim.make("spec")),
    parts: &[Part {
        prepare: |new, old| {
            new.restore("spec", old);
            restore_metadata_for_status(new, old);
            drop_deallocated(new, old);
        },
        validate: claims::status,
        ..Part::STATUS
    }],
    validate: claims::claim,
    validate_update: Some(|new, old, errors| {
        checks::immutable(new.part("spec"), old.part("spec"), &Path::at("spec"), errors);
    }),
    printer: &Printer {
        columns: columns::RESOURCE_CLAIM,
        cells: |claim, now| vec![name(claim), state(claim).into(), age_of(claim, now)],
    },
    ..Strategy::PLAIN
};

static CLAIM_TEMPLATE: Strategy = Strategy {
    metadata_on_update: OnUpdate::WholeAndChanges,
    defaults: |template| default_requests(template.make("spec").make("spec")),
    validate: claims::template,
    validate_update: Some(|new, old, errors| {
        claims::template(new, errors);
        checks::immutable(new.part("spec"), old.part("spec"), &Path::at("spec"), errors);
    }),
    printer: &Printer { columns: columns::RESOURCE_CLAIM_TEMPLATE, cells: name_and_age },
    ..Strategy::PLAIN
};

static SLICE: Strategy = Strategy {
    generation: true,
    selectable: &[Selectable::field("spec.nodeName"), Selectable::field("spec.driver")],
    defaults: |slice| {
        for device in slice.make("spec").items_mut("devices") {
            for taint in device.items_mut("taints") {
                default_taint(taint);
            }
        }
    },
    prepare_create: |slice, _| drop_disabled(slice),
    prepare_update: |new, _| drop_disabled(new),
    validate: |slice, errors| slices::slice(slice, None, errors),
    validate_update: Some(|new, old, errors| slices::slice(new, Some(old), errors)),
    warnings: |slice, _| {
        let driver = slice.part("spec").text("driver");
        let shown = machinery_schema::field_error::quoted(driver);
        match driver.to_lowercase() == driver {
            true => Vec::new(),
            false => {
                vec![format!("spec.driver: driver names should be lowercase; {shown} contains uppercase characters")]
            }
        }
    },
    printer: &Printer {
        columns: columns::RESOURCE_SLICE,
        cells: |slice, now| {
            let spec = slice.part("spec");
            vec![
                name(slice),
                spec.text("nodeName").into(),
                spec.text("driver").into(),
                spec.part("pool").text("name").into(),
                age_of(slice, now),
            ]
        },
    },
    ..Strategy::PLAIN
};

fn name_and_age(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), age_of(object, now)]
}

fn default_requests(spec: &mut Value) {
    let Some(devices) = spec.some_mut("devices") else { return };
    for request in devices.items_mut("requests") {
        if let Some(exactly) = request.some_mut("exactly") {
            default_request(exactly);
        }
        request.items_mut("firstAvailable").iter_mut().for_each(default_request);
    }
}

fn default_request(request: &mut Value) {
    request.default_text("allocationMode", "ExactCount");
    if request.text("allocationMode") == "ExactCount" && request.int("count") == 0 {
        request.set("count", 1);
    }
}

/// A taint holds from when it was set.
fn default_taint(taint: &mut Value) {
    if !taint.has("timeAdded") {
        let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
        taint.set("timeAdded", now.to_string());
    }
}

/// What this version takes no notice of: lists in attributes, and what devices take of a node's own resources.
fn drop_disabled(slice: &mut Value) {
    for device in slice.make("spec").items_mut("devices") {
        device.unset("nodeAllocatableResourceMappings");
        let Some(attributes) = device.fields().get_mut("attributes").and_then(Value::as_object_mut) else { continue };
        for attribute in attributes.values_mut() {
            for list in ["bools", "ints", "strings", "versions"] {
                attribute.unset(list);
            }
        }
    }
}

/// What drivers report of devices ends with the allocation of these.
fn drop_deallocated(claim: &mut Value, old: &Value) {
    let id = |device: &Value| -> [String; 4] {
        ["driver", "pool", "device", "shareID"].map(|key| device.text(key).to_owned())
    };
    let allocated = |claim: &Value| -> Vec<[String; 4]> {
        claim.part("status").part("allocation").part("devices").items("results").iter().map(id).collect()
    };
    let (now, before) = (allocated(claim), allocated(old));
    let Some(status) = claim.some_mut("status") else { return };
    let Some(devices) = status.fields().get_mut("devices").and_then(Value::as_array_mut) else { return };
    devices.retain(|device| {
        let id = id(device);
        now.contains(&id) || !before.contains(&id)
    });
    if devices.is_empty() {
        status.unset("devices");
    }
}

fn state(claim: &Value) -> String {
    let (deleted, status) = (claim.part("metadata").has("deletionTimestamp"), claim.part("status"));
    let mut states = Vec::new();
    if deleted {
        states.push("deleted");
    }
    if status.has("allocation") {
        states.push("allocated");
        if !status.items("reservedFor").is_empty() {
            states.push("reserved");
        }
    } else if !deleted {
        states.push("pending");
    }
    states.join(",")
}
