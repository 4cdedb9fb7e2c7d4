//! Tests of `protection`: who uses what, as data, and over an API in which nothing else runs.

use serde_json::{Value, json};

use super::*;
use crate::testing::TestApi;
use hub_runtime::Change;
use hub_runtime::QueueOptions;

#[test]
fn a_pod_uses_its_claims_from_when_it_is_placed_until_it_is_deleted() {
    let own = json!({"controller": true, "uid": "p"});
    let others = json!({"controller": true, "uid": "other"});
    let named = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]);
    let ephemeral = json!([{"name": "scratch", "ephemeral": {"volumeClaimTemplate": {}}}]);
    for (what, node, volumes, status, grace, claim, owner, expected) in [
        ("it runs", "gw-1", &named, "Running", None, "data", &own, true),
        ("it has ended", "gw-1", &named, "Succeeded", None, "data", &own, true),
        ("it is about to be deleted", "gw-1", &named, "Running", Some(0), "data", &own, true),
        ("it is not placed", "", &named, "Pending", None, "data", &own, false),
        ("another claim", "gw-1", &named, "Running", None, "other", &own, false),
        ("an ephemeral volume's", "gw-1", &ephemeral, "Running", None, "pod-scratch", &own, true),
        (
            "a claim of that name that is not its own",
            "gw-1",
            &ephemeral,
            "Running",
            None,
            "pod-scratch",
            &others,
            false,
        ),
        ("its grace passes", "gw-1", &ephemeral, "Running", Some(30), "pod-scratch", &own, true),
        ("its kubelet is done", "gw-1", &ephemeral, "Running", Some(0), "pod-scratch", &own, false),
    ] {
        let deleted = grace.map(|_| "2026-01-01T00:00:00Z");
        let pod = json!({
            "metadata": {"name": "pod", "uid": "p", "deletionTimestamp": deleted, "deletionGracePeriodSeconds": grace},
            "spec": {"nodeName": node, "volumes": volumes}, "status": {"phase": status},
        });
        let (pod, claim_text) = (pod.to_string(), json!({"ownerReferences": [owner]}).to_string());
        let (pod, metadata) = (serde_json::from_str(&pod).unwrap(), serde_json::from_str(&claim_text).unwrap());
        assert_eq!(uses(&pod, claim, &metadata), expected, "{what}");
    }
}

fn claim(name: &str) -> Value {
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec})
}

fn key(kind: Kind, name: &str) -> Key {
    let namespace = if kind.is_namespaced() { "default" } else { "" };
    (kind, namespace.into(), name.into())
}

async fn finalizers(api: &TestApi, (kind, namespace, name): &Key) -> Option<Value> {
    let found = api.find(*kind, (namespace, name)).await?;
    Some(found["metadata"]["finalizers"].clone())
}

#[tokio::test]
async fn what_came_without_its_finalizer_gets_it_and_is_released_with_its_last_user() {
    let api = TestApi::start().await;
    let protection = Protection::new(api.context.clone());
    let mut data = claim("data");
    data["metadata"]["finalizers"] = json!(["x.io/mine"]);
    let data = api.make(Kind::PersistentVolumeClaim, data).await;
    let key = key(Kind::PersistentVolumeClaim, "data");
    assert_eq!(protection.reconcile(&key).await.unwrap(), Next::OnChange);
    let protected = finalizers(&api, &key).await;
    assert_eq!(protected, Some(json!(["x.io/mine", "kubernetes.io/pvc-protection"])));

    let container = json!({"name": "main", "image": "file:///bin/true"});
    let volume = json!({"name": "v", "persistentVolumeClaim": {"claimName": "data"}});
    let spec = json!({
        "nodeName": "gw-1", "runtimeClassName": "selvedge-process", "containers": [container], "volumes": [volume],
    });
    let pod = api.make(Kind::Pod, json!({"metadata": {"name": "user", "namespace": "default"}, "spec": spec})).await;
    api.context.writer.delete(Kind::PersistentVolumeClaim, &data, None).await.unwrap();
    protection.reconcile(&key).await.unwrap();
    assert_eq!(finalizers(&api, &key).await, protected, "a pod uses it");

    let queue = Queue::new(QueueOptions::default());
    let before = api.context.reader.get(Kind::Pod, "default", "user");
    api.context.writer.delete(Kind::Pod, &pod, Some(0)).await.unwrap();
    let change = Change { kind: Kind::Pod, previous: before, current: None };
    protection.observe(&Event::Changed(change), &queue);
    assert_eq!(queue.next().await, Some(key.clone()), "the last user was deleted");
    protection.reconcile(&key).await.unwrap();
    assert_eq!(finalizers(&api, &key).await, Some(json!(["x.io/mine"])), "the finalizers of others stay");
}

#[tokio::test]
async fn a_bound_volume_waits_for_its_claim() {
    let api = TestApi::start().await;
    let protection = Protection::new(api.context.clone());
    let spec = json!({
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/data"},
    });
    let volume = api.make(Kind::PersistentVolume, json!({"metadata": {"name": "disk"}, "spec": spec})).await;
    let key = key(Kind::PersistentVolume, "disk");
    protection.reconcile(&key).await.unwrap();
    let writer = &api.context.writer;
    let phase = async |phase: &str| {
        assert!(writer.merge_status(Kind::PersistentVolume, ("", "disk"), &json!({"phase": phase})).await.unwrap());
    };
    phase("Bound").await;
    writer.delete(Kind::PersistentVolume, &volume, None).await.unwrap();
    protection.reconcile(&key).await.unwrap();
    assert_eq!(finalizers(&api, &key).await, Some(json!(["kubernetes.io/pv-protection"])));
    phase("Released").await;
    protection.reconcile(&key).await.unwrap();
    assert_eq!(finalizers(&api, &key).await, None, "it is deleted");
}

#[tokio::test]
async fn a_class_waits_for_the_claims_that_name_it() {
    let api = TestApi::start().await;
    let protection = Protection::new(api.context.clone());
    let class = json!({"metadata": {"name": "fast"}, "driverName": "x.io", "parameters": {"iops": "9"}});
    let class = api.make(Kind::VolumeAttributesClass, class).await;
    let mut data = claim("data");
    data["spec"]["volumeAttributesClassName"] = json!("fast");
    let data = api.make(Kind::PersistentVolumeClaim, data).await;
    let key = key(Kind::VolumeAttributesClass, "fast");
    protection.reconcile(&key).await.unwrap();
    api.context.writer.delete(Kind::VolumeAttributesClass, &class, None).await.unwrap();
    protection.reconcile(&key).await.unwrap();
    assert_eq!(finalizers(&api, &key).await, Some(json!(["kubernetes.io/vac-protection"])));

    let queue = Queue::new(QueueOptions::default());
    let before = api.context.reader.get(Kind::PersistentVolumeClaim, "default", "data");
    api.context.writer.delete(Kind::PersistentVolumeClaim, &data, None).await.unwrap();
    let change = Change { kind: Kind::PersistentVolumeClaim, previous: before, current: None };
    protection.observe(&Event::Changed(change), &queue);
    assert_eq!(queue.next().await, Some(key.clone()));
    protection.reconcile(&key).await.unwrap();
    assert_eq!(finalizers(&api, &key).await, None, "it is deleted");
}
