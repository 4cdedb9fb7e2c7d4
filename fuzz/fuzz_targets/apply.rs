//! Server-side apply, and the owners that clients send.
//!
//! Input: the `managedFields` of a pod, the pod, and configurations of it, as JSON, one a line. All runs on a stack of 256 KiB:
//! recursion without a bound ends the fuzzer long before it would end a hub.

#![no_main]

use std::sync::{
    LazyLock, Mutex,
    mpsc::{Receiver, SyncSender, sync_channel},
};

use libfuzzer_sys::fuzz_target;
use machinery_merge::{ApplyKind, BuiltinSchema, FieldFilter, FieldManager, Managed, compact_to_json};
use machinery_schema::Budget;
use machinery_schema::types::Type;
use serde_json::Value;

const STACK_BYTES: usize = 256 * 1024;
const NOW: &str = "2026-11-26T00:00:00Z";

/// The thread with the small stack: one for all inputs, since starting one for each would be most of the work.
static SMALL: LazyLock<Mutex<(SyncSender<String>, Receiver<()>)>> = LazyLock::new(|| {
    let (inputs_tx, inputs_rx) = sync_channel::<String>(0);
    let (done_tx, done_rx) = sync_channel(0);
    std::thread::Builder::new()
        .stack_size(STACK_BYTES)
        .spawn(move || {
            for text in inputs_rx {
                apply(&text);
                if done_tx.send(()).is_err() {
                    return;
                }
            }
        })
        .expect("a thread starts");
    Mutex::new((inputs_tx, done_rx))
});

fuzz_target!(|text: &str| {
    let small = SMALL.lock().expect("one input at a time");
    small.0.send(text.to_owned()).expect("the thread waits for inputs");
    small.1.recv().expect("a panic in the thread ends the process");
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

fn apply(text: &str) {
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
