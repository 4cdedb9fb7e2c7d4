//! The class `local`: volumes come with the first pod, on its node, and leave with their claim.

use api_edge::volumes::FINALIZER;
use hub_runtime::kinds::Kind;
use serde_json::{Value, json};

use crate::hub::{Hub, Source};

const CLAIM: Kind = Kind::PersistentVolumeClaim;
const VOLUME: Kind = Kind::PersistentVolume;

fn stateful_set(name: &str, replicas: u32, storage: &str) -> Value {
    let claim = json!({
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": storage}}, "storageClassName": "local"},
    });
    json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas, "serviceName": name, "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": {"app": name}}, "volumeClaimTemplates": [claim],
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{
                    "name": "main", "image": "registry.example/app:1",
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                }]},
            },
        },
    })
}

/// What the node does once it has removed a volume's directory.
async fn confirm(hub: &Hub, volume: &Value) {
    let node = api_edge::volumes::node_of(volume).expect("it is a directory of a node");
    assert!(api_edge::volumes::is_removal_requested(volume, node), "{volume}");
    let finalizers = volume["metadata"]["finalizers"].as_array().expect("they keep it").iter();
    let left: Vec<&Value> = finalizers.filter(|one| *one != FINALIZER).collect();
    let metadata = &volume["metadata"];
    let patch = json!({"metadata": {
        "uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"], "finalizers": left,
    }});
    let name = metadata["name"].as_str().expect("it has one");
    assert!(hub.admin.merge(VOLUME, ("", name), &patch).await.expect("the API takes it"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stateful_set_with_claims_just_runs_and_its_volumes_leave_with_the_claims() {
    for source in [Source::Store, Source::Watches] {
        let hub = Hub::start(source).await;
        hub.node("gw-1", "10Gi").await;
        hub.make(Kind::StatefulSet, stateful_set("db", 3, "2Gi")).await;
        let mut volumes = Vec::new();
        for ordinal in 0..3 {
            let pod = hub.with(Kind::Pod, &format!("db-{ordinal}"), |pod| pod["spec"]["nodeName"].is_string()).await;
            assert_eq!(pod["spec"]["nodeName"], "gw-1");
            let name = format!("data-db-{ordinal}");
            let claim = hub.bound(CLAIM, &name).await;
            assert_eq!(claim["metadata"]["annotations"]["volume.kubernetes.io/selected-node"], "gw-1");
            assert_eq!(
                claim["metadata"]["annotations"]["volume.kubernetes.io/storage-provisioner"],
                "selvedge.dev/local"
            );
            let volume = claim["spec"]["volumeName"].as_str().expect("it is bound").to_owned();
            let found = hub.phase(VOLUME, &volume, "Bound").await;
            assert_eq!(found["spec"]["local"]["path"], format!("/data/volumes/{volume}"));
            assert_eq!(found["spec"]["capacity"], json!({"storage": "2Gi"}));
            assert_eq!(
                hub.event(&name, "ProvisioningSucceeded").await,
                format!("Successfully provisioned volume {volume}")
            );
            volumes.push(volume);
        }

        // A pod that is deleted comes back to its data.
        hub.delete(Kind::Pod, "db-1", Some(0)).await;
        let pod = hub.with(Kind::Pod, "db-1", |pod| pod["spec"]["nodeName"].is_string()).await;
        assert_eq!(pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"], "data-db-1");
        let claim = hub.find(CLAIM, "data-db-1").await.expect("it stays");
        assert_eq!(claim["spec"]["volumeName"], *volumes[1]);

        // A claim stays while a pod has it; then its volume waits for its node.
        hub.delete(CLAIM, "data-db-2", Some(0)).await;
        hub.with(CLAIM, "data-db-2", |claim| claim["metadata"]["deletionTimestamp"].is_string()).await;
        assert!(
            hub.admin
                .merge(Kind::StatefulSet, ("default", "db"), &json!({"spec": {"replicas": 2}}))
                .await
                .expect("it scales")
        );
        // The test plays the kubelet: the pod ends.
        hub.with(Kind::Pod, "db-2", |pod| pod["metadata"]["deletionTimestamp"].is_string()).await;
        hub.delete(Kind::Pod, "db-2", Some(0)).await;
        hub.eventually(CLAIM, "data-db-2", |claim| claim.is_none()).await;
        let waiting = hub
            .with(VOLUME, &volumes[2], |volume| {
                volume["metadata"]["deletionTimestamp"].is_string()
                    && volume["status"]["phase"] == "Released"
                    && volume["metadata"]["finalizers"] == json!([FINALIZER])
            })
            .await;
        confirm(&hub, &waiting).await;
        hub.eventually(VOLUME, &volumes[2], |volume| volume.is_none()).await;
        hub.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_go_where_the_disk_can_hold_them() {
    let hub = Hub::start(Source::Store).await;
    hub.node("small", "3Gi").await;
    hub.claim("huge", json!({"resources": {"requests": {"storage": "4Gi"}}})).await;
    hub.with(CLAIM, "huge", |claim| claim["spec"]["storageClassName"] == "local").await;
    hub.pod("first", "huge", None).await;
    let said = hub.event("first", "FailedScheduling").await;
    assert!(said.starts_with("0/1 nodes are available: 1 node(s) did not have enough free storage."), "{said}");
    assert_eq!(hub.event("huge", "WaitForPodScheduled").await, "waiting for pod first to be scheduled");
    // A node of another kubelet offers no directories, however large its disk is.
    hub.other_node("stock", "90Gi").await;
    hub.node("large", "20Gi").await;
    let pod = hub.with(Kind::Pod, "first", |pod| pod["spec"]["nodeName"].is_string()).await;
    assert_eq!(pod["spec"]["nodeName"], "large");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_names_its_node_has_chosen_it_for_its_claims() {
    let hub = Hub::start(Source::Store).await;
    hub.node("gw-1", "10Gi").await;
    hub.node("gw-2", "10Gi").await;
    hub.claim("data", json!({})).await;
    hub.event("data", "WaitForFirstConsumer").await;
    hub.pod("by-hand", "data", Some("gw-2")).await;
    let claim = hub.phase(CLAIM, "data", "Bound").await;
    let volume = claim["spec"]["volumeName"].as_str().expect("it is bound");
    let volume = hub.find(VOLUME, volume).await.expect("it is there");
    assert_eq!(api_edge::volumes::node_of(&volume), Some("gw-2"));

    // Volumes that were made by hand are chosen by the node, too.
    let class = json!({
        "metadata": {"name": "disks"}, "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer",
    });
    hub.make(Kind::StorageClass, class).await;
    for node in ["gw-1", "gw-2"] {
        let on_node = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [node]});
        let spec = json!({
            "storageClassName": "disks", "hostPath": null, "local": {"path": "/mnt/disk"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [on_node]}]}},
        });
        hub.volume(&format!("disk-{node}"), spec).await;
    }
    hub.claim("disk", json!({"storageClassName": "disks"})).await;
    hub.pod("on-disk", "disk", Some("gw-2")).await;
    let claim = hub.phase(CLAIM, "disk", "Bound").await;
    assert_eq!(claim["spec"]["volumeName"], "disk-gw-2");
    // And by the scheduler, for a pod that names none.
    hub.claim("other", json!({"storageClassName": "disks"})).await;
    hub.pod("anywhere", "other", None).await;
    let pod = hub.with(Kind::Pod, "anywhere", |pod| pod["spec"]["nodeName"].is_string()).await;
    assert_eq!(pod["spec"]["nodeName"], "gw-1");
    hub.phase(CLAIM, "other", "Bound").await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_directory_can_be_is_said_and_what_has_no_node_waits_for_none() {
    let hub = Hub::start(Source::Store).await;
    hub.node("gw-1", "10Gi").await;
    hub.claim("shared", json!({"accessModes": ["ReadWriteMany"]})).await;
    hub.pod("reader", "shared", Some("gw-1")).await;
    assert_eq!(
        hub.event("shared", "ProvisioningFailed").await,
        "failed to provision volume with StorageClass \"local\": a directory of a node supports the access modes ReadWriteOnce and ReadWriteOncePod only"
    );

    hub.claim("data", json!({})).await;
    hub.pod("writer", "data", Some("gw-1")).await;
    let claim = hub.bound(CLAIM, "data").await;
    let volume = claim["spec"]["volumeName"].as_str().expect("it is bound").to_owned();
    hub.delete(Kind::Pod, "writer", Some(0)).await;
    hub.delete(CLAIM, "data", Some(0)).await;
    hub.with(VOLUME, &volume, |volume| volume["metadata"]["deletionTimestamp"].is_string()).await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert!(hub.find(VOLUME, &volume).await.is_some(), "its node has not said that the directory is removed");
    hub.delete(Kind::Node, "gw-1", Some(0)).await;
    hub.eventually(VOLUME, &volume, |volume| volume.is_none()).await;
    hub.stop().await;
}
