//! What the server counts, under upstream's names where upstream has the metric.

use std::sync::{Arc, Weak};
use std::time::Duration;

use base_observe::{Counter, Family, HistogramFamily, Metrics, Sample, SampleKind};
use machinery_store::{Store, Usage};

use crate::server::Inner;

/// Counters of requests. Labels come from the registry and from fixed sets, never from a client's text.
pub(crate) struct RequestMetrics {
    total: Family<Counter, 3>,
    seconds: HistogramFamily<1>,
}

impl RequestMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            total: metrics.counters("apiserver_request", "Requests answered, by verb, resource and status code"),
            seconds: metrics.histograms(
                "apiserver_request_duration_seconds",
                "Time until the head of an answer was there, by verb; watches and logs continue after it",
            ),
        }
    }

    /// Counts one answer. `resource` is empty for paths that are no resource that is served.
    pub(crate) fn count(&self, verb: &'static str, resource: &str, code: u16, took: Duration) {
        let labels = [("verb", verb.to_owned()), ("resource", resource.to_owned()), ("code", code.to_string())];
        self.total.get_or_create(&labels).inc();
        self.seconds.get_or_create(&[("verb", verb.to_owned())]).observe(took.as_secs_f64());
    }
}

/// Shows what is read at scrape: requests on their way, and what the store holds.
pub(crate) fn register(metrics: &Metrics, server: &Arc<Inner>) {
    let inner = Arc::downgrade(server);
    let usage = move |read: fn(&Inner) -> usize| {
        let inner: Weak<Inner> = inner.clone();
        move || inner.upgrade().map(|inner| vec![whole(read(&inner))]).unwrap_or_default()
    };
    metrics.collect(
        "apiserver_current_inflight_requests",
        "Requests that are worked on",
        SampleKind::Gauge,
        usage(|inner| inner.flow.usage().in_flight),
    );
    metrics.collect(
        "selvedge_requests_waiting",
        "Requests that wait for their turn",
        SampleKind::Gauge,
        usage(|inner| inner.flow.usage().waiting),
    );
    metrics.collect(
        "selvedge_requests_entered",
        "Requests on their way, with those whose body is still coming",
        SampleKind::Gauge,
        usage(|inner| inner.flow.usage().entered),
    );
    metrics.collect(
        "apiserver_longrunning_requests",
        "Watches and logs that are open",
        SampleKind::Gauge,
        usage(|inner| inner.flow.usage().streams),
    );
    metrics.collect(
        "selvedge_request_body_bytes",
        "Bytes of request bodies that are held",
        SampleKind::Gauge,
        usage(|inner| usize::try_from(inner.bodies.bytes_held()).unwrap_or(usize::MAX)),
    );
    store(metrics, &server.store);
}

fn store(metrics: &Metrics, store: &Store) {
    type Read = fn(&Usage) -> f64;
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
    const FIGURES: &[(&str, &str, SampleKind, Read)] = &[
        ("selvedge_store_objects", "Objects", SampleKind::Gauge, |usage| usage.objects as f64),
        ("selvedge_store_object_bytes", "Encoded bytes of objects", SampleKind::Gauge, |usage| {
            usage.object_bytes as f64
        }),
        (
            "selvedge_store_managed_fields_bytes",
            "Those of them that say who owns which fields",
            SampleKind::Gauge,
            |usage| usage.managed_bytes as f64,
        ),
        ("selvedge_store_index_bytes", "Memory that finds objects", SampleKind::Gauge, |usage| {
            usage.index_bytes as f64
        }),
        ("selvedge_store_window_bytes", "Memory of recent changes", SampleKind::Gauge, |usage| {
            usage.window_bytes as f64
        }),
        ("selvedge_store_watches", "Watches of the store", SampleKind::Gauge, |usage| usage.watches as f64),
        ("selvedge_store_queued_commits", "Commits that wait for the writer", SampleKind::Gauge, |usage| {
            usage.queued_commits as f64
        }),
        ("selvedge_store_disk_bytes", "Size of the store's files", SampleKind::Gauge, |usage| usage.disk_bytes as f64),
        ("selvedge_store_full", "1 while the disk has no space", SampleKind::Gauge, |usage| {
            f64::from(u8::from(usage.full))
        }),
        ("selvedge_store_operations", "Operations committed", SampleKind::Counter, |usage| usage.operations as f64),
        ("selvedge_store_commit_groups", "Flushes to the disk", SampleKind::Counter, |usage| {
            usage.commit_groups as f64
        }),
        ("selvedge_store_commit_group_seconds", "Time spent in flushes", SampleKind::Counter, |usage| {
            usage.commit_group_time.as_secs_f64()
        }),
        ("selvedge_store_failed_commit_groups", "Flushes that the disk did not take", SampleKind::Counter, |usage| {
            usage.failed_commit_groups as f64
        }),
    ];
    for (name, help, kind, read) in FIGURES {
        let store = store.clone();
        metrics.collect(name, help, *kind, move || vec![Sample::new(read(&store.usage()))]);
    }
}

fn whole(value: usize) -> Sample {
    Sample::whole(value as u64)
}
