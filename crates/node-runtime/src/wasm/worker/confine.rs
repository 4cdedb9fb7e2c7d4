//! What the worker gives up before a module runs.
//!
//! The engine holds a module inside its own memory and hands it directories by descriptor. Should it ever fail to, this is
//! what an attacker finds: a process of an unprivileged user, without capabilities, in a network of its own that has nothing
//! but a loopback device that is down, whose root is an empty directory that cannot be written to, and under a filter that
//! knows neither sockets nor programs. Each of these is a boundary by itself; where a node without root cannot set one up,
//! the others hold.
//!
//! The order matters: what needs rights comes first, then the rights are dropped, then everything else is loaded by
//! descriptor, and the filter comes last of all, when nothing is left to be opened by name.

use std::{ffi::CStr, io};

use node_seccomp::{Arch, Threads};
use rustix::{
    mount::{MountFlags, MountPropagationFlags, UnmountFlags},
    thread::{CapabilitySet, CapabilitySets, UnshareFlags},
};

/// As whom a module runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

/// The kernel's overflow id, `nobody` on most systems: it owns nothing.
pub const NOBODY: u32 = 65534;

/// Where the empty root is mounted before it becomes the root. The worker has opened by then what it needs of `/proc`.
const STAGING: &CStr = c"/proc";

/// Namespaces of its own, an empty root, the user. Must be called before any thread is started.
///
/// Fails when root's rights would be kept. A process that has none to begin with sets up what it can.
pub fn leave(user: &User) -> io::Result<()> {
    let is_root = rustix::process::geteuid().is_root();
    let confined = isolate();
    if is_root {
        // Root can do all of it, unless a container around the node holds it back: then user, capabilities and filter are the
        // boundaries.
        drop(confined);
        drop_bounding_set()?;
        node_shim::sys::become_user(Some(user.uid), Some(user.gid), &user.groups)?;
        // A pod may ask for root, which keeps them through a change of user.
        let none = CapabilitySet::empty();
        let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
        rustix::thread::set_capabilities(None, none)?;
    }
    no_new_privileges()
}

fn isolate() -> io::Result<()> {
    // SAFETY: this process has one thread, and descriptors stay shared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS | UnshareFlags::NEWIPC) }?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("selvedge-empty", STAGING, "tmpfs", flags | MountFlags::RDONLY, c"mode=555,size=4k")?;
    rustix::process::chdir(STAGING)?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir("/")?)
}

/// Takes every capability out of reach of whatever is executed.
fn drop_bounding_set() -> io::Result<()> {
    for number in 0..64 as libc::c_ulong {
        // SAFETY: prctl with these options takes plain numbers.
        match unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) } {
            0 => {}
            _ => match io::Error::last_os_error() {
                // The kernel knows no further ones.
                error if error.raw_os_error() == Some(libc::EINVAL) => return Ok(()),
                error => return Err(error),
            },
        }
    }
    Ok(())
}

fn no_new_privileges() -> io::Result<()> {
    Ok(rustix::thread::set_no_new_privs(true)?)
}

/// Loads the filter of a worker; from here on only descriptors are left to work with.
pub fn filter() -> io::Result<()> {
    // Where there is no table the engine has no compiler either: nothing runs there.
    let Some(arch) = Arch::NATIVE else { return Ok(()) };
    match node_seccomp::load(&node_seccomp::wasm_worker(arch), Threads::All) {
        // A kernel built without filters. The other boundaries hold.
        Err(libc::ENOSYS) => Ok(()),
        result => result.map_err(io::Error::from_raw_os_error),
    }
}
