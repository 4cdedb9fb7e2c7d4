//! Where images are kept: layers unpacked once each, and what is known of images in files that a power cut cannot spoil.
//!
//! ```text
//! DIR/VERSION, lock
//! DIR/layers/0123456789ab/            a layer, as overlayfs takes it; named by its diff id
//! DIR/layers/.new-7                   a layer that is being unpacked
//! DIR/layer-records/0123456789ab.json its whole diff id and its size
//! DIR/images/<64 digits>.json         an image: its configuration as it came, and its layers
//! DIR/names.json                      names and digests of repositories to ids, and when images were used
//! DIR/partial/<digits>                blobs whose download was cut off, or is under way
//! DIR/drafts/                         archives that are decompressed just now
//! DIR/trash/                          what is being deleted
//! ```
//!
//! Names of layers are short because overlayfs takes 4,096 bytes of options: mounted relative to `layers/`, 300 of them fit.
//! Twelve digits can be found twice by somebody who has a day and a few graphics cards, so the whole diff id is compared, and
//! another layer with the same digits gets a suffix.
//!
//! # What a power cut leaves
//!
//! A layer is unpacked into a draft, its digests are compared, then the whole file system is synced (`syncfs`: one flush where a
//! sync of each file would take ten thousand), then its record is written, then the draft gets its name, then the directory
//! is synced. An image is recorded when all its layers have names; its names point to it after that. So what is named is
//! whole. Deleting runs backwards: names, image, record of the layer, layer. [`ImageStore::open`] deletes what is in between:
//! drafts, layers without a record, records without a layer, images that lack a layer, names that lead nowhere. A layer that no
//! image uses is kept: a pull that was cut off finds it, and [`ImageStore::collect`] takes such layers first.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base_fs::{Access, DirError, DirLock, Format, ReadFileError};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::manifest::{ConfigDocument, DOCUMENT_BYTES_MAX, ImageConfig};
use crate::unpack::{self, Devices, LayerLimits, Unpacked};
use crate::{Digest, InvalidReference, Platform, Reference};

mod error;
mod sync;

pub use error::{LayerError, OpenStoreError, RemoveError, StoreError};

const FORMAT: Format = Format { name: "selvedge-images", version: 1 };
/// Each record has a version of its own, so that one file can change its form without the others.
const RECORD_VERSION: u32 = 1;
/// A configuration as JSON in JSON: every byte of it may become six.
const IMAGE_RECORD_BYTES_MAX: usize = 6 * DOCUMENT_BYTES_MAX + (1 << 20);
const SMALL_RECORD_BYTES_MAX: usize = 64 << 10;
const NAMES_BYTES_MAX: usize = 16 << 20;
/// More images than a node ever has.
const IMAGES_MAX: usize = 4_000;
/// Configurations of all images; they are in memory. One has a few kilobytes.
const CONFIGS_BYTES_MAX: usize = 32 << 20;
/// Digits of a layer's name.
const SHORT_NAME: usize = 12;
/// Digits of an id that name an image, where no other begins with them.
const ID_DIGITS_MIN: usize = 12;
/// When an image was used is written down at most this often: the order in which images are deleted needs no more, and
/// flash wears out.
const USED_PERIOD_SECONDS: u64 = 3600;

/// How a store is run.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// What images may be.
    pub limits: Limits,
    /// For which platform an image is chosen where there are several.
    pub platform: Platform,
}

/// What an image may be; what exceeds it is rejected while it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Layers of an image. Docker builds no more, and overlayfs takes them all.
    pub layers_max: usize,
    /// Files, directories, links and whiteouts of one layer.
    pub entries_max: u64,
    /// Bytes of all files of an image.
    pub bytes_max: u64,
    /// Whether device nodes are created.
    pub devices: Devices,
}

impl Default for Limits {
    fn default() -> Self {
        Self { layers_max: 127, entries_max: 1_000_000, bytes_max: 32 << 30, devices: Devices::Created }
    }
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { limits: Limits::default(), platform: Platform::host() }
    }
}

/// An image that can be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// `sha256:…` of its configuration.
    pub id: String,
    /// Complete names with tags: `docker.io/library/busybox:latest`.
    pub names: Vec<String>,
    /// Complete names with digests.
    pub repo_digests: Vec<String>,
    /// How it is run.
    pub config: ImageConfig,
    /// Directories of its layers, lowest first.
    pub layers: Vec<PathBuf>,
    /// Bytes of its files, layers shared with others included.
    pub size_bytes: u64,
}

/// What garbage collection deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Ids.
    pub images: Vec<String>,
    /// Bytes of the files that were deleted.
    pub bytes_freed: u64,
}

/// A layer of the store that is not deleted while this is held.
#[derive(Debug)]
pub(crate) struct HeldLayer {
    counts: HeldCounts,
    pub(crate) directory: String,
    pub(crate) bytes: u64,
}

/// Layers that are held, and how often. Its lock is taken with the store's or alone, never before it.
type HeldCounts = Arc<Mutex<BTreeMap<String, usize>>>;

impl Drop for HeldLayer {
    fn drop(&mut self) {
        let mut counts = lock(&self.counts);
        if let Some(count) = counts.get_mut(&self.directory) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.directory);
            }
        }
    }
}

/// An image whose layers are all there.
pub(crate) struct NewImage<'a> {
    /// As it came: its digest is the id.
    pub(crate) config: &'a [u8],
    pub(crate) document: &'a ConfigDocument,
    pub(crate) layers: &'a [HeldLayer],
    pub(crate) names: &'a [Reference],
    pub(crate) digests: &'a [Reference],
}

/// Images on disk. Shared by reference; every function may block on the disk.
#[derive(Debug)]
pub struct ImageStore {
    dir: PathBuf,
    options: StoreOptions,
    state: Mutex<State>,
    held: HeldCounts,
    _lock: DirLock,
}

#[derive(Debug, Default)]
struct State {
    images: BTreeMap<String, Entry>,
    layers: BTreeMap<String, LayerRecord>,
    names: Names,
    /// For names of drafts.
    next_draft: u64,
    /// When images were used, also where it has not been written down yet.
    used: BTreeMap<String, u64>,
}

#[derive(Debug)]
struct Entry {
    config: ImageConfig,
    config_bytes: usize,
    /// Directories, lowest first, each once.
    layers: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ImageRecord {
    version: u32,
    config: String,
    layers: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LayerRecord {
    version: u32,
    diff_id: Digest,
    bytes: u64,
    entries: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Names {
    version: u32,
    /// Complete names with tags, to ids.
    names: BTreeMap<String, String>,
    /// Complete names with digests, to ids.
    digests: BTreeMap<String, String>,
    /// Ids to seconds since 1970.
    last_used: BTreeMap<String, u64>,
}

impl ImageStore {
    /// Opens the store in `dir`, which is created when it is not there, for the platform of this machine.
    pub fn open(dir: &Path) -> Result<Self, OpenStoreError> {
        Self::open_with(dir, StoreOptions::default())
    }

    /// Opens the store in `dir`, and deletes what a power cut has left half done.
    pub fn open_with(dir: &Path, options: StoreOptions) -> Result<Self, OpenStoreError> {
        base_fs::create_private_dir_all(dir).map_err(OpenStoreError::Directory)?;
        let lock = DirLock::try_acquire(dir).map_err(|source| io_error("lock", dir)(source))?;
        let lock = lock.ok_or_else(|| OpenStoreError::Locked { path: dir.to_owned() })?;
        FORMAT.open(dir).map_err(OpenStoreError::Format)?;
        for part in ["layers", "layer-records", "images", "partial", "drafts", "trash"] {
            base_fs::create_private_dir_all(&dir.join(part)).map_err(OpenStoreError::Directory)?;
        }
        let store =
            Self { dir: dir.to_owned(), options, state: Mutex::default(), held: HeldCounts::default(), _lock: lock };
        let state = store.load()?;
        *store.state() = state;
        Ok(store)
    }

    /// The directory in which the layers' directories are: overlayfs is mounted from there, by their last parts.
    pub fn layers_dir(&self) -> PathBuf {
        self.dir.join("layers")
    }

    /// How the store is run.
    pub fn options(&self) -> &StoreOptions {
        &self.options
    }

    /// Finds an image by a name as people write it, or by its id.
    pub fn resolve(&self, image: &str) -> Result<Option<Image>, InvalidReference> {
        let state = self.state();
        Ok(find_id(&state, image)?.and_then(|id| self.image(&state, &id)))
    }

    /// All images, by id.
    pub fn list(&self) -> Vec<Image> {
        let state = self.state();
        state.images.keys().filter_map(|id| self.image(&state, id)).collect()
    }

    /// Gives an image another name; the name is taken from whatever had it. `false` when there is no such image.
    pub fn tag(&self, image: &str, name: &Reference) -> Result<bool, RemoveError> {
        let mut state = self.state();
        let Some(id) = find_id(&state, image)? else { return Ok(false) };
        let mut names = state.names.clone();
        add_names(&mut names, &id, std::slice::from_ref(name), &[]);
        self.write_names(&mut state, names)?;
        Ok(true)
    }

    /// Notes that an image was used, for the order in which images are deleted.
    pub fn mark_used(&self, id: &str) -> Result<(), StoreError> {
        let mut state = self.state();
        if !state.images.contains_key(id) {
            return Ok(());
        }
        let now = next_stamp(&state);
        state.used.insert(id.to_owned(), now);
        let written = state.names.last_used.get(id).copied().unwrap_or_default();
        if now < written.saturating_add(USED_PERIOD_SECONDS) {
            return Ok(());
        }
        let mut names = state.names.clone();
        names.last_used = state.used.clone();
        self.write_names(&mut state, names)
    }

    /// The ids of images that were added or used not longer ago than that, by the clock.
    pub fn used_within(&self, age: Duration) -> Vec<String> {
        let state = self.state();
        let oldest = now_seconds().saturating_sub(age.as_secs());
        state.used.iter().filter(|(_, used)| **used >= oldest).map(|(id, _)| id.clone()).collect()
    }

    /// The whole id where the beginning of one is given, as lists show it, and nothing else is called so.
    pub(crate) fn expand_id(&self, image: &str) -> Option<String> {
        let digits = image.strip_prefix("sha256:").unwrap_or(image);
        if digits.len() < ID_DIGITS_MIN || !is_hex(digits) {
            return None;
        }
        let state = self.state();
        if find_id(&state, image).is_ok_and(|found| found.is_some()) {
            return None;
        }
        let start = format!("sha256:{digits}");
        let mut found = state.images.keys().filter(|id| id.starts_with(&start));
        found.next().filter(|_| found.next().is_none()).cloned()
    }

    /// Removes a name; with its last name, or by its id, the image and the layers that no other image uses. An image of
    /// `in_use` (ids) keeps its last name.
    pub fn remove(&self, image: &str, in_use: &BTreeSet<String>) -> Result<Collected, RemoveError> {
        let not_found = || RemoveError::NotFound { image: image.to_owned() };
        let whole = self.expand_id(image);
        let image = whole.as_deref().unwrap_or(image);
        let mut state = self.state();
        let id = find_id(&state, image)?.ok_or_else(not_found)?;
        let mut names = state.names.clone();
        if !is_id(image) {
            let name = Reference::parse(image)?;
            match &name.digest() {
                Some(digest) => names.digests.remove(&name.with_digest((*digest).clone()).to_string()),
                None => names.names.remove(&name.to_string()),
            };
            let is_named = names.names.values().any(|other| *other == id);
            if is_named {
                self.write_names(&mut state, names)?;
                return Ok(Collected::default());
            }
        }
        if in_use.contains(&id) {
            return Err(RemoveError::InUse { image: image.to_owned() });
        }
        let bytes_freed = self.delete_image(&mut state, &id)?;
        drop(state);
        self.empty_trash()?;
        Ok(Collected { images: vec![id], bytes_freed })
    }

    /// Deletes blobs that were not downloaded to their end and layers that no image uses, then images that are not in `in_use` (ids), least recently used first, until
    /// `bytes_to_free` are free or nothing is left to delete.
    pub fn collect(&self, in_use: &BTreeSet<String>, bytes_to_free: u64) -> Result<Collected, StoreError> {
        let mut collected = Collected::default();
        for path in children(&self.dir.join("partial"))? {
            // One that is under way is only lost for a download that is cut off: who writes it has it open.
            collected.bytes_freed += fs::symlink_metadata(&path).map_or(0, |found| found.len());
            remove_file(&path)?;
        }
        let mut state = self.state();
        collected.bytes_freed += self.delete_unused_layers(&mut state)?;
        let mut candidates: Vec<(u64, String)> = state
            .images
            .keys()
            .filter(|id| !in_use.contains(*id))
            .map(|id| (state.used.get(id).copied().unwrap_or_default(), id.clone()))
            .collect();
        candidates.sort();
        for (_, id) in candidates {
            if collected.bytes_freed >= bytes_to_free {
                break;
            }
            collected.bytes_freed += self.delete_image(&mut state, &id)?;
            collected.images.push(id);
        }
        drop(state);
        self.empty_trash()?;
        Ok(collected)
    }

    /// The layer with this diff id, if it is there, held until the handle is dropped.
    pub(crate) fn hold_layer(&self, diff_id: &Digest) -> Option<HeldLayer> {
        self.find_layer(&self.state(), diff_id)
    }

    fn find_layer(&self, state: &State, diff_id: &Digest) -> Option<HeldLayer> {
        let found = state.layers.iter().find(|(_, record)| record.diff_id == *diff_id);
        found.map(|(directory, record)| self.hold(directory.clone(), record.bytes))
    }

    /// The layers of an image, lowest first, held until the handles are dropped.
    pub(crate) fn hold_image(&self, id: &str) -> Option<Vec<HeldLayer>> {
        let state = self.state();
        let layers = state.images.get(id)?.layers.clone();
        Some(layers.into_iter().map(|directory| self.hold(directory, 0)).collect())
    }

    /// Unpacks a layer, unless it is there already; `blob` is the digest that the bytes of `reader` must have.
    pub(crate) fn add_layer(
        &self,
        diff_id: &Digest,
        blob: Option<&Digest>,
        reader: impl Read,
        bytes_max: u64,
    ) -> Result<HeldLayer, LayerError> {
        if let Some(held) = self.hold_layer(diff_id) {
            return Ok(held);
        }
        let draft = self.layers_dir().join(format!(".new-{}", self.next_draft()));
        let limits = &self.options.limits;
        let limits = LayerLimits { bytes_max, entries_max: limits.entries_max, devices: limits.devices };
        fs::create_dir(&draft).map_err(io_error("create", &draft))?;
        let added = make_world_readable(&draft)
            .map_err(LayerError::Store)
            .and_then(|()| unpack::unpack(reader, &draft, blob, diff_id, &limits).map_err(LayerError::Unpack))
            .and_then(|unpacked| {
                sync::sync_tree(&draft).map_err(io_error("sync", &draft))?;
                Ok(self.name_layer(&draft, diff_id, unpacked)?)
            });
        // Renamed away, or another pull was faster with the same layer, or it has failed.
        if draft.exists()
            && let Err(error) = fs::remove_dir_all(&draft)
        {
            warn!(%error, draft = %draft.display(), "Failed to delete the draft of a layer; the next start will.");
        }
        added
    }

    /// Records an image whose layers are all there and gives it its names.
    pub(crate) fn add_image(&self, image: &NewImage<'_>) -> Result<Image, StoreError> {
        let id = Digest::of(image.config);
        // Twice the same layer: what the upper one says is what counts, and overlayfs takes no directory twice.
        let mut layers: Vec<String> = Vec::new();
        for layer in image.layers.iter().rev() {
            if !layers.contains(&layer.directory) {
                layers.push(layer.directory.clone());
            }
        }
        layers.reverse();
        let mut state = self.state();
        if !state.images.contains_key(id.as_str()) {
            let config_bytes: usize = state.images.values().map(|entry| entry.config_bytes).sum();
            if state.images.len() >= IMAGES_MAX || config_bytes + image.config.len() > CONFIGS_BYTES_MAX {
                return Err(StoreError::Full);
            }
            let config = String::from_utf8(image.config.to_vec()).expect("it was parsed, which checks this");
            let record = ImageRecord { version: RECORD_VERSION, config, layers: layers.clone() };
            let bytes = serde_json::to_vec(&record).expect("a record is JSON");
            base_fs::write_atomic(&self.image_record(id.as_str()), &bytes, Access::Private)?;
            let entry = Entry { config: image.document.config.clone(), config_bytes: image.config.len(), layers };
            state.images.insert(id.as_str().to_owned(), entry);
        }
        let mut names = state.names.clone();
        add_names(&mut names, id.as_str(), image.names, image.digests);
        let now = next_stamp(&state);
        state.used.insert(id.as_str().to_owned(), now);
        names.last_used = state.used.clone();
        self.write_names(&mut state, names)?;
        Ok(self.image(&state, id.as_str()).expect("it was inserted above"))
    }

    /// The configuration of an image as it came.
    pub(crate) fn config_bytes(&self, id: &str) -> Result<Vec<u8>, StoreError> {
        let path = self.image_record(id);
        let record = read_image_record(&path).map_err(|source| StoreError::Io { action: "read", path, source })?;
        Ok(record.config.into_bytes())
    }

    /// Where a blob is kept while it is downloaded, so that the download can be resumed after a restart.
    pub(crate) fn partial_path(&self, blob: &Digest) -> PathBuf {
        self.dir.join("partial").join(blob.hex())
    }

    /// A path for what is decompressed; the next start deletes what is left there.
    pub(crate) fn draft_path(&self, name: &str) -> PathBuf {
        self.dir.join("drafts").join(format!("{name}-{}", self.next_draft()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn next_draft(&self) -> u64 {
        let mut state = self.state();
        state.next_draft += 1;
        state.next_draft
    }

    fn image_record(&self, id: &str) -> PathBuf {
        self.dir.join("images").join(format!("{}.json", id.trim_start_matches("sha256:")))
    }

    fn layer_record(&self, directory: &str) -> PathBuf {
        self.dir.join("layer-records").join(format!("{directory}.json"))
    }

    /// Called with the state locked, so that nobody deletes the layer between the look and the hold.
    fn hold(&self, directory: String, bytes: u64) -> HeldLayer {
        *lock(&self.held).entry(directory.clone()).or_default() += 1;
        HeldLayer { counts: self.held.clone(), directory, bytes }
    }

    fn image(&self, state: &State, id: &str) -> Option<Image> {
        let entry = state.images.get(id)?;
        let named = |names: &BTreeMap<String, String>| {
            names.iter().filter(|(_, named)| *named == id).map(|(name, _)| name.clone()).collect()
        };
        Some(Image {
            id: id.to_owned(),
            names: named(&state.names.names),
            repo_digests: named(&state.names.digests),
            config: entry.config.clone(),
            layers: entry.layers.iter().map(|directory| self.layers_dir().join(directory)).collect(),
            size_bytes: entry.layers.iter().filter_map(|directory| Some(state.layers.get(directory)?.bytes)).sum(),
        })
    }

    /// Gives a draft its name. It is on disk with all that is in it.
    fn name_layer(&self, draft: &Path, diff_id: &Digest, unpacked: Unpacked) -> Result<HeldLayer, StoreError> {
        let mut state = self.state();
        // Somebody else was faster with the same layer.
        if let Some(held) = self.find_layer(&state, diff_id) {
            return Ok(held);
        }
        let short = &diff_id.hex()[..SHORT_NAME];
        let with_suffix = (1..).map(|suffix: u32| format!("{short}-{suffix}"));
        let mut free =
            std::iter::once(short.to_owned()).chain(with_suffix).filter(|name| !state.layers.contains_key(name));
        let directory = free.next().expect("the iterator has no end");
        let record = LayerRecord {
            version: RECORD_VERSION,
            diff_id: diff_id.clone(),
            bytes: unpacked.bytes,
            entries: unpacked.entries,
        };
        let bytes = serde_json::to_vec(&record).expect("a record is JSON");
        base_fs::write_atomic(&self.layer_record(&directory), &bytes, Access::Private)?;
        let path = self.layers_dir().join(&directory);
        fs::rename(draft, &path).map_err(io_error("name", &path))?;
        sync_dir(&self.layers_dir())?;
        state.layers.insert(directory.clone(), record);
        Ok(self.hold(directory, unpacked.bytes))
    }

    /// Deletes an image and the layers that only it uses. What is in the trash then takes its time to delete.
    fn delete_image(&self, state: &mut State, id: &str) -> Result<u64, StoreError> {
        let mut names = state.names.clone();
        names.names.retain(|_, named| named != id);
        names.digests.retain(|_, named| named != id);
        names.last_used.remove(id);
        self.write_names(state, names)?;
        remove_file(&self.image_record(id))?;
        sync_dir(&self.dir.join("images"))?;
        state.images.remove(id);
        state.used.remove(id);
        self.delete_unused_layers(state)
    }

    fn delete_unused_layers(&self, state: &mut State) -> Result<u64, StoreError> {
        let used: BTreeSet<&String> = state.images.values().flat_map(|entry| &entry.layers).collect();
        let held = lock(&self.held);
        let is_free = |directory: &&String| !used.contains(directory) && !held.contains_key(*directory);
        let free: Vec<String> = state.layers.keys().filter(is_free).cloned().collect();
        drop(held);
        let mut bytes_freed = 0;
        for directory in free {
            remove_file(&self.layer_record(&directory))?;
            sync_dir(&self.dir.join("layer-records"))?;
            let path = self.layers_dir().join(&directory);
            state.next_draft += 1;
            let trash = self.dir.join("trash").join(state.next_draft.to_string());
            fs::rename(&path, &trash).map_err(io_error("delete", &path))?;
            let record = state.layers.remove(&directory);
            bytes_freed += record.map_or(0, |record| record.bytes);
        }
        Ok(bytes_freed)
    }

    /// Deletes what nobody can see any more. Without the lock: a large layer takes seconds.
    fn empty_trash(&self) -> Result<(), StoreError> {
        let trash = self.dir.join("trash");
        for path in children(&trash)? {
            match fs::remove_dir_all(&path) {
                Ok(()) => {}
                // Another call empties the trash at the same time.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(StoreError::Io { action: "delete", path, source }),
            }
        }
        Ok(())
    }

    fn write_names(&self, state: &mut State, mut names: Names) -> Result<(), StoreError> {
        names.version = RECORD_VERSION;
        let bytes = serde_json::to_vec(&names).expect("names are JSON");
        base_fs::write_if_changed(&self.dir.join("names.json"), &bytes, Access::Private)?;
        state.names = names;
        Ok(())
    }

    /// Reads everything and deletes what is half done.
    fn load(&self) -> Result<State, StoreError> {
        self.empty_trash()?;
        for draft in children(&self.dir.join("drafts"))? {
            remove_any(&draft)?;
        }
        let mut state = State { layers: self.load_layers()?, ..State::default() };
        for path in children(&self.dir.join("images"))? {
            let loaded = read_image_record(&path).and_then(|record| check_image(&path, record));
            match loaded {
                Ok((id, entry)) if entry.layers.iter().all(|layer| state.layers.contains_key(layer)) => {
                    state.images.insert(id, entry);
                }
                Ok(_) => remove_any(&path)?,
                Err(error) => {
                    warn!(%error, path = %path.display(), "Deleted the record of an image that cannot be read.");
                    remove_any(&path)?;
                }
            }
        }
        let mut names = self.load_names();
        names.names.retain(|_, id| state.images.contains_key(id));
        names.digests.retain(|_, id| state.images.contains_key(id));
        names.last_used.retain(|id, _| state.images.contains_key(id));
        state.used = names.last_used.clone();
        state.names = names;
        Ok(state)
    }

    fn load_layers(&self) -> Result<BTreeMap<String, LayerRecord>, StoreError> {
        let mut layers = BTreeMap::new();
        for path in children(&self.dir.join("layer-records"))? {
            let directory = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".json")).unwrap_or_default();
            let is_there = !directory.starts_with('.') && self.layers_dir().join(directory).is_dir();
            match read_json::<LayerRecord>(&path, SMALL_RECORD_BYTES_MAX) {
                Ok(record) if is_there && directory.starts_with(&record.diff_id.hex()[..SHORT_NAME]) => {
                    layers.insert(directory.to_owned(), record);
                }
                _ => remove_any(&path)?,
            }
        }
        for path in children(&self.layers_dir())? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if !layers.contains_key(name.as_ref()) {
                remove_any(&path)?;
            }
        }
        Ok(layers)
    }

    /// Without names the images are still there by their ids; a name comes back with the next pull.
    fn load_names(&self) -> Names {
        let path = self.dir.join("names.json");
        match read_json::<Names>(&path, NAMES_BYTES_MAX) {
            Ok(names) if names.version == RECORD_VERSION => names,
            Ok(_) => Names::default(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Names::default(),
            Err(error) => {
                warn!(%error, "Failed to read the names of the images; they are known by their ids only.");
                Names::default()
            }
        }
    }
}

/// What is in memory is changed only after the disk was: a panic in between leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether this is an id, as the kubelet reports it in `imageID`, and no name.
fn is_id(image: &str) -> bool {
    let digits = image.strip_prefix("sha256:").unwrap_or(image);
    digits.len() == 64 && is_hex(digits)
}

fn is_hex(digits: &str) -> bool {
    digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn find_id(state: &State, image: &str) -> Result<Option<String>, InvalidReference> {
    if is_id(image) {
        let id = format!("sha256:{}", image.trim_start_matches("sha256:"));
        return Ok(Some(id).filter(|id| state.images.contains_key(id)));
    }
    let name = Reference::parse(image)?;
    let found = match name.digest() {
        Some(digest) => state.names.digests.get(&name.with_digest(digest.clone()).to_string()),
        None => state.names.names.get(&name.to_string()),
    };
    Ok(found.cloned())
}

fn add_names(names: &mut Names, id: &str, tagged: &[Reference], digests: &[Reference]) {
    for name in tagged {
        match name.digest() {
            Some(digest) => names.digests.insert(name.with_digest(digest.clone()).to_string(), id.to_owned()),
            None => names.names.insert(name.to_string(), id.to_owned()),
        };
    }
    for name in digests {
        names.digests.insert(name.to_string(), id.to_owned());
    }
}

/// Seconds since 1970, never before what was noted already: a node without a clock starts in 1970 each time.
fn next_stamp(state: &State) -> u64 {
    let now = now_seconds();
    let latest = state.used.values().copied().max().unwrap_or_default();
    // A clock that was decades ahead once must not make all images equal from then on.
    if now > latest { now } else { latest.saturating_add(1) }
}

fn check_image(path: &Path, record: ImageRecord) -> io::Result<(String, Entry)> {
    let invalid = |reason: &'static str| io::Error::new(io::ErrorKind::InvalidData, reason);
    let id = Digest::of(record.config.as_bytes());
    if path.file_name().is_none_or(|name| *name != *format!("{}.json", id.hex())) {
        return Err(invalid("its configuration does not have the digest that is its name"));
    }
    let document = ConfigDocument::parse(record.config.as_bytes()).map_err(io::Error::other)?;
    Ok((
        id.as_str().to_owned(),
        Entry { config: document.config, config_bytes: record.config.len(), layers: record.layers },
    ))
}

fn read_image_record(path: &Path) -> io::Result<ImageRecord> {
    read_json(path, IMAGE_RECORD_BYTES_MAX)
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path, bytes_max: usize) -> io::Result<T> {
    let bytes = base_fs::read_bounded(path, bytes_max).map_err(|error| match error {
        ReadFileError::Read { source, .. } => source,
        error @ ReadFileError::TooLarge { .. } => io::Error::new(io::ErrorKind::InvalidData, error),
    })?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// Containers of any user look at the root of their image; an archive that lists it says otherwise.
fn make_world_readable(dir: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).map_err(io_error("create", dir))
}

fn children(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let failed = io_error("read", dir);
    let entries = fs::read_dir(dir).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    entries.map_err(failed)
}

fn remove_any(path: &Path) -> Result<(), StoreError> {
    let is_dir = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    let removed = if is_dir { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.map_err(io_error("delete", path))
}

fn remove_file(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("delete", path)(error)),
        _ => Ok(()),
    }
}

fn sync_dir(path: &Path) -> Result<(), StoreError> {
    base_fs::sync_dir(path).map_err(|error| match error {
        DirError::Sync { path, source } => StoreError::Io { action: "sync", path, source },
        error => StoreError::Io { action: "sync", path: path.to_owned(), source: io::Error::other(error) },
    })
}

fn io_error(action: &'static str, path: &Path) -> impl Fn(io::Error) -> StoreError + use<> {
    let path = path.to_owned();
    move |source| StoreError::Io { action, path: path.clone(), source }
}

#[cfg(test)]
mod tests;
