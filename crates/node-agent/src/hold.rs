//! The owner of a box may hold updates: nobody at a hub replaces what runs on it until they are released.
//!
//! ```text
//! selvedge node hold-updates ──writes──▶ DATA_DIR/node/hold-updates ──read with each look──▶ Node's annotation
//! selvedge node release-updates ─deletes─┘                                   selvedge.dev/hold-updates
//! ```
//!
//! The file is the word of whoever is at the box, and the annotation only repeats it: where somebody takes that away at the hub, it is
//! written again, and a hub of ours lets nobody but the node write it. Rollouts leave the node out and say so; pods that do not run
//! there yet may still be placed on it. A hold with an end is taken away by the node, by its own clock.
//!
//! A file that cannot be read, or holds something else, holds updates: to update a box whose owner has said no is the worse mistake.

use std::io;
use std::path::{Path, PathBuf};

use api_edge::ANNOTATION_HOLD_UPDATES;
use jiff::Timestamp;
use node_client::seconds;
use serde_json::{Value, json};

/// What the annotation says of a hold without an end.
const OPEN: &str = "true";
/// The file has one word.
const FILE_BYTES_MAX: usize = 256;

/// Where a hold is written down.
pub fn file(data_dir: &Path) -> PathBuf {
    data_dir.join("node").join("hold-updates")
}

/// Holds updates, until this time or until they are released.
///
/// # Errors
/// When it cannot be written down.
pub fn hold(data_dir: &Path, until: Option<Timestamp>) -> Result<(), base_fs::WriteFileError> {
    let text = until.map_or_else(|| OPEN.to_owned(), seconds);
    base_fs::write_private(&file(data_dir), format!("{text}\n").as_bytes())
}

/// Releases them; whether they were held.
///
/// # Errors
/// When the file cannot be deleted.
pub fn release(data_dir: &Path) -> io::Result<bool> {
    match std::fs::remove_file(file(data_dir)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// What the annotation is to say; `None` when nothing is held. A hold whose time has passed is deleted.
pub fn held(data_dir: &Path, now: Timestamp) -> Option<String> {
    let bytes = match base_fs::read_bounded(&file(data_dir), FILE_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.is_not_found() => return None,
        Err(error) => {
            tracing::warn!(error = %base_observe::Chain(&error), "Failed to read whether updates are held; they are.");
            return Some(OPEN.to_owned());
        }
    };
    let text = String::from_utf8_lossy(&bytes);
    match text.trim().parse::<Timestamp>() {
        Ok(until) if until <= now => {
            if let Err(error) = release(data_dir) {
                tracing::warn!(%error, "Failed to delete a hold of updates that has ended.");
            }
            None
        }
        Ok(until) => Some(seconds(until)),
        Err(_) => Some(OPEN.to_owned()),
    }
}

/// The patch that makes a Node say it; `None` when it does.
pub(crate) fn patch(node: &Value, held: Option<&str>) -> Option<Value> {
    let said = node["metadata"]["annotations"][ANNOTATION_HOLD_UPDATES].as_str();
    (said != held).then(|| json!({"metadata": {"annotations": {ANNOTATION_HOLD_UPDATES: held}}}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn updates_are_held_until_they_are_released_or_their_time_has_passed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("node")).unwrap();
        assert_eq!(held(dir.path(), at(0)), None);
        hold(dir.path(), None).unwrap();
        assert_eq!(held(dir.path(), at(1 << 33)).as_deref(), Some("true"));
        assert!(release(dir.path()).unwrap());
        assert!(!release(dir.path()).unwrap());
        hold(dir.path(), Some(at(100))).unwrap();
        assert_eq!(held(dir.path(), at(99)).as_deref(), Some("1970-01-01T00:01:40Z"));
        assert_eq!(held(dir.path(), at(100)), None);
        assert!(!file(dir.path()).exists(), "a clock that is set back does not bring it back");
        std::fs::write(file(dir.path()), "soon").unwrap();
        assert_eq!(held(dir.path(), at(0)).as_deref(), Some("true"), "in doubt the owner has said no");
    }

    #[test]
    fn a_node_says_again_what_somebody_took_away() {
        let node = |value: Value| json!({"metadata": {"annotations": {ANNOTATION_HOLD_UPDATES: value}}});
        assert_eq!(patch(&node("true".into()), Some("true")), None);
        assert_eq!(patch(&json!({"metadata": {}}), None), None);
        assert_eq!(patch(&json!({"metadata": {}}), Some("true")), Some(node("true".into())));
        assert_eq!(patch(&node("true".into()), None), Some(node(Value::Null)));
    }
}
