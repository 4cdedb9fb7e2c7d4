//! One law of back-off for everything that tries again, and one notice that wakes all who wait.
//!
//! A delay starts at [`BackoffLaw::min`], doubles with each failure, ends at [`BackoffLaw::max`], and part of it is random, so
//! that a thousand nodes that lost one hub do not come back in step. Success resets it.
//!
//! - [`Backoff`] decides delays for one thing; it is plain and synchronous, for cores that are handed the time.
//! - [`KeyedBackoff`] does so for the keys of a queue.
//! - [`Retry`] sleeps as well, and is woken by a [`Wake`]: when the link to the hub is restored, one call ends every wait at
//!   once, instead of each part finding out up to half a minute later.
//! - [`Allowance`] is the other side: what somebody else may do over time, a burst and then a rate.
//!
//! The crate `backon` is not used inside: its jitter is added on top of the largest delay, its iterator cannot be reset, and
//! it has neither keys nor a way to be woken; what is left of it is one multiplication.
//!
//! Try it with `cargo test -p base-retry`. A mistake here shows as a storm of requests or as a part that comes back late.

mod allowance;
mod keyed;
mod wake;

use std::time::Duration;

pub use allowance::{Allowance, AllowanceLaw};
pub use keyed::KeyedBackoff;
pub use wake::{Notice, Resumed, Retry, Wake};

/// How much of a delay is random.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Jitter {
    /// Nothing: the delay is exact. For tests, and for what only one process ever does.
    None,
    /// Half of it: never sooner than half the delay, for those who must leave the other side time.
    #[default]
    Equal,
    /// All of it: spreads best, and may come at once.
    Full,
}

/// How long to wait after the n-th failure in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffLaw {
    /// After the first failure.
    pub min: Duration,
    /// After many.
    pub max: Duration,
    /// How much of it is random.
    pub jitter: Jitter,
}

impl BackoffLaw {
    /// A law with [`Jitter::Equal`].
    pub const fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, jitter: Jitter::Equal }
    }

    /// The same with another jitter.
    #[must_use]
    pub const fn with_jitter(mut self, jitter: Jitter) -> Self {
        self.jitter = jitter;
        self
    }

    /// The delay after `failures` in a row (from 1), `random` being in `[0, 1)`. Never longer than [`BackoffLaw::max`].
    pub fn delay(&self, failures: u32, random: f64) -> Duration {
        let doubled = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        let whole = self.min.saturating_mul(doubled).min(self.max);
        match self.jitter {
            Jitter::None => whole,
            Jitter::Equal => whole / 2 + part(whole / 2, random),
            Jitter::Full => part(whole, random),
        }
    }
}

/// A random part of a delay. Floats of very long delays round up beyond them, hence the bound.
fn part(whole: Duration, random: f64) -> Duration {
    Duration::try_from_secs_f64(whole.as_secs_f64() * random).map_or(whole, |part| part.min(whole))
}

/// Delays for one thing that may fail again and again.
///
/// ```
/// use std::time::Duration;
/// use base_retry::{Backoff, BackoffLaw, Jitter};
/// let law = BackoffLaw::new(Duration::from_secs(1), Duration::from_secs(30)).with_jitter(Jitter::None);
/// let mut backoff = Backoff::new(law);
/// assert_eq!(backoff.next_delay(), Duration::from_secs(1));
/// assert_eq!(backoff.next_delay(), Duration::from_secs(2));
/// backoff.reset();
/// assert_eq!(backoff.next_delay(), Duration::from_secs(1));
/// ```
#[derive(Clone, Debug)]
pub struct Backoff {
    law: BackoffLaw,
    failures: u32,
    random: fastrand::Rng,
}

impl Backoff {
    /// No failure yet.
    pub fn new(law: BackoffLaw) -> Self {
        Self { law, failures: 0, random: fastrand::Rng::new() }
    }

    /// The same, with delays that a seed decides.
    pub fn with_seed(law: BackoffLaw, seed: u64) -> Self {
        Self { law, failures: 0, random: fastrand::Rng::with_seed(seed) }
    }

    /// Counts a failure and returns how long to wait before the next attempt.
    pub fn next_delay(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.law.delay(self.failures, self.random.f64())
    }

    /// Forgets all failures: an attempt has succeeded.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Forgets all failures if the work went well for longer than the longest delay. For connections and processes: one that
    /// is accepted and ends at once has not succeeded, and must not be started again without end at the shortest delay.
    pub fn reset_after(&mut self, lasted: Duration) {
        if lasted >= self.law.max {
            self.reset();
        }
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests;
