//! Users and groups of a pod's own (`hostUsers: false`).
//!
//! In a user namespace the pod's root has the node's number [`OwnUsers::first`], which is nobody there, and its rights are rights over
//! the namespaces that belong to that one. So they are made in it (`shim --namespaces`), by a process of its own: the agent has threads,
//! and those of a process are all in one user namespace.
//!
//! ```text
//!  agent ──exec──▶ shim --namespaces NUMBER KIND…
//!    ◀── 'u'        in a user namespace
//!    maps of ids ─▶
//!    'm' ──▶        becomes its root, makes the others
//!    ◀── 'n'
//!    pins all
//!    end of input ▶ ends
//! ```
//!
//! The namespace belongs to the number of the pod's root: what the kernel counts of the pod, it counts against that number and not against
//! the node's root; and it is where an agent finds the number again.
//!
//! The container is made with the node's rights, as every other one is, and only then enters: the file systems are the node's, so
//! that nothing of what the container may do to a mount or a device depends on how the kernel treats those of a namespace. What it sees of
//! disks is mapped, mount by mount; its mounts are copied into a mount namespace that belongs to its own user namespace, where the kernel
//! holds the copies together: what covers something, or is read-only, stays so.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    process::ExitCode,
};

use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::{IDS_OF_POD, OwnUsers, beneath, shim::child::unshare, sys};

/// First argument of the program that makes namespaces for a pod with users of its own. The node's number of the pod's root follows, and
/// their kinds, as in `/proc/PID/ns`.
pub const FLAG: &str = "--namespaces";
/// Said when it is in its user namespace, and has no number there yet.
pub const UNMAPPED: u8 = b'u';
/// What it is answered when the namespace has its numbers.
pub const MAPPED: u8 = b'm';
/// Said when all namespaces are there.
pub const MADE: u8 = b'n';

/// Nobody, in every user namespace.
const NOBODY: u32 = 65_534;

/// The users of a container's pod, open.
#[derive(Debug)]
pub struct UserNamespace {
    file: File,
    first: u32,
}

impl UserNamespace {
    /// Opens it by its name on the node.
    pub fn open(users: &OwnUsers) -> Result<Self, String> {
        Self::open_at(&users.namespace, users)
    }

    /// That which a process of the container is in.
    pub fn of_process(pid: i32, users: &OwnUsers) -> Result<Self, String> {
        Self::open_at(format!("/proc/{pid}/ns/user").as_ref(), users)
    }

    fn open_at(path: &Path, users: &OwnUsers) -> Result<Self, String> {
        let file = File::open(path).map_err(|error| format!("failed to open the pod's user namespace: {error}"))?;
        Ok(Self { file, first: users.first })
    }

    /// Whether it is a number of the pod.
    pub fn has(&self, id: u32) -> bool {
        id < IDS_OF_POD
    }

    /// The node's number of one of the pod's.
    pub fn on_the_node(&self, id: u32) -> u32 {
        self.first + if self.has(id) { id } else { NOBODY }
    }

    /// Shows the files of a detached tree of mounts with the pod's numbers. File systems in it that cannot keep the node's. What is a device
    /// in a directory of files is none any more: its owner on the disk would be the pod's.
    pub fn map(&self, tree: BorrowedFd<'_>) -> io::Result<()> {
        let attributes = if beneath::is_dir(tree)? { libc::MOUNT_ATTR_NODEV } else { 0 };
        let map = |flags: i32| sys::map_ids_of_mount(tree, flags, attributes, self.file.as_fd());
        match map(libc::AT_RECURSIVE) {
            // One of those that are mounted in it, as /proc is in /.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => map(0),
            mapped => mapped,
        }
    }

    /// Becomes root in it. What the process had on the node it has no more.
    ///
    /// Before it is one of the pod's users it is the node's root with rights in the pod's namespace, and till its program runs it has more
    /// rights than that: who may trace processes in the pod must not trace this one.
    pub fn enter(&self) -> Result<(), String> {
        let enter = || -> io::Result<()> {
            sys::deny_tracing()?;
            rustix::thread::move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::User))?;
            become_root()?;
            // A node may be set to let processes that changed their users be traced.
            sys::deny_tracing()
        };
        enter().map_err(|error| format!("failed to enter the pod's user namespace: {error}"))
    }
}

fn become_root() -> io::Result<()> {
    sys::become_user(Some(0), Some(0), &[0])
}

/// `shim --namespaces NUMBER KIND…`
pub(crate) fn make(args: &[OsString]) -> ExitCode {
    match hold(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn hold(args: &[OsString]) -> Result<(), String> {
    let number = args.split_first().and_then(|(first, kinds)| Some((first.to_str()?.parse::<u32>().ok()?, kinds)));
    let (first, kinds) = number.ok_or("the number of the pod's root is missing")?;
    let explain = |act: &'static str| move |error: io::Error| format!("failed to {act}: {error}");
    let mut flags = UnshareFlags::empty();
    for kind in kinds {
        flags |= match kind.to_str() {
            Some("net") => UnshareFlags::NEWNET,
            Some("ipc") => UnshareFlags::NEWIPC,
            Some("uts") => UnshareFlags::NEWUTS,
            _ => return Err(format!("no kind of namespace: {}", kind.display())),
        };
    }
    sys::act_as(first).map_err(explain("act as the pod's root"))?;
    unshare(UnshareFlags::NEWUSER).map_err(|error| {
        format!("failed to make a user namespace: {error}; the kernel allows as many as /proc/sys/user/max_user_namespaces says")
    })?;
    say(UNMAPPED)?;
    let mut answer = [0];
    io::stdin().read_exact(&mut answer).map_err(explain("hear from the agent"))?;
    if answer != [MAPPED] {
        return Err("the agent said something else than it should".to_owned());
    }
    become_root().map_err(explain("become root of a user namespace"))?;
    unshare(flags).map_err(explain("make the pod's namespaces"))?;
    say(MADE)?;
    // An agent that was killed says nothing more either.
    let _ = io::stdin().read(&mut answer);
    Ok(())
}

fn say(what: u8) -> Result<(), String> {
    let mut stdout = io::stdout();
    stdout
        .write_all(&[what])
        .and_then(|()| stdout.flush())
        .map_err(|error| format!("failed to answer the agent: {error}"))
}
