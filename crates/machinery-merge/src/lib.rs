//! Patches as plain functions on JSON: a document and a patch go in, a new document comes out.
//!
//! - [`json_patch`]: a list of operations, RFC 6902 (`application/json-patch+json`).
//! - [`merge_patch`]: a partial document, RFC 7386 (`application/merge-patch+json`).
//! - [`strategic_merge`]: a partial document that merges lists by their keys and may carry directives
//!   (`application/strategic-merge-patch+json`); it needs the [`machinery_schema::PatchSchema`] of the kind.
//!
//! A fourth kind, server-side apply, is to stand beside these as a module of its own: it takes the same document, the
//! applied configuration and the field managers, and shares nothing with them but [`PatchError`].
//!
//! The old document is never touched, so a refused patch leaves nothing behind. Patches come from the network:
//! their depth, their number of operations and what they may copy are bounded.

mod json_patch;
mod merge_patch;
mod strategic;

pub use json_patch::json_patch;
pub use merge_patch::{merge_diff, merge_patch};
use serde_json::Value;
pub use strategic::strategic_merge;

/// Real objects stay far below; recursion over a patch must not exhaust a stack.
pub const DEPTH_MAX: usize = 100;

/// As many operations as kube-apiserver takes in one JSON patch.
pub const OPERATIONS_MAX: usize = 10_000;

/// What the `copy` operations of one patch may copy in all: each could double the document otherwise.
pub const COPIED_BYTES_MAX: usize = 3 * 1024 * 1024;

/// Why a patch was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch is not of the form that its media type asks for. Answer: 400.
    #[error("the patch is malformed at {path}: {why}")]
    Malformed {
        /// Where in the patch.
        path: String,
        /// What was expected.
        why: String,
    },
    /// The patch asks for more than one request may. Answer: 413.
    #[error("the patch is too large: {why}")]
    TooLarge {
        /// Which bound it passes.
        why: String,
    },
    /// The patch is well formed but the document has no such place. Answer: 422.
    #[error("the patch does not fit the object at {path}: {why}")]
    NoSuchPlace {
        /// Where in the document.
        path: String,
        /// What is missing.
        why: String,
    },
    /// A `test` operation found another value. Answer: 422.
    #[error("testing value {path} failed")]
    TestFailed {
        /// The tested place.
        path: String,
    },
}

impl PatchError {
    fn malformed(path: impl Into<String>, why: impl Into<String>) -> Self {
        let path = path.into();
        Self::Malformed { path: if path.is_empty() { "its top".to_owned() } else { path }, why: why.into() }
    }
}

/// Refuses values that nest too deep to be walked.
fn check_depth(value: &Value) -> Result<(), PatchError> {
    fn fits(value: &Value, left: usize) -> bool {
        match value {
            Value::Array(_) | Value::Object(_) if left == 0 => false,
            Value::Array(items) => items.iter().all(|item| fits(item, left - 1)),
            Value::Object(map) => map.values().all(|value| fits(value, left - 1)),
            _ => true,
        }
    }
    if fits(value, DEPTH_MAX) {
        return Ok(());
    }
    Err(PatchError::TooLarge { why: format!("it nests deeper than {DEPTH_MAX} levels") })
}

#[cfg(test)]
mod tests;
