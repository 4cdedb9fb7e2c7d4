//! The pods of this node: who is wished for, and which worker looks after each.
//!
//! [`Manager`] is the one owner of that table. It begins with what the offline store and the runtimes know, before
//! any word from the hub, and hands every change to the worker it concerns.

pub(crate) mod admission;
pub(crate) mod backoff;
pub(crate) mod model;
pub(crate) mod publisher;
pub(crate) mod reconcile;
pub(crate) mod status;
pub(crate) mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use node_runtime::{ContainerEvent, ContainerStatus};
use serde_json::Value;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use self::admission::Room;
use self::model::{ANNOTATION_CONFIG_HASH, ANNOTATION_CONFIG_MIRROR, ANNOTATION_CONFIG_SOURCE, Pod};
use self::publisher::Publication;
use self::status::Waiting;
use self::worker::{Beginning, MAILBOX, Message, Worker};
use crate::Runtimes;
use crate::config::KubeletConfig;
use crate::env::NodeFacts;
use crate::events::Events;
use crate::hub::Hub;
use crate::report::{Board, chain};
use crate::store::{ObjectKey, Store};
use crate::tokens::TokenRef;

/// uids of static pods begin so; the hub's never do.
const STATIC_UID_PREFIX: &str = "static-";
/// Stopping orphans: they belong to nobody, so nobody asked for more.
const ORPHAN_GRACE: Duration = Duration::from_secs(30);

/// What a pod may take to stop beyond the grace of its containers: a start that is under way ends first.
const HALT_OVERHEAD_MAX: Duration = Duration::from_secs(2);

/// What the manager is told.
pub(crate) enum Command {
    /// All pods of the hub for this node, after a list that succeeded: uid and JSON. On disk already.
    HubPods(Vec<(String, Bytes)>),
    /// One pod as the hub has it now. On disk already.
    HubPod(String, Bytes),
    /// The hub no longer has this pod.
    HubPodGone(String),
    /// An object that pods refer to has changed.
    ObjectChanged(ObjectKey),
    /// A pod has another token.
    TokenChanged { uid: String },
    /// The hub issues no token for a pod, for now.
    TokenRejected { uid: String, message: String },
    /// These are the static pods.
    StaticPods(Vec<Value>),
    /// Stop every pod's containers within the grace; answer when none runs.
    StopAll { grace: Duration, done: oneshot::Sender<()> },
    /// A worker has ended.
    Finished { uid: String },
    /// What runs, for `/pods`.
    List(oneshot::Sender<Vec<Bytes>>),
    /// Where the logs of a container are, by namespace, pod and container; newest attempt.
    Logs { namespace: String, pod: String, container: String, answer: oneshot::Sender<Result<LogPlace, String>> },
}

/// Where a container's logs are.
pub(crate) struct LogPlace {
    /// Who knows whether the container still runs.
    pub runtime: Option<Arc<dyn node_runtime::PodRuntime>>,
    pub uid: String,
    /// `<attempt>.log` files.
    pub dir: PathBuf,
    pub namespace: String,
    pub pod: String,
    pub container: String,
    /// Why it has none for now, where that is known here.
    pub waiting: Option<&'static str>,
}

/// What all workers share.
#[derive(Debug)]
pub(crate) struct Context {
    pub config: KubeletConfig,
    pub store: Arc<Store>,
    /// Only to see whether there is one, and where.
    pub hub: Hub,
    pub node_ip: watch::Receiver<Option<IpAddr>>,
    pub cpu_millis: u64,
    pub memory_bytes: u64,
    pub events: Events,
    pub publications: mpsc::Sender<Publication>,
    pub board: Board,
    /// How long the steps of pods take.
    pub sync_seconds: base_observe::Histogram,
}

impl Context {
    pub(crate) fn pod_dir(&self, pod: &Pod) -> PathBuf {
        let metadata = &pod.metadata;
        let name = format!("{}_{}_{}", metadata.namespace, metadata.name, metadata.uid);
        self.config.data_dir.join("node/pods").join(name)
    }

    pub(crate) fn node_ip(&self) -> Option<IpAddr> {
        *self.node_ip.borrow()
    }

    /// Pods share the node's network, so loopback reaches every one of them.
    pub(crate) fn probe_ip(&self) -> IpAddr {
        self.node_ip().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    pub(crate) fn facts(&self) -> NodeFacts {
        NodeFacts {
            node_name: self.config.node_name.clone(),
            node_ip: self.node_ip().map(|ip| ip.to_string()).unwrap_or_default(),
            cpu_millis: self.cpu_millis,
            memory_bytes: self.memory_bytes,
            hub: self.hub.endpoint(),
        }
    }

    pub(crate) async fn publish(&self, publication: Publication) {
        // The publisher is gone at shutdown only.
        let _ = self.publications.send(publication).await;
    }
}

/// One pod in the table.
struct Held {
    pod: Pod,
    json: Bytes,
    runtime: Option<Arc<dyn node_runtime::PodRuntime>>,
    mailbox: mpsc::Sender<Message>,
    asks: Room,
    is_static: bool,
}

/// What pods need beside themselves.
pub(crate) struct Wanted {
    /// Objects that they refer to, for the sources to watch.
    pub objects: watch::Sender<BTreeSet<ObjectKey>>,
    /// Tokens of their service accounts.
    pub tokens: watch::Sender<BTreeSet<TokenRef>>,
}

pub(crate) struct Manager {
    context: Arc<Context>,
    runtimes: Runtimes,
    commands: mpsc::Sender<Command>,
    workers: TaskTracker,
    pods: BTreeMap<String, Held>,
    /// Manifests of the static pods that are wished for, by uid.
    static_pods: BTreeMap<String, Value>,
    /// Ended here, and not yet gone from the hub.
    finished: BTreeSet<String>,
    /// Containers found at the start whose pod is not known (yet).
    orphans: BTreeMap<String, Vec<ContainerStatus>>,
    wanted: Wanted,
    shutdown: CancellationToken,
}

impl Manager {
    pub(crate) fn new(
        context: Arc<Context>,
        runtimes: Runtimes,
        commands: mpsc::Sender<Command>,
        wanted: Wanted,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            context,
            runtimes,
            commands,
            workers: TaskTracker::new(),
            pods: BTreeMap::new(),
            static_pods: BTreeMap::new(),
            finished: BTreeSet::new(),
            orphans: BTreeMap::new(),
            wanted,
            shutdown,
        }
    }

    /// Starts from the disk, then serves until `shutdown`. Containers run on when it ends.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let shutdown = self.shutdown.clone();
        let (events_tx, mut events) = mpsc::channel(MAILBOX);
        for runtime in &self.runtimes {
            tokio::spawn(forward(runtime.events(), runtime.clone(), events_tx.clone(), shutdown.clone()));
        }
        self.begin().await;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(status) = events.recv() => self.route(status).await,
                Some(command) = commands.recv() => self.take(command).await,
            }
        }
        // Whoever starts next on this data folder finds nobody else at work in it.
        drop(commands);
        self.workers.close();
        self.workers.wait().await;
    }

    /// Takes up the stored pods and what runs of them.
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
                    // attempts that were made before, so going on is safe.
                    self.context.board.error(format!("list containers of {}: {}", runtime.handler(), chain(&error)));
                    warn!(runtime = runtime.handler(), error = %chain(&error), "Failed to list containers.");
                }
            }
        }
        let stored = self.context.store.pods();
        info!(
            pods = stored.len(),
            containers = self.orphans.values().map(Vec::len).sum::<usize>(),
            "Taking up stored pods."
        );
        for (uid, json) in stored {
            self.upsert(uid, json, false).await;
        }
        self.publish_wanted();
    }

    async fn take(&mut self, command: Command) {
        match command {
            Command::HubPods(pods) => self.replace_hub_pods(pods).await,
            Command::HubPod(uid, json) => {
                self.upsert(uid, json, false).await;
                self.publish_wanted();
            }
            Command::HubPodGone(uid) => self.gone(&uid).await,
            Command::ObjectChanged(key) => {
                for held in self.pods.values() {
                    if ObjectKey::of(&held.pod.references(), &held.pod.metadata.namespace).contains(&key) {
                        let _ = held.mailbox.send(Message::Refresh).await;
                    }
                }
            }
            Command::TokenChanged { uid } => {
                if let Some(held) = self.pods.get(&uid) {
                    let _ = held.mailbox.send(Message::Refresh).await;
                }
            }
            Command::TokenRejected { uid, message } => {
                if let Some(held) = self.pods.get(&uid) {
                    let _ = held.mailbox.send(Message::TokenRejected(message)).await;
                }
            }
            Command::StaticPods(manifests) => self.set_static_pods(manifests).await,
            Command::StopAll { grace, done } => self.stop_all(grace, done).await,
            Command::Finished { uid } => {
                if let Some(held) = self.pods.remove(&uid) {
                    if held.is_static {
                        self.forget_state(uid).await;
                        // It may have been wished for again while it ended.
                        self.start_static_pods().await;
                    } else {
                        self.finished.insert(uid);
                    }
                    self.publish_wanted();
                }
            }
            Command::List(answer) => {
                let _ = answer.send(self.pods.values().map(|held| held.json.clone()).collect());
            }
            Command::Logs { namespace, pod, container, answer } => {
                let _ = answer.send(self.find_logs(namespace, pod, container));
            }
        }
    }

    async fn replace_hub_pods(&mut self, pods: Vec<(String, Bytes)>) {
        let listed: BTreeSet<String> = pods.iter().map(|(uid, _)| uid.clone()).collect();
        for (uid, json) in pods {
            self.upsert(uid, json, false).await;
        }
        let gone: Vec<String> = self
            .pods
            .iter()
            .filter(|(uid, held)| !held.is_static && !listed.contains(*uid))
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in gone {
            self.gone(&uid).await;
        }
        self.finished.retain(|uid| listed.contains(uid));
        // Only now, after a list that succeeded, is a container of an unknown pod nobody's. One of a pod that is listed but
        // cannot be understood runs on.
        self.sweep_orphans(|uid| !uid.starts_with(STATIC_UID_PREFIX) && !listed.contains(uid)).await;
        self.publish_wanted();
    }

    /// A pod as it is now: to its worker, or to a new one.
    async fn upsert(&mut self, uid: String, json: Bytes, is_static: bool) {
        let pod = match Pod::from_json(&json) {
            Ok(pod) => pod,
            Err(error) => {
                self.context.board.error(format!("pod {uid}: {error}"));
                warn!(%uid, %error, "A pod cannot be understood; it is left alone.");
                return;
            }
        };
        if pod.is_mirror() {
            let metadata = &pod.metadata;
            let hash = metadata.annotations.get(ANNOTATION_CONFIG_MIRROR).cloned().unwrap_or_default();
            let (namespace, name) = (metadata.namespace.clone(), metadata.name.clone());
            let is_terminating = metadata.deletion_timestamp.is_some();
            self.context.publish(Publication::Mirror { namespace, name, hub_uid: uid, hash, is_terminating }).await;
            return;
        }
        if self.finished.contains(&uid) {
            // Ended here; the deletion is on its way to the hub.
            return;
        }
        if let Some(held) = self.pods.get_mut(&uid) {
            let is_echo = only_status_differs(&held.pod, &pod);
            held.json = json;
            held.pod = pod.clone();
            if !is_echo {
                let _ = held.mailbox.send(Message::Update(Box::new(pod))).await;
            }
            return;
        }
        self.take_up(uid, pod, json, is_static).await;
    }

    async fn take_up(&mut self, uid: String, pod: Pod, json: Bytes, is_static: bool) {
        let containers = self.orphans.remove(&uid).unwrap_or_default();
        let asks = admission::requests(&pod);
        let mut state = self.context.store.pod_state(&uid);
        let stored_status: Value = match is_static {
            true => Value::Null,
            false => serde_json::from_slice::<Value>(&json).map(|mut pod| pod["status"].take()).unwrap_or_default(),
        };
        let is_over = matches!(pod.status.phase.as_str(), "Succeeded" | "Failed");
        let is_history = is_over && containers.is_empty() && state.failure.is_none();
        let runtime = admission::runtime_for(&pod, &self.runtimes);
        let mut unsupported = None;
        // What ran before was admitted before; refusing it now would stop it.
        if containers.is_empty() && state.failure.is_none() && !is_history && pod.metadata.deletion_timestamp.is_none()
        {
            let admitted = runtime
                .as_ref()
                .map_err(Clone::clone)
                .and_then(|runtime| admission::admit(&pod, &***runtime, self.room(), self.used()));
            if let Err(refusal) = admitted {
                warn!(pod = %pod.full_name(), reason = refusal.reason, message = %refusal.message, "Refused a pod.");
                self.context.events.pod_warning(&pod, None, refusal.reason, refusal.message.clone());
                self.context.board.error(format!("{}: {}", pod.full_name(), refusal.message));
                let (reason, message) = (refusal.reason.to_owned(), refusal.message);
                match runtime.is_err() {
                    true => unsupported = Some(Waiting { reason, message }),
                    false => state.failure = Some((reason, message)),
                }
            }
        }
        let runtime = runtime.ok().cloned();
        let (mailbox, messages) = mpsc::channel(MAILBOX);
        let beginning = Beginning {
            pod: pod.clone(),
            stored_status,
            runtime: runtime.clone(),
            state,
            containers,
            is_history,
            unsupported,
        };
        let worker = Worker::new(self.context.clone(), beginning, mailbox.clone());
        let (commands, finished, shutdown) = (self.commands.clone(), uid.clone(), self.shutdown.clone());
        self.workers.spawn(async move {
            if worker.run(messages, shutdown).await {
                // The manager is gone at shutdown only.
                let _ = commands.send(Command::Finished { uid: finished }).await;
            }
        });
        self.pods.insert(uid, Held { pod, json, runtime, mailbox, asks, is_static });
    }

    /// The hub no longer has this pod: what of it still runs is stopped.
    async fn gone(&mut self, uid: &str) {
        self.finished.remove(uid);
        match self.pods.get(uid) {
            Some(held) if held.is_static => return,
            Some(held) => {
                let _ = held.mailbox.send(Message::End).await;
            }
            None => self.sweep_orphans(|orphan| orphan == uid).await,
        }
        self.context.publish(Publication::Forget { uid: uid.to_owned() }).await;
        self.forget_state(uid.to_owned()).await;
    }

    async fn forget_state(&self, uid: String) {
        let store = self.context.store.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || store.remove_pod(&uid)).await {
            self.context.board.error(chain(&error));
            warn!(error = %chain(&error), "Failed to forget a pod; the next list of the hub tells again that it is gone.");
        }
    }

    async fn set_static_pods(&mut self, manifests: Vec<Value>) {
        let node_name = &self.context.config.node_name;
        self.static_pods = manifests.into_iter().map(|manifest| static_pod(manifest, node_name)).collect();
        self.start_static_pods().await;
        for (uid, held) in &self.pods {
            if held.is_static && !self.static_pods.contains_key(uid) {
                let _ = held.mailbox.send(Message::End).await;
            }
        }
        self.sweep_orphans(|uid| uid.starts_with(STATIC_UID_PREFIX)).await;
        self.publish_wanted();
    }

    /// Takes up the static pods that nobody looks after yet. One that still ends is taken up when it has ended.
    async fn start_static_pods(&mut self) {
        let missing: Vec<(String, Value)> = self
            .static_pods
            .iter()
            .filter(|(uid, _)| !self.pods.contains_key(*uid))
            .map(|(uid, manifest)| (uid.clone(), manifest.clone()))
            .collect();
        for (uid, manifest) in missing {
            self.upsert(uid.clone(), Bytes::from(manifest.to_string()), true).await;
            self.context.publish(Publication::Static { uid, manifest }).await;
        }
    }

    /// Stops and forgets containers found at the start whose pods are nobody's.
    async fn sweep_orphans(&mut self, belongs: impl Fn(&str) -> bool) {
        let uids: Vec<String> = self.orphans.keys().filter(|uid| belongs(uid)).cloned().collect();
        for uid in uids {
            for status in self.orphans.remove(&uid).unwrap_or_default() {
                info!(container = %status.id, "Stopping a container whose pod is gone.");
                for runtime in self.runtimes.clone() {
                    let status = status.clone();
                    let dir = format!("{}_{}_{}", status.pod.namespace, status.pod.name, status.pod.uid);
                    let dir = self.context.config.data_dir.join("node/pods").join(dir);
                    tokio::spawn(async move {
                        // A container of another runtime is not found, which is fine.
                        if runtime.stop(&status.id, ORPHAN_GRACE).await.is_ok() {
                            let _ = runtime.remove(&status.id).await;
                            let _ = tokio::task::spawn_blocking(move || crate::volumes::remove(&dir)).await;
                        }
                    });
                }
            }
        }
    }

    async fn stop_all(&mut self, grace: Duration, done: oneshot::Sender<()>) {
        let mut halts = Vec::new();
        for held in self.pods.values() {
            let (done, halted) = oneshot::channel();
            let _ = held.mailbox.send(Message::Halt { grace, done }).await;
            halts.push(halted);
        }
        let runtimes = self.runtimes.clone();
        tokio::spawn(async move {
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

    async fn route(&mut self, status: ContainerStatus) {
        if let Some(held) = self.pods.get(&status.id.pod_uid) {
            let _ = held.mailbox.send(Message::Container(status)).await;
        }
    }

    fn find_logs(&self, namespace: String, pod: String, container: String) -> Result<LogPlace, String> {
        let held = self
            .pods
            .values()
            .find(|held| held.pod.metadata.namespace == namespace && held.pod.metadata.name == pod)
            .ok_or_else(|| format!("pod \"{pod}\" does not exist on this node"))?;
        let is_ephemeral = held.pod.spec.ephemeral_containers.iter().any(|known| known.name == container);
        if !is_ephemeral && !held.pod.all_containers().any(|known| known.name == container) {
            return Err(format!("container \"{container}\" is not one of pod \"{pod}\""));
        }
        let dir = self.context.pod_dir(&held.pod).join(&container);
        let (runtime, uid) = (held.runtime.clone(), held.pod.metadata.uid.clone());
        let waiting = is_ephemeral.then_some(status::EPHEMERAL_REASON);
        Ok(LogPlace { runtime, uid, dir, namespace, pod, container, waiting })
    }

    fn publish_wanted(&self) {
        let wanted: BTreeSet<ObjectKey> = self
            .pods
            .values()
            .filter(|held| !held.is_static)
            .flat_map(|held| ObjectKey::of(&held.pod.references(), &held.pod.metadata.namespace))
            .collect();
        replace_if_other(&self.wanted.objects, wanted);
        // Nobody reads the token of a pod that has ended.
        let is_over = |pod: &Pod| matches!(pod.status.phase.as_str(), "Succeeded" | "Failed");
        let pods = self.pods.values().map(|held| &held.pod).filter(|pod| !is_over(pod));
        replace_if_other(&self.wanted.tokens, pods.flat_map(TokenRef::all_of).collect());
    }

    fn room(&self) -> Room {
        Room {
            cpu_millis: self.context.cpu_millis,
            memory_bytes: self.context.memory_bytes,
            pods: u64::from(self.context.config.max_pods),
        }
    }

    fn used(&self) -> Room {
        self.pods.values().filter(|held| !matches!(held.pod.status.phase.as_str(), "Succeeded" | "Failed")).fold(
            Room::default(),
            |sum, held| Room {
                cpu_millis: sum.cpu_millis + held.asks.cpu_millis,
                memory_bytes: sum.memory_bytes + held.asks.memory_bytes,
                pods: sum.pods + held.asks.pods,
            },
        )
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
    metadata == old.metadata && new.spec == old.spec
}

/// Gives a manifest what the hub would: a uid that changes with its content, a namespace, the node, and defaults.
fn static_pod(mut manifest: Value, node_name: &str) -> (String, Value) {
    let digest = ring::digest::digest(&ring::digest::SHA256, manifest.to_string().as_bytes());
    let hex: String = digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let uid = format!("{STATIC_UID_PREFIX}{hex}");
    let metadata = &mut manifest["metadata"];
    let name = metadata["name"].as_str().unwrap_or("static").to_owned();
    let suffix = format!("-{node_name}");
    if !name.ends_with(&suffix) {
        metadata["name"] = format!("{name}{suffix}").into();
    }
    if metadata["namespace"].as_str().is_none_or(str::is_empty) {
        metadata["namespace"] = "default".into();
    }
    metadata["uid"] = uid.clone().into();
    metadata["annotations"][ANNOTATION_CONFIG_SOURCE] = "file".into();
    metadata["annotations"][ANNOTATION_CONFIG_HASH] = uid.clone().into();
    manifest["apiVersion"] = "v1".into();
    manifest["kind"] = "Pod".into();
    manifest["spec"]["nodeName"] = node_name.into();
    (uid, manifest)
}

/// Passes a runtime's events on; when some were lost, passes on what there is.
async fn forward(
    mut events: broadcast::Receiver<ContainerEvent>,
    runtime: Arc<dyn node_runtime::PodRuntime>,
    statuses: mpsc::Sender<ContainerStatus>,
    shutdown: CancellationToken,
) {
    loop {
        let event = tokio::select! {
            () = shutdown.cancelled() => return,
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
