//! What the hub promises about readings.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use api_edge::telemetry::{BATCH_BYTES_MAX, BATCH_CONTENT_TYPE, BatchAnswer, BatchHeader};
use base_journal::OpenSnapshotError;
use bytes::Bytes;
use http::{Method, Request};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::http::{RequestError, handle, parse_query};
use crate::store::lock;
use crate::{BatchError, IngestError, OpenTelemetryError, Order, ReadingsQuery, Telemetry, TelemetryOptions};

mod bounds;
mod queries;
mod retention;

fn small() -> TelemetryOptions {
    TelemetryOptions { bytes_max: 1 << 24, segment_bytes: 4096, ..TelemetryOptions::default() }
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn open(dir: &Path) -> Telemetry {
    Telemetry::open(dir, small()).expect("a sound store")
}

/// An event as a node sends it, with one reading for each resource.
pub(crate) fn line(device: &str, origin: i64, resources: &[&str]) -> String {
    let readings = resources.iter().map(|resource| {
        format!(
            r#"{{"id":"r-{device}-{origin}-{resource}","origin":{origin},"deviceName":"{device}","resourceName":"{resource}","profileName":"p","valueType":"Int64","value":"{origin}"}}"#
        )
    });
    let readings = readings.collect::<Vec<_>>().join(",");
    format!(
        r#"{{"apiVersion":"v3","id":"e-{device}-{origin}","deviceName":"{device}","profileName":"p","sourceName":"s","origin":{origin},"readings":[{readings}]}}"#
    )
}

pub(crate) fn header(from: u64, to: u64, events: usize) -> BatchHeader {
    let (export, epoch) = ("default/all".to_owned(), "e1".to_owned());
    BatchHeader { version: 1, export, epoch, from, to, lost: 0, events }
}

/// Sends events `from..to` of `device`, one per record.
fn send(telemetry: &Telemetry, node: &str, device: &str, from: u64, to: u64) -> Result<BatchAnswer, IngestError> {
    let lines: Vec<String> = (from..to).map(|n| line(device, n as i64, &["count"])).collect();
    telemetry.ingest(node, &header(from, to, lines.len()), lines.join("\n").as_bytes())
}

fn origins(telemetry: &Telemetry, query: &ReadingsQuery) -> Vec<i64> {
    let mut query = query.clone();
    let mut origins = Vec::new();
    loop {
        let page = telemetry.query(&query).expect("a readable disk");
        assert!(page.readings.len() <= query.limit.unwrap_or(1000));
        origins.extend(page.readings.iter().map(|stored| stored.reading.origin));
        query.after = page.next;
        if query.after.is_none() {
            return origins;
        }
    }
}

fn of(node: &str, device: &str) -> ReadingsQuery {
    ReadingsQuery { node: Some(node.to_owned()), device: Some(device.to_owned()), ..ReadingsQuery::default() }
}

#[test]
fn a_batch_is_stored_once_however_often_and_however_cut_it_comes() {
    let dir = directory();
    let telemetry = open(dir.path());
    assert_eq!(send(&telemetry, "n", "a", 0, 5).expect("stored").next, 5);
    assert_eq!(send(&telemetry, "n", "a", 0, 5).expect("known").next, 5);
    assert_eq!(send(&telemetry, "n", "a", 1, 3).expect("known").next, 5);
    for (from, to) in [(3, 7), (6, 9)] {
        match send(&telemetry, "n", "a", from, to) {
            Err(IngestError::OffsetMismatch(answer)) => assert_eq!(answer.next, 5),
            other => panic!("{other:?}"),
        }
    }
    send(&telemetry, "n", "a", 5, 7).expect("stored");
    assert_eq!(origins(&telemetry, &of("n", "a")), (0..7).collect::<Vec<_>>());
    assert_eq!(origins(&telemetry, &of("other", "a")), [0_i64; 0]);
}

#[test]
fn acknowledged_offsets_survive_a_restart_with_and_without_a_checkpoint() {
    for with_checkpoint in [false, true] {
        let dir = directory();
        let telemetry = open(dir.path());
        for n in 0..60 {
            send(&telemetry, "n", "a", n, n + 1).expect("stored");
        }
        if with_checkpoint {
            telemetry.checkpoint().expect("space");
        }
        let usage = telemetry.usage();
        drop(telemetry);
        let telemetry = open(dir.path());
        assert_eq!(telemetry.usage(), usage);
        assert_eq!(send(&telemetry, "n", "a", 59, 60).expect("known").next, 60);
        assert!(send(&telemetry, "n", "a", 61, 62).is_err());
        assert_eq!(origins(&telemetry, &of("n", "a")), (0..60).collect::<Vec<_>>());
    }
}

#[test]
fn looking_at_the_usage_holds_no_batch_up() {
    let dir = directory();
    let telemetry = open(dir.path());
    let (done_tx, done) = std::sync::mpsc::channel();
    let sender = telemetry.clone();
    std::thread::spawn(move || {
        for n in 0..60 {
            send(&sender, "n", "a", n, n + 1).expect("stored");
        }
        done_tx.send(()).expect("the test waits");
    });
    let (looking, stop) = (telemetry.clone(), Arc::new(AtomicBool::new(false)));
    let stopped = stop.clone();
    std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            looking.usage();
        }
    });
    // Neither thread is waited for: they would never end if they held each other up.
    done.recv_timeout(Duration::from_secs(60)).expect("every batch is stored");
    stop.store(true, Ordering::Relaxed);
    let usage = telemetry.usage();
    assert_eq!((usage.events, usage.exports, usage.lost), (60, 1, 0));
}

#[test]
fn each_epoch_has_an_acknowledged_offset_of_its_own() {
    let dir = directory();
    let telemetry = open(dir.path());
    send(&telemetry, "n", "a", 0, 5).expect("stored");
    let fresh = BatchHeader { epoch: "e2".to_owned(), ..header(2, 3, 1) };
    assert_eq!(telemetry.ingest("n", &fresh, line("a", 9, &["count"]).as_bytes()).expect("stored").next, 3);
    assert_eq!(telemetry.ingest("n", &fresh, line("a", 9, &["count"]).as_bytes()).expect("known").next, 3);
    assert_eq!(send(&telemetry, "n", "a", 0, 5).expect("known").next, 5);
}

#[test]
fn old_batches_are_dropped_and_acknowledged_offsets_stay() {
    let dir = directory();
    let options = TelemetryOptions { bytes_max: 64 * 1024, segment_bytes: 8 * 1024, ..TelemetryOptions::default() };
    let telemetry = Telemetry::open(dir.path(), options.clone()).expect("a new store");
    send(&telemetry, "early", "a", 0, 3).expect("stored");
    for n in 0..1000 {
        send(&telemetry, "n", "a", n, n + 1).expect("stored");
    }
    assert!(telemetry.usage().bytes <= 64 * 1024);
    let kept = origins(&telemetry, &of("n", "a"));
    assert!(kept.len() < 1000 && kept.last() == Some(&999) && kept.is_sorted());
    drop(telemetry);
    let telemetry = Telemetry::open(dir.path(), options).expect("a sound store");
    assert_eq!(send(&telemetry, "early", "a", 0, 3).expect("known").next, 3);
    assert_eq!(origins(&telemetry, &of("n", "a")), kept);
}

#[test]
fn a_query_narrows_by_device_resource_and_time() {
    let dir = directory();
    let telemetry = open(dir.path());
    let lines: Vec<String> =
        (0..40).map(|n| line(if n % 2 == 0 { "even" } else { "odd" }, n, &["count", "noise"])).collect();
    telemetry.ingest("n", &header(0, 40, 40), lines.join("\n").as_bytes()).expect("stored");
    let query = ReadingsQuery { resource: Some("noise".to_owned()), from: Some(10), to: Some(15), ..of("n", "even") };
    assert_eq!(origins(&telemetry, &query), [10, 12, 14]);
    for limit in [1, 3, 7] {
        let query = ReadingsQuery { limit: Some(limit), ..ReadingsQuery::default() };
        assert_eq!(origins(&telemetry, &query), (0..40).flat_map(|n| [n, n]).collect::<Vec<_>>());
    }
    let wrong = ReadingsQuery { after: Some("x".to_owned()), ..ReadingsQuery::default() };
    assert!(telemetry.query(&wrong).is_err());
    assert!(telemetry.query(&ReadingsQuery { limit: Some(0), ..ReadingsQuery::default() }).is_err());
}

#[test]
fn nodes_send_at_the_same_time() {
    let dir = directory();
    let telemetry = open(dir.path());
    std::thread::scope(|scope| {
        for node in 0..6 {
            let telemetry = &telemetry;
            scope.spawn(move || {
                for n in 0..40 {
                    send(telemetry, &format!("n{node}"), "a", n, n + 1).expect("stored");
                }
            });
        }
    });
    drop(telemetry);
    let telemetry = open(dir.path());
    for node in 0..6 {
        assert_eq!(origins(&telemetry, &of(&format!("n{node}"), "a")), (0..40).collect::<Vec<_>>());
    }
}

#[track_caller]
fn check_rejected(header: BatchHeader, lines: &str, line: usize) {
    let dir = directory();
    match open(dir.path()).ingest("n", &header, lines.as_bytes()) {
        Err(IngestError::Batch(BatchError::Malformed { line: found, why })) => assert_eq!(found, line, "{why}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_batch_that_cannot_be_is_rejected_with_its_line() {
    let good = line("a", 1, &["count"]);
    check_rejected(BatchHeader { version: 2, ..header(0, 1, 1) }, &good, 1);
    check_rejected(header(1, 1, 1), &good, 1);
    check_rejected(header(0, 1, 2), &good, 1);
    check_rejected(header(0, 2, 2), &good, 1);
    check_rejected(header(0, 2, 1), &format!("{good}\n{good}"), 1);
    check_rejected(BatchHeader { lost: 2, ..header(0, 2, 1) }, &good, 1);
    check_rejected(header(0, 10_001, 10_001), &good, 1);
    check_rejected(header(0, 2, 2), &format!("{good}\nnot JSON"), 3);
    check_rejected(header(0, 1, 1), &line("", 1, &["count"]), 2);
    check_rejected(header(0, 1, 1), &good.replace("v3", "v2"), 2);
    let dir = directory();
    let large = Bytes::from(vec![b' '; BATCH_BYTES_MAX + 1]);
    let rejected = open(dir.path()).ingest_body("n", &large);
    assert!(matches!(rejected, Err(IngestError::Batch(BatchError::TooLarge { .. }))));
}

/// Sends a request and answers its status, or the name of the error.
fn request(telemetry: &Telemetry, method: Method, uri: &str, user: &str, body: &str) -> String {
    let request = Request::builder().method(method).uri(uri).header("content-type", BATCH_CONTENT_TYPE);
    let (parts, ()) = request.body(()).expect("a sound request").into_parts();
    let groups = if user == "admin" { vec!["system:masters".to_owned()] } else { vec![] };
    match handle(telemetry, &parts, user, &groups, &Bytes::copy_from_slice(body.as_bytes())) {
        Ok(answer) => format!("{} {}", answer.status().as_u16(), String::from_utf8_lossy(answer.body())),
        Err(error) => format!("{error:?}").split(['(', ' ', '{']).next().unwrap_or_default().to_owned(),
    }
}

#[test]
fn requests_are_answered_as_the_protocol_says() {
    let dir = directory();
    let telemetry = open(dir.path());
    let batch = |from, to| {
        let head = serde_json::to_string(&header(from, to, 1)).expect("a header");
        format!("{head}\n{}\n", line("a", from as i64, &["count"]))
    };
    let (batches, readings) = ("/telemetry/v1/batches", "/telemetry/v1/readings");
    let node = "system:node:press-4";
    let post = |user, body: &str| request(&telemetry, Method::POST, batches, user, body);
    assert_eq!(post(node, &batch(0, 1)), r#"200 {"epoch":"e1","next":1}"#);
    assert_eq!(post(node, &batch(5, 6)), r#"409 {"epoch":"e1","next":1}"#);
    assert_eq!(post("admin", &batch(1, 2)), "Forbidden");
    assert_eq!(post(node, "{"), "BadRequest");
    assert_eq!(request(&telemetry, Method::PUT, batches, node, ""), "MethodNotAllowed");
    assert_eq!(request(&telemetry, Method::GET, "/telemetry/v1/other", "admin", ""), "NotFound");
    assert_eq!(request(&telemetry, Method::GET, readings, node, ""), "Forbidden");
    let uri = format!("{readings}?node=press-4&device=a&from=0&to=1");
    let answer = request(&telemetry, Method::GET, &uri, "admin", "");
    let page: serde_json::Value = serde_json::from_str(answer.strip_prefix("200 ").expect("an answer")).expect("JSON");
    assert_eq!(page["readings"][0]["eventId"], "e-a-0");
    assert_eq!(page["readings"][0]["node"], "press-4");
    assert_eq!(page["readings"][0]["reading"]["value"], "0");
    assert!(page["next"].is_null());
}

#[test]
fn parameters_are_decoded_and_unknown_ones_rejected() {
    let query = parse_query("device=press%204&resource=a+b&limit=5&after=&node=").expect("sound parameters");
    assert_eq!((query.device.as_deref(), query.resource.as_deref()), (Some("press 4"), Some("a b")));
    assert_eq!((query.limit, query.after, query.node), (Some(5), None, None));
    for wrong in ["devise=a", "from=now", "limit=-1", "device=%f", "device=%ff"] {
        assert!(matches!(parse_query(wrong), Err(RequestError::BadRequest(_))), "{wrong}");
    }
}

proptest! {
    // Every case syncs a disk dozens of times.
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_can_be_tried_as_a_batch(bytes in prop::collection::vec(any::<u8>(), 0..300), keep in 0_usize..400) {
        let dir = directory();
        let telemetry = open(dir.path());
        let head = serde_json::to_string(&header(0, 2, 2)).expect("a header");
        let sound = format!("{head}\n{}\n{}", line("a", 1, &["x"]), line("b", 2, &["y"]));
        let mut body = sound.into_bytes();
        let keep = keep.min(body.len());
        body.splice(keep.., bytes);
        if telemetry.ingest_body("n", &body.into()).is_ok() {
            prop_assert_eq!(telemetry.usage().events, 2);
        }
    }

    /// Whatever batches come in whatever cut, what is stored is the list of events up to the acknowledged offset.
    #[test]
    fn the_hub_holds_a_prefix_of_what_was_sent(cuts in prop::collection::vec((0_u64..30, 1_u64..6, any::<bool>()), 1..30)) {
        let dir = directory();
        let mut telemetry = open(dir.path());
        let mut next = 0;
        for (from, len, restart) in cuts {
            // The first batch of an epoch may begin anywhere; here at 0. Half of the others fit.
            let from = if next == 0 || from % 2 == 0 { next } else { from };
            let expected = if from == next { Some(from + len) } else if from + len <= next { Some(next) } else { None };
            match send(&telemetry, "n", "a", from, from + len) {
                Ok(answer) => {
                    prop_assert_eq!(Some(answer.next), expected);
                    next = next.max(answer.next);
                }
                Err(IngestError::OffsetMismatch(answer)) => prop_assert_eq!((None, answer.next), (expected, next)),
                Err(error) => panic!("{error}"),
            }
            if restart {
                drop(telemetry);
                telemetry = open(dir.path());
            }
            let held: BTreeSet<i64> = origins(&telemetry, &of("n", "a")).into_iter().collect();
            prop_assert_eq!(held.len() as u64, telemetry.usage().events);
        }
        prop_assert_eq!(origins(&telemetry, &of("n", "a")), (0..next as i64).collect::<Vec<_>>());
    }
}

/// `cargo test --release -p hub-telemetry -- --ignored --nocapture how_fast` prints events per second.
#[test]
#[ignore = "a measurement"]
fn how_fast_batches_are_taken() {
    let dir = directory();
    let telemetry = Telemetry::open(dir.path(), TelemetryOptions::default()).expect("a new store");
    let (batches, events) = (400_u64, 500_u64);
    let lines: Vec<String> = (0..events).map(|n| line("press-4", n as i64, &["count"])).collect();
    let lines = lines.join("\n");
    let begun = std::time::Instant::now();
    for n in 0..batches {
        let header = header(n * events, (n + 1) * events, events as usize);
        telemetry.ingest("n", &header, lines.as_bytes()).expect("stored");
    }
    let elapsed = begun.elapsed().as_secs_f64();
    println!("{:.0} events/s, {} bytes each", (batches * events) as f64 / elapsed, lines.len() as u64 / events);
}

/// Stores as each format wrote them; `writes_the_fixture` shows how. Format 2 has batches that moved.
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures");

#[test]
fn every_format_is_read() {
    for (version, has_moved) in [("v1", false), ("v2", true)] {
        let dir = testkit::fixture::copy_of(&Path::new(FIXTURES).join(version));
        let options = if has_moved { fixture_options() } else { small() };
        let mut telemetry = Telemetry::open(dir.path(), options.clone()).expect("a sound store");
        // Once from the journal, and once from the checkpoint that this program writes.
        for _ in 0..2 {
            assert_eq!(origins(&telemetry, &of("n", "a")), (0..60).collect::<Vec<_>>(), "{version}");
            assert_eq!(origins(&telemetry, &of("m", "b")), [0, 1]);
            assert_eq!(telemetry.usage().lost, 3);
            assert_eq!(lock(&telemetry.inner.tables).index.has_packs(), has_moved);
            // The acknowledged offset is where it was.
            assert_eq!(send(&telemetry, "n", "a", 59, 60).expect("known").next, 60);
            assert!(send(&telemetry, "n", "a", 61, 62).is_err());
            telemetry.checkpoint().expect("space");
            drop(telemetry);
            telemetry = Telemetry::open(dir.path(), options.clone()).expect("a sound store");
        }
        send(&telemetry, "n", "a", 60, 61).expect("stored");
    }
}

fn fixture_options() -> TelemetryOptions {
    TelemetryOptions { bytes_max: 128 * 1024, segment_bytes: 8 * 1024, ..TelemetryOptions::default() }
}

#[test]
fn a_newer_checkpoint_is_rejected() {
    let dir = directory();
    drop(open(dir.path()));
    let checkpoint = base_journal::SnapshotStore::open(&dir.path().join("checkpoint"), Default::default());
    let checkpoint = checkpoint.expect("a sound store");
    checkpoint.put("format", "3").expect("space");
    checkpoint.sync().expect("space");
    drop(checkpoint);
    let error = Telemetry::open(dir.path(), small()).err().expect("it is newer");
    let OpenTelemetryError::Checkpoint(newer @ OpenSnapshotError::NewerEntries { .. }) = error else {
        panic!("{error}")
    };
    assert!(newer.to_string().contains("format 3"), "{newer}");
}

#[test]
#[ignore = "run once when a format is made: SELVEDGE_FIXTURE=directory"]
fn writes_the_fixture() {
    let dir = std::env::var("SELVEDGE_FIXTURE").expect("the directory to write to");
    let telemetry = Telemetry::open(Path::new(&dir), fixture_options()).expect("a new store");
    for n in 0..5 {
        send(&telemetry, "n", "a", 10 * n, 10 * n + 10).expect("stored");
    }
    telemetry.checkpoint().expect("space");
    send(&telemetry, "n", "a", 50, 60).expect("stored");
    let lines = [line("b", 0, &["count"]), line("b", 1, &["count"])].join("\n");
    let header = BatchHeader { lost: 3, ..header(0, 5, 2) };
    telemetry.ingest("m", &header, lines.as_bytes()).expect("stored");
    // A chatty node makes the others' batches move.
    for n in 0..70 {
        send(&telemetry, "chatty", "a", 10 * n, 10 * n + 10).expect("stored");
    }
}
