//! ControllerRevisions: what a DaemonSet or StatefulSet looked like once.

use serde_json::Value;

use crate::{
    kit::Read,
    strategy::Strategy,
    table::{Printer, age_of, columns, printers::name},
};

pub(crate) static CONTROLLER_REVISION: Strategy = Strategy {
    validate: |object, errors| errors.extend(crate::rules::controller_revision(object)),
    validate_update: Some(|new, old, errors| {
        errors.extend(crate::rules::controller_revision(new));
        errors.extend(crate::rules::update::controller_revision(new, old));
    }),
    printer: &Printer {
        columns: columns::CONTROLLER_REVISION,
        cells: |revision, now| {
            vec![name(revision), controller(revision).into(), revision.int("revision").into(), age_of(revision, now)]
        },
    },
    ..Strategy::PLAIN
};

/// `daemonset.apps/one`, or `<none>`.
fn controller(revision: &Value) -> String {
    let owners = revision.part("metadata").items("ownerReferences");
    let Some(owner) = owners.iter().find(|owner| owner.flag("controller")) else { return "<none>".to_owned() };
    let group = owner.text("apiVersion").split_once('/').map_or("", |(group, _)| group);
    let dot = if group.is_empty() { "" } else { "." };
    let kind = format!("{}{dot}{group}", owner.text("kind")).to_lowercase();
    format!("{kind}/{}", owner.text("name"))
}
