//! Filters for system calls (seccomp), compiled here from the published profile.
//!
//! `RuntimeDefault` of a pod means the profile that Docker and containerd publish; a WebAssembly worker gets a stricter one of
//! ours, [`wasm_worker`]. Both are JSON under `profiles/`, from which a test generates `tables.rs`: numbers per architecture,
//! conditions on capabilities and arguments. At a container's start [`runtime_default`] makes classic BPF of the table for the
//! capabilities that the container has. That takes some tens of microseconds and 6 KiB, so nothing compiled is checked in; and
//! the shim, whose pages count once per pod, carries neither JSON nor a C library.
//!
//! What a filter answers:
//! - what the profile allows is allowed, what it knows and does not allow fails with its error number (EPERM);
//! - a number above all that the profile knows fails with ENOSYS, so that a C library newer than the profile falls back to an
//!   older call instead of taking EPERM for the truth (runc does the same). The numbers of x32 are above all others and
//!   answered alike: Docker allows that ABI, nobody misses it, and it doubles what can be attacked;
//! - another architecture than the node's own and its 32-bit sibling ends the process.
//!
//! An integer argument narrower than a register may carry anything in its upper half, which the kernel drops. Tests for
//! "is one of" compare all 64 bits, which can only allow less.
//!
//! ```
//! use node_seccomp::{Arch, CapabilitySet};
//! let arch = Arch::NATIVE.expect("this example runs where the profile has a table");
//! let filter = node_seccomp::runtime_default(arch, CapabilitySet::EMPTY);
//! assert!(filter.len() < 4096);
//! ```

#![no_std]
#![warn(missing_docs)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod compile;
mod localhost;
#[rustfmt::skip]
mod names;
#[rustfmt::skip]
mod tables;

use alloc::vec::Vec;

pub use compile::SockFilter;
pub use localhost::{Action, Compare, Condition, NamedRule, ProfileError, localhost};

/// Architectures for which the profile has a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arch {
    /// 64-bit x86, and i386 programs on it.
    Amd64,
    /// 64-bit ARM, and 32-bit programs on it.
    Arm64,
    /// 32-bit ARM, EABI.
    Arm,
}

impl Arch {
    /// The one this program was compiled for; `None` where there is no table, and no filter can be had.
    pub const NATIVE: Option<Self> = if cfg!(all(target_arch = "x86_64", target_pointer_width = "64")) {
        Some(Self::Amd64)
    } else if cfg!(target_arch = "aarch64") {
        Some(Self::Arm64)
    } else if cfg!(target_arch = "arm") {
        Some(Self::Arm)
    } else {
        None
    };
}

/// Capabilities by the kernel's numbers, as in `/proc/PID/status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapabilitySet(pub u64);

impl CapabilitySet {
    /// What a container has that is not granted any.
    pub const EMPTY: Self = Self(0);

    /// The set and one more, by the kernel's number.
    #[must_use]
    pub const fn with(self, number: u8) -> Self {
        Self(self.0 | 1 << number)
    }

    const fn has_all(self, others: u64) -> bool {
        self.0 & others == others
    }

    const fn has_any(self, others: u64) -> bool {
        self.0 & others != 0
    }
}

/// The filter of `seccompProfile: RuntimeDefault` for a container that has the capabilities `granted` (its bounding set).
#[must_use]
pub fn runtime_default(arch: Arch, granted: CapabilitySet) -> Vec<SockFilter> {
    match arch {
        Arch::Amd64 => compile::filter(&[&tables::RUNTIME_DEFAULT_AMD64, &tables::RUNTIME_DEFAULT_I386], granted),
        Arch::Arm64 => compile::filter(&[&tables::RUNTIME_DEFAULT_ARM64, &tables::RUNTIME_DEFAULT_ARM], granted),
        Arch::Arm => compile::filter(&[&tables::RUNTIME_DEFAULT_ARM], granted),
    }
}

/// The filter of the process that runs a WebAssembly module, from the moment when everything it needs is open.
///
/// It may work with descriptors and files below them, memory, threads, clocks and signals to itself. No socket, no other
/// program, no other process, no namespace, mount or module.
#[must_use]
pub fn wasm_worker(arch: Arch) -> Vec<SockFilter> {
    let table = match arch {
        Arch::Amd64 => &tables::WASM_WORKER_AMD64,
        Arch::Arm64 => &tables::WASM_WORKER_ARM64,
        Arch::Arm => &tables::WASM_WORKER_ARM,
    };
    compile::filter(&[table], CapabilitySet::EMPTY)
}

/// Which threads of the process a filter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// The one that calls, and those that it starts later.
    This,
    /// All there are.
    All,
}

/// Loads a filter into this process. It cannot be taken off again, and whatever the process executes has it as well.
///
/// Fails with the kernel's error number: EACCES without `no_new_privs` (or CAP_SYS_ADMIN), ENOSYS or EINVAL on a kernel
/// without seccomp filters, EINVAL for what is no filter.
pub fn load(filter: &[SockFilter], threads: Threads) -> Result<(), i32> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_| libc::EINVAL)?,
        filter: filter.as_ptr().cast_mut().cast(),
    };
    let flags = match threads {
        Threads::This => 0,
        Threads::All => libc::SECCOMP_FILTER_FLAG_TSYNC,
    };
    // SAFETY: `SockFilter` has the layout of `sock_filter`, and program and instructions outlive the call, which copies them.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    match result {
        0 => Ok(()),
        // SAFETY: the address of this thread's error number is always valid.
        -1 => Err(unsafe { *libc::__errno_location() }),
        // The id of a thread that has another filter already and cannot take this one.
        _ => Err(libc::ESRCH),
    }
}

#[cfg(test)]
mod tests;
