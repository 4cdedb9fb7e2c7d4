//! Where a pod may run: affinity, tolerations, spreading, gates.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Options;
use crate::{
    checks::{self, SelectorOptions},
    kinds::node_selector::{self, check_node_selector, check_node_selector_term},
    kit::{Errors, Path, Read},
};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub(super) fn affinity(affinity: &Value, options: Options, path: &Path<'_>, errors: &mut Errors) {
    if let Some(nodes) = affinity.some("nodeAffinity") {
        let path = path.field("nodeAffinity");
        if let Some(selector) = nodes.some(REQUIRED) {
            check_node_selector(selector, options.any_node_affinity_value, &path.field(REQUIRED), errors);
        }
        let at = path.field(PREFERRED);
        for (number, term) in nodes.items(PREFERRED).iter().enumerate() {
            let at = at.index(number);
            weight(term, &at, errors);
            check_node_selector_term(term.part("preference"), true, &at.field("preference"), errors);
        }
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(pods) = affinity.some(kind) else { continue };
        let path = path.field(kind);
        let at = path.field(REQUIRED);
        for (number, term) in pods.items(REQUIRED).iter().enumerate() {
            pod_term(term, options, &at.index(number), errors);
        }
        let at = path.field(PREFERRED);
        for (number, weighted) in pods.items(PREFERRED).iter().enumerate() {
            let at = at.index(number);
            weight(weighted, &at, errors);
            pod_term(weighted.part("podAffinityTerm"), options, &at.field("podAffinityTerm"), errors);
        }
    }
}

fn weight(term: &Value, path: &Path<'_>, errors: &mut Errors) {
    let weight = term.int("weight");
    if !(1..=100).contains(&weight) {
        errors.invalid(&path.field("weight"), weight, "must be in the range 1-100");
    }
}

fn pod_term(term: &Value, options: Options, path: &Path<'_>, errors: &mut Errors) {
    let selector = SelectorOptions { any_value: options.any_selector_value, ..SelectorOptions::default() };
    for key in ["labelSelector", "namespaceSelector"] {
        checks::label_selector(term.part(key), selector, &path.field(key), errors);
    }
    for name in term.texts("namespaces") {
        errors.invalid_each(&path.field("namespace"), name, checks::dns_label(name));
    }
    label_keys(term, path, errors);
    let key = term.text("topologyKey");
    if key.is_empty() {
        errors.required(&path.field("topologyKey"), "can not be empty");
    }
    errors.invalid_each(&path.field("topologyKey"), key, checks::qualified_name(key));
}

/// Keys of labels whose values are those of the pod.
fn label_keys(term: &Value, path: &Path<'_>, errors: &mut Errors) {
    let selector = term.some("labelSelector");
    for list in ["matchLabelKeys", "mismatchLabelKeys"] {
        let at = path.field(list);
        if term.items(list).is_empty() {
            continue;
        }
        if selector.is_none() {
            errors.forbidden(&at, "must not be specified when labelSelector is not set");
            continue;
        }
        for (number, key) in term.texts(list).enumerate() {
            errors.invalid_each(&at.index(number), key, checks::qualified_name(key));
        }
    }
    let keys: Vec<&str> = term.texts("matchLabelKeys").collect();
    if let Some(selector) = selector {
        // The server adds each key once; one that was there before is another.
        let mut seen: BTreeSet<&str> = selector.entries("matchLabels").map(|(key, _)| key).collect();
        for expression in selector.items("matchExpressions") {
            let key = expression.text("key");
            if let Some(number) = keys.iter().rposition(|known| *known == key)
                && seen.contains(key)
            {
                errors.invalid(&path.index(number), key, "exists in both matchLabelKeys and labelSelector");
            }
            seen.insert(key);
        }
    }
    let at = path.field("matchLabelKeys");
    for (number, key) in keys.iter().enumerate() {
        if term.texts("mismatchLabelKeys").any(|other| other == *key) {
            errors.invalid(&at.index(number), *key, "exists in both matchLabelKeys and mismatchLabelKeys");
        }
    }
}

pub(super) fn gates(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let at = path.field("readinessGates");
    for (number, gate) in spec.items("readinessGates").iter().enumerate() {
        let kind = gate.text("conditionType");
        errors.invalid_each(&at.index(number).field("conditionType"), kind, checks::qualified_name(kind));
    }
    let at = path.field("schedulingGates");
    let mut seen = BTreeSet::new();
    for (number, gate) in spec.items("schedulingGates").iter().enumerate() {
        let name = gate.text("name");
        errors.invalid_each(&at.index(number), name, checks::qualified_name(name));
        if !seen.insert(name) {
            errors.duplicate(&at.index(number), name);
        }
    }
}

pub(super) fn group(group: &Value, path: &Path<'_>, errors: &mut Errors) {
    let at = path.field("podGroupName");
    match group.some("podGroupName").and_then(Value::as_str) {
        None => errors.invalid(&at, Value::Null, "must specify one of: `podGroupName`"),
        Some(name) => errors.invalid_each(&at, name, checks::dns_subdomain(name)),
    }
}

pub(super) fn spread_constraints(spec: &Value, options: Options, path: &Path<'_>, errors: &mut Errors) {
    const ACTIONS: [&str; 2] = ["DoNotSchedule", "ScheduleAnyway"];
    let constraints = spec.items("topologySpreadConstraints");
    for (number, constraint) in constraints.iter().enumerate() {
        let at = path.index(number);
        let skew = constraint.int("maxSkew");
        checks::positive(skew, &at.field("maxSkew"), errors);
        let key = constraint.text("topologyKey");
        if key.is_empty() {
            errors.required(&at.field("topologyKey"), "can not be empty");
        }
        let action = constraint.text("whenUnsatisfiable");
        if !ACTIONS.contains(&action) {
            errors.not_supported(&at.field("whenUnsatisfiable"), action, &ACTIONS);
        }
        let is_same = |other: &Value| other.text("topologyKey") == key && other.text("whenUnsatisfiable") == action;
        if constraints[number + 1..].iter().any(is_same) {
            let pair = format!("{{{key}, {action}}}");
            errors.duplicate(&at.field("{topologyKey, whenUnsatisfiable}"), pair);
        }
        if let Some(domains) = constraint.some_int("minDomains") {
            let at = at.field("minDomains");
            checks::positive(domains, &at, errors);
            if action != "DoNotSchedule" {
                let detail = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                errors.invalid(&at, domains, detail);
            }
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            let word = constraint.text(policy);
            if constraint.has(policy) && !matches!(word, "Honor" | "Ignore") {
                errors.not_supported(&at.field(policy), word, &["Honor", "Ignore"]);
            }
        }
        if options.any_spread_keys {
            keys_of_old_spread(constraint, &at.field("matchLabelKeys"), errors);
        } else {
            label_keys(constraint, &at, errors);
        }
        if !options.any_spread_selector {
            let selector = SelectorOptions::default();
            checks::label_selector(constraint.part("labelSelector"), selector, &at.field("labelSelector"), errors);
        }
    }
}

/// The rule of a time when keys were not merged into the selector.
fn keys_of_old_spread(constraint: &Value, path: &Path<'_>, errors: &mut Errors) {
    let selector = constraint.part("labelSelector");
    if constraint.items("matchLabelKeys").is_empty() {
        return;
    }
    if selector.is_null() {
        errors.forbidden(path, "must not be specified when labelSelector is not set");
    }
    for (number, key) in constraint.texts("matchLabelKeys").enumerate() {
        let at = path.index(number);
        errors.invalid_each(&at, key, checks::qualified_name(key));
        let is_selected = selector.part("matchLabels").has(key)
            || selector.items("matchExpressions").iter().any(|expression| expression.text("key") == key);
        if is_selected {
            errors.invalid(&at, key, "exists in both matchLabelKeys and labelSelector");
        }
    }
}

pub(super) fn tolerations(spec: &Value, options: Options, path: &Path<'_>, errors: &mut Errors) {
    for (number, toleration) in spec.items("tolerations").iter().enumerate() {
        let at = path.index(number);
        let (key, operator) = (toleration.text("key"), toleration.text("operator"));
        let (value, effect) = (toleration.text("value"), toleration.text("effect"));
        if !key.is_empty() {
            errors.invalid_each(&at.field("key"), key, checks::qualified_name(key));
        } else if operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.invalid(&at.field("operator"), operator, detail);
        }
        if toleration.has("tolerationSeconds") && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.invalid(&at.field("effect"), effect, detail);
        }
        match operator {
            "Equal" | "" => {
                let messages = checks::label_value(value);
                if !messages.is_empty() {
                    errors.invalid(&at.field("operator"), value, messages.join(";"));
                }
            }
            "Exists" if !value.is_empty() => {
                errors.invalid(&at.field("operator"), value, "value must be empty when `operator` is 'Exists'");
            }
            "Exists" => {}
            "Lt" | "Gt" if options.any_toleration_operator => {
                errors.invalid_each(&at.field("value"), value, checks::decimal_integer(value));
            }
            "Lt" | "Gt" => {
                errors.not_supported(&at.field("operator"), operator, &["Equal", "Exists", "Lt", "Gt"]);
            }
            other => errors.not_supported(&at.field("operator"), other, &["Equal", "Exists"]),
        }
        if !matches!(effect, "" | "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
            let allowed = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
            errors.not_supported(&at.field("effect"), effect, &allowed);
        }
    }
}

/// Whether a selector of other pods has a value that no label can have.
pub(super) fn has_invalid_affinity_value(spec: &Value) -> bool {
    let affinity = spec.part("affinity");
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let pods = affinity.part(kind);
        let preferred = pods.items(PREFERRED).iter().map(|term| term.part("podAffinityTerm"));
        pods.items(REQUIRED).iter().chain(preferred).any(|term| {
            ["labelSelector", "namespaceSelector"].iter().any(|key| {
                let mut errors = Errors::default();
                checks::label_selector(term.part(key), SelectorOptions::default(), &Path::ROOT, &mut errors);
                !errors.is_empty()
            })
        })
    })
}

/// Whether a required selector of nodes has a value that no label can have.
pub(super) fn has_invalid_node_affinity_value(spec: &Value) -> bool {
    node_selector::has_invalid_value(spec.part("affinity").part("nodeAffinity").part(REQUIRED))
}

/// Whether the selector of a spread constraint is one that no new pod may have.
pub(super) fn has_invalid_spread_selector(spec: &Value) -> bool {
    spec.items("topologySpreadConstraints").iter().any(|constraint| {
        let mut errors = Errors::default();
        checks::label_selector(constraint.part("labelSelector"), SelectorOptions::default(), &Path::ROOT, &mut errors);
        !errors.is_empty()
    })
}

/// Whether the keys of a spread constraint are ones that no new pod may have.
pub(super) fn has_invalid_spread_keys(spec: &Value) -> bool {
    spec.items("topologySpreadConstraints").iter().any(|constraint| {
        let mut errors = Errors::default();
        label_keys(constraint, &Path::ROOT, &mut errors);
        !errors.is_empty()
    })
}
