//! Waiting for the next attempt, and being woken all at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::{Backoff, BackoffLaw};

/// Ends the waits of all [`Retry`]s that were made with it. Clones are the same.
#[derive(Clone, Debug)]
pub struct Wake {
    /// How often it was called. A number and not a flag: a call during an attempt must not be lost.
    calls: Arc<watch::Sender<u64>>,
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resumed {
    /// The delay has passed.
    Elapsed,
    /// [`Wake::wake_all`] was called; the failures before it are forgotten.
    Woken,
}

impl Wake {
    /// Nobody waits yet.
    pub fn new() -> Self {
        Self { calls: Arc::new(watch::Sender::new(0)) }
    }

    /// What they wait for is there again, such as the link to the hub: all of them resume within their shortest delay.
    pub fn wake_all(&self) {
        self.calls.send_modify(|calls| *calls = calls.wrapping_add(1));
    }
}

impl Wake {
    /// Notices calls from now on, for a loop that waits in its own way.
    pub fn notice(&self) -> Notice {
        Notice(Some(self.calls.subscribe()))
    }
}

/// Notices calls of [`Wake::wake_all`]. One that comes while nobody waits is noticed at the next wait.
#[derive(Debug)]
pub struct Notice(Option<watch::Receiver<u64>>);

impl Notice {
    /// Calls so far are answered by what is done now.
    pub fn seen(&mut self) {
        if let Some(calls) = &mut self.0 {
            calls.mark_unchanged();
        }
    }

    /// Waits for a call; for ever when there is nobody left to make one. Dropping the future loses none.
    pub async fn called(&mut self) {
        if let Some(calls) = &mut self.0
            && calls.changed().await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }
}

impl Default for Wake {
    fn default() -> Self {
        Self::new()
    }
}

/// A loop's back-off that sleeps.
///
/// ```
/// # use std::time::Duration;
/// # use base_retry::{BackoffLaw, Retry, Wake};
/// # async fn connect() -> Result<(), ()> { Ok(()) }
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let link_restored = Wake::new();
/// let law = BackoffLaw::new(Duration::from_millis(500), Duration::from_secs(30));
/// let mut retry = Retry::new(law).with_wake(&link_restored);
/// loop {
///     retry.attempt();
///     match connect().await {
///         Ok(()) => break retry.succeeded(),
///         Err(()) => retry.pause().await,
///     };
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Retry {
    backoff: Backoff,
    notice: Notice,
}

impl Retry {
    /// No failure yet; nothing wakes it.
    pub fn new(law: BackoffLaw) -> Self {
        Self { backoff: Backoff::new(law), notice: Notice(None) }
    }

    /// The same, woken by `wake`.
    #[must_use]
    pub fn with_wake(mut self, wake: &Wake) -> Self {
        self.notice = wake.notice();
        self
    }

    /// An attempt begins: calls of [`Wake::wake_all`] before it are answered by it, later ones end the next pause.
    pub fn attempt(&mut self) {
        self.notice.seen();
    }

    /// The attempt succeeded.
    pub fn succeeded(&mut self) {
        self.backoff.reset();
    }

    /// See [`Backoff::reset_after`].
    pub fn succeeded_for(&mut self, lasted: Duration) {
        self.backoff.reset_after(lasted);
    }

    /// The attempt failed: waits for the law's delay, or until woken. Dropping the future loses no notice.
    pub async fn pause(&mut self) -> Resumed {
        let delay = self.backoff.next_delay();
        tokio::select! {
            () = tokio::time::sleep(delay) => return Resumed::Elapsed,
            () = self.notice.called() => {}
        }
        tokio::time::sleep(self.shortest().min(delay)).await;
        Resumed::Woken
    }

    /// Nothing failed: waits for `period` until the next look, or until woken.
    pub async fn rest(&mut self, period: Duration) -> Resumed {
        tokio::select! {
            () = tokio::time::sleep(period) => return Resumed::Elapsed,
            () = self.notice.called() => {}
        }
        let shortest = self.shortest();
        self.backoff.reset();
        tokio::time::sleep(shortest.min(period)).await;
        Resumed::Woken
    }

    /// A link that comes and goes a hundred times a second must not cause a hundred attempts, and those who are woken together
    /// should not all send in one instant: so the shortest delay is kept.
    fn shortest(&mut self) -> Duration {
        self.backoff.reset();
        self.backoff.next_delay()
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.backoff.failures()
    }
}
