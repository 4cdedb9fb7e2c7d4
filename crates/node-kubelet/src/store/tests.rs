use std::sync::{Arc, mpsc};

use serde_json::json;
use tokio_util::task::TaskTracker;

use super::*;

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("node/pki")).unwrap();
    dir
}

fn open(dir: &tempfile::TempDir) -> Store {
    Store::open(dir.path(), TaskTracker::new().token()).unwrap()
}

fn secret() -> ObjectKey {
    ObjectKey { kind: ObjectKind::Secret, namespace: "d".into(), name: "s".into() }
}

fn files_under(path: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_under(&path)) } else { files.push(path) }
    }
    files
}

#[test]
fn a_restart_finds_everything_again() {
    let dir = folder();
    let state = PodState { start_time: Some(Timestamp::from_second(5).unwrap()), failure: None };
    {
        let store = open(&dir);
        store.replace_pods(&[("a".into(), "{}".into()), ("b".into(), "{}".into())]).unwrap();
        store.replace_pods(&[("b".into(), "{\"x\":1}".into())]).unwrap();
        store.put_pod_state("b", &state).unwrap();
        assert!(store.put_object(&secret(), Some(&json!({"data": {"k": "djE="}}))).unwrap());
        assert!(!store.put_object(&secret(), Some(&json!({"data": {"k": "djE="}}))).unwrap());
        store.put_assignment_present(true).unwrap();
    }
    let store = open(&dir);
    assert_eq!(store.pods(), [("b".to_owned(), Bytes::from_static(b"{\"x\":1}"))]);
    assert_eq!(store.pod_state("b"), state);
    assert_eq!(store.object(&secret()), Known::Present(json!({"data": {"k": "djE="}})));
    assert!(store.assignment_present());
    store.remove_pod("b").unwrap();
    assert_eq!(store.pod_state("b"), PodState::default());
}

#[test]
fn no_secret_stands_readable_on_disk() {
    let dir = folder();
    let store = open(&dir);
    store.put_object(&secret(), Some(&json!({"data": {"k": "VERY-SECRET-VALUE"}}))).unwrap();
    for file in files_under(&dir.path().join("node/store")) {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(17).any(|window| window == b"VERY-SECRET-VALUE"), "{}", file.display());
    }
}

#[test]
fn a_secret_of_another_key_is_as_good_as_never_fetched() {
    let dir = folder();
    open(&dir).put_object(&secret(), Some(&json!({"data": {}}))).unwrap();
    std::fs::remove_file(dir.path().join("node/pki/store.key")).unwrap();
    assert_eq!(open(&dir).object(&secret()), Known::Unknown);
}

#[test]
fn a_torn_tail_costs_the_last_change_only() {
    let dir = folder();
    {
        let store = open(&dir);
        store.put_pod("a", "first".into()).unwrap();
        store.put_pod("b", "second".into()).unwrap();
    }
    let newest =
        files_under(&dir.path().join("node/store")).into_iter().max_by_key(|p| std::fs::metadata(p).unwrap().len());
    let newest = newest.unwrap();
    let length = std::fs::metadata(&newest).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&newest).unwrap().set_len(length - 3).unwrap();
    let store = open(&dir);
    assert_eq!(store.pods(), [("a".to_owned(), Bytes::from_static(b"first"))]);
}

#[test]
fn an_absent_object_is_not_an_unknown_one_and_unused_ones_go() {
    let dir = folder();
    let store = open(&dir);
    assert_eq!(store.object(&secret()), Known::Unknown);
    store.put_object(&secret(), None).unwrap();
    assert_eq!(store.object(&secret()), Known::Absent);
    store.retain_objects(&BTreeSet::from([secret()])).unwrap();
    assert_eq!(store.object(&secret()), Known::Absent);
    store.retain_objects(&BTreeSet::new()).unwrap();
    assert_eq!(store.object(&secret()), Known::Unknown);
}

#[tokio::test]
async fn whoever_waits_for_its_end_may_open_it_again() {
    let (dir, tasks) = (folder(), TaskTracker::new());
    let store = Arc::new(Store::open(dir.path(), tasks.token()).unwrap());
    let (finish, told) = mpsc::channel();
    let writing = store.clone();
    // A write whose task was cancelled meanwhile.
    drop(tokio::task::spawn_blocking(move || {
        told.recv().unwrap();
        writing.put_assignment_present(true).unwrap();
    }));
    drop(store);
    tasks.close();
    assert!(futures::FutureExt::now_or_never(tasks.wait()).is_none(), "the folder is in use");
    finish.send(()).unwrap();
    tasks.wait().await;
    assert!(open(&dir).assignment_present());
}
