//! Kinds of the group `node.k8s.io`: the runtimes that a node has for containers.

use serde_json::Value;

use crate::{
    checks,
    kinds::resources::{container_resource_name, resource_quantity},
    kit::{Errors, Path, Read},
    metadata::OnUpdate,
    strategy::Strategy,
    table::printers,
};

/// What is special about a kind of this group.
pub(crate) fn strategy(kind: &str) -> Option<&'static Strategy> {
    (kind == "RuntimeClass").then_some(&RUNTIME_CLASS)
}

static RUNTIME_CLASS: Strategy = Strategy {
    create_on_update: true,
    unconditional_update: false,
    kube_finalizers: false,
    metadata_on_update: OnUpdate::WholeAndChanges,
    validate,
    validate_update: Some(|new, old, errors| {
        validate(new, errors);
        checks::immutable_text(new, old, "handler", &Path::ROOT, errors);
    }),
    warnings: |class, _| {
        let selector = class.part("scheduling").entries("nodeSelector");
        selector.filter_map(|(key, _)| Some(format!("scheduling.nodeSelector: {}", deprecated_label(key)?))).collect()
    },
    printer: &printers::RUNTIME_CLASSES,
    ..Strategy::PLAIN
};

fn validate(class: &Value, errors: &mut Errors) {
    match class.text("handler") {
        "" => errors.required(&Path::at("handler"), ""),
        handler => errors.invalid_each(&Path::at("handler"), handler, checks::dns_label(handler)),
    }
    let path = Path::at("overhead.limits");
    for (resource, quantity) in class.part("overhead").entries("podFixed") {
        container_resource_name(resource, &path.key(resource), errors);
        resource_quantity(resource, quantity, &path.key(resource), errors);
    }
    if let Some(scheduling) = class.some("scheduling") {
        let path = Path::at("scheduling");
        checks::labels(scheduling.part("nodeSelector"), &path.field("nodeSelector"), errors);
    }
}

/// What became of a label of nodes that is not used any more.
pub(crate) fn deprecated_label(key: &str) -> Option<&'static str> {
    Some(match key {
        "beta.kubernetes.io/arch" => r#"deprecated since v1.14; use "kubernetes.io/arch" instead"#,
        "beta.kubernetes.io/os" => r#"deprecated since v1.14; use "kubernetes.io/os" instead"#,
        "failure-domain.beta.kubernetes.io/region" => {
            r#"deprecated since v1.17; use "topology.kubernetes.io/region" instead"#
        }
        "failure-domain.beta.kubernetes.io/zone" => {
            r#"deprecated since v1.17; use "topology.kubernetes.io/zone" instead"#
        }
        "beta.kubernetes.io/instance-type" => {
            r#"deprecated since v1.17; use "node.kubernetes.io/instance-type" instead"#
        }
        "app.kubernetes.io/created-by" => "deprecated since v1.9",
        "scheduler.alpha.kubernetes.io/preferAvoidPods" => "deprecated since v1.22; use Taints and Tolerations instead",
        "node-role.kubernetes.io/master" => r#"use "node-role.kubernetes.io/control-plane" instead"#,
        _ => return None,
    })
}
