//! Node: a machine, and what its kubelet reports of it.

mod rules;

use serde_json::{Value, json};

use crate::{
    checks,
    kinds::amounts::round_up,
    kit::{Path, Read, Write},
    metadata::OnUpdate,
    strategy::{Part, Selectable, Strategy},
    table::{Printer, age_of, columns, or_none, printers::name},
};

pub(super) static STRATEGY: Strategy = Strategy {
    metadata_on_update: OnUpdate::WholeAndChanges,
    // A kubelet reports its status along with itself.
    keeps_status_on_create: true,
    selectable: &[Selectable { absent: "false", ..Selectable::field("spec.unschedulable") }],
    defaults: |node| {
        default_ranges(node);
        let status = node.make("status");
        if !status.has("allocatable")
            && let Some(capacity) = status.some("capacity").cloned()
        {
            status.set("allocatable", capacity);
        }
        round_up(status, "capacity");
        round_up(status, "allocatable");
    },
    prepare_create: |node, _| {
        if let Some(spec) = node.some_mut("spec") {
            spec.unset("configSource");
        }
        if let Some(status) = node.some_mut("status") {
            status.unset("config");
        }
    },
    prepare_update: |new, old| {
        if !old.part("spec").has("configSource")
            && let Some(spec) = new.some_mut("spec")
        {
            spec.unset("configSource");
        }
    },
    parts: &[Part {
        prepare: |new, old| {
            new.restore("spec", old);
            if !old.part("status").has("config")
                && let Some(status) = new.some_mut("status")
            {
                status.unset("config");
            }
        },
        validate: rules::validate_update,
        ..Part::STATUS
    }],
    validate: rules::validate,
    validate_update: Some(|new, old, errors| {
        rules::validate(new, errors);
        rules::validate_update(new, old, errors);
    }),
    warnings: |node, _| {
        let spec = node.part("spec");
        let mut warnings = Vec::new();
        if spec.has("configSource") {
            warnings.push("spec.configSource: the feature is removed".to_owned());
        }
        if !spec.text("externalID").is_empty() {
            warnings.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
        }
        let at = Path::at("spec.podCIDRs");
        let ranges = spec.texts("podCIDRs").enumerate();
        warnings.extend(ranges.flat_map(|(number, range)| checks::cidr_warnings(range, &at.index(number))));
        warnings
    },
    printer: &PRINTER,
    ..Strategy::PLAIN
};

/// The old field has the first of the ranges that the new one has.
fn default_ranges(node: &mut Value) {
    let Some(spec) = node.some_mut("spec") else { return };
    let (one, all) = (spec.text("podCIDR").to_owned(), spec.texts("podCIDRs").next().map(str::to_owned));
    match all {
        Some(first) => spec.set("podCIDR", first),
        None if !one.is_empty() => spec.set("podCIDRs", json!([one])),
        None => {}
    }
}

static PRINTER: Printer = Printer {
    columns: columns::NODE,
    cells: |node, now| {
        let info = node.part("status").part("nodeInfo");
        let known = |key: &str| Value::from(if info.text(key).is_empty() { "<unknown>" } else { info.text(key) });
        let kernel = match (info.text("kernelVersion"), info.text("architecture")) {
            ("", "") => "<unknown>".to_owned(),
            ("", architecture) => format!("<unknown> ({architecture})"),
            (kernel, "") => kernel.to_owned(),
            (kernel, architecture) => format!("{kernel} ({architecture})"),
        };
        vec![
            name(node),
            readiness(node).into(),
            roles(node).into(),
            age_of(node, now),
            info.text("kubeletVersion").into(),
            address(node, "InternalIP").into(),
            address(node, "ExternalIP").into(),
            known("osImage"),
            kernel.into(),
            known("containerRuntimeVersion"),
        ]
    },
};

fn readiness(node: &Value) -> String {
    let conditions = node.part("status").items("conditions");
    let ready = conditions.iter().rev().find(|condition| condition.text("type") == "Ready");
    let mut words = vec![match ready.map(|condition| condition.text("status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }];
    if node.part("spec").flag("unschedulable") {
        words.push("SchedulingDisabled");
    }
    words.join(",")
}

fn roles(node: &Value) -> String {
    let labels = node.part("metadata").entries("labels");
    let mut roles: Vec<&str> = labels
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    or_none(&roles.join(",")).to_owned()
}

fn address<'n>(node: &'n Value, kind: &str) -> &'n str {
    let found = node.part("status").items("addresses").iter().find(|address| address.text("type") == kind);
    found.map_or("<none>", |address| address.text("address"))
}
