//! Tests of `unreachable`, over an API in which no kubelet runs.

use super::*;
use crate::testing::TestApi;

/// A Node whose kubelet was last heard, or not.
async fn node(api: &TestApi, ready: &str) {
    let conditions = json!([{"type": "Ready", "status": ready}]);
    if api.find(Kind::Node, ("", "gw-1")).await.is_none() {
        api.make(Kind::Node, json!({"metadata": {"name": "gw-1"}})).await;
    }
    let change = |mut node: Value| {
        node["status"]["conditions"] = conditions;
        node
    };
    assert!(api.context.writer.replace_status_of(Kind::Node, "gw-1", change).await.unwrap());
}

/// A pod as its kubelet last reported it.
async fn pod(api: &TestApi, name: &str, conditions: Value) {
    let container = json!({"name": "main", "image": "file:///bin/true"});
    let spec = json!({"nodeName": "gw-1", "runtimeClassName": "selvedge-process", "containers": [container]});
    api.make(Kind::Pod, json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec})).await;
    report(api, name, conditions).await;
}

async fn report(api: &TestApi, name: &str, conditions: Value) {
    let patch = json!({"status": {"conditions": conditions}});
    assert!(api.context.writer.patch_status(Kind::Pod, ("default", name), &patch).await.unwrap());
}

/// Status and reason of `Ready`.
async fn ready(api: &TestApi, name: &str) -> (Value, Value) {
    let pod = api.find(Kind::Pod, ("default", name)).await.unwrap();
    let mut conditions = pod["status"]["conditions"].as_array().unwrap().iter();
    let ready = conditions.find(|condition| condition["type"] == "Ready").unwrap();
    (ready["status"].clone(), ready["reason"].clone())
}

fn conditions(ready: &str, containers: &str) -> Value {
    let at = "2026-01-01T00:00:00Z";
    json!([
        {"type": "ContainersReady", "status": containers, "lastTransitionTime": at},
        {"type": "Ready", "status": ready, "lastTransitionTime": at},
    ])
}

#[tokio::test]
async fn what_no_kubelet_has_reported_a_while_after_its_return_is_undone() {
    let (api, name) = (TestApi::start().await, Box::from("gw-1"));
    let unreachable = Unreachable::new(api.context.clone());
    node(&api, "Unknown").await;
    for name in ["quiet", "worse"] {
        pod(&api, name, conditions("True", "True")).await;
    }
    pod(&api, "starting", conditions("False", "False")).await;
    assert_eq!(unreachable.reconcile(&name).await.unwrap(), Next::OnChange);
    let marked = (json!("False"), json!(REASON));
    for name in ["quiet", "worse"] {
        assert_eq!(ready(&api, name).await, marked, "{name}");
    }
    node(&api, "True").await;
    let Next::After(left) = unreachable.reconcile(&name).await.unwrap() else { panic!("it looks again") };
    assert!(left > RESTORE_AFTER / 2 && left <= RESTORE_AFTER, "{left:?}");
    assert_eq!(ready(&api, "quiet").await, marked, "the kubelet is asked first");
    // As an older kubelet says it: the reason that it did not give stays.
    let mut worse = conditions("False", "False");
    worse[1]["reason"] = REASON.into();
    report(&api, "worse", worse).await;
    *unreachable.returned.lock().get_mut(&name).unwrap() = Instant::now().checked_sub(RESTORE_AFTER).unwrap();
    assert_eq!(unreachable.reconcile(&name).await.unwrap(), Next::OnChange);
    assert_eq!(ready(&api, "quiet").await, (json!("True"), Value::Null));
    assert_eq!(ready(&api, "worse").await.0, "False");
    assert_eq!(ready(&api, "starting").await, (json!("False"), Value::Null));
    assert!(unreachable.returned.lock().is_empty());
}

#[tokio::test]
async fn a_node_that_goes_again_has_its_time_when_it_is_back() {
    let (api, name) = (TestApi::start().await, Box::from("gw-1"));
    let unreachable = Unreachable::new(api.context.clone());
    let queue = Queue::new(hub_runtime::QueueOptions::default());
    node(&api, "True").await;
    let mut marked = conditions("False", "True");
    marked[1]["reason"] = REASON.into();
    pod(&api, "quiet", marked).await;
    let before = api.context.reader.get(Kind::Node, "", "gw-1");
    assert!(matches!(unreachable.reconcile(&name).await.unwrap(), Next::After(_)), "marked before the hub started");
    node(&api, "Unknown").await;
    let current = api.context.reader.get(Kind::Node, "", "gw-1");
    let change = hub_runtime::Change { kind: Kind::Node, previous: before, current };
    unreachable.observe(&Event::Changed(change), &queue);
    assert!(unreachable.returned.lock().is_empty());
    assert_eq!(queue.lengths().ready + queue.lengths().later, 1);
}
