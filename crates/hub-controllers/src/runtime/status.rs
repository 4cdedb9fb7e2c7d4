//! What each controller did last: for `selvedge status`, `/metrics` and the log.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::queue::QueueLengths;

/// The state of one controller.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ControllerStatus {
    /// Its name.
    pub name: String,
    /// Whether it has seen everything that it reads; no key runs before.
    pub synced: bool,
    /// Keys that are due.
    pub queue_length: usize,
    /// Keys that are due later: deadlines and retries.
    pub waiting: usize,
    /// Keys that run now.
    pub running: usize,
    /// Keys whose last run failed.
    pub failing: usize,
    /// Runs since the start.
    pub processed: u64,
    /// Runs that failed and were repeated.
    pub retries: u64,
    /// Runs that panicked.
    pub panics: u64,
    /// When the last run ended, RFC 3339.
    pub last_run: Option<Timestamp>,
    /// How long the last run took.
    pub last_duration_seconds: f64,
    /// How long all runs took together.
    pub duration_seconds_total: f64,
    /// The last failure, also when a later run succeeded.
    pub last_error: Option<LastError>,
}

/// A failure of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LastError {
    /// The key.
    pub key: String,
    /// The error with its causes.
    pub message: String,
    /// When.
    pub time: Option<Timestamp>,
}

/// All controllers of a process; clones share it.
#[derive(Clone, Default)]
pub struct StatusRegistry(Arc<Mutex<Vec<Registered>>>);

struct Registered {
    recorded: Arc<Recorded>,
    lengths: Box<dyn Fn() -> QueueLengths + Send>,
}

impl StatusRegistry {
    /// The state of every controller now, in order of their names.
    pub fn snapshot(&self) -> Vec<ControllerStatus> {
        let registered = self.0.lock();
        let mut all: Vec<ControllerStatus> = registered
            .iter()
            .map(|one| {
                let lengths = (one.lengths)();
                ControllerStatus {
                    queue_length: lengths.ready,
                    waiting: lengths.later,
                    running: lengths.running,
                    failing: lengths.failing,
                    ..one.recorded.0.lock().clone()
                }
            })
            .collect();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }

    pub(crate) fn register(&self, recorded: Arc<Recorded>, lengths: impl Fn() -> QueueLengths + Send + 'static) {
        self.0.lock().push(Registered { recorded, lengths: Box::new(lengths) });
    }
}

/// What the workers of one controller record.
pub(crate) struct Recorded(Mutex<ControllerStatus>);

impl Recorded {
    pub fn new(name: &str) -> Self {
        Self(Mutex::new(ControllerStatus { name: name.to_owned(), ..ControllerStatus::default() }))
    }

    pub fn synced(&self) {
        self.0.lock().synced = true;
    }

    pub fn succeeded(&self, took: Duration) {
        self.0.lock().ran(took);
    }

    pub fn failed(&self, took: Duration, key: &str, message: String) {
        let mut status = self.0.lock();
        status.ran(took);
        status.retries += 1;
        status.last_error = Some(LastError { key: key.to_owned(), message, time: Some(Timestamp::now()) });
    }

    pub fn panicked(&self, key: &str, text: &str) {
        self.failed(Duration::ZERO, key, format!("panicked: {text}"));
        self.0.lock().panics += 1;
    }
}

impl ControllerStatus {
    fn ran(&mut self, took: Duration) {
        self.processed += 1;
        self.last_run = Some(Timestamp::now());
        self.last_duration_seconds = took.as_secs_f64();
        self.duration_seconds_total += took.as_secs_f64();
    }
}
