//! The first process of a pid namespace that all containers of a pod share (`shareProcessNamespace`).
//!
//! The kernel ends such a namespace with its first process, so that one must be nobody's container: it lives as long as the pod, adopts
//! what containers leave behind and reaps it. It is this program, and no image is needed for it.
//!
//! ```text
//!  agent ──exec──▶ starter ──fork──▶ reaper (pid 1 of the pod)
//!    │ stdin: ReaperRequest │ pipe: "ok", or why not │
//!    └◀── stdout: Process ──┘◀───────────────────────┘
//! ```
//!
//! Every container of the pod sees it, root in a privileged one may look behind it (`/proc/1/root`, `/proc/1/fd`) and trace it. So it
//! keeps nothing of the node: its root is an empty directory, it has no descriptor, no capability, no user that anyone else has, and a
//! filter for system calls. Signals from inside the pod do not reach it. It is in the control group of the pod's instance, and is killed
//! with that.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::AsFd,
    process::ExitCode,
};

use node_seccomp::{Arch, CapabilitySet, Threads};
use rustix::{
    mount::{MountFlags, MountPropagationFlags, UnmountFlags},
    pipe::PipeFlags,
    thread::UnshareFlags,
};
use serde::{Deserialize, Serialize};

use crate::{
    NamespaceRef,
    cgroup::CgroupPaths,
    shim::child::{join, unshare},
    state::Process,
    sys,
};

/// Version of [`ReaperRecord`].
pub const REAPER_VERSION: u32 = 1;

/// The argument by which the program becomes one.
pub const FLAG: &str = "--reap";

/// Said by the reaper when nothing of the node is left to it.
const READY: &[u8] = b"ok";

/// Some paths.
const REQUEST_BYTES_MAX: u64 = 64 * 1024;

/// As the pause container of other runtimes: it goes last when memory is short.
const OOM_SCORE: &str = "-998";

/// Nobody's: the user that pause images have.
const USER: u32 = 65535;

/// What a reaper is started with; JSON on stdin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReaperRequest {
    /// Those of the pod's instance.
    pub cgroups: CgroupPaths,
    /// The pod's other namespaces.
    pub namespaces: Vec<NamespaceRef>,
}

/// What is kept of a reaper, in memory: it is of no use after a reboot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReaperRecord {
    /// [`REAPER_VERSION`].
    pub version: u32,
    /// The reaper as the node sees it.
    pub process: Process,
}

/// `shim --reap`: starts one, and ends when it is ready.
pub(crate) fn start() -> ExitCode {
    match fork_reaper().and_then(|process| report(&process)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn report(process: &Process) -> Result<(), String> {
    let text = serde_json::to_vec(process).map_err(|error| format!("failed to report the process: {error}"))?;
    io::stdout().write_all(&text).map_err(|error| format!("failed to report the process: {error}"))
}

fn fork_reaper() -> Result<Process, String> {
    let explain = |act: &'static str| move |error: io::Error| format!("failed to {act}: {error}");
    let mut request = Vec::new();
    io::stdin().take(REQUEST_BYTES_MAX).read_to_end(&mut request).map_err(explain("read the request"))?;
    let request: ReaperRequest =
        serde_json::from_slice(&request).map_err(|error| format!("failed to read the request: {error}"))?;
    // Only root may lower it.
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    request.cgroups.enter().map_err(explain("enter the pod's control groups"))?;
    join(&request.namespaces)?;
    let (said, ready) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|error| format!("failed to make a pipe: {error}"))?;
    unshare(UnshareFlags::NEWPID).map_err(explain("make a pid namespace"))?;
    let pid = sys::fork().map_err(explain("fork"))?;
    if pid == 0 {
        drop(said);
        become_reaper(File::from(ready));
    }
    drop(ready);
    let process = Process::of(pid).map_err(explain("read /proc"))?;
    let mut answer = Vec::new();
    File::from(said).take(4096).read_to_end(&mut answer).map_err(explain("hear from the first process"))?;
    match answer.as_slice() {
        READY => Ok(process),
        [] => Err("the first process of the pod died before it was ready".to_owned()),
        why => Err(String::from_utf8_lossy(why).into_owned()),
    }
}

fn become_reaper(mut ready: File) -> ! {
    match confine(&ready) {
        // From here on there is no other descriptor.
        Ok(()) => {
            let is_heard = ready.write_all(READY).is_ok();
            drop(ready);
            if is_heard {
                reap_for_ever();
            }
        }
        Err(message) => drop(ready.write_all(message.as_bytes())),
    }
    sys::exit_now(1)
}

/// Gives up everything of the node but `ready`.
fn confine(ready: &File) -> Result<(), String> {
    let explain = |act: &'static str| move |error: io::Error| format!("failed to {act}: {error}");
    let failed = |act: &'static str| move |error: rustix::io::Errno| format!("failed to {act}: {error}");
    let _ = rustix::thread::set_name(c"selvedge-reaper");
    sys::Signals::all().block();
    rustix::process::setsid().map_err(failed("start a session"))?;
    unshare(UnshareFlags::NEWNS | UnshareFlags::NEWCGROUP).map_err(explain("make namespaces"))?;
    empty_root().map_err(failed("enter an empty root"))?;
    sys::close_all_but(ready.as_fd()).map_err(explain("close what is open"))?;
    sys::join_new_session_keyring().map_err(explain("make a session keyring"))?;
    sys::keep_capabilities_within_reach(0).map_err(explain("drop capabilities"))?;
    sys::become_user(Some(USER), Some(USER), &[]).map_err(explain("become another user"))?;
    sys::keep_capabilities(0).map_err(explain("give capabilities up"))?;
    rustix::thread::set_no_new_privs(true).map_err(failed("give up new privileges"))?;
    sys::deny_tracing().map_err(explain("keep others from tracing it"))?;
    let Some(arch) = Arch::NATIVE else { return Ok(()) };
    match node_seccomp::load(&node_seccomp::runtime_default(arch, CapabilitySet(0)), Threads::This) {
        // A kernel without filters: containers on it have none either, unless they ask for none.
        Ok(()) | Err(libc::ENOSYS) => Ok(()),
        Err(number) => Err(explain("load the filter for system calls")(io::Error::from_raw_os_error(number))),
    }
}

/// Nothing is in it, and nothing can be put into it.
fn empty_root() -> rustix::io::Result<()> {
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    // Any directory that is there will do, since it is covered in this view only.
    let place = "/proc";
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("none", place, "tmpfs", flags, c"mode=555,size=4k,nr_inodes=2")?;
    rustix::process::chdir(place)?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")
}

fn reap_for_ever() -> ! {
    let ended = sys::Signals::of(&[libc::SIGCHLD]);
    loop {
        // An error means that there is nothing to reap, or never anything else than to wait again.
        let _ = ended.wait(None);
        while let Ok(Some(_)) = sys::reap(false) {}
    }
}
