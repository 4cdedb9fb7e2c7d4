//! Reading container logs: what `kubectl logs` asks for, from files in CRI format.
//!
//! A line is `<RFC 3339 time> <stdout|stderr> <F|P> <text>`; `P` marks a part of a long line. A reader gets the text
//! (with its time when it asks for it) from the tail, since a moment, or as it comes.

use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};

use base_http::query::{Query, QueryError};
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

/// What is read at once; also the step by which a tail is searched backwards.
const CHUNK_BYTES: usize = 16 * 1024;
/// Longest line that is kept together; the shim cuts lines long before.
const LINE_BYTES_MAX: usize = 256 * 1024;

/// Query of `/containerLogs`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Whether to wait for more.
    pub follow: bool,
    /// The attempt before the present one.
    pub previous: bool,
    /// Whether lines begin with their time.
    pub timestamps: bool,
    /// Lines from the end.
    pub tail_lines: Option<u64>,
    /// Nothing older.
    pub since: Option<Timestamp>,
    /// No more than this.
    pub limit_bytes: Option<u64>,
}

impl LogQuery {
    /// Reads a query string. `now` turns `sinceSeconds` into a moment. Parameters without a meaning here
    /// (`insecureSkipTLSVerifyBackend`, `container`, `stream`) are passed over.
    pub fn parse(query: Option<&str>, now: Timestamp) -> Result<Self, QueryError> {
        let query = Query::parse(query)?;
        let since_seconds = query.number::<u64>("sinceSeconds")?;
        let ago = since_seconds.map(|seconds| SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX)));
        Ok(Self {
            follow: query.flag("follow"),
            previous: query.flag("previous"),
            timestamps: query.flag("timestamps"),
            tail_lines: query.number("tailLines")?,
            // A moment before all time is no limit.
            since: query.number("sinceTime")?.or_else(|| now.checked_sub(ago?).ok()),
            limit_bytes: query.number("limitBytes")?,
        })
    }
}

/// Removes what the attempts of a container up to `attempt` left in the pod's directory: logs, those put aside when they
/// were full too, and termination messages. What is not there is no error.
pub(crate) fn remove_until(pod_dir: &Path, container: &str, attempt: u32) -> io::Result<()> {
    let is_old = |number: &str| number.parse::<u32>().is_ok_and(|number| number <= attempt);
    remove_files(&pod_dir.join(container), |name| {
        name.split_once('.').is_some_and(|(number, rest)| is_old(number) && (rest == "log" || rest.starts_with("log.")))
    })?;
    remove_files(&pod_dir.join(".termination"), |name| {
        name.strip_prefix(container).and_then(|rest| rest.strip_prefix('-')).is_some_and(is_old)
    })
}

fn remove_files(directory: &Path, is_old: impl Fn(&str) -> bool) -> io::Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(&is_old) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Turns log lines into what the reader asked for.
#[derive(Debug)]
pub(crate) struct Formatter {
    timestamps: bool,
    since: Option<Timestamp>,
    bytes_left: u64,
    /// The line before was a part, so the next one continues without a time.
    within_line: bool,
}

impl Formatter {
    pub fn new(query: &LogQuery) -> Self {
        let bytes_left = query.limit_bytes.unwrap_or(u64::MAX);
        Self { timestamps: query.timestamps, since: query.since, bytes_left, within_line: false }
    }

    /// Whether the reader has all it desired.
    /// Whether the limit is reached.
    pub fn is_full(&self) -> bool {
        self.bytes_left == 0
    }

    /// Appends one line of the file (without its newline) to `out`.
    pub fn line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        // A line that is not in CRI format was cut by a crash; it is shown as it is rather than lost.
        let (time, is_part, text) = match parse_line(line) {
            Some(parts) => parts,
            None => ("", false, line),
        };
        if let (Some(since), Ok(at)) = (self.since, time.parse::<Timestamp>())
            && at < since
        {
            return;
        }
        let start = out.len();
        if self.timestamps && !self.within_line && !time.is_empty() {
            out.extend_from_slice(time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(text);
        if !is_part {
            out.push(b'\n');
        }
        self.within_line = is_part;
        let added = (out.len() - start) as u64;
        if added > self.bytes_left {
            let kept = usize::try_from(self.bytes_left).unwrap_or(usize::MAX);
            out.truncate(start.saturating_add(kept));
        }
        self.bytes_left = self.bytes_left.saturating_sub(added);
    }
}

/// Time, whether it is a part of a line, and the text.
fn parse_line(line: &[u8]) -> Option<(&str, bool, &[u8])> {
    let mut fields = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(fields.next()?).ok()?;
    let stream = fields.next()?;
    let tag = fields.next()?;
    let text = fields.next().unwrap_or_default();
    let is_cri = (stream == b"stdout" || stream == b"stderr") && time.contains('T');
    is_cri.then_some((time, tag.starts_with(b"P"), text))
}

/// Where in `file` its last `lines` lines begin. Parts of a line count as lines only when they end one.
pub(crate) async fn tail_start(file: &mut tokio::fs::File, lines: u64) -> io::Result<u64> {
    let length = file.seek(SeekFrom::End(0)).await?;
    if lines == 0 {
        return Ok(length);
    }
    let mut position = length;
    let mut newlines = 0_u64;
    let mut chunk = vec![0_u8; CHUNK_BYTES];
    // A part of a line is rare; it is reported by its tag, which needs the line's head. Counting newlines shows at most
    // the beginning of a long line less.
    while position > 0 {
        let size = CHUNK_BYTES.min(usize::try_from(position).unwrap_or(CHUNK_BYTES));
        position -= size as u64;
        file.seek(SeekFrom::Start(position)).await?;
        file.read_exact(&mut chunk[..size]).await?;
        for (index, byte) in chunk[..size].iter().enumerate().rev() {
            let at = position + index as u64;
            // The newline at the very end closes the last line, it does not begin another.
            if *byte == b'\n' && at + 1 < length {
                newlines += 1;
                if newlines == lines {
                    return Ok(at + 1);
                }
            }
        }
    }
    Ok(0)
}

/// Reads a log file piece by piece.
#[derive(Debug)]
pub struct LogReader {
    file: tokio::fs::File,
    path: PathBuf,
    position: u64,
    pending: Vec<u8>,
    formatter: Formatter,
}

impl LogReader {
    /// Opens a log where the query begins.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn open(path: &Path, query: &LogQuery) -> io::Result<Self> {
        let mut file = tokio::fs::File::open(path).await?;
        let position = match query.tail_lines {
            Some(lines) => tail_start(&mut file, lines).await?,
            None => 0,
        };
        file.seek(SeekFrom::Start(position)).await?;
        let formatter = Formatter::new(query);
        Ok(Self { file, path: path.to_owned(), position, pending: Vec::new(), formatter })
    }

    /// The next text; `None` at the present end of the file, or when the reader has all it desired.
    /// The next piece of text; `None` at the end for now.
    ///
    /// # Errors
    /// When the disk refuses.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let mut chunk = vec![0_u8; CHUNK_BYTES];
        while !self.formatter.is_full() {
            let size = self.file.read(&mut chunk).await?;
            if size == 0 {
                if !self.reopen_if_rotated().await? {
                    return Ok(None);
                }
                continue;
            }
            self.position += size as u64;
            self.pending.extend_from_slice(&chunk[..size]);
            let mut out = Vec::new();
            let mut start = 0;
            while let Some(end) = self.pending[start..].iter().position(|byte| *byte == b'\n') {
                self.formatter.line(&self.pending[start..start + end], &mut out);
                start += end + 1;
            }
            self.pending.drain(..start);
            if self.pending.len() > LINE_BYTES_MAX {
                let line = std::mem::take(&mut self.pending);
                self.formatter.line(&line, &mut out);
            }
            if !out.is_empty() {
                return Ok(Some(out.into()));
            }
        }
        Ok(None)
    }

    /// Whether the limit is reached.
    pub fn is_full(&self) -> bool {
        self.formatter.is_full()
    }

    /// The shim renames a full log and begins another: at the old one's end, the new one is taken up.
    async fn reopen_if_rotated(&mut self) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt as _;
        let ours = self.file.metadata().await?;
        let present = match tokio::fs::metadata(&self.path).await {
            Ok(present) => present,
            // Removed with its pod: what was open has been read to its end.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        if present.ino() == ours.ino() && present.len() >= self.position {
            return Ok(false);
        }
        self.file = tokio::fs::File::open(&self.path).await?;
        self.position = 0;
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
