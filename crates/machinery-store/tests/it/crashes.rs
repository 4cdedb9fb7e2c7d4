//! Power cuts and kills: whatever was answered is there, no revision is given twice, watches resume.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use machinery_store::{Durability, Expect, Key, Revision, Store, StoreOptions};
use testkit::forgetful::ForgetfulDisk;

use crate::util::*;

/// What the store has answered, over all its lives.
#[derive(Clone, Default)]
struct Answered {
    /// Revision and value of each durable write.
    durable: BTreeMap<Revision, (Key, String)>,
    lazy: Vec<Revision>,
}

impl Answered {
    fn note(&mut self, revision: Revision, key: Key, value: String) {
        assert!(!self.lazy.contains(&revision), "revision {revision} was given twice");
        assert!(self.durable.insert(revision, (key, value)).is_none(), "revision {revision} was given twice");
    }

    fn note_lazy(&mut self, revision: Revision) {
        assert!(!self.durable.contains_key(&revision), "revision {revision} was given twice");
        assert!(!self.lazy.contains(&revision), "revision {revision} was given twice");
        self.lazy.push(revision);
    }

    fn last(&self) -> Revision {
        let durable = self.durable.keys().next_back().copied().unwrap_or_default();
        self.lazy.iter().copied().fold(durable, Revision::max)
    }
}

/// With a small reserve, whose making is cut too; most of the writes should be the store's own.
fn options() -> StoreOptions {
    StoreOptions { reserve_bytes: 64 << 10, ..StoreOptions::default() }
}

/// Checks a store that was opened after a crash.
async fn check(store: &Store, answered: &Answered) {
    assert!(store.current() >= answered.last(), "{} is before {}", store.current(), answered.last());
    let changes = drain(&mut store.watch(MAPS, Revision(0)).unwrap(), store.current()).await;
    let found: BTreeMap<_, _> = changes.iter().map(|change| (change.revision, &change.object)).collect();
    for (revision, (key, value)) in &answered.durable {
        let object = found.get(revision).unwrap_or_else(|| panic!("{key} at {revision} was answered and is lost"));
        assert_eq!((&object.key, object.bytes.as_ref()), (key, value.as_bytes()));
    }
    let mut last_written: BTreeMap<&Key, Revision> = BTreeMap::new();
    for (revision, (key, _)) in &answered.durable {
        last_written.insert(key, *revision);
    }
    for (key, revision) in last_written {
        assert!(store.get(key).is_some_and(|object| object.revision >= revision), "{key} went back in time");
    }
    // A lease watcher that saw a change which the crash took learns that; all others resume.
    let kept: Vec<_> = drain(&mut store.watch(LEASES, Revision(0)).unwrap(), store.current())
        .await
        .iter()
        .map(|change| change.revision)
        .collect();
    for revision in &answered.lazy {
        assert_eq!(store.watch(LEASES, *revision).is_ok(), kept.contains(revision), "lease watch from {revision}");
    }
}

/// Writes until the store fails; a few writers at once, as in a busy hub.
async fn write_until_it_fails(store: &Store, answered: &Arc<Mutex<Answered>>, life: u64) {
    let writers: Vec<_> = (0..4)
        .map(|writer: u64| {
            let (store, answered) = (store.clone(), answered.clone());
            tokio::spawn(async move {
                for number in 0_u64.. {
                    let value = format!("{life}/{writer}/{number} {}", "x".repeat((number as usize * 701) % 5000));
                    let lazy = (number + writer).is_multiple_of(3);
                    let (resource, durability) =
                        if lazy { (LEASES, Durability::Lazy) } else { (MAPS, Durability::Group) };
                    let key = Key::new(resource, "default", &format!("{writer}-{}", number % 5));
                    let Ok(revisions) = store.commit(vec![put(&key, Expect::Any, &value)], durability).await else {
                        return;
                    };
                    let mut answered = answered.lock().unwrap();
                    if lazy {
                        answered.note_lazy(revisions[0]);
                    } else {
                        answered.note(revisions[0], key, value);
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
}

#[tokio::test]
async fn answered_writes_survive_power_cuts() {
    let Some(disk) = ForgetfulDisk::mount_or_skip("answered_writes_survive_power_cuts") else { return };
    let dir = disk.path().join("store");
    let seed = seed();
    let mut answered = Arc::new(Mutex::new(Answered::default()));
    let mut lives_of_disk = 0;
    for cut in 0..size(20, 500) {
        let cut_seed = seed.wrapping_mul(1_000_003).wrapping_add(cut);
        // Some cuts come while the store opens and repairs itself.
        disk.cut_in(cut_seed % 97, cut_seed);
        if let Ok(store) = Store::open(&dir, options()) {
            let before = answered.lock().unwrap().clone();
            check(&store, &before).await;
            write_until_it_fails(&store, &answered, cut).await;
        }
        disk.cut(cut_seed);
        disk.power_on();
        let store = Store::open(&dir, options()).unwrap_or_else(|error| panic!("cut {cut}: {error:?}"));
        let before = answered.lock().unwrap().clone();
        check(&store, &before).await;
        drop(store);
        lives_of_disk += 1;
        // The history grows with each life, and the store keeps only so many gaps apart.
        if lives_of_disk == 15 {
            lives_of_disk = 0;
            std::fs::remove_dir_all(&dir).unwrap();
            answered = Arc::default();
        }
    }
}

/// Not a test of its own: the process that [`answered_writes_survive_a_kill`] kills.
#[tokio::test]
#[ignore = "started by answered_writes_survive_a_kill"]
async fn child_that_writes() {
    let Ok(dir) = std::env::var("STORE_TEST_DIR") else { return };
    let store = open(Path::new(&dir));
    for number in 0.. {
        let value = format!("{number} {}", "x".repeat(3000));
        let key = Key::new(MAPS, "default", &(number % 7).to_string());
        let revision = set(&store, &key, &value).await;
        println!("durable {revision} {number}");
        let lease = Key::new(LEASES, "default", "n1");
        let revisions = store.commit(vec![put(&lease, Expect::Any, &value)], Durability::Lazy).await.unwrap();
        println!("lazy {} {number}", revisions[0]);
    }
}

#[tokio::test]
async fn answered_writes_survive_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut answered = Answered::default();
    // No more lives than gaps that the store keeps apart.
    for life in 0..size(3, 15) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crashes::child_that_writes", "--ignored", "--nocapture"])
            .env("STORE_TEST_DIR", dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut seen = 0;
        for line in lines {
            let words: Vec<_> = line.split(' ').collect();
            let [kind @ ("durable" | "lazy"), revision, number] = words[..] else { continue };
            let revision = revision.parse().unwrap();
            if kind == "durable" {
                let number: u64 = number.parse().unwrap();
                let key = Key::new(MAPS, "default", &(number % 7).to_string());
                answered.note(revision, key, format!("{number} {}", "x".repeat(3000)));
            } else {
                answered.note_lazy(revision);
            }
            seen += 1;
            if seen == 40 + life * 3 {
                // What it still had in the pipe was answered too, so the loop continues to the end of it.
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        check(&open(dir.path()), &answered).await;
    }
}

/// A log whose header is damaged, and one that somebody has taken away.
#[tokio::test]
async fn a_log_that_is_lost_is_missed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options()).unwrap();
    let mut last = Revision(0);
    // So much that some of it has been copied into the file.
    for number in 0..100 {
        last = set(&store, &Key::new(MAPS, "default", &format!("map-{number}")), &"x".repeat(90_000)).await;
    }
    for is_removed in [false, true] {
        let damaged = copy_of(dir.path());
        let log = damaged.path().join("objects.sqlite-wal");
        if is_removed {
            std::fs::remove_file(&log).unwrap();
        } else {
            let mut bytes = std::fs::read(&log).unwrap();
            bytes[..32].fill(0);
            std::fs::write(&log, bytes).unwrap();
        }
        let store = Store::open(damaged.path(), options()).unwrap();
        assert!(store.get(&Key::new(MAPS, "default", "map-99")).is_none());
        assert!(store.current() > last, "{} is given again after {last}", store.current());
        assert!(store.watch(MAPS, last).is_err(), "whoever has seen what is lost lists anew");
        drop(store);
        // A clean close takes the log away, and nothing is lost.
        let current = Store::open(damaged.path(), options()).unwrap().current();
        assert_eq!(Store::open(damaged.path(), options()).unwrap().current(), current);
    }
}

/// A disk that has lost one bit of the log: what comes after it is lost, and that is neither silent nor repeated.
#[tokio::test]
async fn revisions_that_a_damaged_log_has_taken_are_not_given_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options()).unwrap();
    let mut last = Revision(0);
    for number in 0..100 {
        last = set(&store, &Key::new(MAPS, "default", &format!("map-{number}")), &"x".repeat(2000)).await;
    }
    for share in [30, 60, 90] {
        let damaged = copy_of(dir.path());
        let log = damaged.path().join("objects.sqlite-wal");
        let mut bytes = std::fs::read(&log).unwrap();
        let at = bytes.len() * share / 100;
        bytes[at] ^= 1;
        std::fs::write(&log, bytes).unwrap();
        let store = Store::open(damaged.path(), options()).unwrap();
        let is_there = |number: u64| store.get(&Key::new(MAPS, "default", &format!("map-{number}"))).is_some();
        assert!(is_there(0) && !is_there(99), "the log was damaged at {share} %");
        assert!(store.current() > last, "{} is given again after {last}", store.current());
        assert!(store.watch(MAPS, last).is_err(), "whoever has seen what is lost lists anew");
        let next = set(&store, &Key::new(MAPS, "default", "next"), "here").await;
        drop(store);
        let store = Store::open(damaged.path(), options()).unwrap();
        assert!(store.watch(MAPS, last).is_err() && store.watch(MAPS, next).is_ok());
    }
    // A log that ends within a page is what a power cut leaves.
    let cut = copy_of(dir.path());
    let log = cut.path().join("objects.sqlite-wal");
    let bytes = std::fs::read(&log).unwrap();
    std::fs::write(&log, &bytes[..bytes.len() - 100]).unwrap();
    let store = Store::open(cut.path(), options()).unwrap();
    assert!(store.current() < Revision(last.0 + 10));
}
