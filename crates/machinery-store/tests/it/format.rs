//! The format on disk outlives the code: a store of each format ever written is opened.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use machinery_store::{
    Durability, Encoded, EnvelopeCipher, Expect, IndexFields, Key, Op, Revision, Store, StoreOptions,
};

use crate::util::*;

fn fixture(format: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/format-{format}"))
}

/// Makes the fixture of the present format; run by hand once per format, never to overwrite one.
#[tokio::test]
#[ignore = "makes a fixture: STORE_FIXTURE=DIR cargo test -p machinery-store -- --ignored makes_a_fixture"]
async fn makes_a_fixture() {
    let Ok(dir) = std::env::var("STORE_FIXTURE") else { return };
    let store = Store::open(Path::new(&dir), options()).unwrap();
    let key = Key::new(PODS, "default", "web");
    let index: IndexFields = [("spec.nodeName", "n1"), ("label/app", "web")].into_iter().collect();
    for value in ["first", "second"] {
        let encoded = Encoded { bytes: value.into(), managed: Some("managed".into()), index: index.clone() };
        commit(&store, Op::Put { key: key.clone(), expect: Expect::Any, encode: Box::new(|_| encoded) }).await;
    }
    let deleted = Key::new(MAPS, "default", "gone");
    set(&store, &deleted, "short-lived").await;
    store.commit(vec![delete(&deleted, Expect::Any)], Durability::Group).await.unwrap();
    let lease = Key::new(LEASES, "kube-node-lease", "n1");
    store.commit(vec![put(&lease, Expect::Any, "beat")], Durability::Lazy).await.unwrap();
    set(&store, &Key::new("/secrets", "default", "token"), "sealed").await;
}

/// The key of the fixtures seals Secrets. Of format 1 there were none.
fn options() -> StoreOptions {
    let cipher = EnvelopeCipher::new(&[42; 32], ["/secrets"]);
    StoreOptions { cipher: Some(Arc::new(cipher)), reserve_bytes: 0, ..StoreOptions::default() }
}

fn check_fixture(store: &Store) {
    let pod = store.get(&Key::new(PODS, "default", "web")).unwrap();
    assert_eq!((pod.bytes.as_ref(), pod.revision, pod.created), (&b"second"[..], Revision(2), Revision(1)));
    assert_eq!((pod.field("spec.nodeName"), pod.field("label/app")), (Some("n1"), Some("web")));
    assert!(store.get(&Key::new(MAPS, "default", "gone")).is_none());
    assert_eq!(store.get(&Key::new(LEASES, "kube-node-lease", "n1")).unwrap().bytes, "beat");
}

#[tokio::test]
async fn a_store_of_format_1_is_taken_over() {
    let dir = copy_of(&fixture(1));
    let store = Store::open(dir.path(), options()).unwrap();
    check_fixture(&store);
    assert_eq!(store.current(), Revision(5));
    let new = Key::new("/secrets", "default", "new");
    assert_eq!(set(&store, &new, "1").await, Revision(6));
    drop(store);
    assert_eq!(fs::read_to_string(dir.path().join("VERSION")).unwrap(), "selvedge-store 2\n");
    let store = Store::open(dir.path(), options()).unwrap();
    check_fixture(&store);
    assert_eq!(store.get(&new).unwrap().bytes, "1");
}

#[tokio::test]
async fn a_store_of_format_2_opens() {
    let dir = copy_of(&fixture(2));
    let store = Store::open(dir.path(), options()).unwrap();
    check_fixture(&store);
    assert_eq!(store.get(&Key::new(PODS, "default", "web")).unwrap().managed.as_deref(), Some(&b"managed"[..]));
    assert_eq!(store.get(&Key::new("/secrets", "default", "token")).unwrap().bytes, "sealed");
    assert_eq!(set(&store, &Key::new(MAPS, "default", "new"), "1").await, Revision(7));
}
