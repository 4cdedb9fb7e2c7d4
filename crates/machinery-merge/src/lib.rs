//! Patches as plain functions on JSON: a document and a patch go in, a new document comes out.
//!
//! - [`json_patch`]: a list of operations, RFC 6902 (`application/json-patch+json`).
//! - [`merge_patch`]: a partial document, RFC 7386 (`application/merge-patch+json`).
//! - [`strategic_merge`]: a partial document that merges lists by their keys and may carry directives
//!   (`application/strategic-merge-patch+json`); it needs the [`machinery_schema::PatchSchema`] of the kind.
//!
//! A fourth kind, server-side apply, is to be a module of its own beside these: it takes the same document, the
//! applied configuration and the field managers, and shares nothing with them but [`PatchError`].
//!
//! # For those who change it
//!
//! **Where is it?** One module per kind of patch: `json_patch`, `merge_patch`, `strategic`. `walk` measures values before
//! they are copied, `identity` finds list items in hash maps. Which lists merge, and by which key, is not decided here but
//! in the tables of `machinery-schema`. Which status code an error becomes is decided in `machinery-server`.
//!
//! **May I touch it?** Yes, if three invariants hold. The old document is never changed, so a rejected patch leaves
//! nothing behind. No value ever nests deeper than [`DEPTH_MAX`], not even between two operations. Every loop
//! over a list of the patch is linear or a sort: a client chooses both sizes.
//!
//! **How do I try it?** `cargo test -p machinery-merge`; a new case is one line of `tests/strategic_cases.rs` or
//! `tests/json_patch_cases.rs`. `cargo xtask fuzz patch` looks for what nobody thought of, on a small stack.
//!
//! **What breaks?** `kubectl apply` and `kubectl patch` when results change; every PATCH of the hub when this is slow. An
//! aborted process is what a missing bound looks like: recursion that outgrows the stack cannot be caught.

mod apply;
mod compact;
mod fields;
mod go;
mod identity;
mod json_patch;
mod merge_patch;
mod schema;
mod strategic;
mod typed;
mod walk;

pub use apply::{
    Applied, ApplyError, ApplyKind, Conflict, Conflicts, DecodeManagedError, FieldManager, MANAGER_BYTES_MAX, Managed,
    ManagerId, Operation, ReplicasPath, VersionedSet, manager_of_user_agent,
};
pub use compact::{ReadCompactError, compact_to_json};
pub use fields::{FieldFilter, FieldSet, KeyField, ParseFieldsError, PathElement, Pattern, compare_values, path_text};
pub use go::{json as go_json, json_type, plain as go_text};
pub use json_patch::{json_patch, json_patch_within};
use machinery_schema::BudgetExceeded;
pub use merge_patch::{merge_diff, merge_patch, merge_patch_within};
pub use schema::{ApplySchema, BuiltinSchema, ListType, MapType, ScalarType, Untyped};
pub use strategic::{strategic_merge, strategic_merge_within};
pub use typed::ValidationErrors;

/// Levels of objects and lists within each other, in patches and documents alike. Real objects stay far below, and the
/// JSON decoder stops at 128; recursion over a value must not exhaust a stack.
pub const DEPTH_MAX: usize = 100;

/// As many operations as kube-apiserver takes in one JSON patch.
pub const OPERATIONS_MAX: usize = 10_000;

/// What the `copy` operations of one patch may copy in all: each could double the document otherwise.
pub const COPIED_BYTES_MAX: usize = 3 * 1024 * 1024;

/// Why a patch was rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch is not of the form that its media type requires. Answer: 400, with these words.
    #[error("{0}")]
    BadRequest(String),
    /// The patch is well formed but does not fit the object, or a `test` failed. Answer: 422, and kube-apiserver does not
    /// even say why.
    #[error("{0}")]
    Unprocessable(String),
    /// What kube-apiserver did not foresee. Answer: 500, with these words.
    #[error("{0}")]
    Failed(String),
    /// The patch requests more than one request may. Answer: 413.
    #[error("the patch is too large: {why}")]
    TooLarge {
        /// Which bound it passes.
        why: String,
    },
    /// The patch, or what an operation would make of the document, nests too deep. Answer: 422.
    #[error("the patch would make a value that nests deeper than {DEPTH_MAX} levels")]
    TooDeep,
}

/// Messages are cut to this: they show parts of a patch, which may be as long as a body, and go into a response and a log.
const SHOWN_BYTES_MAX: usize = 1024;

impl PatchError {
    fn failed(why: String) -> Self {
        Self::Failed(shown(why))
    }

    fn unprocessable(why: impl Into<String>) -> Self {
        Self::Unprocessable(shown(why.into()))
    }
}

impl From<BudgetExceeded> for PatchError {
    fn from(error: BudgetExceeded) -> Self {
        Self::TooLarge { why: error.to_string() }
    }
}

fn shown(mut text: String) -> String {
    if text.len() > SHOWN_BYTES_MAX {
        let end = (0..=SHOWN_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests;
