//! Questions about the rest of the world: asked of upstreams, once for all who wait for the same, and remembered.
//!
//! ```text
//! ask ─▶ cache ─ fresh ────────────────────────────────▶ answer
//!          ├ expired, upstreams known to be away ───────▶ the expired answer; one question on its way to refresh it
//!          └ none, or expired ─▶ flight (one per question) ─ UDP to the 1st, after a second the 2nd … ─ TC ─▶ TCP
//!                                  │ 1.8 s and an expired answer: that one (RFC 8767)
//!                                  └ nobody answers: SERVFAIL
//! ```
//!
//! - **Trust.** Each try has a socket of its own, connected, so that its port is the kernel's random choice and only its server's datagrams
//!   arrive, and a random id. An answer must repeat both id and question; others are dropped, and the try waits on.
//! - **Bounds.** Flights, sockets of a flight, clients of a flight, flights for one client's address, connections by TCP: each has its number,
//!   and who comes after it is answered SERVFAIL at once. An answer takes 64 KiB at most.
//! - **Loops.** Equal questions share a flight, so one that comes back to us waits for itself and multiplies nothing; see also [`crate::upstreams`].

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::cache::{Cache, Lookup, Stored, Ttl};
use crate::message::{AD, Answer, CD, HEADER_LEN, OPT_LEN, RD, WireName, kind, opt, rcode};
use crate::poll::{GENERATION_MASK, Interest, Poller, Source, Token};
use crate::random::Random;
use crate::server::Counters;
use crate::upstreams::{UpstreamSource, Upstreams};
use crate::waiter::Waiter;

/// Questions on their way at once.
const FLIGHTS_MAX: usize = 256;
/// Of them for one client's address: one pod must not take the names from the others.
const FLIGHTS_PER_CLIENT_MAX: usize = FLIGHTS_MAX / 2;
/// Clients that wait for one answer.
const WAITERS_PER_FLIGHT_MAX: usize = 64;
/// Clients that wait for any.
const WAITERS_MAX: usize = 4_096;
/// Sockets of one flight: the last try and the one before, whose answer may be late.
const SOCKETS_PER_FLIGHT: usize = 2;
/// Answers that are fetched over TCP at once; each may take 64 KiB.
const TCP_MAX: usize = 32;
/// Tries of one flight. With a second each it ends before a client gives up after five.
const TRIES_MAX: usize = 4;
/// When a client is given an expired answer although an upstream may still answer (RFC 8767, 5).
const STALE_AFTER: Duration = Duration::from_millis(1_800);
/// How long a failed refresh is not tried again (RFC 8767, 5).
const RETRY_AFTER: Duration = Duration::from_secs(30);
/// Datagrams read for one event: forged ones must not hold the thread.
const DATAGRAMS_PER_EVENT: usize = 16;
/// Flags of a question that make it another one.
const KEY_DNSSEC_OK: u8 = 1;
const KEY_CHECKING_DISABLED: u8 = 2;

/// A question, as the cache and flights know it.
pub(crate) struct Question<'a> {
    pub(crate) name: &'a WireName,
    pub(crate) kind: u16,
    pub(crate) is_dnssec_ok: bool,
    pub(crate) is_checking_disabled: bool,
}

impl Question<'_> {
    /// Name, type, flags.
    fn key(&self) -> Vec<u8> {
        let flags = if self.is_dnssec_ok { KEY_DNSSEC_OK } else { 0 }
            | if self.is_checking_disabled { KEY_CHECKING_DISABLED } else { 0 };
        let mut key = Vec::with_capacity(self.name.as_bytes().len() + 3);
        key.extend_from_slice(self.name.as_bytes());
        key.extend_from_slice(&self.kind.to_be_bytes());
        key.push(flags);
        key
    }
}

/// What becomes of a question.
pub(crate) enum Asked {
    /// An answer, at once.
    Answer(Arc<Stored>, Ttl),
    /// The client waits; its answer comes by [`Forwarder::finished`].
    Waiting,
    /// There will be none.
    Failed(u8),
}

/// An answer for those who waited.
pub(crate) struct Finished {
    pub(crate) waiters: Vec<Waiter>,
    pub(crate) reply: Reply,
}

/// What they get.
pub(crate) enum Reply {
    Answer(Arc<Stored>, Ttl),
    Failed(u8),
}

/// One UDP socket with one question.
struct Try {
    socket: OwnedFd,
    id: u16,
    address: SocketAddr,
    has_edns: bool,
}

/// The same by TCP.
struct TcpTry {
    socket: OwnedFd,
    id: u16,
    /// Length and question, and how much of it was sent.
    out: Vec<u8>,
    sent: usize,
    /// Length and answer, as far as they came.
    input: Vec<u8>,
    address: SocketAddr,
    /// What the client gets when TCP fails: better a truncated answer than none.
    truncated: Arc<Stored>,
}

struct Flight {
    key: Vec<u8>,
    generation: u32,
    waiters: Vec<Waiter>,
    client: IpAddr,
    tries: Vec<Try>,
    tcp: Option<TcpTry>,
    /// Places of upstreams, as they were ordered when it began.
    order: Vec<usize>,
    try_count: usize,
    /// Upstreams that answered with an error, and the last one.
    refusals: usize,
    refusal: u8,
    next_try_at: Instant,
    deadline: Instant,
    stale: Option<Arc<Stored>>,
    stale_at: Instant,
}

/// All questions on their way.
pub(crate) struct Forwarder {
    upstreams: Upstreams,
    try_timeout: Duration,
    cache: Cache,
    random: Random,
    flights: Vec<Option<Flight>>,
    by_key: HashMap<Vec<u8>, usize>,
    generation: u32,
    waiter_count: usize,
    tcp_count: usize,
    /// No upstream answered the last flight, and none since.
    is_down: bool,
    finished: Vec<Finished>,
    counters: Arc<Counters>,
}

impl Forwarder {
    pub(crate) fn new(
        source: UpstreamSource,
        own: Vec<SocketAddr>,
        try_timeout: Duration,
        cache_bytes_max: usize,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            upstreams: Upstreams::new(source, own),
            try_timeout,
            cache: Cache::new(cache_bytes_max),
            random: Random::new(),
            flights: Vec::new(),
            by_key: HashMap::new(),
            generation: 0,
            waiter_count: 0,
            tcp_count: 0,
            is_down: false,
            finished: Vec::new(),
            counters,
        }
    }

    /// Reads the upstreams, so that a loop is found before the first question.
    pub(crate) fn prepare(&mut self, now: Instant) {
        self.upstreams.refresh(&mut self.random, now);
    }

    /// What was answered since the last call.
    pub(crate) fn finished(&mut self) -> Vec<Finished> {
        std::mem::take(&mut self.finished)
    }

    /// When [`Self::on_time`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        if self.by_key.is_empty() {
            return None;
        }
        self.flights.iter().flatten().map(Flight::next_deadline).min()
    }

    /// Asks for an answer; `waiter` is made only where the client must wait.
    pub(crate) fn ask(
        &mut self,
        question: &Question<'_>,
        client: IpAddr,
        waiter: impl FnOnce() -> Waiter,
        poller: &Poller,
        now: Instant,
    ) -> Asked {
        let key = question.key();
        let stale = match self.cache.get(&key, now) {
            Lookup::Fresh(stored, ttl) => {
                self.counters.cache_hits.fetch_add(1, Ordering::Relaxed);
                return Asked::Answer(stored, ttl);
            }
            // The link came back since the refresh failed: it is worth a try.
            Lookup::Expired { stored, is_final } if is_final && self.is_down => return self.stale(stored),
            Lookup::Expired { stored, .. } => Some(stored),
            Lookup::Miss => None,
        };
        self.upstreams.refresh(&mut self.random, now);
        if self.upstreams.close_loop(question.name) {
            return Asked::Failed(rcode::REFUSED);
        }
        let is_patient = stale.is_none() || !self.is_down;
        let index = match self.by_key.get(&key) {
            Some(index) => {
                self.counters.coalesced.fetch_add(1, Ordering::Relaxed);
                Some(*index)
            }
            None => self.start(key, client, stale.clone(), poller, now),
        };
        let flight = index.and_then(|index| self.flights.get_mut(index)).and_then(Option::as_mut);
        match (flight, stale) {
            (Some(flight), _) if is_patient => {
                let waiter = waiter();
                if flight.waiters.iter().any(|known| known.is_same(&waiter)) {
                    return Asked::Waiting;
                }
                if flight.waiters.len() >= WAITERS_PER_FLIGHT_MAX || self.waiter_count >= WAITERS_MAX {
                    return Asked::Failed(rcode::SERVFAIL);
                }
                flight.waiters.push(waiter);
                self.waiter_count += 1;
                Asked::Waiting
            }
            (_, Some(stored)) => self.stale(stored),
            _ => Asked::Failed(rcode::SERVFAIL),
        }
    }

    fn stale(&self, stored: Arc<Stored>) -> Asked {
        self.counters.stale.fetch_add(1, Ordering::Relaxed);
        Asked::Answer(stored, Ttl::Stale)
    }

    /// Begins a flight, if there is space for it and a server takes its question.
    fn start(
        &mut self,
        key: Vec<u8>,
        client: IpAddr,
        stale: Option<Arc<Stored>>,
        poller: &Poller,
        now: Instant,
    ) -> Option<usize> {
        let of_client = self.flights.iter().flatten().filter(|flight| flight.client == client).count();
        if self.by_key.len() >= FLIGHTS_MAX || of_client >= FLIGHTS_PER_CLIENT_MAX {
            self.counters.overloads.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        self.generation = (self.generation + 1) & GENERATION_MASK;
        let tries_timeout = self.try_timeout * u32::try_from(TRIES_MAX).unwrap_or(1);
        let flight = Flight {
            key: key.clone(),
            generation: self.generation,
            waiters: Vec::new(),
            client,
            tries: Vec::new(),
            tcp: None,
            order: self.upstreams.order(now),
            try_count: 0,
            refusals: 0,
            refusal: rcode::SERVFAIL,
            next_try_at: now,
            deadline: now + tries_timeout + self.try_timeout / 2,
            stale,
            stale_at: now + STALE_AFTER,
        };
        let index = match self.flights.iter().position(Option::is_none) {
            Some(index) => index,
            None => {
                self.flights.push(None);
                self.flights.len() - 1
            }
        };
        self.flights[index] = Some(flight);
        self.by_key.insert(key, index);
        self.counters.forwarded.fetch_add(1, Ordering::Relaxed);
        self.try_next(index, poller, now);
        self.flights[index].is_some().then_some(index)
    }

    /// Asks the next upstream that can be asked. Where none can, the flight ends.
    fn try_next(&mut self, index: usize, poller: &Poller, now: Instant) {
        loop {
            let Some(flight) = self.flights.get_mut(index).and_then(Option::as_mut) else { return };
            if flight.order.is_empty() || flight.try_count >= TRIES_MAX {
                if flight.tries.is_empty() && flight.tcp.is_none() {
                    self.fail(index, now);
                } else {
                    flight.next_try_at = flight.deadline;
                }
                return;
            }
            let place = flight.order[flight.try_count % flight.order.len()];
            flight.try_count += 1;
            let Some(address) = self.upstreams.address(place) else { continue };
            let has_edns = !self.upstreams.is_plain(place, now);
            if self.try_one(index, address, has_edns, poller).is_ok() {
                if let Some(flight) = self.flights[index].as_mut() {
                    flight.next_try_at = now + self.try_timeout;
                }
                return;
            }
        }
    }

    fn try_one(&mut self, index: usize, address: SocketAddr, has_edns: bool, poller: &Poller) -> Result<(), Errno> {
        let id = self.random.next_u16();
        let Some(flight) = self.flights.get_mut(index).and_then(Option::as_mut) else { return Ok(()) };
        let socket = connect(address, SocketType::DGRAM)?;
        rustix::net::send(&socket, &flight.query(id, has_edns), SendFlags::NOSIGNAL)?;
        // Which of a flight's sockets it is, the loop over them finds out: there are two.
        poller.add(&socket, flight.token(index, Source::UpstreamUdp), Interest::Read)?;
        if flight.tries.len() >= SOCKETS_PER_FLIGHT {
            flight.tries.remove(0);
        }
        flight.tries.push(Try { socket, id, address, has_edns });
        Ok(())
    }

    /// Something happened at a flight's sockets.
    pub(crate) fn on_event(&mut self, token: Token, poller: &Poller, scratch: &mut [u8], now: Instant) {
        let index = token.index as usize;
        let is_current = self
            .flights
            .get(index)
            .and_then(Option::as_ref)
            .is_some_and(|flight| flight.generation == token.generation);
        if !is_current {
            return;
        }
        if token.source == Source::UpstreamTcp {
            return self.on_tcp(index, poller, scratch, now);
        }
        let mut at = 0;
        while let Some(flight) = self.flights.get_mut(index).and_then(Option::as_mut) {
            let Some(one) = flight.tries.get(at) else { return };
            match receive(one, &flight.key, scratch) {
                Received::Nothing => at += 1,
                Received::Error => {
                    flight.tries.remove(at);
                    self.try_next(index, poller, now);
                    return;
                }
                Received::Answer(answer, len) => {
                    let one = flight.tries.remove(at);
                    self.on_answer(index, &one, &answer, &scratch[..len], poller, now);
                    return;
                }
            }
        }
    }

    fn on_answer(&mut self, index: usize, one: &Try, answer: &Answer, bytes: &[u8], poller: &Poller, now: Instant) {
        // Servers that do not know EDNS say so in one of these ways.
        let is_edns_refused = matches!(answer.rcode, 1 | 4 | 16) && one.has_edns;
        if is_edns_refused {
            self.upstreams.spare_edns(one.address, now);
            if self.try_one(index, one.address, false, poller).is_err() {
                self.try_next(index, poller, now);
            }
            return;
        }
        let code = u8::try_from(answer.rcode).unwrap_or(rcode::SERVFAIL);
        if code != rcode::NOERROR && code != rcode::NXDOMAIN {
            return self.refused(index, code, poller, now);
        }
        let Some(stored) = Stored::new(bytes, answer).map(Arc::new) else { return };
        if answer.is_truncated() && self.start_tcp(index, one, &stored, poller, now).is_ok() {
            return;
        }
        self.succeed(index, stored, answer, one.address, now);
    }

    /// An upstream answered that it will not answer: the next one is asked at once.
    fn refused(&mut self, index: usize, code: u8, poller: &Poller, now: Instant) {
        // It is there, so expired answers are worth another question.
        self.is_down = false;
        let Some(flight) = self.flights.get_mut(index).and_then(Option::as_mut) else { return };
        flight.refusals += 1;
        flight.refusal = code;
        if flight.refusals >= flight.order.len() {
            self.fail(index, now);
        } else {
            self.try_next(index, poller, now);
        }
    }

    fn start_tcp(
        &mut self,
        index: usize,
        one: &Try,
        truncated: &Arc<Stored>,
        poller: &Poller,
        now: Instant,
    ) -> Result<(), Errno> {
        let id = self.random.next_u16();
        let Some(flight) = self.flights.get_mut(index).and_then(Option::as_mut) else { return Ok(()) };
        if self.tcp_count >= TCP_MAX || flight.tcp.is_some() {
            return Err(Errno::MFILE);
        }
        let socket = connect(one.address, SocketType::STREAM)?;
        poller.add(&socket, flight.token(index, Source::UpstreamTcp), Interest::Write)?;
        let query = flight.query(id, one.has_edns);
        let mut out = u16::try_from(query.len()).unwrap_or_default().to_be_bytes().to_vec();
        out.extend_from_slice(&query);
        flight.tries.clear();
        flight.tcp = Some(TcpTry {
            socket,
            id,
            out,
            sent: 0,
            input: Vec::new(),
            address: one.address,
            truncated: Arc::clone(truncated),
        });
        flight.next_try_at = flight.deadline;
        // A handshake and a large answer take longer than a datagram; the client waits.
        flight.deadline = flight.deadline.max(now + self.try_timeout * 3);
        self.tcp_count += 1;
        Ok(())
    }

    fn on_tcp(&mut self, index: usize, poller: &Poller, scratch: &mut [u8], now: Instant) {
        let Some(flight) = self.flights.get_mut(index).and_then(Option::as_mut) else { return };
        let token = flight.token(index, Source::UpstreamTcp);
        let Some(tcp) = &mut flight.tcp else { return };
        let (id, address) = (tcp.id, tcp.address);
        match tcp.step(poller, token, scratch) {
            Ok(None) => {}
            Ok(Some(message)) => {
                let answer = Answer::parse(&message).filter(|answer| answers(answer, &message, id, &flight.key));
                let stored = answer.as_ref().and_then(|answer| Stored::new(&message, answer));
                match (answer, stored) {
                    (Some(answer), Some(stored)) if answer.rcode == 0 || answer.rcode == u16::from(rcode::NXDOMAIN) => {
                        self.succeed(index, Arc::new(stored), &answer, address, now);
                    }
                    _ => self.give_truncated(index, now),
                }
            }
            Err(_) => self.give_truncated(index, now),
        }
    }

    /// TCP failed: what UDP brought is what there is.
    fn give_truncated(&mut self, index: usize, now: Instant) {
        let flight = self.flights.get_mut(index).and_then(Option::as_mut);
        match flight.and_then(|flight| flight.tcp.as_ref()).map(|tcp| Arc::clone(&tcp.truncated)) {
            Some(truncated) => self.end(index, Reply::Answer(truncated, Ttl::Aged(0))),
            None => self.fail(index, now),
        }
    }

    fn succeed(&mut self, index: usize, stored: Arc<Stored>, answer: &Answer, address: SocketAddr, now: Instant) {
        self.is_down = false;
        self.upstreams.prefer(address, now);
        if let Some(flight) = self.flights.get(index).and_then(Option::as_ref)
            && !answer.is_truncated()
        {
            self.cache.insert(&flight.key, &stored, answer.ttl, now);
            self.counters.cache_bytes.store(self.cache.bytes() as u64, Ordering::Relaxed);
        }
        self.end(index, Reply::Answer(stored, Ttl::Aged(0)));
    }

    fn fail(&mut self, index: usize, now: Instant) {
        let Some(flight) = self.flights.get_mut(index).and_then(Option::as_mut) else { return };
        // Upstreams that answer with errors are there.
        self.is_down |= flight.refusals == 0;
        let (refusal, stale) = (flight.refusal, flight.stale.take());
        self.cache.defer_retry(&flight.key, now + RETRY_AFTER);
        match stale {
            Some(stored) => {
                self.counters.stale.fetch_add(flight.waiters.len() as u64, Ordering::Relaxed);
                self.end(index, Reply::Answer(stored, Ttl::Stale));
            }
            None => {
                self.counters.upstream_failures.fetch_add(1, Ordering::Relaxed);
                self.end(index, Reply::Failed(refusal));
            }
        }
    }

    fn end(&mut self, index: usize, reply: Reply) {
        let Some(flight) = self.flights.get_mut(index).and_then(Option::take) else { return };
        self.by_key.remove(&flight.key);
        self.waiter_count -= flight.waiters.len();
        self.tcp_count -= usize::from(flight.tcp.is_some());
        if !flight.waiters.is_empty() {
            self.finished.push(Finished { waiters: flight.waiters, reply });
        }
    }

    /// Tries again, gives expired answers, gives up, each when it is time.
    pub(crate) fn on_time(&mut self, poller: &Poller, now: Instant) {
        if self.by_key.is_empty() {
            return;
        }
        for index in 0..self.flights.len() {
            let Some(flight) = self.flights[index].as_mut() else { continue };
            if now >= flight.deadline {
                if flight.tcp.is_some() {
                    self.give_truncated(index, now);
                } else {
                    self.fail(index, now);
                }
                continue;
            }
            if now >= flight.stale_at
                && !flight.waiters.is_empty()
                && let Some(stored) = &flight.stale
            {
                let waiters = std::mem::take(&mut flight.waiters);
                self.waiter_count -= waiters.len();
                self.counters.stale.fetch_add(waiters.len() as u64, Ordering::Relaxed);
                self.finished.push(Finished { waiters, reply: Reply::Answer(Arc::clone(stored), Ttl::Stale) });
            }
            if now >= flight.next_try_at {
                self.try_next(index, poller, now);
            }
        }
    }
}

impl Flight {
    fn token(&self, index: usize, source: Source) -> Token {
        let index = u32::try_from(index).expect("flights are counted in hundreds");
        Token { source, generation: self.generation, index }
    }

    fn next_deadline(&self) -> Instant {
        let stale_at = (self.stale.is_some() && !self.waiters.is_empty()).then_some(self.stale_at);
        let next = self.deadline.min(self.next_try_at);
        stale_at.map_or(next, |at| next.min(at))
    }

    /// The question for an upstream: nothing of the client's but what it asks for.
    fn query(&self, id: u16, has_edns: bool) -> Vec<u8> {
        let (name_kind, flags) = self.key.split_at(self.key.len() - 1);
        let is_checking_disabled = flags[0] & KEY_CHECKING_DISABLED != 0;
        let mut query = Vec::with_capacity(HEADER_LEN + name_kind.len() + 2 + OPT_LEN);
        query.extend_from_slice(&id.to_be_bytes());
        query.extend_from_slice(&[RD, AD | if is_checking_disabled { CD } else { 0 }]);
        query.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, u8::from(has_edns)]);
        query.extend_from_slice(name_kind);
        query.extend_from_slice(&[0, 1]);
        if has_edns {
            query.extend_from_slice(&opt(flags[0] & KEY_DNSSEC_OK != 0, 0));
        }
        query
    }
}

impl TcpTry {
    /// Sends or reads what is possible; the message when it is whole.
    fn step(&mut self, poller: &Poller, token: Token, scratch: &mut [u8]) -> Result<Option<Vec<u8>>, Errno> {
        if self.sent < self.out.len() {
            match rustix::net::send(&self.socket, &self.out[self.sent..], SendFlags::NOSIGNAL) {
                Ok(sent) => self.sent += sent,
                Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
                Err(error) => return Err(error),
            }
            if self.sent == self.out.len() {
                poller.change(&self.socket, token, Interest::Read)?;
            }
            return Ok(None);
        }
        let missing = match self.input.first_chunk::<2>() {
            Some(length) => usize::from(u16::from_be_bytes(*length)) + 2 - self.input.len(),
            None => 2 - self.input.len(),
        };
        let space = missing.min(scratch.len());
        match rustix::net::recv(&self.socket, &mut scratch[..space], RecvFlags::empty()) {
            Ok((0, _)) => return Err(Errno::CONNRESET),
            Ok((len, _)) => self.input.extend_from_slice(&scratch[..len]),
            Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
            Err(error) => return Err(error),
        }
        let is_whole = self
            .input
            .first_chunk::<2>()
            .is_some_and(|length| self.input.len() == usize::from(u16::from_be_bytes(*length)) + 2);
        Ok(is_whole.then(|| self.input.split_off(2)))
    }
}

enum Received {
    Nothing,
    /// The server is not there (`ECONNREFUSED`).
    Error,
    Answer(Answer, usize),
}

/// Reads datagrams until one is the answer.
fn receive(one: &Try, key: &[u8], scratch: &mut [u8]) -> Received {
    for _ in 0..DATAGRAMS_PER_EVENT {
        match rustix::net::recv(&one.socket, &mut *scratch, RecvFlags::empty()) {
            Ok((len, _)) => {
                let bytes = &scratch[..len];
                if let Some(answer) = Answer::parse(bytes).filter(|answer| answers(answer, bytes, one.id, key)) {
                    return Received::Answer(answer, len);
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => return Received::Nothing,
            Err(_) => return Received::Error,
        }
    }
    Received::Nothing
}

/// Whether an answer is to this question.
fn answers(answer: &Answer, bytes: &[u8], id: u16, key: &[u8]) -> bool {
    let Some(question) = bytes.get(HEADER_LEN..answer.question_end) else { return false };
    let Some((name_kind, class)) = question.split_at_checked(question.len().saturating_sub(2)) else { return false };
    answer.id == id && class == [0, 1] && name_kind.eq_ignore_ascii_case(&key[..key.len() - 1])
}

/// A socket that exchanges with one address only. Unbound, it is given a random port.
fn connect(address: SocketAddr, kind: SocketType) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error),
    }
}

/// Whether a type of record can be the end of an alias here.
pub(crate) fn is_address(kind: u16) -> bool {
    kind == kind::A || kind == kind::AAAA
}
