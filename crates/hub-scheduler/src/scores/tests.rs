use api_kube::LabelSelector;
use serde_json::{Value, json};

use super::*;
use crate::pod::{Pod, WorkloadKind};
use crate::terms::Labels;
use crate::testing::{cluster, labeled, place, pod, requests};

fn check(cluster: &mut Cluster, score: Score, pod: &Pod, expected: Option<&[i64]>) {
    let nodes: Vec<NodeId> = cluster.existing().map(|(id, _)| id).collect();
    cluster.begin();
    assert_eq!(by(score, cluster, &pod.demand, &nodes).as_deref(), expected, "{score:?} of {}", pod.name);
}

#[test]
fn taints_that_only_ask_make_a_node_worse() {
    let taint = |key: &str| json!({"key": key, "effect": "PreferNoSchedule"});
    let mut cluster = cluster(&[
        ("none", json!({})),
        ("one", json!({"taints": [taint("a")]})),
        ("two", json!({"taints": [taint("a"), taint("b"), {"key": "c", "effect": "NoSchedule"}]})),
    ]);
    check(&mut cluster, Score::TaintToleration, &pod("p", json!({})), Some(&[100, 50, 0]));
    let tolerates = json!({"spec": {"tolerations": [{"key": "a", "operator": "Exists"}]}});
    check(&mut cluster, Score::TaintToleration, &pod("p", tolerates), Some(&[100, 100, 0]));
    let not_these = json!({"spec": {"tolerations": [{"operator": "Exists", "effect": "NoExecute"}]}});
    check(&mut cluster, Score::TaintToleration, &pod("p", not_these), Some(&[100, 50, 0]));
}

#[test]
fn preferred_nodes_are_better_by_weight() {
    let mut cluster = cluster(&[
        ("none", json!({})),
        ("ssd", json!({"labels": {"disk": "ssd"}})),
        ("both", json!({"labels": {"disk": "ssd", "gpu": "yes"}})),
    ]);
    let term = |weight: i64, key: &str| json!({"weight": weight, "preference": {"matchExpressions": [{"key": key, "operator": "Exists"}]}});
    let preferred = json!([term(30, "disk"), term(60, "gpu"), {"weight": 100, "preference": {}}]);
    let of_nodes = json!({"preferredDuringSchedulingIgnoredDuringExecution": preferred});
    let prefers = pod("p", json!({"spec": {"affinity": {"nodeAffinity": of_nodes}}}));
    check(&mut cluster, Score::NodeAffinity, &prefers, Some(&[0, 33, 100]));
    check(&mut cluster, Score::NodeAffinity, &pod("p", json!({})), None);
}

#[test]
fn what_is_left_and_how_evenly_it_is_used_count() {
    let mut cluster = cluster(&[
        ("empty", json!({"allocatable": {"cpu": "4", "memory": "4000Mi"}})),
        ("used", json!({"allocatable": {"cpu": "4", "memory": "4000Mi"}})),
        ("odd", json!({"allocatable": {"cpu": "1", "memory": "4000Mi"}})),
    ]);
    place(&mut cluster, requests("held", json!({"cpu": "1", "memory": "2000Mi"})), "used");
    let pod = requests("p", json!({"cpu": "1", "memory": "1000Mi"}));
    // 3 of 4 and 3000 of 4000 are left; 2 of 4 and 1000; 0 of 1 and 3000.
    check(&mut cluster, Score::NodeResourcesFit, &pod, Some(&[75, 37, 37]));
    // 1/4 and 1/4; 2/4 and 3/4; 1 and 1/4.
    check(&mut cluster, Score::NodeResourcesBalancedAllocation, &pod, Some(&[100, 87, 62]));
    // Without requests it counts as 100m and 200Mi, and is not balanced.
    let best_effort = crate::testing::pod("p", json!({"spec": {"containers": [{"name": "a"}]}}));
    check(&mut cluster, Score::NodeResourcesFit, &best_effort, Some(&[96, 58, 92]));
    check(&mut cluster, Score::NodeResourcesBalancedAllocation, &best_effort, None);
}

#[test]
fn images_that_are_there_need_not_be_fetched() {
    let image = |name: &str, megabytes: i64| json!({"names": [name], "sizeBytes": megabytes << 20});
    let mut cluster = cluster(&[
        ("none", json!({})),
        ("one", json!({"images": [image("app:v1", 1000)]})),
        ("both", json!({"images": [image("app:v1", 1000), image("db:latest", 20)]})),
    ]);
    let containers = |images: &[&str]| {
        let all: Vec<Value> = images.iter().map(|image| json!({"name": "c", "image": image})).collect();
        pod("p", json!({"spec": {"containers": all}}))
    };
    // Two of three nodes have it: 666 MB count, of 23 to 1000.
    check(&mut cluster, Score::ImageLocality, &containers(&["app:v1"]), Some(&[0, 65, 65]));
    check(&mut cluster, Score::ImageLocality, &containers(&["app:v1", "db"]), Some(&[0, 32, 32]));
    check(&mut cluster, Score::ImageLocality, &containers(&["other"]), None);
}

fn hosts() -> Cluster {
    let node = |zone: &str, host: &str| json!({"labels": {"topology.kubernetes.io/zone": zone, HOSTNAME: host}});
    cluster(&[("a1", node("a", "a1")), ("a2", node("a", "a2")), ("b1", node("b", "b1"))])
}

#[test]
fn pods_of_one_service_or_workload_are_spread_by_default() {
    let mut cluster = hosts();
    let web = |name: &str, owner: &str| {
        let owner =
            json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "uid": "u", "controller": true});
        pod(name, json!({"metadata": {"labels": {"app": "web"}, "ownerReferences": [owner]}}))
    };
    place(&mut cluster, web("one", "rs"), "a1");
    check(&mut cluster, Score::PodTopologySpread, &web("p", "rs"), None);
    let selector: LabelSelector = "app=web".parse().unwrap();
    cluster.set_workload(WorkloadKind::ReplicaSet, "default", "rs", Some(selector));
    // Hosts weigh ln 5, zones ln 4: a1 has 1.61 + 2 + 1.39 + 4, a2 2 + 1.39 + 4, b1 2 + 4.
    check(&mut cluster, Score::PodTopologySpread, &web("p", "rs"), Some(&[66, 88, 100]));
    check(&mut cluster, Score::PodTopologySpread, &web("p", "other"), None);
    cluster.set_service("default", "web", Some(Labels::new([("app", "web")])));
    check(&mut cluster, Score::PodTopologySpread, &web("p", "other"), Some(&[66, 88, 100]));
}

#[test]
fn soft_constraints_prefer_and_leave_nodes_without_the_label_last() {
    let mut cluster = hosts();
    crate::testing::add_node(&mut cluster, "bare", json!({}));
    let soft = json!([{
        "maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"app": "web"}},
    }]);
    let web = |name: &str| labeled(name, json!({"app": "web"}), json!({"topologySpreadConstraints": soft}));
    check(&mut cluster, Score::PodTopologySpread, &web("p"), Some(&[100, 100, 100, 0]));
    for (name, node) in [("one", "a1"), ("two", "a2"), ("three", "b1")] {
        place(&mut cluster, web(name), node);
    }
    // 2 ln 4 and ln 4, rounded: 3 and 1.
    check(&mut cluster, Score::PodTopologySpread, &web("p"), Some(&[33, 33, 100, 0]));
}

#[test]
fn preferred_company_counts_from_both_sides() {
    let mut cluster = hosts();
    let prefers = |name: &str, app: &str, kind: &str, weight: i64| {
        let term =
            json!({"topologyKey": "topology.kubernetes.io/zone", "labelSelector": {"matchLabels": {"app": "web"}}});
        let preferred = json!([{"weight": weight, "podAffinityTerm": term}]);
        let terms = json!({"preferredDuringSchedulingIgnoredDuringExecution": preferred});
        labeled(name, json!({"app": app}), json!({"affinity": {kind: terms}}))
    };
    let web = labeled("p", json!({"app": "web"}), json!({}));
    check(&mut cluster, Score::InterPodAffinity, &web, None);
    place(&mut cluster, prefers("likes", "db", "podAffinity", 10), "b1");
    check(&mut cluster, Score::InterPodAffinity, &web, Some(&[0, 0, 100]));
    place(&mut cluster, prefers("dislikes", "db", "podAntiAffinity", 40), "a1");
    check(&mut cluster, Score::InterPodAffinity, &web, Some(&[0, 0, 100]));
    place(&mut cluster, labeled("web", json!({"app": "web"}), json!({})), "a2");
    // Its own 45 for zone a; of the others only those that mean a db count, and there is none.
    check(&mut cluster, Score::InterPodAffinity, &prefers("p", "db", "podAffinity", 45), Some(&[100, 100, 0]));
    // -40 for zone a, 10 for zone b and 45 for zone a.
    check(&mut cluster, Score::InterPodAffinity, &prefers("p", "web", "podAffinity", 45), Some(&[0, 0, 100]));
}
