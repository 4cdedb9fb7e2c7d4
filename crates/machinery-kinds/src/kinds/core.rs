//! Kinds of the group `core`.

pub(crate) mod pod;
mod pod_template;
mod replication_controller;

use crate::strategy::{self, Strategy};

/// What is special about a kind of this group.
pub(crate) fn strategy(kind: &str) -> Option<&'static Strategy> {
    Some(match kind {
        "ConfigMap" => &strategy::CONFIG_MAP,
        "Event" => &strategy::EVENT,
        "Namespace" => &strategy::NAMESPACE,
        "Node" => &strategy::NODE,
        "Pod" => &pod::POD,
        "PodTemplate" => &pod_template::POD_TEMPLATE,
        "ReplicationController" => &replication_controller::REPLICATION_CONTROLLER,
        "Secret" => &strategy::SECRET,
        "ServiceAccount" => &strategy::SERVICE_ACCOUNT,
        _ => return None,
    })
}
