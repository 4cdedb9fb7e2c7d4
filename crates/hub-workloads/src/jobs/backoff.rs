//! How long a job waits before it replaces failed pods: ten seconds after the first failure, twice as long after each further
//! one, ten minutes at most. A success begins it anew.

use std::time::Duration;

use hub_runtime::views::time;
use jiff::Timestamp;

use super::views::JobPodView;

/// Upstream's `DefaultJobPodFailureBackOff`.
const PAUSE_MIN: Duration = Duration::from_secs(10);
/// Upstream's `MaxJobPodFailureBackOff`.
const PAUSE_MAX: Duration = Duration::from_secs(10 * 60);

/// Failures since the last success, of a whole job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// How many there were.
    pub failures: u32,
    /// When the last one was.
    pub last: Option<Timestamp>,
}

impl Record {
    /// The record after more pods have ended.
    pub fn with(self, succeeded: &[Timestamp], failed: &[Timestamp]) -> Self {
        let since = succeeded.iter().max();
        let newer = failed.iter().filter(|at| since.is_none_or(|since| *at > since));
        let (count, last) = newer.fold((0_u32, None), |(count, last), at| (count + 1, last.max(Some(*at))));
        match since {
            Some(_) => Self { failures: count, last },
            None => Self { failures: self.failures.saturating_add(count), last: last.max(self.last) },
        }
    }

    /// How long the next pod has to wait.
    pub fn left(self, now: Timestamp) -> Duration {
        self.last.map_or(Duration::ZERO, |last| left(self.failures, last, now))
    }
}

/// How long after so many failures, the last of them then, the next pod has to wait. A node's clock may be wrong: no failure is
/// later than now.
pub(crate) fn left(failures: u32, last: Timestamp, now: Timestamp) -> Duration {
    if failures == 0 {
        return Duration::ZERO;
    }
    let pause = PAUSE_MIN.saturating_mul(1_u32.checked_shl(failures - 1).unwrap_or(u32::MAX)).min(PAUSE_MAX);
    let passed = Duration::try_from(now.duration_since(last)).unwrap_or_default();
    pause.saturating_sub(passed)
}

/// When a pod ended: when its last container did; else when it became unready; else when its deletion was asked for; else when it
/// was created. A box without a clock writes times from before the pod existed or still to come, which count as the nearest
/// time that can be right.
pub(crate) fn finished_at(pod: &JobPodView<'_>, now: Timestamp) -> Timestamp {
    let metadata = &pod.metadata;
    let parsed = |text: &Option<hub_runtime::views::Text<'_>>| text.as_deref().and_then(time);
    let created = parsed(&metadata.creation_timestamp).unwrap_or_default();
    let of_containers = || {
        let containers = pod.status.container_statuses.iter();
        let ends =
            containers.map(|container| container.state.terminated.as_ref().and_then(|end| parsed(&end.finished_at)));
        ends.collect::<Option<Vec<Timestamp>>>()?.into_iter().max()
    };
    let of_condition = || {
        let mut conditions = pod.status.conditions.iter();
        let unready = conditions.find(|one| *one.r#type == *"Ready")?;
        (*unready.status == *"False").then(|| parsed(&unready.last_transition_time)).flatten()
    };
    let of_deletion = || {
        let grace = metadata.deletion_grace_period_seconds.unwrap_or_default().clamp(0, i64::from(i32::MAX));
        parsed(&metadata.deletion_timestamp)?.checked_sub(jiff::SignedDuration::from_secs(grace)).ok()
    };
    let finished = of_containers().or_else(of_condition).or_else(of_deletion).unwrap_or(created);
    finished.min(now).max(created)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn each_failure_doubles_the_pause_and_a_success_ends_it() {
        let times = |seconds: &[i64]| seconds.iter().map(|second| at(*second)).collect::<Vec<_>>();
        for (record, succeeded, failed, expected) in [
            ((0, None), &[][..], &[5][..], (1, Some(5))),
            ((1, Some(5)), &[], &[7, 6], (3, Some(7))),
            ((3, Some(7)), &[], &[], (3, Some(7))),
            ((3, Some(7)), &[9], &[], (0, None)),
            ((3, Some(7)), &[9], &[8, 10], (1, Some(10))),
            ((3, Some(7)), &[9], &[9], (0, None)),
        ] {
            let record = Record { failures: record.0, last: record.1.map(at) };
            let expected = Record { failures: expected.0, last: expected.1.map(at) };
            assert_eq!(record.with(&times(succeeded), &times(failed)), expected);
        }
        for (failures, passed, left) in [
            (0, 0, 0),
            (1, 0, 10),
            (1, 4, 6),
            (1, 10, 0),
            (1, 11, 0),
            (2, 0, 20),
            (5, 0, 160),
            (7, 0, 600),
            (400, 0, 600),
            (u32::MAX, 599, 1),
            // A failure that is still to come.
            (1, -3600, 10),
        ] {
            let record = Record { failures, last: Some(at(0)) };
            assert_eq!(record.left(at(passed)).as_secs(), left, "{failures} failures, {passed} s ago");
        }
    }

    #[test]
    fn a_pod_ended_when_its_containers_did() {
        let text = |second: i64| at(second).to_string();
        let container = |second: i64| json!({"state": {"terminated": {"finishedAt": text(second)}}});
        let created = json!({"creationTimestamp": text(0)});
        let deleted =
            json!({"creationTimestamp": text(0), "deletionTimestamp": text(40), "deletionGracePeriodSeconds": 30});
        let unready = json!([{"type": "Ready", "status": "False", "lastTransitionTime": text(20)}]);
        let cases: &[(&Value, Value, i64)] = &[
            (&created, json!({"containerStatuses": [container(10), container(12)], "conditions": unready}), 12),
            (&created, json!({"containerStatuses": [container(10), {"state": {}}], "conditions": unready}), 20),
            (&deleted, json!({}), 10),
            (&created, json!({}), 0),
            (&created, json!({"containerStatuses": [container(-1_800_000_000)]}), 0),
            (&created, json!({"containerStatuses": [container(100_000)]}), 50),
        ];
        for (metadata, status, expected) in cases {
            let pod = json!({"metadata": metadata, "status": status}).to_string();
            assert_eq!(finished_at(&serde_json::from_str(&pod).unwrap(), at(50)), at(*expected), "{pod}");
        }
    }
}
