//! StatefulSets: pods with names that stay, each with claims of its own, that come and leave in order.
//!
//! A pod's name is the set's and its ordinal, so there are never two of an ordinal: a new one is created once the old one is
//! deleted, and a controller that acts twice on an old view, or is restarted in between, creates nothing twice.
//!
//! ```text
//! pod changed ──owner, or name and selector──┐
//! claim deleted ──name───────────────────────┼──▶ key: namespace/name of a set
//! set or revision changed ───────────────────┤
//! node out of reach, held, or neither any more ┘
//!
//! reconcile: adopt pods → keep the template's revision → plan → claims, corrections → create → delete → status → history
//! ```

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

use hub_runtime::kinds::Kind;
use hub_runtime::rollouts::canary;
use hub_runtime::rollouts::skipped::{Skipped, SkippedNodes, with_skipped};
use hub_runtime::views::{AnyView, condition};
use hub_runtime::writer::WriteError;
use hub_runtime::{Context, Event, Expectations, Field, Next, ObjectRef, Queue, Reader, ReconcileError, Reconciler};

mod act;
mod claims;
mod plan;
mod pods;
mod rollout;
mod views;

use crate::UNSEEN_RETRY;
use crate::claim::{self, Claim};
use crate::failures::Failures;
use crate::history::{self, History, Kept, Revision, Template};
use crate::orphans::Orphans;
use crate::owner::Owner;
use crate::ready::{Clock, SeenReady};
use act::Acts;
use claims::{OfPod, Owners, Retention};
use plan::{Counts, Phase, Plan, Pod, Scope, Set, Step, Update, Which};
use rollout::Outlook;
use views::{PodView, SelectorView, SetView};

/// As upstream has it on a StatefulSet's revisions.
const HASH_LABEL: &str = "controller.kubernetes.io/hash";
/// Claims of an earlier pod are deleted in their own time, which usually wakes the set.
const STALE_RETRY: Duration = Duration::from_secs(5);
/// A change of the wall clock is noticed within this time.
const DEADLINE_MAX: Duration = Duration::from_secs(60);

/// Namespace and name of a set.
type Key = (Box<str>, Box<str>);

/// The controller.
pub(crate) struct StatefulSets {
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

#[derive(Default)]
struct SetMemory {
    uid: String,
    /// The revision that the template of a generation is kept as, with so many collisions.
    known: Option<(i64, i64, String)>,
    seen_ready: SeenReady,
    /// By ordinal.
    failures: Failures<i64>,
}

impl StatefulSets {
    pub fn new(context: Context) -> Self {
        let expectations = Expectations::new(Kind::Pod);
        Self { context, expectations, memory: Mutex::default(), skipped: SkippedNodes::default() }
    }

    fn reader(&self) -> &dyn Reader {
        &*self.context.reader
    }

    fn observe_pod(&self, object: &ObjectRef, is_current: bool, queue: &Queue<Key>) {
        let Some(pod) = object.view_or_log::<AnyView<'_>>() else { return };
        match pod.metadata.controller() {
            Some(owner) if &*owner.kind == "StatefulSet" => {
                queue.add((object.namespace().into(), owner.name.as_str().into()));
            }
            Some(_) => {}
            None if is_current => {
                // The name says which set it may be of.
                let Some((set, _)) = object.name().rsplit_once('-') else { return };
                let Some(found) = self.reader().get(Kind::StatefulSet, object.namespace(), set) else { return };
                if found.view_or_log::<SelectorView<'_>>().is_some_and(|set| set.matches(&pod.metadata.labels)) {
                    queue.add((object.namespace().into(), set.into()));
                }
            }
            None => {}
        }
    }

    /// A claim is deleted: a pod may have waited for that, or wait for its claim now. `TEMPLATE-SET-ORDINAL` may be divided in
    /// several ways, of which each names a set that may exist.
    fn observe_claim(&self, object: &ObjectRef, queue: &Queue<Key>) {
        let Some((rest, ordinal)) = object.name().rsplit_once('-') else { return };
        if ordinal.parse::<u32>().is_err() {
            return;
        }
        for (dash, _) in rest.match_indices('-') {
            let set = &rest[dash + 1..];
            if self.reader().get(Kind::StatefulSet, object.namespace(), set).is_some() {
                queue.add((object.namespace().into(), set.into()));
            }
        }
    }

    /// The set's pods, after adopting and releasing; `None` when a pod changed under it and must be looked at again.
    async fn claim_pods(&self, set: &SetView<'_>) -> Result<Option<Vec<ObjectRef>>, ReconcileError> {
        let (reader, writer) = (self.reader(), &self.context.writer);
        let (owner, meta) = (Owner { kind: Kind::StatefulSet, meta: &set.metadata }, &set.metadata);
        let Some(selector) = &set.spec.selector else { return Ok(Some(Vec::new())) };
        let own = reader.by_field(Kind::Pod, Field::OwnerUid, &meta.uid);
        // One that was adopted a moment ago may still be among the orphans.
        let known: HashSet<&str> = own.iter().map(ObjectRef::name).collect();
        let orphans = self.memory.lock().orphans.named(&meta.namespace, &format!("{}-", meta.name));
        let orphans = orphans.iter().filter(|name| !known.contains(&***name));
        let orphans = orphans.filter_map(|name| reader.get(Kind::Pod, &meta.namespace, name));
        let mut claimed = Vec::with_capacity(own.len());
        let mut may_adopt = None;
        for object in own.iter().cloned().chain(orphans) {
            if object.namespace() != &*meta.namespace {
                continue;
            }
            let pod: AnyView<'_> = object.view()?;
            let matches =
                selector.matches(&pod.metadata.labels) && pods::ordinal_of(&meta.name, object.name()).is_some();
            let is_settled = match claim::claim(meta, matches, &pod.metadata) {
                Claim::Own => true,
                Claim::Ignore => continue,
                Claim::Release => {
                    if !claim::release(owner, Kind::Pod, &object, writer).await? {
                        return Ok(None);
                    }
                    continue;
                }
                Claim::Adopt => {
                    let may = match may_adopt {
                        Some(may) => may,
                        None => *may_adopt.insert(claim::may_adopt(owner, writer).await?),
                    };
                    if !may {
                        continue;
                    }
                    claim::adopt(owner, Kind::Pod, &object, writer).await?
                }
            };
            if !is_settled {
                return Ok(None);
            }
            claimed.push(object);
        }
        Ok(Some(claimed))
    }

    /// The history of the set's template; `None` when its name is taken and another try is due.
    async fn history(&self, key: &Key, set: &SetView<'_>, tree: &Value) -> Result<Option<History>, ReconcileError> {
        let collisions = set.status.collision_count.unwrap_or_default();
        let generation = set.metadata.generation;
        let known = {
            let mut memory = self.memory.lock();
            let held = memory.sets.entry(key.clone()).or_default();
            if *held.uid != *set.metadata.uid {
                *held = SetMemory { uid: set.metadata.uid.to_string(), ..SetMemory::default() };
            }
            held.known.clone().filter(|known| (known.0, known.1) == (generation, collisions)).map(|known| known.2)
        };
        let owner = Owner { kind: Kind::StatefulSet, meta: &set.metadata };
        let template = Template {
            owner,
            template: &tree["spec"]["template"],
            annotations: &tree["metadata"]["annotations"],
            collisions,
            hash_label: HASH_LABEL,
        };
        match template.keep(known.as_deref(), self.reader(), &self.context.writer).await? {
            Kept::As(history) => {
                if let Some(held) = self.memory.lock().sets.get_mut(key) {
                    held.known = Some((generation, collisions, history.current().name.clone()));
                }
                Ok(Some(history))
            }
            Kept::Collision => {
                let status = json!({"collisionCount": collisions.saturating_add(1)});
                self.context.writer.merge_status_of(Kind::StatefulSet, owner.target(), &status).await?;
                Ok(None)
            }
        }
    }

    /// What the plan needs to know of the pods.
    fn read_pods(
        &self,
        key: &Key,
        set: &SetView<'_>,
        plan_set: &Set<'_>,
        templates: &[Value],
        objects: &[ObjectRef],
        now: Timestamp,
    ) -> Result<Vec<Pod>, ReconcileError> {
        let views = objects.iter().map(ObjectRef::view::<PodView<'_>>).collect::<Result<Vec<_>, _>>()?;
        let ready = {
            let mut memory = self.memory.lock();
            let held = memory.sets.entry(key.clone()).or_default();
            let pods = views.iter().map(|view| {
                (&*view.metadata.uid, condition(&view.status.conditions, "Ready"), view.metadata.created())
            });
            held.seen_ready.read(pods, now)
        };
        let (name, retention) =
            (&*set.metadata.name, Retention::of(&set.spec.persistent_volume_claim_retention_policy));
        let skipped = self.skipped.now();
        let read = views.iter().zip(ready).map(|(view, ready_since)| {
            let ordinal = pods::ordinal_of(name, &view.metadata.name).unwrap_or(-1);
            let mut pod = Pod {
                ordinal,
                phase: match &*view.status.phase {
                    "" => Phase::None,
                    "Pending" => Phase::Pending,
                    "Running" => Phase::Running,
                    "Failed" | "Succeeded" => Phase::Ended,
                    _ => Phase::Unknown,
                },
                is_terminating: view.metadata.is_terminating(),
                ready_since,
                revision: view.metadata.labels.get(pods::REVISION_LABEL).unwrap_or_default().to_owned(),
                is_right: pods::has_identity(view) && pods::has_storage(view, name, templates, ordinal),
                lacks_claims: false,
                owners_are_right: true,
                skip: skipped.get(&*view.spec.node_name).copied(),
                is_rejected: false,
            };
            let owners = Owners {
                set: Owner { kind: Kind::StatefulSet, meta: &set.metadata },
                pod: OfPod {
                    name: &view.metadata.name,
                    uid: &view.metadata.uid,
                    is_scaled_away: !plan_set.has(ordinal),
                },
                retention,
            };
            for template in templates {
                match self.claim(&set.metadata.namespace, &claims::claim_name(template, name, ordinal)) {
                    None => pod.lacks_claims = true,
                    Some(claim) => {
                        let claim: AnyView<'_> = claim.view()?;
                        pod.owners_are_right &= owners.are_right(&claim.metadata.owner_references);
                    }
                }
            }
            Ok(pod)
        });
        read.collect()
    }

    fn claim(&self, namespace: &str, name: &str) -> Option<ObjectRef> {
        self.reader().get(Kind::PersistentVolumeClaim, namespace, name)
    }

    /// Whether a claim of an ordinal without a pod ends with an earlier pod of its name.
    fn has_stale_claims(&self, set: &SetView<'_>, templates: &[Value], ordinal: i64) -> bool {
        if !Retention::of(&set.spec.persistent_volume_claim_retention_policy).deletes_when_scaled {
            return false;
        }
        let name = pods::pod_name(&set.metadata.name, ordinal);
        let of_pod = OfPod { name: &name, uid: "", is_scaled_away: false };
        templates.iter().any(|template| {
            let claim = claims::claim_name(template, &set.metadata.name, ordinal);
            let claim = self.claim(&set.metadata.namespace, &claim);
            let references = claim
                .as_ref()
                .and_then(ObjectRef::view_or_log::<AnyView<'_>>)
                .map(|view| view.metadata.owner_references);
            references.is_some_and(|references| claims::is_stale(&references, of_pod))
        })
    }

    /// Pods that have ended and whose pause is over stay in the plan; when the next one's is.
    fn pause_failures(&self, key: &Key, plan_set: &Set<'_>, plan: &mut Plan, pods: &[Pod]) -> Next {
        let (mut memory, now) = (self.memory.lock(), Instant::now());
        let failures = &mut memory.sets.entry(key.clone()).or_default().failures;
        let mut next = Next::OnChange;
        // Those of an ordinal that the set has no pod of any more.
        failures.retain(|ordinal| plan_set.has(*ordinal));
        plan.steps.retain(|step| {
            let Step::Replace(index) = step else { return true };
            let left = failures.replace_after(pods[*index].ordinal, now);
            if let Some(left) = left {
                next = next.or(Next::After(left));
            }
            left.is_none()
        });
        next
    }

    async fn write_status(
        &self,
        set: &SetView<'_>,
        plan_set: &Set<'_>,
        mut counts: Counts,
        (before, conditions): (&Value, Vec<Value>),
    ) -> Result<(), WriteError> {
        let mut current = plan_set.current;
        // With all ordinals of a canary updated the update is not completed yet: it may fail, and go back.
        if matches!(plan_set.scope, Scope::All) && counts.completes(plan_set) {
            (current, counts.current) = (plan_set.updated, counts.updated);
        }
        let old = &set.status;
        let is_same = old.observed_generation == Some(set.metadata.generation)
            && (old.replicas, old.ready_replicas, old.available_replicas)
                == (counts.replicas, counts.ready, counts.available)
            && (old.current_replicas, old.updated_replicas) == (counts.current, counts.updated)
            && (&*old.current_revision, &*old.update_revision) == (current, plan_set.updated)
            && old.collision_count.is_some()
            && before.as_array().map_or(&[][..], Vec::as_slice) == conditions;
        if is_same {
            return Ok(());
        }
        let status = json!({
            "observedGeneration": set.metadata.generation,
            "replicas": counts.replicas,
            "readyReplicas": counts.ready,
            "availableReplicas": counts.available,
            "currentReplicas": counts.current,
            "updatedReplicas": counts.updated,
            "currentRevision": current,
            "updateRevision": plan_set.updated,
            "collisionCount": old.collision_count.unwrap_or_default(),
            "conditions": conditions,
        });
        let target = Owner { kind: Kind::StatefulSet, meta: &set.metadata }.target();
        self.context.writer.merge_status_of(Kind::StatefulSet, target, &status).await.map(|_| ())
    }
}

impl StatefulSets {
    /// The nodes of the pods that an update passes by.
    fn skipped_by(&self, plan: &Plan, objects: &[ObjectRef]) -> Result<Skipped, ReconcileError> {
        let (now, mut skipped) = (self.skipped.now(), Skipped::new());
        for index in &plan.passed {
            let pod: PodView<'_> = objects[*index].view()?;
            if let Some((node, skip)) = now.get_key_value(&*pod.spec.node_name) {
                skipped.insert(node.clone(), *skip);
            }
        }
        Ok(skipped)
    }
}

impl Reconciler for StatefulSets {
    type Key = Key;

    fn name(&self) -> &'static str {
        "statefulsets"
    }

    fn sources(&self) -> &'static [Kind] {
        &[Kind::StatefulSet, Kind::Pod, Kind::PersistentVolumeClaim, Kind::ControllerRevision, Kind::Node]
    }

    fn observe(&self, event: &Event, queue: &Queue<Key>) {
        if let Some(node) = self.skipped.apply(event) {
            for pod in self.reader().by_field(Kind::Pod, Field::NodeName, node) {
                self.observe_pod(&pod, false, queue);
            }
        }
        match event {
            Event::Listed(kind, objects) => {
                match kind {
                    // Those whose deletion was missed.
                    Kind::StatefulSet => {
                        let listed: HashSet<Key> =
                            objects.iter().map(|set| (set.namespace().into(), set.name().into())).collect();
                        self.memory.lock().sets.retain(|key, _| listed.contains(key));
                    }
                    Kind::Pod => self.memory.lock().orphans.listed(objects),
                    _ => {}
                }
                for set in self.reader().list(Kind::StatefulSet, None) {
                    queue.add((set.namespace().into(), set.name().into()));
                }
            }
            Event::Changed(change) => match change.kind {
                Kind::StatefulSet => {
                    let set = change.newest();
                    queue.add((set.namespace().into(), set.name().into()));
                }
                Kind::Pod => {
                    self.memory.lock().orphans.note(change.newest(), change.current.is_some());
                    change.previous.iter().for_each(|object| self.observe_pod(object, false, queue));
                    change.current.iter().for_each(|object| self.observe_pod(object, true, queue));
                }
                Kind::PersistentVolumeClaim if change.current.is_none() => self.observe_claim(change.newest(), queue),
                Kind::ControllerRevision => {
                    // A revision that somebody deleted or changed is looked at again.
                    for object in change.versions() {
                        let Some(view) = object.view_or_log::<AnyView<'_>>() else { continue };
                        let Some(owner) = view.metadata.controller().filter(|owner| &*owner.kind == "StatefulSet")
                        else {
                            continue;
                        };
                        queue.add((object.namespace().into(), owner.name.as_str().into()));
                    }
                }
                _ => {}
            },
        }
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, ReconcileError> {
        let Some(object) = self.reader().get(Kind::StatefulSet, &key.0, &key.1) else {
            self.memory.lock().sets.remove(key);
            self.expectations.forget(key);
            return Ok(Next::OnChange);
        };
        if !self.expectations.are_seen(key, self.reader()) {
            return Ok(Next::After(UNSEEN_RETRY));
        }
        let (set, tree): (SetView<'_>, Value) = (object.view()?, object.value()?);
        let Some(objects) = self.claim_pods(&set).await? else { return Ok(Next::After(UNSEEN_RETRY)) };
        // A set that is being deleted starts no revision any more; its status says how many pods are left.
        let history = match set.metadata.is_terminating() {
            true => None,
            false => match self.history(key, &set, &tree).await? {
                None => return Ok(Next::After(UNSEEN_RETRY)),
                history => history,
            },
        };
        let updated = history.as_ref().map(History::current);
        let current = history.as_ref().and_then(|history| history.named(&set.status.current_revision)).or(updated);
        let name = |revision: Option<&Revision>, said: &str| {
            revision.map_or_else(|| said.to_owned(), |revision| revision.name.clone())
        };
        let names = [name(current, &set.status.current_revision), name(updated, &set.status.update_revision)];
        let plan_set = Set {
            replicas: set.spec.replicas.unwrap_or(1).clamp(0, i64::from(i32::MAX)),
            start: set.spec.ordinals.start.clamp(0, i64::from(i32::MAX)),
            is_parallel: &*set.spec.pod_management_policy == "Parallel",
            update: match &*set.spec.update_strategy.r#type {
                "OnDelete" => Update::OnDelete,
                _ => Update::Rolling {
                    partition: set.spec.update_strategy.rolling_update.map(|rolling| rolling.partition),
                },
            },
            is_terminating: set.metadata.is_terminating(),
            current: &names[0],
            updated: &names[1],
            current_replicas: set.status.current_replicas,
            scope: Scope::All,
        };
        let templates = tree["spec"]["volumeClaimTemplates"].as_array().map_or(&[][..], Vec::as_slice);
        let now = self.context.clock.now();
        let clock = Clock::new(now, set.spec.min_ready_seconds);
        let mut pods = self.read_pods(key, &set, &plan_set, templates, &objects, now)?;
        let outlook = match &history {
            None => Outlook::default(),
            Some(history) => {
                pods.iter_mut().for_each(|pod| pod.is_rejected = history.has_failed(&pod.revision));
                let owner = Owner { kind: Kind::StatefulSet, meta: &set.metadata };
                self.look(owner, (&plan_set, &tree), history, (&pods, &objects), clock).await?
            }
        };
        let plan_set = Set { scope: outlook.scope(), ..plan_set };
        let mut plan = plan::plan(&plan_set, &pods, |ordinal| self.has_stale_claims(&set, templates, ordinal), clock);
        if outlook.is_stale {
            // What was written decides about the pods, and is not seen yet.
            plan.steps.clear();
        }
        let mut next = self.pause_failures(key, &plan_set, &mut plan, &pods).or(outlook.next());
        if let Some(left) = plan.available_after {
            next = next.or(Next::After(left.clamp(Duration::from_millis(100), DEADLINE_MAX)));
        }
        if plan.has_stale_claims {
            next = next.or(Next::After(STALE_RETRY));
        }
        if plan.is_partial {
            next = next.or(Next::After(Duration::ZERO));
        }
        let acts = Acts {
            sets: self,
            key,
            set: &set,
            plan_set: &plan_set,
            selects: &tree["spec"]["selector"]["matchLabels"],
            templates,
            objects: &objects,
            pods: &pods,
            canary: outlook.canary.as_ref(),
        };
        let acted = acts.take(&plan.steps, |which| match which {
            Which::Current => current,
            Which::Updated => updated,
        });
        let acted = acted.await;
        // The status is true whatever became of the pods.
        let before = &tree["status"]["conditions"];
        let skipped = self.skipped_by(&plan, &objects)?;
        let conditions = with_skipped(before.as_array().map_or(&[][..], Vec::as_slice), &skipped, now);
        let conditions = canary::with_canary(&conditions, &outlook.says, now);
        self.write_status(&set, &plan_set, plan.counts, (before, conditions)).await?;
        next = next.or(acted?);
        if let Some(history) = &history {
            let live: BTreeSet<&str> = pods.iter().map(|pod| pod.revision.as_str()).chain([plan_set.current]).collect();
            let owner = Owner { kind: Kind::StatefulSet, meta: &set.metadata };
            history::truncate(owner, history, &live, set.spec.revision_history_limit, &self.context.writer).await?;
        }
        Ok(next)
    }
}

#[cfg(test)]
mod tests;
