//! What may not change once an object exists.

use std::collections::HashSet;

use serde_json::Value;

use crate::FieldError;

pub(crate) fn daemon_set(new: &Value, old: &Value) -> Vec<FieldError> {
    unchanged(new, old, "/spec/selector")
}

pub(crate) fn controller_revision(new: &Value, old: &Value) -> Vec<FieldError> {
    unchanged(new, old, "/data")
}

pub(crate) fn custom_resource_definition(new: &Value, old: &Value) -> Vec<FieldError> {
    let fields = ["/spec/group", "/spec/scope", "/spec/names/plural", "/spec/names/kind"];
    fields.iter().flat_map(|field| unchanged(new, old, field)).collect()
}

/// A pod is started as it was written: only images, deadlines and tolerations may change while it runs.
pub(crate) fn pod(new: &Value, old: &Value) -> Vec<FieldError> {
    let (Some(mut desired), Some(current)) = (new.get("spec").cloned(), old.get("spec")) else { return Vec::new() };
    for list in ["containers", "initContainers"] {
        let images = current.get(list).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let containers = desired.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        for (container, before) in containers.zip(images) {
            copy(container, before, "image");
        }
    }
    for key in ["activeDeadlineSeconds", "tolerations"] {
        copy(&mut desired, current, key);
    }
    // A negative grace period means 1, and may be put right.
    if current.get("terminationGracePeriodSeconds").and_then(Value::as_i64).is_some_and(|seconds| seconds < 0) {
        copy(&mut desired, current, "terminationGracePeriodSeconds");
    }
    // Binding sets the node once.
    if current.get("nodeName").is_none() {
        copy(&mut desired, current, "nodeName");
    }
    let mut errors = Vec::new();
    if desired != *current {
        let differing = differing_fields(&desired, current).join(", ");
        let detail = format!(
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,\
             `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
             `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative); changed: {differing}"
        );
        errors.push(FieldError::forbidden("spec", detail));
    }
    let kept: HashSet<&Value> = tolerations(new).iter().collect();
    if !tolerations(old).iter().all(|toleration| kept.contains(toleration)) {
        errors.push(FieldError::forbidden(
            "spec.tolerations",
            "existing toleration can not be modified except its tolerationSeconds",
        ));
    }
    errors
}

fn tolerations(pod: &Value) -> &[Value] {
    pod.pointer("/spec/tolerations").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn copy(target: &mut Value, source: &Value, key: &str) {
    let Some(target) = target.as_object_mut() else { return };
    match source.get(key) {
        Some(value) => target.insert(key.to_owned(), value.clone()),
        None => target.remove(key),
    };
}

fn differing_fields(new: &Value, old: &Value) -> Vec<String> {
    let keys = |value: &Value| value.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let mut names = keys(new);
    names.extend(keys(old));
    names.sort();
    names.dedup();
    names.into_iter().filter(|name| new.get(name) != old.get(name)).map(|name| format!("spec.{name}")).collect()
}

/// The field at a pointer keeps its value.
fn unchanged(new: &Value, old: &Value, pointer: &str) -> Vec<FieldError> {
    let (now, before) = (new.pointer(pointer), old.pointer(pointer));
    if now == before {
        return Vec::new();
    }
    let path = pointer.trim_start_matches('/').replace('/', ".");
    vec![FieldError::invalid(path, now.unwrap_or(&Value::Null), "field is immutable")]
}
