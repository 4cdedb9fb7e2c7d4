//! A keyed store in memory whose changes survive: a log of changes, compacted into snapshots in two generations.
//!
//! Generation `g` is `snapshot-g` and the changes since, `log-g`. Compaction writes `snapshot-(g+1)` from memory and begins
//! `log-(g+1)`; generation `g` stays until the next time. `snapshot-g` with `log-g` gives the same as `snapshot-(g+1)`, so
//! when the newer snapshot is damaged the older one, replayed through both logs, loses nothing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use base_fs::DirLock;
use bytes::{Buf as _, Bytes};
use tracing::warn;

use crate::disk::{self, Disk};
use crate::frame::{self, BadHeader, FrameReader, HEADER_BYTES, Header, Kind, RECORD_BYTES_MAX, Step};

const PUT: u8 = 1;
const REMOVE: u8 = 2;
/// The last frame of a complete snapshot.
const SEAL: u8 = 3;

/// Under which the store says what form its entries have.
const FORMAT_KEY: &str = "format";

/// How a store uses its disk.
#[derive(Clone, Debug)]
pub struct SnapshotOptions {
    /// The log is compacted when it is larger than this and than twice the snapshot.
    pub log_bytes_min: u64,
}

impl Default for SnapshotOptions {
    /// 1 MiB: replaying that much takes a few milliseconds, so compacting a smaller log gains nothing.
    fn default() -> Self {
        Self { log_bytes_min: 1024 * 1024 }
    }
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenSnapshotError {
    /// A file or the directory cannot be read or written.
    #[error("failed to open {}", path.display())]
    Open {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A newer program wrote it; nothing was changed.
    #[error(
        "{} has format {found}, this program knows formats up to {}; start the newer program again, or move the directory away",
        path.display(), frame::VERSION
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format version.
        found: u32,
    },
    /// A newer program wrote its entries; nothing was changed.
    #[error("the entries of {} have format {found}, this program knows {known}; run the newer program again", path.display())]
    NewerEntries {
        /// The store's directory.
        path: PathBuf,
        /// What it says of itself.
        found: String,
        /// What was asked for.
        known: u32,
    },
    /// Another process has it open.
    #[error("store {} is in use by another process; stop that one first", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
}

/// Why a change was not taken, or not made durable.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// No space. What is stored stays as it is; changes work again when there is space.
    #[error("failed to write to {}: the disk is full; free some space", path.display())]
    Full {
        /// The store's directory.
        path: PathBuf,
    },
    /// Key and value are too long for one record.
    #[error("key and value of `{key}` have {bytes} bytes, more than {RECORD_BYTES_MAX}")]
    TooLarge {
        /// The key's first 64 characters.
        key: String,
        /// Size of both.
        bytes: usize,
    },
    /// The disk failed; the next [`SnapshotStore::sync`] writes everything anew.
    #[error("failed to write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// What opening found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotRecovery {
    /// Bytes cut from the log's end: what was being written when the power went.
    pub torn_bytes: u64,
    /// Files in which damage was met; an older generation stepped in.
    pub damaged: Vec<PathBuf>,
    /// Something that had been synced could not be recovered: fetch everything again where that is possible.
    pub is_incomplete: bool,
}

/// Keys and values, all in memory, changes on disk.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use base_journal::{SnapshotOptions, SnapshotStore};
/// let store = SnapshotStore::open(dir.path(), SnapshotOptions::default())?;
/// store.put("pods/default/web", b"{}".as_slice())?;
/// store.sync()?; // now it survives a power cut
/// assert_eq!(store.get("pods/default/web").as_deref(), Some(b"{}".as_slice()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SnapshotStore {
    dir: PathBuf,
    options: SnapshotOptions,
    disk: Disk,
    recovery: SnapshotRecovery,
    state: Mutex<State>,
    _lock: DirLock,
}

struct State {
    entries: BTreeMap<String, Bytes>,
    generation: u64,
    /// The generation before, whose files are kept.
    previous: u64,
    log: File,
    log_path: PathBuf,
    log_bytes: u64,
    /// Number of the log's next frame.
    next_number: u64,
    /// Compaction is tried when the log has grown to this.
    compact_at: u64,
    is_dirty: bool,
    /// A sync failed, so the log on disk may have holes.
    must_compact: bool,
}

fn snapshot_name(generation: u64) -> String {
    format!("snapshot-{generation:016}")
}

fn log_name(generation: u64) -> String {
    format!("log-{generation:016}")
}

/// Whether what the key `format` says is a form that a program knows that knows those until `known`.
fn is_form_until(known: u32, found: &[u8]) -> bool {
    let found = std::str::from_utf8(found).ok().and_then(|text| text.parse::<u32>().ok());
    found.is_some_and(|found| (1..=known).contains(&found))
}

/// The generation in a name that begins with `prefix`.
fn generation_of(name: &str, prefix: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix)?;
    (digits.len() == 16).then(|| digits.parse().ok()).flatten()
}

impl SnapshotStore {
    /// Opens the store in `dir`, or makes one. What had to be repaired is reported in [`SnapshotStore::recovery`].
    pub fn open(dir: &Path, options: SnapshotOptions) -> Result<Self, OpenSnapshotError> {
        Self::open_on(Disk::default(), dir, options)
    }

    pub(crate) fn open_on(disk: Disk, dir: &Path, options: SnapshotOptions) -> Result<Self, OpenSnapshotError> {
        let in_dir = |source| OpenSnapshotError::Open { path: dir.to_owned(), source };
        disk.create_dir(dir).map_err(in_dir)?;
        let lock = DirLock::try_acquire(dir).map_err(in_dir)?;
        let lock = lock.ok_or_else(|| OpenSnapshotError::InUse { path: dir.to_owned() })?;
        let loaded = Loaded::read(&disk, dir)?;
        let needs_compaction = !loaded.recovery.damaged.is_empty() || loaded.log.is_none();
        let (log, log_bytes, next_number) = match loaded.log {
            Some(log) => log,
            // In its place until the compaction below begins a log of its own.
            None => (File::open("/dev/null").map_err(in_dir)?, 0, 0),
        };
        let mut state = State {
            entries: loaded.entries,
            generation: loaded.generation,
            previous: loaded.sound,
            log,
            log_path: dir.join(log_name(loaded.generation)),
            log_bytes,
            next_number,
            compact_at: options.log_bytes_min.max(2 * loaded.snapshot_bytes),
            is_dirty: false,
            must_compact: false,
        };
        if loaded.recovery != SnapshotRecovery::default() {
            warn!(store = %dir.display(), torn_bytes = loaded.recovery.torn_bytes, damaged = ?loaded.recovery.damaged,
                incomplete = loaded.recovery.is_incomplete, "The store was not closed cleanly.");
        }
        if needs_compaction {
            match compact(&disk, dir, &options, &mut state) {
                // What can be read is read; each change fails, until the disk takes it at the next opening.
                Err(error) if disk::is_read_only(&error) => {
                    warn!(store = %dir.display(), %error, "Could not repair the store.");
                    state.must_compact = true;
                }
                compacted => compacted.map_err(in_dir)?,
            }
        }
        Ok(Self {
            dir: dir.to_owned(),
            options,
            disk,
            recovery: loaded.recovery,
            state: Mutex::new(state),
            _lock: lock,
        })
    }

    /// What opening had to repair.
    pub fn recovery(&self) -> &SnapshotRecovery {
        &self.recovery
    }

    /// Rejects entries of a newer form than `known`, and what is no form; the key `format` says it. Where none is written down it is
    /// the first. Older ones are read: whoever changes the form of its entries reads those before.
    pub fn require_format(&self, known: u32) -> Result<(), OpenSnapshotError> {
        let format = known.to_string();
        match self.get(FORMAT_KEY) {
            Some(found) if found == format.as_bytes() => Ok(()),
            Some(found) if !is_form_until(known, &found) => {
                let found = String::from_utf8_lossy(&found).into_owned();
                Err(OpenSnapshotError::NewerEntries { path: self.dir.clone(), found, known })
            }
            // What is written from now on has the present form.
            Some(_) | None => {
                // On the disk with the next change that is. A full disk must not keep the store from being read.
                if let Err(error) = self.put(FORMAT_KEY, format) {
                    warn!(store = %self.dir.display(), %error, "Could not write down the format; opening tries again.");
                }
                Ok(())
            }
        }
    }

    /// The form of the entries, at most `newest`: what the key `format` says. An empty store has the newest form, and one
    /// that says nothing the first, which did not say so everywhere.
    pub fn format(&self, newest: u32) -> Result<u32, OpenSnapshotError> {
        let Some(found) = self.get(FORMAT_KEY) else { return Ok(if self.is_empty() { newest } else { 1 }) };
        let known = std::str::from_utf8(&found).ok().and_then(|text| text.parse::<u32>().ok());
        known.filter(|format| (1..=newest).contains(format)).ok_or_else(|| OpenSnapshotError::NewerEntries {
            path: self.dir.clone(),
            found: String::from_utf8_lossy(&found).into_owned(),
            known: newest,
        })
    }

    /// Writes the form of the entries down; durable after the next [`SnapshotStore::sync`].
    pub fn set_format(&self, format: u32) -> Result<(), SnapshotError> {
        self.put(FORMAT_KEY, format.to_string())
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<Bytes> {
        self.lock().entries.get(key).cloned()
    }

    /// Every key and value, by key. Values are shared, not copied.
    pub fn iter(&self) -> Vec<(String, Bytes)> {
        self.iter_prefix("")
    }

    /// The keys that begin with `prefix`, and their values.
    pub fn iter_prefix(&self, prefix: &str) -> Vec<(String, Bytes)> {
        let state = self.lock();
        let range = state.entries.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        range.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sets `key`; durable after the next [`SnapshotStore::sync`]. On an error the old value stays.
    pub fn put(&self, key: &str, value: impl Into<Bytes>) -> Result<(), SnapshotError> {
        let value = value.into();
        let mut state = self.lock();
        self.log_change(&mut state, PUT, key, &value)?;
        state.entries.insert(key.to_owned(), value);
        Ok(())
    }

    /// Removes `key` and says whether it was there; durable after the next [`SnapshotStore::sync`].
    pub fn remove(&self, key: &str) -> Result<bool, SnapshotError> {
        let mut state = self.lock();
        if !state.entries.contains_key(key) {
            return Ok(false);
        }
        self.log_change(&mut state, REMOVE, key, &[])?;
        state.entries.remove(key);
        Ok(true)
    }

    /// Waits until every change made before is on the disk.
    pub fn sync(&self) -> Result<(), SnapshotError> {
        let mut state = self.lock();
        if state.must_compact {
            return compact(&self.disk, &self.dir, &self.options, &mut state)
                .map_err(|source| self.write_error(&state.log_path, source));
        }
        if !state.is_dirty {
            return Ok(());
        }
        if let Err(source) = self.disk.sync(&state.log) {
            state.must_compact = true;
            return Err(self.write_error(&state.log_path, source));
        }
        state.is_dirty = false;
        if state.log_bytes >= state.compact_at
            && let Err(error) = compact(&self.disk, &self.dir, &self.options, &mut state)
        {
            // The log holds everything; try again when it has grown by as much again as it may be.
            state.compact_at = state.log_bytes + self.options.log_bytes_min;
            warn!(store = %self.dir.display(), %error, "Could not compact the store; its log keeps growing.");
        }
        Ok(())
    }

    fn log_change(&self, state: &mut State, change: u8, key: &str, value: &[u8]) -> Result<(), SnapshotError> {
        let bytes = 3 + key.len() + value.len();
        if bytes > RECORD_BYTES_MAX || key.len() > usize::from(u16::MAX) {
            return Err(SnapshotError::TooLarge { key: key.chars().take(64).collect(), bytes });
        }
        let mut buffer = Vec::with_capacity(bytes + frame::FRAME_HEADER_BYTES);
        encode_change(state.next_number, change, key, value, &mut buffer);
        if let Err(source) = self.disk.write_at(&state.log, &buffer, state.log_bytes) {
            // If this fails too, the next change overwrites the rest, or opening cuts it off.
            let _ = state.log.set_len(state.log_bytes);
            return Err(self.write_error(&state.log_path, source));
        }
        state.log_bytes += buffer.len() as u64;
        state.next_number += 1;
        state.is_dirty = true;
        Ok(())
    }

    fn write_error(&self, path: &Path, source: io::Error) -> SnapshotError {
        if disk::is_full(&source) {
            SnapshotError::Full { path: self.dir.clone() }
        } else {
            SnapshotError::Write { path: path.to_owned(), source }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn encode_change(number: u64, change: u8, key: &str, value: &[u8], out: &mut Vec<u8>) {
    let key_len = (key.len() as u16).to_le_bytes();
    frame::encode(number, &[&[change], &key_len, key.as_bytes(), value], out);
}

/// Writes a new generation from memory. On an error the old one stays in use.
fn compact(disk: &Disk, dir: &Path, options: &SnapshotOptions, state: &mut State) -> io::Result<()> {
    let generation = state.generation + 1;
    let target = dir.join(snapshot_name(generation));
    let unfinished = dir.join("snapshot.new");
    let log_path = dir.join(log_name(generation));
    disk.remove(&unfinished)?;
    disk.remove(&log_path)?;
    let written = (|| {
        let snapshot = disk.create(&unfinished)?;
        let snapshot_bytes = write_snapshot(disk, &snapshot, generation, &state.entries)?;
        disk.sync(&snapshot)?;
        let log = disk.create(&log_path)?;
        let header = Header { kind: Kind::Log, epoch: [0; 16], base: generation };
        disk.write_at(&log, &header.encode(), 0)?;
        disk.sync(&log)?;
        disk.sync_dir(dir)?;
        fs::rename(&unfinished, &target)?;
        disk.sync_dir(dir)?;
        Ok((log, snapshot_bytes))
    })();
    let (log, snapshot_bytes) = match written {
        Ok(written) => written,
        Err(error) => {
            // Gives the space back; what stays behind is removed by the next try.
            let _ = disk.remove(&unfinished);
            let _ = disk.remove(&target);
            let _ = disk.remove(&log_path);
            return Err(error);
        }
    };
    let previous = state.previous;
    *state = State {
        entries: std::mem::take(&mut state.entries),
        generation,
        previous: generation,
        log,
        log_path,
        log_bytes: HEADER_BYTES as u64,
        next_number: generation,
        compact_at: options.log_bytes_min.max(2 * snapshot_bytes),
        is_dirty: false,
        must_compact: false,
    };
    remove_before(disk, dir, previous);
    Ok(())
}

fn write_snapshot(disk: &Disk, file: &File, generation: u64, entries: &BTreeMap<String, Bytes>) -> io::Result<u64> {
    /// Written in pieces, so that a large store does not stand in memory twice.
    const PIECE_BYTES: usize = 256 * 1024;
    let mut buffer = Header { kind: Kind::Snapshot, epoch: [0; 16], base: generation }.encode().to_vec();
    let mut position = 0;
    let mut number = generation;
    for (key, value) in entries {
        encode_change(number, PUT, key, value, &mut buffer);
        number += 1;
        if buffer.len() >= PIECE_BYTES {
            disk.write_at(file, &buffer, position)?;
            position += buffer.len() as u64;
            buffer.clear();
        }
    }
    encode_change(number, SEAL, "", &[], &mut buffer);
    disk.write_at(file, &buffer, position)?;
    Ok(position + buffer.len() as u64)
}

/// Removes the files of generations before `oldest`.
fn remove_before(disk: &Disk, dir: &Path, oldest: u64) {
    let Ok(files) = fs::read_dir(dir) else { return };
    for file in files.flatten() {
        let name = file.file_name();
        let generation =
            name.to_str().and_then(|name| generation_of(name, "snapshot-").or_else(|| generation_of(name, "log-")));
        if generation.is_some_and(|generation| generation < oldest) {
            // One that stays costs space only, and the next compaction tries again.
            let _ = disk.remove(&file.path());
        }
    }
}

/// What the files hold.
struct Loaded {
    entries: BTreeMap<String, Bytes>,
    /// The newest generation of which there is any file.
    generation: u64,
    /// The generation of the snapshot that was used.
    sound: u64,
    snapshot_bytes: u64,
    /// The newest log, its length and next number; `None` when it must be begun anew.
    log: Option<(File, u64, u64)>,
    recovery: SnapshotRecovery,
}

/// How reading one file ended.
enum Outcome {
    /// To its end.
    Whole { bytes: u64, next_number: u64 },
    /// Up to a place from which nothing could be read.
    Torn { position: u64, bytes: u64, next_number: u64 },
    /// Frames within are damaged, or the header is.
    Damaged,
}

impl Loaded {
    fn read(disk: &Disk, dir: &Path) -> Result<Self, OpenSnapshotError> {
        let in_dir = |source| OpenSnapshotError::Open { path: dir.to_owned(), source };
        let (mut snapshots, mut logs) = (Vec::new(), Vec::new());
        for file in fs::read_dir(dir).map_err(in_dir)? {
            let name = file.map_err(in_dir)?.file_name();
            let Some(name) = name.to_str() else { continue };
            snapshots.extend(generation_of(name, "snapshot-"));
            logs.extend(generation_of(name, "log-"));
        }
        snapshots.sort_unstable();
        logs.sort_unstable();
        reject_newer(dir, &snapshots, &logs)?;
        let mut loaded = Self {
            entries: BTreeMap::new(),
            generation: snapshots.last().copied().unwrap_or(0),
            sound: 0,
            snapshot_bytes: 0,
            log: None,
            recovery: SnapshotRecovery::default(),
        };
        // From the newest snapshot back to a sound one.
        let mut is_found = false;
        for &generation in snapshots.iter().rev() {
            let path = dir.join(snapshot_name(generation));
            let mut entries = BTreeMap::new();
            let outcome = read_changes(&path, Kind::Snapshot, &mut entries);
            if let Outcome::Whole { bytes, .. } =
                outcome.map_err(|source| OpenSnapshotError::Open { path: path.clone(), source })?
            {
                loaded.entries = entries;
                loaded.sound = generation;
                loaded.snapshot_bytes = bytes;
                is_found = true;
                break;
            }
            loaded.recovery.damaged.push(path);
            if loaded.entries.len() < entries.len() {
                // In case no older one is sound: part of the newest is better than nothing.
                loaded.entries = entries;
            }
        }
        loaded.recovery.is_incomplete = !is_found && !snapshots.is_empty();
        for generation in loaded.sound..=loaded.generation {
            if generation == 0 || (!is_found && !logs.contains(&generation)) {
                continue;
            }
            loaded.replay(disk, dir, generation)?;
        }
        Ok(loaded)
    }

    fn replay(&mut self, disk: &Disk, dir: &Path, generation: u64) -> Result<(), OpenSnapshotError> {
        let path = dir.join(log_name(generation));
        let in_file = |source| OpenSnapshotError::Open { path: path.clone(), source };
        let is_newest = generation == self.generation;
        match read_changes(&path, Kind::Log, &mut self.entries).map_err(in_file)? {
            Outcome::Whole { bytes, next_number } if is_newest => {
                self.log = Some((disk.open_what_can_be(&path).map_err(in_file)?.0, bytes, next_number));
            }
            Outcome::Whole { .. } => {}
            Outcome::Torn { position, bytes, next_number } if is_newest => {
                let (log, is_writable) = disk.open_what_can_be(&path).map_err(in_file)?;
                if is_writable {
                    log.set_len(position).and_then(|()| disk.sync(&log)).map_err(in_file)?;
                }
                self.recovery.torn_bytes += bytes - position;
                self.log = Some((log, position, next_number));
            }
            Outcome::Torn { .. } | Outcome::Damaged => {
                self.recovery.damaged.push(path);
                self.recovery.is_incomplete = true;
            }
        }
        Ok(())
    }
}

fn reject_newer(dir: &Path, snapshots: &[u64], logs: &[u64]) -> Result<(), OpenSnapshotError> {
    let snapshots = snapshots.iter().map(|generation| (snapshot_name(*generation), Kind::Snapshot));
    let logs = logs.iter().map(|generation| (log_name(*generation), Kind::Log));
    for (name, kind) in snapshots.chain(logs) {
        let path = dir.join(name);
        let header = File::open(&path).and_then(|file| Header::read(&file, kind));
        match header.map_err(|source| OpenSnapshotError::Open { path: path.clone(), source })? {
            Err(BadHeader::Newer(found)) => return Err(OpenSnapshotError::Newer { path, found }),
            Ok(_) | Err(BadHeader::Damaged) => {}
        }
    }
    Ok(())
}

/// Applies the changes in the file at `path` to `entries`. A file that is not there is damage.
fn read_changes(path: &Path, kind: Kind, entries: &mut BTreeMap<String, Bytes>) -> io::Result<Outcome> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Outcome::Damaged),
        Err(error) => return Err(error),
    };
    let bytes = file.metadata()?.len();
    let Ok(header) = Header::read(&file, kind)? else { return Ok(Outcome::Damaged) };
    let mut reader = FrameReader::new(&file, HEADER_BYTES as u64, header.base, bytes);
    let mut is_sealed = kind == Kind::Log;
    let mut is_damaged = false;
    loop {
        match reader.step()? {
            Step::Frame { payload, .. } => match apply(payload, entries) {
                Some(Change::Applied) => {}
                Some(Change::Seal) => is_sealed = true,
                None => is_damaged = true,
            },
            Step::Damaged { .. } => is_damaged = true,
            Step::Broken { position, number } if !is_damaged && kind == Kind::Log => {
                return Ok(Outcome::Torn { position, bytes, next_number: number });
            }
            Step::Broken { .. } => return Ok(Outcome::Damaged),
            Step::End if is_sealed && !is_damaged => {
                return Ok(Outcome::Whole { bytes, next_number: reader.number() });
            }
            Step::End => return Ok(Outcome::Damaged),
        }
    }
}

enum Change {
    Applied,
    Seal,
}

/// `None` for a payload that is none of ours.
fn apply(mut payload: Bytes, entries: &mut BTreeMap<String, Bytes>) -> Option<Change> {
    let change = payload.try_get_u8().ok()?;
    let key_len = usize::from(payload.try_get_u16_le().ok()?);
    if key_len > payload.len() {
        return None;
    }
    let key = String::from_utf8(payload.split_to(key_len).to_vec()).ok()?;
    match change {
        // A copy of its own: a slice would keep a whole block of the file in memory.
        PUT => drop(entries.insert(key, Bytes::copy_from_slice(&payload))),
        REMOVE => drop(entries.remove(&key)),
        SEAL => return Some(Change::Seal),
        _ => return None,
    }
    Some(Change::Applied)
}
