//! Claims of devices, templates of claims, and classes of devices.

use serde_json::Value;

use super::common::{
    TAINT_EFFECTS, binding_conditions, configuration, driver, each, fully_qualified, label, label_value, pool, raw,
    selectors, uid, unique,
};
use crate::{
    checks::{self, same},
    kinds::{node_selector::check_node_selector, resources::is_extended},
    kit::{Errors, Path, Read},
};

const REQUESTS_MAX: usize = 32;
const CONSTRAINTS_MAX: usize = 32;
const CONFIGURATIONS_MAX: usize = 32;
const FIRST_AVAILABLE_MAX: usize = 8;
const RESULTS_MAX: usize = 32;
const RESERVED_MAX: usize = 256;
const CONDITIONS_MAX: usize = 8;
const DATA_BYTES_MAX: usize = 10 * 1024;
const ADDRESSES_MAX: usize = 16;
const NETWORK_NAME_BYTES_MAX: usize = 256;
const HARDWARE_BYTES_MAX: usize = 128;

pub(super) fn claim(claim: &Value, errors: &mut Errors) {
    devices(claim.part("spec").part("devices"), &Path::at("spec.devices"), errors);
}

pub(super) fn template(template: &Value, errors: &mut Errors) {
    let (path, spec) = (Path::at("spec"), template.part("spec"));
    checks::template_metadata(spec.part("metadata"), &path.field("metadata"), errors);
    devices(spec.part("spec").part("devices"), &Path::at("spec.spec.devices"), errors);
}

pub(super) fn class(class: &Value, old: Option<&Value>, errors: &mut Errors) {
    let (path, spec) = (Path::at("spec"), class.part("spec"));
    selectors(spec, &path, errors);
    let is_stored = old.is_some_and(|old| same(spec.part("config"), old.part("spec").part("config")));
    each(spec, "config", CONFIGURATIONS_MAX, &path, errors, |config, path, errors| {
        configuration(config, is_stored, path, errors);
    });
    if let Some(name) = spec.part("extendedResourceName").as_str()
        && !is_extended(name)
    {
        errors.invalid(&path.field("extendedResourceName"), name, "must be a valid extended resource name");
    }
}

/// Names of requests, and of the alternatives of each.
struct Names<'v>(Vec<(&'v str, Vec<&'v str>)>);

impl<'v> Names<'v> {
    fn of(devices: &'v Value) -> Self {
        let names = devices.items("requests").iter().take(REQUESTS_MAX).map(|request| {
            let alternatives = request.items("firstAvailable").iter();
            (request.text("name"), alternatives.map(|alternative| alternative.text("name")).collect())
        });
        Self(names.collect())
    }

    fn has(&self, name: &str) -> bool {
        let (first, second) = name.split_once('/').map_or((name, None), |(first, second)| (first, Some(second)));
        let found = self.0.iter().rev().find(|(known, _)| *known == first);
        found.is_some_and(|(_, alternatives)| second.is_none_or(|second| alternatives.contains(&second)))
    }
}

fn devices(devices: &Value, path: &Path<'_>, errors: &mut Errors) {
    let names = Names::of(devices);
    each(devices, "requests", REQUESTS_MAX, path, errors, request);
    unique(devices, "requests", REQUESTS_MAX, path, errors, |request| request.text("name").into());
    each(devices, "constraints", CONSTRAINTS_MAX, path, errors, |constraint, path, errors| {
        references(constraint, &names, path, errors);
        if let Some(name) = constraint.part("matchAttribute").as_str() {
            fully_qualified(name, &path.field("matchAttribute"), errors);
        } else if let Some(name) = constraint.part("distinctAttribute").as_str() {
            fully_qualified(name, &path.field("distinctAttribute"), errors);
        } else {
            let detail =
                "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
            errors.required(path, detail);
        }
    });
    each(devices, "config", CONFIGURATIONS_MAX, path, errors, |config, path, errors| {
        references(config, &names, path, errors);
        configuration(config, false, path, errors);
    });
}

fn references(owner: &Value, names: &Names<'_>, path: &Path<'_>, errors: &mut Errors) {
    each(owner, "requests", REQUESTS_MAX, path, errors, |name, path, errors| {
        reference(name.as_str().unwrap_or_default(), names, path, errors);
    });
    unique(owner, "requests", REQUESTS_MAX, path, errors, Value::clone);
}

fn reference(name: &str, names: &Names<'_>, path: &Path<'_>, errors: &mut Errors) {
    let detail =
        "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
    if name.matches('/').count() > 1 {
        return errors.invalid(path, name, detail);
    }
    name.split('/').for_each(|part| label(part, path, errors));
    if !names.has(name) {
        errors.invalid(path, name, detail);
    }
}

fn request(request: &Value, path: &Path<'_>, errors: &mut Errors) {
    label(request.text("name"), &path.field("name"), errors);
    let has_alternatives = !request.items("firstAvailable").is_empty();
    match (has_alternatives, request.some("exactly")) {
        (false, None) => errors.required(path, "exactly one of `exactly` or `firstAvailable` is required"),
        (true, Some(_)) => {
            let detail = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            errors.invalid(path, Value::Null, detail);
        }
        (true, None) => {
            each(request, "firstAvailable", FIRST_AVAILABLE_MAX, path, errors, |alternative, path, errors| {
                label(alternative.text("name"), &path.field("name"), errors);
                exact(alternative, path, errors);
            });
            let name = |alternative: &Value| alternative.text("name").into();
            unique(request, "firstAvailable", FIRST_AVAILABLE_MAX, path, errors, name);
        }
        (false, Some(exactly)) => exact(exactly, &path.field("exactly"), errors),
    }
}

fn exact(request: &Value, path: &Path<'_>, errors: &mut Errors) {
    match request.text("deviceClassName") {
        "" => errors.required(&path.field("deviceClassName"), ""),
        name => errors.invalid_each(&path.field("deviceClassName"), name, checks::dns_subdomain(name)),
    }
    selectors(request, path, errors);
    let (at, count) = (path.field("count"), request.int("count"));
    match request.text("allocationMode") {
        "All" if count != 0 => errors.invalid(&at, count, "must not be specified when allocationMode is 'All'"),
        "All" => {}
        "ExactCount" if count <= 0 => errors.invalid(&at, count, "must be greater than zero"),
        "ExactCount" => {}
        other => errors.not_supported(&path.field("allocationMode"), other, &["All", "ExactCount"]),
    }
    each(request, "tolerations", usize::MAX, path, errors, toleration);
}

fn toleration(toleration: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (key, value) = (toleration.text("key"), toleration.text("value"));
    if !key.is_empty() {
        errors.invalid_each(&path.field("key"), key, checks::qualified_name(key));
    }
    match toleration.text("operator") {
        "Exists" if !value.is_empty() => {
            errors.invalid(&path.field("value"), value, "must be empty for operator `Exists`");
        }
        "Exists" => {}
        "Equal" => label_value(value, &path.field("value"), errors),
        "" => errors.required(&path.field("operator"), ""),
        other => errors.not_supported(&path.field("operator"), other, &["Equal", "Exists"]),
    }
    let effect = toleration.text("effect");
    if !effect.is_empty() && !TAINT_EFFECTS.contains(&effect) {
        errors.not_supported(&path.field("effect"), effect, &TAINT_EFFECTS);
    }
}

/// Which device: driver, pool, name, and its share when it is shared.
fn device_id(device: &Value) -> [String; 4] {
    ["driver", "pool", "device", "shareID"].map(|key| device.text(key).to_owned())
}

fn results(status: &Value) -> &[Value] {
    status.part("allocation").part("devices").items("results")
}

pub(super) fn status(claim: &Value, old: &Value, errors: &mut Errors) {
    let (path, status, before) = (Path::at("status"), claim.part("status"), old.part("status"));
    each(status, "reservedFor", RESERVED_MAX, &path, errors, |user, path, errors| {
        for key in ["resource", "name", "uid"] {
            if user.text(key).is_empty() {
                errors.required(&path.field(key), "");
            }
        }
    });
    unique(status, "reservedFor", RESERVED_MAX, &path, errors, |user| user.text("uid").into());
    let allocated: Vec<[String; 4]> = results(status).iter().take(RESULTS_MAX).map(device_id).collect();
    each(status, "devices", usize::MAX, &path, errors, |device, path, errors| {
        device_status(device, &allocated, path, errors);
    });
    let ids: Vec<[String; 4]> = status.items("devices").iter().map(device_id).collect();
    for (number, id) in ids.iter().enumerate() {
        if errors.is_full() {
            break;
        }
        if ids[..number].contains(id) {
            errors.duplicate_as(&path.field("devices").index(number), &shown_id(&status.items("devices")[number]));
        }
    }
    let at = path.field("reservedFor");
    if !status.items("reservedFor").is_empty() {
        if !status.has("allocation") {
            errors.forbidden(&at, "may not be specified when `allocated` is not set");
        } else if claim.part("metadata").has("deletionTimestamp")
            && !status.items("reservedFor").iter().all(|user| before.items("reservedFor").contains(user))
        {
            let detail = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
            errors.forbidden(&at, detail);
        }
    }
    let at = path.field("allocation");
    match (before.some("allocation"), status.some("allocation")) {
        (Some(before), Some(now)) => checks::immutable(now, before, &at, errors),
        (None, Some(now)) => allocation(now, &Names::of(claim.part("spec").part("devices")), &at, errors),
        _ => {}
    }
}

fn shown_id(device: &Value) -> String {
    checks::go_struct(&[
        ("Driver", &device.text("driver").into()),
        ("Pool", &device.text("pool").into()),
        ("Device", &device.text("device").into()),
        ("ShareID", &device.text("shareID").into()),
    ])
}

fn allocation(allocation: &Value, names: &Names<'_>, path: &Path<'_>, errors: &mut Errors) {
    let (at, devices) = (path.field("devices"), allocation.part("devices"));
    each(devices, "results", RESULTS_MAX, &at, errors, |result, path, errors| {
        reference(result.text("request"), names, &path.field("request"), errors);
        driver(result.text("driver"), &path.field("driver"), errors);
        pool(result.text("pool"), &path.field("pool"), errors);
        label(result.text("device"), &path.field("device"), errors);
        binding_conditions(result, path, errors);
        if let Some(share) = result.part("shareID").as_str() {
            uid(share, &path.field("shareID"), errors);
        }
    });
    each(devices, "config", 2 * CONFIGURATIONS_MAX, &at, errors, |config, path, errors| {
        match config.text("source") {
            "" => errors.required(&path.field("source"), ""),
            "FromClaim" | "FromClass" => {}
            other => errors.not_supported(&path.field("source"), other, &["FromClaim", "FromClass"]),
        }
        references(config, names, path, errors);
        configuration(config, false, path, errors);
    });
    if let Some(selector) = allocation.some("nodeSelector") {
        check_node_selector(selector, false, &path.field("nodeSelector"), errors);
    }
}

fn device_status(device: &Value, allocated: &[[String; 4]], path: &Path<'_>, errors: &mut Errors) {
    driver(device.text("driver"), &path.field("driver"), errors);
    pool(device.text("pool"), &path.field("pool"), errors);
    label(device.text("device"), &path.field("device"), errors);
    if let Some(share) = device.part("shareID").as_str() {
        uid(share, &path.field("shareID"), errors);
    }
    if !allocated.contains(&device_id(device)) {
        errors.invalid_as(path, &shown_id(device), "must be an allocated device in the claim");
    }
    let (at, conditions) = (path.field("conditions"), device.items("conditions").len());
    if conditions > CONDITIONS_MAX {
        errors.too_many(&at, conditions, CONDITIONS_MAX);
    }
    checks::conditions(device.part("conditions"), &at, errors);
    if device.has("data") {
        raw(device.part("data"), false, DATA_BYTES_MAX, &path.field("data"), errors);
    }
    let Some(network) = device.some("networkData") else { return };
    let path = path.field("networkData");
    for (key, bytes_max) in [("interfaceName", NETWORK_NAME_BYTES_MAX), ("hardwareAddress", HARDWARE_BYTES_MAX)] {
        if network.text(key).len() > bytes_max {
            errors.too_long(&path.field(key), bytes_max);
        }
    }
    each(network, "ips", ADDRESSES_MAX, &path, errors, |address, path, errors| {
        checks::interface_address(address.as_str().unwrap_or_default(), path, errors);
    });
    unique(network, "ips", ADDRESSES_MAX, &path, errors, Value::clone);
}
