//! What the store relies on in SQLite.

use super::*;

fn puts(revisions: std::ops::Range<u64>) -> Batch {
    Batch { puts: revisions.map(|revision| (revision, vec![b'x'; 100_000])).collect(), ..Batch::default() }
}

#[test]
fn space_of_removed_rows_is_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut engine = SqliteEngine::open(&dir.path().join("objects.sqlite")).unwrap();
    engine.commit(&puts(1..31)).unwrap();
    engine.give_back().unwrap();
    assert!((3_000_000..4_000_000).contains(&engine.disk_bytes()), "{} B", engine.disk_bytes());
    engine.commit(&Batch { removes: (1..30).collect(), ..Batch::default() }).unwrap();
    engine.give_back().unwrap();
    assert!(engine.disk_bytes() < 200_000, "{} B", engine.disk_bytes());
}

#[test]
fn rows_of_a_batch_that_failed_are_removed_before_they_are_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut engine = SqliteEngine::open(&dir.path().join("objects.sqlite")).unwrap();
    engine.commit(&puts(1..4)).unwrap();
    engine.commit(&Batch { uncertain: vec![1..=2, 9..=9], ..puts(2..3) }).unwrap();
    let mut seen = Vec::new();
    let mut visit = |revision: u64, _: &[u8]| {
        seen.push(revision);
        true
    };
    engine.visit(&mut visit).unwrap();
    assert_eq!(seen, [2, 3]);
}

#[test]
fn what_is_uncertain_of_many_failures_is_a_range() {
    let mut batch = Batch { uncertain: vec![3..=3], ..puts(4..7) };
    batch.distrust();
    batch.puts = puts(7..1000).puts;
    batch.distrust();
    batch.puts = puts(1002..1003).puts;
    batch.distrust();
    assert_eq!(batch.uncertain, [3..=999, 1002..=1002]);
}
