//! What a node sends to `POST /telemetry/v1/usage`: what it and its pods use, for `metrics.k8s.io` of the hub.
//!
//! The hub keeps the last report of each node in memory. A node sends one when something has changed, at most every 15 seconds, and now
//! and then although nothing has.

use serde::{Deserialize, Serialize};

/// Path on the hub's API port.
pub const USAGE_PATH: &str = "/telemetry/v1/usage";

/// Largest report: a node of some hundred pods sends a tenth of it.
pub const USAGE_BYTES_MAX: usize = 256 * 1024;

/// Pods in a report.
pub const USAGE_PODS_MAX: usize = 1024;

/// Containers of a pod in it.
pub const USAGE_CONTAINERS_MAX: usize = 128;

/// A node sends one this often at least; an older one is no longer shown some time after.
pub const USAGE_PERIOD_S_MAX: u64 = 300;

/// Version of [`UsageReport`].
pub const USAGE_VERSION: u32 = 1;

/// What a node and its pods use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct UsageReport {
    /// [`USAGE_VERSION`].
    pub version: u32,
    /// When it was measured, in RFC 3339.
    pub time: String,
    /// Over how many seconds the use of CPU is the mean.
    pub window_seconds: u32,
    /// Of the node.
    pub node: Usage,
    /// Of its pods.
    pub pods: Vec<PodUsage>,
}

/// Use of CPU and memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Usage {
    /// Billionths of a core.
    pub cpu_nano_cores: u64,
    /// Working set.
    pub memory_bytes: u64,
}

/// Of one pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PodUsage {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Of its containers that run.
    pub containers: Vec<ContainerUsage>,
}

/// Of one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ContainerUsage {
    /// Its name.
    pub name: String,
    /// What it uses.
    pub usage: Usage,
}
