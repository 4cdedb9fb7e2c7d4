//! Tests of `nodes`: its decisions, as data.

use super::*;

fn lease(renewed: &str) -> Vec<Value> {
    vec![json!({"metadata": {"name": "gw-1"}, "spec": {"renewTime": renewed}})]
}

/// Feeds `(second, renewTime)` and checks whether the node should be marked at the last of them.
fn check(was_marked: bool, heartbeats: &[(u64, &str)], expected: bool) {
    let begin = Instant::now();
    let mut known = Heartbeats::default();
    let mut now = begin;
    for (second, renewed) in heartbeats {
        now = begin + Duration::from_secs(*second);
        known.observe(["gw-1"].into_iter(), &lease(renewed), now);
    }
    assert_eq!(known.should_mark("gw-1", was_marked, now), expected, "{heartbeats:?}");
}

#[test]
fn a_node_is_silent_after_forty_seconds() {
    check(false, &[(0, "a"), (40, "a")], false);
    check(false, &[(0, "a"), (41, "a")], true);
    check(false, &[(0, "a"), (30, "b"), (70, "b")], false);
}

#[test]
fn a_late_heartbeat_brings_a_node_back() {
    check(true, &[(0, "a"), (41, "a"), (60, "b")], false);
}

#[test]
fn a_nodes_own_clock_does_not_matter() {
    check(false, &[(0, "1970-01-01T00:00:10Z"), (30, "1970-01-01T00:00:20Z"), (60, "1969-12-31T00:00:00Z")], false);
}

#[test]
fn a_hub_that_has_just_started_takes_no_node_for_heard() {
    check(true, &[(0, "a")], true);
    check(true, &[(0, "a"), (10, "a")], true);
    check(true, &[(0, "a"), (10, "b")], false);
}

#[test]
fn a_mark_is_one_taint_and_leaves_others_alone() {
    let node = json!({"spec": {"taints": [{"key": "mine", "effect": "NoExecute"}]}});
    let now = Timestamp::UNIX_EPOCH;
    let marked = mark(&mark(&node, true, now), true, now);
    let expected = json!([
        {"key": "mine", "effect": "NoExecute"},
        {"key": TAINT, "effect": "NoSchedule", "timeAdded": "1970-01-01T00:00:00Z"},
    ]);
    assert_eq!(marked["spec"]["taints"], expected);
    assert_eq!(mark(&marked, false, now), node);
}

#[test]
fn every_condition_of_a_silent_node_is_unknown() {
    let node = json!({"status": {"conditions": [{"type": "DiskPressure", "status": "False"}]}});
    let marked = mark_status(node, Timestamp::UNIX_EPOCH);
    let conditions = marked["status"]["conditions"].as_array().unwrap();
    assert_eq!(conditions.len(), 2);
    assert!(conditions.iter().all(|one| one["status"] == "Unknown" && one["reason"] == REASON));
    assert!(is_status_unknown(&marked));
}
