//! Starts that have not made their attempt yet, so that they can be cancelled.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
};

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::{ContainerId, ContainerSpec, ContainerState, ContainerStatus, ExitRecord, RuntimeError};

/// Which containers are being started.
#[derive(Default)]
pub(super) struct Starts {
    under_way: Mutex<BTreeMap<ContainerId, Entry>>,
}

#[derive(Clone)]
struct Entry {
    cancel: CancellationToken,
    /// Cancelled when the start has ended, in whatever way.
    ended: CancellationToken,
    /// What is said of it when it never ran.
    status: ContainerStatus,
}

/// One start; the end of this value is its end.
pub(super) struct Start<'a> {
    starts: &'a Starts,
    id: ContainerId,
    entry: Entry,
}

impl Starts {
    /// Notes a start. Fails when the same attempt is being started already.
    pub fn begin(&self, spec: &ContainerSpec) -> Result<Start<'_>, RuntimeError> {
        let id = spec.id();
        let entry = Entry {
            cancel: CancellationToken::new(),
            ended: CancellationToken::new(),
            status: ContainerStatus {
                id: id.clone(),
                pod: spec.pod.clone(),
                state: ContainerState::Created,
                image: spec.image.clone(),
                image_id: String::new(),
                limits: spec.limits,
                requests: spec.requests,
                log_path: spec.log_path(),
                notices: Vec::new(),
            },
        };
        let mut under_way = self.lock();
        if under_way.contains_key(&id) {
            return Err(RuntimeError::AlreadyStarted(id));
        }
        under_way.insert(id.clone(), entry.clone());
        drop(under_way);
        Ok(Start { starts: self, id, entry })
    }

    /// Cancels a start that is under way and waits for its end; returns what is to be said of it if it never ran.
    pub async fn cancel(&self, id: &ContainerId) -> Option<ContainerStatus> {
        let entry = self.lock().get(id).cloned()?;
        entry.cancel.cancel();
        entry.ended.cancelled().await;
        let record = ExitRecord::start_error("it was stopped before its program ran");
        Some(ContainerStatus { state: ContainerState::Exited(record), ..entry.status })
    }

    /// Cancels all of a pod and waits for their ends.
    pub async fn cancel_pod(&self, uid: &str) {
        let ids: Vec<ContainerId> = self.lock().keys().filter(|id| id.pod_uid == uid).cloned().collect();
        for id in &ids {
            self.cancel(id).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ContainerId, Entry>> {
        self.under_way.lock().expect("no holder of this lock panics")
    }
}

impl Start<'_> {
    pub fn cancelled(&self) -> WaitForCancellationFuture<'_> {
        self.entry.cancel.cancelled()
    }
}

impl Drop for Start<'_> {
    fn drop(&mut self) {
        self.starts.lock().remove(&self.id);
        self.entry.ended.cancel();
    }
}
