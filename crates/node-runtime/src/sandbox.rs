//! What the containers of a pod have in common beside their control group: namespaces, `/dev/shm`, a network.
//!
//! None of it needs a process: namespaces are pinned by mounts of their files (`node_network::PodNamespaces`), in a directory in memory, so
//! that a boot begins with none. Whoever restarts the agent changes nothing of it, and what is found there is taken over.

use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use node_network::{Kind, PodNamespaces};
use node_shim::NamespaceRef;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::{PodNetwork, PodSpec};

/// Shared memory of a pod, as with other runtimes.
const SHM_OPTIONS: &std::ffi::CStr = c"mode=1777,size=65536k";
/// Name of its directory beside the namespaces.
const SHM: &str = "shm";

/// What a runtime's pods have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shared {
    /// Everything, as containers of a pod expect.
    All,
    /// The network alone: each program is a container of its own in all else.
    Network,
}

/// What the containers of a pod enter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sandbox {
    /// The pod's own; a kind that is not among them is the node's.
    pub namespaces: Vec<NamespaceRef>,
    /// None is the node's network.
    pub addresses: Vec<IpAddr>,
    /// What is mounted as `/dev/shm`.
    pub shm: Option<PathBuf>,
}

/// The sandboxes of a runtime's pods.
#[derive(Clone, Debug)]
pub(crate) struct Sandboxes {
    dir: PathBuf,
    shared: Shared,
    network: Option<Arc<dyn PodNetwork>>,
    known: Arc<Mutex<BTreeMap<String, Sandbox>>>,
}

impl Sandboxes {
    pub fn new(dir: PathBuf, shared: Shared, network: Option<Arc<dyn PodNetwork>>) -> Self {
        Self { dir, shared, network, known: Arc::default() }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Sandbox>> {
        // Every change is complete in itself.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The kinds of namespaces that a pod has of its own.
    fn kinds(&self, spec: &PodSpec) -> Vec<Kind> {
        let has_network = !spec.host.network && self.network.is_some();
        let is_meant = |kind: &Kind| match kind {
            Kind::Net => has_network,
            Kind::Ipc => self.shared == Shared::All && !spec.host.ipc,
            Kind::Uts => self.shared == Shared::All && !spec.host.network,
        };
        node_network::KINDS.into_iter().filter(is_meant).collect()
    }

    /// Whether a pod's programs can do without: those of the node can.
    pub fn are_optional(&self) -> bool {
        self.shared == Shared::Network
    }

    fn dir_of(&self, uid: &str) -> PathBuf {
        self.dir.join(uid)
    }

    /// Whether what a pod had is not there any more, or was never.
    pub fn needs_another(&self, spec: &PodSpec) -> bool {
        let kinds = self.kinds(spec);
        !kinds.is_empty() && PodNamespaces::take_over(&self.dir_of(&spec.pod.uid), &kinds).is_none()
    }

    /// Sets up what is missing of a pod's.
    ///
    /// # Errors
    /// When the kernel refuses, or no address is left.
    pub fn ensure(&self, spec: &PodSpec) -> io::Result<Sandbox> {
        let (kinds, dir) = (self.kinds(spec), self.dir_of(&spec.pod.uid));
        let mut sandbox = Sandbox::default();
        if !kinds.is_empty() {
            let namespaces = match PodNamespaces::take_over(&dir, &kinds) {
                Some(namespaces) => namespaces,
                None => PodNamespaces::create(&dir, &kinds, &spec.hostname).map_err(io::Error::other)?,
            };
            let reference = |kind: &Kind| {
                let path = namespaces.path(*kind)?;
                Some(NamespaceRef { kind: kind.file_name().to_owned(), path })
            };
            sandbox.namespaces = kinds.iter().filter_map(reference).collect();
            if let (Some(network), Some(path)) = (&self.network, namespaces.path(Kind::Net)) {
                sandbox.addresses = network.set_up(spec, &path).map_err(io::Error::other)?;
            }
        }
        if self.shared == Shared::All {
            sandbox.shm = Some(if spec.host.ipc { "/dev/shm".into() } else { ensure_shm(&dir.join(SHM))? });
        }
        self.known().insert(spec.pod.uid.clone(), sandbox.clone());
        Ok(sandbox)
    }

    /// What a pod was set up with.
    pub fn find(&self, uid: &str) -> Option<Sandbox> {
        self.known().get(uid).cloned()
    }

    /// Takes a pod's away. One that has none is no error.
    pub fn remove(&self, uid: &str) -> io::Result<()> {
        let dir = self.dir_of(uid);
        if let Some(network) = &self.network {
            network.remove(uid);
        }
        if dir.exists() {
            if let Some(namespaces) = PodNamespaces::take_over(&dir, &[]) {
                namespaces.remove().map_err(io::Error::other)?;
            }
            remove_shm(&dir.join(SHM))?;
            fs::remove_dir_all(&dir)?;
        }
        self.known().remove(uid);
        Ok(())
    }
}

fn ensure_shm(path: &Path) -> io::Result<PathBuf> {
    fs::create_dir_all(path)?;
    if !is_mounted(path)? {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        rustix::mount::mount("shm", path, "tmpfs", flags, SHM_OPTIONS)?;
    }
    Ok(path.to_owned())
}

fn remove_shm(path: &Path) -> io::Result<()> {
    while path.exists() && is_mounted(path)? {
        rustix::mount::unmount(path, UnmountFlags::DETACH)?;
    }
    Ok(())
}

/// Whether something is mounted there: it is on another device than the directory that it is in.
fn is_mounted(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let parent = path.parent().unwrap_or(path);
    Ok(fs::metadata(path)?.dev() != fs::metadata(parent)?.dev())
}
