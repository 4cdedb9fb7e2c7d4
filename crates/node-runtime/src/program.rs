//! The shim's program, made ready to be executed.
//!
//! It is part of this library, so the two are of one version whatever is on disk, and it goes into a file in memory that is
//! sealed: no process can change it. That matters because a container's processes can reach the program of their shim and of
//! their init through `/proc/<pid>/exe`; a runtime whose file could be opened for writing there has given containers the node
//! before (CVE-2019-5736). All shims of one agent share the pages of that file.
//!
//! Where the kernel forbids to execute such files (`vm.memfd_noexec=2`), it is a file of mode 0500 in the state directory.
//! Another user cannot write to it then; root in a container is kept out by a read-only clone of its mount, where the kernel
//! can make one (5.12).

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{fs::OpenOptionsExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    sync::OnceLock,
};

use rustix::{
    fs::{CWD, MemfdFlags, SealFlags},
    mount::OpenTreeFlags,
};
use tokio::process::Command;
use tracing::warn;

/// The shim's program, as `build.rs` has built it.
pub static SHIM: &[u8] = include_bytes!(env!("NODE_SHIM"));

/// The one in memory. Every runtime of this process uses the same.
static SEALED: OnceLock<Option<OwnedFd>> = OnceLock::new();

/// Where the program is executed from.
#[derive(Debug)]
pub(crate) enum ShimProgram {
    /// The file in memory.
    Sealed(&'static OwnedFd),
    /// A read-only clone of a file's mount.
    Clone(OwnedFd),
    /// A file.
    File(PathBuf),
}

impl ShimProgram {
    /// `dir` takes the file where the kernel has none in memory for us.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let sealed = SEALED.get_or_init(|| {
            sealed().inspect_err(|error| warn!(%error, "No sealed memory for the shim; executing it from a file.")).ok()
        });
        match sealed {
            Some(sealed) => Ok(Self::Sealed(sealed)),
            None => Self::open_file(dir),
        }
    }

    fn open_file(dir: &Path) -> io::Result<Self> {
        let (path, draft) = (dir.join(".shim"), dir.join(".shim.tmp"));
        let _ = fs::remove_file(&draft);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o500).open(&draft)?;
        file.write_all(SHIM)?;
        file.sync_all()?;
        drop(file);
        fs::rename(&draft, &path)?;
        Ok(read_only_clone(&path).map_or(Self::File(path), Self::Clone))
    }

    /// A call of the program with `args`, with nothing of this process' environment.
    pub fn command(&self, args: &[&OsStr]) -> Command {
        self.blocking_command(args).into()
    }

    /// The same for whoever may wait for it.
    pub fn blocking_command(&self, args: &[&OsStr]) -> std::process::Command {
        let mut command = match self {
            Self::Sealed(fd) => std::process::Command::new(by_descriptor(fd)),
            Self::Clone(fd) => std::process::Command::new(by_descriptor(fd)),
            Self::File(path) => std::process::Command::new(path),
        };
        command.arg0("selvedge").args(args).env_clear().current_dir("/").process_group(0);
        command
    }
}

/// The descriptor is closed by the exec, not before it: this name still leads to it then.
fn by_descriptor(fd: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

fn sealed() -> io::Result<OwnedFd> {
    let mut file = File::from(executable_memfd()?);
    file.write_all(SHIM)?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW;
    // Without this one (before 6.3) root in a container can take the right to execute it away, and spoil later starts.
    let _ = rustix::fs::fcntl_add_seals(&file, SealFlags::from_bits_retain(libc::F_SEAL_EXEC as u32));
    rustix::fs::fcntl_add_seals(&file, seals | SealFlags::SEAL)?;
    // A file that is open for writing cannot be executed: only the reading end of it is kept.
    let readable = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    Ok(readable.into())
}

fn executable_memfd() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not know the flag, and need none.
    match rustix::fs::memfd_create(c"selvedge-shim", flags | MemfdFlags::from_bits_retain(libc::MFD_EXEC)) {
        Err(rustix::io::Errno::INVAL) => Ok(rustix::fs::memfd_create(c"selvedge-shim", flags)?),
        made => Ok(made?),
    }
}

fn read_only_clone(path: &Path) -> Option<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(CWD, path, flags).ok()?;
    node_shim::sys::set_mount_attributes(tree.as_fd(), libc::AT_EMPTY_PATH, libc::MOUNT_ATTR_RDONLY).ok()?;
    Some(tree)
}

#[cfg(test)]
mod tests;
