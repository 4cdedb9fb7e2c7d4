//! How long a container that ended waits for its next start.

use std::time::Duration;

use jiff::Timestamp;

/// Pause before the second restart; the first comes at once, as an exit may have been a hiccup.
const FIRST: Duration = Duration::from_secs(10);
/// Longest pause: a pod whose cause went away comes back within five minutes.
const LONGEST: Duration = Duration::from_secs(300);
/// A container that ran this long starts afresh.
const HEALTHY_RUN: Duration = Duration::from_secs(600);

/// The back-off of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Backoff {
    /// What the next failure costs.
    delay: Duration,
    not_before: Option<Timestamp>,
}

impl Backoff {
    /// Notes that a run of `ran` ended at `at`, and answers the pause that follows.
    pub(crate) fn ended(&mut self, ran: Duration, at: Timestamp) -> Duration {
        if ran >= HEALTHY_RUN {
            self.delay = Duration::ZERO;
        }
        let pause = self.delay;
        self.delay = if pause.is_zero() { FIRST } else { (pause * 2).min(LONGEST) };
        self.not_before = at.checked_add(jiff::SignedDuration::try_from(pause).unwrap_or_default()).ok();
        pause
    }

    /// When the next start may come; `None` when nothing holds it back.
    pub(crate) fn holds_until(&self, now: Timestamp) -> Option<Timestamp> {
        // A clock that was set back must not hold a pod for longer than the longest pause.
        let latest = now.checked_add(jiff::SignedDuration::try_from(LONGEST).unwrap_or_default()).unwrap_or(now);
        self.not_before.filter(|until| *until > now).map(|until| until.min(latest))
    }
}

/// Waits until a moment; for ever when there is none.
pub(crate) async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
