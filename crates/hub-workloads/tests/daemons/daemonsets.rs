//! DaemonSets over the embedded API.

use std::sync::atomic::Ordering;

use hub_runtime::kinds::Kind;
use serde_json::{Value, json};

use crate::hub::{Hub, Source, daemon_set, name_of};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_set_follows_the_labels_of_nodes() {
    let hub = Hub::start().await;
    hub.node("gw-1", json!({"selvedge.dev/role": "gateway"})).await;
    hub.node("gw-2", json!({})).await;
    // One of which every pod is rejected comes before the good one in every list.
    hub.make(Kind::DaemonSet, daemon_set("a-rejected")).await;
    hub.make(Kind::DaemonSet, daemon_set("agent")).await;
    let pods = hub.alive_pods(1).await;
    assert_eq!(pods[0]["spec"]["nodeName"], "gw-1");
    assert_eq!(pods[0]["metadata"]["ownerReferences"][0]["name"], "agent");

    let role = |role: Value| json!({"metadata": {"labels": {"selvedge.dev/role": role}}});
    hub.admin.merge(Kind::Node, ("", "gw-2"), &role("gateway".into())).await.expect("the node takes a label");
    hub.alive_pods(2).await;
    hub.eventually(Kind::DaemonSet, ("default", "agent"), |set| {
        set.is_some_and(|set| set["status"]["desiredNumberScheduled"] == 2)
    })
    .await;
    hub.admin.merge(Kind::Node, ("", "gw-1"), &role(Value::Null)).await.expect("the label goes");
    let pods = hub.alive_pods(1).await;
    assert_eq!(pods[0]["spec"]["nodeName"], "gw-2");
    hub.end_pods().await;

    let set = hub.get(Kind::DaemonSet, ("default", "agent")).await;
    hub.admin.delete(Kind::DaemonSet, &set, None).await.expect("the API deletes it");
    hub.alive_pods(0).await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_template_replaces_pods_one_after_the_other() {
    let hub = Hub::start().await;
    for node in ["gw-1", "gw-2"] {
        hub.node(node, json!({"selvedge.dev/role": "gateway"})).await;
    }
    hub.make(Kind::DaemonSet, daemon_set("agent")).await;
    let ready = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    for pod in hub.alive_pods(2).await {
        let name = pod["metadata"]["name"].as_str().expect("it has a name");
        hub.admin.merge_status(Kind::Pod, ("default", name), &ready).await.expect("the API takes the status");
    }
    hub.eventually(Kind::DaemonSet, ("default", "agent"), |set| {
        set.is_some_and(|set| set["status"]["numberReady"] == 2)
    })
    .await;
    let patch = json!({"spec": {"template": {"metadata": {"annotations": {"new": "yes"}}}}});
    hub.admin.merge(Kind::DaemonSet, ("default", "agent"), &patch).await.expect("the API takes the template");
    hub.alive_pods(1).await;
    hub.end_pods().await;
    let pods = hub.alive_pods(2).await;
    assert_eq!(pods.iter().filter(|pod| pod["metadata"]["annotations"]["new"] == "yes").count(), 1);
    hub.eventually(Kind::DaemonSet, ("default", "agent"), |set| {
        set.is_some_and(|set| set["status"]["updatedNumberScheduled"] == 1 && set["status"]["observedGeneration"] == 2)
    })
    .await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_watches_a_daemon_set_follows_the_labels_of_nodes_as_well() {
    let mut hub = Hub::without_controllers().await;
    hub.start_controllers(Source::Watches).await;
    hub.gateways(&["gw-1", "gw-2"]).await;
    hub.make(Kind::DaemonSet, daemon_set("agent")).await;
    let pods = hub.alive_pods(2).await;
    hub.make_ready(&pods).await;
    hub.set_with("agent", |set| set["status"]["numberAvailable"] == 2).await;
    let set = hub.set_with("agent", |_| true).await;
    hub.admin.delete(Kind::DaemonSet, &set, None).await.expect("the API deletes it");
    hub.alive_pods(0).await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphans_are_adopted_by_a_set_of_the_same_name() {
    let mut hub = Hub::start().await;
    hub.gateways(&["gw-1"]).await;
    let set = hub.make(Kind::DaemonSet, daemon_set("agent")).await;
    let pod = hub.alive_pods(1).await.remove(0);
    hub.settled().await;
    // What `--cascade=orphan` leaves: the set goes, its dependents lose their owner. The set would adopt them again in
    // between, so it is left alone meanwhile.
    hub.stop_controllers().await;
    for kind in [Kind::Pod, Kind::ControllerRevision] {
        for object in hub.list(kind).await {
            let patch = json!({"metadata": {"ownerReferences": null}});
            hub.admin.merge(kind, ("default", name_of(&object)), &patch).await.expect("the API takes it");
        }
    }
    hub.admin.delete(Kind::DaemonSet, &set, None).await.expect("the API deletes it");
    let again = hub.make(Kind::DaemonSet, daemon_set("agent")).await;
    hub.start_controllers(Source::Store).await;
    let adopted = hub
        .eventually(Kind::Pod, ("default", name_of(&pod)), |pod| {
            pod.is_some_and(|pod| pod["metadata"]["ownerReferences"][0]["uid"] == again["metadata"]["uid"])
        })
        .await;
    assert_eq!(adopted["metadata"]["uid"], pod["metadata"]["uid"]);
    let is_whole =
        |set: &Value| set["status"]["updatedNumberScheduled"] == 1 && set["status"]["currentNumberScheduled"] == 1;
    hub.set_with("agent", is_whole).await;
    hub.settled().await;
    hub.alive_pods(1).await;
    hub.admin.delete(Kind::DaemonSet, &again, None).await.expect("the API deletes it");
    hub.alive_pods(0).await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_whose_labels_match_no_more_is_released_and_replaced() {
    let hub = Hub::start().await;
    hub.gateways(&["gw-1"]).await;
    hub.make(Kind::DaemonSet, daemon_set("agent")).await;
    let pod = hub.alive_pods(1).await.remove(0);
    let patch = json!({"metadata": {"labels": {"app": "debugged"}}});
    hub.admin.merge(Kind::Pod, ("default", name_of(&pod)), &patch).await.expect("the API takes the label");
    let released = hub
        .eventually(Kind::Pod, ("default", name_of(&pod)), |pod| {
            pod.is_some_and(|pod| pod["metadata"]["ownerReferences"].as_array().is_none_or(Vec::is_empty))
        })
        .await;
    assert!(released["metadata"]["deletionTimestamp"].is_null());
    // The name is taken by what is another's now: the replacement has another.
    let pods = hub.alive_pods(2).await;
    assert_eq!(pods.iter().filter(|pod| pod["metadata"]["labels"]["app"] == "agent").count(), 1);
    hub.event_of("agent", "FailedCreate").await;
    let set = hub.set_with("agent", |set| set["status"]["currentNumberScheduled"] == 1).await;
    assert_eq!(set["status"]["collisionCount"], 1);
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_fails_each_time_is_replaced_after_a_pause_and_the_set_says_so() {
    let hub = Hub::start().await;
    hub.gateways(&["gw-1"]).await;
    hub.make(Kind::DaemonSet, daemon_set("agent")).await;
    let begun = std::time::Instant::now();
    let rejected = json!({"phase": "Failed", "reason": "UnsupportedPod"});
    // The first is replaced at once, the next after one second, then after two.
    let mut seen = Vec::new();
    for _ in 0..4 {
        let pod = loop {
            let pod = hub.alive_pods(1).await.remove(0);
            if !seen.contains(&pod["metadata"]["uid"]) {
                break pod;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        };
        seen.push(pod["metadata"]["uid"].clone());
        hub.admin.merge_status(Kind::Pod, ("default", name_of(&pod)), &rejected).await.expect("the API takes it");
    }
    assert!(begun.elapsed() >= std::time::Duration::from_secs(3), "{:?}", begun.elapsed());
    let event = hub.event_of("agent", "FailedDaemonPod").await;
    let name = name_of(&hub.alive_pods(1).await[0]).to_owned();
    let expected = format!("Found failed daemon pod default/{name} on node gw-1, will try to kill it");
    assert_eq!((&event["message"], &event["type"]), (&json!(expected), &json!("Warning")));
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_available_when_it_was_ready_for_long_enough() {
    let hub = Hub::start().await;
    hub.gateways(&["gw-1", "gw-2"]).await;
    let mut set = daemon_set("agent");
    set["spec"]["minReadySeconds"] = json!(3);
    hub.make(Kind::DaemonSet, set).await;
    let pods = hub.alive_pods(2).await;
    hub.make_ready(&pods).await;
    let young = hub.set_with("agent", |set| set["status"]["numberReady"] == 2).await;
    // None is left out, as Kubernetes does.
    assert_eq!((&young["status"]["numberAvailable"], &young["status"]["numberUnavailable"]), (&Value::Null, &json!(2)));
    // Nothing changes any more: the controller looks again by itself.
    hub.set_with("agent", |set| set["status"]["numberAvailable"] == 2).await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_surge_brings_the_new_pod_up_before_the_old_one_goes() {
    let hub = Hub::start().await;
    hub.gateways(&["gw-1", "gw-2"]).await;
    let mut set = daemon_set("agent");
    set["spec"]["updateStrategy"] = json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    hub.make(Kind::DaemonSet, set).await;
    let old = hub.alive_pods(2).await;
    hub.make_ready(&old).await;
    hub.set_with("agent", |set| set["status"]["numberAvailable"] == 2).await;
    hub.new_template("agent").await;
    for _ in 0..2 {
        let pods = hub.alive_pods(3).await;
        hub.settled().await;
        let new: Vec<Value> = pods.into_iter().filter(|pod| pod["status"]["phase"] == "Pending").collect();
        assert_eq!(new.len(), 1, "one node surges at a time");
        hub.make_ready(&new).await;
        hub.eventually(Kind::Pod, ("default", name_of(&new[0])), |pod| {
            pod.is_some_and(|pod| pod["status"]["phase"] == "Running")
        })
        .await;
        // The old pod of that node is asked to end; the next node's turn comes with it.
        hub.settled().await;
        hub.end_pods().await;
    }
    hub.set_with("agent", |set| set["status"]["updatedNumberScheduled"] == 2).await;
    let pods = hub.alive_pods(2).await;
    assert!(pods.iter().all(|pod| pod["metadata"]["annotations"]["new"] == "yes"));
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_default_that_a_new_version_adds_rolls_nothing() {
    let mut hub = Hub::without_controllers().await;
    hub.gateways(&["gw-1"]).await;
    let set = hub.make(Kind::DaemonSet, daemon_set("agent")).await;
    // What an earlier version left, whose API did not know `dnsPolicy` yet.
    let mut template = set["spec"]["template"].clone();
    assert!(template["spec"].as_object_mut().expect("it is one").remove("dnsPolicy").is_some());
    template["$patch"] = json!("replace");
    let owner = json!([{
        "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "agent", "uid": set["metadata"]["uid"], "controller": true,
    }]);
    let labels = json!({"app": "agent", "controller-revision-hash": "earlier"});
    let revision = json!({
        "metadata": {"name": "agent-earlier", "namespace": "default", "labels": labels, "ownerReferences": owner},
        "data": {"spec": {"template": template}}, "revision": 1,
    });
    hub.make(Kind::ControllerRevision, revision).await;
    let mut spec = set["spec"]["template"]["spec"].clone();
    spec["nodeName"] = json!("gw-1");
    let pod = json!({
        "metadata": {"name": "agent-x", "namespace": "default", "labels": labels, "ownerReferences": owner}, "spec": spec,
    });
    hub.make(Kind::Pod, pod).await;
    hub.start_controllers(Source::Store).await;
    hub.set_with("agent", |set| set["status"]["updatedNumberScheduled"] == 1).await;
    let pods = hub.alive_pods(1).await;
    assert_eq!(name_of(&pods[0]), "agent-x");
    let revisions = hub.list(Kind::ControllerRevision).await;
    assert_eq!(revisions.iter().map(name_of).collect::<Vec<_>>(), ["agent-earlier"]);
    // What somebody means is a change nevertheless.
    hub.new_template("agent").await;
    hub.set_with("agent", |set| set["status"]["updatedNumberScheduled"].is_null()).await;
    hub.stop().await;
}

/// `kubectl rollout history` shows it as CHANGE-CAUSE.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_says_why_the_set_was_changed() {
    let hub = Hub::start().await;
    let mut set = daemon_set("agent");
    set["metadata"]["annotations"] = json!({"kubernetes.io/change-cause": "installed"});
    hub.make(Kind::DaemonSet, set).await;
    hub.set_with("agent", |set| set["status"]["observedGeneration"] == 1).await;
    let patch = json!({
        "metadata": {"annotations": {"kubernetes.io/change-cause": "a new sensor"}},
        "spec": {"template": {"metadata": {"annotations": {"new": "yes"}}}},
    });
    hub.patch(Kind::DaemonSet, "agent", patch).await;
    hub.set_with("agent", |set| set["status"]["observedGeneration"] == 2).await;
    let mut revisions = hub.list(Kind::ControllerRevision).await;
    revisions.sort_by_key(|revision| revision["revision"].as_i64());
    let causes = revisions.iter().map(|revision| &revision["metadata"]["annotations"]["kubernetes.io/change-cause"]);
    assert_eq!(causes.collect::<Vec<_>>(), ["installed", "a new sensor"]);
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_deleted_and_joins_again_keeps_its_daemons() {
    let hub = Hub::start().await;
    hub.gateways(&["gw-1"]).await;
    hub.make(Kind::DaemonSet, daemon_set("agent")).await;
    let pod = hub.alive_pods(1).await.remove(0);
    hub.set_with("agent", |set| set["status"]["currentNumberScheduled"] == 1).await;
    let node = hub.get(Kind::Node, ("", "gw-1")).await;
    hub.admin.delete(Kind::Node, &node, None).await.expect("the API deletes it");
    hub.set_with("agent", |set| {
        set["status"]["desiredNumberScheduled"] == 0 && set["status"]["numberMisscheduled"] == 0
    })
    .await;
    hub.settled().await;
    hub.gateways(&["gw-1"]).await;
    hub.set_with("agent", |set| set["status"]["desiredNumberScheduled"] == 1).await;
    hub.settled().await;
    let pods = hub.alive_pods(1).await;
    assert_eq!(pods[0]["metadata"]["uid"], pod["metadata"]["uid"]);
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_deleted_and_joins_again_as_another_loses_its_daemons() {
    let hub = Hub::start().await;
    hub.gateways(&["gw-1"]).await;
    hub.make(Kind::DaemonSet, daemon_set("agent")).await;
    hub.alive_pods(1).await;
    let node = hub.get(Kind::Node, ("", "gw-1")).await;
    hub.admin.delete(Kind::Node, &node, None).await.expect("the API deletes it");
    hub.set_with("agent", |set| set["status"]["desiredNumberScheduled"] == 0).await;
    hub.settled().await;
    hub.alive_pods(1).await;
    // It has no label any more, and the pod that it left says nothing: nobody but the node itself shows that something is to be done.
    hub.make(Kind::Node, json!({"metadata": {"name": "gw-1"}})).await;
    hub.alive_pods(0).await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_waits_for_its_deletion_keeps_its_daemons() {
    let hub = Hub::start().await;
    let metadata = json!({
        "name": "gw-1", "labels": {"selvedge.dev/role": "gateway"}, "finalizers": ["example.com/hold"],
    });
    let node = hub.make(Kind::Node, json!({"metadata": metadata})).await;
    hub.make(Kind::DaemonSet, daemon_set("agent")).await;
    let pod = hub.alive_pods(1).await.remove(0);
    hub.admin.delete(Kind::Node, &node, None).await.expect("the API takes it");
    hub.eventually(Kind::Node, ("", "gw-1"), |node| {
        node.is_some_and(|node| node["metadata"]["deletionTimestamp"].is_string())
    })
    .await;
    hub.settled().await;
    let pods = hub.alive_pods(1).await;
    assert_eq!(pods[0]["metadata"]["uid"], pod["metadata"]["uid"]);
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_that_names_a_node_runs_there_alone() {
    let hub = Hub::start().await;
    hub.gateways(&["gw-1", "gw-2", "gw-3"]).await;
    let mut set = daemon_set("agent");
    set["spec"]["template"]["spec"]["nodeName"] = json!("gw-2");
    hub.make(Kind::DaemonSet, set).await;
    hub.set_with("agent", |set| set["status"]["currentNumberScheduled"] == 1).await;
    hub.settled().await;
    let pods = hub.alive_pods(1).await;
    assert_eq!(pods[0]["spec"]["nodeName"], "gw-2");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_set_creates_in_batches_and_holds_up_nobody() {
    const NODES: usize = 1000;
    let hub = Hub::start().await;
    for node in 0..NODES {
        let only = if node == 0 { "yes" } else { "no" };
        hub.node(&format!("gw-{node}"), json!({"selvedge.dev/role": "gateway", "only": only})).await;
    }
    hub.make(Kind::DaemonSet, daemon_set("large")).await;
    let mut small = daemon_set("small");
    small["spec"]["template"]["spec"]["nodeSelector"] = json!({"only": "yes"});
    hub.make(Kind::DaemonSet, small).await;
    hub.set_with("small", |set| set["status"]["currentNumberScheduled"] == 1).await;
    let pods = hub.alive_pods(NODES + 1).await;
    let revision = |pod: &Value| -> u64 {
        pod["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).expect("a number")
    };
    let small = pods.iter().find(|pod| pod["metadata"]["labels"]["app"] == "small").map(revision).expect("it is there");
    let last = pods.iter().map(revision).max().expect("there are pods");
    assert!(small < last, "the small set did not wait for the large one");
    let most = hub.in_flight.1.load(Ordering::SeqCst);
    assert!((2..=251).contains(&most), "{most} in flight");
    // Each node has one, though the set was looked at many times.
    let nodes: std::collections::BTreeSet<&str> =
        pods.iter().filter_map(|pod| pod["spec"]["nodeName"].as_str()).collect();
    assert_eq!(nodes.len(), NODES);
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_of_another_node_keeps_no_name_from_a_set() {
    let mut hub = Hub::start().await;
    hub.gateways(&["gw-2"]).await;
    hub.node("gw-1", json!({})).await;
    hub.make(Kind::DaemonSet, daemon_set("agent")).await;
    hub.make(Kind::DaemonSet, daemon_set("adopts")).await;
    let pods = hub.alive_pods(2).await;
    hub.settled().await;
    hub.stop_controllers().await;
    for pod in &pods {
        hub.admin.delete(Kind::Pod, pod, Some(0)).await.expect("the API deletes it");
        // On its way out for as long as its node likes; or one that the set takes for its own.
        let app = &pod["metadata"]["labels"]["app"];
        let labels = if app == "adopts" { json!({"app": app}) } else { json!({}) };
        let spec = json!({"nodeName": "gw-1", "containers": [{"name": "main", "image": "file:///bin/true"}]});
        let metadata = json!({"name": name_of(pod), "namespace": "default", "labels": labels});
        let taken = hub.make(Kind::Pod, json!({"metadata": metadata, "spec": spec})).await;
        if app == "agent" {
            hub.admin.delete(Kind::Pod, &taken, None).await.expect("the API takes it");
        }
    }
    hub.start_controllers(Source::Store).await;
    for set in ["agent", "adopts"] {
        hub.set_with(set, |set| set["status"]["currentNumberScheduled"] == 1 && set["status"]["collisionCount"] == 1)
            .await;
    }
    hub.settled().await;
    let pods = hub.list(Kind::Pod).await;
    for (node, is_terminating) in [("gw-1", true), ("gw-2", false)] {
        let of_node = pods.iter().filter(|pod| pod["spec"]["nodeName"] == node);
        let states: Vec<bool> = of_node.map(|pod| pod["metadata"]["deletionTimestamp"].is_string()).collect();
        assert_eq!(states, [is_terminating; 2], "{node}");
    }
    hub.stop().await;
}

/// Plays the kubelets until the pods have these images, by node.
async fn run_until(hub: &Hub, expected: &[(&str, &str)], holds: impl Fn(&Value) -> bool) -> Value {
    let mut last = (Vec::new(), Value::Null);
    for _ in 0..1000 {
        hub.end_pods().await;
        let pods = hub.list(Kind::Pod).await;
        for pod in pods.iter().filter(|pod| pod["status"]["conditions"].is_null()) {
            let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": now});
            let status = json!({"phase": "Running", "conditions": [ready]});
            hub.admin.merge_status(Kind::Pod, ("default", name_of(pod)), &status).await.expect("the API takes it");
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let shown =
            pods.iter().map(|pod| (text(&pod["spec"]["nodeName"]), text(&pod["metadata"]["annotations"]["version"])));
        let mut shown: Vec<(String, String)> = shown.collect();
        shown.sort();
        let set = hub.find(Kind::DaemonSet, ("default", "agent")).await;
        last = (shown, set.unwrap_or_default());
        if last.0.iter().map(|(node, version)| (node.as_str(), version.as_str())).eq(expected.iter().copied())
            && holds(&last.1)
        {
            hub.settled().await;
            return last.1;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("it did not come to be so in time; last seen: {last:?}");
}

fn said<'v>(set: &'v Value, r#type: &str) -> (&'v str, &'v str) {
    let conditions = set["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found = conditions.iter().find(|condition| condition["type"] == r#type);
    let text = |field: &str| found.and_then(|condition| condition[field].as_str()).unwrap_or_default();
    (text("reason"), text("message"))
}

/// A container of a pod has ended and was started again.
async fn restarted(hub: &Hub, pod: &Value) {
    let status =
        json!({"containerStatuses": [{"name": "main", "restartCount": 1, "image": "", "imageID": "", "ready": true}]});
    hub.admin.merge_status(Kind::Pod, ("default", name_of(pod)), &status).await.expect("the API takes it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_of_daemons_is_updated_first_and_goes_back_when_it_fails() {
    let hub = Hub::start().await;
    for (node, site) in [("gw-1", "hall"), ("gw-2", "pilot"), ("gw-3", "hall")] {
        hub.node(node, json!({"selvedge.dev/role": "gateway", "site": site})).await;
    }
    let mut set = daemon_set("agent");
    set["metadata"]["annotations"] = json!({"selvedge.dev/canary": "site=pilot", "selvedge.dev/canary-wait": "4s"});
    set["spec"]["template"]["metadata"]["annotations"] = json!({"version": "1"});
    hub.make(Kind::DaemonSet, set).await;
    run_until(&hub, &[("gw-1", "1"), ("gw-2", "1"), ("gw-3", "1")], |set| set["status"]["numberAvailable"] == 3).await;

    let update = async |version: &str, wait: &str| {
        let patch = json!({
            "metadata": {"annotations": {"selvedge.dev/canary-wait": wait}},
            "spec": {"template": {"metadata": {"annotations": {"version": version}}}},
        });
        hub.admin.merge(Kind::DaemonSet, ("default", "agent"), &patch).await.expect("the API takes it");
    };
    update("2", "4s").await;
    let is_waiting = |set: &Value| said(set, "Canary").0 == "Waiting" && set["status"]["updatedNumberScheduled"] == 1;
    run_until(&hub, &[("gw-1", "1"), ("gw-2", "2"), ("gw-3", "1")], is_waiting).await;
    let is_passed = |set: &Value| {
        said(set, "Canary").0 == "Passed"
            && set["status"]["updatedNumberScheduled"] == 3
            && set["status"]["numberAvailable"] == 3
    };
    run_until(&hub, &[("gw-1", "2"), ("gw-2", "2"), ("gw-3", "2")], is_passed).await;

    update("3", "1h").await;
    run_until(&hub, &[("gw-1", "2"), ("gw-2", "3"), ("gw-3", "2")], is_waiting).await;
    // A node that comes meanwhile has what the others have.
    hub.node("gw-4", json!({"selvedge.dev/role": "gateway", "site": "hall"})).await;
    run_until(&hub, &[("gw-1", "2"), ("gw-2", "3"), ("gw-3", "2"), ("gw-4", "2")], |_| true).await;
    let pods = hub.alive_pods(4).await;
    let new = pods.iter().find(|pod| pod["spec"]["nodeName"] == "gw-2").expect("the canary's");
    restarted(&hub, new).await;
    let all_former = [("gw-1", "2"), ("gw-2", "2"), ("gw-3", "2"), ("gw-4", "2")];
    let is_back = |set: &Value| said(set, "Canary").0 == "RolledBack" && set["status"]["updatedNumberScheduled"] == 4;
    let set = run_until(&hub, &all_former, is_back).await;
    assert!(said(&set, "Canary").1.contains("container main was restarted"), "{set}");
    assert_eq!(set["spec"]["template"]["metadata"]["annotations"]["version"], "2");
    // The same again is not tried again.
    update("3", "1h").await;
    hub.eventually(Kind::DaemonSet, ("default", "agent"), |set| {
        set.is_some_and(|set| set["spec"]["template"]["metadata"]["annotations"]["version"] == "2")
    })
    .await;
    run_until(&hub, &all_former, is_back).await;
    hub.stop().await;
}

/// Nothing of the former template is left while such a canary waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_of_daemons_on_all_nodes_goes_back_as_well() {
    let hub = Hub::start().await;
    for node in ["gw-1", "gw-2"] {
        hub.node(node, json!({"selvedge.dev/role": "gateway", "site": "pilot"})).await;
    }
    let mut set = daemon_set("agent");
    set["metadata"]["annotations"] = json!({"selvedge.dev/canary": "site=pilot", "selvedge.dev/canary-wait": "1h"});
    set["spec"]["template"]["metadata"]["annotations"] = json!({"version": "1"});
    hub.make(Kind::DaemonSet, set).await;
    run_until(&hub, &[("gw-1", "1"), ("gw-2", "1")], |set| set["status"]["numberAvailable"] == 2).await;
    let patch = json!({"spec": {"template": {"metadata": {"annotations": {"version": "2"}}}}});
    hub.admin.merge(Kind::DaemonSet, ("default", "agent"), &patch).await.expect("the API takes it");
    let is_waiting = |set: &Value| said(set, "Canary").0 == "Waiting" && set["status"]["updatedNumberScheduled"] == 2;
    run_until(&hub, &[("gw-1", "2"), ("gw-2", "2")], is_waiting).await;
    let pods = hub.alive_pods(2).await;
    restarted(&hub, &pods[0]).await;
    let is_back = |set: &Value| said(set, "Canary").0 == "RolledBack" && set["status"]["updatedNumberScheduled"] == 2;
    run_until(&hub, &[("gw-1", "1"), ("gw-2", "1")], is_back).await;
    hub.stop().await;
}

/// The fleet has a template that never had a canary; whoever undoes one goes back to it, and a restart there says nothing of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_of_daemons_that_is_undone_puts_nothing_else_on_trial() {
    let hub = Hub::start().await;
    for (node, site) in [("gw-1", "hall"), ("gw-2", "pilot")] {
        hub.node(node, json!({"selvedge.dev/role": "gateway", "site": site})).await;
    }
    hub.make(Kind::DaemonSet, daemon_set("agent")).await;
    run_until(&hub, &[("gw-1", ""), ("gw-2", "")], |set| set["status"]["numberAvailable"] == 2).await;
    let update = async |version: &str, annotations: Value| {
        let template = json!({"metadata": {"annotations": {"version": version}}});
        let patch = json!({"metadata": {"annotations": annotations}, "spec": {"template": template}});
        hub.patch(Kind::DaemonSet, "agent", patch).await;
    };
    update("1", json!({})).await;
    let all_updated = |set: &Value| set["status"]["updatedNumberScheduled"] == 2;
    run_until(&hub, &[("gw-1", "1"), ("gw-2", "1")], all_updated).await;
    update("2", json!({"selvedge.dev/canary": "site=pilot", "selvedge.dev/canary-wait": "1h"})).await;
    run_until(&hub, &[("gw-1", "1"), ("gw-2", "2")], |set| said(set, "Canary").0 == "Waiting").await;
    update("1", json!({})).await;
    let is_undone = |set: &Value| all_updated(set) && said(set, "Canary").0 != "Waiting";
    run_until(&hub, &[("gw-1", "1"), ("gw-2", "1")], is_undone).await;
    for pod in hub.alive_pods(2).await {
        restarted(&hub, &pod).await;
    }
    let set = run_until(&hub, &[("gw-1", "1"), ("gw-2", "1")], is_undone).await;
    assert_eq!(set["spec"]["template"]["metadata"]["annotations"]["version"], "1");
    assert_ne!(said(&set, "Canary").0, "RolledBack", "{set}");
    hub.stop().await;
}
