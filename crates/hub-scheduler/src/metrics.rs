//! What the scheduler counts, under upstream's names.
//!
//! A decision takes microseconds, so what is observed for each is resolved once: a handle to each histogram, and no lookup by
//! labels but for the rare ones.

use std::sync::Arc;
use std::time::Duration;

use base_observe::{Counter, Family, Histogram, HistogramFamily, Metrics, Sample, SampleKind};
use parking_lot::Mutex;

use crate::pod::SCHEDULER_NAME;
use crate::queue::QueueCounts;

/// Attempts that are counted by their number, as upstream has it; more are one.
const ATTEMPTS_MAX: u32 = 15;
/// Upstream's histograms of attempts begin here and double, …
const ATTEMPT_SECONDS_MIN: f64 = 0.001;
const ATTEMPT_BUCKETS: usize = 15;
/// … and those of whole pods here.
const POD_SECONDS_MIN: f64 = 0.01;
const POD_BUCKETS: usize = 20;
/// Four doublings below upstream's first bucket, into which every decision of ours would fall. All of upstream's are among them.
const ALGORITHM_SECONDS_MIN: f64 = ATTEMPT_SECONDS_MIN / 16.0;
const ALGORITHM_BUCKETS: usize = ATTEMPT_BUCKETS + 4;
/// Numbers of victims: 1 to 64.
const VICTIM_BUCKETS: usize = 7;

fn doubling(first: f64, count: usize) -> Histogram {
    Histogram::new(std::iter::successors(Some(first), |bucket| Some(bucket * 2.0)).take(count))
}

fn attempt_seconds() -> Histogram {
    doubling(ATTEMPT_SECONDS_MIN, ATTEMPT_BUCKETS)
}

fn pod_seconds() -> Histogram {
    doubling(POD_SECONDS_MIN, POD_BUCKETS)
}

/// How an attempt to schedule a pod ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is bound.
    Scheduled,
    /// No node suits it.
    Unschedulable,
    /// What was decided could not be carried out.
    Error,
}

impl Outcome {
    const ALL: [Self; 3] = [Self::Scheduled, Self::Unschedulable, Self::Error];

    fn label(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Unschedulable => "unschedulable",
            Self::Error => "error",
        }
    }
}

/// The attempts with one outcome.
#[derive(Clone)]
struct Counted {
    total: Counter,
    seconds: Histogram,
}

/// What is counted while the scheduler runs.
#[derive(Clone)]
pub(crate) struct SchedulerMetrics {
    /// In the order of [`Outcome::ALL`].
    outcomes: [Counted; 3],
    algorithm_seconds: Histogram,
    pod_seconds: HistogramFamily<1>,
    preemption_attempts: Counter,
    preemption_victims: Histogram,
    pending: Arc<Mutex<QueueCounts>>,
}

impl SchedulerMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let totals: Family<Counter, 2> = metrics
            .counters("scheduler_schedule_attempts", "Attempts to schedule pods, by their result and the profile");
        let seconds: HistogramFamily<2> = metrics.register(
            "scheduler_scheduling_attempt_duration_seconds",
            "Duration of an attempt, from the decision's begin to the response to the binding",
            HistogramFamily::<2>::new_with_constructor(attempt_seconds),
        );
        let outcomes = Outcome::ALL.map(|outcome| {
            let labels = [("result", outcome.label().to_owned()), ("profile", SCHEDULER_NAME.to_owned())];
            Counted { total: totals.get_or_create(&labels).clone(), seconds: seconds.get_or_create(&labels).clone() }
        });
        let pending = Arc::new(Mutex::new(QueueCounts::default()));
        metrics.collect("scheduler_pending_pods", "Pods that wait for a node, by queue", SampleKind::Gauge, {
            let pending = pending.clone();
            move || {
                let counts = *pending.lock();
                let queues = [
                    ("active", counts.active),
                    ("backoff", counts.back_off),
                    ("unschedulable", counts.waiting),
                    ("gated", counts.gated),
                ];
                queues.map(|(queue, count)| Sample::whole(count as u64).with("queue", queue)).into()
            }
        });
        Self {
            outcomes,
            algorithm_seconds: metrics.register(
                "scheduler_scheduling_algorithm_duration_seconds",
                "Duration of a decision alone",
                doubling(ALGORITHM_SECONDS_MIN, ALGORITHM_BUCKETS),
            ),
            pod_seconds: metrics.register(
                "scheduler_pod_scheduling_sli_duration_seconds",
                "From a pod's first way into the queue, without its time behind gates, to its binding, by attempts",
                HistogramFamily::<1>::new_with_constructor(pod_seconds),
            ),
            preemption_attempts: metrics.counter("scheduler_preemption_attempts", "Attempts to preempt pods"),
            preemption_victims: metrics.register(
                "scheduler_preemption_victims",
                "Pods that were preempted for one",
                doubling(1.0, VICTIM_BUCKETS),
            ),
            pending,
        }
    }

    /// A decision has been made.
    pub(crate) fn decided(&self, took: Duration) {
        self.algorithm_seconds.observe(took.as_secs_f64());
    }

    /// An attempt has ended.
    pub(crate) fn attempted(&self, outcome: Outcome, took: Duration) {
        let counted = &self.outcomes[outcome as usize];
        counted.total.inc();
        counted.seconds.observe(took.as_secs_f64());
    }

    /// A pod is bound, so long after it could first be decided on, at this attempt.
    pub(crate) fn bound(&self, waited: Duration, attempt: u32) {
        let attempts = match attempt {
            ..=ATTEMPTS_MAX => attempt.to_string(),
            _ => format!("{ATTEMPTS_MAX}+"),
        };
        self.pod_seconds.get_or_create(&[("attempts", attempts)]).observe(waited.as_secs_f64());
    }

    /// For a pod that no node suits others are looked at, whose place it could take.
    pub(crate) fn preempting(&self) {
        self.preemption_attempts.inc();
    }

    /// So many pods end for one.
    pub(crate) fn preempted(&self, victims: usize) {
        self.preemption_victims.observe(f64::from(u32::try_from(victims).unwrap_or(u32::MAX)));
    }

    /// So many pods wait now.
    pub(crate) fn waiting(&self, counts: QueueCounts) {
        *self.pending.lock() = counts;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(page: &str, lines: &[&str]) {
        for line in lines {
            assert!(page.lines().any(|one| one == *line), "{line} is not in {page}");
        }
    }

    #[test]
    fn what_became_of_pods_is_counted_under_upstreams_names() {
        let metrics = Metrics::new();
        let counted = SchedulerMetrics::new(&metrics);
        for outcome in [Outcome::Scheduled, Outcome::Scheduled, Outcome::Unschedulable, Outcome::Error] {
            counted.decided(Duration::from_micros(100));
            counted.attempted(outcome, Duration::from_millis(3));
        }
        counted.bound(Duration::from_millis(15), 1);
        counted.bound(Duration::from_secs(3), 15);
        counted.bound(Duration::from_secs(300), 16);
        counted.preempting();
        counted.preempted(3);
        counted.waiting(QueueCounts { active: 1, back_off: 2, waiting: 3, gated: 4 });
        let profile = r#"profile="default-scheduler""#;
        check(
            &metrics.encode(),
            &[
                &format!(r#"scheduler_schedule_attempts_total{{result="scheduled",{profile}}} 2"#),
                &format!(r#"scheduler_schedule_attempts_total{{result="unschedulable",{profile}}} 1"#),
                &format!(r#"scheduler_schedule_attempts_total{{result="error",{profile}}} 1"#),
                &format!(
                    r#"scheduler_scheduling_attempt_duration_seconds_bucket{{le="0.002",result="scheduled",{profile}}} 0"#
                ),
                &format!(
                    r#"scheduler_scheduling_attempt_duration_seconds_bucket{{le="0.004",result="scheduled",{profile}}} 2"#
                ),
                r#"scheduler_scheduling_algorithm_duration_seconds_bucket{le="0.0000625"} 0"#,
                r#"scheduler_scheduling_algorithm_duration_seconds_bucket{le="0.000125"} 4"#,
                r#"scheduler_scheduling_algorithm_duration_seconds_bucket{le="0.001"} 4"#,
                r#"scheduler_pod_scheduling_sli_duration_seconds_bucket{le="0.02",attempts="1"} 1"#,
                r#"scheduler_pod_scheduling_sli_duration_seconds_count{attempts="15"} 1"#,
                r#"scheduler_pod_scheduling_sli_duration_seconds_count{attempts="15+"} 1"#,
                "scheduler_preemption_attempts_total 1",
                r#"scheduler_preemption_victims_bucket{le="4.0"} 1"#,
                r#"scheduler_pending_pods{queue="active"} 1.0"#,
                r#"scheduler_pending_pods{queue="backoff"} 2.0"#,
                r#"scheduler_pending_pods{queue="unschedulable"} 3.0"#,
                r#"scheduler_pending_pods{queue="gated"} 4.0"#,
            ],
        );
    }
}
