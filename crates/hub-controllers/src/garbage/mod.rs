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
//! | in a namespace, the dependent in none | are left alone, and an Event says so: such a reference resolves to nothing |
//!
//! The deletions of custom kinds are followed from the first dependent that names one as its owner. What that misses is found
//! because objects with such owners are looked at again from time to time.

use std::collections::HashSet;
use std::time::Duration;

use futures::stream::{BoxStream, SelectAll};
use futures::{Stream, StreamExt as _};
use kube::api::PropagationPolicy;
use kube::core::{ApiResource, GroupVersionKind};
use kube::discovery::Scope;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tracing::debug;

use crate::Context;
use crate::kinds::Kind;
use crate::runtime::controller::ReconcileError;
use crate::runtime::{Change, Event, Field, Next, ObjectRef, Queue, Reader, Reconciler};
use crate::served::Served;
use crate::views::{AnyView, ObjectMeta, OwnerReference};
use crate::writer::{Target, WriteError};

/// `kubectl delete --cascade=orphan`: the owner leaves once its dependents have lost their references to it.
const FINALIZER_ORPHAN: &str = "orphan";
/// `kubectl delete --cascade=foreground`: the owner leaves once its dependents are deleted.
const FINALIZER_FOREGROUND: &str = "foregroundDeletion";
/// After a write that met another.
const CONFLICT_RETRY: Duration = Duration::from_millis(200);
/// How soon an owner looks again at dependents that block it and are not on their way out. A change usually comes first.
const BLOCKED_RETRY: Duration = Duration::from_secs(1);
/// How often an object is looked at whose owner the reader does not show: the end of such an owner may go unnoticed.
const UNSHOWN_PERIOD: Duration = Duration::from_secs(10 * 60);
/// Custom kinds whose deletions are followed.
const FOLLOWED_MAX: usize = 256;
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

/// Definitions of custom kinds are no dependents here, but say what is served.
const SOURCES: [Kind; COLLECTED.len() + 1] = {
    let mut all = [Kind::CustomResourceDefinition; COLLECTED.len() + 1];
    let mut index = 0;
    while index < COLLECTED.len() {
        all[index] = COLLECTED[index];
        index += 1;
    }
    all
};

/// Whether the finalizers `orphan` and `foregroundDeletion` of this kind's objects are served, so that a deletion may set
/// them.
pub fn collects(group: &str, kind: &str) -> bool {
    COLLECTED.iter().any(|one| one.name() == kind && one.resource().group == group)
}

/// Kind, namespace and name.
type Key = (Kind, Box<str>, Box<str>);

/// The controller.
pub(crate) struct Garbage {
    context: Context,
    absent: Mutex<HashSet<AbsentOwner>>,
    listed: Mutex<HashSet<Kind>>,
    /// How the API serves owners of kinds that are not ours.
    served: Served<kube::Discovery>,
    /// Group and plural of the kinds among these whose deletions are followed.
    followed: Mutex<HashSet<(String, String)>>,
    deletions_tx: mpsc::Sender<Deletions>,
    /// Until the controller starts.
    deletions_rx: Mutex<Option<mpsc::Receiver<Deletions>>>,
}

/// The uids of the objects of one kind that are deleted.
type Deletions = BoxStream<'static, String>;

/// Where an owner is known not to be. One uid alone would not do: the reference may be wrong in anything else, and what is
/// not found by it may well be there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct AbsentOwner {
    api_version: String,
    kind: String,
    /// Empty for kinds of the cluster.
    namespace: String,
    name: String,
    uid: String,
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
    /// It is in a namespace, and the object in none: nobody can say which one is meant.
    Unresolvable,
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
    if owners.is_empty() || owners.contains(&Owner::Unresolvable) {
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
        let (deletions_tx, deletions_rx) = mpsc::channel(FOLLOWED_MAX);
        Self {
            context,
            absent: Mutex::default(),
            listed: Mutex::default(),
            served: Served::default(),
            followed: Mutex::default(),
            deletions_tx,
            deletions_rx: Mutex::new(Some(deletions_rx)),
        }
    }

    fn key(kind: Kind, object: &ObjectRef) -> Key {
        (kind, object.namespace().into(), object.name().into())
    }

    /// Everything that names this uid as an owner.
    fn dependents(&self, uid: &str) -> Vec<(Kind, ObjectRef)> {
        dependents(&*self.context.reader, uid)
    }

    /// From now on the deletions of this kind bring the dependents up.
    fn follow(&self, resource: &ApiResource) {
        let name = (resource.group.clone(), resource.plural.clone());
        let mut followed = self.followed.lock();
        if followed.len() >= FOLLOWED_MAX || followed.contains(&name) {
            return;
        }
        // Nobody takes them before the controller runs, and there is a place for each.
        if let Some(deletions) = self.context.reader.deletions(resource)
            && self.deletions_tx.try_send(deletions).is_ok()
        {
            followed.insert(name);
        }
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
        let waits = waits_for_dependents(meta) || (meta.is_terminating() && meta.has_finalizer(FINALIZER_ORPHAN));
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
                if view(&change.previous) == view(&change.current) {
                    return;
                }
                self.observe_object(kind, object, queue);
                let before = change.previous.as_ref().and_then(ObjectRef::view_or_log::<AnyView<'_>>);
                let after = object.view_or_log::<AnyView<'_>>();
                if let (Some(before), Some(after)) = (before, after) {
                    self.observe_unblocked(object, &before.metadata, Some(&after.metadata), queue);
                }
            }
            (Some(object), None) => {
                let Some(view) = object.view_or_log::<AnyView<'_>>() else { return };
                for (kind, dependent) in self.dependents(&view.metadata.uid) {
                    queue.add(Self::key(kind, &dependent));
                }
                self.observe_unblocked(object, &view.metadata, None, queue);
            }
            (None, None) => {}
        }
    }

    /// Adds owners that wait for their dependents, and whom this one blocks no more: it is deleted, or names them no more.
    fn observe_unblocked(
        &self,
        object: &ObjectRef,
        before: &ObjectMeta<'_>,
        after: Option<&ObjectMeta<'_>>,
        queue: &Queue<Key>,
    ) {
        let still_blocks = |uid: &str| {
            let owners = after.iter().flat_map(|after| &after.owner_references);
            owners.into_iter().any(|owner| *owner.uid == *uid && owner.block_owner_deletion)
        };
        for owner in before.owner_references.iter().filter(|owner| owner.block_owner_deletion) {
            if still_blocks(&owner.uid) {
                continue;
            }
            if let Some((kind, owner)) = self.shown(object.namespace(), owner)
                && owner.view_or_log::<AnyView<'_>>().is_some_and(|view| waits_for_dependents(&view.metadata))
            {
                queue.add(Self::key(kind, &owner));
            }
        }
    }

    async fn owner(&self, namespace: &str, owner: &OwnerReference<'_>) -> Result<Owner, WriteError> {
        if let Some((_, object)) = self.shown(namespace, owner) {
            let view = object.view_or_log::<AnyView<'_>>();
            let waits = owner.block_owner_deletion && view.is_some_and(|view| waits_for_dependents(&view.metadata));
            return Ok(if waits { Owner::Waiting } else { Owner::Solid });
        }
        // What nobody serves cannot be known to be deleted.
        let Some((resource, is_namespaced)) = self.resource(owner).await? else { return Ok(Owner::Solid) };
        if is_namespaced && namespace.is_empty() {
            return Ok(Owner::Unresolvable);
        }
        let namespace = if is_namespaced { namespace } else { "" };
        let coordinates = AbsentOwner {
            api_version: owner.api_version.to_string(),
            kind: owner.kind.to_string(),
            namespace: namespace.to_owned(),
            name: owner.name.to_string(),
            uid: owner.uid.to_string(),
        };
        if self.absent.lock().contains(&coordinates) {
            return Ok(Owner::Absent);
        }
        if Kind::find(&owner.api_version, &owner.kind).is_none() {
            // Before it is asked for: what is deleted after that is noticed.
            self.follow(&resource);
        }
        let found = self.context.writer.uid_now(&resource, is_namespaced.then_some(namespace), &owner.name).await;
        let found = match found {
            Err(error) if error.code() == Some(404) => {
                // The kind is not served any more.
                self.served.forget();
                return Ok(Owner::Solid);
            }
            found => found?,
        };
        if found.is_some_and(|uid| uid == *owner.uid) {
            return Ok(Owner::Solid);
        }
        let mut absent = self.absent.lock();
        if absent.len() >= ABSENT_MAX {
            absent.clear();
        }
        absent.insert(coordinates);
        Ok(Owner::Absent)
    }

    /// How the API serves an owner's kind, and whether its objects live in namespaces.
    async fn resource(&self, owner: &OwnerReference<'_>) -> Result<Option<(ApiResource, bool)>, WriteError> {
        if let Some(kind) = Kind::find(&owner.api_version, &owner.kind) {
            return Ok(Some((kind.resource(), kind.is_namespaced())));
        }
        let (group, version) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
        let gvk = GroupVersionKind::gvk(group, version, &owner.kind);
        let served = self.served.known(self.context.writer.discover()).await?;
        let found = served.resolve_gvk(&gvk);
        Ok(found.map(|(resource, capabilities)| (resource, capabilities.scope == Scope::Namespaced)))
    }

    /// Looks at an object by its owners.
    async fn settle(&self, kind: Kind, object: &ObjectRef, meta: &ObjectMeta<'_>) -> Result<Next, ReconcileError> {
        if meta.is_terminating() {
            return Ok(Next::OnChange);
        }
        let mut owners = Vec::with_capacity(meta.owner_references.len());
        for owner in &meta.owner_references {
            let found = self.owner(object.namespace(), owner).await?;
            if found == Owner::Unresolvable {
                self.warn_of_namespace(kind, object, meta, owner);
            }
            owners.push(found);
        }
        match judge(&owners) {
            Verdict::Keep => {
                let is_shown = |owner| self.shown(object.namespace(), owner).is_some();
                let are_shown = owners.contains(&Owner::Unresolvable) || meta.owner_references.iter().all(is_shown);
                Ok(if are_shown { Next::OnChange } else { Next::After(UNSHOWN_PERIOD) })
            }
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
                // As it was judged: an owner that was added meanwhile keeps it.
                let is_deleted =
                    self.context.writer.delete_unchanged(kind, target, &meta.resource_version, propagation).await?;
                Ok(if is_deleted { Next::OnChange } else { Next::After(CONFLICT_RETRY) })
            }
        }
    }

    fn warn_of_namespace(&self, kind: Kind, object: &ObjectRef, meta: &ObjectMeta<'_>, owner: &OwnerReference<'_>) {
        let OwnerReference { api_version, kind: owner_kind, name, .. } = owner;
        let message = format!(
            "ownerRef {api_version} {owner_kind} {name} does not exist in namespace \"\": an object of the cluster cannot have \
             an owner in a namespace, and is not deleted with it"
        );
        let target = Target { namespace: object.namespace(), name: object.name(), uid: &meta.uid };
        self.context.recorder.warning(kind, target, "OwnerRefInvalidNamespace", message);
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
        let (mut is_blocked, mut next) = (false, Next::OnChange);
        for (dependent_kind, dependent) in self.dependents(&meta.uid) {
            let view: AnyView<'_> = dependent.view()?;
            if view.metadata.owner_references.iter().any(|owner| blocks(owner, &dependent, kind, object, &meta.uid)) {
                is_blocked = true;
                next = next.or(self.settle(dependent_kind, &dependent, &view.metadata).await?);
                if !view.metadata.is_terminating() {
                    next = next.or(Next::After(BLOCKED_RETRY));
                }
            }
        }
        if is_blocked {
            // The end of the last dependent, or of its reference, brings the next run.
            return Ok(next);
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

/// Everything that names this uid as an owner.
fn dependents(reader: &dyn Reader, uid: &str) -> Vec<(Kind, ObjectRef)> {
    let of_kind = |kind: &Kind| {
        let found = reader.by_field(*kind, Field::OwnerUid, uid);
        found.into_iter().map(|object| (*kind, object)).collect::<Vec<_>>()
    };
    COLLECTED.iter().flat_map(of_kind).collect()
}

/// The uids of what is deleted of any of the kinds that come in.
fn merge(deletions_rx: mpsc::Receiver<Deletions>) -> impl Stream<Item = String> {
    futures::stream::unfold((deletions_rx, SelectAll::new()), |(mut deletions_rx, mut all)| async move {
        loop {
            tokio::select! {
                Some(deletions) = deletions_rx.recv() => all.push(deletions),
                Some(uid) = all.next() => return Some((uid, (deletions_rx, all))),
                else => return None,
            }
        }
    })
}

/// Whether an owner is deleted once its dependents are.
fn waits_for_dependents(meta: &ObjectMeta<'_>) -> bool {
    meta.is_terminating() && meta.has_finalizer(FINALIZER_FOREGROUND)
}

/// Whether a dependent's reference makes this object wait. One that is wrong in anything would hold it for good: what becomes
/// of such a dependent is decided by others.
fn blocks(owner: &OwnerReference<'_>, dependent: &ObjectRef, kind: Kind, object: &ObjectRef, uid: &str) -> bool {
    owner.block_owner_deletion
        && *owner.uid == *uid
        && *owner.name == *object.name()
        && Kind::find(&owner.api_version, &owner.kind) == Some(kind)
        && (object.namespace().is_empty() || dependent.namespace() == object.namespace())
}

impl Reconciler for Garbage {
    type Key = Key;

    fn name(&self) -> &'static str {
        "garbage"
    }

    fn sources(&self) -> &'static [Kind] {
        &SOURCES
    }

    fn observe(&self, event: &Event, queue: &Queue<Key>) {
        match event {
            Event::Listed(Kind::CustomResourceDefinition, _)
            | Event::Changed(Change { kind: Kind::CustomResourceDefinition, .. }) => self.served.forget(),
            Event::Listed(listed, _) => {
                // A list that comes again means that changes were missed: owners of this kind may have been deleted unseen.
                let is_first = self.listed.lock().insert(*listed);
                for kind in COLLECTED.iter().copied().filter(|kind| !is_first || kind == listed) {
                    self.context.reader.list(kind, None).for_each(|object| self.observe_object(kind, &object, queue));
                }
            }
            Event::Changed(change) => self.observe_change(change, queue),
        }
    }

    fn nudges(&self) -> BoxStream<'static, Key> {
        let Some(deletions_rx) = self.deletions_rx.lock().take() else { return futures::stream::pending().boxed() };
        let reader = self.context.reader.clone();
        let keys = move |uid: String| {
            let found = dependents(&*reader, &uid).into_iter().map(|(kind, object)| Self::key(kind, &object));
            futures::stream::iter(found.collect::<Vec<_>>())
        };
        merge(deletions_rx).flat_map(keys).boxed()
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, ReconcileError> {
        let (kind, namespace, name) = key;
        let Some(object) = self.context.reader.get(*kind, namespace, name) else { return Ok(Next::OnChange) };
        let view: AnyView<'_> = object.view()?;
        let meta = &view.metadata;
        if meta.is_terminating() && meta.has_finalizer(FINALIZER_ORPHAN) {
            return self.orphan(*kind, &object, meta).await;
        }
        if waits_for_dependents(meta) {
            return self.foreground(*kind, &object, meta).await;
        }
        self.settle(*kind, &object, meta).await
    }
}

#[cfg(test)]
mod tests;
