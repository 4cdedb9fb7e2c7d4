//! Pulls images: manifest, configuration, layers.
//!
//! A layer is unpacked while it arrives, by a thread that reads what the connection's task sends it:
//!
//! ```text
//! registry ─▶ download (async; Range after a cut, bandwidth) ──pieces──▶ partial file ─▶ digest ─▶ gzip, zstd ─▶ unpack into a draft
//! ```
//!
//! So a pull takes as long as its slowest part, and not as long as all of them together. That is safe because the draft gets
//! its name only when both digests were right and it is on disk. The partial file is what a pull resumes from after a
//! restart; the kernel seldom writes it to flash before it is deleted again. What comes from it goes through the digest like
//! everything else, and if that is wrong, the layer is downloaded again from its beginning, once.
//!
//! Two pulls of one layer do not download it twice: the second waits for the first.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use base_retry::Backoff;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use http::StatusCode;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::config::RegistriesConfig;
use crate::http::{Answer, Client, HttpError, Origin};
use crate::manifest::{ConfigDocument, DOCUMENT_BYTES_MAX, Descriptor, Document, Manifest};
use crate::reference::DEFAULT_REGISTRY;
use crate::registry::{Patience, RegistryError, Repository, Tokens, is_plain};
use crate::store::{HeldLayer, NewImage};
use crate::{Credential, Digest, DocumentError, Image, ImageStore, LayerError, Reference, StoreError};

/// Indexes lead to indexes; more than this is a loop.
const DEPTH_MAX: u32 = 4;
/// Pieces between the connection and the thread that unpacks: some 16 KiB each.
const PIECES_MAX: usize = 32;
/// A smaller layer is downloaded again after a restart.
const PARTIAL_BYTES_MIN: u64 = 1 << 20;
/// A connection that brought at least this much was of use: the failures before it are forgotten.
const PROGRESS_BYTES: u64 = 64 << 10;
/// Blobs are sent at once up to this part of a second's bandwidth.
const BURST: Duration = Duration::from_millis(250);
/// Less would not keep a connection alive.
const BANDWIDTH_MIN: u64 = 1024;

/// Of the reason of one registry or mirror, as a person reads it, and of how many of them.
const CAUSE_BYTES_MAX: usize = 512;
const CAUSES_MAX: usize = 4;

/// How far a pull is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Layers that are there, those that were there before included.
    pub layers_done: usize,
    /// Layers of the image.
    pub layers: usize,
    /// Compressed bytes that have arrived.
    pub bytes_done: u64,
    /// Compressed bytes of the image's layers.
    pub bytes: u64,
}

/// What was asked for, and who has not served it.
#[derive(Debug)]
pub struct Asked {
    /// The image.
    pub image: Reference,
    /// Why mirrors have not, which are asked before the registry.
    pub mirrors: Vec<String>,
}

/// Why an image was not pulled.
#[derive(Debug, thiserror::Error)]
#[error("failed to pull image {}", asked.image)]
pub struct PullError {
    /// Which.
    pub asked: Box<Asked>,
    /// Why the last one that was asked has not served it: the registry itself, or nobody else could.
    #[source]
    pub cause: PullCause,
}

/// Why an image was not pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullCause {
    /// The registry or one of its mirrors.
    #[error("failed to get it from {endpoint}")]
    Registry {
        /// Its URL.
        endpoint: String,
        /// What went wrong.
        #[source]
        source: RegistryError,
    },
    /// A manifest or configuration that cannot be used.
    #[error("failed to read its {what}")]
    Document {
        /// Manifest or configuration.
        what: &'static str,
        /// What is wrong.
        #[source]
        source: DocumentError,
    },
    /// The registry has sent something else than was asked for.
    #[error("its {what} has the digest {found} instead of {expected}")]
    Digest {
        /// Manifest or configuration.
        what: &'static str,
        /// Of what came.
        found: Digest,
        /// Of what was to come.
        expected: Digest,
    },
    /// A blob that is longer or shorter than its manifest says.
    #[error("the registry sends {blob} with another length than the manifest's {expected} bytes")]
    Length {
        /// Its digest.
        blob: Digest,
        /// In the manifest.
        expected: u64,
    },
    /// Too many layers, or another number than the configuration says.
    #[error("it has {layers} layers; {reason}")]
    Layers {
        /// How many.
        layers: usize,
        /// What is wrong with that.
        reason: &'static str,
    },
    /// All layers together are larger than an image may be.
    #[error("it is larger than the {bytes_max} bytes that an image may have")]
    TooLarge {
        /// The limit.
        bytes_max: u64,
    },
    /// A layer.
    #[error("failed to take layer {layer}")]
    Layer {
        /// Its number, from 1, and its digest.
        layer: String,
        /// What is wrong.
        #[source]
        source: LayerError,
    },
    /// The store.
    #[error("failed to store it")]
    Store(#[from] StoreError),
    /// The store could not be used at all: a thread has panicked.
    #[error("a thread of the store has ended")]
    Thread,
}

impl PullError {
    /// The causes, for a person: of the registry, and of the mirrors before it.
    pub fn message(&self) -> String {
        let causes = std::iter::once(Chain(&self.cause).to_string()).chain(self.asked.mirrors.iter().cloned());
        let bounded = causes.map(|mut cause| {
            // Some of it is what a registry has sent.
            cause.truncate(cause.floor_char_boundary(CAUSE_BYTES_MAX));
            cause
        });
        bounded.take(CAUSES_MAX).collect::<Vec<_>>().join("; ")
    }

    /// The reason that the kubelet puts into the status of a container, as upstream calls it.
    pub fn reason(&self) -> &'static str {
        if self.is_out_of_reach() { "RegistryUnavailable" } else { "ErrImagePull" }
    }

    /// Whether the registry, and not the image, is the reason: an image that is there already may be used.
    pub fn is_out_of_reach(&self) -> bool {
        matches!(&self.cause, PullCause::Registry { source, .. } if source.is_out_of_reach())
    }

    /// Whether the disk has no space.
    pub fn is_disk_full(&self) -> bool {
        match &self.cause {
            PullCause::Layer { source, .. } => source.is_disk_full(),
            PullCause::Store(source) => source.is_disk_full(),
            _ => false,
        }
    }
}

/// Pulls images, several at a time. One for a node: what it remembers of registries and shares between pulls is in it.
pub struct Puller {
    config: RegistriesConfig,
    patience: Patience,
    client: Client,
    tokens: Tokens,
    throttle: Throttle,
    /// Blobs that are being downloaded.
    in_flight: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
}

/// Where an image can be had from.
struct Endpoint {
    base: String,
    credentials: Vec<Option<Credential>>,
}

impl RegistriesConfig {
    /// Whether mirrors are called as they have to be.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check(&self) -> Result<(), HttpError> {
        for mirror in self.mirrors.values().flatten() {
            let wrong = || HttpError::Url(mirror.clone());
            let uri: http::Uri = mirror.parse().map_err(|_| wrong())?;
            let origin = Origin::of(&uri).map_err(|_| wrong())?;
            if uri.query().is_some() || (!origin.is_tls && !is_plain(&self.plain_http, &origin)) {
                return Err(wrong());
            }
        }
        Ok(())
    }
}

impl Puller {
    /// Reads the trusted certificates; checks the URLs of mirrors.
    pub fn new(config: RegistriesConfig) -> Result<Self, HttpError> {
        Self::with_patience(config, Patience::default())
    }

    /// With other waiting times.
    pub fn with_patience(config: RegistriesConfig, patience: Patience) -> Result<Self, HttpError> {
        config.check()?;
        let client = Client::new(config.ca_file.as_deref(), patience.stall)?;
        let throttle = Throttle::new(config.bytes_per_second_max);
        Ok(Self { config, patience, client, tokens: Tokens::default(), throttle, in_flight: Mutex::default() })
    }

    /// Pulls an image into the store, or finds it there after a look at the registry. Mirrors are asked first; `credentials`
    /// are tried in their order, at the registry itself. `progress` is called as bytes arrive.
    pub async fn pull(
        &self,
        store: &Arc<ImageStore>,
        reference: &Reference,
        credentials: &[Credential],
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Image, PullError> {
        let mut mirrors = Vec::new();
        let pulled = self.pull_from_any(store, reference, credentials, progress, &mut mirrors).await;
        self.client.close_idle();
        pulled.map_err(|cause| PullError { asked: Box::new(Asked { image: reference.clone(), mirrors }), cause })
    }

    async fn pull_from_any(
        &self,
        store: &Arc<ImageStore>,
        reference: &Reference,
        credentials: &[Credential],
        progress: &(dyn Fn(Progress) + Send + Sync),
        failed: &mut Vec<String>,
    ) -> Result<Image, PullCause> {
        let mut endpoints = self.endpoints(reference, credentials);
        let last = endpoints.pop().expect("the registry itself is one");
        for endpoint in endpoints {
            match self.pull_from(&endpoint, store, reference, progress).await {
                // The node is the reason, and another source would not help.
                Err(cause @ (PullCause::Store(_) | PullCause::Thread)) => return Err(cause),
                Err(cause) => {
                    debug!(mirror = %endpoint.base, image = %reference, error = %Chain(&cause), "A mirror has not served an image.");
                    failed.push(format!("the mirror {}: {}", endpoint.base, Chain(&cause)));
                }
                Ok(image) => return Ok(image),
            }
        }
        self.pull_from(&last, store, reference, progress).await
    }

    /// Mirrors, then the registry.
    fn endpoints(&self, reference: &Reference, credentials: &[Credential]) -> Vec<Endpoint> {
        let registry = reference.registry();
        // Docker Hub's API has another name than its images.
        let host = if registry == DEFAULT_REGISTRY { "registry-1.docker.io" } else { registry };
        let bare_host = host.rsplit_once(':').filter(|_| !host.ends_with(']')).map_or(host, |(host, _)| host);
        let is_plain =
            [host, bare_host, registry].iter().any(|name| self.config.plain_http.iter().any(|plain| plain == name));
        let base = format!("{}://{host}", if is_plain { "http" } else { "https" });
        let configured = |names: &[&str]| {
            let found = names.iter().find_map(|name| self.config.credentials.get(*name));
            vec![found.map(Credential::from)]
        };
        let mirrors = self.config.mirrors.get(registry).into_iter().flatten().map(|mirror| {
            let base = mirror.trim_end_matches('/').to_owned();
            let origin = base.parse().ok().and_then(|uri| Origin::of(&uri).ok());
            let credentials =
                origin.map_or_else(|| vec![None], |origin| configured(&[&origin.authority(), &origin.host]));
            Endpoint { base, credentials }
        });
        let own = match credentials {
            [] => configured(&[registry, host, bare_host]),
            some => some.iter().cloned().map(Some).collect(),
        };
        mirrors.chain([Endpoint { base, credentials: own }]).collect()
    }

    async fn pull_from(
        &self,
        endpoint: &Endpoint,
        store: &Arc<ImageStore>,
        reference: &Reference,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Image, PullCause> {
        let mut logins = endpoint.credentials.iter();
        loop {
            let repository = Repository {
                client: &self.client,
                tokens: &self.tokens,
                patience: self.patience,
                plain_http: &self.config.plain_http,
                base: endpoint.base.clone(),
                name: reference.repository(),
                credential: logins.next().and_then(Option::as_ref),
            };
            let pull = Pull { puller: self, store, reference, repository, progress };
            match pull.run().await {
                Err(PullCause::Registry { source, .. }) if source.is_denied() && !logins.as_slice().is_empty() => {}
                pulled => return pulled,
            }
        }
    }

    /// One lock for each blob that somebody downloads.
    fn blob_lock(&self, blob: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        in_flight.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = in_flight.get(blob).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        in_flight.insert(blob.clone(), Arc::downgrade(&lock));
        lock
    }
}

/// One image from one endpoint as somebody.
struct Pull<'a> {
    puller: &'a Puller,
    store: &'a Arc<ImageStore>,
    reference: &'a Reference,
    repository: Repository<'a>,
    progress: &'a (dyn Fn(Progress) + Send + Sync),
}

/// What has arrived of all layers of a pull.
#[derive(Default)]
struct Arrived {
    layers_done: AtomicUsize,
    bytes_done: AtomicU64,
    layers: usize,
    bytes: u64,
}

impl Pull<'_> {
    async fn run(&self) -> Result<Image, PullCause> {
        let (manifest, digests) = self.manifest().await?;
        let config = self.config(&manifest).await?;
        let of_config = |source| PullCause::Document { what: "configuration", source };
        let document = ConfigDocument::parse(&config).map_err(of_config)?;
        self.store.options().platform.check(&document.platform).map_err(of_config)?;
        let limits = self.store.options().limits;
        crate::import::check_layers(manifest.layers.len(), document.diff_ids.len(), limits.layers_max)
            .map_err(|reason| PullCause::Layers { layers: manifest.layers.len(), reason })?;
        // Compressed, an image is not larger: a registry that says otherwise wants to fill the disk with nothing.
        let bytes = manifest.layers.iter().map(|layer| layer.size).fold(0, u64::saturating_add);
        if bytes > limits.bytes_max {
            return Err(PullCause::TooLarge { bytes_max: limits.bytes_max });
        }
        let layers = self.layers(&manifest, &document).await?;
        let bytes = layers.iter().map(|layer| layer.bytes).fold(0, u64::saturating_add);
        if bytes > limits.bytes_max {
            return Err(PullCause::TooLarge { bytes_max: limits.bytes_max });
        }
        let names = if self.reference.digest().is_some() { Vec::new() } else { vec![self.reference.clone()] };
        let digests: Vec<Reference> = digests.into_iter().map(|digest| self.reference.with_digest(digest)).collect();
        let store = self.store.clone();
        let added = tokio::task::spawn_blocking(move || {
            let (config, names, digests) = (&config, &names, &digests);
            store.add_image(&NewImage { config, document: &document, layers: &layers, names, digests })
        });
        Ok(added.await.map_err(|_| PullCause::Thread)??)
    }

    /// The manifest for this platform, and the digests by which it can be named.
    async fn manifest(&self) -> Result<(Manifest, Vec<Digest>), PullCause> {
        let mut expected = self.reference.digest().cloned();
        let mut by = match (&expected, self.reference.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or("latest").to_owned(),
        };
        let mut digests = Vec::new();
        for _ in 0..DEPTH_MAX {
            let (bytes, digest) = self.document("manifest", expected.as_ref(), Requested::Manifest(&by)).await?;
            digests.push(digest);
            let of_manifest = |source| PullCause::Document { what: "manifest", source };
            match Document::parse(&bytes).map_err(of_manifest)? {
                Document::Manifest(manifest) => return Ok((manifest, digests)),
                Document::Index(entries) => {
                    let chosen = self.store.options().platform.choose(&entries).map_err(of_manifest)?;
                    by = chosen.digest.to_string();
                    expected = Some(chosen.digest.clone());
                }
            }
        }
        let source = DocumentError::Meaning("indexes lead to indexes without an end");
        Err(PullCause::Document { what: "manifest", source })
    }

    async fn config(&self, manifest: &Manifest) -> Result<Vec<u8>, PullCause> {
        let digest = &manifest.config.digest;
        let (bytes, _) = self.document("configuration", Some(digest), Requested::Blob(digest)).await?;
        Ok(bytes)
    }

    /// Something small and its digest, which is checked where it is known.
    async fn document(
        &self,
        what: &'static str,
        expected: Option<&Digest>,
        requested: Requested<'_>,
    ) -> Result<(Vec<u8>, Digest), PullCause> {
        let mut backoff = Backoff::new(self.puller.patience.backoff);
        let (bytes, said) = loop {
            match self.try_document(&requested).await {
                Ok(found) => break found,
                // A request has its own retries; here it is the body that was cut off.
                Err(RegistryError::Http(error @ (HttpError::Broken { .. } | HttpError::Stalled { .. }))) => {
                    let delay = backoff.next_delay();
                    if backoff.failures() >= self.puller.patience.tries_max {
                        return Err(self.failed(error.into()));
                    }
                    tokio::time::sleep(delay).await;
                }
                Err(error) => return Err(self.failed(error)),
            }
        };
        // What the registry says of it must fit as well: a proxy that replaces manifests seldom thinks of it.
        let digest = expected.or(said.as_ref()).map_or_else(|| Digest::of(&bytes), Clone::clone);
        if digest.matches(&bytes) {
            return Ok((bytes, digest));
        }
        Err(PullCause::Digest { what, found: Digest::of(&bytes), expected: digest })
    }

    async fn try_document(&self, requested: &Requested<'_>) -> Result<(Vec<u8>, Option<Digest>), RegistryError> {
        let answer = match requested {
            Requested::Manifest(by) => self.repository.manifest(by).await?,
            Requested::Blob(digest) => self.repository.blob(digest.as_str(), 0).await?,
        };
        let said =
            answer.head.headers.get("docker-content-digest").and_then(|value| Digest::parse(value.to_str().ok()?).ok());
        let bytes = answer.read(DOCUMENT_BYTES_MAX).await?;
        let bytes = bytes.ok_or(RegistryError::Invalid("a manifest or configuration is larger than 4 MiB"))?;
        Ok((bytes, said))
    }

    async fn layers(&self, manifest: &Manifest, document: &ConfigDocument) -> Result<Vec<HeldLayer>, PullCause> {
        let bytes = manifest.layers.iter().map(|layer| layer.size).fold(0, u64::saturating_add);
        let arrived = Arrived { layers: manifest.layers.len(), bytes, ..Arrived::default() };
        let arrived = &arrived;
        let jobs = (1..).zip(manifest.layers.iter().zip(&document.diff_ids));
        let jobs: Vec<_> = jobs.map(|(number, (blob, diff_id))| self.layer(number, blob, diff_id, arrived)).collect();
        futures::stream::iter(jobs).buffered(self.puller.config.parallel_layers.clamp(1, 16)).try_collect().await
    }

    async fn layer(
        &self,
        number: usize,
        blob: &Descriptor,
        diff_id: &Digest,
        arrived: &Arrived,
    ) -> Result<HeldLayer, PullCause> {
        let lock = self.puller.blob_lock(&blob.digest);
        let _locked = lock.lock().await;
        let layer = match self.store.hold_layer(diff_id) {
            Some(layer) => {
                arrived.bytes_done.fetch_add(blob.size, Ordering::Relaxed);
                layer
            }
            None => self.download_and_unpack(number, blob, diff_id, arrived).await?,
        };
        arrived.layers_done.fetch_add(1, Ordering::Relaxed);
        self.report(arrived);
        Ok(layer)
    }

    async fn download_and_unpack(
        &self,
        number: usize,
        blob: &Descriptor,
        diff_id: &Digest,
        arrived: &Arrived,
    ) -> Result<HeldLayer, PullCause> {
        let mut may_resume = true;
        loop {
            let (pieces_tx, pieces_rx) = mpsc::channel(PIECES_MAX);
            let partial = self.store.partial_path(&blob.digest);
            let opened = Arriving::open(partial, blob.size, may_resume, pieces_rx);
            let arriving = opened.map_err(|source| PullCause::Layer {
                layer: format!("{number} ({})", blob.digest),
                source: LayerError::Store(StoreError::Io {
                    action: "create",
                    path: self.store.partial_path(&blob.digest),
                    source,
                }),
            })?;
            let from_disk = arriving.from_disk;
            let mut offset = from_disk;
            arrived.bytes_done.fetch_add(from_disk, Ordering::Relaxed);
            let (store, blob_digest, diff_id) = (self.store.clone(), blob.digest.clone(), diff_id.clone());
            let bytes_max = store.options().limits.bytes_max;
            let unpacking = tokio::task::spawn_blocking(move || {
                let mut arriving = arriving;
                let added = store.add_layer(&diff_id, Some(&blob_digest), &mut arriving, bytes_max);
                arriving.end();
                added
            });
            let downloaded = self.download(blob, &mut offset, pieces_tx, arrived).await;
            let unpacked = unpacking.await.map_err(|_| PullCause::Thread)?;
            match (downloaded, unpacked) {
                (Ok(()), Ok(layer)) => return Ok(layer),
                (Err(cause), _) => return Err(cause),
                // A power cut may have spoiled what was there; a disk that is full is full for the next attempt, too.
                (Ok(()), Err(error)) if from_disk > 0 && !error.is_disk_full() => {
                    warn!(blob = %blob.digest, "What was downloaded of a layer before is broken; downloading it anew.");
                    arrived.bytes_done.fetch_sub(offset, Ordering::Relaxed);
                    may_resume = false;
                }
                (Ok(()), Err(source)) => {
                    return Err(PullCause::Layer { layer: format!("{number} ({})", blob.digest), source });
                }
            }
        }
    }

    /// Sends a blob from `offset` on to whoever unpacks it, until it is whole or that one has given up.
    async fn download(
        &self,
        blob: &Descriptor,
        offset: &mut u64,
        pieces: mpsc::Sender<Piece>,
        arrived: &Arrived,
    ) -> Result<(), PullCause> {
        let mut backoff = Backoff::new(self.puller.patience.backoff);
        while *offset < blob.size {
            let before = *offset;
            let cut = match self.download_some(blob, offset, &pieces, arrived).await {
                Ok(Some(())) => None,
                // Nobody reads any more: why is for the reader to report.
                Ok(None) => return Ok(()),
                Err(PullCause::Registry { source: RegistryError::Http(error), endpoint }) => Some((error, endpoint)),
                Err(cause) => return Err(cause),
            };
            if *offset - before >= PROGRESS_BYTES {
                backoff.reset();
            }
            if *offset == blob.size {
                break;
            }
            let delay = backoff.next_delay();
            if backoff.failures() >= self.puller.patience.tries_max {
                let Some((error, endpoint)) = cut else {
                    return Err(PullCause::Length { blob: blob.digest.clone(), expected: blob.size });
                };
                return Err(PullCause::Registry { endpoint, source: RegistryError::Http(error) });
            }
            debug!(blob = %blob.digest, offset = *offset, "A download was cut off and is resumed.");
            tokio::time::sleep(delay).await;
        }
        // Whoever reads learns that this was all, and no connection that broke.
        let _ = pieces.send(Piece::End).await;
        Ok(())
    }

    /// One request; `Ok(Some(()))` when the answer has ended, wherever it has.
    async fn download_some(
        &self,
        blob: &Descriptor,
        offset: &mut u64,
        pieces: &mpsc::Sender<Piece>,
        arrived: &Arrived,
    ) -> Result<Option<()>, PullCause> {
        let mut answer =
            self.repository.blob(blob.digest.as_str(), *offset).await.map_err(|source| self.failed(source))?;
        // A server that knows no ranges sends all of it again.
        let mut skip = *offset - first_byte(&answer, blob, *offset)?;
        while let Some(mut bytes) = answer.chunk().await.map_err(|error| self.failed(error.into()))? {
            self.puller.throttle.take(bytes.len() as u64).await;
            let skipped = skip.min(bytes.len() as u64);
            skip -= skipped;
            let bytes = bytes.split_off(skipped as usize);
            *offset += bytes.len() as u64;
            if *offset > blob.size {
                return Err(PullCause::Length { blob: blob.digest.clone(), expected: blob.size });
            }
            arrived.bytes_done.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            self.report(arrived);
            if pieces.send(Piece::Bytes(bytes)).await.is_err() {
                return Ok(None);
            }
        }
        Ok(Some(()))
    }

    fn report(&self, arrived: &Arrived) {
        (self.progress)(Progress {
            layers_done: arrived.layers_done.load(Ordering::Relaxed),
            layers: arrived.layers,
            bytes_done: arrived.bytes_done.load(Ordering::Relaxed),
            bytes: arrived.bytes,
        });
    }

    fn failed(&self, source: RegistryError) -> PullCause {
        PullCause::Registry { endpoint: self.repository.base.clone(), source }
    }
}

enum Requested<'a> {
    Manifest(&'a str),
    Blob(&'a Digest),
}

/// Where in the blob an answer begins. One with another length than the manifest says is rejected at once.
fn first_byte(answer: &Answer<'_>, blob: &Descriptor, offset: u64) -> Result<u64, PullCause> {
    let header = |name| answer.head.headers.get(name).and_then(|value| value.to_str().ok());
    let lie = || PullCause::Length { blob: blob.digest.clone(), expected: blob.size };
    let first = if answer.head.status == StatusCode::PARTIAL_CONTENT {
        let range =
            header(CONTENT_RANGE).and_then(|range| range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok());
        range.filter(|first: &u64| *first <= offset).ok_or_else(lie)?
    } else {
        0
    };
    let length = header(CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
    if length.is_some_and(|length| first.checked_add(length) != Some(blob.size)) {
        return Err(lie());
    }
    Ok(first)
}

/// From the connection to the thread that unpacks.
enum Piece {
    Bytes(Bytes),
    /// The blob is whole.
    End,
}

/// A blob as it arrives: first what was there before, then what comes, which is kept for the next time.
struct Arriving {
    path: PathBuf,
    /// `None` for a small blob.
    partial: Option<File>,
    from_disk: u64,
    at: u64,
    pieces: mpsc::Receiver<Piece>,
    current: Bytes,
    has_ended: bool,
    was_cut_off: bool,
}

impl Arriving {
    fn open(path: PathBuf, size: u64, may_resume: bool, pieces: mpsc::Receiver<Piece>) -> io::Result<Self> {
        let mut from_disk = 0;
        let partial = if size >= PARTIAL_BYTES_MIN {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(!may_resume).open(&path)?;
            from_disk = file.metadata()?.len();
            if from_disk > size {
                file.set_len(0)?;
                from_disk = 0;
            }
            Some(file)
        } else {
            None
        };
        Ok(Self {
            path,
            partial,
            from_disk,
            at: 0,
            pieces,
            current: Bytes::new(),
            has_ended: false,
            was_cut_off: false,
        })
    }

    /// What is on disk is kept only of a download that was cut off.
    fn end(self) {
        if self.partial.is_some() && !self.was_cut_off {
            // One that stays is found by the next pull, and deleted by the garbage collection.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Read for Arriving {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(partial) = self.partial.as_ref().filter(|_| self.at < self.from_disk) {
            let length = usize::try_from(self.from_disk - self.at).unwrap_or(usize::MAX).min(buffer.len());
            let read = partial.read_at(&mut buffer[..length], self.at)?;
            self.at += read as u64;
            return if read == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(read) };
        }
        while self.current.is_empty() && !self.has_ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Bytes(bytes)) => {
                    if let Some(partial) = &self.partial {
                        partial.write_all_at(&bytes, self.at)?;
                    }
                    self.at += bytes.len() as u64;
                    self.current = bytes;
                }
                Some(Piece::End) => self.has_ended = true,
                None => {
                    self.was_cut_off = true;
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the download has ended"));
                }
            }
        }
        let length = self.current.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.current.split_to(length));
        Ok(length)
    }
}

/// Spreads what all downloads take over time.
struct Throttle {
    bytes_per_second: Option<u64>,
    /// Until when everything that was taken is paid for.
    paid_until: Mutex<Option<Instant>>,
}

impl Throttle {
    fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second: bytes_per_second.map(|rate| rate.max(BANDWIDTH_MIN)), paid_until: Mutex::default() }
    }

    async fn take(&self, bytes: u64) {
        let Some(rate) = self.bytes_per_second else { return };
        let now = Instant::now();
        let cost = Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / rate);
        let until = {
            let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
            let until = paid_until.map_or(now, |until| until.max(now)) + cost;
            *paid_until = Some(until);
            until
        };
        if until > now + BURST {
            tokio::time::sleep_until(until - BURST).await;
        }
    }
}

/// An error with its causes on one line.
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(formatter, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
