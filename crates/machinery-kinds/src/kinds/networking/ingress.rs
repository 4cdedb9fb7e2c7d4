//! Ingress: which requests from outside go to which Service.

mod rules;

use serde_json::Value;

use crate::{
    kinds::core::service::balanced_addresses,
    kit::Read,
    metadata::OnUpdate,
    strategy::{Part, Strategy},
    table::{Printer, age_of, columns, printers::name},
};

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

pub(super) static STRATEGY: Strategy = Strategy {
    generation: true,
    metadata_on_update: OnUpdate::WholeAndChanges,
    parts: &[Part { validate: rules::validate_status, ..Part::STATUS }],
    validate: rules::validate_create,
    validate_update: Some(rules::validate_update),
    warnings: |ingress, old| {
        let is_old_style = ingress.part("metadata").part("annotations").has(CLASS_ANNOTATION)
            && !ingress.part("spec").has("ingressClassName");
        if old.is_some() || !is_old_style {
            return Vec::new();
        }
        vec![format!("annotation \"{CLASS_ANNOTATION}\" is deprecated, please use 'spec.ingressClassName' instead")]
    },
    printer: &PRINTER,
    ..Strategy::PLAIN
};

static PRINTER: Printer = Printer {
    columns: columns::INGRESS,
    cells: |ingress, now| {
        let spec = ingress.part("spec");
        let addresses = balanced_addresses(ingress.part("status").part("loadBalancer"));
        vec![
            name(ingress),
            spec.part("ingressClassName").as_str().unwrap_or("<none>").into(),
            hosts(spec.items("rules")).into(),
            addresses.join(",").into(),
            if spec.items("tls").is_empty() { "80" } else { "80, 443" }.into(),
            age_of(ingress, now),
        ]
    },
};

/// The first three hosts, and how many more rules there are.
fn hosts(rules: &[Value]) -> String {
    const SHOWN_MAX: usize = 3;
    let (mut hosts, mut has_more) = (Vec::new(), false);
    for rule in rules {
        has_more |= hosts.len() == SHOWN_MAX;
        if !has_more && !rule.text("host").is_empty() {
            hosts.push(rule.text("host"));
        }
    }
    match (hosts.is_empty(), has_more) {
        (true, _) => "*".to_owned(),
        (false, false) => hosts.join(","),
        (false, true) => format!("{} + {} more...", hosts.join(","), rules.len() - SHOWN_MAX),
    }
}
