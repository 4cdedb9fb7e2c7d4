//! The one thread that decides every write.
//!
//! It takes all that waits in the queue, checks each request against the index and the requests before it, encodes what
//! is accepted, makes the lot durable in one flush, and only then applies and answers it. Lazy writes alone skip the
//! flush: they are applied at once and go to the disk with the next flush, at most a second later.
//!
//! When a flush fails, its requests are answered with the failure and their revisions are not used again. Whether the
//! disk took the rows is not known then, so the next flush removes them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tracing::{error, info, warn};

use crate::codec::{self, Meta};
use crate::engine::{Batch, Engine, EngineError};
use crate::error::CommitError;
use crate::index::WindowLimits;
use crate::store::{Clock, Shared};
use crate::types::{Change, ChangeKind, Durability, Expect, IndexFields, Key, Object, Op, Revision};

/// Requests that may wait; more wait outside, in the caller's task.
const QUEUE_REQUESTS_MAX: usize = 4096;

/// Operations of one flush: enough to share its cost, little enough to keep the wait of the first one short.
const FLUSH_OPS_MAX: usize = 1024;

/// Revisions reserved on disk at a time for lazy writes. A crash skips at most this many.
const RESERVE_BLOCK: u64 = 10_000;

/// Lazy writes that may wait for a disk that does not take them; then lazy writes fail too.
const LAZY_BYTES_MAX: usize = 16 << 20;

/// A disk that failed is tried again after this, also when nobody asks.
const RETRY_PERIOD: Duration = Duration::from_secs(1);

/// How often the change window is trimmed while there are writes.
const TRIM_PERIOD: Duration = Duration::from_secs(10);

/// Rows out of the window wait this long for a write to go along with, so that an idle hub does not write.
const TRIM_FLUSH_MAX: Duration = Duration::from_secs(60);

type Answer = Result<Vec<Revision>, CommitError>;

/// One commit on its way to the writer.
pub(crate) struct Request {
    pub ops: Vec<Op>,
    pub durability: Durability,
    pub answer: oneshot::Sender<Answer>,
    pub _permit: OwnedSemaphorePermit,
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

    /// Waits until there is room.
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

    /// Drops what waits, so that nobody waits for a writer that is gone.
    fn abandon(&self) {
        self.close();
        self.lock().requests.clear();
    }

    /// Waits for requests until `deadline`; answers what is there, and whether the queue is closed and empty.
    fn take(&self, deadline: Option<Instant>) -> (Vec<Request>, bool) {
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
            ops += request.ops.len();
            taken.push(request);
            if ops >= FLUSH_OPS_MAX {
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

/// The writer's own state. The index is shared, the rest is the writer's alone.
pub(crate) struct Writer<E> {
    pub shared: Arc<Shared>,
    pub engine: E,
    pub limits: WindowLimits,
    pub lazy_flush_max: Duration,
    pub clock: Clock,
    /// The last revision given.
    pub last: u64,
    /// The bookkeeping as it should be on disk.
    pub meta: Meta,
    /// It is not on disk as it should be. Until it is, nothing may be answered.
    pub meta_due: bool,
    /// Applied but not on disk: lazy rows, and rows to remove.
    pub pending: Batch,
    pub pending_bytes: usize,
    /// When the pending rows must be on disk.
    pub flush_by: Option<Instant>,
    pub trimmed_at: Instant,
}

/// A change that is decided but not yet visible.
struct Staged {
    change: Arc<Change>,
    row: Vec<u8>,
}

/// The requests of one flush as they are decided: later ones see what earlier ones did.
#[derive(Default)]
struct Round {
    staged: Vec<Staged>,
    latest: HashMap<Key, Option<Arc<Object>>>,
    accepted: Vec<(oneshot::Sender<Answer>, Vec<Revision>)>,
    refused: Vec<(oneshot::Sender<Answer>, CommitError)>,
    durable: bool,
}

impl<E: Engine> Writer<E> {
    /// Works until the queue is closed and empty, then leaves the disk as a clean close does.
    pub fn run(mut self) {
        let _ends = EndsWatches(self.shared.clone());
        loop {
            let (requests, closed) = self.shared.queue.take(self.flush_by);
            if !requests.is_empty() {
                self.work(requests);
            }
            if closed {
                break;
            }
            self.trim();
            if self.flush_by.is_some_and(|by| by <= Instant::now()) {
                self.flush_pending();
            }
        }
        self.meta.closed_at = Some(self.last);
        self.meta.reserved = self.last;
        self.meta_due = true;
        // A failure is told by `flush`; the next start then treats it as a crash, which costs nothing but a gap.
        let _ = self.flush(&mut []);
    }

    /// Records that the store is in use, so that the next start knows a crash from a clean close.
    ///
    /// On a full disk this has to wait; until it is recorded, every commit tries it first.
    pub fn mark_open(&mut self) {
        self.meta.closed_at = None;
        self.meta_due = true;
        self.flush_pending();
    }

    fn work(&mut self, requests: Vec<Request>) {
        let mut round = Round::default();
        for request in requests {
            self.decide(request, &mut round);
        }
        let now = round.durable || self.meta_due;
        let result = if round.staged.is_empty() {
            Ok(())
        } else if now {
            self.flush(&mut round.staged)
        } else if self.pending_bytes > LAZY_BYTES_MAX {
            Err(EngineError::Full)
        } else {
            self.keep_pending(&mut round.staged);
            Ok(())
        };
        match result {
            Ok(()) => {
                self.apply(round.staged);
                round.accepted.into_iter().for_each(|(answer, revisions)| drop(answer.send(Ok(revisions))));
            }
            Err(error) => {
                let error = match error {
                    EngineError::Full => CommitError::Full,
                    EngineError::Io(reason) => CommitError::Io(reason),
                };
                round.accepted.into_iter().for_each(|(answer, _)| drop(answer.send(Err(error.clone()))));
            }
        }
        round.refused.into_iter().for_each(|(answer, error)| drop(answer.send(Err(error))));
    }

    /// Checks all operations of a request before encoding any, so that a refused request leaves no trace.
    fn decide(&mut self, request: Request, round: &mut Round) {
        let Request { ops, durability, answer, .. } = request;
        if let Err(error) = self.check(&ops, round) {
            round.refused.push((answer, error));
            return;
        }
        let time_ms = (self.clock)();
        let staged_before = round.staged.len();
        let mut before = Vec::with_capacity(ops.len());
        let mut revisions = Vec::with_capacity(ops.len());
        for op in ops {
            self.last += 1;
            let revision = Revision(self.last);
            let (change, row) = self.encode(op, revision, time_ms, round);
            let key = change.object.key.clone();
            if !codec::fits(&key, &change.object.bytes, &change.object.index) {
                // Take back what this request staged; its revisions are lost, which harms nobody.
                round.staged.truncate(staged_before);
                before.into_iter().rev().for_each(|(key, latest)| restore(&mut round.latest, key, latest));
                round.refused.push((answer, CommitError::Io(format!("{key} is too large for the store"))));
                return;
            }
            let latest = (change.kind == ChangeKind::Put).then(|| change.object.clone());
            before.push((key.clone(), round.latest.insert(key, latest)));
            round.staged.push(Staged { change, row });
            revisions.push(revision);
        }
        if durability == Durability::Lazy {
            for staged in &round.staged[staged_before..] {
                let resource = &staged.change.object.key.resource;
                if !self.meta.lazy.contains(&**resource) {
                    self.meta.lazy.insert(resource.to_string());
                    self.meta_due = true;
                }
            }
            if self.last > self.meta.reserved {
                self.meta.reserved = self.last + RESERVE_BLOCK;
                self.meta_due = true;
            }
        } else {
            round.durable = true;
        }
        round.accepted.push((answer, revisions));
    }

    fn check(&self, ops: &[Op], round: &Round) -> Result<(), CommitError> {
        let mut planned: HashMap<&Key, Option<Revision>> = HashMap::new();
        for (revision, op) in (self.last + 1..).zip(ops) {
            let (key, expect, delete) = match op {
                Op::Put { key, expect, .. } => (key, expect, false),
                Op::Delete { key, expect, .. } => (key, expect, true),
            };
            let current = match planned.get(key) {
                Some(planned) => *planned,
                None => self.latest(key, round).map(|object| object.revision),
            };
            match (expect, current) {
                (Expect::Absent, Some(current)) => return Err(CommitError::Conflict { current }),
                (Expect::Revision(asked), Some(current)) if *asked != current => {
                    return Err(CommitError::Conflict { current });
                }
                (Expect::Revision(_), None) => return Err(CommitError::NotFound),
                (_, None) if delete => return Err(CommitError::NotFound),
                _ => {}
            }
            planned.insert(key, (!delete).then_some(Revision(revision)));
        }
        Ok(())
    }

    fn latest(&self, key: &Key, round: &Round) -> Option<Arc<Object>> {
        match round.latest.get(key) {
            Some(staged) => staged.clone(),
            None => self.shared.read().get(key).cloned(),
        }
    }

    fn encode(&self, op: Op, revision: Revision, time_ms: u64, round: &Round) -> (Arc<Change>, Vec<u8>) {
        let (kind, mut key, bytes, mut index, previous) = match op {
            Op::Put { key, encode, .. } => {
                let previous = self.latest(&key, round);
                let (bytes, index) = encode(revision);
                (ChangeKind::Put, key, bytes, index, previous)
            }
            Op::Delete { key, final_bytes, .. } => {
                let previous = self.latest(&key, round);
                // The final version is selected by what the object last was.
                let index = previous.as_ref().map_or_else(IndexFields::default, |object| object.index.clone());
                (ChangeKind::Delete, key, final_bytes(revision), index, previous)
            }
        };
        self.shared.write().share_words(&mut key, &mut index);
        let created = previous.as_ref().map_or(revision, |object| object.created);
        let object = Arc::new(Object { key, revision, created, bytes, index });
        let row = if codec::fits(&object.key, &object.bytes, &object.index) {
            codec::encode_row(kind, time_ms, previous.as_ref().map(|object| object.revision), &object)
        } else {
            Vec::new()
        };
        (Arc::new(Change { kind, revision, object, previous }), row)
    }

    /// Leaves staged rows for the next flush.
    fn keep_pending(&mut self, staged: &mut [Staged]) {
        for staged in staged {
            self.pending_bytes += staged.row.len();
            self.pending.puts.push((staged.change.revision.0, std::mem::take(&mut staged.row)));
        }
        self.flush_within(self.lazy_flush_max);
    }

    fn flush_within(&mut self, wait: Duration) {
        let by = Instant::now() + wait;
        self.flush_by = Some(self.flush_by.map_or(by, |flush_by| flush_by.min(by)));
    }

    fn flush_pending(&mut self) {
        // A failure is told by `flush`, which also sets the next try.
        let _ = self.flush(&mut []);
    }

    /// Makes everything pending and the staged rows durable, or keeps the pending and gives up the staged.
    fn flush(&mut self, staged: &mut [Staged]) -> Result<(), EngineError> {
        let mut batch = std::mem::take(&mut self.pending);
        let pending_rows = batch.puts.len();
        batch.puts.extend(staged.iter_mut().map(|staged| (staged.change.revision.0, std::mem::take(&mut staged.row))));
        if self.meta_due || !batch.removes.is_empty() {
            // A removed row may be the only witness of the last revision.
            self.meta.reserved = self.meta.reserved.max(self.last);
            batch.meta = Some(serde_json::to_vec(&self.meta).expect("the bookkeeping has string keys only"));
        }
        let result = if batch.is_empty() { Ok(()) } else { self.engine.commit(&batch) };
        self.shared.set_disk_bytes(self.engine.disk_bytes());
        self.tell(&result);
        match &result {
            Ok(()) => {
                self.pending_bytes = 0;
                self.flush_by = None;
                self.meta_due = false;
            }
            Err(_) => {
                batch.removes.extend(batch.puts.drain(pending_rows..).map(|(revision, _)| revision));
                // Made anew next time, because it goes with what is pending then.
                batch.meta = None;
                self.pending = batch;
                self.flush_by = Some(Instant::now() + RETRY_PERIOD);
            }
        }
        result
    }

    /// Logs the first failure and the recovery, not each try between them.
    fn tell(&self, result: &Result<(), EngineError>) {
        let mut index = self.shared.write();
        match result {
            Ok(()) if index.failing => info!("The store's disk takes writes again."),
            Err(EngineError::Full) if !index.failing => warn!("The store's disk is full; writes are refused."),
            Err(EngineError::Io(reason)) if !index.failing => error!(%reason, "The store's disk fails."),
            _ => {}
        }
        index.failing = result.is_err();
        index.full = matches!(result, Err(EngineError::Full));
    }

    /// Shows staged changes to readers and watchers.
    fn apply(&mut self, staged: Vec<Staged>) {
        let time_ms = (self.clock)();
        let mut resources = HashSet::new();
        let mut index = self.shared.write();
        for Staged { change, .. } in staged {
            let resource = change.object.key.resource.clone();
            if self.meta.lazy.contains(&*resource) {
                index.kind_mut(&resource).lazy = true;
            }
            index.apply(change, time_ms);
            resources.insert(resource);
        }
        resources.iter().for_each(|resource| index.wake(resource));
    }

    fn trim(&mut self) {
        let mut index = self.shared.write();
        if self.trimmed_at.elapsed() >= TRIM_PERIOD {
            self.trimmed_at = Instant::now();
            let rows = index.trim((self.clock)(), self.limits);
            if !rows.is_empty() {
                self.meta.horizons = index.horizons();
                self.pending.removes.extend(rows);
            }
        }
        let (_, _, changes, _) = index.totals();
        drop(index);
        if changes > 0 || !self.pending.removes.is_empty() {
            self.flush_within(TRIM_FLUSH_MAX);
        }
    }
}

fn restore(latest: &mut HashMap<Key, Option<Arc<Object>>>, key: Key, before: Option<Option<Arc<Object>>>) {
    match before {
        Some(before) => latest.insert(key, before),
        None => latest.remove(&key),
    };
}

/// Ends watches and waiting commits when the writer ends, also by a panic in an encoding closure.
struct EndsWatches(Arc<Shared>);

impl Drop for EndsWatches {
    fn drop(&mut self) {
        self.0.queue.abandon();
        self.0.write().close();
    }
}
