//! Where it is measured: a network and mounts apart from the machine's.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Leaves the machine's network and mounts for good. Called while the process has one thread.
pub fn leave() -> Result<()> {
    unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS)
        .context("failed to leave the machine's network; this needs root")?;
    make_private()?;
    let status = Command::new("ip").args(["link", "set", "lo", "up"]).status().context("`ip` is needed")?;
    ensure!(status.success(), "the loopback device stays down");
    Ok(())
}

/// Mounts of this thread alone, from here on; what it starts has them as well.
pub fn mounts_of_this_thread() -> Result<()> {
    unshare(libc::CLONE_FS | libc::CLONE_NEWNS)?;
    make_private()
}

fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: a plain number; neither descriptors nor memory are unshared.
    if unsafe { libc::unshare(flags) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn make_private() -> Result<()> {
    mount("none", Path::new("/"), None, libc::MS_REC | libc::MS_PRIVATE, "").context("failed to leave the mounts")
}

fn mount(source: &str, target: &Path, kind: Option<&str>, flags: u64, options: &str) -> Result<()> {
    let (source, options) = (CString::new(source)?, CString::new(options)?);
    let place = CString::new(target.as_os_str().as_encoded_bytes())?;
    let kind = kind.map(CString::new).transpose()?;
    let kind = kind.as_ref().map_or(std::ptr::null(), |kind| kind.as_ptr());
    // SAFETY: all are strings with an end that outlive the call.
    let done = unsafe { libc::mount(source.as_ptr(), place.as_ptr(), kind, flags, options.as_ptr().cast()) };
    if done == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error()).with_context(|| format!("failed to mount {}", target.display()))
}

/// A mount, until it is dropped.
pub struct Mounted {
    path: PathBuf,
    /// Whether the directory was made for it.
    is_made: bool,
}

impl Mounted {
    /// An empty file system in memory.
    pub fn tmpfs(path: &Path) -> Result<Self> {
        Self::new(path, "tmpfs", "size=6g")
    }

    /// A root of these layers, the lowest first, in the directory of a bundle.
    pub fn overlay(bundle: &Path, layer: &Path) -> Result<Self> {
        let (upper, work) = (bundle.join("upper"), bundle.join("work"));
        fs::create_dir_all(&upper)?;
        fs::create_dir_all(&work)?;
        let options = format!("lowerdir={},upperdir={},workdir={}", layer.display(), upper.display(), work.display());
        Self::new(&bundle.join("rootfs"), "overlay", &options)
    }

    fn new(path: &Path, kind: &str, options: &str) -> Result<Self> {
        let is_made = !path.exists();
        fs::create_dir_all(path)?;
        mount(kind, path, Some(kind), 0, options)?;
        Ok(Self { path: path.to_owned(), is_made })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.path);
        if self.is_made {
            let _ = fs::remove_dir(&self.path);
        }
    }
}

/// Takes a mount away, where there is one.
pub fn unmount(path: &Path) {
    if let Ok(place) = CString::new(path.as_os_str().as_encoded_bytes()) {
        // SAFETY: a string with an end that outlives the call.
        unsafe { libc::umount2(place.as_ptr(), libc::MNT_DETACH) };
    }
}

/// Namespaces that no process is in, for as long as this is kept.
pub struct Namespaces(Vec<(&'static str, File)>);

impl Namespaces {
    /// Network, and for a whole pod IPC and UTS.
    pub fn new(is_pod: bool) -> Result<Self> {
        let made = std::thread::spawn(move || {
            let kinds: &[(&str, &str)] =
                if is_pod { &[("network", "net"), ("ipc", "ipc"), ("uts", "uts")] } else { &[("network", "net")] };
            let more = if is_pod { libc::CLONE_NEWIPC | libc::CLONE_NEWUTS } else { 0 };
            unshare(libc::CLONE_NEWNET | more)?;
            let open = |(kind, file): &(&'static str, &str)| -> Result<(&'static str, File)> {
                Ok((*kind, File::open(format!("/proc/thread-self/ns/{file}"))?))
            };
            kinds.iter().map(open).collect::<Result<Vec<_>>>()
        });
        Ok(Self(made.join().ok().context("the thread panicked")??))
    }

    /// Kind as OCI calls it, and a path that leads there while this process runs.
    pub fn paths(&self) -> impl Iterator<Item = (&'static str, String)> {
        let own = std::process::id();
        self.0.iter().map(move |(kind, file)| (*kind, format!("/proc/{own}/fd/{}", file.as_raw_fd())))
    }
}

/// Removes control groups that others' programs leave, and ends what is in them.
pub fn remove_groups(name: &str) {
    let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap_or_default();
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        if let [_, target, "cgroup" | "cgroup2", ..] = fields[..] {
            remove_group(&Path::new(target).join(name));
        }
    }
}

fn remove_group(group: &Path) {
    for inner in fs::read_dir(group).into_iter().flatten().flatten() {
        if inner.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_group(&inner.path());
        }
    }
    for pid in fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines() {
        pid.parse().into_iter().for_each(|pid| testkit::program::signal(pid, libc::SIGKILL));
    }
    let _ =
        testkit::wait::eventually(
            "an empty control group",
            std::time::Duration::from_secs(5),
            || match fs::remove_dir(group) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.to_string()),
                _ => Ok(()),
            },
        );
}
