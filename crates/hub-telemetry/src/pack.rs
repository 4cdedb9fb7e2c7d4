//! Batches that moved to the young end of the journal because their node is within its fair share ([`crate::retention`]).
//!
//! ```text
//! pack  3 · head length u32 (little-endian) · head as JSON · stored batches, one after the other
//! done  4 · offset u64 (little-endian): all packs before it in the same append replace what lies before the offset
//! ```
//!
//! A pack says which numbers its batches had when they were stored first; readings keep their order by them. Several
//! packs and one `done` are appended together. A power cut leaves a prefix of them, so packs without their `done` are as
//! good as not written: the segment they came from is dropped after the commit only.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

const PACK: u8 = 3;
const DONE: u8 = 4;

/// A batch with its number, the offset at which it was stored first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Numbered {
    pub(crate) number: u64,
    /// Head and lines, as stored.
    pub(crate) record: Bytes,
}

#[derive(Serialize, Deserialize)]
struct PackHead {
    from: u64,
    to: u64,
    /// Number and length of each batch.
    batches: Vec<(u64, u32)>,
}

/// A record that is not a batch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Special {
    /// Batches with numbers in `[from, to)`.
    Pack { from: u64, to: u64, batches: Vec<Numbered> },
    /// The packs before it replace what lies before this offset.
    Done(u64),
}

/// A pack as a record; `batches` have ascending numbers within `[from, to)`.
pub(crate) fn encode_pack(from: u64, to: u64, batches: &[Numbered]) -> Vec<u8> {
    let places = batches.iter().map(|batch| (batch.number, batch.record.len() as u32)).collect();
    let head = serde_json::to_vec(&PackHead { from, to, batches: places }).expect("a pack head holds numbers only");
    let bytes = batches.iter().map(|batch| batch.record.len()).sum::<usize>();
    let mut record = Vec::with_capacity(5 + head.len() + bytes);
    record.push(PACK);
    record.extend_from_slice(&(head.len() as u32).to_le_bytes());
    record.extend_from_slice(&head);
    for batch in batches {
        record.extend_from_slice(&batch.record);
    }
    record
}

/// The end of one move, as a record.
pub(crate) fn encode_done(before: u64) -> Vec<u8> {
    let mut record = vec![DONE];
    record.extend_from_slice(&before.to_le_bytes());
    record
}

/// Reads a record that is not a batch; `None` for one of unknown form.
pub(crate) fn decode(record: &Bytes) -> Option<Special> {
    let (&kind, rest) = record.split_first()?;
    match kind {
        DONE => Some(Special::Done(u64::from_le_bytes(rest.try_into().ok()?))),
        PACK => {
            let (len, rest) = rest.split_first_chunk()?;
            let len = u32::from_le_bytes(*len) as usize;
            let head: PackHead = serde_json::from_slice(rest.get(..len)?).ok()?;
            let mut at = 5 + len;
            let mut batches = Vec::with_capacity(head.batches.len());
            let mut previous = None;
            for (number, bytes) in head.batches {
                let end = at.checked_add(bytes as usize).filter(|end| *end <= record.len())?;
                let is_in_order = previous.is_none_or(|previous| previous < number);
                if !is_in_order || !(head.from..head.to).contains(&number) {
                    return None;
                }
                previous = Some(number);
                batches.push(Numbered { number, record: record.slice(at..end) });
                at = end;
            }
            Some(Special::Pack { from: head.from, to: head.to, batches })
        }
        _ => None,
    }
}
