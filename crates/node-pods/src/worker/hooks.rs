//! Hooks: what a container has done right after its start, and before it is stopped.
//!
//! A `postStart` runs beside the program, at least once for each attempt; until it is done the container counts as not started and
//! is not probed, and when it fails the container is stopped, and started again as its policy says. It is one of the tasks of the
//! container's probes, and so ends with the container. For which attempts it was done is kept: an agent that is restarted meanwhile
//! runs it again, because nobody knows how far it came, and no attempt is to run on without it.

use std::net::IpAddr;
use std::time::Duration;

use node_runtime::{ContainerEvent, ContainerId, ContainerStatus, PodRuntime};
use tokio::sync::broadcast;
use tokio::time::timeout;

use super::Worker;
use crate::inbox::Done;
use crate::model::{Container, Handler};
use crate::probes::{http_get, said};
use crate::reconcile::ContainerPhase;
use crate::status::exit_of;

/// How long a hook after a start may take: upstream sets no limit, and a container that never starts is seen as such.
const POST_START_MAX: Duration = Duration::from_secs(24 * 3600);
/// Who calls, as upstream says it.
const USER_AGENT: &str = "kube-lifecycle/1.36";

/// Which hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HookKind {
    PostStart,
    PreStop,
}

/// A hook of a container that runs.
pub(super) struct Hook {
    handler: Handler,
    container: Container,
    pod_ip: Option<IpAddr>,
    id: ContainerId,
}

impl Hook {
    /// Does what the hook says, within `limit`; what is said of a failure is for an Event.
    pub(super) async fn run(&self, runtime: &dyn PodRuntime, limit: Duration) -> Result<(), String> {
        let Handler { exec, http_get, sleep } = &self.handler;
        if let Some(exec) = exec {
            return match runtime.exec(&self.id, exec.command.clone(), limit).await {
                Ok(output) if output.exit_code == 0 => Ok(()),
                Ok(output) => Err(said(&output)),
                Err(error) => Err(node_client::chain(&error)),
            };
        }
        if let Some(action) = http_get {
            let answer = timeout(limit, http_get::get(action, &self.container, self.pod_ip, USER_AGENT));
            // As upstream: whatever the answer is, the program has heard of it.
            return match answer.await {
                Ok(answer) => answer.map(drop).map_err(|failure| failure.to_string()),
                Err(_) => Err(format!("no answer within {} s", limit.as_secs())),
            };
        }
        if let Some(sleep) = sleep {
            sleep_while_it_runs(runtime, &self.id, Duration::from_secs(sleep.seconds).min(limit)).await;
            return Ok(());
        }
        Err("the hook is of a kind that this node does not have; use exec, httpGet or sleep".to_owned())
    }
}

/// A pause that is over when the container has ended.
async fn sleep_while_it_runs(runtime: &dyn PodRuntime, id: &ContainerId, pause: Duration) {
    let mut events = runtime.events();
    let has_ended = runtime.status(id).await.map_or(true, |status| exit_of(&status).is_some());
    let ends = async {
        loop {
            match events.recv().await {
                Ok(ContainerEvent::Exited(status)) if status.id == *id => return,
                Err(broadcast::error::RecvError::Closed) => return,
                _ => {}
            }
        }
    };
    tokio::select! {
        () = tokio::time::sleep(pause), if !has_ended => {}
        () = ends, if !has_ended => {}
        else => {}
    }
}

impl Worker {
    /// A hook of a container, to be run beside the worker.
    pub(super) fn hook(&self, id: &ContainerId, kind: HookKind) -> Option<Hook> {
        let container = self.pod.container(&id.container)?;
        let handler = match kind {
            HookKind::PostStart => container.lifecycle.post_start.clone(),
            HookKind::PreStop => container.lifecycle.pre_stop.clone(),
        }?;
        Some(Hook { handler, container: container.clone(), pod_ip: self.addresses().first().copied(), id: id.clone() })
    }

    /// Begins what a container has done right after its start; answers whether there is anything to wait for.
    pub(super) fn begin_post_start(&mut self, status: &ContainerStatus) -> bool {
        let Some(hook) = self.hook(&status.id, HookKind::PostStart) else { return false };
        let (Some(runtime), inbox) = (self.runtime.clone(), self.inbox.clone()) else { return false };
        let Some(record) = self.containers.get_mut(&status.id.container) else { return false };
        let id = status.id.clone();
        base_observe::spawn_in_set(&mut record.probes, "post-start", async move {
            let result = hook.run(&*runtime, POST_START_MAX).await;
            inbox.done(Done::Hook { id, kind: HookKind::PostStart, result });
        });
        true
    }

    /// Whether nothing is left to be done after the start of a container that runs since before this agent was started.
    pub(super) fn is_post_start_done(&self, status: &ContainerStatus) -> bool {
        let name = status.id.container.as_str();
        // Versions that did not keep it reported such a container as started.
        self.state.post_started.get(name) == Some(&status.id.attempt) || self.was_started(status)
    }

    /// A hook is done, or has failed.
    pub(super) fn hook_done(&mut self, id: &ContainerId, kind: HookKind, result: Result<(), String>) {
        let name = id.container.as_str();
        if let Err(why) = &result {
            let (reason, what) = match kind {
                HookKind::PostStart => ("FailedPostStartHook", "PostStartHook failed"),
                HookKind::PreStop => ("FailedPreStopHook", "PreStopHook failed"),
            };
            self.shared.events.pod_warning(&self.pod, Some(name), reason, format!("{what}: {why}"));
        }
        let grace = self.pod.grace();
        let Some(container) = self.pod.container(name).cloned() else { return };
        let Some(record) = self.containers.get_mut(name).filter(|_| kind == HookKind::PostStart) else { return };
        let current = record.observed.current.clone().filter(|current| current.id == *id);
        let Some(current) = current.filter(|_| record.is_running() && record.acting != Some(ContainerPhase::Stopping))
        else {
            return;
        };
        match result {
            Ok(()) => {
                self.state.post_started.insert(name.to_owned(), id.attempt);
                // Lost in a power cut nothing of it is missed: the container is lost with it.
                self.keep_state(false);
                self.start_probes(&container, &current, None);
            }
            Err(_) => record.kill_requested = Some(grace),
        }
    }
}
