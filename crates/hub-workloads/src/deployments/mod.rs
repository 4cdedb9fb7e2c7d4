//! Deployments: one ReplicaSet per revision of the template, and pods that move from the old ones to the new one.
//!
//! ```text
//! set changed ──controller, or selector in its namespace──┐
//! Deployment changed ─────────────────────────────────────┼──▶ key: namespace/name of a Deployment
//! node out of reach, held, or neither any more ───────────┘
//!
//! reconcile: claim sets → find the new one, or create it → scope → one step of scaling → old revisions → status
//! ```
//!
//! A set is named after the hash of its template, so that one is never created twice; a name that somebody else has counts as
//! a collision and gives another hash. Which set is the new one is decided by what templates mean ([`meaning`]).
//! A step is taken from one view of all sets and written against the revisions of that view: where the view was old, the write
//! meets another and the next run decides anew. A set that the view does not show yet would not be met: nothing is decided before
//! the reader shows what this controller wrote. Which pods a step is about depends on their nodes: [`rollout`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use hub_runtime::kinds::Kind;
use hub_runtime::rollouts::skipped::SkippedNodes;
use hub_runtime::views::{AnyView, LabelSelector, ObjectMeta, nullable};
use hub_runtime::writer::{self, Target, WriteError};
use hub_runtime::{Context, Event, Expectations, Field, Next, ObjectRef, Queue, Reader, ReconcileError, Reconciler};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::claim;
use crate::hash::short_hash;
use crate::meaning;
use crate::owner::Owner;
use crate::pods::Key;
use crate::ready::SeenReady;

mod plan;
mod rollout;
mod scope;
mod status;
mod view;

use plan::{Demand, Scale, Size};
use rollout::{Outlook, Stage};
use scope::Scope;
use view::{DESIRED_REPLICAS, Deployment, HASH, MAX_REPLICAS, Meta, REVISION, REVISION_HISTORY, Set, Strategy};

/// After a write that met another; a change usually comes first.
const CONFLICT_RETRY: Duration = Duration::from_millis(200);
/// A change of the wall clock is noticed within this time.
const DEADLINE_MAX: Duration = Duration::from_secs(60);
/// As upstream: an annotation that grows with each rollback must end somewhere.
const REVISION_HISTORY_BYTES_MAX: usize = 2000;

/// The controller.
pub(crate) struct Deployments {
    context: Context,
    /// Of sets.
    expectations: Expectations<Key>,
    /// Sets without a controller, by namespace: what a Deployment may adopt.
    orphans: Mutex<HashMap<Box<str>, BTreeSet<Box<str>>>>,
    /// Nodes that rollouts leave out.
    skipped: SkippedNodes,
    /// Since when pods of canaries are seen Ready whose own word for it cannot be right. It can be lost: they wait anew.
    seen_ready: Mutex<HashMap<Key, SeenReady>>,
}

/// What is borrowed of a Deployment.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Borrowed<'a> {
    #[serde(borrow)]
    metadata: ObjectMeta<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    spec: BorrowedSpec<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct BorrowedSpec<'a> {
    #[serde(borrow)]
    selector: Option<LabelSelector<'a>>,
}

/// The sets of a Deployment, oldest first, and which of them is the new one.
struct Sets {
    all: Vec<Set>,
    new: Option<usize>,
}

impl Sets {
    fn newest(&self) -> Option<&Set> {
        self.new.map(|new| &self.all[new])
    }

    fn sizes(&self) -> Vec<Size> {
        let size = |set: &Set| Size {
            replicas: set.spec.replicas,
            // What a set counts lags behind what it was scaled to: pods that it has still to delete are there, and are not
            // counted upon.
            present: set.spec.replicas.max(set.status.replicas),
            available: set.status.available_replicas.min(set.spec.replicas),
            max_replicas: set.metadata.number(MAX_REPLICAS),
        };
        self.all.iter().map(size).collect()
    }

    fn old(&self) -> impl Iterator<Item = &Set> {
        let new = self.new;
        self.all.iter().enumerate().filter(move |(index, _)| Some(*index) != new).map(|(_, set)| set)
    }
}

/// How a run of a key continues.
enum Step<T> {
    Done(T),
    /// Something was changed by somebody else meanwhile.
    Again,
}

impl Deployments {
    pub fn new(context: Context) -> Self {
        Self {
            context,
            expectations: Expectations::new(Kind::ReplicaSet),
            orphans: Mutex::default(),
            skipped: SkippedNodes::default(),
            seen_ready: Mutex::default(),
        }
    }

    fn reader(&self) -> &dyn Reader {
        &*self.context.reader
    }

    fn note_orphan(&self, object: &ObjectRef, is_current: bool) {
        let is_orphan =
            is_current && object.view_or_log::<AnyView<'_>>().is_some_and(|set| set.metadata.controller().is_none());
        let mut orphans = self.orphans.lock();
        if is_orphan {
            orphans.entry(object.namespace().into()).or_default().insert(object.name().into());
        } else if let Some(names) = orphans.get_mut(object.namespace()) {
            names.remove(object.name());
            if names.is_empty() {
                orphans.remove(object.namespace());
            }
        }
    }

    fn observe_set(&self, object: &ObjectRef, is_current: bool, queue: &Queue<Key>) {
        let Some(set) = object.view_or_log::<AnyView<'_>>() else { return };
        match set.metadata.controller() {
            Some(owner) if &*owner.kind == "Deployment" => {
                queue.add((object.namespace().into(), owner.name.as_str().into()));
            }
            Some(_) => {}
            None if is_current => {
                for deployment in self.reader().list(Kind::Deployment, Some(object.namespace())) {
                    let Some(view) = deployment.view_or_log::<Borrowed<'_>>() else { continue };
                    if view.spec.selector.is_some_and(|selector| selector.matches(&set.metadata.labels)) {
                        queue.add((deployment.namespace().into(), deployment.name().into()));
                    }
                }
            }
            None => {}
        }
    }

    /// The Deployment's sets, after adopting and releasing, oldest first.
    async fn claim_sets(
        &self,
        owner: Owner<'_>,
        selector: &LabelSelector<'_>,
    ) -> Result<Step<Vec<Set>>, ReconcileError> {
        let mut objects = self.reader().by_field(Kind::ReplicaSet, Field::OwnerUid, &owner.meta.uid);
        let orphans: Vec<Box<str>> =
            self.orphans.lock().get(&*owner.meta.namespace).into_iter().flatten().cloned().collect();
        for name in
            orphans.iter().filter(|name| objects.iter().all(|object| *object.name() != ***name)).collect::<Vec<_>>()
        {
            objects.extend(self.reader().get(Kind::ReplicaSet, &owner.meta.namespace, name));
        }
        let claimed = claim::claim_all(owner, selector, Kind::ReplicaSet, objects, &self.context.writer).await?;
        let Some(claimed) = claimed else { return Ok(Step::Again) };
        let mut sets: Vec<Set> = claimed.iter().map(ObjectRef::view).collect::<Result<_, _>>()?;
        sets.sort_by(|one, other| one.age().cmp(&other.age()));
        Ok(Step::Done(sets))
    }

    /// Which set is of the Deployment's template.
    async fn find_new(
        &self,
        owner: Owner<'_>,
        deployment: &Deployment,
        sets: &[Set],
    ) -> Result<Option<usize>, WriteError> {
        let template = &deployment.spec.template;
        if let Some(index) = sets.iter().position(|set| set.template() == *template) {
            return Ok(Some(index));
        }
        for (index, set) in sets.iter().enumerate().rev() {
            if meaning::is_same(owner, &set.template(), template, &self.context.writer).await? {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// Brings the annotations and the settings of the new set, and the Deployment's revision, up to date.
    async fn update_new(&self, deployment: &Deployment, sets: &mut Sets) -> Result<Step<()>, WriteError> {
        let Some(index) = sets.new else { return Ok(Step::Done(())) };
        let newest_old = sets.old().map(Set::revision).max().unwrap_or_default();
        let set = &mut sets.all[index];
        let mut annotations = changed_annotations(deployment, &set.metadata);
        let revision = set.revision().max(newest_old.saturating_add(1));
        if revision != set.revision() {
            annotations.insert(REVISION.to_owned(), revision.to_string());
            if let Some(history) = history_with(&set.metadata) {
                annotations.insert(REVISION_HISTORY.to_owned(), history);
            }
        }
        if !annotations.is_empty() || set.spec.min_ready_seconds != deployment.spec.min_ready_seconds {
            let patch = json!({
                "metadata": guarded(&set.metadata, json!({"annotations": annotations})),
                "spec": {"minReadySeconds": deployment.spec.min_ready_seconds},
            });
            if !self.merge_set(set, &patch).await? {
                return Ok(Step::Again);
            }
            // What is written is known; its revision comes with the change.
            return Ok(Step::Again);
        }
        let revision = revision.to_string();
        if deployment.metadata.annotations.get(REVISION) != Some(&revision) {
            let patch = json!({"metadata": {"uid": deployment.metadata.uid, "annotations": {REVISION: revision}}});
            let key = (deployment.metadata.namespace.as_str(), deployment.metadata.name.as_str());
            self.context.writer.merge(Kind::Deployment, key, &patch).await?;
        }
        Ok(Step::Done(()))
    }

    async fn merge_set(&self, set: &Set, patch: &Value) -> Result<bool, WriteError> {
        let key = (set.metadata.namespace.as_str(), set.metadata.name.as_str());
        self.context.writer.merge(Kind::ReplicaSet, key, patch).await
    }

    /// Creates the set of the Deployment's template.
    async fn create_new(
        &self,
        owner: Owner<'_>,
        deployment: &Deployment,
        sets: &mut Sets,
        (scope, outlook): (&Scope, &Outlook),
        status: &mut Value,
    ) -> Result<Step<()>, WriteError> {
        let collisions = deployment.status["collisionCount"].as_i64().unwrap_or_default();
        let template = &deployment.spec.template;
        let hash = match collisions {
            0 => short_hash(template.to_string().as_bytes(), 10),
            _ => short_hash(format!("{template}{collisions}").as_bytes(), 10),
        };
        let name = format!("{}-{hash}", deployment.metadata.name);
        let demand = demand(deployment);
        let replicas = match outlook.stage {
            Stage::Frozen => 0,
            Stage::Open | Stage::Canary(_) => plan::new_size(scope.demand, 0, plan::present(&scope.sizes)),
        };
        let revision = sets.all.iter().map(Set::revision).max().unwrap_or_default().saturating_add(1);
        let mut object = new_set(owner, deployment, demand, (&name, &hash), replicas, revision);
        for (mark, value) in rollout::marks(&outlook.stage, true, false) {
            if let Some(value) = value {
                object["metadata"]["annotations"][mark] = value.into();
            }
        }
        let created = match self.context.writer.create(Kind::ReplicaSet, object).await {
            Ok(created) => created,
            Err(error) if error.is_namespace_terminating() => return Ok(Step::Done(())),
            Err(error) => {
                let message = format!("Failed to create new replica set {name:?}: {}", error.reason());
                if deployment.spec.progress_deadline().is_some() {
                    status::set_progressing(
                        status,
                        "False",
                        "ReplicaSetCreateError",
                        &message,
                        self.context.clock.now(),
                    );
                    self.write_status(deployment, status).await?;
                }
                self.context.recorder.warning(Kind::Deployment, owner.target(), "ReplicaSetCreateError", message);
                return Err(error);
            }
        };
        let Some(created) = created else { return self.settle_taken(owner, deployment, &name, collisions).await };
        let written = created["metadata"]["resourceVersion"].as_str();
        self.expectations.wrote(&key_of(owner), writer::revision(written));
        if replicas > 0 {
            let message = format!("Scaled up replica set {name} from 0 to {replicas}");
            self.context.recorder.normal(Kind::Deployment, owner.target(), "ScalingReplicaSet", message);
        }
        if deployment.spec.progress_deadline().is_some() {
            let message = format!("Created new replica set {name:?}");
            status::set_progressing(status, "True", "NewReplicaSetCreated", &message, self.context.clock.now());
        }
        let Ok(set) = Set::deserialize(created) else { return Ok(Step::Again) };
        sets.new = Some(sets.all.len());
        sets.all.push(set);
        Ok(Step::Done(()))
    }

    /// The name of the new set is taken: by itself, which the reader does not show yet, or by somebody else.
    async fn settle_taken(
        &self,
        owner: Owner<'_>,
        deployment: &Deployment,
        name: &str,
        collisions: i64,
    ) -> Result<Step<()>, WriteError> {
        let found = self.context.writer.get_now(Kind::ReplicaSet, (&deployment.metadata.namespace, name)).await?;
        let Some(found) = found else { return Ok(Step::Again) };
        let owners = found["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
        let is_own = owners.iter().any(|one| one["uid"] == deployment.metadata.uid && one["controller"] == true);
        let is_of_template = Set::deserialize(found).is_ok_and(|found| found.template() == deployment.spec.template);
        if !(is_own && is_of_template) {
            let status = json!({"collisionCount": collisions.saturating_add(1)});
            self.context.writer.merge_status_of(Kind::Deployment, owner.target(), &status).await?;
        }
        Ok(Step::Again)
    }

    /// Scales sets; what was scaled is noted in `sets`, so that the status counts it.
    async fn scale(
        &self,
        owner: Owner<'_>,
        demand: Demand,
        sets: &mut Sets,
        scales: Vec<Scale>,
    ) -> Result<Step<bool>, WriteError> {
        let mut has_scaled = false;
        for (index, replicas) in scales {
            let set = &mut sets.all[index];
            let before = set.spec.replicas;
            let annotations = size_annotations(demand);
            let is_noted = |(key, value): (&str, &String)| set.metadata.annotations.get(key) == Some(value);
            if before == replicas && annotations.iter().all(|(key, value)| is_noted((key, value))) {
                continue;
            }
            let patch = json!({
                "metadata": guarded(&set.metadata, json!({"annotations": annotations})),
                "spec": {"replicas": replicas},
            });
            let key = (set.metadata.namespace.as_str(), set.metadata.name.as_str());
            let Some(revision) = self.context.writer.merge_at(Kind::ReplicaSet, key, &patch).await? else {
                return Ok(Step::Again);
            };
            self.expectations.wrote(&key_of(owner), revision);
            set.spec.replicas = replicas;
            if before != replicas {
                has_scaled = true;
                let way = if before < replicas { "up" } else { "down" };
                let message = format!("Scaled {way} replica set {} from {before} to {replicas}", set.metadata.name);
                self.context.recorder.normal(Kind::Deployment, owner.target(), "ScalingReplicaSet", message);
            }
        }
        Ok(Step::Done(has_scaled))
    }

    /// Deletes old revisions that nobody runs, but for as many as the history keeps.
    async fn trim_history(&self, deployment: &Deployment, sets: &Sets) -> Result<(), WriteError> {
        let Some(limit) = deployment.spec.revision_history_limit else { return Ok(()) };
        let mut old: Vec<&Set> = sets.old().filter(|set| set.metadata.deletion_timestamp.is_none()).collect();
        old.sort_by_key(|set| set.revision());
        let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or_default());
        for set in old.into_iter().take(surplus) {
            let is_idle = set.spec.replicas == 0
                && set.status.replicas == 0
                && set.status.observed_generation >= set.metadata.generation;
            if is_idle {
                let Meta { namespace, name, uid, .. } = &set.metadata;
                self.context
                    .writer
                    .delete_target(Kind::ReplicaSet, Target { namespace, name, uid }, None, None)
                    .await?;
            }
        }
        Ok(())
    }

    /// Whether pods of old sets have not ended yet: what a set counts lags behind.
    fn is_old_running(&self, sets: &Sets) -> bool {
        let running = |set: &Set| {
            let pods = self.reader().by_field(Kind::Pod, Field::OwnerUid, &set.metadata.uid);
            let views = pods.iter().filter_map(ObjectRef::view_or_log::<hub_runtime::views::PodView<'_>>);
            views.into_iter().any(|pod| !pod.has_ended())
        };
        sets.old().any(running)
    }

    async fn write_status(&self, deployment: &Deployment, status: &Value) -> Result<(), WriteError> {
        let is_counted = deployment.status["terminatingReplicas"].is_i64();
        if is_counted && crate::status::is_same(&deployment.status, status) {
            return Ok(());
        }
        let Meta { namespace, name, uid, .. } = &deployment.metadata;
        self.context.writer.merge_status_of(Kind::Deployment, Target { namespace, name, uid }, status).await.map(|_| ())
    }

    /// One run over a Deployment whose sets are known.
    async fn step(
        &self,
        key: &Key,
        owner: Owner<'_>,
        deployment: &Deployment,
        mut sets: Sets,
    ) -> Result<Next, ReconcileError> {
        let now = self.context.clock.now();
        let demand = demand(deployment);
        if let Some((reason, message)) = status::pause(deployment) {
            let mut noted = deployment.status.clone();
            status::set_progressing(&mut noted, "Unknown", reason, message, now);
            self.write_status(deployment, &noted).await?;
            // What is written brings the next run.
            return Ok(Next::After(CONFLICT_RETRY));
        }
        if let Step::Again = self.update_new(deployment, &mut sets).await? {
            return Ok(Next::After(CONFLICT_RETRY));
        }
        let Step::Done(outlook) = self.look(key, owner, deployment, &sets, now).await? else {
            return Ok(Next::After(CONFLICT_RETRY));
        };
        if let Step::Again = self.mark(&sets, &outlook).await? {
            return Ok(Next::After(CONFLICT_RETRY));
        }
        let is_paused = deployment.spec.paused;
        // Sets without pods say nothing of what was demanded before.
        let is_starting =
            outlook.stage != Stage::Open && demand.replicas > 0 && sets.all.iter().all(|set| set.spec.replicas == 0);
        if is_paused || is_scaling(deployment, &sets) || is_starting {
            let scales = match outlook.stage {
                Stage::Open => plan::rescale(demand, &sets.sizes(), sets.new),
                Stage::Canary(_) | Stage::Frozen => {
                    rollout::rescale_old(demand, &sets.sizes(), sets.new, rollout::former(&sets))
                }
            };
            if let Step::Again = self.scale(owner, demand, &mut sets, scales).await? {
                return Ok(Next::After(CONFLICT_RETRY));
            }
            // A canary that fails needs the former set.
            if is_paused && outlook.stage == Stage::Open {
                self.trim_history(deployment, &sets).await?;
            }
            let all: Vec<&Set> = sets.all.iter().collect();
            let mut counted = status::counted(deployment, &all, sets.newest(), now);
            outlook.note(&mut counted, now);
            self.write_status(deployment, &counted).await?;
            return Ok(Next::OnChange);
        }
        let mut noted = deployment.status.clone();
        let scope = outlook.scope(demand, &sets);
        let is_recreating = demand.strategy == Strategy::Recreate;
        // Two templates must not run at once, and what is out of reach may run.
        let is_waiting = outlook.stage == Stage::Frozen || (is_recreating && !outlook.skipped.is_empty());
        let is_blocked =
            is_recreating && (is_waiting || sets.old().any(|set| set.spec.replicas > 0) || self.is_old_running(&sets));
        if sets.new.is_none() && !is_blocked {
            let known = (&scope, &outlook);
            if let Step::Again = self.create_new(owner, deployment, &mut sets, known, &mut noted).await? {
                return Ok(Next::After(CONFLICT_RETRY));
            }
        } else if let Some(new) = sets.newest()
            && deployment.spec.progress_deadline().is_some()
            && crate::status::find(&status::conditions(&noted), status::PROGRESSING).is_none()
        {
            let message = format!("Found new replica set {:?}", new.metadata.name);
            status::set_progressing(&mut noted, "True", "FoundNewReplicaSet", &message, now);
        }
        // A set that was just created is one more than the scope was made of.
        let scope = outlook.scope(demand, &sets);
        let scales = match (demand.strategy, sets.new) {
            _ if is_waiting => Vec::new(),
            (Strategy::Recreate, new) => plan::recreate(demand, &sets.sizes(), new, is_blocked),
            (Strategy::Rolling(_), Some(new)) => scope.widen(plan::roll(scope.demand, &scope.sizes, new)),
            (Strategy::Rolling(_), None) => Vec::new(),
        };
        let Step::Done(has_scaled) = self.scale(owner, demand, &mut sets, scales).await? else {
            return Ok(Next::After(CONFLICT_RETRY));
        };
        let before = Deployment { status: noted, ..deployment.clone() };
        let all: Vec<&Set> = sets.all.iter().collect();
        let mut counted = status::counted(&before, &all, sets.newest(), now);
        let waits_for = outlook.waits_for(&outlook.scope(demand, &sets), sets.new, is_waiting);
        status::judge_progress(&before, &all, sets.newest(), waits_for, &mut counted, now);
        outlook.note(&mut counted, now);
        // A canary that fails needs the former set.
        if !has_scaled && outlook.stage == Stage::Open && status::is_complete(&before, &counted) {
            self.trim_history(deployment, &sets).await?;
        }
        self.write_status(deployment, &counted).await?;
        let next = outlook.look_again.map_or(Next::OnChange, Next::After);
        let deadline = status::look_again(deployment, &counted, now);
        Ok(deadline.map_or(next, |left| next.or(Next::After(left.clamp(Duration::from_millis(100), DEADLINE_MAX)))))
    }

    /// A node is left out from now on, or is not any more: the Deployments that have pods there.
    fn observe_node(&self, name: &str, queue: &Queue<Key>) {
        let mut seen = BTreeSet::new();
        for pod in self.reader().by_field(Kind::Pod, Field::NodeName, name) {
            let Some(pod_view) = pod.view_or_log::<AnyView<'_>>() else { continue };
            let Some(owner) = pod_view.metadata.controller().filter(|owner| &*owner.kind == "ReplicaSet") else {
                continue;
            };
            if !seen.insert((pod.namespace().to_owned(), owner.name.to_string())) {
                continue;
            }
            if let Some(set) = self.reader().get(Kind::ReplicaSet, pod.namespace(), &owner.name) {
                self.observe_set(&set, false, queue);
            }
        }
    }
}

impl Reconciler for Deployments {
    type Key = Key;

    fn name(&self) -> &'static str {
        "deployments"
    }

    fn sources(&self) -> &'static [Kind] {
        // Pods are only read, and their first list is waited for; that one has ended is seen in its set's status.
        &[Kind::Deployment, Kind::ReplicaSet, Kind::Pod, Kind::Node]
    }

    fn observe(&self, event: &Event, queue: &Queue<Key>) {
        if let Some(node) = self.skipped.apply(event) {
            self.observe_node(node, queue);
        }
        match event {
            Event::Listed(kind, objects) => {
                if *kind == Kind::ReplicaSet {
                    self.orphans.lock().clear();
                    objects.iter().for_each(|object| self.note_orphan(object, true));
                }
                if *kind != Kind::Pod {
                    for deployment in self.reader().list(Kind::Deployment, None) {
                        queue.add((deployment.namespace().into(), deployment.name().into()));
                    }
                }
            }
            Event::Changed(change) => match change.kind {
                Kind::Deployment => {
                    let deployment = change.newest();
                    queue.add((deployment.namespace().into(), deployment.name().into()));
                }
                Kind::ReplicaSet => {
                    self.note_orphan(change.newest(), change.current.is_some());
                    change.previous.iter().for_each(|object| self.observe_set(object, false, queue));
                    change.current.iter().for_each(|object| self.observe_set(object, true, queue));
                }
                _ => {}
            },
        }
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, ReconcileError> {
        let Some(object) = self.reader().get(Kind::Deployment, &key.0, &key.1) else {
            self.seen_ready.lock().remove(key);
            self.expectations.forget(key);
            return Ok(Next::OnChange);
        };
        if !self.expectations.are_seen(key, self.reader()) {
            return Ok(Next::After(CONFLICT_RETRY));
        }
        let borrowed: Borrowed<'_> = object.view()?;
        let deployment: Deployment = object.view()?;
        let owner = Owner::new(Kind::Deployment, &borrowed.metadata);
        let Some(selector) = borrowed.spec.selector.as_ref().filter(|selector| !selector.is_empty()) else {
            let message = "This deployment is selecting all pods. A non-empty selector is required.".to_owned();
            self.context.recorder.warning(Kind::Deployment, owner.target(), "SelectingAll", message);
            return Ok(Next::OnChange);
        };
        if deployment.metadata.deletion_timestamp.is_some() {
            // What is on its way out says how it fares, and changes nothing.
            let sets = self.reader().by_field(Kind::ReplicaSet, Field::OwnerUid, &deployment.metadata.uid);
            let sets: Vec<Set> = sets.iter().map(ObjectRef::view).collect::<Result<_, _>>()?;
            let new = sets.iter().position(|set| set.template() == deployment.spec.template);
            let all: Vec<&Set> = sets.iter().collect();
            let counted = status::counted(&deployment, &all, new.map(|new| &sets[new]), self.context.clock.now());
            self.write_status(&deployment, &counted).await?;
            return Ok(Next::OnChange);
        }
        let Step::Done(all) = self.claim_sets(owner, selector).await? else { return Ok(Next::After(CONFLICT_RETRY)) };
        let new = self.find_new(owner, &deployment, &all).await?;
        self.step(key, owner, &deployment, Sets { all, new }).await
    }
}

fn key_of(owner: Owner<'_>) -> Key {
    ((&*owner.meta.namespace).into(), (&*owner.meta.name).into())
}

fn demand(deployment: &Deployment) -> Demand {
    Demand {
        replicas: deployment.spec.replicas(),
        strategy: deployment.spec.strategy(),
        counted: deployment.status["replicas"].as_i64().unwrap_or_default(),
    }
}

/// Whether somebody scaled the Deployment since its sets were scaled.
fn is_scaling(deployment: &Deployment, sets: &Sets) -> bool {
    let active = sets.all.iter().filter(|set| set.spec.replicas > 0);
    let mut noted = active.filter_map(|set| set.metadata.number(DESIRED_REPLICAS));
    noted.any(|noted| noted != deployment.spec.replicas())
}

fn size_annotations(demand: Demand) -> BTreeMap<&'static str, String> {
    BTreeMap::from([(DESIRED_REPLICAS, demand.replicas.to_string()), (MAX_REPLICAS, demand.max_replicas().to_string())])
}

/// What a Deployment's annotations change in those of a set.
fn changed_annotations(deployment: &Deployment, set: &Meta) -> BTreeMap<String, String> {
    let is_other = |(key, value): &(&String, &String)| set.annotations.get(*key) != Some(*value);
    let changed = deployment.metadata.handed_on().filter(is_other);
    changed.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// The revisions that a set was, with the one that it is; the oldest are left out when there are very many.
fn history_with(set: &Meta) -> Option<String> {
    let revision = set.annotations.get(REVISION)?;
    let mut history = match set.annotations.get(REVISION_HISTORY).filter(|history| !history.is_empty()) {
        None => revision.clone(),
        Some(history) => format!("{history},{revision}"),
    };
    while history.len() > REVISION_HISTORY_BYTES_MAX {
        let (_, later) = history.split_once(',')?;
        history = later.to_owned();
    }
    Some(history)
}

/// Metadata of a patch that is meant for the set as it was read.
fn guarded(set: &Meta, mut metadata: Value) -> Value {
    metadata["uid"] = set.uid.as_str().into();
    metadata["resourceVersion"] = set.resource_version.as_str().into();
    metadata
}

fn new_set(
    owner: Owner<'_>,
    deployment: &Deployment,
    demand: Demand,
    (name, hash): (&str, &str),
    replicas: i64,
    revision: i64,
) -> Value {
    let mut template = deployment.spec.template.clone();
    template["metadata"]["labels"][HASH] = hash.into();
    let mut selector = deployment.spec.selector.clone();
    selector["matchLabels"][HASH] = hash.into();
    let mut annotations: BTreeMap<String, String> =
        deployment.metadata.handed_on().map(|(key, value)| (key.clone(), value.clone())).collect();
    annotations.insert(REVISION.to_owned(), revision.to_string());
    annotations.extend(size_annotations(demand).into_iter().map(|(key, value)| (key.to_owned(), value)));
    json!({
        "apiVersion": Kind::ReplicaSet.api_version(), "kind": Kind::ReplicaSet.name(),
        "metadata": {
            "name": name, "namespace": deployment.metadata.namespace, "annotations": annotations,
            "labels": template["metadata"]["labels"], "ownerReferences": [owner.reference()],
        },
        "spec": {
            "replicas": replicas, "minReadySeconds": deployment.spec.min_ready_seconds,
            "selector": selector, "template": template,
        },
    })
}
