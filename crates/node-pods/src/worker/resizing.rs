//! What containers get while they run: brought to what the pod is to have.

use std::time::Duration;

use node_runtime::{ContainerId, ContainerStatus, RuntimeError};
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Phase, Worker};
use crate::inbox::Done;
use crate::{resize, status::runs_ephemeral};

/// Pause before a resize that failed is tried again: a program may have given memory back by then.
const RETRY: Duration = Duration::from_secs(10);

/// A resize of one container.
#[derive(Debug, Default)]
pub(super) struct Resizing {
    is_under_way: bool,
    error: Option<String>,
    retry_at: Option<Instant>,
}

impl Worker {
    /// Whether the pod's containers can be given more or less while they run.
    fn resizes(&self) -> bool {
        self.phase == Phase::Active && self.runtime.as_ref().is_some_and(|runtime| runs_ephemeral(runtime.handler()))
    }

    /// Begins to change what runs with something else than it is to have; answers whether a container is to be stopped for it.
    pub(super) fn resize_containers(&mut self) -> bool {
        if !self.resizes() || self.halt.is_some() || self.state.failure.is_some() {
            return false;
        }
        let mut restarts = false;
        let (pod, now) = (self.pod.clone(), Instant::now());
        for container in pod.all_containers() {
            let Some(record) = self.containers.get_mut(&container.name) else { continue };
            let current = record.observed.current.clone().filter(|_| record.is_running());
            let Some(current) = current.filter(|current| resize::differs(container, current)) else {
                record.resizing = Resizing { is_under_way: record.resizing.is_under_way, ..Resizing::default() };
                continue;
            };
            let waits = record.resizing.retry_at.is_some_and(|at| at > now);
            if record.acting.is_some() || record.kill_requested.is_some() || record.resizing.is_under_way || waits {
                continue;
            }
            if resize::needs_restart(container, &current) {
                record.kill_requested = Some(pod.grace());
                restarts = true;
                let text = format!("Container {} resize requires restart", container.name);
                self.shared.events.pod(&pod, Some(&container.name), "Killing", text);
                continue;
            }
            record.resizing.is_under_way = true;
            let Some(runtime) = self.runtime.clone() else { continue };
            let (id, resources, inbox) = (current.id, resize::given(&pod, container), self.inbox.clone());
            base_observe::spawn_detached("container-resize", async move {
                let result = runtime.resize(&id, resources).await;
                inbox.done(Done::Resized { id, result });
            });
        }
        restarts
    }

    pub(super) fn resized(&mut self, id: &ContainerId, result: Result<ContainerStatus, RuntimeError>) {
        let Some(record) = self.containers.get_mut(&id.container) else { return };
        record.resizing = Resizing::default();
        match result {
            Ok(status) => {
                info!(pod = %self.pod.full_name(), container = %id, "Resized a container.");
                self.accept(status, false);
            }
            // Its end says the rest.
            Err(RuntimeError::NotRunning(_) | RuntimeError::NotFound(_)) => {}
            Err(error) => {
                let text = node_client::chain(&error);
                warn!(container = %id, error = %text, "Failed to resize a container; trying again.");
                self.shared.context.registry.error(format!("{}: {text}", self.pod.full_name()));
                record.resizing.retry_at = Some(Instant::now() + RETRY);
                record.resizing.error = Some(text);
            }
        }
    }

    /// When a resize that failed is tried again.
    pub(super) fn resize_at(&self) -> Option<Instant> {
        self.containers.values().filter_map(|record| record.resizing.retry_at).min()
    }

    /// Whether a container runs with something else than it is to have, and what went wrong with that.
    pub(super) fn resize_in_progress(&self) -> Option<Option<&str>> {
        if !self.resizes() {
            return None;
        }
        let differs = self.pod.all_containers().filter_map(|container| {
            let record = self.containers.get(&container.name).filter(|record| record.is_running())?;
            let current = record.observed.current.as_ref()?;
            resize::differs(container, current).then_some(record.resizing.error.as_deref())
        });
        // One that went wrong says more than one that is under way.
        differs.max()
    }
}
