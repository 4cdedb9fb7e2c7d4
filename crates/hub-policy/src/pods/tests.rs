use machinery_kinds::Registry;
use machinery_server::Identity;
use serde_json::json;

use super::*;

/// Why a pod is refused.
fn refusals(spec: Value) -> Vec<String> {
    rejected("pods", None, json!({"spec": spec}), None)
}

/// Why an object is refused, as a new one or as a change of another.
fn rejected(plural: &str, subresource: Option<&str>, object: Value, old: Option<&Value>) -> Vec<String> {
    let group = if plural == "pods" { "" } else { "apps" };
    let registry = Registry::builtin();
    let identity = Identity::new("admin", ["system:masters"]);
    let dir = tempfile::tempdir().unwrap();
    let store = machinery_store::Store::open(dir.path(), machinery_store::StoreOptions::default()).unwrap();
    let warnings = std::cell::RefCell::default();
    let request = AdmissionRequest {
        operation: if old.is_some() { Operation::Update } else { Operation::Create },
        info: registry.resource(group, "v1", plural).unwrap(),
        subresource,
        namespace: "default",
        name: "web",
        identity: &identity,
        old,
        dry_run: false,
        store: &store,
        warnings: &warnings,
        commits: &std::cell::RefCell::default(),
    };
    match PodRuntimeClass.validate(&request, &object) {
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
            "image": "file:///bin/sleep", "tty": true, "securityContext": {"seLinuxOptions": {"level": "s0"}},
            "ports": [{"containerPort": 80, "hostPort": 8080, "hostIP": "127.0.0.1"}],
        })),
        &[
            "containers[0].securityContext.seLinuxOptions: Forbidden: selvedge-process sets no SELinux label",
            "containers[0].tty: Forbidden: selvedge-process serves no attach",
        ],
    );
    let on_host = |host_port: u16| {
        json!({"runtimeClassName": "selvedge-process", "hostNetwork": true, "containers": [
            {"image": "file:///bin/sleep", "ports": [{"containerPort": 9100, "hostPort": host_port}]}]})
    };
    check(on_host(9100), &[]);
    check(
        json!({
            "runtimeClassName": "selvedge-wasm", "hostPID": true, "containers": [{"image": "file:///x.wasm"}],
            "volumes": [{"name": "a", "configMap": {}}, {"name": "b", "nfs": {"server": "s", "path": "/"}}],
        }),
        &["spec.hostPID", "spec.volumes[1].nfs"],
    );
}

#[test]
fn templates_are_held_to_what_their_pods_are() {
    let set = |spec: Value| json!({"spec": {"template": {"spec": spec}}});
    let spec = json!({"runtimeClassName": "selvedge-process", "dnsConfig": {"nameservers": ["192.0.2.1"]}});
    let found = rejected("daemonsets", None, set(spec), None);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("spec.template.spec.dnsConfig: Forbidden: selvedge-process gives"), "{found:?}");
    assert_eq!(rejected("daemonsets", None, set(json!({"dnsConfig": {}, "containers": []})), None), [""; 0]);
}

#[test]
fn an_object_keeps_what_it_was_stored_with_and_gets_no_more() {
    let pod = |image: &str, aliases: &str| {
        json!({"spec": {"runtimeClassName": "selvedge-process", "hostAliases": [{"ip": aliases}],
            "containers": [{"name": "a", "image": image}]}})
    };
    let old = pod("file:///bin/a", "192.0.2.1");
    assert_eq!(rejected("pods", None, pod("file:///bin/b", "192.0.2.1"), Some(&old)), [""; 0]);
    let found = rejected("pods", None, pod("nginx", "192.0.2.1"), Some(&old));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("image: Invalid value"), "{found:?}");
    // Its status and its debug containers are others' matters.
    assert_eq!(rejected("pods", Some("status"), pod("nginx", ""), Some(&old)), [""; 0]);
}

#[test]
fn a_container_that_runs_is_not_resized() {
    let pod = |class: &str, cpu: &str| {
        json!({"spec": {"runtimeClassName": class, "containers": [
            {"name": "a", "image": "file:///bin/a", "resources": {"limits": {"cpu": cpu}}}]}})
    };
    let resized = |class: &str, cpu: &str| rejected("pods", Some("resize"), pod(class, cpu), Some(&pod(class, "1")));
    assert_eq!(resized("selvedge-process", "1"), [""; 0]);
    assert_eq!(resized("gvisor", "2"), [""; 0]);
    let found = resized("selvedge-process", "2");
    assert!(found[0].starts_with("spec.containers: Forbidden: selvedge-process does not resize"), "{found:?}");
}
