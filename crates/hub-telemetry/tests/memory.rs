//! What taking a batch costs in memory, counted by an allocator of its own.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use api_edge::telemetry::{BATCH_BYTES_MAX, BatchHeader};
use bytes::Bytes;
use hub_telemetry::{Telemetry, TelemetryOptions};

thread_local! {
    /// Bytes that this thread holds, and the most it has held.
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

struct Counting;

fn count(bytes: isize) {
    // A thread that ends may free when its locals are dropped.
    let _ = HELD.try_with(|held| {
        let (now, most) = held.get();
        let now = now + bytes;
        held.set((now, most.max(now)));
    });
}

// SAFETY: every call is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that `act` holds on this thread beyond what was held before.
fn most_held<T>(act: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get().0;
    HELD.set((before, before));
    let done = act();
    (done, usize::try_from(HELD.get().1 - before).expect("the most is no less than the beginning"))
}

/// A batch of one event, as large as one may be, with readings that say nothing.
fn batch(reading: &str) -> (Bytes, usize) {
    let count = (BATCH_BYTES_MAX - 1024) / (reading.len() + 1);
    let header = BatchHeader {
        version: 1,
        export: "default/x".to_owned(),
        epoch: "e".to_owned(),
        from: 0,
        to: 1,
        events: 1,
        lost: 0,
    };
    let header = serde_json::to_string(&header).expect("a header holds text and numbers");
    let readings = vec![reading; count].join(",");
    (format!("{header}\n{{\"deviceName\":\"d\",\"origin\":1,\"readings\":[{readings}]}}\n").into(), count)
}

#[test]
fn a_batch_of_many_small_readings_costs_no_more_than_one_copy_of_it() {
    for reading in [r#"{"resourceName":"r","origin":1}"#, r#"{"resourceName":"\u0041","origin":1}"#] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let telemetry = Telemetry::open(dir.path(), TelemetryOptions::default()).expect("a new store");
        let (body, readings) = batch(reading);
        assert!(readings > 110_000, "{readings}");
        let (stored, held) = most_held(|| telemetry.ingest_body("gw-1", &body));
        assert_eq!(stored.expect("stored").next, 1);
        // The copy is the one that goes to the disk, under the journal's lock: one at a time, however many come.
        assert!(held < body.len() + (256 << 10), "{held} bytes for a batch of {}", body.len());
    }
}
