//! What the filter of this process says to every system call, without any of them being made.
//!
//! A thread loads one more filter, which hands every call over to the main thread (`SECCOMP_RET_USER_NOTIF`). The kernel takes the
//! strictest of what all filters say, and that is the mildest but for permission: where the runtime's filter permits, the call comes to
//! the main thread, which answers with an error number that no filter uses; where it does not, its own answer is seen. Where the
//! answer is the end of the thread, the next one begins behind that call.

use std::{
    io,
    sync::atomic::{AtomicI32, AtomicUsize, Ordering},
};

use super::{Facts, note};

/// Answered to what is permitted: an error that no filter has.
const PERMITTED: i32 = libc::EUCLEAN;

/// Noted of a call that a thread did not come back from: no error number.
const ENDED: i32 = -1;

/// Above all that kernels have today.
const NUMBERS: usize = 512;

#[cfg(target_arch = "x86_64")]
const ABIS: [&str; 3] = ["native", "i386", "x32"];
#[cfg(not(target_arch = "x86_64"))]
const ABIS: [&str; 1] = ["native"];

/// `uretprobe` and `uprobe`: newer kernels ask no filter about them, and end who makes them unasked.
#[cfg(target_arch = "x86_64")]
const UNFILTERED: [i64; 2] = [335, 336];
#[cfg(not(target_arch = "x86_64"))]
const UNFILTERED: [i64; 0] = [];

/// Calls whose first or second argument decides.
const WITH_ARGUMENTS: [(libc::c_long, usize, &[u64]); 4] = [
    (
        libc::SYS_socket,
        0,
        &[
            0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28,
            29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47,
        ],
    ),
    (libc::SYS_personality, 0, &[0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff, 1, 0x4_0000, 0x40_0000, u64::MAX]),
    (
        libc::SYS_clone,
        0,
        &[
            0x11,
            0x3d_0f00,
            0x2_0000,
            0x200_0000,
            0x400_0000,
            0x800_0000,
            0x1000_0000,
            0x2000_0000,
            0x4000_0000,
            0x80,
            0x10_0000_0011,
        ],
    ),
    (libc::SYS_unshare, 0, &[0, 0x2_0000, 0x1000_0000, 0x400, 0x80]),
];

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Notification {
    id: u64,
    pid: u32,
    flags: u32,
    number: i32,
    arch: u32,
    at: u64,
    args: [u64; 6],
}

#[repr(C)]
struct Answer {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

const RECEIVE: libc::c_ulong = 0xc050_2100;
const SEND: libc::c_ulong = 0xc018_2101;

static LISTENER: AtomicI32 = AtomicI32::new(0);
static DONE: AtomicUsize = AtomicUsize::new(0);
/// The call that is made now.
static AT: AtomicUsize = AtomicUsize::new(0);
/// Answers by call, in the order in which they are made.
static ANSWERS: [AtomicI32; NUMBERS * 3 + 128] = [const { AtomicI32::new(0) }; NUMBERS * 3 + 128];

/// Every call's number, per ABI: `A` permitted, `P` EPERM, `N` ENOSYS, `K` the end of the thread, `?` what no profile says.
pub fn verdicts(facts: &mut Facts) {
    if let Err(error) = ask() {
        note(facts, "calls", error);
        return;
    }
    let answers = ANSWERS.each_ref().map(|answer| answer.load(Ordering::Acquire));
    let name = |answer: &i32| match *answer {
        PERMITTED => 'A',
        libc::EPERM => 'P',
        libc::ENOSYS => 'N',
        ENDED => 'K',
        _ => '?',
    };
    for (abi, answers) in ABIS.iter().zip(answers.chunks(NUMBERS)) {
        note(facts, format!("calls/{abi}"), answers.iter().map(name).collect::<String>());
    }
    let mut rest = answers[ABIS.len() * NUMBERS..].iter();
    for (number, _, values) in WITH_ARGUMENTS {
        for value in values {
            let answer = rest.next().map(name).unwrap_or('?');
            note(facts, format!("call/{number} {value:x}"), answer);
        }
    }
}

/// Threads follow each other till all calls are asked about; each of them gets past one more call at least.
fn ask() -> Result<(), String> {
    while DONE.load(Ordering::Acquire) == 0 {
        LISTENER.store(0, Ordering::Release);
        let first = AT.load(Ordering::Acquire);
        let thread = std::thread::Builder::new().spawn(move || make_calls(first)).map_err(|error| error.to_string())?;
        // It can make no call any more, not even to end.
        std::mem::forget(thread);
        let listener = loop {
            match LISTENER.load(Ordering::Acquire) {
                0 => std::thread::yield_now(),
                number if number < 0 => return Err(format!("no filter: {}", io::Error::from_raw_os_error(-number))),
                listener => break listener,
            }
        };
        answer_calls(listener);
        // SAFETY: the descriptor is this function's own, and nothing else uses it.
        unsafe { libc::close(listener) };
        if DONE.load(Ordering::Acquire) == 0 {
            let ended = AT.fetch_add(1, Ordering::AcqRel);
            ANSWERS[ended].store(ENDED, Ordering::Release);
        }
    }
    Ok(())
}

/// Till there are no more, or nobody who makes them.
fn answer_calls(listener: i32) {
    while DONE.load(Ordering::Acquire) == 0 {
        let mut ready = libc::pollfd { fd: listener, events: libc::POLLIN, revents: 0 };
        // SAFETY: one descriptor is looked at, and the struct outlives the call.
        if unsafe { libc::poll(&raw mut ready, 1, 10) } != 1 {
            continue;
        }
        if ready.revents & libc::POLLHUP != 0 {
            return;
        }
        let mut call = Notification::default();
        // SAFETY: the struct has the size that is encoded in the request, and begins as zeros.
        if unsafe { libc::ioctl(listener, RECEIVE as _, &raw mut call) } != 0 {
            continue;
        }
        let answer = Answer { id: call.id, value: 0, error: -PERMITTED, flags: 0 };
        // SAFETY: as above.
        unsafe { libc::ioctl(listener, SEND as _, &raw const answer) };
    }
}

/// The calls in their order; those by number of each ABI, then those whose arguments decide.
fn calls() -> impl Iterator<Item = (&'static str, i64, [u64; 6])> {
    let by_number = ABIS.into_iter().flat_map(|abi| (0..NUMBERS as i64).map(move |number| (abi, number, [0; 6])));
    let by_argument = WITH_ARGUMENTS.into_iter().flat_map(|(number, index, values)| {
        values.iter().map(move |value| {
            let mut args = [0; 6];
            args[index] = *value;
            ("native", number, args)
        })
    });
    by_number.chain(by_argument)
}

/// The thread's life. After the filter it makes no call but those that are asked about: it spins till the process ends.
fn make_calls(first: usize) {
    const RETURN: u16 = 0x06;
    const USER_NOTIF: u32 = 0x7fc0_0000;
    let all = [libc::sock_filter { code: RETURN, jt: 0, jf: 0, k: USER_NOTIF }];
    let program = libc::sock_fprog { len: 1, filter: all.as_ptr().cast_mut() };
    // SAFETY: both take plain numbers and a program that outlives the call, which copies it.
    let listener = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    };
    if listener < 0 {
        let number = io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL);
        LISTENER.store(-number, Ordering::Release);
        return;
    }
    LISTENER.store(listener as i32, Ordering::Release);
    for (at, (abi, number, args)) in calls().enumerate().skip(first) {
        AT.store(at, Ordering::Release);
        let is_unfiltered = abi == "native" && args == [0; 6] && UNFILTERED.contains(&number);
        let answer = if is_unfiltered { 0 } else { call(abi, number, args) };
        ANSWERS[at].store(answer as i32, Ordering::Release);
    }
    DONE.store(1, Ordering::Release);
    loop {
        std::hint::spin_loop();
    }
}

/// The positive error number of one call.
#[cfg(target_arch = "x86_64")]
fn call(abi: &str, number: i64, args: [u64; 6]) -> i64 {
    use std::arch::asm;
    let mut result: i64;
    // SAFETY: every call is answered by a filter and none is made; registers that the kernel changes are named.
    unsafe {
        if abi == "i386" {
            // The first argument is in a register that the compiler keeps to itself.
            asm!("mov {kept}, rbx", "xor ebx, ebx", "int 0x80", "mov rbx, {kept}", kept = out(reg) _,
                 inlateout("rax") number => result, in("rcx") 0, in("rdx") 0, in("rsi") 0, in("rdi") 0,
                 lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _);
            // Its answers are 32 bits wide.
            result = i64::from(result as i32);
        } else {
            let number = if abi == "x32" { number | 0x4000_0000 } else { number };
            asm!("syscall", inlateout("rax") number => result, in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
                 in("r10") args[3], in("r8") args[4], in("r9") args[5], lateout("rcx") _, lateout("r11") _);
        }
    }
    -result
}

/// The positive error number of one call.
#[cfg(target_arch = "aarch64")]
fn call(_abi: &str, number: i64, args: [u64; 6]) -> i64 {
    use std::arch::asm;
    let mut result = args[0] as i64;
    // SAFETY: every call is answered by a filter and none is made.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") result, in("x1") args[1], in("x2") args[2], in("x3") args[3],
             in("x4") args[4], in("x5") args[5]);
    }
    -result
}

/// The positive error number of one call.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn call(_abi: &str, number: i64, args: [u64; 6]) -> i64 {
    let [a, b, c, d, e, f] = args.map(|arg| arg as libc::c_ulong);
    // SAFETY: every call is answered by a filter and none is made.
    match unsafe { libc::syscall(number as libc::c_long, a, b, c, d, e, f) } {
        -1 => i64::from(io::Error::last_os_error().raw_os_error().unwrap_or(0)),
        _ => 0,
    }
}
