//! Slices: the devices that a driver offers, with what they are and how much of it.

use std::collections::BTreeSet;

use api_kube::Quantity;
use serde_json::Value;

use super::common::{TAINT_EFFECTS, binding_conditions, driver, each, label, label_value, pool, qualified, unique};
use crate::{
    checks::{self, quantity, same},
    kinds::node_selector::check_node_selector,
    kit::{Errors, Path, Read},
};

const DEVICES_MAX: usize = 128;
const SPECIAL_DEVICES_MAX: usize = 64;
const COUNTER_SETS_MAX: usize = 8;
const COUNTERS_MAX: usize = 32;
const CONSUMPTIONS_MAX: usize = 2;
const PROPERTIES_MAX: usize = 32;
const ATTRIBUTE_BYTES_MAX: usize = 64;
const TAINTS_MAX: usize = 16;
const OPTIONS_MAX: usize = 10;
/// Keys of attributes and capacities are shown up to this length: domain, slash and name.
const KEY_BYTES_MAX: usize = 63 + 1 + 32;

pub(super) fn slice(slice: &Value, old: Option<&Value>, errors: &mut Errors) {
    let (path, spec) = (Path::at("spec"), slice.part("spec"));
    driver(spec.text("driver"), &path.field("driver"), errors);
    let (at, pool_of) = (path.field("pool"), spec.part("pool"));
    pool(pool_of.text("name"), &at.field("name"), errors);
    if pool_of.int("resourceSliceCount") <= 0 {
        let count = pool_of.int("resourceSliceCount");
        errors.invalid(&at.field("resourceSliceCount"), count, "must be greater than zero");
    }
    if pool_of.int("generation") < 0 {
        let generation = pool_of.int("generation");
        errors.invalid(&at.field("generation"), generation, "must be greater than or equal to zero");
    }
    if let Some(old) = old.map(|old| old.part("spec")) {
        checks::immutable_text(pool_of, old.part("pool"), "name", &at, errors);
        checks::immutable_text(spec, old, "driver", &path, errors);
        checks::immutable(spec.part("nodeName"), old.part("nodeName"), &path.field("nodeName"), errors);
    }
    let mut set = node_choice(spec, "must be either unset or set to a non-empty string", &path, errors);
    if let Some(selector) = spec.some("nodeSelector")
        && selector.items("nodeSelectorTerms").len() != 1
    {
        let at = path.field("nodeSelector");
        let terms = selector.part("nodeSelectorTerms").clone();
        errors.invalid(&at.field("nodeSelectorTerms"), terms, "must have exactly one node selector term");
    }
    match spec.some_flag("perDeviceNodeSelection") {
        Some(true) => set.push("`perDeviceNodeSelection`"),
        Some(false) => {
            errors.invalid(&path.field("perDeviceNodeSelection"), false, "must be either unset or set to true");
        }
        None => {}
    }
    let one_of = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match set.len() {
        0 => errors.required(&path, one_of),
        1 => {}
        _ => {
            let shown = format!("{{{}}}", set.join(", "));
            errors.invalid(&path, shown, format!("{one_of}, but multiple fields are set"));
        }
    }
    if spec.has("sharedCounters") && spec.has("devices") {
        errors.invalid(&path, "", "only one of `sharedCounters` or `devices` is allowed");
    }
    devices(spec, old.map(|old| old.part("spec")), &path, errors);
    each(spec, "sharedCounters", COUNTER_SETS_MAX, &path, errors, |set, path, errors| {
        counters(set, "name", path, errors)
    });
    unique(spec, "sharedCounters", COUNTER_SETS_MAX, &path, errors, |set| set.text("name").into());
}

/// Which nodes: by name, by selector, or all. Gives which of these are set.
fn node_choice(owner: &Value, empty: &str, path: &Path<'_>, errors: &mut Errors) -> Vec<&'static str> {
    let mut set = Vec::new();
    match owner.part("nodeName").as_str() {
        Some("") => errors.invalid(&path.field("nodeName"), "", empty),
        Some(name) => {
            set.push("`nodeName`");
            errors.invalid_each(&path.field("nodeName"), name, checks::dns_subdomain(name));
        }
        None => {}
    }
    if let Some(selector) = owner.some("nodeSelector") {
        set.push("`nodeSelector`");
        check_node_selector(selector, false, &path.field("nodeSelector"), errors);
    }
    match owner.some_flag("allNodes") {
        Some(true) => set.push("`allNodes`"),
        Some(false) => errors.invalid(&path.field("allNodes"), false, "must be either unset or set to true"),
        None => {}
    }
    set
}

fn devices(spec: &Value, old: Option<&Value>, path: &Path<'_>, errors: &mut Errors) {
    let all = spec.items("devices");
    let is_special =
        |device: &Value| !device.items("taints").is_empty() || !device.items("consumesCounters").is_empty();
    let devices_max = if all.iter().any(is_special) { SPECIAL_DEVICES_MAX } else { DEVICES_MAX };
    let per_device = spec.flag("perDeviceNodeSelection");
    each(spec, "devices", devices_max, path, errors, |one, path, errors| {
        let before =
            old.and_then(|old| old.items("devices").iter().find(|before| before.text("name") == one.text("name")));
        device(one, before, per_device, path, errors);
    });
    unique(spec, "devices", devices_max, path, errors, |device| device.text("name").into());
}

fn device(device: &Value, old: Option<&Value>, per_device: bool, path: &Path<'_>, errors: &mut Errors) {
    label(device.text("name"), &path.field("name"), errors);
    let properties = device.entries("attributes").count() + device.entries("capacity").count();
    if properties > PROPERTIES_MAX {
        let detail = format!("the total number of attributes and capacities must not exceed {PROPERTIES_MAX}");
        errors.invalid(path, properties, detail);
    }
    let at = path.field("attributes");
    for (key, one) in device.entries("attributes") {
        if errors.is_full() {
            return;
        }
        qualified(key, &at, errors);
        attribute(one, &at.key(&shortened(key)), errors);
    }
    let at = path.field("capacity");
    for (key, capacity) in device.entries("capacity") {
        if errors.is_full() {
            return;
        }
        qualified(key, &at, errors);
        let key = shortened(key);
        let at = at.key(&key);
        if let Some(policy) = capacity.some("requestPolicy") {
            match device.flag("allowMultipleAllocations") {
                true => request_policy(quantity(capacity.part("value")), policy, &at.field("requestPolicy"), errors),
                false => errors.forbidden(&at.field("requestPolicy"), "allowMultipleAllocations must be true"),
            }
        }
    }
    if old.is_none_or(|old| !same(old.part("taints"), device.part("taints"))) {
        each(device, "taints", TAINTS_MAX, path, errors, taint);
    }
    each(device, "consumesCounters", CONSUMPTIONS_MAX, path, errors, |one, path, errors| {
        counters(one, "counterSet", path, errors);
    });
    unique(device, "consumesCounters", CONSUMPTIONS_MAX, path, errors, |one| one.text("counterSet").into());
    if per_device {
        let set = node_choice(device, "must not be empty", path, errors);
        let detail = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
        match set.len() {
            0 => errors.required(path, detail),
            1 => {}
            _ => errors.invalid(path, format!("{{{}}}", set.join(", ")), detail),
        }
    } else if ["nodeName", "nodeSelector", "allNodes"].iter().any(|key| device.has(key)) {
        let detail = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
        errors.invalid(path, Value::Null, detail);
    }
    binding_conditions(device, path, errors);
}

/// A long key as it is in a place: its beginning and its end.
fn shortened(key: &str) -> String {
    if key.len() <= KEY_BYTES_MAX {
        return key.to_owned();
    }
    let remaining = KEY_BYTES_MAX - 3;
    let (head, tail) = (remaining.div_ceil(2), key.len() - remaining / 2);
    match (key.get(..head), key.get(tail..)) {
        (Some(head), Some(tail)) => format!("{head}...{tail}"),
        _ => key.chars().take(KEY_BYTES_MAX).collect(),
    }
}

fn attribute(attribute: &Value, path: &Path<'_>, errors: &mut Errors) {
    if let Some(text) = attribute.part("string").as_str() {
        attribute_text(text, false, &path.field("string"), errors);
    }
    if let Some(text) = attribute.part("version").as_str() {
        attribute_text(text, true, &path.field("version"), errors);
    }
    let values = [("IntValue", "int"), ("BoolValue", "bool"), ("StringValue", "string"), ("VersionValue", "version")];
    match values.iter().filter(|(_, key)| attribute.has(key)).count() {
        0 => errors.invalid(path, "", "exactly one value must be specified"),
        1 => {}
        _ => {
            let lists = ["IntValues", "BoolValues", "StringValues", "VersionValues"].map(|name| (name, &Value::Null));
            let mut fields: Vec<(&str, &Value)> =
                values.iter().map(|(name, key)| (*name, attribute.part(key))).collect();
            fields.extend(lists);
            errors.invalid_as(path, &checks::go_struct(&fields), "exactly one value must be specified");
        }
    }
}

fn attribute_text(text: &str, is_version: bool, path: &Path<'_>, errors: &mut Errors) {
    if is_version && !is_semver(text) {
        errors.invalid(path, text, "must be a string compatible with semver.org spec 2.0.0");
    }
    if text.len() > ATTRIBUTE_BYTES_MAX {
        errors.too_long(path, ATTRIBUTE_BYTES_MAX);
    }
}

fn is_semver(text: &str) -> bool {
    let (rest, build) = text.split_once('+').map_or((text, None), |(rest, build)| (rest, Some(build)));
    let (core, pre) = rest.split_once('-').map_or((rest, None), |(core, pre)| (core, Some(pre)));
    let is_number = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) && (part == "0" || !part.starts_with('0'))
    };
    let is_word =
        |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let is_pre = |part: &str| is_word(part) && (is_number(part) || !part.bytes().all(|byte| byte.is_ascii_digit()));
    core.split('.').count() == 3
        && core.split('.').all(is_number)
        && pre.is_none_or(|pre| pre.split('.').all(is_pre))
        && build.is_none_or(|build| build.split('.').all(is_word))
}

fn taint(taint: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (key, value, effect) = (taint.text("key"), taint.text("value"), taint.text("effect"));
    errors.invalid_each(&path.field("key"), key, checks::qualified_name(key));
    label_value(value, &path.field("value"), errors);
    if effect.is_empty() {
        errors.required(&path.field("effect"), "");
    } else if !TAINT_EFFECTS.contains(&effect) {
        errors.not_supported(&path.field("effect"), effect, &TAINT_EFFECTS);
    }
}

/// A set of counters, or what a device takes of one.
fn counters(set: &Value, name_key: &str, path: &Path<'_>, errors: &mut Errors) {
    match set.text(name_key) {
        "" => errors.required(&path.field(name_key), ""),
        name => label(name, &path.field(name_key), errors),
    }
    let (at, count) = (path.field("counters"), set.entries("counters").count());
    if count == 0 {
        errors.required(&at, "");
    } else if count > COUNTERS_MAX {
        errors.too_many(&at, count, COUNTERS_MAX);
    } else {
        set.entries("counters").for_each(|(name, _)| label(name, &at, errors));
    }
}

fn request_policy(capacity: Quantity, policy: &Value, path: &Path<'_>, errors: &mut Errors) {
    let values = policy.items("validValues");
    let default = policy.some("default").map(quantity);
    match (values.is_empty(), policy.some("validRange")) {
        (false, Some(_)) => {
            let detail = "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time";
            errors.forbidden(path, detail);
        }
        (false, None) => match default {
            None => errors.required(&path.field("default"), "required when validValues is defined"),
            Some(default) => valid_values(default, capacity, policy, path, errors),
        },
        (true, Some(range)) => match default {
            None => errors.required(&path.field("default"), "required when validRange is defined"),
            Some(default) => valid_range(default, capacity, range, &path.field("validRange"), errors),
        },
        (true, None) => {}
    }
}

fn valid_values(default: Quantity, capacity: Quantity, policy: &Value, path: &Path<'_>, errors: &mut Errors) {
    let at = path.field("validValues");
    let values: Vec<Quantity> = policy.items("validValues").iter().map(quantity).collect();
    for (number, pair) in values.windows(2).enumerate() {
        if errors.is_full() {
            break;
        }
        if pair[0] > pair[1] {
            errors.invalid(&at.index(number + 1), pair[1].to_string(), "values must be sorted in ascending order");
        }
    }
    if values.len() > OPTIONS_MAX {
        errors.too_many(&at, values.len(), OPTIONS_MAX);
    } else {
        let mut seen = BTreeSet::new();
        for (number, value) in values.iter().enumerate() {
            if *value > capacity {
                let detail = format!("option is larger than capacity value: {capacity}");
                errors.invalid(&at.index(number), value.to_string(), detail);
            }
            if !seen.insert(value.value()) {
                errors.duplicate(&at.index(number), value.value().to_string());
            }
        }
    }
    if values.len() > OPTIONS_MAX || !values.contains(&default) {
        let detail = "default value is not valid according to the requestPolicy";
        errors.invalid(&at, default.to_string(), detail);
    }
}

fn valid_range(default: Quantity, capacity: Quantity, range: &Value, path: &Path<'_>, errors: &mut Errors) {
    let part = |key: &str| range.some(key).map(quantity);
    let Some(min) = part("min") else {
        return errors.required(&path.field("min"), "required when validRange is defined");
    };
    let max = part("max");
    let mut over = |key: &str, holds: bool, shown: Quantity, detail: String| {
        if holds {
            errors.invalid(&path.field(key), shown.to_string(), detail);
        }
    };
    over("min", min > capacity, min, format!("min is larger than capacity value: {capacity}"));
    over("min", default < min, default, format!("default is less than min: {min}"));
    if let Some(max) = max {
        over("max", min > max, min, format!("min is larger than max: {max}"));
        over("max", max > capacity, max, format!("max is larger than capacity value: {capacity}"));
        over("max", default > max, default, format!("default is more than max: {max}"));
    }
    if let Some(step) = part("step") {
        let added = min.saturating_add(step);
        let detail = format!("one step {added} is larger than capacity value: {capacity}");
        over("step", added > capacity, step, detail);
        for value in [Some(default), max].into_iter().flatten() {
            let is_off = step.value() != 0 && value.value().saturating_sub(min.value()) % step.value() != 0;
            over("step", is_off, value, format!("value is not a multiple of a given step ({step}) from ({min})"));
        }
    }
}
