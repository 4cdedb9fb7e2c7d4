//! A hub with the controllers that volumes need in the test's own process.

use std::sync::Arc;
use std::time::Duration;

use hub_controllers::{Authorities, ControllersConfig, NamePolicy};
use hub_runtime::kinds::Kind;
use hub_runtime::writer::Writer;
use hub_runtime::{Manager, Reader, Reflector, StatusRegistry, StoreReader};
use machinery_server::{Identity, Server, ServerConfig};
use machinery_store::{Store, StoreOptions};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// What the controllers read from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source {
    /// The store of the embedded API.
    Store,
    /// Watches, as over a real cluster: they are behind what was just written.
    Watches,
}

pub(crate) struct Hub {
    server: Server,
    store: Store,
    pub admin: Writer,
    running: Option<(Manager, CancellationToken)>,
    _dir: tempfile::TempDir,
}

impl Hub {
    pub(crate) async fn start(source: Source) -> Self {
        let mut hub = Self::without_controllers().await;
        hub.start_controllers(source).await;
        hub
    }

    pub(crate) async fn without_controllers() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let options = StoreOptions {
            indexed_fields: machinery_server::INDEXED_FIELDS.to_vec(),
            index_version: machinery_server::INDEX_VERSION,
            ..StoreOptions::default()
        };
        let store = Store::open(dir.path(), options).expect("a new store opens");
        let server = Server::new(ServerConfig {
            garbage_collected: hub_controllers::collects,
            ..ServerConfig::new(store.clone())
        })
        .expect("a new store lists");
        let admin = client(&server);
        hub_controllers::bootstrap(&admin).await.expect("a new hub takes what it needs");
        let hub = Self { server, store, admin: Writer::new(admin), running: None, _dir: dir };
        hub.make(Kind::ServiceAccount, json!({"metadata": {"name": "default", "namespace": "default"}})).await;
        hub
    }

    pub(crate) async fn start_controllers(&mut self, source: Source) {
        let shutdown = CancellationToken::new();
        let reader: Arc<dyn Reader> = match source {
            Source::Store => StoreReader::new(self.store.clone()),
            Source::Watches => {
                let mut kinds: Vec<Kind> = Vec::new();
                let all = [hub_controllers::READ, hub_workloads::READ, hub_volumes::READ, hub_scheduler::READ];
                for kind in all.into_iter().flatten() {
                    if !kinds.contains(kind) {
                        kinds.push(*kind);
                    }
                }
                Reflector::start(&client(&self.server), &kinds, &shutdown)
            }
        };
        let manager = Manager::new(client(&self.server), reader, StatusRegistry::default(), shutdown.clone());
        let ca = Arc::new(base_pki::Ca::create("test").expect("a CA can be made"));
        let config = ControllersConfig {
            authorities: Authorities { client: ca.clone(), serving: ca },
            names: NamePolicy { hub_names: Vec::new() },
        };
        hub_controllers::start(&manager, config).await.expect("the controllers start");
        hub_workloads::start_stateful(&manager);
        hub_volumes::start(&manager);
        hub_scheduler::start(&manager, &base_observe::Metrics::new());
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

    /// A node that is ready, with so much disk, which offers a directory for volumes.
    pub(crate) async fn node(&self, name: &str, disk: &str) {
        let offer = json!({api_edge::volumes::ANNOTATION_DIRECTORY: "/data/volumes"});
        self.any_node(name, disk, offer).await;
    }

    /// One that offers none.
    pub(crate) async fn other_node(&self, name: &str, disk: &str) {
        self.any_node(name, disk, json!({})).await;
    }

    async fn any_node(&self, name: &str, disk: &str, annotations: Value) {
        let now = "2026-01-01T00:00:00Z";
        let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": now});
        let offer = json!({"cpu": "4", "memory": "8Gi", "pods": "110", "ephemeral-storage": disk});
        self.make(
            Kind::Node,
            json!({
                "metadata": {
                    "name": name, "labels": {"kubernetes.io/hostname": name},
                    "annotations": annotations,
                },
                "status": {"allocatable": offer, "capacity": offer, "conditions": [ready]},
            }),
        )
        .await;
        let lease = json!({"metadata": {"name": name, "namespace": "kube-node-lease"}, "spec": {
            "holderIdentity": name, "leaseDurationSeconds": 3600,
            "renewTime": now_micros(),
        }});
        self.make(Kind::Lease, lease).await;
    }

    pub(crate) async fn make(&self, kind: Kind, object: Value) -> Value {
        let mut full = json!({"apiVersion": kind.api_version(), "kind": kind.name()});
        for (field, value) in object.as_object().expect("the test's object is one") {
            full[field] = value.clone();
        }
        self.admin.create(kind, full).await.expect("the API takes it").expect("it is new")
    }

    pub(crate) async fn claim(&self, name: &str, spec: Value) -> Value {
        let mut whole = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        for (field, value) in spec.as_object().expect("the test's spec is one") {
            whole[field] = value.clone();
        }
        self.make(
            Kind::PersistentVolumeClaim,
            json!({"metadata": {"name": name, "namespace": "default"}, "spec": whole}),
        )
        .await
    }

    pub(crate) async fn volume(&self, name: &str, spec: Value) -> Value {
        let mut whole = json!({
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/data"},
        });
        for (field, value) in spec.as_object().expect("the test's spec is one") {
            whole[field] = value.clone();
        }
        self.make(Kind::PersistentVolume, json!({"metadata": {"name": name}, "spec": whole})).await
    }

    /// A pod with a claim; on a node where one is named.
    pub(crate) async fn pod(&self, name: &str, claim: &str, node: Option<&str>) {
        let volume = json!({"name": "v", "persistentVolumeClaim": {"claimName": claim}});
        let mut spec = json!({
            "containers": [{"name": "main", "image": "registry.example/app:1"}], "volumes": [volume],
        });
        if let Some(node) = node {
            spec["nodeName"] = node.into();
        }
        self.make(Kind::Pod, json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec})).await;
    }

    pub(crate) async fn find(&self, kind: Kind, name: &str) -> Option<Value> {
        let namespace = if kind.is_namespaced() { "default" } else { "" };
        self.admin.get_now(kind, (namespace, name)).await.expect("the API answers")
    }

    pub(crate) async fn delete(&self, kind: Kind, name: &str) {
        let object = self.find(kind, name).await.expect("it exists");
        self.admin.delete(kind, &object, Some(0)).await.expect("the API deletes it");
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

    pub(crate) async fn phase(&self, kind: Kind, name: &str, phase: &str) -> Value {
        self.with(kind, name, |object| object["status"]["phase"] == phase).await
    }

    /// A claim or a volume that is bound, and that its users keep.
    pub(crate) async fn bound(&self, kind: Kind, name: &str) -> Value {
        self.with(kind, name, |object| {
            object["status"]["phase"] == "Bound" && object["metadata"]["finalizers"].is_array()
        })
        .await
    }

    pub(crate) async fn event(&self, name: &str, reason: &str) -> String {
        for _ in 0..1500 {
            let events = self.admin.list_now(Kind::Event, "default").await.expect("the API lists");
            let found =
                events.into_iter().find(|event| event["involvedObject"]["name"] == name && event["reason"] == reason);
            if let Some(event) = found {
                return event["message"].as_str().unwrap_or_default().to_owned();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no Event {reason} of {name} came in half a minute");
    }
}

fn client(server: &Server) -> kube::Client {
    kube::Client::new(server.in_process(Identity::new("admin", ["system:masters"])), "default")
}

/// Now, as a Lease has it.
fn now_micros() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}
