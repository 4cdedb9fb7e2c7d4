//! What controllers of workloads share: whose pod a pod is, pods without a controller, status that is written once.

use std::collections::{BTreeSet, HashMap};

use hub_runtime::ObjectRef;
use hub_runtime::kinds::Kind;
use hub_runtime::views::{AnyView, LabelSelector, Labels, ObjectMeta, OwnerReference, PodView};
use hub_runtime::writer::{Target, WriteError, Writer, absent_is_false};
use kube::Error;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::claim::Claim;

/// Decides about one pod, as upstream's `ControllerRefManager`: a pod without a controller whose labels match is adopted, a pod of
/// the owner whose labels match no more is released, a pod of another controller is never touched.
pub(crate) fn claim(
    owner_uid: &str,
    selector: &LabelSelector<'_>,
    controller: Option<&OwnerReference<'_>>,
    labels: &Labels<'_>,
    is_terminating: bool,
) -> Claim {
    match controller {
        Some(owner) if &*owner.uid == owner_uid => {
            if selector.matches(labels) {
                Claim::Own
            } else {
                Claim::Release
            }
        }
        Some(_) => Claim::Ignore,
        // What is on its way out is not worth adopting.
        None if !is_terminating && selector.matches(labels) => Claim::Adopt,
        None => Claim::Ignore,
    }
}

/// Whether an owner may adopt: the API itself is asked, since a reader may show an owner that is deleted already.
pub(crate) async fn may_adopt(kind: Kind, owner: &ObjectMeta<'_>, writer: &Writer) -> Result<bool, WriteError> {
    let found = writer.get_now(kind, (&owner.namespace, &owner.name)).await?;
    Ok(found.is_some_and(|found| {
        found["metadata"]["uid"] == *owner.uid && found["metadata"]["deletionTimestamp"].is_null()
    }))
}

/// The reference by which an owner controls what it has created.
pub(crate) fn owner_reference(kind: Kind, owner: &ObjectMeta<'_>) -> Value {
    json!({
        "apiVersion": kind.api_version(), "kind": kind.name(), "name": owner.name, "uid": owner.uid,
        "controller": true, "blockOwnerDeletion": true,
    })
}

/// Changes owners and finalizers of a pod as it was read; `Ok(false)` when it was changed meanwhile or is deleted.
pub(crate) async fn change_ties(
    pod: &ObjectRef,
    writer: &Writer,
    change: impl FnOnce(&mut Vec<Value>, &mut Vec<Value>),
) -> Result<bool, WriteError> {
    let Ok(object) = pod.value() else { return Ok(false) };
    let metadata = &object["metadata"];
    let list = |field: &str| metadata[field].as_array().cloned().unwrap_or_default();
    let (mut owners, mut finalizers) = (list("ownerReferences"), list("finalizers"));
    change(&mut owners, &mut finalizers);
    // The revision guards the lists, which a merge replaces as a whole.
    let patch = json!({"metadata": {
        "uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"],
        "ownerReferences": owners, "finalizers": finalizers,
    }});
    writer.merge(Kind::Pod, (pod.namespace(), pod.name()), &patch).await
}

/// Takes one finalizer off a pod, whatever else changes of it meanwhile. A pod that is deleted has it no more.
pub(crate) async fn remove_finalizer(writer: &Writer, pod: Target<'_>, finalizer: &str) -> Result<(), WriteError> {
    let api: Api<DynamicObject> = Api::namespaced_with(writer.client().clone(), pod.namespace, &Kind::Pod.resource());
    let patch = json!({"metadata": {"uid": pod.uid, "$deleteFromPrimitiveList/finalizers": [finalizer]}});
    match api.patch(pod.name, &PatchParams::default(), &Patch::Strategic(&patch)).await {
        Ok(_) => Ok(()),
        Err(Error::Api(status)) if status.code == 404 => Ok(()),
        // A conflict among them: whoever counts on the finalizer must know that it may still be there.
        Err(error) => Err(Writer::failed(format!("take the finalizer off Pod {}", pod.name))(error)),
    }
}

/// Merges into the status of an object as it was read. The revision that the API gave it; `None` when the object was changed
/// meanwhile, is another one by now, or is deleted.
pub(crate) async fn write_status(
    writer: &Writer,
    kind: Kind,
    object: Target<'_>,
    resource_version: &str,
    status: &Value,
) -> Result<Option<String>, WriteError> {
    let api: Api<DynamicObject> = Api::namespaced_with(writer.client().clone(), object.namespace, &kind.resource());
    let patch = json!({"metadata": {"uid": object.uid, "resourceVersion": resource_version}, "status": status});
    let done = api.patch_status(object.name, &PatchParams::default(), &Patch::Merge(&patch)).await;
    let act = || format!("change the status of {} {}", kind.name(), object.name);
    match done {
        Ok(written) => Ok(Some(written.metadata.resource_version.unwrap_or_default())),
        Err(error) => absent_is_false(Err(error), act).map(|_| None),
    }
}

/// Pods without a controller, by namespace: whom an owner may adopt. Holds names, not objects.
#[derive(Default)]
pub(crate) struct Orphans(Mutex<HashMap<Box<str>, BTreeSet<Box<str>>>>);

impl Orphans {
    /// Takes a change of a pod in; the reader shows it as it is now, or no more.
    pub fn note(&self, pod: &ObjectRef, is_current: bool) {
        let is_orphan =
            is_current && pod.view_or_log::<PodView<'_>>().is_some_and(|pod| pod.metadata.controller().is_none());
        let mut names = self.0.lock();
        if is_orphan {
            names.entry(pod.namespace().into()).or_default().insert(pod.name().into());
        } else if let Some(known) = names.get_mut(pod.namespace()) {
            known.remove(pod.name());
            if known.is_empty() {
                names.remove(pod.namespace());
            }
        }
    }

    /// Starts anew from a whole list.
    pub fn list(&self, pods: &[ObjectRef]) {
        self.0.lock().clear();
        pods.iter().for_each(|pod| self.note(pod, true));
    }

    /// Names of those of a namespace.
    pub fn of(&self, namespace: &str) -> Vec<Box<str>> {
        self.0.lock().get(namespace).into_iter().flatten().cloned().collect()
    }
}

/// The target that an object's metadata names.
pub(crate) fn target<'a>(metadata: &'a ObjectMeta<'_>) -> Target<'a> {
    Target { namespace: &metadata.namespace, name: &metadata.name, uid: &metadata.uid }
}

/// Whether a namespace takes no new objects, since it is on its way out.
pub(crate) fn is_ending(reader: &dyn hub_runtime::Reader, namespace: &str) -> bool {
    let found = reader.get(Kind::Namespace, "", namespace);
    found.is_some_and(|found| found.view_or_log::<AnyView<'_>>().is_some_and(|view| view.metadata.is_terminating()))
}
