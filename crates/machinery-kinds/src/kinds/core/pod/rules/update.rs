//! What may change of a pod that exists: it runs as it was written, so that little may.

use serde_json::Value;

use super::{Options, annotations, containers, pod_and_spec};
use crate::{
    checks,
    kinds::internal,
    kit::{Errors, Path, Read, Write},
};

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
     `spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set \
     to 1 if it was previously negative)";

/// Rules for a new version of a pod, its metadata apart.
pub(crate) fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    let options = Options::for_update(old).of_pod();
    pod_and_spec(new, options, errors);
    of_annotations(new, old, options, errors);
    let at = Path::at("spec");
    let (after, before) = (new.part("spec"), old.part("spec"));
    for list in ["containers", "initContainers"] {
        let at = at.field(list);
        if after.items(list).len() != before.items(list).len() {
            errors.forbidden(&at, "pod updates may not add or remove containers");
            return;
        }
        for (number, container) in after.items(list).iter().enumerate() {
            if container.text("image").is_empty() {
                errors.required(&at.index(number).field("image"), "");
            }
            containers::only_for_pod(container, &at.index(number), errors);
        }
    }
    if !deadline(after, before, &at.field("activeDeadlineSeconds"), errors) {
        return;
    }
    added_tolerations(after, before, options, &at, errors);
    deleted_gates(after, before, &at.field("schedulingGates"), errors);
    if checks::same(after, before) {
        return;
    }
    let mut masked = after.clone();
    for list in ["containers", "initContainers"] {
        for (container, before) in masked.items_mut(list).iter_mut().zip(before.items(list)) {
            container.restore("image", before);
        }
    }
    for key in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        masked.restore(key, before);
    }
    if before.int("terminationGracePeriodSeconds") < 0 && after.int("terminationGracePeriodSeconds") == 1 {
        masked.restore("terminationGracePeriodSeconds", before);
    }
    if !before.items("schedulingGates").is_empty() {
        of_gated(&mut masked, before, &at, errors);
    }
    if !checks::same(&masked, before) {
        let diff = internal::diff("PodSpec", before, &masked);
        errors.forbidden(&at, format!("pod updates may not change fields other than {UPDATABLE}\n{diff}"));
    }
}

fn of_annotations(new: &Value, old: &Value, options: Options, errors: &mut Errors) {
    let (metadata, at) = (new.part("metadata"), Path::at("metadata.annotations"));
    annotations::validate_update(metadata, old.part("metadata"), &at, errors);
    annotations::validate(metadata, new.part("spec"), options, &at, errors);
}

/// A deadline may come nearer; returns whether the rest is worth a look.
fn deadline(after: &Value, before: &Value, path: &Path<'_>, errors: &mut Errors) -> bool {
    let max = i64::from(i32::MAX);
    match (after.some_int("activeDeadlineSeconds"), before.some_int("activeDeadlineSeconds")) {
        (Some(after), _) if !(0..=max).contains(&after) => {
            errors.invalid(path, after, checks::range_message(0, max));
            false
        }
        (Some(after), Some(before)) if before < after => {
            errors.invalid(path, after, "must be less than or equal to previous value");
            false
        }
        (None, Some(_)) => {
            errors.invalid(path, Value::Null, "must not update from a positive integer to nil value");
            true
        }
        _ => true,
    }
}

fn added_tolerations(after: &Value, before: &Value, options: Options, path: &Path<'_>, errors: &mut Errors) {
    let without_seconds = |toleration: &Value| {
        let mut toleration = toleration.clone();
        toleration.unset("tolerationSeconds");
        toleration
    };
    let known: Vec<Value> = after.items("tolerations").iter().map(without_seconds).collect();
    if before.items("tolerations").iter().any(|toleration| !known.contains(&without_seconds(toleration))) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.forbidden(&path.field("tolerations"), detail);
        return;
    }
    super::scheduling::tolerations(after, options, &path.field("tolerations"), errors);
}

fn deleted_gates(after: &Value, before: &Value, path: &Path<'_>, errors: &mut Errors) {
    let gates = after.items("schedulingGates");
    for (number, gate) in gates.iter().enumerate() {
        let name = gate.text("name");
        let is_known = before.items("schedulingGates").iter().any(|gate| gate.text("name") == name);
        let is_last = !gates[number + 1..].iter().any(|gate| gate.text("name") == name);
        if !is_known && is_last {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.forbidden(&path.index(number).field("name"), detail);
        }
    }
}

/// Where a pod that waits at a gate may run can be narrowed.
fn of_gated(masked: &mut Value, before: &Value, path: &Path<'_>, errors: &mut Errors) {
    let selector = masked.part("nodeSelector");
    if !checks::same(selector, before.part("nodeSelector")) {
        if before.entries("nodeSelector").any(|(key, value)| selector.part(key) != value) {
            let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
            errors.invalid(&path.field("nodeSelector"), selector.clone(), detail);
        }
        masked.restore("nodeSelector", before);
    }
    let nodes = |spec: &Value| spec.part("affinity").part("nodeAffinity").clone();
    let (after, known) = (nodes(masked), nodes(before));
    if checks::same(&after, &known) {
        return;
    }
    node_affinity(&after, &known, &path.field("affinity.nodeAffinity"), errors);
    let affinity = masked.part("affinity");
    let is_only_nodes = !affinity.has("podAffinity") && !affinity.has("podAntiAffinity");
    if affinity.is_null() && known.is_null() {
        return;
    }
    if !affinity.is_null() && !before.has("affinity") && is_only_nodes {
        masked.unset("affinity");
    } else if known.is_null() {
        masked.make("affinity").unset("nodeAffinity");
    } else {
        masked.make("affinity").set("nodeAffinity", known);
    }
}

fn node_affinity(after: &Value, before: &Value, path: &Path<'_>, errors: &mut Errors) {
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let terms = |affinity: &'_ Value| affinity.part(required).items("nodeSelectorTerms").to_vec();
    let (after, before) = (terms(after), terms(before));
    let path = path.field(required);
    let path = path.field("nodeSelectorTerms");
    if !before.is_empty() && before.len() != after.len() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        let shown = if after.is_empty() { "null".to_owned() } else { internal::json_list("NodeSelectorTerm", &after) };
        errors.invalid_as(&path, &shown, detail);
        return;
    }
    for (number, (before, after)) in before.iter().zip(&after).enumerate() {
        if !has_only_additions(after, before) {
            let detail = "only additions are allowed (no mutations or deletions)";
            errors.invalid_as(&path.index(number), &internal::json("NodeSelectorTerm", after), detail);
        }
    }
}

fn has_only_additions(after: &Value, before: &Value) -> bool {
    let lists = ["matchExpressions", "matchFields"];
    // A term that selects nothing stays so.
    let is_empty = |term: &Value| lists.iter().all(|list| term.items(list).is_empty());
    if is_empty(before) && !is_empty(after) {
        return false;
    }
    lists.iter().all(|list| after.items(list).starts_with(before.items(list)))
}

/// Rules for the subresource that adds ephemeral containers.
pub(crate) fn validate_ephemeral(new: &Value, old: &Value, errors: &mut Errors) {
    if old.part("metadata").part("annotations").has(annotations::MIRROR) {
        errors.forbidden(&Path::ROOT, "static pods do not support ephemeral containers");
        return;
    }
    let options = Options::for_update(old).of_pod();
    pod_and_spec(new, options, errors);
    of_annotations(new, old, options, errors);
    let at = Path::at("spec.ephemeralContainers");
    let containers = new.part("spec").items("ephemeralContainers");
    for before in old.part("spec").items("ephemeralContainers") {
        let name = before.text("name");
        match containers.iter().rfind(|container| container.text("name") == name) {
            None => {
                let detail = format!("existing ephemeral containers {name:?} may not be removed\n");
                errors.forbidden(&at, detail);
            }
            Some(after) if !checks::same(after, before) => {
                let diff = internal::diff("EphemeralContainer", before, after);
                errors.forbidden(&at, format!("existing ephemeral containers {name:?} may not be changed\n{diff}"));
            }
            Some(_) => {}
        }
    }
}
