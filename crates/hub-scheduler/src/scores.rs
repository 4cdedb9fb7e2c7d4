//! Which of the nodes that a pod may run on suits it best.
//!
//! Each function gives every node a number from 0 to 100, as upstream's plugin of that name does, from the same facts and with
//! the same rounding; [`total`] adds them with upstream's default weights.

use std::collections::HashMap;

use crate::census::{TallyId, TopologyId};
use crate::cluster::{Cluster, NodeId};
use crate::filters::honors;
use crate::pod::{Amounts, Demand, SpreadConstraint};
use crate::terms::{Effect, is_tolerated};

/// The best score of one plugin.
pub const SCORE_MAX: i64 = 100;

const HOSTNAME: &str = "kubernetes.io/hostname";
/// How pods without constraints of their own are spread: over hosts, and over zones, with the skew that is tolerated.
const DEFAULT_SPREAD: [(&str, i64); 2] = [(HOSTNAME, 3), ("topology.kubernetes.io/zone", 5)];

const MEGABYTE: i64 = 1024 * 1024;
/// An image smaller than this is fetched in no time.
const IMAGE_BYTES_MIN: i64 = 23 * MEGABYTE;
/// A larger one per container does not count for more.
const IMAGE_BYTES_MAX: i64 = 1000 * MEGABYTE;

/// A plugin that scores, by upstream's name, and its weight.
pub const WEIGHTS: [(Score, i64); 7] = [
    (Score::TaintToleration, 3),
    (Score::NodeAffinity, 2),
    (Score::NodeResourcesFit, 1),
    (Score::PodTopologySpread, 2),
    (Score::InterPodAffinity, 2),
    (Score::NodeResourcesBalancedAllocation, 1),
    (Score::ImageLocality, 1),
];

/// What nodes are scored by, by upstream's names of the plugins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are upstream's")]
pub enum Score {
    TaintToleration,
    NodeAffinity,
    NodeResourcesFit,
    PodTopologySpread,
    InterPodAffinity,
    NodeResourcesBalancedAllocation,
    ImageLocality,
}

/// The weighted sums of all scores, in the order of `nodes`.
pub fn total(cluster: &mut Cluster, demand: &Demand, nodes: &[NodeId]) -> Vec<i64> {
    let mut totals = vec![0; nodes.len()];
    for (score, weight) in WEIGHTS {
        // Nothing to say is no score at all, as upstream's plugins that are skipped.
        let Some(scores) = by(score, cluster, demand, nodes) else { continue };
        totals.iter_mut().zip(scores).for_each(|(total, score)| *total += score * weight);
    }
    totals
}

/// The scores of one plugin, in the order of `nodes`; `None` when it has nothing to say about the pod.
pub fn by(score: Score, cluster: &mut Cluster, demand: &Demand, nodes: &[NodeId]) -> Option<Vec<i64>> {
    match score {
        Score::TaintToleration => Some(taint_toleration(cluster, demand, nodes)),
        Score::NodeAffinity => node_affinity(cluster, demand, nodes),
        Score::NodeResourcesFit => Some(least_allocated(cluster, demand, nodes)),
        Score::PodTopologySpread => topology_spread(cluster, demand, nodes),
        Score::InterPodAffinity => pod_affinity(cluster, demand, nodes),
        Score::NodeResourcesBalancedAllocation => balanced_allocation(cluster, demand, nodes),
        Score::ImageLocality => image_locality(cluster, demand, nodes),
    }
}

/// Scales so that the largest becomes the best, or the worst.
fn normalize(mut scores: Vec<i64>, is_reversed: bool) -> Vec<i64> {
    let max = scores.iter().copied().max().unwrap_or(0);
    for score in &mut scores {
        let scaled = if max == 0 { 0 } else { SCORE_MAX * *score / max };
        *score = if is_reversed { SCORE_MAX - scaled } else { scaled };
    }
    scores
}

/// Fewer taints of effect `PreferNoSchedule` that the pod does not tolerate are better.
fn taint_toleration(cluster: &Cluster, demand: &Demand, nodes: &[NodeId]) -> Vec<i64> {
    let count = |id: &NodeId| {
        let soft = cluster.node(*id).taints.iter().filter(|taint| taint.effect == Effect::PreferNoSchedule);
        soft.filter(|taint| !is_tolerated(taint, &demand.tolerations)).map(|_| 1_i64).sum()
    };
    normalize(nodes.iter().map(count).collect(), true)
}

/// The weights of the preferred terms that hold.
fn node_affinity(cluster: &Cluster, demand: &Demand, nodes: &[NodeId]) -> Option<Vec<i64>> {
    if demand.preferred_nodes.is_empty() {
        return None;
    }
    let weigh = |id: &NodeId| {
        let node = cluster.node(*id);
        let holding = demand.preferred_nodes.iter().filter(|(_, term)| term.matches(&node.name, &node.labels));
        holding.map(|(weight, _)| weight).sum()
    };
    Some(normalize(nodes.iter().map(weigh).collect(), false))
}

/// The more of CPU and memory is left, the better.
fn least_allocated(cluster: &Cluster, demand: &Demand, nodes: &[NodeId]) -> Vec<i64> {
    let score = |id: &NodeId| {
        let node = cluster.node(*id);
        let offered = [node.allocatable.cpu, node.allocatable.memory];
        let (mut sum, mut resources) = (0_i64, 0_i64);
        let scored = demand.scored_on(&node.labels);
        for (offered, (used, demanded)) in offered.into_iter().zip(node.load.scored.into_iter().zip(scored)) {
            if offered == 0 {
                continue;
            }
            resources += 1;
            let used = used.saturating_add(demanded);
            if used <= offered {
                let left = (i128::from(offered) - i128::from(used)) * i128::from(SCORE_MAX) / i128::from(offered);
                sum += i64::try_from(left).unwrap_or(SCORE_MAX);
            }
        }
        if resources == 0 { 0 } else { sum / resources }
    };
    nodes.iter().map(score).collect()
}

/// The closer the parts of CPU and of memory that are used are to each other, the better.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "upstream's arithmetic")]
fn balanced_allocation(cluster: &Cluster, demand: &Demand, nodes: &[NodeId]) -> Option<Vec<i64>> {
    let of = |requests: &Amounts| [requests.cpu, requests.memory];
    if of(&demand.requests) == [0, 0] && demand.variants.iter().all(|one| of(&one.needs.requests) == [0, 0]) {
        // Pods that request nothing would all come to the node that is balanced best.
        return None;
    }
    let score = |id: &NodeId| {
        let node = cluster.node(*id);
        let demanded = of(demand.requests_on(&node.labels));
        let part = |offered: i64, used: i64, demanded: i64| {
            (offered != 0).then(|| (used.saturating_add(demanded) as f64 / offered as f64).min(1.0))
        };
        let cpu = part(node.allocatable.cpu, node.load.requested.cpu, demanded[0]);
        let memory = part(node.allocatable.memory, node.load.requested.memory, demanded[1]);
        let deviation = match (cpu, memory) {
            (Some(cpu), Some(memory)) => ((cpu - memory) / 2.0).abs(),
            _ => 0.0,
        };
        ((1.0 - deviation) * SCORE_MAX as f64) as i64
    };
    Some(nodes.iter().map(score).collect())
}

/// The more bytes of the pod's images are there, the better; less so for images that few nodes have.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "upstream's arithmetic")]
fn image_locality(cluster: &mut Cluster, demand: &Demand, nodes: &[NodeId]) -> Option<Vec<i64>> {
    let all = cluster.order().len().max(1);
    let scaled = |name: &str| {
        let (id, image) = cluster.image(name)?;
        let spread = f64::from(image.nodes) / all as f64;
        Some((id, (image.size as f64 * spread) as i64))
    };
    let of_variants = demand.variants.iter().flat_map(|one| &one.needs.images);
    let mut known: Vec<(&str, u32, i64)> = Vec::new();
    for name in demand.images.iter().chain(of_variants) {
        if let Some((id, bytes)) = scaled(name) {
            known.push((name, id, bytes));
        }
    }
    if known.is_empty() {
        return None;
    }
    let max = IMAGE_BYTES_MAX.saturating_mul(i64::try_from(demand.images.len()).unwrap_or(i64::MAX));
    let score = |id: &NodeId| {
        let node = cluster.node(*id);
        let names = demand.images_on(&node.labels).iter();
        let used = names.filter_map(|name| known.iter().find(|(held, _, _)| **held == **name));
        let there = used
            .map(|(_, image, bytes)| (*image, *bytes))
            .filter(|(image, _)| node.images.binary_search(image).is_ok());
        let sum = there.map(|(_, bytes)| bytes).fold(0, i64::saturating_add).clamp(IMAGE_BYTES_MIN, max);
        SCORE_MAX * (sum - IMAGE_BYTES_MIN) / (max - IMAGE_BYTES_MIN)
    };
    Some(nodes.iter().map(score).collect())
}

/// The sums of weights of rules, the pod's own and those of placed pods, that hold on a node.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "upstream's arithmetic")]
fn pod_affinity(cluster: &mut Cluster, demand: &Demand, nodes: &[NodeId]) -> Option<Vec<i64>> {
    let mut sums: HashMap<TopologyId, Vec<i64>> = HashMap::new();
    let mut weigh = |cluster: &Cluster, topology: TopologyId, node: NodeId, weight: i64| {
        let values = cluster.topology(topology);
        if let Some(value) = values.value(node) {
            let sums = sums.entry(topology).or_insert_with(|| vec![0; values.len()]);
            sums[value] = sums[value].saturating_add(weight);
        }
    };
    for (weight, term) in &demand.affinity.preferred {
        let topology = cluster.topology_id(&term.topology_key);
        let tally = cluster.tally(std::slice::from_ref(&term.matcher));
        let counts = cluster.tallies().counts(tally);
        counts.for_each(|(node, count)| weigh(cluster, topology, node, weight * i64::from(count.all)));
    }
    let keys: Vec<Box<str>> = {
        let of_namespace = cluster.namespace(&demand.namespace);
        let meaning = cluster.rules().meaning(&demand.namespace, of_namespace, &demand.labels);
        meaning.map(|rule| rule.term.topology_key.clone()).collect()
    };
    for key in &keys {
        cluster.topology_id(key);
    }
    if !keys.is_empty() {
        let of_namespace = cluster.namespace(&demand.namespace);
        for rule in cluster.rules().meaning(&demand.namespace, of_namespace, &demand.labels) {
            let crate::census::RuleKind::Weighted(weight) = rule.kind else { continue };
            let Some(topology) = cluster.known_topology(&rule.term.topology_key) else { continue };
            for (node, count) in &rule.holders {
                weigh(cluster, topology, *node, weight * i64::from(*count));
            }
        }
    }
    if sums.is_empty() {
        return None;
    }
    let sum = |id: &NodeId| {
        let of_topology = |(topology, sums): (&TopologyId, &Vec<i64>)| {
            cluster.topology(*topology).value(*id).map_or(0, |value| sums[value])
        };
        sums.iter().map(of_topology).fold(0, i64::saturating_add)
    };
    let sums: Vec<i64> = nodes.iter().map(sum).collect();
    let (min, max) = (sums.iter().min().copied()?, sums.iter().max().copied()?);
    let range = max.saturating_sub(min);
    let scale = |sum: i64| {
        if range == 0 { 0 } else { (SCORE_MAX as f64 * (sum.saturating_sub(min) as f64 / range as f64)) as i64 }
    };
    Some(sums.into_iter().map(scale).collect())
}

/// A soft constraint, and where its pods are.
struct Soft {
    constraint: SpreadConstraint,
    topology: TopologyId,
    tally: TallyId,
    /// Pods by value; of hosts each is asked by itself.
    counts: Option<Vec<i64>>,
    /// How much a pod counts: less where there are few values.
    weight: f64,
}

/// The fewer pods of its kind are around, the better.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "upstream's arithmetic")]
fn topology_spread(cluster: &mut Cluster, demand: &Demand, nodes: &[NodeId]) -> Option<Vec<i64>> {
    let is_own = !demand.spread.is_empty();
    let constraints: Vec<SpreadConstraint> = if is_own {
        demand.spread.iter().filter(|one| !one.is_hard).cloned().collect()
    } else {
        default_constraints(cluster, demand)
    };
    if constraints.is_empty() {
        return None;
    }
    let topologies: Vec<TopologyId> = constraints.iter().map(|one| cluster.topology_id(&one.topology_key)).collect();
    let has_all = |cluster: &Cluster, id: NodeId| {
        !is_own || topologies.iter().all(|topology| cluster.topology(*topology).value(id).is_some())
    };
    let ignored: Vec<bool> = nodes.iter().map(|id| !has_all(cluster, *id)).collect();
    let counted = || nodes.iter().zip(&ignored).filter(|(_, is_ignored)| !**is_ignored).map(|(id, _)| *id);
    let mut softs = Vec::with_capacity(constraints.len());
    for (constraint, topology) in constraints.into_iter().zip(topologies.iter().copied()) {
        let tally = cluster.tally(std::slice::from_ref(&constraint.matcher));
        let cluster = &*cluster;
        let values = cluster.topology(topology);
        let (size, counts) = if &*constraint.topology_key == HOSTNAME {
            (counted().count(), None)
        } else {
            let mut is_domain = vec![false; values.len()];
            // Nodes without the label are a domain of their own.
            let mut lacks = false;
            for id in counted() {
                match values.value(id) {
                    Some(value) => is_domain[value] = true,
                    None => lacks = true,
                }
            }
            let mut counts = vec![0; values.len()];
            for (id, count) in cluster.tallies().counts(tally) {
                let Some(value) = values.value(id).filter(|value| is_domain[*value]) else { continue };
                if has_all(cluster, id) && honors(demand, &constraint, cluster.node(id)) {
                    counts[value] += i64::from(count.alive);
                }
            }
            (is_domain.iter().filter(|is_domain| **is_domain).count() + usize::from(lacks), Some(counts))
        };
        let weight = ((size + 2) as f64).ln();
        softs.push(Soft { constraint, topology, tally, counts, weight });
    }
    let cluster = &*cluster;
    let raw = |id: NodeId| {
        let mut score = 0.0;
        for soft in &softs {
            let Some(value) = cluster.topology(soft.topology).value(id) else { continue };
            let count = match &soft.counts {
                Some(counts) => counts[value],
                None => i64::from(cluster.tallies().count(soft.tally, id).alive),
            };
            score += count as f64 * soft.weight + (soft.constraint.max_skew - 1) as f64;
        }
        score.round() as i64
    };
    let raw: Vec<i64> =
        nodes.iter().zip(&ignored).map(|(id, is_ignored)| if *is_ignored { 0 } else { raw(*id) }).collect();
    let scored = || raw.iter().zip(&ignored).filter(|(_, is_ignored)| !**is_ignored).map(|(raw, _)| *raw);
    let (min, max) = (scored().min().unwrap_or(0), scored().max().unwrap_or(0));
    let scale = |(raw, is_ignored): (&i64, &bool)| match (is_ignored, max) {
        (true, _) => 0,
        (false, 0) => SCORE_MAX,
        (false, max) => SCORE_MAX * (max + min - raw) / max,
    };
    Some(raw.iter().zip(&ignored).map(scale).collect())
}

fn default_constraints(cluster: &Cluster, demand: &Demand) -> Vec<SpreadConstraint> {
    let Some(matcher) = cluster.siblings(demand) else { return Vec::new() };
    let constraint = |(key, max_skew): (&str, i64)| SpreadConstraint {
        max_skew,
        min_domains: 1,
        topology_key: key.into(),
        matcher: matcher.clone(),
        is_hard: false,
        honors_affinity: true,
        honors_taints: false,
    };
    DEFAULT_SPREAD.into_iter().map(constraint).collect()
}

#[cfg(test)]
mod tests;
