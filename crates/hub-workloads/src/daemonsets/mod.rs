//! DaemonSets: one pod on each node that the template fits, as labels come and go.
//!
//! There is no scheduler in between: the controller sets `spec.nodeName`, which is what makes an edge node independent of
//! anything but its own pods. A pod's name is a function of DaemonSet, revision and node, so a controller that acts
//! twice on an old view, or is restarted in between, creates nothing twice. A pod that replaces another of its revision has its
//! name therefore, as a StatefulSet's does, and another uid.
//!
//! ```text
//! pod changed ──owner, or selector in its namespace──┐
//! node changed ──sets for which its fit changed──────┼──▶ key: namespace/name of a set
//! set or revision changed ───────────────────────────┘
//!
//! reconcile: claim pods → keep the template's revision → plan → delete, create in batches → status
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

use hub_runtime::batch::slow_start;
use hub_runtime::kinds::Kind;
use hub_runtime::rollouts::canary::with_canary;
use hub_runtime::rollouts::skipped::{SkippedNodes, with_skipped};
use hub_runtime::selector::Fit;
use hub_runtime::views::{AnyView, DaemonSetStatusView, DaemonSetView, NodeView, PodView, condition};
use hub_runtime::writer::{Created, Target, WriteError, Writer};
use hub_runtime::{Context, Event, Expectations, Field, Next, ObjectRef, Queue, Reader, ReconcileError, Reconciler};

mod plan;
mod rollout;
mod template;

use crate::UNSEEN_RETRY;
use crate::claim::{self, Claim};
use crate::failures::Failures;
use crate::history::{self, Kept};
use crate::orphans::Orphans;
use crate::owner::Owner;
use crate::ready::{Clock, SeenReady};
use plan::{Counts, Phase, Plan, Pod, Strategy};
use rollout::Known;
use template::{PodFactory, REVISION_LABEL, TemplateView};

/// A set that creates more gives its worker back in between, so that others have their turn.
const CREATES_PER_RUN: usize = 1000;
/// A name that a pod on its way out still has is free in its own time.
const NAME_TAKEN_RETRY: Duration = Duration::from_secs(2);
/// A change of the wall clock is noticed within this time.
const DEADLINE_MAX: Duration = Duration::from_secs(60);
/// The generation of a set that is to be remembered anew.
const UNKNOWN: i64 = -1;
/// Changes of revisions that were written by hand; more are looked at with the set's next change.
const TAKEN_NAMES_MAX: usize = 10;

/// Namespace and name of a set.
type Key = (Box<str>, Box<str>);

/// The controller.
pub(crate) struct DaemonSets {
    context: Context,
    expectations: Expectations<Key>,
    memory: Mutex<Memory>,
    /// Nodes that rollouts leave out.
    skipped: SkippedNodes,
}

/// What is remembered between runs. All of it can be lost: it only saves work, or waits.
#[derive(Default)]
struct Memory {
    sets: HashMap<Key, SetMemory>,
    /// Pods whom a set may adopt.
    orphans: Orphans,
}

struct SetMemory {
    uid: String,
    generation: i64,
    collisions: i64,
    /// Nodes on which its pods may be; none of those that they should leave.
    nodes: BTreeMap<Box<str>, Fit>,
    /// Under which hash its template is kept, once that is known.
    hash: Option<String>,
    /// By node.
    failures: Failures<String>,
    seen_ready: SeenReady,
}

/// A pod that could not be created because its name is taken.
struct Taken {
    name: String,
    /// The node that the name is for.
    node: String,
}

impl DaemonSets {
    pub fn new(context: Context) -> Self {
        let expectations = Expectations::new(Kind::Pod);
        Self { context, expectations, memory: Mutex::default(), skipped: SkippedNodes::default() }
    }

    fn reader(&self) -> &dyn Reader {
        &*self.context.reader
    }

    /// A node changed: brings the sets' maps of nodes up to date, and finds those for which it matters.
    fn observe_node(&self, name: &str, is_new: bool, is_skip_new: bool, queue: &Queue<Key>) {
        let reader = self.reader();
        let node = reader.get(Kind::Node, "", name);
        // A node that was deleted left its pods behind. What comes back under its name may be one that they should leave.
        let left = if is_new { reader.by_field(Kind::Pod, Field::NodeName, name) } else { Vec::new() };
        left.iter().for_each(|pod| self.observe_pod(pod, false, queue));
        let mut memory = self.memory.lock();
        for (key, set) in &mut memory.sets {
            if is_skip_new && set.nodes.contains_key(name) {
                queue.add(key.clone());
            }
            let Some(object) = reader.get(Kind::DaemonSet, &key.0, &key.1) else { continue };
            let Some(found) = object.view_or_log::<DaemonSetView<'_>>() else { continue };
            // A set that changed makes its map anew when it is reconciled.
            if *found.metadata.uid != *set.uid || found.metadata.generation != set.generation {
                continue;
            }
            let Ok(template) = TemplateView::read(found.spec.template) else { continue };
            let fit = match (fit_on(&template, node.as_ref()), &node) {
                (Some(fit), _) => fit,
                (None, None) => Fit::Leave,
                // It was a node, and is one again once somebody corrects it.
                (None, Some(_)) => continue,
            };
            let before = match fit {
                Fit::Leave => set.nodes.remove(name),
                _ => set.nodes.insert(name.into(), fit),
            };
            if before.unwrap_or(Fit::Leave) != fit {
                queue.add(key.clone());
            }
        }
    }

    fn observe_pod(&self, object: &ObjectRef, is_current: bool, queue: &Queue<Key>) {
        let Some(pod) = object.view_or_log::<PodView<'_>>() else { return };
        match pod.metadata.controller() {
            Some(owner) if &*owner.kind == "DaemonSet" => {
                queue.add((object.namespace().into(), owner.name.as_str().into()));
            }
            Some(_) => {}
            None if is_current => {
                for set in self.reader().list(Kind::DaemonSet, Some(object.namespace())) {
                    let Some(view) = set.view_or_log::<DaemonSetView<'_>>() else { continue };
                    if view.spec.selector.is_some_and(|selector| selector.matches(&pod.metadata.labels)) {
                        queue.add((set.namespace().into(), set.name().into()));
                    }
                }
            }
            None => {}
        }
    }

    /// Makes sure that the set is remembered as it is now, with the nodes it fits on.
    fn remember(&self, key: &Key, set: &DaemonSetView<'_>, template: &TemplateView<'_>) {
        let mut memory = self.memory.lock();
        let held = memory.sets.get(key);
        let is_same = held.is_some_and(|held| {
            *held.uid == *set.metadata.uid
                && held.generation == set.metadata.generation
                && held.collisions == set.status.collision_count.unwrap_or_default()
        });
        if is_same {
            return;
        }
        let (failures, seen_ready) = match memory.sets.remove(key).filter(|held| *held.uid == *set.metadata.uid) {
            Some(held) => (held.failures, held.seen_ready),
            None => Default::default(),
        };
        // Listed under the lock: a change of a node waits for it, and finds the set here.
        let mut nodes = BTreeMap::new();
        for node in self.reader().list(Kind::Node, None) {
            if let Some(fit) = fit_on(template, Some(&node)).filter(|fit| *fit != Fit::Leave) {
                nodes.insert(node.name().into(), fit);
            }
        }
        let fresh = SetMemory {
            uid: set.metadata.uid.to_string(),
            generation: set.metadata.generation,
            collisions: set.status.collision_count.unwrap_or_default(),
            nodes,
            hash: None,
            failures,
            seen_ready,
        };
        memory.sets.insert(key.clone(), fresh);
    }

    /// The set's pods, after adopting and releasing; `None` when a pod changed under it and must be looked at again.
    async fn claim_pods(&self, set: &DaemonSetView<'_>) -> Result<Option<Vec<ObjectRef>>, ReconcileError> {
        let (reader, meta) = (self.reader(), &set.metadata);
        let Some(selector) = &set.spec.selector else { return Ok(Some(Vec::new())) };
        let mut pods = reader.by_field(Kind::Pod, Field::OwnerUid, &meta.uid);
        // One that was adopted a moment ago may still be among the orphans.
        let known: HashSet<Box<str>> = pods.iter().map(|pod| pod.name().into()).collect();
        let orphans = self.memory.lock().orphans.named(&meta.namespace, "");
        let orphans = orphans.iter().filter(|name| !known.contains(*name));
        pods.extend(orphans.filter_map(|name| reader.get(Kind::Pod, &meta.namespace, name)));
        claim::claim_all(owner(set), selector, Kind::Pod, pods, &self.context.writer).await
    }

    /// Under which hash the set's template is kept; `None` when its name is taken and another try is due.
    async fn hash_of(
        &self,
        key: &Key,
        (set, object): (&DaemonSetView<'_>, &ObjectRef),
        template: &Value,
        pods: &[ObjectRef],
    ) -> Result<Option<String>, ReconcileError> {
        let known = self.memory.lock().sets.get(key).and_then(|set| set.hash.clone());
        if known.is_some() {
            return Ok(known);
        }
        let tree = object.value()?;
        let revision = history::Template {
            owner: owner(set),
            template,
            annotations: &tree["metadata"]["annotations"],
            collisions: set.status.collision_count.unwrap_or_default(),
            hash_label: REVISION_LABEL,
        };
        let (reader, writer) = (self.reader(), &self.context.writer);
        let history = match revision.keep(None, reader, writer).await? {
            Kept::As(history) => history,
            Kept::Collision => {
                self.collide(set).await?;
                return Ok(None);
            }
        };
        // A pod of a DaemonSet has the hash of its revision, one of a StatefulSet the name, as upstream.
        let views = pods.iter().filter_map(ObjectRef::view_or_log::<PodView<'_>>);
        let in_use: HashSet<String> =
            views.filter_map(|pod| pod.metadata.labels.get(REVISION_LABEL).map(str::to_owned)).collect();
        let live = history.revisions().iter().filter(|revision| in_use.contains(&revision.hash));
        let live = live.map(|revision| revision.name.as_str()).collect();
        history::truncate(owner(set), &history, &live, set.spec.revision_history_limit, writer).await?;
        let hash = history.current().hash.clone();
        if let Some(set) = self.memory.lock().sets.get_mut(key) {
            set.hash = Some(hash.clone());
        }
        Ok(Some(hash))
    }

    /// A name is taken by somebody else: from now on the set's revision and pods have others.
    async fn collide(&self, set: &DaemonSetView<'_>) -> Result<(), WriteError> {
        let status = json!({"collisionCount": set.status.collision_count.unwrap_or_default().saturating_add(1)});
        self.context.writer.merge_status_of(Kind::DaemonSet, owner(set).target(), &status).await.map(|_| ())
    }

    /// What the plan needs to know of the pods.
    fn read_pods(&self, key: &Key, pods: &[ObjectRef], hash: &str, now: Timestamp) -> Result<Vec<Pod>, ReconcileError> {
        let views = pods.iter().map(ObjectRef::view::<PodView<'_>>).collect::<Result<Vec<_>, _>>()?;
        let ready = {
            let mut memory = self.memory.lock();
            let Some(set) = memory.sets.get_mut(key) else { return Ok(Vec::new()) };
            let pods = views.iter().map(|view| {
                (&*view.metadata.uid, condition(&view.status.conditions, "Ready"), view.metadata.created())
            });
            set.seen_ready.read(pods, now)
        };
        let read = pods.iter().zip(&views).zip(ready).map(|((object, view), ready_since)| Pod {
            namespace: object.namespace().to_owned(),
            name: object.name().to_owned(),
            uid: view.metadata.uid.to_string(),
            node: view.spec.node_name.to_string(),
            created: view.metadata.created(),
            is_terminating: view.metadata.is_terminating(),
            phase: match &*view.status.phase {
                "Failed" => Phase::Failed,
                "Succeeded" => Phase::Succeeded,
                _ => Phase::Alive,
            },
            ready_since,
            is_updated: view.metadata.labels.get(REVISION_LABEL) == Some(hash),
        });
        Ok(read.collect())
    }

    /// Adds the nodes that pods are on and should leave, so that nodes of which nothing is known are distinguished from them.
    fn add_left(&self, nodes: &mut BTreeMap<Box<str>, Fit>, pods: &[Pod], template: &TemplateView<'_>) {
        for pod in pods {
            if nodes.contains_key(&*pod.node) {
                continue;
            }
            let node = self.reader().get(Kind::Node, "", &pod.node);
            // One that fits by now was not observed yet, and is in the next run.
            if fit_on(template, node.as_ref()) == Some(Fit::Leave) {
                nodes.insert(pod.node.as_str().into(), Fit::Leave);
            }
        }
    }

    /// Pods that failed and whose pause is over, and when the next one's is.
    fn due_failures(&self, key: &Key, plan: &Plan, pods: &[Pod], now: Instant) -> (Vec<usize>, Next) {
        let mut memory = self.memory.lock();
        let Some(set) = memory.sets.get_mut(key) else { return (Vec::new(), Next::OnChange) };
        let (mut due, mut next) = (Vec::new(), Next::OnChange);
        for index in &plan.failed {
            match set.failures.replace_after(pods[*index].node.clone(), now) {
                None => due.push(*index),
                Some(left) => next = next.or(Next::After(left)),
            }
        }
        (due, next)
    }

    /// Says which pods go because they have ended, in upstream's words.
    fn report_ended(&self, set: &DaemonSetView<'_>, plan: &Plan, due: &[usize], pods: &[Pod]) {
        let (set, recorder) = (owner(set).target(), &self.context.recorder);
        let found = |what: &str, pod: &Pod, then: &str| {
            format!(
                "Found {what} daemon pod {}/{} on node {}, will try to {then} it",
                pod.namespace, pod.name, pod.node
            )
        };
        for pod in due.iter().map(|index| &pods[*index]) {
            recorder.warning(Kind::DaemonSet, set, "FailedDaemonPod", found("failed", pod, "kill"));
        }
        let succeeded = plan.delete.iter().map(|index| &pods[*index]).filter(|pod| pod.phase == Phase::Succeeded);
        for pod in succeeded {
            recorder.normal(Kind::DaemonSet, set, "SucceededDaemonPod", found("succeeded", pod, "delete"));
        }
    }

    async fn delete(&self, key: &Key, set: &DaemonSetView<'_>, pods: Vec<Pod>) -> Result<Next, WriteError> {
        let set_target = owner(set).target();
        let writer = &self.context.writer;
        let deleted = slow_start(pods, |pod| {
            let writer: Writer = writer.clone();
            async move {
                let target = Target { namespace: &pod.namespace, name: &pod.name, uid: &pod.uid };
                writer.delete_target(Kind::Pod, target, None, None).await.map(|is_deleted| (pod, is_deleted))
            }
        })
        .await;
        let mut next = Next::OnChange;
        for (pod, is_deleted) in deleted.done {
            if is_deleted {
                self.expectations.deleted(key, &pod.namespace, &pod.name, &pod.uid);
                let message = format!("Deleted pod: {}", pod.name);
                self.context.recorder.normal(Kind::DaemonSet, set_target, "SuccessfulDelete", message);
            } else {
                // Deleted by somebody else, or met by another write: nothing is to be expected of it.
                next = Next::After(UNSEEN_RETRY);
            }
        }
        deleted.error.map_or(Ok(next), Err)
    }

    /// Creates pods on these nodes; the names that were taken, and the nodes that they are for.
    async fn create(
        &self,
        key: &Key,
        set: &DaemonSetView<'_>,
        factory: &PodFactory,
        nodes: Vec<String>,
    ) -> Result<Vec<Taken>, WriteError> {
        let set_target = owner(set).target();
        let (writer, namespace): (&Writer, Arc<str>) = (&self.context.writer, set.metadata.namespace.as_str().into());
        // A pod of a former set of this name that is on its way out there has the name until its node has ended it, which may be never.
        // Its deletion brings the next run.
        let is_free = |node: &String| {
            let held = self.reader().get(Kind::Pod, &namespace, &factory.name_on(node));
            let held = held.as_ref().and_then(ObjectRef::view_or_log::<PodView<'_>>);
            held.is_none_or(|pod| !pod.metadata.is_terminating() || *pod.spec.node_name != **node)
        };
        let nodes: Vec<String> = nodes.into_iter().filter(is_free).collect();
        let created = slow_start(nodes, |node| {
            let object = factory.has_variants().then(|| self.reader().get(Kind::Node, "", &node)).flatten();
            let view = object.as_ref().and_then(ObjectRef::view_or_log::<AnyView<'_>>);
            let labels = view.map(|view| view.metadata.labels).unwrap_or_default();
            let (name, bytes) = factory.pod_on(&node, &labels);
            let (writer, namespace) = (writer.clone(), namespace.clone());
            async move {
                let created: Option<Created> = writer.create_encoded(Kind::Pod, &namespace, &name, bytes).await?;
                Ok::<_, WriteError>((Taken { name, node }, created))
            }
        })
        .await;
        let mut taken = Vec::new();
        for (pod, created) in created.done {
            match created {
                Some(created) => {
                    self.expectations.wrote(key, created.revision());
                    let message = format!("Created pod: {}", pod.name);
                    self.context.recorder.normal(Kind::DaemonSet, set_target, "SuccessfulCreate", message);
                }
                None => taken.push(pod),
            }
        }
        if let Some(error) = created.error {
            let message = format!("Error creating: {}", error.reason());
            self.context.recorder.warning(Kind::DaemonSet, set_target, "FailedCreate", message);
            return Err(error);
        }
        Ok(taken)
    }

    /// Names that are taken: by the set's own pods, by pods on their way out, or by somebody else's.
    async fn settle_taken(&self, set: &DaemonSetView<'_>, taken: &[Taken]) -> Result<Next, ReconcileError> {
        let mut next = Next::OnChange;
        for Taken { name, node } in taken.iter().take(TAKEN_NAMES_MAX) {
            let found = self.context.writer.get_now(Kind::Pod, (&set.metadata.namespace, name)).await?;
            let Some(found) = found.map(|found| found.to_string()) else {
                next = next.or(Next::After(UNSEEN_RETRY));
                continue;
            };
            let pod: PodView<'_> = serde_json::from_str(&found)
                .map_err(|error| ReconcileError::Rejected(format!("the pod {name} cannot be read: {error}")))?;
            let selector = set.spec.selector.as_ref();
            let is_foreign = selector.is_none_or(|selector| {
                let matches = selector.matches(&pod.metadata.labels);
                claim::claim(&set.metadata, matches, &pod.metadata) == Claim::Ignore && !pod.metadata.is_terminating()
            });
            // A pod on another node never is the one that was to be here, whoever owns it. Its end is up to that node: to wait
            // for it would let one node keep the set's pods off all others.
            let is_foreign = is_foreign || *pod.spec.node_name != **node;
            if is_foreign {
                let message = format!(
                    "Error creating: the name {name} is taken by a pod that is not of this DaemonSet; its pods get other names"
                );
                self.context.recorder.warning(Kind::DaemonSet, owner(set).target(), "FailedCreate", message);
                self.collide(set).await?;
                return Ok(Next::OnChange);
            }
            next = next.or(Next::After(if pod.metadata.is_terminating() { NAME_TAKEN_RETRY } else { UNSEEN_RETRY }));
        }
        Ok(next)
    }

    async fn write_status(
        &self,
        set: &DaemonSetView<'_>,
        counts: Counts,
        conditions: Vec<Value>,
    ) -> Result<(), WriteError> {
        let desired = DaemonSetStatusView {
            observed_generation: Some(set.metadata.generation),
            collision_count: set.status.collision_count,
            desired_number_scheduled: Some(counts.desired),
            current_number_scheduled: Some(counts.current),
            number_misscheduled: Some(counts.misscheduled),
            number_ready: Some(counts.ready),
            number_available: Some(counts.available),
            number_unavailable: Some(counts.unavailable),
            updated_number_scheduled: Some(counts.updated),
            conditions,
        };
        if desired == set.status {
            return Ok(());
        }
        let status = json!({
            "conditions": desired.conditions,
            "observedGeneration": set.metadata.generation,
            "desiredNumberScheduled": counts.desired,
            "currentNumberScheduled": counts.current,
            "numberMisscheduled": counts.misscheduled,
            "numberReady": counts.ready,
            "numberAvailable": counts.available,
            "numberUnavailable": counts.unavailable,
            "updatedNumberScheduled": counts.updated,
        });
        self.context.writer.merge_status_of(Kind::DaemonSet, owner(set).target(), &status).await.map(|_| ())
    }
}

impl Reconciler for DaemonSets {
    type Key = Key;

    fn name(&self) -> &'static str {
        "daemonsets"
    }

    fn sources(&self) -> &'static [Kind] {
        &[Kind::DaemonSet, Kind::Node, Kind::Pod, Kind::ControllerRevision]
    }

    fn observe(&self, event: &Event, queue: &Queue<Key>) {
        let is_skip_new = self.skipped.apply(event).is_some();
        match event {
            Event::Listed(kind, objects) => {
                match kind {
                    // Each set looks at all nodes anew, and knows how its pods have failed: a pause is not cut short by a list.
                    Kind::Node => {
                        let mut memory = self.memory.lock();
                        memory.sets.values_mut().for_each(|set| set.generation = UNKNOWN);
                    }
                    // Those whose deletion was missed.
                    Kind::DaemonSet => {
                        let listed: HashSet<Key> =
                            objects.iter().map(|set| (set.namespace().into(), set.name().into())).collect();
                        self.memory.lock().sets.retain(|key, _| listed.contains(key));
                    }
                    Kind::Pod => {
                        self.memory.lock().orphans.listed(objects);
                    }
                    _ => {}
                }
                for set in self.reader().list(Kind::DaemonSet, None) {
                    queue.add((set.namespace().into(), set.name().into()));
                }
            }
            Event::Changed(change) => match change.kind {
                Kind::DaemonSet => {
                    let set = change.newest();
                    queue.add((set.namespace().into(), set.name().into()));
                }
                Kind::Node => {
                    self.observe_node(change.newest().name(), change.previous.is_none(), is_skip_new, queue);
                }
                Kind::Pod => {
                    self.memory.lock().orphans.note(change.newest(), change.current.is_some());
                    change.previous.iter().for_each(|object| self.observe_pod(object, false, queue));
                    change.current.iter().for_each(|object| self.observe_pod(object, true, queue));
                }
                _ => {
                    // A revision that somebody deleted or changed is looked at again.
                    for object in change.versions() {
                        let Some(view) = object.view_or_log::<AnyView<'_>>() else { continue };
                        let Some(owner) = view.metadata.controller() else { continue };
                        let key = (object.namespace().into(), owner.name.as_str().into());
                        if change.current.is_none()
                            && let Some(set) = self.memory.lock().sets.get_mut(&key)
                        {
                            set.hash = None;
                        }
                        queue.add(key);
                    }
                }
            },
        }
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, ReconcileError> {
        let Some(object) = self.reader().get(Kind::DaemonSet, &key.0, &key.1) else {
            self.memory.lock().sets.remove(key);
            self.expectations.forget(key);
            return Ok(Next::OnChange);
        };
        let set: DaemonSetView<'_> = object.view()?;
        if set.metadata.is_terminating() {
            return Ok(Next::OnChange);
        }
        if !self.expectations.are_seen(key, self.reader()) {
            return Ok(Next::After(UNSEEN_RETRY));
        }
        let read_template = |error| ReconcileError::Rejected(format!("the template cannot be read: {error}"));
        let template = TemplateView::read(set.spec.template).map_err(read_template)?;
        let selects_own = set
            .spec
            .selector
            .as_ref()
            .is_some_and(|selector| !selector.is_empty() && selector.matches(template.labels()));
        if !selects_own {
            let message =
                "This daemon set is selecting all pods, or not its own. A selector of its own labels is required.";
            self.context.recorder.warning(Kind::DaemonSet, owner(&set).target(), "SelectingAll", message.to_owned());
            return Ok(Next::OnChange);
        }
        self.remember(key, &set, &template);
        let Some(objects) = self.claim_pods(&set).await? else { return Ok(Next::After(UNSEEN_RETRY)) };
        let tree: Value = set
            .spec
            .template
            .map_or(Ok(Value::Null), |template| serde_json::from_str(template.get()))
            .map_err(read_template)?;
        let Some(hash) = self.hash_of(key, (&set, &object), &tree, &objects).await? else {
            return Ok(Next::After(UNSEEN_RETRY));
        };

        let now = self.context.clock.now();
        let pods = self.read_pods(key, &objects, &hash, now)?;
        let mut nodes = self.memory.lock().sets.get(key).map(|set| set.nodes.clone()).unwrap_or_default();
        let mut skipped = self.skipped.now();
        skipped.retain(|node, _| nodes.contains_key(node));
        self.add_left(&mut nodes, &pods, &template);
        let known = Known { set: &set, object: &object, hash: &hash, nodes: &nodes, pods: &pods, objects: &objects };
        let clock = Clock::new(now, set.spec.min_ready_seconds);
        let outlook = self.look(&known, clock).await?;
        let away: BTreeSet<Box<str>> = skipped.keys().chain(&outlook.others).cloned().collect();
        let desired = nodes.values().filter(|fit| **fit == Fit::Run).count();
        let strategy = Strategy::of(&set.spec.update_strategy, desired);
        let mut plan = plan::plan(&nodes, &away, &pods, strategy, clock);
        skipped.retain(|node, _| plan.skipped.iter().any(|one| **one == **node));
        let conditions = with_canary(&with_skipped(&set.status.conditions, &skipped, now), &outlook.says, now);
        if outlook.is_stale {
            // What was written decides about the pods, and is not seen yet.
            self.write_status(&set, plan.counts, conditions).await?;
            return Ok(Next::After(UNSEEN_RETRY));
        }
        let (due, mut next) = self.due_failures(key, &plan, &pods, Instant::now());
        next = outlook.look_again.map_or(next, |after| next.or(Next::After(after)));
        if let Some(left) = plan.available_after {
            next = next.or(Next::After(left.clamp(Duration::from_millis(100), DEADLINE_MAX)));
        }

        self.report_ended(&set, &plan, &due, &pods);
        let doomed: HashSet<usize> = plan.delete.iter().copied().chain(due).collect();
        let doomed: Vec<Pod> = doomed.into_iter().map(|index| pods[index].clone()).collect();
        let deleted = self.delete(key, &set, doomed).await;
        if plan.create_on.len() > CREATES_PER_RUN {
            plan.create_on.truncate(CREATES_PER_RUN);
            next = next.or(Next::After(Duration::ZERO));
        }
        let collisions = set.status.collision_count.unwrap_or_default();
        let factory = PodFactory::new(owner(&set), &tree, &hash, collisions);
        let (later, create_on): (Vec<String>, Vec<String>) =
            plan.create_on.into_iter().partition(|node| outlook.others.contains(node.as_str()));
        let mut created = self.create(key, &set, &factory, create_on).await;
        // What is missing where the template does not come yet is what the others there are. Without a former one, it waits.
        if let (Some(former), Ok(taken), false) = (&outlook.former, &mut created, later.is_empty()) {
            let factory = PodFactory::new(owner(&set), &former.template, &former.hash, collisions);
            match self.create(key, &set, &factory, later).await {
                Ok(more) => taken.extend(more),
                Err(error) => created = Err(error),
            }
        }
        // The status is true whatever became of the pods.
        self.write_status(&set, plan.counts, conditions).await?;
        next = next.or(deleted?);
        let taken = created?;
        Ok(next.or(self.settle_taken(&set, &taken).await?))
    }
}

/// How well a set's pods fit on a node; `None` when there is no such node or it does not read as one.
fn fit_on(template: &TemplateView<'_>, node: Option<&ObjectRef>) -> Option<Fit> {
    let view: NodeView<'_> = node?.view_or_log()?;
    Some(template.spec.fit(&view))
}

fn owner<'a>(set: &'a DaemonSetView<'a>) -> Owner<'a> {
    Owner::new(Kind::DaemonSet, &set.metadata)
}

#[cfg(test)]
mod tests;
