//! `selvedge reset`: stops the pods of a data folder and removes what Selvedge keeps there, and nothing else.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
#[cfg(feature = "node")]
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::cli::ResetArgs;
use crate::paths::DataDir;

/// A pod that is thrown away gets a moment to say goodbye.
#[cfg(feature = "node")]
const POD_GRACE: Duration = Duration::from_secs(1);

/// Says what would go, or lets it go.
pub async fn reset(args: ResetArgs) -> Result<()> {
    let data_dir = DataDir::new(args.data_dir)?;
    // `edge/config` is the user's own: files with devices and rules for work without a hub.
    let edge = fs::read_dir(data_dir.edge()).into_iter().flatten().flatten().map(|entry| entry.path());
    let edge: Vec<PathBuf> = edge.filter(|path| !path.ends_with("config")).collect();
    let ours: Vec<PathBuf> = [data_dir.hub(), data_dir.node(), data_dir.example(), data_dir.run()]
        .into_iter()
        .chain(edge)
        .chain(["kubeconfig", "ports.json"].map(|name| data_dir.path().join(name)))
        .filter(|path| path.exists())
        .collect();
    if ours.is_empty() {
        println!("{} holds nothing of Selvedge", data_dir.path().display());
        return Ok(());
    }
    // A role that runs keeps its folder, and holding its lock keeps it from starting meanwhile.
    let _hub_and_node = [data_dir.lock("hub")?, data_dir.lock("node")?];
    if !args.yes {
        println!("would stop the pods of {} and remove:", data_dir.path().display());
        for path in &ours {
            println!("  {}", path.display());
        }
        println!("nothing was done; add --yes to do it");
        return Ok(());
    }
    #[cfg(feature = "node")]
    stop_pods(&data_dir).await?;
    // Only now: the edge plane may be a pod that outlived its node.
    let _edge = data_dir.lock("edge")?;
    for path in &ours {
        let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("failed to remove {}", path.display()));
            }
            _ => println!("removed {}", path.display()),
        }
    }
    Ok(())
}

#[cfg(feature = "node")]
async fn stop_pods(data_dir: &DataDir) -> Result<()> {
    if !data_dir.node().exists() {
        return Ok(());
    }
    for runtime in crate::node::runtimes(data_dir, Vec::new())? {
        for container in runtime.list().await.context("failed to list the containers")? {
            let id = container.id;
            runtime.stop(&id, POD_GRACE).await.with_context(|| format!("failed to stop container {id}"))?;
            runtime.remove(&id).await.with_context(|| format!("failed to remove container {id}"))?;
        }
    }
    Ok(())
}
