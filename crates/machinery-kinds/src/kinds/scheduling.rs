//! Kinds of the group `scheduling.k8s.io`: what comes first when there is not enough for all.

use serde_json::Value;

use crate::{
    checks,
    kit::{Errors, Path, Read, Write},
    strategy::Strategy,
    table::{Printer, age_of, columns, printers::name},
};

/// The largest value that users may give; what is above belongs to Kubernetes.
const USER_VALUE_MAX: i64 = 1_000_000_000;

/// The classes that are there from the start: name, value and description.
pub(crate) const SYSTEM_CLASSES: [(&str, i64, &str); 2] = [
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
];

/// What is special about a kind of this group.
pub(crate) fn strategy(kind: &str) -> Option<&'static Strategy> {
    (kind == "PriorityClass").then_some(&PRIORITY_CLASS)
}

static PRIORITY_CLASS: Strategy = Strategy {
    // The first generation is the only one.
    prepare_create: |class, _| class.make("metadata").set("generation", 1),
    defaults: |class| class.default_to("preemptionPolicy", "PreemptLowerPriority"),
    validate,
    validate_update: Some(validate_update),
    printer: &Printer {
        columns: columns::PRIORITY_CLASS,
        cells: |class, now| {
            vec![
                name(class),
                class.int("value").into(),
                class.flag("globalDefault").into(),
                age_of(class, now),
                class.text("preemptionPolicy").into(),
            ]
        },
    },
    ..Strategy::PLAIN
};

fn validate(class: &Value, errors: &mut Errors) {
    let (name, value) = (class.part("metadata").text("name"), class.int("value"));
    if name.starts_with("system-") {
        let problem = match SYSTEM_CLASSES.iter().find(|(known, ..)| *known == name) {
            None => Some(format!("{name} is not a known system priority class")),
            Some((_, known, _)) if *known != value => Some(format!("value of {name} PriorityClass must be {known}")),
            Some(_) if class.flag("globalDefault") => {
                Some(format!("globalDefault of {name} PriorityClass must be false"))
            }
            Some(_) => None,
        };
        if let Some(problem) = problem {
            let detail = format!(
                "priority class names with 'system-' prefix are reserved for system use only. error: {problem}"
            );
            errors.forbidden(&Path::at("metadata.name"), detail);
        }
    } else if value > USER_VALUE_MAX {
        let detail = format!("maximum allowed value of a user defined priority is {USER_VALUE_MAX}");
        errors.forbidden(&Path::at("value"), detail);
    }
    match class.part("preemptionPolicy").as_str() {
        None | Some("PreemptLowerPriority" | "Never") => {}
        Some("") => errors.required(&Path::at("preemptionPolicy"), ""),
        Some(other) => {
            errors.not_supported(&Path::at("preemptionPolicy"), other, &["PreemptLowerPriority", "Never"]);
        }
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    if new.int("value") != old.int("value") {
        errors.forbidden(&Path::at("value"), "may not be changed in an update.");
    }
    let path = Path::at("preemptionPolicy");
    checks::immutable(new.part("preemptionPolicy"), old.part("preemptionPolicy"), &path, errors);
}
