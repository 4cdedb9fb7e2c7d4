//! A hub's API server over a store in a temporary directory, called in process.

use std::time::Duration;

use base_http::Body;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use machinery_server::{Identity, Server};
use machinery_store::{Store, StoreOptions};
use serde_json::{Value, json};
use tower::Service as _;

/// Nothing here takes long; what does has hung.
const PATIENCE: Duration = Duration::from_secs(20);

pub const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub const PODS: &str = "/api/v1/namespaces/default/pods";
pub const NODES: &str = "/api/v1/nodes";
pub const CSRS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
pub const ASSIGNMENTS: &str = "/apis/edge.selvedge.dev/v1alpha1/nodeassignments";

pub fn store_options() -> StoreOptions {
    StoreOptions {
        indexed_fields: machinery_server::INDEXED_FIELDS.to_vec(),
        index_version: machinery_server::INDEX_VERSION,
        ..StoreOptions::default()
    }
}

/// Roles and tokens with a key that no other test has.
pub(crate) fn access() -> machinery_access::Access {
    hub_policy::access(machinery_access::TokenKey::generate().unwrap(), "")
}

pub struct Hub {
    pub server: Server,
    pub store: Store,
    _dir: tempfile::TempDir,
}

/// Status code, body, `Warning` headers.
pub struct Answer {
    pub code: u16,
    pub body: Value,
    pub warnings: Vec<String>,
}

impl Hub {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), store_options()).unwrap();
        let access = access();
        let (config, _) = hub_policy::server_config(store.clone(), vec!["hub.example.com".to_owned()], &access);
        let server = Server::new(config).unwrap();
        access.bootstrap(&server).await.unwrap();
        Self::over(server, store, dir).await
    }

    /// A hub which gw-1 and gw-2 have joined: their keys are bound by their first use.
    pub async fn joined() -> Self {
        let hub = Self::start().await;
        for node in ["gw-1", "gw-2"] {
            let identity = json!({"metadata": {"name": node}, "spec": {"generation": 1}});
            hub.create("/apis/edge.selvedge.dev/v1alpha1/nodeidentities", identity).await;
        }
        hub
    }

    /// A hub whose API server was made by the test.
    pub async fn over(server: Server, store: Store, dir: tempfile::TempDir) -> Self {
        let hub = Self { server, store, _dir: dir };
        for name in ["default", "kube-system", "kube-node-lease"] {
            // What every cluster has is there where its roles are.
            let answer = hub.call("POST", "/api/v1/namespaces", json!({"metadata": {"name": name}})).await;
            assert!(matches!(answer.code, 201 | 409), "{}", answer.body);
        }
        for handler in [api_edge::RUNTIME_CLASS_PROCESS, api_edge::RUNTIME_CLASS_WASM] {
            let class = json!({"metadata": {"name": handler}, "handler": handler});
            hub.create("/apis/node.k8s.io/v1/runtimeclasses", class).await;
        }
        for definition in api_edge::crds::all() {
            hub.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition).await;
        }
        hub
    }

    pub async fn send_body(&self, identity: &Identity, request: Request<machinery_server::RequestBody>) -> Answer {
        let mut service = self.server.in_process(identity.clone());
        let response = tokio::time::timeout(PATIENCE, service.call(request)).await.expect("the server answers");
        answer(response.expect("in process nothing fails")).await
    }

    pub async fn send(&self, identity: &Identity, method: &str, path: &str, body: Value) -> Answer {
        let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let request = Request::builder().method(method).uri(path).header("content-type", media);
        let body = Full::new(Bytes::from(text)).map_err(Into::into).boxed_unsync();
        self.send_body(identity, request.body(body).unwrap()).await
    }

    /// As the administrator.
    pub async fn call(&self, method: &str, path: &str, body: Value) -> Answer {
        self.send(&Identity::controllers(), method, path, body).await
    }

    pub async fn create(&self, path: &str, object: Value) -> Value {
        let answer = self.call("POST", path, object).await;
        assert_eq!(answer.code, 201, "{}", answer.body);
        answer.body
    }

    /// Creates a Node, and returns the `ownerReferences` of its mirror pods.
    pub async fn owned_by(&self, node: &str) -> Value {
        let node = self.create("/api/v1/nodes", json!({"metadata": {"name": node}})).await;
        owned_by(&node)
    }

    /// Sends as `identity` and checks the code of the answer.
    pub async fn check(&self, identity: &Identity, method: &str, path: &str, body: Value, code: u16) -> Answer {
        let answer = self.send(identity, method, path, body).await;
        assert_eq!(answer.code, code, "{} {method} {path}: {}", identity.user, answer.body);
        answer
    }
}

impl Answer {
    pub fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }
}

async fn answer(response: Response<Body>) -> Answer {
    let code = response.status().as_u16();
    let warnings =
        response.headers().get_all("warning").iter().map(|value| value.to_str().unwrap().to_owned()).collect();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    Answer { code, body: serde_json::from_slice(&bytes).unwrap_or_default(), warnings }
}

/// The `ownerReferences` of a Node's mirror pods.
pub fn owned_by(node: &Value) -> Value {
    let (name, uid) = (&node["metadata"]["name"], &node["metadata"]["uid"]);
    json!([{"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid, "controller": true}])
}

/// A node that speaks with its key.
pub fn node(name: &str) -> Identity {
    let mut identity = in_nodes_name(name);
    identity.extra.insert(machinery_server::EXTRA_KEY_SHA256.to_owned(), vec![format!("key-of-{name}")]);
    identity
}

/// Somebody else in a node's name.
pub fn in_nodes_name(name: &str) -> Identity {
    Identity::new(format!("system:node:{name}"), ["system:nodes"])
}

pub fn pod(name: &str, node: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "nodeName": node, "runtimeClassName": "selvedge-process",
        "containers": [{"name": "main", "image": "file:///bin/sleep"}],
        "volumes": [{"name": "settings", "configMap": {"name": "settings"}}],
    }})
}

pub fn config_map(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {}})
}

/// A request for a client certificate of a node.
pub fn csr(name: &str, node: &str) -> Value {
    use base64::Engine as _;
    let key = base_pki::KeyPair::generate().unwrap();
    let pem = base_pki::make_csr(&key, &format!("system:node:{node}"), &["system:nodes".to_owned()], &[]).unwrap();
    json!({"metadata": {"name": name}, "spec": {
        "request": base64::engine::general_purpose::STANDARD.encode(pem),
        "signerName": "kubernetes.io/kube-apiserver-client-kubelet", "usages": ["client auth", "digital signature"],
    }})
}
