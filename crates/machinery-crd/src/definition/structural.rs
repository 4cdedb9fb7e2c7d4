//! Whether a schema is structural: every place has a type, and combined schemas only check what the structure has.

use crate::{
    FieldError,
    bounded::{PATH_BYTES_MAX, cut},
    field_error::ERRORS_MAX,
    schema::{Items, Schema, SchemaOrBool},
};

/// Where in the structure a place is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// Why a schema cannot be read as a structural one at all; the first reason that is found.
pub(super) fn conversion_error(schema: &Schema) -> Option<String> {
    let mut found = None;
    let mut look = |schema: &Schema| {
        if found.is_some() {
            return;
        }
        let unsupported = schema.unsupported.as_deref().and_then(|unsupported| {
            let keywords = [
                ("id", !unsupported.id.is_empty()),
                ("schema", !unsupported.schema.is_empty()),
                ("$ref", unsupported.reference.as_deref().is_some_and(|reference| !reference.is_empty())),
                ("patternProperties", !unsupported.pattern_properties.is_empty()),
                ("dependencies", unsupported.dependencies.as_ref().is_some_and(|found| !found.is_empty())),
                ("additionalItems", unsupported.additional_items.is_some()),
                ("definitions", !unsupported.definitions.is_empty()),
            ];
            keywords.into_iter().find(|(_, is_there)| *is_there).map(|(keyword, _)| keyword)
        });
        if let Some(keyword) = unsupported {
            found = Some(format!("OpenAPIV3Schema '{keyword}' is not supported"));
        } else if schema.preserve_unknown == Some(false) {
            found = Some("internal error: 'x-kubernetes-preserve-unknown-fields' must be true or undefined".to_owned());
        } else if matches!(schema.items, Some(Items::Many(_))) {
            found = Some("OpenAPIV3Schema 'items' must be a schema, but is an array".to_owned());
        }
    };
    schema.each(&mut look);
    found
}

/// Everything that is not structural in a schema, sorted.
pub(super) fn check(schema: &Schema, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check_place(schema, Level::Root, path, &mut errors);
    check_completeness(schema, Some(schema), path, path, &mut errors);
    errors.sort_by_cached_key(ToString::to_string);
    errors
}

fn check_place(schema: &Schema, level: Level, path: &str, errors: &mut Vec<FieldError>) {
    if errors.len() >= ERRORS_MAX {
        return;
    }
    // Every place below adds to the path, and a property's name may be as long as the definition.
    let path = cut(path, PATH_BYTES_MAX);
    let kind = &*schema.kind;
    match schema.item() {
        None if kind == "array" => errors.push(FieldError::required(format!("{path}.items"), "must be specified")),
        None => {}
        Some(item) => check_place(item, Level::Item, &format!("{path}.items"), errors),
    }
    for (name, property) in &schema.properties {
        check_place(property, Level::Field, &format!("{path}.properties[{name}]"), errors);
    }
    if let Some(additional) = schema.additional.as_ref() {
        let path = format!("{path}.additionalProperties");
        if level == Level::Root {
            errors.push(FieldError::forbidden(path.as_str(), "must not be used at the root"));
        }
        if let SchemaOrBool::Schema(inner) = additional {
            check_place(inner, Level::Field, &path, errors);
        }
    }
    if schema.int_or_string && schema.preserves_unknown() {
        let path = format!("{path}.x-kubernetes-preserve-unknown-fields");
        errors.push(FieldError::invalid(path, &true.into(), "must be false if x-kubernetes-int-or-string is true"));
    }
    if schema.int_or_string && schema.embedded_resource {
        let path = format!("{path}.x-kubernetes-embedded-resource");
        errors.push(FieldError::invalid(path, &true.into(), "must be false if x-kubernetes-int-or-string is true"));
    }
    let skip_any_of = is_int_or_string(schema.any_of());
    let skip_first = schema.all_of().first().is_some_and(|first| is_int_or_string(first.any_of()));
    check_combined(schema, skip_any_of, skip_first, path, errors);
    check_kind(schema, level, path, errors);
    let has_metadata = level == Level::Root || schema.embedded_resource;
    for name in ["kind", "apiVersion"] {
        if let Some(property) =
            schema.properties.get(name).filter(|property| has_metadata && &*property.kind != "string")
        {
            let path = format!("{path}.properties[{name}].type");
            errors.push(FieldError::invalid(path, &(*property.kind).into(), "must be string"));
        }
    }
    if let Some(metadata) = schema.properties.get("metadata") {
        check_metadata(metadata, has_metadata, level, &format!("{path}.properties[metadata]"), errors);
    }
    if schema.embedded_resource && !schema.preserves_unknown() && schema.properties.is_empty() {
        let detail = "must not be empty if x-kubernetes-embedded-resource is true without \
                      x-kubernetes-preserve-unknown-fields";
        errors.push(FieldError::required(format!("{path}.properties"), detail));
    }
}

fn check_kind(schema: &Schema, level: Level, path: &str, errors: &mut Vec<FieldError>) {
    let kind = &*schema.kind;
    let type_path = format!("{path}.type");
    if schema.embedded_resource && kind != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        errors.push(if kind.is_empty() {
            FieldError::required(type_path.as_str(), detail)
        } else {
            FieldError::invalid(type_path.as_str(), &kind.into(), detail)
        });
    } else if kind.is_empty() && !schema.int_or_string && !schema.preserves_unknown() {
        let detail = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.push(FieldError::required(type_path.as_str(), detail));
    }
    if schema.embedded_resource && schema.additional.is_some() {
        let detail = "must not be used if x-kubernetes-embedded-resource is set";
        errors.push(FieldError::forbidden(format!("{path}.additionalProperties"), detail));
    }
    if level == Level::Root && !kind.is_empty() && kind != "object" {
        errors.push(FieldError::invalid(type_path, &kind.into(), "must be object at the root"));
    }
}

/// `metadata` has the type that all objects share; a schema may only narrow its name.
fn check_metadata(schema: &Schema, is_metadata: bool, level: Level, path: &str, errors: &mut Vec<FieldError>) {
    if is_metadata && &*schema.kind != "object" {
        errors.push(FieldError::invalid(format!("{path}.type"), &(*schema.kind).into(), "must be object"));
    }
    if level != Level::Root {
        return;
    }
    let only_names = schema.properties.keys().all(|name| matches!(&**name, "name" | "generateName"));
    if !only_names || !is_bare(schema, false) {
        let detail = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.push(FieldError::forbidden(path, detail));
    }
}

/// Whether a schema has nothing besides its type, its properties and a default; with `alone` not even the latter two.
fn is_bare(schema: &Schema, alone: bool) -> bool {
    !schema.nullable
        && schema.format.is_empty()
        && schema.allowed.is_empty()
        && schema.required.is_empty()
        && schema.additional.is_none()
        && schema.items.is_none()
        && !schema.int_or_string
        && !schema.embedded_resource
        && schema.preserve_unknown.is_none()
        && schema.list_type.is_none()
        && schema.list_map_keys.is_empty()
        && schema.map_type.is_none()
        && schema.rules.is_empty()
        && schema.limits.is_none()
        && schema.logic.is_none()
        && schema.words.is_none()
        && (!alone || (schema.properties.is_empty() && schema.default.is_none()))
}

/// The one combination of types that `x-kubernetes-int-or-string` is for.
fn is_int_or_string(branches: &[Schema]) -> bool {
    let is = |schema: &Schema, kind: &str| &*schema.kind == kind && is_bare(schema, true);
    matches!(branches, [first, second] if is(first, "integer") && is(second, "string"))
}

fn check_combined(schema: &Schema, skip_any_of: bool, skip_first: bool, path: &str, errors: &mut Vec<FieldError>) {
    if !skip_any_of {
        for (number, branch) in schema.any_of().iter().enumerate() {
            check_nested(branch, false, &format!("{path}.anyOf[{number}]"), errors);
        }
    }
    for (number, branch) in schema.all_of().iter().enumerate() {
        check_nested(branch, skip_first && number == 0, &format!("{path}.allOf[{number}]"), errors);
    }
    for (number, branch) in schema.one_of().iter().enumerate() {
        check_nested(branch, false, &format!("{path}.oneOf[{number}]"), errors);
    }
    if let Some(not) = schema.not() {
        check_nested(not, false, &format!("{path}.not"), errors);
    }
    let read = schema.limits.as_deref().and_then(|limits| limits.pattern_bytes.as_ref());
    if let Some(Err(error)) = read {
        let detail = format!("must be a valid regular expression, but isn't: {error}");
        errors.push(FieldError::invalid(format!("{path}.pattern"), &schema.pattern().into(), detail));
    }
}

/// A schema within `allOf`, `anyOf`, `oneOf` or `not` checks values and gives them no structure.
fn check_nested(schema: &Schema, skip_any_of: bool, path: &str, errors: &mut Vec<FieldError>) {
    if errors.len() >= ERRORS_MAX {
        return;
    }
    let path = cut(path, PATH_BYTES_MAX);
    check_combined(schema, skip_any_of, false, path, errors);
    if let Some(item) = schema.item() {
        check_nested(item, false, &format!("{path}.items"), errors);
    }
    for (name, property) in &schema.properties {
        check_nested(property, false, &format!("{path}.properties[{name}]"), errors);
    }
    let has_additional =
        schema.additional.as_ref().is_some_and(|additional| !matches!(additional, SchemaOrBool::Bool(false)));
    let (empty, undefined, not_true) =
        ("must be empty to be structural", "must be undefined to be structural", "must be false to be structural");
    let forbidden = [
        ("type", !schema.kind.is_empty(), empty),
        ("additionalProperties", has_additional, undefined),
        ("default", schema.default.is_some(), undefined),
        ("title", !schema.title().is_empty(), empty),
        ("description", !schema.description().is_empty(), empty),
        ("nullable", schema.nullable, not_true),
        ("x-kubernetes-preserve-unknown-fields", schema.preserves_unknown(), not_true),
        ("x-kubernetes-embedded-resource", schema.embedded_resource, not_true),
        ("x-kubernetes-int-or-string", schema.int_or_string, not_true),
        ("x-kubernetes-list-map-keys", !schema.list_map_keys.is_empty(), empty),
        ("x-kubernetes-list-type", schema.list_type.is_some(), undefined),
        ("x-kubernetes-map-type", schema.map_type.is_some(), undefined),
        ("x-kubernetes-validations", !schema.rules.is_empty(), empty),
    ];
    for (keyword, _, detail) in forbidden.into_iter().filter(|(_, is_there, _)| *is_there) {
        errors.push(FieldError::forbidden(format!("{path}.{keyword}"), detail));
    }
    if schema.properties.contains_key("metadata") {
        let detail = "must not be specified in a nested context";
        errors.push(FieldError::forbidden(format!("{path}.properties[metadata]"), detail));
    }
}

/// Every place that combined schemas check must be in the structure, too.
fn check_completeness(
    checks: &Schema,
    structure: Option<&Schema>,
    path: &str,
    checks_path: &str,
    errors: &mut Vec<FieldError>,
) {
    let nested = [("allOf", checks.all_of()), ("anyOf", checks.any_of()), ("oneOf", checks.one_of())];
    if let Some(not) = checks.not() {
        check_nested_completeness(not, structure, path, &format!("{checks_path}.not"), errors);
    }
    for (keyword, branches) in nested {
        for (number, branch) in branches.iter().enumerate() {
            let checks_path = format!("{checks_path}.{keyword}[{number}]");
            check_nested_completeness(branch, structure, path, &checks_path, errors);
        }
    }
}

fn check_nested_completeness(
    checks: &Schema,
    structure: Option<&Schema>,
    path: &str,
    checks_path: &str,
    errors: &mut Vec<FieldError>,
) {
    if errors.len() >= ERRORS_MAX {
        return;
    }
    let (path, checks_path) = (cut(path, PATH_BYTES_MAX), cut(checks_path, PATH_BYTES_MAX));
    let Some(place) = structure else {
        errors.push(FieldError::required(path, &format!("because it is defined in {checks_path}")));
        return;
    };
    check_completeness(checks, Some(place), path, checks_path, errors);
    if let Some(item) = checks.item() {
        let (path, checks_path) = (format!("{path}.items"), format!("{checks_path}.items"));
        check_nested_completeness(item, place.item(), &path, &checks_path, errors);
    }
    for (name, property) in &checks.properties {
        let (path, checks_path) = (format!("{path}.properties[{name}]"), format!("{checks_path}.properties[{name}]"));
        check_nested_completeness(property, place.properties.get(name), &path, &checks_path, errors);
    }
}
