//! What is called at a container while it lives: probes, and hooks of its lifecycle.

use serde_json::Value;

use super::{Context, at_most_one, containers::port_number};
use crate::{
    checks,
    kit::{Errors, Path, Read},
};

/// The probes and hooks of a container that may have them.
pub(super) fn of_container(context: &Context<'_>, container: &Value, path: &Path<'_>, errors: &mut Errors) {
    if let Some(lifecycle) = container.some("lifecycle") {
        self::lifecycle(context, lifecycle, &path.field("lifecycle"), errors);
    }
    for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = container.some(kind) else { continue };
        let at = path.field(kind);
        self::probe(context, probe, &at, errors);
        let grace = probe.some("terminationGracePeriodSeconds");
        if kind == "readinessProbe" {
            if let Some(grace) = grace {
                let detail = "must not be set for readinessProbes";
                errors.invalid(&at.field("terminationGracePeriodSeconds"), grace.clone(), detail);
            }
        } else if probe.int("successThreshold") != 1 {
            errors.invalid(&at.field("successThreshold"), probe.int("successThreshold"), "must be 1");
        }
    }
}

fn probe(context: &Context<'_>, probe: &Value, path: &Path<'_>, errors: &mut Errors) {
    handler(context, probe, &["exec", "httpGet", "tcpSocket", "grpc"], path, errors);
    for key in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        checks::non_negative(probe.int(key), &path.field(key), errors);
    }
    if let Some(grace) = probe.some_int("terminationGracePeriodSeconds")
        && grace <= 0
    {
        errors.invalid(&path.field("terminationGracePeriodSeconds"), grace, "must be greater than 0");
    }
}

fn lifecycle(context: &Context<'_>, lifecycle: &Value, path: &Path<'_>, errors: &mut Errors) {
    for hook in ["postStart", "preStop"] {
        if let Some(found) = lifecycle.some(hook) {
            handler(context, found, &["exec", "httpGet", "tcpSocket", "sleep"], &path.field(hook), errors);
        }
    }
    if lifecycle.has("stopSignal") {
        stop_signal(context, lifecycle.text("stopSignal"), &path.field("stopSignal"), errors);
    }
}

fn stop_signal(context: &Context<'_>, signal: &str, path: &Path<'_>, errors: &mut Errors) {
    match context.os() {
        None => errors.forbidden(path, "may not be set for containers with empty `spec.os.name`"),
        Some("windows") if !matches!(signal, "SIGKILL" | "SIGTERM") => {
            errors.not_supported(path, signal, &["SIGKILL", "SIGTERM"]);
        }
        Some(_) => {}
    }
}

fn handler(context: &Context<'_>, handler: &Value, kinds: &[&'static str], path: &Path<'_>, errors: &mut Errors) {
    let detail = "may not specify more than 1 handler type";
    let Some((kind, action)) = at_most_one(handler, kinds, detail, path, errors) else {
        errors.required(path, "must specify a handler type");
        return;
    };
    let at = path.field(kind);
    match kind {
        "exec" => {
            if action.items("command").is_empty() {
                errors.required(&at.field("command"), "");
            }
        }
        "httpGet" => http_get(action, &at, errors),
        "tcpSocket" => port(action.part("port"), &at.field("port"), errors),
        "grpc" => port_number(action.int("port"), &at.field("port"), errors),
        _ => sleep(context, action.int("seconds"), &at, errors),
    }
}

fn http_get(action: &Value, path: &Path<'_>, errors: &mut Errors) {
    super::required_text(action, "path", path, errors);
    port(action.part("port"), &path.field("port"), errors);
    let scheme = action.text("scheme");
    if !matches!(scheme, "HTTP" | "HTTPS") {
        errors.not_supported(&path.field("scheme"), scheme, &["HTTP", "HTTPS"]);
    }
    for header in action.items("httpHeaders") {
        let name = header.text("name");
        errors.invalid_each(&path.field("httpHeaders"), name, checks::http_header_name(name));
    }
}

/// A port by number or by name.
fn port(port: &Value, path: &Path<'_>, errors: &mut Errors) {
    match port.as_str() {
        Some(name) => errors.invalid_each(path, name, checks::port_name(name)),
        None => port_number(port.as_i64().unwrap_or_default(), path, errors),
    }
}

fn sleep(context: &Context<'_>, seconds: i64, path: &Path<'_>, errors: &mut Errors) {
    if let Some(grace) = context.grace_seconds
        && !(0..=grace).contains(&seconds)
    {
        let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        errors.invalid(path, seconds, detail);
    }
}
