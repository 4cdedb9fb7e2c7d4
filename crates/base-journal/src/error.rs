//! What can go wrong with a journal.

use std::io;
use std::path::PathBuf;

use crate::frame;

/// Why a journal could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenJournalError {
    /// The directory cannot be made or listed.
    #[error("failed to open journal directory {}", path.display())]
    OpenDir {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file of the journal cannot be read or written.
    #[error("failed to open journal file {}", path.display())]
    OpenFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A newer program wrote it; nothing was changed.
    #[error(
        "{} has format {found}, this program knows formats up to {}; start the newer program again, or move the directory away",
        path.display(), frame::VERSION
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format version.
        found: u32,
    },
    /// Another process has it open.
    #[error("journal {} is in use by another process; stop that one first", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
}

/// Why records were not taken, or not made durable. They are then not in the journal; the caller may append them again.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// No space. Reads continue, and appends work again when there is space.
    #[error("failed to append to journal {}: the disk is full; free some space or lower the journal's size", path.display())]
    Full {
        /// The journal's directory.
        path: PathBuf,
    },
    /// A record is larger than [`Journal::record_bytes_max`](crate::Journal::record_bytes_max).
    #[error("a record of {bytes} bytes is larger than the journal takes ({max})")]
    TooLarge {
        /// Size of the record.
        bytes: usize,
        /// Largest size.
        max: usize,
    },
    /// Nobody can have seen such an offset.
    #[error("offset {offset} is beyond {max}, the largest that a journal gives", max = crate::OFFSET_MAX)]
    Offset {
        /// The offset.
        offset: u64,
    },
    /// The disk failed.
    #[error("failed to write journal file {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// An earlier sync failed and took these records with it.
    #[error("a failed sync took records from {first} on with it; append them again")]
    Lost {
        /// Offset of the first record that this call was about.
        first: u64,
    },
}

/// Why records could not be read.
#[derive(Debug, thiserror::Error)]
#[error("failed to read journal file {}", path.display())]
pub struct ReadError {
    /// The file.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// Why a cursor was not moved.
#[derive(Debug, thiserror::Error)]
#[error("failed to store cursor {name} in {}", path.display())]
pub struct CursorError {
    /// The cursor.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}
