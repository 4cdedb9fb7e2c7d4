//! How much a node may store.

use serde_json::{Value, json};

use crate::harness::*;

const EVENTS: &str = "/api/v1/namespaces/default/events";

fn event(name: &str, annotation: usize) -> Value {
    json!({
        "metadata": {"name": name, "annotations": {"a": "x".repeat(annotation)}},
        "reason": "Started", "message": "m", "type": "Normal",
        "source": {"component": "kubelet", "host": "gw-1"}, "reportingInstance": "gw-1",
        "involvedObject": {"kind": "Node", "name": "gw-1", "namespace": "default"},
    })
}

fn mirror(name: &str, owners: &Value, annotation: usize) -> Value {
    json!({
        "metadata": {
            "name": name, "ownerReferences": owners,
            "annotations": {"kubernetes.io/config.mirror": "x", "a": "x".repeat(annotation)},
        },
        "spec": {"nodeName": "gw-1", "containers": [{"name": "a", "image": "file:///bin/true"}]},
    })
}

#[tokio::test]
async fn what_a_node_writes_is_small() {
    let hub = Hub::joined().await;
    let gw = &node("gw-1");
    let large = hub.check(gw, "POST", EVENTS, event("large", 20 << 10), 422).await;
    assert!(large.message().contains("may not be more than 16384 bytes"), "{}", large.message());
    hub.check(gw, "POST", EVENTS, event("small", 8 << 10), 201).await;
    hub.check(gw, "PATCH", &format!("{EVENTS}/small"), event("small", 20 << 10), 422).await;
    hub.create(EVENTS, event("of-the-administrator", 100 << 10)).await;
    let registered = hub.check(gw, "POST", NODES, json!({"metadata": {"name": "gw-1"}}), 201).await;
    let owners = owned_by(&registered.body);
    let with_args = |name: &str, bytes: usize| {
        let mut pod = mirror(name, &owners, 0);
        pod["spec"]["containers"][0]["args"] = json!(["x".repeat(bytes)]);
        pod
    };
    hub.check(gw, "POST", PODS, with_args("large-gw-1", 33 << 10), 422).await;
    hub.check(gw, "POST", PODS, with_args("small-gw-1", 24 << 10), 201).await;
    let images: Vec<Value> = (0..10).map(|_| json!({"names": ["x".repeat(60 << 10)]})).collect();
    hub.check(gw, "PATCH", &format!("{NODES}/gw-1/status"), json!({"status": {"images": images}}), 422).await;
    hub.create(PODS, crate::harness::pod("p", "gw-1")).await;
    let containers = |bytes: usize| {
        let one = json!({"name": "a", "image": "", "imageID": "x".repeat(bytes), "ready": true, "restartCount": 0});
        json!({"status": {"containerStatuses": vec![one; 10]}})
    };
    hub.check(gw, "PATCH", &format!("{PODS}/p/status"), containers(3600), 422).await;
    hub.check(gw, "PATCH", &format!("{PODS}/p/status"), containers(3300), 200).await;
    let lease = json!({"metadata": {"name": "gw-1", "annotations": {"a": "x".repeat(5000)}}});
    hub.check(gw, "POST", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", lease, 422).await;
    let mut request = csr("large", "gw-1");
    request["metadata"]["annotations"] = json!({"a": "x".repeat(100 << 10)});
    hub.check(gw, "POST", CSRS, request, 422).await;
}

#[tokio::test]
async fn what_a_node_reports_of_its_assignment_is_bounded() {
    let hub = Hub::joined().await;
    let gw = &node("gw-1");
    hub.create(ASSIGNMENTS, json!({"metadata": {"name": "gw-1"}, "spec": {"nodeName": "gw-1"}})).await;
    let path = format!("{ASSIGNMENTS}/gw-1/status");
    let report = |bytes: usize| {
        let condition = json!({"type": "Accepted", "status": "False", "reason": "Wrong", "message": "x".repeat(bytes)});
        let entry = json!({"kind": "Rule", "namespace": "default", "name": "r", "conditions": [condition]});
        json!({"status": {"observedGeneration": 1, "entries": [entry]}})
    };
    let large = hub.check(gw, "PATCH", &path, report(600 << 10), 422).await;
    assert!(large.message().contains("may not be more than 524288 bytes"), "{}", large.message());
    hub.check(gw, "PATCH", &path, report(100 << 10), 200).await;
}

#[tokio::test]
async fn a_node_has_as_many_mirror_pods_as_it_may_run() {
    let hub = Hub::joined().await;
    let gw = &node("gw-1");
    let owners = &hub.owned_by("gw-1").await;
    for number in 0..110 {
        hub.check(gw, "POST", PODS, mirror(&format!("m{number}-gw-1"), owners, 0), 201).await;
    }
    let answer = hub.check(gw, "POST", PODS, mirror("one-more-gw-1", owners, 0), 429).await;
    assert!(answer.message().contains("110 mirror pods"), "{}", answer.message());
    hub.check(gw, "DELETE", &format!("{PODS}/m0-gw-1"), Value::Null, 200).await;
    hub.create(PODS, mirror("of-the-administrator", owners, 0)).await;
}

#[tokio::test]
async fn events_of_a_node_have_a_rate() {
    let hub = Hub::joined().await;
    let gw = &node("gw-1");
    let mut codes = Vec::new();
    for number in 0..1000 {
        codes.push(hub.send(gw, "POST", EVENTS, event(&format!("e{number}"), 0)).await.code);
        if codes.last() != Some(&201) {
            break;
        }
    }
    assert_eq!(codes.last(), Some(&429), "{} were taken", codes.len());
    assert!(codes.len() > 200, "a burst is taken: {}", codes.len());
}
