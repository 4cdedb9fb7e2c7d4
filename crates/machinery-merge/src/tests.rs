//! Cases as data: a document, a patch, and what comes out; then properties that hold for all documents.

mod json_patch_cases;
pub(crate) mod openapi;
pub(crate) mod properties;
mod strategic_cases;

use machinery_kinds::Budget;
use serde_json::{Value, json};

use crate::{
    DEPTH_MAX, PatchError, identity::comparisons, json_patch, json_patch_within, merge_patch, strategic_merge,
    strategic_merge_within,
};

/// Applies a merge patch and compares.
#[track_caller]
fn check_merge(document: Value, patch: Value, expected: Value) {
    assert_eq!(merge_patch(&document, &patch), Ok(expected), "{document} patched by {patch}");
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
    check_merge(json!({"a": [1]}), json!({"a": [{"b": null}]}), json!({"a": [{}]}));
    check_merge(json!({"a": {}}), json!({"a": [{"b": null}]}), json!({"a": [{"b": null}]}));
    let refused = merge_patch(&json!({}), &json!(null));
    assert_eq!(refused, Err(PatchError::BadRequest("Invalid JSON Patch".to_owned())));
}

#[test]
fn a_patch_that_nests_too_deep_is_rejected() {
    let mut patch = json!(1);
    for _ in 0..=DEPTH_MAX {
        patch = json!({"a": patch});
    }
    assert_eq!(merge_patch(&json!({}), &patch), Err(PatchError::TooDeep));
    let schema = strategic_cases::schema("", "pods");
    assert_eq!(strategic_merge(&json!({}), &patch, &schema), Err(PatchError::TooDeep));
}

/// Threads of the server have 2 MiB; a process that passes here has space to spare there.
const SMALL_STACK_BYTES: usize = 128 * 1024;

fn on_a_small_stack<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::Builder::new().stack_size(SMALL_STACK_BYTES).spawn(act).expect("a thread starts");
    thread.join().expect("the act does not panic")
}

/// `copy` operations that each put the value at `/z` into its own deepest place.
fn doubling(times: usize) -> Value {
    let mut operations = vec![json!({"op": "add", "path": "/z", "value": {"a": {}}})];
    let mut depth = 1;
    for _ in 0..times {
        operations.push(json!({"op": "copy", "from": "/z", "path": format!("/z{}", "/a".repeat(depth + 1))}));
        depth = 2 * depth + 1;
    }
    Value::Array(operations)
}

#[test]
fn seventeen_doubling_copies_end_at_the_first_that_is_too_deep() {
    let patch = doubling(15);
    assert!(patch.to_string().len() < 140_000, "a small request");
    let error = on_a_small_stack(move || json_patch(&json!({}), &patch)).expect_err("the patch must be rejected");
    assert_eq!(error.to_string(), "the object would nest deeper than 120 levels");
    // Five doublings make 64 levels, which is unusual and allowed.
    let patched = on_a_small_stack(|| json_patch(&json!({}), &doubling(5))).expect("64 levels are taken");
    let depth = std::iter::successors(patched.get("z"), |value| value.get("a")).count();
    assert_eq!(depth, 64);
}

#[test]
fn a_value_moved_or_added_below_the_last_level_is_rejected() {
    let deep = (0..DEPTH_MAX - 1).fold(json!({}), |value, _| json!({ "a": value }));
    let bottom = "/a".repeat(DEPTH_MAX - 1);
    let document = json!({"z": {"b": {}}, "a": deep["a"]});
    for operation in [
        json!({"op": "add", "path": format!("{bottom}/x"), "value": {}}),
        json!({"op": "move", "from": "/z", "path": format!("{bottom}/x")}),
        json!({"op": "copy", "from": "/z", "path": format!("{bottom}/x")}),
    ] {
        let error = json_patch(&document, &json!([operation])).expect_err("the patch must be rejected");
        assert_eq!(error, PatchError::TooDeep, "{operation}");
    }
    let plain = json!([{"op": "add", "path": format!("{bottom}/x"), "value": 1}]);
    assert!(json_patch(&document, &plain).is_ok(), "a plain value needs no level of its own");
    let up = json!([{"op": "move", "from": "/z/b", "path": "/b"}]);
    assert!(json_patch(&document, &up).is_ok());
}

/// Patches whose operations are each cheap to write and dear to carry out.
#[test]
fn operations_times_size_are_bounded() {
    let list: Vec<u32> = (0..200_000).collect();
    let document = json!({"list": list, "nest": {}});
    let front = json!({"op": "add", "path": "/list/0", "value": 1});
    let shifting = Value::Array(vec![front; crate::OPERATIONS_MAX]);
    assert!(matches!(json_patch(&document, &shifting), Err(PatchError::TooLarge { .. })));
    // Down and up again: each way down walks the whole list.
    let down = json!({"op": "move", "from": "/list", "path": "/nest/list"});
    let up = json!({"op": "move", "from": "/nest/list", "path": "/list"});
    let moving: Vec<Value> = (0..crate::OPERATIONS_MAX / 2).flat_map(|_| [down.clone(), up.clone()]).collect();
    assert!(matches!(json_patch(&document, &Value::Array(moving)), Err(PatchError::TooLarge { .. })));
    let mut budget = Budget::new(100);
    assert!(json_patch_within(&json!({}), &json!([]), &mut budget).is_ok());
    assert!(matches!(json_patch_within(&document, &json!([]), &mut budget), Err(PatchError::TooLarge { .. })));
}

/// Status of a node with so many conditions, each with a message.
fn conditions(count: usize, message: &str) -> Value {
    let items: Vec<Value> = (0..count).map(|n| json!({"type": format!("a{n}"), "message": message})).collect();
    json!({"status": {"conditions": items}})
}

#[test]
fn sixty_thousand_items_merge_in_linear_work() {
    const COUNT: usize = 60_000;
    let schema = strategic_cases::schema("", "nodes");
    let old = conditions(COUNT, "old");
    let mut patch = conditions(COUNT, "new");
    patch["status"]["conditions"].as_array_mut().expect("a list").reverse();
    let order: Vec<Value> = (0..COUNT).rev().map(|n| json!({"type": format!("a{n}")})).collect();
    patch["status"]["$setElementOrder/conditions"] = Value::Array(order);
    let mut budget = Budget::of_request();
    let mut merged = Value::Null;
    let compared = comparisons::during(|| {
        merged = strategic_merge_within(&old, &patch, &schema, &mut budget).expect("within the budget");
    });
    // One look-up per item and pass; hash maps compare a few more where hashes agree in part.
    assert!(compared < 12 * COUNT, "{compared} comparisons");
    let items = merged["status"]["conditions"].as_array().expect("a list");
    assert_eq!(items.len(), COUNT);
    assert_eq!(items[0], json!({"type": format!("a{}", COUNT - 1), "message": "new"}));
}

#[test]
fn sixty_thousand_plain_values_join_and_leave_a_set_in_linear_work() {
    const COUNT: usize = 60_000;
    let schema = strategic_cases::schema("", "pods");
    let finalizers = |from: usize| (from..from + COUNT).map(|n| json!(format!("f{n}"))).collect::<Vec<_>>();
    let old = json!({"metadata": {"finalizers": finalizers(0)}});
    let patch = json!({"metadata": {
        "$deleteFromPrimitiveList/finalizers": finalizers(COUNT / 2), "finalizers": finalizers(COUNT),
        "$retainKeys": finalizers(0).into_iter().chain([json!("finalizers")]).collect::<Vec<_>>(),
    }});
    let mut merged = Value::Null;
    let compared = comparisons::during(|| merged = strategic_merge(&old, &patch, &schema).expect("the patch fits"));
    assert!(compared < 12 * COUNT, "{compared} comparisons");
    assert_eq!(merged["metadata"]["finalizers"].as_array().map(Vec::len), Some(COUNT / 2 + COUNT));
}

#[test]
fn a_long_key_does_not_multiply_with_the_items_below_it() {
    let key = "k".repeat(100_000);
    let items: Vec<Value> = (0..20_000).map(|n| json!({"name": n})).collect();
    let error = strategic_merge(
        &json!({"spec": {key.clone(): {}}}),
        &json!({"spec": {key: {"$patch": "explode"}, "containers": items}}),
        &strategic_cases::schema("", "pods"),
    )
    .expect_err("the directive is unknown");
    assert!(error.to_string().len() < 2_000, "{} bytes", error.to_string().len());
}
