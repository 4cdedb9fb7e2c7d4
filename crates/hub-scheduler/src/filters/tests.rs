use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::pod::Pod;
use crate::terms::Labels;
use crate::testing::{cluster, decide, labeled, place, pod, requests};

/// One node, perhaps with pods on it, and what it says to a pod: nothing, or why not.
fn check(node: Value, on_it: Vec<Pod>, pod: &Pod, rejected: &str) {
    let mut cluster = cluster(&[("n", node)]);
    on_it.into_iter().for_each(|one| place(&mut cluster, one, "n"));
    check_in(&mut cluster, pod, rejected);
}

fn check_in(cluster: &mut Cluster, pod: &Pod, rejected: &str) {
    let nodes = cluster.order().len();
    let expected = if rejected.is_empty() { None } else { Some(format!("0/{nodes} nodes are available: {rejected}.")) };
    assert_eq!(decide(cluster, pod).err(), expected, "{}", pod.name);
}

fn spec(spec: Value) -> Pod {
    pod("p", json!({"spec": spec}))
}

#[test]
fn a_node_that_is_cordoned_takes_only_who_tolerates_it() {
    let cordoned = || json!({"unschedulable": true});
    check(cordoned(), vec![], &spec(json!({})), "1 node(s) were unschedulable");
    for (toleration, rejected) in [
        (json!({"operator": "Exists"}), ""),
        (json!({"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}), ""),
        (
            json!({"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoExecute"}),
            "1 node(s) were unschedulable",
        ),
    ] {
        check(cordoned(), vec![], &spec(json!({"tolerations": [toleration]})), rejected);
    }
}

#[test]
fn a_taint_keeps_out_who_does_not_tolerate_it() {
    const TAINTED: &str = "1 node(s) had untolerated taint(s)";
    let tainted = |effect: &str| json!({"taints": [{"key": "a", "value": "1", "effect": effect}]});
    for (effect, toleration, rejected) in [
        ("NoSchedule", json!({}), TAINTED),
        ("NoExecute", json!({"key": "b", "operator": "Exists"}), TAINTED),
        ("PreferNoSchedule", json!({"key": "b", "operator": "Exists"}), ""),
        ("NoSchedule", json!({"key": "a", "value": "1"}), ""),
        ("NoSchedule", json!({"key": "a", "value": "2"}), TAINTED),
        ("NoSchedule", json!({"key": "a", "operator": "Exists", "effect": "NoSchedule"}), ""),
        ("NoExecute", json!({"key": "a", "operator": "Exists", "effect": "NoSchedule"}), TAINTED),
        ("NoExecute", json!({"key": "a", "operator": "Exists", "tolerationSeconds": 1}), ""),
    ] {
        check(tainted(effect), vec![], &spec(json!({"tolerations": [toleration]})), rejected);
    }
}

#[test]
fn labels_and_names_of_nodes_are_demanded_by_selectors_and_affinity() {
    const OTHER: &str = "1 node(s) didn't match Pod's node affinity/selector";
    let node = || json!({"labels": {"disk": "ssd", "cores": "8"}});
    let terms = |terms: Value| {
        let required = json!({"nodeSelectorTerms": terms});
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}})
    };
    let expressions = |key: &str, operator: &str, values: Value| {
        terms(json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]))
    };
    for (demanded, rejected) in [
        (json!({"nodeSelector": {"disk": "ssd"}}), ""),
        (json!({"nodeSelector": {"disk": "hdd"}}), OTHER),
        (expressions("disk", "In", json!(["hdd", "ssd"])), ""),
        (expressions("disk", "NotIn", json!(["ssd"])), OTHER),
        (expressions("other", "NotIn", json!(["ssd"])), ""),
        (expressions("disk", "Exists", json!([])), ""),
        (expressions("disk", "DoesNotExist", json!([])), OTHER),
        (expressions("cores", "Gt", json!(["7"])), ""),
        (expressions("cores", "Lt", json!(["8"])), OTHER),
        (terms(json!([])), OTHER),
        (terms(json!([{}])), OTHER),
        (terms(json!([{"matchExpressions": [{"key": "disk", "operator": "Is"}]}, {}])), OTHER),
        (terms(json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}])), ""),
        (terms(json!([{"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["n"]}]}])), OTHER),
    ] {
        check(node(), vec![], &spec(demanded), rejected);
    }
    let named = |names: &[&str]| {
        let field = |name: &&str| json!({"key": "metadata.name", "operator": "In", "values": [name]});
        terms(json!([{"matchFields": names.iter().map(field).collect::<Vec<_>>()}]))
    };
    check(node(), vec![], &spec(named(&["absent"])), "1 node(s) didn't satisfy plugin(s) [NodeAffinity]");
    check(node(), vec![], &spec(named(&["n", "m"])), "pod affinity terms conflict");
}

#[test]
fn a_port_of_a_node_is_had_by_one() {
    const TAKEN: &str = "1 node(s) didn't have free ports for the requested pod ports";
    let ports = |name: &str, port: Value| pod(name, json!({"spec": {"containers": [{"name": "a", "ports": [port]}]}}));
    for (held, demanded, rejected) in [
        (json!({"hostPort": 80}), json!({"hostPort": 80}), TAKEN),
        (json!({"hostPort": 80}), json!({"hostPort": 81}), ""),
        (json!({"hostPort": 80}), json!({"hostPort": 80, "protocol": "UDP"}), ""),
        (json!({"hostPort": 80, "hostIP": "10.0.0.1"}), json!({"hostPort": 80, "hostIP": "10.0.0.2"}), ""),
        (json!({"hostPort": 80, "hostIP": "10.0.0.1"}), json!({"hostPort": 80, "hostIP": "0.0.0.0"}), TAKEN),
        (json!({"containerPort": 80}), json!({"containerPort": 80}), ""),
    ] {
        check(json!({}), vec![ports("held", held)], &ports("p", demanded), rejected);
    }
}

#[test]
fn a_node_holds_what_it_has_to_offer() {
    let used = || vec![requests("used", json!({"cpu": "3", "memory": "6Gi", "example.org/gpu": 1}))];
    let node = || json!({"allocatable": {"example.org/gpu": "2", "pods": "2"}});
    for (list, rejected) in [
        (json!({"cpu": "1", "memory": "2Gi", "example.org/gpu": 1}), ""),
        (json!({"cpu": "1001m"}), "1 Insufficient cpu"),
        (json!({"cpu": "9", "memory": "3Gi"}), "1 Insufficient cpu, 1 Insufficient memory"),
        (json!({"ephemeral-storage": 1}), "1 Insufficient ephemeral-storage"),
        (json!({"example.org/gpu": 2}), "1 Insufficient example.org/gpu"),
        (json!({"example.org/other": 1}), "1 Insufficient example.org/other"),
        (json!({"example.org/other": 0}), ""),
    ] {
        check(node(), used(), &requests("p", list), rejected);
    }
    let full = || vec![requests("one", json!({})), requests("two", json!({}))];
    check(node(), full(), &requests("p", json!({})), "1 Too many pods");
    check(json!({"allocatable": {"cpu": "0"}}), vec![], &requests("p", json!({"cpu": "0"})), "");
}

fn zones() -> Cluster {
    cluster(&[
        ("a1", json!({"labels": {"zone": "a", "kubernetes.io/hostname": "a1"}})),
        ("a2", json!({"labels": {"zone": "a", "kubernetes.io/hostname": "a2"}})),
        ("b1", json!({"labels": {"zone": "b", "kubernetes.io/hostname": "b1"}})),
        ("none", json!({})),
    ])
}

fn spread(constraint: Value) -> Pod {
    let mut full = json!({
        "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}},
    });
    constraint.as_object().into_iter().flatten().for_each(|(field, value)| full[field] = value.clone());
    labeled("p", json!({"app": "web"}), json!({"topologySpreadConstraints": [full]}))
}

#[test]
fn pods_are_spread_no_more_unevenly_than_they_bear() {
    const MISSING: &str = "node(s) didn't match pod topology spread constraints (missing required label)";
    const UNEVEN: &str = "node(s) didn't match pod topology spread constraints";
    let web = |name: &str| labeled(name, json!({"app": "web"}), json!({}));
    let mut cluster = zones();
    place(&mut cluster, web("one"), "a1");
    assert_eq!(decide(&mut cluster, &spread(json!({}))), Ok("b1".to_owned()));
    place(&mut cluster, web("two"), "b1");
    assert!(decide(&mut cluster, &spread(json!({}))).is_ok_and(|node| node != "none"));
    // Fewer domains than there should be: nothing counts as the fewest.
    check_in(&mut cluster, &spread(json!({"minDomains": 3})), &format!("1 {MISSING}, 3 {UNEVEN}"));
    check_in(&mut cluster, &spread(json!({"minDomains": 3, "maxSkew": 2})), "");
    let mut pinned = json!({"labelSelector": {"matchLabels": {"app": "web"}}});
    pinned["topologyKey"] = json!("kubernetes.io/hostname");
    // Three hosts, two of them with one.
    assert_eq!(decide(&mut cluster, &spread(pinned)), Ok("a2".to_owned()));
    cluster.remove_pod("default", "one");
    cluster.remove_pod("default", "two");
    place(&mut cluster, web("three"), "a1");
    place(&mut cluster, web("four"), "a2");
    assert_eq!(decide(&mut cluster, &spread(json!({}))), Ok("b1".to_owned()));
    check_in(&mut cluster, &spread(json!({"topologyKey": "nowhere"})), &format!("4 {MISSING}"));
}

#[test]
fn a_constraint_counts_the_nodes_that_it_cares_about() {
    let mut cluster = cluster(&[
        ("a", json!({"labels": {"zone": "a", "ok": "yes"}})),
        ("b", json!({"labels": {"zone": "b"}})),
        ("c", json!({"labels": {"zone": "c", "ok": "yes"}, "taints": [{"key": "t", "effect": "NoSchedule"}]})),
    ]);
    place(&mut cluster, labeled("one", json!({"app": "web"}), json!({})), "a");
    let with = |constraint: Value| {
        let mut pod = spread(constraint).demand.as_ref().clone();
        pod.nodes.selector = Labels::new([("ok", "yes")]);
        Pod { name: "p".into(), uid: "p".into(), generation: 1, demand: pod.into(), claims: vec![] }
    };
    const UNEVEN: &str = "1 node(s) didn't match pod topology spread constraints";
    let rejected =
        format!("1 node(s) didn't match Pod's node affinity/selector, {UNEVEN}, 1 node(s) had untolerated taint(s)");
    // Of the zones that the pod may use, c is empty although a taint closes it.
    check_in(&mut cluster, &with(json!({})), &rejected);
    // Without c, a is the only zone.
    check_in(&mut cluster, &with(json!({"nodeTaintsPolicy": "Honor"})), "");
    check_in(&mut cluster, &with(json!({"nodeTaintsPolicy": "Honor", "nodeAffinityPolicy": "Ignore"})), &rejected);
}

fn affinity(name: &str, labels: Value, kind: &str, terms: Value) -> Pod {
    let terms = json!({"requiredDuringSchedulingIgnoredDuringExecution": terms});
    labeled(name, labels, json!({"affinity": {kind: terms}}))
}

fn term(app: &str, key: &str) -> Value {
    json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}})
}

#[test]
fn pods_run_with_those_they_demand_and_without_those_they_do_not() {
    const WITH: &str = "4 node(s) didn't match pod affinity rules";
    let mut cluster = zones();
    let with_db = |name: &str| affinity(name, json!({"app": "web"}), "podAffinity", json!([term("db", "zone")]));
    check_in(&mut cluster, &with_db("p"), WITH);
    place(&mut cluster, labeled("db", json!({"app": "db"}), json!({})), "b1");
    assert_eq!(decide(&mut cluster, &with_db("p")), Ok("b1".to_owned()));
    // The first of those that demand each other begins where the label is.
    let itself = affinity("p", json!({"app": "web"}), "podAffinity", json!([term("web", "zone")]));
    assert!(decide(&mut cluster, &itself).is_ok_and(|node| node != "none"));
    place(&mut cluster, labeled("first", json!({"app": "web"}), json!({})), "a1");
    assert!(decide(&mut cluster, &itself).is_ok_and(|node| node.starts_with('a')));
    // All terms must mean the same pod.
    let both = affinity("p", json!({}), "podAffinity", json!([term("db", "zone"), term("web", "zone")]));
    check_in(&mut cluster, &both, WITH);
    let apart = |key: &str| affinity("p", json!({}), "podAntiAffinity", json!([term("db", key), term("web", key)]));
    assert!(decide(&mut cluster, &apart("kubernetes.io/hostname")).is_ok_and(|node| ["a2", "none"].contains(&&*node)));
    assert_eq!(decide(&mut cluster, &apart("zone")), Ok("none".to_owned()));
}

#[test]
fn pods_that_are_there_keep_out_whom_they_do_not_bear() {
    let mut cluster = cluster(&[("n", json!({"labels": {"zone": "a"}}))]);
    place(&mut cluster, affinity("held", json!({}), "podAntiAffinity", json!([term("web", "zone")])), "n");
    const EXISTING: &str = "1 node(s) didn't satisfy existing pods anti-affinity rules";
    check_in(&mut cluster, &labeled("p", json!({"app": "web"}), json!({})), EXISTING);
    check_in(&mut cluster, &labeled("p", json!({"app": "db"}), json!({})), "");
    let in_other = pod("p", json!({"metadata": {"namespace": "other", "labels": {"app": "web"}}}));
    check_in(&mut cluster, &in_other, "");
    let mut any = term("web", "zone");
    any["namespaceSelector"] = json!({"matchLabels": {"team": "t"}});
    place(&mut cluster, affinity("any", json!({}), "podAntiAffinity", json!([any])), "n");
    check_in(&mut cluster, &in_other, "");
    cluster.set_namespace("other", Some(Labels::new([("team", "t")])));
    check_in(&mut cluster, &in_other, EXISTING);
    cluster.remove_pod("default", "any");
    check_in(&mut cluster, &in_other, "");
}
