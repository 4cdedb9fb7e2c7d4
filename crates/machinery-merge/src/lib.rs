//! How objects of the Kubernetes API change: three patches, and server-side apply with its owners of fields.
//!
//! All of it is plain functions on [`serde_json::Value`]; nothing here does I/O, knows the time or holds state.
//!
//! - [`json_patch`]: a list of operations, RFC 6902 (`application/json-patch+json`).
//! - [`merge_patch`]: a partial document, RFC 7386 (`application/merge-patch+json`).
//! - [`strategic_merge`]: a partial document that merges lists by their keys and may carry directives
//!   (`application/strategic-merge-patch+json`); it needs the [`machinery_schema::PatchSchema`] of the kind.
//! - [`FieldManager`]: server-side apply (`application/apply-patch+yaml`), and who owns which fields after any other write.
//!
//! What they do, and the words of their errors, are those of kube-apiserver 1.36, also where RFCs say less or otherwise:
//! clients that work with the one cannot know it from the other. A server needs no more of it than this:
//!
//! ```text
//! apply patch    owners of the stored object ─┐
//!                stored object, configuration ─┴▶ FieldManager::apply  ──▶ object, owners   (or conflicts)
//! other writes   stored object, new object, owners ──▶ FieldManager::update ──▶ owners
//! storing        Managed::to_compact  ──▶ bytes beside the object
//! showing        compact_to_json      ──▶ metadata.managedFields
//! listing        AlikeToJson          ──▶ the same, of many objects
//! ```
//!
//! # Server-side apply in short
//!
//! Each manager owns a [`FieldSet`] of an object, by name, version, subresource and by whether it applies or updates
//! ([`ManagerId`]). Who updates owns what it changed and takes it from all others. Who applies owns what its configuration
//! names; a field of another that it would change is a [`Conflict`] unless it is forced; a field that it named the last
//! time and names no longer is removed, unless another owns it too. Which values belong together is said by the kind's
//! schema, the trait [`ApplySchema`]: [`BuiltinSchema`] for Kubernetes' own types, `machinery-crd`'s for custom resources,
//! [`Untyped`] where nothing is known.
//!
//! # For those who change it
//!
//! **Where is it?** `json_patch`, `merge_patch`, `strategic`: one module per patch. `fields`: sets of fields and `FieldsV1`.
//! `schema`: what is asked of a kind. `typed`: values seen with a schema, in five small walks (validate, field set, compare,
//! merge, remove). `apply`: the managers; `updater` is the algorithm, `manager` the request around it, `cap`, `last_applied`
//! and `scale` its three special cases. `compact`: owners as they are stored.
//! Which lists a
//! strategic patch merges is decided in the tables of `machinery-schema`; which status code an error becomes, in
//! `machinery-server`.
//!
//! **May I touch it?** Yes, if these hold. The old object is never changed, so a rejected write leaves nothing behind. No value
//! nests deeper than [`DEPTH_MAX`], not even between two operations, and no set of fields does. Every loop over a list of the
//! client's is linear or a sort: a client chooses both sizes. `compact/names-v1.txt` never changes: it is on disks.
//!
//! **How do I try it?** `cargo test -p machinery-merge`; a new case is one line of `tests/strategic_cases.rs` or
//! `tests/json_patch_cases.rs`. Recorded applies of a kube-apiserver are replayed on objects alone by `apply/tests.rs`, on
//! a whole server by `machinery-replay`. `cargo xtask fuzz patch` and `apply` look for what nobody thought of, on a small
//! stack.
//!
//! **What breaks?** `kubectl apply` and `kubectl patch` when results change; every write of the server when this is slow. An owner
//! too many is a conflict that somebody must force; an owner too few is a field that the next apply overwrites. An aborted
//! process is what a missing bound looks like: recursion that outgrows the stack cannot be caught.

mod apply;
mod compact;
mod fields;
mod identity;
mod json_patch;
mod merge_patch;
mod schema;
mod strategic;
mod typed;
mod walk;

use machinery_schema::{BudgetExceeded, go};

pub use apply::{
    Applied, ApplyError, ApplyKind, Conflict, Conflicts, DecodeManagedError, FieldManager, MANAGER_BYTES_MAX, Managed,
    ManagerId, Operation, ReplicasPath, VersionedSet, manager_of_user_agent,
};
pub use compact::{AlikeToJson, ReadCompactError, compact_to_json};
pub use fields::{FieldFilter, FieldSet, KeyField, ParseFieldsError, PathElement, Pattern, compare_values, path_text};
pub use json_patch::{json_patch, json_patch_within};
pub use merge_patch::{merge_diff, merge_patch, merge_patch_within};
pub use schema::{ApplySchema, BuiltinSchema, ListType, MapType, ScalarType, Untyped};
pub use strategic::{strategic_merge, strategic_merge_within};
pub use typed::ValidationErrors;

/// Levels of objects and lists within each other, in patches and documents alike. Definitions of resources have two for
/// each level of their schemas, which are some dozens. The JSON decoder stops at 128, and the fields that a manager owns
/// of an object are shown four levels below its own top, so that they can be read again; recursion over a value must not
/// exhaust a stack.
pub const DEPTH_MAX: usize = 120;

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
    #[error("the object would nest deeper than {DEPTH_MAX} levels")]
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
