//! A hub in the test's own process: the API over a store in a temporary directory, without a socket, and the controllers that a test
//! starts on it.
//!
//! **Where is it?** Only in `[dev-dependencies]` of the hub's crates. It starts no controller by itself and knows none, so that no crate
//! depends on itself by way of it: a test hands over what starts its own.
//!
//! ```text
//! Hub::new(config) ──▶ store ◀── server ◀── admin: make, find, patch, delete, events
//!                        ▲          ▲
//! hub.run(source, …) ──▶ reader    client ──▶ manager: controllers, until stop_controllers
//! ```
//!
//! **Another API server.** With `SELVEDGE_API=kube-apiserver` (`cargo xtask test --real-cluster`) the API is Kubernetes' own, with an etcd, one
//! for each test, and controllers read by watches alone: they use nothing that is only ours. What a test adds to our server is not there.
//!
//! **May I touch it?** It has what more than one crate's tests need. What is about one kind of object, or about who plays the kubelet, stays
//! with the tests that it is for: a struct of theirs around this [`Hub`], which derefs to it.
//!
//! **What breaks?** What does not come about within [`PATIENCE`] panics with what was seen last: in a test that is the failure.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hub_runtime::events::Recorder;
use hub_runtime::kinds::Kind;
use hub_runtime::writer::Writer;
use hub_runtime::{Context, Manager, Reader, Reflector, StatusRegistry, StoreReader, WallClock};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use machinery_server::{Identity, Server, ServerConfig};
use machinery_store::{Store, StoreOptions};
use serde_json::{Value, json};
use testkit::apiserver::KubeApiserver;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long anything may take to come about: the machine may have much else to do.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How often what is awaited is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What does not change between two looks so far apart has come to rest: longer than controllers wait before they write a status.
const REST: Duration = Duration::from_millis(100);
/// The namespace of a test's objects where it names none.
const NAMESPACE: &str = "default";

/// What the controllers read from.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    /// The store of the embedded API.
    Store,
    /// Watches, as over a real cluster: they are behind what was just written.
    Watches,
}

/// Which object: its name in the namespace `default` (where its kind has namespaces), or its namespace and name.
#[derive(Clone, Copy, Debug)]
pub struct Key<'k> {
    namespace: Option<&'k str>,
    name: &'k str,
}

impl<'k, N: AsRef<str> + ?Sized> From<&'k N> for Key<'k> {
    fn from(name: &'k N) -> Self {
        Self { namespace: None, name: name.as_ref() }
    }
}

impl<'k, S: AsRef<str> + ?Sized, N: AsRef<str> + ?Sized> From<(&'k S, &'k N)> for Key<'k> {
    fn from((namespace, name): (&'k S, &'k N)) -> Self {
        Self { namespace: Some(namespace.as_ref()), name: name.as_ref() }
    }
}

impl<'k> Key<'k> {
    fn of(self, kind: Kind) -> (&'k str, &'k str) {
        let namespace = if kind.is_namespaced() { NAMESPACE } else { "" };
        (self.namespace.unwrap_or(namespace), self.name)
    }
}

/// One API, and what runs on it.
pub struct Hub {
    /// Serves it.
    pub server: Server,
    /// Where its objects are.
    pub store: Store,
    /// Reads and writes them as an administrator.
    pub admin: Writer,
    running: Option<(Manager, CancellationToken)>,
    stock: Option<Stock>,
    _dir: tempfile::TempDir,
}

/// Kubernetes' own API server in place of ours.
struct Stock {
    client: Client,
    /// What the controllers read.
    read: BTreeSet<Kind>,
    _server: KubeApiserver,
}

/// Whether tests run before Kubernetes' own API server.
pub fn is_stock() -> bool {
    std::env::var("SELVEDGE_API").is_ok_and(|api| api == "kube-apiserver")
}

impl Stock {
    /// Starts a server; controllers that would make what every namespace has are not there, so it is made.
    fn start(dir: &std::path::Path) -> Self {
        let dir = dir.join("stock");
        // It waits for the server on a runtime of its own, which cannot be inside another.
        let start = move || {
            let server = KubeApiserver::start(&dir).expect("kube-apiserver starts");
            let server = server.expect("`cargo xtask install kube-apiserver` has built it");
            let text = std::fs::read_to_string(server.kubeconfig()).expect("it was written");
            let file = Kubeconfig::from_yaml(&text).expect("it is one");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let config = runtime.expect("a runtime can be made").block_on(async {
                let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
                let config = config.expect("it names one cluster");
                let admin = Writer::new(Client::try_from(config.clone()).expect("its certificates are right"));
                // What pods run as; the namespace comes a moment after the server is ready.
                let account = json!({
                    "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": NAMESPACE},
                });
                let made = until(async || admin.create(Kind::ServiceAccount, account.clone()).await).await;
                made.expect("it has the namespace");
                config
            });
            (server, config)
        };
        let (server, config) = std::thread::spawn(start).join().expect("a start that panics has said why");
        let client = Client::try_from(config).expect("its certificates are right");
        Self { client, read: BTreeSet::new(), _server: server }
    }
}

impl Hub {
    /// An API without any objects, in which nothing happens by itself. `configure` adds to its configuration what the test needs:
    /// admission, authorizers, other APIs beside it.
    pub fn new(configure: impl FnOnce(ServerConfig) -> ServerConfig) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let options = StoreOptions {
            indexed_fields: machinery_server::INDEXED_FIELDS.to_vec(),
            index_version: machinery_server::INDEX_VERSION,
            ..StoreOptions::default()
        };
        let store = Store::open(&dir.path().join("store"), options).expect("a new store opens");
        let server = Server::new(configure(ServerConfig::new(store.clone()))).expect("a new store lists");
        let stock = is_stock().then(|| Stock::start(dir.path()));
        let client = stock.as_ref().map_or_else(|| client_as(&server, administrator()), |stock| stock.client.clone());
        Self { server, store, admin: Writer::new(client), running: None, stock, _dir: dir }
    }

    /// A client of an administrator.
    pub fn client(&self) -> Client {
        self.client_of(administrator())
    }

    fn client_of(&self, identity: Identity) -> Client {
        self.stock.as_ref().map_or_else(|| client_as(&self.server, identity), |stock| stock.client.clone())
    }

    /// Changes with each write.
    pub async fn revision(&self) -> (u64, usize) {
        let Some(stock) = &self.stock else { return (self.store.current().0, 0) };
        let (mut newest, mut count) = (0, 0);
        for kind in &stock.read {
            let objects = self
                .admin
                .list_now(*kind, if kind.is_namespaced() { NAMESPACE } else { "" })
                .await
                .expect("the API responds");
            let revisions = objects.iter().filter_map(|one| one["metadata"]["resourceVersion"].as_str()?.parse().ok());
            newest = revisions.fold(newest, u64::max);
            count += objects.len();
        }
        (newest, count)
    }

    /// Reads and writes as somebody else does.
    pub fn as_user(&self, user: &str, groups: &[&str]) -> Writer {
        Writer::new(client_as(&self.server, Identity::new(user, groups.iter().copied())))
    }

    /// Creates the service account that pods in `default` have; there is a controller for it, which not every test starts.
    pub async fn make_service_account(&self) {
        self.make(Kind::ServiceAccount, json!({"metadata": {"name": "default"}})).await;
    }

    /// What a controller is handed, without that any runs: its Events are dropped.
    pub fn context(&self) -> Context {
        let (recorder, _) = Recorder::new(self.admin.clone(), WallClock::System, CancellationToken::new());
        let reader = StoreReader::new(self.store.clone());
        Context { reader, writer: self.admin.clone(), recorder, clock: WallClock::System }
    }

    /// Starts controllers, which read these kinds. A former start must have been stopped.
    pub async fn run(&mut self, source: Source, read: &[&[Kind]], start: impl AsyncFnOnce(&Manager)) {
        let client = self.client_of(Identity::controllers());
        self.run_with(client, source, read, start).await;
    }

    /// The same with a client of the test's own.
    pub async fn run_with(
        &mut self,
        client: Client,
        source: Source,
        read: &[&[Kind]],
        start: impl AsyncFnOnce(&Manager),
    ) {
        assert!(self.running.is_none(), "the controllers run already");
        let shutdown = CancellationToken::new();
        let kinds: BTreeSet<Kind> = read.iter().copied().flatten().copied().collect();
        let source = if self.stock.is_some() { Source::Watches } else { source };
        if let Some(stock) = &mut self.stock {
            stock.read.clone_from(&kinds);
        }
        let reader: Arc<dyn Reader> = match source {
            Source::Store => StoreReader::new(self.store.clone()),
            Source::Watches => Reflector::start(&client, &kinds.into_iter().collect::<Vec<_>>(), &shutdown),
        };
        let manager = Manager::new(client, reader, StatusRegistry::default(), shutdown.clone());
        start(&manager).await;
        self.running = Some((manager, shutdown));
    }

    /// A reader of these kinds until `shutdown`: of the store, or of watches where there is none.
    pub fn reader(&self, kinds: &[Kind], shutdown: &CancellationToken) -> Arc<dyn Reader> {
        match &self.stock {
            None => StoreReader::new(self.store.clone()),
            Some(stock) => Reflector::start(&stock.client, kinds, shutdown),
        }
    }

    /// The manager of the controllers, which must run.
    pub fn manager(&self) -> &Manager {
        &self.running.as_ref().expect("the controllers run").0
    }

    /// Stops the controllers, if they run, as a hub does that ends.
    pub async fn stop_controllers(&mut self) {
        let Some((manager, shutdown)) = self.running.take() else { return };
        shutdown.cancel();
        let ended = tokio::time::timeout(PATIENCE, manager.wait()).await;
        assert!(ended.is_ok(), "the controllers end at shutdown");
    }

    /// Stops the controllers, and deletes everything.
    pub async fn stop(mut self) {
        self.stop_controllers().await;
    }

    /// Waits until no controller has anything to do now, and nothing is written; the store's revision then.
    pub async fn settled(&self) -> u64 {
        let manager = self.manager();
        let (mut last, begun) = (None, Instant::now());
        // Thousands of objects take their time.
        while begun.elapsed() < 5 * PATIENCE {
            let status = manager.status().snapshot();
            let is_idle = status.iter().all(|one| one.synced && one.queue_length + one.running + one.failing == 0);
            let state = (self.revision().await, self.runs());
            if is_idle && last == Some(state) {
                return state.0.0;
            }
            last = Some(state);
            // Watches over a connection may be behind.
            tokio::time::sleep(if self.stock.is_some() { 5 * REST } else { REST }).await;
        }
        panic!("the controllers did not come to rest: {:?}", manager.status().snapshot());
    }

    /// Runs of all controllers so far.
    pub fn runs(&self) -> u64 {
        self.manager().status().snapshot().iter().map(|one| one.processed).sum()
    }

    /// Waits until a controller has failed; says why.
    pub async fn failing(&self, controller: &str) -> String {
        let last_error = async || {
            let status = self.manager().status().snapshot();
            let error = status.into_iter().find(|one| one.name == controller).and_then(|one| one.last_error);
            error.map(|error| error.message).ok_or(())
        };
        let failed = until(last_error).await;
        failed.unwrap_or_else(|()| panic!("the controller {controller} did not fail in {PATIENCE:?}"))
    }

    /// Creates an object; its kind need not be said again, nor the namespace `default`.
    pub async fn make(&self, kind: Kind, object: Value) -> Value {
        let mut full = json!({"apiVersion": kind.api_version(), "kind": kind.name()});
        for (field, value) in object.as_object().expect("the test's object is one") {
            full[field] = value.clone();
        }
        if kind.is_namespaced() && full["metadata"]["namespace"].is_null() {
            full["metadata"]["namespace"] = NAMESPACE.into();
        }
        if self.stock.is_none() {
            return self.admin.create(kind, full).await.expect("the API takes it").expect("it is new");
        }
        // A stock cluster has a namespace `default` by itself.
        let (namespace, name) = (full["metadata"]["namespace"].clone(), name_of(&full).to_owned());
        let key = (namespace.as_str().unwrap_or_default(), name.as_str());
        match self.admin.create(kind, full).await.expect("the API takes it") {
            // It is kept from pods until a controller has seen it to be ready.
            Some(_) if kind == Kind::Node => {
                self.admin.merge(kind, key, &json!({"spec": {"taints": null}})).await.expect("the API takes it");
                self.get(kind, &name).await
            }
            Some(made) => made,
            None => self.get(kind, key).await,
        }
    }

    /// Creates a node with these labels, of which nothing is reported yet.
    pub async fn node(&self, name: &str, labels: Value) {
        self.make(Kind::Node, json!({"metadata": {"name": name, "labels": labels}})).await;
    }

    /// An object, if there is one.
    pub async fn find<'k>(&self, kind: Kind, key: impl Into<Key<'k>>) -> Option<Value> {
        self.admin.get_now(kind, key.into().of(kind)).await.expect("the API responds")
    }

    /// An object that there must be.
    pub async fn get<'k>(&self, kind: Kind, key: impl Into<Key<'k>>) -> Value {
        let key = key.into();
        self.find(kind, key).await.unwrap_or_else(|| panic!("there is no {} {key:?}", kind.name()))
    }

    /// All objects of a kind in `default`.
    pub async fn list(&self, kind: Kind) -> Vec<Value> {
        self.admin.list_now(kind, NAMESPACE).await.expect("the API responds")
    }

    /// Merges a patch into an object that there must be.
    pub async fn patch<'k>(&self, kind: Kind, key: impl Into<Key<'k>>, patch: Value) {
        let key = key.into();
        let is_there = self.admin.merge(kind, key.of(kind), &patch).await.expect("the API takes the patch");
        assert!(is_there, "there is no {} {key:?}", kind.name());
    }

    /// Deletes an object that there must be.
    pub async fn delete<'k>(&self, kind: Kind, key: impl Into<Key<'k>>, grace_s: Option<u32>) {
        let object = self.get(kind, key).await;
        self.admin.delete(kind, &object, grace_s).await.expect("the API deletes it");
    }

    /// Reports what kubelets do of pods that run.
    pub async fn make_ready(&self, pods: impl IntoIterator<Item = &Value>) {
        let since = hub_runtime::events::seconds(jiff::Timestamp::now());
        let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": since});
        let status = json!({"phase": "Running", "conditions": [ready]});
        for pod in pods {
            let is_there = self.admin.merge_status(Kind::Pod, (NAMESPACE, name_of(pod)), &status).await;
            assert!(is_there.expect("the API takes the status"), "there is no pod {}", name_of(pod));
        }
    }

    /// Does what kubelets do once pods that are to be deleted have ended.
    pub async fn end_pods(&self) {
        for pod in self.list(Kind::Pod).await {
            if !is_alive(&pod) {
                self.admin.delete(Kind::Pod, &pod, Some(0)).await.expect("the API deletes it");
            }
        }
    }

    /// Waits for a state of one object, or for its end.
    pub async fn eventually<'k>(
        &self,
        kind: Kind,
        key: impl Into<Key<'k>>,
        holds: impl Fn(Option<&Value>) -> bool,
    ) -> Value {
        let key = key.into();
        let look = async || {
            let found = self.find(kind, key).await;
            if holds(found.as_ref()) { Ok(found.unwrap_or_default()) } else { Err(found) }
        };
        until(look).await.unwrap_or_else(|last| {
            panic!("{} {key:?} did not come to be so in {PATIENCE:?}; last seen: {last:#?}", kind.name())
        })
    }

    /// Waits for a state of one object that there is.
    pub async fn with<'k>(&self, kind: Kind, key: impl Into<Key<'k>>, holds: impl Fn(&Value) -> bool) -> Value {
        self.eventually(kind, key, |object| object.is_some_and(&holds)).await
    }

    /// Waits until so many pods in `default` are not on their way out.
    pub async fn alive_pods(&self, count: usize) -> Vec<Value> {
        let look = async || {
            let mut pods = self.list(Kind::Pod).await;
            pods.retain(is_alive);
            if pods.len() == count { Ok(pods) } else { Err(pods) }
        };
        until(look)
            .await
            .unwrap_or_else(|last| panic!("{count} pods did not come to be in {PATIENCE:?}; last seen: {last:#?}"))
    }

    /// Reasons and messages of the Events of an object in `default`, in the order in which they were first written.
    pub async fn events(&self, name: &str) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        self.events_of(name).await.iter().map(|event| (text(&event["reason"]), text(&event["message"]))).collect()
    }

    /// Waits for an Event of an object.
    pub async fn event_of(&self, name: &str, reason: &str) -> Value {
        let look = async || {
            let events = self.events_of(name).await;
            let reasons: Vec<Value> = events.iter().map(|event| event["reason"].clone()).collect();
            events.into_iter().find(|event| event["reason"] == reason).ok_or(reasons)
        };
        until(look)
            .await
            .unwrap_or_else(|seen| panic!("no Event {reason} of {name} came in {PATIENCE:?}, only {seen:?}"))
    }

    async fn events_of(&self, name: &str) -> Vec<Value> {
        let mut events = self.list(Kind::Event).await;
        events.retain(|event| event["involvedObject"]["name"] == name);
        events.sort_by_key(|event| {
            event["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse::<u64>().ok())
        });
        events
    }
}

/// Looks until it is `Ok`, or until the last `Err` when that takes too long.
pub async fn until<T, E>(look: impl AsyncFn() -> Result<T, E>) -> Result<T, E> {
    let begun = Instant::now();
    loop {
        match look().await {
            Err(_) if begun.elapsed() < PATIENCE => tokio::time::sleep(LOOK_EVERY).await,
            done => return done,
        }
    }
}

/// The name of an object.
pub fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().expect("every object has a name")
}

/// Whether an object is not on its way out.
pub fn is_alive(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_null()
}

/// One of `status.conditions`; null when there is none of the type.
pub fn condition<'o>(object: &'o Value, r#type: &str) -> &'o Value {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().find(|one| one["type"] == r#type).unwrap_or(&Value::Null)
}

fn administrator() -> Identity {
    Identity::new("admin", ["system:masters"])
}

fn client_as(server: &Server, identity: Identity) -> Client {
    Client::new(server.in_process(identity), NAMESPACE)
}
