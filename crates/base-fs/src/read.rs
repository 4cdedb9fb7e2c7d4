//! Reading files whose size is not ours to choose.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadFileError {
    /// The file is not there, or may not be read.
    #[error("failed to read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// It is larger than what it should hold can be.
    #[error("failed to read {}: it has more than {bytes_max} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit.
        bytes_max: usize,
    },
}

impl ReadFileError {
    /// Whether the file is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Reads a file of at most `bytes_max` bytes. The size is looked at while reading: what the file system says may be old, and
/// is zero for files of the kernel.
pub fn read_bounded(path: &Path, bytes_max: usize) -> Result<Vec<u8>, ReadFileError> {
    match File::open(path).and_then(|file| read_limited(file, bytes_max)) {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(ReadFileError::TooLarge { path: path.to_owned(), bytes_max }),
        Err(source) => Err(ReadFileError::Read { path: path.to_owned(), source }),
    }
}

/// The whole file, or `None` when it is larger.
pub(crate) fn read_limited(file: File, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    file.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
    Ok(Some(bytes).filter(|bytes| bytes.len() <= bytes_max))
}
