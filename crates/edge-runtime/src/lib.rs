//! The edge plane as a whole: takes what the node should run, runs it, and tells how it fares.
//!
//! What should run comes from the node's `NodeAssignment` objects ([`HubAccess`]), or from files when the edge plane
//! works alone. Either way it becomes one list of entries, of which only the differences are applied: an entry that
//! did not change is never restarted. The last assignment is kept on disk, so after a power cut devices, rules and
//! exports run at once, with no hub in sight.
//!
//! ```text
//! NodeAssignment ─watch─▶ desired ─diff─▶ devices · streams · rules · exports ─reports─▶ status (when it changed)
//!        files ──────────▶    │
//!                             └─▶ DATA_DIR/edge/state
//! ```

mod desired;
mod edge;
mod hub;
mod local;
mod metrics;
mod rules;
mod runtime;
mod socket;

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use base_observe::Metrics;
use base_retry::Wake;

pub use edge::{Edge, EdgeHandle, StartEdgeError};
pub use local::LoadFilesError;

/// A future in a box, so that the traits of this crate can be used as objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Where a client for the hub comes from.
///
/// It is asked again before every new connection, so that certificates may be renewed and the hub's address may
/// change while the edge plane runs.
pub trait HubAccess: Send + Sync + 'static {
    /// A client with the node's identity.
    ///
    /// # Errors
    /// When there is none yet (the node has not joined) or its files cannot be read; it is then asked again later.
    fn client(&self) -> BoxFuture<'_, Result<kube::Client, HubAccessError>>;
}

/// Why there is no client for the hub.
#[derive(Debug, thiserror::Error)]
#[error("failed to prepare a connection to the hub: {reason}")]
pub struct HubAccessError {
    /// What is missing, and the next step.
    pub reason: String,
    /// The cause, where there is one.
    #[source]
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

/// Builds a [`HubAccess`] out of a function.
pub struct HubAccessFn<F>(pub F);

impl<F> HubAccess for HubAccessFn<F>
where
    F: Fn() -> BoxFuture<'static, Result<kube::Client, HubAccessError>> + Send + Sync + 'static,
{
    fn client(&self) -> BoxFuture<'_, Result<kube::Client, HubAccessError>> {
        (self.0)()
    }
}

/// Disk that the journal of events may use when nothing else is said: some million events.
pub const JOURNAL_BYTES_MAX_DEFAULT: u64 = 256 * 1024 * 1024;

/// How the edge plane is started.
#[derive(Clone)]
pub struct EdgeConfig {
    /// The data folder; the edge plane uses `edge/` and `run/edge.sock` in it.
    pub data_dir: PathBuf,
    /// The node's name; the edge plane runs what is assigned to it. Empty when it works alone.
    pub node_name: String,
    /// The hub, when there is one.
    pub hub: Option<Arc<dyn HubAccess>>,
    /// Folder with `*.yaml` files of our kinds, for work without a hub. `None`: `data_dir/edge/config`, if it exists.
    pub config_dir: Option<PathBuf>,
    /// Disk that the journal of events may use; the oldest events go first when it is full.
    pub journal_bytes_max: u64,
    /// Called when the link to the hub is there again, by whoever notices it first; ends all pauses of the edge plane.
    pub restored: Wake,
    /// What the edge plane's figures are added to, and what `/metrics` on its socket shows.
    pub metrics: Metrics,
}

impl EdgeConfig {
    /// The defaults: no hub, no files but those in the data folder.
    pub fn new(data_dir: impl Into<PathBuf>, node_name: impl Into<String>) -> Self {
        Self {
            data_dir: data_dir.into(),
            node_name: node_name.into(),
            hub: None,
            config_dir: None,
            journal_bytes_max: JOURNAL_BYTES_MAX_DEFAULT,
            restored: Wake::new(),
            metrics: Metrics::new(),
        }
    }
}

impl fmt::Debug for EdgeConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EdgeConfig")
            .field("data_dir", &self.data_dir)
            .field("node_name", &self.node_name)
            .field("hub", &self.hub.is_some())
            .field("config_dir", &self.config_dir)
            .field("journal_bytes_max", &self.journal_bytes_max)
            .finish()
    }
}

#[cfg(test)]
mod tests;
