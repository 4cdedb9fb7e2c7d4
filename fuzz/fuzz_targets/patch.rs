//! The three kinds of patches, on objects and alone.
//!
//! Input: an object and a patch as JSON, one a line. All runs on a stack of 256 KiB, an eighth of what a thread of the
//! server has: recursion without a bound ends the fuzzer long before it would end a hub.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use machinery_kinds::Registry;
use machinery_merge::{DEPTH_MAX, json_patch, merge_diff, merge_patch, strategic_merge};
use machinery_schema::PatchSchema;
use selvedge_fuzz::SmallStack;
use serde_json::Value;

const STACK_BYTES: usize = 256 * 1024;

static PODS: LazyLock<PatchSchema> = LazyLock::new(|| {
    let registry = Registry::builtin();
    let pods = registry.resource("", "v1", "pods").expect("pods are built in");
    pods.patch_schema().expect("pods have merge keys")
});

static SMALL: LazyLock<SmallStack<String>> = LazyLock::new(|| SmallStack::new(STACK_BYTES, patch));

fuzz_target!(|text: &str| {
    // The tables are inflated on the large stack, once.
    let _ = *PODS;
    SMALL.check(text.to_owned());
});

fn patch(text: String) {
    let Some((object, patch)) = text.split_once('\n') else { return };
    let (Ok(object), Ok(patch)) = (serde_json::from_str::<Value>(object), serde_json::from_str::<Value>(patch)) else {
        return;
    };
    let reached = [json_patch(&object, &patch), merge_patch(&object, &patch), strategic_merge(&object, &patch, &PODS)];
    for patched in reached.iter().flatten() {
        assert!(is_within(patched, DEPTH_MAX), "a patch made a value that nests too deep");
    }
    if let Ok(once) = &reached[2] {
        let _ = strategic_merge(once, &patch, &PODS);
    }
    // A merge patch cannot say null, so only what has none can be reached.
    if object.is_object() && patch.is_object() && !has_null(&patch) && is_within(&patch, DEPTH_MAX) {
        let difference = merge_diff(&object, &patch);
        if let Ok(reached) = merge_patch(&object, &difference) {
            assert_eq!(reached, patch);
        }
    }
}

fn is_within(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(_) | Value::Object(_) if levels == 0 => false,
        Value::Array(items) => items.iter().all(|item| is_within(item, levels - 1)),
        Value::Object(fields) => fields.values().all(|value| is_within(value, levels - 1)),
        _ => true,
    }
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.iter().any(has_null),
        Value::Object(fields) => fields.values().any(has_null),
        _ => false,
    }
}
