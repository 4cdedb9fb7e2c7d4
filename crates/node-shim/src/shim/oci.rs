//! A container that another program makes: any with the command line of runc (`create`, `start`, `exec`, `delete`).
//!
//! The shim stays what it is: it makes the control groups, owns pipes and log, waits, and writes the record. Instead of entering
//! the image itself it mounts it in a mount namespace of its own, which nobody else sees and the kernel takes away with the shim,
//! and lets the runtime make the container there. Whatever dies when, no mount is left.
//!
//! ```text
//! <launch dir>/oci/<pod uid>_<container>_<attempt>/     in memory: the environment is in it
//!   config.json   by the agent; the shim puts the user in, whom only the image's files name
//!   rootfs        here the shim has the image mounted; to others it is an empty directory
//!   volumes/<n>   the same for the nth mount: opened by descriptor, so the runtime follows no link of a container's
//!   pid, log      by the runtime
//!   state/        the runtime's own
//!   exec-<pid>.*  of commands that are run
//! ```
//!
//! | step | if the shim dies right after |
//! | --- | --- |
//! | `create`: the runtime's child waits in the groups, nothing of the program has run | the agent kills the groups |
//! | the groups joined by the shim as well: not every runtime uses all of them | as above |
//! | `state.json` | the agent kills by it: process, then group |
//! | `start`: the program runs | as above: no parent-death signal ends it before, for the runtime is its parent |
//! | the program ended, rest killed, `delete` | the agent deletes the directory, with the runtime's state in it |
//!
//! The runtime's child becomes the shim's when the runtime ends (the shim is a subreaper), so its end is seen like any other.

use std::{
    fmt::Write as _,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write as _},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::{DirBuilderExt, OpenOptionsExt},
            net::UnixListener,
        },
    },
    path::Path,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use rustix::{
    fs::OFlags,
    mount::MountPropagationFlags,
    process::{Pid, WaitOptions},
};

use super::{
    Container, Output,
    child::{self, Exec, PATH_DEFAULT},
    pipe,
    root::{self, Places},
    terminal,
};
use crate::{
    ImageRoot,
    cgroup::CgroupPaths,
    exec::{ExecRequest, TIMED_OUT},
    logfile::{Lines, LogFile, Stream},
    rights,
    state::{Launch, OciRuntime, Process, Running, STATE_VERSION, StateDir},
    sys,
};

/// What the agent has put where the user belongs. No text in JSON has a `"` that does not follow a `\`, so it is there once.
pub const USER_SLOT: &str = "\"user\":null";

/// More than the agent writes: a spec has at most some 1.5 MiB of environment in it.
const CONFIG_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// A runtime takes tens of milliseconds, and seconds on a busy flash. One that hangs is killed.
const RUNTIME_MAX: Duration = Duration::from_secs(60);

/// What is reported of what a runtime says.
const WORDS_BYTES_MAX: u64 = 1024;

/// Makes the container and starts its program.
pub(super) fn launch(
    dir: &StateDir,
    launch: Launch,
    log: LogFile,
    cgroups: CgroupPaths,
    mut notices: Vec<String>,
) -> Result<Container, String> {
    let explain = |act: &'static str| move |error: io::Error| format!("failed to {act}: {error}");
    let (Some(oci), Some(image)) = (&launch.oci, &launch.image) else {
        return Err("another runtime needs an image".to_owned());
    };
    prepare(dir, &launch, oci, image, &mut notices)?;
    let signals = sys::Signals::of(&[libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP]);
    let signals = signals.descriptor().map_err(explain("make a signal descriptor"))?;
    let pipe = || pipe().map_err(explain("make a pipe"));
    let ((stdout_rx, stdout_tx), (stderr_rx, stderr_tx), (input_rx, input_tx)) = (pipe()?, pipe()?, pipe()?);
    // It has nothing to say: without an init process the child's own end counts.
    let (result_rx, _) = pipe()?;
    let input = launch.spec.stdin.then_some(input_tx);

    let console = if launch.spec.tty { Some(listen(oci)?) } else { None };
    let runtime = Runtime { oci, id: launch.spec.id().to_string() };
    let pid_file = oci.bundle.join("pid");
    let mut words = vec!["create", "--bundle", path_of(&oci.bundle)?, "--pid-file", path_of(&pid_file)?];
    if console.is_some() {
        words.extend(["--console-socket", CONSOLE]);
    }
    let said = runtime.run(&words, "log", [input_rx, stdout_tx, stderr_tx]);
    said.map_err(|why| format!("{} failed to create the container: {}", oci.path.display(), why.or_said(&stderr_rx)))?;
    let stdout_rx = match &console {
        Some(console) => accept(console)?,
        None => stdout_rx,
    };
    let pid = read_pid(&pid_file).map_err(explain("read the runtime's pid file"))?;
    cgroups.join(pid).map_err(explain("put the container into its control groups"))?;

    let me = rustix::process::getpid().as_raw_nonzero().get();
    let processes = Process::of(me).and_then(|shim| Ok((shim, Process::of(pid)?)));
    let (shim, child) = processes.map_err(explain("read /proc"))?;
    let (started_at, stop_signal) = (Timestamp::now(), launch.stop_signal);
    let running = Running { version: STATE_VERSION, shim, child, stop_signal, started_at, cgroups, notices };
    dir.write_running(&running).map_err(explain("write state.json"))?;
    runtime.call(&["start"]).map_err(|why| format!("{} failed to start the program: {why}", oci.path.display()))?;
    // The signal for its end may have come while the runtime was waited for.
    sys::kill(me, libc::SIGCHLD);

    let output = |pipe: OwnedFd, stream| -> Result<Option<Output>, String> {
        rustix::fs::fcntl_setfl(&pipe, OFlags::NONBLOCK)
            .map_err(|error| format!("failed to set up a pipe: {error}"))?;
        Ok(Some(Output { pipe: File::from(pipe), lines: Lines::new(stream) }))
    };
    let outputs = [output(stdout_rx, Stream::Stdout)?, output(stderr_rx, Stream::Stderr)?];
    Ok(Container { launch, running, log, outputs, signals, result: File::from(result_rx), _input: input })
}

/// Lets the runtime take away what it has of a container whose processes have ended. What it leaves, the agent deletes.
pub fn delete(launch: &Launch) {
    if let Some(oci) = &launch.oci {
        let _ = Runtime { oci, id: launch.spec.id().to_string() }.call(&["delete", "--force"]);
    }
}

/// Mounts the image and its volumes where the runtime is to find them, and finishes its configuration.
fn prepare(
    dir: &StateDir,
    launch: &Launch,
    oci: &OciRuntime,
    image: &ImageRoot,
    notices: &mut Vec<String>,
) -> Result<(), String> {
    let explain = |act: &'static str| move |error: io::Error| format!("failed to {act}: {error}");
    root::make_upper(dir.path(), image, None)?;
    child::own_mounts().map_err(explain("make a mount namespace"))?;
    // What the node unmounts goes here as well, and nothing of this leaves.
    rustix::mount::mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .map_err(|error| format!("failed to keep the container's mounts from the node: {error}"))?;
    let rootfs = oci.bundle.join("rootfs");
    let make = |path: &Path| DirBuilder::new().recursive(true).mode(0o700).create(path);
    make(&rootfs).map_err(explain("make a place for mounts"))?;
    let user =
        root::mount_for_others(launch, image, &Places { staging: &rootfs, state: dir.path(), users: None }, |root| {
            rights::identity(&launch.spec, &image.user, root)
        })?;
    for (number, mount) in launch.spec.mounts.iter().enumerate() {
        let place = oci.bundle.join("volumes").join(number.to_string());
        root::attach_volume(mount, &place, notices)?;
    }
    let groups = user.groups.iter().fold(String::new(), |mut list, group| {
        let _ = write!(list, "{}{group}", if list.is_empty() { "" } else { "," });
        list
    });
    let user = format!("\"user\":{{\"uid\":{},\"gid\":{},\"additionalGids\":[{groups}]}}", user.uid, user.gid);
    fill_in(&oci.bundle.join("config.json"), &user).map_err(explain("write config.json"))
}

fn fill_in(config: &Path, user: &str) -> io::Result<()> {
    let mut text = String::new();
    File::open(config)?.take(CONFIG_BYTES_MAX).read_to_string(&mut text)?;
    fs::write(config, text.replacen(USER_SLOT, user, 1))
}

/// The runtime and the container that it is called for.
struct Runtime<'a> {
    oci: &'a OciRuntime,
    id: String,
}

/// Why a call failed.
struct Failure {
    /// In the runtime's words, or ours; nothing when it said nothing in its log.
    words: String,
}

impl Failure {
    /// What was said on an output, or else in the log.
    fn or_said(self, output: &OwnedFd) -> String {
        let said = last_words(output);
        match (said.is_empty(), self.words.is_empty()) {
            (false, _) => said,
            (true, false) => self.words,
            (true, true) => "it said nothing".to_owned(),
        }
    }
}

impl Runtime<'_> {
    /// A call whose outputs are of no use unless it fails.
    fn call(&self, words: &[&str]) -> Result<(), String> {
        let explain = |error: io::Error| format!("failed to make a pipe: {error}");
        let ((input, _), (said_rx, said_tx)) = (pipe().map_err(explain)?, pipe().map_err(explain)?);
        let copy = said_tx.try_clone().map_err(explain)?;
        self.run(words, "log", [input, copy, said_tx]).map_err(|why| why.or_said(&said_rx))
    }

    /// Runs the runtime to its end, in the container's directory; `log` is there.
    fn run(&self, words: &[&str], log: &str, stdio: [OwnedFd; 3]) -> Result<(), Failure> {
        let failed = |words: String| Failure { words };
        let oci = self.oci;
        let (state, log) = (oci.bundle.join("state"), oci.bundle.join(log));
        let before = [path_of(&oci.path), Ok("--root"), path_of(&state), Ok("--log"), path_of(&log)];
        let before = before.into_iter().collect::<Result<Vec<&str>, String>>().map_err(failed)?;
        let all = before.into_iter().chain(oci.args.iter().map(String::as_str)).chain(words.iter().copied());
        let argv: Vec<String> = all.chain([self.id.as_str()]).map(str::to_owned).collect();
        let env = [("PATH".to_owned(), PATH_DEFAULT.to_owned())].into();
        let exec = Exec::new(&oci.path, &argv, &env).map_err(failed)?;
        let pid = sys::fork().map_err(|error| failed(format!("failed to fork: {error}")))?;
        if pid == 0 {
            let error = become_runtime(&exec, &oci.bundle, &stdio);
            let said = format!("failed to run {}: {error}", oci.path.display());
            let _ = OpenOptions::new()
                .create(true)
                .append(true)
                .open(&log)
                .and_then(|mut file| file.write_all(said.as_bytes()));
            sys::exit_now(127);
        }
        drop(stdio);
        match wait(pid, Instant::now() + RUNTIME_MAX) {
            Ok(Some(0)) => Ok(()),
            Ok(Some(_)) => {
                let file = File::open(&log).map(OwnedFd::from);
                Err(failed(file.map(|file| last_words(&file)).unwrap_or_default()))
            }
            Ok(None) => {
                sys::kill(pid, libc::SIGKILL);
                let _ = child::wait_for(pid);
                Err(failed(format!("it did not end within {} s and was killed", RUNTIME_MAX.as_secs())))
            }
            Err(error) => Err(failed(format!("failed to wait for it: {error}"))),
        }
    }
}

/// In the child; returns only when it fails.
fn become_runtime(exec: &Exec, dir: &Path, stdio: &[OwnedFd; 3]) -> io::Error {
    let prepare = || -> io::Result<()> {
        rustix::process::chdir(dir)?;
        // None of the three is a number that another is to get.
        let out_of_the_way = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, 3);
        let stdio = stdio.iter().map(out_of_the_way).collect::<rustix::io::Result<Vec<_>>>()?;
        stdio.iter().zip(0..).try_for_each(|(fd, target)| sys::duplicate_to(fd.as_fd(), target))?;
        sys::close_on_exec_from(3);
        sys::default_signals();
        Ok(())
    };
    prepare().err().unwrap_or_else(|| exec.run())
}

/// Waits for one child and leaves the others to whoever asks for them; `None` when it still runs at the deadline. SIGCHLD must be
/// blocked.
fn wait(pid: i32, deadline: Instant) -> io::Result<Option<i32>> {
    let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::other("no child"))?;
    let signals = sys::Signals::of(&[libc::SIGCHLD]);
    loop {
        if let Some((_, status)) = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG)? {
            return Ok(Some(status.as_raw()));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        signals.wait(Some(left))?;
    }
}

/// The last line of what there is to read, without what a log has in front of it.
fn last_words(from: &OwnedFd) -> String {
    let mut bytes = Vec::new();
    let _ = rustix::fs::fcntl_setfl(from, OFlags::NONBLOCK);
    if let Ok(from) = from.try_clone() {
        // What is there counts, also where somebody else could still write.
        let _ = File::from(from).take(64 * WORDS_BYTES_MAX).read_to_end(&mut bytes);
    }
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
    let line = line.split_once(" msg=").map_or(line, |(_, message)| message.trim_matches('"'));
    line.chars().take(WORDS_BYTES_MAX as usize).collect()
}

fn path_of(path: &Path) -> Result<&str, String> {
    path.to_str().ok_or_else(|| format!("the path {} is no UTF-8", path.display()))
}

fn read_pid(path: &Path) -> io::Result<i32> {
    let text = fs::read_to_string(path)?;
    let pid = text.trim().parse().ok().filter(|pid| *pid > 1);
    pid.ok_or_else(|| io::Error::other(format!("{text:?} is no process id")))
}

/// Where the runtime hands over the terminal, in the container's directory: its whole path would be too long for a socket.
const CONSOLE: &str = "console";

fn listen(oci: &OciRuntime) -> Result<UnixListener, String> {
    let bind = || -> io::Result<UnixListener> {
        std::env::set_current_dir(&oci.bundle)?;
        let listener = UnixListener::bind(CONSOLE);
        std::env::set_current_dir("/")?;
        let listener = listener?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(|error| format!("failed to listen for the container's terminal: {error}"))
}

/// The runtime has handed it over before it ended.
fn accept(console: &UnixListener) -> Result<OwnedFd, String> {
    let (stream, _) = console.accept().map_err(|error| format!("failed to take the container's terminal: {error}"))?;
    terminal::receive(&stream)
}

/// Runs a command in a container by its runtime; answers how it ended.
pub fn exec(launch: &Launch, oci: &OciRuntime, request: &ExecRequest) -> Result<i32, String> {
    let explain = |act: &'static str| move |error: io::Error| format!("failed to {act}: {error}");
    sys::Signals::all().block();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| format!("failed to become the command's parent: {error}"))?;
    let name = format!("exec-{}", rustix::process::getpid().as_raw_nonzero());
    let [process, pid_file, log] = ["json", "pid", "log"].map(|ending| oci.bundle.join(format!("{name}.{ending}")));
    let run = || -> Result<i32, String> {
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        let write = |text: &str| options.open(&process)?.write_all(text.as_bytes());
        write(request.process.as_deref().unwrap_or_default()).map_err(explain("write the command"))?;
        let (input, _) = pipe().map_err(explain("make a pipe"))?;
        let copy = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().map_err(explain("copy a descriptor"));
        let stdio = [input, copy(io::stdout().as_fd())?, copy(io::stderr().as_fd())?];
        let words = ["exec", "--detach", "--process", path_of(&process)?, "--pid-file", path_of(&pid_file)?];
        let runtime = Runtime { oci, id: launch.spec.id().to_string() };
        runtime.run(&words, &format!("{name}.log"), stdio).map_err(|why| match why.words.is_empty() {
            true => format!("{} failed to run the command", oci.path.display()),
            false => why.words,
        })?;
        let pid = read_pid(&pid_file).map_err(explain("read the runtime's pid file"))?;
        match wait(pid, Instant::now() + request.timeout).map_err(explain("wait for the command"))? {
            Some(raw_status) => Ok(raw_status),
            None => {
                sys::kill_group(pid, libc::SIGKILL);
                sys::kill(pid, libc::SIGKILL);
                child::wait_for(pid).map_err(explain("wait for the command"))?;
                Err(TIMED_OUT.to_owned())
            }
        }
    };
    let result = run();
    for file in [&process, &pid_file, &log] {
        let _ = fs::remove_file(file);
    }
    result
}
