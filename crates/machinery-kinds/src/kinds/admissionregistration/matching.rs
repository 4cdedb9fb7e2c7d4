//! Which requests a webhook or a policy is for.

use serde_json::Value;

use super::expressions::{self, Environment, Place};
use crate::{
    checks::{self, SelectorOptions},
    kit::{Errors, Path, Read},
};

const CONDITIONS_MAX: usize = 64;
const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
/// A deletion has nothing that could be changed.
const MUTATING_OPERATIONS: [&str; 4] = ["*", "CONNECT", "CREATE", "UPDATE"];

/// One of a set of words, when it is there.
pub(super) fn one_of(owner: &Value, key: &str, words: &[&str], path: &Path<'_>, errors: &mut Errors) {
    if let Some(word) = owner.part(key).as_str()
        && !words.contains(&word)
    {
        errors.not_supported(&path.field(key), word, words);
    }
}

fn has_wildcard(rule: &Value, key: &str) -> bool {
    rule.texts(key).any(|item| item == "*")
}

/// `rules` of a webhook, `resourceRules` of a policy.
pub(super) fn rule(rule: &Value, path: &Path<'_>, errors: &mut Errors) {
    let at = path.field("operations");
    if rule.items("operations").is_empty() {
        errors.required(&at, "");
    }
    if rule.items("operations").len() > 1 && has_wildcard(rule, "operations") {
        let detail = "if '*' is present, must not specify other operations";
        errors.invalid(&at, rule.part("operations").clone(), detail);
    }
    for (number, operation) in rule.texts("operations").enumerate() {
        if !OPERATIONS.contains(&operation) {
            errors.not_supported(&at.index(number), operation, &OPERATIONS);
        }
    }
    for (key, others) in [("apiGroups", "API groups"), ("apiVersions", "API versions")] {
        let at = path.field(key);
        let count = rule.items(key).len();
        if count == 0 {
            errors.required(&at, "");
        }
        if count > 1 && has_wildcard(rule, key) {
            let detail = format!("if '*' is present, must not specify other {others}");
            errors.invalid(&at, rule.part(key).clone(), detail);
        }
    }
    let at = path.field("apiVersions");
    for (number, version) in rule.texts("apiVersions").enumerate() {
        if version.is_empty() {
            errors.required(&at.index(number), "");
        }
    }
    resources(rule, &path.field("resources"), errors);
    one_of(rule, "scope", &["*", "Cluster", "Namespaced"], path, errors);
}

fn resources(rule: &Value, path: &Path<'_>, errors: &mut Errors) {
    let all: Vec<&str> = rule.texts("resources").collect();
    if all.is_empty() {
        errors.required(path, "");
    }
    let mut whole = false;
    for (number, resource) in all.iter().enumerate() {
        if errors.is_full() {
            break;
        }
        let at = path.index(number);
        if resource.is_empty() {
            errors.required(&at, "");
            continue;
        }
        let Some((name, part)) = resource.split_once('/') else {
            // As upstream has it: the last resource without a part decides.
            whole = *resource != "*";
            continue;
        };
        let before = &all[..number];
        if before.iter().any(|other| other.split_once('/') == Some((name, "*"))) {
            errors.invalid(&at, *resource, format!("if '{name}/*' is present, must not specify {resource}"));
        }
        if before.iter().any(|other| other.split_once('/') == Some(("*", part))) {
            errors.invalid(&at, *resource, format!("if '*/{part}' is present, must not specify {resource}"));
        }
    }
    let list = rule.part("resources");
    if all.len() > 1 && all.contains(&"*/*") {
        errors.invalid(path, list.clone(), "if '*/*' is present, must not specify other resources");
    }
    if all.contains(&"*") && whole {
        let detail = "if '*' is present, must not specify other resources without subresources";
        errors.invalid(path, list.clone(), detail);
    }
}

/// `matchConstraints` of a policy, `matchResources` of a binding.
pub(super) fn resources_matched(matching: &Value, path: &Path<'_>, errors: &mut Errors) {
    match matching.has("matchPolicy") {
        true => one_of(matching, "matchPolicy", &["Equivalent", "Exact"], path, errors),
        false => errors.required(&path.field("matchPolicy"), ""),
    }
    for key in ["namespaceSelector", "objectSelector"] {
        match matching.some(key) {
            None => errors.required(&path.field(key), ""),
            Some(selector) => {
                checks::label_selector(selector, SelectorOptions::default(), &path.field(key), errors);
            }
        }
    }
    for key in ["resourceRules", "excludeResourceRules"] {
        let at = path.field(key);
        for (number, named) in matching.items(key).iter().enumerate() {
            if errors.is_full() {
                break;
            }
            named_rule(named, &at.index(number), errors);
        }
    }
}

fn named_rule(named: &Value, path: &Path<'_>, errors: &mut Errors) {
    let at = path.field("resourceNames");
    let names: Vec<&str> = named.texts("resourceNames").collect();
    for (number, name) in names.iter().enumerate() {
        if errors.is_full() {
            break;
        }
        errors.invalid_each(&at.index(number), name, checks::path_segment_name(name));
        if names[..number].contains(name) {
            errors.duplicate(&at.index(number), *name);
        }
    }
    rule(named, path, errors);
}

/// Operations that change nothing are not for policies that change objects. `path` is that of the matched resources.
pub(super) fn mutating_operations(matching: &Value, path: &Path<'_>, errors: &mut Errors) {
    let path = path.field("resourceRules");
    let at = path.field("operations");
    for operation in matching.items("resourceRules").iter().flat_map(|rule| rule.texts("operations")) {
        if !MUTATING_OPERATIONS.contains(&operation) {
            errors.not_supported(&at, operation, &MUTATING_OPERATIONS);
        }
    }
}

/// `matchConditions`: named expressions.
pub(super) fn conditions(owner: &Value, with_params: bool, path: &Path<'_>, errors: &mut Errors) {
    let path = path.field("matchConditions");
    let all = owner.items("matchConditions");
    if all.len() > CONDITIONS_MAX {
        errors.too_many(&path, all.len(), CONDITIONS_MAX);
    }
    let environment = Environment { with_params, ..Environment::default() };
    for (number, condition) in all.iter().enumerate() {
        if errors.is_full() {
            break;
        }
        let (at, name) = (path.index(number), condition.text("name"));
        match condition.text("expression").trim() {
            "" => errors.required(&at.field("expression"), ""),
            expression => {
                expressions::check(expression, Place::Condition, &environment, &at.field("expression"), errors);
            }
        }
        match name {
            "" => errors.required(&at.field("name"), ""),
            name => errors.invalid_each(&at.field("name"), name, checks::qualified_name(name)),
        }
        if !name.is_empty() && all[..number].iter().any(|earlier| earlier.text("name") == name) {
            errors.duplicate(&at.field("name"), name);
        }
    }
}
