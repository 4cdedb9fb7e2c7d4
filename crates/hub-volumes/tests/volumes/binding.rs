//! Binding: what was made by hand finds what it suits.

use hub_runtime::kinds::Kind;
use serde_json::json;

use crate::hub::{Hub, Source};

const CLAIM: Kind = Kind::PersistentVolumeClaim;
const VOLUME: Kind = Kind::PersistentVolume;

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_and_a_volume_find_each_other_and_part() {
    for source in [Source::Store, Source::Watches] {
        let mut hub = Hub::start(source).await;
        hub.volume("large", json!({"capacity": {"storage": "9Gi"}})).await;
        hub.volume("fits", json!({"capacity": {"storage": "3Gi"}})).await;
        hub.phase(VOLUME, "fits", "Available").await;
        hub.claim("data", json!({"storageClassName": "", "resources": {"requests": {"storage": "2Gi"}}})).await;
        let claim = hub.bound(CLAIM, "data").await;
        assert_eq!(claim["spec"]["volumeName"], "fits");
        assert_eq!(claim["status"]["capacity"], json!({"storage": "3Gi"}));
        assert_eq!(claim["status"]["accessModes"], json!(["ReadWriteOnce"]));
        let annotations =
            json!({"pv.kubernetes.io/bind-completed": "yes", "pv.kubernetes.io/bound-by-controller": "yes"});
        assert_eq!(claim["metadata"]["annotations"], annotations);
        let volume = hub.bound(VOLUME, "fits").await;
        assert_eq!(volume["spec"]["claimRef"]["uid"], claim["metadata"]["uid"]);
        assert_eq!(volume["metadata"]["annotations"], json!({"pv.kubernetes.io/bound-by-controller": "yes"}));

        // A hub that starts again changes nothing of it.
        hub.stop_controllers().await;
        hub.start_controllers(source).await;
        hub.claim("none", json!({"storageClassName": "", "resources": {"requests": {"storage": "99Gi"}}})).await;
        let said = hub.event("none", "FailedBinding").await;
        assert_eq!(said, "no persistent volumes available for this claim and no storage class is set");
        for (kind, before) in [(CLAIM, &claim), (VOLUME, &volume)] {
            let name = before["metadata"]["name"].as_str().expect("it has one");
            let now = hub.find(kind, name).await.expect("it is there");
            assert_eq!(now["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"], "{source:?} {name}");
        }

        hub.delete(CLAIM, "data", Some(0)).await;
        hub.eventually(CLAIM, "data", |claim| claim.is_none()).await;
        let released = hub.phase(VOLUME, "fits", "Released").await;
        assert_eq!(released["spec"]["claimRef"]["name"], "data", "whose data it has stays known");
        // Nobody gets the data of another.
        hub.claim("data", json!({"storageClassName": "", "resources": {"requests": {"storage": "2Gi"}}})).await;
        let claim = hub.bound(CLAIM, "data").await;
        assert_eq!(claim["spec"]["volumeName"], "large");
        hub.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_that_was_chosen_by_hand_is_completed_and_a_lost_volume_is_said() {
    let hub = Hub::start(Source::Store).await;
    hub.claim("data", json!({"storageClassName": "", "volumeName": "disk"})).await;
    hub.claim(
        "too-large",
        json!({"storageClassName": "", "volumeName": "disk", "resources": {"requests": {"storage": "9Gi"}}}),
    )
    .await;
    hub.volume("disk", json!({"claimRef": {"namespace": "default", "name": "data"}})).await;
    let claim = hub.bound(CLAIM, "data").await;
    assert_eq!(claim["metadata"]["annotations"], json!({"pv.kubernetes.io/bind-completed": "yes"}));
    let said = hub.event("too-large", "FailedBinding").await;
    assert_eq!(said, "volume \"disk\" already bound to a different claim.");

    hub.bound(VOLUME, "disk").await;
    hub.delete(VOLUME, "disk", Some(0)).await;
    let volume = hub.find(VOLUME, "disk").await.expect("its finalizer keeps it");
    let patch = json!({"metadata": {"uid": volume["metadata"]["uid"], "finalizers": null}});
    assert!(hub.admin.merge(VOLUME, ("", "disk"), &patch).await.expect("an administrator may"));
    hub.phase(CLAIM, "data", "Lost").await;
    assert_eq!(
        hub.event("data", "ClaimLost").await,
        "Bound claim has lost its PersistentVolume. Data on the volume is lost!"
    );
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_claims_and_volumes_are_bound_one_to_one() {
    for source in [Source::Store, Source::Watches] {
        let hub = Hub::start(source).await;
        for number in 0..100 {
            hub.claim(&format!("c{number}"), json!({"storageClassName": ""})).await;
        }
        for number in 0..100 {
            hub.volume(&format!("v{number}"), json!({})).await;
        }
        let mut taken = std::collections::BTreeSet::new();
        for number in 0..100 {
            let claim = hub.phase(CLAIM, &format!("c{number}"), "Bound").await;
            let volume = claim["spec"]["volumeName"].as_str().expect("it is bound").to_owned();
            let found = hub.phase(VOLUME, &volume, "Bound").await;
            assert_eq!(found["spec"]["claimRef"]["uid"], claim["metadata"]["uid"]);
            assert!(taken.insert(volume), "{source:?}: a volume has one claim");
        }
        hub.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_default_class_that_comes_later_is_given_to_claims_that_named_none() {
    let hub = Hub::without_controllers().await;
    hub.delete(Kind::StorageClass, "local", Some(0)).await;
    let mut hub = hub;
    hub.start_controllers(Source::Store).await;
    hub.claim("data", json!({})).await;
    hub.event("data", "FailedBinding").await;
    assert!(hub.find(Kind::StorageClass, "local").await.is_none(), "what an administrator deleted stays away");
    let marked = json!({"storageclass.kubernetes.io/is-default-class": "true"});
    hub.make(
        Kind::StorageClass,
        json!({"metadata": {"name": "mine", "annotations": marked}, "provisioner": "x.io/y", "volumeBindingMode": "WaitForFirstConsumer"}),
    )
    .await;
    let claim = hub.with(CLAIM, "data", |claim| claim["spec"]["storageClassName"] == "mine").await;
    assert_eq!(claim["status"]["phase"], "Pending");
    assert_eq!(
        hub.event("data", "WaitForFirstConsumer").await,
        "waiting for first consumer to be created before binding"
    );
    hub.stop().await;
}
