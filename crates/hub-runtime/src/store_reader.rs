//! Reads the embedded API's own store: the objects that it serves, not copies of them, found by name and by the fields
//! that the API server has extracted.

use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use kube::core::ApiResource;
use machinery_store::{Key, Revision, Store, Watch, WatchEnded};

use super::reader::{Change, CustomEvent, Event, Field, ObjectRef, Reader, Subscription};
use crate::kinds::{CustomResource, Kind};
use crate::views::AnyView;

/// What the API server calls the fields: uids of owners in every object, `spec.nodeName` of pods and, by their definition, of
/// assignments, and the references of pods. A store that has them among its indexed fields finds objects by them at once, any other by looking at all.
const OWNER_UID: &str = "metadata.ownerReferences.uid";
const NODE_NAME: &str = "spec.nodeName";
/// What a pod refers to in its namespace, as `RESOURCE/NAME`.
pub(super) const REFERENCES: &str = "refs";
pub(super) const CLAIM: &str = "persistentvolumeclaims/";

/// A [`Reader`] over a store in the same process.
pub struct StoreReader {
    store: Store,
}

impl StoreReader {
    /// A reader of this store.
    pub fn new(store: Store) -> Arc<Self> {
        Arc::new(Self { store })
    }
}

impl Reader for StoreReader {
    fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<ObjectRef> {
        self.store.get(&Key::new(kind.store_key(), namespace, name)).map(ObjectRef::stored)
    }

    fn list(&self, kind: Kind, namespace: Option<&str>) -> Box<dyn Iterator<Item = ObjectRef> + Send + '_> {
        let (items, _) = list(&self.store, kind.store_key(), namespace);
        Box::new(items.into_iter())
    }

    fn by_field(&self, kind: Kind, field: Field, value: &str) -> Vec<ObjectRef> {
        let snapshot = self.store.snapshot(kind.store_key());
        let find = |field, value: &str, namespace| {
            snapshot.iter_where((field, value), namespace, None).cloned().map(ObjectRef::stored).collect()
        };
        match field {
            Field::OwnerUid => find(OWNER_UID, value, None),
            Field::NodeName => find(NODE_NAME, value, None),
            Field::Claim => value.split_once('/').map_or_else(Vec::new, |(namespace, name)| {
                find(REFERENCES, &format!("{CLAIM}{name}"), Some(namespace))
            }),
        }
    }

    fn subscribe(&self, kind: Kind) -> Subscription {
        let events = follow(self.store.clone(), kind.store_key().to_owned());
        events
            .map(move |event| match event {
                CustomEvent::Listed(objects) => Event::Listed(kind, objects),
                CustomEvent::Changed(previous, current) => Event::Changed(Change { kind, previous, current }),
            })
            .boxed()
    }

    fn get_custom(&self, resource: &CustomResource, namespace: &str, name: &str) -> Option<ObjectRef> {
        self.store.get(&Key::new(&resource.store_key(), namespace, name)).map(ObjectRef::stored)
    }

    fn list_custom(&self, resource: &CustomResource) -> Vec<ObjectRef> {
        list(&self.store, &resource.store_key(), None).0
    }

    fn custom_by_owner(&self, resource: &CustomResource, uid: &str) -> Vec<ObjectRef> {
        let snapshot = self.store.snapshot(&resource.store_key());
        snapshot.iter_where((OWNER_UID, uid), None, None).cloned().map(ObjectRef::stored).collect()
    }

    fn subscribe_custom(&self, resource: &CustomResource) -> Option<BoxStream<'static, CustomEvent>> {
        Some(follow(self.store.clone(), resource.store_key()).boxed())
    }

    fn deletions(&self, resource: &ApiResource) -> Option<BoxStream<'static, String>> {
        let (store, key) = (self.store.clone(), format!("{}/{}", resource.group, resource.plural));
        let watch = store.watch(&key, store.current()).ok()?;
        let deleted = futures::stream::unfold((store, key, watch), |(store, key, mut watch)| async move {
            loop {
                match watch.next().await {
                    Ok(batch) => {
                        let uids: Vec<String> = batch.changes.iter().filter_map(|change| deleted_uid(change)).collect();
                        if !uids.is_empty() {
                            return Some((futures::stream::iter(uids), (store, key, watch)));
                        }
                    }
                    Err(WatchEnded::Lagged) => watch = store.watch(&key, store.current()).ok()?,
                    Err(WatchEnded::Closed) => return None,
                }
            }
        });
        Some(deleted.flatten().boxed())
    }

    fn has_synced(&self, _: Kind) -> bool {
        true
    }

    fn revision(&self, _: Kind) -> u64 {
        self.store.current().0
    }

    fn is_current(&self) -> bool {
        true
    }
}

fn list(store: &Store, key: &str, namespace: Option<&str>) -> (Vec<ObjectRef>, Revision) {
    let range = store.range(key, namespace, None, None, None);
    let range = range.expect("a list at the current revision cannot have expired");
    (range.items.into_iter().map(ObjectRef::stored).collect(), range.revision)
}

fn deleted_uid(change: &machinery_store::Change) -> Option<String> {
    if change.kind != machinery_store::ChangeKind::Delete {
        return None;
    }
    let object = ObjectRef::stored(change.object.clone());
    object.view_or_log::<AnyView<'_>>().map(|view| view.metadata.uid.to_string())
}

/// A list of a resource, then changes, and a list again should changes be missed.
fn follow(store: Store, key: String) -> impl Stream<Item = CustomEvent> + Send + 'static {
    let follow = Follow { store, key, watch: None };
    futures::stream::unfold(follow, |mut follow| async move {
        let batch = follow.next().await?;
        Some((futures::stream::iter(batch), follow))
    })
    .flatten()
}

struct Follow {
    store: Store,
    key: String,
    watch: Option<Watch>,
}

impl Follow {
    /// The next events, at least one; `None` when the store is closed.
    async fn next(&mut self) -> Option<Vec<CustomEvent>> {
        loop {
            let Some(watch) = &mut self.watch else {
                let (items, revision) = list(&self.store, &self.key, None);
                // The list's revision has expired by now if the window is tiny: list again.
                if let Ok(watch) = self.store.watch(&self.key, revision) {
                    self.watch = Some(watch);
                    return Some(vec![CustomEvent::Listed(items.into())]);
                }
                tokio::task::yield_now().await;
                continue;
            };
            match watch.next().await {
                Ok(batch) => {
                    let changes = batch.changes.iter().map(|change| {
                        let is_deleted = change.kind == machinery_store::ChangeKind::Delete;
                        let object = ObjectRef::stored(change.object.clone());
                        let before = change.previous.clone().map(ObjectRef::stored);
                        match is_deleted {
                            // The last bytes say what the deletion itself changed.
                            true => CustomEvent::Changed(before.or(Some(object)), None),
                            false => CustomEvent::Changed(before, Some(object)),
                        }
                    });
                    return Some(changes.collect());
                }
                Err(WatchEnded::Lagged) => self.watch = None,
                Err(WatchEnded::Closed) => return None,
            }
        }
    }
}
