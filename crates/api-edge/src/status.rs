//! What each role reports on its status socket; `selvedge status` merges these.
//!
//! A role serves `GET /status` on `DATA_DIR/run/<role>.sock` (`node`, `edge`) as JSON of these types.

use serde::{Deserialize, Serialize};

/// What the kubelet reports.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeReport {
    /// The node's name.
    pub node: String,
    /// Whether the hub answered the last request.
    pub connected: bool,
    /// Pods the node holds: `namespace/name`, phase, restarts.
    pub pods: Vec<PodReport>,
    /// The last failures, newest first, at most ten.
    pub last_errors: Vec<String>,
}

/// One pod in a [`NodeReport`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodReport {
    /// `namespace/name`.
    pub pod: String,
    /// Kubernetes' pod phase.
    pub phase: String,
    /// Sum over its containers.
    pub restarts: u32,
    /// Whether every container is ready.
    pub ready: bool,
}

/// What the edge plane reports.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EdgeReport {
    /// The node's name, empty when the edge plane runs alone.
    pub node: String,
    /// One entry per device, stream, rule and export.
    pub entries: Vec<EntryReport>,
    /// Journal of events.
    pub journal: JournalReport,
    /// The last failures, newest first, at most ten.
    pub last_errors: Vec<String>,
}

/// One thing the edge plane runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EntryReport {
    /// `Device`, `Stream`, `Rule` or `Export`.
    pub kind: String,
    /// `namespace/name`.
    pub name: String,
    /// Whether it does its work.
    pub ready: bool,
    /// A sentence: what it does, or why it does not.
    pub message: String,
    /// Events made, taken or sent since start.
    pub events: u64,
}

/// The journal's depth.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JournalReport {
    /// Oldest offset held.
    pub first: u64,
    /// Offset of the next record.
    pub next: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Records not yet confirmed by the slowest export.
    pub depth: u64,
}
