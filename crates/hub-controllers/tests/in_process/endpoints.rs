//! EndpointSlices and Endpoints.

use hub_runtime::kinds::Kind;
use serde_json::{Value, json};

use crate::hub::Hub;

fn pod(name: &str, app: &str) -> Value {
    let container = json!({"name": "main", "image": "x", "ports": [{"name": "web", "containerPort": 8080}]});
    json!({
        "metadata": {"name": name, "namespace": "default", "labels": {"app": app}},
        "spec": {"nodeName": "gw-1", "containers": [container]},
    })
}

async fn say(hub: &Hub, pod: &str, address: &str, is_ready: bool) {
    let ready = json!({"type": "Ready", "status": if is_ready { "True" } else { "False" }});
    let status = json!({
        "phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": [ready],
    });
    assert!(hub.admin.merge_status(Kind::Pod, ("default", pod), &status).await.expect("the API takes it"));
}

async fn slices(hub: &Hub) -> Vec<Value> {
    let mut slices = hub.list(Kind::EndpointSlice).await;
    slices.retain(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == "web");
    slices
}

/// Addresses in the slices, and whether each is ready.
async fn served(hub: &Hub) -> Vec<(String, bool)> {
    let slices = slices(hub).await;
    let endpoints = slices.iter().flat_map(|slice| slice["endpoints"].as_array().cloned().unwrap_or_default());
    let one = |endpoint: Value| {
        (
            endpoint["addresses"][0].as_str().expect("an endpoint has an address").to_owned(),
            endpoint["conditions"]["ready"] == true,
        )
    };
    let mut served: Vec<(String, bool)> = endpoints.map(one).collect();
    served.sort();
    served
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pods_of_a_service_are_its_endpoints() {
    let hub = Hub::start().await;
    hub.node("gw-1", json!({})).await;
    let ports = json!([{"name": "http", "port": 80, "targetPort": "web"}]);
    let service = json!({
        "metadata": {"name": "web", "namespace": "default", "labels": {"team": "edge"}},
        "spec": {"selector": {"app": "web"}, "ports": ports},
    });
    let service = hub.make(Kind::Service, service).await;
    hub.settled().await;
    let first = slices(&hub).await;
    assert_eq!(first.len(), 1, "one slice says that there is nobody");
    assert_eq!(first[0]["metadata"]["ownerReferences"][0]["uid"], service["metadata"]["uid"]);
    assert_eq!(first[0]["metadata"]["labels"]["team"], "edge");

    for name in ["a", "b"] {
        hub.make(Kind::Pod, pod(name, "web")).await;
    }
    hub.make(Kind::Pod, pod("c", "other")).await;
    say(&hub, "a", "10.39.0.2", true).await;
    say(&hub, "b", "10.39.0.3", false).await;
    say(&hub, "c", "10.39.0.4", true).await;
    hub.settled().await;
    assert_eq!(served(&hub).await, [("10.39.0.2".to_owned(), true), ("10.39.0.3".to_owned(), false)]);
    let slice = &slices(&hub).await[0];
    assert_eq!(slice["ports"], json!([{"name": "http", "protocol": "TCP", "port": 8080}]));
    assert_eq!(
        (&slice["endpoints"][0]["nodeName"], &slice["endpoints"][0]["targetRef"]["name"]),
        (&json!("gw-1"), &json!("a"))
    );
    let endpoints = hub.eventually(Kind::Endpoints, ("default", "web"), |one| one.is_some()).await;
    assert_eq!(endpoints["subsets"][0]["addresses"][0]["ip"], "10.39.0.2");
    assert_eq!(endpoints["subsets"][0]["notReadyAddresses"][0]["ip"], "10.39.0.3");

    // A label more, and a pod less.
    let labels = json!({"metadata": {"labels": {"app": "web"}}});
    hub.admin.merge(Kind::Pod, ("default", "c"), &labels).await.expect("the API takes it");
    let a = hub.get(Kind::Pod, ("default", "a")).await;
    hub.admin.delete(Kind::Pod, &a, Some(0)).await.expect("the API deletes it");
    hub.settled().await;
    assert_eq!(served(&hub).await, [("10.39.0.3".to_owned(), false), ("10.39.0.4".to_owned(), true)]);

    // A restart writes nothing that is right already, and a slice that somebody deleted is written anew.
    let mut hub = hub;
    hub.stop_controllers().await;
    let before = hub.store.current();
    hub.start_controllers(crate::hub::Source::Store).await;
    hub.settled().await;
    assert_eq!(hub.store.current(), before);
    hub.admin.delete(Kind::EndpointSlice, &slices(&hub).await[0], None).await.expect("the API deletes it");
    hub.settled().await;
    assert_eq!(served(&hub).await.len(), 2);

    hub.admin.delete(Kind::Service, &service, None).await.expect("the API deletes it");
    hub.settled().await;
    assert!(slices(&hub).await.is_empty(), "they are collected with it");
    hub.eventually(Kind::Endpoints, ("default", "web"), |one| one.is_none()).await;
    hub.stop_controllers().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_that_somebody_else_writes_are_mirrored() {
    let hub = Hub::start().await;
    let service = json!({
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"ports": [{"name": "http", "port": 80}]},
    });
    hub.make(Kind::Service, service).await;
    let port = json!({"name": "http", "port": 8080, "protocol": "TCP"});
    let endpoints = json!({
        "metadata": {"name": "web", "namespace": "default", "labels": {"team": "edge"}},
        "subsets": [{"addresses": [{"ip": "192.0.2.1"}], "notReadyAddresses": [{"ip": "192.0.2.2"}], "ports": [port]}],
    });
    let endpoints = hub.make(Kind::Endpoints, endpoints).await;
    hub.settled().await;
    assert_eq!(served(&hub).await, [("192.0.2.1".to_owned(), true), ("192.0.2.2".to_owned(), false)]);
    let slice = &slices(&hub).await[0];
    assert_eq!(slice["ports"], json!([port]));
    assert_eq!(slice["metadata"]["labels"]["team"], "edge");
    assert_eq!(slice["metadata"]["ownerReferences"][0]["uid"], endpoints["metadata"]["uid"]);

    // Another address, and another label.
    let label = json!({"metadata": {"labels": {"team": "core"}}});
    let patch = json!({"subsets": [{"addresses": [{"ip": "192.0.2.2"}, {"ip": "192.0.2.3"}], "ports": [port]}]});
    for patch in [label, patch] {
        hub.admin.merge(Kind::Endpoints, ("default", "web"), &patch).await.expect("the API takes it");
    }
    hub.settled().await;
    assert_eq!(served(&hub).await, [("192.0.2.2".to_owned(), true), ("192.0.2.3".to_owned(), true)]);
    assert_eq!(slices(&hub).await[0]["metadata"]["labels"]["team"], "core");

    // Nobody mirrors those of whoever leads.
    let skip = json!({"metadata": {"labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}}});
    hub.admin.merge(Kind::Endpoints, ("default", "web"), &skip).await.expect("the API takes it");
    hub.settled().await;
    assert!(slices(&hub).await.is_empty());
    hub.stop().await;
}
