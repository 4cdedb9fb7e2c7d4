//! Statuses that wait a moment before they are written.
//!
//! One pod that is replaced changes the counts of its set three times within milliseconds: it is on its way out, another one is
//! created, that one is Ready. Each write of a status is a commit, and has the owner of the set look at it and write its own.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// What follows from one change comes within this time on a quick node. Nobody notices it who waits for a rollout.
const SETTLE: Duration = Duration::from_millis(20);

/// Since when what is counted differs from what is written.
pub(crate) struct Settling<K>(Mutex<HashMap<K, Instant>>);

impl<K> Default for Settling<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Clone + Eq + Hash> Settling<K> {
    /// How long a status that differs waits; `None` when it is to be written now. However often it changes meanwhile, it waits once.
    pub fn left(&self, key: &K) -> Option<Duration> {
        let mut since = self.0.lock();
        let waited = since.entry(key.clone()).or_insert_with(Instant::now).elapsed();
        let left = SETTLE.checked_sub(waited).filter(|left| !left.is_zero());
        if left.is_none() {
            since.remove(key);
        }
        left
    }

    /// It does not differ any more, or is deleted.
    pub fn forget(&self, key: &K) {
        self.0.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_status_waits_once() {
        let settling = Settling::default();
        assert_eq!(settling.left(&"web"), Some(SETTLE));
        tokio::time::advance(SETTLE / 4).await;
        assert_eq!(settling.left(&"web"), Some(SETTLE * 3 / 4), "another change does not prolong it");
        assert_eq!(settling.left(&"db"), Some(SETTLE));
        tokio::time::advance(SETTLE * 3 / 4).await;
        assert_eq!(settling.left(&"web"), None);
        assert_eq!(settling.left(&"web"), Some(SETTLE), "the next one waits again");
        settling.forget(&"db");
        assert_eq!(settling.left(&"db"), Some(SETTLE), "what was as written in between has waited for nothing");
    }
}
