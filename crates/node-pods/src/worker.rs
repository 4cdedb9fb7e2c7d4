//! One pod's worker: asks [`reconcile::decide`] what to do, does it, and waits for the next change.
//!
//! # What it holds to
//!
//! - **It waits for nothing but its inbox and the clock.** Starting, stopping, preparing volumes, probing, removing: each runs as a task
//!   of its own and comes back as a message. So a pod can be reported to end at any moment, whatever hangs: a share that does not
//!   answer, a hub, a compiler, a probe.
//! - **Each of these is under way at most once**, so what a pod may cost is known, and a thing that hangs is not tried a thousand times.
//! - **Deciding is a plain function** of what is desired and what was observed ([`reconcile`]). Every action may be repeated: the runtime
//!   starts an attempt once.
//! - **Nothing observed is believed over something newer.** Containers are distinguished by their attempt; an event may be late.
//!
//! # The life of a pod here
//!
//! ```text
//!              ┌─ History      over before this start: reported, not run
//!   admitted ──┼─ Unsupported  no runtime here: stays Pending
//!              └─ Active ──delete, end──▶ Ending ──nothing runs──▶ Removing ──▶ (the worker ends)
//!                   │ fails as a whole: state.failure, nothing of it runs again
//!                   │ halted: the node stops, the pod stays desired
//! ```
//!
//! # The life of a container here
//!
//! [`ContainerRecord::phase`] is one of `Nothing`, `Starting`, `Running`, `Stopping`, `Exited`. An operation under way (`acting`) hides what
//! is observed until it is done. Between two attempts `held_until` keeps the next one back; an attempt that could not even be tried
//! spends no attempt, one that was tried does.
//!
//! # What a crash leaves
//!
//! | killed | the next worker finds |
//! | --- | --- |
//! | while volumes are prepared | no container; prepares them again, what is there stays |
//! | after a start was asked for | the attempt in the runtime's list: running, or ended without its program |
//! | while it runs | the container, adopted; ready and started as last reported, until the first probe |
//! | while it stops | the container; the desired state stops it again |
//! | while it is removed | no container, or one that ended: the hub's deletion, or its next list, ends the pod again |
//!
//! Start reading at `run.rs`; then `container.rs`.

mod container;
mod hooks;
mod image;
mod instance;
mod pre_pull;
mod probing;
mod resizing;
mod run;
mod spec;
mod status;
mod termination;
mod volumes;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use node_runtime::{ContainerStatus, PodRuntime};
use serde_json::Value;
use tokio::sync::oneshot;

use crate::inbox::Inbox;
use crate::manager::Shared;
use crate::model::Pod;
use crate::packed::Packed;
use crate::reconcile;
use crate::status::{Waiting, runs_ephemeral};
use crate::store::PodState;
use container::ContainerRecord;
pub(crate) use hooks::HookKind;
use pre_pull::PrePull;
pub(crate) use pre_pull::PrePulled;
use volumes::PodVolumes;

/// What a worker begins with.
pub(crate) struct WorkerInit {
    pub pod: Pod,
    /// `status` of the Pod object as it was stored.
    pub stored_status: Value,
    pub runtime: Option<Arc<dyn PodRuntime>>,
    pub state: PodState,
    /// Whether `state` is not on disk yet.
    pub state_is_news: bool,
    /// Containers that an earlier kubelet started.
    pub containers: Vec<ContainerStatus>,
    /// The pod had come to its end before, and nothing of it is left to look at.
    pub is_history: bool,
    /// Why nothing here runs it: it stays Pending and says so. A version that does begins with it anew.
    pub unsupported: Option<Waiting>,
    /// Where the worker says that nothing of the pod will run again.
    pub is_over: Arc<AtomicBool>,
}

/// Where a pod is in its life on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It had come to its end before this worker began.
    History,
    /// No runtime here runs it.
    Unsupported,
    /// Its containers are to run.
    Active,
    /// Its containers are to stop.
    Ending,
    /// What is left of it is being removed.
    Removing,
}

/// Everything is to stop, though the pod stays desired: the node stops.
struct Halt {
    grace: Duration,
    /// Notified once nothing is active any more; dropped with the worker.
    done: Option<oneshot::Sender<()>>,
}

pub(crate) struct Worker {
    shared: Arc<Shared>,
    pod: Pod,
    phase: Phase,
    halt: Option<Halt>,
    /// Whether the pod's failure is of this life of the agent alone.
    forgets_failure: bool,
    runtime: Option<Arc<dyn PodRuntime>>,
    state: PodState,
    kept: Arc<NewestState>,
    containers: BTreeMap<String, ContainerRecord>,
    volumes: PodVolumes,
    pre_pull: PrePull,
    /// Names of those Secrets with credentials of registries that were said not to exist.
    missing_secrets: Vec<String>,
    /// Why the hub issues no token.
    token_rejection: Option<String>,
    stored_status: Packed,
    status: Packed,
    reported: Reported,
    is_over: Arc<AtomicBool>,
    inbox: Inbox,
    dir: PathBuf,
}

/// How often what was reported may be kept.
#[derive(Debug, Default)]
struct Reported {
    /// The moments at which it was kept last, oldest first.
    kept_at: std::collections::VecDeque<tokio::time::Instant>,
    /// There is news, to be kept when the pause is over.
    is_outdated: bool,
}

/// The status as it was stored, with what was reported after that.
fn with_reported(status: Value, reported: &Value) -> Value {
    let (Value::Object(mut fields), Value::Object(newer)) = (status.clone(), reported) else { return status };
    fields.extend(newer.clone());
    Value::Object(fields)
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>, init: WorkerInit, inbox: Inbox) -> Self {
        let is_ending = init.pod.metadata.deletion_timestamp.is_some();
        let phase = match (is_ending, init.is_history, &init.unsupported) {
            (true, ..) => Phase::Ending,
            (_, true, _) => Phase::History,
            (.., Some(_)) => Phase::Unsupported,
            _ => Phase::Active,
        };
        let reported = init.state.reported.clone();
        let mut worker = Self {
            dir: shared.pod_dir(&init.pod),
            shared,
            phase,
            halt: None,
            forgets_failure: false,
            runtime: init.runtime,
            state: init.state,
            kept: Arc::default(),
            containers: BTreeMap::new(),
            volumes: PodVolumes::default(),
            pre_pull: PrePull::default(),
            missing_secrets: Vec::new(),
            token_rejection: None,
            status: Packed::from(&with_reported(init.stored_status.clone(), &reported)),
            stored_status: Packed::from(&init.stored_status),
            reported: Reported::default(),
            is_over: init.is_over,
            inbox,
            pod: init.pod,
        };
        worker.adopt(init.containers);
        if init.state_is_news {
            worker.keep_state(true);
        }
        if let Some(waiting) = init.unsupported {
            for container in worker.pod.all_containers() {
                worker.containers.entry(container.name.clone()).or_default().observed.waiting = Some(waiting.clone());
            }
        }
        worker
    }

    /// Whether its containers are to stop for good.
    fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Ending | Phase::Removing)
    }

    fn decide(&self) -> reconcile::Decision {
        if matches!(self.phase, Phase::History | Phase::Unsupported | Phase::Removing) {
            return reconcile::Decision::default();
        }
        let containers = self.containers.iter().map(|(name, record)| (name.clone(), record.view())).collect();
        reconcile::decide(&reconcile::View {
            pod: &self.pod,
            now: Timestamp::now(),
            ending: self.is_ending(),
            failed: self.state.failure.is_some() || self.halt.is_some(),
            start_time: self.state.start_time,
            volumes_ready: self.volumes.places().is_some(),
            runs_ephemeral: self.runtime.as_ref().is_some_and(|runtime| runs_ephemeral(runtime.handler())),
            containers: &containers,
        })
    }

    /// Keeps on disk what was decided about the pod, beside everything else. `is_urgent`: it must be there after a power cut.
    fn keep_state(&self, is_urgent: bool) {
        let mut state = self.state.clone();
        if self.forgets_failure {
            (state.failure, state.is_disrupted) = (None, false);
        }
        self.kept.set(state);
        let (kept, store) = (self.kept.clone(), self.shared.context.store.clone());
        let (uid, registry) = (self.pod.metadata.uid.clone(), self.shared.context.registry.clone());
        base_observe::spawn_blocking_named("pod-state", move || {
            if let Err(error) = kept.write(|state| store.put_pod_state(&uid, state, is_urgent)) {
                let text = node_client::chain(&error);
                tracing::warn!(error = %text, "Failed to keep a pod's state; it starts afresh after a restart of this node.");
                registry.error(text);
            }
        });
    }
}

/// The newest state of a pod, on its way to the disk. Writes run beside the worker, on whatever thread is free: each takes the newest
/// there is when its turn comes, so a late one never puts back what came before.
#[derive(Debug, Default)]
struct NewestState {
    newest: Mutex<PodState>,
    /// Held while the disk is written to; the worker never waits for it.
    writing: Mutex<()>,
}

impl NewestState {
    fn set(&self, state: PodState) {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    fn write<E>(&self, write: impl FnOnce(&PodState) -> Result<(), E>) -> Result<(), E> {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        write(&newest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_comes_late_does_not_bring_an_older_state_back() {
        let kept = NewestState::default();
        let failed = PodState { failure: Some(("Evicted".into(), String::new())), ..PodState::default() };
        kept.set(PodState::default());
        kept.set(failed.clone());
        let mut on_disk = Vec::new();
        for _ in 0..2 {
            kept.write(|state| {
                on_disk.push(state.clone());
                Ok::<(), ()>(())
            })
            .unwrap();
        }
        assert_eq!(on_disk, [failed.clone(), failed]);
    }
}
