//! Decisions over random clusters, compared with a naive implementation: which nodes suit, their scores, the set of best
//! nodes, why none suits, and who is preempted. `SEED=42 cargo test -p hub-scheduler --test naive` repeats a run.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use hub_scheduler::cluster::{Budget, Cluster, PlacedState};
use hub_scheduler::decide::{Decider, Nominations, Verdict, filter_with_nominated};
use hub_scheduler::filters::Check;
use hub_scheduler::pod::Pod;
use hub_scheduler::preempt::{Preemption, preempt};
use hub_scheduler::terms::Labels;
use hub_scheduler::{message, node, pod, scores};
use serde_json::{Value, json};

use definitions::{Naive, harm, name};

#[allow(clippy::unwrap_used, clippy::cast_possible_wrap, clippy::cast_precision_loss, clippy::cast_possible_truncation)]
mod definitions;

const ROUNDS: usize = 400;
/// Decisions per cluster; each changes it.
const DECISIONS: usize = 6;

fn pick<'t>(random: &mut Rng, of: &[&'t str]) -> &'t str {
    of[random.usize(..of.len())]
}

fn chance(random: &mut Rng, percent: u32) -> bool {
    random.u32(..100) < percent
}

fn some<T>(random: &mut Rng, percent: u32, max: usize, mut make: impl FnMut(&mut Rng) -> T) -> Vec<T> {
    let count = if chance(random, percent) { random.usize(1..=max) } else { 0 };
    (0..count).map(|_| make(random)).collect()
}

const KEYS: [&str; 3] = ["topology.kubernetes.io/zone", "kubernetes.io/hostname", "rack"];
const APPS: [&str; 3] = ["a", "b", "c"];

fn random_node(random: &mut Rng, number: usize) -> Value {
    let mut labels = json!({"disk": pick(random, &["ssd", "hdd"]), "cores": random.u32(..4).to_string()});
    if chance(random, 85) {
        labels["topology.kubernetes.io/zone"] = pick(random, &["x", "y", "z"]).into();
    }
    if chance(random, 90) {
        labels["kubernetes.io/hostname"] = format!("n{number}").into();
    }
    if chance(random, 50) {
        labels["rack"] = pick(random, &["1", "2"]).into();
    }
    let taints = some(random, 35, 2, |random| {
        json!({
            "key": pick(random, &["k", "l"]), "value": pick(random, &["1", "2"]),
            "effect": pick(random, &["NoSchedule", "PreferNoSchedule", "PreferNoSchedule", "NoExecute"]),
        })
    });
    let images = some(random, 60, 2, |random| pick(random, &["one:1", "two:1"]));
    let images: BTreeSet<&str> = images.into_iter().collect();
    let size = |image: &str| if image == "one:1" { 700_i64 << 20 } else { 90 << 20 };
    let images: Vec<Value> = images.iter().map(|image| json!({"names": [image], "sizeBytes": size(image)})).collect();
    let mut allocatable = json!({
        "cpu": random.u32(1..8).to_string(), "memory": (u64::from(random.u32(1..10)) << 30).to_string(),
        "pods": random.u32(2..12).to_string(),
    });
    if chance(random, 50) {
        allocatable["example.org/gpu"] = random.u32(..4).to_string().into();
    }
    json!({
        "metadata": {"name": format!("n{number}"), "labels": labels},
        "spec": {"taints": taints, "unschedulable": chance(random, 5)},
        "status": {"allocatable": allocatable, "images": images},
    })
}

fn random_selector(random: &mut Rng) -> Value {
    match random.u32(..5) {
        0 => Value::Null,
        1 => json!({}),
        2 => json!({"matchExpressions": [{
            "key": "app", "operator": pick(random, &["In", "NotIn"]), "values": [pick(random, &APPS), pick(random, &APPS)],
        }]}),
        _ => json!({"matchLabels": {"app": pick(random, &APPS)}}),
    }
}

fn random_term(random: &mut Rng) -> Value {
    let mut term = json!({"topologyKey": pick(random, &KEYS), "labelSelector": random_selector(random)});
    if chance(random, 20) {
        term["namespaces"] = json!([pick(random, &["default", "other"])]);
    }
    if chance(random, 15) {
        term["namespaceSelector"] =
            if chance(random, 50) { json!({}) } else { json!({"matchLabels": {"team": pick(random, &["t", "u"])}}) };
    }
    term
}

fn random_node_term(random: &mut Rng) -> Value {
    match random.u32(..4) {
        0 => json!({"matchExpressions": [{"key": "cores", "operator": pick(random, &["Gt", "Lt"]), "values": ["1"]}]}),
        1 => json!({"matchFields": [
            {"key": "metadata.name", "operator": pick(random, &["In", "NotIn"]), "values": [format!("n{}", random.u32(..6))]},
        ]}),
        2 => {
            json!({"matchExpressions": [{"key": pick(random, &["rack", "disk"]), "operator": pick(random, &["Exists", "DoesNotExist"])}]})
        }
        _ => {
            json!({"matchExpressions": [{"key": "disk", "operator": pick(random, &["In", "NotIn"]), "values": ["ssd"]}]})
        }
    }
}

fn random_affinity(random: &mut Rng, percent: u32) -> Value {
    let weighted = |random: &mut Rng| json!({"weight": random.u32(1..=100), "podAffinityTerm": random_term(random)});
    let mut affinity = json!({});
    for kind in ["podAffinity", "podAntiAffinity"] {
        affinity[kind] = json!({
            "requiredDuringSchedulingIgnoredDuringExecution": some(random, percent, 2, random_term),
            "preferredDuringSchedulingIgnoredDuringExecution": some(random, percent, 2, weighted),
        });
    }
    let preferred = |random: &mut Rng| json!({"weight": random.u32(1..=100), "preference": random_node_term(random)});
    affinity["nodeAffinity"] =
        json!({"preferredDuringSchedulingIgnoredDuringExecution": some(random, percent, 2, preferred)});
    let required = some(random, percent, 2, random_node_term);
    if !required.is_empty() {
        affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
            json!({"nodeSelectorTerms": required});
    }
    affinity
}

fn random_pod(random: &mut Rng, name: &str, percent: u32) -> Value {
    let container = |random: &mut Rng| {
        let mut requests = json!({});
        if chance(random, 70) {
            requests["cpu"] = format!("{}m", random.u32(..1500)).into();
        }
        if chance(random, 70) {
            requests["memory"] = (u64::from(random.u32(..2000)) << 20).to_string().into();
        }
        if chance(random, 10) {
            requests["example.org/gpu"] = random.u32(..3).to_string().into();
        }
        let ports = some(
            random,
            15,
            1,
            |random| json!({"containerPort": 1, "hostPort": random.u32(80..82), "hostIP": pick(random, &["", "10.0.0.1", "10.0.0.2"])}),
        );
        let policy = if chance(random, 50) { Value::Null } else { json!("Always") };
        json!({
            "name": "c", "image": pick(random, &["one:1", "two:1", "three:1"]), "resources": {"requests": requests},
            "ports": ports, "restartPolicy": policy,
        })
    };
    let (mut containers, mut init) = (vec![container(random)], some(random, 25, 2, container));
    containers.extend(some(random, 20, 1, container));
    containers.iter_mut().for_each(|one| one["restartPolicy"] = Value::Null);
    init.iter_mut().for_each(|one| one["ports"] = json!([]));
    let constraint = |random: &mut Rng| {
        let mut one = json!({
            "maxSkew": random.u32(1..4), "topologyKey": pick(random, &KEYS), "labelSelector": random_selector(random),
            "whenUnsatisfiable": pick(random, &["DoNotSchedule", "ScheduleAnyway"]),
        });
        if chance(random, 30) && one["whenUnsatisfiable"] == "DoNotSchedule" {
            one["minDomains"] = random.u32(1..4).into();
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            if chance(random, 30) {
                one[field] = pick(random, &["Honor", "Ignore"]).into();
            }
        }
        one
    };
    let toleration = |random: &mut Rng| {
        json!({
            "key": pick(random, &["k", "l", ""]), "value": "1", "effect": pick(random, &["", "NoSchedule", "PreferNoSchedule"]),
            "operator": "Exists",
        })
    };
    let mut tolerations = some(random, 50, 2, toleration);
    tolerations.iter_mut().for_each(|one| {
        if one["key"] != "" && chance(random, 50) {
            one["operator"] = "Equal".into();
        } else {
            one["value"] = Value::Null;
        }
    });
    let mut pod = json!({
        "metadata": {
            "name": name, "uid": name, "namespace": pick(random, &["default", "default", "other"]),
            "labels": {"app": pick(random, &APPS)},
        },
        "spec": {
            "containers": containers, "initContainers": init, "priority": random.i32(-1..4), "tolerations": tolerations,
            "affinity": random_affinity(random, percent), "topologySpreadConstraints": some(random, percent, 2, constraint),
        },
        "status": {"startTime": random_start(random, name)},
    });
    if chance(random, 15) {
        pod["spec"]["nodeSelector"] = json!({"disk": pick(random, &["ssd", "hdd"])});
    }
    if chance(random, 10) {
        pod["spec"]["overhead"] = json!({"cpu": "50m", "memory": "1000"});
    }
    pod
}

/// A time that no other pod of the cluster has: between pods that are alike in everything, chance may decide.
fn random_start(random: &mut Rng, name: &str) -> String {
    let number: u32 = name.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or(0);
    let own = if name.starts_with("new") { number + 30 } else { number };
    format!("2026-01-01T00:{:02}:{own:02}Z", random.u32(..60))
}

fn read(pod: &Value) -> (Pod, PlacedState) {
    let (pod, seen) = pod::parse(pod.to_string().as_bytes()).expect("a random pod reads as one");
    let state = PlacedState { is_terminating: seen.is_terminating, started: seen.started, ..PlacedState::default() };
    (pod, state)
}

fn place(naive: &mut Naive, cluster: &mut Cluster, mut pod: Value, node: &str) {
    pod["spec"]["nodeName"] = node.into();
    let (read, state) = read(&pod);
    cluster.place(read, node, state);
    naive.pods.push(pod);
}

fn random_cluster(random: &mut Rng) -> (Naive, Cluster) {
    let (mut naive, mut cluster) = (Naive::default(), Cluster::default());
    for number in 0..random.usize(1..10) {
        let node = random_node(random, number);
        cluster.set_node(name(&node), node::parse(node.to_string().as_bytes()).expect("a random node reads as one"));
        naive.nodes.push(node);
    }
    for (namespace, team) in [("default", "t"), ("other", pick(random, &["t", "u"]))] {
        cluster.set_namespace(namespace, Some(Labels::new([("team", team)])));
        naive.namespaces.insert(namespace.to_owned(), json!({"team": team}));
    }
    for number in 0..random.usize(..3) {
        let (namespace, app) = (pick(random, &["default", "other"]), pick(random, &APPS));
        cluster.set_service(namespace, &format!("s{number}"), Some(Labels::new([("app", app)])));
        naive.services.push((namespace.to_owned(), json!({"app": app})));
    }
    for number in 0..random.usize(..3) {
        let (namespace, app, allowed) = (pick(random, &["default", "other"]), pick(random, &APPS), random.i64(..3));
        let selector = format!("app={app}").parse().expect("a selector");
        let budget = Budget { selector, allowed, disrupted: Default::default() };
        cluster.budgets.insert((namespace.into(), format!("b{number}").into()), budget);
        naive.budgets.push((namespace.to_owned(), json!({"matchLabels": {"app": app}}), allowed));
    }
    for number in 0..random.usize(..20) {
        let mut pod = random_pod(random, &format!("held-{number}"), 20);
        if chance(random, 10) {
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        let node = random.usize(..naive.nodes.len());
        let node = name(&naive.nodes[node]).to_owned();
        place(&mut naive, &mut cluster, pod, &node);
    }
    (naive, cluster)
}

/// The nodes that suit by the real implementation.
fn suitable(cluster: &mut Cluster, pod: &Pod) -> Vec<u32> {
    cluster.begin();
    let Ok(check) = Check::new(cluster, pod) else { return Vec::new() };
    let all: Vec<u32> = cluster.existing().map(|(id, _)| id).collect();
    let nominations = Nominations::default();
    all.into_iter().filter(|id| filter_with_nominated(cluster, &check, &nominations, pod, *id, None).is_ok()).collect()
}

fn check_decision(naive: &Naive, cluster: &mut Cluster, pod: &Value, seed: u64) -> Option<String> {
    let (read, _) = read(pod);
    let read = cluster.share(read);
    let found = suitable(cluster, &read);
    let names = |cluster: &Cluster, ids: &[u32]| -> Vec<String> {
        ids.iter().map(|id| cluster.node(*id).name.to_string()).collect()
    };
    let expected: Vec<String> = naive.suitable(pod).iter().map(|node| name(node).to_owned()).collect();
    assert_eq!(names(cluster, &found), expected, "the nodes that suit {pod:#}");
    if found.is_empty() {
        let decider = &mut Decider::new(Rng::with_seed(seed));
        let verdict = decider.decide(cluster, &Nominations::default(), &read, None);
        let Verdict::Reject(diagnosis) = verdict else { panic!("no node suits {pod:#}") };
        if !diagnosis.names_nodes {
            assert_eq!(message::unschedulable(&read.demand, &diagnosis, ""), naive.message(pod), "{pod:#}");
            check_preemption(naive, cluster, pod, &read, &diagnosis);
        }
        return None;
    }
    let totals = scores::total(cluster, &read.demand, &found);
    let totals: BTreeMap<String, i64> = names(cluster, &found).into_iter().zip(totals).collect();
    let expected = naive.scores(pod);
    assert_eq!(totals, expected, "the scores of {pod:#}");
    let max = expected.values().max().copied();
    let best: BTreeSet<String> =
        expected.iter().filter(|(_, score)| Some(**score) == max).map(|(name, _)| name.clone()).collect();
    let mut chosen = BTreeSet::new();
    let mut decider = Decider::new(Rng::with_seed(seed));
    // Enough that no one of nine equals is left out by chance in some million runs.
    for _ in 0..if best.len() > 1 { 200 } else { 2 } {
        let Verdict::Place(id) = decider.decide(cluster, &Nominations::default(), &read, None) else {
            panic!("some node suits {pod:#}")
        };
        chosen.insert(cluster.node(id).name.to_string());
    }
    assert_eq!(chosen, best, "the best nodes of {pod:#}");
    best.into_iter().next()
}

fn check_preemption(
    naive: &Naive,
    cluster: &mut Cluster,
    pod: &Value,
    read: &Pod,
    diagnosis: &hub_scheduler::decide::Diagnosis,
) {
    let found = preempt(cluster, &Nominations::default(), read, None, diagnosis, |_| 0);
    let of_node = |node: &Value| {
        let (victims, violations) = naive.victims(pod, node)?;
        Some((harm(&victims, violations), name(node).to_owned(), victims))
    };
    let expected: Vec<_> = naive.nodes.iter().filter_map(of_node).collect();
    let least = expected.iter().map(|(harm, _, _)| harm).min();
    match found {
        Preemption::Victims(victims) => {
            let node = cluster.node(victims.node).name.to_string();
            let names = victims.pods.iter().filter_map(|id| cluster.placed(*id));
            let names: BTreeSet<String> = names.map(|placed| placed.pod.name.to_string()).collect();
            let of_node = expected.iter().find(|(_, name, _)| *name == node);
            let Some((harm, _, victims)) = of_node else { panic!("nobody need leave {node} for {pod:#}") };
            let expected: BTreeSet<String> = victims.iter().map(|victim| name(victim).to_owned()).collect();
            assert_eq!(names, expected, "who leaves {node} for {pod:#}");
            assert_eq!(Some(harm), least, "the harm of {pod:#}");
        }
        Preemption::Clear(why) => assert!(expected.is_empty(), "{why}, but for {pod:#} could leave {expected:?}"),
        Preemption::Keep(why) => panic!("{why}"),
    }
}

#[test]
fn decisions_are_those_of_the_definitions() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| Rng::new().u64(..));
    println!("SEED={seed}");
    let mut random = Rng::with_seed(seed);
    let (mut placed, mut rejected) = (0, 0);
    for _ in 0..ROUNDS {
        let (mut naive, mut cluster) = random_cluster(&mut random);
        for number in 0..DECISIONS {
            let percent = if chance(&mut random, 50) { 5 } else { 40 };
            let pod = random_pod(&mut random, &format!("new-{number}"), percent);
            match check_decision(&naive, &mut cluster, &pod, random.u64(..)) {
                Some(node) => {
                    placed += 1;
                    place(&mut naive, &mut cluster, pod, &node);
                }
                None => rejected += 1,
            }
            if chance(&mut random, 30) && !naive.pods.is_empty() {
                let ended = naive.pods.swap_remove(random.usize(..naive.pods.len()));
                let namespace = ended["metadata"]["namespace"].as_str().expect("it has one");
                cluster.remove_pod(namespace, name(&ended)).expect("it was placed");
            }
        }
    }
    assert!(placed > ROUNDS / 4 && rejected > ROUNDS / 4, "{placed} placed, {rejected} rejected");
}
