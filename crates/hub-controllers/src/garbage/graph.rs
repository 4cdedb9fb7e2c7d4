//! Who owns whom, as far as the reader shows, and whom a change concerns.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::{AbortHandle, BoxStream, SelectAll, abortable};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::{COLLECTED, FINALIZER_ORPHAN, Key, waits_for_dependents};
use crate::kinds::{CustomResource, Kind, Resource};
use crate::runtime::{CustomEvent, Field, ObjectRef, Reader};
use crate::views::{AnyView, ObjectMeta, OwnerReference};

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
}

impl Graph {
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        Self { reader, followed: Arc::default(), listed: Arc::default() }
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
    running: BTreeMap<Box<str>, (Arc<CustomResource>, AbortHandle)>,
    events: SelectAll<BoxStream<'static, (Arc<CustomResource>, CustomEvent)>>,
}

impl Follower {
    pub fn new(graph: Graph, mut definitions_rx: watch::Receiver<Definitions>) -> Self {
        definitions_rx.mark_changed();
        Self { graph, definitions_rx, running: BTreeMap::new(), events: SelectAll::new() }
    }

    /// The keys that the next event concerns; `None` when nobody defines anything any more.
    pub async fn next(&mut self) -> Option<Vec<Key>> {
        loop {
            tokio::select! {
                changed = self.definitions_rx.changed() => {
                    changed.ok()?;
                    self.take_definitions();
                }
                Some((custom, event)) = self.events.next() => return Some(self.observe(&custom, event)),
            }
        }
    }

    fn take_definitions(&mut self) {
        let definitions = self.definitions_rx.borrow_and_update().clone();
        let graph = &self.graph;
        self.running.retain(|name, (custom, handle)| {
            let is_kept = definitions.get(name) == Some(custom);
            if !is_kept {
                handle.abort();
                graph.followed.write().retain(|one| one != custom);
            }
            is_kept
        });
        for (name, custom) in definitions {
            if self.running.contains_key(&name) {
                continue;
            }
            let Some(events) = graph.reader.subscribe_custom(&custom) else { continue };
            let of = custom.clone();
            let (events, handle) = abortable(events.map(move |event| (of.clone(), event)));
            self.events.push(events.boxed());
            self.running.insert(name, (custom, handle));
        }
    }

    fn observe(&self, custom: &Arc<CustomResource>, event: CustomEvent) -> Vec<Key> {
        let mut keys = Vec::new();
        let resource = Resource::Custom(custom.clone());
        match event {
            CustomEvent::Listed(objects) => {
                // From here on their ends are noticed.
                let mut followed = self.graph.followed.write();
                if !followed.contains(custom) {
                    followed.push(custom.clone());
                }
                drop(followed);
                self.graph.observe_list(&resource, &objects, &mut |key| keys.push(key));
            }
            CustomEvent::Changed(previous, current) => {
                self.graph.observe_change(&resource, previous.as_ref(), current.as_ref(), &mut |key| keys.push(key));
            }
        }
        keys
    }
}
