//! A hub with the controllers of workloads in the test's own process; the test plays the kubelet of its one node.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base_http::{Body, respond};
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode};
use hub_controllers::{Authorities, ControllersConfig, NamePolicy};
use hub_runtime::Manager;
use hub_runtime::kinds::Kind;
use hub_testing::is_alive;
use jiff::Timestamp;
use machinery_server::{Extension, ExtensionGroup, ExtensionResource, Identity, RequestBody, ServerConfig};
use serde_json::{Value, json};

pub(crate) use hub_testing::{Source, condition, name_of};

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

pub(crate) struct Hub {
    hub: hub_testing::Hub,
    pub metrics: Metrics,
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
        hub.start_controllers().await;
        hub
    }

    pub(crate) async fn without_controllers() -> Self {
        Self::with_extensions(Vec::new()).await
    }

    /// With other APIs beside the hub's own.
    pub(crate) async fn with_extensions(mut extensions: Vec<Arc<dyn Extension>>) -> Self {
        let metrics = Metrics::default();
        extensions.push(Arc::new(metrics.clone()));
        let hub = hub_testing::Hub::new(|config| ServerConfig {
            garbage_collected: hub_controllers::collects,
            extensions,
            ..config
        });
        hub_controllers::bootstrap(&hub.client()).await.expect("a new hub takes what it needs");
        hub.make_service_account().await;
        hub.node("gw-1", json!({})).await;
        Self { hub, metrics }
    }

    pub(crate) async fn start_controllers(&mut self) {
        self.start_controllers_over(Source::Store).await;
    }

    pub(crate) async fn start_controllers_over(&mut self, source: Source) {
        let start = async |manager: &Manager| start_workloads(manager);
        self.hub.run(source, &[hub_workloads::READ], start).await;
    }

    /// Starts the hub's other controllers as well, garbage collection among them.
    pub(crate) async fn start_all_controllers(&mut self) {
        let ca = Arc::new(base_pki::Ca::create("test").expect("a CA can be made"));
        let config = ControllersConfig {
            authorities: Authorities { client: ca.clone(), serving: ca },
            names: NamePolicy { hub_names: Vec::new() },
        };
        let start = async |manager: &Manager| {
            hub_controllers::start(manager, config).await.expect("the controllers start");
            start_workloads(manager);
        };
        self.hub.run(Source::Store, &[hub_controllers::READ, hub_workloads::READ], start).await;
    }

    pub(crate) async fn stop(self) {
        self.hub.stop().await;
    }

    /// The pods as the API has them, each as `NAME` with `!` when it is terminating and `+` when it is ready.
    pub(crate) async fn pods(&self) -> Vec<String> {
        let pods = self.list(Kind::Pod).await;
        let shown = pods.iter().map(|pod| {
            let ready = if condition(pod, "Ready")["status"] == "True" { "+" } else { "" };
            let terminating = if is_alive(pod) { "" } else { "!" };
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
}

fn start_workloads(manager: &Manager) {
    hub_workloads::start_stateful(manager);
    hub_workloads::start_policies(manager);
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
