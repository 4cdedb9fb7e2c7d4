//! The three kinds of patches, on objects and alone.
//!
//! Input: an object and a patch as JSON, one a line.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use machinery_merge::{json_patch, merge_diff, merge_patch, strategic_merge};
use machinery_schema::{PatchSchema, Registry};
use serde_json::Value;

static PODS: LazyLock<PatchSchema> = LazyLock::new(|| {
    let registry = Registry::builtin();
    let pods = registry.resource("", "v1", "pods").expect("pods are built in");
    pods.patch_schema().expect("pods have merge keys")
});

fuzz_target!(|text: &str| {
    let Some((object, patch)) = text.split_once('\n') else { return };
    let (Ok(object), Ok(patch)) = (serde_json::from_str::<Value>(object), serde_json::from_str::<Value>(patch)) else {
        return;
    };
    let _ = json_patch(&object, &patch);
    let _ = merge_patch(&object, &patch);
    if let Ok(once) = strategic_merge(&object, &patch, &PODS) {
        let _ = strategic_merge(&once, &patch, &PODS);
    }
    // A merge patch cannot say null, so only what has none can be reached.
    if object.is_object() && patch.is_object() && !has_null(&patch) {
        let reached = merge_patch(&object, &merge_diff(&object, &patch)).expect("a difference is a sound patch");
        assert_eq!(reached, patch);
    }
});

fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.iter().any(has_null),
        Value::Object(fields) => fields.values().any(has_null),
        _ => false,
    }
}
