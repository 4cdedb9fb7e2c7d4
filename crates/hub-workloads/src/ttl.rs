//! Finished jobs are deleted `ttlSecondsAfterFinished` after their end, with their pods first.
//!
//! The time of the end was written by a hub's clock, which may have been wrong then: an end that is still to come counts from when it
//! was first seen. A job is deleted as it was read, so one whose time was made longer meanwhile stays.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use hub_runtime::kinds::Kind;
use hub_runtime::views::time;
use hub_runtime::{Context, Event, Next, Queue, ReconcileError, Reconciler};
use jiff::Timestamp;
use kube::api::PropagationPolicy;
use parking_lot::Mutex;

use crate::jobs::shared::target;
use crate::jobs::views::JobView;

/// A change of the wall clock is noticed within this time.
const LOOK_AGAIN_MAX: Duration = Duration::from_secs(10 * 60);
/// How soon a job is looked at again that was changed just before its deletion.
const CHANGED_RETRY: Duration = Duration::from_secs(1);

/// Namespace and name of a job.
type Key = (Box<str>, Box<str>);

/// The controller.
pub struct TtlAfterFinished {
    context: Context,
    /// When jobs were first seen whose end cannot be right.
    seen: Mutex<HashMap<Key, Timestamp>>,
}

impl TtlAfterFinished {
    /// The controller over what it runs on.
    pub fn new(context: Context) -> Self {
        Self { context, seen: Mutex::default() }
    }
}

/// How long a job stays: until so many seconds after it finished, or after it was seen if it finished at no time that can be right.
fn left(finished: Option<Timestamp>, seen: Timestamp, ttl_seconds: i64, now: Timestamp) -> Duration {
    let ttl = Duration::from_secs(u64::try_from(ttl_seconds.clamp(0, i64::from(i32::MAX))).unwrap_or_default());
    let since = finished.filter(|finished| *finished <= now).unwrap_or_else(|| seen.min(now));
    ttl.saturating_sub(Duration::try_from(now.duration_since(since)).unwrap_or_default())
}

impl Reconciler for TtlAfterFinished {
    type Key = Key;

    fn name(&self) -> &'static str {
        "ttl-after-finished"
    }

    fn sources(&self) -> &'static [Kind] {
        &[Kind::Job]
    }

    fn observe(&self, event: &Event, queue: &Queue<Key>) {
        match event {
            Event::Listed(_, jobs) => {
                let listed: HashSet<Key> = jobs.iter().map(|job| (job.namespace().into(), job.name().into())).collect();
                self.seen.lock().retain(|key, _| listed.contains(key));
                listed.into_iter().for_each(|key| queue.add(key));
            }
            Event::Changed(change) => {
                let job = change.newest();
                queue.add((job.namespace().into(), job.name().into()));
            }
        }
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, ReconcileError> {
        let object = self.context.reader.get(Kind::Job, &key.0, &key.1);
        let Some(object) = object else {
            self.seen.lock().remove(key);
            return Ok(Next::OnChange);
        };
        let job: JobView<'_> = object.view()?;
        let (Some(ttl), Some((_, ending))) = (job.spec.ttl_seconds_after_finished, job.ending()) else {
            self.seen.lock().remove(key);
            return Ok(Next::OnChange);
        };
        if job.metadata.is_terminating() {
            return Ok(Next::OnChange);
        }
        let now = self.context.clock.now();
        let finished = ending.last_transition_time.as_deref().and_then(time);
        let seen = match finished {
            Some(finished) if finished <= now => now,
            _ => *self.seen.lock().entry(key.clone()).or_insert(now),
        };
        let left = left(finished, seen, ttl, now);
        if !left.is_zero() {
            return Ok(Next::After(left.min(LOOK_AGAIN_MAX)));
        }
        let (writer, version) = (&self.context.writer, &job.metadata.resource_version);
        let is_deleted =
            writer.delete_unchanged(Kind::Job, target(&job.metadata), version, PropagationPolicy::Foreground).await?;
        Ok(if is_deleted { Next::OnChange } else { Next::After(CHANGED_RETRY) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finished_job_stays_for_its_time() {
        let at = |second: i64| Timestamp::from_second(1_800_000_000 + second).unwrap();
        for (finished, seen, ttl, now, expected) in [
            (Some(0), 0, 100, 0, 100),
            (Some(0), 0, 100, 99, 1),
            (Some(0), 0, 100, 100, 0),
            (Some(0), 0, 0, 0, 0),
            (Some(0), 0, i64::MAX, 0, u64::try_from(i32::MAX).unwrap()),
            (Some(0), 0, -5, 0, 0),
            // It will have finished in a year, by a clock that was wrong: the time runs from when that was seen.
            (Some(31_536_000), 10, 100, 10, 100),
            (Some(31_536_000), 10, 100, 60, 50),
            (Some(31_536_000), 10, 100, 110, 0),
            // Nobody knows when.
            (None, 10, 100, 60, 50),
            // The clock was put back since.
            (None, 1000, 100, 60, 100),
        ] {
            let left = left(finished.map(at), at(seen), ttl, at(now));
            assert_eq!(left, Duration::from_secs(expected), "{finished:?} seen {seen}, {ttl} s, now {now}");
        }
    }
}
