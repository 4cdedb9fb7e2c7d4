//! What an operator sees of the readings on the hub's page of metrics.

use base_observe::{Metrics, Sample, SampleKind};

use crate::store::{Telemetry, TelemetryUsage};

type Read = fn(&TelemetryUsage) -> u64;

const FIGURES: &[(&str, &str, SampleKind, Read)] = &[
    ("selvedge_telemetry_bytes", "Readings on disk", SampleKind::Gauge, |usage| usage.bytes),
    ("selvedge_telemetry_events", "Events on disk", SampleKind::Gauge, |usage| usage.events),
    ("selvedge_telemetry_nodes", "Nodes of which anything is held", SampleKind::Gauge, |usage| usage.nodes as u64),
    ("selvedge_telemetry_exports", "Exports with an acknowledged offset", SampleKind::Gauge, |usage| {
        usage.exports as u64
    }),
    ("selvedge_telemetry_name_bytes", "Memory of names in the index", SampleKind::Gauge, |usage| {
        usage.name_bytes as u64
    }),
    (
        "selvedge_telemetry_lost_records",
        "Records that nodes lost before they could send them",
        SampleKind::Gauge,
        |usage| usage.lost,
    ),
    (
        "selvedge_telemetry_implausible",
        "Stored batches and positions with numbers that cannot be",
        SampleKind::Counter,
        |usage| usage.implausible,
    ),
    (
        "selvedge_telemetry_epoch_conflicts",
        "Batches rejected because another journal has their epoch",
        SampleKind::Counter,
        |usage| usage.epoch_conflicts,
    ),
    (
        "selvedge_telemetry_over_quota",
        "Batches rejected because their node had sent more than its quota of bytes",
        SampleKind::Counter,
        |usage| usage.over_quota,
    ),
];

/// Shows what `telemetry` holds on a page of metrics.
pub fn register(metrics: &Metrics, telemetry: &Telemetry) {
    for (name, help, kind, read) in FIGURES {
        let telemetry = telemetry.clone();
        metrics.collect(name, help, *kind, move || vec![Sample::whole(read(&telemetry.usage()))]);
    }
}
