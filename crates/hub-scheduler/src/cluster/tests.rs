use serde_json::json;

use super::*;
use crate::testing::{add_node, cluster, labeled, pod, requests};

#[test]
fn what_is_on_a_node_is_what_was_placed_and_not_removed() {
    let mut cluster = cluster(&[("n", json!({}))]);
    let with = |name: &str| {
        let container = json!({
            "name": "c", "resources": {"requests": {"cpu": "1", "example.org/gpu": 2}}, "ports": [{"hostPort": 80}],
        });
        pod(name, json!({"spec": {"containers": [container]}}))
    };
    let empty = Load::default();
    for name in ["a", "b"] {
        cluster.place(with(name), "n", PlacedState::default());
    }
    let n = cluster.node_id("n").unwrap();
    let load = &cluster.node(n).load;
    assert_eq!((load.requested.cpu, load.requested.scalar("example.org/gpu"), load.pods), (2000, 4, 2));
    // Placing it again replaces it.
    cluster.place(with("a"), "n", PlacedState::default());
    assert_eq!(cluster.node(n).load.pods, 2);
    for name in ["a", "b"] {
        cluster.remove_pod("default", name).unwrap();
    }
    assert_eq!(cluster.node(n).load, empty);
    assert!(cluster.remove_pod("default", "a").is_none());
}

#[test]
fn a_node_may_come_after_its_pods_and_end_before_them() {
    let mut cluster = Cluster::default();
    cluster.place(requests("a", json!({"cpu": "1"})), "late", PlacedState::default());
    assert!(cluster.order().is_empty());
    add_node(&mut cluster, "late", json!({}));
    let id = cluster.node_id("late").unwrap();
    assert_eq!(cluster.order(), [id]);
    assert_eq!(cluster.node(id).load.pods, 1);
    cluster.remove_node("late");
    assert!(cluster.order().is_empty());
    assert_eq!(cluster.node_id("late"), Some(id), "its pod is still bound to it");
    cluster.remove_pod("default", "a");
    assert_eq!(cluster.node_id("late"), None);
    add_node(&mut cluster, "next", json!({}));
    assert_eq!(cluster.node_id("next"), Some(id), "numbers are used again");
}

#[test]
fn sets_of_pods_are_counted_as_pods_come_and_end() {
    let mut cluster = cluster(&[("n", json!({})), ("m", json!({}))]);
    let web = |name: &str| labeled(name, json!({"app": "web"}), json!({}));
    cluster.place(web("a"), "n", PlacedState::default());
    let matcher = PodMatcher::in_namespace("default", "app=web".parse().unwrap());
    let count = |cluster: &mut Cluster, node: &str| {
        cluster.begin();
        let tally = cluster.tally(std::slice::from_ref(&matcher));
        let count = cluster.tallies().count(tally, cluster.node_id(node).unwrap());
        (count.all, count.alive)
    };
    assert_eq!((count(&mut cluster, "n"), count(&mut cluster, "m")), ((1, 1), (0, 0)));
    cluster.place(web("b"), "n", PlacedState { is_terminating: true, ..PlacedState::default() });
    cluster.place(labeled("c", json!({"app": "db"}), json!({})), "n", PlacedState::default());
    assert_eq!(count(&mut cluster, "n"), (2, 1));
    cluster.place(web("a"), "m", PlacedState::default());
    assert_eq!((count(&mut cluster, "n"), count(&mut cluster, "m")), ((1, 0), (1, 1)));
}

#[test]
fn pods_of_one_template_share_what_they_demand() {
    let mut cluster = Cluster::default();
    let one = |name: &str| requests(name, json!({"cpu": "1"}));
    let (a, b, c) = (cluster.share(one("a")), cluster.share(one("b")), cluster.share(requests("c", json!({}))));
    assert!(Arc::ptr_eq(&a.demand, &b.demand) && !Arc::ptr_eq(&a.demand, &c.demand));
    for number in 0..10_000 {
        cluster.share(requests("x", json!({"cpu": number})));
    }
    assert!(cluster.demands.len() <= 2 * DEMANDS_MIN, "{}", cluster.demands.len());
    assert!(Arc::ptr_eq(&a.demand, &cluster.share(one("d")).demand));
}

#[test]
fn images_and_hosts_that_are_no_more_are_forgotten() {
    let mut cluster = Cluster::default();
    for number in 0..5_000 {
        let name = format!("n{number}");
        let labels = json!({"kubernetes.io/hostname": name});
        let images = json!([{"names": [format!("app:{number}"), "base:1"], "sizeBytes": 1}]);
        add_node(&mut cluster, &name, json!({"labels": labels, "images": images}));
        cluster.topology_id("kubernetes.io/hostname");
        if number > 0 {
            cluster.remove_node(&format!("n{}", number - 1));
        }
    }
    assert!(cluster.images.len() <= 2 * IMAGES_MIN, "{}", cluster.images.len());
    assert_eq!(cluster.image("base:1").map(|(_, image)| image.nodes), Some(1));
    let topology = cluster.topology_id("kubernetes.io/hostname");
    assert!(cluster.topology(topology).len() < 100);
    assert_eq!(cluster.nodes.len(), 2);
}
