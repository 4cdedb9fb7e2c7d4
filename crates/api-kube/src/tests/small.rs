//! Names, times, conditions, classes, shares, statuses.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::condition::find_condition;
use crate::int_or_percent::{IntOrPercent, IntOrPercentError, Rounding};
use crate::names::{is_dns_label, is_dns_subdomain, is_dns1035_label, is_label_value, is_qualified_name};
use crate::status::Details;
use crate::{Condition, ConditionStatus, MicroTime, QosClass, Reason, Status, Time, set_condition};

#[track_caller]
fn check_names(is_valid: fn(&str) -> bool, valid: &[&str], invalid: &[&str]) {
    for name in valid {
        assert!(is_valid(name), "`{name}` is valid");
    }
    for name in invalid {
        assert!(!is_valid(name), "`{name}` is not valid");
    }
}

#[test]
fn names_are_valid_as_kubernetes_has_it() {
    let (label, long_label) = ("a".repeat(63), "a".repeat(64));
    let (subdomain, long_subdomain) = (vec!["a"; 127].join("."), vec!["a"; 128].join("."));
    check_names(is_dns_label, &["a", "a-b", "1a", &label], &["", "-a", "a-", "A", "a.b", "a_b", "ä", &long_label]);
    check_names(is_dns1035_label, &["a", "a-1"], &["", "1a", "-a", "a.b"]);
    check_names(
        is_dns_subdomain,
        &["a", "a.b-c.1", &subdomain, &long_label],
        &["", ".", "a..b", "a.-b", &long_subdomain],
    );
    check_names(is_label_value, &["", "A", "a_b.c-d", &label], &["-a", "a.", "a b", "a/b", &long_label]);
    check_names(is_qualified_name, &["a", "x.io/A_b", &label], &["", "/a", "x.io/", "X.io/a", "a/b/c", &long_label]);
}

#[test]
fn times_are_written_in_utc_and_read_with_any_offset() {
    for (text, seconds, micros) in [
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z", "2026-01-31T12:00:00.000000Z"),
        ("2026-01-31T12:00:00.9999999Z", "2026-01-31T12:00:00Z", "2026-01-31T12:00:00.999999Z"),
        ("2026-01-31T12:00:00.5+05:30", "2026-01-31T06:30:00Z", "2026-01-31T06:30:00.500000Z"),
        ("1969-12-31T23:59:59.5Z", "1969-12-31T23:59:59Z", "1969-12-31T23:59:59.500000Z"),
    ] {
        assert_eq!(text.parse::<Time>().expect(text).to_string(), seconds);
        assert_eq!(text.parse::<MicroTime>().expect(text).to_string(), micros);
        assert_eq!(serde_json::to_value(text.parse::<Time>().expect(text)).expect("text"), seconds);
    }
    for text in [
        "",
        "2026-01-31",
        "2026-01-31 12:00:00Z",
        "2026-01-31T12:00:00",
        "now",
        "2026-13-31T12:00:00Z",
        // What jiff takes besides, and Go's clients do not.
        "2026-02-30T00:00:00Z",
        "9999-12-31T23:59:60Z",
        "2026-01-01T24:00:00Z",
        "2026-01-01t00:00:00z",
        "2026-01-01T00:00:00+99:99",
        "2026-01-01T00:00:00+25:00",
        "2026-01-01T00:00:00+24:00",
        "2026-01-01T00:00:00-00:00:30",
        "2026-01-01T00:00:00+01",
        "2026-01-01T00:00:00,5Z",
        "2026-01-01T00:00:00.Z",
        "2026-01-01T00:00:00[UTC]",
        "20260101T000000Z",
        "-000001-01-01T00:00:00Z",
    ] {
        assert!(text.parse::<Time>().is_err(), "{text}");
        assert!(serde_json::from_value::<MicroTime>(json!(text)).is_err(), "{text}");
    }
}

#[test]
fn a_transition_time_changes_with_the_status_alone() {
    let at = |second| Time::new(Timestamp::from_second(second).expect("in range"));
    let mut conditions = Vec::new();
    assert!(set_condition(&mut conditions, Condition::new("Ready", false, "Starting", "not yet"), at(1)));
    assert!(set_condition(&mut conditions, Condition::new("Ready", false, "Waiting", "still not"), at(2)));
    assert_eq!(conditions[0].last_transition_time, Some(at(1)));
    let ready = || Condition::new("Ready", true, "Running", "").for_generation(4);
    assert!(set_condition(&mut conditions, ready(), at(3)));
    assert!(!set_condition(&mut conditions, ready(), at(4)), "the same again is no change");
    assert_eq!(conditions.len(), 1);
    assert_eq!(
        serde_json::to_value(find_condition(&conditions, "Ready")).expect("plain data"),
        json!({"type": "Ready", "status": "True", "reason": "Running", "message": "", "observedGeneration": 4, "lastTransitionTime": "1970-01-01T00:00:03Z"})
    );
    assert_eq!(ConditionStatus::default().as_str(), "Unknown");
}

#[track_caller]
fn check_class(spec: Value, class: QosClass) {
    assert_eq!(QosClass::of_pod_spec(&spec), class, "{spec}");
}

#[test]
fn a_pods_class_follows_from_its_requests_and_limits() {
    let of = |resources: Value| json!({"containers": [{"resources": resources}]});
    let all = |cpu: &str, memory: &str| json!({"cpu": cpu, "memory": memory});
    check_class(json!({}), QosClass::BestEffort);
    check_class(of(json!({})), QosClass::BestEffort);
    check_class(of(json!({"limits": {"cpu": "0"}})), QosClass::BestEffort);
    check_class(of(json!({"requests": {"nvidia.com/gpu": 1}})), QosClass::BestEffort);
    check_class(of(json!({"requests": {"cpu": "1m"}})), QosClass::Burstable);
    check_class(of(json!({"limits": {"cpu": "1"}})), QosClass::Burstable);
    check_class(of(json!({"limits": all("1", "1Gi"), "requests": all("1", "512Mi")})), QosClass::Burstable);
    check_class(of(json!({"limits": all("1", "1Gi")})), QosClass::Guaranteed);
    // Equal amounts in different words: `1` and `1000m`, a number and a text.
    let resources = json!({"limits": {"cpu": 1, "memory": "1Gi"}, "requests": all("1000m", "1024Mi")});
    check_class(of(resources.clone()), QosClass::Guaranteed);
    let with_init = json!({"containers": [{"resources": resources}], "initContainers": [{}]});
    check_class(with_init, QosClass::Burstable);
    check_class(json!({"resources": resources, "containers": [{}]}), QosClass::Guaranteed);
}

#[test]
fn a_share_is_rounded_as_it_is_said() {
    let text = |text: &str| IntOrPercent::Text(text.to_owned());
    for (value, total, up, down) in [
        (IntOrPercent::Int(3), 10, 3, 3),
        (text("25%"), 10, 3, 2),
        (text("0%"), 10, 0, 0),
        (text("100%"), 7, 7, 7),
        (text("1%"), 0, 0, 0),
        (text("99%"), u32::MAX, 4_252_017_623, 4_252_017_622),
    ] {
        assert_eq!(value.scaled(total, Rounding::Up), Ok(up), "{value} of {total}");
        assert_eq!(value.scaled(total, Rounding::Down), Ok(down), "{value} of {total}");
        assert_eq!(value.check(), Ok(()), "{value}");
    }
    for (value, error) in [
        (text("abc"), IntOrPercentError::NotPercent),
        (text("5"), IntOrPercentError::NotPercent),
        (text("%"), IntOrPercentError::NotPercent),
        (text("-1%"), IntOrPercentError::NotPercent),
        (text("1.5%"), IntOrPercentError::NotPercent),
        (text("150%"), IntOrPercentError::MoreThanAll),
        (text("99999999999999999999%"), IntOrPercentError::MoreThanAll),
        (IntOrPercent::Int(-1), IntOrPercentError::Negative),
    ] {
        assert_eq!(value.check(), Err(error), "{value}");
    }
    assert!(IntOrPercent::Int(-1).scaled(5, Rounding::Up).is_err());
    assert!(text("abc").scaled(5, Rounding::Up).is_err());
}

#[test]
fn a_share_is_read_from_a_number_or_a_text() {
    for json in ["3", "\"25%\"", "\"abc\"", "-1"] {
        let value: IntOrPercent = serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"));
        assert_eq!(serde_json::to_string(&value).expect("plain data"), json);
    }
    for json in ["1.5", "3000000000", "null", "true"] {
        assert!(serde_json::from_str::<IntOrPercent>(json).is_err(), "{json}");
    }
}

#[test]
fn a_rejection_has_reason_code_and_details() {
    let status = Status::failure(Reason::NotFound, "pods \"a\" not found");
    assert_eq!(
        serde_json::to_value(&status).expect("plain data"),
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "pods \"a\" not found", "reason": "NotFound", "details": {}, "code": 404})
    );
    assert_eq!(status.details, Some(Details::default()));
    let foreign: Status = serde_json::from_value(json!({"reason": "SomethingNew", "code": 418})).expect("a status");
    assert_eq!((foreign.reason, foreign.may_be_retried()), (Reason::Unknown, false));
    for reason in Reason::ALL {
        assert_eq!(serde_json::to_value(reason).expect("text"), reason.as_str());
        assert!((400..600).contains(&reason.code()));
    }
}
