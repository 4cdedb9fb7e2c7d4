//! What waits for the writer.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::error::CommitError;
use crate::fields::IndexFields;
use crate::types::{Durability, Key, Op, Revision};

/// Requests that may wait; more wait outside, in the caller's task.
const QUEUE_REQUESTS_MAX: usize = 4096;

/// Operations of one commit group: enough to share its cost, little enough to keep the wait of the first one short.
const GROUP_OPS_MAX: usize = 1024;

pub(crate) type Answer = Result<Vec<Revision>, CommitError>;

/// What the writer is asked to do.
pub(crate) enum Request {
    Commit(Commit),
    Reindex(Reindex),
}

/// One commit on its way to the writer.
pub(crate) struct Commit {
    pub ops: Vec<Op>,
    pub durability: Durability,
    /// It leads to a deletion, so a full disk takes it.
    pub is_deletion: bool,
    pub answer: oneshot::Sender<Answer>,
    pub _permit: OwnedSemaphorePermit,
}

/// Other index fields for stored objects, on their way to the writer.
pub(crate) struct Reindex {
    /// Each object with the revision at which its fields were extracted.
    pub fields: Vec<(Key, Revision, IndexFields)>,
    /// Every object has the fields of this version now.
    pub version: Option<u32>,
    pub answer: oneshot::Sender<Result<(), CommitError>>,
    pub _permit: OwnedSemaphorePermit,
}

impl Request {
    fn size(&self) -> usize {
        match self {
            Self::Commit(commit) => commit.ops.len(),
            Self::Reindex(reindex) => reindex.fields.len(),
        }
    }
}

/// What waits for the writer. Its length is bounded by permits, taken before a request is made.
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    more: Condvar,
    permits: Arc<Semaphore>,
}

#[derive(Default)]
struct Waiting {
    requests: VecDeque<Request>,
    closed: bool,
}

impl Queue {
    pub fn new() -> Self {
        Self { waiting: Mutex::default(), more: Condvar::new(), permits: Arc::new(Semaphore::new(QUEUE_REQUESTS_MAX)) }
    }

    /// Requests that wait or are being written.
    pub fn len(&self) -> usize {
        QUEUE_REQUESTS_MAX.saturating_sub(self.permits.available_permits())
    }

    /// Waits until another request may wait.
    pub async fn permit(&self) -> Result<OwnedSemaphorePermit, CommitError> {
        self.permits.clone().acquire_owned().await.map_err(|_| CommitError::Closed)
    }

    /// A request pushed after [`close`](Self::close) is dropped, which its sender sees as closed.
    pub fn push(&self, request: Request) {
        let mut waiting = self.lock();
        if !waiting.closed {
            waiting.requests.push_back(request);
            self.more.notify_one();
        }
    }

    /// Takes no more requests; those that wait are still done.
    pub fn close(&self) {
        self.permits.close();
        self.lock().closed = true;
        self.more.notify_one();
    }

    /// Drops what waits, so that nobody waits for a writer that has ended.
    pub fn abandon(&self) {
        self.close();
        self.lock().requests.clear();
    }

    /// Waits for requests until `deadline`; returns what is there, and whether the queue is closed and empty.
    pub fn take(&self, deadline: Option<Instant>) -> (Vec<Request>, bool) {
        let mut waiting = self.lock();
        while waiting.requests.is_empty() && !waiting.closed {
            let Some(deadline) = deadline else {
                waiting = self.more.wait(waiting).expect(NO_PANIC);
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            waiting = self.more.wait_timeout(waiting, left).expect(NO_PANIC).0;
        }
        let mut ops = 0;
        let mut taken = Vec::new();
        while let Some(request) = waiting.requests.pop_front() {
            ops += request.size();
            taken.push(request);
            if ops >= GROUP_OPS_MAX {
                break;
            }
        }
        let closed = waiting.closed && taken.is_empty();
        (taken, closed)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect(NO_PANIC)
    }
}

const NO_PANIC: &str = "no panic happens while the queue is locked";
