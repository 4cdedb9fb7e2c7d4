use proptest::prelude::*;
use serde_json::json;

use crate::selector::{FieldSelector, LabelSelector, LabelSelectorSpec};

const WEB: &[(&str, &str)] = &[("app", "web"), ("tier", "front"), ("size", "12"), ("empty", "")];

fn value<'l>(labels: &[(&str, &'l str)], key: &str) -> Option<&'l str> {
    labels.iter().find(|(known, _)| *known == key).map(|(_, value)| *value)
}

#[track_caller]
fn check_labels(selector: &str, expected: bool) {
    let parsed: LabelSelector = selector.parse().unwrap_or_else(|error| panic!("{selector}: {error}"));
    assert_eq!(parsed.matches(|key| value(WEB, key)), expected, "{selector}");
}

#[test]
fn label_selectors_follow_kubernetes_grammar() {
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
        check_labels(selector, true);
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
        check_labels(selector, false);
    }
}

/// The words are Kubernetes', whose clients show them.
#[test]
fn a_selector_that_cannot_be_read_says_where() {
    let value = "a valid label must be an empty string or consist of alphanumeric characters";
    for (selector, expected) in [
        ("app=web,", "found '', expected: identifier after ','"),
        ("app in web", "unable to parse requirement: found 'web' expected: '('"),
        ("app in (web", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("app in (=)", "unable to parse requirement: found '=', expected: ',', ')' or identifier"),
        ("app web", "unable to parse requirement: found 'web', expected: in, notin, =, ==, !=, gt, lt"),
        ("!app web", "found 'web', expected: ',' or 'end of string'"),
        ("=web", "found '=', expected: !, identifier, or 'end of string'"),
        ("!=web", "found '!=', expected: !, identifier, or 'end of string'"),
        ("app==!", "unable to parse requirement: found '!', expected: identifier"),
        (
            "app>many",
            "unable to parse requirement: values[0]: Invalid value: \"many\": for 'Gt', 'Lt' operators, the value must be an integer",
        ),
        ("app=we b", "found 'b', expected: ',' or 'end of string'"),
        ("-app", "unable to parse requirement: <nil>: Invalid value: \"-app\": name part must consist of"),
        ("/app", "unable to parse requirement: <nil>: Invalid value: \"/app\": prefix part must be non-empty"),
        ("a=-", &format!("unable to parse requirement: values[0][a]: Invalid value: \"-\": {value}")),
        ("a in (-,b,*)", &format!("unable to parse requirement: [values[0][a]: Invalid value: \"*\": {value}")),
    ] {
        let error = selector.parse::<LabelSelector>().unwrap_err().to_string();
        assert!(error.starts_with(expected), "{selector}: {error}");
    }
    let long = vec!["a=b"; 1001].join(",");
    assert!(long.parse::<LabelSelector>().unwrap_err().to_string().contains("1000"));
}

#[test]
fn a_field_selector_that_cannot_be_read_says_where() {
    for (selector, expected) in [
        ("metadata.name", "invalid selector: 'metadata.name'; can't understand 'metadata.name'"),
        ("b=1,a>1", "invalid selector: 'b=1,a>1'; can't understand 'a>1'"),
        ("a=b=c", "invalid field selector: unescaped character in value: 61"),
        ("a=\\b", "invalid field selector: invalid escape sequence: \\b"),
    ] {
        let error = selector.parse::<FieldSelector>().unwrap_err().to_string();
        assert_eq!(error, expected, "{selector}");
    }
}

#[test]
fn names_in_messages_are_quoted_as_go_does_it() {
    for (text, expected) in [
        ("one", "\"one\""),
        ("a\"b\\", "\"a\\\"b\\\\\""),
        ("\0\n\u{7f}", "\"\\x00\\n\\x7f\""),
        ("é\u{a0}\u{200b}", "\"é\\u00a0\\u200b\""),
    ] {
        assert_eq!(crate::names::quoted(text), expected);
    }
}

#[track_caller]
fn check_spec(spec: serde_json::Value, text: &str) {
    let parsed: LabelSelectorSpec = serde_json::from_value(spec).expect("a selector");
    assert_eq!(parsed.to_selector().expect("valid").to_string(), text);
}

#[test]
fn a_workloads_selector_means_what_its_text_means() {
    check_spec(json!({}), "");
    check_spec(json!({"matchLabels": null, "matchExpressions": null}), "");
    check_spec(json!({"matchLabels": {"app": "web", "tier": "front"}}), "app=web,tier=front");
    check_spec(
        json!({"matchExpressions": [
            {"key": "a", "operator": "In", "values": ["x", "y"]}, {"key": "b", "operator": "NotIn", "values": ["x", "z"]},
            {"key": "c", "operator": "Exists"}, {"key": "d", "operator": "DoesNotExist", "values": []},
            {"key": "e", "operator": "Gt", "values": ["3"]}, {"key": "f", "operator": "Lt", "values": ["-3"]},
        ]}),
        "a in (x,y),b notin (x,z),c,!d,e>3,f<-3",
    );
}

#[test]
fn a_workloads_selector_that_makes_no_sense_is_rejected() {
    for expression in [
        json!({"key": "a", "operator": "In"}),
        json!({"key": "a", "operator": "NotIn", "values": []}),
        json!({"key": "a", "operator": "Exists", "values": ["x"]}),
        json!({"key": "a", "operator": "in", "values": ["x"]}),
        json!({"key": "a", "operator": "Gt", "values": ["x"]}),
        json!({"key": "a", "operator": "Gt", "values": ["1", "2"]}),
        json!({"key": "-a", "operator": "Exists"}),
        json!({"key": "a", "operator": "In", "values": ["not a value"]}),
        json!({"key": "a"}),
    ] {
        let spec: LabelSelectorSpec = serde_json::from_value(json!({"matchExpressions": [expression]})).unwrap();
        assert!(spec.to_selector().is_err(), "{spec:?}");
    }
}

#[test]
fn an_absent_selector_selects_nothing_and_an_empty_one_everything() {
    assert!(!LabelSelector::nothing().matches(|_| Some("x")));
    assert!(!LabelSelector::nothing().is_everything());
    let everything = LabelSelectorSpec::default().to_selector().unwrap();
    assert!(everything.is_everything() && everything.matches(|_| None));
}

#[test]
fn field_selectors_look_at_fields() {
    let pod = |field: &str| match field {
        "metadata.name" => "web-1",
        "metadata.namespace" => "default",
        "spec.nodeName" => "gw-1",
        "note" => "a,b=c\\d",
        _ => "",
    };
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
        assert_eq!(parsed.matches(pod), expected, "{selector}");
    }
    for selector in ["nothing", "a=b=c", "a=\\x", "a=b\\"] {
        assert!(selector.parse::<FieldSelector>().is_err(), "{selector}");
    }
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
