//! IngressClass: which controller serves which Ingresses.

use serde_json::Value;

use crate::{
    checks,
    kit::{Errors, Path, Read, Write},
    metadata::OnUpdate,
    strategy::Strategy,
    table::{Printer, age_of, columns},
};

pub(super) static STRATEGY: Strategy = Strategy {
    generation: true,
    metadata_on_update: OnUpdate::WholeAndChanges,
    defaults: |class| {
        if let Some(parameters) = class.make("spec").some_mut("parameters") {
            parameters.default_to("scope", "Cluster");
        }
    },
    validate,
    validate_update: Some(|new, old, errors| {
        checks::immutable_text(new.part("spec"), old.part("spec"), "controller", &Path::at("spec"), errors);
        validate(new, errors);
    }),
    printer: &PRINTER,
    ..Strategy::PLAIN
};

const CONTROLLER_BYTES_MAX: usize = 250;

fn validate(class: &Value, errors: &mut Errors) {
    let at = Path::at("spec");
    let controller = class.part("spec").text("controller");
    if controller.len() > CONTROLLER_BYTES_MAX {
        errors.too_long(&at.field("controller"), CONTROLLER_BYTES_MAX);
    }
    checks::domain_prefixed_path(controller, &at.field("controller"), errors);
    let parameters = class.part("spec").part("parameters");
    if parameters.is_null() {
        return;
    }
    let at = at.field("parameters");
    typed_reference(parameters, &at, errors);
    let namespace = parameters.part("namespace");
    match parameters.part("scope").as_str() {
        None => errors.required(&at.field("scope"), ""),
        Some("Cluster") if !namespace.is_null() => {
            errors.forbidden(&at.field("namespace"), "`parameters.scope` is set to 'Cluster'");
        }
        Some("Cluster") => {}
        Some("Namespace") => match namespace.as_str() {
            None => errors.required(&at.field("namespace"), "`parameters.scope` is set to 'Namespace'"),
            Some(namespace) => {
                errors.invalid_each(&at.field("namespace"), namespace, checks::dns_label(namespace));
            }
        },
        Some(other) => errors.not_supported(&at.field("scope"), other, &["Cluster", "Namespace"]),
    }
}

/// A reference to an object by group, kind and name.
pub(super) fn typed_reference(reference: &Value, at: &Path<'_>, errors: &mut Errors) {
    if let Some(group) = reference.part("apiGroup").as_str() {
        errors.invalid_each(&at.field("apiGroup"), group, checks::dns_subdomain(group));
    }
    for field in ["kind", "name"] {
        match reference.text(field) {
            "" => errors.required(&at.field(field), ""),
            text => errors.invalid_each(&at.field(field), text, checks::path_segment_name(text)),
        }
    }
}

const DEFAULT_ANNOTATION: &str = "ingressclass.kubernetes.io/is-default-class";

static PRINTER: Printer = Printer {
    columns: columns::INGRESS_CLASS,
    cells: |class, now| {
        let (metadata, spec) = (class.part("metadata"), class.part("spec"));
        let is_default = metadata.part("annotations").text(DEFAULT_ANNOTATION) == "true";
        let suffix = if is_default { " (default)" } else { "" };
        let parameters = spec.part("parameters");
        let shown = match (parameters.is_null(), parameters.part("apiGroup").as_str()) {
            (true, _) => "<none>".to_owned(),
            (false, Some(group)) => format!("{}.{group}/{}", parameters.text("kind"), parameters.text("name")),
            (false, None) => format!("{}/{}", parameters.text("kind"), parameters.text("name")),
        };
        let name = format!("{}{suffix}", metadata.text("name"));
        vec![name.into(), spec.text("controller").into(), shown.into(), age_of(class, now)]
    },
};
