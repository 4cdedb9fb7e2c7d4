//! What a schema means for objects: unknown fields go, defaults come, values are checked.
//!
//! ```text
//! decode    prune ─▶ coerce metadata ─▶ drop nulls ─▶ fill defaults
//! validate  values (OpenAPI) ─▶ scale ─▶ embedded resources ─▶ list types ─▶ CEL rules
//! ```
//!
//! The order and the words are those of the reference implementation. An update is checked together with the object that
//! it replaces: what was wrong before and has not changed stays allowed ("ratcheting"), so that a stricter schema does not
//! lock up the objects that are there.

mod correlate;
mod defaults;
mod embedded;
mod formats;
mod lists;
mod numbers;
mod owners;
mod prune;
mod scale;
#[cfg(test)]
mod tests;
mod values;

use std::sync::Arc;

use serde_json::Value;

use crate::{Budget, BudgetExceeded, FieldError, FieldErrorReason, cel::Validator, schema::Schema};
pub(crate) use correlate::MapList;
pub(crate) use defaults::fill;
pub use embedded::MetadataRules;
pub(crate) use embedded::{check_embedded, coerce};
pub(crate) use formats::{is_supported as is_supported_format, validates as validates_format};
pub use owners::StructuralPlace;
pub(crate) use prune::prune_fields;
pub use scale::Scale;
pub(crate) use values::{Mode, check_values};

/// The schema of one version of a custom resource, ready for objects.
#[derive(Debug)]
pub struct Structural {
    schema: Arc<Schema>,
    scale: Option<Scale>,
    rules: Option<Validator>,
}

/// What an object is checked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The whole object.
    Whole,
    /// Its status, through the subresource of that name: nothing else has changed.
    Status,
}

/// The schema is larger than what this program takes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to read the schema")]
pub struct ReadSchemaError(#[source] pub(crate) crate::schema::TooLarge);

impl Structural {
    /// Reads `openAPIV3Schema` of a definition that was checked; compiles its patterns and CEL rules.
    ///
    /// # Errors
    /// When the schema is larger than what this program takes.
    pub fn read(schema: &Value, scale: Option<Scale>) -> Result<Self, ReadSchemaError> {
        let schema = Arc::new(Schema::read(schema).map_err(ReadSchemaError)?);
        let rules = Validator::new(&schema, true);
        Ok(Self { schema, scale, rules })
    }

    /// How the fields of an object are owned.
    pub fn apply_schema(&self) -> StructuralPlace<'_> {
        StructuralPlace::top(&self.schema)
    }

    /// Where the scale of an object is, when the definition says so.
    pub fn scale(&self) -> Option<&Scale> {
        self.scale.as_ref()
    }

    /// Removes unknown fields and nulls that mean nothing, at the top and in embedded resources; returns the paths of the
    /// first hundred unknown fields. `metadata` of the object itself is not looked at.
    ///
    /// # Errors
    /// When the metadata of an embedded resource cannot be decoded.
    pub fn prune(&self, object: &mut Value, metadata: &dyn MetadataRules) -> Result<Vec<String>, FieldError> {
        let mut unknown = self.prune_unknown(object);
        defaults::drop_nulls(&self.schema, object, 0);
        unknown.extend(coerce(&self.schema, object, false, metadata)?);
        Ok(unknown)
    }

    /// The same for what an apply made, whose nulls mean something: their manager owns the fields, so they are rejected where
    /// the schema allows none ([`Self::validate`]) instead of being taken away.
    ///
    /// # Errors
    /// As [`Self::prune`].
    pub fn prune_applied(&self, object: &mut Value, metadata: &dyn MetadataRules) -> Result<Vec<String>, FieldError> {
        let mut unknown = self.prune_unknown(object);
        unknown.extend(coerce(&self.schema, object, false, metadata)?);
        Ok(unknown)
    }

    fn prune_unknown(&self, object: &mut Value) -> Vec<String> {
        numbers::canonicalize(object);
        prune_fields(&self.schema, object, true)
    }

    /// Fills in `default`s. A null where none is allowed counts as absent when there is a default.
    ///
    /// # Errors
    /// When the copies would take more than the budget.
    pub fn apply_defaults(&self, object: &mut Value, budget: &mut Budget) -> Result<(), BudgetExceeded> {
        fill(&self.schema, object, 0, budget)
    }

    /// Brings an object that was stored under an earlier form of the definition into the form that a client sees now.
    pub fn refresh(&self, object: &mut Value, budget: &mut Budget) {
        prune_fields(&self.schema, object, true);
        defaults::drop_nulls(&self.schema, object, 0);
        // What does not fit into the budget stays as it was stored, which is a valid answer, too.
        let _ = fill(&self.schema, object, 0, budget);
    }

    /// Checks the object against the schema and adds to `errors`, which are those of its metadata. `old` is the object that
    /// it replaces.
    pub fn validate(
        &self,
        object: &Value,
        old: Option<&Value>,
        part: Part,
        metadata: &dyn MetadataRules,
        errors: &mut Vec<FieldError>,
        budget: &mut Budget,
    ) {
        match (part, self.schema.properties.get("status")) {
            (Part::Whole, _) => errors.extend(check_values(&self.schema, object, old, "", Mode::Resource, budget)),
            (Part::Status, Some(schema)) => {
                if let Some(status) = object.get("status") {
                    let old = old.and_then(|old| old.get("status"));
                    errors.extend(check_values(schema, status, old, "status", Mode::Resource, budget));
                }
            }
            (Part::Status, None) => {}
        }
        if let Some(scale) = &self.scale {
            if part == Part::Whole {
                errors.extend(scale.validate_spec(object));
            }
            errors.extend(scale.validate_status(object));
        }
        if part == Part::Whole {
            errors.extend(check_embedded(&self.schema, object, "", false, metadata));
        }
        let had_duplicates = old.is_some_and(|old| !lists::check_lists(&self.schema, old).is_empty());
        if !had_duplicates {
            errors.extend(lists::check_lists(&self.schema, object));
        }
        self.check_rules(object, old, errors);
    }

    fn check_rules(&self, object: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
        let Some(rules) = &self.rules else { return };
        use FieldErrorReason::{NotSupported, Required, TooLong, TooMany, TypeInvalid};
        // An expression could fail or take long on what its schema does not allow.
        if errors.iter().any(|error| matches!(error.reason, NotSupported | Required | TooLong | TooMany | TypeInvalid))
        {
            let detail = "some validation rules were not checked because the object was invalid; correct the existing errors \
                          to complete validation";
            errors.push(FieldError::invalid("<nil>", &Value::Null, detail));
            return;
        }
        errors.extend(rules.validate(&self.schema, object, old, "", true));
    }
}
