//! The kubelet of an edge node: joins a hub, runs the pods it is given, and keeps them running with no hub in sight.
//!
//! The hub is a source of wishes, not a condition for work. Every object is written to the offline [`store`] before
//! anything is done about it, and a start begins from there, without waiting for a network, a clock or the hub:
//!
//! ```text
//! hub ──list, watch──▶ sources ──▶ store (disk) ──▶ pods ──▶ one worker per pod ──▶ PodRuntime
//!  ▲                                                               │
//!  └───────────── status patches, events, lease, node ◀────────────┘
//! ```
//!
//! - [`join`] and [`identity`]: from a token to a certificate, and its renewal.
//! - [`hub`]: the one connection to the hub, over which all requests and watches go.
//! - [`sources`]: what the hub wants; [`store`]: what of it is on disk.
//! - [`tokens`]: tokens of service accounts, by which programs in pods call the hub.
//! - [`pods`]: what to do about it. `pods::reconcile` decides, as a plain function; `pods::worker` acts.
//! - [`node_status`], [`lease`]: what the hub learns of the node.
//! - [`server`]: logs for the hub, the status socket for `selvedge status`; [`metrics`] on both.
//!
//! **Invariant:** a container is stopped because a wish says so (a pod deleted, or absent from a *successful* list),
//! never because a wish could not be read.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api_edge::status::NodeReport;
use base_http::{Address, Listener, Ports, ServerTls};
use base_observe::Metrics;
use base_pki::San;
use base_retry::Wake;
use node_runtime::PodRuntime;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

mod config;
mod env;
mod events;
mod hub;
mod identity;
mod join;
mod lease;
mod logs;
mod metrics;
mod node_status;
mod pods;
mod probes;
mod report;
mod server;
mod sources;
mod store;
mod tokens;
mod volumes;

pub use config::{ConfigError, KubeletConfig, Taint, default_node_name, is_hub_url};
pub use identity::{Identity, IdentityError};
pub use store::StoreError;
pub use volumes::remove_pods;

use pods::Command;
use report::{Board, chain};

/// Commands that wait for the manager; the hub's watch waits when it is full.
const COMMANDS_MAX: usize = 64;
/// A serving certificate that was not signed is asked for again this often.
const SERVING_RETRY: Duration = Duration::from_secs(60);

/// The runtimes of this node; each answers to the `runtimeClassName` that its `handler()` names.
pub type Runtimes = Vec<Arc<dyn PodRuntime>>;

/// Why the kubelet could not start. Nothing was run or stopped when this is returned.
#[derive(Debug, thiserror::Error)]
pub enum StartKubeletError {
    /// Settings that cannot be used, all of them.
    #[error("failed to start the kubelet with this configuration:{}", list(.0))]
    Config(Vec<ConfigError>),
    /// Neither joined before nor able to join now.
    #[error("this node has not joined a hub yet: give {} (`selvedge token create` on the hub makes a token)", .missing.join(" and "))]
    NotJoined {
        /// What it needs beside what it has.
        missing: Vec<&'static str>,
    },
    /// What a former start left cannot be read, or is another node's.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The offline store cannot be used.
    #[error("failed to open the offline store")]
    Store(#[from] StoreError),
    /// A folder cannot be made.
    #[error("failed to make the folder {}", path.display())]
    Folder {
        /// The folder.
        path: std::path::PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The kubelet's own listeners.
    #[error("failed to open the kubelet's own listeners")]
    Listen(#[from] base_http::BindError),
    /// `ports.json` cannot be written.
    #[error("failed to record where the kubelet listens")]
    Ports(#[from] base_http::PortsError),
}

fn list(mistakes: &[ConfigError]) -> String {
    mistakes.iter().map(|mistake| format!("\n  {mistake}")).collect()
}

/// The kubelet: start it with [`Kubelet::start`].
#[derive(Debug)]
pub struct Kubelet;

impl Kubelet {
    /// Binds the listeners, opens the offline store and starts the tasks. Pods of the offline store are started or
    /// adopted at once; joining and everything else that needs the hub goes on in the background until it succeeds.
    ///
    /// Cancelling `shutdown` ends the kubelet and leaves the pods running: the next start adopts them. To stop them
    /// as well, call [`KubeletHandle::stop_pods`] first.
    pub async fn start(
        config: KubeletConfig,
        runtimes: Runtimes,
        shutdown: CancellationToken,
    ) -> Result<KubeletHandle, StartKubeletError> {
        let mistakes = config.mistakes();
        if !mistakes.is_empty() {
            return Err(StartKubeletError::Config(mistakes));
        }
        let known = load_identity(&config)?;
        let needs = [
            ("the hub's URL with --hub", config.hub_urls.is_empty()),
            ("a token with --token", config.token.is_none()),
        ];
        let missing: Vec<&str> =
            needs.into_iter().filter(|(_, is_missing)| *is_missing).map(|(what, _)| what).collect();
        if known.is_none() && !missing.is_empty() {
            return Err(StartKubeletError::NotJoined { missing });
        }
        for folder in ["node/pki", "node/store", "node/pods", "run"] {
            make_folder(&config.data_dir.join(folder))?;
        }
        let tasks = TaskTracker::new();
        let store = Arc::new(store::Store::open(&config.data_dir, tasks.token())?);
        let board = Board::new(&config.node_name);
        if let Some(repairs) = store.repairs() {
            warn!(%repairs, "The offline store was repaired after a crash.");
            board.error(format!("the offline store was repaired: {repairs}"));
        }
        let api = Listener::bind("node-kubelet", config.listen)?;
        let socket = Listener::bind("node-status", Address::Unix(config.data_dir.join("run/node.sock")))?;
        Ports::record(&config.data_dir, "node-kubelet", api.address())?;
        let address = match api.address() {
            Address::Tcp(address) => *address,
            Address::Unix(_) => config.listen,
        };
        Ok(spawn(Parts { config, runtimes, shutdown, tasks, known, store, board, api, socket, address }))
    }
}

fn make_folder(path: &Path) -> Result<(), StartKubeletError> {
    std::fs::create_dir_all(path).map_err(|source| StartKubeletError::Folder { path: path.to_owned(), source })
}

/// The identity of a former start, with the hubs of the configuration put first.
fn load_identity(config: &KubeletConfig) -> Result<Option<Identity>, StartKubeletError> {
    let Some(mut identity) = Identity::load(&config.data_dir)? else { return Ok(None) };
    if identity.node_name != config.node_name {
        let (found, wanted) = (identity.node_name, config.node_name.clone());
        return Err(IdentityError::OtherNode { found, wanted }.into());
    }
    if let Some(token) = &config.token {
        identity.check_hub("the token is", &token.ca_sha256)?;
    }
    if let Some(ca) = &config.ca {
        identity.check_hub("the CA is", &base_pki::ca_fingerprint(ca).map_err(IdentityError::from)?)?;
    }
    if config.token.is_some() {
        info!(node = %identity.node_name, "This node has joined before; the token is used only if the hub refuses its key.");
    }
    if !config.hub_urls.is_empty() && config.hub_urls != identity.hub_urls {
        let mut urls = config.hub_urls.clone();
        urls.extend(identity.hub_urls.iter().filter(|url| !config.hub_urls.contains(url)).cloned());
        identity.hub_urls = urls;
        identity.save(&config.data_dir)?;
    }
    Ok(Some(identity))
}

/// Everything that was opened, before a task is started.
struct Parts {
    config: KubeletConfig,
    runtimes: Runtimes,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    known: Option<Identity>,
    store: Arc<store::Store>,
    board: Board,
    api: Listener,
    socket: Listener,
    address: SocketAddr,
}

fn spawn(parts: Parts) -> KubeletHandle {
    let Parts { config, runtimes, shutdown, tasks, known, store, board, api, socket, address } = parts;
    let name = config.node_name.clone();
    let machine = Arc::new(node_status::machine());
    let (hub, keeper) = hub::hub();
    keeper.expect(known.as_ref().map_or(&config.hub_urls, |known| &known.hub_urls));
    let restored = hub.restored();
    let (commands, command_rx) = mpsc::channel(COMMANDS_MAX);
    let (publications, publication_rx) = mpsc::channel(COMMANDS_MAX);
    let (events, notes) = events::events();
    let (wanted_tx, wanted) = watch::channel(Default::default());
    let (tokens_tx, wanted_tokens) = watch::channel(Default::default());
    let (present_tx, assignment_present) = watch::channel(store.assignment_present());
    let (node_ip_tx, node_ip) = watch::channel(config.node_ip.or_else(route_ip));
    let (node_uid_tx, node_uid) = watch::channel(None);
    let (registered_tx, registered) = watch::channel(false);
    let (refused_tx, refused) = watch::channel(None);
    let identity_tx = Arc::new(watch::channel(known.map(Arc::new)).0);
    let identity = identity_tx.subscribe();
    let (access_tx, access) = watch::channel(None);

    // Pods first: they wait for nothing.
    let context = Arc::new(pods::Context {
        config: config.clone(),
        store: store.clone(),
        hub: hub.clone(),
        node_ip: node_ip.clone(),
        cpu_millis: machine.cpu_millis,
        memory_bytes: machine.memory_bytes,
        events: events.clone(),
        publications: publications.clone(),
        board: board.clone(),
        sync_seconds: config.metrics.histogram(
            "kubelet_pod_worker_duration_seconds",
            "Time that one step of a pod took: deciding, acting, publishing its status",
        ),
    });
    metrics::register(&config.metrics, &board, &store);
    let wanted_by_pods = pods::Wanted { objects: wanted_tx, tokens: tokens_tx };
    let manager = pods::Manager::new(context, runtimes, commands.clone(), wanted_by_pods, shutdown.clone());
    tasks.spawn(manager.run(command_rx));
    let (status_board, figures) = (board.clone(), config.metrics.clone());
    let links = (hub.restored(), shutdown.clone());
    let status_handler =
        move |request, _peer| server::answer_status(request, status_board.clone(), figures.clone(), links.clone());
    tasks.spawn(ended(base_http::serve(socket, status_handler, shutdown.clone())));

    // Then the hub, whenever it comes.
    tasks.spawn(identify(
        config.clone(),
        hub.clone(),
        identity_tx.clone(),
        access_tx,
        refused_tx,
        board.clone(),
        shutdown.clone(),
    ));
    tasks.spawn(hub::run(keeper, access, board.clone(), shutdown.clone()));
    tasks.spawn(join::renew(hub.clone(), config.data_dir.clone(), identity_tx, board.clone(), shutdown.clone()));
    tasks.spawn(serve_api(Api {
        listener: api,
        name: name.clone(),
        node_ip,
        hub: hub.clone(),
        identity: identity.clone(),
        registered: registered.clone(),
        commands: commands.clone(),
        metrics: config.metrics.clone(),
        shutdown: shutdown.clone(),
    }));
    tasks.spawn(pods::publisher::run(hub.clone(), publication_rx, board.clone(), shutdown.clone()));
    tasks.spawn(events::run(hub.clone(), name.clone(), notes, shutdown.clone()));
    tasks.spawn(lease::run(hub.clone(), config.clone(), node_uid, shutdown.clone()));
    let registration = node_status::Registration {
        config,
        machine,
        port: address.port(),
        node_ip: node_ip_tx,
        node_uid: node_uid_tx,
        registered: registered_tx,
        events,
        board: board.clone(),
    };
    tasks.spawn(node_status::run(hub.clone(), registration, shutdown.clone()));
    let (feed, told) = (commands.clone(), shutdown.clone());
    tasks.spawn(sources::pods(hub.clone(), name.clone(), store.clone(), feed, publications, board.clone(), told));
    tasks.spawn(sources::objects(hub.clone(), store.clone(), wanted, commands.clone(), shutdown.clone()));
    let (feed, ending) = (commands.clone(), shutdown.clone());
    base_observe::spawn_named(
        &tasks,
        "pod-tokens",
        tokens::run(hub.clone(), store.clone(), wanted_tokens, feed, board.clone(), ending),
    );
    tasks.spawn(sources::assignment(hub, name, store, present_tx, board.clone(), shutdown));
    tasks.close();
    KubeletHandle { address, commands, assignment_present, identity, registered, refused, restored, board, tasks }
}

/// Waits for a server; it ends by the shutdown token.
async fn ended(server: tokio::task::JoinHandle<()>) {
    // A panic in it was logged by the server itself.
    let _ = server.await;
}

/// The address by which this machine would leave for the world; nothing is sent.
fn route_ip() -> Option<IpAddr> {
    let socket = std::net::UdpSocket::bind(("0.0.0.0", 0)).ok()?;
    socket.connect(("192.0.2.1", 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_unspecified())
}

/// Joins if need be, then keeps the hub connection's credentials those of the identity.
async fn identify(
    config: KubeletConfig,
    hub: hub::Hub,
    identity: Arc<watch::Sender<Option<Arc<Identity>>>>,
    access: watch::Sender<Option<hub::Access>>,
    refused: watch::Sender<Option<String>>,
    board: Board,
    shutdown: CancellationToken,
) {
    let known = identity.borrow().clone();
    let mut joiner = config.token.clone().map(|token| join::Joiner {
        data_dir: config.data_dir.clone(),
        node_name: config.node_name.clone(),
        hub_urls: known.as_ref().map_or_else(|| config.hub_urls.clone(), |known| known.hub_urls.clone()),
        token,
        ca: config.ca.clone(),
        is_first: known.is_none(),
    });
    if known.is_none()
        && let Some(joiner) = joiner.take()
    {
        info!(node = %config.node_name, hubs = ?config.hub_urls, "Joining.");
        match join::join(joiner, board.clone(), &refused, &shutdown).await {
            Some(joined) => identity.send_replace(Some(Arc::new(joined))),
            None => return,
        };
    }
    let mut changes = identity.subscribe();
    loop {
        let current = changes.borrow_and_update().clone();
        match current.as_deref().map(Identity::access) {
            Some(Ok(next)) => {
                access.send_replace(Some(next));
            }
            Some(Err(error)) => {
                board.error(chain(&error));
                tracing::error!(error = %chain(&error), "The node's identity cannot be used; run `selvedge reset` and join again.");
            }
            None => {}
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            // A certificate that was renewed ends a join as well: the hub has just signed it.
            changed = changes.changed() => match changed {
                Ok(()) => drop(refused.send_replace(None)),
                Err(_) => return,
            },
            // A node whose key the hub refuses (its Node was deleted, say) joins again when it was given a token.
            joined = async {
                match &joiner {
                    Some(joiner) => join::join_again(&hub, joiner, &board, &refused, &shutdown).await,
                    None => std::future::pending().await,
                }
            } => match joined {
                Some(joined) => {
                    joiner = None;
                    identity.send_replace(Some(Arc::new(joined)));
                }
                None => return,
            },
        }
    }
}

/// What the kubelet's API is served with.
struct Api {
    listener: Listener,
    name: String,
    node_ip: watch::Receiver<Option<IpAddr>>,
    hub: hub::Hub,
    identity: watch::Receiver<Option<Arc<Identity>>>,
    registered: watch::Receiver<bool>,
    commands: mpsc::Sender<Command>,
    metrics: Metrics,
    shutdown: CancellationToken,
}

/// Serves the kubelet's API once the node has joined (before that nobody could prove to be its administrator): with a
/// certificate of its own at first, with the hub's as soon as that is signed.
async fn serve_api(mut api: Api) {
    let identity = tokio::select! {
        () = api.shutdown.cancelled() => return,
        identity = api.identity.wait_for(Option::is_some) => match identity {
            Ok(identity) => identity.clone(),
            Err(_) => return,
        },
    };
    let Some(identity) = identity else { return };
    let tls = match self_signed(&api.name, &identity.ca_pem) {
        Ok(tls) => tls,
        Err(error) => {
            tracing::error!(error = %error, "Failed to set up the kubelet's API; `kubectl logs` will not work.");
            return;
        }
    };
    let (commands, metrics) = (api.commands.clone(), api.metrics.clone());
    let handler = move |request, peer| server::answer(request, peer, commands.clone(), metrics.clone());
    let serving = base_http::serve(api.listener.with_tls(tls.clone()), handler, api.shutdown.clone());
    tokio::select! {
        () = api.shutdown.cancelled() => {}
        () = sign_serving(&mut api.hub, &api.name, api.node_ip, api.registered, &tls) => {}
    }
    // An open `kubectl logs -f` would hold the drain for good: its reader ends with the manager.
    ended(serving).await;
}

fn self_signed(name: &str, client_ca: &str) -> Result<ServerTls, Box<dyn std::error::Error + Send + Sync>> {
    let ca = base_pki::Ca::create(&format!("{name}-kubelet"))?;
    let issued = ca.sign(&base_pki::IssueRequest {
        cn: name.to_owned(),
        orgs: Vec::new(),
        sans: vec![San::from(name)],
        usage: base_pki::Usage::Server,
        validity: Duration::from_secs(365 * 24 * 3600),
    })?;
    Ok(ServerTls::new(&issued.cert_pem, &issued.key_pem, Some(client_ca))?)
}

/// Gets a serving certificate from the hub, and a new one each time it reaches three quarters of its life or the
/// node's address changes. Never returns.
async fn sign_serving(
    hub: &mut hub::Hub,
    name: &str,
    mut node_ip: watch::Receiver<Option<IpAddr>>,
    mut registered: watch::Receiver<bool>,
    tls: &ServerTls,
) {
    // A node that is registered knows by which address the hub sees it; before, it would ask twice. An error means that the
    // kubelet is stopping.
    if registered.wait_for(|registered| *registered).await.is_err() {
        return std::future::pending().await;
    }
    let mut retry = hub.retry();
    loop {
        hub.connected().await;
        retry.attempt();
        let mut sans = vec![San::from(name), San::Ip(IpAddr::from([127, 0, 0, 1]))];
        sans.extend(node_ip.borrow_and_update().map(San::Ip).filter(|ip| !sans.contains(ip)));
        let signed = match join::serving_certificate(hub, name, &sans).await {
            Ok((cert_pem, key_pem)) => {
                let (_, until) = base_pki::validity(&cert_pem).unwrap_or_default();
                tls.replace(&cert_pem, &key_pem).map(|()| until).map_err(|error| chain(&error))
            }
            Err(error) => Err(chain(&error)),
        };
        let is_signed = signed.is_ok();
        let wait = match signed {
            Ok(until) => {
                debug!("The kubelet's API has a certificate of the hub.");
                let left = until.saturating_sub(jiff::Timestamp::now().as_second());
                Duration::from_secs(u64::try_from(left).unwrap_or(0)).mul_f64(0.75).max(SERVING_RETRY)
            }
            Err(error) => {
                debug!(%error, "The kubelet's API keeps its own certificate for now.");
                SERVING_RETRY
            }
        };
        tokio::select! {
            // A certificate that was signed needs no restored link.
            _ = retry.rest(wait), if !is_signed => {}
            () = tokio::time::sleep(wait), if is_signed => {}
            Ok(()) = node_ip.changed() => {}
        }
    }
}

/// A running kubelet.
#[derive(Debug)]
pub struct KubeletHandle {
    address: SocketAddr,
    commands: mpsc::Sender<Command>,
    assignment_present: watch::Receiver<bool>,
    identity: watch::Receiver<Option<Arc<Identity>>>,
    registered: watch::Receiver<bool>,
    refused: watch::Receiver<Option<String>>,
    restored: Wake,
    board: Board,
    tasks: TaskTracker,
}

impl KubeletHandle {
    /// Where the kubelet's own API listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes `pods` (Pod manifests as JSON) the node's static pods: new ones are started, changed ones replaced, those
    /// no longer named are stopped. Static pods run without the hub's knowledge; with a hub they appear there as
    /// mirror pods. Until the first call, static pods of an earlier kubelet are left as they are.
    pub async fn set_static_pods(&self, pods: Vec<Value>) {
        // The manager is gone after shutdown only, when nothing is to be started any more.
        let _ = self.commands.send(Command::StaticPods(pods)).await;
    }

    /// Whether this node's NodeAssignment has entries: known from the offline store at once, from the hub later.
    pub fn assignment_present(&self) -> watch::Receiver<bool> {
        self.assignment_present.clone()
    }

    /// The node's certificate and hubs; `None` until it has joined. Changes when the certificate is renewed.
    pub fn identity(&self) -> watch::Receiver<Option<Arc<Identity>>> {
        self.identity.clone()
    }

    /// Whether the Node object is at the hub and reported Ready.
    pub fn registered(&self) -> watch::Receiver<bool> {
        self.registered.clone()
    }

    /// Why the hub and this node do not agree on joining (a wrong CA, a refused token), while that is so. The kubelet
    /// goes on trying; a person at a terminal should be told, and the program may end. The reason for which a first join
    /// does not succeed is logged nowhere else.
    pub fn join_refused(&self) -> watch::Receiver<Option<String>> {
        self.refused.clone()
    }

    /// What is called whenever a connection to the hub was made: for others on this node that wait for the same link. Those
    /// in other processes read `/connections` of the status socket.
    pub fn hub_restored(&self) -> Wake {
        self.restored.clone()
    }

    /// What the status socket tells at this moment.
    pub fn report(&self) -> NodeReport {
        self.board.report()
    }

    /// Stops every pod's containers within `grace` and waits for it; the pods stay wished for and start again with the
    /// next kubelet.
    pub async fn stop_pods(&self, grace: Duration) {
        let (done, stopped) = oneshot::channel();
        if self.commands.send(Command::StopAll { grace, done }).await.is_ok() {
            // An error means that the kubelet ended meanwhile.
            let _ = stopped.await;
        }
    }

    /// Waits until every task has ended after the shutdown token was cancelled and the data folder is free for the next
    /// kubelet.
    pub async fn stopped(&self) {
        self.tasks.wait().await;
    }
}
