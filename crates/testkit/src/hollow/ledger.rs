//! Which object each revision belonged to: a revision that is given twice shows here.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use parking_lot::Mutex;

/// Revisions seen by all nodes of the process, in events and in answers to writes.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    seen: Mutex<Seen>,
    hash: RandomState,
}

#[derive(Debug, Default)]
struct Seen {
    objects: HashMap<u64, u64>,
    twice: u64,
}

impl Ledger {
    /// Notes that `revision` belongs to the object with this uid.
    pub(crate) fn note(&self, revision: u64, uid: &str) {
        let mut hasher = self.hash.build_hasher();
        hasher.write(uid.as_bytes());
        let object = hasher.finish();
        let mut seen = self.seen.lock();
        let before = seen.objects.insert(revision, object);
        if before.is_some_and(|before| before != object) {
            seen.twice += 1;
        }
    }

    pub(crate) fn twice(&self) -> u64 {
        self.seen.lock().twice
    }

    pub(crate) fn len(&self) -> usize {
        self.seen.lock().objects.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_of_two_objects_is_seen_and_of_one_is_not() {
        let ledger = Ledger::default();
        ledger.note(7, "a");
        ledger.note(7, "a");
        assert_eq!(ledger.twice(), 0);
        ledger.note(7, "b");
        assert_eq!((ledger.twice(), ledger.len()), (1, 1));
    }
}
