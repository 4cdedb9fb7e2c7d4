//! A hub with its controllers and that of DaemonSets in the test's own process, and what tests ask of it.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hub_controllers::{Authorities, ControllersConfig, NamePolicy};
use hub_runtime::kinds::Kind;
use hub_runtime::writer::Writer;
use hub_runtime::{Manager, Reader, Reflector, StatusRegistry, StoreReader};
use machinery_access::{NotReadyTaint, UseProtection};
use machinery_server::{Admission, AdmissionError, AdmissionRequest, Identity, Operation, Server, ServerConfig};
use machinery_store::{Store, StoreOptions};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// Rejects pods of the app `a-rejected`, as a quota or a policy would.
pub(crate) struct RejectPods;

impl Admission for RejectPods {
    fn validate(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), AdmissionError> {
        if &*request.info.kind == "Pod"
            && request.operation == Operation::Create
            && object["metadata"]["labels"]["app"] == "a-rejected"
        {
            return Err(AdmissionError::Forbidden("not this one".to_owned()));
        }
        Ok(())
    }
}

/// What the controllers read from.
#[derive(Clone, Copy)]
pub(crate) enum Source {
    /// The store of the embedded API.
    Store,
    /// Watches, as over a real cluster.
    Watches,
}

pub(crate) struct Hub {
    server: Server,
    pub(crate) store: Store,
    pub(crate) admin: Writer,
    running: Option<(Manager, CancellationToken)>,
    /// Creations of pods by the controllers: how many are in flight, and the most that ever were.
    pub(crate) in_flight: Arc<(AtomicUsize, AtomicUsize)>,
    _dir: tempfile::TempDir,
}

impl Hub {
    pub(crate) async fn start() -> Self {
        let mut hub = Self::without_controllers().await;
        hub.start_controllers(Source::Store).await;
        hub
    }

    /// A hub with all its kinds, in which nothing happens by itself yet.
    pub(crate) async fn without_controllers() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let options = StoreOptions {
            indexed_fields: machinery_server::INDEXED_FIELDS.to_vec(),
            index_version: machinery_server::INDEX_VERSION,
            ..StoreOptions::default()
        };
        let store = Store::open(dir.path(), options).expect("a new store opens");
        let server = Server::new(ServerConfig {
            admission: vec![Arc::new(NotReadyTaint), Arc::new(UseProtection), Arc::new(RejectPods)],
            garbage_collected: hub_controllers::collects,
            ..ServerConfig::new(store.clone())
        })
        .expect("a new store lists");
        let identity = Identity::new("admin", ["system:masters"]);
        let client = kube::Client::new(server.in_process(identity), "default");
        hub_controllers::bootstrap(&client).await.expect("a new hub takes what it needs");
        Self { server, store, admin: Writer::new(client), running: None, in_flight: Arc::default(), _dir: dir }
    }

    pub(crate) async fn start_controllers(&mut self, source: Source) {
        let shutdown = CancellationToken::new();
        let identity = Identity::new("system:selvedge:controllers", ["system:masters"]);
        let transport = Counted { inner: self.server.in_process(identity), in_flight: self.in_flight.clone() };
        let client = kube::Client::new(transport, "default");
        let reader: Arc<dyn Reader> = match source {
            Source::Store => StoreReader::new(self.store.clone()),
            Source::Watches => Reflector::start(&client, &read(), &shutdown),
        };
        let config = ControllersConfig {
            authorities: Authorities {
                client: Arc::new(base_pki::Ca::create("client").expect("a CA can be made")),
                serving: Arc::new(base_pki::Ca::create("serving").expect("a CA can be made")),
            },
            names: NamePolicy { hub_names: vec!["hub.example.com".into()] },
        };
        let controllers = Manager::new(client, reader, StatusRegistry::default(), shutdown.clone());
        hub_controllers::start(&controllers, config).await.expect("the controllers start");
        hub_workloads::start_daemons(&controllers);
        self.running = Some((controllers, shutdown));
    }

    pub(crate) async fn stop_controllers(&mut self) {
        let Some((controllers, shutdown)) = self.running.take() else { return };
        shutdown.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(60), controllers.wait()).await;
        assert!(ended.is_ok(), "the controllers end at shutdown");
    }

    /// Waits until no controller has anything to do now.
    pub(crate) async fn settled(&self) {
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

    pub(crate) async fn make(&self, kind: Kind, object: Value) -> Value {
        let mut full = json!({"apiVersion": kind.resource().api_version, "kind": kind.name()});
        for (field, value) in object.as_object().expect("the test's object is one") {
            full[field] = value.clone();
        }
        self.admin.create(kind, full).await.expect("the API takes it").expect("it is new")
    }

    pub(crate) async fn node(&self, name: &str, labels: Value) {
        self.make(Kind::Node, json!({"metadata": {"name": name, "labels": labels}})).await;
    }

    /// Waits for a state of one object; says the last one seen when it does not come.
    pub(crate) async fn eventually(
        &self,
        kind: Kind,
        key: (&str, &str),
        holds: impl Fn(Option<&Value>) -> bool,
    ) -> Value {
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
    pub(crate) async fn pods(&self, namespace: &str, count: usize) -> Vec<Value> {
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
    pub(crate) async fn kubelet_ends_pods(&self, namespace: &str) {
        for pod in self.admin.list_now(Kind::Pod, namespace).await.expect("the API answers") {
            if !pod["metadata"]["deletionTimestamp"].is_null() {
                self.admin.delete(Kind::Pod, &pod, Some(0)).await.expect("the API deletes it");
            }
        }
    }

    pub(crate) async fn stop(mut self) {
        self.stop_controllers().await;
    }
}

/// Everything that the controllers read.
fn read() -> Vec<Kind> {
    let read: BTreeSet<Kind> = hub_controllers::READ.iter().chain(hub_workloads::READ).copied().collect();
    read.into_iter().collect()
}

/// Counts creations of pods.
#[derive(Clone)]
pub(crate) struct Counted<S> {
    inner: S,
    pub(crate) in_flight: Arc<(AtomicUsize, AtomicUsize)>,
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

pub(crate) fn daemon_set(name: &str) -> Value {
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

pub(crate) fn condition<'a>(object: &'a Value, r#type: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().find(|one| one["type"] == r#type).unwrap_or(&Value::Null)
}

pub(crate) fn ready() -> Value {
    json!({"phase": "Running", "conditions": [
        {"type": "Ready", "status": "True", "lastTransitionTime": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()},
    ]})
}

pub(crate) fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().expect("every object has a name")
}

impl Hub {
    pub(crate) async fn make_ready(&self, pods: &[Value]) {
        for pod in pods {
            let key = ("default", name_of(pod));
            self.admin.merge_status(Kind::Pod, key, &ready()).await.expect("the API takes the status");
        }
    }

    pub(crate) async fn set_with(&self, name: &str, holds: impl Fn(&Value) -> bool) -> Value {
        self.eventually(Kind::DaemonSet, ("default", name), |set| set.is_some_and(&holds)).await
    }

    pub(crate) async fn gateways(&self, names: &[&str]) {
        for name in names {
            self.node(name, json!({"selvedge.dev/role": "gateway"})).await;
        }
    }

    pub(crate) async fn new_template(&self, set: &str) {
        let patch = json!({"spec": {"template": {"metadata": {"annotations": {"new": "yes"}}}}});
        self.admin.merge(Kind::DaemonSet, ("default", set), &patch).await.expect("the API takes the template");
    }

    pub(crate) async fn event_of(&self, name: &str, reason: &str) -> Value {
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
