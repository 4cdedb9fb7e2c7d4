//! Kinds of the group `coordination`.

use crate::strategy::{self, Strategy};

/// What is special about a kind of this group.
pub(crate) fn strategy(kind: &str) -> Option<&'static Strategy> {
    Some(match kind {
        "Lease" => &strategy::LEASE,
        _ => return None,
    })
}
