//! Opening a directory: its format, its rows, what a crash may have taken.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::{info, warn};

use crate::backup;
use crate::cipher::RowCipher;
use crate::codec::{self, Meta, RowError};
use crate::engine::{Batch, Engine, EngineError, LogFault, SqliteEngine};
use crate::error::OpenStoreError;
use crate::index::Index;
use crate::names::Names;
use crate::types::{Change, ChangeKind, Key, Object, Revision};

/// The format that this program writes; it reads this one and all before.
pub(crate) const FORMAT: u32 = 2;

/// Says which format the directory has, so that a newer one is rejected before anything is touched.
const VERSION_FILE: &str = "VERSION";
/// All objects.
const OBJECTS_FILE: &str = "objects.sqlite";
const VERSION_WORD: &str = "selvedge-store";

/// Gaps of crashes that are kept apart; the oldest are merged.
const GAPS_MAX: usize = 16;

/// Rows that one page can hold at most: each has a key and a header of its own.
const REVISIONS_PER_PAGE_MAX: u64 = 256;

/// Pages that a log may have had: twice what it is truncated to.
const LOG_PAGES_MAX: u64 = 4096;

/// What the rows say.
pub(crate) struct Loaded {
    pub index: Index,
    pub names: Names,
    pub meta: Meta,
    pub last: u64,
}

/// Rows that are sealed in one commit, by number and bytes.
const SEAL_ROWS_MAX: usize = 256;
const SEAL_BYTES_MAX: usize = 4 << 20;

/// Reads all rows of a directory of this format, raises it to the present one, and seals rows that should be and are not.
pub(crate) fn load(
    dir: &Path,
    engine: &mut impl Engine,
    (indexed, index_version): (&[&'static str], u32),
    cipher: Option<&dyn RowCipher>,
    format: u32,
) -> Result<Loaded, OpenStoreError> {
    let open_engine = |source| OpenStoreError::OpenEngine { path: dir.into(), source };
    let damaged = |revision: u64, reason: String| OpenStoreError::Damaged {
        path: dir.into(),
        revision: Revision(revision),
        reason,
    };
    let mut meta = match engine.meta().map_err(open_engine)? {
        Some(blob) => serde_json::from_slice(&blob).map_err(|error| damaged(0, format!("the bookkeeping: {error}")))?,
        // A new store has nothing to scrub, and no row with other index fields.
        None => Meta { closed_at: Some(0), is_scrubbed: true, index_version, ..Meta::default() },
    };
    let stored: Meta = meta.clone();
    if meta.life.epoch.is_empty() {
        meta.life.epoch = backup::new_epoch().map_err(open_engine)?;
    }
    match cipher {
        Some(cipher) => {
            let unlock = |source| OpenStoreError::Unlock { path: dir.into(), source: Some(source) };
            meta.cipher = Some(cipher.unlock(meta.cipher.as_deref()).map_err(unlock)?);
        }
        // Rows may be written unsealed from now on.
        None => meta.is_scrubbed = false,
    }
    let mut unsealed = Vec::new();
    let mut live = Live::new();
    let mut index = Index::new(indexed);
    let mut names = Names::default();
    for (resource, compacted) in &meta.compacted {
        index.kind_mut(&resource.as_str().into()).compacted = Revision(*compacted);
    }
    let mut newest_row = 0;
    let mut failure = None;
    let visited = engine.visit(&mut |revision, row| {
        newest_row = revision;
        match codec::decode_row(Revision(revision), row, cipher) {
            Ok(row) => {
                if !row.is_sealed && cipher.is_some_and(|cipher| cipher.seals(&row.object.key.resource)) {
                    unsealed.push(revision);
                }
                load_row(&mut index, &mut live, &mut names, row);
            }
            Err(RowError::Sealed) => failure = Some(OpenStoreError::Unlock { path: dir.into(), source: None }),
            Err(reason) => failure = Some(damaged(revision, reason.to_string())),
        }
        failure.is_none()
    });
    visited.map_err(open_engine)?;
    if let Some(failure) = failure {
        return Err(failure);
    }
    let mut by_resource: HashMap<Arc<str>, Vec<Arc<Object>>> = HashMap::new();
    for object in live.into_values() {
        by_resource.entry(object.key.resource.clone()).or_default().push(object);
    }
    for (resource, objects) in by_resource {
        index.kind_mut(&resource).objects.fill(objects);
    }
    raise_version(dir, format)?;
    if let Some(cipher) = cipher
        && !(meta.is_scrubbed && unsealed.is_empty())
    {
        // With the bookkeeping as it was, so that a crash in here is as one before: only the wrapped key is new.
        let kept = Meta { cipher: meta.cipher.clone(), is_scrubbed: false, ..stored };
        match seal(engine, &kept, &unsealed, cipher) {
            Ok(()) => meta.is_scrubbed = true,
            Err(error) if matches!(error.downcast_ref(), Some(EngineError::Full)) => {
                // What is there can be read and deleted; that comes first.
                warn!("The store's disk is full; rows that should be sealed are not, and the next start tries again.");
                meta.is_scrubbed = false;
            }
            Err(source) => return Err(OpenStoreError::Seal { path: dir.into(), source }),
        }
    }
    let mut last = meta.compacted.values().copied().fold(newest_row.max(meta.reserved), u64::max);
    let crashed = meta.closed_at.is_none_or(|closed_at| closed_at < newest_row);
    if crashed {
        // The disk holds a prefix of the history, so only revisions after its newest row can be lost; the revision
        // after them is one that nobody has seen, and the first to be safe again.
        if !meta.lazy.is_empty() && last > newest_row {
            meta.gaps.push((newest_row + 1, last));
        }
        last += 1;
    }
    let lost_pages = match engine.log_fault() {
        None => 0,
        Some(LogFault::UnreadPages(pages)) => {
            warn!(
                dir = %dir.display(),
                pages,
                newest = newest_row,
                "The end of the store's log cannot be read. After a power cut that is what nobody was promised; otherwise the disk is damaged, and the last writes are lost."
            );
            pages
        }
        // A clean close takes the log away.
        Some(LogFault::Missing) if !crashed => 0,
        Some(LogFault::Missing) => {
            warn!(
                dir = %dir.display(),
                newest = newest_row,
                "The store was not closed and its log is not there: the last writes are lost. Restore objects.sqlite together with objects.sqlite-wal."
            );
            LOG_PAGES_MAX
        }
    };
    if lost_pages > 0 {
        // Revisions that were given must not be given again, and whoever has seen one of them has to list anew.
        last = last.max(newest_row).saturating_add(lost_pages.saturating_mul(REVISIONS_PER_PAGE_MAX));
        meta.lost.push((newest_row + 1, last));
        last += 1;
        meta.reserved = meta.reserved.max(last);
        if meta.lost.len() > GAPS_MAX {
            let (first, _) = meta.lost.remove(0);
            meta.lost[0].0 = first;
        }
    }
    for resource in &meta.lazy {
        index.kind_mut(&resource.as_str().into()).lazy = true;
    }
    if meta.gaps.len() > GAPS_MAX {
        // What lies between the two oldest is old as well; that its watchers have to list again harms nobody.
        let (first, _) = meta.gaps.remove(0);
        meta.gaps[0].0 = first;
    }
    index.gaps = meta.gaps.clone();
    index.lost = meta.lost.clone();
    index.current = Revision(last);
    Ok(Loaded { index, names, meta, last })
}

/// Gives rows their sealed form, in commits of bounded size, then leaves nothing of the other form in the files.
///
/// A crash in between leaves some rows sealed and some not; both can be read, and the next start does the rest. The key is
/// kept with the first sealed row, in one commit.
fn seal(
    engine: &mut impl Engine,
    meta: &Meta,
    unsealed: &[u64],
    cipher: &dyn RowCipher,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let meta = serde_json::to_vec(meta)?;
    let mut batch = Batch { meta: Some(meta.clone()), ..Batch::default() };
    let mut bytes = 0;
    for &revision in unsealed {
        let Some(row) = engine.row(revision)? else { continue };
        let row = codec::decode_row(Revision(revision), &row, Some(cipher))?;
        let row = codec::encode_row(row.kind, row.time_ms, row.previous, &row.object, Some(cipher))?;
        bytes += row.len();
        batch.rewrites.push((revision, row));
        if batch.rewrites.len() >= SEAL_ROWS_MAX || bytes >= SEAL_BYTES_MAX {
            engine.commit(&batch)?;
            batch.rewrites.clear();
            bytes = 0;
        }
    }
    engine.commit(&batch)?;
    engine.scrub()?;
    if !unsealed.is_empty() {
        info!(rows = unsealed.len(), "Sealed the rows of the store that were not.");
    }
    Ok(())
}

/// Live objects while rows are read: found by key, put in order when all are there.
type Live = HashMap<Key, Arc<Object>>;

fn load_row(index: &mut Index, live: &mut Live, names: &mut Names, row: codec::Row) {
    let codec::Row { kind, time_ms, previous, mut object, is_sealed: _ } = row;
    names.share(&mut object.key.resource);
    names.share(&mut object.key.namespace);
    let object = Arc::new(object);
    let before = match kind {
        ChangeKind::Put => live.insert(object.key.clone(), object.clone()),
        ChangeKind::Delete => live.remove(&object.key),
    };
    let held = before.filter(|before| Some(before.revision) == previous);
    let of_resource = index.kind_mut(&object.key.resource);
    if object.revision > of_resource.compacted {
        let revision = object.revision;
        of_resource.log(Arc::new(Change { kind, revision, object, previous: held }), time_ms);
    }
}

/// Opens the engine of a directory whose version file is checked already, or makes both; returns the format.
///
/// The version file of a new directory comes last: where it is, the objects have been, and a start that does not find them
/// must not pass for the first one.
pub(crate) fn open_engine(dir: &Path) -> Result<(SqliteEngine, u32), OpenStoreError> {
    let (path, version) = (dir.join(OBJECTS_FILE), dir.join(VERSION_FILE));
    let failed = |source| OpenStoreError::OpenEngine { path: dir.into(), source };
    if let Some(format) = check_version(dir)? {
        let engine = SqliteEngine::open_existing(&path).map_err(failed)?;
        let engine = engine.ok_or_else(|| OpenStoreError::Lost { path, version })?;
        return Ok((engine, format));
    }
    let engine = SqliteEngine::open(&path).map_err(failed)?;
    // The engine syncs its file, not the name of a new one.
    sync_directory(dir)
        .and_then(|()| write_version(dir, &version))
        .map_err(|source| OpenStoreError::PrepareDirectory { path: version.clone(), source })?;
    Ok((engine, FORMAT))
}

/// Checks the version file and returns the format that it names; creates the directory and returns `None` without one.
fn check_version(dir: &Path) -> Result<Option<u32>, OpenStoreError> {
    let prepare = |path: &Path| {
        let path = path.to_path_buf();
        move |source| OpenStoreError::PrepareDirectory { path, source }
    };
    let path = dir.join(VERSION_FILE);
    match fs::read_to_string(&path) {
        Ok(text) => {
            let format = check_version_text(dir, path.clone(), &text)?;
            for (path, mode) in [(dir, 0o700), (&path, 0o600)] {
                fs::set_permissions(path, Permissions::from_mode(mode)).map_err(prepare(path))?;
            }
            Ok(Some(format))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(prepare(dir))?;
            fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(prepare(dir))?;
            Ok(None)
        }
        Err(error) => Err(prepare(&path)(error)),
    }
}

fn check_version_text(dir: &Path, path: PathBuf, text: &str) -> Result<u32, OpenStoreError> {
    let found = text.trim_end().strip_prefix(VERSION_WORD).and_then(|version| version.trim().parse::<u32>().ok());
    match found {
        None | Some(0) => Err(OpenStoreError::ReadVersion { path }),
        Some(found) if found > FORMAT => Err(OpenStoreError::Newer { path: dir.into(), found, known: FORMAT }),
        Some(found) => Ok(found),
    }
}

/// Written under another name first: a power cut leaves a whole version file or none.
fn write_version(dir: &Path, path: &Path) -> io::Result<()> {
    let draft = dir.join("VERSION.new");
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    writeln!(file, "{VERSION_WORD} {FORMAT}")?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    sync_directory(dir)?;
    // The directory itself may be new too.
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    sync_directory(parent.unwrap_or(Path::new(".")))
}

/// Says that the directory has the present format, before the first row of it is written: an older program then rejects
/// the directory instead of a row that it does not know.
///
/// One digit is written over another, in place. That needs no space, because a store on a full disk must open, and a power
/// cut leaves one or the other.
fn raise_version(dir: &Path, from: u32) -> Result<(), OpenStoreError> {
    if from == FORMAT {
        return Ok(());
    }
    let path = dir.join(VERSION_FILE);
    let write = || {
        let mut file = File::options().write(true).open(&path)?;
        write!(file, "{VERSION_WORD} {FORMAT}")?;
        file.sync_all()
    };
    write().map_err(|source| OpenStoreError::PrepareDirectory { path: path.clone(), source })
}

pub(crate) fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
