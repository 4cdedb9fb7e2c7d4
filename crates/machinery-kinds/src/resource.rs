//! One served resource: its names, verbs and subresources, and the way to its schema.

use std::sync::Arc;

use machinery_crd::{MetadataRules, Part, Structural};
use machinery_schema::{
    decode::{self, DecodeError},
    types::Type,
};
use serde_json::Value;

use crate::{
    Budget, BudgetExceeded, FieldError, PatchSchema,
    custom::{Custom, EmbeddedMetadata},
    field_error::ERRORS_MAX,
    kit::Errors,
    strategy::{Selectable, Strategy},
    table::{self, PrinterColumn},
};

/// One resource of one group version, as discovery describes it.
#[derive(Debug)]
pub struct ResourceInfo {
    /// API group; empty for core.
    pub group: Arc<str>,
    /// Version within the group, such as `v1`.
    pub version: Arc<str>,
    /// Version that objects are stored in; it differs from `version` for further versions of a custom resource.
    pub storage_version: Arc<str>,
    /// Kind of one object, such as `Pod`.
    pub kind: Arc<str>,
    /// Kind of a list, such as `PodList`.
    pub list_kind: Arc<str>,
    /// Name in URLs, such as `pods`.
    pub plural: Arc<str>,
    /// Name of one, such as `pod`.
    pub singular: Arc<str>,
    /// Names for the hurried, such as `po`.
    pub short_names: Vec<Arc<str>>,
    /// Groups of kinds, such as `all`.
    pub categories: Vec<Arc<str>>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// What may be done, in discovery's order.
    pub verbs: &'static [&'static str],
    /// `status`, `log` and the like.
    pub subresources: Vec<Subresource>,
    /// What a field selector may name besides `metadata.name` and `metadata.namespace`.
    pub selectable_fields: Vec<SelectableField>,
    /// The store's name of the resource. Resources of several groups may share one, as the two Event kinds of upstream do.
    pub storage_key: Arc<str>,
    /// What discovery gives as `storageVersionHash`; empty when nothing is stored.
    pub storage_hash: Arc<str>,
    pub(crate) strategy: &'static Strategy,
    pub(crate) schema: Schema,
    pub(crate) columns: Columns,
}

/// A subresource and what may be done with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// Last part of the URL, such as `status`.
    pub name: Arc<str>,
    /// Group of its body's kind; empty, as the version is, when both are the resource's.
    pub group: Arc<str>,
    /// Version of its body's kind.
    pub version: Arc<str>,
    /// Kind of its body, such as `Pod`; for `scale` of another group than the resource.
    pub kind: Arc<str>,
    /// What may be done.
    pub verbs: &'static [&'static str],
}

/// A field that a field selector may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectableField {
    /// As users write it, such as `spec.nodeName`.
    pub name: Arc<str>,
    /// Where the value is, when the name does not say so itself: the first place that has one counts.
    pub(crate) paths: &'static [&'static str],
    /// What a missing value counts as.
    pub(crate) absent: &'static str,
}

/// Where the types of a resource come from.
#[derive(Debug)]
pub(crate) enum Schema {
    Builtin(Type),
    Custom(Arc<Custom>),
}

/// Where the columns of a table come from.
#[derive(Debug)]
pub(crate) enum Columns {
    Builtin(&'static table::Printer),
    Custom(Vec<PrinterColumn>),
}

/// How unknown fields of a custom object are taken out.
type Prune = fn(&Structural, &mut Value, &dyn MetadataRules) -> Result<Vec<String>, FieldError>;

impl ResourceInfo {
    /// `group/version`, or the bare version for core.
    pub fn api_version(&self) -> String {
        join_api_version(&self.group, &self.version)
    }

    /// `plural.group`, or the bare plural for core: the name in messages such as `pods "a" not found`.
    pub fn qualified_name(&self) -> String {
        if self.group.is_empty() { self.plural.to_string() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// Whether the resource is one of an installed CustomResourceDefinition.
    pub fn is_custom(&self) -> bool {
        matches!(self.schema, Schema::Custom(_))
    }

    /// The type of a built-in kind.
    pub fn builtin_type(&self) -> Option<Type> {
        match &self.schema {
            Schema::Builtin(of) => Some(*of),
            Schema::Custom(_) => None,
        }
    }

    /// The schema of a custom resource.
    pub fn structural(&self) -> Option<&Structural> {
        match &self.schema {
            Schema::Builtin(_) => None,
            Schema::Custom(custom) => Some(&custom.structural),
        }
    }

    /// Looks a subresource up.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|subresource| &*subresource.name == name)
    }

    /// Whether `status` is written through its own URL only.
    pub fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }

    /// Reads what a client sent, in place: fields that the schema does not know are taken away, and so is what means
    /// "absent"; returns the paths of the unknown fields, a hundred of them at most. What the caller does with them depends
    /// on the request's `fieldValidation`.
    ///
    /// # Errors
    /// When a value has another type than its field; in the words of Go's decoder.
    pub fn decode(&self, object: &mut Value) -> Result<Vec<String>, DecodeError> {
        self.decode_with(object, Structural::prune)
    }

    /// The same for what an apply made: nulls of a custom object are its manager's, and not absent.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub fn decode_applied(&self, object: &mut Value) -> Result<Vec<String>, DecodeError> {
        self.decode_with(object, Structural::prune_applied)
    }

    fn decode_with(&self, object: &mut Value, prune: Prune) -> Result<Vec<String>, DecodeError> {
        match &self.schema {
            Schema::Builtin(of) => decode::decode(*of, object),
            Schema::Custom(custom) => {
                let mut unknown = Vec::new();
                if let Some(metadata) = object.get_mut("metadata").filter(|metadata| !metadata.is_null()) {
                    let found = decode::decode(Type::object_meta(), metadata)?;
                    unknown = found.into_iter().map(|path| format!("metadata.{path}")).collect();
                }
                let found = prune(&custom.structural, object, &EmbeddedMetadata);
                unknown.extend(found.map_err(|error| DecodeError(error.to_string()))?);
                Ok(unknown)
            }
        }
    }

    /// Puts an object into the form in which it is stored and answered: with the fields that Go always writes, without those
    /// that it leaves out. `object` has been decoded.
    pub fn complete(&self, object: &mut Value) {
        match &self.schema {
            Schema::Builtin(of) => decode::complete(*of, object),
            Schema::Custom(_) => {
                if let Some(metadata) = object.get_mut("metadata") {
                    decode::complete(Type::object_meta(), metadata);
                }
            }
        }
    }

    /// The same for an object that has not been stored yet: empty lists that its author wrote are not null yet, and are its
    /// author's.
    pub fn complete_unstored(&self, object: &mut Value) {
        match &self.schema {
            Schema::Builtin(of) => decode::complete_unstored(*of, object),
            Schema::Custom(_) => self.complete(object),
        }
    }

    /// Fills in what a client may leave out. Does nothing where a value has the wrong type; [`Self::validate`] reports it.
    ///
    /// # Errors
    /// When a small object would become too large: its schema has large defaults for each of its many items.
    pub fn apply_defaults(&self, object: &mut Value) -> Result<(), BudgetExceeded> {
        self.apply_defaults_within(object, &mut Budget::of_request())
    }

    /// The same on the budget of a request.
    ///
    /// # Errors
    /// As [`Self::apply_defaults`].
    pub fn apply_defaults_within(&self, object: &mut Value, budget: &mut Budget) -> Result<(), BudgetExceeded> {
        match &self.schema {
            Schema::Builtin(_) => {
                (self.strategy.defaults)(object);
                Ok(())
            }
            Schema::Custom(custom) => custom.structural.apply_defaults(object, budget),
        }
    }

    /// Checks a whole object (pruned and defaulted): metadata, types, and the rules of its kind.
    /// `object` must carry its final name and, when namespaced, its namespace. Returns the first 64 errors.
    pub fn validate(&self, object: &Value) -> Vec<FieldError> {
        self.validate_within(object, &mut Budget::of_request())
    }

    /// The same on the budget of a request; one of the errors says so when it does not last.
    pub fn validate_within(&self, object: &Value, budget: &mut Budget) -> Vec<FieldError> {
        let mut errors = crate::metadata::validate(object, self.namespaced, self.strategy);
        match &self.schema {
            Schema::Builtin(_) => {
                let mut found = Errors::default();
                (self.strategy.validate)(object, &mut found);
                errors.extend(found.into_vec());
            }
            Schema::Custom(custom) => {
                custom.structural.validate(object, None, Part::Whole, &EmbeddedMetadata, &mut errors, budget);
            }
        }
        errors.truncate(ERRORS_MAX);
        errors
    }

    /// Checks a new version of an object, as written to the object itself or to one of its subresources.
    pub fn validate_update(&self, subresource: Option<&str>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = crate::metadata::validate_update(subresource, new, old, self.namespaced, self.strategy);
        let mut found = Errors::default();
        match (&self.schema, subresource) {
            (Schema::Custom(custom), part) => {
                let part = if part == Some("status") { Part::Status } else { Part::Whole };
                let mut budget = Budget::of_request();
                custom.structural.validate(new, Some(old), part, &EmbeddedMetadata, &mut errors, &mut budget);
            }
            (Schema::Builtin(_), part) => match (part, self.strategy.validate_update) {
                (Some(part), _) => (self.part(part).validate)(new, old, &mut found),
                (None, Some(validate)) => validate(new, old, &mut found),
                (None, None) => (self.strategy.validate)(new, &mut found),
            },
        }
        errors.extend(found.into_vec());
        errors.truncate(ERRORS_MAX);
        errors
    }

    /// The group, version and plural of the resource as which objects are stored, when it is another than this.
    pub fn stored_as(&self) -> Option<(&'static str, &'static str, &'static str)> {
        self.strategy.stored_as.map(|(group, plural, version)| (group, version, plural))
    }

    /// The name that a selectable field has in the form in which objects are stored.
    pub fn stored_field<'f>(&self, field: &'f str) -> &'f str {
        let is_converted = self.strategy.stored_as.is_some();
        let own = self.selectable_fields.iter().find(|selectable| is_converted && &*selectable.name == field);
        own.and_then(|selectable| selectable.paths.first()).copied().unwrap_or(field)
    }

    /// The group that messages about the rules of objects name: that of the objects as they are stored.
    pub fn internal_group(&self) -> &str {
        self.strategy.stored_as.map_or(&self.group, |(group, _, _)| group)
    }

    /// Turns a stored object into one of this resource. Does nothing unless [`Self::stored_as`] names another.
    pub fn convert_from_stored(&self, object: &mut Value) {
        (self.strategy.from_stored)(object);
    }

    /// Turns an object of this resource into the stored form; as [`Self::convert_from_stored`].
    pub fn convert_to_stored(&self, object: &mut Value) {
        (self.strategy.to_stored)(object);
    }

    /// Whether a PUT of an object that is not there creates it.
    pub fn creates_on_update(&self) -> bool {
        self.strategy.create_on_update
    }

    /// Whether a PUT without a `resourceVersion` is taken.
    pub fn takes_unconditional_update(&self) -> bool {
        self.strategy.unconditional_update
    }

    /// Merge keys and strategies for a strategic merge patch; `None` for custom resources, which do not take any.
    pub fn patch_schema(&self) -> Option<PatchSchema> {
        match &self.schema {
            Schema::Builtin(of) => Some(PatchSchema::of(*of)),
            Schema::Custom(_) => None,
        }
    }

    /// The value of a selectable field, `metadata.name` and `metadata.namespace` included, as field selectors
    /// compare it; `None` when the resource cannot be selected by that field.
    pub fn selectable_value(&self, object: &Value, field: &str) -> Option<String> {
        if field == "metadata.name" || field == "metadata.namespace" {
            return Some(text_at(object, field).unwrap_or_default());
        }
        let selectable = self.selectable_fields.iter().find(|selectable| &*selectable.name == field)?;
        Some(selectable.value(object))
    }

    /// Full name of a built-in definition.
    /// The type of a built-in kind.
    pub fn type_of(&self) -> Option<Type> {
        match &self.schema {
            Schema::Builtin(of) => Some(*of),
            Schema::Custom(_) => None,
        }
    }
}

impl SelectableField {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.into(), paths: &[], absent: "" }
    }

    /// What a field selector compares.
    pub(crate) fn value(&self, object: &Value) -> String {
        let found = match self.paths {
            [] => text_at(object, &self.name),
            paths => paths.iter().filter_map(|path| text_at(object, path)).find(|text| !text.is_empty()),
        };
        found.unwrap_or_else(|| self.absent.to_owned())
    }
}

impl From<Selectable> for SelectableField {
    fn from(field: Selectable) -> Self {
        Self { name: field.name.into(), paths: field.paths, absent: field.absent }
    }
}

/// The store's name of a resource: `apps/daemonsets`, `/pods`.
pub(crate) fn storage_key(group: &str, plural: &str) -> Arc<str> {
    format!("{group}/{plural}").into()
}

/// `group/version`, or the bare version for core.
pub(crate) fn join_api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// A scalar at a dotted path, as text.
fn text_at(object: &Value, path: &str) -> Option<String> {
    let mut value = object;
    for key in path.split('.') {
        value = value.get(key)?;
    }
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
