//! The pods of a node: what the hub's desired state says of them, what is done about it, what is reported.
//!
//! ```text
//! hub ──list-watch──▶ sources ──▶ Store (disk) ──▶ Manager ──inbox──▶ one worker per pod ──▶ PodRuntime
//!  ▲                                                                       │
//!  └────────── Publisher: the newest status of each pod ◀──────────────────┘
//! ```
//!
//! - **Where is it?** What the hub says: `sources`; on disk: [`Store`]. Which pods there are and who looks after each:
//!   `manager`. Volumes that are directories of the node: `directories`. What a pod needs next, as a plain function: `reconcile`; doing it: `worker`. What the hub learns: `publisher`. Volumes,
//!   variables, probes, tokens, logs: the modules of these names.
//! - **May I touch it?** Three things must hold. Nobody here waits for the hub, a disk, a share or a probe but the one task that
//!   asked: the manager and the workers are only ever woken. A container is stopped because an object was deleted on the hub
//!   that started it, because it ended, because the node runs short, or because a person here said so; never because something could not be read. What is
//!   reported of a pod is never better than what is known.
//! - **How do I try it?** `cargo test -p node-pods -p node-kubelet`; against the program: `cargo xtask test --black-box pods`.

#![warn(missing_docs)]

mod admission;
mod backoff;
mod ballast;
mod claims;
mod directories;
mod env;
mod events;
mod inbox;
mod log_links;
mod logs;
mod manager;
mod model;
mod net_files;
mod outline;
mod packed;
mod probes;
mod publisher;
mod reconcile;
mod resize;
mod sources;
mod start;
mod status;
mod store;
mod table;
mod tokens;
mod volumes;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;

use node_runtime::PodRuntime;

pub use api_edge::services::Protocol;
pub use directories::volumes_dir;
pub use log_links::LogLinks;
pub use logs::{LogQuery, LogReader};
pub use manager::{Context, LogPlace};
pub use net_files::NodeDns;
pub use outline::{ContainerOutline, PodOutline};
pub use start::{Pods, PodsParts, Stopping, start};
pub use store::{KeptPod, Store, StoreError};
pub use table::{PodPort, PodRecord, PodTable};
pub use volumes::{DirUsage, dir_usage, pod_uids, remove_pods};

/// The runtimes of a node; each answers to the `runtimeClassName` that its `handler()` names.
pub type Runtimes = Vec<Arc<dyn PodRuntime>>;

/// Names of runtimes as a Node has them in `status.runtimeHandlers`: that of pods which name none is `""`.
pub fn runtime_handlers(runtimes: &Runtimes) -> Vec<String> {
    let name = |handler: &str| if handler == api_edge::RUNTIME_CONTAINER { String::new() } else { handler.to_owned() };
    let mut names: Vec<String> = runtimes.iter().map(|runtime| name(runtime.handler())).collect();
    names.sort_unstable();
    names
}

/// What the pods of a node need to know.
#[derive(Clone, Debug)]
pub struct PodsConfig {
    /// Root of the program's state; pods are kept in `node/pods` and `node/store` of it, their volumes in `node/volumes`.
    pub data_dir: PathBuf,
    /// Name of the Node object.
    pub node_name: String,
    /// Pods the node takes at most.
    pub max_pods: u32,
}
