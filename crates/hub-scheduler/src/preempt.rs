//! Whose place a pod takes that finds none.
//!
//! On each node that pods could make space on, all less important pods are thought away; if the pod suits the node then, as
//! many of them as possible are thought back, the important ones first, and those whose PodDisruptionBudget would be broken
//! before all others. Of the nodes that remain, the one with the least harm is taken.

use std::collections::HashSet;

use crate::cluster::{Budget, Cluster, NodeId, Placed, PodId};
use crate::decide::{Diagnosis, Nominations, filter_with_nominated};
use crate::filters::{Check, Rejection};
use crate::message::{NEVER_PREEMPTS, NO_VICTIMS, NOT_HELPFUL, Reasons, WAITS_FOR_VICTIMS};
use crate::pod::Pod;

/// Nodes on which preemption is tried: this part of those that could help, and no fewer than this number.
const CANDIDATES_PERCENT: usize = 10;
const CANDIDATES_MIN: usize = 100;

/// A node, and who must leave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Victims {
    /// The node.
    pub node: NodeId,
    /// The pods, the most important first.
    pub pods: Vec<PodId>,
    /// How many of them break a budget.
    pub violations: usize,
}

/// What comes of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Preemption {
    /// These leave, and the pod is nominated for their node.
    Victims(Victims),
    /// Nobody does, and the node for which the pod is nominated stays the same.
    Keep(&'static str),
    /// Nobody does, and the pod is nominated for no node.
    Clear(String),
}

/// Finds the pods whose place a pod takes. `nominated` is the node that it was promised, `random` a number below the nodes
/// that are handed to it.
pub fn preempt(
    cluster: &mut Cluster,
    nominations: &Nominations,
    pod: &Pod,
    nominated: Option<&str>,
    diagnosis: &Diagnosis,
    random: impl FnOnce(usize) -> usize,
) -> Preemption {
    if let Some(why) = ineligible(cluster, pod, nominated, diagnosis) {
        return Preemption::Keep(why);
    }
    let mut reasons = Reasons::default();
    let helpful: Vec<NodeId> =
        diagnosis.rejected.iter().filter(|(_, rejection)| !rejection.is_final).map(|(id, _)| *id).collect();
    let mut tried = 0;
    if !helpful.is_empty()
        && let Ok(check) = Check::new(cluster, pod)
    {
        nominations.prepare(cluster);
        let enough = (helpful.len() * CANDIDATES_PERCENT / 100).max(CANDIDATES_MIN).min(helpful.len());
        let offset = random(helpful.len());
        let (mut gentle, mut violating) = (Vec::new(), Vec::new());
        for turn in 0..helpful.len() {
            let id = helpful[(offset + turn) % helpful.len()];
            match victims_on(cluster, &check, nominations, pod, id) {
                Ok(victims) if victims.violations == 0 => gentle.push(victims),
                Ok(victims) => violating.push(victims),
                Err(None) => reasons.add(NO_VICTIMS, 1),
                Err(Some(rejection)) => reasons.reject(&pod.demand, &rejection),
            }
            tried += 1;
            if !gentle.is_empty() && gentle.len() + violating.len() >= enough {
                break;
            }
        }
        gentle.append(&mut violating);
        if let Some(victims) = least_harm(cluster, gentle) {
            return Preemption::Victims(victims);
        }
    }
    reasons.add(NOT_HELPFUL, diagnosis.nodes.saturating_sub(tried));
    Preemption::Clear(reasons.sentence(diagnosis.nodes))
}

/// Why a pod may not take anybody's place.
fn ineligible(cluster: &Cluster, pod: &Pod, nominated: Option<&str>, diagnosis: &Diagnosis) -> Option<&'static str> {
    if pod.demand.never_preempts {
        return Some(NEVER_PREEMPTS);
    }
    let id = nominated.and_then(|name| cluster.node_id(name))?;
    let is_final = |(node, rejection): &(NodeId, Rejection)| *node == id && rejection.is_final;
    if diagnosis.pre.is_some() || diagnosis.rejected.iter().any(is_final) {
        // That node will not do, whoever leaves it.
        return None;
    }
    let leaves = |placed: &Placed| placed.pod.priority() < pod.priority() && placed.state.is_preempted;
    cluster.pods_on(id).any(|(_, placed)| leaves(placed)).then_some(WAITS_FOR_VICTIMS)
}

/// The pods that must leave a node. `Err(None)` when nobody less important is there, else how the node rejects the pod even
/// without all of them.
fn victims_on(
    cluster: &Cluster,
    check: &Check,
    nominations: &Nominations,
    pod: &Pod,
    id: NodeId,
) -> Result<Victims, Option<Rejection>> {
    let lesser = |(_, placed): &(PodId, &Placed)| placed.pod.priority() < pod.priority();
    let mut potential: Vec<(PodId, &Placed)> = cluster.pods_on(id).filter(lesser).collect();
    if potential.is_empty() {
        return Err(None);
    }
    let (mut check, mut load) = (check.clone(), cluster.node(id).load.clone());
    for (_, placed) in &potential {
        load.add(&placed.pod.demand, -1);
        check.apply(cluster, pod, placed, -1);
    }
    filter_with_nominated(cluster, &check, nominations, pod, id, Some(&load)).map_err(Some)?;
    potential.sort_by_key(|(id, placed)| importance(placed, *id));
    let (violating, others) = by_budget(cluster, potential);
    let (mut victims, mut violations) = (Vec::new(), 0);
    for (breaks_budget, (victim, placed)) in
        violating.into_iter().map(|one| (true, one)).chain(others.into_iter().map(|one| (false, one)))
    {
        load.add(&placed.pod.demand, 1);
        check.apply(cluster, pod, placed, 1);
        if filter_with_nominated(cluster, &check, nominations, pod, id, Some(&load)).is_err() {
            load.add(&placed.pod.demand, -1);
            check.apply(cluster, pod, placed, -1);
            victims.push((importance(placed, victim), victim));
            violations += usize::from(breaks_budget);
        }
    }
    victims.sort_unstable();
    let pods: Vec<PodId> = victims.into_iter().map(|(_, victim)| victim).collect();
    // A pod that the node takes with everybody on it was rejected by nobody: there is nothing to preempt.
    if pods.is_empty() { Err(None) } else { Ok(Victims { node: id, pods, violations }) }
}

/// The more important a pod, the smaller: by its priority, then by how long it runs.
fn importance(placed: &Placed, id: PodId) -> (i64, i128, PodId) {
    (-i64::from(placed.pod.priority()), placed.state.started, id)
}

type Potential<'c> = Vec<(PodId, &'c Placed)>;

/// Splits off the pods that would break a budget, in the order in which they are; each counts against it.
fn by_budget<'c>(cluster: &'c Cluster, pods: Potential<'c>) -> (Potential<'c>, Potential<'c>) {
    if cluster.budgets.is_empty() {
        return (Vec::new(), pods);
    }
    let mut budgets: Vec<(&str, &Budget, i64)> =
        cluster.budgets.iter().map(|((namespace, _), budget)| (&**namespace, budget, budget.allowed)).collect();
    let mut breaks = |placed: &Placed| {
        let demand = &placed.pod.demand;
        let mut is_broken = false;
        for (namespace, budget, allowed) in &mut budgets {
            let is_meant = *namespace == &*demand.namespace
                && !demand.labels.is_empty()
                && !budget.selector.is_everything()
                && budget.selector.matches(|key| demand.labels.get(key));
            if is_meant && !budget.disrupted.contains(&placed.pod.name) {
                *allowed -= 1;
                is_broken |= *allowed < 0;
            }
        }
        is_broken
    };
    pods.into_iter().partition(|(_, placed)| breaks(placed))
}

/// What a node costs: broken budgets, the priority of the most important victim, the sum of priorities, their number, and how
/// long the most important ones run (the shorter the better).
fn harm(cluster: &Cluster, victims: &Victims) -> Harm {
    let placed: Vec<&Placed> = victims.pods.iter().filter_map(|id| cluster.placed(*id)).collect();
    let highest = placed.first().map_or(i64::MIN, |one| i64::from(one.pod.priority()));
    // Shifted so that none is negative: fewer victims are better, also of priorities below zero.
    let sum = placed.iter().map(|one| i128::from(one.pod.priority()) + i128::from(i32::MAX) + 1).sum();
    let most = placed.iter().filter(|one| i64::from(one.pod.priority()) == highest);
    let earliest = most.map(|one| one.state.started).min().unwrap_or(i128::MIN);
    (victims.violations, highest, sum, placed.len(), -earliest)
}

/// Violations of budgets, highest priority, sum of priorities, number of victims, and the latest start: the smaller the better.
type Harm = (usize, i64, i128, usize, i128);

fn least_harm(cluster: &Cluster, candidates: Vec<Victims>) -> Option<Victims> {
    let mut least: Option<(Harm, Victims)> = None;
    for victims in candidates {
        let harm = harm(cluster, &victims);
        if least.as_ref().is_none_or(|(smallest, _)| harm < *smallest) {
            least = Some((harm, victims));
        }
    }
    least.map(|(_, victims)| victims)
}

/// Pods of lower priority that were promised a node which a pod takes now: they had better look for another one.
pub fn displaced<'n>(nominations: &'n Nominations, pod: &Pod, node: &str) -> HashSet<&'n str> {
    let lower = nominations.on(node).iter().filter(|one| one.priority() < pod.priority() && one.uid != pod.uid);
    lower.map(|one| &*one.uid).collect()
}

#[cfg(test)]
mod tests;
