//! Pods whose resources change while they run.

use serde_json::{Value, json};

use super::support::{FakeHub, FakeRuntime, eventually};
use super::{Node, acts, is_ready, pod, runs, status_of};

fn of_image(cpu: &str, memory: &str) -> Value {
    let resources = json!({"limits": {"cpu": cpu, "memory": memory}, "requests": {"cpu": cpu, "memory": memory}});
    let policy = json!([
        {"resourceName": "cpu", "restartPolicy": "NotRequired"},
        {"resourceName": "memory", "restartPolicy": "RestartContainer"},
    ]);
    let mut web = pod("web", json!({"resources": resources, "resizePolicy": policy}));
    web["spec"].as_object_mut().unwrap().remove("runtimeClassName");
    web
}

async fn start(cpu: &str) -> (FakeHub, Node) {
    let hub = FakeHub::start().await;
    hub.put_pod(of_image(cpu, "8Mi"));
    let mut node = Node::with(FakeRuntime::of(api_edge::RUNTIME_CONTAINER));
    node.start(Some(&hub)).await;
    is_ready(&hub, "web").await;
    (hub, node)
}

/// Waits until the status has these resources, and this of conditions about them: type, reason, message.
async fn shows(hub: &FakeHub, resources: [&str; 2], conditions: &[(&str, &str, &str)]) {
    let [cpu, memory] = resources;
    let amounts = json!({"cpu": cpu, "memory": memory});
    eventually("resources and conditions", || {
        let status = status_of(hub, "web");
        let container = &status["containerStatuses"][0];
        let found: Vec<(&str, &str, &str)> = status["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|one| one["type"].as_str().is_some_and(|kind| kind.starts_with("PodResize")))
            .map(|one| {
                let text = |field: &str| one[field].as_str().unwrap_or_default();
                (text("type"), text("reason"), text("message"))
            })
            .collect();
        let has_resources = container["resources"] == json!({"limits": amounts, "requests": amounts});
        if has_resources && container["allocatedResources"] == amounts && found == conditions {
            Ok(())
        } else {
            Err(format!("{found:?} {container}"))
        }
    })
    .await;
}

#[tokio::test]
async fn a_container_gets_other_resources_while_it_runs_or_by_a_restart_where_it_says_so() {
    let (hub, mut node) = start("100m").await;
    shows(&hub, ["100m", "8Mi"], &[]).await;
    hub.put_pod(of_image("200m", "8Mi"));
    acts(&node, &["start uid-web_a_0", "resize uid-web_a_0 to 200m"]).await;
    shows(&hub, ["200m", "8Mi"], &[]).await;
    runs(&node, &["uid-web_a_0"]).await;
    hub.put_pod(of_image("200m", "16Mi"));
    runs(&node, &["uid-web_a_1"]).await;
    shows(&hub, ["200m", "16Mi"], &[]).await;
    let limits = node.runtime.spec("uid-web_a_1").unwrap().limits;
    assert_eq!((limits.cpu_millis, limits.memory_bytes), (Some(200), Some(16 << 20)));
    node.kill().await;
}

#[tokio::test]
async fn a_resize_that_fails_says_why_and_is_not_done() {
    let (hub, mut node) = start("100m").await;
    *node.runtime.too_much.lock().unwrap() = Some(50);
    hub.put_pod(of_image("50m", "8Mi"));
    eventually("the reason", || {
        let status = status_of(&hub, "web");
        let container = &status["containerStatuses"][0];
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let error = conditions.iter().find(|one| one["type"] == "PodResizeInProgress");
        let is_so = error.is_some_and(|one| {
            one["reason"] == "Error" && one["message"].as_str().unwrap_or_default().contains("below current usage")
        });
        let is_old =
            container["resources"]["limits"]["cpu"] == "100m" && container["allocatedResources"]["cpu"] == "50m";
        if is_so && is_old { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    // What is desired again needs no change.
    hub.put_pod(of_image("100m", "8Mi"));
    shows(&hub, ["100m", "8Mi"], &[]).await;
    node.kill().await;
}

#[tokio::test]
async fn what_the_node_has_not_got_is_not_given_whoever_starts_again() {
    let (hub, mut node) = start("100m").await;
    let capacity = hub.object("/api/v1/nodes/n")["status"]["allocatable"]["cpu"].clone();
    let capacity: u64 = match capacity.as_str().unwrap().strip_suffix('m') {
        Some(millis) => millis.parse().unwrap(),
        None => capacity.as_str().unwrap().parse::<u64>().unwrap() * 1000,
    };
    hub.put_pod(of_image("5000", "8Mi"));
    let message = format!("Node didn't have enough capacity: cpu, requested: 5000000, capacity: {capacity}");
    let pending = [("PodResizePending", "Infeasible", message.as_str())];
    shows(&hub, ["100m", "8Mi"], &pending).await;
    // The next attempt has what the node has given, and so has the next agent.
    node.runtime.exit("uid-web_a_0", 1);
    runs(&node, &["uid-web_a_1"]).await;
    assert_eq!(node.runtime.spec("uid-web_a_1").unwrap().limits.cpu_millis, Some(100));
    node.kill().await;
    node.start(Some(&hub)).await;
    shows(&hub, ["100m", "8Mi"], &pending).await;
    runs(&node, &["uid-web_a_1"]).await;
    hub.put_pod(of_image("150m", "8Mi"));
    shows(&hub, ["150m", "8Mi"], &[]).await;
    runs(&node, &["uid-web_a_1"]).await;
    node.kill().await;
}

#[tokio::test]
async fn what_others_have_is_waited_for() {
    let hub = FakeHub::start().await;
    let mut node = Node::with(FakeRuntime::of(api_edge::RUNTIME_CONTAINER));
    node.start(Some(&hub)).await;
    eventually("the node", || match hub.object("/api/v1/nodes/n")["status"]["allocatable"]["cpu"].as_str() {
        Some(_) => Ok(()),
        None => Err(hub.object("/api/v1/nodes/n").to_string()),
    })
    .await;
    let cpu = hub.object("/api/v1/nodes/n")["status"]["allocatable"]["cpu"].as_str().unwrap().to_owned();
    let millis: u64 = match cpu.strip_suffix('m') {
        Some(millis) => millis.parse().unwrap(),
        None => cpu.parse::<u64>().unwrap() * 1000,
    };
    let half = format!("{}m", millis / 2);
    let mut other = of_image(&half, "8Mi");
    (other["metadata"]["name"], other["metadata"]["uid"]) = ("other".into(), "uid-other".into());
    hub.put_pod(other);
    hub.put_pod(of_image("100m", "8Mi"));
    is_ready(&hub, "web").await;
    is_ready(&hub, "other").await;
    let more = format!("{}m", millis / 2 + 100);
    hub.put_pod(of_image(&more, "8Mi"));
    shows(&hub, ["100m", "8Mi"], &[("PodResizePending", "Deferred", "Node didn't have enough resource: cpu")]).await;
    hub.delete_gracefully("other");
    shows(&hub, [&more, "8Mi"], &[]).await;
    runs(&node, &["uid-web_a_0"]).await;
    node.kill().await;
}
