//! What a running part shows of itself: logs, named tasks, metrics, and its last failures.
//!
//! - **Logs.** Parts log with `tracing`; the program calls [`init_logging`] once. [`Chain`] prints an error with its causes.
//!   An event is one line, whatever is in it; [`Printable`] does the same for what the program prints itself.
//! - **Tasks.** [`spawn_named`] starts a task whose panic is logged and counted; nothing else starts one (`cargo xtask check` rejects
//!   `tokio::spawn` in other crates).
//! - **Metrics.** A part takes its counters and gauges from a [`Metrics`]; its role serves [`Metrics::encode`] under
//!   `/metrics` as [`METRICS_CONTENT_TYPE`]. A part that counts in atomics of its own hands over a closure that is read at
//!   scrape ([`Metrics::collect`]), and so needs no dependency on this crate.
//! - **Failures.** [`RecentErrors`] keeps the last ten for status pages, so that `selvedge status` needs no logs.
//!
//! Every plane uses this crate and it knows none of them. Try it with `cargo test -p base-observe`; what breaks when it
//! breaks is what operators see, never what the program does.

mod chain;
mod logging;
mod metrics;
mod printable;
mod process;
mod recent;
mod tasks;
mod threads;

pub use chain::{Chain, last_cause};
pub use logging::{InitLoggingError, LOG_VARIABLE, LogFormat, LogOptions, check_logging, init_logging};
pub use metrics::{
    Counter, Family, Gauge, Histogram, HistogramFamily, Labels, METRICS_CONTENT_TYPE, Metrics, Sample, SampleKind,
    seconds_buckets,
};
pub use printable::Printable;
pub use recent::{RecentError, RecentErrors};
pub use tasks::{
    TaskCounts, spawn_blocking_named, spawn_detached, spawn_in_set, spawn_named, spawn_vital, task_counts,
};
pub use threads::{thread_visits, visit_threads};

#[cfg(test)]
mod tests;
