//! What may change of the resources of a pod that runs: amounts of CPU and memory, and how containers take the change.

use api_kube::QosClass;
use serde_json::Value;

use super::{Options, annotations::MIRROR, pod_and_spec};
use crate::{
    checks,
    kinds::core::pod::resources::has_pod_level,
    kit::{Errors, Path, Read, Write},
};

const ONLY: &str = "only cpu and memory resources are mutable";

/// Rules for the subresource that changes resources.
pub(crate) fn validate_resize(new: &Value, old: &Value, errors: &mut Errors) {
    let (after, before) = (new.part("spec"), old.part("spec"));
    if old.part("metadata").part("annotations").has(MIRROR) {
        errors.forbidden(&Path::ROOT, "static pods cannot be resized");
        return;
    }
    if before.part("os").text("name") == "windows" {
        errors.forbidden(&Path::ROOT, "windows pods cannot be resized");
        return;
    }
    let first = errors.len();
    pod_and_spec(new, Options::for_update(old).of_pod(), errors);
    let at = Path::at("spec");
    let class = old.part("status").text("qosClass");
    let class = if class.is_empty() { QosClass::of_pod_spec(before).as_str() } else { class };
    if class != QosClass::of_pod_spec(after).as_str() {
        let detail = "Pod QOS Class may not change as a result of resizing";
        errors.invalid(&at, new.part("status").text("qosClass"), detail);
    }
    if !is_supported(old) {
        errors.forbidden(&at, "Pod running on node without support for resize");
    }
    let mut masked = after.clone();
    if has_pod_level(before) || has_pod_level(after) {
        pod_level(&mut masked, before, &at, errors);
    }
    if !old.part("status").items("nodeAllocatableResourceClaimStatuses").is_empty() {
        errors.forbidden(&at, "pods with node allocatable resource claims cannot be resized");
    }
    if !has_same_containers(after, before, &at, errors) {
        return;
    }
    for list in ["initContainers", "containers"] {
        let at = at.field(list);
        for (number, (after, before)) in after.items(list).iter().zip(before.items(list)).enumerate() {
            let (after, before) = (after.part("resources"), before.part("resources"));
            for (amounts, detail) in
                [("requests", "resource requests cannot be removed"), ("limits", "resource limits cannot be removed")]
            {
                if is_any_removed(after.part(amounts), before.part(amounts)) {
                    let at = at.index(number);
                    errors.forbidden(&at.field("resources").field(amounts), detail);
                }
            }
        }
    }
    for (container, before) in masked.items_mut("containers").iter_mut().zip(before.items("containers")) {
        mask_container(container, before);
        if !checks::same(container, before) {
            errors.forbidden(&at, ONLY);
        }
    }
    let list = at.field("initContainers");
    let containers = masked.items_mut("initContainers").iter_mut().zip(before.items("initContainers"));
    for (number, (container, before)) in containers.enumerate() {
        let is_modified = !checks::same(container, before);
        mask_container(container, before);
        if !checks::same(container, before) {
            let detail = "only cpu and memory resources for init or sidecar containers are mutable";
            errors.forbidden(&list.index(number), detail);
        }
        if !is_modified || container.text("restartPolicy") == "Always" {
            continue;
        }
        for _ in container.items("resizePolicy").iter().filter(|p| p.text("restartPolicy") == "RestartContainer") {
            let detail = "non-sidecar init containers with a resize policy of RestartContainer cannot be resized";
            errors.forbidden(&list.index(number), detail);
        }
    }
    if errors.len() == first && !checks::same(&masked, before) {
        errors.forbidden(&at, ONLY);
    }
}

/// A node that reports resources of running containers can change them.
fn is_supported(pod: &Value) -> bool {
    let statuses = pod.part("status").items("containerStatuses");
    let running = statuses.iter().find(|status| status.part("state").has("running"));
    running.is_none_or(|status| status.has("resources"))
}

fn has_same_containers(after: &Value, before: &Value, path: &Path<'_>, errors: &mut Errors) -> bool {
    let first = errors.len();
    for list in ["containers", "initContainers"] {
        let at = path.field(list);
        if after.items(list).len() != before.items(list).len() {
            errors.forbidden(&at, format!("{list} may not be added or removed on resize"));
            continue;
        }
        for (number, (after, before)) in after.items(list).iter().zip(before.items(list)).enumerate() {
            if after.text("name") != before.text("name") {
                let detail = format!("{list} may not be renamed or reordered on resize");
                errors.forbidden(&at.index(number).field("name"), detail);
            }
        }
    }
    errors.len() == first
}

fn pod_level(masked: &mut Value, before: &Value, path: &Path<'_>, errors: &mut Errors) {
    let at = path.field("resources");
    let known = before.part("resources");
    if !known.is_null() && !masked.has("resources") {
        errors.forbidden(&at, "pod-level resources cannot be removed");
        return;
    }
    for (list, detail) in [
        ("requests", "pod-level resource requests cannot be removed"),
        ("limits", "pod-level resource limits cannot be removed"),
    ] {
        if !known.is_null() && is_any_removed(masked.part("resources").part(list), known.part(list)) {
            errors.forbidden(&at.field(list), detail);
        }
    }
    mask(masked.make("resources"), known);
    if !checks::same(masked.part("resources"), known) {
        errors.forbidden(path, "only cpu and memory resources are mutable at pod-level");
    }
}

fn is_any_removed(after: &Value, before: &Value) -> bool {
    before.as_object().is_some_and(|before| before.keys().any(|name| !after.has(name)))
}

/// The same for a container. Upstream looks at its amounts alone, and so claims of devices differ always.
fn mask_container(container: &mut Value, before: &Value) {
    let resources = container.make("resources");
    mask(resources, before.part("resources"));
    resources.unset("claims");
}

/// Puts amounts of CPU and memory to what they were.
fn mask(resources: &mut Value, before: &Value) {
    for list in ["limits", "requests"] {
        let known = before.part(list);
        let mut amounts = resources.part(list).clone();
        for name in ["cpu", "memory"] {
            amounts.restore(name, known);
        }
        if amounts.as_object().is_none_or(serde_json::Map::is_empty) {
            resources.unset(list);
        } else {
            resources.set(list, amounts);
        }
    }
}
