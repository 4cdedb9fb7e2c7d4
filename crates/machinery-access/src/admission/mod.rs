//! The plug-ins that kube-apiserver has on by default, as far as they are about what every pod, node and claim meets.
//!
//! | upstream | here |
//! | --- | --- |
//! | ServiceAccount | `service_account` |
//! | Priority, DefaultTolerationSeconds, RuntimeClass, PodTopologyLabels, NodeDeclaredFeatureValidator | `pods` |
//! | DefaultStorageClass, StorageObjectInUseProtection, PersistentVolumeClaimResize, DefaultIngressClass, TaintNodesByCondition | `classes` |
//! | NodeRestriction | `crate::node` |
//! | CertificateApproval, CertificateSigning, CertificateSubjectRestriction, ClusterTrustBundleAttest | `crate::certificates` |
//! | NamespaceLifecycle | the server itself: it must hold in the commit |
//! | LimitRanger, ResourceQuota, PodSecurity, webhooks and policies | none yet; [`Unenforced`] says so |

mod classes;
mod pods;
mod service_account;

use machinery_server::{Admission, AdmissionError, AdmissionRequest, Operation};
use machinery_store::Object;
use serde_json::{Value, json};

pub use classes::{ClaimResize, DefaultClasses, NotReadyTaint, UseProtection};
pub use pods::{DefaultTolerations, NodeFeatures, Priority, RuntimeClasses, TopologyLabels};
pub use service_account::ServiceAccounts;

use crate::json::text;

/// Whether a request creates an object of this resource itself.
fn creates(request: &AdmissionRequest<'_>, group: &str, resource: &str) -> bool {
    request.target() == (group, resource, None) && request.operation == Operation::Create
}

/// The part of an object at a key, created where there is none.
fn part<'v>(object: &'v mut Value, key: &str) -> &'v mut Value {
    if !object.get(key).is_some_and(Value::is_object) {
        object[key] = json!({});
    }
    &mut object[key]
}

/// The list of an object at a key, created where there is none.
fn list<'v>(object: &'v mut Value, key: &str) -> &'v mut Vec<Value> {
    if !object.get(key).is_some_and(Value::is_array) {
        object[key] = json!([]);
    }
    object[key].as_array_mut().expect("it was made a list")
}

/// An annotation of an object.
fn annotation<'v>(object: &'v Value, key: &str) -> Option<&'v str> {
    object.pointer("/metadata/annotations")?.get(key)?.as_str()
}

/// Whether the bytes of a stored object hold a text, for a look that decides whether it is worth decoding.
fn holds(object: &Object, part: &str) -> bool {
    object.bytes.windows(part.len()).any(|window| window == part.as_bytes())
}

/// Warns whoever creates an object that is stored and served, and that nothing here enforces or acts on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unenforced {
    waiting: &'static [(&'static str, &'static str)],
}

impl Unenforced {
    /// For a server beside which no controller acts on some kinds either, each by its group and the plural of its name. What
    /// no plug-in of this crate enforces is known.
    pub const fn beside(waiting: &'static [(&'static str, &'static str)]) -> Self {
        Self { waiting }
    }
}

impl Admission for Unenforced {
    fn validate(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), AdmissionError> {
        if request.operation != Operation::Create || request.subresource.is_some() || request.dry_run {
            return Ok(());
        }
        let (kind, name) = (&request.info.kind, text(object, "/metadata/name"));
        match (&*request.info.group, &*request.info.plural) {
            ("", "limitranges" | "resourcequotas") | ("admissionregistration.k8s.io", _) => {
                request.warn(format!("this version stores {kind} {name:?} and does not enforce it"));
            }
            ("", "namespaces") => {
                let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
                let is_security = |key: &String| key.starts_with("pod-security.kubernetes.io/");
                if labels.is_some_and(|labels| labels.keys().any(is_security)) {
                    request.warn("this version does not enforce Pod Security Standards; the labels are stored");
                }
            }
            resource if self.waiting.contains(&resource) => {
                request.warn(format!("this version stores {kind} {name:?}, and nothing acts on it yet"));
            }
            _ => {}
        }
        Ok(())
    }
}
