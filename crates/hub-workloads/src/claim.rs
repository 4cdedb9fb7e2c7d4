//! Which objects are a workload's: those that it controls and whose labels its selector matches.
//!
//! As upstream's `ControllerRefManager`: an object without a controller whose labels match is adopted, one of the workload
//! whose labels match no more is released, and one of another controller is never touched.

use hub_runtime::kinds::Kind;
use hub_runtime::views::{AnyView, LabelSelector, ObjectMeta};
use hub_runtime::writer::{WriteError, Writer};
use hub_runtime::{ObjectRef, ReconcileError};
use serde_json::{Value, json};

use crate::owner::Owner;

/// What a workload does about an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It is the workload's.
    Own,
    /// It becomes the workload's.
    Adopt,
    /// It is the workload's no more.
    Release,
    /// It is none of the workload's business.
    Ignore,
}

/// Decides about one object; `matches` says whether selector, and name where that matters, fit. An owner that is being deleted
/// changes no object's owner.
pub(crate) fn claim(owner: &ObjectMeta<'_>, matches: bool, pod: &ObjectMeta<'_>) -> Claim {
    match pod.controller() {
        Some(controller) if controller.uid == owner.uid => match matches {
            true => Claim::Own,
            false if owner.is_terminating() => Claim::Ignore,
            false => Claim::Release,
        },
        Some(_) => Claim::Ignore,
        // What is on its way out is not worth adopting.
        None if matches && !pod.is_terminating() && !owner.is_terminating() => Claim::Adopt,
        None => Claim::Ignore,
    }
}

/// Adopts and releases among `objects` of one kind in the owner's namespace; those that are the owner's then. `None` when one
/// changed under it, and all must be looked at again.
pub(crate) async fn claim_all(
    owner: Owner<'_>,
    selector: &LabelSelector<'_>,
    kind: Kind,
    objects: Vec<ObjectRef>,
    writer: &Writer,
) -> Result<Option<Vec<ObjectRef>>, ReconcileError> {
    let mut claimed = Vec::with_capacity(objects.len());
    let mut may = None;
    for object in objects {
        let view: AnyView<'_> = object.view()?;
        if *view.metadata.namespace != *owner.meta.namespace {
            continue;
        }
        match claim(owner.meta, selector.matches(&view.metadata.labels), &view.metadata) {
            Claim::Own => {}
            Claim::Ignore => continue,
            Claim::Release => {
                if !release(owner, kind, &object, writer).await? {
                    return Ok(None);
                }
                continue;
            }
            Claim::Adopt => {
                let may = match may {
                    Some(may) => may,
                    None => *may.insert(may_adopt(owner, writer).await?),
                };
                if !may {
                    continue;
                }
                if !adopt(owner, kind, &object, writer).await? {
                    return Ok(None);
                }
            }
        }
        claimed.push(object);
    }
    Ok(Some(claimed))
}

/// Whether the owner may adopt: the API itself is asked, since a reader may show an owner that is deleted already.
pub(crate) async fn may_adopt(owner: Owner<'_>, writer: &Writer) -> Result<bool, WriteError> {
    let found = writer.get_now(owner.kind, (&owner.meta.namespace, &owner.meta.name)).await?;
    Ok(found.is_some_and(|found| {
        found["metadata"]["uid"] == *owner.meta.uid && found["metadata"]["deletionTimestamp"].is_null()
    }))
}

/// Writes the owner into an object's owner references; whether the object is the owner's now.
pub(crate) async fn adopt(
    owner: Owner<'_>,
    kind: Kind,
    object: &ObjectRef,
    writer: &Writer,
) -> Result<bool, WriteError> {
    change_owners(kind, object, writer, |owners| {
        // It may be an owner already, and no controller.
        owners.retain(|one| one["uid"] != *owner.meta.uid);
        owners.push(owner.reference());
    })
    .await
}

/// Takes the owner out of an object's owner references.
pub(crate) async fn release(
    owner: Owner<'_>,
    kind: Kind,
    object: &ObjectRef,
    writer: &Writer,
) -> Result<bool, WriteError> {
    change_owners(kind, object, writer, |owners| owners.retain(|one| one["uid"] != *owner.meta.uid)).await
}

/// Changes an object's owner references as they were read; `Ok(false)` when it was changed meanwhile or is deleted.
pub(crate) async fn change_owners(
    kind: Kind,
    object: &ObjectRef,
    writer: &Writer,
    change: impl FnOnce(&mut Vec<Value>),
) -> Result<bool, WriteError> {
    let Ok(value) = object.value() else { return Ok(false) };
    let metadata = &value["metadata"];
    let mut owners = metadata["ownerReferences"].as_array().cloned().unwrap_or_default();
    change(&mut owners);
    // The revision guards the list, which a merge replaces as a whole.
    let patch = json!({
        "metadata": {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"], "ownerReferences": owners},
    });
    writer.merge(kind, (object.namespace(), object.name()), &patch).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_claimed_by_controller_and_labels() {
        for (matches, controller, is_pod_ending, is_owner_ending, expected) in [
            (true, Some("me"), false, false, Claim::Own),
            (true, Some("me"), true, false, Claim::Own),
            (true, Some("me"), false, true, Claim::Own),
            (false, Some("me"), false, false, Claim::Release),
            (false, Some("me"), false, true, Claim::Ignore),
            (true, Some("other"), false, false, Claim::Ignore),
            (true, None, false, false, Claim::Adopt),
            (true, None, true, false, Claim::Ignore),
            (true, None, false, true, Claim::Ignore),
            (false, None, false, false, Claim::Ignore),
        ] {
            let time = |is_ending: bool| is_ending.then_some("2026-01-01T00:00:00Z");
            let owners: Vec<Value> = controller.iter().map(|uid| json!({"uid": uid, "controller": true})).collect();
            let owner = json!({"uid": "me", "deletionTimestamp": time(is_owner_ending)}).to_string();
            let pod = json!({"ownerReferences": owners, "deletionTimestamp": time(is_pod_ending)}).to_string();
            let (owner, meta) = (serde_json::from_str(&owner).unwrap(), serde_json::from_str(&pod).unwrap());
            assert_eq!(claim(&owner, matches, &meta), expected, "{pod} {matches} {is_owner_ending}");
        }
    }
}
