//! Takes readings in from nodes, keeps them, and finds them again.
//!
//! Batches are kept as they came, one journal record each, with a sparse index of what lies where; rows with indexes cost
//! twenty times the CPU. A batch and the acknowledged offset of its export are one record, so they are durable
//! together or not at all: nothing is stored twice, nothing is skipped (`api_edge::telemetry`).
//!
//! `POST batches ─▶ check the offset ─▶ [ journal of batches ] ─▶ block index ◀─ GET readings, latest`
//!
//! **Where is it?** [`routes`] is what a server calls: bodies, slots, status codes. [`http`] maps a request to a call. `batch` with
//! `event` checks what a node sent, `positions` decides whether it is next, `store` writes it, `index` with `names` knows where
//! it lies, `query` finds it, [`retention`] with `pack` decides what is dropped when the disk is full, [`metrics`] shows it.
//!
//! **May I touch it?** What is on disk has versions (`batch`, `pack`, `store`), and a fixture of each lies in `fixtures/`: a new
//! form gets a new number and a new fixture, and the old ones are still read. What a node does with an answer is in
//! `edge-runtime` and `edge-export`: 400, 413 and 422 make it leave events out, everything else makes it try again. So
//! nothing that may pass by itself is answered with one of the three.
//!
//! **How do I try it?** `cargo test -p hub-telemetry`; `cargo test --release -p hub-telemetry -- --ignored --nocapture how_fast`
//! prints events per second; `cargo xtask up` and `kubectl get --raw /telemetry/v1/latest` show the real thing.
//!
//! **What breaks?** A full disk: batches are rejected with 507 and stay on their nodes. A damaged record: its readings are
//! missing from answers, the rest is there. A lost checkpoint: opening reads the whole journal. A node that sends without
//! end: it has a quota of bytes (`quota`), displaces itself, and what nobody's fair share protects ([`retention`]); its names
//! cost it alone (`names`).
//! Two boxes made from one disk image: the second is rejected with a message, and the [`Observer`] is notified.
//!
//! Calls block on the disk; asynchronous callers wrap them in `spawn_blocking`, as [`routes`] does.

mod batch;
mod event;
pub mod http;
mod index;
pub mod metrics;
mod names;
mod pack;
mod positions;
mod query;
mod quota;
pub mod retention;
pub mod routes;
mod store;
pub mod usage;

pub use batch::BatchError;
pub use positions::{AssignedExports, EXPORTS_MAX, EveryExport};
pub use query::{LatestReadings, Order, QueryError, ReadingsPage, ReadingsQuery};
pub use quota::QuotaLimits;
pub use store::{
    EpochConflict, IngestError, Observer, OpenTelemetryError, Telemetry, TelemetryOptions, TelemetryUsage,
};

#[cfg(test)]
mod tests;
