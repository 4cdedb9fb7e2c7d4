//! Directories: who may enter them, that they are on disk, how much fits.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Enter, list and change: the owner alone.
const PRIVATE_DIR_MODE: u32 = 0o700;

/// Why a directory could not be made, synced or measured.
#[derive(Debug, thiserror::Error)]
pub enum DirError {
    /// It is not there, and making it failed.
    #[error("failed to create the directory {}", path.display())]
    Create {
        /// The directory.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// It is there, and its mode cannot be changed.
    #[error("failed to make the directory {} private", path.display())]
    MakePrivate {
        /// The directory.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// Its names may not survive a power cut.
    #[error("failed to sync the directory {}", path.display())]
    Sync {
        /// The directory.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// The file system did not say.
    #[error("failed to ask for the free space of {}", path.display())]
    FreeSpace {
        /// A path in the file system.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
}

/// What a file system still takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that this user may still write.
    pub free_bytes: u64,
    /// Its size.
    pub total_bytes: u64,
    /// Files that may still be created; a full table of inodes is a full disk too.
    pub free_files: u64,
}

/// Creates `path` and the directories above it that are missing, each with mode 0700 whatever the umask, and syncs their
/// names. Directories that are there already are left as they are: `--data-dir /srv` must not close `/srv` to others.
pub fn create_private_dir_all(path: &Path) -> Result<(), DirError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| DirError::Create { path, source }
    };
    let is_missing = |dir: &&Path| !dir.as_os_str().is_empty() && !dir.exists();
    let missing: Vec<&Path> = path.ancestors().take_while(is_missing).collect();
    for dir in missing.into_iter().rev() {
        match DirBuilder::new().mode(PRIVATE_DIR_MODE).create(dir) {
            Ok(()) => {}
            // Another process was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => continue,
            Err(error) => return Err(failed(dir)(error)),
        }
        // The mode given to `mkdir` is only what the umask leaves of it.
        fs::set_permissions(dir, fs::Permissions::from_mode(PRIVATE_DIR_MODE)).map_err(failed(dir))?;
        sync(parent_of(dir)).map_err(failed(dir))?;
    }
    match path.is_dir() {
        true => Ok(()),
        false => Err(failed(path)(io::Error::from(io::ErrorKind::NotADirectory))),
    }
}

/// Gives a directory that is there mode 0700; returns whether it was open to others before.
pub fn make_dir_private(path: &Path) -> Result<bool, DirError> {
    let failed = |source| DirError::MakePrivate { path: path.to_owned(), source };
    let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o7777;
    if mode == PRIVATE_DIR_MODE {
        return Ok(false);
    }
    fs::set_permissions(path, fs::Permissions::from_mode(PRIVATE_DIR_MODE)).map_err(failed)?;
    Ok(true)
}

/// Waits until the names in a directory are on disk: files that were created, renamed or removed in it.
pub fn sync_dir(path: &Path) -> Result<(), DirError> {
    sync(path).map_err(|source| DirError::Sync { path: path.to_owned(), source })
}

/// What the file system that holds `path` still takes.
pub fn free_space(path: &Path) -> Result<Space, DirError> {
    let found = rustix::fs::statvfs(path)
        .map_err(|errno| DirError::FreeSpace { path: path.to_owned(), source: io::Error::from(errno) })?;
    Ok(Space {
        free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
        total_bytes: found.f_blocks.saturating_mul(found.f_frsize),
        free_files: found.f_favail,
    })
}

pub(crate) fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// The directory in which `path` is a name.
pub(crate) fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
