//! What each role reports on its status socket; `selvedge status` merges these.
//!
//! A node and an edge plane serve `GET /status` on `DATA_DIR/run/<role>.sock` (`node`, `edge`) as JSON of these types; a hub
//! serves [`CONTROLLERS_PATH`] to its administrators.

use jiff::Timestamp;
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
    /// What was taken in since start: readings of a device, rows of a rule.
    pub taken: u64,
    /// What failed since start: reads of a device, rows of a rule, events that an export's receiver refused.
    pub errors: u64,
    /// Of an export, how far it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub export: Option<ExportReport>,
}

/// How far an export is in the journal.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExportReport {
    /// The offset below which its receiver has acknowledged everything.
    pub acknowledged: u64,
    /// Records of the journal that are not acknowledged yet.
    pub backlog: u64,
    /// Records that were dropped before they could be sent, since start.
    pub lost: u64,
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

/// Where a hub reports which life of its state it serves, as a [`LifeReport`].
pub const LIFE_PATH: &str = "/statusz/life";

/// Which life of its state a hub serves: another one after each restore of a backup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LifeReport {
    /// 1; fields may be added without another one.
    pub version: u32,
    /// Random: no two lives share it.
    pub epoch: String,
    /// The last revision.
    pub revision: u64,
    /// Of a hub that was restored, from what.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restored: Option<RestoredReport>,
}

/// From what a hub was restored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RestoredReport {
    /// When, RFC 3339.
    pub time: Option<Timestamp>,
    /// The life that the backup was made in.
    pub epoch: String,
    /// The revision of the backup.
    pub revision: u64,
    /// The first revision of this life: watches from below it have expired.
    pub begins: u64,
}

/// Where a hub reports what its controllers did last, as a [`ControllersReport`].
pub const CONTROLLERS_PATH: &str = "/statusz/controllers";

/// Version of [`ControllersReport`].
pub const CONTROLLERS_VERSION: u32 = 1;

/// What the hub's controllers did last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ControllersReport {
    /// [`CONTROLLERS_VERSION`]; fields may be added without another one.
    pub version: u32,
    /// In order of their names.
    pub controllers: Vec<ControllerStatus>,
}

/// The state of one controller.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ControllerStatus {
    /// Its name.
    pub name: String,
    /// Whether it has seen everything that it reads; no key runs before.
    pub synced: bool,
    /// Keys that are due.
    pub queue_length: usize,
    /// Keys that are due later: deadlines and retries.
    pub waiting: usize,
    /// Keys that run now.
    pub running: usize,
    /// Keys whose last run failed.
    pub failing: usize,
    /// Runs since the start.
    pub processed: u64,
    /// Runs that failed and were repeated.
    pub retries: u64,
    /// Runs that panicked.
    pub panics: u64,
    /// When the last run ended, RFC 3339.
    pub last_run: Option<Timestamp>,
    /// How long the last run took.
    pub last_duration_seconds: f64,
    /// How long all runs took together.
    pub duration_seconds_total: f64,
    /// The last failure, also when a later run succeeded.
    pub last_error: Option<ControllerError>,
}

/// A failure of one key of a controller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ControllerError {
    /// The key.
    pub key: String,
    /// The error with its causes.
    pub message: String,
    /// When.
    pub time: Option<Timestamp>,
}
