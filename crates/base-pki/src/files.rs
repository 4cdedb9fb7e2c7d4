//! Files that are either the old one or the new one, whenever the power goes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Why a file could not be put on disk. The old one, if any, is still there.
#[derive(Debug, thiserror::Error)]
#[error("failed to write {}", path.display())]
pub struct WriteFileError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Replaces `path` with `bytes`, readable by its owner only (0600); on disk when this returns.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), WriteFileError> {
    write_atomic(path, bytes, 0o600)
}

/// Replaces `path` with `bytes`, readable by everyone (0644); on disk when this returns.
pub fn write_public(path: &Path, bytes: &[u8]) -> Result<(), WriteFileError> {
    write_atomic(path, bytes, 0o644)
}

fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), WriteFileError> {
    replace(path, bytes, mode).map_err(|source| WriteFileError { path: path.to_owned(), source })
}

fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut temporary_name = name.to_owned();
    // Two processes never share a data folder's file, but two threads may: the thread's number keeps them apart.
    temporary_name.push(format!(".{}-{:?}.new", std::process::id(), std::thread::current().id()));
    let temporary = folder.join(temporary_name);
    let written =
        OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
    let result = written
        .and_then(|()| fs::rename(&temporary, path))
        // The rename itself is only safe once the folder is.
        .and_then(|()| File::open(folder)?.sync_all());
    if result.is_err() {
        // Whether it is there or not, the error above is what matters.
        let _ = fs::remove_file(&temporary);
    }
    result
}
