//! What a CronJob needs next: a plain function of it, its jobs and the time.
//!
//! As upstream's controller decides it: first the list of active jobs is brought up to date; then, unless it is suspended, the most
//! recent time that has passed is looked for. Earlier ones are missed: a CronJob starts one job, however long nobody looked. Which
//! time was started last is known by `lastScheduleTime`; before there is one, times count from the creation.
//!
//! Differences: the most recent time is found exactly, where upstream estimates it from the first two and may find none for an
//! irregular schedule; and a `lastScheduleTime` far in the future, from a clock that was wrong, does not keep a CronJob waiting
//! until then.

use std::collections::HashSet;
use std::time::Duration;

use hub_runtime::events::seconds;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::schedule::Schedule;
use crate::jobs::views::Ending;

/// Missed times of which a person should hear, as upstream's.
const MISSED_MAX: usize = 100;
/// Added to the wait for the next time, as upstream's: the clock may be a little behind by then.
const NEXT_PADDING: Duration = Duration::from_millis(100);
/// A database of time zones may be installed any time.
const ZONE_RETRY: Duration = Duration::from_secs(60);
/// A clock may be put back a little, and what was started is not started again. What is later than this was never true.
const AHEAD_MAX: SignedDuration = SignedDuration::from_hours(1);
/// How far times are looked for from where nothing says since when.
const LOOK_BACK: SignedDuration = SignedDuration::from_mins(10);

/// A CronJob, as far as decisions need it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CronJob {
    pub name: String,
    pub is_terminating: bool,
    pub created: Timestamp,
    pub schedule: String,
    pub zone: Option<String>,
    pub is_suspended: bool,
    pub concurrency: Concurrency,
    pub starting_deadline: Option<SignedDuration>,
    /// How many finished jobs are kept, by how they ended.
    pub kept: [(Ending, Option<usize>); 2],
    pub status: Status,
}

/// `spec.concurrencyPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Concurrency {
    /// Jobs run beside each other.
    #[default]
    Allow,
    /// A job is not started while another one runs.
    Forbid,
    /// The job that runs is deleted.
    Replace,
}

/// `status` of a CronJob.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Status {
    pub active: Vec<Reference>,
    pub last_schedule: Option<Timestamp>,
    pub last_successful: Option<Timestamp>,
}

/// One of the active jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reference {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub resource_version: String,
}

/// A job of the CronJob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Child {
    pub name: String,
    pub uid: String,
    pub is_terminating: bool,
    pub ending: Option<Ending>,
    pub start: Option<Timestamp>,
    pub completion: Option<Timestamp>,
}

/// Something that a person should see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    pub reason: &'static str,
    pub is_warning: bool,
    pub message: String,
    /// Since when it holds, if it is true of every run until something changes: then it is said once for this time.
    pub holds: Option<Timestamp>,
}

impl Notice {
    fn normal(reason: &'static str, message: String) -> Self {
        Self { reason, is_warning: false, message, holds: None }
    }

    fn warning(reason: &'static str, message: String) -> Self {
        Self { reason, is_warning: true, message, holds: None }
    }

    fn while_true(self, since: Timestamp) -> Self {
        Self { holds: Some(since), ..self }
    }
}

/// A job to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    pub name: String,
    pub time: Timestamp,
    /// The time as the annotation says it, in the CronJob's zone.
    pub text: String,
}

/// What a CronJob needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub status: Status,
    pub notices: Vec<Notice>,
    pub start: Option<Start>,
    /// Jobs that are deleted before: uids of `status.active`.
    pub replace: Vec<String>,
    /// Finished jobs that are not kept: indexes into those that were given.
    pub trim: Vec<usize>,
    pub again: Option<Duration>,
}

/// Decides. `absent` are uids of active jobs that are there no more; `zone_of` finds zones by their names.
pub(crate) fn plan(
    cron_job: &CronJob,
    jobs: &[Child],
    absent: &HashSet<String>,
    zone_of: &dyn Fn(&str) -> Option<TimeZone>,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan { status: cron_job.status.clone(), ..Plan::default() };
    look_at_jobs(cron_job, jobs, absent, &mut plan);
    if !cron_job.is_terminating {
        schedule(cron_job, zone_of, now, &mut plan);
        plan.trim = surplus(cron_job, jobs);
    }
    plan
}

fn look_at_jobs(cron_job: &CronJob, jobs: &[Child], absent: &HashSet<String>, plan: &mut Plan) {
    for job in jobs {
        let is_active = plan.status.active.iter().any(|one| one.uid == job.uid);
        match job.ending {
            None if !is_active => {
                let message = format!("Saw a job that the controller did not create or forgot: {}", job.name);
                plan.notices.push(Notice::warning("UnexpectedJob", message).while_true(cron_job.created));
            }
            Some(ending) if is_active => {
                plan.status.active.retain(|one| one.uid != job.uid);
                let message = format!("Saw completed job: {}, status: {}", job.name, ending.as_str());
                plan.notices.push(Notice::normal("SawCompletedJob", message));
            }
            _ => {}
        }
        if job.ending == Some(Ending::Complete) {
            plan.status.last_successful = plan.status.last_successful.max(job.completion);
        }
    }
    for missing in plan.status.active.iter().filter(|one| absent.contains(&one.uid)) {
        plan.notices.push(Notice::normal("MissingJob", format!("Active job went missing: {}", missing.name)));
    }
    plan.status.active.retain(|one| !absent.contains(&one.uid));
}

/// Which time is due, and when the next one is.
fn schedule(cron_job: &CronJob, zone_of: &dyn Fn(&str) -> Option<TimeZone>, now: Timestamp, plan: &mut Plan) {
    let mut warn = |reason: &'static str, message: String| {
        plan.notices.push(Notice::warning(reason, message).while_true(cron_job.created));
    };
    let named = cron_job.zone.as_deref().unwrap_or_default();
    let Some(shown_zone) = zone_of(named) else {
        warn("UnknownTimeZone", format!("invalid timeZone: {named:?}: unknown time zone {named}"));
        plan.again = Some(ZONE_RETRY);
        return;
    };
    if cron_job.is_suspended {
        return;
    }
    let text = &cron_job.schedule;
    if text.contains("TZ") {
        let message = format!(
            "CRON_TZ or TZ used in schedule {text:?} is not officially supported, see \
             https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
        );
        warn("UnsupportedSchedule", message);
    }
    let (schedule, zone) = match Schedule::parse(text) {
        Ok((schedule, None)) => (schedule, Some(shown_zone.clone())),
        Ok((schedule, Some(name))) => (schedule, zone_of(name)),
        Err(error) => return warn("UnparseableSchedule", format!("unparseable schedule: {text:?} : {error}")),
    };
    let Some(zone) = zone else {
        return warn("UnparseableSchedule", format!("unparseable schedule: {text:?} : provided bad location"));
    };
    let since = since(cron_job, &schedule, now);
    if schedule.next(&zone, since).is_none() {
        let why = "time difference between two schedules is less than 1 second";
        return warn("InvalidSchedule", format!("invalid schedule: {text} : {why}"));
    }
    let last = schedule.last_between(&zone, since, now);
    plan.again = schedule
        .next(&zone, last.unwrap_or(since))
        .map(|next| Duration::try_from(next.duration_since(now)).unwrap_or_default().saturating_add(NEXT_PADDING));
    // What is later than the deadline allows was not missed either, as upstream counts.
    let allowed = cron_job.starting_deadline.and_then(|deadline| now.checked_sub(deadline).ok());
    let from = allowed.map_or(since, |allowed| allowed.max(since));
    let Some(due) = last else { return };
    if due <= from {
        let message = format!("Missed scheduled time to start a job: {}", due.strftime("%a, %d %b %Y %H:%M:%S +0000"));
        plan.notices.push(Notice::warning("MissSchedule", message).while_true(due));
        return;
    }
    if counts_more_than(MISSED_MAX, &schedule, &zone, from, now) {
        let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        plan.notices.push(Notice::warning("TooManyMissedTimes", message.to_owned()).while_true(since));
    }
    let name = job_name(&cron_job.name, due);
    let is_started = plan.status.active.iter().any(|one| one.name == name) || plan.status.last_schedule == Some(due);
    if is_started {
        return;
    }
    match cron_job.concurrency {
        Concurrency::Forbid if !plan.status.active.is_empty() => {
            let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
            plan.notices.push(Notice::normal("JobAlreadyActive", message.to_owned()).while_true(due));
            return;
        }
        Concurrency::Replace => plan.replace = plan.status.active.iter().map(|one| one.uid.clone()).collect(),
        Concurrency::Forbid | Concurrency::Allow => {}
    }
    plan.start = Some(Start { name, time: due, text: local_text(&shown_zone, due) });
}

/// Since when times are looked for: the last one that was started, else the creation; where neither can be right, a while ago.
fn since(cron_job: &CronJob, schedule: &Schedule, now: Timestamp) -> Timestamp {
    let latest = now.checked_add(AHEAD_MAX).unwrap_or(now);
    let mut known = cron_job.status.last_schedule.into_iter().chain([cron_job.created]);
    known.find(|time| *time <= latest).unwrap_or_else(|| match schedule {
        // Its times are counted from one that stays.
        Schedule::Every(_) => Timestamp::UNIX_EPOCH,
        Schedule::Fields(_) => now.checked_sub(LOOK_BACK).unwrap_or(now),
    })
}

fn counts_more_than(max: usize, schedule: &Schedule, zone: &TimeZone, from: Timestamp, now: Timestamp) -> bool {
    let times = std::iter::successors(schedule.next(zone, from), |time| schedule.next(zone, *time));
    times.take_while(|time| *time <= now).take(max + 1).count() > max
}

/// The name of the job of a time: two runs that start the same one cannot both create it.
pub(crate) fn job_name(cron_job: &str, time: Timestamp) -> String {
    format!("{cron_job}-{}", time.as_second().div_euclid(60))
}

/// RFC 3339 with the zone's offset, as Go writes it.
fn local_text(zone: &TimeZone, time: Timestamp) -> String {
    let offset = zone.to_offset(time);
    match offset.seconds() {
        0 => seconds(time),
        _ => time.display_with_offset(offset).to_string(),
    }
}

/// Finished jobs that are not kept: the oldest of each ending.
fn surplus(cron_job: &CronJob, jobs: &[Child]) -> Vec<usize> {
    let mut surplus = Vec::new();
    for (ending, kept) in cron_job.kept {
        let Some(kept) = kept else { continue };
        let is_one = |index: &usize| jobs[*index].ending == Some(ending) && !jobs[*index].is_terminating;
        let mut ended: Vec<usize> = (0..jobs.len()).filter(is_one).collect();
        // One that never started comes last, as upstream sorts them.
        ended.sort_by_key(|index| (jobs[*index].start.is_none(), jobs[*index].start, &jobs[*index].name));
        ended.truncate(ended.len().saturating_sub(kept));
        surplus.extend(ended);
    }
    surplus
}

#[cfg(test)]
mod tests;
