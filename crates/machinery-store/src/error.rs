//! How the store fails, and what to do then.

use std::io;
use std::path::PathBuf;

use crate::cipher::CipherError;
use crate::engine::EngineError;
use crate::types::Revision;

/// Why a store could not be opened. The files are as they were.
#[derive(Debug, thiserror::Error)]
pub enum OpenStoreError {
    /// The directory cannot be created, read or written.
    #[error("failed to prepare the store directory {}", path.display())]
    PrepareDirectory {
        /// The directory or file in question.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The version file is not one of ours.
    #[error("{} does not name a store format; the directory is not a store, or the file is damaged", path.display())]
    ReadVersion {
        /// The version file.
        path: PathBuf,
    },
    /// A later program wrote it.
    #[error("the store in {} has format {found}, this program knows up to {known}; start the newer program", path.display())]
    Newer {
        /// The store's directory.
        path: PathBuf,
        /// The format found there.
        found: u32,
        /// The newest format this program reads.
        known: u32,
    },
    /// The engine could not open its files.
    #[error("failed to open the store engine in {}", path.display())]
    OpenEngine {
        /// The store's directory.
        path: PathBuf,
        /// What the engine said.
        #[source]
        source: EngineError,
    },
    /// The directory is a store's, and its objects are not there.
    #[error(
        "{} is empty or missing, though there was a store: restore a backup; to begin with an empty cluster, remove {} as well",
        path.display(), version.display()
    )]
    Lost {
        /// The file of objects.
        path: PathBuf,
        /// The version file.
        version: PathBuf,
    },
    /// A row or the bookkeeping cannot be decoded.
    #[error("the store in {} is damaged at revision {revision}: {reason}; restore a backup", path.display())]
    Damaged {
        /// The store's directory.
        path: PathBuf,
        /// Which row.
        revision: Revision,
        /// What is wrong with it.
        reason: String,
    },
    /// Rows are sealed, and there is no cipher for them or its key is another.
    #[error("failed to unlock the sealed rows of the store in {}; start with the key that sealed them", path.display())]
    Unlock {
        /// The store's directory.
        path: PathBuf,
        /// Why not; absent when no cipher was given.
        #[source]
        source: Option<CipherError>,
    },
    /// The random numbers or the key for rows that are to be sealed are missing, or the disk did not take the sealed rows.
    #[error("failed to seal the rows of the store in {}", path.display())]
    Seal {
        /// The store's directory.
        path: PathBuf,
        /// What the cipher or the engine said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The writer thread could not be started.
    #[error("failed to start the store's writer thread")]
    StartWriter(#[source] io::Error),
}

/// Why a commit did not happen. None of its operations did.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// The object exists where it should be absent, or is at another revision.
    #[error("the object is at revision {current}, not as expected")]
    Conflict {
        /// Its revision now.
        current: Revision,
    },
    /// There is no such object.
    #[error("there is no such object")]
    NotFound,
    /// No space on the disk; nothing is harmed. Deletions are taken, so that space can be made.
    #[error("the disk of the store is full; delete what is not needed, then try again")]
    Full,
    /// The disk failed; the store continues with what the disk holds.
    #[error("failed to write the store: {0}")]
    Io(String),
    /// The store is being closed.
    #[error("the store is closed")]
    Closed,
}

/// The revision is older than the watch cache window, or was never given out by this store: list again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("revision {asked} is not within the watch cache window {oldest}..={current}; list again")]
pub struct Expired {
    /// The revision asked for.
    pub asked: Revision,
    /// The oldest one that can still be asked for.
    pub oldest: Revision,
    /// The newest.
    pub current: Revision,
}

/// Why a watch gives no more changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchEnded {
    /// The watcher was too slow: changes it has not seen left the window. List again, then watch.
    #[error("the watch fell behind the watch cache window; list again")]
    Lagged,
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}
