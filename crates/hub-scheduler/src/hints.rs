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
    /// Of its disk, which volumes need.
    pub offers_more_disk: bool,
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

    /// Whether it concerns one of these filters beyond what [`fits_now`] looks at.
    fn concerns_others(self, filters: FilterSet) -> bool {
        let all = [
            (Filter::VolumeBinding, self.labels || self.offers_more_disk),
            (Filter::PodTopologySpread, self.labels || self.taints),
            (Filter::InterPodAffinity, self.labels),
        ];
        all.iter().any(|(filter, is_concerned)| filters.contains(*filter) && (self.is_new || *is_concerned))
    }
}

/// The filters that [`fits_now`] looks at, which knows the pod as the variant that it would be there: with other labels a node may be one on
/// which it needs less. A node is asked by one after the other, and the first that rejects is all that the
/// pod remembers: what another of them would have said, a later change may be about.
const OF_NODE: [Filter; 5] = [
    Filter::NodeUnschedulable,
    Filter::TaintToleration,
    Filter::NodeAffinity,
    Filter::NodeResourcesFit,
    Filter::NodePorts,
];

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
    let is_of_node = OF_NODE.iter().any(|filter| has(*filter));
    if filters.is_empty() {
        return true;
    }
    match change {
        Change::Node(id, what) => {
            what.concerns_others(filters) || is_of_node && !what.is_empty() && fits_now(cluster, id, demand)
        }
        // Domains that are no more make the fewest more.
        Change::NodeRemoved => has(Filter::PodTopologySpread),
        Change::PodFreed(placed) => {
            is_of_node && fits_now(cluster, placed.node, demand)
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
