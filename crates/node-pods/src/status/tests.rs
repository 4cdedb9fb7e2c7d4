use std::collections::BTreeMap;

use node_runtime::{ContainerId, ExitReason, Limits, PodRef, Requests};

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn exited(code: i32) -> ExitRecord {
    ExitRecord {
        version: 1,
        exit_code: code,
        signal: None,
        reason: if code == 0 { ExitReason::Completed } else { ExitReason::Error },
        message: String::new(),
        started_at: Some(at(10)),
        finished_at: at(20),
    }
}

fn container(name: &str, attempt: u32, state: ContainerState) -> ContainerStatus {
    ContainerStatus {
        id: ContainerId { pod_uid: "u".into(), container: name.into(), attempt },
        pod: PodRef { uid: "u".into(), namespace: "d".into(), name: "p".into() },
        state,
        image: "file:///bin/x".into(),
        image_id: "sha256:1".into(),
        limits: Limits::default(),
        requests: Requests::default(),
        log_path: "/l".into(),
        notices: vec![],
    }
}

fn running(name: &str) -> Observed {
    let state = ContainerState::Running { pid: 1, started_at: at(10) };
    Observed { current: Some(container(name, 0, state)), ready: true, started: true, ..Observed::default() }
}

fn ended(name: &str, code: i32, is_final: bool) -> Observed {
    Observed {
        current: Some(container(name, 0, ContainerState::Exited(exited(code)))),
        is_final,
        ..Observed::default()
    }
}

fn status(spec: Value, observed: &[(&str, Observed)], failure: Option<(&str, &str)>) -> Value {
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
    let observed: BTreeMap<&str, &Observed> = observed.iter().map(|(name, o)| (*name, o)).collect();
    let facts = Facts {
        pod: &pod,
        now: at(100),
        node_ip: Some("10.0.0.1".parse().unwrap()),
        pod_ips: &[],
        start_time: Some(at(5)),
        failure,
        is_disrupted: false,
        volumes_ready: true,
        ending: false,
        resize_in_progress: None,
        handler: "selvedge-process",
    };
    derive(&facts, |name| observed.get(name).copied(), &Value::Null)
}

fn condition<'a>(status: &'a Value, name: &str) -> &'a Value {
    status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == name).unwrap()
}

fn check_phase(policy: &str, observed: &[(&str, Observed)], expected: &str) {
    let spec = json!({"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]});
    assert_eq!(status(spec, observed, None)["phase"], expected, "{policy} {observed:?}");
}

#[test]
fn the_phase_follows_the_containers() {
    check_phase("Always", &[], "Pending");
    check_phase("Always", &[("a", running("a"))], "Pending");
    check_phase("Always", &[("a", running("a")), ("b", running("b"))], "Running");
    check_phase("Always", &[("a", ended("a", 1, false)), ("b", running("b"))], "Running");
    check_phase("Never", &[("a", ended("a", 0, true)), ("b", running("b"))], "Running");
    check_phase("Never", &[("a", ended("a", 0, true)), ("b", ended("b", 0, true))], "Succeeded");
    check_phase("Never", &[("a", ended("a", 0, true)), ("b", ended("b", 1, true))], "Failed");
}

#[test]
fn a_running_pod_is_ready_and_reports_its_addresses() {
    let status = status(json!({"containers": [{"name": "a", "image": "file:///bin/x"}]}), &[("a", running("a"))], None);
    for name in ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"] {
        assert_eq!(condition(&status, name)["status"], "True", "{name}");
    }
    assert_eq!(status["podIP"], "10.0.0.1");
    assert_eq!(status["startTime"], "1970-01-01T00:00:05Z");
    let container = &status["containerStatuses"][0];
    assert_eq!(container["state"]["running"]["startedAt"], "1970-01-01T00:00:10Z");
    assert_eq!(container["containerID"], "selvedge-process://u_a_0");
    assert_eq!(container["ready"], true);
}

#[test]
fn a_container_in_back_off_waits_and_shows_its_end_as_last_state() {
    let mut observed = ended("a", 3, false);
    observed.waiting = Some(Waiting { reason: "CrashLoopBackOff".into(), message: "back-off 10s".into() });
    let status = status(json!({"containers": [{"name": "a"}]}), &[("a", observed)], None);
    let container = &status["containerStatuses"][0];
    assert_eq!(container["state"]["waiting"]["reason"], "CrashLoopBackOff");
    assert_eq!(container["lastState"]["terminated"]["exitCode"], 3);
    assert_eq!(condition(&status, "Ready")["message"], "containers with unready status: [a]");
}

#[test]
fn an_ephemeral_container_waits_says_why_and_changes_nothing_else() {
    let spec = |ephemeral: Value| json!({"containers": [{"name": "a"}], "ephemeralContainers": ephemeral});
    let before = status(spec(json!([])), &[("a", running("a"))], None);
    assert_eq!(before.get("ephemeralContainerStatuses"), None);
    let mut one = status(spec(json!([{"name": "debug", "image": "busybox"}])), &[("a", running("a"))], None);
    let debug = &one["ephemeralContainerStatuses"][0];
    assert_eq!((&debug["name"], &debug["image"], &debug["ready"]), (&json!("debug"), &json!("busybox"), &json!(false)));
    let waiting = &debug["state"]["waiting"];
    assert_eq!(waiting["reason"], "NotSupported");
    assert!(waiting["message"].as_str().unwrap().contains("are run in pods of images only"), "{waiting}");
    // It is said once of each.
    assert_eq!(new_ephemeral(&before, &Value::Null), []);
    let said = new_ephemeral(&one, &before);
    assert_eq!(said.len(), 1);
    assert_eq!(said[0].0, "debug");
    assert!(said[0].1.starts_with("Ephemeral container debug is not started: "), "{said:?}");
    assert_eq!(new_ephemeral(&one, &one), []);
    one.as_object_mut().unwrap().remove("ephemeralContainerStatuses");
    assert_eq!(one, before, "the pod is as ready as it was");
}

#[test]
fn a_refused_pod_is_failed_with_its_reason_and_no_containers() {
    let status =
        status(json!({"containers": [{"name": "a"}]}), &[], Some(("UnsupportedRuntime", "no containers here")));
    assert_eq!(status["phase"], "Failed");
    assert_eq!(status["reason"], "UnsupportedRuntime");
    assert!(status.get("containerStatuses").is_none());
}

#[test]
fn a_condition_keeps_its_time_until_it_changes() {
    let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [{"name": "a"}]}})).unwrap();
    let facts = |now| Facts {
        pod: &pod,
        now: at(now),
        node_ip: None,
        pod_ips: &[],
        start_time: None,
        failure: None,
        is_disrupted: false,
        volumes_ready: true,
        ending: false,
        resize_in_progress: None,
        handler: "h",
    };
    let up = running("a");
    let first = derive(&facts(100), |_| None, &Value::Null);
    let second = derive(&facts(200), |_| None, &first);
    assert_eq!(first, second);
    let third = derive(&facts(300), |_| Some(&up), &second);
    assert_eq!(condition(&third, "Ready")["lastTransitionTime"], "1970-01-01T00:05:00Z");
    assert_eq!(condition(&third, "PodScheduled")["lastTransitionTime"], "1970-01-01T00:01:40Z");
}

#[test]
fn a_status_fits_whatever_programs_have_said() {
    let names: Vec<String> = (0..40).map(|number| format!("container-{number}")).collect();
    let containers: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
    let said = |message: &str| {
        let mut exit = exited(1);
        exit.message = message.to_owned();
        let state = ContainerState::Exited(exit);
        let observed =
            |name: &String| Observed { current: Some(container(name, 0, state.clone())), ..Observed::default() };
        let all: Vec<(&str, Observed)> = names.iter().map(|name| (name.as_str(), observed(name))).collect();
        status(json!({"containers": containers}), &all, None)
    };
    let message = |status: &Value| status["containerStatuses"][39]["state"]["terminated"]["message"].to_string();
    let bytes_max = api_edge::pod_status_bytes_max(40);
    // Each takes six bytes in JSON.
    let long = said(&"\0".repeat(4096));
    assert!(long.to_string().len() <= bytes_max, "{}", long.to_string().len());
    assert!(message(&long).contains("u0000"), "something of it is left");
    assert_eq!(long["containerStatuses"][39]["state"]["terminated"]["exitCode"], 1);
    let short = said("it was too warm");
    assert_eq!(message(&short), "\"it was too warm\"");
}
