use serde_json::json;

use super::*;
use crate::kit::{Errors, Path};

fn lines(check: impl FnOnce(&Path<'_>, &mut Errors)) -> Vec<String> {
    let mut errors = Errors::default();
    check(&Path::at("x"), &mut errors);
    errors.into_vec().iter().map(ToString::to_string).collect()
}

#[test]
fn names_are_taken_and_refused_as_upstream_does() {
    let check = |messages: Messages, starts: &[&str]| {
        assert_eq!(messages.len(), starts.len(), "{messages:?}");
        for (message, start) in messages.iter().zip(starts) {
            assert!(message.starts_with(start), "{message:?} does not start with {start:?}");
        }
    };
    check(dns_label("a-1"), &[]);
    check(dns_label("a.b"), &["must not contain dots"]);
    check(dns_label("A"), &["a lowercase RFC 1123 label must consist"]);
    check(dns_label(&"a".repeat(64)), &["must be no more than 63 characters"]);
    check(dns_subdomain("a.b-c.1"), &[]);
    check(dns_subdomain("a..b"), &["a lowercase RFC 1123 subdomain"]);
    check(dns_subdomain_with_underscore("_a_b.c"), &[]);
    check(dns_subdomain_with_underscore("a_.c"), &["a lowercase RFC 1123 subdomain"]);
    check(dns1035_label("1a"), &["a DNS-1035 label"]);
    check(wildcard_dns_subdomain("*.a.b"), &[]);
    check(wildcard_dns_subdomain("*a.b"), &["a wildcard DNS-1123 subdomain"]);
    check(qualified_name("a.b/C_d"), &[]);
    check(qualified_name("/a"), &["prefix part must be non-empty"]);
    check(qualified_name("a/"), &["name part must be non-empty", "name part must consist"]);
    check(qualified_name("a/b/c"), &["a valid label key must consist"]);
    check(qualified_name("A/b"), &["prefix part a lowercase RFC 1123 subdomain"]);
    check(label_value(""), &[]);
    check(label_value("-"), &["a valid label must be an empty string"]);
    check(port_name(""), &["must contain only alpha-numeric", "must contain at least one letter"]);
    check(
        port_name("1--2-"),
        &["must contain at least one letter", "must not contain consec", "must not begin or end"],
    );
    check(env_name("a b"), &[]);
    check(env_name("a=b"), &["a valid environment variable name must consist only of printable"]);
    check(config_key("..a"), &["must not start with '..'"]);
    check(path_segment_name(".."), &["may not be '..'"]);
    check(path_segment_name("a/b%"), &["may not contain '/'", "may not contain '%'"]);
    check(percent("5"), &["a valid percent string"]);
    check(decimal_integer("-0"), &["must be a valid decimal"]);
    check(decimal_integer("-10"), &[]);
    check(decimal_integer("01"), &["must be a valid decimal"]);
}

#[test]
fn examples_are_listed_as_upstream_lists_them() {
    assert_eq!(
        qualified_name("a b"),
        [
            "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
        ]
    );
}

#[test]
fn addresses_of_old_and_new_fields() {
    let old = |text: &str| lines(|path, errors| legacy_ip(text, &[], path, errors));
    let new = |text: &str| lines(|path, errors| ip(text, path, errors));
    assert!(old("10.0.0.1").is_empty() && old("FE80:0:0:0:0:0:0:0abc").is_empty() && new("fe80::abc").is_empty());
    assert_eq!(old("010.0.0.1"), [r#"x: Invalid value: "010.0.0.1": must not have leading 0s"#]);
    assert_eq!(
        old("::ffff:1.2.3.4"),
        [r#"x: Invalid value: "::ffff:1.2.3.4": must not be an IPv4-mapped IPv6 address"#]
    );
    assert_eq!(
        old("1.2.3"),
        [r#"x: Invalid value: "1.2.3": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"#]
    );
    assert_eq!(new("FE80::1"), [r#"x: Invalid value: "FE80::1": must be in canonical form ("fe80::1")"#]);
    let path = Path::at("x");
    assert_eq!(
        ip_warning("010.0.0.1", &path).as_deref(),
        Some(r#"x: non-standard IP address "010.0.0.1" is invalid: use "10.0.0.1""#)
    );
    assert_eq!(ip_warning("10.0.0.1", &path), None);
}

#[test]
fn blocks_of_old_and_new_fields() {
    let new = |text: &str| lines(|path, errors| cidr(text, path, errors));
    assert!(new("10.0.0.0/8").is_empty() && new("::/0").is_empty() && new("2001:db8::/64").is_empty());
    assert_eq!(
        new("10.0.0.1/8"),
        [r#"x: Invalid value: "10.0.0.1/8": must not have bits set beyond the prefix length"#]
    );
    assert_eq!(
        new("10.0.0.0/08"),
        [r#"x: Invalid value: "10.0.0.0/08": must not have leading 0s in IP or prefix length"#]
    );
    assert_eq!(
        new("10.0.0.0"),
        [r#"x: Invalid value: "10.0.0.0": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"#]
    );
    assert_eq!(
        cidr_warnings("10.1.2.3/8", &Path::at("x")),
        [r#"x: CIDR value "10.1.2.3/8" is ambiguous in this context (should be "10.0.0.0/8" or "10.1.2.3/32"?)"#]
    );
}

#[test]
fn owners_finalizers_and_managers() {
    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "1", "controller": true});
    let other = json!({"apiVersion": "a/b/c", "kind": "", "name": "b", "uid": "2", "controller": true});
    assert_eq!(
        lines(|path, errors| owner_references(&json!([owner, other]), path, errors)),
        [
            r#"x.apiVersion: Invalid value: "a/b/c": version must not be empty"#,
            r#"x.kind: Invalid value: "": must not be empty"#,
            r#"x: Invalid value: [{"apiVersion":"v1","kind":"Pod","name":"a","uid":"1","controller":true},{"apiVersion":"a/b/c","kind":"","name":"b","uid":"2","controller":true}]: Only one reference can have Controller set to true. Found "true" in references for Pod/a and /b"#,
        ]
    );
    assert_eq!(
        lines(|path, errors| kube_finalizers(&json!(["a", "b/c", "orphan"]), path, errors)),
        [r#"x[0]: Invalid value: "a": name is neither a standard finalizer name nor is it fully qualified"#]
    );
    assert_eq!(
        lines(|path, errors| field_manager("a\u{7}b", path, errors)),
        [r#"x: Invalid value: "a\ab": invalid character U+0007 (at position 1)"#]
    );
}

#[test]
fn selectors_are_checked_by_operator() {
    let selector = json!({"matchExpressions": [
        {"key": "a", "operator": "In"}, {"key": "a", "operator": "Exists", "values": ["b"]}, {"key": "", "operator": "Is"},
    ]});
    let found = lines(|path, errors| label_selector(&selector, SelectorOptions::default(), path, errors));
    assert_eq!(found.len(), 5, "{found:?}");
    assert_eq!(
        found[0],
        "x.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'"
    );
    assert_eq!(found[2], r#"x.matchExpressions[2].operator: Invalid value: "Is": not a valid selector operator"#);
}

#[test]
fn nothing_and_empty_are_the_same() {
    assert!(same(&json!({"a": []}), &json!({})) && same(&json!(null), &json!({})));
    assert!(!same(&json!({"a": [1]}), &json!({"a": [2]})) && !same(&json!({"a": ""}), &json!({"a": "b"})));
}
