//! What a ReplicaSet needs next: a plain function of its pods and the time.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use hub_runtime::views::LabelSelector;
use jiff::Timestamp;

use crate::pods::{Group, Phase, Pod, SharedLabels, as_labels};
use crate::ready::Clock;

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
        let key = |pod: &Pod| (order.rank(pod), Usefulness::of(pod, &on_node, now));
        let mut keyed: Vec<_> = pods.into_iter().map(|pod| (key(&pod), pod)).collect();
        keyed.sort_by(|(one, pod), (other, other_pod)| (one, &pod.uid).cmp(&(other, &other_pod.uid)));
        pods = keyed.into_iter().take(number).map(|(_, pod)| pod).collect();
    }
    pods
}
/// How much a pod would be missed: what is less is deleted first. Fields are in the order in which they count.
///
/// Upstream compares two pods, and within one order of magnitude of their ages it compares uids before it looks at anything else: so
/// one may come before a second, that before a third, and the third before the first. A key is an order of all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Usefulness {
    is_placed: bool,
    phase: u8,
    is_ready: bool,
    deletion_cost: i32,
    /// Pods beside it on its node.
    shared: Reverse<usize>,
    ready_for: Option<u32>,
    restarts: Reverse<i64>,
    age: Option<u32>,
}

impl Usefulness {
    fn of(pod: &Pod, on_node: &HashMap<Box<str>, usize>, now: Timestamp) -> Self {
        // Only the order of magnitude counts: within one, which pod is deleted is as good as random, so that pods of the oldest
        // nodes are not always the ones that stay.
        let magnitude = |since: Timestamp| now.duration_since(since).as_nanos().max(0).checked_ilog2();
        Self {
            is_placed: !pod.node.is_empty(),
            phase: match pod.phase {
                Phase::Pending => 0,
                Phase::Unknown => 1,
                _ => 2,
            },
            is_ready: pod.ready_since.is_some(),
            deletion_cost: pod.deletion_cost,
            shared: Reverse(on_node.get(&pod.node).copied().unwrap_or_default()),
            ready_for: pod.ready_since.and_then(magnitude),
            restarts: Reverse(pod.restarts),
            age: magnitude(pod.created),
        }
    }
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
