//! Which pods are a DaemonSet's: those that it controls and whose labels its selector matches.
//!
//! As upstream's `ControllerRefManager`: a pod without a controller whose labels match is adopted; a pod of the set whose
//! labels match no more is released; a pod of another controller is never touched.

use serde_json::{Value, json};

use super::template::owner_reference;
use hub_runtime::ObjectRef;
use hub_runtime::kinds::Kind;
use hub_runtime::views::{DaemonSetView, LabelSelector, PodView};
use hub_runtime::writer::{WriteError, Writer};

/// What a set does about a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It is the set's.
    Own,
    /// It becomes the set's.
    Adopt,
    /// It is the set's no more.
    Release,
    /// It is none of the set's business.
    Ignore,
}

/// Decides about one pod.
pub(crate) fn claim(set_uid: &str, selector: &LabelSelector<'_>, pod: &PodView<'_>) -> Claim {
    let matches = selector.matches(&pod.metadata.labels);
    match pod.metadata.controller() {
        Some(owner) if &*owner.uid == set_uid => {
            if matches {
                Claim::Own
            } else {
                Claim::Release
            }
        }
        Some(_) => Claim::Ignore,
        // What is on its way out, or has ended, is not worth adopting.
        None if matches && !pod.metadata.is_terminating() => Claim::Adopt,
        None => Claim::Ignore,
    }
}

/// Whether the set may adopt: the API itself is asked, since a reader may show a set that is deleted already.
pub(crate) async fn may_adopt(set: &DaemonSetView<'_>, writer: &Writer) -> Result<bool, WriteError> {
    let found = writer.get_now(Kind::DaemonSet, (&set.metadata.namespace, &set.metadata.name)).await?;
    Ok(found.is_some_and(|found| {
        found["metadata"]["uid"] == *set.metadata.uid && found["metadata"]["deletionTimestamp"].is_null()
    }))
}

/// Writes the set into the pod's owner references; whether the pod is the set's now.
pub(crate) async fn adopt(set: &DaemonSetView<'_>, pod: &ObjectRef, writer: &Writer) -> Result<bool, WriteError> {
    change_owners(pod, writer, |owners| owners.push(owner_reference(&set.metadata))).await
}

/// Takes the set out of the pod's owner references.
pub(crate) async fn release(set: &DaemonSetView<'_>, pod: &ObjectRef, writer: &Writer) -> Result<bool, WriteError> {
    change_owners(pod, writer, |owners| owners.retain(|owner| owner["uid"] != *set.metadata.uid)).await
}

async fn change_owners(
    pod: &ObjectRef,
    writer: &Writer,
    change: impl FnOnce(&mut Vec<Value>),
) -> Result<bool, WriteError> {
    let Ok(object) = pod.value() else { return Ok(false) };
    let metadata = &object["metadata"];
    let mut owners = metadata["ownerReferences"].as_array().cloned().unwrap_or_default();
    change(&mut owners);
    // The revision guards the list, which a merge replaces as a whole.
    let patch = json!({
        "metadata": {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"], "ownerReferences": owners},
    });
    writer.merge(Kind::Pod, (pod.namespace(), pod.name()), &patch).await
}
