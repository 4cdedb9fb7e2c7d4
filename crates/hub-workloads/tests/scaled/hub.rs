//! A hub with the controllers of workloads in the test's own process; the test plays the kubelet of its one node.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base_http::{Body, respond};
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode};
use hub_controllers::{Authorities, ControllersConfig, NamePolicy};
use hub_runtime::kinds::Kind;
use hub_runtime::writer::Writer;
use hub_runtime::{Manager, Reader, Reflector, StatusRegistry, StoreReader};
use jiff::Timestamp;
use machinery_server::{Extension, ExtensionGroup, ExtensionResource, Identity, RequestBody, Server, ServerConfig};
use machinery_store::{Store, StoreOptions};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// Use by pod, and what was asked for.
pub(crate) type Fed = (BTreeMap<String, i64>, Vec<String>);

/// What the pods use of a processor, in millicores, as `metrics.k8s.io` shows it; and what was asked of it.
#[derive(Clone, Default)]
pub(crate) struct Metrics(pub Arc<Mutex<Fed>>);

impl Extension for Metrics {
    fn prefix(&self) -> &'static str {
        "/apis/metrics.k8s.io"
    }

    fn api_group(&self) -> Option<ExtensionGroup> {
        const RESOURCES: &[ExtensionResource] =
            &[ExtensionResource { plural: "pods", kind: "PodMetrics", is_namespaced: true }];
        Some(ExtensionGroup { group: "metrics.k8s.io", version: "v1beta1", resources: RESOURCES })
    }

    fn call<'a>(&'a self, request: Request<RequestBody>, _: &'a Identity) -> BoxFuture<'a, Response<Body>> {
        let mut state = self.0.lock().expect("no test panics with it");
        state.1.push(request.uri().to_string());
        let now = Timestamp::now().to_string();
        let pod = |(name, cpu): (&String, &i64)| {
            let containers = json!([{"name": "main", "usage": {"cpu": format!("{cpu}m"), "memory": "1Mi"}}]);
            json!({"metadata": {"name": name}, "timestamp": now, "window": "15s", "containers": containers})
        };
        let items: Vec<Value> = state.0.iter().map(pod).collect();
        let list =
            json!({"kind": "PodMetricsList", "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {}, "items": items});
        Box::pin(async move { respond::json(StatusCode::OK, &list) })
    }
}

/// An API that somebody has added: what it responds to a path, if anything.
pub(crate) struct Added {
    pub prefix: &'static str,
    pub respond: fn(&str) -> Option<Value>,
}

impl Extension for Added {
    fn prefix(&self) -> &'static str {
        self.prefix
    }

    fn call<'a>(&'a self, request: Request<RequestBody>, _: &'a Identity) -> BoxFuture<'a, Response<Body>> {
        let response = match (self.respond)(&request.uri().to_string()) {
            Some(found) => respond::json(StatusCode::OK, &found),
            None => respond::text(StatusCode::NOT_FOUND, format!("nothing at {}", request.uri())),
        };
        Box::pin(async move { response })
    }
}

/// What the controllers read from.
#[derive(Clone, Copy)]
pub(crate) enum Source {
    /// The store of the embedded API.
    Store,
    /// Watches, as over a real cluster: they are behind what was just written.
    Watches,
}

pub(crate) struct Hub {
    pub server: Server,
    pub store: Store,
    pub admin: Writer,
    pub metrics: Metrics,
    running: Option<(Manager, CancellationToken)>,
    _dir: tempfile::TempDir,
}

impl Hub {
    pub(crate) async fn start() -> Self {
        let mut hub = Self::without_controllers().await;
        hub.start_controllers();
        hub
    }

    pub(crate) async fn without_controllers() -> Self {
        Self::with_extensions(Vec::new()).await
    }

    /// With other APIs beside the hub's own.
    pub(crate) async fn with_extensions(mut extensions: Vec<Arc<dyn Extension>>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let options = StoreOptions {
            indexed_fields: machinery_server::INDEXED_FIELDS.to_vec(),
            index_version: machinery_server::INDEX_VERSION,
            ..StoreOptions::default()
        };
        let store = Store::open(dir.path(), options).expect("a new store opens");
        let metrics = Metrics::default();
        extensions.push(Arc::new(metrics.clone()));
        let server = Server::new(ServerConfig {
            garbage_collected: hub_controllers::collects,
            extensions,
            ..ServerConfig::new(store.clone())
        })
        .expect("a new store lists");
        let client = client(&server);
        hub_controllers::bootstrap(&client).await.expect("a new hub takes what it needs");
        let hub = Self { server, store, admin: Writer::new(client), metrics, running: None, _dir: dir };
        hub.make(Kind::ServiceAccount, json!({"metadata": {"name": "default", "namespace": "default"}})).await;
        hub.make(Kind::Node, json!({"metadata": {"name": "gw-1"}})).await;
        hub
    }

    fn manager(&self, source: Source) -> (Manager, CancellationToken) {
        let shutdown = CancellationToken::new();
        let reader: Arc<dyn Reader> = match source {
            Source::Store => StoreReader::new(self.store.clone()),
            Source::Watches => Reflector::start(&client(&self.server), hub_workloads::READ, &shutdown),
        };
        let manager = Manager::new(client(&self.server), reader, StatusRegistry::default(), shutdown.clone());
        (manager, shutdown)
    }

    pub(crate) fn start_controllers(&mut self) {
        self.start_controllers_over(Source::Store);
    }

    pub(crate) fn start_controllers_over(&mut self, source: Source) {
        let (manager, shutdown) = self.manager(source);
        hub_workloads::start_stateful(&manager);
        hub_workloads::start_policies(&manager);
        self.running = Some((manager, shutdown));
    }

    /// Starts the hub's other controllers as well, garbage collection among them.
    pub(crate) async fn start_all_controllers(&mut self) {
        let (manager, shutdown) = self.manager(Source::Store);
        let ca = Arc::new(base_pki::Ca::create("test").expect("a CA can be made"));
        let config = ControllersConfig {
            authorities: Authorities { client: ca.clone(), serving: ca },
            names: NamePolicy { hub_names: Vec::new() },
        };
        hub_controllers::start(&manager, config).await.expect("the controllers start");
        hub_workloads::start_stateful(&manager);
        hub_workloads::start_policies(&manager);
        self.running = Some((manager, shutdown));
    }

    pub(crate) async fn stop_controllers(&mut self) {
        let Some((manager, shutdown)) = self.running.take() else { return };
        shutdown.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(60), manager.wait()).await;
        assert!(ended.is_ok(), "the controllers end at shutdown");
    }

    pub(crate) async fn stop(mut self) {
        self.stop_controllers().await;
    }

    /// Waits until no controller has anything to do now.
    pub(crate) async fn settled(&self) {
        let (manager, _) = self.running.as_ref().expect("the controllers run");
        let mut last = None;
        for _ in 0..3000 {
            let status = manager.status().snapshot();
            let is_idle = status.iter().all(|one| one.synced && one.queue_length + one.running + one.failing == 0);
            let state = (self.store.current(), status.iter().map(|one| one.processed).sum::<u64>());
            if is_idle && last == Some(state) {
                return;
            }
            last = Some(state);
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        panic!("the controllers did not come to rest: {:?}", manager.status().snapshot());
    }

    pub(crate) async fn make(&self, kind: Kind, object: Value) -> Value {
        let mut full = json!({"apiVersion": kind.api_version(), "kind": kind.name()});
        for (field, value) in object.as_object().expect("the test's object is one") {
            full[field] = value.clone();
        }
        self.admin.create(kind, full).await.expect("the API takes it").expect("it is new")
    }

    pub(crate) async fn find(&self, kind: Kind, name: &str) -> Option<Value> {
        self.admin.get_now(kind, ("default", name)).await.expect("the API answers")
    }

    pub(crate) async fn merge(&self, kind: Kind, name: &str, patch: Value) {
        assert!(self.admin.merge(kind, ("default", name), &patch).await.expect("the API takes the patch"));
    }

    pub(crate) async fn delete(&self, kind: Kind, name: &str, grace_s: Option<u32>) {
        let object = self.find(kind, name).await.expect("it exists");
        self.admin.delete(kind, &object, grace_s).await.expect("the API deletes it");
    }

    /// Waits for a state of one object; says the last one seen when it does not come.
    pub(crate) async fn eventually(&self, kind: Kind, name: &str, holds: impl Fn(Option<&Value>) -> bool) -> Value {
        let mut last = None;
        for _ in 0..1500 {
            last = self.find(kind, name).await;
            if holds(last.as_ref()) {
                return last.unwrap_or_default();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{} {name} did not come to be so in half a minute; last seen: {last:?}", kind.name());
    }

    pub(crate) async fn with(&self, kind: Kind, name: &str, holds: impl Fn(&Value) -> bool) -> Value {
        self.eventually(kind, name, |object| object.is_some_and(&holds)).await
    }

    /// The pods as the API has them, each as `NAME` with `!` when it is terminating and `+` when it is ready.
    pub(crate) async fn pods(&self) -> Vec<String> {
        let pods = self.admin.list_now(Kind::Pod, "default").await.expect("the API lists");
        let shown = pods.iter().map(|pod| {
            let conditions = pod["status"]["conditions"].as_array();
            let is_ready =
                conditions.into_iter().flatten().any(|one| one["type"] == "Ready" && one["status"] == "True");
            let ready = if is_ready { "+" } else { "" };
            let terminating = if pod["metadata"]["deletionTimestamp"].is_null() { "" } else { "!" };
            format!("{}{ready}{terminating}", name_of(pod))
        });
        shown.collect()
    }

    /// Waits until the pods are these, and nobody has anything to do.
    pub(crate) async fn pods_are(&self, expected: &[&str]) {
        let mut last = Vec::new();
        for _ in 0..1500 {
            last = self.pods().await;
            if last == expected {
                self.settled().await;
                last = self.pods().await;
                assert_eq!(last, expected, "once all have come to rest");
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the pods are {last:?} and not {expected:?}");
    }

    /// What a kubelet says of a pod that runs.
    pub(crate) async fn ready(&self, names: &[&str]) {
        for name in names {
            self.report(name, "Running", "True").await;
        }
    }

    pub(crate) async fn report(&self, name: &str, phase: &str, ready: &str) {
        let now = Timestamp::now();
        let started = now - Duration::from_secs(3600);
        let seconds = |time: Timestamp| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let condition = json!({"type": "Ready", "status": ready, "lastTransitionTime": seconds(now)});
        let status = json!({"phase": phase, "startTime": seconds(started), "conditions": [condition]});
        assert!(self.admin.merge_status(Kind::Pod, ("default", name), &status).await.expect("the API takes it"));
    }

    /// What a kubelet does once a terminating pod has ended.
    pub(crate) async fn end_pods(&self) {
        for pod in self.admin.list_now(Kind::Pod, "default").await.expect("the API lists") {
            if !pod["metadata"]["deletionTimestamp"].is_null() {
                self.admin.delete(Kind::Pod, &pod, Some(0)).await.expect("the API deletes it");
            }
        }
    }

    /// Reports every pod ready and ends those that are terminating until the pods are these.
    pub(crate) async fn play_kubelet_until(&self, expected: &[&str]) {
        let mut last = Vec::new();
        for _ in 0..600 {
            self.end_pods().await;
            last = self.pods().await;
            if last == expected {
                self.settled().await;
                if self.pods().await == expected {
                    return;
                }
            }
            for pod in last.iter().filter(|pod| !pod.ends_with(['+', '!'])) {
                // It may be deleted meanwhile.
                let status = json!({"phase": "Running", "conditions": [
                    {"type": "Ready", "status": "True", "lastTransitionTime": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()},
                ]});
                self.admin.merge_status(Kind::Pod, ("default", pod), &status).await.expect("the API takes it");
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        panic!("the pods are {last:?} and not {expected:?}");
    }

    pub(crate) async fn event_of(&self, name: &str, reason: &str) -> Value {
        for _ in 0..1500 {
            let events = self.admin.list_now(Kind::Event, "default").await.expect("the API lists");
            let found =
                events.into_iter().find(|event| event["involvedObject"]["name"] == name && event["reason"] == reason);
            if let Some(event) = found {
                return event;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no Event {reason} of {name} came in half a minute");
    }
}

fn client(server: &Server) -> kube::Client {
    kube::Client::new(server.in_process(Identity::new("admin", ["system:masters"])), "default")
}

pub(crate) fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().expect("every object has a name")
}

/// A set on the test's node, whose pods request 100 millicores.
pub(crate) fn stateful_set(name: &str, replicas: i64) -> Value {
    let requests = json!({"requests": {"cpu": "100m"}});
    json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "serviceName": "peers",
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "nodeName": "gw-1",
                    "containers": [{"name": "main", "image": "registry.example/app:1", "resources": requests}],
                },
            },
        },
    })
}
