//! Objects are found by the index fields of today, whoever stored them.

use machinery_store::{IndexFields, Key, Store, StoreOptions};
use serde_json::{Value, json};

use super::*;

fn pod_of_map(map: &str) -> Value {
    let mut pod = pod("web", "gw-1");
    pod["spec"]["volumes"][0]["configMap"]["name"] = map.into();
    pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": "2f1c7a3e-0000-4000-8000-000000000001"}]);
    pod
}

fn names_of(store: &Store, resource: &str, term: (&str, &str)) -> Vec<String> {
    let range = store.range_where(resource, term, None, None, None, None).unwrap();
    range.items.iter().map(|object| object.key.name.to_string()).collect()
}

/// As a program left it that knew names, nodes and labels only.
async fn make_old(dir: &std::path::Path) {
    let store = Store::open(dir, StoreOptions { index_version: 0, ..StoreOptions::default() }).unwrap();
    store.begin_reindex().await.unwrap();
    for resource in ["/pods", "/configmaps"] {
        let objects = store.range(resource, None, None, None, None).unwrap().items;
        let kept = |object: &machinery_store::Object| -> IndexFields {
            object.index.iter().filter(|(name, _)| !crate::INDEXED_FIELDS[1..].contains(name)).collect()
        };
        let fields = objects.iter().map(|object| (object.key.clone(), object.revision, kept(object))).collect();
        store.reindex(fields).await.unwrap();
    }
}

#[tokio::test]
async fn objects_of_an_older_program_are_found_by_owner_and_by_what_they_refer_to() {
    let hub = Hub::start().await;
    hub.create(PODS, pod_of_map("settings")).await;
    let written = hub.server.0.store.get(&Key::new("/pods", "default", "web")).unwrap();
    let Hub { server, dir, .. } = hub;
    drop(server);
    make_old(dir.path()).await;

    let hub = Hub::open(dir, Arc::new(NoNodes));
    let store = hub.server.0.store.clone();
    let by_map = |store: &Store| names_of(store, "/pods", ("refs", "configmaps/settings"));
    assert_eq!(by_map(&store), [""; 0], "or the test would prove nothing");
    let current = store.current();
    let mut watch = hub.watch(&format!("{PODS}?watch=1&resourceVersion={current}")).await;
    assert_eq!(hub.server.reindex().await.unwrap(), 1);
    assert_eq!(by_map(&store), ["web"]);
    let owner = ("metadata.ownerReferences.uid", "2f1c7a3e-0000-4000-8000-000000000001");
    assert_eq!(names_of(&store, "/pods", owner), ["web"]);
    assert_eq!(*store.get(&written.key).unwrap(), *written, "nothing else about it has changed");
    assert_eq!(store.current(), current);
    hub.create(PODS, pod("next", "gw-1")).await;
    assert_eq!(watch.shown().await, "ADDED next", "nobody has seen a change of the first");

    let shown = store.current();
    drop(store);
    let hub = hub.restart();
    assert_eq!(by_map(&hub.server.0.store), ["next", "web"]);
    assert!(!hub.server.0.store.is_index_stale() && hub.server.reindex().await.unwrap() == 0, "once is enough");
    assert_eq!(hub.server.0.store.current(), shown);
}

#[tokio::test]
async fn objects_are_selected_by_a_field_that_their_definition_declares_later() {
    let hub = Hub::start().await;
    let mut definition = json!({
        "metadata": {"name": "lamps.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "lamps", "singular": "lamp", "kind": "Lamp", "listKind": "LampList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object",
                "properties": {"spec": {"type": "object", "properties": {"place": {"type": "string"}}}},
            }}}],
        },
    });
    hub.create(CRDS, definition.clone()).await;
    let lamps = "/apis/example.com/v1/namespaces/default/lamps";
    for (name, place) in [("a", "hall"), ("b", "yard")] {
        hub.create(
            lamps,
            json!({"apiVersion": "example.com/v1", "kind": "Lamp", "metadata": {"name": name}, "spec": {"place": place}}),
        )
        .await;
    }
    let of_hall = format!("{lamps}?fieldSelector=spec.place%3Dhall");
    hub.get(&of_hall).await.check(400, "BadRequest", "");
    definition["spec"]["versions"][0]["selectableFields"] = json!([{"jsonPath": ".spec.place"}]);
    let changed =
        hub.patch(&format!("{CRDS}/lamps.example.com"), "merge-patch", json!({"spec": definition["spec"]})).await;
    assert_eq!(changed.code, 200, "{}", changed.body);
    assert_eq!(hub.get(&of_hall).await.names(), ["a"]);
    let hub = hub.restart();
    assert!(!hub.server.0.store.is_index_stale());
    assert_eq!(hub.get(&of_hall).await.names(), ["a"]);
}

/// Which version an object is written through does not decide by which fields it is found.
#[tokio::test]
async fn objects_written_through_one_version_are_selected_through_another() {
    let hub = Hub::start().await;
    let version = |name: &str, fields: Value| {
        let properties =
            json!({"spec": {"type": "object", "properties": {"c": {"type": "string"}, "n": {"type": "integer"}}}});
        json!({
            "name": name, "served": true, "storage": name == "v1", "selectableFields": fields,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}},
        })
    };
    let both = json!([{"jsonPath": ".spec.c"}, {"jsonPath": ".spec.n"}]);
    let definition = json!({
        "metadata": {"name": "lamps.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "lamps", "singular": "lamp", "kind": "Lamp", "listKind": "LampList"},
            "versions": [version("v1", both.clone()), version("v2", json!([]))],
        },
    });
    hub.create(CRDS, definition).await;
    let lamps = |version: &str, query: &str| format!("/apis/example.com/{version}/namespaces/default/lamps{query}");
    let lamp = |version: &str, name: &str, c: &str| {
        let api_version = format!("example.com/{version}");
        json!({"apiVersion": api_version, "kind": "Lamp", "metadata": {"name": name}, "spec": {"c": c, "n": 3}})
    };
    let of_x = lamps("v1", "?fieldSelector=spec.c%3Dx");
    let mut watch = hub.watch(&lamps("v1", "?watch=1&fieldSelector=spec.c%3Dx")).await;
    hub.create(&lamps("v2", ""), lamp("v2", "a", "x")).await;
    hub.create(&lamps("v1", ""), lamp("v1", "b", "y")).await;
    assert_eq!(watch.shown().await, "ADDED a");
    hub.patch(&lamps("v2", "/b"), "merge-patch", json!({"spec": {"c": "x"}})).await;
    assert_eq!(watch.shown().await, "ADDED b");
    assert_eq!(hub.get(&of_x).await.names(), ["a", "b"]);
    assert_eq!(hub.get(&lamps("v1", "?fieldSelector=spec.n%3D3")).await.names(), ["a", "b"]);
    hub.get(&lamps("v2", "?fieldSelector=spec.c%3Dx")).await.check(
        400,
        "BadRequest",
        "field label not supported: spec.c",
    );

    // What the version in which nothing is stored declares later is found as well.
    let change = async |v1: Value, v2: Value| {
        let versions = json!({"spec": {"versions": [version("v1", v1), version("v2", v2)]}});
        assert_eq!(hub.patch(&format!("{CRDS}/lamps.example.com"), "merge-patch", versions).await.code, 200);
    };
    change(json!([]), json!([])).await;
    hub.get(&of_x).await.check(400, "BadRequest", "field label not supported: spec.c");
    change(json!([]), both).await;
    assert_eq!(hub.get(&lamps("v2", "?fieldSelector=spec.c%3Dx")).await.names(), ["a", "b"]);
    let deleted = hub.call("DELETE", &lamps("v2", "?fieldSelector=spec.c%3Dx"), Value::Null).await;
    assert_eq!(deleted.code, 200, "{}", deleted.body);
    assert_eq!(hub.get(&lamps("v1", "")).await.names(), [""; 0]);
}

/// What the rules give for two objects. When this fails, raise `INDEX_VERSION` and then write down what they give now:
/// objects that are stored already would not be found otherwise.
#[test]
fn the_rules_of_index_fields_are_those_of_their_version() {
    let registry = machinery_kinds::Registry::builtin();
    let fields = |plural: &str, object: &Value| {
        let info = registry.resource("", "v1", plural).expect("built in");
        let fields = crate::object::index_fields(info, object);
        fields.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    };
    let mut pod = pod_of_map("settings");
    pod["metadata"]["labels"] = json!({"app": "web"});
    pod["spec"]["serviceAccountName"] = "default".into();
    pod["spec"]["imagePullSecrets"] = json!([{"name": "pull"}]);
    pod["spec"]["resourceClaims"] = json!([{"name": "gpu", "resourceClaimName": "gpu-0"}]);
    let expected = "metadata.name=web spec.nodeName=gw-1 spec.serviceAccountName=default spec.hostNetwork=false label:app=web \
                    metadata.ownerReferences.uid=2f1c7a3e-0000-4000-8000-000000000001 refs=configmaps/settings \
                    refs=resourceclaims/gpu-0 refs=secrets/pull refs=serviceaccounts/default";
    let volume = json!({"metadata": {"name": "v"}, "spec": {
        "claimRef": {"namespace": "a", "name": "data"}, "csi": {"nodePublishSecretRef": {"namespace": "a", "name": "s"}},
    }});
    let of_volume = "metadata.name=v refs=persistentvolumeclaims/a/data refs=secrets/a/s";
    assert_eq!(fields("persistentvolumes", &volume), of_volume);
    assert_eq!((crate::INDEX_VERSION, fields("pods", &pod).as_str()), (3, expected));
}
