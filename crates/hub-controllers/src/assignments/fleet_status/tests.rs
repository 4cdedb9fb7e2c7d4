//! Tests of `fleet_status`: its decisions, as data.

use super::*;
use crate::assignments::fleet::Problem;

/// A node and what it reports.
type OnNode = (&'static str, Report);

/// What a node reports: `accepted applied ready`, each `+`, `-` or `.` for nothing.
fn on_node(node: &'static str, generation: i64, reported: &str, is_current: bool) -> OnNode {
    let conditions = [ACCEPTED, APPLIED, READY]
        .into_iter()
        .zip(reported.chars())
        .filter(|(_, sign)| *sign != '.')
        .map(|(r#type, sign)| match sign {
            '+' => Condition::new(r#type, true, "Fine", ""),
            _ => Condition::new(r#type, false, "Wrong", "why"),
        })
        .collect();
    (node, Report::of(&EntryStatus { generation, conditions, ..EntryStatus::default() }, is_current))
}

/// Checks `applied/ready of desired` and the signs and reasons of the conditions.
fn check(old: &FleetStatus, problem: Option<&Problem>, nodes: &[OnNode], expected: &str) -> FleetStatus {
    check_unreachable(old, problem, nodes, &[], expected)
}

/// The same, with nodes that are out of reach.
fn check_unreachable(
    old: &FleetStatus,
    problem: Option<&Problem>,
    nodes: &[OnNode],
    unreachable: &[&str],
    expected: &str,
) -> FleetStatus {
    let nodes = nodes.iter().map(|(node, report)| (*node, Some(report))).collect();
    let unreachable = unreachable.iter().copied().collect();
    let status = sum_up(old, &Standing { generation: 2, problem, nodes, unreachable }, Timestamp::UNIX_EPOCH);
    let conditions: Vec<String> = status
        .conditions
        .iter()
        .map(|one| {
            let sign = match one.status {
                ConditionStatus::True => '+',
                ConditionStatus::False => '-',
                ConditionStatus::Unknown => '?',
            };
            format!("{sign}{}", one.reason)
        })
        .collect();
    let shown = format!("{}/{} of {} {}", status.applied, status.ready, status.desired, conditions.join(" "));
    assert_eq!(shown, expected);
    status
}

#[test]
fn an_object_is_applied_when_every_node_says_so() {
    let old = FleetStatus::default();
    check(&old, None, &[on_node("a", 2, "+++", true)], "1/1 of 1 +Accepted +Applied +Running");
    let waiting = [on_node("a", 2, "+++", true), on_node("b", 1, "+++", true)];
    check(&old, None, &waiting, "1/1 of 2 +Accepted -Waiting -Waiting");
}

#[test]
fn one_rejection_is_reported_with_its_node() {
    let nodes = [on_node("a", 2, "+++", true), on_node("b", 2, "-..", true)];
    let status = check(&FleetStatus::default(), None, &nodes, "1/1 of 2 -Wrong -Wrong -Wrong");
    assert_eq!(status.failures, [NodeFailure { node: "b".into(), reason: "Wrong".into(), message: "why".into() }]);
    assert_eq!(status.conditions[0].message, "why (node b)");
}

#[test]
fn a_device_that_does_not_answer_is_applied_and_not_ready() {
    check(&FleetStatus::default(), None, &[on_node("a", 2, "++-", true)], "1/0 of 1 +Accepted +Applied -Wrong");
}

#[test]
fn the_first_ten_failures_are_listed() {
    let nodes = vec![on_node("n", 2, "++-", true); 20];
    let status = check(&FleetStatus::default(), None, &nodes, "20/0 of 20 +Accepted +Applied -Wrong");
    assert_eq!(status.failures.len(), FAILURES_MAX);
}

#[test]
fn what_was_reported_of_an_older_assignment_counts_only_for_what_was_applied() {
    let nodes = [on_node("a", 2, "+++", false)];
    check(&FleetStatus::default(), None, &nodes, "0/0 of 1 +Accepted -Waiting -Waiting");
    let applied =
        check(&FleetStatus::default(), None, &[on_node("a", 2, "+++", true)], "1/1 of 1 +Accepted +Applied +Running");
    check(&applied, None, &nodes, "1/1 of 1 +Accepted +Applied +Running");
}

#[test]
fn a_problem_is_in_every_condition() {
    let problem = Problem { reason: "ProfileNotFound", message: "there is no DeviceProfile x".to_owned() };
    check(&FleetStatus::default(), Some(&problem), &[], "0/0 of 0 -ProfileNotFound -ProfileNotFound -ProfileNotFound");
}

#[test]
fn what_works_and_is_degraded_is_reported_with_its_node() {
    let mut ready = Condition::new(READY, true, "RowErrors", "division by zero");
    ready.observed_generation = Some(2);
    let conditions = vec![Condition::new(APPLIED, true, "Fine", ""), ready];
    let degraded = Report::of(&EntryStatus { generation: 2, conditions, ..EntryStatus::default() }, true);
    let nodes = [on_node("a", 2, "+++", true), ("b", degraded)];
    let status = check(&FleetStatus::default(), None, &nodes, "2/2 of 2 +Accepted +Applied +RowErrors");
    assert_eq!(status.conditions[2].message, "division by zero (node b)");
}

#[test]
fn nobody_knows_how_an_object_fares_on_a_node_that_is_out_of_reach() {
    let old = FleetStatus::default();
    let one = [on_node("a", 2, "+++", true)];
    let status = check_unreachable(&old, None, &one, &["a"], "1/0 of 1 +Accepted +Applied ?NodeUnreachable");
    assert_eq!(status.conditions[2].message, "node a is out of reach: its lease has expired");
    assert_eq!((&*status.failures[0].node, &*status.failures[0].reason), ("a", "NodeUnreachable"));
    let status = check(&status, None, &one, "1/1 of 1 +Accepted +Applied +Running");
    assert_eq!(status.failures, [], "it is back");
    // What it said of a device before is as little known to hold; what others say holds.
    let fails = |node| on_node(node, 2, "++-", true);
    check_unreachable(&old, None, &[fails("a")], &["a"], "1/0 of 1 +Accepted +Applied ?NodeUnreachable");
    check_unreachable(&old, None, &[fails("a"), fails("b")], &["a"], "2/0 of 2 +Accepted +Applied -Wrong");
    let status = check_unreachable(
        &old,
        None,
        &[on_node("a", 2, "+++", true), on_node("b", 2, "+++", true), on_node("c", 2, "+++", true)],
        &["a", "b"],
        "3/1 of 3 +Accepted +Applied ?NodeUnreachable",
    );
    assert_eq!(status.conditions[2].message, "2 of 3 nodes are out of reach, a among them");
    // A rejection is about the object.
    let rejected = [on_node("a", 2, "-..", true)];
    check_unreachable(&old, None, &rejected, &["a"], "0/0 of 1 -Wrong -Wrong -Wrong");
}

#[test]
fn of_what_a_node_says_an_object_keeps_little() {
    let condition =
        |r#type: &str, holds: bool| Condition::new(r#type, holds, &"R".repeat(4096), "\u{e9}".repeat(300 << 10));
    let report = |conditions: Vec<Condition>| {
        Report::of(&EntryStatus { generation: 2, conditions, ..EntryStatus::default() }, true)
    };
    for nodes in [
        vec![("a", report(vec![condition(ACCEPTED, false)])); 20],
        vec![("a", report(vec![condition(APPLIED, true), condition(READY, true)]))],
    ] {
        let nodes = nodes.iter().map(|(node, report)| (*node, Some(report))).collect();
        let standing = Standing { generation: 2, problem: None, nodes, unreachable: Default::default() };
        let status = sum_up(&FleetStatus::default(), &standing, Timestamp::UNIX_EPOCH);
        let bytes = serde_json::to_vec(&status).expect("it is JSON").len();
        assert!((1024..20 << 10).contains(&bytes), "{bytes}");
    }
}
