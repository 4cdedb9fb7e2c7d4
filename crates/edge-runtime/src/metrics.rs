//! What an operator sees of the edge plane on its page of metrics: the report of the status socket, as figures.
//!
//! Labels are the kinds and names of what is assigned to this node, so there are as many as the report has entries.

use api_edge::status::{EdgeReport, EntryReport, ExportReport};
use base_observe::{Metrics, Sample, SampleKind};
use tokio::sync::watch;

type OfJournal = fn(&EdgeReport) -> u64;
type OfEntry = fn(&EntryReport) -> u64;
type OfExport = fn(&ExportReport) -> u64;

const JOURNAL: &[(&str, &str, OfJournal)] = &[
    ("selvedge_edge_journal_bytes", "Size of the journal of events", |report| report.journal.bytes),
    ("selvedge_edge_journal_first_offset", "Oldest offset that the journal holds", |report| report.journal.first),
    ("selvedge_edge_journal_next_offset", "Offset of the journal's next record", |report| report.journal.next),
    ("selvedge_edge_journal_backlog", "Records that the slowest export has not acknowledged", |report| {
        report.journal.depth
    }),
];

const ENTRIES: &[(&str, &str, SampleKind, OfEntry)] = &[
    ("selvedge_edge_ready", "1 while it does its work", SampleKind::Gauge, |entry| u64::from(entry.ready)),
    ("selvedge_edge_events", "Events that devices and rules made and exports sent", SampleKind::Counter, |entry| {
        entry.events
    }),
    ("selvedge_edge_taken", "Readings of devices, and rows that rules took in", SampleKind::Counter, |entry| {
        entry.taken
    }),
    ("selvedge_edge_errors", "Reads, rows and events that failed", SampleKind::Counter, |entry| entry.errors),
];

const EXPORTS: &[(&str, &str, SampleKind, OfExport)] = &[
    ("selvedge_edge_export_backlog", "Records that are not acknowledged yet", SampleKind::Gauge, |export| {
        export.backlog
    }),
    (
        "selvedge_edge_export_acknowledged_offset",
        "Offset below which the receiver has acknowledged everything",
        SampleKind::Gauge,
        |export| export.acknowledged,
    ),
    (
        "selvedge_edge_export_lost_records",
        "Records that were gone before they could be sent",
        SampleKind::Counter,
        |export| export.lost,
    ),
];

/// Shows the last report, at most a second old.
pub fn register(metrics: &Metrics, report: &watch::Receiver<EdgeReport>) {
    for (name, help, read) in JOURNAL {
        let report = report.clone();
        metrics.collect(name, help, SampleKind::Gauge, move || vec![Sample::whole(read(&report.borrow()))]);
    }
    for (name, help, kind, read) in ENTRIES {
        let report = report.clone();
        metrics.collect(name, help, *kind, move || {
            let sample = |entry: &EntryReport| {
                Sample::whole(read(entry)).with("kind", entry.kind.as_str()).with("name", entry.name.as_str())
            };
            report.borrow().entries.iter().map(sample).collect()
        });
    }
    for (name, help, kind, read) in EXPORTS {
        let report = report.clone();
        metrics.collect(name, help, *kind, move || {
            let sample = |entry: &EntryReport| {
                entry.export.as_ref().map(|export| Sample::whole(read(export)).with("name", entry.name.as_str()))
            };
            report.borrow().entries.iter().filter_map(sample).collect()
        });
    }
}
