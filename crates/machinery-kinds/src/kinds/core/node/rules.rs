//! What a Node must be, and what of it may change.

use std::collections::HashSet;

use serde_json::Value;

use crate::{
    FieldError, checks,
    kinds::resources::resource_quantity,
    kit::{Errors, Path, Read},
};

/// Rules for a whole Node.
pub(super) fn validate(node: &Value, errors: &mut Errors) {
    // Upstream has taints, and swap below, at these places.
    check_taints(node.part("spec").items("taints"), &Path::at("metadata.taints"), errors);
    check_resources(node, errors);
    let swap = node.part("status").part("nodeInfo").part("swap");
    if let Some(capacity) = swap.some_int("capacity") {
        checks::positive(capacity, &Path::at("metadata.nodeSwapStatus.capacity"), errors);
    }
    check_features(node, errors);
    let at = Path::at("spec.podCIDRs");
    let ranges: Vec<&str> = node.part("spec").texts("podCIDRs").collect();
    for (number, range) in ranges.iter().enumerate() {
        checks::legacy_cidr(range, &[], &at.index(number), errors);
    }
    if ranges.len() > 1 {
        let families = ranges.iter().filter_map(|range| checks::parse_cidr(range)).map(|range| range.address.is_ipv4());
        let families: HashSet<bool> = families.collect();
        if families.len() < 2 || ranges.len() > 2 {
            let detail = "may specify no more than one CIDR for each IP family";
            errors.invalid(&at, node.part("spec").part("podCIDRs").clone(), detail);
        }
    }
}

/// Rules for a new version, or a new status.
pub(super) fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    check_resources(new, errors);
    check_features(new, errors);
    let mut seen = HashSet::new();
    for (number, address) in new.part("status").items("addresses").iter().enumerate() {
        if !seen.insert((address.text("type"), address.text("address"))) {
            let [kind, text] = ["type", "address"].map(|field| Value::from(address.text(field)));
            let shown = format!("{{\"Type\":{kind},\"Address\":{text}}}");
            errors.push(FieldError::duplicate_as(Path::at("status.addresses").index(number).to_string(), &shown));
        }
    }
    let (spec, before) = (new.part("spec"), old.part("spec"));
    let (ranges, held) = (spec.items("podCIDRs"), before.items("podCIDRs"));
    if !held.is_empty() {
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        let changes = if ranges.len() == held.len() {
            held.iter().zip(ranges).filter(|(held, now)| held != now).count()
        } else {
            1
        };
        (0..changes).for_each(|_| errors.forbidden(&Path::at("spec.podCIDRs"), detail));
    }
    if !before.text("providerID").is_empty() && spec.text("providerID") != before.text("providerID") {
        let detail = "node updates may not change providerID except from \"\" to valid";
        errors.forbidden(&Path::at("spec.providerID"), detail);
    }
    check_taints(spec.items("taints"), &Path::at("metadata.taints"), errors);
    if spec.text("externalID") != before.text("externalID") {
        errors.forbidden(&Path::at("spec.externalID"), "may not be updated");
    }
}

fn check_taints(taints: &[Value], at: &Path<'_>, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (number, taint) in taints.iter().enumerate() {
        let at = at.index(number);
        let (key, value, effect) = (taint.text("key"), taint.text("value"), taint.text("effect"));
        errors.invalid_each(&at.field("key"), key, checks::qualified_name(key));
        let messages = checks::label_value(value);
        if !messages.is_empty() {
            errors.invalid(&at.field("value"), value, messages.join(";"));
        }
        match effect {
            "" => errors.required(&at.field("effect"), ""),
            "NoSchedule" | "PreferNoSchedule" | "NoExecute" => {}
            other => {
                errors.not_supported(&at.field("effect"), other, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
            }
        }
        if !seen.insert((effect, key)) {
            // By the names of its fields in Go.
            let [key, value, effect] = [key, value, effect].map(Value::from);
            let time = taint.part("timeAdded");
            let shown = format!("{{\"Key\":{key},\"Value\":{value},\"Effect\":{effect},\"TimeAdded\":{time}}}");
            errors.duplicate_with(&at, &shown, "taints must be unique by key and effect pair");
        }
    }
}

fn check_resources(node: &Value, errors: &mut Errors) {
    for list in ["capacity", "allocatable"] {
        for (name, value) in node.part("status").entries(list) {
            let at = Path::at("status");
            resource_quantity(name, value, &at.field(list).field(name), errors);
        }
    }
}

fn check_features(node: &Value, errors: &mut Errors) {
    let at = Path::at("status.declaredFeatures");
    let features: Vec<&str> = node.part("status").texts("declaredFeatures").collect();
    for (number, feature) in features.iter().enumerate() {
        if feature.len() > checks::DNS_SUBDOMAIN_BYTES_MAX {
            let detail = format!(
                "invalid feature name \"{feature}\": must be no more than {} characters",
                checks::DNS_SUBDOMAIN_BYTES_MAX
            );
            errors.invalid(&at.index(number), *feature, detail);
        } else if !is_feature(feature) {
            let detail = format!(
                "invalid feature name \"{feature}\": must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes"
            );
            errors.invalid(&at.index(number), *feature, detail);
        }
        match features.get(number + 1) {
            Some(next) if next == feature => errors.duplicate(&at.index(number + 1), *next),
            Some(next) if next < feature => {
                errors.invalid(&at.index(number + 1), *next, "list must be sorted alphabetically");
            }
            _ => {}
        }
    }
}

/// `MyFeature/mySubFeature`.
fn is_feature(name: &str) -> bool {
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric());
    name.starts_with(|first: char| first.is_ascii_uppercase()) && name.split('/').all(is_word)
}
