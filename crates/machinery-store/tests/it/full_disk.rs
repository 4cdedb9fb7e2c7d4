//! What works on a full disk, and what has to happen before it counts as one with space.

use std::time::{Duration, Instant};

use machinery_store::{CommitError, Durability, Expect, Key, Revision, Store, StoreOptions};
use testkit::forgetful::ForgetfulDisk;

use crate::util::*;

fn key(name: &str) -> Key {
    Key::new(MAPS, "default", name)
}

fn open_on(disk: &ForgetfulDisk) -> Store {
    open(disk.path())
}

/// The store looks at the disk again a little later.
async fn set_when_there_is_space(store: &Store, key: &Key, value: &str) -> Revision {
    let started = Instant::now();
    loop {
        match store.commit(vec![put(key, Expect::Any, value)], Durability::Group).await {
            Ok(revisions) => return revisions[0],
            Err(CommitError::Full) if started.elapsed() < Duration::from_secs(20) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(error) => panic!("{error} with {:?}", store.usage()),
        }
    }
}

/// Writes objects of this size until there is no space; returns their names.
async fn fill(store: &Store, bytes: usize) -> Vec<Key> {
    let mut written = Vec::new();
    loop {
        let name = key(&format!("fill-{}", written.len()));
        match store.commit(vec![put(&name, Expect::Absent, &"x".repeat(bytes))], Durability::Group).await {
            Ok(_) => written.push(name),
            Err(CommitError::Full) => return written,
            Err(error) => panic!("{error}"),
        }
        assert!(written.len() < 2000, "the disk should be full by now");
    }
}

#[tokio::test]
async fn a_full_disk_rejects_writes_and_harms_nothing() {
    let Some(disk) = ForgetfulDisk::mount_or_skip("a_full_disk_rejects_writes_and_harms_nothing") else { return };
    let store = open_on(&disk);
    let value = "x".repeat(16 << 10);
    set(&store, &key("before"), &value).await;
    let lease = Key::new(LEASES, "kube-node-lease", "n1");
    store.commit(vec![put(&lease, Expect::Any, "1")], Durability::Lazy).await.unwrap();
    disk.set_space_left(Some(64 << 10));
    let mut written = Vec::new();
    let rejected = loop {
        let name = key(&format!("fill-{}", written.len()));
        match store.commit(vec![put(&name, Expect::Absent, &value)], Durability::Group).await {
            Ok(_) => written.push(name),
            Err(error) => break error,
        }
        assert!(written.len() < 1000, "the disk should be full by now");
    };
    assert!(matches!(rejected, CommitError::Full), "{rejected}");
    assert!(store.usage().full);
    assert_eq!(store.range(MAPS, None, None, None, None).unwrap().items.len(), written.len() + 1);
    // Leases continue in memory until the disk has space: a full disk should not make every node look dead.
    for beat in 2..10 {
        let rejected = store.commit(vec![put(&key("more"), Expect::Any, &value)], Durability::Group).await;
        assert!(rejected.is_err());
        store.commit(vec![put(&lease, Expect::Any, &beat.to_string())], Durability::Lazy).await.unwrap();
    }
    disk.set_space_left(None);
    let after = set_when_there_is_space(&store, &key("after"), &value).await;
    assert!(!store.usage().full);
    drop(store);

    let store = open_on(&disk);
    assert!(written.iter().all(|name| store.get(name).is_some_and(|object| object.bytes == value)));
    assert_eq!(store.get(&key("after")).unwrap().revision, after);
    assert_eq!(store.get(&lease).unwrap().bytes, "9");
    assert_eq!(store.range(MAPS, None, None, None, None).unwrap().items.len(), written.len() + 2);
}

#[tokio::test]
async fn a_store_opens_for_reading_on_a_full_disk() {
    let Some(disk) = ForgetfulDisk::mount_or_skip("a_store_opens_for_reading_on_a_full_disk") else { return };
    let store = open_on(&disk);
    let value = "x".repeat(16 << 10);
    set(&store, &key("before"), &value).await;
    disk.set_space_left(Some(0));
    while store.commit(vec![put(&key("fill"), Expect::Any, &value)], Durability::Group).await.is_ok() {}
    drop(store);

    let store = open_on(&disk);
    assert_eq!(store.get(&key("before")).unwrap().bytes, value);
    disk.set_space_left(None);
    set_when_there_is_space(&store, &key("after"), &value).await;
}

#[tokio::test]
async fn a_store_that_was_killed_opens_on_a_disk_that_is_full_to_the_last_byte() {
    let name = "a_store_that_was_killed_opens_on_a_disk_that_is_full_to_the_last_byte";
    let Some(disk) = ForgetfulDisk::mount_or_skip(name) else { return };
    let plain = tempfile::tempdir().unwrap();
    let living = open(plain.path());
    let written: Vec<Key> = (0..20).map(|number| key(&format!("{number}"))).collect();
    for name in &written {
        set(&living, name, &"x".repeat(100 << 10)).await;
    }
    // As a kill leaves the files: everything is in the log, nothing was copied into the file.
    let dir = disk.path().join("store");
    std::fs::create_dir(&dir).unwrap();
    for file in std::fs::read_dir(plain.path()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), dir.join(file.file_name())).unwrap();
        std::fs::File::open(dir.join(file.file_name())).unwrap().sync_all().unwrap();
    }
    disk.set_space_left(Some(0));
    let store = open(&dir);
    assert!(written.iter().all(|name| store.get(name).is_some()));
    let there = store.commit(vec![put(&written[0], Expect::Absent, "1")], Durability::Group).await;
    assert!(matches!(there, Err(CommitError::Conflict { .. })), "{there:?}");
    for name in &written {
        store.commit(vec![delete(name, Expect::Any)], Durability::Group).await.expect("a deletion is taken");
    }
    // Whoever creates what is there learns that, on a full disk as well.
    let kept = key("kept");
    disk.set_space_left(None);
    set_when_there_is_space(&store, &kept, "1").await;
    disk.set_space_left(Some(0));
    while store.commit(vec![put(&key("fill"), Expect::Any, &"x".repeat(100 << 10))], Durability::Group).await.is_ok() {}
    assert!(store.usage().full);
    let there = store.commit(vec![put(&kept, Expect::Absent, "1")], Durability::Group).await;
    assert!(matches!(there, Err(CommitError::Conflict { .. })), "{there:?}");
}

#[tokio::test]
async fn deletions_make_space_on_a_full_disk() {
    let Some(disk) = ForgetfulDisk::mount_or_skip("deletions_make_space_on_a_full_disk") else { return };
    let store = open_on(&disk);
    set(&store, &key("before"), "1").await;
    disk.set_space_left(Some(6 << 20));
    let written = fill(&store, 100 << 10).await;
    assert!(store.usage().full);
    assert!(written.len() > 10, "{} objects", written.len());
    // Each deletion writes a last version, so more is written than the reserve has.
    let deletions = written.iter().map(|name| {
        let last = "x".repeat(100 << 10);
        machinery_store::Op::Delete {
            key: name.clone(),
            expect: Expect::Any,
            final_bytes: Box::new(move |_| last.into()),
        }
    });
    for deletion in deletions {
        store.commit(vec![deletion], Durability::Group).await.expect("a deletion is taken on a full disk");
    }
    // Nothing but the deletions made space.
    set_when_there_is_space(&store, &key("after"), &"x".repeat(200 << 10)).await;
    assert!(!store.usage().full);
    drop(store);
    let store = open_on(&disk);
    assert_eq!(names(&store.range(MAPS, None, None, None, None).unwrap().items), ["after", "before"]);
}

#[tokio::test]
async fn deletions_are_taken_when_others_have_filled_the_rest_of_the_disk() {
    let name = "deletions_are_taken_when_others_have_filled_the_rest_of_the_disk";
    let Some(disk) = ForgetfulDisk::mount_or_skip(name) else { return };
    let store = open_on(&disk);
    disk.set_space_left(Some(24 << 20));
    let written = fill(&store, 100 << 10).await;
    assert!(written.len() > 60, "{} objects", written.len());
    let mut written = written.iter();
    let mut other = std::fs::File::create(disk.path().join("other")).unwrap();
    let reserve = disk.path().join("reserve");
    // The store takes back what a deletion has left of its reserve after it has answered.
    let mut fill_rest = || {
        let started = Instant::now();
        while std::fs::metadata(&reserve).map_or(0, |reserve| reserve.len()) < 512 << 10 {
            assert!(started.elapsed() < Duration::from_secs(20), "some of the reserve is kept");
            std::thread::sleep(Duration::from_millis(1));
        }
        for bytes in [1 << 20, 4096] {
            while std::io::Write::write_all(&mut other, &vec![0; bytes]).is_ok() {}
        }
    };
    for _ in 0..20 {
        fill_rest();
        let name = written.next().unwrap();
        store.commit(vec![delete(name, Expect::Any)], Durability::Group).await.expect("a deletion is taken");
    }
    fill_rest();
    drop(store);
    let store = open_on(&disk);
    fill_rest();
    for name in written.by_ref().take(20) {
        store.commit(vec![delete(name, Expect::Any)], Durability::Group).await.expect("after a restart, too");
        fill_rest();
    }
}

#[tokio::test]
async fn what_leads_to_a_deletion_is_taken_on_a_full_disk() {
    let Some(disk) = ForgetfulDisk::mount_or_skip("what_leads_to_a_deletion_is_taken_on_a_full_disk") else { return };
    let store = open_on(&disk);
    set(&store, &key("before"), "1").await;
    disk.set_space_left(Some(6 << 20));
    let written = fill(&store, 100 << 10).await;
    assert!(written.len() > 10, "{} objects", written.len());
    // Three times as much as the reserve has, if nothing of it were given back.
    for round in 0..3 {
        for name in &written {
            let marked = put(name, Expect::Present, &format!("{round}{}", "m".repeat(100 << 10)));
            store.commit_deletion(vec![marked], Durability::Group).await.expect("a mark is taken on a full disk");
            let rejected = store.commit(vec![put(&key("more"), Expect::Any, "1")], Durability::Group).await;
            assert!(matches!(rejected, Err(CommitError::Full)), "{rejected:?}");
        }
    }
    for name in &written {
        store.commit(vec![delete(name, Expect::Any)], Durability::Group).await.expect("so is the deletion");
    }
    set_when_there_is_space(&store, &key("after"), &"x".repeat(200 << 10)).await;
}

#[tokio::test]
async fn a_lazy_write_that_fits_does_not_make_a_full_disk_one_with_space() {
    let Some(disk) = ForgetfulDisk::mount_or_skip("a_lazy_write_that_fits_does_not_make_a_full_disk_one_with_space")
    else {
        return;
    };
    let store = open_on(&disk);
    set(&store, &key("before"), "1").await;
    disk.set_space_left(Some(1 << 20));
    fill(&store, 50 << 10).await;
    // Space for a lease, not for the reserve.
    disk.set_space_left(Some(300 << 10));
    let lease = Key::new(LEASES, "kube-node-lease", "n1");
    let groups = store.usage().commit_groups;
    let started = Instant::now();
    while store.usage().commit_groups < groups + 3 && started.elapsed() < Duration::from_secs(20) {
        store.commit(vec![put(&lease, Expect::Any, "beat")], Durability::Lazy).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(store.usage().full);
    }
    let rejected = store.commit(vec![put(&key("more"), Expect::Any, "1")], Durability::Group).await;
    assert!(matches!(rejected, Err(CommitError::Full)), "{rejected:?}");
}

#[tokio::test]
async fn the_write_ahead_log_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let commits: Vec<_> = (0..600)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move { set(&store, &key(&format!("{}", number % 50)), &"x".repeat(200 << 10)).await })
        })
        .collect();
    for commit in commits {
        commit.await.unwrap();
    }
    let log = std::fs::metadata(dir.path().join("objects.sqlite-wal")).unwrap().len();
    assert!(log <= 16 << 20, "120 MB were written in one go, the log has {log} B");
}
