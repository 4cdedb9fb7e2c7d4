//! Containers of the three lists.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Context, environment, handlers, mounts, one_of, required_text, resources, security};
use crate::{
    checks,
    kit::{Errors, Path, Read},
};

const RESTART_POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];

pub(super) fn validate(context: &Context<'_>, path: &Path<'_>, errors: &mut Errors) {
    regular(context, &path.field("containers"), errors);
    init(context, &path.field("initContainers"), errors);
    ephemeral(context, &path.field("ephemeralContainers"), errors);
}

fn regular(context: &Context<'_>, path: &Path<'_>, errors: &mut Errors) {
    let containers = context.spec.items("containers");
    if containers.is_empty() {
        errors.required(path, "");
        return;
    }
    let mut names = BTreeSet::new();
    for (number, container) in containers.iter().enumerate() {
        let at = path.index(number);
        common(context, container, &at, errors);
        if !names.insert(container.text("name")) {
            errors.duplicate(&at.field("name"), container.text("name"));
        }
        handlers::of_container(context, container, &at, errors);
        restart_policy(container, &at, errors);
    }
    unique_host_ports(containers, path, errors);
}

fn init(context: &Context<'_>, path: &Path<'_>, errors: &mut Errors) {
    let mut names: BTreeSet<&str> = context.spec.items("containers").iter().map(|c| c.text("name")).collect();
    for (number, container) in context.spec.items("initContainers").iter().enumerate() {
        let at = path.index(number);
        common(context, container, &at, errors);
        restart_policy(container, &at, errors);
        let name = container.text("name");
        if names.contains(name) {
            errors.duplicate(&at.field("name"), name);
        } else if !name.is_empty() {
            names.insert(name);
        }
        unique_host_ports(std::slice::from_ref(container), path, errors);
        let is_sidecar = container.text("restartPolicy") == "Always";
        if is_sidecar {
            handlers::of_container(context, container, &at, errors);
        } else {
            for key in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                if container.has(key) {
                    let detail = "may not be set for init containers without restartPolicy=Always";
                    errors.forbidden(&at.field(key), detail);
                }
            }
        }
        if !is_sidecar && !context.options.restart_of_resized_init_containers {
            let at = at.field("resizePolicy");
            for (position, policy) in container.items("resizePolicy").iter().enumerate() {
                if policy.text("restartPolicy") == "RestartContainer" {
                    let detail = "must not be set to 'RestartContainer' for non-sidecar initContainers";
                    errors.invalid(&at.index(position).field("restartPolicy"), "RestartContainer", detail);
                }
            }
        }
    }
}

/// Whether an init container that ends is restarted where it is resized: a rule that is younger than the field.
pub(super) fn has_restart_of_resized_init_containers(spec: &Value) -> bool {
    let mut containers = spec.items("initContainers").iter().filter(|c| c.text("restartPolicy") != "Always");
    containers.any(|container| {
        container.items("resizePolicy").iter().any(|policy| policy.text("restartPolicy") == "RestartContainer")
    })
}

fn ephemeral(context: &Context<'_>, path: &Path<'_>, errors: &mut Errors) {
    const DETAIL: &str = "cannot be set for an Ephemeral Container";
    const NOT_ALLOWED: [&str; 9] = [
        "ports",
        "resources",
        "resizePolicy",
        "restartPolicy",
        "restartPolicyRules",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
        "lifecycle",
    ];
    let spec = context.spec;
    let others: BTreeSet<&str> =
        spec.items("containers").iter().chain(spec.items("initContainers")).map(|c| c.text("name")).collect();
    let mut names = others.clone();
    for (number, container) in spec.items("ephemeralContainers").iter().enumerate() {
        let at = path.index(number);
        common(context, container, &at, errors);
        only_for_pod(container, &at, errors);
        if !names.insert(container.text("name")) {
            errors.duplicate(&at.field("name"), container.text("name"));
        }
        let target = container.text("targetContainerName");
        if !target.is_empty() && !others.contains(target) {
            errors.not_found(&at.field("targetContainerName"), target);
        }
        for key in NOT_ALLOWED {
            let is_empty = match container.part(key) {
                Value::Null => true,
                Value::Object(fields) if key == "resources" => fields.is_empty(),
                Value::Array(items) => items.is_empty(),
                _ => false,
            };
            if !is_empty {
                errors.forbidden(&at.field(key), DETAIL);
            }
        }
        for (position, mount) in container.items("volumeMounts").iter().enumerate() {
            for key in ["subPath", "subPathExpr"] {
                if !mount.text(key).is_empty() {
                    errors.forbidden(&at.field("volumeMounts").index(position).field(key), DETAIL);
                }
            }
        }
    }
}

/// What holds of a container of whatever list.
fn common(context: &Context<'_>, container: &Value, path: &Path<'_>, errors: &mut Errors) {
    let name = container.text("name");
    if name.is_empty() {
        errors.required(&path.field("name"), "");
    } else {
        errors.invalid_each(&path.field("name"), name, checks::dns_label(name));
    }
    required_text(container, "image", path, errors);
    one_of(container, "terminationMessagePolicy", &["File", "FallbackToLogsOnError"], path, errors);
    ports(container, &path.field("ports"), errors);
    environment::validate(container, path, errors);
    mounts::validate(context, container, path, errors);
    pull_policy(container.text("imagePullPolicy"), &path.field("imagePullPolicy"), errors);
    resources::of_container(context, container, &path.field("resources"), errors);
    resize_policy(context, container, &path.field("resizePolicy"), errors);
    security::of_container(context, container, &path.field("securityContext"), errors);
}

/// What a template may say, and a pod may not: names with spaces around come from templates of other tools.
pub(super) fn only_for_pod(container: &Value, path: &Path<'_>, errors: &mut Errors) {
    let image = container.text("image");
    if image.len() != image.trim().len() {
        errors.invalid(&path.field("image"), image, "must not have leading or trailing whitespace");
    }
}

pub(super) fn pull_policy(policy: &str, path: &Path<'_>, errors: &mut Errors) {
    match policy {
        "Always" | "IfNotPresent" | "Never" => {}
        "" => errors.required(path, ""),
        other => errors.not_supported(path, other, &["Always", "IfNotPresent", "Never"]),
    }
}

fn ports(container: &Value, path: &Path<'_>, errors: &mut Errors) {
    let mut names = BTreeSet::new();
    for (number, port) in container.items("ports").iter().enumerate() {
        let at = path.index(number);
        let name = port.text("name");
        if !name.is_empty() {
            let messages = checks::port_name(name);
            if !messages.is_empty() {
                errors.invalid_each(&at.field("name"), name, messages);
            } else if !names.insert(name) {
                errors.duplicate(&at.field("name"), name);
            }
        }
        let number = port.int("containerPort");
        if number == 0 {
            errors.required(&at.field("containerPort"), "");
        } else {
            port_number(number, &at.field("containerPort"), errors);
        }
        let number = port.int("hostPort");
        if number != 0 {
            port_number(number, &at.field("hostPort"), errors);
        }
        one_of(port, "protocol", &["SCTP", "TCP", "UDP"], &at, errors);
    }
}

pub(super) fn port_number(number: i64, path: &Path<'_>, errors: &mut Errors) {
    for message in checks::port_number(number) {
        errors.invalid(path, number, message);
    }
}

fn unique_host_ports(containers: &[Value], path: &Path<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (number, container) in containers.iter().enumerate() {
        for (position, port) in container.items("ports").iter().enumerate() {
            let host_port = port.int("hostPort");
            if host_port == 0 {
                continue;
            }
            let key = format!("{}/{}/{host_port}", port.text("protocol"), port.text("hostIP"));
            if seen.contains(&key) {
                errors.duplicate(&path.index(number).field("ports").index(position).field("hostPort"), key);
            } else {
                seen.insert(key);
            }
        }
    }
}

fn restart_policy(container: &Value, path: &Path<'_>, errors: &mut Errors) {
    const RULES_MAX: usize = 20;
    const EXIT_CODES_MAX: usize = 255;
    let rules = container.items("restartPolicyRules");
    let at = path.field("restartPolicy");
    match container.some("restartPolicy").and_then(Value::as_str) {
        None if rules.is_empty() => return,
        None => errors.required(&at, "must specify restartPolicy when restart rules are used"),
        Some(policy) if !RESTART_POLICIES.contains(&policy) => errors.not_supported(&at, policy, &RESTART_POLICIES),
        Some(_) => {}
    }
    let at = path.field("restartPolicyRules");
    if rules.len() > RULES_MAX {
        errors.too_many(&at, rules.len(), RULES_MAX);
    }
    for (number, rule) in rules.iter().enumerate() {
        let at = at.index(number);
        let action = rule.text("action");
        if !matches!(action, "Restart" | "RestartAllContainers") {
            errors.not_supported(&at.field("action"), action, &["Restart", "RestartAllContainers"]);
        }
        let Some(codes) = rule.some("exitCodes") else {
            errors.required(&at.field("exitCodes"), "must be specified");
            continue;
        };
        let at = at.field("exitCodes");
        let operator = codes.text("operator");
        if !matches!(operator, "In" | "NotIn") {
            errors.not_supported(&at.field("operator"), operator, &["In", "NotIn"]);
        }
        let values = codes.items("values").len();
        if values > EXIT_CODES_MAX {
            errors.too_many(&at.field("values"), values, EXIT_CODES_MAX);
        }
    }
}

fn resize_policy(context: &Context<'_>, container: &Value, path: &Path<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (number, policy) in container.items("resizePolicy").iter().enumerate() {
        let resource = policy.text("resourceName");
        if !seen.insert(resource) {
            errors.duplicate(&path.index(number), resource);
        }
        match resource {
            "cpu" | "memory" => {}
            "" => errors.required(path, ""),
            other => errors.not_supported(path, other, &["cpu", "memory"]),
        }
        let restart = policy.text("restartPolicy");
        match restart {
            "NotRequired" | "RestartContainer" => {}
            "" => errors.required(path, ""),
            other => errors.not_supported(path, other, &["NotRequired", "RestartContainer"]),
        }
        if context.spec.text("restartPolicy") == "Never" && restart != "NotRequired" {
            errors.invalid(path, restart, "must be 'NotRequired' when pod `restartPolicy` is 'Never'");
        }
    }
}
