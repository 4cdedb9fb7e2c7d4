//! What the store asks of an embedded engine: an ordered map from revision to row, and one blob beside it.
//!
//! The door is this narrow so that an engine can be changed in a day. Every object version is one row under the
//! revision that made it, so a write is one append and the history needs no second copy of anything. See
//! `docs/adr/0001-store-engine.md` for how the engine was chosen.

mod sqlite;

pub(crate) use self::sqlite::SqliteEngine;

/// Everything that one flush makes durable, or nothing of it.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// New rows; each revision is new.
    pub puts: Vec<(u64, Vec<u8>)>,
    /// Rows that left the change window.
    pub removes: Vec<u64>,
    /// The store's bookkeeping, when it changed.
    pub meta: Option<Vec<u8>>,
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.removes.is_empty() && self.meta.is_none()
    }
}

/// An engine failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No room on the disk.
    #[error("the disk is full")]
    Full,
    /// The disk or the engine's file is at fault.
    #[error("the engine failed: {0}")]
    Io(String),
}

/// Called with each row; it stops the walk by answering false.
pub(crate) type RowVisitor<'a> = &'a mut dyn FnMut(u64, &[u8]) -> bool;

/// An embedded engine. After a failed [`commit`](Engine::commit) the next one may succeed; whether the disk had taken the
/// failed batch after all is not known, so its rows are among the next batch's removes.
pub(crate) trait Engine: Send {
    /// Visits all rows by ascending revision.
    fn visit(&mut self, row: RowVisitor<'_>) -> Result<(), EngineError>;

    /// The bookkeeping blob of the last commit that had one.
    fn meta(&mut self) -> Result<Option<Vec<u8>>, EngineError>;

    /// Makes the batch durable as a whole; it is on the disk when this returns.
    fn commit(&mut self, batch: &Batch) -> Result<(), EngineError>;

    /// Size of the engine's files.
    fn disk_bytes(&self) -> u64;
}
