//! What nodes and pods use: nodes send it, `metrics.k8s.io` shows it to `kubectl top` and to whoever else asks.
//!
//! A report is believed as far as it is its sender's own: it is kept under the name of the node that has sent it, and of the pods in it only
//! those are shown that are bound to this node.

use std::time::{Duration, Instant};

use api_edge::usage::{PodUsage, USAGE_BYTES_MAX, USAGE_PATH, Usage, UsageReport};
use api_kube::Quantity;
use api_kube::selector::LabelSelector;
use base_http::query::{Query, decode_segment};
use base_http::{Body, read_body, respond};
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use hub_telemetry::usage::{UsageError, UsageStore};
use machinery_server::{Extension, ExtensionGroup, ExtensionResource, Identity, RequestBody};
use machinery_store::{Key, Store};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

/// Reports that are read at a time; each is small, and their senders wait.
const READS_MAX: usize = 16;
/// A node whose link is as slow as that sends the next one.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
const API_VERSION: &str = "metrics.k8s.io/v1beta1";

/// Takes the reports of nodes.
pub struct UsageIngest {
    store: UsageStore,
    reads: Semaphore,
}

impl UsageIngest {
    /// Keeps them in `store`.
    pub fn new(store: UsageStore) -> Self {
        Self { store, reads: Semaphore::new(READS_MAX) }
    }

    async fn take(&self, request: Request<RequestBody>, identity: &Identity) -> Response<Body> {
        let Some(node) = identity.node_name() else {
            return respond::text(StatusCode::FORBIDDEN, "only nodes send what they use\n");
        };
        if request.method() != Method::POST {
            return respond::text(StatusCode::METHOD_NOT_ALLOWED, "only POST is served here\n");
        }
        let read = async {
            let _turn = self.reads.acquire().await.ok();
            read_body(request.into_body(), USAGE_BYTES_MAX).await
        };
        let body = match tokio::time::timeout(READ_TIMEOUT, read).await {
            Ok(Ok(body)) => body,
            Ok(Err(error)) => return respond::text(StatusCode::BAD_REQUEST, format!("{error}\n")),
            Err(_) => return respond::text(StatusCode::REQUEST_TIMEOUT, "the report did not come in time\n"),
        };
        match self.store.put(node, &body, Instant::now()) {
            Ok(()) => respond::json(StatusCode::OK, &json!({})),
            Err(error @ UsageError::Full) => respond::text(StatusCode::TOO_MANY_REQUESTS, format!("{error}\n")),
            Err(error) => respond::text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        }
    }
}

impl Extension for UsageIngest {
    fn prefix(&self) -> &'static str {
        USAGE_PATH
    }

    fn call<'a>(&'a self, request: Request<RequestBody>, identity: &'a Identity) -> BoxFuture<'a, Response<Body>> {
        Box::pin(self.take(request, identity))
    }
}

/// Serves `metrics.k8s.io/v1beta1`.
#[derive(Clone)]
pub struct MetricsApi {
    /// What nodes have sent.
    pub usage: UsageStore,
    /// Labels of nodes and pods, and which node a pod is bound to.
    pub objects: Store,
}

/// As much of an object as is needed.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Known {
    metadata: KnownMetadata,
    spec: KnownSpec,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct KnownMetadata {
    labels: serde_json::Map<String, Value>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct KnownSpec {
    node_name: String,
}

/// What is asked for: of one resource, one object or those that a selector selects.
struct Asked<'a> {
    namespace: Option<&'a str>,
    name: Option<&'a str>,
    labels: LabelSelector,
}

impl MetricsApi {
    fn answer(&self, path: &str, query: Option<&str>) -> Response<Body> {
        let query = match Query::parse(query) {
            Ok(query) => query,
            Err(error) => return failure(StatusCode::BAD_REQUEST, "BadRequest", &error.to_string()),
        };
        let labels = match query.get("labelSelector").unwrap_or_default().parse::<LabelSelector>() {
            Ok(labels) => labels,
            Err(error) => return failure(StatusCode::BAD_REQUEST, "BadRequest", &error.to_string()),
        };
        let segments: Option<Vec<_>> = path.trim_matches('/').split('/').skip(3).map(decode_segment).collect();
        let segments = segments.unwrap_or_default();
        let asked = |namespace, name| Asked { namespace, name, labels };
        match segments.iter().map(AsRef::as_ref).collect::<Vec<&str>>()[..] {
            ["nodes"] => list("NodeMetricsList", self.nodes(&asked(None, None))),
            ["nodes", name] => one(self.nodes(&asked(None, Some(name))), "nodes", name),
            ["pods"] => list("PodMetricsList", self.pods(&asked(None, None))),
            ["namespaces", namespace, "pods"] => list("PodMetricsList", self.pods(&asked(Some(namespace), None))),
            ["namespaces", namespace, "pods", name] => {
                one(self.pods(&asked(Some(namespace), Some(name))), "pods", name)
            }
            _ => failure(StatusCode::NOT_FOUND, "NotFound", "the server could not find the requested resource"),
        }
    }

    fn known(&self, resource: &str, namespace: &str, name: &str) -> Option<Known> {
        let object = self.objects.get(&Key::new(resource, namespace, name))?;
        serde_json::from_slice(&object.bytes).ok()
    }

    fn nodes(&self, asked: &Asked<'_>) -> Vec<Value> {
        let reports = self.usage.reports(Instant::now());
        let meant = reports.iter().filter(|(node, _)| asked.name.is_none_or(|name| name == node));
        let shown = meant.filter_map(|(node, report)| {
            let known = self.known("/nodes", "", node).filter(|known| asked.selects(known))?;
            Some(json!({
                "metadata": metadata(node, None, report, known), "timestamp": report.time, "window": window(report),
                "usage": usage(report.node),
            }))
        });
        shown.collect()
    }

    fn pods(&self, asked: &Asked<'_>) -> Vec<Value> {
        let reports = self.usage.reports(Instant::now());
        let mut shown = Vec::new();
        for (node, report) in &reports {
            let is_meant = |pod: &&PodUsage| {
                asked.namespace.is_none_or(|namespace| namespace == pod.namespace)
                    && asked.name.is_none_or(|name| name == pod.name)
            };
            shown.extend(report.pods.iter().filter(is_meant).filter_map(|pod| self.pod(node, report, pod, asked)));
        }
        shown.sort_by(|one, other| {
            let key =
                |pod: &Value| ["namespace", "name"].map(|field| pod["metadata"][field].as_str().map(str::to_owned));
            key(one).cmp(&key(other))
        });
        shown
    }

    /// A pod of the node that says so, and of no other one.
    fn pod(&self, node: &str, report: &UsageReport, pod: &PodUsage, asked: &Asked<'_>) -> Option<Value> {
        let known = self.known("/pods", &pod.namespace, &pod.name)?;
        if known.spec.node_name != node || !asked.selects(&known) {
            return None;
        }
        let containers: Vec<Value> =
            pod.containers.iter().map(|one| json!({"name": one.name, "usage": usage(one.usage)})).collect();
        Some(json!({
            "metadata": metadata(&pod.name, Some(&pod.namespace), report, known),
            "timestamp": report.time, "window": window(report), "containers": containers,
        }))
    }
}

impl Asked<'_> {
    fn selects(&self, known: &Known) -> bool {
        self.labels.matches(|label| known.metadata.labels.get(label).and_then(Value::as_str))
    }
}

impl Extension for MetricsApi {
    fn prefix(&self) -> &'static str {
        "/apis/metrics.k8s.io"
    }

    fn api_group(&self) -> Option<ExtensionGroup> {
        const RESOURCES: &[ExtensionResource] = &[
            ExtensionResource { plural: "nodes", kind: "NodeMetrics", is_namespaced: false },
            ExtensionResource { plural: "pods", kind: "PodMetrics", is_namespaced: true },
        ];
        Some(ExtensionGroup { group: "metrics.k8s.io", version: "v1beta1", resources: RESOURCES })
    }

    fn call<'a>(&'a self, request: Request<RequestBody>, _: &'a Identity) -> BoxFuture<'a, Response<Body>> {
        Box::pin(async move {
            if request.method() != Method::GET {
                return failure(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "it can only be read");
            }
            let (api, uri) = (self.clone(), request.uri().clone());
            // Some ten thousand pods are looked up for a list of all.
            let answered = tokio::task::spawn_blocking(move || api.answer(uri.path(), uri.query())).await;
            answered.unwrap_or_else(|_| {
                failure(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", "the list could not be made")
            })
        })
    }
}

fn metadata(name: &str, namespace: Option<&str>, report: &UsageReport, known: Known) -> Value {
    let mut metadata = json!({"name": name, "creationTimestamp": report.time, "labels": known.metadata.labels});
    if let (Some(namespace), Some(fields)) = (namespace, metadata.as_object_mut()) {
        fields.insert("namespace".to_owned(), namespace.into());
    }
    metadata
}

fn window(report: &UsageReport) -> String {
    format!("{}s", report.window_seconds)
}

fn usage(usage: Usage) -> Value {
    let memory = Quantity::from_bytes(usage.memory_bytes.next_multiple_of(1024));
    json!({"cpu": format!("{}n", usage.cpu_nano_cores), "memory": memory.to_string()})
}

fn list(kind: &str, items: Vec<Value>) -> Response<Body> {
    respond::json(StatusCode::OK, &json!({"kind": kind, "apiVersion": API_VERSION, "metadata": {}, "items": items}))
}

fn one(mut found: Vec<Value>, plural: &str, name: &str) -> Response<Body> {
    let Some(mut object) = found.pop() else {
        let message = format!("{plural}.metrics.k8s.io \"{name}\" not found");
        return failure(StatusCode::NOT_FOUND, "NotFound", &message);
    };
    if let Some(fields) = object.as_object_mut() {
        fields.insert("kind".to_owned(), if plural == "nodes" { "NodeMetrics" } else { "PodMetrics" }.into());
        fields.insert("apiVersion".to_owned(), API_VERSION.into());
    }
    respond::json(StatusCode::OK, &object)
}

fn failure(code: StatusCode, reason: &str, message: &str) -> Response<Body> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code.as_u16(),
    });
    respond::json(code, &status)
}

#[cfg(test)]
mod tests {
    use api_edge::usage::ContainerUsage;
    use http_body_util::{BodyExt as _, Full};
    use machinery_server::{INDEX_VERSION, INDEXED_FIELDS, Server, ServerConfig};
    use machinery_store::StoreOptions;

    use super::*;

    async fn body_of(response: Response<Body>) -> Value {
        serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
    }

    async fn create(server: &Server, path: &str, object: Value) {
        let body = Full::new(bytes::Bytes::from(object.to_string()))
            .map_err(|never| -> base_http::BoxError { match never {} });
        let request = Request::post(path).header("content-type", "application/json").body(body.boxed_unsync()).unwrap();
        let response = server.handle(request, Some(&Identity::controllers())).await;
        assert_eq!(response.status(), 201, "{}", body_of(response).await);
    }

    async fn with_pods() -> MetricsApi {
        let options = StoreOptions {
            indexed_fields: INDEXED_FIELDS.to_vec(),
            index_version: INDEX_VERSION,
            ..StoreOptions::default()
        };
        let objects = Store::in_memory(options).unwrap();
        let server = Server::new(ServerConfig::new(objects.clone())).unwrap();
        create(&server, "/api/v1/namespaces", json!({"metadata": {"name": "d"}})).await;
        for node in ["a", "b"] {
            create(&server, "/api/v1/nodes", json!({"metadata": {"name": node, "labels": {"site": node}}})).await;
            let spec = json!({"nodeName": node, "containers": [{"name": "c", "image": "x"}]});
            let pod = json!({"metadata": {"name": format!("of-{node}"), "labels": {"app": node}}, "spec": spec});
            create(&server, "/api/v1/namespaces/d/pods", pod).await;
        }
        MetricsApi { usage: UsageStore::default(), objects }
    }

    fn report(pods: &[&str]) -> Vec<u8> {
        let usage = Usage { cpu_nano_cores: 12_345, memory_bytes: 5_000 };
        let pod = |name: &&str| PodUsage {
            namespace: "d".to_owned(),
            name: (*name).to_owned(),
            containers: vec![ContainerUsage { name: "c".to_owned(), usage }],
        };
        let time = "2026-01-01T00:00:00Z".to_owned();
        let pods = pods.iter().map(pod).collect();
        serde_json::to_vec(&UsageReport { version: 1, time, window_seconds: 15, node: usage, pods }).unwrap()
    }

    #[tokio::test]
    async fn what_a_node_says_of_its_own_pods_is_shown_and_nothing_else() {
        let api = with_pods().await;
        // It speaks of another node's pod, and of one that there is not.
        api.usage.put("a", &report(&["of-a", "of-b", "made-up"]), Instant::now()).unwrap();
        api.usage.put("unknown", &report(&[]), Instant::now()).unwrap();
        let get = async |path: &str, query: Option<&str>| {
            body_of(api.answer(&format!("/apis/metrics.k8s.io/v1beta1/{path}"), query)).await
        };
        let names = |list: &Value| -> Vec<String> {
            let items = list["items"].as_array().unwrap().iter();
            items.map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
        };
        let pods = get("pods", None).await;
        assert_eq!((&pods["kind"], names(&pods)), (&json!("PodMetricsList"), vec!["of-a".to_owned()]));
        assert_eq!(pods["items"][0]["containers"], json!([{"name": "c", "usage": {"cpu": "12345n", "memory": "5Ki"}}]));
        assert_eq!(
            (&pods["items"][0]["window"], &pods["items"][0]["metadata"]["labels"]),
            (&json!("15s"), &json!({"app": "a"}))
        );
        assert_eq!(names(&get("namespaces/d/pods", Some("labelSelector=app%3Da")).await), ["of-a"]);
        assert_eq!(names(&get("namespaces/d/pods", Some("labelSelector=app%3Db")).await), [""; 0]);
        assert_eq!(names(&get("namespaces/e/pods", None).await), [""; 0]);
        assert_eq!(get("namespaces/d/pods/of-a", None).await["kind"], "PodMetrics");
        assert_eq!(get("namespaces/d/pods/of-b", None).await["code"], 404);
        let nodes = get("nodes", None).await;
        assert_eq!((names(&nodes), &nodes["items"][0]["usage"]["memory"]), (vec!["a".to_owned()], &json!("5Ki")));
        assert_eq!(get("nodes/a", None).await["metadata"]["labels"]["site"], "a");
        assert_eq!(get("secrets", None).await["reason"], "NotFound");
    }
}
