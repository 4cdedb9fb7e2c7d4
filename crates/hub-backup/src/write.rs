//! Writing a backup, part by part, to a file or a pipe.

use std::io::{self, Write};

use crate::{HEAD_NAME, Head, KeyFile, MANIFEST_NAME, MANIFEST_SUM_NAME, Manifest, PARTS_MAX, Part, archive};

/// Why a backup could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteBackupError {
    /// The file or pipe.
    #[error("failed to write the backup")]
    Write(#[source] io::Error),
    /// There are more parts than a reader accepts.
    #[error("the hub has more objects than a backup can hold")]
    TooLarge,
}

/// Writes a backup: the head and the keys, then rows, then the end. Without [`Self::finish`] nobody takes it for one.
pub struct Writer<W> {
    out: W,
    time_s: u64,
    manifest: Manifest,
    rows: usize,
}

impl<W: Write> Writer<W> {
    /// Begins it; `keys` are the bytes of each of [`KeyFile::ALL`], in that order.
    ///
    /// # Errors
    /// When `out` does not take it.
    pub fn new(out: W, head: &Head, keys: &[Vec<u8>; KeyFile::ALL.len()]) -> Result<Self, WriteBackupError> {
        let time_s = u64::try_from(head.time.as_second()).unwrap_or(0);
        let mut writer = Self { out, time_s, manifest: Manifest::default(), rows: 0 };
        let head = serde_json::to_vec_pretty(head).expect("a head has text keys only");
        writer.part(HEAD_NAME, &head)?;
        for (file, bytes) in KeyFile::ALL.iter().zip(keys) {
            writer.part(file.path(), bytes)?;
        }
        Ok(writer)
    }

    /// Adds rows, as [`machinery_store::Backup::next_rows`] gave them for [`crate::ROWS_BYTES`].
    ///
    /// # Errors
    /// When `out` does not take them.
    pub fn rows(&mut self, rows: &[u8]) -> Result<(), WriteBackupError> {
        self.rows += 1;
        if self.manifest.parts.len() >= PARTS_MAX {
            return Err(WriteBackupError::TooLarge);
        }
        self.part(&crate::rows_name(self.rows), rows)
    }

    /// Completes it, and returns what it was written to.
    ///
    /// # Errors
    /// When `out` does not take it.
    pub fn finish(mut self) -> Result<W, WriteBackupError> {
        let manifest = serde_json::to_vec_pretty(&self.manifest).expect("a manifest has text keys only");
        let sum = crate::manifest_sum(&manifest);
        let parts = [(MANIFEST_NAME, manifest.as_slice()), (MANIFEST_SUM_NAME, sum.as_bytes())];
        parts
            .into_iter()
            .try_for_each(|(name, bytes)| archive::write_entry(&mut self.out, name, bytes, self.time_s))
            .and_then(|()| archive::write_end(&mut self.out))
            .and_then(|()| self.out.flush())
            .map_err(WriteBackupError::Write)?;
        Ok(self.out)
    }

    fn part(&mut self, name: &str, bytes: &[u8]) -> Result<(), WriteBackupError> {
        self.manifest.parts.push(Part::of(name, bytes));
        archive::write_entry(&mut self.out, name, bytes, self.time_s).map_err(WriteBackupError::Write)
    }
}
