//! Following the changes of one resource.
//!
//! A watch is a position in the window of changes and keeps none of them alive; one that is slower than the window has
//! lagged. A watch of one field value reads from that value's channel, because changes of others must not wake it: a
//! thousand kubelets watch the pods of their own node each. A channel of a field without index begins when it is first
//! watched; what happened before is looked for in the window, in steps and without a lock.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::error::{Expired, WatchEnded};
use crate::history;
use crate::index::Index;
use crate::store::Shared;
use crate::types::{Change, Revision};

/// Enough to make a wake-up worth while, and little enough to encode without starving others.
const BATCH_CHANGES_MAX: usize = 500;

/// A batch is encoded as a whole, once for each watcher, so large objects come in small batches.
const BATCH_BYTES_MAX: usize = 256 << 10;

/// Chunks of the window that are searched in one step for changes that concern a value: about a millisecond's work.
const STEP_CHUNKS: usize = 16;

/// Some changes in order, at least one.
#[derive(Clone, Debug)]
pub struct Batch {
    /// At most 500 changes, and no more than 256 KiB of objects unless one alone is larger, by ascending revision.
    pub changes: Vec<Arc<Change>>,
    /// Nothing undelivered up to here.
    pub revision: Revision,
}

/// Follows one resource from a revision on. Made by [`Store::watch`](crate::Store::watch).
pub struct Watch {
    shared: Arc<Shared>,
    resource: Arc<str>,
    position: Revision,
    /// Field and value that a change must concern.
    filter: Option<(Box<str>, Box<str>)>,
    wake: Arc<Notify>,
}

/// What is there to be delivered.
enum Taken {
    Batch(Batch),
    /// The next step may find something.
    Searching,
    Nothing,
}

impl Watch {
    pub(crate) fn all(shared: &Arc<Shared>, resource: &str, from: Revision) -> Result<Self, Expired> {
        let resource: Arc<str> = resource.into();
        let mut index = shared.write();
        index.check(&resource, from)?;
        let kind = index.kind_mut(&resource);
        kind.watches += 1;
        let wake = kind.wake.clone();
        drop(index);
        Ok(Self { shared: shared.clone(), resource, position: from, filter: None, wake })
    }

    pub(crate) fn filtered(
        shared: &Arc<Shared>,
        resource: &str,
        from: Revision,
        field: &str,
        value: &str,
    ) -> Result<Self, Expired> {
        let resource: Arc<str> = resource.into();
        let mut index = shared.write();
        index.check(&resource, from)?;
        let current = index.current;
        let wake = index.kind_mut(&resource).watch_value(field, value, current);
        drop(index);
        let filter = Some((field.into(), value.into()));
        Ok(Self { shared: shared.clone(), resource, position: from, filter, wake })
    }

    /// Waits for changes. Dropping the future loses none.
    ///
    /// # Errors
    /// [`WatchEnded::Lagged`] when changes left the window unseen, [`WatchEnded::Closed`] when the store is closed and
    /// every change was delivered.
    pub async fn next(&mut self) -> Result<Batch, WatchEnded> {
        let wake = self.wake.clone();
        loop {
            // Made before looking: a change that comes in between wakes it.
            let woken = wake.notified();
            match self.take()? {
                Taken::Batch(batch) => return Ok(batch),
                Taken::Searching => tokio::task::yield_now().await,
                Taken::Nothing => woken.await,
            }
        }
    }

    /// Looks through a step of the window for something to deliver, and passes over what is not; says whether to continue. It
    /// delivers nothing: what it does [`next`](Self::next) need not do.
    pub fn skip(&mut self) -> bool {
        let before = self.position;
        match self.take() {
            Ok(Taken::Searching) => true,
            Ok(Taken::Batch(_)) => {
                self.position = before;
                false
            }
            // The next look finds the same.
            Ok(Taken::Nothing) | Err(_) => false,
        }
    }

    /// The revision up to which nothing is undelivered; it moves on even when only other objects change, so it is
    /// what a bookmark should carry.
    pub fn progress(&mut self) -> Revision {
        let shared = self.shared.clone();
        let index = shared.read();
        let Some(kind) = index.kind(&self.resource) else { return self.position };
        let current = index.current;
        let is_waiting = match &self.filter {
            // What left the window unseen was not delivered either: resuming there must say so.
            None => self.position < kind.compacted || kind.history.newest() > Some(self.position),
            Some((field, value)) => match kind.channel(field, value) {
                Some(channel) if self.position >= channel.complete_after => channel.newest() > Some(self.position),
                _ if self.position < kind.compacted => true,
                _ => {
                    let (chunks, _) = kind.history.chunks_after(self.position, usize::MAX);
                    drop(index);
                    let mut changes = chunks.iter().flat_map(|chunk| history::after(chunk, self.position));
                    changes.any(|change| change.touches(field, value))
                }
            },
        };
        if !is_waiting {
            self.position = current.max(self.position);
        }
        self.position
    }

    /// What is ready now.
    fn take(&mut self) -> Result<Taken, WatchEnded> {
        let shared = self.shared.clone();
        // The lock keeps the writer from adding a change between looking at the window and at the current revision.
        let index = shared.read();
        let Some(kind) = index.kind(&self.resource) else { return Err(WatchEnded::Closed) };
        let changes = match &self.filter {
            None if self.position < kind.compacted => return Err(WatchEnded::Lagged),
            None => batch(kind.history.after(self.position)),
            Some((field, value)) => match kind.channel(field, value) {
                Some(channel) if self.position >= channel.complete_after => batch(channel.after(self.position)),
                _ if self.position < kind.compacted => return Err(WatchEnded::Lagged),
                _ => {
                    let (chunks, is_all) = kind.history.chunks_after(self.position, STEP_CHUNKS);
                    let end = if is_all {
                        index.current
                    } else {
                        let last = chunks.last().and_then(|chunk| chunk.back());
                        last.map_or(index.current, |logged| logged.change.revision)
                    };
                    drop(index);
                    let found = batch(
                        chunks
                            .iter()
                            .flat_map(|chunk| history::after(chunk, self.position))
                            .filter(|change| change.touches(field, value)),
                    );
                    if found.is_empty() {
                        self.position = end.max(self.position);
                        return Ok(Taken::Searching);
                    }
                    return Ok(self.deliver(found));
                }
            },
        };
        if changes.is_empty() {
            return self.rest(&index);
        }
        drop(index);
        Ok(self.deliver(changes))
    }

    fn rest(&mut self, index: &Index) -> Result<Taken, WatchEnded> {
        if index.closed {
            return Err(WatchEnded::Closed);
        }
        self.position = index.current.max(self.position);
        Ok(Taken::Nothing)
    }

    fn deliver(&mut self, changes: Vec<Arc<Change>>) -> Taken {
        self.position = changes.last().map_or(self.position, |last| last.revision);
        Taken::Batch(Batch { changes, revision: self.position })
    }
}

/// As many changes as make a batch.
fn batch<'a>(changes: impl Iterator<Item = &'a Arc<Change>>) -> Vec<Arc<Change>> {
    let mut bytes = 0;
    let mut taken: Vec<Arc<Change>> = Vec::new();
    for change in changes.take(BATCH_CHANGES_MAX) {
        bytes += change.shown_bytes();
        if bytes > BATCH_BYTES_MAX && !taken.is_empty() {
            break;
        }
        taken.push(change.clone());
    }
    taken
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut index = self.shared.write();
        let kind = index.kind_mut(&self.resource);
        match &self.filter {
            None => kind.watches -= 1,
            Some((field, value)) => kind.unwatch_value(field, value),
        }
    }
}
