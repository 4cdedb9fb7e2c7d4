//! What the containers of a pod have in common beside their control group: namespaces, `/dev/shm`, a network.
//!
//! Next to none of it needs a process: namespaces are pinned by mounts of their files (`node_network::PodNamespaces`), in a directory in
//! memory, so that a boot begins with none. Whoever restarts the agent changes nothing of it, and what is found there is taken over.
//! Only a pid namespace that containers share lives by its first process (`reaper`).

mod reaper;
mod users;

use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use node_network::{Kind, PodNamespaces};
use node_shim::{NamespaceRef, OwnUsers, SHM_OF_NODE, cgroup::CgroupPaths, state::Process};
use rustix::{
    mount::{MountFlags, UnmountFlags},
    thread::LinkNameSpaceType,
};

use self::reaper::Reaper;
use crate::{PodNetwork, PodSpec, SAFE_SYSCTLS, program::ShimProgram};

/// Shared memory of a pod, as with other runtimes.
const SHM_OPTIONS: &str = "mode=1777,size=65536k";
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
    /// Users of the pod's own, to whom the namespaces belong.
    pub users: Option<OwnUsers>,
    /// The first of the processes that its containers share.
    reaper: Option<Reaper>,
}

impl Sandbox {
    /// In whose pid namespace its containers are, unless each has its own.
    pub fn processes_of(&self) -> Option<&Process> {
        self.reaper.as_ref().map(|reaper| &reaper.process)
    }
}

/// The sandboxes of a runtime's pods.
#[derive(Clone, Debug)]
pub(crate) struct Sandboxes {
    dir: PathBuf,
    shared: Shared,
    network: Option<Arc<dyn PodNetwork>>,
    shim: Arc<ShimProgram>,
    known: Arc<Mutex<BTreeMap<String, Sandbox>>>,
    /// Held while a reaper is looked for or started: containers that start at once share one.
    reaping: Arc<Mutex<()>>,
    /// Held while numbers are chosen for a pod's users.
    numbering: Arc<Mutex<()>>,
}

impl Sandboxes {
    pub fn new(dir: PathBuf, shared: Shared, network: Option<Arc<dyn PodNetwork>>, shim: Arc<ShimProgram>) -> Self {
        Self { dir, shared, network, shim, known: Arc::default(), reaping: Arc::default(), numbering: Arc::default() }
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
            Kind::User => self.shared == Shared::All && spec.own_users,
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
        !kinds.is_empty() && find(&self.dir_of(&spec.pod.uid), &kinds).is_none()
    }

    /// Sets up what is missing of a pod's. `instance` are the control groups of its instance, where nothing else is.
    ///
    /// # Errors
    /// When the kernel refuses, or no address is left.
    pub fn ensure(&self, spec: &PodSpec, instance: &CgroupPaths) -> io::Result<Sandbox> {
        let (kinds, dir) = (self.kinds(spec), self.dir_of(&spec.pod.uid));
        let mut sandbox = Sandbox::default();
        if !kinds.is_empty() {
            let (namespaces, users) = match find(&dir, &kinds) {
                Some(found) => found,
                None => self.create(&dir, &kinds, spec)?,
            };
            sandbox.users = users;
            let reference = |kind: &Kind| {
                let path = namespaces.path(*kind)?;
                Some(NamespaceRef { kind: kind.file_name().to_owned(), path })
            };
            // Users are entered by each container when it is made, and not before.
            sandbox.namespaces = kinds.iter().filter(|kind| **kind != Kind::User).filter_map(reference).collect();
            if let (Some(network), Some(path)) = (&self.network, namespaces.path(Kind::Net)) {
                sandbox.addresses = network.set_up(spec, &path).map_err(io::Error::other)?;
            }
        }
        if self.shared == Shared::All {
            sandbox.shm = Some(if spec.host.ipc {
                SHM_OF_NODE.into()
            } else {
                ensure_shm(&dir.join(SHM), sandbox.users.as_ref())?
            });
        }
        if self.shared == Shared::All && spec.shares_processes {
            let _reaping = self.reaping.lock().unwrap_or_else(PoisonError::into_inner);
            let (namespaces, groups) = (sandbox.namespaces.clone(), instance.clone());
            sandbox.reaper = Some(Reaper::ensure(&self.shim, &dir, namespaces, groups)?);
        }
        self.known().insert(spec.pod.uid.clone(), sandbox.clone());
        Ok(sandbox)
    }

    /// Creates a pod's namespaces, with the kernel parameters that it has there.
    fn create(&self, dir: &Path, kinds: &[Kind], spec: &PodSpec) -> io::Result<(PodNamespaces, Option<OwnUsers>)> {
        let mut first = None;
        let namespaces = if kinds.contains(&Kind::User) {
            let _numbering = self.numbering.lock().unwrap_or_else(PoisonError::into_inner);
            let number = users::choose(&self.dir)?;
            first = Some(number);
            // What is there belongs to others.
            remove_shm(&dir.join(SHM))?;
            users::create(&self.shim, dir, kinds, &spec.hostname, number)?
        } else {
            PodNamespaces::create(dir, kinds, &spec.hostname).map_err(io::Error::other)?
        };
        if let Err(error) = set_sysctls(&namespaces, &spec.sysctls, first) {
            // Namespaces without their parameters would be taken over by the next attempt. The first error is the one to report.
            namespaces.remove().unwrap_or_default();
            return Err(error);
        }
        let users = first.zip(namespaces.path(Kind::User)).map(|(first, namespace)| OwnUsers { namespace, first });
        Ok((namespaces, users))
    }

    /// What a pod was set up with, for a container that is to enter it. Where the first process of the pod has ended, whatever ended it,
    /// there is another one now: nothing of the pod can have outlived the one before.
    pub fn enter(&self, uid: &str) -> io::Result<Option<Sandbox>> {
        let Some(mut sandbox) = self.find(uid) else { return Ok(None) };
        if sandbox.processes_of().is_some_and(|process| !process.runs()) {
            let _reaping = self.reaping.lock().unwrap_or_else(PoisonError::into_inner);
            // Another container may have been faster.
            sandbox = self.find(uid).unwrap_or(sandbox);
            sandbox.reaper = match sandbox.reaper {
                Some(reaper) => Some(reaper.renewed(&self.shim, &self.dir_of(uid))?),
                None => None,
            };
            self.known().insert(uid.to_owned(), sandbox.clone());
        }
        Ok(Some(sandbox))
    }

    fn find(&self, uid: &str) -> Option<Sandbox> {
        self.known().get(uid).cloned()
    }

    /// The pods that have something here, complete or not.
    pub fn uids(&self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut uids = Vec::new();
        for entry in entries {
            uids.extend(entry?.file_name().into_string());
        }
        Ok(uids)
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

/// What of a pod's is there and complete.
fn find(dir: &Path, kinds: &[Kind]) -> Option<(PodNamespaces, Option<OwnUsers>)> {
    let namespaces = PodNamespaces::take_over(dir, kinds)?;
    match namespaces.path(Kind::User) {
        Some(namespace) => Some((namespaces, Some(OwnUsers { namespace, first: users::first_of(dir)? }))),
        None => Some((namespaces, None)),
    }
}

/// Writes kernel parameters of namespaces, from a thread that enters them and ends. `owner` is to whom they belong, if not to the node.
fn set_sysctls(namespaces: &PodNamespaces, sysctls: &[(String, String)], owner: Option<u32>) -> io::Result<()> {
    let mut entered = BTreeMap::new();
    for (name, _) in sysctls {
        let failed = |why: &str| io::Error::other(format!("sysctl {name}: {why}"));
        // `/proc/sys` shows whoever opens a file that of its own namespaces: outside of the pod's it would be the node's.
        let kind = match name.split('.').next() {
            Some("net") => Kind::Net,
            _ => Kind::Ipc,
        };
        if !SAFE_SYSCTLS.contains(&name.as_str()) {
            return Err(failed("it is none of those that a pod may set"));
        }
        let path = namespaces.path(kind).ok_or_else(|| failed("the pod has the node's namespace"))?;
        entered.insert(kind.file_name(), (kind, fs::File::open(path)?));
    }
    if sysctls.is_empty() {
        return Ok(());
    }
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("sysctls".to_owned()).stack_size(256 * 1024);
        let write = || {
            for (kind, file) in entered.values() {
                let kind = match kind {
                    Kind::Net => LinkNameSpaceType::Network,
                    _ => LinkNameSpaceType::InterProcessCommunication,
                };
                // The thread shares nothing else with others that setns would change.
                rustix::thread::move_into_link_name_space(file.as_fd(), Some(kind))?;
            }
            if let Some(owner) = owner {
                node_shim::sys::act_as(owner)?;
            }
            sysctls.iter().try_for_each(|(name, value)| {
                let path = Path::new("/proc/sys").join(name.replace('.', "/"));
                fs::write(path, value)
                    .map_err(|error| io::Error::new(error.kind(), format!("sysctl {name}={value}: {error}")))
            })
        };
        let thread = builder.spawn_scoped(scope, write)?;
        thread.join().map_err(|_| io::Error::other("a thread that sets kernel parameters panicked"))?
    })
}

fn ensure_shm(path: &Path, users: Option<&OwnUsers>) -> io::Result<PathBuf> {
    fs::create_dir_all(path)?;
    if !is_mounted(path)? {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let owner = users.map(|users| format!(",uid={0},gid={0}", users.first)).unwrap_or_default();
        let options = std::ffi::CString::new(format!("{SHM_OPTIONS}{owner}"))?;
        rustix::mount::mount("shm", path, "tmpfs", flags, options.as_c_str())?;
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

#[cfg(test)]
mod tests;
