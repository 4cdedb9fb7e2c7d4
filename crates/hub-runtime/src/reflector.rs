//! Reads a real cluster: one shared watch per kind, trimmed and kept as encoded bytes.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use futures::StreamExt as _;
use kube::api::{Api, DynamicObject};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, ResourceExt as _};
use parking_lot::RwLock;
use serde_json::Value;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::reader::{Change, Event, Field, FieldIndex, Name, ObjectRef, Reader, Subscription, name_of};
use crate::kinds::Kind;
use crate::views::AnyView;

/// A subscriber that is this many changes behind gets the list again instead.
const CHANGES_BEHIND_MAX: usize = 4096;

/// A [`Reader`] filled by one watch per kind.
pub struct Reflector {
    kinds: HashMap<Kind, Arc<Reflected>>,
}

/// The objects of a kind behind one watch.
struct Reflected {
    kind: Kind,
    objects: RwLock<Objects>,
    synced: watch::Sender<bool>,
    changes: broadcast::Sender<Change>,
}

#[derive(Default)]
struct Objects {
    by_name: BTreeMap<Name, ObjectRef>,
    index: FieldIndex,
    revision: u64,
}

impl Reflector {
    /// Starts a watch for each of the kinds; they end with `shutdown`.
    pub fn start(client: &Client, kinds: &[Kind], shutdown: &CancellationToken) -> Arc<Self> {
        let mut reflected = HashMap::new();
        for kind in kinds.iter().copied() {
            let one = Arc::new(Reflected {
                kind,
                objects: RwLock::default(),
                synced: watch::Sender::new(false),
                changes: broadcast::Sender::new(CHANGES_BEHIND_MAX),
            });
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &kind.resource());
            base_observe::spawn_detached("reflector", reflect(api, one.clone(), shutdown.clone()));
            reflected.insert(kind, one);
        }
        Arc::new(Self { kinds: reflected })
    }
}

impl Reader for Reflector {
    fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<ObjectRef> {
        self.kinds.get(&kind)?.objects.read().by_name.get(&(namespace.into(), name.into())).cloned()
    }

    fn list(&self, kind: Kind, namespace: Option<&str>) -> Box<dyn Iterator<Item = ObjectRef> + Send + '_> {
        let Some(reflected) = self.kinds.get(&kind) else { return Box::new(std::iter::empty()) };
        let objects = reflected.objects.read();
        let first: Name = (namespace.unwrap_or_default().into(), "".into());
        let range = objects.by_name.range((Bound::Included(first), Bound::Unbounded)).map(|(_, object)| object);
        let items: Vec<ObjectRef> = range
            .take_while(|object| namespace.is_none_or(|namespace| object.namespace() == namespace))
            .cloned()
            .collect();
        Box::new(items.into_iter())
    }

    fn by_field(&self, kind: Kind, field: Field, value: &str) -> Vec<ObjectRef> {
        let Some(reflected) = self.kinds.get(&kind) else { return Vec::new() };
        let objects = reflected.objects.read();
        objects.index.find(field, value).iter().filter_map(|name| objects.by_name.get(name).cloned()).collect()
    }

    fn subscribe(&self, kind: Kind) -> Subscription {
        let Some(reflected) = self.kinds.get(&kind).cloned() else { return futures::stream::pending().boxed() };
        let state: (Arc<Reflected>, Option<broadcast::Receiver<Change>>) = (reflected, None);
        futures::stream::unfold(state, |(reflected, mut receiver)| async move {
            loop {
                match &mut receiver {
                    None => {
                        reflected.synced.subscribe().wait_for(|synced| *synced).await.ok()?;
                        let (objects, changes) = reflected.snapshot();
                        return Some((Event::Listed(reflected.kind, objects), (reflected, Some(changes))));
                    }
                    Some(changes) => match changes.recv().await {
                        Ok(change) => return Some((Event::Changed(change), (reflected, receiver))),
                        Err(broadcast::error::RecvError::Lagged(_)) => receiver = None,
                        Err(broadcast::error::RecvError::Closed) => return None,
                    },
                }
            }
        })
        .boxed()
    }

    fn has_synced(&self, kind: Kind) -> bool {
        self.kinds.get(&kind).is_some_and(|reflected| *reflected.synced.borrow())
    }

    fn revision(&self, kind: Kind) -> u64 {
        self.kinds.get(&kind).map_or(0, |reflected| reflected.objects.read().revision)
    }
}

impl Reflected {
    /// All objects, and the changes that follow: nobody writes between the two.
    fn snapshot(&self) -> (Arc<[ObjectRef]>, broadcast::Receiver<Change>) {
        let objects = self.objects.read();
        (objects.by_name.values().cloned().collect(), self.changes.subscribe())
    }

    fn put(&self, object: ObjectRef) {
        let mut objects = self.objects.write();
        objects.revision = objects.revision.max(object.revision());
        let previous = objects.by_name.insert(name_of(&object), object.clone());
        if previous.as_ref().is_some_and(|previous| previous.bytes() == object.bytes()) {
            return;
        }
        objects.index.apply(self.kind, previous.as_ref(), Some(&object));
        // Nobody may listen.
        let _ = self.changes.send(Change { kind: self.kind, previous, current: Some(object) });
    }

    fn remove(&self, name: &Name, revision: u64) {
        let mut objects = self.objects.write();
        objects.revision = objects.revision.max(revision);
        let Some(previous) = objects.by_name.remove(name) else { return };
        objects.index.apply(self.kind, Some(&previous), None);
        let _ = self.changes.send(Change { kind: self.kind, previous: Some(previous), current: None });
    }

    /// Takes a whole list in, change by change, so that nobody who follows needs to know of it. An object of the same name with
    /// another uid was deleted meanwhile, and another one created.
    fn replace(&self, listed: BTreeMap<Name, ObjectRef>) {
        let removed: Vec<Name> = {
            let objects = self.objects.read();
            let is_listed = |(name, before): &(&Name, &ObjectRef)| {
                listed.get(*name).is_some_and(|now| now.bytes() == before.bytes() || uid_of(now) == uid_of(before))
            };
            objects.by_name.iter().filter(|one| !is_listed(one)).map(|(name, _)| name.clone()).collect()
        };
        removed.iter().for_each(|name| self.remove(name, 0));
        listed.into_values().for_each(|object| self.put(object));
        self.synced.send_replace(true);
    }
}

async fn reflect(api: Api<DynamicObject>, reflected: Arc<Reflected>, shutdown: CancellationToken) {
    // The watcher lists, watches and resumes by itself, with back-off between attempts.
    let stream = watcher(api, watcher::Config::default()).default_backoff();
    let mut stream = std::pin::pin!(stream);
    let mut listed: BTreeMap<Name, ObjectRef> = BTreeMap::new();
    loop {
        let event = tokio::select! {
            () = shutdown.cancelled() => return,
            event = stream.next() => event,
        };
        match event {
            None => return,
            Some(Err(error)) => warn!(kind = reflected.kind.name(), %error, "Lost a watch; trying again."),
            Some(Ok(watcher::Event::Init)) => listed.clear(),
            Some(Ok(watcher::Event::InitApply(object))) => {
                listed.extend(encode(object).map(|object| (name_of(&object), object)));
            }
            Some(Ok(watcher::Event::InitDone)) => reflected.replace(std::mem::take(&mut listed)),
            Some(Ok(watcher::Event::Apply(object))) => encode(object).into_iter().for_each(|one| reflected.put(one)),
            Some(Ok(watcher::Event::Delete(object))) => {
                let name = (object.namespace().unwrap_or_default().into(), object.name_any().into());
                reflected.remove(&name, revision_of(&object));
            }
        }
    }
}

fn uid_of(object: &ObjectRef) -> Option<String> {
    object.view_or_log::<AnyView<'_>>().map(|view| view.metadata.uid.to_string())
}

fn revision_of(object: &DynamicObject) -> u64 {
    // Comparable as numbers since Kubernetes 1.35; on an older cluster that gives other text, nothing is waited for.
    object.resource_version().and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// The object as bytes, without what no controller reads.
fn encode(object: DynamicObject) -> Option<ObjectRef> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let revision = revision_of(&object);
    let mut value = serde_json::to_value(object).ok()?;
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata.remove("managedFields");
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
    }
    let bytes = serde_json::to_vec(&value).ok()?;
    Some(ObjectRef::watched(&namespace, &name, revision, bytes.into()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(uid: &str, revision: u64) -> (Name, ObjectRef) {
        let object =
            json!({"metadata": {"name": "a", "namespace": "d", "uid": uid, "resourceVersion": revision.to_string()}});
        let object = ObjectRef::watched("d", "a", revision, object.to_string().into());
        (name_of(&object), object)
    }

    #[tokio::test]
    async fn an_object_that_was_deleted_and_made_anew_unseen_is_another() {
        let reflected = Arc::new(Reflected {
            kind: Kind::ConfigMap,
            objects: RwLock::default(),
            synced: watch::Sender::new(false),
            changes: broadcast::Sender::new(CHANGES_BEHIND_MAX),
        });
        let mut changes = reflected.changes.subscribe();
        let mut follow = |uid, revision| {
            reflected.replace(BTreeMap::from([object(uid, revision)]));
            let mut seen = Vec::new();
            while let Ok(Change { previous, current, .. }) = changes.try_recv() {
                seen.push((previous.as_ref().and_then(uid_of), current.as_ref().and_then(uid_of)));
            }
            seen
        };
        let (one, two) = (|| Some("one".to_owned()), || Some("two".to_owned()));
        assert_eq!(follow("one", 1), [(None, one())]);
        assert_eq!(follow("one", 1), []);
        assert_eq!(follow("one", 2), [(one(), one())]);
        assert_eq!(follow("two", 3), [(one(), None), (None, two())]);
    }
}
