//! The node's own store of images: as the runtime of containers sees it, and as a person does who imports, lists or removes some.
//!
//! What no container uses may be deleted, by a person or when the disk fills up. Who uses what is asked of the runtime each
//! time ([`NodeImages::set_users`]); as long as nobody has said, nothing is deleted. An image of an archive that is imported at
//! each start is not deleted for space: it would come back with the next start.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use node_images::{Collected, Credential, ImageStore, Puller, Reference, RegistriesConfig, StoreError};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, watch};
use tracing::{debug, info, warn};

use crate::supervisor::blocking;
use crate::{Image, ImageConfig, Images, RuntimeError, RuntimeFuture};

/// Images that are fetched at a time; the others wait, as with other kubelets, so that some come soon instead of all of them late.
const PULLS_AT_ONCE: usize = 3;

/// An image that was looked for or fetched is about to be used: it is not deleted for so long, as with other kubelets.
const AGE_MIN: Duration = Duration::from_secs(120);

/// A pull that met a full disk gets at least so much, also where a quota is what is full and the disk is not.
const FREED_FOR_PULL_MIN: u64 = 64 << 20;

/// Why images cannot be kept or fetched.
#[derive(Debug, thiserror::Error)]
pub enum OpenImagesError {
    /// The store.
    #[error("failed to open the store of images")]
    Store(#[source] node_images::OpenStoreError),
    /// The settings of registries.
    #[error("failed to set up how images are fetched")]
    Registries(#[source] node_images::HttpError),
}

/// When images that no container uses are deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GcLimits {
    /// From this part of the disk in use on, in per cent.
    pub high_percent: u8,
    /// Until this part.
    pub low_percent: u8,
}

impl Default for GcLimits {
    /// As with other kubelets.
    fn default() -> Self {
        Self { high_percent: 85, low_percent: 80 }
    }
}

impl GcLimits {
    /// Bytes to free on a disk, if any, and how full it is in per cent.
    fn excess(self, bytes: u64, available: u64) -> (u64, u64) {
        let used_percent = 100_u64.saturating_sub(available.saturating_mul(100) / bytes.max(1));
        (
            used_percent,
            if used_percent < u64::from(self.high_percent) { 0 } else { self.excess_over_low(bytes, available) },
        )
    }

    fn excess_over_low(self, bytes: u64, available: u64) -> u64 {
        (bytes.saturating_mul(100_u64.saturating_sub(u64::from(self.low_percent))) / 100).saturating_sub(available)
    }
}

/// Why the disk of the images is as full as before.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// How full the disk is cannot be found out.
    #[error("failed to find out how full the disk of the images is")]
    Disk(#[from] base_fs::DirError),
    /// Deleting failed.
    #[error("failed to delete images that no container uses")]
    Store(#[from] StoreError),
    /// There was too little to delete; in the terms of other kubelets.
    #[error(
        "Insufficient free disk space on the node's image filesystem ({used_percent}% of {} used). Failed to free sufficient space by deleting unused images (freed {freed} bytes). Investigate disk usage, as it could be used by active images, logs, volumes, or other data.",
        Binary(*.bytes)
    )]
    Insufficient {
        /// How full it was.
        used_percent: u64,
        /// Size of the disk.
        bytes: u64,
        /// What was deleted.
        freed: u64,
    },
}

/// A size as `91.1 GiB`.
struct Binary(u64);

impl fmt::Display for Binary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut size, mut unit) = (self.0 as f64, "B");
        for larger in ["KiB", "MiB", "GiB", "TiB"] {
            if size < 1024.0 {
                break;
            }
            (size, unit) = (size / 1024.0, larger);
        }
        write!(formatter, "{size:.1} {unit}")
    }
}

/// Why an image was not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveImageError {
    /// Containers use it.
    #[error("image `{image}` is in use by {}; delete {} first", list(.by), if .by.len() == 1 { "its pod" } else { "their pods" })]
    InUse {
        /// What was to be removed.
        image: String,
        /// `NAMESPACE/POD/CONTAINER` each.
        by: Vec<String>,
    },
    /// Which containers there are is not known.
    #[error("whether a container uses image `{0}` is not known yet; try again")]
    UsersUnknown(String),
    /// The store's own reasons.
    #[error(transparent)]
    Store(#[from] node_images::RemoveError),
}

/// The first few, so that a line stays one.
fn list(by: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = by.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match by.len().checked_sub(SHOWN) {
        Some(more) if more > 0 => format!("{shown} and {more} more"),
        _ => shown,
    }
}

/// An image as it is shown to people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageInfo {
    /// `sha256:…` of its configuration.
    pub id: String,
    /// Complete names with tags.
    pub names: Vec<String>,
    /// Complete names with digests.
    pub repo_digests: Vec<String>,
    /// Bytes of its files.
    pub size_bytes: u64,
    /// Containers that use it, as `NAMESPACE/POD/CONTAINER`.
    pub used_by: Vec<String>,
}

/// Which containers use which image, by id; nothing when that is not known.
pub type ImageUsers = Box<dyn Fn() -> Option<BTreeMap<String, Vec<String>>> + Send + Sync>;

/// Images in a directory of the node.
pub struct NodeImages {
    kept: Arc<Kept>,
    puller: Puller,
    turns: Semaphore,
}

/// What threads that wait for the disk work with.
struct Kept {
    store: Arc<ImageStore>,
    limits: GcLimits,
    users: OnceLock<ImageUsers>,
    /// Images that are about to be used, and since when.
    recent: Mutex<BTreeMap<String, Instant>>,
    /// Images of archives that are imported at each start.
    pinned: Mutex<BTreeSet<String>>,
    /// Images were fetched or imported.
    added: watch::Sender<()>,
}

impl fmt::Debug for NodeImages {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("NodeImages").field("store", &self.kept.store).finish_non_exhaustive()
    }
}

impl NodeImages {
    /// Opens the store.
    ///
    /// # Errors
    /// When the disk refuses, another process has it open, or the settings of registries cannot be used.
    pub fn open(dir: &Path, registries: RegistriesConfig, limits: GcLimits) -> Result<Self, OpenImagesError> {
        let store = Arc::new(ImageStore::open(dir).map_err(OpenImagesError::Store)?);
        let puller = Puller::new(registries).map_err(OpenImagesError::Registries)?;
        let now = Instant::now();
        // What was imported for a node before its start is about to be used as well.
        let recent = store.used_within(AGE_MIN).into_iter().map(|id| (id, now)).collect();
        let kept = Kept {
            store,
            limits,
            users: OnceLock::new(),
            recent: Mutex::new(recent),
            pinned: Mutex::default(),
            added: watch::Sender::default(),
        };
        Ok(Self { kept: Arc::new(kept), puller, turns: Semaphore::new(PULLS_AT_ONCE) })
    }

    /// Sets, once, who says which containers use which image.
    pub fn set_users(&self, users: ImageUsers) {
        // The first one stays: there is one runtime of containers.
        let _ = self.kept.users.set(users);
    }

    /// Changes whenever images were fetched or imported, whoever did it: somebody may wait for one.
    pub fn added(&self) -> watch::Receiver<()> {
        self.kept.added.subscribe()
    }

    /// Where the files of images are: its disk is the images'.
    pub fn dir(&self) -> PathBuf {
        self.kept.store.layers_dir()
    }

    /// All images with who uses them.
    pub fn list(&self) -> Vec<ImageInfo> {
        let users = self.kept.users().unwrap_or_default();
        self.kept.store.list().into_iter().map(|image| info(image, &users)).collect()
    }

    /// Fetches an image for a person, or what has changed of it.
    ///
    /// # Errors
    /// As for a pod.
    pub async fn pull_named(&self, image: &str) -> Result<ImageInfo, RuntimeError> {
        let pulled = self.fetch(image, &[]).await?;
        Ok(info(pulled, &self.kept.users().unwrap_or_default()))
    }

    /// Imports all images of an archive or of a directory with an OCI layout. It waits for the disk.
    ///
    /// # Errors
    /// What is wrong with the archive, or the disk.
    pub fn import(&self, archive: &Path) -> Result<Vec<ImageInfo>, Box<node_images::ImportError>> {
        let mut imported = self.kept.store.import(archive);
        if imported.as_ref().is_err_and(node_images::ImportError::is_disk_full) && self.kept.make_space() > 0 {
            imported = self.kept.store.import(archive);
        }
        let users = self.kept.users().unwrap_or_default();
        let noted = imported?.into_iter().map(|image| {
            self.kept.note_used(&image.id);
            info(image, &users)
        });
        let noted = noted.collect();
        self.kept.added.send_replace(());
        Ok(noted)
    }

    /// Writes an image into an archive. It waits for the disk.
    ///
    /// # Errors
    /// When there is no such image, or the disk refuses.
    pub fn export(&self, image: &str, archive: &Path) -> Result<(), node_images::ExportError> {
        self.kept.store.export(image, archive)
    }

    /// Removes a name, and with the last one the image, unless a container uses it. It waits for the disk.
    ///
    /// # Errors
    /// When there is no such image, a container uses it, or the disk refuses.
    pub fn remove(&self, image: &str) -> Result<Collected, RemoveImageError> {
        let unknown = || RemoveImageError::UsersUnknown(image.to_owned());
        let mut users = self.kept.users().ok_or_else(unknown)?;
        let in_use = users.keys().cloned().collect();
        self.kept.store.remove(image, &in_use).map_err(|error| match error {
            node_images::RemoveError::InUse { image } => {
                let found = self.kept.store.resolve(&image).ok().flatten();
                let by = found.and_then(|found| users.remove(&found.id)).unwrap_or_default();
                RemoveImageError::InUse { image, by }
            }
            error => error.into(),
        })
    }

    /// Deletes images that no container uses, least recently used first, when the disk is fuller than the limits say. It waits
    /// for the disk.
    ///
    /// # Errors
    /// When the disk refuses, or is still too full.
    pub fn collect_garbage(&self) -> Result<Collected, CollectError> {
        let disk = base_fs::free_space(&self.kept.store.layers_dir())?;
        let (used_percent, excess) = self.kept.limits.excess(disk.total_bytes, disk.free_bytes);
        if excess == 0 {
            return Ok(Collected::default());
        }
        let collected = self.kept.collect(excess)?;
        match collected.bytes_freed < excess {
            true => {
                Err(CollectError::Insufficient { used_percent, bytes: disk.total_bytes, freed: collected.bytes_freed })
            }
            false => Ok(collected),
        }
    }

    /// Deletes all images that no container uses, however full the disk is; how many bytes that freed. It waits for the disk.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn collect_unused(&self) -> Result<u64, CollectError> {
        Ok(self.kept.collect(u64::MAX)?.bytes_freed)
    }

    /// Exempts images from being deleted for space.
    pub(crate) fn pin(&self, ids: impl IntoIterator<Item = String>) {
        lock(&self.kept.pinned).extend(ids);
    }

    /// Whether all of these images are there.
    pub(crate) fn has_all(&self, ids: &[String]) -> bool {
        ids.iter().all(|id| self.kept.store.resolve(id).is_ok_and(|found| found.is_some()))
    }

    async fn fetch(&self, image: &str, credentials: &[Vec<u8>]) -> Result<node_images::Image, RuntimeError> {
        let reference = Reference::parse(image).map_err(|error| name_error(image, &error))?;
        let mut logins = Vec::new();
        for secret in credentials {
            match Credential::from_docker_config(secret, &reference) {
                Ok(found) => logins.extend(found),
                Err(error) => warn!(image, %error, "A pull secret cannot be read; trying without it."),
            }
        }
        // It is closed by nobody.
        let _turn = self.turns.acquire().await.ok();
        let mut has_made_space = false;
        loop {
            let error = match self.puller.pull(&self.kept.store, &reference, &logins, &|_| ()).await {
                Ok(image) => {
                    self.kept.note_used(&image.id);
                    self.kept.added.send_replace(());
                    return Ok(image);
                }
                Err(error) => error,
            };
            if error.is_disk_full() && !has_made_space {
                has_made_space = true;
                let kept = Arc::clone(&self.kept);
                if blocking(move || kept.make_space()).await > 0 {
                    continue;
                }
            }
            return Err(RuntimeError::Pull {
                image: image.to_owned(),
                reason: error.reason(),
                out_of_reach: error.is_out_of_reach(),
                message: error.message(),
            });
        }
    }
}

impl Kept {
    fn users(&self) -> Option<BTreeMap<String, Vec<String>>> {
        self.users.get()?()
    }

    /// Notes that a container is about to use an image.
    fn note_used(&self, id: &str) {
        let now = Instant::now();
        let mut recent = lock(&self.recent);
        recent.retain(|_, since| now.duration_since(*since) < AGE_MIN);
        recent.insert(id.to_owned(), now);
    }

    fn collect(&self, bytes: u64) -> Result<Collected, StoreError> {
        let Some(users) = self.users() else { return Ok(Collected::default()) };
        let mut spared: BTreeSet<String> = users.into_keys().collect();
        spared.extend(lock(&self.pinned).iter().cloned());
        let now = Instant::now();
        let recent = lock(&self.recent);
        spared
            .extend(recent.iter().filter(|(_, since)| now.duration_since(**since) < AGE_MIN).map(|(id, _)| id.clone()));
        drop(recent);
        let collected = self.store.collect(&spared, bytes)?;
        if !collected.images.is_empty() {
            info!(images = ?collected.images, bytes = collected.bytes_freed, "Deleted images that no container uses.");
        }
        Ok(collected)
    }

    /// Makes space for an image that does not fit; how much that was.
    fn make_space(&self) -> u64 {
        let disk = base_fs::free_space(&self.store.layers_dir());
        let excess = disk.map_or(0, |disk| self.limits.excess_over_low(disk.total_bytes, disk.free_bytes));
        match self.collect(excess.max(FREED_FOR_PULL_MIN)) {
            Ok(collected) => collected.bytes_freed,
            Err(error) => {
                warn!(error = %base_observe::Chain(&error), "Failed to make space for an image.");
                0
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Sets and maps whose every change is one step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn info(image: node_images::Image, users: &BTreeMap<String, Vec<String>>) -> ImageInfo {
    ImageInfo {
        used_by: users.get(&image.id).cloned().unwrap_or_default(),
        id: image.id,
        names: image.names,
        repo_digests: image.repo_digests,
        size_bytes: image.size_bytes,
    }
}

fn name_error(image: &str, error: &node_images::InvalidReference) -> RuntimeError {
    RuntimeError::ImageName { image: image.to_owned(), reason: error.to_string() }
}

impl Images for NodeImages {
    fn find(&self, image: &str) -> Result<Option<Image>, RuntimeError> {
        let store = &self.kept.store;
        let found = store.resolve(image).map_err(|error| name_error(image, &error))?;
        Ok(found.map(|found| {
            self.kept.note_used(&found.id);
            // The order of deletion is all that depends on it.
            if let Err(error) = store.mark_used(&found.id) {
                debug!(%error, image = found.id, "Failed to note that an image is used.");
            }
            let name = |path: &PathBuf| Some(path.file_name()?.to_str()?.to_owned());
            Image {
                layers: found.layers.iter().filter_map(name).collect(),
                store: store.layers_dir(),
                id: found.id,
                config: ImageConfig {
                    env: found.config.env,
                    entrypoint: found.config.entrypoint,
                    cmd: found.config.cmd,
                    user: found.config.user,
                    working_dir: found.config.working_dir,
                    stop_signal: found.config.stop_signal.filter(|signal| !signal.is_empty()),
                },
            }
        }))
    }

    fn pull(&self, image: &str, credentials: Vec<Vec<u8>>) -> RuntimeFuture<'_, u64> {
        let image = image.to_owned();
        Box::pin(async move { Ok(self.fetch(&image, &credentials).await?.size_bytes) })
    }
}

#[cfg(test)]
mod tests;

/// The images of a node whose store cannot be used: containers that run are looked after, others cannot be started.
pub struct NoImages(String);

impl NoImages {
    /// For this reason.
    pub fn new(why: &str) -> Self {
        Self(why.to_owned())
    }

    fn error(&self, image: &str) -> RuntimeError {
        RuntimeError::Image { image: image.to_owned(), reason: self.0.clone() }
    }
}

impl Images for NoImages {
    fn find(&self, image: &str) -> Result<Option<Image>, RuntimeError> {
        Err(self.error(image))
    }

    fn pull(&self, image: &str, _: Vec<Vec<u8>>) -> RuntimeFuture<'_, u64> {
        let error = self.error(image);
        Box::pin(async { Err(error) })
    }
}
