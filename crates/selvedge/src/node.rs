//! Puts the node together: runtimes, kubelet, and the edge plane as a pod of its own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use node_kubelet::{Kubelet, KubeletConfig, KubeletHandle, NodeNetwork, OpenNetworkError, Runtimes};
use node_runtime::{ContainerRuntime, NoImages, NodeImages, OciRuntime, PodNetwork, ProcessConfig, ProcessRuntime};
use tokio_util::sync::CancellationToken;

use crate::config::NodeConfig;
use crate::paths::DataDir;

/// What the command line adds to a node's settings.
#[derive(Default)]
pub struct NodeStart {
    /// Go before the settings' hubs.
    pub hubs: Vec<String>,
    /// Needed at the first start only.
    pub token: Option<base_pki::JoinToken>,
    /// Goes before the settings' name.
    pub node_name: Option<String>,
    /// The hub's CA, when it is at hand.
    pub ca_pem: Option<String>,
    /// More directories from which programs may be run.
    pub image_prefixes: Vec<PathBuf>,
}

/// A running node.
pub struct Node {
    /// Its name.
    pub name: String,
    /// The kubelet.
    pub kubelet: KubeletHandle,
    _lock: base_fs::DirLock,
}

impl Node {
    /// Ends when hub and node do not agree on joining: a person at a terminal must correct the token or the URL. A node
    /// that has joined before never ends by this; it has pods to look after.
    pub async fn join_refused(&self) -> String {
        let has_joined = self.kubelet.identity().borrow().is_some();
        let mut refused = self.kubelet.join_refused();
        if !has_joined && let Ok(reason) = refused.wait_for(Option::is_some).await {
            return reason.clone().unwrap_or_default();
        }
        std::future::pending().await
    }
}

/// Starts a node on a data directory.
pub async fn start(
    data_dir: &DataDir,
    config: &NodeConfig,
    start: NodeStart,
    shutdown: CancellationToken,
) -> Result<Node> {
    let lock = data_dir.lock("node")?;
    let mut prefixes = config.image_prefixes.clone();
    prefixes.extend(start.image_prefixes);
    let mut kubelet = KubeletConfig {
        data_dir: data_dir.path().to_owned(),
        hub_urls: start.hubs.into_iter().chain(config.hubs.iter().cloned()).collect(),
        token: start.token,
        ca: start.ca_pem,
        labels: config.labels.clone(),
        listen: config.kubelet_listen,
        node_ip: config.node_ip,
        max_pods: config.pods_max,
        machine_shutdown: config.machine_shutdown(),
        eviction: config.eviction().map_err(|mistakes| anyhow::anyhow!("{}", mistakes.join("; ")))?,
        ..KubeletConfig::default()
    };
    // A node that has joined keeps its name: `--data-dir` alone starts it again.
    // One that cannot be read must not keep the pods from running; the kubelet reports it.
    let joined = node_kubelet::Identity::load(data_dir.path()).or_else(|error| match error.is_damage() {
        true => Ok(None),
        false => Err(error),
    })?;
    let asked = start.node_name.or_else(|| config.node_name.clone());
    if let Some(name) = asked.or_else(|| joined.map(|identity| identity.node_name)) {
        kubelet.node_name = name;
    }
    kubelet.metrics.build_info("node", env!("CARGO_PKG_VERSION"));
    let name = kubelet.node_name.clone();
    // The machine is not changed for a node that cannot start.
    Kubelet::check(&kubelet).context("failed to start the node")?;
    node_runtime::spare_this_process();
    kubelet.log_links = crate::log_links::open(config, data_dir.path());
    let network = match open_network(config) {
        Ok(network) => network,
        // The pods that this node has are worth more than a network of their own.
        Err(error) if matches!(error.downcast_ref(), Some(OpenNetworkError::Network(_))) => {
            let fault = base_observe::Chain(error.as_ref()).to_string();
            tracing::error!(error = %fault, "Pods have this machine's own network.");
            let notice = node_kubelet::Notice { reason: "SetUpFailed", message: fault };
            kubelet.conditions.push(("PodNetworkUnavailable", notice));
            None
        }
        Err(error) => return Err(error),
    };
    if let Some(network) = &network {
        kubelet.dns = network.node_dns();
        kubelet.network = Some(network.clone());
    }
    let images = match open_images(data_dir, config) {
        Ok(Some(images)) => {
            kubelet.images = Some(images.clone());
            Images::Here(images)
        }
        Ok(None) => Images::NotForUsers,
        // What runs is looked after without them.
        Err(error) => {
            let fault = base_observe::Chain(error.as_ref()).to_string();
            tracing::error!(error = %fault, "The images of this node cannot be used.");
            kubelet.faults.push(("images", fault.clone()));
            Images::Unusable(fault)
        }
    };
    let runtimes = runtimes(data_dir, prefixes, config.pod_pids_max, network, &images, config.oci_runtimes())?;
    let kubelet = Kubelet::start(kubelet, runtimes, shutdown).await.context("failed to start the node")?;
    Ok(Node { name, kubelet, _lock: lock })
}

/// Lets a running node know that what its hub says now counts: pods that the hub does not know are stopped.
pub async fn accept_hub(args: crate::cli::AcceptHubArgs) -> Result<()> {
    use http_body_util::{BodyExt as _, Limited};
    /// Some hundred names of pods.
    const ANSWER_BYTES_MAX: usize = 256 * 1024;
    #[derive(serde::Deserialize)]
    struct Accepted {
        stopped: Vec<String>,
    }
    let data_dir = DataDir::new(args.data_dir)?;
    let socket = crate::status::node_socket(&data_dir);
    let answer =
        crate::socket::send(&socket, hyper::Method::POST, "/accept-hub").await.context("the node cannot be asked")?;
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    let bytes = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
    let accepted: Accepted =
        serde_json::from_slice(&bytes).context("the node's answer cannot be read; is its program older?")?;
    match accepted.stopped.is_empty() {
        true => println!("no pod was on hold"),
        false => accepted.stopped.iter().for_each(|pod| println!("pod {pod} is being stopped")),
    }
    Ok(())
}

/// Holds updates of the node. It need not run: it reads the file when it does.
pub fn hold_updates(args: crate::cli::HoldUpdatesArgs) -> Result<()> {
    let data_dir = DataDir::new(args.data_dir)?;
    let until = match &args.hold_for {
        None => None,
        Some(text) => {
            let duration = api_edge::go_duration::parse(text).context("--for cannot be read")?;
            anyhow::ensure!(
                !duration.is_zero(),
                "--for 0 holds nothing; `selvedge node release-updates` releases what is held"
            );
            let end = std::time::SystemTime::now().checked_add(duration).context("--for lies beyond the calendar")?;
            Some(jiff::Timestamp::try_from(end).context("--for lies beyond the calendar")?)
        }
    };
    anyhow::ensure!(
        data_dir.node().is_dir(),
        "{} holds no node; name its data directory with --data-dir",
        data_dir.path().display()
    );
    node_kubelet::hold::hold(data_dir.path(), until).context("updates are not held")?;
    match until {
        None => println!("updates are held until `selvedge node release-updates`"),
        Some(until) => println!("updates are held until {}", until.strftime("%Y-%m-%dT%H:%M:%SZ")),
    }
    Ok(())
}

/// Releases updates of the node.
pub fn release_updates(args: crate::cli::ReleaseUpdatesArgs) -> Result<()> {
    let data_dir = DataDir::new(args.data_dir)?;
    match node_kubelet::hold::release(data_dir.path()).context("updates are not released")? {
        true => println!("updates are released"),
        false => println!("updates were not held"),
    }
    Ok(())
}

/// The network of the node's pods; nothing where they have the machine's own.
fn open_network(config: &NodeConfig) -> Result<Option<Arc<NodeNetwork>>> {
    let settings = config.network().map_err(|mistakes| anyhow::anyhow!("{}", mistakes.join("; ")))?;
    match settings {
        Some(_) if !rustix::process::geteuid().is_root() => {
            tracing::info!("Pods have this machine's own network: another one needs root.");
            Ok(None)
        }
        Some(settings) => Ok(Some(NodeNetwork::open(settings)?)),
        None => Ok(None),
    }
}

/// The images of a data directory; nothing where there can be none.
pub fn open_images(data_dir: &DataDir, config: &NodeConfig) -> Result<Option<Arc<NodeImages>>> {
    if !rustix::process::geteuid().is_root() {
        tracing::info!("This node runs no container images: that needs root.");
        return Ok(None);
    }
    let registries = config.registries().map_err(|mistake| anyhow::anyhow!("{mistake}"))?;
    Ok(Some(Arc::new(NodeImages::open(&data_dir.node().join("images"), registries, config.image_gc())?)))
}

/// How the programs of pods are run.
fn process_config(data_dir: &DataDir, mut prefixes: Vec<PathBuf>) -> Result<ProcessConfig> {
    // The edge plane is this very program in a pod of its own.
    prefixes.push(this_program()?);
    let mut config = ProcessConfig::new(data_dir.node().join("runtime"), prefixes);
    // Not among the node's state: they are the administrator's.
    config.seccomp_dir = data_dir.path().join("seccomp");
    // Keys, Secrets of other pods, and the rights of an administrator.
    config.hidden = vec![data_dir.node(), data_dir.hub(), data_dir.edge(), data_dir.run(), data_dir.kubeconfig()];
    Ok(config)
}

/// The runtimes of containers, our own first.
fn open_containers(
    config: &ProcessConfig,
    images: &Arc<dyn node_runtime::Images>,
    oci: Vec<OciRuntime>,
) -> Result<Vec<Arc<ContainerRuntime>>> {
    let open = |oci: Option<OciRuntime>| {
        let name = oci.as_ref().map_or(ContainerRuntime::HANDLER, |oci| &oci.handler).to_owned();
        let (config, images) = (config.clone(), images.clone());
        let opened = match oci {
            Some(oci) => ContainerRuntime::open_oci(config, images, oci),
            None => ContainerRuntime::open(config, images),
        };
        opened.map(Arc::new).with_context(|| format!("failed to open the runtime of containers {name}"))
    };
    let oci = OciRuntime::all(oci, &config.state_dir);
    std::iter::once(None).chain(oci.into_iter().map(Some)).map(open).collect()
}

/// Lets the images ask the runtimes who uses them.
fn set_users(images: &NodeImages, runtimes: &[Arc<ContainerRuntime>]) {
    let runtimes: Vec<_> = runtimes.iter().map(Arc::downgrade).collect();
    images.set_users(Box::new(move || {
        let mut users = BTreeMap::<String, Vec<String>>::new();
        for runtime in &runtimes {
            for (image, of_image) in runtime.upgrade()?.images_in_use() {
                users.entry(image).or_default().extend(of_image);
            }
        }
        Some(users)
    }));
}

/// Lets the images of a node that does not run know which containers of it run on. It ends with what is answered.
pub fn adopt_containers(data_dir: &DataDir, images: &Arc<NodeImages>) -> Result<Vec<Arc<ContainerRuntime>>> {
    let runtimes = open_containers(&process_config(data_dir, Vec::new())?, &(images.clone() as _), Vec::new())?;
    set_users(images, &runtimes);
    Ok(runtimes)
}

/// What is known of the images of a data directory.
pub enum Images {
    /// They can be used.
    Here(Arc<NodeImages>),
    /// Their disk or their record cannot be used, for this reason. Containers that run are looked after all the same.
    Unusable(String),
    /// Whoever is not root has none.
    NotForUsers,
}

/// The runtimes of a data directory.
pub fn runtimes(
    data_dir: &DataDir,
    prefixes: Vec<PathBuf>,
    pod_pids_max: u64,
    network: Option<Arc<NodeNetwork>>,
    images: &Images,
    oci: Vec<OciRuntime>,
) -> Result<Runtimes> {
    let mut config = process_config(data_dir, prefixes)?;
    config.pod_pids_max = pod_pids_max;
    config.network = network.map(|network| network as Arc<dyn PodNetwork>);
    let mut runtimes: Runtimes =
        vec![Arc::new(ProcessRuntime::open(config.clone()).context("failed to open the process runtime")?)];
    let containers = match images {
        Images::Here(images) => {
            let opened = open_containers(&config, &(images.clone() as _), oci)?;
            set_users(images, &opened);
            opened
        }
        Images::Unusable(why) => open_containers(&config, &(Arc::new(NoImages::new(why)) as _), oci)?,
        Images::NotForUsers => Vec::new(),
    };
    runtimes.extend(containers.into_iter().map(|runtime| runtime as Arc<dyn node_runtime::PodRuntime>));
    #[cfg(feature = "wasm")]
    {
        let cache = node_runtime::WasmConfig::new(data_dir.node().join("wasm-cache"));
        let runtime =
            node_runtime::WasmRuntime::open(config, cache).context("failed to open the WebAssembly runtime")?;
        runtimes.push(Arc::new(runtime));
    }
    Ok(runtimes)
}

/// The file of the running program.
pub fn this_program() -> Result<PathBuf> {
    let path = std::env::current_exe().context("failed to find this program's own file")?;
    // After an upgrade the kernel marks the old file's name; the new file is at the name itself.
    let text = path.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map_or_else(|| path.clone(), PathBuf::from))
}
