//! Space on the disk that is kept for the moment when there is none left.
//!
//! To make space, somebody has to delete objects, and a deletion is a write. So the store keeps a file that means nothing;
//! when the disk is full it is removed, and deletions live from its space. As long as it is not back, the store is full:
//! one small write that happens to fit proves nothing. Between two deletions the store keeps as much of it as it gets: others
//! fill the disk as well, and what they take first no deletion ever gets.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use tracing::warn;

use crate::open::sync_directory;

/// Less than this is of no use: a deletion needs the log, and the log the file.
const PART_BYTES_MIN: u64 = 512 * 1024;

pub(crate) struct Reserve {
    dir: PathBuf,
    path: PathBuf,
    bytes: u64,
    is_there: bool,
}

impl Reserve {
    /// A reserve of this size in the store's directory, maybe of nothing. It is there after [`restore`](Self::restore).
    pub fn new(dir: &Path, bytes: u64) -> Self {
        Self { dir: dir.into(), path: dir.join("reserve"), bytes, is_there: false }
    }

    /// Whether its space is given away.
    pub fn is_used(&self) -> bool {
        !self.is_there
    }

    /// Gives its space away.
    pub fn release(&mut self) {
        self.is_there = false;
        if self.bytes == 0 {
            return;
        }
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!(%error, path = %self.path.display(), "Failed to remove the store's reserve of disk space.");
            }
            _ => {}
        }
    }

    /// Takes its space, if there is as much; returns whether it is there.
    ///
    /// After a full disk there must be more than that, so that the store does not go back and forth with every write.
    pub fn restore(&mut self, was_full: bool) -> bool {
        if self.is_there {
            return true;
        }
        let needed = if was_full { self.bytes + self.bytes / 4 } else { self.bytes };
        match if self.bytes == 0 { Ok(()) } else { self.allocate(needed, self.bytes) } {
            Ok(()) => self.is_there = true,
            Err(error) if is_full(&error) => self.keep_part(),
            Err(error) => {
                // A disk that cannot keep a file for another reason is no reason to reject writes.
                warn!(%error, path = %self.path.display(), "Failed to reserve disk space for the store.");
                self.is_there = true;
            }
        }
        self.is_there
    }

    /// Keeps what there is of it, while its space is given away.
    pub fn keep_part(&mut self) {
        if self.is_there {
            return;
        }
        let mut bytes = self.bytes;
        while bytes >= PART_BYTES_MIN {
            match self.allocate(bytes, bytes) {
                Ok(()) => return,
                Err(error) if is_full(&error) => bytes -= PART_BYTES_MIN.min(bytes),
                Err(_) => break,
            }
        }
        self.release();
    }

    /// Takes so many bytes of the disk, and keeps some of them.
    fn allocate(&self, needed: u64, kept: u64) -> io::Result<()> {
        let mut file = File::options().write(true).create(true).truncate(false).mode(0o600).open(&self.path)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        // Costs nothing when it is allocated already.
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, needed) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                let block = [0; 64 << 10];
                let mut left = needed;
                while left > 0 {
                    let len = left.min(block.len() as u64);
                    file.write_all(&block[..len as usize])?;
                    left -= len;
                }
            }
            Err(error) => return Err(error.into()),
        }
        file.set_len(kept)?;
        file.sync_all()?;
        sync_directory(&self.dir)
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
