//! Clients, those that wait for an upstream among them, and how their answers are put together.

use std::net::{IpAddr, SocketAddr};

use crate::cache::{Head, Stored, Ttl};
use crate::message::{AD, HEADER_LEN, OPT_LEN, QR, Query, RA, Record, TC, WireName, Writer, kind, rcode};

/// Where an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    /// By the socket of this place.
    Udp { socket: usize, address: SocketAddr },
    /// A connection's place and age.
    Tcp { index: usize, generation: u32, address: IpAddr },
}

impl Client {
    pub(crate) fn ip(&self) -> IpAddr {
        match self {
            Self::Udp { address, .. } => address.ip(),
            Self::Tcp { address, .. } => *address,
        }
    }
}

/// What an answer begins with when the question was for an alias.
#[derive(Debug)]
pub(crate) struct Alias {
    pub(crate) records: Vec<u8>,
    pub(crate) count: u16,
}

/// A client that waits.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) client: Client,
    id: u16,
    flags: [u8; 2],
    question: Box<[u8]>,
    is_dnssec_ok: Option<bool>,
    /// Bytes that its answer may have.
    limit: usize,
    alias: Option<Alias>,
}

impl Waiter {
    pub(crate) fn new(client: Client, query: &Query<'_>, limit: usize, alias: Option<Alias>) -> Self {
        Self {
            client,
            id: query.id,
            flags: query.flags,
            question: query.question.into(),
            is_dnssec_ok: query.edns.map(|edns| edns.is_dnssec_ok),
            limit,
            alias,
        }
    }

    /// Whether it is the same question of the same client, sent again.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.client == other.client && self.id == other.id && self.question == other.question
    }

    fn head(&self) -> Head<'_> {
        Head { id: self.id, flags: self.flags, question: &self.question, is_dnssec_ok: self.is_dnssec_ok }
    }

    /// Its answer, written to the front of `out`.
    pub(crate) fn write(&self, stored: &Stored, ttl: Ttl, out: &mut [u8]) -> Option<usize> {
        let limit = self.limit.min(out.len());
        write(&self.head(), self.alias.as_ref(), stored, ttl, &mut out[..limit])
    }

    /// Its answer when there is none.
    pub(crate) fn write_failure(&self, code: u8, out: &mut [u8]) -> Option<usize> {
        let limit = self.limit.min(out.len());
        write_failure(&self.head(), code, &mut out[..limit])
    }
}

/// What a client's answer takes from its query.
pub(crate) fn head_of<'a>(query: &Query<'a>) -> Head<'a> {
    Head {
        id: query.id,
        flags: query.flags,
        question: query.question,
        is_dnssec_ok: query.edns.map(|edns| edns.is_dnssec_ok),
    }
}

/// An upstream's answer for a client, behind its alias where it asked for one.
pub(crate) fn write(
    head: &Head<'_>,
    alias: Option<&Alias>,
    stored: &Stored,
    ttl: Ttl,
    out: &mut [u8],
) -> Option<usize> {
    let Some(alias) = alias else { return stored.write(head, ttl, out) };
    let opt_len = if head.is_dnssec_ok.is_some() { OPT_LEN } else { 0 };
    let space = out.len().checked_sub(opt_len)?;
    let mut writer = Writer::new(&mut out[..space]);
    if !crate::answer::begin(head.id, head.flags, head.question, &mut writer) {
        return None;
    }
    writer.written()[3] |= stored.rcode();
    let mut count = alias.count;
    let is_whole = writer.push(&alias.records) && expand(stored, ttl, &mut count, &mut writer)?;
    if !is_whole {
        writer.written()[2] |= TC;
    }
    let len = writer.len();
    // Where not even the alias fits, none was written.
    let counts = [if len == HEADER_LEN + head.question.len() { 0 } else { count }, 0, 0];
    Some(crate::answer::finish(counts, head.is_dnssec_ok, out, len))
}

/// Addresses and further aliases of an answer with all names written out: they point into another message. Whether all fitted.
fn expand(stored: &Stored, ttl: Ttl, count: &mut u16, writer: &mut Writer<'_>) -> Option<bool> {
    let (bytes, mut at, [answers, ..]) = stored.records();
    let mut name = WireName::ROOT;
    for _ in 0..answers {
        let record = Record::read(bytes, at)?;
        at = record.end;
        let is_alias = record.kind == kind::CNAME;
        if !is_alias && !crate::forward::is_address(record.kind) {
            continue;
        }
        let before = writer.len();
        name.read(bytes, record.start)?;
        let mut is_written = writer.push(name.as_bytes());
        let data = if is_alias {
            name.read(bytes, record.data_at)?;
            name.as_bytes()
        } else {
            &bytes[record.data_at..record.end]
        };
        let length = u16::try_from(data.len()).ok()?;
        is_written = is_written
            && writer.push(&record.kind.to_be_bytes())
            && writer.push(&record.class.to_be_bytes())
            && writer.push(&ttl.of(record.ttl).to_be_bytes())
            && writer.push(&length.to_be_bytes())
            && writer.push(data);
        if !is_written {
            writer.truncate(before);
            return Some(false);
        }
        *count += 1;
    }
    Some(true)
}

/// A code and nothing else.
pub(crate) fn write_failure(head: &Head<'_>, code: u8, out: &mut [u8]) -> Option<usize> {
    debug_assert!(code != rcode::NOERROR, "an empty answer is no failure");
    let mut writer = Writer::new(out);
    if !crate::answer::begin(head.id, head.flags, head.question, &mut writer) {
        return None;
    }
    let header = writer.written();
    header[2] |= QR;
    header[3] = (header[3] & !AD) | RA | (code & 0x0f);
    let len = writer.len();
    Some(crate::answer::finish([0; 3], head.is_dnssec_ok, out, len))
}
