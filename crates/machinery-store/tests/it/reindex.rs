//! Rows of an earlier program get the index fields that today's extracts.

use std::path::Path;
use std::sync::Arc;

use machinery_store::{
    CommitError, EnvelopeCipher, Expect, IndexFields, Key, Revision, RowCipher, Store, StoreOptions,
};
use testkit::forgetful::ForgetfulDisk;

use crate::util::*;

const SECRETS: &str = "/secrets";

fn open_at(dir: &Path, index_version: u32) -> Store {
    let cipher: Arc<dyn RowCipher> = Arc::new(EnvelopeCipher::new(&[7; 32], [SECRETS]));
    let options =
        StoreOptions { indexed_fields: vec!["refs"], index_version, cipher: Some(cipher), ..StoreOptions::default() };
    Store::open(dir, options).unwrap()
}

fn refs(value: &str) -> IndexFields {
    [("refs", value), ("label:a", "b")].into_iter().collect()
}

fn found(store: &Store, resource: &str, value: &str) -> Vec<String> {
    let range = store.range_where(resource, ("refs", value), None, None, None, None).unwrap();
    names(&range.items).into_iter().map(str::to_owned).collect()
}

#[tokio::test]
async fn objects_are_found_by_fields_that_they_get_later_and_nobody_sees_a_change() {
    let dir = tempfile::tempdir().unwrap();
    let (pod, secret) = (Key::new(PODS, "default", "web"), Key::new(SECRETS, "default", "token"));
    let store = open_at(dir.path(), 0);
    assert!(!store.is_index_stale(), "a new store has the fields of its program");
    let of_pod = set(&store, &pod, "first").await;
    let of_secret = set(&store, &secret, "sealed text").await;
    let lease = Key::new(LEASES, "kube-node-lease", "n1");
    let of_lease =
        store.commit(vec![put(&lease, Expect::Any, "beat")], machinery_store::Durability::Lazy).await.unwrap()[0];
    drop(store);

    let store = open_at(dir.path(), 1);
    assert!(store.is_index_stale());
    assert_eq!(found(&store, PODS, "x"), [""; 0]);
    let mut watch = store.watch(PODS, of_pod).unwrap();
    let fields = vec![
        (pod.clone(), of_pod, refs("x")),
        (secret.clone(), of_secret, refs("x")),
        (lease.clone(), of_lease, refs("x")),
    ];
    store.reindex(fields).await.unwrap();
    assert!(store.is_index_stale(), "more may come");
    store.finish_reindex().await.unwrap();
    assert!(!store.is_index_stale());
    assert_eq!(store.current(), of_lease, "no revision is spent");
    assert_eq!(found(&store, PODS, "x"), ["web"]);

    // What happens next is the first that watchers see, and what was there before has its fields.
    let next = set(&store, &pod, "second").await;
    let change = drain(&mut watch, next).await.remove(0);
    assert_eq!((change.revision, &*change.object.bytes), (next, &b"second"[..]));
    assert!(change.previous.as_ref().is_some_and(|previous| previous.has_field("refs", "x")));
    drop((watch, store));

    let files: Vec<u8> =
        std::fs::read_dir(dir.path()).unwrap().flat_map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
    assert!(!files.windows(11).any(|window| window == b"sealed text"), "a sealed row stays sealed");
    let store = open_at(dir.path(), 1);
    assert!(!store.is_index_stale(), "once is enough");
    for (key, revision) in [(&secret, of_secret), (&lease, of_lease)] {
        let object = store.get(key).unwrap();
        assert_eq!((object.revision, object.created), (revision, revision));
        assert_eq!(found(&store, &key.resource, "x"), [&*key.name]);
    }
    assert_eq!(
        found(&store, PODS, "x"),
        [""; 0],
        "the version that came later has the fields that it was written with"
    );
    assert_eq!(store.get(&pod).unwrap().created, of_pod);
    drop(store);
    assert!(open_at(dir.path(), 2).is_index_stale());
}

#[tokio::test]
async fn an_object_that_was_written_since_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_at(dir.path(), 0);
    let pod = Key::new(PODS, "default", "web");
    let first = set(&store, &pod, "first").await;
    commit(&store, put_indexed(&pod, Expect::Any, "second", &[("refs", "new")])).await;
    let absent = Key::new(PODS, "default", "absent");
    store.reindex(vec![(pod, first, refs("old")), (absent, Revision(1), refs("old"))]).await.unwrap();
    assert_eq!((found(&store, PODS, "old"), found(&store, PODS, "new")), (vec![], vec!["web".to_owned()]));
}

#[tokio::test]
async fn on_a_full_disk_objects_have_their_fields_until_the_next_start() {
    let Some(disk) = ForgetfulDisk::mount_or_skip("on_a_full_disk_objects_have_their_fields_until_the_next_start")
    else {
        return;
    };
    let store = open_at(disk.path(), 0);
    let pod = Key::new(PODS, "default", "web");
    let revision = set(&store, &pod, "first").await;
    drop(store);
    disk.set_space_left(Some(0));
    std::fs::remove_file(disk.path().join("reserve")).unwrap();
    let store = open_at(disk.path(), 1);
    let rejected = store.reindex(vec![(pod.clone(), revision, refs("x"))]).await;
    assert!(matches!(rejected, Err(CommitError::Full)), "{rejected:?}");
    assert_eq!(found(&store, PODS, "x"), ["web"]);
    assert!(store.finish_reindex().await.is_err() && store.is_index_stale());
    drop(store);
    disk.set_space_left(None);
    let store = open_at(disk.path(), 1);
    assert!(store.is_index_stale());
    store.reindex(vec![(pod, revision, refs("x"))]).await.unwrap();
    store.finish_reindex().await.unwrap();
}
