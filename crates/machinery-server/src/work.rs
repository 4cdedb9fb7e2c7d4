//! The threads that do the work of requests: decoding, merging, validating, encoding.
//!
//! Accepting, TLS, health, watches and leases' sockets live on the program's runtime and never wait for a body: a request's
//! work runs here, on threads that give way to those of the runtime when both want the processor.
//!
//! A task here is not interrupted. What bounds it is that all work on client-given data is linear in bounded sizes, and
//! that lists and tables are encoded piece by piece with a pause for others in between.

use std::future::Future;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;

/// How much the work of requests gives way to sockets and the store's writer: enough to be last in line whenever they
/// want a processor, and still a quarter of it while they keep it busy.
const NICENESS: i32 = 5;

/// A pool of threads for the work of requests; ends with its owner.
pub(crate) struct WorkPool {
    handle: Handle,
    /// Taken when the pool ends.
    runtime: Option<Runtime>,
}

impl WorkPool {
    /// A pool of as many threads as this machine has processors.
    pub(crate) fn new() -> std::io::Result<Self> {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .max_blocking_threads(1)
            .thread_name("api-work")
            .on_thread_start(give_way)
            .enable_time()
            .build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    /// Runs a piece of work. Dropping the handle does not stop it: a write that has begun is finished.
    pub(crate) fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.handle.spawn(work)
    }
}

impl Drop for WorkPool {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // The last owner may be a task of this very pool or of another runtime, where waiting would be a panic.
            runtime.shutdown_background();
        }
    }
}

fn give_way() {
    let thread = rustix::thread::gettid();
    // On Linux a thread has a niceness of its own. One that cannot be lowered still works.
    if let Err(error) = rustix::process::setpriority_process(Some(thread), NICENESS) {
        tracing::debug!(%error, "Failed to lower the priority of a worker thread; going on with the usual one.");
    }
}
