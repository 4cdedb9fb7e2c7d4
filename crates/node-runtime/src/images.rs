//! The node's own store of images, as the runtime of containers sees it.

use std::{path::Path, sync::Arc};

use node_images::ImageStore;

use crate::{Image, ImageConfig, Images, RuntimeError, RuntimeFuture};

/// Images in a directory of the node.
pub struct NodeImages {
    store: Arc<ImageStore>,
}

impl NodeImages {
    /// Opens the store.
    ///
    /// # Errors
    /// When the disk refuses, or another process has it open.
    pub fn open(dir: &Path) -> Result<Self, node_images::OpenStoreError> {
        Ok(Self { store: Arc::new(ImageStore::open(dir)?) })
    }

    /// The store itself.
    pub fn store(&self) -> &Arc<ImageStore> {
        &self.store
    }
}

impl Images for NodeImages {
    fn find(&self, image: &str) -> Result<Option<Image>, RuntimeError> {
        let found = self
            .store
            .resolve(image)
            .map_err(|error| RuntimeError::ImageName { image: image.to_owned(), reason: error.to_string() })?;
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

    fn pull(&self, image: &str, _credentials: Vec<Vec<u8>>) -> RuntimeFuture<'_, u64> {
        let error = RuntimeError::Pull {
            image: image.to_owned(),
            reason: "ErrImagePull",
            message: "this node fetches no images; import it".to_owned(),
            out_of_reach: true,
        };
        Box::pin(async { Err(error) })
    }
}
