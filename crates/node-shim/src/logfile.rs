//! A container's log in the CRI format: `2026-01-01T00:00:00.000000000Z stdout F line`.
//!
//! A line that is long, or that ends without a newline, is written in parts tagged `P`. Full files are put aside as
//! `<attempt>.log.1` (the youngest) and so on; the number of files is bounded. A disk that refuses never stops the
//! container: what could not be written is counted, and noted in the log when there is space again.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
};

use jiff::{Timestamp, fmt::temporal::DateTimePrinter};

/// Longest part of a line, as containerd's: readers may rely on lines of a bounded length.
const PART_BYTES_MAX: usize = 16 * 1024;

/// One of the program's two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Cuts one output into lines.
#[derive(Debug)]
pub struct Lines {
    stream: Stream,
    rest: Vec<u8>,
}

impl Lines {
    pub fn new(stream: Stream) -> Self {
        Self { stream, rest: Vec::new() }
    }

    /// Takes what was read, writes every complete line to `out`.
    pub fn push(&mut self, mut bytes: &[u8], now: Timestamp, out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let space = PART_BYTES_MAX - self.rest.len();
            let newline = bytes.iter().take(space + 1).position(|byte| *byte == b'\n');
            match newline {
                Some(end) => {
                    self.rest.extend_from_slice(&bytes[..end]);
                    self.emit('F', now, out);
                    bytes = &bytes[end + 1..];
                }
                None if bytes.len() > space => {
                    self.rest.extend_from_slice(&bytes[..space]);
                    self.emit('P', now, out);
                    bytes = &bytes[space..];
                }
                None => {
                    self.rest.extend_from_slice(bytes);
                    return;
                }
            }
        }
    }

    /// The output has ended; a line without its newline is written as a part.
    pub fn finish(&mut self, now: Timestamp, out: &mut Vec<u8>) {
        if !self.rest.is_empty() {
            self.emit('P', now, out);
        }
    }

    fn emit(&mut self, tag: char, now: Timestamp, out: &mut Vec<u8>) {
        line(self.stream, tag, &self.rest, now, out);
        self.rest.clear();
    }
}

fn line(stream: Stream, tag: char, text: &[u8], now: Timestamp, out: &mut Vec<u8>) {
    const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(9));
    let time = PRINTER.timestamp_to_string(&now);
    out.extend_from_slice(format!("{time} {} {tag} ", stream.as_str()).as_bytes());
    out.extend_from_slice(text);
    out.push(b'\n');
}

/// The files on disk.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    bytes_max: u64,
    files_max: u32,
    /// Bytes of log lines that the disk refused, and why.
    lost: Option<(u64, io::Error)>,
}

impl LogFile {
    /// Opens the log at its end.
    pub fn open(path: &Path, bytes_max: u64, files_max: u32) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let file = append(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, bytes, bytes_max, files_max: files_max.max(1), lost: None })
    }

    /// Writes whole lines.
    pub fn write(&mut self, mut lines: &[u8], now: Timestamp) {
        while !lines.is_empty() {
            let (next, rest) = lines.split_at(self.fitting(lines));
            self.write_batch(next, now);
            lines = rest;
        }
    }

    /// Length of the lines that the file has space for; when there is space for none, that of the first, for the next file.
    fn fitting(&self, lines: &[u8]) -> usize {
        let space = usize::try_from(self.bytes_max.saturating_sub(self.bytes)).unwrap_or(usize::MAX).min(lines.len());
        let is_end = |byte: &u8| *byte == b'\n';
        let last = lines[..space].iter().rposition(is_end).or_else(|| lines.iter().position(is_end));
        last.map_or(lines.len(), |end| end + 1)
    }

    fn write_batch(&mut self, lines: &[u8], now: Timestamp) {
        let is_full = self.bytes > 0 && self.bytes + lines.len() as u64 > self.bytes_max;
        // When putting aside fails, the file grows on: better a large log than a lost one.
        let next = if is_full { self.put_aside().unwrap_or_default() } else { None };
        if let Some((lost, error)) = &self.lost {
            let mut note = Vec::new();
            let text = format!("selvedge: {lost} bytes of this log were lost: {error}");
            line(Stream::Stderr, 'F', text.as_bytes(), now, &mut note);
            if self.append_whole(&note).is_ok() {
                self.lost = None;
            }
        }
        if let Err(error) = self.append_whole(lines) {
            let before = self.lost.as_ref().map_or(0, |(lost, _)| *lost);
            self.lost = Some((before + lines.len() as u64, error));
        }
        if let Some(next) = next {
            // It has lines before it has the name: whoever opens the log finds the full file or this one, never none and
            // never an empty one. A disk that refuses this refuses the lines that follow, too, which are counted.
            let _ = fs::rename(next, &self.path);
        }
    }

    /// All or nothing: half a line would spoil the one after it.
    fn append_whole(&mut self, bytes: &[u8]) -> io::Result<()> {
        let result = self.file.write_all(bytes);
        match result {
            Ok(()) => self.bytes += bytes.len() as u64,
            Err(_) => self.file.set_len(self.bytes)?,
        }
        result
    }

    /// The last lines without their times, no more than this of them; nothing when the file cannot be read.
    pub fn tail(&self, lines_max: usize, bytes_max: usize) -> String {
        // Time, stream and tag of a line are some 45 bytes.
        let bytes = (bytes_max + 64 * lines_max) as u64;
        let start = self.bytes.saturating_sub(bytes);
        let mut read = Vec::new();
        let opened = File::open(&self.path).and_then(|mut file| {
            file.seek(io::SeekFrom::Start(start))?;
            file.take(bytes).read_to_end(&mut read)
        });
        if opened.is_err() {
            return String::new();
        }
        let after_cut = read.iter().position(|byte| *byte == b'\n').map_or(read.len(), |end| end + 1);
        if start > 0 && after_cut == read.len() {
            // All of it is of one long line.
            let words = read.strip_suffix(b"\n").unwrap_or(&read);
            return String::from_utf8_lossy(&words[words.len().saturating_sub(bytes_max)..]).into_owned();
        }
        let whole = &read[if start == 0 { 0 } else { after_cut }..];
        let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
        let mut text = Vec::new();
        for line in &lines[lines.len().saturating_sub(lines_max)..] {
            let mut fields = line.splitn(4, |byte| *byte == b' ').skip(2);
            let (tag, words) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
            text.extend_from_slice(if tag == b"P" { words.strip_suffix(b"\n").unwrap_or(words) } else { words });
        }
        String::from_utf8_lossy(&text[text.len().saturating_sub(bytes_max)..]).into_owned()
    }

    /// Gives the full file the name of the youngest put aside, and begins another, which has yet to take the log's name
    /// from the one that is returned.
    fn put_aside(&mut self) -> io::Result<Option<PathBuf>> {
        if self.files_max == 1 {
            self.file.set_len(0)?;
            self.bytes = 0;
            return Ok(None);
        }
        let (youngest, next) = (numbered(&self.path, 1), suffixed(&self.path, "next"));
        remove(&next)?;
        let file = append(&next)?;
        for number in (1..self.files_max - 1).rev() {
            match fs::rename(numbered(&self.path, number), numbered(&self.path, number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        remove(&youngest)?;
        if fs::hard_link(&self.path, &youngest).is_err() {
            // A file system without hard links: there the log has no file for a moment.
            fs::rename(&self.path, &youngest)?;
        }
        self.file = file;
        self.bytes = 0;
        Ok(Some(next))
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    suffixed(path, &number.to_string())
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{suffix}"));
    name.into()
}

#[cfg(test)]
mod tests;
