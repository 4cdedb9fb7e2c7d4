//! The whole kubelet against a hub and a runtime made for the test: joining, running, losing the hub, coming back.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands; clippy exempts only the test functions")]

#[path = "kubelet/eviction.rs"]
mod eviction;
#[path = "kubelet/images.rs"]
mod images;
#[path = "kubelet/machine_shutdown.rs"]
mod machine_shutdown;
#[path = "kubelet/resizes.rs"]
mod resizes;
mod support;
#[path = "kubelet/usage.rs"]
mod usage;

use std::time::Duration;

use node_kubelet::{Kubelet, KubeletConfig, KubeletHandle};
use serde_json::{Value, json};
use support::{FakeHub, FakeRuntime, Issuing, eventually};
use tokio_util::sync::CancellationToken;

/// A kubelet that can be killed and started again on the same folder.
struct Node {
    dir: tempfile::TempDir,
    runtime: std::sync::Arc<FakeRuntime>,
    shutdown: CancellationToken,
    kubelet: Option<KubeletHandle>,
}

impl Node {
    fn new() -> Self {
        Self::with(FakeRuntime::new())
    }

    fn with(runtime: std::sync::Arc<FakeRuntime>) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), runtime, shutdown: CancellationToken::new(), kubelet: None }
    }

    fn config(&self, hub: Option<&FakeHub>) -> KubeletConfig {
        KubeletConfig {
            data_dir: self.dir.path().to_owned(),
            node_name: "n".into(),
            hub_urls: hub.map(|hub| hub.url.clone()).into_iter().collect(),
            token: hub.map(FakeHub::token),
            listen: "127.0.0.1:0".parse().unwrap(),
            ..KubeletConfig::default()
        }
    }

    async fn start(&mut self, hub: Option<&FakeHub>) {
        self.shutdown = CancellationToken::new();
        let kubelet = Kubelet::start(self.config(hub), vec![self.runtime.clone()], self.shutdown.clone()).await;
        self.kubelet = Some(kubelet.unwrap());
    }

    async fn kill(&mut self) {
        self.shutdown.cancel();
        if let Some(kubelet) = self.kubelet.take() {
            kubelet.stopped().await;
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Volumes with secrets are file systems in memory: with their directory alone they would not end.
        let _ = node_pods::remove_pods(self.dir.path());
    }
}

fn pod(name: &str, container: Value) -> Value {
    let mut container = container;
    container["name"] = "a".into();
    container["image"] = "file:///bin/x".into();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "d", "uid": format!("uid-{name}")},
        "spec": {"nodeName": "n", "runtimeClassName": "selvedge-process", "containers": [container]},
    })
}

fn status_of(hub: &FakeHub, name: &str) -> Value {
    hub.object(&format!("/api/v1/namespaces/d/pods/{name}"))["status"].clone()
}

async fn is_ready(hub: &FakeHub, name: &str) {
    eventually("the pod is ready", || {
        let status = status_of(hub, name);
        let ready = status["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|c| c["type"] == "Ready" && c["status"] == "True");
        if ready { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
}

/// Waits until exactly these containers run.
async fn runs(node: &Node, ids: &[&str]) {
    eventually(&format!("{ids:?} run"), || match node.runtime.running() {
        running if running == ids => Ok(()),
        running => Err(format!("{running:?}")),
    })
    .await;
}

#[tokio::test]
async fn a_node_joins_registers_and_runs_a_pod() {
    let hub = FakeHub::start().await;
    hub.put_pod(pod("web", json!({})));
    let mut node = Node::new();
    node.start(Some(&hub)).await;
    is_ready(&hub, "web").await;
    assert_eq!(node.runtime.running(), ["uid-web_a_0"]);
    eventually("the node is Ready", || {
        let node = hub.object("/api/v1/nodes/n");
        let ready = node["status"]["conditions"].to_string().contains("KubeletReady");
        if ready { Ok(()) } else { Err(node.to_string()) }
    })
    .await;
    eventually("the Lease is held", || {
        let lease = hub.object("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n");
        if lease["spec"]["leaseDurationSeconds"] == 40 { Ok(()) } else { Err(lease.to_string()) }
    })
    .await;

    hub.delete_gracefully("web");
    eventually("the pod is gone", || match node.runtime.running().as_slice() {
        [] if hub.object("/api/v1/namespaces/d/pods/web").is_null() => Ok(()),
        running => Err(format!("{running:?} {}", hub.object("/api/v1/namespaces/d/pods/web"))),
    })
    .await;
    node.kill().await;
}

#[tokio::test]
async fn a_killed_kubelet_adopts_what_runs_and_starts_nothing_twice() {
    let hub = FakeHub::start().await;
    hub.put_pod(pod("web", json!({})));
    let mut node = Node::new();
    node.start(Some(&hub)).await;
    is_ready(&hub, "web").await;
    node.kill().await;
    hub.stop();

    node.start(None).await;
    let kubelet = node.kubelet.as_ref().unwrap();
    eventually("the pod is reported", || match kubelet.report().pods.as_slice() {
        [pod] if pod.ready => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert_eq!(node.runtime.starts(), ["uid-web_a_0"]);
    node.kill().await;
}

/// Checks that a container has the variables by which programs find the API.
fn learns_the_hub(node: &Node, container: &str, hub: &FakeHub) {
    let variable = |name: &str| node.runtime.env(container, &format!("KUBERNETES_SERVICE_{name}")).unwrap_or_default();
    assert_eq!(format!("https://{}:{}", variable("HOST"), variable("PORT")), hub.url, "{container}");
    assert_eq!(variable("PORT_HTTPS"), variable("PORT"), "{container}");
}

#[tokio::test]
async fn pods_killed_with_their_node_are_back_without_a_hub() {
    let hub = FakeHub::start().await;
    hub.put_pod(pod("web", json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]})));
    hub.put("/api/v1/namespaces/d/secrets/s", json!({"metadata": {"name": "s"}, "data": {"k": "djE="}}));
    let mut node = Node::new();
    node.start(Some(&hub)).await;
    is_ready(&hub, "web").await;
    learns_the_hub(&node, "uid-web_a_0", &hub);
    node.kill().await;
    hub.stop();
    node.runtime.power_cut();

    let begun = std::time::Instant::now();
    node.start(None).await;
    runs(&node, &["uid-web_a_1"]).await;
    // How fast is measured by `bench first-light`; here, that it waits for no hub and for no back-off.
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    assert_eq!(node.runtime.env("uid-web_a_1", "A").as_deref(), Some("v1"));
    // Where the hub is, is known from the start before.
    learns_the_hub(&node, "uid-web_a_1", &hub);
    node.kill().await;
}

#[tokio::test]
async fn a_pod_that_left_while_the_node_was_down_is_stopped_after_a_list_only() {
    let hub = FakeHub::start().await;
    hub.put_pod(pod("web", json!({})));
    let mut node = Node::new();
    node.start(Some(&hub)).await;
    is_ready(&hub, "web").await;
    node.kill().await;

    hub.remove_pod("web");
    hub.refuse_lists(true);
    node.start(Some(&hub)).await;
    let kubelet = node.kubelet.as_ref().unwrap();
    let mut registered = kubelet.registered();
    registered.wait_for(|registered| *registered).await.unwrap();
    assert_eq!(node.runtime.running(), ["uid-web_a_0"], "a list that fails stops nothing");
    hub.refuse_lists(false);
    runs(&node, &[]).await;
    eventually("nothing of the pod", || match node.runtime.pods().is_empty() {
        true => Ok(()),
        false => Err(format!("{:?}", node.runtime.pods())),
    })
    .await;
    node.kill().await;
}

#[tokio::test]
async fn a_container_that_exits_is_restarted_and_then_backs_off() {
    let hub = FakeHub::start().await;
    hub.put_pod(pod("web", json!({})));
    let mut node = Node::new();
    node.start(Some(&hub)).await;
    is_ready(&hub, "web").await;
    node.runtime.exit("uid-web_a_0", 3);
    runs(&node, &["uid-web_a_1"]).await;
    node.runtime.exit("uid-web_a_1", 3);
    eventually("it backs off", || {
        let status = status_of(&hub, "web");
        let container = &status["containerStatuses"][0];
        let is_held = container["state"]["waiting"]["reason"] == "CrashLoopBackOff"
            && container["lastState"]["terminated"]["exitCode"] == 3
            && container["restartCount"] == 1;
        if is_held { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    node.kill().await;
}

#[tokio::test]
async fn a_wrong_ca_is_refused_and_said() {
    let (hub, other) = (FakeHub::start().await, FakeHub::start().await);
    let node = Node::new();
    let config = KubeletConfig { token: Some(other.token()), ..node.config(Some(&hub)) };
    let shutdown = CancellationToken::new();
    let kubelet = Kubelet::start(config, vec![node.runtime.clone()], shutdown.clone()).await.unwrap();
    let mut refused = kubelet.join_refused();
    let text = tokio::time::timeout(Duration::from_secs(20), refused.wait_for(Option::is_some))
        .await
        .unwrap()
        .unwrap()
        .clone();
    assert!(text.unwrap().contains("not the one that the token was made on"));
    assert!(kubelet.identity().borrow().is_none());
    shutdown.cancel();
    kubelet.stopped().await;
}

#[tokio::test]
async fn a_key_that_the_hub_takes_again_ends_the_join_by_a_used_token() {
    let hub = FakeHub::start().await;
    let mut node = Node::new();
    node.start(Some(&hub)).await;
    node.kubelet.as_ref().unwrap().identity().wait_for(Option::is_some).await.unwrap();
    node.kill().await;
    // As when the hub's clock is beyond the certificate's end.
    hub.refuse_tokens(true);
    hub.refuse_keys(true);
    node.start(Some(&hub)).await;
    let mut refused = node.kubelet.as_ref().unwrap().join_refused();
    let limit = Duration::from_secs(30);
    tokio::time::timeout(limit, refused.wait_for(Option::is_some)).await.unwrap().unwrap();
    hub.refuse_keys(false);
    tokio::time::timeout(limit, refused.wait_for(Option::is_none)).await.unwrap().unwrap();
    node.kill().await;
}

#[tokio::test]
async fn a_node_without_identity_and_token_does_not_start() {
    let node = Node::new();
    let error = Kubelet::start(node.config(None), vec![], CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("token"), "{error}");
}

#[tokio::test]
async fn static_pods_run_and_appear_at_the_hub_as_mirrors() {
    let hub = FakeHub::start().await;
    let mut node = Node::new();
    node.start(Some(&hub)).await;
    let mut manifest = pod("edge", json!({}));
    manifest["metadata"].as_object_mut().unwrap().remove("uid");
    let kubelet = node.kubelet.as_ref().unwrap();
    kubelet.set_static_pods(vec![manifest]).await;
    is_ready(&hub, "edge-n").await;
    assert_eq!(node.runtime.running().len(), 1);
    kubelet.set_static_pods(vec![]).await;
    eventually("it and its mirror are gone", || match node.runtime.running().as_slice() {
        [] if hub.object("/api/v1/namespaces/d/pods/edge-n").is_null() => Ok(()),
        running => Err(format!("{running:?}")),
    })
    .await;
    node.kill().await;
}

#[tokio::test]
async fn a_mirror_pod_that_a_person_deletes_is_removed_and_created_anew() {
    let hub = FakeHub::start().await;
    let mut node = Node::new();
    node.start(Some(&hub)).await;
    let mut manifest = pod("edge", json!({}));
    manifest["metadata"].as_object_mut().unwrap().remove("uid");
    node.kubelet.as_ref().unwrap().set_static_pods(vec![manifest]).await;
    is_ready(&hub, "edge-n").await;
    let path = "/api/v1/namespaces/d/pods/edge-n";
    let before = hub.object(path)["metadata"]["uid"].clone();
    hub.delete_gracefully("edge-n");
    eventually("another mirror is there", || {
        let metadata = hub.object(path)["metadata"].clone();
        let is_new = metadata["uid"].is_string() && metadata["uid"] != before;
        if is_new && metadata["deletionTimestamp"].is_null() { Ok(()) } else { Err(metadata.to_string()) }
    })
    .await;
    is_ready(&hub, "edge-n").await;
    assert_eq!(node.runtime.starts().len(), 1, "the pod itself runs on");
    node.kill().await;
}

#[tokio::test]
async fn what_the_hub_says_of_a_pod_and_is_not_so_is_reported_anew() {
    let hub = FakeHub::start().await;
    hub.put_pod(pod("web", json!({})));
    let mut node = Node::new();
    node.start(Some(&hub)).await;
    let mut manifest = pod("edge", json!({}));
    manifest["metadata"].as_object_mut().unwrap().remove("uid");
    node.kubelet.as_ref().unwrap().set_static_pods(vec![manifest.clone()]).await;
    for name in ["web", "edge-n"] {
        is_ready(&hub, name).await;
        hub.mark_not_ready(name);
        is_ready(&hub, name).await;
    }
    // While nobody was there to hear of it.
    node.kill().await;
    hub.mark_not_ready("web");
    hub.mark_not_ready("edge-n");
    node.start(Some(&hub)).await;
    node.kubelet.as_ref().unwrap().set_static_pods(vec![manifest]).await;
    is_ready(&hub, "web").await;
    is_ready(&hub, "edge-n").await;
    node.kill().await;
}

#[tokio::test]
async fn a_box_whose_key_is_refused_joins_again_with_another_and_its_pods_run_on() {
    let hub = FakeHub::start().await;
    hub.put_pod(pod("web", json!({})));
    let mut node = Node::new();
    node.start(Some(&hub)).await;
    is_ready(&hub, "web").await;
    node.kill().await;
    hub.refuse_keys(true);
    node.start(Some(&hub)).await;
    let mut identities = node.kubelet.as_ref().unwrap().identity();
    let first = identities.borrow_and_update().clone().unwrap();
    let limit = Duration::from_secs(30);
    let is_other =
        |now: &Option<std::sync::Arc<node_kubelet::Identity>>| now.as_ref().unwrap().cert_pem != first.cert_pem;
    let again = tokio::time::timeout(limit, identities.wait_for(is_other)).await.unwrap().unwrap().clone().unwrap();
    // Whoever stole the first one has nothing of it.
    assert_ne!(again.key_pem, first.key_pem);
    assert_eq!(node.runtime.starts(), ["uid-web_a_0"]);
    node.kill().await;
}

#[tokio::test]
async fn a_deleted_node_registers_when_it_is_started_again_and_its_lease_is_its_own_then() {
    let hub = FakeHub::start().await;
    let mut node = Node::new();
    node.shutdown = CancellationToken::new();
    let config = KubeletConfig { lease_renew_period: Duration::from_millis(100), ..node.config(Some(&hub)) };
    let config = KubeletConfig { status_post_period: Duration::from_millis(100), ..config };
    let kubelet = Kubelet::start(config, vec![node.runtime.clone()], node.shutdown.clone()).await;
    node.kubelet = Some(kubelet.unwrap());
    let node_path = "/api/v1/nodes/n";
    let is_owned = || {
        let lease = hub.object("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n");
        let uid = hub.object("/api/v1/nodes/n")["metadata"]["uid"].clone();
        let owner = &lease["metadata"]["ownerReferences"][0];
        let is_it = uid.is_string() && owner["uid"] == uid && owner["kind"] == "Node";
        if is_it { Ok(()) } else { Err(format!("{uid}: {lease}")) }
    };
    eventually("the Lease has its owner", is_owned).await;
    let before = hub.object("/api/v1/nodes/n")["metadata"]["uid"].clone();
    hub.remove(node_path);
    eventually("the agent says that its Node was deleted", || {
        let errors = node.kubelet.as_ref().unwrap().report().last_errors;
        let has_said = errors.iter().any(|error| error.contains("was deleted; its pods run on"));
        if has_said { Ok(()) } else { Err(format!("{errors:?}")) }
    })
    .await;
    assert!(hub.object(node_path).is_null());
    // A hub that has lost all that it knew has deleted nothing.
    hub.forget_everything();
    eventually("the Lease has its new owner", is_owned).await;
    assert_ne!(hub.object(node_path)["metadata"]["uid"], before);
    hub.remove(node_path);
    node.kill().await;
    node.start(Some(&hub)).await;
    eventually("it is there again", || if hub.object(node_path).is_object() { Ok(()) } else { Err(String::new()) })
        .await;
    node.kill().await;
}

#[tokio::test]
async fn a_static_pod_wished_for_again_while_it_ends_is_started_again() {
    let mut node = Node::new();
    let hub = FakeHub::start().await;
    node.start(Some(&hub)).await;
    let kubelet = node.kubelet.as_ref().unwrap();
    let manifest = || {
        let mut manifest = pod("edge", json!({}));
        manifest["metadata"].as_object_mut().unwrap().remove("uid");
        manifest
    };
    kubelet.set_static_pods(vec![manifest()]).await;
    eventually("it runs", || match node.runtime.running().len() {
        1 => Ok(()),
        count => Err(format!("{count} run")),
    })
    .await;
    node.runtime.hold_stops(true);
    kubelet.set_static_pods(vec![]).await;
    kubelet.set_static_pods(vec![manifest()]).await;
    node.runtime.hold_stops(false);
    eventually("it was stopped and started again", || {
        match (node.runtime.starts().len(), node.runtime.running().len()) {
            (2, 1) => Ok(()),
            _ => Err(format!("{:?} of {:?}", node.runtime.running(), node.runtime.starts())),
        }
    })
    .await;
    is_ready(&hub, "edge-n").await;
    node.kill().await;
}

#[tokio::test]
async fn a_pod_that_cannot_be_understood_keeps_running() {
    let hub = FakeHub::start().await;
    hub.put_pod(pod("web", json!({})));
    let mut node = Node::new();
    node.start(Some(&hub)).await;
    is_ready(&hub, "web").await;
    node.kill().await;

    let mut strange = pod("web", json!({}));
    strange["spec"]["containers"] = json!("many");
    hub.put_pod(strange);
    // The one listed after it shows that the list was acted on.
    hub.put_pod(pod("zeta", json!({})));
    std::fs::remove_dir_all(node.dir.path().join("node/store")).unwrap();
    node.start(Some(&hub)).await;
    is_ready(&hub, "zeta").await;
    assert!(node.runtime.running().contains(&"uid-web_a_0".to_owned()));
    hub.remove_pod("web");
    eventually("what is deleted is stopped", || match node.runtime.running().contains(&"uid-web_a_0".to_owned()) {
        false => Ok(()),
        true => Err("it runs".to_owned()),
    })
    .await;
    node.kill().await;
}

#[tokio::test]
async fn a_pod_of_a_runtime_that_is_not_here_stays_pending_and_says_why() {
    let hub = FakeHub::start().await;
    let mut image = pod("image", json!({}));
    image["spec"].as_object_mut().unwrap().remove("runtimeClassName");
    hub.put_pod(image);
    let mut node = Node::new();
    node.start(Some(&hub)).await;
    eventually("the pod says why", || {
        let status = status_of(&hub, "image");
        let waiting = &status["containerStatuses"][0]["state"]["waiting"];
        let said = waiting["message"].as_str().is_some_and(|text| text.contains("set spec.runtimeClassName"));
        match status["phase"] == "Pending" && waiting["reason"] == "UnsupportedRuntime" && said {
            true => Ok(()),
            false => Err(status.to_string()),
        }
    })
    .await;
    assert!(node.runtime.starts().is_empty());
    // What waits can be deleted.
    hub.remove_pod("image");
    hub.put_pod(pod("web", json!({})));
    is_ready(&hub, "web").await;
    eventually("it is gone from the node", || match node.kubelet.as_ref().unwrap().report().pods.len() {
        1 => Ok(()),
        count => Err(format!("{count} pods")),
    })
    .await;
    node.kill().await;
}

/// Waits until the table of pods has these records: name, labels, addresses, and what is true of it.
async fn table_shows(kubelet: &KubeletHandle, expected: &[(&str, &str)]) {
    let table = kubelet.pod_table();
    let mut changes = table.subscribe();
    let shown = |record: &std::sync::Arc<node_pods::PodRecord>| {
        let (labels, addresses, ports) = (&record.labels, &record.addresses, &record.ports);
        let flags = [("ready", record.is_ready), ("ending", record.is_ending), ("host", record.is_host_network)];
        let flags: Vec<&str> = flags.into_iter().filter(|(_, is_so)| *is_so).map(|(flag, _)| flag).collect();
        let ports: Vec<String> = ports.iter().map(|port| format!("{:?}/{}", port.protocol, port.port)).collect();
        (record.name.clone(), format!("{labels:?} {addresses:?} {ports:?} {flags:?}"))
    };
    let mut seen = Vec::new();
    let waiting = async {
        loop {
            seen = table.snapshot().iter().map(shown).collect();
            if seen.iter().map(|(name, shown)| (name.as_str(), shown.as_str())).eq(expected.iter().copied()) {
                return;
            }
            changes.changed().await.unwrap();
        }
    };
    if tokio::time::timeout(Duration::from_secs(30), waiting).await.is_err() {
        panic!("expected {expected:?}; last seen: {seen:?}");
    }
}

#[tokio::test]
async fn others_on_the_node_see_its_pods_as_they_are() {
    let hub = FakeHub::start().await;
    let port = json!({"ports": [{"containerPort": 80}, {"containerPort": 53, "protocol": "UDP", "name": "dns"}]});
    let mut web = pod("web", port);
    web["metadata"]["labels"] = json!({"app": "web"});
    web["spec"]["restartPolicy"] = "Never".into();
    hub.put_pod(web.clone());
    let mut node = Node::new();
    let config = KubeletConfig { node_ip: Some("192.0.2.7".parse().unwrap()), ..node.config(Some(&hub)) };
    let kubelet = Kubelet::start(config, vec![node.runtime.clone()], node.shutdown.clone()).await.unwrap();
    let ports = r#"["Tcp/80", "Udp/53"]"#;
    let runs = |app: &str, flags: &str| format!(r#"{{"app": "{app}"}} [192.0.2.7] {ports} {flags}"#);
    table_shows(&kubelet, &[("web", &runs("web", r#"["ready", "host"]"#))]).await;

    web["metadata"]["labels"] = json!({"app": "other"});
    hub.put_pod(web);
    table_shows(&kubelet, &[("web", &runs("other", r#"["ready", "host"]"#))]).await;
    node.runtime.hold_stops(true);
    hub.delete_gracefully("web");
    table_shows(&kubelet, &[("web", &runs("other", r#"["ending", "host"]"#))]).await;
    node.runtime.hold_stops(false);
    table_shows(&kubelet, &[]).await;

    let mut job = pod("job", json!({}));
    job["spec"]["restartPolicy"] = "Never".into();
    hub.put_pod(job);
    table_shows(&kubelet, &[("job", r#"{} [192.0.2.7] [] ["ready", "host"]"#)]).await;
    node.runtime.exit("uid-job_a_0", 0);
    table_shows(&kubelet, &[]).await;
    node.kubelet = Some(kubelet);
    node.kill().await;
}

#[tokio::test]
async fn services_are_there_again_after_a_restart_without_a_hub() {
    let hub = FakeHub::start().await;
    let assignment = |number: u32, entries: Value| {
        let name = api_edge::resources::assignment_name("n", number);
        let path = format!("/apis/{}/nodeassignments/{name}", api_edge::API_VERSION);
        let spec = json!({"nodeName": "n", "part": number, "parts": 2, "entries": entries});
        hub.put(&path, json!({"metadata": {"uid": name}, "spec": spec}));
    };
    let service = |name: &str| {
        let spec = json!({"clusterIPs": ["10.96.0.7"], "selector": {"app": name}, "ports": [{"port": 80, "targetPort": "http"}]});
        json!({"kind": "Service", "namespace": "d", "name": name, "uid": name, "generation": 0, "spec": spec})
    };
    assignment(0, json!([service("web")]));
    assignment(1, json!([service("db")]));
    let mut node = Node::new();
    node.start(Some(&hub)).await;
    let kubelet = node.kubelet.as_ref().unwrap();
    let services = kubelet.services();
    eventually("the Services arrive", || match services.borrow().len() {
        2 => Ok(()),
        _ => Err(format!("{:?} {:?}", services.borrow(), kubelet.report().last_errors)),
    })
    .await;
    let expected = services.borrow().clone();
    assert_eq!(expected.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["db", "web"]);
    assert_eq!(*node.kubelet.as_ref().unwrap().assignment_present().borrow(), Some(false), "no edge plane is needed");
    node.kill().await;
    hub.stop();

    node.start(None).await;
    let kubelet = node.kubelet.as_ref().unwrap();
    assert_eq!(*kubelet.services().borrow(), expected);
    assert_eq!(*kubelet.assignment_present().borrow(), Some(false));
    let web = kubelet.services().borrow().iter().find(|one| one.name == "web").cloned().unwrap();
    assert_eq!(web.spec.selector, [("app".to_owned(), "web".to_owned())].into());
    node.kill().await;
}

#[tokio::test]
async fn a_certificate_is_renewed_before_it_ends() {
    let hub = FakeHub::start().await;
    // Valid from an hour ago: three quarters of its life are over in three seconds.
    hub.client_certificates_last(1207);
    let mut node = Node::new();
    node.start(Some(&hub)).await;
    let mut identity = node.kubelet.as_ref().unwrap().identity();
    let first = identity.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    hub.client_certificates_last(3600);
    let renewed = tokio::time::timeout(
        Duration::from_secs(30),
        identity.wait_for(|now| now.as_ref().is_some_and(|now| now.cert_pem != first.cert_pem)),
    );
    let renewed = renewed.await.unwrap().unwrap().clone().unwrap();
    assert!(renewed.key_pem != first.key_pem && renewed.ca_pem == first.ca_pem);
    // The new one is what the node works with, and starts with.
    hub.put_pod(pod("web", json!({})));
    is_ready(&hub, "web").await;
    node.kill().await;
    node.start(None).await;
    let kept = node.kubelet.as_ref().unwrap().identity().borrow().clone();
    assert_eq!(kept, Some(renewed));
    node.kill().await;
}

#[tokio::test]
async fn a_container_is_told_before_it_is_stopped() {
    let hub = FakeHub::start().await;
    hub.put_pod(pod("web", json!({"lifecycle": {"preStop": {"exec": {"command": ["say", "bye"]}}}})));
    let mut node = Node::new();
    node.start(Some(&hub)).await;
    is_ready(&hub, "web").await;
    hub.delete_gracefully("web");
    runs(&node, &[]).await;
    assert_eq!(node.runtime.acts(), ["start uid-web_a_0", "exec uid-web_a_0 say bye", "stop uid-web_a_0"]);
    node.kill().await;
}

/// Waits until the runtime was asked for exactly this, in this order.
async fn acts(node: &Node, expected: &[&str]) {
    eventually(&format!("{expected:?}"), || match node.runtime.acts() {
        acts if acts == expected => Ok(()),
        acts => Err(format!("{acts:?}")),
    })
    .await;
}

/// Waits for an Event with a reason, and returns its message.
async fn event(hub: &FakeHub, reason: &str) -> String {
    let messages = || {
        let events = hub.objects_under("/api/v1/namespaces/d/events/");
        let found = events.into_iter().filter(|event| event["reason"] == reason);
        found.map(|event| event["message"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    eventually(&format!("an Event {reason}"), || if messages().is_empty() { Err(String::new()) } else { Ok(()) }).await;
    messages().remove(0)
}

#[tokio::test]
async fn a_container_has_started_when_its_post_start_is_done() {
    let hub = FakeHub::start().await;
    hub.put_pod(pod("web", json!({"lifecycle": {"postStart": {"exec": {"command": ["say", "hello"]}}}})));
    let mut node = Node::new();
    node.runtime.hold_commands(true);
    node.start(Some(&hub)).await;
    acts(&node, &["start uid-web_a_0", "exec uid-web_a_0 say hello"]).await;
    eventually("it runs, and has not started", || {
        let container = status_of(&hub, "web")["containerStatuses"][0].clone();
        let is_held = container["state"]["running"].is_object() && container["started"] == false;
        if is_held && container["ready"] == false { Ok(()) } else { Err(container.to_string()) }
    })
    .await;
    node.runtime.hold_commands(false);
    is_ready(&hub, "web").await;
    // Once is enough, whoever takes the container over.
    node.kill().await;
    node.start(Some(&hub)).await;
    hub.mark_not_ready("web");
    is_ready(&hub, "web").await;
    acts(&node, &["start uid-web_a_0", "exec uid-web_a_0 say hello"]).await;
    node.kill().await;
}

#[tokio::test]
async fn a_post_start_that_an_agents_end_has_cut_off_is_run_again() {
    let hub = FakeHub::start().await;
    let startup = json!({"exec": {"command": ["false"]}, "periodSeconds": 3600});
    let lifecycle = json!({"postStart": {"exec": {"command": ["say", "hello"]}}});
    hub.put_pod(pod("web", json!({"lifecycle": lifecycle, "startupProbe": startup})));
    let (start, hook, probe) = ("start uid-web_a_0", "exec uid-web_a_0 say hello", "exec uid-web_a_0 false");
    let mut node = Node::new();
    node.runtime.hold_commands(true);
    node.start(Some(&hub)).await;
    acts(&node, &[start, hook]).await;
    node.kill().await;
    node.start(Some(&hub)).await;
    acts(&node, &[start, hook, hook]).await;
    node.runtime.hold_commands(false);
    acts(&node, &[start, hook, hook, probe]).await;
    // That it was done is known without a hub as well, and though no probe has found the container started.
    node.kill().await;
    node.start(None).await;
    acts(&node, &[start, hook, hook, probe, probe]).await;
    node.kill().await;
}

#[tokio::test]
async fn a_container_whose_post_start_fails_is_stopped_and_starts_again() {
    let hub = FakeHub::start().await;
    hub.put_pod(pod("web", json!({"lifecycle": {"postStart": {"exec": {"command": ["false"]}}}})));
    let mut node = Node::new();
    node.start(Some(&hub)).await;
    eventually("it starts again", || match node.runtime.acts().as_slice() {
        [start, hook, stop, again, ..] => {
            assert_eq!([start, hook, stop], ["start uid-web_a_0", "exec uid-web_a_0 false", "stop uid-web_a_0"]);
            assert_eq!(again, "start uid-web_a_1");
            Ok(())
        }
        acts => Err(format!("{acts:?}")),
    })
    .await;
    assert_eq!(event(&hub, "FailedPostStartHook").await, "PostStartHook failed: exit code 1");
    node.kill().await;
}

#[tokio::test]
async fn a_hook_that_hangs_ends_with_its_container() {
    let hub = FakeHub::start().await;
    hub.put_pod(pod("web", json!({"lifecycle": {"postStart": {"exec": {"command": ["say", "hello"]}}}})));
    let mut node = Node::new();
    node.runtime.hold_commands(true);
    node.start(Some(&hub)).await;
    acts(&node, &["start uid-web_a_0", "exec uid-web_a_0 say hello"]).await;
    hub.delete_gracefully("web");
    runs(&node, &[]).await;
    node.kill().await;
}

#[tokio::test]
async fn hooks_call_urls_and_a_failed_call_keeps_no_container_from_ending() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let get = |path: &str| json!({"httpGet": {"path": path, "port": port, "scheme": "HTTP"}});
    let hub = FakeHub::start().await;
    hub.put_pod(pod("web", json!({"lifecycle": {"postStart": get("/up"), "preStop": get("/down")}})));
    let mut node = Node::new();
    node.start(Some(&hub)).await;
    // Whatever it answers, it has heard of the start.
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut head = vec![0; 1024];
    let length = stream.read(&mut head).await.unwrap();
    let head = String::from_utf8_lossy(&head[..length]).to_lowercase();
    assert!(head.starts_with("get /up ") && head.contains("kube-lifecycle/"), "{head}");
    stream.write_all(b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    is_ready(&hub, "web").await;
    drop(listener);
    hub.delete_gracefully("web");
    runs(&node, &[]).await;
    let message = event(&hub, "FailedPreStopHook").await;
    assert!(message.starts_with("PreStopHook failed: dial 127.0.0.1"), "{message}");
    node.kill().await;
}

#[tokio::test]
async fn a_container_that_is_added_to_a_running_pod_of_an_image_runs_once() {
    let hub = FakeHub::start().await;
    let mut web = pod("web", json!({}));
    web["spec"].as_object_mut().unwrap().remove("runtimeClassName");
    web["spec"]["shareProcessNamespace"] = json!(true);
    hub.put_pod(web.clone());
    let mut node = Node::with(FakeRuntime::of(api_edge::RUNTIME_CONTAINER));
    node.start(Some(&hub)).await;
    is_ready(&hub, "web").await;
    assert!(node.runtime.pod("uid-web").unwrap().shares_processes);
    web["spec"]["ephemeralContainers"] = json!([
        {"name": "debug", "image": "busybox"},
        {"name": "into", "image": "busybox", "targetContainerName": "a"},
    ]);
    hub.put_pod(web);
    runs(&node, &["uid-web_a_0", "uid-web_debug_0", "uid-web_into_0"]).await;
    let target = |id: &str| node.runtime.spec(id).unwrap().target_container;
    assert_eq!((target("uid-web_debug_0"), target("uid-web_into_0")), (None, Some("a".to_owned())));
    let states = || {
        let statuses = status_of(&hub, "web")["ephemeralContainerStatuses"].clone();
        [0, 1].map(|one: usize| statuses[one]["state"].clone())
    };
    is_ready(&hub, "web").await;
    node.runtime.exit("uid-web_debug_0", 1);
    eventually("its end is final", || {
        let [debug, _] = states();
        if debug["terminated"]["exitCode"] == 1 { Ok(()) } else { Err(debug.to_string()) }
    })
    .await;
    node.kill().await;
    node.start(Some(&hub)).await;
    hub.mark_not_ready("web");
    is_ready(&hub, "web").await;
    let mut starts = node.runtime.starts();
    starts.sort();
    assert_eq!(starts, ["uid-web_a_0", "uid-web_debug_0", "uid-web_into_0"]);
    node.kill().await;
}

#[tokio::test]
async fn a_pod_has_what_it_claims_once_that_is_bound_and_without_a_hub_as_well() {
    let hub = FakeHub::start().await;
    let mut web = pod("web", json!({"volumeMounts": [{"name": "data", "mountPath": "/data"}]}));
    web["spec"]["volumes"] =
        json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data", "readOnly": true}}]);
    hub.put_pod(web);
    let mut node = Node::new();
    let disk = node.dir.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let claim = |volume: &str| json!({"metadata": {"name": "data", "namespace": "d", "uid": "c"}, "spec": {"volumeName": volume}});
    let path = "/api/v1/namespaces/d/persistentvolumeclaims/data";
    hub.put(path, claim(""));
    node.start(Some(&hub)).await;
    let said = event(&hub, "FailedMount").await;
    assert!(said.contains("claims d/data: it is not bound"), "{said}");
    let affinity =
        json!([{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["n"]}]}]);
    let spec = json!({
        "local": {"path": disk}, "claimRef": {"namespace": "d", "name": "data", "uid": "c"},
        "nodeAffinity": {"required": {"nodeSelectorTerms": affinity}},
    });
    hub.put("/api/v1/persistentvolumes/disk", json!({"metadata": {"name": "disk"}, "spec": spec}));
    hub.put(path, claim("disk"));
    is_ready(&hub, "web").await;
    assert_eq!(node.runtime.mount("uid-web_a_0", "/data").as_ref(), Some(&disk));
    let spec = node.runtime.spec("uid-web_a_0").unwrap();
    assert!(spec.mounts.iter().any(|mount| mount.volume == "data" && mount.read_only));

    node.kill().await;
    node.runtime.power_cut();
    node.start(None).await;
    runs(&node, &["uid-web_a_1"]).await;
    assert_eq!(node.runtime.mount("uid-web_a_1", "/data").as_ref(), Some(&disk));
    node.kill().await;
    assert!(disk.exists(), "a volume is nobody's to delete");
}

/// A volume that the hub has made for the claim `d/data`: a directory of the node.
fn directory_volume() -> Value {
    let on_node = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": ["n"]});
    json!({
        "metadata": {
            "name": "pvc-c", "uid": "v", "labels": {"selvedge.dev/node": "n"},
            "annotations": {"pv.kubernetes.io/provisioned-by": "selvedge.dev/local"},
            "finalizers": ["x.io/other", "selvedge.dev/local-volume"],
        },
        "spec": {
            "local": {"path": "/another/pvc-c"}, "claimRef": {"namespace": "d", "name": "data", "uid": "c"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [on_node]}]}},
            "persistentVolumeReclaimPolicy": "Delete",
        },
        "status": {"phase": "Bound"},
    })
}

#[tokio::test]
async fn a_volume_of_the_node_is_made_kept_and_removed_when_the_hub_asks_also_after_a_time_without_it() {
    const VOLUME: &str = "/api/v1/persistentvolumes/pvc-c";
    let hub = FakeHub::start().await;
    let mut web = pod("web", json!({"volumeMounts": [{"name": "data", "mountPath": "/data"}]}));
    web["spec"]["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]);
    hub.put_pod(web);
    let claim = json!({"metadata": {"name": "data", "namespace": "d", "uid": "c"}, "spec": {"volumeName": "pvc-c"}});
    hub.put("/api/v1/namespaces/d/persistentvolumeclaims/data", claim);
    hub.put(VOLUME, directory_volume());
    let mut node = Node::new();
    let directory = node.dir.path().join("node/volumes/pvc-c");
    node.start(Some(&hub)).await;
    is_ready(&hub, "web").await;
    assert_eq!(node.runtime.mount("uid-web_a_0", "/data").as_ref(), Some(&directory));
    let offered = hub.object("/api/v1/nodes/n")["metadata"]["annotations"]["selvedge.dev/volumes-directory"].clone();
    assert_eq!(offered, json!(node.dir.path().join("node/volumes")));
    std::fs::write(directory.join("kept"), "data").unwrap();

    // The pod ends, and its volume stays.
    hub.delete_gracefully("web");
    eventually("the pod is removed", || {
        let left = std::fs::read_dir(node.dir.path().join("node/pods")).map_or(0, Iterator::count);
        if left == 0 { Ok(()) } else { Err(left.to_string()) }
    })
    .await;
    assert!(directory.join("kept").exists());
    node.kill().await;

    // While nobody looks, its claim is deleted, and then the volume.
    let mut released = directory_volume();
    released["status"]["phase"] = "Released".into();
    hub.put(VOLUME, released.clone());
    node.start(Some(&hub)).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(directory.join("kept").exists(), "nobody has asked for its removal");
    node.kill().await;
    released["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    hub.put(VOLUME, released);
    node.start(Some(&hub)).await;
    eventually("the volume is released", || {
        let finalizers = hub.object(VOLUME)["metadata"]["finalizers"].clone();
        if finalizers == json!(["x.io/other"]) { Ok(()) } else { Err(finalizers.to_string()) }
    })
    .await;
    assert!(!directory.exists(), "the directory is removed before that is said");
    node.kill().await;
}

#[tokio::test]
async fn a_pod_of_another_runtime_is_one_of_images() {
    let hub = FakeHub::start().await;
    let of_crun = |name: &str| {
        let mut pod = pod(name, json!({}));
        pod["spec"]["runtimeClassName"] = json!("crun");
        pod
    };
    hub.put_pod(of_crun("web"));
    let mut wrong = of_crun("wrong");
    wrong["spec"]["resources"] = json!({"limits": {"cpu": "1"}});
    hub.put_pod(wrong);
    let mut node = Node::with(FakeRuntime::of("crun"));
    node.start(Some(&hub)).await;
    is_ready(&hub, "web").await;
    let id = status_of(&hub, "web")["containerStatuses"][0]["containerID"].clone();
    assert!(id.as_str().is_some_and(|id| id.starts_with("crun://")), "{id}");
    assert!(node.runtime.mount("uid-web_a_0", "/etc/hosts").is_some(), "it has what containers of images have");
    eventually("what no image can have is rejected", || {
        let status = status_of(&hub, "wrong");
        let why = status["message"].as_str().unwrap_or_default();
        if why.contains("spec.resources: selvedge-container ") { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    eventually("the Node names its runtimes", || {
        let names = hub.object("/api/v1/nodes/n")["status"]["runtimeHandlers"].clone();
        let features = json!({"recursiveReadOnlyMounts": false, "userNamespaces": false});
        let expected = json!([{"name": "crun", "features": features}]);
        if names == expected { Ok(()) } else { Err(names.to_string()) }
    })
    .await;
    node.kill().await;
}

#[tokio::test]
async fn a_pod_that_sets_what_is_not_its_own_is_forbidden_to() {
    let hub = FakeHub::start().await;
    for (name, sysctl) in [("safe", "net/ipv4/tcp_syncookies"), ("unsafe", "kernel.msgmax")] {
        let mut pod = pod(name, json!({}));
        pod["spec"].as_object_mut().unwrap().remove("runtimeClassName");
        pod["spec"]["securityContext"] = json!({"sysctls": [{"name": sysctl, "value": "1"}]});
        hub.put_pod(pod);
    }
    let mut node = Node::with(FakeRuntime::of(api_edge::RUNTIME_CONTAINER));
    node.start(Some(&hub)).await;
    is_ready(&hub, "safe").await;
    eventually("the other one has failed", || {
        let status = status_of(&hub, "unsafe");
        if status["phase"] == "Failed" { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    let status = status_of(&hub, "unsafe");
    assert_eq!(status["reason"], "SysctlForbidden", "{status}");
    assert_eq!(status["message"], "Pod was rejected: forbidden sysctl: \"kernel.msgmax\" not allowlisted");
    assert_eq!(node.runtime.starts(), ["uid-safe_a_0"]);
    node.kill().await;
}

#[tokio::test]
async fn a_pod_whose_name_the_kernel_does_not_take_says_so() {
    let hub = FakeHub::start().await;
    let mut web = pod("web", json!({}));
    let spec = web["spec"].as_object_mut().unwrap();
    spec.remove("runtimeClassName");
    spec.insert("subdomain".to_owned(), "s".repeat(60).into());
    spec.insert("setHostnameAsFQDN".to_owned(), true.into());
    hub.put_pod(web);
    let mut node = Node::with(FakeRuntime::of(api_edge::RUNTIME_CONTAINER));
    node.start(Some(&hub)).await;
    eventually("it waits", || {
        let state = status_of(&hub, "web")["containerStatuses"][0]["state"]["waiting"].clone();
        let why = state["message"].as_str().unwrap_or_default();
        let is_so = state["reason"] == "CreateContainerConfigError" && why.contains("is too long (64 characters");
        if is_so { Ok(()) } else { Err(state.to_string()) }
    })
    .await;
    assert!(node.runtime.starts().is_empty());
    node.kill().await;
}

#[tokio::test]
async fn a_container_works_on_for_as_long_as_its_pre_stop_sleeps_or_until_it_ends() {
    let hub = FakeHub::start().await;
    let sleeping = |seconds: u64| json!({"lifecycle": {"preStop": {"sleep": {"seconds": seconds}}}});
    hub.put_pod(pod("short", sleeping(1)));
    hub.put_pod(pod("long", sleeping(20)));
    let mut node = Node::new();
    node.start(Some(&hub)).await;
    is_ready(&hub, "short").await;
    is_ready(&hub, "long").await;
    hub.delete_within("short", 60);
    hub.delete_within("long", 60);
    runs(&node, &["uid-long_a_0"]).await;
    // It ends by itself, long before its pause does.
    node.runtime.exit("uid-long_a_0", 0);
    eventually("the pod is deleted", || {
        let object = hub.object("/api/v1/namespaces/d/pods/long");
        if object.is_null() { Ok(()) } else { Err(object.to_string()) }
    })
    .await;
    assert!(node.runtime.acts().contains(&"stop uid-short_a_0".to_owned()), "{:?}", node.runtime.acts());
    node.kill().await;
}

#[tokio::test]
async fn what_a_deleted_pod_has_left_is_removed_after_the_next_complete_list() {
    let hub = FakeHub::start().await;
    hub.put_pod(pod("web", json!({})));
    let mut node = Node::new();
    let left = node.dir.path().join("node/pods/d_old_uid-old");
    std::fs::create_dir_all(left.join(".volumes/data")).unwrap();
    for uid in ["uid-old", "static-old"] {
        node.runtime.leave(uid);
    }
    node.start(Some(&hub)).await;
    is_ready(&hub, "web").await;
    eventually("no directory of a deleted pod", || if left.exists() { Err("it is there".to_owned()) } else { Ok(()) })
        .await;
    let expected = ["static-old", "uid-web"].map(str::to_owned).into();
    eventually("nothing of a deleted pod", || match node.runtime.pods() {
        pods if pods == expected => Ok(()),
        pods => Err(format!("{pods:?}")),
    })
    .await;
    node.kill().await;
}

#[tokio::test]
async fn pods_that_were_stopped_with_the_node_start_with_it() {
    let hub = FakeHub::start().await;
    hub.put_pod(pod("web", json!({})));
    let mut node = Node::new();
    node.start(Some(&hub)).await;
    is_ready(&hub, "web").await;
    node.kubelet.as_ref().unwrap().stop_pods(Duration::from_secs(5)).await;
    assert!(node.runtime.running().is_empty());
    node.kill().await;
    assert_eq!(node.runtime.starts(), ["uid-web_a_0"], "nothing is started while the node stops");
    assert!(!hub.object("/api/v1/namespaces/d/pods/web").is_null(), "the pod stays wished for");
    node.start(None).await;
    runs(&node, &["uid-web_a_1"]).await;
    node.kill().await;
}

#[tokio::test]
async fn a_container_that_is_just_starting_is_stopped_with_the_node() {
    let hub = FakeHub::start().await;
    hub.put_pod(pod("web", json!({})));
    let mut node = Node::new();
    node.runtime.hold_starts(true);
    node.start(Some(&hub)).await;
    let has_begun = || if node.runtime.acts().is_empty() { Err("none".to_owned()) } else { Ok(()) };
    eventually("the start", has_begun).await;
    let kubelet = node.kubelet.as_ref().unwrap();
    let stopping = kubelet.stop_pods(Duration::from_secs(60));
    let starting = async {
        tokio::task::yield_now().await;
        node.runtime.hold_starts(false);
    };
    tokio::join!(stopping, starting);
    assert_eq!(node.runtime.acts()[..2], ["start uid-web_a_0", "stop uid-web_a_0"]);
    assert!(node.runtime.running().is_empty());
    node.kill().await;
}

#[tokio::test]
async fn a_pod_that_is_deleted_while_it_is_set_up_leaves_nothing() {
    let hub = FakeHub::start().await;
    hub.put_pod(pod("web", json!({})));
    let mut node = Node::new();
    node.runtime.hold_set_up(Some("uid-web"));
    node.start(Some(&hub)).await;
    eventually("the set-up has begun", || node.runtime.pod("uid-web").map(drop).ok_or_else(|| "not yet".to_owned()))
        .await;
    hub.delete_gracefully("web");
    // It comes by the same watch: the deletion has arrived by then.
    hub.put_pod(pod("later", json!({})));
    is_ready(&hub, "later").await;
    node.runtime.hold_set_up(None);
    eventually("the pod has ended", || {
        let object = hub.object("/api/v1/namespaces/d/pods/web");
        if object.is_null() { Ok(()) } else { Err(object.to_string()) }
    })
    .await;
    eventually("nothing of it is left", || {
        let left = node.runtime.pods();
        if left.contains("uid-web") { Err(format!("{left:?}")) } else { Ok(()) }
    })
    .await;
    node.kill().await;
}

#[tokio::test]
async fn a_mount_shows_the_folder_that_its_variables_name() {
    let hub = FakeHub::start().await;
    let mount = |expression: &str| json!([{"name": "v", "mountPath": "/data", "subPathExpr": expression}]);
    let env = json!([{"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]);
    for (name, expression) in [("web", "of-$(NAME)"), ("lost", "of-$(NOBODY)")] {
        let mut pod = pod(name, json!({"env": env, "volumeMounts": mount(expression)}));
        pod["spec"]["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
        hub.put_pod(pod);
    }
    let mut node = Node::new();
    node.start(Some(&hub)).await;
    is_ready(&hub, "web").await;
    assert!(node.runtime.mount("uid-web_a_0", "/data").unwrap().ends_with(".volumes/v/of-web"));
    eventually("the other says why it does not start", || {
        let status = status_of(&hub, "lost");
        let waiting = &status["containerStatuses"][0]["state"]["waiting"];
        let said = waiting["message"].as_str().is_some_and(|message| message.contains("$(NOBODY)"));
        if waiting["reason"] == "CreateContainerConfigError" && said { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    node.kill().await;
}

const API_ACCESS: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// A pod as the API lets it in: with the volume that nobody asked for.
fn pod_with_api_access(name: &str) -> Value {
    let mount = json!({"name": "kube-api-access-x2x4x", "mountPath": API_ACCESS, "readOnly": true});
    let mut pod = pod(name, json!({"volumeMounts": [mount]}));
    pod["spec"]["serviceAccountName"] = "default".into();
    pod["spec"]["volumes"] = json!([{"name": "kube-api-access-x2x4x", "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]}}]);
    pod
}

fn publish_ca(hub: &FakeHub) {
    let map = json!({"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": "PEM"}});
    hub.put("/api/v1/namespaces/d/configmaps/kube-root-ca.crt", map);
}

/// What a container finds at the path of its token.
fn api_access(node: &Node, id: &str, file: &str) -> Option<String> {
    std::fs::read_to_string(node.runtime.mount(id, API_ACCESS)?.join(file)).ok()
}

async fn finds(node: &Node, id: &str, file: &str, text: &str) {
    eventually(&format!("{id} finds {file}"), || match api_access(node, id, file) {
        Some(found) if found == text => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

#[tokio::test]
async fn a_pods_token_is_there_when_it_starts_and_after_a_power_cut_without_a_hub() {
    let hub = FakeHub::start().await;
    publish_ca(&hub);
    let mut node = Node::new();
    node.start(Some(&hub)).await;
    eventually("the node has joined", || match hub.object("/api/v1/nodes/n") {
        Value::Null => Err("no Node".to_owned()),
        _ => Ok(()),
    })
    .await;
    hub.put_pod(pod_with_api_access("web"));
    runs(&node, &["uid-web_a_0"]).await;
    // It was there before the program.
    let found = ["token", "ca.crt", "namespace"].map(|file| api_access(&node, "uid-web_a_0", file));
    assert_eq!(found.each_ref().map(Option::as_deref), [Some("token-1"), Some("PEM"), Some("d")]);
    let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": "uid-web"});
    assert_eq!(hub.token_requests(), [json!({"boundObjectRef": bound, "expirationSeconds": 3607})]);

    node.kill().await;
    hub.stop();
    node.runtime.power_cut();
    // Volumes with secrets are in memory; a machine that starts anew has none of it.
    let volume = node.dir.path().join("node/pods/d_web_uid-web/.volumes/kube-api-access-x2x4x");
    for entry in std::fs::read_dir(&volume).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            std::fs::remove_dir_all(path).unwrap();
        } else {
            std::fs::remove_file(path).unwrap();
        }
    }
    node.start(None).await;
    runs(&node, &["uid-web_a_1"]).await;
    let found = ["token", "ca.crt", "namespace"].map(|file| api_access(&node, "uid-web_a_1", file));
    assert_eq!(found.each_ref().map(Option::as_deref), [Some("token-1"), Some("PEM"), Some("d")]);
    node.kill().await;
}

#[tokio::test]
async fn a_token_that_is_long_in_coming_keeps_no_pod_from_running() {
    let hub = FakeHub::start().await;
    hub.issue_tokens(Issuing::Held);
    hub.put_pod(pod_with_api_access("web"));
    let mut node = Node::new();
    node.start(Some(&hub)).await;
    is_ready(&hub, "web").await;
    assert_eq!(api_access(&node, "uid-web_a_0", "token"), None);
    assert_eq!(api_access(&node, "uid-web_a_0", "namespace").as_deref(), Some("d"));
    node.kill().await;
    hub.stop();

    // Without a hub nothing is waited for.
    node.runtime.power_cut();
    node.start(None).await;
    runs(&node, &["uid-web_a_1"]).await;
    assert_eq!(api_access(&node, "uid-web_a_1", "token"), None);
    node.kill().await;
}

#[tokio::test]
async fn what_a_pod_started_without_comes_into_its_volume() {
    let hub = FakeHub::start().await;
    hub.issue_tokens(Issuing::Held);
    hub.put_pod(pod_with_api_access("web"));
    let mut node = Node::new();
    node.start(Some(&hub)).await;
    is_ready(&hub, "web").await;
    hub.issue_tokens(Issuing::AtOnce);
    finds(&node, "uid-web_a_0", "token", "token-1").await;
    assert_eq!(api_access(&node, "uid-web_a_0", "ca.crt"), None);
    publish_ca(&hub);
    finds(&node, "uid-web_a_0", "ca.crt", "PEM").await;
    assert_eq!(node.runtime.starts(), ["uid-web_a_0"]);
    node.kill().await;
}

#[tokio::test]
async fn a_rejected_token_is_an_event_of_a_pod_that_runs_all_the_same() {
    let hub = FakeHub::start().await;
    publish_ca(&hub);
    hub.issue_tokens(Issuing::Rejected);
    hub.put_pod(pod_with_api_access("web"));
    let mut node = Node::new();
    node.start(Some(&hub)).await;
    is_ready(&hub, "web").await;
    let of_mounts = || {
        let events = hub.objects_under("/api/v1/namespaces/d/events/");
        let mounts = events.into_iter().filter(|event| event["reason"] == "FailedMount");
        mounts.map(|event| event["message"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    eventually("an Event says so", || match of_mounts().as_slice() {
        [one] if one.contains("failed to fetch token: refused by the test") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    // It is tried again.
    hub.issue_tokens(Issuing::AtOnce);
    eventually("the token is there", || match api_access(&node, "uid-web_a_0", "token") {
        Some(token) if token.starts_with("token-") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert_eq!(of_mounts().len(), 1, "one Event for one rejection");
    node.kill().await;
}

#[tokio::test]
async fn an_answer_that_is_no_list_of_this_nodes_pods_stops_none() {
    let hub = FakeHub::start().await;
    hub.put_pod(pod("web", json!({})));
    let mut node = Node::new();
    node.start(Some(&hub)).await;
    is_ready(&hub, "web").await;
    let list = |metadata: Value, items: Value| json!({"kind": "PodList", "metadata": metadata, "items": items});
    let version = json!({"resourceVersion": "99999"});
    let mut of_another = pod("other", json!({}));
    of_another["spec"]["nodeName"] = "m".into();
    of_another["metadata"]["resourceVersion"] = "5".into();
    for lie in [
        json!({}),
        json!(null),
        json!([]),
        json!(5),
        json!({"kind": "Status", "status": "Success"}),
        list(version.clone(), json!({})),
        list(json!({}), json!([])),
        list(version.clone(), json!([{"metadata": {"name": "web", "resourceVersion": "3"}}])),
        list(version.clone(), json!([of_another])),
        list(json!({"resourceVersion": "99999", "remainingItemCount": 1}), json!([])),
    ] {
        node.kill().await;
        hub.lie(Some(lie.clone()));
        node.start(Some(&hub)).await;
        let kubelet = node.kubelet.as_ref().unwrap();
        eventually("the lie is reported", || {
            let errors = kubelet.report().last_errors;
            match errors.iter().any(|error| error.contains("something that cannot be used")) {
                true => Ok(()),
                false => Err(format!("{lie}: {errors:?}")),
            }
        })
        .await;
        assert_eq!(node.runtime.running(), ["uid-web_a_0"], "{lie}");
        hub.lie(None);
    }
    hub.put_pod(pod("later", json!({})));
    is_ready(&hub, "later").await;
    assert_eq!(node.runtime.starts().iter().filter(|id| id.starts_with("uid-web")).count(), 1);
    node.kill().await;
}

#[tokio::test]
async fn pods_of_a_hub_that_lost_its_store_run_on_until_a_person_decides() {
    let hub = FakeHub::start().await;
    hub.put_pod(pod("web", json!({})));
    let mut node = Node::new();
    node.start(Some(&hub)).await;
    is_ready(&hub, "web").await;
    node.kill().await;
    hub.forget_everything();
    hub.put_pod(pod("new", json!({})));
    node.start(Some(&hub)).await;
    is_ready(&hub, "new").await;
    let held = || hub.object("/api/v1/nodes/n")["status"]["conditions"].as_array().cloned().unwrap_or_default();
    eventually("the Node says that a pod is on hold", || {
        match held().iter().any(|one| one["type"] == "PodsOnHold" && one["status"] == "True") {
            true => Ok(()),
            false => Err(format!("{:?}", held())),
        }
    })
    .await;
    assert!(node.runtime.running().contains(&"uid-web_a_0".to_owned()), "{:?}", node.runtime.running());
    // A restart and another list of the same hub change nothing.
    node.kill().await;
    node.start(Some(&hub)).await;
    is_ready(&hub, "new").await;
    assert!(node.runtime.running().contains(&"uid-web_a_0".to_owned()), "{:?}", node.runtime.running());
    let kubelet = node.kubelet.as_ref().unwrap();
    assert_eq!(kubelet.accept_hub().await, ["d/web"]);
    eventually("it is stopped", || match node.runtime.running().contains(&"uid-web_a_0".to_owned()) {
        false => Ok(()),
        true => Err("it runs".to_owned()),
    })
    .await;
    node.kill().await;
}
