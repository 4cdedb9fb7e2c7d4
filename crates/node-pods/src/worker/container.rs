//! The containers of a pod: what was observed of each, starting and stopping them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use node_runtime::{ContainerId, ContainerState, ContainerStatus, ExitRecord, PodRuntime, RuntimeError};
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::hooks::HookKind;
use super::image::{self, ImageOf};
use super::resizing::Resizing;
use super::spec::SpecParts;
use super::{Phase, Worker};
use crate::backoff::Backoff;
use crate::env::NodeFacts;
use crate::inbox::Done;
use crate::log_links::LogLinks;
use crate::model::Container;
use crate::reconcile::{ContainerPhase, ContainerView};
use crate::status::{self, Observed, Waiting, exit_of};

/// First pause after a start that failed before the program ran.
const START_RETRY: Duration = Duration::from_secs(10);
/// What the node reports while its disk keeps containers from starting.
const DISK_FAULT: &str = "containers";
/// Pause before a stop that failed is tried again.
const STOP_RETRY: Duration = Duration::from_secs(2);

/// Everything known about one container.
#[derive(Debug, Default)]
pub(super) struct ContainerRecord {
    pub observed: Observed,
    /// An operation that is under way.
    pub acting: Option<ContainerPhase>,
    pub next_attempt: u32,
    pub backoff: Backoff,
    pub held_until: Option<Timestamp>,
    /// It is to end and start again, within this.
    pub kill_requested: Option<Duration>,
    pub probes: JoinSet<()>,
    /// First attempt in the pod's present instance.
    pub first_attempt: u32,
    pub resizing: Resizing,
    /// The image that it waits for.
    pub awaited_image: Option<String>,
    /// Images have come since its start was begun, which may have missed them.
    pub may_have_missed: bool,
}

impl ContainerRecord {
    pub(super) fn view(&self) -> ContainerView {
        let state = match (self.acting, &self.observed.current) {
            (Some(acting), _) => acting,
            (None, None) => ContainerPhase::Nothing,
            (None, Some(status)) => match &status.state {
                ContainerState::Created => ContainerPhase::Starting,
                ContainerState::Running { .. } => ContainerPhase::Running,
                ContainerState::Exited(exit) => ContainerPhase::Exited(exit.exit_code),
            },
        };
        ContainerView {
            state,
            is_former: self.is_former(),
            next_attempt: self.next_attempt,
            not_before: self.held_until,
            started: self.observed.started,
            kill_requested: self.kill_requested,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.observed.current.as_ref().is_some_and(|status| matches!(status.state, ContainerState::Running { .. }))
    }

    /// Whether a status says nothing that is not known of a newer attempt, or of the end of this one.
    fn is_outdated(&self, status: &ContainerStatus) -> bool {
        self.observed.current.as_ref().is_some_and(|current| {
            status.id.attempt < current.id.attempt
                || (status.id.attempt == current.id.attempt && exit_of(current).is_some())
        })
    }

    /// A new attempt takes the place of the one before: that becomes the last state, what came before it is forgotten.
    fn keep_as_previous(&mut self, runtime: &Option<Arc<dyn PodRuntime>>, pod_dir: &Path) {
        let Some(current) = self.observed.current.take() else { return };
        if let (Some(runtime), Some(attempt)) = (runtime.clone(), current.id.attempt.checked_sub(1)) {
            let forgotten = ContainerId { attempt, ..current.id.clone() };
            let pod_dir = pod_dir.to_owned();
            base_observe::spawn_detached("forget-attempt", async move {
                // Either may be removed already; both are swept with the pod.
                let _ = runtime.remove(&forgotten).await;
                let sweep = move || crate::logs::remove_until(&pod_dir, &forgotten.container, attempt);
                let _ = tokio::task::spawn_blocking(sweep).await;
            });
        }
        self.observed.previous = exit_of(&current).cloned();
        let handler = runtime.as_ref().map_or(status::NO_HANDLER, |runtime| runtime.handler());
        self.observed.previous_id = Some(status::container_id(handler, &current.id));
    }
}

impl Worker {
    /// Takes over what an earlier kubelet left running or ended.
    pub(super) fn adopt(&mut self, mut containers: Vec<ContainerStatus>) {
        containers.sort_by(|a, b| a.id.cmp(&b.id));
        for status in containers {
            let name = status.id.container.clone();
            if self.pod.container(&name).is_some() {
                if matches!(status.state, ContainerState::Running { .. }) {
                    info!(pod = %self.pod.full_name(), container = %name, attempt = status.id.attempt, "Adopted a running container.");
                }
                self.accept(status, true);
            }
        }
        self.adopt_instance();
        self.restart_changed();
    }

    /// Takes note of how a container is.
    pub(super) fn accept(&mut self, status: ContainerStatus, is_adopted: bool) {
        let name = status.id.container.clone();
        let Some(container) = self.pod.container(&name).cloned() else { return };
        let runtime = self.runtime.clone();
        let record = self.containers.entry(name).or_default();
        if record.is_outdated(&status) {
            return;
        }
        if record.observed.current.as_ref().is_some_and(|current| status.id.attempt > current.id.attempt) {
            record.keep_as_previous(&runtime, &self.dir);
        }
        let is_new = record.observed.current.is_none();
        let was_running = record.is_running();
        if is_new && let Some(links) = self.shared.context.log_links.clone() {
            link_log(links, self.dir.clone(), &status);
        }
        record.next_attempt = status.id.attempt + 1;
        match &status.state {
            ContainerState::Created => record.observed.current = Some(status),
            ContainerState::Running { .. } => {
                record.observed.current = Some(status.clone());
                record.observed.waiting = None;
                if !was_running {
                    self.begin_probes(&container, &status, is_adopted);
                }
            }
            ContainerState::Exited(exit) => {
                let exit = exit.clone();
                record.acting = None;
                record.kill_requested = None;
                record.observed.current = Some(status);
                self.end_probes(&container.name);
                if !is_adopted {
                    self.exited(&container, &exit);
                }
            }
        }
    }

    /// A container has ended while we looked.
    fn exited(&mut self, container: &Container, exit: &ExitRecord) {
        let (name, code, reason) = (&container.name, exit.exit_code, exit.reason.as_str());
        info!(pod = %self.pod.full_name(), container = %name, exit_code = code, reason, "A container ended.");
        if !self.will_restart(container, exit) || self.is_ending() {
            return;
        }
        let now = Timestamp::now();
        let ran = exit.started_at.map_or(Duration::ZERO, |start| between(start, exit.finished_at));
        let Some(record) = self.containers.get_mut(name) else { return };
        let pause = record.backoff.ended(ran, now);
        record.held_until = record.backoff.holds_until(now);
        if pause.is_zero() {
            return;
        }
        let metadata = &self.pod.metadata;
        let message = format!(
            "back-off {}s restarting failed container={name} pod={}_{}({})",
            pause.as_secs(),
            metadata.name,
            metadata.namespace,
            metadata.uid
        );
        record.observed.waiting = Some(Waiting { reason: "CrashLoopBackOff".to_owned(), message });
        let text = format!("Back-off restarting failed container {name} in pod {}", metadata.name);
        self.shared.events.pod_warning(&self.pod, Some(name), "BackOff", text);
    }

    /// Whether a container that ended so is to start again.
    pub(super) fn will_restart(&self, container: &Container, exit: &ExitRecord) -> bool {
        if self.state.failure.is_some() || self.is_ending() {
            return false;
        }
        self.pod.restarts_after(container, exit.exit_code)
    }

    /// Has each running container start again whose image is not the desired one any more: the one field of a container that may change.
    pub(super) fn restart_changed(&mut self) {
        let grace = self.pod.grace();
        let mut changed = Vec::new();
        for container in self.pod.all_containers() {
            let Some(record) = self.containers.get(&container.name) else { continue };
            let runs_another = record.is_running()
                && record.observed.current.as_ref().is_some_and(|current| current.image != container.image);
            if runs_another && record.kill_requested.is_none() && self.phase == Phase::Active {
                changed.push(container.name.clone());
            }
        }
        for name in changed {
            let text = format!("Container {name} definition changed, will be restarted");
            self.shared.events.pod(&self.pod, Some(&name), "Killing", text);
            if let Some(record) = self.containers.get_mut(&name) {
                record.kill_requested = Some(grace);
            }
        }
    }

    /// Begins an attempt of a container.
    pub(super) fn start(&mut self, name: &str, attempt: u32) {
        let Some(container) = self.pod.container(name).cloned() else { return };
        let Some(runtime) = self.runtime.clone() else { return };
        let images = ImageOf::all(&self.pod, &container, &self.shared.context.store);
        let parts = SpecParts {
            pod: self.pod.clone(),
            container,
            attempt,
            places: self.volumes.places().cloned().unwrap_or_default(),
            facts: self.facts(),
            addresses: self.addresses().to_vec(),
            dns: self.shared.context.dns.clone(),
            store: self.shared.context.store.clone(),
            dir: self.dir.clone(),
        };
        let record = self.containers.entry(name.to_owned()).or_default();
        record.acting = Some(ContainerPhase::Starting);
        record.held_until = None;
        record.awaited_image = None;
        record.may_have_missed = false;
        let (inbox, name) = (self.inbox.clone(), name.to_owned());
        base_observe::spawn_detached("container-start", async move {
            let planning = runtime.clone();
            // It reads and writes files, which may be slow.
            let spec = match tokio::task::spawn_blocking(move || parts.spec(&*planning)).await {
                Ok(Ok(spec)) => spec,
                Ok(Err(reason)) => return inbox.done(Done::NotStarted { container: name, reason }),
                Err(error) => return inbox.done(Done::NotStarted { container: name, reason: error.to_string() }),
            };
            let id = spec.id();
            for image in images {
                if let Err(error) = image.ensure(&*runtime, &inbox).await {
                    return inbox.done(Done::Started { id, result: Err(error) });
                }
            }
            let result = match runtime.start(spec).await {
                Err(RuntimeError::AlreadyStarted(id) | RuntimeError::Start { id, .. }) => runtime.status(&id).await,
                other => other,
            };
            // A worker that has ended needs no answer: the next one lists the containers.
            inbox.done(Done::Started { id, result });
        });
    }

    /// What the pod's variables may refer to.
    fn facts(&self) -> NodeFacts {
        let mut facts = self.shared.facts();
        facts.has_services =
            self.runtime.as_ref().is_some_and(|runtime| runtime.handler() == api_edge::RUNTIME_CONTAINER);
        facts.pod_ips = self.addresses().iter().map(ToString::to_string).collect();
        if !facts.pod_ips.is_empty() && self.shared.context.service_api.is_some() {
            facts.hub.clone_from(&self.shared.context.service_api);
        }
        facts
    }

    pub(super) fn started(&mut self, id: ContainerId, result: Result<ContainerStatus, RuntimeError>) {
        let name = id.container.clone();
        let record = self.containers.entry(name.clone()).or_default();
        if record.acting == Some(ContainerPhase::Starting) {
            record.acting = None;
        }
        // The stop that cancelled it says the rest.
        if matches!(result, Err(RuntimeError::Cancelled(_))) {
            return;
        }
        let status = match result {
            Ok(status) => status,
            Err(error) => {
                if let RuntimeError::Io { source, .. } = &error {
                    self.report_disk(source);
                }
                return self.hold_failed(&name, &error);
            }
        };
        let events = &self.shared.events;
        for notice in &status.notices {
            events.pod_warning(&self.pod, Some(&name), "Degraded", notice.clone());
        }
        let has_run = exit_of(&status).is_some_and(|exit| exit.started_at.is_some());
        if matches!(status.state, ContainerState::Running { .. }) || has_run {
            info!(pod = %self.pod.full_name(), container = %name, attempt = id.attempt, "Started a container.");
            self.shared.context.registry.clear_fault(DISK_FAULT);
            events.pod(&self.pod, Some(&name), "Created", format!("Created container: {name}"));
            events.pod(&self.pod, Some(&name), "Started", format!("Started container {name}"));
        } else if let Some(exit) = exit_of(&status) {
            events.pod_warning(&self.pod, Some(&name), "Failed", format!("Error: {}", exit.message));
        }
        self.accept(status, false);
    }

    /// Holds a container back whose start has failed, in upstream's words.
    fn hold_failed(&mut self, name: &str, error: &RuntimeError) {
        let message = node_client::chain(error);
        if let RuntimeError::Pull { image, .. } = error {
            self.await_image(name, image);
        }
        let reason = match error {
            RuntimeError::Image { .. } => "ErrImagePull",
            RuntimeError::ImageNotAllowed { .. } | RuntimeError::ImageName { .. } => "InvalidImageName",
            RuntimeError::Pull { reason, image, .. } => {
                let record = self.containers.entry(name.to_owned()).or_default();
                let waited = record.observed.waiting.as_ref().map(|waiting| waiting.reason.as_str());
                if *reason == image::NEVER_PULLED || !matches!(waited, Some("ErrImagePull" | "ImagePullBackOff")) {
                    return self.hold(name, reason, message);
                }
                // Once said; from then on it is the pause that is seen.
                let text = format!("Back-off pulling image \"{image}\": {reason}: {message}");
                self.shared.events.pod(&self.pod, Some(name), "BackOff", format!("Back-off pulling image \"{image}\""));
                return self.hold(name, "ImagePullBackOff", text);
            }
            _ => "CreateContainerError",
        };
        self.hold(name, reason, message);
    }

    /// A disk that takes no file keeps every container from starting, not this one alone: the node says so.
    pub(super) fn report_disk(&self, error: &std::io::Error) {
        use std::io::ErrorKind;
        if matches!(error.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
            let text = format!("no container can be started: {error}");
            self.shared.context.registry.set_fault(DISK_FAULT, text);
        }
    }

    /// Holds a container back that could not even be tried.
    pub(super) fn hold(&mut self, name: &str, reason: &str, message: String) {
        let now = Timestamp::now();
        let record = self.containers.entry(name.to_owned()).or_default();
        record.acting = None;
        if record.backoff.ended(Duration::ZERO, now).is_zero() {
            record.backoff.ended(Duration::ZERO, now);
        }
        let is_pending = message.contains("not fetched from the hub yet");
        let fallback = now.checked_add(SignedDuration::try_from(START_RETRY).unwrap_or_default()).unwrap_or(now);
        record.held_until =
            Some(if is_pending { fallback } else { record.backoff.holds_until(now).unwrap_or(fallback) });
        if record.observed.waiting.as_ref().is_some_and(|old| old.reason == reason && old.message == message) {
            return;
        }
        record.observed.waiting = Some(Waiting { reason: reason.to_owned(), message: message.clone() });
        if !is_pending {
            warn!(pod = %self.pod.full_name(), container = name, reason, %message, "Failed to start a container; trying again.");
            self.shared.events.pod_warning(&self.pod, Some(name), "Failed", format!("Error: {message}"));
            self.shared.context.registry.error(format!("{} {name}: {message}", self.pod.full_name()));
        }
    }

    /// Begins to stop a container, or stops it sooner than was begun.
    pub(super) fn stop(&mut self, name: &str, grace: Duration) {
        let Some(runtime) = self.runtime.clone() else { return };
        let limit = self.halt.as_ref().map(|halt| halt.grace);
        let Some(record) = self.containers.get_mut(name) else { return };
        let id = match (&record.observed.current, record.acting) {
            // A start under way is cancelled by the id that it will have.
            (_, Some(ContainerPhase::Starting)) | (None, _) => ContainerId {
                pod_uid: self.pod.metadata.uid.clone(),
                container: name.to_owned(),
                attempt: record.next_attempt,
            },
            (Some(status), _) => status.id.clone(),
        };
        let runs = record.is_running();
        let is_first = record.acting != Some(ContainerPhase::Stopping);
        record.acting = Some(ContainerPhase::Stopping);
        let is_restart = record.kill_requested.is_some();
        self.end_probes(name);
        let grace = limit.map_or(grace, |limit| grace.min(limit));
        if is_first {
            info!(pod = %self.pod.full_name(), container = name, grace_s = grace.as_secs(), "Stopping a container.");
            if !is_restart {
                self.shared.events.pod(&self.pod, Some(name), "Killing", format!("Stopping container {name}"));
            }
        }
        // What has not run has nothing to say goodbye to.
        let hook = self.hook(&id, HookKind::PreStop).filter(|_| is_first && runs && !grace.is_zero());
        let inbox = self.inbox.clone();
        base_observe::spawn_detached("container-stop", async move {
            let begun = tokio::time::Instant::now();
            // A hook that fails or hangs must not keep its container from ending.
            if let Some(hook) = hook
                && let Err(why) = hook.run(&*runtime, grace).await
            {
                inbox.done(Done::Hook { id: id.clone(), kind: HookKind::PreStop, result: Err(why) });
            }
            // Two seconds are left to a program whose hook took all of its time, as kubelets do.
            let left = grace.saturating_sub(begun.elapsed()).max(grace.min(Duration::from_secs(2)));
            let result = runtime.stop(&id, left).await;
            if result.is_err() {
                // The worker tries again at once when it hears of this; a node in trouble needs a moment.
                tokio::time::sleep(STOP_RETRY).await;
            }
            inbox.done(Done::Stopped { id, result });
        });
    }

    pub(super) fn stopped(&mut self, id: &ContainerId, result: Result<ContainerStatus, RuntimeError>) {
        match result {
            Ok(status) => self.accept(status, false),
            Err(error) => {
                let text = node_client::chain(&error);
                self.shared.context.registry.error(format!("stop {id}: {text}"));
                warn!(container = %id, error = %text, "Failed to stop a container; trying again.");
                if let Some(record) = self.containers.get_mut(&id.container) {
                    record.acting = None;
                    if matches!(error, RuntimeError::NotFound(_)) {
                        record.observed.current = None;
                    }
                }
            }
        }
    }
}

/// Shows collectors a new log; a container runs without it.
fn link_log(links: LogLinks, pod_dir: PathBuf, status: &ContainerStatus) {
    let (id, log) = (status.id.clone(), status.log_path.clone());
    base_observe::spawn_blocking_named("log-link", move || {
        if let Err(error) = links.add(&pod_dir, &id, &log) {
            warn!(container = %id, %error, "Collectors do not find the log of a container.");
        }
    });
}

/// From one moment to a later one; zero when it is not later.
pub(super) fn between(start: Timestamp, end: Timestamp) -> Duration {
    Duration::try_from(end.duration_since(start)).unwrap_or(Duration::ZERO)
}
