//! The kubelet of an edge node: joins a hub, runs the pods it is given, and keeps them running with no hub in sight.
//!
//! The hub is a source of desired state, not a condition for work. Every object is written to the offline store before anything is
//! done about it, and a start begins from there, without waiting for a network, a clock or the hub:
//!
//! ```text
//! node-client   the one connection to the hub: requests, list-watch, events
//! node-agent    from a token to a certificate; the Lease; the Node and its conditions
//! node-pods     desired state ──▶ store (disk) ──▶ one worker per pod ──▶ PodRuntime (node-runtime)
//! node-kubelet  puts these together; logs and pods for the hub, the status socket for `selvedge status`, metrics
//! ```
//!
//! - **Where is it?** Settings and their mistakes: [`KubeletConfig`]. What is started in which order: this file. The HTTP API: `server`.
//! - **May I touch it?** **Invariant:** a container is stopped because its pod was deleted on the hub that started it (or is absent from a
//!   complete list of that hub), because it ended, because the node runs short and the pod was chosen to be evicted, or because a
//!   person here said so; never because something could not be read.
//!   Every long task is supervised: its panic is reported, makes the Node not Ready, and is followed by a restart.
//! - **How do I try it?** `cargo test -p node-kubelet`; `cargo xtask test --black-box hostile_hub`.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api_edge::services::ServiceRecord;
use api_edge::status::NodeReport;
use base_http::{Address, Listener, Ports, ServerTls};
use base_observe::Metrics;
use base_pki::San;
use base_retry::Wake;
use node_agent::{join, lease, node_status};
use node_client::{Access, ApiClient, ConnectionManager, StatusRegistry, Verified, chain, supervise};
use node_pods::{Context, PodTable, Pods, PodsConfig, PodsParts, Store};
use serde_json::Value;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

mod assignment;
mod callers;
mod config;
mod endpoints;
mod eviction;
mod images;
mod machine_shutdown;
mod metrics;
mod network;
mod server;
mod stats;
mod usage;

use callers::Callers;
pub use config::{ConfigError, KubeletConfig, default_node_name, is_hub_url};
pub use endpoints::{Endpoint, EndpointPort, endpoints};
pub use eviction::{Amount, BadThreshold, EvictionSettings, Signal, SoftThreshold};
pub use images::{IMAGES_BYTES_MAX, ImageError, ImageList, ImageRequest, ImagesRemoved};
pub use machine_shutdown::{MachineShutdown, ShutdownGroup};
pub use network::{NetworkSettings, NodeNetwork, OpenNetworkError};
pub use node_agent::{Identity, IdentityError, Taint, hold};
pub use node_client::Notice;
pub use node_network::Subnet;
pub use node_pods::{LogLinks, NodeDns, Runtimes, StoreError, pod_uids, remove_pods};
use stats::Stats;

/// A serving certificate that was not signed is requested again this often.
const SERVING_RETRY: Duration = Duration::from_secs(60);

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
    /// A directory cannot be made.
    #[error("failed to make the directory {}", path.display())]
    Folder {
        /// The directory.
        path: std::path::PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The kubelet's own listeners.
    #[error("failed to open the kubelet's own listeners")]
    Listen(#[from] base_http::BindError),
}

fn list(mistakes: &[ConfigError]) -> String {
    mistakes.iter().map(|mistake| format!("\n  {mistake}")).collect()
}

/// The kubelet: start it with [`Kubelet::start`].
#[derive(Debug)]
pub struct Kubelet;

impl Kubelet {
    /// Whether a kubelet can start so, as far as that can be seen without changing anything.
    ///
    /// # Errors
    /// What [`Kubelet::start`] fails with before it has done anything.
    pub fn check(config: &KubeletConfig) -> Result<(), StartKubeletError> {
        let mistakes = config.mistakes();
        if !mistakes.is_empty() {
            return Err(StartKubeletError::Config(mistakes));
        }
        match Identity::load(&config.data_dir) {
            Ok(Some(known)) if known.node_name != config.node_name => {
                let (found, desired) = (known.node_name, config.node_name.clone());
                Err(IdentityError::OtherNode { found, desired }.into())
            }
            Ok(known) => can_join(config, known.is_some()),
            Err(error) if error.is_damage() => can_join(config, has_pods(&config.data_dir)),
            Err(error) => Err(error.into()),
        }
    }

    /// Binds the listeners, opens the offline store and starts the tasks. Pods of the offline store are started or
    /// adopted at once; joining and everything else that needs the hub continues in the background until it succeeds.
    ///
    /// Cancelling `shutdown` ends the kubelet and leaves the pods running: the next start adopts them. To stop them
    /// as well, call [`KubeletHandle::stop_pods`] first.
    pub async fn start(
        config: KubeletConfig,
        runtimes: Runtimes,
        shutdown: CancellationToken,
    ) -> Result<KubeletHandle, StartKubeletError> {
        Self::check(&config)?;
        let (known, damage) = load_identity(&config)?;
        for directory in ["node/pki", "node/store", "node/pods", "run"] {
            make_folder(&config.data_dir.join(directory))?;
        }
        let tasks = TaskTracker::new();
        let mut store = Store::open(&config.data_dir, tasks.token())?;
        let registry = StatusRegistry::new(&config.node_name);
        store.report_to(registry.clone());
        let store = Arc::new(store);
        if let Some(damage) = damage {
            tracing::error!(%damage, "The node's identity cannot be read.");
            registry.error(damage);
        }
        if let Some(repairs) = store.repairs() {
            warn!(%repairs, "The offline store was repaired after a crash.");
            registry.error(format!("the offline store was repaired: {repairs}"));
        }
        let api = Listener::bind("node-kubelet", config.listen)?;
        let socket = bind_status_socket(&config.data_dir, &registry)?;
        // Whoever looks for the port there finds none; pods run all the same, on a disk that is full above all.
        if let Err(error) = Ports::record(&config.data_dir, "node-kubelet", api.address()) {
            warn!(error = %chain(&error), "Failed to record where the kubelet listens.");
            registry.error(format!("ports.json: {}", chain(&error)));
        }
        let address = match api.address() {
            Address::Tcp(address) => *address,
            Address::Unix(_) => config.listen,
        };
        take_up_network(&config, &runtimes, &store).await;
        Ok(spawn(Parts { config, runtimes, shutdown, tasks, known, store, registry, api, socket, address }))
    }
}

/// Gives the pods of an earlier kubelet their addresses and ports back before any new pod begins.
async fn take_up_network(config: &KubeletConfig, runtimes: &Runtimes, store: &Arc<Store>) {
    let Some(network) = config.network.clone() else { return };
    let mut found = Vec::new();
    for runtime in runtimes {
        // The manager says why it cannot list them.
        found.extend(runtime.list_pods().await.unwrap_or_default());
    }
    let store = store.clone();
    let taking = tokio::task::spawn_blocking(move || {
        network.take_up(&store.pods_with_addresses(), &found, &store.last_addresses());
    });
    if let Err(panic) = taking.await {
        std::panic::resume_unwind(panic.into_panic());
    }
}

/// Where `selvedge status` asks the node of a data directory, in the order in which to try: all but the first are in memory, for a
/// disk that became read-only.
pub fn status_sockets(data_dir: &Path) -> Vec<std::path::PathBuf> {
    let name = node_runtime::name_of(data_dir);
    let in_memory = node_runtime::in_memory_dirs().into_iter().map(|dir| dir.join(format!("node-{name}.sock")));
    [data_dir.join("run/node.sock")].into_iter().chain(in_memory).collect()
}

fn bind_status_socket(data_dir: &Path, registry: &StatusRegistry) -> Result<Listener, base_http::BindError> {
    let mut sockets = status_sockets(data_dir).into_iter();
    let path = sockets.next().expect("the one on the disk is the first");
    let error = match Listener::bind("node-status", Address::Unix(path)) {
        Err(error @ base_http::BindError::Bind { .. }) => error,
        bound => return bound,
    };
    for path in sockets {
        if path.parent().is_none_or(|dir| node_runtime::make_in_memory_dir(dir).is_err()) {
            continue;
        }
        if let Ok(bound) = Listener::bind("node-status", Address::Unix(path)) {
            warn!(address = %bound.address(), "The disk takes no socket: the node's status is in memory.");
            registry.error("the data directory takes no file: its disk is read-only or damaged".to_owned());
            return Ok(bound);
        }
    }
    Err(error)
}

fn make_folder(path: &Path) -> Result<(), StartKubeletError> {
    std::fs::create_dir_all(path).map_err(|source| StartKubeletError::Folder { path: path.to_owned(), source })
}

/// A node without an identity needs what it joins with, unless it has pods to look after.
fn can_join(config: &KubeletConfig, may_lack_it: bool) -> Result<(), StartKubeletError> {
    let needs =
        [("the hub's URL with --hub", config.hub_urls.is_empty()), ("a token with --token", config.token.is_none())];
    let missing: Vec<&str> = needs.into_iter().filter(|(_, is_missing)| *is_missing).map(|(what, _)| what).collect();
    if may_lack_it || missing.is_empty() { Ok(()) } else { Err(StartKubeletError::NotJoined { missing }) }
}

/// The identity of a former start, with the hubs of the configuration put first, and what is wrong with it.
///
/// A token of another hub takes the node there: its pods run on, and are on hold until that hub knows them or a person decides. A
/// damaged identity is put aside: pods need none to run.
fn load_identity(config: &KubeletConfig) -> Result<(Option<Identity>, Option<String>), StartKubeletError> {
    let mut identity = match Identity::load(&config.data_dir) {
        Ok(Some(identity)) => identity,
        Ok(None) => return Ok((None, None)),
        Err(error) if error.is_damage() => {
            let path = Identity::path(&config.data_dir);
            let aside = path.with_extension("json.damaged");
            // On a disk that cannot be written it is found again by the next start.
            let _ = std::fs::rename(&path, &aside);
            let text = format!(
                "{}; pods run without it; join again with a token (the file is now {})",
                chain(&error),
                aside.display()
            );
            return Ok((None, Some(text)));
        }
        Err(error) => return Err(error.into()),
    };
    let given = config.given_cas()?;
    let moves = config.token.is_some() && identity.is_of_another_hub(&given);
    let mut is_changed = false;
    if let (Some(ca), false) = (&config.ca, moves) {
        if identity.is_of_another_hub(&given) {
            identity.check_hub("the CA is", given.first().map_or("", String::as_str))?;
        }
        // A bundle that has a CA of this hub in it says what to trust from now on: how a hub's CA is exchanged.
        is_changed = identity.ca_pem != *ca;
        identity.ca_pem.clone_from(ca);
    }
    match (&config.token, moves) {
        (Some(token), true) => warn!(
            node = %identity.node_name, joined = %identity.hub(), token = ?token,
            "The token is of another hub than the one this node has joined; the node joins that one, and its pods run on."
        ),
        (Some(_), false) => {
            info!(node = %identity.node_name, "This node has joined before; the token is used only if the hub refuses its key.");
        }
        (None, _) => {}
    }
    if !moves && !config.hub_urls.is_empty() && config.hub_urls != identity.hub_urls {
        let mut urls = config.hub_urls.clone();
        urls.extend(identity.hub_urls.iter().filter(|url| !config.hub_urls.contains(url)).cloned());
        is_changed = true;
        identity.hub_urls = urls;
    }
    let is_kept = !is_changed && identity.is_kept_twice(&config.data_dir);
    if !is_kept && let Err(error) = identity.save(&config.data_dir) {
        warn!(error = %chain(&error), "Failed to keep the node's identity twice and with what was given now: the next start needs it again.");
    }
    Ok((Some(identity), None))
}

/// Whether an earlier start left pods to look after.
fn has_pods(data_dir: &Path) -> bool {
    std::fs::read_dir(data_dir.join("node/pods")).is_ok_and(|mut entries| entries.next().is_some())
}

/// Everything that was opened, before a task is started.
struct Parts {
    config: KubeletConfig,
    runtimes: Runtimes,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    known: Option<Identity>,
    store: Arc<Store>,
    registry: StatusRegistry,
    api: Listener,
    socket: Listener,
    address: SocketAddr,
}

fn spawn(parts: Parts) -> KubeletHandle {
    let Parts { config, runtimes, shutdown, tasks, known, store, registry, api, socket, address } = parts;
    let (name, network) = (config.node_name.clone(), config.network.clone());
    for (name, fault) in &config.faults {
        registry.set_fault(name, fault.clone());
    }
    for (name, notice) in &config.conditions {
        registry.error(notice.message.clone());
        registry.set_condition(name, Some(notice.clone()));
    }
    let machine = Arc::new(node_status::Machine {
        runtime_handlers: node_pods::runtime_handlers(&runtimes),
        ..node_status::machine()
    });
    let (client, manager) = node_client::client();
    manager.expect(known.as_ref().map_or(&config.hub_urls, |known| &known.hub_urls));
    let restored = client.restored();
    let (recorder, sink) = node_client::event_recorder();
    let (present_tx, assignment_present) = watch::channel(store.assignment_present());
    let (services_tx, services) = watch::channel(Arc::new(store.services()));
    let (node_ip_tx, node_ip) = watch::channel(config.node_ip.or_else(route_ip));
    let (node_uid_tx, node_uid) = watch::channel(None);
    let (registered_tx, registered) = watch::channel(false);
    let (refused_tx, refused) = watch::channel(None);
    let (joins_tx, joins) = watch::channel(0);
    // What was kept is what any later life of the hub must show.
    let known_hub = Verified { confirmed: store.hub_state(), ..Verified::default() };
    let (verified_tx, verified) = watch::channel(known_hub);
    let identity_tx = Arc::new(watch::channel(known.map(Arc::new)).0);
    let identity = identity_tx.subscribe();
    let (access_tx, access) = watch::channel(None);

    // Pods first: they wait for nothing.
    let table = PodTable::default();
    metrics::register(&config.metrics, &registry, &store);
    let context = Context {
        config: PodsConfig { data_dir: config.data_dir.clone(), node_name: name.clone(), max_pods: config.max_pods },
        store: store.clone(),
        log_links: config.log_links.clone(),
        client: client.clone(),
        node_ip: node_ip.clone(),
        dns: config.dns.clone(),
        service_api: config.network.as_ref().and_then(|network| network.service_api()),
        cpu_millis: machine.allocatable_cpu_millis(),
        memory_bytes: machine.allocatable_memory_bytes(),
        storage_bytes: stats::machine::disk(&config.data_dir).unwrap_or_default().capacity_bytes,
        registry: registry.clone(),
        sync_seconds: config.metrics.histogram(
            "kubelet_pod_worker_duration_seconds",
            "Time that one step of a pod took: deciding, acting, publishing its status",
        ),
        recorder: recorder.clone(),
        table: table.clone(),
    };
    let parts = PodsParts {
        context,
        runtimes: runtimes.clone(),
        verified: verified.clone(),
        node_uid: node_uid.clone(),
        tasks: tasks.clone(),
        shutdown: shutdown.clone(),
    };
    let pods = node_pods::start(parts);
    let stats = Stats::new(pods.clone(), config.data_dir.clone());
    let no_images = || {
        let fault = config.faults.iter().find(|(name, _)| *name == "images");
        fault.map_or_else(|| "that needs root".to_owned(), |(_, fault)| fault.clone())
    };
    let status = server::StatusSocket {
        registry: registry.clone(),
        metrics: config.metrics.clone(),
        restored: client.restored(),
        pods: pods.clone(),
        images: config.images.clone().ok_or_else(no_images),
        shutdown: shutdown.clone(),
    };
    let status_handler = move |request, _peer| server::answer_status(request, status.clone());
    base_observe::spawn_named(
        &tasks,
        "status-socket",
        ended(base_http::serve(socket, status_handler, shutdown.clone())),
    );

    // Then the hub, whenever it comes.
    let identifying = Identifying {
        config: config.clone(),
        client: client.clone(),
        identity: identity_tx.clone(),
        access: access_tx,
        refused: refused_tx,
        joins: joins_tx,
    };
    spawn_agent(AgentParts {
        config: config.clone(),
        client: client.clone(),
        manager,
        identifying,
        access,
        identity: identity_tx,
        node_uid,
        verified: verified_tx,
        sink,
        registry: registry.clone(),
        tasks: tasks.clone(),
        shutdown: shutdown.clone(),
    });
    let serving = Api {
        listener: api,
        name: name.clone(),
        node_ip: node_ip.clone(),
        client: client.clone(),
        identity: identity.clone(),
        registered: registered.clone(),
        pods: pods.clone(),
        metrics: config.metrics.clone(),
        stats: stats.clone(),
        images: config.images.clone(),
        shutdown: shutdown.clone(),
    };
    base_observe::spawn_named(&tasks, "kubelet-api", serve_api(serving));
    if let Some(images) = &config.images {
        let keeping = images::Keeping {
            images: images.clone(),
            data_dir: config.data_dir.clone(),
            node: name.clone(),
            events: recorder.clone(),
            registry: registry.clone(),
            shutdown: shutdown.clone(),
        };
        let keeping = Arc::new(keeping);
        supervise(&tasks, "images", registry.clone(), shutdown.clone(), move || images::keep(keeping.clone()));
        let (images, of, end) = (images.clone(), pods.clone(), shutdown.clone());
        supervise(&tasks, "image-news", registry.clone(), shutdown.clone(), move || {
            images::pass_on(images.clone(), of.clone(), end.clone())
        });
    }
    let (of, counted, period, end) = (client.clone(), stats.clone(), config.usage_period, shutdown.clone());
    supervise(&tasks, "usage", registry.clone(), shutdown.clone(), move || {
        usage::run(of.clone(), counted.clone(), period, end.clone())
    });
    let evicting = Arc::new(eviction::Eviction {
        settings: config.eviction.clone(),
        node: name.clone(),
        data_dir: config.data_dir.clone(),
        stats,
        pods: pods.clone(),
        runtimes,
        images: config.images.clone(),
        events: recorder.clone(),
        registry: registry.clone(),
        shutdown: shutdown.clone(),
    });
    supervise(&tasks, "eviction", registry.clone(), shutdown.clone(), move || eviction::run(evicting.clone()));
    if let Some(settings) = config.machine_shutdown.clone() {
        let watch = Arc::new(machine_shutdown::Watch {
            settings,
            node: name.clone(),
            pods: pods.clone(),
            events: recorder.clone(),
            registry: registry.clone(),
            end: shutdown.clone(),
        });
        let run = move || machine_shutdown::run(watch.clone());
        supervise(&tasks, "machine-shutdown", registry.clone(), shutdown.clone(), run);
    }
    let registration = Arc::new(node_status::Registration {
        config: config.agent(),
        images: config.images.clone().map(images::of_node),
        machine,
        port: address.port(),
        node_ip: node_ip_tx,
        node_uid: node_uid_tx,
        registered: registered_tx,
        joins,
        verified,
        known: watch::Sender::default(),
        events: recorder,
        registry: registry.clone(),
    });
    let (of, end) = (client.clone(), shutdown.clone());
    supervise(&tasks, "node-status", registry.clone(), shutdown.clone(), move || {
        let (client, registration, end) = (of.clone(), registration.clone(), end.clone());
        async move { node_status::run(client, &registration, end).await }
    });
    if let Some(network) = network {
        let follow = network::Follow {
            network,
            table: table.clone(),
            services: services.clone(),
            node_ip: node_ip.clone(),
            client: client.clone(),
            store: store.clone(),
            registry: registry.clone(),
        };
        let end = shutdown.clone();
        supervise(&tasks, "services", registry.clone(), shutdown.clone(), move || follow.clone().run(end.clone()));
    }
    let (of, registry_of, end) = (client, registry.clone(), shutdown.clone());
    let published = assignment::Published { present: present_tx, services: services_tx };
    supervise(&tasks, "assignment", registry.clone(), shutdown, move || {
        assignment::run(of.clone(), name.clone(), store.clone(), published.clone(), registry_of.clone(), end.clone())
    });
    tasks.close();
    KubeletHandle {
        address,
        pods,
        table,
        assignment_present,
        services,
        identity,
        registered,
        refused,
        restored,
        registry,
        tasks,
    }
}

/// What the agent's tasks share.
struct AgentParts {
    config: KubeletConfig,
    client: ApiClient,
    manager: ConnectionManager,
    identifying: Identifying,
    access: watch::Receiver<Option<Access>>,
    identity: Arc<watch::Sender<Option<Arc<Identity>>>>,
    node_uid: watch::Receiver<Option<String>>,
    verified: watch::Sender<Verified>,
    sink: node_client::EventSink,
    registry: StatusRegistry,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// Starts who keeps the connection, the identity, the Lease and the events.
fn spawn_agent(parts: AgentParts) {
    let AgentParts {
        config,
        client,
        manager,
        identifying,
        access,
        identity,
        node_uid,
        verified,
        sink,
        registry,
        tasks,
        shutdown,
    } = parts;
    let spawn = |name, make: Box<dyn FnMut() -> futures::future::BoxFuture<'static, ()> + Send>| {
        supervise(&tasks, name, registry.clone(), shutdown.clone(), make);
    };
    let identifying = Arc::new(identifying);
    let (of, end) = (registry.clone(), shutdown.clone());
    spawn(
        "identity",
        Box::new(move || {
            let (identifying, registry, end) = (identifying.clone(), of.clone(), end.clone());
            Box::pin(async move { identify(&identifying, registry, end).await })
        }),
    );
    let (manager, of, end) = (Arc::new(manager), registry.clone(), shutdown.clone());
    spawn(
        "connection",
        Box::new(move || {
            let (manager, access, registry, end) = (manager.clone(), access.clone(), of.clone(), end.clone());
            Box::pin(async move { manager.run(access, registry, end).await })
        }),
    );
    let (of, dir, registry_of, end) = (client.clone(), config.data_dir.clone(), registry.clone(), shutdown.clone());
    spawn(
        "certificate",
        Box::new(move || {
            Box::pin(join::renew(of.clone(), dir.clone(), identity.clone(), registry_of.clone(), end.clone()))
        }),
    );
    let (of, node, end) = (client.clone(), config.node_name.clone(), shutdown.clone());
    let sink = Arc::new(Mutex::new(sink));
    spawn(
        "events",
        Box::new(move || {
            let (client, node, sink, end) = (of.clone(), node.clone(), sink.clone(), end.clone());
            Box::pin(async move { node_client::send_events(client, node, &mut *sink.lock().await, end).await })
        }),
    );
    let (agent, registry_of, end) = (config.agent(), registry.clone(), shutdown.clone());
    let lease: Box<dyn FnMut() -> futures::future::BoxFuture<'static, ()> + Send> = Box::new(move || {
        let (client, agent, node_uid) = (client.clone(), agent.clone(), node_uid.clone());
        Box::pin(lease::run(client, agent, node_uid, verified.clone(), registry_of.clone(), end.clone()))
    });
    supervise(&tasks, "lease", registry.clone(), shutdown.clone(), lease);
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

/// What joining, and joining again, works with.
struct Identifying {
    config: KubeletConfig,
    client: ApiClient,
    identity: Arc<watch::Sender<Option<Arc<Identity>>>>,
    access: watch::Sender<Option<Access>>,
    refused: watch::Sender<Option<String>>,
    /// How often this process has joined.
    joins: watch::Sender<u64>,
}

/// Joins if need be, then keeps the connection's credentials those of the identity.
async fn identify(parts: &Identifying, registry: StatusRegistry, shutdown: CancellationToken) {
    let Identifying { config, client, identity, access, refused, joins } = parts;
    let known = identity.borrow().clone();
    let mut joiner = config.token.clone().map(|token| join::Joiner {
        data_dir: config.data_dir.clone(),
        node_name: config.node_name.clone(),
        hub_urls: known.as_ref().map_or_else(|| config.hub_urls.clone(), |known| known.hub_urls.clone()),
        token,
        ca: config.ca.clone(),
        key_pem: None,
        is_first: known.is_none(),
    });
    // A token of another hub, or one for a certificate that has run out, is used at once; pods do not notice.
    let given = config.given_cas().unwrap_or_default();
    let is_needed = joiner.is_some() && known.as_ref().is_none_or(|known| known.is_of_another_hub(&given));
    if is_needed && let Some(mut joiner) = joiner.take() {
        if !config.hub_urls.is_empty() {
            joiner.hub_urls.clone_from(&config.hub_urls);
        }
        info!(node = %config.node_name, hubs = ?config.hub_urls, "Joining.");
        match join::join(joiner, registry.clone(), refused, &shutdown).await {
            Some(joined) => {
                joins.send_modify(|count| *count += 1);
                identity.send_replace(Some(Arc::new(joined)));
            }
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
                registry.error(chain(&error));
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
                    Some(joiner) => join::join_again(client, current.as_deref(), joiner, &registry, refused, &shutdown).await,
                    None => std::future::pending().await,
                }
            } => match joined {
                Some(joined) => {
                    joiner = None;
                    joins.send_modify(|count| *count += 1);
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
    client: ApiClient,
    identity: watch::Receiver<Option<Arc<Identity>>>,
    registered: watch::Receiver<bool>,
    pods: Pods,
    metrics: Metrics,
    stats: Stats,
    images: Option<Arc<node_runtime::NodeImages>>,
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
    let served = server::Served {
        node: api.name.clone(),
        callers: Callers::new(api.client.clone(), &api.name),
        pods: api.pods.clone(),
        metrics: api.metrics.clone(),
        stats: api.stats.clone(),
        images: api.images.clone(),
    };
    let handler = move |request, peer| server::answer(request, peer, served.clone());
    let serving = base_http::serve(api.listener.with_tls(tls.clone()), handler, api.shutdown.clone());
    tokio::select! {
        () = api.shutdown.cancelled() => {}
        () = sign_serving(&mut api.client, &api.name, api.node_ip, api.registered, &tls) => {}
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
    hub: &mut ApiClient,
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
    let mut requester = join::Requester::serving(name);
    loop {
        hub.connected().await;
        retry.attempt();
        let mut sans = vec![San::from(name), San::Ip(IpAddr::from([127, 0, 0, 1]))];
        sans.extend(node_ip.borrow_and_update().map(San::Ip).filter(|ip| !sans.contains(ip)));
        let requested = tokio::select! {
            requested = requester.certificate(hub, &sans) => requested,
            Ok(()) = node_ip.changed() => {
                requester.forget();
                continue;
            }
        };
        let signed = match requested {
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
    pods: Pods,
    table: PodTable,
    assignment_present: watch::Receiver<Option<bool>>,
    services: watch::Receiver<Arc<Vec<ServiceRecord>>>,
    identity: watch::Receiver<Option<Arc<Identity>>>,
    registered: watch::Receiver<bool>,
    refused: watch::Receiver<Option<String>>,
    restored: Wake,
    registry: StatusRegistry,
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
        self.pods.set_static_pods(pods).await;
    }

    /// What others on the node look up of its pods. It is empty until the workers of this start have looked at them.
    pub fn pod_table(&self) -> PodTable {
        self.table.clone()
    }

    /// The Services that concern this node, by namespace and name: those of the offline store at once, the hub's later.
    pub fn services(&self) -> watch::Receiver<Arc<Vec<ServiceRecord>>> {
        self.services.clone()
    }

    /// Whether this node's NodeAssignment has entries for the edge plane: known from the offline store at once, from the hub later. `None` while neither
    /// has said, which is no reason to stop anything.
    pub fn assignment_present(&self) -> watch::Receiver<Option<bool>> {
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
    /// continues trying; a person at a terminal should be reported, and the program may end. The reason for which a first join
    /// does not succeed is logged nowhere else.
    pub fn join_refused(&self) -> watch::Receiver<Option<String>> {
        self.refused.clone()
    }

    /// What is called whenever a connection to the hub was made: for others on this node that wait for the same link. Those
    /// in other processes read `/connections` of the status socket.
    pub fn hub_restored(&self) -> Wake {
        self.restored.clone()
    }

    /// What the status socket says at this moment.
    pub fn report(&self) -> NodeReport {
        self.registry.report()
    }

    /// Stops every pod's containers within `grace` and waits for it; the pods stay wished for and start again with the
    /// next kubelet.
    pub async fn stop_pods(&self, grace: Duration) {
        self.pods.stop_all(grace).await;
    }

    /// Stops the pods that are on hold because the hub does not know them; answers which these were. A person decides this.
    pub async fn accept_hub(&self) -> Vec<String> {
        // At shutdown nothing is decided any more.
        self.pods.accept_hub().await.unwrap_or_default()
    }

    /// Waits until every task has ended after the shutdown token was cancelled and the data directory is free for the next
    /// kubelet.
    pub async fn stopped(&self) {
        self.tasks.wait().await;
    }
}
