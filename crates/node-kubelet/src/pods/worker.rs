//! One pod's worker: asks [`reconcile::decide`] what to do, does it, and waits for the next change.
//!
//! A worker owns everything known about its pod. Whatever may take long (starting, stopping, probing) runs beside it
//! and comes back as a [`Message`], so that a pod can be told to end at any moment.

mod spec;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api_edge::status::PodReport;
use jiff::{SignedDuration, Timestamp};
use node_runtime::{ContainerId, ContainerState, ContainerStatus, PodRuntime, RuntimeError};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Context;
use super::backoff::Backoff;
use super::model::{Container, Pod, RestartPolicy};
use super::publisher::Publication;
use super::reconcile::{self, Action, ContainerView, Seen, View};
use super::status::{self, Facts, Observed, Waiting, exit_of};
use crate::probes::{self, ProbeKind, ProbeReport};
use crate::report::chain;
use crate::store::PodState;
use crate::volumes::{self, Places, Prepared, VolumeError};

/// A volume that could not be made is tried again this often, or as soon as its objects change.
const VOLUME_RETRY: Duration = Duration::from_secs(5);
/// How long the first start of a pod waits for what it can do without, its service account's token above all, while the hub is
/// connected: programs read it when they start. A hub that takes longer must not keep a pod from running.
const LACKS_PATIENCE: Duration = Duration::from_millis(1500);
/// Volumes are compared with their sources this often, should a change have gone by unseen.
const VOLUME_LOOK_PERIOD: Duration = Duration::from_secs(60);
/// First pause after a start that failed before the program ran.
const START_RETRY: Duration = Duration::from_secs(10);
/// Pause before a stop that failed is tried again.
const STOP_RETRY: Duration = Duration::from_secs(2);
/// Messages that wait for a worker; its helpers wait when it is full.
pub(crate) const MAILBOX: usize = 32;

/// What a worker is told.
#[derive(Debug)]
pub(crate) enum Message {
    /// The pod as the hub has it now.
    Update(Box<Pod>),
    /// The pod is no longer wished for.
    End,
    /// Stop everything, but keep the wish.
    Halt { grace: Duration, done: oneshot::Sender<()> },
    /// Objects the pod refers to have changed, or its token.
    Refresh,
    /// The hub issues no token for the pod, for now.
    TokenRejected(String),
    /// The runtime saw something.
    Container(ContainerStatus),
    /// A start came to its end.
    Started { id: ContainerId, result: Result<ContainerStatus, RuntimeError> },
    /// A stop came to its end.
    Stopped { id: ContainerId, result: Result<ContainerStatus, RuntimeError> },
    /// A probe found something.
    Probe(ProbeReport),
}

/// What a worker begins with.
pub(crate) struct Beginning {
    pub pod: Pod,
    /// `status` of the Pod object as it was stored.
    pub stored_status: Value,
    pub runtime: Option<Arc<dyn PodRuntime>>,
    pub state: PodState,
    /// Containers that an earlier kubelet started.
    pub containers: Vec<ContainerStatus>,
    /// The pod had come to its end before, and nothing of it is left to look at.
    pub is_history: bool,
    /// Why nothing here runs it: it stays Pending and says so. A version that does begins with it anew.
    pub unsupported: Option<Waiting>,
}

/// Everything known about one container.
#[derive(Debug, Default)]
struct Cell {
    observed: Observed,
    acting: Option<Seen>,
    next_attempt: u32,
    backoff: Backoff,
    held_until: Option<Timestamp>,
    condemned: Option<Duration>,
    probes: JoinSet<()>,
}

pub(crate) struct Worker {
    context: Arc<Context>,
    pod: Pod,
    runtime: Option<Arc<dyn PodRuntime>>,
    state: PodState,
    cells: BTreeMap<String, Cell>,
    volumes: Option<Places>,
    volumes_look_at: Option<tokio::time::Instant>,
    volume_error: Option<String>,
    /// Until when the first start waits for what its volumes lack.
    lacks_until: Option<tokio::time::Instant>,
    /// Why the hub issues no token.
    token_rejection: Option<String>,
    /// The hub asked for its deletion and waits for us to confirm.
    deleting: bool,
    ending: bool,
    halted: Option<Duration>,
    /// To be told once nothing of a halted pod is active any more; dropped with the worker.
    tell_halted: Option<oneshot::Sender<()>>,
    is_history: bool,
    is_unsupported: bool,
    stored_status: Value,
    status: Value,
    mailbox: mpsc::Sender<Message>,
    dir: PathBuf,
}

impl Worker {
    pub(crate) fn new(context: Arc<Context>, beginning: Beginning, mailbox: mpsc::Sender<Message>) -> Self {
        let Beginning { pod, stored_status, runtime, state, containers, is_history, unsupported } = beginning;
        let dir = context.pod_dir(&pod);
        let deleting = pod.metadata.deletion_timestamp.is_some();
        let mut worker = Self {
            context,
            runtime,
            state,
            cells: BTreeMap::new(),
            volumes: None,
            volumes_look_at: None,
            volume_error: None,
            lacks_until: None,
            token_rejection: None,
            deleting,
            ending: deleting,
            halted: None,
            tell_halted: None,
            is_history,
            is_unsupported: unsupported.is_some(),
            status: stored_status.clone(),
            stored_status,
            mailbox,
            dir,
            pod,
        };
        worker.adopt(containers);
        if let Some(waiting) = unsupported {
            for container in worker.pod.all_containers() {
                worker.cells.entry(container.name.clone()).or_default().observed.waiting = Some(waiting.clone());
            }
        }
        worker
    }

    /// Works until the pod has ended, or until `shutdown`, which leaves its containers as they are. Answers whether the
    /// pod has ended.
    pub(crate) async fn run(mut self, mut messages: mpsc::Receiver<Message>, shutdown: CancellationToken) -> bool {
        loop {
            let began = std::time::Instant::now();
            let decision = self.decide();
            let mut again = false;
            for action in decision.actions {
                match action {
                    Action::PrepareVolumes => again |= self.prepare_volumes().await,
                    Action::Start { container, attempt } => self.start(&container, attempt),
                    Action::Stop { container, grace } => self.stop(&container, grace),
                    Action::Fail { reason, message } => {
                        self.fail(reason, message).await;
                        again = true;
                    }
                    Action::Finish => {
                        self.finish().await;
                        return true;
                    }
                }
            }
            self.publish().await;
            self.context.sync_seconds.observe(began.elapsed().as_secs_f64());
            if again {
                continue;
            }
            if !self.cells.values().any(|cell| cell.view().state.is_active())
                && let Some(done) = self.tell_halted.take()
            {
                let _ = done.send(());
            }
            let look_again = decision.look_again_at.map(|at| tokio::time::Instant::now() + until(at));
            let wake = [look_again, self.volumes_look_at].into_iter().flatten().min();
            tokio::select! {
                () = shutdown.cancelled() => return false,
                message = messages.recv() => match message {
                    Some(message) => self.take(message).await,
                    None => return false,
                },
                () = sleep_until(wake) => {
                    if self.volumes_look_at.is_some_and(|at| at <= tokio::time::Instant::now()) {
                        // Without volumes the next decision asks for them, if it still wants them; a moment that has
                        // passed must not wake the worker again and again.
                        self.volumes_look_at = None;
                        if self.volumes.is_some() {
                            self.prepare_volumes().await;
                        }
                    }
                }
            }
            // Take what else is there before deciding again.
            while let Ok(message) = messages.try_recv() {
                self.take(message).await;
            }
        }
    }

    fn decide(&self) -> reconcile::Decision {
        if (self.is_history || self.is_unsupported) && !self.ending {
            return reconcile::Decision::default();
        }
        let containers: BTreeMap<String, ContainerView> =
            self.cells.iter().map(|(name, cell)| (name.clone(), cell.view())).collect();
        let mut decision = reconcile::decide(&View {
            pod: &self.pod,
            now: Timestamp::now(),
            ending: self.ending,
            failed: self.state.failure.is_some() || self.halted.is_some(),
            start_time: self.state.start_time,
            volumes_ready: self.volumes.is_some(),
            containers: &containers,
        });
        if self.volumes_look_at.is_some_and(|at| at > tokio::time::Instant::now()) {
            decision.actions.retain(|action| *action != Action::PrepareVolumes);
        }
        decision
    }

    async fn take(&mut self, message: Message) {
        match message {
            Message::Update(pod) => self.update(*pod),
            Message::End => self.ending = true,
            Message::Halt { grace, done } => (self.halted, self.tell_halted) = (Some(grace), Some(done)),
            Message::Refresh => {
                if self.volumes.is_some() {
                    self.prepare_volumes().await;
                } else {
                    self.volumes_look_at = None;
                }
                for cell in self.cells.values_mut() {
                    if cell
                        .observed
                        .waiting
                        .as_ref()
                        .is_some_and(|waiting| waiting.reason == "CreateContainerConfigError")
                    {
                        cell.held_until = None;
                    }
                }
            }
            Message::TokenRejected(why) => self.token_rejected(why),
            Message::Container(status) => self.observe(status).await,
            Message::Started { id, result } => self.started(id, result).await,
            Message::Stopped { id, result } => self.stopped(&id, result),
            Message::Probe(report) => self.probed(report),
        }
    }

    fn update(&mut self, pod: Pod) {
        let old_grace = self.pod.grace();
        self.pod = pod;
        if self.pod.metadata.deletion_timestamp.is_none() {
            return;
        }
        let hurry = self.ending && self.pod.grace() < old_grace;
        (self.deleting, self.ending) = (true, true);
        if hurry {
            // Asked to end sooner than before: a stop with less grace overtakes the one under way.
            let stopping: Vec<String> = self
                .cells
                .iter()
                .filter(|(_, cell)| cell.acting == Some(Seen::Stopping))
                .map(|(name, _)| name.clone())
                .collect();
            for name in stopping {
                self.stop(&name, self.pod.grace());
            }
        }
    }

    /// Takes over what an earlier kubelet left running or ended.
    fn adopt(&mut self, mut containers: Vec<ContainerStatus>) {
        containers.sort_by(|a, b| a.id.cmp(&b.id));
        for status in containers {
            let name = status.id.container.clone();
            if self.pod.all_containers().any(|container| container.name == name) {
                if matches!(status.state, ContainerState::Running { .. }) {
                    info!(pod = %self.pod.full_name(), container = %name, attempt = status.id.attempt, "Adopted a running container.");
                }
                self.accept(status, true);
            }
        }
    }

    /// Takes note of a container's state when the runtime tells that it changed. An event may have waited while a static
    /// pod ended and began again under the same names: what counts is how the container is now.
    async fn observe(&mut self, told: ContainerStatus) {
        let Some(runtime) = self.runtime.clone() else { return };
        match runtime.status(&told.id).await {
            Ok(status) => self.accept(status, false),
            Err(RuntimeError::NotFound(_)) => {}
            Err(_) => self.accept(told, false),
        }
    }

    fn accept(&mut self, status: ContainerStatus, adopting: bool) {
        let name = status.id.container.clone();
        let Some(container) = self.pod.all_containers().find(|container| container.name == name).cloned() else {
            return;
        };
        let will_restart = self.will_restart(&container, &status);
        let cell = self.cells.entry(name.clone()).or_default();
        if let Some(current) = &cell.observed.current {
            let is_older = status.id.attempt < current.id.attempt;
            let is_stale = status.id.attempt == current.id.attempt && exit_of(current).is_some();
            if is_older || is_stale {
                return;
            }
            if status.id.attempt > current.id.attempt {
                cell.keep_as_previous(&self.runtime, &self.dir);
            }
        }
        let was_running = cell.is_running();
        cell.next_attempt = status.id.attempt + 1;
        match &status.state {
            ContainerState::Created => cell.observed.current = Some(status),
            ContainerState::Running { .. } => {
                cell.observed.current = Some(status.clone());
                cell.observed.waiting = None;
                if !was_running {
                    self.begin_probes(&container, &status.id);
                }
            }
            ContainerState::Exited(exit) => {
                let now = Timestamp::now();
                let ran = exit.started_at.map_or(Duration::ZERO, |start| between(start, exit.finished_at));
                cell.acting = None;
                cell.end_probes();
                cell.condemned = None;
                let (code, reason) = (exit.exit_code, exit.reason.as_str());
                cell.observed.current = Some(status);
                if adopting {
                    return;
                }
                info!(pod = %self.pod.full_name(), container = %name, exit_code = code, reason, "A container ended.");
                if will_restart && !self.ending {
                    let pause = cell.backoff.ended(ran, now);
                    cell.held_until = cell.backoff.holds_until(now);
                    if !pause.is_zero() {
                        let message = format!(
                            "back-off {}s restarting failed container={name} pod={}_{}({})",
                            pause.as_secs(),
                            self.pod.metadata.name,
                            self.pod.metadata.namespace,
                            self.pod.metadata.uid
                        );
                        cell.observed.waiting = Some(Waiting { reason: "CrashLoopBackOff".to_owned(), message });
                        let text =
                            format!("Back-off restarting failed container {name} in pod {}", self.pod.metadata.name);
                        self.context.events.pod_warning(&self.pod, Some(&name), "BackOff", text);
                    }
                }
            }
        }
    }

    fn will_restart(&self, container: &Container, status: &ContainerStatus) -> bool {
        let Some(exit) = exit_of(status) else { return true };
        if self.state.failure.is_some() || self.ending {
            return false;
        }
        let is_init = self.pod.spec.init_containers.iter().any(|init| init.name == container.name);
        match self.pod.spec.restart_policy {
            _ if container.is_sidecar() => true,
            RestartPolicy::Always if is_init => exit.exit_code != 0,
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => exit.exit_code != 0,
            RestartPolicy::Never => false,
        }
    }

    /// Brings the volumes up to date; answers whether they are in place.
    async fn prepare_volumes(&mut self) -> bool {
        let (context, pod, dir) = (self.context.clone(), self.pod.clone(), self.dir.clone());
        let facts = self.context.facts();
        let work = tokio::task::spawn_blocking(move || volumes::prepare(&pod, &dir, &facts, &*context.store));
        let result = match work.await {
            Ok(result) => result,
            Err(error) => {
                self.context.board.error(format!("volumes of {}: {error}", self.pod.full_name()));
                self.volumes_look_at = Some(tokio::time::Instant::now() + VOLUME_RETRY);
                return false;
            }
        };
        match result {
            Ok(prepared) if self.waits_for_lacks(&prepared) => false,
            Ok(Prepared { places, .. }) => {
                self.volumes_look_at =
                    (!self.pod.spec.volumes.is_empty()).then(|| tokio::time::Instant::now() + VOLUME_LOOK_PERIOD);
                self.volumes = Some(places);
                self.volume_error = None;
                self.begin().await;
                true
            }
            Err(error) => {
                self.volumes_look_at = Some(tokio::time::Instant::now() + VOLUME_RETRY);
                let text = chain(&error);
                // Waiting for a first answer of the hub is no fault.
                if !matches!(error, VolumeError::Pending { .. }) && self.volume_error.as_ref() != Some(&text) {
                    warn!(pod = %self.pod.full_name(), error = %text, "Failed to prepare a volume; trying again.");
                    self.context.events.pod_warning(&self.pod, None, "FailedMount", error.to_string());
                    self.context.board.error(format!("{}: {text}", self.pod.full_name()));
                    self.volume_error = Some(text);
                }
                false
            }
        }
    }

    /// Whether a start is to wait a moment longer for what the volumes lack; sets when to look again.
    fn waits_for_lacks(&mut self, prepared: &Prepared) -> bool {
        // What runs already, or ran before, is not kept waiting, nor is anyone for a hub that is not there.
        let is_first = self.volumes.is_none() && self.cells.values().all(|cell| cell.observed.current.is_none());
        if !is_first || prepared.lacks.is_empty() {
            return false;
        }
        let now = tokio::time::Instant::now();
        let until = *self.lacks_until.get_or_insert(now + LACKS_PATIENCE);
        if now < until && self.token_rejection.is_none() && self.context.hub.is_connected() {
            self.volumes_look_at = Some(until);
            return true;
        }
        info!(pod = %self.pod.full_name(), lacks = prepared.lacks.join(", "), "Starting a pod without all of its volumes' files; they follow.");
        false
    }

    fn token_rejected(&mut self, why: String) {
        if self.volumes.is_none() {
            self.volumes_look_at = None;
        }
        if self.token_rejection.as_ref() != Some(&why) {
            let volume = volumes::token_volume(&self.pod).unwrap_or_default();
            let text = format!(
                "MountVolume.SetUp failed for volume \"{volume}\" : failed to fetch token: {why}; the pod runs without it until it is issued"
            );
            self.context.events.pod_warning(&self.pod, None, "FailedMount", text);
            self.token_rejection = Some(why);
        }
    }

    /// Notes when the pod was taken up, once.
    async fn begin(&mut self) {
        if self.state.start_time.is_none() {
            let stored = self.pod.status.start_time.as_deref().and_then(|time| time.parse().ok());
            self.state.start_time = Some(stored.unwrap_or_else(Timestamp::now));
            self.keep_state().await;
        }
    }

    async fn keep_state(&self) {
        let (context, uid, state) = (self.context.clone(), self.pod.metadata.uid.clone(), self.state.clone());
        let kept = tokio::task::spawn_blocking(move || context.store.put_pod_state(&uid, &state)).await;
        if let Ok(Err(error)) = kept {
            self.context.board.error(chain(&error));
            warn!(error = %chain(&error), "Failed to keep a pod's state; it starts afresh after a restart of this node.");
        }
    }

    async fn fail(&mut self, reason: &str, message: String) {
        warn!(pod = %self.pod.full_name(), reason, %message, "The pod failed.");
        self.state.failure = Some((reason.to_owned(), message));
        self.keep_state().await;
    }

    fn start(&mut self, name: &str, attempt: u32) {
        let Some(container) = self.pod.all_containers().find(|container| container.name == name).cloned() else {
            return;
        };
        let Some(runtime) = self.runtime.clone() else { return };
        let spec = match self.container_spec(&container, attempt, &*runtime) {
            Ok(spec) => spec,
            Err(reason) => return self.hold(name, "CreateContainerConfigError", reason),
        };
        let cell = self.cells.entry(name.to_owned()).or_default();
        cell.acting = Some(Seen::Starting);
        cell.held_until = None;
        let (mailbox, id) = (self.mailbox.clone(), spec.id());
        tokio::spawn(async move {
            let result = match runtime.start(spec).await {
                Err(RuntimeError::AlreadyStarted(id)) => runtime.status(&id).await,
                Err(RuntimeError::Start { id, .. }) => runtime.status(&id).await,
                other => other,
            };
            // A worker that is gone needs no answer: the next one lists the containers.
            let _ = mailbox.send(Message::Started { id, result }).await;
        });
    }

    async fn started(&mut self, id: ContainerId, result: Result<ContainerStatus, RuntimeError>) {
        let name = id.container.clone();
        let cell = self.cells.entry(name.clone()).or_default();
        if cell.acting == Some(Seen::Starting) {
            cell.acting = None;
        }
        match result {
            Ok(status) => {
                for notice in &status.notices {
                    self.context.events.pod_warning(&self.pod, Some(&name), "Degraded", notice.clone());
                }
                if matches!(status.state, ContainerState::Running { .. })
                    || exit_of(&status).is_some_and(|e| e.started_at.is_some())
                {
                    info!(pod = %self.pod.full_name(), container = %name, attempt = id.attempt, "Started a container.");
                    self.context.events.pod(&self.pod, Some(&name), "Started", format!("Started container {name}"));
                } else if let Some(exit) = exit_of(&status) {
                    self.context.events.pod_warning(
                        &self.pod,
                        Some(&name),
                        "Failed",
                        format!("Error: {}", exit.message),
                    );
                }
                self.accept(status, false);
            }
            Err(error) => {
                let reason = match &error {
                    RuntimeError::Image { .. } => "ErrImagePull",
                    RuntimeError::ImageNotAllowed { .. } => "InvalidImageName",
                    _ => "CreateContainerError",
                };
                self.hold(&name, reason, chain(&error));
            }
        }
    }

    /// Holds a container back that could not even be tried.
    fn hold(&mut self, name: &str, reason: &str, message: String) {
        let now = Timestamp::now();
        let cell = self.cells.entry(name.to_owned()).or_default();
        cell.acting = None;
        if cell.backoff.ended(Duration::ZERO, now).is_zero() {
            cell.backoff.ended(Duration::ZERO, now);
        }
        let is_pending = message.contains("not fetched from the hub yet");
        let fallback = now.checked_add(SignedDuration::try_from(START_RETRY).unwrap_or_default()).unwrap_or(now);
        cell.held_until = Some(if is_pending { fallback } else { cell.backoff.holds_until(now).unwrap_or(fallback) });
        if cell.observed.waiting.as_ref().is_some_and(|old| old.reason == reason && old.message == message) {
            return;
        }
        if !is_pending {
            warn!(pod = %self.pod.full_name(), container = name, reason, %message, "Failed to start a container; trying again.");
            self.context.events.pod_warning(&self.pod, Some(name), "Failed", format!("Error: {message}"));
            self.context.board.error(format!("{} {name}: {message}", self.pod.full_name()));
        }
        let cell = self.cells.entry(name.to_owned()).or_default();
        cell.observed.waiting = Some(Waiting { reason: reason.to_owned(), message });
    }

    fn stop(&mut self, name: &str, grace: Duration) {
        let Some(runtime) = self.runtime.clone() else { return };
        let hook = self.pre_stop(name);
        let halted = self.halted;
        let Some(cell) = self.cells.get_mut(name) else { return };
        let Some(id) = cell.observed.current.as_ref().map(|status| status.id.clone()) else { return };
        let first = cell.acting != Some(Seen::Stopping);
        cell.acting = Some(Seen::Stopping);
        cell.end_probes();
        let grace = halted.map_or(grace, |limit| grace.min(limit));
        if first {
            info!(pod = %self.pod.full_name(), container = name, grace_s = grace.as_secs(), "Stopping a container.");
            let text = match cell.condemned {
                Some(_) => format!("Container {name} failed liveness probe, will be restarted"),
                None => format!("Stopping container {name}"),
            };
            self.context.events.pod(&self.pod, Some(name), "Killing", text);
        }
        let mailbox = self.mailbox.clone();
        tokio::spawn(async move {
            let begun = tokio::time::Instant::now();
            if let (Some(argv), true) = (hook, first && !grace.is_zero()) {
                // A hook that fails or hangs must not keep its container from ending.
                let _ = runtime.exec(&id, argv, grace).await;
            }
            // Two seconds are left to a program whose hook took all of its time, as kubelets do.
            let left = grace.saturating_sub(begun.elapsed()).max(grace.min(Duration::from_secs(2)));
            let result = runtime.stop(&id, left).await;
            if result.is_err() {
                // The worker tries again at once when it hears of this; a node in trouble needs a moment.
                tokio::time::sleep(STOP_RETRY).await;
            }
            let _ = mailbox.send(Message::Stopped { id, result }).await;
        });
    }

    fn pre_stop(&self, name: &str) -> Option<Vec<String>> {
        let container = self.pod.all_containers().find(|container| container.name == name)?;
        let command = container.lifecycle.as_ref()?["preStop"]["exec"]["command"].as_array()?;
        Some(command.iter().filter_map(|word| word.as_str().map(str::to_owned)).collect())
    }

    fn stopped(&mut self, id: &ContainerId, result: Result<ContainerStatus, RuntimeError>) {
        match result {
            Ok(status) => self.accept(status, false),
            Err(error) => {
                self.context.board.error(format!("stop {id}: {}", chain(&error)));
                warn!(container = %id, error = %chain(&error), "Failed to stop a container; trying again.");
                if let Some(cell) = self.cells.get_mut(&id.container) {
                    cell.acting = None;
                    if matches!(error, RuntimeError::NotFound(_)) {
                        cell.observed.current = None;
                    }
                }
            }
        }
    }

    fn begin_probes(&mut self, container: &Container, id: &ContainerId) {
        let Some(cell) = self.cells.get_mut(&container.name) else { return };
        cell.end_probes();
        cell.observed.started = container.startup_probe.is_none();
        cell.observed.ready = cell.observed.started && container.readiness_probe.is_none();
        let kinds: &[ProbeKind] = if container.startup_probe.is_some() {
            &[ProbeKind::Startup]
        } else {
            &[ProbeKind::Liveness, ProbeKind::Readiness]
        };
        self.spawn_probes(container, id, kinds);
    }

    fn spawn_probes(&mut self, container: &Container, id: &ContainerId, kinds: &[ProbeKind]) {
        let (Some(runtime), ip) = (self.runtime.clone(), self.context.probe_ip()) else { return };
        let Some(cell) = self.cells.get_mut(&container.name) else { return };
        for kind in kinds {
            let probe = match kind {
                ProbeKind::Startup => &container.startup_probe,
                ProbeKind::Liveness => &container.liveness_probe,
                ProbeKind::Readiness => &container.readiness_probe,
            };
            let Some(probe) = probe.clone() else { continue };
            let mailbox = self.mailbox.clone();
            // A full mailbox loses a failure that is told again with the next try; a verdict waits its turn.
            let report = move |report: ProbeReport| match mailbox.try_send(Message::Probe(report)) {
                Err(mpsc::error::TrySendError::Full(message)) => {
                    let mailbox = mailbox.clone();
                    tokio::spawn(async move { mailbox.send(message).await });
                }
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
            };
            cell.probes.spawn(probes::run(*kind, probe, container.clone(), id.clone(), runtime.clone(), ip, report));
        }
    }

    fn probed(&mut self, report: ProbeReport) {
        let name = report.id.container.clone();
        let Some(container) = self.pod.all_containers().find(|container| container.name == name).cloned() else {
            return;
        };
        let Some(cell) = self.cells.get_mut(&name) else { return };
        if !cell.is_running() || cell.observed.current.as_ref().is_none_or(|status| status.id != report.id) {
            return;
        }
        if let Some(failure) = &report.failure {
            let text = format!("{} probe failed: {failure}", report.kind.as_str());
            self.context.events.pod_warning(&self.pod, Some(&name), "Unhealthy", text);
        }
        let grace = |probe: &Option<crate::pods::model::Probe>| {
            let own = probe.as_ref().and_then(|probe| probe.termination_grace_period_seconds);
            own.and_then(|seconds| u64::try_from(seconds).ok()).map_or(self.pod.grace(), Duration::from_secs)
        };
        match (report.kind, report.verdict) {
            (_, None) | (ProbeKind::Liveness, Some(true)) => {}
            (ProbeKind::Readiness, Some(ready)) => cell.observed.ready = ready,
            (ProbeKind::Liveness, Some(false)) => cell.condemned = Some(grace(&container.liveness_probe)),
            (ProbeKind::Startup, Some(false)) => cell.condemned = Some(grace(&container.startup_probe)),
            (ProbeKind::Startup, Some(true)) => {
                cell.observed.started = true;
                cell.observed.ready = container.readiness_probe.is_none();
                self.spawn_probes(&container, &report.id, &[ProbeKind::Liveness, ProbeKind::Readiness]);
            }
        }
    }

    async fn publish(&mut self) {
        if self.is_history {
            return;
        }
        let finals: BTreeMap<String, bool> = self
            .pod
            .all_containers()
            .filter_map(|container| {
                let current = self.cells.get(&container.name)?.observed.current.as_ref()?;
                Some((container.name.clone(), exit_of(current).is_some() && !self.will_restart(container, current)))
            })
            .collect();
        for (name, is_final) in finals {
            if let Some(cell) = self.cells.get_mut(&name) {
                cell.observed.is_final = is_final;
                if is_final {
                    cell.observed.waiting = None;
                }
            }
        }
        let facts = Facts {
            pod: &self.pod,
            now: Timestamp::now(),
            node_ip: self.context.node_ip(),
            start_time: self.state.start_time,
            failure: self.state.failure.as_ref().map(|(reason, message)| (reason.as_str(), message.as_str())),
            volumes_ready: self.volumes.is_some(),
            ending: self.ending,
            handler: self.runtime.as_ref().map_or("none", |runtime| runtime.handler()),
        };
        let cells = &self.cells;
        let status = status::derive(&facts, |name| cells.get(name).map(|cell| &cell.observed), &self.status);
        if status == self.status {
            return;
        }
        for (name, message) in status::new_ephemeral(&status, &self.status) {
            self.context.events.pod_warning(&self.pod, Some(&name), status::EPHEMERAL_REASON, message);
        }
        self.status = status;
        self.context.board.set_pod(&self.pod.metadata.uid, self.report());
        let publication = Publication::Status {
            uid: self.pod.metadata.uid.clone(),
            namespace: self.pod.metadata.namespace.clone(),
            name: self.pod.metadata.name.clone(),
            status: self.status.clone(),
            base: self.stored_status.clone(),
        };
        self.context.publish(publication).await;
    }

    fn report(&self) -> PodReport {
        let restarts =
            self.cells.values().filter_map(|cell| cell.observed.current.as_ref()).map(|s| s.id.attempt).sum();
        let is_ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
        PodReport {
            pod: self.pod.full_name(),
            phase: self.status["phase"].as_str().unwrap_or_default().to_owned(),
            restarts,
            ready: self.status["conditions"].as_array().is_some_and(|list| list.iter().any(is_ready)),
        }
    }

    /// Removes what is left of the pod on the node and lets the hub remove the object.
    async fn finish(&mut self) {
        self.publish().await;
        if let Some(runtime) = &self.runtime {
            match runtime.list().await {
                Ok(containers) => {
                    for status in containers.iter().filter(|status| status.id.pod_uid == self.pod.metadata.uid) {
                        if let Err(error) = runtime.remove(&status.id).await {
                            warn!(container = %status.id, error = %chain(&error), "Failed to forget a container.");
                        }
                    }
                }
                Err(error) => {
                    warn!(error = %chain(&error), "Failed to list containers; what is left is swept at the next start.")
                }
            }
        }
        let dir = self.dir.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || volumes::remove(&dir)).await {
            self.context.board.error(format!("remove {}: {error}", self.dir.display()));
            warn!(dir = %self.dir.display(), %error, "Failed to remove a pod's folder; the next start sweeps it.");
        }
        info!(pod = %self.pod.full_name(), "The pod has ended.");
        self.context.board.remove_pod(&self.pod.metadata.uid);
        let uid = self.pod.metadata.uid.clone();
        let publication = if self.deleting && !self.pod.is_static() {
            let metadata = &self.pod.metadata;
            Publication::Finalize { uid, namespace: metadata.namespace.clone(), name: metadata.name.clone() }
        } else {
            Publication::Forget { uid }
        };
        self.context.publish(publication).await;
    }
}

impl Cell {
    fn view(&self) -> ContainerView {
        let state = match (self.acting, &self.observed.current) {
            (Some(acting), _) => acting,
            (None, None) => Seen::Nothing,
            (None, Some(status)) => match &status.state {
                ContainerState::Created => Seen::Starting,
                ContainerState::Running { .. } => Seen::Running,
                ContainerState::Exited(exit) => Seen::Exited(exit.exit_code),
            },
        };
        ContainerView {
            state,
            next_attempt: self.next_attempt,
            not_before: self.held_until,
            started: self.observed.started,
            condemned: self.condemned,
        }
    }

    fn is_running(&self) -> bool {
        self.observed.current.as_ref().is_some_and(|status| matches!(status.state, ContainerState::Running { .. }))
    }

    fn end_probes(&mut self) {
        // Dropping the set aborts its tasks.
        self.probes = JoinSet::new();
        self.observed.ready = false;
        self.observed.started = false;
    }

    /// Makes room for a new attempt: its predecessor becomes the last state, the one before that is forgotten.
    fn keep_as_previous(&mut self, runtime: &Option<Arc<dyn PodRuntime>>, pod_dir: &Path) {
        let Some(current) = self.observed.current.take() else { return };
        if let (Some(runtime), Some(attempt)) = (runtime.clone(), current.id.attempt.checked_sub(1)) {
            let forgotten = ContainerId { attempt, ..current.id.clone() };
            let pod_dir = pod_dir.to_owned();
            tokio::spawn(async move {
                // Either may be gone already; both are swept with the pod.
                let _ = runtime.remove(&forgotten).await;
                let sweep = move || crate::logs::remove_until(&pod_dir, &forgotten.container, attempt);
                let _ = tokio::task::spawn_blocking(sweep).await;
            });
        }
        self.observed.previous = exit_of(&current).cloned();
        self.observed.previous_id =
            Some(status::container_id(runtime.as_ref().map_or("none", |runtime| runtime.handler()), &current.id));
    }
}

fn between(start: Timestamp, end: Timestamp) -> Duration {
    Duration::try_from(end.duration_since(start)).unwrap_or(Duration::ZERO)
}

fn until(at: Timestamp) -> Duration {
    // A little past the moment, so that the clock has reached it when the decision is made.
    between(Timestamp::now(), at) + Duration::from_millis(5)
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
