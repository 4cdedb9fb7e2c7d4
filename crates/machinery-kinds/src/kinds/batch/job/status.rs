//! What a status may say of a job. Upstream asks for a rule where what it is about has changed, so that a job that broke it
//! before can still be written.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use super::{indexes, invalid_without_value};
use crate::{
    checks,
    kinds::internal,
    kit::{Errors, Path, Read},
};

/// What of a status the rules are about.
struct Facts<'s> {
    status: &'s Value,
    complete: bool,
    failed: bool,
    failure_target: bool,
    success_criteria: bool,
}

impl<'s> Facts<'s> {
    fn of(job: &'s Value) -> Self {
        let status = job.part("status");
        let is = |kind: &str| has_condition(status, kind, "True");
        Self {
            status,
            complete: is("Complete"),
            failed: is("Failed"),
            failure_target: is("FailureTarget"),
            success_criteria: is("SuccessCriteriaMet"),
        }
    }

    fn is_finished(&self) -> bool {
        self.complete || self.failed
    }
}

fn has_condition(status: &Value, kind: &str, value: &str) -> bool {
    status.items("conditions").iter().any(|c| c.text("type") == kind && c.text("status") == value)
}

/// Rules for the subresource `status`.
pub(super) fn validate(new: &Value, old: &Value, errors: &mut Errors) {
    let (spec, path) = (new.part("spec"), Path::at("status"));
    let (after, before) = (Facts::of(new), Facts::of(old));
    for key in ["active", "succeeded", "failed", "ready", "terminating"] {
        checks::non_negative(after.status.int(key), &path.field(key), errors);
    }
    uncounted_pods(after.status, &path.field("uncountedTerminatedPods"), errors);
    conditions(&after, &before, spec, &path.field("conditions"), errors);
    times(&after, &before, spec, &path, errors);
    counts(&after, &before, &path, errors);
    self::indexes(&after, &before, spec, &path, errors);
    kept(&after, &before, spec, &path, errors);
}

fn changed(after: &Facts<'_>, before: &Facts<'_>, key: &str) -> bool {
    after.status.part(key) != before.status.part(key)
}

fn uncounted_pods(status: &Value, path: &Path<'_>, errors: &mut Errors) {
    let pods = status.part("uncountedTerminatedPods");
    let mut seen = BTreeSet::new();
    for list in ["succeeded", "failed"] {
        let at = path.field(list);
        for (number, uid) in pods.texts(list).enumerate() {
            if uid.is_empty() {
                errors.invalid(&at.index(number), uid, "must not be empty");
            } else if !seen.insert(uid) {
                errors.duplicate(&at.index(number), uid);
            }
        }
    }
}

fn conditions(after: &Facts<'_>, before: &Facts<'_>, spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let complete_changed = after.complete != before.complete;
    let mut reject = |is: bool, detail: &str| {
        if is {
            invalid_without_value(path, detail, errors);
        }
    };
    reject(
        (complete_changed || after.failed != before.failed) && after.complete && after.failed,
        "cannot set Complete=True and Failed=true conditions",
    );
    reject(
        (complete_changed || after.failure_target != before.failure_target) && after.complete && after.failure_target,
        "cannot set Complete=True and FailureTarget=true conditions",
    );
    reject(
        (after.failed != before.failed || changed(after, before, "failedIndexes"))
            && after.failed
            && !after.failure_target,
        "cannot set Failed=True condition without the FailureTarget=true condition",
    );
    reject(
        (complete_changed || after.success_criteria != before.success_criteria)
            && after.complete
            && !after.success_criteria,
        "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
    );
    reject(after.success_criteria && after.failed, "cannot set SuccessCriteriaMet=True and Failed=true conditions");
    reject(
        after.success_criteria && after.failure_target,
        "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions",
    );
    reject(
        spec.has("successPolicy") && !after.success_criteria && after.complete,
        "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
    );
}

fn times(after: &Facts<'_>, before: &Facts<'_>, spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let status = after.status;
    let (start, end) = (status.part("startTime"), status.part("completionTime"));
    let (start_changed, end_changed) = (changed(after, before, "startTime"), changed(after, before, "completionTime"));
    let complete_changed = after.complete != before.complete;
    let at = path.field("completionTime");
    if complete_changed || end_changed {
        if !end.is_null() && !after.complete {
            let detail = "cannot set completionTime when there is no Complete=True condition";
            errors.invalid(&at, end.clone(), detail);
        }
        if end.is_null() && after.complete {
            errors.required(&at, "completionTime is required for Complete jobs");
        }
    }
    let parsed = |time: &Value| time.as_str().and_then(|time| time.parse::<Timestamp>().ok());
    if (start_changed || end_changed)
        && let (Some(from), Some(to)) = (parsed(start), parsed(end))
        && to < from
    {
        errors.invalid(&at, end.clone(), "must be equal to or after `startTime`");
    }
    let is_idle = spec.some_flag("suspend") == Some(true) && spec.some_int("completions") == Some(0);
    let finished_changed = after.is_finished() != before.is_finished();
    if (finished_changed || start_changed) && !is_idle && start.is_null() && after.is_finished() {
        errors.required(&path.field("startTime"), "startTime is required for finished job");
    }
}

fn counts(after: &Facts<'_>, before: &Facts<'_>, path: &Path<'_>, errors: &mut Errors) {
    let status = after.status;
    let finished_changed = after.is_finished() != before.is_finished();
    let active = status.int("active");
    if (finished_changed || changed(after, before, "active")) && active > 0 && after.is_finished() {
        errors.invalid(&path.field("active"), active, "active>0 is invalid for finished job");
    }
    let pods = status.part("uncountedTerminatedPods");
    let has_uncounted = !pods.items("failed").is_empty() || !pods.items("succeeded").is_empty();
    if (finished_changed || changed(after, before, "uncountedTerminatedPods")) && after.is_finished() && has_uncounted {
        let shown = internal::json("UncountedTerminatedPods", pods);
        errors.invalid_as(&path.field("uncountedTerminatedPods"), &shown, "must be empty for finished job");
    }
    let terminating = status.int("terminating");
    if (finished_changed || changed(after, before, "terminating")) && terminating > 0 && after.is_finished() {
        let detail = "terminating>0 is invalid for finished job";
        errors.invalid(&path.field("terminating"), terminating, detail);
    }
    let ready = status.int("ready");
    if (changed(after, before, "ready") || changed(after, before, "active")) && ready > active {
        errors.invalid(&path.field("ready"), ready, "cannot set more ready pods than active");
    }
}

fn indexes(after: &Facts<'_>, before: &Facts<'_>, spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let status = after.status;
    let (completed, failed) = (status.text("completedIndexes"), status.text("failedIndexes"));
    let completed_changed = completed != before.status.text("completedIndexes");
    let failed_changed = changed(after, before, "failedIndexes");
    let (completed_at, failed_at) = (path.field("completedIndexes"), path.field("failedIndexes"));
    let completions = spec.some_int("completions");
    let has_limit = spec.has("backoffLimitPerIndex");
    if completed_changed && let Some(Err(why)) = completions.map(|completions| indexes::count(completed, completions)) {
        errors.invalid(&completed_at, completed, format!("error parsing completedIndexes: {why}"));
    }
    if failed_changed
        && has_limit
        && status.has("failedIndexes")
        && let Some(Err(why)) = completions.map(|completions| indexes::count(failed, completions))
    {
        errors.invalid(&failed_at, failed, format!("error parsing failedIndexes: {why}"));
    }
    if completed_changed && !completed.is_empty() && spec.text("completionMode") != "Indexed" {
        let detail = "cannot set non-empty completedIndexes when non-indexed completion mode";
        errors.invalid(&completed_at, completed, detail);
    }
    if failed_changed && !has_limit && status.has("failedIndexes") {
        let detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        errors.invalid(&failed_at, failed, detail);
    }
    if (failed_changed || completed_changed)
        && let Some(index) = completions.and_then(|completions| indexes::overlap(completed, failed, completions))
    {
        let detail = format!("failedIndexes and completedIndexes overlap at index: {index}");
        errors.invalid(&failed_at, failed, detail);
    }
}

/// What a status that was once reported keeps.
fn kept(after: &Facts<'_>, before: &Facts<'_>, spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let at = path.field("conditions");
    for (kind, is, was) in [
        ("Failed", after.failed, before.failed),
        ("Complete", after.complete, before.complete),
        ("FailureTarget", after.failure_target, before.failure_target),
    ] {
        if was && !is {
            invalid_without_value(&at, &format!("cannot disable the terminal {kind}=True condition"), errors);
        }
    }
    let (now, was) = (after.status, before.status);
    if now.int("failed") < was.int("failed") {
        errors.invalid(&path.field("failed"), now.int("failed"), "cannot decrease the failed counter");
    }
    // The number of an indexed job that is made smaller counts fewer successes.
    let is_elastic = spec.text("completionMode") == "Indexed" && spec.part("completions") == spec.part("parallelism");
    if !is_elastic && now.int("succeeded") < was.int("succeeded") {
        errors.invalid(&path.field("succeeded"), now.int("succeeded"), "cannot decrease the succeeded counter");
    }
    let (end, known_end) = (now.part("completionTime"), was.part("completionTime"));
    if !end.is_null() && !known_end.is_null() && end != known_end {
        errors.invalid(&path.field("completionTime"), end.clone(), checks::IMMUTABLE);
    }
    let (start, known_start) = (now.part("startTime"), was.part("startTime"));
    let is_resuming = has_condition(was, "Suspended", "True") && has_condition(now, "Suspended", "False");
    if start != known_start && !is_resuming && !known_start.is_null() && !spec.flag("suspend") {
        let detail = "field is immutable for unsuspended job once set";
        errors.invalid(&path.field("startTime"), start.clone(), detail);
    }
    if before.success_criteria && !after.success_criteria {
        invalid_without_value(&at, "cannot disable the SuccessCriteriaMet=True condition", errors);
    }
    if before.complete && !before.success_criteria && after.success_criteria {
        let detail = "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
        invalid_without_value(&at, detail, errors);
    }
}
