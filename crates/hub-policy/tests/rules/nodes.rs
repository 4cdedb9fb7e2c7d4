//! What a node may do.

use http::Request;
use http_body_util::{BodyExt as _, StreamBody};
use machinery_server::Identity;
use serde_json::{Value, json};

use crate::harness::{ASSIGNMENTS, CONFIG_MAPS, Hub, NODES, PODS, config_map, node, owned_by, pod};

fn labels(labels: Value) -> Value {
    json!({"metadata": {"labels": labels}})
}

#[tokio::test]
async fn a_node_reads_and_writes_what_is_its_own() {
    let hub = Hub::joined().await;
    let gw = &node("gw-1");
    hub.check(gw, "POST", NODES, json!({"metadata": {"name": "gw-2"}}), 403).await;
    let taints = json!([{"key": "a", "effect": "NoSchedule"}]);
    hub.check(gw, "POST", NODES, json!({"metadata": {"name": "gw-1"}, "spec": {"taints": taints}}), 201).await;
    hub.check(&node("gw-2"), "POST", NODES, json!({"metadata": {"name": "gw-2"}}), 201).await;
    hub.create(PODS, pod("own", "gw-1")).await;
    hub.create(PODS, pod("other", "gw-2")).await;
    for name in ["settings", "private"] {
        hub.create(CONFIG_MAPS, config_map(name)).await;
    }
    let lease = |name: &str| json!({"metadata": {"name": name}, "spec": {}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let other_namespace = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let status = || json!({"status": {"phase": "Running"}});
    for (method, path, body, code) in [
        ("GET", "/api/v1/nodes/gw-1", Value::Null, 200),
        ("GET", "/api/v1/nodes/gw-2", Value::Null, 403),
        ("GET", "/api/v1/nodes", Value::Null, 403),
        ("GET", "/api/v1/nodes?fieldSelector=metadata.name%3Dgw-1", Value::Null, 200),
        ("PATCH", "/api/v1/nodes/gw-1/status", json!({"status": {}}), 200),
        ("PATCH", "/api/v1/nodes/gw-2/status", json!({"status": {}}), 403),
        ("PATCH", "/api/v1/nodes/gw-1", json!({"spec": {"taints": null}}), 403),
        ("DELETE", "/api/v1/nodes/gw-1", Value::Null, 403),
        ("GET", "/api/v1/pods", Value::Null, 403),
        ("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dgw-1", Value::Null, 200),
        ("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dgw-2", Value::Null, 403),
        ("GET", "/api/v1/namespaces/default/pods/own", Value::Null, 200),
        ("GET", "/api/v1/namespaces/default/pods/other", Value::Null, 403),
        ("GET", "/api/v1/namespaces/default/pods/absent", Value::Null, 404),
        ("PATCH", "/api/v1/namespaces/default/pods/own/status", status(), 200),
        ("PATCH", "/api/v1/namespaces/default/pods/other/status", status(), 403),
        ("PATCH", "/api/v1/namespaces/default/pods/own", json!({}), 403),
        ("DELETE", "/api/v1/namespaces/default/pods/other", Value::Null, 403),
        ("DELETE", "/api/v1/namespaces/default/pods", Value::Null, 403),
        ("POST", PODS, pod("new", "gw-1"), 403),
        ("GET", "/api/v1/namespaces/default/configmaps/settings", Value::Null, 200),
        ("GET", "/api/v1/namespaces/default/configmaps?fieldSelector=metadata.name%3Dsettings", Value::Null, 200),
        ("GET", "/api/v1/namespaces/default/configmaps/private", Value::Null, 403),
        ("GET", "/api/v1/namespaces/default/configmaps", Value::Null, 403),
        ("PATCH", "/api/v1/namespaces/default/configmaps/settings", json!({}), 403),
        ("GET", "/api/v1/namespaces/default/secrets/settings", Value::Null, 403),
        ("GET", "/api/v1/secrets", Value::Null, 403),
        ("POST", leases, lease("gw-2"), 403),
        ("POST", leases, lease("gw-1"), 201),
        ("GET", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/gw-1", Value::Null, 200),
        (
            "GET",
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases?fieldSelector=metadata.name%3Dgw-1",
            Value::Null,
            403,
        ),
        ("POST", other_namespace, lease("gw-1"), 403),
        ("GET", "/api/v1/namespaces/default", Value::Null, 200),
        ("GET", "/apis/node.k8s.io/v1/runtimeclasses", Value::Null, 200),
        ("GET", "/apis/apps/v1/daemonsets", Value::Null, 403),
        ("GET", "/apis", Value::Null, 200),
        ("POST", "/telemetry/v1/other", Value::Null, 403),
    ] {
        hub.check(gw, method, path, body, code).await;
    }
    let refused = hub.check(gw, "GET", "/api/v1/secrets", Value::Null, 403).await;
    let part = r#"User "system:node:gw-1" cannot list resource "secrets" in API group "" at the cluster scope"#;
    assert!(refused.message().contains(part), "{}", refused.message());
}

#[tokio::test]
async fn an_assignment_belongs_to_the_node_that_it_names() {
    let hub = Hub::joined().await;
    // The third bears the name of a part and is another's: what counts is what is in it.
    for (name, node) in [("gw-1", "gw-1"), ("gw-1.part-1", "gw-1"), ("gw-1.part-2", "gw-10"), ("gw-10", "gw-10")] {
        let labels = json!({api_edge::LABEL_NODE: node});
        hub.create(ASSIGNMENTS, json!({"metadata": {"name": name, "labels": labels}, "spec": {"nodeName": node}}))
            .await;
    }
    let gw = &node("gw-1");
    for (path, code) in [
        ("/gw-1", 200),
        ("/gw-1.part-1", 200),
        ("/gw-1.part-2", 403),
        ("/gw-10", 403),
        ("", 403),
        ("?labelSelector=selvedge.dev%2Fnode%3Dgw-1", 200),
        ("?labelSelector=selvedge.dev%2Fnode%3Dgw-10", 403),
        // By name alone, as on a cluster that has roles only.
        ("?fieldSelector=metadata.name%3Dgw-1", 200),
        ("?fieldSelector=metadata.name%3Dgw-1.part-1", 200),
        ("?fieldSelector=metadata.name%3Dgw-10", 403),
        ("?fieldSelector=metadata.name%3Dgw-10.part-1", 403),
        ("?fieldSelector=metadata.name%3Dgw-1.part-", 403),
        ("?fieldSelector=metadata.name%3Dgw-1.part-x", 403),
    ] {
        hub.check(gw, "GET", &format!("{ASSIGNMENTS}{path}"), Value::Null, code).await;
    }
    let status = json!({"status": {"observedGeneration": 1}});
    for (name, code) in [("gw-1", 200), ("gw-1.part-1", 200), ("gw-1.part-2", 403), ("gw-10", 403)] {
        hub.check(gw, "PATCH", &format!("{ASSIGNMENTS}/{name}/status"), status.clone(), code).await;
    }
    hub.check(gw, "PATCH", &format!("{ASSIGNMENTS}/gw-1"), status, 403).await;
}

#[tokio::test]
async fn a_node_named_like_a_part_of_anothers_assignment_or_like_the_hub_is_none() {
    let hub = Hub::joined().await;
    for name in ["victim.part-1", "hub.example.com", "localhost"] {
        let answer = hub.call("POST", NODES, json!({"metadata": {"name": name}})).await;
        assert_eq!(answer.code, 422, "{name}: {}", answer.body);
    }
    // A certificate of an older version of the program may bear such a name still.
    hub.create(ASSIGNMENTS, json!({"metadata": {"name": "victim.part-1"}, "spec": {"nodeName": "victim.part-1"}}))
        .await;
    let evil = &node("victim.part-1");
    hub.check(evil, "GET", &format!("{ASSIGNMENTS}/victim.part-1"), Value::Null, 403).await;
    hub.check(evil, "GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dvictim.part-1", Value::Null, 403).await;
}

/// Starts a request whose body comes later; the request has been authorised by what was stored when it came.
fn slow(
    hub: &Hub,
    method: &str,
    path: &str,
) -> (tokio::sync::oneshot::Sender<&'static str>, tokio::task::JoinHandle<u16>) {
    let (body_tx, body_rx) = tokio::sync::oneshot::channel::<&'static str>();
    let body = StreamBody::new(futures::stream::once(Box::pin(async move {
        let text = body_rx.await.expect("the test sends it");
        Ok::<_, base_http::BoxError>(hyper::body::Frame::data(bytes::Bytes::from(text)))
    })));
    let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let request = Request::builder().method(method).uri(path).header("content-type", media);
    let request = request.body(body.boxed_unsync()).unwrap();
    let mut service = hub.server.in_process(node("gw-1"));
    let answered = tokio::spawn(async move {
        use tower::Service as _;
        service.call(request).await.expect("in process nothing fails").status().as_u16()
    });
    (body_tx, answered)
}

#[tokio::test]
async fn a_slow_body_does_not_outlive_its_authorisation() {
    let hub = Hub::joined().await;
    let (finish_delete, deleted) = slow(&hub, "DELETE", &format!("{PODS}/victim"));
    let (finish_patch, patched) = slow(&hub, "PATCH", &format!("{PODS}/victim/status"));
    // Both wait for their bodies now, and the pod appears on another node.
    tokio::task::yield_now().await;
    hub.create(PODS, pod("victim", "gw-2")).await;
    finish_delete.send("{}").unwrap();
    finish_patch.send(r#"{"status": {"phase": "Failed"}}"#).unwrap();
    assert_eq!((deleted.await.unwrap(), patched.await.unwrap()), (403, 403));
    let victim = hub.call("GET", &format!("{PODS}/victim"), Value::Null).await;
    assert_eq!((victim.code, &victim.body["status"]["phase"]), (200, &json!("Pending")));
}

#[tokio::test]
async fn a_node_does_not_say_what_may_run_on_it() {
    let hub = Hub::joined().await;
    let gw = &node("gw-1");
    let all = json!({
        "kubernetes.io/hostname": "gw-1", "node.kubernetes.io/size": "small", "selvedge.dev/role": "payment-gateway",
        "node-restriction.kubernetes.io/zone": "a", "site": "hall-2", "topology.kubernetes.io/zone": "b",
    });
    let mut new = labels(all);
    new["metadata"]["name"] = "gw-1".into();
    let created = hub.check(gw, "POST", NODES, new, 201).await;
    let kept = json!({"kubernetes.io/hostname": "gw-1", "node.kubernetes.io/size": "small"});
    assert_eq!(created.body["metadata"]["labels"], kept);
    assert_eq!(created.warnings.len(), 4, "{:?}", created.warnings);
    assert!(created.warnings[0].contains("token create --label"), "{:?}", created.warnings);
    // A box is selected by its hostname: under another's it would be shown what is the other's.
    hub.check(gw, "PATCH", "/api/v1/nodes/gw-1", labels(json!({"kubernetes.io/hostname": "gw-2"})), 403).await;
    for key in [
        "selvedge.dev/role",
        "site",
        "node-restriction.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "kubernetes.io/cluster",
    ] {
        for path in ["/api/v1/nodes/gw-1", "/api/v1/nodes/gw-1/status"] {
            hub.check(gw, "PATCH", path, labels(json!({key: "b"})), 403).await;
        }
        // The administrator says more of it; what a node sends along unchanged is no change.
        assert_eq!(hub.call("PATCH", "/api/v1/nodes/gw-1", labels(json!({key: "a"}))).await.code, 200);
        hub.check(gw, "PATCH", "/api/v1/nodes/gw-1", labels(json!({key: "a"})), 200).await;
        hub.check(gw, "PATCH", "/api/v1/nodes/gw-1", labels(json!({key: null})), 403).await;
    }
    hub.check(gw, "PATCH", "/api/v1/nodes/gw-1", labels(json!({"kubernetes.io/arch": "amd64"})), 200).await;
}

#[tokio::test]
async fn a_node_that_was_given_its_taint_writes_itself_back_and_does_not_take_it_away() {
    let hub = Hub::joined().await;
    let gw = &node("gw-1");
    let own = "/api/v1/nodes/gw-1";
    let not_ready = json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]);
    let created = hub.check(gw, "POST", NODES, json!({"metadata": {"name": "gw-1"}}), 201).await;
    assert_eq!(created.body["spec"]["taints"], not_ready);
    let mut whole = created.body.clone();
    whole["metadata"]["annotations"] = json!({"a": "b"});
    let written = hub.check(gw, "PUT", own, whole, 200).await;
    let mut without = written.body.clone();
    without["spec"]["taints"] = Value::Null;
    hub.check(gw, "PUT", own, without, 403).await;
    // What it has read is old: it reads again, and is not rejected for it.
    let changed = hub.call("PATCH", own, json!({"spec": {"taints": []}})).await;
    assert_eq!(changed.code, 200);
    hub.check(gw, "PUT", own, written.body, 409).await;
    let mut now = changed.body;
    now["spec"].as_object_mut().expect("a node has a spec").remove("taints");
    hub.check(gw, "PUT", own, now, 200).await;
}

#[tokio::test]
async fn a_node_cannot_hold_up_its_own_deletion() {
    let hub = Hub::joined().await;
    let gw = &node("gw-1");
    hub.check(gw, "POST", NODES, json!({"metadata": {"name": "gw-1", "finalizers": ["x.io/mine"]}}), 403).await;
    hub.check(gw, "POST", NODES, json!({"metadata": {"name": "gw-1"}}), 201).await;
    hub.check(gw, "PATCH", "/api/v1/nodes/gw-1", json!({"metadata": {"finalizers": ["x.io/mine"]}}), 403).await;
    assert_eq!(hub.call("DELETE", "/api/v1/nodes/gw-1", Value::Null).await.code, 200);
    assert_eq!(hub.call("GET", "/api/v1/nodes/gw-1", Value::Null).await.code, 404);
}

#[tokio::test]
async fn a_node_ties_nothing_to_what_is_not_its_own() {
    let hub = Hub::joined().await;
    let gw = &node("gw-1");
    let created = hub.check(gw, "POST", NODES, json!({"metadata": {"name": "gw-1"}}), 201).await;
    let uid = created.body["metadata"]["uid"].as_str().unwrap().to_owned();
    let owner = |name: &str, uid: &str| json!([{"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}]);
    // Owned by what is not there, it would be deleted by the garbage collector, and its key revoked.
    for owners in [owner("absent", "0"), owner("gw-1", &uid)] {
        let body = json!({"metadata": {"name": "gw-1", "ownerReferences": owners}});
        let refused = hub.check(gw, "PATCH", "/api/v1/nodes/gw-1", body.clone(), 403).await;
        assert!(refused.message().contains("modify ownerReferences"), "{}", refused.message());
        // Nor along with its status.
        hub.check(gw, "PATCH", "/api/v1/nodes/gw-1/status", body, 403).await;
    }
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let events = "/api/v1/namespaces/default/events";
    let lease = |metadata: Value| json!({"metadata": metadata, "spec": {}});
    let event = |metadata: Value| {
        json!({"metadata": metadata, "source": {"host": "gw-1"},
            "involvedObject": {"kind": "Node", "name": "gw-1", "namespace": "default"}})
    };
    let mirror = |mut metadata: Value| {
        metadata["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
        let containers = json!([{"name": "main", "image": "file:///bin/sleep"}]);
        json!({"metadata": metadata, "spec": {
            "nodeName": "gw-1", "runtimeClassName": "selvedge-process", "containers": containers}})
    };
    for (path, make, name) in
        [(leases, &lease as &dyn Fn(Value) -> Value, "gw-1"), (events, &event, "gw-1"), (PODS, &mirror, "own-gw-1")]
    {
        for metadata in [
            json!({"name": name, "finalizers": ["x.io/mine"]}),
            json!({"name": name, "ownerReferences": owner("gw-2", &uid)}),
            json!({"name": name, "ownerReferences": owner("gw-1", "another")}),
        ] {
            let refused = hub.check(gw, "POST", path, make(metadata.clone()), 403).await;
            assert!(refused.message().contains("is not allowed to set"), "{metadata}: {}", refused.message());
        }
        // What goes with its own Node is well.
        let own = json!({"name": name, "ownerReferences": owned_by(&created.body)});
        hub.check(gw, "POST", path, make(own), 201).await;
        hub.check(gw, "PATCH", &format!("{path}/{name}"), json!({"metadata": {"finalizers": ["x.io/mine"]}}), 403)
            .await;
    }
}

#[tokio::test]
async fn addresses_that_a_node_was_given_are_not_its_to_change() {
    let hub = Hub::joined().await;
    let given = json!({"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24"]});
    hub.create(NODES, json!({"metadata": {"name": "gw-1"}, "spec": given})).await;
    let gw = &node("gw-1");
    let other = json!({"spec": {"podCIDR": "10.2.0.0/24", "podCIDRs": ["10.2.0.0/24"]}});
    // Nobody changes them, so a node does not either.
    hub.check(gw, "PATCH", "/api/v1/nodes/gw-1", other, 422).await;
    // As upstream: a kubelet may cordon its own node.
    hub.check(gw, "PATCH", "/api/v1/nodes/gw-1", json!({"spec": {"unschedulable": true}}), 200).await;
}

#[tokio::test]
async fn the_hubs_own_kinds_stay() {
    let hub = Hub::joined().await;
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    for definition in api_edge::crds::all() {
        let path = format!("{definitions}/{}", definition["metadata"]["name"].as_str().unwrap());
        let refused = hub.call("DELETE", &path, Value::Null).await;
        assert_eq!(refused.code, 403, "{}", refused.body);
        assert!(refused.message().contains("the hub's own"), "{}", refused.message());
    }
    for namespace in ["default", "kube-system", "kube-node-lease"] {
        let refused = hub.call("DELETE", &format!("/api/v1/namespaces/{namespace}"), Value::Null).await;
        assert_eq!(refused.code, 403, "{}", refused.body);
    }
    hub.create(ASSIGNMENTS, json!({"metadata": {"name": "gw-1"}, "spec": {}})).await;
    // Those of others come and go.
    let theirs = json!({"metadata": {"name": "things.example.com"}, "spec": {
        "group": "example.com", "scope": "Cluster", "names": {"plural": "things", "kind": "Thing"},
        "versions": [{"name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}],
    }});
    hub.create(definitions, theirs).await;
    assert_eq!(hub.call("DELETE", &format!("{definitions}/things.example.com"), Value::Null).await.code, 200);
}

#[tokio::test]
async fn a_mirror_pod_is_no_key() {
    let hub = Hub::joined().await;
    let gw = &node("gw-1");
    let owners = hub.owned_by("gw-1").await;
    let mirror = |spec: Value| {
        let mut pod = json!({
            "metadata": {
                "name": "m-gw-1", "annotations": {"kubernetes.io/config.mirror": "x"}, "ownerReferences": owners,
            },
            "spec": {"nodeName": "gw-1", "containers": [{"name": "a", "image": "file:///bin/true"}]},
        });
        for (field, value) in spec.as_object().unwrap() {
            pod["spec"][field] = value.clone();
        }
        pod
    };
    for (spec, part) in [
        (json!({"nodeName": "gw-2"}), "for other nodes"),
        (json!({"serviceAccountName": "robot"}), "service account"),
        (json!({"serviceAccount": "robot"}), "service account"),
        (json!({"volumes": [{"name": "v", "secret": {"secretName": "other"}}]}), "secrets"),
        (json!({"imagePullSecrets": [{"name": "other"}]}), "secrets"),
    ] {
        let answer = hub.check(gw, "POST", PODS, mirror(spec), 403).await;
        assert!(answer.message().contains(part), "{}", answer.message());
    }
    // What selects its labels would adopt it in place of a pod of its own.
    let with = |field: &str, value: bool| {
        let mut owners = owners.clone();
        owners[0][field] = value.into();
        owners
    };
    for (owners, part) in [
        (Value::Null, "its own Node as their one owner"),
        (json!([]), "its own Node as their one owner"),
        (with("controller", false), "whose controller is not its own Node"),
        (with("blockOwnerDeletion", true), "blockOwnerDeletion"),
    ] {
        let mut pod = mirror(json!({}));
        pod["metadata"]["ownerReferences"] = owners;
        let answer = hub.send(gw, "POST", PODS, pod).await;
        assert!(answer.code == 403 && answer.message().contains(part), "{part}: {}", answer.body);
    }
    hub.check(gw, "POST", PODS, mirror(json!({})), 201).await;
    // A name that another node's pod is to have: those of DaemonSets can be computed.
    for name in ["agent-bcdfghjklm", "selvedge-edge-gw-2", "gw-1", "-gw-1", "mgw-1", "gw-1-m"] {
        let mut pod = mirror(json!({}));
        pod["metadata"]["name"] = name.into();
        let answer = hub.send(gw, "POST", PODS, pod).await;
        assert!(matches!(answer.code, 403 | 422), "{name}: {}", answer.body);
    }
    let mut generated = mirror(json!({}));
    generated["metadata"] = json!({"generateName": "agent-", "annotations": {"kubernetes.io/config.mirror": "x"}});
    hub.check(gw, "POST", PODS, generated, 403).await;
}

#[tokio::test]
async fn a_node_reports_events_as_itself_about_its_own() {
    let hub = Hub::joined().await;
    hub.create(PODS, pod("own", "gw-1")).await;
    hub.create(PODS, pod("other", "gw-2")).await;
    let events = "/api/v1/namespaces/default/events";
    let event = |name: &str, reporter: &str, kind: &str, about: &str| {
        json!({
            "metadata": {"name": name}, "reason": "Started", "message": "m", "type": "Normal",
            "source": {"component": "kubelet", "host": reporter}, "reportingInstance": reporter,
            "involvedObject": {"kind": kind, "name": about, "namespace": "default"},
        })
    };
    let (one, two) = (&node("gw-1"), &node("gw-2"));
    hub.check(one, "POST", events, event("a", "gw-1", "Pod", "own"), 201).await;
    hub.check(one, "POST", events, event("b", "gw-1", "Pod", "deleted-already"), 201).await;
    hub.check(one, "POST", events, event("c", "gw-1", "Pod", "other"), 403).await;
    hub.check(one, "POST", events, event("d", "gw-2", "Pod", "own"), 403).await;
    hub.check(one, "POST", events, event("e", "gw-1", "Node", "gw-2"), 403).await;
    // A kind has one spelling, and a second reference is one too.
    for (n, kind) in ["node", "NODE", "nodes", "Nodes", "pod", "Secret", "DaemonSet", ""].into_iter().enumerate() {
        for about in ["gw-2", "other", "gw-1"] {
            let answer = hub.send(one, "POST", events, event(&format!("k{n}-{about}"), "gw-1", kind, about)).await;
            assert!(matches!(answer.code, 403 | 422), "{kind} {about}: {}", answer.body);
        }
    }
    let with = |name: &str, fields: Value| {
        let mut event = event(name, "gw-1", "Node", "gw-1");
        event.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        event
    };
    let reference = |kind: &str, name: &str| json!({"kind": kind, "name": name, "namespace": "default"});
    for fields in [
        json!({"related": reference("Node", "gw-2")}),
        json!({"related": reference("Pod", "other")}),
        json!({"related": reference("Secret", "own")}),
        json!({"related": reference("node", "gw-1")}),
        json!({"involvedObject": {"apiVersion": "v2", "kind": "Node", "name": "gw-1", "namespace": "default"}}),
        json!({"involvedObject": {"kind": "Pod", "name": "other"}}),
        json!({"reportingInstance": "gw-2"}),
    ] {
        hub.check(one, "POST", events, with("r", fields), 403).await;
    }
    hub.check(one, "POST", events, with("s", json!({"related": reference("Pod", "own")})), 201).await;
    hub.check(one, "PATCH", &format!("{events}/s"), json!({"related": reference("Node", "gw-2")}), 403).await;
    let forged = json!({"message": "forged"});
    hub.check(two, "PATCH", &format!("{events}/a"), forged.clone(), 403).await;
    hub.check(one, "PATCH", &format!("{events}/a"), json!({"count": 2}), 200).await;
    // Nor does it become another's by being changed.
    hub.check(
        one,
        "PATCH",
        &format!("{events}/a"),
        json!({"source": {"host": "gw-2"}, "reportingInstance": "gw-2"}),
        403,
    )
    .await;
    let controllers = Identity::controllers();
    hub.check(&controllers, "POST", events, event("f", "", "Node", "gw-1"), 201).await;
    hub.check(one, "PATCH", &format!("{events}/f"), forged, 403).await;
}

#[tokio::test]
async fn a_node_gets_tokens_for_its_own_pods_and_for_nothing_else() {
    let hub = Hub::joined().await;
    const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
    for name in ["default", "other"] {
        hub.create(ACCOUNTS, json!({"metadata": {"name": name}})).await;
    }
    let own = hub.create(PODS, pod("own", "gw-1")).await;
    let foreign = hub.create(PODS, pod("foreign", "gw-2")).await;
    let volumes = own["spec"]["volumes"].as_array().unwrap();
    assert!(volumes.iter().any(|volume| volume["name"].as_str().unwrap().starts_with("kube-api-access-")), "{own}");
    let request = |pod: &Value, uid: &Value| {
        let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": pod["metadata"]["name"], "uid": uid});
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"boundObjectRef": bound}})
    };
    let good = request(&own, &own["metadata"]["uid"]);
    let (gw_1, gw_2) = (&node("gw-1"), &node("gw-2"));
    let token = |account: &str| format!("{ACCOUNTS}/{account}/token");
    let issued = hub.check(gw_1, "POST", &token("default"), good.clone(), 201).await;
    assert!(issued.body["status"]["token"].as_str().is_some_and(|token| token.len() > 100), "{}", issued.body);
    let mut audience = good.clone();
    audience["spec"]["audiences"] = json!(["bank.example"]);
    for (who, account, asked, part) in [
        (gw_1, "default", request(&own, &"another".into()), "does not match the UID"),
        (gw_1, "default", request(&own, &Value::Null), "without a uid"),
        (gw_1, "default", request(&foreign, &foreign["metadata"]["uid"]), "on a different node"),
        (gw_1, "default", json!({"spec": {}}), "not bound to a pod"),
        (gw_1, "default", audience, "not authorized to request tokens for this audience"),
        (gw_1, "other", good.clone(), "no relationship found"),
        (gw_2, "default", good, "on a different node"),
    ] {
        let answer = hub.check(who, "POST", &token(account), asked, 403).await;
        assert!(answer.message().contains(part), "{part}: {}", answer.message());
    }
}

const VOLUMES: &str = "/api/v1/persistentvolumes";

/// A volume that is a directory of a node.
fn directory(name: &str, node: &str) -> Value {
    let on_node = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [node]});
    json!({
        "metadata": {
            "name": name, "labels": {api_edge::LABEL_NODE: node},
            "annotations": {"pv.kubernetes.io/provisioned-by": api_edge::volumes::PROVISIONER},
            "finalizers": [api_edge::volumes::FINALIZER],
        },
        "spec": {
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "local": {"path": "/data"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [on_node]}]}},
            "persistentVolumeReclaimPolicy": "Delete",
        },
    })
}

#[tokio::test]
async fn a_node_reads_the_claims_and_volumes_of_its_pods_and_says_which_directories_it_has_removed() {
    let hub = Hub::joined().await;
    let gw = &node("gw-1");
    let with_claim = |name: &str, node: &str, claim: &str| {
        let mut pod = pod(name, node);
        pod["spec"]["volumes"] = json!([{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]);
        pod
    };
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    for name in ["own", "other"] {
        let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        hub.create(claims, json!({"metadata": {"name": name}, "spec": spec})).await;
    }
    hub.create(PODS, with_claim("own", "gw-1", "own")).await;
    hub.create(PODS, with_claim("other", "gw-2", "other")).await;
    for (name, claim) in [("of-own", "own"), ("of-other", "other")] {
        let spec = json!({
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/data"},
            "claimRef": {"namespace": "default", "name": claim},
        });
        hub.create(VOLUMES, json!({"metadata": {"name": name}, "spec": spec})).await;
    }
    hub.create(VOLUMES, directory("mine", "gw-1")).await;
    hub.create(VOLUMES, directory("theirs", "gw-2")).await;
    for (path, code) in [
        (format!("{claims}/own"), 200),
        (format!("{claims}/other"), 403),
        (claims.to_owned(), 403),
        (format!("{VOLUMES}/of-own"), 200),
        (format!("{VOLUMES}/of-other"), 403),
        (format!("{VOLUMES}/mine"), 200),
        (format!("{VOLUMES}/theirs"), 403),
        (format!("{VOLUMES}/absent"), 404),
        (VOLUMES.to_owned(), 403),
        (format!("{VOLUMES}?labelSelector=selvedge.dev%2Fnode%3Dgw-1"), 200),
        (format!("{VOLUMES}?labelSelector=selvedge.dev%2Fnode%3Dgw-2"), 403),
        (format!("{VOLUMES}?labelSelector=selvedge.dev%2Fnode"), 403),
    ] {
        hub.check(gw, "GET", &path, Value::Null, code).await;
    }
    let mine = format!("{VOLUMES}/mine");
    let removed = json!({"metadata": {"finalizers": ["kubernetes.io/pv-protection"]}});
    hub.check(gw, "PATCH", &mine, removed.clone(), 403).await;
    let deleted = hub.call("DELETE", &mine, Value::Null).await;
    assert_eq!(deleted.code, 200, "{}", deleted.body);
    hub.check(gw, "PATCH", &mine, removed.clone(), 403).await;
    let status = json!({"status": {"phase": "Released"}});
    let changed = hub.call("PATCH", &format!("{mine}/status"), status.clone()).await;
    assert_eq!(changed.code, 200, "{}", changed.body);
    for (body, code) in [
        (json!({"metadata": {"labels": {"a": "b"}}}), 403),
        (json!({"metadata": {"finalizers": null}}), 403),
        (json!({"metadata": {"finalizers": ["kubernetes.io/pv-protection"], "annotations": {"a": "b"}}}), 403),
        (json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}}), 403),
    ] {
        hub.check(gw, "PATCH", &mine, body, code).await;
    }
    hub.check(&node("gw-2"), "PATCH", &mine, removed.clone(), 403).await;
    hub.check(gw, "PATCH", &format!("{mine}/status"), status, 403).await;
    hub.check(gw, "DELETE", &mine, Value::Null, 403).await;
    hub.check(gw, "PATCH", &format!("{VOLUMES}/absent"), removed.clone(), 403).await;
    hub.check(gw, "POST", VOLUMES, directory("new", "gw-1"), 403).await;
    hub.check(gw, "PATCH", &mine, removed, 200).await;
}

#[tokio::test]
async fn only_the_box_itself_says_whether_its_updates_are_held() {
    let hub = Hub::joined().await;
    let (gw, own) = (&node("gw-1"), "/api/v1/nodes/gw-1");
    hub.check(gw, "POST", NODES, json!({"metadata": {"name": "gw-1"}}), 201).await;
    hub.check(&node("gw-2"), "POST", NODES, json!({"metadata": {"name": "gw-2"}}), 201).await;
    let hold = |value: Value| json!({"metadata": {"annotations": {api_edge::ANNOTATION_HOLD_UPDATES: value}}});
    hub.check(gw, "PATCH", own, hold("true".into()), 200).await;
    // Not with the status either, nor in the node's name without its key.
    for path in [own, "/api/v1/nodes/gw-1/status"] {
        for value in [Value::Null, json!("false"), json!("2020-01-01T00:00:00Z")] {
            let refused = hub.call("PATCH", path, hold(value.clone())).await;
            assert_eq!(refused.code, 403, "{path} {value}");
            assert!(refused.message().contains("release-updates"), "{}", refused.message());
            hub.check(&node("gw-2"), "PATCH", path, hold(value), 403).await;
        }
    }
    // Whoever changes something else is not in the way, and need not know of it.
    assert_eq!(hub.call("PATCH", own, labels(json!({"site": "hall"}))).await.code, 200);
    assert_eq!(hub.call("PATCH", "/api/v1/nodes/gw-2", hold("true".into())).await.code, 403, "nor for another box");
    hub.check(gw, "PATCH", own, hold(Value::Null), 200).await;
}

#[tokio::test]
async fn a_pod_that_is_bound_becomes_its_variant() {
    let hub = Hub::joined().await;
    for (name, arch) in [("gw-1", "arm64"), ("gw-2", "amd64")] {
        let labels = json!({"kubernetes.io/arch": arch});
        hub.check(&node(name), "POST", NODES, json!({"metadata": {"name": name, "labels": labels}}), 201).await;
    }
    let variants = json!([{"name": "arm", "nodeSelector": {"kubernetes.io/arch": "arm64"}, "containers": [
        {"name": "main", "image": "file:///bin/arm", "env": [{"name": "A", "value": "1"}]},
    ]}]);
    let container = json!({"name": "main", "image": "file:///bin/true"});
    for (name, bound_to, image, variant) in
        [("one", "gw-1", "file:///bin/arm", json!("arm")), ("two", "gw-2", "file:///bin/true", Value::Null)]
    {
        let annotations = json!({"selvedge.dev/variants": variants.to_string(), "selvedge.dev/variant": "mine"});
        let pod = json!({
            "metadata": {"name": name, "annotations": annotations},
            "spec": {"runtimeClassName": "selvedge-process", "containers": [container]},
        });
        hub.create(PODS, pod).await;
        let binding = json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": bound_to}});
        assert_eq!(hub.call("POST", &format!("{PODS}/{name}/binding"), binding).await.code, 201);
        let bound = hub.call("GET", &format!("{PODS}/{name}"), Value::Null).await.body;
        assert_eq!(
            (&bound["spec"]["nodeName"], &bound["spec"]["containers"][0]["image"]),
            (&json!(bound_to), &json!(image))
        );
        assert_eq!(bound["metadata"]["annotations"]["selvedge.dev/variant"], variant, "{name}");
    }
    let misspelt = json!({"selvedge.dev/variants": r#"[{"nodeselector": {}}]"#});
    let pod = json!({"metadata": {"name": "three", "annotations": misspelt}, "spec": {"containers": [container]}});
    let refused = hub.call("POST", PODS, pod).await;
    assert_eq!(refused.code, 422);
    assert!(refused.message().contains("metadata.annotations[selvedge.dev/variants][0]"), "{}", refused.message());
}
