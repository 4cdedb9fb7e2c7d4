//! What the nodes report about each entry, summed up into the object's own status, as a DaemonSet's is.

use api_edge::conditions::{ACCEPTED, APPLIED, READY};
use api_edge::resources::{
    EntryStatus, FAILURES_MAX, FleetStatus, NodeFailure, REPORT_MESSAGE_BYTES_MAX, REPORT_REASON_BYTES_MAX,
};
use api_kube::{Condition, ConditionStatus, Time, set_condition};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::fleet::Standing;
use hub_runtime::events::Recorder;
use hub_runtime::kinds::Kind;
use hub_runtime::views::ObjectMeta;
use hub_runtime::writer::Target;
use hub_runtime::{ObjectRef, ReadObjectError};

/// Of an object on a node whose lease has expired.
const UNREACHABLE: &str = "NodeUnreachable";

/// What one node reports of one object, in as few bytes as the sum needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Generation of the object that the report is about.
    pub generation: i64,
    /// Whether the node has acted on the assignment as it is now. A report on an older one may be about an object of the
    /// same name that is deleted.
    pub is_current: bool,
    is_applied: bool,
    is_ready: bool,
    /// The first condition that does not hold.
    failure: Option<Box<Failure>>,
    /// Reason and message of a condition `Ready` that holds and has something to add.
    note: Option<Box<(String, String)>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Failure {
    /// Whether the node rejected the object.
    is_rejected: bool,
    reason: String,
    message: String,
}

impl Report {
    /// Takes from a node's report what the sum needs, and no more of its texts than an object's status has space for: they
    /// are the node's, and the status is not.
    pub fn of(entry: &EntryStatus, is_current: bool) -> Self {
        let find = |r#type: &str| entry.conditions.iter().find(|one| one.r#type == r#type);
        let is_true = |r#type: &str| find(r#type).is_some_and(Condition::is_true);
        let wrong = [ACCEPTED, APPLIED, READY].into_iter().filter_map(find).find(|condition| !condition.is_true());
        let note = find(READY).filter(|ready| ready.is_true() && !ready.message.is_empty());
        let texts = |condition: &Condition| {
            let cut = |text: &str, bytes_max| text[..text.floor_char_boundary(bytes_max)].to_owned();
            (cut(&condition.reason, REPORT_REASON_BYTES_MAX), cut(&condition.message, REPORT_MESSAGE_BYTES_MAX))
        };
        Self {
            generation: entry.generation,
            is_current,
            is_applied: is_true(APPLIED),
            is_ready: is_true(READY),
            failure: wrong.map(|wrong| {
                let (reason, message) = texts(wrong);
                Box::new(Failure { is_rejected: wrong.r#type == ACCEPTED, reason, message })
            }),
            note: note.map(|ready| Box::new(texts(ready))),
        }
    }
}

impl Report {
    /// Whether the node rejected the object. That holds until the object changes, also when nobody hears of the node.
    fn is_rejected(&self) -> bool {
        self.failure.as_ref().is_some_and(|failure| failure.is_rejected)
    }
}

/// Sums up what all nodes report of one object.
pub(crate) fn sum_up(old: &FleetStatus, standing: &Standing<'_>, now: Timestamp) -> FleetStatus {
    let Standing { generation, problem, nodes, unreachable } = standing;
    let generation = *generation;
    let mut status = FleetStatus {
        observed_generation: generation,
        desired: u32::try_from(nodes.len()).unwrap_or(u32::MAX),
        conditions: old.conditions.clone(),
        ..FleetStatus::default()
    };
    // Once applied, an object is not doubted again whenever something else is added to a node's assignment.
    let was_applied = old.observed_generation == generation
        && old.conditions.iter().any(|condition| condition.r#type == APPLIED && condition.is_true());
    let mut rejected: Option<(&str, &Failure)> = None;
    let mut failed: Option<(&str, &Failure)> = None;
    // It works, and there is something to say about how.
    let mut degraded: Option<(&str, &(String, String))> = None;
    for (node, report) in nodes {
        let report = report.filter(|report| report.generation == generation && (was_applied || report.is_current));
        let Some(report) = report else { continue };
        status.applied += u32::from(report.is_applied);
        if unreachable.contains(node) && !report.is_rejected() {
            // What it took over is on its disk; how that fares, nobody knows.
            continue;
        }
        status.ready += u32::from(report.is_ready);
        if let Some(note) = &report.note {
            degraded.get_or_insert((node, note));
        }
        let Some(failure) = &report.failure else { continue };
        if failure.is_rejected {
            rejected.get_or_insert((node, failure));
        }
        failed.get_or_insert((node, failure));
        if status.failures.len() < FAILURES_MAX {
            let (reason, message) = (failure.reason.clone(), failure.message.clone());
            status.failures.push(NodeFailure { node: (*node).to_owned(), reason, message });
        }
    }
    for node in unreachable {
        if status.failures.len() < FAILURES_MAX && !status.failures.iter().any(|failure| failure.node == *node) {
            let (node, reason) = ((*node).to_owned(), UNREACHABLE.to_owned());
            status.failures.push(NodeFailure { node, reason, message: "the node's lease has expired".to_owned() });
        }
    }
    let counted = |count: u32| format!("{count} of {} nodes", status.desired);
    let of_node = |node: &str, message: &str| format!("{message} (node {node})");
    let accepted = match (problem, rejected) {
        (Some(problem), _) => Condition::new(ACCEPTED, false, problem.reason, problem.message.clone()),
        (None, Some((node, failure))) => {
            Condition::new(ACCEPTED, false, &failure.reason, of_node(node, &failure.message))
        }
        (None, None) => Condition::new(ACCEPTED, true, "Accepted", ""),
    };
    let progress = |r#type: &str, count: u32, done: &str| {
        if let Some(problem) = problem {
            return Condition::new(r#type, false, problem.reason, problem.message.clone());
        }
        if count == status.desired {
            return Condition::new(r#type, true, done, counted(count));
        }
        match failed {
            Some((node, failure)) if r#type == READY || rejected.is_some() => {
                Condition::new(r#type, false, &failure.reason, of_node(node, &failure.message))
            }
            _ => match unreachable.first() {
                Some(first) if r#type == READY => {
                    let silent = match unreachable.len() {
                        1 => format!("node {first} is out of reach: its lease has expired"),
                        count => format!("{count} of {} nodes are out of reach, {first} among them", status.desired),
                    };
                    Condition::new(r#type, ConditionStatus::Unknown, UNREACHABLE, silent)
                }
                _ => Condition::new(r#type, false, "Waiting", counted(count)),
            },
        }
    };
    let applied = progress(APPLIED, status.applied, "Applied");
    let mut ready = progress(READY, status.ready, "Running");
    if let (true, Some((node, (reason, message)))) = (ready.is_true(), degraded) {
        ready = Condition::new(READY, true, reason, of_node(node, message));
    }
    for condition in [accepted, applied, ready] {
        set_condition(&mut status.conditions, condition.for_generation(generation), Time::from(now));
    }
    status
}

/// An object's status as it is written now.
pub(crate) struct Written {
    pub uid: String,
    pub status: FleetStatus,
}

/// Reads the status of an object; one that does not read as ours is replaced.
pub(crate) fn read(object: &ObjectRef) -> Result<Written, ReadObjectError> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct View<'a> {
        #[serde(borrow)]
        metadata: ObjectMeta<'a>,
        status: Value,
    }
    let view: View<'_> = object.view()?;
    let status = serde_json::from_value(view.status).unwrap_or_default();
    Ok(Written { uid: view.metadata.uid.to_string(), status })
}

/// An Event for what a person should know: a rejection, a failure, and its end.
pub(crate) fn emit_event(kind: Kind, object: Target<'_>, old: &FleetStatus, new: &FleetStatus, recorder: &Recorder) {
    let find = |status: &FleetStatus, r#type: &str| status.conditions.iter().find(|one| one.r#type == r#type).cloned();
    for r#type in [ACCEPTED, READY] {
        let (before, Some(after)) = (find(old, r#type), find(new, r#type)) else { continue };
        let is_same =
            before.as_ref().is_some_and(|before| before.status == after.status && before.reason == after.reason);
        let is_unknown = |one: &Condition| one.status == ConditionStatus::Unknown;
        // The node has an Event when it gets out of reach and when it is back; each of its objects need not have them, too.
        let is_of_node = is_unknown(&after) || (after.is_true() && before.as_ref().is_some_and(is_unknown));
        if is_same || is_of_node || after.reason == "Waiting" {
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
