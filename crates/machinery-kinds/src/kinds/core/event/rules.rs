//! What an Event must be, in the form in which it is stored.

use serde_json::Value;

use crate::{
    checks,
    kit::{Errors, Path, Read},
};

const NAME_BYTES_MAX: usize = 128;
const NOTE_BYTES_MAX: usize = 1024;

/// Rules that hold in both groups. `controller` is what the request's group calls the reporting controller.
pub(super) fn validate_old(event: &Value, controller: &str, errors: &mut Errors) {
    let namespace = event.part("metadata").text("namespace");
    let involved = event.part("involvedObject").text("namespace");
    let is_new = event.has("eventTime");
    let fits = match (is_new, involved) {
        (false, "") => matches!(namespace, "" | "default"),
        (true, "") => matches!(namespace, "default" | "kube-system"),
        (false, involved) => involved == namespace,
        (true, _) => true,
    };
    if !fits {
        errors.invalid(&Path::at("involvedObject.namespace"), involved, "does not match event.namespace");
    }
    if is_new {
        let reporter = event.text("reportingComponent");
        if reporter.is_empty() {
            errors.required(&Path::at(controller), "");
        }
        errors.invalid_each(&Path::at(controller), reporter, checks::qualified_name(reporter));
        for field in ["reportingInstance", "action", "reason"] {
            let text = event.text(field);
            if text.is_empty() {
                errors.required(&Path::at(field), "");
            }
            check_length(field, text, NAME_BYTES_MAX, errors);
        }
        check_length("message", event.text("message"), NOTE_BYTES_MAX, errors);
    }
    errors.invalid_each(&Path::at("namespace"), namespace, checks::dns_subdomain(namespace));
}

fn check_length(field: &str, text: &str, bytes_max: usize, errors: &mut Errors) {
    if text.len() > bytes_max {
        errors.invalid(&Path::at(field), "", format!("can have at most {bytes_max} characters"));
    }
}

/// Rules of the group `events.k8s.io` for a new event.
pub(super) fn validate_new(event: &Value, errors: &mut Errors) {
    validate_old(event, "reportingController", errors);
    check_series(event, errors);
    if !event.has("eventTime") {
        errors.required(&Path::at("eventTime"), "");
    }
    let kind = event.text("type");
    if !matches!(kind, "Normal" | "Warning") {
        errors.invalid(&Path::at("type"), "", format!("has invalid value: {kind}"));
    }
    let source = event.part("source");
    let fields = [
        ("firstTimestamp", event.has("firstTimestamp")),
        ("lastTimestamp", event.has("lastTimestamp")),
        ("count", event.int("count") != 0),
        ("source", !source.text("component").is_empty() || !source.text("host").is_empty()),
    ];
    for (field, _) in fields.into_iter().filter(|(_, is_set)| *is_set) {
        errors.invalid(&Path::at(field), "", "needs to be unset");
    }
}

/// Rules of the group `events.k8s.io` for a new version: a series may grow, nothing else may change.
pub(super) fn validate_new_update(new: &Value, old: &Value, errors: &mut Errors) {
    validate_old(new, "reportingController", errors);
    if !checks::same(new.part("series"), old.part("series")) {
        check_series(new, errors);
    }
    let mut fixed = |field: &str, shown: &str| {
        if !checks::same(new.part(field), old.part(field)) {
            errors.invalid(&Path::at(shown), new.part(field).clone(), "field is immutable");
        }
    };
    for field in ["involvedObject", "reason", "message", "source", "firstTimestamp", "lastTimestamp", "count", "reason"]
    {
        fixed(field, field);
    }
    for field in ["type", "eventTime", "action", "related"] {
        fixed(field, field);
    }
    fixed("reportingComponent", "reportingController");
    fixed("reportingInstance", "reportingInstance");
}

fn check_series(event: &Value, errors: &mut Errors) {
    let Some(series) = event.some("series") else { return };
    if series.int("count") < 2 {
        errors.invalid(&Path::at("series.count"), "", "should be at least 2");
    }
    if !series.has("lastObservedTime") {
        errors.required(&Path::at("series.lastObservedTime"), "");
    }
}
