//! What of a pod is not up to its author: its status, fields of features that are off, and what each subresource may write.

use api_kube::QosClass;
use serde_json::{Value, json};

use super::CONTAINER_LISTS;
use crate::{
    kit::{Read, Write},
    strategy::{Creation, restore_metadata_of},
};

pub(super) fn create(pod: &mut Value, creation: &Creation<'_>) {
    drop_disabled(pod.make("spec"), &Value::Null);
    let class = QosClass::of_pod_spec(pod.part("spec"));
    let mut status = json!({"phase": "Pending", "qosClass": class});
    if !pod.part("spec").items("schedulingGates").is_empty() {
        status.set(
            "conditions",
            json!([{
                "type": "PodScheduled",
                "status": "False",
                "lastProbeTime": null,
                "lastTransitionTime": creation.now,
                "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
            }]),
        );
    }
    pod.set("status", status);
    let labels = pod.part("metadata").part("labels").clone();
    let spec = pod.make("spec");
    merge_label_keys(spec, &labels);
    apply_app_armor_annotations(pod);
}

pub(super) fn update(new: &mut Value, old: &Value) {
    drop_disabled(new.make("spec"), old.part("spec"));
}

/// The status, and metadata that are not the system's.
pub(super) fn status(new: &mut Value, old: &Value) {
    new.restore("spec", old);
    let metadata = new.make("metadata");
    metadata.restore("ownerReferences", old.part("metadata"));
    let (before, after) = (old.part("status"), new.make("status"));
    if after.text("qosClass").is_empty() {
        after.restore("qosClass", before);
    }
    keep_observed_generations(after, before);
    drop_disabled_status(after, before);
}

/// The list of ephemeral containers and nothing else.
pub(super) fn ephemeral_containers(new: &mut Value, old: &Value) {
    let containers = new.part("spec").part("ephemeralContainers").clone();
    new.restore("spec", old);
    new.restore("status", old);
    restore_metadata_of(new, old);
    let spec = new.make("spec");
    if containers.as_array().is_none_or(Vec::is_empty) {
        spec.unset("ephemeralContainers");
    } else {
        spec.set("ephemeralContainers", containers);
    }
    drop_disabled(spec, old.part("spec"));
}

/// Resources of containers and how they are resized. Where containers come, go or change places all of the spec stays as it
/// was sent, for validation to reject it.
pub(super) fn resize(new: &mut Value, old: &Value) {
    let (before, after) = (old.part("spec"), new.part("spec"));
    let lists = ["containers", "initContainers"];
    if lists.iter().any(|list| before.items(list).len() != after.items(list).len()) {
        drop_disabled(new.make("spec"), old.part("spec"));
        return;
    }
    let mut spec = before.clone();
    spec.restore("resources", after);
    for list in lists {
        let has_same_names =
            before.items(list).iter().zip(after.items(list)).all(|(one, other)| one.text("name") == other.text("name"));
        if !has_same_names {
            spec.restore(list, after);
            continue;
        }
        for (container, sent) in spec.items_mut(list).iter_mut().zip(after.items(list)) {
            container.restore("resources", sent);
            container.restore("resizePolicy", sent);
        }
    }
    new.set("spec", spec);
    new.restore("status", old);
    restore_metadata_of(new, old);
    drop_disabled(new.make("spec"), old.part("spec"));
}

/// A client that knows nothing of observed generations does not take them back.
fn keep_observed_generations(after: &mut Value, before: &Value) {
    if after.int("observedGeneration") == 0 {
        after.restore("observedGeneration", before);
    }
    let mut known: Vec<(&str, i64)> =
        before.items("conditions").iter().map(|c| (c.text("type"), c.int("observedGeneration"))).collect();
    for condition in after.items_mut("conditions") {
        let found = known.iter().position(|(kind, _)| *kind == condition.text("type"));
        let generation = found.map_or(0, |at| known.remove(at).1);
        if condition.int("observedGeneration") == 0 && generation != 0 {
            condition.set("observedGeneration", generation);
        }
    }
}

/// Removes fields of features that are off by default, unless the stored spec has them already.
pub(crate) fn drop_disabled(spec: &mut Value, old: &Value) {
    let any_container =
        |spec: &Value, is: &dyn Fn(&Value) -> bool| CONTAINER_LISTS.iter().flat_map(|list| spec.items(list)).any(is);
    let has_signal = |container: &Value| container.part("lifecycle").has("stopSignal");
    if !any_container(old, &has_signal) {
        CONTAINER_LISTS.iter().for_each(|list| spec.items_mut(list).iter_mut().for_each(drop_stop_signal));
    }
    for source in ["clusterTrustBundle", "podCertificate"] {
        let is_used = old
            .items("volumes")
            .iter()
            .flat_map(|volume| volume.part("projected").items("sources"))
            .any(|projection| projection.has(source));
        if is_used {
            continue;
        }
        for volume in spec.items_mut("volumes") {
            if let Some(projected) = volume.some_mut("projected") {
                projected.items_mut("sources").iter_mut().for_each(|projection| drop(projection.unset(source)));
            }
        }
    }
    if !old.has("schedulingGroup") {
        spec.unset("schedulingGroup");
    }
}

fn drop_stop_signal(container: &mut Value) {
    let Some(lifecycle) = container.some_mut("lifecycle") else { return };
    if lifecycle.unset("stopSignal").is_some() && lifecycle.as_object().is_some_and(serde_json::Map::is_empty) {
        container.unset("lifecycle");
    }
}

fn drop_disabled_status(status: &mut Value, old: &Value) {
    if old.items("nodeAllocatableResourceClaimStatuses").is_empty() {
        status.unset("nodeAllocatableResourceClaimStatuses");
    }
    let lists = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    let has_volume_status = lists
        .iter()
        .flat_map(|list| old.items(list))
        .flat_map(|container| container.items("volumeMounts"))
        .any(|mount| mount.has("volumeStatus"));
    if !has_volume_status {
        for list in lists {
            for container in status.items_mut(list) {
                container.items_mut("volumeMounts").iter_mut().for_each(|mount| drop(mount.unset("volumeStatus")));
            }
        }
    }
}

/// Label keys whose values are those of the pod become parts of the selector.
fn merge_label_keys(spec: &mut Value, labels: &Value) {
    if let Some(affinity) = spec.some_mut("affinity") {
        for kind in ["podAffinity", "podAntiAffinity"] {
            let Some(kind) = affinity.some_mut(kind) else { continue };
            for weighted in kind.items_mut("preferredDuringSchedulingIgnoredDuringExecution") {
                if let Some(term) = weighted.some_mut("podAffinityTerm") {
                    merge_into_selector(term, labels);
                }
            }
            for term in kind.items_mut("requiredDuringSchedulingIgnoredDuringExecution") {
                merge_into_selector(term, labels);
            }
        }
    }
    for constraint in spec.items_mut("topologySpreadConstraints") {
        merge_into_selector(constraint, labels);
    }
}

fn merge_into_selector(term: &mut Value, labels: &Value) {
    let mut added = Vec::new();
    for (keys, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        for key in term.texts(keys) {
            if let Some(value) = labels.some(key) {
                added.push(json!({"key": key, "operator": operator, "values": [value]}));
            }
        }
    }
    let Some(selector) = term.some_mut("labelSelector") else { return };
    if added.is_empty() {
        return;
    }
    match selector.some_mut("matchExpressions").and_then(Value::as_array_mut) {
        Some(expressions) => expressions.append(&mut added),
        None => selector.set("matchExpressions", added),
    }
}

/// Profiles were annotations before they were fields; kubelets read the fields alone.
fn apply_app_armor_annotations(pod: &mut Value) {
    if pod.part("spec").part("os").text("name") == "windows" {
        return;
    }
    let annotations = pod.part("metadata").part("annotations").clone();
    if annotations.as_object().is_none_or(serde_json::Map::is_empty) {
        return;
    }
    let of_pod = pod.part("spec").part("securityContext").part("appArmorProfile").clone();
    let spec = pod.make("spec");
    for list in CONTAINER_LISTS {
        for container in spec.items_mut(list) {
            let key = format!("{APP_ARMOR_ANNOTATION_PREFIX}{}", container.text("name"));
            let Some(profile) = annotations.some(&key).and_then(Value::as_str).and_then(app_armor_profile) else {
                continue;
            };
            if !container.part("securityContext").has("appArmorProfile") && profile != of_pod {
                container.make("securityContext").set("appArmorProfile", profile);
            }
        }
    }
}

/// Comes before a container's name in the annotation that names its AppArmor profile.
pub(super) const APP_ARMOR_ANNOTATION_PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";

/// The field that says the same as an annotation; `None` when it says nothing that a field could say.
pub(super) fn app_armor_profile(annotation: &str) -> Option<Value> {
    match annotation {
        "unconfined" => Some(json!({"type": "Unconfined"})),
        "runtime/default" => Some(json!({"type": "RuntimeDefault"})),
        other => {
            let name = other.strip_prefix("localhost/")?;
            (!name.is_empty() && name.trim() == name && name.len() <= 4095)
                .then(|| json!({"type": "Localhost", "localhostProfile": name}))
        }
    }
}
