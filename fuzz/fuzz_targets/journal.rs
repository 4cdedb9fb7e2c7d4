//! Files of a journal and of a keyed store that a disk gave back other than they were written.
//!
//! Input: edits of four bytes each: which file, where (two bytes), and the byte that stands there now; or the file's new
//! length when the first bit of the file's byte is set. Whatever stands there, opening must not fail on it, and what is
//! read must be what was written.

#![no_main]

use std::fs;
use std::path::{Path, PathBuf};

use base_journal::{Journal, JournalOptions, SnapshotOptions, SnapshotStore};
use libfuzzer_sys::fuzz_target;

const OPTIONS: JournalOptions = JournalOptions { segment_bytes: 512, bytes_max: 1024 * 1024 };
const RECORDS: u64 = 40;

fn record(number: u64) -> Vec<u8> {
    format!("record {number}").into_bytes()
}

fn fill(dir: &Path) {
    let journal = Journal::open(&dir.join("journal"), OPTIONS).expect("a new journal");
    for number in 0..RECORDS {
        journal.append_and_commit(&[&record(number)]).expect("a sound disk");
    }
    journal.set_cursor("reader", 7).expect("a sound disk");
    let store = SnapshotStore::open(&dir.join("store"), SnapshotOptions { log_bytes_min: 64 }).expect("a new store");
    for number in 0..RECORDS {
        store.put(&format!("key-{}", number % 7), record(number)).expect("room");
        store.sync().expect("a sound disk");
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let of = |name: &str| fs::read_dir(dir.join(name)).expect("a folder").map(|file| file.expect("a file").path());
    let mut files: Vec<PathBuf> = of("journal").chain(of("store")).collect();
    files.sort();
    files
}

fuzz_target!(|edits: &[u8]| {
    let dir = tempfile::tempdir().expect("a folder");
    fill(dir.path());
    let files = files(dir.path());
    for edit in edits.chunks_exact(4).take(64) {
        let path = &files[usize::from(edit[0] & 0x7f) % files.len()];
        let mut bytes = fs::read(path).expect("a file");
        let at = usize::from(u16::from_le_bytes([edit[1], edit[2]]));
        if edit[0] & 0x80 != 0 {
            bytes.resize(at.min(4096), edit[3]);
        } else if let Some(byte) = bytes.get_mut(at) {
            *byte = edit[3];
        }
        fs::write(path, bytes).expect("room");
    }
    // Only a version that is newer may be refused.
    if let Ok(journal) = Journal::open(&dir.path().join("journal"), OPTIONS) {
        let mut from = 0;
        while from < journal.next() {
            let chunk = journal.read(from, 1 << 20).expect("damage is told, not an error");
            assert_eq!(chunk.records.len() as u64 + chunk.lost, chunk.next - from);
            assert!(chunk.next > from);
            for found in &chunk.records {
                assert_eq!(found.payload, record(found.offset));
            }
            from = chunk.next;
        }
    }
    if let Ok(store) = SnapshotStore::open(&dir.path().join("store"), SnapshotOptions::default()) {
        for (key, value) in store.iter() {
            assert!((0..RECORDS).any(|number| key == format!("key-{}", number % 7) && value == record(number)));
        }
    }
});
