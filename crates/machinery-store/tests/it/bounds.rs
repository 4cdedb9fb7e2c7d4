//! What clients can make the store keep is bounded by bytes. Memory is what the store accounts for and what tests hold
//! weakly, because the process's size says little.

use std::sync::{Arc, Weak};
use std::time::Duration;

use machinery_store::{Change, Durability, Expect, Key, Object, Op, Revision, Store, StoreOptions, WatchEnded};

use crate::util::*;

const MIB: usize = 1 << 20;

fn pod(name: &str) -> Key {
    Key::new(PODS, "d", name)
}

fn options(window_bytes_max: usize) -> StoreOptions {
    StoreOptions { window_bytes_max, indexed_fields: vec!["spec.nodeName"], ..StoreOptions::default() }
}

/// Writes one object again and again; returns every version, held weakly.
async fn rewrite(store: &Store, times: usize, bytes: usize, field: &str) -> Vec<Weak<Object>> {
    let mut versions = Vec::new();
    for number in 0..times {
        let value = format!("{number} {}", "x".repeat(bytes));
        commit(store, put_indexed(&pod("large"), Expect::Any, &value, &[(field, "n1")])).await;
        versions.push(Arc::downgrade(&store.get(&pod("large")).unwrap()));
    }
    versions
}

fn alive(versions: &[Weak<Object>]) -> usize {
    versions.iter().filter(|version| version.strong_count() > 0).count()
}

#[tokio::test]
async fn a_watch_that_does_not_read_keeps_nothing_alive() {
    for field in ["spec.nodeName", "label:without-index"] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), options(4 * MIB)).unwrap();
        let mut watch = store.watch_where(PODS, Revision(0), field, "n1").unwrap();
        let versions = rewrite(&store, 40, MIB, field).await;
        assert!(alive(&versions) <= 4, "{} versions of 1 MiB are alive", alive(&versions));
        assert_eq!(watch.next().await.err(), Some(WatchEnded::Lagged));
    }
}

#[tokio::test]
async fn the_window_is_bounded_when_a_change_is_applied_and_not_by_and_by() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options(8 * MIB)).unwrap();
    for number in 0..40 {
        set(&store, &pod("large"), &format!("{number} {}", "x".repeat(MIB))).await;
        let usage = store.usage();
        assert!(usage.window_bytes <= 4 * MIB, "{usage:?} after {number}");
    }
}

#[tokio::test]
async fn index_fields_count_as_bytes_of_the_window() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options(2 * MIB)).unwrap();
    let labels: Vec<(String, String)> =
        (0..1000).map(|number| (format!("label:key-{number}"), "v".repeat(63))).collect();
    let fields: Vec<(&str, &str)> = labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    for _ in 0..100 {
        commit(&store, put_indexed(&pod("labelled"), Expect::Any, "small", &fields)).await;
    }
    let usage = store.usage();
    assert!((2..=20).contains(&usage.changes), "80 KiB of labels a version in a window of 1 MiB: {usage:?}");
}

#[tokio::test]
async fn a_busy_resource_does_not_shorten_the_history_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options(2 * MIB)).unwrap();
    let first = set(&store, &Key::new(MAPS, "d", "quiet"), "1").await;
    set(&store, &Key::new(MAPS, "d", "quiet"), "2").await;
    rewrite(&store, 50, 100 << 10, "spec.nodeName").await;
    assert!(store.watch(PODS, first).is_err(), "the busy one has lost history");
    let changes = drain(&mut store.watch(MAPS, first).unwrap(), store.current()).await;
    assert_eq!(changes.len(), 1, "the quiet one has not");
}

#[tokio::test]
async fn a_batch_is_bounded_by_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options(64 * MIB)).unwrap();
    for (field, bytes) in [("spec.nodeName", 100 << 10), ("label:without-index", 2 * MIB)] {
        let from = store.current();
        rewrite(&store, 10, bytes, field).await;
        for filtered in [false, true] {
            let mut watch = match filtered {
                true => store.watch_where(PODS, from, field, "n1").unwrap(),
                false => store.watch(PODS, from).unwrap(),
            };
            let mut seen = 0;
            while watch.progress() < store.current() {
                let batch = watch.next().await.unwrap();
                let bytes: usize = batch.changes.iter().map(|change: &Arc<Change>| change.object.bytes.len()).sum();
                assert!(batch.changes.len() == 1 || bytes <= 256 << 10, "{} changes, {bytes} B", batch.changes.len());
                seen += batch.changes.len();
            }
            assert_eq!(seen, 10);
        }
    }
}

#[tokio::test]
async fn lazy_writes_that_are_more_than_may_wait_go_to_the_disk_and_are_not_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions { lazy_flush_max: Duration::from_secs(3600), ..options(8 * MIB) })
        .unwrap();
    let keys: Vec<_> = (0..40).map(|number| Key::new(LEASES, "d", &format!("lease-{number}"))).collect();
    let value = "x".repeat(MIB);
    let deletion = |key: &Key| {
        let (key, value) = (key.clone(), value.clone());
        Op::Delete { key, expect: Expect::Any, final_bytes: Box::new(move |_| value.into()) }
    };
    let puts: Vec<Op> = keys.iter().map(|key| put(key, Expect::Any, &value)).collect();
    for op in puts.into_iter().chain(keys.iter().map(deletion)) {
        store.commit(vec![op], Durability::Lazy).await.unwrap();
        assert!(store.usage().pending_bytes <= 8 * MIB, "{:?}", store.usage());
    }
}

#[tokio::test]
async fn names_that_were_used_once_are_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { window_changes_max: 10, ..options(2 * MIB) };
    let store = Store::open(dir.path(), options).unwrap();
    let before = store.usage().index_bytes;
    for round in 0..20 {
        let fields: Vec<(String, String)> =
            (0..500).map(|number| (format!("label:{round}-{number}"), number.to_string())).collect();
        let fields: Vec<(&str, &str)> = fields.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let op = put_indexed(&pod("labelled"), Expect::Any, "small", &fields);
        store.commit(vec![op], Durability::Group).await.unwrap();
        let node = format!("node-{round}");
        commit(&store, put_indexed(&pod("labelled"), Expect::Any, "small", &[("spec.nodeName", &node)])).await;
    }
    for _ in 0..20 {
        set(&store, &pod("labelled"), "small").await;
    }
    let after = store.usage().index_bytes;
    assert!(after < before + 1000, "{before} → {after} B");
}

#[tokio::test]
async fn watches_are_counted_and_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options(2 * MIB)).unwrap();
    let watches: Vec<_> = (0..1000)
        .flat_map(|number| {
            let value = format!("n{number}");
            [("spec.nodeName", &value), ("metadata.name", &value)]
                .map(|(field, value)| store.watch_where(PODS, Revision(0), field, value).unwrap())
        })
        .chain([store.watch(PODS, Revision(0)).unwrap()])
        .collect();
    assert_eq!(store.usage().watches, 2001);
    drop(watches);
    assert_eq!((store.usage().watches, store.usage().index_bytes), (0, 0));
}
