//! What a pod demands of the node that it runs on.
//!
//! It is read once from the pod's JSON, borrowing ([`parse`]), and kept compact: pods of one template share one
//! [`Demand`]. Everything that a decision needs to know of a pod is here; nothing else of it is kept.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::terms::{Effect, Labels, NodeDemand, NodeTerm, PodMatcher, Taint, Toleration, is_tolerated};

pub(crate) mod parse;
pub(crate) mod views;

pub use parse::{ParsePodError, Seen, parse};

/// The scheduler whose pods are placed here.
pub const SCHEDULER_NAME: &str = "default-scheduler";

/// Taint of a node that `kubectl cordon` closed.
pub const TAINT_UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Amounts of resources: CPU in thousandths, the others in their own units.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Amounts {
    /// `cpu`, in thousandths of a processor.
    pub cpu: i64,
    /// `memory`, in bytes.
    pub memory: i64,
    /// `ephemeral-storage`, in bytes.
    pub storage: i64,
    /// Extended resources, huge pages and the like, in order of their names.
    pub scalars: Vec<(Box<str>, i64)>,
}

impl Amounts {
    /// The amount of a resource that is no field of its own.
    pub fn scalar(&self, name: &str) -> i64 {
        let at = self.scalars.binary_search_by(|(held, _)| (**held).cmp(name));
        at.map_or(0, |at| self.scalars[at].1)
    }

    /// Adds the other amounts, or takes them off.
    pub fn add(&mut self, other: &Self, sign: i64) {
        let sum = |held: i64, by: i64| held.saturating_add(by.saturating_mul(sign));
        self.cpu = sum(self.cpu, other.cpu);
        self.memory = sum(self.memory, other.memory);
        self.storage = sum(self.storage, other.storage);
        for (name, amount) in &other.scalars {
            match self.scalars.binary_search_by(|(held, _)| held.cmp(name)) {
                Ok(at) => {
                    self.scalars[at].1 = sum(self.scalars[at].1, *amount);
                    if self.scalars[at].1 == 0 {
                        self.scalars.remove(at);
                    }
                }
                Err(at) => self.scalars.insert(at, (name.clone(), sum(0, *amount))),
            }
        }
    }

    /// Whether there is none of anything.
    pub fn is_zero(&self) -> bool {
        self.cpu == 0 && self.memory == 0 && self.storage == 0 && self.scalars.iter().all(|(_, amount)| *amount == 0)
    }
}

/// A port of the node that a pod takes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Empty for all addresses.
    pub ip: Box<str>,
    /// `TCP`, `UDP`, `SCTP`.
    pub protocol: Box<str>,
    /// Its number.
    pub port: u16,
}

impl HostPort {
    /// Whether two pods cannot have both.
    pub fn conflicts(&self, other: &Self) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip.is_empty() || other.ip.is_empty() || self.ip == other.ip)
    }
}

/// Pods that a pod should, or should not, share a part of the cluster with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AffinityTerm {
    /// The pods.
    pub matcher: PodMatcher,
    /// The label of nodes whose values are the parts.
    pub topology_key: Box<str>,
}

/// A pod's affinity to other pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodAffinity {
    /// Required affinity.
    pub required: Vec<AffinityTerm>,
    /// Required anti-affinity.
    pub required_anti: Vec<AffinityTerm>,
    /// Preferred affinity with its weights; of anti-affinity they are negative.
    pub preferred: Vec<(i64, AffinityTerm)>,
}

impl PodAffinity {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.required.is_empty() && self.required_anti.is_empty() && self.preferred.is_empty()
    }
}

/// One of `topologySpreadConstraints`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpreadConstraint {
    /// `maxSkew`.
    pub max_skew: i64,
    /// `minDomains`; 1 where it is absent.
    pub min_domains: i64,
    /// `topologyKey`.
    pub topology_key: Box<str>,
    /// The pods that are spread.
    pub matcher: PodMatcher,
    /// `whenUnsatisfiable: DoNotSchedule`.
    pub is_hard: bool,
    /// `nodeAffinityPolicy: Honor`: only nodes that the pod's node affinity matches count.
    pub honors_affinity: bool,
    /// `nodeTaintsPolicy: Honor`: only nodes whose taints the pod tolerates count.
    pub honors_taints: bool,
}

/// The workload that controls a pod, of those whose selectors spread pods by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WorkloadKind {
    /// `v1`.
    ReplicationController,
    /// `apps`.
    ReplicaSet,
    /// `apps`.
    StatefulSet,
}

/// What a pod demands, without its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// `metadata.namespace`.
    pub namespace: Box<str>,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `spec.priority`.
    pub priority: i32,
    /// `preemptionPolicy: Never`.
    pub never_preempts: bool,
    /// What it occupies of a node.
    pub requests: Amounts,
    /// CPU and memory as they count for the score of a node: a container that requests nothing still needs something.
    pub scored: [i64; 2],
    /// `nodeSelector` and required node affinity.
    pub nodes: NodeDemand,
    /// Preferred node affinity with its weights.
    pub preferred_nodes: Vec<(i64, NodeTerm)>,
    /// `tolerations`.
    pub tolerations: Vec<Toleration>,
    /// Ports of the node.
    pub ports: Vec<HostPort>,
    /// Affinity to other pods.
    pub affinity: PodAffinity,
    /// `topologySpreadConstraints`.
    pub spread: Vec<SpreadConstraint>,
    /// Images by their full names, one for each container and image volume.
    pub images: Vec<Box<str>>,
    /// The workload that controls it.
    pub owner: Option<(WorkloadKind, Box<str>)>,
    /// What it needs on nodes of other kinds; none once it has a node.
    pub variants: Vec<VariantDemand>,
}

/// What a pod needs on nodes with these labels, as its annotation `selvedge.dev/variants` has it. Its `requests` have the same scalars as
/// those of the [`Demand`], some of them zero, so that a reason names the same resource for both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VariantDemand {
    /// Labels of the nodes.
    pub nodes: Labels,
    /// What it needs there.
    pub needs: Needs,
}

/// What a pod occupies of a node, and brings along.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// See [`Demand::requests`].
    pub requests: Amounts,
    /// See [`Demand::scored`].
    pub scored: [i64; 2],
    /// See [`Demand::images`].
    pub images: Vec<Box<str>>,
}

impl Demand {
    /// What of its variants it needs on a node with these labels: the first that matches, as the hub applies them.
    fn variant(&self, labels: &Labels) -> Option<&Needs> {
        let matches = |one: &&VariantDemand| one.nodes.iter().all(|(key, value)| labels.get(key) == Some(value));
        self.variants.iter().find(matches).map(|one| &one.needs)
    }

    /// What it occupies of a node with these labels.
    pub fn requests_on(&self, labels: &Labels) -> &Amounts {
        self.variant(labels).map_or(&self.requests, |needs| &needs.requests)
    }

    /// What it counts for in scores there.
    pub fn scored_on(&self, labels: &Labels) -> [i64; 2] {
        self.variant(labels).map_or(self.scored, |needs| needs.scored)
    }

    /// Its images there.
    pub fn images_on(&self, labels: &Labels) -> &[Box<str>] {
        self.variant(labels).map_or(&self.images, |needs| &needs.images)
    }

    /// The demand of the pod once it is on a node with these labels.
    pub fn placed_on(self: &Arc<Self>, labels: &Labels) -> Arc<Self> {
        if self.variants.is_empty() {
            return self.clone();
        }
        let mut placed = Self { variants: Vec::new(), ..(**self).clone() };
        if let Some(Needs { requests, scored, images }) = self.variant(labels).cloned() {
            (placed.requests, placed.scored, placed.images) = (requests, scored, images);
        }
        placed.requests.scalars.retain(|(_, amount)| *amount != 0);
        Arc::new(placed)
    }

    /// Whether `kubectl cordon` does not keep it out.
    pub fn tolerates_unschedulable(&self) -> bool {
        let taint = Taint { key: TAINT_UNSCHEDULABLE.into(), value: "".into(), effect: Effect::NoSchedule };
        is_tolerated(&taint, &self.tolerations)
    }
}

impl Hash for Demand {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Enough to distinguish templates; the rest is for comparison.
        (&self.namespace, &self.labels, self.priority, &self.requests, &self.images, &self.owner).hash(state);
    }
}

/// A claim that a pod uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimUse {
    /// Its name, in the pod's namespace.
    pub name: Box<str>,
    /// Whether it is created for an ephemeral volume of the pod.
    pub is_ephemeral: bool,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// `metadata.name`.
    pub name: Box<str>,
    /// `metadata.uid`.
    pub uid: Box<str>,
    /// `metadata.generation`.
    pub generation: i64,
    /// What it demands.
    pub demand: Arc<Demand>,
    /// Its claims.
    pub claims: Vec<ClaimUse>,
}

impl Pod {
    /// `metadata.namespace`.
    pub fn namespace(&self) -> &str {
        &self.demand.namespace
    }

    /// `spec.priority`.
    pub fn priority(&self) -> i32 {
        self.demand.priority
    }
}

#[cfg(test)]
mod tests;
