//! What an export promises: alone, and against the hub's real intake over a link that loses, delays and repeats.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use api_edge::edgex::{API_VERSION, Event, Reading, Value, ValueType};
use api_edge::resources::{ExportSpec, ExportTarget, HubTarget};
use api_edge::telemetry::{BatchAnswer, BatchHeader};
use base_journal::{Chunk, Journal, JournalOptions, Record};
use base_retry::Wake;
use bytes::Bytes;
use hub_telemetry::{IngestError, ReadingsQuery, Telemetry, TelemetryOptions};
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use crate::core::{ExportCore, ExportOptions, ExportOptionsError, Want};
use crate::record::{EventRecord, RecordError};
use crate::transport::{BatchTransport, BoxFuture, SendError, encode_body};
use crate::{cursor_name, spawn_export};

/// Event `number` of `device`; the number is its value and its time.
fn event(device: &str, number: i64) -> Event {
    let reading = Reading {
        id: format!("reading-{device}-{number}"),
        origin: number,
        device_name: device.to_owned(),
        resource_name: "count".to_owned(),
        profile_name: "counter".to_owned(),
        value_type: ValueType::Int64,
        units: None,
        media_type: None,
        value: Value::Int(number),
    };
    Event {
        api_version: API_VERSION.to_owned(),
        id: format!("event-{device}-{number}"),
        device_name: device.to_owned(),
        profile_name: "counter".to_owned(),
        source_name: "count".to_owned(),
        origin: number,
        readings: vec![reading],
        tags: BTreeMap::new(),
    }
}

fn record(device: &str, number: i64) -> Vec<u8> {
    EventRecord::encode(&event(device, number)).expect("an event is plain data")
}

#[test]
fn a_record_gives_back_name_json_and_event() {
    let bytes = Bytes::from(record("press-4", 7));
    let decoded = EventRecord::decode(&bytes).expect("a sound record");
    assert_eq!(decoded.device_name(), "press-4");
    assert_eq!(decoded.event().expect("a sound event"), event("press-4", 7));
    assert!(decoded.json().starts_with(b"{\"apiVersion\":\"v3\""));
}

#[test]
fn records_of_another_form_are_told() {
    assert!(matches!(EventRecord::decode(&Bytes::from_static(b"\x02\0\0")), Err(RecordError::Newer(2))));
    for bytes in [b"".as_slice(), b"\x01", b"\x01\x05\0abc", b"\x01\x01\0\xff"] {
        assert!(matches!(EventRecord::decode(&Bytes::copy_from_slice(bytes)), Err(RecordError::Malformed)));
    }
}

proptest! {
    #[test]
    fn any_bytes_can_be_tried_as_a_record(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(record) = EventRecord::decode(&bytes.into()) {
            let _any = (record.device_name().len(), record.event().is_ok());
        }
    }
}

#[track_caller]
fn check_spec(change: impl FnOnce(&mut ExportSpec), expected: Result<(usize, Duration), ExportOptionsError>) {
    let to = ExportTarget { hub: Some(HubTarget {}) };
    let mut spec = ExportSpec { to, batch_events: 10, batch_period: "2s".to_owned(), ..ExportSpec::default() };
    change(&mut spec);
    let options = ExportOptions::from_spec("default/all", &spec);
    assert_eq!(options.map(|options| (options.batch_events, options.batch_period)), expected);
}

#[test]
fn settings_that_cannot_be_are_told() {
    check_spec(|_| (), Ok((10, Duration::from_secs(2))));
    check_spec(|spec| spec.batch_events = 0, Err(ExportOptionsError::BatchEvents(0)));
    check_spec(|spec| spec.batch_events = 10_001, Err(ExportOptionsError::BatchEvents(10_001)));
    check_spec(|spec| spec.to.hub = None, Err(ExportOptionsError::NoTarget));
    let mut spec = ExportSpec { batch_events: 1, batch_period: "soon".to_owned(), ..ExportSpec::default() };
    spec.to.hub = Some(HubTarget {});
    let error = ExportOptions::from_spec("default/all", &spec).expect_err("no duration");
    assert!(error.to_string().contains("`soon`"), "{error}");
}

/// A core that has taken `events` (device, number) from offset 0 on, of which those in `gone` are not there.
fn core_with(options: ExportOptions, devices: &[&str], gone: &[u64]) -> ExportCore {
    let mut core = ExportCore::new(options, "e", 0);
    assert_eq!(core.want(Instant::now()), Want::Read { from: 0, bytes_max: 256 * 1024 });
    let records = (0..).zip(devices).filter(|(offset, _)| !gone.contains(offset));
    let records = records.map(|(offset, device)| Record { offset, payload: record(device, offset as i64).into() });
    let next = devices.len() as u64;
    core.take(Chunk { records: records.collect(), next, lost: gone.len() as u64, damaged: vec![] });
    core
}

#[track_caller]
fn sent(core: &mut ExportCore, now: Instant) -> (u64, u64, u64, usize) {
    match core.want(now) {
        Want::Send(header, lines) => {
            assert_eq!(header.events, lines.len());
            (header.from, header.to, header.lost, header.events)
        }
        other => panic!("no batch but {other:?}"),
    }
}

fn answer(next: u64) -> BatchAnswer {
    BatchAnswer { epoch: "e".to_owned(), next }
}

#[test]
fn a_batch_goes_when_it_is_full_or_its_period_is_over() {
    let now = Instant::now();
    let options = ExportOptions { batch_events: 2, ..ExportOptions::new("default/all") };
    let mut core = core_with(options, &["a", "a", "a"], &[]);
    assert_eq!(sent(&mut core, now), (0, 2, 0, 2));
    assert_eq!(sent(&mut core, now), (0, 2, 0, 2), "asking again gives the same batch");
    assert_eq!(core.answer(Ok(answer(2)), now).cursor, Some(2));
    assert_eq!(core.want(now), Want::Read { from: 3, bytes_max: 256 * 1024 });
    core.take(Chunk { next: 3, ..Chunk::default() });
    assert_eq!(core.want(now), Want::More { from: 3, until: Some(now + Duration::from_secs(1)) });
    assert_eq!(sent(&mut core, now + Duration::from_secs(1)), (2, 3, 0, 1));
}

#[test]
fn a_batch_is_cut_by_bytes_too() {
    let options = ExportOptions { batch_bytes: 700, ..ExportOptions::new("default/all") };
    let mut core = core_with(options, &["a", "a", "a", "a"], &[]);
    let (from, to, lost, events) = sent(&mut core, Instant::now());
    assert_eq!((from, lost), (0, 0));
    assert!((1..4).contains(&events) && to == events as u64);
}

#[test]
fn other_devices_are_left_out_but_covered() {
    let now = Instant::now();
    let devices = ["b".to_owned()].into();
    let options = ExportOptions { devices, batch_events: 2, ..ExportOptions::new("default/b") };
    let mut core = core_with(options, &["a", "b", "a", "b", "a"], &[]);
    assert_eq!(sent(&mut core, now), (0, 4, 0, 2));
}

#[test]
fn records_that_are_gone_are_counted() {
    let now = Instant::now();
    let mut core = core_with(ExportOptions::new("default/all"), &["a"; 5], &[0, 2, 4]);
    let _reading = core.want(now);
    assert_eq!(sent(&mut core, now + Duration::from_secs(1)), (0, 5, 3, 2));
}

#[test]
fn failures_wait_longer_each_time_and_success_ends_that() {
    let mut now = Instant::now();
    let options = ExportOptions { batch_events: 1, seed: 7, ..ExportOptions::new("default/all") };
    let mut core = core_with(options, &["a", "a"], &[]);
    let mut longest = Duration::ZERO;
    for _ in 0..40 {
        let _batch = sent(&mut core, now);
        core.answer(Err(SendError::Unreachable("no route".to_owned())), now);
        if let Want::Wait(until) = core.want(now) {
            longest = longest.max(until - now);
            now = until;
        }
    }
    assert!(longest > Duration::from_secs(15) && longest <= Duration::from_secs(30), "{longest:?}");
    assert_eq!(core.last_error(), Some("the receiver cannot be reached: no route"));
    core.answer(Ok(answer(1)), now);
    assert_eq!(core.last_error(), None);
    assert_eq!(sent(&mut core, now), (1, 2, 0, 1));
}

#[test]
fn a_restored_link_ends_the_pause_that_an_outage_brought() {
    let mut now = Instant::now();
    let options = ExportOptions { batch_events: 1, seed: 7, ..ExportOptions::new("default/all") };
    let mut core = core_with(options, &["a", "a"], &[]);
    let mut waits_until = None;
    for _ in 0..40 {
        let _batch = sent(&mut core, now);
        core.answer(Err(SendError::Unreachable("no route".to_owned())), now);
        waits_until = match core.want(now) {
            Want::Wait(until) if until - now > Duration::from_secs(10) => Some(until),
            Want::Wait(until) => {
                now = until;
                continue;
            }
            _ => continue,
        };
        break;
    }
    assert!(waits_until.is_some(), "deep in an outage a pause is long");
    core.link_restored(now);
    let soon = match core.want(now) {
        Want::Wait(until) => until,
        _ => now,
    };
    assert!(soon - now <= Duration::from_millis(500), "{:?}", soon - now);
    assert_eq!(sent(&mut core, soon).0, 0);
}

#[test]
fn a_receiver_that_stands_elsewhere_is_followed() {
    let later = Instant::now() + Duration::from_secs(60);
    for (next, is_ahead) in [(2, false), (5, false), (9, true)] {
        let options = ExportOptions { batch_events: 5, ..ExportOptions::new("default/all") };
        let mut core = core_with(options, &["a"; 5], &[]);
        let _batch = sent(&mut core, Instant::now());
        let confirmed = core.answer(Err(SendError::Elsewhere(answer(next))), Instant::now());
        assert_eq!((confirmed.cursor, confirmed.is_ahead), (Some(next), is_ahead));
        assert_eq!(core.want(later), Want::Read { from: next, bytes_max: 256 * 1024 });
    }
}

#[test]
fn a_receiver_that_names_an_impossible_offset_moves_nothing() {
    let later = Instant::now() + Duration::from_secs(60);
    for wrong in [Ok(answer(u64::MAX)), Err(SendError::Elsewhere(answer(u64::MAX)))] {
        let options = ExportOptions { batch_events: 5, ..ExportOptions::new("default/all") };
        let mut core = core_with(options, &["a"; 5], &[]);
        let batch = sent(&mut core, Instant::now());
        assert_eq!(core.answer(wrong, Instant::now()).cursor, None);
        assert_eq!(sent(&mut core, later), batch, "the same batch again");
    }
}

#[test]
fn events_that_are_refused_are_found_and_left_out() {
    check_refused(&[5]);
    check_refused(&[2, 5]);
    check_refused(&[0, 1, 7]);
    check_refused(&[0, 1, 2, 3, 4, 5, 6, 7]);
}

/// Eight events in one batch, of which the receiver refuses some.
fn check_refused(bad: &[usize]) {
    let is_bad =
        |line: &Bytes| bad.iter().any(|value| line.ends_with(format!("\"value\":\"{value}\"}}]}}").as_bytes()));
    // Halving finds one event in four sends; many more would mean that it goes round in circles.
    let mut sends_left = 100;
    let mut now = Instant::now();
    let options = ExportOptions { batch_events: 8, ..ExportOptions::new("default/all") };
    let mut core = ExportCore::new(options, "e", 0);
    let all: Vec<_> = (0..8).map(|offset| Record { offset, payload: record("a", offset as i64).into() }).collect();
    let mut taken = Vec::new();
    while core.cursor() < 8 {
        match core.want(now) {
            Want::Read { from, .. } => {
                let records = all[from as usize..].to_vec();
                core.take(Chunk { records, next: 8, ..Chunk::default() });
            }
            Want::Send(header, lines) if lines.iter().any(is_bad) => {
                sends_left -= 1;
                assert!(sends_left > 0, "{bad:?}: still at {} after a hundred refusals", header.from);
                core.answer(Err(SendError::Refused("line 2: no".to_owned())), now);
            }
            Want::Send(header, lines) => {
                taken.push((header.from, header.to, header.lost, lines.len()));
                core.answer(Ok(answer(header.to)), now);
            }
            Want::Wait(until) => now = until,
            Want::More { until, .. } => now = until.expect("a batch has begun"),
        }
    }
    assert_eq!(taken.iter().map(|batch| batch.3).sum::<usize>(), 8 - bad.len(), "{taken:?}");
    let refused = bad.len() as u64;
    assert_eq!((core.counts().refused, core.counts().lost), (refused, refused), "{bad:?}");
}

/// A link to a real hub that fails as its seed says.
struct Link {
    hub: Arc<Mutex<Option<Telemetry>>>,
    random: Mutex<u64>,
    /// Of a hundred sends, how many go wrong.
    faults_percent: u64,
    /// The last body, to be delivered once more at some later time.
    late: Mutex<Option<Bytes>>,
}

impl Link {
    fn random(&self, below: u64) -> u64 {
        let mut state = self.random.lock().expect("no panic while drawing");
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) % below
    }

    fn deliver(&self, body: &Bytes) -> Result<BatchAnswer, SendError> {
        let hub = self.hub.lock().expect("no panic in the hub").clone();
        let Some(hub) = hub else { return Err(SendError::Unreachable("the hub is down".to_owned())) };
        hub.ingest_body("node-1", body).map_err(|error| match error {
            IngestError::OffsetMismatch(answer) => SendError::Elsewhere(answer),
            other => SendError::Refused(other.to_string()),
        })
    }
}

impl BatchTransport for Link {
    fn send(&self, header: BatchHeader, lines: Vec<Bytes>) -> BoxFuture<'_, Result<BatchAnswer, SendError>> {
        Box::pin(async move {
            let body = encode_body(&header, &lines);
            let lost = || Err(SendError::Unreachable("the link is down".to_owned()));
            if self.random(100) >= self.faults_percent {
                return self.deliver(&body);
            }
            match self.random(4) {
                // Never arrives.
                0 => lost(),
                // Arrives; the answer does not.
                1 => self.deliver(&body).and_then(|_| lost()),
                // Arrives twice.
                2 => self.deliver(&body).and_then(|_| self.deliver(&body)),
                // Seems lost, and arrives when another one has long been sent.
                _ => {
                    let late = self.late.lock().expect("no panic while sending").replace(body);
                    if let Some(late) = late {
                        let _answer_to_no_one = self.deliver(&late);
                    }
                    lost()
                }
            }
        })
    }
}

fn open_hub(dir: &Path) -> Telemetry {
    let options = TelemetryOptions { bytes_max: 1 << 24, segment_bytes: 1 << 16, ..TelemetryOptions::default() };
    Telemetry::open(dir, options).expect("a sound store")
}

/// All values of `device` in the order in which the hub answers them.
fn values(hub: &Telemetry, device: &str) -> Vec<i64> {
    let mut values = Vec::new();
    let mut after = None;
    loop {
        let device = Some(device.to_owned());
        let page = hub.query(&ReadingsQuery { device, limit: Some(37), after, ..ReadingsQuery::default() });
        let page = page.expect("a readable disk");
        values.extend(page.readings.iter().map(|stored| stored.reading.origin));
        after = page.next;
        if after.is_none() {
            return values;
        }
    }
}

/// Sends 300 events through a bad link while the exporter, the node and the hub are stopped and started.
async fn simulate(seed: u64) {
    let (node_dir, hub_dir) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let hub = Arc::new(Mutex::new(Some(open_hub(hub_dir.path()))));
    let link = Arc::new(Link { hub: hub.clone(), random: seed.into(), faults_percent: 40, late: Mutex::new(None) });
    let options = JournalOptions { segment_bytes: 4096, bytes_max: 1 << 24 };
    let mut written = 0;
    while written < 300 {
        let journal = Journal::open(node_dir.path(), options.clone()).expect("a sound journal");
        let shutdown = CancellationToken::new();
        let mut export = ExportOptions { batch_events: 7, seed, ..ExportOptions::new("default/all") };
        export.batch_period = Duration::from_millis(1);
        export.backoff.min = Duration::from_micros(100);
        export.backoff.max = Duration::from_millis(2);
        let handle = spawn_export(journal.clone(), export, link.clone(), &Wake::new(), shutdown.clone());
        for _ in 0..1 + link.random(60) {
            let device = if link.random(2) == 0 { "a" } else { "b" };
            journal.append_and_commit(&[&record(device, written)]).expect("room");
            written += 1;
            if link.random(8) == 0 {
                tokio::task::yield_now().await;
            }
        }
        tokio::time::sleep(Duration::from_micros(link.random(3000))).await;
        if link.random(3) == 0 {
            *hub.lock().expect("no panic in the hub") = None;
            tokio::time::sleep(Duration::from_micros(link.random(2000))).await;
            *hub.lock().expect("no panic in the hub") = Some(open_hub(hub_dir.path()));
        }
        // Stopped wherever it is: reading, sending, or storing its cursor.
        shutdown.cancel();
        handle.task.await.expect("the export does not panic");
    }
    // A good link at last.
    let link = Arc::new(Link { hub: hub.clone(), random: seed.into(), faults_percent: 0, late: Mutex::new(None) });
    let journal = Journal::open(node_dir.path(), options).expect("a sound journal");
    let mut export = ExportOptions::new("default/all");
    export.batch_period = Duration::from_millis(1);
    let mut handle = spawn_export(journal.clone(), export, link, &Wake::new(), CancellationToken::new());
    let is_done = |status: &crate::ExportStatus| status.connected && status.depth == 0;
    if journal.cursor(&cursor_name("default/all")) != Some(journal.next()) {
        let done = tokio::time::timeout(Duration::from_secs(20), handle.status.wait_for(is_done)).await;
        done.expect("the rest arrives in time").expect("the export lives");
    }
    handle.task.abort();
    let hub = hub.lock().expect("no panic in the hub").clone().expect("the hub is up");
    let (a, b) = (values(&hub, "a"), values(&hub, "b"));
    assert!(a.is_sorted_by(|x, y| x < y) && b.is_sorted_by(|x, y| x < y), "seed {seed}: once each and in order");
    let mut all = [a, b].concat();
    all.sort_unstable();
    assert_eq!(all, (0..written).collect::<Vec<_>>(), "seed {seed}");
}

#[tokio::test]
async fn every_event_arrives_once_and_in_order_whatever_fails() {
    let first = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    for seed in first.map_or(1..7, |seed| seed..seed + 1) {
        simulate(seed).await;
    }
}
