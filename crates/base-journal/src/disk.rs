//! The few file operations both stores need, in one place, so that tests can make each of them fail.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use base_fs::DirError;

/// The disk, or in tests a disk that fills up and fails on demand.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    #[cfg(test)]
    pub(crate) faults: std::sync::Arc<Faults>,
}

/// What a test wants to go wrong.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Faults {
    /// Bytes that may still be written before the disk is full.
    pub(crate) space: std::sync::atomic::AtomicU64,
    /// The next that many syncs fail.
    pub(crate) failing_syncs: std::sync::atomic::AtomicU64,
}

#[cfg(test)]
impl Default for Faults {
    fn default() -> Self {
        Self { space: u64::MAX.into(), failing_syncs: 0.into() }
    }
}

impl Disk {
    /// Makes a directory and those above it, for their owner only; their names are durable on return.
    pub(crate) fn create_dir(&self, dir: &Path) -> io::Result<()> {
        base_fs::create_private_dir_all(dir).map_err(|error| match error {
            DirError::Create { source, .. } | DirError::MakePrivate { source, .. } | DirError::Sync { source, .. } => {
                source
            }
            other => io::Error::other(other),
        })
    }

    /// Makes a file that must not be there yet; readable by its owner only, because payloads may be secret.
    pub(crate) fn create(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
    }

    /// Opens a file for reading and writing.
    pub(crate) fn open(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(path)
    }

    /// Opens a file for reading and writing, or for reading alone on a disk that became read-only, where each write fails. Says
    /// whether it may be written.
    pub(crate) fn open_what_can_be(&self, path: &Path) -> io::Result<(File, bool)> {
        match self.open(path) {
            Err(error) if is_read_only(&error) => Ok((File::open(path)?, false)),
            opened => Ok((opened?, true)),
        }
    }

    /// Writes all of `bytes` at `position`.
    pub(crate) fn write_at(&self, file: &File, bytes: &[u8], position: u64) -> io::Result<()> {
        #[cfg(test)]
        {
            use std::sync::atomic::Ordering::SeqCst;
            let space = self.faults.space.load(SeqCst);
            if space < bytes.len() as u64 {
                // A real disk takes what fits before it complains.
                file.write_all_at(&bytes[..space as usize], position)?;
                self.faults.space.store(0, SeqCst);
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            if space != u64::MAX {
                self.faults.space.store(space - bytes.len() as u64, SeqCst);
            }
        }
        file.write_all_at(bytes, position)
    }

    /// Makes the contents of `file` durable.
    pub(crate) fn sync(&self, file: &File) -> io::Result<()> {
        #[cfg(test)]
        {
            use std::sync::atomic::Ordering::SeqCst;
            if self.faults.failing_syncs.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
                return Err(io::Error::other("injected sync failure"));
            }
        }
        file.sync_data()
    }

    /// Makes names in `dir` durable.
    pub(crate) fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    /// Removes a file; one that is not there is fine.
    pub(crate) fn remove(&self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// Whether `error` says that there is no space: a full disk, or a full quota.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether `error` says that the disk became read-only.
pub(crate) fn is_read_only(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ReadOnlyFilesystem
}

/// Sixteen random bytes from the kernel.
pub(crate) fn random_16() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}
