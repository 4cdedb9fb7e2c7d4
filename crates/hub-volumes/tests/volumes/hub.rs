//! A hub with the controllers that volumes need in the test's own process.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use hub_controllers::{Authorities, ControllersConfig, NamePolicy};
use hub_runtime::Manager;
use hub_runtime::kinds::Kind;
use machinery_server::ServerConfig;
use serde_json::{Value, json};

pub(crate) use hub_testing::Source;

/// Everything that the controllers read.
const READ: &[&[Kind]] = &[hub_controllers::READ, hub_workloads::READ, hub_volumes::READ, hub_scheduler::READ];

pub(crate) struct Hub {
    hub: hub_testing::Hub,
}

impl Deref for Hub {
    type Target = hub_testing::Hub;

    fn deref(&self) -> &Self::Target {
        &self.hub
    }
}

impl DerefMut for Hub {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.hub
    }
}

impl Hub {
    pub(crate) async fn start(source: Source) -> Self {
        let mut hub = Self::without_controllers().await;
        hub.start_controllers(source).await;
        hub
    }

    pub(crate) async fn without_controllers() -> Self {
        let hub =
            hub_testing::Hub::new(|config| ServerConfig { garbage_collected: hub_controllers::collects, ..config });
        hub_controllers::bootstrap(&hub.client()).await.expect("a new hub takes what it needs");
        hub.make_service_account().await;
        Self { hub }
    }

    pub(crate) async fn start_controllers(&mut self, source: Source) {
        let ca = Arc::new(base_pki::Ca::create("test").expect("a CA can be made"));
        let config = ControllersConfig {
            authorities: Authorities { client: ca.clone(), serving: ca },
            names: NamePolicy { hub_names: Vec::new() },
        };
        let start = async |manager: &Manager| {
            hub_controllers::start(manager, config).await.expect("the controllers start");
            hub_workloads::start_stateful(manager);
            hub_volumes::start(manager);
            hub_scheduler::start(manager, &base_observe::Metrics::new());
        };
        self.hub.run(source, READ, start).await;
    }

    pub(crate) async fn stop(self) {
        self.hub.stop().await;
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

    /// What an Event of an object says, once it is there.
    pub(crate) async fn event(&self, name: &str, reason: &str) -> String {
        self.event_of(name, reason).await["message"].as_str().unwrap_or_default().to_owned()
    }
}

/// Now, as a Lease has it.
fn now_micros() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}
