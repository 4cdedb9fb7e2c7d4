//! Users and groups of a pod's own (`hostUsers: false`).
//!
//! In a user namespace the pod's root has the node's number [`OwnUsers::first`], which is nobody there, and its rights are rights over
//! the namespaces that belong to that one. So they are made in it (`shim --namespaces`), by a process of its own: the agent has threads,
//! and those of a process are all in one user namespace.
//!
//! ```text
//!  agent ──exec──▶ shim --namespaces KIND…
//!    ◀── 'u'        in a user namespace
//!    maps of ids ─▶
//!    'm' ──▶        becomes its root, makes the others
//!    ◀── 'n'
//!    pins all
//!    end of input ▶ ends
//! ```
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
    process::ExitCode,
};

use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::{IDS_OF_POD, OwnUsers, shim::child::unshare, sys};

/// First argument of the program that makes namespaces for a pod with users of its own; their kinds follow, as in `/proc/PID/ns`.
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
        let file = File::open(&users.namespace)
            .map_err(|error| format!("failed to open the pod's user namespace: {error}"))?;
        Ok(Self { file, first: users.first })
    }

    /// The node's number of one of the pod's.
    pub fn on_the_node(&self, id: u32) -> u32 {
        self.first + if id < IDS_OF_POD { id } else { NOBODY }
    }

    /// Shows the files of a detached tree of mounts with the pod's numbers. File systems in it that cannot keep the node's.
    pub fn map(&self, tree: BorrowedFd<'_>) -> io::Result<()> {
        let mapped = sys::map_ids_of_mount(tree, libc::AT_RECURSIVE, self.file.as_fd());
        match mapped {
            // One of those that are mounted in it, as /proc is in /.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                sys::map_ids_of_mount(tree, 0, self.file.as_fd())
            }
            mapped => mapped,
        }
    }

    /// Becomes root in it. What the process had on the node it has no more.
    pub fn enter(&self) -> Result<(), String> {
        let enter = || -> io::Result<()> {
            rustix::thread::move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::User))?;
            become_root()
        };
        enter().map_err(|error| format!("failed to enter the pod's user namespace: {error}"))
    }
}

fn become_root() -> io::Result<()> {
    sys::become_user(Some(0), Some(0), &[0])
}

/// `shim --namespaces KIND…`
pub(crate) fn make(kinds: &[OsString]) -> ExitCode {
    match hold(kinds) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn hold(kinds: &[OsString]) -> Result<(), String> {
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
