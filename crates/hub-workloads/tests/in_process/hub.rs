//! An API with the workload controllers in the test's own process, a stand-in for the kubelets, and what tests ask of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use hub_runtime::events::seconds;
use hub_runtime::kinds::Kind;
use hub_runtime::views::{PodView, condition};
use hub_runtime::writer::Writer;
use hub_runtime::{Event, Manager, ObjectRef, Reader as _, StatusRegistry, StoreReader};
use jiff::Timestamp;
use machinery_server::{Admission, AdmissionError, AdmissionRequest, Identity, Operation, Server, ServerConfig};
use machinery_store::{Store, StoreOptions};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// The image of containers that never become ready.
pub(crate) const BROKEN: &str = "broken";

/// The app whose pods the API rejects, as a quota or a policy would.
pub(crate) const REJECTED: &str = "rejected";

/// Rejects and counts them.
#[derive(Clone, Default)]
struct RejectPods(Arc<AtomicUsize>);

impl Admission for RejectPods {
    fn validate(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), AdmissionError> {
        let is_created = &*request.info.kind == "Pod" && request.operation == Operation::Create;
        if is_created && object["metadata"]["labels"]["app"] == REJECTED {
            self.0.fetch_add(1, Ordering::SeqCst);
            return Err(AdmissionError::Forbidden("not this one".to_owned()));
        }
        Ok(())
    }
}

/// One API, and what runs on it.
pub(crate) struct Hub {
    pub(crate) admin: Writer,
    server: Server,
    store: Store,
    running: Option<(Manager, CancellationToken)>,
    kubelets: CancellationToken,
    rejected: RejectPods,
    _dir: tempfile::TempDir,
}

impl Hub {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let options = StoreOptions {
            indexed_fields: machinery_server::INDEXED_FIELDS.to_vec(),
            index_version: machinery_server::INDEX_VERSION,
            ..StoreOptions::default()
        };
        let store = Store::open(dir.path(), options).expect("a new store opens");
        let rejected = RejectPods::default();
        let config = ServerConfig {
            admission: vec![Arc::new(rejected.clone())],
            garbage_collected: hub_controllers::collects,
            ..ServerConfig::new(store.clone())
        };
        let server = Server::new(config).expect("a new store lists");
        let client = kube::Client::new(server.in_process(Identity::new("admin", ["system:masters"])), "default");
        hub_controllers::bootstrap(&client).await.expect("a new hub takes what it needs");
        let admin = Writer::new(client);
        let account = json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "default"},
        });
        admin.create(Kind::ServiceAccount, account).await.expect("the API takes it");
        let kubelets = CancellationToken::new();
        base_observe::spawn_detached("kubelets", run_kubelets(store.clone(), admin.clone(), kubelets.clone()));
        let mut hub = Self { admin, server, store, running: None, kubelets, rejected, _dir: dir };
        hub.start_controllers();
        hub
    }

    pub(crate) fn start_controllers(&mut self) {
        let shutdown = CancellationToken::new();
        let identity = Identity::new("system:selvedge:controllers", ["system:masters"]);
        let client = kube::Client::new(self.server.in_process(identity), "default");
        let reader = StoreReader::new(self.store.clone());
        let manager = Manager::new(client, reader, StatusRegistry::default(), shutdown.clone());
        hub_workloads::start_replicated(&manager);
        self.running = Some((manager, shutdown));
    }

    pub(crate) async fn stop_controllers(&mut self) {
        let Some((manager, shutdown)) = self.running.take() else { return };
        shutdown.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(60), manager.wait()).await;
        assert!(ended.is_ok(), "the controllers end at shutdown");
    }

    /// Waits until no controller has anything to do, and the kubelets neither; the revision then.
    pub(crate) async fn settled(&self) -> u64 {
        let (manager, _) = self.running.as_ref().expect("the controllers run");
        let mut last = None;
        for _ in 0..1200 {
            let status = manager.status().snapshot();
            let is_idle = status.iter().all(|one| one.synced && one.queue_length + one.running + one.failing == 0);
            let state = (self.store.current(), status.iter().map(|one| one.processed).sum::<u64>());
            if is_idle && last == Some(state) {
                return self.store.current().0;
            }
            last = Some(state);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the controllers did not come to rest: {:?}", manager.status().snapshot());
    }

    /// Runs of all controllers so far.
    pub(crate) fn runs(&self) -> u64 {
        let (manager, _) = self.running.as_ref().expect("the controllers run");
        manager.status().snapshot().iter().map(|one| one.processed).sum()
    }

    /// How many pods the API has rejected.
    pub(crate) fn rejected(&self) -> usize {
        self.rejected.0.load(Ordering::SeqCst)
    }

    pub(crate) async fn make(&self, kind: Kind, object: Value) -> Value {
        let mut full = json!({"apiVersion": kind.api_version(), "kind": kind.name()});
        for (field, value) in object.as_object().expect("the test's object is one") {
            full[field] = value.clone();
        }
        full["metadata"]["namespace"] = json!("default");
        self.admin.create(kind, full).await.expect("the API takes it").expect("it is new")
    }

    pub(crate) async fn patch(&self, kind: Kind, name: &str, patch: Value) {
        assert!(self.admin.merge(kind, ("default", name), &patch).await.expect("the API takes it"), "{name} is there");
    }

    pub(crate) async fn get(&self, kind: Kind, name: &str) -> Value {
        self.admin.get_now(kind, ("default", name)).await.expect("the API answers").expect("it is there")
    }

    pub(crate) async fn list(&self, kind: Kind) -> Vec<Value> {
        self.admin.list_now(kind, "default").await.expect("the API answers")
    }

    /// Pods that nobody has deleted.
    pub(crate) async fn pods(&self) -> Vec<Value> {
        let mut pods = self.list(Kind::Pod).await;
        pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        pods
    }

    /// Waits for a state of one object; says the last one seen when it does not come.
    pub(crate) async fn eventually(&self, kind: Kind, name: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        for _ in 0..3000 {
            last = self.admin.get_now(kind, ("default", name)).await.expect("the API answers").unwrap_or_default();
            if holds(&last) {
                return last;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{} {name} did not come to be so in a minute; last seen: {last}", kind.name());
    }

    /// Reasons and messages of the Events of an object, in the order in which they were first written.
    pub(crate) async fn events(&self, name: &str) -> Vec<(String, String)> {
        let mut events = self.list(Kind::Event).await;
        events.retain(|event| event["involvedObject"]["name"] == name);
        events.sort_by_key(|event| {
            event["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse::<u64>().ok())
        });
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        events.iter().map(|event| (text(&event["reason"]), text(&event["message"]))).collect()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.kubelets.cancel();
    }
}

/// Brings every pod up at once, but for those whose image is broken, and ends those that are to be deleted.
async fn run_kubelets(store: Store, admin: Writer, shutdown: CancellationToken) {
    let reader = StoreReader::new(store);
    let mut events = reader.subscribe(Kind::Pod);
    loop {
        let event = tokio::select! {
            () = shutdown.cancelled() => return,
            event = events.next() => event,
        };
        let pods: Arc<[ObjectRef]> = match event {
            None => return,
            Some(Event::Listed(_, pods)) => pods,
            Some(Event::Changed(change)) => change.current.into_iter().collect(),
        };
        for pod in pods.iter() {
            tend(&admin, pod).await;
        }
    }
}

async fn tend(admin: &Writer, object: &ObjectRef) {
    let Ok(pod) = object.view::<PodView<'_>>() else { return };
    let value = object.value().expect("a pod is JSON");
    if pod.metadata.is_terminating() {
        drop(admin.delete(Kind::Pod, &value, Some(0)).await);
        return;
    }
    let is_broken = value["spec"]["containers"][0]["image"] == BROKEN;
    let is_ready = condition(&pod.status.conditions, "Ready").is_some();
    if is_ready || is_broken || pod.has_ended() {
        return;
    }
    let now = seconds(Timestamp::now());
    let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": now});
    let status = json!({"phase": "Running", "conditions": [ready], "startTime": now});
    drop(admin.merge_status(Kind::Pod, (object.namespace(), object.name()), &status).await);
}
