//! The filters in the kernel: what a process that has loaded one may do.

// A test that unwraps fails with the place and the error, which is what it should do.
#![allow(clippy::unwrap_used)]

use std::{
    io,
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Command, Output},
};

use node_seccomp::{Arch, CapabilitySet, SockFilter, Threads, load};

/// A program started under `filter`.
fn under(filter: Vec<SockFilter>, program: &str, args: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(args);
    // SAFETY: between fork and exec two system calls are made, and nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
                return Err(io::Error::last_os_error());
            }
            load(&filter, Threads::This).map_err(io::Error::from_raw_os_error)
        })
    };
    command.output().unwrap()
}

fn runtime_default() -> Vec<SockFilter> {
    node_seccomp::runtime_default(Arch::NATIVE.unwrap(), CapabilitySet::EMPTY)
}

/// Error number of one system call in a child that has loaded `filter`; 0 where it succeeds.
fn call(filter: &[SockFilter], number: libc::c_long, args: [libc::c_ulong; 5]) -> i32 {
    // SAFETY: the child makes system calls only and ends by `_exit`; its parent waits for it.
    unsafe {
        match libc::fork() {
            0 => {
                libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
                if load(filter, Threads::This).is_err() {
                    libc::_exit(255);
                }
                let [a, b, c, d, e] = args;
                let result = libc::syscall(number, a, b, c, d, e);
                libc::_exit(if result < 0 { *libc::__errno_location() } else { 0 })
            }
            pid => {
                let mut status = 0;
                assert_eq!(libc::waitpid(pid, &mut status, 0), pid);
                assert!(libc::WIFEXITED(status), "ended by {status:#x}");
                libc::WEXITSTATUS(status)
            }
        }
    }
}

#[test]
fn usual_programs_run_and_unusual_calls_fail() {
    let output =
        under(runtime_default(), "/bin/sh", &["-c", "cd /tmp && ls / | head -1 && (sleep 0.01 & wait) && date"]);
    assert!(output.status.success() && !output.stdout.is_empty(), "{output:?}");
    for (name, number, args) in [
        ("unshare", libc::SYS_unshare, [libc::CLONE_NEWUSER as libc::c_ulong, 0, 0, 0, 0]),
        ("mount", libc::SYS_mount, [0; 5]),
        ("keyctl", libc::SYS_keyctl, [0; 5]),
        ("bpf", libc::SYS_bpf, [0; 5]),
        ("add_key", libc::SYS_add_key, [0; 5]),
        ("socket(AF_VSOCK)", libc::SYS_socket, [libc::AF_VSOCK as libc::c_ulong, 1, 0, 0, 0]),
    ] {
        assert_eq!(call(&runtime_default(), number, args), libc::EPERM, "{name}");
    }
    assert_eq!(call(&runtime_default(), 100_000, [0; 5]), libc::ENOSYS, "a call that nobody knows yet");
    assert_eq!(call(&runtime_default(), libc::SYS_getpid, [0; 5]), 0);
}

#[test]
fn python_with_threads_and_sockets_runs() {
    let script = "import threading, socket, subprocess\n\
        t = threading.Thread(target=print, args=('thread',)); t.start(); t.join()\n\
        s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()\n\
        print(subprocess.run(['/bin/echo', 'child'], capture_output=True, text=True).stdout)\n";
    let Some(python) =
        ["/usr/bin/python3", "/usr/local/bin/python3"].iter().find(|path| std::fs::exists(path).unwrap())
    else {
        testkit::skip("there is no python3 here");
        return;
    };
    let output = under(runtime_default(), python, &["-c", script]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("thread") && text.contains("child"), "{output:?}");
}

#[test]
fn a_capability_opens_what_belongs_to_it() {
    let arch = Arch::NATIVE.unwrap();
    // CAP_SYS_ADMIN is 21: the call reaches the kernel, which finds fault with its argument and not with the caller.
    let filter = node_seccomp::runtime_default(arch, CapabilitySet::EMPTY.with(21));
    assert_eq!(call(&filter, libc::SYS_unshare, [1, 0, 0, 0, 0]), libc::EINVAL);
}

#[test]
fn a_worker_starts_no_program_and_opens_no_socket() {
    let filter = node_seccomp::wasm_worker(Arch::NATIVE.unwrap());
    for (name, number) in [
        ("socket", libc::SYS_socket),
        ("execve", libc::SYS_execve),
        ("execveat", libc::SYS_execveat),
        ("ptrace", libc::SYS_ptrace),
        ("kill", libc::SYS_kill),
        ("mount", libc::SYS_mount),
        ("setuid", libc::SYS_setuid),
        ("process_vm_readv", libc::SYS_process_vm_readv),
        ("io_uring_setup", libc::SYS_io_uring_setup),
    ] {
        assert_eq!(call(&filter, number, [0; 5]), libc::EPERM, "{name}");
    }
    assert_eq!(call(&filter, libc::SYS_clone, [libc::SIGCHLD as libc::c_ulong, 0, 0, 0, 0]), libc::EPERM, "a process");
    assert_eq!(call(&filter, libc::SYS_getpid, [0; 5]), 0);
}

#[test]
fn a_filter_without_an_answer_for_our_architecture_ends_the_process() {
    let foreign = if cfg!(target_arch = "x86_64") { Arch::Arm64 } else { Arch::Amd64 };
    let output = std::panic::catch_unwind(|| {
        under(node_seccomp::runtime_default(foreign, CapabilitySet::EMPTY), "/bin/true", &[])
    });
    // The exec itself is the first call: the child dies, and std reports either that or its signal.
    if let Ok(output) = output {
        assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{output:?}");
    }
}
