//! The kinds that controllers read and write, and where the API serves them.

use std::sync::Arc;

use kube::core::{ApiResource, GroupVersionKind};
use serde::Deserialize;

macro_rules! kinds {
    ($($name:ident: $group:literal, $version:literal, $plural:literal, $is_namespaced:literal;)+) => {
        /// A kind that controllers read or write.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs, reason = "the names are Kubernetes' own")]
        pub enum Kind { $($name),+ }

        impl Kind {
            /// All of them.
            pub const ALL: &'static [Kind] = &[$(Kind::$name),+];

            /// `kind` of its objects.
            pub fn name(self) -> &'static str {
                match self { $(Kind::$name => stringify!($name)),+ }
            }

            /// Whether its objects live in namespaces.
            pub fn is_namespaced(self) -> bool {
                match self { $(Kind::$name => $is_namespaced),+ }
            }

            /// Where the API serves it.
            pub fn resource(self) -> ApiResource {
                let (group, version, plural) = match self { $(Kind::$name => ($group, $version, $plural)),+ };
                ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, self.name()), plural)
            }

            /// `apiVersion` of its objects.
            pub fn api_version(self) -> &'static str {
                match self { $(Kind::$name => {
                    const API_VERSION: &str = if $group.is_empty() { $version } else { concat!($group, "/", $version) };
                    API_VERSION
                }),+ }
            }

            /// What the embedded store calls the resource.
            pub fn store_key(self) -> &'static str {
                match self { $(Kind::$name => concat!($group, "/", $plural)),+ }
            }

            /// The path of an object's collection; `namespace` is empty for all of them.
            pub fn path(self, namespace: &str) -> String {
                let (root, plural) = match self { $(Kind::$name => {
                    const ROOT: &str = if $group.is_empty() { "/api/" } else { "/apis/" };
                    (ROOT, $plural)
                }),+ };
                let version = self.api_version();
                match namespace {
                    "" => format!("{root}{version}/{plural}"),
                    namespace => format!("{root}{version}/namespaces/{namespace}/{plural}"),
                }
            }
        }
    };
}

kinds! {
    Namespace: "", "v1", "namespaces", false;
    Node: "", "v1", "nodes", false;
    Pod: "", "v1", "pods", true;
    ConfigMap: "", "v1", "configmaps", true;
    Secret: "", "v1", "secrets", true;
    ServiceAccount: "", "v1", "serviceaccounts", true;
    Service: "", "v1", "services", true;
    Endpoints: "", "v1", "endpoints", true;
    EndpointSlice: "discovery.k8s.io", "v1", "endpointslices", true;
    PersistentVolumeClaim: "", "v1", "persistentvolumeclaims", true;
    PersistentVolume: "", "v1", "persistentvolumes", false;
    Event: "", "v1", "events", true;
    Lease: "coordination.k8s.io", "v1", "leases", true;
    StorageClass: "storage.k8s.io", "v1", "storageclasses", false;
    VolumeAttributesClass: "storage.k8s.io", "v1", "volumeattributesclasses", false;
    RuntimeClass: "node.k8s.io", "v1", "runtimeclasses", false;
    CertificateSigningRequest: "certificates.k8s.io", "v1", "certificatesigningrequests", false;
    Deployment: "apps", "v1", "deployments", true;
    ReplicaSet: "apps", "v1", "replicasets", true;
    ReplicationController: "", "v1", "replicationcontrollers", true;
    DaemonSet: "apps", "v1", "daemonsets", true;
    StatefulSet: "apps", "v1", "statefulsets", true;
    Job: "batch", "v1", "jobs", true;
    CronJob: "batch", "v1", "cronjobs", true;
    PodDisruptionBudget: "policy", "v1", "poddisruptionbudgets", true;
    HorizontalPodAutoscaler: "autoscaling", "v2", "horizontalpodautoscalers", true;
    ControllerRevision: "apps", "v1", "controllerrevisions", true;
    CustomResourceDefinition: "apiextensions.k8s.io", "v1", "customresourcedefinitions", false;
    DeviceProfile: "edge.selvedge.dev", "v1alpha1", "deviceprofiles", false;
    Device: "edge.selvedge.dev", "v1alpha1", "devices", true;
    Stream: "edge.selvedge.dev", "v1alpha1", "streams", true;
    Rule: "edge.selvedge.dev", "v1alpha1", "rules", true;
    Export: "edge.selvedge.dev", "v1alpha1", "exports", true;
    NodeAssignment: "edge.selvedge.dev", "v1alpha1", "nodeassignments", false;
    NodeIdentity: "edge.selvedge.dev", "v1alpha1", "nodeidentities", false;
}

impl Kind {
    /// The kind of an `apiVersion` and `kind`, if it is one of these.
    pub fn find(api_version: &str, name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name && kind.api_version() == api_version)
    }
}

/// A resource that somebody has defined, or one of Kubernetes' own on which nothing here acts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CustomResource {
    /// API group.
    pub group: String,
    /// Versions that are served; the one that objects are stored in comes first, if it is among them.
    pub versions: Vec<String>,
    /// `kind` of its objects.
    pub kind: String,
    /// Its name in URLs.
    pub plural: String,
    /// Whether its objects live in namespaces.
    pub is_namespaced: bool,
}

/// A CustomResourceDefinition, as far as finding its objects needs.
#[derive(Default, Deserialize)]
#[serde(default)]
struct DefinitionView {
    spec: DefinitionSpecView,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DefinitionSpecView {
    group: String,
    scope: String,
    names: NamesView,
    versions: Vec<VersionView>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NamesView {
    kind: String,
    plural: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct VersionView {
    name: String,
    served: bool,
    storage: bool,
}

impl CustomResource {
    /// What a definition (JSON) defines; `None` for a kind of ours, for what is not served, and for what does not read as one.
    pub fn of_definition(definition: &[u8]) -> Option<Self> {
        let DefinitionView { spec } = serde_json::from_slice(definition).ok()?;
        let mut served: Vec<VersionView> = spec.versions.into_iter().filter(|version| version.served).collect();
        served.sort_by_key(|version| !version.storage);
        let versions: Vec<String> = served.into_iter().map(|version| version.name).collect();
        let NamesView { kind, plural } = spec.names;
        let found = Self { group: spec.group, versions, kind, plural, is_namespaced: spec.scope == "Namespaced" };
        let is_ours = Kind::ALL.iter().any(|kind| kind.store_key() == found.store_key());
        (!found.versions.is_empty() && !is_ours).then_some(found)
    }

    /// What the embedded store calls the resource.
    pub fn store_key(&self) -> String {
        format!("{}/{}", self.group, self.plural)
    }

    /// Where the API serves it.
    pub fn resource(&self) -> ApiResource {
        self.resource_in(self.versions.first().map_or("v1", String::as_str))
    }

    /// Where the API serves a version of it.
    pub fn resource_in(&self, version: &str) -> ApiResource {
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(&self.group, version, &self.kind), &self.plural)
    }

    /// Whether an `apiVersion` and a `kind` name it, in a version that is served.
    pub fn is_called(&self, api_version: &str, kind: &str) -> bool {
        let is_served = |version: &str| self.versions.iter().any(|one| one == version);
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.kind == kind && group == self.group && is_served(version)
    }
}

/// What is known by its metadata alone: a kind of ours, or what somebody has defined.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Resource {
    /// A kind of ours.
    Known(Kind),
    /// Somebody else's.
    Custom(Arc<CustomResource>),
}

impl Resource {
    /// `kind` of its objects.
    pub fn name(&self) -> &str {
        match self {
            Self::Known(kind) => kind.name(),
            Self::Custom(custom) => &custom.kind,
        }
    }

    /// Where the API serves it.
    pub fn resource(&self) -> ApiResource {
        match self {
            Self::Known(kind) => kind.resource(),
            Self::Custom(custom) => custom.resource(),
        }
    }

    /// Whether its objects live in namespaces.
    pub fn is_namespaced(&self) -> bool {
        match self {
            Self::Known(kind) => kind.is_namespaced(),
            Self::Custom(custom) => custom.is_namespaced,
        }
    }
}

impl From<Kind> for Resource {
    fn from(kind: Kind) -> Self {
        Self::Known(kind)
    }
}

impl From<&Resource> for Resource {
    fn from(resource: &Resource) -> Self {
        resource.clone()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_definition_says_how_its_objects_are_found() {
        let definition = |group: &str, plural: &str, versions: &[(&str, bool, bool)]| {
            let versions = versions
                .iter()
                .map(|(name, served, storage)| json!({"name": name, "served": served, "storage": storage}));
            let names = json!({"kind": "Gadget", "plural": plural});
            let spec = json!({"group": group, "scope": "Namespaced", "names": names, "versions": versions.collect::<Vec<_>>()});
            CustomResource::of_definition(json!({"spec": spec}).to_string().as_bytes())
        };
        let found = definition("x.io", "gadgets", &[("v1", true, false), ("v2", false, false), ("v3", true, true)]);
        let found = found.expect("it is served");
        assert_eq!(
            (found.versions.as_slice(), found.is_namespaced),
            (["v3".to_owned(), "v1".to_owned()].as_slice(), true)
        );
        assert_eq!(
            (found.resource().api_version, found.store_key()),
            ("x.io/v3".to_owned(), "x.io/gadgets".to_owned())
        );
        assert!(found.is_called("x.io/v1", "Gadget"));
        for (api_version, kind) in
            [("x.io/v2", "Gadget"), ("x.io/v1", "Widget"), ("y.io/v1", "Gadget"), ("v1", "Gadget")]
        {
            assert!(!found.is_called(api_version, kind), "{api_version} {kind}");
        }
        assert_eq!(definition("x.io", "gadgets", &[("v1", false, true)]), None, "nobody can delete its objects");
        assert_eq!(definition("edge.selvedge.dev", "devices", &[("v1alpha1", true, true)]), None, "ours");
        assert_eq!(CustomResource::of_definition(b"[]"), None);
    }
}
