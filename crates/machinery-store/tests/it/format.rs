//! The format on disk outlives the code: a store of each format ever written is opened.

use std::fs;
use std::path::{Path, PathBuf};

use machinery_store::{Durability, Expect, Key, Revision};

use crate::util::*;

fn fixture(format: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/format-{format}"))
}

/// Makes the fixture of the present format; run by hand once per format, never to overwrite one.
#[tokio::test]
#[ignore = "makes a fixture: STORE_FIXTURE=DIR cargo test -p machinery-store -- --ignored makes_a_fixture"]
async fn makes_a_fixture() {
    let Ok(dir) = std::env::var("STORE_FIXTURE") else { return };
    let store = open(Path::new(&dir));
    let key = Key::new(PODS, "default", "web");
    let fields = [("spec.nodeName", "n1"), ("label/app", "web")];
    for value in ["first", "second"] {
        let op = put_indexed(&key, Expect::Any, value, &fields);
        store.commit(vec![op], Durability::Group).await.unwrap();
    }
    let gone = Key::new(MAPS, "default", "gone");
    set(&store, &gone, "short-lived").await;
    store.commit(vec![delete(&gone, Expect::Any)], Durability::Group).await.unwrap();
    let lease = Key::new(LEASES, "kube-node-lease", "n1");
    store.commit(vec![put(&lease, Expect::Any, "beat")], Durability::Lazy).await.unwrap();
}

#[tokio::test]
async fn a_store_of_format_1_opens() {
    let dir = tempfile::tempdir().unwrap();
    for file in fs::read_dir(fixture(1)).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
    }
    let store = open(dir.path());
    let pod = store.get(&Key::new(PODS, "default", "web")).unwrap();
    assert_eq!((pod.bytes.as_ref(), pod.revision, pod.created), (&b"second"[..], Revision(2), Revision(1)));
    assert_eq!((pod.field("spec.nodeName"), pod.field("label/app")), (Some("n1"), Some("web")));
    assert!(store.get(&Key::new(MAPS, "default", "gone")).is_none());
    assert_eq!(store.get(&Key::new(LEASES, "kube-node-lease", "n1")).unwrap().bytes, "beat");
    assert_eq!(store.current(), Revision(5));
    assert_eq!(set(&store, &Key::new(MAPS, "default", "new"), "1").await, Revision(6));
}
