//! Namespaces of a pod that live without a process: each is pinned by a mount of its file.
//!
//! A thread that ends right after creates them, gives them what they need before anybody is inside (a host name, `lo`) and
//! mounts `/proc/thread-self/ns/KIND` over an empty file in the pod's directory. Whoever opens that file later, also after
//! the agent was started again, enters the namespace; without the mount and without a process in it the kernel ends it.
//!
//! A user namespace no thread of an agent can make, since all threads of a process are in one. Of a pod with users of its own another
//! process makes them all, and they are pinned while it holds them ([`PodNamespaces::pin`]).
//!
//! After a crash a file may exist without its mount, or be covered by several: what is in the way is unmounted first.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
};

use rustix::{
    mount::{UnmountFlags, mount_bind, unmount},
    thread::{LinkNameSpaceType, UnshareFlags},
};

use crate::{
    links,
    netlink::{self, NetlinkError, Protocol, Socket},
};

/// The kernel's limit of a host name.
const HOSTNAME_BYTES_MAX: usize = 64;
/// More mounts over each other than crashes can have left.
const STACKED_MAX: usize = 64;
/// Of the file system that files of namespaces are on.
const NSFS_MAGIC: u64 = 0x6e73_6673;
const NS_GET_NSTYPE: libc::c_ulong = 0xb703;

/// A kind of namespace that can be pinned for a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Links, addresses, ports.
    Net,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Host name.
    Uts,
    /// Users and groups, with the rights that the other kinds are subject to.
    User,
}

/// The kinds, in the order in which they are pinned.
pub const KINDS: [Kind; 4] = [Kind::Net, Kind::Ipc, Kind::Uts, Kind::User];

impl Kind {
    /// The name of its file.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Net => "net",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::User => "user",
        }
    }

    fn flag(self) -> UnshareFlags {
        match self {
            Self::Net => UnshareFlags::NEWNET,
            Self::Ipc => UnshareFlags::NEWIPC,
            Self::Uts => UnshareFlags::NEWUTS,
            Self::User => UnshareFlags::NEWUSER,
        }
    }
}

/// Why a pod has no namespaces.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The kernel has no such namespaces or forbids them.
    #[error("failed to create namespaces")]
    Create(#[source] io::Error),
    /// The host name could not be set.
    #[error("failed to set the host name {name}")]
    Hostname {
        /// The name.
        name: String,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// `lo` could not be switched on.
    #[error("failed to prepare a network namespace")]
    Loopback(#[source] NetlinkError),
    /// A file could not be created or mounted over.
    #[error("failed to pin a namespace at {}", path.display())]
    Pin {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// A file could not be removed.
    #[error("failed to release the namespace at {}", path.display())]
    Release {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
}

/// The pinned namespaces of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodNamespaces {
    dir: PathBuf,
    kinds: Vec<Kind>,
}

impl PodNamespaces {
    /// Creates and pins namespaces of these kinds at `dir/KIND`; what is there under these names is replaced. [`Kind::User`] is for
    /// [`pin`](Self::pin) alone.
    ///
    /// On an error nothing is left behind.
    pub fn create(dir: &Path, kinds: &[Kind], hostname: &str) -> Result<Self, NamespaceError> {
        Self::set_up(dir, kinds, |namespaces| {
            namespaces.unshare()?;
            namespaces.prepare(hostname)?;
            namespaces.pin_from("/proc/thread-self/ns")
        })
    }

    /// Pins the namespaces of these kinds that process `pid` is in, as [`create`](Self::create) does. Whoever calls keeps it from ending
    /// meanwhile.
    pub fn pin(dir: &Path, kinds: &[Kind], hostname: &str, pid: u32) -> Result<Self, NamespaceError> {
        Self::set_up(dir, kinds, |namespaces| {
            namespaces.pin_from(&format!("/proc/{pid}/ns"))?;
            namespaces.enter()?;
            namespaces.prepare(hostname)
        })
    }

    /// `make` runs on a thread that ends afterwards.
    fn set_up(
        dir: &Path,
        kinds: &[Kind],
        make: impl FnOnce(&Self) -> Result<(), NamespaceError> + Send,
    ) -> Result<Self, NamespaceError> {
        fs::create_dir_all(dir).map_err(|source| NamespaceError::Pin { path: dir.to_owned(), source })?;
        let namespaces = Self { dir: dir.to_owned(), kinds: kinds.to_vec() };
        for kind in KINDS {
            release(&namespaces.file(kind))?;
        }
        let created = netlink::on_throw_away_thread(|| make(&namespaces));
        let created = created.map_err(NamespaceError::Create).flatten();
        if let Err(error) = created {
            // The first error is the one to report.
            namespaces.remove().unwrap_or_default();
            return Err(error);
        }
        Ok(namespaces)
    }

    /// The namespaces that are pinned in `dir`, as after a start of the agent; `None` unless all these kinds are.
    pub fn take_over(dir: &Path, kinds: &[Kind]) -> Option<Self> {
        let namespaces = Self { dir: dir.to_owned(), kinds: kinds.to_vec() };
        kinds.iter().all(|kind| is_pinned(&namespaces.file(*kind), *kind)).then_some(namespaces)
    }

    /// Releases them. They end with the last process in them.
    pub fn remove(&self) -> Result<(), NamespaceError> {
        KINDS.into_iter().try_for_each(|kind| release(&self.file(kind)))
    }

    /// The file of one of its kinds; `None` when the pod has none of its own.
    pub fn path(&self, kind: Kind) -> Option<PathBuf> {
        self.kinds.contains(&kind).then(|| self.file(kind))
    }

    fn file(&self, kind: Kind) -> PathBuf {
        self.dir.join(kind.file_name())
    }

    fn unshare(&self) -> Result<(), NamespaceError> {
        let flags = self.kinds.iter().fold(UnshareFlags::empty(), |flags, kind| flags | kind.flag());
        // SAFETY: none of these flags unshares descriptors or memory of this thread.
        unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(|error| NamespaceError::Create(error.into()))
    }

    /// Enters those in which something is to be prepared.
    fn enter(&self) -> Result<(), NamespaceError> {
        for (kind, as_link) in
            [(Kind::Net, LinkNameSpaceType::Network), (Kind::Uts, LinkNameSpaceType::HostNameAndNISDomainName)]
        {
            if let Some(path) = self.path(kind) {
                // The thread shares nothing else with others that setns would change.
                File::open(&path)
                    .and_then(|file| Ok(rustix::thread::move_into_link_name_space(file.as_fd(), Some(as_link))?))
                    .map_err(NamespaceError::Create)?;
            }
        }
        Ok(())
    }

    /// Gives the namespaces that this thread is in what they need before anybody else is.
    fn prepare(&self, hostname: &str) -> Result<(), NamespaceError> {
        if self.kinds.contains(&Kind::Uts) {
            let name = &hostname[..hostname.floor_char_boundary(HOSTNAME_BYTES_MAX)];
            rustix::system::sethostname(name.as_bytes())
                .map_err(|error| NamespaceError::Hostname { name: name.to_owned(), source: error.into() })?;
        }
        if self.kinds.contains(&Kind::Net) {
            Socket::open(Protocol::Route)
                .and_then(|mut socket| links::loopback_up(&mut socket))
                .map_err(NamespaceError::Loopback)?;
        }
        Ok(())
    }

    fn pin_from(&self, of: &str) -> Result<(), NamespaceError> {
        for kind in &self.kinds {
            let path = self.file(*kind);
            let pinned = File::create(&path).and_then(|_| Ok(mount_bind(format!("{of}/{}", kind.file_name()), &path)?));
            pinned.map_err(|source| NamespaceError::Pin { path, source })?;
        }
        Ok(())
    }
}

/// Whether a file is a namespace of this kind.
fn is_pinned(path: &Path, kind: Kind) -> bool {
    let Ok(file) = File::open(path) else { return false };
    if !rustix::fs::fstatfs(&file).is_ok_and(|found| found.f_type as u64 == NSFS_MAGIC) {
        return false;
    }
    // SAFETY: the request takes no argument and only answers a number; the descriptor is open.
    let found = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE as _) };
    // Kernels before 4.11 do not know the request.
    found == -1 || found as u32 == kind.flag().bits()
}

/// Takes whatever is mounted over a file off, and removes the file.
fn release(path: &Path) -> Result<(), NamespaceError> {
    for _ in 0..STACKED_MAX {
        // Not a mount, or no file: nothing is in the way.
        if unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_err() {
            break;
        }
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(NamespaceError::Release { path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}
