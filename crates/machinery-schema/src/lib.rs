//! What the Kubernetes API serves: which resources there are, what their objects look like, how they are shown.
//!
//! Everything here is a plain function over [`serde_json::Value`]: no clock, no I/O, no HTTP. The server decodes a
//! request, asks this crate whether the object is well formed, and answers with the documents made here.
//!
//! ```text
//! Registry ── resource("apps", "v1", "daemonsets") ──▶ ResourceInfo ── prune, apply_defaults, validate, patch_schema
//!    │                                                     └───────── table(info, objects, now, include)
//!    └── discovery: api_versions, api_group_list, api_resource_list, aggregated_discovery
//!    └── openapi_index, openapi_document
//! ```
//!
//! The types of built-in kinds come from Kubernetes' own published definitions (`definitions/`, see `NOTICE` there),
//! which `build.rs` turns into static tables; custom resources bring their schema along in their
//! CustomResourceDefinition and are installed into a copy-on-write [`Registry`].
//!
//! A write goes through: [`ResourceInfo::prune`] (unknown fields, by the request's `fieldValidation`), then
//! [`ResourceInfo::apply_defaults`], then [`ResourceInfo::validate`] and, for updates, [`ResourceInfo::validate_update`].

mod budget;
mod builtin;
mod catalogue;
mod crd;
mod discovery;
mod field_error;
mod jsonpath;
mod metadata;
mod openapi;
mod registry;
mod resource;
mod structural;
mod table;
pub mod vendor;

pub use api_kube::names::{is_dns_label, is_dns_subdomain, is_label_value, is_qualified_name};
pub use budget::{Budget, BudgetExceeded};
pub use builtin::{ListStrategy, PatchField, PatchSchema};
pub use crd::InstalledCrd;
pub use discovery::DiscoveryVersion;
pub use field_error::{FieldError, FieldErrorReason, join_field_errors, strict_decoding_error};
pub use registry::Registry;
pub use resource::{ResourceInfo, SelectableField, Subresource};
pub use table::{IncludeObject, column_definitions, human_duration, table, table_row};

/// Values nested deeper than this are refused: recursion over them must not exhaust a stack.
pub const DEPTH_MAX: usize = 64;
