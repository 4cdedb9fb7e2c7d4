//! Volumes that are directories of this node, `DATA_DIR/node/volumes/<volume>`: made when a pod first uses one, kept as long as
//! the volume exists, removed when the hub asks for it.
//!
//! ```text
//! volume bound ──▶ (absent) ──a pod uses it──▶ <volume> ──the hub deletes the volume──▶ .removed-<volume> ──▶ (absent) ──▶ finalizer taken away
//! ```
//!
//! **What is removed.** Only what a hub names: a volume of this node that is released, is to be deleted, and waits for nothing but
//! this node ([`is_removal_requested`]). A list that fails, a hub that was restored and does not know the volume, an object that
//! cannot be read: none of them says anything about a directory, and it stays. So does one that a pod here still uses, whatever
//! the hub says. What nobody asks for any more is an administrator's to remove.
//!
//! **At a crash.** A directory is made under another name and gets its own with its mode, so a pod never finds half of one. It is
//! renamed before it is removed, so what is left of it is no volume; it is removed with the next look. The finalizer is taken away
//! when the directory is absent: a volume that was never used, or whose removal was not confirmed, is confirmed with the next look.
//!
//! **Links.** Containers write into their volume and nowhere above it. Names come from the hub and are one part of a path; the directory
//! itself is never followed when it is a link, and removing does not follow any.
//!
//! A pod that uses a volume has a link to it among its own volumes, so that after a restart without a hub it is known who uses what.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api_edge::volumes::{FINALIZER, is_directory_name, is_removal_requested};
use node_client::{ApiClient, ApiError, Object, Patch, StatusRegistry, chain, encode};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Everybody in a pod writes to it, as whoever they run.
const MODE: u32 = 0o777;
const NEW: &str = ".new-";
const REMOVED: &str = ".removed-";
/// How soon the hub is asked after a pod has left a volume, which may be deleted then; later looks come after twice the time each.
const RESYNC_SOON: Duration = Duration::from_secs(1);
/// How often a node with volumes asks what is to be removed.
const RESYNC_PERIOD: Duration = Duration::from_secs(60);
/// How often one without any does: a volume may be deleted that no pod has used.
const RESYNC_PERIOD_WITHOUT: Duration = Duration::from_secs(300);
const PAGE_LEN: usize = 100;
/// Volumes that are looked at each time: more than a node has.
const PAGES_MAX: usize = 50;

/// The node's directories for volumes.
#[derive(Debug, Default)]
pub(crate) struct Directories {
    root: PathBuf,
    pods: PathBuf,
    /// Held while one is made for a pod, and while one that no pod uses is taken away.
    gate: Mutex<()>,
    /// A pod has left its volumes.
    left: Notify,
}

/// Where the volumes of a node are.
pub fn volumes_dir(data_dir: &Path) -> PathBuf {
    data_dir.join(api_edge::volumes::DIRECTORY)
}

impl Directories {
    /// Those below a data directory.
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self { root: volumes_dir(data_dir), pods: data_dir.join("node/pods"), ..Self::default() }
    }

    /// The directory of a volume for a pod, made when it is not there. `mark` is where the pod keeps what it has of the volume.
    pub(crate) fn prepare(&self, volume: &str, mark: &Path) -> io::Result<PathBuf> {
        let path = self.path(volume)?;
        let _gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        // The mark first: from then on nobody removes it.
        if let Some(parent) = mark.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
        }
        match std::os::unix::fs::symlink(&path, mark) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            marked => marked?,
        }
        match std::fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => return Ok(path),
            Ok(_) => return Err(io::Error::new(io::ErrorKind::NotADirectory, "it is no directory, or a link to one")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(&self.root)?;
        let new = self.root.join(format!("{NEW}{volume}"));
        match std::fs::create_dir(&new) {
            // Of a start that was cut off; nobody else knows the name.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(MODE))?;
        std::fs::rename(&new, &path)?;
        std::fs::File::open(&self.root)?.sync_all()?;
        Ok(path)
    }

    /// Removes the directory of a volume; `false` when a pod uses it. An absent one is removed already.
    fn remove(&self, volume: &str) -> io::Result<bool> {
        let path = self.path(volume)?;
        let removed = self.root.join(format!("{REMOVED}{volume}"));
        {
            let _gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
            if self.used()?.contains(volume) {
                return Ok(false);
            }
            remove_one(&removed)?;
            match std::fs::rename(&path, &removed) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
                renamed => renamed?,
            }
        }
        remove_one(&removed)?;
        std::fs::File::open(&self.root)?.sync_all()?;
        Ok(true)
    }

    /// Removes what is left of removals and beginnings that were cut off; answers whether there are volumes.
    fn sweep(&self) -> io::Result<bool> {
        let mut has_volumes = false;
        let entries = match std::fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            match entry.file_name().to_str() {
                Some(name) if name.starts_with(REMOVED) => remove_one(&entry.path())?,
                Some(name) => has_volumes |= is_directory_name(name),
                None => {}
            }
        }
        Ok(has_volumes)
    }

    /// Volumes that some pod of the node uses, by the links that pods have to them.
    fn used(&self) -> io::Result<BTreeSet<String>> {
        let absent_is_none = |dir: &Path| match std::fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            entries => entries.map(Some),
        };
        let mut used = BTreeSet::new();
        for pod in absent_is_none(&self.pods)?.into_iter().flatten() {
            for mark in absent_is_none(&pod?.path().join(".volumes"))?.into_iter().flatten() {
                let mark = mark?;
                if !mark.file_type()?.is_symlink() {
                    continue;
                }
                match std::fs::read_link(mark.path()) {
                    Ok(to) => used.extend(to.file_name().and_then(|name| name.to_str()).map(str::to_owned)),
                    // Its pod has just been removed.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(used)
    }

    /// Notes that a pod was removed.
    pub(crate) fn pod_removed(&self) {
        self.left.notify_one();
    }

    fn path(&self, volume: &str) -> io::Result<PathBuf> {
        match is_directory_name(volume) && !self.root.as_os_str().is_empty() {
            true => Ok(self.root.join(volume)),
            false => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("`{volume}` is no name of a volume"))),
        }
    }
}

/// Removes a directory and what is in it, or the link that is in its place.
fn remove_one(path: &Path) -> io::Result<()> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => base_fs::remove_tree(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// The volumes of a node are found by this label, and are its own by their node affinity.
fn list_path(node: &str, token: Option<&str>) -> String {
    let selector = encode(&format!("{}={node}", api_edge::LABEL_NODE));
    let next = token.map(|token| format!("&continue={}", encode(token))).unwrap_or_default();
    format!("/api/v1/persistentvolumes?labelSelector={selector}&limit={PAGE_LEN}{next}")
}

/// Removes the directories that the hub asks for, until `shutdown`.
pub(crate) async fn run(
    mut client: ApiClient,
    directories: Arc<Directories>,
    node: String,
    registry: StatusRegistry,
    shutdown: CancellationToken,
) {
    let mut retry = client.retry();
    let mut soon = RESYNC_PERIOD_WITHOUT;
    // What was said last: the same failure each minute is no news.
    let mut said = String::new();
    loop {
        let look = async {
            client.connected().await;
            retry.attempt();
            look(&client, &directories, &node).await
        };
        let looked = tokio::select! {
            () = shutdown.cancelled() => return,
            looked = look => looked,
        };
        let period = match looked {
            Ok(has_volumes) => {
                retry.succeeded();
                said.clear();
                Some(if has_volumes { RESYNC_PERIOD } else { RESYNC_PERIOD_WITHOUT })
            }
            // A cluster that does not let its nodes list volumes has none of ours.
            Err(LookError::Api(error)) if error.code() == Some(403) => Some(RESYNC_PERIOD_WITHOUT),
            Err(error) => {
                let text = chain(&error);
                if text != said && !matches!(&error, LookError::Api(error) if error.is_outage()) {
                    warn!(error = %text, "Failed to remove volumes that were deleted; they are kept until the next look.");
                    registry.error(format!("volumes: {text}"));
                    said = text;
                }
                None
            }
        };
        let rest = period.map(|period| period.min(soon));
        let pause = async {
            match rest {
                Some(rest) => retry.rest(rest).await,
                None => retry.pause().await,
            }
        };
        soon = soon.saturating_mul(2).min(RESYNC_PERIOD_WITHOUT);
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = directories.left.notified() => soon = RESYNC_SOON,
            _ = pause => {}
        }
    }
}

/// Why volumes were not looked at.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("failed to remove the directory of volume {volume}")]
    Remove {
        volume: String,
        #[source]
        source: io::Error,
    },
    #[error("failed to read the directory of volumes")]
    Sweep(#[source] io::Error),
}

/// Runs what may wait for the disk.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// One look: removes what is to be removed and says so; answers whether the node has volumes.
async fn look(client: &ApiClient, directories: &Arc<Directories>, node: &str) -> Result<bool, LookError> {
    let sweeping = directories.clone();
    let mut has_volumes = blocking(move || sweeping.sweep()).await.map_err(LookError::Sweep)?;
    let mut token: Option<String> = None;
    let mut failure = None;
    for _ in 0..PAGES_MAX {
        let page = client.list(&list_path(node, token.as_deref()), "PersistentVolume").await?.list;
        for object in page.items {
            has_volumes = true;
            // One volume that cannot be removed holds up no other.
            if let Err(error) = look_at(client, directories, node, object).await {
                failure = failure.or(Some(error));
            }
        }
        token = page.continue_token;
        if token.is_none() {
            break;
        }
    }
    failure.map_or(Ok(has_volumes), Err)
}

async fn look_at(
    client: &ApiClient,
    directories: &Arc<Directories>,
    node: &str,
    object: Object,
) -> Result<(), LookError> {
    let name = object.name().to_owned();
    let volume = object.into_value();
    if !is_removal_requested(&volume, node) || !is_directory_name(&name) {
        return Ok(());
    }
    let (removing, of) = (directories.clone(), name.clone());
    let removed = blocking(move || removing.remove(&of)).await;
    if !removed.map_err(|source| LookError::Remove { volume: name.clone(), source })? {
        return Ok(());
    }
    match client.patch(&format!("/api/v1/persistentvolumes/{name}"), Patch::Merge, &released(&volume)).await {
        Ok(_) => info!(volume = %name, "Removed a volume that was deleted."),
        // Somebody else changed or removed it meanwhile: the next look sees.
        Err(error) if matches!(error.code(), Some(404 | 409)) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// The patch that takes the node's finalizer from a volume as it was read.
fn released(volume: &Value) -> Value {
    let metadata = &volume["metadata"];
    let finalizers = metadata["finalizers"].as_array().into_iter().flatten();
    let left: Vec<&Value> = finalizers.filter(|finalizer| *finalizer != FINALIZER).collect();
    json!({"metadata": {
        "uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"], "finalizers": left,
    }})
}

#[cfg(test)]
mod tests;
