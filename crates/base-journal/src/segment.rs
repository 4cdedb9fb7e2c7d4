//! One file of the journal: numbered frames from a base on, and a sparse index of where they stand.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::Disk;
use crate::frame::{FrameReader, HEADER_BYTES, Header, Kind, Step};
use crate::journal::OFFSET_MAX;

/// One index entry per so many bytes: finding a record reads at most this much in vain.
const INDEX_STRIDE: u64 = 64 * 1024;

/// A segment file, its extent as far as known, and its index.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<File>,
    /// Number of the first record.
    pub(crate) base: u64,
    /// Number after the last record.
    pub(crate) end: u64,
    /// Bytes in the file.
    pub(crate) bytes: u64,
    /// (number, position), ascending; positions at least [`INDEX_STRIDE`] apart.
    index: Vec<(u64, u64)>,
}

/// File name of the segment that begins at `base`; names sort as numbers do.
pub(crate) fn file_name(base: u64) -> String {
    format!("{base:020}.segment")
}

/// The base in a segment's file name; `None` for other files.
pub(crate) fn base_of(path: &Path) -> Option<u64> {
    let stem = path.file_name()?.to_str()?.strip_suffix(".segment")?;
    let base: u64 = (stem.len() == 20).then(|| stem.parse().ok()).flatten()?;
    // No journal of ours gets there, and the offsets that follow must be numbers.
    (base <= OFFSET_MAX).then_some(base)
}

impl Segment {
    /// Makes a new segment file; its name is durable on return, its header with the next sync of the file.
    pub(crate) fn create(disk: &Disk, dir: &Path, epoch: [u8; 16], base: u64) -> io::Result<Self> {
        let path = dir.join(file_name(base));
        // What may lie there is a segment whose creation was cut short: nothing was ever read from it.
        disk.remove(&path)?;
        let file = disk.create(&path)?;
        let header = Header { kind: Kind::Segment, epoch, base }.encode();
        if let Err(error) = disk.write_at(&file, &header, 0).and_then(|()| disk.sync_dir(dir)) {
            // Without space there is nothing to repair; an empty file is removed at the next open.
            let _ = disk.remove(&path);
            return Err(error);
        }
        Ok(Self {
            path,
            file: Arc::new(file),
            base,
            end: base,
            bytes: HEADER_BYTES as u64,
            index: vec![(base, HEADER_BYTES as u64)],
        })
    }

    /// Takes over a segment found on disk; `end` is known once the next one is, or after [`Segment::scan`].
    pub(crate) fn found(path: PathBuf, file: File, base: u64, bytes: u64) -> Self {
        let index = vec![(base, HEADER_BYTES as u64)];
        Self { path, file: Arc::new(file), base, end: base, bytes, index }
    }

    /// Reads all of the file to find where its sound records end, and sets `end` and the index.
    ///
    /// Returns that position, and number and position of the damaged records before it.
    pub(crate) fn scan(&mut self) -> io::Result<(u64, Vec<(u64, u64)>)> {
        let mut damaged = Vec::new();
        let file = self.file.clone();
        let mut reader = FrameReader::new(&file, HEADER_BYTES as u64, self.base, self.bytes);
        loop {
            match reader.step()? {
                Step::Frame { number, position, .. } => self.note(number, position),
                Step::Damaged { number, position } => damaged.push((number, position)),
                Step::Broken { .. } | Step::End => break,
            }
        }
        self.end = reader.number();
        Ok((reader.position(), damaged))
    }

    /// Remembers that record `number` is at `position`, unless a near one is known.
    pub(crate) fn note(&mut self, number: u64, position: u64) {
        if self.index.last().is_none_or(|&(_, last)| position >= last + INDEX_STRIDE) {
            self.index.push((number, position));
        }
    }

    /// Forgets index entries at or beyond `position`; that part of the file was cut off.
    pub(crate) fn cut(&mut self, end: u64, position: u64) {
        self.end = end;
        self.bytes = position;
        while self.index.len() > 1 && self.index.last().is_some_and(|&(_, at)| at >= position) {
            self.index.pop();
        }
    }

    /// The nearest known place at or before record `number`.
    pub(crate) fn seek(&self, number: u64) -> (u64, u64) {
        let after = self.index.partition_point(|&(known, _)| known <= number);
        self.index[after.saturating_sub(1)]
    }
}
