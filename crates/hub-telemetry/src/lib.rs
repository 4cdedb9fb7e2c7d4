//! Takes readings in from nodes, keeps them, and finds them again.
//!
//! Batches are kept as they came, one journal record each, with a sparse index of what lies where; rows with indexes cost
//! twenty times the CPU. A batch and the place where its export stands afterwards are one record, so they are durable
//! together or not at all: nothing is stored twice, nothing is skipped (`api_edge::telemetry`).
//!
//! `POST batches ─▶ check the place ─▶ [ journal of batches ] ─▶ block index ◀─ GET readings`
//!
//! Calls block on the disk; asynchronous callers wrap them in `spawn_blocking`. [`http`] maps requests to calls.

mod batch;
pub mod http;
mod index;
mod query;
mod stands;
mod store;

pub use batch::BatchError;
pub use query::{QueryError, ReadingsPage, ReadingsQuery};
pub use store::{IngestError, OpenTelemetryError, Telemetry, TelemetryOptions, TelemetryUsage};

#[cfg(test)]
mod tests;
