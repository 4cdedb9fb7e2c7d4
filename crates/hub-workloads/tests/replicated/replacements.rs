//! Pods of nodes that are out of reach.

use hub_runtime::kinds::Kind;
use serde_json::{Value, json};

use crate::hub::Hub;
use crate::replicasets::template;

fn on_node(name: &str, node: &str, annotations: Value) -> Value {
    let mut template = template(name, "one");
    template["spec"]["nodeName"] = json!(node);
    let selector = json!({"matchLabels": {"app": name}});
    json!({
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"replicas": 1, "selector": selector, "template": template},
    })
}

async fn node(hub: &Hub, name: &str, ready: &str) {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    hub.admin.create(Kind::Node, node).await.expect("the API takes it");
    say(hub, name, ready).await;
}

async fn say(hub: &Hub, name: &str, ready: &str) {
    let condition = json!({"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let status = json!({"conditions": [condition]});
    assert!(hub.admin.merge_status(Kind::Node, ("", name), &status).await.expect("the API takes it"));
}

async fn uids(hub: &Hub, app: &str) -> Vec<Value> {
    let pods = hub.pods().await;
    let of_app = pods.iter().filter(|pod| pod["metadata"]["labels"]["app"] == app);
    of_app.map(|pod| pod["metadata"]["uid"].clone()).collect()
}

async fn uid(hub: &Hub, app: &str) -> Value {
    let uids = uids(hub, app).await;
    assert_eq!(uids.len(), 1, "{app}");
    uids[0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_a_node_out_of_reach_are_replaced_where_their_workload_asks_for_it() {
    let hub = Hub::start().await;
    node(&hub, "gw-1", "True").await;
    let annotation = "selvedge.dev/replace-when-unreachable";
    let workloads = [
        ("moves", json!({annotation: "10m"})),
        ("later", json!({annotation: "87600h"})),
        ("stays", json!({})),
        ("typo", json!({annotation: "soon"})),
    ];
    for (name, annotations) in &workloads {
        hub.make(Kind::Deployment, on_node(name, "gw-1", annotations.clone())).await;
        hub.with(Kind::Deployment, name, |one| one["status"]["availableReplicas"] == 1).await;
    }
    let mut before = Vec::new();
    for (name, _) in &workloads {
        before.push(uid(&hub, name).await);
    }
    // Not one node is in reach: it is the hub that is cut off.
    say(&hub, "gw-1", "Unknown").await;
    hub.settled().await;
    assert_eq!(uid(&hub, "moves").await, before[0]);

    node(&hub, "gw-2", "Unknown").await;
    say(&hub, "gw-2", "True").await;
    for _ in 0..500 {
        // The one is deleted a moment before the other is created.
        let moved = uids(&hub, "moves").await;
        if !moved.is_empty() && moved[0] != before[0] {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    hub.settled().await;
    let mut after = Vec::new();
    for (name, _) in &workloads {
        after.push(uid(&hub, name).await);
    }
    assert_ne!(after[0], before[0]);
    assert_eq!(after[1..], before[1..]);
    let sets = hub.list(Kind::ReplicaSet).await;
    let typo = sets.iter().find(|set| set["metadata"]["labels"]["app"] == "typo").expect("its set");
    let events = hub.events(typo["metadata"]["name"].as_str().unwrap()).await;
    assert!(
        events.iter().any(|(reason, message)| reason == "InvalidAnnotation" && message.contains("soon")),
        "{events:?}"
    );
}
