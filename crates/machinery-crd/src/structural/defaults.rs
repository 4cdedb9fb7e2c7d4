//! Nulls that mean nothing go, and defaults come.

use serde_json::Value;

use crate::{Budget, BudgetExceeded, DEPTH_MAX, schema::Schema};

/// Bytes that are copied in the time of one step.
const BYTES_PER_STEP: u64 = 64;

/// Fields of an object are kept in nodes of eleven, of which the first field makes one and further ones fill half. A field
/// in an object that has others takes its share.
const FIELD_BYTES: u64 = (size_of::<String>() + size_of::<Value>()) as u64;
const NODE_BYTES: u64 = 11 * FIELD_BYTES;

/// Removes nulls from maps where the schema neither allows them nor has a default in their place.
pub(super) fn drop_nulls(schema: &Schema, value: &mut Value, depth: usize) {
    if depth > DEPTH_MAX {
        return;
    }
    match value {
        Value::Object(map) => map.retain(|name, inner| {
            let below = schema.properties.get(name.as_str()).or_else(|| schema.additional_schema());
            let Some(below) = below else { return true };
            if inner.is_null() && !below.nullable && below.default.is_none() {
                return false;
            }
            drop_nulls(below, inner, depth + 1);
            true
        }),
        Value::Array(items) => {
            let Some(below) = schema.item() else { return };
            items.iter_mut().for_each(|item| drop_nulls(below, item, depth + 1));
        }
        _ => {}
    }
}

/// Fills in what is missing below `value`. A default is written by the author of the schema and copied as often as the
/// author of an object likes: a list of a million `{}` under a default of 10 KB would be 10 GB. So copies are paid for before
/// they are made: in steps, and in the bytes of memory that they take.
pub(crate) fn fill(
    schema: &Schema,
    value: &mut Value,
    depth: usize,
    budget: &mut Budget,
) -> Result<(), BudgetExceeded> {
    if depth > DEPTH_MAX {
        return Ok(());
    }
    budget.spend(1)?;
    match value {
        Value::Object(map) => {
            budget.spend_items(schema.properties.len())?;
            for (name, property) in &schema.properties {
                let Some(default) = &property.default else { continue };
                let is_missing = match map.get(&**name) {
                    None => true,
                    Some(given) => given.is_null() && !property.nullable,
                };
                if is_missing {
                    let field = if map.is_empty() { NODE_BYTES } else { FIELD_BYTES };
                    budget.spend_bytes(field + bytes_of(name))?;
                    pay(default, budget)?;
                    map.insert(name.to_string(), default.clone());
                }
            }
            for (name, inner) in map.iter_mut() {
                if let Some(property) = schema.properties.get(name.as_str()) {
                    fill(property, inner, depth + 1, budget)?;
                } else if let Some(below) = schema.additional_schema() {
                    fill_null(below, inner, budget)?;
                    fill(below, inner, depth + 1, budget)?;
                }
            }
        }
        Value::Array(items) => {
            if let Some(below) = schema.item() {
                for item in items {
                    fill_null(below, item, budget)?;
                    fill(below, item, depth + 1, budget)?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}

fn fill_null(schema: &Schema, value: &mut Value, budget: &mut Budget) -> Result<(), BudgetExceeded> {
    if let (Value::Null, false, Some(default)) = (&*value, schema.nullable, &schema.default) {
        pay(default, budget)?;
        *value = default.clone();
    }
    Ok(())
}

/// Pays for a copy of a value before it is made.
fn pay(default: &Value, budget: &mut Budget) -> Result<(), BudgetExceeded> {
    let (values, bytes) = copied(default);
    budget.spend(values.saturating_add(bytes / BYTES_PER_STEP))?;
    budget.spend_bytes(bytes)
}

/// The values within a value, itself included, and the bytes that they take beside the place of the first.
fn copied(value: &Value) -> (u64, u64) {
    let count = |items: usize| u64::try_from(items).unwrap_or(u64::MAX);
    let sum = |(values, bytes): (u64, u64), inner: &Value| {
        let (inner_values, inner_bytes) = copied(inner);
        (values.saturating_add(inner_values), bytes.saturating_add(inner_bytes))
    };
    match value {
        Value::String(text) => (1, bytes_of(text)),
        Value::Array(items) => items.iter().fold((1, count(size_of_val(items.as_slice()))), sum),
        Value::Object(map) => {
            let nodes = count(map.len().div_ceil(6)).saturating_mul(NODE_BYTES);
            map.iter().fold((1, nodes), |(values, bytes), (name, inner)| sum((values, bytes + bytes_of(name)), inner))
        }
        _ => (1, 0),
    }
}

fn bytes_of(text: &str) -> u64 {
    u64::try_from(text.len()).unwrap_or(u64::MAX)
}
