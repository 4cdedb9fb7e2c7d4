//! A hub that keeps objects by path: enough for one node.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base_http::{Body, Listener, ServerTls, read_body};
use base_pki::{Ca, IssueRequest, JoinToken, Usage};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures::StreamExt as _;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

const PODS: &str = "/api/v1/namespaces/d/pods";

struct State {
    ca: Ca,
    objects: Mutex<BTreeMap<String, Value>>,
    /// Type and object of every change of a pod.
    changes: broadcast::Sender<(&'static str, Value)>,
    refuses_lists: AtomicBool,
    lie: Mutex<Option<Value>>,
    refuses_keys: AtomicBool,
    refuses_tokens: AtomicBool,
    /// How tokens of service accounts are requested, and what for.
    issuing: watch::Sender<Issuing>,
    token_requests: Mutex<Vec<Value>>,
    /// What nodes have sent of what they use.
    usage: Mutex<Vec<Value>>,
    /// Seconds for which clients' certificates are good.
    client_validity: AtomicU64,
    /// Of the last write.
    revision: AtomicU64,
}

/// What becomes of requests for tokens of service accounts.
#[derive(Clone, Copy, PartialEq)]
pub enum Issuing {
    AtOnce,
    /// They wait until this changes.
    Held,
    Rejected,
}

pub struct FakeHub {
    pub url: String,
    state: Arc<State>,
    serving: tokio::task::JoinHandle<()>,
}

impl FakeHub {
    pub async fn start() -> Self {
        let ca = Ca::create("hub").unwrap();
        let leaf = ca
            .sign(&IssueRequest {
                cn: "hub".into(),
                orgs: vec![],
                sans: vec!["127.0.0.1".into(), "kubernetes".into()],
                usage: Usage::Server,
                validity: Duration::from_secs(3600),
            })
            .unwrap();
        let chain = format!("{}{}", leaf.cert_pem, ca.cert_pem());
        let tls = ServerTls::new(&chain, &leaf.key_pem, Some(ca.cert_pem())).unwrap();
        let address: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
        let listener = Listener::bind("hub-api", address).unwrap().with_tls(tls);
        let url = format!("https://{}", listener.address());
        let state = Arc::new(State {
            ca,
            objects: Mutex::default(),
            changes: broadcast::channel(64).0,
            refuses_lists: AtomicBool::new(false),
            lie: Mutex::default(),
            refuses_keys: AtomicBool::new(false),
            refuses_tokens: AtomicBool::new(false),
            issuing: watch::channel(Issuing::AtOnce).0,
            token_requests: Mutex::default(),
            usage: Mutex::default(),
            client_validity: AtomicU64::new(3600),
            revision: AtomicU64::new(1),
        });
        let shared = state.clone();
        let handler = move |request, _peer| answer(shared.clone(), request);
        let serving = base_http::serve(listener, handler, CancellationToken::new());
        Self { url, state, serving }
    }

    pub fn stop(&self) {
        self.serving.abort();
    }

    pub fn token(&self) -> JoinToken {
        JoinToken::generate(base_pki::ca_fingerprint(self.state.ca.cert_pem()).unwrap()).unwrap()
    }

    /// What a client of this cluster connects to the kubelet's API with.
    pub fn client(&self, user: &str, group: &str) -> rustls::ClientConfig {
        let issued = self.state.ca.sign(&IssueRequest {
            cn: user.into(),
            orgs: vec![group.into()],
            sans: vec![],
            usage: Usage::Client,
            validity: Duration::from_secs(3600),
        });
        let issued = issued.unwrap();
        base_http::client_config(self.state.ca.cert_pem(), Some((&issued.cert_pem, &issued.key_pem))).unwrap()
    }

    pub fn object(&self, path: &str) -> Value {
        self.state.objects.lock().unwrap().get(path).cloned().unwrap_or_default()
    }

    pub fn put(&self, path: &str, object: Value) {
        self.state.set(path, object);
    }

    /// Whatever is listed, this is the answer; `None` makes the hub honest again.
    pub fn lie(&self, answer: Option<Value>) {
        *self.state.lie.lock().unwrap() = answer;
    }

    /// Everything that the hub knew is lost, but for the keys: as its store would be.
    pub fn forget_everything(&self) {
        self.state.objects.lock().unwrap().clear();
        self.state.revision.store(1, Ordering::SeqCst);
    }

    /// All objects whose paths begin so.
    pub fn objects_under(&self, path: &str) -> Vec<Value> {
        let objects = self.state.objects.lock().unwrap();
        objects.iter().filter(|(known, _)| known.starts_with(path)).map(|(_, object)| object.clone()).collect()
    }

    pub fn issue_tokens(&self, issuing: Issuing) {
        self.state.issuing.send_replace(issuing);
    }

    /// Specs of all requests for tokens of service accounts, in order.
    pub fn token_requests(&self) -> Vec<Value> {
        self.state.token_requests.lock().unwrap().clone()
    }

    /// All reports of what is used, in order.
    pub fn usage(&self) -> Vec<Value> {
        self.state.usage.lock().unwrap().clone()
    }

    pub fn remove(&self, path: &str) {
        self.state.remove(path);
    }

    pub fn put_pod(&self, pod: Value) {
        let path = format!("{PODS}/{}", pod["metadata"]["name"].as_str().unwrap());
        self.state.set(&path, pod);
    }

    pub fn delete_gracefully(&self, name: &str) {
        self.delete_within(name, 1);
    }

    /// The same with that many seconds for its end.
    pub fn delete_within(&self, name: &str, seconds: u64) {
        let path = format!("{PODS}/{name}");
        let mut pod = self.object(&path);
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        pod["metadata"]["deletionGracePeriodSeconds"] = seconds.into();
        self.state.set(&path, pod);
    }

    /// What a hub does with the pods of a node that it does not hear.
    pub fn mark_not_ready(&self, name: &str) {
        let path = format!("{PODS}/{name}");
        let mut pod = self.object(&path);
        let conditions = pod["status"]["conditions"].as_array_mut().unwrap();
        let ready = conditions.iter_mut().find(|condition| condition["type"] == "Ready").unwrap();
        ready["status"] = "False".into();
        ready["reason"] = "NodeNotReady".into();
        self.state.set(&path, pod);
    }

    pub fn remove_pod(&self, name: &str) {
        self.state.remove(&format!("{PODS}/{name}"));
    }

    pub fn client_certificates_last(&self, seconds: u64) {
        self.state.client_validity.store(seconds, Ordering::SeqCst);
    }

    /// Whether requests of nodes by their certificates are refused.
    pub fn refuse_keys(&self, refuse: bool) {
        self.state.refuses_keys.store(refuse, Ordering::SeqCst);
    }

    /// Whether requests by a token are refused.
    pub fn refuse_tokens(&self, refuse: bool) {
        self.state.refuses_tokens.store(refuse, Ordering::SeqCst);
    }

    pub fn refuse_lists(&self, refuse: bool) {
        self.state.refuses_lists.store(refuse, Ordering::SeqCst);
    }
}

impl State {
    fn set(&self, path: &str, mut object: Value) -> Value {
        let revision = self.revision.fetch_add(1, Ordering::SeqCst) + 1;
        object["metadata"]["resourceVersion"] = revision.to_string().into();
        let mut parts = path.rsplitn(2, '/');
        if object["metadata"]["name"].is_null() {
            object["metadata"]["name"] = parts.next().unwrap_or_default().into();
        }
        if let (true, Some(collection)) = (object["metadata"]["namespace"].is_null(), path.split("/namespaces/").nth(1))
        {
            object["metadata"]["namespace"] = collection.split('/').next().unwrap_or_default().into();
        }
        self.objects.lock().unwrap().insert(path.to_owned(), object.clone());
        if path.contains("/pods/") {
            // Nobody watches before the node has joined.
            let _ = self.changes.send(("MODIFIED", object.clone()));
        }
        object
    }

    fn remove(&self, path: &str) -> Option<Value> {
        let mut object = self.objects.lock().unwrap().remove(path)?;
        let revision = self.revision.fetch_add(1, Ordering::SeqCst) + 1;
        object["metadata"]["resourceVersion"] = revision.to_string().into();
        if path.contains("/pods/") {
            let _ = self.changes.send(("DELETED", object.clone()));
        }
        Some(object)
    }
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let (path, query) = (parts.uri.path().to_owned(), parts.uri.query().unwrap_or_default().to_owned());
    let refuses = match parts.headers.contains_key(http::header::AUTHORIZATION) {
        true => &state.refuses_tokens,
        false => &state.refuses_keys,
    };
    if refuses.load(Ordering::SeqCst) {
        return refuse(StatusCode::UNAUTHORIZED);
    }
    let body: Value = serde_json::from_slice(&read_body(body, 1 << 20).await.unwrap()).unwrap_or_default();
    match parts.method {
        Method::GET if query.contains("watch=true") => watch(&state, &path, &query),
        Method::GET => get(&state, &path, &query),
        Method::POST if path == "/telemetry/v1/usage" => {
            state.usage.lock().unwrap().push(body);
            reply(StatusCode::OK, &json!({}))
        }
        Method::POST if path.ends_with("/token") => issue(&state, body).await,
        // Nobody but the administrators may do anything.
        Method::POST if path.ends_with("reviews") => reply(StatusCode::CREATED, &json!({"status": {"allowed": false}})),
        Method::POST => create(&state, &path, body),
        Method::PATCH => patch(&state, path.trim_end_matches("/status"), &body),
        Method::DELETE => match state.remove(&path) {
            Some(object) => reply(StatusCode::OK, &object),
            None => refuse(StatusCode::NOT_FOUND),
        },
        _ => refuse(StatusCode::METHOD_NOT_ALLOWED),
    }
}

/// The kind of the objects at a path of a collection.
fn kind_of(path: &str) -> &'static str {
    match path.rsplit('/').next().unwrap_or_default() {
        "pods" => "Pod",
        "nodes" => "Node",
        "leases" => "Lease",
        "configmaps" => "ConfigMap",
        "secrets" => "Secret",
        "persistentvolumeclaims" => "PersistentVolumeClaim",
        "persistentvolumes" => "PersistentVolume",
        "events" => "Event",
        "nodeassignments" => "NodeAssignment",
        "certificatesigningrequests" => "CertificateSigningRequest",
        other => panic!("{other} is of no kind"),
    }
}

fn list_of(state: &State, path: &str, items: &[Value]) -> Response<Body> {
    let version = state.revision.load(Ordering::SeqCst).to_string();
    let kind = format!("{}List", kind_of(path));
    reply(StatusCode::OK, &json!({"kind": kind, "metadata": {"resourceVersion": version}, "items": items}))
}

fn get(state: &State, path: &str, query: &str) -> Response<Body> {
    if path == "/api/v1/pods" {
        if state.refuses_lists.load(Ordering::SeqCst) {
            return refuse(StatusCode::INTERNAL_SERVER_ERROR);
        }
        if let Some(lie) = &*state.lie.lock().unwrap() {
            return reply(StatusCode::OK, lie);
        }
        let objects = state.objects.lock().unwrap();
        let pods = objects.iter().filter(|(path, _)| path.contains("/pods/"));
        let items: Vec<Value> = pods.map(|(_, pod)| pod.clone()).collect();
        return list_of(state, path, &items);
    }
    if query.contains("limit=") {
        return list_of(state, path, &listed(state, path, query));
    }
    match state.objects.lock().unwrap().get(path) {
        Some(object) => reply(StatusCode::OK, object),
        None => refuse(StatusCode::NOT_FOUND),
    }
}

/// The one object that a field selector names, if it is there; or the volumes of the node.
fn listed(state: &State, path: &str, query: &str) -> Vec<Value> {
    if query.contains("labelSelector=selvedge.dev%2Fnode%3D") && path.ends_with("/persistentvolumes") {
        let objects = state.objects.lock().unwrap();
        let volumes = objects.iter().filter(|(at, _)| at.starts_with(&format!("{path}/")));
        let of_kind = volumes.map(|(_, volume)| {
            let mut volume = volume.clone();
            volume["kind"] = "PersistentVolume".into();
            volume
        });
        return of_kind.collect();
    }
    let name = query.split("metadata.name%3D").nth(1).and_then(|rest| rest.split('&').next()).unwrap_or_default();
    state.objects.lock().unwrap().get(&format!("{path}/{name}")).cloned().into_iter().collect()
}

fn watch(state: &State, path: &str, query: &str) -> Response<Body> {
    let changes = (path == "/api/v1/pods").then(|| state.changes.subscribe());
    // What changed between the list and this watch is not told apart from the rest; seeing a pod twice does no harm.
    let mut known = Vec::new();
    if changes.is_some() {
        let objects = state.objects.lock().unwrap();
        let pods = objects.iter().filter(|(path, _)| path.contains("/pods/"));
        known.extend(pods.map(|(_, pod)| Ok(Bytes::from(format!("{}\n", json!({"type": "MODIFIED", "object": pod}))))));
    }
    if path.ends_with("certificatesigningrequests") {
        let line = |object| Ok(Bytes::from(format!("{}\n", json!({"type": "ADDED", "object": object}))));
        known.extend(listed(state, path, query).into_iter().map(line));
    }
    let stream = futures::stream::unfold(changes, |changes| async move {
        let Some(mut changes) = changes else { return std::future::pending().await };
        let (kind, object) = changes.recv().await.ok()?;
        let line = format!("{}\n", json!({"type": kind, "object": object}));
        Some((Ok::<_, std::io::Error>(Bytes::from(line)), Some(changes)))
    });
    Response::new(Body::stream(futures::stream::iter(known).chain(stream)))
}

/// Issues `token-1`, then `token-2` and so on.
async fn issue(state: &State, mut request: Value) -> Response<Body> {
    let number = {
        let mut requests = state.token_requests.lock().unwrap();
        requests.push(request["spec"].clone());
        requests.len()
    };
    let issuing = *state.issuing.subscribe().wait_for(|issuing| *issuing != Issuing::Held).await.unwrap();
    if issuing == Issuing::Rejected {
        return refuse(StatusCode::FORBIDDEN);
    }
    request["status"] = json!({"token": format!("token-{number}"), "expirationTimestamp": "2026-01-01T00:00:00Z"});
    reply(StatusCode::CREATED, &request)
}

fn create(state: &State, path: &str, mut object: Value) -> Response<Body> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let path = format!("{path}/{name}");
    if object["metadata"]["uid"].is_null() {
        let count = state.revision.load(Ordering::SeqCst);
        object["metadata"]["uid"] = format!("made-{name}-{count}").into();
    }
    if let Some(request) = object["spec"]["request"].as_str() {
        let csr = String::from_utf8(BASE64.decode(request).unwrap()).unwrap();
        let (usage, seconds) = match object["spec"]["signerName"] == "kubernetes.io/kubelet-serving" {
            true => (Usage::Server, 3600),
            false => (Usage::Client, state.client_validity.load(Ordering::SeqCst)),
        };
        let signed = state.ca.sign_csr(&csr, usage, Duration::from_secs(seconds)).unwrap();
        object["status"]["certificate"] = BASE64.encode(signed).into();
    }
    if state.objects.lock().unwrap().contains_key(&path) {
        return refuse(StatusCode::CONFLICT);
    }
    reply(StatusCode::CREATED, &state.set(&path, object))
}

fn patch(state: &State, path: &str, patch: &Value) -> Response<Body> {
    let Some(mut object) = state.objects.lock().unwrap().get(path).cloned() else {
        return refuse(StatusCode::NOT_FOUND);
    };
    if !patch["metadata"]["uid"].is_null() && patch["metadata"]["uid"] != object["metadata"]["uid"] {
        return refuse(StatusCode::CONFLICT);
    }
    let version = &patch["metadata"]["resourceVersion"];
    if !version.is_null() && *version != object["metadata"]["resourceVersion"] {
        return refuse(StatusCode::CONFLICT);
    }
    merge(&mut object, patch);
    reply(StatusCode::OK, &state.set(path, object))
}

fn merge(object: &mut Value, patch: &Value) {
    match patch {
        Value::Object(fields) => {
            for (key, value) in fields {
                if !object.is_object() {
                    *object = json!({});
                }
                merge(&mut object[key], value);
            }
        }
        other => *object = other.clone(),
    }
}

fn reply(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(value.to_string()));
    *response.status_mut() = status;
    response
}

fn refuse(status: StatusCode) -> Response<Body> {
    reply(status, &json!({"kind": "Status", "reason": status.canonical_reason(), "message": "refused by the test"}))
}
