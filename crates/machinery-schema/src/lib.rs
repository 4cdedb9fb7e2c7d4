//! What the Kubernetes API serves: which resources there are, what their objects look like, how they are shown.
//!
//! Everything here is a plain function over [`serde_json::Value`]: no clock, no I/O, no HTTP. The server decodes a
//! request, calls this crate to prepare and check the object, and sends the documents that are created here.
//!
//! ```text
//! Registry ── resource("apps", "v1", "daemonsets") ──▶ ResourceInfo ── prune, apply_defaults, validate, patch_schema
//!    │                                                     ├───────── prepare_create, prepare_update, index_fields, …
//!    │                                                     └───────── table(info, objects, now, include)
//!    └── discovery: api_versions, api_group_list, api_resource_list, aggregated_discovery
//!    └── openapi_index, openapi_document
//! ```
//!
//! The types of built-in kinds come from Kubernetes' own published definitions (`definitions/`, see `NOTICE` there),
//! which `build.rs` turns into static tables; custom resources bring their schema along in their
//! CustomResourceDefinition and are installed into a copy-on-write [`Registry`].
//!
//! A write runs through [`ResourceInfo::prune`] (unknown fields, by the request's `fieldValidation`),
//! [`ResourceInfo::prepare_create`] or [`ResourceInfo::prepare_update`] (what is not the author's to write), then
//! [`ResourceInfo::apply_defaults`], [`ResourceInfo::validate`] and, for updates, [`ResourceInfo::validate_update`].
//!
//! # For those who change it
//!
//! **Where is it?** `catalogue` is the table of built-in resources; `strategy/kinds.rs` has one value per kind that
//! names everything special about it: rules (`builtin/rules.rs`, `builtin/pods.rs`), what may not change
//! (`builtin/update.rs`), defaults (`builtin/defaults.rs`), index fields (`strategy/index.rs`), columns
//! (`table/printers.rs`). `structural` checks custom resources, `crd` reads their definitions.
//!
//! **May I touch it?** A new kind: a line in the catalogue, its definitions in `vendor.rs` and `build.rs`, a strategy when it
//! differs from a plain one. A new rule: upstream's message, looked up, with a case in `builtin/tests.rs`. Two invariants:
//! recursion checks its depth before it descends ([`DEPTH_MAX`]), and where two sizes that clients choose multiply, the
//! work is linear, bounded by a constant, or taken from a [`Budget`].
//!
//! **How do I try it?** `cargo test -p machinery-schema`; the tests are tables of objects and messages. The whole way of a
//! request is tried with `kubectl apply --dry-run=server` against `cargo xtask up`.
//!
//! **What breaks?** A changed default changes the revision hash of DaemonSets, and so rolls pods. A changed index field is
//! missing in rows that were stored before it: the store keeps the fields it was given. A changed message breaks people's
//! scripts; a stricter rule makes stored objects that break it impossible to update.

pub mod bounded;
mod budget;
pub mod builtin;
pub mod field_error;
pub mod jsonpath;
mod warnings;

pub use api_kube::names::{is_dns_label, is_dns_subdomain, is_label_value, is_qualified_name};
pub use budget::{Budget, BudgetExceeded};
pub use builtin::{ListStrategy, PatchField, PatchSchema};
pub use field_error::{FieldError, FieldErrorReason, join_field_errors, strict_decoding_error};
pub use warnings::limit_warnings;

/// Values nested deeper than this are rejected: recursion over them must not exhaust a stack.
pub const DEPTH_MAX: usize = 64;
