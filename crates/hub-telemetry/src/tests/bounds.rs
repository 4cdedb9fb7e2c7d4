//! What a node may claim, name and use up.

use std::sync::Mutex;

use super::*;
use crate::{AssignedExports, EXPORTS_MAX, EpochConflict, Observer};

#[test]
fn names_are_forgotten_with_the_blocks_that_held_them_and_are_bounded_before() {
    let dir = directory();
    let options = TelemetryOptions { bytes_max: 8 << 20, segment_bytes: 512 * 1024, ..TelemetryOptions::default() };
    let telemetry = Telemetry::open(dir.path(), options.clone()).expect("a new store");
    let mut from = 0;
    for round in 0..60 {
        let devices = (0..500).map(|n| format!("{:0>400}", format!("{round}-{n}")));
        let lines: Vec<String> = devices.map(|device| line(&device, 1, &["count"])).collect();
        telemetry.ingest("n", &header(from, from + 500, 500), lines.join("\n").as_bytes()).expect("stored");
        from += 500;
        let held = telemetry.usage().name_bytes;
        assert!(held <= 70 * 1024, "round {round}: {held} bytes of names");
    }
    // A device beyond the bounds is found all the same, by reading.
    let device = format!("{:0>400}", "59-499");
    assert_eq!(origins(&telemetry, &of("n", &device)), [1]);
    // An honest node finds place for its names meanwhile.
    send(&telemetry, "honest", "press-4", 0, 1).expect("stored");
    let finding = |node: &str, device: &str| {
        let filter =
            crate::index::Filter { node: Some(node), device: Some(device), resource: None, from: None, to: None };
        lock(&telemetry.inner.tables).index.find(Order::Oldest, 0, &filter, usize::MAX).blocks.len()
    };
    assert_eq!((finding("honest", "press-4"), finding("honest", "other")), (1, 0));
    // When others have displaced them, nothing is left.
    for n in 0..400 {
        let lines: Vec<String> = (0..100).map(|n| line("a", n, &["count"])).collect();
        telemetry.ingest("m", &header(n * 100, n * 100 + 100, 100), lines.join("\n").as_bytes()).expect("stored");
    }
    drop(telemetry);
    let telemetry = Telemetry::open(dir.path(), options).expect("a sound store");
    assert!(telemetry.usage().name_bytes <= 70 * 1024);
}

#[test]
fn names_are_forgotten_with_the_readings_that_had_them() {
    let dir = directory();
    let options = TelemetryOptions { bytes_max: 64 * 1024, segment_bytes: 4096, ..TelemetryOptions::default() };
    let telemetry = Telemetry::open(dir.path(), options).expect("a new store");
    for round in 0..100 {
        let lines: Vec<String> = (0..20).map(|n| line(&format!("device-{round}-{n}"), n, &["count"])).collect();
        let header = header(round * 20, round * 20 + 20, 20);
        telemetry.ingest("n", &header, lines.join("\n").as_bytes()).expect("stored");
    }
    let rounds_held = telemetry.usage().events / 20;
    assert!(rounds_held < 20, "{rounds_held}");
    assert!(telemetry.usage().name_bytes as u64 <= rounds_held * 20 * 20 + 100, "{:?}", telemetry.usage());
    assert_eq!(origins(&telemetry, &of("n", "device-99-7")), [7]);
}

/// Assigns the exports `default/1` to `default/n`.
struct Numbered(u64);

impl AssignedExports for Numbered {
    fn is_assigned(&self, _node: &str, export: &str) -> bool {
        let number = export.strip_prefix("default/").and_then(|number| number.parse::<u64>().ok());
        number.is_some_and(|number| number <= self.0)
    }
}

fn send_export(telemetry: &Telemetry, export: &str, epoch: &str, from: u64) -> Result<BatchAnswer, IngestError> {
    let (export, epoch) = (export.to_owned(), epoch.to_owned());
    let header = BatchHeader { export, epoch, ..header(from, from + 1, 1) };
    telemetry.ingest("n", &header, line("a", from as i64, &["count"]).as_bytes())
}

#[test]
fn exports_that_are_not_assigned_leave_no_trace() {
    let dir = directory();
    let options = TelemetryOptions { assigned: Arc::new(Numbered(1)), ..small() };
    let telemetry = Telemetry::open(dir.path(), options).expect("a new store");
    for n in 0..100 {
        let sent = send_export(&telemetry, &format!("default/made-up-{n}"), "e1", 0);
        assert!(matches!(sent, Err(IngestError::NotAssigned { .. })), "{sent:?}");
    }
    assert_eq!(telemetry.usage().exports, 0);
    send_export(&telemetry, "default/1", "e1", 0).expect("stored");
    assert_eq!(telemetry.usage().exports, 1);
}

#[test]
fn a_node_has_so_many_exports_and_one_that_is_assigned_no_more_gives_place() {
    let dir = directory();
    let many = EXPORTS_MAX as u64;
    let open = |assigned: Arc<dyn AssignedExports>| {
        Telemetry::open(dir.path(), TelemetryOptions { assigned, ..small() }).expect("a sound store")
    };
    let telemetry = open(Arc::new(Numbered(many + 1)));
    for n in 1..=many {
        send_export(&telemetry, &format!("default/{n}"), "e1", 0).expect("stored");
    }
    let beyond = send_export(&telemetry, &format!("default/{}", many + 1), "e1", 0);
    assert!(matches!(beyond, Err(IngestError::TooManyExports { .. })), "{beyond:?}");
    drop(telemetry);
    /// All but the first.
    struct WithoutFirst;
    impl AssignedExports for WithoutFirst {
        fn is_assigned(&self, _node: &str, export: &str) -> bool {
            export != "default/1"
        }
    }
    let telemetry = open(Arc::new(WithoutFirst));
    send_export(&telemetry, &format!("default/{}", many + 1), "e1", 0).expect("stored");
    telemetry.checkpoint().expect("space");
    assert_eq!(telemetry.usage().exports, EXPORTS_MAX);
    drop(telemetry);
    assert_eq!(open(Arc::new(WithoutFirst)).usage().exports, EXPORTS_MAX);
}

static NOW: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1_800_000_000);

#[test]
fn an_epoch_is_remembered_for_ninety_days_whatever_else_comes() {
    const DAY: u64 = 24 * 3600;
    let dir = directory();
    let open =
        || Telemetry::open_with_clock(dir.path(), small(), || NOW.load(Ordering::Relaxed)).expect("a sound store");
    let mut telemetry = open();
    send_export(&telemetry, "default/1", "first", 0).expect("stored");
    // Eight and more other disks, and the first one again: it is recognised.
    for n in 1..16 {
        send_export(&telemetry, "default/1", &format!("e{n}"), 0).expect("stored");
    }
    assert_eq!(send_export(&telemetry, "default/1", "first", 0).expect("known").next, 1);
    assert_eq!(telemetry.usage().events, 16);
    let rejected = send_export(&telemetry, "default/1", "one-more", 0);
    assert!(matches!(rejected, Err(IngestError::TooManyEpochs { .. })), "{rejected:?}");
    // After 89 days still, also when the hub was restarted; the first is heard once more.
    NOW.fetch_add(89 * DAY, Ordering::Relaxed);
    telemetry.checkpoint().expect("space");
    drop(telemetry);
    telemetry = open();
    assert_eq!(send_export(&telemetry, "default/1", "first", 0).expect("known").next, 1);
    assert!(send_export(&telemetry, "default/1", "one-more", 0).is_err());
    // After 91 days the new one takes the place of one that was silent all the time.
    NOW.fetch_add(2 * DAY, Ordering::Relaxed);
    send_export(&telemetry, "default/1", "one-more", 0).expect("stored");
    assert_eq!(send_export(&telemetry, "default/1", "first", 0).expect("known").next, 1);
    assert_eq!(telemetry.usage().events, 17);
}

#[derive(Default)]
struct Heard(Mutex<Vec<EpochConflict>>);

impl Observer for Heard {
    fn epoch_conflict(&self, conflict: &EpochConflict) {
        self.0.lock().expect("no panic").push(conflict.clone());
    }
}

#[test]
fn two_boxes_from_one_disk_image_are_noticed() {
    let dir = directory();
    let heard = Arc::new(Heard::default());
    let open =
        || Telemetry::open(dir.path(), TelemetryOptions { observer: heard.clone(), ..small() }).expect("a sound store");
    let mut telemetry = open();
    send(&telemetry, "n", "a", 0, 2).expect("stored");
    for is_after_restart in [false, true] {
        if is_after_restart {
            drop(telemetry);
            telemetry = open();
        }
        match send(&telemetry, "n", "other", 0, 2) {
            Err(IngestError::EpochConflict(conflict)) => assert_eq!((conflict.from, conflict.to), (0, 2)),
            other => panic!("{other:?}"),
        }
        assert_eq!(telemetry.usage().epoch_conflicts, 1);
        // The one whose data is stored continues.
        assert_eq!(send(&telemetry, "n", "a", 0, 2).expect("known").next, 2);
    }
    let conflicts = heard.0.lock().expect("no panic").clone();
    assert_eq!(conflicts.len(), 2);
    assert_eq!((conflicts[0].node.as_str(), conflicts[0].epoch.as_str()), ("n", "e1"));
    // A filter that changed makes other batches of one journal: that is no conflict.
    let filtered = telemetry.ingest("n", &header(0, 2, 1), line("other", 0, &["count"]).as_bytes());
    assert_eq!(filtered.expect("known").next, 2);
}

#[test]
fn numbers_that_cannot_be_are_rejected() {
    let good = line("a", 1, &["count"]);
    check_rejected(BatchHeader { lost: u64::MAX - 2, ..header(0, u64::MAX, 1) }, &good, 1);
    check_rejected(header(0, (1 << 40) + 1, 1), &good, 1);
    check_rejected(header((1 << 53) - 1, 1 << 53, 1), &good, 1);
    let dir = directory();
    let telemetry = open(dir.path());
    // The largest that can be are stored, and add up without wrapping.
    for export in ["default/1", "default/2"] {
        let header = BatchHeader { export: export.to_owned(), lost: (1 << 40) - 1, ..header(0, 1 << 40, 1) };
        telemetry.ingest("n", &header, good.as_bytes()).expect("stored");
    }
    assert_eq!(telemetry.usage().lost, 2 * ((1 << 40) - 1));
}

/// A batch as version 1 stored it, with what it did not bound.
fn version_1(export: &str, lost: u64) -> Vec<u8> {
    let head = format!(
        r#"{{"node":"n","export":"{export}","epoch":"e1","from":0,"to":{},"lost":{lost},"events":1,"span":[1,1],"devices":["a"]}}"#,
        u64::MAX
    );
    let mut record = vec![1];
    record.extend_from_slice(&(head.len() as u32).to_le_bytes());
    record.extend_from_slice(head.as_bytes());
    record.extend_from_slice(line("a", 1, &["count"]).as_bytes());
    record
}

#[test]
fn a_directory_that_holds_impossible_numbers_opens_and_says_so() {
    let dir = directory();
    let journal = base_journal::Journal::open(&dir.path().join("batches"), Default::default()).expect("a new journal");
    for export in ["default/all", "default/other"] {
        journal.append_and_commit(&[&version_1(export, u64::MAX - 1)]).expect("space");
    }
    drop(journal);
    let checkpoint = base_journal::SnapshotStore::open(&dir.path().join("checkpoint"), Default::default());
    let checkpoint = checkpoint.expect("a new store");
    checkpoint.put("format", "1").expect("space");
    let position = format!(r#"{{"epochs":[["e1",{}],["e0",7]],"lost":{}}}"#, u64::MAX, u64::MAX - 1);
    checkpoint.put("stand/n/default/all", position).expect("space");
    checkpoint.put("mark", "0").expect("space");
    checkpoint.sync().expect("space");
    drop(checkpoint);

    let mut telemetry = open(dir.path());
    assert_eq!(telemetry.usage().implausible, 3, "two batches and a position");
    for _ in 0..2 {
        let usage = telemetry.usage();
        assert_eq!((usage.events, usage.lost), (2, 0));
        // What it held is there.
        assert_eq!(origins(&telemetry, &of("n", "a")), [1, 1]);
        telemetry.checkpoint().expect("space");
        drop(telemetry);
        telemetry = open(dir.path());
    }
    // Offsets that a journal can have are remembered, the others are not believed.
    let old = BatchHeader { epoch: "e0".to_owned(), ..header(0, 5, 1) };
    assert_eq!(telemetry.ingest("n", &old, line("a", 1, &["count"]).as_bytes()).expect("known").next, 7);
    send(&telemetry, "n", "a", 0, 5).expect("stored");
}
