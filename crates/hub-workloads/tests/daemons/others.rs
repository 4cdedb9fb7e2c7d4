//! What the other controllers of a hub do with DaemonSets and their pods: the garbage collector, those that look at nodes, and all of
//! them at a restart.

use hub_runtime::kinds::Kind;
use hub_runtime::writer::Target;
use kube::api::PropagationPolicy;
use serde_json::{Value, json};

use crate::hub::{Hub, Source, condition, daemon_set, name_of};

async fn delete(hub: &Hub, kind: Kind, object: &Value, propagation: PropagationPolicy) {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    let target = Target { namespace: text("namespace"), name: text("name"), uid: text("uid") };
    assert!(hub.admin.delete_target(kind, target, None, Some(propagation)).await.expect("the API takes it"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_set_is_deleted_after_its_pods_or_leaves_them_behind() {
    let hub = Hub::start().await;
    hub.gateways(&["gw-1", "gw-2"]).await;
    let set = hub.make(Kind::DaemonSet, daemon_set("agent")).await;
    let pods = hub.alive_pods(2).await;
    hub.settled().await;
    delete(&hub, Kind::DaemonSet, &set, PropagationPolicy::Orphan).await;
    hub.eventually(Kind::DaemonSet, ("default", "agent"), |set| set.is_none()).await;
    hub.settled().await;
    let left = hub.alive_pods(2).await;
    for (before, after) in pods.iter().zip(&left) {
        assert_eq!(before["metadata"]["uid"], after["metadata"]["uid"]);
        assert!(after["metadata"]["ownerReferences"].as_array().is_none_or(Vec::is_empty), "{after}");
    }

    let again = hub.make(Kind::DaemonSet, daemon_set("agent")).await;
    hub.settled().await;
    delete(&hub, Kind::DaemonSet, &again, PropagationPolicy::Foreground).await;
    hub.alive_pods(0).await;
    hub.settled().await;
    // Their kubelets have not ended them yet.
    let waits = hub.find(Kind::DaemonSet, ("default", "agent")).await;
    assert!(waits.is_some_and(|set| set["metadata"]["finalizers"] == json!(["foregroundDeletion"])));
    hub.end_pods().await;
    hub.eventually(Kind::DaemonSet, ("default", "agent"), |set| set.is_none()).await;
    hub.stop().await;
}

/// A box that is out of reach ends its pods when it is back: until then their names are not free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_that_is_made_again_waits_for_the_pods_of_the_former_one_without_asking_for_them() {
    let hub = Hub::start().await;
    hub.gateways(&["gw-1", "gw-2"]).await;
    let set = hub.make(Kind::DaemonSet, daemon_set("agent")).await;
    let former = hub.alive_pods(2).await;
    delete(&hub, Kind::DaemonSet, &set, PropagationPolicy::Background).await;
    hub.alive_pods(0).await;
    hub.settled().await;
    let again = hub.make(Kind::DaemonSet, daemon_set("agent")).await;
    hub.settled().await;
    let runs = hub.runs();
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(hub.runs(), runs, "nothing is tried while the names are taken");
    hub.end_pods().await;
    for pod in hub.alive_pods(2).await {
        assert_eq!(pod["metadata"]["ownerReferences"][0]["uid"], again["metadata"]["uid"]);
        assert!(former.iter().all(|before| before["metadata"]["uid"] != pod["metadata"]["uid"]));
    }
    hub.stop().await;
}

/// Two nodes, each with a pod of the set `agent` that runs, and a device `box` on the first. The pods.
async fn daemons_and_a_device(hub: &Hub) -> Vec<Value> {
    hub.gateways(&["gw-1", "gw-2"]).await;
    hub.make(Kind::DaemonSet, daemon_set("agent")).await;
    let pods = hub.alive_pods(2).await;
    hub.make_ready(&pods).await;
    let resource = json!({"name": "CPU", "properties": {"valueType": "Float64", "readWrite": "R"}});
    hub.make(Kind::DeviceProfile, json!({"metadata": {"name": "host"}, "spec": {"deviceResources": [resource]}})).await;
    let spec = json!({"nodeName": "gw-1", "profileName": "host", "serviceName": "host"});
    hub.make(Kind::Device, json!({"metadata": {"name": "box", "namespace": "default"}, "spec": spec})).await;
    pods
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_writes_nothing_that_is_right_already() {
    let mut hub = Hub::start().await;
    daemons_and_a_device(&hub).await;
    let rule = json!({"metadata": {"name": "r", "namespace": "default"}, "spec": {"sql": "SELECT CPU FROM host", "actions": [{"log": {}}]}});
    hub.make(Kind::Rule, rule).await;
    hub.set_with("agent", |set| set["status"]["numberAvailable"] == 2).await;
    hub.eventually(Kind::NodeAssignment, ("", "gw-2"), |one| one.is_some()).await;
    for source in [Source::Store, Source::Watches] {
        hub.settled().await;
        hub.stop_controllers().await;
        let before = hub.revision().await;
        hub.start_controllers(source).await;
        hub.settled().await;
        assert_eq!(hub.revision().await, before);
    }
    hub.stop().await;
}

fn with_ready(status: &str) -> Value {
    json!({"conditions": [{"type": "Ready", "status": status, "reason": "Test", "lastTransitionTime": "2026-01-01T00:00:00Z"}]})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_out_of_reach_takes_its_pods_and_devices_out_of_the_count() {
    let mut hub = Hub::start().await;
    let pods = daemons_and_a_device(&hub).await;
    let assigned = |one: Option<&Value>| {
        one.is_some_and(|one| one["spec"]["entries"].as_array().is_some_and(|entries| entries.len() == 2))
    };
    let assignment = hub.eventually(Kind::NodeAssignment, ("", "gw-1"), assigned).await;
    let fine = |r#type: &str| json!({"type": r#type, "status": "True", "reason": "Fine", "message": ""});
    let conditions = [fine("Accepted"), fine("Applied"), fine("Ready")];
    let entry =
        json!({"kind": "Device", "namespace": "default", "name": "box", "generation": 1, "conditions": conditions});
    let reported = json!({"observedGeneration": assignment["metadata"]["generation"], "entries": [entry]});
    hub.admin.merge_status(Kind::NodeAssignment, ("", "gw-1"), &reported).await.expect("the API takes the status");
    let device = |status: &'static str| {
        let hub = &hub;
        async move {
            let key = ("default", "box");
            let is_so = |one: &Value| condition(one, "Ready")["status"] == status;
            hub.eventually(Kind::Device, key, |one| one.is_some_and(is_so)).await
        }
    };
    device("True").await;
    hub.set_with("agent", |set| set["status"]["numberReady"] == 2).await;

    hub.admin.merge_status(Kind::Node, ("", "gw-1"), &with_ready("Unknown")).await.expect("the API takes the status");
    hub.set_with("agent", |set| {
        set["status"]["numberReady"] == 1
            && set["status"]["numberAvailable"] == 1
            && set["status"]["desiredNumberScheduled"] == 2
    })
    .await;
    assert_eq!(condition(&device("Unknown").await, "Ready")["reason"], "NodeUnreachable");
    let lost = pods.iter().find(|pod| pod["spec"]["nodeName"] == "gw-1").expect("it has a pod");
    let after = hub.eventually(Kind::Pod, ("default", name_of(lost)), |pod| pod.is_some()).await;
    assert_eq!(after["metadata"]["uid"], lost["metadata"]["uid"]);
    assert!(after["metadata"]["deletionTimestamp"].is_null() && after["status"]["phase"] == "Running", "{after}");
    assert_eq!(condition(&after, "Ready")["status"], "False");

    // A hub that starts now finds nothing to write; what a kubelet reports meanwhile is its word.
    hub.settled().await;
    hub.stop_controllers().await;
    let before = hub.revision().await;
    hub.start_controllers(Source::Store).await;
    hub.settled().await;
    assert_eq!(hub.revision().await, before);
    hub.make_ready([lost]).await;
    hub.set_with("agent", |set| set["status"]["numberReady"] == 2).await;
    hub.admin.merge_status(Kind::Node, ("", "gw-1"), &with_ready("True")).await.expect("the API takes the status");
    hub.eventually(Kind::Device, ("default", "box"), |one| {
        one.is_some_and(|one| condition(one, "Ready")["status"] == "True")
    })
    .await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_was_killed_halfway_finishes_with_the_pods_of_a_node_out_of_reach() {
    let mut hub = Hub::start().await;
    hub.gateways(&["gw-1"]).await;
    hub.make(Kind::DaemonSet, daemon_set("agent")).await;
    let pods = hub.alive_pods(1).await;
    hub.make_ready(&pods).await;
    hub.set_with("agent", |set| set["status"]["numberReady"] == 1).await;
    hub.stop_controllers().await;
    hub.admin.merge_status(Kind::Node, ("", "gw-1"), &with_ready("Unknown")).await.expect("the API takes the status");
    for source in [Source::Store, Source::Watches] {
        hub.start_controllers(source).await;
        hub.set_with("agent", |set| set["status"]["numberReady"] == 0).await;
        hub.make_ready(&pods).await;
        hub.set_with("agent", |set| set["status"]["numberReady"] == 1).await;
        hub.stop_controllers().await;
    }
    hub.stop().await;
}
