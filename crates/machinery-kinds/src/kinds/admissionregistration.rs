//! Kinds of the group `admissionregistration.k8s.io`: who is asked before an object is stored.
//!
//! Webhooks are called in other places, and policies are rules in CEL about objects. Here are the shapes of both.

mod expressions;
mod matching;
mod policies;
#[cfg(test)]
mod tests;
pub(crate) mod webhooks;

use serde_json::Value;

use crate::{
    kit::{Read, Write},
    metadata::OnUpdate,
    strategy::{Part, Strategy, restore_metadata_for_status},
    table::{Printer, age_of, columns, printers::name},
};

/// What is special about a kind of this group.
pub(crate) fn strategy(kind: &str) -> Option<&'static Strategy> {
    Some(match kind {
        "MutatingWebhookConfiguration" => &MUTATING_WEBHOOKS,
        "ValidatingWebhookConfiguration" => &VALIDATING_WEBHOOKS,
        "ValidatingAdmissionPolicy" => &VALIDATING_POLICY,
        "ValidatingAdmissionPolicyBinding" => &VALIDATING_BINDING,
        "MutatingAdmissionPolicy" => &MUTATING_POLICY,
        "MutatingAdmissionPolicyBinding" => &MUTATING_BINDING,
        _ => return None,
    })
}

/// What all have in common.
const COMMON: Strategy = Strategy {
    generation: true,
    kube_finalizers: false,
    metadata_on_update: OnUpdate::Whole,
    unconditional_update: false,
    warnings: |object, _| {
        let name = object.part("metadata").text("name");
        match name.ends_with(".static.k8s.io") {
            true => vec![
                "metadata.name: names ending with \".static.k8s.io\" are reserved for static manifest-based configurations and cannot be managed via the API".to_owned(),
            ],
            false => Vec::new(),
        }
    },
    ..Strategy::PLAIN
};

static MUTATING_WEBHOOKS: Strategy = Strategy {
    defaults: |configuration| {
        default_webhooks(configuration);
        for webhook in configuration.items_mut("webhooks") {
            webhook.default_to("reinvocationPolicy", "Never");
        }
    },
    validate: webhooks::mutating,
    validate_update: Some(webhooks::mutating_update),
    printer: &Printer { columns: columns::MUTATING_WEBHOOK_CONFIGURATION, cells: webhook_cells },
    ..COMMON
};

static VALIDATING_WEBHOOKS: Strategy = Strategy {
    defaults: default_webhooks,
    validate: webhooks::validating,
    validate_update: Some(webhooks::validating_update),
    printer: &Printer { columns: columns::VALIDATING_WEBHOOK_CONFIGURATION, cells: webhook_cells },
    ..COMMON
};

static VALIDATING_POLICY: Strategy = Strategy {
    defaults: default_policy,
    parts: &[Part {
        prepare: |new, old| {
            new.restore("spec", old);
            restore_metadata_for_status(new, old);
        },
        validate: |new, _, errors| policies::validating_status(new, errors),
        ..Part::STATUS
    }],
    validate: policies::validating,
    validate_update: Some(policies::validating_update),
    printer: &Printer {
        columns: columns::VALIDATING_ADMISSION_POLICY,
        cells: |policy, now| policy_cells(policy, "validations", now),
    },
    ..COMMON
};

static VALIDATING_BINDING: Strategy = Strategy {
    defaults: |binding| default_matching(binding.make("spec"), "matchResources"),
    validate: |binding, errors| policies::binding(binding, true, errors),
    printer: &Printer { columns: columns::VALIDATING_ADMISSION_POLICY_BINDING, cells: binding_cells },
    ..COMMON
};

static MUTATING_POLICY: Strategy = Strategy {
    defaults: default_policy,
    validate: policies::mutating,
    validate_update: Some(policies::mutating_update),
    printer: &Printer {
        columns: columns::MUTATING_ADMISSION_POLICY,
        cells: |policy, now| policy_cells(policy, "mutations", now),
    },
    ..COMMON
};

static MUTATING_BINDING: Strategy = Strategy {
    defaults: |binding| default_matching(binding.make("spec"), "matchResources"),
    validate: |binding, errors| policies::binding(binding, false, errors),
    printer: &Printer { columns: columns::MUTATING_ADMISSION_POLICY_BINDING, cells: binding_cells },
    ..COMMON
};

fn default_webhooks(configuration: &mut Value) {
    for webhook in configuration.items_mut("webhooks") {
        webhook.default_to("failurePolicy", "Fail");
        default_match(webhook);
        webhook.default_to("timeoutSeconds", 10);
        if let Some(service) = webhook.make("clientConfig").some_mut("service") {
            service.default_to("port", 443);
        }
        default_scopes(webhook, "rules");
    }
}

/// Which objects are matched: the same for webhooks and policies.
fn default_match(matching: &mut Value) {
    matching.default_to("matchPolicy", "Equivalent");
    for key in ["namespaceSelector", "objectSelector"] {
        matching.default_to(key, Value::Object(serde_json::Map::new()));
    }
}

fn default_scopes(matching: &mut Value, list: &str) {
    for rule in matching.items_mut(list) {
        rule.default_to("scope", "*");
    }
}

fn default_matching(spec: &mut Value, key: &str) {
    if let Some(matching) = spec.some_mut(key) {
        default_match(matching);
        default_scopes(matching, "resourceRules");
        default_scopes(matching, "excludeResourceRules");
    }
}

fn default_policy(policy: &mut Value) {
    let spec = policy.make("spec");
    spec.default_to("failurePolicy", "Fail");
    default_matching(spec, "matchConstraints");
}

fn webhook_cells(configuration: &Value, now: jiff::Timestamp) -> Vec<Value> {
    vec![name(configuration), configuration.items("webhooks").len().into(), age_of(configuration, now)]
}

fn policy_cells(policy: &Value, list: &str, now: jiff::Timestamp) -> Vec<Value> {
    let spec = policy.part("spec");
    let kind = spec.some("paramKind");
    let kind =
        kind.map_or_else(|| "<unset>".to_owned(), |kind| format!("{}/{}", kind.text("apiVersion"), kind.text("kind")));
    vec![name(policy), spec.items(list).len().into(), kind.into(), age_of(policy, now)]
}

fn binding_cells(binding: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let spec = binding.part("spec");
    let parameter = spec.some("paramRef").map_or_else(
        || "<unset>".to_owned(),
        |reference| match (reference.text("name"), reference.text("namespace")) {
            ("", _) => reference.some("selector").map_or_else(|| "<unset>".to_owned(), shown_selector),
            (name, "") => format!("*/{name}"),
            (name, namespace) => format!("{namespace}/{name}"),
        },
    );
    vec![name(binding), spec.text("policyName").into(), parameter.into(), age_of(binding, now)]
}

/// A selector as Go prints the struct.
fn shown_selector(selector: &Value) -> String {
    let labels: Vec<String> = selector
        .entries("matchLabels")
        .map(|(key, value)| format!("{key}: {},", value.as_str().unwrap_or_default()))
        .collect();
    let expressions: Vec<String> = selector
        .items("matchExpressions")
        .iter()
        .map(|expression| {
            let values: Vec<&str> = expression.texts("values").collect();
            format!(
                "LabelSelectorRequirement{{Key:{},Operator:{},Values:[{}],}},",
                expression.text("key"),
                expression.text("operator"),
                values.join(" ")
            )
        })
        .collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{}}},MatchExpressions:[]LabelSelectorRequirement{{{}}},}}",
        labels.join(""),
        expressions.join("")
    )
}
