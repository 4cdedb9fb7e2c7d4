//! One resource in memory: its objects, its window of recent changes, and the channels of those who watch a field value.
//!
//! A channel lists the changes of the window that concern one value of one field. Every value of an indexed field has one
//! as long as it has changes in the window; of other fields those that are watched. So a watcher of a value is a position,
//! as a watcher of everything is, and keeps nothing alive: what leaves the window leaves the channels with it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::Notify;

use crate::history::History;
use crate::objects::Objects;
use crate::snapshot::Snapshot;
use crate::types::{Change, ChangeKind, Object, Revision};

/// What a channel costs in memory besides the places of its changes.
const CHANNEL_BYTES: usize = 200;

pub(crate) struct Kind {
    /// The newest change that has left the window.
    pub compacted: Revision,
    /// Takes lazy writes, so that a gap concerns its watchers.
    pub lazy: bool,
    pub objects: Objects,
    pub history: History,
    /// Wakes the watchers of everything.
    pub wake: Arc<Notify>,
    /// Watchers of everything and of values.
    pub watches: usize,
    channels: HashMap<Box<str>, HashMap<Box<str>, Channel>>,
    channel_bytes: usize,
}

/// The changes of the window that concern one value of one field.
pub(crate) struct Channel {
    /// It has all of them after this revision. Of a field without index it has none from before it was first watched.
    pub complete_after: Revision,
    changes: VecDeque<Arc<Change>>,
    wake: Option<Arc<Notify>>,
    watches: usize,
}

impl Kind {
    pub fn new(indexed: Arc<[&'static str]>) -> Self {
        Self {
            compacted: Revision(0),
            lazy: false,
            objects: Objects::new(indexed),
            history: History::default(),
            wake: Arc::new(Notify::new()),
            watches: 0,
            channels: HashMap::new(),
            channel_bytes: 0,
        }
    }

    pub fn snapshot(&self, revision: Revision) -> Snapshot {
        Snapshot::new(self.objects.clone(), revision)
    }

    /// Memory beside the encoded bytes and the window.
    pub fn index_bytes(&self) -> usize {
        self.objects.index_bytes() + self.channel_bytes
    }

    /// Puts an object of the past in place without a change; used when the rows are read at open.
    pub fn restore(&mut self, kind: ChangeKind, object: &Arc<Object>) {
        match kind {
            ChangeKind::Put => self.objects.put(object.clone()),
            ChangeKind::Delete => self.objects.remove(&object.key.namespace, &object.key.name),
        }
    }

    /// Adds a change to the window and to the channels that it concerns, and wakes their watchers.
    pub fn log(&mut self, change: Arc<Change>, time_ms: u64) {
        for object in change.previous.iter().chain([&change.object]) {
            for (field, value) in object.index.iter() {
                self.offer(field, value, &change);
            }
        }
        self.history.push(change, time_ms);
    }

    /// Takes the oldest change out of the window; adds the rows that nothing needs any more.
    pub fn forget_oldest(&mut self, rows: &mut Vec<u64>) {
        let Some(change) = self.history.pop_oldest() else { return };
        self.compacted = change.revision;
        for object in change.previous.iter().chain([&change.object]) {
            for (field, value) in object.index.iter() {
                self.withdraw(field, value, change.revision);
            }
        }
        rows.extend(change.previous.as_ref().map(|object| object.revision.0));
        if change.kind == ChangeKind::Delete {
            rows.push(change.revision.0);
        }
    }

    /// The changes of an indexed value after a revision.
    pub fn changes_of(&self, field: &str, value: &str, after: Revision) -> Vec<Arc<Change>> {
        self.channel(field, value).map_or_else(Vec::new, |channel| channel.after(after).cloned().collect())
    }

    pub fn channel(&self, field: &str, value: &str) -> Option<&Channel> {
        self.channels.get(field)?.get(value)
    }

    /// Registers a watcher of a value; `current` is the newest revision there is.
    pub fn watch_value(&mut self, field: &str, value: &str, current: Revision) -> Arc<Notify> {
        let complete_after = if self.objects.indexed(field).is_some() { self.compacted } else { current };
        let channels = self.channels.entry(field.into()).or_default();
        let channel = channels.entry(value.into()).or_insert_with(|| {
            self.channel_bytes += CHANNEL_BYTES + value.len();
            Channel::new(complete_after)
        });
        channel.watches += 1;
        self.watches += 1;
        channel.wake.get_or_insert_default().clone()
    }

    /// A watcher of a value has ended, and with the last one what was kept for them alone.
    pub fn unwatch_value(&mut self, field: &str, value: &str) {
        self.watches -= 1;
        let is_indexed = self.objects.indexed(field).is_some();
        let Some(channel) = self.channels.get_mut(field).and_then(|channels| channels.get_mut(value)) else { return };
        channel.watches -= 1;
        if channel.watches == 0 {
            channel.wake = None;
            if !is_indexed || channel.changes.is_empty() {
                self.remove_channel(field, value);
            }
        }
    }

    /// Wakes every watcher, because there will be no more changes.
    pub fn wake_all(&self) {
        self.wake.notify_waiters();
        let channels = self.channels.values().flat_map(HashMap::values);
        channels.filter_map(|channel| channel.wake.as_ref()).for_each(|wake| wake.notify_waiters());
    }

    fn offer(&mut self, field: &str, value: &str, change: &Arc<Change>) {
        let channel = self.channels.get_mut(field).and_then(|channels| channels.get_mut(value));
        let channel = match channel {
            Some(channel) => channel,
            None if self.objects.indexed(field).is_some() => {
                self.channel_bytes += CHANNEL_BYTES + value.len();
                let channels = self.channels.entry(field.into()).or_default();
                channels.entry(value.into()).or_insert_with(|| Channel::new(self.compacted))
            }
            None => return,
        };
        // An object that has the value before and after offers its change twice.
        if channel.changes.back().is_none_or(|newest| newest.revision < change.revision) {
            channel.changes.push_back(change.clone());
            self.channel_bytes += size_of::<Arc<Change>>();
            if let Some(wake) = &channel.wake {
                wake.notify_waiters();
            }
        }
    }

    fn withdraw(&mut self, field: &str, value: &str, revision: Revision) {
        let Some(channel) = self.channels.get_mut(field).and_then(|channels| channels.get_mut(value)) else { return };
        if channel.changes.front().is_some_and(|oldest| oldest.revision == revision) {
            channel.changes.pop_front();
            channel.complete_after = channel.complete_after.max(revision);
            self.channel_bytes -= size_of::<Arc<Change>>();
            if channel.changes.is_empty() && channel.watches == 0 {
                self.remove_channel(field, value);
            }
        }
    }

    fn remove_channel(&mut self, field: &str, value: &str) {
        let Some(channels) = self.channels.get_mut(field) else { return };
        if let Some(channel) = channels.remove(value) {
            self.channel_bytes -= CHANNEL_BYTES + value.len() + channel.changes.len() * size_of::<Arc<Change>>();
        }
        if channels.is_empty() {
            self.channels.remove(field);
        }
    }
}

impl Channel {
    fn new(complete_after: Revision) -> Self {
        Self { complete_after, changes: VecDeque::new(), wake: None, watches: 0 }
    }

    /// The changes after a revision, oldest first.
    pub fn after(&self, revision: Revision) -> impl Iterator<Item = &Arc<Change>> {
        let start = self.changes.partition_point(|change| change.revision <= revision);
        self.changes.range(start..)
    }

    /// The revision of the newest change.
    pub fn newest(&self) -> Option<Revision> {
        self.changes.back().map(|change| change.revision)
    }
}
