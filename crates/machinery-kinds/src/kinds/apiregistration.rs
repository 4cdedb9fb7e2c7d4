//! Kinds of the group `apiregistration.k8s.io`: who serves which version of which API.

use jiff::Timestamp;
use machinery_schema::field_error::quoted;
use serde_json::{Value, json};

use crate::{
    checks,
    kit::{Errors, Path, Read, Write},
    metadata::{NameRule, OnUpdate},
    strategy::{Part, Strategy, restore_metadata_for_status},
    table::{Printer, age_of, columns, printers::name},
};

/// What is special about a kind of this group.
pub(crate) fn strategy(kind: &str) -> Option<&'static Strategy> {
    (kind == "APIService").then_some(&API_SERVICE)
}

static API_SERVICE: Strategy = Strategy {
    name_rule: NameRule::Own(|name, _| checks::path_segment_name(name)),
    kube_finalizers: false,
    metadata_on_update: OnUpdate::WholeAndChanges,
    unconditional_update: false,
    defaults: |api| {
        if let Some(service) = api.make("spec").some_mut("service") {
            service.default_to("port", 443);
        }
    },
    prepare_create: |api, _| {
        let mut status = json!({});
        if !api.part("spec").has("service") {
            let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default().to_string();
            status = json!({"conditions": [{
                "type": "Available", "status": "True", "lastTransitionTime": now, "reason": "Local",
                "message": "Local APIServices are always available",
            }]});
        }
        api.set("status", status);
    },
    parts: &[Part {
        prepare: |new, old| {
            new.restore("spec", old);
            restore_metadata_for_status(new, old);
        },
        validate: |new, _, errors| status(new, errors),
        ..Part::STATUS
    }],
    validate,
    printer: &Printer { columns: columns::API_SERVICE, cells },
    ..Strategy::PLAIN
};

fn validate(api: &Value, errors: &mut Errors) {
    let (path, spec) = (Path::at("spec"), api.part("spec"));
    let (group, version) = (spec.text("group"), spec.text("version"));
    let (name, required) = (api.part("metadata").text("name"), format!("{version}.{group}"));
    // The rule of names that fit into a URL comes first, and alone.
    if !name.is_empty() && name != required && checks::path_segment_name(name).is_empty() {
        let detail = format!("must be `spec.version+\".\"+spec.group`: {}", quoted(&required));
        errors.invalid(&Path::at("metadata.name"), name, detail);
    }
    if group.is_empty() && version != "v1" {
        let detail = "only v1 may have an empty group and it better be legacy kube";
        errors.required(&path.field("group"), detail);
    }
    if !group.is_empty() {
        errors.invalid_each(&path.field("group"), group, checks::dns_subdomain(group));
    }
    errors.invalid_each(&path.field("version"), version, checks::dns1035_label(version));
    for (key, range) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
        let number = spec.int(key);
        if number <= 0 || number > range {
            errors.invalid(&path.field(key), number, format!("must be positive and less than {range}"));
        }
    }
    let skips = spec.flag("insecureSkipTLSVerify");
    let Some(service) = spec.some("service") else {
        if !spec.text("caBundle").is_empty() {
            errors.invalid(
                &path.field("caBundle"),
                format!("{} bytes", decoded_len(spec.text("caBundle"))),
                "local APIServices may not have a caBundle",
            );
        }
        if skips {
            errors.invalid(
                &path.field("insecureSkipTLSVerify"),
                true,
                "local APIServices may not have insecureSkipTLSVerify",
            );
        }
        return;
    };
    let at = path.field("service");
    for key in ["namespace", "name"] {
        if service.text(key).is_empty() {
            errors.required(&at.field(key), "");
        }
    }
    let messages = checks::port_number(service.int("port"));
    if !messages.is_empty() {
        let detail = format!("port is not valid: {}", messages.join(", "));
        errors.invalid(&at.field("port"), service.part("port").clone(), detail);
    }
    if skips && !spec.text("caBundle").is_empty() {
        errors.invalid(&path.field("insecureSkipTLSVerify"), true, "may not be true if caBundle is present");
    }
}

fn decoded_len(base64: &str) -> usize {
    base64.trim_end_matches('=').len() * 3 / 4
}

fn status(api: &Value, errors: &mut Errors) {
    let path = Path::at("status.conditions");
    for (number, condition) in api.part("status").items("conditions").iter().enumerate() {
        if !matches!(condition.text("status"), "True" | "False" | "Unknown") {
            let at = path.index(number);
            errors.not_supported(&at.field("status"), condition.text("status"), &["True", "False", "Unknown"]);
        }
    }
}

fn cells(api: &Value, now: Timestamp) -> Vec<Value> {
    let service = api.part("spec").some("service");
    let service =
        service.map_or_else(|| "Local".to_owned(), |at| format!("{}/{}", at.text("namespace"), at.text("name")));
    let mut conditions = api.part("status").items("conditions").iter();
    let available = conditions.find(|condition| condition.text("type") == "Available");
    let available = match available.map(|condition| (condition.text("status"), condition.text("reason"))) {
        None => "Unknown".to_owned(),
        Some((status, reason)) if status == "True" || reason.is_empty() => status.to_owned(),
        Some((status, reason)) => format!("{status} ({reason})"),
    };
    vec![name(api), service.into(), available.into(), age_of(api, now)]
}
