//! Keeps bytes on disk through power cuts: an append-only journal, and a small keyed store beside it.
//!
//! Mechanism without policy: what a record means, when it may go and who reads it is decided by the callers.
//!
//! - [`Journal`]: numbered records in segments. Many threads append, one `fdatasync` serves them all; readers follow
//!   with named cursors; a byte cap drops the oldest whole segments and readers learn how many records they missed.
//! - [`SnapshotStore`]: keys and values held in memory, changes in a log, compacted into snapshots of which the last
//!   two are kept with their logs, so that a damaged snapshot costs nothing.
//!
//! `appenders ──append, commit──▶ [ segment | segment | segment ] ──read, set_cursor──▶ readers`
//!
//! Calls block on the disk; asynchronous callers wrap `commit`, `read` and `set_cursor` in `spawn_blocking` and learn of new
//! records from [`Journal::on_commit`]. Every file begins with a header that carries its format version; a file of a
//! newer version is rejected and left as it is.

mod cursors;
mod disk;
mod error;
mod frame;
mod journal;
mod segment;
mod snapshot;

pub use error::{AppendError, CursorError, OpenJournalError, ReadError};
pub use frame::RECORD_BYTES_MAX;
pub use journal::{Appended, Chunk, Damage, Journal, JournalOptions, OFFSET_MAX, Record, Recovery, SegmentExtent};
pub use snapshot::{OpenSnapshotError, SnapshotError, SnapshotOptions, SnapshotRecovery, SnapshotStore};

#[cfg(test)]
mod tests;
