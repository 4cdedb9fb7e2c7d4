//! The threads that do the work of requests: decoding, merging, validating, encoding.
//!
//! Accepting, TLS, health, watches and leases' sockets live on the program's runtime and never wait for a body: a request's
//! work runs here, on threads that give way to those of the runtime when both want the processor.
//!
//! ```text
//! administrators, in process ───────────────────▶ ┐
//! leases ──────one of an identity at a time─────▶ ┴ reserved threads
//! everybody else ──half of them for an identity─▶   shared threads
//! ```
//!
//! A task here is not interrupted. What bounds it is that all work on client-given data is linear in bounded sizes, and
//! that lists and tables are encoded piece by piece with a pause for others in between. Tasks queue in the order in which they
//! are ready, whoever they are from; so an identity has as many ready as it may keep threads busy, and its others wait for
//! them. Nobody's work delays that of administrators or leases by more than the processor's share of another thread.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::PollSemaphore;

use crate::flow::Entry;

/// How much the work of requests gives way to sockets and the store's writer: enough to be last in line whenever they
/// want a processor, and still a quarter of it while they keep it busy.
const NICENESS: i32 = 5;

/// Whose threads do a piece of work, and in which turns.
#[derive(Clone)]
pub(crate) struct Workers {
    is_reserved: bool,
    /// How much of the identity's work is done at a time; of what is not bounded, all.
    turns: Option<Arc<Semaphore>>,
}

impl Workers {
    /// For administrators and in-process callers, whose work is not bounded.
    pub(crate) const TRUSTED: Self = Self { is_reserved: true, turns: None };

    /// For leases, in turns of their identity.
    pub(crate) fn leases(turns: Arc<Semaphore>) -> Self {
        Self { is_reserved: true, turns: Some(turns) }
    }

    /// For everybody, in turns of an identity.
    pub(crate) fn shared(turns: Arc<Semaphore>) -> Self {
        Self { is_reserved: false, turns: Some(turns) }
    }

    /// For the work of a request; without an entry it came from this process.
    pub(crate) fn of(entry: Option<&Arc<Entry>>) -> Self {
        entry.map_or(Self::TRUSTED, |entry| entry.workers().clone())
    }
}

/// Threads of each kind: as many as this machine has processors, but never a single one, which one identity could keep busy.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get).max(2)
}

/// Shared threads that one identity may keep busy: half of them, and never more than two.
pub(crate) fn threads_per_identity() -> usize {
    (threads() / 2).clamp(1, 2)
}

/// The threads for the work of requests; they end with their owner.
pub(crate) struct WorkPool {
    shared: Threads,
    reserved: Threads,
}

impl WorkPool {
    /// `on_thread_park` is called by a thread that has nothing to do.
    pub(crate) fn new(on_thread_park: fn()) -> std::io::Result<Self> {
        Ok(Self {
            shared: Threads::start("api-work", on_thread_park)?,
            reserved: Threads::start("api-reserved", on_thread_park)?,
        })
    }

    /// Runs a piece of work. Dropping the handle does not stop it: a write that has begun is finished.
    pub(crate) fn spawn<F>(&self, workers: &Workers, work: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let threads = if workers.is_reserved { &self.reserved } else { &self.shared };
        match &workers.turns {
            None => threads.handle.spawn(work),
            Some(turns) => {
                threads.handle.spawn(InTurn { turns: PollSemaphore::new(turns.clone()), work: Box::pin(work) })
            }
        }
    }
}

struct Threads {
    handle: Handle,
    /// Taken when they end.
    runtime: Option<Runtime>,
}

impl Threads {
    fn start(name: &str, on_thread_park: fn()) -> std::io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads())
            .max_blocking_threads(1)
            .thread_name(name)
            .on_thread_start(give_way)
            .on_thread_park(on_thread_park)
            .enable_time()
            .build()?;
        runtime.spawn(base_observe::visit_threads());
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // The last owner may be a task of this very pool or of another runtime, where waiting would be a panic.
            runtime.shutdown_background();
        }
    }
}

/// Work that needs a turn whenever it needs a thread, and has none while it waits for the disk or for its client.
struct InTurn<F> {
    turns: PollSemaphore,
    work: Pin<Box<F>>,
}

impl<F: Future> Future for InTurn<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let turn = ready!(self.turns.poll_acquire(context)).expect("these semaphores are never closed");
        let polled = self.work.as_mut().poll(context);
        drop(turn);
        polled
    }
}

fn give_way() {
    let thread = rustix::thread::gettid();
    // On Linux a thread has a niceness of its own. One that cannot be lowered still works.
    if let Err(error) = rustix::process::setpriority_process(Some(thread), NICENESS) {
        tracing::debug!(%error, "Failed to lower the priority of a worker thread; going on with the usual one.");
    }
}
