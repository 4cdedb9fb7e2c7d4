//! Default ports and the names that `DATA_DIR/ports.json` gives every listener.
//!
//! `ports.json` is one JSON object: `{"version": 1, "listeners": {"<name>": "<ip:port or unix:/path>"}}`.

/// Format version of `ports.json`.
pub const PORTS_FILE_VERSION: u32 = 1;

/// Kubernetes API, tunnel and telemetry of the hub. In `ports.json` as `hub-api`.
pub const HUB_API: u16 = 6443;

/// The kubelet's own API. In `ports.json` as `node-kubelet`.
pub const KUBELET: u16 = 10250;

/// EdgeX core-data. In `ports.json` as `edge-core-data`.
pub const CORE_DATA: u16 = 59880;

/// EdgeX core-metadata. In `ports.json` as `edge-core-metadata`.
pub const CORE_METADATA: u16 = 59881;
