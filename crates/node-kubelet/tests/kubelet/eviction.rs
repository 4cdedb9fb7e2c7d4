//! A node that runs short of something.

use std::collections::BTreeMap;
use std::time::Duration;

use node_kubelet::{EvictionSettings, Kubelet, KubeletConfig};
use node_runtime::ContainerStats;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::support::{FakeHub, eventually};
use super::{Node, event, is_ready, pod, runs, status_of};

/// Thresholds that are met, whatever machine this is; it is looked at again in an hour.
fn short_of(signal: &str) -> EvictionSettings {
    let mut settings = EvictionSettings { period: Duration::from_secs(3600), ..EvictionSettings::default() };
    settings.set_hard(&BTreeMap::from([(signal.to_owned(), "7Ei".to_owned())])).unwrap();
    settings
}

async fn restart(node: &mut Node, hub: &FakeHub, eviction: EvictionSettings) {
    node.kill().await;
    node.shutdown = CancellationToken::new();
    let config = KubeletConfig { eviction, ..node.config(Some(hub)) };
    node.kubelet = Some(Kubelet::start(config, vec![node.runtime.clone()], node.shutdown.clone()).await.unwrap());
}

fn condition_of(hub: &FakeHub, name: &str) -> Option<String> {
    let node = hub.object("/api/v1/nodes/n");
    let condition = node["status"]["conditions"].as_array()?.iter().find(|one| one["type"] == name)?.clone();
    Some(format!("{} {}", condition["status"].as_str()?, condition["reason"].as_str()?))
}

#[tokio::test]
async fn a_node_short_of_memory_ends_what_takes_more_than_it_was_promised() {
    let hub = FakeHub::start().await;
    let mut important = pod("important", json!({"resources": {"requests": {"memory": "100Mi"}}}));
    important["spec"]["priority"] = 2_000_000_000.into();
    for pod in [pod("greedy", json!({})), important] {
        hub.put_pod(pod);
    }
    let mut node = Node::new();
    for (name, used) in [("greedy", 5 << 20), ("important", 900 << 20)] {
        let stats = ContainerStats { working_set_bytes: used, memory_bytes: used, ..ContainerStats::default() };
        node.runtime.uses(&format!("uid-{name}"), stats);
        node.runtime.uses(&format!("uid-{name}_a_0"), stats);
    }
    node.start(Some(&hub)).await;
    is_ready(&hub, "greedy").await;
    is_ready(&hub, "important").await;
    assert_eq!(condition_of(&hub, "MemoryPressure").as_deref(), Some("False KubeletHasSufficientMemory"));

    restart(&mut node, &hub, short_of("memory.available")).await;
    runs(&node, &["uid-important_a_0"]).await;
    eventually("the pod failed", || {
        let status = status_of(&hub, "greedy");
        let disrupted = status["conditions"].as_array().unwrap().iter().find(|one| one["type"] == "DisruptionTarget");
        let is_evicted = status["phase"] == "Failed" && status["reason"] == "Evicted";
        let message = status["message"].as_str().unwrap_or_default();
        let is_said = message.starts_with("The node was low on resource: memory. Threshold quantity: 7Ei, available: ")
            && message.ends_with("Container a was using 5Mi, request is 0, has larger consumption of memory. ");
        let is_disrupted = disrupted.is_some_and(|one| one["reason"] == "TerminationByKubelet");
        if is_evicted && is_said && is_disrupted { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    eventually("the node says so", || match condition_of(&hub, "MemoryPressure") {
        Some(found) if found == "True KubeletHasInsufficientMemory" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert!(event(&hub, "Evicted").await.starts_with("The node was low on resource: memory. "));
    let of_node = |reason: &str| {
        let events = hub.objects_under("/api/v1/namespaces/default/events/");
        events.into_iter().find(|event| event["reason"] == reason).map(|event| event["message"].clone())
    };
    eventually("the node has Events of it", || {
        let (threshold, condition) = (of_node("EvictionThresholdMet"), of_node("NodeHasInsufficientMemory"));
        let is_said = threshold.as_ref().is_some_and(|message| message == "Attempting to reclaim memory")
            && condition.as_ref().is_some_and(|text| text == "Node n status is now: NodeHasInsufficientMemory");
        if is_said { Ok(()) } else { Err(format!("{threshold:?} {condition:?}")) }
    })
    .await;

    // Meanwhile it takes those that are promised memory, and no others.
    hub.put_pod(pod("besteffort", json!({})));
    hub.put_pod(pod("promised", json!({"resources": {"requests": {"memory": "1Mi"}}})));
    eventually("the pod is rejected", || {
        let status = status_of(&hub, "besteffort");
        let is_rejected = status["phase"] == "Failed"
            && status["reason"] == "Evicted"
            && status["message"] == "Pod was rejected: The node had condition: [MemoryPressure]. ";
        if is_rejected { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    is_ready(&hub, "promised").await;

    // With memory enough again the agent does not start what it has evicted.
    let starts = node.runtime.starts();
    restart(&mut node, &hub, EvictionSettings::default()).await;
    hub.put_pod(pod("next", json!({})));
    is_ready(&hub, "next").await;
    assert_eq!(node.runtime.starts(), [starts, vec!["uid-next_a_0".to_owned()]].concat());
    assert_eq!(status_of(&hub, "greedy")["reason"], "Evicted");
    node.kill().await;
}

#[tokio::test]
async fn a_node_short_of_disk_ends_who_has_most_of_it_and_takes_no_pod() {
    let hub = FakeHub::start().await;
    let volume = |name: &str| {
        let mut pod = pod(name, json!({"volumeMounts": [{"name": "data", "mountPath": "/data"}]}));
        pod["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
        pod
    };
    hub.put_pod(volume("small"));
    hub.put_pod(volume("large"));
    hub.put_pod(volume("empty"));
    let mut node = Node::new();
    node.start(Some(&hub)).await;
    is_ready(&hub, "small").await;
    is_ready(&hub, "large").await;
    is_ready(&hub, "empty").await;
    for (name, bytes) in [("small", 2_000_000), ("large", 5_000_000)] {
        let data = node.runtime.mount(&format!("uid-{name}_a_0"), "/data").unwrap();
        std::fs::write(data.join("file"), vec![1; bytes]).unwrap();
    }
    // A stop that takes its time: one pod at a time is ended.
    node.runtime.hold_stops(true);
    restart(&mut node, &hub, short_of("nodefs.available")).await;
    eventually("the large one is being stopped", || match node.runtime.acts() {
        acts if acts.iter().any(|act| act == "stop uid-large_a_0") => Ok(()),
        acts => Err(format!("{acts:?}")),
    })
    .await;
    assert!(!node.runtime.acts().iter().any(|act| act == "stop uid-small_a_0"));
    hub.put_pod(pod("promised", json!({"resources": {"requests": {"memory": "1Mi"}}})));
    eventually("the pod is rejected", || {
        let status = status_of(&hub, "promised");
        let message = &status["message"];
        if message == "Pod was rejected: The node had condition: [DiskPressure]. " {
            Ok(())
        } else {
            Err(status.to_string())
        }
    })
    .await;
    node.runtime.hold_stops(false);
    // Nothing that it ends makes the disk large enough; who has nothing on it runs on.
    runs(&node, &["uid-empty_a_0"]).await;
    assert_eq!(status_of(&hub, "small")["reason"], "Evicted");
    node.kill().await;
}

#[tokio::test]
async fn a_pod_that_has_more_on_the_disk_than_its_limit_is_evicted_and_no_other() {
    let hub = FakeHub::start().await;
    let limited = |name: &str, limit: &str| {
        let resources = json!({"limits": {"ephemeral-storage": limit}, "requests": {"ephemeral-storage": "1Mi"}});
        let mut pod =
            pod(name, json!({"resources": resources, "volumeMounts": [{"name": "data", "mountPath": "/data"}]}));
        pod["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
        pod["spec"]["terminationGracePeriodSeconds"] = 700.into();
        pod
    };
    hub.put_pod(limited("greedy", "3Mi"));
    hub.put_pod(limited("modest", "30Mi"));
    hub.put_pod(limited("too-large", "7Ei"));
    let mut large = limited("impossible", "7Ei");
    large["spec"]["containers"][0]["resources"]["requests"]["ephemeral-storage"] = "6Ei".into();
    hub.put_pod(large);
    let mut node = Node::new();
    node.start(Some(&hub)).await;
    for name in ["greedy", "modest", "too-large"] {
        is_ready(&hub, name).await;
        let data = node.runtime.mount(&format!("uid-{name}_a_0"), "/data").unwrap();
        std::fs::write(data.join("file"), vec![1; 4_000_000]).unwrap();
    }
    eventually("the pod failed", || {
        let status = status_of(&hub, "greedy");
        let is_evicted = status["phase"] == "Failed"
            && status["reason"] == "Evicted"
            && status["message"] == "Pod ephemeral local storage usage exceeds the total limit of containers 3Mi. ";
        if is_evicted { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    assert_eq!(node.runtime.graces("uid-greedy_a_0"), [1]);
    runs(&node, &["uid-modest_a_0", "uid-too-large_a_0"]).await;
    let rejected = status_of(&hub, "impossible");
    assert_eq!(rejected["reason"], "OutOfephemeral-storage", "{rejected}");
    node.kill().await;
}

#[tokio::test]
async fn for_a_soft_threshold_a_pod_has_its_time_to_end() {
    let hub = FakeHub::start().await;
    let mut web = pod("web", json!({}));
    web["spec"]["terminationGracePeriodSeconds"] = 7.into();
    hub.put_pod(web);
    let mut patient = pod("patient", json!({"resources": {"requests": {"memory": "1Mi"}}}));
    patient["spec"]["terminationGracePeriodSeconds"] = 700.into();
    hub.put_pod(patient);
    let mut node = Node::new();
    node.start(Some(&hub)).await;
    is_ready(&hub, "web").await;
    is_ready(&hub, "patient").await;
    let mut settings = EvictionSettings { max_pod_grace: Duration::from_secs(60), ..EvictionSettings::default() };
    let of = |text: &str| BTreeMap::from([("memory.available".to_owned(), text.to_owned())]);
    settings.set_soft(&of("7Ei"), &BTreeMap::from([("memory.available".to_owned(), 0)])).unwrap();
    restart(&mut node, &hub, settings).await;
    runs(&node, &[]).await;
    assert_eq!(node.runtime.graces("uid-web_a_0"), [7]);
    assert_eq!(node.runtime.graces("uid-patient_a_0"), [60]);
    eventually("both have failed", || {
        let reasons = ["web", "patient"].map(|name| status_of(&hub, name)["reason"].clone());
        if reasons.iter().all(|reason| reason == "Evicted") { Ok(()) } else { Err(format!("{reasons:?}")) }
    })
    .await;
    node.kill().await;
}
