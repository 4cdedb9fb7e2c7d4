//! What logs and status pages show.

use std::time::{Duration, SystemTime};

use crate::{Chain, RecentErrors, parse_filter};

#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct Layer {
    text: &'static str,
    #[source]
    source: Option<Box<Layer>>,
}

fn check_chain(texts: &[&'static str], expected: &str) {
    let error = texts.iter().rev().fold(None, |source, text| Some(Box::new(Layer { text, source })));
    assert_eq!(Chain(&*error.expect("at least one text")).to_string(), expected);
}

#[test]
fn causes_stand_in_one_line() {
    check_chain(&["failed to load rules"], "failed to load rules");
    check_chain(
        &["failed to load rules", "failed to read a.sql", "denied"],
        "failed to load rules: failed to read a.sql: denied",
    );
}

#[test]
fn a_cause_that_was_printed_already_is_left_out() {
    check_chain(&["failed to connect: refused", "refused"], "failed to connect: refused");
}

#[test]
fn the_newest_ten_failures_are_kept() {
    let errors = RecentErrors::new();
    for number in 0..12 {
        errors.push(format!("failure {number}"));
    }
    let messages = errors.messages();
    assert_eq!(messages.len(), 10);
    assert_eq!(messages[0], "failure 11");
    assert_eq!(messages[9], "failure 2");
}

#[test]
fn the_same_failure_in_a_row_is_counted() {
    let errors = RecentErrors::new();
    let later = SystemTime::UNIX_EPOCH + Duration::from_secs(60);
    errors.push_at(SystemTime::UNIX_EPOCH, "hub is away");
    errors.clone().push_at(later, "hub is away");
    assert_eq!(errors.messages(), ["hub is away (2 times)"]);
    assert_eq!(errors.list()[0].at, later);
}

#[test]
fn a_long_message_is_cut_between_characters() {
    let errors = RecentErrors::new();
    errors.push("ü".repeat(2000));
    assert!(errors.messages()[0].len() < 1100);
}

#[test]
fn a_wrong_filter_is_told() {
    assert!(parse_filter("info,node_kubelet=debug").is_ok());
    let error = parse_filter("info,node_kubelet=loud").unwrap_err();
    assert!(error.to_string().contains("node_kubelet=loud"), "{error}");
}
