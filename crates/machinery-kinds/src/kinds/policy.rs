//! Kinds of the group `policy`.

mod pod_disruption_budget;

use crate::strategy::Strategy;

/// What is special about a kind of this group.
pub(crate) fn strategy(kind: &str) -> Option<&'static Strategy> {
    Some(match kind {
        "PodDisruptionBudget" => &pod_disruption_budget::STRATEGY,
        _ => return None,
    })
}
