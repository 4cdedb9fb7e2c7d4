//! Reads, writes and watches in peace.

use std::time::Duration;

use machinery_store::{
    ChangeKind, CommitError, Durability, Expect, Key, OpenStoreError, Revision, Store, StoreOptions, WatchEnded,
};

use crate::util::*;

fn key(name: &str) -> Key {
    Key::new(MAPS, "default", name)
}

#[tokio::test]
async fn expectations_are_checked_in_order_before_anything_is_encoded() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let first = set(&store, &key("a"), "1").await;
    let check = async |ops: Vec<machinery_store::Op>, expected: &str| {
        let result = store.commit(ops, Durability::Group).await;
        assert_eq!(result.unwrap_err().to_string(), expected);
    };
    let conflict = format!("the object is at revision {first}, not as expected");
    check(vec![put(&key("a"), Expect::Absent, "2")], &conflict).await;
    check(vec![put(&key("a"), Expect::Revision(Revision(999)), "2")], &conflict).await;
    check(vec![delete(&key("a"), Expect::Revision(Revision(999)))], &conflict).await;
    check(vec![put(&key("b"), Expect::Revision(first), "2")], "there is no such object").await;
    check(vec![delete(&key("b"), Expect::Any)], "there is no such object").await;
    // All or nothing: the first operation is fine, the second is not.
    let own = format!("the object is at revision {}, not as expected", store.current().0 + 1);
    check(vec![put(&key("b"), Expect::Absent, "2"), put(&key("b"), Expect::Absent, "3")], &own).await;
    assert!(store.get(&key("b")).is_none());

    let second = store.commit(vec![put(&key("a"), Expect::Revision(first), "2")], Durability::Group).await.unwrap()[0];
    assert!(second > first);
    let held = store.get(&key("a")).unwrap();
    assert_eq!((held.bytes.as_ref(), held.revision, held.created), (&b"2"[..], second, first));
}

#[tokio::test]
async fn a_list_is_continued_at_the_revision_where_it_began() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for name in ["a", "b", "d", "e"] {
        set(&store, &key(name), "old").await;
    }
    set(&store, &Key::new(MAPS, "other", "z"), "old").await;
    let page = store.range(MAPS, None, None, Some(2), None).unwrap();
    assert_eq!((names(&page.items), page.remaining), (vec!["a", "b"], 3));

    set(&store, &key("c"), "new").await;
    set(&store, &key("e"), "new").await;
    store.commit(vec![delete(&key("d"), Expect::Any)], Durability::Group).await.unwrap();
    let rest = store.range(MAPS, None, Some(("default", "b")), None, Some(page.revision)).unwrap();
    assert_eq!((names(&rest.items), rest.remaining, rest.revision), (vec!["d", "e", "z"], 0, page.revision));
    assert!(rest.items.iter().all(|object| object.bytes == "old"));

    let now = store.range(MAPS, Some("default"), Some(("default", "b")), None, None).unwrap();
    assert_eq!(names(&now.items), ["c", "e"]);
    assert_eq!(names(&store.range(MAPS, Some("other"), None, None, None).unwrap().items), ["z"]);
    assert!(store.range(MAPS, Some("nobody"), None, None, None).unwrap().items.is_empty());
    assert!(store.range("/none", None, None, None, None).unwrap().items.is_empty());
    assert!(store.range(MAPS, None, None, None, Some(Revision(1 << 40))).is_err());
}

#[tokio::test]
async fn a_watch_sees_every_change_once_with_the_version_before() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut watch = store.watch(MAPS, store.current()).unwrap();
    let created = set(&store, &key("a"), "1").await;
    let updated = set(&store, &key("a"), "2").await;
    let deleted = store.commit(vec![delete(&key("a"), Expect::Any)], Durability::Group).await.unwrap()[0];
    set(&store, &Key::new(PODS, "default", "other-kind"), "1").await;

    let changes = drain(&mut watch, store.current()).await;
    let seen: Vec<_> = changes
        .iter()
        .map(|change| (change.kind, change.revision, change.previous.as_ref().map(|object| object.revision)))
        .collect();
    assert_eq!(
        seen,
        [
            (ChangeKind::Put, created, None),
            (ChangeKind::Put, updated, Some(created)),
            (ChangeKind::Delete, deleted, Some(updated))
        ]
    );
    assert_eq!(changes[2].object.bytes, "last");
    assert_eq!(watch.progress(), store.current());
}

#[tokio::test]
async fn a_watch_resumes_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let first = set(&store, &key("a"), "1").await;
    let second = set(&store, &key("a"), "2").await;
    store.commit(vec![delete(&key("a"), Expect::Any)], Durability::Group).await.unwrap();
    let before = store.current();
    drop(store);

    let store = open(dir.path());
    assert_eq!(store.current(), before, "a clean close skips no revision");
    assert!(store.get(&key("a")).is_none());
    let changes = drain(&mut store.watch(MAPS, first).unwrap(), before).await;
    assert_eq!(changes[0].previous.as_ref().unwrap().revision, first);
    assert_eq!(changes.iter().map(|change| change.object.bytes.as_ref()).collect::<Vec<_>>(), [&b"2"[..], b"last"]);
    assert_eq!(changes[1].previous.as_ref().unwrap().revision, second);
    assert!(set(&store, &key("b"), "1").await > before);
}

#[tokio::test]
async fn a_watch_of_a_field_is_woken_for_that_value_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let pod = |name: &str| Key::new(PODS, "default", name);
    let place = async |name: &str, node: &str| {
        let op = put_indexed(&pod(name), Expect::Any, node, &[("spec.nodeName", node)]);
        store.commit(vec![op], Durability::Group).await.unwrap()[0]
    };
    let start = place("early", "n1").await;
    let mut watch = store.watch_where(PODS, Revision(0), "spec.nodeName", "n1").unwrap();
    let mut other = store.watch_where(PODS, start, "spec.nodeName", "n3").unwrap();
    place("mine", "n1").await;
    place("theirs", "n2").await;
    place("mine", "n2").await;
    store.commit(vec![delete(&pod("early"), Expect::Any)], Durability::Group).await.unwrap();

    let changes = drain(&mut watch, store.current()).await;
    let seen: Vec<_> = changes.iter().map(|change| (&*change.object.key.name, &change.object.bytes[..])).collect();
    assert_eq!(seen, [("early", &b"n1"[..]), ("mine", b"n1"), ("mine", b"n2"), ("early", b"last")]);
    assert!(tokio::time::timeout(Duration::from_millis(50), other.next()).await.is_err());
    assert_eq!(other.progress(), store.current(), "changes of others move the bookmark on");
}

#[tokio::test]
async fn a_watcher_slower_than_the_window_has_lagged() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { window_changes_max: 5, ..StoreOptions::default() };
    let store = machinery_store::Store::open(dir.path(), options).unwrap();
    let first = set(&store, &key("a"), "0").await;
    let mut slow = store.watch(MAPS, first).unwrap();
    for value in 0..20 {
        set(&store, &key("a"), &value.to_string()).await;
    }
    assert_eq!(slow.next().await.err(), Some(WatchEnded::Lagged));
    let expired = store.watch(MAPS, first).err().unwrap();
    assert_eq!(expired.asked, first);
    let mut watch = store.watch(MAPS, expired.oldest).unwrap();
    assert_eq!(drain(&mut watch, store.current()).await.len(), 5);
    assert!(store.range(MAPS, None, None, None, Some(first)).is_err());
    assert_eq!(store.usage().objects, 1);
}

#[tokio::test]
async fn watches_end_when_the_store_closes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut watch = store.watch(MAPS, Revision(0)).unwrap();
    let mut of_field = store.watch_where(MAPS, Revision(0), "a", "b").unwrap();
    set(&store, &key("a"), "1").await;
    drop(store);
    assert_eq!(watch.next().await.unwrap().changes.len(), 1, "what happened is delivered first");
    assert_eq!(watch.next().await.err(), Some(WatchEnded::Closed));
    assert_eq!(of_field.next().await.err(), Some(WatchEnded::Closed));
}

#[tokio::test]
async fn writes_that_wait_together_share_a_flush_and_keep_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let commits: Vec<_> = (0..200)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move { set(&store, &key(&format!("{:03}", number % 50)), &number.to_string()).await })
        })
        .collect();
    let mut revisions = Vec::new();
    for commit in commits {
        revisions.push(commit.await.unwrap());
    }
    revisions.sort();
    revisions.dedup();
    assert_eq!(revisions.len(), 200, "each write has its own revision");
    assert_eq!(store.usage().objects, 50);
}

#[test]
fn a_directory_that_is_not_a_store_is_rejected_by_name() {
    let check = |version: &str, expected: fn(&OpenStoreError) -> bool| {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("VERSION"), version).unwrap();
        let error = Store::open(dir.path(), StoreOptions::default()).err().unwrap();
        assert!(expected(&error), "{version:?} gave {error}");
        let files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(files, ["VERSION"], "a rejected directory is not touched");
    };
    check("selvedge-store 3\n", |error| matches!(error, OpenStoreError::Newer { found: 3, known: 2, .. }));
    check("selvedge-store 0\n", |error| matches!(error, OpenStoreError::ReadVersion { .. }));
    check("", |error| matches!(error, OpenStoreError::ReadVersion { .. }));
    check("something else", |error| matches!(error, OpenStoreError::ReadVersion { .. }));
}

#[tokio::test]
async fn a_store_that_is_closed_leaves_the_disk_as_if_nobody_held_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let held = store.clone();
    let lease = Key::new(LEASES, "kube-node-lease", "n1");
    let beat = store.commit(vec![put(&lease, Expect::Any, "beat")], Durability::Lazy).await.unwrap()[0];
    let mut watch = held.watch(LEASES, beat).unwrap();
    store.close();
    store.close();
    assert_eq!(watch.next().await.unwrap_err(), WatchEnded::Closed);
    assert!(matches!(
        held.commit(vec![put(&lease, Expect::Any, "2")], Durability::Lazy).await,
        Err(CommitError::Closed)
    ));
    assert_eq!(held.get(&lease).unwrap().bytes, "beat");
    // No crash: the lazy write is there, and revisions continue without a gap.
    let again = open(dir.path());
    assert_eq!((again.get(&lease).unwrap().revision, again.current()), (beat, beat));
    assert!(again.watch(LEASES, beat).is_ok());
}

#[tokio::test]
async fn objects_that_are_lost_do_not_pass_for_a_new_store() {
    let lose: [fn(&std::path::Path); 3] = [
        |objects| std::fs::remove_file(objects).unwrap(),
        |objects| std::fs::write(objects, "").unwrap(),
        // The log held everything that a young store has.
        |objects| std::fs::remove_file(objects.with_extension("sqlite-wal")).unwrap(),
    ];
    for (number, lose) in lose.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        set(&store, &Key::new(MAPS, "default", "a"), "1").await;
        // A copy as a crash leaves it: a clean end copies the log into the file.
        let copy = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(dir.path()).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }
        lose(&copy.path().join("objects.sqlite"));
        for _ in 0..2 {
            let error = Store::open(copy.path(), StoreOptions::default()).err().unwrap();
            assert!(matches!(error, OpenStoreError::Lost { .. }), "{number}: {error}");
            assert!(error.to_string().contains("restore a backup"), "{error}");
        }
        // What the sentence says is what helps.
        std::fs::remove_file(copy.path().join("VERSION")).unwrap();
        assert_eq!(open(copy.path()).usage().objects, 0);
    }
}

#[tokio::test]
async fn a_first_start_that_was_cut_is_begun_anew() {
    // Before anything, within the engine's first write, and before the version file.
    let cuts: [fn(&std::path::Path); 3] = [
        |_| {},
        |dir| std::fs::write(dir.join("objects.sqlite"), "").unwrap(),
        |dir| {
            drop(open(dir));
            std::fs::remove_file(dir.join("VERSION")).unwrap();
            std::fs::write(dir.join("VERSION.new"), "selvedge-").unwrap();
        },
    ];
    for cut in cuts {
        let dir = tempfile::tempdir().unwrap();
        cut(dir.path());
        let store = open(dir.path());
        let key = Key::new(MAPS, "default", "a");
        set(&store, &key, "1").await;
        drop(store);
        assert_eq!(open(dir.path()).get(&key).unwrap().bytes, "1");
    }
}

#[tokio::test]
async fn a_store_in_memory_is_a_store() {
    let store = Store::in_memory(StoreOptions::default()).unwrap();
    let first = set(&store, &key("a"), "1").await;
    let mut changes = store.watch(MAPS, first).unwrap();
    let second = set(&store, &key("a"), "2").await;
    let batch = changes.next().await.unwrap();
    let change = &batch.changes[0];
    assert_eq!((change.revision, change.object.bytes.as_ref()), (second, &b"2"[..]));
    assert_eq!(store.get(&key("a")).unwrap().revision, second);
}
