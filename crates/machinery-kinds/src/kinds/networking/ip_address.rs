//! IPAddress: an address of the cluster, and whose it is.

use serde_json::Value;

use crate::{
    FieldError,
    checks::{self, Messages},
    kit::{Errors, Path, Read},
    metadata::{NameRule, OnUpdate},
    strategy::Strategy,
    table::{Printer, age_of, columns, printers::name},
};

pub(super) static STRATEGY: Strategy = Strategy {
    name_rule: NameRule::Own(canonical_address),
    metadata_on_update: OnUpdate::WholeAndChanges,
    validate,
    validate_update: Some(|new, old, errors| {
        validate(new, errors);
        let (parent, held) = (new.part("spec").part("parentRef"), old.part("spec").part("parentRef"));
        if !checks::same(parent, held) {
            errors.push(FieldError::invalid_as("spec.parentRef", &shown(parent), checks::IMMUTABLE));
        }
    }),
    printer: &PRINTER,
    ..Strategy::PLAIN
};

/// A reference as upstream shows it: by the names of its fields in Go.
fn shown(parent: &Value) -> String {
    if parent.is_null() {
        return "null".to_owned();
    }
    let [group, resource, namespace, name] =
        ["group", "resource", "namespace", "name"].map(|field| Value::from(parent.text(field)));
    format!("{{\"Group\":{group},\"Resource\":{resource},\"Namespace\":{namespace},\"Name\":{name}}}")
}

fn validate(address: &Value, errors: &mut Errors) {
    let parent = address.part("spec").part("parentRef");
    let at = Path::at("spec.parentRef");
    if parent.is_null() {
        return errors.required(&at, "");
    }
    let group = parent.text("group");
    if !group.is_empty() {
        errors.invalid_each(&at.field("group"), group, checks::dns_subdomain(group));
    }
    for field in ["resource", "name"] {
        match parent.text(field) {
            "" => errors.required(&at.field(field), ""),
            text => errors.invalid_each(&at.field(field), text, checks::path_segment_name(text)),
        }
    }
    let namespace = parent.text("namespace");
    errors.invalid_each(&at.field("namespace"), namespace, checks::path_segment_name(namespace));
}

/// The name is the address, in the one form that it has.
fn canonical_address(name: &str, _is_prefix: bool) -> Messages {
    let mut errors = Errors::default();
    checks::ip(name, &Path::ROOT, &mut errors);
    // The words are those after the value.
    let details = errors.into_vec().into_iter();
    let shown = format!("Invalid value: {}: ", machinery_schema::field_error::quoted(name));
    details.map(|error| error.message.strip_prefix(&shown).unwrap_or(&error.message).to_owned()).collect()
}

static PRINTER: Printer = Printer {
    columns: columns::IP_ADDRESS,
    cells: |address, now| {
        let parent = address.part("spec").part("parentRef");
        let shown = if parent.is_null() {
            "<none>".to_owned()
        } else {
            let mut parts = match parent.text("group") {
                "" => vec![parent.text("resource").to_lowercase()],
                group => vec![format!("{}.{group}", parent.text("resource")).to_lowercase()],
            };
            let namespace = parent.text("namespace");
            parts.extend((!namespace.is_empty()).then(|| namespace.to_owned()));
            parts.push(parent.text("name").to_owned());
            parts.join("/")
        };
        // Upstream has a cell more than columns.
        vec![name(address), shown.into(), age_of(address, now)]
    },
};
