//! Parts of metadata and of status that many kinds have: labels, annotations, finalizers, owners, managed fields, conditions.

use serde_json::{Value, json};

use super::{
    names::{label_value, qualified_name, regex_message},
    values::non_negative,
};
use crate::kit::{Errors, Path, Read};

/// All annotations of one object together.
pub(crate) const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;
const FIELD_MANAGER_BYTES_MAX: usize = 128;
const SUBRESOURCE_BYTES_MAX: usize = 256;
const REASON_BYTES_MAX: usize = 1024;
const MESSAGE_BYTES_MAX: usize = 32 * 1024;

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// Labels, or a selector's `matchLabels`.
pub(crate) fn labels(labels: &Value, path: &Path<'_>, errors: &mut Errors) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        errors.invalid_each(path, key, qualified_name(key));
        let value = value.as_str().unwrap_or_default();
        errors.invalid_each(path, value, label_value(value));
        if errors.is_full() {
            break;
        }
    }
}

/// Annotations: their keys are as labels' in any case, and their values are not too long together.
pub(crate) fn annotations(annotations: &Value, path: &Path<'_>, errors: &mut Errors) {
    let mut bytes = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        bytes += key.len() + value.as_str().map_or(0, str::len);
        errors.invalid_each(path, key, qualified_name(&key.to_lowercase()));
    }
    if bytes > ANNOTATIONS_BYTES_MAX {
        errors.too_long(path, ANNOTATIONS_BYTES_MAX);
    }
}

/// `metadata.ownerReferences`.
pub(crate) fn owner_references(owners: &Value, path: &Path<'_>, errors: &mut Errors) {
    let items = owners.as_array().map_or(&[][..], Vec::as_slice);
    let mut controller: Option<String> = None;
    for owner in items {
        if errors.is_full() {
            break;
        }
        let (api_version, kind) = (owner.text("apiVersion"), owner.text("kind"));
        // Whatever has more than one slash has no version that upstream can read.
        let version = match api_version.matches('/').count() {
            0 => api_version,
            1 => api_version.split_once('/').map_or("", |(_, version)| version),
            _ => "",
        };
        if version.is_empty() {
            errors.invalid(&path.field("apiVersion"), api_version, "version must not be empty");
        }
        for key in ["kind", "name", "uid"] {
            if owner.text(key).is_empty() {
                errors.invalid(&path.field(key), "", "must not be empty");
            }
        }
        if (api_version, kind) == ("v1", "Event") {
            let detail = "/v1, Kind=Event is disallowed from being an owner";
            errors.invalid_as(path, &owner_text(owner), detail);
        }
        if owner.flag("controller") {
            let this = format!("{kind}/{}", owner.text("name"));
            if let Some(first) = &controller {
                let all: Vec<String> = items.iter().map(owner_text).collect();
                errors.invalid_as(
                    path,
                    &format!("[{}]", all.join(",")),
                    format!("Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"),
                );
            } else {
                controller = Some(this);
            }
        }
    }
}

/// An owner reference as Go writes it.
fn owner_text(owner: &Value) -> String {
    let mut fields: Vec<String> = ["apiVersion", "kind", "name", "uid"]
        .iter()
        .map(|key| format!("\"{key}\":{}", Value::from(owner.text(key))))
        .collect();
    for key in ["controller", "blockOwnerDeletion"] {
        if let Some(flag) = owner.some_flag(key) {
            fields.push(format!("\"{key}\":{flag}"));
        }
    }
    format!("{{{}}}", fields.join(","))
}

/// `metadata.finalizers`: each is a qualified name, and two of Kubernetes' own exclude each other.
pub(crate) fn finalizers(finalizers: &Value, path: &Path<'_>, errors: &mut Errors) {
    let mut found = (false, false);
    for finalizer in finalizers.as_array().into_iter().flatten().filter_map(Value::as_str) {
        errors.invalid_each(path, finalizer, qualified_name(finalizer));
        found.0 |= finalizer == ORPHAN;
        found.1 |= finalizer == FOREGROUND;
    }
    if found == (true, true) {
        let detail = format!("finalizer {ORPHAN} and {FOREGROUND} cannot be both set");
        errors.invalid(path, finalizers.clone(), detail);
    }
}

/// Finalizers without a domain are Kubernetes' own; most kinds ask for this besides [`finalizers`]. `path` is the list's.
pub(crate) fn kube_finalizers(finalizers: &Value, path: &Path<'_>, errors: &mut Errors) {
    for (number, finalizer) in finalizers.as_array().into_iter().flatten().enumerate() {
        kube_finalizer(finalizer.as_str().unwrap_or_default(), &path.index(number), errors);
    }
}

/// One finalizer; see [`kube_finalizers`].
pub(crate) fn kube_finalizer(finalizer: &str, path: &Path<'_>, errors: &mut Errors) {
    if !finalizer.contains('/') && !matches!(finalizer, "kubernetes" | ORPHAN | FOREGROUND) {
        errors.invalid(path, finalizer, "name is neither a standard finalizer name nor is it fully qualified");
    }
}

/// `metadata.managedFields`.
pub(crate) fn managed_fields(entries: &Value, path: &Path<'_>, errors: &mut Errors) {
    for (number, entry) in entries.as_array().into_iter().flatten().enumerate() {
        let at = path.index(number);
        if !matches!(entry.text("operation"), "Apply" | "Update") {
            errors.invalid(&at.field("operation"), entry.text("operation"), "must be `Apply` or `Update`");
        }
        if !matches!(entry.text("fieldsType"), "" | "FieldsV1") {
            errors.invalid(&at.field("fieldsType"), entry.text("fieldsType"), "must be `FieldsV1`");
        }
        field_manager(entry.text("manager"), &at.field("manager"), errors);
        if entry.text("subresource").len() > SUBRESOURCE_BYTES_MAX {
            errors.too_long(&at.field("subresource"), SUBRESOURCE_BYTES_MAX);
        }
    }
}

/// The name of a field manager, in managed fields and in options.
pub(crate) fn field_manager(manager: &str, path: &Path<'_>, errors: &mut Errors) {
    if manager.len() > FIELD_MANAGER_BYTES_MAX {
        errors.too_long(path, FIELD_MANAGER_BYTES_MAX);
    }
    for (position, character) in manager.char_indices() {
        if errors.is_full() {
            break;
        }
        if character != ' ' && !machinery_schema::go::is_printed(character) {
            let code = u32::from(character);
            errors.invalid(path, manager, format!("invalid character U+{code:04X} (at position {position})"));
        }
    }
}

/// `status.conditions` of the common type.
pub(crate) fn conditions(conditions: &Value, path: &Path<'_>, errors: &mut Errors) {
    let items = conditions.as_array().map_or(&[][..], Vec::as_slice);
    for (number, one) in items.iter().enumerate() {
        if errors.is_full() {
            break;
        }
        let at = path.index(number);
        if items[..number].iter().any(|earlier| earlier.text("type") == one.text("type")) {
            errors.duplicate(&at.field("type"), one.text("type"));
        }
        condition(one, &at, errors);
    }
}

/// One condition of the common type.
pub(crate) fn condition(condition: &Value, path: &Path<'_>, errors: &mut Errors) {
    let kind = condition.text("type");
    errors.invalid_each(&path.field("type"), kind, qualified_name(kind));
    if !matches!(condition.text("status"), "True" | "False" | "Unknown") {
        errors.not_supported(&path.field("status"), condition.text("status"), &["False", "True", "Unknown"]);
    }
    if condition.int("observedGeneration") < 0 {
        let detail = "must be greater than or equal to zero";
        errors.invalid(&path.field("observedGeneration"), condition.int("observedGeneration"), detail);
    }
    if condition.text("lastTransitionTime").is_empty() {
        errors.required(&path.field("lastTransitionTime"), "");
    }
    let reason = condition.text("reason");
    if reason.is_empty() {
        errors.required(&path.field("reason"), "");
    } else {
        if !is_condition_reason(reason) {
            let message = regex_message(
                "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'",
                "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?",
                &["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"],
            );
            errors.invalid(&path.field("reason"), reason, message);
        }
        if reason.len() > REASON_BYTES_MAX {
            errors.too_long(&path.field("reason"), REASON_BYTES_MAX);
        }
    }
    if condition.text("message").len() > MESSAGE_BYTES_MAX {
        errors.too_long(&path.field("message"), MESSAGE_BYTES_MAX);
    }
}

fn is_condition_reason(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.last().is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_,:".contains(byte))
}

/// The parts of metadata that are checked alike on create and on update.
pub(crate) fn common_metadata(metadata: &Value, path: &Path<'_>, errors: &mut Errors) {
    labels(metadata.part("labels"), &path.field("labels"), errors);
    annotations(metadata.part("annotations"), &path.field("annotations"), errors);
    owner_references(metadata.part("ownerReferences"), &path.field("ownerReferences"), errors);
    managed_fields(metadata.part("managedFields"), &path.field("managedFields"), errors);
}

/// Labels and annotations of a template of objects (its other metadata are not looked at).
pub(crate) fn template_metadata(metadata: &Value, path: &Path<'_>, errors: &mut Errors) {
    annotations(metadata.part("annotations"), &path.field("annotations"), errors);
    labels(metadata.part("labels"), &path.field("labels"), errors);
}

/// What a new object's metadata must be, names apart.
pub(crate) fn whole_metadata(metadata: &Value, namespaced: bool, path: &Path<'_>, errors: &mut Errors) {
    match (namespaced, metadata.text("namespace")) {
        (true, "") => errors.required(&path.field("namespace"), ""),
        (true, namespace) => {
            errors.invalid_each(&path.field("namespace"), namespace, super::dns_label(namespace));
        }
        (false, "") => {}
        (false, _) => errors.forbidden(&path.field("namespace"), "not allowed on this type"),
    }
    non_negative(metadata.int("generation"), &path.field("generation"), errors);
    common_metadata(metadata, path, errors);
    finalizers(metadata.part("finalizers"), &path.field("finalizers"), errors);
}

/// What of metadata may not change, and what must hold of the new version.
pub(crate) fn metadata_update(new: &Value, old: &Value, path: &Path<'_>, errors: &mut Errors) {
    if old.has("deletionTimestamp") {
        let mut added: Vec<&str> = new
            .texts("finalizers")
            .filter(|finalizer| !old.texts("finalizers").any(|kept| kept == *finalizer))
            .collect();
        added.sort_unstable();
        added.dedup();
        if !added.is_empty() {
            let list: Vec<String> =
                added.iter().map(|finalizer| machinery_schema::field_error::quoted(finalizer)).collect();
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                list.join(", ")
            );
            errors.forbidden(&path.field("finalizers"), detail);
        }
    }
    if new.text("resourceVersion").is_empty() {
        errors.invalid(&path.field("resourceVersion"), "", "must be specified for an update");
    }
    if new.int("generation") < old.int("generation") {
        errors.invalid(&path.field("generation"), new.int("generation"), "must not be decremented");
    }
    for key in ["name", "namespace", "uid"] {
        super::immutable_text(new, old, key, path, errors);
    }
    for key in ["creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        super::immutable(new.part(key), old.part(key), &path.field(key), errors);
    }
    common_metadata(new, path, errors);
}

/// One label that must be there and have this value.
pub(crate) fn has_label(metadata: &Value, key: &str, value: &str, path: &Path<'_>, errors: &mut Errors) {
    let labels = path.field("labels");
    let at = labels.key(key);
    match metadata.part("labels").part(key).as_str() {
        None => errors.required(&at, &format!("must be '{value}'")),
        Some(found) if found != value => {
            let labels = metadata.some("labels").cloned().unwrap_or_else(|| json!({}));
            errors.invalid(&at, labels, format!("must be '{value}'"));
        }
        Some(_) => {}
    }
}
