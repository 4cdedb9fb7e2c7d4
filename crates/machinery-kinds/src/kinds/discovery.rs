//! Kinds of the group `discovery.k8s.io`.

mod endpoint_slice;

use crate::strategy::Strategy;

/// What is special about a kind of this group.
pub(crate) fn strategy(kind: &str) -> Option<&'static Strategy> {
    Some(match kind {
        "EndpointSlice" => &endpoint_slice::STRATEGY,
        _ => return None,
    })
}
