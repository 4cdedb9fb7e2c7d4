//! Objects whose owners are deleted go too; an owner that waits for them, or releases them, is served.
//!
//! As upstream's garbage collector: an object is deleted when *none* of its owners exists. Owners are found by kind,
//! name and uid, dependents by the index of owners' uids, so a deletion costs what it takes along. Before anything is
//! deleted the API itself is asked, since a reader may be behind.
//!
//! | the owner is | its dependents |
//! | --- | --- |
//! | deleted (background) | are deleted, unless another owner exists; then only the reference goes |
//! | terminating with finalizer `foregroundDeletion` | those that block it are deleted first; then the finalizer goes |
//! | terminating with finalizer `orphan` | lose the reference; then the finalizer goes |

use std::collections::{HashMap, HashSet};

use kube::api::PropagationPolicy;
use kube::core::{ApiResource, GroupVersionKind};
use kube::discovery::Scope;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tracing::debug;

use crate::Context;
use crate::kinds::Kind;
use crate::runtime::controller::ReconcileError;
use crate::runtime::{Change, Event, Field, Next, ObjectRef, Queue, Reconciler};
use crate::views::{AnyView, ObjectMeta, OwnerReference};
use crate::writer::{Target, WriteError};

/// `kubectl delete --cascade=orphan`: the owner leaves once its dependents have lost their references to it.
const FINALIZER_ORPHAN: &str = "orphan";
/// `kubectl delete --cascade=foreground`: the owner leaves once its dependents are deleted.
const FINALIZER_FOREGROUND: &str = "foregroundDeletion";
/// After a write that met another.
const CONFLICT_RETRY: std::time::Duration = std::time::Duration::from_millis(200);
/// Owners known to be deleted, so that a thousand dependents ask once.
const ABSENT_MAX: usize = 1024;

/// Everything but Events, which end by themselves.
const COLLECTED: &[Kind] = &[
    Kind::Namespace,
    Kind::Node,
    Kind::Pod,
    Kind::ConfigMap,
    Kind::Secret,
    Kind::ServiceAccount,
    Kind::Lease,
    Kind::RuntimeClass,
    Kind::CertificateSigningRequest,
    Kind::DaemonSet,
    Kind::ControllerRevision,
    Kind::DeviceProfile,
    Kind::Device,
    Kind::Stream,
    Kind::Rule,
    Kind::Export,
    Kind::NodeAssignment,
];

/// Whether the finalizers `orphan` and `foregroundDeletion` of this kind's objects are served, so that a deletion may set
/// them.
pub fn collects(group: &str, kind: &str) -> bool {
    COLLECTED.iter().any(|one| one.name() == kind && one.resource().group == group)
}

/// A resource, and whether its objects live in namespaces.
type Served = (ApiResource, bool);

/// Kind, namespace and name.
type Key = (Kind, Box<str>, Box<str>);

/// The controller.
pub(crate) struct Garbage {
    context: Context,
    absent: Mutex<HashSet<String>>,
    listed: Mutex<HashSet<Kind>>,
    /// How the API serves owners of kinds that are not ours; `None` for those that it does not serve.
    resources: Mutex<HashMap<(String, String), Option<Served>>>,
}

/// What is known of one owner of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// It exists.
    Solid,
    /// It does not.
    Absent,
    /// It waits for its dependents to go first.
    Waiting,
}

/// What becomes of an object with owners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing.
    Keep,
    /// It loses its references to these owners (indexes), and stays.
    Release(Vec<usize>),
    /// No owner is left.
    Delete,
}

/// Decides about an object by its owners.
pub(crate) fn judge(owners: &[Owner]) -> Verdict {
    if owners.is_empty() {
        return Verdict::Keep;
    }
    if !owners.contains(&Owner::Solid) {
        return Verdict::Delete;
    }
    let others: Vec<usize> = (0..owners.len()).filter(|index| owners[*index] != Owner::Solid).collect();
    if others.is_empty() { Verdict::Keep } else { Verdict::Release(others) }
}

impl Garbage {
    pub fn new(context: Context) -> Self {
        Self { context, absent: Mutex::default(), listed: Mutex::default(), resources: Mutex::default() }
    }

    fn key(kind: Kind, object: &ObjectRef) -> Key {
        (kind, object.namespace().into(), object.name().into())
    }

    /// Everything that names this uid as an owner.
    fn dependents(&self, uid: &str) -> Vec<(Kind, ObjectRef)> {
        let of_kind = |kind: &Kind| {
            let found = self.context.reader.by_field(*kind, Field::OwnerUid, uid);
            found.into_iter().map(|object| (*kind, object)).collect::<Vec<_>>()
        };
        COLLECTED.iter().flat_map(of_kind).collect()
    }

    /// The owner, if it is of a kind of ours and the reader shows it.
    fn shown(&self, namespace: &str, owner: &OwnerReference<'_>) -> Option<(Kind, ObjectRef)> {
        let kind = Kind::find(&owner.api_version, &owner.kind)?;
        let namespace = if kind.is_namespaced() { namespace } else { "" };
        let object = self.context.reader.get(kind, namespace, &owner.name)?;
        let is_same = object.view_or_log::<AnyView<'_>>().is_some_and(|view| view.metadata.uid == *owner.uid);
        is_same.then_some((kind, object))
    }

    /// Adds an object that something should be done about, as far as the reader shows.
    fn observe_object(&self, kind: Kind, object: &ObjectRef, queue: &Queue<Key>) {
        let Some(view) = object.view_or_log::<AnyView<'_>>() else { return };
        let meta = &view.metadata;
        let waits =
            meta.is_terminating() && (meta.has_finalizer(FINALIZER_ORPHAN) || meta.has_finalizer(FINALIZER_FOREGROUND));
        let lacks = || meta.owner_references.iter().any(|owner| self.shown(object.namespace(), owner).is_none());
        if waits || lacks() {
            queue.add(Self::key(kind, object));
        }
    }

    fn observe_change(&self, change: &Change, queue: &Queue<Key>) {
        let kind = change.kind;
        let view = |object: &Option<ObjectRef>| {
            object.as_ref().and_then(|object| {
                let view = object.view_or_log::<AnyView<'_>>()?;
                let meta = &view.metadata;
                Some((format!("{:?}", meta.owner_references), meta.is_terminating(), format!("{:?}", meta.finalizers)))
            })
        };
        match (&change.previous, &change.current) {
            // Leases are renewed all the time, and never change owners.
            (Some(_), Some(_)) if kind == Kind::Lease => {}
            (_, Some(object)) => {
                if view(&change.previous) != view(&change.current) {
                    self.observe_object(kind, object, queue);
                }
            }
            (Some(object), None) => {
                let Some(view) = object.view_or_log::<AnyView<'_>>() else { return };
                for (kind, dependent) in self.dependents(&view.metadata.uid) {
                    queue.add(Self::key(kind, &dependent));
                }
                for owner in &view.metadata.owner_references {
                    if let Some((kind, owner)) = self.shown(object.namespace(), owner) {
                        let waits = owner.view_or_log::<AnyView<'_>>().is_some_and(|view| {
                            view.metadata.is_terminating() && view.metadata.has_finalizer(FINALIZER_FOREGROUND)
                        });
                        if waits {
                            queue.add(Self::key(kind, &owner));
                        }
                    }
                }
            }
            (None, None) => {}
        }
    }

    async fn owner(&self, namespace: &str, owner: &OwnerReference<'_>) -> Result<Owner, WriteError> {
        if let Some((_, object)) = self.shown(namespace, owner) {
            let view = object.view_or_log::<AnyView<'_>>();
            let waits = owner.block_owner_deletion
                && view.is_some_and(|view| {
                    view.metadata.is_terminating() && view.metadata.has_finalizer(FINALIZER_FOREGROUND)
                });
            return Ok(if waits { Owner::Waiting } else { Owner::Solid });
        }
        if self.absent.lock().contains(&*owner.uid) {
            return Ok(Owner::Absent);
        }
        // What nobody serves cannot be known to be deleted.
        let Some((resource, is_namespaced)) = self.resource(owner).await? else { return Ok(Owner::Solid) };
        let found = self.context.writer.uid_now(&resource, is_namespaced.then_some(namespace), &owner.name).await?;
        if found.is_some_and(|uid| uid == *owner.uid) {
            return Ok(Owner::Solid);
        }
        let mut absent = self.absent.lock();
        if absent.len() >= ABSENT_MAX {
            absent.clear();
        }
        absent.insert(owner.uid.to_string());
        Ok(Owner::Absent)
    }

    /// How the API serves an owner's kind.
    async fn resource(&self, owner: &OwnerReference<'_>) -> Result<Option<Served>, WriteError> {
        if let Some(kind) = Kind::find(&owner.api_version, &owner.kind) {
            return Ok(Some((kind.resource(), kind.is_namespaced())));
        }
        let key = (owner.api_version.to_string(), owner.kind.to_string());
        if let Some(known) = self.resources.lock().get(&key) {
            return Ok(known.clone());
        }
        let (group, version) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
        let gvk = GroupVersionKind::gvk(group, version, &owner.kind);
        let discovery = self.context.writer.discover().await?;
        let found = discovery
            .resolve_gvk(&gvk)
            .map(|(resource, capabilities)| (resource, capabilities.scope == Scope::Namespaced));
        self.resources.lock().insert(key, found.clone());
        Ok(found)
    }

    /// Looks at an object by its owners.
    async fn settle(&self, kind: Kind, object: &ObjectRef, meta: &ObjectMeta<'_>) -> Result<Next, ReconcileError> {
        if meta.is_terminating() {
            return Ok(Next::OnChange);
        }
        let mut owners = Vec::with_capacity(meta.owner_references.len());
        for owner in &meta.owner_references {
            owners.push(self.owner(object.namespace(), owner).await?);
        }
        match judge(&owners) {
            Verdict::Keep => Ok(Next::OnChange),
            Verdict::Release(removed) => {
                let removed: Vec<&str> = removed.iter().map(|index| &*meta.owner_references[*index].uid).collect();
                self.release(kind, object, &removed).await
            }
            Verdict::Delete => {
                let is_waited_for = owners.contains(&Owner::Waiting);
                let propagation = if meta.has_finalizer(FINALIZER_ORPHAN) {
                    PropagationPolicy::Orphan
                } else if meta.has_finalizer(FINALIZER_FOREGROUND)
                    || (is_waited_for && !self.dependents(&meta.uid).is_empty())
                {
                    PropagationPolicy::Foreground
                } else {
                    PropagationPolicy::Background
                };
                let target = Target { namespace: object.namespace(), name: object.name(), uid: &meta.uid };
                debug!(kind = kind.name(), ?object, "Deleting an object whose owners are deleted.");
                self.context.writer.delete_target(kind, target, None, Some(propagation)).await?;
                Ok(Next::OnChange)
            }
        }
    }

    /// Takes references to owners out of an object.
    async fn release(&self, kind: Kind, object: &ObjectRef, owners: &[&str]) -> Result<Next, ReconcileError> {
        let value = object.value()?;
        let metadata = &value["metadata"];
        let kept = metadata["ownerReferences"].as_array().into_iter().flatten();
        let kept: Vec<&Value> =
            kept.filter(|owner| !owners.contains(&owner["uid"].as_str().unwrap_or_default())).collect();
        let patch = json!({
            "metadata": {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"], "ownerReferences": kept},
        });
        let is_written = self.context.writer.merge(kind, (object.namespace(), object.name()), &patch).await?;
        Ok(if is_written { Next::OnChange } else { Next::After(CONFLICT_RETRY) })
    }

    /// An owner whose dependents lose their references before it goes.
    async fn orphan(&self, kind: Kind, object: &ObjectRef, meta: &ObjectMeta<'_>) -> Result<Next, ReconcileError> {
        let mut next = Next::OnChange;
        for (kind, dependent) in self.dependents(&meta.uid) {
            next = next.or(self.release(kind, &dependent, &[&meta.uid]).await?);
        }
        match next {
            Next::OnChange => self.finish(kind, object, FINALIZER_ORPHAN).await,
            retry @ Next::After(_) => Ok(retry),
        }
    }

    /// An owner whose dependents go before it does.
    async fn foreground(&self, kind: Kind, object: &ObjectRef, meta: &ObjectMeta<'_>) -> Result<Next, ReconcileError> {
        let mut is_blocked = false;
        for (kind, dependent) in self.dependents(&meta.uid) {
            let view: AnyView<'_> = dependent.view()?;
            let blocks = view.metadata.owner_references.iter();
            if blocks.into_iter().any(|owner| *owner.uid == *meta.uid && owner.block_owner_deletion) {
                is_blocked = true;
                self.settle(kind, &dependent, &view.metadata).await?;
            }
        }
        if is_blocked {
            // The end of the last dependent brings the next run.
            return Ok(Next::OnChange);
        }
        self.finish(kind, object, FINALIZER_FOREGROUND).await
    }

    /// Takes a finalizer off an owner that has waited.
    async fn finish(&self, kind: Kind, object: &ObjectRef, finalizer: &str) -> Result<Next, ReconcileError> {
        let value = object.value()?;
        let metadata = &value["metadata"];
        let kept = metadata["finalizers"].as_array().into_iter().flatten();
        let kept: Vec<&Value> = kept.filter(|one| **one != finalizer).collect();
        let patch = json!({
            "metadata": {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"], "finalizers": kept},
        });
        let is_written = self.context.writer.merge(kind, (object.namespace(), object.name()), &patch).await?;
        Ok(if is_written { Next::OnChange } else { Next::After(CONFLICT_RETRY) })
    }
}

impl Reconciler for Garbage {
    type Key = Key;

    fn name(&self) -> &'static str {
        "garbage"
    }

    fn sources(&self) -> &'static [Kind] {
        COLLECTED
    }

    fn observe(&self, event: &Event, queue: &Queue<Key>) {
        match event {
            Event::Listed(listed, _) => {
                // A list that comes again means that changes were missed: owners of this kind may have been deleted unseen.
                let is_first = self.listed.lock().insert(*listed);
                self.resources.lock().clear();
                for kind in COLLECTED.iter().copied().filter(|kind| !is_first || kind == listed) {
                    self.context.reader.list(kind, None).for_each(|object| self.observe_object(kind, &object, queue));
                }
            }
            Event::Changed(change) => self.observe_change(change, queue),
        }
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, ReconcileError> {
        let (kind, namespace, name) = key;
        let Some(object) = self.context.reader.get(*kind, namespace, name) else { return Ok(Next::OnChange) };
        let view: AnyView<'_> = object.view()?;
        let meta = &view.metadata;
        if meta.is_terminating() && meta.has_finalizer(FINALIZER_ORPHAN) {
            return self.orphan(*kind, &object, meta).await;
        }
        if meta.is_terminating() && meta.has_finalizer(FINALIZER_FOREGROUND) {
            return self.foreground(*kind, &object, meta).await;
        }
        self.settle(*kind, &object, meta).await
    }
}

#[cfg(test)]
mod tests;
