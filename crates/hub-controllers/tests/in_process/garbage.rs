//! What a deletion does to the objects that name the deleted one as their owner.

use hub_runtime::kinds::Kind;
use hub_runtime::writer::Target;
use kube::api::{Api, DeleteParams, DynamicObject, PostParams, PropagationPolicy};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use crate::hub::Hub;

/// A ConfigMap that is owned by these.
async fn map(hub: &Hub, name: &str, owners: &[&Value], finalizers: Value) -> Value {
    let owners: Vec<Value> = owners
        .iter()
        .map(|owner| {
            let metadata = &owner["metadata"];
            json!({
                "apiVersion": "v1", "kind": "ConfigMap", "name": metadata["name"], "uid": metadata["uid"],
                "blockOwnerDeletion": true,
            })
        })
        .collect();
    let metadata = json!({"name": name, "namespace": "default", "ownerReferences": owners, "finalizers": finalizers});
    hub.make(Kind::ConfigMap, json!({"metadata": metadata})).await
}

async fn delete(hub: &Hub, kind: Kind, object: &Value, propagation: PropagationPolicy) {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    let target = Target { namespace: text("namespace"), name: text("name"), uid: text("uid") };
    assert!(hub.admin.delete_target(kind, target, None, Some(propagation)).await.expect("the API takes it"));
}

async fn deleted(hub: &Hub, name: &str) {
    hub.eventually(Kind::ConfigMap, ("default", name), |map| map.is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_foreground_an_owner_is_deleted_after_its_dependents() {
    let hub = Hub::start().await;
    let owner = map(&hub, "owner", &[], json!([])).await;
    let child = map(&hub, "child", &[&owner], json!([])).await;
    map(&hub, "grandchild", &[&child], json!(["example.com/hold"])).await;
    delete(&hub, Kind::ConfigMap, &owner, PropagationPolicy::Foreground).await;
    let is_deleted = |map: Option<&Value>| map.is_some_and(|map| map["metadata"]["deletionTimestamp"].is_string());
    hub.eventually(Kind::ConfigMap, ("default", "grandchild"), is_deleted).await;
    hub.settled().await;
    // Everything waits for the one that somebody holds.
    for name in ["owner", "child"] {
        let waits = hub.get(Kind::ConfigMap, ("default", name)).await;
        assert_eq!(waits["metadata"]["finalizers"], json!(["foregroundDeletion"]), "{waits}");
        assert!(is_deleted(Some(&waits)));
    }
    let release = json!({"metadata": {"finalizers": []}});
    hub.admin.merge(Kind::ConfigMap, ("default", "grandchild"), &release).await.expect("the API takes it");
    for name in ["grandchild", "child", "owner"] {
        deleted(&hub, name).await;
    }
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orphan_stays_and_has_lost_its_owner() {
    let hub = Hub::start().await;
    let owner = map(&hub, "owner", &[], json!([])).await;
    let other = map(&hub, "other", &[], json!([])).await;
    let child = map(&hub, "child", &[&owner, &other], json!([])).await;
    delete(&hub, Kind::ConfigMap, &owner, PropagationPolicy::Orphan).await;
    deleted(&hub, "owner").await;
    hub.settled().await;
    let kept = hub.get(Kind::ConfigMap, ("default", "child")).await;
    assert_eq!(kept["metadata"]["uid"], child["metadata"]["uid"]);
    let owners = kept["metadata"]["ownerReferences"].as_array().expect("the other owner");
    assert_eq!((owners.len(), &owners[0]["uid"]), (1, &other["metadata"]["uid"]));
    // In the background it follows its last owner.
    delete(&hub, Kind::ConfigMap, &other, PropagationPolicy::Background).await;
    deleted(&hub, "child").await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_without_dependents_does_not_wait() {
    let hub = Hub::start().await;
    for (name, propagation) in [("a", PropagationPolicy::Orphan), ("b", PropagationPolicy::Foreground)] {
        let owner = map(&hub, name, &[], json!([])).await;
        delete(&hub, Kind::ConfigMap, &owner, propagation.clone()).await;
        deleted(&hub, name).await;
        let namespace = hub.make(Kind::Namespace, json!({"metadata": {"name": format!("line-{name}")}})).await;
        delete(&hub, Kind::Namespace, &namespace, propagation).await;
        hub.eventually(Kind::Namespace, ("", &format!("line-{name}")), |namespace| namespace.is_none()).await;
    }
    hub.stop().await;
}

/// How long what must not happen is given to happen.
async fn stays(hub: &Hub, kind: Kind, key: (&str, &str)) -> Value {
    hub.settled().await;
    let found = hub.get(kind, key).await;
    assert!(found["metadata"]["deletionTimestamp"].is_null(), "{found}");
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_foreground_an_owner_does_not_wait_for_a_dependent_that_another_owner_keeps() {
    let hub = Hub::start().await;
    let one = map(&hub, "one", &[], json!([])).await;
    let other = map(&hub, "other", &[], json!([])).await;
    map(&hub, "shared", &[&one, &other], json!([])).await;
    delete(&hub, Kind::ConfigMap, &one, PropagationPolicy::Foreground).await;
    deleted(&hub, "one").await;
    let shared = stays(&hub, Kind::ConfigMap, ("default", "shared")).await;
    let owners = shared["metadata"]["ownerReferences"].as_array().expect("the other owner");
    assert_eq!((owners.len(), &owners[0]["uid"]), (1, &other["metadata"]["uid"]));
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_waits_no_more_for_what_a_person_unblocks() {
    let hub = Hub::start().await;
    for (name, unblocked) in [("removed", false), ("not-blocking", true)] {
        let owner = map(&hub, name, &[], json!([])).await;
        let dependent = format!("of-{name}");
        let held = map(&hub, &dependent, &[&owner], json!(["example.com/hold"])).await;
        delete(&hub, Kind::ConfigMap, &owner, PropagationPolicy::Foreground).await;
        hub.eventually(Kind::ConfigMap, ("default", &dependent), |map| {
            map.is_some_and(|map| map["metadata"]["deletionTimestamp"].is_string())
        })
        .await;
        hub.settled().await;
        let mut owners = held["metadata"]["ownerReferences"].clone();
        owners[0]["blockOwnerDeletion"] = json!(false);
        let owners = if unblocked { owners } else { json!(null) };
        let patch = json!({"metadata": {"ownerReferences": owners}});
        hub.admin.merge(Kind::ConfigMap, ("default", &dependent), &patch).await.expect("the API takes it");
        deleted(&hub, name).await;
    }
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_that_wait_for_each_other_are_deleted_all_the_same() {
    let hub = Hub::start().await;
    for length in 1..=3 {
        let names: Vec<String> = (0..length).map(|number| format!("round-{length}-{number}")).collect();
        let mut maps = Vec::new();
        for name in &names {
            maps.push(map(&hub, name, &[], json!([])).await);
        }
        for (number, name) in names.iter().enumerate() {
            let owner = &maps[(number + 1) % length];
            let patch = json!({"metadata": {"ownerReferences": [{
                "apiVersion": "v1", "kind": "ConfigMap", "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"],
                "blockOwnerDeletion": true,
            }]}});
            hub.admin.merge(Kind::ConfigMap, ("default", name), &patch).await.expect("the API takes it");
        }
        delete(&hub, Kind::ConfigMap, &maps[0], PropagationPolicy::Foreground).await;
        for name in &names {
            deleted(&hub, name).await;
        }
    }
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_the_cluster_is_deleted_for_an_owner_in_a_namespace() {
    let hub = Hub::start().await;
    let owner = map(&hub, "owner", &[], json!([])).await;
    let reference = |name: &str, uid: &Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid, "blockOwnerDeletion": true});
    let namespace = |name: &str, owner: Value| json!({"metadata": {"name": name, "ownerReferences": [owner]}});
    hub.make(Kind::Namespace, namespace("of-living", reference("owner", &owner["metadata"]["uid"]))).await;
    hub.make(Kind::Namespace, namespace("of-nobody", reference("nobody", &json!("no-such-uid")))).await;
    for name in ["of-living", "of-nobody"] {
        let event = hub.event_of(name, "OwnerRefInvalidNamespace").await;
        assert_eq!(event["type"], "Warning");
        stays(&hub, Kind::Namespace, ("", name)).await;
    }
    // Nor does such an owner wait for it.
    delete(&hub, Kind::ConfigMap, &owner, PropagationPolicy::Foreground).await;
    deleted(&hub, "owner").await;
    stays(&hub, Kind::Namespace, ("", "of-living")).await;
    hub.stop().await;
}

/// The definition of a kind that no controller knows.
fn gadget_definition() -> Value {
    json!({
        "metadata": {"name": "gadgets.example.org"},
        "spec": {
            "group": "example.org", "scope": "Namespaced",
            "names": {"kind": "Gadget", "plural": "gadgets", "singular": "gadget", "listKind": "GadgetList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}],
        },
    })
}

/// Objects of that kind.
fn gadgets(hub: &Hub) -> (Api<DynamicObject>, ApiResource) {
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("example.org", "v1", "Gadget"), "gadgets");
    (Api::namespaced_with(hub.client(), "default", &resource), resource)
}

async fn gadget(hub: &Hub, name: &str) -> DynamicObject {
    let (gadgets, resource) = gadgets(hub);
    gadgets.create(&PostParams::default(), &DynamicObject::new(name, &resource)).await.expect("the API takes it")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_deletion_of_a_custom_object_takes_its_dependents_along() {
    let hub = Hub::start().await;
    hub.make(Kind::CustomResourceDefinition, gadget_definition()).await;
    for name in ["press", "lathe"] {
        let owner = gadget(&hub, name).await;
        let reference =
            json!({"apiVersion": "example.org/v1", "kind": "Gadget", "name": name, "uid": owner.metadata.uid});
        let metadata = json!({"name": name, "namespace": "default", "ownerReferences": [reference]});
        hub.make(Kind::ConfigMap, json!({"metadata": metadata})).await;
    }
    stays(&hub, Kind::ConfigMap, ("default", "press")).await;
    gadgets(&hub).0.delete("press", &DeleteParams::default()).await.expect("the API deletes it");
    deleted(&hub, "press").await;
    stays(&hub, Kind::ConfigMap, ("default", "lathe")).await;
    gadgets(&hub).0.delete("lathe", &DeleteParams::default()).await.expect("the API deletes it");
    deleted(&hub, "lathe").await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_reference_in_another_namespace_says_nothing_of_the_owner() {
    let hub = Hub::start().await;
    hub.make(Kind::CustomResourceDefinition, gadget_definition()).await;
    let owner = gadget(&hub, "press").await;
    let of = |namespace: &str, name: &str| {
        let owner =
            json!({"apiVersion": "example.org/v1", "kind": "Gadget", "name": "press", "uid": owner.metadata.uid});
        json!({"metadata": {"name": name, "namespace": namespace, "ownerReferences": [owner]}})
    };
    hub.make(Kind::Namespace, json!({"metadata": {"name": "line-2"}})).await;
    hub.make(Kind::ConfigMap, of("line-2", "wrong")).await;
    hub.eventually(Kind::ConfigMap, ("line-2", "wrong"), |map| map.is_none()).await;
    hub.make(Kind::ConfigMap, of("default", "right")).await;
    stays(&hub, Kind::ConfigMap, ("default", "right")).await;
    hub.stop().await;
}

/// A Gadget that is owned by this.
async fn owned_gadget(hub: &Hub, name: &str, api_version: &str, kind: &str, owner: (&str, &str), hold: bool) -> String {
    let (gadgets, resource) = gadgets(hub);
    let mut gadget = DynamicObject::new(name, &resource);
    let reference = json!({
        "apiVersion": api_version, "kind": kind, "name": owner.0, "uid": owner.1, "blockOwnerDeletion": true,
    });
    gadget.metadata.owner_references = Some(vec![serde_json::from_value(reference).expect("a reference")]);
    gadget.metadata.finalizers = hold.then(|| vec!["example.com/hold".to_owned()]);
    let created = gadgets.create(&PostParams::default(), &gadget).await.expect("the API takes it");
    created.metadata.uid.expect("it has a uid")
}

async fn gadget_with(hub: &Hub, name: &str, holds: impl Fn(Option<&DynamicObject>) -> bool) {
    let (gadgets, _) = gadgets(hub);
    let mut last = None;
    for _ in 0..3000 {
        last = gadgets.get_opt(name).await.expect("the API answers");
        if holds(last.as_ref()) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the gadget {name} did not come to be so in a minute; last seen: {last:?}");
}

async fn release_gadget(hub: &Hub, name: &str) {
    let patch = kube::api::Patch::Merge(json!({"metadata": {"finalizers": null}}));
    gadgets(hub).0.patch(name, &kube::api::PatchParams::default(), &patch).await.expect("the API takes it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn custom_objects_go_with_their_owners() {
    let mut hub = Hub::start().await;
    hub.make(Kind::CustomResourceDefinition, gadget_definition()).await;
    let owner = map(&hub, "owner", &[], json!([])).await;
    let other = map(&hub, "other", &[], json!([])).await;
    let uid = |object: &Value| object["metadata"]["uid"].as_str().expect("a uid").to_owned();
    let press = owned_gadget(&hub, "press", "v1", "ConfigMap", ("owner", &uid(&owner)), false).await;
    owned_gadget(&hub, "wheel", "example.org/v1", "Gadget", ("press", &press), false).await;
    owned_gadget(&hub, "kept", "v1", "ConfigMap", ("other", &uid(&other)), false).await;
    hub.settled().await;
    delete(&hub, Kind::ConfigMap, &owner, PropagationPolicy::Background).await;
    gadget_with(&hub, "press", |gadget| gadget.is_none()).await;
    gadget_with(&hub, "wheel", |gadget| gadget.is_none()).await;
    // One that comes too late finds no owner.
    owned_gadget(&hub, "late", "v1", "ConfigMap", ("owner", &uid(&owner)), false).await;
    gadget_with(&hub, "late", |gadget| gadget.is_none()).await;
    // And one that lost its owner while nobody looked.
    hub.settled().await;
    gadget_with(&hub, "kept", |gadget| gadget.is_some()).await;
    hub.stop_controllers().await;
    delete(&hub, Kind::ConfigMap, &other, PropagationPolicy::Background).await;
    hub.start_controllers(crate::hub::Source::Store).await;
    gadget_with(&hub, "kept", |gadget| gadget.is_none()).await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn custom_owners_wait_for_their_dependents_or_release_them() {
    let hub = Hub::start().await;
    hub.make(Kind::CustomResourceDefinition, gadget_definition()).await;
    hub.settled().await;
    let uid = |gadget: &DynamicObject| gadget.metadata.uid.clone().expect("a uid");
    let press = gadget(&hub, "press").await;
    owned_gadget(&hub, "wheel", "example.org/v1", "Gadget", ("press", &uid(&press)), true).await;
    gadgets(&hub).0.delete("press", &DeleteParams::foreground()).await.expect("the API takes it");
    gadget_with(&hub, "wheel", |wheel| wheel.is_some_and(|wheel| wheel.metadata.deletion_timestamp.is_some())).await;
    hub.settled().await;
    gadget_with(&hub, "press", |press| {
        press.is_some_and(|press| press.metadata.finalizers.as_deref() == Some(&["foregroundDeletion".to_owned()]))
    })
    .await;
    release_gadget(&hub, "wheel").await;
    gadget_with(&hub, "press", |press| press.is_none()).await;

    let lathe = gadget(&hub, "lathe").await;
    owned_gadget(&hub, "belt", "example.org/v1", "Gadget", ("lathe", &uid(&lathe)), false).await;
    gadgets(&hub)
        .0
        .delete(
            "lathe",
            &DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..DeleteParams::default() },
        )
        .await
        .expect("the API takes it");
    gadget_with(&hub, "lathe", |lathe| lathe.is_none()).await;
    gadget_with(&hub, "belt", |belt| {
        belt.is_some_and(|belt| belt.metadata.owner_references.as_ref().is_none_or(Vec::is_empty))
    })
    .await;
    hub.settled().await;
    gadget_with(&hub, "belt", |belt| belt.is_some_and(|belt| belt.metadata.deletion_timestamp.is_none())).await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kind_that_is_defined_anew_is_followed_anew() {
    let hub = Hub::start().await;
    for _ in 0..2 {
        let definition = hub.make(Kind::CustomResourceDefinition, gadget_definition()).await;
        let owner = map(&hub, "owner", &[], json!([])).await;
        let uid = owner["metadata"]["uid"].as_str().expect("a uid");
        owned_gadget(&hub, "press", "v1", "ConfigMap", ("owner", uid), false).await;
        delete(&hub, Kind::ConfigMap, &owner, PropagationPolicy::Background).await;
        gadget_with(&hub, "press", |gadget| gadget.is_none()).await;
        hub.admin.delete(Kind::CustomResourceDefinition, &definition, None).await.expect("the API deletes it");
        hub.eventually(Kind::CustomResourceDefinition, ("", "gadgets.example.org"), |one| one.is_none()).await;
    }
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_custom_objects_own_goes_also_when_their_definition_takes_them_along() {
    let hub = Hub::start().await;
    let definition = hub.make(Kind::CustomResourceDefinition, gadget_definition()).await;
    for index in 0..50 {
        let name = format!("press-{index}");
        let owner = gadget(&hub, &name).await;
        let reference =
            json!({"apiVersion": "example.org/v1", "kind": "Gadget", "name": name, "uid": owner.metadata.uid});
        let metadata = json!({"name": name, "namespace": "default", "ownerReferences": [reference]});
        hub.make(Kind::ConfigMap, json!({"metadata": metadata})).await;
    }
    hub.settled().await;
    hub.admin.delete(Kind::CustomResourceDefinition, &definition, None).await.expect("the API deletes it");
    for index in 0..50 {
        deleted(&hub, &format!("press-{index}")).await;
    }
    hub.stop().await;
}

/// Objects of one of Kubernetes' kinds on which no controller acts.
fn objects(hub: &Hub, (group, kind, plural): (&str, &str, &str)) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, "v1", kind), plural);
    Api::namespaced_with(hub.client(), "default", &resource)
}

async fn make_object(api: &Api<DynamicObject>, object: Value) -> Value {
    let object: DynamicObject = serde_json::from_value(object).expect("an object");
    let made = api.create(&PostParams::default(), &object).await.expect("the API takes it");
    serde_json::to_value(made).expect("an object")
}

async fn is_deleted(api: &Api<DynamicObject>, name: &str) {
    for _ in 0..3000 {
        if api.get_opt(name).await.expect("the API answers").is_none() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{name} is there after a minute");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kinds_that_nothing_acts_on_own_and_are_owned() {
    let hub = Hub::start().await;
    let deployments = objects(&hub, ("apps", "Deployment", "deployments"));
    let sets = objects(&hub, ("apps", "ReplicaSet", "replicasets"));
    let services = objects(&hub, ("", "Service", "services"));
    let owned = |kind: &str, api_version: &str, owner: &Value| {
        json!([{"apiVersion": api_version, "kind": kind, "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"], "blockOwnerDeletion": true}])
    };
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "m", "image": "x"}]}});
    let spec = json!({"selector": {"matchLabels": {"a": "b"}}, "template": template});
    let deployment =
        |name: &str| json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec});
    let set = |name: &str, owners: Value| {
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"name": name, "ownerReferences": owners}, "spec": spec})
    };
    for (name, params) in [
        ("background", DeleteParams::background()),
        ("foreground", DeleteParams::foreground()),
        ("orphan", DeleteParams::orphan()),
    ] {
        let owner = make_object(&deployments, deployment(name)).await;
        make_object(&sets, set(name, owned("Deployment", "apps/v1", &owner))).await;
        deployments.delete(name, &params).await.expect("the API deletes it");
        is_deleted(&deployments, name).await;
        match name {
            "orphan" => {
                let kept = sets.get(name).await.expect("it stays");
                assert_eq!(kept.metadata.owner_references, None);
            }
            _ => is_deleted(&sets, name).await,
        }
    }
    let service =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"clusterIP": "None"}});
    let service = make_object(&services, service).await;
    let metadata =
        json!({"name": "of-web", "namespace": "default", "ownerReferences": owned("Service", "v1", &service)});
    hub.make(Kind::ConfigMap, json!({"metadata": metadata})).await;
    services.delete("web", &DeleteParams::default()).await.expect("the API deletes it");
    deleted(&hub, "of-web").await;
    hub.stop().await;
}
