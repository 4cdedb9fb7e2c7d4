//! Versions of a definition, and what they have in common.

use std::collections::HashSet;

use serde_json::Value;

use super::{Context, field_path, items, openapi, text, versions_of};
use crate::{
    FieldError, FieldErrorReason,
    bounded::cut,
    field_error::ERRORS_MAX,
    names::dns_1035_label,
    schema::{Schema, show_versions},
};

/// What versions may have of their own, or all alike.
const SHARED: [&str; 4] = ["schema", "subresources", "additionalPrinterColumns", "selectableFields"];

/// Definitions with the longest history have some ten versions; each has a schema of its own in memory.
const VERSIONS_MAX: usize = 64;

/// Columns of one table: each is evaluated for each row.
const COLUMNS_MAX: usize = 64;

/// As many fields may be selected by.
const SELECTABLE_FIELDS_MAX: usize = 8;

/// Messages show all versions; a definition may have megabytes of them.
const SHOWN_BYTES_MAX: usize = 256 * 1024;

/// Which parts are the same in all versions.
pub(super) struct Common {
    shared: [bool; SHARED.len()],
}

impl Common {
    pub fn of(versions: &[Value]) -> Self {
        let value = |version: &Value, key: &str| {
            let given = version.get(key).filter(|value| !value.is_null()).cloned().unwrap_or_default();
            let is_empty = given.as_array().is_some_and(Vec::is_empty);
            if is_empty { Value::Null } else { given }
        };
        let is_shared = |key: &str| {
            let first = versions.first().map(|version| value(version, key));
            versions.iter().all(|version| Some(value(version, key)) == first)
        };
        Self { shared: SHARED.map(|key| !versions.is_empty() && is_shared(key)) }
    }

    pub fn has(&self, key: &str) -> bool {
        SHARED.iter().position(|shared| *shared == key).is_some_and(|position| self.shared[position])
    }
}

/// The checks of `spec.versions`.
pub(super) fn check_versions(spec: &Value, context: Context<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let versions = items(spec, "versions");
    if versions.len() > VERSIONS_MAX {
        return vec![FieldError::too_many("spec.versions", versions.len(), VERSIONS_MAX)];
    }
    let common = Common::of(versions);
    let has_schema = |version: &Value| version.pointer("/schema/openAPIV3Schema").is_some_and(Value::is_object);
    let old_versions = context.old.map(versions_of);
    let requires_schema = old_versions.is_none_or(|old| old.iter().all(has_schema));
    for (number, version) in versions.iter().enumerate().filter(|(_, version)| !has_schema(version)) {
        let path = format!("spec.versions[{number}].schema.openAPIV3Schema");
        let is_served = version.get("served") == Some(&Value::Bool(true));
        if requires_schema {
            errors.push(FieldError::required(path, ""));
        } else if is_served && spec.get("preserveUnknownFields") != Some(&Value::Bool(true)) {
            errors.push(FieldError::required(path, "because otherwise all fields are pruned"));
        }
    }
    if spec.get("preserveUnknownFields") == Some(&Value::Bool(true)) && versions.iter().any(has_defaults) {
        let detail = "must be false in order to use defaults in the schema";
        errors.push(FieldError::invalid("spec.preserveUnknownFields", &true.into(), detail));
    }
    let mut names = HashSet::new();
    let mut is_unique = true;
    for (number, version) in versions.iter().enumerate() {
        if errors.len() >= ERRORS_MAX {
            break;
        }
        let path = format!("spec.versions[{number}]");
        let name = text(version, "name");
        is_unique &= names.insert(name);
        if let Some(why) = dns_1035_label(name) {
            errors.push(FieldError::invalid(format!("{path}.name"), &name.into(), why));
        }
        check_deprecation(version, &path, &mut errors);
        let here = Here { path: &path, schema_key: "schema", has_status: has_status(version) };
        check_parts(version, &here, &|key| !common.has(key), context, &mut errors);
    }
    let shown = || {
        let whole = show_versions(versions, |key| common.has(key));
        cut(&whole, SHOWN_BYTES_MAX).to_owned()
    };
    let invalid = |detail: &str| FieldError {
        path: "spec.versions".to_owned(),
        reason: FieldErrorReason::Invalid,
        message: format!("Invalid value: {}: {detail}", shown()),
    };
    if !is_unique {
        errors.push(invalid("must contain unique version names"));
    }
    let storages = versions.iter().filter(|version| version.get("storage") == Some(&Value::Bool(true))).count();
    if storages != 1 {
        errors.push(invalid("must have exactly one version marked as storage version"));
    }
    if let Some(name) = versions.first().map(|version| text(version, "name"))
        && let Some(why) = Some(name).filter(|name| !name.is_empty()).and_then(dns_1035_label)
    {
        // The internal form also has the first version's name alone.
        errors.push(FieldError::invalid("spec.version", &name.into(), why));
    }
    errors
}

/// The checks of what all versions have in common.
pub(super) fn check_common(spec: &Value, context: Context<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let versions = items(spec, "versions");
    if let Some(first) = versions.first().filter(|_| versions.len() <= VERSIONS_MAX) {
        let common = Common::of(versions);
        let has_status = versions.iter().any(has_status);
        let here = Here { path: "spec", schema_key: "validation", has_status };
        check_parts(first, &here, &|key| common.has(key), context, &mut errors);
    }
    errors
}

/// Where parts of a version are in the internal form.
struct Here<'h> {
    path: &'h str,
    schema_key: &'h str,
    has_status: bool,
}

fn has_status(version: &Value) -> bool {
    version.pointer("/subresources/status").is_some_and(|status| !status.is_null())
}

/// The parts of a version for which `is_here` holds.
fn check_parts(
    version: &Value,
    here: &Here<'_>,
    is_here: &dyn Fn(&str) -> bool,
    context: Context<'_>,
    errors: &mut Vec<FieldError>,
) {
    let given = |key: &str| version.get(key).filter(|value| !value.is_null() && is_here(key));
    let path = here.path;
    let schema = given("schema").and_then(|validation| validation.get("openAPIV3Schema"));
    if let Some(schema) = schema.filter(|schema| schema.is_object()) {
        let path = format!("{path}.{}", here.schema_key);
        errors.extend(openapi::check(schema, text(version, "name"), here.has_status, &path, context));
    }
    if let Some(subresources) = given("subresources") {
        errors.extend(check_subresources(subresources, &format!("{path}.subresources")));
    }
    let columns = given("additionalPrinterColumns").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if columns.len() > COLUMNS_MAX {
        errors.push(FieldError::too_many(format!("{path}.additionalPrinterColumns"), columns.len(), COLUMNS_MAX));
    } else {
        for (number, column) in columns.iter().enumerate() {
            errors.extend(check_column(column, &format!("{path}.additionalPrinterColumns[{number}]")));
        }
    }
    let selectable = given("selectableFields").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if !selectable.is_empty() {
        errors.extend(check_selectable(version, selectable, &format!("{path}.selectableFields"), context));
    }
}

fn has_defaults(version: &Value) -> bool {
    let schema = version.pointer("/schema/openAPIV3Schema").and_then(|schema| Schema::read(schema).ok());
    schema.is_some_and(|schema| schema.any(|place| place.default.is_some()))
}

fn check_deprecation(version: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(given) = version.get("deprecationWarning").filter(|warning| !warning.is_null()) else { return };
    let path = format!("{path}.deprecationWarning");
    let warning = given.as_str().unwrap_or_default();
    let mut invalid = |detail: String| errors.push(FieldError::invalid(path.as_str(), given, detail));
    if version.get("deprecated") != Some(&Value::Bool(true)) {
        invalid("can only be set for deprecated versions".to_owned());
        return;
    }
    if warning.len() > 256 {
        invalid("must be <= 256 characters long".to_owned());
    }
    if warning.is_empty() {
        invalid("must not be an empty string".to_owned());
    }
    if let Some((at, _)) = warning.char_indices().find(|(_, char)| char.is_control()) {
        invalid(format!("must only contain printable UTF-8 characters; non-printable character found at index {at}"));
    }
}

fn check_subresources(subresources: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let Some(scale) = subresources.get("scale").filter(|scale| scale.is_object()) else { return errors };
    for (key, root) in [("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")] {
        let given = text(scale, key);
        let path = format!("{path}.scale.{key}");
        if given.is_empty() {
            errors.push(FieldError::required(path, ""));
        } else if let Some(error) = check_simple_path(given, &path) {
            errors.push(error);
        } else if !given.starts_with(root) {
            let detail = format!("should be a json path under {}", root.trim_end_matches('.'));
            errors.push(FieldError::invalid(path, &given.into(), detail));
        }
    }
    let selector = text(scale, "labelSelectorPath");
    if !selector.is_empty() {
        let path = format!("{path}.scale.labelSelectorPath");
        if let Some(error) = check_simple_path(selector, &path) {
            errors.push(error);
        } else if !selector.starts_with(".spec.") && !selector.starts_with(".status.") {
            let detail = "should be a json path under either .spec or .status";
            errors.push(FieldError::invalid(path, &selector.into(), detail));
        }
    }
    errors
}

fn check_simple_path(given: &str, path: &str) -> Option<FieldError> {
    let is_good = given.starts_with('.');
    (!is_good).then(|| FieldError::invalid(path, &given.into(), "must be a simple json path starting with ."))
}

fn check_column(column: &Value, path: &str) -> Vec<FieldError> {
    const TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
    const FORMATS: [&str; 9] = ["byte", "date", "date-time", "double", "float", "int32", "int64", "name", "password"];
    let mut errors = Vec::new();
    if text(column, "name").is_empty() {
        errors.push(FieldError::required(format!("{path}.name"), ""));
    }
    let kind = text(column, "type");
    let must_be = format!("must be one of {}", TYPES.join(","));
    if kind.is_empty() {
        errors.push(FieldError::required(format!("{path}.type"), &must_be));
    } else if !TYPES.contains(&kind) {
        errors.push(FieldError::invalid(format!("{path}.type"), &kind.into(), must_be));
    }
    let format = text(column, "format");
    if !format.is_empty() && !FORMATS.contains(&format) {
        let detail = format!("must be one of {}", FORMATS.join(","));
        errors.push(FieldError::invalid(format!("{path}.format"), &format.into(), detail));
    }
    let json_path = text(column, "jsonPath");
    let path = format!("{path}.JSONPath");
    if json_path.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else {
        errors.extend(check_simple_path(json_path, &path));
    }
    errors
}

fn check_selectable(version: &Value, fields: &[Value], path: &str, context: Context<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let schema = version.pointer("/schema/openAPIV3Schema").filter(|schema| schema.is_object());
    let Some(schema) = schema.and_then(|schema| Schema::read(schema).ok()) else {
        let detail = "may only be set when `version.schema.openAPIV3Schema` is not included";
        errors.push(FieldError::invalid(path, &"".into(), detail));
        return errors;
    };
    let mut unique = HashSet::new();
    for (number, field) in fields.iter().enumerate() {
        let given = text(field, "jsonPath");
        let path = format!("{path}[{number}].jsonPath");
        if given.is_empty() {
            errors.push(FieldError::required(path, ""));
            continue;
        }
        let (resolved, found) = match field_path::resolve(given, &schema, false) {
            Ok(found) => found,
            Err(error) => {
                let detail = format!("is an invalid path: {error}");
                errors.push(FieldError::invalid(path, &given.into(), detail));
                continue;
            }
        };
        if resolved.split(['.', '[']).next() == Some("metadata") {
            let detail = "must not point to fields in metadata";
            errors.push(FieldError::invalid(path.as_str(), &given.into(), detail));
        }
        if !matches!(&*found.kind, "string" | "boolean" | "integer") {
            let detail = "must point to a field of type string, boolean or integer. Enum string fields and strings with \
                          formats are allowed.";
            errors.push(FieldError::invalid(path.as_str(), &given.into(), detail));
        }
        if !unique.insert(resolved) {
            errors.push(FieldError::duplicate(path, &given.into()));
        }
    }
    let unchanged = context.old.is_some_and(|old| {
        let same = versions_of(old).iter().find(|before| before.get("name") == version.get("name"));
        same.is_some_and(|before| before.get("selectableFields") == version.get("selectableFields"))
    });
    if unique.len() > SELECTABLE_FIELDS_MAX && !unchanged {
        errors.push(FieldError::too_many(path, unique.len(), SELECTABLE_FIELDS_MAX));
    }
    errors
}

/// Versions that objects may be stored in must stay, or those objects could not be read.
pub(super) fn check_stored_versions(definition: &Value) -> Vec<FieldError> {
    let path = "status.storedVersions";
    let given = definition.pointer("/status/storedVersions").unwrap_or(&Value::Null);
    let stored = given.as_array().map_or(&[][..], Vec::as_slice);
    if stored.is_empty() {
        let shown = if given.is_array() { given } else { &Value::Null };
        return vec![FieldError::invalid(path, shown, "must have at least one stored version")];
    }
    let mut errors = Vec::new();
    let versions = versions_of(definition);
    for version in versions.iter().filter(|version| version.get("storage") == Some(&Value::Bool(true))) {
        if !stored.contains(version.get("name").unwrap_or(&Value::Null)) {
            let detail = format!("must have the storage version {}", text(version, "name"));
            errors.push(FieldError::invalid(path, given, detail));
        }
    }
    for (position, name) in stored.iter().enumerate() {
        if !versions.iter().any(|version| version.get("name") == Some(name)) {
            let shown = name.as_str().unwrap_or_default();
            let detail = format!(
                "missing from spec.versions; {shown} was previously a storage version, and must remain in spec.versions \
                 until a storage migration ensures no data remains persisted in {shown} and removes {shown} from \
                 status.storedVersions"
            );
            errors.push(FieldError::invalid(format!("{path}[{position}]"), name, detail));
        }
    }
    errors
}
