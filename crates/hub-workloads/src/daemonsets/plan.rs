//! What a DaemonSet needs next: a plain function of its nodes, its pods and the time.
//!
//! As upstream's controller decides it: first each node is looked at alone (a pod is missing, superfluous, has ended),
//! then the rollout within its limits. With `maxSurge` the new pod of a node comes up beside the old one, which is
//! deleted once the new one is available; without, an old pod is deleted first, and at most `maxUnavailable` nodes are
//! without an available one meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use hub_runtime::selector::Fit;
use hub_runtime::views::{IntOrPercent, UpdateStrategyView};

use crate::ready::Clock;

/// One of the set's pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pod {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub node: String,
    pub created: Timestamp,
    pub is_terminating: bool,
    pub phase: Phase,
    /// Since when it is Ready, if it is.
    pub ready_since: Option<Timestamp>,
    /// Whether it was made from the set's template as it is now.
    pub is_updated: bool,
}

/// How far a pod is, as far as it matters here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It has not ended.
    #[default]
    Alive,
    /// It ended, and should not have.
    Failed,
    /// It ended well, which a daemon should not either.
    Succeeded,
}

/// How pods of an old template are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// Only when somebody deletes them.
    OnDelete,
    /// So many nodes may be without an available pod meanwhile.
    Unavailable(usize),
    /// So many nodes may have a second pod meanwhile.
    Surge(usize),
}

impl Strategy {
    /// The strategy of a set that should run on so many nodes.
    pub fn of(strategy: &UpdateStrategyView<'_>, desired: usize) -> Self {
        if &*strategy.r#type == "OnDelete" {
            return Self::OnDelete;
        }
        let number = |value: &Option<IntOrPercent<'_>>| value.as_ref().and_then(|value| value.of(desired));
        match number(&strategy.rolling_update.max_surge) {
            Some(surge) if surge > 0 => Self::Surge(surge),
            // With neither, nothing would ever roll: as upstream, one at a time.
            _ => Self::Unavailable(number(&strategy.rolling_update.max_unavailable).unwrap_or(1).max(1)),
        }
    }
}

/// What a DaemonSet needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Nodes that get a pod.
    pub create_on: Vec<String>,
    /// Pods to delete: indexes into those that were given.
    pub delete: Vec<usize>,
    /// Pods that failed; each may be deleted once its node's pause is over.
    pub failed: Vec<usize>,
    pub counts: Counts,
    /// When a pod that is Ready becomes available, if that is still to come.
    pub available_after: Option<Duration>,
    /// Nodes out of reach that have a pod of a former template, in order of their names.
    pub skipped: Vec<String>,
}

/// What `status` counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub desired: i64,
    pub current: i64,
    pub misscheduled: i64,
    pub ready: i64,
    pub available: i64,
    pub unavailable: i64,
    pub updated: i64,
}

/// Decides. `nodes` are those of which it is known how well the set's pods fit on them, in order of their names. Pods on others
/// are left alone: a node that does not exist may be back in a moment (its pods end with pod garbage collection), and of one
/// that cannot be read nothing is known.
///
/// Nodes that are `away`, out of reach, are left out of a rollout: their pods run on as they are, and nobody waits for them. They
/// have their turn when they are back.
pub(crate) fn plan(
    nodes: &BTreeMap<Box<str>, Fit>,
    away: &BTreeSet<Box<str>>,
    pods: &[Pod],
    strategy: Strategy,
    clock: Clock,
) -> Plan {
    let mut plan = Plan::default();
    let mut by_node: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, pod) in pods.iter().enumerate() {
        by_node.entry(&pod.node).or_default().push(index);
    }
    for of_node in by_node.values_mut() {
        of_node.sort_by(|a, b| (pods[*a].created, &pods[*a].name).cmp(&(pods[*b].created, &pods[*b].name)));
    }
    for (node, fit) in nodes {
        let of_node = by_node.get(&**node).map(Vec::as_slice).unwrap_or_default();
        if *fit == Fit::Run {
            plan.counts.desired += 1;
            if of_node.is_empty() {
                plan.create_on.push(node.to_string());
            }
        }
    }
    for (node, of_node) in &by_node {
        match nodes.get(*node).copied() {
            None => {}
            Some(Fit::Leave) => plan.delete.extend(of_node.iter().filter(|pod| !pods[**pod].is_terminating)),
            Some(Fit::Run | Fit::Stay) => keep_one(&mut plan, pods, of_node, strategy, clock),
        }
    }
    count(&mut plan, nodes, pods, &by_node, clock);
    let is_old = |index: &usize| !pods[*index].is_updated && !pods[*index].is_terminating;
    let skipped = away.iter().filter(|node| by_node.get(&***node).is_some_and(|of_node| of_node.iter().any(is_old)));
    if strategy != Strategy::OnDelete {
        plan.skipped = skipped.map(ToString::to_string).collect();
    }
    let running = by_node.iter().filter(|(node, _)| nodes.get(**node) == Some(&Fit::Run) && !away.contains(**node));
    match strategy {
        Strategy::OnDelete => {}
        Strategy::Unavailable(max) => {
            let missing = plan.create_on.iter().filter(|node| !away.contains(node.as_str())).count();
            replace(&mut plan, pods, running.map(|(_, of_node)| of_node.as_slice()), max, missing, clock);
        }
        Strategy::Surge(max) => {
            surge(&mut plan, pods, running.map(|(node, of_node)| (*node, of_node.as_slice())), max, clock);
        }
    }
    plan
}

/// Looks at one node alone: what has ended goes, and of several pods all but one, or one of each template.
fn keep_one(plan: &mut Plan, pods: &[Pod], of_node: &[usize], strategy: Strategy, clock: Clock) {
    let mut alive = Vec::new();
    for index in of_node.iter().copied().filter(|index| !pods[*index].is_terminating) {
        match pods[index].phase {
            Phase::Alive => alive.push(index),
            Phase::Failed => plan.failed.push(index),
            Phase::Succeeded => plan.delete.push(index),
        }
    }
    if alive.len() <= 1 {
        return;
    }
    if !matches!(strategy, Strategy::Surge(_)) {
        // Should two run on one node after all, the older stays.
        plan.delete.extend(alive.into_iter().skip(1));
        return;
    }
    let (mut newer, mut older) = (None, None);
    for index in alive {
        let kept = if pods[index].is_updated { &mut newer } else { &mut older };
        match kept {
            None => *kept = Some(index),
            Some(_) => plan.delete.push(index),
        }
    }
    if let (Some(newer), Some(older)) = (newer, older)
        && (pods[older].ready_since.is_none() || clock.is_available(pods[newer].ready_since))
    {
        plan.delete.push(older);
    }
}

/// A node's pod of the new and of the old template; `None` when there are several of one.
fn by_template(pods: &[Pod], of_node: &[usize]) -> Option<(Option<usize>, Option<usize>)> {
    let (mut new, mut old) = (None, None);
    for index in of_node.iter().copied().filter(|index| !pods[*index].is_terminating) {
        let slot = if pods[index].is_updated { &mut new } else { &mut old };
        if slot.replace(index).is_some() {
            return None;
        }
    }
    Some((new, old))
}

fn replace<'a>(
    plan: &mut Plan,
    pods: &[Pod],
    by_node: impl Iterator<Item = &'a [usize]>,
    max: usize,
    missing: usize,
    clock: Clock,
) {
    let mut unavailable = missing;
    let mut candidates = Vec::new();
    for of_node in by_node {
        match by_template(pods, of_node) {
            Some((Some(new), None)) => unavailable += usize::from(!clock.is_available(pods[new].ready_since)),
            Some((None, Some(old))) if clock.is_available(pods[old].ready_since) => candidates.push(old),
            Some((None, Some(old))) => {
                // It does not work anyway: it may go at once.
                unavailable += 1;
                push_once(&mut plan.delete, old);
            }
            // Terminating, or more than one: the node is looked at alone first.
            _ => unavailable += 1,
        }
    }
    for old in candidates.into_iter().take(max.saturating_sub(unavailable)) {
        push_once(&mut plan.delete, old);
    }
}

fn surge<'a>(
    plan: &mut Plan,
    pods: &[Pod],
    by_node: impl Iterator<Item = (&'a str, &'a [usize])>,
    max: usize,
    clock: Clock,
) {
    let mut surged = 0;
    let mut candidates = Vec::new();
    for (node, of_node) in by_node {
        match by_template(pods, of_node) {
            None => surged += 1,
            Some((_, None)) => {}
            Some((None, Some(old))) if clock.is_available(pods[old].ready_since) => candidates.push(node),
            Some((None, Some(old))) => {
                // The old one does not work: its replacement need not wait for its turn. One that failed is replaced
                // after its pause.
                if pods[old].phase == Phase::Alive {
                    plan.create_on.push(node.to_owned());
                }
            }
            Some((Some(new), Some(old))) => {
                if clock.is_available(pods[new].ready_since) {
                    push_once(&mut plan.delete, old);
                } else {
                    surged += 1;
                }
            }
        }
    }
    let turn = candidates.into_iter().take(max.saturating_sub(surged));
    plan.create_on.extend(turn.map(str::to_owned));
}

fn push_once(list: &mut Vec<usize>, item: usize) {
    if !list.contains(&item) {
        list.push(item);
    }
}

fn count(
    plan: &mut Plan,
    nodes: &BTreeMap<Box<str>, Fit>,
    pods: &[Pod],
    by_node: &BTreeMap<&str, Vec<usize>>,
    clock: Clock,
) {
    for (node, of_node) in by_node {
        match nodes.get(*node) {
            None => continue,
            Some(Fit::Leave | Fit::Stay) => {
                plan.counts.misscheduled += 1;
                continue;
            }
            Some(Fit::Run) => {}
        }
        plan.counts.current += 1;
        let alive =
            of_node.iter().map(|index| &pods[*index]).find(|pod| !pod.is_terminating && pod.phase == Phase::Alive);
        let Some(pod) = alive else { continue };
        plan.counts.updated += i64::from(pod.is_updated);
        plan.counts.ready += i64::from(pod.ready_since.is_some());
        plan.counts.available += i64::from(clock.is_available(pod.ready_since));
    }
    plan.counts.unavailable = (plan.counts.desired - plan.counts.available).max(0);
    let waiting = pods.iter().filter(|pod| !clock.is_available(pod.ready_since)).filter_map(|pod| pod.ready_since);
    plan.available_after = waiting.map(|since| clock.left(since)).min();
}
