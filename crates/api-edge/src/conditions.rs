//! Conditions as Kubernetes writes them (`metav1.Condition`), for the status of our own kinds.

use serde::{Deserialize, Serialize};

/// The object is well formed and refers to things that exist.
pub const ACCEPTED: &str = "Accepted";
/// Every node that should run it has taken it over.
pub const APPLIED: &str = "Applied";
/// It does its work everywhere: the device answers, the rule runs.
pub const READY: &str = "Ready";

/// One condition of a status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// [`ACCEPTED`], [`APPLIED`] or [`READY`].
    pub r#type: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// One word for programs, in CamelCase.
    pub reason: String,
    /// A sentence for people: what is wrong, where, and the next step.
    #[serde(default)]
    pub message: String,
    /// Generation of the object that this speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// RFC 3339 time at which `status` last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<String>,
}

impl Condition {
    /// A condition with no time and no generation yet; the writer of the status adds them.
    pub fn new(r#type: &str, is_true: bool, reason: &str, message: impl Into<String>) -> Self {
        Self {
            r#type: r#type.to_owned(),
            status: if is_true { "True" } else { "False" }.to_owned(),
            reason: reason.to_owned(),
            message: message.into(),
            observed_generation: None,
            last_transition_time: None,
        }
    }

    /// Whether the condition holds.
    pub fn is_true(&self) -> bool {
        self.status == "True"
    }
}

/// Puts `new` among `conditions`; its transition time is `now` only when its status differs from the old one's.
pub fn set(conditions: &mut Vec<Condition>, mut new: Condition, now: &str) {
    match conditions.iter_mut().find(|old| old.r#type == new.r#type) {
        Some(old) => {
            let unchanged = old.status == new.status;
            new.last_transition_time = match (&old.last_transition_time, unchanged) {
                (Some(time), true) => Some(time.clone()),
                _ => Some(now.to_owned()),
            };
            *old = new;
        }
        None => {
            new.last_transition_time = Some(now.to_owned());
            conditions.push(new);
        }
    }
}
