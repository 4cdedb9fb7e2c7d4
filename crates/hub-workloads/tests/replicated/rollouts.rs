//! Rollouts of Deployments over nodes: those that are left out, and those that come first.

use std::time::Duration;

use hub_runtime::kinds::Kind;
use hub_runtime::writer::Writer;
use hub_testing::name_of;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::deployments::{deployment, is_rolled_out, reason, set_image};
use crate::hub::{BROKEN, Hub};

/// A hub with three nodes and a stand-in for the scheduler: `gw-1` is at the pilot site.
struct Fleet {
    hub: Hub,
    _scheduler: DropGuard,
}

impl Fleet {
    async fn start() -> Self {
        let hub = Hub::start().await;
        for (name, site) in [("gw-1", "pilot"), ("gw-2", "hall"), ("gw-3", "hall")] {
            let node =
                json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"site": site}}});
            hub.admin.create(Kind::Node, node).await.expect("the API takes it");
            say(&hub, name, "True").await;
        }
        let shutdown = CancellationToken::new();
        let (admin, ended) = (hub.admin.clone(), shutdown.clone());
        base_observe::spawn_detached("scheduler", async move {
            while !ended.is_cancelled() {
                place(&admin).await;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        Self { hub, _scheduler: shutdown.drop_guard() }
    }

    /// Rolls a Deployment out whose pods are one on each node.
    async fn web(&self, annotations: Value, more: Value) {
        let mut web = deployment("web", 3, "one");
        web["metadata"]["annotations"] = annotations;
        for (field, value) in more.as_object().into_iter().flatten() {
            web["spec"][field] = value.clone();
        }
        self.hub.make(Kind::Deployment, web).await;
        self.hub.with(Kind::Deployment, "web", is_rolled_out).await;
        self.pods_are(&[("gw-1", "one"), ("gw-2", "one"), ("gw-3", "one")]).await;
    }

    async fn with(&self, holds: impl Fn(&Value) -> bool) -> Value {
        self.hub.with(Kind::Deployment, "web", holds).await
    }

    /// Waits until there are these pods, by node and image.
    async fn pods_are(&self, expected: &[(&str, &str)]) {
        let mut last = Vec::new();
        for _ in 0..1500 {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let pods = self.hub.pods().await;
            let shown =
                pods.iter().map(|pod| (text(&pod["spec"]["nodeName"]), text(&pod["spec"]["containers"][0]["image"])));
            last = shown.collect();
            last.sort();
            if last.iter().map(|(node, image)| (node.as_str(), image.as_str())).eq(expected.iter().copied()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the pods are {last:?} and not {expected:?}");
    }

    async fn uids(&self) -> Vec<Value> {
        let mut uids: Vec<Value> = self.hub.pods().await.iter().map(|pod| pod["metadata"]["uid"].clone()).collect();
        uids.sort_by_key(ToString::to_string);
        uids
    }
}

async fn say(hub: &Hub, node: &str, ready: &str) {
    let condition = json!({"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let status = json!({"conditions": [condition]});
    assert!(hub.admin.merge_status(Kind::Node, ("", node), &status).await.expect("the API takes it"));
}

/// What the hub and a kubelet say of the pods of a node.
async fn say_of_pods(hub: &Hub, node: &str, ready: &str) {
    for pod in hub.pods().await.iter().filter(|pod| pod["spec"]["nodeName"] == node) {
        let condition = |r#type: &str, status: &str| json!({"type": r#type, "status": status, "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let name = pod["metadata"]["name"].as_str().expect("it has a name");
        // What its kubelet said last stays.
        let status = json!({"conditions": [condition("Ready", ready), condition("ContainersReady", "True")]});
        hub.admin.merge_status(Kind::Pod, ("default", name), &status).await.expect("the API takes it");
    }
}

/// Binds pods that have no node to the one in reach with the fewest, of those that they demand.
async fn place(admin: &Writer) {
    let nodes = admin.list_now(Kind::Node, "").await.unwrap_or_default();
    let mut pods = admin.list_now(Kind::Pod, "default").await.unwrap_or_default();
    pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    let image = |pod: &Value| pod["spec"]["containers"][0]["image"].clone();
    let mut in_reach = Vec::new();
    for node in nodes.iter().filter(|node| node["status"]["conditions"][0]["status"] == "True") {
        in_reach.push(node["metadata"]["name"].as_str().expect("it has a name"));
    }
    // Where each pod is: two of one template come to two nodes.
    let mut placed: Vec<(String, Value)> = Vec::new();
    for pod in pods.iter().filter(|pod| !pod["spec"]["nodeName"].is_null()) {
        placed.push((pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned(), image(pod)));
    }
    for pod in pods.iter().filter(|pod| pod["spec"]["nodeName"].is_null()) {
        let required = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchExpressions/0/values/0";
        let site = pod.pointer(required);
        let fits = |name: &str| {
            let node = nodes.iter().find(|node| node["metadata"]["name"] == name);
            site.is_none_or(|site| node.is_some_and(|node| node["metadata"]["labels"]["site"] == *site))
        };
        let load = |name: &str| {
            let there = || placed.iter().filter(|(node, _)| node == name);
            (there().filter(|(_, held)| *held == image(pod)).count(), there().count())
        };
        let Some(node) = in_reach.iter().copied().filter(|name| fits(name)).min_by_key(|name| load(name)) else {
            continue;
        };
        let name = pod["metadata"]["name"].as_str().expect("it has a name");
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": {"kind": "Node", "name": node},
        });
        let request = http::Request::post(format!("/api/v1/namespaces/default/pods/{name}/binding"))
            .header("content-type", "application/json")
            .body(binding.to_string().into_bytes())
            .expect("it is a request");
        // It may be deleted meanwhile.
        if admin.client().request::<Value>(request).await.is_ok() {
            placed.push((node.to_owned(), image(pod)));
        }
    }
}

fn message<'v>(object: &'v Value, r#type: &str) -> &'v str {
    let conditions = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found = conditions.iter().find(|condition| condition["type"] == r#type);
    found.and_then(|condition| condition["message"].as_str()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_passes_by_a_node_out_of_reach_and_ends_when_it_is_back() {
    let fleet = Fleet::start().await;
    let Fleet { hub, .. } = &fleet;
    fleet.web(json!({}), json!({"progressDeadlineSeconds": 1})).await;
    say(hub, "gw-1", "Unknown").await;
    say_of_pods(hub, "gw-1", "False").await;
    set_image(hub, "web", "two").await;
    let web = fleet.with(|web| web["status"]["updatedReplicas"] == 2 && web["status"]["availableReplicas"] == 2).await;
    assert_eq!(reason(&web, "NodesSkipped"), "NodesUnreachable");
    assert!(message(&web, "NodesSkipped").ends_with("(1): gw-1"), "{web}");
    fleet.pods_are(&[("gw-1", "one"), ("gw-2", "two"), ("gw-3", "two")]).await;
    // Longer than its deadline: there is nothing else to do, so nothing is late.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    hub.settled().await;
    let web = hub.get(Kind::Deployment, "web").await;
    assert_eq!(reason(&web, "Progressing"), "NodesSkipped");
    assert_eq!((&web["status"]["replicas"], &web["status"]["updatedReplicas"]), (&json!(3), &json!(2)));
    assert!(!is_rolled_out(&web), "kubectl waits for the third");

    say(hub, "gw-1", "True").await;
    say_of_pods(hub, "gw-1", "True").await;
    let web = fleet.with(is_rolled_out).await;
    assert_eq!((reason(&web, "NodesSkipped"), reason(&web, "Progressing")), ("", "NewReplicaSetAvailable"));
    hub.settled().await;
    assert!(hub.pods().await.iter().all(|pod| pod["spec"]["containers"][0]["image"] == "two"));
}

/// Where a new pod went dark before it was ready, the one that works is not deleted for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_pod_that_was_never_ready_takes_no_place_of_one_that_is() {
    let fleet = Fleet::start().await;
    let Fleet { hub, .. } = &fleet;
    fleet.web(json!({}), json!({"strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}})).await;
    set_image(hub, "web", BROKEN).await;
    let web = fleet.with(|web| web["status"]["updatedReplicas"] == 1 && web["status"]["replicas"] == 4).await;
    hub.settled().await;
    let pods = hub.pods().await;
    let new = pods.iter().find(|pod| pod["spec"]["containers"][0]["image"] == BROKEN).expect("the surge");
    let node = new["spec"]["nodeName"].as_str().unwrap_or_else(|| panic!("{new} has no node: {web}"));
    say(hub, node, "Unknown").await;
    hub.settled().await;
    let web = hub.get(Kind::Deployment, "web").await;
    assert_eq!((&web["status"]["replicas"], &web["status"]["updatedReplicas"]), (&json!(4), &json!(1)), "{web}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_box_whose_owner_holds_updates_keeps_its_pods() {
    let fleet = Fleet::start().await;
    let Fleet { hub, .. } = &fleet;
    fleet.web(json!({}), json!({})).await;
    let hold = |value: Value| json!({"metadata": {"annotations": {"selvedge.dev/hold-updates": value}}});
    hub.admin.merge(Kind::Node, ("", "gw-2"), &hold("true".into())).await.expect("the API takes it");
    set_image(hub, "web", "two").await;
    let web = fleet.with(|web| web["status"]["updatedReplicas"] == 2 && web["status"]["availableReplicas"] == 3).await;
    assert_eq!(reason(&web, "NodesSkipped"), "UpdatesHeld");
    hub.settled().await;
    let held =
        hub.pods().await.into_iter().find(|pod| pod["spec"]["containers"][0]["image"] == "one").expect("one is left");
    assert_eq!(held["spec"]["nodeName"], "gw-2");
    hub.admin.merge(Kind::Node, ("", "gw-2"), &hold(Value::Null)).await.expect("the API takes it");
    let web = fleet.with(is_rolled_out).await;
    assert_eq!(reason(&web, "NodesSkipped"), "");
}

/// Has the container of a pod with image `two` restart.
async fn crash(hub: &Hub, pod: &Value) {
    let crashed = json!({"containerStatuses": [{
        "name": "main", "restartCount": 1, "image": "two", "imageID": "", "ready": true,
        "lastState": {"terminated": {"exitCode": 3}},
    }]});
    hub.admin.merge_status(Kind::Pod, ("default", name_of(pod)), &crashed).await.expect("the API takes it");
}

fn canary(nodes: &str, wait: &str) -> Value {
    json!({"selvedge.dev/canary": nodes, "selvedge.dev/canary-wait": wait})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_template_comes_to_the_canarys_nodes_first() {
    let mut fleet = Fleet::start().await;
    fleet.web(canary("site=pilot", "8s"), json!({})).await;
    set_image(&fleet.hub, "web", "two").await;
    fleet.pods_are(&[("gw-1", "two"), ("gw-2", "one"), ("gw-3", "one")]).await;
    let web = fleet.with(|web| reason(web, "Canary") == "Waiting" && web["status"]["updatedReplicas"] == 1).await;
    assert_eq!(reason(&web, "Progressing"), "CanaryWaiting");
    // A hub that starts again in the middle of it begins nothing anew.
    let before = fleet.uids().await;
    fleet.hub.stop_controllers().await;
    fleet.hub.start_controllers().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(fleet.uids().await, before, "the others wait");
    let web = fleet.with(is_rolled_out).await;
    assert_eq!(reason(&web, "Canary"), "Passed");
    fleet.hub.settled().await;
    assert!(fleet.hub.pods().await.iter().all(|pod| pod["spec"]["containers"][0]["image"] == "two"));
    assert!(fleet.hub.events("web").await.iter().any(|(reason, _)| reason == "CanaryPassed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_that_fails_puts_the_former_template_back() {
    let fleet = Fleet::start().await;
    let Fleet { hub, .. } = &fleet;
    fleet.web(canary("site=pilot", "1h"), json!({"progressDeadlineSeconds": 2})).await;
    set_image(hub, "web", BROKEN).await;
    let web = fleet.with(|web| reason(web, "Canary") == "RolledBack" && is_rolled_out(web)).await;
    assert_eq!(web["spec"]["template"]["spec"]["containers"][0]["image"], "one");
    assert!(message(&web, "Canary").contains("was not available within 2 seconds"), "{web}");
    fleet.pods_are(&[("gw-1", "one"), ("gw-2", "one"), ("gw-3", "one")]).await;
    hub.settled().await;
    let events = hub.events("web").await;
    assert!(events.iter().any(|(reason, _)| reason == "DeploymentRollback"), "{events:?}");

    // The same again is not tried again: no pod is touched.
    let before = fleet.uids().await;
    set_image(hub, "web", BROKEN).await;
    fleet.with(|web| web["spec"]["template"]["spec"]["containers"][0]["image"] == "one" && is_rolled_out(web)).await;
    hub.settled().await;
    assert_eq!(fleet.uids().await, before);

    // A container that is restarted is a failure at once.
    set_image(hub, "web", "two").await;
    fleet.pods_are(&[("gw-1", "two"), ("gw-2", "one"), ("gw-3", "one")]).await;
    fleet.with(|web| reason(web, "Canary") == "Waiting").await;
    let pods = hub.pods().await;
    let new = pods.iter().find(|pod| pod["spec"]["nodeName"] == "gw-1").expect("the canary's");
    crash(hub, new).await;
    let web = fleet.with(|web| reason(web, "Canary") == "RolledBack" && is_rolled_out(web)).await;
    assert!(message(&web, "Canary").contains("container main was restarted (exit code 3)"), "{web}");
    fleet.pods_are(&[("gw-1", "one"), ("gw-2", "one"), ("gw-3", "one")]).await;
}

/// Nothing of the former template is left while such a canary waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_on_all_nodes_is_judged_and_goes_back_as_well() {
    let fleet = Fleet::start().await;
    let Fleet { hub, .. } = &fleet;
    fleet.web(canary("site", "1h"), json!({"revisionHistoryLimit": 0})).await;
    set_image(hub, "web", "two").await;
    fleet.pods_are(&[("gw-1", "two"), ("gw-2", "two"), ("gw-3", "two")]).await;
    fleet.with(|web| reason(web, "Canary") == "Waiting" && web["status"]["updatedReplicas"] == 3).await;
    hub.settled().await;
    let pods = hub.pods().await;
    crash(hub, &pods[0]).await;
    fleet.with(|web| reason(web, "Canary") == "RolledBack" && is_rolled_out(web)).await;
    fleet.pods_are(&[("gw-1", "one"), ("gw-2", "one"), ("gw-3", "one")]).await;
}

/// A pause trims the history, but not what a canary goes back to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_keeps_what_a_canary_goes_back_to() {
    let fleet = Fleet::start().await;
    let Fleet { hub, .. } = &fleet;
    fleet.web(canary("site", "1h"), json!({"revisionHistoryLimit": 0, "progressDeadlineSeconds": 2})).await;
    let replicas = async |paused: bool, replicas: i64| {
        hub.patch(Kind::Deployment, "web", json!({"spec": {"paused": paused, "replicas": replicas}})).await;
        fleet.with(|web| web["status"]["replicas"].as_i64().unwrap_or_default() == replicas).await;
        hub.settled().await;
    };
    set_image(hub, "web", "two").await;
    fleet.with(|web| reason(web, "Canary") == "Waiting" && web["status"]["updatedReplicas"] == 3).await;
    hub.settled().await;
    // Without pods nobody sees that the former set is of use.
    replicas(true, 0).await;
    let sets = hub.list(Kind::ReplicaSet).await;
    assert_eq!(sets.len(), 2, "{sets:?}");
    replicas(false, 3).await;
    crash(hub, &hub.pods().await[0]).await;
    fleet.with(|web| reason(web, "Canary") == "RolledBack" && is_rolled_out(web)).await;
    fleet.pods_are(&[("gw-1", "one"), ("gw-2", "one"), ("gw-3", "one")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_without_nodes_updates_nothing_and_says_so() {
    let fleet = Fleet::start().await;
    let Fleet { hub, .. } = &fleet;
    fleet.web(canary("site=pilto", "1s"), json!({})).await;
    let before = fleet.uids().await;
    set_image(hub, "web", "two").await;
    let web = fleet.with(|web| message(web, "Canary").contains("no node matches site=pilto")).await;
    assert_eq!(reason(&web, "Canary"), "Waiting");
    hub.settled().await;
    assert_eq!(fleet.uids().await, before);
    let annotate = |nodes: &str| json!({"metadata": {"annotations": {"selvedge.dev/canary": nodes}}});
    hub.patch(Kind::Deployment, "web", annotate("site in pilot")).await;
    let web = fleet.with(|web| reason(web, "Canary") == "InvalidAnnotation").await;
    assert!(message(&web, "Canary").contains("nothing is updated"), "{web}");
    hub.settled().await;
    assert_eq!(fleet.uids().await, before);
    // The size is no template: it follows at once, with pods of the former one.
    hub.patch(Kind::Deployment, "web", json!({"spec": {"replicas": 4}})).await;
    fleet.with(|web| web["status"]["availableReplicas"] == 4).await;
    hub.settled().await;
    assert!(hub.pods().await.iter().all(|pod| pod["spec"]["containers"][0]["image"] == "one"));
    hub.patch(Kind::Deployment, "web", annotate("site=pilot")).await;
    let web = fleet.with(is_rolled_out).await;
    assert_eq!(reason(&web, "Canary"), "Passed");
}

/// A template that was on trial when the next one came has not passed: whoever goes back to it gives it another trial.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trial_that_the_next_template_cuts_short_is_none_that_was_passed() {
    let fleet = Fleet::start().await;
    let Fleet { hub, .. } = &fleet;
    fleet.web(canary("site=pilot", "1h"), json!({})).await;
    for image in ["two", "three", "two"] {
        set_image(hub, "web", image).await;
        fleet.pods_are(&[("gw-1", image), ("gw-2", "one"), ("gw-3", "one")]).await;
        let web = fleet.with(|web| web["status"]["updatedReplicas"] == 1 && reason(web, "Canary") == "Waiting").await;
        assert_eq!(reason(&web, "Progressing"), "CanaryWaiting");
        hub.settled().await;
    }
    fleet.pods_are(&[("gw-1", "two"), ("gw-2", "one"), ("gw-3", "one")]).await;
}

/// A size of none, or of no more than the canary, is no way past it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_stays_one_when_its_deployment_is_scaled_down_and_up_again() {
    let fleet = Fleet::start().await;
    let Fleet { hub, .. } = &fleet;
    let scale = async |replicas: i64| {
        hub.patch(Kind::Deployment, "web", json!({"spec": {"replicas": replicas}})).await;
        let is = |web: &Value, field: &str| web["status"][field].as_i64().unwrap_or_default() == replicas;
        fleet.with(|web| is(web, "replicas") && is(web, "availableReplicas")).await;
        hub.settled().await;
    };
    let images = async || {
        let pods = hub.pods().await;
        let mut images: Vec<String> = pods
            .iter()
            .map(|pod| pod["spec"]["containers"][0]["image"].as_str().unwrap_or_default().to_owned())
            .collect();
        images.sort();
        images.join(" ")
    };
    fleet.web(canary("site=pilto", "1h"), json!({})).await;
    set_image(hub, "web", "two").await;
    fleet.with(|web| reason(web, "Canary") == "Waiting").await;
    // Nothing is to be updated.
    scale(0).await;
    scale(3).await;
    assert_eq!(images().await, "one one one");
    let nodes = json!({"metadata": {"annotations": {"selvedge.dev/canary": "site=pilot"}}});
    hub.patch(Kind::Deployment, "web", nodes).await;
    fleet.with(|web| web["status"]["updatedReplicas"] == 1 && web["status"]["availableReplicas"] == 3).await;
    hub.settled().await;
    assert_eq!(images().await, "one one two");
    scale(1).await;
    assert_eq!(images().await, "two", "what is left is the canary");
    scale(3).await;
    assert_eq!(images().await, "one one two");
    scale(0).await;
    assert_eq!(reason(&fleet.with(|_| true).await, "Progressing"), "CanaryWaiting");
    scale(3).await;
    assert_eq!(images().await, "one one two");
    assert_eq!(reason(&fleet.with(|_| true).await, "Canary"), "Waiting");
    // The labels of nodes change in the middle of it: it comes to those that are the canary's now.
    for (node, site) in [("gw-1", "hall"), ("gw-2", "pilot")] {
        hub.admin
            .merge(Kind::Node, ("", node), &json!({"metadata": {"labels": {"site": site}}}))
            .await
            .expect("a node");
    }
    hub.patch(Kind::Deployment, "web", json!({"metadata": {"annotations": {"selvedge.dev/canary-wait": "1s"}}})).await;
    let web = fleet.with(is_rolled_out).await;
    assert_eq!(reason(&web, "Canary"), "Passed");
}
