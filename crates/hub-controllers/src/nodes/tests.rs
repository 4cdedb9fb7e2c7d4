//! Tests of `nodes`: its decisions, as data.

use super::*;

/// Feeds `(second, revision of the lease)` and checks whether the node should be tainted at the last of them. What is
/// there at second 0 was there before the hub started.
fn check(was_tainted: bool, heartbeats: &[(u64, u64)], expected: bool) {
    let begin = Instant::now();
    let mut known = Heartbeats::default();
    let (mut now, mut last) = (begin, 0);
    for (second, revision) in heartbeats {
        now = begin + Duration::from_secs(*second);
        if *revision != last {
            known.renew("gw-1", *revision, *second > 0, now);
            last = *revision;
        }
    }
    assert_eq!(known.judge("gw-1", was_tainted, now).0, expected, "{heartbeats:?}");
}

#[test]
fn a_lease_expires_after_forty_seconds() {
    check(false, &[(0, 1), (40, 1)], false);
    check(false, &[(0, 1), (41, 1)], true);
    check(false, &[(0, 1), (30, 2), (70, 2)], false);
}

#[test]
fn a_late_heartbeat_brings_a_node_back() {
    check(true, &[(0, 1), (41, 1), (60, 2)], false);
}

#[test]
fn a_hub_that_has_just_started_takes_no_node_for_heard() {
    check(true, &[(0, 1)], true);
    check(true, &[(0, 1), (10, 1)], true);
    check(true, &[(0, 1), (10, 2)], false);
}

#[test]
fn a_node_without_a_lease_gets_the_time_that_every_node_has() {
    let (begin, mut known) = (Instant::now(), Heartbeats::default());
    let (should_taint, next) = known.judge("gw-1", false, begin);
    assert!(!should_taint);
    assert_eq!(next, Next::After(HEARTBEAT_GRACE + DEADLINE_MARGIN));
    assert_eq!(known.judge("gw-1", false, begin + Duration::from_secs(41)), (true, Next::OnChange));
}

#[test]
fn a_status_that_comes_before_the_lease_is_a_sign_of_life() {
    let (begin, mut known) = (Instant::now(), Heartbeats::default());
    known.renew("gw-1", 1, true, begin);
    assert!(known.judge("gw-1", false, begin + Duration::from_secs(60)).0);
    known.report("gw-1", begin + Duration::from_secs(61));
    assert!(!known.judge("gw-1", true, begin + Duration::from_secs(61)).0);
    assert!(known.judge("gw-1", false, begin + Duration::from_secs(102)).0, "and counts for as long");
}

#[test]
fn only_the_heartbeat_of_an_expired_node_is_news() {
    let (begin, mut known) = (Instant::now(), Heartbeats::default());
    assert!(!known.renew("gw-1", 1, true, begin));
    assert!(!known.renew("gw-1", 2, true, begin + Duration::from_secs(10)));
    assert!(known.judge("gw-1", false, begin + Duration::from_secs(60)).0);
    assert!(known.renew("gw-1", 3, true, begin + Duration::from_secs(61)));
    let (should_taint, _) = known.judge("gw-1", true, begin + Duration::from_secs(61));
    assert!(!should_taint);
    assert!(!known.renew("gw-1", 4, true, begin + Duration::from_secs(71)));
}

#[test]
fn the_taint_is_one_and_leaves_others_alone() {
    let node = json!({"spec": {"taints": [{"key": "mine", "effect": "NoExecute"}]}});
    let now = Timestamp::UNIX_EPOCH;
    let changed = tainted(&tainted(&node, true, now), true, now);
    let expected = json!([
        {"key": "mine", "effect": "NoExecute"},
        {"key": TAINT, "effect": "NoSchedule", "timeAdded": "1970-01-01T00:00:00Z"},
    ]);
    assert_eq!(changed["spec"]["taints"], expected);
    assert_eq!(tainted(&changed, false, now), node);
}

#[test]
fn every_condition_of_an_expired_node_is_unknown() {
    let node = json!({"status": {"conditions": [{"type": "DiskPressure", "status": "False"}]}});
    let changed = with_unknown_conditions(node, Timestamp::UNIX_EPOCH);
    let conditions = changed["status"]["conditions"].as_array().unwrap();
    assert_eq!(conditions.len(), 2);
    assert!(conditions.iter().all(|one| one["status"] == "Unknown" && one["reason"] == REASON));
}

#[test]
fn leases_that_expire_together_are_one_line() {
    let (begin, mut wave) = (Instant::now(), Wave::default());
    assert_eq!((wave.take(begin), wave.next("gw-0", begin)), (None, Next::OnChange));
    for index in 0..2000_u32 {
        wave.add(&format!("gw-{index}"), begin + Duration::from_millis(index.into()));
    }
    let soon = begin + Duration::from_secs(3);
    assert_eq!(wave.take(soon), None);
    // One node alone is looked at again for it.
    assert_eq!(wave.next("gw-0", soon), Next::After(Duration::from_secs(2)));
    assert_eq!(wave.next("gw-1", soon), Next::OnChange);
    let over = begin + WAVE;
    assert_eq!(wave.take(over), Some((2000, "gw-0, gw-1, gw-2, gw-3, gw-4, …".to_owned())));
    assert_eq!(wave.take(over), None);
    wave.add("gw-7", over);
    assert_eq!(wave.take(over + WAVE), Some((1, "gw-7".to_owned())));
}
