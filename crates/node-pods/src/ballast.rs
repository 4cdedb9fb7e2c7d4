//! A little of the disk, kept for when the rest of it is full.
//!
//! A pod that fills the disk must not keep the node from noting what is deleted, what failed and what is to run. So the node holds
//! a file that is of no use, gives it up at the first write for which there is no space, and takes it again once there is.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::FallocateFlags;
use tracing::{info, warn};

/// Some hundred pods with their states.
const BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Of a small disk no more than this part.
const SHARE: u64 = 50;
/// It is taken again when this many times its size is free.
const FREE_TIMES: u64 = 4;

/// The file; it may not be there.
#[derive(Debug)]
pub(crate) struct Ballast {
    path: PathBuf,
    is_held: AtomicBool,
}

impl Ballast {
    /// Takes the space in `directory` where there is enough.
    pub(crate) fn hold(directory: &Path) -> Self {
        let ballast = Self { path: directory.join("ballast"), is_held: AtomicBool::new(false) };
        ballast.restore();
        ballast
    }

    /// Gives the space back; answers whether there was any to give.
    pub(crate) fn give_up(&self) -> bool {
        if !self.is_held.swap(false, Ordering::SeqCst) {
            return false;
        }
        let removed = std::fs::remove_file(&self.path);
        warn!(file = %self.path.display(), error = ?removed.as_ref().err(), "The disk is full: gave the space up that was kept for that.");
        removed.is_ok()
    }

    /// Takes the space again once that leaves others enough. Costs a question to the file system when it is held no more.
    pub(crate) fn restore(&self) {
        if self.is_held.load(Ordering::SeqCst) {
            return;
        }
        match self.take() {
            Ok(true) => self.is_held.store(true, Ordering::SeqCst),
            Ok(false) => {}
            Err(error) => {
                // On a disk that became read-only the file is there, and cannot be given up.
                let _ = std::fs::remove_file(&self.path);
                info!(file = %self.path.display(), %error, "Kept no space for when the disk is full.");
            }
        }
    }

    fn take(&self) -> io::Result<bool> {
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        let disk = rustix::fs::statvfs(directory)?;
        let bytes = BYTES_MAX.min(disk.f_blocks * disk.f_frsize / SHARE);
        let held = std::fs::metadata(&self.path).map_or(0, |meta| meta.len());
        if held == bytes {
            return Ok(true);
        }
        if bytes == 0 || disk.f_bavail * disk.f_frsize < bytes * FREE_TIMES {
            return Ok(held > 0);
        }
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.path)?;
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            Err(rustix::io::Errno::OPNOTSUPP) => write_zeros(&file, bytes)?,
            taken => taken?,
        }
        Ok(true)
    }
}

fn write_zeros(mut file: &File, bytes: u64) -> io::Result<()> {
    io::copy(&mut io::Read::take(io::repeat(0), bytes), &mut file).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_given_up_once_and_taken_again() {
        let dir = tempfile::tempdir().unwrap();
        let size = || std::fs::metadata(dir.path().join("ballast")).map_or(0, |meta| meta.len());
        let ballast = Ballast::hold(dir.path());
        assert!(size() > 0 && size() <= BYTES_MAX);
        assert!(ballast.give_up());
        assert!(!ballast.give_up(), "there is nothing left to give");
        assert_eq!(size(), 0);
        ballast.restore();
        assert!(size() > 0);
        // The next agent finds it, a smaller one of a former version too.
        std::fs::write(dir.path().join("ballast"), "x").unwrap();
        assert!(Ballast::hold(dir.path()).give_up());
        assert_eq!(size(), 0);
    }
}
