use serde_json::{Value, json};

use super::*;
use crate::cluster::PlacedState;
use crate::decide::{Decider, Verdict};
use crate::testing::{cluster, pod, shared};

/// A placed pod: name, node, priority, CPU, and when it started.
type Held<'t> = (&'t str, &'t str, i32, &'t str, i128);

fn with(name: &str, priority: i32, cpu: &str) -> Pod {
    let container = json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
    let metadata = json!({"labels": {"app": name.trim_end_matches(char::is_numeric)}});
    pod(name, json!({"metadata": metadata, "spec": {"priority": priority, "containers": [container]}}))
}

fn held(nodes: &[&str], pods: &[Held<'_>]) -> Cluster {
    let nodes: Vec<(&str, Value)> = nodes.iter().map(|name| (*name, json!({}))).collect();
    let mut cluster = cluster(&nodes);
    for (name, node, priority, cpu, started) in pods {
        let state = PlacedState { started: *started, ..PlacedState::default() };
        cluster.place(with(name, *priority, cpu), node, state);
    }
    cluster
}

fn attempt(cluster: &mut Cluster, pod: &Pod, nominated: Option<&str>) -> Preemption {
    let nominations = Nominations::default();
    let mut decider = Decider::new(fastrand::Rng::with_seed(1));
    let Verdict::Reject(diagnosis) = decider.decide(cluster, &nominations, pod, nominated) else {
        panic!("no node suits")
    };
    preempt(cluster, &nominations, pod, nominated, &diagnosis, |_| 0)
}

fn check(cluster: &mut Cluster, pod: &Pod, node: &str, victims: &[&str]) {
    let Preemption::Victims(found) = attempt(cluster, pod, None) else { panic!("somebody leaves for {}", pod.name) };
    let names: Vec<&str> = found.pods.iter().map(|id| &*cluster.placed(*id).unwrap().pod.name).collect();
    assert_eq!((&*cluster.node(found.node).name, &names[..]), (node, victims));
}

#[test]
fn only_as_many_leave_as_must_and_the_least_important() {
    let pods = [("a1", "n", 5, "1", 1), ("b1", "n", 1, "1", 2), ("c1", "n", 1, "1", 1), ("d1", "n", 9, "1", 0)];
    check(&mut held(&["n"], &pods), &with("p", 9, "1"), "n", &["b1"]);
    check(&mut held(&["n"], &pods), &with("p", 9, "2"), "n", &["c1", "b1"]);
    check(&mut held(&["n"], &pods), &with("p", 9, "3"), "n", &["a1", "c1", "b1"]);
    assert_eq!(
        attempt(&mut held(&["n"], &pods), &with("p", 9, "4"), None),
        Preemption::Clear("0/1 nodes are available: 1 Insufficient cpu.".to_owned())
    );
    assert_eq!(
        attempt(&mut held(&["n"], &pods), &with("p", 1, "1"), None),
        Preemption::Clear("0/1 nodes are available: 1 No preemption victims found for incoming pod.".to_owned())
    );
}

#[test]
fn of_nodes_the_one_with_the_least_harm_is_taken() {
    let p = with("p", 100, "4");
    let two = ["x", "y"];
    // The most important victim is less important.
    check(&mut held(&two, &[("a1", "x", 5, "4", 0), ("b1", "y", 4, "4", 0)]), &p, "y", &["b1"]);
    // The sum of priorities is smaller.
    let sums = [("a1", "x", 5, "2", 0), ("a2", "x", 4, "2", 0), ("b1", "y", 5, "2", 0), ("b2", "y", 3, "2", 0)];
    check(&mut held(&two, &sums), &p, "y", &["b1", "b2"]);
    // Fewer of them, also of priorities below zero.
    let fewer = [("a1", "x", -5, "2", 0), ("a2", "x", -5, "2", 0), ("b1", "y", -5, "4", 0)];
    check(&mut held(&two, &fewer), &p, "y", &["b1"]);
    // The most important ones have run for a shorter time.
    let started = [("a1", "x", 5, "4", 10), ("b1", "y", 5, "4", 20)];
    check(&mut held(&two, &started), &p, "y", &["b1"]);
    // The first one otherwise.
    check(&mut held(&two, &[("a1", "x", 5, "4", 0), ("b1", "y", 5, "4", 0)]), &p, "x", &["a1"]);
}

fn budget(cluster: &mut Cluster, app: &str, allowed: i64, disrupted: &[&str]) {
    let selector = format!("app={app}").parse().unwrap();
    let disrupted = disrupted.iter().map(|name| (*name).into()).collect();
    cluster.budgets.insert(("default".into(), app.into()), Budget { selector, allowed, disrupted });
}

#[test]
fn budgets_are_kept_where_that_is_possible() {
    let pods = [("a1", "x", 1, "4", 0), ("b1", "y", 5, "4", 0)];
    let p = with("p", 9, "4");
    let mut cluster = held(&["x", "y"], &pods);
    check(&mut cluster, &p, "x", &["a1"]);
    budget(&mut cluster, "a", 0, &[]);
    check(&mut cluster, &p, "y", &["b1"]);
    budget(&mut cluster, "a", 1, &[]);
    check(&mut cluster, &p, "x", &["a1"]);
    // Its end is taken into account already.
    budget(&mut cluster, "a", 0, &["a1"]);
    check(&mut cluster, &p, "x", &["a1"]);
    // On one node, those whose budget is broken stay rather than others.
    let mut cluster = held(&["n"], &[("a1", "n", 1, "2", 0), ("b1", "n", 5, "2", 0)]);
    budget(&mut cluster, "a", 0, &[]);
    check(&mut cluster, &with("p", 9, "2"), "n", &["b1"]);
    // A budget is broken when nothing else helps.
    check(&mut cluster, &with("p", 9, "4"), "n", &["b1", "a1"]);
}

#[test]
fn a_pod_waits_for_those_that_leave_for_it() {
    let mut cluster = held(&["x", "y"], &[("b1", "y", 5, "4", 0)]);
    let leaving = PlacedState { is_terminating: true, is_preempted: true, ..PlacedState::default() };
    cluster.place(with("a1", 1, "4"), "x", leaving);
    let p = with("p", 9, "4");
    assert_eq!(attempt(&mut cluster, &p, Some("x")), Preemption::Keep(WAITS_FOR_VICTIMS));
    // Nobody leaves y.
    check(&mut cluster, &p, "x", &["a1"]);
    assert!(matches!(attempt(&mut cluster, &p, Some("y")), Preemption::Victims(_)));
}

#[test]
fn only_those_leave_whom_a_pod_does_not_bear() {
    let term = json!({"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "a"}}});
    let anti = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
    let p = pod("p", json!({"spec": {"priority": 9, "affinity": anti}}));
    let mut cluster = cluster(&[("n", json!({"labels": {"zone": "z"}}))]);
    cluster.place(with("a1", 1, "1"), "n", PlacedState::default());
    cluster.place(with("b1", 1, "1"), "n", PlacedState::default());
    check(&mut cluster, &p, "n", &["a1"]);
}

#[test]
fn pods_of_lower_priority_that_were_promised_the_node_look_for_another() {
    let mut nominations = Nominations::default();
    nominations.set(&shared(with("low", 1, "1")), Some("n"));
    nominations.set(&shared(with("high", 20, "1")), Some("n"));
    nominations.set(&shared(with("there", 1, "1")), Some("m"));
    assert_eq!(displaced(&nominations, &with("p", 9, "1"), "n").into_iter().collect::<Vec<_>>(), ["low"]);
}
