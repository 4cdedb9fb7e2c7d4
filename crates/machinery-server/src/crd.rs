//! CustomResourceDefinitions: what is written to the store also changes what is served.

use machinery_kinds::{Registry, ResourceInfo};
use machinery_store::{Expired, Store};
use serde_json::{Value, json};
use tracing::warn;

use crate::server::Inner;
use crate::status::{ApiError, Result};

/// Where definitions are kept.
pub(crate) const RESOURCE: &str = "apiextensions.k8s.io/customresourcedefinitions";

/// Whether this is the resource of definitions.
pub(crate) fn is_crd(info: &ResourceInfo) -> bool {
    &*info.kind == "CustomResourceDefinition" && &*info.group == "apiextensions.k8s.io"
}

/// The registry with everything that the store defines. A definition that an older version took and this one does not
/// is left out with a warning; its objects stay.
pub(crate) fn load(store: &Store) -> std::result::Result<Registry, Expired> {
    let mut registry = Registry::builtin();
    for object in store.range(RESOURCE, None, None, None, None)?.items {
        let installed = serde_json::from_slice::<Value>(&object.bytes)
            .map_err(|error| error.to_string())
            .and_then(|crd| registry.install_crd(&crd).map_err(|errors| machinery_kinds::join_field_errors(&errors)));
        if let Err(error) = installed {
            warn!(crd = %object.key.name, error, "A stored definition cannot be served; its resources are missing.");
        }
    }
    Ok(registry)
}

/// The registry with a new or changed definition, and the definition's status; nothing is served differently yet.
pub(crate) fn stage(
    server: &Inner,
    info: &ResourceInfo,
    crd: &mut Value,
    now: &str,
) -> Result<(Registry, Vec<String>)> {
    let mut registry = server.registry();
    let installed =
        registry.install_crd(crd).map_err(|errors| ApiError::invalid(info, crate::object::name_of(crd), &errors))?;
    let names = crd.pointer("/spec/names").cloned().unwrap_or_else(|| json!({}));
    let versions = crd.pointer("/spec/versions").and_then(Value::as_array).cloned().unwrap_or_default();
    let stored = versions.iter().find(|version| version["storage"] == true).map(|version| version["name"].clone());
    let before = crd.pointer("/status/storedVersions").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut stored_versions = before;
    stored_versions.extend(stored.filter(|name| !stored_versions.contains(name)));
    let since = |kind: &str| {
        let held = crd.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
        let same = held.into_iter().find(|condition| condition["type"] == kind && condition["status"] == "True");
        same.and_then(|condition| condition["lastTransitionTime"].as_str()).unwrap_or(now).to_owned()
    };
    let status = json!({
        "acceptedNames": names,
        "storedVersions": stored_versions,
        "conditions": [
            {"type": "NamesAccepted", "status": "True", "reason": "NoConflicts", "message": "no conflicts found",
             "lastTransitionTime": since("NamesAccepted")},
            {"type": "Established", "status": "True", "reason": "InitialNamesAccepted",
             "message": "the initial names have been accepted", "lastTransitionTime": since("Established")},
        ],
    });
    crd["status"] = status;
    Ok((registry, installed.warnings))
}

/// Serves another set of resources from now on.
pub(crate) fn publish(server: &Inner, registry: Registry) {
    *server.registry.write().unwrap_or_else(std::sync::PoisonError::into_inner) = registry;
}

/// Stops serving what a definition brought.
pub(crate) fn withdraw(server: &Inner, name: &str) {
    let mut registry = server.registry();
    registry.remove_crd(name);
    publish(server, registry);
}

/// The store's name of the resource that a definition brings.
pub(crate) fn resource_of(crd: &Value) -> String {
    let text = |pointer: &str| crate::object::text_at(crd, pointer);
    format!("{}/{}", text("/spec/group"), text("/spec/names/plural"))
}
