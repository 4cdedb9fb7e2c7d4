//! What is special about each built-in kind: one module per group, with one [`Strategy`] per kind.
//!
//! A module's `strategy(kind)` gives what is special; a kind that it does not name is stored as it was sent.

mod admissionregistration;
pub(crate) mod amounts;
mod apiextensions;
mod apiregistration;
pub(crate) mod apps;
mod autoscaling;
mod batch;
pub(crate) mod certificates;
mod coordination;
pub(crate) mod core;
mod data;
mod discovery;
mod events;
pub(crate) mod flowcontrol;
pub(crate) mod go_diff;
pub(crate) mod go_json;
mod internal;
mod networking;
mod node;
pub(crate) mod node_labels;
pub(crate) mod node_selector;
mod policy;
mod rbac;
mod resource;
pub(crate) mod resources;
mod scheduling;
mod storage;

use crate::strategy::Strategy;

/// The strategy of a built-in kind.
pub(crate) fn strategy(group: &str, version: &str, kind: &str) -> &'static Strategy {
    let found = match group {
        "" => core::strategy(kind),
        "admissionregistration.k8s.io" => admissionregistration::strategy(kind),
        "apiextensions.k8s.io" => apiextensions::strategy(kind),
        "apiregistration.k8s.io" => apiregistration::strategy(kind),
        "apps" => apps::strategy(kind),
        "autoscaling" => autoscaling::strategy(version, kind),
        "batch" => batch::strategy(kind),
        "certificates.k8s.io" => certificates::strategy(kind),
        "coordination.k8s.io" => coordination::strategy(kind),
        "discovery.k8s.io" => discovery::strategy(kind),
        "events.k8s.io" => events::strategy(kind),
        "flowcontrol.apiserver.k8s.io" => flowcontrol::strategy(kind),
        "networking.k8s.io" => networking::strategy(kind),
        "node.k8s.io" => node::strategy(kind),
        "policy" => policy::strategy(kind),
        "rbac.authorization.k8s.io" => rbac::strategy(kind),
        "resource.k8s.io" => resource::strategy(kind),
        "scheduling.k8s.io" => scheduling::strategy(kind),
        "storage.k8s.io" => storage::strategy(kind),
        _ => None,
    };
    found.unwrap_or(&PLAIN)
}

static PLAIN: Strategy = Strategy::PLAIN;
