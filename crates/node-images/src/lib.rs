//! Images of containers: names, registries, and a store of what was pulled or imported.
//!
//! ```text
//!  reference  names as people write them
//!  pull ──── registry (HTTP) ──┐
//!                              ├─▶ unpack (tar, whiteouts) ─▶ store: layers once each, ready for overlayfs
//!  import ── layout (archives) ┘                               └──▶ export
//! ```
//!
//! - **Where is it?** [`Reference`] reads names, [`ImageStore`] keeps images, [`manifest`] has the documents that registries and
//!   layouts serve. Layers are unpacked as they come, once for all images that share them; no compressed copy is kept, because
//!   flash is small and a pull can be repeated.
//! - **May I touch it?** With care: everything in here reads what others wrote. Each length, count and depth is bounded before
//!   it is believed, every path of an archive is resolved by the kernel within its layer, and nothing has a final name before
//!   both its digests were right and it was on disk.
//! - **How do I try it?** `cargo test -p node-images`, as root for ownership and whiteouts, with FUSE for the power cuts.
//! - **What breaks?** A wrong root file system in every container of an image, or an image that writes outside of its layer.
//!
//! Everything that touches the disk is synchronous; async callers run it beside their tasks.

#![warn(missing_docs)]

mod config;
mod credential;
mod decode;
mod digest;
mod export;
mod http;
mod import;
mod layout;
pub mod manifest;
mod pull;
mod reference;
mod registry;
mod store;
mod tar;
mod unpack;

pub use config::{Login, RegistriesConfig};
pub use credential::{Credential, CredentialError};
pub use digest::{Digest, InvalidDigest};
pub use export::ExportError;
pub use http::HttpError;
pub use import::ImportError;
pub use layout::LayoutError;
pub use manifest::{DocumentError, ImageConfig, Platform};
pub use pull::{Asked, Progress, PullCause, PullError, Puller};
pub use reference::{DEFAULT_REGISTRY, InvalidReference, Reference};
pub use registry::{Patience, RegistryError};
pub use store::{
    Collected, Image, ImageStore, LayerError, Limits, OpenStoreError, RemoveError, StoreError, StoreOptions,
};
pub use tar::TarError;
pub use unpack::{Devices, UnpackError};

/// What the fuzzer feeds: a layer as it comes, into a directory that is there. Digests are not compared.
#[doc(hidden)]
pub fn unpack_for_fuzzing(layer: &[u8], target: &std::path::Path) -> Result<(), UnpackError> {
    let limits = unpack::LayerLimits { bytes_max: 1 << 20, entries_max: 200, devices: Devices::Rejected };
    match unpack::unpack(layer, target, None, &Digest::of(b""), &limits) {
        Ok(_) | Err(UnpackError::DiffId { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
