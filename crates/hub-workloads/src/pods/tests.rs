//! Tests of `pods`: what the table keeps, as data.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn object(name: &str, owner: Option<(&str, &str, &str)>, status: Value) -> ObjectRef {
    let owners: Vec<Value> = owner
        .iter()
        .map(|(kind, name, uid)| {
            let version = if *kind == "ReplicaSet" { "apps/v1" } else { "v1" };
            json!({"apiVersion": version, "kind": kind, "name": name, "uid": uid, "controller": true})
        })
        .collect();
    let pod = json!({
        "metadata": {
            "name": name, "namespace": "shop", "uid": name, "creationTimestamp": "1970-01-01T00:01:40Z",
            "labels": {"app": "a"}, "ownerReferences": owners,
            "annotations": {"controller.kubernetes.io/pod-deletion-cost": "-7", "other": "x\"y"},
        },
        "spec": {"nodeName": "gw-1"},
        "status": status,
    });
    ObjectRef::watched("shop", name, 1, pod.to_string().into())
}

fn ready(at: &str) -> Value {
    json!({
        "phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": at}],
        "containerStatuses": [{"restartCount": 1}, {"restartCount": 4}],
    })
}

fn changed(previous: Option<ObjectRef>, current: Option<ObjectRef>) -> Event {
    Event::Changed(Change { kind: Kind::Pod, previous, current })
}

const SET: Option<(&str, &str, &str)> = Some(("ReplicaSet", "web", "u-1"));

#[test]
fn a_pod_moves_with_its_controller() {
    let mut table = PodTable::new(&[Kind::ReplicaSet]);
    let key = (Kind::ReplicaSet, ("shop".into(), "web".into()));
    let names =
        |table: &PodTable, uid: &str| table.controlled_by(uid).map(|pod| pod.name.to_string()).collect::<Vec<_>>();
    let (own, orphan) = (object("a", SET, json!({})), object("a", None, json!({})));

    let concerned = table.apply(&changed(None, Some(own.clone())), at(200));
    assert_eq!((concerned.controllers, concerned.orphan), (vec![key.clone()], None));
    assert_eq!(names(&table, "u-1"), ["a"]);

    let concerned = table.apply(&changed(Some(own.clone()), Some(orphan.clone())), at(200));
    assert_eq!(concerned.controllers, std::slice::from_ref(&key));
    assert!(concerned.orphan.is_some());
    assert_eq!((names(&table, "u-1").len(), table.orphans_in("shop").count()), (0, 1));

    let concerned = table.apply(&changed(Some(orphan), Some(own.clone())), at(200));
    assert_eq!((concerned.controllers, table.orphans_in("shop").count()), (vec![key], 0));
    table.apply(&changed(Some(own), None), at(200));
    assert!(table.controlled.is_empty() && table.orphans.is_empty(), "nothing is kept of what is deleted");
}

#[test]
fn pods_of_other_kinds_are_nobodys_business() {
    let mut table = PodTable::new(&[Kind::ReplicaSet]);
    for owner in [("DaemonSet", "web", "u-1"), ("ReplicationController", "web", "u-1")] {
        let concerned = table.apply(&changed(None, Some(object("a", Some(owner), json!({})))), at(200));
        assert_eq!(concerned, Concerned::default());
    }
    assert!(table.controlled.is_empty() && table.orphans.is_empty());
}

#[test]
fn what_decisions_need_is_read() {
    let mut table = PodTable::new(&[Kind::ReplicaSet]);
    table.apply(&changed(None, Some(object("a", SET, ready("1970-01-01T00:02:00Z")))), at(200));
    let pod = table.controlled_by("u-1").next().unwrap();
    let expected = Pod {
        name: "a".into(),
        uid: "a".into(),
        node: "gw-1".into(),
        created: at(100),
        phase: Phase::Running,
        ready_since: Some(at(120)),
        labels: Arc::new([("app".into(), "a".into())]),
        deletion_cost: -7,
        restarts: 4,
        ..Pod::default()
    };
    assert_eq!(**pod, expected);
    assert!(pod.is_active());
}

#[test]
fn a_node_without_a_clock_is_not_believed_about_times() {
    let mut table = PodTable::new(&[Kind::ReplicaSet]);
    // Before the pod was created, or still to come: it is ready since it was seen so, which a list does not change.
    for (written, second) in [("1970-01-01T00:00:01Z", 200), ("2100-01-01T00:00:00Z", 300)] {
        let seen = object("a", SET, ready(written));
        table.apply(&changed(None, Some(seen.clone())), at(second));
        let listed = Event::Listed(Kind::Pod, Arc::new([seen.clone()]));
        table.apply(&listed, at(second + 50));
        table.apply(&changed(Some(seen.clone()), Some(seen.clone())), at(second + 60));
        assert_eq!(table.controlled_by("u-1").next().unwrap().ready_since, Some(at(second)));
        table.apply(&changed(Some(seen), None), at(second));
    }
}

#[test]
fn a_list_replaces_what_was_there() {
    let mut table = PodTable::new(&[Kind::ReplicaSet]);
    table.apply(&changed(None, Some(object("a", SET, json!({})))), at(1));
    table.apply(&changed(None, Some(object("b", None, json!({})))), at(1));
    let concerned = table.apply(&Event::Listed(Kind::Pod, Arc::new([object("c", SET, json!({}))])), at(2));
    assert_eq!(concerned, Concerned::default(), "a list concerns all");
    let names: Vec<&str> = table.controlled_by("u-1").map(|pod| &*pod.name).collect();
    assert_eq!((names, table.orphans_in("shop").count()), (vec!["c"], 0));
}

#[test]
fn pods_are_counted_by_their_labels_as_they_come_and_leave() {
    let mut table = PodTable::new(&[Kind::ReplicaSet]);
    let counted = |table: &PodTable| table.groups_of("u-1").map(|(_, group)| *group).collect::<Vec<_>>();
    let (new, up) = (object("a", SET, json!({})), object("a", SET, ready("1970-01-01T00:02:00Z")));
    let other = object("b", SET, ready("1970-01-01T00:02:00Z"));
    table.apply(&changed(None, Some(new.clone())), at(200));
    assert_eq!(counted(&table), [Group { pods: 1, active: 1, ready: 0, terminating: 0 }]);
    table.apply(&changed(Some(new), Some(up.clone())), at(200));
    table.apply(&changed(None, Some(other.clone())), at(200));
    assert_eq!(counted(&table), [Group { pods: 2, active: 2, ready: 2, terminating: 0 }]);
    let labels: Vec<SharedLabels> = table.controlled_by("u-1").map(|pod| pod.labels.clone()).collect();
    assert!(Arc::ptr_eq(&labels[0], &labels[1]), "pods of one template hold one copy of its labels");

    let mut leaving = up.value().unwrap();
    leaving["metadata"]["deletionTimestamp"] = "1970-01-01T00:03:00Z".into();
    let leaving = ObjectRef::watched("shop", "a", 2, leaving.to_string().into());
    table.apply(&changed(Some(up), Some(leaving.clone())), at(200));
    assert_eq!(counted(&table), [Group { pods: 2, active: 1, ready: 1, terminating: 1 }]);
    table.apply(&Event::Listed(Kind::Pod, Arc::from([leaving.clone(), other.clone()])), at(200));
    assert_eq!(counted(&table), [Group { pods: 2, active: 1, ready: 1, terminating: 1 }]);
    table.apply(&changed(Some(leaving), None), at(200));
    table.apply(&changed(Some(other), None), at(200));
    assert!(counted(&table).is_empty() && table.controlled.is_empty());
}

/// What a controller has created is counted once its own event has come, whatever a reader shows by then.
#[test]
fn a_table_says_how_far_it_has_heard() {
    let mut table = PodTable::new(&[Kind::ReplicaSet]);
    let at_revision = |revision, object: &ObjectRef| {
        ObjectRef::watched(object.namespace(), object.name(), revision, object.bytes().to_vec().into())
    };
    let (own, ended) = (object("a", SET, json!({})), object("b", None, json!({"phase": "Failed"})));
    assert_eq!((table.revision(), table.is_alive("u-1", "shop", "a", "a")), (0, false));
    table.apply(&changed(None, Some(at_revision(7, &own))), at(200));
    assert_eq!((table.revision(), table.is_alive("u-1", "shop", "a", "a")), (7, true));
    assert!(!table.is_alive("u-1", "shop", "a", "another") && !table.is_alive("u-2", "shop", "a", "a"));
    table.apply(&Event::Listed(Kind::Pod, [at_revision(7, &own), at_revision(9, &ended)].into()), at(200));
    assert_eq!((table.revision(), table.is_alive("u-1", "shop", "a", "a")), (9, true));
    table.apply(&changed(Some(at_revision(7, &own)), None), at(200));
    assert_eq!((table.revision(), table.is_alive("u-1", "shop", "a", "a")), (9, false), "it never goes back");
    // A set has adopted it, and deleted it as one too many, before either was heard of.
    table.apply(&changed(None, Some(object("c", None, json!({})))), at(200));
    assert!(table.is_alive("u-1", "shop", "c", "c") && !table.is_alive("u-1", "home", "c", "c"));
}
