//! Where the hub stands in every export of every node.
//!
//! A node's journal has a random epoch; offsets mean something within it only. The hub remembers the last few epochs of
//! each export, so a node whose disk was put back from a copy goes on where that copy's journal was heard last.

use api_edge::telemetry::{BatchAnswer, BatchHeader};
use serde::{Deserialize, Serialize};

/// A node gets a new epoch with a new disk; eight lie years apart, or one is swapped back and forth while testing.
const EPOCHS_MAX: usize = 8;

/// Where one export of one node stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stand {
    /// (epoch, next offset), the one heard last at the end.
    epochs: Vec<(String, u64)>,
    /// Records that the node lost before it could send them.
    #[serde(default)]
    pub(crate) lost: u64,
}

/// What a batch is to a stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It goes on exactly where the hub stands, or is the first of its epoch.
    Next,
    /// All of it is stored.
    Known(BatchAnswer),
    /// It begins elsewhere.
    Elsewhere(BatchAnswer),
}

impl Stand {
    pub(crate) fn place(&self, header: &BatchHeader) -> Place {
        let Some((epoch, next)) = self.epochs.iter().find(|(epoch, _)| *epoch == header.epoch) else {
            return Place::Next;
        };
        let answer = BatchAnswer { epoch: epoch.clone(), next: *next };
        if header.from == *next {
            Place::Next
        } else if header.to <= *next {
            Place::Known(answer)
        } else {
            Place::Elsewhere(answer)
        }
    }

    /// Goes on at `next` of `epoch`; never back.
    pub(crate) fn advance(&mut self, epoch: &str, next: u64, lost: u64) {
        let known = self.epochs.iter().position(|(known, _)| known == epoch);
        let before = known.map_or(0, |at| self.epochs.remove(at).1);
        if next > before || known.is_none() {
            self.lost += lost;
        }
        if self.epochs.len() >= EPOCHS_MAX {
            self.epochs.remove(0);
        }
        self.epochs.push((epoch.to_owned(), next.max(before)));
    }
}

/// Key of a stand in the checkpoint store; a node's name has no slash, an export's has one.
pub(crate) fn key(node: &str, export: &str) -> String {
    format!("stand/{node}/{export}")
}
