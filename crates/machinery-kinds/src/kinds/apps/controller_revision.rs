//! ControllerRevisions: what a DaemonSet or StatefulSet looked like once.

use serde_json::Value;

use crate::{
    checks,
    kit::{Path, Read},
    metadata::OnUpdate,
    strategy::Strategy,
    table::{Printer, age_of, columns, printers::name},
};

pub(crate) static CONTROLLER_REVISION: Strategy = Strategy {
    metadata_on_update: OnUpdate::WholeAndChanges,
    validate: |revision, errors| {
        checks::non_negative(revision.int("revision"), &Path::at("revision"), errors);
        match revision.some("data") {
            None => errors.required(&Path::at("data"), "data is mandatory"),
            Some(data) if !data.is_object() => {
                errors.required(&Path::at("data"), "data must be a valid JSON object");
            }
            Some(_) => {}
        }
    },
    validate_update: Some(|new, old, errors| {
        checks::non_negative(new.int("revision"), &Path::at("revision"), errors);
        checks::immutable(new.part("data"), old.part("data"), &Path::at("data"), errors);
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
