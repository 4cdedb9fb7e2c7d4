//! The format of every file here: one header, then frames.
//!
//! ```text
//! header (48 bytes)  magic "SLVGJRNL" · version u32 · kind u32 · epoch [16] · base u64 · reserved u32 · crc32 u32
//! frame              len u32 · crc32 u32 · payload [len]
//! ```
//!
//! Integers are little-endian. A frame's checksum covers its number, its length and its payload; the number itself is not
//! written: it is `base` plus the frame's place. So a stale or misplaced frame never passes for the one expected.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use bytes::{Bytes, BytesMut};

/// Largest payload of one record; a longer length on disk is damage.
pub const RECORD_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Format version written by this code.
pub(crate) const VERSION: u32 = 1;

pub(crate) const HEADER_BYTES: usize = 48;
pub(crate) const FRAME_HEADER_BYTES: usize = 8;
const MAGIC: &[u8; 8] = b"SLVGJRNL";

/// Read at least this much at once: one seek of an SD card costs as much as reading 256 KiB.
const BLOCK_BYTES: usize = 256 * 1024;

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Segment = 1,
    Snapshot = 2,
    Log = 3,
    Cursors = 4,
}

/// The first bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) epoch: [u8; 16],
    /// Number of the first frame.
    pub(crate) base: u64,
}

/// Why a header was not accepted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BadHeader {
    /// Written by a newer program.
    Newer(u32),
    /// Not one of our files, torn, or damaged.
    Damaged,
}

impl Header {
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&(self.kind as u32).to_le_bytes());
        bytes[16..32].copy_from_slice(&self.epoch);
        bytes[32..40].copy_from_slice(&self.base.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..44]);
        bytes[44..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The version is looked at before the checksum: a newer format may keep its checksum in another place.
    pub(crate) fn decode(bytes: &[u8], kind: Kind) -> Result<Self, BadHeader> {
        if bytes.len() < 12 || &bytes[..8] != MAGIC {
            return Err(BadHeader::Damaged);
        }
        let version = u32_at(bytes, 8);
        // A version out of all proportion is a flipped bit, not a later release.
        if version > VERSION && version < 1_000 {
            return Err(BadHeader::Newer(version));
        }
        if version != VERSION || bytes.len() < HEADER_BYTES || crc32fast::hash(&bytes[..44]) != u32_at(bytes, 44) {
            return Err(BadHeader::Damaged);
        }
        if u32_at(bytes, 12) != kind as u32 {
            return Err(BadHeader::Damaged);
        }
        let epoch = bytes[16..32].try_into().expect("the range is sixteen bytes long");
        let base = u64::from_le_bytes(bytes[32..40].try_into().expect("the range is eight bytes long"));
        Ok(Self { kind, epoch, base })
    }

    /// Reads the header of `file`; the outer error is the disk's.
    pub(crate) fn read(file: &File, kind: Kind) -> io::Result<Result<Self, BadHeader>> {
        let mut bytes = [0; HEADER_BYTES];
        let mut filled = 0;
        while filled < HEADER_BYTES {
            match file.read_at(&mut bytes[filled..], filled as u64)? {
                0 => break,
                n => filled += n,
            }
        }
        Ok(Self::decode(&bytes[..filled], kind))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("the range is four bytes long"))
}

fn checksum(number: u64, payload: &[&[u8]]) -> u32 {
    let len: usize = payload.iter().map(|part| part.len()).sum();
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(&(len as u32).to_le_bytes());
    for part in payload {
        hasher.update(part);
    }
    hasher.finalize()
}

/// Appends the frame of record `number` to `out`; the payload may come in parts.
pub(crate) fn encode(number: u64, payload: &[&[u8]], out: &mut Vec<u8>) {
    let len: usize = payload.iter().map(|part| part.len()).sum();
    out.extend_from_slice(&(len as u32).to_le_bytes());
    out.extend_from_slice(&checksum(number, payload).to_le_bytes());
    for part in payload {
        out.extend_from_slice(part);
    }
}

/// One step of a [`FrameReader`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A sound frame.
    Frame { number: u64, position: u64, payload: Bytes },
    /// One damaged frame whose length is sound, because a sound frame follows it.
    Damaged { number: u64, position: u64 },
    /// From here on no frame can be made out: a torn tail, or damage to a length.
    Broken { number: u64, position: u64 },
    /// The limit was reached.
    End,
}

/// Reads frames of a file one after the other, in blocks, up to a limit.
pub(crate) struct FrameReader<'f> {
    file: &'f File,
    limit: u64,
    position: u64,
    number: u64,
    /// Bytes of the file from `position` on.
    buffer: BytesMut,
    /// Where in the file the next block begins.
    ahead: u64,
    block_bytes: usize,
    is_broken: bool,
}

impl<'f> FrameReader<'f> {
    /// Begins at `position`, where frame `number` is; reads nothing at or beyond `limit`.
    pub(crate) fn new(file: &'f File, position: u64, number: u64, limit: u64) -> Self {
        Self {
            file,
            limit,
            position,
            number,
            buffer: BytesMut::new(),
            ahead: position,
            block_bytes: BLOCK_BYTES,
            is_broken: false,
        }
    }

    /// Reads in smaller blocks, for a reader that wants little.
    pub(crate) fn with_block_bytes(mut self, bytes: usize) -> Self {
        self.block_bytes = bytes.clamp(4096, BLOCK_BYTES);
        self
    }

    /// Where the next frame is.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The next frame's number.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The next step; after [`Step::Broken`] there is only [`Step::End`].
    pub(crate) fn step(&mut self) -> io::Result<Step> {
        if self.is_broken || self.position >= self.limit {
            return Ok(Step::End);
        }
        let (number, position) = (self.number, self.position);
        let Some(len) = self.frame_len(0)? else {
            self.is_broken = true;
            return Ok(Step::Broken { number, position });
        };
        if self.is_sound(0, len, number)? {
            let mut frame = self.buffer.split_to(FRAME_HEADER_BYTES + len).freeze();
            self.advance(len);
            return Ok(Step::Frame { number, position, payload: frame.split_off(FRAME_HEADER_BYTES) });
        }
        let after = FRAME_HEADER_BYTES + len;
        let is_next_sound = match self.frame_len(after)? {
            Some(next_len) => self.is_sound(after, next_len, number + 1)?,
            None => false,
        };
        if !is_next_sound {
            self.is_broken = true;
            return Ok(Step::Broken { number, position });
        }
        let _damaged = self.buffer.split_to(after);
        self.advance(len);
        Ok(Step::Damaged { number, position })
    }

    fn advance(&mut self, len: usize) {
        self.position += (FRAME_HEADER_BYTES + len) as u64;
        self.number += 1;
    }

    /// Length of the payload of the frame `at` bytes ahead; `None` when no such frame fits before the limit.
    fn frame_len(&mut self, at: usize) -> io::Result<Option<usize>> {
        if !self.fill(at + FRAME_HEADER_BYTES)? {
            return Ok(None);
        }
        let len = u32_at(&self.buffer, at) as usize;
        let end = self.position + (at + FRAME_HEADER_BYTES + len) as u64;
        Ok((len <= RECORD_BYTES_MAX && end <= self.limit).then_some(len))
    }

    fn is_sound(&mut self, at: usize, len: usize, number: u64) -> io::Result<bool> {
        if !self.fill(at + FRAME_HEADER_BYTES + len)? {
            return Ok(false);
        }
        let payload = &self.buffer[at + FRAME_HEADER_BYTES..at + FRAME_HEADER_BYTES + len];
        Ok(u32_at(&self.buffer, at + 4) == checksum(number, &[payload]))
    }

    /// Makes at least `needed` bytes from `position` on available; false when the file ends before.
    fn fill(&mut self, needed: usize) -> io::Result<bool> {
        while self.buffer.len() < needed {
            let left = self.limit.saturating_sub(self.ahead);
            let missing = (needed - self.buffer.len()).max(self.block_bytes) as u64;
            let take = missing.min(left) as usize;
            if take == 0 {
                return Ok(false);
            }
            let filled = self.buffer.len();
            self.buffer.resize(filled + take, 0);
            let read = self.file.read_at(&mut self.buffer[filled..], self.ahead)?;
            self.buffer.truncate(filled + read);
            if read == 0 {
                return Ok(false);
            }
            self.ahead += read as u64;
        }
        Ok(true)
    }
}
