//! Values seen with their schema: what is in them, how two differ, what they are together, what is left without some fields.
//!
//! A leaf is a plain value, or a list or map that has one owner. Everything here walks a value once (lists by key: sorts
//! them), and recursion follows the value, whose depth [`Typed::new`] has checked.

mod compare;
mod field_set;
mod merge;
mod remove;
mod validate;

use std::sync::Arc;

pub(crate) use compare::{Comparison, compare};
pub(crate) use field_set::field_set;
use machinery_schema::Budget;
pub(crate) use merge::merge;
pub(crate) use remove::remove;
use serde_json::Value;
pub use validate::ValidationErrors;

use crate::fields::{KeyField, PathElement};
use crate::schema::{ApplySchema, ListType};
use crate::{PatchError, walk};

/// A value that fits its schema.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Typed<'v, S> {
    pub value: &'v Value,
    pub schema: S,
}

/// Whether sets may hold a value twice, and lists with keys an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Duplicates {
    /// As in an object that is stored already.
    Allowed,
    /// As in an applied configuration.
    Rejected,
}

/// Why a value has no typed form.
#[derive(Debug)]
pub(crate) enum TypedError {
    Invalid(ValidationErrors),
    TooLarge(PatchError),
}

impl<'v, S: ApplySchema> Typed<'v, S> {
    pub fn new(value: &'v Value, schema: S, duplicates: Duplicates, budget: &mut Budget) -> Result<Self, TypedError> {
        walk::check_whole(value, budget).map_err(TypedError::TooLarge)?;
        validate::validate(value, schema, duplicates).map_err(TypedError::Invalid)?;
        Ok(Self { value, schema })
    }
}

/// What names the items of one list.
pub(crate) struct Items<S> {
    list: ListType,
    keys: Vec<Arc<str>>,
    item: S,
}

impl<S: ApplySchema> Items<S> {
    /// Of a list that is no leaf; `None` when it is one.
    pub fn of(schema: S, list: ListType) -> Option<Self> {
        (list != ListType::Atomic).then(|| Self { list, keys: schema.keys(), item: schema.item() })
    }

    pub fn item(&self) -> S {
        self.item
    }

    /// What names an item.
    pub fn element(&self, item: &Value) -> Result<PathElement, String> {
        if self.list != ListType::Map || self.keys.is_empty() {
            return match item {
                Value::Object(_) => Err("associative list without keys has an element that's a map type".to_owned()),
                Value::Array(_) => Err("not supported: associative list with lists as elements".to_owned()),
                Value::Null => Err("associative list without keys has an element that's an explicit null".to_owned()),
                scalar => Ok(PathElement::Value(Arc::new(scalar.clone()))),
            };
        }
        let map = match item {
            Value::Null => return Err("associative list with keys may not have a null element".to_owned()),
            Value::Object(map) => map,
            _ => return Err("associative list with keys may not have non-map elements".to_owned()),
        };
        let mut fields = Vec::with_capacity(self.keys.len());
        for key in &self.keys {
            // A key that is absent and has no default names another item than the same key with any value.
            let value = map.get(&**key).cloned().or_else(|| self.item.field_default(key));
            fields.extend(value.map(|value| KeyField { name: key.clone(), value }));
        }
        if fields.is_empty() {
            let keys: Vec<String> = self.keys.iter().map(|key| crate::go::quoted(key)).collect();
            return Err(format!(
                "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
                keys.join(" ")
            ));
        }
        Ok(PathElement::key(fields))
    }
}

/// Whether there is nothing in a list or map, or neither.
pub(crate) fn is_empty(value: Option<&Value>) -> bool {
    match value {
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(map)) => map.is_empty(),
        _ => true,
    }
}

/// The items of a list; of anything else, none.
pub(crate) fn list_items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod tests;
