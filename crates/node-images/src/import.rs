//! Takes images from archives into the store.

use std::path::Path;

use crate::layout::{Archive, Found};
use crate::manifest::ConfigDocument;
use crate::store::{HeldLayer, NewImage};
use crate::{DocumentError, Image, ImageStore, LayerError, LayoutError, StoreError};

/// Why an archive was not imported. What was imported before is there.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The archive, or its documents.
    #[error("failed to read the archive of images")]
    Layout(#[from] LayoutError),
    /// The configuration of an image.
    #[error("failed to read the configuration of image {image}")]
    Config {
        /// Its name, or the name of its first layer.
        image: String,
        /// What is wrong.
        #[source]
        source: DocumentError,
    },
    /// More layers than are taken, or another number than the configuration says.
    #[error("image {image} has {layers} layers; {reason}")]
    Layers {
        /// Its name.
        image: String,
        /// How many.
        layers: usize,
        /// What is wrong with that.
        reason: &'static str,
    },
    /// A layer.
    #[error("failed to take layer {layer} of image {image}")]
    Layer {
        /// Its name.
        image: String,
        /// Its number, from 1, and its digest.
        layer: String,
        /// What is wrong.
        #[source]
        source: LayerError,
    },
    /// The store.
    #[error("failed to store image {image}")]
    Store {
        /// Its name.
        image: String,
        /// Why.
        #[source]
        source: StoreError,
    },
}

impl ImportError {
    /// Whether the disk has no space.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Layer { source, .. } => source.is_disk_full(),
            Self::Store { source, .. } => source.is_disk_full(),
            _ => false,
        }
    }
}

impl ImageStore {
    /// Takes all images for this platform from an OCI layout (a directory or a tar) or from what `docker save` wrote; a tar may
    /// be compressed. Layers that are there already are not read.
    ///
    /// ```no_run
    /// let store = node_images::ImageStore::open("/var/lib/selvedge/node/images".as_ref())?;
    /// for image in store.import("/media/usb/app.tar".as_ref())? {
    ///     println!("{} {:?}", image.id, image.names);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn import(&self, archive: &Path) -> Result<Vec<Image>, ImportError> {
        let draft = self.draft_path("archive");
        let imported = Archive::open(archive, &draft, self.options().limits.bytes_max)
            .map_err(ImportError::Layout)
            .and_then(|archive| {
                let images = archive.images(&self.options().platform)?;
                images.into_iter().map(|image| self.import_image(&archive, &image)).collect()
            });
        // Only a compressed archive has made one.
        let _ = std::fs::remove_file(&draft);
        imported
    }

    fn import_image(&self, archive: &Archive, found: &Found) -> Result<Image, ImportError> {
        let document = ConfigDocument::parse(&found.config);
        let (image, limits) = (display_name(found), &self.options().limits);
        let of_config = |source| ImportError::Config { image: image.clone(), source };
        let document = document.map_err(of_config)?;
        self.options().platform.check(&document.platform).map_err(of_config)?;
        check_layers(found.layers.len(), document.diff_ids.len(), limits.layers_max)
            .map_err(|reason| ImportError::Layers { image: image.clone(), layers: found.layers.len(), reason })?;
        let mut layers: Vec<HeldLayer> = Vec::new();
        let mut bytes_left = limits.bytes_max;
        for (number, ((member, blob), diff_id)) in (1..).zip(found.layers.iter().zip(&document.diff_ids)) {
            let layer =
                match self.hold_layer(diff_id) {
                    Some(layer) => layer,
                    None => {
                        let reader = archive.open_member(member)?;
                        self.add_layer(diff_id, blob.as_ref(), reader, bytes_left).map_err(|source| {
                            ImportError::Layer { image: image.clone(), layer: format!("{number} ({diff_id})"), source }
                        })?
                    }
                };
            bytes_left = bytes_left.saturating_sub(layer.bytes);
            layers.push(layer);
        }
        let digests =
            found.names.iter().flat_map(|name| found.digests.iter().map(|digest| name.with_digest(digest.clone())));
        let digests: Vec<_> = digests.collect();
        let (config, names) = (found.config.as_slice(), found.names.as_slice());
        self.add_image(&NewImage { config, document: &document, layers: &layers, names, digests: &digests })
            .map_err(|source| ImportError::Store { image, source })
    }
}

/// Whether so many layers make an image.
pub(crate) fn check_layers(blobs: usize, diff_ids: usize, layers_max: usize) -> Result<(), &'static str> {
    if blobs > layers_max {
        return Err("overlayfs and this node take no more than 127");
    }
    if blobs != diff_ids {
        return Err("its configuration names another number");
    }
    Ok(())
}

fn display_name(found: &Found) -> String {
    let id = || crate::Digest::of(&found.config).to_string();
    found.names.first().map_or_else(id, ToString::to_string)
}

#[cfg(test)]
pub(crate) mod tests;
