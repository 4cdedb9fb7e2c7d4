//! Tests of `podgc`: its decisions, as data.

use super::*;
use crate::testing::TestApi;
use hub_runtime::Change;
use hub_runtime::QueueOptions;

#[test]
fn a_pod_goes_only_when_nobody_answers_for_it() {
    let long = QUARANTINE;
    for (node, is_terminating, exists, absent_for, expected) in [
        ("gw-1", false, true, Duration::ZERO, Verdict::Keep),
        ("gw-1", true, true, long, Verdict::Keep),
        // Its node may join in a moment, and end it as it should.
        ("gw-2", true, false, Duration::ZERO, Verdict::Quarantine),
        ("gw-2", true, false, long, Verdict::DeleteOrphaned),
        ("gw-2", false, false, long - Duration::from_secs(1), Verdict::Quarantine),
        ("gw-2", false, false, long, Verdict::DeleteOrphaned),
        ("", false, false, long, Verdict::Keep),
        ("", true, false, Duration::ZERO, Verdict::DeleteUnplaced),
    ] {
        let time = is_terminating.then_some("2026-01-01T00:00:00Z");
        let pod = json!({"metadata": {"deletionTimestamp": time}, "spec": {"nodeName": node}}).to_string();
        let pod: PodView<'_> = serde_json::from_str(&pod).unwrap();
        assert_eq!(judge(&pod, exists, absent_for), expected, "{node} {is_terminating} {exists}");
    }
}

async fn pod_on(api: &TestApi, node: &str) -> Value {
    pod_called(api, "lost", node).await
}

async fn pod_called(api: &TestApi, name: &str, node: &str) -> Value {
    let container = json!({"name": "main", "image": "file:///bin/true"});
    let spec = json!({"nodeName": node, "runtimeClassName": "selvedge-process", "containers": [container]});
    api.make(Kind::Pod, json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec})).await
}

#[tokio::test]
async fn a_pod_does_not_fail_for_another_of_its_name() {
    let api = TestApi::start().await;
    let before = pod_on(&api, "gw-1").await;
    let object = api.context.reader.get(Kind::Pod, "default", "lost").unwrap();
    api.context.writer.delete(Kind::Pod, &before, Some(0)).await.unwrap();
    pod_on(&api, "gw-1").await;
    assert!(!fail(&object, None, &api.context.writer).await.unwrap());
    let after = api.find(Kind::Pod, ("default", "lost")).await.unwrap();
    assert_ne!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(after["status"]["phase"], "Pending");
}

#[tokio::test]
async fn each_absence_of_a_node_has_its_own_quarantine() {
    let api = TestApi::start().await;
    pod_on(&api, "gw-1").await;
    let gc = PodGc::new(api.context.clone());
    let next = gc.reconcile_pod("default", "lost").await.unwrap();
    assert_eq!(next, Next::After(QUARANTINE));
    // The node joins and is deleted; what was noted on a view that was older than its joining says nothing.
    let node = json!({"metadata": {"name": "gw-1"}});
    api.make(Kind::Node, node.clone()).await;
    let there = api.context.reader.get(Kind::Node, "", "gw-1").unwrap();
    let key = ("default".into(), "lost".into());
    gc.memory.lock().orphaned.insert(key, Instant::now().checked_sub(2 * QUARANTINE).unwrap());
    let node = api.find(Kind::Node, ("", "gw-1")).await.unwrap();
    api.context.writer.delete(Kind::Node, &node, None).await.unwrap();
    let queue = Queue::new(QueueOptions::default());
    gc.observe(&Event::Changed(Change { kind: Kind::Node, previous: Some(there), current: None }), &queue);
    assert_eq!(gc.reconcile_pod("default", "lost").await.unwrap(), Next::After(QUARANTINE));
    assert!(api.find(Kind::Pod, ("default", "lost")).await.is_some());
}

#[tokio::test]
async fn a_pod_of_a_node_that_never_was_has_its_time_whatever_became_of_others() {
    let api = TestApi::start().await;
    let gc = PodGc::new(api.context.clone());
    let queue = Queue::new(QueueOptions::default());
    let first = pod_called(&api, "first", "nowhere").await;
    api.context.writer.delete(Kind::Pod, &first, None).await.unwrap();
    assert_eq!(gc.reconcile_pod("default", "first").await.unwrap(), Next::After(QUARANTINE), "it is on its way out");
    let key = ("default".into(), "first".into());
    gc.memory.lock().orphaned.insert(key, Instant::now().checked_sub(QUARANTINE).unwrap());
    pod_called(&api, "second", "nowhere").await;
    let before = api.context.reader.get(Kind::Pod, "default", "first");
    assert_eq!(gc.reconcile_pod("default", "first").await.unwrap(), Next::OnChange);
    assert!(api.find(Kind::Pod, ("default", "first")).await.is_none());
    assert_eq!(gc.reconcile_pod("default", "second").await.unwrap(), Next::After(QUARANTINE));
    gc.observe(&Event::Changed(Change { kind: Kind::Pod, previous: before, current: None }), &queue);
    assert_eq!(gc.memory.lock().orphaned.len(), 1, "nothing is kept of pods that are deleted");
}

/// A Job counts its pods by their ends, and lets none go before.
#[tokio::test]
async fn a_pod_that_never_had_a_node_fails_before_it_goes() {
    let api = TestApi::start().await;
    let gc = PodGc::new(api.context.clone());
    let container = json!({"name": "main", "image": "file:///bin/true"});
    let spec = json!({"runtimeClassName": "selvedge-process", "containers": [container]});
    let metadata =
        json!({"name": "counted", "namespace": "default", "finalizers": ["batch.kubernetes.io/job-tracking"]});
    let pod = api.make(Kind::Pod, json!({"metadata": metadata, "spec": spec})).await;
    api.context.writer.delete(Kind::Pod, &pod, Some(0)).await.unwrap();
    gc.reconcile_pod("default", "counted").await.unwrap();
    let pod = api.find(Kind::Pod, ("default", "counted")).await.unwrap();
    assert_eq!(pod["status"]["phase"], "Failed");
    let patch = json!({"metadata": {"finalizers": null}});
    api.context.writer.merge(Kind::Pod, ("default", "counted"), &patch).await.unwrap();
    gc.reconcile_pod("default", "counted").await.unwrap();
    assert!(api.find(Kind::Pod, ("default", "counted")).await.is_none());
}
