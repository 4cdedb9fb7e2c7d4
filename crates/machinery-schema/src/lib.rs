//! What the types of the Kubernetes API look like, and what is needed to read and write them.
//!
//! Everything here is a plain function over [`serde_json::Value`]: no clock, no I/O, no HTTP.
//!
//! - [`types`]: structs, fields and shapes as static tables, made by `build.rs` of what Kubernetes publishes
//!   (`definitions/`, see `NOTICE` there);
//! - [`openapi`]: the documents that Kubernetes publishes;
//! - [`decode`]: objects as Go reads and writes them: unknown fields, wrong types, canonical forms;
//! - [`PatchSchema`]: what a strategic merge patch must know of a type;
//! - [`FieldError`]: what is wrong with a field, in Kubernetes' words; [`jsonpath`]: paths into objects;
//! - [`go`]: texts and values as Go writes them;
//! - [`Budget`]: how much work one request may cause; [`bounded`]: text of bounded length.
//!
//! # For those who change it
//!
//! Two invariants: recursion follows a value that a bounded decoder has made, and where two sizes that clients choose
//! multiply, the work is linear, bounded by a constant, or taken from a [`Budget`]. A new version of Kubernetes: see
//! `definitions/README.md`.

pub mod bounded;
mod budget;
pub mod decode;
pub use decode as builtin;
pub mod field_error;
pub mod go;
pub mod jsonpath;
pub mod openapi;
mod patch;
pub mod protobuf;
pub mod types;
mod warnings;
pub mod yaml;

pub use api_kube::names::{is_dns_label, is_dns_subdomain, is_label_value, is_qualified_name};
pub use budget::{Budget, BudgetExceeded};
pub use field_error::{FieldError, FieldErrorReason, join_field_errors, strict_decoding_error};
pub use patch::{ListStrategy, PatchField, PatchSchema};
pub use warnings::limit_warnings;

/// Values nested deeper than this are rejected: recursion over them must not exhaust a stack.
pub const DEPTH_MAX: usize = 64;
