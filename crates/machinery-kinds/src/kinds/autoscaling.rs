//! Kinds of the group `autoscaling`. Version 2 is the one in which objects are stored.

mod rules;
#[cfg(test)]
mod tests;
mod v1;
mod v2;

use crate::strategy::Strategy;

/// What is special about a kind of this group.
pub(crate) fn strategy(version: &str, kind: &str) -> Option<&'static Strategy> {
    Some(match (version, kind) {
        ("v1", "HorizontalPodAutoscaler") => &v1::STRATEGY,
        (_, "HorizontalPodAutoscaler") => &v2::STRATEGY,
        _ => return None,
    })
}
