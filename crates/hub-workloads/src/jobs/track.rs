//! Counts each pod of a job once, whoever ends in between.
//!
//! A pod has a finalizer from its creation until its end is counted, so it cannot disappear before. Counting takes three steps, each
//! of which may be the last one before a power cut:
//!
//! ```text
//! 1. status: the pod's uid becomes one of uncountedTerminatedPods    (indexed and succeeded: its index, which is enough)
//! 2. pod:    the finalizer is removed
//! 3. status: uids without a finalizer leave the list, and the counters take them up
//! ```
//!
//! After 1 the uid says that the pod is not to be listed again; after 2 that it is to be counted though it may not be there any
//! more; 3 is one write of both the list and the counters. The status is written as it was read (by its revision), so a view
//! from before is rejected and never counted from. What shows that the job is over is written with 1, before the finalizers of the
//! last pods are removed; `Complete` or `Failed` only when every pod is counted and has ended.

use std::collections::HashSet;

use jiff::Timestamp;

use super::plan::{Action, Finish, Job, Outcome, Phase, Plan, Pod, count};
use super::status::{Condition, Status};

/// Uids in `uncountedTerminatedPods`, as upstream's `MaxUncountedPods`: some twenty kilobytes.
const UNCOUNTED_MAX: usize = 500;

/// What became of a plan's action.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Done {
    /// Pods that were deleted.
    pub deleted: Vec<usize>,
    /// How many were created.
    pub created: i64,
}

/// What is written before finalizers are removed, and what follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tracked {
    pub status: Status,
    /// Pods whose finalizer is to be removed once the status is written.
    pub release: Vec<usize>,
    /// Why the job is over, if it may end with this run.
    finish: Option<Finish>,
    /// Whether pods are left for another run.
    is_partial: bool,
    /// Whether it became suspended or resumed.
    pub suspension: Option<Suspension>,
}

/// A change of `Suspended`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Suspension {
    /// It is suspended from now on.
    Suspended,
    /// It is not any more.
    Resumed,
}

/// The status after a plan was carried out, with the pods that have ended listed.
pub(crate) fn track(job: &Job, pods: &[Pod], plan: &Plan, done: &Done, now: Timestamp) -> Tracked {
    let now = whole_second(now);
    let mut status = job.status.clone();
    let deleted_ready = count(done.deleted.iter().filter(|pod| pods[**pod].ready.is_some()).count());
    let ready = count(plan.active.iter().filter(|pod| pods[**pod].ready.is_some()).count());
    status.active = (count(plan.active.len()) - count(done.deleted.len())).saturating_add(done.created);
    status.ready = Some((ready - deleted_ready).max(0));
    status.terminating = Some(plan.terminating.saturating_add(count(done.deleted.len())));
    if status.start.is_none() && !job.is_suspended {
        status.start = Some(now);
    }
    let mut finish = plan.finish.clone();
    let mut suspension = None;
    match &plan.action {
        // With pods that are neither deleted nor counted, it is not over.
        Action::End(pods) if done.deleted.len() < pods.len() => finish = None,
        Action::End(_) => {}
        _ => {
            let needed = job.completions.unwrap_or(1);
            if plan.succeeded >= needed && status.active == 0 {
                finish = Some(Finish::success("CompletionsReached", "Reached expected number of succeeded pods"));
            } else if !job.is_terminating {
                suspension = suspend(job, &mut status, now);
            }
        }
    }

    let held: HashSet<&str> = pods.iter().filter(|pod| pod.is_tracked).map(|pod| pod.uid.as_str()).collect();
    status.uncounted.get_or_insert_default();
    status.count_released(|uid| held.contains(uid));
    let (release, is_partial) = list_ended(job, pods, plan, finish.as_ref(), &mut status);
    if job.is_indexed {
        status.succeeded = plan.succeeded_indexes.len();
        status.completed_indexes = plan.succeeded_indexes.to_string();
        status.failed_indexes = plan.failed_indexes.as_ref().map(ToString::to_string);
    }
    if let Some(finish) = &finish {
        status.set(Condition::new(finish.outcome.interim(), "True", &finish.reason, &finish.message, now));
    }
    Tracked { status, release, finish, is_partial, suspension }
}

fn suspend(job: &Job, status: &mut Status, now: Timestamp) -> Option<Suspension> {
    if job.is_suspended {
        let condition = Condition::new("Suspended", "True", "JobSuspended", "Job suspended", now);
        return status.set(condition).then_some(Suspension::Suspended);
    }
    let condition = Condition::new("Suspended", "False", "JobResumed", "Job resumed", now);
    status.set(condition).then(|| {
        // The deadline is about the time in which the job may run.
        status.start = Some(now);
        Suspension::Resumed
    })
}

/// Lists pods that have ended in the status, and returns all whose finalizer may be removed, and whether there are more.
fn list_ended(
    job: &Job,
    pods: &[Pod],
    plan: &Plan,
    finish: Option<&Finish>,
    status: &mut Status,
) -> (Vec<usize>, bool) {
    let uncounted = status.uncounted.get_or_insert_default();
    let known: HashSet<String> = uncounted.succeeded.iter().chain(&uncounted.failed).cloned().collect();
    let failed_before: HashSet<String> = uncounted.failed.iter().cloned().collect();
    let mut order: Vec<usize> = (0..pods.len()).filter(|pod| pods[*pod].is_tracked).collect();
    order.sort_by_key(|pod| pods[*pod].index);
    let (mut release, mut new_indexes) = (Vec::new(), 0);
    for number in order {
        if new_indexes + uncounted.succeeded.len() + uncounted.failed.len() >= UNCOUNTED_MAX {
            return (release, true);
        }
        let pod = &pods[number];
        let is_failed = job.is_failed(pod);
        if !may_release(job, plan, finish, number, pod, is_failed) {
            continue;
        }
        release.push(number);
        if pod.phase == Phase::Succeeded && !failed_before.contains(&pod.uid) {
            match pod.index.filter(|_| job.is_indexed) {
                Some(index) => {
                    new_indexes += usize::from(job.is_valid(pod) && !plan.known_indexes.contains(index));
                }
                None if job.is_indexed || known.contains(&pod.uid) => {}
                None => uncounted.succeeded.push(pod.uid.clone()),
            }
        } else if (is_failed || finish.is_some_and(|finish| finish.outcome == Outcome::Failure))
            && !known.contains(&pod.uid)
            && job.is_valid(pod)
            && pod.failure.counts()
        {
            // Pods of a job that failed have failed too, whatever becomes of them.
            uncounted.failed.push(pod.uid.clone());
        }
    }
    (release, false)
}

/// Whether the finalizer of a pod may be removed: it ended, or everything does. A failed pod waits while its index has no other
/// that knows how often it failed.
fn may_release(job: &Job, plan: &Plan, finish: Option<&Finish>, number: usize, pod: &Pod, is_failed: bool) -> bool {
    if job.is_terminating || finish.is_some() || pod.phase == Phase::Succeeded {
        return true;
    }
    is_failed && pod.index.is_none_or(|index| plan.delayed.get(&index) != Some(&number))
}

/// What happened with the end of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub finish: Finish,
    /// More pods succeeded than were needed.
    pub has_surplus: bool,
}

impl Tracked {
    /// The status once finalizers are removed: `is_held` says of which pods they are not. With how the job ended, if it has.
    pub fn settle(
        &self,
        job: &Job,
        pods: &[Pod],
        now: Timestamp,
        is_held: impl Fn(&str) -> bool,
    ) -> (Status, Option<Ended>) {
        let now = whole_second(now);
        let mut status = self.status.clone();
        status.count_released(&is_held);
        if job.is_indexed {
            status.succeeded = self.status.succeeded;
        }
        // Indexes are not among the uncounted, so their pods are looked at themselves.
        let is_whole = !self.is_partial && self.release.iter().all(|pod| !is_held(&pods[*pod].uid));
        let Some(finish) = self.finish.as_ref().filter(|_| is_whole) else { return (status, None) };
        let uncounted = status.uncounted.as_ref();
        let is_counted = uncounted.is_none_or(|pods| pods.succeeded.is_empty() && pods.failed.is_empty());
        if !is_counted || status.terminating.is_some_and(|pods| pods > 0) {
            return (status, None);
        }
        let terminal = match finish.outcome {
            Outcome::Success => {
                // A clock that was put back: no job is complete before it began.
                status.completion = Some(status.start.map_or(now, |start| start.max(now)));
                "Complete"
            }
            Outcome::Failure => "Failed",
        };
        status.set(Condition::new(terminal, "True", &finish.reason, &finish.message, now));
        let has_surplus = job.completions.is_some_and(|completions| status.succeeded > completions);
        (status, Some(Ended { finish: finish.clone(), has_surplus }))
    }
}

/// The time without what is finer than a second, as a status keeps it.
pub(crate) fn whole_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_nanosecond().div_euclid(1_000_000_000).try_into().unwrap_or_default())
        .unwrap_or(time)
}

#[cfg(test)]
mod tests;
