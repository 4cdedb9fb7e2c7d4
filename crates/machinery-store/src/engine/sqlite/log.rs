//! What of a write-ahead log SQLite will not read, found before it looks.
//!
//! SQLite replays a log up to the first page whose checksum is wrong, and forgets what comes after it without a word. After a
//! power cut that is right: pages that were not synced reach the disk in any order, and nobody was promised them. A disk that
//! has lost a bit looks the same but for what follows the page: there may be much of it, and all of it was promised. A log whose
//! header is damaged is not read at all, and one that is not there is none; a log that was cut off between two commits is whole.
//!
//! Format: <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>. All numbers are big-endian; the checksum reads words
//! in the order that the magic number names.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::Path;

const MAGIC: u32 = 0x377f_0682;
const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
const PAGE_BYTES_MAX: usize = 64 << 10;
/// SQLite's pages, where nothing says how large they are.
const PAGE_BYTES_USUAL: u64 = 4096;

/// What is wrong with a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFault {
    /// It is not there, which is right after a clean close alone.
    Missing,
    /// So many pages were written in the same life of the log behind one that is damaged, or behind a damaged header.
    UnreadPages(u64),
}

/// What SQLite will not read of a log. Nothing when the log is whole, empty, or ends within a page.
pub(super) fn fault(path: &Path) -> io::Result<Option<LogFault>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Some(LogFault::Missing)),
        file => file?,
    };
    let bytes = file.metadata()?.len();
    let unread = match count_unread(BufReader::with_capacity(PAGE_BYTES_MAX, file), bytes) {
        // The end of the file, within a page or before it.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => 0,
        counted => counted?,
    };
    Ok((unread > 0).then_some(LogFault::UnreadPages(unread)))
}

fn count_unread(mut file: impl Read, bytes: u64) -> io::Result<u64> {
    let mut header = [0; HEADER_BYTES];
    file.read_exact(&mut header)?;
    // Which pages of a log without a header belong together nobody knows. Too many cost revisions that are not given, and
    // watchers that list anew.
    let all_pages = bytes.saturating_sub(HEADER_BYTES as u64) / PAGE_BYTES_USUAL;
    let magic = word(&header, 0);
    let page_bytes = word(&header, 2) as usize;
    if magic & !1 != MAGIC || !page_bytes.is_power_of_two() || !(512..=PAGE_BYTES_MAX).contains(&page_bytes) {
        return Ok(all_pages);
    }
    let mut checksum = Checksum { is_big_endian: magic & 1 == 1, sums: [0, 0] };
    checksum.add(&header[..24]);
    if checksum.sums != [word(&header, 6), word(&header, 7)] {
        return Ok(all_pages);
    }
    let salts = [word(&header, 4), word(&header, 5)];
    let mut frame = vec![0; FRAME_HEADER_BYTES + page_bytes];
    let (mut is_damaged, mut unread) = (false, 0);
    loop {
        match file.read_exact(&mut frame) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(unread),
            read => read?,
        }
        let is_of_this_life = [word(&frame, 2), word(&frame, 3)] == salts;
        if is_damaged {
            unread += u64::from(is_of_this_life);
            continue;
        }
        checksum.add(&frame[..8]);
        checksum.add(&frame[FRAME_HEADER_BYTES..]);
        is_damaged = !is_of_this_life || checksum.sums != [word(&frame, 4), word(&frame, 5)];
    }
}

struct Checksum {
    is_big_endian: bool,
    sums: [u32; 2],
}

impl Checksum {
    fn add(&mut self, bytes: &[u8]) {
        for pair in bytes.chunks_exact(8) {
            let read = |at: usize| {
                let bytes = [pair[at], pair[at + 1], pair[at + 2], pair[at + 3]];
                if self.is_big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
            };
            let [first, second] = self.sums;
            let first = first.wrapping_add(read(0)).wrapping_add(second);
            self.sums = [first, second.wrapping_add(read(4)).wrapping_add(first)];
        }
    }
}

fn word(bytes: &[u8], number: usize) -> u32 {
    let at = number * 4;
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
