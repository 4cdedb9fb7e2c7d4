//! Kinds of the group `batch`.

mod cron_job;
mod job;
mod schedule;

use crate::strategy::Strategy;

/// What is special about a kind of this group.
pub(crate) fn strategy(kind: &str) -> Option<&'static Strategy> {
    Some(match kind {
        "CronJob" => &cron_job::CRON_JOB,
        "Job" => &job::JOB,
        _ => return None,
    })
}
