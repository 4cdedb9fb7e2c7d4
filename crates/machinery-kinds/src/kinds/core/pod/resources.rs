//! Amounts of resources of a pod: sums over its containers, and what follows from them for the pod as a whole.

use std::collections::BTreeMap;

use api_kube::Quantity;
use serde::Deserialize as _;
use serde_json::{Map, Value};

use crate::{
    kinds::resources::is_huge_page,
    kit::{Read, Write},
};

type Amounts = BTreeMap<String, Quantity>;

/// Whether a pod as a whole may ask for a resource.
pub(super) fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || is_huge_page(name)
}

/// Whether resources are asked for the pod as a whole.
pub(super) fn has_pod_level(spec: &Value) -> bool {
    let resources = spec.part("resources");
    ["requests", "limits"].iter().any(|list| resources.entries(list).next().is_some())
}

/// Fills in requests and limits of a pod as a whole from those of its containers.
pub(super) fn default_pod_level(spec: &mut Value) {
    if !spec.has("resources") || !has_pod_level(spec) {
        return;
    }
    let amount = |quantity: &Quantity| Value::from(quantity.to_string());
    // Large pages cannot be overcommitted, so that what the containers may have is what the pod may have.
    let limits = aggregate(spec, "limits");
    let resources = spec.make("resources");
    let missing: Vec<_> = limits
        .iter()
        .filter(|(name, _)| is_huge_page(name) && !resources.part("requests").has(name))
        .filter(|(name, _)| !resources.part("limits").has(name))
        .collect();
    for (name, quantity) in missing {
        resources.make("limits").set(name, amount(quantity));
    }
    if resources.entries("limits").next().is_none() {
        return;
    }
    let requests = aggregate(spec, "requests");
    let resources = spec.make("resources");
    let mut filled = resources.part("requests").as_object().cloned().unwrap_or_default();
    for (name, quantity) in requests.iter().filter(|(name, _)| matches!(name.as_str(), "cpu" | "memory")) {
        filled.entry(name.clone()).or_insert_with(|| amount(quantity));
    }
    for (name, limit) in resources.entries("limits").filter(|(name, _)| is_pod_level(name)) {
        filled.entry(name.to_owned()).or_insert_with(|| limit.clone());
    }
    if !filled.is_empty() {
        resources.set("requests", Value::Object(filled));
    }
}

/// What the containers of a pod ask for together: all that run at once, or what one of the init containers needs if that is
/// more.
pub(super) fn aggregate(spec: &Value, list: &str) -> Amounts {
    let mut sum = Amounts::new();
    for container in spec.items("containers") {
        add(&mut sum, &amounts(container.part("resources").part(list)));
    }
    let (mut sidecars, mut largest) = (Amounts::new(), Amounts::new());
    for container in spec.items("initContainers") {
        let mut own = amounts(container.part("resources").part(list));
        if container.text("restartPolicy") == "Always" {
            add(&mut sum, &own);
            add(&mut sidecars, &own);
            own = sidecars.clone();
        } else {
            add(&mut own, &sidecars);
        }
        raise(&mut largest, &own);
    }
    raise(&mut sum, &largest);
    sum
}

/// The amounts in a list of resources; what is no quantity is left out.
pub(super) fn amounts(list: &Value) -> Amounts {
    let entries = list.as_object().into_iter().flat_map(Map::iter);
    entries.filter_map(|(name, value)| Some((name.clone(), Quantity::deserialize(value).ok()?))).collect()
}

fn add(sum: &mut Amounts, other: &Amounts) {
    for (name, quantity) in other {
        let entry = sum.entry(name.clone()).or_default();
        *entry = entry.saturating_add(*quantity);
    }
}

fn raise(sum: &mut Amounts, other: &Amounts) {
    for (name, quantity) in other {
        let entry = sum.entry(name.clone()).or_insert(*quantity);
        if *quantity > *entry {
            *entry = *quantity;
        }
    }
}
