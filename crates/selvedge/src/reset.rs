//! `selvedge reset`: stops the pods of a data directory and removes what Selvedge keeps there, and nothing else.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
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
    let removals = removals(&data_dir);
    if !data_dir.is_in_use() {
        println!("{} holds nothing of Selvedge", data_dir.path().display());
        return Ok(());
    }
    if !args.yes {
        println!("would stop the pods of {} and remove:", data_dir.path().display());
        for path in removals.iter().filter(|path| path.exists()) {
            println!("  {}", path.display());
        }
        println!("nothing was done; add --yes to do it");
        return Ok(());
    }
    // A role that runs keeps its directory, and holding its lock keeps it from starting meanwhile.
    let _hub_and_node = [data_dir.lock("hub")?, data_dir.lock("node")?];
    #[cfg(feature = "node")]
    stop_pods(&data_dir).await?;
    // Only now: the edge plane may be a pod that outlived its node.
    let _edge = data_dir.lock("edge")?;
    // Asked for anew: the locks have made `run`, when a backup did not have it.
    for path in removals.iter().filter(|path| path.exists()) {
        let removed = if path.is_dir() { base_fs::remove_tree(path) } else { fs::remove_file(path) };
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("failed to remove {}", path.display()));
            }
            _ => println!("removed {}", path.display()),
        }
    }
    Ok(())
}

/// All that Selvedge makes in a data directory, in the order in which it is removed.
fn removals(data_dir: &DataDir) -> Vec<PathBuf> {
    // The locks go last. Without them a role that is restarted would begin anew amid the removal, and lose what it had just
    // written; and they mark the directory as ours when a reset is cut short, so that the next one continues it.
    [data_dir.hub(), data_dir.restoring(), data_dir.node(), data_dir.example()]
        .into_iter()
        .chain(edge_paths(&data_dir.edge()))
        .chain([data_dir.kubeconfig(), base_http::Ports::path(data_dir.path()), data_dir.run()])
        .collect()
}

/// What the edge plane keeps in its directory.
const EDGE_STATE: [&str; 2] = ["journal", "state"];

/// What of the edge plane's directory is to be removed: all of it, unless the user put something there, such as `config`
/// with the devices and rules for work without a hub. That stays.
fn edge_paths(edge: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(edge).into_iter().flatten().flatten();
    let is_ours = |name: &OsStr| EDGE_STATE.iter().any(|ours| name == *ours);
    if entries.into_iter().all(|entry| is_ours(&entry.file_name())) {
        return vec![edge.to_owned()];
    }
    EDGE_STATE.iter().map(|name| edge.join(name)).collect()
}

#[cfg(feature = "node")]
async fn stop_pods(data_dir: &DataDir) -> Result<()> {
    if !data_dir.node().exists() {
        return Ok(());
    }
    let uids = node_kubelet::pod_uids(data_dir.path()).context("failed to list the pods")?;
    let images = match rustix::process::geteuid().is_root() {
        true => crate::node::Images::Unusable("they are being removed".to_owned()),
        false => crate::node::Images::NotForUsers,
    };
    for runtime in crate::node::runtimes(data_dir, Vec::new(), 0, None, &images, Vec::new())? {
        for container in runtime.list().await.context("failed to list the containers")? {
            let id = container.id;
            runtime.stop(&id, POD_GRACE).await.with_context(|| format!("failed to stop container {id}"))?;
            runtime.remove(&id).await.with_context(|| format!("failed to remove container {id}"))?;
        }
        // The group of a pod outlives its containers: one that is about to start again has nothing else.
        for uid in &uids {
            if let Err(error) = runtime.remove_pod(uid).await {
                tracing::warn!(%uid, error = %base_observe::Chain(&error), "Something of a pod is left.");
            }
        }
    }
    if rustix::process::geteuid().is_root()
        && let Err(error) = node_kubelet::NodeNetwork::disable(&node_kubelet::NetworkSettings::default())
    {
        tracing::warn!(error = %base_observe::Chain(&error), "Something of the pods' network is left.");
    }
    node_runtime::remove_in_memory(&data_dir.node().join("runtime"));
    for socket in node_kubelet::status_sockets(data_dir.path()) {
        let _ = fs::remove_file(socket);
    }
    crate::log_links::remove(data_dir.path());
    // Volumes in memory are mounts, which no removal of files would remove.
    node_kubelet::remove_pods(data_dir.path()).context("failed to remove the volumes of the pods")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_locks_go_last() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data_dir = DataDir::new(Some(dir.path().to_owned())).expect("a path");
        let removals = removals(&data_dir);
        assert_eq!(removals.last(), Some(&data_dir.run()));
        assert!(removals.contains(&data_dir.kubeconfig()));
    }

    #[test]
    fn what_the_user_put_beside_the_edge_planes_state_stays() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let edge = dir.path().join("edge");
        for name in EDGE_STATE {
            fs::create_dir_all(edge.join(name)).expect("space");
        }
        assert_eq!(edge_paths(&edge), std::slice::from_ref(&edge));
        fs::create_dir(edge.join("config")).expect("space");
        assert_eq!(edge_paths(&edge), [edge.join("journal"), edge.join("state")]);
    }
}
