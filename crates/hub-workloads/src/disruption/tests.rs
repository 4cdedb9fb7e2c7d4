use serde_json::{Value, json};

use super::budget::{Limit, Pod, disrupted, failed, stale_after, status};
use super::*;

const NOW: i64 = 1_800_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(NOW + seconds).unwrap()
}

/// `R` a ready pod, `U` one that is not, `T` one that is terminating; they are called 0, 1, …
fn pods(text: &str) -> Vec<Pod> {
    let pod = |(number, letter): (usize, char)| Pod {
        name: number.to_string(),
        is_terminating: letter == 'T',
        is_ready: letter != 'U',
    };
    text.chars().enumerate().map(pod).collect()
}

fn limit(min: Value, max: Value) -> Limit {
    let read = |value: Value| serde_json::from_value(value).unwrap();
    Limit::of(read(min), read(max))
}

#[test]
fn a_budget_allows_what_is_healthy_beyond_what_must_be() {
    let null = Value::Null;
    // Limits, pods, how many there should be; expected, desired, healthy, allowed.
    for (min, max, text, scale, expected) in [
        (json!(2), null.clone(), "RRR", 0, (3, 2, 3, 1)),
        (json!(2), null.clone(), "RRU", 0, (3, 2, 2, 0)),
        (json!(2), null.clone(), "RRRT", 0, (4, 2, 3, 1)),
        (json!(5), null.clone(), "RRR", 0, (3, 5, 3, 0)),
        (json!(0), null.clone(), "RR", 0, (2, 0, 2, 2)),
        // Where there is no pod nothing is allowed, so that the first ones that come are safe.
        (json!(0), null.clone(), "", 0, (0, 0, 0, 0)),
        (json!("50%"), null.clone(), "RRR", 5, (5, 3, 3, 0)),
        (json!("50%"), null.clone(), "RRRR", 5, (5, 3, 4, 1)),
        (json!("0%"), null.clone(), "RR", 2, (2, 0, 2, 2)),
        (json!("100%"), null.clone(), "RR", 2, (2, 2, 2, 0)),
        (null.clone(), json!(1), "RRR", 3, (3, 2, 3, 1)),
        (null.clone(), json!(1), "RR", 3, (3, 2, 2, 0)),
        (null.clone(), json!(0), "RRR", 3, (3, 3, 3, 0)),
        (null.clone(), json!("100%"), "RRR", 3, (3, 0, 3, 3)),
        // A share is rounded up, which is more that may be down.
        (null.clone(), json!("30%"), "RRRRR", 5, (5, 3, 5, 2)),
        (null.clone(), json!(9), "RR", 2, (2, 0, 2, 2)),
        // Nobody controls them.
        (null.clone(), json!(1), "RR", 0, (0, 0, 2, 0)),
        (null.clone(), null.clone(), "RR", 0, (0, 0, 2, 0)),
    ] {
        let limit = limit(min, max);
        let outcome = status(&limit, &pods(text), scale, &BTreeMap::new(), at(0)).unwrap().status;
        let counted = (outcome.expected, outcome.desired_healthy, outcome.current_healthy, outcome.allowed);
        assert_eq!(counted, expected, "{limit:?} {text} of {scale}");
    }
    let wrong = limit(Value::Null, json!("many"));
    assert!(status(&wrong, &pods("R"), 1, &BTreeMap::new(), at(0)).is_err());
}

#[test]
fn a_pod_that_is_evicted_counts_again_when_it_is_not_deleted_in_time() {
    let evicted: BTreeMap<String, Timestamp> =
        [("0", -30), ("1", -120), ("2", -10), ("9", 0)].map(|(pod, since)| (pod.to_owned(), at(since))).into();
    let outcome = status(&limit(json!(1), Value::Null), &pods("RRTR"), 0, &evicted, at(0)).unwrap();
    assert_eq!(outcome.status.current_healthy, 2, "the first is awaited, the third is terminating");
    assert_eq!(outcome.status.disrupted.keys().collect::<Vec<_>>(), ["0"]);
    assert_eq!(outcome.not_deleted, ["1"]);
    assert_eq!(outcome.recheck_after, Some(Duration::from_secs(90)));
}

#[test]
fn a_status_says_why_and_is_not_written_twice() {
    let outcome = status(&limit(json!(2), Value::Null), &pods("RRR"), 0, &BTreeMap::new(), at(0)).unwrap().status;
    let first = outcome.object(3, &Value::Null, at(0));
    let condition = json!({
        "type": "DisruptionAllowed", "status": "True", "reason": "SufficientPods", "message": "", "observedGeneration": 3,
        "lastTransitionTime": seconds(at(0)),
    });
    assert_eq!(first["conditions"], json!([condition]));
    assert_eq!((&first["observedGeneration"], &first["disruptionsAllowed"]), (&json!(3), &json!(1)));
    assert_eq!(merge_patch(&first, &outcome.object(3, &first["conditions"], at(60))), None);
    let none = status(&limit(json!(3), Value::Null), &pods("RRR"), 0, &BTreeMap::new(), at(0)).unwrap().status;
    let second = none.object(4, &first["conditions"], at(60));
    assert_eq!(second["conditions"][0]["reason"], "InsufficientPods");
    assert_eq!(second["conditions"][0]["lastTransitionTime"], seconds(at(60)));
    let third = failed(&first, "no", at(90));
    assert_eq!((&third["disruptionsAllowed"], &third["expectedPods"]), (&json!(0), &json!(3)));
    assert_eq!(
        (&third["conditions"][0]["reason"], &third["conditions"][0]["message"]),
        (&json!("SyncFailed"), &json!("no"))
    );
    assert_eq!(failed(&third, "no", at(99)), third);
    // A failure leaves nothing behind.
    let fourth = none.object(4, &third["conditions"], at(100));
    assert_eq!(
        (&fourth["conditions"][0]["reason"], &fourth["conditions"][0]["message"]),
        (&json!("InsufficientPods"), &json!(""))
    );
}

#[test]
fn what_was_noted_of_evictions_is_read_whatever_it_says() {
    let read = disrupted(&json!({"disruptedPods": {"a": "2026-01-01T00:00:00Z", "b": "soon", "c": null}}));
    assert_eq!(read.len(), 3);
    assert_eq!(read["b"], Timestamp::default());
    assert!(disrupted(&Value::Null).is_empty());
}

#[test]
fn a_disruption_that_does_not_come_is_taken_back() {
    let since = seconds(at(-50));
    for (status, reason, since, expected) in [
        ("True", "EvictionByEvictionAPI", Some(&*since), Some(70)),
        ("True", "EvictionByEvictionAPI", Some("1970-01-01T00:00:00Z"), Some(0)),
        ("True", "PreemptionByScheduler", None, Some(0)),
        ("True", "TerminationByKubelet", Some(&*since), None),
        ("False", "EvictionByEvictionAPI", Some(&*since), None),
    ] {
        let left = stale_after(status, reason, since, at(0));
        assert_eq!(left, expected.map(Duration::from_secs), "{status} {reason} {since:?}");
    }
}

#[test]
fn a_person_hears_of_pods_that_nobody_controls() {
    let message = unmanaged(&json!({"matchLabels": {"app": "web"}}));
    assert!(message.contains("(selector: &LabelSelector{MatchLabels:map[string]string{app: web,},"), "{message}");
}
