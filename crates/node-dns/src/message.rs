//! DNS messages as far as a responder and forwarder needs them: queries, and where the TTLs of an answer are.
//!
//! Nothing here allocates for a query or follows a pointer forwards: a compressed name may only point to bytes before the
//! ones it was read from, so every chain ends. What cannot be read is an error with the code that its sender is owed, or
//! nothing at all where an answer would help an attacker only.
//!
//! ```text
//! header (12)  id │ QR opcode AA TC RD │ RA Z AD CD rcode │ questions │ answers │ authority │ additional
//! question     name, type, class
//! record       name, type, class, TTL, length, data
//! ```

/// Bytes of a header.
pub const HEADER_LEN: usize = 12;
/// Bytes of a name on the wire, with its last zero (RFC 1035, 2.3.4).
pub const NAME_LEN_MAX: usize = 255;
/// What fits into UDP without EDNS (RFC 1035, 4.2.1).
pub const PAYLOAD_PLAIN: u16 = 512;
/// What we send and take over UDP with EDNS: passes every link without fragments (DNS flag day 2020).
pub const PAYLOAD_EDNS: u16 = 1232;
/// Records of one answer that are looked at: more do not fit into what resolvers send.
const RECORDS_MAX: usize = 4_096;
/// Records behind a query's question: an OPT, perhaps a signature.
const QUERY_RECORDS_MAX: u16 = 4;

/// Bits of the header's third byte.
pub(crate) const QR: u8 = 0x80;
pub(crate) const AA: u8 = 0x04;
pub(crate) const TC: u8 = 0x02;
pub(crate) const RD: u8 = 0x01;
const OPCODE: u8 = 0x78;
/// Bits of the header's fourth byte.
pub(crate) const RA: u8 = 0x80;
pub(crate) const AD: u8 = 0x20;
pub(crate) const CD: u8 = 0x10;

/// Types of records that mean something here.
pub mod kind {
    #![expect(missing_docs, reason = "their names are the registry's")]
    pub const A: u16 = 1;
    pub const NS: u16 = 2;
    pub const CNAME: u16 = 5;
    pub const SOA: u16 = 6;
    pub const PTR: u16 = 12;
    pub const TXT: u16 = 16;
    pub const AAAA: u16 = 28;
    pub const SRV: u16 = 33;
    pub const OPT: u16 = 41;
    pub const ANY: u16 = 255;
}

/// Class of the Internet: the only one that is answered.
pub const CLASS_IN: u16 = 1;

/// Response codes.
pub mod rcode {
    #![expect(missing_docs, reason = "their names are the registry's")]
    pub const NOERROR: u8 = 0;
    pub const FORMERR: u8 = 1;
    pub const SERVFAIL: u8 = 2;
    pub const NXDOMAIN: u8 = 3;
    pub const NOTIMP: u8 = 4;
    pub const REFUSED: u8 = 5;
}

/// A name in wire form, in lower case, without compression.
#[derive(Clone, Copy)]
pub struct WireName {
    bytes: [u8; NAME_LEN_MAX],
    len: u8,
}

impl WireName {
    /// The root.
    pub const ROOT: Self = Self { bytes: [0; NAME_LEN_MAX], len: 1 };

    /// Of a name as people write it, with or without its last dot. `None` when it is none: an empty label, a label over 63
    /// bytes, a name over 255.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let mut name = Self::ROOT;
        if text.is_empty() {
            return Some(name);
        }
        let mut at = 0;
        for label in text.split('.') {
            // The last zero needs its byte, too.
            if label.is_empty() || label.len() > 63 || at + label.len() + 2 > NAME_LEN_MAX {
                return None;
            }
            name.bytes[at] = u8::try_from(label.len()).ok()?;
            for (to, from) in name.bytes[at + 1..].iter_mut().zip(label.bytes()) {
                *to = from.to_ascii_lowercase();
            }
            at += label.len() + 1;
        }
        name.bytes[at] = 0;
        name.len = u8::try_from(at + 1).ok()?;
        Some(name)
    }

    /// Its bytes, the last of them zero.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Its labels from the left, without the root.
    pub fn labels(&self) -> Labels<'_> {
        Labels(self.as_bytes())
    }

    /// Whether it is `zone` or below it.
    pub fn is_within(&self, zone: &WireName) -> bool {
        // Most names end otherwise, which is seen without a walk.
        self.as_bytes().ends_with(zone.as_bytes()) && self.suffixes().any(|suffix| suffix == zone.as_bytes())
    }

    /// The name itself, its parent, and so on to the root.
    pub(crate) fn suffixes(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = Some(self.as_bytes());
        std::iter::from_fn(move || {
            let now = rest?;
            rest = match now[0] {
                0 => None,
                length => now.get(1 + usize::from(length)..),
            };
            Some(now)
        })
    }

    /// Reads a name at `start`, following pointers. Returns where the bytes behind it begin.
    pub fn read(&mut self, message: &[u8], start: usize) -> Option<usize> {
        let (mut at, mut behind, mut limit, mut len) = (start, None, start, 0);
        loop {
            let length = *message.get(at)?;
            match length & 0xc0 {
                0 => {
                    let label = message.get(at..=at + usize::from(length))?;
                    let space = self.bytes.get_mut(len..len + label.len())?;
                    space.copy_from_slice(label);
                    space[1..].make_ascii_lowercase();
                    len += label.len();
                    at += label.len();
                    if length == 0 {
                        self.len = u8::try_from(len).ok()?;
                        return Some(behind.unwrap_or(at));
                    }
                }
                0xc0 => {
                    let target = usize::from(u16::from_be_bytes([length & 0x3f, *message.get(at + 1)?]));
                    behind.get_or_insert(at + 2);
                    // Only backwards, each time before all that was read so far: that ends.
                    if target >= limit {
                        return None;
                    }
                    (at, limit) = (target, target);
                }
                _ => return None,
            }
        }
    }
}

impl std::fmt::Debug for WireName {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for label in self.labels() {
            write!(formatter, "{}.", label.escape_ascii())?;
        }
        Ok(())
    }
}

/// The labels of a [`WireName`].
pub struct Labels<'a>(&'a [u8]);

impl<'a> Iterator for Labels<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (&length, rest) = self.0.split_first().filter(|(length, _)| **length != 0)?;
        let (label, rest) = rest.split_at_checked(usize::from(length))?;
        self.0 = rest;
        Some(label)
    }
}

/// What a client says of itself with EDNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    /// Bytes it takes over UDP; at least 512.
    pub payload: u16,
    /// It wants signatures.
    pub is_dnssec_ok: bool,
}

/// A query that can be answered.
pub struct Query<'a> {
    /// Chosen by the client.
    pub id: u16,
    /// Third and fourth byte of the header.
    pub flags: [u8; 2],
    /// Name, type and class as they were sent: an answer repeats them to the letter.
    pub question: &'a [u8],
    /// The name in lower case.
    pub name: &'a WireName,
    /// Type that is asked for.
    pub kind: u16,
    /// With EDNS.
    pub edns: Option<Edns>,
}

/// A query that is not answered as it was meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// Too short to have an id, or an answer itself: answering would start a ping-pong.
    Silent,
    /// Answered with this code; the question as far as it could be read ends at `question_end`.
    Code {
        /// The code; 16 is BADVERS, which needs an OPT in the answer.
        rcode: u8,
        /// Where the question ends, or the header where none could be read.
        question_end: usize,
    },
}

/// EDNS in a version that nobody knows.
pub(crate) const BADVERS: u8 = 16;

/// Reads a query; its name goes into `name`.
pub fn parse_query<'a>(bytes: &'a [u8], name: &'a mut WireName) -> Result<Query<'a>, Rejected> {
    let header: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or(Rejected::Silent)?;
    if header[2] & QR != 0 {
        return Err(Rejected::Silent);
    }
    let reject = |rcode, question_end| Rejected::Code { rcode, question_end };
    if header[2] & OPCODE != 0 {
        return Err(reject(rcode::NOTIMP, HEADER_LEN));
    }
    let malformed = reject(rcode::FORMERR, HEADER_LEN);
    let [questions, answers, authority, additional] = counts(header);
    if questions != 1 || answers != 0 || authority != 0 || additional > QUERY_RECORDS_MAX {
        return Err(malformed);
    }
    let end = name.read(bytes, HEADER_LEN).ok_or(malformed)?;
    let fixed: [u8; 4] = *bytes.get(end..).and_then(<[u8]>::first_chunk).ok_or(malformed)?;
    // A question that is not copied byte for byte would not be the one that was asked: no pointers in it.
    if end - HEADER_LEN != name.as_bytes().len() {
        return Err(malformed);
    }
    let question_end = end + 4;
    let (kind, class) = (u16::from_be_bytes([fixed[0], fixed[1]]), u16::from_be_bytes([fixed[2], fixed[3]]));
    let edns = query_edns(bytes, question_end, additional).map_err(|rcode| reject(rcode, question_end))?;
    if class != CLASS_IN {
        return Err(reject(rcode::REFUSED, question_end));
    }
    match kind {
        0 | kind::OPT => return Err(reject(rcode::FORMERR, question_end)),
        // Transfers, keys, signatures of messages: none of them is a question for a record.
        251 | 252 => return Err(reject(rcode::REFUSED, question_end)),
        128..=254 => return Err(reject(rcode::NOTIMP, question_end)),
        _ => {}
    }
    let question = &bytes[HEADER_LEN..question_end];
    Ok(Query {
        id: u16::from_be_bytes([header[0], header[1]]),
        flags: [header[2], header[3]],
        question,
        name,
        kind,
        edns,
    })
}

/// Numbers of questions, answers, authority and additional records.
fn counts(header: &[u8; HEADER_LEN]) -> [u16; 4] {
    std::array::from_fn(|index| u16::from_be_bytes([header[4 + 2 * index], header[5 + 2 * index]]))
}

fn query_edns(bytes: &[u8], mut at: usize, additional: u16) -> Result<Option<Edns>, u8> {
    let mut found = None;
    for _ in 0..additional {
        let record = Record::read(bytes, at).ok_or(rcode::FORMERR)?;
        at = record.end;
        if record.kind != kind::OPT {
            continue;
        }
        let is_root = bytes.get(record.start) == Some(&0);
        if found.is_some() || !is_root {
            return Err(rcode::FORMERR);
        }
        let [_, version, flags, _] = record.ttl.to_be_bytes();
        if version != 0 {
            return Err(BADVERS);
        }
        found = Some(Edns { payload: record.class.max(PAYLOAD_PLAIN), is_dnssec_ok: flags & 0x80 != 0 });
    }
    Ok(found)
}

/// One record of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    pub(crate) start: usize,
    pub(crate) kind: u16,
    pub(crate) class: u16,
    pub(crate) ttl: u32,
    /// Where the four bytes of its TTL are.
    pub(crate) ttl_at: usize,
    /// Where its data begin and end.
    pub(crate) data_at: usize,
    pub(crate) end: usize,
}

impl Record {
    pub(crate) fn read(bytes: &[u8], start: usize) -> Option<Self> {
        let at = skip_name(bytes, start)?;
        let fixed: &[u8; 10] = bytes.get(at..)?.first_chunk()?;
        let length = usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
        let data_at = at + fixed.len();
        let end = data_at + length;
        bytes.get(data_at..end)?;
        Some(Self {
            start,
            kind: u16::from_be_bytes([fixed[0], fixed[1]]),
            class: u16::from_be_bytes([fixed[2], fixed[3]]),
            ttl: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
            ttl_at: at + 4,
            data_at,
            end,
        })
    }
}

/// Where the bytes behind a name begin; pointers are not followed.
fn skip_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    let start = at;
    loop {
        let length = *bytes.get(at)?;
        match length & 0xc0 {
            0 if length == 0 => return Some(at + 1),
            0 => at += 1 + usize::from(length),
            0xc0 => return bytes.get(at + 1).map(|_| at + 2),
            _ => return None,
        }
        if at - start > NAME_LEN_MAX {
            return None;
        }
    }
}

/// An answer of an upstream, as far as it matters to who passes it on.
#[derive(Debug)]
pub struct Answer {
    /// Chosen by who asked.
    pub id: u16,
    /// Third and fourth byte of the header.
    pub flags: [u8; 2],
    /// The code with the bits that an OPT adds.
    pub rcode: u16,
    /// Where the question ends.
    pub question_end: usize,
    /// Records of answer, authority and additional section that are kept: without OPT and what is behind it.
    pub counts: [u16; 3],
    /// Where the kept records end.
    pub end: usize,
    /// Where the TTLs of the kept records are.
    pub ttl_offsets: Vec<u16>,
    /// How long it may be kept: the least TTL, and for a negative answer also the SOA's minimum. `None` for a negative one without an SOA.
    pub ttl: Option<u32>,
}

impl Answer {
    /// Whether it was truncated.
    pub fn is_truncated(&self) -> bool {
        self.flags[0] & TC != 0
    }

    /// Reads an answer. `None` when it is none.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let header: &[u8; HEADER_LEN] = bytes.first_chunk()?;
        let [questions, sections @ ..] = counts(header);
        if header[2] & QR == 0 || header[2] & OPCODE != 0 || questions != 1 || bytes.len() > usize::from(u16::MAX) {
            return None;
        }
        let question_end = skip_name(bytes, HEADER_LEN)? + 4;
        bytes.get(..question_end)?;
        let mut answer = Self {
            id: u16::from_be_bytes([header[0], header[1]]),
            flags: [header[2], header[3]],
            rcode: u16::from(header[3] & 0x0f),
            question_end,
            counts: [0; 3],
            end: question_end,
            ttl_offsets: Vec::new(),
            ttl: None,
        };
        answer.read_records(bytes, sections)?;
        Some(answer)
    }

    fn read_records(&mut self, bytes: &[u8], sections: [u16; 3]) -> Option<()> {
        let (mut least, mut negative) = (u32::MAX, None);
        'records: for (section, count) in sections.into_iter().enumerate() {
            for _ in 0..count {
                // What was truncated may end anywhere, by the sender's habit; it is asked for again over TCP.
                let Some(record) = Record::read(bytes, self.end) else {
                    return self.is_truncated().then_some(());
                };
                // The OPT is for us; what is behind it (a signature of the message) is no more valid without it.
                if record.kind == kind::OPT {
                    self.rcode |= u16::from(record.ttl.to_be_bytes()[0]) << 4;
                    break 'records;
                }
                if self.ttl_offsets.len() >= RECORDS_MAX {
                    return None;
                }
                self.counts[section] += 1;
                self.end = record.end;
                self.ttl_offsets.push(u16::try_from(record.ttl_at).ok()?);
                least = least.min(ttl(record.ttl));
                if section == 1 && record.kind == kind::SOA && record.end - record.data_at >= 20 {
                    let minimum =
                        bytes.get(record.end - 4..record.end)?.first_chunk().map(|raw| u32::from_be_bytes(*raw))?;
                    negative = Some(ttl(minimum).min(ttl(record.ttl)));
                }
            }
        }
        let is_negative = self.rcode == u16::from(rcode::NXDOMAIN) || self.counts[0] == 0;
        self.ttl = if is_negative { negative.map(|negative| negative.min(least)) } else { Some(least) };
        Some(())
    }
}

/// A TTL with its highest bit set counts as zero (RFC 2181, 8).
fn ttl(raw: u32) -> u32 {
    if raw > i32::MAX.unsigned_abs() { 0 } else { raw }
}

/// Bytes with an end: what does not fit is not written, and the writer is asked whether it did.
pub(crate) struct Writer<'a> {
    bytes: &'a mut [u8],
    len: usize,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn space(&self) -> usize {
        self.bytes.len() - self.len
    }

    #[must_use]
    pub(crate) fn push(&mut self, part: &[u8]) -> bool {
        let Some(space) = self.bytes.get_mut(self.len..self.len + part.len()) else { return false };
        space.copy_from_slice(part);
        self.len += part.len();
        true
    }

    /// What was written so far, to patch.
    pub(crate) fn written(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }

    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

/// Bytes of the OPT of an answer.
pub(crate) const OPT_LEN: usize = 11;

/// The OPT of an answer.
pub(crate) fn opt(is_dnssec_ok: bool, extended_rcode: u8) -> [u8; OPT_LEN] {
    let [high, low] = PAYLOAD_EDNS.to_be_bytes();
    [0, 0, 41, high, low, extended_rcode, 0, if is_dnssec_ok { 0x80 } else { 0 }, 0, 0, 0]
}

/// Answers a query that was rejected. Returns the length, or `None` where nothing is sent.
pub(crate) fn write_rejection(query: &[u8], rejected: Rejected, out: &mut [u8]) -> Option<usize> {
    let Rejected::Code { rcode, question_end } = rejected else { return None };
    let head = query.get(..question_end)?;
    let mut writer = Writer::new(out);
    if !writer.push(head) {
        return None;
    }
    let has_question = u8::from(question_end > HEADER_LEN);
    let header = writer.written();
    header[2] = QR | (header[2] & (OPCODE | RD));
    header[3] = RA | (header[3] & CD) | (rcode & 0x0f);
    header[4..12].copy_from_slice(&[0, has_question, 0, 0, 0, 0, 0, 0]);
    if rcode == BADVERS {
        if !writer.push(&opt(false, 1)) {
            return None;
        }
        writer.written()[11] = 1;
    }
    Some(writer.len())
}

#[cfg(test)]
mod tests;
