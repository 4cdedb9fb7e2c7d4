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

fn mirror(name: &str, annotation: usize) -> Value {
    json!({
        "metadata": {
            "name": name,
            "annotations": {"kubernetes.io/config.mirror": "x", "a": "x".repeat(annotation)},
        },
        "spec": {"nodeName": "gw-1", "containers": [{"name": "a", "image": "file:///bin/true"}]},
    })
}

#[tokio::test]
async fn what_a_node_writes_is_small() {
    let hub = Hub::start().await;
    let gw = &node("gw-1");
    let large = hub.check(gw, "POST", EVENTS, event("large", 20 << 10), 422).await;
    assert!(large.message().contains("may not be more than 16384 bytes"), "{}", large.message());
    hub.check(gw, "POST", EVENTS, event("small", 8 << 10), 201).await;
    hub.check(gw, "PATCH", &format!("{EVENTS}/small"), event("small", 20 << 10), 422).await;
    hub.create(EVENTS, event("of-the-administrator", 100 << 10)).await;
    // Larger than the annotations may be in all.
    let mut pod = mirror("large", 0);
    pod["spec"]["containers"][0]["args"] = json!(["x".repeat(260 << 10)]);
    hub.check(gw, "POST", PODS, pod, 422).await;
    hub.check(gw, "POST", NODES, json!({"metadata": {"name": "gw-1"}}), 201).await;
    let images: Vec<Value> = (0..10).map(|_| json!({"names": ["x".repeat(60 << 10)]})).collect();
    hub.check(gw, "PATCH", &format!("{NODES}/gw-1/status"), json!({"status": {"images": images}}), 422).await;
    hub.create(PODS, crate::harness::pod("p", "gw-1")).await;
    let containers: Vec<Value> = (0..10)
        .map(|_| json!({"name": "a", "image": "", "imageID": "x".repeat(20 << 10), "ready": true, "restartCount": 0}))
        .collect();
    let status = json!({"status": {"containerStatuses": containers}});
    hub.check(gw, "PATCH", &format!("{PODS}/p/status"), status, 422).await;
    let lease = json!({"metadata": {"name": "gw-1", "annotations": {"a": "x".repeat(5000)}}});
    hub.check(gw, "POST", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", lease, 422).await;
    let mut request = csr("large", "gw-1");
    request["metadata"]["annotations"] = json!({"a": "x".repeat(100 << 10)});
    hub.check(gw, "POST", CSRS, request, 422).await;
}

#[tokio::test]
async fn a_node_has_as_many_mirror_pods_as_it_may_run() {
    let hub = Hub::start().await;
    let gw = &node("gw-1");
    for number in 0..110 {
        hub.check(gw, "POST", PODS, mirror(&format!("m{number}"), 0), 201).await;
    }
    let answer = hub.check(gw, "POST", PODS, mirror("one-more", 0), 429).await;
    assert!(answer.message().contains("110 mirror pods"), "{}", answer.message());
    hub.check(gw, "DELETE", &format!("{PODS}/m0"), Value::Null, 200).await;
    hub.create(PODS, mirror("of-the-administrator", 0)).await;
}

#[tokio::test]
async fn events_of_a_node_have_a_rate() {
    let hub = Hub::start().await;
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
