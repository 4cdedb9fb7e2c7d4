//! Each role as a process of its own: started, reported on stdout, stopped by a signal.

use std::time::Duration;

use anyhow::Result;
use tokio_util::sync::CancellationToken;

use crate::cli::{self, PortChoice, RoleArgs};
use crate::exit::Exit;
use crate::paths::DataDir;
use crate::{config, notify, stop};

/// `selvedge hub`, until a signal.
#[cfg(feature = "hub")]
pub async fn hub(args: RoleArgs, mut config: config::HubConfig) -> Result<Exit> {
    let data_dir = DataDir::new(args.data_dir)?;
    if args.ports == PortChoice::Ephemeral {
        config.listen.set_port(0);
    }
    let shutdown = CancellationToken::new();
    stop::on_signal(shutdown.clone())?;
    let hub = crate::hub::start(&data_dir, &config, shutdown.clone()).await?;
    println!("selvedge: hub   {} (Kubernetes {})", hub.url, api_edge::KUBERNETES_VERSION);
    println!("selvedge: try   export KUBECONFIG={}; kubectl get nodes", data_dir.kubeconfig().display());
    println!(
        "selvedge: join  selvedge node --hub {} --token $(selvedge token create --data-dir {})",
        hub.url,
        data_dir.path().display()
    );
    notify::ready();
    let ended = hub.until(&shutdown).await;
    let drained = stop::drain(Duration::from_secs(config.shutdown_grace_seconds), hub.wait()).await;
    ended.map(|()| drained)
}

/// The CAs in a file.
#[cfg(feature = "node")]
fn ca_of(path: &std::path::Path) -> Result<String> {
    use anyhow::Context as _;
    let text = std::fs::read_to_string(path).with_context(|| format!("failed to read the CA {}", path.display()))?;
    base_pki::certificates(&text).with_context(|| format!("failed to read a certificate in {}", path.display()))?;
    Ok(text)
}

/// `selvedge node`, until a signal, or until it is clear that this node cannot join.
#[cfg(feature = "node")]
pub async fn node(args: cli::NodeArgs, mut config: config::NodeConfig) -> Result<Exit> {
    let data_dir = DataDir::new(args.role.data_dir)?;
    if args.role.ports == PortChoice::Ephemeral {
        config.kubelet_listen.set_port(0);
    }
    let token = args.token.as_deref().map(str::parse).transpose()?;
    let ca_pem = args.ca.as_ref().or(config.ca_file.as_ref()).map(|path| ca_of(path)).transpose()?;
    let shutdown = CancellationToken::new();
    stop::on_signal(shutdown.clone())?;
    let start = crate::node::NodeStart {
        hubs: args.hub,
        token,
        node_name: args.node_name,
        ca_pem,
        ..crate::node::NodeStart::default()
    };
    let node = crate::node::start(&data_dir, &config, start, shutdown.clone()).await?;
    println!("selvedge: node  {}, state in {}", node.name, data_dir.path().display());
    // Also where the hub is out of reach: pods run without it.
    notify::ready();
    let until_stopped = async {
        #[cfg(feature = "edge")]
        return crate::edge_pod::keep(&node, &data_dir, &config, shutdown.clone()).await;
        #[cfg(not(feature = "edge"))]
        {
            shutdown.cancelled().await;
            anyhow::Ok(())
        }
    };
    tokio::select! {
        stopped = until_stopped => stopped?,
        reason = node.join_refused() => {
            shutdown.cancel();
            node.kubelet.stopped().await;
            anyhow::bail!("failed to join: {reason}");
        }
    }
    // Pods continue: the next start finds them running.
    Ok(stop::drain(Duration::from_secs(config.shutdown_grace_seconds), node.kubelet.stopped()).await)
}

/// `selvedge edge`, until a signal.
#[cfg(feature = "edge")]
pub async fn edge(args: cli::EdgeArgs, config: config::EdgeConfig) -> Result<Exit> {
    let data_dir = DataDir::new(args.role.data_dir)?;
    let shutdown = CancellationToken::new();
    stop::on_signal(shutdown.clone())?;
    let restored = base_retry::Wake::new();
    let (node_name, hub) = match &args.node_dir {
        #[cfg(feature = "node")]
        Some(dir) => {
            crate::edge::follow_link_of_node(dir, restored.clone(), shutdown.clone());
            (crate::edge::node_name(dir)?, Some(crate::edge::hub_of_node(dir)))
        }
        #[cfg(not(feature = "node"))]
        Some(_) => anyhow::bail!("--node-dir needs a program that was built with the feature `node`"),
        None => (String::new(), None),
    };
    let start = crate::edge::EdgeStart {
        node_name,
        node_dir: args.node_dir.map(|dir| DataDir::new(Some(dir))).transpose()?,
        hub,
        restored,
        config_dir: config.config_dir.clone(),
        journal_bytes_max: config.journal_bytes_max,
    };
    let edge = crate::edge::start(&data_dir, start, shutdown.clone()).await?;
    println!("selvedge: edge  state in {}", data_dir.path().display());
    notify::ready();
    shutdown.cancelled().await;
    Ok(stop::drain(Duration::from_secs(config.shutdown_grace_seconds), edge.handle.stopped()).await)
}
