//! Kinds of the group `core`.

use crate::strategy::{self, Strategy};

/// What is special about a kind of this group.
pub(crate) fn strategy(kind: &str) -> Option<&'static Strategy> {
    Some(match kind {
        "ConfigMap" => &strategy::CONFIG_MAP,
        "Event" => &strategy::EVENT,
        "Namespace" => &strategy::NAMESPACE,
        "Node" => &strategy::NODE,
        "Pod" => &strategy::POD,
        "Secret" => &strategy::SECRET,
        "ServiceAccount" => &strategy::SERVICE_ACCOUNT,
        _ => return None,
    })
}
