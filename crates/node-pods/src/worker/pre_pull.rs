//! Images that a pod has fetched ahead of their use: the next version of a workload is on the box before its pods are replaced, however
//! thin the link.
//!
//! The annotation of the pod names them, and may be changed while the pod runs. What fails is tried again until it succeeds, the
//! annotation changes or the pod ends.

use std::sync::Arc;
use std::time::Duration;

use api_edge::ANNOTATION_PRE_PULL;
use base_retry::{Backoff, BackoffLaw};
use node_runtime::{ImagePresence, PodRuntime, RuntimeError};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::image::PullSecrets;
use super::{Phase, Worker};
use crate::inbox::{Done, Inbox};

/// Images of one pod; those after them are left out, and an Event says so.
const IMAGES_MAX: usize = 16;
/// Pauses after failures, as with images that are needed at once.
const PAUSES: BackoffLaw = BackoffLaw::new(Duration::from_secs(10), Duration::from_secs(300));

/// What is fetched ahead for a pod. Dropping it ends that.
#[derive(Default)]
pub(super) struct PrePull {
    /// The annotation that is acted on.
    images: String,
    task: JoinSet<()>,
}

/// What came of an image that was fetched ahead.
#[derive(Debug)]
pub(crate) struct PrePulled {
    image: String,
    result: Result<(u64, Duration), String>,
}

struct Pull {
    runtime: Arc<dyn PodRuntime>,
    secrets: PullSecrets,
    inbox: Inbox,
}

impl Pull {
    /// Fetches all of them, one after the other: those that a pod waits for come first on a thin link.
    async fn run(self, mut images: Vec<String>) {
        let mut pauses = Backoff::new(PAUSES);
        let mut is_first = true;
        loop {
            let mut failed = Vec::new();
            for image in images {
                match self.one(&image).await {
                    Ok(None) => {}
                    Ok(Some(pulled)) => self.report(image, Ok(pulled)),
                    Err(error) => {
                        // Once said; what it says after that is the same.
                        if is_first {
                            self.report(image.clone(), Err(node_client::chain(&error)));
                        }
                        failed.push(image);
                    }
                }
            }
            if failed.is_empty() {
                return;
            }
            (images, is_first) = (failed, false);
            tokio::time::sleep(pauses.next_delay()).await;
        }
    }

    /// Fetches one; `None` when it is here, or the runtime needs none.
    async fn one(&self, image: &str) -> Result<Option<(u64, Duration)>, RuntimeError> {
        if self.runtime.has_image(image).await? != ImagePresence::Absent {
            return Ok(None);
        }
        let begun = Instant::now();
        let bytes = self.runtime.pull_image(image, self.secrets.credentials(image, &self.inbox)?).await?;
        Ok(Some((bytes, begun.elapsed())))
    }

    fn report(&self, image: String, result: Result<(u64, Duration), String>) {
        self.inbox.done(Done::PrePulled(PrePulled { image, result }));
    }
}

impl Worker {
    /// Begins to fetch what the pod's annotation names, when it has changed.
    pub(super) fn pre_pull(&mut self) {
        let images = self.pod.metadata.annotations.get(ANNOTATION_PRE_PULL).cloned().unwrap_or_default();
        let images = if self.phase == Phase::Active { images } else { String::new() };
        if self.pre_pull.images == images {
            return;
        }
        self.pre_pull = PrePull { images, task: JoinSet::new() };
        let mut named: Vec<String> = self
            .pre_pull
            .images
            .split(',')
            .map(|image| image.trim().to_owned())
            .filter(|image| !image.is_empty())
            .collect();
        let Some(runtime) = self.runtime.clone() else { return };
        if named.len() > IMAGES_MAX {
            let text = format!(
                "{} images are named in {ANNOTATION_PRE_PULL}, and the first {IMAGES_MAX} are pulled",
                named.len()
            );
            self.shared.events.pod_warning(&self.pod, None, "PrePullFailed", text);
            named.truncate(IMAGES_MAX);
        }
        if !named.is_empty() {
            let secrets = PullSecrets::of(&self.pod, self.shared.context.store.clone());
            let pull = Pull { runtime, secrets, inbox: self.inbox.clone() };
            base_observe::spawn_in_set(&mut self.pre_pull.task, "pre-pull", pull.run(named));
        }
    }

    /// Says what came of an image.
    pub(super) fn pre_pulled(&self, PrePulled { image, result }: &PrePulled) {
        let events = &self.shared.events;
        match result {
            Ok((bytes, took)) => {
                let took = took.as_millis();
                let text = format!(
                    "Successfully pulled image \"{image}\" ahead of its use in {took}ms. Image size: {bytes} bytes."
                );
                events.pod(&self.pod, None, "PrePulled", text);
            }
            Err(why) => {
                let text = format!("Failed to pull image \"{image}\" ahead of its use, which is tried again: {why}");
                events.pod_warning(&self.pod, None, "PrePullFailed", text);
            }
        }
    }
}
