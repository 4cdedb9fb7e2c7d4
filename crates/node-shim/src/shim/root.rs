//! The root of a container of an image: its layers with a directory of the container's own above them, and what programs expect
//! to be mounted there.
//!
//! Everything in an image is hostile, and so are volumes that other containers write to. Four rules keep the node out of reach:
//!
//! - What comes from the node (volumes, numbers of devices) is taken by descriptor before the image is looked at.
//! - A path in the container is resolved by the kernel inside the container's root (`openat2`, `RESOLVE_IN_ROOT`): a link, however it
//!   was made, leads to another place in the same container (CVE-2021-30465, CVE-2019-14271).
//! - Things are mounted to descriptors and never to names, so nothing can be swapped between the look and the mount; files are covered
//!   with the `/dev/null` that was just made for the container, by its descriptor (CVE-2025-31133, CVE-2025-52565). The node's own
//!   would do as well, but whoever is root in the container could change its mode, and the node would have none that works.
//! - What the kernel says about itself is mounted anew, in the container's namespaces, and nothing is written through its paths.
//!
//! ```text
//! take (volumes, shm) ─▶ overlay ─▶ proc, dev, sys ─▶ volumes ─▶ mask ─▶ read-only? ─▶ pivot
//! ```
//!
//! Where the pod has users of its own, what comes from a disk is shown with their numbers: volumes as they are taken, and the image's
//! layers one by one before they become one, since the kernel maps no finished overlay. From then on files are made as its root.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Read},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
        UnmountFlags,
    },
};

use super::confine::{MASKED, READ_ONLY};
use crate::{
    ImageRoot, ImageVolume, Mount, Propagation, SHM_OF_NODE, UPPER, beneath, own_users::UserNamespace, state::Launch,
    sys,
};

/// The kernel takes a page of options for a mount, and these are its longest.
const OVERLAY_OPTIONS_BYTES_MAX: usize = 4095;

/// How deep below another directory a mount point may be made.
const DEPTH_MAX: usize = 128;
/// Links that lead to each other, as the kernel follows them.
const LINKS_MAX: usize = 40;

/// Devices that a privileged container gets: more than any box has.
const DEVICES_MAX: usize = 16_384;

/// Of a list of mounts: tens of thousands.
const MOUNTS_BYTES_MAX: u64 = 8 << 20;

/// Devices of every container, with their numbers.
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// What of `/proc` a volume may take the place of, as with runc: what describes the machine, for programs that look at what it has.
const REPLACEABLE: [&str; 11] = [
    "cpuinfo",
    "diskstats",
    "loadavg",
    "meminfo",
    "net/dev",
    "slabinfo",
    "stat",
    "swaps",
    "sys/crypto/fips_enabled",
    "sys/kernel/ns_last_pid",
    "uptime",
];

/// Where a container's root is made.
pub struct Places<'a> {
    /// An empty directory of ours, on which each container mounts in its own view only.
    pub staging: &'a Path,
    /// The container's state directory: what it writes is below it.
    pub state: &'a Path,
    /// The users of its pod, where those are not the node's.
    pub users: Option<&'a UserNamespace>,
}

/// The group `tty`, as every distribution has it.
const TERMINALS: u32 = 5;

const WORK: &str = "work";
/// What takes the place of the layers of an image that has none.
const EMPTY: &str = "empty";

/// Makes the directories that the container writes to. They are of this attempt alone.
pub fn make_upper(state: &Path, image: &ImageRoot, users: Option<&UserNamespace>) -> Result<(), String> {
    let id = |id: u32| Some(users.map_or(id, |users| users.on_the_node(id)));
    let make = || -> io::Result<()> {
        for name in [UPPER, WORK, EMPTY] {
            match fs::create_dir(state.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        // `/` of the container looks as the image has it.
        let upper = state.join(UPPER);
        let Some(top) = image.layers.last() else { return std::os::unix::fs::chown(&upper, id(0), id(0)) };
        let data = fs::metadata(image.store.join(top))?;
        std::os::unix::fs::chown(&upper, id(data.uid()), id(data.gid()))?;
        fs::set_permissions(&upper, data.permissions())
    };
    make().map_err(|error| format!("failed to make the container's root: {error}"))
}

/// A root that was entered.
pub struct Entered {
    /// What could not be had that nobody has asked for.
    pub left_out: Vec<String>,
    /// Its `/dev/null`, open.
    pub null: OwnedFd,
}

/// Makes the root and enters it. The process must be in the container's namespaces, with a mount namespace of its own.
pub fn enter(launch: &Launch, image: &ImageRoot, places: &Places<'_>) -> Result<Entered, String> {
    let security = &launch.spec.security;
    let mut left_out = Vec::new();
    let is_private = |mount: &&Mount| mount.propagation == Propagation::None;
    // These while mounts still pass on what is mounted in them.
    let mounts = launch.spec.mounts.iter().filter(|mount| !is_private(mount));
    let mut volumes = take_volumes(mounts, places.users, &mut left_out)?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|error| format!("failed to keep the container's mounts from the node: {error}"))?;
    volumes.extend(take_volumes(launch.spec.mounts.iter().filter(is_private), places.users, &mut left_out)?);
    for mount in &launch.spec.mounts {
        if let Some(image) = &mount.image {
            volumes.push(image_volume(mount, image, places)?);
        }
    }
    // The outer ones first, whatever the order in the spec: they would hide the inner ones.
    volumes.sort_by_key(|volume| volume.mount.container_path.components().count());
    let shm = image.shm.as_deref().map(|shm| take(shm, false)).transpose().map_err(explain("take /dev/shm"))?;
    let devices = if security.privileged { devices_of_the_node() } else { Vec::new() };

    let root = Root::mount(image, places)?;
    if let Some(users) = places.users {
        sys::make_files_as(users.on_the_node(0)).map_err(explain("make files as the pod's root"))?;
    }
    root.mount_kernel_files(security.privileged, &mut left_out)?;
    let dev = root.mount_dev(shm, &devices, places.users)?;
    if !security.privileged && image.has_shm_of_node() {
        root.hide(&dev, &launch.hidden)?;
    }
    let mut at: Vec<PathBuf> = Vec::new();
    for volume in volumes {
        let (path, optional) = (volume.mount.container_path.clone(), volume.mount.optional);
        match root.mount_volume(volume) {
            Ok(()) => at.push(path),
            Err(error) if optional => left_out.push(error),
            Err(error) => return Err(error),
        }
    }
    if !security.privileged && !security.unmasked_proc {
        root.mask(&dev, &at)?;
    }
    if let Some(dir) = &launch.spec.working_dir {
        // What cannot be made cannot be entered, and that is what is reported.
        let _ = root.open_or_make(dir, true);
    }
    if security.read_only_root {
        sys::set_mount_attributes(root.0.as_fd(), libc::AT_EMPTY_PATH, libc::MOUNT_ATTR_RDONLY)
            .map_err(explain("make the root file system read-only"))?;
    }
    root.pivot().map_err(explain("enter the image"))?;
    let null = rustix::fs::openat(&dev, "null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let null = null.map_err(|error| format!("failed to open the container's /dev/null: {error}"))?;
    Ok(Entered { left_out, null })
}

/// Mounts the layers where a runtime finds them that does the rest itself; answers what `look` sees in them. The process must have
/// a mount namespace of its own.
pub fn mount_for_others<T>(
    launch: &Launch,
    image: &ImageRoot,
    places: &Places<'_>,
    look: impl FnOnce(BorrowedFd<'_>) -> Result<T, String>,
) -> Result<T, String> {
    let root = Root::mount(image, places)?;
    std::env::set_current_dir("/").map_err(explain("leave the image store"))?;
    if let Some(dir) = &launch.spec.working_dir {
        // What cannot be made cannot be entered, and that is what is reported.
        let _ = root.open_or_make(dir, true);
    }
    look(root.0.as_fd())
}

/// Puts a volume at a place of ours, in this process' own view. Where one cannot be had that nobody has asked for, an empty directory
/// is there.
pub fn attach_volume(mount: &Mount, place: &Path, left_out: &mut Vec<String>) -> Result<(), String> {
    let volume = take_volumes(std::iter::once(mount), None, left_out)?.pop();
    let attach = || -> io::Result<()> {
        fs::create_dir_all(place.parent().unwrap_or(place))?;
        match &volume {
            Some(volume) if !volume.is_dir => drop(fs::File::create(place)?),
            _ => fs::create_dir(place)?,
        }
        match &volume {
            Some(volume) => attach_to(&volume.tree, &beneath::open_path(place)?),
            None => Ok(()),
        }
    };
    attach().map_err(|error| format!("failed to mount volume {}: {error}", mount.host_path.display()))
}

fn explain(act: &'static str) -> impl Fn(io::Error) -> String {
    move |error| format!("failed to {act}: {error}")
}

/// A volume that is taken from the node, not mounted yet.
struct Volume<'a> {
    mount: &'a Mount,
    tree: OwnedFd,
    is_dir: bool,
}

/// Those that are on the node already.
fn take_volumes<'a>(
    mounts: impl Iterator<Item = &'a Mount>,
    users: Option<&UserNamespace>,
    left_out: &mut Vec<String>,
) -> Result<Vec<Volume<'a>>, String> {
    let take = |mount: &'a Mount| -> Result<Volume<'a>, String> {
        let failed = |error: io::Error| format!("failed to take volume {}: {error}", mount.host_path.display());
        let source = mount.open()?;
        let is_dir = beneath::is_dir(source.as_fd()).map_err(failed)?;
        let tree = clone_tree(&source, true).map_err(failed)?;
        match mount.propagation {
            Propagation::None => {}
            Propagation::HostToContainer => {
                check_propagation(&source, mount)?;
                sys::set_propagation(tree.as_fd(), libc::MS_SLAVE).map_err(failed)?;
            }
            Propagation::Bidirectional => check_propagation(&source, mount)?,
        }
        if let Some(users) = users {
            map(users, &tree).map_err(failed)?;
        }
        if mount.is_read_only() {
            // Before it is attached, so that it is never seen otherwise, and with all that is mounted in it.
            sys::make_mounts_read_only(tree.as_fd()).map_err(failed)?;
        }
        Ok(Volume { mount, tree, is_dir })
    };
    let mut volumes = Vec::new();
    for mount in mounts.filter(|mount| mount.image.is_none()) {
        match take(mount) {
            Ok(volume) => volumes.push(volume),
            Err(error) if mount.optional => left_out.push(error),
            Err(error) => return Err(error),
        }
    }
    Ok(volumes)
}

/// With what a file system lacks that refuses.
fn map(users: &UserNamespace, tree: &OwnedFd) -> io::Result<()> {
    users.map(tree.as_fd()).map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => io::Error::other(
            "its file system cannot show files with a pod's own users (`hostUsers: false`); memory can since Linux 6.3",
        ),
        _ => io::Error::new(error.kind(), format!("failed to map its users: {error}")),
    })
}

/// Enters the directory by which the names of layers are short; answers these. It is that of the store, or, with users of the pod's own,
/// one in memory at the place where the root will be, with each layer mounted in it.
fn enter_layers(store: &Path, layers: &[String], places: &Places<'_>) -> io::Result<Vec<String>> {
    let Some(users) = places.users else {
        std::env::set_current_dir(store)?;
        return Ok(layers.to_vec());
    };
    let guarded = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("layers", places.staging, "tmpfs", guarded, c"mode=700,size=1m")?;
    std::env::set_current_dir(places.staging)?;
    let show = |(number, layer): (usize, &String)| -> io::Result<String> {
        let (tree, name) = (take(&store.join(layer), false)?, number.to_string());
        map(users, &tree)?;
        fs::create_dir(&name)?;
        attach_to(&tree, &rustix::fs::open(&name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)?;
        Ok(name)
    };
    layers.iter().enumerate().map(show).collect()
}

/// A volume that shows an image: its layers, with nothing above them that could be written to, and nothing in them that could be executed.
/// It is mounted in this process' view only, and ends with that.
fn image_volume<'a>(mount: &'a Mount, image: &ImageVolume, places: &Places<'_>) -> Result<Volume<'a>, String> {
    let failed = |why: String| format!("failed to mount image {} of volume {}: {why}", image.reference, mount.volume);
    let io_failed = |error: io::Error| failed(error.to_string());
    let empty = places.state.join(EMPTY);
    let guarded = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let root = match image.layers.is_empty() {
        true => beneath::open_path(&empty).map_err(io_failed)?,
        false => {
            let layers = enter_layers(&image.store, &image.layers, places).map_err(io_failed)?;
            // The kernel wants two layers where nothing is above them.
            let options = format!("lowerdir={}:{}", lower_dirs(&layers), escaped(&empty));
            check_options(&options, &layers).map_err(failed)?;
            let options = std::ffi::CString::new(options).map_err(|error| failed(error.to_string()))?;
            rustix::mount::mount("overlay", places.staging, "overlay", guarded, options.as_c_str())
                .map_err(|error| io_failed(error.into()))?;
            beneath::open_path(places.staging).map_err(io_failed)?
        }
    };
    let source = match &mount.sub_path {
        Some(path) => beneath::open(root.as_fd(), path, beneath::Links::Followed),
        None => Ok(root),
    };
    let take = |source: OwnedFd| -> io::Result<Volume<'a>> {
        let tree = clone_tree(&source, false)?;
        let attributes =
            libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
        sys::set_mount_attributes(tree.as_fd(), libc::AT_EMPTY_PATH, attributes)?;
        Ok(Volume { mount, tree, is_dir: beneath::is_dir(source.as_fd())? })
    };
    let taken = source
        .map_err(|why| {
            failed(format!("sub path `{}`: {why}", mount.sub_path.as_deref().unwrap_or(Path::new("")).display()))
        })
        .and_then(|source| take(source).map_err(io_failed));
    if !image.layers.is_empty() {
        // The overlay, and below it what its layers are in, where that is not the store.
        for _ in 0..=usize::from(places.users.is_some()) {
            rustix::mount::unmount(places.staging, UnmountFlags::DETACH).map_err(|error| io_failed(error.into()))?;
        }
    }
    taken
}

/// Whether mounts that are made in a volume on the node, or in its container, pass on to the other; in containerd's words where they do
/// not.
fn check_propagation(source: &OwnedFd, mount: &Mount) -> Result<(), String> {
    let failed = |error: io::Error| format!("failed to look up the mount of {}: {error}", mount.host_path.display());
    let (place, is_shared, is_slave) = mount_of(source).map_err(failed)?;
    let (is_enough, kind) = match mount.propagation {
        Propagation::Bidirectional => (is_shared, "a shared mount"),
        _ => (is_shared || is_slave, "a shared or slave mount"),
    };
    match is_enough {
        true => Ok(()),
        false => Err(format!("path \"{}\" is mounted on \"{place}\" but it is not {kind}", mount.host_path.display())),
    }
}

/// Where the mount is that a descriptor is of; whether it is shared, and whether it is a slave of one that is.
fn mount_of(file: &OwnedFd) -> io::Result<(String, bool, bool)> {
    let read = |path: String| -> io::Result<String> {
        let mut text = String::new();
        fs::File::open(path)?.take(MOUNTS_BYTES_MAX).read_to_string(&mut text)?;
        Ok(text)
    };
    let unknown = || io::Error::other("the kernel lists no such mount");
    let info = read(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:")).map(str::trim).ok_or_else(unknown)?;
    let mounts = read("/proc/self/mountinfo".to_owned())?;
    let line = mounts.lines().map(|line| line.split(' ')).find(|fields| fields.clone().next() == Some(id));
    let fields: Vec<&str> = line.ok_or_else(unknown)?.collect();
    let place = fields.get(4).copied().unwrap_or_default().to_owned();
    // Optional fields follow the sixth, up to a dash.
    let optional = || fields.iter().skip(6).take_while(|field| **field != "-");
    Ok((
        place,
        optional().any(|field| field.starts_with("shared:")),
        optional().any(|field| field.starts_with("master:")),
    ))
}

/// A device node as it is to be made.
struct Device {
    /// Below `/dev`.
    name: PathBuf,
    kind: FileType,
    number: u64,
    /// Who may open it, as on the node: a privileged program may run as any user.
    mode: Mode,
    owner: (u32, u32),
}

/// All devices of the node, for a container that may use them.
fn devices_of_the_node() -> Vec<Device> {
    let (mut found, mut left) = (Vec::new(), vec![PathBuf::from("/dev")]);
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(data) = entry.metadata() else { continue };
            let kind = FileType::from_raw_mode(data.mode());
            let own = ["/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd", "/dev/console"];
            let is_own = own.iter().any(|own| path == Path::new(own));
            match kind {
                FileType::Directory if !is_own => left.push(path),
                FileType::CharacterDevice | FileType::BlockDevice if !is_own && found.len() < DEVICES_MAX => {
                    let name = path.strip_prefix("/dev").map(Path::to_owned).unwrap_or(path);
                    let (mode, owner) = (Mode::from_raw_mode(data.mode()), (data.uid(), data.gid()));
                    found.push(Device { name, kind, number: data.rdev(), mode, owner });
                }
                _ => {}
            }
        }
    }
    found
}

/// The root of the container, as it is mounted in this process' own view.
struct Root(OwnedFd);

impl Root {
    fn mount(image: &ImageRoot, places: &Places<'_>) -> Result<Self, String> {
        let layers = enter_layers(&image.store, &image.layers, places).map_err(explain("enter the image's layers"))?;
        let options = overlay_options(&layers, places.state)?;
        let mount = |options: &str| -> io::Result<()> {
            let options = std::ffi::CString::new(options)?;
            // Where files have the pod's users, the owner of a device that an image brings would be one of them.
            let flags = if places.users.is_some() { MountFlags::NODEV } else { MountFlags::empty() };
            Ok(rustix::mount::mount("overlay", places.staging, "overlay", flags, options.as_c_str())?)
        };
        // What the container writes to its root is of no use after a power cut: it need not be flushed (Linux 5.10).
        mount(&format!("{options},volatile"))
            .or_else(|error| if error.raw_os_error() == Some(libc::EINVAL) { mount(&options) } else { Err(error) })
            .and_then(|()| Ok(rustix::fs::open(places.staging, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?))
            .map(Self)
            .map_err(|error| {
                format!(
                    "failed to mount the image: {error}; the kernel must have overlayfs, and take it on the node's disk"
                )
            })
    }

    /// Opens a path as the container would: links lead to places in the container.
    fn open(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        let path = match path.strip_prefix("/").unwrap_or(path) {
            empty if empty.as_os_str().is_empty() => Path::new("."),
            path => path,
        };
        let mut tries_left = 16;
        loop {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            match rustix::fs::openat2(&self.0, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
                // Something was renamed while the kernel looked.
                Err(Errno::AGAIN) if tries_left > 0 => tries_left -= 1,
                other => return other,
            }
        }
    }

    /// As [`open`](Self::open), with what is missing made: directories, and a file or a directory at the end. A link that leads to
    /// nothing, as `/var/run` of an image without `/run`, is followed to where that is to be, in the root.
    fn open_or_make(&self, path: &Path, is_dir: bool) -> io::Result<OwnedFd> {
        let mut path = path.to_owned();
        for _ in 0..LINKS_MAX {
            match self.make_to_link(&path, is_dir)? {
                Ok(found) => return Ok(found),
                Err(led_to) => path = led_to,
            }
        }
        Err(Errno::LOOP.into())
    }

    /// What is at a path, made where it is missing; or the path that the first link on it which leads to nothing makes of it.
    fn make_to_link(&self, path: &Path, is_dir: bool) -> io::Result<Result<OwnedFd, PathBuf>> {
        let mut missing = Vec::new();
        let mut at = path.to_owned();
        let mut here = loop {
            match self.open(&at) {
                Ok(found) => break found,
                Err(Errno::NOENT) if missing.len() < DEPTH_MAX => {
                    let (Some(parent), Some(name)) = (at.parent(), at.file_name()) else {
                        return Err(Errno::NOENT.into());
                    };
                    missing.push(name.to_owned());
                    at = parent.to_owned();
                }
                Err(error) => return Err(error.into()),
            }
        };
        while let Some(name) = missing.pop() {
            let made = match is_dir || !missing.is_empty() {
                true => rustix::fs::mkdirat(&here, &name, Mode::from_raw_mode(0o755)),
                false => {
                    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    rustix::fs::openat(&here, &name, flags, Mode::from_raw_mode(0o644)).map(drop)
                }
            };
            match made {
                // Another container of the pod was faster, or it is a link.
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let next = rustix::fs::openat(&here, &name, flags, Mode::empty())?;
            if FileType::from_raw_mode(rustix::fs::fstat(&next)?.st_mode) == FileType::Symlink {
                let target = rustix::fs::readlinkat(&here, &name, Vec::new())?;
                at.push(OsStr::from_bytes(target.to_bytes()));
                at.extend(missing.iter().rev());
                return Ok(Err(at));
            }
            at.push(&name);
            here = next;
        }
        match FileType::from_raw_mode(rustix::fs::fstat(&here)?.st_mode).is_dir() == is_dir {
            true => Ok(Ok(here)),
            false => Err(io::Error::other("one is a file, the other a directory")),
        }
    }

    fn attach(&self, tree: &OwnedFd, path: &Path, is_dir: bool) -> Result<(), String> {
        let attach = || -> io::Result<()> { attach_to(tree, &self.open_or_make(path, is_dir)?) };
        attach().map_err(|error| format!("failed to mount at {}: {error}", path.display()))
    }

    /// `/proc` of the container's processes, `/sys`, and its own control groups below that.
    fn mount_kernel_files(&self, privileged: bool, left_out: &mut Vec<String>) -> Result<(), String> {
        let plain =
            MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let guarded = if privileged { plain } else { plain | MountAttrFlags::MOUNT_ATTR_RDONLY };
        self.attach(&new_mount("proc", &[], plain)?, Path::new("/proc"), true)?;
        self.attach(&new_mount("sysfs", &[], guarded)?, Path::new("/sys"), true)?;
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        if let Err(error) = self.mount_groups(&groups, guarded) {
            left_out.push(format!("no /sys/fs/cgroup: {error}"));
        }
        Ok(())
    }

    /// The process is in a control group namespace, so that only the container's own groups are below what is mounted.
    fn mount_groups(&self, groups: &str, guarded: MountAttrFlags) -> Result<(), String> {
        let dir = Path::new("/sys/fs/cgroup");
        let hierarchies: Vec<&str> = groups.lines().filter_map(|line| line.split(':').nth(1)).collect();
        let named: Vec<&str> =
            hierarchies.iter().copied().filter(|one| !one.is_empty() && !one.contains('=')).collect();
        if named.is_empty() {
            return self.attach(&new_mount("cgroup2", &[], guarded)?, dir, true);
        }
        let files =
            new_mount("tmpfs", &[("mode", "755"), ("size", "64k")], guarded & !MountAttrFlags::MOUNT_ATTR_RDONLY)?;
        self.attach(&files, dir, true)?;
        for controllers in named {
            let options: Vec<(&str, &str)> = controllers.split(',').map(|name| (name, "")).collect();
            self.attach(&new_mount("cgroup", &options, guarded)?, &dir.join(controllers), true)?;
        }
        if guarded.contains(MountAttrFlags::MOUNT_ATTR_RDONLY) {
            sys::set_mount_attributes(files.as_fd(), libc::AT_EMPTY_PATH, libc::MOUNT_ATTR_RDONLY)
                .map_err(explain("make it read-only"))?;
        }
        Ok(())
    }

    /// A `/dev` of the container's own; whatever is mounted over it later, this is it.
    fn mount_dev(
        &self,
        shm: Option<OwnedFd>,
        devices: &[Device],
        users: Option<&UserNamespace>,
    ) -> Result<OwnedFd, String> {
        let plain = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let dev = new_mount("tmpfs", &[("mode", "755"), ("size", "65536k")], MountAttrFlags::MOUNT_ATTR_NOSUID)?;
        self.attach(&dev, Path::new("/dev"), true)?;
        let terminals = users.map_or(TERMINALS, |users| users.on_the_node(TERMINALS)).to_string();
        let pts = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", &*terminals)];
        self.attach(&new_mount("devpts", &pts, plain)?, Path::new("/dev/pts"), true)?;
        let shm = match shm {
            Some(shm) => shm,
            None => {
                let options = [("mode", "1777"), ("size", "65536k")];
                new_mount("tmpfs", &options, plain | MountAttrFlags::MOUNT_ATTR_NODEV)?
            }
        };
        self.attach(&shm, Path::new("/dev/shm"), true)?;
        // A kernel may be built without it.
        if let Ok(mqueue) = new_mount("mqueue", &[], plain | MountAttrFlags::MOUNT_ATTR_NODEV) {
            self.attach(&mqueue, Path::new("/dev/mqueue"), true)?;
        }
        fill_dev(&dev, devices, users.is_some()).map_err(explain("make the container's devices"))?;
        Ok(dev)
    }

    fn mount_volume(&self, volume: Volume<'_>) -> Result<(), String> {
        let path = &volume.mount.container_path;
        let mount = || -> io::Result<()> {
            let place = self.open_or_make(path, volume.is_dir)?;
            self.check_not_in_proc(&place, &volume.tree)?;
            attach_to(&volume.tree, &place)
        };
        mount().map_err(|error| {
            let error = format!("failed to mount at {}: {error}", path.display());
            if volume.mount.volume.is_empty() { error } else { format!("volume {}: {error}", volume.mount.volume) }
        })
    }

    /// Whoever sets a container up, or looks into it, believes what its `/proc` says; so nothing else may be there (CVE-2019-16884). The
    /// place is where links have led to. In runc's words.
    fn check_not_in_proc(&self, place: &OwnedFd, tree: &OwnedFd) -> io::Result<()> {
        let path = |file: &OwnedFd| fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let (place, proc) = (path(place)?, path(&self.open(Path::new("/proc"))?)?);
        let Ok(inside) = place.strip_prefix(proc) else { return Ok(()) };
        let (is_allowed, why) = match inside.as_os_str().is_empty() {
            true => (rustix::fs::fstatfs(tree)?.f_type == rustix::fs::PROC_SUPER_MAGIC, "is not of type proc"),
            false => (REPLACEABLE.iter().any(|one| inside == Path::new(one)), "is inside /proc"),
        };
        let shown: PathBuf = Path::new("/proc").components().chain(inside.components()).collect();
        if is_allowed { Ok(()) } else { Err(io::Error::other(format!("{shown:?} cannot be mounted because it {why}"))) }
    }

    /// Covers what the agent keeps in the node's shared memory: the variables of all containers.
    fn hide(&self, dev: &OwnedFd, hidden: &[PathBuf]) -> Result<(), String> {
        for path in hidden.iter().filter(|path| path.starts_with(SHM_OF_NODE)) {
            let Ok(found) = self.open(path) else { continue };
            self.cover(&found, dev).map_err(|error| format!("failed to hide {}: {error}", path.display()))?;
        }
        Ok(())
    }

    /// Covers what describes the whole machine or would change it, unless a volume was asked for there.
    fn mask(&self, dev: &OwnedFd, volumes: &[PathBuf]) -> Result<(), String> {
        let is_covered = |path: &Path| volumes.iter().any(|volume| path.starts_with(volume));
        for path in MASKED.iter().map(Path::new).filter(|path| !is_covered(path)) {
            let Ok(found) = self.open(path) else { continue };
            self.cover(&found, dev).map_err(|error| format!("failed to mask {}: {error}", path.display()))?;
        }
        for path in READ_ONLY.iter().map(Path::new).filter(|path| !is_covered(path)) {
            let Ok(found) = self.open(path) else { continue };
            let make = || -> io::Result<()> {
                let tree = clone_tree(&found, false)?;
                let plain = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
                sys::set_mount_attributes(tree.as_fd(), libc::AT_EMPTY_PATH, libc::MOUNT_ATTR_RDONLY | plain)?;
                attach_to(&tree, &found)
            };
            make().map_err(|error| format!("failed to make {} read-only: {error}", path.display()))?;
        }
        Ok(())
    }

    fn cover(&self, found: &OwnedFd, dev: &OwnedFd) -> io::Result<()> {
        if !beneath::is_dir(found.as_fd())? {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let null = rustix::fs::openat(dev, "null", flags, Mode::empty())?;
            return attach_to(&clone_tree(&null, false)?, found);
        }
        let plain =
            MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let options = [("mode", "555"), ("size", "4k"), ("nr_inodes", "2")];
        let empty =
            new_mount("tmpfs", &options, plain | MountAttrFlags::MOUNT_ATTR_RDONLY).map_err(io::Error::other)?;
        attach_to(&empty, found)
    }

    /// Makes it `/`, with nothing of the node left below or above it.
    fn pivot(self) -> io::Result<()> {
        rustix::process::fchdir(&self.0)?;
        rustix::process::pivot_root(".", ".")?;
        rustix::mount::unmount(".", UnmountFlags::DETACH)?;
        std::env::set_current_dir("/")
    }
}

/// `is_mapped` is whether files are made as the pod's root, to whom the node's devices do not belong.
fn fill_dev(dev: &OwnedFd, devices: &[Device], is_mapped: bool) -> io::Result<()> {
    let everybody = Mode::from_raw_mode(0o666);
    let mask = rustix::process::umask(Mode::empty());
    let make = || -> io::Result<()> {
        for (name, major, minor) in DEVICES {
            rustix::fs::mknodat(dev, name, FileType::CharacterDevice, everybody, rustix::fs::makedev(major, minor))?;
        }
        for (name, target) in LINKS {
            rustix::fs::symlinkat(target, dev, name)?;
        }
        for Device { name, kind, number, mode, owner } in devices {
            for above in
                name.ancestors().skip(1).collect::<Vec<_>>().into_iter().rev().filter(|at| !at.as_os_str().is_empty())
            {
                match rustix::fs::mkdirat(dev, above, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            // Nobody is let in before it has its owner.
            let mode_until_then = if is_mapped { Mode::empty() } else { *mode };
            match rustix::fs::mknodat(dev, name, *kind, mode_until_then, *number) {
                Ok(()) if *owner == (0, 0) && !is_mapped => {}
                Ok(()) => {
                    let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
                    rustix::fs::chownat(dev, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
                    if is_mapped {
                        rustix::fs::chmodat(dev, name, *mode, AtFlags::empty())?;
                    }
                }
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    };
    let made = make();
    rustix::process::umask(mask);
    made
}

/// The highest layer first, as the kernel has it.
fn overlay_options(layers: &[String], state: &Path) -> Result<String, String> {
    let lower = match layers.is_empty() {
        true => escaped(&state.join(EMPTY)),
        false => lower_dirs(layers),
    };
    let (upper, work) = (escaped(&state.join(UPPER)), escaped(&state.join(WORK)));
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    check_options(&options, layers).map(|()| options)
}

fn lower_dirs(layers: &[String]) -> String {
    layers.iter().rev().map(|layer| escaped(Path::new(layer))).collect::<Vec<_>>().join(":")
}

fn check_options(options: &str, layers: &[String]) -> Result<(), String> {
    match options.len() + ",volatile".len() <= OVERLAY_OPTIONS_BYTES_MAX {
        true => Ok(()),
        false => Err(format!("the image has too many layers for one mount: {}", layers.len())),
    }
}

/// A path as an option of the mount: what separates options and layers is no part of it.
fn escaped(path: &Path) -> String {
    let text = String::from_utf8_lossy(path.as_os_str().as_bytes());
    text.chars().flat_map(|c| matches!(c, '\\' | ',' | ':').then_some('\\').into_iter().chain([c])).collect()
}

fn new_mount(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> Result<OwnedFd, String> {
    let make = || -> rustix::io::Result<OwnedFd> {
        let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (name, value) in options {
            match value.is_empty() {
                true => rustix::mount::fsconfig_set_flag(&context, *name)?,
                false => rustix::mount::fsconfig_set_string(&context, *name, *value)?,
            }
        }
        rustix::mount::fsconfig_create(&context)?;
        rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    make().map_err(|error| format!("failed to make a file system of kind {kind}: {error}"))
}

fn take(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    clone_tree(&beneath::open_path(path)?, recursive)
}

fn clone_tree(of: &OwnedFd, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(rustix::mount::open_tree(of, "", flags)?)
}

fn attach_to(tree: &OwnedFd, place: &OwnedFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(tree, "", place, "", flags)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_a_mount_name_layers_from_the_top_and_escape_what_separates_them() {
        assert_eq!(
            overlay_options(&["a1".to_owned(), "b2".to_owned()], Path::new("/d,ir:x")).unwrap(),
            r"lowerdir=b2:a1,upperdir=/d\,ir\:x/upper,workdir=/d\,ir\:x/work"
        );
        let none = overlay_options(&[], Path::new("/s")).unwrap();
        assert_eq!(none, "lowerdir=/s/empty,upperdir=/s/upper,workdir=/s/work");
        let many = vec!["0123456789ab".to_owned(); 400];
        assert!(overlay_options(&many, Path::new("/s")).unwrap_err().contains("400"));
        let fit = vec!["0123456789ab".to_owned(); 127];
        assert!(overlay_options(&fit, Path::new("/var/lib/selvedge/node/runtime/state")).is_ok());
    }
}
