//! Netlink without a library: messages as bytes, one socket, errors with the kernel's own text.
//!
//! Several messages go out in one call ([`Messages`]). The kernel carries them out in order, reports each that fails, and
//! acknowledges the last; so when that acknowledgement has come, all errors have. (Of a batch for nftables the last message is
//! the one before the batch's end, which old kernels do not acknowledge.) An answer that does not come within a time limit
//! is an error: a thread must not wait for ever for a kernel that lost a message to a full buffer.

mod decode;
mod encode;
#[cfg(test)]
mod tests;

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    thread,
    time::Duration,
};

pub use decode::{Message, Truncated, attribute, attributes, behind, messages, number, number_be, short, string};
pub use encode::{ACK, APPEND, CREATE, DUMP, EXCLUSIVE, Messages, REPLACE};

/// The kernel answers at once; only a machine that swaps or is being debugged takes seconds.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// The kernel's dumps fill at most 32 KiB at once; errors are smaller.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// A batch must go out in one call: a thousand services are half a megabyte.
const SEND_BYTES_MAX: i32 = 32 * 1024 * 1024;
/// Errors of the messages of one batch wait in here.
const RECEIVE_BYTES_MAX: i32 = 8 * 1024 * 1024;
/// A list that changes under the reader is read again; not for ever.
const DUMP_ATTEMPTS: u32 = 5;

/// What a socket speaks with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Links, addresses, routes, neighbours.
    Route,
    /// nftables and connection tracking.
    Netfilter,
}

/// Why the kernel did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// There is no such socket, or it broke.
    #[error("failed to {act}")]
    Socket {
        /// What was done.
        act: &'static str,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// The kernel said no.
    #[error("failed to {act}: {}{}{text}", io::Error::from_raw_os_error(*code), if text.is_empty() { "" } else { ": " })]
    Kernel {
        /// What was requested.
        act: String,
        /// The number of the error.
        code: i32,
        /// What the kernel adds to it.
        text: String,
    },
    /// The answer makes no sense.
    #[error("failed to read the kernel's answer")]
    Answer(#[from] Truncated),
    /// A list is longer than an attribute can be.
    #[error("a list is too long for one message to the kernel")]
    Overlong,
}

impl NetlinkError {
    /// Whether the kernel refused with this error.
    pub fn is(&self, expected: i32) -> bool {
        matches!(self, Self::Kernel { code, .. } if *code == expected)
    }
}

/// A connection to the kernel, in the network namespace in which it was opened.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens one in the namespace of this thread.
    pub fn open(protocol: Protocol) -> Result<Self, NetlinkError> {
        let number = match protocol {
            Protocol::Route => libc::NETLINK_ROUTE,
            Protocol::Netfilter => libc::NETLINK_NETFILTER,
        };
        let failed = |source| NetlinkError::Socket { act: "open a netlink socket", source };
        // SAFETY: socket takes plain numbers; the new descriptor belongs to nobody else.
        let fd = unsafe {
            match libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, number) {
                -1 => return Err(failed(io::Error::last_os_error())),
                fd => OwnedFd::from_raw_fd(fd),
            }
        };
        // Old kernels have no texts and send requests back in full; a container may not be allowed large buffers.
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
            set_option(&fd, libc::SOL_NETLINK, option, &1_i32).unwrap_or_default();
        }
        for (option, bytes) in [(libc::SO_SNDBUFFORCE, SEND_BYTES_MAX), (libc::SO_RCVBUFFORCE, RECEIVE_BYTES_MAX)] {
            set_option(&fd, libc::SOL_SOCKET, option, &bytes).unwrap_or_default();
        }
        let wait = libc::timeval { tv_sec: ANSWER_WAIT.as_secs() as _, tv_usec: 0 };
        set_option(&fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &wait).map_err(failed)?;
        Ok(Self { fd, sequence: 0, buffer: vec![0; ANSWER_BYTES_MAX] })
    }

    /// Sends all messages in one call and waits until they are carried out.
    ///
    /// The first error that is not tolerated is returned; what messages before and after it did is done, except in a batch
    /// for nftables, which is done as a whole or not at all.
    pub fn send(&mut self, requests: Messages) -> Result<(), NetlinkError> {
        self.request(requests, |_| {})
    }

    /// As [`Self::send`], and hands what is answered to `each`.
    pub fn request(&mut self, mut requests: Messages, mut each: impl FnMut(&Message<'_>)) -> Result<(), NetlinkError> {
        if !requests.is_sound() {
            return Err(NetlinkError::Overlong);
        }
        let Some(last) = requests.parts().iter().rposition(|part| part.act != BATCH_END) else { return Ok(()) };
        let first_sequence = self.sequence.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(requests.parts().len() as u32);
        send_all(&self.fd, requests.finish(first_sequence, last))?;
        let mut failed = None;
        loop {
            let length = receive(&self.fd, &mut self.buffer)?;
            for message in messages(&self.buffer[..length]) {
                let message = message?;
                let index = message.sequence.wrapping_sub(first_sequence) as usize;
                // Late answers to a request that was given up have an older number.
                let Some(part) = requests.parts().get(index) else { continue };
                let is_end = match message.kind {
                    decode::KIND_ERROR | decode::KIND_DONE => {
                        // The end of a dump has no number on old kernels.
                        let (code, text) = decode::verdict(&message).unwrap_or_default();
                        if code > 0 && !part.tolerated.contains(&code) && failed.is_none() {
                            failed = Some(NetlinkError::Kernel { act: part.act.clone(), code, text });
                        }
                        // An error of the batch as a whole comes with the number of its beginning.
                        index == last || part.act == BATCH_BEGIN
                    }
                    _ => {
                        each(&message);
                        false
                    }
                };
                if message.flags & decode::FLAG_INTERRUPTED != 0 && failed.is_none() {
                    let act = part.act.clone();
                    failed = Some(NetlinkError::Kernel { act, code: libc::EINTR, text: String::new() });
                }
                if is_end {
                    return failed.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// Reads a list. It is read again from the start when it changed meanwhile: `collect` is handed whole lists only.
    pub fn dump<T>(
        &mut self,
        request: &Messages,
        mut collect: impl FnMut(&Message<'_>) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        let mut attempt = 1;
        loop {
            let mut found = Vec::new();
            match self.request(request.clone(), |message| found.extend(collect(message))) {
                Ok(()) => return Ok(found),
                Err(error) if error.is(libc::EINTR) && attempt < DUMP_ATTEMPTS => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }
}

/// What begins and ends a batch for nftables is called; the socket knows them by it.
pub(crate) const BATCH_BEGIN: &str = "change nftables";
pub(crate) const BATCH_END: &str = "end a batch for nftables";

/// Reads bytes as an answer of any kind; returns how many pieces were found. For fuzzing.
#[doc(hidden)]
pub fn read_any(bytes: &[u8]) -> usize {
    let mut pieces = 0;
    for message in messages(bytes) {
        let Ok(message) = message else { break };
        pieces += 1 + attributes(behind(message.payload, 4)).count() + crate::nft::read::read_any(&message);
        decode::verdict(&message);
        crate::links::read_any(&message);
        crate::conntrack::read_any(&message);
    }
    pieces
}

fn set_option<T>(fd: &OwnedFd, level: i32, option: i32, value: &T) -> io::Result<()> {
    // SAFETY: pointer and length are those of one value that outlives the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn send_all(fd: &OwnedFd, bytes: &[u8]) -> Result<(), NetlinkError> {
    // A netlink socket that was not connected speaks with the kernel.
    match rustix::net::send(fd, bytes, rustix::net::SendFlags::empty()) {
        Ok(sent) if sent == bytes.len() => Ok(()),
        Ok(_) => Err(NetlinkError::Socket {
            act: "send all messages to the kernel at once",
            source: io::ErrorKind::WriteZero.into(),
        }),
        Err(error) => Err(NetlinkError::Socket { act: "send to the kernel", source: error.into() }),
    }
}

fn receive(fd: &OwnedFd, buffer: &mut [u8]) -> Result<usize, NetlinkError> {
    loop {
        match rustix::net::recv(fd, &mut *buffer, rustix::net::RecvFlags::TRUNC) {
            Err(rustix::io::Errno::INTR) => {}
            // TRUNC makes the kernel report the length that it had.
            Ok((_, length)) if length > buffer.len() => return Err(Truncated.into()),
            Ok((_, length)) => return Ok(length),
            Err(error) => return Err(NetlinkError::Socket { act: "receive from the kernel", source: error.into() }),
        }
    }
}

/// Runs `act` inside a network namespace, on a thread of its own: a thread that has entered a namespace must not be used again.
///
/// # Errors
/// When the namespace cannot be entered; `act`'s own result is inside.
pub fn in_namespace<T: Send>(namespace: &File, act: impl FnOnce() -> T + Send) -> io::Result<T> {
    on_throw_away_thread(|| {
        // The thread shares nothing else with others that setns would change.
        rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(rustix::thread::LinkNameSpaceType::Network))?;
        Ok(act())
    })?
}

/// Runs `act` on a thread that ends with it.
pub(crate) fn on_throw_away_thread<T: Send>(act: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("network".to_owned()).stack_size(256 * 1024);
        let thread = builder.spawn_scoped(scope, act)?;
        thread.join().map_err(|_| io::Error::other("a thread of the network panicked"))
    })
}
