//! The child's side: namespaces, the init process, and the last steps before the program.
//!
//! In a pid namespace the first process has duties (signals without a handler do not reach it, orphans become its
//! children), which programs do not know of. So the shim's own image stays as init, and the program is its child:
//! SIGTERM ends `sleep` here as it does in a shell.

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{ffi::OsStrExt, net::UnixStream},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::OFlags,
    process::{Signal, WaitOptions},
    thread::{LinkNameSpaceType, UnshareFlags},
};

use super::{
    mounts,
    root::{self, Places},
    terminal,
};
use crate::{
    ContainerSpec, ImageRoot, NamespaceRef,
    cgroup::CgroupPaths,
    own_users::UserNamespace,
    rights::Who,
    state::{Launch, OpenFile, Process},
    sys::{self, Ended},
};

/// Search path of a container that names none.
pub const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Descriptors handed on begin here; above them the pipes are out of the way.
const DESCRIPTORS_FIRST: i32 = 3;

/// The ends of pipes that the child holds.
pub struct Ends {
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    /// Notices and the error, one a line; its end means that the program runs.
    pub status: File,
    /// How the program ended, from init.
    pub result: File,
    /// The program, where its name means nothing to the container: see [`open_agents`].
    pub program: Option<OwnedFd>,
    /// One byte, once everything is on disk. Its end without that byte means that the shim has died.
    pub go: File,
    /// Where its terminal goes, when it has one.
    pub terminal: UnixStream,
    /// Its input, when it has one that stays open.
    pub input: OwnedFd,
    /// Entered before anything of the program runs.
    pub cgroups: CgroupPaths,
}

/// Makes the next fork the first process of a pid namespace; as a plain user inside a user namespace of its own.
pub fn new_pid_namespace() -> io::Result<()> {
    if sys::is_root() {
        return unshare(UnshareFlags::NEWPID);
    }
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    unshare(UnshareFlags::NEWUSER)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
    unshare(UnshareFlags::NEWPID)
}

/// Makes the next fork a process of the pid namespace that another process is in.
pub fn enter_pid_namespace(of: &Process) -> io::Result<()> {
    let file = File::open(format!("/proc/{}/ns/pid", of.pid))?;
    // The number may be another's by now. What was opened is that of the process that is meant only if it is still there.
    if !of.exists() {
        return Err(io::Error::other("it has ended"));
    }
    Ok(rustix::thread::move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::ProcessID))?)
}

/// Gives this process a view of its own of what is mounted.
pub fn own_mounts() -> io::Result<()> {
    unshare(UnshareFlags::NEWNS)
}

pub fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: descriptors stay shared (no FILES among the flags), and the process has one thread.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}

/// Closes the child's copy of a file that belongs to the shim.
pub fn close_copy(file: &File) {
    // SAFETY: the child never uses its copy of `file` again and leaves by `_exit` or exec, so it is not closed twice.
    unsafe { libc::close(file.as_raw_fd()) };
}

/// Reads what the child says until its program runs.
pub fn read_status(status: File, notices: &mut Vec<String>) -> Result<(), String> {
    let mut text = Vec::new();
    status.take(16 * 1024).read_to_end(&mut text).map_err(|error| format!("failed to hear from the child: {error}"))?;
    let text = String::from_utf8_lossy(&text);
    for line in text.lines() {
        match line.split_once(' ') {
            Some(("notice", notice)) => notices.push(notice.to_owned()),
            Some(("error", error)) => return Err(error.to_owned()),
            _ => {}
        }
    }
    // Its end without "exec" means that the child was killed on its way.
    if text.lines().any(|line| line == "exec") {
        Ok(())
    } else {
        Err("the child died before its program ran".to_owned())
    }
}

/// Whose processes a container is among.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Processes {
    /// Its own: it is the first of a pid namespace.
    Own,
    /// The pod's, or another container's.
    Shared,
    /// The node's.
    OfNode,
}

/// The child's whole life.
pub fn run(launch: &Launch, places: &Places<'_>, processes: Processes, mut ends: Ends) -> ! {
    let result = match &launch.image {
        Some(_) if processes == Processes::OfNode && !launch.spec.host_pid => {
            Err("images need a pid namespace: run the node as root".to_owned())
        }
        Some(image) => run_image(launch, image, places, &mut ends),
        None if processes == Processes::Own => run_init(launch, places.staging, &mut ends),
        None => run_bare(launch, &mut ends),
    };
    if let Err(message) = result {
        let _ = writeln!(ends.status, "error {}", message.replace('\n', " "));
    }
    sys::exit_now(127)
}

fn run_bare(launch: &Launch, ends: &mut Ends) -> Result<(), String> {
    if launch.bind_mounts && launch.spec.mounts.iter().any(|mount| !mount.optional) {
        return Err("volumes need a mount namespace, which this node does not permit: run it as root, or allow user \
                    namespaces"
            .to_owned());
    }
    wait_for_go(ends)?;
    enter_groups(ends)?;
    join(&launch.namespaces)?;
    program(launch, None, ends, true)
}

/// A container of an image: unless it is among the processes of others, the program itself is the first process of its pid namespace,
/// as programs of images expect.
fn run_image(launch: &Launch, image: &ImageRoot, places: &Places<'_>, ends: &mut Ends) -> Result<(), String> {
    die_with_parent()?;
    wait_for_go(ends)?;
    enter_groups(ends)?;
    join(&launch.namespaces)?;
    // Both by the node's own `/proc`: the container may have a volume in the place of its own.
    set_oom_score(&launch.spec);
    confine_what_is_executed(&launch.spec)?;
    unshare(UnshareFlags::NEWNS | UnshareFlags::NEWCGROUP).map_err(|error| {
        format!("failed to make the container's namespaces: {error}; images need a node that runs as root")
    })?;
    let entered = root::enter(launch, image, places)?;
    for left_out in &entered.left_out {
        notice(ends, left_out);
    }
    // The shim's is the node's, and who is root in the container could change its mode there.
    sys::duplicate_to(entered.null.as_fd(), 0).map_err(|error| format!("failed to close the input: {error}"))?;
    program(launch, places.users, ends, true)
}

/// Enters namespaces that are held open.
pub fn join(namespaces: &[NamespaceRef]) -> Result<(), String> {
    for namespace in namespaces {
        let failed = |error: io::Error| format!("failed to enter the pod's {} namespace: {error}", namespace.kind);
        let file = File::open(&namespace.path).map_err(failed)?;
        rustix::thread::move_into_link_name_space(file.as_fd(), None).map_err(|error| failed(error.into()))?;
    }
    Ok(())
}

fn run_init(launch: &Launch, root: &Path, ends: &mut Ends) -> Result<(), String> {
    die_with_parent()?;
    wait_for_go(ends)?;
    enter_groups(ends)?;
    join(&launch.namespaces)?;
    let spec = &launch.spec;
    match unshare(UnshareFlags::NEWNS | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS) {
        Ok(()) => {
            for left_out in mounts::set_up(launch, root)? {
                notice(ends, &left_out);
            }
            if let Err(error) = rustix::system::sethostname(hostname(spec).as_bytes()) {
                notice(ends, &format!("the host name is the node's: {error}"));
            }
        }
        Err(error) if launch.bind_mounts && spec.mounts.iter().any(|mount| !mount.optional) => {
            return Err(format!("volumes need a mount namespace, which this node does not permit: {error}"));
        }
        Err(error) => notice(ends, &format!("no mount namespace: {error}")),
    }
    match sys::fork().map_err(|error| format!("failed to fork: {error}"))? {
        0 => program(launch, None, ends, false),
        pid => init(pid, ends),
    }
}

fn wait_for_go(ends: &mut Ends) -> Result<(), String> {
    ends.go.read_exact(&mut [0]).map_err(|_| "the shim has died".to_owned())
}

fn enter_groups(ends: &Ends) -> Result<(), String> {
    ends.cgroups.enter().map_err(|error| format!("failed to enter the container's control groups: {error}"))
}

fn notice(ends: &mut Ends, text: &str) {
    let _ = writeln!(ends.status, "notice {}", text.replace('\n', " "));
}

fn die_with_parent() -> Result<(), String> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| format!("failed to bind the container's life to the shim's: {error}"))
}

/// The first process of the pid namespace: passes signals on, reaps orphans, and reports how the program ended. With
/// its own end the kernel kills the rest.
fn init(program: i32, ends: &mut Ends) -> ! {
    // Everything that would keep the program's pipes open, or its start unreported.
    if let Ok(null) = OpenOptions::new().read(true).write(true).open("/dev/null") {
        for fd in [ends.status.as_fd().as_raw_fd(), ends.stdout.as_raw_fd(), ends.stderr.as_raw_fd()] {
            let _ = sys::duplicate_to(null.as_fd(), fd);
        }
    }
    let signals = sys::Signals::all();
    loop {
        match signals.wait(None) {
            Ok(Some(libc::SIGCHLD)) | Ok(None) | Err(_) => {}
            Ok(Some(signal)) => sys::kill(program, signal),
        }
        while let Ok(Some(Ended { pid, raw_status })) = sys::reap(false) {
            if pid == program {
                let _ = ends.result.write_all(&raw_status.to_ne_bytes());
                sys::exit_now(0);
            }
        }
    }
}

fn program(launch: &Launch, users: Option<&UserNamespace>, ends: &mut Ends, die_with_shim: bool) -> Result<(), String> {
    let spec = &launch.spec;
    let shim = rustix::process::getppid();
    let explain = |act: &str, error: io::Error| format!("failed to {act}: {error}");
    rustix::process::setsid().map_err(|error| explain("start a session", error.into()))?;
    if launch.image.is_none() {
        set_oom_score(spec);
    }
    let open = launch.files.iter().map(OpenFile::open).collect::<Result<Vec<_>, _>>()?;
    sys::join_new_session_keyring().map_err(|error| explain("make a session keyring", error))?;
    let who = who(launch)?;
    who.own_outputs([ends.stdout.as_fd(), ends.stderr.as_fd()], users);
    if let Some(users) = users {
        who.check_within(users)?;
        users.enter()?;
        // What was mounted for it becomes a copy that belongs to its own users.
        unshare(UnshareFlags::NEWNS).map_err(|error| explain("make its mounts its own", error))?;
    }
    let is_there = enter_early(launch)?;
    who.assume(spec)?;
    if die_with_shim {
        // Becoming another user forgets it, hence only now; the shim may have died before.
        die_with_parent()?;
        if rustix::process::getppid() != shim {
            return Err("the shim has died".to_owned());
        }
    }
    if !is_there {
        enter_working_dir(spec)?;
    }
    let env = environment(spec, &who);
    let file = find_program(launch, &launch.program, &env)?;
    let mut exec = Exec::new(&file, &launch.argv, &env)?;
    let first_free = DESCRIPTORS_FIRST + open.len() as i32;
    let out_of_the_way = |fd: &OwnedFd| {
        rustix::io::fcntl_dupfd_cloexec(fd, first_free).map_err(|error| explain("copy a descriptor", error.into()))
    };
    let mut status = File::from(out_of_the_way(&OwnedFd::from(
        ends.status.try_clone().map_err(|error| explain("copy a descriptor", error))?,
    ))?);
    let terminal = if spec.tty { Some(out_of_the_way(&terminal::open(&ends.terminal)?)?) } else { None };
    let (stdout, stderr) = match &terminal {
        Some(terminal) => (out_of_the_way(terminal)?, out_of_the_way(terminal)?),
        None => (out_of_the_way(&ends.stdout)?, out_of_the_way(&ends.stderr)?),
    };
    let stdin = match terminal {
        Some(terminal) => Some(terminal),
        None if spec.stdin => Some(out_of_the_way(&ends.input)?),
        None => None,
    };
    let open = open.iter().map(out_of_the_way).collect::<Result<Vec<_>, _>>()?;
    exec.file = ends.program.as_ref().map(out_of_the_way).transpose()?;
    let result = stdin
        .iter()
        .map(|stdin| (stdin, 0))
        .chain([(&stdout, 1), (&stderr, 2)])
        .chain(open.iter().zip(DESCRIPTORS_FIRST..))
        .try_for_each(|(fd, target)| sys::duplicate_to(fd.as_fd(), target));
    // From here on `ends.status` may be another file: only the copy is used.
    let error = match result {
        Ok(()) => {
            sys::close_on_exec_from(first_free as u32);
            sys::default_signals();
            match status.write_all(b"exec\n") {
                Ok(()) => exec.run(),
                // Nobody would see it end: the shim has died.
                Err(error) => error,
            }
        }
        Err(error) => error,
    };
    let _ = writeln!(status, "error failed to run {}: {error}", launch.program.display());
    sys::exit_now(127)
}

/// The agent and the shim are spared; what they start is not. Below what it was, only root may go.
pub fn set_oom_score(spec: &ContainerSpec) {
    let _ = fs::write("/proc/self/oom_score_adj", spec.oom_score_adj.unwrap_or(0).clamp(-1000, 1000).to_string());
}

/// Has the kernel hold what this process executes next, and all that this starts, to the profile of AppArmor that the spec names.
pub fn confine_what_is_executed(spec: &ContainerSpec) -> Result<(), String> {
    let Some(profile) = &spec.security.app_armor else { return Ok(()) };
    // Kernels before 5.8 have one file for all modules of this kind.
    let files = ["/proc/thread-self/attr/apparmor/exec", "/proc/thread-self/attr/exec"];
    let file = files.into_iter().find(|file| Path::new(file).exists()).unwrap_or(files[1]);
    fs::write(file, format!("exec {profile}")).map_err(|error| {
        let hint = if error.kind() == io::ErrorKind::NotFound { "; load it by apparmor_parser" } else { "" };
        format!("failed to apply AppArmor profile {profile}: {error}{hint}")
    })
}

/// Whom the container's programs run as. Of an image its files say it, which are at `/` by now.
pub fn who(launch: &Launch) -> Result<Who, String> {
    match &launch.image {
        Some(image) => Who::of_image(&launch.spec, &image.user),
        None => Ok(Who::of_node(&launch.spec)),
    }
}

/// The file of a program: by `PATH` in an image, as a shell looks for it. It may only be called with the container's rights.
pub fn find_program(launch: &Launch, program: &Path, env: &BTreeMap<String, String>) -> Result<PathBuf, String> {
    if launch.image.is_none() || program.as_os_str().as_bytes().contains(&b'/') {
        return Ok(program.to_owned());
    }
    let path = env.get("PATH").map_or(PATH_DEFAULT, String::as_str);
    let is_program = |file: &PathBuf| {
        rustix::fs::stat(file).is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file())
            && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
    };
    let found =
        path.split(':').map(|dir| Path::new(if dir.is_empty() { "." } else { dir }).join(program)).find(is_program);
    found.ok_or_else(|| format!("failed to run {}: no such program in $PATH", program.display()))
}

/// Enters the working directory of an image's program while the rights to do so are there, as engines do: `WORKDIR /root` with
/// another user is common. Whether it did; a share may let the user in and root not, so it is tried again later.
pub fn enter_early(launch: &Launch) -> Result<bool, String> {
    Ok(launch.image.is_some() && enter_working_dir(&launch.spec).is_ok())
}

/// Enters the working directory.
pub fn enter_working_dir(spec: &ContainerSpec) -> Result<(), String> {
    let dir = spec.working_dir.as_deref().unwrap_or(Path::new("/"));
    let explain = |error: io::Error| format!("failed to enter the working directory {}: {error}", dir.display());
    std::env::set_current_dir(dir).map_err(explain)?;
    // One that is outside of the root has no name here (CVE-2024-21626).
    match std::env::current_dir().map_err(explain)?.is_absolute() {
        true => Ok(()),
        false => Err(explain(io::Error::other("it is not in the container"))),
    }
}

/// The container's environment with the defaults of an empty one.
pub fn environment(spec: &ContainerSpec, who: &Who) -> BTreeMap<String, String> {
    let mut env = spec.env.clone();
    env.entry("PATH".to_owned()).or_insert_with(|| PATH_DEFAULT.to_owned());
    env.entry("HOSTNAME".to_owned()).or_insert_with(|| hostname(spec).to_owned());
    if let Some(home) = &who.home {
        env.entry("HOME".to_owned()).or_insert_with(|| home.clone());
    }
    env
}

fn hostname(spec: &ContainerSpec) -> &str {
    // Linux takes 64 bytes; a pod's name may be longer, and is then cut as Kubernetes does.
    let name = spec.hostname.as_deref().unwrap_or(&spec.pod.name);
    name.get(..63).unwrap_or(name).trim_end_matches(['-', '.'])
}

/// A program with its words, ready to be run.
pub struct Exec {
    program: CString,
    /// Executed instead of what has the name `program` now.
    pub file: Option<OwnedFd>,
    argv: Vec<CString>,
    env: Vec<CString>,
}

impl Exec {
    pub fn new(program: &Path, argv: &[String], env: &BTreeMap<String, String>) -> Result<Self, String> {
        let word = |bytes: &[u8]| {
            CString::new(bytes).map_err(|_| "a word of the command or environment has a NUL in it".to_owned())
        };
        Ok(Self {
            program: word(program.as_os_str().as_bytes())?,
            file: None,
            argv: argv.iter().map(|arg| word(arg.as_bytes())).collect::<Result<_, _>>()?,
            env: env
                .iter()
                .map(|(name, value)| word(format!("{name}={value}").as_bytes()))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Becomes the program; returns only when that fails.
    pub fn run(&self) -> io::Error {
        sys::exec(&self.program, self.file.as_ref().map(AsFd::as_fd), &self.argv, &self.env)
    }
}

/// Opens a program that is named below `/proc`: the agent's own, `/proc/<pid>/exe`, which executes the version that runs
/// although its file may have been replaced. A container has another `/proc`, so it is opened before there is one.
pub fn open_agents(program: &Path) -> Result<Option<OwnedFd>, String> {
    if !program.starts_with("/proc") {
        return Ok(None);
    }
    rustix::fs::open(program, OFlags::PATH | OFlags::CLOEXEC, rustix::fs::Mode::empty())
        .map(Some)
        .map_err(|error| format!("failed to open the agent's program {}: {error}", program.display()))
}

/// Waits for one child.
pub fn wait_for(pid: i32) -> io::Result<i32> {
    let pid = rustix::process::Pid::from_raw(pid).ok_or_else(|| io::Error::other("no child"))?;
    match rustix::process::waitpid(Some(pid), WaitOptions::empty())? {
        Some((_, status)) => Ok(status.as_raw()),
        None => Err(io::Error::other("the child still runs")),
    }
}
