//! Where a pod goes: one decision, from beginning to end, without a wait.
//!
//! Nodes are asked in turn, beginning where the last decision ended, until enough suit ([`nodes_to_find`]); the best of those
//! is taken, and chance decides between equals. A decision that failed is remembered with the state of the cluster: pods of
//! one template are alike in all that matters here, so the second of them costs nothing.

use std::collections::HashMap;
use std::sync::Arc;

use crate::cluster::{Cluster, Load, NodeId, Placed, PlacedState};
use crate::filters::{Check, Filter, FilterSet, PreRejection, Rejection};
use crate::pod::{Demand, Pod};
use crate::scores;

/// So many nodes are always looked for.
const NODES_MIN: usize = 100;
/// And this part of them.
const PERCENT_MIN: usize = 5;

/// Why a pod cannot be placed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnosis {
    /// Nodes that exist.
    pub nodes: usize,
    /// Why no node was looked at.
    pub pre: Option<PreRejection>,
    /// How nodes were rejected.
    pub rejected: Vec<(NodeId, Rejection)>,
    /// Whether nodes that were not looked at are none that the pod names.
    pub names_nodes: bool,
    /// Who rejected something.
    pub filters: FilterSet,
}

/// What comes of a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The node to run on.
    Place(NodeId),
    /// There are no nodes.
    NoNodes,
    /// No node suits.
    Reject(Arc<Diagnosis>),
}

/// Pods that are to run on a node once those that they preempt have ended.
#[derive(Debug, Default)]
pub struct Nominations {
    by_node: HashMap<Box<str>, Vec<Arc<Pod>>>,
}

impl Nominations {
    /// A pod is to run on this node, or on none.
    pub fn set(&mut self, pod: &Arc<Pod>, node: Option<&str>) {
        self.by_node.retain(|_, pods| {
            pods.retain(|one| one.uid != pod.uid);
            !pods.is_empty()
        });
        if let Some(node) = node {
            self.by_node.entry(node.into()).or_default().push(pod.clone());
        }
    }

    /// The pods that are to run on a node.
    pub fn on(&self, node: &str) -> &[Arc<Pod>] {
        self.by_node.get(node).map_or(&[], Vec::as_slice)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_node.is_empty()
    }

    /// Makes ready what their rules need.
    pub(crate) fn prepare(&self, cluster: &mut Cluster) {
        for pod in self.by_node.values().flatten() {
            for term in &pod.demand.affinity.required_anti {
                cluster.topology_id(&term.topology_key);
            }
        }
    }
}

/// Decides, one pod after the other.
#[derive(Debug)]
pub struct Decider {
    /// The place in the order of nodes where the next decision begins.
    next: usize,
    random: fastrand::Rng,
    last_failure: Option<(Arc<Demand>, u64, Arc<Diagnosis>)>,
}

impl Decider {
    /// One whose choice between equals comes from this.
    pub fn new(random: fastrand::Rng) -> Self {
        Self { next: 0, random, last_failure: None }
    }

    /// Random numbers.
    pub fn random(&mut self) -> &mut fastrand::Rng {
        &mut self.random
    }

    /// Where a pod should run; `nominated` is the node that it was promised.
    pub fn decide(
        &mut self,
        cluster: &mut Cluster,
        nominations: &Nominations,
        pod: &Pod,
        nominated: Option<&str>,
    ) -> Verdict {
        let nodes = cluster.order().len();
        if nodes == 0 {
            return Verdict::NoNodes;
        }
        let is_plain = pod.claims.is_empty() && nominated.is_none() && nominations.is_empty();
        if let Some((demand, generation, diagnosis)) = &self.last_failure
            && is_plain
            && *generation == cluster.generation()
            && Arc::ptr_eq(demand, &pod.demand)
        {
            return Verdict::Reject(diagnosis.clone());
        }
        cluster.begin();
        nominations.prepare(cluster);
        let check = match Check::new(cluster, pod) {
            Ok(check) => check,
            Err(pre) => {
                let filters = FilterSet::from_iter([pre.filter]);
                return Verdict::Reject(Arc::new(Diagnosis { nodes, pre: Some(pre), filters, ..Diagnosis::default() }));
            }
        };
        let filter = |cluster: &Cluster, id| filter_with_nominated(cluster, &check, nominations, pod, id, None);
        if let Some(id) = nominated.and_then(|name| cluster.node_id(name))
            && cluster.node(id).exists
            && filter(cluster, id).is_ok()
        {
            return Verdict::Place(id);
        }
        let mut diagnosis = Diagnosis { nodes, ..Diagnosis::default() };
        let named: Option<Vec<NodeId>> = pod.demand.nodes.only_names().map(|names| {
            let known = names.into_iter().filter_map(|name| cluster.node_id(name));
            known.filter(|id| cluster.node(*id).exists).collect()
        });
        diagnosis.names_nodes = named.is_some();
        let order = match named {
            Some(named) => named,
            None => cluster.order().to_vec(),
        };
        let enough = nodes_to_find(order.len());
        let mut suitable = Vec::with_capacity(enough);
        for turn in 0..order.len() {
            let id = order[(self.next + turn) % order.len()];
            match filter(cluster, id) {
                Ok(()) => {
                    suitable.push(id);
                    if suitable.len() == enough {
                        break;
                    }
                }
                Err(rejection) => {
                    diagnosis.filters.insert(rejection.filter);
                    diagnosis.rejected.push((id, rejection));
                }
            }
        }
        self.next = (self.next + suitable.len() + diagnosis.rejected.len()) % nodes;
        if suitable.is_empty() {
            if diagnosis.names_nodes {
                diagnosis.filters.insert(Filter::NodeAffinity);
            }
            let diagnosis = Arc::new(diagnosis);
            if is_plain {
                self.last_failure = Some((pod.demand.clone(), cluster.generation(), diagnosis.clone()));
            }
            return Verdict::Reject(diagnosis);
        }
        Verdict::Place(self.best(cluster, pod, &suitable))
    }

    fn best(&mut self, cluster: &mut Cluster, pod: &Pod, suitable: &[NodeId]) -> NodeId {
        if let [only] = suitable {
            return *only;
        }
        let totals = scores::total(cluster, &pod.demand, suitable);
        let max = totals.iter().max().copied().unwrap_or(0);
        let best: Vec<NodeId> =
            suitable.iter().zip(&totals).filter(|(_, total)| **total == max).map(|(id, _)| *id).collect();
        best[self.random.usize(..best.len())]
    }
}

/// How many suitable nodes are enough: half of them in small clusters, a smaller part of more.
pub fn nodes_to_find(all: usize) -> usize {
    if all < NODES_MIN {
        return all;
    }
    let percent = 50_usize.saturating_sub(all / 125).max(PERCENT_MIN);
    (all * percent / 100).max(NODES_MIN)
}

/// Asks a node twice where pods of no lower priority are to run on it: with them and without. `load` is what is on it
/// instead of what is.
///
/// # Errors
/// With the rejection.
pub fn filter_with_nominated(
    cluster: &Cluster,
    check: &Check,
    nominations: &Nominations,
    pod: &Pod,
    id: NodeId,
    load: Option<&Load>,
) -> Result<(), Rejection> {
    let node = cluster.node(id);
    let load = load.unwrap_or(&node.load);
    if !nominations.is_empty() {
        let nominated = nominations.on(&node.name).iter();
        let mut others = nominated.filter(|one| one.priority() >= pod.priority() && one.uid != pod.uid).peekable();
        if others.peek().is_some() {
            let (mut check, mut load) = (check.clone(), load.clone());
            for other in others {
                load.add(&other.demand.placed_on(&node.labels), 1);
                let other = Placed { pod: (**other).clone(), node: id, state: PlacedState::default() };
                check.apply(cluster, pod, &other, 1);
            }
            check.filter(cluster, pod, id, &load)?;
        }
    }
    check.filter(cluster, pod, id, load)
}

#[cfg(test)]
mod tests;
