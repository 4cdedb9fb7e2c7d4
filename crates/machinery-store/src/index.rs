//! Every live object and the change window, in memory.
//!
//! A plain structure: the writer applies changes, readers look. Objects are kept once; the set orders them by looking
//! into them, so an entry costs one pointer.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;

use tokio::sync::watch;

use crate::error::Expired;
use crate::types::{Change, ChangeKind, IndexFields, Key, Object, Range, Revision};
use crate::watch::FilteredQueue;

/// What a change costs in memory besides the bytes it keeps alive: the objects' structures and names.
const CHANGE_OVERHEAD_BYTES: usize = 256;

/// All resources of the store.
pub(crate) struct Index {
    /// The last revision given to a change that is visible.
    pub current: Revision,
    /// Revisions that a crash may have taken from lazy resources: first and last of each gap.
    pub gaps: Vec<(u64, u64)>,
    /// No more changes will come.
    pub closed: bool,
    /// The last durable write failed for lack of space.
    pub full: bool,
    /// The last durable write failed.
    pub failing: bool,
    kinds: HashMap<Arc<str>, Kind>,
    words: HashSet<Arc<str>>,
}

/// The objects and recent changes of one resource.
pub(crate) struct Kind {
    /// The newest change that left the window.
    pub horizon: Revision,
    /// Takes lazy writes, so that a gap concerns its watchers.
    pub lazy: bool,
    objects: BTreeSet<ByName>,
    object_bytes: usize,
    changes: VecDeque<Logged>,
    change_bytes: usize,
    wake: watch::Sender<()>,
    filtered: HashMap<Box<str>, QueuesByValue>,
}

/// The watchers of one field, found by the value they watch for.
type QueuesByValue = HashMap<Box<str>, Vec<Arc<FilteredQueue>>>;

/// A change and when it happened.
struct Logged {
    change: Arc<Change>,
    time_ms: u64,
}

/// How much of the past is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WindowLimits {
    pub age_ms: u64,
    pub changes_max: usize,
    pub bytes_max: usize,
}

impl Index {
    pub fn new() -> Self {
        Self {
            current: Revision(0),
            gaps: Vec::new(),
            closed: false,
            full: false,
            failing: false,
            kinds: HashMap::new(),
            words: HashSet::new(),
        }
    }

    /// The resource, made when it is first heard of.
    pub fn kind_mut(&mut self, resource: &str) -> &mut Kind {
        let resource = intern(&mut self.words, resource);
        self.kinds.entry(resource).or_insert_with(Kind::new)
    }

    pub fn kind(&self, resource: &str) -> Option<&Kind> {
        self.kinds.get(resource)
    }

    /// Per resource, the newest change that left the window.
    pub fn horizons(&self) -> BTreeMap<String, u64> {
        let trimmed = self.kinds.iter().filter(|(_, kind)| kind.horizon.0 > 0);
        trimmed.map(|(resource, kind)| (resource.to_string(), kind.horizon.0)).collect()
    }

    pub fn get(&self, key: &Key) -> Option<&Arc<Object>> {
        self.kinds.get(&key.resource)?.get(&key.namespace, &key.name)
    }

    /// Lets objects of one resource, namespace or set of fields share these words.
    pub fn share_words(&mut self, key: &mut Key, index: &mut IndexFields) {
        key.resource = intern(&mut self.words, &key.resource);
        key.namespace = intern(&mut self.words, &key.namespace);
        for (field, _) in index {
            *field = intern(&mut self.words, field);
        }
    }

    /// Makes a change visible. Watchers are woken by [`wake`](Self::wake), once per batch.
    pub fn apply(&mut self, change: Arc<Change>, time_ms: u64) {
        self.current = self.current.max(change.revision);
        let kind = self.kind_mut(&change.object.key.resource.clone());
        kind.apply(&change);
        kind.offer(&change);
        kind.log(change, time_ms);
    }

    pub fn wake(&self, resource: &str) {
        if let Some(kind) = self.kinds.get(resource) {
            kind.wake.send_replace(());
        }
    }

    /// Ends every watch.
    pub fn close(&mut self) {
        self.closed = true;
        for kind in self.kinds.values() {
            kind.wake.send_replace(());
            kind.filtered.values().flat_map(HashMap::values).flatten().for_each(|queue| queue.wake());
        }
    }

    /// Whether a watch or list may start at this revision.
    pub fn check(&self, resource: &str, asked: Revision) -> Result<(), Expired> {
        let kind = self.kinds.get(resource);
        let oldest = kind.map_or(Revision(0), |kind| kind.horizon);
        let lost = kind.is_some_and(|kind| kind.lazy)
            && self.gaps.iter().any(|(first, last)| (*first..=*last).contains(&asked.0));
        if asked < oldest || asked > self.current || lost {
            return Err(Expired { asked, oldest, current: self.current });
        }
        Ok(())
    }

    pub fn range(
        &self,
        resource: &str,
        namespace: Option<&str>,
        after: Option<(&str, &str)>,
        limit: Option<usize>,
        at: Option<Revision>,
    ) -> Result<Range, Expired> {
        let revision = at.unwrap_or(self.current);
        self.check(resource, revision)?;
        let Some(kind) = self.kinds.get(resource) else {
            return Ok(Range { items: Vec::new(), revision, remaining: 0 });
        };
        let limit = limit.unwrap_or(usize::MAX);
        let past = kind.past(revision);
        let (items, remaining) = if past.is_empty() {
            take(kind.objects_in(namespace, after).cloned(), limit)
        } else {
            take(kind.objects_in_past(&past, namespace, after), limit)
        };
        Ok(Range { items, revision, remaining })
    }

    /// Takes what is too old or too much out of the window; answers the rows that nothing needs any more.
    pub fn trim(&mut self, now_ms: u64, limits: WindowLimits) -> Vec<u64> {
        let mut rows = Vec::new();
        for kind in self.kinds.values_mut() {
            while kind.changes.len() > limits.changes_max
                || kind.changes.front().is_some_and(|logged| logged.time_ms.saturating_add(limits.age_ms) < now_ms)
            {
                kind.forget_oldest(&mut rows);
            }
        }
        let mut bytes: usize = self.kinds.values().map(|kind| kind.change_bytes).sum();
        while bytes > limits.bytes_max {
            // The resource that uses most gives first, so that busy leases do not shorten the history of pods.
            let Some(kind) = self.kinds.values_mut().max_by_key(|kind| kind.change_bytes) else { break };
            let before = kind.change_bytes;
            while kind.change_bytes > before / 2 && !kind.changes.is_empty() {
                kind.forget_oldest(&mut rows);
            }
            bytes -= before - kind.change_bytes;
        }
        rows
    }

    /// Live objects, their bytes, changes and their bytes.
    pub fn totals(&self) -> (usize, usize, usize, usize) {
        self.kinds.values().fold((0, 0, 0, 0), |sum, kind| {
            (
                sum.0 + kind.objects.len(),
                sum.1 + kind.object_bytes,
                sum.2 + kind.changes.len(),
                sum.3 + kind.change_bytes,
            )
        })
    }
}

impl Kind {
    fn new() -> Self {
        Self {
            horizon: Revision(0),
            lazy: false,
            objects: BTreeSet::new(),
            object_bytes: 0,
            changes: VecDeque::new(),
            change_bytes: 0,
            wake: watch::Sender::new(()),
            filtered: HashMap::new(),
        }
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<&Arc<Object>> {
        self.objects.get(&(namespace, name) as &dyn Name).map(|entry| &entry.0)
    }

    /// Puts an object of the past in place without a change; used when the rows are read at open.
    pub fn restore(&mut self, object: Arc<Object>) {
        self.object_bytes += object.bytes.len();
        if let Some(before) = self.objects.replace(ByName(object)) {
            self.object_bytes -= before.0.bytes.len();
        }
    }

    pub fn remove(&mut self, namespace: &str, name: &str) {
        if let Some(before) = self.objects.take(&(namespace, name) as &dyn Name) {
            self.object_bytes -= before.0.bytes.len();
        }
    }

    /// Adds a change to the window.
    pub fn log(&mut self, change: Arc<Change>, time_ms: u64) {
        self.change_bytes += change_cost(&change);
        self.changes.push_back(Logged { change, time_ms });
    }

    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.wake.subscribe()
    }

    /// The changes after a revision, oldest first.
    pub fn changes_after(&self, revision: Revision) -> impl Iterator<Item = &Arc<Change>> {
        let start = self.changes.partition_point(|logged| logged.change.revision <= revision);
        self.changes.range(start..).map(|logged| &logged.change)
    }

    pub fn add_filtered(&mut self, queue: &Arc<FilteredQueue>) {
        let by_value = self.filtered.entry(queue.field.clone()).or_default();
        by_value.entry(queue.value.clone()).or_default().push(queue.clone());
    }

    pub fn remove_filtered(&mut self, queue: &Arc<FilteredQueue>) {
        let Some(by_value) = self.filtered.get_mut(&queue.field) else { return };
        if let Some(queues) = by_value.get_mut(&queue.value) {
            queues.retain(|held| !Arc::ptr_eq(held, queue));
            if queues.is_empty() {
                by_value.remove(&queue.value);
            }
        }
        if by_value.is_empty() {
            self.filtered.remove(&queue.field);
        }
    }

    fn apply(&mut self, change: &Change) {
        match change.kind {
            ChangeKind::Put => self.restore(change.object.clone()),
            ChangeKind::Delete => self.remove(&change.object.key.namespace, &change.object.key.name),
        }
    }

    /// Hands a change to the watchers that asked for one of its fields.
    fn offer(&self, change: &Arc<Change>) {
        if self.filtered.is_empty() {
            return;
        }
        let before = change.previous.iter().flat_map(|object| object.index.iter());
        for (field, value) in change.object.index.iter().chain(before) {
            let queues = self.filtered.get(&**field).and_then(|by_value| by_value.get(value));
            queues.into_iter().flatten().for_each(|queue| queue.push(change));
        }
    }

    fn forget_oldest(&mut self, rows: &mut Vec<u64>) {
        let Some(Logged { change, .. }) = self.changes.pop_front() else { return };
        self.change_bytes -= change_cost(&change);
        self.horizon = change.revision;
        rows.extend(change.previous.as_ref().map(|object| object.revision.0));
        if change.kind == ChangeKind::Delete {
            rows.push(change.revision.0);
        }
    }

    fn objects_in<'a>(
        &'a self,
        namespace: Option<&'a str>,
        after: Option<(&str, &str)>,
    ) -> impl Iterator<Item = &'a Arc<Object>> {
        let first = (namespace.unwrap_or_default(), "");
        let start = match after {
            Some(after) if after >= first => Bound::Excluded(after),
            _ => Bound::Included(first),
        };
        let start = start.as_ref().map(|name| name as &dyn Name);
        self.objects
            .range::<dyn Name, _>((start, Bound::Unbounded))
            .map(|entry| &entry.0)
            .take_while(move |object| namespace.is_none_or(|namespace| *object.key.namespace == *namespace))
    }

    /// What was different at a revision: each object that changed since, as it was then.
    fn past(&self, revision: Revision) -> BTreeMap<ByName, Option<Arc<Object>>> {
        let mut past = BTreeMap::new();
        for change in self.changes_after(revision) {
            past.entry(ByName(change.object.clone())).or_insert_with(|| change.previous.clone());
        }
        past
    }

    fn objects_in_past<'a>(
        &'a self,
        past: &'a BTreeMap<ByName, Option<Arc<Object>>>,
        namespace: Option<&'a str>,
        after: Option<(&'a str, &'a str)>,
    ) -> impl Iterator<Item = Arc<Object>> + 'a {
        let unchanged = self
            .objects_in(namespace, after)
            .filter(|object| !past.contains_key(&(&*object.key.namespace, &*object.key.name) as &dyn Name))
            .cloned();
        let changed = past
            .values()
            .flatten()
            .filter(move |object| namespace.is_none_or(|namespace| *object.key.namespace == *namespace))
            .filter(move |object| after.is_none_or(|after| (&*object.key.namespace, &*object.key.name) > after))
            .cloned();
        Merge { left: unchanged.peekable(), right: changed.peekable() }
    }
}

fn take(mut objects: impl Iterator<Item = Arc<Object>>, limit: usize) -> (Vec<Arc<Object>>, usize) {
    let items = objects.by_ref().take(limit).collect();
    (items, objects.count())
}

fn change_cost(change: &Change) -> usize {
    let before = change.previous.as_ref().map_or(0, |object| object.bytes.len());
    let last = if change.kind == ChangeKind::Delete { change.object.bytes.len() } else { 0 };
    CHANGE_OVERHEAD_BYTES + before + last
}

fn intern(words: &mut HashSet<Arc<str>>, word: &str) -> Arc<str> {
    match words.get(word) {
        Some(held) => held.clone(),
        None => {
            let held: Arc<str> = word.into();
            words.insert(held.clone());
            held
        }
    }
}

/// Two ordered sequences as one.
struct Merge<A: Iterator, B: Iterator> {
    left: Peekable<A>,
    right: Peekable<B>,
}

impl<A, B> Iterator for Merge<A, B>
where
    A: Iterator<Item = Arc<Object>>,
    B: Iterator<Item = Arc<Object>>,
{
    type Item = Arc<Object>;

    fn next(&mut self) -> Option<Self::Item> {
        match (self.left.peek(), self.right.peek()) {
            (Some(left), Some(right)) if right.key < left.key => self.right.next(),
            (None, _) => self.right.next(),
            _ => self.left.next(),
        }
    }
}

/// Namespace and name, wherever they are kept: lets the set be searched by borrowed words.
trait Name {
    fn parts(&self) -> (&str, &str);
}

impl Name for (&str, &str) {
    fn parts(&self) -> (&str, &str) {
        *self
    }
}

impl Name for ByName {
    fn parts(&self) -> (&str, &str) {
        (&self.0.key.namespace, &self.0.key.name)
    }
}

impl PartialEq for dyn Name + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for dyn Name + '_ {}

impl PartialOrd for dyn Name + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for dyn Name + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts().cmp(&other.parts())
    }
}

/// An object, ordered and found by its name.
struct ByName(Arc<Object>);

impl<'a> Borrow<dyn Name + 'a> for ByName {
    fn borrow(&self) -> &(dyn Name + 'a) {
        self
    }
}

impl PartialEq for ByName {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for ByName {}

impl PartialOrd for ByName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts().cmp(&other.parts())
    }
}
