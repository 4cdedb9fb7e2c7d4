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

use std::collections::BTreeMap;

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
        let is_change = matches!(request.operation, Operation::Create | Operation::Update);
        if !is_change || request.subresource.is_some() || request.dry_run {
            return Ok(());
        }
        let (kind, name) = (&request.info.kind, text(object, "/metadata/name"));
        match (&*request.info.group, &*request.info.plural) {
            ("", "namespaces") if has_more(request.old, object, security_labels) => {
                request.warn("this version does not enforce Pod Security Standards; the labels are stored");
            }
            ("", "nodes") if has_more(request.old, object, driving_taints) => {
                request.warn("this version keeps new pods from a node with a taint NoExecute, and drives none away; `kubectl drain` does");
            }
            // A change is made by somebody who was warned.
            _ if request.operation != Operation::Create => {}
            ("", "limitranges" | "resourcequotas") | ("admissionregistration.k8s.io", _) => {
                request.warn(format!("this version stores {kind} {name:?} and does not enforce it"));
            }
            resource if self.waiting.contains(&resource) => {
                request.warn(format!("this version stores {kind} {name:?}, and nothing acts on it yet"));
            }
            _ => {}
        }
        Ok(())
    }
}

/// Whether an object has something that it had not before.
fn has_more(old: Option<&Value>, new: &Value, find: fn(&Value) -> BTreeMap<&str, &str>) -> bool {
    let before = old.map(find).unwrap_or_default();
    find(new).into_iter().any(|(key, value)| before.get(key) != Some(&value))
}

/// The labels of a namespace that ask for Pod Security Standards.
fn security_labels(namespace: &Value) -> BTreeMap<&str, &str> {
    let labels = namespace.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten();
    let pairs = labels.filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)));
    pairs.filter(|(key, _)| key.starts_with("pod-security.kubernetes.io/")).collect()
}

/// The taints of a node by which a person means to drive pods away; those of upstream's controllers follow from its state.
fn driving_taints(node: &Value) -> BTreeMap<&str, &str> {
    let taints = node.pointer("/spec/taints").and_then(Value::as_array).into_iter().flatten();
    let driving = taints.filter(|taint| taint["effect"] == "NoExecute");
    let pairs = driving.filter_map(|taint| Some((taint["key"].as_str()?, taint["value"].as_str().unwrap_or_default())));
    pairs.filter(|(key, _)| !key.starts_with("node.kubernetes.io/")).collect()
}
