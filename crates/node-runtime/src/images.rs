//! The node's own store of images, as the runtime of containers sees it.

use std::{path::Path, sync::Arc};

use node_images::{Credential, ImageStore, Puller, Reference, RegistriesConfig};
use tokio::sync::Semaphore;

use crate::{Image, ImageConfig, Images, RuntimeError, RuntimeFuture};

/// Images that are fetched at a time; the others wait, as with other kubelets, so that some come soon instead of all of them late.
const PULLS_AT_ONCE: usize = 3;

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

/// Images in a directory of the node.
pub struct NodeImages {
    store: Arc<ImageStore>,
    puller: Puller,
    turns: Semaphore,
}

impl NodeImages {
    /// Opens the store.
    ///
    /// # Errors
    /// When the disk refuses, another process has it open, or the settings of registries cannot be used.
    pub fn open(dir: &Path, registries: RegistriesConfig) -> Result<Self, OpenImagesError> {
        let store = Arc::new(ImageStore::open(dir).map_err(OpenImagesError::Store)?);
        let puller = Puller::new(registries).map_err(OpenImagesError::Registries)?;
        Ok(Self { store, puller, turns: Semaphore::new(PULLS_AT_ONCE) })
    }

    async fn fetch(&self, image: &str, credentials: &[Vec<u8>]) -> Result<u64, RuntimeError> {
        let reference = Reference::parse(image).map_err(|error| name_error(image, &error))?;
        let mut logins = Vec::new();
        for secret in credentials {
            match Credential::from_docker_config(secret, &reference) {
                Ok(found) => logins.extend(found),
                Err(error) => tracing::warn!(image, %error, "A pull secret cannot be read; trying without it."),
            }
        }
        // It is closed by nobody.
        let _turn = self.turns.acquire().await.ok();
        let pulled = self.puller.pull(&self.store, &reference, &logins, &|_| ()).await;
        pulled.map(|image| image.size_bytes).map_err(|error| RuntimeError::Pull {
            image: image.to_owned(),
            reason: error.reason(),
            out_of_reach: error.is_out_of_reach(),
            message: base_observe::Chain(&error).to_string(),
        })
    }

    /// The store itself.
    pub fn store(&self) -> &Arc<ImageStore> {
        &self.store
    }
}

fn name_error(image: &str, error: &node_images::InvalidReference) -> RuntimeError {
    RuntimeError::ImageName { image: image.to_owned(), reason: error.to_string() }
}

impl Images for NodeImages {
    fn find(&self, image: &str) -> Result<Option<Image>, RuntimeError> {
        let found = self.store.resolve(image).map_err(|error| name_error(image, &error))?;
        Ok(found.map(|found| {
            // The order of deletion is all that depends on it.
            if let Err(error) = self.store.mark_used(&found.id) {
                tracing::debug!(%error, image = found.id, "Failed to note that an image is used.");
            }
            let name = |path: &std::path::PathBuf| Some(path.file_name()?.to_str()?.to_owned());
            Image {
                layers: found.layers.iter().filter_map(name).collect(),
                store: self.store.layers_dir(),
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
        Box::pin(async move { self.fetch(&image, &credentials).await })
    }
}
