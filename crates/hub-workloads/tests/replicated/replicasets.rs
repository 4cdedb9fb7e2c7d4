//! ReplicaSets and ReplicationControllers.

use std::collections::BTreeSet;
use std::time::Duration;

use hub_runtime::kinds::Kind;
use serde_json::{Value, json};

use crate::hub::{BROKEN, Hub, REJECTED};

pub(crate) fn template(app: &str, image: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "main", "image": image}]}})
}

fn set(name: &str, replicas: i64, image: &str) -> Value {
    let selector = json!({"matchLabels": {"app": name}});
    json!({"metadata": {"name": name}, "spec": {"replicas": replicas, "selector": selector, "template": template(name, image)}})
}

fn has(status: &'static str, number: i64) -> impl Fn(&Value) -> bool {
    move |object| object["status"][status] == number
}

fn names(pods: &[Value]) -> BTreeSet<String> {
    pods.iter().map(|pod| pod["metadata"]["name"].as_str().expect("a pod has a name").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_has_as_many_pods_as_it_says() {
    let hub = Hub::start().await;
    hub.make(Kind::ReplicaSet, set("web", 3, "one")).await;
    let status = hub.with(Kind::ReplicaSet, "web", has("availableReplicas", 3)).await["status"].clone();
    for field in ["replicas", "readyReplicas", "fullyLabeledReplicas"] {
        assert_eq!(status[field], 3, "{status}");
    }
    assert_eq!((&status["terminatingReplicas"], &status["observedGeneration"]), (&json!(0), &json!(1)));
    let pods = hub.pods().await;
    assert_eq!(pods.len(), 3);
    let owner = &pods[0]["metadata"]["ownerReferences"][0];
    assert_eq!(
        (&owner["kind"], &owner["controller"], &owner["blockOwnerDeletion"]),
        (&json!("ReplicaSet"), &json!(true), &json!(true))
    );
    assert!(pods[0]["metadata"]["name"].as_str().unwrap().starts_with("web-"));

    // One that is deleted is replaced by another, and the others stay.
    hub.admin.delete(Kind::Pod, &pods[0], None).await.unwrap();
    hub.settled().await;
    let after = names(&hub.pods().await);
    assert_eq!((after.len(), after.intersection(&names(&pods)).count()), (3, 2));

    hub.patch(Kind::ReplicaSet, "web", json!({"spec": {"replicas": 1}})).await;
    hub.with(Kind::ReplicaSet, "web", |set| {
        set["status"]["replicas"] == 1 && set["status"]["terminatingReplicas"] == 0
    })
    .await;
    assert_eq!(hub.pods().await.len(), 1);
    hub.settled().await;
    let events = hub.events("web").await;
    let count = |reason: &str| events.iter().filter(|(one, _)| one == reason).count();
    assert_eq!((count("SuccessfulCreate"), count("SuccessfulDelete")), (4, 2), "{events:?}");
    assert!(events[0].1.starts_with("Created pod: web-"), "{events:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_creates_nothing_twice_and_writes_nothing() {
    let mut hub = Hub::start().await;
    hub.make(Kind::ReplicaSet, set("web", 20, "one")).await;
    hub.make(Kind::ReplicaSet, set("broken", 2, BROKEN)).await;
    // In the middle of it.
    tokio::time::sleep(Duration::from_millis(10)).await;
    hub.stop_controllers().await;
    hub.start_controllers().await;
    hub.with(Kind::ReplicaSet, "web", has("availableReplicas", 20)).await;
    let revision = hub.settled().await;
    assert_eq!(hub.pods().await.len(), 22);
    hub.stop_controllers().await;
    hub.start_controllers().await;
    assert_eq!(hub.settled().await, revision, "everything is as it should be already");
    assert!(hub.runs() < 20, "each key runs once or twice after a start, not {}", hub.runs());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_nobody_are_adopted_and_pods_of_other_labels_released() {
    let hub = Hub::start().await;
    let mut orphan = template("web", "one");
    orphan["metadata"]["name"] = json!("orphan");
    hub.make(Kind::Pod, orphan).await;
    hub.make(Kind::ReplicaSet, set("web", 2, "one")).await;
    hub.with(Kind::ReplicaSet, "web", has("availableReplicas", 2)).await;
    let pods = hub.pods().await;
    assert_eq!((pods.len(), names(&pods).contains("orphan")), (2, true));
    let owner = hub.get(Kind::Pod, "orphan").await["metadata"]["ownerReferences"][0]["name"].clone();
    assert_eq!(owner, "web");
    // One that has it as an owner and not as its controller has it once afterwards.
    let mut owners = hub.get(Kind::Pod, "orphan").await["metadata"]["ownerReferences"].clone();
    owners[0]["controller"] = json!(false);
    hub.patch(Kind::Pod, "orphan", json!({"metadata": {"ownerReferences": owners}})).await;
    let pod = hub.with(Kind::Pod, "orphan", |pod| pod["metadata"]["ownerReferences"][0]["controller"] == true).await;
    assert_eq!(pod["metadata"]["ownerReferences"].as_array().map(Vec::len), Some(1), "{pod}");

    hub.patch(Kind::Pod, "orphan", json!({"metadata": {"labels": {"app": "debugged"}}})).await;
    hub.with(Kind::Pod, "orphan", |pod| pod["metadata"]["ownerReferences"].is_null()).await;
    // The status may be of before: what the set does about it comes first.
    hub.settled().await;
    hub.with(Kind::ReplicaSet, "web", has("availableReplicas", 2)).await;
    assert_eq!(hub.pods().await.len(), 3, "it was replaced, and runs on by itself");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sets_of_one_selector_leave_each_others_pods_alone() {
    let hub = Hub::start().await;
    for name in ["one", "two"] {
        let mut set = set(name, 2, "one");
        set["spec"]["selector"]["matchLabels"] = json!({"app": "web"});
        set["spec"]["template"] = template("web", "one");
        hub.make(Kind::ReplicaSet, set).await;
    }
    for name in ["one", "two"] {
        hub.with(Kind::ReplicaSet, name, has("availableReplicas", 2)).await;
    }
    let revision = hub.settled().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!((hub.settled().await, hub.pods().await.len()), (revision, 4), "nobody takes turns");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_api_rejects_is_said_and_tried_few_times() {
    let hub = Hub::start().await;
    hub.make(Kind::ReplicaSet, set(REJECTED, 50, "one")).await;
    let failed = |set: &Value| set["status"]["conditions"][0]["type"] == "ReplicaFailure";
    let set = hub.with(Kind::ReplicaSet, REJECTED, failed).await;
    let condition = &set["status"]["conditions"][0];
    assert_eq!((&condition["status"], &condition["reason"]), (&json!("True"), &json!("FailedCreate")));
    assert!(condition["message"].as_str().unwrap().contains("not this one"), "{condition}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let tried = hub.rejected();
    assert!(tried < 10, "{tried} of 50 pods were tried in a second");
    let events = hub.events(REJECTED).await;
    assert!(events[0].1.starts_with("Error creating: "), "{events:?}");

    hub.patch(Kind::ReplicaSet, REJECTED, json!({"spec": {"replicas": 0}})).await;
    hub.with(Kind::ReplicaSet, REJECTED, |set| set["status"]["conditions"].is_null()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replication_controller_is_a_set_of_another_selector() {
    let hub = Hub::start().await;
    let spec = json!({"replicas": 2, "selector": {"app": "web"}, "template": template("web", "one")});
    hub.make(Kind::ReplicationController, json!({"metadata": {"name": "web"}, "spec": spec})).await;
    let controller = hub.with(Kind::ReplicationController, "web", has("availableReplicas", 2)).await;
    assert!(controller["status"]["terminatingReplicas"].is_null(), "{controller}");
    hub.patch(Kind::ReplicationController, "web", json!({"spec": {"replicas": 0}})).await;
    hub.with(Kind::ReplicationController, "web", has("replicas", 0)).await;
}
