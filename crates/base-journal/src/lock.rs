//! Keeps a second program out of a folder.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

use tracing::warn;

/// The lock on a folder; let go when it is dropped, or when its process dies.
pub(crate) struct FolderLock(File);

impl FolderLock {
    /// Takes the lock, or answers `None` when another holds it.
    pub fn try_take(dir: &Path) -> io::Result<Option<Self>> {
        let file = File::create(dir.join("lock"))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl Drop for FolderLock {
    /// Closing the file would not do: a child that is being started holds a copy of it until its `exec`.
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            warn!(%error, "Failed to let go of a folder.");
        }
    }
}
