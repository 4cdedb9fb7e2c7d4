//! Kinds of the group `apps`.

mod controller_revision;
mod daemon_set;
mod deployment;
mod replica_set;
pub(crate) mod rules;
mod stateful_set;

use serde_json::Value;

use super::core::pod;
use crate::{
    kit::{Path, Read, Write},
    strategy::Strategy,
};

/// What is special about a kind of this group.
pub(crate) fn strategy(kind: &str) -> Option<&'static Strategy> {
    Some(match kind {
        "ControllerRevision" => &controller_revision::CONTROLLER_REVISION,
        "DaemonSet" => &daemon_set::DAEMON_SET,
        "Deployment" => &deployment::DEPLOYMENT,
        "ReplicaSet" => &replica_set::REPLICA_SET,
        "StatefulSet" => &stateful_set::STATEFUL_SET,
        _ => return None,
    })
}

/// Removes fields of features that are off from a workload's template.
fn drop_disabled(workload: &mut Value, old: &Value) {
    let spec = workload.some_mut("spec").and_then(|spec| spec.some_mut("template")?.some_mut("spec"));
    if let Some(spec) = spec {
        pod::drop_disabled(spec, old.part("spec").part("template").part("spec"));
    }
}

/// What the author of a workload should know of its template.
fn template_warnings(workload: &Value, old: Option<&Value>) -> Vec<String> {
    if !pod::warnings::is_new_spec(workload, old) {
        return Vec::new();
    }
    pod::warnings::of_template(workload.part("spec").part("template"), &Path::at("spec.template"))
}

/// The same for workloads whose pods are named after them and a random part.
fn warnings(workload: &Value, old: Option<&Value>) -> Vec<String> {
    let mut warnings = if old.is_none() { pod::warnings::of_name(workload) } else { Vec::new() };
    warnings.extend(template_warnings(workload, old));
    warnings
}
