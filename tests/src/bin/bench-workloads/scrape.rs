//! What the hub's page of metrics says of the scheduler, before and after.

use anyhow::{Context as _, Result, ensure};
use testkit::wire::{Connection, figure};

const ALGORITHM: &str = "scheduler_scheduling_algorithm_duration_seconds";
const BOUND: &str = r#"scheduler_schedule_attempts_total{result="scheduled",profile="default-scheduler"}"#;
const EVENTS_DROPPED: &str = "selvedge_events_dropped_total";

/// The scheduler's counters at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scheduler {
    /// Pods bound since the start.
    pub bound: f64,
    /// Events that were not written since the start.
    pub events_dropped: f64,
    /// Upper ends of the buckets of decisions in seconds, and how many were not above.
    buckets: Vec<(f64, f64)>,
}

impl Scheduler {
    /// Reads them from a page.
    ///
    /// # Errors
    /// When the page has none, or is cut.
    pub fn parse(page: &str) -> Result<Self> {
        let bucket = format!("{ALGORITHM}_bucket{{le=\"");
        let buckets = page.lines().filter_map(|line| line.strip_prefix(&bucket)?.split_once("\"} "));
        let buckets: Vec<(f64, f64)> = buckets
            .map(|(end, count)| anyhow::Ok((end.replace("+Inf", "inf").parse::<f64>()?, count.parse::<f64>()?)))
            .collect::<Result<_>>()
            .context("failed to read the buckets of decisions")?;
        ensure!(!buckets.is_empty(), "the hub counts no decisions: {page}");
        Ok(Self { bound: figure(page, BOUND)?, events_dropped: figure(page, EVENTS_DROPPED)?, buckets })
    }

    /// Reads them from the hub.
    ///
    /// # Errors
    /// When it does not answer with them.
    pub async fn read(connection: &Connection) -> Result<Self> {
        Self::parse(&connection.get("/metrics").await?.ok()?.text())
    }

    /// Milliseconds that this part of the decisions since `before` did not exceed; nothing where there was none.
    pub fn decision_ms(&self, before: &Self, part: f64) -> Option<f64> {
        let counts: Vec<(f64, f64)> =
            self.buckets.iter().zip(&before.buckets).map(|(now, then)| (now.0, now.1 - then.1)).collect();
        let all = counts.last()?.1;
        if all == 0.0 {
            return None;
        }
        let (rank, mut below) = (all * part, (0.0, 0.0));
        for (end, count) in counts {
            if count >= rank {
                // What is above the last bucket has no end: it is no less than its begin.
                let share = if end.is_finite() { (rank - below.1) / (count - below.1) } else { 0.0 };
                let end = if end.is_finite() { end } else { below.0 };
                return Some((below.0 + (end - below.0) * share) * 1000.0);
            }
            below = (end, count);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(counts: [u32; 4], bound: u32) -> Scheduler {
        let [one, two, four, all] = counts;
        let text = format!(
            "{BOUND} {bound}\n{EVENTS_DROPPED} 0.0\n{ALGORITHM}_bucket{{le=\"0.001\"}} {one}\n{ALGORITHM}_bucket{{le=\"0.002\"}} {two}\n\
             {ALGORITHM}_bucket{{le=\"0.004\"}} {four}\n{ALGORITHM}_bucket{{le=\"+Inf\"}} {all}\n# EOF\n"
        );
        Scheduler::parse(&text).unwrap()
    }

    fn check(before: [u32; 4], after: [u32; 4], part: f64, expected: Option<f64>) {
        assert_eq!(page(after, 1).decision_ms(&page(before, 0), part), expected);
    }

    #[test]
    fn a_quantile_is_interpolated_within_its_bucket() {
        check([0; 4], [100, 100, 100, 100], 0.5, Some(0.5));
        check([0; 4], [0, 100, 100, 100], 0.5, Some(1.5));
        check([0; 4], [50, 100, 100, 100], 0.75, Some(1.5));
        // What was before does not count.
        check([1000, 1000, 1000, 1000], [1000, 1100, 1100, 1100], 0.5, Some(1.5));
        check([7; 4], [7; 4], 0.5, None);
        check([0; 4], [0, 0, 0, 10], 0.99, Some(4.0));
    }
}
