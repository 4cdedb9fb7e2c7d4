//! Kinds of the group `node.k8s.io`: the runtimes that a node has for containers.

use std::collections::HashSet;

use serde_json::Value;

use crate::{
    checks,
    kinds::{
        core::pod::rules::validate_tolerations,
        resources::{container_resource_name, resource_quantity},
    },
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
        tolerations(scheduling, &path.field("tolerations"), errors);
    }
}

/// Tolerations that are as those of pods, and no two that differ in nothing but time.
fn tolerations(scheduling: &Value, path: &Path<'_>, errors: &mut Errors) {
    validate_tolerations(scheduling, path, errors);
    let key = |toleration: &Value| ["key", "operator", "value", "effect"].map(|key| toleration.text(key).to_owned());
    let mut seen = HashSet::new();
    for (number, toleration) in scheduling.items("tolerations").iter().enumerate() {
        if errors.is_full() {
            break;
        }
        if !seen.insert(key(toleration)) {
            let shown = checks::go_struct(&[
                ("Key", &toleration.text("key").into()),
                ("Operator", &toleration.text("operator").into()),
                ("Value", &toleration.text("value").into()),
                ("Effect", &toleration.text("effect").into()),
                ("TolerationSeconds", toleration.part("tolerationSeconds")),
            ]);
            errors.duplicate_as(&path.index(number), &shown);
        }
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_runtime_class_is_refused_with_upstreams_words() {
        let class = json!({
            "handler": "fast", "overhead": {"podFixed": {"bad name": "1", "cpu": "-1"}},
            "scheduling": {"tolerations": [
                {"operator": "Odd"}, {"key": "k", "operator": "Exists"}, {"key": "k", "operator": "Exists"},
            ]},
        });
        let mut errors = Errors::default();
        validate(&class, &mut errors);
        let found: Vec<String> = errors.into_vec().iter().map(ToString::to_string).collect();
        let starts = [
            r#"overhead.limits[bad name]: Invalid value: "bad name": name part must consist"#,
            r#"overhead.limits[bad name]: Invalid value: "bad name": must be a standard resource for containers"#,
            r#"overhead.limits[cpu]: Invalid value: "-1": must be greater than or equal to 0"#,
            r#"scheduling.tolerations[0].operator: Invalid value: "Odd": operator must be Exists when `key` is empty"#,
            r#"scheduling.tolerations[0].operator: Unsupported value: "Odd": supported values: "Equal", "Exists""#,
            r#"scheduling.tolerations[2]: Duplicate value: {"Key":"k","Operator":"Exists","Value":"","Effect":"","TolerationSeconds":null}"#,
        ];
        assert_eq!(found.len(), starts.len(), "{found:#?}");
        for (line, start) in found.iter().zip(starts) {
            assert!(line.starts_with(start), "{line}\n{start}");
        }
    }

    #[test]
    fn old_labels_of_nodes_are_warned_of() {
        let class = json!({"handler": "a", "scheduling": {"nodeSelector": {"beta.kubernetes.io/os": "linux"}}});
        assert_eq!(
            (RUNTIME_CLASS.warnings)(&class, None),
            [r#"scheduling.nodeSelector: deprecated since v1.14; use "kubernetes.io/os" instead"#]
        );
    }
}
