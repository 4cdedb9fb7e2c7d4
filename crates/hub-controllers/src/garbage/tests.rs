//! Tests of `garbage`: its decisions, as data.

use super::Owner::{Absent, Solid, Unresolvable, Waiting};
use super::*;
use crate::testing::TestApi;

#[test]
fn an_object_goes_when_none_of_its_owners_is_left() {
    for (owners, expected) in [
        (vec![], Verdict::Keep),
        (vec![Solid], Verdict::Keep),
        (vec![Absent], Verdict::Delete),
        (vec![Waiting], Verdict::Delete),
        (vec![Absent, Waiting], Verdict::Delete),
        (vec![Solid, Solid], Verdict::Keep),
        (vec![Absent, Solid], Verdict::Release(vec![0])),
        (vec![Solid, Waiting, Absent], Verdict::Release(vec![1, 2])),
        (vec![Unresolvable], Verdict::Keep),
        (vec![Unresolvable, Absent], Verdict::Keep),
        (vec![Unresolvable, Absent, Solid], Verdict::Keep),
    ] {
        assert_eq!(judge(&owners), expected, "{owners:?}");
    }
}

fn config_map(name: &str, owner: &Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "default", "ownerReferences": [owner]}})
}

fn press(uid: &str) -> Value {
    json!({"apiVersion": "example.org/v1", "kind": "Gadget", "name": "press", "uid": uid})
}

/// A custom object, and a ConfigMap that names it as its owner.
async fn dependent_of_press() -> (TestApi, Garbage, Key) {
    let api = TestApi::start().await;
    api.define_gadgets().await;
    let uid = api.gadget("default", "press").await.metadata.uid.unwrap();
    api.make(Kind::ConfigMap, config_map("of-press", &press(&uid))).await;
    let garbage = Garbage::new(api.context.clone());
    let key = (Kind::ConfigMap.into(), "default".into(), "of-press".into());
    (api, garbage, key)
}

#[tokio::test]
async fn what_an_owner_of_a_custom_kind_leaves_behind_is_found_in_time() {
    let (api, garbage, key) = dependent_of_press().await;
    assert_eq!(garbage.reconcile(&key).await.unwrap(), Next::After(UNSHOWN_PERIOD));
    assert!(api.find(Kind::ConfigMap, ("default", "of-press")).await.is_some());
    // Nobody hears of this.
    api.gadgets("default").delete("press", &kube::api::DeleteParams::default()).await.unwrap();
    assert_eq!(garbage.reconcile(&key).await.unwrap(), Next::OnChange);
    assert!(api.find(Kind::ConfigMap, ("default", "of-press")).await.is_none());
}

#[tokio::test]
async fn a_kind_that_is_defined_later_is_found() {
    let api = TestApi::start().await;
    let garbage = Garbage::new(api.context.clone());
    let key = (Kind::ConfigMap.into(), "default".into(), "of-nobody".into());
    api.make(Kind::ConfigMap, config_map("of-nobody", &press("no-such-uid"))).await;
    assert_eq!(garbage.reconcile(&key).await.unwrap(), Next::After(UNSHOWN_PERIOD), "nobody serves its owner's kind");
    api.define_gadgets().await;
    let definition = api.context.reader.get(Kind::CustomResourceDefinition, "", "gadgets.example.org");
    let queue = Queue::new(hub_runtime::QueueOptions::default());
    let change = Change { kind: Kind::CustomResourceDefinition, previous: None, current: definition };
    garbage.observe(&Event::Changed(change), &queue);
    assert_eq!(garbage.reconcile(&key).await.unwrap(), Next::OnChange);
    assert!(api.find(Kind::ConfigMap, ("default", "of-nobody")).await.is_none());
}

#[tokio::test]
async fn a_kind_that_is_served_no_more_does_not_prove_that_its_objects_are_deleted() {
    let (api, garbage, key) = dependent_of_press().await;
    garbage.reconcile(&key).await.unwrap();
    // The version that the reference names is replaced by another; the controller has not heard of it yet.
    let versions = ["v1", "v2"].map(|name| {
        let schema = json!({"openAPIV3Schema": {"type": "object"}});
        json!({"name": name, "served": name == "v2", "storage": name == "v2", "schema": schema})
    });
    let patch = json!({"spec": {"versions": versions}});
    let definition = ("", "gadgets.example.org");
    assert!(api.context.writer.merge(Kind::CustomResourceDefinition, definition, &patch).await.unwrap());
    garbage.reconcile(&key).await.unwrap();
    assert!(api.find(Kind::ConfigMap, ("default", "of-press")).await.is_some());
}

#[tokio::test]
async fn an_object_that_changed_since_it_was_judged_is_judged_anew() {
    let api = TestApi::start().await;
    let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "nobody", "uid": "no-such-uid"});
    api.make(Kind::ConfigMap, config_map("one", &owner)).await;
    let garbage = Garbage::new(api.context.clone());
    let judged = api.context.reader.get(Kind::ConfigMap, "default", "one").unwrap();
    let patch = json!({"metadata": {"ownerReferences": null}});
    api.context.writer.merge(Kind::ConfigMap, ("default", "one"), &patch).await.unwrap();
    let view: AnyView<'_> = judged.view().unwrap();
    let next = garbage.settle(&Kind::ConfigMap.into(), &judged, &view.metadata).await.unwrap();
    assert_eq!(next, Next::After(CONFLICT_RETRY));
    assert!(api.find(Kind::ConfigMap, ("default", "one")).await.is_some());
}
