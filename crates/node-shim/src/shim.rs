//! The shim: one small process per container, its parent and the only one that sees it end.
//!
//! # What it is held to
//!
//! - A container outlives the agent: an upgrade, a crash or the kernel taking the agent for its memory is nothing that the
//!   machine behind the container may notice.
//! - Nothing runs unobserved: the container dies with its shim (parent-death signal, and its pid namespace with its init).
//! - Nothing starts twice, whoever dies between which two steps.
//! - No end is lost: exit code and signal are on disk before the shim is, also on a full one.
//! - Whatever the container can write to is hostile: volumes, its termination message, its share of `/proc`.
//! - It costs next to nothing: one thread, no async runtime, no relocation, a tenth of a megabyte with its init.
//!
//! # Who talks to whom
//!
//! ```text
//!  agent ──exec──▶ starter ──fork──▶ shim ──fork──▶ init (pid 1 of the container) ──fork──▶ program
//!    │  stderr: why not   ▲   pipe: ok │ ▲  status: notices, error, "exec"  │                  │
//!    │                    └────────────┘ └── result: raw wait status ───────┘                  │
//!    │                                   └── stdout, stderr: pipes, lines, log ◀───────────────┘
//!    └──▶ state directory ◀── launch.json, state.json, exit.json (and it is the lock)
//! ```
//!
//! The agent executes the starter, which forks the shim, waits for its word and ends: the shim is nobody's child then. Agent
//! and shim know of each other by files alone (`state`), so neither has to wait for the other, and an agent of another version
//! finds what it needs. In a pid namespace the first process is a copy of the shim (`child::init`), since programs do not
//! reap orphans and do not expect that signals without a handler are ignored.
//!
//! # A container's life
//!
//! ```text
//!   (none) ──create──▶ spent ──lock──▶ held ──state.json──▶ recorded ──begin──▶ running ──▶ ended ──exit.json──▶ closed
//! ```
//!
//! | step | who | if the one who does it dies right after |
//! | --- | --- | --- |
//! | directory with `launch.json` | agent | the next agent takes the lock and closes the attempt: it never ran |
//! | environment into memory | agent | as above |
//! | lock taken | shim | as above; a shim that comes late finds `exit.json` and ends |
//! | space for the exit record | shim | as above |
//! | control groups | shim | as above; the agent removes the groups, whose names it knows |
//! | child forked, waits for a byte | shim | the child reads the end of the pipe and exits; nothing of the program has run |
//! | `state.json` | shim | the agent kills by it: process, then group |
//! | the byte | shim | the child dies with its parent (signal set before it read), and its pid namespace with it |
//! | control groups entered | child | as above: nothing of the program has run |
//! | "exec" said, program runs | child | its end is what the shim waits for |
//! | program ended, rest killed | shim | the record says that nobody saw it end: the code is lost with the shim alone |
//! | `exit.json` by rename, synced; in memory where the disk takes none | shim | closed; the agent reads it whenever it comes |
//!
//! The lock is what decides between "starts late" and "given up": only its holder writes `exit.json`, and a shim that has taken
//! it looks first whether one is there. It is released by the kernel with the last process that holds it, and no child does
//! (`child::close_copy`).
//!
//! Two things are not durable on purpose: `state.json`, of which nothing is true after a reboot, and the environment, which is in
//! memory so that a stolen flash holds no Secret. `launch.json` names the boot, so an empty `state.json` after a power cut is no
//! damage. What is done when a file is damaged all the same is in `node-runtime`, `witness`.
//!
//! # What the program gets
//!
//! In this order, each step using rights that a later one takes: namespaces and the view of the files (`mounts`, `confine`) in
//! init, before the program's process exists; then, in that process, session, score, descriptors of volumes, and user,
//! capabilities and filter (`rights`); working directory, outputs, exec. From the filter on nothing is opened by name but the
//! program. Commands run in a container (`exec`) enter its groups and namespaces and take the same last steps.
//!
//! # What ends it
//!
//! SIGCHLD for the child, and SIGTERM, SIGINT and SIGHUP, which a machine that goes down sends to everything: they are handed
//! to the program as SIGTERM. An error that a sound kernel does not give while waiting ends the container, since it would be
//! unobserved. After the program everything in its group is killed and reaped (the shim is a subreaper), the outputs are read
//! to their ends, the groups are removed, and last of all the record is written, for up to a minute on a disk that refuses.
//!
//! # Where to start reading
//!
//! [`main`], `run`, `launch`, `fork_child`; then `child::run_init` and `child::program`; then `Container::supervise`.

pub(crate) mod child;
mod confine;
mod mounts;
pub(crate) mod oci;
mod root;
mod terminal;

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::OpenOptionsExt, net::UnixStream},
    },
    path::Path,
    process::ExitCode,
    time::Duration,
};

pub use self::{
    confine::{MASKED, READ_ONLY},
    oci::USER_SLOT,
};

use jiff::Timestamp;
use rustix::{
    event::{PollFd, PollFlags},
    fs::OFlags,
    pipe::PipeFlags,
};

use self::child::Processes;
use crate::{
    ExitReason, ExitRecord, FileLock, Isolation,
    cgroup::{CgroupPaths, Hierarchy},
    exec,
    logfile::{Lines, LogFile, Stream},
    own_users::{self, UserNamespace},
    reaper,
    state::{Launch, Process, Running, STATE_VERSION, StateDir},
    sys::{self, Ended},
};

/// Said to the runtime through the pipe when the program runs.
const READY: &[u8] = b"ok";

/// As containerd's shims: the witness goes last when memory is short. The program gets the usual 0 back.
const OOM_SCORE_SHIM: &str = "-998";

/// What a pod's status may hold of a termination message.
const TERMINATION_MESSAGE_BYTES_MAX: u64 = 4096;

/// What of a log may take the place of a termination message, as kubelets have it.
const FALLBACK_LINES_MAX: usize = 80;
const FALLBACK_BYTES_MAX: usize = 2048;

/// `<state directory>` starts a container and ends when its program runs, leaving the shim behind;
/// `--exec <state directory>` runs a command in it; `--reap` starts the first process of a pod's pid namespace; `--namespaces` makes
/// those of a pod with users of its own.
///
/// Must be called before the process has started any thread.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    // Executed by its descriptor, its name would be a number.
    let _ = rustix::thread::set_name(c"selvedge-shim");
    // The node's own files are nobody else's; a container begins with the mask that every engine gives it.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let args: Vec<OsString> = args.into_iter().collect();
    let result = match args.as_slice() {
        [flag, dir] if flag == OsStr::new("--exec") => return exec::run(&StateDir::at(dir)),
        [flag] if flag == OsStr::new(reaper::FLAG) => return reaper::start(),
        [flag, args @ ..] if flag == OsStr::new(own_users::FLAG) => return own_users::make(args),
        [dir] => start(&StateDir::at(dir)),
        _ => Err("this program is run by the node itself: shim [--exec] <state directory>, or --reap".to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// Forks the shim off and waits for its word.
fn start(dir: &StateDir) -> Result<(), String> {
    let (ready_rx, ready_tx) = pipe().map_err(|error| format!("failed to make a pipe: {error}"))?;
    match sys::fork().map_err(|error| format!("failed to fork: {error}"))? {
        0 => {
            drop(ready_rx);
            run(dir, File::from(ready_tx));
            sys::exit_now(0)
        }
        _ => {
            drop(ready_tx);
            let mut answer = Vec::new();
            let read = File::from(ready_rx).take(4096).read_to_end(&mut answer);
            match read {
                Ok(_) if answer == READY => Ok(()),
                Ok(0) => Err("the shim ended without a word".to_owned()),
                Ok(_) => Err(String::from_utf8_lossy(&answer).into_owned()),
                Err(error) => Err(format!("failed to hear from the shim: {error}")),
            }
        }
    }
}

/// The shim's whole life.
fn run(dir: &StateDir, mut ready: File) {
    let prepared = detach().map_err(|error| format!("failed to detach from the kubelet: {error}"));
    // Held until this process ends.
    let lock = match prepared.and_then(|()| take_identity(dir)) {
        Ok(lock) => lock,
        Err(message) => {
            let _ = ready.write_all(message.as_bytes());
            return;
        }
    };
    match launch(dir, &[lock.file(), &ready]) {
        Ok(container) => {
            // A kubelet that was killed meanwhile does not listen any more.
            let _ = ready.write_all(READY);
            drop(ready);
            container.supervise(dir);
        }
        Err(message) => {
            write_exit(dir, &ExitRecord::start_error(&message));
            let _ = ready.write_all(message.as_bytes());
        }
    }
    drop(lock);
}

fn detach() -> io::Result<()> {
    rustix::process::setsid()?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    env::set_current_dir("/")?;
    // Only root may lower it; without, the shim is as likely to be killed as its program.
    let _ = fs::write("/proc/self/oom_score_adj", OOM_SCORE_SHIM);
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    (0..3).try_for_each(|target| sys::duplicate_to(null.as_fd(), target))?;
    sys::Signals::all().block();
    Ok(())
}

/// Takes the lock and makes sure that this identity has never been started.
fn take_identity(dir: &StateDir) -> Result<FileLock, String> {
    let unreadable = |error: io::Error| format!("failed to read {}: {error}", dir.path().display());
    let lock = dir.lock().map_err(unreadable)?;
    if dir.exit().map_err(unreadable)?.is_some() || dir.running().map_err(unreadable)?.is_some() {
        return Err("this attempt was started before".to_owned());
    }
    Ok(lock)
}

/// A container whose program runs.
struct Container {
    launch: Launch,
    running: Running,
    log: LogFile,
    outputs: [Option<Output>; 2],
    signals: OwnedFd,
    /// The init process says here how the program ended.
    result: File,
    /// The other end of the program's input, which stays open as long as it runs.
    _input: Option<OwnedFd>,
}

struct Output {
    pipe: File,
    lines: Lines,
}

/// `own` are files that the child must not keep open: a copy would outlive the shim, or hold its answer back.
fn launch(dir: &StateDir, own: &[&File]) -> Result<Container, String> {
    let explain = |act: &'static str| move |error: io::Error| format!("failed to {act}: {error}");
    let launch = dir.launch().map_err(explain("read launch.json"))?;
    dir.reserve_exit().map_err(explain("reserve disk space for the exit record"))?;
    let log = LogFile::open(&launch.spec.log_path(), launch.log_bytes_max, launch.log_files_max)
        .map_err(explain("open the container's log"))?;
    let mut notices = Vec::new();
    let cgroups = make_cgroups(&launch, &mut notices)?;
    let of_another = launch.oci.is_some().then(|| launch.clone());
    let made = match &of_another {
        Some(_) => oci::launch(dir, launch, log, cgroups.clone(), notices),
        None => fork_child(dir, own, launch, log, cgroups.clone(), notices),
    };
    match made {
        Ok(container) => Ok(container),
        Err(message) => {
            cgroups.kill_all();
            end_children();
            of_another.iter().for_each(oci::delete);
            cgroups.remove();
            Err(message)
        }
    }
}

fn make_cgroups(launch: &Launch, notices: &mut Vec<String>) -> Result<CgroupPaths, String> {
    let limits = &launch.spec.limits;
    match Hierarchy::of_this_process().create(&launch.cgroup_parent, &launch.spec) {
        Ok(paths) if launch.image.is_some() && !launch.spec.security.privileged => match paths.guard_devices() {
            Ok(()) => Ok(paths),
            Err(error) => {
                paths.remove();
                Err(format!("failed to keep the node's devices from the container: {error}"))
            }
        },
        Ok(paths) => Ok(paths),
        Err(error) if launch.image.is_some() => Err(format!("images need control groups: {error}")),
        Err(error) if limits.any() => Err(format!(
            "failed to set the container's limits: {error}; remove `resources.limits`, or run the node as root with \
             control groups mounted"
        )),
        Err(error) => {
            notices.push(format!("no control group: {error}"));
            Ok(CgroupPaths::default())
        }
    }
}

fn fork_child(
    dir: &StateDir,
    own: &[&File],
    launch: Launch,
    log: LogFile,
    cgroups: CgroupPaths,
    mut notices: Vec<String>,
) -> Result<Container, String> {
    let explain = |act: &'static str| move |error: io::Error| format!("failed to {act}: {error}");
    let pipe = || pipe().map_err(explain("make a pipe"));
    let (stdout_rx, stdout_tx) = pipe()?;
    let (stderr_rx, stderr_tx) = pipe()?;
    let (status_rx, status_tx) = pipe()?;
    let (result_rx, result_tx) = pipe()?;
    let (begin_rx, begin_tx) = pipe()?;
    let (terminal_rx, terminal_tx) = UnixStream::pair().map_err(explain("make a pair of sockets"))?;
    let (input_rx, input_tx) = pipe()?;
    let signals = sys::Signals::of(&[libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP]);
    let signals = signals.descriptor().map_err(explain("make a signal descriptor"))?;
    let processes = enter_processes(&launch, &mut notices)?;

    let program = if launch.image.is_none() { child::open_agents(&launch.program)? } else { None };
    let staging = dir.staging().map_err(explain("make a place for mounts"))?;
    let users = launch.users.as_ref().map(UserNamespace::open).transpose()?;
    if let Some(image) = &launch.image {
        root::make_upper(dir.path(), image, users.as_ref())?;
    }

    let pid = sys::fork().map_err(explain("fork"))?;
    if pid == 0 {
        own.iter().for_each(|file| child::close_copy(file));
        drop((stdout_rx, stderr_rx, status_rx, result_rx, begin_tx, signals, terminal_rx, input_tx));
        let ends = child::Ends {
            stdout: stdout_tx,
            stderr: stderr_tx,
            status: File::from(status_tx),
            result: File::from(result_tx),
            program,
            go: File::from(begin_rx),
            terminal: terminal_tx,
            input: input_rx,
            cgroups,
        };
        let places = root::Places { staging: &staging, state: dir.path(), users: users.as_ref() };
        child::run(&launch, &places, processes, ends);
    }
    drop((stdout_tx, stderr_tx, status_tx, result_tx, begin_rx, program, terminal_tx, input_rx));

    let me = rustix::process::getpid().as_raw_nonzero().get();
    let processes = Process::of(me).and_then(|shim| Ok((shim, Process::of(pid)?)));
    let (shim, child) = processes.map_err(explain("read /proc"))?;
    let started_at = Timestamp::now();
    let stop_signal = launch.stop_signal;
    let mut running =
        Running { version: STATE_VERSION, shim, child, stop_signal, started_at, cgroups, notices: notices.clone() };
    dir.write_running(&running).map_err(explain("write state.json"))?;
    File::from(begin_tx).write_all(b"g").map_err(explain("start the program"))?;
    child::read_status(File::from(status_rx), &mut notices)?;
    if notices != running.notices {
        running.notices = notices;
        // The notices are for people; the container runs well without them.
        let _ = dir.write_running(&running);
    }
    let output = |pipe: OwnedFd, stream| -> Result<Option<Output>, String> {
        rustix::fs::fcntl_setfl(&pipe, OFlags::NONBLOCK)
            .map_err(|error| format!("failed to set up a pipe: {error}"))?;
        Ok(Some(Output { pipe: File::from(pipe), lines: Lines::new(stream) }))
    };
    let stdout_rx = if launch.spec.tty { terminal::receive(&terminal_rx)? } else { stdout_rx };
    let outputs = [output(stdout_rx, Stream::Stdout)?, output(stderr_rx, Stream::Stderr)?];
    let input = launch.spec.stdin.then_some(input_tx);
    Ok(Container { launch, running, log, outputs, signals, result: File::from(result_rx), _input: input })
}

/// Decides whose processes the next fork is among.
fn enter_processes(launch: &Launch, notices: &mut Vec<String>) -> Result<Processes, String> {
    if let Some(of) = &launch.processes_of {
        child::enter_pid_namespace(of)
            .map_err(|error| format!("failed to enter the pid namespace of process {}: {error}", of.pid))?;
        return Ok(Processes::Shared);
    }
    if launch.spec.host_pid || (launch.isolation == Isolation::None && launch.image.is_none()) {
        return Ok(Processes::OfNode);
    }
    match child::new_pid_namespace() {
        Ok(()) => Ok(Processes::Own),
        Err(error) => {
            notices.push(format!("no namespaces: {error}"));
            Ok(Processes::OfNode)
        }
    }
}

impl Container {
    fn supervise(mut self, dir: &StateDir) {
        let raw_status = loop {
            match self.step() {
                Ok(Some(raw_status)) => break raw_status,
                Ok(None) => {}
                // Nothing here fails on a sound kernel. Without its witness the container must not continue.
                Err(error) => {
                    let message = format!("the shim failed to wait: {error}");
                    self.end(dir, |started| ExitRecord::unknown(&message, Some(started)));
                    return;
                }
            }
        };
        let mut from_init = [0; 4];
        let raw_status = match self.result.read_exact(&mut from_init) {
            Ok(()) => i32::from_ne_bytes(from_init),
            // There was no init process, or it was killed together with the program.
            Err(_) => raw_status,
        };
        let oom_killed = self.running.cgroups.oom_killed();
        let message = self.launch.spec.termination_message.as_deref().map(termination_message).unwrap_or_default();
        self.end(dir, |started| exit_record(raw_status, oom_killed, message, started));
    }

    /// Waits for something to happen and handles it; answers the child's raw status when that has ended.
    fn step(&mut self) -> io::Result<Option<i32>> {
        let (ready, signalled) = {
            let mut fds: Vec<PollFd<'_>> = vec![PollFd::new(&self.signals, PollFlags::IN)];
            fds.extend(self.outputs.iter().flatten().map(|output| PollFd::new(&output.pipe, PollFlags::IN)));
            match rustix::event::poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            (fds[1..].iter().any(|fd| !fd.revents().is_empty()), !fds[0].revents().is_empty())
        };
        if ready {
            self.read_outputs();
        }
        if signalled { self.take_signals() } else { Ok(None) }
    }

    /// One read of each output, so that neither starves the other.
    fn read_outputs(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        let mut lines = Vec::new();
        let now = Timestamp::now();
        let mut any = false;
        for slot in &mut self.outputs {
            let Some(output) = slot else { continue };
            match output.pipe.read(&mut buffer) {
                Ok(0) => {
                    output.lines.finish(now, &mut lines);
                    *slot = None;
                }
                Ok(bytes) => {
                    any = true;
                    output.lines.push(&buffer[..bytes], now, &mut lines);
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(_) => *slot = None,
            }
        }
        self.log.write(&lines, now);
        any
    }

    fn take_signals(&mut self) -> io::Result<Option<i32>> {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        while let Ok(bytes) = rustix::io::read(&self.signals, &mut info) {
            let signal = i32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
            if bytes == info.len() && signal != libc::SIGCHLD {
                // The machine goes down: the program gets to know as well.
                sys::kill(self.running.child.pid, self.running.stop_signal());
            }
        }
        while let Some(Ended { pid, raw_status }) = sys::reap(false)? {
            if pid == self.running.child.pid {
                return Ok(Some(raw_status));
            }
        }
        Ok(None)
    }

    fn end(mut self, dir: &StateDir, record: impl FnOnce(Timestamp) -> ExitRecord) {
        let mut record = record(self.running.started_at);
        self.running.cgroups.kill_all();
        end_children();
        while self.read_outputs() {}
        let now = Timestamp::now();
        let mut lines = Vec::new();
        self.outputs.iter_mut().flatten().for_each(|output| output.lines.finish(now, &mut lines));
        self.log.write(&lines, now);
        oci::delete(&self.launch);
        self.running.cgroups.remove();
        if self.launch.spec.termination_message_from_log && record.message.is_empty() && record.exit_code != 0 {
            record.message = self.log.tail(FALLBACK_LINES_MAX, FALLBACK_BYTES_MAX);
        }
        write_exit(dir, &record);
    }
}

fn exit_record(raw_status: i32, oom_killed: bool, message: String, started_at: Timestamp) -> ExitRecord {
    let (exit_code, signal) = sys::decode_status(raw_status);
    let reason = match exit_code {
        0 => ExitReason::Completed,
        // A program that reports its killed helper with 137 ran out of memory as well.
        137 if oom_killed => ExitReason::OomKilled,
        _ => ExitReason::Error,
    };
    let finished_at = Timestamp::now();
    ExitRecord { version: STATE_VERSION, exit_code, signal, reason, message, started_at: Some(started_at), finished_at }
}

/// The file is the program's to write: a link in its place could name any file of the node, a pipe would never end.
fn termination_message(path: &Path) -> String {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let Ok(file) = file else { return String::new() };
    let mut text = Vec::new();
    if file.metadata().is_ok_and(|meta| meta.is_file()) {
        let _ = file.take(TERMINATION_MESSAGE_BYTES_MAX).read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Kills everything that is still below this process, grandchildren that became children among them.
fn end_children() {
    let me = rustix::process::getpid().as_raw_nonzero().get();
    loop {
        match sys::reap(false) {
            // There are none, as a rule. To look for them is to read about every process of the machine.
            Err(_) => return,
            Ok(Some(_)) => continue,
            Ok(None) => {}
        }
        for pid in children_of(me) {
            sys::kill(pid, libc::SIGKILL);
        }
        if sys::reap(true).is_err() {
            return;
        }
    }
}

fn children_of(parent: i32) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        fields.split_whitespace().nth(1).and_then(|field| field.parse().ok()) == Some(parent)
    })
    .collect()
}

/// Tries for a minute: a record that cannot be written makes a sound exit an unknown one.
fn write_exit(dir: &StateDir, record: &ExitRecord) {
    for _ in 0..60 {
        if dir.write_exit(record).is_ok() || !dir.path().exists() {
            return;
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?)
}
