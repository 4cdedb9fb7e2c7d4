//! Pauses between pods that fail: one that failed at once would fail again.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// The first replacement waits this long, the next twice as long.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// As upstream's back-off of failed daemon pods.
const PAUSE_MAX: Duration = Duration::from_secs(15 * 60);

/// Failures of one workload, by the place that is to be filled again. All of it can be lost: it only waits.
pub(crate) struct Failures<K>(HashMap<K, Failure>);

struct Failure {
    pause: Duration,
    since: Instant,
}

impl<K> Default for Failures<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> Failures<K> {
    /// How long the failed pod of a place waits for its replacement; `None` when it may be replaced now, which is counted.
    pub fn replace_after(&mut self, place: K, now: Instant) -> Option<Duration> {
        match self.0.get_mut(&place) {
            Some(failure) if now.duration_since(failure.since) < failure.pause => {
                Some(failure.pause - now.duration_since(failure.since))
            }
            Some(failure) => {
                // A pod that ran for long before it failed is not one that fails at once.
                let is_old = now.duration_since(failure.since) > 2 * PAUSE_MAX;
                failure.pause = if is_old { PAUSE_MIN } else { (failure.pause * 2).min(PAUSE_MAX) };
                failure.since = now;
                None
            }
            None => {
                self.0.insert(place, Failure { pause: PAUSE_MIN, since: now });
                None
            }
        }
    }

    /// Drops the places that are not kept.
    pub fn retain(&mut self, mut keep: impl FnMut(&K) -> bool) {
        self.0.retain(|place, _| keep(place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_fails_each_time_is_replaced_after_longer_and_longer_pauses() {
        let (mut failures, start) = (Failures::default(), Instant::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        assert_eq!(failures.replace_after(0, at(0)), None);
        assert_eq!(failures.replace_after(0, at(0)), Some(Duration::from_secs(1)));
        assert_eq!(failures.replace_after(1, at(0)), None, "another place has its own");
        assert_eq!(failures.replace_after(0, at(1)), None);
        assert_eq!(failures.replace_after(0, at(2)), Some(Duration::from_secs(1)));
        assert_eq!(failures.replace_after(0, at(3)), None);
        assert_eq!(failures.replace_after(0, at(5)), Some(Duration::from_secs(2)));
        assert_eq!(failures.replace_after(0, at(10_000)), None);
        assert_eq!(failures.replace_after(0, at(10_001)), None, "it had run for long");
    }
}
