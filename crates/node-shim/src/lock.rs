//! A lock on a file that dies with its holder.

use std::{
    fs::{File, TryLockError},
    io,
};

/// Held until it is dropped, or its process ends.
#[derive(Debug)]
pub struct FileLock(File);

impl FileLock {
    /// `None` when another process holds it.
    pub fn try_acquire(file: File) -> io::Result<Option<Self>> {
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Waits for whoever holds it.
    pub fn acquire(file: File) -> io::Result<Self> {
        file.lock()?;
        Ok(Self(file))
    }

    /// The file, for a child to close its copy of.
    pub fn file(&self) -> &File {
        &self.0
    }
}

impl Drop for FileLock {
    /// Closing the file would not do: a child that is being started holds a copy of it until its `exec`.
    fn drop(&mut self) {
        // It fails for no open file; and the kernel unlocks it with the last copy in any case.
        let _ = self.0.unlock();
    }
}
