//! What happened to connections, as counters that the owner of a listener reads and exposes.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Why a connection was not let in, or had to give way to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectReason {
    /// All connections of the listener are taken.
    Total,
    /// Too many handshakes at a time: one of the address that has most of them gave way, or was turned away.
    Handshakes,
    /// Too many connections without a certificate.
    Anonymous,
    /// Too many connections without a certificate from one address.
    Address,
    /// Too many connections whose certificate is not accepted: the oldest gave way.
    Unaccepted,
    /// Too many connections of one identity: its oldest gave way.
    Identity,
    /// No request within the time for the first.
    NoRequest,
    /// No authenticated request within the time for it.
    Unauthenticated,
    /// The handler rejected it.
    Handler,
    /// It did not take what it had requested; with HTTP/2 only the one request is lost.
    Stalled,
}

impl RejectReason {
    /// All of them, for whoever exposes the counters.
    pub const ALL: [Self; 10] = [
        Self::Total,
        Self::Handshakes,
        Self::Anonymous,
        Self::Address,
        Self::Unaccepted,
        Self::Identity,
        Self::NoRequest,
        Self::Unauthenticated,
        Self::Handler,
        Self::Stalled,
    ];

    /// As the label of a metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Handshakes => "handshakes",
            Self::Anonymous => "anonymous",
            Self::Address => "address",
            Self::Unaccepted => "unaccepted",
            Self::Identity => "identity",
            Self::NoRequest => "no_request",
            Self::Unauthenticated => "unauthenticated",
            Self::Handler => "handler",
            Self::Stalled => "stalled",
        }
    }
}

/// Counters of all listeners that share a [`crate::Connections`]. Those called `_total` only go up.
#[derive(Debug, Default)]
pub struct ConnectionStats {
    opened: AtomicU64,
    closed: AtomicU64,
    handshaking: AtomicI64,
    anonymous: AtomicI64,
    handshakes_done: AtomicU64,
    handshakes_failed: AtomicU64,
    accept_errors: AtomicU64,
    requests: AtomicU64,
    panics: AtomicU64,
    idle_closed: AtomicU64,
    rejected: [AtomicU64; RejectReason::ALL.len()],
}

impl ConnectionStats {
    /// Connections open now, handshakes included.
    pub fn open(&self) -> u64 {
        // Closed is read first: a connection that ends in between is then counted as open, and never as less than none.
        let closed = self.closed.load(Ordering::Acquire);
        self.opened.load(Ordering::Acquire).saturating_sub(closed)
    }

    /// Of these, the ones in a handshake.
    pub fn handshaking(&self) -> u64 {
        u64::try_from(self.handshaking.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Of these, the ones without a certificate on a listener that asks for one.
    pub fn anonymous(&self) -> u64 {
        u64::try_from(self.anonymous.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Connections that were accepted.
    pub fn opened_total(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// TLS handshakes that succeeded.
    pub fn handshakes_total(&self) -> u64 {
        self.handshakes_done.load(Ordering::Relaxed)
    }

    /// TLS handshakes that did not.
    pub fn handshakes_failed_total(&self) -> u64 {
        self.handshakes_failed.load(Ordering::Relaxed)
    }

    /// Times that the system gave no connection, for lack of file descriptors as a rule.
    pub fn accept_errors_total(&self) -> u64 {
        self.accept_errors.load(Ordering::Relaxed)
    }

    /// Requests that reached a handler.
    pub fn requests_total(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Handlers and response bodies that panicked.
    pub fn panics_total(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// Connections closed because nothing was asked on them.
    pub fn idle_closed_total(&self) -> u64 {
        self.idle_closed.load(Ordering::Relaxed)
    }

    /// Connections that were rejected or gave way, by reason.
    pub fn rejected_total(&self, reason: RejectReason) -> u64 {
        self.rejected[reason as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn add_handshaking(&self, change: i64) {
        self.handshaking.fetch_add(change, Ordering::Relaxed);
    }

    pub(crate) fn add_anonymous(&self, change: i64) {
        self.anonymous.fetch_add(change, Ordering::Relaxed);
    }

    pub(crate) fn opened(&self) {
        self.opened.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn closed(&self) {
        self.closed.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn handshake(&self, is_done: bool) {
        let counter = if is_done { &self.handshakes_done } else { &self.handshakes_failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn accept_error(&self) {
        self.accept_errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn panic(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn idle(&self) {
        self.idle_closed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn reject(&self, reason: RejectReason) {
        self.rejected[reason as usize].fetch_add(1, Ordering::Relaxed);
    }
}
