//! StorageClass: how volumes are made for claims.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{check_parameters, check_provisioner, check_topology_term};
use crate::{
    checks,
    kinds::node_labels::deprecated_label,
    kit::{Errors, Path, Read, Write},
    metadata::OnUpdate,
    strategy::Strategy,
    table::{Printer, age_of, columns},
};

pub(super) static STRATEGY: Strategy = Strategy {
    metadata_on_update: OnUpdate::WholeAndChanges,
    defaults: |class| {
        class.default_to("reclaimPolicy", "Delete");
        class.default_to("volumeBindingMode", "Immediate");
    },
    validate,
    validate_update: Some(|new, old, errors| {
        validate(new, errors);
        for field in ["parameters", "reclaimPolicy", "volumeBindingMode"] {
            checks::immutable(new.part(field), old.part(field), &Path::at(field), errors);
        }
        checks::immutable_text(new, old, "provisioner", &Path::ROOT, errors);
    }),
    warnings: |class, _| {
        let at = Path::at("allowedTopologies");
        let mut warnings = Vec::new();
        for (number, term) in class.items("allowedTopologies").iter().enumerate() {
            let at = at.index(number);
            let at = at.field("matchLabelExpressions");
            for (number, expression) in term.items("matchLabelExpressions").iter().enumerate() {
                let message = deprecated_label(expression.text("key"));
                warnings.extend(message.map(|message| format!("{}: {message}", at.index(number).field("key"))));
            }
        }
        warnings
    },
    printer: &PRINTER,
    ..Strategy::PLAIN
};

fn validate(class: &Value, errors: &mut Errors) {
    check_provisioner(class.text("provisioner"), &Path::at("provisioner"), errors);
    check_parameters(class.part("parameters"), true, &Path::at("parameters"), errors);
    let policy = class.text("reclaimPolicy");
    if !matches!(policy, "" | "Delete" | "Retain") {
        errors.not_supported(&Path::at("reclaimPolicy"), policy, &["Delete", "Retain"]);
    }
    let mode_at = Path::at("volumeBindingMode");
    match class.part("volumeBindingMode").as_str() {
        None => errors.required(&mode_at, ""),
        Some("Immediate" | "WaitForFirstConsumer") => {}
        Some(other) => errors.not_supported(&mode_at, other, &["Immediate", "WaitForFirstConsumer"]),
    }
    let at = Path::at("allowedTopologies");
    let mut seen: Vec<BTreeMap<&str, BTreeSet<&str>>> = Vec::new();
    for (number, term) in class.items("allowedTopologies").iter().enumerate() {
        check_topology_term(term, &at.index(number), errors);
        let expressions = term.items("matchLabelExpressions").iter();
        let topology =
            expressions.map(|expression| (expression.text("key"), expression.texts("values").collect())).collect();
        for _ in seen.iter().filter(|before| **before == topology) {
            errors.duplicate(&at.index(number).field("matchLabelExpressions"), "");
        }
        seen.push(topology);
    }
}

static PRINTER: Printer = Printer {
    columns: columns::STORAGE_CLASS,
    cells: |class, now| {
        let annotations = class.part("metadata").part("annotations");
        let is_default =
            ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"]
                .into_iter()
                .any(|key| annotations.text(key) == "true");
        let suffix = if is_default { " (default)" } else { "" };
        vec![
            format!("{}{suffix}", class.part("metadata").text("name")).into(),
            class.text("provisioner").into(),
            class.part("reclaimPolicy").as_str().unwrap_or("Delete").into(),
            class.part("volumeBindingMode").as_str().unwrap_or("Immediate").into(),
            class.flag("allowVolumeExpansion").into(),
            age_of(class, now),
        ]
    },
};
