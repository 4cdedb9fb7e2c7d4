//! The responder's thread: sockets in, table and upstreams behind, one loop over all of it.
//!
//! One thread and no locks: what it reads of others is the table of names, by an atomic number, and what others read of it are counters. A
//! burst of queries is read in batches; between two batches every other descriptor has its turn, so a flood by UDP does not keep TCP or an
//! upstream's answer waiting. A flood that is more than the thread can answer is dropped by the kernel, whose buffer is bounded.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tracing::{error, info};

use crate::answer::{Local, answer, udp_limit};
use crate::forward::{Asked, Forwarder, Question, Reply, is_address};
use crate::message::{CD, Query, Rejected, WireName, parse_query, rcode, write_rejection};
use crate::names::{Names, Reader};
use crate::poll::{EVENTS_MAX, Interest, Poller, Source, Token};
use crate::tcp::{ANSWER_LEN_MAX, Connections, Outcome};
use crate::udp::{BATCH, Batch};
use crate::upstreams::UpstreamSource;
use crate::waiter::{Alias, Client, Waiter, head_of, write, write_failure};

/// Batches that one socket is served before the others have their turn.
const BATCHES_PER_EVENT: usize = 4;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;
/// How often another free port is tried.
const FREE_PORT_TRIES: u32 = 16;
/// Bytes of queries that the kernel keeps for us: some 1,300, which are answered within ten milliseconds.
const RECEIVE_BUFFER: usize = 512 << 10;
/// How long a broken loop waits before it continues: so that a fault that stays is seen in the log, not in the load.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// What a responder needs to start.
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// Addresses and ports, UDP and TCP each: `169.254.20.10:53`. They need not be on an interface yet. Each must be one address, not all of
    /// a host's, because an answer comes from the address that was asked.
    pub listen: Vec<SocketAddr>,
    /// Whom to ask about the rest of the world.
    pub upstreams: UpstreamSource,
    /// How long one try waits for an upstream; there are four, of all upstreams in turn.
    pub try_timeout: Duration,
    /// Bytes that answers of upstreams may take.
    pub cache_bytes_max: usize,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            upstreams: UpstreamSource::File { path: "/etc/resolv.conf".into(), port: 53 },
            try_timeout: Duration::from_secs(1),
            cache_bytes_max: 1 << 20,
        }
    }
}

/// Why a responder did not start.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The address is in use, or may not be used.
    #[error("failed to listen on {address} for DNS by {protocol}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// UDP or TCP.
        protocol: &'static str,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// The kernel has no more threads or descriptors.
    #[error("failed to start the DNS responder")]
    Start(#[source] io::Error),
}

/// What a responder did, for `/metrics`. All but `cache_bytes` only grow.
#[derive(Debug, Default)]
pub struct Counters {
    /// Queries that were read.
    pub queries: AtomicU64,
    /// Of them by TCP.
    pub tcp_queries: AtomicU64,
    /// Answered from the table of names, absences included.
    pub local: AtomicU64,
    /// Answered from what upstreams said before.
    pub cache_hits: AtomicU64,
    /// Answered with what has expired.
    pub stale: AtomicU64,
    /// Questions that were sent to upstreams.
    pub forwarded: AtomicU64,
    /// Queries that joined a question on its way.
    pub coalesced: AtomicU64,
    /// Questions that no upstream answered.
    pub upstream_failures: AtomicU64,
    /// Questions that were not sent because too many were on their way.
    pub overloads: AtomicU64,
    /// Queries that could not be read, or ask for what is not served.
    pub rejected: AtomicU64,
    /// Queries at which the responder panicked: faults of ours, never a client's.
    pub panics: AtomicU64,
    /// Bytes that answers of upstreams take now.
    pub cache_bytes: AtomicU64,
}

/// A responder at work; dropping it ends its thread.
pub struct DnsServer {
    addresses: Vec<SocketAddr>,
    counters: Arc<Counters>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl DnsServer {
    /// Binds all addresses, then starts the thread.
    pub fn start(config: DnsConfig, names: &Names) -> Result<Self, DnsError> {
        let mut sockets = Vec::new();
        for address in &config.listen {
            sockets.push(Listen::bind(*address)?);
        }
        let addresses: Vec<SocketAddr> = sockets.iter().map(|listen| listen.address).collect();
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| DnsError::Start(error.into()))?;
        let wake = Arc::new(wake);
        let counters = Arc::new(Counters::default());
        let poller = poller(&sockets, &wake).map_err(|error| DnsError::Start(error.into()))?;
        let forwarder = Forwarder::new(
            config.upstreams,
            addresses.clone(),
            config.try_timeout,
            config.cache_bytes_max,
            Arc::clone(&counters),
        );
        let responder = Responder { reader: names.reader(), forwarder, poller, counters: Arc::clone(&counters) };
        let of_thread = Arc::clone(&wake);
        let thread = std::thread::Builder::new()
            .name("dns".into())
            .spawn(move || {
                let _wake = of_thread;
                Loop {
                    responder,
                    sockets,
                    batch: Batch::new(),
                    connections: Connections::new(),
                    scratch: vec![0; ANSWER_LEN_MAX],
                }
                .run();
            })
            .map_err(DnsError::Start)?;
        info!(?addresses, "DNS responder started.");
        Ok(Self { addresses, counters, wake, thread: Some(thread) })
    }

    /// Where it listens, with the ports that the kernel chose.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What it did.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Whether its thread lives; it ends when this is dropped, and only then.
    pub fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        // A full counter wakes as well, so there is nothing to do about an error.
        let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("The DNS responder's thread had panicked.");
        }
    }
}

/// One address, by both protocols.
struct Listen {
    address: SocketAddr,
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Listen {
    fn bind(address: SocketAddr) -> Result<Self, DnsError> {
        let mut tries = if address.port() == 0 { FREE_PORT_TRIES } else { 1 };
        loop {
            tries -= 1;
            match Self::bind_once(address) {
                // The kernel chooses a port that is free by UDP; by TCP somebody may have it.
                Err(DnsError::Listen { protocol: "TCP", .. }) if tries > 0 => {}
                done => return done,
            }
        }
    }

    fn bind_once(address: SocketAddr) -> Result<Self, DnsError> {
        let fail = |protocol, source: rustix::io::Errno| DnsError::Listen { address, protocol, source: source.into() };
        let udp: UdpSocket = bind(address, SocketType::DGRAM).map_err(|source| fail("UDP", source))?.into();
        // Both protocols have one port, also where the kernel chose it.
        let bound = udp.local_addr().map_err(DnsError::Start)?;
        let tcp = bind(bound, SocketType::STREAM).map_err(|source| fail("TCP", source))?;
        rustix::net::listen(&tcp, BACKLOG).map_err(|source| fail("TCP", source))?;
        Ok(Self { address: bound, udp, tcp: tcp.into() })
    }
}

fn bind(address: SocketAddr, kind: SocketType) -> Result<OwnedFd, rustix::io::Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    } else {
        // The address may come to the interface later, or for a moment be away from it.
        sockopt::set_ip_freebind(&socket, true)?;
    }
    if kind == SocketType::DGRAM {
        // Bursts of a whole node's pods; beyond the system's limit only with the right to, so less will do.
        let _ = sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER)
            .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER));
    }
    if kind == SocketType::STREAM {
        // Connections of the former life may not be over yet.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

fn poller(sockets: &[Listen], wake: &OwnedFd) -> Result<Poller, rustix::io::Errno> {
    let poller = Poller::new()?;
    poller.add(wake, Token { source: Source::Wake, generation: 0, index: 0 }, Interest::Read)?;
    for (index, listen) in (0_u32..).zip(sockets) {
        poller.add(&listen.udp, Token { source: Source::Udp, generation: 0, index }, Interest::Read)?;
        poller.add(&listen.tcp, Token { source: Source::Listener, generation: 0, index }, Interest::Read)?;
    }
    Ok(poller)
}

struct Loop {
    responder: Responder,
    sockets: Vec<Listen>,
    batch: Batch,
    connections: Connections,
    /// One answer by TCP, or what an upstream sent.
    scratch: Vec<u8>,
}

impl Loop {
    fn run(mut self) {
        self.responder.forwarder.prepare(Instant::now());
        let mut events = Vec::with_capacity(EVENTS_MAX);
        loop {
            // One query must not take the names from all pods: what it was is read already, and the next turn has the next one. The
            // state is plain data, none of which is left half changed in a way that matters more than an answer that is missing.
            match catch_unwind(AssertUnwindSafe(|| self.turn(&mut events))) {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => return,
                Ok(Err(error)) => {
                    error!(%error, "The DNS responder could not wait for queries; trying again.");
                    std::thread::sleep(ERROR_PAUSE);
                }
                Err(_) => {
                    self.responder.counters.panics.fetch_add(1, Ordering::Relaxed);
                    error!("The DNS responder panicked at a query; it continues with the next.");
                    std::thread::sleep(ERROR_PAUSE);
                }
            }
        }
    }

    /// Waits, and does what there is to do. Whether to continue.
    fn turn(&mut self, events: &mut Vec<Token>) -> Result<bool, rustix::io::Errno> {
        let mut space = [MaybeUninit::uninit(); EVENTS_MAX];
        events.clear();
        events.extend(self.responder.poller.wait(&mut space, self.timeout())?);
        for event in events.iter() {
            if event.source == Source::Wake {
                return Ok(false);
            }
            self.on_event(*event);
        }
        let now = Instant::now();
        self.responder.forwarder.on_time(&self.responder.poller, now);
        self.connections.on_time(now);
        self.deliver(now);
        Ok(true)
    }

    fn timeout(&self) -> Option<Duration> {
        let next =
            [self.responder.forwarder.next_deadline(), self.connections.next_deadline()].into_iter().flatten().min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    fn on_event(&mut self, event: Token) {
        let index = event.index as usize;
        match event.source {
            Source::Udp => self.serve(index),
            Source::Listener => {
                if let Some(listen) = self.sockets.get(index) {
                    self.connections.accept(listen.tcp.as_fd(), &self.responder.poller, Instant::now());
                }
            }
            Source::Client => {
                let Self { responder, connections, scratch, .. } = self;
                let mut core = Core {
                    reader: &mut responder.reader,
                    forwarder: &mut responder.forwarder,
                    counters: &responder.counters,
                };
                let (poller, now) = (&responder.poller, Instant::now());
                connections.on_event(event, poller, scratch, now, |query, address, out| {
                    let client = Client::Tcp { index, generation: event.generation, address };
                    core.respond_tcp(query, client, out, poller, now)
                });
            }
            Source::UpstreamUdp | Source::UpstreamTcp => {
                let responder = &mut self.responder;
                responder.forwarder.on_event(event, &responder.poller, &mut self.scratch, Instant::now());
            }
            Source::Wake => {}
        }
    }

    fn serve(&mut self, index: usize) {
        let Self { responder, sockets, batch, .. } = self;
        let Some(listen) = sockets.get(index) else { return };
        let mut core =
            Core { reader: &mut responder.reader, forwarder: &mut responder.forwarder, counters: &responder.counters };
        let poller = &responder.poller;
        for _ in 0..BATCHES_PER_EVENT {
            // An error is one datagram's (a client that does not exist any more), and the next call has the next one.
            let received = batch.serve(listen.udp.as_fd(), |query, peer, out| {
                core.respond_udp(
                    query,
                    || peer.address().map(|address| Client::Udp { socket: index, address }),
                    out,
                    poller,
                )
            });
            match received {
                Ok(BATCH) => {}
                Ok(_) | Err(_) => return,
            }
        }
    }

    /// Answers those whose upstream did.
    fn deliver(&mut self, now: Instant) {
        // A client that is answered may ask the next thing, which may be answered at once or wait.
        loop {
            let finished = self.responder.forwarder.finished();
            if finished.is_empty() {
                return;
            }
            for done in finished {
                for waiter in &done.waiters {
                    self.deliver_one(waiter, &done.reply, now);
                }
            }
        }
    }

    fn deliver_one(&mut self, waiter: &Waiter, reply: &Reply, now: Instant) {
        let written = match reply {
            Reply::Answer(stored, ttl) => waiter.write(stored, *ttl, &mut self.scratch),
            Reply::Failed(code) => waiter.write_failure(*code, &mut self.scratch),
        };
        let Some(len) = written else { return };
        match waiter.client {
            Client::Udp { socket, address } => {
                if let Some(listen) = self.sockets.get(socket) {
                    // A datagram that cannot be sent is lost; its client asks again.
                    let _ = listen.udp.send_to(&self.scratch[..len], address);
                }
            }
            Client::Tcp { index, generation, .. } => {
                let answer = self.scratch[..len].to_vec();
                let Self { responder, connections, scratch, .. } = self;
                let mut core = Core {
                    reader: &mut responder.reader,
                    forwarder: &mut responder.forwarder,
                    counters: &responder.counters,
                };
                let poller = &responder.poller;
                connections.deliver((index, generation), &answer, poller, scratch, now, |query, address, out| {
                    core.respond_tcp(query, Client::Tcp { index, generation, address }, out, poller, now)
                });
            }
        }
    }
}

struct Responder {
    reader: Reader,
    forwarder: Forwarder,
    poller: Poller,
    counters: Arc<Counters>,
}

/// What answers one query.
struct Core<'a> {
    reader: &'a mut Reader,
    forwarder: &'a mut Forwarder,
    counters: &'a Counters,
}

impl Core<'_> {
    /// By UDP: the answer's length, or `None` where none is sent now.
    fn respond_udp(
        &mut self,
        bytes: &[u8],
        client: impl FnOnce() -> Option<Client>,
        out: &mut [u8],
        poller: &Poller,
    ) -> Option<usize> {
        self.counters.queries.fetch_add(1, Ordering::Relaxed);
        let mut name = WireName::ROOT;
        let query = match parse_query(bytes, &mut name) {
            Ok(query) => query,
            Err(rejected) => return self.reject(bytes, rejected, out),
        };
        let limit = udp_limit(&query).min(out.len());
        match answer(self.reader.table(), &query, &mut out[..limit]) {
            Local::Written(len) => {
                self.counters.local.fetch_add(1, Ordering::Relaxed);
                Some(len)
            }
            other => self.ask(&query, other, client()?, &mut out[..limit], poller, Instant::now()),
        }
    }

    fn respond_tcp(&mut self, bytes: &[u8], client: Client, out: &mut [u8], poller: &Poller, now: Instant) -> Outcome {
        self.counters.queries.fetch_add(1, Ordering::Relaxed);
        self.counters.tcp_queries.fetch_add(1, Ordering::Relaxed);
        let mut name = WireName::ROOT;
        let query = match parse_query(bytes, &mut name) {
            Ok(query) => query,
            Err(rejected) => return self.reject(bytes, rejected, out).map_or(Outcome::Close, Outcome::Answer),
        };
        let written = match answer(self.reader.table(), &query, out) {
            Local::Written(len) => {
                self.counters.local.fetch_add(1, Ordering::Relaxed);
                return Outcome::Answer(len);
            }
            other => self.ask(&query, other, client, out, poller, now),
        };
        written.map_or(Outcome::Later, Outcome::Answer)
    }

    fn reject(&mut self, bytes: &[u8], rejected: Rejected, out: &mut [u8]) -> Option<usize> {
        self.counters.rejected.fetch_add(1, Ordering::Relaxed);
        write_rejection(bytes, rejected, out)
    }

    /// Asks upstreams: for the name itself, or for what its alias leads to.
    fn ask(
        &mut self,
        query: &Query<'_>,
        local: Local,
        client: Client,
        out: &mut [u8],
        poller: &Poller,
        now: Instant,
    ) -> Option<usize> {
        let (name, alias) = match local {
            Local::Alias { target, records, count } => (*target, Some(Alias { records, count })),
            Local::Forward | Local::Written(_) => (*query.name, None),
        };
        debug_assert!(alias.is_none() || is_address(query.kind), "other types end at their alias");
        let question = Question {
            name: &name,
            kind: query.kind,
            is_dnssec_ok: query.edns.is_some_and(|edns| edns.is_dnssec_ok),
            is_checking_disabled: query.flags[1] & CD != 0,
        };
        let mut alias = alias;
        let limit = out.len();
        let asked =
            self.forwarder.ask(&question, client.ip(), || Waiter::new(client, query, limit, alias.take()), poller, now);
        let head = head_of(query);
        match asked {
            Asked::Waiting => None,
            Asked::Answer(stored, ttl) => {
                write(&head, alias.as_ref(), &stored, ttl, out).or_else(|| write_failure(&head, rcode::SERVFAIL, out))
            }
            Asked::Failed(code) => write_failure(&head, code, out),
        }
    }
}

/// Addresses of the node's own servers, for who writes a pod's `resolv.conf`.
pub fn server_ips(addresses: &[SocketAddr]) -> Vec<IpAddr> {
    let mut ips: Vec<IpAddr> = Vec::new();
    for address in addresses {
        if !ips.contains(&address.ip()) {
            ips.push(address.ip());
        }
    }
    ips
}
