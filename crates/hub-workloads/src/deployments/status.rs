//! The status of a Deployment: what its sets add up to, and whether a rollout makes progress. Plain functions.

use std::time::Duration;

use hub_runtime::events::seconds;
use hub_runtime::views::time;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::view::{Deployment, Set};
use crate::status::{self, Says, Updated};

pub(super) const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";
pub(super) const PAUSED: &str = "DeploymentPaused";
const COMPLETE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";

/// What a rollout may wait for without that being a lack of progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// Nodes that it leaves out; it is complete on the others.
    Nodes,
    /// Nodes that it leaves out; it does not begin without them.
    AllNodes,
    /// Its canary, or that there can be one.
    Canary,
}

/// Reasons of `Progressing` for them: no deadline counts with one of these.
const NODES_SKIPPED: &str = "NodesSkipped";
const CANARY_WAITING: &str = "CanaryWaiting";

impl Waits {
    fn reason(self) -> &'static str {
        match self {
            Self::Nodes | Self::AllNodes => NODES_SKIPPED,
            Self::Canary => CANARY_WAITING,
        }
    }

    fn message(self) -> &'static str {
        match self {
            Self::Nodes => "has progressed on all nodes in reach; see the condition NodesSkipped.",
            Self::AllNodes => {
                "does not begin while nodes are left out, since Recreate never has two templates at once; see the condition NodesSkipped."
            }
            Self::Canary => "waits for its canary; see the condition Canary.",
        }
    }
}

/// What the sets add up to.
pub(super) fn counted(deployment: &Deployment, sets: &[&Set], new: Option<&Set>, now: Timestamp) -> Value {
    let sum = |of: fn(&Set) -> i64| sets.iter().fold(0_i64, |sum, set| sum.saturating_add(of(set)));
    let available = sum(|set| set.status.available_replicas);
    let mut conditions = conditions(&deployment.status);
    let min_available = deployment.spec.replicas().saturating_sub(deployment.spec.strategy().limits().unavailable);
    let (status, reason, message) = match available >= min_available {
        true => ("True", "MinimumReplicasAvailable", "Deployment has minimum availability."),
        false => ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability."),
    };
    let says = Says { r#type: AVAILABLE, status, reason, message };
    status::set(&mut conditions, says, Updated::Noted, now);
    json!({
        "observedGeneration": deployment.metadata.generation,
        "replicas": sum(|set| set.status.replicas),
        "updatedReplicas": new.map_or(0, |new| new.status.replicas),
        "readyReplicas": sum(|set| set.status.ready_replicas),
        "availableReplicas": available,
        "unavailableReplicas": sum(|set| set.spec.replicas).saturating_sub(available).max(0),
        "terminatingReplicas": sum(|set| set.status.terminating_replicas),
        "collisionCount": deployment.status["collisionCount"],
        "conditions": conditions,
    })
}

pub(super) fn conditions(status: &Value) -> Vec<Value> {
    status["conditions"].as_array().cloned().unwrap_or_default()
}

/// A Deployment's conditions say when they were last written, which those of other kinds do not: what `conditions` have that did
/// not say the same before is written now.
pub(super) fn with_update_times(before: &[Value], mut conditions: Vec<Value>, now: Timestamp) -> Vec<Value> {
    for condition in conditions.iter_mut().filter(|condition| condition["lastUpdateTime"].is_null()) {
        let is_same = |held: &&Value| {
            ["type", "status", "reason", "message"].iter().all(|field| held[*field] == condition[*field])
        };
        let held = before.iter().find(is_same).map(|held| held["lastUpdateTime"].clone());
        let written = held.filter(|time| !time.is_null()).unwrap_or_else(|| seconds(now).into());
        condition["lastUpdateTime"] = written;
    }
    conditions
}

/// Sets the condition `Progressing` of a status.
pub(super) fn set_progressing(status: &mut Value, value: &str, reason: &str, message: &str, now: Timestamp) {
    let mut conditions = conditions(status);
    let says = Says { r#type: PROGRESSING, status: value, reason, message };
    status::set(&mut conditions, says, Updated::Noted, now);
    status["conditions"] = conditions.into();
}

/// Says in a counted status how the rollout fares, against what the Deployment says so far.
pub(super) fn judge_progress(
    deployment: &Deployment,
    sets: &[&Set],
    new: Option<&Set>,
    waits_for: Option<Waits>,
    status: &mut Value,
    now: Timestamp,
) {
    let mut conditions = conditions(status);
    let current = status::find(&conditions, PROGRESSING).cloned();
    let subject = |what: &str| match new {
        Some(new) => format!("ReplicaSet {:?} {what}", new.metadata.name),
        None => format!("Deployment {:?} {what}", deployment.metadata.name),
    };
    let is_settled = status["replicas"] == status["updatedReplicas"]
        && current.as_ref().is_some_and(|current| current["reason"] == COMPLETE);
    let deadline = deployment.spec.progress_deadline();
    if deadline.is_none() {
        status::remove(&mut conditions, PROGRESSING);
    }
    if let Some(deadline) = deadline.filter(|_| !is_settled) {
        // A canary that waits is no complete rollout, even when there are to be no pods.
        if is_complete(deployment, status) && waits_for != Some(Waits::Canary) {
            let message = subject("has successfully progressed.");
            let says = Says { r#type: PROGRESSING, status: "True", reason: COMPLETE, message: &message };
            status::set(&mut conditions, says, Updated::Noted, now);
        } else if let Some(waits) = waits_for {
            let message = subject(waits.message());
            let says = Says { r#type: PROGRESSING, status: "True", reason: waits.reason(), message: &message };
            status::set(&mut conditions, says, Updated::Noted, now);
        } else if has_progressed(&deployment.status, status) || current.as_ref().is_some_and(has_waited) {
            let message = subject("is progressing.");
            let says = Says { r#type: PROGRESSING, status: "True", reason: "ReplicaSetUpdated", message: &message };
            // Every step counts, so that the deadline begins anew with it; the transition does not.
            let since = current.filter(|current| current["status"] == "True");
            status::remove(&mut conditions, PROGRESSING);
            status::set(&mut conditions, says, Updated::Noted, now);
            if let (Some(since), Some(condition)) = (since, conditions.last_mut()) {
                condition["lastTransitionTime"] = since["lastTransitionTime"].clone();
            }
        } else if current.as_ref().is_some_and(|current| is_timed_out(current, deadline, now)) {
            let message = subject("has timed out progressing.");
            let says = Says { r#type: PROGRESSING, status: "False", reason: TIMED_OUT, message: &message };
            status::set(&mut conditions, says, Updated::Noted, now);
        }
    }
    let failure_of = |set: &Set| status::find(&set.status.conditions, REPLICA_FAILURE).cloned();
    let failure = new.and_then(failure_of).or_else(|| sets.iter().find_map(|set| failure_of(set)));
    status::remove_unless_same(&mut conditions, REPLICA_FAILURE, failure.as_ref());
    if let Some(mut failure) = failure.filter(|_| status::find(&conditions, REPLICA_FAILURE).is_none()) {
        failure["lastUpdateTime"] = failure["lastTransitionTime"].clone();
        conditions.push(failure);
    }
    status["conditions"] = conditions.into();
}

/// Whether all pods are of the new template and available, and no old one is left.
pub(super) fn is_complete(deployment: &Deployment, status: &Value) -> bool {
    let desired = deployment.spec.replicas();
    let is_desired = |field: &str| status[field].as_i64().unwrap_or_default() == desired;
    is_desired("updatedReplicas") && is_desired("replicas") && is_desired("availableReplicas")
}

/// Whether a status says that the last rollout was complete.
pub(super) fn was_complete(status: &Value) -> bool {
    let conditions = status["conditions"].as_array();
    conditions.and_then(|all| status::find(all, PROGRESSING)).is_some_and(|current| current["reason"] == COMPLETE)
}

/// Whether no deadline has counted so far.
fn has_waited(current: &Value) -> bool {
    matches!(current["reason"].as_str(), Some(NODES_SKIPPED | CANARY_WAITING))
}

fn has_progressed(before: &Value, after: &Value) -> bool {
    let number = |status: &Value, field: &str| status[field].as_i64().unwrap_or_default();
    let more = |field: &str| number(after, field) > number(before, field);
    let old = |status: &Value| number(status, "replicas") - number(status, "updatedReplicas");
    more("updatedReplicas") || old(after) < old(before) || more("readyReplicas") || more("availableReplicas")
}

fn is_timed_out(current: &Value, deadline: i64, now: Timestamp) -> bool {
    match current["reason"].as_str() {
        Some(TIMED_OUT) => true,
        Some(COMPLETE) => false,
        _ => left(current, deadline, now).is_some_and(|left| left.is_zero()),
    }
}

/// How long the rollout has for its next step; `None` when that is not known.
fn left(current: &Value, deadline: i64, now: Timestamp) -> Option<Duration> {
    let since = time(current["lastUpdateTime"].as_str()?)?;
    let waited = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    Some(Duration::from_secs(deadline.max(0).unsigned_abs()).saturating_sub(waited))
}

/// When a rollout that makes no progress is to be looked at again.
pub(super) fn look_again(deployment: &Deployment, status: &Value, now: Timestamp) -> Option<Duration> {
    let deadline = deployment.spec.progress_deadline()?;
    let conditions = conditions(status);
    let current = status::find(&conditions, PROGRESSING)?;
    if current["reason"] == TIMED_OUT || has_waited(current) || is_complete(deployment, status) {
        return None;
    }
    // Times are written in whole seconds.
    left(current, deadline, now).map(|left| left + Duration::from_secs(1))
}

/// What pausing and resuming say, so that a pause does not count as a lack of progress. `None` when nothing is to be said.
pub(super) fn pause(deployment: &Deployment) -> Option<(&'static str, &'static str)> {
    deployment.spec.progress_deadline_seconds?;
    let conditions = conditions(&deployment.status);
    let reason = status::find(&conditions, PROGRESSING).and_then(|current| current["reason"].as_str());
    match (deployment.spec.paused, reason) {
        (_, Some(TIMED_OUT)) | (true, Some(PAUSED)) => None,
        (true, _) => Some((PAUSED, "Deployment is paused")),
        (false, Some(PAUSED)) => Some(("DeploymentResumed", "Deployment is resumed")),
        (false, _) => None,
    }
}

#[cfg(test)]
mod tests;
