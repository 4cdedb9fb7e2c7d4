//! Kinds of the group `events.k8s.io`.

use super::core::event;
use crate::strategy::Strategy;

/// What is special about a kind of this group.
pub(crate) fn strategy(kind: &str) -> Option<&'static Strategy> {
    Some(match kind {
        "Event" => &event::IN_EVENTS_GROUP,
        _ => return None,
    })
}
