//! `status` of a job, as it is read, changed and written.

use hub_runtime::events::seconds;
use hub_runtime::views::{Text, time};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::views::{JobConditionView, JobStatusView};

/// The status; two that are equal are not worth a write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Status {
    pub conditions: Vec<Condition>,
    pub start: Option<Timestamp>,
    pub completion: Option<Timestamp>,
    pub active: i64,
    pub ready: Option<i64>,
    pub terminating: Option<i64>,
    pub succeeded: i64,
    pub failed: i64,
    pub completed_indexes: String,
    pub failed_indexes: Option<String>,
    /// Uids of pods that ended and whose finalizer may still be there; in none of the counters yet.
    pub uncounted: Option<Uncounted>,
}

/// `uncountedTerminatedPods`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Uncounted {
    pub succeeded: Vec<String>,
    pub failed: Vec<String>,
}

/// One of the conditions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Condition {
    pub r#type: String,
    pub status: String,
    pub reason: String,
    pub message: String,
    pub probed: Option<Timestamp>,
    pub changed: Option<Timestamp>,
}

impl Status {
    /// Reads a status.
    pub fn read(view: &JobStatusView<'_>) -> Self {
        let texts = |texts: &[Text<'_>]| texts.iter().map(ToString::to_string).collect();
        Self {
            conditions: view.conditions.iter().map(Condition::read).collect(),
            start: view.start_time.as_deref().and_then(time),
            completion: view.completion_time.as_deref().and_then(time),
            active: view.active,
            ready: view.ready,
            terminating: view.terminating,
            succeeded: view.succeeded.max(0),
            failed: view.failed.max(0),
            completed_indexes: view.completed_indexes.to_string(),
            failed_indexes: view.failed_indexes.as_deref().map(str::to_owned),
            uncounted: view
                .uncounted_terminated_pods
                .as_ref()
                .map(|pods| Uncounted { succeeded: texts(&pods.succeeded), failed: texts(&pods.failed) }),
        }
    }

    /// The status as a merge: what is empty is removed, as upstream leaves it out.
    pub fn to_merge(&self) -> Value {
        let count = |count: i64| if count == 0 { Value::Null } else { count.into() };
        let text = |text: &str| if text.is_empty() { Value::Null } else { text.into() };
        let uids = |uids: &[String]| if uids.is_empty() { Value::Null } else { uids.into() };
        let conditions: Vec<Value> = self.conditions.iter().map(Condition::to_value).collect();
        json!({
            "conditions": if conditions.is_empty() { Value::Null } else { conditions.into() },
            "startTime": self.start.map(seconds),
            "completionTime": self.completion.map(seconds),
            "active": count(self.active),
            "ready": self.ready,
            "terminating": self.terminating,
            "succeeded": count(self.succeeded),
            "failed": count(self.failed),
            "completedIndexes": text(&self.completed_indexes),
            "failedIndexes": self.failed_indexes,
            "uncountedTerminatedPods": self.uncounted.as_ref().map(|pods| {
                json!({"succeeded": uids(&pods.succeeded), "failed": uids(&pods.failed)})
            }),
        })
    }

    /// A condition that is true.
    pub fn holds(&self, r#type: &str) -> Option<&Condition> {
        self.conditions.iter().find(|one| one.r#type == r#type && one.status == "True")
    }

    /// Sets a condition; whether anything changed. One that was never there is not added as false.
    pub fn set(&mut self, condition: Condition) -> bool {
        match self.conditions.iter_mut().find(|one| one.r#type == condition.r#type) {
            Some(held) => {
                let says = |one: &Condition| (one.status.clone(), one.reason.clone(), one.message.clone());
                let is_new = says(held) != says(&condition);
                if is_new {
                    *held = condition;
                }
                is_new
            }
            None if condition.status == "False" => false,
            None => {
                self.conditions.push(condition);
                true
            }
        }
    }

    /// Moves pods that have no finalizer any more from the uncounted to the counters.
    pub fn count_released(&mut self, is_held: impl Fn(&str) -> bool) {
        let Some(uncounted) = &mut self.uncounted else { return };
        for (uids, counter) in
            [(&mut uncounted.succeeded, &mut self.succeeded), (&mut uncounted.failed, &mut self.failed)]
        {
            let before = uids.len();
            uids.retain(|uid| is_held(uid));
            *counter = counter.saturating_add(i64::try_from(before - uids.len()).unwrap_or_default());
        }
    }
}

impl Condition {
    /// A condition that becomes so now.
    pub fn new(r#type: &str, status: &str, reason: &str, message: &str, now: Timestamp) -> Self {
        Self {
            r#type: r#type.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            probed: Some(now),
            changed: Some(now),
        }
    }

    fn read(view: &JobConditionView<'_>) -> Self {
        Self {
            r#type: view.r#type.to_string(),
            status: view.status.to_string(),
            reason: view.reason.to_string(),
            message: view.message.to_string(),
            probed: view.last_probe_time.as_deref().and_then(time),
            changed: view.last_transition_time.as_deref().and_then(time),
        }
    }

    fn to_value(&self) -> Value {
        let mut value = json!({"type": self.r#type, "status": self.status});
        let texts = [("reason", &self.reason), ("message", &self.message)];
        for (field, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
            value[field] = text.as_str().into();
        }
        for (field, time) in [("lastProbeTime", self.probed), ("lastTransitionTime", self.changed)] {
            if let Some(time) = time {
                value[field] = seconds(time).into();
            }
        }
        value
    }
}
