//! Who owns whom, as far as the reader shows, and whom a change concerns.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::task::Poll;

use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::{COLLECTED, FINALIZER_ORPHAN, Key, waits_for_dependents};
use hub_runtime::kinds::{CustomResource, Kind, Resource};
use hub_runtime::views::{AnyView, ObjectMeta, OwnerReference};
use hub_runtime::{CustomEvent, Field, ObjectRef, Reader};

/// So many are remembered until their dependents were looked at.
const ENDED_MAX: usize = 4096;

/// Custom kinds by the names of their definitions.
pub(super) type Definitions = BTreeMap<Box<str>, Arc<CustomResource>>;

/// The objects and their owners; clones share what they know.
#[derive(Clone)]
pub(super) struct Graph {
    reader: Arc<dyn Reader>,
    /// Custom kinds whose changes are noticed. Only these are shown: the end of an owner of any other may go unnoticed.
    followed: Arc<RwLock<Vec<Arc<CustomResource>>>>,
    /// What was listed once.
    listed: Arc<Mutex<HashSet<Resource>>>,
    /// Custom objects that were deleted and had dependents.
    ended: Arc<Mutex<HashSet<Ended>>>,
}

/// A custom object that is deleted.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Ended {
    group: String,
    kind: String,
    /// Empty for kinds of the cluster.
    namespace: String,
    name: String,
    uid: String,
}

impl Graph {
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        Self { reader, followed: Arc::default(), listed: Arc::default(), ended: Arc::default() }
    }

    pub fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Option<ObjectRef> {
        match resource {
            Resource::Known(kind) => self.reader.get(*kind, namespace, name),
            Resource::Custom(custom) => self.reader.get_custom(custom, namespace, name),
        }
    }

    /// What a reference calls its owner, if that is a kind of ours or one that is followed.
    pub fn resource(&self, owner: &OwnerReference<'_>) -> Option<Resource> {
        if let Some(kind) = Kind::find(&owner.api_version, &owner.kind) {
            return Some(Resource::Known(kind));
        }
        let followed = self.followed.read();
        followed.iter().find(|one| one.is_called(&owner.api_version, &owner.kind)).cloned().map(Resource::Custom)
    }

    /// Everything that names this uid as an owner.
    pub fn dependents(&self, uid: &str) -> Vec<(Resource, ObjectRef)> {
        let mut found = Vec::new();
        for kind in COLLECTED {
            let of_kind = self.reader.by_field(*kind, Field::OwnerUid, uid);
            found.extend(of_kind.into_iter().map(|object| (Resource::Known(*kind), object)));
        }
        for custom in self.followed.read().iter() {
            let of_kind = self.reader.custom_by_owner(custom, uid);
            found.extend(of_kind.into_iter().map(|object| (Resource::Custom(custom.clone()), object)));
        }
        found
    }

    /// The owner, if the reader shows it and notices its end.
    pub fn shown(&self, namespace: &str, owner: &OwnerReference<'_>) -> Option<(Resource, ObjectRef)> {
        let resource = self.resource(owner)?;
        let namespace = if resource.is_namespaced() { namespace } else { "" };
        let object = self.get(&resource, namespace, &owner.name)?;
        let is_same = object.view_or_log::<AnyView<'_>>().is_some_and(|view| view.metadata.uid == *owner.uid);
        is_same.then_some((resource, object))
    }

    /// Whether a dependent's reference makes this object wait. One that is wrong in anything would hold it for good: what
    /// becomes of such a dependent is decided by others.
    pub fn blocks(
        &self,
        owner: &OwnerReference<'_>,
        dependent: &ObjectRef,
        resource: &Resource,
        object: &ObjectRef,
        uid: &str,
    ) -> bool {
        owner.block_owner_deletion
            && *owner.uid == *uid
            && *owner.name == *object.name()
            && self.resource(owner).as_ref() == Some(resource)
            && (object.namespace().is_empty() || dependent.namespace() == object.namespace())
    }

    /// Adds an object that something should be done about.
    fn observe_object(&self, resource: &Resource, object: &ObjectRef, add: &mut dyn FnMut(Key)) {
        let Some(view) = object.view_or_log::<AnyView<'_>>() else { return };
        let meta = &view.metadata;
        let waits = waits_for_dependents(meta) || (meta.is_terminating() && meta.has_finalizer(FINALIZER_ORPHAN));
        let lacks = || meta.owner_references.iter().any(|owner| self.shown(object.namespace(), owner).is_none());
        if waits || lacks() {
            add(key(resource, object));
        }
    }

    /// All objects of a resource are these. A list that comes again means that changes were missed: owners of this kind may
    /// have been deleted unseen.
    pub fn observe_list(&self, resource: &Resource, objects: &[ObjectRef], add: &mut dyn FnMut(Key)) {
        objects.iter().for_each(|object| self.observe_object(resource, object, add));
        if self.listed.lock().insert(resource.clone()) {
            return;
        }
        for kind in COLLECTED {
            self.reader.list(*kind, None).for_each(|object| self.observe_object(&Resource::Known(*kind), &object, add));
        }
        let customs = self.followed.read().clone();
        for custom in customs {
            let objects = self.reader.list_custom(&custom);
            let resource = Resource::Custom(custom);
            objects.iter().for_each(|object| self.observe_object(&resource, object, add));
        }
    }

    /// One object changed.
    pub fn observe_change(
        &self,
        resource: &Resource,
        previous: Option<&ObjectRef>,
        current: Option<&ObjectRef>,
        add: &mut dyn FnMut(Key),
    ) {
        let before = previous.and_then(ObjectRef::view_or_log::<AnyView<'_>>);
        match (previous, current) {
            (_, Some(object)) => {
                let after = object.view_or_log::<AnyView<'_>>();
                if let (Some(before), Some(after)) = (&before, &after) {
                    let (before, after) = (&before.metadata, &after.metadata);
                    let is_same = before.owner_references == after.owner_references
                        && before.is_terminating() == after.is_terminating()
                        && before.finalizers == after.finalizers;
                    if is_same {
                        return;
                    }
                    self.observe_unblocked(object, before, Some(after), add);
                }
                self.observe_object(resource, object, add);
            }
            (Some(object), None) => {
                let Some(view) = before else { return };
                for (resource, dependent) in self.dependents(&view.metadata.uid) {
                    add(key(&resource, &dependent));
                }
                self.observe_unblocked(object, &view.metadata, None, add);
            }
            (None, None) => {}
        }
    }

    /// What happened to the objects of a custom kind, and whom it concerns.
    fn observe_custom(&self, custom: &Arc<CustomResource>, event: CustomEvent) -> Vec<Key> {
        let mut keys = Vec::new();
        let resource = Resource::Custom(custom.clone());
        match event {
            CustomEvent::Listed(objects) => {
                // From here on their ends are noticed.
                let mut followed = self.followed.write();
                if !followed.contains(custom) {
                    followed.push(custom.clone());
                }
                drop(followed);
                self.observe_list(&resource, &objects, &mut |key| keys.push(key));
            }
            CustomEvent::Changed(previous, current) => {
                if let (Some(object), None) = (&previous, &current) {
                    self.note_end(custom, object);
                }
                self.observe_change(&resource, previous.as_ref(), current.as_ref(), &mut |key| keys.push(key));
            }
        }
        keys
    }

    /// A custom object is deleted. Its kind may be served no more when its dependents are looked at, and then nobody else could
    /// say so.
    fn note_end(&self, custom: &CustomResource, object: &ObjectRef) {
        let Some(view) = object.view_or_log::<AnyView<'_>>() else { return };
        let uid = &view.metadata.uid;
        if self.dependents(uid).is_empty() {
            return;
        }
        let mut ended = self.ended.lock();
        if ended.len() >= ENDED_MAX {
            ended.clear();
        }
        ended.insert(Ended {
            group: custom.group.clone(),
            kind: custom.kind.clone(),
            namespace: object.namespace().to_owned(),
            name: object.name().to_owned(),
            uid: uid.to_string(),
        });
    }

    /// Whether the owner of an object in this namespace was a custom object and was seen to be deleted.
    pub fn has_ended(&self, namespace: &str, owner: &OwnerReference<'_>) -> bool {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let ended = self.ended.lock();
        if ended.is_empty() {
            return false;
        }
        let in_namespace = |namespace: &str| Ended {
            group: group.to_owned(),
            kind: owner.kind.to_string(),
            namespace: namespace.to_owned(),
            name: owner.name.to_string(),
            uid: owner.uid.to_string(),
        };
        ended.contains(&in_namespace(namespace)) || ended.contains(&in_namespace(""))
    }

    /// Adds owners that wait for their dependents, and whom this one blocks no more: it is deleted, or names them no more.
    fn observe_unblocked(
        &self,
        object: &ObjectRef,
        before: &ObjectMeta<'_>,
        after: Option<&ObjectMeta<'_>>,
        add: &mut dyn FnMut(Key),
    ) {
        let still_blocks = |uid: &str| {
            let owners = after.iter().flat_map(|after| &after.owner_references);
            owners.into_iter().any(|owner| *owner.uid == *uid && owner.block_owner_deletion)
        };
        for owner in before.owner_references.iter().filter(|owner| owner.block_owner_deletion) {
            if still_blocks(&owner.uid) {
                continue;
            }
            if let Some((resource, owner)) = self.shown(object.namespace(), owner)
                && owner.view_or_log::<AnyView<'_>>().is_some_and(|view| waits_for_dependents(&view.metadata))
            {
                add(key(&resource, &owner));
            }
        }
    }
}

pub(super) fn key(resource: &Resource, object: &ObjectRef) -> Key {
    (resource.clone(), object.namespace().into(), object.name().into())
}

/// Follows the objects of what is defined, as definitions come and go.
pub(super) struct Follower {
    graph: Graph,
    definitions_rx: watch::Receiver<Definitions>,
    running: BTreeMap<Box<str>, Running>,
}

struct Running {
    custom: Arc<CustomResource>,
    events: BoxStream<'static, CustomEvent>,
}

impl Follower {
    pub fn new(graph: Graph, mut definitions_rx: watch::Receiver<Definitions>) -> Self {
        definitions_rx.mark_changed();
        Self { graph, definitions_rx, running: BTreeMap::new() }
    }

    /// The keys that the next event concerns; `None` when nobody defines anything any more.
    pub async fn next(&mut self) -> Option<Vec<Key>> {
        tokio::select! {
            changed = self.definitions_rx.changed() => {
                changed.ok()?;
                Some(self.take_definitions())
            }
            (custom, event) = next_event(&mut self.running) => Some(self.graph.observe_custom(&custom, event)),
        }
    }

    fn take_definitions(&mut self) -> Vec<Key> {
        let definitions = self.definitions_rx.borrow_and_update().clone();
        let (graph, mut keys) = (&self.graph, Vec::new());
        self.running.retain(|name, running| {
            let is_kept = definitions.get(name) == Some(&running.custom);
            if !is_kept {
                // Its objects were deleted before it was: what they leave behind is heard of now or never.
                while let Some(Some(event)) = running.events.next().now_or_never() {
                    keys.extend(graph.observe_custom(&running.custom, event));
                }
                graph.followed.write().retain(|one| *one != running.custom);
            }
            is_kept
        });
        for (name, custom) in definitions {
            if let Entry::Vacant(vacant) = self.running.entry(name)
                && let Some(events) = graph.reader.subscribe_custom(&custom)
            {
                vacant.insert(Running { custom, events });
            }
        }
        keys
    }
}

/// The next event of any of these.
async fn next_event(running: &mut BTreeMap<Box<str>, Running>) -> (Arc<CustomResource>, CustomEvent) {
    std::future::poll_fn(|context| {
        for one in running.values_mut() {
            // A stream that has ended belongs to a store that is closed.
            if let Poll::Ready(Some(event)) = one.events.poll_next_unpin(context) {
                return Poll::Ready((one.custom.clone(), event));
            }
        }
        Poll::Pending
    })
    .await
}
