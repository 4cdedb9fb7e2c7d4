//! Cases as data: a document, a patch, and what comes out; then properties that hold for all documents.

mod json_patch_cases;
mod properties;
mod strategic_cases;

use serde_json::{Value, json};

use crate::{DEPTH_MAX, PatchError, merge_patch};

/// Applies a merge patch and compares.
#[track_caller]
fn check_merge(document: Value, patch: Value, wanted: Value) {
    assert_eq!(merge_patch(&document, &patch), Ok(wanted), "{document} patched by {patch}");
}

#[test]
fn a_merge_patch_merges_objects_and_replaces_all_else() {
    check_merge(json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"}));
    check_merge(json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"}));
    check_merge(json!({"a": {"b": 1, "c": 2}}), json!({"a": {"b": 3}}), json!({"a": {"b": 3, "c": 2}}));
    check_merge(json!({"a": [1, 2]}), json!({"a": [3]}), json!({"a": [3]}));
    check_merge(json!({"a": "b"}), json!({"a": {"c": 1}}), json!({"a": {"c": 1}}));
    check_merge(json!({"a": {"c": 1}}), json!({"a": "b"}), json!({"a": "b"}));
    check_merge(json!([1]), json!({"a": 1}), json!({"a": 1}));
    check_merge(json!({"a": 1}), json!([1]), json!([1]));
}

#[test]
fn null_in_a_merge_patch_removes() {
    check_merge(json!({"a": 1, "b": 2}), json!({"a": null}), json!({"b": 2}));
    check_merge(json!({"b": 2}), json!({"a": null}), json!({"b": 2}));
    check_merge(json!({}), json!({"a": {"b": {"c": null}}}), json!({"a": {"b": {}}}));
    check_merge(json!({"a": [1]}), json!({"a": [null]}), json!({"a": [null]}));
}

#[test]
fn a_patch_that_nests_too_deep_is_refused() {
    let mut patch = json!(1);
    for _ in 0..=DEPTH_MAX {
        patch = json!({"a": patch});
    }
    assert!(matches!(merge_patch(&json!({}), &patch), Err(PatchError::TooLarge { .. })));
    let schema = strategic_cases::schema("", "pods");
    assert!(matches!(crate::strategic_merge(&json!({}), &patch, &schema), Err(PatchError::TooLarge { .. })));
}
