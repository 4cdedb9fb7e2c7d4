//! The journal: records that are numbered once and never again, in segments of bounded size.
//!
//! `append` writes, `commit` makes durable: whoever comes first syncs for all who wrote before, so the number of syncs follows
//! the disk's speed and not the number of appenders. Readers see durable records only: an offset that someone outside
//! has heard of is never given to another record.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base_fs::DirLock;
use bytes::Bytes;
use tracing::{info, warn};

use crate::cursors::Cursors;
use crate::disk::{self, Disk};
use crate::error::{AppendError, CursorError, OpenJournalError, ReadError};
use crate::frame::{self, BadHeader, FrameReader, Header, Kind, RECORD_BYTES_MAX, Step};
use crate::segment::{self, Segment};

/// Largest offset: what JSON carries without loss, and at 200,000 records a second the journal of a thousand years. Numbers
/// beyond it are damage, or a receiver that cannot be believed.
pub const OFFSET_MAX: u64 = (1 << 53) - 1;

/// How a journal uses its disk.
#[derive(Clone, Debug)]
pub struct JournalOptions {
    /// A segment is closed when it has grown to this; space is given back in such pieces.
    pub segment_bytes: u64,
    /// Bytes the journal may use; the oldest whole segments go when it would grow beyond.
    pub bytes_max: u64,
}

impl Default for JournalOptions {
    /// 4 MiB segments, 256 MiB in all: a day of a hundred readings per second on the smallest gateway.
    fn default() -> Self {
        Self { segment_bytes: 4 * 1024 * 1024, bytes_max: 256 * 1024 * 1024 }
    }
}

/// Offsets that an append was given, to be handed to [`Journal::commit`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "appended records are safe only after `commit`"]
pub struct Appended {
    /// The records' offsets.
    pub offsets: Range<u64>,
    /// How often the journal had been truncated when they were written.
    cuts: u64,
}

/// A place where the disk lost what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// Byte in the file.
    pub position: u64,
    /// Offsets of the records that cannot be read; none when only a header is damaged.
    pub offsets: Range<u64>,
}

/// What opening found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Bytes cut from the end: what was being written when the power went.
    pub torn_bytes: u64,
    /// Damage in the newest segment and to headers; older segments are checked when they are read.
    pub damaged: Vec<Damage>,
}

/// A record as it was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number.
    pub offset: u64,
    /// What was appended.
    pub payload: Bytes,
}

/// A segment as others may know it: space is given back in segments, so whoever keeps books on the journal wants their limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentExtent {
    /// Offsets of its records; of the newest segment those appended so far.
    pub offsets: Range<u64>,
    /// Further records go into this one.
    pub is_newest: bool,
}

/// What [`Journal::read`] found. `records.len() + lost == next - from`, always.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    /// In order of their offsets, which may have gaps.
    pub records: Vec<Record>,
    /// Where to continue.
    pub next: u64,
    /// Records between `from` and `next` that are lost: dropped for want of space, or damaged.
    pub lost: u64,
    /// Where damage was met.
    pub damaged: Vec<Damage>,
}

/// An append-only journal in a directory of its own. Clones share it.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use base_journal::{Journal, JournalOptions};
/// let journal = Journal::open(dir.path(), JournalOptions::default())?;
/// let offsets = journal.append_and_commit(&[b"first", b"second"])?;
/// let chunk = journal.read(offsets.start, 64 * 1024)?;
/// assert_eq!(chunk.records.len(), 2);
/// journal.set_cursor("hub", chunk.next)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Journal {
    inner: Arc<Inner>,
}

type Listener = Box<dyn Fn(u64) -> ControlFlow<()> + Send + Sync>;

struct Inner {
    dir: PathBuf,
    options: JournalOptions,
    disk: Disk,
    epoch: [u8; 16],
    epoch_text: String,
    recovery: Recovery,
    state: Mutex<State>,
    /// Held while syncing: those who wait for it find their records durable when they get it.
    sync: Mutex<()>,
    cursors: Mutex<Cursors>,
    listeners: Mutex<Vec<Listener>>,
    /// Keeps other processes out while it is open.
    _lock: DirLock,
}

struct State {
    /// Oldest first; the last one is written to. Never empty.
    segments: VecDeque<Segment>,
    /// Sum of the segments' bytes.
    bytes: u64,
    /// Number of the next record.
    end: u64,
    /// Number after the last durable record, and where it ends in the newest segment.
    durable: u64,
    durable_position: u64,
    /// The last `durable` that listeners have heard of.
    notified: u64,
    /// How often records were cut off after a failed sync, and to where the last time.
    cuts: u64,
    last_cut: u64,
    /// The newest segment takes no more: its last sync failed.
    must_roll: bool,
}

impl State {
    fn active(&mut self) -> &mut Segment {
        self.segments.back_mut().expect("a journal always has a segment that is written to")
    }

    fn first(&self) -> u64 {
        self.segments.front().expect("a journal always has a segment").base
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while holding it can only have come from an allocation; the state is changed after the last one.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Journal {
    /// Opens the journal in `dir`, or makes one.
    ///
    /// A torn tail is cut off; damage before it is reported in [`Journal::recovery`]. Nothing is changed when a file is of
    /// a newer format.
    pub fn open(dir: &Path, options: JournalOptions) -> Result<Self, OpenJournalError> {
        Self::open_on(Disk::default(), dir, options)
    }

    pub(crate) fn open_on(disk: Disk, dir: &Path, options: JournalOptions) -> Result<Self, OpenJournalError> {
        let in_dir = |source| OpenJournalError::OpenDir { path: dir.to_owned(), source };
        disk.create_dir(dir).map_err(in_dir)?;
        let lock = DirLock::try_acquire(dir).map_err(in_dir)?;
        let lock = lock.ok_or_else(|| OpenJournalError::InUse { path: dir.to_owned() })?;
        let mut found = find_segments(&disk, dir)?;
        let cursors = Cursors::open(&disk, dir)?;
        let epoch = match found.epoch {
            Some(epoch) => epoch,
            None => disk::random_16().map_err(in_dir)?,
        };
        let mut recovery = Recovery::default();
        let end = settle(&disk, &mut found, epoch, &mut recovery)?;
        // An offset that a reader has confirmed is never given again, even if the disk lost its record.
        let begin = end.max(cursors.highest());
        if found.segments.is_empty() || begin > end {
            let segment = Segment::create(&disk, dir, epoch, begin)
                .map_err(|source| OpenJournalError::OpenFile { path: dir.join(segment::file_name(begin)), source })?;
            found.segments.push_back(segment);
        }
        if recovery != Recovery::default() {
            warn!(journal = %dir.display(), torn_bytes = recovery.torn_bytes, damaged = recovery.damaged.len(),
                "The journal was not closed cleanly; what was being written is cut off.");
        }
        let bytes = found.segments.iter().map(|segment| segment.bytes).sum();
        let state = State {
            durable_position: found.segments.back().map_or(0, |segment| segment.bytes),
            segments: found.segments,
            bytes,
            end: begin,
            durable: begin,
            notified: begin,
            cuts: 0,
            last_cut: begin,
            must_roll: false,
        };
        let options = JournalOptions {
            // At least four segments, or dropping the oldest would take most of what is held.
            segment_bytes: options.segment_bytes.min(options.bytes_max / 4),
            ..options
        };
        Ok(Self {
            inner: Arc::new(Inner {
                dir: dir.to_owned(),
                options,
                disk,
                epoch,
                epoch_text: hex(&epoch),
                recovery,
                state: Mutex::new(state),
                sync: Mutex::new(()),
                cursors: Mutex::new(cursors),
                listeners: Mutex::new(Vec::new()),
                _lock: lock,
            }),
        })
    }

    /// What opening had to repair.
    pub fn recovery(&self) -> &Recovery {
        &self.inner.recovery
    }

    /// 32 hexadecimal digits made at random with the journal: offsets mean something within one epoch only.
    pub fn epoch(&self) -> &str {
        &self.inner.epoch_text
    }

    /// Offset of the oldest record held.
    pub fn first(&self) -> u64 {
        lock(&self.inner.state).first()
    }

    /// Offset after the newest durable record.
    pub fn next(&self) -> u64 {
        lock(&self.inner.state).durable
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        lock(&self.inner.state).bytes
    }

    /// Largest payload of one record.
    pub fn record_bytes_max(&self) -> usize {
        RECORD_BYTES_MAX.min(usize::try_from(self.inner.options.bytes_max / 2).unwrap_or(usize::MAX))
    }

    /// Writes records one after the other; they are safe, and readable, after [`Journal::commit`].
    ///
    /// On an error none of them is in the journal. The oldest segments go when the journal would outgrow
    /// [`JournalOptions::bytes_max`].
    pub fn append(&self, payloads: &[&[u8]]) -> Result<Appended, AppendError> {
        self.append_records(payloads.iter().map(std::slice::from_ref))
    }

    /// Appends one record that lies in several pieces, so that nobody has to copy them together first.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn append_pieces(&self, pieces: &[&[u8]]) -> Result<Appended, AppendError> {
        self.append_records(std::iter::once(pieces))
    }

    fn append_records<'p>(
        &self,
        records: impl ExactSizeIterator<Item = &'p [&'p [u8]]> + Clone,
    ) -> Result<Appended, AppendError> {
        let inner = &*self.inner;
        let max = self.record_bytes_max();
        let bytes_of = |pieces: &[&[u8]]| pieces.iter().map(|piece| piece.len()).sum::<usize>();
        if let Some(bytes) = records.clone().map(bytes_of).find(|bytes| *bytes > max) {
            return Err(AppendError::TooLarge { bytes, max });
        }
        let count = records.len() as u64;
        let mut state = lock(&inner.state);
        if state.must_roll || state.active().bytes >= inner.options.segment_bytes {
            inner.roll(&mut state)?;
        }
        let first = state.end;
        let start = state.active().bytes;
        let mut buffer =
            Vec::with_capacity(records.clone().map(|pieces| bytes_of(pieces) + frame::FRAME_HEADER_BYTES).sum());
        let mut places = Vec::new();
        for (number, pieces) in (first..).zip(records) {
            let position = start + buffer.len() as u64;
            places.push((number, position));
            frame::encode(number, pieces, &mut buffer);
        }
        inner.make_space(&mut state, buffer.len() as u64);
        let segment = state.active();
        let file = segment.file.clone();
        if let Err(source) = inner.disk.write_at(&file, &buffer, start) {
            // If this fails too, the rest is overwritten by the next append or cut off at the next open.
            let _ = file.set_len(start);
            return Err(inner.append_error(&segment.path, source));
        }
        for (number, position) in places {
            segment.note(number, position);
        }
        segment.bytes += buffer.len() as u64;
        segment.end += count;
        state.bytes += buffer.len() as u64;
        state.end += count;
        Ok(Appended { offsets: first..state.end, cuts: state.cuts })
    }

    /// Waits until the records are on the disk. One sync serves all who appended before it began.
    ///
    /// When the sync fails, every record that was not durable is cut off and every waiting call fails.
    pub fn commit(&self, appended: &Appended) -> Result<(), AppendError> {
        let inner = &*self.inner;
        let _turn = lock(&inner.sync);
        let (file, target, position, cuts, path) = {
            let mut state = lock(&inner.state);
            if appended.cuts != state.cuts {
                let was_durable = appended.cuts + 1 == state.cuts && appended.offsets.end <= state.last_cut;
                return if was_durable { Ok(()) } else { Err(AppendError::Lost { first: appended.offsets.start }) };
            }
            if appended.offsets.end <= state.durable {
                // Closing a segment made them durable, and notified nobody.
                let is_news = state.notified < state.durable;
                drop(state);
                if is_news {
                    inner.notify_listeners();
                }
                return Ok(());
            }
            let (target, cuts) = (state.end, state.cuts);
            let segment = state.active();
            let file = segment.file.clone();
            (file, target, segment.bytes, cuts, segment.path.clone())
        };
        let synced = inner.disk.sync(&file);
        let mut state = lock(&inner.state);
        if state.cuts != cuts {
            // Closing a segment failed meanwhile and cut these records off.
            return Err(AppendError::Lost { first: appended.offsets.start });
        }
        if let Err(source) = synced {
            inner.truncate(&mut state);
            return Err(inner.append_error(&path, source));
        }
        if target > state.durable {
            state.durable = target;
            state.durable_position = position;
        }
        drop(state);
        inner.notify_listeners();
        Ok(())
    }

    /// [`Journal::append`] and [`Journal::commit`].
    pub fn append_and_commit(&self, payloads: &[&[u8]]) -> Result<Range<u64>, AppendError> {
        let appended = self.append(payloads)?;
        self.commit(&appended)?;
        Ok(appended.offsets)
    }

    /// Calls `listener` with [`Journal::next`] after each commit, on the committing thread, until it answers `Break`.
    ///
    /// It should only nudge someone.
    pub fn on_commit(&self, listener: impl Fn(u64) -> ControlFlow<()> + Send + Sync + 'static) {
        lock(&self.inner.listeners).push(Box::new(listener));
    }

    /// Reads durable records from offset `from` on, until they have `bytes_max` bytes together; at least one if there is one.
    ///
    /// Records that are lost are counted in [`Chunk::lost`]. `from` may lie anywhere: before the oldest record, reading
    /// begins with that; beyond the newest, the chunk is empty and `next` is `from`.
    pub fn read(&self, from: u64, bytes_max: usize) -> Result<Chunk, ReadError> {
        let mut chunk = Chunk { next: from, ..Chunk::default() };
        let mut bytes = 0;
        loop {
            let (part, durable) = {
                let state = lock(&self.inner.state);
                (next_part(&state, chunk.next), state.durable)
            };
            let Some(part) = part else {
                // Numbers that were given out and whose records a disk lost: no segment holds them.
                chunk.lost += durable.saturating_sub(chunk.next);
                chunk.next = chunk.next.max(durable);
                return Ok(chunk);
            };
            chunk.lost += part.begin - chunk.next;
            chunk.next = part.begin;
            let failed = |source| ReadError { path: part.path.clone(), source };
            let mut reader = FrameReader::new(&part.file, part.position, part.number, part.limit)
                .with_block_bytes(bytes_max.saturating_sub(bytes));
            while reader.number() < part.end {
                match reader.step().map_err(failed)? {
                    Step::Frame { number, .. } if number < chunk.next => {}
                    Step::Frame { number, payload, .. } => {
                        if !chunk.records.is_empty() && bytes + payload.len() > bytes_max {
                            return Ok(chunk);
                        }
                        bytes += payload.len();
                        chunk.records.push(Record { offset: number, payload });
                        chunk.next = number + 1;
                    }
                    Step::Damaged { number, .. } if number < chunk.next => {}
                    Step::Damaged { number, position } => chunk.give_up(&part.path, position, number + 1),
                    Step::Broken { position, .. } => chunk.give_up(&part.path, position, part.end),
                    Step::End => {
                        chunk.give_up(&part.path, part.limit, part.end);
                        break;
                    }
                }
            }
            if bytes >= bytes_max {
                return Ok(chunk);
            }
        }
    }

    /// The segment in which `offset` lies; `None` when no segment holds it.
    pub fn segment_of(&self, offset: u64) -> Option<SegmentExtent> {
        let state = lock(&self.inner.state);
        let after = state.segments.partition_point(|segment| segment.base <= offset);
        let segment = &state.segments[after.checked_sub(1)?];
        let is_newest = after == state.segments.len();
        (is_newest || offset < segment.end)
            .then(|| SegmentExtent { offsets: segment.base..segment.end.max(segment.base), is_newest })
    }

    /// Gives back whole segments that hold only records before `before`.
    pub fn trim(&self, before: u64) {
        let mut state = lock(&self.inner.state);
        while state.segments.len() > 1 && state.segments[0].end.min(state.segments[1].base) <= before {
            self.inner.drop_first(&mut state);
        }
    }

    /// Gives the oldest whole segment back, whoever still needed it; false when only the newest one is left.
    pub fn drop_oldest(&self) -> bool {
        let mut state = lock(&self.inner.state);
        let can = state.segments.len() > 1;
        if can {
            self.inner.drop_first(&mut state);
        }
        can
    }

    /// Continues numbering at `offset`; records between are counted as lost by readers. Earlier offsets change nothing.
    ///
    /// For a journal that was put back from an old copy, once a receiver says that it has seen later offsets.
    pub fn skip_to(&self, offset: u64) -> Result<(), AppendError> {
        if offset > OFFSET_MAX {
            return Err(AppendError::Offset { offset });
        }
        let _turn = lock(&self.inner.sync);
        let mut state = lock(&self.inner.state);
        if offset <= state.end {
            return Ok(());
        }
        self.inner.close_active(&mut state)?;
        self.inner.begin_segment(&mut state, offset)
    }

    /// Where the reader `name` continues; `None` for one that never confirmed anything.
    pub fn cursor(&self, name: &str) -> Option<u64> {
        lock(&self.inner.cursors).get(name)
    }

    /// Remembers durably that reader `name` continues at `offset`.
    pub fn set_cursor(&self, name: &str, offset: u64) -> Result<(), CursorError> {
        lock(&self.inner.cursors).set(&self.inner.disk, name, Some(offset))
    }

    /// Forgets the reader `name`, durably.
    pub fn remove_cursor(&self, name: &str) -> Result<(), CursorError> {
        lock(&self.inner.cursors).set(&self.inner.disk, name, None)
    }

    /// Every cursor, by name.
    pub fn cursors(&self) -> Vec<(String, u64)> {
        lock(&self.inner.cursors).all()
    }
}

/// What of one segment a read goes through.
struct Part {
    path: PathBuf,
    file: Arc<File>,
    /// First record to read.
    begin: u64,
    /// Number and position of the frame to begin with, at or before `begin`.
    number: u64,
    position: u64,
    /// Number after the last readable record.
    end: u64,
    /// Bytes of the file that may be read.
    limit: u64,
}

fn next_part(state: &State, from: u64) -> Option<Part> {
    if from >= state.durable {
        return None;
    }
    let at = state.segments.iter().position(|segment| segment.end > from)?;
    let segment = &state.segments[at];
    let begin = from.max(segment.base);
    if begin >= state.durable {
        return None;
    }
    let (number, position) = segment.seek(begin);
    let is_last = at + 1 == state.segments.len();
    Some(Part {
        path: segment.path.clone(),
        file: segment.file.clone(),
        begin,
        number,
        position,
        end: segment.end.min(state.durable),
        limit: if is_last { state.durable_position } else { segment.bytes },
    })
}

impl Chunk {
    /// Counts everything before `to` as lost.
    fn give_up(&mut self, path: &Path, position: u64, to: u64) {
        if to <= self.next {
            return;
        }
        warn!(file = %path.display(), position, first = self.next, lost = to - self.next, "Journal records are damaged.");
        self.damaged.push(Damage { path: path.to_owned(), position, offsets: self.next..to });
        self.lost += to - self.next;
        self.next = to;
    }
}

impl Inner {
    fn append_error(&self, path: &Path, source: io::Error) -> AppendError {
        if disk::is_full(&source) {
            AppendError::Full { path: self.dir.clone() }
        } else {
            AppendError::Write { path: path.to_owned(), source }
        }
    }

    /// Closes the newest segment and begins another one.
    fn roll(&self, state: &mut State) -> Result<(), AppendError> {
        self.close_active(state)?;
        let base = state.end;
        self.begin_segment(state, base)
    }

    /// Makes all of the newest segment durable, so that a commit only ever syncs one file.
    fn close_active(&self, state: &mut State) -> Result<(), AppendError> {
        if state.durable == state.end {
            return Ok(());
        }
        let path = state.active().path.clone();
        let file = state.active().file.clone();
        if let Err(source) = self.disk.sync(&file) {
            self.truncate(state);
            return Err(self.append_error(&path, source));
        }
        state.durable = state.end;
        state.durable_position = state.active().bytes;
        Ok(())
    }

    fn begin_segment(&self, state: &mut State, base: u64) -> Result<(), AppendError> {
        let path = self.dir.join(segment::file_name(base));
        if state.active().base == base {
            // It is empty. If its sync failed, its header may not have come to the disk.
            if state.must_roll {
                let header = Header { kind: Kind::Segment, epoch: self.epoch, base }.encode();
                let file = state.active().file.clone();
                let written = self.disk.write_at(&file, &header, 0).and_then(|()| self.disk.sync(&file));
                written.map_err(|source| self.append_error(&path, source))?;
                state.must_roll = false;
            }
            return Ok(());
        }
        let segment = Segment::create(&self.disk, &self.dir, self.epoch, base);
        let segment = segment.map_err(|source| self.append_error(&path, source))?;
        state.bytes += segment.bytes;
        state.durable_position = segment.bytes;
        state.segments.push_back(segment);
        state.end = base;
        state.durable = base;
        state.must_roll = false;
        Ok(())
    }

    /// After a failed sync the kernel may have dropped what was written: cut it off and write to this file no more.
    fn truncate(&self, state: &mut State) {
        let (end, position) = (state.durable, state.durable_position);
        let lost = state.end - end;
        let segment = state.active();
        let cut_bytes = segment.bytes - position;
        segment.cut(end, position);
        if let Err(error) = segment.file.set_len(position) {
            warn!(file = %segment.path.display(), %error, "Could not cut off records whose sync failed.");
        }
        state.bytes -= cut_bytes;
        state.end = end;
        state.cuts += 1;
        state.last_cut = end;
        state.must_roll = true;
        warn!(journal = %self.dir.display(), lost, "A sync failed; the records it was for are cut off.");
    }

    /// Drops the oldest segments until `more` bytes fit.
    fn make_space(&self, state: &mut State, more: u64) {
        while state.segments.len() > 1 && state.bytes + more > self.options.bytes_max {
            let first = state.first();
            self.drop_first(state);
            info!(journal = %self.dir.display(), first, next = state.first(), "The journal is full; its oldest segment went.");
        }
    }

    fn drop_first(&self, state: &mut State) {
        if let Some(segment) = state.segments.pop_front() {
            state.bytes -= segment.bytes;
            if let Err(error) = self.disk.remove(&segment.path) {
                warn!(file = %segment.path.display(), %error, "Could not remove a journal segment.");
            }
        }
    }

    fn notify_listeners(&self) {
        let durable = {
            let mut state = lock(&self.state);
            state.notified = state.durable;
            state.durable
        };
        lock(&self.listeners).retain(|listener| listener(durable).is_continue());
    }
}

struct Found {
    dir: PathBuf,
    segments: VecDeque<Segment>,
    epoch: Option<[u8; 16]>,
    /// Bases of segments whose header cannot be read.
    damaged_headers: Vec<u64>,
}

/// Lists the segments and reads their headers, changing nothing.
fn find_segments(disk: &Disk, dir: &Path) -> Result<Found, OpenJournalError> {
    let in_dir = |source| OpenJournalError::OpenDir { path: dir.to_owned(), source };
    let mut bases = Vec::new();
    for entry in fs::read_dir(dir).map_err(in_dir)? {
        bases.extend(segment::base_of(&entry.map_err(in_dir)?.path()));
    }
    bases.sort_unstable();
    let mut found = Found { segments: VecDeque::new(), epoch: None, damaged_headers: Vec::new(), dir: dir.to_owned() };
    for base in bases {
        let path = dir.join(segment::file_name(base));
        let in_file = |source| OpenJournalError::OpenFile { path: path.clone(), source };
        let file = disk.open(&path).map_err(in_file)?;
        let bytes = file.metadata().map_err(in_file)?.len();
        match Header::read(&file, Kind::Segment).map_err(in_file)? {
            Ok(header) => found.epoch = Some(header.epoch),
            Err(BadHeader::Newer(version)) => return Err(OpenJournalError::Newer { path, found: version }),
            // Its base is in its name, and frames carry checksums of their own: it can be read all the same.
            Err(BadHeader::Damaged) => found.damaged_headers.push(base),
        }
        found.segments.push_back(Segment::found(path, file, base, bytes));
    }
    Ok(found)
}

/// Decides where each segment ends, cuts the torn tail of the newest, and returns the journal's end.
fn settle(disk: &Disk, found: &mut Found, epoch: [u8; 16], recovery: &mut Recovery) -> Result<u64, OpenJournalError> {
    let segments = &mut found.segments;
    let mut begun = 0;
    while let Some(last) = segments.back_mut() {
        let path = last.path.clone();
        let in_file = |source| OpenJournalError::OpenFile { path: path.clone(), source };
        let (position, damaged) = last.scan().map_err(in_file)?;
        let is_headless = found.damaged_headers.contains(&last.base);
        if is_headless && last.end == last.base {
            // It was being made when the power went: nothing was committed to it. The one before was complete.
            recovery.torn_bytes += last.bytes;
            begun = begun.max(last.base);
            disk.remove(&last.path).map_err(in_file)?;
            let removed = last.base;
            found.damaged_headers.retain(|&base| base != removed);
            segments.pop_back();
            continue;
        }
        for (number, position) in damaged {
            recovery.damaged.push(Damage { path: path.clone(), position, offsets: number..number + 1 });
        }
        if is_headless {
            let header = Header { kind: Kind::Segment, epoch, base: last.base }.encode();
            disk.write_at(&last.file, &header, 0).and_then(|()| disk.sync(&last.file)).map_err(in_file)?;
        }
        if position < last.bytes {
            recovery.torn_bytes += last.bytes - position;
            let end = last.end;
            last.cut(end, position);
            last.file.set_len(position).and_then(|()| disk.sync(&last.file)).map_err(in_file)?;
        }
        begun = begun.max(last.end);
        break;
    }
    for at in 1..segments.len() {
        // Damage within is found when it is read; until then the next base says where this one ends.
        segments[at - 1].end = segments[at].base;
    }
    for &base in &found.damaged_headers {
        recovery.damaged.push(Damage {
            path: found.dir.join(segment::file_name(base)),
            position: 0,
            offsets: base..base,
        });
    }
    Ok(begun)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
