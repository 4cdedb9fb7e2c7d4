//! `selvedge up`: hub, node and edge in one process, in the foreground.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::cli::{PortChoice, UpArgs};
use crate::config::UpConfig;
use crate::edge::{self, EdgeStart};
use crate::exit::Exit;
use crate::hub;
use crate::node::{self, NodeStart};
use crate::paths::DataDir;
use crate::{example, image, notify, stop, token};

mod milestones;

use milestones::{greet, is_ready, log_milestones};

/// The node of this process joins at once or never.
const TOKEN_TTL: Duration = Duration::from_secs(600);
/// Pods get this long when the whole is stopped from the keyboard; the rest of the grace is for everything else.
const PODS_GRACE: Duration = Duration::from_secs(4);

/// Runs until a signal.
pub async fn run(args: UpArgs, mut config: UpConfig) -> Result<Exit> {
    let data_dir = DataDir::new(args.role.data_dir)?;
    if args.role.ports == PortChoice::Ephemeral {
        config.hub.listen.set_port(0);
        config.node.kubelet_listen.set_port(0);
    }
    let grace = Duration::from_secs(config.hub.shutdown_grace_seconds);
    // Three tokens, because the hub must outlive its node and the edge plane: they write their last status to it.
    let (stopping, stop_edge, stop_hub) =
        (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
    stop::on_signal(stopping.clone())?;

    let hub = hub::start(&data_dir, &config.hub, stop_hub.clone()).await?;
    // For this very node: it may have lost its identity while the hub has not.
    let known = node_kubelet::Identity::load(data_dir.path())?;
    let token = match known {
        Some(_) => None,
        None => {
            let asked = args.node_name.clone().or_else(|| config.node.node_name.clone());
            let node_name = asked.unwrap_or_else(|| node_kubelet::KubeletConfig::default().node_name);
            let options =
                token::TokenOptions { ttl: TOKEN_TTL, node_name: Some(node_name), uses: 1, labels: Vec::new() };
            Some(token::create_with(&hub.client, &hub.ca_pem, &options).await?)
        }
    };
    let start = NodeStart {
        hubs: vec![hub.url.clone()],
        token,
        node_name: args.node_name,
        ca_pem: Some(hub.ca_pem.clone()),
        image_prefixes: args.example.iter().filter_map(|dir| std::fs::canonicalize(dir).ok()).collect(),
    };
    let stop_node = CancellationToken::new();
    let node = Arc::new(node::start(&data_dir, &config.node, start, stop_node.clone()).await?);
    let start = EdgeStart {
        node_name: node.name.clone(),
        node_dir: None,
        hub: Some(edge::hub_of_kubelet(node.kubelet.identity())),
        restored: node.kubelet.hub_restored(),
        config_dir: None,
        journal_bytes_max: config.node.journal_bytes_max,
    };
    let edge = edge::start(&data_dir, start, stop_edge.clone()).await?;
    greet(&data_dir, &hub, &node.name);
    notify::ready();

    let tasks = TaskTracker::new();
    tasks.spawn(log_milestones(hub.client.clone(), hub.telemetry.clone(), node.name.clone(), stopping.clone()));
    if let Some(dir) = &args.example {
        let files = example::render(dir, &data_dir.example(), &node.name)?;
        let (client, name) = (hub.client.clone(), node.name.clone());
        let (data_dir, images) = (data_dir.clone(), dir.join("images"));
        let stopping = stopping.clone();
        tasks.spawn(async move {
            let imported = stopping.run_until_cancelled(image::import_by_node(&data_dir, &images)).await;
            if let Some(Err(error)) = imported {
                warn!("Failed to import the example's images: {error:#}");
            }
            let applied = async {
                is_ready(&client, &name).await?;
                example::apply(&client, &files).await
            };
            tokio::select! {
                () = stopping.cancelled() => {}
                applied = applied => match applied {
                    Ok(()) => info!(files = files.len(), "Applied the example."),
                    Err(error) => warn!("Failed to apply the example: {error:#}"),
                },
            }
        });
    }
    tasks.spawn({
        let (node, stopping) = (node.clone(), stopping.clone());
        async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                reason = node.join_refused() => error!(%reason, "The node of this process cannot join its hub."),
            }
        }
    });
    tasks.close();

    let ended = hub.until(&stopping).await;
    let drained = stop::drain(grace, async move {
        tasks.wait().await;
        node.kubelet.stop_pods(PODS_GRACE).await;
        stop_edge.cancel();
        edge.handle.stopped().await;
        stop_node.cancel();
        node.kubelet.stopped().await;
        stop_hub.cancel();
        hub.wait().await;
    })
    .await;
    ended.map(|()| drained)
}
