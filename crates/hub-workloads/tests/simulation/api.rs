//! The API server of a simulation: real, in this process, over a store in memory, and asked synchronously.
//!
//! A request is one instant of the simulated time: the thread that runs the simulation waits for the threads of the server and of
//! the store, so that their scheduling decides nothing, and takes what has changed out of the store before it continues. How long a
//! request takes for the one who sends it, and what goes wrong on its way, is decided by [`Transport`].

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use base_http::{Body, BoxError};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hub_runtime::WallClock;
use jiff::Timestamp;
use machinery_server::{Identity, InProcess, Server, ServerConfig};
use machinery_store::{Store, StoreOptions};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::feed::Feed;
use crate::metrics::Load;
use crate::truth::Truth;

/// Where everything of a simulation lives.
pub(crate) const NAMESPACE: &str = "sim";

/// Who sends a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    /// `hub-controllers`: garbage collection, nodes and the others.
    Hub,
    /// `hub-workloads`.
    Workloads,
    /// `hub-scheduler`.
    Scheduler,
    /// The simulated kubelets.
    Kubelet,
    /// People, and the simulation itself.
    User,
}

/// What goes wrong with requests of controllers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// Of a thousand requests, so many are answered with an error and do nothing.
    pub failed: u32,
    /// So many are done and their response is lost.
    pub lost: u32,
    /// Before so many writes, somebody else changes the object.
    pub raced: u32,
    /// Each half of a request's way takes up to this time.
    pub latency: Duration,
}

/// Writes in a report.
const WRITES_REPORTED: usize = 40;

/// What all parts of a simulation share.
pub(crate) struct Api {
    transport: InProcess,
    pub store: Store,
    pub clock: WallClock,
    server_now: Arc<AtomicI64>,
    /// Runs what the server spawns; nothing of the simulation runs on it.
    helper: Option<tokio::runtime::Runtime>,
    pub faults: Mutex<Faults>,
    pub random: Mutex<fastrand::Rng>,
    pub feed: Mutex<Option<Arc<Feed>>>,
    pub truth: Mutex<Truth>,
    /// Writes of controllers, Events among them and leases not.
    pub writes: AtomicU64,
    /// The last of them, for a report.
    pub written: Mutex<Vec<String>>,
    /// When something was first not as it must be, and what was written before.
    pub violated: Mutex<Option<String>>,
}

impl Api {
    pub(crate) fn new(seed: u64, start: Timestamp, load: &Arc<Load>) -> Arc<Self> {
        let options = StoreOptions {
            indexed_fields: machinery_server::INDEXED_FIELDS.to_vec(),
            index_version: machinery_server::INDEX_VERSION,
            ..StoreOptions::default()
        };
        let store = Store::in_memory(options).expect("a store in memory opens");
        let clock = WallClock::simulated(start);
        let server_now = Arc::new(AtomicI64::new(start.as_microsecond()));
        let shown = server_now.clone();
        load.set(store.clone(), server_now.clone());
        let server = Server::new(ServerConfig {
            garbage_collected: hub_controllers::collects,
            extensions: vec![load.clone()],
            now: Arc::new(move || time_of(&shown)),
            ..ServerConfig::new(store.clone())
        })
        .expect("a new store lists");
        let helper = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a thread can be started");
        Arc::new(Self {
            transport: server.in_process(Identity::new("admin", ["system:masters"])),
            store,
            clock,
            server_now,
            helper: Some(helper),
            faults: Mutex::default(),
            random: Mutex::new(fastrand::Rng::with_seed(seed ^ 0xa91)),
            feed: Mutex::new(None),
            truth: Mutex::new(Truth::default()),
            writes: AtomicU64::new(0),
            written: Mutex::default(),
            violated: Mutex::default(),
        })
    }

    /// A client of this server for one part of the hub.
    pub(crate) fn client(self: &Arc<Self>, who: Who) -> kube::Client {
        kube::Client::new(Transport { api: self.clone(), who }, NAMESPACE)
    }

    /// What the server responds; what it has changed is known to the feed and to the truth when this returns.
    fn respond(&self, who: Who, request: Request<Bytes>) -> (StatusCode, Bytes) {
        self.server_now.store(self.clock.now().as_microsecond(), Ordering::SeqCst);
        let mut transport = self.transport.clone();
        let request = request.map(http_body_util::Full::new);
        let entered = self.helper.as_ref().map(tokio::runtime::Runtime::enter);
        // Not under the budget of the task that sends it, which would never be renewed here.
        let response = block_on(tokio::task::unconstrained(async move {
            let call = tower::Service::call(&mut transport, request);
            let response = call.await.unwrap_or_else(|never| match never {});
            let (head, body) = response.into_parts();
            let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            (head.status, body)
        }));
        drop(entered);
        self.take_changes(who);
        response
    }

    fn take_changes(&self, who: Who) {
        let feed = self.feed.lock().clone();
        if let Some(feed) = feed {
            feed.pump();
        }
        let mut truth = self.truth.lock();
        let before = truth.violations.len();
        truth.pump(&self.store, who, tokio::time::Instant::now());
        if before == 0 && !truth.violations.is_empty() {
            *self.violated.lock() = Some(format!("{} by {who:?}, after\n{}", self.clock.now(), self.last_writes()));
        }
    }

    /// The last writes of controllers, a line each.
    pub(crate) fn last_writes(&self) -> String {
        let written = self.written.lock();
        written[written.len().saturating_sub(WRITES_REPORTED)..].join("\n")
    }

    /// One request of a user or a kubelet.
    pub(crate) fn send(&self, who: Who, method: Method, path: &str, body: Option<&Value>) -> (StatusCode, Value) {
        let content_type = match method {
            // As kubelets do: conditions of others stay.
            Method::PATCH if who == Who::Kubelet => "application/strategic-merge-patch+json",
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::CONTENT_TYPE, content_type)
            .body(body.map(|body| Bytes::from(body.to_string())).unwrap_or_default())
            .expect("the simulation sends well-formed requests");
        let (status, body) = self.respond(who, request);
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    /// As [`send`](Self::send), for what must succeed.
    pub(crate) fn must(&self, who: Who, method: Method, path: &str, body: Option<&Value>) -> Value {
        let (status, response) = self.send(who, method.clone(), path, body);
        assert!(status.is_success(), "{method} {path} {body:?}: {status} {response}");
        response
    }

    /// Whether a request changes anything that counts as a write of a controller.
    fn count(&self, who: Who, request: &Request<Bytes>) {
        let path = request.uri().path();
        if request.method() == Method::GET || path.contains("/leases") || path.contains("/metrics.k8s.io/") {
            return;
        }
        self.writes.fetch_add(1, Ordering::Relaxed);
        let mut written = self.written.lock();
        if written.len() >= 400 {
            written.drain(..200);
        }
        let body = String::from_utf8_lossy(request.body());
        let body: String = body.chars().take(900).collect();
        written.push(format!("{} {who:?} {} {path} {body}", self.clock.now(), request.method()));
    }
}

/// Polls a future on this thread until it is ready; nothing else of the simulation runs meanwhile, and no time passes.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let (mut future, mut context) = (pin!(future), Context::from_waker(&waker));
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(done) => return done,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// A moment that threads of the server read.
pub(crate) fn time_of(now: &AtomicI64) -> Timestamp {
    Timestamp::from_microsecond(now.load(Ordering::SeqCst)).expect("the simulation stays within time")
}

impl Drop for Api {
    fn drop(&mut self) {
        // The last owner may be a task, where waiting for threads would be a panic.
        if let Some(helper) = self.helper.take() {
            helper.shutdown_background();
        }
    }
}

/// How the hub's own parts reach the API: after a while, and not always.
#[derive(Clone)]
pub(crate) struct Transport {
    api: Arc<Api>,
    who: Who,
}

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Done,
    Failed(u16),
    NeverSent,
    Lost,
    Raced,
}

impl Transport {
    fn draw(&self, is_write: bool) -> (Fate, Duration, Duration) {
        let faults = *self.api.faults.lock();
        let mut random = self.api.random.lock();
        let (least, most) = (100, u64::try_from(faults.latency.as_micros()).unwrap_or(u64::MAX).max(2000));
        let mut way = || Duration::from_micros(random.u64(least..most));
        let (there, back) = (way(), way());
        let drawn = random.u32(0..1000);
        let fate = match () {
            () if drawn < faults.failed => match random.u32(0..4) {
                0 => Fate::NeverSent,
                1 => Fate::Failed(503),
                2 => Fate::Failed(429),
                _ => Fate::Failed(500),
            },
            () if is_write && drawn < faults.failed + faults.lost => Fate::Lost,
            () if is_write && drawn < faults.failed + faults.lost + faults.raced => Fate::Raced,
            () => Fate::Done,
        };
        (fate, there, back)
    }

    /// Names that the server would draw at random are drawn from the seed here.
    fn name(&self, request: &mut Request<Bytes>) {
        if request.method() != Method::POST {
            return;
        }
        let Ok(mut object) = serde_json::from_slice::<Value>(request.body()) else { return };
        let metadata = &mut object["metadata"];
        if metadata["name"].is_string() || !metadata["generateName"].is_string() {
            return;
        }
        let mut random = self.api.random.lock();
        let suffix: String = (0..5).map(|_| char::from(b"bcdfghjklmnpqrstvwxz"[random.usize(0..20)])).collect();
        metadata["name"] = format!("{}{suffix}", metadata["generateName"].as_str().unwrap_or_default()).into();
        *request.body_mut() = object.to_string().into();
    }

    /// Somebody else is faster: the object of a write has another revision when the write comes.
    fn race(&self, path: &str) {
        let object = path.strip_suffix("/status").unwrap_or(path);
        let body = json!({"metadata": {"annotations": {"sim/touched": self.api.clock.now().to_string()}}});
        self.api.send(Who::User, Method::PATCH, object, Some(&body));
    }

    async fn carry(self, mut request: Request<Bytes>) -> Result<Response<Body>, BoxError> {
        self.api.count(self.who, &request);
        if let Some(response) = event_response(&request) {
            return Ok(response);
        }
        let is_write = request.method() != Method::GET;
        self.name(&mut request);
        let (fate, there, back) = self.draw(is_write);
        tokio::time::sleep(there).await;
        let path = request.uri().path().to_owned();
        match fate {
            Fate::NeverSent => return Err("the simulation let the connection break".into()),
            Fate::Failed(code) => return Ok(failure(code)),
            Fate::Raced if request.method() != Method::POST => self.race(&path),
            Fate::Lost if request.method() == Method::POST => self.api.truth.lock().lost_creation(&request, self.who),
            _ => {}
        }
        let (status, body) = self.api.respond(self.who, request);
        tokio::time::sleep(back).await;
        match fate {
            Fate::Lost => Err("the simulation lost the response".into()),
            _ => Ok(base_http::respond::body(status, "application/json", body)),
        }
    }
}

fn failure(code: u16) -> Response<Body> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "the simulation lets this request fail", "reason": "InternalError", "code": code,
    });
    base_http::respond::json(StatusCode::from_u16(code).expect("it is a status code"), &status)
}

/// Events are counted as writes and kept nowhere.
fn event_response(request: &Request<Bytes>) -> Option<Response<Body>> {
    if !request.uri().path().contains("/events") || request.method() == Method::GET {
        return None;
    }
    let mut event: Value = serde_json::from_slice(request.body()).ok()?;
    for (field, value) in [("apiVersion", "v1"), ("kind", "Event")] {
        event[field] = value.into();
    }
    Some(base_http::respond::json(StatusCode::OK, &event))
}

impl tower::Service<Request<kube::client::Body>> for Transport {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<kube::client::Body>) -> Self::Future {
        let transport = self.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map_err(Into::<BoxError>::into)?.to_bytes();
            transport.carry(Request::from_parts(head, body)).await
        })
    }
}
