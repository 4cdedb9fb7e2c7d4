//! The API: open a store, read, commit, watch.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;

use crate::backup::Backup;
use crate::cipher::RowCipher;
use crate::codec::{self, Meta};
use crate::engine::{Batch, Engine, MemoryEngine};
use crate::error::{CommitError, Expired, OpenStoreError};
use crate::fields::IndexFields;
use crate::history;
use crate::index::{Index, State, WindowLimits};
use crate::open;
use crate::queue::{Commit, Queue, Reindex, Request};
use crate::reserve::Reserve;
use crate::snapshot::{Retained, Snapshot};
use crate::types::{ChangeKind, Durability, Key, Life, Object, Op, Range, Revision, Usage};
use crate::watch::Watch;
use crate::writer::Writer;

/// Returns the Unix time in milliseconds.
pub(crate) type Clock = fn() -> u64;

/// How a store behaves. The defaults are for a small box.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Changes are kept this long, for watches that resume and lists that continue. Clients that come back from a
    /// reboot of the server or a lost link should not have to list again.
    pub window: Duration,
    /// Changes kept per resource, whatever their age.
    pub window_changes_max: usize,
    /// Bytes that the changes of all resources may keep alive in memory. One resource may use half of them, and when they
    /// do not suffice, the one that uses most gives first.
    pub window_bytes_max: usize,
    /// Index fields by whose values objects are found at once, in every resource that has them. Each value costs some 24
    /// bytes an object.
    pub indexed_fields: Vec<&'static str>,
    /// By which rules the index fields of objects are extracted, from 1; raised with them. A store whose rows were written by other
    /// rules is [stale](Store::is_index_stale) until they have been extracted anew.
    pub index_version: u32,
    /// Lazy writes are on disk after this time.
    pub lazy_flush_max: Duration,
    /// Disk space that is kept for deletions on a full disk; see [`Usage::full`]. With less than the write-ahead log may
    /// have, 8 MiB, deletions may be rejected too.
    pub reserve_bytes: u64,
    /// Seals the rows of some resources. Rows that are there are sealed when the store opens; a store with sealed rows opens
    /// with their cipher only.
    pub cipher: Option<Arc<dyn RowCipher>>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(600),
            window_changes_max: 100_000,
            window_bytes_max: 24 << 20,
            indexed_fields: Vec::new(),
            index_version: 0,
            // The write-ahead log once more, which must be copied before it can be truncated.
            reserve_bytes: 8 << 20,
            cipher: None,
            // Half of what is promised, because the flush takes time as well.
            lazy_flush_max: Duration::from_millis(500),
        }
    }
}

/// Versioned objects on disk and in memory; cheap to clone. The last clone closes it, or [`close`](Self::close): what is lazy
/// goes to the disk.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    indexed: Arc<[&'static str]>,
    index_version: u32,
    writer: Arc<WriterThread>,
}

/// What readers, watchers and the writer share.
pub(crate) struct Shared {
    pub queue: Queue,
    pub counters: Counters,
    /// The version of the index fields of all rows.
    pub index_version: AtomicU32,
    /// What a backup names and needs beside the objects.
    pub life: Life,
    pub cipher: Option<Arc<dyn RowCipher>>,
    pub wrapped_key: Option<Vec<u8>>,
    index: RwLock<Index>,
    retained: Mutex<Retained>,
}

impl Shared {
    pub fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().expect(NO_PANIC)
    }

    pub fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().expect(NO_PANIC)
    }

    /// Past states that have left the window are not kept: lists that continue there have expired.
    pub fn drop_expired_snapshots(&self) {
        // Before the index, as everywhere.
        let mut retained = self.retained.lock().expect(NO_PANIC);
        let index = self.read();
        retained.retain(|resource, revision| index.check(resource, revision).is_ok());
    }
}

/// Figures that only grow, but for the size of the files.
#[derive(Default)]
pub(crate) struct Counters {
    disk_bytes: AtomicU64,
    pending_bytes: AtomicU64,
    operations: AtomicU64,
    groups: AtomicU64,
    group_nanoseconds: AtomicU64,
    failed_groups: AtomicU64,
}

impl Counters {
    pub fn set_disk_bytes(&self, bytes: u64) {
        self.disk_bytes.store(bytes, Ordering::Relaxed);
    }

    pub fn set_pending_bytes(&self, bytes: usize) {
        self.pending_bytes.store(bytes as u64, Ordering::Relaxed);
    }

    pub fn count_operations(&self, count: usize) {
        self.operations.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub fn count_group(&self, time: Duration, is_durable: bool) {
        self.groups.fetch_add(1, Ordering::Relaxed);
        self.failed_groups.fetch_add(u64::from(!is_durable), Ordering::Relaxed);
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.group_nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }
}

const NO_PANIC: &str = "no panic happens while the index is locked";

/// Stops the writer when the last clone of the store is dropped, and waits for its last flush.
struct WriterThread {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl WriterThread {
    fn stop(&self) {
        self.shared.queue.close();
        if let Some(thread) = self.thread.lock().expect(NO_PANIC).take() {
            // A writer that panicked has already ended every watch and commit.
            let _ = thread.join();
        }
    }
}

impl Drop for WriterThread {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Store {
    /// Opens the store in `dir`, or creates a new one there. Blocks while it reads all objects.
    ///
    /// # Errors
    /// A format newer than this program knows is rejected and nothing in the directory is touched. See [`OpenStoreError`].
    pub fn open(dir: &Path, options: StoreOptions) -> Result<Self, OpenStoreError> {
        let (engine, format) = open::open_engine(dir)?;
        Self::start(engine, dir, format, options)
    }

    /// A store that ends with its last clone: for tests, and for whoever keeps objects in another place. Everything but the disk
    /// is as in [`Self::open`].
    ///
    /// # Errors
    /// When its thread cannot be started.
    pub fn in_memory(options: StoreOptions) -> Result<Self, OpenStoreError> {
        // Nothing is there to be sealed, and no space to be kept.
        let options = StoreOptions { cipher: None, reserve_bytes: 0, ..options };
        Self::start(MemoryEngine::default(), Path::new(""), open::FORMAT, options)
    }

    /// As [`Self::in_memory`], with [`objects`](Self::objects) of another store: each keeps its revision, and of their history
    /// there is only that they were made.
    ///
    /// # Errors
    /// When its thread cannot be started.
    pub fn in_memory_with(
        objects: impl IntoIterator<Item = Object>,
        options: StoreOptions,
    ) -> Result<Self, OpenStoreError> {
        let options = StoreOptions { cipher: None, reserve_bytes: 0, ..options };
        let now = now_ms();
        let rows: BTreeMap<_, _> = objects
            .into_iter()
            .map(|object| {
                let row = codec::encode_row(ChangeKind::Put, now, None, &object, None);
                (object.revision.0, row.expect("what no cipher seals is only copied"))
            })
            .collect();
        let last = rows.keys().next_back().copied().unwrap_or_default();
        let index_version = options.index_version;
        let meta = Meta { reserved: last, closed_at: Some(last), is_scrubbed: true, index_version, ..Meta::default() };
        let meta = serde_json::to_vec(&meta).expect("numbers and maps with text keys always serialise");
        Self::start(MemoryEngine::new(rows, meta), Path::new(""), open::FORMAT, options)
    }

    /// All objects as they are at one moment.
    pub fn objects(&self) -> Vec<Arc<Object>> {
        self.shared.read().objects().cloned().collect()
    }

    fn start<E: Engine + 'static>(
        mut engine: E,
        dir: &Path,
        format: u32,
        options: StoreOptions,
    ) -> Result<Self, OpenStoreError> {
        let limits = WindowLimits {
            age_ms: u64::try_from(options.window.as_millis()).unwrap_or(u64::MAX),
            changes_max: options.window_changes_max,
            resource_bytes_max: options.window_bytes_max / 2,
            bytes_max: options.window_bytes_max,
        };
        let indexed = (&*options.indexed_fields, options.index_version);
        let mut loaded = open::load(dir, &mut engine, indexed, options.cipher.as_deref(), format)?;
        let mut removes = loaded.index.trim_old(now_ms(), limits);
        removes.extend(loaded.index.trim_large(limits));
        let counters = Counters::default();
        counters.set_disk_bytes(engine.disk_bytes());
        let shared = Arc::new(Shared {
            queue: Queue::new(),
            counters,
            index_version: AtomicU32::new(loaded.meta.index_version),
            life: loaded.meta.life.clone(),
            cipher: options.cipher.clone(),
            wrapped_key: loaded.meta.cipher.clone(),
            index: RwLock::new(loaded.index),
            retained: Mutex::default(),
        });
        let mut writer = Writer {
            shared: shared.clone(),
            engine,
            limits,
            lazy_flush_max: options.lazy_flush_max,
            clock: now_ms,
            names: loaded.names,
            cipher: options.cipher,
            reserve: Reserve::new(dir, options.reserve_bytes),
            reserve_tried: Instant::now(),
            gave_way_at: Instant::now(),
            last: loaded.last,
            meta: loaded.meta,
            meta_due: true,
            pending: Batch { removes, ..Batch::default() },
            pending_bytes: 0,
            flush_by: None,
            trimmed_at: Instant::now(),
        };
        writer.mark_open();
        let thread = thread::Builder::new()
            .name("store-writer".into())
            .spawn(|| writer.run())
            .map_err(OpenStoreError::StartWriter)?;
        let writer = Arc::new(WriterThread { shared: shared.clone(), thread: Mutex::new(Some(thread)) });
        let index_version = options.index_version;
        Ok(Self { shared, indexed: options.indexed_fields.into(), index_version, writer })
    }

    /// Closes the store though clones of it are held, as the last one does when it is dropped: what is lazy goes to the disk,
    /// watches end, commits are answered with [`CommitError::Closed`]. Blocks until that is done. What is in memory can still
    /// be read.
    pub fn close(&self) {
        self.writer.stop();
    }

    /// The object of this key, as last committed.
    pub fn get(&self, key: &Key) -> Option<Arc<Object>> {
        self.shared.read().get(key).cloned()
    }

    /// The object of this key as it was `at` a revision, or as it is, and the revision of which that is said. Costs a look at the
    /// changes since, and keeps nothing.
    ///
    /// # Errors
    /// [`Expired`] when `at` has left the window, or was never given out.
    pub fn get_at(&self, key: &Key, at: Option<Revision>) -> Result<(Option<Arc<Object>>, Revision), Expired> {
        let (snapshot, changes, revision) = match at.map(|at| (at, self.shared.read().state(&key.resource, at))) {
            None => {
                let snapshot = self.snapshot(&key.resource);
                let revision = snapshot.revision();
                (snapshot, Vec::new(), revision)
            }
            Some((at, state)) => match state? {
                State::Same(snapshot) => (snapshot, Vec::new(), at),
                State::Changed(now, changes) => (now, changes, at),
            },
        };
        let names = (&*key.namespace, &*key.name);
        let mut since = changes.iter().flat_map(|chunk| history::after(chunk, revision));
        let object = match since.find(|change| change.object.names() == names) {
            Some(change) => change.previous.clone(),
            None => snapshot.get(names.0, names.1).cloned(),
        };
        Ok((object, revision))
    }

    /// Objects of a resource in order of namespace and name, at most `limit`, following `after` (namespace, name), now
    /// or as they were `at` an earlier revision. To continue a list: `after` its last item, `at` its revision.
    ///
    /// # Errors
    /// [`Expired`] when `at` has left the window, or was never given out.
    pub fn range(
        &self,
        resource: &str,
        namespace: Option<&str>,
        after: Option<(&str, &str)>,
        limit: Option<usize>,
        at: Option<Revision>,
    ) -> Result<Range, Expired> {
        let snapshot = match at {
            Some(at) => self.snapshot_at(resource, at)?,
            None => self.snapshot(resource),
        };
        let range = snapshot.page(namespace, after, limit);
        if range.remaining > 0 {
            self.retain(resource, &snapshot);
        }
        Ok(range)
    }

    /// Like [`range`](Self::range), of the objects that have a value in an index field (`(field, value)`). For a field of
    /// [`StoreOptions::indexed_fields`] it costs what it returns, also at an earlier revision; for any other it looks at
    /// every object.
    ///
    /// # Errors
    /// As [`range`](Self::range).
    pub fn range_where(
        &self,
        resource: &str,
        (field, value): (&str, &str),
        namespace: Option<&str>,
        after: Option<(&str, &str)>,
        limit: Option<usize>,
        at: Option<Revision>,
    ) -> Result<Range, Expired> {
        match at {
            Some(at) if self.is_indexed(field) => {
                let (now, changes) = self.shared.read().state_of(resource, (field, value), at)?;
                Ok(now.page_where_before((field, value), namespace, after, limit, (&changes, at)))
            }
            Some(at) => Ok(self.snapshot_at(resource, at)?.page_where((field, value), namespace, after, limit)),
            None => Ok(self.snapshot(resource).page_where((field, value), namespace, after, limit)),
        }
    }

    /// Whether [`range_where`](Self::range_where) finds the values of this field at once.
    pub fn is_indexed(&self, field: &str) -> bool {
        self.indexed.contains(&field)
    }

    /// All objects of a resource as they are now. Costs two references; reading it takes no lock.
    pub fn snapshot(&self, resource: &str) -> Snapshot {
        self.shared.read().snapshot(resource)
    }

    /// All objects of a resource as they were at a revision. The first call for a revision costs what has changed since;
    /// the state is kept for a while, so those that follow cost what [`snapshot`](Self::snapshot) does.
    ///
    /// # Errors
    /// [`Expired`] when `at` has left the window, or was never given out.
    pub fn snapshot_at(&self, resource: &str, at: Revision) -> Result<Snapshot, Expired> {
        let retained = self.shared.retained.lock().expect(NO_PANIC).get(resource, at);
        let state = self.shared.read().state(resource, at)?;
        Ok(match (state, retained) {
            (State::Same(snapshot), _) => snapshot,
            (State::Changed(..), Some(retained)) => retained,
            (State::Changed(now, changes), None) => {
                let snapshot = now.rewind(&changes, at);
                self.retain(resource, &snapshot);
                snapshot
            }
        })
    }

    /// Keeps a state of a resource for a while, because it will be asked for again by its revision: a list continues.
    pub fn retain(&self, resource: &str, snapshot: &Snapshot) {
        let mut retained = self.shared.retained.lock().expect(NO_PANIC);
        // What has left the window meanwhile must not be kept: nothing would drop it.
        if self.shared.read().check(resource, snapshot.revision()).is_ok() {
            retained.keep(resource, snapshot);
        }
    }

    /// Does all operations or none of them; returns one revision for each but the checks.
    ///
    /// A dropped future does not take the commit back. The closures of the operations run on the writer's thread.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] and [`CommitError::NotFound`] when an expectation does not hold, [`CommitError::Full`]
    /// and [`CommitError::Io`] when the disk did not take it, [`CommitError::Closed`] when the store is closing.
    pub async fn commit(&self, ops: Vec<Op>, durability: Durability) -> Result<Vec<Revision>, CommitError> {
        let is_deletion = ops.iter().all(|op| matches!(op, Op::Delete { .. }));
        self.push_commit(ops, durability, is_deletion).await
    }

    /// Like [`commit`](Self::commit), for a write that leads to a deletion without being one, such as the mark of an object
    /// that waits for its end: a full disk takes it as it takes deletions. What it replaces is given up as history.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub async fn commit_deletion(&self, ops: Vec<Op>, durability: Durability) -> Result<Vec<Revision>, CommitError> {
        self.push_commit(ops, durability, true).await
    }

    async fn push_commit(
        &self,
        ops: Vec<Op>,
        durability: Durability,
        is_deletion: bool,
    ) -> Result<Vec<Revision>, CommitError> {
        let (answer, answered) = oneshot::channel();
        let permit = self.shared.queue.permit().await?;
        self.shared.queue.push(Request::Commit(Commit { ops, durability, is_deletion, answer, _permit: permit }));
        answered.await.map_err(|_| CommitError::Closed)?
    }

    /// Whether rows have index fields of other rules than those of [`StoreOptions::index_version`]: then objects are not
    /// found by fields that are new. Who knows the rules extracts them from every object, hands those that differ to
    /// [`reindex`](Self::reindex) and says [`finish_reindex`](Self::finish_reindex).
    pub fn is_index_stale(&self) -> bool {
        self.shared.index_version.load(Ordering::Relaxed) != self.index_version
    }

    /// Gives stored objects other index fields. Nothing else about them changes: no revision is spent and no watcher wakes.
    /// An object that is not at the given revision any more was written since, with the fields of today, and is left alone.
    ///
    /// Objects have the new fields when this returns, also when it fails: then the disk has not taken them, and the next
    /// start has to do it again.
    ///
    /// # Errors
    /// [`CommitError::Full`] and [`CommitError::Io`] when the disk did not take it, [`CommitError::Closed`] when the store is
    /// closing.
    pub async fn reindex(&self, fields: Vec<(Key, Revision, IndexFields)>) -> Result<(), CommitError> {
        self.push_reindex(fields, None).await
    }

    /// Records that the index is [stale](Self::is_index_stale) until [`finish_reindex`](Self::finish_reindex): if the process
    /// ends in between, the next start knows.
    ///
    /// # Errors
    /// As [`reindex`](Self::reindex).
    pub async fn begin_reindex(&self) -> Result<(), CommitError> {
        self.push_reindex(Vec::new(), Some(0)).await
    }

    /// Records that every object has the index fields of [`StoreOptions::index_version`].
    ///
    /// # Errors
    /// As [`reindex`](Self::reindex).
    pub async fn finish_reindex(&self) -> Result<(), CommitError> {
        self.push_reindex(Vec::new(), Some(self.index_version)).await
    }

    async fn push_reindex(
        &self,
        fields: Vec<(Key, Revision, IndexFields)>,
        version: Option<u32>,
    ) -> Result<(), CommitError> {
        let (answer, answered) = oneshot::channel();
        let permit = self.shared.queue.permit().await?;
        self.shared.queue.push(Request::Reindex(Reindex { fields, version, answer, _permit: permit }));
        answered.await.map_err(|_| CommitError::Closed)?
    }

    /// Follows the changes of a resource after `from`, usually the revision of a list.
    ///
    /// # Errors
    /// [`Expired`] when changes after `from` have left the window, or `from` was never given out.
    pub fn watch(&self, resource: &str, from: Revision) -> Result<Watch, Expired> {
        Watch::all(&self.shared, resource, from)
    }

    /// Like [`watch`](Self::watch), for objects whose index field has this value now or had it just before the change.
    /// Only such changes wake the watcher, so a thousand nodes watching their own pods cost what their pods do.
    ///
    /// # Errors
    /// As [`watch`](Self::watch).
    pub fn watch_where(&self, resource: &str, from: Revision, field: &str, value: &str) -> Result<Watch, Expired> {
        Watch::filtered(&self.shared, resource, from, field, value)
    }

    /// The last revision that is visible.
    pub fn current(&self) -> Revision {
        self.shared.read().current
    }

    /// Which life of its state this is.
    pub fn life(&self) -> &Life {
        &self.shared.life
    }

    /// All objects as they are at this moment, to be written to a file: one revision, and nobody waits meanwhile. Costs two
    /// references for each resource; until it is dropped it keeps alive what is replaced.
    pub fn backup(&self) -> Backup {
        Backup::of(&self.shared)
    }

    /// What the store holds and does.
    pub fn usage(&self) -> Usage {
        let counters = &self.shared.counters;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let retained_snapshots = self.shared.retained.lock().expect(NO_PANIC).len();
        Usage {
            retained_snapshots,
            queued_commits: self.shared.queue.len(),
            pending_bytes: count(&counters.pending_bytes) as usize,
            disk_bytes: count(&counters.disk_bytes),
            operations: count(&counters.operations),
            commit_groups: count(&counters.groups),
            commit_group_time: Duration::from_nanos(count(&counters.group_nanoseconds)),
            failed_commit_groups: count(&counters.failed_groups),
            ..self.shared.read().usage()
        }
    }
}

pub(crate) fn now_ms() -> u64 {
    // A clock before 1970 is a box without one; the window is then bounded by count alone.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
