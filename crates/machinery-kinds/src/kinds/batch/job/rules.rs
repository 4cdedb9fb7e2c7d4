//! What a job must be, and what of it may change.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{
    checks::{self, SelectorOptions},
    kinds::{
        apps::rules::{Selector, invalid_selector, not_selected},
        core::pod::rules::{Options, validate_template},
        internal,
    },
    kit::{Errors, Path, Read, Write},
};

const INDEXES_MAX: i64 = 100_000;
const MANY_COMPLETIONS: i64 = 100_000;
const PARALLELISM_MAX_OF_MANY: i64 = 10_000;
const FAILED_INDEXES_MAX_OF_MANY: i64 = 10_000;
const RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const PATTERNS_MAX: usize = 20;
const MANAGED_BY_BYTES_MAX: usize = 63;
const INDEXES_BYTES_MAX: usize = 64 * 1024;

/// Labels of a job's pods: the key, whether it has a domain, and whether it has the job's uid or its name.
const LABELS: [(&str, bool, bool); 4] = [
    ("controller-uid", false, true),
    ("job-name", false, false),
    ("batch.kubernetes.io/controller-uid", true, true),
    ("batch.kubernetes.io/job-name", true, false),
];

/// Rules for a new job.
pub(super) fn validate_create(job: &Value, errors: &mut Errors) {
    validate(job, None, errors);
}

/// Rules for a new version of a job. Upstream asks for the spec twice.
pub(super) fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    validate(new, Some(old), errors);
    let (after, before, path) = (new.part("spec"), old.part("spec"), Path::at("spec"));
    whole_spec(after, Some(old), &path, errors);
    completions(after, before, &path.field("completions"), errors);
    if !checks::same(after.part("selector"), before.part("selector")) {
        invalid_selector(after.part("selector"), checks::IMMUTABLE, &path.field("selector"), errors);
    }
    template_update(new, old, &path, errors);
    for key in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
        let (now, was) = (after.part(key), before.part(key));
        if checks::same(now, was) {
            continue;
        }
        match (key, now.is_null()) {
            ("podFailurePolicy", false) => {
                errors.invalid_as(&path.field(key), &internal::json("PodFailurePolicy", now), checks::IMMUTABLE);
            }
            ("successPolicy", false) => {
                errors.invalid_as(&path.field(key), &internal::json("SuccessPolicy", now), checks::IMMUTABLE);
            }
            _ => errors.invalid(&path.field(key), now.clone(), checks::IMMUTABLE),
        }
    }
}

fn validate(job: &Value, old: Option<&Value>, errors: &mut Errors) {
    let (metadata, spec) = (job.part("metadata"), job.part("spec"));
    generated_selector(job, old, errors);
    whole_spec(spec, old, &Path::at("spec"), errors);
    let completions = spec.int("completions");
    if spec.text("completionMode") == "Indexed" && completions > 0 {
        let name = metadata.text("name");
        let host_name = format!("{name}-{}", completions - 1);
        if !checks::dns_label(&host_name).is_empty() {
            let detail = format!("will not able to create pod with invalid DNS label: {host_name}");
            errors.invalid(&Path::at("metadata.name"), name, detail);
        }
    }
}

/// The labels by which a job finds its pods are its own.
fn generated_selector(job: &Value, old: Option<&Value>, errors: &mut Errors) {
    let (metadata, spec) = (job.part("metadata"), job.part("spec"));
    if spec.flag("manualSelector") || !spec.has("selector") {
        return;
    }
    // Jobs of the past have labels without a domain only.
    let has_domains = old.is_none_or(|old| {
        let labels = old.part("spec").part("template").part("metadata").part("labels");
        LABELS.iter().filter(|(_, has_domain, _)| *has_domain).all(|(key, ..)| labels.has(key))
    });
    if metadata.text("uid").is_empty() {
        errors.required(&Path::at("metadata.uid"), "");
    }
    let mut expected = serde_json::json!({});
    for (key, has_domain, is_uid) in LABELS {
        if has_domain && !has_domains {
            continue;
        }
        let value = metadata.text(if is_uid { "uid" } else { "name" });
        let template = spec.part("template").part("metadata");
        checks::has_label(template, key, value, &Path::at("spec.template.metadata"), errors);
        expected.set(key, value);
    }
    let selector = Selector::of(spec.part("selector"));
    if !matches!(selector, Selector::Invalid) && !selector.matches(&expected) {
        invalid_selector(spec.part("selector"), "`selector` not auto-generated", &Path::at("spec.selector"), errors);
    }
}

fn whole_spec(spec: &Value, old: Option<&Value>, path: &Path<'_>, errors: &mut Errors) {
    let old_spec = old.map_or(&Value::Null, |old| old.part("spec"));
    validate_spec(spec, Options::for_update(old_spec.part("template")), path, errors);
    let (selector, at) = (spec.part("selector"), path.field("selector"));
    if selector.is_null() {
        errors.required(&at, "");
    } else {
        let options = SelectorOptions::for_update(old.map(|_| old_spec.part("selector")));
        checks::label_selector(selector, options, &at, errors);
    }
    let labels = spec.part("template").part("metadata").part("labels");
    let understood = Selector::of(selector);
    if !matches!(understood, Selector::Invalid) && !understood.matches(labels) {
        not_selected(labels, &path.field("template"), errors);
    }
}

/// Rules for the spec of a job, as templates of jobs have it too.
pub(crate) fn validate_spec(spec: &Value, options: Options, path: &Path<'_>, errors: &mut Errors) {
    for key in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        checks::non_negative(spec.int(key), &path.field(key), errors);
    }
    if spec.has("maxFailedIndexes") && !spec.has("backoffLimitPerIndex") {
        errors.required(&path.field("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    if spec.has("managedBy") {
        let name = spec.text("managedBy");
        checks::domain_prefixed_path(name, &path.field("managedBy"), errors);
        if name.len() > MANAGED_BY_BYTES_MAX {
            errors.too_long(&path.field("managedBy"), MANAGED_BY_BYTES_MAX);
        }
    }
    let mode = spec.text("completionMode");
    let is_indexed = mode == "Indexed";
    if spec.has("completionMode") && !matches!(mode, "NonIndexed" | "Indexed") {
        errors.not_supported(&path.field("completionMode"), mode, &["NonIndexed", "Indexed"]);
    }
    if is_indexed {
        indexed(spec, path, errors);
    } else if !spec.has("completionMode") || mode == "NonIndexed" {
        for key in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if let Some(value) = spec.some(key) {
                errors.invalid(&path.field(key), value.clone(), "requires indexed completion mode");
            }
        }
    }
    if let Some(policy) = spec.some("podFailurePolicy") {
        failure_policy(spec, policy, &path.field("podFailurePolicy"), errors);
    }
    if let Some(policy) = spec.some("successPolicy") {
        let at = path.field("successPolicy");
        if is_indexed {
            success_policy(spec, policy, &at, errors);
        } else {
            errors.invalid_as(&at, &internal::json("SuccessPolicy", policy), "requires indexed completion mode");
        }
    }
    replacement_policy(spec, &path.field("podReplacementPolicy"), errors);
    let at = path.field("template");
    validate_template(spec.part("template"), options, &at, errors);
    let at = at.field("spec.restartPolicy");
    match spec.part("template").part("spec").text("restartPolicy") {
        "Always" | "" => errors.required(&at, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if spec.has("podFailurePolicy") => {
            errors.invalid(&at, "OnFailure", "only \"Never\" is supported when podFailurePolicy is specified");
        }
        "OnFailure" | "Never" => {}
        other => errors.not_supported(&at, other, &["OnFailure", "Never"]),
    }
}

fn indexed(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let [completions, parallelism, failed] =
        ["completions", "parallelism", "maxFailedIndexes"].map(|key| spec.some_int(key));
    let (parallelism_at, failed_at) = (path.field("parallelism"), path.field("maxFailedIndexes"));
    if completions.is_none() {
        errors.required(&path.field("completions"), "when completion mode is Indexed");
    }
    if let Some(parallelism) = parallelism.filter(|parallelism| *parallelism > INDEXES_MAX) {
        let detail = format!("must be less than or equal to {INDEXES_MAX} when completion mode is Indexed");
        errors.invalid(&parallelism_at, parallelism, detail);
    }
    if let (Some(completions), Some(failed)) = (completions, failed)
        && failed > completions
    {
        errors.invalid(&failed_at, failed, "must be less than or equal to completions");
    }
    if let Some(failed) = failed.filter(|failed| *failed > INDEXES_MAX) {
        errors.invalid(&failed_at, failed, format!("must be less than or equal to {INDEXES_MAX}"));
    }
    if completions.is_none_or(|completions| completions <= MANY_COMPLETIONS) || !spec.has("backoffLimitPerIndex") {
        return;
    }
    let of_many = |max: i64| {
        format!(
            "must be less than or equal to {max} when completions are above {MANY_COMPLETIONS} and used with backoff \
             limit per index"
        )
    };
    if failed.is_none() {
        let detail = format!("must be specified when completions is above {MANY_COMPLETIONS}");
        errors.required(&failed_at, &detail);
    }
    if let Some(parallelism) = parallelism.filter(|parallelism| *parallelism > PARALLELISM_MAX_OF_MANY) {
        errors.invalid(&parallelism_at, parallelism, of_many(PARALLELISM_MAX_OF_MANY));
    }
    if let Some(failed) = failed.filter(|failed| *failed > FAILED_INDEXES_MAX_OF_MANY) {
        errors.invalid(&failed_at, failed, of_many(FAILED_INDEXES_MAX_OF_MANY));
    }
}

fn replacement_policy(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let Some(policy) = spec.some("podReplacementPolicy").and_then(Value::as_str) else { return };
    let supported: &[&str] =
        if spec.has("podFailurePolicy") { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    if !supported.contains(&policy) {
        errors.not_supported(path, policy, supported);
    }
}

fn failure_policy(spec: &Value, policy: &Value, path: &Path<'_>, errors: &mut Errors) {
    const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];
    let pod = spec.part("template").part("spec");
    let names: BTreeSet<&str> =
        pod.items("containers").iter().chain(pod.items("initContainers")).map(|c| c.text("name")).collect();
    let at = path.field("rules");
    let rules = policy.items("rules");
    if rules.len() > RULES_MAX {
        errors.too_many(&at, rules.len(), RULES_MAX);
    }
    for (number, rule) in rules.iter().enumerate() {
        let at = at.index(number);
        let action = rule.text("action");
        let action_at = at.field("action");
        if action.is_empty() {
            errors.required(&action_at, &valid_values(&ACTIONS));
        } else if action == "FailIndex" {
            if !spec.has("backoffLimitPerIndex") {
                errors.invalid(&action_at, action, "requires the backoffLimitPerIndex to be set");
            }
        } else if !ACTIONS.contains(&action) {
            errors.not_supported(&action_at, action, &ACTIONS);
        }
        let patterns = rule.items("onPodConditions");
        if let Some(codes) = rule.some("onExitCodes") {
            exit_codes(codes, &names, &at.field("onExitCodes"), errors);
        }
        if !patterns.is_empty() {
            pod_conditions(patterns, &at.field("onPodConditions"), errors);
        }
        match (rule.has("onExitCodes"), patterns.is_empty()) {
            (true, false) => {
                let detail = "specifying both OnExitCodes and OnPodConditions is not supported";
                super::invalid_without_value(&at, detail, errors);
            }
            (false, true) => {
                let detail = "specifying one of OnExitCodes and OnPodConditions is required";
                super::invalid_without_value(&at, detail, errors);
            }
            _ => {}
        }
    }
}

/// `valid values: ["a" "b"]`, as Go prints a list of quoted words.
fn valid_values(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    format!("valid values: [{}]", words.join(" "))
}

fn pod_conditions(patterns: &[Value], path: &Path<'_>, errors: &mut Errors) {
    const STATUSES: [&str; 3] = ["False", "True", "Unknown"];
    if patterns.len() > PATTERNS_MAX {
        errors.too_many(path, patterns.len(), PATTERNS_MAX);
    }
    for (number, pattern) in patterns.iter().enumerate() {
        let at = path.index(number);
        let (kind, status) = (pattern.text("type"), pattern.text("status"));
        errors.invalid_each(&at.field("type"), kind, checks::qualified_name(kind));
        if status.is_empty() {
            errors.required(&at.field("status"), &valid_values(&STATUSES));
        } else if !STATUSES.contains(&status) {
            errors.not_supported(&at.field("status"), status, &STATUSES);
        }
    }
}

fn exit_codes(codes: &Value, names: &BTreeSet<&str>, path: &Path<'_>, errors: &mut Errors) {
    const OPERATORS: [&str; 2] = ["In", "NotIn"];
    let operator = codes.text("operator");
    if operator.is_empty() {
        errors.required(&path.field("operator"), &valid_values(&OPERATORS));
    } else if !OPERATORS.contains(&operator) {
        errors.not_supported(&path.field("operator"), operator, &OPERATORS);
    }
    let name = codes.text("containerName");
    if codes.has("containerName") && !names.contains(name) {
        let detail = "must be one of the container or initContainer names in the pod template";
        errors.invalid(&path.field("containerName"), name, detail);
    }
    let at = path.field("values");
    let values: Vec<i64> = codes.items("values").iter().map(|value| value.as_i64().unwrap_or_default()).collect();
    if values.is_empty() {
        let shown = if codes.has("values") { "[]" } else { "null" };
        errors.invalid_as(&at, shown, "at least one value is required");
    } else if values.len() > EXIT_CODES_MAX {
        errors.too_many(&at, values.len(), EXIT_CODES_MAX);
    }
    let mut seen = BTreeSet::new();
    for (number, value) in values.iter().enumerate() {
        if operator == "In" && *value == 0 {
            errors.invalid(&at.index(number), 0, "must not be 0 for the In operator");
        }
        if !seen.insert(*value) {
            errors.duplicate(&at.index(number), *value);
        }
    }
    if !values.is_sorted() {
        errors.invalid(&at, values, "must be ordered");
    }
}

fn success_policy(spec: &Value, policy: &Value, path: &Path<'_>, errors: &mut Errors) {
    let at = path.field("rules");
    let rules = policy.items("rules");
    if rules.is_empty() {
        errors.required(&at, "at least one rules must be specified when the successPolicy is specified");
    }
    if rules.len() > RULES_MAX {
        errors.too_many(&at, rules.len(), RULES_MAX);
    }
    let completions = spec.int("completions");
    for (number, rule) in rules.iter().enumerate() {
        let at = at.index(number);
        let (count, indexes) = (rule.some_int("succeededCount"), rule.some("succeededIndexes"));
        if count.is_none() && indexes.is_none() {
            errors.required(&at, "at least one of succeededCount or succeededIndexes must be specified");
        }
        let mut total = 0;
        if let Some(indexes) = indexes {
            let (at, indexes) = (at.field("succeededIndexes"), indexes.as_str().unwrap_or_default());
            if indexes.len() > INDEXES_BYTES_MAX {
                errors.too_long(&at, INDEXES_BYTES_MAX);
            }
            match super::indexes::count(indexes, completions) {
                Ok(count) => total = count,
                Err(why) => errors.invalid(&at, indexes, format!("error parsing succeededIndexes: {why}")),
            }
        }
        let Some(count) = count else { continue };
        let at = at.field("succeededCount");
        checks::non_negative(count, &at, errors);
        if count > completions {
            let detail = format!("must be less than or equal to {completions} (the number of specified completions)");
            errors.invalid(&at, count, detail);
        }
        if indexes.is_some() && count > total {
            let detail = format!(
                "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
            );
            errors.invalid(&at, count, detail);
        }
    }
}

fn completions(after: &Value, before: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (now, was) = (after.part("completions"), before.part("completions"));
    if now == was {
        return;
    }
    if after.text("completionMode") != "Indexed" {
        errors.invalid(path, now.clone(), checks::IMMUTABLE);
    } else if !now.is_null() && now != after.part("parallelism") {
        errors.invalid(path, now.clone(), "can only be modified in tandem with spec.parallelism");
    }
}

/// The template of a job that has begun does not change; before, and while it is suspended, where its pods may run does, and
/// what they request.
fn template_update(new: &Value, old: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (after, before) = (new.part("spec").part("template"), old.part("spec").part("template"));
    let status = old.part("status");
    let is_suspended = old.part("spec").flag("suspend");
    let has_condition =
        status.items("conditions").iter().any(|c| c.text("type") == "Suspended" && c.text("status") == "True");
    let is_mutable = is_suspended && (!status.has("startTime") || has_condition) && status.int("active") == 0;
    let mut expected = before.clone();
    if is_mutable {
        follow_scheduling(&mut expected, after);
    }
    let at = path.field("template");
    if !is_suspended || !is_mutable {
        if !checks::same(after, &expected) {
            errors.invalid_as(&at, &internal::json("PodTemplateSpec", after), checks::IMMUTABLE);
        }
        return;
    }
    let (after, expected) = (after.part("spec"), expected.make("spec"));
    for list in ["containers", "initContainers"] {
        if after.items(list).len() != expected.items(list).len() {
            continue;
        }
        for (container, after) in expected.items_mut(list).iter_mut().zip(after.items(list)) {
            if container.text("name") == after.text("name") {
                container.restore("resources", after);
            }
        }
    }
    if !checks::same(after, expected) {
        errors.invalid_as(&at.field("spec"), &internal::json("PodSpec", after), checks::IMMUTABLE);
    }
}

/// Where the pods of a suspended job may run.
fn follow_scheduling(template: &mut Value, after: &Value) {
    let metadata = template.make("metadata");
    for key in ["annotations", "labels"] {
        metadata.restore(key, after.part("metadata"));
    }
    let (spec, after) = (template.make("spec"), after.part("spec"));
    for key in ["nodeSelector", "tolerations", "schedulingGates"] {
        spec.restore(key, after);
    }
    let nodes = after.part("affinity").part("nodeAffinity").clone();
    match (after.has("affinity"), spec.has("affinity")) {
        (false, true) => {
            let affinity = spec.make("affinity");
            affinity.unset("nodeAffinity");
            if affinity.as_object().is_some_and(serde_json::Map::is_empty) {
                spec.unset("affinity");
            }
        }
        (true, _) if nodes.is_null() => {
            spec.make("affinity").unset("nodeAffinity");
        }
        (true, _) => spec.make("affinity").set("nodeAffinity", nodes),
        (false, false) => {}
    }
}
