use serde_json::json;

use super::*;

#[test]
fn selectors_are_encoded() {
    assert_eq!(encode("spec.nodeName=press-4"), "spec.nodeName%3Dpress-4");
    assert_eq!(encode("selvedge.dev/node=ü"), "selvedge.dev%2Fnode%3D%C3%BC");
}

#[test]
fn a_pod_is_kept_without_bookkeeping() {
    let pod = json!({"metadata": {"uid": "u", "managedFields": [{}]}, "spec": {}});
    let kept: Value = serde_json::from_slice(&trimmed(pod)).unwrap();
    assert_eq!(kept, json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"uid": "u"}, "spec": {}}));
}

#[tokio::test]
async fn an_assignment_with_entries_in_any_part_is_present_and_remembered() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("node/pki")).unwrap();
    let store = Arc::new(Store::open(dir.path(), tokio_util::task::TaskTracker::new().token()).unwrap());
    let (present, seen) = watch::channel(false);
    let mut source = Assignment { node: "n".into(), store: store.clone(), present, parts: BTreeMap::new() };
    let part = |name: &str, entries: Value| json!({"metadata": {"name": name}, "spec": {"entries": entries}});
    source.replace(vec![part("n", json!([])), part("n.part-1", json!([{"kind": "Rule"}]))]).await.unwrap();
    assert!(*seen.borrow() && store.assignment_present());
    source.change(part("n.part-1", json!([{"kind": "Rule"}])), true).await.unwrap();
    assert!(!*seen.borrow() && !store.assignment_present());
}

#[tokio::test]
async fn a_list_tells_who_reports_statuses_which_pods_there_are() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("node/pki")).unwrap();
    let store = Arc::new(Store::open(dir.path(), tokio_util::task::TaskTracker::new().token()).unwrap());
    let (commands, _taken) = mpsc::channel(8);
    let (publications, mut published) = mpsc::channel(8);
    let mut source = Pods { node: "n".into(), store, commands, publications };
    source.replace(vec![json!({"metadata": {"uid": "u", "name": "p", "namespace": "d"}})]).await.unwrap();
    assert!(matches!(published.recv().await, Some(Publication::Shown { uid, .. }) if uid == "u"));
    let listed = published.recv().await;
    assert!(matches!(&listed, Some(Publication::Listed { uids }) if uids.iter().eq(["u"])), "{listed:?}");
}
