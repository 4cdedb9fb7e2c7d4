//! Clients by TCP: those whose answer did not fit, mostly. One question of each at a time; the next is read when it is answered.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags};

use crate::poll::{GENERATION_MASK, Interest, Poller, Source, Token};

/// Connections at once: each may hold 64 KiB of an answer.
const CONNECTIONS_MAX: usize = 64;
/// Of one client's address.
const CONNECTIONS_PER_CLIENT_MAX: usize = 16;
/// A connection on which nothing happens is closed after that (RFC 7766, 6.2.3: in the order of seconds).
const IDLE_MAX: Duration = Duration::from_secs(10);
/// Bytes of a query: a longer one is none.
const QUERY_LEN_MAX: usize = 4_096;
/// Bytes of an answer, its length's two aside.
pub(crate) const ANSWER_LEN_MAX: usize = u16::MAX as usize;
/// Questions that are answered for one event, so that a client with many does not hold the thread.
const QUESTIONS_PER_EVENT: usize = 16;

/// What becomes of a question.
pub(crate) enum Outcome {
    /// Its answer has this length.
    Answer(usize),
    /// Its answer comes by [`Connections::deliver`].
    Later,
    /// It has none, and who asks such things is not served.
    Close,
}

struct Connection {
    socket: OwnedFd,
    generation: u32,
    client: IpAddr,
    input: Vec<u8>,
    out: Vec<u8>,
    sent: usize,
    is_waiting: bool,
    idle_at: Instant,
}

/// All of them.
pub(crate) struct Connections {
    slots: Vec<Option<Connection>>,
    generation: u32,
    count: usize,
}

impl Connections {
    pub(crate) fn new() -> Self {
        Self { slots: Vec::new(), generation: 0, count: 0 }
    }

    /// Takes the connections that wait, closing the longest idle ones where there are too many.
    pub(crate) fn accept(&mut self, listener: BorrowedFd<'_>, poller: &Poller, now: Instant) {
        for _ in 0..CONNECTIONS_MAX {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let (socket, address) = match rustix::net::acceptfrom_with(listener, flags) {
                Ok((socket, Some(address))) => (socket, address),
                Err(Errno::INTR | Errno::CONNABORTED) | Ok((_, None)) => continue,
                Err(_) => return,
            };
            let Ok(address) = SocketAddr::try_from(address) else { continue };
            let of_client = self.slots.iter().flatten().filter(|known| known.client == address.ip()).count();
            if of_client >= CONNECTIONS_PER_CLIENT_MAX {
                continue;
            }
            if self.count >= CONNECTIONS_MAX && !self.close_longest_idle() {
                continue;
            }
            self.add(socket, address.ip(), poller, now);
        }
    }

    fn add(&mut self, socket: OwnedFd, client: IpAddr, poller: &Poller, now: Instant) {
        self.generation = (self.generation + 1) & GENERATION_MASK;
        let index = self.slots.iter().position(Option::is_none).unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        if poller.add(&socket, token(index, self.generation), Interest::Read).is_err() {
            return;
        }
        self.slots[index] = Some(Connection {
            socket,
            generation: self.generation,
            client,
            input: Vec::new(),
            out: Vec::new(),
            sent: 0,
            is_waiting: false,
            idle_at: now + IDLE_MAX,
        });
        self.count += 1;
    }

    fn close_longest_idle(&mut self) -> bool {
        let idle = self.slots.iter().enumerate().filter_map(|(index, slot)| {
            slot.as_ref().filter(|known| !known.is_waiting).map(|known| (known.idle_at, index))
        });
        let Some((_, index)) = idle.min() else { return false };
        self.close(index);
        true
    }

    fn close(&mut self, index: usize) {
        if self.slots.get_mut(index).and_then(Option::take).is_some() {
            self.count -= 1;
        }
    }

    fn find(&mut self, index: usize, generation: u32) -> Option<&mut Connection> {
        self.slots.get_mut(index)?.as_mut().filter(|known| known.generation == generation)
    }

    /// A connection can be read from or written to.
    pub(crate) fn on_event(
        &mut self,
        event: Token,
        poller: &Poller,
        scratch: &mut [u8],
        now: Instant,
        respond: impl FnMut(&[u8], IpAddr, &mut [u8]) -> Outcome,
    ) {
        let index = event.index as usize;
        let Some(connection) = self.find(index, event.generation) else { return };
        // Nothing is awaited from a client that waits but its end.
        if connection.is_waiting || connection.step(index, poller, scratch, now, respond).is_err() {
            self.close(index);
        }
    }

    /// Gives a waiting client its answer, and reads on.
    pub(crate) fn deliver(
        &mut self,
        (index, generation): (usize, u32),
        answer: &[u8],
        poller: &Poller,
        scratch: &mut [u8],
        now: Instant,
        respond: impl FnMut(&[u8], IpAddr, &mut [u8]) -> Outcome,
    ) {
        let Some(connection) = self.find(index, generation).filter(|known| known.is_waiting) else { return };
        connection.is_waiting = false;
        connection.queue(answer);
        if connection.step(index, poller, scratch, now, respond).is_err() {
            self.close(index);
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.slots.iter().flatten().map(|known| known.idle_at).min()
    }

    /// Closes those on which nothing happened.
    pub(crate) fn on_time(&mut self, now: Instant) {
        for index in 0..self.slots.len() {
            if self.slots[index].as_ref().is_some_and(|known| now >= known.idle_at) {
                self.close(index);
            }
        }
    }
}

fn token(index: usize, generation: u32) -> Token {
    let index = u32::try_from(index).expect("connections are counted in dozens");
    Token { source: Source::Client, generation, index }
}

/// The connection is over.
struct Closed;

impl Connection {
    fn queue(&mut self, answer: &[u8]) {
        let Ok(length) = u16::try_from(answer.len()) else { return };
        self.out.clear();
        self.sent = 0;
        self.out.extend_from_slice(&length.to_be_bytes());
        self.out.extend_from_slice(answer);
    }

    /// Sends, reads and answers as far as it goes without waiting.
    fn step(
        &mut self,
        index: usize,
        poller: &Poller,
        scratch: &mut [u8],
        now: Instant,
        mut respond: impl FnMut(&[u8], IpAddr, &mut [u8]) -> Outcome,
    ) -> Result<(), Closed> {
        let place = token(index, self.generation);
        let mut interest = Interest::Read;
        for _ in 0..QUESTIONS_PER_EVENT {
            if !self.flush(now)? {
                interest = Interest::Write;
                break;
            }
            let Some(query) = self.next_query(now)? else { break };
            match respond(&query, self.client, scratch) {
                Outcome::Answer(len) => self.queue(scratch.get(..len).ok_or(Closed)?),
                Outcome::Later => {
                    self.is_waiting = true;
                    interest = Interest::Neither;
                    break;
                }
                Outcome::Close => return Err(Closed),
            }
            // Whatever ends the loop: what is queued or read already needs another event, which only writing is sure to bring.
            interest = Interest::Write;
        }
        if !self.is_waiting && self.out.is_empty() && !self.has_whole_query() {
            interest = Interest::Read;
        }
        poller.change(&self.socket, place, interest).map_err(|_| Closed)
    }

    /// Whether all is sent.
    fn flush(&mut self, now: Instant) -> Result<bool, Closed> {
        while self.sent < self.out.len() {
            match rustix::net::send(&self.socket, &self.out[self.sent..], SendFlags::NOSIGNAL) {
                Ok(sent) => {
                    self.sent += sent;
                    self.idle_at = now + IDLE_MAX;
                }
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(_) => return Err(Closed),
            }
        }
        // An idle connection keeps no memory of a large answer.
        self.out = Vec::new();
        self.sent = 0;
        Ok(true)
    }

    fn has_whole_query(&self) -> bool {
        self.input
            .first_chunk::<2>()
            .is_some_and(|length| self.input.len() >= 2 + usize::from(u16::from_be_bytes(*length)))
    }

    /// The next query, once it is there.
    fn next_query(&mut self, now: Instant) -> Result<Option<Vec<u8>>, Closed> {
        let mut space = [0; QUERY_LEN_MAX + 2];
        loop {
            if let Some(length) = self.input.first_chunk::<2>() {
                let end = 2 + usize::from(u16::from_be_bytes(*length));
                if end > space.len() {
                    return Err(Closed);
                }
                if self.input.len() >= end {
                    let rest = self.input.split_off(end);
                    let mut query = std::mem::replace(&mut self.input, rest);
                    query.drain(..2);
                    self.idle_at = now + IDLE_MAX;
                    return Ok(Some(query));
                }
            }
            let free = space.len() - self.input.len();
            match rustix::net::recv(&self.socket, &mut space[..free], RecvFlags::empty()) {
                Ok((0, _)) => return Err(Closed),
                Ok((len, _)) => self.input.extend_from_slice(&space[..len]),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(_) => return Err(Closed),
            }
        }
    }
}
