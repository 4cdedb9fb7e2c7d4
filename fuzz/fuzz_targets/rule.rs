//! Schemas of custom resources, their rules in CEL, and objects under them.
//!
//! Input: a schema, an object and what the object was, as JSON, one a line; the last may be missing. All runs on a stack of
//! 512 KiB, a quarter of what a thread of the server has.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use machinery_crd::{MetadataRules, Part, Structural, definition};
use machinery_schema::{Budget, FieldError};
use selvedge_fuzz::SmallStack;
use serde_json::{Value, json};

const STACK_BYTES: usize = 512 * 1024;

static SMALL: LazyLock<SmallStack<String>> = LazyLock::new(|| SmallStack::new(STACK_BYTES, check));

fuzz_target!(|text: &str| {
    SMALL.check(text.to_owned());
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

fn check(text: String) {
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
