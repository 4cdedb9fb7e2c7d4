//! A hub with its controllers and that of DaemonSets in the test's own process.

use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hub_controllers::{Authorities, ControllersConfig, NamePolicy};
use hub_runtime::Manager;
use hub_runtime::kinds::Kind;
use machinery_access::{NotReadyTaint, UseProtection};
use machinery_server::{Admission, AdmissionError, AdmissionRequest, Identity, Operation, ServerConfig};
use serde_json::{Value, json};

pub(crate) use hub_testing::{Source, condition, name_of};

/// Rejects pods of the app `a-rejected`, as a quota or a policy would.
struct RejectPods;

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

pub(crate) struct Hub {
    hub: hub_testing::Hub,
    /// Creations of pods by the controllers: how many are in flight, and the most that ever were.
    pub(crate) in_flight: Arc<(AtomicUsize, AtomicUsize)>,
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
    pub(crate) async fn start() -> Self {
        let mut hub = Self::without_controllers().await;
        hub.start_controllers(Source::Store).await;
        hub
    }

    /// A hub with all its kinds, in which nothing happens by itself yet.
    pub(crate) async fn without_controllers() -> Self {
        let hub = hub_testing::Hub::new(|config| ServerConfig {
            admission: vec![Arc::new(NotReadyTaint), Arc::new(UseProtection), Arc::new(RejectPods)],
            garbage_collected: hub_controllers::collects,
            ..config
        });
        hub_controllers::bootstrap(&hub.client()).await.expect("a new hub takes what it needs");
        Self { hub, in_flight: Arc::default() }
    }

    pub(crate) async fn start_controllers(&mut self, source: Source) {
        let inner = self.hub.server.in_process(Identity::controllers());
        let client = match hub_testing::is_stock() {
            true => self.hub.client(),
            false => kube::Client::new(Counted { inner, in_flight: self.in_flight.clone() }, "default"),
        };
        let ca = Arc::new(base_pki::Ca::create("test").expect("a CA can be made"));
        let config = ControllersConfig {
            authorities: Authorities { client: ca.clone(), serving: ca },
            names: NamePolicy { hub_names: vec!["hub.example.com".into()] },
        };
        let start = async |manager: &Manager| {
            // A stock cluster has none of the kinds of devices and rules, which these act on.
            if !hub_testing::is_stock() {
                hub_controllers::start(manager, config).await.expect("the controllers start");
            }
            hub_workloads::start_daemons(manager);
        };
        let others = if hub_testing::is_stock() { &[] } else { hub_controllers::READ };
        self.hub.run_with(client, source, &[others, hub_workloads::READ], start).await;
    }

    pub(crate) async fn stop(self) {
        self.hub.stop().await;
    }

    pub(crate) async fn set_with(&self, name: &str, holds: impl Fn(&Value) -> bool) -> Value {
        self.with(Kind::DaemonSet, name, holds).await
    }

    pub(crate) async fn gateways(&self, names: &[&str]) {
        for name in names {
            self.node(name, json!({"selvedge.dev/role": "gateway"})).await;
        }
    }

    pub(crate) async fn new_template(&self, set: &str) {
        let patch = json!({"spec": {"template": {"metadata": {"annotations": {"new": "yes"}}}}});
        self.patch(Kind::DaemonSet, set, patch).await;
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
