//! YAML, as bodies come and answers go.
//!
//! Input: a text. What can be read is written as an answer, and that is read as the same. All runs on a stack of 512 KiB, a quarter
//! of what a thread of the server has.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use machinery_schema::yaml::to_yaml;
use machinery_server::read_yaml;
use selvedge_fuzz::SmallStack;
use serde_json::Value;

const STACK_BYTES: usize = 512 * 1024;

/// More than an object of a fuzzer has.
const VALUES_MAX: usize = 10_000;

static SMALL: LazyLock<SmallStack<Vec<u8>>> = LazyLock::new(|| SmallStack::new(STACK_BYTES, check));

fuzz_target!(|text: &[u8]| {
    SMALL.check(text.to_owned());
});

fn check(text: Vec<u8>) {
    let Ok(value @ Value::Object(_)) = read_yaml(&text, VALUES_MAX) else { return };
    let written = to_yaml(&value);
    let read = read_yaml(written.as_bytes(), 100 * VALUES_MAX);
    assert!(read.is_ok(), "{read:?}; written as:\n{written}");
    if !has_odd_word(&value) {
        assert_eq!(read.as_ref(), Ok(&value), "written as:\n{written}");
    }
}

/// Whether a value has a word such as `yEs`: upstream writes it without quotes, since its reader knows `yes`, `Yes` and `YES` alone,
/// and ours takes it for a `yes`.
fn has_odd_word(value: &Value) -> bool {
    const WORDS: &[&str] = &["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    let is_odd = |text: &str| WORDS.iter().any(|word| word.eq_ignore_ascii_case(text.trim()));
    match value {
        Value::String(text) => is_odd(text),
        Value::Array(items) => items.iter().any(has_odd_word),
        Value::Object(members) => members.iter().any(|(key, value)| is_odd(key) || has_odd_word(value)),
        _ => false,
    }
}
