//! What a node reports about itself: its pods, its connection, its last errors, what is wrong with it at this moment.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api_edge::status::{NodeReport, PodReport};
use base_observe::{Chain, RecentErrors};
use tokio::sync::watch;

/// Shared by all parts of a node: each enters its own state, the status socket and the Node's conditions read all of it.
#[derive(Clone, Debug)]
pub struct StatusRegistry {
    snapshot: Arc<Mutex<StatusSnapshot>>,
    errors: RecentErrors,
    faults: Arc<watch::Sender<BTreeMap<String, String>>>,
    conditions: Arc<watch::Sender<BTreeMap<&'static str, Notice>>>,
    pressure: Arc<watch::Sender<NodePressure>>,
}

/// Why a node takes no more pods for now, or fewer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodePressure {
    /// Short of memory.
    pub memory: bool,
    /// Short of disk space or inodes.
    pub disk: bool,
    /// Short of process ids.
    pub pids: bool,
    /// The machine is about to be switched off.
    pub is_shutting_down: bool,
}

/// Why a condition of the Node holds that no stock node has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// One word in CamelCase.
    pub reason: &'static str,
    /// A sentence, with what to do.
    pub message: String,
}

#[derive(Debug, Default)]
struct StatusSnapshot {
    node: String,
    connected: bool,
    /// Connections made since the start.
    connections: u64,
    pods: BTreeMap<String, PodReport>,
}

impl StatusRegistry {
    /// Nothing is known yet of this node.
    pub fn new(node: &str) -> Self {
        let snapshot = StatusSnapshot { node: node.to_owned(), ..StatusSnapshot::default() };
        let faults = Arc::new(watch::channel(BTreeMap::new()).0);
        let conditions = Arc::new(watch::channel(BTreeMap::new()).0);
        let pressure = Arc::default();
        Self { snapshot: Arc::new(Mutex::new(snapshot)), errors: RecentErrors::new(), faults, conditions, pressure }
    }

    /// Whether there is a connection to the hub; one that is made is counted.
    pub fn set_connected(&self, connected: bool) {
        let mut snapshot = self.snapshot();
        snapshot.connected = connected;
        snapshot.connections += u64::from(connected);
    }

    /// Connections made to the hub since the start.
    pub fn connections(&self) -> u64 {
        self.snapshot().connections
    }

    /// How a pod fares.
    pub fn set_pod(&self, uid: &str, report: PodReport) {
        self.snapshot().pods.insert(uid.to_owned(), report);
    }

    /// A pod has ended.
    pub fn remove_pod(&self, uid: &str) {
        self.snapshot().pods.remove(uid);
    }

    /// Keeps `error` among the last ten.
    pub fn error(&self, error: impl Into<String>) {
        self.errors.push(error);
    }

    /// Something that keeps the node from doing its work until [`StatusRegistry::clear_fault`]: the Node is not Ready meanwhile.
    pub fn set_fault(&self, part: &str, message: impl Into<String>) {
        let message = message.into();
        self.faults.send_if_modified(|faults| match faults.insert(part.to_owned(), message.clone()) {
            Some(before) => before != message,
            None => true,
        });
    }

    /// The part works again.
    pub fn clear_fault(&self, part: &str) {
        self.faults.send_if_modified(|faults| faults.remove(part).is_some());
    }

    /// What keeps the node from doing its work at this moment, by part; changes are noticed.
    pub fn faults(&self) -> watch::Receiver<BTreeMap<String, String>> {
        self.faults.subscribe()
    }

    /// Makes a condition of the Node hold, or not.
    pub fn set_condition(&self, name: &'static str, notice: Option<Notice>) {
        self.conditions.send_if_modified(|conditions| match notice {
            Some(notice) => conditions.insert(name, notice.clone()) != Some(notice),
            None => conditions.remove(name).is_some(),
        });
    }

    /// Conditions of the Node that hold beside the usual ones; changes are noticed.
    pub fn conditions(&self) -> watch::Receiver<BTreeMap<&'static str, Notice>> {
        self.conditions.subscribe()
    }

    /// Notes what the node is short of; answers whether that is news.
    pub fn set_pressure(&self, change: impl FnOnce(&mut NodePressure)) -> bool {
        self.pressure.send_if_modified(|pressure| {
            let before = *pressure;
            change(pressure);
            *pressure != before
        })
    }

    /// What the node is short of; changes are noticed.
    pub fn pressure(&self) -> watch::Receiver<NodePressure> {
        self.pressure.subscribe()
    }

    /// All that is known, for `selvedge status`.
    pub fn report(&self) -> NodeReport {
        let snapshot = self.snapshot();
        NodeReport {
            node: snapshot.node.clone(),
            connected: snapshot.connected,
            pods: snapshot.pods.values().cloned().collect(),
            last_errors: self.errors.messages(),
        }
    }

    fn snapshot(&self) -> MutexGuard<'_, StatusSnapshot> {
        // Every change above is complete in itself, so what a panicking holder left is as good as any.
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An error with its causes on one line, for logs and the report.
pub fn chain(error: &dyn std::error::Error) -> String {
    Chain(error).to_string()
}
