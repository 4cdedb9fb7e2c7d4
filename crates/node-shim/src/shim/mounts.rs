//! The container's view of the files: the node's own, with volumes put over them.
//!
//! A volume's path may not exist on the node, and making it there would leave traces. Instead the directory above is
//! replaced, in the container's view only, by a small one in memory that has everything the real one has and the
//! mount point as well.
//!
//! A volume is content that others may write to. Sources are opened beneath their volume ([`Mount::open`]), mount points inside
//! another volume are opened and created beneath that one, and both are attached by their descriptors.

use std::{
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::symlink,
    },
    path::{Path, PathBuf},
};

use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

use super::confine::{self, Devices, Nulls};
use crate::{Mount, beneath, state::Launch, sys};

/// Every entry of a replaced directory costs a mount.
const ENTRIES_MAX: usize = 2000;

/// The name of file systems that exist in a container's view only. Mount points in them are simply created.
pub const VIEW: &str = "selvedge-view";

/// Builds the container's view in this process' mount namespace; returns what could not be had that nobody has asked for.
/// `staging` is an empty directory of ours.
pub fn set_up(launch: &Launch, staging: &Path) -> Result<Vec<String>, String> {
    let (spec, security) = (&launch.spec, &launch.spec.security);
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|error| format!("failed to keep the container's mounts from the node: {error}"))?;
    let mut left_out = Vec::new();
    let mut mounts = if launch.bind_mounts { spec.mounts.clone() } else { Vec::new() };
    let dev = Path::new("/dev");
    let has_dev = mounts.iter().any(|mount| mount.container_path == dev);
    if security.privileged && launch.bind_mounts && !has_dev {
        // Not a copy of it: a device that is plugged in later is there as well.
        mounts.push(Mount { host_path: dev.into(), container_path: dev.into(), ..Mount::default() });
    }
    // All sources first: a mount may hide the source of a later one.
    let mut planned = plan(&mounts, &mut left_out)?;
    let mut nulls = Nulls::take(&launch.hidden)?;
    let devices = if security.privileged || has_dev { None } else { Some(Devices::take()?) };
    if security.read_only_root {
        confine::make_root_read_only()?;
    }
    if let Some(devices) = devices {
        devices.mount(staging)?;
    }
    // The outer ones first, whatever the order in the spec: they would hide the inner ones.
    planned.sort_by(|one, other| one.target.cmp(&other.target));
    let mut attached = Vec::new();
    for plan in planned {
        let (mount, target) = (plan.mount, plan.target.clone());
        match plan.attach(&attached, staging) {
            Ok(()) => attached.push(target),
            Err(error) if mount.optional => left_out.push(error),
            Err(error) => return Err(error),
        }
    }
    if !security.privileged {
        confine::hide(&launch.hidden, &mut nulls, &attached)?;
    }
    if let Err(error) = mount_proc() {
        left_out.push(format!("/proc shows the whole node: {error}"));
    }
    if !security.privileged {
        match confine::mask(security.unmasked_proc, &mut nulls, &attached) {
            // Without root the kernel is the one that says what may be read and written there.
            Err(error) if !sys::is_root() => left_out.push(error),
            masked => masked?,
        }
    }
    if security.read_only_root {
        make_views_read_only()?;
    }
    Ok(left_out)
}

fn plan<'a>(mounts: &'a [Mount], left_out: &mut Vec<String>) -> Result<Vec<Planned<'a>>, String> {
    let mut planned = Vec::new();
    for mount in mounts {
        match Planned::new(mount) {
            Ok(plan) => planned.push(plan),
            Err(error) if mount.optional => left_out.push(error),
            Err(error) => return Err(error),
        }
    }
    Ok(planned)
}

/// Makes what was put in place for mount points as unwritable as what it replaces. `/dev` stays as programs expect it.
fn make_views_read_only() -> Result<(), String> {
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(|error| format!("failed to read mounts: {error}"))?;
    let views = mounts.lines().filter(|line| line.starts_with(&format!("{VIEW} ")));
    for path in views.filter_map(|line| line.split(' ').nth(1)).filter(|path| *path != "/dev") {
        let made = beneath::open_path(Path::new(path))
            .and_then(|view| sys::set_mount_attributes(view.as_fd(), libc::AT_EMPTY_PATH, libc::MOUNT_ATTR_RDONLY));
        // The one below a view of `/` still has its place in our directory, which is hidden.
        if made.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            continue;
        }
        made.map_err(|error| format!("failed to make {path} read-only: {error}"))?;
    }
    Ok(())
}

/// Makes `/proc` show the pid namespace.
fn mount_proc() -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(rustix::mount::mount("proc", "/proc", "proc", flags, None::<&std::ffi::CStr>)?)
}

/// A mount whose source is taken, and whose place is known.
struct Planned<'a> {
    mount: &'a Mount,
    tree: OwnedFd,
    is_dir: bool,
    /// As the node has it, its links resolved.
    target: PathBuf,
}

impl<'a> Planned<'a> {
    fn new(mount: &'a Mount) -> Result<Self, String> {
        let explain = |error: io::Error| format!("failed to take volume {}: {error}", mount.host_path.display());
        let source = mount.open()?;
        let is_dir = beneath::is_dir(source.as_fd()).map_err(explain)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE;
        let tree = rustix::mount::open_tree(&source, "", flags).map_err(|error| explain(error.into()))?;
        if mount.optional && is_dir {
            // Every pod has this one, below `/run` as a rule. Replacing that directory would hide from a program what others put
            // there later, for a volume that nobody asked for; an empty directory on the node disturbs nobody. Where it cannot
            // be made, the directory is replaced as for any other volume.
            let _ = fs::create_dir_all(&mount.container_path);
        }
        let target = real_path(&mount.container_path)?;
        if target.starts_with("/proc") {
            // The container's own is mounted there later, and would hide it.
            return Err(format!("{target:?} cannot be mounted because it is inside /proc"));
        }
        Ok(Self { mount, tree, is_dir, target })
    }

    fn attach(self, attached: &[PathBuf], staging: &Path) -> Result<(), String> {
        let path = self.mount.container_path.display();
        let explain = |error: io::Error| format!("failed to mount a volume at {path}: {error}");
        let above = attached.iter().filter(|above| self.target.starts_with(above) && **above != self.target);
        let place = match above.max_by_key(|above| above.components().count()) {
            Some(above) => self.mount_point_in(above)?,
            None => {
                make_mount_point(&self.target, self.is_dir, staging)?;
                beneath::open_path(&self.target).map_err(explain)?
            }
        };
        if beneath::is_dir(place.as_fd()).map_err(explain)? != self.is_dir {
            return Err(format!("failed to mount a volume at {path}: one is a file, the other a directory"));
        }
        // Before it is attached, so that it is never seen otherwise, and with all that is mounted in it.
        let is_read_only = !self.mount.is_read_only() || sys::make_mounts_read_only(self.tree.as_fd()).is_ok();
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        rustix::mount::move_mount(&self.tree, "", &place, "", flags).map_err(|error| explain(error.into()))?;
        if is_read_only { Ok(()) } else { remount_read_only(&self.target).map_err(explain) }
    }

    /// Inside another volume: what is there may be a container's.
    fn mount_point_in(&self, above: &Path) -> Result<OwnedFd, String> {
        let explain =
            |why: String| format!("failed to mount a volume at {}: {why}", self.mount.container_path.display());
        let root = beneath::open_path(above).map_err(|error| explain(error.to_string()))?;
        let rest = self.target.strip_prefix(above).map_err(|error| explain(error.to_string()))?;
        let opened = match self.is_dir {
            true => beneath::open_or_create(root.as_fd(), rest),
            false => beneath::open_or_create_file(root.as_fd(), rest),
        };
        opened.map_err(explain)
    }
}

/// A path with the links of what exists resolved.
fn real_path(path: &Path) -> Result<PathBuf, String> {
    let existing = path.ancestors().find(|above| above.exists()).unwrap_or(Path::new("/"));
    let real = fs::canonicalize(existing).map_err(|error| format!("failed to find {}: {error}", existing.display()))?;
    Ok(path
        .strip_prefix(existing)
        .map_or(real.clone(), |rest| if rest.as_os_str().is_empty() { real.clone() } else { real.join(rest) }))
}

/// For kernels before 5.12: only the volume itself, not what is mounted in it.
fn remount_read_only(target: &Path) -> io::Result<()> {
    // Flags that the source has must be named again, else a user namespace rejects the change.
    let has = rustix::fs::statvfs(target)?.f_flag;
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
    Ok(rustix::mount::mount_remount(target, flags, "")?)
}

/// Sees to it that something is at `path`, without touching the node's own directories.
fn make_mount_point(path: &Path, is_dir: bool, staging: &Path) -> Result<(), String> {
    if path.exists() {
        return Ok(());
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
    last.is_some_and(|line| line.starts_with(&format!("{VIEW} ")))
}

/// Puts a directory in memory over `directory` that has the same entries, but for those that cannot be looked at.
fn replace(directory: &Path, staging: &Path) -> io::Result<()> {
    let entries = fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
    if entries.len() > ENTRIES_MAX {
        return Err(io::Error::other(format!("more than {ENTRIES_MAX} entries")));
    }
    let options = c"mode=755,size=1m";
    rustix::mount::mount(VIEW, staging, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options)?;
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
    // Of no use to the container either: another has removed it, its server is dead, or it is a user's own file system.
    let Ok(kind) = fs::symlink_metadata(from).map(|meta| meta.file_type()) else { return Ok(()) };
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
