//! Where readers continue: a small file in two generations, written in turns.
//!
//! The older file is overwritten, so a power cut spoils at most the one being written and the other still holds the state
//! before. One frame per cursor: `offset u64 · name`; the header's base is the generation.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::disk::Disk;
use crate::error::{CursorError, OpenJournalError};
use crate::frame::{self, BadHeader, FrameReader, HEADER_BYTES, Header, Kind, Step};
use crate::journal::OFFSET_MAX;

const NAMES: [&str; 2] = ["cursors.a", "cursors.b"];

/// Marks a complete file: its last frame.
const SEAL: &[u8] = b"end";

/// All cursors of a journal.
pub(crate) struct Cursors {
    dir: PathBuf,
    generation: u64,
    /// Index into [`NAMES`] of the file to write next.
    turn: usize,
    offsets: BTreeMap<String, u64>,
}

impl Cursors {
    /// Reads the newer sound file; both damaged means no cursors.
    pub(crate) fn open(disk: &Disk, dir: &Path) -> Result<Self, OpenJournalError> {
        let mut best = Self { dir: dir.to_owned(), generation: 0, turn: 0, offsets: BTreeMap::new() };
        for (at, name) in NAMES.iter().enumerate() {
            let path = dir.join(name);
            let file = match disk.open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(OpenJournalError::OpenFile { path, source }),
            };
            let in_file = |source| OpenJournalError::OpenFile { path: path.clone(), source };
            let header = match Header::read(&file, Kind::Cursors).map_err(in_file)? {
                Ok(header) => header,
                Err(BadHeader::Newer(found)) => return Err(OpenJournalError::Newer { path, found }),
                Err(BadHeader::Damaged) => continue,
            };
            if header.base <= best.generation {
                continue;
            }
            if let Some(offsets) = read_all(&file).map_err(in_file)? {
                best = Self { dir: dir.to_owned(), generation: header.base, turn: 1 - at, offsets };
            }
        }
        Ok(best)
    }

    pub(crate) fn get(&self, name: &str) -> Option<u64> {
        self.offsets.get(name).copied()
    }

    pub(crate) fn all(&self) -> Vec<(String, u64)> {
        self.offsets.iter().map(|(name, offset)| (name.clone(), *offset)).collect()
    }

    /// The furthest offset that any reader confirmed.
    pub(crate) fn highest(&self) -> u64 {
        self.offsets.values().copied().max().unwrap_or(0)
    }

    /// Sets or forgets a cursor; durable on return. On an error the cursor is as it was.
    pub(crate) fn set(&mut self, disk: &Disk, name: &str, offset: Option<u64>) -> Result<(), CursorError> {
        if self.get(name) == offset {
            return Ok(());
        }
        if let Some(offset) = offset.filter(|offset| *offset > OFFSET_MAX) {
            let why = format!("offset {offset} is beyond {OFFSET_MAX}, the largest that a journal gives");
            let source = io::Error::new(io::ErrorKind::InvalidInput, why);
            return Err(CursorError { name: name.to_owned(), path: self.dir.clone(), source });
        }
        let mut offsets = self.offsets.clone();
        match offset {
            Some(offset) => offsets.insert(name.to_owned(), offset),
            None => offsets.remove(name),
        };
        let path = self.dir.join(NAMES[self.turn]);
        let generation = self.generation + 1;
        write_all(disk, &self.dir, &path, generation, &offsets).map_err(|source| CursorError {
            name: name.to_owned(),
            path,
            source,
        })?;
        self.offsets = offsets;
        self.generation = generation;
        self.turn = 1 - self.turn;
        Ok(())
    }
}

fn write_all(disk: &Disk, dir: &Path, path: &Path, generation: u64, offsets: &BTreeMap<String, u64>) -> io::Result<()> {
    let mut bytes = Header { kind: Kind::Cursors, epoch: [0; 16], base: generation }.encode().to_vec();
    let mut number = generation;
    for (name, offset) in offsets {
        frame::encode(number, &[&offset.to_le_bytes(), name.as_bytes()], &mut bytes);
        number += 1;
    }
    frame::encode(number, &[SEAL], &mut bytes);
    let (file, is_new) = match disk.open(path) {
        Ok(file) => (file, false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (disk.create(path)?, true),
        Err(error) => return Err(error),
    };
    disk.write_at(&file, &bytes, 0)?;
    file.set_len(bytes.len() as u64)?;
    disk.sync(&file)?;
    if is_new { disk.sync_dir(dir) } else { Ok(()) }
}

/// `None` when the file is not complete and sound.
fn read_all(file: &File) -> io::Result<Option<BTreeMap<String, u64>>> {
    let limit = file.metadata()?.len();
    let Ok(header) = Header::read(file, Kind::Cursors)? else { return Ok(None) };
    let mut offsets = BTreeMap::new();
    let mut reader = FrameReader::new(file, HEADER_BYTES as u64, header.base, limit);
    loop {
        match reader.step()? {
            Step::Frame { payload, .. } if payload.as_ref() == SEAL => return Ok(Some(offsets)),
            Step::Frame { payload, .. } => {
                let Some((offset, name)) = payload.split_first_chunk() else { return Ok(None) };
                let Ok(name) = std::str::from_utf8(name) else { return Ok(None) };
                let offset = u64::from_le_bytes(*offset);
                if offset > OFFSET_MAX {
                    // A receiver that could not be believed was, once. The reader begins anew, with the oldest record.
                    warn!(name, offset, "A cursor is beyond every offset that a journal gives; it is left out.");
                    continue;
                }
                offsets.insert(name.to_owned(), offset);
            }
            _ => return Ok(None),
        }
    }
}
