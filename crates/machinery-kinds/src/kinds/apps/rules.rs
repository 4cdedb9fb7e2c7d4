//! Rules that the workloads share: selectors, templates, counts.

use serde_json::Value;

use crate::{
    FieldError, FieldErrorReason,
    checks::{self, SelectorOptions},
    kinds::{
        core::pod::rules::{Options, validate_template},
        internal,
    },
    kit::{Errors, Path, Read},
};

/// How a label selector was understood.
pub(crate) enum Selector<'s> {
    /// There is none, and it selects nothing.
    Nothing,
    /// It has an operator, key or value that cannot be.
    Invalid,
    /// Requirements, all of which must hold.
    Valid(&'s Value),
}

impl<'s> Selector<'s> {
    pub(crate) fn of(selector: &'s Value) -> Self {
        if selector.is_null() {
            return Self::Nothing;
        }
        let mut errors = Errors::default();
        checks::label_selector(selector, SelectorOptions::default(), &Path::ROOT, &mut errors);
        if errors.is_empty() { Self::Valid(selector) } else { Self::Invalid }
    }

    /// Whether it selects an object with these labels.
    pub(crate) fn matches(&self, labels: &Value) -> bool {
        let Self::Valid(selector) = self else { return false };
        let has = |key: &str, is: &dyn Fn(&str) -> bool| labels.part(key).as_str().is_some_and(is);
        selector.entries("matchLabels").all(|(key, value)| has(key, &|found| value.as_str() == Some(found)))
            && selector.items("matchExpressions").iter().all(|expression| {
                let key = expression.text("key");
                let is_listed = has(key, &|found| expression.texts("values").any(|value| value == found));
                match expression.text("operator") {
                    "In" => is_listed,
                    "NotIn" => !is_listed,
                    "Exists" => labels.has(key),
                    _ => !labels.has(key),
                }
            })
    }

    /// Whether it selects everything.
    fn is_empty(&self) -> bool {
        matches!(self, Self::Valid(selector) if checks::is_empty_selector(selector))
    }
}

/// `… Invalid value: {…}` with a selector in the order of its fields.
pub(crate) fn invalid_selector(selector: &Value, detail: &str, path: &Path<'_>, errors: &mut Errors) {
    let shown = if selector.is_null() { "null".to_owned() } else { internal::json("LabelSelector", selector) };
    errors.invalid_as(path, &shown, detail);
}

/// The selector of a workload keeps selecting what it did.
pub(crate) fn immutable_selector(new: &Value, old: &Value, errors: &mut Errors) {
    let (after, before) = (new.part("spec").part("selector"), old.part("spec").part("selector"));
    if !checks::same(after, before) {
        invalid_selector(after, checks::IMMUTABLE, &Path::at("spec.selector"), errors);
    }
}

/// A selector that must be there and say something; `kind` is what upstream calls the workload.
pub(super) fn required_selector(spec: &Value, kind: &str, path: &Path<'_>, errors: &mut Errors) {
    let at = path.field("selector");
    let Some(selector) = spec.some("selector") else {
        errors.required(&at, "");
        return;
    };
    checks::label_selector(selector, SelectorOptions::default(), &at, errors);
    if checks::is_empty_selector(selector) {
        invalid_selector(selector, &format!("empty selector is invalid for {kind}"), &at, errors);
    }
}

/// The selector selects the pods of the template.
pub(super) fn selects_template(selector: &Selector<'_>, template: &Value, path: &Path<'_>, errors: &mut Errors) {
    let labels = template.part("metadata").part("labels");
    if !selector.is_empty() && !selector.matches(labels) {
        not_selected(labels, path, errors);
    }
}

pub(crate) fn not_selected(labels: &Value, path: &Path<'_>, errors: &mut Errors) {
    let detail = "`selector` does not match template `labels`";
    errors.invalid(&path.field("metadata.labels"), labels.clone(), detail);
}

/// Pods of workloads that never end: they restart always, and have no deadline.
pub(crate) fn endless(template: &Value, kind: &str, path: &Path<'_>, errors: &mut Errors) {
    let (spec, at) = (template.part("spec"), path.field("spec"));
    let policy = spec.text("restartPolicy");
    if policy != "Always" {
        errors.not_supported(&at.field("restartPolicy"), policy, &["Always"]);
    }
    if spec.has("activeDeadlineSeconds") {
        let detail = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.forbidden(&at.field("activeDeadlineSeconds"), detail);
    }
}

/// Selector and template of a ReplicaSet or Deployment.
pub(super) fn selector_and_template(spec: &Value, options: Options, path: &Path<'_>, errors: &mut Errors) {
    required_selector(spec, "deployment", path, errors);
    let (selector, at) = (Selector::of(spec.part("selector")), path.field("template"));
    if matches!(selector, Selector::Invalid) {
        invalid_selector(spec.part("selector"), "invalid label selector", &path.field("selector"), errors);
        return;
    }
    let template = spec.part("template");
    selects_template(&selector, template, &at, errors);
    validate_template(template, options, &at, errors);
    endless(template, "ReplicaSet", &at, errors);
}

/// Numbers that are zero or more.
pub(crate) fn non_negative(holder: &Value, keys: &[&str], path: &Path<'_>, errors: &mut Errors) {
    for key in keys {
        checks::non_negative(holder.int(key), &path.field(key), errors);
    }
}

/// Counts of replicas that are a part of all, and of those that are ready.
pub(crate) fn at_most_replicas(status: &Value, keys: &[&str], of_ready: &str, path: &Path<'_>, errors: &mut Errors) {
    for key in keys {
        if status.int(key) > status.int("replicas") {
            errors.invalid(&path.field(key), status.int(key), "cannot be greater than status.replicas");
        }
    }
    let available = status.int("availableReplicas");
    if available > status.int("readyReplicas") {
        errors.invalid(&path.field("availableReplicas"), available, of_ready);
    }
}

/// The count of collisions only grows.
pub(super) fn collisions(new: &Value, old: &Value, errors: &mut Errors) {
    let (after, before) =
        (new.part("status").some_int("collisionCount"), old.part("status").some_int("collisionCount"));
    if before.is_some_and(|before| after.is_none_or(|after| after < before)) {
        let at = Path::at("status.collisionCount");
        errors.invalid(&at, after.unwrap_or_default(), "cannot be decremented");
    }
}

/// A number or a percentage as one number.
pub(super) fn int_or_percent(value: &Value) -> i64 {
    checks::percentage(value)
        .or_else(|| value.as_i64())
        .unwrap_or_else(|| value.as_str().and_then(|text| text.parse().ok()).unwrap_or_default())
}

/// `… Unsupported value: {…}: supported values: …` for a struct of the server's own.
pub(super) fn unsupported_struct(kind: &str, value: &Value, supported: &[&str], path: &Path<'_>, errors: &mut Errors) {
    let shown = internal::json(kind, value);
    let supported: Vec<String> = supported.iter().map(|word| format!("{word:?}")).collect();
    errors.push(FieldError {
        path: path.to_string(),
        reason: FieldErrorReason::NotSupported,
        message: format!("Unsupported value: {shown}: supported values: {}", supported.join(", ")),
    });
}

/// What the old template has, for the rules of the new one.
pub(super) fn template_options(old: Option<&Value>) -> Options {
    Options::for_update(old.map_or(&Value::Null, |old| old.part("spec").part("template")))
}
