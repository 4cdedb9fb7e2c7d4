//! Disruption budgets: their status follows pods, workloads and evictions.

use hub_runtime::kinds::Kind;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::hub::{Hub, stateful_set};

fn budget(name: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec})
}

/// Expected, desired, healthy and allowed.
fn counts(budget: &Value) -> [i64; 4] {
    ["expectedPods", "desiredHealthy", "currentHealthy", "disruptionsAllowed"]
        .map(|field| budget["status"][field].as_i64().unwrap_or(-1))
}

async fn counts_are(hub: &Hub, name: &str, expected: [i64; 4]) -> Value {
    hub.with(Kind::PodDisruptionBudget, name, |budget| counts(budget) == expected).await
}

/// Status code and message of an eviction.
async fn evict(hub: &Hub, pod: &str) -> (u16, String) {
    let eviction =
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": "default"}});
    let request = http::Request::post(format!("/api/v1/namespaces/default/pods/{pod}/eviction"))
        .header("content-type", "application/json")
        .body(eviction.to_string().into_bytes())
        .expect("it is a request");
    match hub.admin.client().request::<Value>(request).await {
        Ok(_) => (201, String::new()),
        Err(kube::Error::Api(status)) => (status.code, status.message.clone()),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_follows_its_pods_and_an_eviction_spends_it() {
    let mut hub = Hub::start().await;
    let spec = json!({"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}});
    hub.make(Kind::PodDisruptionBudget, budget("web", spec)).await;
    let is_looked_at = |budget: &Value| budget["status"]["conditions"][0]["reason"] == "InsufficientPods";
    let empty = hub.with(Kind::PodDisruptionBudget, "web", is_looked_at).await;
    assert_eq!(counts(&empty), [0, 0, 0, 0]);
    let event = hub.event_of("web", "NoPods").await;
    assert_eq!((&event["message"], &event["type"]), (&json!("No matching pods found"), &json!("Normal")));

    hub.make(Kind::StatefulSet, stateful_set("web", 3)).await;
    hub.play_kubelet_until(&["web-0+", "web-1+", "web-2+"]).await;
    let full = counts_are(&hub, "web", [3, 2, 3, 1]).await;
    let condition = &full["status"]["conditions"][0];
    assert_eq!((&condition["type"], &condition["status"]), (&json!("DisruptionAllowed"), &json!("True")));
    assert_eq!(condition["reason"], "SufficientPods");
    assert_eq!(full["status"]["observedGeneration"], full["metadata"]["generation"]);

    assert_eq!(evict(&hub, "web-2").await.0, 201);
    // Its deletion is seen soon.
    hub.with(Kind::PodDisruptionBudget, "web", |budget| {
        counts(budget) == [3, 2, 2, 0] && budget["status"]["disruptedPods"].is_null()
    })
    .await;
    let (code, message) = evict(&hub, "web-1").await;
    assert_eq!((code, &*message), (429, "Cannot evict pod as it would violate the pod's disruption budget."));
    hub.play_kubelet_until(&["web-0+", "web-1+", "web-2+"]).await;
    counts_are(&hub, "web", [3, 2, 3, 1]).await;

    hub.report("web-0", "Running", "False").await;
    counts_are(&hub, "web", [3, 2, 2, 0]).await;
    hub.ready(&["web-0"]).await;
    counts_are(&hub, "web", [3, 2, 3, 1]).await;
    // Another limit is another generation.
    hub.patch(Kind::PodDisruptionBudget, "web", json!({"spec": {"maxUnavailable": "50%"}})).await;
    counts_are(&hub, "web", [3, 1, 3, 2]).await;
    hub.settled().await;
    hub.stop_controllers().await;
    let before = hub.revision().await;
    hub.start_controllers().await;
    hub.settled().await;
    assert_eq!(hub.revision().await, before, "nothing is written that is right already");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_eviction_that_was_noted_is_awaited_for_two_minutes() {
    let hub = Hub::start().await;
    hub.make(Kind::StatefulSet, stateful_set("web", 2)).await;
    hub.play_kubelet_until(&["web-0+", "web-1+"]).await;
    let spec = json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}});
    hub.make(Kind::PodDisruptionBudget, budget("web", spec)).await;
    counts_are(&hub, "web", [2, 1, 2, 1]).await;
    let ago = |seconds: u64| {
        let time = Timestamp::now() - std::time::Duration::from_secs(seconds);
        time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    };
    let note = async |pods: Value| {
        let key = ("default", "web");
        let status = json!({"disruptedPods": pods});
        hub.admin.merge_status(Kind::PodDisruptionBudget, key, &status).await.expect("the API takes it");
    };
    note(json!({"web-0": ago(10)})).await;
    counts_are(&hub, "web", [2, 1, 1, 0]).await;
    note(json!({"web-0": ago(180)})).await;
    let again = counts_are(&hub, "web", [2, 1, 2, 1]).await;
    assert!(again["status"]["disruptedPods"].is_null(), "{again}");
    let event = hub.event_of("web-0", "NotDeleted").await;
    assert_eq!(event["message"], "Pod was expected by PDB default/web to be deleted but it wasn't");

    // A pod that was to be disrupted and was not says so no more.
    let target = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting",
        "lastTransitionTime": ago(180),
    });
    let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": ago(10)});
    let status = json!({"conditions": [ready, target]});
    hub.admin.merge_status(Kind::Pod, ("default", "web-1"), &status).await.expect("the API takes it");
    let pod = hub.with(Kind::Pod, "web-1", |pod| pod["status"]["conditions"][1]["status"] == "False").await;
    let condition = &pod["status"]["conditions"][1];
    assert_eq!((&condition["type"], &condition["reason"]), (&json!("DisruptionTarget"), &Value::Null));
    assert_eq!(pod["status"]["conditions"][0]["status"], "True");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_many_pods_there_should_be_is_asked_of_who_controls_them() {
    let hub = Hub::start().await;
    let template = |app: &str| {
        json!({
            "metadata": {"labels": {"app": app}},
            "spec": {"containers": [{"name": "main", "image": "registry.example/app:1"}]},
        })
    };
    let workload = |name: &str, app: &str, replicas: i64, owners: Value| {
        json!({
            "metadata": {"name": name, "namespace": "default", "ownerReferences": owners},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": app}}, "template": template(app)},
        })
    };
    let owner = |object: &Value| {
        json!([{
            "apiVersion": object["apiVersion"], "kind": object["kind"], "name": object["metadata"]["name"],
            "uid": object["metadata"]["uid"], "controller": true,
        }])
    };
    let pod = async |name: &str, app: &str, owners: Value| {
        let metadata = json!({"name": name, "namespace": "default", "labels": {"app": app}, "ownerReferences": owners});
        let spec = json!({"nodeName": "gw-1", "containers": [{"name": "main", "image": "registry.example/app:1"}]});
        hub.make(Kind::Pod, json!({"metadata": metadata, "spec": spec})).await;
        hub.ready(&[name]).await;
    };
    // Two ReplicaSets of one Deployment count once.
    let deployment = hub.make(Kind::Deployment, workload("d", "d", 7, json!([]))).await;
    for name in ["d-1", "d-2"] {
        let set = hub.make(Kind::ReplicaSet, workload(name, "d", 3, owner(&deployment))).await;
        pod(name, "d", owner(&set)).await;
    }
    // A ReplicaSet of nobody, and a ReplicationController.
    let set = hub.make(Kind::ReplicaSet, workload("r", "r", 4, json!([]))).await;
    pod("r-1", "r", owner(&set)).await;
    let mut controller = workload("c", "c", 2, json!([]));
    controller["spec"]["selector"] = json!({"app": "c"});
    let controller = hub.make(Kind::ReplicationController, controller).await;
    pod("c-1", "c", owner(&controller)).await;
    // What somebody has defined, with a scale.
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let version = json!({
        "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
        "subresources": {"scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"}},
    });
    let definition = json!({
        "metadata": {"name": "gadgets.example.org"},
        "spec": {
            "group": "example.org", "scope": "Namespaced", "versions": [version],
            "names": {"kind": "Gadget", "plural": "gadgets", "singular": "gadget", "listKind": "GadgetList"},
        },
    });
    hub.make(Kind::CustomResourceDefinition, definition).await;
    let gadget = json!({
        "apiVersion": "example.org/v1", "kind": "Gadget", "metadata": {"name": "g"}, "spec": {"size": 5},
    });
    let mut made = None;
    for _ in 0..200 {
        let request = http::Request::post("/apis/example.org/v1/namespaces/default/gadgets")
            .header("content-type", "application/json")
            .body(gadget.to_string().into_bytes())
            .expect("it is a request");
        made = hub.admin.client().request::<Value>(request).await.ok();
        if made.is_some() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let gadget = made.expect("the API serves what was defined");
    pod("g-1", "g", owner(&gadget)).await;
    // Nobody's.
    pod("n-1", "n", json!([])).await;
    for (app, expected) in [("d", 7), ("r", 4), ("c", 2), ("g", 5), ("n", 0)] {
        let spec = json!({"minAvailable": "100%", "selector": {"matchLabels": {"app": app}}});
        hub.make(Kind::PodDisruptionBudget, budget(app, spec)).await;
        let healthy = if app == "d" { 2 } else { 1 };
        counts_are(&hub, app, [expected, expected, healthy, 0]).await;
        hub.delete(Kind::PodDisruptionBudget, app, None).await;
    }
    let event = hub.event_of("n", "UnmanagedPods").await;
    assert!(
        event["message"].as_str().is_some_and(|message| message.contains("MatchLabels:map[string]string{app: n,}"))
    );

    // A controller that has no scale: nothing may be disrupted.
    let config = hub.make(Kind::ConfigMap, json!({"metadata": {"name": "m", "namespace": "default"}})).await;
    pod("m-1", "m", owner(&config)).await;
    let spec = json!({"maxUnavailable": 1, "selector": {"matchLabels": {"app": "m"}}});
    hub.make(Kind::PodDisruptionBudget, budget("m", spec)).await;
    let failed = hub
        .with(Kind::PodDisruptionBudget, "m", |budget| budget["status"]["conditions"][0]["reason"] == "SyncFailed")
        .await;
    assert_eq!(failed["status"]["disruptionsAllowed"], 0);
    let message = "configmaps does not implement the scale subresource";
    assert_eq!(failed["status"]["conditions"][0]["message"], message);
    hub.stop().await;
}
