use serde_json::{Value, json};

use super::*;
use crate::testing::{cluster, labeled, place, pod, requests, shared};

#[test]
fn fewer_nodes_are_looked_for_the_more_there_are() {
    for (all, enough) in [(0, 0), (99, 99), (100, 100), (200, 100), (250, 120), (1000, 420), (5000, 500), (6000, 300)] {
        assert_eq!(nodes_to_find(all), enough, "{all}");
    }
}

#[test]
fn decisions_begin_where_the_last_one_ended() {
    let names: Vec<String> = (0..300).map(|number| format!("n{number:03}")).collect();
    let nodes: Vec<(&str, serde_json::Value)> = names.iter().map(|name| (&**name, json!({}))).collect();
    let (mut cluster, mut decider) = (cluster(&nodes), Decider::new(fastrand::Rng::with_seed(7)));
    let enough = u32::try_from(nodes_to_find(300)).unwrap();
    for turn in 0..3 {
        let verdict = decider.decide(&mut cluster, &Nominations::default(), &pod("p", json!({})), None);
        let Verdict::Place(id) = verdict else { panic!("every node suits") };
        let first = turn * enough % 300;
        assert!((0..enough).any(|offset| (first + offset) % 300 == id), "{turn}: {id}");
    }
}

/// Whoever names a node by hand is asked by no filter.
#[test]
fn pods_that_request_more_than_there_is_leave_no_trace_when_they_are_deleted() {
    let mut cluster = cluster(&[("a", json!({"allocatable": {"cpu": "1", "memory": "1Gi"}}))]);
    let huge = |name: &str| {
        let amount = i64::MAX.to_string();
        requests(name, json!({"cpu": amount, "memory": amount, "ephemeral-storage": amount, "x.io/meter": amount}))
    };
    let before = cluster.node(cluster.node_id("a").unwrap()).load.clone();
    let names = ["x", "y", "z"];
    names.iter().for_each(|name| place(&mut cluster, huge(name), "a"));
    assert!(crate::testing::decide(&mut cluster, &requests("p", json!({"cpu": "1"}))).is_err());
    for name in names {
        cluster.remove_pod("default", name);
        let _ = crate::testing::decide(&mut cluster, &requests("p", json!({"cpu": "1"})));
    }
    assert_eq!(cluster.node(cluster.node_id("a").unwrap()).load, before);
    assert_eq!(crate::testing::decide(&mut cluster, &requests("p", json!({"cpu": "1"}))), Ok("a".to_owned()));
}

#[test]
fn chance_decides_between_equals_and_nothing_else_does() {
    let nodes = [("a", json!({})), ("b", json!({})), ("c", json!({"allocatable": {"cpu": "1"}}))];
    let mut cluster = cluster(&nodes);
    let mut decider = Decider::new(fastrand::Rng::with_seed(3));
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..50 {
        let verdict = decider.decide(&mut cluster, &Nominations::default(), &requests("p", json!({"cpu": "1"})), None);
        let Verdict::Place(id) = verdict else { panic!("some node suits") };
        seen.insert(cluster.node(id).name.to_string());
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn zones_take_turns() {
    let zone = |name: &str| json!({"labels": {"topology.kubernetes.io/zone": name}});
    let mut cluster = cluster(&[("a1", zone("a")), ("a2", zone("a")), ("b1", zone("b"))]);
    let order: Vec<NodeId> = cluster.order().to_vec();
    let names: Vec<&str> = order.iter().map(|id| &*cluster.node(*id).name).collect();
    assert_eq!(names, ["a1", "b1", "a2"]);
}

#[test]
fn a_pod_that_is_promised_a_node_gets_it_and_others_leave_it_to_it() {
    let mut cluster = cluster(&[("a", json!({})), ("b", json!({}))]);
    place(&mut cluster, requests("held", json!({"cpu": "3"})), "a");
    let with = |name: &str, priority: i32, cpu: &str| {
        let container = json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        pod(name, json!({"spec": {"priority": priority, "containers": [container]}}))
    };
    let mut decider = Decider::new(fastrand::Rng::with_seed(1));
    let mut nominations = Nominations::default();
    let promised = shared(with("promised", 10, "1"));
    nominations.set(&promised, Some("a"));
    let a = cluster.node_id("a").unwrap();
    assert_eq!(decider.decide(&mut cluster, &nominations, &promised, Some("a")), Verdict::Place(a));
    for (priority, node) in [(9, "b"), (10, "b")] {
        let verdict = decider.decide(&mut cluster, &nominations, &with("other", priority, "1"), None);
        assert_eq!(verdict, Verdict::Place(cluster.node_id(node).unwrap()));
    }
    // One of higher priority need not care.
    cluster.remove_node("b");
    let verdict = |decider: &mut Decider, cluster: &mut Cluster, priority| {
        decider.decide(cluster, &nominations, &with("other", priority, "1"), None)
    };
    assert_eq!(verdict(&mut decider, &mut cluster, 11), Verdict::Place(a));
    assert!(matches!(verdict(&mut decider, &mut cluster, 10), Verdict::Reject(_)));
}

#[test]
fn the_second_of_two_equal_pods_that_fail_costs_nothing() {
    let mut cluster = cluster(&[("a", json!({}))]);
    let mut decider = Decider::new(fastrand::Rng::with_seed(1));
    let large = |cluster: &mut Cluster, name: &str| cluster.share(requests(name, json!({"cpu": "9"})));
    let (one, two) = (large(&mut cluster, "one"), large(&mut cluster, "two"));
    let mut reject =
        |cluster: &mut Cluster, pod: &Pod| match decider.decide(cluster, &Nominations::default(), pod, None) {
            Verdict::Reject(diagnosis) => diagnosis,
            other => panic!("{other:?}"),
        };
    let first = reject(&mut cluster, &one);
    assert!(Arc::ptr_eq(&first, &reject(&mut cluster, &two)));
    place(&mut cluster, labeled("other", json!({}), json!({})), "a");
    assert!(!Arc::ptr_eq(&first, &reject(&mut cluster, &two)), "the cluster has changed");
}

#[test]
fn a_pod_counts_on_a_node_as_the_variant_that_it_is_there() {
    let variants = json!([
        {"nodeSelector": {"kind": "small"}, "containers": [{"name": "main", "image": "app:small", "resources": {"requests": {"cpu": "1"}}}]},
        {"nodeSelector": {"gpu": "yes"}, "containers": [{"name": "main", "resources": {"limits": {"example.org/gpu": 1}}}]},
    ]);
    let pod = |name: &str, node: Option<&str>| {
        let container = json!({"name": "main", "image": "app:large", "resources": {"requests": {"cpu": "3"}}});
        let mut spec = json!({"containers": [container]});
        if let Some(node) = node {
            spec["nodeName"] = node.into();
        }
        let annotations = json!({"selvedge.dev/variants": variants.to_string()});
        crate::testing::pod(name, json!({"metadata": {"annotations": annotations}, "spec": spec}))
    };
    let decided = |nodes: &[(&str, Value)]| crate::testing::decide(&mut cluster(nodes), &pod("p", None));
    let small = json!({"labels": {"kind": "small"}, "allocatable": {"cpu": "1"}});
    let large = json!({"labels": {"kind": "large"}, "allocatable": {"cpu": "2"}});
    assert_eq!(decided(&[("small", small.clone()), ("large", large.clone())]).as_deref(), Ok("small"));
    let why = decided(&[("large", large), ("gpu", json!({"labels": {"gpu": "yes"}}))]).unwrap_err();
    assert!(why.contains("1 Insufficient cpu") && why.contains("1 Insufficient example.org/gpu"), "{why}");
    // Placed, it occupies what the variant needs, also before the API shows it so.
    let mut cluster = cluster(&[("small", small)]);
    let labels = cluster.node(cluster.node_id("small").unwrap()).labels.clone();
    let waiting = pod("p", None);
    let placed = waiting.demand.placed_on(&labels);
    assert_eq!((placed.requests.cpu, &*placed.images[0]), (1000, "app:small"));
    assert!(placed.variants.is_empty() && placed.requests.scalars.is_empty());
    place(&mut cluster, Pod { demand: placed, ..waiting }, "small");
    assert_eq!(cluster.node(cluster.node_id("small").unwrap()).load.requested.cpu, 1000);
    // What has a node is what its spec says.
    assert_eq!(pod("q", Some("small")).demand.requests.cpu, 3000);
    assert!(pod("q", Some("small")).demand.variants.is_empty());
}
