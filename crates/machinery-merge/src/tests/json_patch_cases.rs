//! RFC 6902, operation by operation.

use serde_json::{Value, json};

use crate::{OPERATIONS_MAX, PatchError, json_patch};

#[track_caller]
fn check(document: Value, patch: Value, expected: Value) {
    assert_eq!(json_patch(&document, &patch), Ok(expected), "{document} patched by {patch}");
}

/// The patch is rejected, and the message names `place`.
#[track_caller]
fn check_rejected(document: Value, patch: Value, place: &str) {
    let error = json_patch(&document, &patch).expect_err("the patch must be rejected");
    assert!(error.to_string().contains(place), "{error} names {place}");
}

#[test]
fn add_inserts_into_lists_and_sets_in_objects() {
    check(json!({"a": 1}), json!([{"op": "add", "path": "/b", "value": 2}]), json!({"a": 1, "b": 2}));
    check(json!({"a": 1}), json!([{"op": "add", "path": "/a", "value": 2}]), json!({"a": 2}));
    check(json!([1, 3]), json!([{"op": "add", "path": "/1", "value": 2}]), json!([1, 2, 3]));
    check(json!([1]), json!([{"op": "add", "path": "/1", "value": 2}]), json!([1, 2]));
    check(json!([1]), json!([{"op": "add", "path": "/-", "value": [2]}]), json!([1, [2]]));
    check(json!([1, 3]), json!([{"op": "add", "path": "/-1", "value": 2}]), json!([1, 3, 2]));
    check(json!({}), json!([{"op": "add", "path": "/a"}]), json!({"a": null}));
    check(json!({}), json!([{"op": "add", "path": "/a~1b~0c", "value": 1}]), json!({"a/b~c": 1}));
}

#[test]
fn remove_replace_move_and_copy_need_what_they_name() {
    check(json!({"a": 1, "b": 2}), json!([{"op": "remove", "path": "/a"}]), json!({"b": 2}));
    check(json!([1, 2, 3]), json!([{"op": "remove", "path": "/1"}]), json!([1, 3]));
    check(json!({"a": [1]}), json!([{"op": "replace", "path": "/a/0", "value": null}]), json!({"a": [null]}));
    check(json!({"a": {"b": 1}}), json!([{"op": "move", "from": "/a/b", "path": "/c"}]), json!({"a": {}, "c": 1}));
    check(json!([1, 2, 3]), json!([{"op": "move", "from": "/0", "path": "/2"}]), json!([2, 3, 1]));
    check(
        json!({"a": {"b": 1}}),
        json!([{"op": "copy", "from": "/a", "path": "/a/c"}]),
        json!({"a": {"b": 1, "c": {"b": 1}}}),
    );
    check_rejected(json!({"a": 1}), json!([{"op": "remove", "path": "/b"}]), "/b");
    check(json!({"a": 1}), json!([{"op": "replace", "path": "/b", "value": 1}]), json!({"a": 1, "b": 1}));
    check(json!({"a": 1}), json!([{"op": "replace", "path": "", "value": [2]}]), json!([2]));
    check(json!([1, 2, 3]), json!([{"op": "remove", "path": "/-1"}]), json!([1, 2]));
    check_rejected(json!({"a": {}}), json!([{"op": "add", "path": "/a/b/c", "value": 1}]), "/a/b");
    check_rejected(json!([1]), json!([{"op": "add", "path": "/2", "value": 1}]), "/2");
    check(json!([1]), json!([{"op": "remove", "path": "/00"}]), json!([]));
    check_rejected(json!([1]), json!([{"op": "remove", "path": "/x"}]), "/x");
    check_rejected(json!([1]), json!([{"op": "replace", "path": "/1", "value": 1}]), "/1");
    check_rejected(json!({"a": 1}), json!([{"op": "add", "path": "/a/b", "value": 1}]), "/a/b");
    check_rejected(json!({"a": 1}), json!([{"op": "remove", "path": ""}]), "missing");
    check_rejected(json!({"a": {}}), json!([{"op": "move", "from": "/a", "path": "/a/b"}]), "/a/b");
}

#[test]
fn a_failed_test_undoes_everything() {
    check(json!({"a": 1}), json!([{"op": "test", "path": "/a", "value": 1}]), json!({"a": 1}));
    check_rejected(json!({"a": 1}), json!([{"op": "test", "path": "/a", "value": 1.0}]), "testing value /a failed");
    check(
        json!({"a": {"b": [1]}}),
        json!([{"op": "test", "path": "/a", "value": {"b": [1]}}]),
        json!({"a": {"b": [1]}}),
    );
    check(json!({}), json!([{"op": "test", "path": "/a", "value": null}]), json!({}));
    let patch = json!([{"op": "add", "path": "/b", "value": 2}, {"op": "test", "path": "/a", "value": "1"}]);
    let failed = PatchError::Unprocessable("testing value /a failed: test failed".to_owned());
    assert_eq!(json_patch(&json!({"a": 1}), &patch), Err(failed));
}

#[test]
fn a_patch_that_go_cannot_decode_is_a_bad_request_and_a_wrong_operation_is_not() {
    let bad = |patch: Value, why: &str| {
        let expected = PatchError::BadRequest(format!("error decoding patch: json: cannot unmarshal {why}"));
        assert_eq!(json_patch(&json!({}), &patch), Err(expected));
    };
    bad(json!({"op": "add"}), "object into Go value of type []handlers.jsonPatchOp");
    bad(json!([1]), "number into Go value of type handlers.jsonPatchOp");
    bad(json!([{"op": 1}]), "number into Go struct field jsonPatchOp.op of type string");
    check_rejected(json!({}), json!([{"op": "add", "value": 1}]), "missing path");
    check_rejected(json!({}), json!([{"op": "move", "path": "/a"}]), "missing from");
    check_rejected(json!({}), json!([{"op": "merge", "path": "/a"}]), "Unexpected kind: merge");
    check_rejected(json!({}), json!([{}]), "Unexpected kind: unknown");
}

#[test]
fn a_patch_cannot_grow_without_bound() {
    let test = json!({"op": "test", "path": "", "value": {}});
    let patch = Value::Array(vec![test; OPERATIONS_MAX + 1]);
    assert!(matches!(json_patch(&json!({}), &patch), Err(PatchError::TooLarge { .. })));
    // Each copy doubles the document.
    let patch = Value::Array(vec![json!({"op": "copy", "from": "/a", "path": "/a/-"}); 64]);
    assert!(matches!(json_patch(&json!({"a": ["x".repeat(100)]}), &patch), Err(PatchError::TooLarge { .. })));
}
