//! Which version of a format a directory holds.

use std::path::{Path, PathBuf};

use crate::read::{ReadFileError, read_bounded};
use crate::{Access, WriteFileError, write_atomic};

/// Name of the file that says it: one line, `NAME NUMBER`.
pub const VERSION_FILE: &str = "VERSION";

/// A name and a number; a longer file is something else.
const VERSION_BYTES_MAX: usize = 256;

/// A format on disk: its name, and the newest version that this program knows. Versions begin at 1.
///
/// ```
/// use base_fs::{Format, FormatError};
/// let dir = tempfile::tempdir().unwrap();
/// let format = Format { name: "selvedge-spool", version: 2 };
/// assert_eq!(format.open(dir.path()).unwrap(), 2);
/// std::fs::write(dir.path().join("VERSION"), "selvedge-spool 3\n").unwrap();
/// assert!(matches!(format.open(dir.path()), Err(FormatError::Newer { found: 3, .. })));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// What is in the directory.
    pub name: &'static str,
    /// The newest version that this program reads and the one it writes.
    pub version: u32,
}

/// Why a directory is not opened. Nothing in it has been touched.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The file cannot be read.
    #[error("failed to read the version of a data directory")]
    Read(#[source] ReadFileError),
    /// The file cannot be written.
    #[error("failed to mark a data directory with its version")]
    Write(#[source] WriteFileError),
    /// The file says something else.
    #[error("{} does not say `{name} NUMBER`: this is not a directory of {name}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What was expected.
        name: &'static str,
    },
    /// A newer program wrote it.
    #[error(
        "{} holds version {found} of {name}, this program knows {known}; run the newer program again",
        path.display()
    )]
    Newer {
        /// The directory.
        path: PathBuf,
        /// The format.
        name: &'static str,
        /// The version found.
        found: u32,
        /// The newest one known.
        known: u32,
    },
}

impl Format {
    /// Returns the version that `dir` holds, which may be older than ours; marks a directory without a version as ours. The
    /// caller has made the directory and holds its lock, and knows whether one without a version may be taken for new.
    pub fn open(&self, dir: &Path) -> Result<u32, FormatError> {
        match self.found(dir)? {
            Some(found) => Ok(found),
            None => self.mark(dir).map(|()| self.version),
        }
    }

    /// The version that `dir` holds, `None` without one; writes nothing.
    pub fn found(&self, dir: &Path) -> Result<Option<u32>, FormatError> {
        let path = dir.join(VERSION_FILE);
        let bytes = match read_bounded(&path, VERSION_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(ReadFileError::TooLarge { .. }) => return Err(FormatError::Foreign { path, name: self.name }),
            Err(error) => return Err(FormatError::Read(error)),
        };
        let number = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim_end().strip_prefix(self.name));
        let number = number.and_then(|rest| rest.strip_prefix(' ')).and_then(|number| number.parse::<u32>().ok());
        match number {
            None | Some(0) => Err(FormatError::Foreign { path, name: self.name }),
            Some(found) if found > self.version => {
                Err(FormatError::Newer { path: dir.to_owned(), name: self.name, found, known: self.version })
            }
            Some(found) => Ok(Some(found)),
        }
    }

    /// Marks `dir` as ours: for a new directory, and at the end of a migration.
    pub fn mark(&self, dir: &Path) -> Result<(), FormatError> {
        let text = format!("{} {}\n", self.name, self.version);
        write_atomic(&dir.join(VERSION_FILE), text.as_bytes(), Access::Public).map_err(FormatError::Write)
    }
}
