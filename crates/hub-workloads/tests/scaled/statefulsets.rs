//! StatefulSets: order, updates, claims.

use hub_runtime::kinds::Kind;
use serde_json::{Value, json};

use crate::hub::{Hub, Source, name_of, stateful_set};

fn with_claims(mut set: Value, when_deleted: &str, when_scaled: &str) -> Value {
    let resources = json!({"requests": {"storage": "1Gi"}});
    set["spec"]["volumeClaimTemplates"] = json!([{
        "metadata": {"name": "data", "labels": {"tier": "disk"}},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": resources},
    }]);
    set["spec"]["persistentVolumeClaimRetentionPolicy"] =
        json!({"whenDeleted": when_deleted, "whenScaled": when_scaled});
    set
}

async fn revisions(hub: &Hub) -> Vec<(String, i64)> {
    let revisions = hub.list(Kind::ControllerRevision).await;
    let mut revisions: Vec<(String, i64)> = revisions
        .iter()
        .map(|one| (name_of(one).to_owned(), one["revision"].as_i64().expect("it has a number")))
        .collect();
    revisions.sort_by_key(|(_, number)| *number);
    revisions
}

async fn new_image(hub: &Hub, set: &str, tag: &str) {
    let container = json!({
        "name": "main", "image": format!("registry.example/app:{tag}"), "resources": {"requests": {"cpu": "100m"}},
    });
    hub.patch(Kind::StatefulSet, set, json!({"spec": {"template": {"spec": {"containers": [container]}}}})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_come_up_in_order_and_a_restart_in_between_doubles_nothing() {
    let mut hub = Hub::start().await;
    hub.make(Kind::StatefulSet, with_claims(stateful_set("web", 3), "Retain", "Retain")).await;
    hub.pods_are(&["web-0"]).await;
    let set = hub.with(Kind::StatefulSet, "web", |set| set["status"]["replicas"] == 1).await;
    let pod = hub.find(Kind::Pod, "web-0").await.expect("it was created");
    let labels = &pod["metadata"]["labels"];
    assert_eq!(labels["statefulset.kubernetes.io/pod-name"], "web-0");
    assert_eq!(labels["apps.kubernetes.io/pod-index"], "0");
    assert_eq!(labels["controller-revision-hash"], set["status"]["updateRevision"]);
    assert_eq!((&pod["spec"]["hostname"], &pod["spec"]["subdomain"]), (&json!("web-0"), &json!("peers")));
    assert_eq!(pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"], "data-web-0");
    let claim = hub.find(Kind::PersistentVolumeClaim, "data-web-0").await.expect("it was created");
    assert_eq!(claim["metadata"]["labels"], json!({"tier": "disk", "app": "web"}));
    assert!(claim["metadata"]["ownerReferences"].is_null(), "it stays whatever happens");
    let event = hub.event_of("web", "SuccessfulCreate").await;
    assert_eq!(event["message"], "Create Claim data-web-0 Pod web-0 in StatefulSet web success");

    hub.ready(&["web-0"]).await;
    hub.pods_are(&["web-0+", "web-1"]).await;
    hub.stop_controllers().await;
    let before = hub.revision().await;
    hub.start_controllers().await;
    hub.settled().await;
    assert_eq!(hub.revision().await, before, "nothing is written that is right already");
    hub.stop_controllers().await;
    hub.ready(&["web-1"]).await;
    hub.start_controllers().await;
    hub.pods_are(&["web-0+", "web-1+", "web-2"]).await;
    hub.ready(&["web-2"]).await;
    let set = hub.with(Kind::StatefulSet, "web", |set| set["status"]["readyReplicas"] == 3).await;
    let status = &set["status"];
    for count in ["replicas", "availableReplicas", "currentReplicas", "updatedReplicas"] {
        assert_eq!(status[count], 3, "{count}");
    }
    assert_eq!(status["currentRevision"], status["updateRevision"]);
    assert_eq!(status["observedGeneration"], set["metadata"]["generation"]);
    assert_eq!(status["collisionCount"], 0);
    assert_eq!(revisions(&hub).await.len(), 1);

    // One that is lost comes back before anything else, with its claim.
    hub.delete(Kind::Pod, "web-0", None).await;
    hub.pods_are(&["web-0+!", "web-1+", "web-2+"]).await;
    hub.end_pods().await;
    hub.pods_are(&["web-0", "web-1+", "web-2+"]).await;
    // One that has failed is replaced.
    hub.report("web-0", "Failed", "False").await;
    hub.eventually(Kind::Pod, "web-0", |pod| {
        pod.is_none_or(|pod| pod["status"]["phase"] != "Failed" || !pod["metadata"]["deletionTimestamp"].is_null())
    })
    .await;
    hub.play_kubelet_until(&["web-0+", "web-1+", "web-2+"]).await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_leave_from_the_highest_on_and_come_back_in_parallel() {
    let hub = Hub::start().await;
    let mut set = stateful_set("web", 3);
    set["spec"]["podManagementPolicy"] = json!("Parallel");
    set["spec"]["ordinals"] = json!({"start": 4});
    hub.make(Kind::StatefulSet, set).await;
    hub.pods_are(&["web-4", "web-5", "web-6"]).await;
    hub.patch(Kind::StatefulSet, "web", json!({"spec": {"replicas": 1}})).await;
    hub.pods_are(&["web-4", "web-5!", "web-6!"]).await;
    hub.end_pods().await;
    hub.pods_are(&["web-4"]).await;
    hub.stop().await;

    let hub = Hub::start().await;
    hub.make(Kind::StatefulSet, stateful_set("web", 3)).await;
    hub.play_kubelet_until(&["web-0+", "web-1+", "web-2+"]).await;
    hub.patch(Kind::StatefulSet, "web", json!({"spec": {"replicas": 0}})).await;
    for expected in [&["web-0+", "web-1+", "web-2+!"][..], &["web-0+", "web-1+!"], &["web-0+!"]] {
        hub.pods_are(expected).await;
        hub.end_pods().await;
    }
    hub.pods_are(&[]).await;
    hub.with(Kind::StatefulSet, "web", |set| set["status"]["replicas"] == 0).await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_goes_down_to_the_partition_and_can_be_undone() {
    let mut hub = Hub::start().await;
    hub.make(Kind::StatefulSet, stateful_set("web", 3)).await;
    hub.play_kubelet_until(&["web-0+", "web-1+", "web-2+"]).await;
    let before = hub.with(Kind::StatefulSet, "web", |set| set["status"]["readyReplicas"] == 3).await;
    let first = before["status"]["updateRevision"].as_str().expect("there is one").to_owned();

    let partition = |partition: i64| json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": partition}}}});
    hub.patch(Kind::StatefulSet, "web", partition(2)).await;
    new_image(&hub, "web", "2").await;
    hub.pods_are(&["web-0+", "web-1+", "web-2+!"]).await;
    hub.end_pods().await;
    hub.pods_are(&["web-0+", "web-1+", "web-2"]).await;
    hub.ready(&["web-2"]).await;
    let set = hub.with(Kind::StatefulSet, "web", |set| set["status"]["readyReplicas"] == 3).await;
    let second = set["status"]["updateRevision"].as_str().expect("there is one").to_owned();
    assert_ne!(first, second);
    assert_eq!(set["status"]["currentRevision"], first.as_str());
    hub.with(Kind::StatefulSet, "web", |set| {
        (&set["status"]["currentReplicas"], &set["status"]["updatedReplicas"]) == (&json!(2), &json!(1))
    })
    .await;
    hub.settled().await;
    let image = |pod: Option<Value>| pod.expect("it is there")["spec"]["containers"][0]["image"].clone();
    assert_eq!(image(hub.find(Kind::Pod, "web-2").await), "registry.example/app:2");
    assert_eq!(image(hub.find(Kind::Pod, "web-1").await), "registry.example/app:1");
    // One below the partition is lost: it comes back as it was.
    hub.delete(Kind::Pod, "web-1", Some(0)).await;
    hub.play_kubelet_until(&["web-0+", "web-1+", "web-2+"]).await;
    assert_eq!(image(hub.find(Kind::Pod, "web-1").await), "registry.example/app:1");

    hub.patch(Kind::StatefulSet, "web", partition(0)).await;
    hub.pods_are(&["web-0+", "web-1+!", "web-2+"]).await;
    hub.stop_controllers().await;
    hub.end_pods().await;
    hub.start_controllers().await;
    hub.pods_are(&["web-0+", "web-1", "web-2+"]).await;
    hub.play_kubelet_until(&["web-0+", "web-1+", "web-2+"]).await;
    hub.with(Kind::StatefulSet, "web", |set| set["status"]["currentRevision"] == second.as_str()).await;
    assert_eq!(revisions(&hub).await, [(first.clone(), 1), (second.clone(), 2)]);

    // As `kubectl rollout undo`: what the revision says replaces the template.
    let revision = hub.find(Kind::ControllerRevision, &first).await.expect("it is kept");
    let mut template = revision["data"]["spec"]["template"].clone();
    template.as_object_mut().expect("it is a map").remove("$patch");
    let mut set = hub.find(Kind::StatefulSet, "web").await.expect("it is there");
    set["spec"]["template"] = template;
    set["metadata"].as_object_mut().expect("it is a map").remove("resourceVersion");
    assert!(hub.admin.replace(Kind::StatefulSet, &set).await.expect("the API takes it"));
    hub.with(Kind::StatefulSet, "web", |set| set["status"]["updateRevision"] == first.as_str()).await;
    hub.play_kubelet_until(&["web-0+", "web-1+", "web-2+"]).await;
    hub.with(Kind::StatefulSet, "web", |set| set["status"]["currentRevision"] == first.as_str()).await;
    assert_eq!(revisions(&hub).await, [(second, 2), (first, 3)]);
    assert_eq!(image(hub.find(Kind::Pod, "web-0").await), "registry.example/app:1");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_revisions_end_and_pods_on_delete_are_replaced_by_hand() {
    let hub = Hub::start().await;
    let mut set = stateful_set("web", 1);
    set["spec"]["updateStrategy"] = json!({"type": "OnDelete"});
    set["spec"]["revisionHistoryLimit"] = json!(1);
    hub.make(Kind::StatefulSet, set).await;
    hub.play_kubelet_until(&["web-0+"]).await;
    for tag in ["2", "3", "4"] {
        new_image(&hub, "web", tag).await;
        hub.settled().await;
    }
    hub.pods_are(&["web-0+"]).await;
    // The pod's own, one of the history, and the newest.
    let numbers: Vec<i64> = revisions(&hub).await.into_iter().map(|(_, number)| number).collect();
    assert_eq!(numbers, [1, 3, 4]);
    hub.delete(Kind::Pod, "web-0", Some(0)).await;
    hub.play_kubelet_until(&["web-0+"]).await;
    let pod = hub.find(Kind::Pod, "web-0").await.expect("it is there");
    assert_eq!(pod["spec"]["containers"][0]["image"], "registry.example/app:4");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_is_behind_and_a_restart_create_nothing_twice() {
    const REPLICAS: usize = 40;
    let mut hub = Hub::without_controllers().await;
    let mut set = with_claims(stateful_set("web", 40), "Delete", "Delete");
    set["spec"]["podManagementPolicy"] = json!("Parallel");
    hub.make(Kind::StatefulSet, set).await;
    hub.make(Kind::StatefulSet, stateful_set("slow", 2)).await;
    hub.start_controllers_over(Source::Watches).await;
    hub.eventually(Kind::Pod, "web-3", |pod| pod.is_some()).await;
    hub.stop_controllers().await;
    hub.start_controllers_over(Source::Watches).await;
    hub.eventually(Kind::Pod, "web-39", |pod| pod.is_some()).await;
    hub.settled().await;
    let created: std::collections::BTreeMap<String, Value> = {
        let pods = hub.list(Kind::Pod).await;
        pods.into_iter().map(|pod| (name_of(&pod).to_owned(), pod["metadata"]["uid"].clone())).collect()
    };
    assert_eq!(created.len(), REPLICAS + 1, "{:?}", created.keys());
    let claims = hub.list(Kind::PersistentVolumeClaim).await;
    assert_eq!(claims.len(), REPLICAS);
    hub.ready(&["slow-0"]).await;
    hub.eventually(Kind::Pod, "slow-1", |pod| pod.is_some()).await;
    new_image(&hub, "slow", "2").await;
    hub.with(Kind::StatefulSet, "slow", |set| {
        set["status"]["observedGeneration"] == set["metadata"]["generation"] && set["metadata"]["generation"] == 2
    })
    .await;
    hub.settled().await;
    assert_eq!(revisions(&hub).await.len(), 3);
    hub.patch(Kind::StatefulSet, "web", json!({"spec": {"replicas": 1}})).await;
    hub.with(Kind::Pod, "web-1", |pod| !pod["metadata"]["deletionTimestamp"].is_null()).await;
    hub.settled().await;
    let left = hub.pods().await.into_iter().filter(|pod| !pod.ends_with('!')).collect::<Vec<_>>();
    assert_eq!(left, ["slow-0+", "slow-1", "web-0"]);
    // Nothing had another life in between.
    for pod in hub.list(Kind::Pod).await {
        let known = created.get(name_of(&pod)).unwrap_or(&pod["metadata"]["uid"]);
        assert_eq!(*known, pod["metadata"]["uid"]);
    }
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_default_that_the_api_adds_rolls_nothing() {
    let mut hub = Hub::start().await;
    hub.make(Kind::StatefulSet, stateful_set("web", 2)).await;
    hub.play_kubelet_until(&["web-0+", "web-1+"]).await;
    hub.stop_controllers().await;
    // The revision as an older API would have written it, which knew fewer defaults.
    let (name, _) = revisions(&hub).await.remove(0);
    let mut revision = hub.find(Kind::ControllerRevision, &name).await.expect("it is kept");
    hub.delete(Kind::ControllerRevision, &name, None).await;
    for field in ["uid", "resourceVersion", "creationTimestamp", "managedFields"] {
        revision["metadata"].as_object_mut().expect("it is a map").remove(field);
    }
    let container = &mut revision["data"]["spec"]["template"]["spec"]["containers"][0];
    assert!(container.as_object_mut().expect("it is a map").remove("terminationMessagePath").is_some());
    hub.make(Kind::ControllerRevision, revision).await;
    let before = hub.revision().await;
    hub.start_controllers().await;
    hub.settled().await;
    assert_eq!(hub.revision().await, before, "nothing is written");
    hub.pods_are(&["web-0+", "web-1+"]).await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_adopts_its_pods_and_releases_those_that_are_not() {
    let hub = Hub::start().await;
    let spec = json!({"nodeName": "gw-1", "containers": [{"name": "main", "image": "registry.example/app:1"}]});
    let labels = json!({"app": "web"});
    for name in ["web-0", "web-x", "web-01"] {
        let metadata = json!({"name": name, "namespace": "default", "labels": labels});
        hub.make(Kind::Pod, json!({"metadata": metadata, "spec": spec})).await;
    }
    // Somebody else's has the name of the second.
    let metadata = json!({"name": "web-1", "namespace": "default", "labels": {"app": "other"}});
    hub.make(Kind::Pod, json!({"metadata": metadata, "spec": spec})).await;
    hub.make(Kind::StatefulSet, stateful_set("web", 2)).await;
    let adopted = |pod: &Value| pod["metadata"]["ownerReferences"][0]["name"] == "web";
    hub.with(Kind::Pod, "web-0", adopted).await;
    hub.ready(&["web-0"]).await;
    let pod = hub
        .with(Kind::Pod, "web-0", |pod| pod["metadata"]["labels"]["statefulset.kubernetes.io/pod-name"] == "web-0")
        .await;
    assert_eq!(pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"], "0");
    let event = hub.event_of("web", "FailedCreate").await;
    let message = "Create Pod web-1 in StatefulSet web failed error: pods \"web-1\" already exists";
    assert_eq!(event["message"], message);
    for name in ["web-x", "web-01", "web-1"] {
        assert!(!adopted(&hub.find(Kind::Pod, name).await.expect("it is there")), "{name}");
    }
    hub.patch(Kind::Pod, "web-0", json!({"metadata": {"labels": {"app": "none"}}})).await;
    hub.with(Kind::Pod, "web-0", |pod| pod["metadata"]["ownerReferences"].is_null()).await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_are_kept_or_deleted_as_the_policy_says() {
    let mut hub = Hub::without_controllers().await;
    hub.start_all_controllers().await;
    hub.make(Kind::StatefulSet, with_claims(stateful_set("keeps", 2), "Retain", "Retain")).await;
    hub.make(Kind::StatefulSet, with_claims(stateful_set("drops", 2), "Delete", "Delete")).await;
    hub.play_kubelet_until(&["drops-0+", "drops-1+", "keeps-0+", "keeps-1+"]).await;
    let owner = |claim: &Value| claim["metadata"]["ownerReferences"][0]["kind"].clone();
    let claim = async |name: &str| hub.find(Kind::PersistentVolumeClaim, name).await;
    assert_eq!(owner(&claim("data-drops-1").await.expect("it was created")), "StatefulSet");
    for set in ["keeps", "drops"] {
        hub.patch(Kind::StatefulSet, set, json!({"spec": {"replicas": 1}})).await;
    }
    let is_of_pod = |claim: &Value| owner(claim) == "Pod";
    hub.with(Kind::PersistentVolumeClaim, "data-drops-1", is_of_pod).await;
    hub.play_kubelet_until(&["drops-0+", "keeps-0+"]).await;
    hub.eventually(Kind::PersistentVolumeClaim, "data-drops-1", |claim| claim.is_none()).await;
    assert!(claim("data-keeps-1").await.is_some());
    // Back again: the one has its old claim, the other a new one.
    let kept = claim("data-keeps-1").await.expect("it was kept")["metadata"]["uid"].clone();
    for set in ["keeps", "drops"] {
        hub.patch(Kind::StatefulSet, set, json!({"spec": {"replicas": 2}})).await;
    }
    hub.play_kubelet_until(&["drops-0+", "drops-1+", "keeps-0+", "keeps-1+"]).await;
    assert_eq!(claim("data-keeps-1").await.expect("it is there")["metadata"]["uid"], kept);
    assert_eq!(owner(&claim("data-drops-1").await.expect("it is there")), "StatefulSet");
    // A change of the policy changes the owners.
    let policy = json!({"spec": {"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete"}}});
    hub.patch(Kind::StatefulSet, "keeps", policy).await;
    hub.with(Kind::PersistentVolumeClaim, "data-keeps-0", |claim| owner(claim) == "StatefulSet").await;
    let policy = json!({"spec": {"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain"}}});
    hub.patch(Kind::StatefulSet, "keeps", policy).await;
    hub.with(Kind::PersistentVolumeClaim, "data-keeps-0", |claim| owner(claim).is_null()).await;

    for set in ["keeps", "drops"] {
        hub.delete(Kind::StatefulSet, set, None).await;
    }
    hub.play_kubelet_until(&[]).await;
    for name in ["data-drops-0", "data-drops-1"] {
        hub.eventually(Kind::PersistentVolumeClaim, name, |claim| claim.is_none()).await;
    }
    hub.settled().await;
    assert!(claim("data-keeps-0").await.is_some() && claim("data-keeps-1").await.is_some());
    hub.stop().await;
}

/// A set whose pods are on the nodes of their ordinals, and those nodes.
async fn fleet(hub: &Hub, annotations: Value) {
    for (node, site) in [("box-0", "hall"), ("box-1", "pilot"), ("box-2", "hall")] {
        hub.make(Kind::Node, json!({"metadata": {"name": node, "labels": {"site": site}}})).await;
        say(hub, node, "True").await;
    }
    let mut set = stateful_set("web", 3);
    set["metadata"]["annotations"] = annotations;
    set["spec"]["template"]["spec"].as_object_mut().expect("it is one").remove("nodeName");
    hub.make(Kind::StatefulSet, set).await;
    run_until(hub, &["web-0+", "web-1+", "web-2+"], |_| true).await;
}

async fn say(hub: &Hub, node: &str, ready: &str) {
    let condition = json!({"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let status = json!({"conditions": [condition]});
    assert!(hub.admin.merge_status(Kind::Node, ("", node), &status).await.expect("the API takes it"));
}

/// Plays the scheduler and the kubelets of the boxes until the pods are these and the set is so.
async fn run_until(hub: &Hub, expected: &[&str], holds: impl Fn(&Value) -> bool) -> Value {
    let mut last = (Vec::new(), Value::Null);
    for _ in 0..1000 {
        hub.end_pods().await;
        for pod in hub.list(Kind::Pod).await {
            let name = name_of(&pod);
            if pod["spec"]["nodeName"].is_null() {
                let node = name.replace("web", "box");
                let binding = json!({
                    "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
                    "target": {"kind": "Node", "name": node},
                });
                let request = http::Request::post(format!("/api/v1/namespaces/default/pods/{name}/binding"))
                    .header("content-type", "application/json")
                    .body(binding.to_string().into_bytes())
                    .expect("it is a request");
                let bound: Result<Value, _> = hub.admin.client().request(request).await;
                bound.expect("it has no node yet");
            } else if pod["status"]["conditions"]
                .as_array()
                .is_none_or(|all| all.iter().all(|one| one["type"] != "Ready"))
            {
                hub.report(name, "Running", "True").await;
            }
        }
        let set = hub.find(Kind::StatefulSet, "web").await.unwrap_or_default();
        last = (hub.pods().await, set);
        if last.0 == expected && holds(&last.1) {
            hub.settled().await;
            return last.1;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("it did not come to be so in time; last seen: {last:?}");
}

fn condition<'v>(set: &'v Value, r#type: &str) -> (&'v str, &'v str) {
    let conditions = set["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found = conditions.iter().find(|condition| condition["type"] == r#type);
    let text = |field: &str| found.and_then(|condition| condition[field].as_str()).unwrap_or_default();
    (text("reason"), text("message"))
}

async fn images(hub: &Hub) -> Vec<String> {
    let pods = hub.list(Kind::Pod).await;
    let tag = |pod: &Value| {
        pod["spec"]["containers"][0]["image"]
            .as_str()
            .and_then(|image| image.rsplit(':').next())
            .unwrap_or_default()
            .to_owned()
    };
    pods.iter().map(tag).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_passes_by_a_node_out_of_reach_and_ends_when_it_is_back() {
    let hub = Hub::start().await;
    fleet(&hub, json!({})).await;
    say(&hub, "box-1", "Unknown").await;
    hub.report("web-1", "Running", "False").await;
    let before = hub.find(Kind::Pod, "web-1").await.expect("it is there")["metadata"]["uid"].clone();
    new_image(&hub, "web", "2").await;
    let set = run_until(&hub, &["web-0+", "web-1", "web-2+"], |set| set["status"]["updatedReplicas"] == 2).await;
    assert_eq!(images(&hub).await, ["2", "1", "2"]);
    assert_eq!(hub.find(Kind::Pod, "web-1").await.expect("it is there")["metadata"]["uid"], before);
    let (reason, message) = condition(&set, "NodesSkipped");
    assert_eq!(reason, "NodesUnreachable");
    assert!(message.ends_with("(1): box-1"), "{message}");
    assert_ne!(set["status"]["currentRevision"], set["status"]["updateRevision"], "kubectl waits for it");
    say(&hub, "box-1", "True").await;
    hub.report("web-1", "Running", "True").await;
    let is_done = |set: &Value| set["status"]["currentRevision"] == set["status"]["updateRevision"];
    let set = run_until(&hub, &["web-0+", "web-1+", "web-2+"], is_done).await;
    assert_eq!((images(&hub).await, condition(&set, "NodesSkipped").0), (vec!["2".to_owned(); 3], ""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sets_canary_is_updated_first_and_goes_back_when_it_fails() {
    let hub = Hub::start().await;
    fleet(&hub, json!({"selvedge.dev/canary": "site=pilot", "selvedge.dev/canary-wait": "6s"})).await;
    new_image(&hub, "web", "2").await;
    let is_waiting = |set: &Value| set["status"]["updatedReplicas"] == 1 && condition(set, "Canary").0 == "Waiting";
    run_until(&hub, &["web-0+", "web-1+", "web-2+"], is_waiting).await;
    assert_eq!(images(&hub).await, ["1", "2", "1"]);
    let pod = hub.find(Kind::Pod, "web-1").await.expect("it is there");
    assert!(pod["spec"]["affinity"]["nodeAffinity"].is_object(), "it is placed on the canary's nodes: {pod}");
    let is_done = |set: &Value| set["status"]["currentRevision"] == set["status"]["updateRevision"];
    let set =
        run_until(&hub, &["web-0+", "web-1+", "web-2+"], |set| is_done(set) && condition(set, "Canary").0 == "Passed")
            .await;
    assert_eq!(images(&hub).await, ["2"; 3]);
    let passed = set["status"]["currentRevision"].clone();

    hub.patch(Kind::StatefulSet, "web", json!({"metadata": {"annotations": {"selvedge.dev/canary-wait": "1h"}}})).await;
    new_image(&hub, "web", "3").await;
    run_until(&hub, &["web-0+", "web-1+", "web-2+"], is_waiting).await;
    assert_eq!(images(&hub).await, ["2", "3", "2"]);
    let crashed =
        json!({"containerStatuses": [{"name": "main", "restartCount": 2, "image": "", "imageID": "", "ready": false}]});
    hub.admin.merge_status(Kind::Pod, ("default", "web-1"), &crashed).await.expect("the API takes it");
    hub.report("web-1", "Running", "False").await;
    let is_back = |set: &Value| {
        is_done(set) && condition(set, "Canary").0 == "RolledBack" && set["status"]["updatedReplicas"] == 3
    };
    let set = run_until(&hub, &["web-0+", "web-1+", "web-2+"], is_back).await;
    assert_eq!((images(&hub).await, &set["status"]["currentRevision"]), (vec!["2".to_owned(); 3], &passed));
    assert!(condition(&set, "Canary").1.contains("pod web-1: container main was restarted"), "{set}");
}

/// Nothing of the former template is left while such a canary waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sets_canary_on_all_nodes_goes_back_as_well() {
    let hub = Hub::start().await;
    fleet(&hub, json!({"selvedge.dev/canary": "site", "selvedge.dev/canary-wait": "1h"})).await;
    new_image(&hub, "web", "2").await;
    let is_waiting = |set: &Value| set["status"]["updatedReplicas"] == 3 && condition(set, "Canary").0 == "Waiting";
    run_until(&hub, &["web-0+", "web-1+", "web-2+"], is_waiting).await;
    let crashed =
        json!({"containerStatuses": [{"name": "main", "restartCount": 2, "image": "", "imageID": "", "ready": false}]});
    hub.admin.merge_status(Kind::Pod, ("default", "web-1"), &crashed).await.expect("the API takes it");
    hub.report("web-1", "Running", "False").await;
    let is_back = |set: &Value| {
        set["status"]["currentRevision"] == set["status"]["updateRevision"]
            && condition(set, "Canary").0 == "RolledBack"
            && set["status"]["updatedReplicas"] == 3
    };
    run_until(&hub, &["web-0+", "web-1+", "web-2+"], is_back).await;
    assert_eq!(images(&hub).await, ["1"; 3]);
}
