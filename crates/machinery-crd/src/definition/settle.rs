//! The status of a definition: which of the names that it claims are accepted, and whether it is served.
//!
//! In the reference implementation controllers write it after the definition; here it is the step after its write. Two
//! definitions of a group cannot have one name: whoever is first keeps it, and the other waits until it is free.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::{approval, items, text};

/// Holds a deleted definition until its objects are removed.
pub const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Names that other definitions of the same group have.
#[derive(Clone, Debug, Default)]
pub struct OtherNames {
    resources: HashSet<String>,
    kinds: HashSet<String>,
}

impl OtherNames {
    /// Adds the names that another definition has been given.
    pub fn add(&mut self, other: &Value) {
        let names = other.pointer("/status/acceptedNames").unwrap_or(&Value::Null);
        let short = items(names, "shortNames").iter().filter_map(Value::as_str);
        self.resources
            .extend(["plural", "singular"].into_iter().map(|key| text(names, key)).chain(short).map(str::to_owned));
        self.kinds.extend(["kind", "listKind"].into_iter().map(|key| text(names, key).to_owned()));
    }
}

/// Brings the status of a definition up to date; whether anything changed.
pub fn settle(definition: &mut Value, others: &OtherNames, now: &str) -> bool {
    let before = definition.get("status").cloned().unwrap_or_default();
    let claimed = definition.pointer("/spec/names").cloned().unwrap_or_else(|| json!({}));
    let held = before.get("acceptedNames").cloned().unwrap_or_else(|| json!({}));
    let (accepted, conflict) = accept(&claimed, &held, others);
    let mut status = match before.clone() {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    let mut conditions = status.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let names_accepted = match &conflict {
        None => ("True", "NoConflicts", "no conflicts found".to_owned()),
        Some((reason, message)) => ("False", *reason, message.clone()),
    };
    let was_established = is_true(&conditions, "Established");
    let (state, reason, message) = &names_accepted;
    set_condition(&mut conditions, "NamesAccepted", state, reason, message, now);
    if !was_established {
        let (state, reason, message) = match conflict {
            None => ("True", "InitialNamesAccepted", "the initial names have been accepted"),
            Some(_) => ("False", "NotAccepted", "not all names are accepted"),
        };
        set_condition(&mut conditions, "Established", state, reason, message, now);
    }
    if approval::is_protected(text(definition.get("spec").unwrap_or(&Value::Null), "group")) {
        let (found, message) = approval::state(definition);
        let (state, reason) = match found {
            approval::Approval::Approved => ("True", "ApprovedAnnotation"),
            approval::Approval::Bypassed => ("False", "UnapprovedAnnotation"),
            approval::Approval::Missing => ("False", "MissingAnnotation"),
            approval::Approval::Invalid => ("False", "InvalidAnnotation"),
        };
        set_condition(&mut conditions, "KubernetesAPIApprovalPolicyConformant", state, reason, &message, now);
    }
    status.insert("conditions".to_owned(), conditions.into());
    status.insert("acceptedNames".to_owned(), accepted);
    let status = Value::Object(status);
    let is_changed = status != before;
    definition["status"] = status;
    is_changed
}

/// Whether a definition is served.
pub fn is_established(definition: &Value) -> bool {
    is_true(items(definition.get("status").unwrap_or(&Value::Null), "conditions"), "Established")
}

/// Marks a definition whose deletion begins: it stays until its objects are removed.
pub fn begin_deletion(definition: &mut Value) {
    let now = text(definition.get("metadata").unwrap_or(&Value::Null), "deletionTimestamp").to_owned();
    if let Some(metadata) = definition.get_mut("metadata").and_then(Value::as_object_mut) {
        let finalizers = metadata.entry("finalizers").or_insert_with(|| json!([]));
        if let Some(finalizers) = finalizers.as_array_mut()
            && !finalizers.iter().any(|finalizer| finalizer == FINALIZER)
        {
            finalizers.push(FINALIZER.into());
        }
    }
    let status = definition.get("status").cloned().unwrap_or_else(|| json!({}));
    let mut conditions = items(&status, "conditions").to_vec();
    let message = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    set_condition(&mut conditions, "Terminating", "True", "InstanceDeletionPending", message, &now);
    definition["status"]["conditions"] = conditions.into();
}

/// The names that are accepted, and the last conflict. A name that is taken leaves the one that was accepted before.
fn accept(claimed: &Value, held: &Value, others: &OtherNames) -> (Value, Option<(&'static str, String)>) {
    let mut accepted = held.as_object().cloned().unwrap_or_default();
    let mut conflict = None;
    let in_use = |name: &str| format!("{} is already in use", crate::go::quoted(name));
    let mut take = |key: &str, reason: &'static str, used: &HashSet<String>, accepted: &mut Map<String, Value>| {
        let name = text(claimed, key);
        if name != text(held, key) && used.contains(name) {
            conflict = Some((reason, in_use(name)));
        } else if name.is_empty() {
            accepted.remove(key);
        } else {
            accepted.insert(key.to_owned(), name.into());
        }
    };
    take("plural", "PluralConflict", &others.resources, &mut accepted);
    take("singular", "SingularConflict", &others.resources, &mut accepted);
    let before: Option<(&str, String)> = conflict.take();
    let mut conflict = before;
    if items(claimed, "shortNames") != items(held, "shortNames") {
        let short = items(claimed, "shortNames").iter().filter(|name| !items(held, "shortNames").contains(name));
        let taken: Vec<String> =
            short.filter_map(Value::as_str).filter(|name| others.resources.contains(*name)).map(in_use).collect();
        match taken.as_slice() {
            [] => copy(claimed, "shortNames", &mut accepted),
            [one] => conflict = Some(("ShortNamesConflict", one.clone())),
            many => conflict = Some(("ShortNamesConflict", format!("[{}]", many.join(", ")))),
        }
    }
    for (key, reason) in [("kind", "KindConflict"), ("listKind", "ListKindConflict")] {
        let name = text(claimed, key);
        if name != text(held, key) && others.kinds.contains(name) {
            conflict = Some((reason, in_use(name)));
        } else {
            accepted.insert(key.to_owned(), name.into());
        }
    }
    copy(claimed, "categories", &mut accepted);
    // These two are there even when nothing is accepted.
    for key in ["plural", "kind"] {
        accepted.entry(key).or_insert_with(|| "".into());
    }
    (Value::Object(accepted), conflict)
}

fn copy(claimed: &Value, key: &str, accepted: &mut Map<String, Value>) {
    match claimed.get(key).filter(|names| !items(claimed, key).is_empty() && names.is_array()) {
        Some(names) => accepted.insert(key.to_owned(), names.clone()),
        None => accepted.remove(key),
    };
}

fn is_true(conditions: &[Value], kind: &str) -> bool {
    conditions.iter().any(|condition| condition["type"] == kind && condition["status"] == "True")
}

/// Sets a condition; its time changes with its status only.
fn set_condition(conditions: &mut Vec<Value>, kind: &str, state: &str, reason: &str, message: &str, now: &str) {
    let found = conditions.iter_mut().find(|condition| condition["type"] == kind);
    let Some(condition) = found else {
        conditions.push(json!({
            "type": kind, "status": state, "lastTransitionTime": now, "reason": reason, "message": message,
        }));
        return;
    };
    if condition["status"] != state {
        condition["lastTransitionTime"] = now.into();
    }
    condition["status"] = state.into();
    condition["reason"] = reason.into();
    condition["message"] = message.into();
}
