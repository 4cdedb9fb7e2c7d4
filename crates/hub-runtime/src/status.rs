//! What each controller did last: for `selvedge status`, `/metrics` and the log.

use std::sync::Arc;
use std::time::Duration;

use api_edge::status::{CONTROLLERS_VERSION, ControllersReport};
pub use api_edge::status::{ControllerError, ControllerStatus};
use base_observe::{Metrics, Sample, SampleKind};
use jiff::Timestamp;
use parking_lot::Mutex;

use super::queue::QueueLengths;

/// All controllers of a process; clones share it.
#[derive(Clone, Default)]
pub struct StatusRegistry(Arc<Mutex<Vec<Registered>>>);

type Read = fn(&ControllerStatus) -> f64;

/// Under upstream's names where upstream has the metric.
#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
const FIGURES: &[(&str, &str, SampleKind, Read)] = &[
    ("workqueue_depth", "Keys that are due", SampleKind::Gauge, |status| status.queue_length as f64),
    ("workqueue_retries", "Runs that failed and were repeated", SampleKind::Counter, |status| status.retries as f64),
    ("selvedge_controller_synced", "1 once everything that is read was seen", SampleKind::Gauge, |status| {
        f64::from(u8::from(status.synced))
    }),
    ("selvedge_controller_waiting_keys", "Keys that are due later", SampleKind::Gauge, |status| status.waiting as f64),
    ("selvedge_controller_running_keys", "Keys that run now", SampleKind::Gauge, |status| status.running as f64),
    ("selvedge_controller_failing_keys", "Keys whose last run failed", SampleKind::Gauge, |status| {
        status.failing as f64
    }),
    ("selvedge_controller_runs", "Runs", SampleKind::Counter, |status| status.processed as f64),
    ("selvedge_controller_run_seconds", "Time spent in runs", SampleKind::Counter, |status| {
        status.duration_seconds_total
    }),
    ("selvedge_controller_panics", "Runs that panicked", SampleKind::Counter, |status| status.panics as f64),
    ("selvedge_controller_last_run_seconds", "How long the last run took", SampleKind::Gauge, |status| {
        status.last_duration_seconds
    }),
    ("selvedge_controller_last_run_timestamp_seconds", "When the last run ended", SampleKind::Gauge, |status| {
        status.last_run.map_or(0.0, |at| at.as_second() as f64)
    }),
];

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

    /// The same as it goes over the wire.
    pub fn report(&self) -> ControllersReport {
        ControllersReport { version: CONTROLLERS_VERSION, controllers: self.snapshot() }
    }

    /// Shows every controller on a page of metrics, by the label `name`.
    pub fn register_metrics(&self, metrics: &Metrics) {
        for (name, help, kind, read) in FIGURES {
            let registry = self.clone();
            metrics.collect(name, help, *kind, move || {
                let sample = |status: ControllerStatus| Sample::new(read(&status)).with("name", status.name);
                registry.snapshot().into_iter().map(sample).collect()
            });
        }
    }

    /// Adds a controller by what it records, and a look at its queue.
    pub fn register(&self, recorded: Arc<Recorded>, lengths: impl Fn() -> QueueLengths + Send + 'static) {
        self.0.lock().push(Registered { recorded, lengths: Box::new(lengths) });
    }
}

/// What the workers of one controller record.
pub struct Recorded(Mutex<ControllerStatus>);

impl Recorded {
    /// A controller that has not run yet.
    pub fn new(name: &str) -> Self {
        Self(Mutex::new(ControllerStatus { name: name.to_owned(), ..ControllerStatus::default() }))
    }

    /// Everything that is read was seen once.
    pub fn synced(&self) {
        self.0.lock().synced = true;
    }

    /// A run took so long.
    pub fn succeeded(&self, took: Duration) {
        ran(&mut self.0.lock(), took);
    }

    /// A run of a key failed.
    pub fn failed(&self, took: Duration, key: &str, message: String) {
        let mut status = self.0.lock();
        ran(&mut status, took);
        status.retries += 1;
        status.last_error = Some(ControllerError { key: key.to_owned(), message, time: Some(Timestamp::now()) });
    }

    /// A run of a key panicked.
    pub fn panicked(&self, key: &str, text: &str) {
        self.failed(Duration::ZERO, key, format!("panicked: {text}"));
        self.0.lock().panics += 1;
    }
}

fn ran(status: &mut ControllerStatus, took: Duration) {
    status.processed += 1;
    status.last_run = Some(Timestamp::now());
    status.last_duration_seconds = took.as_secs_f64();
    status.duration_seconds_total += took.as_secs_f64();
}
