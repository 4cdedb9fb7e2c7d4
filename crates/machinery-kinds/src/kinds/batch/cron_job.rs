//! CronJobs: a job at certain times.

use serde_json::{Value, json};

use super::{job, schedule};
use crate::{
    checks,
    kinds::{apps::rules::invalid_selector, core::pod},
    kit::{Errors, Path, Read, Write},
    strategy::Strategy,
    table::{
        Printer, age_of, columns, or_none,
        printers::{name, selector},
        since,
    },
};

pub(crate) static CRON_JOB: Strategy = Strategy {
    generation: true,
    defaults,
    prepare_create: |cron_job, _| {
        drop_disabled(cron_job, &Value::Null);
        cron_job.set("status", json!({}));
    },
    prepare_update: drop_disabled,
    validate: |cron_job, errors| {
        validate(cron_job, None, errors);
        let name = cron_job.part("metadata").text("name");
        if name.len() > NAME_CHARS_MAX {
            let detail = format!("must be no more than {NAME_CHARS_MAX} characters");
            errors.invalid(&Path::at("metadata.name"), name, detail);
        }
    },
    validate_update: Some(|new, old, errors| validate(new, Some(old), errors)),
    warnings,
    printer: &Printer {
        columns: columns::CRON_JOB,
        cells: |cron_job, now| {
            let (spec, status) = (cron_job.part("spec"), cron_job.part("status"));
            let job = spec.part("jobTemplate").part("spec");
            let [names, images] = pod::container_cells(job.part("template"));
            let suspend = match spec.some_flag("suspend") {
                Some(true) => "True",
                Some(false) => "False",
                None => "<unset>",
            };
            let last = match status.text("lastScheduleTime") {
                "" => "<none>".to_owned(),
                time => since(time, now),
            };
            vec![
                name(cron_job),
                spec.text("schedule").into(),
                or_none(spec.text("timeZone")).into(),
                suspend.into(),
                status.items("active").len().into(),
                last.into(),
                age_of(cron_job, now),
                names,
                images,
                selector(job.some("selector")).into(),
            ]
        },
    },
    ..Strategy::PLAIN
};

fn defaults(cron_job: &mut Value) {
    let spec = cron_job.make("spec");
    spec.default_text("concurrencyPolicy", "Allow");
    spec.default_to("suspend", false);
    spec.default_to("successfulJobsHistoryLimit", 3);
    spec.default_to("failedJobsHistoryLimit", 1);
    let template = spec.make("jobTemplate");
    template.make("metadata");
    job::default_template(template.make("spec"));
}

fn drop_disabled(cron_job: &mut Value, old: &Value) {
    let template = |object: &Value| object.part("spec").part("jobTemplate").part("spec").part("template").clone();
    let before = template(old);
    let job = cron_job.make("spec").make("jobTemplate").make("spec");
    pod::drop_disabled(job.make("template").make("spec"), before.part("spec"));
}

fn warnings(cron_job: &Value, old: Option<&Value>) -> Vec<String> {
    let mut warnings = if old.is_none() { pod::warnings::of_name(cron_job) } else { Vec::new() };
    if pod::warnings::is_new_spec(cron_job, old) {
        let job = cron_job.part("spec").part("jobTemplate").part("spec");
        warnings.extend(job::spec_warnings(job, &Path::at("spec.jobTemplate.spec")));
    }
    if old.is_some() && cron_job.part("spec").text("schedule").contains("TZ") {
        warnings.push(
            "cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see \
             https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
                .to_owned(),
        );
    }
    warnings
}

/// The names of the jobs have eleven characters more.
const NAME_CHARS_MAX: usize = 52;

fn validate(cron_job: &Value, old: Option<&Value>, errors: &mut Errors) {
    let (spec, path) = (cron_job.part("spec"), Path::at("spec"));
    let before = old.map(|old| old.part("spec"));
    schedule_format(spec, before, &path.field("schedule"), errors);
    checks::non_negative(spec.int("startingDeadlineSeconds"), &path.field("startingDeadlineSeconds"), errors);
    if before.is_none_or(|before| before.part("timeZone") != spec.part("timeZone")) {
        time_zone(spec, &path.field("timeZone"), errors);
    }
    let at = path.field("concurrencyPolicy");
    match spec.text("concurrencyPolicy") {
        "Allow" | "Forbid" | "Replace" => {}
        "" => errors.required(&at, ""),
        other => errors.not_supported(&at, other, &["Allow", "Forbid", "Replace"]),
    }
    let (job, at) = (spec.part("jobTemplate").part("spec"), path.field("jobTemplate"));
    let at = at.field("spec");
    let known = before.map_or(&Value::Null, |before| before.part("jobTemplate").part("spec").part("template"));
    job::rules::validate_spec(job, pod::rules::Options::for_update(known), &at, errors);
    if let Some(selector) = job.some("selector") {
        invalid_selector(selector, "`selector` will be auto-generated", &at.field("selector"), errors);
    }
    if job.flag("manualSelector") {
        errors.not_supported(&at.field("manualSelector"), true, &["nil", "false"]);
    }
    for key in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        checks::non_negative(spec.int(key), &path.field(key), errors);
    }
}

fn schedule_format(spec: &Value, before: Option<&Value>, path: &Path<'_>, errors: &mut Errors) {
    let schedule = spec.text("schedule");
    if schedule.is_empty() {
        errors.required(path, "");
        return;
    }
    if let Err(why) = schedule::check(schedule) {
        errors.invalid(path, schedule, why);
    }
    let had_zone = before.is_some_and(|before| before.text("schedule").contains("TZ"));
    if !schedule.contains("TZ") {
        return;
    }
    if !had_zone {
        errors.invalid(path, schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
    } else if spec.has("timeZone") {
        errors.invalid(path, schedule, "cannot use both timeZone field and TZ or CRON_TZ in schedule");
    }
}

fn time_zone(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let Some(zone) = spec.some("timeZone").and_then(Value::as_str) else { return };
    if zone.is_empty() {
        errors.invalid(path, zone, "timeZone must be nil or non-empty string");
        return;
    }
    let is_part = |part: &str| {
        (1..=14).contains(&part.len())
            && !matches!(part, "." | "..")
            && !part.starts_with('-')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '+'))
    };
    if !zone.split('/').all(is_part) {
        errors.invalid(path, zone, format!("unknown time zone {zone}"));
        return;
    }
    if zone.eq_ignore_ascii_case("Local") {
        let detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.invalid(path, zone, detail);
    }
    if zone != "Local" && !schedule::is_time_zone(zone) {
        errors.invalid(path, zone, format!("unknown time zone {zone}"));
    }
}
