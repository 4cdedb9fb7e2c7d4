//! The scheduler over the embedded API, in one process and without a socket: what happens to pods, seen through the API.

use hub_runtime::kinds::Kind;
use serde_json::{Value, json};

use crate::hub::{Hub, Source, condition};

mod hub;

fn demands(cpu: &str) -> Value {
    json!({"containers": [{"name": "main", "image": "file:///bin/sleep", "resources": {"requests": {"cpu": cpu}}}]})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_get_nodes_and_events_say_so() {
    for source in [Source::Store, Source::Watches] {
        let mut hub = Hub::new().await;
        hub.start(source).await;
        hub.node("a", json!({}), "4").await;
        hub.node("b", json!({}), "4").await;
        for number in 0..8 {
            hub.pod(&format!("p{number}"), json!({}), demands("1")).await;
        }
        for number in 0..8 {
            let pod = hub.placed(&format!("p{number}")).await;
            assert_eq!(condition(&pod, "PodScheduled")["status"], "True", "{pod}");
            // The API server writes it with the binding, and upstream's leaves this out.
            assert!(condition(&pod, "PodScheduled")["observedGeneration"].is_null(), "{pod}");
        }
        let on = async |node: &'static str| {
            let pods = hub.list(Kind::Pod).await;
            pods.iter().filter(|pod| pod["spec"]["nodeName"] == node).count()
        };
        assert_eq!((on("a").await, on("b").await), (4, 4));
        let event = hub.event_of("p0", "Scheduled").await;
        let message = event["message"].as_str().expect("it has one");
        assert!(message.starts_with("Successfully assigned default/p0 to "), "{message}");
        // Another scheduler's pod is left to it.
        let mut others = demands("1");
        others["schedulerName"] = json!("mine");
        hub.pod("other", json!({}), others).await;
        hub.node("c", json!({}), "4").await;
        hub.settled().await;
        assert!(hub.get(Kind::Pod, "other").await["spec"]["nodeName"].is_null());
        let page = hub.metrics.encode();
        for line in [
            r#"scheduler_schedule_attempts_total{result="scheduled",profile="default-scheduler"} 8"#,
            r#"scheduler_pod_scheduling_sli_duration_seconds_count{attempts="1"} 8"#,
            "scheduler_scheduling_algorithm_duration_seconds_count 8",
            r#"scheduler_pending_pods{queue="active"} 0.0"#,
        ] {
            assert!(page.lines().any(|one| one == line), "{line} is not in {page}");
        }
        hub.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_no_node_suits_says_why_and_is_placed_when_one_does() {
    let mut hub = Hub::new().await;
    hub.start(Source::Store).await;
    hub.pod("p", json!({}), demands("3")).await;
    let says = |message: &'static str| move |pod: &Value| condition(pod, "PodScheduled")["message"] == message;
    let pod = hub.pod_with("p", says("no nodes available to schedule pods")).await;
    assert_eq!(condition(&pod, "PodScheduled")["reason"], "Unschedulable");
    assert_eq!(condition(&pod, "PodScheduled")["observedGeneration"], 1);
    hub.node("small", json!({}), "2").await;
    hub.pod_with(
        "p",
        says(
            "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 \
             Preemption is not helpful for scheduling.",
        ),
    )
    .await;
    hub.event_of("p", "FailedScheduling").await;
    hub.node("large", json!({}), "4").await;
    assert_eq!(hub.placed("p").await["spec"]["nodeName"], "large");
    // What other parts have written of the pod stays.
    hub.pod("q", json!({}), demands("3")).await;
    hub.pod_with("q", |pod| condition(pod, "PodScheduled")["reason"] == "Unschedulable").await;
    let first = hub.get(Kind::Pod, "p").await;
    hub.admin.delete(Kind::Pod, &first, Some(0)).await.expect("the API deletes it");
    assert_eq!(hub.placed("q").await["spec"]["nodeName"], "large");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_of_higher_priority_takes_the_place_of_others() {
    let mut hub = Hub::new().await;
    hub.start(Source::Store).await;
    hub.node("a", json!({}), "2").await;
    let with = |priority: i32, cpu: &str| {
        let mut spec = demands(cpu);
        spec["priority"] = json!(priority);
        spec
    };
    hub.pod("low", json!({}), with(1, "1")).await;
    hub.pod("lower", json!({}), with(0, "1")).await;
    hub.placed("low").await;
    hub.placed("lower").await;
    // A finalizer keeps the victim visible until it is looked at.
    let keep = json!({"metadata": {"finalizers": ["example.org/keep"]}});
    hub.admin.merge(Kind::Pod, ("default", "lower"), &keep).await.expect("the API takes it");
    hub.pod("high", json!({}), with(9, "1")).await;
    let victim = hub.pod_with("lower", |pod| pod["metadata"]["deletionTimestamp"].is_string()).await;
    let target = condition(&victim, "DisruptionTarget");
    assert_eq!((&target["status"], &target["reason"]), (&json!("True"), &json!("PreemptionByScheduler")));
    assert_eq!(target["message"], "default-scheduler: preempting to accommodate a higher priority pod");
    let high = hub.pod_with("high", |pod| pod["status"]["nominatedNodeName"] == "a").await;
    assert!(high["spec"]["nodeName"].is_null());
    let event = hub.event_of("lower", "Preempted").await;
    let uid = high["metadata"]["uid"].as_str().expect("it has one");
    assert_eq!(event["message"], format!("Preempted by pod {uid} on node a"));
    hub.admin
        .merge(Kind::Pod, ("default", "lower"), &json!({"metadata": {"finalizers": null}}))
        .await
        .expect("the API takes it");
    hub.admin.delete(Kind::Pod, &victim, Some(0)).await.expect("the API deletes it");
    let high = hub.placed("high").await;
    assert!(high["status"]["nominatedNodeName"].is_null(), "{high}");
    assert!(hub.get(Kind::Pod, "low").await["metadata"]["deletionTimestamp"].is_null(), "it may stay");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scheduler_that_starts_again_writes_nothing_that_is_right() {
    let mut hub = Hub::new().await;
    hub.start(Source::Store).await;
    hub.node("a", json!({}), "1").await;
    hub.pod("placed", json!({}), demands("1")).await;
    hub.placed("placed").await;
    hub.pod("waits", json!({}), demands("1")).await;
    let mut gated = demands("1");
    gated["schedulingGates"] = json!([{"name": "example.org/gate"}]);
    hub.pod("gated", json!({}), gated).await;
    hub.pod_with("waits", |pod| condition(pod, "PodScheduled")["reason"] == "Unschedulable").await;
    hub.pod_with("gated", |pod| condition(pod, "PodScheduled")["reason"] == "SchedulingGated").await;
    hub.settled().await;
    hub.stop_controllers().await;
    let before = hub.revision().await;
    hub.start(Source::Store).await;
    hub.settled().await;
    assert_eq!(hub.revision().await, before, "nothing was written");
    // It knows what is there: no node takes two.
    assert!(hub.get(Kind::Pod, "waits").await["spec"]["nodeName"].is_null());
    hub.node("b", json!({}), "1").await;
    assert_eq!(hub.placed("waits").await["spec"]["nodeName"], "b");
    let open = json!({"spec": {"schedulingGates": null}});
    hub.admin.merge(Kind::Pod, ("default", "gated"), &open).await.expect("the API takes it");
    hub.pod_with("gated", |pod| condition(pod, "PodScheduled")["reason"] == "Unschedulable").await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_waits_for_its_pod_is_bound_for_the_pods_node() {
    let mut hub = Hub::new().await;
    hub.start(Source::Store).await;
    hub.node("a", json!({}), "1").await;
    let class = json!({
        "metadata": {"name": "local"}, "provisioner": "example.org/local", "volumeBindingMode": "WaitForFirstConsumer",
    });
    hub.make(Kind::StorageClass, class).await;
    let claim = json!({
        "metadata": {"name": "data", "namespace": "default"},
        "spec": {
            "storageClassName": "local", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
        },
    });
    hub.make(Kind::PersistentVolumeClaim, claim).await;
    let mut spec = demands("1");
    spec["volumes"] = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]);
    hub.pod("p", json!({}), spec).await;
    let key = ("default", "data");
    let selected = |claim: &Value| claim["metadata"]["annotations"]["volume.kubernetes.io/selected-node"] == "a";
    hub.with(Kind::PersistentVolumeClaim, key, selected).await;
    assert!(hub.get(Kind::Pod, "p").await["spec"]["nodeName"].is_null(), "its volume is not there yet");
    // What a provisioner does.
    let bound = json!({
        "metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": "v1"},
    });
    let volume = json!({
        "metadata": {"name": "v1"},
        "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "local",
            "local": {"path": "/data"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchFields": [
                {"key": "metadata.name", "operator": "In", "values": ["a"]},
            ]}]}},
        },
    });
    hub.make(Kind::PersistentVolume, volume).await;
    hub.admin.merge(Kind::PersistentVolumeClaim, key, &bound).await.expect("the API takes it");
    assert_eq!(hub.placed("p").await["spec"]["nodeName"], "a");
    hub.stop().await;
}
