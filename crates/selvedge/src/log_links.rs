//! Where a node's links to logs are: as its settings say, and noted in its data directory for `selvedge reset` and for the next start,
//! which know nothing of earlier settings.

use std::path::{Path, PathBuf};

use node_kubelet::LogLinks;
use serde::{Deserialize, Serialize};

use crate::config::NodeConfig;

/// `logLinksDir` of a node without links.
const NONE: &str = "none";
/// In the data directory.
const FILE: &str = "node/log-links.json";
/// Version of [`Note`].
const VERSION: u32 = 1;
/// Space for the longest path.
const BYTES_MAX: usize = 8 * 1024;

#[derive(Serialize, Deserialize)]
struct Note {
    version: u32,
    directory: PathBuf,
}

/// Where collectors look for logs; nothing where there can be none. Links at another place, of earlier settings, are removed.
pub fn open(config: &NodeConfig, data_dir: &Path) -> Option<LogLinks> {
    if rustix::process::geteuid().is_root() { open_as_root(config, data_dir) } else { None }
}

fn open_as_root(config: &NodeConfig, data_dir: &Path) -> Option<LogLinks> {
    let place = Path::new(&config.log_links_dir);
    let before = noted(data_dir).filter(|before| before != place);
    if let Some(links) = before.and_then(|before| existing(&before)) {
        links.remove_all(data_dir);
    }
    let note = Note { version: VERSION, directory: place.to_owned() };
    let noted = serde_json::to_vec(&note).map_err(std::io::Error::other).and_then(|bytes| {
        let file = data_dir.join(FILE);
        base_fs::create_private_dir_all(&data_dir.join("node")).map_err(std::io::Error::other)?;
        base_fs::write_if_changed(&file, &bytes, base_fs::Access::Private).map_err(std::io::Error::other)
    });
    if let Err(error) = noted {
        tracing::warn!(%error, "Where the links to logs are is not noted: `selvedge reset` may leave them.");
    }
    if config.log_links_dir == NONE {
        return None;
    }
    let report = |error: &std::io::Error| {
        tracing::warn!(directory = config.log_links_dir, %error, "Collectors of logs find none of this node's: `logLinksDir` cannot be made.");
    };
    LogLinks::open(place).inspect_err(report).ok()
}

/// Removes what leads to the logs of a data directory, wherever that is.
pub fn remove(data_dir: &Path) {
    let place = noted(data_dir).unwrap_or_else(|| PathBuf::from(NodeConfig::default().log_links_dir));
    if let Some(links) = existing(&place) {
        links.remove_all(data_dir);
    }
}

/// Where there are none, none are made.
fn existing(place: &Path) -> Option<LogLinks> {
    if place.join("pods").is_dir() { LogLinks::open(place).ok() } else { None }
}

fn noted(data_dir: &Path) -> Option<PathBuf> {
    let bytes = base_fs::read_bounded(&data_dir.join(FILE), BYTES_MAX).ok()?;
    let note: Note = serde_json::from_slice(&bytes).ok()?;
    (note.version == VERSION && note.directory.is_absolute()).then_some(note.directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_logs_are_removed_wherever_they_are() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data_dir = dir.path().join("data");
        let place = |name: &str| dir.path().join(name);
        let settings = |name: &str| NodeConfig {
            log_links_dir: place(name).to_string_lossy().into_owned(),
            ..NodeConfig::default()
        };
        let log = data_dir.join("node/pods/d_web_uid-1/a/0.log");
        let link = |name: &str| place(name).join("pods/d_web_uid-1/a/0.log");
        let make = |name: &str| {
            std::fs::create_dir_all(link(name).parent().expect("a directory")).expect("space");
            std::os::unix::fs::symlink(&log, link(name)).expect("space");
        };
        assert!(open_as_root(&settings("one"), &data_dir).is_some());
        make("one");
        assert!(open_as_root(&settings("one"), &data_dir).is_some());
        assert!(link("one").is_symlink(), "where nothing has changed they stay");
        assert!(open_as_root(&settings("two"), &data_dir).is_some());
        assert!(!link("one").is_symlink(), "nobody looks after those of earlier settings");
        make("two");
        remove(&data_dir);
        assert!(!link("two").is_symlink());
        make("two");
        assert!(
            open_as_root(&NodeConfig { log_links_dir: NONE.to_owned(), ..NodeConfig::default() }, &data_dir).is_none()
        );
        assert!(!link("two").is_symlink());
        remove(&data_dir);
        assert_eq!(noted(&data_dir), None, "there are none");
    }
}
