//! Backups: all objects at one revision as a stream of rows, and a new store made of them.
//!
//! A backup is read from memory and not from the disk: the trees of objects are persistent, so the state of every resource at one
//! revision is two references each, taken under one short lock. The writer never waits for it, and a second process needs no way
//! past the lock of the files. History is no part of it.
//!
//! ```text
//! head:  JSON, [`BackupHead`]
//! rows:  any number of pieces, each of whole rows: revision u64 | length u32 | row as in `codec`, format 2
//! ```
//!
//! Sealed rows stay sealed, and the head has the data key as the store keeps it: wrapped. So a backup of a store is of use only to
//! whoever has the outer key.
//!
//! # A restored store is another life
//!
//! What clients remember of the former life must never be believed: an old revision that the restored store gives again for another
//! change would make a watch miss changes without a word. So a restored store begins at a revision above all that were ever
//! given ([`begins_after`]), and everything below has expired (etcd's `--bump-revision --mark-compacted`): watches and lists from there
//! are answered with [`Expired`](crate::Expired). A random [epoch](Life::epoch) names the life.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use crate::cipher::{CipherError, RowCipher};
use crate::codec::{self, Meta, Row};
use crate::engine::{Batch, Engine, EngineError, SqliteEngine};
use crate::error::OpenStoreError;
use crate::open;
use crate::snapshot::Snapshot;
use crate::store::{Shared, now_ms};
use crate::types::{ChangeKind, Life, Object, Restored, Revision};

/// The form of the rows in a backup that this program writes; it reads this one and all before.
pub const FORMAT_OF_ROWS: u32 = open::FORMAT;

const ROW_HEAD_BYTES: usize = 12;

/// Rows that a restore writes in one commit, by bytes.
const COMMIT_BYTES_MAX: usize = 4 << 20;

/// How far the first revision of a restored store lies above that of the backup where the clock does not say it: more than any hub
/// writes after a backup, and few enough that eight million restores fit.
const REVISIONS_SKIPPED: u64 = 1 << 40;

/// No program of this code is older than 2025-01-01. A clock that shows less is wrong.
const CLOCK_MIN_S: u64 = 1_735_689_600;

/// What the clock may show at most: the year 2242, 2^53 as a revision.
const CLOCK_MAX_S: u64 = 1 << 33;

/// Revisions for each second since 1970: more than any store commits.
const REVISIONS_PER_SECOND_LOG2: u32 = 20;

/// Far from the end of what the engine's keys can be.
const BEGINS_MAX: u64 = 1 << 62;

/// What a backup says of itself before its rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupHead {
    /// [`FORMAT_OF_ROWS`].
    pub format: u32,
    /// The revision at which it holds.
    pub revision: u64,
    /// Rows, one for each object.
    pub objects: u64,
    /// The life that it was made in.
    pub life: Life,
    /// By which rules the index fields of the rows were extracted.
    pub index_version: u32,
    /// What the cipher of the sealed rows needs kept: the data key, wrapped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cipher: Option<Vec<u8>>,
}

/// All objects of a store at one revision. Made by [`Store::backup`](crate::Store::backup).
pub struct Backup {
    head: BackupHead,
    cipher: Option<Arc<dyn RowCipher>>,
    /// What is left, the next one last.
    snapshots: Vec<Snapshot>,
    /// The last object of the present snapshot that was given.
    after: Option<Arc<Object>>,
    time_ms: u64,
}

impl Backup {
    pub(crate) fn of(shared: &Shared) -> Self {
        let (revision, snapshots) = {
            let index = shared.read();
            (index.current, index.snapshots())
        };
        let head = BackupHead {
            format: FORMAT_OF_ROWS,
            revision: revision.0,
            objects: snapshots.iter().map(|snapshot| snapshot.len() as u64).sum(),
            life: shared.life.clone(),
            index_version: shared.index_version.load(Ordering::Relaxed),
            cipher: shared.wrapped_key.clone(),
        };
        Self { head, cipher: shared.cipher.clone(), snapshots, after: None, time_ms: now_ms() }
    }

    /// What comes before the rows.
    pub fn head(&self) -> &BackupHead {
        &self.head
    }

    /// The next rows: so many bytes, and one row more; `None` after the last.
    ///
    /// # Errors
    /// When a row cannot be sealed.
    pub fn next_rows(&mut self, bytes_min: usize) -> Result<Option<Vec<u8>>, CipherError> {
        let mut rows = Vec::new();
        while let Some(snapshot) = self.snapshots.last() {
            let after = self.after.take();
            let mut last = None;
            for object in snapshot.iter(None, after.as_ref().map(|object| object.names())) {
                let row = codec::encode_row(ChangeKind::Put, self.time_ms, None, object, self.cipher.as_deref())?;
                rows.extend_from_slice(&object.revision.0.to_le_bytes());
                rows.extend_from_slice(&(row.len() as u32).to_le_bytes());
                rows.extend_from_slice(&row);
                if rows.len() >= bytes_min {
                    last = Some(object.clone());
                    break;
                }
            }
            if last.is_some() {
                self.after = last;
                return Ok(Some(rows));
            }
            self.snapshots.pop();
        }
        Ok((!rows.is_empty()).then_some(rows))
    }
}

/// Why rows of a backup cannot be read, or no store can be made of them.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A later program wrote it.
    #[error("its rows have format {found}, this program knows up to {known}; use the newer program")]
    Newer {
        /// The format found.
        found: u32,
        /// The newest format this program reads.
        known: u32,
    },
    /// A row cannot be decoded.
    #[error("the row of revision {revision} is damaged: {reason}")]
    Damaged {
        /// Which row.
        revision: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The key is not the one that sealed it.
    #[error("failed to unlock its sealed rows")]
    Unlock(#[source] CipherError),
    /// Rows are missing, or there are too many.
    #[error("it holds {found} objects, and says that there are {expected}")]
    Count {
        /// What the head says.
        expected: u64,
        /// What there is.
        found: u64,
    },
    /// Its revision is no revision of a store.
    #[error("its revision {0} leaves none for what comes after it")]
    RevisionsUsedUp(u64),
    /// The new store's directory.
    #[error("failed to create the store")]
    Create(#[source] OpenStoreError),
    /// The new store's engine.
    #[error("failed to write the store")]
    Write(#[source] EngineError),
}

impl BackupHead {
    /// Whether this program can read the rows.
    ///
    /// # Errors
    /// [`RestoreError::Newer`], and [`RestoreError::RevisionsUsedUp`] for what no store wrote.
    pub fn check(&self) -> Result<(), RestoreError> {
        if self.format > FORMAT_OF_ROWS {
            return Err(RestoreError::Newer { found: self.format, known: FORMAT_OF_ROWS });
        }
        begin(self.revision, 0, 0).map(|_| ()).ok_or(RestoreError::RevisionsUsedUp(self.revision))
    }
}

/// Decodes every row of a piece; returns how many there are. With the cipher, sealed rows are opened, too.
///
/// # Errors
/// [`RestoreError::Damaged`] for the first that is not whole, or of no object that the store could have at the head's revision.
pub fn check_rows(head: &BackupHead, rows: &[u8], cipher: Option<&dyn RowCipher>) -> Result<u64, RestoreError> {
    let mut count = 0;
    each_row(head, rows, cipher, |_, _, _| {
        count += 1;
        Ok(())
    })?;
    Ok(count)
}

fn each_row(
    head: &BackupHead,
    mut rows: &[u8],
    cipher: Option<&dyn RowCipher>,
    mut visit: impl FnMut(u64, &[u8], Row) -> Result<(), RestoreError>,
) -> Result<(), RestoreError> {
    let mut last = 0;
    while !rows.is_empty() {
        let damaged = |revision, reason: &str| RestoreError::Damaged { revision, reason: reason.to_owned() };
        let ends_early = || damaged(last, "what follows it ends early");
        let (row_head, rest) = rows.split_first_chunk::<ROW_HEAD_BYTES>().ok_or_else(ends_early)?;
        let (revision, len) = row_head.split_at(8);
        let revision = u64::from_le_bytes(revision.try_into().expect("the first eight of twelve"));
        let len = u32::from_le_bytes(len.try_into().expect("the last four of twelve")) as usize;
        let (row, rest) = rest.split_at_checked(len).ok_or_else(ends_early)?;
        rows = rest;
        last = revision;
        if revision == 0 || revision > head.revision {
            return Err(damaged(revision, "it is not of the time before the backup"));
        }
        let decoded = codec::decode_row(Revision(revision), row, cipher)
            .map_err(|reason| RestoreError::Damaged { revision, reason: reason.to_string() })?;
        if decoded.kind != ChangeKind::Put {
            return Err(damaged(revision, "it is that of a deletion"));
        }
        visit(revision, row, decoded)?;
    }
    Ok(())
}

/// A store that is being made of a backup, in a directory of its own that nobody uses yet.
pub struct StoreRestore {
    dir: PathBuf,
    engine: SqliteEngine,
    head: BackupHead,
    cipher: Option<Arc<dyn RowCipher>>,
    wrapped_key: Option<Vec<u8>>,
    batch: Batch,
    batch_bytes: usize,
    resources: BTreeSet<String>,
    read: u64,
}

impl StoreRestore {
    /// Begins a store in a directory that is empty or not there.
    ///
    /// # Errors
    /// When the head is of a newer program, the cipher has not its key, or the directory cannot be written.
    pub fn create(dir: &Path, head: BackupHead, cipher: Option<Arc<dyn RowCipher>>) -> Result<Self, RestoreError> {
        head.check()?;
        let wrapped_key = match &cipher {
            Some(cipher) => Some(cipher.unlock(head.cipher.as_deref()).map_err(RestoreError::Unlock)?),
            None => head.cipher.clone(),
        };
        let (engine, _) = open::open_engine(dir).map_err(RestoreError::Create)?;
        Ok(Self {
            dir: dir.into(),
            engine,
            head,
            cipher,
            wrapped_key,
            batch: Batch::default(),
            batch_bytes: 0,
            resources: BTreeSet::new(),
            read: 0,
        })
    }

    /// Adds the rows of a piece; objects that `is_kept` rejects are left out.
    ///
    /// # Errors
    /// When a row is damaged, is there already, or cannot be written.
    pub fn add(&mut self, rows: &[u8], is_kept: &mut dyn FnMut(&Object) -> bool) -> Result<(), RestoreError> {
        let (batch, engine, read) = (&mut self.batch, &mut self.engine, &mut self.read);
        let (batch_bytes, resources) = (&mut self.batch_bytes, &mut self.resources);
        each_row(&self.head, rows, self.cipher.as_deref(), |revision, row, decoded| {
            *read += 1;
            if !resources.contains(&*decoded.object.key.resource) {
                resources.insert(decoded.object.key.resource.to_string());
            }
            if !is_kept(&decoded.object) {
                return Ok(());
            }
            batch.puts.push((revision, row.to_vec()));
            *batch_bytes += row.len();
            if *batch_bytes >= COMMIT_BYTES_MAX {
                engine.commit(batch).map_err(RestoreError::Write)?;
                batch.puts.clear();
                *batch_bytes = 0;
            }
            Ok(())
        })
    }

    /// Completes the store; it is on the disk when this returns, and says which life begins with it.
    ///
    /// # Errors
    /// When rows are missing or the disk does not take it.
    pub fn finish(mut self) -> Result<Life, RestoreError> {
        if self.read != self.head.objects {
            return Err(RestoreError::Count { expected: self.head.objects, found: self.read });
        }
        let former = Revision(self.head.revision);
        let begins = begins_after(former).map_err(RestoreError::Write)?;
        let begins = begins.ok_or(RestoreError::RevisionsUsedUp(former.0))?.0;
        let restored =
            Restored { at_ms: now_ms(), epoch: std::mem::take(&mut self.head.life.epoch), revision: former.0, begins };
        let life = Life { epoch: new_epoch().map_err(RestoreError::Write)?, restored: Some(restored) };
        let meta = Meta {
            reserved: begins,
            closed_at: Some(begins),
            // Of resources without objects nothing would say that their former revisions have expired.
            lost: vec![(1, begins - 1)],
            compacted: std::mem::take(&mut self.resources).into_iter().map(|resource| (resource, begins)).collect(),
            cipher: self.wrapped_key.take(),
            is_scrubbed: self.cipher.is_some(),
            index_version: self.head.index_version,
            life: life.clone(),
            ..Meta::default()
        };
        self.batch.meta = Some(serde_json::to_vec(&meta).expect("the bookkeeping has string keys only"));
        self.engine.commit(&self.batch).map_err(RestoreError::Write)?;
        // Closing the engine leaves one file and no log.
        drop(self.engine);
        open::sync_directory(&self.dir).map_err(|source| {
            RestoreError::Create(OpenStoreError::PrepareDirectory { path: self.dir.clone(), source })
        })?;
        Ok(life)
    }
}

/// The first revision of a life that begins with a backup of this revision: above every one that a former life has given, also one
/// that began with the same backup. `None` when there is none left.
///
/// The clock gives it: seconds since 1970, each with a million revisions. A life that begins later begins above all that a former one
/// has come to, for no store commits a million times a second. Where the clock is behind, it is a large step above the backup, of
/// a random length.
///
/// # Errors
/// When the system gives no random numbers.
pub fn begins_after(revision: Revision) -> Result<Option<Revision>, EngineError> {
    let random = u64::from_le_bytes(random_bytes()?);
    Ok(begin(revision.0, now_ms() / 1000, random).map(Revision))
}

fn begin(revision: u64, clock_s: u64, random: u64) -> Option<u64> {
    let by_clock = clock_s.min(CLOCK_MAX_S) << REVISIONS_PER_SECOND_LOG2;
    let begins = match clock_s >= CLOCK_MIN_S && by_clock > revision {
        true => by_clock,
        false => revision.checked_add(REVISIONS_SKIPPED)?.checked_add(random % REVISIONS_SKIPPED)?,
    };
    (begins <= BEGINS_MAX).then_some(begins)
}

/// A name for a life that no other one has.
pub(crate) fn new_epoch() -> Result<String, EngineError> {
    Ok(random_bytes::<16>()?.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn random_bytes<const N: usize>() -> Result<[u8; N], EngineError> {
    let mut bytes = [0; N];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| EngineError::Io("the system gave no random numbers".to_owned()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_begins_above_all_that_a_former_one_could_come_to() {
        let now = 1_800_000_000;
        for (revision, clock_s, random, expected) in [
            (1_000, now, 7, Some(now << 20)),
            (1_000, now + 1, 7, Some((now + 1) << 20)),
            // A clock that is behind: of this life, or so far that it says nothing.
            (now << 20, now - 60, 7, Some((now << 20) + (1 << 40) + 7)),
            (1_000, 30, 7, Some(1_000 + (1 << 40) + 7)),
            (1_000, u64::MAX, 7, Some(1 << 53)),
            (u64::MAX - 1, now, 7, None),
            (1 << 62, 30, 7, None),
        ] {
            assert_eq!(begin(revision, clock_s, random), expected, "{revision} at {clock_s}");
        }
    }
}
