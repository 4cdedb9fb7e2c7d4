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
//! records from [`Journal::on_commit`].
//!
//! **Where is it?** `frame` is the format of every file, `segment` one file of the journal, `journal` the whole with its
//! commit groups, `cursors` the offsets of readers, `snapshot` the keyed store, `disk` the few calls of the file system.
//!
//! **May I touch it?** Nodes in the field have these files. Each begins with a header that carries its format version; a file
//! of a newer version is rejected and left as it is, and a fixture of each version in `fixtures/` is opened by a test.
//! What is acknowledged must survive a power cut at any instant, so each order of writes and syncs has its reason.
//!
//! **How do I try it?** `cargo test -p base-journal`, as root with FUSE to include the power cuts (`tests/power.rs`);
//! `cargo test --release -p base-journal -- --ignored --nocapture how_fast` prints records per second.
//!
//! **What breaks?** A torn tail is truncated, damage is skipped and counted; a full disk fails appends and nothing else. A sync
//! that failed truncates what it was for, and every waiting caller appends again. Losing both generations of a file loses
//! the cursors: readers begin with the oldest record, and receivers recognise what they have.

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
