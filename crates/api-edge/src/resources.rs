//! The kinds of `edge.selvedge.dev/v1alpha1`, as users write them.
//!
//! A fleet object (`Device`, `Stream`, `Rule`, `Export`) never reaches a node by itself: the hub resolves it into an
//! [`AssignmentEntry`] of the node's [`NodeAssignmentSpec`], and the node writes how it fares into
//! [`NodeAssignmentStatus`], from where the hub sums it up into the object's [`FleetStatus`].

use std::collections::BTreeMap;

use api_kube::Condition;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::edgex;

/// `spec` of a `DeviceProfile`: an EdgeX device profile. `name` may be absent; it is then `metadata.name`.
pub type DeviceProfileSpec = edgex::DeviceProfile;

/// `spec` of a `Device`: one device and the node that talks to it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct DeviceSpec {
    /// The node that talks to the device.
    pub node_name: String,
    /// The EdgeX name; `metadata.name` when absent. EdgeX allows capitals, Kubernetes does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `metadata.name` of its `DeviceProfile`.
    pub profile_name: String,
    /// The driver: `host`, `modbus`.
    pub service_name: String,
    /// What it is, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// `LOCKED` stops all traffic with the device.
    #[serde(default)]
    pub admin_state: edgex::AdminState,
    /// EdgeX labels; not Kubernetes'.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// What is read without being asked, and how often.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub auto_events: Vec<edgex::AutoEvent>,
    /// How to reach it: protocol → property → value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub protocols: edgex::Protocols,
    /// Properties of the user's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, Value>,
}

/// `spec` of a `Stream`: `CREATE STREAM …`, on every node that the selector matches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StreamSpec {
    /// Labels a node must have. Empty: every node.
    #[serde(default)]
    pub node_selector: BTreeMap<String, String>,
    /// The statement.
    pub sql: String,
}

/// `spec` of a `Rule`: a query over streams, and what to do with its rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuleSpec {
    /// Labels a node must have. Empty: every node.
    #[serde(default)]
    pub node_selector: BTreeMap<String, String>,
    /// The statement, `SELECT …`.
    pub sql: String,
    /// Where rows go; each entry has one key, the name of the sink: `edgex`, `log` or `nop`.
    #[serde(default)]
    pub actions: Vec<BTreeMap<String, Value>>,
}

/// Properties of the `edgex` action: rows become events on the bus, one reading per column.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct EdgexActionProps {
    /// Default: the rule's name.
    pub device_name: Option<String>,
    /// Default: the rule's name.
    pub profile_name: Option<String>,
    /// Default: the rule's name.
    pub source_name: Option<String>,
}

/// `spec` of an `Export`: which events leave the node, and where to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExportSpec {
    /// Labels a node must have. Empty: every node.
    #[serde(default)]
    pub node_selector: BTreeMap<String, String>,
    /// Only events of these devices (EdgeX names, rules' device names among them). Empty: all.
    #[serde(default)]
    pub devices: Vec<String>,
    /// The receiver.
    pub to: ExportTarget,
    /// Events in a batch at most; 1 to 10,000.
    #[serde(default = "default_batch_events")]
    pub batch_events: usize,
    /// How long an event may wait for others, as a Go duration.
    #[serde(default = "default_batch_period")]
    pub batch_period: String,
}

fn default_batch_events() -> usize {
    500
}

fn default_batch_period() -> String {
    "1s".to_owned()
}

/// Receiver of an export; exactly one field is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExportTarget {
    /// The hub this node has joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub: Option<HubTarget>,
}

/// The hub as a receiver; it has no settings yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct HubTarget {}

/// The status of fleet objects: as a DaemonSet's, with the first failures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct FleetStatus {
    /// Generation of the spec that this speaks of.
    pub observed_generation: i64,
    /// Nodes that should run it.
    pub desired: u32,
    /// Nodes that took the current generation over.
    pub applied: u32,
    /// Nodes on which it does its work.
    pub ready: u32,
    /// The first ten nodes on which it does not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<NodeFailure>,
    /// `Accepted`, `Applied`, `Ready`.
    #[cfg_attr(test, schemars(with = "Vec<crate::tests::schema::ConditionShape>"))]
    pub conditions: Vec<Condition>,
}

/// A node on which an object does not do its work.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct NodeFailure {
    /// The node.
    pub node: String,
    /// One word.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// Most failures that a [`FleetStatus`] lists.
pub const FAILURES_MAX: usize = 10;

/// Largest `NodeAssignment`, as JSON; what does not fit goes into further parts.
pub const ASSIGNMENT_PART_BYTES_MAX: usize = 256 * 1024;

/// Most entries of one part: with as many reports a status stays below [`ASSIGNMENT_STATUS_BYTES_MAX`].
pub const ASSIGNMENT_PART_ENTRIES_MAX: usize = 400;

/// Largest status of a `NodeAssignment`, as JSON: reports of [`ASSIGNMENT_PART_ENTRIES_MAX`] entries with the longest names, and
/// [`REPORT_MESSAGES_BYTES_MAX`].
pub const ASSIGNMENT_STATUS_BYTES_MAX: usize = 512 * 1024;

/// Longest message of a condition that a node reports. It is in the object's status several times, and in its Events.
pub const REPORT_MESSAGE_BYTES_MAX: usize = 1024;

/// Longest reason of a condition that a node reports: one word.
pub const REPORT_REASON_BYTES_MAX: usize = 128;

/// What all messages of one part may have together.
pub const REPORT_MESSAGES_BYTES_MAX: usize = 128 * 1024;

/// What is between a node's name and the number of a further part of its assignment. No node is called so.
pub const ASSIGNMENT_PART_SEPARATOR: &str = ".part-";

/// The name of one part of a node's assignment: the node's own for the first, `<node>.part-<n>` for part `n`. A node follows each
/// by that name, as a role with `resourceNames` allows it.
pub fn assignment_name(node: &str, part: u32) -> String {
    if part == 0 { node.to_owned() } else { format!("{node}{ASSIGNMENT_PART_SEPARATOR}{part}") }
}

/// `spec` of a `NodeAssignment`, whose name is [`assignment_name`]; all parts carry the label [`crate::LABEL_NODE`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct NodeAssignmentSpec {
    /// The node.
    pub node_name: String,
    /// Which part this is, from 0.
    pub part: u32,
    /// How many parts there are.
    pub parts: u32,
    /// What the node should run.
    pub entries: Vec<AssignmentEntry>,
}

/// One object that a node should run, with all it needs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct AssignmentEntry {
    /// `DeviceProfile`, `Device`, `Stream`, `Rule`, `Export`; `Service` for what is not the edge plane's.
    pub kind: String,
    /// Namespace of the object; empty for a `DeviceProfile`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Generation of `spec`.
    pub generation: i64,
    /// The object's spec, unchanged; of a Service, [`ServiceSpec`](crate::services::ServiceSpec).
    pub spec: Value,
}

impl AssignmentEntry {
    /// Whether it is for the edge plane, which reports how it fares. A Service is for the node itself, and nobody reports of it.
    pub fn is_for_edge_plane(&self) -> bool {
        self.kind != crate::services::KIND
    }
}

/// `status` of a `NodeAssignment`, written by the node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct NodeAssignmentStatus {
    /// Generation of the assignment that the node acted on last.
    pub observed_generation: i64,
    /// One per entry of the spec that is for the edge plane.
    pub entries: Vec<EntryStatus>,
}

impl NodeAssignmentStatus {
    /// Truncates messages, so that the hub takes the status: each to its own bound, and when all of them together are too much,
    /// each to the same share.
    pub fn truncate_messages(&mut self) {
        let mut messages: Vec<&mut String> =
            self.entries.iter_mut().flat_map(|entry| &mut entry.conditions).map(|one| &mut one.message).collect();
        let sum: usize = messages.iter().map(|message| message.len().min(REPORT_MESSAGE_BYTES_MAX)).sum();
        let each = match sum > REPORT_MESSAGES_BYTES_MAX {
            true => REPORT_MESSAGES_BYTES_MAX / messages.len(),
            false => REPORT_MESSAGE_BYTES_MAX,
        };
        for message in &mut messages {
            message.truncate(message.floor_char_boundary(each));
        }
    }
}

/// How one entry fares on the node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct EntryStatus {
    /// As in the entry.
    pub kind: String,
    /// As in the entry.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// As in the entry.
    pub name: String,
    /// Generation of the entry that this speaks of.
    pub generation: i64,
    /// `Accepted`, `Applied`, `Ready`.
    #[cfg_attr(test, schemars(with = "Vec<crate::tests::schema::ConditionShape>"))]
    pub conditions: Vec<Condition>,
}
