//! The claims of a StatefulSet's pods: what they are called and made of, and who owns them.
//!
//! A claim stays when its pod is deleted, so that the next pod of the ordinal has its data. The retention policy lets it end with
//! the set, or with a pod that was scaled away: then the claim is owned by what it ends with, and garbage collection does the rest.
//!
//! | when the set is deleted | when the pod is scaled away | owner of the claim |
//! | --- | --- | --- |
//! | retain | retain | nobody |
//! | delete | retain | the set |
//! | retain | delete | the pod, once it is scaled away |
//! | delete | delete | the set, and the pod instead once it is scaled away |

use serde_json::{Value, json};

use hub_runtime::kinds::Kind;
use hub_runtime::views::OwnerReference;

use super::views::RetentionView;
use crate::owner::Owner;

/// What becomes of claims.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Retention {
    pub deletes_with_set: bool,
    pub deletes_when_scaled: bool,
}

impl Retention {
    pub fn of(view: &RetentionView<'_>) -> Self {
        let deletes = |policy: &str| policy == "Delete";
        Self { deletes_with_set: deletes(&view.when_deleted), deletes_when_scaled: deletes(&view.when_scaled) }
    }

    fn is_retained(self) -> bool {
        !self.deletes_with_set && !self.deletes_when_scaled
    }
}

/// A pod to which claims belong.
#[derive(Clone, Copy, Debug)]
pub(super) struct OfPod<'a> {
    pub name: &'a str,
    /// Empty for one that is still to be created.
    pub uid: &'a str,
    pub is_scaled_away: bool,
}

/// Who should own a claim.
#[derive(Clone, Copy)]
pub(super) struct Owners<'a> {
    pub set: Owner<'a>,
    pub pod: OfPod<'a>,
    pub retention: Retention,
}

/// Name of a set's claim, for an ordinal.
pub(super) fn claim_name(template: &Value, set: &str, ordinal: i64) -> String {
    format!("{}-{set}-{ordinal}", template["metadata"]["name"].as_str().unwrap_or_default())
}

/// A claim of an ordinal, owned as the retention policy says; `selects` are the `matchLabels` of the set.
pub(super) fn new_claim(template: &Value, owners: Owners<'_>, selects: &Value, ordinal: i64) -> Value {
    let set = owners.set.meta;
    let mut labels = template["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    labels.extend(selects.as_object().cloned().unwrap_or_default());
    let mut metadata = json!({"name": claim_name(template, &set.name, ordinal), "namespace": set.namespace});
    if !labels.is_empty() {
        metadata["labels"] = labels.into();
    }
    for field in ["annotations", "finalizers"] {
        if !template["metadata"][field].is_null() {
            metadata[field] = template["metadata"][field].clone();
        }
    }
    if owners.is_of_set() {
        metadata["ownerReferences"] = json!([owners.set.reference()]);
    }
    let kind = Kind::PersistentVolumeClaim;
    json!({"apiVersion": kind.api_version(), "kind": kind.name(), "metadata": metadata, "spec": template["spec"]})
}

/// Whether a claim belongs to an earlier pod of this name, and ends with it: a new pod must not use it.
pub(super) fn is_stale(references: &[OwnerReference<'_>], pod: OfPod<'_>) -> bool {
    let of_pod = references.iter().find(|one| is_reference(one, Kind::Pod, pod.name));
    of_pod.is_some_and(|one| &*one.uid != pod.uid)
}

fn is_reference(reference: &OwnerReference<'_>, kind: Kind, name: &str) -> bool {
    &*reference.api_version == kind.api_version() && &*reference.kind == kind.name() && &*reference.name == name
}

impl Owners<'_> {
    fn is_of_set(self) -> bool {
        self.retention.deletes_with_set && !(self.retention.deletes_when_scaled && self.pod.is_scaled_away)
    }

    fn is_of_pod(self) -> bool {
        self.retention.deletes_when_scaled && self.pod.is_scaled_away
    }

    fn is_set(self, reference: &OwnerReference<'_>) -> bool {
        is_reference(reference, self.set.kind, &self.set.meta.name)
    }

    fn is_pod(self, reference: &OwnerReference<'_>) -> bool {
        is_reference(reference, Kind::Pod, self.pod.name)
    }

    /// Whether somebody else controls a claim, so that it is nobody's here to delete: another controller, or a set or pod of an
    /// earlier life. Of claims that are kept anyway it does not matter.
    pub fn is_foreign(self, references: &[OwnerReference<'_>]) -> bool {
        !self.retention.is_retained()
            && references.iter().any(|one| {
                if self.is_set(one) {
                    one.uid != self.set.meta.uid
                } else if self.is_pod(one) {
                    &*one.uid != self.pod.uid
                } else {
                    one.controller
                }
            })
    }

    /// Whether a claim is owned as the policy says, or is to be left alone.
    pub fn are_right(self, references: &[OwnerReference<'_>]) -> bool {
        let is_earlier = |one: &OwnerReference<'_>| {
            (self.is_set(one) && one.uid != self.set.meta.uid) || (self.is_pod(one) && &*one.uid != self.pod.uid)
        };
        if references.iter().any(is_earlier) {
            return true;
        }
        let of_set = references.iter().find(|one| one.uid == self.set.meta.uid);
        let of_pod = references.iter().find(|one| !self.pod.uid.is_empty() && &*one.uid == self.pod.uid);
        if self.is_foreign(references) {
            return of_set.is_none() && of_pod.is_none();
        }
        let is_controlled = |one: Option<&OwnerReference<'_>>| one.is_none_or(|one| one.controller);
        is_controlled(of_set)
            && is_controlled(of_pod)
            && of_set.is_some() == self.is_of_set()
            && of_pod.is_some() == self.is_of_pod()
    }

    /// The owner references (JSON) that a claim should have instead of these.
    pub fn corrected(self, references: &mut Vec<Value>, is_foreign: bool) {
        let is_ours = |one: &Value| {
            let is = |kind: Kind, name: &str| {
                one["apiVersion"] == kind.api_version() && one["kind"] == kind.name() && one["name"] == name
            };
            is(self.set.kind, &self.set.meta.name) || is(Kind::Pod, self.pod.name)
        };
        references.retain(|one| !is_ours(one));
        if is_foreign {
            return;
        }
        if self.is_of_pod() {
            references.push(json!({
                "apiVersion": "v1", "kind": "Pod", "name": self.pod.name, "uid": self.pod.uid,
                "controller": true, "blockOwnerDeletion": true,
            }));
        }
        if self.is_of_set() {
            references.push(self.set.reference());
        }
    }
}
