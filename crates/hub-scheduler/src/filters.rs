//! Which nodes a pod may run on.
//!
//! What does not depend on the node is worked out once per decision ([`Check::new`]); then each node is asked
//! ([`Check::filter`]) in upstream's order of filters, and the first one that rejects it is the reason. For preemption the same
//! check is asked again as if pods were not there ([`Check::apply`]).

use crate::census::{Counted, RuleKind, TopologyId};
use crate::cluster::{Cluster, Load, Node, NodeId, Placed, rules};
use crate::pod::{AffinityTerm, Demand, Pod, SpreadConstraint};
use crate::terms::{PodMatcher, tolerates_all};
use crate::volumes::{ClaimCheck, ClaimPlan};

/// A filter, by upstream's name of the plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are upstream's")]
#[repr(u8)]
pub enum Filter {
    NodeUnschedulable,
    TaintToleration,
    NodeAffinity,
    NodePorts,
    NodeResourcesFit,
    VolumeRestrictions,
    VolumeBinding,
    PodTopologySpread,
    InterPodAffinity,
}

impl Filter {
    /// All of them, in the order in which they are asked.
    pub const ALL: &'static [Filter] = &[
        Filter::NodeUnschedulable,
        Filter::TaintToleration,
        Filter::NodeAffinity,
        Filter::NodePorts,
        Filter::NodeResourcesFit,
        Filter::VolumeRestrictions,
        Filter::VolumeBinding,
        Filter::PodTopologySpread,
        Filter::InterPodAffinity,
    ];
}

/// Some filters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FilterSet(u16);

impl FilterSet {
    /// Adds one.
    pub fn insert(&mut self, filter: Filter) {
        self.0 |= 1 << filter as u8;
    }

    /// Whether one is among them.
    pub fn contains(self, filter: Filter) -> bool {
        self.0 & (1 << filter as u8) != 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<Filter> for FilterSet {
    fn from_iter<I: IntoIterator<Item = Filter>>(filters: I) -> Self {
        let mut set = Self::default();
        filters.into_iter().for_each(|filter| set.insert(filter));
        set
    }
}

/// Why a filter rejects a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Reason {
    /// `kubectl cordon` closed it.
    Unschedulable,
    /// A taint.
    Taint,
    /// Node selector or required node affinity.
    NodeAffinity,
    /// A port is taken.
    Ports,
    /// As many pods as it takes.
    Pods,
    /// Not enough CPU.
    Cpu,
    /// Not enough memory.
    Memory,
    /// Not enough disk.
    Storage,
    /// A claim that another pod uses alone.
    ExclusiveClaim,
    /// A volume cannot be reached from it.
    VolumeUnreachable,
    /// No volume for a claim.
    NoVolume,
    /// The volume of a claim does not exist.
    VolumeMissing,
    /// Not enough disk for the volumes that claims request.
    NoSpace,
    /// It lacks a label by which the pod is spread.
    SpreadLabel,
    /// Too many of the pods that the pod is spread with.
    Spread,
    /// Pods that the pod should run with are not there.
    Affinity,
    /// Pods that the pod should not run with are there.
    AntiAffinity,
    /// Pods that are there should not run with the pod.
    ExistingAntiAffinity,
    /// The first of the pod's resources that are counted by their name; the others follow.
    Scalar,
}

/// Resources of one pod that a reason can name; more are as good as one of them.
const SCALARS_MAX: usize = 64 - Reason::Scalar as usize;

/// How a node was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Who rejected it.
    pub filter: Filter,
    /// Whether it would even without any pods on it.
    pub is_final: bool,
    reasons: u64,
}

impl Rejection {
    fn new(filter: Filter, is_final: bool, reasons: impl IntoIterator<Item = Reason>) -> Self {
        let reasons = reasons.into_iter().fold(0, |bits, reason| bits | 1 << reason as u8);
        Self { filter, is_final, reasons }
    }

    /// Numbers of its reasons: those of [`Reason`], and from [`Reason::Scalar`] on those of the pod's resources.
    pub fn reasons(&self) -> impl Iterator<Item = usize> {
        let reasons = self.reasons;
        (0..64).filter(move |bit| reasons & (1 << bit) != 0)
    }
}

/// Pods per value of a topology label.
#[derive(Clone, Debug)]
struct Domains {
    topology: TopologyId,
    counts: Vec<i64>,
}

impl Domains {
    fn new(cluster: &mut Cluster, key: &str) -> Self {
        let topology = cluster.topology_id(key);
        Self { topology, counts: vec![0; cluster.topology(topology).len()] }
    }

    fn add(&mut self, cluster: &Cluster, node: NodeId, by: i64) {
        if let Some(value) = cluster.topology(self.topology).value(node)
            && let Some(count) = self.counts.get_mut(value)
        {
            *count += by;
        }
    }

    fn at(&self, cluster: &Cluster, node: NodeId) -> Option<i64> {
        let value = cluster.topology(self.topology).value(node)?;
        Some(self.counts.get(value).copied().unwrap_or(0))
    }
}

/// A hard spread constraint.
#[derive(Clone, Debug)]
struct Spread {
    constraint: SpreadConstraint,
    domains: Domains,
    /// Which values are among the nodes that count.
    is_domain: Vec<bool>,
    /// The fewest pods in one of them.
    fewest: i64,
    /// 1 if the pod is one of those that are spread.
    own: i64,
}

impl Spread {
    fn set_fewest(&mut self) {
        let domains = self.is_domain.iter().filter(|is_domain| **is_domain).count();
        let counts = self.domains.counts.iter().zip(&self.is_domain).filter(|(_, is_domain)| **is_domain);
        let fewest = counts.map(|(count, _)| *count).min().unwrap_or(0);
        let is_too_few = i64::try_from(domains).unwrap_or(i64::MAX) < self.constraint.min_domains;
        self.fewest = if is_too_few { 0 } else { fewest };
    }
}

/// Affinity between the pod and placed pods.
#[derive(Clone, Debug, Default)]
struct Affinity {
    /// Pods that match all terms of required affinity, by the values of each term's label.
    required: Vec<Domains>,
    /// Whether the pod itself matches all of them.
    matches_itself: bool,
    anti: Vec<Domains>,
    /// Placed pods whose anti-affinity means the pod.
    existing: Vec<Domains>,
}

/// Why no node is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreRejection {
    /// Who rejected the pod.
    pub filter: Filter,
    /// In upstream's words.
    pub message: String,
}

/// What a pod demands, made ready to ask nodes.
#[derive(Clone, Debug)]
pub struct Check {
    tolerates_unschedulable: bool,
    claims: ClaimCheck,
    /// How many pods use a claim of the pod that only one may use.
    exclusive_users: u32,
    spread: Vec<Spread>,
    affinity: Affinity,
}

impl Check {
    /// Makes a pod's demand ready, or says why no node can satisfy it.
    ///
    /// # Errors
    /// With the rejection, when nothing about single nodes matters.
    pub fn new(cluster: &mut Cluster, pod: &Pod) -> Result<Self, PreRejection> {
        let demand = &pod.demand;
        if demand.nodes.only_names().is_some_and(|names| names.is_empty()) {
            let message = "pod affinity terms conflict".to_owned();
            return Err(PreRejection { filter: Filter::NodeAffinity, message });
        }
        let claims = match pod.claims.is_empty() {
            true => ClaimCheck::default(),
            false => {
                cluster.volumes.check(pod).map_err(|message| PreRejection { filter: Filter::VolumeBinding, message })?
            }
        };
        let users = claims.exclusive.iter().map(|claim| cluster.claim_users(pod.namespace(), claim));
        let exclusive_users = users.fold(0, u32::saturating_add);
        Ok(Self {
            tolerates_unschedulable: !demand.tolerations.is_empty() && demand.tolerates_unschedulable(),
            exclusive_users,
            claims,
            spread: spread(cluster, demand),
            affinity: affinity(cluster, demand),
        })
    }

    /// Whether what the pod demands of other pods, or they of it, matters.
    pub fn depends_on_pods(&self) -> bool {
        let Affinity { required, anti, existing, .. } = &self.affinity;
        !(self.spread.is_empty() && required.is_empty() && anti.is_empty() && existing.is_empty())
            || self.exclusive_users > 0
    }

    /// Whether the pod may run on the node, were this on it.
    ///
    /// # Errors
    /// With the rejection of the first filter that rejects it.
    pub fn filter(&self, cluster: &Cluster, pod: &Pod, id: NodeId, load: &Load) -> Result<(), Rejection> {
        let node = cluster.node(id);
        self.filter_static(pod, node)?;
        filter_load(&pod.demand, node, load)?;
        if self.exclusive_users > 0 {
            return Err(Rejection::new(Filter::VolumeRestrictions, false, [Reason::ExclusiveClaim]));
        }
        self.plan_claims(cluster, pod, id)?;
        self.filter_spread(cluster, id)?;
        self.filter_affinity(cluster, id)
    }

    /// The filters that only the node's own properties matter to.
    ///
    /// # Errors
    /// With the rejection.
    pub fn filter_static(&self, pod: &Pod, node: &Node) -> Result<(), Rejection> {
        let demand = &pod.demand;
        let reject = |filter, reason| Err(Rejection::new(filter, true, [reason]));
        if node.is_unschedulable && !self.tolerates_unschedulable {
            return reject(Filter::NodeUnschedulable, Reason::Unschedulable);
        }
        if !node.taints.is_empty() && !tolerates_all(&node.taints, &demand.tolerations) {
            return reject(Filter::TaintToleration, Reason::Taint);
        }
        if !demand.nodes.is_empty() && !demand.nodes.matches(&node.name, &node.labels) {
            return reject(Filter::NodeAffinity, Reason::NodeAffinity);
        }
        Ok(())
    }

    /// How the pod's claims are bound on the node.
    ///
    /// # Errors
    /// With the rejection, when they cannot be.
    pub fn plan_claims(&self, cluster: &Cluster, pod: &Pod, id: NodeId) -> Result<ClaimPlan, Rejection> {
        if self.claims.is_empty() {
            return Ok(ClaimPlan::default());
        }
        let node = cluster.node(id);
        let disk = node.offers_directories.then_some(node.allocatable.storage);
        let plan = cluster.volumes.plan(pod.namespace(), &self.claims, &node.name, &node.labels, disk);
        plan.map_err(|conflict| {
            let reasons = [
                (conflict.unreachable, Reason::VolumeUnreachable),
                (conflict.nothing_to_bind, Reason::NoVolume),
                (conflict.missing, Reason::VolumeMissing),
                (conflict.no_space, Reason::NoSpace),
            ];
            let reasons = reasons.into_iter().filter(|(holds, _)| *holds).map(|(_, reason)| reason);
            Rejection::new(Filter::VolumeBinding, true, reasons)
        })
    }

    fn filter_spread(&self, cluster: &Cluster, id: NodeId) -> Result<(), Rejection> {
        for spread in &self.spread {
            let Some(count) = spread.domains.at(cluster, id) else {
                return Err(Rejection::new(Filter::PodTopologySpread, true, [Reason::SpreadLabel]));
            };
            if count + spread.own - spread.fewest > spread.constraint.max_skew {
                return Err(Rejection::new(Filter::PodTopologySpread, false, [Reason::Spread]));
            }
        }
        Ok(())
    }

    fn filter_affinity(&self, cluster: &Cluster, id: NodeId) -> Result<(), Rejection> {
        let Affinity { required, matches_itself, anti, existing } = &self.affinity;
        let reject = |is_final, reason| Err(Rejection::new(Filter::InterPodAffinity, is_final, [reason]));
        if !required.is_empty() {
            let counts: Option<Vec<i64>> = required.iter().map(|one| one.at(cluster, id)).collect();
            // The first of a group that demands to be together may begin anywhere where the labels are.
            let is_first = || *matches_itself && required.iter().all(|one| one.counts.iter().all(|count| *count <= 0));
            match counts {
                Some(counts) if counts.iter().all(|count| *count > 0) || is_first() => {}
                _ => return reject(true, Reason::Affinity),
            }
        }
        let has_any = |all: &[Domains]| all.iter().any(|one| one.at(cluster, id).is_some_and(|count| count > 0));
        if has_any(anti) {
            return reject(false, Reason::AntiAffinity);
        }
        if has_any(existing) {
            return reject(false, Reason::ExistingAntiAffinity);
        }
        Ok(())
    }

    /// As if a pod were on the node as well (`sign` 1), or not there (-1).
    pub fn apply(&mut self, cluster: &Cluster, pod: &Pod, other: &Placed, sign: i64) {
        let demand = &pod.demand;
        let counted = cluster.counted(other);
        for spread in &mut self.spread {
            let is_counted =
                !counted.is_terminating && counted.is_meant(std::slice::from_ref(&spread.constraint.matcher));
            if is_counted && is_spread_over(cluster, demand, &spread.constraint, &demand.spread, other.node) {
                spread.domains.add(cluster, other.node, sign);
                spread.set_fewest();
            }
        }
        if !self.affinity.required.is_empty() && is_meant_by_all(&counted, &demand.affinity.required) {
            self.affinity.required.iter_mut().for_each(|one| one.add(cluster, other.node, sign));
        }
        for (domains, term) in self.affinity.anti.iter_mut().zip(&demand.affinity.required_anti) {
            if counted.is_meant(std::slice::from_ref(&term.matcher)) {
                domains.add(cluster, other.node, sign);
            }
        }
        let of_namespace = cluster.namespace(&demand.namespace);
        for (kind, term) in rules(&other.pod.demand) {
            if kind == RuleKind::RequiredAnti && term.matcher.matches(&demand.namespace, of_namespace, &demand.labels) {
                self.count_existing(cluster, term, other.node, sign);
            }
        }
        let uses = |claim: &str| other.pod.claims.iter().any(|used| *used.name == *claim);
        if !self.claims.exclusive.is_empty() && other.pod.namespace() == &*demand.namespace {
            let shared = self.claims.exclusive.iter().filter(|claim| uses(claim)).count();
            let shared = i32::try_from(shared).unwrap_or(i32::MAX);
            let sign = if sign < 0 { -1 } else { 1 };
            self.exclusive_users = self.exclusive_users.saturating_add_signed(shared * sign);
        }
    }

    fn count_existing(&mut self, cluster: &Cluster, term: &AffinityTerm, node: NodeId, by: i64) {
        let Some(topology) = cluster.known_topology(&term.topology_key) else { return };
        let existing = &mut self.affinity.existing;
        let at = existing.iter().position(|one| one.topology == topology).unwrap_or_else(|| {
            existing.push(Domains { topology, counts: vec![0; cluster.topology(topology).len()] });
            existing.len() - 1
        });
        existing[at].add(cluster, node, by);
    }
}

/// Whether the node's resources and ports suffice, were this on it.
///
/// # Errors
/// With the rejection.
pub fn filter_load(demand: &Demand, node: &Node, load: &Load) -> Result<(), Rejection> {
    if !demand.ports.is_empty() && demand.ports.iter().any(|port| load.ports.iter().any(|held| held.conflicts(port))) {
        return Err(Rejection::new(Filter::NodePorts, false, [Reason::Ports]));
    }
    let (mut reasons, mut is_final) = (0_u64, false);
    let mut lack = |number: usize, demanded: i64, offered: i64, used: i64| {
        if demanded > 0 && demanded > offered.saturating_sub(used) {
            reasons |= 1 << number;
            is_final |= demanded > offered;
        }
    };
    let (demanded, offered, used) = (demand.requests_on(&node.labels), &node.allocatable, &load.requested);
    lack(Reason::Cpu as usize, demanded.cpu, offered.cpu, used.cpu);
    lack(Reason::Memory as usize, demanded.memory, offered.memory, used.memory);
    lack(Reason::Storage as usize, demanded.storage, offered.storage, used.storage);
    for (number, (name, amount)) in demanded.scalars.iter().enumerate() {
        let number = Reason::Scalar as usize + number.min(SCALARS_MAX - 1);
        lack(number, *amount, offered.scalar(name), used.scalar(name));
    }
    if load.pods >= node.pods_max {
        reasons |= 1 << Reason::Pods as u64;
    }
    if reasons == 0 { Ok(()) } else { Err(Rejection { filter: Filter::NodeResourcesFit, is_final, reasons }) }
}

fn is_meant_by_all(counted: &Counted<'_>, terms: &[AffinityTerm]) -> bool {
    terms.iter().all(|term| counted.is_meant(std::slice::from_ref(&term.matcher)))
}

/// Whether the pods of a node count for a constraint: it has the labels of all constraints of its kind, and the pod could
/// run there as far as the constraint cares.
pub(crate) fn is_spread_over(
    cluster: &Cluster,
    demand: &Demand,
    constraint: &SpreadConstraint,
    all: &[SpreadConstraint],
    id: NodeId,
) -> bool {
    let node = cluster.node(id);
    let of_its_kind = all.iter().filter(|one| one.is_hard == constraint.is_hard);
    node.exists
        && of_its_kind.into_iter().all(|one| node.labels.get(&one.topology_key).is_some())
        && honors(demand, constraint, node)
}

/// Whether the pod could run on the node as far as a constraint cares.
pub(crate) fn honors(demand: &Demand, constraint: &SpreadConstraint, node: &Node) -> bool {
    (!constraint.honors_affinity || demand.nodes.is_empty() || demand.nodes.matches(&node.name, &node.labels))
        && (!constraint.honors_taints || tolerates_all(&node.taints, &demand.tolerations))
}

fn spread(cluster: &mut Cluster, demand: &Demand) -> Vec<Spread> {
    let hard = demand.spread.iter().filter(|one| one.is_hard);
    hard.map(|constraint| {
        let mut domains = Domains::new(cluster, &constraint.topology_key);
        let tally = cluster.tally(std::slice::from_ref(&constraint.matcher));
        let mut is_domain = vec![false; domains.counts.len()];
        let cluster = &*cluster;
        for (id, _) in cluster.existing() {
            if is_spread_over(cluster, demand, constraint, &demand.spread, id) {
                if let Some(value) = cluster.topology(domains.topology).value(id) {
                    is_domain[value] = true;
                }
                domains.add(cluster, id, i64::from(cluster.tallies().count(tally, id).alive));
            }
        }
        let of_namespace = cluster.namespace(&demand.namespace);
        let own = i64::from(constraint.matcher.matches(&demand.namespace, of_namespace, &demand.labels));
        let mut spread = Spread { constraint: constraint.clone(), domains, is_domain, fewest: 0, own };
        spread.set_fewest();
        spread
    })
    .collect()
}

/// A topology key, and on which nodes how many pods hold a rule about it.
type Holders = (Box<str>, Vec<(NodeId, u32)>);

fn affinity(cluster: &mut Cluster, demand: &Demand) -> Affinity {
    let mut affinity = Affinity::default();
    let of_pod = &demand.affinity;
    if !of_pod.required.is_empty() {
        let matchers: Vec<PodMatcher> = of_pod.required.iter().map(|term| term.matcher.clone()).collect();
        affinity.required = of_pod.required.iter().map(|term| count(cluster, &matchers, &term.topology_key)).collect();
        let of_namespace = cluster.namespace(&demand.namespace);
        affinity.matches_itself =
            matchers.iter().all(|one| one.matches(&demand.namespace, of_namespace, &demand.labels));
    }
    let anti = of_pod.required_anti.iter();
    affinity.anti = anti.map(|term| count(cluster, std::slice::from_ref(&term.matcher), &term.topology_key)).collect();
    let rules: Vec<Holders> = {
        let of_namespace = cluster.namespace(&demand.namespace);
        let meaning = cluster.rules().meaning(&demand.namespace, of_namespace, &demand.labels);
        let anti = meaning.filter(|rule| rule.kind == RuleKind::RequiredAnti);
        anti.map(|rule| (rule.term.topology_key.clone(), rule.holders.iter().map(|(id, n)| (*id, *n)).collect()))
            .collect()
    };
    for (key, holders) in rules {
        let domains = Domains::new(cluster, &key);
        let known = affinity.existing.iter().position(|one| one.topology == domains.topology);
        let at = known.unwrap_or_else(|| {
            affinity.existing.push(domains);
            affinity.existing.len() - 1
        });
        holders.iter().for_each(|(id, count)| affinity.existing[at].add(cluster, *id, i64::from(*count)));
    }
    affinity
}

fn count(cluster: &mut Cluster, matchers: &[PodMatcher], key: &str) -> Domains {
    let mut domains = Domains::new(cluster, key);
    let tally = cluster.tally(matchers);
    let cluster = &*cluster;
    cluster.tallies().counts(tally).for_each(|(id, count)| domains.add(cluster, id, i64::from(count.all)));
    domains
}

#[cfg(test)]
mod tests;
