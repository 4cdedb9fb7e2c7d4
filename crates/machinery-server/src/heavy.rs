//! Writes that need much memory while they are worked on: one of each identity at a time, and few in all.
//!
//! A body costs many times its size while it is decoded, merged, checked and encoded; so does the stored object that it
//! changes. Sixty-four large patches of one node at a time would take more memory than a small hub has.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

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
    own: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// A heavy write's turn; given back when dropped.
pub(crate) struct HeavyTurn {
    _all: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
}

impl Heavy {
    pub(crate) fn new() -> Self {
        Self { all: Arc::new(Semaphore::new(HEAVY_MAX)), own: Mutex::default() }
    }

    /// Waits for the turn of a write of `bytes`; light ones do not wait.
    pub(crate) async fn turn(&self, user: &str, bytes: usize) -> Option<HeavyTurn> {
        if bytes <= HEAVY_BYTES {
            return None;
        }
        let own = {
            let mut known = self.own.lock();
            known.retain(|_, own| own.strong_count() > 0);
            known.get(user).and_then(Weak::upgrade).unwrap_or_else(|| {
                let own = Arc::new(Semaphore::new(1));
                known.insert(user.to_owned(), Arc::downgrade(&own));
                own
            })
        };
        let _own = own.acquire_owned().await.expect(NEVER_CLOSED);
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
        assert!(heavy.own.lock().len() <= 2, "identities without a heavy write are forgotten");
    }
}
