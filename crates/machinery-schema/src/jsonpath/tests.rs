//! Paths as data: a path and what it finds.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::JsonPath;

#[track_caller]
fn check(path: &str, expected: Value) {
    let object = json!({
        "metadata": {"labels": {"selvedge.dev/role": "gateway"}, "generation": 2},
        "spec": {"list": ["a", "b", "c"], "items": [{"name": "x", "n": 1}, {"name": "y", "n": 5}]},
        "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Applied", "status": "False"}]},
    });
    let parsed = JsonPath::parse(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let found: Vec<Value> = parsed.find(&object).into_iter().cloned().collect();
    assert_eq!(Value::from(found), expected, "{path}");
}

#[track_caller]
fn check_rejected(path: &str, character: usize) {
    let error = JsonPath::parse(path).expect_err(path).to_string();
    assert!(error.contains(&format!("at character {character}")), "{path}: {error}");
}

#[test]
fn paths_find_what_printer_columns_ask_for() {
    check(".metadata.generation", json!([2]));
    check("{.metadata.generation}", json!([2]));
    check("$.metadata.generation", json!([2]));
    check(".metadata.missing.deeper", json!([]));
    check(r".metadata.labels.selvedge\.dev/role", json!(["gateway"]));
    check(".metadata.labels['selvedge.dev/role']", json!(["gateway"]));
    check(".spec.list[0]", json!(["a"]));
    check(".spec.list[-1]", json!(["c"]));
    check(".spec.list[9]", json!([]));
    check(".spec.list[-9]", json!([]));
    check(".spec.items[*].name", json!(["x", "y"]));
    check(".spec.items[0].*", json!([1, "x"]));
    check(r#".status.conditions[?(@.type=="Ready")].status"#, json!(["True"]));
    check(r#".status.conditions[?(@.type == 'Ready')].status"#, json!(["True"]));
    check(r#".status.conditions[?(@.type!="Ready")].status"#, json!(["False"]));
    check(".spec.items[?(@.n>2)].name", json!(["y"]));
    check(".spec.items[?(@.missing)].name", json!([]));
    check(".spec..name", json!(["x", "y"]));
}

#[test]
fn a_path_that_cannot_be_followed_names_the_character() {
    check_rejected(".a[", 4);
    check_rejected(".a[x]", 4);
    check_rejected(".a[?(@.b==)]", 11);
    check_rejected(".a[0:2]", 4);
    assert!(JsonPath::parse("").is_err());
    assert!(JsonPath::parse(&".a".repeat(600)).is_err());
}

proptest! {
    #[test]
    fn parsing_never_panics(path in r#"[.\[\]*?()@ab='"0-9 \\é{}$-]{0,24}"#) {
        if let Ok(path) = JsonPath::parse(&path) {
            path.find(&json!({"a": {"b": [1, {"a": "x"}]}}));
        }
    }
}
