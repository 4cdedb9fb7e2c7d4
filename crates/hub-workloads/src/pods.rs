//! The pods of workloads, as far as decisions need them.
//!
//! A workload of ten thousand pods must not read ten thousand objects because one of them was deleted. So each controller
//! keeps a [`PodTable`]: one small [`Pod`] per pod, brought up to date by each change, found by the uid of its controller.
//! Nothing in it is more than what the reader shows, but for one thing: since when a pod is ready, where its own word for
//! that cannot be right.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use hub_runtime::kinds::Kind;
use hub_runtime::views::{ConditionView, Labels, OwnerReference, Text, condition, nullable, time};
use hub_runtime::{Change, Event, ObjectRef, plausible_since, seen_since};
use jiff::Timestamp;
use serde::Deserialize;

/// Namespace and name.
pub(crate) type Key = (Box<str>, Box<str>);

/// One pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pod {
    pub name: Box<str>,
    pub uid: Box<str>,
    /// Empty while it is not placed.
    pub node: Box<str>,
    pub created: Timestamp,
    pub is_terminating: bool,
    pub phase: Phase,
    /// Since when it is Ready, if it is.
    pub ready_since: Option<Timestamp>,
    pub labels: SharedLabels,
    /// `controller.kubernetes.io/pod-deletion-cost`.
    pub deletion_cost: i32,
    /// Restarts of the container that was restarted most often.
    pub restarts: i64,
}

/// Labels that pods of one template share.
pub(crate) type SharedLabels = Arc<[(Box<str>, Box<str>)]>;

/// `status.phase`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub(crate) enum Phase {
    #[default]
    Pending,
    Unknown,
    Running,
    Succeeded,
    Failed,
}

impl Pod {
    /// Whether it has ended by itself.
    pub fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }

    /// Whether it counts as a replica: it has not ended, and nobody has deleted it.
    pub fn is_active(&self) -> bool {
        !self.is_terminating && !self.has_ended()
    }

    /// Its labels, as selectors read them.
    pub fn labels(&self) -> Labels<'_> {
        as_labels(&self.labels)
    }
}

/// Labels, as selectors read them.
pub(crate) fn as_labels(labels: &SharedLabels) -> Labels<'_> {
    Labels(labels.iter().map(|(key, value)| (Text::from(&**key), Text::from(&**value))).collect())
}

/// What is read of a pod.
#[derive(Default, Deserialize)]
#[serde(default)]
struct PodSeen<'a> {
    #[serde(borrow)]
    metadata: MetaSeen<'a>,
    #[serde(borrow)]
    spec: SpecSeen<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    status: StatusSeen<'a>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct MetaSeen<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    uid: Text<'a>,
    #[serde(borrow)]
    creation_timestamp: Option<Text<'a>>,
    #[serde(borrow)]
    deletion_timestamp: Option<Text<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    labels: Labels<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    annotations: AnnotationsSeen<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    owner_references: Vec<OwnerReference<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AnnotationsSeen<'a> {
    #[serde(rename = "controller.kubernetes.io/pod-deletion-cost", borrow)]
    deletion_cost: Option<Text<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SpecSeen<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    node_name: Text<'a>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct StatusSeen<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    phase: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    conditions: Vec<ConditionView<'a>>,
    #[serde(deserialize_with = "nullable")]
    container_statuses: Vec<ContainerSeen>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerSeen {
    #[serde(deserialize_with = "nullable")]
    restart_count: i64,
}

impl PodSeen<'_> {
    fn controller(&self) -> Option<&OwnerReference<'_>> {
        self.metadata.owner_references.iter().find(|owner| owner.controller)
    }

    /// The pod, with what was known of it before.
    fn pod(&self, object: &ObjectRef, known: Option<&Pod>, now: Timestamp) -> Pod {
        let MetaSeen { uid, creation_timestamp, deletion_timestamp, labels, annotations, .. } = &self.metadata;
        let known = known.filter(|known| *known.uid == **uid);
        let created = creation_timestamp.as_deref().and_then(time).unwrap_or_default();
        let ready = condition(&self.status.conditions, "Ready").filter(|ready| ready.status == "True");
        let ready_since = ready.map(|ready| {
            plausible_since(ready, created, now)
                .unwrap_or_else(|| seen_since(known.and_then(|known| known.ready_since), now))
        });
        let is_same = |known: &&Pod| {
            let held = known.labels.iter().map(|(key, value)| (&**key, &**value));
            held.eq(labels.iter())
        };
        let labels = match known.filter(is_same) {
            Some(known) => known.labels.clone(),
            None => labels.iter().map(|(key, value)| (key.into(), value.into())).collect(),
        };
        Pod {
            name: object.name().into(),
            uid: uid.as_str().into(),
            node: self.spec.node_name.as_str().into(),
            created,
            is_terminating: deletion_timestamp.is_some(),
            phase: match &*self.status.phase {
                "Running" => Phase::Running,
                "Succeeded" => Phase::Succeeded,
                "Failed" => Phase::Failed,
                "Unknown" => Phase::Unknown,
                _ => Phase::Pending,
            },
            ready_since,
            labels,
            deletion_cost: annotations.deletion_cost.as_deref().and_then(|cost| cost.parse().ok()).unwrap_or_default(),
            restarts: self.status.container_statuses.iter().map(|one| one.restart_count).max().unwrap_or_default(),
        }
    }
}

/// Pods with the same labels: how many are what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Group {
    pub pods: usize,
    /// Those that count as replicas, …
    pub active: usize,
    /// … and those of them that are Ready.
    pub ready: usize,
    /// Those on their way out that have not ended.
    pub terminating: usize,
}

impl Group {
    fn of(pod: &Pod) -> Self {
        let is_ready = pod.is_active() && pod.ready_since.is_some();
        Self {
            pods: 1,
            active: usize::from(pod.is_active()),
            ready: usize::from(is_ready),
            terminating: usize::from(pod.is_terminating && !pod.has_ended()),
        }
    }
}

/// Pods by name. They are counted as they come and leave, so that nobody walks over ten thousand to know how many are Ready.
#[derive(Default)]
pub(crate) struct Pods {
    by_name: BTreeMap<Box<str>, Arc<Pod>>,
    groups: BTreeMap<SharedLabels, Group>,
}

impl Pods {
    fn insert(&mut self, mut pod: Pod) -> Arc<Pod> {
        self.remove(&pod.name);
        // Pods of one template hold one copy of its labels.
        if let Some((labels, _)) = self.groups.get_key_value(&pod.labels) {
            pod.labels = labels.clone();
        }
        let one = Group::of(&pod);
        let group = self.groups.entry(pod.labels.clone()).or_default();
        group.pods += one.pods;
        group.active += one.active;
        group.ready += one.ready;
        group.terminating += one.terminating;
        let pod = Arc::new(pod);
        self.by_name.insert(pod.name.clone(), pod.clone());
        pod
    }

    fn remove(&mut self, name: &str) -> Option<Arc<Pod>> {
        let pod = self.by_name.remove(name)?;
        let one = Group::of(&pod);
        if let Some(group) = self.groups.get_mut(&pod.labels) {
            group.pods -= one.pods;
            group.active -= one.active;
            group.ready -= one.ready;
            group.terminating -= one.terminating;
            if group.pods == 0 {
                self.groups.remove(&pod.labels);
            }
        }
        Some(pod)
    }
}

/// The pods that workloads of some kinds control, and those that nobody controls.
pub(crate) struct PodTable {
    /// Kinds of the controllers whose pods are kept.
    kinds: &'static [Kind],
    /// By the uid of the controller.
    controlled: HashMap<Box<str>, Pods>,
    /// By namespace.
    orphans: HashMap<Box<str>, Pods>,
    /// Of the newest event. A reader may show more by now.
    revision: u64,
}

/// Whom a change of a pod concerns.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Concerned {
    /// Controllers of the pod before and after.
    pub controllers: Vec<(Kind, Key)>,
    /// The pod, where nobody controls it: whoever selects it.
    pub orphan: Option<Arc<Pod>>,
}

impl PodTable {
    pub fn new(kinds: &'static [Kind]) -> Self {
        Self { kinds, controlled: HashMap::new(), orphans: HashMap::new(), revision: 0 }
    }

    /// Takes an event of pods in; whom a change concerns. A list concerns all.
    pub fn apply(&mut self, event: &Event, now: Timestamp) -> Concerned {
        let mut concerned = Concerned::default();
        match event {
            Event::Listed(Kind::Pod, objects) => {
                self.revision = objects.iter().map(ObjectRef::revision).fold(self.revision, u64::max);
                let (before, orphans) = (std::mem::take(&mut self.controlled), std::mem::take(&mut self.orphans));
                for object in objects.iter() {
                    self.file(
                        object,
                        |uid, namespace, name| {
                            let pods = uid.map_or_else(|| orphans.get(namespace), |uid| before.get(uid));
                            pods.and_then(|pods| pods.by_name.get(name)).cloned()
                        },
                        now,
                        &mut concerned,
                    );
                }
                concerned = Concerned::default();
            }
            Event::Changed(Change { kind: Kind::Pod, previous, current }) => {
                let versions = previous.iter().chain(current);
                self.revision = versions.map(ObjectRef::revision).fold(self.revision, u64::max);
                let known = previous.as_ref().and_then(|object| self.take_out(object, &mut concerned));
                if let Some(object) = current {
                    self.file(object, |_, _, _| known.clone(), now, &mut concerned);
                }
            }
            _ => {}
        }
        concerned
    }

    /// The revision of the newest event that was taken in.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether the last that was heard of a pod is that it is there and not terminating: one that an owner controls, or has adopted and is not
    /// known to control yet.
    pub fn is_alive(&self, owner: &str, namespace: &str, name: &str, uid: &str) -> bool {
        let of = |pods: Option<&Pods>| {
            let pod = pods.and_then(|pods| pods.by_name.get(name));
            pod.is_some_and(|pod| *pod.uid == *uid && !pod.is_terminating)
        };
        of(self.controlled.get(owner)) || of(self.orphans.get(namespace))
    }

    /// The pods that an owner controls.
    pub fn controlled_by(&self, uid: &str) -> impl Iterator<Item = &Arc<Pod>> {
        self.controlled.get(uid).into_iter().flat_map(|pods| pods.by_name.values())
    }

    /// The same counted, by their labels.
    pub fn groups_of(&self, uid: &str) -> impl Iterator<Item = (&SharedLabels, &Group)> + Clone {
        self.controlled.get(uid).into_iter().flat_map(|pods| &pods.groups)
    }

    /// The pods of a namespace that nobody controls.
    pub fn orphans_in(&self, namespace: &str) -> impl Iterator<Item = &Arc<Pod>> {
        self.orphans.get(namespace).into_iter().flat_map(|pods| pods.by_name.values())
    }

    fn kind_of(&self, owner: &OwnerReference<'_>) -> Option<Kind> {
        let is_kind = |kind: &&Kind| kind.name() == &*owner.kind && is_of_group(kind.api_version(), &owner.api_version);
        self.kinds.iter().find(is_kind).copied()
    }

    fn take_out(&mut self, object: &ObjectRef, concerned: &mut Concerned) -> Option<Arc<Pod>> {
        let seen = object.view_or_log::<PodSeen<'_>>()?;
        let (pods, key) = match seen.controller() {
            Some(owner) => {
                let kind = self.kind_of(owner)?;
                concerned.controllers.push((kind, (object.namespace().into(), owner.name.as_str().into())));
                (&mut self.controlled, &*owner.uid)
            }
            None => (&mut self.orphans, object.namespace()),
        };
        let of_key = pods.get_mut(key)?;
        let known = of_key.remove(object.name());
        if of_key.by_name.is_empty() {
            pods.remove(key);
        }
        known
    }

    fn file(
        &mut self,
        object: &ObjectRef,
        known: impl FnOnce(Option<&str>, &str, &str) -> Option<Arc<Pod>>,
        now: Timestamp,
        concerned: &mut Concerned,
    ) {
        let Some(seen) = object.view_or_log::<PodSeen<'_>>() else { return };
        let owner = seen.controller();
        let kind = match owner.map(|owner| self.kind_of(owner)) {
            Some(None) => return,
            Some(Some(kind)) => Some(kind),
            None => None,
        };
        let known = known(owner.map(|owner| &*owner.uid), object.namespace(), object.name());
        let pod = seen.pod(object, known.as_deref(), now);
        let is_orphan = owner.is_none();
        let pods = match (owner, kind) {
            (Some(owner), Some(kind)) => {
                let key = (kind, (object.namespace().into(), owner.name.as_str().into()));
                if !concerned.controllers.contains(&key) {
                    concerned.controllers.push(key);
                }
                self.controlled.entry(owner.uid.as_str().into()).or_default()
            }
            _ => self.orphans.entry(object.namespace().into()).or_default(),
        };
        let pod = pods.insert(pod);
        if is_orphan {
            concerned.orphan = Some(pod);
        }
    }
}

/// Whether two versions are of one API group: an owner may be named in an older one.
fn is_of_group(one: &str, other: &str) -> bool {
    let group = |version: &str| version.rsplit_once('/').map_or(String::new(), |(group, _)| group.to_owned());
    group(one) == group(other)
}

#[cfg(test)]
mod tests;
