//! A hub with its controllers in the test's own process, and what tests ask of it.

use std::sync::Arc;
use std::time::Duration;

use hub_controllers::{Authorities, ControllersConfig, NamePolicy};
use hub_runtime::kinds::Kind;
use hub_runtime::writer::Writer;
use hub_runtime::{Manager, Reader, Reflector, StatusRegistry, StoreReader};
use machinery_access::{NotReadyTaint, UseProtection};
use machinery_server::{Identity, Server, ServerConfig};
use machinery_store::{Store, StoreOptions};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// What the controllers read from.
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
    pub(crate) serving_ca: Arc<base_pki::Ca>,
    pub(crate) running: Option<(Manager, CancellationToken)>,
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
            authorizers: hub_policy::authorizers(),
            admission: vec![Arc::new(NotReadyTaint), Arc::new(UseProtection)],
            garbage_collected: hub_controllers::collects,
            ..ServerConfig::new(store.clone())
        })
        .expect("a new store lists");
        let identity = Identity::new("admin", ["system:masters"]);
        let client = kube::Client::new(server.in_process(identity), "default");
        hub_controllers::bootstrap(&client).await.expect("a new hub takes what it needs");
        Self {
            server,
            store,
            admin: Writer::new(client),
            serving_ca: Arc::new(base_pki::Ca::create("serving").expect("a CA can be made")),
            running: None,
            _dir: dir,
        }
    }

    pub(crate) async fn start_controllers(&mut self, source: Source) {
        let shutdown = CancellationToken::new();
        let identity = Identity::new("system:selvedge:controllers", ["system:masters"]);
        let client = kube::Client::new(self.server.in_process(identity), "default");
        let reader: Arc<dyn Reader> = match source {
            Source::Store => StoreReader::new(self.store.clone()),
            Source::Watches => Reflector::start(&client, hub_controllers::READ, &shutdown),
        };
        let config = ControllersConfig {
            authorities: Authorities {
                client: Arc::new(base_pki::Ca::create("client").expect("a CA can be made")),
                serving: self.serving_ca.clone(),
            },
            names: NamePolicy { hub_names: vec!["hub.example.com".into()] },
        };
        let controllers = Manager::new(client, reader, StatusRegistry::default(), shutdown.clone());
        hub_controllers::start(&controllers, config).await.expect("the controllers start");
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

    /// Waits until a controller has failed; says why.
    pub(crate) async fn failing(&self, controller: &str) -> String {
        let (controllers, _) = self.running.as_ref().expect("the controllers run");
        for _ in 0..3000 {
            let status = controllers.status().snapshot();
            if let Some(error) = status.into_iter().find(|one| one.name == controller).and_then(|one| one.last_error) {
                return error.message;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the controller {controller} did not fail in a minute");
    }

    /// A client of an administrator.
    pub(crate) fn client(&self) -> kube::Client {
        kube::Client::new(self.server.in_process(Identity::new("admin", ["system:masters"])), "default")
    }

    pub(crate) fn as_user(&self, user: &str, groups: &[&str]) -> Writer {
        let identity = Identity::new(user, groups.iter().copied());
        Writer::new(kube::Client::new(self.server.in_process(identity), "default"))
    }

    /// A join token for one box.
    pub(crate) async fn token(&self, id: &str) {
        let name = format!("bootstrap-token-{id}");
        let secret = json!({
            "metadata": {"name": name, "namespace": "kube-system"}, "type": "bootstrap.kubernetes.io/token",
            "stringData": {"token-id": id, "registration-labels": "site=hall-2"},
        });
        self.make(Kind::Secret, secret).await;
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

    pub(crate) async fn stop(mut self) {
        self.stop_controllers().await;
    }
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

    pub(crate) async fn gateways(&self, names: &[&str]) {
        for name in names {
            self.node(name, json!({"selvedge.dev/role": "gateway"})).await;
        }
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
