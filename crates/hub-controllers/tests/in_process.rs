//! The controllers over the embedded API, in one process and without a socket: what they bring about, seen through the
//! API as a person or a node would.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hub_controllers::Controllers;
use hub_controllers::kinds::Kind;
use hub_controllers::writer::Writer;
use machinery_server::{
    Admission, AdmissionRequest, Identity, NoNodes, Operation, Refusal, Server, ServerConfig, StandardAuthorizer,
};
use machinery_store::{Store, StoreOptions};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// Refuses pods of the app `refused`, as a quota or a policy would.
struct RefusePods;

impl Admission for RefusePods {
    fn admit(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Refusal> {
        if &*request.info.kind == "Pod"
            && request.operation == Operation::Create
            && object["metadata"]["labels"]["app"] == "a-refused"
        {
            return Err(Refusal::Forbidden("not this one".to_owned()));
        }
        Ok(())
    }
}

struct Hub {
    server: Server,
    admin: Writer,
    shutdown: CancellationToken,
    controllers: Controllers,
    _dir: tempfile::TempDir,
}

impl Hub {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let store = Store::open(dir.path(), StoreOptions::default()).expect("a new store opens");
        let shutdown = CancellationToken::new();
        let server = Server::new(ServerConfig {
            store,
            authorizer: Arc::new(StandardAuthorizer),
            admission: vec![Box::new(RefusePods)],
            node_dialer: Arc::new(NoNodes),
            extensions: Vec::new(),
            address: "127.0.0.1:6443".to_owned(),
            metrics: base_observe::Metrics::new(),
            shutdown: shutdown.clone(),
        })
        .expect("a new store lists");
        let client = |user: &str, groups: &[&str]| {
            kube::Client::new(server.in_process(Identity::new(user, groups.iter().copied())), "default")
        };
        let ca = Arc::new(base_pki::Ca::create("test").expect("a CA can be made"));
        let controllers =
            Controllers::start(client("system:selvedge:controllers", &["system:masters"]), ca, shutdown.clone())
                .await
                .expect("the controllers start");
        let admin = Writer::new(client("admin", &["system:masters"]));
        Self { server, admin, shutdown, controllers, _dir: dir }
    }

    fn as_user(&self, user: &str, groups: &[&str]) -> Writer {
        let identity = Identity::new(user, groups.iter().copied());
        Writer::new(kube::Client::new(self.server.in_process(identity), "default"))
    }

    async fn make(&self, kind: Kind, object: Value) -> Value {
        let mut full = json!({"apiVersion": kind.resource().api_version, "kind": kind.name()});
        for (field, value) in object.as_object().expect("the test's object is one") {
            full[field] = value.clone();
        }
        self.admin.create(kind, full).await.expect("the API takes it").expect("it is new")
    }

    async fn node(&self, name: &str, labels: Value) {
        self.make(Kind::Node, json!({"metadata": {"name": name, "labels": labels}})).await;
    }

    /// Waits for a state of one object; says the last one seen when it does not come.
    async fn eventually(&self, kind: Kind, key: (&str, &str), holds: impl Fn(Option<&Value>) -> bool) -> Value {
        let mut last = None;
        for _ in 0..3000 {
            last = self.admin.get_now(kind, key).await.expect("the API answers");
            if holds(last.as_ref()) {
                return last.unwrap_or_default();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{} {key:?} did not come to be so in a minute; last seen: {last:?}", kind.name());
    }

    /// Waits until there are so many pods that are not on their way out.
    async fn pods(&self, namespace: &str, count: usize) -> Vec<Value> {
        let mut pods = Vec::new();
        for _ in 0..3000 {
            pods = self.admin.list_now(Kind::Pod, namespace).await.expect("the API answers");
            pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
            if pods.len() == count {
                return pods;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{count} pods did not come to be in a minute; last seen: {pods:?}");
    }

    /// What a kubelet does once a pod has ended.
    async fn kubelet_ends_pods(&self, namespace: &str) {
        for pod in self.admin.list_now(Kind::Pod, namespace).await.expect("the API answers") {
            if !pod["metadata"]["deletionTimestamp"].is_null() {
                self.admin.delete(Kind::Pod, &pod, Some(0)).await.expect("the API deletes it");
            }
        }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(60), self.controllers.wait()).await;
        assert!(ended.is_ok(), "the controllers end when told to");
    }
}

fn daemon_set(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "runtimeClassName": "selvedge-process",
                    "nodeSelector": {"selvedge.dev/role": "gateway"},
                    "containers": [{"name": "main", "image": "file:///bin/sleep"}],
                },
            },
        },
    })
}

fn condition<'a>(object: &'a Value, r#type: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().find(|one| one["type"] == r#type).unwrap_or(&Value::Null)
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_set_follows_the_labels_of_nodes() {
    let hub = Hub::start().await;
    hub.node("gw-1", json!({"selvedge.dev/role": "gateway"})).await;
    hub.node("gw-2", json!({})).await;
    // One that every pod of is refused stands before the good one in every list.
    hub.make(Kind::DaemonSet, daemon_set("a-refused")).await;
    hub.make(Kind::DaemonSet, daemon_set("agent")).await;
    let pods = hub.pods("default", 1).await;
    assert_eq!(pods[0]["spec"]["nodeName"], "gw-1");
    assert_eq!(pods[0]["metadata"]["ownerReferences"][0]["name"], "agent");

    let role = |role: Value| json!({"metadata": {"labels": {"selvedge.dev/role": role}}});
    hub.admin.merge(Kind::Node, ("", "gw-2"), &role("gateway".into())).await.expect("the node takes a label");
    hub.pods("default", 2).await;
    hub.eventually(Kind::DaemonSet, ("default", "agent"), |set| {
        set.is_some_and(|set| set["status"]["desiredNumberScheduled"] == 2)
    })
    .await;
    hub.admin.merge(Kind::Node, ("", "gw-1"), &role(Value::Null)).await.expect("the label goes");
    let pods = hub.pods("default", 1).await;
    assert_eq!(pods[0]["spec"]["nodeName"], "gw-2");
    hub.kubelet_ends_pods("default").await;

    let set =
        hub.admin.get_now(Kind::DaemonSet, ("default", "agent")).await.expect("the API answers").expect("it is there");
    hub.admin.delete(Kind::DaemonSet, &set, None).await.expect("the API deletes it");
    hub.pods("default", 0).await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_template_replaces_pods_one_after_the_other() {
    let hub = Hub::start().await;
    for node in ["gw-1", "gw-2"] {
        hub.node(node, json!({"selvedge.dev/role": "gateway"})).await;
    }
    hub.make(Kind::DaemonSet, daemon_set("agent")).await;
    let ready = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    for pod in hub.pods("default", 2).await {
        let name = pod["metadata"]["name"].as_str().expect("it has a name");
        hub.admin.merge_status(Kind::Pod, ("default", name), &ready).await.expect("the API takes the status");
    }
    hub.eventually(Kind::DaemonSet, ("default", "agent"), |set| {
        set.is_some_and(|set| set["status"]["numberReady"] == 2)
    })
    .await;
    let patch = json!({"spec": {"template": {"metadata": {"annotations": {"new": "yes"}}}}});
    hub.admin.merge(Kind::DaemonSet, ("default", "agent"), &patch).await.expect("the API takes the template");
    hub.pods("default", 1).await;
    hub.kubelet_ends_pods("default").await;
    let pods = hub.pods("default", 2).await;
    assert_eq!(pods.iter().filter(|pod| pod["metadata"]["annotations"]["new"] == "yes").count(), 1);
    hub.eventually(Kind::DaemonSet, ("default", "agent"), |set| {
        set.is_some_and(|set| set["status"]["updatedNumberScheduled"] == 1 && set["status"]["observedGeneration"] == 2)
    })
    .await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_gets_its_certificate_by_asking() {
    let hub = Hub::start().await;
    let bootstrapper = hub.as_user("system:bootstrap:abcdef", &["system:bootstrappers"]);
    let key = base_pki::KeyPair::generate().expect("a key can be made");
    let csr =
        base_pki::make_csr(&key, "system:node:gw-1", &["system:nodes".to_owned()], &[]).expect("a CSR can be made");
    let request = |name: &str, csr: &str| {
        json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
            "spec": {
                "request": BASE64.encode(csr), "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
                "usages": ["digital signature", "client auth"],
            },
        })
    };
    let kind = Kind::CertificateSigningRequest;
    bootstrapper.create(kind, request("good", &csr)).await.expect("a bootstrapper may ask").expect("it is new");
    let masters = base_pki::make_csr(&key, "system:node:gw-1", &["system:masters".to_owned()], &[]).expect("made");
    bootstrapper.create(kind, request("greedy", &masters)).await.expect("a bootstrapper may ask").expect("it is new");

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
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fleet_objects_reach_their_node_and_tell_how_they_fare() {
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
    let told = json!({
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
    hub.admin.merge_status(Kind::NodeAssignment, ("", "gw-1"), &told).await.expect("the API takes the status");
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

    // What the node told of a rule does not count for its namesake.
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
    assert!(hub.admin.get_now(Kind::Rule, ("line-2", "r")).await.expect("the API answers").is_none());
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_nobody_places_says_so() {
    let hub = Hub::start().await;
    let pod = json!({
        "metadata": {"name": "alone", "namespace": "default"},
        "spec": {"runtimeClassName": "selvedge-process", "containers": [{"name": "main", "image": "file:///bin/true"}]},
    });
    hub.eventually(Kind::ServiceAccount, ("default", "default"), |account| account.is_some()).await;
    hub.make(Kind::Pod, pod).await;
    hub.eventually(Kind::Pod, ("default", "alone"), |pod| {
        pod.is_some_and(|pod| condition(pod, "PodScheduled")["reason"] == "NoScheduler")
    })
    .await;
    hub.stop().await;
}
