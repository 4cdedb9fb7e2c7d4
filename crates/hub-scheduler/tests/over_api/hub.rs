//! An API with a scheduler in the test's own process.

use std::sync::Arc;
use std::time::Duration;

use hub_runtime::kinds::Kind;
use hub_runtime::writer::Writer;
use hub_runtime::{Manager, Reader, Reflector, StatusRegistry, StoreReader};
use machinery_server::{Identity, Server, ServerConfig};
use machinery_store::{Store, StoreOptions};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// What the scheduler reads from.
#[derive(Clone, Copy)]
pub(crate) enum Source {
    /// The store of the embedded API.
    Store,
    /// Watches, as over a real cluster.
    Watches,
}

pub(crate) struct Hub {
    pub(crate) server: Server,
    pub(crate) store: Store,
    pub(crate) admin: Writer,
    pub(crate) metrics: base_observe::Metrics,
    running: Option<(Manager, CancellationToken)>,
    _dir: tempfile::TempDir,
}

impl Hub {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let options = StoreOptions {
            indexed_fields: machinery_server::INDEXED_FIELDS.to_vec(),
            index_version: machinery_server::INDEX_VERSION,
            ..StoreOptions::default()
        };
        let store = Store::open(dir.path(), options).expect("a new store opens");
        let server = Server::new(ServerConfig::new(store.clone())).expect("a new store lists");
        let client = kube::Client::new(server.in_process(Identity::new("admin", ["system:masters"])), "default");
        let hub = Self {
            server,
            store,
            admin: Writer::new(client),
            metrics: base_observe::Metrics::new(),
            running: None,
            _dir: dir,
        };
        hub.make(Kind::Namespace, json!({"metadata": {"name": "default"}})).await;
        let account = json!({"metadata": {"name": "default", "namespace": "default"}});
        hub.make(Kind::ServiceAccount, account).await;
        hub
    }

    pub(crate) fn start(&mut self, source: Source) {
        let shutdown = CancellationToken::new();
        let client = kube::Client::new(self.server.in_process(Identity::controllers()), "default");
        let reader: Arc<dyn Reader> = match source {
            Source::Store => StoreReader::new(self.store.clone()),
            Source::Watches => Reflector::start(&client, hub_scheduler::READ, &shutdown),
        };
        let manager = Manager::new(client, reader, StatusRegistry::default(), shutdown.clone());
        hub_scheduler::start(&manager, &self.metrics);
        self.running = Some((manager, shutdown));
    }

    pub(crate) async fn stop_scheduler(&mut self) {
        let Some((manager, shutdown)) = self.running.take() else { return };
        shutdown.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(60), manager.wait()).await;
        assert!(ended.is_ok(), "the scheduler ends at shutdown");
    }

    pub(crate) async fn stop(mut self) {
        self.stop_scheduler().await;
    }

    /// Waits until the scheduler has nothing to do now, and nothing is written.
    pub(crate) async fn settled(&self) {
        let (manager, _) = self.running.as_ref().expect("the scheduler runs");
        let mut last = None;
        for _ in 0..600 {
            let status = manager.status().snapshot();
            let is_idle = status.iter().all(|one| one.synced && one.queue_length + one.running == 0);
            let state = (self.store.current(), status.iter().map(|one| one.processed).sum::<u64>());
            if is_idle && last == Some(state) {
                return;
            }
            last = Some(state);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the scheduler did not come to rest: {:?}", manager.status().snapshot());
    }

    pub(crate) async fn make(&self, kind: Kind, object: Value) -> Value {
        let mut full = json!({"apiVersion": kind.api_version(), "kind": kind.name()});
        for (field, value) in object.as_object().expect("the test's object is one") {
            full[field] = value.clone();
        }
        self.admin.create(kind, full).await.expect("the API takes it").expect("it is new")
    }

    pub(crate) async fn node(&self, name: &str, labels: Value, cpu: &str) {
        let status = json!({"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"}});
        self.make(Kind::Node, json!({"metadata": {"name": name, "labels": labels}, "status": status})).await;
    }

    pub(crate) async fn pod(&self, name: &str, labels: Value, spec: Value) {
        let metadata = json!({"name": name, "namespace": "default", "labels": labels});
        self.make(Kind::Pod, json!({"metadata": metadata, "spec": spec})).await;
    }

    pub(crate) async fn find(&self, name: &str) -> Value {
        let found = self.admin.get_now(Kind::Pod, ("default", name)).await.expect("the API responds");
        found.expect("the pod is there")
    }

    pub(crate) async fn placed(&self, name: &str) -> Value {
        self.eventually(name, |pod| pod["spec"]["nodeName"].is_string()).await
    }

    pub(crate) async fn eventually(&self, name: &str, holds: impl Fn(&Value) -> bool) -> Value {
        self.eventually_of(Kind::Pod, ("default", name), holds).await
    }

    /// Waits for a state of one object; says the last one seen when it does not come.
    pub(crate) async fn eventually_of(&self, kind: Kind, key: (&str, &str), holds: impl Fn(&Value) -> bool) -> Value {
        let mut last = None;
        for _ in 0..1500 {
            last = self.admin.get_now(kind, key).await.expect("the API responds");
            if let Some(found) = last.as_ref().filter(|found| holds(found)) {
                return found.clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{} {key:?} did not come to be so in half a minute; last seen: {last:?}", kind.name());
    }

    pub(crate) async fn event_of(&self, name: &str, reason: &str) -> Value {
        for _ in 0..1500 {
            let events = self.admin.list_now(Kind::Event, "default").await.expect("the API lists");
            let is_it = |event: &Value| event["involvedObject"]["name"] == name && event["reason"] == reason;
            if let Some(event) = events.into_iter().find(is_it) {
                return event;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no Event {reason} of {name} came in half a minute");
    }
}

pub(crate) fn condition<'a>(object: &'a Value, r#type: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().find(|one| one["type"] == r#type).unwrap_or(&Value::Null)
}
