//! Back-off for the keys of a queue.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use crate::{Backoff, BackoffLaw};

/// Below this many keys nothing is swept.
const SWEEP_KEYS_MIN: usize = 1024;

/// A [`Backoff`] per key. A key is forgotten when it succeeds, and also when it has not failed for twice the longest delay:
/// objects that were deleted while they failed never succeed, and must not be remembered for ever.
#[derive(Clone, Debug)]
pub struct KeyedBackoff<K> {
    law: BackoffLaw,
    keys: HashMap<K, (Backoff, Instant)>,
    /// The number of keys at which the idle ones are looked for.
    sweep_at: usize,
}

impl<K: Eq + Hash> KeyedBackoff<K> {
    /// No key has failed yet.
    pub fn new(law: BackoffLaw) -> Self {
        Self { law, keys: HashMap::new(), sweep_at: SWEEP_KEYS_MIN }
    }

    /// Counts a failure of `key` at `now` and returns how long to wait before its next attempt.
    pub fn next_delay(&mut self, key: K, now: Instant) -> Duration {
        if self.keys.len() >= self.sweep_at {
            self.forget_idle(now);
            // Twice what is left: the sweep costs a constant per failure, however many keys fail.
            self.sweep_at = (self.keys.len() * 2).max(SWEEP_KEYS_MIN);
        }
        let (backoff, failed_at) = self.keys.entry(key).or_insert_with(|| (Backoff::new(self.law), now));
        *failed_at = now;
        backoff.next_delay()
    }

    /// Forgets a key: it has succeeded, or was deleted.
    pub fn forget<Q: Eq + Hash + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        self.keys.remove(key);
    }

    /// Failures of `key` in a row.
    pub fn failures<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> u32
    where
        K: Borrow<Q>,
    {
        self.keys.get(key).map_or(0, |(backoff, _)| backoff.failures())
    }

    /// Keys that have failed and not succeeded since.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no key has failed.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Forgets the keys that have not failed for twice the longest delay.
    pub fn forget_idle(&mut self, now: Instant) {
        let idle = self.law.max.saturating_mul(2);
        self.keys.retain(|_, (_, failed_at)| now.saturating_duration_since(*failed_at) <= idle);
    }
}
