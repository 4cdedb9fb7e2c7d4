//! Nulls that mean nothing go, and defaults come.

use serde_json::Value;

use crate::{Budget, BudgetExceeded, DEPTH_MAX, schema::Schema};

/// Bytes of text that are copied in the time of one step.
const BYTES_PER_STEP: usize = 64;

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
/// author of an object likes: a list of a million `{}` under a default of 10 KB would be 10 GB. So copies are paid for.
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
                    budget.spend(copy_steps(default))?;
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
        budget.spend(copy_steps(default))?;
        *value = default.clone();
    }
    Ok(())
}

/// What it costs to copy a value: its parts, and a little for long text.
fn copy_steps(value: &Value) -> u64 {
    let inner = match value {
        Value::String(text) => u64::try_from(text.len() / BYTES_PER_STEP).unwrap_or(u64::MAX),
        Value::Array(items) => items.iter().map(copy_steps).sum(),
        Value::Object(map) => map.values().map(copy_steps).sum(),
        _ => 0,
    };
    1 + inner
}
