//! An API with a scheduler in the test's own process.

use std::ops::{Deref, DerefMut};

use hub_runtime::Manager;
use hub_runtime::kinds::Kind;
use serde_json::{Value, json};

pub(crate) use hub_testing::{Source, condition};

pub(crate) struct Hub {
    hub: hub_testing::Hub,
    pub(crate) metrics: base_observe::Metrics,
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
    pub(crate) async fn new() -> Self {
        let hub = hub_testing::Hub::new(|config| config);
        hub.make(Kind::Namespace, json!({"metadata": {"name": "default"}})).await;
        hub.make_service_account().await;
        Self { hub, metrics: base_observe::Metrics::new() }
    }

    pub(crate) async fn start(&mut self, source: Source) {
        let start = async |manager: &Manager| hub_scheduler::start(manager, &self.metrics);
        self.hub.run(source, &[hub_scheduler::READ], start).await;
    }

    pub(crate) async fn stop(self) {
        self.hub.stop().await;
    }

    pub(crate) async fn node(&self, name: &str, labels: Value, cpu: &str) {
        let status = json!({"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"}});
        self.make(Kind::Node, json!({"metadata": {"name": name, "labels": labels}, "status": status})).await;
    }

    pub(crate) async fn pod(&self, name: &str, labels: Value, spec: Value) {
        self.make(Kind::Pod, json!({"metadata": {"name": name, "labels": labels}, "spec": spec})).await;
    }

    pub(crate) async fn placed(&self, name: &str) -> Value {
        self.pod_with(name, |pod| pod["spec"]["nodeName"].is_string()).await
    }

    pub(crate) async fn pod_with(&self, name: &str, holds: impl Fn(&Value) -> bool) -> Value {
        self.with(Kind::Pod, name, holds).await
    }
}
