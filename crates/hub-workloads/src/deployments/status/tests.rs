//! Tests of `status`: what a Deployment says of its rollout, as data.

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn deployment(replicas: i64, status: Value) -> Deployment {
    let spec = json!({
        "replicas": replicas, "progressDeadlineSeconds": 600,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
    });
    serde_json::from_value(json!({"metadata": {"name": "web", "generation": 2}, "spec": spec, "status": status}))
        .unwrap()
}

fn set(name: &str, replicas: i64, present: i64, available: i64) -> Set {
    let status = json!({"replicas": present, "readyReplicas": available, "availableReplicas": available});
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"replicas": replicas}, "status": status}))
        .unwrap()
}

fn progressing(reason: &str, second: i64) -> Value {
    let time = hub_runtime::events::seconds(at(second));
    json!({"type": "Progressing", "status": "True", "reason": reason, "lastUpdateTime": time, "lastTransitionTime": time})
}

/// The reason of the condition `Progressing` after a run at second 1000, with the time of its last update.
fn judged(deployment: &Deployment, sets: &[&Set], new: Option<&Set>) -> (String, String) {
    let mut status = counted(deployment, sets, new, at(1000));
    judge_progress(deployment, sets, new, None, &mut status, at(1000));
    let conditions = conditions(&status);
    let found = crate::status::find(&conditions, PROGRESSING).cloned().unwrap_or_default();
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    (text("reason"), text("lastUpdateTime"))
}

#[test]
fn a_status_adds_up_what_the_sets_say() {
    let (old, new) = (set("old", 2, 2, 2), set("new", 3, 3, 1));
    let status = counted(&deployment(4, json!({})), &[&old, &new], Some(&new), at(1));
    let expected = [
        ("replicas", 5),
        ("updatedReplicas", 3),
        ("readyReplicas", 3),
        ("availableReplicas", 3),
        ("unavailableReplicas", 2),
        ("terminatingReplicas", 0),
        ("observedGeneration", 2),
    ];
    for (field, number) in expected {
        assert_eq!(status[field], number, "{field}");
    }
    assert_eq!(status["conditions"][0]["reason"], "MinimumReplicasAvailable");
    let status = counted(&deployment(5, json!({})), &[&old, &new], Some(&new), at(1));
    assert_eq!(status["conditions"][0]["status"], "False", "a quarter of five rounds down to one");
}

#[test]
fn a_rollout_that_makes_no_step_in_time_is_timed_out() {
    let now = "1970-01-01T00:16:40Z";
    let stuck = set("new", 2, 2, 1);
    let with = |condition: Value| {
        let status = json!({"replicas": 2, "updatedReplicas": 2, "readyReplicas": 1, "availableReplicas": 1, "conditions": [condition]});
        deployment(2, status)
    };
    let check = |deployment: &Deployment, set: &Set, reason: &str| {
        assert_eq!(judged(deployment, &[set], Some(set)).0, reason);
    };
    check(&with(progressing("ReplicaSetUpdated", 401)), &stuck, "ReplicaSetUpdated");
    check(&with(progressing("ReplicaSetUpdated", 400)), &stuck, "ProgressDeadlineExceeded");
    // A step after that begins anew.
    let more = set("new", 2, 2, 2);
    check(&with(progressing("ProgressDeadlineExceeded", 100)), &more, "NewReplicaSetAvailable");
    let stepped = judged(&deployment(3, with(progressing("ReplicaSetUpdated", 100)).status), &[&more], Some(&more));
    assert_eq!(stepped, ("ReplicaSetUpdated".to_owned(), now.to_owned()));
    // What is complete may lose a pod: that is no rollout.
    check(&with(progressing("NewReplicaSetAvailable", 1)), &stuck, "NewReplicaSetAvailable");
    let mut without = with(progressing("ReplicaSetUpdated", 1));
    without.spec.progress_deadline_seconds = None;
    check(&without, &stuck, "");
}

#[test]
fn it_is_looked_at_again_when_its_time_is_over() {
    let of = |status: Value| look_again(&deployment(2, json!({})), &status, at(1000));
    let rolling = json!({"replicas": 2, "updatedReplicas": 1, "conditions": [progressing("ReplicaSetUpdated", 700)]});
    assert_eq!(of(rolling), Some(Duration::from_secs(301)));
    let complete = json!({
        "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2, "conditions": [progressing("ReplicaSetUpdated", 700)],
    });
    assert_eq!(of(complete), None);
    assert_eq!(of(json!({"conditions": [progressing("ProgressDeadlineExceeded", 1)]})), None);
    assert_eq!(of(json!({})), None);
}

#[test]
fn a_pause_is_no_lack_of_progress() {
    let with = |reason: &str, is_paused: bool| {
        let mut deployment = deployment(1, json!({"conditions": [progressing(reason, 1)]}));
        deployment.spec.paused = is_paused;
        pause(&deployment).map(|(reason, _)| reason)
    };
    assert_eq!(with("ReplicaSetUpdated", true), Some("DeploymentPaused"));
    assert_eq!(with("DeploymentPaused", true), None);
    assert_eq!(with("DeploymentPaused", false), Some("DeploymentResumed"));
    assert_eq!(with("DeploymentResumed", false), None);
    assert_eq!(with("ProgressDeadlineExceeded", true), None);
}

#[test]
fn a_failure_of_a_set_is_the_deployments() {
    let failure = json!({"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "no"});
    let mut new = set("new", 2, 0, 0);
    new.status.conditions.push(failure);
    let before = deployment(2, json!({}));
    let mut status = counted(&before, &[&new], Some(&new), at(1));
    judge_progress(&before, &[&new], Some(&new), None, &mut status, at(1));
    let has_failed = |status: &Value| crate::status::find(&conditions(status), "ReplicaFailure").is_some();
    assert!(has_failed(&status));
    new.status.conditions.clear();
    let before = deployment(2, status);
    let mut status = counted(&before, &[&new], Some(&new), at(2));
    judge_progress(&before, &[&new], Some(&new), None, &mut status, at(2));
    assert!(!has_failed(&status));
}

#[test]
fn what_waits_for_nodes_or_a_canary_does_not_time_out() {
    let reason_of = |reason: &str, waits_for| {
        let deployment = deployment(
            3,
            json!({
                "replicas": 3, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2,
                "conditions": [progressing(reason, 100)],
            }),
        );
        let (old, new) = (set("old", 1, 1, 0), set("new", 2, 2, 2));
        let mut status = counted(&deployment, &[&old, &new], Some(&new), at(1000));
        judge_progress(&deployment, &[&old, &new], Some(&new), waits_for, &mut status, at(1000));
        let is_awaited = look_again(&deployment, &status, at(1000)).is_some();
        let conditions = conditions(&status);
        let found = crate::status::find(&conditions, PROGRESSING).cloned().unwrap_or_default();
        (found["reason"].as_str().unwrap_or_default().to_owned(), is_awaited)
    };
    let said = |reason: &str, is_awaited| (reason.to_owned(), is_awaited);
    assert_eq!(reason_of("ReplicaSetUpdated", None), said("ProgressDeadlineExceeded", false));
    assert_eq!(reason_of("ReplicaSetUpdated", Some(Waits::Nodes)), said("NodesSkipped", false));
    assert_eq!(reason_of("ReplicaSetUpdated", Some(Waits::AllNodes)), said("NodesSkipped", false));
    assert_eq!(reason_of("ReplicaSetUpdated", Some(Waits::Canary)), said("CanaryWaiting", false));
    assert_eq!(reason_of("ProgressDeadlineExceeded", Some(Waits::Nodes)), said("NodesSkipped", false));
    // The node is back: the deadline begins now.
    assert_eq!(reason_of("NodesSkipped", None), said("ReplicaSetUpdated", true));
}

#[test]
fn conditions_of_others_get_the_time_of_their_last_change() {
    let canary =
        |message: &str| json!({"type": "Canary", "status": "Unknown", "reason": "Waiting", "message": message});
    let first = with_update_times(&[], vec![canary("0 of 1")], at(100));
    assert_eq!(first[0]["lastUpdateTime"], json!(at(100).to_string()));
    assert_eq!(
        with_update_times(&first, vec![canary("0 of 1")], at(200)),
        first,
        "what is the same is not written again"
    );
    assert_eq!(
        with_update_times(&first, vec![canary("1 of 1")], at(200))[0]["lastUpdateTime"],
        json!(at(200).to_string())
    );
}
