//! What is dropped when the disk that readings may use is full: nobody's fair share.
//!
//! A node's fair share is half of `bytes_max`, divided by the nodes of which anything is held. The newest readings of a
//! node within its share are never dropped for another node's sake. The journal is a ring, so its oldest segment has
//! to go; before it does, batches in it that a share protects are appended again at the young end, as packs
//! ([`crate::pack`]), and the index learns their new place. Their numbers stay, so queries and their tokens notice nothing.
//!
//! ```text
//! oldest segment                                     newest
//! [ g g q g g ] [ g g g ] [ g q g ] … [ g g g ] [ g g ]·· pack(q) done
//!       └──────────────── q is within its share ─────────▲        then the oldest segment is dropped
//! ```
//!
//! Since the shares together are half of the disk, one turn of the ring copies at most half of it: a byte is written
//! twice at worst, and in a fleet whose nodes send alike nothing is copied at all, because everyone holds more than the
//! share. The other half is whoever's who sends most.
//!
//! *What else was thought of.* A journal for each node would need two files for each of some thousand nodes and would lose
//! the shared sync, which is what makes small batches cheap. A bounded number of journals with nodes hashed to them
//! still lets a node displace those it shares one with. Rewriting a segment in place needs a journal that can leave numbers
//! out. This way the journal stays as it is, and one file set serves all.
//!
//! The work is done a segment at a time, by the batch that finds the disk an eighth short of full, at a pace of four
//! segments for each one that comes in: so a stretch of packs at the old end is past before the ring is full. A crash
//! between the packs and the drop leaves both; opening finishes the drop.

use std::collections::HashMap;

use base_journal::{AppendError, ReadError, SnapshotError};
use tracing::{debug, warn};

use crate::batch::Head;
use crate::index::BLOCK_BYTES;
use crate::pack::{self, Numbered, Special};
use crate::store::{Inner, lock};

const READ_BYTES: usize = 1024 * 1024;

/// Why the oldest segment could not be dropped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RetainError {
    #[error("failed to write the checkpoint")]
    Checkpoint(#[from] SnapshotError),
    #[error("failed to read the oldest batches")]
    Read(#[from] ReadError),
    #[error("failed to move batches that a fair share protects")]
    Append(#[from] AppendError),
}

/// Batches that move, with what the index wants to know of them.
struct Moving {
    batch: Numbered,
    head: Head,
}

/// Some batches that will be one pack.
struct Pack {
    batches: Vec<Numbered>,
    /// Number, length and head of each.
    heads: Vec<(u64, u64, Head)>,
}

impl Inner {
    /// Whether a segment should be dropped now, so that there is space when it is needed.
    pub(crate) fn is_nearly_full(&self) -> bool {
        self.journal.bytes() > self.options.bytes_max / 8 * 7
    }

    /// Drops the oldest segment, if that is nobody's turn already.
    pub(crate) fn drop_oldest_if_idle(&self) {
        let Ok(_turn) = self.retaining.try_lock() else { return };
        if let Err(error) = self.drop_oldest_held() {
            warn!(error = &error as &dyn std::error::Error, "Could not drop the oldest readings; trying again later.");
        }
    }

    /// Drops the oldest segment; false when there is none that may go now.
    pub(crate) fn drop_oldest(&self) -> Result<bool, RetainError> {
        let _turn = lock(&self.retaining);
        self.drop_oldest_held()
    }

    fn drop_oldest_held(&self) -> Result<bool, RetainError> {
        let first = self.journal.first();
        let Some(segment) = self.journal.segment_of(first).filter(|segment| !segment.is_newest) else {
            return Ok(false);
        };
        let (start, end) = (segment.offsets.start, segment.offsets.end);
        let (is_busy, is_safe) = {
            let tables = lock(&self.tables);
            (tables.in_flight.first().is_some_and(|first| *first < end), tables.safe_to >= end)
        };
        if is_busy {
            return Ok(false);
        }
        // Acknowledged offsets outlive the batches they came from, so they must be on the disk by themselves.
        if !is_safe {
            self.write_checkpoint()?;
        }
        self.move_protected(start, end)?;
        self.journal.trim(end);
        Ok(true)
    }

    /// Moves what a share protects in the segment `[start, end)`; afterwards the index does not need the segment.
    fn move_protected(&self, start: u64, end: u64) -> Result<(), RetainError> {
        let moving = self.protected(start, end)?;
        let packs = self.packs(moving, start);
        if packs.is_empty() {
            lock(&self.tables).index.drop_before(end);
        } else {
            self.move_packs(packs, end)?;
        }
        Ok(())
    }

    /// What a crash at the worst moment leaves: the packs are written, the segment is not dropped.
    #[cfg(test)]
    pub(crate) fn move_oldest_without_drop(&self) -> Result<(), RetainError> {
        let segment = self.journal.segment_of(self.journal.first()).expect("the oldest segment");
        self.move_protected(segment.offsets.start, segment.offsets.end)
    }

    /// Batches in the segment that the fair share of their node protects, by their numbers.
    fn protected(&self, start: u64, end: u64) -> Result<Vec<Moving>, ReadError> {
        let (share, shares) = {
            let tables = lock(&self.tables);
            let nodes = tables.index.nodes().max(1) as u64;
            (self.options.bytes_max / 2 / nodes, tables.index.shares(start))
        };
        if shares.iter().all(|(_, here, held)| held - here.min(held) >= share) {
            return Ok(Vec::new());
        }
        let mut held: HashMap<String, u64> = shares.into_iter().map(|(node, _, held)| (node, held)).collect();
        let mut moving = self.read_segment(start, end)?;
        moving.sort_by_key(|moving| moving.batch.number);
        moving.retain(|moving| {
            let bytes = moving.batch.record.len() as u64;
            let Some(held) = held.get_mut(&moving.head.node) else { return false };
            let rest = held.saturating_sub(bytes);
            let is_protected = rest < share;
            if !is_protected {
                *held = rest;
            }
            is_protected
        });
        Ok(moving)
    }

    /// Every batch in a segment, also those in packs that the index still uses.
    fn read_segment(&self, start: u64, end: u64) -> Result<Vec<Moving>, ReadError> {
        let mut moving = Vec::new();
        let mut take = |batch: Numbered| match Head::decode(&batch.record) {
            Some((mut head, _)) => {
                head.clamp();
                moving.push(Moving { batch, head });
            }
            None => {
                warn!(number = batch.number, "A stored batch is of an unknown form; it is dropped with its segment.")
            }
        };
        let mut offset = start;
        while offset < end {
            let chunk = self.journal.read(offset, READ_BYTES)?;
            if chunk.next == offset {
                break;
            }
            for record in chunk.records.into_iter().take_while(|record| record.offset < end) {
                if Head::is_batch(&record.payload) {
                    take(Numbered { number: record.offset, record: record.payload });
                } else if let Some(Special::Pack { from, batches, .. }) = pack::decode(&record.payload)
                    && lock(&self.tables).index.has_pack(from, record.offset)
                {
                    batches.into_iter().for_each(&mut take);
                }
            }
            offset = chunk.next;
        }
        Ok(moving)
    }

    /// Cuts what moves into packs of the size of a block. No pack spans a block that stays where it is, since blocks are
    /// ordered by their numbers.
    fn packs(&self, moving: Vec<Moving>, segment: u64) -> Vec<Pack> {
        let bytes_max = (self.journal.record_bytes_max() as u64 / 2).max(1);
        let tables = lock(&self.tables);
        let mut packs: Vec<Pack> = Vec::new();
        let mut bytes = 0;
        let mut last = 0;
        for Moving { batch, head } in moving {
            let (number, len) = (batch.number, batch.record.len() as u64);
            let is_full = bytes >= BLOCK_BYTES || bytes + len > bytes_max;
            if packs.is_empty() || is_full || tables.index.is_parted(last, number, segment) {
                packs.push(Pack { batches: Vec::new(), heads: Vec::new() });
                bytes = 0;
            }
            bytes += len;
            last = number;
            let pack = packs.last_mut().expect("one was pushed if there was none");
            pack.batches.push(batch);
            pack.heads.push((number, len, head));
        }
        packs
    }

    /// Appends the packs and makes them take the place of everything before `end`.
    fn move_packs(&self, packs: Vec<Pack>, end: u64) -> Result<(), AppendError> {
        let numbers = |pack: &Pack| {
            let first = pack.batches.first().map_or(0, |batch| batch.number);
            first..pack.batches.last().map_or(first, |batch| batch.number) + 1
        };
        let mut records: Vec<Vec<u8>> = packs
            .iter()
            .map(|pack| {
                let numbers = numbers(pack);
                pack::encode_pack(numbers.start, numbers.end, &pack.batches)
            })
            .collect();
        records.push(pack::encode_done(end));
        let payloads: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
        let bytes: u64 = records.iter().map(|record| record.len() as u64).sum();
        let appended = {
            let mut tables = lock(&self.tables);
            let appended = self.journal.append(&payloads)?;
            tables.in_flight.insert(appended.offsets.start);
            appended
        };
        let committed = self.journal.commit(&appended);
        let mut tables = lock(&self.tables);
        tables.in_flight.remove(&appended.offsets.start);
        committed?;
        tables.index.drop_before(end);
        let segment = self.journal.segment_of(appended.offsets.start).map_or(0, |segment| segment.offsets.start);
        for (offset, pack) in appended.offsets.clone().zip(&packs) {
            tables.index.add_pack(numbers(pack), offset, segment, &pack.heads);
        }
        tables.unmarked_bytes += bytes;
        debug!(before = end, packs = packs.len(), bytes, "Moved readings within their node's fair share.");
        Ok(())
    }
}
