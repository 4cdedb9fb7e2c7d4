//! Kinds of the core group.

mod component_status;
mod config_map;
mod endpoints;
pub(super) mod event;
mod limit_range;
mod namespace;
mod node;
pub(crate) mod persistent_volume;
pub(crate) mod persistent_volume_claim;
pub(crate) mod pod;
mod pod_template;
mod replication_controller;
mod resource_quota;
mod secret;
pub(crate) mod service;
mod service_account;
#[cfg(test)]
mod tests;

use crate::strategy::Strategy;

/// What is special about a kind of this group.
pub(crate) fn strategy(kind: &str) -> Option<&'static Strategy> {
    Some(match kind {
        "ComponentStatus" => &component_status::STRATEGY,
        "ConfigMap" => &config_map::STRATEGY,
        "Endpoints" => &endpoints::STRATEGY,
        "Event" => &event::STRATEGY,
        "LimitRange" => &limit_range::STRATEGY,
        "Namespace" => &namespace::STRATEGY,
        "Node" => &node::STRATEGY,
        "PersistentVolume" => &persistent_volume::STRATEGY,
        "PersistentVolumeClaim" => &persistent_volume_claim::STRATEGY,
        "Pod" => &pod::POD,
        "PodTemplate" => &pod_template::POD_TEMPLATE,
        "ReplicationController" => &replication_controller::REPLICATION_CONTROLLER,
        "ResourceQuota" => &resource_quota::STRATEGY,
        "Secret" => &secret::STRATEGY,
        "Service" => &service::STRATEGY,
        "ServiceAccount" => &service_account::STRATEGY,
        _ => return None,
    })
}
