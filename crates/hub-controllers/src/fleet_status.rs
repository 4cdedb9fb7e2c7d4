//! What the nodes tell about each entry, summed up into the object's own status, as a DaemonSet's is.

use std::collections::BTreeMap;
use std::sync::Arc;

use api_edge::conditions::{self, ACCEPTED, APPLIED, Condition, READY};
use api_edge::resources::{
    EntryStatus, FAILURES_MAX, FleetStatus, NodeAssignmentSpec, NodeAssignmentStatus, NodeFailure,
};
use jiff::Timestamp;
use serde_json::Value;

use crate::assignments::{Fleet, Problem, Resolved, problem_key};
use crate::cache::Objects;
use crate::daemonsets::key;
use crate::driver::FirstFailure;
use crate::events::{Recorder, seconds};
use crate::kinds::Kind;
use crate::writer::{WriteError, Writer};

/// Kind, namespace and name of an entry.
type EntryKey<'a> = (&'a str, &'a str, &'a str);

/// How one node fares with one object.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OnNode {
    pub node: String,
    /// Generation that the assignment asks for.
    pub wanted: i64,
    /// What the node has told, if it has.
    pub told: Option<EntryStatus>,
    /// Whether the node has acted on the assignment as it stands now. What it told of an older one may be about an
    /// object of the same name that is gone.
    pub is_current: bool,
}

/// Sums up what all nodes tell of one object.
pub(crate) fn sum_up(
    old: &FleetStatus,
    generation: i64,
    problem: Option<&Problem>,
    nodes: &[OnNode],
    now: Timestamp,
) -> FleetStatus {
    let mut status = FleetStatus {
        observed_generation: generation,
        desired: u32::try_from(nodes.len()).unwrap_or(u32::MAX),
        conditions: old.conditions.clone(),
        ..FleetStatus::default()
    };
    // Once applied, an object is not doubted again whenever something else is added to a node's assignment.
    let was_applied = old.observed_generation == generation
        && old.conditions.iter().any(|condition| condition.r#type == APPLIED && condition.is_true());
    let mut refused: Option<(String, Condition)> = None;
    let mut unready: Option<NodeFailure> = None;
    // It works, and there is something to say about how.
    let mut limping: Option<(String, Condition)> = None;
    for on_node in nodes {
        let told = on_node.told.as_ref().filter(|told| told.generation == on_node.wanted);
        let told = told.filter(|_| was_applied || on_node.is_current);
        let find = |r#type: &str| told.and_then(|told| told.conditions.iter().find(|one| one.r#type == r#type));
        let is_true = |r#type: &str| find(r#type).is_some_and(Condition::is_true);
        status.applied += u32::from(is_true(APPLIED));
        status.ready += u32::from(is_true(READY));
        if let Some(ready) = find(READY).filter(|ready| ready.is_true() && !ready.message.is_empty()) {
            limping.get_or_insert_with(|| (on_node.node.clone(), ready.clone()));
        }
        let wrong = [ACCEPTED, APPLIED, READY].into_iter().filter_map(find).find(|condition| !condition.is_true());
        if let Some(wrong) = wrong {
            let failure = NodeFailure {
                node: on_node.node.clone(),
                reason: wrong.reason.clone(),
                message: wrong.message.clone(),
            };
            if wrong.r#type == ACCEPTED && refused.is_none() {
                refused = Some((on_node.node.clone(), wrong.clone()));
            }
            unready.get_or_insert_with(|| failure.clone());
            if status.failures.len() < FAILURES_MAX {
                status.failures.push(failure);
            }
        }
    }
    let counted = |count: u32| format!("{count} of {} nodes", status.desired);
    let accepted = match (problem, &refused) {
        (Some(problem), _) => Condition::new(ACCEPTED, false, problem.reason, problem.message.clone()),
        (None, Some((node, wrong))) => {
            Condition::new(ACCEPTED, false, &wrong.reason, format!("{} (node {node})", wrong.message))
        }
        (None, None) => Condition::new(ACCEPTED, true, "Accepted", ""),
    };
    let progress = |r#type: &str, count: u32, done: &str, waiting: &str| {
        if let Some(problem) = problem {
            return Condition::new(r#type, false, problem.reason, problem.message.clone());
        }
        if count == status.desired {
            return Condition::new(r#type, true, done, counted(count));
        }
        match &unready {
            Some(failure) if r#type == READY || refused.is_some() => {
                Condition::new(r#type, false, &failure.reason, format!("{} (node {})", failure.message, failure.node))
            }
            _ => Condition::new(r#type, false, waiting, counted(count)),
        }
    };
    let applied = progress(APPLIED, status.applied, "Applied", "Waiting");
    let mut ready = progress(READY, status.ready, "Running", "Waiting");
    if let (true, Some((node, told))) = (ready.is_true(), limping) {
        ready = Condition::new(READY, true, &told.reason, format!("{} (node {node})", told.message));
    }
    let now = seconds(now);
    for mut condition in [accepted, applied, ready] {
        condition.observed_generation = Some(generation);
        conditions::set(&mut status.conditions, condition, &now);
    }
    status
}

/// What every node tells of every entry, by the uid of its object.
fn gather(assignments: &Objects) -> BTreeMap<String, Vec<OnNode>> {
    let mut gathered: BTreeMap<String, Vec<OnNode>> = BTreeMap::new();
    for assignment in assignments.values() {
        // A node writes its own status: what does not read as one says nothing.
        let status: NodeAssignmentStatus = serde_json::from_value(assignment["status"].clone()).unwrap_or_default();
        let is_current = assignment["metadata"]["generation"].as_i64() <= Some(status.observed_generation);
        let spec: NodeAssignmentSpec = serde_json::from_value(assignment["spec"].clone()).unwrap_or_default();
        let mut told: BTreeMap<(String, String, String), EntryStatus> = status
            .entries
            .into_iter()
            .map(|entry| ((entry.kind.clone(), entry.namespace.clone(), entry.name.clone()), entry))
            .collect();
        for entry in spec.entries {
            let told = told.remove(&(entry.kind, entry.namespace, entry.name));
            let on_node = OnNode { node: spec.node_name.clone(), wanted: entry.generation, told, is_current };
            gathered.entry(entry.uid).or_default().push(on_node);
        }
    }
    gathered
}

/// Writes the status of every object whose sum has changed.
pub(crate) async fn reconcile(
    fleet: &Fleet,
    resolved: &Resolved,
    assignments: &Objects,
    writer: &Writer,
    recorder: &Recorder,
    now: Timestamp,
) -> Result<(), WriteError> {
    let gathered = gather(assignments);
    let all =
        std::iter::once((Kind::Device, &fleet.devices)).chain(fleet.spread.iter().map(|(kind, list)| (*kind, list)));
    // Which nodes should run an object is what was just resolved; the assignments in the cache may be a moment behind.
    let mut desired: BTreeMap<EntryKey<'_>, Vec<(&str, i64)>> = BTreeMap::new();
    for (node, entries) in &resolved.by_node {
        for entry in entries {
            let key = (entry.kind.as_str(), entry.namespace.as_str(), entry.name.as_str());
            desired.entry(key).or_default().push((node, entry.generation));
        }
    }
    let mut failures = FirstFailure::default();
    for (kind, objects) in all {
        for object in objects.values().filter(|object| object["metadata"]["deletionTimestamp"].is_null()) {
            let (namespace, name) = key(object);
            let told = object["metadata"]["uid"].as_str().and_then(|uid| gathered.get(uid));
            let nodes: Vec<OnNode> = desired
                .get(&(kind.name(), namespace, name))
                .into_iter()
                .flatten()
                .map(|(node, generation)| {
                    let found = told.into_iter().flatten().find(|one| one.node == *node);
                    OnNode {
                        node: (*node).to_owned(),
                        wanted: *generation,
                        told: found.and_then(|one| one.told.clone()),
                        is_current: found.is_some_and(|one| one.is_current),
                    }
                })
                .collect();
            let problem = resolved.problems.get(&problem_key(kind, object));
            failures.note(write_if_changed(kind, object, problem, &nodes, writer, recorder, now).await);
        }
    }
    failures.into_result()
}

async fn write_if_changed(
    kind: Kind,
    object: &Arc<Value>,
    problem: Option<&Problem>,
    nodes: &[OnNode],
    writer: &Writer,
    recorder: &Recorder,
    now: Timestamp,
) -> Result<(), WriteError> {
    let old: FleetStatus = serde_json::from_value(object["status"].clone()).unwrap_or_default();
    let generation = object["metadata"]["generation"].as_i64().unwrap_or_default();
    let new = sum_up(&old, generation, problem, nodes, now);
    if new == old {
        return Ok(());
    }
    let mut status = serde_json::to_value(&new).unwrap_or_default();
    if new.failures.is_empty() {
        // A merge keeps what is not named.
        status["failures"] = Value::Null;
    }
    if writer.merge_status(kind, key(object), &status).await? {
        announce(kind, object, &old, &new, recorder);
    }
    Ok(())
}

/// An Event for what a person would want to know: a refusal, a failure, and its end.
fn announce(kind: Kind, object: &Value, old: &FleetStatus, new: &FleetStatus, recorder: &Recorder) {
    let find = |status: &FleetStatus, r#type: &str| status.conditions.iter().find(|one| one.r#type == r#type).cloned();
    for r#type in [ACCEPTED, READY] {
        let (before, Some(after)) = (find(old, r#type), find(new, r#type)) else { continue };
        let is_same = before.is_some_and(|before| before.status == after.status && before.reason == after.reason);
        if is_same || after.reason == "Waiting" {
            continue;
        }
        match (r#type, after.is_true()) {
            (_, false) => {
                recorder.warning(kind, object, &after.reason, after.message.clone());
                return;
            }
            (READY, true) => recorder.normal(kind, object, "Ready", format!("Runs on {}", after.message)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
