//! Runs a reconciler: its events, its queue, its workers.

use std::fmt::Debug;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use base_retry::{Backoff, BackoffLaw};
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::watch;
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, warn};

use super::queue::{Outcome, Queue, QueueOptions};
use super::status::{Recorded, StatusRegistry};
use super::{Event, ReadObjectError, Reader};
use crate::kinds::Kind;
use crate::writer::WriteError;

/// When a key should be looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// When something changes.
    OnChange,
    /// After this time at the latest.
    After(Duration),
}

impl Next {
    /// The sooner of the two.
    pub fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::After(one), Self::After(other)) => Self::After(one.min(other)),
            (Self::OnChange, next) | (next, Self::OnChange) => next,
        }
    }
}

/// Why a run of a key failed.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The API rejected what was to be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// An object does not read as its kind.
    #[error(transparent)]
    Read(#[from] ReadObjectError),
    /// What is asked for cannot be done; says why.
    #[error("{0}")]
    Rejected(String),
}

/// One controller: which keys a change concerns, and what a key needs.
pub trait Reconciler: Send + Sync + 'static {
    /// What is reconciled alone.
    type Key: Clone + Eq + Hash + Ord + Debug + Send + Sync + 'static;

    /// Its name, for logs, status and metrics.
    fn name(&self) -> &'static str;

    /// The kinds whose changes it hears of. No key runs before the first whole list of each was observed.
    fn sources(&self) -> &'static [Kind];

    /// Adds the keys that an event concerns. Quick, and in the order in which things happened.
    fn observe(&self, event: &Event, queue: &Queue<Self::Key>);

    /// Keys that are due for other reasons than a change of the sources; taken once, at the start.
    fn nudges(&self) -> BoxStream<'static, Self::Key> {
        futures::stream::pending().boxed()
    }

    /// Takes one idempotent step from what is to what should be.
    fn reconcile(&self, key: &Self::Key) -> impl Future<Output = Result<Next, ReconcileError>> + Send;
}

/// Keys of one controller that run at a time: one that waits for a slow API holds up a few, not all.
const WORKERS: usize = 4;

/// Starts the tasks of one controller; they end with `shutdown`, each after the key that it runs. A panic over a key or an event costs that
/// one; any other cancels `failed`.
pub fn spawn<R: Reconciler>(
    reconciler: R,
    reader: &Arc<dyn Reader>,
    registry: &StatusRegistry,
    tasks: &TaskTracker,
    (failed, shutdown): (&CancellationToken, &CancellationToken),
) {
    let name = reconciler.name();
    let queue = Arc::new(Queue::new(QueueOptions::default()));
    let recorded = Arc::new(Recorded::new(name));
    registry.register(recorded.clone(), {
        let queue = queue.clone();
        move || queue.lengths()
    });
    let reconciler = Arc::new(reconciler);
    let synced = watch::Sender::new(false);
    for _ in 0..WORKERS {
        let (reconciler, queue, recorded) = (reconciler.clone(), queue.clone(), recorded.clone());
        let mut synced = synced.subscribe();
        base_observe::spawn_vital(tasks, name, failed, async move {
            // An error means that the events ended before their first list: the hub is stopping.
            if synced.wait_for(|synced| *synced).await.is_ok() {
                work(&*reconciler, &queue, &recorded).await;
            }
        });
    }
    let sources = reconciler.sources();
    let events = futures::stream::select_all(sources.iter().map(|kind| reader.subscribe(*kind)));
    let mut nudges = reconciler.nudges().fuse();
    let shutdown = shutdown.clone();
    base_observe::spawn_vital(tasks, name, failed, async move {
        let mut events = events;
        let mut unlisted: Vec<Kind> = sources.to_vec();
        loop {
            let event = tokio::select! {
                () = shutdown.cancelled() => break,
                event = events.next() => event,
                Some(key) = nudges.next() => {
                    queue.add(key);
                    continue;
                }
            };
            let Some(event) = event else { break };
            let observed = std::panic::catch_unwind(AssertUnwindSafe(|| reconciler.observe(&event, &queue)));
            if let Err(panic) = observed {
                recorded.panicked("an event", &panic_text(&*panic));
                error!(controller = name, "Panicked over an event; the controller continues.");
            }
            if let Event::Listed(kind, _) = event {
                unlisted.retain(|one| *one != kind);
                if unlisted.is_empty() {
                    synced.send_replace(true);
                    recorded.synced();
                }
            }
        }
        queue.close();
    });
}

/// After a task has panicked it is started again; the cause may be an object that is still there.
const AGAIN_LAW: BackoffLaw = BackoffLaw::new(Duration::from_secs(1), Duration::from_secs(60));

/// Runs what `make` makes, for a controller that is one task. When that panics, another is made, later each time it happens in a row:
/// whatever cannot be worked with, the rest of the hub runs on, and so does this controller once it is mended. Returns when a task ends
/// without a panic.
pub async fn run_again<F>(
    name: &'static str,
    recorded: &Recorded,
    shutdown: &CancellationToken,
    mut make: impl FnMut() -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut backoff = Backoff::new(AGAIN_LAW);
    loop {
        let began = Instant::now();
        let ended = base_observe::spawn_detached(name, make()).await;
        // What is aborted belongs to a runtime that ends.
        let Some(panic) = ended.err().filter(JoinError::is_panic) else { return };
        recorded.panicked("its task", &panic_text(&*panic.into_panic()));
        backoff.reset_after(began.elapsed());
        let delay = backoff.next_delay();
        error!(controller = name, ?delay, "The task of a controller panicked; another is started.");
        if shutdown.run_until_cancelled(tokio::time::sleep(delay)).await.is_none() {
            return;
        }
    }
}

async fn work<R: Reconciler>(reconciler: &R, queue: &Queue<R::Key>, recorded: &Recorded) {
    while let Some(key) = queue.next().await {
        let began = Instant::now();
        let outcome = AssertUnwindSafe(reconciler.reconcile(&key)).catch_unwind().await;
        let outcome = match outcome {
            Ok(Ok(next)) => {
                recorded.succeeded(began.elapsed());
                match next {
                    Next::OnChange => Outcome::Done,
                    Next::After(delay) => Outcome::After(delay),
                }
            }
            Ok(Err(error)) => {
                let chain = base_observe::Chain(&error).to_string();
                warn!(controller = reconciler.name(), ?key, error = %chain, "Failed to reconcile; trying again.");
                recorded.failed(began.elapsed(), &format!("{key:?}"), chain);
                Outcome::Failed
            }
            Err(panic) => {
                let text = panic_text(&*panic);
                error!(controller = reconciler.name(), ?key, panic = %text, "Panicked over a key; trying it again.");
                recorded.panicked(&format!("{key:?}"), &text);
                Outcome::Failed
            }
        };
        queue.done(key, outcome);
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without text".to_owned())
}

#[cfg(test)]
mod tests;
