//! What the kubelet tells about itself: the last errors, and the report on the status socket.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api_edge::status::{NodeReport, PodReport};

/// As the contract of the status socket says.
const ERRORS_MAX: usize = 10;

/// A shared notice board: every part pins its own note, the status socket reads all of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Board(Arc<Mutex<Notes>>);

#[derive(Debug, Default)]
struct Notes {
    node: String,
    connected: bool,
    pods: BTreeMap<String, PodReport>,
    errors: VecDeque<String>,
}

impl Board {
    pub(crate) fn new(node: &str) -> Self {
        Self(Arc::new(Mutex::new(Notes { node: node.to_owned(), ..Notes::default() })))
    }

    pub(crate) fn set_connected(&self, connected: bool) {
        self.notes().connected = connected;
    }

    pub(crate) fn set_pod(&self, uid: &str, report: PodReport) {
        self.notes().pods.insert(uid.to_owned(), report);
    }

    pub(crate) fn remove_pod(&self, uid: &str) {
        self.notes().pods.remove(uid);
    }

    /// Keeps `error` among the last ten; the same sentence twice in a row is kept once.
    pub(crate) fn error(&self, error: impl Into<String>) {
        let error = error.into();
        let mut notes = self.notes();
        if notes.errors.front() != Some(&error) {
            notes.errors.push_front(error);
            notes.errors.truncate(ERRORS_MAX);
        }
    }

    pub(crate) fn report(&self) -> NodeReport {
        let notes = self.notes();
        NodeReport {
            node: notes.node.clone(),
            connected: notes.connected,
            pods: notes.pods.values().cloned().collect(),
            last_errors: notes.errors.iter().cloned().collect(),
        }
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        // Every change above is complete in itself, so a note left by a panicking holder is as good as any.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An error with its causes on one line, for logs and the report.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.ends_with(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}
