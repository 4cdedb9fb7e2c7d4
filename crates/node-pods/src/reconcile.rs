//! What to do next about a pod: a plain function of what is desired and what was observed.
//!
//! [`decide`] is asked again after every change, so it returns only what can be done now, and when to ask at the
//! latest. Doing one of its actions twice does no harm: a start is made once per attempt by the runtime itself.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::model::{Container, Pod, RestartPolicy};

/// Everything a decision depends on.
#[derive(Clone, Debug)]
pub(crate) struct View<'a> {
    pub pod: &'a Pod,
    pub now: Timestamp,
    /// Why the pod must end: deleted, or no longer desired.
    pub ending: bool,
    /// Why the pod has failed as a whole: nothing of it may run again.
    pub failed: bool,
    pub start_time: Option<Timestamp>,
    pub volumes_ready: bool,
    /// Whether the runtime starts what is added to a running pod.
    pub runs_ephemeral: bool,
    pub containers: &'a BTreeMap<String, ContainerView>,
}

/// One container as the worker knows it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ContainerView {
    pub state: ContainerPhase,
    /// What was seen of it last was in a former instance of the pod, before the machine was restarted.
    pub is_former: bool,
    /// The attempt that a start would be.
    pub next_attempt: u32,
    /// No start before this.
    pub not_before: Option<Timestamp>,
    /// Its startup probe, if any, has succeeded.
    pub started: bool,
    /// Liveness or startup probe has given it up; how long it gets to end.
    pub kill_requested: Option<Duration>,
}

/// Where a container is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ContainerPhase {
    /// Never started.
    #[default]
    Nothing,
    /// Being started.
    Starting,
    /// Its program runs.
    Running,
    /// Being stopped.
    Stopping,
    /// Ended with this exit code.
    Exited(i32),
}

impl ContainerPhase {
    pub(crate) fn is_active(self) -> bool {
        matches!(self, Self::Starting | Self::Running | Self::Stopping)
    }
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Put the volumes in place.
    PrepareVolumes,
    /// Start a container.
    Start { container: String, attempt: u32 },
    /// Stop a container.
    Stop { container: String, grace: Duration },
    /// The whole pod fails for this reason.
    Fail { reason: &'static str, message: String },
    /// Nothing runs and nothing should: clean up and report to the hub.
    Finish,
}

/// What to do now, and when to look again at the latest.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Decision {
    pub actions: Vec<Action>,
    pub look_again_at: Option<Timestamp>,
}

impl Decision {
    fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    fn wait_until(&mut self, at: Timestamp) {
        self.look_again_at = Some(self.look_again_at.map_or(at, |earlier| earlier.min(at)));
    }
}

/// Decides what to do about a pod.
pub(crate) fn decide(view: &View<'_>) -> Decision {
    let mut decision = Decision::default();
    if view.ending || view.failed {
        stop_all(view, &mut decision);
        if decision.actions.is_empty() && view.ending && !any_active(view) {
            decision.act(Action::Finish);
        }
        return decision;
    }
    if let (Some(deadline), Some(start)) = (view.pod.spec.active_deadline_seconds, view.start_time) {
        let end = start.checked_add(SignedDuration::from_secs(deadline)).unwrap_or(Timestamp::MAX);
        if view.now >= end && !is_complete(view) {
            let message = "Pod was active on the node longer than the specified deadline".to_owned();
            decision.act(Action::Fail { reason: "DeadlineExceeded", message });
            return decision;
        }
        decision.wait_until(end);
    }
    if is_complete(view) {
        decision.look_again_at = None;
        // Sidecars have nobody left to help.
        stop_all(view, &mut decision);
        return decision;
    }
    if !view.volumes_ready {
        decision.act(Action::PrepareVolumes);
        return decision;
    }
    start_ephemeral(view, &mut decision);
    if initialise(view, &mut decision) {
        for container in &view.pod.spec.containers {
            reconcile_container(view, container, view.pod.spec.restart_policy, &mut decision);
        }
    }
    decision
}

/// Starts what was added to the running pod, each once: whatever becomes of it, nobody has asked for a second one. They wait for no
/// init container, which may be what they are to look into.
fn start_ephemeral(view: &View<'_>, decision: &mut Decision) {
    for container in view.pod.spec.ephemeral_containers.iter().filter(|_| view.runs_ephemeral) {
        reconcile_container(view, container, RestartPolicy::Never, decision);
    }
}

/// Runs the init containers in order; answers whether the others may run.
fn initialise(view: &View<'_>, decision: &mut Decision) -> bool {
    // Once an app container was created in this instance, the ordinary init containers are history, whatever became of their records.
    let is_created =
        |container: &Container| seen(view, container) != ContainerPhase::Nothing && !is_former(view, container);
    let initialised = view.pod.spec.containers.iter().any(is_created);
    for container in &view.pod.spec.init_containers {
        let state = seen(view, container);
        let is_done = state == ContainerPhase::Exited(0) && !is_former(view, container);
        if container.is_sidecar() {
            reconcile_container(view, container, RestartPolicy::Always, decision);
            let up =
                state == ContainerPhase::Running && view.containers.get(&container.name).is_some_and(|c| c.started);
            if !up && !initialised {
                return false;
            }
        } else if !initialised && !is_done {
            // An init container that may be tried again is, even under `Always`: it must succeed once.
            let policy = match view.pod.spec.restart_policy {
                RestartPolicy::Never => RestartPolicy::Never,
                RestartPolicy::Always | RestartPolicy::OnFailure => RestartPolicy::OnFailure,
            };
            reconcile_container(view, container, policy, decision);
            return false;
        }
    }
    true
}

/// Starts, restarts or stops one container as its state and `policy` ask for.
fn reconcile_container(view: &View<'_>, container: &Container, policy: RestartPolicy, decision: &mut Decision) {
    let fresh = ContainerView::default();
    let known = view.containers.get(&container.name).unwrap_or(&fresh);
    match known.state {
        ContainerPhase::Starting | ContainerPhase::Stopping => {}
        ContainerPhase::Running => {
            if let Some(grace) = known.kill_requested {
                decision.act(Action::Stop { container: container.name.clone(), grace });
            }
        }
        ContainerPhase::Nothing | ContainerPhase::Exited(_) => {
            // What an init container did before the machine was restarted is to be done again.
            let is_init = view.pod.spec.init_containers.iter().any(|init| init.name == container.name);
            let is_repeated = is_init && known.is_former;
            if !restarts(known.state, policy) && !is_repeated {
                return;
            }
            match known.not_before.filter(|at| *at > view.now) {
                Some(at) => decision.wait_until(at),
                None => decision.act(Action::Start { container: container.name.clone(), attempt: known.next_attempt }),
            }
        }
    }
}

/// Whether a container in `state` is to be started.
fn restarts(state: ContainerPhase, policy: RestartPolicy) -> bool {
    match state {
        ContainerPhase::Nothing => true,
        ContainerPhase::Exited(code) => match policy {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => code != 0,
            RestartPolicy::Never => false,
        },
        ContainerPhase::Starting | ContainerPhase::Running | ContainerPhase::Stopping => false,
    }
}

/// Stops what runs: the app and init containers first, sidecars in reverse order once those are deleted.
fn stop_all(view: &View<'_>, decision: &mut Decision) {
    let grace = view.pod.grace();
    let (sidecars, others): (Vec<&Container>, Vec<&Container>) =
        view.pod.every_container().partition(|container| container.is_sidecar());
    let mut waits = false;
    for container in others {
        waits |= seen(view, container).is_active();
        if is_stoppable(seen(view, container)) {
            decision.act(Action::Stop { container: container.name.clone(), grace });
        }
    }
    for container in sidecars.into_iter().rev() {
        if waits {
            return;
        }
        waits |= seen(view, container).is_active();
        if is_stoppable(seen(view, container)) {
            decision.act(Action::Stop { container: container.name.clone(), grace });
        }
    }
}

/// Whether a stop is to be asked for: of what runs, and of a start that may take long.
fn is_stoppable(phase: ContainerPhase) -> bool {
    matches!(phase, ContainerPhase::Running | ContainerPhase::Starting)
}

/// Whether every app container has ended for good, or an init container has failed for good.
pub(crate) fn is_complete(view: &View<'_>) -> bool {
    let policy = view.pod.spec.restart_policy;
    let init_failed = policy == RestartPolicy::Never
        && view.pod.spec.init_containers.iter().any(|c| {
            !c.is_sidecar() && !is_former(view, c) && matches!(seen(view, c), ContainerPhase::Exited(code) if code != 0)
        });
    let ended = |c: &Container| matches!(seen(view, c), ContainerPhase::Exited(_)) && !restarts(seen(view, c), policy);
    init_failed || (!view.pod.spec.containers.is_empty() && view.pod.spec.containers.iter().all(ended))
}

fn any_active(view: &View<'_>) -> bool {
    view.containers.values().any(|container| container.state.is_active())
}

fn is_former(view: &View<'_>, container: &Container) -> bool {
    view.containers.get(&container.name).is_some_and(|known| known.is_former)
}

fn seen(view: &View<'_>, container: &Container) -> ContainerPhase {
    view.containers.get(&container.name).map_or(ContainerPhase::Nothing, |known| known.state)
}

#[cfg(test)]
mod tests;
