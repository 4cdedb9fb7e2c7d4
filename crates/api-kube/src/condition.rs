//! Conditions as Kubernetes writes them (`metav1.Condition`).

use serde::{Deserialize, Serialize};

use crate::Time;

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Nobody can say.
    #[default]
    Unknown,
}

impl ConditionStatus {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for ConditionStatus {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// One condition of a status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What it is about, such as `Ready`.
    pub r#type: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// One identifier for programs, in CamelCase.
    pub reason: String,
    /// A sentence for people: what is wrong, where, and the next step.
    #[serde(default)]
    pub message: String,
    /// Generation of the object that this speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When `status` last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Time>,
}

impl Condition {
    /// A condition with no time and no generation yet; [`set_condition`] adds the time.
    pub fn new(r#type: &str, status: impl Into<ConditionStatus>, reason: &str, message: impl Into<String>) -> Self {
        Self {
            r#type: r#type.to_owned(),
            status: status.into(),
            reason: reason.to_owned(),
            message: message.into(),
            observed_generation: None,
            last_transition_time: None,
        }
    }

    /// The same, about an object's generation.
    #[must_use]
    pub fn for_generation(mut self, generation: i64) -> Self {
        self.observed_generation = Some(generation);
        self
    }

    /// Whether the condition holds.
    pub fn is_true(&self) -> bool {
        self.status == ConditionStatus::True
    }
}

/// Puts `new` among `conditions` and returns whether anything changed. Its transition time is `now` only when its status
/// differs from the old one's, so that a status that says the same is not written again.
pub fn set_condition(conditions: &mut Vec<Condition>, mut new: Condition, now: Time) -> bool {
    let Some(old) = conditions.iter_mut().find(|old| old.r#type == new.r#type) else {
        new.last_transition_time = Some(now);
        conditions.push(new);
        return true;
    };
    new.last_transition_time = match old.last_transition_time {
        Some(time) if old.status == new.status => Some(time),
        _ => Some(now),
    };
    let is_changed = *old != new;
    *old = new;
    is_changed
}

/// The condition of a type.
pub fn find_condition<'c>(conditions: &'c [Condition], r#type: &str) -> Option<&'c Condition> {
    conditions.iter().find(|condition| condition.r#type == r#type)
}
