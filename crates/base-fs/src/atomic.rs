//! Replacing a file as a whole.
//!
//! The bytes go into `.NAME.new` beside the file and are synced; a rename puts them in place, and the directory is synced, for
//! the rename is only safe then. A crash before the rename leaves the old file and a draft, which the next write of the same
//! file removes. The draft has a fixed name, so that crashes never pile drafts up, and is locked while it is written, so
//! that of two writers at once the later one wins and neither spoils the other's draft.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::dirs::{parent_of, sync};
use crate::read::read_limited;

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Its owner only: 0600.
    Private,
    /// Everyone: 0644.
    Public,
}

/// Why a file could not be written; the old one is as it was.
#[derive(Debug, thiserror::Error)]
#[error("failed to write {}", path.display())]
pub struct WriteFileError {
    /// The file.
    pub path: PathBuf,
    /// What went wrong.
    #[source]
    pub source: io::Error,
}

impl WriteFileError {
    /// Whether the disk has no space for it: an outage that passes, and no reason to stop what does not need the file.
    pub fn is_disk_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

impl Access {
    fn mode(self) -> u32 {
        match self {
            Self::Private => 0o600,
            Self::Public => 0o644,
        }
    }
}

/// Replaces `path` with `bytes`, readable by its owner only (0600); on disk when this returns.
///
/// ```
/// let dir = tempfile::tempdir().unwrap();
/// let path = dir.path().join("node.key");
/// base_fs::write_private(&path, b"secret").unwrap();
/// assert_eq!(std::fs::read(&path).unwrap(), b"secret");
/// ```
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), WriteFileError> {
    write_atomic(path, bytes, Access::Private)
}

/// Replaces `path` with `bytes`, readable by everyone (0644); on disk when this returns.
pub fn write_public(path: &Path, bytes: &[u8]) -> Result<(), WriteFileError> {
    write_atomic(path, bytes, Access::Public)
}

/// Replaces `path` with `bytes`; on disk when this returns. The mode is as said, whatever the umask and the old file's mode.
pub fn write_atomic(path: &Path, bytes: &[u8], access: Access) -> Result<(), WriteFileError> {
    replace(path, bytes, access.mode()).map_err(|source| WriteFileError { path: path.to_owned(), source })
}

/// As [`write_atomic`], unless the file has these bytes and this mode already; returns whether it wrote.
pub fn write_if_changed(path: &Path, bytes: &[u8], access: Access) -> Result<bool, WriteFileError> {
    if is_unchanged(path, bytes, access.mode()) {
        return Ok(false);
    }
    write_atomic(path, bytes, access).map(|()| true)
}

/// What cannot be read counts as changed: the write that follows reports the reason if there is one.
fn is_unchanged(path: &Path, bytes: &[u8], mode: u32) -> bool {
    let Ok(file) = File::open(path) else { return false };
    let Ok(found) = file.metadata() else { return false };
    found.is_file()
        && found.mode() & 0o7777 == mode
        && found.len() == bytes.len() as u64
        && read_limited(file, bytes.len()).is_ok_and(|found| found.as_deref() == Some(bytes))
}

fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?;
    let mut draft_name = std::ffi::OsString::from(".");
    draft_name.push(name);
    draft_name.push(".new");
    let dir = parent_of(path);
    let draft = dir.join(draft_name);
    let mut file = open_draft(&draft, mode)?;
    let written = file
        // The mode given to `open` is only what the umask leaves of it.
        .set_permissions(fs::Permissions::from_mode(mode))
        .and_then(|()| file.write_all(bytes))
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&draft, path));
    if written.is_err() {
        // Whether it is there or not, the error of the write is what matters.
        let _ = fs::remove_file(&draft);
    }
    // Closing the file would not do: a child that is being started holds a copy of it, and with it the lock, until its `exec`.
    let unlocked = file.unlock();
    written.and(unlocked).and_then(|()| sync(dir))
}

/// Creates the draft and locks it. One that is there already is another writer's, or was left by a crash.
fn open_draft(draft: &Path, mode: u32) -> io::Result<File> {
    loop {
        match OpenOptions::new().write(true).create_new(true).mode(mode).open(draft) {
            Ok(file) => {
                file.lock()?;
                // Between the two steps another writer may have taken the new file for one that a crash left.
                if is_at(&file, draft)? {
                    return Ok(file);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => remove_left_over(draft)?,
            Err(error) => return Err(error),
        }
    }
}

/// Waits for whoever writes the draft; one that is still there after that belongs to nobody.
fn remove_left_over(draft: &Path) -> io::Result<()> {
    let is_there = |result: io::Result<File>| match result {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    let no_link = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let opened = OpenOptions::new().read(true).custom_flags(no_link).open(draft);
    let Some(file) = is_there(opened)? else { return Ok(()) };
    file.lock()?;
    if is_at(&file, draft)? {
        fs::remove_file(draft)?;
    }
    file.unlock()
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let opened = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(found.dev() == opened.dev() && found.ino() == opened.ino()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
