//! The kinds that every Kubernetes API serves, and those that a CustomResourceDefinition brings.
//!
//! ```text
//! Registry ── resource("apps", "v1", "daemonsets") ──▶ ResourceInfo ── prune, apply_defaults, validate, patch_schema
//!    │                                                     ├───────── prepare_create, prepare_update, index_fields, …
//!    │                                                     └───────── table(info, objects, now, include)
//!    └── discovery: api_versions, api_group_list, api_resource_list, aggregated_discovery
//!    └── openapi_index, openapi_document
//! ```

mod catalogue;
mod checks;
mod custom;
mod discovery;
pub mod flow_control;
mod kinds;
mod kit;
mod metadata;
mod openapi;
mod registry;
mod resource;
mod rules;
mod scale;
mod strategy;
mod table;

pub use custom::InstalledCrd;
pub use discovery::DiscoveryVersion;
/// Which cluster addresses and node ports a Service gets.
pub mod services {
    pub use crate::kinds::core::service::allocate::{
        AllocateError, Allocator, BeginError, ServiceNumbers, begin_create, begin_update, service_numbers,
    };
}
pub use kinds::certificates::parse_signing_request;
pub use kinds::go_json::json_type;
pub use machinery_crd as crd;
pub use machinery_schema::decode::DecodeError;
pub use machinery_schema::decode::{complete as complete_type, decode as decode_type};
pub use machinery_schema::types::Type;
pub use machinery_schema::{
    Budget, BudgetExceeded, DEPTH_MAX, FieldError, FieldErrorReason, ListStrategy, PatchField, PatchSchema,
    is_dns_label, is_dns_subdomain, is_label_value, is_qualified_name, join_field_errors, limit_warnings,
    strict_decoding_error,
};
use machinery_schema::{bounded, field_error, jsonpath};
pub use metadata::dedup_owner_references;
pub use registry::Registry;
pub use resource::{ResourceInfo, SelectableField, Subresource};
pub use scale::Scale;
pub use strategy::{Creation, Durability, INDEX_LABEL_PREFIX, INDEX_OWNER_UID, INDEX_REFS};
pub use table::{IncludeObject, column_definitions, human_duration, table, table_row};
