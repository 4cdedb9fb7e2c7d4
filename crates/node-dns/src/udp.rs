//! Datagrams by the dozen: 32 are read and answered with two system calls, which is where most of a query's time goes.
//!
//! The headers that the kernel reads and writes point into buffers beside them. All of them are on the heap and never grow, so the pointers
//! stay right; they make the type one thread's own.

use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::message::PAYLOAD_EDNS;

/// Datagrams of one call.
pub(crate) const BATCH: usize = 32;
/// Bytes of a query that are read: questions have a hundred, with padding 468 (RFC 8467).
const QUERY_LEN_MAX: usize = 1_500;
const ANSWER_LEN_MAX: usize = PAYLOAD_EDNS as usize;

/// Who sent a datagram, as the kernel wrote it.
pub(crate) struct Peer<'a>(&'a libc::sockaddr_storage);

impl Peer<'_> {
    /// Its address; of another family than the Internet's there is none.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        let storage: *const libc::sockaddr_storage = self.0;
        match i32::from(self.0.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says which type it is, and a `sockaddr_storage` is large enough and aligned for each.
                let v4 = unsafe { &*storage.cast::<libc::sockaddr_in>() };
                let address = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddrV4::new(address, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                let v6 = unsafe { &*storage.cast::<libc::sockaddr_in6>() };
                let address = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                Some(SocketAddrV6::new(address, u16::from_be(v6.sin6_port), v6.sin6_flowinfo, v6.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

/// Buffers for one batch, in and out.
pub(crate) struct Batch {
    queries: Box<[[u8; QUERY_LEN_MAX]]>,
    answers: Box<[[u8; ANSWER_LEN_MAX]]>,
    peers: Box<[libc::sockaddr_storage]>,
    // Only the kernel reads these, by the pointers in the headers.
    _query_parts: Box<[libc::iovec]>,
    answer_parts: Box<[libc::iovec]>,
    incoming: Box<[libc::mmsghdr]>,
    outgoing: Box<[libc::mmsghdr]>,
}

impl Batch {
    pub(crate) fn new() -> Self {
        let mut queries = vec![[0; QUERY_LEN_MAX]; BATCH].into_boxed_slice();
        let mut answers = vec![[0; ANSWER_LEN_MAX]; BATCH].into_boxed_slice();
        // SAFETY: all bits zero are a valid `sockaddr_storage`: plain numbers.
        let mut peers: Box<[libc::sockaddr_storage]> = (0..BATCH).map(|_| unsafe { zeroed() }).collect();
        let mut query_parts: Box<[libc::iovec]> = queries.iter_mut().map(part).collect();
        let mut answer_parts: Box<[libc::iovec]> = answers.iter_mut().map(part).collect();
        let incoming = peers.iter_mut().zip(&mut query_parts).map(|(peer, part)| header(peer, part)).collect();
        let outgoing = peers.iter_mut().zip(&mut answer_parts).map(|(peer, part)| header(peer, part)).collect();
        Self { queries, answers, peers, _query_parts: query_parts, answer_parts, incoming, outgoing }
    }

    /// Reads what is there, at most a batch, hands each datagram to `respond`, and sends the answers. Returns how many were read.
    pub(crate) fn serve(
        &mut self,
        socket: BorrowedFd<'_>,
        mut respond: impl FnMut(&[u8], &Peer<'_>, &mut [u8]) -> Option<usize>,
    ) -> io::Result<usize> {
        for message in &mut self.incoming {
            message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        }
        // SAFETY: the headers point to buffers of the given lengths, which live as long as `self` and are not borrowed now.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.incoming.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        let Ok(received) = usize::try_from(received) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
                _ => Err(error),
            };
        };
        let mut ready = 0;
        for index in 0..received {
            let message = &self.incoming[index];
            let query = &self.queries[index][..(message.msg_len as usize).min(QUERY_LEN_MAX)];
            if let Some(len) = respond(query, &Peer(&self.peers[index]), &mut self.answers[index]) {
                self.answer_parts[index].iov_len = len;
                // Answers are sent one behind the other; their headers are found by where their buffers are.
                let header = &mut self.outgoing[ready].msg_hdr;
                header.msg_iov = &raw mut self.answer_parts[index];
                header.msg_name = (&raw mut self.peers[index]).cast();
                header.msg_namelen = message.msg_hdr.msg_namelen;
                ready += 1;
            }
        }
        self.send(socket, ready);
        Ok(received)
    }

    /// An answer that cannot be sent is lost, as any datagram may be; those behind it are not.
    fn send(&mut self, socket: BorrowedFd<'_>, ready: usize) {
        let mut at = 0;
        while at < ready {
            let rest = &mut self.outgoing[at..ready];
            // SAFETY: as for receiving; `rest` is as long as it says.
            let sent = unsafe {
                libc::sendmmsg(
                    socket.as_raw_fd(),
                    rest.as_mut_ptr(),
                    rest.len() as libc::c_uint,
                    (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
                )
            };
            at += usize::try_from(sent).unwrap_or(0).max(1);
        }
    }
}

fn part<const N: usize>(buffer: &mut [u8; N]) -> libc::iovec {
    libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: N }
}

fn header(peer: &mut libc::sockaddr_storage, part: &mut libc::iovec) -> libc::mmsghdr {
    // SAFETY: all bits zero are a valid header without anything; some C libraries have padding in it, so it cannot be written out.
    let mut header: libc::mmsghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_hdr.msg_name = (&raw mut *peer).cast();
    header.msg_hdr.msg_iov = part;
    header.msg_hdr.msg_iovlen = 1;
    header
}
