//! Policies and what binds them to requests.

use machinery_crd::PolicyType;
use serde_json::Value;

use super::{
    expressions::{self, Environment, Place},
    matching::{conditions, mutating_operations, one_of, resources_matched},
};
use crate::{
    checks::{self, SelectorOptions, same},
    kit::{Errors, Path, Read},
};

const AUDIT_ANNOTATIONS_MAX: usize = 20;
const AUDIT_EXPRESSION_BYTES_MAX: usize = 5 * 1024;

pub(super) fn validating(policy: &Value, errors: &mut Errors) {
    validate(policy, true, errors);
}

pub(super) fn validating_update(new: &Value, old: &Value, errors: &mut Errors) {
    validate(new, has_new_conditions(new, old), errors);
}

pub(super) fn mutating(policy: &Value, errors: &mut Errors) {
    validate_mutating(policy, true, errors);
}

pub(super) fn mutating_update(new: &Value, old: &Value, errors: &mut Errors) {
    validate_mutating(new, has_new_conditions(new, old), errors);
}

/// Conditions that an object has already are not looked at again.
fn has_new_conditions(new: &Value, old: &Value) -> bool {
    let (now, before) = (new.part("spec"), old.part("spec"));
    ["paramKind", "matchConditions"].iter().any(|key| !same(now.part(key), before.part(key)))
}

/// What both kinds of policies have; gives what their expressions may name.
fn common(spec: &Value, with_conditions: bool, path: &Path<'_>, errors: &mut Errors) -> Environment {
    match spec.has("failurePolicy") {
        false => errors.required(&path.field("failurePolicy"), ""),
        true => one_of(spec, "failurePolicy", &["Fail", "Ignore"], path, errors),
    }
    let with_params = spec.has("paramKind");
    if let Some(kind) = spec.some("paramKind") {
        param_kind(kind, &path.field("paramKind"), errors);
    }
    let at = path.field("matchConstraints");
    match spec.some("matchConstraints") {
        None => errors.required(&at, ""),
        Some(matching) => {
            resources_matched(matching, &at, errors);
            if matching.items("resourceRules").is_empty() {
                errors.required(&at.field("resourceRules"), "");
            }
        }
    }
    if with_conditions {
        conditions(spec, with_params, path, errors);
    }
    Environment { with_params, variables: None }
}

fn validate(policy: &Value, with_conditions: bool, errors: &mut Errors) {
    let (path, spec) = (Path::at("spec"), policy.part("spec"));
    let mut environment = common(spec, with_conditions, &path, errors);
    if !spec.items("variables").is_empty() {
        variables(spec, &mut environment, &path, errors);
    }
    let (validations, audits) = (spec.items("validations"), spec.items("auditAnnotations"));
    if validations.is_empty() && audits.is_empty() {
        for key in ["validations", "auditAnnotations"] {
            let detail = "validations or auditAnnotations must contain at least one item";
            errors.required(&path.field(key), detail);
        }
        return;
    }
    let at = path.field("validations");
    for (number, one) in validations.iter().enumerate() {
        if errors.is_full() {
            break;
        }
        validation(one, &environment, &at.index(number), errors);
    }
    let at = path.field("auditAnnotations");
    if audits.len() > AUDIT_ANNOTATIONS_MAX {
        let shown: Vec<String> = audits.iter().map(shown_audit).collect();
        let detail = format!("must not have more than {AUDIT_ANNOTATIONS_MAX} auditAnnotations");
        errors.invalid_as(&at, &format!("[{}]", shown.join(",")), detail);
    }
    for (number, audit) in audits.iter().enumerate() {
        if errors.is_full() {
            break;
        }
        let at = at.index(number);
        audit_annotation(policy.part("metadata").text("name"), audit, &environment, &at, errors);
        if audits[..number].iter().any(|earlier| earlier.text("key") == audit.text("key")) {
            errors.duplicate(&at.field("key"), audit.text("key"));
        }
    }
}

fn shown_audit(audit: &Value) -> String {
    let fields = [("Key", &audit.text("key").into()), ("ValueExpression", &audit.text("valueExpression").into())];
    checks::go_struct(&fields)
}

fn validate_mutating(policy: &Value, with_conditions: bool, errors: &mut Errors) {
    let (path, spec) = (Path::at("spec"), policy.part("spec"));
    let mut environment = common(spec, with_conditions, &path, errors);
    mutating_operations(spec.part("matchConstraints"), &path.field("matchConstraints"), errors);
    variables(spec, &mut environment, &path, errors);
    let at = path.field("mutations");
    if spec.items("mutations").is_empty() {
        errors.required(&at, "mutations must contain at least one item");
    }
    for (number, one) in spec.items("mutations").iter().enumerate() {
        if errors.is_full() {
            break;
        }
        mutation(one, &environment, &at.index(number), errors);
    }
    match spec.text("reinvocationPolicy") {
        "" => errors.required(&path.field("reinvocationPolicy"), ""),
        _ => one_of(spec, "reinvocationPolicy", &["IfNeeded", "Never"], &path, errors),
    }
}

fn variables(spec: &Value, environment: &mut Environment, path: &Path<'_>, errors: &mut Errors) {
    environment.variables = Some(Vec::new());
    let path = path.field("variables");
    for (number, variable) in spec.items("variables").iter().enumerate() {
        if errors.is_full() {
            break;
        }
        let (at, name, expression) = (path.index(number), variable.text("name"), variable.text("expression"));
        if name.trim().is_empty() {
            errors.required(&at.field("name"), "name is not specified");
        } else if !is_identifier(name) {
            errors.invalid(&at.field("name"), name, "must be a valid CEL identifier");
        }
        let of = if expression.trim().is_empty() {
            errors.required(&at.field("expression"), "expression is not specified");
            PolicyType::ANY
        } else {
            expressions::check(expression, Place::Variable, environment, &at.field("expression"), errors)
        };
        environment.variables.get_or_insert_default().push((name.to_owned(), of));
    }
}

fn is_identifier(name: &str) -> bool {
    checks::c_identifier(name).is_empty() && !machinery_crd::is_reserved(name)
}

fn validation(validation: &Value, environment: &Environment, path: &Path<'_>, errors: &mut Errors) {
    let (expression, message) = (validation.text("expression"), validation.text("message"));
    let at = path.field("expression");
    match expression.trim() {
        "" => errors.required(&at, "expression is not specified"),
        _ => drop(expressions::check(expression, Place::Condition, environment, &at, errors)),
    }
    let (at, text) = (path.field("messageExpression"), validation.text("messageExpression"));
    match text.trim() {
        "" if !text.is_empty() => errors.invalid(&at, text, "must be non-empty if specified"),
        "" => {}
        _ => drop(expressions::check(text, Place::Message, environment, &at, errors)),
    }
    let at = path.field("message");
    if !message.is_empty() && message.trim().is_empty() {
        errors.invalid(&at, message, "must be non-empty if specified");
    } else if message.trim().contains(['\n', '\r']) {
        errors.invalid(&at, message, "must not contain line breaks");
    }
    one_of(validation, "reason", &["Forbidden", "Invalid", "RequestEntityTooLarge"], path, errors);
}

fn audit_annotation(policy: &str, audit: &Value, environment: &Environment, path: &Path<'_>, errors: &mut Errors) {
    let (at, key) = (path.field("key"), audit.text("key"));
    if policy.is_empty() {
        errors.invalid(&at, key, "requires metadata.name be non-empty");
    } else {
        let name = format!("{policy}/{key}");
        errors.invalid_each(&at, &name, checks::qualified_name(&name));
    }
    let (at, expression) = (path.field("valueExpression"), audit.text("valueExpression"));
    match expression.trim() {
        "" => errors.required(&at, "valueExpression is not specified"),
        long if long.len() > AUDIT_EXPRESSION_BYTES_MAX => {
            errors.required(&at, &format!("must not exceed {AUDIT_EXPRESSION_BYTES_MAX} bytes in length"));
        }
        _ => drop(expressions::check(expression, Place::Audit, environment, &at, errors)),
    }
}

fn mutation(mutation: &Value, environment: &Environment, path: &Path<'_>, errors: &mut Errors) {
    let kinds = [
        ("JSONPatch", "jsonPatch", Place::JsonPatch),
        ("ApplyConfiguration", "applyConfiguration", Place::ApplyConfiguration),
    ];
    let kind = mutation.text("patchType");
    let Some((_, own, place)) = kinds.iter().find(|(known, ..)| *known == kind) else {
        return match kind {
            "" => errors.required(&path.field("patchType"), ""),
            other => errors.not_supported(&path.field("patchType"), other, &["ApplyConfiguration", "JSONPatch"]),
        };
    };
    for (_, key, _) in kinds {
        let at = path.field(key);
        match (key == *own, mutation.some(key)) {
            (true, None) => errors.required(&at, &format!("must be specified when patchType is {kind}")),
            (true, Some(patch)) => match patch.text("expression").trim() {
                "" => errors.required(&at.field("expression"), ""),
                expression => {
                    drop(expressions::check(expression, *place, environment, &at.field("expression"), errors));
                }
            },
            (false, Some(_)) => {
                let detail = format!("must not be specified when patchType is {kind}");
                errors.invalid(&at, format!("{{{key}}}"), detail);
            }
            (false, None) => {}
        }
    }
}

fn param_kind(kind: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (at, api_version) = (path.field("apiVersion"), kind.text("apiVersion"));
    let parts = match api_version {
        "/" => Some(("", "")),
        _ if api_version.matches('/').count() > 1 => None,
        _ => Some(api_version.split_once('/').unwrap_or(("", api_version))),
    };
    match parts {
        _ if api_version.is_empty() => errors.required(&at, ""),
        None => errors.invalid(&at, api_version, format!("unexpected GroupVersion string: {api_version}")),
        Some((group, version)) => {
            let messages = if group.is_empty() { Vec::new() } else { checks::dns_subdomain(group) };
            if !messages.is_empty() {
                errors.invalid(&at, group, messages.join(","));
            }
            let messages = checks::dns1035_label(version);
            if version.is_empty() {
                errors.invalid(&at, api_version, "version must be specified");
            } else if !messages.is_empty() {
                errors.invalid(&at, version, messages.join(","));
            }
        }
    }
    let (at, kind) = (path.field("kind"), kind.text("kind"));
    let messages = checks::dns1035_label(&kind.to_lowercase());
    if kind.is_empty() {
        errors.required(&at, "");
    } else if !messages.is_empty() {
        let detail = format!("may have mixed case, but should otherwise match: {}", messages.join(","));
        errors.invalid(&at, kind, detail);
    }
}

/// A binding, of a policy that validates or of one that changes objects.
pub(super) fn binding(binding: &Value, is_validating: bool, errors: &mut Errors) {
    let (path, spec) = (Path::at("spec"), binding.part("spec"));
    match spec.text("policyName") {
        "" => errors.required(&path.field("policyName"), ""),
        name => errors.invalid_each(&path.field("policyName"), name, checks::dns_subdomain(name)),
    }
    if let Some(reference) = spec.some("paramRef") {
        param_ref(reference, &path.field("paramRef"), errors);
    }
    if let Some(matching) = spec.some("matchResources") {
        let at = path.field("matchResources");
        resources_matched(matching, &at, errors);
        if !is_validating {
            mutating_operations(matching, &at, errors);
        }
    }
    if is_validating {
        actions(spec, &path.field("validationActions"), errors);
    }
}

fn param_ref(reference: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (name, selector) = (reference.text("name"), reference.some("selector"));
    const BOTH: &str = "name and selector are mutually exclusive";
    if !name.is_empty() {
        errors.invalid_each(&path.field("name"), name, checks::path_segment_name(name));
        if selector.is_some() {
            errors.forbidden(&path.field("name"), BOTH);
        }
    }
    if let Some(selector) = selector {
        checks::label_selector(selector, SelectorOptions::default(), &path.field("selector"), errors);
        if !name.is_empty() {
            errors.forbidden(&path.field("selector"), BOTH);
        }
    } else if name.is_empty() {
        errors.required(path, "one of name or selector must be specified");
    }
    match reference.text("parameterNotFoundAction") {
        "" => errors.required(&path.field("parameterNotFoundAction"), ""),
        _ => one_of(reference, "parameterNotFoundAction", &["Deny", "Allow"], path, errors),
    }
}

fn actions(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    const KNOWN: [&str; 3] = ["Audit", "Deny", "Warn"];
    let actions: Vec<&str> = spec.texts("validationActions").collect();
    for (number, action) in actions.iter().enumerate() {
        if errors.is_full() {
            break;
        }
        if !KNOWN.contains(action) {
            errors.not_supported(&path.index(number), *action, &KNOWN);
        }
        if actions[..number].contains(action) {
            errors.duplicate(&path.index(number), *action);
        }
    }
    if actions.contains(&"Deny") && actions.contains(&"Warn") {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        errors.invalid(path, spec.part("validationActions").clone(), detail);
    }
    if actions.is_empty() {
        errors.required(path, "at least one validation action is required");
    }
}

/// What type checking found, and conditions.
pub(super) fn validating_status(policy: &Value, errors: &mut Errors) {
    let (path, status) = (Path::at("status"), policy.part("status"));
    let at = path.field("typeChecking");
    let at = at.field("expressionWarnings");
    for (number, warning) in status.part("typeChecking").items("expressionWarnings").iter().enumerate() {
        if errors.is_full() {
            break;
        }
        let at = at.index(number);
        if warning.text("warning").is_empty() {
            errors.required(&at.field("warning"), "");
        }
        if warning.text("fieldRef").trim().is_empty() {
            errors.required(&at.field("fieldRef"), "");
        }
    }
    checks::conditions(status.part("conditions"), &path.field("conditions"), errors);
}
