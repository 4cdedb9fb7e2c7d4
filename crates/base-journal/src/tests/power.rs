//! Power cuts on a disk that forgets what was not synced, sector by sector and name by name.

use std::collections::{BTreeMap, BTreeSet};

use testkit::forgetful::ForgetfulDisk;

use super::{QUICK, ROOMY, text};
use crate::{Journal, SnapshotStore};

/// `SEED=42` repeats one.
fn seeds() -> std::ops::Range<u64> {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    seed.map_or(1..25, |seed| seed..seed + 1)
}

/// Appends and confirms until the power fails; returns how much was acknowledged of both.
fn write_journal(journal: &Journal, mut acked: (u64, u64)) -> (u64, u64) {
    for _ in 0..60 {
        let next = journal.next();
        let records = [text(next), text(next + 1)];
        let Ok(offsets) = journal.append_and_commit(&[records[0].as_bytes(), records[1].as_bytes()]) else { break };
        acked.0 = offsets.end;
        if next.is_multiple_of(3) && journal.set_cursor("hub", next).is_ok() {
            acked.1 = next;
        }
    }
    acked
}

#[test]
fn what_was_committed_survives_a_power_cut() {
    let Some(disk) = ForgetfulDisk::mount_or_skip("what_was_committed_survives_a_power_cut") else { return };
    for seed in seeds() {
        let dir = disk.path().join(format!("journal-{seed}"));
        let mut acked = (0, 0);
        for round in 0..4 {
            disk.cut_in(1 + (seed * 37 + round * 11) % 90, seed * 10 + round);
            if let Ok(journal) = Journal::open(&dir, ROOMY) {
                acked = write_journal(&journal, acked);
            }
            disk.cut(seed + round);
            disk.power_on();
            let journal = Journal::open(&dir, ROOMY).expect("a journal that opens after every cut");
            assert!(journal.next() >= acked.0, "seed {seed}: {} of {} records", journal.next(), acked.0);
            assert!(journal.cursor("hub").unwrap_or(0) >= acked.1, "seed {seed}: the cursor went back");
            let chunk = journal.read(0, usize::MAX).expect("a readable disk");
            let offsets: Vec<u64> = chunk.records.iter().map(|record| record.offset).collect();
            assert_eq!(offsets, (0..journal.next()).collect::<Vec<_>>(), "seed {seed}");
            assert!(chunk.records.iter().all(|record| record.payload == text(record.offset).as_bytes()));
            // What was read may have been passed on to others; a committed record makes it so.
            acked = write_journal(&journal, (journal.next(), acked.1));
        }
    }
}

#[test]
fn what_was_synced_to_the_store_survives_a_power_cut() {
    let Some(disk) = ForgetfulDisk::mount_or_skip("what_was_synced_to_the_store_survives_a_power_cut") else { return };
    for seed in seeds() {
        let dir = disk.path().join(format!("store-{seed}"));
        // Of each key the values that may be found: the one synced last, and those written after.
        let mut allowed: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
        let mut synced: BTreeSet<String> = BTreeSet::new();
        for round in 0..4 {
            disk.cut_in(1 + (seed * 37 + round * 11) % 90, seed * 10 + round);
            if let Ok(store) = SnapshotStore::open(&dir, QUICK) {
                for n in 0..60 {
                    let (key, value) = (format!("key-{}", (n + seed) % 7), text(round * 1000 + n).into_bytes());
                    allowed.entry(key.clone()).or_default().push(value.clone());
                    if store.put(&key, value).is_err() {
                        break;
                    }
                    if n.is_multiple_of(3) {
                        if store.sync().is_err() {
                            break;
                        }
                        synced.extend(allowed.keys().cloned());
                        for values in allowed.values_mut() {
                            values.drain(..values.len() - 1);
                        }
                    }
                }
            }
            disk.cut(seed + round);
            disk.power_on();
            let store = SnapshotStore::open(&dir, QUICK).expect("a store that opens after every cut");
            assert!(!store.recovery().is_incomplete, "seed {seed}: {:?}", store.recovery());
            let held: BTreeMap<String, Vec<u8>> = store.iter().into_iter().map(|(k, v)| (k, v.to_vec())).collect();
            assert!(synced.iter().all(|key| held.contains_key(key)), "seed {seed}: a key is lost");
            for (key, value) in &held {
                assert!(allowed[key].contains(value), "seed {seed}: {key} went back");
            }
            // What is found after a cut is on the disk.
            synced = held.keys().cloned().collect();
            allowed = held.into_iter().map(|(key, value)| (key, vec![value])).collect();
        }
    }
}
