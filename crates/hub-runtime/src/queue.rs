//! Keys that are due, each at most once, and each run by one worker at a time.
//!
//! ```text
//!            add                           next                   done
//!   (absent) ──────────────▶ due at T ──────────────▶ running ──────────────▶ (absent), or due again
//!                             ▲    │ add: the earlier T counts     │
//!                             └────┘                               ├─ added meanwhile: due after its rest
//!                                                                  ├─ requeue after: due then
//!                                                                  └─ failed: due after a back-off
//! ```
//!
//! A key that is added waits a few milliseconds, so that an `apply` of six files is one run; it then rests for as long
//! as its last run took, twice, so that no key alone can keep a core busy however fast its changes come. A key that
//! failed waits twice as long each time, with jitter; a change makes its next try sooner, but not immediate.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::hash::Hash;
use std::time::Duration;

use base_retry::BackoffLaw;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How a queue behaves.
#[derive(Clone, Copy, Debug)]
pub struct QueueOptions {
    /// Changes come in groups: waiting this long takes a group in one run.
    pub debounce: Duration,
    /// Longest rest of a key after a long run.
    pub rest_max: Duration,
    /// After failures of a key. It is tried at least this often, however often it failed: a hub whose disk was full works
    /// again. Random, so that keys that failed together do not come again together.
    pub retry: BackoffLaw,
    /// A change makes a failed key's next try sooner, but not sooner than this after the failure.
    pub retry_on_change: Duration,
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self {
            debounce: Duration::from_millis(5),
            rest_max: Duration::from_secs(1),
            retry: BackoffLaw::new(Duration::from_millis(100), Duration::from_secs(30)),
            retry_on_change: Duration::from_secs(1),
        }
    }
}

/// How often a rest is as long as the run before it.
const REST_FACTOR: u32 = 2;

/// What became of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing more to do until something changes.
    Done,
    /// Due again after this time, whatever happens.
    After(Duration),
    /// To be repeated after a back-off.
    Failed,
}

/// What a queue holds, for its status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueLengths {
    /// Keys that are due now.
    pub ready: usize,
    /// Keys that are due later, those in back-off among them.
    pub later: usize,
    /// Keys that a worker runs.
    pub running: usize,
    /// Keys whose last run failed.
    pub failing: usize,
}

/// The keys of one controller.
pub struct Queue<K> {
    state: Mutex<State<K>>,
    wake: Notify,
    options: QueueOptions,
}

struct State<K> {
    entries: HashMap<K, Entry>,
    /// By time, then in order of arrival: no key overtakes another that was due before it.
    due: BTreeMap<(Instant, u64), K>,
    arrivals: u64,
    is_closed: bool,
}

#[derive(Default)]
struct Entry {
    due: Option<(Instant, u64)>,
    running_since: Option<Instant>,
    /// Added while it ran.
    again: Option<Instant>,
    /// End of the rest after the last run.
    rests_until: Option<Instant>,
    failures: u32,
    /// After a failure, changes count from here on.
    not_before: Option<Instant>,
}

impl<K: Clone + Eq + Hash + Debug> Queue<K> {
    /// A queue without keys.
    pub fn new(options: QueueOptions) -> Self {
        let state = State { entries: HashMap::new(), due: BTreeMap::new(), arrivals: 0, is_closed: false };
        Self { state: Mutex::new(state), wake: Notify::new(), options }
    }

    /// Something that concerns the key has changed.
    pub fn add(&self, key: K) {
        let mut state = self.state.lock();
        let mut at = Instant::now() + self.options.debounce;
        if let Some(entry) = state.entries.get(&key) {
            at = [entry.rests_until, entry.not_before].into_iter().flatten().fold(at, Instant::max);
        }
        state.schedule(key, at);
        drop(state);
        self.wake.notify_one();
    }

    /// Waits for a key that is due; `None` when the queue is closed. The caller runs it and then calls [`done`](Self::done).
    pub async fn next(&self) -> Option<K> {
        loop {
            let notified = self.wake.notified();
            let until = {
                let mut state = self.state.lock();
                if state.is_closed {
                    return None;
                }
                let now = Instant::now();
                match state.due.first_key_value().map(|((at, _), _)| *at) {
                    Some(at) if at <= now => {
                        let (_, key) = state.due.pop_first().expect("it has a first entry");
                        let entry = state.entries.entry(key.clone()).or_default();
                        (entry.due, entry.running_since, entry.again) = (None, Some(now), None);
                        let is_more = state.due.first_key_value().is_some_and(|((at, _), _)| *at <= now);
                        drop(state);
                        if is_more {
                            self.wake.notify_one();
                        }
                        return Some(key);
                    }
                    at => at,
                }
            };
            match until {
                Some(until) => tokio::select! {
                    () = notified => {}
                    () = tokio::time::sleep_until(until) => {}
                },
                None => notified.await,
            }
        }
    }

    /// A run of the key has ended.
    pub fn done(&self, key: K, outcome: Outcome) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Some(entry) = state.entries.get_mut(&key) else { return };
        let now = Instant::now();
        let took = entry.running_since.take().map_or(Duration::ZERO, |since| now.duration_since(since));
        entry.rests_until = Some(now + took.saturating_mul(REST_FACTOR).min(self.options.rest_max));
        let mut due = entry.again.take().map(|again| entry.rests_until.map_or(again, |rest| rest.max(again)));
        match outcome {
            Outcome::Done => (entry.failures, entry.not_before) = (0, None),
            Outcome::After(delay) => {
                (entry.failures, entry.not_before) = (0, None);
                let then = now + delay;
                due = Some(due.map_or(then, |due| due.min(then)));
            }
            Outcome::Failed => {
                entry.failures = entry.failures.saturating_add(1);
                let pause = self.options.retry.delay(entry.failures, fastrand::f64());
                let soonest = now + pause.min(self.options.retry_on_change);
                entry.not_before = Some(soonest);
                due = Some(match due {
                    Some(due) => due.max(soonest).min(now + pause),
                    None => now + pause,
                });
            }
        }
        match due {
            Some(at) => state.schedule(key, at),
            // A key that rests is remembered until it is due or its rest is over; a queue of keys that were once busy
            // would grow for good, so the rest of a short run is not worth an entry.
            None if took < self.options.debounce => drop(state.entries.remove(&key)),
            None => {}
        }
        state.forget_rested(now);
        drop(guard);
        self.wake.notify_one();
    }

    /// Ends every wait; what is due stays undone.
    pub fn close(&self) {
        self.state.lock().is_closed = true;
        self.wake.notify_waiters();
        self.wake.notify_one();
    }

    /// How many keys there are of each kind.
    pub fn lengths(&self) -> QueueLengths {
        let state = self.state.lock();
        let now = Instant::now();
        let ready = state.due.keys().take_while(|(at, _)| *at <= now).count();
        let (running, failing) = state.entries.values().fold((0, 0), |(running, failing), entry| {
            (running + usize::from(entry.running_since.is_some()), failing + usize::from(entry.failures > 0))
        });
        QueueLengths { ready, later: state.due.len() - ready, running, failing }
    }
}

impl<K: Clone + Eq + Hash + Debug> State<K> {
    fn schedule(&mut self, key: K, at: Instant) {
        let entry = self.entries.entry(key.clone()).or_default();
        if entry.running_since.is_some() {
            entry.again = Some(entry.again.map_or(at, |again| again.min(at)));
            return;
        }
        match entry.due {
            Some((due, _)) if due <= at => return,
            Some(due) => drop(self.due.remove(&due)),
            None => {}
        }
        self.arrivals += 1;
        entry.due = Some((at, self.arrivals));
        self.due.insert((at, self.arrivals), key);
    }

    /// Drops entries that say nothing any more, once they are the most.
    fn forget_rested(&mut self, now: Instant) {
        const RESTING_MAX: usize = 256;
        if self.entries.len() > 2 * self.due.len() + RESTING_MAX {
            self.entries.retain(|_, entry| {
                entry.due.is_some()
                    || entry.running_since.is_some()
                    || entry.failures > 0
                    || entry.rests_until.is_some_and(|until| until > now)
            });
        }
    }
}

#[cfg(test)]
mod tests;
