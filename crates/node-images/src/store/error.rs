//! Why the store has not done something.

use std::io;
use std::path::PathBuf;

use base_fs::{DirError, FormatError, WriteFileError};

use super::{CONFIGS_BYTES_MAX, IMAGES_MAX};
use crate::InvalidReference;
use crate::unpack::UnpackError;

/// Why a store was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenStoreError {
    /// Another process has it.
    #[error("another process uses the images of {}", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// It is of another version, or of another program.
    #[error("failed to open the images of a node")]
    Format(#[source] FormatError),
    /// Its directories.
    #[error("failed to open the images of a node")]
    Directory(#[source] DirError),
    /// The disk.
    #[error("failed to open the images of a node")]
    Io(#[from] StoreError),
}

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk refused.
    #[error("failed to {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A record was not written.
    #[error("failed to record an image")]
    Write(#[from] WriteFileError),
    /// More than a store may hold.
    #[error("the store has {IMAGES_MAX} images already, or {} MiB of their configurations", CONFIGS_BYTES_MAX >> 20)]
    Full,
}

impl StoreError {
    /// Whether the disk has no space.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            Self::Write(error) => error.is_disk_full(),
            Self::Full => false,
        }
    }
}

/// Why a layer was not added.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// It could not be unpacked, or is not what was expected.
    #[error("failed to unpack the layer")]
    Unpack(#[source] UnpackError),
    /// The store.
    #[error("failed to store the layer")]
    Store(#[from] StoreError),
}

impl LayerError {
    /// Whether the disk has no space.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Unpack(error) => error.is_disk_full(),
            Self::Store(error) => error.is_disk_full(),
        }
    }
}

/// Why an image was not removed, or not given another name.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// There is none.
    #[error("no image `{image}`")]
    NotFound {
        /// What was looked for.
        image: String,
    },
    /// A container uses it.
    #[error("image `{image}` is in use by a container")]
    InUse {
        /// What was to be removed.
        image: String,
    },
    /// Not a name.
    #[error(transparent)]
    Name(#[from] InvalidReference),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}
