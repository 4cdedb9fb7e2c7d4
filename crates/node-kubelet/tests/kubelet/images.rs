//! Images that come to a node, and the pods that wait for them.

use std::sync::Arc;

use node_kubelet::{Kubelet, KubeletConfig};
use node_runtime::{GcLimits, NodeImages, RegistriesConfig};
use serde_json::json;
use testkit::image::{Compression, Entry, Image};

use super::support::{FakeHub, FakeRuntime, eventually};
use super::{Node, pod, runs, status_of};

#[tokio::test]
async fn a_pod_that_waits_for_an_image_starts_when_it_is_imported_and_no_other_does() {
    let hub = FakeHub::start().await;
    let of_image = |name: &str, image: &str, policy: &str| {
        let mut pod = pod(name, json!({"imagePullPolicy": policy}));
        pod["spec"]["containers"][0]["image"] = image.into();
        pod["spec"].as_object_mut().unwrap().remove("runtimeClassName");
        pod
    };
    hub.put_pod(of_image("never", "example.com/app:1", "Never"));
    hub.put_pod(of_image("absent", "example.com/app:1", "IfNotPresent"));
    hub.put_pod(of_image("other", "example.com/other:1", "IfNotPresent"));
    let mut node = Node::with(FakeRuntime::of(api_edge::RUNTIME_CONTAINER));
    let images = NodeImages::open(&node.dir.path().join("i"), RegistriesConfig::default(), GcLimits::default());
    let images = Arc::new(images.unwrap());
    *node.runtime.images.lock().unwrap() = Some(images.clone());
    let config = KubeletConfig { images: Some(images.clone()), ..node.config(Some(&hub)) };
    node.kubelet = Some(Kubelet::start(config, vec![node.runtime.clone()], node.shutdown.clone()).await.unwrap());
    for (name, reason) in [("never", "ErrImageNeverPull"), ("absent", "ErrImagePull"), ("other", "ErrImagePull")] {
        eventually("the pod waits", || {
            let status = status_of(&hub, name);
            let waiting = &status["containerStatuses"][0]["state"]["waiting"];
            if waiting["reason"] == reason { Ok(()) } else { Err(status.to_string()) }
        })
        .await;
    }

    let archive = node.dir.path().join("app.tar");
    let image = Image::new().layer(&[Entry::file("text", "app")], Compression::Gzip);
    std::fs::write(&archive, image.layout_tar("example.com/app:1")).unwrap();
    tokio::task::spawn_blocking(move || images.import(&archive).map(drop)).await.unwrap().unwrap();
    runs(&node, &["uid-absent_a_0", "uid-never_a_0"]).await;
    // Each is looked for at its start, when images have come, and at the start that follows: a start after the pause would be one look
    // less.
    let looks = node.runtime.looks.lock().unwrap().clone();
    let count = |image: &str| looks.iter().filter(|name| *name == image).count();
    assert!(count("example.com/app:1") >= 2 * 3, "{looks:?}");
    assert!(count("example.com/other:1") >= 2, "{looks:?}");
    node.kill().await;
}

#[tokio::test]
async fn secrets_for_registries_that_do_not_exist_are_named_once() {
    let hub = FakeHub::start().await;
    let login = json!({"metadata": {"name": "login"}, "type": "kubernetes.io/dockerconfigjson", "data": {}});
    hub.put("/api/v1/namespaces/d/secrets/login", login);
    let mut web = pod("web", json!({}));
    web["spec"] = json!({
        "nodeName": "n",
        "imagePullSecrets": [{"name": "absent"}, {"name": "login"}, {"name": "lost"}],
        "containers": [{"name": "a", "image": "example.com/a:1"}, {"name": "b", "image": "example.com/b:1"}],
    });
    hub.put_pod(web);
    let mut node = Node::with(FakeRuntime::of(api_edge::RUNTIME_CONTAINER));
    let images = NodeImages::open(&node.dir.path().join("i"), RegistriesConfig::default(), GcLimits::default());
    *node.runtime.images.lock().unwrap() = Some(Arc::new(images.unwrap()));
    node.start(Some(&hub)).await;
    let events = |reason: &str| {
        let mut events = hub.objects_under("/api/v1/namespaces/d/events/");
        events.retain(|event| event["reason"] == reason);
        events
    };
    // Both have tried to pull, each with what there is.
    eventually("both containers say that they have no image", || match events("Failed") {
        failed if failed.len() == 2 => Ok(()),
        failed => Err(format!("{failed:?}")),
    })
    .await;
    let named = events("FailedToRetrieveImagePullSecret");
    let expected =
        "Unable to retrieve some image pull secrets (absent, lost); attempting to pull the image may not succeed.";
    let found: Vec<_> =
        named.iter().map(|one| (one["message"].clone(), one["type"].clone(), one["count"].clone())).collect();
    assert_eq!(found, [(json!(expected), json!("Warning"), json!(1))]);
    node.kill().await;
}
