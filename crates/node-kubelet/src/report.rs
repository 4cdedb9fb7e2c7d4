//! What the kubelet reports about itself: its pods, its connection, its last errors.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api_edge::status::{NodeReport, PodReport};
use base_observe::{Chain, RecentErrors};

/// A shared notice board: every part pins its own note, the status socket reads all of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Board {
    notes: Arc<Mutex<Notes>>,
    errors: RecentErrors,
}

#[derive(Debug, Default)]
struct Notes {
    node: String,
    connected: bool,
    /// Connections made since the start.
    connections: u64,
    pods: BTreeMap<String, PodReport>,
}

impl Board {
    pub(crate) fn new(node: &str) -> Self {
        let notes = Notes { node: node.to_owned(), ..Notes::default() };
        Self { notes: Arc::new(Mutex::new(notes)), errors: RecentErrors::new() }
    }

    pub(crate) fn set_connected(&self, connected: bool) {
        let mut notes = self.notes();
        notes.connected = connected;
        notes.connections += u64::from(connected);
    }

    /// Connections made to the hub since the start.
    pub(crate) fn connections(&self) -> u64 {
        self.notes().connections
    }

    pub(crate) fn set_pod(&self, uid: &str, report: PodReport) {
        self.notes().pods.insert(uid.to_owned(), report);
    }

    pub(crate) fn remove_pod(&self, uid: &str) {
        self.notes().pods.remove(uid);
    }

    /// Keeps `error` among the last ten.
    pub(crate) fn error(&self, error: impl Into<String>) {
        self.errors.push(error);
    }

    pub(crate) fn report(&self) -> NodeReport {
        let notes = self.notes();
        NodeReport {
            node: notes.node.clone(),
            connected: notes.connected,
            pods: notes.pods.values().cloned().collect(),
            last_errors: self.errors.messages(),
        }
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        // Every change above is complete in itself, so a note left by a panicking holder is as good as any.
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An error with its causes on one line, for logs and the report.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    Chain(error).to_string()
}
