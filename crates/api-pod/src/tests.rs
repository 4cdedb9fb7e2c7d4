//! That the table is whole, and that each row does what it says.

use std::collections::BTreeSet;
use std::path::Path;

use machinery_schema::types::{Field, Shape, Type};
use serde_json::json;

use super::*;

fn pod_spec() -> Type {
    Type::named("io.k8s.api.core.v1.PodSpec").expect("pods are published")
}

/// The struct that a field holds, one or many of them.
fn held(field: Field) -> Option<Type> {
    let mut shape = field.shape();
    loop {
        match shape {
            Shape::List(items) | Shape::Map(items) => shape = items.shape(),
            Shape::Struct(r#type) => return Some(r#type),
            _ => return None,
        }
    }
}

#[test]
fn every_field_of_a_pod_has_a_row_and_every_row_is_of_a_field() {
    let (mut todo, mut seen) = (vec![pod_spec()], BTreeSet::new());
    while let Some(r#type) = todo.pop() {
        if !seen.insert(r#type.go_name()) {
            continue;
        }
        let rows = rows(r#type.go_name()).unwrap_or_else(|| panic!("there is no table of {}", r#type.go_name()));
        let found: Vec<&str> = rows.iter().map(|row| row.field).collect();
        let published: Vec<&str> = r#type.fields().map(Field::name).collect();
        assert_eq!(found, published, "{}", r#type.go_name());
        for row in rows {
            let field = r#type.field(row.field).expect("compared above");
            let name = format!("{}.{}", r#type.go_name(), row.field);
            for does in Runtime::ALL.map(|runtime| row.does(runtime)) {
                match (does, held(field)) {
                    (Does::Fields(table), Some(held)) => {
                        assert_eq!(table, held.go_name(), "{name}");
                        todo.push(held);
                    }
                    (Does::Fields(table), None) => panic!("{name} has no fields, and is to be looked up in {table}"),
                    // What is honoured is honoured field by field: a new one within it needs a row.
                    (Does::Honoured, Some(_)) => panic!("{name} has fields: give it a table"),
                    _ => {}
                }
            }
        }
    }
    let tables: BTreeSet<&str> = TABLES.iter().map(|(name, _)| *name).collect();
    assert_eq!(tables, seen);
    assert_eq!(tables.len(), TABLES.len(), "one table for each type");
}

/// A value of a field that says something.
fn sample(shape: Shape) -> Value {
    match shape {
        Shape::Bool => json!(true),
        Shape::Int32 | Shape::Int64 | Shape::IntOrString => json!(7),
        Shape::Quantity => json!("1Gi"),
        Shape::List(items) => json!([sample(items.shape())]),
        Shape::Map(items) => json!({"example.com/one": sample(items.shape())}),
        Shape::Struct(r#type) => {
            let first = r#type.fields().next().expect("a struct has fields");
            json!({first.name(): sample(first.shape())})
        }
        _ => json!("Example"),
    }
}

/// Calls `visit` with each row of each field that a spec may have, its place from the spec on, and a spec with nothing but a
/// given value in it.
fn each_row(runtime: Runtime, visit: &mut impl FnMut(&str, Does, Field, &dyn Fn(Value) -> Value)) {
    each_row_of(runtime, pod_spec(), "spec", &|value| value, visit);
}

fn each_row_of(
    runtime: Runtime,
    r#type: Type,
    at: &str,
    around: &dyn Fn(Value) -> Value,
    visit: &mut impl FnMut(&str, Does, Field, &dyn Fn(Value) -> Value),
) {
    for row in rows(r#type.go_name()).expect("the table is whole") {
        let field = r#type.field(row.field).expect("the table is whole");
        let within = |value: Value| around(json!({row.field: value}));
        let path = format!("{at}.{}", row.field);
        match row.does(runtime) {
            Does::Fields(_) => {
                let is_list = matches!(field.shape(), Shape::List(_));
                let held = held(field).expect("the table is whole");
                let path = if is_list { format!("{path}[0]") } else { path };
                let inside = |value: Value| within(if is_list { json!([value]) } else { value });
                each_row_of(runtime, held, &path, &inside, visit);
            }
            does => visit(&path, does, field, &within),
        }
    }
}

#[test]
fn what_is_rejected_is_rejected_with_its_sentence_and_the_rest_is_not() {
    let mut rejected = 0;
    for runtime in Runtime::ALL {
        each_row(runtime, &mut |path, does, field, spec_with| {
            let check = |value: Value, expected: Option<(&str, &str)>| {
                let spec = spec_with(value);
                let found = unsupported(&spec, "spec", runtime);
                let found: Vec<_> = found.iter().map(|one| (&*one.path, &*one.message)).collect();
                let message = expected.map(|(_, sentence)| format!("{} {sentence}", runtime.name()));
                let expected: Vec<_> = expected.iter().map(|(path, _)| (*path, message.as_deref().unwrap())).collect();
                assert_eq!(found, expected, "{spec}");
            };
            match does {
                Does::Honoured | Does::Harmless(_) => check(sample(field.shape()), None),
                Does::Only(allowed, sentence) => {
                    let is_flag = matches!(field.shape(), Shape::Bool);
                    let value = |text: &str| if is_flag { json!(text == "true") } else { json!(text) };
                    allowed.iter().for_each(|allowed| check(value(allowed), None));
                    let other = if is_flag { json!(!allowed.contains(&"true")) } else { json!("Example") };
                    check(other, Some((path, sentence)));
                    rejected += 1;
                }
                Does::Keys(allowed, sentence) => {
                    allowed.iter().for_each(|allowed| check(json!({*allowed: "1"}), None));
                    check(json!({"example.com/one": "1"}), Some((&format!("{path}[example.com/one]"), sentence)));
                    rejected += 1;
                }
                Does::Judged(_, _, sentence) => {
                    check(sample(field.shape()), Some((path, sentence)));
                    rejected += 1;
                }
                Does::Rejected(sentence) => {
                    check(sample(field.shape()), Some((path, sentence)));
                    check(Value::Null, None);
                    rejected += 1;
                }
                Does::Fields(_) => unreachable!("each field of it is visited"),
            }
        });
    }
    assert!(rejected > 200, "{rejected} rows were looked at");
}

#[test]
fn what_is_judged_by_more_than_its_name_passes_where_it_is_meant() {
    let check = |runtime, spec: Value, expected: &[&str]| {
        let found = unsupported(&spec, "spec", runtime);
        let paths: Vec<&str> = found.iter().map(|one| &*one.path).collect();
        assert_eq!(paths, expected, "{spec}");
    };
    let container = |container: Value| json!({"containers": [container]});
    for runtime in Runtime::ALL {
        check(runtime, container(json!({"image": "file:///opt/a"})), &[]);
        check(runtime, json!({"volumes": [{"emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}]}), &[]);
        check(runtime, json!({"volumes": [{"emptyDir": {"sizeLimit": "1Mi"}}]}), &[]);
        check(runtime, container(json!({"terminationMessagePolicy": "FallbackToLogsOnError"})), &[]);
        check(runtime, container(json!({"lifecycle": {"preStop": {"sleep": {"seconds": 1}}}})), &[]);
        check(runtime, json!({"initContainers": [{"restartPolicy": "Always"}]}), &[]);
        check(
            runtime,
            json!({"initContainers": [{"restartPolicy": "Never"}]}),
            &["spec.initContainers[0].restartPolicy"],
        );
        check(runtime, json!({"fieldOfTomorrow": 1, "another": false}), &["spec.fieldOfTomorrow"]);
        // What cannot be read is for those to reject who read it.
        check(runtime, json!({"containers": 1, "volumes": [null, "x"], "securityContext": []}), &[]);
    }
    let port = |host: u16| container(json!({"ports": [{"containerPort": 80, "hostPort": host}]}));
    let at_port = "spec.containers[0].ports[0].hostPort";
    check(Runtime::Process, port(80), &[]);
    check(Runtime::Process, port(81), &[]);
    check(Runtime::Wasm, port(80), &[at_port]);
    let add = |names: Value| container(json!({"securityContext": {"capabilities": {"add": names}}}));
    check(Runtime::Process, add(json!(["NET_ADMIN", "ALL"])), &[]);
    for names in [json!(["NET_ADMIN", "CAP_CHOWN"]), json!(["net_admin"]), json!([7])] {
        check(Runtime::Process, add(names), &["spec.containers[0].securityContext.capabilities.add"]);
    }
    let probe = |program: &str| container(json!({"livenessProbe": {"exec": {"command": [program, "-x"]}}}));
    check(Runtime::Wasm, probe("/opt/probe.wasm"), &[]);
    check(Runtime::Wasm, probe("/bin/true"), &["spec.containers[0].livenessProbe.exec.command"]);
    check(Runtime::Process, probe("/bin/true"), &[]);
    let many: Vec<Value> = (0..1000).map(|number| json!({"name": number, "nfs": {"path": "/"}})).collect();
    assert_eq!(unsupported(&json!({"volumes": many}), "spec", Runtime::Wasm).len(), UNSUPPORTED_MAX);
}

#[test]
fn a_pod_as_the_api_stores_it_is_supported() {
    let spec = json!({
        "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "terminationGracePeriodSeconds": 30,
        "schedulerName": "default-scheduler", "securityContext": {}, "enableServiceLinks": true, "priority": 0,
        "preemptionPolicy": "PreemptLowerPriority", "serviceAccount": "default", "serviceAccountName": "default",
        "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}],
        "containers": [{
            "name": "a", "image": "file:///opt/a.wasm", "imagePullPolicy": "IfNotPresent",
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            "resources": {"limits": {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "2Gi"},
                "requests": {"cpu": "1", "ephemeral-storage": "50Mi"}},
            "livenessProbe": {"exec": {"command": ["/opt/probe.wasm"]}, "periodSeconds": 10},
            "volumeMounts": [{"name": "kube-api-access-x", "mountPath": "/x", "readOnly": true}],
        }],
        "volumes": [{"name": "kube-api-access-x", "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace",
                "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ]}}],
    });
    for runtime in Runtime::ALL {
        assert_eq!(unsupported(&spec, "spec", runtime), []);
    }
}

/// `SELVEDGE_BLESS=1 cargo test -p api-pod` writes the page anew.
#[test]
fn the_page_is_that_of_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/pod-fields.md");
    if std::env::var_os("SELVEDGE_BLESS").is_some() {
        std::fs::write(&path, reference()).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), reference(), "{}", path.display());
}
