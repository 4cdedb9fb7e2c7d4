//! Tests of `plan`: its decisions, as data.

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A pod that runs and is Ready on a node.
fn pod(name: &str) -> Pod {
    Pod {
        name: name.into(),
        uid: name.into(),
        node: "gw-1".into(),
        created: at(100),
        phase: Phase::Running,
        ready_since: Some(at(110)),
        labels: Arc::new([("app".into(), "a".into())]),
        ..Pod::default()
    }
}

fn run(replicas: i64, pods: &[Pod], min_ready: i64) -> Plan {
    run_in(&Order::default(), replicas, pods, min_ready)
}

fn run_in(order: &Order, replicas: i64, pods: &[Pod], min_ready: i64) -> Plan {
    let pods: Vec<Arc<Pod>> = pods.iter().cloned().map(Arc::new).collect();
    let mut on_node = HashMap::new();
    for pod in &pods {
        *on_node.entry(pod.node.clone()).or_insert(0) += 1;
    }
    let template: LabelSelector<'_> = serde_json::from_str(r#"{"matchLabels": {"app": "a"}}"#).unwrap();
    plan(replicas, &template, &pods, || on_node, || order.clone(), Clock::new(at(1000), min_ready))
}

#[test]
fn what_is_missing_is_created_up_to_a_burst() {
    let ended = Pod { phase: Phase::Failed, ..pod("b") };
    let terminating = Pod { is_terminating: true, ..pod("c") };
    let plan = run(3, &[pod("a"), ended, terminating], 0);
    assert_eq!((plan.create, plan.delete.len()), (2, 0), "what has ended or is on its way out is no replica");
    let counts = Counts { replicas: 1, fully_labeled: 1, ready: 1, available: 1, terminating: 1 };
    assert_eq!(plan.counts, counts);
    assert_eq!(run(i64::MAX, &[], 0).create, BURST);
    assert_eq!(run(-1, &[pod("a")], 0).delete.len(), 1, "a number below zero is zero");
}

#[test]
fn a_pod_is_available_once_it_was_ready_for_long_enough() {
    let ready_at = |second| Pod { ready_since: Some(at(second)), ..pod("a") };
    for (since, available, after) in [(990, 0, Some(50)), (940, 1, None), (2000, 0, Some(60))] {
        let plan = run(1, &[ready_at(since)], 60);
        assert_eq!(plan.counts.available, available, "ready since {since}");
        assert_eq!(plan.available_after, after.map(Duration::from_secs), "ready since {since}");
    }
}

#[test]
fn a_pod_with_other_labels_than_the_template_is_not_fully_labeled() {
    let other = Pod { labels: Arc::new([("app".into(), "b".into())]), ..pod("b") };
    assert_eq!(run(2, &[pod("a"), other], 0).counts.fully_labeled, 1);
}

/// The first of a pair is deleted before the second, whatever their order and names.
#[test]
fn what_is_missed_least_is_deleted_first() {
    let pairs: &[(&str, Pod, Pod)] = &[
        ("not placed", Pod { node: "".into(), ..pod("b") }, Pod { phase: Phase::Pending, ..pod("a") }),
        ("pending", Pod { phase: Phase::Pending, ..pod("b") }, Pod { phase: Phase::Unknown, ..pod("a") }),
        ("unknown", Pod { phase: Phase::Unknown, ..pod("b") }, Pod { ready_since: None, ..pod("a") }),
        ("not ready", Pod { ready_since: None, ..pod("b") }, Pod { deletion_cost: -5, ..pod("a") }),
        ("cheap", Pod { deletion_cost: -5, ..pod("b") }, pod("a")),
        ("ready for less", Pod { ready_since: Some(at(999)), ..pod("b") }, pod("a")),
        ("restarted more", Pod { restarts: 3, ..pod("b") }, Pod { restarts: 1, ..pod("a") }),
        ("younger", Pod { created: at(998), ..pod("b") }, pod("a")),
        ("the same but for the uid", pod("a"), pod("b")),
    ];
    for (what, first, second) in pairs {
        for pods in [[first.clone(), second.clone()], [second.clone(), first.clone()]] {
            let plan = run(1, &pods, 0);
            assert_eq!(plan.delete.iter().map(|pod| &**pod).collect::<Vec<_>>(), [first], "{what}");
        }
    }
}

/// Pods that differ in some of what counts and are alike in the rest, as those of a set that is large and young.
#[test]
fn of_many_pods_the_same_are_deleted_in_whatever_order_they_come() {
    let many: Vec<Pod> = (0..500_i64)
        .map(|number| Pod {
            name: format!("pod-{number}").into(),
            uid: format!("{:04x}", (number * 7919) % 65_536).into(),
            ready_since: Some(at(980 + number % 5)),
            restarts: number * 31 % 3,
            created: at(960 + number * 17 % 23),
            ..pod("")
        })
        .collect();
    let names = |pods: &[Pod]| {
        let deleted = run(250, pods, 0).delete;
        deleted.iter().map(|pod| pod.name.to_string()).collect::<std::collections::BTreeSet<_>>()
    };
    let (forwards, mut backwards) = (names(&many), many);
    backwards.reverse();
    assert_eq!(forwards.len(), 250);
    assert_eq!(names(&backwards), forwards);
}

#[test]
fn the_node_with_most_pods_loses_one() {
    let on = |name: &str, node: &str| Pod { node: node.into(), ..pod(name) };
    let plan = run(2, &[on("a", "gw-1"), on("b", "gw-2"), on("c", "gw-2")], 0);
    assert_eq!(&*plan.delete[0].name, "b");
}

#[test]
fn counts_alone_give_the_same_plan_while_no_pod_is_surplus() {
    let other: SharedLabels = Arc::new([("app".into(), "b".into())]);
    let kinds = [
        pod("a"),
        Pod { ready_since: None, phase: Phase::Pending, ..pod("a") },
        Pod { is_terminating: true, ..pod("a") },
        Pod { is_terminating: true, phase: Phase::Succeeded, ..pod("a") },
        Pod { phase: Phase::Failed, ..pod("a") },
        Pod { labels: other.clone(), ..pod("a") },
        Pod { labels: other, is_terminating: true, ..pod("a") },
    ];
    let template: LabelSelector<'_> = serde_json::from_str(r#"{"matchLabels": {"app": "a"}}"#).unwrap();
    // Every set of them, each at most once.
    for chosen in 0_u32..1 << kinds.len() {
        let pods: Vec<Pod> =
            kinds.iter().enumerate().filter(|(bit, _)| chosen >> bit & 1 == 1).map(|(_, pod)| pod.clone()).collect();
        let mut groups = std::collections::BTreeMap::<SharedLabels, Group>::new();
        for pod in &pods {
            let group = groups.entry(pod.labels.clone()).or_default();
            group.pods += 1;
            group.active += usize::from(pod.is_active());
            group.ready += usize::from(pod.is_active() && pod.ready_since.is_some());
            group.terminating += usize::from(pod.is_terminating && !pod.has_ended());
        }
        for replicas in [-1, 0, 1, 3, 1000] {
            let (plan, counted) = (run(replicas, &pods, 0), by_counts(replicas, &template, groups.iter()));
            match plan.delete.is_empty() {
                true => assert_eq!(counted, Some(plan), "{replicas} of {pods:?}"),
                false => assert_eq!(counted, None, "{replicas} of {pods:?}"),
            }
        }
    }
}

#[test]
fn a_rollout_says_which_pods_are_deleted_first_and_last() {
    let on = |name: &str, node: &str| Pod { node: node.into(), ..pod(name) };
    let away = Pod { ready_since: None, ..on("away", "gw-3") };
    let pods = [on("pilot", "gw-1"), on("other", "gw-2"), away];
    let order = Order { first: ["gw-1".into()].into(), last: ["away".into()].into() };
    let deleted = |order: &Order, replicas: i64| {
        let plan = run_in(order, replicas, &pods, 0);
        plan.delete.iter().map(|pod| pod.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(deleted(&order, 2), ["pilot"]);
    assert_eq!(deleted(&order, 1), ["pilot", "other"]);
    assert_eq!(deleted(&Order::default(), 2), ["away"], "without a rollout what does not work is deleted first");
}
