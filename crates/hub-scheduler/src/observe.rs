//! What a change of the API means for the snapshot and for the pods that wait.

use std::sync::Arc;

use api_kube::LabelSelectorSpec;
use hub_runtime::kinds::Kind;
use hub_runtime::views::{AnyView, Labels as LabelsView};
use hub_runtime::{Event, ObjectRef};
use serde::Deserialize;
use tokio::time::Instant;
use tracing::warn;

use crate::cluster::{Budget, Cluster, Placed, PlacedState};
use crate::decide::Nominations;
use crate::hints::{Change, NodeChange};
use crate::node::Offer;
use crate::pod::views::nullable;
use crate::pod::{Pod, Seen, WorkloadKind};
use crate::queue::{Queue, QueueId};
use crate::terms::Labels;
use crate::{node, pod, volumes};

/// Everything that the scheduler knows.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub cluster: Cluster,
    pub queue: Queue,
    pub nominations: Nominations,
    /// Pods with gates that do not say so yet.
    pub gated: Vec<QueueId>,
}

impl Model {
    /// Takes an event in.
    pub fn observe(&mut self, event: &Event, now: Instant) {
        match event {
            Event::Changed(change) => match &change.current {
                Some(object) => self.set(change.kind, object, now),
                None => {
                    let object = change.newest();
                    self.remove(change.kind, object.namespace(), object.name(), now);
                }
            },
            Event::Listed(kind, objects) => {
                let listed: std::collections::HashSet<(&str, &str)> =
                    objects.iter().map(|object| (object.namespace(), object.name())).collect();
                let known = self.known(*kind).into_iter();
                let missing: Vec<_> = known.filter(|(namespace, name)| !listed.contains(&(namespace, name))).collect();
                missing.iter().for_each(|(namespace, name)| self.remove(*kind, namespace, name, now));
                objects.iter().for_each(|object| self.set(*kind, object, now));
            }
        }
    }

    /// The objects of a kind that are known, for when a whole list comes.
    fn known(&self, kind: Kind) -> Vec<(String, String)> {
        let pair = |namespace: &str, name: &str| (namespace.to_owned(), name.to_owned());
        let of = |kind| self.cluster.workload_names(kind).map(|(namespace, name)| pair(namespace, name)).collect();
        let volumes = &self.cluster.volumes;
        match kind {
            Kind::Node => self.cluster.existing().map(|(_, node)| pair("", &node.name)).collect(),
            Kind::Pod => {
                let placed = self.cluster.all_placed().map(|placed| &placed.pod);
                let waiting = self.queue.all().map(|waiting| &*waiting.pod);
                placed.chain(waiting).map(|pod| pair(pod.namespace(), &pod.name)).collect()
            }
            Kind::Namespace => self.cluster.namespace_names().map(|name| pair("", name)).collect(),
            Kind::PersistentVolumeClaim => volumes
                .claims
                .iter()
                .flat_map(|(namespace, of)| of.keys().map(move |name| pair(namespace, name)))
                .collect(),
            Kind::PersistentVolume => volumes.volumes.keys().map(|name| pair("", name)).collect(),
            Kind::StorageClass => volumes.classes.keys().map(|name| pair("", name)).collect(),
            Kind::PodDisruptionBudget => {
                self.cluster.budgets.keys().map(|(namespace, name)| pair(namespace, name)).collect()
            }
            Kind::Service => self.cluster.service_names().map(|(namespace, name)| pair(namespace, name)).collect(),
            Kind::ReplicationController => of(WorkloadKind::ReplicationController),
            Kind::ReplicaSet => of(WorkloadKind::ReplicaSet),
            Kind::StatefulSet => of(WorkloadKind::StatefulSet),
            _ => Vec::new(),
        }
    }

    /// An object exists, and is this.
    fn set(&mut self, kind: Kind, object: &ObjectRef, now: Instant) {
        let (namespace, name) = (object.namespace(), object.name());
        match kind {
            Kind::Pod => match pod::parse(object.bytes()) {
                Ok((pod, seen)) => self.set_pod(pod, seen, now),
                Err(error) => {
                    let error = base_observe::Chain(&error);
                    warn!(pod = %format!("{namespace}/{name}"), %error, "Left out a pod that does not read as one.");
                    self.remove_pod(namespace, name, now);
                }
            },
            Kind::Node => {
                let offer = node::parse(object.bytes());
                self.keep(kind, object, offer, |model, offer| model.set_node(name, offer, now));
            }
            Kind::Namespace => {
                let labels = object.view::<AnyView<'_>>().map(|view| Labels::new(view.metadata.labels.iter()));
                self.keep(kind, object, labels, |model, labels| {
                    if model.cluster.namespace(name) != Some(&labels) {
                        model.cluster.set_namespace(name, Some(labels));
                        model.wake(Change::Namespace, now);
                    }
                });
            }
            Kind::PersistentVolumeClaim => {
                let claim = volumes::parse_claim(object.bytes());
                self.keep(kind, object, claim, |model, claim| {
                    let of_namespace = model.cluster.volumes.claims.entry(namespace.into()).or_default();
                    of_namespace.insert(name.into(), claim);
                    model.cluster.touch();
                    model.wake(Change::Claim(namespace, name), now);
                });
            }
            Kind::PersistentVolume => {
                let volume = volumes::parse_volume(object.bytes());
                self.keep(kind, object, volume, |model, volume| {
                    model.cluster.volumes.volumes.insert(name.into(), volume);
                    model.cluster.touch();
                    model.wake(Change::Storage, now);
                });
            }
            Kind::StorageClass => {
                let class = volumes::parse_class(object.bytes());
                self.keep(kind, object, class, |model, class| {
                    model.cluster.volumes.classes.insert(name.into(), class);
                    model.cluster.touch();
                    model.wake(Change::Storage, now);
                });
            }
            Kind::PodDisruptionBudget => {
                let budget = parse_budget(object.bytes());
                self.keep(kind, object, budget, |model, budget| {
                    model.cluster.budgets.insert((namespace.into(), name.into()), budget);
                    model.cluster.touch();
                });
            }
            Kind::Service | Kind::ReplicationController => {
                let selector = object.view::<SelectorView<'_>>().map(|view| Labels::new(view.spec.selector.iter()));
                self.keep(kind, object, selector, |model, selector| match kind {
                    Kind::Service => model.cluster.set_service(namespace, name, Some(selector)),
                    _ => {
                        let match_labels = selector.iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
                        let spec = LabelSelectorSpec { match_labels: match_labels.collect(), ..Default::default() };
                        let kind = WorkloadKind::ReplicationController;
                        model.cluster.set_workload(kind, namespace, name, spec.to_selector().ok());
                    }
                });
            }
            Kind::ReplicaSet | Kind::StatefulSet => {
                let kind_of =
                    if kind == Kind::ReplicaSet { WorkloadKind::ReplicaSet } else { WorkloadKind::StatefulSet };
                let view = object.view::<WorkloadView>();
                self.keep(kind, object, view, |model, view| {
                    let selector = view.spec.selector.to_selector().ok();
                    model.cluster.set_workload(kind_of, namespace, name, selector);
                });
            }
            _ => {}
        }
    }

    /// Keeps what was read, or forgets the object when it does not read as one.
    fn keep<T, E: std::error::Error>(
        &mut self,
        kind: Kind,
        object: &ObjectRef,
        read: Result<T, E>,
        keep: impl FnOnce(&mut Self, T),
    ) {
        match read {
            Ok(read) => keep(self, read),
            Err(error) => {
                let (error, name) = (base_observe::Chain(&error), object.name());
                warn!(kind = kind.name(), name, %error, "Left out an object that does not read as its kind.");
                self.remove(kind, object.namespace(), name, Instant::now());
            }
        }
    }

    fn remove(&mut self, kind: Kind, namespace: &str, name: &str, now: Instant) {
        let cluster = &mut self.cluster;
        match kind {
            Kind::Pod => self.remove_pod(namespace, name, now),
            Kind::Node => {
                cluster.remove_node(name);
                self.wake(Change::NodeRemoved, now);
            }
            Kind::Namespace => {
                cluster.set_namespace(name, None);
                self.wake(Change::Namespace, now);
            }
            Kind::PersistentVolumeClaim => {
                if let Some(of_namespace) = cluster.volumes.claims.get_mut(namespace) {
                    of_namespace.remove(name);
                    if of_namespace.is_empty() {
                        cluster.volumes.claims.remove(namespace);
                    }
                }
            }
            Kind::PersistentVolume => {
                let removed = cluster.volumes.volumes.remove(name);
                if removed.is_some_and(|volume| volume.directory_of.is_some()) {
                    cluster.touch();
                    // Its node has space again.
                    self.wake(Change::Storage, now);
                    return;
                }
            }
            Kind::StorageClass => drop(cluster.volumes.classes.remove(name)),
            Kind::PodDisruptionBudget => drop(cluster.budgets.remove(&(namespace.into(), name.into()))),
            Kind::Service => cluster.set_service(namespace, name, None),
            Kind::ReplicationController => {
                cluster.set_workload(WorkloadKind::ReplicationController, namespace, name, None);
            }
            Kind::ReplicaSet => cluster.set_workload(WorkloadKind::ReplicaSet, namespace, name, None),
            Kind::StatefulSet => cluster.set_workload(WorkloadKind::StatefulSet, namespace, name, None),
            _ => {}
        }
        self.cluster.touch();
    }

    fn set_node(&mut self, name: &str, offer: Offer, now: Instant) {
        let what = self.cluster.node_change(name, &offer);
        let id = self.cluster.set_node(name, offer);
        if !what.is_empty() {
            self.wake(Change::Node(id, what), now);
        }
    }

    fn set_pod(&mut self, pod: Pod, seen: Seen, now: Instant) {
        let (namespace, name) = (pod.demand.namespace.clone(), pod.name.clone());
        let held = self.cluster.find_placed(&namespace, &name);
        let is_held = held.is_some_and(|held| held.pod.uid == pod.uid);
        let is_other_held = held.is_some() && !is_held;
        if seen.has_ended {
            return self.remove_pod(&namespace, &name, now);
        }
        if let Some(node) = &seen.node {
            if let Some(waiting) = self.queue.remove(&namespace, &name) {
                self.nominations.set(&waiting.pod, None);
            }
            let state = PlacedState {
                is_assumed: false,
                is_terminating: seen.is_terminating,
                is_preempted: seen.is_preempted,
                started: seen.started,
            };
            return self.set_placed(pod, node, state, now);
        }
        if is_held && !seen.is_terminating {
            // Its binding is under way.
            return;
        }
        if seen.is_terminating || !seen.is_ours {
            return self.remove_pod(&namespace, &name, now);
        }
        if is_other_held {
            self.remove_pod(&namespace, &name, now);
        }
        let pod = Arc::new(self.cluster.share(pod));
        let known = self.queue.find(&namespace, &name).and_then(|id| self.queue.get(id));
        let known = known.filter(|known| known.pod.uid == pod.uid).and_then(|known| known.nominated.clone());
        let nominated = seen.nominated.or(known);
        self.nominations.set(&pod, nominated.as_deref());
        let is_gated = !seen.gates.is_empty();
        let says_so = seen.unscheduled.as_ref().is_some_and(|(reason, _)| &**reason == GATED_REASON);
        let id = self.queue.add(pod, seen.unscheduled, nominated, is_gated, now);
        if is_gated && !says_so {
            self.gated.push(id);
        }
    }

    fn set_placed(&mut self, pod: Pod, node: &str, state: PlacedState, now: Instant) {
        let (namespace, name) = (pod.demand.namespace.clone(), pod.name.clone());
        if let Some(held) = self.cluster.find_placed(&namespace, &name) {
            let is_there = *self.cluster.node(held.node).name == *node;
            let is_same = is_there && held.pod == pod;
            if is_same && held.state == state {
                return;
            }
            let of_assumed = PlacedState { is_assumed: true, ..PlacedState::new_pod() };
            if is_same && held.state == of_assumed && state == PlacedState::new_pod() {
                self.cluster.confirm(&namespace, &name);
                return;
            }
            let before = self.cluster.remove_pod(&namespace, &name);
            let id = self.cluster.place(pod, node, state);
            // It may need less, have other labels or count no more.
            let Some(before) = before else { return };
            self.queue.wake(&self.cluster, Change::PodFreed(&before), now);
            if let Some(placed) = self.cluster.placed(id) {
                self.queue.wake(&self.cluster, Change::PodPlaced(placed), now);
            }
            return;
        }
        let id = self.cluster.place(pod, node, state);
        if let Some(placed) = self.cluster.placed(id) {
            self.queue.wake(&self.cluster, Change::PodPlaced(placed), now);
        }
    }

    /// A pod needs no node any more, and holds none.
    pub fn remove_pod(&mut self, namespace: &str, name: &str, now: Instant) {
        if let Some(waiting) = self.queue.remove(namespace, name) {
            self.nominations.set(&waiting.pod, None);
        }
        self.free(namespace, name, now);
    }

    /// A pod holds no node any more.
    pub fn free(&mut self, namespace: &str, name: &str, now: Instant) -> Option<Placed> {
        let placed = self.cluster.remove_pod(namespace, name)?;
        self.queue.wake(&self.cluster, Change::PodFreed(&placed), now);
        Some(placed)
    }

    fn wake(&mut self, change: Change<'_>, now: Instant) {
        self.queue.wake(&self.cluster, change, now);
    }
}

/// `reason` of the condition of a pod with gates.
pub(crate) const GATED_REASON: &str = "SchedulingGated";

impl Cluster {
    /// What an offer changes of a node.
    pub(crate) fn node_change(&self, name: &str, offer: &Offer) -> NodeChange {
        let Some(node) = self.node_id(name).map(|id| self.node(id)).filter(|node| node.exists) else {
            return NodeChange { is_new: true, ..NodeChange::default() };
        };
        let (before, after) = (&node.allocatable, &offer.allocatable);
        let more_scalars = after.scalars.iter().any(|(name, amount)| *amount > before.scalar(name));
        NodeChange {
            is_new: false,
            offers_more: after.cpu > before.cpu
                || after.memory > before.memory
                || after.storage > before.storage
                || offer.pods > node.pods_max
                || more_scalars,
            offers_more_disk: after.storage > before.storage || (offer.offers_directories && !node.offers_directories),
            labels: node.labels != offer.labels,
            taints: node.taints != offer.taints,
            opened: node.is_unschedulable && !offer.is_unschedulable,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SelectorView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    spec: SelectorSpecView<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SelectorSpecView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    selector: LabelsView<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WorkloadView {
    spec: WorkloadSpecView,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WorkloadSpecView {
    #[serde(deserialize_with = "nullable")]
    selector: LabelSelectorSpec,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct BudgetView<'a> {
    spec: BudgetSpecView,
    #[serde(borrow, deserialize_with = "nullable")]
    status: BudgetStatusView<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct BudgetSpecView {
    selector: Option<LabelSelectorSpec>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct BudgetStatusView<'a> {
    #[serde(deserialize_with = "nullable")]
    disruptions_allowed: i64,
    #[serde(borrow, deserialize_with = "nullable")]
    disrupted_pods: LabelsView<'a>,
}

fn parse_budget(json: &[u8]) -> Result<Budget, pod::ParsePodError> {
    let view: BudgetView<'_> = serde_json::from_slice(json)?;
    let selector = match &view.spec.selector {
        None => api_kube::LabelSelector::nothing(),
        Some(spec) => spec.to_selector()?,
    };
    let disrupted = view.status.disrupted_pods.iter().map(|(name, _)| name.into()).collect();
    Ok(Budget { selector, allowed: view.status.disruptions_allowed, disrupted })
}
