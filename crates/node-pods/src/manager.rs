//! The pods of a node: which there are, and which worker looks after each.
//!
//! The [`Manager`] is the one owner of that table. It begins with what the offline store and the runtimes know, before any word from
//! the hub, and leaves every change in the inbox of the worker that it concerns. It waits for nobody: what touches a disk or a runtime
//! runs beside it.
//!
//! # When a pod ends
//!
//! | what the hub says | what happens |
//! | --- | --- |
//! | the object is deleted, or has a deletion timestamp | the pod is stopped |
//! | a complete list of the hub that it was listed from before lacks it | the same: its deletion was missed while the link was away |
//! | a list of a hub with another state lacks it | it runs on, *on hold*, until that hub names it or a person decides; its successor waits |
//! | anything that is no list | nothing |

mod holds;
mod orphans;
mod resizes;
mod static_pods;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;

use node_client::{ApiClient, Endpoint, EventRecorder, StatusRegistry, chain};
use node_runtime::{ContainerEvent, ContainerState, ContainerStatus, PodRuntime};
use serde_json::Value;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::admission::{self, AdmissionError, Resources};
use crate::claims;
use crate::directories::Directories;
use crate::env::NodeFacts;
use crate::events::PodEvents;
use crate::inbox::{Inbox, Termination};
use crate::log_links::LogLinks;
use crate::model::{ANNOTATION_CONFIG_MIRROR, Pod};
use crate::net_files::NodeDns;
use crate::outline::PodOutline;
use crate::publisher::{PodName, Publisher};
use crate::status::{self, Waiting};
use crate::store::{ObjectKey, ObjectKind, Store};
use crate::table::PodTable;
use crate::tokens::TokenRef;
use crate::worker::{Worker, WorkerInit};
use crate::{PodsConfig, Runtimes};

/// uids of static pods begin so; the hub's never do.
pub(crate) const STATIC_UID_PREFIX: &str = "static-";
/// Events of the runtimes that wait for the manager.
const RUNTIME_EVENTS_MAX: usize = 64;
/// What a pod may take to stop beyond the grace of its containers: a start that is under way ends first.
const HALT_OVERHEAD_MAX: Duration = Duration::from_secs(2);
/// Before the worker of a pod that died is started again.
const WORKER_RESTART: Duration = Duration::from_secs(1);
/// Names of pods that a condition or a message lists.
const NAMES_SHOWN_MAX: usize = 10;

/// What the manager is asked for.
pub(crate) enum Command {
    /// All pods of the hub for this node, after a complete list: uid and JSON. On disk already.
    HubPods {
        pods: Vec<(String, Bytes)>,
        /// uids of all that the hub has; some may not be among `pods` because they could not be kept.
        listed: BTreeSet<String>,
        /// Whether the hub is the one that the pods here were listed from before.
        is_same_hub: bool,
    },
    /// One pod as the hub has it now. On disk already.
    HubPod(String, Bytes),
    /// The hub no longer has this pod.
    HubPodDeleted(String),
    /// An object that pods refer to has changed.
    ObjectChanged(ObjectKey),
    /// A pod has another token.
    TokenChanged { uid: String },
    /// The hub issues no token for a pod, for now.
    TokenRejected { uid: String, message: String },
    /// Images have come to the node.
    ImagesAdded,
    /// These are the static pods.
    StaticPods(Vec<Value>),
    /// Stop every pod's containers within the grace; answer when none runs.
    StopAll { grace: Duration, done: oneshot::Sender<()> },
    /// The node cannot keep a pod.
    Terminate { uid: String, termination: Termination },
    /// A person decided: pods on hold are not desired any more. Answers which were.
    AcceptHub(oneshot::Sender<Vec<String>>),
    /// A worker has ended.
    Finished { uid: String },
    /// A worker has died; these are the pod's containers.
    WorkerDied { uid: String, containers: Vec<ContainerStatus> },
    /// What runs, for `/pods`.
    List(oneshot::Sender<Vec<Bytes>>),
    /// The same, as others on the node need it.
    Outlines(oneshot::Sender<Vec<PodOutline>>),
    /// Where the logs of a container are, by namespace, pod and container; newest attempt.
    Logs { namespace: String, pod: String, container: String, answer: oneshot::Sender<Result<LogPlace, String>> },
}

/// Where a container's logs are.
pub struct LogPlace {
    /// Who knows whether the container still runs.
    pub runtime: Option<Arc<dyn PodRuntime>>,
    /// uid of the pod.
    pub uid: String,
    /// `<attempt>.log` files.
    pub dir: PathBuf,
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// Name of the container.
    pub container: String,
    /// Why it has none for now, where that is known here.
    pub waiting: Option<&'static str>,
    /// Whether it starts again after an end without success, and after one with it.
    pub restarts: [bool; 2],
}

impl LogPlace {
    /// Whether a container that ended so waits to start again: its end is then its last state, as `-p` has it, not the present one.
    pub fn is_between_starts(&self, state: &ContainerState) -> bool {
        matches!(state, ContainerState::Exited(exit) if self.restarts[usize::from(exit.exit_code == 0)])
    }
}

/// What all workers share.
#[derive(Clone, Debug)]
pub struct Context {
    /// Names and limits.
    pub config: PodsConfig,
    /// What is on disk.
    pub store: Arc<Store>,
    /// Where collectors of logs look for them.
    pub log_links: Option<LogLinks>,
    /// The way to the hub. Workers only look whether there is one, and where.
    pub client: ApiClient,
    /// The address that pods report.
    pub node_ip: watch::Receiver<Option<IpAddr>>,
    /// Where names are answered.
    pub dns: NodeDns,
    /// Where pods with addresses of their own find the API: the address of its Service, which the node leads there.
    pub service_api: Option<Endpoint>,
    /// Thousandths of a core that pods may have.
    pub cpu_millis: u64,
    /// Memory that pods may have.
    pub memory_bytes: u64,
    /// Disk that pods may have.
    pub storage_bytes: u64,
    /// What is reported of the node.
    pub registry: StatusRegistry,
    /// How long the steps of pods take.
    pub sync_seconds: base_observe::Histogram,
    /// Events.
    pub recorder: EventRecorder,
    /// What others on the node look up of its pods.
    pub table: PodTable,
}

/// What workers share beside that.
#[derive(Debug)]
pub(crate) struct Shared {
    pub context: Context,
    pub events: PodEvents,
    pub publisher: Publisher,
    /// The desired static pods, as they were given last: a manager that is started again begins with them.
    pub static_manifests: std::sync::Mutex<Option<Vec<Value>>>,
    /// The node's directories for volumes.
    pub directories: Arc<Directories>,
}

/// Longest name of a file on all file systems.
const FILE_NAME_BYTES_MAX: usize = 255;

/// The name of a pod's directory. The longest names of pods are cut; the uid says whose it is.
fn dir_name(namespace: &str, name: &str, uid: &str) -> String {
    let left = FILE_NAME_BYTES_MAX.saturating_sub(namespace.len() + uid.len() + 2);
    let name = name.get(..left).unwrap_or(name);
    format!("{namespace}_{name}_{uid}")
}

impl Shared {
    pub(crate) fn pod_dir(&self, pod: &Pod) -> PathBuf {
        let metadata = &pod.metadata;
        let name = dir_name(&metadata.namespace, &metadata.name, &metadata.uid);
        self.context.config.data_dir.join("node/pods").join(name)
    }

    pub(crate) fn node_ip(&self) -> Option<IpAddr> {
        *self.context.node_ip.borrow()
    }

    pub(crate) fn facts(&self) -> NodeFacts {
        NodeFacts {
            node_name: self.context.config.node_name.clone(),
            node_ip: self.node_ip().map(|ip| ip.to_string()).unwrap_or_default(),
            pod_ips: Vec::new(),
            cpu_millis: self.context.cpu_millis,
            memory_bytes: self.context.memory_bytes,
            storage_bytes: self.context.storage_bytes,
            hub: self.context.client.endpoint(),
            has_services: false,
            directories: self.directories.clone(),
        }
    }
}

/// One pod in the table.
struct PodEntry {
    pod: Pod,
    json: Bytes,
    runtime: Option<Arc<dyn PodRuntime>>,
    inbox: Inbox,
    /// What it takes of the node; nothing when it was rejected.
    requests: Resources,
    /// Set by its worker once nothing of it will run again.
    is_over: Arc<AtomicBool>,
    is_static: bool,
    on_hold: bool,
    /// It was on hold until a person decided, and is being stopped.
    is_ending: bool,
    /// The hub has deleted its object.
    is_deleted: bool,
}

/// What pods need beside themselves.
pub(crate) struct Desired {
    /// Objects that they refer to, for the sources to watch.
    pub objects: watch::Sender<BTreeSet<ObjectKey>>,
    /// Tokens of their service accounts.
    pub tokens: watch::Sender<BTreeSet<TokenRef>>,
}

pub(crate) struct Manager {
    shared: Arc<Shared>,
    runtimes: Runtimes,
    commands: mpsc::Sender<Command>,
    workers: TaskTracker,
    pods: BTreeMap<String, PodEntry>,
    /// Manifests of the desired static pods, by uid; `None` until somebody has said which they are.
    static_pods: Option<BTreeMap<String, Value>>,
    /// Ended here, and not yet deleted at the hub.
    finished: BTreeSet<String>,
    /// Pods that wait until one on hold, which they succeed, has ended.
    held_back: BTreeMap<String, Bytes>,
    /// Containers found at the start whose pod is not known (yet).
    orphans: BTreeMap<String, Vec<ContainerStatus>>,
    /// Pods of which something was found at the start beside containers.
    found: BTreeSet<String>,
    /// Whether directories of pods that nobody knows were looked for.
    are_directories_swept: bool,
    desired: Arc<Desired>,
    /// Ends the workers of this manager, and leaves their containers as they are.
    life: CancellationToken,
}

impl Manager {
    pub(crate) fn new(
        shared: Arc<Shared>,
        runtimes: Runtimes,
        commands: mpsc::Sender<Command>,
        desired: Arc<Desired>,
        life: CancellationToken,
    ) -> Self {
        Self {
            shared,
            runtimes,
            commands,
            workers: TaskTracker::new(),
            pods: BTreeMap::new(),
            static_pods: None,
            finished: BTreeSet::new(),
            held_back: BTreeMap::new(),
            orphans: BTreeMap::new(),
            found: BTreeSet::new(),
            are_directories_swept: false,
            desired,
            life,
        }
    }

    /// Starts from the disk, then serves until `shutdown`. Containers run on when it ends.
    pub(crate) async fn run(mut self, commands: &mut mpsc::Receiver<Command>, shutdown: &CancellationToken) {
        // Whatever ends this manager, a panic too, ends its workers: the next one has its own.
        let workers_end = self.life.clone().drop_guard();
        let (events_tx, mut events) = mpsc::channel(RUNTIME_EVENTS_MAX);
        for runtime in &self.runtimes {
            let forwarding = forward(runtime.events(), runtime.clone(), events_tx.clone(), self.life.clone());
            base_observe::spawn_named(&self.workers, "runtime-events", forwarding);
        }
        self.begin().await;
        let mut node_ip = self.shared.context.node_ip.clone();
        loop {
            tokio::select! {
                // Pods report the node's address as theirs.
                Ok(()) = node_ip.changed() => self.pods.values().for_each(|entry| entry.inbox.wake()),
                () = shutdown.cancelled() => break,
                Some(status) = events.recv() => self.route(status),
                Some(command) = commands.recv() => self.take(command),
            }
        }
        // Whoever starts next on this data directory finds nobody else at work in it.
        commands.close();
        drop(workers_end);
        self.workers.close();
        self.workers.wait().await;
    }

    /// Admits the stored pods, with what runs of them.
    async fn begin(&mut self) {
        for runtime in &self.runtimes {
            match runtime.list().await {
                Ok(containers) => {
                    for status in containers {
                        self.orphans.entry(status.id.pod_uid.clone()).or_default().push(status);
                    }
                }
                Err(error) => {
                    // Starting pods beside unknown containers of theirs would run them twice: the runtime refuses
                    // attempts that were made before, so continuing is safe.
                    let registry = &self.shared.context.registry;
                    registry.error(format!("list containers of {}: {}", runtime.handler(), chain(&error)));
                    warn!(runtime = runtime.handler(), error = %chain(&error), "Failed to list containers.");
                }
            }
        }
        self.find_remains().await;
        let mut stored = self.shared.context.store.pods();
        // Those on hold first: their successors wait for them.
        stored.sort_by_cached_key(|(uid, _)| !self.shared.context.store.pod_state(uid).on_hold);
        info!(
            pods = stored.len(),
            containers = self.orphans.values().map(Vec::len).sum::<usize>(),
            "Starting or adopting stored pods."
        );
        for (uid, json) in stored {
            self.upsert(uid, json, false);
        }
        let manifests = self.static_manifests().clone();
        if let Some(manifests) = manifests {
            self.set_static_pods(manifests);
        }
        self.retry_resizes();
        // A manager before this one may have died with a deletion in its hands.
        self.shared.context.table.retain(|uid| self.pods.contains_key(uid));
        self.report_holds();
        self.publish_desired();
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::HubPods { pods, listed, is_same_hub } => self.replace_hub_pods(pods, &listed, is_same_hub),
            Command::HubPod(uid, json) => {
                self.upsert(uid, json, false);
                self.publish_desired();
            }
            Command::HubPodDeleted(uid) => self.deleted(&uid),
            Command::ObjectChanged(key) => {
                for entry in self.pods.values() {
                    if self.objects_of(&entry.pod).contains(&key) {
                        entry.inbox.refresh();
                    }
                }
                if key.kind == ObjectKind::Claim {
                    // Which volume it is bound to.
                    self.publish_desired();
                }
            }
            Command::TokenChanged { uid } => {
                if let Some(entry) = self.pods.get(&uid) {
                    entry.inbox.refresh();
                }
            }
            Command::TokenRejected { uid, message } => {
                if let Some(entry) = self.pods.get(&uid) {
                    entry.inbox.token_rejected(message);
                }
            }
            Command::ImagesAdded => self.pods.values().for_each(|entry| entry.inbox.images_added()),
            Command::StaticPods(manifests) => {
                *self.static_manifests() = Some(manifests.clone());
                self.set_static_pods(manifests);
            }
            Command::StopAll { grace, done } => self.stop_all(grace, done),
            Command::Terminate { uid, termination } => {
                // What is not here has ended: whoever waits for it learns so.
                if let Some(entry) = self.pods.get_mut(&uid) {
                    entry.inbox.terminate(termination);
                    entry.requests = Resources::default();
                }
            }
            Command::AcceptHub(answer) => {
                // Nobody who asked may wait any more.
                let _ = answer.send(self.release_holds());
            }
            Command::Finished { uid } => self.finished(&uid),
            Command::WorkerDied { uid, containers } => {
                if let Some(entry) = self.pods.remove(&uid) {
                    self.orphans.insert(uid.clone(), containers);
                    self.upsert(uid, entry.json, entry.is_static);
                    self.retry_resizes();
                }
            }
            Command::List(answer) => {
                let _ = answer.send(self.pods.values().map(|entry| entry.json.clone()).collect());
            }
            Command::Outlines(answer) => {
                let _ = answer.send(self.outlines());
            }
            Command::Logs { namespace, pod, container, answer } => {
                let _ = answer.send(self.find_logs(namespace, pod, container));
            }
        }
    }

    fn replace_hub_pods(&mut self, pods: Vec<(String, Bytes)>, listed: &BTreeSet<String>, is_same_hub: bool) {
        if !is_same_hub {
            // What ended here was deleted at another hub, or in another life of this one.
            self.finished.clear();
        }
        // What is missing comes first: of two of one name the former one may be on hold.
        let missing: Vec<String> = self
            .pods
            .iter()
            .filter(|(uid, entry)| !entry.is_static && !listed.contains(*uid))
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in missing {
            let is_on_hold = self.pods.get(&uid).is_some_and(|entry| entry.on_hold);
            match is_same_hub && !is_on_hold {
                true => self.deleted(&uid),
                false => self.set_hold(&uid, true),
            }
        }
        for uid in listed {
            self.set_hold(uid, false);
        }
        self.held_back.retain(|uid, _| listed.contains(uid));
        for (uid, json) in pods {
            self.upsert(uid, json, false);
        }
        self.finished.retain(|uid| listed.contains(uid));
        if is_same_hub {
            // Only now, after a complete list, is a container of an unknown pod nobody's. One of a pod that is listed but
            // cannot be understood runs on.
            self.sweep_orphans(|uid| !uid.starts_with(STATIC_UID_PREFIX) && !listed.contains(uid));
            self.sweep_remains(listed);
            self.sweep_directories(listed);
        }
        self.report_holds();
        self.publish_desired();
    }

    /// A pod as it is now: to its worker, or to a new one.
    fn upsert(&mut self, uid: String, json: Bytes, is_static: bool) {
        let (pod, fault) = match Pod::from_json(&json) {
            Ok(pod) => (pod, None),
            Err(error) => match Pod::outline(&json) {
                Some(pod) => (pod, Some(format!("the pod cannot be understood by this node: {error}"))),
                None => {
                    self.shared.context.registry.error(format!("pod {uid}: {error}"));
                    warn!(%uid, %error, "A pod without readable metadata is left alone.");
                    return;
                }
            },
        };
        if pod.is_mirror() {
            let metadata = &pod.metadata;
            let of = metadata.annotations.get(ANNOTATION_CONFIG_MIRROR).cloned().unwrap_or_default();
            let name = PodName { namespace: metadata.namespace.clone(), name: metadata.name.clone() };
            self.shared.publisher.mirror(name, &uid, &of, metadata.deletion_timestamp.is_some());
            return;
        }
        if self.finished.contains(&uid) {
            // Ended here; the deletion is on its way to the hub.
            return;
        }
        if !is_static && self.hold_back(&uid, &pod, &json) {
            return;
        }
        let Some(entry) = self.pods.get(&uid) else {
            if let (Some(fault), true) = (&fault, self.orphans.contains_key(&uid)) {
                self.shared.context.registry.error(format!("{}: {fault}", pod.full_name()));
                if pod.metadata.deletion_timestamp.is_none() {
                    warn!(pod = %pod.full_name(), %fault, "Containers of a pod that cannot be understood any more run on.");
                    return;
                }
                self.sweep_orphans(|orphan| orphan == uid);
            }
            return self.admit_pod(uid, pod, json, is_static, fault);
        };
        let (known, is_resizable) = (entry.pod.clone(), resizes::are_made_by(entry.runtime.as_ref()));
        let pod = match fault {
            None => pod,
            // What runs was understood once; of what came only its deletion counts.
            Some(fault) => {
                self.shared.context.registry.error(format!("{}: {fault}", pod.full_name()));
                Pod { metadata: pod.metadata, ..known.clone() }
            }
        };
        let (pod, requests) = match is_resizable {
            true => self.sized(&uid, &known, pod),
            false => (pod, None),
        };
        let is_echo = only_status_differs(&known, &pod);
        let Some(entry) = self.pods.get_mut(&uid) else { return };
        entry.json = json;
        entry.pod = pod.clone();
        let is_resized = requests.is_some();
        entry.requests = requests.unwrap_or_else(|| entry.requests.clone());
        if !is_echo {
            entry.inbox.update(pod);
        }
        if is_resized {
            // What it needs no more others may wait for.
            self.retry_resizes();
        }
    }

    fn admit_pod(&mut self, uid: String, pod: Pod, json: Bytes, is_static: bool, fault: Option<String>) {
        let containers = self.orphans.remove(&uid).unwrap_or_default();
        let mut state = self.shared.context.store.pod_state(&uid);
        let stored_status: Value = match is_static {
            true => Value::Null,
            false => serde_json::from_slice::<Value>(&json)
                .ok()
                .and_then(|pod| pod.get("status").cloned())
                .unwrap_or_default(),
        };
        let is_over = matches!(pod.status.phase.as_str(), "Succeeded" | "Failed");
        let is_history = is_over && containers.is_empty() && state.failure.is_none();
        let runtime = admission::runtime_for(&pod, &self.runtimes);
        // What ran before was admitted before; rejecting it now would stop it.
        let is_new = containers.is_empty()
            && state.failure.is_none()
            && !is_history
            && pod.metadata.deletion_timestamp.is_none();
        let pod = match resizes::are_made_by(runtime.as_ref().ok().copied()) {
            true => resizes::as_given(pod, &containers),
            false => pod,
        };
        let mut requests = admission::requests(&pod);
        let mut unsupported = None;
        let mut is_rejected = false;
        if let (true, Err(rejection)) =
            (is_new, self.admit(&pod, &json, &runtime, &requests, fault, state.start_time.is_some()))
        {
            self.report_rejection(&pod, &rejection);
            // It takes nothing of the node: its neighbours are not to pay for it.
            requests = Resources::default();
            match runtime.is_err() && rejection.reason == admission::UNSUPPORTED_RUNTIME {
                true => {
                    unsupported = Some(Waiting { reason: rejection.reason.into_owned(), message: rejection.message })
                }
                false => {
                    let message = format!("Pod was rejected: {}", rejection.message);
                    state.failure = Some((rejection.reason.into_owned(), message));
                    is_rejected = true;
                }
            }
        }
        if state.failure.is_some() || is_over {
            requests = Resources::default();
        }
        let runtime = runtime.ok().cloned();
        let (inbox, is_over) = (Inbox::default(), Arc::new(AtomicBool::new(is_over)));
        let on_hold = state.on_hold;
        let init = WorkerInit {
            pod: pod.clone(),
            stored_status,
            runtime: runtime.clone(),
            state,
            state_is_news: is_rejected,
            containers,
            is_history,
            unsupported,
            is_over: is_over.clone(),
        };
        self.spawn_worker(uid.clone(), Worker::new(self.shared.clone(), init, inbox.clone()));
        self.pods.insert(
            uid,
            PodEntry {
                pod,
                json,
                runtime,
                inbox,
                requests,
                is_over,
                is_static,
                on_hold,
                is_ending: false,
                is_deleted: false,
            },
        );
    }

    fn admit(
        &self,
        pod: &Pod,
        json: &[u8],
        runtime: &Result<&Arc<dyn PodRuntime>, AdmissionError>,
        requests: &Resources,
        fault: Option<String>,
        was_here: bool,
    ) -> Result<(), AdmissionError> {
        if let Some(message) = fault {
            return Err(AdmissionError { reason: admission::UNSUPPORTED_POD.into(), message });
        }
        // What ran here before a power cut is not a pod more; that it is one too many is for the eviction to say.
        if !was_here {
            admission::check_pressure(pod, *self.shared.context.registry.pressure().borrow())?;
        }
        let runtime = runtime.as_ref().map_err(Clone::clone)?;
        admission::check_features(json, runtime.handler())?;
        admission::check_sysctls(pod)?;
        let others =
            self.pods.values().filter(|entry| !entry.is_over.load(Ordering::Relaxed) && entry.requests.get("pods") > 0);
        admission::check_host_ports(pod, others.map(|entry| &entry.pod))?;
        admission::fits(requests, &self.used(), &self.allocatable())
    }

    fn report_rejection(&self, pod: &Pod, rejection: &AdmissionError) {
        warn!(pod = %pod.full_name(), reason = %rejection.reason, message = %rejection.message, "Rejected a pod.");
        self.shared.events.pod_warning(pod, None, rejection.reason.clone(), rejection.message.clone());
        self.shared.context.registry.error(format!("{}: {}", pod.full_name(), rejection.message));
    }

    fn spawn_worker(&self, uid: String, worker: Worker) {
        let (commands, life, registry) =
            (self.commands.clone(), self.life.clone(), self.shared.context.registry.clone());
        let runtimes = self.runtimes.clone();
        base_observe::spawn_named(&self.workers, "pod-worker", async move {
            let work = std::panic::AssertUnwindSafe(worker.run(life.clone()));
            let command = match futures::FutureExt::catch_unwind(work).await {
                Ok(false) => return,
                Ok(true) => Command::Finished { uid },
                Err(panic) => {
                    let cause = node_client::panic_text(&*panic);
                    error!(%uid, %cause, "The worker of a pod has died; starting another.");
                    registry.error(format!("the worker of pod {uid} has died: {cause}"));
                    tokio::time::sleep(WORKER_RESTART).await;
                    let mut containers = Vec::new();
                    for runtime in runtimes {
                        containers.extend(runtime.list().await.unwrap_or_default());
                    }
                    containers.retain(|status| status.id.pod_uid == uid);
                    Command::WorkerDied { uid, containers }
                }
            };
            // The manager ends at shutdown only.
            let _ = commands.send(command).await;
        });
    }

    /// The hub no longer has this pod: what of it still runs is stopped.
    fn deleted(&mut self, uid: &str) {
        self.finished.remove(uid);
        self.held_back.remove(uid);
        match self.pods.get_mut(uid) {
            Some(entry) if entry.is_static => return,
            Some(entry) => {
                entry.is_deleted = true;
                entry.inbox.end();
            }
            None => self.sweep_orphans(|orphan| orphan == uid),
        }
        self.shared.publisher.forget(uid);
        self.forget_state(uid.to_owned());
    }

    fn finished(&mut self, uid: &str) {
        self.shared.context.table.remove(uid);
        let Some(entry) = self.pods.remove(uid) else { return };
        if entry.is_static {
            self.shared.publisher.forget(uid);
            self.start_static_pods();
        } else if entry.pod.metadata.deletion_timestamp.is_some() && !entry.is_deleted {
            self.finished.insert(uid.to_owned());
        }
        self.start_held_back();
        self.retry_resizes();
        self.report_holds();
        self.publish_desired();
    }

    fn forget_state(&self, uid: String) {
        let (store, registry) = (self.shared.context.store.clone(), self.shared.context.registry.clone());
        base_observe::spawn_named(&self.workers, "forget-pod", async move {
            if let Ok(Err(error)) = tokio::task::spawn_blocking(move || store.remove_pod(&uid)).await {
                registry.error(chain(&error));
                warn!(error = %chain(&error), "Failed to forget a pod; the next list of the hub says again that it is deleted.");
            }
        });
    }

    fn stop_all(&mut self, grace: Duration, done: oneshot::Sender<()>) {
        let halts: Vec<_> = self.pods.values().map(|entry| entry.inbox.halt(grace)).collect();
        let runtimes = self.runtimes.clone();
        base_observe::spawn_named(&self.workers, "stop-all", async move {
            // A start under way is in no list yet; its worker stops it as soon as it is up.
            let halted = futures::future::join_all(halts);
            if tokio::time::timeout(grace + HALT_OVERHEAD_MAX, halted).await.is_err() {
                warn!("Pods take longer to stop than they were given.");
            }
            for runtime in runtimes {
                for status in runtime.list().await.unwrap_or_default() {
                    // Waits for the stop that the worker has begun, or makes it.
                    if let Err(error) = runtime.stop(&status.id, grace).await {
                        warn!(container = %status.id, error = %chain(&error), "Failed to stop a container.");
                    }
                }
            }
            let _ = done.send(());
        });
    }

    fn route(&mut self, status: ContainerStatus) {
        if let Some(entry) = self.pods.get(&status.id.pod_uid) {
            entry.inbox.container(status);
        }
    }

    /// All pods but those that were rejected: nothing of them is here.
    fn outlines(&self) -> Vec<PodOutline> {
        let admitted = self.pods.iter().filter(|(_, entry)| entry.runtime.is_some());
        let outline = |(uid, entry): (&String, &PodEntry)| {
            let outline = entry.pod.describe(self.shared.pod_dir(&entry.pod));
            let state = self.shared.context.store.pod_state(uid);
            PodOutline {
                start_time: state.start_time.or(outline.start_time),
                is_failed: state.failure.is_some(),
                is_critical: outline.is_critical || entry.is_static,
                is_over: entry.is_over.load(Ordering::Relaxed),
                runtime: entry.runtime.clone(),
                ..outline
            }
        };
        admitted.map(outline).collect()
    }

    fn find_logs(&self, namespace: String, pod: String, container: String) -> Result<LogPlace, String> {
        let entry = self
            .pods
            .values()
            .find(|entry| entry.pod.metadata.namespace == namespace && entry.pod.metadata.name == pod)
            .ok_or_else(|| format!("pod \"{pod}\" does not exist on this node"))?;
        let known = entry.pod.container(&container);
        let known = known.ok_or_else(|| format!("container \"{container}\" is not one of pod \"{pod}\""))?;
        let restarts = [1, 0].map(|code| entry.pod.restarts_after(known, code));
        let dir = self.shared.pod_dir(&entry.pod).join(&container);
        let (runtime, uid) = (entry.runtime.clone(), entry.pod.metadata.uid.clone());
        let handler = runtime.as_ref().map_or(status::NO_HANDLER, |runtime| runtime.handler());
        let is_run = !entry.pod.is_ephemeral(&container) || status::runs_ephemeral(handler);
        let waiting = (!is_run).then_some(status::EPHEMERAL_REASON);
        Ok(LogPlace { runtime, uid, dir, namespace, pod, container, waiting, restarts })
    }

    /// What a pod refers to, and the volumes that its claims are bound to.
    fn objects_of(&self, pod: &Pod) -> BTreeSet<ObjectKey> {
        let mut keys = ObjectKey::of(&pod.references(), &pod.metadata.namespace);
        let store = &self.shared.context.store;
        let claims = keys.iter().filter(|key| key.kind == ObjectKind::Claim);
        let volumes: Vec<ObjectKey> = claims.filter_map(|claim| claims::volume_of(&store.object(claim))).collect();
        keys.extend(volumes);
        keys
    }

    fn publish_desired(&self) {
        let desired: BTreeSet<ObjectKey> =
            self.pods.values().filter(|entry| !entry.is_static).flat_map(|entry| self.objects_of(&entry.pod)).collect();
        replace_if_other(&self.desired.objects, desired);
        // Nobody reads the token of a pod that has ended.
        let is_over = |pod: &Pod| matches!(pod.status.phase.as_str(), "Succeeded" | "Failed");
        let pods = self.pods.values().map(|entry| &entry.pod).filter(|pod| !is_over(pod));
        replace_if_other(&self.desired.tokens, pods.flat_map(TokenRef::all_of).collect());
    }

    /// What the node gives to pods.
    fn allocatable(&self) -> Resources {
        let context = &self.shared.context;
        Resources::of([
            ("cpu", context.cpu_millis),
            ("memory", context.memory_bytes),
            ("ephemeral-storage", context.storage_bytes),
            ("pods", u64::from(context.config.max_pods)),
        ])
    }

    /// What pods take that were accepted and are not over.
    fn used(&self) -> Resources {
        let mut used = Resources::default();
        let active = self.pods.values().filter(|entry| !entry.is_over.load(Ordering::Relaxed));
        active.for_each(|entry| used.add(&entry.requests));
        used
    }
}

/// Publishes a set unless it is the published one.
fn replace_if_other<T: Ord>(published: &watch::Sender<BTreeSet<T>>, now: BTreeSet<T>) {
    published.send_if_modified(|current| {
        let is_news = *current != now;
        *current = now;
        is_news
    });
}

/// Whether two versions of a pod differ in nothing that a worker acts on: most often our own status come back.
fn only_status_differs(old: &Pod, new: &Pod) -> bool {
    let mut metadata = new.metadata.clone();
    metadata.resource_version.clone_from(&old.metadata.resource_version);
    metadata == old.metadata && new.spec == old.spec && new.resize_pending == old.resize_pending
}

/// Passes a runtime's events on; when some were lost, passes on what there is.
async fn forward(
    mut events: broadcast::Receiver<ContainerEvent>,
    runtime: Arc<dyn PodRuntime>,
    statuses: mpsc::Sender<ContainerStatus>,
    end: CancellationToken,
) {
    loop {
        let event = tokio::select! {
            () = end.cancelled() => return,
            event = events.recv() => event,
        };
        let known = match event {
            Ok(ContainerEvent::Started(status) | ContainerEvent::Exited(status)) => vec![status],
            Err(broadcast::error::RecvError::Lagged(_)) => runtime.list().await.unwrap_or_default(),
            Err(broadcast::error::RecvError::Closed) => return,
        };
        for status in known {
            if statuses.send(status).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
