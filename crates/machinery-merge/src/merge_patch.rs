//! JSON merge patch, RFC 7386.

use machinery_schema::Budget;
use serde_json::{Map, Value};

use crate::{PatchError, walk};

/// Applies a merge patch: objects merge, null removes, everything else replaces.
///
/// ```
/// use serde_json::json;
/// let patched = machinery_merge::merge_patch(&json!({"a": 1, "b": 2}), &json!({"b": null, "c": 3}));
/// assert_eq!(patched, Ok(json!({"a": 1, "c": 3})));
/// ```
///
/// # Errors
/// [`PatchError::TooDeep`] when the patch nests too deep.
pub fn merge_patch(document: &Value, patch: &Value) -> Result<Value, PatchError> {
    merge_patch_within(document, patch, &mut Budget::of_request())
}

/// The same on the budget of a request.
///
/// # Errors
/// As [`merge_patch`]; [`PatchError::TooLarge`] also when the budget does not last.
pub fn merge_patch_within(document: &Value, patch: &Value, budget: &mut Budget) -> Result<Value, PatchError> {
    walk::check_whole(patch, budget)?;
    walk::check_whole(document, budget)?;
    let mut merged = document.clone();
    merge(&mut merged, patch);
    Ok(merged)
}

/// Each value of the patch is visited once, and no deeper than [`walk::check_whole`] has been.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.as_str()).or_insert(Value::Null), value);
        }
    }
}

/// The merge patch that makes `to` out of `from`. Neither may hold a null within an object: a merge patch cannot say it.
///
/// Both are the caller's own documents and are not bounded here: this walks as deep as they nest.
pub fn merge_diff(from: &Value, to: &Value) -> Value {
    let (Value::Object(from), Value::Object(to)) = (from, to) else { return to.clone() };
    let mut patch = Map::new();
    for key in from.keys().filter(|key| !to.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in to {
        match from.get(key) {
            Some(before) if before == value => {}
            Some(before) if before.is_object() && value.is_object() => {
                patch.insert(key.clone(), merge_diff(before, value));
            }
            _ => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    Value::Object(patch)
}
