//! What a key has written and the reader does not show yet.
//!
//! A reader may be behind what was just written. A controller that counted from such a view would create a pod twice, or
//! delete one more than it may. So a key notes its writes here, and does not count again before the reader shows them:
//! a creation or a change is shown once the reader is past the revision that the API gave it, a deletion once the object is deleted or
//! terminating.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{ObjectRef, Reader};
use crate::kinds::Kind;
use crate::views::AnyView;

/// A reader that does not show a write for so long has lost it (a cluster restored from a backup): count again.
const EXPECTED_MAX: Duration = Duration::from_secs(300);

/// The unseen writes of all keys of a controller, to objects of one kind.
pub struct Expectations<K> {
    kind: Kind,
    unseen: Mutex<HashMap<K, Unseen>>,
}

struct Unseen {
    since: Instant,
    /// The newest revision that a write got.
    written: u64,
    /// Namespace, name and uid.
    deleted: Vec<(String, String, String)>,
}

impl<K: Clone + Eq + Hash> Expectations<K> {
    /// Nothing is expected yet; all writes are to objects of this kind.
    pub fn new(kind: Kind) -> Self {
        Self { kind, unseen: Mutex::new(HashMap::new()) }
    }

    /// The API gave an object that was created, or changed, this revision.
    pub fn wrote(&self, key: &K, revision: u64) {
        self.note(key, |unseen| unseen.written = unseen.written.max(revision));
    }

    /// The API took the deletion of this object.
    pub fn deleted(&self, key: &K, namespace: &str, name: &str, uid: &str) {
        self.note(key, |unseen| unseen.deleted.push((namespace.to_owned(), name.to_owned(), uid.to_owned())));
    }

    fn note(&self, key: &K, note: impl FnOnce(&mut Unseen)) {
        let mut unseen = self.unseen.lock();
        let fresh = || Unseen { since: Instant::now(), written: 0, deleted: Vec::new() };
        note(unseen.entry(key.clone()).or_insert_with(fresh));
    }

    /// Whether the reader shows everything that the key wrote.
    pub fn are_seen(&self, key: &K, reader: &dyn Reader) -> bool {
        self.are_observed(key, reader.revision(self.kind), |namespace, name, uid| {
            reader.get(self.kind, namespace, name).is_some_and(|object| is_alive(&object, uid))
        })
    }

    /// The same, for who counts what it keeps of events, which come after the reader shows what they say: whether the event of
    /// this revision, and those that say of each deleted object (namespace, name and uid) that it is not alive, have come.
    pub fn are_observed(&self, key: &K, revision: u64, is_alive: impl Fn(&str, &str, &str) -> bool) -> bool {
        let mut all = self.unseen.lock();
        let Some(unseen) = all.get_mut(key) else { return true };
        unseen.deleted.retain(|(namespace, name, uid)| is_alive(namespace, name, uid));
        let is_seen = unseen.deleted.is_empty() && unseen.written <= revision;
        if is_seen || unseen.since.elapsed() > EXPECTED_MAX {
            all.remove(key);
            return true;
        }
        false
    }

    /// The key's object is deleted.
    pub fn forget(&self, key: &K) {
        self.unseen.lock().remove(key);
    }
}

fn is_alive(object: &ObjectRef, uid: &str) -> bool {
    object.view_or_log::<AnyView<'_>>().is_some_and(|view| view.metadata.uid == uid && !view.metadata.is_terminating())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_expected_until_it_was_observed() {
        let expectations = Expectations::new(Kind::Pod);
        let key = "web";
        let observed =
            |revision, alive: &[&str]| expectations.are_observed(&key, revision, |_, _, uid| alive.contains(&uid));
        assert!(observed(0, &[]), "nothing was written");
        expectations.wrote(&key, 7);
        expectations.wrote(&key, 6);
        expectations.deleted(&key, "shop", "web-1", "u-1");
        assert!(!observed(6, &[]), "the creation at 7 was not observed");
        expectations.deleted(&key, "shop", "web-2", "u-2");
        assert!(!observed(7, &["u-2"]), "one of the deletions was not observed");
        assert!(observed(7, &["u-3"]));
        assert!(observed(0, &["u-2"]), "what was observed is not expected again");
    }
}
