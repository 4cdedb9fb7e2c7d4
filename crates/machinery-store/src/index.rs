//! Everything that readers see, in memory: all resources at the newest visible revision.
//!
//! A plain structure under one lock. The writer holds it while it applies a commit group; readers hold it for as long as it
//! takes to look at one object or to take references (a snapshot, some chunks of a window), never while they walk.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::error::Expired;
use crate::history::Chunk;
use crate::kind::Kind;
use crate::snapshot::Snapshot;
use crate::types::{Change, Key, Object, Revision, Usage};

/// All resources of the store.
pub(crate) struct Index {
    /// The last revision given to a change that is visible.
    pub current: Revision,
    /// Revisions that a crash may have taken from lazy resources: first and last of each gap.
    pub gaps: Vec<(u64, u64)>,
    /// The same of all resources.
    pub lost: Vec<(u64, u64)>,
    /// No more changes will come.
    pub closed: bool,
    /// The disk has no space.
    pub full: bool,
    /// The last durable write failed.
    pub failing: bool,
    indexed: Arc<[&'static str]>,
    kinds: HashMap<Arc<str>, Kind>,
}

/// How much of the past is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WindowLimits {
    pub age_ms: u64,
    /// Per resource.
    pub changes_max: usize,
    /// Per resource, so that one that is busy does not live at the cost of all others even when they are idle.
    pub resource_bytes_max: usize,
    /// Of all resources together.
    pub bytes_max: usize,
}

/// What a list at some revision is made of.
pub(crate) enum State {
    /// The resource has not changed since.
    Same(Snapshot),
    /// It has changed: the present, and what to undo.
    Changed(Snapshot, Vec<Chunk>),
}

impl Index {
    pub fn new(indexed: &[&'static str]) -> Self {
        Self {
            current: Revision(0),
            gaps: Vec::new(),
            lost: Vec::new(),
            closed: false,
            full: false,
            failing: false,
            indexed: indexed.into(),
            kinds: HashMap::new(),
        }
    }

    /// The resource, created when it is first heard of.
    pub fn kind_mut(&mut self, resource: &Arc<str>) -> &mut Kind {
        let indexed = &self.indexed;
        self.kinds.entry(resource.clone()).or_insert_with(|| Kind::new(indexed.clone()))
    }

    pub fn kind(&self, resource: &str) -> Option<&Kind> {
        self.kinds.get(resource)
    }

    /// Per resource, the newest change that has left the window.
    pub fn compacted(&self) -> BTreeMap<String, u64> {
        let compacted = self.kinds.iter().filter(|(_, kind)| kind.compacted.0 > 0);
        compacted.map(|(resource, kind)| (resource.to_string(), kind.compacted.0)).collect()
    }

    pub fn get(&self, key: &Key) -> Option<&Arc<Object>> {
        self.kinds.get(&key.resource)?.objects.get(&key.namespace, &key.name)
    }

    /// The resource as it is now.
    pub fn snapshot(&self, resource: &str) -> Snapshot {
        match self.kinds.get(resource) {
            Some(kind) => kind.snapshot(self.current),
            None => Kind::new(self.indexed.clone()).snapshot(self.current),
        }
    }

    /// The resource as it was.
    pub fn state(&self, resource: &str, at: Revision) -> Result<State, Expired> {
        self.check(resource, at)?;
        let snapshot = self.snapshot(resource);
        match self.kinds.get(resource) {
            Some(kind) if kind.history.newest().is_some_and(|newest| newest > at) => {
                Ok(State::Changed(snapshot, kind.history.chunks_after(at, usize::MAX).0))
            }
            _ => Ok(State::Same(snapshot.rewind(&[], at))),
        }
    }

    /// The present, and the changes since `at` that concern a value of an indexed field.
    pub fn state_of(
        &self,
        resource: &str,
        (field, value): (&str, &str),
        at: Revision,
    ) -> Result<(Snapshot, Vec<Arc<Change>>), Expired> {
        self.check(resource, at)?;
        let kind = self.kinds.get(resource);
        Ok((self.snapshot(resource), kind.map_or_else(Vec::new, |kind| kind.changes_of(field, value, at))))
    }

    /// Makes a change visible. Watchers of the whole resource are woken by [`wake`](Self::wake), once per batch.
    pub fn apply(&mut self, change: Arc<Change>, time_ms: u64) {
        self.current = self.current.max(change.revision);
        let kind = self.kind_mut(&change.object.key.resource);
        kind.restore(change.kind, &change.object);
        kind.log(change, time_ms);
    }

    pub fn wake(&self, resource: &str) {
        if let Some(kind) = self.kinds.get(resource) {
            kind.wake.notify_waiters();
        }
    }

    /// Ends every watch.
    pub fn close(&mut self) {
        self.closed = true;
        self.kinds.values().for_each(Kind::wake_all);
    }

    /// Whether a watch or list may start at this revision.
    pub fn check(&self, resource: &str, asked: Revision) -> Result<(), Expired> {
        let kind = self.kinds.get(resource);
        let oldest = kind.map_or(Revision(0), |kind| kind.compacted);
        let is_in = |gaps: &[(u64, u64)]| gaps.iter().any(|(first, last)| (*first..=*last).contains(&asked.0));
        let lost = is_in(&self.lost) || (kind.is_some_and(|kind| kind.lazy) && is_in(&self.gaps));
        if asked < oldest || asked > self.current || lost {
            return Err(Expired { asked, oldest, current: self.current });
        }
        Ok(())
    }

    /// Takes what is too old out of the window; returns the rows that nothing needs any more.
    pub fn trim_old(&mut self, now_ms: u64, limits: WindowLimits) -> Vec<u64> {
        let mut rows = Vec::new();
        for kind in self.kinds.values_mut() {
            let is_old = |time_ms: u64| time_ms.saturating_add(limits.age_ms) < now_ms;
            while kind.history.oldest().is_some_and(|logged| is_old(logged.time_ms)) {
                kind.forget_oldest(&mut rows);
            }
        }
        rows
    }

    /// Takes what is too much out of the window; returns the rows that nothing needs any more.
    pub fn trim_large(&mut self, limits: WindowLimits) -> Vec<u64> {
        let mut rows = Vec::new();
        for kind in self.kinds.values_mut() {
            while kind.history.len() > limits.changes_max || kind.history.bytes() > limits.resource_bytes_max {
                kind.forget_oldest(&mut rows);
            }
        }
        let mut bytes: usize = self.kinds.values().map(|kind| kind.history.bytes()).sum();
        while bytes > limits.bytes_max {
            // The resource that uses most gives first, so that busy leases do not shorten the history of pods.
            let Some(kind) = self.kinds.values_mut().max_by_key(|kind| kind.history.bytes()) else { break };
            let before = kind.history.bytes();
            kind.forget_oldest(&mut rows);
            bytes -= before - kind.history.bytes();
        }
        rows
    }

    /// Gives up the older half of every window, when the disk has no space for history.
    pub fn trim_half(&mut self) -> Vec<u64> {
        let mut rows = Vec::new();
        for kind in self.kinds.values_mut() {
            for _ in 0..kind.history.len().div_ceil(2) {
                kind.forget_oldest(&mut rows);
            }
        }
        rows
    }

    /// Whether there are changes that will leave the window when they are old.
    pub fn has_changes(&self) -> bool {
        self.kinds.values().any(|kind| kind.history.len() > 0)
    }

    /// All objects, of one resource after the other.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.kinds.values().flat_map(|kind| kind.objects.range(None, None))
    }

    /// Every resource that has objects, as it is now.
    pub fn snapshots(&self) -> Vec<Snapshot> {
        let kinds = self.kinds.values().filter(|kind| kind.objects.len() > 0);
        kinds.map(|kind| kind.snapshot(self.current)).collect()
    }

    /// The part of the usage that is known here.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage { full: self.full, ..Usage::default() };
        for kind in self.kinds.values() {
            usage.objects += kind.objects.len();
            usage.object_bytes += kind.objects.object_bytes();
            usage.managed_bytes += kind.objects.managed_bytes();
            usage.index_bytes += kind.index_bytes();
            usage.changes += kind.history.len();
            usage.window_bytes += kind.history.bytes();
            usage.watches += kind.watches;
        }
        usage
    }
}
