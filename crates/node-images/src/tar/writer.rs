//! Writes tar archives that are the same for the same files: ustar, with pax where ustar's fields are too small.

use std::io::{self, Read, Write};

use super::{BLOCK_BYTES, Entry, Kind};

/// Largest number of a field with seven octal digits.
const SMALL_MAX: u64 = 0o777_7777;
/// Largest number of a field with eleven.
const LARGE_MAX: u64 = 0o777_7777_7777;

/// Writes an archive.
pub(crate) struct Writer<'a> {
    inner: &'a mut dyn Write,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(inner: &'a mut dyn Write) -> Self {
        Self { inner }
    }

    /// Writes an entry; `content` must give `entry.size` bytes.
    pub(crate) fn add(&mut self, entry: &Entry, content: &mut dyn Read) -> io::Result<()> {
        let records = records(entry);
        self.extension(&records)?;
        self.inner.write_all(&header(flag(entry.kind), &entry.path, &entry.link, entry.size, entry))?;
        let copied = io::copy(&mut content.take(entry.size), self.inner)?;
        if copied != entry.size {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        self.pad(copied)
    }

    /// Writes a file of root's that `write` produces; it must write `size` bytes.
    pub(crate) fn add_streamed(
        &mut self,
        name: &str,
        size: u64,
        write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut entry = Entry { path: name.as_bytes().to_vec(), size, ..Entry::plain(Kind::File, 0o644) };
        let records = if size > LARGE_MAX { records(&entry) } else { Vec::new() };
        self.extension(&records)?;
        let path = std::mem::take(&mut entry.path);
        self.inner.write_all(&header(b'0', &path, b"", size, &entry))?;
        let mut exact = Exact { inner: &mut *self.inner, left: size };
        write(&mut exact)?;
        if exact.left != 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        self.pad(size)
    }

    /// Ends the archive.
    pub(crate) fn finish(self) -> io::Result<()> {
        self.inner.write_all(&[0; 2 * BLOCK_BYTES])
    }

    fn extension(&mut self, records: &[u8]) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let length = records.len() as u64;
        self.inner.write_all(&header(b'x', b"PaxHeaders/entry", b"", length, &Entry::plain(Kind::File, 0o644)))?;
        self.inner.write_all(records)?;
        self.pad(length)
    }

    fn pad(&mut self, length: u64) -> io::Result<()> {
        let padding = length.next_multiple_of(BLOCK_BYTES as u64) - length;
        self.inner.write_all(&[0; BLOCK_BYTES][..padding as usize])
    }
}

/// Lets no more through than the header says: a file that grows meanwhile must not shift what follows.
struct Exact<'a> {
    inner: &'a mut dyn Write,
    left: u64,
}

impl Write for Exact<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        let written = self.inner.write(bytes)?;
        self.left -= written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Entry {
    /// An entry of root's and of 1970.
    pub(crate) fn plain(kind: Kind, mode: u32) -> Self {
        Self {
            kind,
            path: Vec::new(),
            link: Vec::new(),
            mode,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            device: (0, 0),
            size: 0,
            xattrs: Vec::new(),
            sparse: None,
        }
    }
}

fn flag(kind: Kind) -> u8 {
    match kind {
        Kind::File => b'0',
        Kind::HardLink => b'1',
        Kind::Symlink => b'2',
        Kind::Character => b'3',
        Kind::Block => b'4',
        Kind::Directory => b'5',
        Kind::Fifo => b'6',
    }
}

fn header(flag: u8, path: &[u8], link: &[u8], size: u64, entry: &Entry) -> [u8; BLOCK_BYTES] {
    let mut header = [0; BLOCK_BYTES];
    let mut put = |at: usize, length: usize, bytes: &[u8]| {
        let length = bytes.len().min(length);
        header[at..at + length].copy_from_slice(&bytes[..length]);
    };
    let small = |value: u64| format!("{:07o}", if value > SMALL_MAX { 0 } else { value });
    let large = |value: u64| format!("{:011o}", if value > LARGE_MAX { 0 } else { value });
    put(0, 100, path);
    put(100, 7, small(entry.mode.into()).as_bytes());
    put(108, 7, small(entry.uid.into()).as_bytes());
    put(116, 7, small(entry.gid.into()).as_bytes());
    put(124, 11, large(size).as_bytes());
    put(136, 11, large(entry.mtime.0.try_into().unwrap_or(0)).as_bytes());
    put(148, 8, b"        ");
    put(156, 1, &[flag]);
    put(157, 100, link);
    put(257, 8, b"ustar\x0000");
    put(329, 7, small(entry.device.0.into()).as_bytes());
    put(337, 7, small(entry.device.1.into()).as_bytes());
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// What does not fit into a header.
fn records(entry: &Entry) -> Vec<u8> {
    let mut records = Vec::new();
    if entry.path.len() > 100 {
        record(&mut records, "path", &entry.path);
    }
    if entry.link.len() > 100 {
        record(&mut records, "linkpath", &entry.link);
    }
    for (key, value, most) in
        [("size", entry.size, LARGE_MAX), ("uid", entry.uid.into(), SMALL_MAX), ("gid", entry.gid.into(), SMALL_MAX)]
    {
        if value > most {
            record(&mut records, key, value.to_string().as_bytes());
        }
    }
    let (seconds, nanos) = entry.mtime;
    if nanos != 0 || u64::try_from(seconds).map_or(true, |seconds| seconds > LARGE_MAX) {
        record(&mut records, "mtime", time(seconds, nanos).as_bytes());
    }
    for (name, value) in &entry.xattrs {
        record(&mut records, &format!("SCHILY.xattr.{name}"), value);
    }
    records
}

/// Nanoseconds count upwards from the second before, decimal fractions downwards to zero.
fn time(seconds: i64, nanos: u32) -> String {
    if seconds < 0 && nanos > 0 {
        return format!("-{}.{:09}", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanos);
    }
    format!("{seconds}.{nanos:09}")
}

/// `LENGTH KEY=VALUE\n`, in which the length counts its own digits.
fn record(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let digits = (1..).find(|digits| (rest + digits).to_string().len() == *digits).unwrap_or(1);
    records.extend_from_slice(format!("{} {key}=", rest + digits).as_bytes());
    records.extend_from_slice(value);
    records.push(b'\n');
}
