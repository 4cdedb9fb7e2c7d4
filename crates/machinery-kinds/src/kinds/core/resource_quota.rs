//! ResourceQuota: how much a namespace may have of what.

use serde_json::Value;

use crate::{
    FieldError, checks,
    kinds::{
        amounts::{amount, round_up},
        resources::{is_quota_resource, quota_resource_name, resource_quantity},
    },
    kit::{Errors, Path, Read, Write},
    strategy::{Part, Strategy},
    table::{Printer, age_of, columns, printers::name},
};

pub(super) static STRATEGY: Strategy = Strategy {
    defaults: |quota| {
        round_up(quota.make("spec"), "hard");
        if let Some(status) = quota.some_mut("status") {
            round_up(status, "hard");
            round_up(status, "used");
        }
    },
    parts: &[Part {
        validate: |new, _, errors| {
            if new.part("metadata").text("resourceVersion").is_empty() {
                errors.required(&Path::at("resourceVersion"), "");
            }
            check_amounts(new, "status", "hard", errors);
            check_amounts(new, "status", "used", errors);
        },
        ..Part::STATUS
    }],
    validate: |quota, errors| {
        check_spec(quota, errors);
        check_amounts(quota, "status", "hard", errors);
        check_amounts(quota, "status", "used", errors);
    },
    validate_update: Some(|new, old, errors| {
        check_spec(new, errors);
        let scopes = |quota: &Value| -> Vec<String> {
            let mut scopes: Vec<String> = quota.part("spec").texts("scopes").map(str::to_owned).collect();
            scopes.sort_unstable();
            scopes.dedup();
            scopes
        };
        if scopes(new) != scopes(old) {
            errors.invalid(&Path::at("spec.scopes"), new.part("spec").part("scopes").clone(), checks::IMMUTABLE);
        }
    }),
    warnings: |quota, old| if old.is_none() { warnings(quota.part("spec").part("hard")) } else { Vec::new() },
    printer: &PRINTER,
    ..Strategy::PLAIN
};

fn check_spec(quota: &Value, errors: &mut Errors) {
    check_amounts(quota, "spec", "hard", errors);
    let spec = quota.part("spec");
    let at = Path::at("spec");
    let shown = || spec.part("scopes").clone();
    let scopes_at = at.field("scopes");
    for scope in spec.texts("scopes") {
        if !is_scope(scope) {
            errors.invalid(&scopes_at, shown(), "unsupported scope");
        }
        for _ in misplaced(scope, spec) {
            errors.invalid(&scopes_at, shown(), "unsupported scope applied to resource");
        }
    }
    check_pairs(spec.texts("scopes").collect(), &scopes_at, spec, errors);
    if !spec.has("scopeSelector") {
        return;
    }
    let selector = spec.part("scopeSelector");
    let at = at.field("scopeSelector");
    let at = at.field("matchExpressions");
    for requirement in selector.items("matchExpressions") {
        check_requirement(requirement, spec, &at, errors);
    }
    let scopes = selector.items("matchExpressions").iter().map(|requirement| requirement.text("scopeName"));
    check_pairs(scopes.collect(), &at, spec, errors);
}

fn check_requirement(requirement: &Value, spec: &Value, at: &Path<'_>, errors: &mut Errors) {
    let (scope, operator) = (requirement.text("scopeName"), requirement.text("operator"));
    if !is_scope(scope) {
        errors.invalid(&at.field("scopeName"), scope, "unsupported scope");
    }
    for _ in misplaced(scope, spec) {
        let shown = shown(spec.part("scopeSelector"));
        errors.push(FieldError::invalid_as(at.to_string(), &shown, "unsupported scope applied to resource"));
    }
    let has_no_values = matches!(
        scope,
        "BestEffort" | "NotBestEffort" | "Terminating" | "NotTerminating" | "CrossNamespacePodAffinity"
    );
    if has_no_values && operator != "Exists" {
        errors.invalid(&at.field("operator"), operator, "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity");
    }
    let has_values = !requirement.items("values").is_empty();
    match operator {
        "In" | "NotIn" if !has_values => errors.required(
            &at.field("values"),
            "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
        ),
        "Exists" | "DoesNotExist" if has_values => errors.invalid(
            &at.field("values"),
            requirement.part("values").clone(),
            "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
        ),
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => errors.invalid(&at.field("operator"), other, "not a valid selector operator"),
    }
}

/// A selector as upstream shows it: by the names of its fields in Go.
fn shown(selector: &Value) -> String {
    let requirements: Vec<String> = selector
        .items("matchExpressions")
        .iter()
        .map(|requirement| {
            let [scope, operator] = ["scopeName", "operator"].map(|field| Value::from(requirement.text(field)));
            let values = requirement.part("values");
            format!("{{\"ScopeName\":{scope},\"Operator\":{operator},\"Values\":{values}}}")
        })
        .collect();
    format!("{{\"MatchExpressions\":[{}]}}", requirements.join(","))
}

/// What a scope and its opposite select together is nothing.
fn check_pairs(scopes: Vec<&str>, at: &Path<'_>, spec: &Value, errors: &mut Errors) {
    for (one, other) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if scopes.contains(&one) && scopes.contains(&other) {
            errors.invalid(at, spec.part("scopes").clone(), "conflicting scopes");
        }
    }
}

fn is_scope(scope: &str) -> bool {
    matches!(
        scope,
        "Terminating"
            | "NotTerminating"
            | "BestEffort"
            | "NotBestEffort"
            | "PriorityClass"
            | "VolumeAttributesClass"
            | "CrossNamespacePodAffinity"
    )
}

/// The resources of the quota that have no such scope.
fn misplaced<'q>(scope: &'q str, spec: &'q Value) -> impl Iterator<Item = &'q str> {
    let is_valid = move |resource: &str| match scope {
        "Terminating" | "NotTerminating" | "NotBestEffort" | "PriorityClass" | "CrossNamespacePodAffinity" => matches!(
            resource,
            "pods" | "cpu" | "memory" | "limits.cpu" | "limits.memory" | "requests.cpu" | "requests.memory"
        ),
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        _ => true,
    };
    let resources = spec.entries("hard").map(|(resource, _)| resource);
    resources.filter(move |resource| is_quota_resource(resource) && !is_valid(resource))
}

fn check_amounts(quota: &Value, part: &str, list: &str, errors: &mut Errors) {
    let at = Path::at(part);
    for (name, value) in quota.part(part).entries(list) {
        quota_resource_name(name, &at.field(list).key(name), errors);
        resource_quantity(name, value, &at.field(list).key(name), errors);
    }
}

fn warnings(hard: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    for resource in ["cpu", "memory", "storage", "ephemeral-storage"] {
        let mut request = format!("requests.{resource}");
        if !hard.has(&request) && matches!(resource, "cpu" | "memory") {
            request = resource.to_owned();
        }
        let limit = format!("limits.{resource}");
        let (requested, limited) = (amount(hard.part(&request)), amount(hard.part(&limit)));
        if hard.has(&request) && hard.has(&limit) && requested > limited {
            warnings.push(format!("ResourceQuota {request} ({requested}) should be less than {limit} ({limited})"));
        }
    }
    warnings
}

static PRINTER: Printer = Printer {
    columns: columns::RESOURCE_QUOTA,
    cells: |quota, now| {
        let (hard, used) = (quota.part("status").part("hard"), quota.part("status").part("used"));
        let of = |is_limit: bool| {
            let resources = hard.as_object().into_iter().flatten();
            let resources = resources.filter(|(resource, _)| resource.starts_with("limits.") == is_limit);
            let shown: Vec<String> = resources
                .map(|(resource, bound)| format!("{resource}: {}/{}", amount(used.part(resource)), amount(bound)))
                .collect();
            Value::from(shown.join(", "))
        };
        vec![name(quota), of(false), of(true), age_of(quota, now)]
    },
};
