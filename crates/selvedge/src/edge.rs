//! Puts the edge plane together: alone, or with the identity of a node.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use edge_runtime::{Edge, EdgeHandle, HubAccess};
use tokio_util::sync::CancellationToken;

use crate::paths::DataDir;

/// A running edge plane.
pub struct RunningEdge {
    /// Its handle.
    pub handle: EdgeHandle,
    _locks: Vec<base_fs::DirLock>,
}

/// How the edge plane is started.
pub struct EdgeStart {
    /// The node it belongs to; empty when it works alone.
    pub node_name: String,
    /// The node's directory. Two edge planes of one node would read each device twice and write one status in turn, so it is
    /// locked as well.
    pub node_dir: Option<DataDir>,
    /// The hub, by the node's identity.
    pub hub: Option<Arc<dyn HubAccess>>,
    /// Called when the node's link to the hub is there again.
    pub restored: base_retry::Wake,
    /// Files to run, for work alone.
    pub config_dir: Option<PathBuf>,
    /// Disk for events.
    pub journal_bytes_max: u64,
}

/// What is wrong with the files that an edge plane would run.
pub fn file_mistakes(args: &crate::cli::EdgeArgs, config: &crate::config::EdgeConfig) -> Result<Option<String>> {
    let data_dir = DataDir::new(args.role.data_dir.clone())?;
    let mut files = edge_runtime::EdgeConfig::new(data_dir.path(), String::new());
    files.config_dir = config.config_dir.clone();
    Ok(Edge::check_files(&files).err().map(|error| base_observe::Chain(&error).to_string()))
}

/// Starts the edge plane on a data directory.
pub async fn start(data_dir: &DataDir, start: EdgeStart, shutdown: CancellationToken) -> Result<RunningEdge> {
    let mut locks = vec![data_dir.lock("edge")?];
    if let Some(node_dir) = start.node_dir.filter(|node_dir| !is_same(node_dir.path(), data_dir.path())) {
        locks.push(node_dir.lock("edge").context("the edge plane of a node is one process")?);
    }
    let mut config = edge_runtime::EdgeConfig::new(data_dir.path(), start.node_name);
    config.hub = start.hub;
    config.restored = start.restored;
    config.config_dir = start.config_dir;
    config.journal_bytes_max = start.journal_bytes_max;
    config.metrics.build_info("edge", env!("CARGO_PKG_VERSION"));
    let handle = Edge::start(config, shutdown).await.context("failed to start the edge plane")?;
    Ok(RunningEdge { handle, _locks: locks })
}

/// Whether two paths are one directory, by whatever names.
fn is_same(one: &Path, other: &Path) -> bool {
    match (std::fs::canonicalize(one), std::fs::canonicalize(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    }
}

/// Calls `restored` when the kubelet of a directory says that it has connected to the hub: what backs off in this process
/// waits for the same link.
#[cfg(feature = "node")]
pub fn follow_link_of_node(node_dir: &Path, restored: base_retry::Wake, shutdown: CancellationToken) {
    use http_body_util::BodyExt as _;
    /// The kubelet's process is on this machine: it is back seconds after it was restarted.
    const RETRY: base_retry::BackoffLaw = base_retry::BackoffLaw::new(Duration::from_secs(1), Duration::from_secs(10));
    let socket = node_dir.join("run/node.sock");
    let follow = async move {
        let mut retry = base_retry::Retry::new(RETRY);
        loop {
            if let Ok(answer) = crate::socket::get(&socket, "/connections").await {
                retry.succeeded();
                let mut lines = answer.into_body();
                while let Some(Ok(frame)) = lines.frame().await {
                    if frame.is_data() {
                        restored.wake_all();
                    }
                }
            }
            retry.pause().await;
        }
    };
    base_observe::spawn_detached("node-link", async move { shutdown.run_until_cancelled(follow).await });
}

/// Name of the node in a directory, which must have joined.
#[cfg(feature = "node")]
pub fn node_name(node_dir: &Path) -> Result<String> {
    let identity = node_kubelet::Identity::load(node_dir)
        .with_context(|| format!("failed to read the node's identity in {}", node_dir.display()))?;
    Ok(identity
        .with_context(|| {
            format!("the node in {} has not joined a hub; start `selvedge node` first", node_dir.display())
        })?
        .node_name)
}

/// Clients with the identity of the node in a directory, read anew for each: certificates are renewed, hubs move.
#[cfg(feature = "node")]
pub fn hub_of_node(node_dir: &Path) -> Arc<dyn HubAccess> {
    let node_dir = node_dir.to_owned();
    Arc::new(edge_runtime::HubAccessFn(
        move || -> edge_runtime::BoxFuture<'static, Result<kube::Client, edge_runtime::HubAccessError>> {
            let node_dir = node_dir.clone();
            Box::pin(async move {
                let not_yet = |reason: String, source: Option<Box<dyn std::error::Error + Send + Sync>>| {
                    edge_runtime::HubAccessError { reason, source }
                };
                let identity = node_kubelet::Identity::load(&node_dir)
                    .map_err(|error| not_yet("the node's identity cannot be read".to_owned(), Some(Box::new(error))))?
                    .ok_or_else(|| not_yet("the node has not joined a hub yet".to_owned(), None))?;
                client(&identity).await.map_err(|error| not_yet(format!("{error:#}"), None))
            })
        },
    ))
}

/// Clients with the identity of the kubelet in this process; waits until it has one.
#[cfg(feature = "node")]
pub fn hub_of_kubelet(
    identity: tokio::sync::watch::Receiver<Option<Arc<node_kubelet::Identity>>>,
) -> Arc<dyn HubAccess> {
    Arc::new(edge_runtime::HubAccessFn(
        move || -> edge_runtime::BoxFuture<'static, Result<kube::Client, edge_runtime::HubAccessError>> {
            let mut identity = identity.clone();
            Box::pin(async move {
                let failed = |reason: String| edge_runtime::HubAccessError { reason, source: None };
                let joined = {
                    let joined = identity.wait_for(Option::is_some).await;
                    joined.map_err(|_| failed("the node is stopping".to_owned()))?.clone()
                };
                let joined = joined.ok_or_else(|| failed("the node has not joined a hub yet".to_owned()))?;
                client(&joined).await.map_err(|error| failed(format!("{error:#}")))
            })
        },
    ))
}

/// A client of the first hub of the node's list that answers with anything but an error. Whoever has lost its hub asks for another
/// client, so the next one is found then.
#[cfg(feature = "node")]
async fn client(identity: &node_kubelet::Identity) -> Result<kube::Client> {
    /// A hub that takes longer to say its version is no better than the next of the list.
    const PROBE_MAX: Duration = Duration::from_secs(5);
    let first = identity.hub_urls.first().context("the node knows no hub")?;
    for url in identity.hub_urls.iter().filter(|_| identity.hub_urls.len() > 1) {
        let candidate = client_of(identity, url)?;
        let request = http::Request::get("/version").body(kube::client::Body::empty())?;
        match tokio::time::timeout(PROBE_MAX, candidate.send(request)).await {
            Ok(Ok(response)) if !response.status().is_server_error() => return Ok(candidate),
            Ok(Ok(response)) => {
                tracing::debug!(%url, status = %response.status(), "A hub answers with errors; trying the next.")
            }
            Ok(Err(error)) => tracing::debug!(%url, %error, "A hub does not answer; trying the next."),
            Err(_) => tracing::debug!(%url, "A hub does not answer in time; trying the next."),
        }
    }
    client_of(identity, first)
}

#[cfg(feature = "node")]
fn client_of(identity: &node_kubelet::Identity, url: &str) -> Result<kube::Client> {
    use base64::Engine as _;
    let mut config = kube::Config::new(url.parse().with_context(|| format!("{url} is no URL"))?);
    let authorities = base_pki::certificates(&identity.ca_pem)?;
    config.root_cert = Some(authorities.into_iter().map(|certificate| certificate.to_vec()).collect());
    // As the kubelet does: a node may have a certificate for any address, but never for this name.
    config.tls_server_name = Some("kubernetes".to_owned());
    let base64 = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    config.auth_info.client_certificate_data = Some(base64(&identity.cert_pem));
    config.auth_info.client_key_data = Some(base64(&identity.key_pem).into());
    kube::Client::try_from(config).context("failed to set up a client for the hub")
}
