//! Reads the embedded API's own store: the objects that it serves, not copies of them.
//!
//! The store finds objects by name. What is found by a field is kept here as names, by one task per kind; a subscriber
//! hears of a change when this index has it, so what an event says can be looked up.

use std::collections::HashMap;
use std::sync::Arc;

use futures::StreamExt as _;
use machinery_store::{Key, Revision, Store, Watch, WatchEnded};
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::reader::{Change, Event, Field, FieldIndex, ObjectRef, Reader, Subscription};
use crate::kinds::Kind;

/// A [`Reader`] over a store in the same process.
pub struct StoreReader {
    store: Store,
    kinds: HashMap<Kind, Arc<Indexed>>,
}

/// What is kept of one kind.
struct Indexed {
    index: RwLock<FieldIndex>,
    /// Changes up to here are in the index; `None` before the first list.
    revision: watch::Sender<Option<u64>>,
}

impl StoreReader {
    /// Starts the tasks that keep the indexes; they end with `shutdown`.
    pub fn start(store: Store, shutdown: &CancellationToken) -> Arc<Self> {
        let mut kinds = HashMap::new();
        for kind in Kind::ALL.iter().copied().filter(|kind| is_indexed(*kind)) {
            let indexed = Arc::new(Indexed { index: RwLock::default(), revision: watch::Sender::new(None) });
            let keep = keep(store.clone(), kind, indexed.clone(), shutdown.clone());
            base_observe::spawn_detached("field-index", keep);
            kinds.insert(kind, indexed);
        }
        Arc::new(Self { store, kinds })
    }
}

/// Nobody looks for Events by a field, and there are many.
fn is_indexed(kind: Kind) -> bool {
    kind != Kind::Event
}

impl Reader for StoreReader {
    fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<ObjectRef> {
        self.store.get(&Key::new(kind.store_key(), namespace, name)).map(ObjectRef::stored)
    }

    fn list(&self, kind: Kind, namespace: Option<&str>) -> Box<dyn Iterator<Item = ObjectRef> + Send + '_> {
        let (items, _) = list(&self.store, kind, namespace);
        Box::new(items.into_iter())
    }

    fn by_field(&self, kind: Kind, field: Field, value: &str) -> Vec<ObjectRef> {
        let Some(indexed) = self.kinds.get(&kind) else { return Vec::new() };
        let names = indexed.index.read().find(field, value);
        names.iter().filter_map(|(namespace, name)| self.get(kind, namespace, name)).collect()
    }

    fn subscribe(&self, kind: Kind) -> Subscription {
        let revision = self.kinds.get(&kind).map(|indexed| indexed.revision.subscribe());
        futures::stream::unfold(Follow::new(self.store.clone(), kind), move |mut follow| {
            let revision = revision.clone();
            async move {
                let batch = follow.next().await?;
                if let Some(mut revision) = revision {
                    let reached = follow.newest;
                    // An error means that the hub is stopping.
                    revision.wait_for(|indexed| indexed.is_some_and(|indexed| indexed >= reached)).await.ok()?;
                }
                Some((futures::stream::iter(batch), follow))
            }
        })
        .flatten()
        .boxed()
    }

    fn has_synced(&self, kind: Kind) -> bool {
        self.kinds.get(&kind).is_none_or(|indexed| indexed.revision.borrow().is_some())
    }

    fn revision(&self, kind: Kind) -> u64 {
        match self.kinds.get(&kind) {
            Some(indexed) => indexed.revision.borrow().unwrap_or_default(),
            None => self.store.current().0,
        }
    }
}

fn list(store: &Store, kind: Kind, namespace: Option<&str>) -> (Vec<ObjectRef>, Revision) {
    let range = store.range(kind.store_key(), namespace, None, None, None);
    let range = range.expect("a list at the current revision cannot have expired");
    (range.items.into_iter().map(ObjectRef::stored).collect(), range.revision)
}

/// Follows one kind: a list, then changes, and a list again should changes be missed.
struct Follow {
    store: Store,
    kind: Kind,
    watch: Option<Watch>,
    position: Revision,
    /// The newest change of the kind that was seen. Smaller than `position` where other kinds have changed since, and the
    /// one to wait for: nothing says that a kind has *not* changed.
    newest: u64,
}

impl Follow {
    fn new(store: Store, kind: Kind) -> Self {
        Self { store, kind, watch: None, position: Revision(0), newest: 0 }
    }

    /// The next events, at least one; `None` when the store is closed.
    async fn next(&mut self) -> Option<Vec<Event>> {
        loop {
            let Some(watch) = &mut self.watch else {
                let (items, revision) = list(&self.store, self.kind, None);
                // The list's revision has expired by now if the window is tiny: list again.
                if let Ok(watch) = self.store.watch(self.kind.store_key(), revision) {
                    self.watch = Some(watch);
                    self.position = revision;
                    self.newest = items.iter().map(ObjectRef::revision).max().unwrap_or_default();
                    return Some(vec![Event::Listed(self.kind, items.into())]);
                }
                tokio::task::yield_now().await;
                continue;
            };
            match watch.next().await {
                Ok(batch) => {
                    self.position = batch.revision;
                    self.newest = batch.changes.last().map_or(self.newest, |change| change.revision.0);
                    let kind = self.kind;
                    let changes = batch.changes.iter().map(|change| {
                        let is_deleted = change.kind == machinery_store::ChangeKind::Delete;
                        let object = ObjectRef::stored(change.object.clone());
                        let before = change.previous.clone().map(ObjectRef::stored);
                        Event::Changed(match is_deleted {
                            // The last bytes say what the deletion itself changed.
                            true => Change { kind, previous: before.or(Some(object)), current: None },
                            false => Change { kind, previous: before, current: Some(object) },
                        })
                    });
                    return Some(changes.collect());
                }
                Err(WatchEnded::Lagged) => self.watch = None,
                Err(WatchEnded::Closed) => return None,
            }
        }
    }
}

/// Keeps the index of one kind.
async fn keep(store: Store, kind: Kind, indexed: Arc<Indexed>, shutdown: CancellationToken) {
    let mut follow = Follow::new(store, kind);
    loop {
        let events = tokio::select! {
            () = shutdown.cancelled() => return,
            events = follow.next() => events,
        };
        let Some(events) = events else { return };
        {
            let mut index = indexed.index.write();
            for event in events {
                match event {
                    Event::Listed(_, objects) => {
                        *index = FieldIndex::default();
                        objects.iter().for_each(|object| index.apply(kind, None, Some(object)));
                    }
                    Event::Changed(change) => index.apply(kind, change.previous.as_ref(), change.current.as_ref()),
                }
            }
        }
        indexed.revision.send_replace(Some(follow.position.0));
    }
}
