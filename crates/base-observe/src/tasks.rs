//! Tasks with a name: a panic is logged with it and counted, and `/metrics` shows how many of each run.
//!
//! A bare `tokio::spawn` hides a panic in a handle that nobody awaits: the part is dead and the program looks well. So every
//! task starts here. The panic is caught where it happens, logged, counted, and then passed on into the [`JoinHandle`], so
//! whoever awaits it sees what tokio would have shown.
//!
//! The future is boxed before tokio sees it. What tokio compiles for a task it compiles once for each type of future, and the program
//! has some hundred; so it is once for each type of output.

use std::any::Any;
use std::collections::BTreeMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

/// How the tasks of one name fare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskCounts {
    /// Started and not ended.
    pub running: u64,
    /// Ended by a panic since the process started.
    pub panicked: u64,
}

#[derive(Debug, Default)]
struct Counts {
    running: AtomicU64,
    panicked: AtomicU64,
}

/// Counts by name. Names are literals, so there are as many as the source has calls.
static TASKS: LazyLock<Mutex<BTreeMap<&'static str, Arc<Counts>>>> = LazyLock::new(Mutex::default);

/// Starts a task that `tracker` waits for at shutdown.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let tracker = tokio_util::task::TaskTracker::new();
/// let answer = base_observe::spawn_named(&tracker, "adder", async { 1 + 1 });
/// assert_eq!(answer.await.expect("an addition does not panic"), 2);
/// # }
/// ```
pub fn spawn_named<F>(tracker: &TaskTracker, name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tracker.spawn(Watched::new(name, future))
}

/// Starts a task without which the program is of no use: its panic cancels `failed` as well. Whoever runs the program awaits that, and
/// ends it, so that it is started again: a part that is dead in a program that looks well is found by nobody.
pub fn spawn_vital<F>(
    tracker: &TaskTracker,
    name: &'static str,
    failed: &CancellationToken,
    future: F,
) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let watched = Watched::new(name, future);
    tracker.spawn(Watched { failed: Some(failed.clone()), ..watched })
}

/// Starts a task that only its handle knows: for those who await or abort the handle themselves.
pub fn spawn_detached<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(Watched::new(name, future))
}

/// Starts a task in a set, which aborts it when the set is dropped.
pub fn spawn_in_set<F, T>(set: &mut JoinSet<T>, name: &'static str, future: F) -> AbortHandle
where
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    set.spawn(Watched::new(name, future))
}

/// Runs blocking work on tokio's pool for it; a panic is logged and counted as a task's.
pub fn spawn_blocking_named<F, T>(name: &'static str, work: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    watched_blocking(name, Box::new(work))
}

fn watched_blocking<T: Send + 'static>(name: &'static str, work: Box<dyn FnOnce() -> T + Send>) -> JoinHandle<T> {
    let running = Running::start(name);
    tokio::task::spawn_blocking(move || match catch_unwind(AssertUnwindSafe(work)) {
        Ok(output) => output,
        Err(panic) => running.panicked(panic),
    })
}

/// What runs now and what has panicked, by name.
pub fn task_counts() -> Vec<(&'static str, TaskCounts)> {
    let read = |counts: &Counts| TaskCounts {
        running: counts.running.load(Ordering::Relaxed),
        panicked: counts.panicked.load(Ordering::Relaxed),
    };
    TASKS.lock().iter().map(|(name, counts)| (*name, read(counts))).collect()
}

/// Counts a task as running until it is dropped, whether it ended, panicked or was aborted.
struct Running {
    name: &'static str,
    counts: Arc<Counts>,
}

impl Running {
    fn start(name: &'static str) -> Self {
        let counts = Arc::clone(TASKS.lock().entry(name).or_default());
        counts.running.fetch_add(1, Ordering::Relaxed);
        Self { name, counts }
    }

    fn panicked(&self, panic: Box<dyn Any + Send>) -> ! {
        self.counts.panicked.fetch_add(1, Ordering::Relaxed);
        error!(task = self.name, panic = message_of(&*panic), "A task panicked; its work has ended.");
        // The hook has printed the place already; resuming does not call it a second time.
        resume_unwind(panic)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.counts.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The text of a panic, when it has one.
fn message_of(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "(a value that is no text)",
    }
}

/// A future whose panic is seen.
struct Watched<T> {
    future: Pin<Box<dyn Future<Output = T> + Send>>,
    running: Running,
    /// Cancelled by its panic.
    failed: Option<CancellationToken>,
}

impl<T> Watched<T> {
    fn new(name: &'static str, future: impl Future<Output = T> + Send + 'static) -> Self {
        Self { future: Box::pin(future), running: Running::start(name), failed: None }
    }
}

impl<T> Future for Watched<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let Self { future, running, failed } = &mut *self;
        // Unwind safety: a future that has panicked is not polled again, the panic resumes below.
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
            Ok(polled) => polled,
            Err(panic) => {
                failed.iter().for_each(CancellationToken::cancel);
                running.panicked(panic)
            }
        }
    }
}
