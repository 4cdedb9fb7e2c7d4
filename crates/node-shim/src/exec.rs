//! Runs a command inside a container that runs already.
//!
//! A process of its own, because namespaces are entered by single-threaded processes only. It enters control
//! groups and namespaces of the container, forks the command, gives it its time, and passes its exit code on. The
//! command's outputs are this process' stdout and stderr. Its stdin is a socket from the agent: the request comes in by it, and
//! what goes wrong before the command runs goes out by it, so that nothing the command writes can be taken for that.

use std::{
    collections::BTreeMap,
    fs,
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FileType, Mode, OFlags},
    pipe::PipeFlags,
    process::Signal,
    thread::ThreadNameSpaceType,
};
use serde::{Deserialize, Serialize};

use crate::shim::child::{
    Exec, confine_what_is_executed, enter_early, enter_working_dir, environment, find_program, open_agents,
    set_oom_score, wait_for, who,
};
use crate::{
    own_users::UserNamespace,
    shim,
    state::{Launch, OpenFile, StateDir},
    sys,
};

/// Written to the agent when the command was killed for want of time.
pub const TIMED_OUT: &str = "timeout";

/// What is to be run; JSON on stdin.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExecRequest {
    pub program: PathBuf,
    pub argv: Vec<String>,
    pub timeout: Duration,
    /// Opened with the kubelet's rights and handed on from descriptor 3.
    #[serde(default)]
    pub files: Vec<OpenFile>,
    /// For another runtime: `process` of its configuration, which says it all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
}

/// More than any command line the kernel takes.
const REQUEST_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Entered before the command is forked.
const NAMESPACES: [(&str, ThreadNameSpaceType); 5] = [
    ("net", ThreadNameSpaceType::NETWORK),
    ("cgroup", ThreadNameSpaceType::CONTROL_GROUP),
    ("ipc", ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION),
    ("uts", ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME),
    ("pid", ThreadNameSpaceType::PROCESS_ID),
];

/// `shim --exec <state directory>`.
pub(crate) fn run(dir: &StateDir) -> ExitCode {
    match enter_and_run(dir) {
        Ok(code) => ExitCode::from(code),
        Err(message) => {
            complain(&message);
            ExitCode::FAILURE
        }
    }
}

/// An agent that was killed meanwhile does not listen any more.
fn complain(message: &str) {
    if let Ok(control) = io::stdin().as_fd().try_clone_to_owned() {
        let _ = File::from(control).write_all(message.as_bytes());
    }
}

fn enter_and_run(dir: &StateDir) -> Result<u8, String> {
    let explain = |act: &'static str| move |error: io::Error| format!("failed to {act}: {error}");
    let mut request = Vec::new();
    io::stdin().take(REQUEST_BYTES_MAX).read_to_end(&mut request).map_err(explain("read the request"))?;
    let request: ExecRequest =
        serde_json::from_slice(&request).map_err(|error| format!("failed to read the request: {error}"))?;
    let launch = dir.launch().map_err(explain("read launch.json"))?;
    let running = dir.running().map_err(explain("read state.json"))?.ok_or("the container does not run")?;
    if !running.child.exists() {
        return Err("the container does not run".to_owned());
    }
    if let Some(oci) = &launch.oci {
        let (code, _) = sys::decode_status(shim::oci::exec(&launch, oci, &request)?);
        return Ok(u8::try_from(code).unwrap_or(u8::MAX));
    }
    let program = if launch.image.is_none() { open_agents(&request.program)? } else { None };
    sys::Signals::all().block();
    running.cgroups.enter().map_err(explain("enter the container's control groups"))?;
    let of_child = |users| UserNamespace::of_process(running.child.pid, users);
    let users = launch.users.as_ref().map(of_child).transpose()?;
    let mounts =
        enter_namespaces(running.child.pid, users.is_some()).map_err(explain("enter the container's namespaces"))?;
    let pid = sys::fork().map_err(explain("fork"))?;
    if pid == 0 {
        let message = become_command(&launch, &request, mounts.as_ref(), users.as_ref(), program);
        complain(&message);
        sys::exit_now(127);
    }
    let raw_status = wait(pid, request.timeout)?;
    let (code, _) = sys::decode_status(raw_status);
    Ok(u8::try_from(code).unwrap_or(u8::MAX))
}

/// Enters all but the mount namespace, which is answered when it is not ours already: it hides this process' `/proc`,
/// so only the command itself enters it. Where the pod has users of its own, it becomes one of them last: to these belong not all of the
/// others.
fn enter_namespaces(pid: i32, users_last: bool) -> io::Result<Option<File>> {
    let (theirs, ours) = (PathBuf::from(format!("/proc/{pid}/ns")), PathBuf::from("/proc/self/ns"));
    // The ones we are in need no entering, and without rights could not be entered.
    let open = |name: &str| -> io::Result<Option<File>> {
        let same = fs::read_link(theirs.join(name))? == fs::read_link(ours.join(name))?;
        if same { Ok(None) } else { File::open(theirs.join(name)).map(Some) }
    };
    let user = if users_last { None } else { open("user")? };
    let others = NAMESPACES.iter().map(|(name, kind)| Ok((open(name)?, *kind))).collect::<io::Result<Vec<_>>>()?;
    let mounts = open("mnt")?;
    for (file, kind) in std::iter::once((user, ThreadNameSpaceType::USER)).chain(others) {
        if let Some(file) = file {
            rustix::thread::move_into_thread_name_spaces(file.as_fd(), kind)?;
        }
    }
    Ok(mounts)
}

/// Becomes the command; returns only with what went wrong.
fn become_command(
    launch: &Launch,
    request: &ExecRequest,
    mounts: Option<&File>,
    users: Option<&UserNamespace>,
    agents: Option<OwnedFd>,
) -> String {
    let spec = &launch.spec;
    let prepare = || -> Result<(), String> {
        let explain = |error: rustix::io::Errno| format!("failed to start a session: {error}");
        rustix::process::setsid().map_err(explain)?;
        set_oom_score(spec);
        confine_what_is_executed(spec)?;
        let first_free = 3 + request.files.len() as i32;
        let proc = File::open("/proc").map_err(|error| format!("failed to open /proc: {error}"))?;
        let null = if launch.image.is_none() { Some(no_input(&proc)?) } else { None };
        let mut open = Vec::new();
        for file in &request.files {
            let failed = |error: rustix::io::Errno| format!("failed to copy a descriptor: {error}");
            open.push(rustix::io::fcntl_dupfd_cloexec(file.open()?, first_free).map_err(failed)?);
        }
        if let Some(mounts) = mounts {
            rustix::thread::move_into_thread_name_spaces(mounts.as_fd(), ThreadNameSpaceType::MOUNT)
                .map_err(|error| format!("failed to enter the container's mounts: {error}"))?;
        }
        let null =
            rustix::io::fcntl_dupfd_cloexec(null.map_or_else(|| no_input(&proc), Ok)?, first_free).map_err(explain)?;
        sys::join_new_session_keyring().map_err(|error| format!("failed to make a session keyring: {error}"))?;
        let who = who(launch)?;
        if launch.image.is_some() {
            who.own_outputs([io::stdout().as_fd(), io::stderr().as_fd()], users);
        }
        if let Some(users) = users {
            who.check_within(users)?;
            users.enter()?;
        }
        let is_there = enter_early(launch)?;
        who.assume(spec)?;
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(explain)?;
        if !is_there {
            enter_working_dir(spec)?;
        }
        let env = environment(spec, &who);
        let mut exec = Exec::new(&find_program(launch, &request.program, &env)?, &request.argv, &env)?;
        exec.file =
            agents.map(|file| rustix::io::fcntl_dupfd_cloexec(file, first_free)).transpose().map_err(explain)?;
        for (fd, target) in open.iter().zip(3..) {
            sys::duplicate_to(fd.as_fd(), target)
                .map_err(|error| format!("failed to hand a descriptor on: {error}"))?;
        }
        sys::close_on_exec_from(first_free as u32);
        // Errors from here on can only be those of the exec itself, which names its program.
        let keep = rustix::io::fcntl_dupfd_cloexec(io::stdin(), first_free).map_err(explain)?;
        sys::duplicate_to(null.as_fd(), 0).map_err(|error| format!("failed to close the command's input: {error}"))?;
        sys::default_signals();
        let error = exec.run();
        let _ = sys::duplicate_to(keep.as_fd(), 0);
        Err(format!("failed to run {}: {error}", request.program.display()))
    };
    prepare().err().unwrap_or_default()
}

/// Something that has nothing to read. In a container of an image it is the container's: its root could change the mode of the node's.
/// There `/dev/null` may be anything by now, and something else in its place is not even opened. `proc` is the node's.
fn no_input(proc: &File) -> Result<OwnedFd, String> {
    let found = rustix::fs::open("/dev/null", OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    let is_null = |file: &OwnedFd| {
        let number = rustix::fs::makedev(1, 3);
        rustix::fs::fstat(file)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_char_device() && stat.st_rdev == number)
    };
    match found.ok().filter(is_null) {
        Some(null) => {
            let by_descriptor = format!("self/fd/{}", null.as_raw_fd());
            let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
            rustix::fs::openat(proc, by_descriptor, flags, Mode::empty())
                .map_err(|error| format!("failed to set up the input: {error}"))
        }
        None => rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
            .map(|(reader, _)| reader)
            .map_err(|error| format!("failed to make an input: {error}")),
    }
}

fn wait(pid: i32, timeout: Duration) -> Result<i32, String> {
    let explain = |error: io::Error| format!("failed to wait for the command: {error}");
    let deadline = Instant::now() + timeout;
    let signals = sys::Signals::of(&[libc::SIGCHLD, libc::SIGTERM]);
    loop {
        if let Some(ended) = sys::reap(false).map_err(explain)? {
            return Ok(ended.raw_status);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let signal = signals.wait(Some(left)).map_err(explain)?;
        if signal == Some(libc::SIGTERM) || Instant::now() >= deadline {
            sys::kill_group(pid, libc::SIGKILL);
            sys::kill(pid, libc::SIGKILL);
            wait_for(pid).map_err(explain)?;
            return Err(TIMED_OUT.to_owned());
        }
    }
}

/// The variable by which a command is looked up in a container.
pub fn search_path(env: &BTreeMap<String, String>) -> &str {
    env.get("PATH").map_or(crate::shim::child::PATH_DEFAULT, String::as_str)
}
