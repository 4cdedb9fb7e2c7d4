//! Tasks that must not end: each one's panic is an error that is reported, makes the node not Ready, and is followed by a restart.
//!
//! Without this a task that dies is noticed by nobody: the lease continues being renewed, and a node that follows nothing any more
//! calls itself Ready.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use base_retry::{Backoff, BackoffLaw};
use futures::FutureExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

use crate::StatusRegistry;

/// Between two starts of a task that dies.
const RESTARTS: BackoffLaw = BackoffLaw::new(Duration::from_millis(100), Duration::from_secs(30));
/// A task that has lived this long has overcome what killed it.
const SOUND_AFTER: Duration = Duration::from_secs(60);

/// Starts `make()` and starts it again whenever it panics, until it ends by itself or `shutdown` is called.
pub fn supervise<F>(
    tasks: &TaskTracker,
    name: &'static str,
    registry: StatusRegistry,
    shutdown: CancellationToken,
    mut make: impl FnMut() -> F + Send + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    base_observe::spawn_named(tasks, name, async move {
        let mut backoff = Backoff::new(RESTARTS);
        loop {
            let begun = tokio::time::Instant::now();
            let mut task = std::pin::pin!(AssertUnwindSafe(make()).catch_unwind());
            let mut is_sound = false;
            let ended = loop {
                tokio::select! {
                    ended = &mut task => break ended,
                    () = tokio::time::sleep_until(begun + SOUND_AFTER), if !is_sound => {
                        is_sound = true;
                        backoff.reset();
                        registry.clear_fault(name);
                    }
                }
            };
            let Err(panic) = ended else {
                registry.clear_fault(name);
                return;
            };
            let cause = panic_text(&*panic);
            error!(task = name, %cause, "A task of the node has died; starting it again.");
            registry.error(format!("task {name} has died: {cause}"));
            registry.set_fault(name, format!("task {name} has died: {cause}"));
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(backoff.next_delay()) => {}
            }
        }
    });
}

/// What a panic said.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a message".to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_dies_is_a_fault_until_it_has_lived_again() {
        let (tasks, registry, shutdown) = (TaskTracker::new(), StatusRegistry::new("n"), CancellationToken::new());
        let starts = Arc::new(AtomicU32::new(0));
        let (counted, end) = (starts.clone(), shutdown.clone());
        supervise(&tasks, "reader", registry.clone(), shutdown.clone(), move || {
            let (number, end) = (counted.fetch_add(1, Ordering::SeqCst), end.clone());
            async move {
                assert!(number > 1, "start {number} fails");
                end.cancelled().await;
            }
        });
        let mut faults = registry.faults();
        faults
            .wait_for(|faults| faults.get("reader").is_some_and(|text| text.contains("start 1 fails")))
            .await
            .unwrap();
        faults.wait_for(|faults| faults.is_empty()).await.unwrap();
        assert_eq!(starts.load(Ordering::SeqCst), 3);
        shutdown.cancel();
        tasks.close();
        tasks.wait().await;
    }
}
