//! Which changes could help which pods.
//!
//! A pod that was rejected remembers by which filters. A change wakes it only when it concerns one of those and, as far as
//! a look at one node can say, when the pod could run there now.

use crate::census::RuleKind;
use crate::cluster::{Cluster, Load, NodeId, Placed, rules};
use crate::filters::{Filter, FilterSet, filter_load};
use crate::pod::{ClaimUse, Demand};
use crate::terms::tolerates_all;

/// What of a node changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeChange {
    /// It is new: all of it.
    pub is_new: bool,
    /// It offers more of something.
    pub offers_more: bool,
    /// Its labels.
    pub labels: bool,
    /// Its taints.
    pub taints: bool,
    /// It was opened again.
    pub opened: bool,
}

impl NodeChange {
    /// Whether nothing changed that could help anybody.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    fn concerns(self, filter: Filter) -> bool {
        self.is_new
            || match filter {
                Filter::NodeUnschedulable => self.opened,
                Filter::TaintToleration => self.taints,
                Filter::NodeAffinity | Filter::VolumeBinding => self.labels,
                Filter::NodeResourcesFit => self.offers_more,
                Filter::PodTopologySpread => self.labels || self.taints,
                Filter::InterPodAffinity => self.labels,
                Filter::NodePorts | Filter::VolumeRestrictions => false,
            }
    }
}

/// A change of the cluster.
#[derive(Clone, Copy, Debug)]
pub enum Change<'c> {
    /// A node is new or has changed.
    Node(NodeId, NodeChange),
    /// A node is deleted: of its labels, whether it had one.
    NodeRemoved,
    /// A pod has ended or is deleted, or its binding failed.
    PodFreed(&'c Placed),
    /// A pod was placed, or placed pods have other labels.
    PodPlaced(&'c Placed),
    /// A namespace has other labels.
    Namespace,
    /// A claim, by its namespace and name.
    Claim(&'c str, &'c str),
    /// A volume or a class.
    Storage,
}

/// Whether a change could help a pod with this demand and these claims that these filters have rejected. One that was
/// rejected by none of them (there was no node) is helped by anything.
pub fn helps(cluster: &Cluster, change: Change<'_>, demand: &Demand, claims: &[ClaimUse], filters: FilterSet) -> bool {
    let has = |filter| filters.contains(filter);
    if filters.is_empty() {
        return true;
    }
    match change {
        Change::Node(id, what) => node_helps(cluster, id, what, demand, filters),
        // Domains that are no more make the fewest more.
        Change::NodeRemoved => has(Filter::PodTopologySpread),
        Change::PodFreed(placed) => {
            (has(Filter::NodeResourcesFit) || has(Filter::NodePorts)) && fits_now(cluster, placed.node, demand)
                || has(Filter::PodTopologySpread) && is_spread_with(cluster, demand, placed)
                || has(Filter::InterPodAffinity) && repels(cluster, demand, placed)
                || has(Filter::VolumeRestrictions) && shares_claim(demand, claims, placed)
        }
        Change::PodPlaced(placed) => {
            has(Filter::PodTopologySpread) && is_spread_with(cluster, demand, placed)
                || has(Filter::InterPodAffinity) && attracts(cluster, demand, placed)
        }
        Change::Namespace => {
            let terms = demand.affinity.required.iter().chain(&demand.affinity.required_anti);
            has(Filter::InterPodAffinity) && terms.into_iter().any(|term| term.matcher.selects_namespaces())
        }
        Change::Claim(namespace, name) => {
            (has(Filter::VolumeBinding) || has(Filter::VolumeRestrictions))
                && *namespace == *demand.namespace
                && claims.iter().any(|claim| *claim.name == *name)
        }
        Change::Storage => has(Filter::VolumeBinding) && !claims.is_empty(),
    }
}

fn node_helps(cluster: &Cluster, id: NodeId, what: NodeChange, demand: &Demand, filters: FilterSet) -> bool {
    let concerned = Filter::ALL.iter().filter(|filter| filters.contains(**filter) && what.concerns(**filter));
    let concerned: FilterSet = concerned.copied().collect();
    if concerned.is_empty() {
        return false;
    }
    let node = cluster.node(id);
    if concerned.contains(Filter::PodTopologySpread) {
        // A domain more, or fewer, may matter to other nodes than this.
        let mut hard = demand.spread.iter().filter(|one| one.is_hard);
        if hard.any(|one| what.labels || node.labels.get(&one.topology_key).is_some()) {
            return true;
        }
    }
    fits_now(cluster, id, demand)
}

/// Whether a node's own properties suit the pod and what is left of it suffices, or would once less important pods leave.
fn fits_now(cluster: &Cluster, id: NodeId, demand: &Demand) -> bool {
    let node = cluster.node(id);
    let is_suitable = node.exists
        && (!node.is_unschedulable || demand.tolerates_unschedulable())
        && tolerates_all(&node.taints, &demand.tolerations)
        && demand.nodes.matches(&node.name, &node.labels);
    if !is_suitable {
        return false;
    }
    if filter_load(demand, node, &node.load).is_ok() {
        return true;
    }
    let lesser = |placed: &&Placed| placed.pod.priority() < demand.priority;
    if demand.never_preempts || !cluster.pods_on(id).any(|(_, placed)| lesser(&placed)) {
        return false;
    }
    let mut load: Load = node.load.clone();
    for (_, placed) in cluster.pods_on(id).filter(|(_, placed)| lesser(placed)) {
        load.add(&placed.pod.demand, -1);
    }
    filter_load(demand, node, &load).is_ok()
}

fn is_spread_with(cluster: &Cluster, demand: &Demand, placed: &Placed) -> bool {
    let counted = cluster.counted(placed);
    let mut hard = demand.spread.iter().filter(|one| one.is_hard);
    hard.any(|one| counted.is_meant(std::slice::from_ref(&one.matcher)))
}

/// Whether one of the two keeps the other out.
fn repels(cluster: &Cluster, demand: &Demand, placed: &Placed) -> bool {
    let counted = cluster.counted(placed);
    let of_namespace = cluster.namespace(&demand.namespace);
    demand.affinity.required_anti.iter().any(|term| counted.is_meant(std::slice::from_ref(&term.matcher)))
        || rules(&placed.pod.demand).any(|(kind, term)| {
            kind == RuleKind::RequiredAnti && term.matcher.matches(&demand.namespace, of_namespace, &demand.labels)
        })
}

fn attracts(cluster: &Cluster, demand: &Demand, placed: &Placed) -> bool {
    let counted = cluster.counted(placed);
    demand.affinity.required.iter().any(|term| counted.is_meant(std::slice::from_ref(&term.matcher)))
}

fn shares_claim(demand: &Demand, claims: &[ClaimUse], placed: &Placed) -> bool {
    placed.pod.namespace() == &*demand.namespace
        && claims.iter().any(|claim| placed.pod.claims.iter().any(|used| used.name == claim.name))
}
