//! What the store needs of an embedded engine: an ordered map from revision to row, and one blob beside it.
//!
//! The trait is this narrow so that an engine can be changed in a day. Every object version is one row under the
//! revision that made it, so a write is one append and the history needs no second copy of anything. See
//! `docs/adr/0001-store-engine.md` for how the engine was chosen.

mod memory;
mod sqlite;

use std::ops::RangeInclusive;

pub(crate) use self::memory::MemoryEngine;
pub(crate) use self::sqlite::{LogFault, SqliteEngine};

/// Everything that one flush makes durable, or nothing of it.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Rows of batches that failed, of which it is not known whether the disk has them, as ranges of revisions in order. Removed
    /// before all else. While a disk fails every write adds one, and all of them are one range.
    pub uncertain: Vec<RangeInclusive<u64>>,
    /// New rows; each revision is new, or among the uncertain.
    pub puts: Vec<(u64, Vec<u8>)>,
    /// Rows that are there and get another form.
    pub rewrites: Vec<(u64, Vec<u8>)>,
    /// Rows that left the watch cache window; they may be among the new ones.
    pub removes: Vec<u64>,
    /// The store's bookkeeping, when it changed.
    pub meta: Option<Vec<u8>>,
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.uncertain.is_empty()
            && self.puts.is_empty()
            && self.rewrites.is_empty()
            && self.removes.is_empty()
            && self.meta.is_none()
    }

    /// The batch has failed: its rows are uncertain.
    pub fn distrust(&mut self) {
        let mut all = std::mem::take(&mut self.uncertain);
        all.extend(self.puts.iter().map(|(revision, _)| *revision..=*revision));
        all.sort_unstable_by_key(|range| *range.start());
        for range in all {
            match self.uncertain.last_mut() {
                Some(last) if *range.start() <= last.end().saturating_add(1) => {
                    *last = *last.start()..=*range.end().max(last.end());
                }
                _ => self.uncertain.push(range),
            }
        }
    }
}

/// An engine failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No space on the disk.
    #[error("the disk is full")]
    Full,
    /// The disk or the engine's file is at fault.
    #[error("the engine failed: {0}")]
    Io(String),
}

/// Called with each row; it stops the walk by returning false.
pub(crate) type RowVisitor<'a> = &'a mut dyn FnMut(u64, &[u8]) -> bool;

/// An embedded engine. After a failed [`commit`](Engine::commit) the next one may succeed; whether the disk had taken the
/// failed batch after all is not known, so its rows are among the next batch's uncertain ones.
pub(crate) trait Engine: Send {
    /// Visits all rows by ascending revision.
    fn visit(&mut self, row: RowVisitor<'_>) -> Result<(), EngineError>;

    /// One row.
    fn row(&mut self, revision: u64) -> Result<Option<Vec<u8>>, EngineError>;

    /// The bookkeeping blob of the last commit that had one.
    fn meta(&mut self) -> Result<Option<Vec<u8>>, EngineError>;

    /// Makes the batch durable as a whole; it is on the disk when this returns.
    fn commit(&mut self, batch: &Batch) -> Result<(), EngineError>;

    /// Gives space that rows no longer need back to the disk, as far as that is possible.
    fn give_back(&mut self) -> Result<(), EngineError>;

    /// Writes the files anew, so that nothing of rows that were removed or rewritten is left in them.
    fn scrub(&mut self) -> Result<(), EngineError>;

    /// What was wrong with the log of commits when the engine was opened. A power cut leaves damaged pages of commits that had not
    /// returned; of those that had, only a disk that lost something.
    fn log_fault(&self) -> Option<LogFault> {
        None
    }

    /// Size of the engine's files.
    fn disk_bytes(&self) -> u64;
}
