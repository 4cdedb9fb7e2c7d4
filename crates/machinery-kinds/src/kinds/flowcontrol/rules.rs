//! What flow schemas and priority levels must be.

use serde_json::Value;

use super::bootstrap::{self, MANDATORY};
use crate::{
    checks::{self, go_struct, same},
    kit::{Errors, Path, Read},
};

const PRECEDENCE_MAX: i64 = 10_000;
const QUEUES_MAX: i64 = 10_000_000;
/// A request's queues are drawn from as many bits of a hash.
const HASH_BITS_MAX: f64 = 60.0;

const VERBS: [&str; 9] = ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

pub(super) fn flow_schema(schema: &Value, errors: &mut Errors) {
    let (path, spec) = (Path::at("spec"), schema.part("spec"));
    let name = schema.part("metadata").text("name");
    let (at, precedence) = (path.field("matchingPrecedence"), spec.int("matchingPrecedence"));
    if precedence <= 0 {
        errors.invalid(&at, precedence, "must be a positive value");
    }
    if precedence > PRECEDENCE_MAX {
        errors.invalid(&at, precedence, format!("must not be greater than {PRECEDENCE_MAX}"));
    }
    if precedence == 1 && name != "exempt" {
        errors.invalid(&at, precedence, "only the schema named 'exempt' may have matchingPrecedence 1");
    }
    if let Some(method) = spec.some("distinguisherMethod")
        && !matches!(method.text("type"), "ByNamespace" | "ByUser")
    {
        let at = path.field("distinguisherMethod");
        let shown = go_struct(&[("Type", &method.text("type").into())]);
        errors.not_supported_as(&at.field("type"), &shown, &["ByNamespace", "ByUser"]);
    }
    let at = path.field("priorityLevelConfiguration");
    match spec.part("priorityLevelConfiguration").text("name") {
        "" => errors.required(&at.field("name"), "must reference a priority level"),
        level => errors.invalid_each(&at.field("name"), level, checks::dns_subdomain(level)),
    }
    let at = path.field("rules");
    for (number, rule) in spec.items("rules").iter().enumerate() {
        if errors.is_full() {
            break;
        }
        rules_with_subjects(rule, &at.index(number), errors);
    }
    if MANDATORY.contains(&name)
        && let Some(fixed) = bootstrap::flow_schemas().iter().find(|fixed| fixed.part("metadata").text("name") == name)
        && !same(spec, fixed.part("spec"))
    {
        errors.invalid_as(&path, &shown_schema(spec), format!("spec of '{name}' must equal the fixed value"));
    }
    conditions(schema.part("status"), errors);
}

fn rules_with_subjects(rule: &Value, path: &Path<'_>, errors: &mut Errors) {
    let at = path.field("subjects");
    if rule.items("subjects").is_empty() {
        errors.required(&at, "subjects must contain at least one value");
    }
    for (number, one) in rule.items("subjects").iter().enumerate() {
        subject(one, &at.index(number), errors);
    }
    if rule.items("resourceRules").is_empty() && rule.items("nonResourceRules").is_empty() {
        errors.required(path, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    let at = path.field("resourceRules");
    for (number, one) in rule.items("resourceRules").iter().enumerate() {
        resource_rule(one, &at.index(number), errors);
    }
    let at = path.field("nonResourceRules");
    for (number, one) in rule.items("nonResourceRules").iter().enumerate() {
        url_rule(one, &at.index(number), errors);
    }
}

fn subject(subject: &Value, path: &Path<'_>, errors: &mut Errors) {
    let kind = subject.text("kind");
    let parts = [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];
    let Some((_, own)) = parts.iter().find(|(known, _)| *known == kind) else {
        return errors.not_supported(&path.field("kind"), kind, &["Group", "ServiceAccount", "User"]);
    };
    let at = path.field(own);
    match subject.some(own) {
        None => errors.required(&at, &format!("{own} is required when subject kind is '{kind}'")),
        Some(named) => {
            let name = named.text("name");
            if name.is_empty() {
                errors.required(&at.field("name"), "");
            } else if kind == "ServiceAccount" && name != "*" {
                errors.invalid_each(&at.field("name"), name, checks::dns_subdomain(name));
            }
            if kind == "ServiceAccount" {
                match named.text("namespace") {
                    "" => errors.required(&at.field("namespace"), "must specify namespace for service account"),
                    namespace => {
                        errors.invalid_each(&at.field("namespace"), namespace, checks::dns_label(namespace));
                    }
                }
            }
        }
    }
    for (other, part) in parts.iter().filter(|(known, _)| *known != kind) {
        if subject.has(part) {
            errors.forbidden(&path.field(part), format!("{part} is forbidden when subject kind is not '{other}'"));
        }
    }
}

fn has_wildcard(list: &Value, key: &str) -> bool {
    list.texts(key).any(|item| item == "*")
}

fn verbs(rule: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (at, list) = (path.field("verbs"), rule.part("verbs"));
    let count = rule.items("verbs").len();
    if count == 0 {
        errors.required(&at, "verbs must contain at least one value");
    } else if has_wildcard(rule, "verbs") {
        if count > 1 {
            errors.invalid(&at, list.clone(), "if '*' is present, must not specify other verbs");
        }
    } else if !rule.texts("verbs").all(|verb| VERBS.contains(&verb)) {
        errors.not_supported(&at, list.clone(), &VERBS);
    }
}

fn url_rule(rule: &Value, path: &Path<'_>, errors: &mut Errors) {
    verbs(rule, path, errors);
    let (at, list) = (path.field("nonResourceURLs"), rule.part("nonResourceURLs"));
    let count = rule.items("nonResourceURLs").len();
    if count == 0 {
        errors.required(&at, "nonResourceURLs must contain at least one value");
    } else if has_wildcard(rule, "nonResourceURLs") {
        if count > 1 {
            errors.invalid(&at, list.clone(), "if '*' is present, must not specify other non-resource URLs");
        }
    } else {
        for (number, url) in rule.texts("nonResourceURLs").enumerate() {
            if let Some(problem) = url_problem(url) {
                errors.invalid(&at.index(number), url, problem);
            }
        }
    }
}

fn url_problem(url: &str) -> Option<&'static str> {
    let stars = url.matches('*').count();
    match url {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !url.starts_with('/') => Some("must start with slash"),
        _ if url.contains(' ') => Some("must not contain white-space"),
        _ if url.contains("//") => Some("must not contain double slash"),
        _ if stars > 1 || (stars == 1 && !url.ends_with("/*")) => Some("wildcard can only do suffix matching"),
        _ => None,
    }
}

fn resource_rule(rule: &Value, path: &Path<'_>, errors: &mut Errors) {
    verbs(rule, path, errors);
    let lists = [
        ("apiGroups", "resource rules must supply at least one api group", "api groups"),
        ("resources", "resource rules must supply at least one resource", "resources"),
    ];
    for (key, missing, others) in lists {
        let count = rule.items(key).len();
        if count == 0 {
            errors.required(&path.field(key), missing);
        } else if count > 1 && has_wildcard(rule, key) {
            let detail = format!("if '*' is present, must not specify other {others}");
            errors.invalid(&path.field(key), rule.part(key).clone(), detail);
        }
    }
    let (at, count) = (path.field("namespaces"), rule.items("namespaces").len());
    if count == 0 && !rule.flag("clusterScope") {
        errors.required(&at, "resource rules that are not cluster scoped must supply at least one namespace");
    } else if has_wildcard(rule, "namespaces") {
        if count > 1 {
            let detail = "if '*' is present, must not specify other namespaces";
            errors.invalid(&at, rule.part("namespaces").clone(), detail);
        }
    } else {
        for (number, namespace) in rule.texts("namespaces").enumerate() {
            for message in checks::dns_label(namespace) {
                let detail = format!("each member of this list must be '*' or a DNS-1123 label; {message}");
                errors.invalid(&at.index(number), namespace, detail);
            }
        }
    }
}

/// Conditions of either kind: each type once.
pub(super) fn conditions(status: &Value, errors: &mut Errors) {
    let path = Path::at("status");
    let path = path.field("conditions");
    let conditions = status.items("conditions");
    for (number, condition) in conditions.iter().enumerate() {
        if errors.is_full() {
            break;
        }
        let (at, kind) = (path.index(number), condition.text("type"));
        if conditions[..number].iter().any(|earlier| earlier.text("type") == kind) {
            errors.duplicate(&at.field("type"), kind);
        }
        if kind.is_empty() {
            errors.required(&at.field("type"), "");
        }
    }
}

pub(super) fn priority_level(level: &Value, errors: &mut Errors) {
    let (metadata, spec, path) = (level.part("metadata"), level.part("spec"), Path::at("spec"));
    let (name, kind) = (metadata.text("name"), spec.text("type"));
    const PRESERVE_ZERO: &str = "flowcontrol.k8s.io/v1beta3-preserve-zero-concurrency-shares";
    if metadata.part("annotations").has(PRESERVE_ZERO) {
        errors.forbidden(&Path::at("metadata.annotations"), format!("annotation '{PRESERVE_ZERO}' is forbidden"));
    }
    if (name == "exempt") != (kind == "Exempt") {
        errors.invalid(&path.field("type"), kind, "must be 'Exempt' if and only if `name` is 'exempt'");
    }
    match kind {
        "Exempt" => {
            if spec.has("limited") {
                errors.forbidden(&path.field("limited"), "must be nil if the type is not Limited");
            }
            if let Some(exempt) = spec.some("exempt") {
                shares(exempt, &path.field("exempt"), errors);
            }
        }
        "Limited" => {
            if spec.has("exempt") {
                errors.forbidden(&path.field("exempt"), "must be nil if the type is Limited");
            }
            let at = path.field("limited");
            match spec.some("limited") {
                None => errors.required(&at, "must not be empty when type is Limited"),
                Some(limited) => {
                    shares(limited, &at, errors);
                    limit_response(limited.part("limitResponse"), &at.field("limitResponse"), errors);
                    if let Some(percent) = limited.some_int("borrowingLimitPercent").filter(|percent| *percent < 0) {
                        let detail = "if specified, must be a non-negative integer";
                        errors.invalid(&at.field("borrowingLimitPercent"), percent, detail);
                    }
                }
            }
        }
        "" => errors.required(&path.field("type"), ""),
        other => errors.not_supported(&path.field("type"), other, &["Exempt", "Limited"]),
    }
    if MANDATORY.contains(&name)
        && let Some(fixed) =
            bootstrap::priority_levels().iter().find(|fixed| fixed.part("metadata").text("name") == name)
    {
        let mut fixed = fixed.part("spec").clone();
        let mut detail = format!("spec of '{name}' must equal the fixed value");
        if name == "exempt" {
            crate::kit::Write::restore(&mut fixed, "exempt", spec);
            detail = "spec of 'exempt' except the 'spec.exempt' field must equal the fixed value".to_owned();
        }
        if !same(spec, &fixed) {
            errors.invalid_as(&path, &shown_level(spec), detail);
        }
    }
    conditions(level.part("status"), errors);
}

fn shares(level: &Value, path: &Path<'_>, errors: &mut Errors) {
    if let Some(shares) = level.some_int("nominalConcurrencyShares").filter(|shares| *shares < 0) {
        errors.invalid(&path.field("nominalConcurrencyShares"), shares, "must be a non-negative integer");
    }
    if let Some(percent) = level.some_int("lendablePercent") {
        errors.invalid_each_number(&path.field("lendablePercent"), percent, checks::in_range(percent, 0, 100));
    }
}

fn limit_response(response: &Value, path: &Path<'_>, errors: &mut Errors) {
    let at = path.field("queuing");
    match (response.text("type"), response.some("queuing")) {
        ("Reject", Some(_)) => {
            errors.forbidden(&at, "must be nil if limited.limitResponse.type is not Limited");
        }
        ("Queue", None) => errors.required(&at, "must not be empty if limited.limitResponse.type is Limited"),
        ("Queue", Some(queuing)) => queues(queuing, &at, errors),
        ("Reject", None) => {}
        ("", _) => errors.required(&path.field("type"), ""),
        (other, _) => errors.not_supported(&path.field("type"), other, &["Queue", "Reject"]),
    }
}

fn queues(queuing: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (length, queues, hand) = (queuing.int("queueLengthLimit"), queuing.int("queues"), queuing.int("handSize"));
    if length <= 0 {
        errors.invalid(&path.field("queueLengthLimit"), length, "must be positive");
    }
    if queues <= 0 {
        errors.invalid(&path.field("queues"), queues, "must be positive");
    } else if queues > QUEUES_MAX {
        errors.invalid(&path.field("queues"), queues, format!("must not be greater than {QUEUES_MAX}"));
    }
    let at = path.field("handSize");
    if hand <= 0 {
        errors.invalid(&at, hand, "must be positive");
    } else if hand > queues {
        errors.invalid(&at, hand, format!("should not be greater than queues ({queues})"));
    } else if ((queues as f64).log2() * hand as f64).ceil() > HASH_BITS_MAX {
        let detail = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS_MAX}"
        );
        errors.invalid(&at, hand, detail);
    }
}

/// A schema's spec as Go shows it.
fn shown_schema(spec: &Value) -> String {
    let list = |owner: &Value, key: &str, show: fn(&Value) -> String| match owner.part(key).as_array() {
        Some(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(",")),
        None => "null".to_owned(),
    };
    let named = |owner: &Value| go_struct(&[("Name", &owner.text("name").into())]);
    let method = spec
        .some("distinguisherMethod")
        .map_or_else(|| "null".to_owned(), |method| go_struct(&[("Type", &method.text("type").into())]));
    let rules = match spec.part("rules").as_array() {
        None => "null".to_owned(),
        Some(rules) => {
            let show = |rule: &Value| {
                format!(
                    "{{\"Subjects\":{},\"ResourceRules\":{},\"NonResourceRules\":{}}}",
                    list(rule, "subjects", shown_subject),
                    list(rule, "resourceRules", |rule| go_struct(&[
                        ("Verbs", rule.part("verbs")),
                        ("APIGroups", rule.part("apiGroups")),
                        ("Resources", rule.part("resources")),
                        ("ClusterScope", &rule.flag("clusterScope").into()),
                        ("Namespaces", rule.part("namespaces")),
                    ])),
                    list(rule, "nonResourceRules", |rule| go_struct(&[
                        ("Verbs", rule.part("verbs")),
                        ("NonResourceURLs", rule.part("nonResourceURLs")),
                    ])),
                )
            };
            format!("[{}]", rules.iter().map(show).collect::<Vec<_>>().join(","))
        }
    };
    format!(
        "{{\"PriorityLevelConfiguration\":{},\"MatchingPrecedence\":{},\"DistinguisherMethod\":{method},\"Rules\":{rules}}}",
        named(spec.part("priorityLevelConfiguration")),
        spec.int("matchingPrecedence"),
    )
}

fn shown_subject(subject: &Value) -> String {
    let part = |key: &str, fields: &[(&str, &str)]| match subject.some(key) {
        None => "null".to_owned(),
        Some(part) => {
            let values: Vec<Value> = fields.iter().map(|(_, key)| part.text(key).into()).collect();
            go_struct(&fields.iter().zip(&values).map(|((name, _), value)| (*name, value)).collect::<Vec<_>>())
        }
    };
    format!(
        "{{\"Kind\":{},\"User\":{},\"Group\":{},\"ServiceAccount\":{}}}",
        Value::from(subject.text("kind")),
        part("user", &[("Name", "name")]),
        part("group", &[("Name", "name")]),
        part("serviceAccount", &[("Namespace", "namespace"), ("Name", "name")]),
    )
}

/// A level's spec as Go shows it.
fn shown_level(spec: &Value) -> String {
    let limited = spec.some("limited").map_or_else(
        || "null".to_owned(),
        |limited| {
            let response = limited.part("limitResponse");
            let queuing = response.some("queuing").map_or_else(
                || "null".to_owned(),
                |queuing| {
                    go_struct(&[
                        ("Queues", &queuing.int("queues").into()),
                        ("HandSize", &queuing.int("handSize").into()),
                        ("QueueLengthLimit", &queuing.int("queueLengthLimit").into()),
                    ])
                },
            );
            format!(
                "{{\"NominalConcurrencyShares\":{},\"LimitResponse\":{{\"Type\":{},\"Queuing\":{queuing}}},\"LendablePercent\":{},\"BorrowingLimitPercent\":{}}}",
                limited.int("nominalConcurrencyShares"),
                Value::from(response.text("type")),
                limited.part("lendablePercent"),
                limited.part("borrowingLimitPercent"),
            )
        },
    );
    let exempt = spec.some("exempt").map_or_else(
        || "null".to_owned(),
        |exempt| {
            go_struct(&[
                ("NominalConcurrencyShares", exempt.part("nominalConcurrencyShares")),
                ("LendablePercent", exempt.part("lendablePercent")),
            ])
        },
    );
    format!("{{\"Type\":{},\"Limited\":{limited},\"Exempt\":{exempt}}}", Value::from(spec.text("type")))
}
