//! What a container does not see of the node, or cannot write to.
//!
//! A process container has the node's file system, so what is not for it is covered: the devices by a small `/dev`, the
//! node's own data by empty directories, what the kernel says in `/proc` and `/sys` as containerd covers it. A container that
//! asks for a volume at one of these paths gets the volume.

use std::{
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::symlink,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::CWD,
    mount::{MountFlags, MoveMountFlags, OpenTreeFlags},
};

use super::mounts::VIEW;
use crate::{beneath, sys};

/// What programs expect of every machine.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// As containerd's default: they describe the whole machine, or change it.
pub const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

pub const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Programs may share memory of this size through `/dev/shm`, as with other runtimes.
const SHM_OPTIONS: &std::ffi::CStr = c"mode=1777,size=65536k";

/// The node's own devices that every container gets, taken before `/dev` is another one.
pub struct Devices(Vec<(&'static str, OwnedFd)>);

impl Devices {
    pub fn take() -> Result<Self, String> {
        let take = |name: &'static str| -> Result<_, String> {
            let path = Path::new("/dev").join(name);
            let opened = beneath::open_path(&path).and_then(|device| clone_mount(&device, false));
            Ok((name, opened.map_err(|error| format!("failed to take {}: {error}", path.display()))?))
        };
        DEVICES
            .into_iter()
            .filter(|name| Path::new("/dev").join(name).exists())
            .map(take)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Puts a `/dev` of the container's own in place.
    pub fn mount(self, staging: &Path) -> Result<(), String> {
        let explain = |error: io::Error| format!("failed to make a /dev for the container: {error}");
        self.fill(staging).and_then(|()| Ok(rustix::mount::mount_move(staging, "/dev")?)).map_err(explain)
    }

    fn fill(self, dev: &Path) -> io::Result<()> {
        let plain = MountFlags::NOSUID | MountFlags::NOEXEC;
        rustix::mount::mount(VIEW, dev, "tmpfs", plain, c"mode=755,size=1m")?;
        for (name, tree) in self.0 {
            let path = dev.join(name);
            fs::File::create(&path)?;
            attach(&tree, &path)?;
        }
        for name in ["pts", "shm", "mqueue"] {
            fs::create_dir(dev.join(name))?;
        }
        rustix::mount::mount("devpts", dev.join("pts"), "devpts", plain, c"newinstance,ptmxmode=0666,mode=0620")?;
        rustix::mount::mount("shm", dev.join("shm"), "tmpfs", plain | MountFlags::NODEV, SHM_OPTIONS)?;
        // A kernel may be built without it.
        let _ = rustix::mount::mount("mqueue", dev.join("mqueue"), "mqueue", plain | MountFlags::NODEV, c"");
        for (name, target) in [
            ("ptmx", "pts/ptmx"),
            ("fd", "/proc/self/fd"),
            ("stdin", "/proc/self/fd/0"),
            ("stdout", "/proc/self/fd/1"),
            ("stderr", "/proc/self/fd/2"),
        ] {
            symlink(target, dev.join(name))?;
        }
        Ok(())
    }
}

/// Copies of the node's `/dev/null`, to cover files with. They are made before the container has volumes: a `/dev/null` of its
/// own making would show it what it covers (CVE-2025-31133). And each is used once, since not every kernel copies a copy.
pub struct Nulls(Vec<OwnedFd>);

impl Nulls {
    pub fn take(hidden: &[PathBuf]) -> Result<Self, String> {
        let files =
            MASKED.iter().map(Path::new).chain(hidden.iter().map(PathBuf::as_path)).filter(|path| !path.is_dir());
        let explain = |error: io::Error| format!("failed to take /dev/null: {error}");
        let null = beneath::open_path(Path::new("/dev/null")).map_err(explain)?;
        files.map(|_| clone_mount(&null, false)).collect::<io::Result<_>>().map(Self).map_err(explain)
    }

    fn cover(&mut self, path: &Path) -> io::Result<()> {
        let tree = self.0.pop().ok_or_else(|| io::Error::other("it was a directory before"))?;
        attach(&tree, path)
    }
}

/// Makes everything that is mounted now read-only.
pub fn make_root_read_only() -> Result<(), String> {
    let root = beneath::open_path(Path::new("/")).and_then(|root| sys::make_mounts_read_only(root.as_fd()));
    root.map_err(|error| format!("failed to make the root file system read-only, which needs Linux 5.12: {error}"))
}

/// Puts an empty directory or file over each of `paths`; volumes that are mounted below one of them stay where they are.
pub fn hide(paths: &[PathBuf], nulls: &mut Nulls, volumes: &[PathBuf]) -> Result<(), String> {
    for path in paths {
        // Both as the node has them: without links.
        let Ok(path) = fs::canonicalize(path) else { continue };
        if volumes.iter().any(|volume| path.starts_with(volume)) {
            continue;
        }
        let inner = volumes.iter().filter(|volume| volume.starts_with(&path));
        let hidden = match path.is_dir() {
            true => hide_one(&path, inner),
            false => nulls.cover(&path),
        };
        hidden.map_err(|error| format!("failed to hide the node's {}: {error}", path.display()))?;
    }
    Ok(())
}

fn hide_one<'a>(path: &Path, inner: impl Iterator<Item = &'a PathBuf>) -> io::Result<()> {
    let mut kept = Vec::new();
    for volume in inner {
        let opened = beneath::open_path(volume)?;
        kept.push((volume, beneath::is_dir(opened.as_fd())?, clone_mount(&opened, true)?));
    }
    rustix::mount::mount(VIEW, path, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=755,size=64k")?;
    for (volume, is_dir, tree) in kept {
        // One that lies in another of them is there already, as a part of that one's tree.
        if !volume.exists() {
            fs::create_dir_all(if is_dir { volume } else { volume.parent().unwrap_or(path) })?;
            if !is_dir {
                fs::File::create(volume)?;
            }
            attach(&tree, volume)?;
        }
    }
    Ok(())
}

/// Covers what containerd covers. `volumes` are where the container has mounts of its own.
pub fn mask(unmasked_proc: bool, nulls: &mut Nulls, volumes: &[PathBuf]) -> Result<(), String> {
    let applies = |path: &&Path| {
        path.exists()
            && !(unmasked_proc && path.starts_with("/proc"))
            && !volumes.iter().any(|volume| volume.starts_with(path) || path.starts_with(volume))
    };
    for path in MASKED.iter().map(Path::new).filter(applies) {
        let masked = if path.is_dir() {
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
            rustix::mount::mount("selvedge-masked", path, "tmpfs", flags, c"mode=755,size=4k").map_err(io::Error::from)
        } else {
            nulls.cover(path)
        };
        masked.map_err(|error| format!("failed to mask {}: {error}", path.display()))?;
    }
    for path in READ_ONLY.iter().chain(&["/sys"]).map(Path::new).filter(applies) {
        let covered = beneath::open_path(path).and_then(|opened| {
            let tree = clone_mount(&opened, true)?;
            sys::make_mounts_read_only(tree.as_fd())?;
            attach(&tree, path)
        });
        covered.map_err(|error| format!("failed to make {} read-only: {error}", path.display()))?;
    }
    Ok(())
}

fn clone_mount(of: &OwnedFd, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(rustix::mount::open_tree(of, "", flags)?)
}

fn attach(tree: &OwnedFd, path: &Path) -> io::Result<()> {
    Ok(rustix::mount::move_mount(tree, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}
