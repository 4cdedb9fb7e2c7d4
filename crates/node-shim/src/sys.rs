//! The few calls for which neither std nor rustix has a safe form.

use std::{
    ffi::CString,
    fs, io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

/// Sends a signal; one that has ended is fine.
pub fn kill(pid: i32, signal: i32) {
    if pid > 0 {
        // SAFETY: kill takes plain numbers and touches no memory of ours.
        unsafe { libc::kill(pid, signal) };
    }
}

/// Kills a process group; one that has ended is fine.
pub fn kill_group(leader: i32, signal: i32) {
    if leader > 1 {
        // SAFETY: kill takes plain numbers and touches no memory of ours.
        unsafe { libc::kill(-leader, signal) };
    }
}

/// Splits this process in two; 0 in the child.
///
/// Refused while the process has more than one thread: locks of the others would stay taken in the child for ever.
pub fn fork() -> io::Result<i32> {
    // In a new pid namespace whose `/proc` could not be mounted there is nothing to read; such a process was itself
    // forked here.
    if fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() > 1) {
        return Err(io::Error::other("the shim must be started before any thread is"));
    }
    // SAFETY: the process has one thread, so the child may run any code.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(pid),
    }
}

/// Ends the process at once, without the destructors that belong to the parent it was forked from.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes a plain number and does not return.
    unsafe { libc::_exit(code) }
}

/// Replaces this process by a program; returns only when that fails.
///
/// `file` is executed where it is given; `program` is only its name then.
pub fn exec(program: &CString, file: Option<BorrowedFd<'_>>, argv: &[CString], env: &[CString]) -> io::Error {
    let pointers =
        |words: &[CString]| words.iter().map(|word| word.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>();
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both arrays end with a null pointer, and what they point to lives until the call returns.
    unsafe {
        match file {
            None => _ = libc::execve(program.as_ptr(), argv.as_ptr(), env.as_ptr()),
            Some(file) => {
                let (empty, flags) = (c"".as_ptr(), libc::AT_EMPTY_PATH);
                libc::syscall(libc::SYS_execveat, file.as_raw_fd(), empty, argv.as_ptr(), env.as_ptr(), flags);
            }
        }
    }
    io::Error::last_os_error()
}

/// A set of signals.
#[derive(Clone, Copy)]
pub struct Signals(libc::sigset_t);

impl Signals {
    pub fn all() -> Self {
        let mut set = std::mem::MaybeUninit::uninit();
        // SAFETY: sigfillset writes the whole set.
        unsafe {
            libc::sigfillset(set.as_mut_ptr());
            Self(set.assume_init())
        }
    }

    pub fn of(signals: &[i32]) -> Self {
        let mut set = std::mem::MaybeUninit::uninit();
        // SAFETY: sigemptyset writes the whole set; sigaddset changes a set that has been written.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in signals {
                libc::sigaddset(set.as_mut_ptr(), *signal);
            }
            Self(set.assume_init())
        }
    }

    /// Keeps them waiting from now on, and nothing else.
    pub fn block(&self) {
        // SAFETY: the set is written; no old mask is asked for.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut()) };
    }

    /// Waits for one of them, which must be blocked; `None` when `timeout` passes first.
    pub fn wait(&self, timeout: Option<std::time::Duration>) -> io::Result<Option<i32>> {
        let limit = timeout
            .map(|timeout| libc::timespec { tv_sec: timeout.as_secs() as _, tv_nsec: timeout.subsec_nanos() as _ });
        let limit_ptr = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: the set is written, no details are asked for, and the time limit outlives the call.
        match unsafe { libc::sigtimedwait(&self.0, std::ptr::null_mut(), limit_ptr) } {
            -1 => match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::EAGAIN) => Ok(None),
                error if error.kind() == io::ErrorKind::Interrupted => Ok(None),
                error => Err(error),
            },
            signal => Ok(Some(signal)),
        }
    }

    /// A descriptor that is readable when one of them, which must be blocked, has come.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        // SAFETY: the set is written; -1 asks for a new descriptor, which nobody else owns.
        unsafe {
            match libc::signalfd(-1, &self.0, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
                -1 => Err(io::Error::last_os_error()),
                fd => Ok(OwnedFd::from_raw_fd(fd)),
            }
        }
    }
}

/// Puts signals back as a program expects them: nothing blocked, and nothing ignored: neither SIGPIPE, which Rust's start-up
/// ignores, nor what whoever started the agent had ignored (`nohup`).
pub fn default_signals() {
    /// The kernel's `struct sigaction` is at most as long; all zeros is SIG_DFL without flags.
    static DEFAULT: [u64; 8] = [0; 8];
    const SET_BYTES: usize = 8;
    for signal in 1..=64 {
        // SAFETY: the action is longer than the kernel reads and outlives the call; the old one is not asked for. The C library's
        // own function rejects signals that it uses itself. What cannot be set (SIGKILL) is an error that does not matter.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, &raw const DEFAULT, std::ptr::null_mut::<u64>(), SET_BYTES)
        };
    }
    Signals::of(&[]).block();
}

/// Leaves the session keyring of the agent, with what others have put into it, for a new one.
pub fn join_new_session_keyring() -> io::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: the name is none, so that nobody can have made the keyring before; nothing else is read.
    if unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>()) } >= 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        // A kernel without keys; or a filter around the node denies the call, and whatever is started here has that filter as well.
        error if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => Ok(()),
        // A user has some hundred of them, and a node without root starts its own user's programs.
        error if error.raw_os_error() == Some(libc::EDQUOT) && !is_root() => Ok(()),
        error => Err(error),
    }
}

/// What [`reap`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    pub pid: i32,
    /// As `waitpid` gives it.
    pub raw_status: i32,
}

/// Takes one child that has ended; `Ok(None)` when all still run, an error when there is none.
pub fn reap(block: bool) -> io::Result<Option<Ended>> {
    let mut raw_status = 0;
    // SAFETY: the status is written to a number of ours.
    match unsafe { libc::waitpid(-1, &mut raw_status, if block { 0 } else { libc::WNOHANG }) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some(Ended { pid, raw_status })),
    }
}

/// Exit code and signal of a raw status.
pub fn decode_status(raw_status: i32) -> (i32, Option<i32>) {
    if libc::WIFSIGNALED(raw_status) {
        let signal = libc::WTERMSIG(raw_status);
        return (128 + signal, Some(signal));
    }
    (libc::WEXITSTATUS(raw_status), None)
}

/// Makes `target` another name of `fd`, one that an exec keeps.
pub fn duplicate_to(fd: BorrowedFd<'_>, target: i32) -> io::Result<()> {
    if fd.as_raw_fd() == target {
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?;
        return Ok(());
    }
    // SAFETY: `fd` is open; whatever `target` was, the caller is about to exec and gives it up.
    match unsafe { libc::dup2(fd.as_raw_fd(), target) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Makes an exec close every descriptor from `first` on. Old kernels do not know the call; all of ours are marked anyway.
pub fn close_on_exec_from(first: u32) {
    // SAFETY: close_range with CLOSE_RANGE_CLOEXEC only sets a flag on descriptors.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

/// Closes every descriptor but one.
pub fn close_all_but(kept: BorrowedFd<'_>) -> io::Result<()> {
    let number = kept.as_raw_fd() as u32;
    let close = |first: u32, last: u32| {
        // SAFETY: the caller uses no other descriptor any more, and is about to do nothing but to wait.
        match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    if number > 0 {
        close(0, number - 1)?;
    }
    close(number + 1, u32::MAX)
}

/// Keeps whoever has no right to trace everything from tracing this process, and from what is behind its `/proc`.
pub fn deny_tracing() -> io::Result<()> {
    // SAFETY: prctl with this option takes plain numbers.
    match unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Takes on user, group and supplementary groups; `None` keeps what is. Root's own groups are dropped in any case.
pub fn become_user(uid: Option<u32>, gid: Option<u32>, groups: &[u32]) -> io::Result<()> {
    let check = |result: i32| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: the pointer and the length are those of one slice; the others take plain numbers.
    unsafe {
        if libc::geteuid() == 0 || !groups.is_empty() {
            let result = check(libc::setgroups(groups.len(), groups.as_ptr()));
            // In a user namespace of one user nobody may change groups, and there is none to drop.
            if !groups.is_empty()
                || !result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
            {
                result?;
            }
        }
        if let Some(gid) = gid {
            check(libc::setresgid(gid, gid, gid))?;
        }
        if let Some(uid) = uid {
            check(libc::setresuid(uid, uid, uid))?;
        }
    }
    Ok(())
}

/// Takes capabilities other than `kept` out of reach of whatever is executed: out of the bounding and the ambient set.
pub fn keep_capabilities_within_reach(kept: u64) -> io::Result<()> {
    for number in (0..64).filter(|number| kept & 1 << number == 0) {
        // SAFETY: prctl with these options takes plain numbers.
        match unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) } {
            0 => {}
            _ => match io::Error::last_os_error() {
                // The kernel knows no further ones.
                error if error.raw_os_error() == Some(libc::EINVAL) => break,
                error => return Err(error),
            },
        }
    }
    // SAFETY: as above. Kernels before 4.3 have no ambient set.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    Ok(())
}

/// Capabilities of this process.
struct Capabilities {
    header: CapabilityHeader,
    /// Effective, permitted, inheritable; of 32 capabilities each.
    data: [[u32; 3]; 2],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

impl Capabilities {
    fn own() -> io::Result<Self> {
        // _LINUX_CAPABILITY_VERSION_3: 64 bits, in two halves.
        let mut own = Self { header: CapabilityHeader { version: 0x2008_0522, pid: 0 }, data: [[0; 3]; 2] };
        // SAFETY: header and data have the kernel's layout for this version, and outlive the call.
        match unsafe { libc::syscall(libc::SYS_capget, &raw mut own.header, &raw mut own.data) } {
            0 => Ok(own),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn set(mut self) -> io::Result<()> {
        // SAFETY: as above.
        match unsafe { libc::syscall(libc::SYS_capset, &raw mut self.header, &raw const self.data) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Gives up the capabilities of this process that are not among `kept`.
pub fn keep_capabilities(kept: u64) -> io::Result<()> {
    let mut own = Capabilities::own()?;
    for (half, [effective, permitted, inheritable]) in own.data.iter_mut().enumerate() {
        *permitted &= (kept >> (32 * half)) as u32;
        *effective = *permitted;
        *inheritable = 0;
    }
    own.set()
}

/// Makes the mounts of a detached tree read-only, all of them.
pub fn make_mounts_read_only(tree: BorrowedFd<'_>) -> io::Result<()> {
    set_mount_attributes(tree, libc::AT_EMPTY_PATH | libc::AT_RECURSIVE, libc::MOUNT_ATTR_RDONLY)
}

/// Sets which of later mounts pass between the mounts of a detached tree and those that they are copies of: `MS_PRIVATE`, `MS_SLAVE`.
pub fn set_propagation(tree: BorrowedFd<'_>, propagation: libc::c_ulong) -> io::Result<()> {
    let attributes = libc::mount_attr { attr_set: 0, attr_clr: 0, propagation: propagation as _, userns_fd: 0 };
    mount_setattr(tree, libc::AT_EMPTY_PATH | libc::AT_RECURSIVE, attributes)
}

/// Shows the files of a detached mount with the users of a user namespace (Linux 5.12): number 0 on the disk is its root, and so on.
/// `attributes` are set as well.
pub fn map_ids_of_mount(tree: BorrowedFd<'_>, flags: i32, attributes: u64, users: BorrowedFd<'_>) -> io::Result<()> {
    let (attr_set, userns_fd) = (libc::MOUNT_ATTR_IDMAP | attributes, users.as_raw_fd() as _);
    let attributes = libc::mount_attr { attr_set, attr_clr: 0, propagation: 0, userns_fd };
    mount_setattr(tree, libc::AT_EMPTY_PATH | flags, attributes)
}

/// Makes files that this thread makes from now on another user's, its rights over files kept.
pub fn make_files_as(id: u32) -> io::Result<()> {
    let capabilities = Capabilities::own()?;
    // SAFETY: both take plain numbers.
    unsafe {
        libc::setfsgid(id);
        libc::setfsuid(id);
    }
    // Who is not root as the owner of files has no rights over others' files; they are only out of use.
    capabilities.set()
}

/// Makes the calling thread, which is to end soon, act as another user, its rights kept: what belongs to a namespace's root asks for
/// its number.
pub fn act_as(id: u32) -> io::Result<()> {
    const AS_IT_IS: libc::c_long = -1;
    let capabilities = Capabilities::own()?;
    // SAFETY: the raw calls change this thread alone and take plain numbers.
    let results = unsafe {
        [
            libc::syscall(libc::SYS_setresgid, AS_IT_IS, libc::c_long::from(id as i32), AS_IT_IS),
            libc::syscall(libc::SYS_setresuid, AS_IT_IS, libc::c_long::from(id as i32), AS_IT_IS),
        ]
    };
    if results == [0, 0] { capabilities.set() } else { Err(io::Error::last_os_error()) }
}

/// `mount_setattr` (Linux 5.12) on the mount that a descriptor is of.
pub fn set_mount_attributes(mount: BorrowedFd<'_>, flags: i32, attributes: u64) -> io::Result<()> {
    mount_setattr(mount, flags, libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 })
}

fn mount_setattr(mount: BorrowedFd<'_>, flags: i32, attributes: libc::mount_attr) -> io::Result<()> {
    // SAFETY: the descriptor is open, the path is a C string, and the size is that of the struct behind the pointer.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether this process has root's rights.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Lets others be served first.
pub fn be_nice(by: i32) {
    // SAFETY: setpriority takes plain numbers.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, by) };
}

/// Makes allocations beyond `bytes` fail in this process: for one that no control group holds.
pub fn limit_memory(bytes: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: bytes as libc::rlim_t, rlim_max: bytes as libc::rlim_t };
    // SAFETY: the limit is written and outlives the call.
    match unsafe { libc::setrlimit(libc::RLIMIT_DATA, &limit) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
