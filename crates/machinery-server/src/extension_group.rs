//! An API group that an extension serves instead of the store: how clients find it.

use serde_json::{Value, json};

/// What may be done with its resources.
const VERBS: [&str; 2] = ["get", "list"];

/// An API group of one version whose resources are computed, not stored; they can be read alone.
#[derive(Clone, Copy, Debug)]
pub struct ExtensionGroup {
    /// Its name, such as `metrics.k8s.io`.
    pub group: &'static str,
    /// Its version.
    pub version: &'static str,
    /// What it has.
    pub resources: &'static [ExtensionResource],
}

/// A resource of an [`ExtensionGroup`].
#[derive(Clone, Copy, Debug)]
pub struct ExtensionResource {
    /// Name in URLs, and its name in the singular.
    pub plural: &'static str,
    /// Kind of one object.
    pub kind: &'static str,
    /// Whether objects live in namespaces.
    pub is_namespaced: bool,
}

impl ExtensionGroup {
    fn api_version(&self) -> String {
        format!("{}/{}", self.group, self.version)
    }

    /// Its entry in `/apis`.
    pub(crate) fn entry(&self) -> Value {
        let version = json!({"groupVersion": self.api_version(), "version": self.version});
        json!({"name": self.group, "versions": [version], "preferredVersion": version})
    }

    /// `/apis/GROUP`.
    pub(crate) fn document(&self) -> Value {
        let mut document = self.entry();
        document["kind"] = json!("APIGroup");
        document["apiVersion"] = json!("v1");
        document
    }

    /// `/apis/GROUP/VERSION`.
    pub(crate) fn resource_list(&self) -> Value {
        let resource = |one: &ExtensionResource| json!({"name": one.plural, "singularName": "", "namespaced": one.is_namespaced, "kind": one.kind, "verbs": VERBS});
        let resources: Vec<Value> = self.resources.iter().map(resource).collect();
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": self.api_version(), "resources": resources})
    }

    /// Its entry in aggregated discovery.
    pub(crate) fn aggregated(&self) -> Value {
        let resource = |one: &ExtensionResource| {
            json!({
                "resource": one.plural,
                "responseKind": {"group": self.group, "version": self.version, "kind": one.kind},
                "scope": if one.is_namespaced { "Namespaced" } else { "Cluster" },
                "singularResource": "",
                "verbs": VERBS,
            })
        };
        let resources: Vec<Value> = self.resources.iter().map(resource).collect();
        let version = json!({"version": self.version, "resources": resources, "freshness": "Current"});
        json!({"metadata": {"name": self.group}, "versions": [version]})
    }
}
