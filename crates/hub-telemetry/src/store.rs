//! The store: a journal of batches, and a checkpoint from which its tables come back quickly.
//!
//! The checkpoint (a [`SnapshotStore`]) holds where every export stands and the finished blocks of the index, as of a
//! journal offset, the mark. Opening loads it and reads the journal from the mark on. It is written every few MiB, long
//! before the journal drops what lies behind the mark; so stands outlive the batches they came from.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api_edge::telemetry::{BatchAnswer, BatchHeader};
use base_journal::{
    AppendError, Journal, JournalOptions, OpenJournalError, OpenSnapshotError, ReadError, SnapshotError,
    SnapshotOptions, SnapshotStore,
};
use bytes::Bytes;
use tracing::{info, warn};

use crate::batch::{self, BatchError, Head};
use crate::index::Index;
use crate::stands::{self, Place, Stand};

/// Key of the mark in the checkpoint.
const MARK: &str = "mark";

/// Form of the checkpoint.
const FORMAT: u32 = 1;

/// How much is kept.
#[derive(Clone, Debug)]
pub struct TelemetryOptions {
    /// Bytes of batches; the oldest go first.
    pub bytes_max: u64,
    /// Space is given back in pieces of this size.
    pub segment_bytes: u64,
}

impl Default for TelemetryOptions {
    /// 1 GiB in pieces of 8 MiB: some three million events.
    fn default() -> Self {
        Self { bytes_max: 1024 * 1024 * 1024, segment_bytes: 8 * 1024 * 1024 }
    }
}

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenTelemetryError {
    /// The journal of batches.
    #[error("failed to open the telemetry journal")]
    Journal(#[from] OpenJournalError),
    /// The checkpoint.
    #[error("failed to open the telemetry checkpoint")]
    Checkpoint(#[from] OpenSnapshotError),
    /// Batches since the checkpoint cannot be read.
    #[error("failed to read batches since the last checkpoint")]
    Read(#[from] ReadError),
}

/// Why a batch was not taken.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// It begins where the hub does not stand; the answer says where that is.
    #[error("the batch does not begin where the hub stands ({})", .0.next)]
    Elsewhere(BatchAnswer),
    /// It will never be taken as it is.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The hub's disk is full; nothing was stored. Reads go on.
    #[error("the hub's disk is full; free some room under {}", path.display())]
    Full {
        /// The store's folder.
        path: PathBuf,
    },
    /// The hub's disk failed; nothing was acknowledged.
    #[error("failed to store the batch")]
    Store(#[source] AppendError),
}

/// What the store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TelemetryUsage {
    /// Bytes of batches on disk.
    pub bytes: u64,
    /// Events in them.
    pub events: u64,
    /// Exports heard of, over all nodes.
    pub exports: usize,
    /// Records that nodes lost before they could send them.
    pub lost: u64,
}

/// Batches from nodes, stored once each. Clones share it.
#[derive(Clone)]
pub struct Telemetry {
    pub(crate) inner: Arc<Inner>,
}

/// Locks are taken in the order `checkpointing`, `stands`, one stand, `tables`, and a stand is held while its batch goes
/// to the disk: whoever holds `tables` takes nothing else.
pub(crate) struct Inner {
    dir: PathBuf,
    options: TelemetryOptions,
    pub(crate) journal: Journal,
    checkpoint: SnapshotStore,
    /// Held while writing the checkpoint.
    checkpointing: Mutex<()>,
    stands: Mutex<HashMap<String, Arc<Mutex<Stand>>>>,
    pub(crate) tables: Mutex<Tables>,
}

pub(crate) struct Tables {
    pub(crate) index: Index,
    /// Batches appended but not in the index yet.
    in_flight: BTreeSet<u64>,
    /// Stands that changed since the checkpoint.
    changed: BTreeSet<String>,
    /// Bytes taken since the checkpoint.
    unmarked_bytes: u64,
    /// Blocks before this one are in the checkpoint.
    mark: u64,
    /// Records that nodes lost, over all stands.
    lost: u64,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn block_key(start: u64) -> String {
    format!("block/{start:020}")
}

impl Telemetry {
    /// Opens the store in `dir`, or makes one.
    pub fn open(dir: &Path, options: TelemetryOptions) -> Result<Self, OpenTelemetryError> {
        let journal = Journal::open(
            &dir.join("batches"),
            JournalOptions { segment_bytes: options.segment_bytes, bytes_max: options.bytes_max },
        )?;
        let checkpoint = SnapshotStore::open(&dir.join("checkpoint"), SnapshotOptions::default())?;
        checkpoint.require_format(FORMAT)?;
        let mut tables = Tables {
            index: Index::default(),
            in_flight: BTreeSet::new(),
            changed: BTreeSet::new(),
            unmarked_bytes: 0,
            mark: checkpoint.get(MARK).and_then(|mark| std::str::from_utf8(&mark).ok()?.parse().ok()).unwrap_or(0),
            lost: 0,
        };
        let mut stands: HashMap<String, Stand> = HashMap::new();
        for (key, bytes) in checkpoint.iter_prefix("stand/") {
            match serde_json::from_slice(&bytes) {
                Ok(stand) => drop(stands.insert(key, stand)),
                Err(error) => warn!(key, %error, "A stand in the telemetry checkpoint does not parse."),
            }
        }
        for (key, bytes) in checkpoint.iter_prefix("block/") {
            let start = key.trim_start_matches("block/").parse::<u64>();
            if let (Ok(start), Ok(block)) = (start, serde_json::from_slice(&bytes))
                && start < tables.mark
            {
                tables.index.restore(start, block);
            }
        }
        // An incomplete checkpoint is made up for by reading everything that is still there.
        if checkpoint.recovery().is_incomplete {
            tables.mark = 0;
            tables.index = Index::default();
        }
        let scanned = scan(&journal, &mut tables, &mut stands)?;
        tables.lost = stands.values().map(|stand| stand.lost).sum();
        info!(dir = %dir.display(), scanned, exports = stands.len(), bytes = journal.bytes(), "Telemetry is open.");
        let stands = stands.into_iter().map(|(key, stand)| (key, Arc::new(Mutex::new(stand)))).collect();
        let inner = Inner {
            dir: dir.to_owned(),
            options,
            journal,
            checkpoint,
            checkpointing: Mutex::new(()),
            stands: Mutex::new(stands),
            tables: Mutex::new(tables),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Stores a batch of `node` from a whole request body: header line and event lines.
    pub fn ingest_body(&self, node: &str, body: &Bytes) -> Result<BatchAnswer, IngestError> {
        let (header, lines) = batch::split_header(body)?;
        self.ingest(node, &header, &lines)
    }

    /// Stores a batch of `node`; durable when this returns. A batch that is stored already is answered as if it were new.
    ///
    /// Batches of one export are taken one at a time; all exports share the disk's syncs.
    pub fn ingest(&self, node: &str, header: &BatchHeader, lines: &[u8]) -> Result<BatchAnswer, IngestError> {
        let inner = &*self.inner;
        let head = batch::check(node, header, lines)?;
        // After a start that had to read the whole journal it is due at once: nothing else would ever write it.
        let is_overdue = lock(&inner.tables).unmarked_bytes > inner.options.bytes_max / 2;
        if is_overdue && let Err(error) = inner.write_checkpoint() {
            warn!(%error, "Could not write the telemetry checkpoint; batches are refused until it can be.");
            return Err(IngestError::Full { path: inner.dir.clone() });
        }
        let key = stands::key(node, &header.export);
        let stand = lock(&inner.stands).entry(key.clone()).or_default().clone();
        let mut stand = lock(&stand);
        match stand.place(header) {
            Place::Next => {}
            Place::Known(answer) => return Ok(answer),
            Place::Elsewhere(answer) => return Err(IngestError::Elsewhere(answer)),
        }
        let mut record = head.encode();
        record.extend_from_slice(lines);
        let (offset, appended) = {
            let mut tables = lock(&inner.tables);
            if tables.unmarked_bytes > inner.options.bytes_max / 2 {
                // The checkpoint cannot be written; going on would drop batches whose stands are nowhere else.
                return Err(IngestError::Full { path: inner.dir.clone() });
            }
            let appended = inner.journal.append(&[&record]).map_err(|error| inner.ingest_error(error))?;
            tables.in_flight.insert(appended.offsets.start);
            (appended.offsets.start, appended)
        };
        let committed = inner.journal.commit(&appended);
        let is_due = {
            let mut tables = lock(&inner.tables);
            tables.in_flight.remove(&offset);
            committed.map_err(|error| inner.ingest_error(error))?;
            let lost_before = stand.lost;
            stand.advance(&header.epoch, header.to, header.lost);
            tables.lost += stand.lost - lost_before;
            tables.index.add(offset, record.len() as u64, &head);
            tables.changed.insert(key);
            tables.unmarked_bytes += record.len() as u64;
            tables.unmarked_bytes >= inner.options.segment_bytes / 2
        };
        // Released before the checkpoint, which looks at every stand that changed.
        drop(stand);
        if is_due && let Err(error) = inner.write_checkpoint() {
            warn!(%error, "Could not write the telemetry checkpoint; opening will take longer.");
        }
        Ok(BatchAnswer { epoch: header.epoch.clone(), next: header.to })
    }

    /// What the store holds. Waits for no disk.
    pub fn usage(&self) -> TelemetryUsage {
        let exports = lock(&self.inner.stands).len();
        let (events, lost) = {
            let tables = lock(&self.inner.tables);
            (tables.index.events(), tables.lost)
        };
        TelemetryUsage { bytes: self.inner.journal.bytes(), events, exports, lost }
    }

    /// Writes the checkpoint, so that the next opening is quick. Not needed for safety.
    pub fn checkpoint(&self) -> Result<(), SnapshotError> {
        self.inner.write_checkpoint()
    }
}

impl Inner {
    fn ingest_error(&self, error: AppendError) -> IngestError {
        match error {
            AppendError::Full { .. } => IngestError::Full { path: self.dir.clone() },
            other => IngestError::Store(other),
        }
    }

    fn write_checkpoint(&self) -> Result<(), SnapshotError> {
        let _turn = lock(&self.checkpointing);
        let (changed, blocks, gone, old_mark, mark, bytes) = {
            let mut tables = lock(&self.tables);
            let gone = tables.index.trim(self.journal.first());
            let open = tables.index.open_block().unwrap_or(0);
            // A block that a batch in flight will be added to is not finished.
            let unfinished = tables.in_flight.first().map_or(open, |first| tables.index.block_of(*first));
            let mark = open.min(unfinished).max(tables.mark);
            let blocks = tables.index.store(tables.mark, mark);
            (std::mem::take(&mut tables.changed), blocks, gone, tables.mark, mark, tables.unmarked_bytes)
        };
        let written = (|| {
            for key in &changed {
                let Some(stand) = lock(&self.stands).get(key).cloned() else { continue };
                let bytes = serde_json::to_vec(&*lock(&stand)).expect("a stand holds text and numbers only");
                self.checkpoint.put(key, bytes)?;
            }
            for (start, block) in &blocks {
                let bytes = serde_json::to_vec(block).expect("a block holds text and numbers only");
                self.checkpoint.put(&block_key(*start), bytes)?;
            }
            for start in &gone {
                self.checkpoint.remove(&block_key(*start))?;
            }
            // Last, so that a mark on disk has everything before it on disk as well.
            if mark != old_mark {
                self.checkpoint.put(MARK, mark.to_string().into_bytes())?;
            }
            self.checkpoint.sync()
        })();
        let mut tables = lock(&self.tables);
        match &written {
            Ok(()) => {
                tables.mark = tables.mark.max(mark);
                tables.unmarked_bytes -= bytes.min(tables.unmarked_bytes);
            }
            Err(_) => tables.changed.extend(changed),
        }
        written
    }
}

/// Reads the journal from the mark on and brings the tables up to date; returns how many batches that were.
fn scan(journal: &Journal, tables: &mut Tables, stands: &mut HashMap<String, Stand>) -> Result<u64, ReadError> {
    const READ_BYTES: usize = 1024 * 1024;
    let mut offset = tables.mark.max(journal.first());
    let mut scanned = 0;
    loop {
        let chunk = journal.read(offset, READ_BYTES)?;
        if chunk.next == offset {
            return Ok(scanned);
        }
        for record in &chunk.records {
            let Some((head, _)) = Head::decode(&record.payload) else {
                warn!(offset = record.offset, "A stored batch is of an unknown form; it is left out.");
                continue;
            };
            let key = stands::key(&head.node, &head.export);
            stands.entry(key.clone()).or_default().advance(&head.epoch, head.to, head.lost);
            tables.changed.insert(key);
            tables.index.add(record.offset, record.payload.len() as u64, &head);
            tables.unmarked_bytes += record.payload.len() as u64;
            scanned += 1;
        }
        offset = chunk.next;
    }
}
