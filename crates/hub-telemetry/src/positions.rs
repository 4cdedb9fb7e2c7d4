//! Acknowledged offsets: how far every export of every node has been stored.
//!
//! A node's journal has a random epoch; offsets mean something within it only. Several epochs of an export are remembered,
//! so a node whose disk was put back from a copy resumes where that copy's journal was heard last, and a batch that
//! wandered about for weeks is still recognised. An epoch is forgotten only to give place to a new one, and only when
//! it was not heard for [`EPOCH_AGE_MIN`]; where no old one is there to forget, the new one is rejected. A disk that is
//! swapped sixteen times in three months is a test bench, and the message says what to do.
//!
//! The bounds hold memory as well: a node has at most [`EXPORTS_MAX`] exports, and they must be in its assignment.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use api_edge::telemetry::{BatchAnswer, BatchHeader, OFFSET_MAX};
use serde::{Deserialize, Serialize};

use crate::batch::Head;

/// Most exports of one node: each is a cursor that an administrator has made, and nobody makes more by hand.
pub const EXPORTS_MAX: usize = 64;

/// Epochs that are remembered of one export.
pub(crate) const EPOCHS_MAX: usize = 16;

/// Seconds for which an epoch is remembered whatever comes: a gateway that spends a season in a shed still resumes.
pub(crate) const EPOCH_AGE_MIN: u64 = 90 * 24 * 3600;

/// Which exports a node has been given; the hub's wiring looks it up in the API server's store.
pub trait AssignedExports: Send + Sync {
    /// Whether the assignment of `node` names the export `namespace/name`. Called for every batch, so it should be cheap.
    fn is_assigned(&self, node: &str, export: &str) -> bool;
}

/// Takes every export of every node, for tests and tools without an API server.
#[derive(Clone, Copy, Debug, Default)]
pub struct EveryExport;

impl AssignedExports for EveryExport {
    fn is_assigned(&self, _node: &str, _export: &str) -> bool {
        true
    }
}

/// How far one export of one node has been stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// The one heard last at the end.
    epochs: Vec<Epoch>,
    /// Records that the node lost before it could send them.
    #[serde(default)]
    pub(crate) lost: u64,
}

/// One journal of a node, as far as this export has read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredEpoch")]
struct Epoch {
    epoch: String,
    /// The acknowledged offset.
    next: u64,
    /// Seconds since 1970; 0 when a former format did not say.
    heard: u64,
    last: Option<LastBatch>,
}

/// What a batch that comes again has in common with its first copy, and one of another journal with the same epoch has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastBatch {
    from: u64,
    to: u64,
    lost: u64,
    events: usize,
    bytes: usize,
    crc: u32,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum StoredEpoch {
    /// Format 1: epoch and next offset.
    V1(String, u64),
    V2 {
        epoch: String,
        next: u64,
        heard: u64,
        last: Option<LastBatch>,
    },
}

impl From<StoredEpoch> for Epoch {
    fn from(stored: StoredEpoch) -> Self {
        match stored {
            StoredEpoch::V1(epoch, next) => Self { epoch, next, heard: 0, last: None },
            StoredEpoch::V2 { epoch, next, heard, last } => Self { epoch, next, heard, last },
        }
    }
}

impl LastBatch {
    pub(crate) fn of(header: &BatchHeader, lines: &[u8]) -> Self {
        Self::new(header.from, header.to, header.lost, header.events, lines)
    }

    pub(crate) fn of_stored(head: &Head, lines: &[u8]) -> Self {
        Self::new(head.from, head.to, head.lost, head.events, lines)
    }

    fn new(from: u64, to: u64, lost: u64, events: usize, lines: &[u8]) -> Self {
        Self { from, to, lost, events, bytes: lines.len(), crc: crc32fast::hash(lines) }
    }

    /// Whether two batches claim the same records and hold others. Batches that differ in their number of events may come
    /// from one journal through a filter that was changed, so they prove nothing.
    fn contradicts(&self, other: &Self) -> bool {
        let claim = |batch: &Self| (batch.from, batch.to, batch.lost, batch.events);
        claim(self) == claim(other) && (self.bytes, self.crc) != (other.bytes, other.crc)
    }
}

/// What a batch is to a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It continues exactly at the acknowledged offset, or is the first of its epoch.
    Next,
    /// All of it is stored.
    Known(BatchAnswer),
    /// It begins at another offset.
    OffsetMismatch(BatchAnswer),
    /// Its range is stored with other bytes.
    OtherJournal,
    /// It is the first of its epoch, and all that are remembered were heard too recently to be forgotten.
    TooManyEpochs,
}

impl Position {
    pub(crate) fn place(&self, header: &BatchHeader, batch: &LastBatch, now: u64) -> Place {
        let Some(known) = self.epochs.iter().find(|known| known.epoch == header.epoch) else {
            let is_full = self.epochs.len() >= EPOCHS_MAX && self.oldest(now).is_none();
            return if is_full { Place::TooManyEpochs } else { Place::Next };
        };
        let answer = BatchAnswer { epoch: known.epoch.clone(), next: known.next };
        if header.from == known.next {
            Place::Next
        } else if known.last.is_some_and(|last| last.contradicts(batch)) {
            Place::OtherJournal
        } else if header.to <= known.next {
            Place::Known(answer)
        } else {
            Place::OffsetMismatch(answer)
        }
    }

    /// The epoch to forget: the one not heard for longest, if that is long enough.
    fn oldest(&self, now: u64) -> Option<usize> {
        let (at, oldest) = self.epochs.iter().enumerate().min_by_key(|(_, known)| known.heard)?;
        (now.saturating_sub(oldest.heard) >= EPOCH_AGE_MIN).then_some(at)
    }

    /// Moves the acknowledged offset of `epoch` to the end of `batch`; never back.
    pub(crate) fn advance(&mut self, epoch: &str, batch: LastBatch, now: u64) {
        let known = self.epochs.iter().position(|known| known.epoch == epoch).map(|at| self.epochs.remove(at));
        let is_news = known.as_ref().is_none_or(|known| batch.to > known.next);
        if is_news {
            self.lost = self.lost.saturating_add(batch.lost);
        }
        if self.epochs.len() >= EPOCHS_MAX {
            // While batches come in `place` has made sure of one that is old enough; from the disk the oldest goes.
            let at = self.oldest(now).unwrap_or(0);
            self.epochs.remove(at);
        }
        let heard = known.as_ref().map_or(now, |known| known.heard.max(now));
        let epoch = epoch.to_owned();
        self.epochs.push(match known {
            Some(known) if !is_news => Epoch { heard, ..known },
            _ => Epoch { epoch, next: batch.to, heard, last: Some(batch) },
        });
    }

    /// The epoch was heard of, although nothing new came.
    pub(crate) fn touch(&mut self, epoch: &str, now: u64) {
        if let Some(known) = self.epochs.iter_mut().find(|known| known.epoch == epoch) {
            known.heard = known.heard.max(now);
        }
    }

    fn heard(&self) -> u64 {
        self.epochs.iter().map(|known| known.heard).max().unwrap_or(0)
    }

    /// Leaves out what cannot be, from a program that did not bound it, and says whether there was any. Epochs of which
    /// nobody wrote down when they were heard are taken for heard now.
    pub(crate) fn clamp(&mut self, now: u64) -> bool {
        let epochs = self.epochs.len();
        self.epochs.retain(|known| known.next <= OFFSET_MAX);
        for known in self.epochs.iter_mut().filter(|known| known.heard == 0) {
            known.heard = now;
        }
        let is_implausible = self.lost > OFFSET_MAX || self.epochs.len() != epochs;
        if self.lost > OFFSET_MAX {
            self.lost = 0;
        }
        is_implausible
    }
}

/// All positions; one lock each, held while a batch goes to the disk.
#[derive(Default)]
pub(crate) struct Positions {
    by_node: HashMap<String, HashMap<String, Arc<Mutex<Position>>>>,
    count: usize,
}

/// A node has as many exports as it may have.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooManyExports;

impl Positions {
    pub(crate) fn insert(&mut self, node: &str, export: &str, position: Position) {
        let exports = self.by_node.entry(node.to_owned()).or_default();
        if exports.insert(export.to_owned(), Arc::new(Mutex::new(position))).is_none() {
            self.count += 1;
        }
    }

    /// The position of an export, begun when there is none; and the name of one that had to be forgotten for it. Only one
    /// that is assigned no more is forgotten, the one heard least recently.
    pub(crate) fn of(
        &mut self,
        node: &str,
        export: &str,
        assigned: &dyn AssignedExports,
    ) -> Result<(Arc<Mutex<Position>>, Option<String>), TooManyExports> {
        if let Some(position) = self.by_node.get(node).and_then(|exports| exports.get(export)) {
            return Ok((position.clone(), None));
        }
        let exports = self.by_node.entry(node.to_owned()).or_default();
        let mut forgotten = None;
        if exports.len() >= EXPORTS_MAX {
            let heard = |position: &Mutex<Position>| match position.try_lock() {
                Ok(position) => Some(position.heard()),
                Err(std::sync::TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner().heard()),
                // A batch of it is on its way to the disk.
                Err(std::sync::TryLockError::WouldBlock) => None,
            };
            let candidates = exports.iter().filter(|(name, _)| !assigned.is_assigned(node, name));
            let oldest = candidates
                .filter_map(|(name, position)| Some((heard(position)?, name.clone())))
                .min()
                .ok_or(TooManyExports)?;
            exports.remove(&oldest.1);
            self.count -= 1;
            forgotten = Some(oldest.1);
        }
        let position = Arc::<Mutex<Position>>::default();
        exports.insert(export.to_owned(), position.clone());
        self.count += 1;
        Ok((position, forgotten))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Records that nodes lost, over all of them.
    pub(crate) fn lost(&self) -> u64 {
        let all = self.by_node.values().flat_map(HashMap::values);
        all.map(|position| position.lock().unwrap_or_else(PoisonError::into_inner).lost).fold(0, u64::saturating_add)
    }
}

/// Begins the keys of positions in the checkpoint store; the name is format 1's.
pub(crate) const KEY_PREFIX: &str = "stand/";

/// Key of a position in the checkpoint store; a node's name has no slash, an export's has one.
pub(crate) fn key(node: &str, export: &str) -> String {
    format!("{KEY_PREFIX}{node}/{export}")
}

/// Node and export of a key.
pub(crate) fn parse_key(key: &str) -> Option<(&str, &str)> {
    key.strip_prefix(KEY_PREFIX)?.split_once('/')
}
