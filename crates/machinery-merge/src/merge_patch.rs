//! JSON merge patch, RFC 7386, with what kube-apiserver does beyond it: values that are new lose their nulls.

use machinery_schema::Budget;
use serde_json::{Map, Value};

use crate::{PatchError, go, walk};

/// Applies a merge patch: objects merge, null removes, everything else replaces.
///
/// ```
/// use serde_json::json;
/// let patched = machinery_merge::merge_patch(&json!({"a": 1, "b": 2}), &json!({"b": null, "c": 3}));
/// assert_eq!(patched, Ok(json!({"a": 1, "c": 3})));
/// ```
///
/// # Errors
/// [`PatchError::BadRequest`] when the patch is neither an object nor a list, [`PatchError::TooDeep`] when it nests too
/// deep.
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
    match patch {
        Value::Object(_) => {
            let mut merged = document.clone();
            merge(&mut merged, patch);
            Ok(merged)
        }
        Value::Array(_) => Ok(without_nulls(patch)),
        Value::Null => Err(PatchError::BadRequest("Invalid JSON Patch".to_owned())),
        // Go finds no place for it in the map that it decodes into.
        other => Err(PatchError::BadRequest(format!(
            "error decoding patch: json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            go::json_type(other)
        ))),
    }
}

/// Each value of the patch is visited once, and no deeper than [`walk::check_whole`] has been.
fn merge(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                match target.get_mut(key) {
                    _ if value.is_null() => drop(target.remove(key)),
                    Some(old) if !old.is_null() => merge(old, value),
                    _ => drop(target.insert(key.clone(), without_nulls(value))),
                }
            }
        }
        // A list in the place of an object is taken as it is.
        (target @ Value::Object(_), patch) => *target = patch.clone(),
        (target, patch) => *target = without_nulls(patch),
    }
}

/// A value that is new has no nulls in its objects, not even in those within its lists.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(key, value)| (key.clone(), without_nulls(value))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(without_nulls).collect()),
        plain => plain.clone(),
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
