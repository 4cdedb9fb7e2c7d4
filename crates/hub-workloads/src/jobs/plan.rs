//! What a job needs next: a plain function of the job, its pods and the time.
//!
//! As upstream's controller decides it, in this order:
//!
//! 1. Count: pods that ended and were not counted yet, beside what the status says.
//! 2. Is it over? What the status says already counts (`SuccessCriteriaMet`, `FailureTarget`); else a pod's failure that fails the
//!    job, the limit of failures, the deadline, the limits of failed indexes, the success policy, in this order.
//! 3. If it is over, its pods are deleted. Else pods that nobody needs are deleted, or missing ones are created; never both in
//!    one run.
//!
//! Pods of which a job has counted the end have no finalizer any more. What is counted when is in [`track`](super::track).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hub_runtime::views::time;
use jiff::Timestamp;

use super::backoff::{self, Record};
use super::indexes::Indexes;
use super::policy::{self, Failure, SuccessRule};
use super::status::Status;
use super::views::{JobPodView, JobView};
use super::{FAILURES_ANNOTATION, IGNORED_FAILURES_ANNOTATION, INDEX_ANNOTATION};

/// Pods that are created or deleted in one run, as upstream's `MaxPodCreateDeletePerSync`.
pub(crate) const PODS_PER_RUN: usize = 500;

/// A job, as far as decisions need it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Job {
    pub is_terminating: bool,
    pub parallelism: i64,
    pub completions: Option<i64>,
    pub is_indexed: bool,
    pub backoff_limit: i64,
    pub backoff_limit_per_index: Option<i64>,
    pub max_failed_indexes: Option<i64>,
    pub active_deadline: Option<Duration>,
    pub is_suspended: bool,
    /// A pod on its way out is replaced once it has ended, not before.
    pub replaces_only_failed: bool,
    /// Containers are restarted in their pods, so restarts count as failures.
    pub restarts_containers: bool,
    pub success_rules: Vec<SuccessRule>,
    pub status: Status,
}

impl Job {
    /// Reads a job. Numbers are clamped to what the API accepts.
    pub fn read(view: &JobView<'_>) -> Self {
        let spec = &view.spec;
        let number = |value: i64| value.clamp(0, i64::from(i32::MAX));
        let completions = spec.completions.map(number);
        let is_indexed = spec.completion_mode.as_deref() == Some("Indexed");
        let policy = spec.success_policy.as_ref();
        Self {
            is_terminating: view.metadata.is_terminating(),
            parallelism: number(spec.parallelism.unwrap_or(1)),
            completions,
            is_indexed,
            backoff_limit: number(spec.backoff_limit.unwrap_or(6)),
            backoff_limit_per_index: spec.backoff_limit_per_index.map(number).filter(|_| is_indexed),
            max_failed_indexes: spec.max_failed_indexes.map(number),
            active_deadline: spec
                .active_deadline_seconds
                .map(|seconds| Duration::from_secs(u64::try_from(number(seconds)).unwrap_or_default())),
            is_suspended: spec.suspend,
            replaces_only_failed: spec.pod_replacement_policy.as_deref() == Some("Failed")
                || spec.pod_failure_policy.is_some(),
            restarts_containers: *view.template().spec.restart_policy == *"OnFailure",
            success_rules: policy
                .map(|policy| policy::success_rules(policy, completions.unwrap_or_default()))
                .unwrap_or_default(),
            status: Status::read(&view.status),
        }
    }

    /// Indexes are below this.
    fn index_end(&self) -> i64 {
        self.completions.unwrap_or_default()
    }

    /// Whether a pod has an index that counts; every pod has where indexes do not matter.
    pub fn is_valid(&self, pod: &Pod) -> bool {
        !self.is_indexed || pod.index.is_some_and(|index| index < self.index_end())
    }

    /// Whether a pod has failed. One that is on its way out has, unless only a pod that has really ended is replaced.
    pub fn is_failed(&self, pod: &Pod) -> bool {
        pod.phase == Phase::Failed
            || (!self.replaces_only_failed && pod.is_terminating && pod.phase != Phase::Succeeded)
    }

    pub fn is_uncounted(&self, uid: &str) -> bool {
        let uncounted = self.status.uncounted.as_ref();
        uncounted.is_some_and(|pods| pods.succeeded.iter().chain(&pods.failed).any(|one| one == uid))
    }
}

/// One of the job's pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pod {
    pub name: String,
    pub uid: String,
    pub index: Option<i64>,
    pub phase: Phase,
    pub is_terminating: bool,
    /// Whether its end is still to be counted.
    pub is_tracked: bool,
    pub is_assigned: bool,
    /// Since when it is Ready, if it is.
    pub ready: Option<Timestamp>,
    pub created: Timestamp,
    /// When it ended, if it has.
    pub finished: Timestamp,
    /// Restarts of all its containers.
    pub restarts: i64,
    /// Restarts of the container with the most.
    pub restarts_max: i64,
    /// Failures of its index before it.
    pub failures: i64,
    /// Failures of its index before it that did not count.
    pub ignored_failures: i64,
    /// What its failure means, if it has failed.
    pub failure: Failure,
}

/// How far a pod is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// In the order in which pods are given up.
    #[default]
    Pending,
    /// Its node does not say.
    Unknown,
    /// It runs.
    Running,
    /// It ended well.
    Succeeded,
    /// It ended otherwise.
    Failed,
}

impl Pod {
    /// Reads a pod. `is_released` says that its finalizer was removed although it is shown.
    pub fn read(view: &JobPodView<'_>, job: &JobView<'_>, is_released: bool, now: Timestamp) -> Self {
        let (metadata, status) = (&view.metadata, &view.status);
        // What is no count is none: annotations are anybody's.
        let count = |annotation: &str| {
            let value = metadata.annotations.get(annotation).and_then(|value| value.parse::<i64>().ok());
            value.filter(|value| (0..=i64::from(i32::MAX)).contains(value))
        };
        let policy = job.spec.pod_failure_policy.as_ref();
        let containers = || status.container_statuses.iter().chain(&status.init_container_statuses);
        let restarts = || containers().map(|container| container.restart_count.clamp(0, i64::from(i32::MAX)));
        let ready = status.conditions.iter().find(|one| *one.r#type == *"Ready" && *one.status == *"True");
        let created = metadata.creation_timestamp.as_deref().and_then(time).unwrap_or_default();
        Self {
            name: metadata.name.to_string(),
            uid: metadata.uid.to_string(),
            index: count(INDEX_ANNOTATION),
            phase: match &*status.phase {
                "Succeeded" => Phase::Succeeded,
                "Failed" => Phase::Failed,
                "Running" => Phase::Running,
                "Unknown" => Phase::Unknown,
                _ => Phase::Pending,
            },
            is_terminating: metadata.deletion_timestamp.is_some(),
            is_tracked: metadata.is_tracked() && !is_released,
            is_assigned: !view.spec.node_name.is_empty(),
            ready: ready.map(|ready| ready.last_transition_time.as_deref().and_then(time).unwrap_or(created)),
            created,
            finished: backoff::finished_at(view, now),
            restarts: restarts().sum(),
            restarts_max: restarts().max().unwrap_or_default(),
            failures: count(FAILURES_ANNOTATION).unwrap_or_default(),
            ignored_failures: count(IGNORED_FAILURES_ANNOTATION).unwrap_or_default(),
            failure: policy.map(|policy| policy::of_pod(policy, view)).unwrap_or_default(),
        }
    }

    fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }

    /// Whether it is there and is to stay.
    pub fn is_active(&self) -> bool {
        !self.has_ended() && !self.is_terminating
    }
}

/// Why a job is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finish {
    pub outcome: Outcome,
    pub reason: String,
    pub message: String,
}

/// How a job ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// First `SuccessCriteriaMet`, then `Complete`.
    Success,
    /// First `FailureTarget`, then `Failed`.
    Failure,
}

impl Outcome {
    /// The condition that says that the job's pods are to end.
    pub fn interim(self) -> &'static str {
        match self {
            Self::Success => "SuccessCriteriaMet",
            Self::Failure => "FailureTarget",
        }
    }
}

impl Finish {
    pub fn success(reason: &str, message: impl Into<String>) -> Self {
        Self { outcome: Outcome::Success, reason: reason.to_owned(), message: message.into() }
    }

    fn failure(reason: &str, message: impl Into<String>) -> Self {
        Self { outcome: Outcome::Failure, reason: reason.to_owned(), message: message.into() }
    }
}

/// A pod to create.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NewPod {
    pub index: Option<i64>,
    /// Failures of its index that counted, and that did not; only where they have a limit.
    pub failures: Option<(i64, i64)>,
}

/// What is done about pods; numbers are indexes into those that were given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing.
    Nothing,
    /// The job is over: these are deleted, and counted when their finalizer is removed.
    End(Vec<usize>),
    /// Nobody needs these: they are deleted and never counted.
    Remove(Vec<usize>),
    /// These are missing.
    Create(Vec<NewPod>),
}

/// What a job needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub finish: Option<Finish>,
    pub action: Action,
    /// Pods that are there and are to stay.
    pub active: Vec<usize>,
    /// Pods on their way out.
    pub terminating: i64,
    pub succeeded: i64,
    /// Indexes of which the status says that they succeeded, where indexes matter.
    pub known_indexes: Indexes,
    /// With those that succeeded since.
    pub succeeded_indexes: Indexes,
    /// Indexes that failed for good, where they have a limit.
    pub failed_indexes: Option<Indexes>,
    /// The failed pod of an index that keeps its finalizer until another takes its count over.
    pub delayed: BTreeMap<i64, usize>,
    /// When to look again, if nothing changes before.
    pub again: Option<Duration>,
}

/// Decides. `record` is about failures that were counted before.
pub(crate) fn plan(job: &Job, pods: &[Pod], record: Record, now: Timestamp) -> Plan {
    let is_new = |pod: &&Pod| pod.is_tracked && job.is_valid(pod) && !job.is_uncounted(&pod.uid);
    let new_succeeded: Vec<&Pod> = pods.iter().filter(is_new).filter(|pod| pod.phase == Phase::Succeeded).collect();
    let new_failed: Vec<&Pod> = pods.iter().filter(is_new).filter(|pod| job.is_failed(pod)).collect();
    let counted_failures = new_failed.iter().filter(|pod| pod.failure.counts()).count();
    let uncounted = job.status.uncounted.clone().unwrap_or_default();
    let failed = job.status.failed.saturating_add(count(counted_failures + uncounted.failed.len()));
    let succeeded = job.status.succeeded.saturating_add(count(new_succeeded.len() + uncounted.succeeded.len()));
    let times = |pods: &[&Pod]| pods.iter().map(|pod| pod.finished).collect::<Vec<_>>();
    let record = record.with(&times(&new_succeeded), &times(&new_failed));

    let mut plan = Plan {
        finish: None,
        action: Action::Nothing,
        active: (0..pods.len()).filter(|index| pods[*index].is_active()).collect(),
        terminating: count(pods.iter().filter(|pod| pod.is_terminating && !pod.has_ended()).count()),
        succeeded,
        known_indexes: Indexes::default(),
        succeeded_indexes: Indexes::default(),
        failed_indexes: None,
        delayed: BTreeMap::new(),
        again: None,
    };
    plan.finish = declared(&job.status)
        .or_else(|| failed_by_policy(job, pods))
        .or_else(|| limits(job, pods, failed, now, &mut plan.again));
    if job.is_indexed {
        look_at_indexes(job, pods, &mut plan);
    }
    plan.action = if plan.finish.is_some() {
        Action::End(plan.active.clone())
    } else if job.is_terminating {
        Action::Nothing
    } else {
        manage(job, pods, record, now, &mut plan)
    };
    plan
}

/// What the status says already: nothing takes it back.
fn declared(status: &Status) -> Option<Finish> {
    [Outcome::Success, Outcome::Failure].into_iter().find_map(|outcome| {
        let condition = status.holds(outcome.interim())?;
        Some(Finish { outcome, reason: condition.reason.clone(), message: condition.message.clone() })
    })
}

fn failed_by_policy(job: &Job, pods: &[Pod]) -> Option<Finish> {
    pods.iter().filter(|pod| job.is_failed(pod)).find_map(|pod| match &pod.failure {
        Failure::FailJob(message) => Some(Finish::failure("PodFailurePolicy", message.clone())),
        _ => None,
    })
}

/// The limit of failures and the deadline.
fn limits(job: &Job, pods: &[Pod], failed: i64, now: Timestamp, again: &mut Option<Duration>) -> Option<Finish> {
    if failed > job.backoff_limit || has_restarted_too_often(job, pods) {
        return Some(Finish::failure("BackoffLimitExceeded", "Job has reached the specified backoff limit"));
    }
    let allowed = job.active_deadline.filter(|_| !job.is_suspended)?;
    // One that was never started starts now, and so does one that was suspended until now.
    let start = job.status.start.filter(|_| job.status.holds("Suspended").is_none()).unwrap_or(now);
    let left = allowed.saturating_sub(Duration::try_from(now.duration_since(start)).unwrap_or_default());
    if left.is_zero() {
        return Some(Finish::failure("DeadlineExceeded", "Job was active longer than specified deadline"));
    }
    *again = Some(left);
    None
}

fn has_restarted_too_often(job: &Job, pods: &[Pod]) -> bool {
    let running = pods.iter().filter(|pod| matches!(pod.phase, Phase::Running | Phase::Pending));
    let restarts: i64 = running.map(|pod| pod.restarts).sum();
    job.restarts_containers && restarts > 0 && restarts >= job.backoff_limit
}

/// Which indexes have succeeded or failed, and what that means.
fn look_at_indexes(job: &Job, pods: &[Pod], plan: &mut Plan) {
    let end = job.index_end();
    let uncounted = || pods.iter().filter(|pod| pod.is_tracked && job.is_valid(pod));
    let indexes = |pods: Vec<&Pod>| pods.into_iter().filter_map(|pod| pod.index).collect::<Vec<_>>();
    let succeeded = uncounted().filter(|pod| pod.phase == Phase::Succeeded).collect();
    plan.known_indexes = Indexes::parse(&job.status.completed_indexes, end);
    plan.succeeded_indexes = plan.known_indexes.with(indexes(succeeded));
    plan.succeeded = plan.succeeded_indexes.len();
    if let Some(limit) = job.backoff_limit_per_index {
        let is_index_failed = |pod: &&Pod| {
            job.is_failed(pod) && (pod.failure == Failure::FailIndex || (pod.failure.counts() && pod.failures >= limit))
        };
        let known = job.status.failed_indexes.as_deref().unwrap_or_default();
        let failed = Indexes::parse(known, end).with(indexes(uncounted().filter(is_index_failed).collect()));
        if plan.finish.is_none() {
            if job.max_failed_indexes.is_some_and(|max| failed.len() > max) {
                let message = "Job has exceeded the specified maximal number of failed indexes";
                plan.finish = Some(Finish::failure("MaxFailedIndexesExceeded", message));
            } else if !failed.is_empty() && failed.len().saturating_add(plan.succeeded) >= end {
                plan.finish = Some(Finish::failure("FailedIndexes", "Job has failed indexes"));
            }
        }
        plan.delayed = delayed(job, pods, plan, &failed);
        plan.failed_indexes = Some(failed);
    }
    if plan.finish.is_none() {
        let met = policy::success(&job.success_rules, &plan.succeeded_indexes);
        plan.finish = met.map(|message| Finish::success("SuccessPolicy", message));
    }
}

/// The last failed pod of each index that will be tried again: it keeps its finalizer, and so its count of failures, until the
/// index has another pod.
fn delayed(job: &Job, pods: &[Pod], plan: &Plan, failed: &Indexes) -> BTreeMap<i64, usize> {
    let active: BTreeSet<i64> = plan.active.iter().filter_map(|pod| pods[*pod].index).collect();
    let mut delayed: BTreeMap<i64, usize> = BTreeMap::new();
    for (number, pod) in pods.iter().enumerate() {
        let Some(index) = pod.index.filter(|_| pod.is_tracked && job.is_valid(pod) && job.is_failed(pod)) else {
            continue;
        };
        if plan.succeeded_indexes.contains(index) || failed.contains(index) || active.contains(&index) {
            continue;
        }
        let age = |pod: &Pod| (pod.failures + pod.ignored_failures, pod.finished);
        let last = delayed.entry(index).or_insert(number);
        if age(&pods[*last]) <= age(pod) {
            *last = number;
        }
    }
    delayed
}

/// Which pods to delete or create while the job is under way.
fn manage(job: &Job, pods: &[Pod], record: Record, now: Timestamp, plan: &mut Plan) -> Action {
    let active = count(plan.active.len());
    let desired = match job.completions {
        _ if job.is_suspended => 0,
        // The first success says that all of the work is done: what runs may end, nothing is replaced.
        None if plan.succeeded > 0 => active,
        None => job.parallelism,
        Some(completions) => (completions - plan.succeeded).clamp(0, job.parallelism),
    };
    let mut surplus = surplus(job, pods, &plan.active, usize::try_from(active - desired).unwrap_or_default());
    // What is left over is left to the next run, which the change of these brings.
    surplus.truncate(PODS_PER_RUN);
    if !surplus.is_empty() {
        return Action::Remove(surplus);
    }
    let terminating = if job.replaces_only_failed { plan.terminating } else { 0 };
    let missing = usize::try_from(desired - terminating - active).unwrap_or_default();
    if missing == 0 || job.is_suspended {
        return Action::Nothing;
    }
    let mut wait = |left: Duration| plan.again = Some(plan.again.map_or(left, |again| again.min(left)));
    if job.backoff_limit_per_index.is_none() {
        let left = record.left(now);
        if !left.is_zero() {
            wait(left);
            return Action::Nothing;
        }
    }
    let missing = missing.min(PODS_PER_RUN);
    if !job.is_indexed {
        return Action::Create(vec![NewPod::default(); missing]);
    }
    let is_taken = |pod: &&Pod| pod.is_active() || (job.replaces_only_failed && pod.is_terminating && !pod.has_ended());
    let taken = pods.iter().filter(is_taken).filter_map(|pod| pod.index);
    let mut settled = plan.succeeded_indexes.with(taken);
    if let Some(failed) = &plan.failed_indexes {
        settled = settled.union(failed);
    }
    let mut create = Vec::new();
    for index in settled.first_missing(missing, job.index_end()) {
        let replaced = plan.delayed.get(&index).map(|pod| &pods[*pod]);
        let left = replaced.filter(|_| job.backoff_limit_per_index.is_some()).map_or(Duration::ZERO, |pod| {
            let failures = u32::try_from(pod.failures + pod.ignored_failures + 1).unwrap_or(u32::MAX);
            backoff::left(failures, pod.finished, now)
        });
        if !left.is_zero() {
            wait(left);
            continue;
        }
        let failures = job.backoff_limit_per_index.map(|_| match replaced {
            None => (0, 0),
            Some(pod) if pod.failure.counts() => (pod.failures + 1, pod.ignored_failures),
            Some(pod) => (pod.failures, pod.ignored_failures + 1),
        });
        create.push(NewPod { index: Some(index), failures });
    }
    if create.is_empty() { Action::Nothing } else { Action::Create(create) }
}

/// Active pods that nobody needs: those without an index of their own, and `at_least` so many, those that have got least far
/// first.
fn surplus(job: &Job, pods: &[Pod], active: &[usize], at_least: usize) -> Vec<usize> {
    let mut sorted = active.to_vec();
    // As upstream's `ActivePods`: not assigned, not running, not ready, ready for less time, restarted more often, younger.
    sorted.sort_by_key(|index| {
        let pod = &pods[*index];
        let far = (pod.is_assigned, pod.phase, pod.ready.is_some());
        (far, Reverse(pod.ready), Reverse(pod.restarts_max), Reverse(pod.created), &pod.name)
    });
    let mut surplus = Vec::new();
    if job.is_indexed {
        // Of several with one index the one that has got furthest stays, which comes last.
        let mut of_index: BTreeMap<i64, usize> = BTreeMap::new();
        for pod in &sorted {
            match pods[*pod].index.filter(|_| job.is_valid(&pods[*pod])) {
                Some(index) => surplus.extend(of_index.insert(index, *pod)),
                None => surplus.push(*pod),
            }
        }
        let removed: BTreeSet<usize> = surplus.iter().copied().collect();
        sorted.retain(|pod| !removed.contains(pod));
    }
    let more = at_least.saturating_sub(surplus.len());
    surplus.extend(sorted.into_iter().take(more));
    surplus
}

/// A number of pods, as the API counts them.
pub(crate) fn count(pods: usize) -> i64 {
    i64::try_from(pods).unwrap_or(i64::MAX)
}

#[cfg(test)]
pub(crate) mod tests;
