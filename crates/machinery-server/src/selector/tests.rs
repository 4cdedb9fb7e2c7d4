use machinery_store::{Key, Revision};
use proptest::prelude::*;

use super::*;

fn object(labels: &[(&str, &str)], fields: &[(&str, &str)]) -> Object {
    let labels = labels.iter().map(|(key, value)| (format!("{LABEL_FIELD_PREFIX}{key}"), *value));
    let fields = fields.iter().map(|(key, value)| ((*key).to_owned(), *value));
    Object {
        key: Key::new("/pods", "default", "web-1"),
        revision: Revision(1),
        created: Revision(1),
        bytes: bytes::Bytes::new(),
        managed: None,
        index: labels.chain(fields).collect(),
    }
}

fn check_labels(selector: &str, labels: &[(&str, &str)], expected: bool) {
    let parsed: LabelSelector = selector.parse().unwrap_or_else(|error| panic!("{selector}: {error}"));
    assert_eq!(parsed.matches(&object(labels, &[])), expected, "{selector} on {labels:?}");
}

#[test]
fn label_selectors_follow_kubernetes_grammar() {
    let web = &[("app", "web"), ("tier", "front"), ("size", "12"), ("empty", "")][..];
    for selector in [
        "",
        "app",
        "app=web",
        "app==web",
        " app = web , tier != back ",
        "app in (web, db)",
        "app notin (db)",
        "!missing",
        "missing!=x",
        "missing notin (x)",
        "size>11",
        "size<13",
        "empty=",
        "empty in (,x)",
        "app=web,tier=front,!missing",
    ] {
        check_labels(selector, web, true);
    }
    for selector in [
        "app=db",
        "!app",
        "missing",
        "app!=web",
        "app notin (web,db)",
        "size>12",
        "size<12",
        "app>1",
        "missing=",
        "app=web,tier=back",
    ] {
        check_labels(selector, web, false);
    }
}

#[test]
fn a_selector_that_cannot_be_read_says_where() {
    for (selector, part) in [
        ("app=web,", "label key"),
        ("app in web", "'('"),
        ("app in (web", "',' or ')'"),
        ("app web", "expected"),
        ("=web", "label key"),
        ("app>many", "whole number"),
        ("app=we b", "expected"),
        ("-app", "label key"),
    ] {
        let error = selector.parse::<LabelSelector>().unwrap_err().to_string();
        assert!(error.contains(part), "{selector}: {error}");
    }
}

#[test]
fn field_selectors_look_at_key_and_index() {
    let pod = object(&[], &[("spec.nodeName", "gw-1"), ("note", "a,b=c\\d")]);
    for (selector, expected) in [
        ("", true),
        ("metadata.name=web-1", true),
        ("metadata.name==web-1,metadata.namespace=default", true),
        ("metadata.namespace!=default", false),
        ("spec.nodeName=gw-1", true),
        ("spec.nodeName=gw-2", false),
        ("spec.nodeName!=", true),
        ("status.phase=", true),
        ("note=a\\,b\\=c\\\\d", true),
    ] {
        let parsed: FieldSelector = selector.parse().unwrap();
        assert_eq!(parsed.matches(&pod), expected, "{selector}");
    }
    for selector in ["nothing", "a=b=c", "a=\\x", "a=b\\"] {
        assert!(selector.parse::<FieldSelector>().is_err(), "{selector}");
    }
}

#[test]
fn a_watch_is_narrowed_by_the_first_exact_term() {
    let term = |labels: &str, fields: &str| {
        let selection = Selection { namespace: None, labels: labels.parse().unwrap(), fields: fields.parse().unwrap() };
        selection.index_term().map(|(field, value)| format!("{field}={value}"))
    };
    assert_eq!(term("", "spec.nodeName=gw-1").as_deref(), Some("spec.nodeName=gw-1"));
    assert_eq!(term("app=web", "").as_deref(), Some("label:app=web"));
    assert_eq!(term("app in (a,b)", "spec.nodeName!=x"), None);
    assert_eq!(term("", "metadata.namespace=default"), None);
    assert_eq!(term("", "spec.nodeName="), None);
}

proptest! {
    #[test]
    fn no_text_makes_the_parsers_panic(text in ".{0,60}") {
        let _ = text.parse::<LabelSelector>();
        let _ = text.parse::<FieldSelector>();
    }

    #[test]
    fn a_selector_reads_its_own_text(text in "(!?[a-c]|[a-c](=|==|!=)[x-z]?|[a-c] (in|notin) \\([x-z](,[x-z]){0,2}\\)|[a-c][<>][0-9])(,[a-c]=[x-z]){0,3}") {
        let selector: LabelSelector = text.parse().unwrap();
        prop_assert_eq!(selector.to_string().parse::<LabelSelector>().unwrap(), selector);
    }
}
