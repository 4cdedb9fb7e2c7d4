//! Configurations of webhooks: where they are called, for what, and what they promise.

use serde_json::Value;

use super::matching::{conditions, one_of, rule};
use crate::{
    checks::{self, SelectorOptions, go_url, same},
    kit::{Errors, Path, Read},
};

const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const NO_SIDE_EFFECTS: [&str; 2] = ["None", "NoneOnDryRun"];
const SIDE_EFFECTS: [&str; 4] = ["None", "NoneOnDryRun", "Some", "Unknown"];

/// What is asked; an old version that breaks a rule lets its successors break it.
struct Options {
    conditions: bool,
    no_side_effects: bool,
    known_version: bool,
    unique_names: bool,
    any_selector_value: bool,
    mutating: bool,
}

impl Options {
    const fn create(mutating: bool) -> Self {
        Self {
            conditions: true,
            no_side_effects: true,
            known_version: true,
            unique_names: true,
            any_selector_value: false,
            mutating,
        }
    }

    fn update(new: &Value, old: &Value, mutating: bool) -> Self {
        let (now, before) = (new.items("webhooks"), old.items("webhooks"));
        let names: Vec<&str> = before.iter().map(|hook| hook.text("name")).collect();
        let same_conditions = now.len() == before.len()
            && now
                .iter()
                .zip(before)
                .all(|(now, before)| same(now.part("matchConditions"), before.part("matchConditions")));
        let is_broken = |hook: &Value| {
            let mut errors = Errors::default();
            for key in ["namespaceSelector", "objectSelector"] {
                checks::label_selector(hook.part(key), SelectorOptions::default(), &Path::ROOT, &mut errors);
            }
            !errors.is_empty()
        };
        Self {
            conditions: !same_conditions,
            no_side_effects: before.iter().all(|hook| NO_SIDE_EFFECTS.contains(&hook.text("sideEffects"))),
            known_version: before.iter().all(|hook| {
                hook.items("admissionReviewVersions").is_empty()
                    || hook.texts("admissionReviewVersions").any(|version| REVIEW_VERSIONS.contains(&version))
            }),
            unique_names: names.iter().enumerate().all(|(number, name)| !names[..number].contains(name)),
            any_selector_value: before.iter().any(is_broken),
            mutating,
        }
    }
}

pub(super) fn mutating(configuration: &Value, errors: &mut Errors) {
    validate(configuration, &Options::create(true), errors);
}

pub(super) fn mutating_update(new: &Value, old: &Value, errors: &mut Errors) {
    validate(new, &Options::update(new, old, true), errors);
}

pub(super) fn validating(configuration: &Value, errors: &mut Errors) {
    validate(configuration, &Options::create(false), errors);
}

pub(super) fn validating_update(new: &Value, old: &Value, errors: &mut Errors) {
    validate(new, &Options::update(new, old, false), errors);
}

fn validate(configuration: &Value, options: &Options, errors: &mut Errors) {
    let path = Path::at("webhooks");
    let hooks = configuration.items("webhooks");
    for (number, hook) in hooks.iter().enumerate() {
        if errors.is_full() {
            break;
        }
        let (at, name) = (path.index(number), hook.text("name"));
        webhook(hook, options, &at, errors);
        review_versions(hook, options, &at.field("admissionReviewVersions"), errors);
        let is_known = hooks[..number].iter().any(|earlier| earlier.text("name") == name);
        if options.unique_names && !name.is_empty() && is_known {
            errors.duplicate(&at.field("name"), name);
        }
    }
}

fn webhook(hook: &Value, options: &Options, path: &Path<'_>, errors: &mut Errors) {
    checks::fully_qualified_name(hook.text("name"), &path.field("name"), errors);
    let at = path.field("rules");
    for (number, one) in hook.items("rules").iter().enumerate() {
        rule(one, &at.index(number), errors);
    }
    one_of(hook, "failurePolicy", &["Fail", "Ignore"], path, errors);
    one_of(hook, "matchPolicy", &["Equivalent", "Exact"], path, errors);
    let effects: &[&str] = if options.no_side_effects { &NO_SIDE_EFFECTS } else { &SIDE_EFFECTS };
    match hook.has("sideEffects") {
        false => {
            errors.required(&path.field("sideEffects"), &format!("must specify one of {}", effects.join(", ")));
        }
        true => one_of(hook, "sideEffects", effects, path, errors),
    }
    if let Some(seconds) = hook.some_int("timeoutSeconds").filter(|seconds| !(1..=30).contains(seconds)) {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errors.invalid(&path.field("timeoutSeconds"), seconds, detail);
    }
    let selector = SelectorOptions { any_value: options.any_selector_value, any_operator: false };
    for key in ["namespaceSelector", "objectSelector"] {
        checks::label_selector(hook.part(key), selector, &path.field(key), errors);
    }
    if options.mutating {
        one_of(hook, "reinvocationPolicy", &["IfNeeded", "Never"], path, errors);
    }
    let (at, client) = (path.field("clientConfig"), hook.part("clientConfig"));
    match (client.part("url").as_str(), client.some("service")) {
        (Some(url), None) => url_of_webhook(url, &at.field("url"), errors),
        (None, Some(service)) => service_of_webhook(service, &at.field("service"), errors),
        _ => errors.required(&at, "exactly one of url or service is required"),
    }
    if options.conditions {
        conditions(hook, false, path, errors);
    }
}

fn review_versions(hook: &Value, options: &Options, path: &Path<'_>, errors: &mut Errors) {
    let known = REVIEW_VERSIONS.join(", ");
    let versions: Vec<&str> = hook.texts("admissionReviewVersions").collect();
    if versions.is_empty() {
        return errors.required(path, &format!("must specify one of {known}"));
    }
    for (number, version) in versions.iter().enumerate() {
        if errors.is_full() {
            break;
        }
        if versions[..number].contains(version) {
            errors.invalid(&path.index(number), *version, "duplicate version");
        } else {
            errors.invalid_each(&path.index(number), version, checks::dns1035_label(version));
        }
    }
    if options.known_version && !versions.iter().any(|version| REVIEW_VERSIONS.contains(version)) {
        let detail = format!("must include at least one of {known}");
        errors.invalid(path, hook.part("admissionReviewVersions").clone(), detail);
    }
}

/// The URL of a webhook, here and in conversions of custom resources.
pub(crate) fn url_of_webhook(url: &str, path: &Path<'_>, errors: &mut Errors) {
    const FORM: &str = "; desired format: https://host[/path]";
    let url = match go_url(url) {
        Ok(url) => url,
        Err(problem) => return errors.required(path, &format!("url must be a valid URL: {problem}{FORM}")),
    };
    if url.scheme != "https" {
        errors.invalid(path, url.scheme.as_str(), format!("'https' is the only allowed URL scheme{FORM}"));
    }
    if url.host.is_empty() {
        errors.invalid(path, "", format!("host must be specified{FORM}"));
    }
    if let Some(user) = &url.user {
        errors.invalid(path, user.as_str(), "user information is not permitted in the URL");
    }
    if !url.fragment.is_empty() {
        errors.invalid(path, url.fragment.as_str(), "fragments are not permitted in the URL");
    }
    if !url.query.is_empty() {
        errors.invalid(path, url.query.as_str(), "query parameters are not permitted in the URL");
    }
}

/// The service of a webhook. Upstream hands name and namespace over in the wrong order, so each is missed at the other's place.
pub(crate) fn service_of_webhook(service: &Value, path: &Path<'_>, errors: &mut Errors) {
    if service.text("namespace").is_empty() {
        errors.required(&path.field("name"), "");
    }
    if service.text("name").is_empty() {
        errors.required(&path.field("namespace"), "");
    }
    let messages = checks::port_number(service.int("port"));
    if !messages.is_empty() {
        let detail = format!("port is not valid: {}", messages.join(", "));
        errors.invalid(&path.field("port"), service.int("port"), detail);
    }
    let (at, text) = (path.field("path"), service.text("path"));
    match text {
        "" | "/" => return,
        "//" => return errors.invalid(&at, text, "segment[0] may not be empty"),
        _ => {}
    }
    if !text.starts_with('/') {
        errors.invalid(&at, text, "must start with a '/'");
    }
    // Upstream passes over the first byte, whatever it is.
    let mut rest = text.chars();
    rest.next();
    let rest = rest.as_str();
    for (number, step) in rest.strip_suffix('/').unwrap_or(rest).split('/').enumerate() {
        if errors.is_full() {
            break;
        }
        if step.is_empty() {
            errors.invalid(&at, text, format!("segment[{number}] may not be empty"));
            continue;
        }
        for message in checks::dns_subdomain(step) {
            errors.invalid(&at, text, format!("segment[{number}]: {message}"));
        }
    }
}
