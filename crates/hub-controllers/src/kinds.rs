//! The kinds that controllers read and write, and where the API serves them.

use kube::core::{ApiResource, GroupVersionKind};

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
    Event: "", "v1", "events", true;
    Lease: "coordination.k8s.io", "v1", "leases", true;
    RuntimeClass: "node.k8s.io", "v1", "runtimeclasses", false;
    CertificateSigningRequest: "certificates.k8s.io", "v1", "certificatesigningrequests", false;
    DaemonSet: "apps", "v1", "daemonsets", true;
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
