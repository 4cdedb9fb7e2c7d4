//! Archives of images in a directory of the node, imported at its start: how a box gets its images without a registry.
//!
//! What was imported is recorded by name, size and time of the last change, so that a start does not read gigabytes again. An
//! archive is read again when it has changed, or when one of its images has been removed from the store.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use base_fs::Access;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::NodeImages;

const RECORD_VERSION: u32 = 1;
/// More archives than a box has disk for; the others are named and left alone.
const ARCHIVES_MAX: usize = 1_000;
/// Names of at most 255 bytes with a few ids each.
const RECORD_BYTES_MAX: usize = 4 << 20;
const ENDINGS: [&str; 4] = [".tar", ".tar.gz", ".tgz", ".tar.zst"];

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    version: u32,
    archives: BTreeMap<String, Imported>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Imported {
    size: u64,
    mtime: (i64, i64),
    images: Vec<String>,
}

impl Imported {
    fn is_of(&self, found: &Metadata) -> bool {
        self.size == found.size() && self.mtime == (found.mtime(), found.mtime_nsec())
    }
}

/// Imports the archives of the directory `dir` that are new or have changed; nothing when there is no such directory. The images
/// of all of them are exempt from deletion for space. What cannot be imported is in the answer, one sentence each, and harms
/// nothing else. `is_over` is asked before each archive. It waits for the disk.
pub fn import_archives(images: &NodeImages, dir: &Path, record: &Path, is_over: &dyn Fn() -> bool) -> Vec<String> {
    let mut mistakes = Vec::new();
    let archives = match archives(dir) {
        Ok(archives) => archives,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return mistakes,
        Err(error) => return vec![format!("failed to read {}: {error}", dir.display())],
    };
    if archives.len() > ARCHIVES_MAX {
        let more = archives.len() - ARCHIVES_MAX;
        mistakes.push(format!("{} has {more} archives more than the {ARCHIVES_MAX} that are imported", dir.display()));
    }
    let mut known = read(record);
    let mut kept = Record { version: RECORD_VERSION, archives: BTreeMap::new() };
    for (name, path, found) in archives.into_iter().take(ARCHIVES_MAX) {
        if is_over() {
            return mistakes;
        }
        if let Some(imported) =
            known.archives.remove(&name).filter(|one| one.is_of(&found) && images.has_all(&one.images))
        {
            images.pin(imported.images.iter().cloned());
            kept.archives.insert(name, imported);
            continue;
        }
        match images.import(&path) {
            Ok(new) => {
                info!(archive = %path.display(), images = new.len(), "Imported an archive of images.");
                let ids: Vec<String> = new.into_iter().map(|image| image.id).collect();
                images.pin(ids.iter().cloned());
                let mtime = (found.mtime(), found.mtime_nsec());
                kept.archives.insert(name, Imported { size: found.size(), mtime, images: ids });
                write(record, &kept);
            }
            Err(error) => {
                mistakes.push(format!("failed to import {}: {}", path.display(), base_observe::Chain(&error)));
            }
        }
    }
    write(record, &kept);
    mistakes
}

/// What may be an archive, by name: with its path, and with what changes when it does.
fn archives(dir: &Path) -> io::Result<Vec<(String, PathBuf, Metadata)>> {
    let mut archives = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        // What is being copied here has a name like this with many programs.
        if name.starts_with('.') {
            continue;
        }
        // Of a layout, it is the index that changes with what it holds.
        let layout = || std::fs::metadata(path.join("index.json")).ok();
        let found = match std::fs::metadata(&path) {
            Ok(found) if found.is_dir() => layout(),
            Ok(found) => Some(found).filter(|found| found.is_file() && ENDINGS.iter().any(|end| name.ends_with(end))),
            Err(_) => None,
        };
        if let Some(found) = found {
            archives.push((name.to_owned(), path, found));
        }
    }
    archives.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(archives)
}

/// Without it everything is imported anew, which finds the layers in the store.
fn read(path: &Path) -> Record {
    let bytes = match base_fs::read_bounded(path, RECORD_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.is_not_found() => return Record::default(),
        Err(error) => {
            warn!(error = %base_observe::Chain(&error), "Failed to read which archives were imported; reading them again.");
            return Record::default();
        }
    };
    match serde_json::from_slice::<Record>(&bytes) {
        Ok(record) if record.version == RECORD_VERSION => record,
        _ => Record::default(),
    }
}

fn write(path: &Path, record: &Record) {
    let bytes = serde_json::to_vec(record).expect("a record is JSON");
    if let Err(error) = base_fs::write_if_changed(path, &bytes, Access::Private) {
        warn!(error = %base_observe::Chain(&error), "Failed to record which archives were imported; the next start reads them again.");
    }
}

#[cfg(test)]
mod tests;
