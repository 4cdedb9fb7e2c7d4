//! Looking at a value before it is copied or walked: how deep, how large.

use machinery_schema::Budget;
use serde_json::Value;

use crate::{DEPTH_MAX, PatchError};

/// Counts the values in `value` on the budget, and rejects one that nests deeper than `levels` levels below its own top.
///
/// The recursion itself stops at that depth, so it needs no more of the stack for a hostile value than for an honest one.
pub(crate) fn check(value: &Value, levels: usize, budget: &mut Budget) -> Result<(), PatchError> {
    budget.spend(1)?;
    match value {
        Value::Array(_) | Value::Object(_) if levels == 0 => Err(PatchError::TooDeep),
        Value::Array(items) => items.iter().try_for_each(|item| check(item, levels - 1, budget)),
        Value::Object(map) => map.values().try_for_each(|value| check(value, levels - 1, budget)),
        _ => Ok(()),
    }
}

/// Checks a whole document or patch.
pub(crate) fn check_whole(value: &Value, budget: &mut Budget) -> Result<(), PatchError> {
    check(value, DEPTH_MAX, budget)
}

/// About what a value takes as text. The caller has checked its depth.
pub(crate) fn text_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 2,
        Value::Array(items) => 2 + items.iter().map(|item| text_bytes(item) + 1).sum::<usize>(),
        Value::Object(map) => 2 + map.iter().map(|(key, value)| key.len() + text_bytes(value) + 4).sum::<usize>(),
        _ => 8,
    }
}
