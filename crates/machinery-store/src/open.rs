//! Opening a directory: its format, its rows, what a crash may have taken.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::codec::{self, Meta};
use crate::engine::Engine;
use crate::error::OpenStoreError;
use crate::index::Index;
use crate::names::Names;
use crate::types::{Change, Revision};

/// The format that this program writes; it reads this one and all before.
const FORMAT: u32 = 2;

/// Says which format the directory has, so that a newer one is rejected before anything is touched.
const VERSION_FILE: &str = "VERSION";
const VERSION_WORD: &str = "selvedge-store";

/// Gaps of crashes that are told apart; the oldest are merged.
const GAPS_MAX: usize = 16;

/// What the rows say.
pub(crate) struct Loaded {
    pub index: Index,
    pub names: Names,
    pub meta: Meta,
    pub last: u64,
}

/// Reads all rows.
pub(crate) fn load(dir: &Path, engine: &mut impl Engine, indexed: &[&'static str]) -> Result<Loaded, OpenStoreError> {
    let open_engine = |source| OpenStoreError::OpenEngine { path: dir.into(), source };
    let damaged = |revision: u64, reason: String| OpenStoreError::Damaged {
        path: dir.into(),
        revision: Revision(revision),
        reason,
    };
    let mut meta = match engine.meta().map_err(open_engine)? {
        Some(blob) => serde_json::from_slice(&blob).map_err(|error| damaged(0, format!("the bookkeeping: {error}")))?,
        None => Meta { closed_at: Some(0), ..Meta::default() },
    };
    let mut index = Index::new(indexed);
    let mut names = Names::default();
    for (resource, compacted) in &meta.compacted {
        index.kind_mut(&resource.as_str().into()).compacted = Revision(*compacted);
    }
    let mut newest_row = 0;
    let mut failure = None;
    let visited = engine.visit(&mut |revision, row| {
        newest_row = revision;
        match codec::decode_row(Revision(revision), row) {
            Ok(row) => load_row(&mut index, &mut names, row),
            Err(reason) => failure = Some(damaged(revision, reason.to_owned())),
        }
        failure.is_none()
    });
    visited.map_err(open_engine)?;
    if let Some(failure) = failure {
        return Err(failure);
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
    for resource in &meta.lazy {
        index.kind_mut(&resource.as_str().into()).lazy = true;
    }
    if meta.gaps.len() > GAPS_MAX {
        // What lies between the two oldest is old as well; that its watchers have to list again harms nobody.
        let (first, _) = meta.gaps.remove(0);
        meta.gaps[0].0 = first;
    }
    index.gaps = meta.gaps.clone();
    index.current = Revision(last);
    Ok(Loaded { index, names, meta, last })
}

fn load_row(index: &mut Index, names: &mut Names, row: codec::Row) {
    let codec::Row { kind, time_ms, previous, mut object } = row;
    names.share(&mut object.key.resource);
    names.share(&mut object.key.namespace);
    let held = index.get(&object.key).cloned().filter(|held| Some(held.revision) == previous);
    let of_resource = index.kind_mut(&object.key.resource);
    let object = Arc::new(object);
    of_resource.restore(kind, &object);
    if object.revision > of_resource.compacted {
        let revision = object.revision;
        of_resource.log(Arc::new(Change { kind, revision, object, previous: held }), time_ms);
    }
}

/// Creates the directory and its version file, or checks the one that is there and brings it up to date.
pub(crate) fn check_version(dir: &Path) -> Result<(), OpenStoreError> {
    let prepare = |path: &Path| {
        let path = path.to_path_buf();
        move |source| OpenStoreError::PrepareDirectory { path, source }
    };
    let path = dir.join(VERSION_FILE);
    match fs::read_to_string(&path) {
        Ok(text) => check_version_text(dir, path, &text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(dir).map_err(prepare(dir))?;
            write_version(dir, &path).map_err(prepare(&path))
        }
        Err(error) => Err(prepare(&path)(error)),
    }
}

fn check_version_text(dir: &Path, path: PathBuf, text: &str) -> Result<(), OpenStoreError> {
    let found = text.trim_end().strip_prefix(VERSION_WORD).and_then(|version| version.trim().parse::<u32>().ok());
    match found {
        None | Some(0) => Err(OpenStoreError::ReadVersion { path }),
        Some(found) if found > FORMAT => Err(OpenStoreError::Newer { path: dir.into(), found, known: FORMAT }),
        Some(FORMAT) => Ok(()),
        Some(_) => raise_version(&path).map_err(|source| OpenStoreError::PrepareDirectory { path, source }),
    }
}

/// Written under another name first: a power cut leaves a whole version file or none.
fn write_version(dir: &Path, path: &Path) -> io::Result<()> {
    let draft = dir.join("VERSION.new");
    let mut file = File::create(&draft)?;
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
fn raise_version(path: &Path) -> io::Result<()> {
    let mut file = File::options().write(true).open(path)?;
    write!(file, "{VERSION_WORD} {FORMAT}")?;
    file.sync_all()
}

pub(crate) fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
