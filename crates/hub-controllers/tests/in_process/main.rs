//! The controllers over the embedded API, in one process and without a socket: what they bring about, seen through the
//! API as a person or a node would.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hub_runtime::kinds::Kind;
use machinery_store::{Durability, Encoded, Expect, Key, Op};
use serde_json::{Value, json};

use crate::hub::{Hub, Source, condition, name_of};

mod endpoints;
mod garbage;
mod hub;
mod protection;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_finds_objects_by_field_as_soon_as_it_says_that_they_are_there() {
    use futures::StreamExt as _;
    use hub_runtime::{Event, Field, Reader as _, StoreReader};
    let hub = Hub::without_controllers().await;
    for field in [machinery_server::OWNER_UID_FIELD, "spec.nodeName", "refs"] {
        assert!(hub.store.is_indexed(field), "{field}");
    }
    let reader = StoreReader::new(hub.store.clone());
    let mut assignments = reader.subscribe(Kind::NodeAssignment);
    assert!(matches!(assignments.next().await, Some(Event::Listed(Kind::NodeAssignment, _))));
    let owner = hub.make(Kind::ConfigMap, json!({"metadata": {"name": "owner", "namespace": "default"}})).await;
    let uid = owner["metadata"]["uid"].as_str().expect("it was created");
    let reference = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid});
    for node in ["gw-1", "gw-2"] {
        let assignment = json!({
            "metadata": {"name": node, "ownerReferences": [reference]}, "spec": {"nodeName": node, "entries": []},
        });
        hub.make(Kind::NodeAssignment, assignment).await;
        assert!(matches!(assignments.next().await, Some(Event::Changed(_))));
        let of_node = reader.by_field(Kind::NodeAssignment, Field::NodeName, node);
        assert_eq!(of_node.iter().map(|one| one.name()).collect::<Vec<_>>(), [node]);
    }
    let owned = reader.by_field(Kind::NodeAssignment, Field::OwnerUid, uid);
    assert_eq!(owned.iter().map(|one| one.name()).collect::<Vec<_>>(), ["gw-1", "gw-2"]);
    assert!(reader.by_field(Kind::ConfigMap, Field::OwnerUid, uid).is_empty());
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_hub_holds_what_every_cluster_has() {
    let hub = Hub::start().await;
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        hub.eventually(Kind::ServiceAccount, (name, "default"), |account| account.is_some()).await;
    }
    hub.eventually(Kind::RuntimeClass, ("", "selvedge-wasm"), |class| class.is_some()).await;
    hub.stop().await;
}

/// A request of a node for its certificate.
fn client_request(name: &str, csr: &str) -> Value {
    json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
        "spec": {
            "request": BASE64.encode(csr), "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
            "usages": ["digital signature", "client auth"],
        },
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_gets_its_certificate_by_asking() {
    let hub = Hub::start().await;
    hub.token("abcdef").await;
    let bootstrapper = hub.as_user("system:bootstrap:abcdef", &["system:bootstrappers"]);
    let key = base_pki::KeyPair::generate().expect("a key can be made");
    let csr =
        base_pki::make_csr(&key, "system:node:gw-1", &["system:nodes".to_owned()], &[]).expect("a CSR can be made");
    let kind = Kind::CertificateSigningRequest;
    bootstrapper.create(kind, client_request("good", &csr)).await.expect("a bootstrapper may ask").expect("it is new");
    let masters = base_pki::make_csr(&key, "system:node:gw-1", &["system:masters".to_owned()], &[]).expect("made");
    bootstrapper
        .create(kind, client_request("greedy", &masters))
        .await
        .expect("a bootstrapper may ask")
        .expect("it is new");

    let signed = hub
        .eventually(kind, ("", "good"), |request| {
            request.is_some_and(|request| request["status"]["certificate"].is_string())
        })
        .await;
    assert_eq!(condition(&signed, "Approved")["reason"], "AutoApproved");
    let refused = hub
        .eventually(kind, ("", "greedy"), |request| {
            request.is_some_and(|request| condition(request, "Failed")["status"] == "True")
        })
        .await;
    assert!(refused["status"]["certificate"].is_null());

    // Its key is bound before its certificate is signed, and the token is used up.
    let identity = hub.get(Kind::NodeIdentity, ("", "gw-1")).await;
    let own = base_pki::parse_csr(&csr).expect("made above").key_sha256;
    assert_eq!(identity["spec"]["keys"], json!([own]));
    assert_eq!(identity["spec"]["labels"], json!({"site": "hall-2"}));
    let other = base_pki::KeyPair::generate().expect("a key can be made");
    let csr = |node: &str| {
        base_pki::make_csr(&other, &format!("system:node:{node}"), &["system:nodes".to_owned()], &[]).expect("made")
    };
    hub.token("fedcba").await;
    hub.node("gw-1", json!({})).await;
    let second = hub.as_user("system:bootstrap:fedcba", &["system:bootstrappers"]);
    for (sender, name, node, part) in [
        (&bootstrapper, "again", "gw-2", "was used already, by gw-1"),
        // The box that joined may have lost its key on the way; another token is another box.
        (&second, "second-box", "gw-1", "another box is joined as node \"gw-1\""),
    ] {
        sender
            .create(kind, client_request(name, &csr(node)))
            .await
            .expect("a bootstrapper may ask")
            .expect("it is new");
        let denied = hub
            .eventually(kind, ("", name), |request| {
                request.is_some_and(|request| condition(request, "Denied")["status"] == "True")
            })
            .await;
        let message = condition(&denied, "Denied")["message"].as_str().unwrap_or_default().to_owned();
        assert!(message.contains(part), "{message}");
    }
    // Who watches over the node sees it, also when the request is deleted.
    let event = hub.event_of("gw-1", "JoinRejected").await;
    let message = event["message"].as_str().unwrap_or_default();
    assert!(message.starts_with("Rejected a request of system:bootstrap:fedcba to join as this node"), "{message}");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_not_lost_to_a_bad_name_or_a_crash() {
    let hub = Hub::start().await;
    let key = base_pki::KeyPair::generate().expect("a key can be made");
    let csr = |node: &str| {
        let pem = base_pki::make_csr(&key, &format!("system:node:{node}"), &["system:nodes".to_owned()], &[]);
        pem.expect("a CSR can be made")
    };
    // The hub recorded the use and stopped before it bound the key.
    let own = base_pki::parse_csr(&csr("gw-1")).expect("made above").key_sha256;
    let secret = json!({
        "metadata": {"name": "bootstrap-token-abcdef", "namespace": "kube-system"},
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {"token-id": "abcdef", "used-by": "gw-1", "unfinished": format!("gw-1={own}")},
    });
    hub.make(Kind::Secret, secret).await;
    hub.token("fedcba").await;
    let kind = Kind::CertificateSigningRequest;
    let bearer = |id: &str| hub.as_user(&format!("system:bootstrap:{id}"), &["system:bootstrappers"]);
    for (id, name, node) in [("fedcba", "bad", "../../etc"), ("abcdef", "cut", "gw-1"), ("fedcba", "next", "gw-2")] {
        let sent = bearer(id).create(kind, client_request(name, &csr(node))).await;
        sent.expect("a bootstrapper may ask").expect("it is new");
        let done = hub
            .eventually(kind, ("", name), |request| {
                request.is_some_and(|request| {
                    request["status"]["certificate"].is_string() || condition(request, "Failed")["status"] == "True"
                })
            })
            .await;
        // A bad name fails at once and uses nothing: the token is good for the next box.
        let message = condition(&done, "Failed")["message"].as_str().unwrap_or_default().to_owned();
        assert_eq!(message.contains("bad name"), name == "bad", "{name}: {message}");
    }
    for id in ["abcdef", "fedcba"] {
        let secret = hub.get(Kind::Secret, ("kube-system", &format!("bootstrap-token-{id}"))).await;
        let grant = hub_pki::join::TokenGrant::of_secret(&secret);
        assert_eq!((grant.used_by.len(), grant.unfinished), (1, Vec::new()), "{id}");
        assert_eq!(secret["data"].get("unfinished"), None, "{id}");
    }
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fleet_objects_reach_their_node_and_report_how_they_fare() {
    let hub = Hub::start().await;
    hub.node("gw-1", json!({"site": "a"})).await;
    let device = json!({
        "metadata": {"name": "box", "namespace": "default"},
        "spec": {"nodeName": "gw-1", "profileName": "host", "serviceName": "host"},
    });
    hub.make(Kind::Device, device).await;
    hub.eventually(Kind::Device, ("default", "box"), |device| {
        device.is_some_and(|device| condition(device, "Accepted")["reason"] == "ProfileNotFound")
    })
    .await;
    let resource = json!({"name": "CPU", "properties": {"valueType": "Float64", "readWrite": "R"}});
    hub.make(Kind::DeviceProfile, json!({"metadata": {"name": "host"}, "spec": {"deviceResources": [resource]}})).await;
    let again = json!({
        "metadata": {"name": "cpu", "namespace": "default"},
        "spec": {"nodeSelector": {"site": "a"}, "sql": "SELECT CPU FROM host", "actions": [{"log": {}}]},
    });
    hub.make(Kind::Rule, again.clone()).await;
    let assignment = hub
        .eventually(Kind::NodeAssignment, ("", "gw-1"), |assignment| {
            assignment.is_some_and(|one| one["spec"]["entries"].as_array().is_some_and(|entries| entries.len() == 3))
        })
        .await;
    assert_eq!(assignment["metadata"]["labels"]["selvedge.dev/node"], "gw-1");
    let kinds: Vec<&str> = assignment["spec"]["entries"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|entry| entry["kind"].as_str())
        .collect();
    assert_eq!(kinds, ["DeviceProfile", "Device", "Rule"]);

    let condition_of = |r#type: &str, status: &str, reason: &str| json!({"type": r#type, "status": status, "reason": reason, "message": "m"});
    let reported = json!({
        "observedGeneration": assignment["metadata"]["generation"],
        "entries": [
            {"kind": "Device", "namespace": "default", "name": "box", "generation": 1, "conditions": [
                condition_of("Accepted", "True", "Accepted"), condition_of("Applied", "True", "Applied"),
                condition_of("Ready", "True", "Running"),
            ]},
            {"kind": "Rule", "namespace": "default", "name": "cpu", "generation": 1, "conditions": [
                condition_of("Accepted", "False", "SqlError"),
            ]},
        ],
    });
    hub.admin.merge_status(Kind::NodeAssignment, ("", "gw-1"), &reported).await.expect("the API takes the status");
    hub.eventually(Kind::Device, ("default", "box"), |device| {
        device.is_some_and(|device| condition(device, "Ready")["status"] == "True" && device["status"]["applied"] == 1)
    })
    .await;
    let rule = hub
        .eventually(Kind::Rule, ("default", "cpu"), |rule| {
            rule.is_some_and(|rule| condition(rule, "Accepted")["reason"] == "SqlError")
        })
        .await;
    assert_eq!(condition(&rule, "Applied")["status"], "False");
    assert_eq!(rule["status"]["failures"][0]["node"], "gw-1");

    // What the node reported of a rule does not count for its namesake.
    hub.admin.delete(Kind::Rule, &rule, None).await.expect("the API deletes it");
    hub.make(Kind::Rule, again).await;
    hub.eventually(Kind::Rule, ("default", "cpu"), |rule| {
        rule.is_some_and(|rule| {
            condition(rule, "Accepted")["status"] == "True" && condition(rule, "Applied")["reason"] == "Waiting"
        })
    })
    .await;
    hub.stop().await;
}

/// Kinds and names of the entries of a node's assignment, in order.
fn entries(assignment: Option<&serde_json::Value>) -> Vec<String> {
    let entries = assignment.and_then(|one| one["spec"]["entries"].as_array()).into_iter().flatten();
    entries
        .map(|entry| {
            [&entry["kind"], &entry["namespace"], &entry["name"]].map(|text| text.as_str().unwrap_or("")).join("/")
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_reach_the_nodes_with_pods_of_their_namespace() {
    let mut hub = Hub::start().await;
    hub.node("gw-1", json!({})).await;
    hub.node("gw-2", json!({})).await;
    hub.make(Kind::Namespace, json!({"metadata": {"name": "line-2"}})).await;
    for namespace in ["default", "line-2"] {
        hub.eventually(Kind::ServiceAccount, (namespace, "default"), |account| account.is_some()).await;
    }
    let service = |namespace: &str, name: &str| {
        let spec = json!({"selector": {"app": name}, "ports": [{"port": 80, "targetPort": "http"}]});
        json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec})
    };
    let pod = |namespace: &str, name: &str, node: &str| {
        let spec = json!({
            "nodeName": node, "runtimeClassName": "selvedge-process", "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": "file:///bin/true"}],
        });
        json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec})
    };
    for (namespace, name) in [("default", "web"), ("default", "db"), ("line-2", "plc")] {
        hub.make(Kind::Service, service(namespace, name)).await;
    }
    hub.settled().await;
    assert_eq!(hub.find(Kind::NodeAssignment, ("", "gw-1")).await, None);
    let first = hub.make(Kind::Pod, pod("default", "a", "gw-1")).await;
    let assigned = |expected: &'static [&'static str]| move |one: Option<&serde_json::Value>| entries(one) == expected;
    let both = assigned(&["Service/default/db", "Service/default/web"]);
    let assignment = hub.eventually(Kind::NodeAssignment, ("", "gw-1"), both).await;
    let spec = &assignment["spec"]["entries"][1]["spec"];
    assert_eq!(spec["ports"], json!([{"protocol": "TCP", "port": 80, "targetPort": "http"}]));
    assert_eq!((&spec["selector"], &spec["type"]), (&json!({"app": "web"}), &json!("ClusterIP")));
    assert!(spec["clusterIPs"][0].is_string() && spec["ipFamilies"].is_null(), "{spec}");

    // A pod more of the namespace, and one that changes, concern nobody; nor does a Service of another one.
    hub.settled().await;
    let version = |one: &serde_json::Value| one["metadata"]["resourceVersion"].clone();
    let second = hub.make(Kind::Pod, pod("default", "b", "gw-1")).await;
    let patch = json!({"metadata": {"labels": {"app": "plc"}}});
    hub.admin.merge(Kind::Service, ("line-2", "plc"), &patch).await.expect("the API takes it");
    hub.make_ready([&second]).await;
    hub.settled().await;
    let now = hub.get(Kind::NodeAssignment, ("", "gw-1")).await;
    assert_eq!(version(&now), version(&assignment));
    assert_eq!(hub.find(Kind::NodeAssignment, ("", "gw-2")).await, None);

    hub.make(Kind::Pod, pod("line-2", "c", "gw-2")).await;
    hub.eventually(Kind::NodeAssignment, ("", "gw-2"), assigned(&["Service/line-2/plc"])).await;
    let patch = json!({"spec": {"selector": {"app": "other"}}});
    hub.admin.merge(Kind::Service, ("default", "web"), &patch).await.expect("the API takes it");
    hub.eventually(Kind::NodeAssignment, ("", "gw-1"), |one| {
        one.is_some_and(|one| one["spec"]["entries"][1]["spec"]["selector"]["app"] == "other")
    })
    .await;
    let web = hub.get(Kind::Service, ("default", "web")).await;
    hub.admin.delete(Kind::Service, &web, None).await.expect("the API deletes it");
    hub.eventually(Kind::NodeAssignment, ("", "gw-1"), assigned(&["Service/default/db"])).await;

    // The same over watches; and a restart writes nothing.
    for source in [Source::Watches, Source::Store] {
        hub.settled().await;
        hub.stop_controllers().await;
        let before = hub.store.current();
        hub.start_controllers(source).await;
        hub.settled().await;
        assert_eq!(hub.store.current(), before);
    }
    // One pod has ended, the other is deleted: what a node was given it is given no more, and it is said.
    let ended = json!({"phase": "Succeeded"});
    hub.admin.merge_status(Kind::Pod, ("default", "a"), &ended).await.expect("the API takes it");
    hub.settled().await;
    let kept = hub.find(Kind::NodeAssignment, ("", "gw-1")).await;
    assert_eq!(entries(kept.as_ref()), ["Service/default/db"]);
    hub.admin.delete(Kind::Pod, &second, Some(0)).await.expect("the API deletes it");
    hub.eventually(Kind::NodeAssignment, ("", "gw-1"), |one| one.is_some_and(|one| entries(Some(one)).is_empty()))
        .await;
    hub.admin.delete(Kind::Pod, &first, Some(0)).await.expect("the API deletes it");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_takes_its_content_along() {
    let hub = Hub::start().await;
    let namespace = hub.make(Kind::Namespace, json!({"metadata": {"name": "line-2"}})).await;
    hub.eventually(Kind::ServiceAccount, ("line-2", "default"), |account| account.is_some()).await;
    hub.make(Kind::ConfigMap, json!({"metadata": {"name": "c", "namespace": "line-2"}, "data": {"a": "b"}})).await;
    hub.make(Kind::Rule, json!({"metadata": {"name": "r", "namespace": "line-2"}, "spec": {"sql": "SELECT 1 FROM s"}}))
        .await;
    hub.admin.delete(Kind::Namespace, &namespace, None).await.expect("the API deletes it");
    hub.eventually(Kind::Namespace, ("", "line-2"), |namespace| namespace.is_none()).await;
    assert!(hub.find(Kind::Rule, ("line-2", "r")).await.is_none());
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_writes_nothing_that_is_right_already() {
    let mut hub = Hub::start().await;
    hub.node("gw-1", json!({})).await;
    hub.node("gw-2", json!({})).await;
    hub.eventually(Kind::ServiceAccount, ("default", "default"), |account| account.is_some()).await;
    let container = json!({"name": "main", "image": "file:///bin/true"});
    for node in ["gw-1", "gw-2"] {
        let spec = json!({"nodeName": node, "runtimeClassName": "selvedge-process", "containers": [container]});
        let pod = json!({"metadata": {"name": format!("on-{node}"), "namespace": "default"}, "spec": spec});
        let pod = hub.make(Kind::Pod, pod).await;
        hub.make_ready([&pod]).await;
    }
    let resource = json!({"name": "CPU", "properties": {"valueType": "Float64", "readWrite": "R"}});
    hub.make(Kind::DeviceProfile, json!({"metadata": {"name": "host"}, "spec": {"deviceResources": [resource]}})).await;
    let device = json!({
        "metadata": {"name": "box", "namespace": "default"},
        "spec": {"nodeName": "gw-1", "profileName": "host", "serviceName": "host"},
    });
    hub.make(Kind::Device, device).await;
    let rule = json!({"metadata": {"name": "r", "namespace": "default"}, "spec": {"sql": "SELECT CPU FROM host", "actions": [{"log": {}}]}});
    hub.make(Kind::Rule, rule).await;
    hub.eventually(Kind::NodeAssignment, ("", "gw-2"), |one| one.is_some()).await;
    for source in [Source::Store, Source::Watches] {
        hub.settled().await;
        hub.stop_controllers().await;
        let before = hub.store.current();
        hub.start_controllers(source).await;
        hub.settled().await;
        assert_eq!(hub.store.current(), before);
    }
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_says_what_holds_it() {
    let hub = Hub::start().await;
    let namespace = hub.make(Kind::Namespace, json!({"metadata": {"name": "line-2"}})).await;
    hub.eventually(Kind::ServiceAccount, ("line-2", "default"), |account| account.is_some()).await;
    let held = json!({"metadata": {"name": "c", "namespace": "line-2", "finalizers": ["x.io/mine"]}});
    hub.make(Kind::ConfigMap, held).await;
    hub.admin.delete(Kind::Namespace, &namespace, None).await.expect("the API deletes it");
    let held = hub
        .eventually(Kind::Namespace, ("", "line-2"), |namespace| {
            namespace.is_some_and(|one| condition(one, "NamespaceFinalizersRemaining")["status"] == "True")
        })
        .await;
    let message = condition(&held, "NamespaceContentRemaining")["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.contains("configmaps. has 1 resource instances"), "{message}");
    let patch = json!({"metadata": {"finalizers": null}});
    hub.admin.merge(Kind::ConfigMap, ("line-2", "c"), &patch).await.expect("the API takes it");
    hub.eventually(Kind::Namespace, ("", "line-2"), |namespace| namespace.is_none()).await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_waits_for_the_finalizers_of_others() {
    let hub = Hub::start().await;
    let mut namespace = hub.make(Kind::Namespace, json!({"metadata": {"name": "line-2"}})).await;
    namespace["spec"]["finalizers"] = json!(["kubernetes", "example.com/mine"]);
    hub.admin.replace_subresource(Kind::Namespace, "line-2", "finalize", &namespace).await.expect("the API takes it");
    hub.admin.delete(Kind::Namespace, &namespace, None).await.expect("the API takes it");
    let mut waits = hub
        .eventually(Kind::Namespace, ("", "line-2"), |namespace| {
            namespace.is_none_or(|one| one["spec"]["finalizers"] == json!(["example.com/mine"]))
        })
        .await;
    assert_eq!(waits["metadata"]["uid"], namespace["metadata"]["uid"], "it waits for the other finalizer");
    hub.settled().await;
    waits["spec"]["finalizers"] = json!([]);
    hub.admin.replace_subresource(Kind::Namespace, "line-2", "finalize", &waits).await.expect("the API takes it");
    hub.eventually(Kind::Namespace, ("", "line-2"), |namespace| namespace.is_none()).await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_lost_its_last_owner_goes() {
    let hub = Hub::start().await;
    let config = |name: &str, owners: &[&Value]| {
        let owners: Vec<Value> = owners
            .iter()
            .map(|owner| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name_of(owner), "uid": owner["metadata"]["uid"]}))
            .collect();
        json!({"metadata": {"name": name, "namespace": "default", "ownerReferences": owners}})
    };
    let one = hub.make(Kind::ConfigMap, config("one", &[])).await;
    let two = hub.make(Kind::ConfigMap, config("two", &[])).await;
    hub.make(Kind::ConfigMap, config("of-one", &[&one])).await;
    let both = hub.make(Kind::ConfigMap, config("of-both", &[&one, &two])).await;
    hub.make(Kind::Secret, json!({"metadata": config("of-of-both", &[&both])["metadata"]})).await;
    hub.settled().await;
    hub.admin.delete(Kind::ConfigMap, &one, None).await.expect("the API deletes it");
    hub.eventually(Kind::ConfigMap, ("default", "of-one"), |object| object.is_none()).await;
    hub.eventually(Kind::ConfigMap, ("default", "of-both"), |object| {
        object
            .is_some_and(|object| object["metadata"]["ownerReferences"].as_array().is_some_and(|list| list.len() == 1))
    })
    .await;
    hub.admin.delete(Kind::ConfigMap, &two, None).await.expect("the API deletes it");
    hub.eventually(Kind::Secret, ("default", "of-of-both"), |object| object.is_none()).await;
    // One that names an owner that never was goes too.
    let mut ghost = one.clone();
    ghost["metadata"]["uid"] = json!("00000000-0000-4000-8000-000000000000");
    hub.make(Kind::ConfigMap, config("of-nobody", &[&ghost])).await;
    hub.eventually(Kind::ConfigMap, ("default", "of-nobody"), |object| object.is_none()).await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_serving_certificate_waits_for_the_nodes_addresses() {
    let hub = Hub::start().await;
    let node = hub.as_user("system:node:gw-1", &["system:nodes"]);
    let key = base_pki::KeyPair::generate().expect("a key can be made");
    let request = |name: &str, sans: &[&str]| {
        let sans: Vec<base_pki::San> = sans.iter().map(|san| (*san).into()).collect();
        let orgs = ["system:nodes".to_owned()];
        let csr = base_pki::make_csr(&key, "system:node:gw-1", &orgs, &sans).expect("a CSR can be made");
        json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
            "spec": {
                "request": BASE64.encode(csr), "signerName": "kubernetes.io/kubelet-serving",
                "usages": ["digital signature", "server auth"],
            },
        })
    };
    let kind = Kind::CertificateSigningRequest;
    for (name, sans) in
        [("good", ["gw-1", "10.0.0.7"]), ("greedy", ["gw-1", "10.0.0.1"]), ("hub", ["gw-1", "hub.example.com"])]
    {
        node.create(kind, request(name, &sans)).await.expect("a node may request").expect("it is new");
    }
    hub.eventually(kind, ("", "hub"), |one| one.is_some_and(|one| condition(one, "Failed")["status"] == "True")).await;
    hub.settled().await;
    let waiting = hub.get(kind, ("", "good")).await;
    assert!(condition(&waiting, "Approved").is_null());
    let addresses = json!([{"type": "InternalIP", "address": "10.0.0.7"}, {"type": "Hostname", "address": "gw-1"}]);
    hub.make(Kind::Node, json!({"metadata": {"name": "gw-1"}, "status": {"addresses": addresses}})).await;
    let signed =
        hub.eventually(kind, ("", "good"), |one| one.is_some_and(|one| one["status"]["certificate"].is_string())).await;
    let pem = BASE64.decode(signed["status"]["certificate"].as_str().unwrap_or_default()).expect("it is base64");
    let pem = String::from_utf8(pem).expect("it is PEM");
    assert!(base_pki::validity(&pem).is_ok());
    hub.settled().await;
    let greedy = hub.get(kind, ("", "greedy")).await;
    assert!(condition(&greedy, "Approved").is_null(), "an address that the node has not is not the node's");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_part_of_an_assignment_is_its_nodes_whatever_its_name() {
    let mut hub = Hub::without_controllers().await;
    let stolen =
        json!({"metadata": {"name": "gw-1"}, "spec": {"nodeName": "another", "part": 1, "parts": 2, "entries": []}});
    hub.make(Kind::NodeAssignment, stolen).await;
    hub.node("another", json!({"site": "b"})).await;
    hub.node("gw-1", json!({"site": "a"})).await;
    let rule = json!({
        "metadata": {"name": "r", "namespace": "default"},
        "spec": {"nodeSelector": {"site": "a"}, "sql": "SELECT CPU FROM host", "actions": [{"log": {}}]},
    });
    hub.make(Kind::Rule, rule).await;
    // A rule for the other node as well, so that its part is not superfluous but desired under another name.
    hub.start_controllers(Source::Store).await;
    let event = hub.event_of("gw-1", "AssignmentNameTaken").await;
    assert!(event["message"].as_str().is_some_and(|message| message.contains("another")), "{event}");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_goes_with_its_node() {
    let mut hub = Hub::without_controllers().await;
    for source in [Source::Store, Source::Watches] {
        hub.start_controllers(source).await;
        let node = hub.make(Kind::Node, json!({"metadata": {"name": "gw-1"}})).await;
        let lease = json!({
            "metadata": {"name": "gw-1", "namespace": "kube-node-lease"},
            "spec": {"holderIdentity": "gw-1", "leaseDurationSeconds": 40},
        });
        hub.make(Kind::Lease, lease).await;
        hub.settled().await;
        // A kubelet sets the owner once it knows its Node's uid, which may be after the first renewal.
        let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "gw-1", "uid": node["metadata"]["uid"]});
        let owned = json!({"metadata": {"ownerReferences": [owner]}});
        hub.admin.merge(Kind::Lease, ("kube-node-lease", "gw-1"), &owned).await.expect("the API takes it");
        hub.settled().await;
        hub.admin.delete(Kind::Node, &node, None).await.expect("the API deletes it");
        hub.eventually(Kind::Lease, ("kube-node-lease", "gw-1"), |lease| lease.is_none()).await;
        hub.stop_controllers().await;
    }
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_a_person_approves_binds_its_key() {
    let hub = Hub::start().await;
    let kind = Kind::CertificateSigningRequest;
    let csr = || {
        let key = base_pki::KeyPair::generate().expect("a key can be made");
        base_pki::make_csr(&key, "system:node:gw-1", &["system:nodes".to_owned()], &[]).expect("a CSR can be made")
    };
    // Neither the node itself nor a token has sent them.
    for (at, name) in ["first", "second"].into_iter().enumerate() {
        let csr = csr();
        let mut request = client_request(name, &csr);
        hub.admin.create(kind, request.clone()).await.expect("the API takes it").expect("it is new");
        hub.settled().await;
        request = hub.get(kind, ("", name)).await;
        assert!(request["status"]["certificate"].is_null(), "{request}");
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let approved = json!({
            "type": "Approved", "status": "True", "reason": "KubectlApprove", "message": "m", "lastUpdateTime": now,
        });
        request["status"]["conditions"] = json!([approved]);
        assert!(hub.admin.replace_subresource(kind, name, "approval", &request).await.expect("the API takes it"));
        hub.eventually(kind, ("", name), |one| one.is_some_and(|one| one["status"]["certificate"].is_string())).await;
        // The second replaces the broken box.
        let identity = hub.find(Kind::NodeIdentity, ("", "gw-1")).await;
        let spec = identity.expect("its key is bound")["spec"].clone();
        let own = base_pki::parse_csr(&csr).expect("made above").key_sha256;
        assert_eq!((&spec["keys"], &spec["generation"]), (&json!([own]), &json!(at + 1)));
    }
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_whose_identity_cannot_be_read_is_not_free() {
    let hub = Hub::start().await;
    hub.token("abcdef").await;
    // As a newer version may write it.
    let identity = json!({
        "apiVersion": "edge.selvedge.dev/v1alpha1", "kind": "NodeIdentity", "metadata": {"name": "gw-1", "uid": "u"},
        "spec": {"state": "Suspended", "keys": ["k"]},
    });
    let bytes = serde_json::to_vec(&identity).expect("it is JSON").into();
    let put = Op::Put {
        key: Key::new(hub_policy::NODE_IDENTITIES, "", "gw-1"),
        expect: Expect::Absent,
        encode: Box::new(move |_| Encoded { bytes, ..Encoded::default() }),
    };
    hub.store.commit(vec![put], Durability::Group).await.expect("the store takes it");
    let key = base_pki::KeyPair::generate().expect("a key can be made");
    let orgs = ["system:nodes".to_owned()];
    let csr = base_pki::make_csr(&key, "system:node:gw-1", &orgs, &[]).expect("a CSR can be made");
    let kind = Kind::CertificateSigningRequest;
    let bootstrapper = hub.as_user("system:bootstrap:abcdef", &["system:bootstrappers"]);
    bootstrapper.create(kind, client_request("r", &csr)).await.expect("a bootstrapper may ask").expect("it is new");
    let status = hub.failing("csr").await;
    assert!(status.contains("the NodeIdentity gw-1 cannot be read"), "{status}");
    let request = hub.get(kind, ("", "r")).await;
    assert!(request["status"]["conditions"].is_null(), "{request}");
    let secret = hub.get(Kind::Secret, ("kube-system", "bootstrap-token-abcdef")).await;
    assert_eq!(hub_pki::join::TokenGrant::of_secret(&secret).used_by, [""; 0]);
    hub.stop().await;
}
