//! Server-side apply, and the owners that clients send.
//!
//! Input: the `managedFields` of a pod, the pod, and configurations of it, as JSON, one a line. All runs on a stack of 256 KiB:
//! recursion without a bound ends the fuzzer long before it would end a hub.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use machinery_merge::{ApplyKind, BuiltinSchema, FieldFilter, FieldManager, Managed, compact_to_json};
use machinery_schema::Budget;
use machinery_schema::types::Type;
use selvedge_fuzz::SmallStack;
use serde_json::Value;

const STACK_BYTES: usize = 256 * 1024;
const NOW: &str = "2026-11-26T00:00:00Z";

static SMALL: LazyLock<SmallStack<String>> = LazyLock::new(|| SmallStack::new(STACK_BYTES, apply));

fuzz_target!(|text: &str| {
    SMALL.check(text.to_owned());
});

struct Pods;

impl ApplyKind for Pods {
    type Schema = BuiltinSchema;

    fn schema(&self, api_version: &str) -> Option<BuiltinSchema> {
        (api_version == "v1").then(|| Type::of_kind("", "v1", "Pod").map(BuiltinSchema::of)).flatten()
    }

    fn filter(&self, _: &str) -> Option<&FieldFilter> {
        None
    }

    fn empty_object(&self) -> Value {
        let of = Type::of_kind("", "v1", "Pod").expect("pods are published");
        BuiltinSchema::empty_object(of, "v1", "Pod")
    }
}

fn apply(text: String) {
    // What is on a disk may be anything.
    let _ = Managed::from_compact(text.as_bytes());
    let _ = compact_to_json(text.as_bytes());
    let mut values = text.lines().map_while(|line| serde_json::from_str::<Value>(line).ok());
    let Some(entries) = values.next() else { return };
    let mut managed = Managed::decode(Some(&entries)).unwrap_or_default();
    check(&managed);
    let Some(mut live) = values.next() else { return };
    let writes = FieldManager { kind: &Pods, group: "", version: "v1", kind_name: "Pod", subresource: "" };
    for config in values {
        let mut budget = Budget::of_request();
        if let Ok(applied) = writes.apply(&live, &managed, &config, "one", true, NOW, &mut budget) {
            check(&applied.managed);
            (live, managed) = (applied.object, applied.managed);
        }
        let mut new = config;
        if let Ok(updated) = writes.update(&live, &managed, &mut new, "two", NOW, &mut Budget::of_request()) {
            check(&updated);
            (live, managed) = (new, updated);
        }
    }
}

/// Owners come back from their forms as they were.
fn check(managed: &Managed) {
    let compact = managed.to_compact();
    let read = Managed::from_compact(&compact).expect("it was just written");
    assert_eq!(managed.to_json(), read.to_json());
    if !managed.is_empty() {
        assert_eq!(compact_to_json(&compact).ok(), managed.to_json());
    }
}
