//! Jobs: pods that run to their end.

mod indexes;
pub(super) mod rules;
mod status;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    FieldError, FieldErrorReason, human_duration,
    kinds::core::pod,
    kit::{Errors, Path, Read, Write},
    metadata::OnUpdate,
    strategy::{Creation, Part, Selectable, Strategy},
    table::{
        Printer, age_of, columns,
        printers::{name, selector},
        since,
    },
};

pub(crate) static JOB: Strategy = Strategy {
    generation: true,
    selectable: &[Selectable { paths: &["status.succeeded"], absent: "0", ..Selectable::field("status.successful") }],
    defaults,
    prepare_create,
    prepare_update: |new, old| {
        let template = new.make("spec").make("template");
        pod::drop_disabled(template.make("spec"), old.part("spec").part("template").part("spec"));
        default_labels(new);
    },
    parts: &[Part { validate: status::validate, ..Part::STATUS }],
    metadata_on_update: OnUpdate::WholeAndChanges,
    validate: rules::validate_create,
    validate_update: Some(rules::validate_update),
    warnings: |job, old| {
        let mut warnings = if old.is_none() { pod::warnings::of_name(job) } else { Vec::new() };
        if pod::warnings::is_new_spec(job, old) {
            warnings.extend(spec_warnings(job.part("spec"), &Path::at("spec")));
        }
        warnings
    },
    printer: &Printer { columns: columns::JOB, cells },
    ..Strategy::PLAIN
};

/// `Invalid value: …` where upstream does not show the value.
fn invalid_without_value(path: &Path<'_>, detail: &str, errors: &mut Errors) {
    errors.push(FieldError {
        path: path.to_string(),
        reason: FieldErrorReason::Invalid,
        message: format!("Invalid value: {detail}"),
    });
}

fn defaults(job: &mut Value) {
    let spec = job.make("spec");
    default_template(spec);
    if !spec.has("completions") && !spec.has("parallelism") {
        spec.set("completions", 1);
    }
    spec.default_to("parallelism", 1);
    let limit = if spec.has("backoffLimitPerIndex") { i32::MAX } else { 6 };
    spec.default_to("backoffLimit", limit);
    spec.default_to("completionMode", "NonIndexed");
    spec.default_to("suspend", false);
    let policy = if spec.has("podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    spec.default_to("podReplacementPolicy", policy);
    spec.default_to("manualSelector", false);
    default_labels(job);
}

/// Defaults of a job's spec that hold in templates of jobs too.
pub(super) fn default_template(spec: &mut Value) {
    pod::default_template(spec.make("template"));
    let Some(policy) = spec.some_mut("podFailurePolicy") else { return };
    for rule in policy.items_mut("rules") {
        for pattern in rule.items_mut("onPodConditions") {
            pattern.default_text("status", "True");
        }
    }
}

fn default_labels(job: &mut Value) {
    let labels = job.part("spec").part("template").part("metadata").some("labels").cloned();
    let metadata = job.make("metadata");
    if let Some(labels) = labels
        && metadata.entries("labels").next().is_none()
    {
        metadata.set("labels", labels);
    }
}

/// What an author should know of the spec of a job, which templates of jobs have too.
pub(super) fn spec_warnings(spec: &Value, path: &Path<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    let is_large = spec.int("completions") > MANY_COMPLETIONS && spec.int("parallelism") > MUCH_PARALLELISM;
    if spec.text("completionMode") == "Indexed" && is_large {
        warnings.push(format!(
            "{path}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, \
             Kubernetes might not be able to track completedIndexes when a big number of indexes fail"
        ));
    }
    warnings.extend(pod::warnings::of_template(spec.part("template"), &path.field("template")));
    warnings
}

const MANY_COMPLETIONS: i64 = 100_000;
const MUCH_PARALLELISM: i64 = 10_000;

fn prepare_create(job: &mut Value, creation: &Creation<'_>) {
    let metadata = job.part("metadata");
    let name = metadata.text("name").to_owned();
    // Labels that the job has from its template stay the template's, which gets more of them below. Upstream shares the map,
    // and cannot be known apart here when the author wrote the same labels in both places.
    let labels = metadata.part("labels");
    let has_those_of_template =
        !labels.is_null() && labels == job.part("spec").part("template").part("metadata").part("labels");
    let spec = job.make("spec");
    pod::drop_disabled(spec.make("template").make("spec"), &Value::Null);
    if !spec.flag("manualSelector") {
        let labels = spec.make("template").make("metadata").make("labels");
        for (key, value) in [
            ("job-name", name.as_str()),
            ("batch.kubernetes.io/job-name", &name),
            ("controller-uid", creation.uid),
            ("batch.kubernetes.io/controller-uid", creation.uid),
        ] {
            labels.default_to(key, value);
        }
        let selector = spec.make("selector").make("matchLabels");
        selector.default_to("batch.kubernetes.io/controller-uid", creation.uid);
    }
    if has_those_of_template {
        let labels = job.part("spec").part("template").part("metadata").part("labels").clone();
        job.make("metadata").set("labels", labels);
    }
    job.set("status", json!({}));
}

fn cells(job: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (job.part("spec"), job.part("status"));
    let [names, images] = pod::container_cells(spec.part("template"));
    let succeeded = status.int("succeeded");
    let completions = match (spec.some_int("completions"), spec.int("parallelism")) {
        (Some(completions), _) => format!("{succeeded}/{completions}"),
        (None, parallelism @ 2..) => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    };
    vec![
        name(job),
        word(job).into(),
        completions.into(),
        duration(status, now).into(),
        age_of(job, now),
        names,
        images,
        selector(spec.some("selector")).into(),
    ]
}

fn duration(status: &Value, now: Timestamp) -> String {
    let time = |key: &str| status.text(key).parse::<Timestamp>().ok();
    match (time("startTime"), time("completionTime")) {
        (None, _) => String::new(),
        (Some(_), None) => since(status.text("startTime"), now),
        (Some(start), Some(end)) => human_duration(end.as_second() - start.as_second()),
    }
}

/// The status of a job in one word.
fn word(job: &Value) -> &'static str {
    let conditions = job.part("status").items("conditions");
    let is = |kind: &str| {
        conditions.iter().find(|condition| condition.text("type") == kind).is_some_and(|c| c.text("status") == "True")
    };
    if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if job.part("metadata").has("deletionTimestamp") {
        "Terminating"
    } else if is("Suspended") {
        "Suspended"
    } else if is("FailureTarget") {
        "FailureTarget"
    } else if is("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}
