//! What nobody deletes and nobody needs for ever: Events go an hour after they were last seen, as in Kubernetes.

use std::time::Duration;

use jiff::Timestamp;
use machinery_store::{CommitError, Durability, Expect, Object, Op};
use serde_json::Value;
use tracing::{debug, warn};

use crate::Server;
use crate::object::{text_at, with_revision};

/// Kubernetes' own default: long enough to be read after a night's alarm, short enough to bound the store.
const EVENT_LIFETIME: Duration = Duration::from_secs(3600);

/// An Event may live this much longer than it should.
const SWEEP_PERIOD: Duration = Duration::from_secs(300);

/// Objects looked at, and deleted, in one step; other work gets its turn in between.
const STEP: usize = 500;

impl Server {
    /// Deletes old Events every five minutes until the server shuts down. Spawn it once beside serving.
    pub async fn run_event_ttl(self) {
        let mut sweeps = tokio::time::interval(SWEEP_PERIOD);
        loop {
            tokio::select! {
                () = self.0.shutdown.cancelled() => return,
                _ = sweeps.tick() => match self.expire_events(Timestamp::now()).await {
                    Ok(0) => {}
                    Ok(count) => debug!(count, "Deleted old Events."),
                    Err(error) => warn!(%error, "Failed to delete old Events; trying again in five minutes."),
                },
            }
        }
    }

    /// Deletes the Events that were last seen an hour before `now` or earlier; returns how many.
    ///
    /// # Errors
    /// When the store does not take the deletions.
    pub async fn expire_events(&self, now: Timestamp) -> Result<usize, CommitError> {
        let store = &self.0.store;
        let (mut after, mut count) = (None::<(String, String)>, 0);
        loop {
            let start = after.as_ref().map(|(namespace, name)| (namespace.as_str(), name.as_str()));
            // Without a revision of its own a range cannot expire.
            let Ok(range) = store.range("/events", None, start, Some(STEP), None) else { return Ok(count) };
            let Some(last) = range.items.last() else { return Ok(count) };
            after = Some((last.key.namespace.to_string(), last.key.name.to_string()));
            for event in range.items.iter().filter(|event| is_old(event, now)) {
                let last = event.bytes.clone();
                let delete = Op::Delete {
                    key: event.key.clone(),
                    expect: Expect::Revision(event.revision),
                    final_bytes: Box::new(move |revision| with_revision(&last, revision)),
                };
                match store.commit(vec![delete], Durability::Lazy).await {
                    Ok(_) => count += 1,
                    // It was seen again just now, or somebody else deleted it.
                    Err(CommitError::Conflict { .. } | CommitError::NotFound) => {}
                    Err(error) => return Err(error),
                }
            }
            tokio::task::yield_now().await;
        }
    }
}

/// Clocks of nodes may be ahead of the server's by this much. A time further ahead says nothing of when an Event was seen, and
/// would keep it for ever.
const CLOCK_AHEAD_MAX: Duration = Duration::from_secs(300);

fn is_old(event: &Object, now: Timestamp) -> bool {
    let Ok(value) = serde_json::from_slice::<Value>(&event.bytes) else { return false };
    let time = |pointer| text_at(&value, pointer).parse::<Timestamp>().ok();
    let seen = ["/series/lastObservedTime", "/lastTimestamp", "/eventTime"].into_iter().filter_map(time);
    let believed = seen.filter(|seen| *seen <= now || seen.duration_since(now).unsigned_abs() <= CLOCK_AHEAD_MAX);
    let last_seen = believed.chain(time("/metadata/creationTimestamp")).max();
    last_seen.is_some_and(|seen| now.duration_since(seen).unsigned_abs() >= EVENT_LIFETIME && now > seen)
}
