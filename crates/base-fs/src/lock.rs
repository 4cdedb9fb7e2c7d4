//! Keeps a second process from a directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

use tracing::warn;

/// Name of the lock's file in the directory.
const LOCK_FILE: &str = "lock";

/// A lock that every process sees; unlocked when this is dropped, or when its process dies, however it dies.
///
/// ```
/// let dir = tempfile::tempdir().unwrap();
/// let lock = base_fs::DirLock::try_acquire(dir.path()).unwrap().expect("nobody else holds it");
/// assert!(base_fs::DirLock::try_acquire(dir.path()).unwrap().is_none());
/// drop(lock);
/// assert!(base_fs::DirLock::try_acquire(dir.path()).unwrap().is_some());
/// ```
#[derive(Debug)]
pub struct DirLock(File);

impl DirLock {
    /// Locks `dir` by the file `lock` in it, or returns `None` when another process holds it.
    pub fn try_acquire(dir: &Path) -> io::Result<Option<Self>> {
        Self::try_acquire_at(&dir.join(LOCK_FILE))
    }

    /// Locks the file at `path`, which is created when it is not there. On a disk that became read-only the one that is there will do.
    pub fn try_acquire_at(path: &Path) -> io::Result<Option<Self>> {
        // Not truncated: a file that is a lock may hold something for people.
        let file = match OpenOptions::new().write(true).create(true).truncate(false).open(path) {
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => File::open(path)?,
            opened => opened?,
        };
        Self::try_acquire_file(file)
    }

    /// Locks an open file: for those who must not create it, because its presence says something.
    pub fn try_acquire_file(file: File) -> io::Result<Option<Self>> {
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Locks an open file, waiting for whoever holds it.
    pub fn acquire_file(file: File) -> io::Result<Self> {
        file.lock()?;
        Ok(Self(file))
    }

    /// The file, to be handed to a child that shares the lock.
    pub fn file(&self) -> &File {
        &self.0
    }
}

impl Drop for DirLock {
    /// Closing the file would not do: a child that is being started holds a copy of it until its `exec`.
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            warn!(%error, "Failed to unlock a directory.");
        }
    }
}
