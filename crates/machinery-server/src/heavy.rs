//! Writes that cost more than others when they come together.
//!
//! A body costs many times its size while it is decoded, merged, checked and encoded; so does the stored object that it
//! changes. Sixty-four large patches of one node at a time would take more memory than a small hub has: of heavy writes an
//! identity has one at a time, and there are few in all.
//!
//! Changes of one object that are computed at the same time are nearly all computed again, as one of them is first. Sixty-four
//! of them would be six hundred; so of those that are not trusted an identity makes one at a time.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Writes with more bytes, in body and stored object, are heavy. Nearly all of an honest fleet are far below.
pub(crate) const HEAVY_BYTES: usize = 256 * 1024;

/// Heavy writes worked on at a time.
const HEAVY_MAX: usize = 2;

/// Hands out turns for heavy writes.
pub(crate) struct Heavy {
    all: Arc<Semaphore>,
    /// One turn of each identity that has heavy writes now, so that nobody waits in the common queue twice.
    own: Turns,
}

/// A heavy write's turn; given back when dropped.
pub(crate) struct HeavyTurn {
    _all: OwnedSemaphorePermit,
    _own: Turn,
}

/// One turn at a time for each name.
#[derive(Clone, Default)]
pub(crate) struct Turns(Arc<Mutex<HashMap<String, Arc<Semaphore>>>>);

/// A name's turn; given back when dropped.
pub(crate) struct Turn {
    _permit: OwnedSemaphorePermit,
    _line: Line,
}

/// Somebody who has a name's turn, or waits for it. A name without any is forgotten.
struct Line {
    turns: Turns,
    name: String,
    turn: Arc<Semaphore>,
}

impl Turns {
    /// Waits for the turn of a name.
    pub(crate) async fn take(&self, name: String) -> Turn {
        let turn = self.0.lock().entry(name.clone()).or_insert_with(|| Arc::new(Semaphore::new(1))).clone();
        let line = Line { turns: self.clone(), name, turn };
        let permit = line.turn.clone().acquire_owned().await.expect(NEVER_CLOSED);
        Turn { _permit: permit, _line: line }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let mut known = self.turns.0.lock();
        // The map's and this one's; nobody takes another without the lock.
        if Arc::strong_count(&self.turn) <= 2 {
            known.remove(&self.name);
        }
    }
}

impl Heavy {
    pub(crate) fn new() -> Self {
        Self { all: Arc::new(Semaphore::new(HEAVY_MAX)), own: Turns::default() }
    }

    /// Waits for the turn of a write of `bytes`; light ones do not wait.
    pub(crate) async fn turn(&self, user: &str, bytes: usize) -> Option<HeavyTurn> {
        if bytes <= HEAVY_BYTES {
            return None;
        }
        let _own = self.own.take(user.to_owned()).await;
        let _all = self.all.clone().acquire_owned().await.expect(NEVER_CLOSED);
        Some(HeavyTurn { _all, _own })
    }
}

const NEVER_CLOSED: &str = "these semaphores are never closed";

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_identity_has_one_heavy_write_at_a_time_and_leaves_a_place_to_others() {
        let heavy = Heavy::new();
        let is_waiting = |user: &'static str, bytes: usize| futures::FutureExt::now_or_never(heavy.turn(user, bytes));
        let first = is_waiting("a", HEAVY_BYTES + 1).expect("the first has its turn");
        assert!(first.is_some());
        assert!(is_waiting("a", HEAVY_BYTES + 1).is_none(), "the second of one identity waits");
        assert!(is_waiting("a", HEAVY_BYTES).expect("a light one does not").is_none());
        let second = is_waiting("b", 3 << 20).expect("another identity has its turn");
        assert!(is_waiting("c", 3 << 20).is_none(), "there are two in all");
        drop(first);
        assert!(is_waiting("c", 3 << 20).is_some());
        drop(second);
        assert!(is_waiting("a", 3 << 20).is_some());
        assert!(heavy.own.0.lock().is_empty(), "identities without a heavy write are forgotten");
    }
}
