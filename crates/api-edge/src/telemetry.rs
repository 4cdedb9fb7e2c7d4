//! What a node sends to `POST /telemetry/v1/batches`, and how the hub answers.
//!
//! A batch covers the range `[from, to)` of one export's cursor over the node's journal. The hub remembers, for every
//! (node, export), the epoch of the journal and the `to` of the last batch it stored, in the same transaction as the
//! data. It stores a batch only when its `from` equals that number, so a batch sent twice, in part or in another
//! cut is recognised whatever its size, and nothing is stored twice or skipped.
//!
//! On the wire: `Content-Type: application/vnd.selvedge.batch.v1+ndjson`. The first line is a [`BatchHeader`], each
//! further line one EdgeX v3 event ([`crate::edgex::Event`]) exactly as the journal has it.

use serde::{Deserialize, Serialize};

/// Media type of a batch.
pub const BATCH_CONTENT_TYPE: &str = "application/vnd.selvedge.batch.v1+ndjson";

/// Path of the ingest on the hub's API port.
pub const BATCHES_PATH: &str = "/telemetry/v1/batches";

/// Path of the query on the hub's API port: `?node=&device=&resource=&from=&to=&order=&limit=&after=`.
pub const READINGS_PATH: &str = "/telemetry/v1/readings";

/// Path of the query for the newest reading of each resource: `?node=&device=&resource=&from=&to=&limit=`.
pub const LATEST_PATH: &str = "/telemetry/v1/latest";

/// Largest body the hub reads: a batch is cut by its sender long before.
pub const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Most events in one batch.
pub const BATCH_EVENTS_MAX: usize = 10_000;

/// Most records that one batch may cover, those included that were lost: what a journal drops in a year of ten thousand
/// records a second with no hub in sight is a third of it.
pub const BATCH_RECORDS_MAX: u64 = 1 << 40;

/// Largest offset: what JSON carries without loss.
pub const OFFSET_MAX: u64 = (1 << 53) - 1;

/// First line of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BatchHeader {
    /// Version of this header; 1.
    pub version: u32,
    /// Name of the export, `namespace/name`.
    pub export: String,
    /// Which journal the offsets belong to: made at random when the journal is created.
    pub epoch: String,
    /// Offset at which this batch begins.
    pub from: u64,
    /// Offset at which the next batch begins.
    pub to: u64,
    /// Records in `[from, to)` that were dropped for want of disk before they could be sent.
    #[serde(default)]
    pub lost: u64,
    /// Number of event lines that follow.
    pub events: usize,
}

/// Answer to a batch: 200 when it was stored (or was stored before), 409 when `from` is not the hub's offset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchAnswer {
    /// The epoch the hub knows for this (node, export).
    pub epoch: String,
    /// Offset from which the node should resume.
    pub next: u64,
}

/// One reading as `GET /telemetry/v1/readings` answers it, in a list `{"readings": [...], "next": "<token or null>"}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredReading {
    /// Node that sent it.
    pub node: String,
    /// Id of the event it came in.
    pub event_id: String,
    /// The reading, in EdgeX's form.
    pub reading: crate::edgex::Reading,
}
