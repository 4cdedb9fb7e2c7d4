//! The door: open a store, read, commit, watch.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;

use crate::codec::{self, Meta};
use crate::engine::{Batch, Engine, SqliteEngine};
use crate::error::{CommitError, Expired, OpenStoreError};
use crate::index::{Index, WindowLimits};
use crate::types::{Change, ChangeKind, Durability, Key, Object, Op, Range, Revision, Usage};
use crate::watch::Watch;
use crate::writer::{Queue, Request, Writer};

/// The format that this program writes; it reads this one and all before.
const FORMAT: u32 = 1;

/// Says which format the folder has, so that a newer one is refused before anything is touched.
const VERSION_FILE: &str = "VERSION";
const VERSION_WORD: &str = "selvedge-store";

/// Gaps of crashes that are told apart; the oldest are merged.
const GAPS_MAX: usize = 16;

/// Tells the Unix time in milliseconds.
pub(crate) type Clock = fn() -> u64;

/// How a store behaves. The defaults are those of a hub.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Changes are kept this long, for watches that resume and lists that continue. Clients that come back from a
    /// reboot of the hub or a lost link should not have to list again.
    pub window: Duration,
    /// Changes kept per resource, whatever their age.
    pub window_changes_max: usize,
    /// Bytes that the changes of all resources may keep alive in memory.
    pub window_bytes_max: usize,
    /// Lazy writes are on disk after this time.
    pub lazy_flush_max: Duration,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(600),
            window_changes_max: 100_000,
            window_bytes_max: 64 << 20,
            // Half of what is promised, because the flush takes time as well.
            lazy_flush_max: Duration::from_millis(500),
        }
    }
}

/// Versioned objects on disk and in memory; cheap to clone. The last clone closes it: what is lazy goes to the disk.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    _writer: Arc<WriterThread>,
}

/// What readers, watchers and the writer share.
pub(crate) struct Shared {
    pub queue: Queue,
    index: RwLock<Index>,
    disk_bytes: AtomicU64,
}

impl Shared {
    pub fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().expect(NO_PANIC)
    }

    pub fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().expect(NO_PANIC)
    }

    pub fn set_disk_bytes(&self, bytes: u64) {
        self.disk_bytes.store(bytes, Ordering::Relaxed);
    }
}

const NO_PANIC: &str = "no panic happens while the index is locked";

/// Stops the writer when the last clone of the store is gone, and waits for its last flush.
struct WriterThread {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for WriterThread {
    fn drop(&mut self) {
        self.shared.queue.close();
        if let Some(thread) = self.thread.take() {
            // A writer that panicked has already ended every watch and commit.
            let _ = thread.join();
        }
    }
}

impl Store {
    /// Opens the store in `dir`, or makes a new one there. Blocks while it reads all objects.
    ///
    /// # Errors
    /// A format newer than this program knows is refused and nothing in the folder is touched. See [`OpenStoreError`].
    pub fn open(dir: &Path, options: StoreOptions) -> Result<Self, OpenStoreError> {
        check_version(dir)?;
        let open_engine = |source| OpenStoreError::OpenEngine { path: dir.into(), source };
        let mut engine = SqliteEngine::open(&dir.join("objects.sqlite")).map_err(open_engine)?;
        let limits = WindowLimits {
            age_ms: u64::try_from(options.window.as_millis()).unwrap_or(u64::MAX),
            changes_max: options.window_changes_max,
            bytes_max: options.window_bytes_max,
        };
        // The engine syncs its file, not the name of a new one.
        sync_folder(dir).map_err(|source| OpenStoreError::PrepareFolder { path: dir.into(), source })?;
        let mut loaded = load(dir, &mut engine)?;
        let removes = loaded.index.trim(now_ms(), limits);
        loaded.meta.horizons = loaded.index.horizons();
        let shared = Arc::new(Shared {
            queue: Queue::new(),
            disk_bytes: AtomicU64::new(engine.disk_bytes()),
            index: RwLock::new(loaded.index),
        });
        let mut writer = Writer {
            shared: shared.clone(),
            engine,
            limits,
            lazy_flush_max: options.lazy_flush_max,
            clock: now_ms,
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
        let writer = Arc::new(WriterThread { shared: shared.clone(), thread: Some(thread) });
        Ok(Self { shared, _writer: writer })
    }

    /// The object of this key, as last committed.
    pub fn get(&self, key: &Key) -> Option<Arc<Object>> {
        self.shared.read().get(key).cloned()
    }

    /// Objects of a resource in order of namespace and name, at most `limit`, following `after` (namespace, name), now
    /// or as they were `at` an earlier revision. To continue a list: `after` its last item, `at` its revision.
    ///
    /// # Errors
    /// [`Expired`] when `at` has left the change window, or was never given out.
    pub fn range(
        &self,
        resource: &str,
        namespace: Option<&str>,
        after: Option<(&str, &str)>,
        limit: Option<usize>,
        at: Option<Revision>,
    ) -> Result<Range, Expired> {
        self.shared.read().range(resource, namespace, after, limit, at)
    }

    /// Does all operations or none of them; answers one revision for each.
    ///
    /// A dropped future does not take the commit back. The closures of the operations run on the writer's thread.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] and [`CommitError::NotFound`] when an expectation does not hold, [`CommitError::Full`]
    /// and [`CommitError::Io`] when the disk did not take it, [`CommitError::Closed`] when the store is closing.
    pub async fn commit(&self, ops: Vec<Op>, durability: Durability) -> Result<Vec<Revision>, CommitError> {
        let (answer, answered) = oneshot::channel();
        let permit = self.shared.queue.permit().await?;
        self.shared.queue.push(Request { ops, durability, answer, _permit: permit });
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

    /// What the store holds.
    pub fn usage(&self) -> Usage {
        let index = self.shared.read();
        let (objects, object_bytes, changes, change_bytes) = index.totals();
        let disk_bytes = self.shared.disk_bytes.load(Ordering::Relaxed);
        Usage { objects, object_bytes, changes, change_bytes, disk_bytes, full: index.full }
    }
}

/// What the rows say.
struct Loaded {
    index: Index,
    meta: Meta,
    last: u64,
}

fn load(dir: &Path, engine: &mut impl Engine) -> Result<Loaded, OpenStoreError> {
    let open_engine = |source| OpenStoreError::OpenEngine { path: dir.into(), source };
    let damaged = |revision: u64, reason: String| OpenStoreError::Damaged {
        path: dir.into(),
        revision: Revision(revision),
        reason,
    };
    let mut meta = match engine.meta().map_err(open_engine)? {
        Some(blob) => serde_json::from_slice(&blob).map_err(|error| damaged(0, format!("the bookkeeping: {error}")))?,
        None => Meta { closed_at: Some(0), ..Meta::default() },
    };
    let mut index = Index::new();
    for (resource, horizon) in &meta.horizons {
        index.kind_mut(resource).horizon = Revision(*horizon);
    }
    let mut newest_row = 0;
    let mut failure = None;
    let visited = engine.visit(&mut |revision, row| {
        newest_row = revision;
        match codec::decode_row(Revision(revision), row) {
            Ok(row) => load_row(&mut index, row),
            Err(reason) => failure = Some(damaged(revision, reason.to_owned())),
        }
        failure.is_none()
    });
    visited.map_err(open_engine)?;
    if let Some(failure) = failure {
        return Err(failure);
    }
    let mut last = meta.horizons.values().copied().fold(newest_row.max(meta.reserved), u64::max);
    let crashed = meta.closed_at.is_none_or(|closed_at| closed_at < newest_row);
    if crashed {
        // The disk holds a prefix of the history, so only revisions after its newest row can be lost; the revision
        // after them is one that nobody has seen, and the first to be safe again.
        if !meta.lazy.is_empty() && last > newest_row {
            meta.gaps.push((newest_row + 1, last));
        }
        last += 1;
    }
    for resource in &meta.lazy {
        index.kind_mut(resource).lazy = true;
    }
    if meta.gaps.len() > GAPS_MAX {
        // What lies between the two oldest is old as well; telling its watchers to list again harms nobody.
        let (first, _) = meta.gaps.remove(0);
        meta.gaps[0].0 = first;
    }
    index.gaps = meta.gaps.clone();
    index.current = Revision(last);
    Ok(Loaded { index, meta, last })
}

fn load_row(index: &mut Index, row: codec::Row) {
    let codec::Row { kind, time_ms, previous, mut object } = row;
    index.share_words(&mut object.key, &mut object.index);
    let held = index.get(&object.key).cloned().filter(|held| Some(held.revision) == previous);
    let of_resource = index.kind_mut(&object.key.resource.clone());
    let object = Arc::new(object);
    match kind {
        ChangeKind::Put => of_resource.restore(object.clone()),
        ChangeKind::Delete => of_resource.remove(&object.key.namespace, &object.key.name),
    }
    if object.revision > of_resource.horizon {
        let revision = object.revision;
        of_resource.log(Arc::new(Change { kind, revision, object, previous: held }), time_ms);
    }
}

/// Makes the folder and its version file, or checks the one that is there.
fn check_version(dir: &Path) -> Result<(), OpenStoreError> {
    let prepare = |path: &Path| {
        let path = path.to_path_buf();
        move |source| OpenStoreError::PrepareFolder { path, source }
    };
    let path = dir.join(VERSION_FILE);
    match fs::read_to_string(&path) {
        Ok(text) => check_version_text(dir, path, &text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(dir).map_err(prepare(dir))?;
            write_version(dir, &path).map_err(prepare(&path))
        }
        Err(error) => Err(prepare(&path)(error)),
    }
}

fn check_version_text(dir: &Path, path: PathBuf, text: &str) -> Result<(), OpenStoreError> {
    let found = text.trim_end().strip_prefix(VERSION_WORD).and_then(|version| version.trim().parse::<u32>().ok());
    match found {
        None | Some(0) => Err(OpenStoreError::ReadVersion { path }),
        Some(found) if found > FORMAT => Err(OpenStoreError::Newer { path: dir.into(), found, known: FORMAT }),
        Some(_) => Ok(()),
    }
}

/// Written under another name first: a power cut leaves a whole version file or none.
fn write_version(dir: &Path, path: &Path) -> io::Result<()> {
    let draft = dir.join("VERSION.new");
    let mut file = File::create(&draft)?;
    writeln!(file, "{VERSION_WORD} {FORMAT}")?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    sync_folder(dir)?;
    // The folder itself may be new too.
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    sync_folder(parent.unwrap_or(Path::new(".")))
}

fn sync_folder(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn now_ms() -> u64 {
    // A clock before 1970 is a box without one; the window is then bounded by count alone.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
