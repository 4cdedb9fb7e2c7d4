use node_runtime::{ContainerId, ContainerState, PodRef};
use serde_json::{Value, json};

use super::*;

fn pod(resources: Value, policy: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "d", "uid": "u"},
        "spec": {"containers": [{"name": "a", "image": "i", "resources": resources, "resizePolicy": policy}]},
    }))
    .unwrap()
}

fn status(limits: Limits, requests: Requests) -> ContainerStatus {
    ContainerStatus {
        id: ContainerId { pod_uid: "u".into(), container: "a".into(), attempt: 0 },
        pod: PodRef::default(),
        state: ContainerState::Created,
        image: "i".into(),
        image_id: String::new(),
        limits,
        requests,
        log_path: "/l".into(),
        notices: vec![],
    }
}

#[test]
fn a_container_restarts_for_what_it_says_and_for_nothing_else() {
    let (cpu, memory) =
        (json!({"limits": {"cpu": "2", "memory": "1Mi"}}), json!({"limits": {"cpu": "1", "memory": "2Mi"}}));
    let policy = json!([{"resourceName": "cpu", "restartPolicy": "NotRequired"}, {"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    let limits = Limits { cpu_millis: Some(1000), memory_bytes: Some(1 << 20), pids: None };
    let now = status(limits, Requests { cpu_millis: Some(1000), memory_bytes: Some(1 << 20) });
    for (resources, policy, expected) in [
        (json!({"limits": {"cpu": "1000m", "memory": "1024Ki"}}), &policy, (false, false)),
        (cpu.clone(), &policy, (true, false)),
        (memory.clone(), &policy, (true, true)),
        (memory, &json!([]), (true, false)),
        (json!({"limits": {"cpu": "1", "memory": "1Mi"}, "requests": {"cpu": "1m"}}), &policy, (true, false)),
    ] {
        let pod = pod(resources, policy.clone());
        let container = &pod.spec.containers[0];
        assert_eq!((differs(container, &now), needs_restart(container, &now)), expected, "{:?}", container.resources);
    }
}

#[test]
fn what_is_in_force_is_what_was_given() {
    let limits = Limits { cpu_millis: Some(1500), memory_bytes: Some(5 << 20), pids: None };
    let now = status(limits, Requests { cpu_millis: Some(250), memory_bytes: Some(5 << 20) });
    let desired = pod(json!({"limits": {"cpu": "2", "ephemeral-storage": "1Gi"}}), json!([]));
    let found = with_resources_in_force(desired.clone(), std::slice::from_ref(&now));
    assert!(!differs(&found.spec.containers[0], &now) && !is_same(&found, &desired));
    assert_eq!(found.spec.containers[0].resources.limits["ephemeral-storage"], Quantity::Text("1Gi".into()));
    assert!(is_same(&with_resources_of(desired.clone(), &found), &found));
    assert!(is_same(&with_resources_in_force(desired.clone(), &[]), &desired));
}
