//! What is in use is not deleted before its last user, and a new node is not ready before it says so: both ends of what
//! admission begins.

use hub_runtime::kinds::Kind;
use hub_runtime::{Field, Reader as _, StoreReader};
use serde_json::{Value, json};

use crate::hub::{Hub, Source, name_of};

fn claim(name: &str) -> Value {
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec})
}

fn pod(name: &str, node: &str, volumes: Value) -> Value {
    let container = json!({"name": "main", "image": "file:///bin/true"});
    let spec = json!({
        "nodeName": node, "runtimeClassName": "selvedge-process", "containers": [container], "volumes": volumes,
    });
    json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec})
}

async fn claims_are_released_with_their_last_pod(source: Source) {
    let mut hub = Hub::without_controllers().await;
    hub.start_controllers(source).await;
    hub.eventually(Kind::ServiceAccount, ("default", "default"), |account| account.is_some()).await;
    hub.node("gw-1", json!({})).await;
    let kind = Kind::PersistentVolumeClaim;
    let unused = hub.make(kind, claim("unused")).await;
    assert_eq!(unused["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    let used = hub.make(kind, claim("used")).await;
    let volume = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "used"}}]);
    let user = hub.make(Kind::Pod, pod("user", "gw-1", volume)).await;
    for claim in [&unused, &used] {
        hub.admin.delete(kind, claim, None).await.expect("the API takes it");
    }
    hub.eventually(kind, ("default", "unused"), |claim| claim.is_none()).await;
    hub.settled().await;
    let waits = hub.get(kind, ("default", "used")).await;
    assert!(waits["metadata"]["deletionTimestamp"].is_string(), "{waits}");
    // Whoever starts again finds what waits.
    hub.stop_controllers().await;
    hub.admin.delete(Kind::Pod, &user, Some(0)).await.expect("the API deletes it");
    hub.start_controllers(source).await;
    hub.eventually(kind, ("default", "used"), |claim| claim.is_none()).await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_is_deleted_after_the_last_pod_that_uses_it() {
    claims_are_released_with_their_last_pod(Source::Store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_is_deleted_after_the_last_pod_that_a_watch_shows() {
    claims_are_released_with_their_last_pod(Source::Watches).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_and_their_classes_are_deleted_when_nothing_uses_them() {
    let hub = Hub::start().await;
    let class = json!({"metadata": {"name": "fast"}, "driverName": "x.io", "parameters": {"iops": "9"}});
    let class = hub.make(Kind::VolumeAttributesClass, class).await;
    let spec = json!({
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "volumeAttributesClassName": "fast",
        "csi": {"driver": "x.io", "volumeHandle": "1"},
    });
    let volume = hub.make(Kind::PersistentVolume, json!({"metadata": {"name": "disk"}, "spec": spec})).await;
    for (object, finalizer) in [(&class, "kubernetes.io/vac-protection"), (&volume, "kubernetes.io/pv-protection")] {
        assert_eq!(object["metadata"]["finalizers"], json!([finalizer]), "{}", name_of(object));
    }
    hub.admin
        .merge_status(Kind::PersistentVolume, ("", "disk"), &json!({"phase": "Bound"}))
        .await
        .expect("it is taken");
    hub.admin.delete(Kind::VolumeAttributesClass, &class, None).await.expect("the API takes it");
    hub.admin.delete(Kind::PersistentVolume, &volume, None).await.expect("the API takes it");
    hub.settled().await;
    for (kind, name) in [(Kind::PersistentVolume, "disk"), (Kind::VolumeAttributesClass, "fast")] {
        assert!(hub.find(kind, ("", name)).await.is_some(), "{name} is used");
    }
    hub.admin.merge_status(Kind::PersistentVolume, ("", "disk"), &json!({"phase": "Released"})).await.expect("taken");
    hub.eventually(Kind::PersistentVolume, ("", "disk"), |volume| volume.is_none()).await;
    hub.eventually(Kind::VolumeAttributesClass, ("", "fast"), |class| class.is_none()).await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_finds_pods_by_their_claims() {
    let hub = Hub::without_controllers().await;
    hub.make(Kind::Namespace, json!({"metadata": {"name": "line-2"}})).await;
    let named = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]);
    let template = json!({"spec": claim("x")["spec"]});
    let ephemeral = json!([{"name": "scratch", "ephemeral": {"volumeClaimTemplate": template}}]);
    hub.make(Kind::Pod, pod("one", "gw-1", named.clone())).await;
    hub.make(Kind::Pod, pod("two", "gw-1", ephemeral)).await;
    let mut other = pod("three", "gw-1", named);
    other["metadata"]["namespace"] = json!("line-2");
    hub.make(Kind::Pod, other).await;
    let shutdown = tokio_util::sync::CancellationToken::new();
    let client = hub.client();
    let watches = hub_runtime::Reflector::start(&client, &[Kind::Pod], &shutdown);
    while !watches.has_synced(Kind::Pod) {
        tokio::task::yield_now().await;
    }
    let stored = StoreReader::new(hub.store.clone());
    let readers: [&dyn hub_runtime::Reader; 2] = [&*stored, &*watches];
    for (index, reader) in readers.into_iter().enumerate() {
        for (claim, expected) in [
            ("default/data", &["one"][..]),
            ("default/two-scratch", &["two"]),
            ("line-2/data", &["three"]),
            ("default/other", &[]),
            ("data", &[]),
        ] {
            let found = reader.by_field(Kind::Pod, Field::Claim, claim);
            assert_eq!(found.iter().map(|pod| pod.name()).collect::<Vec<_>>(), expected, "{claim} by reader {index}");
        }
    }
    shutdown.cancel();
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_node_is_not_ready_until_it_says_that_it_is() {
    let hub = Hub::start().await;
    let node = hub.make(Kind::Node, json!({"metadata": {"name": "gw-1"}})).await;
    let not_ready = json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]);
    assert_eq!(node["spec"]["taints"], not_ready);
    hub.settled().await;
    let report = async |ready: &str| {
        let status = json!({"conditions": [{"type": "Ready", "status": ready}]});
        hub.admin.merge_status(Kind::Node, ("", "gw-1"), &status).await.expect("the API takes the status");
    };
    let tainted = async |keys: &[&str]| {
        let is_so = |node: Option<&Value>| {
            let taints = node.and_then(|node| node["spec"]["taints"].as_array());
            let held: Vec<&str> = taints.into_iter().flatten().filter_map(|taint| taint["key"].as_str()).collect();
            held == keys
        };
        hub.eventually(Kind::Node, ("", "gw-1"), is_so).await
    };
    tainted(&["node.kubernetes.io/not-ready"]).await;
    report("True").await;
    tainted(&[]).await;
    report("False").await;
    tainted(&["node.kubernetes.io/not-ready"]).await;
    report("True").await;
    let cordon = json!({"spec": {"unschedulable": true}});
    hub.admin.merge(Kind::Node, ("", "gw-1"), &cordon).await.expect("the API takes it");
    tainted(&["node.kubernetes.io/unschedulable"]).await;
    hub.admin.merge(Kind::Node, ("", "gw-1"), &json!({"spec": {"unschedulable": null}})).await.expect("it is taken");
    tainted(&[]).await;
    hub.stop().await;
}
