//! The window against a plain list.

use super::*;
use crate::types::{ChangeKind, Key, Object};

fn change(revision: u64, bytes: usize) -> Arc<Change> {
    let object = Object {
        key: Key::new("/pods", "d", "p"),
        revision: Revision(revision),
        created: Revision(1),
        bytes: vec![b'x'; bytes].into(),
        managed: None,
        index: Default::default(),
    };
    Arc::new(Change {
        kind: ChangeKind::Put,
        revision: Revision(revision),
        object: Arc::new(object.clone()),
        previous: Some(Arc::new(object)),
    })
}

#[test]
fn changes_are_found_by_revision_across_chunks() {
    let mut history = History::default();
    for revision in 1..=1000_u64 {
        history.push(change(revision * 2, (revision as usize * 37) % 9000), 0);
    }
    for _ in 0..300 {
        history.pop_oldest();
    }
    assert_eq!((history.len(), history.newest()), (700, Some(Revision(2000))));
    for from in [0, 601, 602, 603, 777, 1998, 1999, 2000, 5000] {
        let expected: Vec<u64> =
            (301..=1000).map(|revision| revision * 2).filter(|revision| *revision > from).collect();
        let found: Vec<u64> = history.after(Revision(from)).map(|change| change.revision.0).collect();
        assert_eq!(found, expected, "after {from}");
        let (chunks, is_all) = history.chunks_after(Revision(from), usize::MAX);
        let found: Vec<u64> =
            chunks.iter().flat_map(|chunk| after(chunk, Revision(from))).map(|change| change.revision.0).collect();
        assert!(is_all);
        assert_eq!(found, expected, "in chunks after {from}");
    }
    assert!(!history.chunks_after(Revision(0), 1).1);
    while history.pop_oldest().is_some() {}
    assert_eq!((history.len(), history.bytes()), (0, 0));
}

#[test]
fn a_chunk_that_a_reader_holds_stays_as_it_was_and_is_small() {
    let mut history = History::default();
    for revision in 1..=100 {
        history.push(change(revision, 100 << 10), 0);
    }
    let (chunks, _) = history.chunks_after(Revision(0), 1);
    assert!(chunks[0].len() <= 3, "{} changes of 100 KiB in a chunk", chunks[0].len());
    let before: Vec<_> = chunks[0].iter().map(|logged| logged.change.revision).collect();
    for _ in 0..50 {
        history.pop_oldest();
    }
    let now: Vec<_> = chunks[0].iter().map(|logged| logged.change.revision).collect();
    assert_eq!(now, before);
}
