//! A value without some of its fields.

use serde_json::{Map, Value};

use super::{Items, Typed};
use crate::fields::{FieldSet, PathElement};
use crate::schema::{ApplySchema, Form, MapType, field_of, form};

/// What is left of a value without the fields of a set. A map or list of which nothing is left becomes null.
pub(crate) fn remove<S: ApplySchema>(typed: Typed<'_, S>, fields: &FieldSet) -> Value {
    if fields.is_empty() {
        return typed.value.clone();
    }
    of_value(typed.value, fields, Some(typed.schema))
}

fn of_value<S: ApplySchema>(value: &Value, fields: &FieldSet, schema: Option<S>) -> Value {
    let Some(here) = schema else { return value.clone() };
    match (form(schema, Some(value)), value) {
        (Form::Scalar(_) | Form::Unknown, value) => value.clone(),
        (Form::Map(MapType::Granular), Value::Object(map)) => {
            let mut left = Map::new();
            for (key, value) in map {
                let element = PathElement::field(key);
                if fields.has_member(&element) {
                    continue;
                }
                let value = match fields.below(&element) {
                    Some(below) => of_value(value, below, field_of(here, key)),
                    None => value.clone(),
                };
                left.insert(key.clone(), value);
            }
            if left.is_empty() { Value::Null } else { Value::Object(left) }
        }
        (Form::List(list), Value::Array(items)) => {
            let Some(named) = Items::of(here, list) else { return Value::Null };
            let mut left = Vec::with_capacity(items.len());
            for item in items {
                let Ok(element) = named.element(item) else {
                    left.push(item.clone());
                    continue;
                };
                if fields.has_member(&element) {
                    continue;
                }
                left.push(match fields.below(&element) {
                    Some(below) => of_value(item, below, Some(named.item())),
                    None => item.clone(),
                });
            }
            if left.is_empty() { Value::Null } else { Value::Array(left) }
        }
        _ => Value::Null,
    }
}
