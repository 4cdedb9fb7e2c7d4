//! The kinds that controllers read, where the API serves them, and what of them is kept in memory.

use kube::core::{ApiResource, GroupVersionKind};
use serde_json::Value;

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
}

impl Kind {
    /// Takes away what no controller reads, so that a thousand nodes and their heartbeats cost neither memory nor
    /// work: an object whose trimmed form did not change wakes nobody.
    pub fn trim(self, mut object: Value) -> Value {
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("managedFields");
            if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
                annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
            }
            if self == Kind::Node {
                // A node's status is posted every few minutes and changes the revision each time.
                metadata.remove("resourceVersion");
            }
        }
        if self == Kind::Node {
            let ready = object["status"]["conditions"].as_array().and_then(|conditions| {
                let ready = conditions.iter().find(|condition| condition["type"] == "Ready")?;
                Some(serde_json::json!({"type": "Ready", "status": ready["status"], "reason": ready["reason"]}))
            });
            object["status"] = serde_json::json!({"conditions": ready.into_iter().collect::<Vec<_>>()});
        }
        object
    }
}
