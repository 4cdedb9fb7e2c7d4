//! Defaults must be what their own schema accepts: one that it rejects would make every write fail.

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::{
    Budget, FieldError,
    bounded::{PATH_BYTES_MAX, cut},
    cel::Validator,
    field_error::ERRORS_MAX,
    schema::Schema,
    structural::{MetadataRules, Mode, check_embedded, check_values, prune_fields},
};

/// The way from the root of a resource to a default within its metadata.
#[derive(Clone, Debug)]
enum Step {
    Key(String),
    Index,
}

/// Where the check is.
struct Walk<'w> {
    /// The resource that the place is in.
    root: &'w Schema,
    steps: Vec<Step>,
    inside_meta: bool,
    requires_pruned: bool,
    metadata: &'w dyn MetadataRules,
}

/// Checks all defaults of a schema.
pub(super) fn check(
    schema: &Schema,
    path: &str,
    requires_pruned: bool,
    metadata: &dyn MetadataRules,
    budget: &mut Budget,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut walk = Walk { root: schema, steps: Vec::new(), inside_meta: false, requires_pruned, metadata };
    walk.place(schema, true, path, &mut errors, budget);
    errors
}

impl<'w> Walk<'w> {
    fn place(
        &mut self,
        schema: &'w Schema,
        is_root: bool,
        path: &str,
        errors: &mut Vec<FieldError>,
        budget: &mut Budget,
    ) {
        if errors.len() >= ERRORS_MAX {
            return;
        }
        let path = cut(path, PATH_BYTES_MAX);
        let is_resource = is_root || schema.embedded_resource;
        let outer = is_resource.then(|| {
            let outer = (self.root, std::mem::take(&mut self.steps), self.inside_meta);
            (self.root, self.inside_meta) = (schema, false);
            outer
        });
        if let Some(default) = &schema.default {
            let path = format!("{path}.default");
            errors.extend(self.check_default(schema, is_resource, default, &path, budget));
        }
        // Below additionalProperties the value that a default belongs to is not known.
        if let Some(item) = schema.item() {
            self.steps.push(Step::Index);
            self.place(item, false, &format!("{path}.items"), errors, budget);
            self.steps.pop();
        }
        for (name, property) in &schema.properties {
            let before = self.inside_meta;
            self.inside_meta |= is_resource && matches!(&**name, "metadata" | "apiVersion" | "kind");
            self.steps.push(Step::Key(name.to_string()));
            self.place(property, false, &format!("{path}.properties[{name}]"), errors, budget);
            self.steps.pop();
            self.inside_meta = before;
        }
        if let Some(outer) = outer {
            (self.root, self.steps, self.inside_meta) = outer;
        }
    }

    fn check_default(
        &self,
        schema: &Schema,
        is_resource: bool,
        default: &Value,
        path: &str,
        budget: &mut Budget,
    ) -> Vec<FieldError> {
        if self.inside_meta {
            let mut object = self.surround(default.clone());
            let invalid =
                |why: String| vec![FieldError::invalid(path, default, format!("must result in valid metadata: {why}"))];
            if let Err(error) = crate::structural::coerce(self.root, &mut object, true, self.metadata) {
                return invalid(error.to_string());
            }
            let errors = check_embedded(self.root, &object, "", true, self.metadata);
            if !errors.is_empty() {
                return invalid(machinery_schema::join_field_errors(&errors));
            }
            return check_values(schema, default, None, path, Mode::Default, budget);
        }
        let mut errors = Vec::new();
        let mut value = Cow::Borrowed(default);
        if self.requires_pruned {
            let mut pruned = default.clone();
            prune_fields(schema, &mut pruned, is_resource);
            if pruned != *default {
                errors.push(FieldError::invalid(path, default, "must not have unknown fields"));
            }
        }
        let mut coerced = default.clone();
        match crate::structural::coerce(schema, &mut coerced, is_resource, self.metadata) {
            Err(error) => {
                let path = match error.path.as_str() {
                    "" => path.to_owned(),
                    inner => format!("{path}.{inner}"),
                };
                errors.push(FieldError { path, ..error });
                return errors;
            }
            Ok(_) => *value.to_mut() = coerced,
        }
        let embedded = check_embedded(schema, &value, path, is_resource, self.metadata);
        if !embedded.is_empty() {
            errors.extend(embedded);
            return errors;
        }
        errors.extend(check_values(schema, &value, None, path, Mode::Default, budget));
        if errors.is_empty()
            && let Some(rules) = Validator::new(schema, is_resource)
        {
            errors.extend(rules.validate(schema, &value, Some(&value), path, false));
            if errors.is_empty() {
                errors.extend(rules.validate(schema, &value, None, path, false));
            }
        }
        errors
    }

    /// The smallest resource that has the default in its place.
    fn surround(&self, value: Value) -> Value {
        let mut object = self.steps.iter().rev().fold(value, |value, step| match step {
            Step::Key(name) => json!({name.as_str(): value}),
            Step::Index => json!([value]),
        });
        if let Some(map) = object.as_object_mut() {
            map.entry("kind").or_insert_with(|| "Validation".into());
            map.entry("apiVersion").or_insert_with(|| "validation/v1".into());
        }
        object
    }
}
