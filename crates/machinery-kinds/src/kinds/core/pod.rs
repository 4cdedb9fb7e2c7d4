//! Pods, and all that pods share with pod templates.
//!
//! | module | what |
//! | --- | --- |
//! | [`defaults`] | what is filled in |
//! | [`prepare`] | what is not up to the author; what the subresources may write |
//! | [`printer`] | the row of a table |
//! | [`rules`] | what is valid |
//! | [`references`] | objects that a pod refers to, for the node authorizer |
//! | [`warnings`] | what its author should know |
//! | [`resources`] | sums of resources, and those of the pod as a whole |

mod defaults;
mod image;
mod prepare;
mod printer;
mod references;
mod resources;
pub(crate) mod rules;
#[cfg(test)]
mod tests;
pub(crate) mod warnings;

use serde_json::{Value, json};

use crate::{
    kit::Read,
    metadata::OnUpdate,
    strategy::{Part, Selectable, Strategy},
    table::{Printer, columns},
};
pub(crate) use defaults::{claim_spec as default_claim_spec, template as default_template};
pub(crate) use prepare::drop_disabled;
pub(crate) use printer::container_cells;
pub(crate) use references::count_references;

/// The lists of containers of a pod's spec.
pub(crate) const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// A pod that says nothing else gets this long to end.
const GRACE_SECONDS: i64 = 30;

pub(crate) static POD: Strategy = Strategy {
    generation: true,
    selectable: &[
        Selectable::field("spec.nodeName"),
        Selectable::field("spec.restartPolicy"),
        Selectable::field("spec.schedulerName"),
        Selectable::field("spec.serviceAccountName"),
        Selectable { absent: "false", ..Selectable::field("spec.hostNetwork") },
        Selectable::field("status.phase"),
        Selectable::field("status.podIP"),
        Selectable::field("status.nominatedNodeName"),
    ],
    defaults: defaults::pod,
    prepare_create: prepare::create,
    prepare_update: prepare::update,
    parts: &[
        Part { name: "status", prepare: prepare::status, validate: rules::validate_status },
        Part {
            name: "ephemeralcontainers",
            prepare: prepare::ephemeral_containers,
            validate: rules::validate_ephemeral,
        },
        Part { name: "resize", prepare: prepare::resize, validate: rules::validate_resize },
    ],
    index: &[references::REFS],
    metadata_on_update: OnUpdate::WholeAndChanges,
    grace_seconds,
    warnings: warnings::of_pod,
    validate: rules::validate_create,
    validate_update: Some(rules::validate_update),
    printer: &Printer { columns: columns::POD, cells: printer::cells },
    row_conditions,
    ..Strategy::PLAIN
};

/// A kubelet holds a pod that was bound to its node and has not ended; it alone knows when the pod has.
fn grace_seconds(pod: &Value) -> Option<i64> {
    let is_held_by_node = !pod.part("spec").text("nodeName").is_empty()
        && !matches!(pod.part("status").text("phase"), "Succeeded" | "Failed");
    let asked = pod.part("spec").some_int("terminationGracePeriodSeconds");
    is_held_by_node.then(|| asked.unwrap_or(GRACE_SECONDS))
}

/// The row of a pod that has ended says so, for clients that hide such rows.
fn row_conditions(pod: &Value) -> Option<Value> {
    let (reason, message) = match pod.part("status").text("phase") {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return None,
    };
    Some(json!([{"type": "Completed", "status": "True", "reason": reason, "message": message}]))
}
