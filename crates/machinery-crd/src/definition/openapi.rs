//! The rules for one schema of a definition.

use serde_json::Value;

use super::{Context, costs::Costs, defaults, field_path, structural, versions_of};
use crate::{
    Budget, FieldError, FieldErrorReason,
    bounded::{PATH_BYTES_MAX, cut},
    cel,
    field_error::ERRORS_MAX,
    schema::{Dependency, Items, Rule, Schema, SchemaOrBool, show_schema},
    structural::{MetadataRules, is_supported_format},
};

/// The whole schema in a message; schemas of real definitions have up to a megabyte.
const SHOWN_BYTES_MAX: usize = 256 * 1024;

/// All patterns of a schema, compiled. An object that has a text for each of them pays for all ([`crate::go_regex`]), and this
/// much takes a quarter of what one request may cost. Schemas of real definitions stay below a hundredth.
const PATTERNS_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// What may be at the root of a schema whose status has a subresource, in the order of the message.
const AT_ROOT: &str = "[Description Type Format Title Maximum ExclusiveMaximum Minimum ExclusiveMinimum MaxLength MinLength \
                       Pattern MaxItems MinItems UniqueItems MultipleOf Required Items Properties ExternalDocs Example \
                       XPreserveUnknownFields XValidations]";

/// What is not tightened for definitions that were stored with it.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a rule of its own")]
struct Tightness {
    valid_types: bool,
    structural: bool,
    pruned_defaults: bool,
    atomic_sets: bool,
    map_keys: bool,
}

/// What is forbidden at a place because of the places above it.
#[derive(Clone, Debug, Default)]
pub(super) struct Inherited {
    /// Why there may be no default, when there may be none.
    no_defaults: Option<String>,
    inside_meta: bool,
    /// The first place above whose parts have no old selves.
    pub uncorrelatable: Option<String>,
    /// How often the place can be in one object; nothing inside when there is no limit, nothing outside where rules are not
    /// looked at.
    cardinality: Option<Option<u64>>,
}

struct Checker {
    tightness: Tightness,
    schema_errors: Vec<FieldError>,
    rule_errors: Vec<FieldError>,
    costs: Option<Costs>,
}

/// Checks `openAPIV3Schema`; `path` is that of what is around it.
pub(super) fn check(
    value: &Value,
    version: &str,
    has_status: bool,
    path: &str,
    context: Context<'_>,
) -> Vec<FieldError> {
    let path = format!("{path}.openAPIV3Schema");
    let schema = match Schema::read(value) {
        Ok(schema) => schema,
        Err(error) => return vec![FieldError::forbidden(path, error.to_string())],
    };
    if schema.pattern_bytes() > PATTERNS_BYTES_MAX && !is_unchanged(value, version, context) {
        let detail = format!(
            "the patterns of the schema take more than {PATTERNS_BYTES_MAX} bytes in all when they are compiled (try shorter \
             repetitions, or classes of ASCII characters)"
        );
        return vec![FieldError::forbidden(path, detail)];
    }
    let mut errors = Vec::new();
    if has_status {
        errors.extend(check_root(&schema, &path));
    }
    if schema.nullable {
        errors.push(FieldError::forbidden(format!("{path}.nullable"), "nullable cannot be true at the root"));
    }
    let tightness = Tightness::of(context);
    let mut conversion_error = None;
    if tightness.structural {
        conversion_error = structural::conversion_error(&schema);
        if conversion_error.is_none() {
            let mut found = structural::check(&schema, &path);
            if found.is_empty() {
                let mut budget = Budget::of_request();
                let metadata = &PlainMetadata;
                found = defaults::check(&schema, &path, tightness.pruned_defaults, metadata, &mut budget);
            }
            errors.extend(found);
        }
    }
    // Rules take their types from a structural schema with valid defaults.
    let costs = errors.is_empty().then(|| Costs::new(is_unchanged(value, version, context)));
    let mut checker = Checker { tightness, schema_errors: Vec::new(), rule_errors: Vec::new(), costs };
    let inherited = Inherited { cardinality: Some(Some(1)), ..Inherited::default() };
    checker.place(&schema, &path, true, &inherited);
    errors.extend(checker.schema_errors);
    errors.extend(checker.rule_errors);
    errors.extend(checker.costs.into_iter().flat_map(|costs| costs.total_errors(&path)));
    if let Some(why) = conversion_error.filter(|_| errors.is_empty()) {
        errors.push(FieldError::invalid(path, &"".into(), why));
    }
    errors
}

/// Formats of a definition's schemas that nobody checks, in the order in which they are found.
pub(super) fn unknown_formats(definition: &Value) -> Vec<String> {
    let versions = versions_of(definition);
    let common = super::versions::Common::of(versions);
    let count = if common.has("schema") { 1 } else { versions.len() };
    let mut found = Vec::new();
    for version in versions.iter().take(count) {
        let schema = version.pointer("/schema/openAPIV3Schema").and_then(|schema| Schema::read(schema).ok());
        let Some(schema) = schema else { continue };
        schema.each(&mut |place| {
            if !is_supported_format(&place.kind, &place.format) {
                found.push(place.format.to_string());
            }
        });
    }
    found
}

impl Tightness {
    fn of(context: Context<'_>) -> Self {
        let mut tightness =
            Self { valid_types: true, structural: true, pruned_defaults: true, atomic_sets: true, map_keys: true };
        for version in context.old.map(versions_of).unwrap_or_default() {
            let schema = version.pointer("/schema/openAPIV3Schema").and_then(|schema| Schema::read(schema).ok());
            let Some(schema) = schema else { continue };
            tightness.valid_types &= !schema.any(|place| !is_valid_type(&place.kind));
            let is_structural =
                structural::conversion_error(&schema).is_none() && structural::check(&schema, "").is_empty();
            tightness.structural &= is_structural;
            tightness.atomic_sets &= !schema.any(|place| check_set_items(place, "").is_some());
            tightness.map_keys &= !schema.any(|place| !check_map_keys(place, "").is_empty());
            if is_structural {
                let loose = defaults::check(&schema, "", false, &PlainMetadata, &mut Budget::of_request());
                let strict = defaults::check(&schema, "", true, &PlainMetadata, &mut Budget::of_request());
                tightness.pruned_defaults &= loose.len() == strict.len();
            }
        }
        // Without `preserveUnknownFields`, unknown fields are pruned, which takes a structure.
        tightness.structural = true;
        tightness
    }
}

/// Whether a version has the schema that it had: its rules were accepted, so their costs are.
fn is_unchanged(schema: &Value, version: &str, context: Context<'_>) -> bool {
    let old = context.old.map(versions_of).unwrap_or_default();
    let old = old.iter().find(|old| old.get("name").and_then(Value::as_str) == Some(version));
    old.and_then(|old| old.pointer("/schema/openAPIV3Schema")) == Some(schema)
}

fn is_valid_type(kind: &str) -> bool {
    kind.is_empty() || ["array", "boolean", "integer", "number", "object", "string"].contains(&kind)
}

/// The status is checked with `properties.status` alone, so nothing at the root may reach into it.
fn check_root(schema: &Schema, path: &str) -> Option<FieldError> {
    let unsupported = schema.unsupported.as_deref();
    let before =
        unsupported.is_some_and(|found| !found.id.is_empty() || !found.schema.is_empty() || found.reference.is_some());
    if !before && !schema.kind.is_empty() && &*schema.kind != "object" {
        let detail =
            "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        return Some(FieldError::invalid(format!("{path}.type"), &(*schema.kind).into(), detail));
    }
    let limits = schema.limits.as_deref();
    let is_there = unsupported.is_some()
        || schema.nullable
        || schema.default.is_some()
        || !schema.allowed.is_empty()
        || limits.is_some_and(|limits| limits.properties_max.is_some() || limits.properties_min.is_some())
        || schema.logic.is_some()
        || schema.additional.is_some()
        || schema.embedded_resource
        || schema.int_or_string
        || !schema.list_map_keys.is_empty()
        || schema.list_type.is_some()
        || schema.map_type.is_some();
    if !is_there {
        return None;
    }
    let shown = show_schema(schema);
    let message = format!(
        "Invalid value: {}: only {AT_ROOT} fields are allowed at the root of the schema if the status subresource is enabled",
        cut(&shown, SHOWN_BYTES_MAX)
    );
    Some(FieldError { path: path.to_owned(), reason: FieldErrorReason::Invalid, message })
}

impl Inherited {
    /// How often a part is there of a place with so many of them.
    fn times(&self, parts_max: Option<i64>) -> Option<Option<u64>> {
        let parts_max = parts_max.map(|max| u64::try_from(max).unwrap_or(0));
        self.cardinality.map(|own| Some(own?.saturating_mul(parts_max?)))
    }
}

impl Checker {
    fn push(&mut self, error: FieldError) {
        self.schema_errors.push(error);
    }

    fn place(&mut self, schema: &Schema, path: &str, is_root: bool, inherited: &Inherited) {
        let before = self.schema_errors.len();
        if self.schema_errors.len() >= ERRORS_MAX {
            return;
        }
        let path = cut(path, PATH_BYTES_MAX);
        self.keywords(schema, path, inherited);
        if schema.limits.as_deref().is_some_and(|limits| limits.unique_items) {
            let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
            self.push(FieldError::forbidden(format!("{path}.uniqueItems"), detail));
        }
        if let Some(additional) = schema.additional.as_ref() {
            let path = format!("{path}.additionalProperties");
            if !schema.properties.is_empty() && !matches!(additional, SchemaOrBool::Bool(true)) {
                let detail = "additionalProperties and properties are mutual exclusive";
                self.push(FieldError::forbidden(path.as_str(), detail));
            }
            if let SchemaOrBool::Schema(inner) = additional {
                let mut below = inherited.clone();
                if inherited.inside_meta {
                    below.no_defaults = Some("inside additionalProperties applying to object metadata".to_owned());
                }
                below.cardinality = inherited.times(schema.properties_max());
                self.place(inner, &path, false, &below);
            }
        }
        for (name, property) in &schema.properties {
            let mut below = inherited.clone();
            if !matches!(schema.map_type.as_deref(), None | Some("granular" | "atomic")) {
                below.uncorrelatable.get_or_insert_with(|| path.to_owned());
            }
            let is_meta = matches!(&**name, "metadata" | "kind" | "apiVersion");
            if (is_root || schema.embedded_resource) && is_meta {
                below.inside_meta = true;
                if is_root {
                    below.no_defaults = Some(format!("in top-level {name}"));
                }
            }
            self.place(property, &format!("{path}.properties[{name}]"), false, &below);
        }
        self.combined(schema, path, inherited);
        self.items(schema, path, inherited);
        self.extensions(schema, path);
        self.rules(schema, path);
        if self.schema_errors.len() == before {
            self.expressions(schema, path, is_root, inherited);
        }
    }

    /// Keywords that are not supported, or not here.
    fn keywords(&mut self, schema: &Schema, path: &str, inherited: &Inherited) {
        let kind = &*schema.kind;
        if self.tightness.valid_types && !is_valid_type(kind) {
            let supported = ["array", "boolean", "integer", "number", "object", "string"];
            self.push(FieldError::not_supported(format!("{path}.type"), &kind.into(), &supported));
        }
        if let Some(why) = inherited.no_defaults.as_deref().filter(|_| schema.default.is_some()) {
            self.push(FieldError::forbidden(format!("{path}.default"), format!("must not be set {why}")));
        }
        if let Some(found) = schema.unsupported.as_deref() {
            let keywords = [
                ("id", !found.id.is_empty()),
                ("additionalItems", found.additional_items.is_some()),
                ("patternProperties", !found.pattern_properties.is_empty()),
                ("definitions", !found.definitions.is_empty()),
                ("dependencies", found.dependencies.is_some()),
                ("$ref", found.reference.is_some()),
            ];
            for (keyword, _) in keywords.into_iter().filter(|(_, is_there)| *is_there) {
                self.push(FieldError::forbidden(format!("{path}.{keyword}"), format!("{keyword} is not supported")));
            }
        }
        if kind == "null" {
            let detail = "type cannot be set to null, use nullable as an alternative";
            self.push(FieldError::forbidden(format!("{path}.type"), detail));
        }
        if matches!(&schema.items, Some(Items::Many(items)) if !items.is_empty()) {
            let detail = "items must be a schema object and not an array";
            self.push(FieldError::forbidden(format!("{path}.items"), detail));
        }
        if inherited.inside_meta && schema.embedded_resource {
            let path = format!("{path}.x-kubernetes-embedded-resource");
            self.push(FieldError::forbidden(path, "must not be used inside of resource meta"));
        }
    }

    fn combined(&mut self, schema: &Schema, path: &str, inherited: &Inherited) {
        // Rules within combined schemas are not structural.
        let inherited = &Inherited { cardinality: None, ..inherited.clone() };
        if let Some(not) = schema.not() {
            self.place(not, &format!("{path}.not"), false, inherited);
        }
        let nested = [("allOf", schema.all_of()), ("oneOf", schema.one_of()), ("anyOf", schema.any_of())];
        for (keyword, branches) in nested {
            for (number, branch) in branches.iter().enumerate() {
                self.place(branch, &format!("{path}.{keyword}[{number}]"), false, inherited);
            }
        }
        let Some(unsupported) = schema.unsupported.as_deref() else { return };
        for (name, inner) in &unsupported.definitions {
            self.place(inner, &format!("{path}.definitions[{name}]"), false, inherited);
        }
        for (name, dependency) in unsupported.dependencies.iter().flatten() {
            if let Dependency::Schema(inner) = dependency {
                self.place(inner, &format!("{path}.dependencies[{name}]"), false, inherited);
            }
        }
    }

    fn items(&mut self, schema: &Schema, path: &str, inherited: &Inherited) {
        let mut below = Inherited { cardinality: inherited.times(schema.items_max()), ..inherited.clone() };
        // Only items with keys have old selves.
        if schema.list_type.as_deref() != Some("map") {
            below.uncorrelatable.get_or_insert_with(|| path.to_owned());
        }
        match &schema.items {
            Some(Items::One(item)) => self.place(item, &format!("{path}.items"), false, &below),
            Some(Items::Many(items)) => {
                for (number, item) in items.iter().enumerate() {
                    self.place(item, &format!("{path}.items[{number}]"), false, &below);
                }
            }
            None => {}
        }
    }

    /// `x-kubernetes-…`, but for rules.
    fn extensions(&mut self, schema: &Schema, path: &str) {
        if schema.preserve_unknown == Some(false) {
            let path = format!("{path}.x-kubernetes-preserve-unknown-fields");
            self.push(FieldError::invalid(path, &false.into(), "must be true or undefined"));
        }
        let kind = &*schema.kind;
        let wrong_type = |detail: &str| match kind {
            "" => FieldError::required(format!("{path}.type"), detail),
            _ => FieldError::invalid(format!("{path}.type"), &kind.into(), detail),
        };
        if let Some(map_type) = schema.map_type.as_deref() {
            if kind != "object" {
                self.push(wrong_type("must be object if x-kubernetes-map-type is specified"));
            }
            if !matches!(map_type, "atomic" | "granular") {
                let path = format!("{path}.x-kubernetes-map-type");
                self.push(FieldError::not_supported(path, &map_type.into(), &["atomic", "granular"]));
            }
        }
        if schema.list_type.is_some() && kind != "array" {
            self.push(wrong_type("must be array if x-kubernetes-list-type is specified"));
        } else if self.tightness.atomic_sets
            && let Some(error) = check_set_items(schema, path)
        {
            self.push(error);
        }
        let list_path = format!("{path}.x-kubernetes-list-type");
        match schema.list_type.as_deref() {
            None | Some("atomic" | "set" | "map") => {}
            Some(other) => {
                self.push(FieldError::not_supported(list_path.as_str(), &other.into(), &["atomic", "set", "map"]));
            }
        }
        if !schema.list_map_keys.is_empty() {
            let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
            match schema.list_type.as_deref() {
                Some("map") => {}
                None => self.push(FieldError::required(list_path, detail)),
                Some(other) => self.push(FieldError::invalid(list_path, &other.into(), detail)),
            }
        }
        if schema.list_type.as_deref() == Some("map") {
            self.map_list(schema, path);
        }
        if self.tightness.map_keys {
            check_map_keys(schema, path).into_iter().for_each(|error| self.push(error));
        }
    }

    fn map_list(&mut self, schema: &Schema, path: &str) {
        let keys_path = format!("{path}.x-kubernetes-list-map-keys");
        if schema.list_map_keys.is_empty() {
            self.push(FieldError::required(keys_path.as_str(), "must not be empty if x-kubernetes-list-type is map"));
        }
        let item = match &schema.items {
            None => {
                let detail = "must have a schema if x-kubernetes-list-type is map";
                self.push(FieldError::required(format!("{path}.items"), detail));
                return;
            }
            Some(Items::Many(_)) => {
                let detail = "must only have a single schema if x-kubernetes-list-type is map";
                self.push(FieldError::invalid(format!("{path}.items"), &Value::Null, detail));
                return;
            }
            Some(Items::One(item)) => item,
        };
        if &*item.kind != "object" {
            let detail = "must be object if parent array's x-kubernetes-list-type is map";
            self.push(FieldError::invalid(format!("{path}.items.type"), &(*item.kind).into(), detail));
            return;
        }
        let shown: Value = schema.list_map_keys.iter().map(|key| Value::from(&**key)).collect();
        for (number, key) in schema.list_map_keys.iter().enumerate() {
            match item.properties.get(key) {
                Some(property) if matches!(&*property.kind, "array" | "object") => {
                    let detail = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                    let path = format!("{path}.items.properties[{key}].type");
                    self.push(FieldError::invalid(path, &(*item.kind).into(), detail));
                }
                Some(_) => {}
                None => {
                    let detail = "entries must all be names of item properties";
                    self.push(FieldError::invalid(keys_path.as_str(), &shown, detail));
                }
            }
            if schema.list_map_keys[..number].contains(key) {
                self.push(FieldError::invalid(keys_path.as_str(), &shown, "must not contain duplicate entries"));
            }
        }
    }

    /// What is wrong with the expressions of rules, and what they cost.
    fn expressions(&mut self, schema: &Schema, path: &str, is_root: bool, inherited: &Inherited) {
        let (Some(costs), Some(cardinality)) = (&mut self.costs, inherited.cardinality) else { return };
        if schema.rules.is_empty() || self.rule_errors.len() >= ERRORS_MAX {
            return;
        }
        let Some(decl) = cel::declare_place(schema, is_root) else { return };
        let cardinality = cardinality.unwrap_or_else(|| decl.cardinality_max());
        for (number, rule) in schema.rules.iter().enumerate() {
            let path = format!("{path}.x-kubernetes-validations[{number}]");
            self.rule_errors.extend(costs.rule(rule, &decl, cardinality, &path, inherited));
        }
    }

    /// What can be said of rules without reading their expressions.
    fn rules(&mut self, schema: &Schema, path: &str) {
        for (number, rule) in schema.rules.iter().enumerate() {
            let path = format!("{path}.x-kubernetes-validations[{number}]");
            self.rule(schema, rule, &path);
        }
    }

    fn rule(&mut self, schema: &Schema, rule: &Rule, path: &str) {
        let has_breaks = |text: &str| text.contains(['\n', '\r']);
        let expression = rule.rule.trim();
        let message = rule.message.trim();
        let message_path = format!("{path}.message");
        if expression.is_empty() {
            self.push(FieldError::required(format!("{path}.rule"), "rule is not specified"));
        } else if !rule.message.is_empty() && message.is_empty() {
            self.push(FieldError::invalid(message_path, &(*rule.message).into(), "must be non-empty if specified"));
        } else if has_breaks(message) {
            self.push(FieldError::invalid(message_path, &(*rule.message).into(), "must not contain line breaks"));
        } else if has_breaks(expression) && message.is_empty() {
            let detail = "message must be specified if rule contains line breaks";
            self.push(FieldError::required(message_path, detail));
        }
        if !rule.message_expression.is_empty() && rule.message_expression.trim().is_empty() {
            let detail = "messageExpression must be non-empty if specified";
            self.push(FieldError::required(format!("{path}.messageExpression"), detail));
        }
        const REASONS: [&str; 4] =
            ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
        if let Some(reason) = rule.reason.as_deref().filter(|reason| !REASONS.contains(reason)) {
            self.push(FieldError::not_supported(format!("{path}.reason"), &reason.into(), &REASONS));
        }
        if rule.field_path.is_empty() {
            return;
        }
        let field_path = format!("{path}.fieldPath");
        let given = Value::from(&*rule.field_path);
        if rule.field_path.trim().is_empty() {
            self.push(FieldError::invalid(field_path.as_str(), &given, "must be non-empty if specified"));
        }
        if has_breaks(&rule.field_path) {
            self.push(FieldError::invalid(field_path.as_str(), &given, "must not contain line breaks"));
        }
        if structural::conversion_error(schema).is_none()
            && field_path::resolve(&rule.field_path, schema, true).is_err()
        {
            self.push(FieldError::invalid(field_path, &given, "must be a valid path"));
        }
    }
}

/// Items of a set are compared as wholes, so nothing may own a part of one.
fn check_set_items(schema: &Schema, path: &str) -> Option<FieldError> {
    let item = schema.item().filter(|_| schema.list_type.as_deref() == Some("set"))?;
    let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
    let (keyword, is_bad) = match &*item.kind {
        "array" => ("x-kubernetes-list-type", item.list_type.as_deref().is_some_and(|found| found != "atomic")),
        "object" => ("x-kubernetes-map-type", item.map_type.as_deref() != Some("atomic")),
        _ => return None,
    };
    // The reference implementation shows the list type in both cases.
    let shown = item.list_type.as_deref().map_or(Value::Null, Value::from);
    is_bad.then(|| FieldError::invalid(format!("{path}.items.{keyword}"), &shown, detail))
}

/// Items of sets and maps must be there, and so must what distinguishes them.
fn check_map_keys(schema: &Schema, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (Some(item), Some(list_type @ ("set" | "map"))) = (schema.item(), schema.list_type.as_deref()) else {
        return errors;
    };
    if item.nullable {
        let detail = format!("cannot be nullable when x-kubernetes-list-type is {list_type}");
        errors.push(FieldError::forbidden(format!("{path}.items.nullable"), detail));
    }
    if list_type == "set" {
        return errors;
    }
    for key in &schema.list_map_keys {
        let Some(property) = item.properties.get(key) else { continue };
        let path = format!("{path}.items.properties[{key}]");
        if !item.required.contains(key) && property.default.is_none() {
            let detail =
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.push(FieldError::required(format!("{path}.default"), detail));
        }
        if property.nullable {
            let detail = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.push(FieldError::forbidden(format!("{path}.nullable"), detail));
        }
    }
    errors
}

/// Metadata within defaults: names and labels as they are; their rules belong to the writes of objects.
struct PlainMetadata;

impl MetadataRules for PlainMetadata {
    fn decode(&self, metadata: &mut Value) -> Result<Vec<String>, String> {
        if metadata.is_object() {
            return Ok(Vec::new());
        }
        let found = match &*metadata {
            Value::Bool(_) => "bool",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            _ => "array",
        };
        Err(format!("json: cannot unmarshal {found} into Go value of type v1.ObjectMeta"))
    }

    fn validate(&self, _: &Value, _: &str) -> Vec<FieldError> {
        Vec::new()
    }
}
