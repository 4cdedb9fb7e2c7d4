use serde_json::{Value, json};

use super::*;
use crate::cluster::Cluster;
use crate::testing::{cluster, decide, pod};

fn with_claim(name: &str, claim: &str) -> Pod {
    pod(name, json!({"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}}))
}

fn add_claim(cluster: &mut Cluster, name: &str, annotations: Value, spec: Value) {
    let object = json!({"metadata": {"name": name, "uid": name, "annotations": annotations}, "spec": spec});
    let claim = parse_claim(object.to_string().as_bytes()).unwrap();
    cluster.volumes.claims.entry("default".into()).or_default().insert(name.into(), claim);
    cluster.touch();
}

fn add_volume(cluster: &mut Cluster, name: &str, node: &str, spec: Value) {
    let mut spec = spec;
    let term = json!({"matchExpressions": [{"key": "host", "operator": "In", "values": [node]}]});
    spec["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": [term]}});
    let volume = parse_volume(json!({"metadata": {"name": name}, "spec": spec}).to_string().as_bytes()).unwrap();
    cluster.volumes.volumes.insert(name.into(), volume);
    cluster.touch();
}

fn add_class(cluster: &mut Cluster, name: &str, class: Value) {
    cluster.volumes.classes.insert(name.into(), parse_class(class.to_string().as_bytes()).unwrap());
    cluster.touch();
}

fn two_nodes() -> Cluster {
    cluster(&[("a", json!({"labels": {"host": "a"}})), ("b", json!({"labels": {"host": "b"}}))])
}

#[test]
fn a_bound_claim_leaves_the_nodes_that_reach_its_volume() {
    let mut cluster = two_nodes();
    let bound = json!({"pv.kubernetes.io/bind-completed": "yes"});
    assert_eq!(
        decide(&mut cluster, &with_claim("p", "data")).unwrap_err(),
        "0/2 nodes are available: persistentvolumeclaim \"data\" not found."
    );
    add_claim(&mut cluster, "data", bound, json!({"volumeName": "v1"}));
    assert_eq!(
        decide(&mut cluster, &with_claim("p", "data")).unwrap_err(),
        "0/2 nodes are available: 2 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)."
    );
    add_volume(&mut cluster, "v1", "b", json!({}));
    assert_eq!(decide(&mut cluster, &with_claim("p", "data")), Ok("b".to_owned()));
    add_volume(&mut cluster, "v1", "c", json!({}));
    assert_eq!(
        decide(&mut cluster, &with_claim("p", "data")).unwrap_err(),
        "0/2 nodes are available: 2 node(s) didn't match PersistentVolume's node affinity."
    );
}

#[test]
fn a_claim_waits_for_its_pod_only_when_its_class_says_so() {
    let mut cluster = two_nodes();
    add_claim(&mut cluster, "data", json!({}), json!({"storageClassName": "local"}));
    const UNBOUND: &str = "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims.";
    assert_eq!(decide(&mut cluster, &with_claim("p", "data")).unwrap_err(), UNBOUND);
    add_class(&mut cluster, "local", json!({"provisioner": "x", "volumeBindingMode": "Immediate"}));
    assert_eq!(decide(&mut cluster, &with_claim("p", "data")).unwrap_err(), UNBOUND);
    let waiting = json!({"provisioner": "x", "volumeBindingMode": "WaitForFirstConsumer"});
    add_class(&mut cluster, "local", waiting.clone());
    assert!(decide(&mut cluster, &with_claim("p", "data")).is_ok());
    let mut in_b = waiting;
    in_b["allowedTopologies"] = json!([{"matchLabelExpressions": [{"key": "host", "values": ["b"]}]}]);
    add_class(&mut cluster, "local", in_b);
    assert_eq!(decide(&mut cluster, &with_claim("p", "data")), Ok("b".to_owned()));
    // Somebody is at it for another node already.
    add_claim(&mut cluster, "data", json!({SELECTED_NODE: "a"}), json!({"storageClassName": "local"}));
    assert_eq!(
        decide(&mut cluster, &with_claim("p", "data")).unwrap_err(),
        "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind."
    );
}

#[test]
fn the_smallest_volume_that_suits_is_bound() {
    let mut cluster = two_nodes();
    add_class(
        &mut cluster,
        "disk",
        json!({"provisioner": NO_PROVISIONER, "volumeBindingMode": "WaitForFirstConsumer"}),
    );
    let spec = json!({
        "storageClassName": "disk", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}},
    });
    add_claim(&mut cluster, "data", json!({}), spec.clone());
    add_claim(&mut cluster, "more", json!({}), spec);
    let volume = |size: &str, class: &str| json!({"capacity": {"storage": size}, "storageClassName": class, "accessModes": ["ReadWriteOnce", "ReadOnlyMany"]});
    for (name, node, size, class) in [
        ("small", "a", "1Gi", "disk"),
        ("large", "b", "9Gi", "disk"),
        ("fits", "b", "3Gi", "disk"),
        ("other", "a", "3Gi", "else"),
    ] {
        add_volume(&mut cluster, name, node, volume(size, class));
    }
    let volumes = json!([
        {"name": "v", "persistentVolumeClaim": {"claimName": "data"}}, {"name": "w", "persistentVolumeClaim": {"claimName": "more"}},
    ]);
    let both = pod("p", json!({"spec": {"volumes": volumes}}));
    assert_eq!(decide(&mut cluster, &both), Ok("b".to_owned()));
    let plan = |cluster: &Cluster| {
        let check = cluster.volumes.check(&both).unwrap();
        cluster.volumes.plan("default", &check, "b", &cluster.node(cluster.node_id("b").unwrap()).labels, None)
    };
    let pairs = |one: &str, two: &str| vec![("data".into(), one.into()), ("more".into(), two.into())];
    assert_eq!(plan(&cluster).unwrap().bind, pairs("fits", "large"));
    // As the binder of claims chooses: one with no other access modes comes before a smaller one.
    let mut no_other = volume("9Gi", "disk");
    no_other["accessModes"] = json!(["ReadWriteOnce"]);
    add_volume(&mut cluster, "large", "b", no_other);
    assert_eq!(plan(&cluster).unwrap().bind, pairs("large", "fits"));
    // One that is reserved for a claim is for that claim, whatever its size.
    let mut reserved = volume("9Gi", "disk");
    reserved["claimRef"] = json!({"namespace": "default", "name": "data"});
    add_volume(&mut cluster, "large", "b", reserved);
    assert_eq!(plan(&cluster).unwrap().bind, pairs("large", "fits"));
}

#[test]
fn a_claim_of_one_pod_is_used_by_one_pod() {
    let mut cluster = two_nodes();
    let bound = json!({"pv.kubernetes.io/bind-completed": "yes"});
    add_claim(&mut cluster, "data", bound, json!({"volumeName": "v1", "accessModes": ["ReadWriteOncePod"]}));
    add_volume(&mut cluster, "v1", "b", json!({}));
    let before = decide(&mut cluster, &with_claim("p", "data"));
    assert_eq!(before, Ok("b".to_owned()));
    cluster.place(with_claim("first", "data"), "b", crate::cluster::PlacedState::default());
    let why = "2 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";
    assert_eq!(decide(&mut cluster, &with_claim("p", "data")).unwrap_err(), format!("0/2 nodes are available: {why}."));
    cluster.remove_pod("default", "first");
    assert!(decide(&mut cluster, &with_claim("p", "data")).is_ok());
}

#[test]
fn a_claim_is_placed_where_the_disk_can_hold_it() {
    let disk = |name: &str, size: &str| {
        let offer = json!({api_edge::volumes::ANNOTATION_DIRECTORY: "/volumes"});
        json!({"labels": {"host": name}, "annotations": offer, "allocatable": {"ephemeral-storage": size}})
    };
    let mut cluster = cluster(&[("a", disk("a", "10Gi")), ("b", disk("b", "20Gi"))]);
    add_class(
        &mut cluster,
        "local",
        json!({"provisioner": api_edge::volumes::PROVISIONER, "volumeBindingMode": "WaitForFirstConsumer"}),
    );
    let of = |size: &str| json!({"storageClassName": "local", "resources": {"requests": {"storage": size}}});
    add_claim(&mut cluster, "data", json!({}), of("15Gi"));
    assert_eq!(decide(&mut cluster, &with_claim("p", "data")), Ok("b".to_owned()));
    add_claim(&mut cluster, "huge", json!({}), of("21Gi"));
    let why = "0/2 nodes are available: 2 node(s) did not have enough free storage.";
    assert_eq!(decide(&mut cluster, &with_claim("p", "huge")).unwrap_err(), why);
    crate::testing::add_node(&mut cluster, "c", json!({"allocatable": {"ephemeral-storage": "90Gi"}}));
    let of_another = "0/3 nodes are available: 1 node(s) didn't find available persistent volumes to bind, 2 node(s) did not have enough free storage.";
    assert_eq!(decide(&mut cluster, &with_claim("p", "huge")).unwrap_err(), of_another, "it offers no directories");
    cluster.remove_node("c");
    // A claim that is about to get its volume there counts, and its own request does not count twice.
    add_claim(&mut cluster, "data", json!({SELECTED_NODE: "b"}), of("15Gi"));
    assert_eq!(decide(&mut cluster, &with_claim("p", "data")), Ok("b".to_owned()));
    add_claim(&mut cluster, "more", json!({}), of("6Gi"));
    assert_eq!(decide(&mut cluster, &with_claim("q", "more")), Ok("a".to_owned()));
    // So does a volume, once: the claim that it was made for is the same storage.
    let term = json!({"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["b"]}]});
    let made = json!({
        "metadata": {"name": "pvc-data", "annotations": {"pv.kubernetes.io/provisioned-by": api_edge::volumes::PROVISIONER}},
        "spec": {
            "capacity": {"storage": "15Gi"}, "local": {"path": "/v"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
        },
    });
    cluster.volumes.volumes.insert("pvc-data".into(), parse_volume(made.to_string().as_bytes()).unwrap());
    add_claim(&mut cluster, "little", json!({SELECTED_NODE: "b"}), of("5Gi"));
    assert_eq!(decide(&mut cluster, &with_claim("r", "little")), Ok("b".to_owned()));
    add_claim(&mut cluster, "little", json!({SELECTED_NODE: "b"}), of("6Gi"));
    let why = "0/2 nodes are available: 1 node(s) did not have enough free storage, 1 node(s) didn't find available persistent volumes to bind.";
    assert_eq!(decide(&mut cluster, &with_claim("r", "little")).unwrap_err(), why);
}
