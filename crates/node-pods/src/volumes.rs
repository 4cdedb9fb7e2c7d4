//! Volumes of a pod: directories on the node that its containers see.
//!
//! They live in `DATA_DIR/node/pods/<ns>_<pod>_<uid>/.volumes/<name>`. Content of ConfigMaps, Secrets and fields goes
//! through the [`atomic_writer`], so that a program reading them sees one version as a whole; [`prepare`] may be
//! called again at any time and changes only what differs. Of a volume that the hub has made for a claim there is a link instead:
//! its directory outlives the pod (`directories`).

pub(crate) mod atomic_writer;
pub(crate) mod usage;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

use crate::claims::{self, Claimed};
use crate::env::{self, Lookup, NodeFacts, ValueError};
use crate::model::{
    ConfigMapVolume, Container, DownwardVolume, HostPath, KeyToPath, Pod, Quantity, TokenProjection, Volume,
};
use crate::store::{ObjectKind, ROOT_CA};
use crate::tokens::TokenRef;
use atomic_writer::{Content, File};
pub use usage::{DirUsage, dir_usage};

/// Mode of files from ConfigMaps, Secrets and fields when the volume does not say.
const DEFAULT_MODE: u32 = 0o644;
/// A memory volume without a size limit may take this much: half of the smallest gateway would be too much.
const MEMORY_VOLUME_BYTES: u64 = 64 * 1024 * 1024;
/// The API gives every pod a volume of such a name, with a token of its service account, the CA and the namespace.
const API_ACCESS_PREFIX: &str = "kube-api-access-";
/// Where containers see it.
pub(crate) const API_ACCESS_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// `f_type` of a tmpfs.
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;

/// Why a volume is not in place.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    /// Only a wait for the hub; no fault.
    #[error("volume \"{volume}\" waits: {source}")]
    Pending {
        volume: String,
        #[source]
        source: ValueError,
    },
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {source}")]
    Value {
        volume: String,
        #[source]
        source: ValueError,
    },
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : references non-existent config key: {key}")]
    NoKey { volume: String, key: String },
    #[error("volume \"{0}\" projects a token; a static pod has no service account, as the hub does not know it")]
    StaticToken(String),
    #[error("volume name `{0}` is not a name; use letters, digits and `-`")]
    Name(String),
    #[error("volume \"{volume}\" has a path that leads out of it: `{path}`")]
    Path { volume: String, path: String },
    #[error("hostPath {path} of volume \"{volume}\" is not a {expected}")]
    HostPath { volume: String, path: String, expected: String },
    #[error(
        "volume \"{0}\" is of a kind that this node does not have; use emptyDir, configMap, secret, downwardAPI, projected, hostPath or persistentVolumeClaim"
    )]
    Unsupported(String),
    #[error("volume \"{volume}\" claims {claim}: {why}")]
    Claim { volume: String, claim: String, why: String },
    #[error("failed to put volume \"{volume}\" in place at {}", path.display())]
    Io {
        volume: String,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Where each volume of a pod is on the node.
pub(crate) type Places = BTreeMap<String, PathBuf>;

/// Volumes in place.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    pub places: Places,
    /// What they lack for now that a pod can start without, for people.
    pub lacks: Vec<String>,
}

/// Whether a volume is one that the API gives to pods that do not ask for it.
pub(crate) fn is_api_access(volume: &str) -> bool {
    volume.starts_with(API_ACCESS_PREFIX)
}

/// The volume with a pod's token.
pub(crate) fn token_volume(pod: &Pod) -> Option<&str> {
    let has_token = |volume: &&Volume| {
        let mut sources = volume.projected.iter().flat_map(|projected| &projected.sources);
        sources.any(|source| source.service_account_token.is_some())
    };
    pod.spec.volumes.iter().find(has_token).map(|volume| volume.name.as_str())
}

/// Puts every volume of a pod in place, or brings it up to date. Blocks on the disk.
pub(crate) fn prepare(
    pod: &Pod,
    pod_dir: &Path,
    node: &NodeFacts,
    lookup: &dyn Lookup,
) -> Result<Prepared, VolumeError> {
    let mut prepared = Prepared::default();
    for volume in &pod.spec.volumes {
        // The hub checks names; a static pod, or the pod of another hub, may not have met it.
        if !is_inside(&volume.name) || volume.name.contains('/') {
            return Err(VolumeError::Name(volume.name.clone()));
        }
        let place = pod_dir.join(".volumes").join(&volume.name);
        let path = match prepare_one(pod, volume, &place, node, lookup, &mut prepared.lacks) {
            // Nobody has asked for it, so nobody's pod fails for it.
            Err(error) if is_api_access(&volume.name) && !matches!(error, VolumeError::StaticToken(_)) => {
                prepared.lacks.push(node_client::chain(&error));
                place
            }
            path => path?,
        };
        prepared.places.insert(volume.name.clone(), path);
    }
    Ok(prepared)
}

fn prepare_one(
    pod: &Pod,
    volume: &Volume,
    place: &Path,
    node: &NodeFacts,
    lookup: &dyn Lookup,
    lacks: &mut Vec<String>,
) -> Result<PathBuf, VolumeError> {
    let io = |source| VolumeError::Io { volume: volume.name.clone(), path: place.to_owned(), source };
    if let Some(host_path) = &volume.host_path {
        return prepare_host_path(&volume.name, host_path);
    }
    if let Some(claim) = &volume.persistent_volume_claim {
        return match claims::find(pod, &volume.name, claim, node, lookup)? {
            Claimed::Path(host_path) => prepare_host_path(&volume.name, &host_path),
            Claimed::Directory(of) => {
                let path = node.directories.prepare(&of, place).map_err(io)?;
                give_to_group(&path, pod);
                Ok(path)
            }
        };
    }
    // Its runtime mounts it, for each container; here is no place for it.
    if volume.image.is_some() {
        return Ok(PathBuf::new());
    }
    if let Some(empty_dir) = &volume.empty_dir {
        make_dir(place, 0o777).map_err(io)?;
        if empty_dir.medium == "Memory" {
            let limit = empty_dir.size_limit.as_ref().and_then(Quantity::units).unwrap_or(MEMORY_VOLUME_BYTES);
            mount_memory(place, limit, 0o777).map_err(io)?;
        }
        give_to_group(place, pod);
        return Ok(place.to_owned());
    }
    let (content, is_secret) = content_of(pod, volume, node, lookup, lacks)?;
    make_dir(place, 0o755).map_err(io)?;
    if is_secret {
        // A secret should not reach the flash; where mounting is not permitted, the directory's owner is all that protects it.
        if let Err(error) = mount_memory(place, 4 * 1024 * 1024, 0o755) {
            tracing::debug!(volume = %volume.name, %error, "No memory for a Secret volume; using the disk.");
        }
    }
    atomic_writer::write(place, &content, pod.spec.security_context.fs_group).map_err(io)?;
    Ok(place.to_owned())
}

/// The content of a volume that is made of objects and fields, and whether any of it is secret.
fn content_of(
    pod: &Pod,
    volume: &Volume,
    node: &NodeFacts,
    lookup: &dyn Lookup,
    lacks: &mut Vec<String>,
) -> Result<(Content, bool), VolumeError> {
    let mut builder =
        ContentBuilder { pod, volume: &volume.name, node, lookup, content: Content::new(), is_secret: false, lacks };
    if let Some(source) = &volume.config_map {
        builder.add_object(ObjectKind::ConfigMap, source, DEFAULT_MODE)?;
    } else if let Some(source) = &volume.secret {
        let source = ConfigMapVolume {
            name: source.secret_name.clone(),
            items: source.items.clone(),
            default_mode: source.default_mode,
            optional: source.optional,
        };
        builder.add_object(ObjectKind::Secret, &source, DEFAULT_MODE)?;
    } else if let Some(source) = &volume.downward_api {
        builder.add_fields(source, DEFAULT_MODE)?;
    } else if let Some(projected) = &volume.projected {
        let mode = projected.default_mode.unwrap_or(DEFAULT_MODE);
        for source in &projected.sources {
            if let Some(config_map) = &source.config_map {
                match builder.add_object(ObjectKind::ConfigMap, config_map, mode) {
                    // Every pod refers to it, and none has asked: it comes when the hub has published it.
                    Err(error) if is_api_access(&volume.name) && config_map.name == ROOT_CA => {
                        builder.lacks.push(error.to_string());
                    }
                    added => added?,
                }
            }
            if let Some(secret) = &source.secret {
                builder.add_object(ObjectKind::Secret, secret, mode)?;
            }
            if let Some(fields) = &source.downward_api {
                builder.add_fields(fields, mode)?;
            }
            if let Some(token) = &source.service_account_token {
                builder.add_token(token, mode)?;
            }
        }
    } else {
        return Err(VolumeError::Unsupported(volume.name.clone()));
    }
    Ok((builder.content, builder.is_secret))
}

struct ContentBuilder<'a> {
    pod: &'a Pod,
    volume: &'a str,
    node: &'a NodeFacts,
    lookup: &'a dyn Lookup,
    content: Content,
    is_secret: bool,
    lacks: &'a mut Vec<String>,
}

impl ContentBuilder<'_> {
    fn add_object(&mut self, kind: ObjectKind, source: &ConfigMapVolume, mode: u32) -> Result<(), VolumeError> {
        self.is_secret |= kind == ObjectKind::Secret;
        let mode = source.default_mode.unwrap_or(mode);
        let namespace = &self.pod.metadata.namespace;
        let object =
            env::fetch(self.lookup, kind, namespace, &source.name, source.optional).map_err(|e| self.value(e))?;
        let Some(object) = object else { return Ok(()) };
        let data = env::data(kind, &source.name, &object);
        if source.items.is_empty() {
            for (key, bytes) in data {
                let bytes = bytes.map_err(|e| self.value(e))?;
                self.add(&key, bytes, mode)?;
            }
            return Ok(());
        }
        for KeyToPath { key, path, mode: own } in &source.items {
            match data.get(key) {
                Some(bytes) => {
                    let bytes = bytes.clone().map_err(|e| self.value(e))?;
                    self.add(path, bytes, own.unwrap_or(mode))?;
                }
                None if source.optional => {}
                None => return Err(VolumeError::NoKey { volume: self.volume.to_owned(), key: key.clone() }),
            }
        }
        Ok(())
    }

    fn add_fields(&mut self, source: &DownwardVolume, mode: u32) -> Result<(), VolumeError> {
        let mode = source.default_mode.unwrap_or(mode);
        for item in &source.items {
            let value = if let Some(field) = &item.field_ref {
                env::field_value(self.pod, self.node, field)
            } else if let Some(resource) = &item.resource_field_ref {
                let fresh = Container::default();
                env::resource_value(self.pod, self.pod.spec.containers.first().unwrap_or(&fresh), self.node, resource)
            } else {
                continue;
            };
            let value = value.map_err(|e| self.value(e))?;
            self.add(&item.path, value.into_bytes(), item.mode.unwrap_or(mode))?;
        }
        Ok(())
    }

    /// The token, once it was issued. Its mode is as Kubernetes' kubelets have it: of the one user that all containers run as, for
    /// the pod's group, or else as the volume says.
    fn add_token(&mut self, source: &TokenProjection, mode: u32) -> Result<(), VolumeError> {
        if self.pod.is_static() {
            return Err(VolumeError::StaticToken(self.volume.to_owned()));
        }
        self.is_secret = true;
        let of = TokenRef::of(self.pod, source);
        let Some(token) = self.lookup.token(&of) else {
            let account = &of.account;
            self.lacks
                .push(format!("volume \"{}\": the token of service account {account} was not issued yet", self.volume));
            return Ok(());
        };
        let owner = self.pod.one_user();
        let mode = match (owner, self.pod.spec.security_context.fs_group) {
            (_, Some(_)) => 0o640,
            (Some(_), None) => 0o600,
            (None, None) => mode,
        };
        self.add(&source.path, token.into_bytes(), mode)?;
        if let Some(file) = self.content.get_mut(&source.path) {
            file.owner = owner;
        }
        Ok(())
    }

    fn add(&mut self, path: &str, bytes: Vec<u8>, mode: u32) -> Result<(), VolumeError> {
        if !is_inside(path) || path.starts_with("..") {
            return Err(VolumeError::Path { volume: self.volume.to_owned(), path: path.to_owned() });
        }
        self.content.insert(path.to_owned(), File { bytes, mode: mode & 0o777, owner: None });
        Ok(())
    }

    fn value(&self, source: ValueError) -> VolumeError {
        let volume = self.volume.to_owned();
        match source {
            ValueError::Pending { .. } => VolumeError::Pending { volume, source },
            _ => VolumeError::Value { volume, source },
        }
    }
}

/// Whether a relative path stays where it starts.
fn is_inside(path: &str) -> bool {
    let path = Path::new(path);
    !path.as_os_str().is_empty() && path.components().all(|component| matches!(component, Component::Normal(_)))
}

/// What of a volume one mount shows, when it is not all of it. Only the path is looked at: a container may have put a link
/// there, or the volume may be on a share that does not respond, so it is the container's shim that opens it.
pub(crate) fn sub_path(volume: &str, sub_path: &str) -> Result<Option<PathBuf>, VolumeError> {
    match sub_path {
        "" => Ok(None),
        path if is_inside(path) => Ok(Some(path.into())),
        path => Err(VolumeError::Path { volume: volume.to_owned(), path: path.to_owned() }),
    }
}

/// Whether only the node writes to a volume: its containers read it, whatever their mounts say.
pub(crate) fn is_configuration(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some()
}

fn prepare_host_path(volume: &str, host_path: &HostPath) -> Result<PathBuf, VolumeError> {
    let path = PathBuf::from(&host_path.path);
    let io = |source| VolumeError::Io { volume: volume.to_owned(), path: path.clone(), source };
    match host_path.r#type.as_str() {
        "DirectoryOrCreate" if !path.exists() => make_dir(&path, 0o755).map_err(io)?,
        "FileOrCreate" if !path.exists() => {
            std::fs::OpenOptions::new().create(true).append(true).open(&path).map_err(io)?;
        }
        _ => {}
    }
    let kind = std::fs::metadata(&path).map_err(io)?.file_type();
    let fits = match host_path.r#type.as_str() {
        "Directory" | "DirectoryOrCreate" => kind.is_dir(),
        "File" | "FileOrCreate" => kind.is_file(),
        "Socket" => kind.is_socket(),
        "CharDevice" => kind.is_char_device(),
        "BlockDevice" => kind.is_block_device(),
        _ => true,
    };
    if fits {
        Ok(path)
    } else {
        let expected = host_path.r#type.clone();
        Err(VolumeError::HostPath { volume: volume.to_owned(), path: host_path.path.clone(), expected })
    }
}

/// Makes a directory with exactly this mode, whatever the umask.
fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }
    std::fs::create_dir(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

/// Mounts a tmpfs on `path` unless one is there.
fn mount_memory(path: &Path, bytes: u64, mode: u32) -> io::Result<()> {
    if is_memory(path)? {
        return Ok(());
    }
    let options = std::ffi::CString::new(format!("size={bytes},mode={mode:o}")).map_err(io::Error::other)?;
    rustix::mount::mount("selvedge", path, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str())?;
    Ok(())
}

/// Whether `path` is a tmpfs of its own, and not merely in one.
fn is_memory(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let is_tmpfs = rustix::fs::statfs(path)?.f_type == TMPFS_MAGIC;
    let parent = path.parent().unwrap_or(path);
    Ok(is_tmpfs && std::fs::metadata(path)?.dev() != std::fs::metadata(parent)?.dev())
}

fn give_to_group(path: &Path, pod: &Pod) {
    if let Some(group) = pod.spec.security_context.fs_group {
        // Without the right to do so, the mode lets everyone in anyway. What is created in it is the group's as well.
        if std::os::unix::fs::chown(path, None, Some(group)).is_ok()
            && let Ok(meta) = std::fs::metadata(path)
        {
            let mode = meta.permissions().mode() & 0o7777 | 0o2770;
            let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode));
        }
    }
}

/// Unmounts and removes everything of all pods of a data directory whose containers were stopped. Missing parts are no error.
///
/// # Errors
/// When something cannot be unmounted or removed.
pub fn remove_pods(data_dir: &Path) -> io::Result<()> {
    match std::fs::read_dir(data_dir.join("node/pods")) {
        Ok(mut entries) => entries.try_for_each(|entry| remove(&entry?.path())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The uids of all pods that have a directory in `data_dir`.
///
/// # Errors
/// When their directory cannot be read.
pub fn pod_uids(data_dir: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(data_dir.join("node/pods")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let uid = |entry: std::fs::DirEntry| Some(entry.file_name().to_str()?.rsplit('_').next()?.to_owned());
    Ok(entries.flatten().filter_map(uid).collect())
}

/// Unmounts and removes everything of a pod. Missing parts are no error.
pub(crate) fn remove(pod_dir: &Path) -> io::Result<()> {
    match std::fs::read_dir(pod_dir.join(".volumes")) {
        Ok(entries) => {
            for entry in entries {
                let entry = entry?;
                let path = entry.path();
                // A link leads to a volume that outlives the pod.
                if entry.file_type()?.is_dir() && is_memory(&path)? {
                    rustix::mount::unmount(&path, UnmountFlags::DETACH)?;
                }
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    match base_fs::remove_tree(pod_dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
