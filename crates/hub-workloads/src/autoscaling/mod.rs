//! Autoscalers: a workload has as many pods as what is measured of them asks for.
//!
//! Every fifteen seconds each autoscaler is looked at: the scale of its workload, the metrics of its pods, and what was
//! recommended lately say how many pods there should be, which is written to the workload's `scale`. A change of the autoscaler's
//! spec makes that sooner, a change of its status does not.
//!
//! ```text
//! scale ──▶ metrics ──each asks for a number──▶ the most of them ──window, rate, bounds──▶ scale
//!                                     └──▶ conditions, current metrics ──▶ status
//! ```

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use api_kube::LabelSelector;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::debug;

use hub_runtime::events::seconds;
use hub_runtime::kinds::Kind;
use hub_runtime::views::{AnyView, ObjectMeta};
use hub_runtime::writer::Target;
use hub_runtime::{Context, Event, Next, ObjectRef, Queue, ReconcileError, Reconciler};

use crate::UNSEEN_RETRY;
use crate::json::merge_patch;
use crate::scales::{Scale, Scales, Workload};

mod calculate;
mod evaluate;
mod metrics;
mod normalize;
mod views;

use calculate::{Pod, Situation, TOLERANCE, Tolerances};
use evaluate::{Evaluated, Failure, Subject, Verdict};
use metrics::Metrics;
use normalize::{Behavior, Bounds, History};
use views::{PodView, RulesView, SpecView};

/// As upstream's flag has it by default.
const PERIOD: Duration = Duration::from_secs(15);

/// Namespace and name of an autoscaler.
type Key = (Box<str>, Box<str>);

/// The controller.
pub(crate) struct Autoscaling {
    context: Context,
    scales: Scales,
    memory: Mutex<BTreeMap<Key, Memory>>,
}

/// What is remembered of an autoscaler. It can be lost: then nothing is scaled down for a while.
#[derive(Default)]
struct Memory {
    uid: String,
    /// `spec` as it was looked at last, and when.
    looked_at: Option<(String, Instant)>,
    history: History,
    /// Which pods it scales.
    selector: Option<LabelSelector>,
}

#[derive(Deserialize)]
struct AutoscalerView<'a> {
    #[serde(borrow)]
    metadata: ObjectMeta<'a>,
    #[serde(borrow)]
    spec: &'a RawValue,
}

/// A run's own copy of the status, and what it says of it.
struct Report<'a> {
    context: &'a Context,
    target: Target<'a>,
    status: Value,
}

impl Report<'_> {
    fn warning(&self, reason: &str, message: &str) {
        self.context.recorder.warning(Kind::HorizontalPodAutoscaler, self.target, reason, message.to_owned());
    }

    /// Sets a condition; its time changes with its status alone.
    fn condition(&mut self, r#type: &str, holds: bool, reason: &str, message: impl Into<String>) {
        let (status, now) = (if holds { "True" } else { "False" }, seconds(self.context.clock.now()));
        let mut conditions = self.status["conditions"].as_array().cloned().unwrap_or_default();
        let mut condition = json!({
            "type": r#type, "status": status, "lastTransitionTime": now, "reason": reason, "message": message.into(),
        });
        match conditions.iter_mut().find(|one| one["type"] == r#type) {
            Some(held) => {
                if held["status"] == status && held["lastTransitionTime"].is_string() {
                    condition["lastTransitionTime"] = held["lastTransitionTime"].take();
                }
                *held = condition;
            }
            None => conditions.push(condition),
        }
        self.status["conditions"] = conditions.into();
    }

    fn replicas(&mut self, current: i64, desired: Option<i64>) {
        self.status["currentReplicas"] = current.into();
        if let Some(desired) = desired {
            self.status["desiredReplicas"] = desired.into();
        } else if self.status["desiredReplicas"].is_null() {
            self.status["desiredReplicas"] = 0.into();
        }
    }

    fn metrics(&mut self, evaluated: &[Result<Evaluated, Failure>]) {
        // One that failed keeps its place.
        let shown = |one: &Result<Evaluated, Failure>| {
            one.as_ref().map_or_else(|_| json!({"type": ""}), |one| one.status.clone())
        };
        self.status["currentMetrics"] = evaluated.iter().map(shown).collect();
    }
}

impl Autoscaling {
    pub fn new(context: Context) -> Self {
        Self { context, scales: Scales::default(), memory: Mutex::default() }
    }

    /// How long until an autoscaler is due; `None` when it is now, which is noted.
    fn due_after(&self, key: &Key, uid: &str, spec: &str, now: Instant) -> Option<Duration> {
        let mut memory = self.memory.lock();
        let held = memory.entry(key.clone()).or_default();
        if held.uid != uid {
            *held = Memory { uid: uid.to_owned(), ..Memory::default() };
        }
        let last = held.looked_at.as_ref().filter(|(known, _)| known == spec).map(|(_, at)| *at);
        let left = last.map(|at| PERIOD.saturating_sub(now.duration_since(at))).filter(|left| !left.is_zero());
        if left.is_none() {
            held.looked_at = Some((spec.to_owned(), now));
        }
        left
    }

    /// The autoscalers of a namespace that scale some of these pods, of which one may be known to.
    fn scaling(&self, key: &Key, pods: &[PodView<'_>], selector: &LabelSelector) -> Vec<String> {
        let mut memory = self.memory.lock();
        if let Some(held) = memory.get_mut(key) {
            held.selector = Some(selector.clone());
        }
        let of_namespace = memory.iter().filter(|(other, _)| other.0 == key.0);
        let scaling = of_namespace.filter(|(_, held)| {
            held.selector
                .as_ref()
                .is_some_and(|selector| pods.iter().any(|pod| selector.matches(|label| pod.metadata.labels.get(label))))
        });
        scaling.map(|(other, _)| format!("{}/{}", other.0, other.1)).collect()
    }

    /// Looks at one autoscaler, and scales its workload.
    async fn look(&self, key: &Key, spec: &SpecView, report: &mut Report<'_>) {
        let client = self.context.writer.client();
        let reference = &spec.scale_target_ref;
        let workload = Workload {
            api_version: &reference.api_version,
            kind: &reference.kind,
            namespace: &key.0,
            name: &reference.name,
        };
        let scale = match self.scales.get(client, workload).await {
            Ok(scale) => scale,
            Err(error) => {
                report.warning("FailedGetScale", &error.to_string());
                let message = format!("the HPA controller was unable to get the target's current scale: {error}");
                report.condition("AbleToScale", false, "FailedGetScale", message);
                return;
            }
        };
        let message = "the HPA controller was able to get the target's current scale";
        report.condition("AbleToScale", true, "SucceededGetScale", message);
        let (current, now) = (scale.desired.max(0), Instant::now());
        let bounds = Bounds { min: spec.min_replicas.unwrap_or(1).max(0), max: spec.max_replicas.max(0) };
        self.with_history(key, |history| history.begin(current, now));
        let behavior = spec.behavior.as_ref().map(Behavior::read);
        let mut evaluated = Vec::new();
        let (desired, reason) = if current == 0 && bounds.min != 0 {
            let message = "scaling is disabled since the replica count of the target is zero";
            report.condition("ScalingActive", false, "ScalingDisabled", message);
            (current, String::new())
        } else if current > bounds.max {
            (bounds.max, "Current number of replicas above Spec.MaxReplicas".to_owned())
        } else if current < bounds.min {
            (bounds.min, "Current number of replicas below Spec.MinReplicas".to_owned())
        } else {
            let proposed = self.propose(key, spec, &scale, &mut evaluated, report).await;
            let Some((proposed, name)) = proposed else {
                report.replicas(current, None);
                report.metrics(&evaluated);
                return;
            };
            let reason = match proposed.cmp(&current) {
                std::cmp::Ordering::Greater => format!("{name} above target"),
                std::cmp::Ordering::Less => "All metrics below target".to_owned(),
                std::cmp::Ordering::Equal => String::new(),
            };
            let normalized = self.with_history(key, |history| {
                normalize::normalize(history, behavior.as_ref(), current, proposed, bounds, now)
            });
            report.condition("AbleToScale", true, normalized.able.0, normalized.able.1);
            report.condition("ScalingLimited", normalized.is_limited, normalized.limited.0, normalized.limited.1);
            (normalized.replicas, reason)
        };
        report.metrics(&evaluated);
        if desired == current {
            report.replicas(current, Some(current));
            return;
        }
        if let Err(error) = self.scales.set(client, workload, &scale, desired).await {
            report.warning("FailedRescale", &format!("New size: {desired}; reason: {reason}; error: {error}"));
            let message = format!("the HPA controller was unable to update the target scale: {error}");
            report.condition("AbleToScale", false, "FailedUpdateScale", message);
            report.replicas(current, None);
            return;
        }
        let message = format!("the HPA controller was able to update the target scale to {desired}");
        report.condition("AbleToScale", true, "SucceededRescale", message);
        let message = format!("New size: {desired}; reason: {reason}");
        let kind = Kind::HorizontalPodAutoscaler;
        self.context.recorder.normal(kind, report.target, "SuccessfulRescale", message);
        self.with_history(key, |history| history.scaled(behavior.as_ref(), current, desired, now));
        report.replicas(current, Some(desired));
        report.status["lastScaleTime"] = seconds(self.context.clock.now()).into();
    }

    fn with_history<T>(&self, key: &Key, act: impl FnOnce(&mut History) -> T) -> T {
        act(&mut self.memory.lock().entry(key.clone()).or_default().history)
    }

    /// How many pods the metrics ask for, and which of them does; `None` when nobody knows, which the report says.
    async fn propose(
        &self,
        key: &Key,
        spec: &SpecView,
        scale: &Scale,
        evaluated: &mut Vec<Result<Evaluated, Failure>>,
        report: &mut Report<'_>,
    ) -> Option<(i64, String)> {
        let mut invalid = |event: &str, reason: &str, said: &str, message: &str| {
            report.warning(event, said);
            report.condition("ScalingActive", false, reason, message);
            report.warning("FailedComputeMetricsReplicas", said);
        };
        if scale.selector.is_empty() {
            let message = "the HPA target's scale is missing a selector";
            invalid("SelectorRequired", "InvalidSelector", "selector is required", message);
            return None;
        }
        let selector = match scale.selector.parse::<LabelSelector>() {
            Ok(selector) => selector,
            Err(error) => {
                let message =
                    format!("couldn't convert selector into a corresponding internal selector object: {error}");
                invalid("InvalidSelector", "InvalidSelector", &message, &message);
                return None;
            }
        };
        let objects: Vec<ObjectRef> = self.context.reader.list(Kind::Pod, Some(&key.0)).collect();
        let is_selected = |object: &&ObjectRef| {
            let view = object.view_or_log::<AnyView<'_>>();
            view.is_some_and(|view| selector.matches(|label| view.metadata.labels.get(label)))
        };
        let views = objects.iter().filter(is_selected).filter_map(ObjectRef::view_or_log::<PodView<'_>>);
        let views: Vec<PodView<'_>> = views.collect();
        let scaling = self.scaling(key, &views, &selector);
        if scaling.len() > 1 {
            let message =
                format!("pods by selector {} are controlled by multiple HPAs: [{}]", scale.selector, scaling.join(" "));
            invalid("AmbiguousSelector", "AmbiguousSelector", &message, &message);
            return None;
        }
        let pods: Vec<Pod> = views.iter().map(evaluate::pod).collect();
        let current = scale.desired.max(0);
        let subject = Subject {
            metrics: Metrics {
                client: self.context.writer.client(),
                scales: &self.scales,
                namespace: &key.0,
                selector: &scale.selector,
            },
            situation: Situation { current, pods: &pods, tolerances: tolerances(spec), now: self.context.clock.now() },
            views: &views,
            existing: scale.current.max(0),
        };
        for metric in &spec.metrics {
            let one = subject.evaluate(metric).await;
            if let Err(failure) = &one {
                report.warning(failure.reason, &failure.why);
            }
            evaluated.push(one);
        }
        match evaluate::verdict(evaluated, current) {
            Verdict::Replicas { replicas, name } => {
                let message = format!("the HPA was able to successfully calculate a replica count from {name}");
                report.condition("ScalingActive", true, "ValidMetricFound", message);
                Some((replicas, name))
            }
            Verdict::Unknown { first, message } => {
                let why = format!("the HPA was unable to compute the replica count: {}", first.why);
                report.condition("ScalingActive", false, first.reason, why);
                report.warning("FailedComputeMetricsReplicas", &message);
                None
            }
        }
    }
}

/// Takes out what the API leaves out, so that the same status is not written again.
fn drop_defaults(status: &mut Value) {
    let Some(fields) = status.as_object_mut() else { return };
    fields.retain(|field, value| match field.as_str() {
        "currentMetrics" => value.as_array().is_some_and(|metrics| !metrics.is_empty()),
        "currentReplicas" => *value != 0,
        _ => true,
    });
}

/// How far a metric may be from its target without a change.
fn tolerances(spec: &SpecView) -> Tolerances {
    let of = |rules: Option<&RulesView>| {
        let tolerance = rules.and_then(|rules| rules.tolerance);
        tolerance.map_or(TOLERANCE, |tolerance| (tolerance.milli_value().max(0) as f64) / 1000.0)
    };
    let behavior = spec.behavior.as_ref();
    Tolerances {
        up: of(behavior.and_then(|behavior| behavior.scale_up.as_ref())),
        down: of(behavior.and_then(|behavior| behavior.scale_down.as_ref())),
    }
}

impl Reconciler for Autoscaling {
    type Key = Key;

    fn name(&self) -> &'static str {
        "autoscaling"
    }

    fn sources(&self) -> &'static [Kind] {
        // Pods are among these so that all of them are known before the first run.
        &[Kind::HorizontalPodAutoscaler, Kind::Pod]
    }

    fn observe(&self, event: &Event, queue: &Queue<Key>) {
        let key = |object: &ObjectRef| (object.namespace().into(), object.name().into());
        match event {
            Event::Listed(Kind::HorizontalPodAutoscaler, objects) => {
                let listed: HashSet<Key> = objects.iter().map(key).collect();
                self.memory.lock().retain(|key, _| listed.contains(key));
                listed.into_iter().for_each(|key| queue.add(key));
            }
            Event::Changed(change) if change.kind == Kind::HorizontalPodAutoscaler => queue.add(key(change.newest())),
            _ => {}
        }
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, ReconcileError> {
        let kind = Kind::HorizontalPodAutoscaler;
        let found = self.context.reader.get(kind, &key.0, &key.1);
        let Some(object) = found else {
            self.memory.lock().remove(key);
            return Ok(Next::OnChange);
        };
        let autoscaler: AutoscalerView<'_> = object.view()?;
        let meta = &autoscaler.metadata;
        if meta.is_terminating() {
            return Ok(Next::OnChange);
        }
        if let Some(left) = self.due_after(key, &meta.uid, autoscaler.spec.get(), Instant::now()) {
            return Ok(Next::After(left));
        }
        let spec: SpecView = serde_json::from_str(autoscaler.spec.get())
            .map_err(|error| ReconcileError::Rejected(format!("the spec cannot be read: {error}")))?;
        let mut old = object.value()?["status"].take();
        drop_defaults(&mut old);
        let target = Target { namespace: &key.0, name: &key.1, uid: &meta.uid };
        let status = if old.is_object() { old.clone() } else { json!({}) };
        let mut report = Report { context: &self.context, target, status };
        self.look(key, &spec, &mut report).await;
        drop_defaults(&mut report.status);
        let Some(patch) = merge_patch(&old, &report.status) else { return Ok(Next::After(PERIOD)) };
        if !self.context.writer.merge_status_of(kind, target, &patch).await? {
            debug!(?key, "An autoscaler was deleted while it was looked at.");
            return Ok(Next::After(UNSEEN_RETRY));
        }
        Ok(Next::After(PERIOD))
    }
}

#[cfg(test)]
mod tests;
