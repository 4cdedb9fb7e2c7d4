//! Schemas of custom resources, their rules in CEL, and objects under them.
//!
//! Input: a schema, an object and what the object was, as JSON, one a line; the last may be missing. All runs on a stack of
//! 512 KiB, a quarter of what a thread of the server has.

#![no_main]

use std::sync::{
    LazyLock, Mutex,
    mpsc::{Receiver, SyncSender, sync_channel},
};

use libfuzzer_sys::fuzz_target;
use machinery_crd::{MetadataRules, Part, Structural, definition};
use machinery_schema::{Budget, FieldError};
use serde_json::{Value, json};

const STACK_BYTES: usize = 512 * 1024;

/// The thread with the small stack: one for all inputs, since starting one for each would be most of the work.
static SMALL: LazyLock<Mutex<(SyncSender<String>, Receiver<()>)>> = LazyLock::new(|| {
    let (inputs_tx, inputs_rx) = sync_channel::<String>(0);
    let (done_tx, done_rx) = sync_channel(0);
    std::thread::Builder::new()
        .stack_size(STACK_BYTES)
        .spawn(move || {
            for text in inputs_rx {
                check(&text);
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

struct Metadata;

impl MetadataRules for Metadata {
    fn decode(&self, _: &mut Value) -> Result<Vec<String>, String> {
        Ok(Vec::new())
    }

    fn validate(&self, _: &Value, _: &str) -> Vec<FieldError> {
        Vec::new()
    }
}

fn check(text: &str) {
    let mut lines = text.lines().map(serde_json::from_str::<Value>);
    let Some(Ok(schema)) = lines.next() else { return };
    let mut written = json!({
        "metadata": {"name": "tests.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "tests", "kind": "Test"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
        },
    });
    definition::apply_defaults(&mut written);
    let is_accepted = definition::validate(&written, None).is_empty();
    let _ = definition::validate(&written, Some(&written));
    // Objects are only held against what was accepted.
    let (true, Some(Ok(mut object))) = (is_accepted, lines.next()) else { return };
    let Ok(structural) = Structural::read(&schema, None) else { return };
    if structural.prune(&mut object, &Metadata).is_err()
        || structural.apply_defaults(&mut object, &mut Budget::of_request()).is_err()
    {
        return;
    }
    let old = lines.next().and_then(Result::ok).unwrap_or_else(|| object.clone());
    for old in [None, Some(&old)] {
        let mut errors = Vec::new();
        let mut budget = Budget::of_request();
        structural.validate(&object, old, Part::Whole, &Metadata, &mut errors, &mut budget);
    }
}
