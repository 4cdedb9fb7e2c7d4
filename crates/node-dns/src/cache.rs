//! Answers of upstreams, kept for their TTL, and a day longer for when no upstream can be reached (RFC 8767).
//!
//! The cache is bounded in bytes. What was not used since it was last looked at goes first (second chance): that needs no list to be
//! relinked at every hit. It is handed the time, so that a day passes in a test.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::message::{AD, Answer, CD, HEADER_LEN, QR, RA, RD, TC, Writer, rcode};

/// What is kept longer than this is asked for again: a TTL may be as wrong as its record.
const TTL_MAX: Duration = Duration::from_secs(86_400);
/// An absence that lasts longer is asked for again: what was just set up should not be missing for hours.
const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(900);
/// How long an expired answer is better than none (RFC 8767, 5: one to three days).
pub(crate) const STALE_MAX: Duration = Duration::from_secs(86_400);
/// TTL of an expired answer that is given (RFC 8767, 4).
const STALE_TTL_SECONDS: u32 = 30;
/// Bytes of an entry beside its message and key.
const ENTRY_OVERHEAD: usize = 200;

/// A message of an upstream, without its OPT, to be given to clients.
#[derive(Debug)]
pub(crate) struct Stored {
    bytes: Box<[u8]>,
    ttl_offsets: Box<[u16]>,
    question_end: usize,
    counts: [u16; 3],
}

/// What an answer takes over from the query.
#[derive(Clone, Copy)]
pub(crate) struct Head<'a> {
    pub(crate) id: u16,
    pub(crate) flags: [u8; 2],
    pub(crate) question: &'a [u8],
    pub(crate) is_dnssec_ok: Option<bool>,
}

/// What to do with the TTLs of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ttl {
    /// Less so many seconds.
    Aged(u32),
    /// [`STALE_TTL_SECONDS`].
    Stale,
}

impl Ttl {
    pub(crate) fn of(self, seconds: u32) -> u32 {
        match self {
            Self::Aged(age) => seconds.min(i32::MAX.unsigned_abs()).saturating_sub(age),
            Self::Stale => STALE_TTL_SECONDS,
        }
    }
}

impl Stored {
    pub(crate) fn new(bytes: &[u8], answer: &Answer) -> Option<Self> {
        Some(Self {
            bytes: bytes.get(..answer.end)?.into(),
            ttl_offsets: answer.ttl_offsets.as_slice().into(),
            question_end: answer.question_end,
            counts: answer.counts,
        })
    }

    pub(crate) fn rcode(&self) -> u8 {
        self.bytes[3] & 0x0f
    }

    /// Bytes and sections, for who takes them apart.
    pub(crate) fn records(&self) -> (&[u8], usize, [u16; 3]) {
        (&self.bytes, self.question_end, self.counts)
    }

    /// Writes the answer to a client; `out` is as long as it may be. Returns its length.
    pub(crate) fn write(&self, head: &Head<'_>, ttl: Ttl, out: &mut [u8]) -> Option<usize> {
        // The names are equal but for their case, so everything behind them stays where pointers expect it.
        if head.question.len() != self.question_end - HEADER_LEN {
            return None;
        }
        let opt_len = if head.is_dnssec_ok.is_some() { crate::message::OPT_LEN } else { 0 };
        let space = out.len().checked_sub(opt_len)?;
        let (end, counts, is_truncated) = self.fitting(space)?;
        let mut writer = Writer::new(&mut out[..space]);
        if !writer.push(&self.bytes[..end]) {
            return None;
        }
        let message = writer.written();
        message[..2].copy_from_slice(&head.id.to_be_bytes());
        message[2] = QR | (head.flags[0] & RD) | if is_truncated { TC } else { self.bytes[2] & TC };
        // Only who asks for signatures, or whether there were any, is interested in the upstream's verdict.
        let verdict = if head.is_dnssec_ok == Some(true) || head.flags[1] & AD != 0 { self.bytes[3] & AD } else { 0 };
        message[3] = RA | verdict | (head.flags[1] & CD) | self.rcode();
        message[HEADER_LEN..self.question_end].copy_from_slice(head.question);
        for offset in self.ttl_offsets.iter().map(|offset| usize::from(*offset)).take_while(|offset| offset + 4 <= end)
        {
            let Some(space) = message.get_mut(offset..).and_then(<[u8]>::first_chunk_mut::<4>) else { continue };
            *space = ttl.of(u32::from_be_bytes(*space)).to_be_bytes();
        }
        Some(crate::answer::finish(counts, head.is_dnssec_ok, out, end))
    }

    /// How much of the message fits, in whole records: end, counts, whether an answer was left out.
    fn fitting(&self, space: usize) -> Option<(usize, [u16; 3], bool)> {
        if self.bytes.len() <= space {
            return Some((self.bytes.len(), self.counts, false));
        }
        let (mut at, mut kept) = (self.question_end, [0; 3]);
        for (section, count) in self.counts.into_iter().enumerate() {
            for _ in 0..count {
                let end = crate::message::Record::read(&self.bytes, at)?.end;
                if end > space {
                    // Additional records may be left out without a word.
                    return Some((at, kept, section < 2));
                }
                kept[section] += 1;
                at = end;
            }
        }
        Some((at, kept, false))
    }

    fn len(&self) -> usize {
        self.bytes.len() + self.ttl_offsets.len() * 2
    }
}

struct Entry {
    stored: Arc<Stored>,
    stored_at: Instant,
    ttl: Duration,
    /// After a refresh failed: the expired answer is given without another try until then.
    retry_at: Option<Instant>,
    is_used: bool,
}

/// What the cache has.
pub(crate) enum Lookup {
    /// Nothing.
    Miss,
    /// An answer that is valid.
    Fresh(Arc<Stored>, Ttl),
    /// One that has expired; `is_final` where no upstream needs to be asked now.
    Expired { stored: Arc<Stored>, is_final: bool },
}

/// Answers by question.
pub(crate) struct Cache {
    entries: HashMap<Arc<[u8]>, Entry>,
    /// Every key once, the one to look at next in front.
    order: VecDeque<Arc<[u8]>>,
    bytes: usize,
    bytes_max: usize,
}

impl Cache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { entries: HashMap::new(), order: VecDeque::new(), bytes: 0, bytes_max }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn get(&mut self, key: &[u8], now: Instant) -> Lookup {
        let Some(entry) = self.entries.get_mut(key) else { return Lookup::Miss };
        let age = now.saturating_duration_since(entry.stored_at);
        if age >= entry.ttl + STALE_MAX {
            return Lookup::Miss;
        }
        entry.is_used = true;
        let stored = Arc::clone(&entry.stored);
        if age < entry.ttl {
            let seconds = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
            return Lookup::Fresh(stored, Ttl::Aged(seconds));
        }
        Lookup::Expired { stored, is_final: entry.retry_at.is_some_and(|at| now < at) }
    }

    /// Keeps an answer, where it may be kept.
    pub(crate) fn insert(&mut self, key: &[u8], stored: &Arc<Stored>, ttl_seconds: Option<u32>, now: Instant) {
        let limit = if stored.rcode() == rcode::NXDOMAIN || stored.counts[0] == 0 { NEGATIVE_TTL_MAX } else { TTL_MAX };
        let ttl = Duration::from_secs(u64::from(ttl_seconds.unwrap_or(0))).min(limit);
        let bytes = entry_bytes(key, stored);
        // One answer must not empty the cache.
        if ttl.is_zero() || bytes > self.bytes_max / 8 {
            return;
        }
        let entry = Entry { stored: Arc::clone(stored), stored_at: now, ttl, retry_at: None, is_used: false };
        if let Some(known) = self.entries.get_mut(key) {
            self.bytes = self.bytes - entry_bytes(key, &known.stored) + bytes;
            *known = entry;
        } else {
            let key: Arc<[u8]> = key.into();
            self.order.push_back(Arc::clone(&key));
            self.entries.insert(key, entry);
            self.bytes += bytes;
        }
        while self.bytes > self.bytes_max {
            self.evict_one();
        }
    }

    /// Remembers that a refresh failed.
    pub(crate) fn defer_retry(&mut self, key: &[u8], until: Instant) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.retry_at = Some(until);
        }
    }

    fn evict_one(&mut self) {
        // Every round clears a mark or ends, so there are at most two of them.
        while let Some(key) = self.order.pop_front() {
            match self.entries.get_mut(&key) {
                Some(entry) if entry.is_used => {
                    entry.is_used = false;
                    self.order.push_back(key);
                }
                Some(entry) => {
                    self.bytes -= entry_bytes(&key, &entry.stored);
                    self.entries.remove(&key);
                    return;
                }
                None => {}
            }
        }
    }
}

fn entry_bytes(key: &[u8], stored: &Stored) -> usize {
    key.len() + stored.len() + ENTRY_OVERHEAD
}

#[cfg(test)]
mod tests;
