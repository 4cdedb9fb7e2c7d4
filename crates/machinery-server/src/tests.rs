//! A whole server over a store in a temporary directory, called in process.

mod audit;
mod bodies;
mod identities;
mod logs;
mod objects;
mod peers;
mod reindex;
mod serving;
mod watches;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use base_http::Body;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use machinery_store::{Store, StoreOptions};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{Identity, NoNodes, NodeDialer, Server, ServerConfig};

/// Nothing here takes long; what does has hung.
const PATIENCE: Duration = Duration::from_secs(20);

/// What weaker identities may here: tokens request certificates, nodes look at namespaces and write nodes and leases. A hub's own rules are in
/// `hub-policy`.
struct SomeRules;

impl crate::Authorizer for SomeRules {
    fn authorize(&self, access: &crate::Access<'_>, _: &Store) -> crate::Decision {
        let crate::Target::Resource { resource, .. } = access.target else {
            return crate::Decision::NoOpinion(String::new());
        };
        let may = match resource {
            "certificatesigningrequests" => {
                access.identity.is_in(crate::GROUP_BOOTSTRAPPERS) && access.verb == "create"
            }
            "namespaces" => access.identity.is_in(crate::GROUP_NODES) && access.verb == "list",
            // A node's own object and lease are not distinguished from others' here.
            "nodes" | "leases" => access.identity.is_in(crate::GROUP_NODES),
            _ => false,
        };
        crate::Decision::allow_if(may, "")
    }
}

struct Hub {
    server: Server,
    shutdown: CancellationToken,
    dir: tempfile::TempDir,
}

/// Status code, body, `Warning` headers.
struct Answer {
    code: u16,
    body: Value,
    warnings: Vec<String>,
}

/// As a hub's store is opened.
fn store_options() -> StoreOptions {
    StoreOptions {
        indexed_fields: crate::INDEXED_FIELDS.to_vec(),
        index_version: crate::INDEX_VERSION,
        ..StoreOptions::default()
    }
}

impl Hub {
    async fn start() -> Self {
        Self::start_with(Arc::new(NoNodes)).await
    }

    async fn start_with(node_dialer: Arc<dyn NodeDialer>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let hub = Self::open(dir, node_dialer);
        for name in ["default", "kube-system", "kube-node-lease"] {
            hub.create("/api/v1/namespaces", json!({"metadata": {"name": name}})).await;
        }
        hub
    }

    fn open(dir: tempfile::TempDir, node_dialer: Arc<dyn NodeDialer>) -> Self {
        Self::open_with(dir, |config| config.node_dialer = node_dialer)
    }

    /// One without namespaces, where a plug-in looks at what is written.
    fn admitting(plugin: Arc<dyn crate::Admission>) -> Self {
        Self::open_with(tempfile::tempdir().unwrap(), |config| config.admission.push(plugin))
    }

    fn open_with(dir: tempfile::TempDir, change: impl FnOnce(&mut ServerConfig)) -> Self {
        let shutdown = CancellationToken::new();
        let mut config = ServerConfig::new(Store::open(dir.path(), store_options()).unwrap());
        config.authorizers.push(Arc::new(SomeRules));
        config.garbage_collected = |group, kind| (group, kind) == ("apps", "ControllerRevision");
        config.shutdown = shutdown.clone();
        change(&mut config);
        Self { server: Server::new(config).unwrap(), shutdown, dir }
    }

    /// Closes the store and opens it again, as a restart would.
    fn restart(self) -> Self {
        let Self { server, dir, .. } = self;
        drop(server);
        Self::open(dir, Arc::new(NoNodes))
    }

    async fn raw(&self, identity: Option<&Identity>, request: Request<impl Into<Bytes>>) -> Response<Body> {
        let request = request.map(|body| crate::server::boxed(Full::new(body.into())));
        tokio::time::timeout(PATIENCE, self.server.handle(request, identity)).await.expect("the server answers")
    }

    async fn send(&self, identity: &Identity, method: &str, path: &str, media: &str, body: &str) -> Answer {
        let request = Request::builder().method(method).uri(path).header("content-type", media);
        let request = request.body(body.to_owned()).unwrap();
        answer(self.raw(Some(identity), request).await).await
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(&Identity::controllers(), method, path, "application/json", &body).await
    }

    async fn patch(&self, path: &str, kind: &str, body: Value) -> Answer {
        let media = format!("application/{kind}+json");
        self.send(&Identity::controllers(), "PATCH", path, &media, &body.to_string()).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, Value::Null).await
    }

    async fn create(&self, path: &str, object: Value) -> Value {
        let answer = self.call("POST", path, object).await;
        assert_eq!(answer.code, 201, "{}", answer.body);
        answer.body
    }

    async fn get_as(&self, path: &str, accept: &str) -> Answer {
        let request = Request::get(path).header("accept", accept).body(String::new()).unwrap();
        answer(self.raw(Some(&Identity::controllers()), request).await).await
    }

    async fn watch(&self, path: &str) -> Lines {
        let request = Request::get(path).body(String::new()).unwrap();
        let response = self.raw(Some(&Identity::controllers()), request).await;
        assert_eq!(response.status(), 200);
        Lines { body: response.into_body(), rest: Vec::new(), lines: VecDeque::new() }
    }
}

async fn answer(response: Response<Body>) -> Answer {
    let code = response.status().as_u16();
    let warnings =
        response.headers().get_all("warning").iter().map(|value| value.to_str().unwrap().to_owned()).collect();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Answer { code, body: serde_json::from_str(&text).unwrap_or(Value::String(text)), warnings }
}

impl Answer {
    fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }

    fn check(&self, code: u16, reason: &str, message: &str) {
        assert_eq!((self.code, self.body["reason"].as_str().unwrap_or_default()), (code, reason), "{}", self.body);
        assert_eq!(self.body["code"], code);
        assert!(self.message().contains(message), "{} has no {message}", self.message());
    }

    fn names(&self) -> Vec<&str> {
        let items = self.body["items"].as_array().unwrap_or_else(|| panic!("no list: {}", self.body));
        items.iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
    }
}

/// The events of a watch.
struct Lines {
    body: Body,
    rest: Vec<u8>,
    lines: VecDeque<Value>,
}

impl Lines {
    /// The next event; `None` when the stream has ended.
    async fn next(&mut self) -> Option<Value> {
        while self.lines.is_empty() {
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("an event or the end comes")?;
            self.rest.extend_from_slice(&frame.unwrap().into_data().unwrap());
            let end = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            let whole: Vec<u8> = self.rest.drain(..end).collect();
            let lines = whole.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            self.lines.extend(lines.map(|line| serde_json::from_slice::<Value>(line).unwrap()));
        }
        self.lines.pop_front()
    }

    /// The next event as `TYPE name`.
    async fn shown(&mut self) -> String {
        match self.next().await {
            Some(event) => {
                let name = event["object"]["metadata"]["name"].as_str().unwrap_or("-");
                format!("{} {name}", event["type"].as_str().unwrap())
            }
            None => "end".to_owned(),
        }
    }
}

fn config_map(name: &str, labels: Value, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}, "data": data})
}

fn pod(name: &str, node: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "nodeName": node, "runtimeClassName": "selvedge-process",
        "containers": [{"name": "main", "image": "file:///bin/sleep"}],
        "volumes": [{"name": "settings", "configMap": {"name": "settings"}}],
    }})
}

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
