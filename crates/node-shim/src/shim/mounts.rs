//! The container's view of the files: the node's own, with volumes put over them.
//!
//! A volume's path may not exist on the node, and making it there would leave traces. Instead the directory above is
//! replaced, in the container's view only, by a small one in memory that has everything the real one has and the
//! mount point as well.

use std::{
    fs, io,
    os::fd::OwnedFd,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use rustix::{
    fs::CWD,
    mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags},
};

use crate::Mount;

/// Every entry of a replaced directory costs a mount.
const ENTRIES_MAX: usize = 2000;

/// Mounts all of `mounts` in this process' mount namespace; returns why optional ones were left out. `staging` is an empty
/// directory of ours.
pub fn set_up(mounts: &[Mount], staging: &Path) -> Result<Vec<String>, String> {
    let explain = |act: &'static str| move |error: rustix::io::Errno| format!("failed to {act}: {error}");
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(explain("keep the container's mounts from the node"))?;
    // All sources first: a mount may hide the source of a later one.
    let sources: Vec<_> = mounts.iter().map(|mount| Source::open(&mount.host_path)).collect();
    let mut left_out = Vec::new();
    for (mount, source) in mounts.iter().zip(sources) {
        match source.and_then(|source| mount_one(mount, source, staging)) {
            Err(error) if mount.optional => left_out.push(error),
            mounted => mounted?,
        }
    }
    Ok(left_out)
}

fn mount_one(mount: &Mount, source: Source, staging: &Path) -> Result<(), String> {
    if mount.optional && source.is_dir {
        // Every pod has this one, below `/run` as a rule. Replacing that directory would hide from a program what others put there
        // later, for a volume that nobody asked for; an empty directory on the node disturbs nobody. Where it cannot be made, the
        // directory is replaced as for any other volume.
        let _ = fs::create_dir_all(&mount.container_path);
    }
    make_mount_point(&mount.container_path, source.is_dir, staging)?;
    source.attach(&mount.container_path, mount.read_only)
}

/// Makes `/proc` show the pid namespace.
pub fn mount_proc() -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(rustix::mount::mount("proc", "/proc", "proc", flags, None::<&std::ffi::CStr>)?)
}

struct Source {
    tree: OwnedFd,
    is_dir: bool,
}

impl Source {
    fn open(path: &Path) -> Result<Self, String> {
        let is_dir =
            fs::metadata(path).map_err(|error| format!("failed to find volume {}: {error}", path.display()))?.is_dir();
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        let tree = rustix::mount::open_tree(CWD, path, flags)
            .map_err(|error| format!("failed to take volume {}: {error}", path.display()))?;
        Ok(Self { tree, is_dir })
    }

    fn attach(self, target: &Path, read_only: bool) -> Result<(), String> {
        let explain = |error: io::Error| format!("failed to mount a volume at {}: {error}", target.display());
        rustix::mount::move_mount(&self.tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(|error| explain(error.into()))?;
        if read_only {
            // Flags that the source has must be named again, else a user namespace refuses.
            let has = rustix::fs::statvfs(target).map_err(|error| explain(error.into()))?.f_flag;
            let mut flags = MountFlags::BIND | MountFlags::RDONLY;
            for (stat, mount) in [
                (rustix::fs::StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
                (rustix::fs::StatVfsMountFlags::NODEV, MountFlags::NODEV),
                (rustix::fs::StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
                (rustix::fs::StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
                (rustix::fs::StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
            ] {
                if has.contains(stat) {
                    flags |= mount;
                }
            }
            rustix::mount::mount_remount(target, flags, "").map_err(|error| explain(error.into()))?;
        }
        Ok(())
    }
}

/// Sees to it that something of the right kind is at `path`, without touching the node's own directories.
fn make_mount_point(path: &Path, is_dir: bool, staging: &Path) -> Result<(), String> {
    if let Ok(meta) = fs::metadata(path) {
        return if meta.is_dir() == is_dir {
            Ok(())
        } else {
            Err(format!("failed to mount a volume at {}: one is a file, the other a directory", path.display()))
        };
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    let existing = parent.ancestors().find(|above| above.is_dir()).unwrap_or(Path::new("/"));
    let existing =
        fs::canonicalize(existing).map_err(|error| format!("failed to find {}: {error}", existing.display()))?;
    let explain = |error: io::Error| {
        format!(
            "failed to make a mount point {} under {}: {error}; create it on the node",
            path.display(),
            existing.display()
        )
    };
    if !in_memory(&existing) {
        replace(&existing, staging).map_err(explain)?;
    }
    if is_dir {
        fs::create_dir_all(path).map_err(explain)
    } else {
        fs::create_dir_all(parent).and_then(|()| fs::File::create(path)).map(drop).map_err(explain)
    }
}

/// Whether the directory is one that [`replace`] has put there: its own file system carries our name.
fn in_memory(directory: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let last = mounts.lines().rfind(|line| line.split(' ').nth(1).is_some_and(|target| Path::new(target) == directory));
    last.is_some_and(|line| line.starts_with("selvedge-view "))
}

/// Puts a directory in memory over `directory` that has the same entries.
fn replace(directory: &Path, staging: &Path) -> io::Result<()> {
    let entries = fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
    if entries.len() > ENTRIES_MAX {
        return Err(io::Error::other(format!("more than {ENTRIES_MAX} entries")));
    }
    let options = c"mode=755,size=1m";
    rustix::mount::mount("selvedge-view", staging, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options)?;
    for entry in entries {
        let (from, to) = (entry.path(), staging.join(entry.file_name()));
        if let Err(error) = carry_over(&from, &to) {
            return Err(io::Error::new(error.kind(), format!("{}: {error}", from.display())));
        }
    }
    if directory == Path::new("/") {
        std::env::set_current_dir(staging)?;
        rustix::process::pivot_root(".", ".")?;
        rustix::mount::unmount(".", UnmountFlags::DETACH)?;
        std::env::set_current_dir("/")?;
        return Ok(());
    }
    Ok(rustix::mount::mount_move(staging, directory)?)
}

fn carry_over(from: &PathBuf, to: &PathBuf) -> io::Result<()> {
    let kind = fs::symlink_metadata(from)?.file_type();
    if kind.is_symlink() {
        return symlink(fs::read_link(from)?, to);
    }
    if kind.is_dir() {
        fs::create_dir(to)?;
    } else {
        fs::File::create(to)?;
    }
    Ok(rustix::mount::mount_bind_recursive(from, to)?)
}
