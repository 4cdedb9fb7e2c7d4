//! The end of a pod: it fails as a whole, or what is left of it is removed and the hub may remove the object.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use node_runtime::PodRuntime;
use tracing::{info, warn};

use super::{Halt, Phase, Worker};
use crate::inbox::{Done, Termination};
use crate::log_links::LogLinks;
use crate::volumes;

impl Worker {
    /// Nothing of the pod runs again, for this reason.
    pub(super) fn fail(&mut self, reason: &str, message: String) {
        warn!(pod = %self.pod.full_name(), reason, %message, "The pod failed.");
        self.state.failure = Some((reason.to_owned(), message));
        self.keep_state(true);
    }

    /// The node has no space for the pod any more. One that is over or is ending anyway only ends sooner.
    pub(super) fn terminate(&mut self, termination: Termination) {
        let Termination { reason, message, grace, is_kept, done } = termination;
        let is_desired = self.phase == Phase::Active && self.state.failure.is_none();
        if is_desired && !self.is_over.load(Ordering::Relaxed) {
            self.shared.events.pod_warning(&self.pod, None, reason, message.clone());
            self.state.is_disrupted = true;
            self.forgets_failure = !is_kept;
            self.fail(reason, message);
        }
        self.halt = Some(Halt { grace, done: Some(done) });
    }

    /// Begins to remove what is left of the pod on the node.
    pub(super) fn remove(&mut self) {
        self.phase = Phase::Removing;
        let (runtime, dir, inbox) = (self.runtime.clone(), self.dir.clone(), self.inbox.clone());
        let (uid, links) = (self.pod.metadata.uid.clone(), self.shared.context.log_links.clone());
        base_observe::spawn_detached("pod-removal", async move {
            let removed = remove_all(runtime, &uid, dir, links).await;
            inbox.done(Done::Removed(removed));
        });
    }

    /// Lets the hub remove the object: nothing of the pod is left here.
    pub(super) fn removed(&mut self, result: Result<(), String>) {
        if let Err(error) = result {
            self.shared.context.registry.error(format!("remove {}: {error}", self.pod.full_name()));
            warn!(pod = %self.pod.full_name(), %error, "Failed to remove what a pod has left; the next start removes it.");
        }
        self.shared.directories.pod_removed();
        info!(pod = %self.pod.full_name(), "The pod has ended.");
        let uid = &self.pod.metadata.uid;
        self.shared.context.registry.remove_pod(uid);
        if self.pod.metadata.deletion_timestamp.is_some() && !self.pod.is_static() {
            self.shared.publisher.finalize(uid, self.name());
        } else {
            self.shared.publisher.forget(uid);
        }
    }
}

async fn remove_all(
    runtime: Option<Arc<dyn PodRuntime>>,
    uid: &str,
    dir: PathBuf,
    links: Option<LogLinks>,
) -> Result<(), String> {
    let mut failures = Vec::new();
    if let Some(runtime) = runtime {
        // Whatever the list of containers says, nothing of the pod's control group outlives it.
        for result in [runtime.stop_pod(uid, Duration::ZERO).await, runtime.remove_pod(uid).await] {
            failures.extend(result.err().map(|error| node_client::chain(&error)));
        }
    }
    let shown = dir.display().to_string();
    let remove = move || {
        let removed = volumes::remove(&dir);
        links.inspect(|links| links.remove(&dir));
        removed
    };
    match tokio::task::spawn_blocking(remove).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => failures.push(format!("{shown}: {error}")),
        Err(error) => failures.push(format!("{shown}: {error}")),
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
}
