//! What a disruption budget's status says: a plain function of its spec, its pods and the time.

use std::collections::BTreeMap;
use std::time::Duration;

use api_kube::IntOrPercent;
use api_kube::int_or_percent::{IntOrPercentError, Rounding};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use hub_runtime::events::seconds;
use hub_runtime::views::time;

/// An eviction that has not deleted its pod after this time will not: the pod counts again.
pub(super) const DELETION_TIMEOUT: Duration = Duration::from_secs(2 * 60);
/// Nor will one that has set `DisruptionTarget` and not deleted the pod.
const STALE_TIMEOUT: Duration = Duration::from_secs(2 * 60);

/// What must stay up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    /// So many pods, whatever their number should be.
    MinAvailable(i64),
    /// This share of the pods that there should be.
    MinShare(IntOrPercent),
    /// All of the pods that there should be but these.
    MaxUnavailable(IntOrPercent),
    /// Nothing is said.
    None,
}

impl Limit {
    /// Of a budget's `minAvailable` and `maxUnavailable`.
    pub fn of(min_available: Option<IntOrPercent>, max_unavailable: Option<IntOrPercent>) -> Self {
        match (max_unavailable, min_available) {
            (Some(max), _) => Self::MaxUnavailable(max),
            (None, Some(IntOrPercent::Int(min))) => Self::MinAvailable(i64::from(min)),
            (None, Some(share)) => Self::MinShare(share),
            (None, None) => Self::None,
        }
    }

    /// Whether it takes to know how many pods there should be.
    pub fn needs_scale(&self) -> bool {
        matches!(self, Self::MinShare(_) | Self::MaxUnavailable(_))
    }
}

/// One of the pods that a budget selects.
#[derive(Clone, Debug, Default)]
pub(super) struct Pod {
    pub name: String,
    pub is_terminating: bool,
    pub is_ready: bool,
}

/// A budget's status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Status {
    pub expected: i64,
    pub desired_healthy: i64,
    pub current_healthy: i64,
    pub allowed: i64,
    /// When each pod was to be evicted that is not deleted yet.
    pub disrupted: BTreeMap<String, Timestamp>,
}

/// What becomes of a budget.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub status: Status,
    /// When the first eviction that is awaited will be given up.
    pub recheck_after: Option<Duration>,
    /// Pods whose eviction is given up now.
    pub not_deleted: Vec<String>,
}

/// Decides. `expected` is how many pods there should be by their controllers, for a limit that [needs](Limit::needs_scale) it.
///
/// # Errors
/// When the limit is a text that is no percentage.
pub(super) fn status(
    limit: &Limit,
    pods: &[Pod],
    expected: i64,
    disrupted: &BTreeMap<String, Timestamp>,
    now: Timestamp,
) -> Result<Outcome, IntOrPercentError> {
    let count = |limit: &IntOrPercent| {
        limit.scaled(u32::try_from(expected.max(0)).unwrap_or(u32::MAX), Rounding::Up).map(i64::from)
    };
    let (expected, desired) = match limit {
        Limit::MinAvailable(min) => (i64::try_from(pods.len()).unwrap_or(i64::MAX), *min),
        Limit::MinShare(share) => (expected, count(share)?),
        Limit::MaxUnavailable(max) => (expected, expected.saturating_sub(count(max)?).max(0)),
        Limit::None => (0, 0),
    };
    let mut outcome = Outcome::default();
    let mut healthy = 0_i64;
    for pod in pods.iter().filter(|pod| !pod.is_terminating) {
        let since = disrupted.get(&pod.name).copied();
        let is_awaited = since.is_some_and(|since| {
            let waited = Duration::try_from(now.duration_since(since)).unwrap_or_default();
            let Some(left) = DELETION_TIMEOUT.checked_sub(waited).filter(|left| !left.is_zero()) else {
                outcome.not_deleted.push(pod.name.clone());
                return false;
            };
            outcome.recheck_after = Some(outcome.recheck_after.map_or(left, |before| before.min(left)));
            outcome.status.disrupted.insert(pod.name.clone(), since);
            true
        });
        healthy += i64::from(pod.is_ready && !is_awaited);
    }
    let allowed = if expected > 0 { healthy.saturating_sub(desired).max(0) } else { 0 };
    let disrupted = outcome.status.disrupted;
    outcome.status = Status { expected, desired_healthy: desired, current_healthy: healthy, allowed, disrupted };
    Ok(outcome)
}

impl Status {
    /// The status (JSON) of a budget of this generation whose conditions are these.
    pub fn object(&self, generation: i64, conditions: &Value, now: Timestamp) -> Value {
        let (status, reason) =
            if self.allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
        let disrupted: Map<String, Value> =
            self.disrupted.iter().map(|(pod, since)| (pod.clone(), seconds(*since).into())).collect();
        let mut object = json!({
            "observedGeneration": generation,
            "disruptionsAllowed": self.allowed,
            "currentHealthy": self.current_healthy,
            "desiredHealthy": self.desired_healthy,
            "expectedPods": self.expected,
            "conditions": with_condition(conditions, (status, reason, ""), generation, now),
        });
        if !disrupted.is_empty() {
            object["disruptedPods"] = disrupted.into();
        }
        object
    }
}

/// The status of a budget that could not be looked at: nothing may be disrupted.
pub(super) fn failed(old: &Value, why: &str, now: Timestamp) -> Value {
    let mut object = if old.is_object() { old.clone() } else { json!({}) };
    let generation = old["observedGeneration"].as_i64().unwrap_or_default();
    object["disruptionsAllowed"] = 0.into();
    for count in ["currentHealthy", "desiredHealthy", "expectedPods"] {
        if object[count].is_null() {
            object[count] = 0.into();
        }
    }
    object["conditions"] = with_condition(&old["conditions"], ("False", "SyncFailed", why), generation, now);
    object
}

/// The conditions with `DisruptionAllowed` as it is now; its time changes with its status alone.
fn with_condition(
    conditions: &Value,
    (status, reason, message): (&str, &str, &str),
    generation: i64,
    now: Timestamp,
) -> Value {
    let mut conditions = conditions.as_array().cloned().unwrap_or_default();
    let mut condition = json!({
        "type": "DisruptionAllowed", "status": status, "reason": reason, "message": message,
        "observedGeneration": generation, "lastTransitionTime": seconds(now),
    });
    match conditions.iter_mut().find(|one| one["type"] == "DisruptionAllowed") {
        Some(held) => {
            if held["status"] == condition["status"] && held["lastTransitionTime"].is_string() {
                condition["lastTransitionTime"] = held["lastTransitionTime"].take();
            }
            *held = condition;
        }
        None => conditions.push(condition),
    }
    conditions.into()
}

/// `status.disruptedPods`; an entry whose time does not read is one whose time is over.
pub(super) fn disrupted(status: &Value) -> BTreeMap<String, Timestamp> {
    let pods = status["disruptedPods"].as_object();
    let entry = |(pod, since): (&String, &Value)| (pod.clone(), since.as_str().and_then(time).unwrap_or_default());
    pods.into_iter().flatten().map(entry).collect()
}

/// How long until a `DisruptionTarget` of a pod that is not on its way out does not hold any more: whoever began to evict the
/// pod has not. A kubelet takes its time, and is believed.
pub(super) fn stale_after(status: &str, reason: &str, since: Option<&str>, now: Timestamp) -> Option<Duration> {
    if status != "True" || reason == "TerminationByKubelet" {
        return None;
    }
    let since = since.and_then(time).unwrap_or_default();
    let waited = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    Some(STALE_TIMEOUT.saturating_sub(waited))
}
