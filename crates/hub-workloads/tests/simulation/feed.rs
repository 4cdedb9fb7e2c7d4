//! What the controllers read: the store's objects and changes, as late as the simulation has them come.
//!
//! Changes of one kind come in their order, each after a delay of its own; those of different kinds overtake each other. A feed is
//! either *current*, as the embedded hub's reader is: what is read is there now, and only the events are late; or *behind*, as
//! watches of a real cluster are: what is read is what the events have shown so far.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use hub_runtime::kinds::{CustomResource, Kind};
use hub_runtime::{Change, CustomEvent, Event, Field, ObjectRef, Reader, StoreReader, Subscription};
use machinery_store::{ChangeKind, Object, Store, Watch, WatchEnded};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

type Name = (Box<str>, Box<str>);

/// A reader of a simulation.
pub(crate) struct Feed {
    store: Store,
    current: Arc<StoreReader>,
    is_behind: bool,
    kinds: Mutex<BTreeMap<Kind, KindFeed>>,
    random: Mutex<fastrand::Rng>,
    wake: Notify,
}

/// What an object is found by.
type Fields = Vec<(Field, Box<str>)>;

struct KindFeed {
    watch: Watch,
    objects: BTreeMap<Name, (ObjectRef, Fields)>,
    index: HashMap<(Field, Box<str>), BTreeSet<Name>>,
    revision: u64,
    waiting: VecDeque<(Instant, Waiting)>,
    delay_max: Duration,
    subscribers: Vec<mpsc::UnboundedSender<Event>>,
}

enum Waiting {
    Change {
        before: Option<ObjectRef>,
        after: Option<ObjectRef>,
        revision: u64,
    },
    /// The watch has ended and the kind is listed anew.
    List,
}

/// Changes are shown after this time when nothing is slow.
pub(crate) const DELAY_MAX: Duration = Duration::from_millis(20);

impl Feed {
    pub(crate) fn new(store: &Store, is_behind: bool, seed: u64) -> Arc<Self> {
        let mut kinds = BTreeMap::new();
        let read = hub_controllers::READ.iter().chain(hub_workloads::READ).chain(hub_scheduler::READ);
        for kind in read.copied() {
            kinds.entry(kind).or_insert_with(|| KindFeed::list(store, kind));
        }
        Arc::new(Self {
            store: store.clone(),
            current: StoreReader::new(store.clone()),
            is_behind,
            kinds: Mutex::new(kinds),
            random: Mutex::new(fastrand::Rng::with_seed(seed)),
            wake: Notify::new(),
        })
    }

    /// Takes what has changed out of the store, to be shown later.
    pub(crate) fn pump(&self) {
        let (mut kinds, mut random, now) = (self.kinds.lock(), self.random.lock(), Instant::now());
        let mut is_news = false;
        for feed in kinds.values_mut() {
            loop {
                match feed.watch.next().now_or_never() {
                    None | Some(Err(WatchEnded::Closed)) => break,
                    Some(Err(WatchEnded::Lagged)) => unreachable!("nothing leaves the window unseen in between"),
                    Some(Ok(batch)) => {
                        for change in batch.changes {
                            let delay = Duration::from_micros(
                                random.u64(0..=u64::try_from(feed.delay_max.as_micros()).unwrap_or(u64::MAX)),
                            );
                            let object = watched(&change.object);
                            let before = change.previous.as_ref().map(watched);
                            let revision = change.object.revision.0;
                            let (before, after) = match change.kind {
                                ChangeKind::Delete => (before.or(Some(object)), None),
                                ChangeKind::Put => (before, Some(object)),
                            };
                            let last = feed.waiting.back().map_or(now, |(at, _)| *at);
                            let waiting = Waiting::Change { before, after, revision };
                            feed.waiting.push_back(((now + delay).max(last), waiting));
                            is_news = true;
                        }
                    }
                }
            }
        }
        drop(kinds);
        if is_news {
            self.wake.notify_one();
        }
    }

    /// From now on, changes of the kind are shown this late at most.
    pub(crate) fn slow_down(&self, kind: Kind, delay_max: Duration) {
        if let Some(feed) = self.kinds.lock().get_mut(&kind) {
            feed.delay_max = delay_max;
        }
    }

    pub(crate) fn kinds(&self) -> Vec<Kind> {
        self.kinds.lock().keys().copied().collect()
    }

    /// The kind's watch ends, and after a while it is listed anew: what changed in between is never shown as changes.
    pub(crate) fn relist(&self, kind: Kind, after: Duration) {
        if let Some(feed) = self.kinds.lock().get_mut(&kind) {
            let at = feed.waiting.back().map_or_else(Instant::now, |(at, _)| *at).max(Instant::now() + after);
            feed.waiting.push_back((at, Waiting::List));
        }
        self.wake.notify_one();
    }

    /// Shows changes when they are due, until the hub stops.
    pub(crate) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        loop {
            let notified = self.wake.notified();
            self.show();
            let next = self.kinds.lock().values().filter_map(|feed| feed.waiting.front()).map(|(at, _)| *at).min();
            let due = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = notified => {}
                () = due => {}
            }
        }
    }

    fn show(&self) {
        let (mut kinds, now) = (self.kinds.lock(), Instant::now());
        loop {
            let due = kinds.iter().filter_map(|(kind, feed)| Some((feed.waiting.front()?.0, *kind))).min();
            let Some((_, kind)) = due.filter(|(at, _)| *at <= now) else { return };
            let feed = kinds.get_mut(&kind).expect("it was found above");
            let Some((_, waiting)) = feed.waiting.pop_front() else { return };
            let event = match waiting {
                Waiting::Change { before, after, revision } => {
                    // A list that was shown meanwhile has it already.
                    if revision <= feed.revision {
                        continue;
                    }
                    feed.revision = revision;
                    let name = after.as_ref().or(before.as_ref()).map(name_of).expect("a change has a version");
                    feed.set(kind, name, after.clone());
                    Event::Changed(Change { kind, previous: before, current: after })
                }
                Waiting::List => {
                    let subscribers = std::mem::take(&mut feed.subscribers);
                    let (delay_max, waiting) = (feed.delay_max, std::mem::take(&mut feed.waiting));
                    *feed = KindFeed { delay_max, waiting, subscribers, ..KindFeed::list(&self.store, kind) };
                    Event::Listed(kind, feed.listed())
                }
            };
            feed.subscribers.retain(|subscriber| subscriber.send(event.clone()).is_ok());
        }
    }
}

impl KindFeed {
    fn list(store: &Store, kind: Kind) -> Self {
        let snapshot = store.snapshot(kind.store_key());
        let revision = snapshot.revision();
        let watch = store.watch(kind.store_key(), revision).expect("nothing expires between two calls");
        let mut feed = Self {
            watch,
            objects: BTreeMap::new(),
            index: HashMap::new(),
            revision: revision.0,
            waiting: VecDeque::new(),
            delay_max: DELAY_MAX,
            subscribers: Vec::new(),
        };
        for object in snapshot.iter(None, None) {
            let object = watched(object);
            feed.set(kind, name_of(&object), Some(object));
        }
        feed
    }

    fn set(&mut self, kind: Kind, name: Name, object: Option<ObjectRef>) {
        if let Some((_, fields)) = self.objects.remove(&name) {
            for field in fields {
                if let Some(names) = self.index.get_mut(&field) {
                    names.remove(&name);
                }
            }
        }
        if let Some(object) = object {
            let fields = fields_of(kind, &object);
            for field in &fields {
                self.index.entry(field.clone()).or_default().insert(name.clone());
            }
            self.objects.insert(name, (object, fields));
        }
    }

    fn listed(&self) -> Arc<[ObjectRef]> {
        self.objects.values().map(|(object, _)| object.clone()).collect()
    }
}

fn watched(object: &Arc<Object>) -> ObjectRef {
    ObjectRef::watched(&object.key.namespace, &object.key.name, object.revision.0, object.bytes.clone())
}

fn name_of(object: &ObjectRef) -> Name {
    (object.namespace().into(), object.name().into())
}

fn fields_of(kind: Kind, object: &ObjectRef) -> Vec<(Field, Box<str>)> {
    let Ok(value) = object.value() else { return Vec::new() };
    let owners = value["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    let mut fields: Vec<(Field, Box<str>)> =
        owners.filter_map(|owner| Some((Field::OwnerUid, owner["uid"].as_str()?.into()))).collect();
    if let (Kind::Pod | Kind::NodeAssignment, Value::String(node)) = (kind, &value["spec"]["nodeName"]) {
        fields.push((Field::NodeName, node.as_str().into()));
    }
    if kind == Kind::Pod {
        let claims = object.claims();
        fields.extend(
            claims.iter().map(|claim| (Field::Claim, format!("{}/{claim}", object.namespace()).into_boxed_str())),
        );
    }
    fields
}

impl Reader for Feed {
    fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<ObjectRef> {
        if !self.is_behind {
            return self.current.get(kind, namespace, name);
        }
        let kinds = self.kinds.lock();
        kinds.get(&kind)?.objects.get(&(namespace.into(), name.into())).map(|(object, _)| object.clone())
    }

    fn list(&self, kind: Kind, namespace: Option<&str>) -> Box<dyn Iterator<Item = ObjectRef> + Send + '_> {
        if !self.is_behind {
            return self.current.list(kind, namespace);
        }
        let kinds = self.kinds.lock();
        let objects = kinds.get(&kind).into_iter().flat_map(|feed| feed.objects.values());
        let found = objects.filter(|(object, _)| namespace.is_none_or(|namespace| object.namespace() == namespace));
        Box::new(found.map(|(object, _)| object.clone()).collect::<Vec<_>>().into_iter())
    }

    fn by_field(&self, kind: Kind, field: Field, value: &str) -> Vec<ObjectRef> {
        if !self.is_behind {
            return self.current.by_field(kind, field, value);
        }
        let kinds = self.kinds.lock();
        let Some(feed) = kinds.get(&kind) else { return Vec::new() };
        let names = feed.index.get(&(field, value.into())).into_iter().flatten();
        names.filter_map(|name| feed.objects.get(name)).map(|(object, _)| object.clone()).collect()
    }

    fn subscribe(&self, kind: Kind) -> Subscription {
        let mut kinds = self.kinds.lock();
        let Some(feed) = kinds.get_mut(&kind) else { return futures::stream::pending().boxed() };
        let (events_tx, mut events_rx) = mpsc::unbounded_channel();
        let _ = events_tx.send(Event::Listed(kind, feed.listed()));
        feed.subscribers.push(events_tx);
        futures::stream::poll_fn(move |context| events_rx.poll_recv(context)).boxed()
    }

    fn get_custom(&self, resource: &CustomResource, namespace: &str, name: &str) -> Option<ObjectRef> {
        self.current.get_custom(resource, namespace, name)
    }

    fn list_custom(&self, resource: &CustomResource) -> Vec<ObjectRef> {
        self.current.list_custom(resource)
    }

    fn custom_by_owner(&self, resource: &CustomResource, uid: &str) -> Vec<ObjectRef> {
        self.current.custom_by_owner(resource, uid)
    }

    fn subscribe_custom(&self, _: &CustomResource) -> Option<BoxStream<'static, CustomEvent>> {
        None
    }

    fn has_synced(&self, _: Kind) -> bool {
        true
    }

    fn revision(&self, kind: Kind) -> u64 {
        match self.is_behind {
            true => self.kinds.lock().get(&kind).map_or(0, |feed| feed.revision),
            false => self.store.current().0,
        }
    }

    fn is_current(&self) -> bool {
        !self.is_behind
    }
}
