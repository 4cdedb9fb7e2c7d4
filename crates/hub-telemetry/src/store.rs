//! The store: a journal of batches, and a checkpoint from which its tables come back quickly.
//!
//! The checkpoint (a [`SnapshotStore`]) holds the acknowledged offset of every export and the finished blocks of the index,
//! as of a journal offset, the mark. Opening loads it and reads the journal from the mark on. It is written every few MiB,
//! and always before a segment is dropped; so acknowledged offsets outlive the batches they came from.
//!
//! Checkpoint, format 2: `format` · `stand/NODE/EXPORT` a position · `block/OFFSET` a block · `scanned` the mark. Format 1
//! had no names of resources and no bytes per node in its blocks: they are left aside, and the journal is read once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use api_edge::telemetry::{BatchAnswer, BatchHeader, OFFSET_MAX};
use base_journal::{
    AppendError, Journal, JournalOptions, OpenJournalError, OpenSnapshotError, RECORD_BYTES_MAX, ReadError,
    SnapshotError, SnapshotOptions, SnapshotStore,
};
use bytes::Bytes;
use tracing::{info, warn};

use crate::batch::{self, BatchError, Head};
use crate::index::Index;
use crate::pack::{self, Special};
use crate::positions::{self, AssignedExports, EXPORTS_MAX, EveryExport, LastBatch, Place, Position, Positions};

/// Key of the mark in the checkpoint.
const MARK: &str = "scanned";

/// Key of the mark in format 1.
const MARK_1: &str = "mark";

/// Form of the checkpoint that this code writes.
const FORMAT: u32 = 2;

/// How much is kept, of whom.
#[derive(Clone)]
pub struct TelemetryOptions {
    /// Bytes of batches; the oldest go first, but nobody's fair share ([`crate::retention`]).
    pub bytes_max: u64,
    /// Space is given back in pieces of this size.
    pub segment_bytes: u64,
    /// Which exports are taken.
    pub assigned: Arc<dyn AssignedExports>,
    /// Who is notified of what a person should look at.
    pub observer: Arc<dyn Observer>,
}

impl Default for TelemetryOptions {
    /// 1 GiB in pieces of 8 MiB, some three million events, of every export that comes.
    fn default() -> Self {
        Self {
            bytes_max: 1024 * 1024 * 1024,
            segment_bytes: 8 * 1024 * 1024,
            assigned: Arc::new(EveryExport),
            observer: Arc::new(Nobody),
        }
    }
}

impl std::fmt::Debug for TelemetryOptions {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("TelemetryOptions")
            .field("bytes_max", &self.bytes_max)
            .field("segment_bytes", &self.segment_bytes)
            .finish_non_exhaustive()
    }
}

/// Is notified of what a person should look at. Called on the thread of the request: it should only hand the news on.
pub trait Observer: Send + Sync {
    /// Two journals claim to be one.
    fn epoch_conflict(&self, conflict: &EpochConflict);
}

/// Takes no notice.
struct Nobody;

impl Observer for Nobody {
    fn epoch_conflict(&self, _conflict: &EpochConflict) {}
}

/// A node sent other bytes for records that are stored: two boxes run from one disk image, or a disk was put back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "another journal has epoch {epoch} of export {export}: records {from} to {to} of node {node} are stored with other bytes; \
     if two boxes were made from one disk image, run `selvedge reset` on one of them and join it under a name of its own"
)]
pub struct EpochConflict {
    /// The node, by its certificate.
    pub node: String,
    /// `namespace/name`.
    pub export: String,
    /// The epoch that both claim.
    pub epoch: String,
    /// First record of the batch.
    pub from: u64,
    /// Record after the last one.
    pub to: u64,
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
    /// It does not begin at the acknowledged offset, which the answer says.
    #[error("the batch does not begin at the acknowledged offset {}", .0.next)]
    OffsetMismatch(BatchAnswer),
    /// Another journal has this epoch.
    #[error(transparent)]
    EpochConflict(EpochConflict),
    /// The node is not to run this export, as far as the hub knows by now. It should try again.
    #[error(
        "export {export} is not assigned to node {node}; batches are taken once its NodeAssignment names it, so try again later"
    )]
    NotAssigned {
        /// The node.
        node: String,
        /// The export.
        export: String,
    },
    /// The node has as many exports as it may have.
    #[error("node {node} has {EXPORTS_MAX} exports, which is the most; delete one")]
    TooManyExports {
        /// The node.
        node: String,
    },
    /// More new journals than anyone has use for.
    #[error(
        "export {export} of node {node} has had {max} journals in 90 days, which is the most that are remembered; \
         keep the node's journal, or give the export another name", max = positions::EPOCHS_MAX
    )]
    TooManyEpochs {
        /// The node.
        node: String,
        /// The export.
        export: String,
    },
    /// It will never be taken as it is.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The hub's disk is full; nothing was stored. Reads continue.
    #[error("the hub's disk is full; free some space under {}", path.display())]
    Full {
        /// The store's directory.
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
    /// Nodes of which anything is held.
    pub nodes: usize,
    /// Records that nodes lost before they could send them.
    pub lost: u64,
    /// Bytes of names that the index holds in memory.
    pub name_bytes: usize,
    /// Stored batches and positions with numbers that cannot be, met since the start; what they claimed is not counted.
    pub implausible: u64,
    /// Batches rejected since the start because another journal has their epoch.
    pub epoch_conflicts: u64,
    /// Batches rejected since the start because their node had sent more than its quota.
    pub over_quota: u64,
}

/// Batches from nodes, stored once each. Clones share it.
#[derive(Clone)]
pub struct Telemetry {
    pub(crate) inner: Arc<Inner>,
}

/// Locks are taken in the order one position, `retaining`, `checkpointing`, `tables`; a position is held while its batch
/// goes to the disk. Whoever holds `positions` or `tables` takes no other.
pub(crate) struct Inner {
    dir: PathBuf,
    pub(crate) options: TelemetryOptions,
    clock: Clock,
    pub(crate) journal: Journal,
    checkpoint: SnapshotStore,
    /// Held while a segment is dropped.
    pub(crate) retaining: Mutex<()>,
    /// Held while writing the checkpoint.
    checkpointing: Mutex<()>,
    positions: Mutex<Positions>,
    pub(crate) tables: Mutex<Tables>,
}

/// The seconds since 1970.
pub(crate) type Clock = fn() -> u64;

#[derive(Default)]
pub(crate) struct Tables {
    pub(crate) index: Index,
    /// Records appended but not in the index yet.
    pub(crate) in_flight: BTreeSet<u64>,
    /// Positions that changed since the checkpoint; none for one that was forgotten.
    changed: BTreeMap<String, Option<Position>>,
    /// Bytes taken since the checkpoint.
    pub(crate) unmarked_bytes: u64,
    /// Bytes taken since a segment was dropped.
    taken_bytes: u64,
    /// Blocks before this offset are in the checkpoint.
    mark: u64,
    /// Positions after all records before this offset are in the checkpoint.
    pub(crate) safe_to: u64,
    /// The checkpoint is of a former format.
    is_format_due: bool,
    /// Records that nodes lost, over all positions.
    lost: u64,
    implausible: u64,
    epoch_conflicts: u64,
    over_quota: u64,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wall_clock() -> u64 {
    // A clock before 1970 is a box without one: everything was heard of just now, and nothing is forgotten.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn block_key(start: u64) -> String {
    format!("block/{start:020}")
}

impl Telemetry {
    /// Opens the store in `dir`, or creates one.
    pub fn open(dir: &Path, options: TelemetryOptions) -> Result<Self, OpenTelemetryError> {
        Self::open_with_clock(dir, options, wall_clock)
    }

    pub(crate) fn open_with_clock(
        dir: &Path,
        mut options: TelemetryOptions,
        clock: Clock,
    ) -> Result<Self, OpenTelemetryError> {
        // Small enough for the ring to have some to drop.
        options.segment_bytes = options.segment_bytes.min(options.bytes_max / 8);
        let journal = Journal::open(
            &dir.join("batches"),
            JournalOptions {
                segment_bytes: options.segment_bytes,
                // What may be dropped is decided here, so the journal itself must never have to.
                bytes_max: options.bytes_max.saturating_mul(2).saturating_add(4 * RECORD_BYTES_MAX as u64),
            },
        )?;
        let checkpoint = SnapshotStore::open(&dir.join("checkpoint"), SnapshotOptions::default())?;
        let format = checkpoint.format(FORMAT)?;
        let mut opening = Opening { now: clock(), ..Opening::default() };
        opening.load(&checkpoint, format, journal.first());
        let scanned = opening.scan(&journal)?;
        let Opening { mut tables, positions, .. } = opening;
        let positions = positions.into_iter().filter_map(|(key, position)| {
            let (node, export) = positions::parse_key(&key)?;
            Some((node.to_owned(), export.to_owned(), position))
        });
        let mut all = Positions::default();
        for (node, export, position) in positions {
            all.insert(&node, &export, position);
        }
        tables.lost = all.lost();
        if tables.implausible > 0 {
            warn!(dir = %dir.display(), implausible = tables.implausible,
                "Stored batches claim numbers that cannot be; what they claim to have lost is not counted.");
        }
        info!(dir = %dir.display(), scanned, exports = all.len(), bytes = journal.bytes(), "Telemetry is open.");
        let inner = Inner {
            dir: dir.to_owned(),
            options,
            clock,
            journal,
            checkpoint,
            retaining: Mutex::new(()),
            checkpointing: Mutex::new(()),
            positions: Mutex::new(all),
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
        if !inner.options.assigned.is_assigned(node, &header.export) {
            return Err(IngestError::NotAssigned { node: node.to_owned(), export: header.export.clone() });
        }
        let head = batch::check(node, header, lines)?;
        let batch = LastBatch::of(header, lines);
        let position = inner.position(node, &header.export)?;
        let mut position = lock(&position);
        let now = (inner.clock)();
        match position.place(header, &batch, now) {
            Place::Next => {}
            Place::Known(answer) => {
                position.touch(&header.epoch, now);
                return Ok(answer);
            }
            Place::OffsetMismatch(answer) => return Err(IngestError::OffsetMismatch(answer)),
            Place::OtherJournal => return Err(inner.conflict(node, header)),
            Place::TooManyEpochs => {
                return Err(IngestError::TooManyEpochs { node: node.to_owned(), export: header.export.clone() });
            }
        }
        let encoded = head.encode();
        let record_bytes = (encoded.len() + lines.len()) as u64;
        let appended = inner.append(&[&encoded, lines])?;
        let committed = inner.journal.commit(&appended);
        let offset = appended.offsets.start;
        let (is_checkpoint_due, is_drop_due) = {
            let mut guard = lock(&inner.tables);
            let tables = &mut *guard;
            tables.in_flight.remove(&offset);
            committed.map_err(|error| inner.ingest_error(error))?;
            let lost_before = position.lost;
            position.advance(&header.epoch, batch, now);
            tables.lost = tables.lost.saturating_add(position.lost - lost_before);
            let segment = inner.journal.segment_of(offset).map_or(offset, |segment| segment.offsets.start);
            tables.index.add(offset, segment, record_bytes, &head);
            tables.changed.insert(positions::key(node, &header.export), Some(position.clone()));
            tables.unmarked_bytes += record_bytes;
            tables.taken_bytes += record_bytes;
            let is_drop_due = inner.is_nearly_full() && tables.taken_bytes >= inner.options.segment_bytes / 4;
            if is_drop_due {
                tables.taken_bytes = 0;
            }
            (tables.unmarked_bytes >= inner.options.segment_bytes / 2, is_drop_due)
        };
        // What follows is done for everyone, so batches of this export need not wait for it.
        drop(position);
        if is_checkpoint_due && let Err(error) = inner.write_checkpoint() {
            warn!(%error, "Could not write the telemetry checkpoint; opening will take longer.");
        }
        if is_drop_due {
            inner.drop_oldest_if_idle();
        }
        Ok(BatchAnswer { epoch: header.epoch.clone(), next: header.to })
    }

    /// What the store holds. Waits for no disk.
    pub fn usage(&self) -> TelemetryUsage {
        let exports = lock(&self.inner.positions).len();
        let tables = lock(&self.inner.tables);
        TelemetryUsage {
            bytes: self.inner.journal.bytes(),
            events: tables.index.events(),
            exports,
            nodes: tables.index.nodes(),
            lost: tables.lost,
            name_bytes: tables.index.name_bytes(),
            implausible: tables.implausible,
            epoch_conflicts: tables.epoch_conflicts,
            over_quota: tables.over_quota,
        }
    }

    /// A batch was rejected before it was read.
    pub(crate) fn count_over_quota(&self) {
        lock(&self.inner.tables).over_quota += 1;
    }

    /// Writes the checkpoint, so that the next opening is quick. Not needed for safety.
    pub fn checkpoint(&self) -> Result<(), SnapshotError> {
        self.inner.write_checkpoint()
    }
}

impl Inner {
    fn position(&self, node: &str, export: &str) -> Result<Arc<Mutex<Position>>, IngestError> {
        let found = lock(&self.positions).of(node, export, &*self.options.assigned);
        let (position, forgotten) = found.map_err(|_| IngestError::TooManyExports { node: node.to_owned() })?;
        if let Some(forgotten) = forgotten {
            info!(node, export = forgotten, "Forgot the acknowledged offset of an export that is assigned no more.");
            lock(&self.tables).changed.insert(positions::key(node, &forgotten), None);
        }
        Ok(position)
    }

    fn conflict(&self, node: &str, header: &BatchHeader) -> IngestError {
        let conflict = EpochConflict {
            node: node.to_owned(),
            export: header.export.clone(),
            epoch: header.epoch.clone(),
            from: header.from,
            to: header.to,
        };
        let count = {
            let mut tables = lock(&self.tables);
            tables.epoch_conflicts += 1;
            tables.epoch_conflicts
        };
        // The node tries again and again; powers of two keep the log readable.
        if count.is_power_of_two() {
            warn!(node, count, "{conflict}");
        }
        self.options.observer.epoch_conflict(&conflict);
        IngestError::EpochConflict(conflict)
    }

    /// Appends a record, after older ones were dropped as far as it takes.
    fn append(&self, pieces: &[&[u8]]) -> Result<base_journal::Appended, IngestError> {
        let bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        loop {
            {
                let mut tables = lock(&self.tables);
                if self.journal.bytes().saturating_add(bytes) <= self.options.bytes_max {
                    let appended = self.journal.append_pieces(pieces).map_err(|error| self.ingest_error(error))?;
                    tables.in_flight.insert(appended.offsets.start);
                    return Ok(appended);
                }
            }
            match self.drop_oldest() {
                Ok(true) => {}
                Ok(false) => return Err(IngestError::Full { path: self.dir.clone() }),
                Err(error) => {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        "Could not drop the oldest readings; batches are rejected."
                    );
                    return Err(IngestError::Full { path: self.dir.clone() });
                }
            }
        }
    }

    fn ingest_error(&self, error: AppendError) -> IngestError {
        match error {
            AppendError::Full { .. } => IngestError::Full { path: self.dir.clone() },
            other => IngestError::Store(other),
        }
    }

    pub(crate) fn write_checkpoint(&self) -> Result<(), SnapshotError> {
        let _turn = lock(&self.checkpointing);
        let due = {
            let mut tables = lock(&self.tables);
            let next = self.journal.next();
            let open = tables.index.open_block().unwrap_or(next);
            let in_flight = tables.in_flight.first().copied();
            // A block that a batch in flight will be added to is not finished.
            let unfinished = in_flight.map_or(next, |first| tables.index.block_of(first).min(first));
            let mark = open.min(unfinished).max(tables.mark);
            Due {
                positions: std::mem::take(&mut tables.changed),
                blocks: tables.index.take_changed(mark),
                mark,
                safe_to: in_flight.unwrap_or(next),
                bytes: tables.unmarked_bytes,
                is_format_due: tables.is_format_due,
            }
        };
        let written = self.write_due(&due);
        let mut tables = lock(&self.tables);
        match &written {
            Ok(()) => {
                tables.mark = tables.mark.max(due.mark);
                tables.safe_to = tables.safe_to.max(due.safe_to);
                tables.unmarked_bytes -= due.bytes.min(tables.unmarked_bytes);
                tables.is_format_due = false;
            }
            Err(_) => {
                tables.index.mark_changed(due.blocks.iter().map(|(start, _)| *start));
                for (key, position) in due.positions {
                    tables.changed.entry(key).or_insert(position);
                }
            }
        }
        written
    }

    fn write_due(&self, due: &Due) -> Result<(), SnapshotError> {
        if due.is_format_due {
            // The old mark goes first: without it whatever else is there of the former format is left aside.
            self.checkpoint.remove(MARK_1)?;
            self.checkpoint.set_format(FORMAT)?;
        }
        for (key, position) in &due.positions {
            match position {
                Some(position) => {
                    let bytes = serde_json::to_vec(position).expect("a position holds text and numbers only");
                    self.checkpoint.put(key, bytes)?;
                }
                None => drop(self.checkpoint.remove(key)?),
            }
        }
        for (start, block) in &due.blocks {
            match block {
                Some(block) => {
                    let bytes = serde_json::to_vec(block).expect("a block holds text and numbers only");
                    self.checkpoint.put(&block_key(*start), bytes)?;
                }
                None => drop(self.checkpoint.remove(&block_key(*start))?),
            }
        }
        // Last, so that a mark on disk has everything before it on disk as well.
        self.checkpoint.put(MARK, due.mark.to_string().into_bytes())?;
        self.checkpoint.sync()
    }
}

/// What a checkpoint writes.
struct Due {
    positions: BTreeMap<String, Option<Position>>,
    blocks: Vec<(u64, Option<crate::index::StoredBlock>)>,
    mark: u64,
    safe_to: u64,
    bytes: u64,
    is_format_due: bool,
}

/// Tables that are being rebuilt.
#[derive(Default)]
struct Opening {
    now: u64,
    tables: Tables,
    positions: BTreeMap<String, Position>,
    /// Packs whose `done` was not met yet: numbers, offset, segment, batches.
    packs: Vec<ScannedPack>,
    /// Positions are taken from packs too: the checkpoint lacks some.
    has_lost_positions: bool,
}

struct ScannedPack {
    numbers: std::ops::Range<u64>,
    offset: u64,
    segment: u64,
    batches: Vec<(u64, u64, Head)>,
}

impl Opening {
    /// Takes the checkpoint over, as far as it is whole.
    fn load(&mut self, checkpoint: &SnapshotStore, format: u32, first: u64) {
        for (key, bytes) in checkpoint.iter_prefix(positions::KEY_PREFIX) {
            match serde_json::from_slice::<Position>(&bytes) {
                Ok(mut position) => {
                    if position.clamp(self.now) {
                        self.tables.implausible += 1;
                        self.tables.changed.insert(key.clone(), Some(position.clone()));
                    }
                    self.positions.insert(key, position);
                }
                Err(error) => warn!(key, %error, "A position in the telemetry checkpoint does not parse."),
            }
        }
        let mark = checkpoint.get(MARK).and_then(|mark| std::str::from_utf8(&mark).ok()?.parse::<u64>().ok());
        self.has_lost_positions = checkpoint.recovery().is_incomplete;
        let mut is_whole = format == FORMAT && !self.has_lost_positions;
        let mut blocks = Vec::new();
        for (key, bytes) in checkpoint.iter_prefix("block/") {
            let Ok(start) = key.trim_start_matches("block/").parse::<u64>() else { continue };
            match serde_json::from_slice::<crate::index::StoredBlock>(&bytes) {
                Ok(block) => blocks.push((start, Some(block))),
                Err(_) => {
                    is_whole = false;
                    blocks.push((start, None));
                }
            }
        }
        self.tables.is_format_due = format < FORMAT || checkpoint.is_empty();
        // An incomplete checkpoint is made up for by reading everything that is still there.
        self.tables.mark = mark.filter(|_| is_whole).unwrap_or(0);
        for (start, block) in blocks {
            match block {
                Some(block) if is_whole && (first..self.tables.mark).contains(&block.location(start)) => {
                    self.tables.index.restore(start, block);
                }
                _ => self.tables.index.mark_changed([start]),
            }
        }
    }

    /// Reads the journal from the mark on and brings the tables up to date; returns how many records that were.
    fn scan(&mut self, journal: &Journal) -> Result<u64, ReadError> {
        const READ_BYTES: usize = 1024 * 1024;
        let mut offset = self.tables.mark.max(journal.first());
        let mut scanned = 0;
        loop {
            let chunk = journal.read(offset, READ_BYTES)?;
            if chunk.next == offset {
                return Ok(scanned);
            }
            for record in &chunk.records {
                let segment = journal.segment_of(record.offset).map_or(record.offset, |one| one.offsets.start);
                self.take(journal, segment, record.offset, &record.payload);
                self.tables.unmarked_bytes += record.payload.len() as u64;
                scanned += 1;
            }
            offset = chunk.next;
        }
    }

    fn take(&mut self, journal: &Journal, segment: u64, offset: u64, record: &Bytes) {
        if Head::is_batch(record) {
            match self.head(record, true) {
                // Its segment may have been dropped by a `done` in the same chunk.
                Some(head) if offset >= journal.first() => {
                    self.tables.index.add(offset, segment, record.len() as u64, &head);
                }
                Some(_) => {}
                None => warn!(offset, "A stored batch is of an unknown form; it is left out."),
            }
            return;
        }
        match pack::decode(record) {
            Some(Special::Pack { from, to, batches }) => {
                let has_lost_positions = self.has_lost_positions;
                let batches = batches.iter().filter_map(|batch| {
                    let head = self.head(&batch.record, has_lost_positions)?;
                    Some((batch.number, batch.record.len() as u64, head))
                });
                let batches = batches.collect();
                self.packs.push(ScannedPack { numbers: from..to, offset, segment, batches });
            }
            Some(Special::Done(before)) => {
                self.tables.index.drop_before(before);
                for ScannedPack { numbers, offset, segment, batches } in self.packs.drain(..) {
                    self.tables.index.add_pack(numbers, offset, segment, &batches);
                }
                // A crash came between the packs and the drop; everything the segment's batches said is read by now.
                journal.trim(before);
            }
            None => warn!(offset, "A stored record is of an unknown form; it is left out."),
        }
    }

    /// Reads the head of a stored batch and moves the position it speaks of.
    fn head(&mut self, record: &Bytes, moves_position: bool) -> Option<Head> {
        let (mut head, lines) = Head::decode(record)?;
        self.tables.implausible += u64::from(head.clamp());
        if moves_position && head.to <= OFFSET_MAX {
            let key = positions::key(&head.node, &head.export);
            let position = self.positions.entry(key.clone()).or_default();
            position.advance(&head.epoch, LastBatch::of_stored(&head, &lines), self.now);
            self.tables.changed.insert(key, Some(position.clone()));
        }
        Some(head)
    }
}
