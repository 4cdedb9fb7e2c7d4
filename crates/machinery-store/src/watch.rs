//! Following the changes of one resource.
//!
//! A watch of everything is a position in the change window and costs nothing while it waits; one that is slower than
//! the window has lagged. A watch of one field value has a short queue of its own, because changes of others must not
//! wake it: a thousand kubelets watch the pods of their own node each.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{Notify, watch};

use crate::error::{Expired, WatchEnded};
use crate::store::Shared;
use crate::types::{Change, Revision};

/// Enough to make a wake-up worth while, and little enough to encode without starving others.
const BATCH_CHANGES_MAX: usize = 500;

/// A watcher of one field that is this far behind is stuck; changes from before the watch began come on top.
const FILTERED_QUEUE_MAX: usize = 1_000;

/// Some changes in order, at least one.
#[derive(Clone, Debug)]
pub struct Batch {
    /// At most 500 changes, by ascending revision.
    pub changes: Vec<Arc<Change>>,
    /// Nothing undelivered up to here.
    pub revision: Revision,
}

/// Follows one resource from a revision on. Made by [`Store::watch`](crate::Store::watch).
pub struct Watch {
    shared: Arc<Shared>,
    resource: Arc<str>,
    position: Revision,
    source: Source,
}

enum Source {
    All { wake: watch::Receiver<()> },
    Filtered(Arc<FilteredQueue>),
}

impl Watch {
    pub(crate) fn all(shared: &Arc<Shared>, resource: &str, from: Revision) -> Result<Self, Expired> {
        let mut index = shared.write();
        index.check(resource, from)?;
        let source = Source::All { wake: index.kind_mut(resource).subscribe() };
        Ok(Self { shared: shared.clone(), resource: resource.into(), position: from, source })
    }

    pub(crate) fn filtered(
        shared: &Arc<Shared>,
        resource: &str,
        from: Revision,
        field: &str,
        value: &str,
    ) -> Result<Self, Expired> {
        let mut index = shared.write();
        index.check(resource, from)?;
        let kind = index.kind_mut(resource);
        let since: VecDeque<_> =
            kind.changes_after(from).filter(|change| change.touches(field, value)).cloned().collect();
        let queue = Arc::new(FilteredQueue {
            field: field.into(),
            value: value.into(),
            changes_max: since.len() + FILTERED_QUEUE_MAX,
            waiting: Mutex::new(Waiting { changes: since, lagged: false }),
            wake: Notify::new(),
        });
        kind.add_filtered(&queue);
        drop(index);
        Ok(Self { shared: shared.clone(), resource: resource.into(), position: from, source: Source::Filtered(queue) })
    }

    /// Waits for changes. Dropping the future loses none.
    ///
    /// # Errors
    /// [`WatchEnded::Lagged`] when changes left the window unseen, [`WatchEnded::Closed`] when the store is closed and
    /// every change was delivered.
    pub async fn next(&mut self) -> Result<Batch, WatchEnded> {
        loop {
            if let Source::All { wake } = &mut self.source {
                wake.borrow_and_update();
            }
            if let Some(batch) = self.take()? {
                return Ok(batch);
            }
            match &mut self.source {
                Source::All { wake } => wake.changed().await.map_err(|_| WatchEnded::Closed)?,
                Source::Filtered(queue) => queue.wake.notified().await,
            }
        }
    }

    /// The revision up to which nothing is undelivered; it moves on even when only other objects change, so it is
    /// what a bookmark should carry.
    pub fn progress(&mut self) -> Revision {
        let index = self.shared.read();
        let waiting = match &self.source {
            Source::All { .. } => {
                // What left the window unseen was not delivered either: resuming there must tell so.
                let is_behind = |position| {
                    index
                        .kind(&self.resource)
                        .is_some_and(|kind| position < kind.horizon || kind.changes_after(position).next().is_some())
                };
                is_behind(self.position)
            }
            Source::Filtered(queue) => queue.is_waiting(),
        };
        if !waiting {
            self.position = index.current.max(self.position);
        }
        self.position
    }

    /// What is ready now.
    fn take(&mut self) -> Result<Option<Batch>, WatchEnded> {
        // The lock keeps the writer from adding a change between looking at the window and at the current revision.
        let index = self.shared.read();
        let changes: Vec<_> = match &self.source {
            Source::All { .. } => match index.kind(&self.resource) {
                Some(kind) if self.position < kind.horizon => return Err(WatchEnded::Lagged),
                Some(kind) => kind.changes_after(self.position).take(BATCH_CHANGES_MAX).cloned().collect(),
                None => Vec::new(),
            },
            Source::Filtered(queue) => queue.take()?,
        };
        self.position = match changes.last() {
            Some(last) => last.revision,
            None if index.closed => return Err(WatchEnded::Closed),
            None => index.current.max(self.position),
        };
        Ok((!changes.is_empty()).then_some(Batch { changes, revision: self.position }))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Source::Filtered(queue) = &self.source {
            self.shared.write().kind_mut(&self.resource).remove_filtered(queue);
        }
    }
}

/// Changes for a watcher of one field value; the writer pushes, the watcher takes.
pub(crate) struct FilteredQueue {
    pub field: Box<str>,
    pub value: Box<str>,
    changes_max: usize,
    waiting: Mutex<Waiting>,
    wake: Notify,
}

struct Waiting {
    changes: VecDeque<Arc<Change>>,
    lagged: bool,
}

impl FilteredQueue {
    pub fn push(&self, change: &Arc<Change>) {
        let mut waiting = self.lock();
        // An object that has the field value before and after offers its change twice.
        if waiting.lagged || waiting.changes.back().is_some_and(|last| last.revision == change.revision) {
            return;
        }
        if waiting.changes.len() >= self.changes_max {
            *waiting = Waiting { changes: VecDeque::new(), lagged: true };
        } else {
            waiting.changes.push_back(change.clone());
        }
        drop(waiting);
        self.wake();
    }

    pub fn wake(&self) {
        self.wake.notify_one();
    }

    fn take(&self) -> Result<Vec<Arc<Change>>, WatchEnded> {
        let mut waiting = self.lock();
        if waiting.lagged {
            return Err(WatchEnded::Lagged);
        }
        let count = waiting.changes.len().min(BATCH_CHANGES_MAX);
        Ok(waiting.changes.drain(..count).collect())
    }

    fn is_waiting(&self) -> bool {
        let waiting = self.lock();
        waiting.lagged || !waiting.changes.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no panic happens while the queue is locked")
    }
}
