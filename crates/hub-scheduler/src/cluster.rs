//! What decisions read: nodes and what is on them, changed bit by bit as objects change.
//!
//! A pod that was placed counts on its node at once (it is assumed), long before the API shows it there; it is forgotten again
//! when its binding fails. Nodes and pods have small numbers: a node's numbers are in one place, and what a plain pod needs
//! to know of a node is read without a look-up.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use api_kube::LabelSelector;

use crate::census::{Counted, RuleKind, Rules, Tallies, TallyId, Topologies, Topology, TopologyId};
use crate::node::Offer;
use crate::pod::{Amounts, Demand, HostPort, Pod, WorkloadKind};
use crate::terms::{Labels, PodMatcher, Taint};
use crate::volumes::Volumes;

/// A node by its number.
pub type NodeId = u32;
/// A placed pod by its number.
pub type PodId = u32;

const ZONE: &str = "topology.kubernetes.io/zone";
const REGION: &str = "topology.kubernetes.io/region";
/// What a required affinity of a placed pod counts for when a pod that it means is scored.
const REQUIRED_WEIGHT: i64 = 1;
/// Demands that are kept for reuse, before those that no pod has are dropped.
const DEMANDS_MIN: usize = 256;
/// The same for images.
const IMAGES_MIN: usize = 1024;

/// What is on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// The sum of what its pods request.
    pub requested: Amounts,
    /// The sum of their CPU and memory as it counts for scores.
    pub scored: [i64; 2],
    /// How many there are.
    pub pods: i64,
    /// Ports that they have.
    pub ports: Vec<HostPort>,
}

impl Load {
    /// A pod is added or taken off.
    pub fn add(&mut self, demand: &Demand, sign: i64) {
        self.requested.add(&demand.requests, sign);
        for (held, by) in self.scored.iter_mut().zip(demand.scored) {
            *held = held.saturating_add(by.saturating_mul(sign));
        }
        self.pods = self.pods.saturating_add(sign);
        for port in &demand.ports {
            if sign > 0 {
                self.ports.push(port.clone());
            } else if let Some(at) = self.ports.iter().position(|held| held == port) {
                self.ports.swap_remove(at);
            }
        }
    }
}

/// A node.
#[derive(Debug, Default)]
pub struct Node {
    /// What is on it.
    pub load: Load,
    /// `status.allocatable`.
    pub allocatable: Amounts,
    /// `status.allocatable.pods`.
    pub pods_max: i64,
    /// `spec.unschedulable`.
    pub is_unschedulable: bool,
    /// Whether it exists; pods may be bound to one that does not.
    pub exists: bool,
    /// Whether volumes may be directories of it.
    pub offers_directories: bool,
    /// `spec.taints`.
    pub taints: Vec<Taint>,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `metadata.name`.
    pub name: Box<str>,
    /// What it has, by the numbers of images.
    pub images: Vec<u32>,
    /// The pods on it.
    pub pods: Vec<PodId>,
}

/// What of a placed pod may change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlacedState {
    /// Whether the API does not show it there yet.
    pub is_assumed: bool,
    /// Whether it waits for its deletion.
    pub is_terminating: bool,
    /// Whether because another pod took its place.
    pub is_preempted: bool,
    /// `status.startTime` in nanoseconds.
    pub started: i128,
}

impl PlacedState {
    /// That of a pod that was bound just now.
    pub fn new_pod() -> Self {
        Self { started: i128::MAX, ..Self::default() }
    }
}

/// A pod on a node.
#[derive(Debug)]
pub struct Placed {
    /// The pod.
    pub pod: Pod,
    /// Where it is.
    pub node: NodeId,
    /// What may change.
    pub state: PlacedState,
}

/// How far an image has spread.
#[derive(Clone, Copy, Debug, Default)]
pub struct Image {
    /// In bytes.
    pub size: i64,
    /// Nodes that have it.
    pub nodes: u32,
}

/// A PodDisruptionBudget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The pods that it means.
    pub selector: LabelSelector,
    /// `status.disruptionsAllowed`.
    pub allowed: i64,
    /// Names of pods whose end is taken into account already.
    pub disrupted: HashSet<Box<str>>,
}

/// Everything that decisions read.
#[derive(Debug, Default)]
pub struct Cluster {
    nodes: Vec<Node>,
    free_nodes: Vec<NodeId>,
    by_name: HashMap<Box<str>, NodeId>,
    /// Existing nodes, the zones in turn.
    order: Vec<NodeId>,
    is_order_stale: bool,
    pods: Vec<Option<Placed>>,
    free_pods: Vec<PodId>,
    /// By namespace and name.
    pod_ids: HashMap<Box<str>, HashMap<Box<str>, PodId>>,
    demands: HashSet<Arc<Demand>>,
    demands_max: usize,
    namespaces: HashMap<Box<str>, Labels>,
    topologies: Topologies,
    tallies: Tallies,
    rules: Rules,
    images: Vec<Image>,
    image_ids: HashMap<Box<str>, u32>,
    images_max: usize,
    claim_users: HashMap<(Box<str>, Box<str>), u32>,
    /// Selectors of Services, by namespace and name.
    services: HashMap<Box<str>, BTreeMap<Box<str>, Labels>>,
    workloads: HashMap<(WorkloadKind, Box<str>, Box<str>), LabelSelector>,
    /// Claims and volumes.
    pub volumes: Volumes,
    /// Budgets by namespace and name.
    pub budgets: BTreeMap<(Box<str>, Box<str>), Budget>,
    generation: u64,
}

impl Cluster {
    /// Grows with every change.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Something has changed that is changed through a field.
    pub fn touch(&mut self) {
        self.generation += 1;
    }

    /// A node by its number.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id as usize]
    }

    /// The number of a node that exists, or that pods are bound to.
    pub fn node_id(&self, name: &str) -> Option<NodeId> {
        self.by_name.get(name).copied()
    }

    /// Nodes that exist, the zones in turn.
    pub fn order(&mut self) -> &[NodeId] {
        if std::mem::take(&mut self.is_order_stale) {
            let mut zones: BTreeMap<(&str, &str), Vec<NodeId>> = BTreeMap::new();
            for (id, node) in self.existing() {
                let label = |key| node.labels.get(key).unwrap_or_default();
                zones.entry((label(REGION), label(ZONE))).or_default().push(id);
            }
            let longest = zones.values().map(Vec::len).max().unwrap_or(0);
            let turns = (0..longest).flat_map(|turn| zones.values().filter_map(move |zone| zone.get(turn)));
            self.order = turns.copied().collect();
        }
        &self.order
    }

    /// Nodes that exist, in order of their numbers.
    pub fn existing(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        (0..).zip(&self.nodes).filter(|(_, node)| node.exists)
    }

    /// A placed pod by its number.
    pub fn placed(&self, id: PodId) -> Option<&Placed> {
        self.pods.get(id as usize)?.as_ref()
    }

    /// A placed pod by its name.
    pub fn find_placed(&self, namespace: &str, name: &str) -> Option<&Placed> {
        self.placed(*self.pod_ids.get(namespace)?.get(name)?)
    }

    /// The pods on a node.
    pub fn pods_on(&self, node: NodeId) -> impl Iterator<Item = (PodId, &Placed)> {
        self.node(node).pods.iter().filter_map(|id| Some((*id, self.placed(*id)?)))
    }

    /// The labels of a namespace.
    pub fn namespace(&self, name: &str) -> Option<&Labels> {
        self.namespaces.get(name)
    }

    /// Pods that use a claim.
    pub fn claim_users(&self, namespace: &str, claim: &str) -> u32 {
        if self.claim_users.is_empty() {
            return 0;
        }
        self.claim_users.get(&(namespace.into(), claim.into())).copied().unwrap_or(0)
    }

    /// How far an image has spread, and its number.
    pub fn image(&self, name: &str) -> Option<(u32, Image)> {
        let id = *self.image_ids.get(name)?;
        Some((id, self.images[id as usize]))
    }

    /// What all pods with the same demand share.
    pub fn share(&mut self, mut pod: Pod) -> Pod {
        if let Some(known) = self.demands.get(&pod.demand) {
            pod.demand = known.clone();
            return pod;
        }
        if self.demands.len() >= self.demands_max.max(DEMANDS_MIN) {
            self.demands.retain(|demand| Arc::strong_count(demand) > 1);
            self.demands_max = self.demands.len() * 2;
        }
        self.demands.insert(pod.demand.clone());
        pod
    }

    fn slot(&mut self, name: &str) -> NodeId {
        if let Some(id) = self.by_name.get(name) {
            return *id;
        }
        let id = match self.free_nodes.pop() {
            Some(id) => id,
            None => {
                self.nodes.push(Node::default());
                NodeId::try_from(self.nodes.len() - 1).expect("a cluster has fewer nodes than there are numbers")
            }
        };
        self.nodes[id as usize] = Node { name: name.into(), ..Node::default() };
        self.by_name.insert(name.into(), id);
        id
    }

    fn free_slot_if_unused(&mut self, id: NodeId) {
        let node = &mut self.nodes[id as usize];
        if !node.exists && node.pods.is_empty() {
            let name = std::mem::take(&mut node.name);
            self.by_name.remove(&name);
            self.free_nodes.push(id);
        }
    }

    /// A node exists and offers this.
    pub fn set_node(&mut self, name: &str, offer: Offer) -> NodeId {
        self.generation += 1;
        if self.images.len() > self.images_max.max(IMAGES_MIN) {
            self.forget_unused_images();
            self.images_max = self.images.len() * 2;
        }
        let id = self.slot(name);
        let images = offer.images.iter().map(|(name, size)| self.image_id(name, *size)).collect();
        let old_images = std::mem::replace(&mut self.nodes[id as usize].images, images);
        self.count_images(id, &old_images);
        let node = &mut self.nodes[id as usize];
        self.is_order_stale |= !node.exists || node.labels != offer.labels;
        let is_relabeled = !node.exists || node.labels != offer.labels;
        node.exists = true;
        node.allocatable = offer.allocatable;
        node.pods_max = offer.pods;
        node.is_unschedulable = offer.is_unschedulable;
        node.offers_directories = offer.offers_directories;
        node.taints = offer.taints;
        node.labels = offer.labels;
        if is_relabeled {
            self.topologies.set(id, Some(&self.nodes[id as usize].labels));
            self.forget_stale_topologies();
        }
        id
    }

    /// A node is deleted. Pods that are bound to it still count for what they are.
    pub fn remove_node(&mut self, name: &str) {
        let Some(id) = self.node_id(name).filter(|id| self.node(*id).exists) else { return };
        self.generation += 1;
        self.is_order_stale = true;
        let node = &mut self.nodes[id as usize];
        let old_images = std::mem::take(&mut node.images);
        (node.exists, node.labels, node.taints) = (false, Labels::default(), Vec::new());
        self.count_images(id, &old_images);
        self.topologies.set(id, None);
        self.free_slot_if_unused(id);
        self.forget_stale_topologies();
    }

    fn forget_stale_topologies(&mut self) {
        if self.topologies.are_stale(self.by_name.len()) {
            self.topologies = Topologies::default();
        }
    }

    fn image_id(&mut self, name: &str, size: i64) -> u32 {
        if let Some(id) = self.image_ids.get(name) {
            return *id;
        }
        self.images.push(Image { size, nodes: 0 });
        let id = u32::try_from(self.images.len() - 1).unwrap_or(u32::MAX);
        self.image_ids.insert(name.into(), id);
        id
    }

    /// Numbers of images that no node has any more are given to others.
    fn forget_unused_images(&mut self) {
        let mut kept = Vec::new();
        let mut moved: HashMap<u32, u32> = HashMap::new();
        self.image_ids.retain(|_, id| {
            let image = self.images[*id as usize];
            if image.nodes == 0 {
                return false;
            }
            let new = u32::try_from(kept.len()).unwrap_or(u32::MAX);
            kept.push(image);
            moved.insert(*id, new);
            *id = new;
            true
        });
        self.images = kept;
        for node in &mut self.nodes {
            node.images = node.images.iter().filter_map(|id| moved.get(id).copied()).collect();
            node.images.sort_unstable();
        }
    }

    fn count_images(&mut self, id: NodeId, old: &[u32]) {
        let node = &mut self.nodes[id as usize];
        node.images.sort_unstable();
        node.images.dedup();
        for image in old {
            if let Some(image) = self.images.get_mut(*image as usize) {
                image.nodes = image.nodes.saturating_sub(1);
            }
        }
        for image in &node.images {
            if let Some(image) = self.images.get_mut(*image as usize) {
                image.nodes += 1;
            }
        }
    }

    /// A pod is on a node. One of its name that was placed before is replaced.
    pub fn place(&mut self, pod: Pod, node: &str, state: PlacedState) -> PodId {
        self.remove_pod(pod.namespace(), &pod.name);
        self.generation += 1;
        let pod = self.share(pod);
        let node = self.slot(node);
        let placed = Placed { pod, node, state };
        let id = match self.free_pods.pop() {
            Some(id) => id,
            None => {
                self.pods.push(None);
                PodId::try_from(self.pods.len() - 1).expect("a cluster has fewer pods than there are numbers")
            }
        };
        let by_name = self.pod_ids.entry(placed.pod.namespace().into()).or_default();
        by_name.insert(placed.pod.name.clone(), id);
        self.nodes[node as usize].pods.push(id);
        self.count(&placed, 1);
        self.pods[id as usize] = Some(placed);
        id
    }

    /// The API shows a pod where it was assumed to be.
    pub fn confirm(&mut self, namespace: &str, name: &str) {
        let id = self.pod_ids.get(namespace).and_then(|by_name| by_name.get(name));
        if let Some(placed) = id.and_then(|id| self.pods[*id as usize].as_mut()) {
            placed.state.is_assumed = false;
        }
    }

    /// All placed pods.
    pub fn all_placed(&self) -> impl Iterator<Item = &Placed> {
        self.pods.iter().flatten()
    }

    /// Names of the namespaces that are known.
    pub fn namespace_names(&self) -> impl Iterator<Item = &str> {
        self.namespaces.keys().map(|name| &**name)
    }

    /// Namespaces and names of the Services that are known.
    pub fn service_names(&self) -> impl Iterator<Item = (&str, &str)> {
        self.services.iter().flat_map(|(namespace, of)| of.keys().map(move |name| (&**namespace, &**name)))
    }

    /// Namespaces and names of the workloads of a kind that are known.
    pub fn workload_names(&self, kind: WorkloadKind) -> impl Iterator<Item = (&str, &str)> {
        let of_kind = self.workloads.keys().filter(move |(one, _, _)| *one == kind);
        of_kind.map(|(_, namespace, name)| (&**namespace, &**name))
    }

    /// A pod is on no node any more. Returns what was there.
    pub fn remove_pod(&mut self, namespace: &str, name: &str) -> Option<Placed> {
        let by_name = self.pod_ids.get_mut(namespace)?;
        let id = by_name.remove(name)?;
        if by_name.is_empty() {
            self.pod_ids.remove(namespace);
        }
        self.generation += 1;
        let placed = self.pods[id as usize].take()?;
        self.free_pods.push(id);
        let on_node = &mut self.nodes[placed.node as usize].pods;
        if let Some(at) = on_node.iter().position(|one| *one == id) {
            on_node.swap_remove(at);
        }
        self.count(&placed, -1);
        self.free_slot_if_unused(placed.node);
        Some(placed)
    }

    fn count(&mut self, placed: &Placed, sign: i32) {
        let demand = &placed.pod.demand;
        self.nodes[placed.node as usize].load.add(demand, i64::from(sign));
        let counted = counted(&self.namespaces, placed);
        self.tallies.apply(&counted, sign);
        for (kind, term) in rules(demand) {
            self.rules.apply(kind, term, placed.node, sign);
        }
        for claim in &placed.pod.claims {
            let key = (demand.namespace.clone(), claim.name.clone());
            let users = self.claim_users.entry(key).or_default();
            *users = users.saturating_add_signed(sign);
            if *users == 0 {
                self.claim_users.remove(&(demand.namespace.clone(), claim.name.clone()));
            }
        }
    }

    /// A namespace has these labels, or is deleted.
    pub fn set_namespace(&mut self, name: &str, labels: Option<Labels>) {
        self.generation += 1;
        match labels {
            Some(labels) => drop(self.namespaces.insert(name.into(), labels)),
            None => drop(self.namespaces.remove(name)),
        }
        self.tallies.namespaces_changed();
    }

    /// A Service means the pods with these labels, or none.
    pub fn set_service(&mut self, namespace: &str, name: &str, selector: Option<Labels>) {
        self.generation += 1;
        match selector {
            Some(selector) => drop(self.services.entry(namespace.into()).or_default().insert(name.into(), selector)),
            None => {
                if let Some(services) = self.services.get_mut(namespace) {
                    services.remove(name);
                    if services.is_empty() {
                        self.services.remove(namespace);
                    }
                }
            }
        }
    }

    /// A workload means these pods, or is deleted.
    pub fn set_workload(&mut self, kind: WorkloadKind, namespace: &str, name: &str, selector: Option<LabelSelector>) {
        self.generation += 1;
        let key = (kind, namespace.into(), name.into());
        match selector {
            Some(selector) => drop(self.workloads.insert(key, selector)),
            None => drop(self.workloads.remove(&key)),
        }
    }

    /// The pods that a pod without constraints of its own is spread with: those of its Services and its workload.
    pub fn siblings(&self, demand: &Demand) -> Option<PodMatcher> {
        use api_kube::selector::{Operator, Requirement};
        let services = self.services.get(&demand.namespace).into_iter().flat_map(BTreeMap::values);
        let of_pod = services.filter(|selector| {
            !selector.is_empty() && selector.iter().all(|(key, value)| demand.labels.get(key) == Some(value))
        });
        let mut requirements: Vec<Requirement> = Vec::new();
        let pairs = of_pod.flat_map(Labels::iter);
        for requirement in pairs.filter_map(|(key, value)| Requirement::new(key, Operator::In(vec![value.into()])).ok())
        {
            if !requirements.contains(&requirement) {
                requirements.push(requirement);
            }
        }
        if let Some((kind, name)) = &demand.owner
            && let Some(selector) = self.workloads.get(&(*kind, demand.namespace.clone(), name.clone()))
        {
            requirements.extend(selector.requirements().iter().cloned());
        }
        let selector = LabelSelector::new(requirements);
        (!selector.is_everything()).then(|| PodMatcher::in_namespace(&demand.namespace, selector))
    }

    /// Begins a decision.
    pub fn begin(&mut self) {
        self.tallies.begin();
    }

    /// The number of a topology label.
    pub fn topology_id(&mut self, key: &str) -> TopologyId {
        let nodes = (0..).zip(&self.nodes).filter(|(_, node)| node.exists).map(|(id, node)| (id, &node.labels));
        self.topologies.find(key, nodes)
    }

    /// The number of a topology label, if it has one already.
    pub fn known_topology(&self, key: &str) -> Option<TopologyId> {
        self.topologies.known(key)
    }

    /// A topology label's values.
    pub fn topology(&self, id: TopologyId) -> &Topology {
        self.topologies.get(id)
    }

    /// The number of the set of pods that all of these mean.
    pub fn tally(&mut self, matchers: &[PodMatcher]) -> TallyId {
        let namespaces = &self.namespaces;
        self.tallies.find(matchers, self.pods.iter().flatten().map(|placed| counted(namespaces, placed)))
    }

    /// Counted pods.
    pub fn tallies(&self) -> &Tallies {
        &self.tallies
    }

    /// The rules of placed pods.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// What of a placed pod is counted.
    pub fn counted<'c>(&'c self, placed: &'c Placed) -> Counted<'c> {
        counted(&self.namespaces, placed)
    }
}

fn counted<'c>(namespaces: &'c HashMap<Box<str>, Labels>, placed: &'c Placed) -> Counted<'c> {
    let demand = &placed.pod.demand;
    Counted {
        namespace: &demand.namespace,
        of_namespace: namespaces.get(&demand.namespace),
        labels: &demand.labels,
        node: placed.node,
        is_terminating: placed.state.is_terminating,
    }
}

/// The rules of a pod that concern pods that come after it.
pub fn rules(demand: &Demand) -> impl Iterator<Item = (RuleKind, &crate::pod::AffinityTerm)> {
    let affinity = &demand.affinity;
    let anti = affinity.required_anti.iter().map(|term| (RuleKind::RequiredAnti, term));
    let required = affinity.required.iter().map(|term| (RuleKind::Weighted(REQUIRED_WEIGHT), term));
    let preferred = affinity.preferred.iter().map(|(weight, term)| (RuleKind::Weighted(*weight), term));
    anti.chain(required).chain(preferred)
}

#[cfg(test)]
mod tests;
