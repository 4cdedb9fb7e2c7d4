//! ReplicaSets and ReplicationControllers: so many pods of one template.
//!
//! ```text
//! pod changed ──controller, or selector in its namespace──┐
//! set changed ────────────────────────────────────────────┴──▶ key: namespace/name of a set
//!
//! reconcile: expectations seen? → claim pods → plan → delete or create in batches → status
//! ```
//!
//! The pods of a set are read once, when they change, kept as a few fields each and counted ([`PodTable`]): one deleted pod costs
//! the same in a set of ten and of ten thousand. Only who adopts, releases or chooses pods to delete walks over them. Pods get names from the API, so nothing but the
//! expectations keeps a set from creating too many: it looks at nothing before the reader shows what it wrote itself.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use hub_runtime::batch::slow_start;
use hub_runtime::events::Recorder;
use hub_runtime::kinds::Kind;
use hub_runtime::rollouts::canary::Canary;
use hub_runtime::rollouts::skipped::{Skip, leaves_out, skip_of};
use hub_runtime::views::{AnyView, LabelSelector, Labels, ObjectMeta, PodView, Text, nullable};
use hub_runtime::writer::{Target, WriteError, Writer};
use hub_runtime::{Context, Event, Expectations, Field, Next, Queue, Reader, ReconcileError, Reconciler};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::UNSEEN_RETRY;
use crate::claim::{self, Claim};
use crate::owner::Owner;
use crate::pods::{Key, Pod, PodTable, as_labels};
use crate::ready::Clock;
use crate::settling::Settling;
use crate::status::{self, Says, Updated};
use crate::template::{self, TemplateView};

mod plan;

use plan::{Counts, Memo, Order, Plan};

/// A change of the wall clock is noticed within this time.
const DEADLINE_MAX: Duration = Duration::from_secs(60);

/// Either kind's controller.
pub(crate) struct ReplicaSets {
    context: Context,
    kind: Kind,
    sources: &'static [Kind],
    name: &'static str,
    expectations: Expectations<Key>,
    pods: Mutex<PodTable>,
    settling: Settling<Key>,
}

/// A set of either kind.
#[derive(Default, Deserialize)]
#[serde(default)]
struct SetView<'a> {
    #[serde(borrow)]
    metadata: ObjectMeta<'a>,
    #[serde(borrow)]
    spec: SetSpecView<'a>,
    #[serde(deserialize_with = "nullable")]
    status: Value,
}

/// What its Deployment's rollout says of its pods.
#[derive(Default, Deserialize)]
#[serde(default)]
struct RolloutView<'a> {
    #[serde(rename = "selvedge.dev/canary-nodes", borrow)]
    placed: Option<Text<'a>>,
    #[serde(rename = "selvedge.dev/yield-nodes", borrow)]
    yields: Option<Text<'a>>,
    #[serde(rename = "selvedge.dev/keep-on-skipped-nodes", borrow)]
    keeps: Option<Text<'a>>,
}

/// A set, as far as the rollout of its Deployment matters.
#[derive(Default, Deserialize)]
#[serde(default)]
struct OfRollout<'a> {
    #[serde(borrow)]
    metadata: OfRolloutMeta<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OfRolloutMeta<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    annotations: RolloutView<'a>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SetSpecView<'a> {
    replicas: Option<i64>,
    #[serde(deserialize_with = "nullable")]
    min_ready_seconds: i64,
    #[serde(borrow)]
    selector: Option<&'a RawValue>,
    #[serde(borrow)]
    template: Option<&'a RawValue>,
}

impl<'a> SetView<'a> {
    /// Whom the set selects; `None` when it selects nobody in particular.
    fn selector(&self, kind: Kind) -> serde_json::Result<Option<LabelSelector<'a>>> {
        let Some(selector) = self.spec.selector else { return Ok(None) };
        let selector = match kind {
            Kind::ReplicationController => of_labels(serde_json::from_str(selector.get())?),
            _ => serde_json::from_str(selector.get())?,
        };
        Ok(Some(selector).filter(|selector| !selector.is_empty()))
    }
}

fn of_labels(labels: Labels<'_>) -> LabelSelector<'_> {
    LabelSelector { match_labels: labels, ..LabelSelector::default() }
}

impl ReplicaSets {
    /// The controller of ReplicaSets.
    pub fn new(context: Context) -> Self {
        const KINDS: &[Kind] = &[Kind::ReplicaSet];
        // Nodes are only read, for sets in the middle of a rollout.
        Self::of(context, Kind::ReplicaSet, KINDS, &[Kind::ReplicaSet, Kind::Pod, Kind::Node], "replicasets")
    }

    /// The controller of ReplicationControllers.
    pub fn controllers(context: Context) -> Self {
        const KINDS: &[Kind] = &[Kind::ReplicationController];
        let sources = &[Kind::ReplicationController, Kind::Pod];
        Self::of(context, Kind::ReplicationController, KINDS, sources, "replicationcontrollers")
    }

    fn of(context: Context, kind: Kind, kinds: &'static [Kind], sources: &'static [Kind], name: &'static str) -> Self {
        let (expectations, pods) = (Expectations::new(Kind::Pod), Mutex::new(PodTable::new(kinds)));
        Self { context, kind, sources, name, expectations, pods, settling: Settling::default() }
    }

    fn reader(&self) -> &dyn Reader {
        &*self.context.reader
    }

    fn recorder(&self) -> &Recorder {
        &self.context.recorder
    }

    /// Adds the sets that would adopt a pod.
    fn observe_orphan(&self, namespace: &str, pod: &Pod, queue: &Queue<Key>) {
        for set in self.reader().list(self.kind, Some(namespace)) {
            let Some(view) = set.view_or_log::<SetView<'_>>() else { continue };
            if let Ok(Some(selector)) = view.selector(self.kind)
                && selector.matches(&pod.labels())
            {
                queue.add((set.namespace().into(), set.name().into()));
            }
        }
    }

    /// The set's pods, after adopting and releasing; `None` when a pod changed under it and must be looked at again.
    async fn claim_pods(
        &self,
        owner: Owner<'_>,
        selector: &LabelSelector<'_>,
    ) -> Result<Option<Vec<Arc<Pod>>>, ReconcileError> {
        let (mut own, mut changes) = (Vec::new(), Vec::new());
        {
            let pods = self.pods.lock();
            let mut matches = Memo::default();
            for pod in pods.controlled_by(&owner.meta.uid) {
                match matches.get(pod, |pod| selector.matches(&pod.labels())) {
                    true => own.push(pod.clone()),
                    false => changes.push((Claim::Release, pod.clone())),
                }
            }
            for pod in pods.orphans_in(&owner.meta.namespace) {
                // What has ended is not worth adopting either.
                if pod.is_active() && selector.matches(&pod.labels()) {
                    changes.push((Claim::Adopt, pod.clone()));
                }
            }
        }
        let mut may_adopt = None;
        for (claim, pod) in changes {
            let Some(object) = self.reader().get(Kind::Pod, &owner.meta.namespace, &pod.name) else { continue };
            let is_done = match claim {
                Claim::Adopt => {
                    let may = match may_adopt {
                        Some(may) => may,
                        None => *may_adopt.insert(claim::may_adopt(owner, &self.context.writer).await?),
                    };
                    if !may {
                        continue;
                    }
                    own.push(pod);
                    claim::adopt(owner, Kind::Pod, &object, &self.context.writer).await?
                }
                _ => claim::release(owner, Kind::Pod, &object, &self.context.writer).await?,
            };
            if !is_done {
                return Ok(None);
            }
        }
        Ok(Some(own))
    }

    /// The plan where counts alone say it: nobody is to be adopted or released, and a pod that is Ready is available. What a rollout says
    /// of nodes decides which pods are deleted, never how many there are: it matters where this says `None`.
    fn plan_by_counts(
        &self,
        set: &SetView<'_>,
        selector: &LabelSelector<'_>,
        template_labels: &LabelSelector<'_>,
    ) -> Option<Plan> {
        if set.metadata.is_terminating() || set.spec.min_ready_seconds > 0 {
            return None;
        }
        let pods = self.pods.lock();
        let adopts = |pod: &Arc<Pod>| pod.is_active() && selector.matches(&pod.labels());
        let groups = pods.groups_of(&set.metadata.uid);
        if pods.orphans_in(&set.metadata.namespace).any(adopts)
            || groups.clone().any(|(labels, _)| !selector.matches(&as_labels(labels)))
        {
            return None;
        }
        plan::by_counts(set.spec.replicas.unwrap_or(1), template_labels, groups)
    }

    /// Active pods by node of the set and of the other sets of its owner: a Deployment in the middle of a rollout has several.
    fn count_on_nodes(&self, set: &ObjectMeta<'_>, own: &[Arc<Pod>]) -> HashMap<Box<str>, usize> {
        let mut on_node: HashMap<Box<str>, usize> = HashMap::new();
        let mut count = |pod: &Arc<Pod>| {
            if pod.is_active() && !pod.node.is_empty() {
                *on_node.entry(pod.node.clone()).or_default() += 1;
            }
        };
        own.iter().for_each(&mut count);
        let Some(owner) = set.controller() else { return on_node };
        let related = self.reader().by_field(self.kind, Field::OwnerUid, &owner.uid);
        let pods = self.pods.lock();
        for related in related.iter().filter(|related| related.name() != &*set.name) {
            let Some(view) = related.view_or_log::<AnyView<'_>>() else { continue };
            pods.controlled_by(&view.metadata.uid).for_each(&mut count);
        }
        on_node
    }

    /// Which of the pods are deleted first and last while the set's Deployment moves to another one.
    fn order_of(&self, rollout: &RolloutView<'_>, namespace: &str, pods: &[Arc<Pod>]) -> Order {
        let mut order = Order::default();
        let yields = rollout.yields.as_deref().and_then(|nodes| Canary::nodes(nodes).ok());
        let keeps = rollout.keeps.as_deref() == Some("true");
        if yields.is_none() && !keeps {
            return order;
        }
        let nodes: HashSet<&str> = pods.iter().map(|pod| &*pod.node).filter(|node| !node.is_empty()).collect();
        for name in nodes {
            let Some(node) = self.reader().get(Kind::Node, "", name) else { continue };
            let Some(view) = node.view_or_log::<AnyView<'_>>() else { continue };
            if let Some(skip) = skip_of(&node).filter(|_| keeps) {
                let is_left_out = |pod: &&Arc<Pod>| *pod.node == *name && self.is_left_out(skip, namespace, &pod.name);
                order.last.extend(pods.iter().filter(is_left_out).map(|pod| pod.name.clone()));
            }
            if yields.as_ref().is_some_and(|canary| canary.matches(&view.metadata.labels)) {
                order.first.insert(name.into());
            }
        }
        order
    }

    fn is_left_out(&self, skip: Skip, namespace: &str, pod: &str) -> bool {
        let object = self.reader().get(Kind::Pod, namespace, pod);
        object.is_some_and(|object| object.view_or_log::<PodView<'_>>().is_some_and(|view| leaves_out(skip, &view)))
    }

    async fn delete(&self, key: &Key, owner: Owner<'_>, pods: Vec<Arc<Pod>>) -> Result<Next, WriteError> {
        let (writer, namespace): (&Writer, Arc<str>) = (&self.context.writer, owner.meta.namespace.as_str().into());
        let deleted = slow_start(pods, |pod| {
            let (writer, namespace) = (writer.clone(), namespace.clone());
            async move {
                let target = Target { namespace: &namespace, name: &pod.name, uid: &pod.uid };
                writer.delete_target(Kind::Pod, target, None, None).await.map(|is_deleted| (pod, is_deleted))
            }
        })
        .await;
        let mut next = Next::OnChange;
        for (pod, is_deleted) in deleted.done {
            if is_deleted {
                self.expectations.deleted(key, &namespace, &pod.name, &pod.uid);
                let message = format!("Deleted pod: {}", pod.name);
                self.recorder().normal(self.kind, owner.target(), "SuccessfulDelete", message);
            } else {
                // Deleted by somebody else, or met by another write: nothing is to be expected of it.
                next = Next::After(UNSEEN_RETRY);
            }
        }
        let Some(error) = deleted.error else { return Ok(next) };
        let message = format!("Error deleting: {}", error.reason());
        self.recorder().warning(self.kind, owner.target(), "FailedDelete", message);
        Err(error)
    }

    async fn create(&self, key: &Key, owner: Owner<'_>, pod: Vec<u8>, number: usize) -> Result<Next, WriteError> {
        let (writer, namespace): (&Writer, Arc<str>) = (&self.context.writer, owner.meta.namespace.as_str().into());
        let (pod, name): (Arc<[u8]>, Arc<str>) = (pod.into(), owner.meta.name.as_str().into());
        let created = slow_start(vec![(); number], |()| {
            let (writer, namespace, pod, name) = (writer.clone(), namespace.clone(), pod.clone(), name.clone());
            async move { writer.create_encoded(Kind::Pod, &namespace, &name, pod.to_vec()).await }
        })
        .await;
        let mut next = Next::OnChange;
        for created in created.done {
            match created {
                Some(created) => {
                    self.expectations.wrote(key, created.revision());
                    let message = format!("Created pod: {}", created.name);
                    self.recorder().normal(self.kind, owner.target(), "SuccessfulCreate", message);
                }
                // The name that was drawn is taken.
                None => next = Next::After(UNSEEN_RETRY),
            }
        }
        let Some(error) = created.error else { return Ok(next) };
        // A namespace that is being deleted takes the set along.
        if error.is_namespace_terminating() {
            return Ok(next);
        }
        let message = format!("Error creating: {}", error.reason());
        self.recorder().warning(self.kind, owner.target(), "FailedCreate", message);
        Err(error)
    }

    /// Writes the status, or says when: what follows from one change is one write.
    async fn write_status(
        &self,
        key: &Key,
        set: &SetView<'_>,
        counts: Counts,
        failure: Option<Failure>,
    ) -> Result<Next, WriteError> {
        let mut conditions = set.status["conditions"].as_array().cloned().unwrap_or_default();
        match &failure {
            // Upstream leaves the condition as it is while anything fails.
            Some(_) if status::find(&conditions, "ReplicaFailure").is_some() => {}
            Some(Failure { reason, message }) => {
                let says = Says { r#type: "ReplicaFailure", status: "True", reason, message };
                status::set(&mut conditions, says, Updated::Absent, self.context.clock.now());
            }
            None => status::remove(&mut conditions, "ReplicaFailure"),
        }
        let mut desired = json!({
            "observedGeneration": set.metadata.generation,
            "replicas": counts.replicas,
            "fullyLabeledReplicas": counts.fully_labeled,
            "readyReplicas": counts.ready,
            "availableReplicas": counts.available,
            "conditions": conditions,
        });
        // A ReplicationController does not count them.
        if self.kind == Kind::ReplicaSet {
            desired["terminatingReplicas"] = counts.terminating.into();
        }
        let is_counted = self.kind != Kind::ReplicaSet || set.status["terminatingReplicas"].is_i64();
        if is_counted && status::is_same(&set.status, &desired) {
            self.settling.forget(key);
            return Ok(Next::OnChange);
        }
        if failure.is_none()
            && let Some(left) = self.settling.left(key)
        {
            return Ok(Next::After(left));
        }
        let target = Owner::new(self.kind, &set.metadata).target();
        self.context.writer.merge_status_of(self.kind, target, &desired).await.map(|_| Next::OnChange)
    }
}

/// Why pods could not be created or deleted.
struct Failure {
    reason: &'static str,
    message: String,
}

impl Reconciler for ReplicaSets {
    type Key = Key;

    fn name(&self) -> &'static str {
        self.name
    }

    fn sources(&self) -> &'static [Kind] {
        self.sources
    }

    fn observe(&self, event: &Event, queue: &Queue<Key>) {
        let concerned = self.pods.lock().apply(event, self.context.clock.now());
        concerned.controllers.into_iter().for_each(|(_, key)| queue.add(key));
        match event {
            Event::Changed(change) if change.kind == Kind::Node => {}
            Event::Listed(..) => {
                for set in self.reader().list(self.kind, None) {
                    queue.add((set.namespace().into(), set.name().into()));
                }
            }
            Event::Changed(change) if change.kind == self.kind => {
                let set = change.newest();
                queue.add((set.namespace().into(), set.name().into()));
            }
            Event::Changed(change) => {
                if let Some(pod) = concerned.orphan {
                    self.observe_orphan(change.newest().namespace(), &pod, queue);
                }
            }
        }
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, ReconcileError> {
        let Some(object) = self.reader().get(self.kind, &key.0, &key.1) else {
            self.expectations.forget(key);
            self.settling.forget(key);
            return Ok(Next::OnChange);
        };
        let set: SetView<'_> = object.view()?;
        // What is counted below are the events' pods: a store in this process shows a new pod before its event comes.
        let are_observed = {
            let pods = self.pods.lock();
            let is_alive =
                |namespace: &str, name: &str, uid: &str| pods.is_alive(&set.metadata.uid, namespace, name, uid);
            self.expectations.are_observed(key, pods.revision(), is_alive)
        };
        if !are_observed {
            return Ok(Next::After(UNSEEN_RETRY));
        }
        let owner = Owner::new(self.kind, &set.metadata);
        let unreadable = |error: serde_json::Error| ReconcileError::Rejected(format!("it cannot be read: {error}"));
        let Some(selector) = set.selector(self.kind).map_err(unreadable)? else { return Ok(Next::OnChange) };
        let template = TemplateView::read(set.spec.template).map_err(unreadable)?;
        let is_terminating = set.metadata.is_terminating();
        let OfRollout { metadata: OfRolloutMeta { annotations: rollout } } = object.view()?;
        let (replicas, labels) = (set.spec.replicas.unwrap_or(1), of_labels(template.labels().clone()));
        let Plan { create, delete, counts, available_after } = match self.plan_by_counts(&set, &selector, &labels) {
            Some(plan) => plan,
            None => {
                // One on its way out keeps what it has for those who orphan its pods, and takes nothing more.
                let pods = if is_terminating {
                    self.pods.lock().controlled_by(&set.metadata.uid).cloned().collect()
                } else {
                    let Some(pods) = self.claim_pods(owner, &selector).await? else {
                        return Ok(Next::After(UNSEEN_RETRY));
                    };
                    pods
                };
                let clock = Clock::new(self.context.clock.now(), set.spec.min_ready_seconds);
                let on_node = || self.count_on_nodes(&set.metadata, &pods);
                let order = || self.order_of(&rollout, &set.metadata.namespace, &pods);
                plan::plan(replicas, &labels, &pods, on_node, order, clock)
            }
        };
        let next = available_after
            .map_or(Next::OnChange, |left| Next::After(left.clamp(Duration::from_millis(100), DEADLINE_MAX)));
        let is_creating = create > 0;
        let managed = match (is_terminating, delete.is_empty()) {
            (true, _) => Ok(Next::OnChange),
            (false, false) => self.delete(key, owner, delete).await,
            (false, true) if is_creating => {
                let mut pod = template::alike(owner, set.spec.template).map_err(unreadable)?;
                if let Some(nodes) = rollout.placed.as_deref() {
                    let canary = Canary::nodes(nodes).map_err(ReconcileError::Rejected)?;
                    let mut confined: Value = serde_json::from_slice(&pod).map_err(unreadable)?;
                    canary.confine(&mut confined["spec"]);
                    pod = confined.to_string().into_bytes();
                }
                self.create(key, owner, pod, create).await
            }
            (false, true) => Ok(Next::OnChange),
        };
        let failure = managed.as_ref().err().map(|error| Failure {
            reason: if is_creating { "FailedCreate" } else { "FailedDelete" },
            message: error.reason(),
        });
        // The status is true whatever became of the pods.
        let settled = self.write_status(key, &set, counts, failure).await?;
        Ok(next.or(managed?).or(settled))
    }
}
