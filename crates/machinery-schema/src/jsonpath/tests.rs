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
    check(r".metadata.labels['selvedge\.dev/role']", json!(["gateway"]));
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

/// The first value is what a cell shows; all of these are as kube-apiserver 1.36 answers them.
#[test]
fn slices_unions_and_filters_find_what_upstream_shows() {
    let object = json!({"spec": {"a": "1", "b": "2", "n": 7, "nul": null, "m": {"z": 1}, "a=b": "eq", "(x)": "par",
        "l": [{"k": "a", "n": 1}, {"k": "b", "n": 2, "b": true}, {"k": "c", "n": 3}],
        "f": {"x.y": "dot", "x": {"y": "nest"}}}});
    for (path, expected) in [
        (".spec.l[0:2].k", json!("a")),
        (".spec['a','b']", json!("1")),
        (".spec.l[*].k", json!("a")),
        (".spec.l[?(@.k=='b')].k", json!("b")),
        (r#".spec.l[?(@.k=="b")].n"#, json!(2)),
        ("..k", json!("a")),
        (".spec..k", json!("a")),
        (".spec.l[::2].k", json!("a")),
        (".spec.l[-1:].k", json!("c")),
        (".spec.l[2,0].k", json!("c")),
        (".spec.l[?(@.n>1)].k", json!("b")),
        (".spec.l[?(@.n)].k", json!("a")),
        (".spec.l[*]", json!({"k": "a", "n": 1})),
        (r".spec.f['x\.y']", json!("dot")),
        (".spec.f['x.y']", json!("nest")),
        (r".spec.f.x\.y", json!("dot")),
        (".spec.l[:2].k", json!("a")),
        (".spec.l[?(@.k!='a')].k", json!("b")),
        (".spec.a=b", json!("eq")),
        (".spec.(x)", json!("par")),
        (".spec.l[-3].k", json!("a")),
        (".spec.nul", json!(null)),
    ] {
        let parsed = JsonPath::parse(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(parsed.find(&object).first().copied(), Some(&expected), "{path}");
    }
    for path in [
        ".spec.l[9].k",
        ".spec.l[1:1].k",
        ".spec.l[2:0].k",
        ".spec.l[0:5].k",
        ".spec.l[-4].k",
        ".spec.l[0:3:0].k",
        ".spec.l[?(@.n>1.5)].k",
        ".spec.l[?(@.nope)].k",
        ".spec.a[0]",
        ".spec.m[?(@.z==1)]",
        ".",
        ".spec.a|b",
    ] {
        let parsed = JsonPath::parse(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(parsed.find(&object), Vec::<&Value>::new(), "{path}");
    }
}

#[test]
fn a_path_that_cannot_be_read_names_the_character() {
    check_rejected(".a[", 4);
    check_rejected(".a[x]", 6);
    for path in [
        "..[",
        ".a(b)[?(@.k=='a']",
        ".spec....a",
        ".a[1:2:3:4]",
        ".a['x].b",
        ".spec #x",
        ".spec[+1]",
        ".spec ! x",
        ".spec {",
        ".a[?(@.b==)]",
        ".a[ 0 ]",
        r#".a["x"]"#,
        ".l[?(@.k=~'a')].k",
        "",
        " ",
    ] {
        assert!(JsonPath::parse(path).is_err(), "{path}");
    }
    assert!(JsonPath::parse(&".a".repeat(600)).is_err());
}

proptest! {
    #[test]
    fn parsing_never_panics(path in r#"[.\[\]*?()@ab='"0-9 \\é{}$,:<!+-]{0,24}"#) {
        if let Ok(path) = JsonPath::parse(&path) {
            path.find(&json!({"a": {"b": [1, {"a": "x"}]}}));
        }
    }
}
