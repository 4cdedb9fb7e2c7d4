//! Annotations that have a meaning for pods: some were fields before their time, and some are the server's own.

use serde_json::Value;

use super::{Options, containers_of, descending_path, each_container};
use crate::{
    kinds::core::pod::prepare::APP_ARMOR_ANNOTATION_PREFIX,
    kit::{Errors, Path, Read},
};

/// Marks a pod that shows a static pod of its node.
pub(super) const MIRROR: &str = "kubernetes.io/config.mirror";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER_PREFIX: &str = "container.seccomp.security.alpha.kubernetes.io/";

fn annotations(metadata: &Value) -> impl Iterator<Item = (&str, &str)> {
    metadata
        .part("annotations")
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default()))
}

/// Checks the annotations of a pod or template, which are at `path`.
pub(super) fn validate(metadata: &Value, spec: &Value, options: Options, path: &Path<'_>, errors: &mut Errors) {
    let found = metadata.part("annotations");
    if found.has(MIRROR) && spec.text("nodeName").is_empty() {
        let detail = "must set spec.nodeName if mirror pod annotation is set";
        errors.invalid(&path.key(MIRROR), found.text(MIRROR), detail);
    }
    if !options.any_deletion_cost && !has_deletion_cost(metadata) {
        errors.invalid(&path.key(DELETION_COST), found.text(DELETION_COST), "must be a 32bit integer");
    }
    for (key, profile) in annotations(metadata) {
        if key == SECCOMP_POD || key.starts_with(SECCOMP_CONTAINER_PREFIX) {
            seccomp(profile, &path.field(key), errors);
        }
        let Some(name) = key.strip_prefix(APP_ARMOR_ANNOTATION_PREFIX) else { continue };
        if !containers_of(spec).any(|(_, _, container)| container.text("name") == name) {
            errors.invalid(&path.key(key), name, "container not found");
        }
        if !matches!(profile, "" | "runtime/default" | "unconfined") && !profile.starts_with("localhost/") {
            errors.invalid(&path.key(key), profile, format!("invalid AppArmor profile name: {profile:?}"));
        }
    }
}

/// Whether the cost of a pod's deletion is a number, or is not said.
pub(super) fn has_deletion_cost(metadata: &Value) -> bool {
    let Some(cost) = metadata.part("annotations").some(DELETION_COST).and_then(Value::as_str) else { return true };
    let digits = cost.strip_prefix('-').unwrap_or(cost);
    let has_good_beginning = cost == "0" || (!digits.starts_with('0') && !digits.starts_with('+'));
    has_good_beginning && cost.parse::<i32>().is_ok()
}

fn seccomp(profile: &str, path: &Path<'_>, errors: &mut Errors) {
    match profile {
        "runtime/default" | "docker/default" | "unconfined" => {}
        other => match other.strip_prefix("localhost/") {
            Some(place) => descending_path(place, path, errors),
            None => errors.invalid(path, other, "must be a valid seccomp profile"),
        },
    }
}

/// Where both an annotation and the field say which seccomp profile is used, they say the same.
pub(super) fn seccomp_matches(metadata: &Value, spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let found = metadata.part("annotations");
    let mut check = |holder: &Value, key: &str, at: &Path<'_>| {
        let profile = holder.part("securityContext").part("seccompProfile");
        let Some(annotation) = found.some(key).and_then(Value::as_str).filter(|_| !profile.is_null()) else { return };
        let is_same = match profile.text("type") {
            "Unconfined" => annotation == "unconfined",
            "RuntimeDefault" => matches!(annotation, "runtime/default" | "docker/default"),
            "Localhost" => matches_local(
                annotation,
                profile,
                "seccomp profile",
                &at.field("securityContext.seccompProfile"),
                errors,
            ),
            _ => true,
        };
        if !is_same {
            let at = at.field("securityContext.seccompProfile.type");
            errors.forbidden(&at, "seccomp type in annotation and field must match");
        }
    };
    check(spec, SECCOMP_POD, path);
    each_container(spec, path, |container, at| {
        check(container, &format!("{SECCOMP_CONTAINER_PREFIX}{}", container.text("name")), at);
    });
}

/// The same for AppArmor, where a container without a profile has that of the pod.
pub(super) fn app_armor_matches(metadata: &Value, spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    if spec.part("os").text("name") == "windows" {
        return;
    }
    let found = metadata.part("annotations");
    each_container(spec, path, |container, at| {
        let of = |holder: &'_ Value| holder.part("securityContext").some("appArmorProfile").cloned();
        let Some(profile) = of(container).or_else(|| of(spec)) else { return };
        let key = format!("{APP_ARMOR_ANNOTATION_PREFIX}{}", container.text("name"));
        let Some(annotation) = found.some(&key).and_then(Value::as_str) else { return };
        let is_same = match profile.text("type") {
            "Unconfined" => annotation == "unconfined",
            "RuntimeDefault" => annotation == "runtime/default",
            "Localhost" => {
                let at = at.field("securityContext.appArmorProfile");
                matches_local(annotation, &profile, "apparmor profile", &at, errors)
            }
            _ => true,
        };
        if !is_same {
            let at = at.field("securityContext.appArmorProfile.type");
            errors.forbidden(&at, "apparmor type in annotation and field must match");
        }
    });
}

/// Whether an annotation names a profile of the node at all; when it names another than the field, that is said here.
fn matches_local(annotation: &str, profile: &Value, what: &str, path: &Path<'_>, errors: &mut Errors) -> bool {
    let Some(name) = annotation.strip_prefix("localhost/") else { return false };
    if profile.some("localhostProfile").and_then(Value::as_str) != Some(name) {
        let detail = format!("{what} in annotation and field must match");
        errors.forbidden(&path.field("localhostProfile"), detail);
    }
    true
}

/// What may not come, go or change: `(new, old)` metadata.
pub(super) fn validate_update(new: &Value, old: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (after, before) = (new.part("annotations"), old.part("annotations"));
    for (key, value) in annotations(old) {
        if after.some(key).and_then(Value::as_str) == Some(value) {
            continue;
        }
        if key.starts_with(APP_ARMOR_ANNOTATION_PREFIX) {
            errors.forbidden(&path.key(key), "may not remove or update AppArmor annotations");
        }
        if key == MIRROR {
            errors.forbidden(&path.key(key), "may not remove or update mirror pod annotation");
        }
    }
    for (key, _) in annotations(new).filter(|(key, _)| !before.has(key)) {
        if key.starts_with(APP_ARMOR_ANNOTATION_PREFIX) {
            errors.forbidden(&path.key(key), "may not add AppArmor annotations");
        }
        if key == MIRROR {
            errors.forbidden(&path.key(key), "may not add mirror pod annotation");
        }
    }
}
