//! The one thread that decides every write.
//!
//! Start here to understand the store: everything else is either a question that this thread answers (is the object as
//! expected?) or a consequence of what it did (an index, a window of changes, a watcher that wakes).
//!
//! # What is promised
//!
//! 1. A commit that was answered is on the disk, except a lazy one, which is there within a second.
//! 2. Revisions only grow, and one that was answered is never given to another change, whatever happens to the machine.
//! 3. What is on the disk is a prefix of the history: never a later change without an earlier one.
//! 4. Readers see a change after it is safe (or lazy), never before, and all of a commit or nothing.
//! 5. What a client can make this thread keep is bounded: requests ([`crate::queue`]), a commit group, lazy rows that wait
//!    for a disk, the window.
//!
//! An fsync takes a hundred times as long as deciding a write, so writes that wait together share one: that is a commit
//! group. Deciding is sequential and cheap, so there is one thread and no lock but the one that readers share.
//!
//! # How a commit goes
//!
//! ```text
//! queue ─▶ decide ─▶ encode ─▶ flush ─────────▶ apply ─▶ answer
//!          expect?   with its  rows + removes   index,   the caller's
//!          in order  revision  + bookkeeping,   window,  oneshot
//!                              one transaction  wake
//! ```
//!
//! *Decide* checks all expectations of a request against the index and against what the group has staged before it, so a
//! request that is rejected leaves no trace. *Encode* runs the caller's closures, now that the revision is known. *Flush*
//! hands the engine everything at once. *Apply* shows it. The order is what the promises rest on: nothing is encoded that
//! may be rejected for its expectations, nothing shown that is not safe, nothing answered that is not shown.
//!
//! A lazy group skips the flush, unless more waits already than should: it is applied and answered, and its rows are
//! *pending*. Every later flush takes the pending rows along, before its own, which keeps promise 3.
//!
//! # What is on the disk
//!
//! An ordered table from revision to row ([`crate::codec`]), and one blob of bookkeeping ([`Meta`]). A row is one version of
//! one object. It stays when it is superseded, until the change that superseded it leaves the window: the rows are the
//! history. So an append is all that a write costs, and a start reads the rows in order and has objects and window again.
//!
//! The bookkeeping goes with a flush when it has changed, in the same transaction:
//!
//! - `reserved`: no revision up to here may be given again. Durable rows witness their own revision. A lazy revision is
//!   answered before its row is safe, so a block of 10,000 is reserved on the disk before the first of them is given. A row
//!   that is removed may have been the last witness, so a flush with removes raises it too.
//! - `closed_at`: the last revision of a clean close, absent while the store is open. That is how a start knows a crash.
//! - `compacted`: per resource, the newest change that has left the window. A watch from before it has expired.
//! - `lazy`, `gaps`: which resources take lazy writes, and which revisions crashes may have taken from them.
//! - `cipher`, `is_scrubbed`: see [`crate::cipher`] and [`crate::open`].
//!
//! # What happens at each crash point
//!
//! | the power fails | on the disk | after the start |
//! | --- | --- | --- |
//! | before or during a flush | the transaction is not there | nobody was answered, nobody saw it |
//! | after the flush, before apply or the answer | it is there | the caller does not know; the object says so. Nobody saw it before |
//! | after a lazy answer, before its flush | the row is not there | its revision lies in a gap: from newest row to `reserved`. Watches of lazy resources from inside a gap have expired; revisions continue after it |
//! | between a flush that failed and the next | the rows may be there | they are shown, as if the answer had been lost |
//! | while old rows are removed | a transaction as any other | the window is as before or as after |
//! | while rows are sealed at open | some are, some not | both can be read; the rest is done |
//! | while index fields are extracted anew | some rows have the new ones | the version is not recorded: all are looked at again |
//! | while the reserve is made, kept in part or removed | a file of any size, or none | it is made anew, or kept as it is |
//!
//! # When the disk does not take it
//!
//! An engine's failure is answered to the group's callers and the revisions are spent. Whether the disk has the rows after
//! all is not known, so they are *uncertain*: the next batch removes them before all else, and pending rows among them are
//! written again behind that.
//!
//! A full disk is an expected state, not a failure ([`crate::reserve`]). The reserve is released; the log is copied into the
//! file, which must happen first, because without some space it can never be truncated; the older half of the history is
//! given up; free pages go back to the disk. If the reserve then fits again with a quarter more, nothing happened. If not,
//! the store is *full*: it rejects all but deletions and lazy writes, frees after each deletion what that wrote, keeps as much of
//! the reserve as there is until the next, and looks for space ten times a second while there are requests, else once a second.
//!
//! # Invariants worth an assertion in your head
//!
//! - `self.last` is the highest revision ever given, answered or not; it never goes back.
//! - `self.pending` holds exactly what is applied and not on the disk, and rows that nothing needs any more.
//! - While `meta_due`, no group is answered without a flush, also a lazy one: its reservation might be what is due.
//! - A group's `latest` shadows the index; it is dropped with the group, so a failed group leaves nothing.
//! - The index lock is never held across the engine, a closure of a caller, or another lock.
//!
//! # Where to read on
//!
//! [`Writer::work`] is the loop of a group, [`Writer::decide`] and [`Writer::flush`] its two halves; `tests/it/model.rs` says
//! in forty lines what a store is, `tests/it/crashes.rs` what survives.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::{error, info, warn};

use crate::cipher::RowCipher;
use crate::codec::{self, Meta};
use crate::engine::{Batch, Engine, EngineError};
use crate::error::CommitError;
use crate::index::WindowLimits;
use crate::names::Names;
use crate::queue::{Answer, Commit, Request};
use crate::reserve::Reserve;
use crate::store::{Clock, Shared};
use crate::types::{Change, ChangeKind, Durability, Encoded, Expect, Key, Object, Op, Revision};

/// Revisions reserved on disk at a time for lazy writes. A crash skips at most this many.
const RESERVE_BLOCK: u64 = 10_000;

/// With more lazy rows than this the next lazy group is not left waiting: memory is bounded, and a disk with space takes them.
const LAZY_FLUSH_BYTES: usize = 4 << 20;

/// Lazy writes that may wait for a disk that does not take them; then lazy writes fail too. Deletions get as much again.
const LAZY_BYTES_MAX: usize = 16 << 20;

/// A disk that failed is tried again after this, also when nobody asks.
const RETRY_PERIOD: Duration = Duration::from_secs(1);

/// A full disk is looked at again after this when there is something to write.
const RESERVE_RETRY_PERIOD: Duration = Duration::from_millis(100);

/// Encoded bytes of one commit group, unless one request alone has more. The write-ahead log grows by as much.
const GROUP_BYTES_MAX: usize = 4 << 20;

/// How often the watch cache window is trimmed while there are writes.
const TRIM_PERIOD: Duration = Duration::from_secs(10);

/// Rows out of the window wait this long for a write to go along with, so that an idle server does not write.
const TRIM_FLUSH_MAX: Duration = Duration::from_secs(60);

/// The writer's own state. The index is shared, the rest is the writer's alone.
pub(crate) struct Writer<E> {
    pub shared: Arc<Shared>,
    pub engine: E,
    pub limits: WindowLimits,
    pub lazy_flush_max: Duration,
    pub clock: Clock,
    /// Resources and namespaces, shared by their objects.
    pub names: Names,
    pub cipher: Option<Arc<dyn RowCipher>>,
    pub reserve: Reserve,
    pub reserve_tried: Instant,
    pub gave_way_at: Instant,
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
pub(crate) struct Staged {
    change: Arc<Change>,
    row: Vec<u8>,
}

/// The requests of one flush as they are decided: later ones see what earlier ones did.
#[derive(Default)]
struct CommitGroup {
    staged: Vec<Staged>,
    latest: HashMap<Key, Option<Arc<Object>>>,
    accepted: Vec<Accepted>,
    rejected: Vec<(oneshot::Sender<Answer>, CommitError)>,
    is_durable: bool,
    /// Of the rows that are staged.
    bytes: usize,
}

/// A request whose expectations hold.
struct Accepted {
    answer: oneshot::Sender<Answer>,
    revisions: Vec<Revision>,
    /// It frees space, or leads to that.
    is_deletion: bool,
}

impl CommitGroup {
    /// Rejects all but deletions of objects that were there before the group.
    fn keep_deletions(&mut self, before: Revision) {
        let is_of_group = |change: &Change| change.previous.as_ref().is_none_or(|previous| previous.revision > before);
        let changes = self.staged.iter().map(|staged| &staged.change);
        let depends: HashSet<_> = changes.filter(|change| is_of_group(change)).map(|change| change.revision).collect();
        let is_kept = |accepted: &Accepted| {
            accepted.is_deletion && accepted.revisions.iter().all(|revision| !depends.contains(revision))
        };
        let (kept, rejected): (Vec<_>, Vec<_>) = self.accepted.drain(..).partition(is_kept);
        self.rejected.extend(rejected.into_iter().map(|accepted| (accepted.answer, CommitError::Full)));
        let revisions: HashSet<_> = kept.iter().flat_map(|accepted| accepted.revisions.iter().copied()).collect();
        self.staged.retain(|staged| revisions.contains(&staged.change.revision));
        self.accepted = kept;
    }
}

impl<E: Engine> Writer<E> {
    /// Works until the queue is closed and empty, then leaves the disk as a clean close does.
    pub fn run(mut self) {
        let _ends = EndsWatches(self.shared.clone());
        self.reserve.restore(false);
        self.set_full();
        loop {
            let (requests, closed) = self.shared.queue.take(self.flush_by);
            self.work(requests);
            if closed {
                break;
            }
            self.trim();
            if self.flush_by.is_some_and(|by| by <= Instant::now()) {
                self.flush_due();
            }
        }
        self.meta.closed_at = Some(self.last);
        self.meta.reserved = self.last;
        self.meta_due = true;
        // A failure is reported by `flush`; the next start then treats it as a crash, which costs nothing but a gap.
        let _ = self.flush(&mut []);
    }

    /// Records that the store is in use, so that the next start knows a crash from a clean close.
    ///
    /// On a full disk this has to wait; until it is recorded, every commit tries it first.
    pub fn mark_open(&mut self) {
        self.meta.closed_at = None;
        self.meta_due = true;
        // A failure is reported by `flush`, which also sets the next try.
        let _ = self.flush(&mut []);
    }

    fn work(&mut self, requests: Vec<Request>) {
        let mut requests = requests.into_iter().peekable();
        while requests.peek().is_some() {
            if self.reserve.is_used() && self.gave_way_at.elapsed() >= RETRY_PERIOD {
                self.give_way();
            } else if self.reserve.is_used() && self.reserve_tried.elapsed() >= RESERVE_RETRY_PERIOD {
                self.restore_reserve();
            }
            let before = Revision(self.last);
            let mut group = CommitGroup::default();
            let mut reindex = None;
            for request in requests.by_ref() {
                match request {
                    Request::Commit(commit) => self.decide(commit, &mut group),
                    // It is about what the group has made visible.
                    Request::Reindex(next) => reindex = Some(next),
                }
                if reindex.is_some() || group.bytes >= GROUP_BYTES_MAX {
                    break;
                }
            }
            self.finish(group, before);
            if let Some(reindex) = reindex {
                self.reindex(reindex);
            }
        }
    }

    /// Makes a group durable, shows and answers it.
    fn finish(&mut self, mut group: CommitGroup, before: Revision) {
        let mut result = self.store_group(&mut group);
        if matches!(result, Err(EngineError::Full)) {
            // Lazy writes alone do not make the store look for space again and again; that happens by time.
            if group.is_durable || self.meta_due || !self.reserve.is_used() {
                self.give_way();
                if !self.reserve.is_used() {
                    result = self.store_group(&mut group);
                }
            }
            if matches!(result, Err(EngineError::Full)) {
                self.reserve.release();
                self.set_full();
                group.keep_deletions(before);
                result = self.store_group(&mut group);
                self.reserve.keep_part();
            }
        }
        let has_written = result.is_ok() && group.is_durable && !group.staged.is_empty();
        match result {
            Ok(()) => {
                self.apply(group.staged);
                for Accepted { answer, revisions, .. } in group.accepted {
                    // A caller that does not wait any more has dropped its end.
                    let _ = answer.send(Ok(revisions));
                }
            }
            Err(error) => {
                let error = match error {
                    EngineError::Full => CommitError::Full,
                    EngineError::Io(reason) => CommitError::Io(reason),
                };
                group.rejected.extend(group.accepted.into_iter().map(|accepted| (accepted.answer, error.clone())));
            }
        }
        for (answer, error) in group.rejected {
            let _ = answer.send(Err(error));
        }
        if has_written && self.reserve.is_used() {
            // What deletions wrote is freed before the next ones come. The log must never take the last space: without some
            // it cannot be copied into the file, and then nothing can be freed any more.
            self.give_way();
        }
    }

    fn store_group(&mut self, group: &mut CommitGroup) -> Result<(), EngineError> {
        if group.staged.is_empty() {
            return Ok(());
        }
        if group.is_durable || self.meta_due {
            return self.flush(&mut group.staged);
        }
        let mut failure = EngineError::Full;
        if self.pending_bytes > LAZY_FLUSH_BYTES && !self.reserve.is_used() {
            match self.flush(&mut group.staged) {
                Ok(()) => return Ok(()),
                Err(error) => failure = error,
            }
        }
        let are_deletions = group.accepted.iter().all(|accepted| accepted.is_deletion);
        if self.pending_bytes > if are_deletions { 2 * LAZY_BYTES_MAX } else { LAZY_BYTES_MAX } {
            return Err(failure);
        }
        self.keep_pending(&mut group.staged);
        Ok(())
    }

    /// What is due by time.
    fn flush_due(&mut self) {
        if self.reserve.is_used() || matches!(self.flush(&mut []), Err(EngineError::Full)) {
            self.give_way();
        }
    }

    /// Makes space on a full disk: the reserve is released, history gives way, and what that frees goes back to the disk.
    fn give_way(&mut self) {
        self.gave_way_at = Instant::now();
        // The log first: it is copied into the file and truncated, and what comes needs space in it. While others fill the disk the
        // reserve is given away for as short as can be.
        if !self.give_back() {
            self.reserve.release();
            self.give_back();
        }
        let rows = self.shared.write().trim_half();
        self.forget(rows);
        self.restore_reserve();
    }

    /// The disk has space again when it takes what is pending and then the whole reserve.
    fn restore_reserve(&mut self) {
        self.reserve_tried = Instant::now();
        if self.flush(&mut []).is_ok() {
            self.give_back();
            self.reserve.restore(true);
        }
        self.reserve.keep_part();
        self.set_full();
    }

    /// Gives free pages back to the disk, and says whether that was possible.
    fn give_back(&mut self) -> bool {
        let given = self.engine.give_back();
        if let Err(error) = &given
            && !matches!(error, EngineError::Full)
        {
            warn!(%error, "Failed to give space back to the store's disk.");
        }
        self.shared.counters.set_disk_bytes(self.engine.disk_bytes());
        given.is_ok()
    }

    /// Shows whether the store is full, and logs it when that has changed.
    fn set_full(&mut self) {
        let is_full = self.reserve.is_used();
        let was_full = std::mem::replace(&mut self.shared.write().full, is_full);
        if is_full && !was_full {
            warn!("The store's disk is full; writes are rejected, deletions are taken from the reserve.");
        } else if was_full && !is_full {
            info!("The store's disk has space again.");
        }
        if is_full {
            self.flush_within(RETRY_PERIOD);
        }
    }

    /// Checks all operations of a request before encoding any, so that a rejected request leaves no trace.
    fn decide(&mut self, commit: Commit, group: &mut CommitGroup) {
        let Commit { ops, durability, is_deletion, answer, .. } = commit;
        // First, because no space would change it: whoever creates what is there already learns that.
        if let Err(error) = self.check(&ops, group) {
            group.rejected.push((answer, error));
            return;
        }
        // Lazy writes continue in memory: a full disk should not make every node look dead.
        if self.reserve.is_used() && durability == Durability::Group && !is_deletion {
            group.rejected.push((answer, CommitError::Full));
            return;
        }
        let time_ms = (self.clock)();
        let staged_before = group.staged.len();
        let mut before = Vec::with_capacity(ops.len());
        let mut revisions = Vec::with_capacity(ops.len());
        for op in ops {
            if matches!(op, Op::Check { .. }) {
                continue;
            }
            self.last += 1;
            let revision = Revision(self.last);
            let (change, row) = self.encode(op, revision, time_ms, group);
            let key = change.object.key.clone();
            let row = match row {
                Ok(row) => row,
                Err(reason) => {
                    // Take back what this request staged; its revisions are lost, which harms nobody.
                    group.staged.truncate(staged_before);
                    before.into_iter().rev().for_each(|(key, latest)| restore(&mut group.latest, key, latest));
                    group.rejected.push((answer, CommitError::Io(format!("{key} {reason}"))));
                    return;
                }
            };
            let latest = (change.kind == ChangeKind::Put).then(|| change.object.clone());
            before.push((key.clone(), group.latest.insert(key, latest)));
            group.bytes += row.len();
            group.staged.push(Staged { change, row });
            revisions.push(revision);
        }
        if durability == Durability::Lazy {
            for staged in &group.staged[staged_before..] {
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
            group.is_durable = true;
        }
        group.accepted.push(Accepted { answer, revisions, is_deletion });
    }

    fn check(&self, ops: &[Op], group: &CommitGroup) -> Result<(), CommitError> {
        let mut planned: HashMap<&Key, Option<Revision>> = HashMap::new();
        let mut revision = self.last;
        for op in ops {
            let (key, expect) = op.target();
            let current = match planned.get(key) {
                Some(planned) => *planned,
                None => self.latest(key, group).map(|object| object.revision),
            };
            match (expect, current) {
                (Expect::Absent, Some(current)) => return Err(CommitError::Conflict { current }),
                (Expect::Revision(expected), Some(current)) if expected != current => {
                    return Err(CommitError::Conflict { current });
                }
                (Expect::Revision(_) | Expect::Present, None) => return Err(CommitError::NotFound),
                _ => {}
            }
            let after = match op {
                Op::Check { .. } => continue,
                Op::Delete { .. } if current.is_none() => return Err(CommitError::NotFound),
                Op::Delete { .. } => None,
                Op::Put { .. } => Some(()),
            };
            revision += 1;
            planned.insert(key, after.map(|()| Revision(revision)));
        }
        Ok(())
    }

    fn latest(&self, key: &Key, group: &CommitGroup) -> Option<Arc<Object>> {
        match group.latest.get(key) {
            Some(staged) => staged.clone(),
            None => self.shared.read().get(key).cloned(),
        }
    }

    /// The change and its row, or why it has none.
    fn encode(
        &mut self,
        op: Op,
        revision: Revision,
        time_ms: u64,
        group: &CommitGroup,
    ) -> (Arc<Change>, Result<Vec<u8>, String>) {
        let previous = self.latest(op.target().0, group);
        let (kind, mut key, encoded) = match op {
            Op::Put { key, encode, .. } => (ChangeKind::Put, key, encode(revision)),
            Op::Delete { key, final_bytes, .. } => {
                // The final version is selected by what the object last was.
                let index = previous.as_ref().map(|object| object.index.clone()).unwrap_or_default();
                (ChangeKind::Delete, key, Encoded { bytes: final_bytes(revision), managed: None, index })
            }
            Op::Check { .. } => unreachable!("a check is not encoded"),
        };
        self.names.share(&mut key.resource);
        self.names.share(&mut key.namespace);
        let created = previous.as_ref().map_or(revision, |object| object.created);
        let Encoded { bytes, managed, index } = encoded;
        let object = Arc::new(Object { key, revision, created, bytes, managed, index });
        let row = if codec::fits(&object) {
            let before = previous.as_ref().map(|object| object.revision);
            codec::encode_row(kind, time_ms, before, &object, self.cipher.as_deref())
                .map_err(|error| format!("cannot be sealed: {error}"))
        } else {
            Err("is too large for the store".to_owned())
        };
        (Arc::new(Change { kind, revision, object, previous }), row)
    }

    /// Leaves staged rows for the next flush.
    fn keep_pending(&mut self, staged: &mut [Staged]) {
        for staged in staged {
            self.pending_bytes += staged.row.len();
            self.pending.puts.push((staged.change.revision.0, std::mem::take(&mut staged.row)));
        }
        self.shared.counters.set_pending_bytes(self.pending_bytes);
        self.flush_within(self.lazy_flush_max);
    }

    fn flush_within(&mut self, wait: Duration) {
        let by = Instant::now() + wait;
        self.flush_by = Some(self.flush_by.map_or(by, |flush_by| flush_by.min(by)));
    }

    /// Makes everything pending and the staged rows durable, or keeps the pending and gives up the staged.
    pub(crate) fn flush(&mut self, staged: &mut [Staged]) -> Result<(), EngineError> {
        let mut batch = std::mem::take(&mut self.pending);
        let pending_rows = batch.puts.len();
        batch.puts.extend(staged.iter_mut().map(|staged| (staged.change.revision.0, std::mem::take(&mut staged.row))));
        if self.meta_due || !batch.removes.is_empty() || !batch.uncertain.is_empty() {
            // A removed row may be the only witness of the last revision.
            self.meta.reserved = self.meta.reserved.max(self.last);
            if !batch.removes.is_empty() {
                self.meta.compacted = self.shared.read().compacted();
            }
            batch.meta = Some(serde_json::to_vec(&self.meta).expect("the bookkeeping has string keys only"));
        }
        let result = if batch.is_empty() { Ok(()) } else { self.commit_group(&batch) };
        self.shared.counters.set_disk_bytes(self.engine.disk_bytes());
        self.report(&result);
        match &result {
            Ok(()) => {
                self.pending_bytes = 0;
                self.shared.counters.set_pending_bytes(0);
                self.flush_by = None;
                self.meta_due = false;
            }
            Err(_) => {
                batch.distrust();
                for (staged, (_, row)) in staged.iter_mut().zip(batch.puts.drain(pending_rows..)) {
                    staged.row = row;
                }
                // Made anew next time, because it goes with what is pending then.
                batch.meta = None;
                self.pending = batch;
                self.flush_by = Some(Instant::now() + RETRY_PERIOD);
            }
        }
        result
    }

    fn commit_group(&mut self, batch: &Batch) -> Result<(), EngineError> {
        let started = Instant::now();
        let result = self.engine.commit(batch);
        self.shared.counters.count_group(started.elapsed(), result.is_ok());
        result
    }

    /// Logs the first failure and the recovery, not each try between them. A full disk is reported by
    /// [`set_full`](Self::set_full).
    fn report(&self, result: &Result<(), EngineError>) {
        let mut index = self.shared.write();
        match result {
            Ok(()) if index.failing => info!("The store's disk takes writes again."),
            Err(EngineError::Io(reason)) if !index.failing => error!(%reason, "The store's disk fails."),
            _ => {}
        }
        index.failing = matches!(result, Err(EngineError::Io(_)));
    }

    /// Shows staged changes to readers and watchers.
    fn apply(&mut self, staged: Vec<Staged>) {
        let time_ms = (self.clock)();
        let mut resources = HashSet::new();
        self.shared.counters.count_operations(staged.len());
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
        // At once and not by and by: a burst of large objects would fill the memory before the next look.
        let rows = index.trim_large(self.limits);
        drop(index);
        self.forget(rows);
    }

    fn trim(&mut self) {
        if self.trimmed_at.elapsed() >= TRIM_PERIOD {
            self.trimmed_at = Instant::now();
            let rows = self.shared.write().trim_old((self.clock)(), self.limits);
            self.forget(rows);
        }
        if !self.pending.removes.is_empty() || self.shared.read().has_changes() {
            self.flush_within(TRIM_FLUSH_MAX);
        }
    }

    /// Rows that have left the window go from the disk with the next flush.
    fn forget(&mut self, rows: Vec<u64>) {
        if !rows.is_empty() {
            self.pending.removes.extend(rows);
            self.shared.drop_expired_snapshots();
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
