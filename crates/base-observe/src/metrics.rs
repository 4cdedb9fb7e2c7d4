//! The figures that a role shows under `/metrics`, in the text form of OpenMetrics.
//!
//! A metric's name is given in full but for the suffix that its type adds: a counter `selvedge_store_commits` is shown as
//! `selvedge_store_commits_total`. A name that is registered again replaces what had it before: a part that was started
//! anew counts anew, and the page stays valid.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Metric, Registry};

use crate::{process, task_counts};

/// Media type of [`Metrics::encode`].
pub const METRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A number that only grows.
pub type Counter = prometheus_client::metrics::counter::Counter;
/// A number that goes up and down.
pub type Gauge = prometheus_client::metrics::gauge::Gauge;
/// How often values fell into each bucket.
pub type Histogram = prometheus_client::metrics::histogram::Histogram;
/// `N` label names with their values. Names are literals; values come from a bounded set, never from a client's text.
pub type Labels<const N: usize> = [(&'static str, String); N];
/// One metric per set of labels.
pub type Family<M, const N: usize> = prometheus_client::metrics::family::Family<Labels<N>, M>;
/// One histogram per set of labels.
pub type HistogramFamily<const N: usize> =
    prometheus_client::metrics::family::Family<Labels<N>, Histogram, fn() -> Histogram>;

/// Buckets for durations of requests and syncs: 1 ms to 33 s, doubling, sixteen of them.
pub fn seconds_buckets() -> impl Iterator<Item = f64> {
    prometheus_client::metrics::histogram::exponential_buckets(0.001, 2.0, 16)
}

/// What a [`Sample`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleKind {
    /// It only grows while the process lives.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// One value read at scrape.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Its labels; empty for a metric with one value.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: f64,
}

impl Sample {
    /// A value without labels. Whole numbers are exact up to 2^53, far beyond what a process counts.
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
    pub fn whole(value: u64) -> Self {
        Self { labels: Vec::new(), value: value as f64 }
    }

    /// A value without labels.
    pub fn new(value: f64) -> Self {
        Self { labels: Vec::new(), value }
    }

    /// The same with one label more.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.labels.push((name, value.into()));
        self
    }
}

/// All figures of one role. Clones share them.
///
/// ```
/// let metrics = base_observe::Metrics::new();
/// let commits = metrics.counter("selvedge_store_commits", "Commits that are on disk");
/// commits.inc();
/// assert!(metrics.encode().contains("selvedge_store_commits_total 1\n"));
/// ```
#[derive(Clone)]
pub struct Metrics {
    entries: Arc<Entries>,
    registry: Arc<Registry>,
}

#[derive(Default)]
struct Entries(Mutex<BTreeMap<String, Entry>>);

struct Entry {
    help: String,
    metric: Arc<dyn Metric>,
}

impl Metrics {
    /// No figures but those of the process: memory, processor time, open files, start, tasks.
    pub fn new() -> Self {
        let entries = Arc::new(Entries::default());
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Arc::clone(&entries)));
        let metrics = Self { entries, registry: Arc::new(registry) };
        process::register(&metrics);
        metrics.collect("selvedge_tasks", "Tasks that run, by name", SampleKind::Gauge, || {
            task_counts().into_iter().map(|(name, counts)| Sample::whole(counts.running).with("task", name)).collect()
        });
        metrics.collect("selvedge_task_panics", "Tasks that ended by a panic", SampleKind::Counter, || {
            task_counts().into_iter().map(|(name, counts)| Sample::whole(counts.panicked).with("task", name)).collect()
        });
        metrics
    }

    /// Says which program this is, as `selvedge_build_info{role,version} 1`.
    pub fn build_info(&self, role: &'static str, version: &'static str) {
        self.collect("selvedge_build_info", "The program that runs", SampleKind::Gauge, move || {
            vec![Sample::whole(1).with("role", role).with("version", version)]
        });
    }

    /// A new counter. `help` has no full stop; the encoder sets one.
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        self.register(name, help, Counter::default())
    }

    /// A new gauge.
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.register(name, help, Gauge::default())
    }

    /// A new histogram with [`seconds_buckets`].
    pub fn histogram(&self, name: &str, help: &str) -> Histogram {
        self.register(name, help, seconds_histogram())
    }

    /// Counters by labels.
    pub fn counters<const N: usize>(&self, name: &str, help: &str) -> Family<Counter, N> {
        self.register(name, help, Family::<Counter, N>::default())
    }

    /// Gauges by labels.
    pub fn gauges<const N: usize>(&self, name: &str, help: &str) -> Family<Gauge, N> {
        self.register(name, help, Family::<Gauge, N>::default())
    }

    /// Histograms by labels, with [`seconds_buckets`].
    pub fn histograms<const N: usize>(&self, name: &str, help: &str) -> HistogramFamily<N> {
        self.register(name, help, HistogramFamily::<N>::new_with_constructor(seconds_histogram))
    }

    /// Reads values at each scrape from whoever counts them: a store's atomics, a queue's length.
    pub fn collect<R>(&self, name: &str, help: &str, kind: SampleKind, read: R)
    where
        R: Fn() -> Vec<Sample> + Send + Sync + 'static,
    {
        self.insert(name, help, Arc::new(Collect { kind, read: Box::new(read) }));
    }

    /// Registers any metric of `prometheus-client`; clones of it share their values.
    pub fn register<M: EncodeMetric + Clone + fmt::Debug + Send + Sync + 'static>(
        &self,
        name: &str,
        help: &str,
        metric: M,
    ) -> M {
        self.insert(name, help, Arc::new(metric.clone()));
        metric
    }

    fn insert(&self, name: &str, help: &str, metric: Arc<dyn Metric>) {
        self.entries.0.lock().insert(name.to_owned(), Entry { help: format!("{help}."), metric });
    }

    /// The page: every metric by name, and the end mark.
    pub fn encode(&self) -> String {
        let mut page = String::new();
        encode(&mut page, &self.registry).expect("writing to a string does not fail");
        page
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Metrics").field(&self.entries).finish()
    }
}

impl fmt::Debug for Entries {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.0.lock().keys()).finish()
    }
}

impl Collector for Entries {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // What is read at scrape may itself register a metric, so the lock is not held over it.
        let entries: Vec<_> = {
            let entries = self.0.lock();
            entries.iter().map(|(name, entry)| (name.clone(), entry.help.clone(), Arc::clone(&entry.metric))).collect()
        };
        for (name, help, metric) in entries.into_iter().filter(|(.., metric)| !metric.is_empty()) {
            let described = encoder.encode_descriptor(&name, &help, None, metric.metric_type())?;
            metric.encode(described)?;
        }
        Ok(())
    }
}

fn seconds_histogram() -> Histogram {
    Histogram::new(seconds_buckets())
}

/// Values that are read at scrape.
struct Collect {
    kind: SampleKind,
    read: Box<dyn Fn() -> Vec<Sample> + Send + Sync>,
}

impl fmt::Debug for Collect {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Collect").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Collect {
    fn encode_value(&self, encoder: &mut MetricEncoder<'_>, value: f64) -> fmt::Result {
        match self.kind {
            SampleKind::Counter => encoder.encode_counter::<Labels<0>, f64, f64>(&value, None),
            SampleKind::Gauge => encoder.encode_gauge(&value),
        }
    }
}

impl EncodeMetric for Collect {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for Sample { labels, value } in (self.read)() {
            if labels.is_empty() {
                self.encode_value(&mut encoder, value)?;
            } else {
                self.encode_value(&mut encoder.encode_family(&labels)?, value)?;
            }
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        match self.kind {
            SampleKind::Counter => MetricType::Counter,
            SampleKind::Gauge => MetricType::Gauge,
        }
    }
}
