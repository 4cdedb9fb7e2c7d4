//! A worker's inbox: whoever has something for a pod leaves it here and continues.
//!
//! A queue of messages has an end, and whoever meets it waits. So the manager once waited for a worker that waited for a share that did
//! not answer, and with it the whole node. Here each kind of message has its own place, in which the newest replaces the one
//! before: a pod that changes a thousand times while its worker is busy is one update. What is left is bounded by the pod's own
//! size, and leaving it never waits.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use node_runtime::{ContainerId, ContainerStatus, PodInstance, RuntimeError};
use tokio::sync::{Notify, oneshot};

use crate::model::Pod;
use crate::probes::{ProbeKind, ProbeReport};
use crate::volumes::{Prepared, VolumeError};
use crate::worker::{HookKind, PrePulled};

/// Everything that waits for a worker.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    /// The pod as the hub has it now.
    pub update: Option<Box<Pod>>,
    /// The pod is no longer desired.
    pub end: bool,
    /// Whether the pod is on hold, when that has changed.
    pub hold: Option<bool>,
    /// Stop everything, but keep the desired state.
    pub halt: Option<(Duration, oneshot::Sender<()>)>,
    /// The pod is to fail as a whole.
    pub termination: Option<Termination>,
    /// Objects the pod refers to have changed, or its token.
    pub refresh: bool,
    /// Images have come to the node.
    pub images_added: bool,
    /// The hub issues no token for the pod, for now.
    pub token_rejection: Option<String>,
    /// What the runtime saw last of each container.
    pub containers: BTreeMap<String, ContainerStatus>,
    /// Operations that came to their end. A worker has at most one start and one stop under way for each container.
    pub done: Vec<Done>,
    /// What each probe found last.
    pub probes: BTreeMap<(String, ProbeKind), ProbeReport>,
}

/// Why a pod has to end although it is desired.
#[derive(Debug)]
pub(crate) struct Termination {
    /// `status.reason`.
    pub reason: &'static str,
    /// `status.message`.
    pub message: String,
    /// How long its containers get to end by themselves, at most.
    pub grace: Duration,
    /// Whether it stays ended at the next start of the agent.
    pub is_kept: bool,
    /// Notified once nothing of it is active any more.
    pub done: oneshot::Sender<()>,
}

/// The end of something that ran beside the worker.
#[derive(Debug)]
pub(crate) enum Done {
    /// A start.
    Started { id: ContainerId, result: Result<ContainerStatus, RuntimeError> },
    /// A start that could not even be tried.
    NotStarted { container: String, reason: String },
    /// How an image that a container needs is being had.
    Image { container: String, image: String, news: ImageNews },
    /// The pod's Secrets with credentials of registries were read; these do not exist.
    PullSecrets { missing: Vec<String> },
    /// An image that a container waits for has come by other ways.
    ImageHere { container: String, image: String },
    /// An image that the pod has fetched ahead.
    PrePulled(PrePulled),
    /// A hook: one after a start came to its end, or one before a stop has failed.
    Hook { id: ContainerId, kind: HookKind, result: Result<(), String> },
    /// A change of what a container gets.
    Resized { id: ContainerId, result: Result<ContainerStatus, RuntimeError> },
    /// A stop.
    Stopped { id: ContainerId, result: Result<ContainerStatus, RuntimeError> },
    /// The runtime has set the pod up.
    SetUp(PodInstance),
    /// It could not.
    NotSetUp { why: String, is_needed: bool },
    /// Volumes were prepared, and the containers looked at by the runtime.
    Volumes(Result<Prepared, VolumeError>),
    /// Volumes with a limit were measured: what the worst of them has too much, and how long that took.
    Measured { excess: Option<String>, took: Duration },
    /// Volumes take longer than they should.
    VolumesSlow,
    /// The volumes' task died.
    VolumesDied(String),
    /// The pod cannot run on this node, for this reason.
    Rejected(crate::admission::AdmissionError),
    /// What was left of the pod is removed, or could not be.
    Removed(Result<(), String>),
}

/// What there is to say of an image that a container is started from.
#[derive(Debug)]
pub(crate) enum ImageNews {
    /// It was here.
    Present,
    /// It is being fetched.
    Pulling,
    /// It was fetched: how many bytes, and in what time.
    Pulled { bytes: u64, took: Duration },
    /// No registry answered; what is here is used.
    OutOfReach { why: String },
}

/// Where messages for one worker are left. Clones are the same inbox.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inbox(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    messages: Mutex<Messages>,
    notify: Notify,
}

impl Inbox {
    fn change(&self, change: impl FnOnce(&mut Messages)) {
        change(&mut self.messages());
        self.0.notify.notify_one();
    }

    fn messages(&self) -> MutexGuard<'_, Messages> {
        // Every change is complete in itself.
        self.0.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn update(&self, pod: Pod) {
        self.change(|messages| messages.update = Some(Box::new(pod)));
    }

    /// Something that the worker reads by itself has changed.
    pub(crate) fn wake(&self) {
        self.0.notify.notify_one();
    }

    pub(crate) fn end(&self) {
        self.change(|messages| messages.end = true);
    }

    pub(crate) fn hold(&self, on_hold: bool) {
        self.change(|messages| messages.hold = Some(on_hold));
    }

    /// Stops everything within the grace; what is returned resolves when nothing of the pod is active.
    pub(crate) fn halt(&self, grace: Duration) -> oneshot::Receiver<()> {
        let (done, halted) = oneshot::channel();
        self.change(|messages| messages.halt = Some((grace, done)));
        halted
    }

    pub(crate) fn terminate(&self, termination: Termination) {
        self.change(|messages| messages.termination = Some(termination));
    }

    pub(crate) fn refresh(&self) {
        self.change(|messages| messages.refresh = true);
    }

    pub(crate) fn images_added(&self) {
        self.change(|messages| messages.images_added = true);
    }

    pub(crate) fn token_rejected(&self, why: String) {
        self.change(|messages| messages.token_rejection = Some(why));
    }

    pub(crate) fn container(&self, status: ContainerStatus) {
        self.change(|messages| {
            let name = status.id.container.clone();
            let is_older = messages.containers.get(&name).is_some_and(|known| status.id.attempt < known.id.attempt);
            if !is_older {
                messages.containers.insert(name, status);
            }
        });
    }

    pub(crate) fn done(&self, done: Done) {
        self.change(|messages| messages.done.push(done));
    }

    pub(crate) fn probe(&self, mut report: ProbeReport) {
        self.change(|messages| {
            let key = (report.id.container.clone(), report.kind);
            // A verdict is said once; a failure that follows it must not replace it.
            if let Some(before) = messages.probes.remove(&key).filter(|before| before.id == report.id) {
                report.verdict = report.verdict.or(before.verdict);
                report.failure = report.failure.or(before.failure);
                report.warning = report.warning.or(before.warning);
            }
            messages.probes.insert(key, report);
        });
    }

    /// Waits until something is there.
    pub(crate) async fn wait(&self) {
        self.0.notify.notified().await;
    }

    /// Takes all that is there.
    pub(crate) fn take(&self) -> Messages {
        std::mem::take(&mut self.messages())
    }
}
