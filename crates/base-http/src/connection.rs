//! One connection: what is counted about it, and how it is closed from outside.
//!
//! A connection's bytes go through [`Io`], below TLS: it counts them, and it is where a connection ends at once,
//! whoever holds it by then: a TLS handshake, hyper, or the handler that upgraded it. Everything else about a connection
//! is in [`Shared`], which the registry, the handler and the connection's own task hold together.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio::task::coop;
use tokio::time::{Instant, Sleep};

use crate::admission::Admission;
use crate::{Peer, PeerAddr, RejectReason};

/// How a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// The peer is asked to open no further request (GOAWAY); open ones are finished within the listener's grace period.
    Gracefully,
    /// Now, with everything that is open on it.
    AtOnce,
}

/// How long a connection that a limit has closed may take to end by itself after GOAWAY.
pub(crate) const GOAWAY_GRACE: Duration = Duration::from_secs(2);

/// What is read of a peer that has not authenticated: a handshake, the head of a request, and what comes along with it until
/// the handler has looked at its token. Frames that carry no request cost CPU, and bring their sender no further.
const UNPROVEN_BYTES: u64 = 64 * 1024;

/// And so much more each second, as long as it has not.
const UNPROVEN_BYTES_PER_SECOND: u64 = 16 * 1024;

/// A task has 128 units of work before others have their turn, and a read is one of them, however much it brings: a socket
/// that is always full would bring half a megabyte of the smallest frames. Each of these counts as one more.
const TURN_BYTES: usize = 1024;

/// Phases only ever go up.
pub(crate) mod phase {
    pub(crate) const OPEN: u8 = 0;
    pub(crate) const CLOSING: u8 = 1;
    pub(crate) const CLOSED: u8 = 2;
    /// The socket was dropped.
    pub(crate) const ENDED: u8 = 3;
}

/// A live connection, as its handler and the owner of a [`crate::Connections`] see it. Clones are the same connection; a handle
/// does not keep the connection open.
#[derive(Clone)]
pub struct ConnectionHandle(pub(crate) Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) id: u64,
    pub(crate) addr: PeerAddr,
    pub(crate) opened: Instant,
    /// Known after the handshake.
    pub(crate) peer: OnceLock<Peer>,
    pub(crate) admission: Arc<Admission>,
    phase: AtomicU8,
    changed: Notify,
    reader: AtomicWaker,
    writer: AtomicWaker,
    bytes_received: AtomicU64,
    bytes_sent: AtomicU64,
    requests: AtomicU64,
    requests_open: AtomicU32,
    /// Times are milliseconds since `opened`.
    received_at_ms: AtomicU64,
    authenticated_at_ms: AtomicU64,
    idle_since_ms: AtomicU64,
    /// How long open requests may continue when it is closed gracefully, if that is less than the listener's grace period.
    grace_ms: AtomicU64,
    is_authenticated: AtomicBool,
    is_upgraded: AtomicBool,
}

impl ConnectionHandle {
    /// Its number, which no other connection of this process has.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        self.0.peer.get().expect("handles are given out after the handshake, which sets the peer")
    }

    /// How long it has been open.
    pub fn age(&self) -> Duration {
        self.0.opened.elapsed()
    }

    /// Bytes that came from the peer, TLS included.
    pub fn bytes_received(&self) -> u64 {
        self.0.bytes_received.load(Ordering::Relaxed)
    }

    /// Bytes that went to the peer, TLS included.
    pub fn bytes_sent(&self) -> u64 {
        self.0.bytes_sent.load(Ordering::Relaxed)
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.0.requests.load(Ordering::Relaxed)
    }

    /// Requests whose response has not been sent to its end.
    pub fn requests_open(&self) -> u32 {
        self.0.requests_open.load(Ordering::Relaxed)
    }

    /// Says that the peer has just proved who it is: by its certificate in `on_connect`, or by a request's token. On a listener
    /// that asks for certificates, a connection of which nobody says so is closed after
    /// [`Limits::anonymous_timeout`](crate::Limits::anonymous_timeout).
    pub fn mark_authenticated(&self) {
        self.0.authenticated_at_ms.store(self.0.now_ms(), Ordering::Relaxed);
        if !self.0.is_authenticated.swap(true, Ordering::Relaxed) {
            // It may have sent more than is read of somebody unknown.
            self.0.reader.wake();
        }
    }

    /// Whether somebody said so.
    pub fn is_authenticated(&self) -> bool {
        self.0.is_authenticated.load(Ordering::Relaxed)
    }

    /// Counts the connection among those of `key` (a user's name, say), of which at most `max` may be open on this listener.
    /// One more closes the oldest of them, and rather one without open requests: a node whose old connections died with its
    /// link must get in, and a client that opens too many only hurts itself. Requests that are open have two seconds to end,
    /// and connections that end so are never more than those that stay. A second key replaces the first.
    ///
    /// Of the places for connections without a certificate ([`Limits::anonymous_max`](crate::Limits::anonymous_max)) one key
    /// gets a quarter at most: one token is not to keep the bearers of others out.
    pub fn count_under(&self, key: &str, max: usize) {
        self.0.admission.count_under(&self.0, key, max);
    }

    /// Closes it. Closing twice is harmless.
    pub fn close(&self, how: Close) {
        self.0.close(how);
    }

    /// Whether it is being closed, or has ended.
    pub fn is_closing(&self) -> bool {
        self.0.is_closing()
    }

    /// Ready when the connection is being closed: by [`ConnectionHandle::close`], by a limit, or because the listener drains.
    /// Streams and upgrades without an end of their own end by this.
    pub async fn closing(&self) {
        self.0.reached(phase::CLOSING).await;
    }
}

impl std::fmt::Debug for ConnectionHandle {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "ConnectionHandle({} from {:?})", self.0.id, self.0.addr)
    }
}

/// Why a connection is to be closed, or when to look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    LookAgain(Instant),
    NoRequest,
    Unauthenticated,
    Idle,
}

impl Shared {
    pub(crate) fn new(addr: PeerAddr, admission: Arc<Admission>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            addr,
            opened: Instant::now(),
            peer: OnceLock::new(),
            admission,
            phase: AtomicU8::new(phase::OPEN),
            changed: Notify::new(),
            reader: AtomicWaker::new(),
            writer: AtomicWaker::new(),
            bytes_received: AtomicU64::new(0),
            bytes_sent: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            requests_open: AtomicU32::new(0),
            received_at_ms: AtomicU64::new(0),
            authenticated_at_ms: AtomicU64::new(0),
            idle_since_ms: AtomicU64::new(0),
            grace_ms: AtomicU64::new(u64::MAX),
            is_authenticated: AtomicBool::new(false),
            is_upgraded: AtomicBool::new(false),
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn phase(&self) -> u8 {
        self.phase.load(Ordering::Acquire)
    }

    fn raise(&self, to: u8) {
        if self.phase.fetch_max(to, Ordering::AcqRel) < to {
            self.changed.notify_waiters();
            if to >= phase::CLOSED {
                self.reader.wake();
                self.writer.wake();
            }
        }
    }

    pub(crate) fn close(&self, how: Close) {
        self.raise(match how {
            Close::Gracefully => phase::CLOSING,
            Close::AtOnce => phase::CLOSED,
        });
    }

    /// Closes it gracefully, for what a limit says: open requests have a moment, not the grace period of a drain.
    pub(crate) fn close_soon(&self) {
        let grace_ms = u64::try_from(GOAWAY_GRACE.as_millis()).unwrap_or(u64::MAX);
        self.grace_ms.fetch_min(grace_ms, Ordering::Relaxed);
        self.close(Close::Gracefully);
    }

    /// How long open requests may continue now that it is being closed.
    pub(crate) fn grace(&self) -> Duration {
        Duration::from_millis(self.grace_ms.load(Ordering::Relaxed)).min(self.admission.limits.drain_grace)
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.phase() >= phase::CLOSING
    }

    /// Before a session is made: what was marked for an earlier one does not count for it.
    pub(crate) fn forget_authentication(&self) {
        self.is_authenticated.store(false, Ordering::Relaxed);
    }

    /// Ready when the connection has reached this phase.
    pub(crate) async fn reached(&self, phase: u8) {
        let mut notified = std::pin::pin!(self.changed.notified());
        loop {
            notified.as_mut().enable();
            if self.phase() >= phase {
                return;
            }
            notified.as_mut().await;
            notified.set(self.changed.notified());
        }
    }

    /// When the next bytes are read of a peer that has sent enough for somebody who has not authenticated.
    fn reads_again_at(&self) -> Option<Instant> {
        if self.is_authenticated() {
            return None;
        }
        let excess = self.bytes_received.load(Ordering::Relaxed).checked_sub(UNPROVEN_BYTES)?;
        let at_ms = excess.saturating_mul(1000) / UNPROVEN_BYTES_PER_SECOND;
        if self.now_ms() >= at_ms { None } else { self.opened.checked_add(Duration::from_millis(at_ms)) }
    }

    pub(crate) fn is_authenticated(&self) -> bool {
        self.is_authenticated.load(Ordering::Relaxed)
    }

    pub(crate) fn has_requests(&self) -> bool {
        self.requests_open.load(Ordering::Relaxed) > 0
    }

    /// Whether closing it would cut something off.
    pub(crate) fn is_in_use(&self) -> bool {
        self.has_requests() || self.is_upgraded.load(Ordering::Relaxed)
    }

    pub(crate) fn note_received(&self, bytes: usize) {
        self.bytes_received.fetch_add(bytes as u64, Ordering::Relaxed);
        self.received_at_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// How long nothing has come from the peer.
    pub(crate) fn silence(&self) -> Duration {
        Duration::from_millis(self.now_ms().saturating_sub(self.received_at_ms.load(Ordering::Relaxed)))
    }

    /// Upgraded connections, and those that carry a tunnel, have no requests by which to judge that they are idle.
    pub(crate) fn mark_upgraded(&self) {
        self.is_upgraded.store(true, Ordering::Relaxed);
    }

    /// What the limits say about the connection now. Plain function of its counters, so that the timer of a connection only runs
    /// when something may be due, and no request has to touch it.
    pub(crate) fn verdict(&self) -> Verdict {
        let limits = &self.admission.limits;
        let now_ms = self.now_ms();
        let at = |ms: u64| self.opened.checked_add(Duration::from_millis(ms)).unwrap_or(self.opened);
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let first_by = ms(limits.first_request_timeout);
        if self.requests.load(Ordering::Relaxed) == 0 {
            return if now_ms >= first_by { Verdict::NoRequest } else { Verdict::LookAgain(at(first_by)) };
        }
        if !self.is_authenticated() {
            let by = ms(limits.anonymous_timeout);
            return if now_ms >= by { Verdict::Unauthenticated } else { Verdict::LookAgain(at(by)) };
        }
        let has_certificate = self.peer.get().is_some_and(|peer| peer.client_cert.is_some());
        let is_anonymous = self.admission.asks_certificates && !has_certificate;
        let patience = if is_anonymous { limits.anonymous_timeout } else { limits.idle_timeout };
        if self.is_in_use() {
            return Verdict::LookAgain(at(now_ms.saturating_add(ms(patience))));
        }
        // A request without a good token does not prolong the life of a connection that once had one.
        let since = if is_anonymous { &self.authenticated_at_ms } else { &self.idle_since_ms };
        let by = since.load(Ordering::Relaxed).saturating_add(ms(patience));
        if now_ms >= by { Verdict::Idle } else { Verdict::LookAgain(at(by)) }
    }
}

/// A request that has not been answered to its end.
pub(crate) struct OpenRequest(Arc<Shared>);

impl OpenRequest {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        shared.requests.fetch_add(1, Ordering::Relaxed);
        shared.requests_open.fetch_add(1, Ordering::Relaxed);
        Self(shared.clone())
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.idle_since_ms.store(self.0.now_ms(), Ordering::Relaxed);
        self.0.requests_open.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connection's socket.
pub(crate) struct Io {
    stream: Stream,
    shared: Arc<Shared>,
    /// Since when the socket takes nothing; boxed, because nearly all of them take everything.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Runs while nothing is read of a peer that has not authenticated and has sent enough.
    paused: Option<Pin<Box<Sleep>>>,
}

impl Io {
    pub(crate) fn new(stream: Stream, shared: Arc<Shared>) -> Self {
        Self { stream, shared, stalled: None, paused: None }
    }

    fn check(&self) -> io::Result<()> {
        if self.shared.phase() >= phase::CLOSED { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }

    /// Whether something is read now.
    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.shared.reads_again_at() else {
            self.paused = None;
            return Poll::Ready(());
        };
        let timer = self.paused.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if timer.deadline() != at {
            timer.as_mut().reset(at);
        }
        timer.as_mut().poll(context)
    }

    fn sent(&mut self, context: &mut Context<'_>, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let Poll::Ready(sent) = polled else {
            let admission = &self.shared.admission;
            let timer =
                self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(admission.limits.write_timeout)));
            if timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            admission.stats.reject(RejectReason::Stalled);
            self.shared.close(Close::AtOnce);
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        };
        self.stalled = None;
        if let Ok(bytes) = sent {
            self.shared.bytes_sent.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        Poll::Ready(sent)
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        self.shared.raise(phase::ENDED);
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.shared.reader.register(context.waker());
        self.check()?;
        std::task::ready!(self.poll_turn(context));
        let before = buffer.filled().len();
        let polled = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        };
        let read = buffer.filled().len() - before;
        if read > 0 {
            self.shared.note_received(read);
            for _ in 0..read / TURN_BYTES {
                if coop::has_budget_remaining()
                    && let Poll::Ready(unit) = coop::poll_proceed(context)
                {
                    unit.made_progress();
                }
            }
        }
        polled
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.shared.writer.register(context.waker());
        self.check()?;
        let polled = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        };
        self.sent(context, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.shared.writer.register(context.waker());
        self.check()?;
        let polled = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        };
        self.sent(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Tcp(stream) => stream.is_write_vectored(),
            Stream::Unix(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use tokio::io::AsyncWriteExt as _;

    use super::*;
    use crate::Limits;

    #[tokio::test]
    async fn a_full_socket_lets_other_tasks_have_their_turn() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let bytes = 400 * 1024;
        rustix::net::sockopt::set_socket_send_buffer_size(theirs.as_fd(), 4 * bytes).unwrap();
        theirs.write_all(&vec![b'x'; bytes]).await.unwrap();
        let admission = Arc::new(Admission::new(Limits::default(), false, Arc::default()));
        let shared = Arc::new(Shared::new(PeerAddr::Unix, admission));
        ConnectionHandle(shared.clone()).mark_authenticated();
        let mut io = Io::new(Stream::Unix(ours), shared.clone());
        let mut turns = Vec::new();
        while shared.bytes_received.load(Ordering::Relaxed) < bytes as u64 {
            let before = shared.bytes_received.load(Ordering::Relaxed);
            let mut space = vec![0; 4096];
            std::future::poll_fn(|context| {
                while let Poll::Ready(read) = Pin::new(&mut io).poll_read(context, &mut ReadBuf::new(&mut space)) {
                    read.unwrap();
                }
                Poll::Ready(())
            })
            .await;
            turns.push(shared.bytes_received.load(Ordering::Relaxed) - before);
            tokio::task::yield_now().await;
        }
        assert!(turns.iter().all(|bytes| *bytes <= 128 * 1024), "{turns:?}");
        assert!(turns.len() <= 6, "a turn is worth its while: {turns:?}");
    }
}
