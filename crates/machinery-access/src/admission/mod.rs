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

/// Warns whoever creates an object that nothing acts on: it is stored, and served to those who look for it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unenforced;

impl Admission for Unenforced {
    fn validate(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), AdmissionError> {
        if request.operation != Operation::Create || request.subresource.is_some() {
            return Ok(());
        }
        let is_unenforced = match (&*request.info.group, &*request.info.plural) {
            ("", "limitranges" | "resourcequotas") => true,
            ("admissionregistration.k8s.io", _) => true,
            ("", "namespaces") => {
                let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
                let is_security = |key: &String| key.starts_with("pod-security.kubernetes.io/");
                if labels.is_some_and(|labels| labels.keys().any(is_security)) {
                    request.warn("this version does not enforce Pod Security Standards; the labels are stored");
                }
                false
            }
            _ => false,
        };
        if is_unenforced {
            let (kind, name) = (&request.info.kind, text(object, "/metadata/name"));
            request.warn(format!("this version stores {kind} {name:?} and does not enforce it"));
        }
        Ok(())
    }
}
