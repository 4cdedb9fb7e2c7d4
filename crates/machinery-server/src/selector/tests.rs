use machinery_store::{Key, Revision};

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
    let selection = Selection::new(None, parsed, FieldSelector::default());
    assert_eq!(selection.matches(&object(labels, &[])), expected, "{selector} on {labels:?}");
}

/// What selectors mean is tested in `api-kube`; here, that labels are found in the index.
#[test]
fn label_selectors_look_at_the_index() {
    let web = &[("app", "web"), ("size", "12"), ("empty", "")][..];
    for (selector, expected) in [
        ("", true),
        ("app=web,!missing,size>11", true),
        ("empty=", true),
        ("missing=", false),
        ("app=web,size>12", false),
    ] {
        check_labels(selector, web, expected);
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
        let selection = Selection::new(None, LabelSelector::default(), selector.parse().unwrap());
        assert_eq!(selection.matches(&pod), expected, "{selector}");
    }
}

#[test]
fn a_watch_is_narrowed_by_an_indexed_term_or_the_first_exact_one() {
    let term = |labels: &str, fields: &str| {
        let selection = Selection::new(None, labels.parse().unwrap(), fields.parse().unwrap());
        let term = selection.index_term(|field| matches!(field, "spec.nodeName" | "label:tier"));
        term.map(|(field, value)| format!("{field}={value}"))
    };
    assert_eq!(term("", "spec.nodeName=gw-1").as_deref(), Some("spec.nodeName=gw-1"));
    assert_eq!(term("app=web", "").as_deref(), Some("label:app=web"));
    assert_eq!(term("", "metadata.name=a,spec.nodeName=gw-1").as_deref(), Some("spec.nodeName=gw-1"));
    assert_eq!(term("app=web,tier=back", "metadata.name=a").as_deref(), Some("label:tier=back"));
    assert_eq!(term("app in (a,b)", "spec.nodeName!=x"), None);
    assert_eq!(term("", "metadata.namespace=default"), None);
    assert_eq!(term("", "spec.nodeName="), None);
}
