//! The controllers over the embedded API, in one process and without a socket: what they bring about, seen through the
//! API as a person or a node would.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hub_controllers::kinds::Kind;
use hub_controllers::runtime::{Reader, Reflector, StoreReader};
use hub_controllers::writer::Writer;
use hub_controllers::{Authorities, Controllers, ControllersConfig, NamePolicy};
use machinery_server::{
    Admission, AdmissionRequest, Identity, NoNodes, Operation, Refusal, Server, ServerConfig, StandardAuthorizer,
};
use machinery_store::{Store, StoreOptions};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// Rejects pods of the app `a-rejected`, as a quota or a policy would.
struct RejectPods;

impl Admission for RejectPods {
    fn admit(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Refusal> {
        if &*request.info.kind == "Pod"
            && request.operation == Operation::Create
            && object["metadata"]["labels"]["app"] == "a-rejected"
        {
            return Err(Refusal::Forbidden("not this one".to_owned()));
        }
        Ok(())
    }
}

/// What the controllers read from.
#[derive(Clone, Copy)]
enum Source {
    /// The store of the embedded API.
    Store,
    /// Watches, as over a real cluster.
    Watches,
}

struct Hub {
    server: Server,
    store: Store,
    admin: Writer,
    serving_ca: Arc<base_pki::Ca>,
    running: Option<(Controllers, CancellationToken)>,
    /// Creations of pods by the controllers: how many are in flight, and the most that ever were.
    in_flight: Arc<(AtomicUsize, AtomicUsize)>,
    _dir: tempfile::TempDir,
}

impl Hub {
    async fn start() -> Self {
        let mut hub = Self::without_controllers().await;
        hub.start_controllers(Source::Store).await;
        hub
    }

    /// A hub with all its kinds, in which nothing happens by itself yet.
    async fn without_controllers() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let store = Store::open(dir.path(), StoreOptions::default()).expect("a new store opens");
        let server = Server::new(ServerConfig {
            store: store.clone(),
            authorizer: Arc::new(StandardAuthorizer),
            admission: vec![Box::new(RejectPods)],
            node_dialer: Arc::new(NoNodes),
            extensions: Vec::new(),
            address: "127.0.0.1:6443".to_owned(),
            metrics: base_observe::Metrics::new(),
            shutdown: CancellationToken::new(),
        })
        .expect("a new store lists");
        let identity = Identity::new("admin", ["system:masters"]);
        let client = kube::Client::new(server.in_process(identity), "default");
        Controllers::bootstrap(&client).await.expect("a new hub takes what it needs");
        Self {
            server,
            store,
            admin: Writer::new(client),
            serving_ca: Arc::new(base_pki::Ca::create("serving").expect("a CA can be made")),
            running: None,
            in_flight: Arc::default(),
            _dir: dir,
        }
    }

    async fn start_controllers(&mut self, source: Source) {
        let shutdown = CancellationToken::new();
        let identity = Identity::new("system:selvedge:controllers", ["system:masters"]);
        let transport = Counted { inner: self.server.in_process(identity), in_flight: self.in_flight.clone() };
        let client = kube::Client::new(transport, "default");
        let reader: Arc<dyn Reader> = match source {
            Source::Store => StoreReader::start(self.store.clone(), &shutdown),
            Source::Watches => Reflector::start(&client, hub_controllers::READ, &shutdown),
        };
        let config = ControllersConfig {
            client,
            reader,
            authorities: Authorities {
                client: Arc::new(base_pki::Ca::create("client").expect("a CA can be made")),
                serving: self.serving_ca.clone(),
            },
            names: NamePolicy { hub_names: vec!["hub.example.com".into()] },
        };
        let controllers = Controllers::start(config, shutdown.clone()).await.expect("the controllers start");
        self.running = Some((controllers, shutdown));
    }

    async fn stop_controllers(&mut self) {
        let Some((controllers, shutdown)) = self.running.take() else { return };
        shutdown.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(60), controllers.wait()).await;
        assert!(ended.is_ok(), "the controllers end at shutdown");
    }

    /// Waits until no controller has anything to do now.
    async fn settled(&self) {
        let (controllers, _) = self.running.as_ref().expect("the controllers run");
        let mut last = None;
        for _ in 0..3000 {
            let status = controllers.status().snapshot();
            let is_idle = status.iter().all(|one| one.synced && one.queue_length + one.running + one.failing == 0);
            let state = (self.store.current(), status.iter().map(|one| one.processed).sum::<u64>());
            if is_idle && last == Some(state) {
                return;
            }
            last = Some(state);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the controllers did not come to rest: {:?}", controllers.status().snapshot());
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

    async fn stop(mut self) {
        self.stop_controllers().await;
    }
}

/// Counts creations of pods.
#[derive(Clone)]
struct Counted<S> {
    inner: S,
    in_flight: Arc<(AtomicUsize, AtomicUsize)>,
}

impl<B, S> tower::Service<http::Request<B>> for Counted<S>
where
    S: tower::Service<http::Request<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let is_pod = request.method() == http::Method::POST && request.uri().path().ends_with("/pods");
        let (in_flight, response) = (self.in_flight.clone(), self.inner.call(request));
        Box::pin(async move {
            if !is_pod {
                return response.await;
            }
            in_flight.1.fetch_max(in_flight.0.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let response = response.await;
            in_flight.0.fetch_sub(1, Ordering::SeqCst);
            response
        })
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
    // One of which every pod is rejected comes before the good one in every list.
    hub.make(Kind::DaemonSet, daemon_set("a-rejected")).await;
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

fn ready() -> Value {
    json!({"phase": "Running", "conditions": [
        {"type": "Ready", "status": "True", "lastTransitionTime": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()},
    ]})
}

fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().expect("every object has a name")
}

impl Hub {
    async fn make_ready(&self, pods: &[Value]) {
        for pod in pods {
            let key = ("default", name_of(pod));
            self.admin.merge_status(Kind::Pod, key, &ready()).await.expect("the API takes the status");
        }
    }

    async fn set_with(&self, name: &str, holds: impl Fn(&Value) -> bool) -> Value {
        self.eventually(Kind::DaemonSet, ("default", name), |set| set.is_some_and(&holds)).await
    }

    async fn gateways(&self, names: &[&str]) {
        for name in names {
            self.node(name, json!({"selvedge.dev/role": "gateway"})).await;
        }
    }

    async fn new_template(&self, set: &str) {
        let patch = json!({"spec": {"template": {"metadata": {"annotations": {"new": "yes"}}}}});
        self.admin.merge(Kind::DaemonSet, ("default", set), &patch).await.expect("the API takes the template");
    }

    async fn event_of(&self, name: &str, reason: &str) -> Value {
        for _ in 0..3000 {
            let namespaces = ["default"];
            for namespace in namespaces {
                let events = self.admin.list_now(Kind::Event, namespace).await.expect("the API lists");
                let found = events
                    .into_iter()
                    .find(|event| event["involvedObject"]["name"] == name && event["reason"] == reason);
                if let Some(event) = found {
                    return event;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no Event {reason} of {name} came in a minute");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_watches_a_daemon_set_follows_the_labels_of_nodes_as_well() {
    let mut hub = Hub::without_controllers().await;
    hub.start_controllers(Source::Watches).await;
    hub.gateways(&["gw-1", "gw-2"]).await;
    hub.make(Kind::DaemonSet, daemon_set("agent")).await;
    let pods = hub.pods("default", 2).await;
    hub.make_ready(&pods).await;
    hub.set_with("agent", |set| set["status"]["numberAvailable"] == 2).await;
    let set = hub.set_with("agent", |_| true).await;
    hub.admin.delete(Kind::DaemonSet, &set, None).await.expect("the API deletes it");
    hub.pods("default", 0).await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphans_are_adopted_by_a_set_of_the_same_name() {
    let hub = Hub::start().await;
    hub.gateways(&["gw-1"]).await;
    let set = hub.make(Kind::DaemonSet, daemon_set("agent")).await;
    let pod = hub.pods("default", 1).await.remove(0);
    // What `--cascade=orphan` leaves: the set goes, its dependents lose their owner.
    for kind in [Kind::Pod, Kind::ControllerRevision] {
        for object in hub.admin.list_now(kind, "default").await.expect("the API lists") {
            let patch = json!({"metadata": {"ownerReferences": null}});
            hub.admin.merge(kind, ("default", name_of(&object)), &patch).await.expect("the API takes it");
        }
        if kind == Kind::Pod {
            hub.admin.delete(Kind::DaemonSet, &set, None).await.expect("the API deletes it");
        }
    }
    hub.eventually(Kind::DaemonSet, ("default", "agent"), |set| set.is_none()).await;
    let again = hub.make(Kind::DaemonSet, daemon_set("agent")).await;
    let adopted = hub
        .eventually(Kind::Pod, ("default", name_of(&pod)), |pod| {
            pod.is_some_and(|pod| pod["metadata"]["ownerReferences"][0]["uid"] == again["metadata"]["uid"])
        })
        .await;
    assert_eq!(adopted["metadata"]["uid"], pod["metadata"]["uid"]);
    let is_whole =
        |set: &Value| set["status"]["updatedNumberScheduled"] == 1 && set["status"]["currentNumberScheduled"] == 1;
    hub.set_with("agent", is_whole).await;
    hub.settled().await;
    hub.pods("default", 1).await;
    hub.admin.delete(Kind::DaemonSet, &again, None).await.expect("the API deletes it");
    hub.pods("default", 0).await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_whose_labels_match_no_more_is_released_and_replaced() {
    let hub = Hub::start().await;
    hub.gateways(&["gw-1"]).await;
    hub.make(Kind::DaemonSet, daemon_set("agent")).await;
    let pod = hub.pods("default", 1).await.remove(0);
    let patch = json!({"metadata": {"labels": {"app": "debugged"}}});
    hub.admin.merge(Kind::Pod, ("default", name_of(&pod)), &patch).await.expect("the API takes the label");
    let released = hub
        .eventually(Kind::Pod, ("default", name_of(&pod)), |pod| {
            pod.is_some_and(|pod| pod["metadata"]["ownerReferences"].as_array().is_none_or(Vec::is_empty))
        })
        .await;
    assert!(released["metadata"]["deletionTimestamp"].is_null());
    // The name is taken by what is a stranger now: the replacement has another.
    let pods = hub.pods("default", 2).await;
    assert_eq!(pods.iter().filter(|pod| pod["metadata"]["labels"]["app"] == "agent").count(), 1);
    hub.event_of("agent", "FailedCreate").await;
    let set = hub.set_with("agent", |set| set["status"]["currentNumberScheduled"] == 1).await;
    assert_eq!(set["status"]["collisionCount"], 1);
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_available_when_it_was_ready_for_long_enough() {
    let hub = Hub::start().await;
    hub.gateways(&["gw-1", "gw-2"]).await;
    let mut set = daemon_set("agent");
    set["spec"]["minReadySeconds"] = json!(3);
    hub.make(Kind::DaemonSet, set).await;
    let pods = hub.pods("default", 2).await;
    hub.make_ready(&pods).await;
    let young = hub.set_with("agent", |set| set["status"]["numberReady"] == 2).await;
    assert_eq!((&young["status"]["numberAvailable"], &young["status"]["numberUnavailable"]), (&json!(0), &json!(2)));
    // Nothing changes any more: the controller looks again by itself.
    hub.set_with("agent", |set| set["status"]["numberAvailable"] == 2).await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_surge_brings_the_new_pod_up_before_the_old_one_goes() {
    let hub = Hub::start().await;
    hub.gateways(&["gw-1", "gw-2"]).await;
    let mut set = daemon_set("agent");
    set["spec"]["updateStrategy"] = json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    hub.make(Kind::DaemonSet, set).await;
    let old = hub.pods("default", 2).await;
    hub.make_ready(&old).await;
    hub.set_with("agent", |set| set["status"]["numberAvailable"] == 2).await;
    hub.new_template("agent").await;
    for _ in 0..2 {
        let pods = hub.pods("default", 3).await;
        hub.settled().await;
        let new: Vec<Value> = pods.into_iter().filter(|pod| pod["status"]["phase"] == "Pending").collect();
        assert_eq!(new.len(), 1, "one node surges at a time");
        hub.make_ready(&new).await;
        hub.eventually(Kind::Pod, ("default", name_of(&new[0])), |pod| {
            pod.is_some_and(|pod| pod["status"]["phase"] == "Running")
        })
        .await;
        // The old pod of that node is told to end; the next node's turn comes with it.
        hub.settled().await;
        hub.kubelet_ends_pods("default").await;
    }
    hub.set_with("agent", |set| set["status"]["updatedNumberScheduled"] == 2).await;
    let pods = hub.pods("default", 2).await;
    assert!(pods.iter().all(|pod| pod["metadata"]["annotations"]["new"] == "yes"));
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_default_that_a_new_version_adds_rolls_nothing() {
    let mut hub = Hub::without_controllers().await;
    hub.gateways(&["gw-1"]).await;
    let set = hub.make(Kind::DaemonSet, daemon_set("agent")).await;
    // What an earlier version left, whose API did not know `dnsPolicy` yet.
    let mut template = set["spec"]["template"].clone();
    assert!(template["spec"].as_object_mut().expect("it is one").remove("dnsPolicy").is_some());
    template["$patch"] = json!("replace");
    let owner = json!([{
        "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "agent", "uid": set["metadata"]["uid"], "controller": true,
    }]);
    let labels = json!({"app": "agent", "controller-revision-hash": "earlier"});
    let revision = json!({
        "metadata": {"name": "agent-earlier", "namespace": "default", "labels": labels, "ownerReferences": owner},
        "data": {"spec": {"template": template}}, "revision": 1,
    });
    hub.make(Kind::ControllerRevision, revision).await;
    let mut spec = set["spec"]["template"]["spec"].clone();
    spec["nodeName"] = json!("gw-1");
    let pod = json!({
        "metadata": {"name": "agent-x", "namespace": "default", "labels": labels, "ownerReferences": owner}, "spec": spec,
    });
    hub.make(Kind::Pod, pod).await;
    hub.start_controllers(Source::Store).await;
    hub.set_with("agent", |set| set["status"]["updatedNumberScheduled"] == 1).await;
    let pods = hub.pods("default", 1).await;
    assert_eq!(name_of(&pods[0]), "agent-x");
    let revisions = hub.admin.list_now(Kind::ControllerRevision, "default").await.expect("the API lists");
    assert_eq!(revisions.iter().map(name_of).collect::<Vec<_>>(), ["agent-earlier"]);
    // What somebody means is a change nevertheless.
    hub.new_template("agent").await;
    hub.set_with("agent", |set| set["status"]["updatedNumberScheduled"] == 0).await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_set_creates_in_batches_and_holds_up_nobody() {
    const NODES: usize = 1000;
    let hub = Hub::start().await;
    for node in 0..NODES {
        let only = if node == 0 { "yes" } else { "no" };
        hub.node(&format!("gw-{node}"), json!({"selvedge.dev/role": "gateway", "only": only})).await;
    }
    hub.make(Kind::DaemonSet, daemon_set("large")).await;
    let mut small = daemon_set("small");
    small["spec"]["template"]["spec"]["nodeSelector"] = json!({"only": "yes"});
    hub.make(Kind::DaemonSet, small).await;
    hub.set_with("small", |set| set["status"]["currentNumberScheduled"] == 1).await;
    let pods = hub.pods("default", NODES + 1).await;
    let revision = |pod: &Value| -> u64 {
        pod["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).expect("a number")
    };
    let small = pods.iter().find(|pod| pod["metadata"]["labels"]["app"] == "small").map(revision).expect("it is there");
    let last = pods.iter().map(revision).max().expect("there are pods");
    assert!(small < last, "the small set did not wait for the large one");
    let most = hub.in_flight.1.load(Ordering::SeqCst);
    assert!((2..=251).contains(&most), "{most} in flight");
    // Each node has one, though the set was looked at many times.
    let nodes: std::collections::BTreeSet<&str> =
        pods.iter().filter_map(|pod| pod["spec"]["nodeName"].as_str()).collect();
    assert_eq!(nodes.len(), NODES);
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_writes_nothing_that_is_right_already() {
    let mut hub = Hub::start().await;
    hub.gateways(&["gw-1", "gw-2"]).await;
    hub.make(Kind::DaemonSet, daemon_set("agent")).await;
    let pods = hub.pods("default", 2).await;
    hub.make_ready(&pods).await;
    let resource = json!({"name": "CPU", "properties": {"valueType": "Float64", "readWrite": "R"}});
    hub.make(Kind::DeviceProfile, json!({"metadata": {"name": "host"}, "spec": {"deviceResources": [resource]}})).await;
    let device = json!({
        "metadata": {"name": "box", "namespace": "default"},
        "spec": {"nodeName": "gw-1", "profileName": "host", "serviceName": "host"},
    });
    hub.make(Kind::Device, device).await;
    let rule = json!({"metadata": {"name": "r", "namespace": "default"}, "spec": {"sql": "SELECT CPU FROM host", "actions": [{"log": {}}]}});
    hub.make(Kind::Rule, rule).await;
    hub.set_with("agent", |set| set["status"]["numberAvailable"] == 2).await;
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
    assert!(message.contains("configmaps has 1 resource instances"), "{message}");
    let patch = json!({"metadata": {"finalizers": null}});
    hub.admin.merge(Kind::ConfigMap, ("line-2", "c"), &patch).await.expect("the API takes it");
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
async fn a_pod_on_its_way_out_of_a_node_that_is_gone_goes() {
    let hub = Hub::start().await;
    hub.eventually(Kind::ServiceAccount, ("default", "default"), |account| account.is_some()).await;
    let pod = json!({
        "metadata": {"name": "lost", "namespace": "default"},
        "spec": {
            "nodeName": "nowhere", "runtimeClassName": "selvedge-process",
            "containers": [{"name": "main", "image": "file:///bin/true"}],
        },
    });
    let pod = hub.make(Kind::Pod, pod).await;
    hub.admin.delete(Kind::Pod, &pod, None).await.expect("the API deletes it");
    hub.eventually(Kind::Pod, ("default", "lost"), |pod| pod.is_none()).await;
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
    let waiting = hub.admin.get_now(kind, ("", "good")).await.expect("the API responds").expect("it is there");
    assert!(condition(&waiting, "Approved").is_null());
    let addresses = json!([{"type": "InternalIP", "address": "10.0.0.7"}, {"type": "Hostname", "address": "gw-1"}]);
    hub.make(Kind::Node, json!({"metadata": {"name": "gw-1"}, "status": {"addresses": addresses}})).await;
    let signed =
        hub.eventually(kind, ("", "good"), |one| one.is_some_and(|one| one["status"]["certificate"].is_string())).await;
    let pem = BASE64.decode(signed["status"]["certificate"].as_str().unwrap_or_default()).expect("it is base64");
    let pem = String::from_utf8(pem).expect("it is PEM");
    assert!(base_pki::validity(&pem).is_ok());
    hub.settled().await;
    let greedy = hub.admin.get_now(kind, ("", "greedy")).await.expect("the API responds").expect("it is there");
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
    // A rule for the other node as well, so that its part is not superfluous but wanted under another name.
    hub.start_controllers(Source::Store).await;
    let event = hub.event_of("gw-1", "AssignmentNameTaken").await;
    assert!(event["message"].as_str().is_some_and(|message| message.contains("another")), "{event}");
    hub.stop().await;
}
