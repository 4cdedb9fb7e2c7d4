//! A tar of a few plain files: what is written, and nothing else is read.
//!
//! Everything in a header but name, length and time is the same in all of them. So a header is checked by making it again from
//! these three and comparing all of its bytes: no other type of entry, link, extension or path needs to be understood.

use std::io::{self, Read, Write};

const BLOCK_BYTES: usize = 512;
const NAME_BYTES: usize = 100;
/// Eleven octal digits.
const SIZE_MAX: u64 = 0o777_7777_7777;

/// An entry's header.
fn header(name: &str, bytes: u64, time_s: u64) -> Option<[u8; BLOCK_BYTES]> {
    if name.len() >= NAME_BYTES || bytes > SIZE_MAX || time_s > SIZE_MAX {
        return None;
    }
    let mut block = [0; BLOCK_BYTES];
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    // Whoever unpacks it should not make keys readable.
    put(100, "0000600");
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{bytes:011o}"));
    put(136, &format!("{time_s:011o}"));
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Some(block)
}

/// Writes one entry.
pub fn write_entry(out: &mut impl Write, name: &str, bytes: &[u8], time_s: u64) -> io::Result<()> {
    let too_large = || io::Error::new(io::ErrorKind::InvalidInput, "the part is too large for a tar");
    out.write_all(&header(name, bytes.len() as u64, time_s).ok_or_else(too_large)?)?;
    out.write_all(bytes)?;
    out.write_all(&[0; BLOCK_BYTES][..padding(bytes.len())])
}

/// Writes what comes after the last entry.
pub fn write_end(out: &mut impl Write) -> io::Result<()> {
    out.write_all(&[0; 2 * BLOCK_BYTES])
}

fn padding(bytes: usize) -> usize {
    bytes.next_multiple_of(BLOCK_BYTES) - bytes
}

/// Why an archive is not one of ours.
#[derive(Debug)]
pub enum ArchiveError {
    Io(io::Error),
    /// It ends where more should come.
    EndsEarly,
    /// It has what a backup has not.
    Damaged(String),
}

/// An entry.
pub struct Entry {
    pub name: String,
    pub bytes: Vec<u8>,
}

/// Reads entry after entry.
pub struct Archive<R> {
    input: R,
    /// Bytes that were read.
    at: u64,
}

impl<R: Read> Archive<R> {
    pub fn new(input: R) -> Self {
        Self { input, at: 0 }
    }

    /// Where it is, for people.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// The next entry; `None` at the end of the archive, after which there is nothing. `bytes_max` says how much an entry of a name
    /// may have, or that there is none of this name.
    pub fn next(&mut self, bytes_max: impl Fn(&str) -> Option<usize>) -> Result<Option<Entry>, ArchiveError> {
        let block = self.take(BLOCK_BYTES)?;
        if block.iter().all(|byte| *byte == 0) {
            return self.end().map(|()| None);
        }
        let damaged = |what: &str| ArchiveError::Damaged(what.to_owned());
        let name_end = block[..NAME_BYTES].iter().position(|byte| *byte == 0).unwrap_or(NAME_BYTES);
        let name = std::str::from_utf8(&block[..name_end]).map_err(|_| damaged("a name is not UTF-8"))?.to_owned();
        let numbers = octal(&block[124..135]).zip(octal(&block[136..147]));
        let (len, time_s) = numbers.ok_or_else(|| damaged("a header has no length or time"))?;
        if header(&name, len, time_s).is_none_or(|expected| expected[..] != block[..]) {
            return Err(damaged("a header is not one of a backup"));
        }
        let bytes_max =
            bytes_max(&name).ok_or_else(|| ArchiveError::Damaged(format!("`{name}` is not expected here")))?;
        let len = usize::try_from(len).ok().filter(|len| *len <= bytes_max);
        let len = len.ok_or_else(|| ArchiveError::Damaged(format!("`{name}` is larger than it can be")))?;
        let bytes = self.take(len)?;
        if self.take(padding(len))?.iter().any(|byte| *byte != 0) {
            return Err(ArchiveError::Damaged(format!("what follows `{name}` is not empty")));
        }
        Ok(Some(Entry { name, bytes }))
    }

    /// The second block of zeros, and nothing more.
    fn end(&mut self) -> Result<(), ArchiveError> {
        if self.take(BLOCK_BYTES)?.iter().any(|byte| *byte != 0) {
            return Err(ArchiveError::Damaged("its end is not empty".to_owned()));
        }
        match self.input.by_ref().take(1).read_to_end(&mut Vec::new()) {
            Ok(0) => Ok(()),
            Ok(_) => Err(ArchiveError::Damaged("there is more after its end".to_owned())),
            Err(error) => Err(ArchiveError::Io(error)),
        }
    }

    /// So many bytes. The memory for them grows with what comes, not with what is promised.
    fn take(&mut self, len: usize) -> Result<Vec<u8>, ArchiveError> {
        let mut bytes = Vec::new();
        self.input.by_ref().take(len as u64).read_to_end(&mut bytes).map_err(ArchiveError::Io)?;
        self.at += bytes.len() as u64;
        if bytes.len() == len { Ok(bytes) } else { Err(ArchiveError::EndsEarly) }
    }
}

fn octal(digits: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok()?;
    u64::from_str_radix(text, 8).ok()
}
