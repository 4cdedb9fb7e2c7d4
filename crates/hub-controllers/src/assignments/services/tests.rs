//! Tests of `services`: which concern whom, and whom a change touches.

use serde_json::{Value, json};

use super::*;

/// The nodes that a change touched.
fn touched_by(services: &mut Services, change: impl FnOnce(&mut Services, &mut BTreeSet<Arc<str>>)) -> Vec<String> {
    let mut touched = BTreeSet::new();
    change(services, &mut touched);
    touched.iter().map(ToString::to_string).collect()
}

fn put(services: &mut Services, namespace: &str, name: &str, bytes: usize) -> Vec<String> {
    touched_by(services, |services, touched| services.put_service(namespace, name, bytes, touched))
}

fn add(services: &mut Services, namespace: &str, node: &str) -> Vec<String> {
    touched_by(services, |services, touched| services.add_pod(namespace, node, touched))
}

fn remove(services: &mut Services, namespace: &str, node: &str) -> Vec<String> {
    touched_by(services, |services, touched| services.remove_pod(namespace, node, touched))
}

fn on(services: &Services, node: &str) -> Vec<String> {
    services.on_node(node).services.iter().map(|(namespace, name)| format!("{namespace}/{name}")).collect()
}

const NOBODY: [&str; 0] = [];

#[test]
fn a_service_concerns_the_nodes_with_pods_of_its_namespace() {
    let mut services = Services::default();
    assert_eq!(add(&mut services, "a", "gw-1"), NOBODY, "there is no Service yet");
    assert_eq!(put(&mut services, "a", "web", 100), ["gw-1"]);
    assert_eq!(put(&mut services, "b", "db", 100), NOBODY);
    assert_eq!(add(&mut services, "a", "gw-1"), NOBODY, "a second pod of the namespace");
    assert_eq!(add(&mut services, "b", "gw-2"), ["gw-2"], "the first one");
    assert_eq!(add(&mut services, "b", "gw-1"), ["gw-1"]);
    assert_eq!(
        (on(&services, "gw-1"), on(&services, "gw-2")),
        (vec!["a/web".into(), "b/db".into()], vec!["b/db".into()])
    );
    assert_eq!(put(&mut services, "b", "another", 100), ["gw-1", "gw-2"]);
    assert_eq!(on(&services, "gw-2"), ["b/another", "b/db"], "in order of their names");

    assert_eq!(remove(&mut services, "a", "gw-1"), NOBODY, "another pod of the namespace is there");
    assert_eq!(remove(&mut services, "a", "gw-1"), ["gw-1"], "the last one");
    assert_eq!(on(&services, "gw-1"), ["b/another", "b/db"]);
    let touched = touched_by(&mut services, |services, touched| services.remove_service("b", "db", touched));
    assert_eq!(touched, ["gw-1", "gw-2"]);
    // What was never there touches nobody.
    assert_eq!(remove(&mut services, "a", "gw-1"), NOBODY);
    let touched = touched_by(&mut services, |services, touched| services.remove_service("b", "db", touched));
    assert_eq!(touched, NOBODY);
    remove(&mut services, "b", "gw-1");
    remove(&mut services, "b", "gw-2");
    touched_by(&mut services, |services, touched| services.remove_service("b", "another", touched));
    touched_by(&mut services, |services, touched| services.remove_service("a", "web", touched));
    assert!(services.namespaces.is_empty() && services.nodes.is_empty(), "nothing is left behind");
}

#[test]
fn a_list_takes_the_place_of_what_was_known() {
    let mut services = Services::default();
    add(&mut services, "a", "gw-1");
    add(&mut services, "a", "gw-1");
    put(&mut services, "a", "web", 100);
    let touched = touched_by(&mut services, |services, touched| {
        let pods = [("a", "gw-2"), ("b", "gw-2"), ("b", "gw-2")];
        services.replace_pods(pods.into_iter().map(|(namespace, node)| (namespace, Arc::from(node))), touched);
    });
    assert_eq!(touched, ["gw-1", "gw-2"]);
    let touched = touched_by(&mut services, |services, touched| {
        services.replace_services([("b", "db", 10), ("c", "nobody", 10)].into_iter(), touched);
    });
    assert_eq!(touched, ["gw-2"]);
    assert_eq!((on(&services, "gw-1"), on(&services, "gw-2")), (vec![], vec!["b/db".to_owned()]));
    assert_eq!(remove(&mut services, "b", "gw-2"), NOBODY);
    assert_eq!(remove(&mut services, "b", "gw-2"), ["gw-2"], "it was counted once for each pod");
}

#[test]
fn a_namespace_cannot_have_itself_copied_without_end() {
    let mut services = Services::default();
    let name = |number: usize| format!("s{number:02}");
    // Sixteen times a sixteenth of what one node may take of it.
    for number in 0..16 {
        put(&mut services, "a", &name(number), PLACED_BYTES_MAX / 32 / 16);
    }
    put(&mut services, "b", "small", 100);
    for node in 0..32 {
        assert_eq!(add(&mut services, "a", &format!("n{node:02}")).len(), 1);
    }
    assert_eq!(on(&services, "n00").len(), 16);
    assert_eq!(services.on_node("n00").left_out, []);
    // One node more halves what each may have, which is a change for all of them; the next ones are not.
    assert_eq!(add(&mut services, "a", "n32").len(), 33);
    assert_eq!(add(&mut services, "a", "n33"), ["n33"]);
    add(&mut services, "b", "n00");
    let of_node = services.on_node("n00");
    assert_eq!((of_node.services.len(), on(&services, "n00").pop()), (9, Some("b/small".to_owned())));
    assert_eq!(of_node.left_out, [(("a".into(), "s08".into()), false)]);
    // With less of it all are given again.
    remove(&mut services, "a", "n33");
    assert_eq!(remove(&mut services, "a", "n32").len(), 33);
    assert_eq!(on(&services, "n01").len(), 16);
}

#[test]
fn a_node_is_given_no_more_than_it_follows() {
    let mut services = Services::default();
    add(&mut services, "a", "gw-1");
    for number in 0..=OF_NODE_MAX {
        put(&mut services, "a", &format!("s{number:05}"), 300);
    }
    let of_node = services.on_node("gw-1");
    assert_eq!(of_node.services.len(), OF_NODE_MAX);
    assert_eq!(of_node.left_out, [(("a".into(), format!("s{OF_NODE_MAX:05}").into()), true)]);
    put(&mut services, "a", "s00000", OF_NODE_BYTES_MAX);
    assert_eq!(services.on_node("gw-1").left_out, [(("a".into(), "s00001".into()), true)]);
}

fn object(name: &str, value: &Value) -> ObjectRef {
    ObjectRef::watched("default", name, 1, serde_json::to_vec(value).unwrap().into())
}

#[test]
fn a_pod_counts_while_it_is_bound_and_not_over() {
    for (spec, status, expected) in [
        (json!({"nodeName": "gw-1"}), json!({"phase": "Running"}), Some("gw-1")),
        (json!({"nodeName": "gw-1"}), json!(null), Some("gw-1")),
        (json!({"nodeName": "gw-1"}), json!({"phase": "Succeeded"}), None),
        (json!({"nodeName": "gw-1"}), json!({"phase": "Failed"}), None),
        (json!({}), json!({"phase": "Pending"}), None),
    ] {
        // One that is being deleted runs until it is away.
        let metadata = json!({"name": "p", "deletionTimestamp": "2026-01-01T00:00:00Z"});
        let pod = object("p", &json!({"metadata": metadata, "spec": spec, "status": status}));
        assert_eq!(node_of_pod(&pod).as_deref(), expected, "{pod:?} {spec} {status}");
    }
}

#[test]
fn an_entry_has_what_a_node_needs_and_no_more() {
    let service = json!({
        "metadata": {"name": "web", "uid": "u", "annotations": {"a": "b"}},
        "spec": {
            "type": "ClusterIP", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "ipFamilies": ["IPv4"],
            "selector": {"app": "web"}, "ports": [{"port": 80, "protocol": "TCP", "targetPort": 8080}],
            "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
        },
        "status": {"loadBalancer": {}},
    });
    let found = entry(&object("web", &service)).unwrap();
    assert_eq!((&*found.kind, &*found.namespace, &*found.name, &*found.uid), ("Service", "default", "web", "u"));
    let expected = json!({
        "type": "ClusterIP", "clusterIPs": ["10.96.0.7"], "selector": {"app": "web"},
        "ports": [{"protocol": "TCP", "port": 80, "targetPort": 8080}],
    });
    assert_eq!(found.spec, expected);
    assert_eq!(entry(&object("kubernetes", &service)), None, "nodes lead it to the API by themselves");
}
