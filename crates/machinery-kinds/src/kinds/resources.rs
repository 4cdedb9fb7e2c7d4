//! Names of resources that are counted: `cpu`, `requests.storage`, `example.com/gpu`.

use serde_json::Value;

use crate::{
    checks,
    kit::{Errors, Path},
};

/// What quotas count of the API's own objects.
const OBJECTS: [&str; 9] = [
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

/// What quotas count of pods and claims.
const AMOUNTS: [&str; 10] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];

/// Whether the name is Kubernetes' own.
pub(crate) fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// `example.com/gpu`: something that a node advertises.
pub(crate) fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && checks::qualified_name(&format!("requests.{name}")).is_empty()
}

pub(crate) fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

fn is_quota_huge_page(name: &str) -> bool {
    is_huge_page(name) || name.starts_with("requests.hugepages-")
}

/// Whether more of it may be promised than there is.
pub(crate) fn may_be_overcommitted(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

pub(crate) fn is_quota_resource(name: &str) -> bool {
    OBJECTS.contains(&name) || AMOUNTS.contains(&name) || is_quota_huge_page(name)
}

fn is_standard(name: &str) -> bool {
    is_quota_resource(name) || name == "storage"
}

/// A resource of any kind.
pub(crate) fn resource_name(name: &str, at: &Path<'_>, errors: &mut Errors) {
    let messages = checks::qualified_name(name);
    if messages.is_empty() && !name.contains('/') && !is_standard(name) {
        errors.invalid(at, name, "must be a standard resource type or fully qualified");
    }
    errors.invalid_each(at, name, messages);
}

/// A resource that containers may have.
pub(crate) fn container_resource_name(name: &str, at: &Path<'_>, errors: &mut Errors) {
    resource_name(name, at, errors);
    if !name.contains('/') {
        if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !is_huge_page(name) {
            errors.invalid(at, name, "must be a standard resource for containers");
        }
    } else if !is_native(name) && !is_extended(name) {
        errors.invalid(at, name, "doesn't follow extended resource name standard");
    }
}

/// A resource that quotas count.
pub(crate) fn quota_resource_name(name: &str, at: &Path<'_>, errors: &mut Errors) {
    resource_name(name, at, errors);
    if !name.contains('/') && !is_quota_resource(name) {
        errors.invalid(at, name, "must be a standard resource for quota");
    }
}

/// So much of a resource: not less than nothing, and whole where there are no parts.
pub(crate) fn resource_quantity(name: &str, value: &Value, at: &Path<'_>, errors: &mut Errors) {
    checks::non_negative_quantity(value, at, errors);
    let is_whole = OBJECTS.contains(&name) || is_extended(name);
    let quantity = checks::quantity(value);
    if is_whole && quantity.milli_value() % 1000 != 0 {
        errors.invalid(at, quantity.to_string(), "must be an integer");
    }
}
