//! The edge plane's main task: wanted → running → told.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use api_edge::resources::{AssignmentEntry, EntryStatus, NodeAssignmentStatus};
use api_edge::status::EdgeReport;
use api_kube::{Condition, Time, set_condition};
use base_http::BindError;
use base_journal::{Journal, JournalOptions, OpenJournalError, OpenSnapshotError, SnapshotOptions, SnapshotStore};
use edge_device_sdk::{Driver, ManagerOptions};
use edge_export::BatchTransport;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::desired::Key;
use crate::hub::{self, HubTransport, PART_VERSION, Part, Parts, Troubles};
use crate::local::{self, LoadFilesError};
use crate::runtime::Runtime;
use crate::{EdgeConfig, metrics, socket};

/// How often reports and statuses are made anew, at least. A status is only written when it changed.
const REPORT_PERIOD: Duration = Duration::from_secs(1);

/// How long changes are gathered: the hub writes several parts of an assignment, and devices answer, one after the other.
const SETTLE_PERIOD: Duration = Duration::from_millis(100);

/// How often what every export has passed is given back.
const TRIM_PERIOD: Duration = Duration::from_secs(30);

/// Keys of the stored assignment begin with this.
const ASSIGNMENT_PREFIX: &str = "assignment/";

/// Why the edge plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartEdgeError {
    /// A folder cannot be made.
    #[error("failed to make the folder {}", path.display())]
    MakeFolder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The status socket is in use, or cannot be made.
    #[error("failed to open the status socket; does another edge plane use this data folder?")]
    Socket(#[source] BindError),
    /// The journal of events cannot be opened.
    #[error("failed to open the journal of events")]
    Journal(#[source] OpenJournalError),
    /// The stored assignment cannot be opened.
    #[error("failed to open the stored assignment")]
    State(#[source] OpenSnapshotError),
    /// Files are wrong.
    #[error("failed to load the edge plane's files")]
    Files(#[from] LoadFilesError),
}

/// The edge plane.
pub struct Edge;

/// A running edge plane.
pub struct EdgeHandle {
    report: watch::Receiver<EdgeReport>,
    task: JoinHandle<()>,
}

impl EdgeHandle {
    /// The last report, at most a second old.
    pub fn report(&self) -> EdgeReport {
        self.report.borrow().clone()
    }

    /// Reports as they are made.
    pub fn reports(&self) -> watch::Receiver<EdgeReport> {
        self.report.clone()
    }

    /// Waits for the end, after the token given to [`Edge::start`] was cancelled: devices are closed, and events on
    /// their way are written.
    pub async fn stopped(self) {
        if let Err(error) = self.task.await {
            error!(%error, "The edge plane ended with a panic.");
        }
    }
}

impl Edge {
    /// Reads the files of a configuration as [`Edge::start`] does, and starts nothing.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn check_files(config: &EdgeConfig) -> Result<(), LoadFilesError> {
        local_entries(config).map(drop)
    }

    /// Starts the edge plane: what the files or the stored assignment say runs when this returns, hub or no hub.
    /// It stops when `shutdown` is cancelled. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`StartEdgeError`]; nothing has been started then.
    pub async fn start(config: EdgeConfig, shutdown: CancellationToken) -> Result<EdgeHandle, StartEdgeError> {
        let transport: Option<Arc<dyn BatchTransport>> = match &config.hub {
            Some(access) => Some(Arc::new(HubTransport::new(access.clone(), config.restored.clone()))),
            None => None,
        };
        start_with(config, shutdown, edge_devices::all(), ManagerOptions::default(), transport).await
    }
}

/// As [`Edge::start`], with drivers, clock and receiver of the caller's choice.
pub(crate) async fn start_with(
    config: EdgeConfig,
    shutdown: CancellationToken,
    drivers: Vec<Arc<dyn Driver>>,
    options: ManagerOptions,
    transport: Option<Arc<dyn BatchTransport>>,
) -> Result<EdgeHandle, StartEdgeError> {
    let opening = config.clone();
    let opened = tokio::task::spawn_blocking(move || open(&opening)).await;
    let opened = match opened {
        Ok(opened) => opened?,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    };
    let Opened { listener, journal, state, local } = opened;
    let mut runtime = Runtime::start(journal.clone(), drivers, options, transport, config.restored.clone());
    let parts = stored_parts(&state);
    runtime.apply(&wanted(&local, &parts)).await;
    if config.hub.is_none() {
        runtime.forget_exports().await;
    }
    info!(entries = wanted(&local, &parts).len(), "The edge plane runs.");
    let (report_tx, report) = watch::channel(runtime.report(&config.node_name, &[]));
    metrics::register(&config.metrics, &report);
    let socket = socket::serve(listener, journal, report.clone(), config.metrics.clone(), shutdown.clone());
    let main = Main {
        node: config.node_name.clone(),
        runtime,
        state: Arc::new(state),
        local,
        parts,
        told: BTreeMap::new(),
        troubles: Troubles::default(),
        storing: None,
        report: report_tx,
    };
    let task = tokio::spawn(async move {
        main.run(config, shutdown).await;
        if let Err(error) = socket.await {
            warn!(%error, "The status socket ended with a panic.");
        }
    });
    Ok(EdgeHandle { report, task })
}

/// What is opened before anything is started.
struct Opened {
    listener: base_http::Listener,
    journal: Journal,
    state: SnapshotStore,
    local: Vec<AssignmentEntry>,
}

fn open(config: &EdgeConfig) -> Result<Opened, StartEdgeError> {
    let edge = config.data_dir.join("edge");
    let run = config.data_dir.join("run");
    for path in [&edge, &run] {
        std::fs::create_dir_all(path).map_err(|source| StartEdgeError::MakeFolder { path: path.clone(), source })?;
    }
    let local = local_entries(config)?;
    let listener = socket::bind(&run.join("edge.sock")).map_err(StartEdgeError::Socket)?;
    let journal = open_journal(&edge.join("journal"), config.journal_bytes_max)?;
    let state = SnapshotStore::open(&edge.join("state"), SnapshotOptions::default()).map_err(StartEdgeError::State)?;
    Ok(Opened { listener, journal, state, local })
}

fn open_journal(dir: &Path, bytes_max: u64) -> Result<Journal, StartEdgeError> {
    // A small journal needs several segments too, as space is given back by whole segments.
    let segment_bytes = JournalOptions::default().segment_bytes.min(bytes_max / 8).max(64 * 1024);
    let journal = Journal::open(dir, JournalOptions { segment_bytes, bytes_max }).map_err(StartEdgeError::Journal)?;
    let recovery = journal.recovery();
    if recovery.torn_bytes > 0 {
        info!(bytes = recovery.torn_bytes, "Cut the torn end of the journal off; the power went while it was written.");
    }
    for damage in &recovery.damaged {
        warn!(path = %damage.path.display(), offsets = ?damage.offsets, "Records of the journal are damaged.");
    }
    Ok(journal)
}

/// What the files say; none when there is no directory of them and none is configured.
pub(crate) fn local_entries(config: &EdgeConfig) -> Result<Vec<AssignmentEntry>, LoadFilesError> {
    match &config.config_dir {
        Some(folder) => local::load(folder),
        None => {
            let folder = config.data_dir.join("edge/config");
            if folder.is_dir() { local::load(&folder) } else { Ok(Vec::new()) }
        }
    }
}

pub(crate) fn stored_parts(state: &SnapshotStore) -> Parts {
    let mut parts = Parts::new();
    for (key, value) in state.iter_prefix(ASSIGNMENT_PREFIX) {
        let name = key[ASSIGNMENT_PREFIX.len()..].to_owned();
        match serde_json::from_slice::<Part>(&value) {
            Ok(mut part) if part.version == PART_VERSION => {
                // An earlier version kept what is not the edge plane's as well.
                part.spec.entries.retain(AssignmentEntry::is_for_edge_plane);
                parts.insert(name, part);
            }
            Ok(part) => {
                warn!(version = part.version, "The stored assignment is of another version; waiting for the hub.")
            }
            Err(error) => warn!(%error, "A stored part of the assignment cannot be read; waiting for the hub."),
        }
    }
    parts
}

/// Files and assignment together. An object of the hub's stands in for a file of the same name.
fn wanted(local: &[AssignmentEntry], parts: &Parts) -> Vec<AssignmentEntry> {
    let key = |entry: &AssignmentEntry| (entry.kind.clone(), entry.namespace.clone(), entry.name.clone());
    let mut entries = BTreeMap::new();
    for entry in local.iter().chain(parts.values().flat_map(|part| &part.spec.entries)) {
        entries.insert(key(entry), entry.clone());
    }
    entries.into_values().collect()
}

struct Main {
    node: String,
    runtime: Runtime,
    state: Arc<SnapshotStore>,
    local: Vec<AssignmentEntry>,
    parts: Parts,
    /// Conditions as they were told last, with their times.
    told: BTreeMap<Key, Vec<Condition>>,
    troubles: Troubles,
    /// Why the assignment could not be stored.
    storing: Option<String>,
    report: watch::Sender<EdgeReport>,
}

impl Main {
    async fn run(mut self, config: EdgeConfig, shutdown: CancellationToken) {
        let (assignment_tx, mut assignment) = watch::channel(None);
        let (statuses_tx, statuses) = watch::channel(BTreeMap::new());
        let mut tasks = Vec::new();
        if let Some(access) = config.hub.filter(|_| !self.node.is_empty()) {
            let (node, troubles, restored) = (self.node.clone(), self.troubles.clone(), config.restored);
            let watching = hub::run_watch(access.clone(), node, assignment_tx, troubles.clone(), restored.clone());
            tasks.push(tokio::spawn(watching));
            tasks.push(tokio::spawn(hub::run_status(access, statuses, troubles, restored)));
        } else {
            // Kept open, so that waiting for a change below waits for ever.
            tasks.push(tokio::spawn(async move {
                let _assignment = assignment_tx;
                std::future::pending::<()>().await;
            }));
        }
        let mut devices = self.runtime.device_changes();
        let mut next_early = Instant::now();
        let mut report_tick = tokio::time::interval(REPORT_PERIOD);
        report_tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut trim_tick = tokio::time::interval(TRIM_PERIOD);
        trim_tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                changed = assignment.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    tokio::time::sleep(SETTLE_PERIOD).await;
                    let parts = assignment.borrow_and_update().clone();
                    if let Some(parts) = parts.filter(hub::is_complete) {
                        self.take(parts).await;
                    }
                }
                // A device that comes or goes is told at once; one that does so all the time, once a period.
                Ok(()) = devices.changed(), if Instant::now() >= next_early => {
                    tokio::time::sleep(SETTLE_PERIOD).await;
                    devices.mark_unchanged();
                    next_early = Instant::now() + REPORT_PERIOD;
                }
                _ = report_tick.tick() => {}
                _ = trim_tick.tick() => self.runtime.trim().await,
            }
            self.tell(&statuses_tx);
        }
        for task in &tasks {
            task.abort();
        }
        self.runtime.stop_all().await;
    }

    /// Stores the assignment, then acts on it: after a power cut the node runs what it ran before.
    async fn take(&mut self, parts: Parts) {
        if parts != self.parts {
            self.store(&parts).await;
            self.parts = parts;
            self.runtime.apply(&wanted(&self.local, &self.parts)).await;
        }
        self.runtime.forget_exports().await;
    }

    async fn store(&mut self, parts: &Parts) {
        let (state, old, new) = (self.state.clone(), self.parts.clone(), parts.clone());
        let stored = tokio::task::spawn_blocking(move || store(&state, &old, &new)).await;
        self.storing = match stored {
            Ok(Ok(())) => None,
            Ok(Err(problem)) => {
                // Acting on it without the store is better than not acting; the next change stores it again.
                error!(error = %problem, "The assignment cannot be stored; after a restart without hub the last stored one runs.");
                Some(format!("the assignment cannot be stored: {problem}"))
            }
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        };
    }

    /// Publishes the report, and the status of each part.
    fn tell(&mut self, statuses: &watch::Sender<BTreeMap<String, NodeAssignmentStatus>>) {
        let trouble = self.troubles.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let others: Vec<String> = [self.storing.clone(), trouble.watch, trouble.status].into_iter().flatten().collect();
        self.report.send_replace(self.runtime.report(&self.node, &others));
        let now = Time::from(jiff::Timestamp::now());
        let current = self.runtime.conditions();
        self.told.retain(|key, _| current.contains_key(key));
        for (key, (generation, conditions)) in current {
            let told = self.told.entry(key).or_default();
            for mut condition in conditions {
                condition.observed_generation = Some(generation);
                set_condition(told, condition, now);
            }
        }
        let of_part = |(name, part): (&String, &Part)| {
            let entry = |entry: &AssignmentEntry| {
                let key =
                    Key { kind: entry.kind.clone(), namespace: entry.namespace.clone(), name: entry.name.clone() };
                EntryStatus {
                    conditions: self.told.get(&key).cloned().unwrap_or_default(),
                    kind: key.kind,
                    namespace: key.namespace,
                    name: key.name,
                    generation: entry.generation,
                }
            };
            let entries = part.spec.entries.iter().map(entry).collect();
            let mut status = NodeAssignmentStatus { observed_generation: part.generation, entries };
            status.truncate_messages();
            (name.clone(), status)
        };
        let wanted: BTreeMap<String, NodeAssignmentStatus> = self.parts.iter().map(of_part).collect();
        statuses.send_if_modified(|old| {
            let is_new = *old != wanted;
            if is_new {
                *old = wanted;
            }
            is_new
        });
    }
}

pub(crate) fn store(state: &SnapshotStore, old: &Parts, new: &Parts) -> Result<(), String> {
    let key = |name: &str| format!("{ASSIGNMENT_PREFIX}{name}");
    for (name, part) in new {
        if old.get(name) != Some(part) {
            let bytes = serde_json::to_vec(part).map_err(|error| error.to_string())?;
            state.put(&key(name), bytes).map_err(|error| error.to_string())?;
        }
    }
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        state.remove(&key(name)).map_err(|error| error.to_string())?;
    }
    state.sync().map_err(|error| error.to_string())
}
