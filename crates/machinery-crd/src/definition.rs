//! CustomResourceDefinitions as objects: defaults, rules, and the status that follows from them.
//!
//! ```text
//! write     apply_defaults ─▶ prepare_create | prepare_update ─▶ validate ─▶ store
//! after     settle: names accepted? ─▶ established ─▶ served
//! ```
//!
//! The reference implementation checks its internal form, in which what all versions have in common (`schema`,
//! `subresources`, `additionalPrinterColumns`, `selectableFields`) has moved from `spec.versions[i]` to `spec`. The paths in
//! its errors say so: `spec.validation.openAPIV3Schema.properties[a]` where its author wrote `spec.versions[0].schema…`.

mod approval;
mod conversion;
mod costs;
mod defaults;
mod field_path;
mod names;
mod openapi;
mod settle;
mod structural;
#[cfg(test)]
mod tests;
mod versions;

use serde_json::{Value, json};

use crate::{FieldError, field_error::ERRORS_MAX};
pub(crate) use field_path::resolve as resolve_field_path;
pub use settle::{FINALIZER, OtherNames, begin_deletion, is_established, settle};

/// What a part of a definition is checked against when it is updated.
#[derive(Clone, Copy, Debug)]
struct Context<'c> {
    /// The definition as it was; none when it is new.
    old: Option<&'c Value>,
}

/// Fills in what a definition's author may leave out.
pub fn apply_defaults(definition: &mut Value) {
    // Also in a body that a client sends: an empty list means that it leaves this to the server.
    if stored_is_empty(definition)
        && let Some(version) = storage_version(definition)
        && definition.get("status").is_none_or(|status| status.is_object() || status.is_null())
    {
        definition["status"]["storedVersions"] = json!([version]);
    }
    let Some(spec) = definition.get_mut("spec").and_then(Value::as_object_mut) else { return };
    if let Some(names) = spec.get_mut("names").and_then(Value::as_object_mut) {
        let kind = names.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        let is_absent = |value: Option<&Value>| value.and_then(Value::as_str).is_none_or(str::is_empty);
        if is_absent(names.get("singular")) && !kind.is_empty() {
            names.insert("singular".to_owned(), kind.to_lowercase().into());
        }
        if is_absent(names.get("listKind")) && !kind.is_empty() {
            names.insert("listKind".to_owned(), format!("{kind}List").into());
        }
    }
    if spec.get("conversion").is_none_or(Value::is_null) {
        spec.insert("conversion".to_owned(), json!({"strategy": "None"}));
    }
    let service =
        spec.get_mut("conversion").and_then(|conversion| conversion.pointer_mut("/webhook/clientConfig/service"));
    if let Some(service) = service.and_then(Value::as_object_mut)
        && service.get("port").is_none_or(Value::is_null)
    {
        service.insert("port".to_owned(), 443.into());
    }
}

/// Sets the status of a new definition: nothing is accepted yet.
pub fn prepare_create(definition: &mut Value) {
    let mut stored = Vec::new();
    stored.extend(storage_version(definition));
    definition["status"] =
        json!({"conditions": null, "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": stored});
    if stored_is_empty(definition) {
        definition["status"]["storedVersions"] = Value::Null;
    }
}

/// Keeps the status of a definition whose spec is updated, and notes the version that objects are stored in from now on.
pub fn prepare_update(new: &mut Value, old: &Value) {
    let mut status = old.get("status").cloned().unwrap_or_else(|| json!({}));
    if let Some(version) = storage_version(new) {
        let mut stored = status.get("storedVersions").and_then(Value::as_array).cloned().unwrap_or_default();
        if !stored.contains(&version) {
            stored.push(version);
        }
        status["storedVersions"] = stored.into();
    }
    new["status"] = status;
}

fn stored_is_empty(definition: &Value) -> bool {
    definition.pointer("/status/storedVersions").and_then(Value::as_array).is_none_or(Vec::is_empty)
}

fn storage_version(definition: &Value) -> Option<Value> {
    let storage = versions_of(definition).iter().find(|version| version.get("storage") == Some(&Value::Bool(true)))?;
    storage.get("name").cloned()
}

/// Checks a definition, but for what all objects share. `old` is the definition that it replaces.
pub fn validate(definition: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let context = Context { old };
    let spec = definition.get("spec").unwrap_or(&Value::Null);
    let mut errors = Vec::new();
    if old.is_none() {
        let name = text(definition.get("metadata").unwrap_or(&Value::Null), "name");
        let required = format!("{}.{}", text(spec.get("names").unwrap_or(&Value::Null), "plural"), text(spec, "group"));
        if name != required {
            let detail = "must be spec.names.plural+\".\"+spec.group";
            errors.push(FieldError::invalid("metadata.name", &name.into(), detail));
        }
    }
    errors.extend(validate_spec(spec, context));
    if let Some(old) = old {
        errors.extend(validate_immutable(spec, old));
    }
    errors.extend(validate_status(definition));
    errors.extend(versions::check_stored_versions(definition));
    errors.extend(approval::check(definition, old));
    errors.extend(check_preserve_unknown(spec, old));
    errors.truncate(ERRORS_MAX);
    errors
}

/// Checks the status of a definition, the only part that the subresource writes.
pub fn validate_status(definition: &Value) -> Vec<FieldError> {
    let accepted = definition.pointer("/status/acceptedNames").unwrap_or(&Value::Null);
    names::check_names(accepted, "status.acceptedNames")
}

/// What an author should know of a definition that is taken: formats that nobody checks.
pub fn warnings(definition: &Value, old: Option<&Value>) -> Vec<String> {
    let before = old.map(openapi::unknown_formats).unwrap_or_default();
    let found = openapi::unknown_formats(definition).into_iter().filter(|format| !before.contains(format));
    found.map(|format| format!("unrecognized format {}", crate::go::quoted(&format))).collect()
}

fn validate_spec(spec: &Value, context: Context<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let group = text(spec, "group");
    if group.is_empty() {
        errors.push(FieldError::required("spec.group", ""));
    } else if let Some(why) = crate::names::dns_1123_subdomain(group) {
        errors.push(FieldError::invalid("spec.group", &group.into(), why));
    } else if !group.contains('.') {
        errors.push(FieldError::invalid("spec.group", &group.into(), "should be a domain with at least one dot"));
    }
    match text(spec, "scope") {
        "" => errors.push(FieldError::required("spec.scope", "")),
        "Cluster" | "Namespaced" => {}
        other => errors.push(FieldError::not_supported("spec.scope", &other.into(), &["Cluster", "Namespaced"])),
    }
    errors.extend(versions::check_versions(spec, context));
    let given = spec.get("names").unwrap_or(&Value::Null);
    for key in ["plural", "singular", "kind", "listKind"] {
        if text(given, key).is_empty() {
            errors.push(FieldError::required(format!("spec.names.{key}"), ""));
        }
    }
    errors.extend(names::check_names(given, "spec.names"));
    errors.extend(versions::check_common(spec, context));
    errors.extend(conversion::check(spec));
    errors
}

/// What names the resource in the store cannot change; what clients know it by cannot once they do.
fn validate_immutable(spec: &Value, old: &Value) -> Vec<FieldError> {
    let before = old.get("spec").unwrap_or(&Value::Null);
    let fields: &[&str] = if is_established(old) {
        &["/scope", "/names/kind", "/group", "/names/plural"]
    } else {
        &["/group", "/names/plural"]
    };
    let mut errors = Vec::new();
    for pointer in fields {
        let (new, old) = (spec.pointer(pointer), before.pointer(pointer));
        if new != old {
            let path = format!("spec{}", pointer.replace('/', "."));
            errors.push(FieldError::invalid(path, new.unwrap_or(&Value::from("")), "field is immutable"));
        }
    }
    errors
}

fn check_preserve_unknown(spec: &Value, old: Option<&Value>) -> Option<FieldError> {
    let is_set = |spec: &Value| spec.get("preserveUnknownFields") == Some(&Value::Bool(true));
    if !is_set(spec) || old.and_then(|old| old.get("spec")).is_some_and(is_set) {
        return None;
    }
    let detail =
        "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
    Some(FieldError::invalid("spec.preserveUnknownFields", &true.into(), detail))
}

fn versions_of(definition: &Value) -> &[Value] {
    items(definition.get("spec").unwrap_or(&Value::Null), "versions")
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn items<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
