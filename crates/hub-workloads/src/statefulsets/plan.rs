//! What a StatefulSet needs next: a plain function of the set, its pods and the time.
//!
//! As upstream's controller decides it, in this order:
//!
//! 1. Each ordinal from the first on: a pod that has ended is deleted, one that is missing is created, one that is not what it
//!    should be is corrected. With `OrderedReady` the first pod that is not available ends the run: nothing comes after it.
//! 2. Pods beyond the replicas are deleted from the highest ordinal on; with `OrderedReady` one at a time, and only while all
//!    others are available.
//! 3. The highest pod of an old revision, down to the partition, is deleted once everything above it is available. The feature
//!    by which several may be down at once (`maxUnavailable`) is off in upstream's 1.36, and so it is here.
//!
//! A pod on a node that is out of reach is not ready: it is neither replaced nor forced away, so that there are never two of an
//! ordinal. A rolling update passes by it, and by a pod whose node is held by the owner of the box
//! ([`hub_runtime::rollouts::skipped`]): such a pod keeps its revision until the node is back or released. While an update is under way a
//! pod out of reach does not hold up what comes after it either: the ordinals that the update deletes are created again. Without an
//! update the order is upstream's, and what is missing waits for every pod before it.
//!
//! With a canary ([`hub_runtime::rollouts::canary`]) only the ordinals of its list are updated, in the same order; one that is missing
//! and not on the list comes back with the current revision.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hub_runtime::rollouts::skipped::Skip;
use jiff::Timestamp;

use crate::ready::Clock;

/// A set that creates or deletes more gives its worker back in between, so that others have their turn.
pub(super) const CHANGES_PER_RUN: usize = 500;

/// A set, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Set<'a> {
    pub replicas: i64,
    /// The first ordinal.
    pub start: i64,
    /// Whether pods come and leave in any order.
    pub is_parallel: bool,
    pub update: Update,
    pub is_terminating: bool,
    /// Name of the revision that pods had before the update.
    pub current: &'a str,
    /// Name of the revision that they should have.
    pub updated: &'a str,
    /// `status.currentReplicas` as it was written last.
    pub current_replicas: i64,
    /// Which ordinals an update is about.
    pub scope: Scope<'a>,
}

/// Which ordinals an update is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope<'a> {
    /// All.
    All,
    /// These, until they have run well for long enough; none when nothing is to be updated.
    Only(&'a BTreeSet<i64>),
}

impl Set<'_> {
    /// Whether pods move from one revision to another.
    fn is_updating(&self) -> bool {
        self.current != self.updated && matches!(self.update, Update::Rolling { .. })
    }

    /// Whether an ordinal is one of the replicas.
    pub fn has(&self, ordinal: i64) -> bool {
        ordinal >= self.start && ordinal < self.start.saturating_add(self.replicas)
    }

    /// Of which revision a new pod is.
    fn revision_of(&self, ordinal: i64, passes: bool) -> Which {
        if let (Scope::Only(ordinals), Update::Rolling { .. }) = (self.scope, self.update) {
            return if ordinals.contains(&ordinal) { Which::Updated } else { Which::Current };
        }
        let kept = match self.update {
            Update::OnDelete => return Which::Updated,
            Update::Rolling { partition: Some(partition) } => partition,
            // Whoever is passed by has the current revision and is not the lowest: the number says nothing then.
            Update::Rolling { partition: None } if passes => 0,
            Update::Rolling { partition: None } => self.current_replicas,
        };
        if ordinal < self.start.saturating_add(kept) { Which::Current } else { Which::Updated }
    }
}

/// How pods of an old revision are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Update {
    /// Only when somebody deletes them.
    OnDelete,
    /// One after the other, down to this number of pods.
    Rolling { partition: Option<i64> },
}

/// One of a set's two revisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    Current,
    Updated,
}

/// One of a set's pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pod {
    pub ordinal: i64,
    pub phase: Phase,
    pub is_terminating: bool,
    /// Since when it is Ready, if it is.
    pub ready_since: Option<Timestamp>,
    /// Name of the revision that it was created from.
    pub revision: String,
    /// Whether its labels, volumes and claims are what they should be.
    pub is_right: bool,
    /// Whether one of its claims does not exist.
    pub lacks_claims: bool,
    /// Whether its claims have the owners that the retention policy says.
    pub owners_are_right: bool,
    /// Why a rollout leaves its node out, if it does.
    pub skip: Option<Skip>,
    /// Whether it is of a revision whose canary has failed.
    pub is_rejected: bool,
}

/// How far a pod is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing is said of it.
    #[default]
    None,
    Pending,
    Running,
    /// It ended, well or not; a set's pods should not.
    Ended,
    /// Its node cannot say.
    Unknown,
}

impl Pod {
    fn is_ready(&self) -> bool {
        self.phase == Phase::Running && self.ready_since.is_some()
    }

    /// Whether nobody can reach its node. One that is to be deleted there is no more in the way than one that is not.
    fn is_out_of_reach(&self) -> bool {
        self.skip == Some(Skip::Unreachable)
    }

    fn is_unavailable(&self, clock: Clock) -> bool {
        self.is_terminating || !clock.is_available(self.ready_since)
    }

    /// Whether nothing may come after it while pods come in order.
    fn is_waited_for(&self, clock: Clock) -> bool {
        self.is_terminating || !self.is_ready() || !clock.is_available(self.ready_since)
    }
}

/// One thing to do. Pods are indexes into those that were given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Create {
        ordinal: i64,
        revision: Which,
    },
    Delete(usize),
    /// Delete a pod that has ended, once its pause is over.
    Replace(usize),
    /// Create the claims of a pod that waits for them.
    Claims(usize),
    /// Correct labels, volumes and claims.
    Correct(usize),
    /// Give the claims of a pod that is to be deleted the owners of the retention policy.
    Owners(usize),
}

/// What a StatefulSet needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// In this order; nothing of it depends on what comes after.
    pub steps: Vec<Step>,
    pub counts: Counts,
    /// When a pod that is Ready becomes available, if that is still to come.
    pub available_after: Option<Duration>,
    /// Whether a pod waits until its claims of an earlier life are deleted.
    pub has_stale_claims: bool,
    /// Whether there is more to do than one run does.
    pub is_partial: bool,
    /// Pods that a rolling update passes by.
    pub passed: Vec<usize>,
}

/// What `status` counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub replicas: i64,
    pub ready: i64,
    pub available: i64,
    pub current: i64,
    pub updated: i64,
}

impl Counts {
    /// Whether an update is complete, so that its revision is the current one.
    pub fn completes(&self, set: &Set<'_>) -> bool {
        matches!(set.update, Update::Rolling { .. })
            && self.updated == set.replicas
            && self.ready == set.replicas
            && self.replicas == set.replicas
    }
}

/// Decides. No two pods have the same ordinal. `is_stale` says of an ordinal without a pod whether a claim of it belongs to a
/// pod that is deleted, and goes with it.
pub(super) fn plan(set: &Set<'_>, pods: &[Pod], is_stale: impl Fn(i64) -> bool, clock: Clock) -> Plan {
    let mut plan = Plan { counts: count(set, pods, clock), ..Plan::default() };
    let waiting = pods.iter().filter(|pod| !clock.is_available(pod.ready_since)).filter_map(|pod| pod.ready_since);
    plan.available_after = waiting.map(|since| clock.left(since)).min();
    if set.is_terminating {
        return plan;
    }
    let by_ordinal: BTreeMap<i64, usize> = pods.iter().enumerate().map(|(index, pod)| (pod.ordinal, index)).collect();
    let is_passed = |pod: &Pod| {
        let is_left_out = pod.is_out_of_reach() || (pod.skip.is_some() && !pod.is_terminating);
        is_left_out && pod.revision != set.updated && set.has(pod.ordinal)
    };
    if set.is_updating() {
        plan.passed = (0..pods.len()).filter(|index| is_passed(&pods[*index])).collect();
    }
    let is_done = if set.is_parallel {
        all_replicas(&mut plan, set, pods, &by_ordinal, is_stale);
        all_superfluous(&mut plan, set, pods, &by_ordinal);
        true
    } else {
        replicas_in_order(&mut plan, set, pods, &by_ordinal, is_stale, clock)
            && superfluous_in_order(&mut plan, set, pods, &by_ordinal, clock)
    };
    if is_done && let Update::Rolling { partition } = set.update {
        roll(&mut plan, set, pods, &by_ordinal, partition.unwrap_or(0), clock);
    }
    plan
}

fn count(set: &Set<'_>, pods: &[Pod], clock: Clock) -> Counts {
    let mut counts = Counts::default();
    for pod in pods {
        let is_created = pod.phase != Phase::None;
        counts.replicas += i64::from(is_created);
        counts.ready += i64::from(pod.is_ready());
        counts.available += i64::from(pod.is_ready() && clock.is_available(pod.ready_since));
        let is_counted = is_created && !pod.is_terminating;
        counts.current += i64::from(is_counted && pod.revision == set.current);
        counts.updated += i64::from(is_counted && pod.revision == set.updated);
    }
    counts
}

/// The claims of a pod that may be waiting for them.
fn claims(plan: &mut Plan, pods: &[Pod], index: usize) {
    if needs_claims(&pods[index]) {
        plan.steps.push(Step::Claims(index));
    }
}

fn needs_claims(pod: &Pod) -> bool {
    pod.phase == Phase::Pending && (pod.lacks_claims || !pod.owners_are_right)
}

fn correct(plan: &mut Plan, pods: &[Pod], index: usize) {
    let pod = &pods[index];
    if !pod.is_right || (!pod.owners_are_right && !needs_claims(pod)) {
        plan.steps.push(Step::Correct(index));
    }
}

/// Whether all replicas are there and available, so that others may be deleted.
fn replicas_in_order(
    plan: &mut Plan,
    set: &Set<'_>,
    pods: &[Pod],
    by_ordinal: &BTreeMap<i64, usize>,
    is_stale: impl Fn(i64) -> bool,
    clock: Clock,
) -> bool {
    for ordinal in set.start..set.start.saturating_add(set.replicas) {
        let Some(index) = by_ordinal.get(&ordinal).copied() else {
            if is_stale(ordinal) {
                plan.has_stale_claims = true;
            } else {
                plan.steps.push(Step::Create { ordinal, revision: set.revision_of(ordinal, !plan.passed.is_empty()) });
            }
            return false;
        };
        let pod = &pods[index];
        if pod.phase == Phase::Ended {
            if !pod.is_terminating {
                plan.steps.push(Step::Replace(index));
            }
            return false;
        }
        claims(plan, pods, index);
        if pod.is_waited_for(clock) {
            // An update does not wait for a node that nobody can reach.
            if set.is_updating() && pod.is_out_of_reach() {
                continue;
            }
            // What a canary has shown not to work will never be ready, and upstream would wait for it.
            if pod.is_rejected && pod.revision != set.updated && !pod.is_terminating {
                plan.steps.push(Step::Delete(index));
            }
            return false;
        }
        correct(plan, pods, index);
    }
    true
}

fn all_replicas(
    plan: &mut Plan,
    set: &Set<'_>,
    pods: &[Pod],
    by_ordinal: &BTreeMap<i64, usize>,
    is_stale: impl Fn(i64) -> bool,
) {
    let end = set.start.saturating_add(set.replicas);
    for index in by_ordinal.range(set.start..end.max(set.start)).map(|(_, index)| *index) {
        if pods[index].phase != Phase::Ended {
            claims(plan, pods, index);
            correct(plan, pods, index);
        } else if !pods[index].is_terminating {
            plan.steps.push(Step::Replace(index));
        }
    }
    let mut created = 0;
    for ordinal in (set.start..end).filter(|ordinal| !by_ordinal.contains_key(ordinal)) {
        if created == CHANGES_PER_RUN {
            plan.is_partial = true;
            break;
        }
        if is_stale(ordinal) {
            plan.has_stale_claims = true;
            continue;
        }
        plan.steps.push(Step::Create { ordinal, revision: set.revision_of(ordinal, !plan.passed.is_empty()) });
        created += 1;
    }
}

/// The pods that are no replicas, from the highest ordinal on.
fn superfluous<'b>(
    set: &'b Set<'_>,
    by_ordinal: &'b BTreeMap<i64, usize>,
) -> impl DoubleEndedIterator<Item = usize> + 'b {
    by_ordinal.iter().rev().filter(|(ordinal, _)| !set.has(**ordinal)).map(|(_, index)| *index)
}

fn keep_owners(plan: &mut Plan, set: &Set<'_>, pods: &[Pod], by_ordinal: &BTreeMap<i64, usize>) {
    let wrong = superfluous(set, by_ordinal).filter(|index| !pods[*index].owners_are_right);
    plan.steps.extend(wrong.map(Step::Owners));
}

/// Whether there is none, so that others may be updated.
fn superfluous_in_order(
    plan: &mut Plan,
    set: &Set<'_>,
    pods: &[Pod],
    by_ordinal: &BTreeMap<i64, usize>,
    clock: Clock,
) -> bool {
    keep_owners(plan, set, pods, by_ordinal);
    let Some(highest) = superfluous(set, by_ordinal).next() else { return true };
    // One that has ended will never be ready and nothing runs in it: nobody waits for it, where upstream would for ever.
    let is_awaited = |pod: &Pod| pod.phase != Phase::Ended || pod.is_terminating;
    // All replicas are available here, so this is the first of all pods that is not.
    let is_unavailable = |index: &usize| is_awaited(&pods[*index]) && pods[*index].is_unavailable(clock);
    let first_unavailable = superfluous(set, by_ordinal).rev().find(is_unavailable);
    let pod = &pods[highest];
    let is_next = !pod.is_waited_for(clock) || !is_awaited(pod) || first_unavailable == Some(highest);
    if !pod.is_terminating && is_next {
        plan.steps.push(Step::Delete(highest));
    }
    false
}

fn all_superfluous(plan: &mut Plan, set: &Set<'_>, pods: &[Pod], by_ordinal: &BTreeMap<i64, usize>) {
    keep_owners(plan, set, pods, by_ordinal);
    let ending: Vec<usize> = superfluous(set, by_ordinal).filter(|index| !pods[*index].is_terminating).collect();
    plan.is_partial |= ending.len() > CHANGES_PER_RUN;
    plan.steps.extend(ending.into_iter().take(CHANGES_PER_RUN).map(Step::Delete));
}

/// Deletes the highest pod of an old revision, unless one above it is not available. Pods on nodes that are left out are passed by.
fn roll(plan: &mut Plan, set: &Set<'_>, pods: &[Pod], by_ordinal: &BTreeMap<i64, usize>, partition: i64, clock: Clock) {
    let (first, end) = (set.start.saturating_add(partition.max(0)), set.start.saturating_add(set.replicas));
    for ordinal in (first..end).rev() {
        // One that is missing was just created of the revision that it should have, and is not available yet.
        let Some(index) = by_ordinal.get(&ordinal).copied() else { return };
        let pod = &pods[index];
        let is_old = pod.revision != set.updated && !pod.is_terminating;
        let is_in_scope = match set.scope {
            Scope::All => true,
            Scope::Only(ordinals) => ordinals.contains(&ordinal),
        };
        let is_passed = match pod.skip {
            Some(Skip::Unreachable) => true,
            Some(Skip::Held) => is_old,
            None => false,
        };
        if is_passed || (is_old && !is_in_scope) {
            continue;
        }
        if is_old {
            // One that has ended is deleted anyway.
            if pod.phase != Phase::Ended {
                plan.steps.push(Step::Delete(index));
                plan.counts.current -= i64::from(pod.revision == set.current);
            }
            return;
        }
        if pod.is_unavailable(clock) {
            return;
        }
    }
}
