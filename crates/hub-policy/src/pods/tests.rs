use machinery_kinds::Registry;
use machinery_server::Identity;
use serde_json::json;

use super::*;

/// Why a pod is refused.
fn refusals(spec: Value) -> Vec<String> {
    let registry = Registry::builtin();
    let identity = Identity::new("admin", ["system:masters"]);
    let dir = tempfile::tempdir().unwrap();
    let store = machinery_store::Store::open(dir.path(), machinery_store::StoreOptions::default()).unwrap();
    let warnings = std::cell::RefCell::default();
    let request = AdmissionRequest {
        operation: Operation::Create,
        info: registry.resource("", "v1", "pods").unwrap(),
        subresource: None,
        namespace: "default",
        name: "web",
        identity: &identity,
        old: None,
        dry_run: false,
        store: &store,
        warnings: &warnings,
        commits: &std::cell::RefCell::default(),
    };
    match PodRuntimeClass.validate(&request, &json!({"spec": spec})) {
        Ok(()) => Vec::new(),
        Err(AdmissionError::Invalid(errors)) => errors.iter().map(ToString::to_string).collect(),
        Err(other) => vec![other.to_string()],
    }
}

fn check(spec: Value, expected: &[&str]) {
    let found = refusals(spec);
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for (found, part) in found.iter().zip(expected) {
        assert!(found.contains(part), "{found} has no {part}");
    }
}

#[test]
fn a_pod_that_no_node_runs_is_stored() {
    check(json!({"containers": [{"image": "nginx"}]}), &[]);
    check(json!({"runtimeClassName": "gvisor", "containers": []}), &[]);
}

#[test]
fn what_a_runtime_cannot_honour_is_named_field_by_field() {
    let process = |container: Value| json!({"runtimeClassName": "selvedge-process", "containers": [container]});
    check(process(json!({"image": "file:///bin/sleep", "ports": [{"containerPort": 80}]})), &[]);
    check(
        process(json!({"image": "nginx"})),
        &["containers[0].image: Invalid value: \"nginx\": selvedge-process runs files"],
    );
    check(
        process(json!({
            "image": "file:///bin/sleep", "tty": true, "securityContext": {"privileged": true},
            "ports": [{"hostPort": 80}],
        })),
        &["privileged", "tty", "hostPort"],
    );
    let on_host = |host_port: u16| {
        json!({"runtimeClassName": "selvedge-process", "hostNetwork": true, "containers": [
            {"image": "file:///bin/sleep", "ports": [{"containerPort": 9100, "hostPort": host_port}]}]})
    };
    check(on_host(9100), &[]);
    check(on_host(9101), &["hostPort"]);
    check(
        json!({
            "runtimeClassName": "selvedge-wasm", "hostPID": true, "containers": [{"image": "file:///x.wasm"}],
            "volumes": [{"name": "a", "configMap": {}}, {"name": "b", "persistentVolumeClaim": {}}],
        }),
        &["spec.hostPID", "spec.volumes[1].persistentVolumeClaim"],
    );
}
