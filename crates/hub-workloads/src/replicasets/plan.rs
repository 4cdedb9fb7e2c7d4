//! What a ReplicaSet needs next: a plain function of its pods and the time.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use hub_runtime::views::LabelSelector;
use jiff::Timestamp;

use crate::pods::{Clock, Group, Phase, Pod, SharedLabels, as_labels};

/// As upstream: a set that should create more comes back for the rest.
pub(super) const BURST: usize = 500;

/// What a ReplicaSet needs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Pods to create.
    pub create: usize,
    /// Pods to delete.
    pub delete: Vec<Arc<Pod>>,
    pub counts: Counts,
    /// When a pod that is Ready becomes available, if that is still to come.
    pub available_after: Option<Duration>,
}

/// What `status` counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub replicas: i64,
    pub fully_labeled: i64,
    pub ready: i64,
    pub available: i64,
    pub terminating: i64,
}

/// Which pods a rollout has a set delete before or after all others.
#[derive(Clone, Debug, Default)]
pub(super) struct Order {
    /// Nodes whose pods are deleted first.
    pub first: HashSet<Box<str>>,
    /// Names of pods that are deleted last.
    pub last: HashSet<Box<str>>,
}

impl Order {
    /// Small for what is deleted first.
    fn rank(&self, pod: &Pod) -> u8 {
        match (self.first.contains(&pod.node), self.last.contains(&pod.name)) {
            (_, true) => 2,
            (true, false) => 0,
            (false, false) => 1,
        }
    }
}

/// Decides. `pods` are the set's own; `on_node` counts the active pods that it and the other sets of its owner have on a node: that is
/// a walk over all of them, and `order` looks at their nodes, which only a choice among pods to delete is worth.
pub(super) fn plan(
    replicas: i64,
    template_labels: &LabelSelector<'_>,
    pods: &[Arc<Pod>],
    on_node: impl FnOnce() -> HashMap<Box<str>, usize>,
    order: impl FnOnce() -> Order,
    clock: Clock,
) -> Plan {
    let active: Vec<&Arc<Pod>> = pods.iter().filter(|pod| pod.is_active()).collect();
    let is_terminating = |pod: &&Arc<Pod>| pod.is_terminating && !pod.has_ended();
    let mut counts = Counts {
        replicas: count(active.len()),
        terminating: count(pods.iter().filter(is_terminating).count()),
        ..Counts::default()
    };
    let mut labeled = Memo::default();
    let mut available_after: Option<Duration> = None;
    for pod in &active {
        counts.fully_labeled += i64::from(labeled.get(pod, |pod| template_labels.matches(&pod.labels())));
        let Some(since) = pod.ready_since else { continue };
        counts.ready += 1;
        match clock.left(since) {
            Duration::ZERO => counts.available += 1,
            left => available_after = Some(available_after.map_or(left, |sooner| sooner.min(left))),
        }
    }
    let desired = usize::try_from(replicas).unwrap_or_default();
    let mut plan = Plan { counts, available_after, ..Plan::default() };
    if active.len() < desired {
        plan.create = (desired - active.len()).min(BURST);
    } else if active.len() > desired {
        let surplus = (active.len() - desired).min(BURST);
        plan.delete = least_useful(active.into_iter().cloned().collect(), surplus, on_node, order, clock.now);
    }
    plan
}

/// The same by counts alone, of pods that are available once they are Ready. `None` where some are surplus: to choose among pods is
/// to look at them.
pub(super) fn by_counts<'a>(
    replicas: i64,
    template_labels: &LabelSelector<'_>,
    groups: impl Iterator<Item = (&'a SharedLabels, &'a Group)>,
) -> Option<Plan> {
    let (mut counts, mut active) = (Counts::default(), 0);
    for (labels, group) in groups {
        active += group.active;
        counts.ready += count(group.ready);
        counts.terminating += count(group.terminating);
        if template_labels.matches(&as_labels(labels)) {
            counts.fully_labeled += count(group.active);
        }
    }
    (counts.replicas, counts.available) = (count(active), counts.ready);
    let missing = usize::try_from(replicas).unwrap_or_default().checked_sub(active)?;
    Some(Plan { create: missing.min(BURST), counts, ..Plan::default() })
}

/// The pods that are missed least, in upstream's order.
fn least_useful(
    mut pods: Vec<Arc<Pod>>,
    number: usize,
    on_node: impl FnOnce() -> HashMap<Box<str>, usize>,
    order: impl FnOnce() -> Order,
    now: Timestamp,
) -> Vec<Arc<Pod>> {
    // All of them go in whatever order.
    if number < pods.len() {
        let (on_node, order) = (on_node(), order());
        let rank = |one: &Pod, other: &Pod| order.rank(one).cmp(&order.rank(other));
        pods.sort_by(|one, other| rank(one, other).then_with(|| usefulness(one, other, &on_node, now)));
        pods.truncate(number);
    }
    pods
}

/// `Less` when the first is deleted before the other.
fn usefulness(one: &Pod, other: &Pod, on_node: &HashMap<Box<str>, usize>, now: Timestamp) -> Ordering {
    let is_placed = |pod: &Pod| !pod.node.is_empty();
    let shared = |pod: &Pod| on_node.get(&pod.node).copied().unwrap_or_default();
    let is_running = |pod: &Pod| match pod.phase {
        Phase::Pending => 0,
        Phase::Unknown => 1,
        _ => 2,
    };
    is_placed(one)
        .cmp(&is_placed(other))
        .then_with(|| is_running(one).cmp(&is_running(other)))
        .then_with(|| one.ready_since.is_some().cmp(&other.ready_since.is_some()))
        .then_with(|| one.deletion_cost.cmp(&other.deletion_cost))
        .then_with(|| shared(other).cmp(&shared(one)))
        .then_with(|| match (one.ready_since, other.ready_since) {
            (Some(first), Some(second)) if first != second => by_age(one, first, other, second, now),
            _ => Ordering::Equal,
        })
        .then_with(|| other.restarts.cmp(&one.restarts))
        .then_with(|| match one.created == other.created {
            true => one.uid.cmp(&other.uid),
            false => by_age(one, one.created, other, other.created, now),
        })
}

/// The younger first, by the order of magnitude only: within one, which pod goes is as good as random, so that pods of the
/// oldest nodes are not always the ones that stay.
fn by_age(one: &Pod, first: Timestamp, other: &Pod, second: Timestamp, now: Timestamp) -> Ordering {
    let magnitude = |since: Timestamp| now.duration_since(since).as_nanos().max(0).checked_ilog2();
    magnitude(first).cmp(&magnitude(second)).then_with(|| one.uid.cmp(&other.uid))
}

/// Remembers what was decided about labels that pods share.
#[derive(Default)]
pub(super) struct Memo {
    last: Option<(SharedLabels, bool)>,
}

impl Memo {
    pub fn get(&mut self, pod: &Pod, decide: impl FnOnce(&Pod) -> bool) -> bool {
        match &self.last {
            Some((labels, decided)) if Arc::ptr_eq(labels, &pod.labels) => *decided,
            Some((labels, decided)) if labels == &pod.labels => {
                let decided = *decided;
                self.last = Some((pod.labels.clone(), decided));
                decided
            }
            _ => {
                let decided = decide(pod);
                self.last = Some((pod.labels.clone(), decided));
                decided
            }
        }
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
