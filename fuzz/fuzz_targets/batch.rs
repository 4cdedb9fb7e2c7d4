//! Batches of events, as nodes post them to the hub; and questions for readings.
//!
//! Input: a batch, or the query of a question after a `?`.

#![no_main]

use std::cell::RefCell;

use bytes::Bytes;
use hub_telemetry::{Telemetry, TelemetryOptions};
use libfuzzer_sys::fuzz_target;

/// After so many inputs the store is opened again, from what it wrote.
const INPUTS_MAX: usize = 2_000;

struct Hub {
    telemetry: Telemetry,
    inputs: usize,
    folder: tempfile::TempDir,
}

fn open(folder: &tempfile::TempDir) -> Telemetry {
    let options = TelemetryOptions { bytes_max: 4 * 1024 * 1024, segment_bytes: 256 * 1024, ..Default::default() };
    Telemetry::open(folder.path(), options).expect("what it wrote itself can be opened")
}

thread_local! {
    static HUB: RefCell<Hub> = {
        let folder = tempfile::tempdir().expect("a folder for the store");
        RefCell::new(Hub { telemetry: open(&folder), inputs: 0, folder })
    };
}

fuzz_target!(|input: &[u8]| {
    HUB.with_borrow_mut(|hub| {
        hub.inputs += 1;
        if hub.inputs.is_multiple_of(INPUTS_MAX) {
            let stand_in = tempfile::tempdir().expect("a folder for the store");
            hub.telemetry = open(&stand_in);
            hub.telemetry = open(&hub.folder);
        }
        if let Some(query) = input.strip_prefix(b"?") {
            let query = String::from_utf8_lossy(query);
            if let Ok(query) = hub_telemetry::http::parse_query(&query) {
                let _ = hub.telemetry.query(&query);
            }
        } else {
            let _ = hub.telemetry.ingest_body("gateway", &Bytes::copy_from_slice(input));
        }
    });
});
