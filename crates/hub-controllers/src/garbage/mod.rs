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
//! The objects of custom kinds are dependents and owners like any others, from the definition of their kind on ([`graph`]), and
//! so are those of Kubernetes' kinds on which nothing here acts. What
//! is served without a definition can be an owner: its deletions are followed from the first dependent that names one. What that
//! misses is found because objects with such owners are looked at again from time to time.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{BoxStream, SelectAll};
use futures::{Stream, StreamExt as _};
use kube::api::PropagationPolicy;
use kube::core::{ApiResource, GroupVersionKind};
use kube::discovery::Scope;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tracing::debug;

use crate::served::Served;
use hub_runtime::Context;
use hub_runtime::ReconcileError;
use hub_runtime::kinds::{CustomResource, Kind, Resource};
use hub_runtime::views::{AnyView, ObjectMeta, OwnerReference};
use hub_runtime::writer::{Target, WriteError};
use hub_runtime::{Change, Event, Next, ObjectRef, Queue, Reconciler};

mod graph;

use graph::{Definitions, Follower, Graph};

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
/// Objects that are looked at to find out whether owners wait for each other in a circle.
const CIRCLE_MAX: usize = 1024;

/// Everything but Events, which end by themselves.
const COLLECTED: &[Kind] = &[
    Kind::Namespace,
    Kind::Node,
    Kind::Pod,
    Kind::ConfigMap,
    Kind::Secret,
    Kind::ServiceAccount,
    Kind::Service,
    Kind::Lease,
    Kind::RuntimeClass,
    Kind::CertificateSigningRequest,
    Kind::Endpoints,
    Kind::EndpointSlice,
    Kind::ReplicationController,
    Kind::Deployment,
    Kind::ReplicaSet,
    Kind::DaemonSet,
    Kind::StatefulSet,
    Kind::Job,
    Kind::CronJob,
    Kind::PodDisruptionBudget,
    Kind::StorageClass,
    Kind::HorizontalPodAutoscaler,
    // A StatefulSet may own its pods' claims, and a pod those of its ephemeral volumes.
    Kind::PersistentVolumeClaim,
    Kind::PersistentVolume,
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
/// them: on objects of all kinds but Events and what is the hub's own.
pub fn collects(group: &str, kind: &str) -> bool {
    let is_it = |one: &&Kind| one.name() == kind && one.resource().group == group;
    Kind::ALL.iter().find(is_it).is_none_or(|kind| COLLECTED.contains(kind))
}

/// Kubernetes' other kinds, on which no controller of ours acts: they are followed as what others define is. Names of
/// definitions have no `/`.
fn other_builtins() -> Definitions {
    let mut kinds: BTreeMap<Box<str>, CustomResource> = BTreeMap::new();
    for info in machinery_kinds::Registry::builtin().resources() {
        let key = format!("{}/{}", info.group, info.plural);
        let is_followed_apart = Kind::ALL.iter().any(|kind| kind.store_key() == key) || *info.storage_key != *key;
        if is_followed_apart || !info.verbs.contains(&"delete") {
            continue;
        }
        let kind = kinds.entry(key.into()).or_insert_with(|| CustomResource {
            group: info.group.to_string(),
            versions: Vec::new(),
            kind: info.kind.to_string(),
            plural: info.plural.to_string(),
            is_namespaced: info.namespaced,
        });
        kind.versions.push(info.version.to_string());
    }
    kinds.into_iter().map(|(key, kind)| (key, Arc::new(kind))).collect()
}

/// What a definition defines.
fn defined(definition: &ObjectRef) -> Option<Arc<CustomResource>> {
    CustomResource::of_definition(definition.bytes()).map(Arc::new)
}

/// Resource, namespace and name.
type Key = (Resource, Box<str>, Box<str>);

/// The controller.
pub(crate) struct Garbage {
    context: Context,
    graph: Graph,
    absent: Mutex<HashSet<AbsentOwner>>,
    /// Custom kinds, for whoever follows their objects.
    definitions: watch::Sender<Definitions>,
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
            graph: Graph::new(context.reader.clone()),
            context,
            absent: Mutex::default(),
            definitions: watch::Sender::default(),
            served: Served::default(),
            followed: Mutex::default(),
            deletions_tx,
            deletions_rx: Mutex::new(Some(deletions_rx)),
        }
    }

    /// Everything that names this uid as an owner.
    fn dependents(&self, uid: &str) -> Vec<(Resource, ObjectRef)> {
        self.graph.dependents(uid)
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

    async fn owner(&self, namespace: &str, owner: &OwnerReference<'_>) -> Result<Owner, WriteError> {
        if let Some((_, object)) = self.graph.shown(namespace, owner) {
            let view = object.view_or_log::<AnyView<'_>>();
            let waits = owner.block_owner_deletion && view.is_some_and(|view| waits_for_dependents(&view.metadata));
            return Ok(if waits { Owner::Waiting } else { Owner::Solid });
        }
        if self.graph.has_ended(namespace, owner) {
            return Ok(Owner::Absent);
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
        if self.graph.resource(owner).is_none() {
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
        let known = self.graph.resource(owner);
        let (group, version) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
        match known {
            Some(Resource::Known(kind)) => return Ok(Some((kind.resource(), kind.is_namespaced()))),
            Some(Resource::Custom(custom)) => return Ok(Some((custom.resource_in(version), custom.is_namespaced))),
            None => {}
        }
        let gvk = GroupVersionKind::gvk(group, version, &owner.kind);
        let served = self.served.known(self.context.writer.discover()).await?;
        let found = served.resolve_gvk(&gvk);
        Ok(found.map(|(resource, capabilities)| (resource, capabilities.scope == Scope::Namespaced)))
    }

    /// Looks at an object by its owners.
    async fn settle(&self, kind: &Resource, object: &ObjectRef, meta: &ObjectMeta<'_>) -> Result<Next, ReconcileError> {
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
                let is_shown = |owner| self.graph.shown(object.namespace(), owner).is_some();
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

    fn warn_of_namespace(
        &self,
        kind: &Resource,
        object: &ObjectRef,
        meta: &ObjectMeta<'_>,
        owner: &OwnerReference<'_>,
    ) {
        let OwnerReference { api_version, kind: owner_kind, name, .. } = owner;
        let message = format!(
            "ownerRef {api_version} {owner_kind} {name} does not exist in namespace \"\": an object of the cluster cannot have \
             an owner in a namespace, and is not deleted with it"
        );
        let target = Target { namespace: object.namespace(), name: object.name(), uid: &meta.uid };
        self.context.recorder.warning(kind, target, "OwnerRefInvalidNamespace", message);
    }

    /// Takes references to owners out of an object.
    async fn release(&self, kind: &Resource, object: &ObjectRef, owners: &[&str]) -> Result<Next, ReconcileError> {
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
    async fn orphan(&self, kind: &Resource, object: &ObjectRef, meta: &ObjectMeta<'_>) -> Result<Next, ReconcileError> {
        let mut next = Next::OnChange;
        for (kind, dependent) in self.dependents(&meta.uid) {
            next = next.or(self.release(&kind, &dependent, &[&meta.uid]).await?);
        }
        match next {
            Next::OnChange => self.finish(kind, object, FINALIZER_ORPHAN).await,
            retry @ Next::After(_) => Ok(retry),
        }
    }

    /// An owner whose dependents go before it does.
    async fn foreground(
        &self,
        kind: &Resource,
        object: &ObjectRef,
        meta: &ObjectMeta<'_>,
    ) -> Result<Next, ReconcileError> {
        let (mut is_blocked, mut next) = (false, Next::OnChange);
        for (dependent_kind, dependent) in self.dependents(&meta.uid) {
            let view: AnyView<'_> = dependent.view()?;
            if view
                .metadata
                .owner_references
                .iter()
                .any(|owner| self.graph.blocks(owner, &dependent, kind, object, &meta.uid))
                && !self.waits_for(&view.metadata, &meta.uid)
            {
                is_blocked = true;
                next = next.or(self.settle(&dependent_kind, &dependent, &view.metadata).await?);
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

    /// Whether what waits for its dependents waits, by way of them, for the one with this uid: all on such a circle would wait
    /// for ever, so none of it is waited for.
    fn waits_for(&self, meta: &ObjectMeta<'_>, uid: &str) -> bool {
        if !waits_for_dependents(meta) {
            return false;
        }
        let (mut seen, mut left) = (HashSet::new(), vec![meta.uid.to_string()]);
        while let Some(waiting) = left.pop() {
            if waiting == uid {
                return true;
            }
            if seen.len() >= CIRCLE_MAX || !seen.insert(waiting.clone()) {
                continue;
            }
            for (_, dependent) in self.dependents(&waiting) {
                let Some(view) = dependent.view_or_log::<AnyView<'_>>() else { continue };
                let is_blocking = |owner: &OwnerReference<'_>| *owner.uid == *waiting && owner.block_owner_deletion;
                if waits_for_dependents(&view.metadata) && view.metadata.owner_references.iter().any(is_blocking) {
                    left.push(view.metadata.uid.to_string());
                }
            }
        }
        false
    }

    /// Takes a finalizer off an owner that has waited.
    async fn finish(&self, kind: &Resource, object: &ObjectRef, finalizer: &str) -> Result<Next, ReconcileError> {
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

impl Reconciler for Garbage {
    type Key = Key;

    fn name(&self) -> &'static str {
        "garbage"
    }

    fn sources(&self) -> &'static [Kind] {
        &SOURCES
    }

    fn observe(&self, event: &Event, queue: &Queue<Key>) {
        let mut add = |key: Key| queue.add(key);
        match event {
            Event::Listed(Kind::CustomResourceDefinition, definitions) => {
                self.served.forget();
                let customs = definitions.iter().filter_map(|one| Some((one.name().into(), defined(one)?)));
                self.definitions.send_replace(customs.chain(other_builtins()).collect());
            }
            Event::Changed(Change { kind: Kind::CustomResourceDefinition, previous, current }) => {
                self.served.forget();
                self.definitions.send_if_modified(|definitions| match (previous, current) {
                    (_, Some(one)) if let Some(custom) = defined(one) => {
                        definitions.insert(one.name().into(), custom.clone()) != Some(custom)
                    }
                    (_, Some(one)) | (Some(one), None) => definitions.remove(one.name()).is_some(),
                    (None, None) => false,
                });
            }
            Event::Listed(kind, objects) => self.graph.observe_list(&Resource::Known(*kind), objects, &mut add),
            Event::Changed(Change { kind, previous, current }) => {
                self.graph.observe_change(&Resource::Known(*kind), previous.as_ref(), current.as_ref(), &mut add);
            }
        }
    }

    fn nudges(&self) -> BoxStream<'static, Key> {
        let Some(deletions_rx) = self.deletions_rx.lock().take() else { return futures::stream::pending().boxed() };
        let graph = self.graph.clone();
        let of_deleted = merge(deletions_rx).map(move |uid: String| {
            graph.dependents(&uid).iter().map(|(resource, object)| graph::key(resource, object)).collect()
        });
        let follower = Follower::new(self.graph.clone(), self.definitions.subscribe());
        let of_customs =
            futures::stream::unfold(follower, |mut follower| async move { Some((follower.next().await?, follower)) });
        let both: SelectAll<BoxStream<'static, Vec<Key>>> =
            [of_deleted.boxed(), of_customs.boxed()].into_iter().collect();
        both.map(futures::stream::iter).flatten().boxed()
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, ReconcileError> {
        let (kind, namespace, name) = key;
        let Some(object) = self.graph.get(kind, namespace, name) else { return Ok(Next::OnChange) };
        let view: AnyView<'_> = object.view()?;
        let meta = &view.metadata;
        if meta.is_terminating() && meta.has_finalizer(FINALIZER_ORPHAN) {
            return self.orphan(kind, &object, meta).await;
        }
        if waits_for_dependents(meta) {
            return self.foreground(kind, &object, meta).await;
        }
        self.settle(kind, &object, meta).await
    }
}

#[cfg(test)]
mod tests;
