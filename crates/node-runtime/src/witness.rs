//! What is done when a file of a container cannot be believed.
//!
//! A flash loses and flips bytes, and a power cut leaves files empty. A damaged file must neither keep its pod from being
//! started again nor let the next attempt run beside the last one. So each file has a second witness: a shim has the name of
//! its state directory in its command line, and what it has started is in a control group whose name is the container's. Both
//! are killed, the directory is kept aside for people, and the attempt is listed as one that nobody saw end.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use node_shim::{
    ContainerId, ContainerSpec, ExitRecord, PodRef,
    cgroup::Hierarchy,
    state::{Launch, STATE_VERSION, StateDir},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    process::{Pid, PidfdFlags, Signal},
};

use crate::{ProcessConfig, supervisor::INSTANCE_MARKER};

/// Directories that are kept for people. More would fill the disk that may be the cause.
const KEPT_MAX: usize = 16;

/// Names of those directories.
const KEPT: &str = ".bad-";

/// A shim that does not end when it is killed hangs in the kernel. Its container then may, too.
const KILL_WAIT_MAX: Duration = Duration::from_secs(5);

/// More than any path.
const COMMAND_LINE_BYTES_MAX: u64 = 8192;

/// The container that a state directory's name means. Neither uid nor name of a container has a `_`.
pub(crate) fn id_of(name: &str) -> Option<ContainerId> {
    let mut parts = name.split('_');
    let (Some(uid), Some(container), Some(attempt), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    let id = ContainerId { pod_uid: uid.to_owned(), container: container.to_owned(), attempt: attempt.parse().ok()? };
    (id.to_string() == name && !uid.is_empty() && !container.is_empty()).then_some(id)
}

/// Kills everything of a container whose files are damaged, and closes its attempt. What is returned is on disk as well, unless the
/// disk takes no file: the next agent then does the same again.
pub(crate) fn retire(
    root: &Path,
    config: &ProcessConfig,
    id: &ContainerId,
    damage: &io::Error,
) -> (Launch, ExitRecord) {
    let dir = StateDir::new(root, id);
    kill(root, config, id);
    let launch = dir.record().ok().filter(|launch| launch.spec.id() == *id).unwrap_or_else(|| unknown(config, id));
    let record = ExitRecord::unknown(
        &format!("its state could not be read ({damage}); what may have run of it was killed"),
        None,
    );
    let kept = keep_aside(root, dir.path()).and_then(|()| dir.create(root, &launch)).and_then(|is_new| {
        let is_there = || io::Error::other("its state directory is there again");
        is_new.then_some(()).ok_or_else(is_there).and_then(|()| dir.write_exit(&record))
    });
    if let Err(error) = kept {
        tracing::error!(%id, %error, "Failed to put a damaged container aside; the next start tries again.");
    }
    (launch, record)
}

/// Kills a container by its witnesses alone.
pub(crate) fn kill(root: &Path, config: &ProcessConfig, id: &ContainerId) {
    let path = root.join(id.to_string());
    kill_shims(|dir| dir == path);
    let groups = Hierarchy::of_this_process().groups(&config.cgroup_parent, id);
    groups.kill_all();
    groups.remove_all();
}

/// Kills whatever is in the control groups of a pod of which nothing is known (any more).
pub(crate) fn kill_pod(config: &ProcessConfig, uid: &str) {
    let groups = Hierarchy::of_this_process().pod_groups(&config.cgroup_parent, uid);
    if !groups.kill_all() {
        tracing::error!(uid, "Something of a pod cannot be killed; it hangs in the kernel.");
    }
    // A pod that is set up keeps its group until it is removed as a whole.
    if !groups.children().iter().any(|name| name.starts_with(INSTANCE_MARKER)) {
        groups.remove_all();
    }
}

/// Kills the shims below `root` whose state directory was removed: they would report the end of a container into that of
/// another attempt of the same name.
pub(crate) fn kill_orphans(root: &Path) {
    kill_shims(|dir| dir.parent() == Some(root) && !dir.exists());
}

fn kill_shims(is_meant: impl Fn(&Path) -> bool) {
    for (pid, _) in shims().into_iter().filter(|(_, dir)| is_meant(dir)) {
        let Some(pid) = Pid::from_raw(pid) else { continue };
        let Ok(fd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { continue };
        // By now the number may be another process'; this descriptor is of one that is looked at once more.
        if !dir_of(pid.as_raw_nonzero().get()).is_some_and(|dir| is_meant(&dir)) {
            continue;
        }
        let _ = rustix::process::pidfd_send_signal(&fd, Signal::KILL);
        let deadline = Instant::now() + KILL_WAIT_MAX;
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            let timeout = Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos() as _ };
            match rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
                Err(rustix::io::Errno::INTR) => {}
                _ => break,
            }
        }
    }
}

/// Every shim of this machine, and its state directory.
fn shims() -> Vec<(i32, PathBuf)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Some((pid, dir_of(pid)?))).collect()
}

/// As the agent starts them: `selvedge shim <state directory>`. The init process of a container has the same words, and dies
/// with its shim anyway.
fn dir_of(pid: i32) -> Option<PathBuf> {
    let mut line = Vec::new();
    File::open(format!("/proc/{pid}/cmdline")).ok()?.take(COMMAND_LINE_BYTES_MAX).read_to_end(&mut line).ok()?;
    let mut words = line.split(|byte| *byte == 0);
    let (_, word, dir) = (words.next()?, words.next()?, words.next()?);
    let is_shim = word == b"shim" && dir.first() == Some(&b'/');
    is_shim.then(|| PathBuf::from(std::ffi::OsStr::from_bytes(dir)))
}

/// What is listed of a container of which only the name is left.
fn unknown(config: &ProcessConfig, id: &ContainerId) -> Launch {
    Launch {
        version: STATE_VERSION,
        spec: ContainerSpec {
            pod: PodRef { uid: id.pod_uid.clone(), ..PodRef::default() },
            container: id.container.clone(),
            attempt: id.attempt,
            ..ContainerSpec::default()
        },
        program: PathBuf::new(),
        argv: Vec::new(),
        bind_mounts: false,
        files: Vec::new(),
        hidden: Vec::new(),
        cgroup_parent: config.cgroup_parent.clone(),
        isolation: config.isolation,
        image_id: String::new(),
        image: None,
        oci: None,
        namespaces: Vec::new(),
        processes_of: None,
        users: None,
        stop_signal: None,
        private: None,
        boot_id: String::new(),
        log_bytes_max: config.log_bytes_max,
        log_files_max: config.log_files_max,
    }
}

/// Renames a directory to one that is no container's, and removes the oldest of those.
fn keep_aside(root: &Path, dir: &Path) -> io::Result<()> {
    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut kept: Vec<(std::time::SystemTime, PathBuf)> = Vec::new();
    for entry in fs::read_dir(root)?.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(KEPT)) {
        let modified = entry.metadata().and_then(|meta| meta.modified());
        kept.push((modified.unwrap_or(std::time::UNIX_EPOCH), entry.path()));
    }
    kept.sort();
    for (_, path) in kept.iter().take((kept.len() + 1).saturating_sub(KEPT_MAX)) {
        let _ = fs::remove_dir_all(path);
    }
    let aside = (0..).map(|number| root.join(format!("{KEPT}{name}-{number}"))).find(|path| !path.exists());
    fs::rename(dir, aside.ok_or_else(|| io::Error::other("every name is taken"))?)
}

#[cfg(test)]
mod tests;
