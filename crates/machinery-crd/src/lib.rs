//! CustomResourceDefinitions: which definitions are accepted, and what their schemas mean for objects.
//!
//! ```text
//! definition ── validate, settle ──▶ Structural ── prune, apply_defaults, validate ──▶ object
//!      │                                  │
//!      └── rules for schemas              └── values, lists, embedded resources, CEL
//! ```
//!
//! Everything is a plain function over [`serde_json::Value`]. Messages, reasons and paths are those of
//! apiextensions-apiserver 1.36, because people's scripts and tests compare them.
//!
//! # For those who change it
//!
//! **Where is it?** `schema` reads a schema into a tree, `definition` checks what may be in it, `structural` applies it to
//! objects, `cel` reads and runs its rules. `go` and its neighbours write values and read patterns, URLs and durations as Go does.
//!
//! **May I touch it?** Two invariants: recursion checks its depth before it descends ([`DEPTH_MAX`]), and where two sizes
//! that clients choose multiply, the work is linear, bounded by a constant, or taken from a [`Budget`].
//!
//! **How do I try it?** `cargo test -p machinery-crd`, and the recorded answers of a kube-apiserver:
//! `cargo run -p machinery-replay -- crd`.

mod cel;
pub mod definition;
use machinery_schema::go;
mod go_regex;
mod go_url;
mod names;
mod schema;
mod structural;

pub use cel::{PolicyScope, PolicyType, check_policy, is_reserved};
use machinery_schema::{Budget, BudgetExceeded, DEPTH_MAX, FieldError, FieldErrorReason, bounded, field_error};
pub use structural::{MetadataRules, Part, ReadSchemaError, Scale, Structural, StructuralPlace};
