//! What the journal and the store promise, through power cuts, full disks and damage.

mod power;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::SeqCst;

use proptest::prelude::*;
use tempfile::TempDir;
use testkit::fixture::copy_of;

use crate::disk::Disk;
use crate::error::{AppendError, OpenJournalError};
use crate::frame::{self, FrameReader, HEADER_BYTES, Header, Kind, Step};
use crate::journal::{Journal, JournalOptions};
use crate::snapshot::{OpenSnapshotError, SnapshotError, SnapshotOptions, SnapshotStore};

const SMALL: JournalOptions = JournalOptions { segment_bytes: 256, bytes_max: 1024 };
const ROOMY: JournalOptions = JournalOptions { segment_bytes: 256, bytes_max: 1 << 20 };
const QUICK: SnapshotOptions = SnapshotOptions { log_bytes_min: 256 };

fn directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn open(dir: &Path, options: JournalOptions) -> Journal {
    Journal::open(dir, options).expect("a sound journal")
}

/// The text of record `number`.
fn text(number: u64) -> String {
    format!("record number {number}, with some words to fill the segment")
}

fn fill(journal: &Journal, count: u64) {
    for _ in 0..count {
        let next = journal.next();
        journal.append_and_commit(&[text(next).as_bytes()]).expect("space");
    }
}

/// Reads everything from `from` on, and checks that each record is the one expected; returns their offsets and the lost.
#[track_caller]
fn read_all(journal: &Journal, from: u64) -> (Vec<u64>, u64) {
    let (mut offsets, mut lost, mut next) = (Vec::new(), 0, from);
    loop {
        let chunk = journal.read(next, 200).expect("a readable disk");
        assert_eq!(chunk.records.len() as u64 + chunk.lost, chunk.next - next, "every offset is read or counted");
        if chunk.next == next {
            return (offsets, lost);
        }
        for record in chunk.records {
            assert_eq!(record.payload, text(record.offset).as_bytes());
            offsets.push(record.offset);
        }
        lost += chunk.lost;
        next = chunk.next;
    }
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir).expect("the journal's directory").map(|file| file.expect("an entry").path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|ext| ext == "segment")).collect();
    files.sort();
    files
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("a file");
    bytes[at] ^= 0x40;
    fs::write(path, bytes).expect("a written file");
}

#[test]
fn records_come_back_in_order_after_reopening() {
    let dir = directory();
    let journal = open(dir.path(), ROOMY);
    let epoch = journal.epoch().to_owned();
    fill(&journal, 40);
    assert_eq!(read_all(&journal, 0), ((0..40).collect(), 0));
    drop(journal);
    let journal = open(dir.path(), ROOMY);
    assert_eq!(journal.epoch(), epoch);
    assert_eq!(journal.recovery(), &Default::default());
    assert_eq!(read_all(&journal, 17), ((17..40).collect(), 0));
    fill(&journal, 1);
    assert_eq!(read_all(&journal, 39), (vec![39, 40], 0));
}

#[test]
fn only_committed_records_can_be_read() {
    let dir = directory();
    let journal = open(dir.path(), ROOMY);
    let appended = journal.append(&[text(0).as_bytes()]).expect("space");
    assert_eq!(read_all(&journal, 0), (vec![], 0));
    journal.commit(&appended).expect("a sound disk");
    assert_eq!(read_all(&journal, 0), (vec![0], 0));
}

#[test]
fn a_second_process_is_kept_out() {
    let dir = directory();
    let _journal = open(dir.path(), ROOMY);
    assert!(matches!(Journal::open(dir.path(), ROOMY), Err(OpenJournalError::InUse { .. })));
}

#[test]
fn many_appenders_share_syncs_and_lose_nothing() {
    let dir = directory();
    let journal = open(dir.path(), JournalOptions { segment_bytes: 4096, bytes_max: 1 << 20 });
    std::thread::scope(|scope| {
        for thread in 0..8_u8 {
            let journal = &journal;
            scope.spawn(move || {
                for _ in 0..50 {
                    let offsets = journal.append_and_commit(&[&[thread; 20]]).expect("space");
                    assert!(journal.next() >= offsets.end);
                }
            });
        }
    });
    assert_eq!(journal.next(), 400);
    drop(journal);
    let chunk = open(dir.path(), ROOMY).read(0, usize::MAX).expect("a readable disk");
    assert_eq!((chunk.records.len(), chunk.lost), (400, 0));
}

#[test]
fn listeners_hear_of_commits_until_they_have_enough() {
    let dir = directory();
    let journal = open(dir.path(), ROOMY);
    let heard = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let hearing = heard.clone();
    journal.on_commit(move |next| {
        hearing.lock().expect("no panic while listening").push(next);
        if next < 2 { std::ops::ControlFlow::Continue(()) } else { std::ops::ControlFlow::Break(()) }
    });
    fill(&journal, 4);
    assert_eq!(*heard.lock().expect("no panic while listening"), [1, 2]);
}

#[test]
fn a_full_journal_drops_its_oldest_segments_and_readers_learn_how_much() {
    let dir = directory();
    let journal = open(dir.path(), SMALL);
    fill(&journal, 60);
    assert!(journal.bytes() <= SMALL.bytes_max);
    let first = journal.first();
    assert!(first > 0 && first < 60);
    assert_eq!(read_all(&journal, 0), ((first..60).collect(), first));
    drop(journal);
    assert_eq!(read_all(&open(dir.path(), SMALL), 5), ((first..60).collect(), first - 5));
}

#[test]
fn trimming_gives_whole_segments_back_and_loses_nothing_after() {
    let dir = directory();
    let journal = open(dir.path(), ROOMY);
    fill(&journal, 40);
    journal.trim(20);
    assert!(journal.first() > 0 && journal.first() <= 20);
    assert_eq!(read_all(&journal, 20), ((20..40).collect(), 0));
    journal.trim(40);
    fill(&journal, 1);
    assert_eq!(read_all(&journal, 40), (vec![40], 0));
}

#[test]
fn cursors_survive_reopening_and_a_damaged_file() {
    let dir = directory();
    let journal = open(dir.path(), ROOMY);
    fill(&journal, 9);
    for offset in [3, 7] {
        journal.set_cursor("hub", offset).expect("space");
    }
    journal.set_cursor("removed", 1).expect("space");
    journal.remove_cursor("removed").expect("space");
    assert_eq!(journal.cursors(), [("hub".to_owned(), 7)]);
    drop(journal);
    assert_eq!(open(dir.path(), ROOMY).cursors(), [("hub".to_owned(), 7)]);
    // The fourth write went to b; before it, a had both cursors.
    flip(&dir.path().join("cursors.b"), HEADER_BYTES + 9);
    assert_eq!(open(dir.path(), ROOMY).cursor("hub"), Some(7));
}

#[test]
fn a_confirmed_offset_is_never_given_again() {
    let dir = directory();
    let journal = open(dir.path(), ROOMY);
    fill(&journal, 3);
    journal.set_cursor("hub", 3).expect("space");
    drop(journal);
    let segment = &segments(dir.path())[0];
    fs::File::options().write(true).open(segment).and_then(|f| f.set_len(HEADER_BYTES as u64)).expect("a cut file");
    let journal = open(dir.path(), ROOMY);
    assert_eq!(read_all(&journal, 0), (vec![], 3), "what is lost is reported before anything follows it");
    assert_eq!(journal.append_and_commit(&[text(3).as_bytes()]).expect("space"), 3..4);
    assert_eq!(read_all(&journal, 0), (vec![3], 3));
}

#[test]
fn numbering_can_be_made_to_continue_later() {
    let dir = directory();
    let journal = open(dir.path(), ROOMY);
    fill(&journal, 2);
    journal.skip_to(10).expect("space");
    journal.skip_to(4).expect("an earlier offset changes nothing");
    fill(&journal, 2);
    assert_eq!(read_all(&journal, 0), (vec![0, 1, 10, 11], 8));
    drop(journal);
    assert_eq!(read_all(&open(dir.path(), ROOMY), 0), (vec![0, 1, 10, 11], 8));
}

#[test]
fn a_power_cut_at_any_byte_keeps_all_records_before_it() {
    let dir = directory();
    let journal = open(dir.path(), ROOMY);
    fill(&journal, 12);
    drop(journal);
    let newest = segments(dir.path()).pop().expect("a segment");
    let base: u64 = newest.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse().ok()).expect("a base");
    let whole = fs::read(&newest).expect("a segment");
    for len in 0..whole.len() {
        let copy = copy_of(dir.path());
        let cut = copy.path().join(newest.file_name().expect("a name"));
        fs::write(&cut, &whole[..len]).expect("a cut file");
        let journal = open(copy.path(), ROOMY);
        let next = journal.next();
        assert!((base..=12).contains(&next));
        assert_eq!(read_all(&journal, 0), ((0..next).collect(), 0), "cut at {len}");
        fill(&journal, 2);
        assert_eq!(read_all(&journal, 0), ((0..next + 2).collect(), 0), "cut at {len}");
    }
}

#[test]
fn a_flipped_bit_anywhere_is_reported_and_the_rest_is_read() {
    let dir = directory();
    let journal = open(dir.path(), ROOMY);
    fill(&journal, 9);
    drop(journal);
    let files = segments(dir.path());
    assert!(files.len() >= 3);
    for (at, file) in files[..files.len() - 1].iter().enumerate() {
        let bases = |at: usize| files[at].file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse().ok());
        let (base, end): (u64, u64) = (bases(at).expect("a base"), bases(at + 1).expect("a base"));
        for byte in 0..fs::metadata(file).expect("a file").len() as usize {
            let copy = copy_of(dir.path());
            flip(&copy.path().join(file.file_name().expect("a name")), byte);
            let journal = match Journal::open(copy.path(), ROOMY) {
                Ok(journal) => journal,
                // The bit was in the version.
                Err(OpenJournalError::Newer { .. }) => continue,
                Err(error) => panic!("{error}"),
            };
            let (offsets, lost) = read_all(&journal, 0);
            assert_eq!(offsets.len() as u64 + lost, 9);
            assert!((0..9).filter(|n| !(base..end).contains(n)).all(|n| offsets.contains(&n)), "byte {byte}");
            let reported = journal.recovery().damaged.len() as u64 + lost;
            assert!(reported > 0, "byte {byte} of {}", file.display());
        }
    }
}

#[test]
fn damage_to_one_record_costs_one_record() {
    let dir = directory();
    let journal = open(dir.path(), JournalOptions { segment_bytes: 1 << 16, bytes_max: 1 << 20 });
    fill(&journal, 9);
    drop(journal);
    flip(&segments(dir.path())[0], HEADER_BYTES + 200);
    let journal = open(dir.path(), ROOMY);
    assert_eq!(journal.recovery().damaged.len(), 1);
    let damaged = journal.recovery().damaged[0].offsets.clone();
    assert_eq!(read_all(&journal, 0), ((0..9).filter(|n| !damaged.contains(n)).collect(), 1));
    fill(&journal, 1);
    assert_eq!(journal.next(), 10);
}

#[test]
fn a_newer_format_is_rejected_and_left_as_it_is() {
    let dir = directory();
    let journal = open(dir.path(), ROOMY);
    fill(&journal, 9);
    drop(journal);
    let newest = segments(dir.path()).pop().expect("a segment");
    let mut bytes = fs::read(&newest).expect("a segment");
    bytes[8] = 2;
    bytes.extend_from_slice(b"what this program does not understand");
    fs::write(&newest, &bytes).expect("a written file");
    let Err(error) = Journal::open(dir.path(), ROOMY) else { panic!("a newer journal was opened") };
    assert!(error.to_string().contains("format 2"), "{error}");
    assert_eq!(fs::read(&newest).expect("a segment"), bytes);
}

#[test]
fn entries_of_a_newer_form_are_rejected_and_left_as_they_are() {
    let dir = directory();
    let open = || SnapshotStore::open(dir.path(), QUICK).expect("a store");
    let store = open();
    store.require_format(2).expect("the first form of a new store");
    store.put("a", "1").expect("a change");
    store.sync().expect("a sync");
    drop(store);
    let store = open();
    store.require_format(2).expect("the same form");
    let error = store.require_format(1).expect_err("a newer form");
    assert!(matches!(&error, OpenSnapshotError::NewerEntries { found, known: 1, .. } if found == "2"), "{error}");
    assert_eq!(store.get("a").as_deref(), Some(b"1".as_slice()));
}

#[test]
fn entries_of_an_older_form_are_read_and_what_is_no_form_is_not() {
    let dir = directory();
    let store = SnapshotStore::open(dir.path(), QUICK).expect("a store");
    store.require_format(2).expect("the first form of a new store");
    store.require_format(3).expect("an older form");
    store.require_format(2).expect_err("what was written since has a newer form");
    for damaged in ["", "0", "-1", "x"] {
        store.put("format", damaged).expect("a change");
        store.require_format(3).expect_err(damaged);
    }
}

#[test]
fn a_full_disk_is_reported_harms_nothing_and_passes() {
    let dir = directory();
    let disk = Disk::default();
    let journal = Journal::open_on(disk.clone(), dir.path(), ROOMY).expect("a new journal");
    fill(&journal, 3);
    for space in [0, 5, 30, 70] {
        disk.faults.space.store(space, SeqCst);
        let batch = text(journal.next());
        let records = [batch.as_bytes(), b"second".as_slice()];
        assert!(matches!(journal.append(&records), Err(AppendError::Full { .. })), "space for {space} bytes");
        assert_eq!(read_all(&journal, 0), ((0..journal.next()).collect(), 0));
        disk.faults.space.store(u64::MAX, SeqCst);
        fill(&journal, 4);
    }
    drop(journal);
    assert_eq!(read_all(&open(dir.path(), ROOMY), 0), ((0..19).collect(), 0));
}

#[test]
fn a_failed_sync_loses_only_what_was_never_acknowledged() {
    let dir = directory();
    let disk = Disk::default();
    let journal = Journal::open_on(disk.clone(), dir.path(), ROOMY).expect("a new journal");
    fill(&journal, 2);
    let first = journal.append(&[b"lost".as_slice()]).expect("space");
    let second = journal.append(&[b"lost as well".as_slice()]).expect("space");
    disk.faults.failing_syncs.store(1, SeqCst);
    assert!(matches!(journal.commit(&first), Err(AppendError::Write { .. })));
    assert!(matches!(journal.commit(&second), Err(AppendError::Lost { first: 3 })));
    fill(&journal, 6);
    assert!(matches!(journal.commit(&second), Err(AppendError::Lost { .. })));
    assert_eq!(read_all(&journal, 0), ((0..8).collect(), 0));
    drop(journal);
    assert_eq!(read_all(&open(dir.path(), ROOMY), 0), ((0..8).collect(), 0));
}

#[test]
fn a_record_too_large_is_rejected() {
    let dir = directory();
    let journal = open(dir.path(), SMALL);
    assert!(matches!(journal.append(&[&[0; 600]]), Err(AppendError::TooLarge { bytes: 600, max: 512 })));
}

/// The journal and the store as format 1 wrote them; `writes_the_fixture` shows how.
const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/v1");

#[test]
fn format_1_is_read() {
    let dir = copy_of(&Path::new(FIXTURE).join("journal"));
    let journal = open(dir.path(), ROOMY);
    assert_eq!(journal.recovery(), &Default::default());
    assert_eq!(read_all(&journal, 0), ((0..9).collect(), 0));
    assert_eq!(journal.cursors(), [("hub".to_owned(), 5)]);
    let dir = copy_of(&Path::new(FIXTURE).join("store"));
    let store = SnapshotStore::open(dir.path(), QUICK).expect("a sound store");
    assert_eq!(store.recovery(), &Default::default());
    let expected: Vec<_> = (1..20).map(|n| (format!("key-{n:02}"), text(n).into_bytes().into())).collect();
    assert_eq!(store.iter(), expected);
}

#[test]
#[ignore = "run once when a format is made: SELVEDGE_FIXTURE=directory"]
fn writes_the_fixture() {
    let dir = PathBuf::from(std::env::var("SELVEDGE_FIXTURE").expect("the directory to write to"));
    let journal = open(&dir.join("journal"), ROOMY);
    fill(&journal, 9);
    journal.set_cursor("hub", 4).expect("space");
    journal.set_cursor("hub", 5).expect("space");
    let store = SnapshotStore::open(&dir.join("store"), QUICK).expect("a new store");
    for n in 0..20 {
        store.put(&format!("key-{n:02}"), text(n).into_bytes()).expect("space");
        store.sync().expect("space");
    }
    store.remove("key-00").expect("space");
    store.sync().expect("space");
}

#[derive(Clone, Debug)]
enum Act {
    Append(Vec<u8>),
    Commit,
    Reopen,
    Trim(u64),
    Cursor(u64),
    Tear(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => prop::collection::vec(0_u8..90, 0..5).prop_map(Act::Append),
        3 => Just(Act::Commit),
        1 => Just(Act::Reopen),
        1 => (0_u64..200).prop_map(Act::Trim),
        1 => (0_u64..200).prop_map(Act::Cursor),
        1 => (1_usize..40).prop_map(Act::Tear),
    ];
    prop::collection::vec(act, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Against a plain list of records.
    #[test]
    fn the_journal_is_a_list_that_survives(acts in acts()) {
        let dir = directory();
        let mut journal = open(dir.path(), ROOMY);
        let mut model: Vec<Vec<u8>> = Vec::new();
        let mut waiting: Vec<Vec<u8>> = Vec::new();
        let mut tickets = Vec::new();
        let mut trimmed = 0;
        let mut cursor = None;
        for act in acts {
            match act {
                Act::Append(sizes) => {
                    let records: Vec<Vec<u8>> = sizes.iter().map(|size| vec![model.len() as u8; usize::from(*size)]).collect();
                    let parts: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
                    let appended = journal.append(&parts).expect("space");
                    prop_assert_eq!(appended.offsets.start, (model.len() + waiting.len()) as u64);
                    tickets.push(appended);
                    waiting.extend(records);
                }
                Act::Commit => {
                    for ticket in tickets.drain(..) {
                        journal.commit(&ticket).expect("a sound disk");
                    }
                    model.append(&mut waiting);
                }
                // Without a power cut, what was written is there even if no one waited for it.
                Act::Reopen => {
                    tickets.clear();
                    drop(journal);
                    journal = open(dir.path(), ROOMY);
                    model.append(&mut waiting);
                }
                Act::Trim(before) => {
                    journal.trim(before);
                    trimmed = trimmed.max(before);
                }
                Act::Cursor(offset) => {
                    let offset = offset.min(model.len() as u64);
                    journal.set_cursor("reader", offset).expect("space");
                    cursor = Some(offset);
                }
                Act::Tear(bytes) => {
                    drop(journal);
                    tickets.clear();
                    model.append(&mut waiting);
                    let newest = segments(dir.path()).pop().expect("a segment");
                    let file = fs::File::options().append(true).open(&newest).expect("a segment");
                    std::io::Write::write_all(&mut &file, &vec![0xa5; bytes]).expect("space");
                    journal = open(dir.path(), ROOMY);
                    prop_assert_eq!(journal.recovery().torn_bytes, bytes as u64);
                }
            }
            prop_assert!(journal.next() >= model.len() as u64);
            prop_assert!(journal.first() <= trimmed);
            prop_assert_eq!(journal.cursor("reader"), cursor);
            let chunk = journal.read(journal.first(), usize::MAX).expect("a readable disk");
            prop_assert_eq!(chunk.lost, 0);
            for record in &chunk.records {
                let offset = record.offset as usize;
                let expected = model.get(offset).or_else(|| waiting.get(offset - model.len()));
                prop_assert_eq!(Some(&record.payload[..]), expected.map(Vec::as_slice));
            }
        }
    }

    /// Whatever is in a file, reading ends, and takes no more memory than the file has bytes.
    #[test]
    fn any_bytes_can_be_read_as_frames(mut bytes in prop::collection::vec(any::<u8>(), 0..2000), frames in 0_u64..5, at in 0_usize..300) {
        let mut sound = Vec::new();
        for number in 0..frames {
            frame::encode(number, &[text(number).as_bytes()], &mut sound);
        }
        bytes.splice(0..0, sound);
        if at < bytes.len() {
            bytes[at] ^= 1;
        }
        let dir = directory();
        let path = dir.path().join("file");
        fs::write(&path, &bytes).expect("space");
        let file = fs::File::open(&path).expect("a file");
        let mut reader = FrameReader::new(&file, 0, 0, bytes.len() as u64);
        let mut steps = 0;
        loop {
            match reader.step().expect("a readable file") {
                Step::Frame { payload, .. } => prop_assert!(payload.len() <= bytes.len()),
                Step::Damaged { .. } | Step::Broken { .. } => {}
                Step::End => break,
            }
            steps += 1;
            prop_assert!(steps <= bytes.len() / frame::FRAME_HEADER_BYTES + 2);
        }
        let _any = Header::decode(&bytes, Kind::Segment);
    }

    /// Against a map, with damage to the newest snapshot at the end.
    #[test]
    fn the_store_is_a_map_that_survives(acts in prop::collection::vec((0_u8..12, 0_u8..60, 0_u8..6), 0..60)) {
        let dir = directory();
        let mut store = SnapshotStore::open(dir.path(), QUICK).expect("a new store");
        let mut model = std::collections::BTreeMap::new();
        for (key, size, act) in acts {
            let key = format!("key-{key}");
            match act {
                0..=2 => {
                    store.put(&key, vec![size; usize::from(size)]).expect("space");
                    model.insert(key, vec![size; usize::from(size)]);
                }
                3 => prop_assert_eq!(store.remove(&key).expect("space"), model.remove(&key).is_some()),
                4 => store.sync().expect("space"),
                _ => {
                    drop(store);
                    store = SnapshotStore::open(dir.path(), QUICK).expect("a sound store");
                    prop_assert_eq!(store.recovery(), &Default::default());
                }
            }
            let held: Vec<_> = store.iter().into_iter().map(|(key, value)| (key, value.to_vec())).collect();
            prop_assert_eq!(&held, &model.clone().into_iter().collect::<Vec<_>>());
        }
        drop(store);
        let newest = newest_snapshot(dir.path());
        flip(&newest, HEADER_BYTES + 3);
        let store = SnapshotStore::open(dir.path(), QUICK).expect("an older generation");
        prop_assert_eq!(&store.recovery().damaged[..], std::slice::from_ref(&newest));
        let held: Vec<_> = store.iter().into_iter().map(|(key, value)| (key, value.to_vec())).collect();
        prop_assert_eq!(held, model.into_iter().collect::<Vec<_>>());
    }
}

fn newest_snapshot(dir: &Path) -> PathBuf {
    let files = fs::read_dir(dir).expect("the store's directory").map(|file| file.expect("an entry").path());
    let is_snapshot =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("snapshot-"));
    files.filter(is_snapshot).max().expect("a snapshot")
}

/// A store with two generations behind it and a few changes in the newest log.
fn used_store(dir: &Path, disk: &Disk) -> SnapshotStore {
    let store = SnapshotStore::open_on(disk.clone(), dir, QUICK).expect("a new store");
    for n in 0..20 {
        store.put(&format!("key-{n:02}"), text(n).into_bytes()).expect("space");
        store.sync().expect("space");
    }
    store
}

#[test]
fn a_cut_log_keeps_every_change_before_the_cut() {
    let dir = directory();
    drop(used_store(dir.path(), &Disk::default()));
    let name = newest_snapshot(dir.path()).file_name().expect("a name").to_string_lossy().replace("snapshot", "log");
    let whole = fs::read(dir.path().join(&name)).expect("a log");
    assert!(whole.len() > HEADER_BYTES + 100);
    let mut before = 0;
    for len in HEADER_BYTES..whole.len() {
        let copy = copy_of(dir.path());
        fs::write(copy.path().join(&name), &whole[..len]).expect("a cut file");
        let store = SnapshotStore::open(copy.path(), QUICK).expect("a sound store");
        assert!(!store.recovery().is_incomplete);
        let keys: Vec<_> = store.iter().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, (0..keys.len()).map(|n| format!("key-{n:02}")).collect::<Vec<_>>());
        assert!(keys.len() >= before, "a later cut keeps no less");
        before = keys.len();
        store.put("more", b"x".as_slice()).expect("space");
        store.sync().expect("space");
        drop(store);
        let store = SnapshotStore::open(copy.path(), QUICK).expect("a sound store");
        assert_eq!(store.get("more").as_deref(), Some(b"x".as_slice()));
    }
    assert_eq!(before, 19);
}

#[test]
fn a_damaged_byte_in_the_newest_snapshot_costs_nothing() {
    let dir = directory();
    drop(used_store(dir.path(), &Disk::default()));
    let newest = newest_snapshot(dir.path());
    for byte in (0..fs::metadata(&newest).expect("a file").len() as usize).filter(|byte| !(8..12).contains(byte)) {
        let copy = copy_of(dir.path());
        flip(&copy.path().join(newest.file_name().expect("a name")), byte);
        let store = SnapshotStore::open(copy.path(), QUICK).expect("an older generation");
        assert_eq!(store.len(), 20, "byte {byte}");
        assert_eq!(store.recovery().damaged.len(), 1);
        assert!(!store.recovery().is_incomplete);
        drop(store);
        let store = SnapshotStore::open(copy.path(), QUICK).expect("a repaired store");
        assert_eq!((store.len(), store.recovery()), (20, &Default::default()));
    }
}

#[test]
fn a_full_disk_keeps_the_store_as_it_was() {
    let dir = directory();
    let disk = Disk::default();
    let store = used_store(dir.path(), &disk);
    disk.faults.space.store(10, SeqCst);
    assert!(matches!(store.put("key-03", b"new".as_slice()), Err(SnapshotError::Full { .. })));
    assert_eq!(store.get("key-03").as_deref(), Some(text(3).as_bytes()));
    disk.faults.space.store(u64::MAX, SeqCst);
    store.put("key-03", b"new".as_slice()).expect("space");
    store.sync().expect("space");
    drop(store);
    let store = SnapshotStore::open(dir.path(), QUICK).expect("a sound store");
    assert_eq!(store.get("key-03").as_deref(), Some(b"new".as_slice()));
    assert_eq!(store.len(), 20);
}

#[test]
fn a_compaction_without_space_keeps_the_log() {
    let dir = directory();
    let disk = Disk::default();
    let store = SnapshotStore::open_on(disk.clone(), dir.path(), QUICK).expect("a new store");
    for n in 0..20 {
        store.put(&format!("key-{n:02}"), text(n).into_bytes()).expect("space");
    }
    disk.faults.space.store(100, SeqCst);
    store.sync().expect("the log is on the disk");
    disk.faults.space.store(u64::MAX, SeqCst);
    drop(store);
    assert_eq!(SnapshotStore::open(dir.path(), QUICK).expect("a sound store").len(), 20);
}

#[test]
fn a_failed_sync_is_made_good_by_the_next_one() {
    let dir = directory();
    let disk = Disk::default();
    let store = used_store(dir.path(), &disk);
    store.put("late", b"x".as_slice()).expect("space");
    disk.faults.failing_syncs.store(1, SeqCst);
    assert!(matches!(store.sync(), Err(SnapshotError::Write { .. })));
    let before = newest_snapshot(dir.path());
    store.sync().expect("a whole new generation");
    assert_ne!(newest_snapshot(dir.path()), before);
    drop(store);
    assert_eq!(SnapshotStore::open(dir.path(), QUICK).expect("a sound store").len(), 21);
}

#[test]
fn a_newer_store_is_rejected() {
    let dir = directory();
    drop(used_store(dir.path(), &Disk::default()));
    let newest = newest_snapshot(dir.path());
    let mut bytes = fs::read(&newest).expect("a snapshot");
    bytes[8] = 9;
    fs::write(&newest, bytes).expect("a written file");
    assert!(matches!(SnapshotStore::open(dir.path(), QUICK), Err(OpenSnapshotError::Newer { found: 9, .. })));
}

/// `cargo test --release -p base-journal -- --ignored --nocapture how_fast` prints records per second.
#[test]
#[ignore = "a measurement"]
fn how_fast_records_are_committed() {
    let record = [b'x'; 400];
    for (appenders, per_commit) in [(1, 1), (1, 100), (16, 1)] {
        let dir = directory();
        let journal = open(dir.path(), JournalOptions::default());
        let commits = 3000 / appenders;
        let begun = std::time::Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..appenders {
                scope.spawn(|| {
                    let records = vec![record.as_slice(); per_commit];
                    for _ in 0..commits {
                        journal.append_and_commit(&records).expect("space");
                    }
                });
            }
        });
        let rate = journal.next() as f64 / begun.elapsed().as_secs_f64();
        println!("{appenders} appenders, {per_commit} records per commit: {rate:.0} records/s");
    }
}

#[test]
fn a_segment_is_found_by_any_offset_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let options = JournalOptions { segment_bytes: 100, bytes_max: 1 << 20 };
    let journal = Journal::open(dir.path(), options).unwrap();
    assert_eq!(journal.segment_of(0).map(|segment| (segment.offsets, segment.is_newest)), Some((0..0, true)));
    for _ in 0..10 {
        journal.append_and_commit(&[&[0; 40]]).unwrap();
    }
    let mut next = 0;
    while let Some(segment) = journal.segment_of(next).filter(|segment| !segment.is_newest) {
        assert_eq!(segment.offsets.start, next);
        assert_eq!(journal.segment_of(segment.offsets.end - 1), Some(segment.clone()));
        next = segment.offsets.end;
    }
    assert_eq!(journal.segment_of(next).map(|segment| segment.offsets), Some(next..10));
    journal.trim(next);
    assert_eq!(journal.segment_of(0), None);
}

#[test]
fn an_offset_that_nobody_can_have_seen_is_not_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), JournalOptions::default()).unwrap();
    for offset in [crate::OFFSET_MAX + 1, u64::MAX] {
        assert!(matches!(journal.skip_to(offset), Err(AppendError::Offset { .. })));
    }
    assert_eq!(journal.append_and_commit(&[b"next"]).unwrap(), 0..1);
    journal.skip_to(crate::OFFSET_MAX).unwrap();
}

#[test]
fn a_store_says_which_format_its_entries_have() {
    let dir = tempfile::tempdir().unwrap();
    let store = SnapshotStore::open(dir.path(), SnapshotOptions::default()).unwrap();
    assert_eq!(store.format(3).unwrap(), 3, "an empty store has the newest");
    store.put("key", "value").unwrap();
    assert_eq!(store.format(3).unwrap(), 1, "one that does not say has the first");
    store.set_format(2).unwrap();
    assert_eq!(store.format(3).unwrap(), 2);
    for wrong in ["4", "0", "x"] {
        store.put("format", wrong).unwrap();
        assert!(matches!(store.format(3), Err(OpenSnapshotError::NewerEntries { known: 3, .. })));
    }
}

#[test]
fn a_cursor_beyond_every_offset_is_neither_stored_nor_believed() {
    let dir = directory();
    let journal = Journal::open(dir.path(), JournalOptions::default()).expect("a new journal");
    journal.append_and_commit(&[b"first"]).expect("space");
    assert!(journal.set_cursor("hub", u64::MAX).is_err());
    assert_eq!(journal.cursor("hub"), None);
    drop(journal);
    // As a program stored it that believed its receiver.
    let mut bytes = Header { kind: Kind::Cursors, epoch: [0; 16], base: 1 }.encode().to_vec();
    crate::frame::encode(1, &[&u64::MAX.to_le_bytes(), b"hub"], &mut bytes);
    crate::frame::encode(2, &[&1_u64.to_le_bytes(), b"other"], &mut bytes);
    crate::frame::encode(3, &[b"end"], &mut bytes);
    fs::write(dir.path().join("cursors.a"), bytes).expect("space");
    // Neither does a file with such a name make the numbers overflow.
    fs::write(dir.path().join(format!("{}.segment", u64::MAX)), b"").expect("space");
    let journal = Journal::open(dir.path(), JournalOptions::default()).expect("a sound journal");
    assert_eq!((journal.cursor("hub"), journal.cursor("other")), (None, Some(1)));
    assert_eq!(journal.append_and_commit(&[b"second"]).expect("space"), 1..2);
}

#[test]
fn nobody_else_can_read_what_is_kept() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = directory();
    let path = dir.path().join("made/by/journal");
    let journal = Journal::open(&path, JournalOptions::default()).expect("a new journal");
    journal.append_and_commit(&[b"secret"]).expect("space");
    journal.set_cursor("hub", 1).expect("space");
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(&dir.path().join("made"))), (0o700, 0o700));
    for file in fs::read_dir(&path).expect("a directory").flatten().filter(|file| file.file_name() != "lock") {
        assert_eq!(mode(&file.path()), 0o600, "{}", file.path().display());
    }
}
