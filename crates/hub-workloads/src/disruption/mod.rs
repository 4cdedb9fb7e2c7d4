//! Disruption budgets: how many of the pods that a budget selects may be evicted now.
//!
//! The status is what the API server's eviction asks; each eviction that it lets through takes one of `disruptionsAllowed` and
//! notes the pod in `disruptedPods` until this controller has seen its deletion, or two minutes have passed. So the status is
//! written only over the one that it was computed from.
//!
//! ```text
//! budget changed ────────────────────────────────────────────────┐
//! pod changed ──budgets of its namespace that select it──────────┼──▶ key: a budget
//!            └──DisruptionTarget without a deletion──────────────┴──▶ key: a pod
//! ```
//!
//! How many pods there should be is asked of their controllers, as upstream asks them: Deployments by way of their ReplicaSets,
//! ReplicaSets, StatefulSets and ReplicationControllers as the reader shows them, any other kind through its `scale`.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use api_kube::IntOrPercent;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use hub_runtime::events::seconds;
use hub_runtime::kinds::Kind;
use hub_runtime::views::{LabelSelector, Labels, ObjectMeta, OwnerReference, PodView, condition, nullable};
use hub_runtime::writer::Target;
use hub_runtime::{Context, Event, Next, ObjectRef, Queue, ReconcileError, Reconciler};

use crate::UNSEEN_RETRY;
use crate::json::{merge_patch, shown_selector};
use crate::scales::{ScaleError, Scales, Workload};

mod budget;

use budget::{Limit, Outcome, Pod};

/// A budget that could not be looked at is looked at again after this time; a change usually comes first.
const FAILED_RETRY: Duration = Duration::from_secs(60);

/// What is looked at alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Key {
    /// Namespace and name of a budget.
    Budget(Box<str>, Box<str>),
    /// Of a pod that somebody has begun to evict.
    Pod(Box<str>, Box<str>),
}

/// The controller.
pub(crate) struct Disruption {
    context: Context,
    scales: Scales,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct BudgetView<'a> {
    #[serde(borrow)]
    metadata: ObjectMeta<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    spec: BudgetSpecView<'a>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct BudgetSpecView<'a> {
    min_available: Option<IntOrPercent>,
    max_unavailable: Option<IntOrPercent>,
    #[serde(borrow)]
    selector: Option<LabelSelector<'a>>,
}

impl BudgetView<'_> {
    /// Without a selector a budget selects nothing, with an empty one everything.
    fn selects(&self, labels: &Labels<'_>) -> bool {
        self.spec.selector.as_ref().is_some_and(|selector| selector.matches(labels))
    }
}

/// What is read of a workload.
#[derive(Default, Deserialize)]
#[serde(default)]
struct WorkloadView<'a> {
    #[serde(borrow)]
    metadata: ObjectMeta<'a>,
    #[serde(deserialize_with = "nullable")]
    spec: WorkloadSpecView,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WorkloadSpecView {
    replicas: Option<i64>,
}

/// How many pods there should be, and which of those that there are nobody controls.
#[derive(Default)]
struct Expected {
    count: i64,
    unmanaged: Vec<String>,
}

impl Disruption {
    pub fn new(context: Context) -> Self {
        Self { context, scales: Scales::default() }
    }

    fn budgets_of(&self, pod: &ObjectRef) -> Vec<Box<str>> {
        let Some(view) = pod.view_or_log::<PodView<'_>>() else { return Vec::new() };
        let budgets = self.context.reader.list(Kind::PodDisruptionBudget, Some(pod.namespace()));
        let selecting = budgets.filter(|budget| {
            budget.view_or_log::<BudgetView<'_>>().is_some_and(|budget| budget.selects(&view.metadata.labels))
        });
        selecting.map(|budget| budget.name().into()).collect()
    }

    fn observe_pod(&self, pod: &ObjectRef, is_current: bool, queue: &Queue<Key>) -> usize {
        let budgets = self.budgets_of(pod);
        let count = budgets.len();
        for budget in budgets {
            queue.add(Key::Budget(pod.namespace().into(), budget));
        }
        if is_current && stale_disruption(pod, self.context.clock.now()).is_some() {
            queue.add(Key::Pod(pod.namespace().into(), pod.name().into()));
        }
        count
    }

    /// Says that two budgets select a pod, once: the API evicts no such pod.
    fn warn_of_many(&self, pod: &ObjectRef) {
        let Some(view) = pod.view_or_log::<PodView<'_>>() else { return };
        let Some(first) = self.budgets_of(pod).into_iter().next() else { return };
        let (namespace, name) = (pod.namespace(), pod.name());
        let message =
            format!("Pod {namespace:?}/{name:?} matches multiple PodDisruptionBudgets.  Chose {first:?} arbitrarily.");
        let target = Target { namespace, name, uid: &view.metadata.uid };
        self.context.recorder.warning(Kind::Pod, target, "MultiplePodDisruptionBudgets", message);
    }

    async fn reconcile_budget(&self, namespace: &str, name: &str) -> Result<Next, ReconcileError> {
        let Context { reader, recorder, .. } = &self.context;
        let Some(object) = reader.get(Kind::PodDisruptionBudget, namespace, name) else { return Ok(Next::OnChange) };
        let (budget, tree): (BudgetView<'_>, Value) = (object.view()?, object.value()?);
        let target = Target { namespace, name, uid: &budget.metadata.uid };
        let objects: Vec<ObjectRef> = reader.list(Kind::Pod, Some(namespace)).collect();
        let mut pods = Vec::new();
        let mut controllers: BTreeMap<String, OwnerReference<'_>> = BTreeMap::new();
        let mut expected = Expected::default();
        for object in &objects {
            let Some(pod) = object.view_or_log::<PodView<'_>>().filter(|pod| budget.selects(&pod.metadata.labels))
            else {
                continue;
            };
            match pod.metadata.owner_references.iter().find(|owner| owner.controller) {
                Some(controller) => drop(controllers.entry(controller.uid.to_string()).or_insert(controller.clone())),
                None => expected.unmanaged.push(object.name().to_owned()),
            }
            pods.push(Pod {
                name: object.name().to_owned(),
                is_terminating: pod.metadata.is_terminating(),
                is_ready: condition(&pod.status.conditions, "Ready").is_some_and(|ready| ready.status == "True"),
            });
        }
        let limit = Limit::of(budget.spec.min_available.clone(), budget.spec.max_unavailable.clone());
        let counted = match limit.needs_scale() {
            true => self.expected(namespace, &controllers).await,
            false => Ok(0),
        };
        let now = self.context.clock.now();
        let outcome = counted.and_then(|count| {
            expected.count = count;
            let disrupted = budget::disrupted(&tree["status"]);
            budget::status(&limit, &pods, count, &disrupted, now).map_err(|error| error.to_string())
        });
        let (status, next) = match &outcome {
            Ok(Outcome { status, recheck_after, .. }) => {
                let generation = budget.metadata.generation;
                let next = recheck_after.map_or(Next::OnChange, Next::After);
                (status.object(generation, &tree["status"]["conditions"], now), next)
            }
            Err(why) => (budget::failed(&tree["status"], why, now), Next::After(FAILED_RETRY)),
        };
        let Some(patch) = merge_patch(&tree["status"], &status) else { return Ok(next) };
        let metadata = &tree["metadata"];
        // Evictions write here as well: what they took must not be given back.
        let patch = json!({
            "metadata": {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}, "status": patch,
        });
        let writer = &self.context.writer;
        if !writer.patch_status(Kind::PodDisruptionBudget, (namespace, name), &patch).await? {
            return Ok(next.or(Next::After(UNSEEN_RETRY)));
        }
        let kind = Kind::PodDisruptionBudget;
        match &outcome {
            Err(why) => {
                let message = format!("Failed to calculate the number of expected pods: {why}");
                recorder.warning(kind, target, "CalculateExpectedPodCountFailed", message);
            }
            Ok(_) if pods.is_empty() => {
                recorder.normal(kind, target, "NoPods", "No matching pods found".to_owned());
            }
            Ok(outcome) => {
                if limit.needs_scale() && !expected.unmanaged.is_empty() {
                    recorder.warning(kind, target, "UnmanagedPods", unmanaged(&tree["spec"]["selector"]));
                }
                for pod in &outcome.not_deleted {
                    self.warn_of_not_deleted(namespace, pod, name);
                }
            }
        }
        Ok(next)
    }

    fn warn_of_not_deleted(&self, namespace: &str, pod: &str, budget: &str) {
        let Some(object) = self.context.reader.get(Kind::Pod, namespace, pod) else { return };
        let Some(view) = object.view_or_log::<PodView<'_>>() else { return };
        let target = Target { namespace, name: pod, uid: &view.metadata.uid };
        let message = format!("Pod was expected by PDB {namespace}/{budget} to be deleted but it wasn't");
        self.context.recorder.warning(Kind::Pod, target, "NotDeleted", message);
    }

    /// How many pods the controllers of some pods should have; several ReplicaSets of one Deployment count once.
    async fn expected(
        &self,
        namespace: &str,
        controllers: &BTreeMap<String, OwnerReference<'_>>,
    ) -> Result<i64, String> {
        let mut scales: HashMap<String, i64> = HashMap::new();
        for controller in controllers.values() {
            let (uid, scale) = match self.known_scale(namespace, controller) {
                Some(known) => known,
                None => self.asked_scale(namespace, controller).await?,
            };
            scales.insert(uid, scale.clamp(0, i64::from(i32::MAX)));
        }
        Ok(scales.values().fold(0, |sum: i64, scale| sum.saturating_add(*scale)))
    }

    /// Uid and number of the workload that a pod's controller is, or is of, as far as the reader shows it.
    fn known_scale(&self, namespace: &str, controller: &OwnerReference<'_>) -> Option<(String, i64)> {
        let group = controller.api_version.split_once('/').map_or("", |(group, _)| group);
        let kind = match (group, &*controller.kind) {
            ("apps" | "extensions", "ReplicaSet") => Kind::ReplicaSet,
            ("apps", "StatefulSet") => Kind::StatefulSet,
            ("", "ReplicationController") => Kind::ReplicationController,
            _ => return None,
        };
        let object = self.context.reader.get(kind, namespace, &controller.name)?;
        let workload: WorkloadView<'_> = object.view_or_log()?;
        if workload.metadata.uid != controller.uid {
            return None;
        }
        let scale =
            |workload: &WorkloadView<'_>| (workload.metadata.uid.to_string(), workload.spec.replicas.unwrap_or(1));
        let Some(owner) = workload.metadata.controller().filter(|owner| &*owner.kind == "Deployment") else {
            return Some(scale(&workload));
        };
        let object = self.context.reader.get(Kind::Deployment, namespace, &owner.name)?;
        let deployment: WorkloadView<'_> = object.view_or_log()?;
        (deployment.metadata.uid == owner.uid).then(|| scale(&deployment))
    }

    async fn asked_scale(&self, namespace: &str, controller: &OwnerReference<'_>) -> Result<(String, i64), String> {
        let (api_version, kind, name) = (&*controller.api_version, &*controller.kind, &*controller.name);
        let workload = Workload { api_version, kind, namespace, name };
        let unknown = || format!("found no controllers for the pods of {kind} {name:?}");
        match self.scales.get(self.context.writer.client(), workload).await {
            Ok(scale) if *scale.uid == *controller.uid => Ok((scale.uid, scale.desired)),
            Ok(_) | Err(ScaleError::NotFound(_)) => Err(unknown()),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn reconcile_pod(&self, namespace: &str, name: &str) -> Result<Next, ReconcileError> {
        let Some(object) = self.context.reader.get(Kind::Pod, namespace, name) else { return Ok(Next::OnChange) };
        let now = self.context.clock.now();
        match stale_disruption(&object, now) {
            None => return Ok(Next::OnChange),
            Some(left) if !left.is_zero() => return Ok(Next::After(left)),
            Some(_) => {}
        }
        let pod = object.value()?;
        let mut conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        for condition in conditions.iter_mut().filter(|one| one["type"] == "DisruptionTarget") {
            *condition = json!({
                "type": "DisruptionTarget", "status": "False", "lastProbeTime": null, "lastTransitionTime": seconds(now),
            });
        }
        let metadata = &pod["metadata"];
        let patch = json!({
            "metadata": {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]},
            "status": {"conditions": conditions},
        });
        let is_done = self.context.writer.patch_status(Kind::Pod, (namespace, name), &patch).await?;
        Ok(if is_done { Next::OnChange } else { Next::After(UNSEEN_RETRY) })
    }
}

/// How long until a pod's `DisruptionTarget` does not hold any more, though it says so; `None` where it is not to be touched.
fn stale_disruption(object: &ObjectRef, now: Timestamp) -> Option<Duration> {
    let pod: PodView<'_> = object.view_or_log()?;
    if pod.metadata.is_terminating() || pod.has_ended() {
        return None;
    }
    let target = condition(&pod.status.conditions, "DisruptionTarget")?;
    let since = target.last_transition_time.as_deref();
    budget::stale_after(&target.status, &target.reason, since, now)
}

/// What a person is to know of a budget over pods without a controller.
fn unmanaged(selector: &Value) -> String {
    format!(
        "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.",
        shown_selector(selector)
    )
}

impl Reconciler for Disruption {
    type Key = Key;

    fn name(&self) -> &'static str {
        "disruption"
    }

    fn sources(&self) -> &'static [Kind] {
        // Changes of workloads bring changes of pods. They are among these so that all of them are known before the first run.
        &[
            Kind::PodDisruptionBudget,
            Kind::Pod,
            Kind::ReplicaSet,
            Kind::Deployment,
            Kind::StatefulSet,
            Kind::ReplicationController,
        ]
    }

    fn observe(&self, event: &Event, queue: &Queue<Key>) {
        match event {
            Event::Listed(kind, objects) => match kind {
                Kind::PodDisruptionBudget => {
                    for budget in objects.iter() {
                        queue.add(Key::Budget(budget.namespace().into(), budget.name().into()));
                    }
                }
                Kind::Pod => {
                    let now = self.context.clock.now();
                    for pod in objects.iter().filter(|pod| stale_disruption(pod, now).is_some()) {
                        queue.add(Key::Pod(pod.namespace().into(), pod.name().into()));
                    }
                    for budget in self.context.reader.list(Kind::PodDisruptionBudget, None) {
                        queue.add(Key::Budget(budget.namespace().into(), budget.name().into()));
                    }
                }
                _ => {}
            },
            Event::Changed(change) => match change.kind {
                Kind::PodDisruptionBudget => {
                    let budget = change.newest();
                    queue.add(Key::Budget(budget.namespace().into(), budget.name().into()));
                }
                Kind::Pod => {
                    let before = change.previous.iter().map(|pod| self.observe_pod(pod, false, queue)).sum::<usize>();
                    let after = change.current.iter().map(|pod| self.observe_pod(pod, true, queue)).sum::<usize>();
                    if after > 1 && before <= 1 {
                        change.current.iter().for_each(|pod| self.warn_of_many(pod));
                    }
                }
                _ => {}
            },
        }
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, ReconcileError> {
        match key {
            Key::Budget(namespace, name) => self.reconcile_budget(namespace, name).await,
            Key::Pod(namespace, name) => self.reconcile_pod(namespace, name).await,
        }
    }
}

#[cfg(test)]
mod tests;
