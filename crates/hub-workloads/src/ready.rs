//! Since when pods are ready, by clocks that may be wrong.
//!
//! A node says since when its pod is Ready. A box without a clock writes a time before the pod existed, or one that is still to
//! come; then the time counts from when the pod was first seen so. The hub's own clock may be set back as well: what was seen
//! later than now was seen now, or the pod would wait until the clock is there again.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;

use hub_runtime::views::ConditionView;
use hub_runtime::{plausible_since, seen_since};

/// What was seen of one workload's pods, by uid. It can be lost: pods then wait anew.
#[derive(Default)]
pub(crate) struct SeenReady(HashMap<String, Timestamp>);

impl SeenReady {
    /// Since when each pod is Ready; `None` for one that is not. Pods that are not among these are forgotten.
    pub fn read<'p>(
        &mut self,
        pods: impl Iterator<Item = (&'p str, Option<&'p ConditionView<'p>>, Timestamp)>,
        now: Timestamp,
    ) -> Vec<Option<Timestamp>> {
        let mut seen = HashMap::new();
        let read = pods.map(|(uid, ready, created)| {
            let ready = ready.filter(|ready| ready.status == "True")?;
            Some(plausible_since(ready, created, now).unwrap_or_else(|| {
                let since = seen_since(self.0.get(uid).copied(), now);
                seen.insert(uid.to_owned(), since);
                since
            }))
        });
        let read = read.collect();
        self.0 = seen;
        read
    }
}

/// A moment, and how long a pod must be Ready to count as available.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    pub now: Timestamp,
    pub min_ready: Duration,
}

impl Clock {
    /// Now, for a workload's `minReadySeconds`.
    pub fn new(now: Timestamp, min_ready_seconds: i64) -> Self {
        let seconds = u64::try_from(min_ready_seconds.clamp(0, i64::from(i32::MAX))).unwrap_or(0);
        Self { now, min_ready: Duration::from_secs(seconds) }
    }

    /// Whether a pod that is Ready since then is available.
    pub fn is_available(self, ready_since: Option<Timestamp>) -> bool {
        ready_since.is_some_and(|since| self.left(since).is_zero())
    }

    /// How long until a pod that is Ready since then is available.
    pub fn left(self, since: Timestamp) -> Duration {
        let ready_for = Duration::try_from(self.now.duration_since(since)).unwrap_or_default();
        self.min_ready.saturating_sub(ready_for)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    #[test]
    fn a_clock_that_is_wrong_holds_no_pod_up() {
        let mut seen = SeenReady::default();
        let mut since = |said: &str, status: &str, now: i64| {
            let text = format!(r#"{{"type":"Ready","status":"{status}","lastTransitionTime":"{said}"}}"#);
            let ready: ConditionView<'_> = serde_json::from_str(&text).unwrap();
            seen.read([("u", Some(&ready), at(0))].into_iter(), at(now))[0].map(|since| since.as_second() - 1_000_000)
        };
        let (right, future) = (at(5).to_string(), at(5000).to_string());
        assert_eq!(since(&right, "True", 10), Some(5));
        assert_eq!(since(&right, "False", 10), None);
        assert_eq!(since("1970-01-01T00:00:00Z", "True", 10), Some(10));
        assert_eq!(since("1970-01-01T00:00:00Z", "True", 12), Some(10));
        assert_eq!(since(&future, "True", 14), Some(10));
        assert_eq!(since(&future, "True", 8), Some(8), "the hub's clock was set back");
        assert_eq!(since(&right, "False", 20), None);
        assert_eq!(since(&future, "True", 21), Some(21), "it was not ready in between");
    }

    #[test]
    fn a_pod_is_available_when_it_was_ready_for_long_enough() {
        let clock = Clock::new(at(10), 5);
        assert!(!clock.is_available(None));
        assert!(!clock.is_available(Some(at(6))));
        assert!(clock.is_available(Some(at(5))));
        assert_eq!(clock.left(at(8)), Duration::from_secs(3));
        assert!(Clock::new(at(10), 0).is_available(Some(at(10))));
        assert!(Clock::new(at(10), -3).is_available(Some(at(10))));
    }
}
