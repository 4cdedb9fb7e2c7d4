//! What controllers read: the objects of each kind, trimmed, and a sign when one changed.
//!
//! A controller reads through [`Lister`] only. This one is filled by one shared watch per kind, so it works with any
//! Kubernetes API; a hub with its store in reach may put its own in its place.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use futures::StreamExt as _;
use kube::api::{Api, DynamicObject};
use kube::runtime::watcher;
use kube::{Client, ResourceExt as _};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::kinds::Kind;

/// Namespace (empty for cluster-scoped kinds) and name.
pub type ObjectKey = (String, String);

/// A view of all objects of a kind.
pub type Objects = Arc<BTreeMap<ObjectKey, Arc<Value>>>;

/// What controllers read from.
pub trait Lister: Send + Sync {
    /// All objects of a kind, in order of their keys.
    fn list(&self, kind: Kind) -> Objects;

    /// Counts up when an object of the kind changed; its first value is 0 and becomes 1 when the first list is whole.
    fn changes(&self, kind: Kind) -> watch::Receiver<u64>;
}

/// The objects of a kind behind one watch.
struct Shelf {
    objects: RwLock<Objects>,
    changes: watch::Sender<u64>,
}

/// A [`Lister`] filled by one watch per kind.
pub struct Cache {
    shelves: BTreeMap<Kind, Arc<Shelf>>,
}

impl Cache {
    /// Starts a watch for each of the kinds.
    pub fn start(client: &Client, kinds: &[Kind], tasks: &TaskTracker, shutdown: &CancellationToken) -> Arc<Self> {
        let mut shelves = BTreeMap::new();
        for kind in kinds {
            let shelf = Arc::new(Shelf { objects: RwLock::default(), changes: watch::Sender::new(0) });
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &kind.resource());
            tasks.spawn(fill(*kind, api, shelf.clone(), shutdown.clone()));
            shelves.insert(*kind, shelf);
        }
        Arc::new(Self { shelves })
    }
}

impl Lister for Cache {
    fn list(&self, kind: Kind) -> Objects {
        self.shelves.get(&kind).map(|shelf| shelf.objects.read().expect("no holder panics").clone()).unwrap_or_default()
    }

    fn changes(&self, kind: Kind) -> watch::Receiver<u64> {
        match self.shelves.get(&kind) {
            Some(shelf) => shelf.changes.subscribe(),
            None => watch::Sender::new(0).subscribe(),
        }
    }
}

async fn fill(kind: Kind, api: Api<DynamicObject>, shelf: Arc<Shelf>, shutdown: CancellationToken) {
    // The watcher lists, watches and resumes by itself, with back-off between attempts.
    let stream = watcher(api, watcher::Config::default());
    let mut stream = std::pin::pin!(kube::runtime::WatchStreamExt::default_backoff(stream));
    let mut fresh: Option<BTreeMap<ObjectKey, Arc<Value>>> = None;
    loop {
        let event = tokio::select! {
            () = shutdown.cancelled() => return,
            event = stream.next() => event,
        };
        match event {
            None => return,
            Some(Err(error)) => warn!(kind = kind.name(), %error, "Lost a watch; trying again."),
            Some(Ok(watcher::Event::Init)) => fresh = Some(BTreeMap::new()),
            Some(Ok(watcher::Event::InitApply(object))) => {
                if let (Some(fresh), Some((key, value))) = (&mut fresh, entry(kind, object)) {
                    fresh.insert(key, Arc::new(value));
                }
            }
            Some(Ok(watcher::Event::InitDone)) => {
                if let Some(fresh) = fresh.take() {
                    shelf.replace(fresh);
                }
            }
            Some(Ok(watcher::Event::Apply(object))) => {
                if let Some((key, value)) = entry(kind, object) {
                    shelf.put(key, value);
                }
            }
            Some(Ok(watcher::Event::Delete(object))) => shelf.remove(&key_of(&object)),
        }
    }
}

fn key_of(object: &DynamicObject) -> ObjectKey {
    (object.namespace().unwrap_or_default(), object.name_any())
}

fn entry(kind: Kind, object: DynamicObject) -> Option<(ObjectKey, Value)> {
    let key = key_of(&object);
    match serde_json::to_value(object) {
        Ok(value) => Some((key, kind.trim(value))),
        Err(error) => {
            warn!(kind = kind.name(), name = key.1, %error, "Left out an object that cannot be read.");
            None
        }
    }
}

impl Shelf {
    fn put(&self, key: ObjectKey, value: Value) {
        self.change(|objects| {
            if objects.get(&key).is_some_and(|old| **old == value) {
                return false;
            }
            Arc::make_mut(objects).insert(key, Arc::new(value));
            true
        });
    }

    fn remove(&self, key: &ObjectKey) {
        self.change(|objects| Arc::make_mut(objects).remove(key).is_some());
    }

    fn replace(&self, fresh: BTreeMap<ObjectKey, Arc<Value>>) {
        let mut is_first = false;
        self.changes.send_if_modified(|changes| {
            is_first = *changes == 0;
            false
        });
        self.change(|objects| {
            let is_new = is_first || **objects != fresh;
            *objects = Arc::new(fresh);
            is_new
        });
    }

    fn change(&self, change: impl FnOnce(&mut Objects) -> bool) {
        if change(&mut self.objects.write().expect("no holder panics")) {
            self.changes.send_modify(|changes| *changes += 1);
        }
    }
}
