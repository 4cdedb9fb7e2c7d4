//! Objects as users write them: what is removed, filled in and rejected.

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{Registry, ResourceInfo};

fn resource(plural: &str) -> std::sync::Arc<ResourceInfo> {
    let registry = Registry::builtin();
    let found = registry.resources().find(|resource| &*resource.plural == plural).cloned();
    found.unwrap_or_else(|| panic!("{plural} is built in"))
}

/// Prunes, defaults and validates as the server does; returns every error.
fn admit(plural: &str, mut object: Value) -> (Value, Vec<String>) {
    let resource = resource(plural);
    let mut errors = match resource.decode(&mut object) {
        Ok(unknown) => unknown,
        Err(error) => return (object, vec![error.to_string()]),
    };
    resource.apply_defaults(&mut object).expect("built-in defaults are small");
    errors.extend(resource.validate(&object).iter().map(ToString::to_string));
    (object, errors)
}

fn pod(spec: Value) -> Value {
    json!({"metadata": {"name": "p", "namespace": "default"}, "spec": spec})
}

#[track_caller]
fn check_pod(spec: Value, expected: &[&str]) {
    let (_, errors) = admit("pods", pod(spec));
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
    for (error, expected) in errors.iter().zip(expected) {
        assert!(error.starts_with(expected), "{error} begins with {expected}");
    }
}

#[track_caller]
fn check(plural: &str, object: Value, expected: &[&str]) {
    let (_, errors) = admit(plural, object);
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
    for (error, expected) in errors.iter().zip(expected) {
        assert!(error.starts_with(expected), "{error} begins with {expected}");
    }
}

#[test]
fn unknown_fields_and_nulls_go() {
    let mut object = json!({
        "metadata": {"name": "p", "creationTimestamp": null, "lables": {}},
        "spec": {"foo": 1, "containers": [{"name": "a", "image": "x", "imagePullPolicey": "Always"}], "nodeSelector": {"any": "thing"}},
        "status": {},
    });
    let unknown = resource("pods").decode(&mut object).expect("types are right");
    assert_eq!(unknown, ["metadata.lables", "spec.containers[0].imagePullPolicey", "spec.foo"]);
    assert_eq!(object["metadata"], json!({"name": "p"}));
    assert_eq!(object["spec"]["nodeSelector"], json!({"any": "thing"}));
    let message = crate::strict_decoding_error(&unknown[2..]);
    assert_eq!(message.as_deref(), Some("strict decoding error: unknown field \"spec.foo\""));
}

#[test]
fn a_pod_gets_the_defaults_that_the_kubelet_relies_on() {
    let (pod, errors) = admit(
        "pods",
        pod(json!({"containers": [{
        "name": "a", "image": "busybox", "ports": [{"containerPort": 80}], "livenessProbe": {"exec": {"command": ["true"]}},
        "resources": {"limits": {"cpu": "1"}}, "env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
    }], "volumes": [{"name": "v", "configMap": {"name": "c"}}, {"name": "e"}]})),
    );
    assert_eq!(errors, [""; 0]);
    assert_eq!(
        pod["spec"],
        json!({
            "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "terminationGracePeriodSeconds": 30,
            "schedulerName": "default-scheduler", "securityContext": {}, "enableServiceLinks": true,
            "containers": [{
                "name": "a", "image": "busybox", "imagePullPolicy": "Always",
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "livenessProbe": {"exec": {"command": ["true"]}, "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
                "env": [{"name": "N", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "spec.nodeName"}}}],
            }],
            "volumes": [{"name": "v", "configMap": {"name": "c", "defaultMode": 420}}, {"name": "e", "emptyDir": {}}],
        })
    );
    let (again, _) = admit("pods", pod.clone());
    assert_eq!(again, pod, "defaults hold still");
}

#[test]
fn a_bad_pod_is_rejected_with_path_and_reason() {
    check_pod(json!({}), &["spec.containers: Required value"]);
    check_pod(json!({"containers": []}), &["spec.containers: Required value"]);
    check_pod(
        json!({"containers": "x"}),
        &["json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container"],
    );
    check_pod(json!({"containers": [{"image": "x"}]}), &["spec.containers[0].name: Required value"]);
    check_pod(json!({"containers": [{"name": "a"}]}), &["spec.containers[0].image: Required value"]);
    check_pod(
        json!({"containers": [{"name": "A_", "image": "x"}]}),
        &["spec.containers[0].name: Invalid value: \"A_\": a lowercase RFC 1123 label"],
    );
    check_pod(
        json!({"containers": [{"name": "a", "image": "x"}], "initContainers": [{"name": "a", "image": "x"}]}),
        &["spec.initContainers[0].name: Duplicate value: \"a\""],
    );
    check_pod(
        json!({"restartPolicy": "Sometimes", "containers": [{"name": "a", "image": "x", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}),
        &[
            "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ],
    );
    check_pod(
        json!({"containers": [{"name": "a", "image": "x", "env": [{"name": "A=B"}, {"name": "C", "valueFrom": {}}]}]}),
        &[
            "spec.containers[0].env[0].name: Invalid value: \"A=B\"",
            "spec.containers[0].env[1].valueFrom: Invalid value: \"\": must specify",
        ],
    );
    check_pod(
        json!({"containers": [{"name": "a", "image": "x", "resources": {"requests": {"cpu": "fast"}}}]}),
        &["quantities must match"],
    );
    check_pod(
        json!({"containers": [{"name": "a", "image": "x", "livenessProbe": {}}]}),
        &["spec.containers[0].livenessProbe: Required value: must specify a handler type"],
    );
    check_pod(
        json!({"terminationGracePeriodSeconds": 3_000_000_000_i64, "activeDeadlineSeconds": "5", "containers": [{"name": "a", "image": "x"}]}),
        &["json: cannot unmarshal string into Go struct field PodSpec.spec.activeDeadlineSeconds of type int64"],
    );
}

#[test]
fn metadata_is_checked_for_every_kind() {
    let named = |name: &str| json!({"metadata": {"name": name, "namespace": "default"}});
    check("configmaps", named("a.b-c"), &[]);
    check("configmaps", named("A"), &["metadata.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain"]);
    check("configmaps", named(""), &["metadata.name: Required value: name or generateName is required"]);
    check("configmaps", json!({"metadata": {"name": "a"}}), &["metadata.namespace: Required value"]);
    check("configmaps", json!({}), &["metadata: Required value"]);
    check(
        "configmaps",
        json!({"metadata": {"name": "a", "namespace": "d", "labels": {"-": "x", "a": "b c"}}}),
        &["metadata.labels: Invalid value: \"-\"", "metadata.labels: Invalid value: \"b c\""],
    );
    check(
        "configmaps",
        json!({"metadata": {"name": "a", "namespace": "d", "labels": {"a": 1}}}),
        &["json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string"],
    );
    check(
        "namespaces",
        json!({"metadata": {"name": "a.b"}}),
        &["metadata.name: Invalid value: \"a.b\": must not contain dots"],
    );
    check("nodes", json!({"metadata": {"name": "a", "namespace": "x"}}), &["metadata.namespace: Forbidden"]);
    let old = json!({"metadata": {"name": "a", "resourceVersion": "1", "uid": "1"}});
    let errors = resource("nodes").validate_update(
        None,
        &json!({"metadata": {"name": "a", "resourceVersion": "1", "uid": "2"}}),
        &old,
    );
    assert_eq!(errors[0].to_string(), "metadata.uid: Invalid value: \"2\": field is immutable");
}

fn daemon_set(spec: Value) -> Value {
    json!({"metadata": {"name": "d", "namespace": "default"}, "spec": spec})
}

#[test]
fn a_daemon_set_selects_its_own_pods() {
    let template =
        |labels: Value| json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "a", "image": "x"}]}});
    let good = json!({"selector": {"matchLabels": {"a": "b"}}, "template": template(json!({"a": "b"}))});
    let (defaulted, errors) = admit("daemonsets", daemon_set(good));
    assert_eq!(errors, [""; 0]);
    assert_eq!(
        defaulted["spec"]["updateStrategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}})
    );
    assert_eq!(
        (&defaulted["spec"]["revisionHistoryLimit"], &defaulted["spec"]["template"]["spec"]["restartPolicy"]),
        (&json!(10), &json!("Always"))
    );
    check(
        "daemonsets",
        daemon_set(json!({"selector": {"matchLabels": {"a": "c"}}, "template": template(json!({"a": "b"}))})),
        &["spec.template.metadata.labels: Invalid value"],
    );
    check(
        "daemonsets",
        daemon_set(json!({"selector": {}, "template": template(json!({}))})),
        &["spec.selector: Invalid value: {}: empty selector"],
    );
    let unselected = "spec.template.metadata.labels: Invalid value: {}: `selector` does not match";
    check("daemonsets", daemon_set(json!({"template": template(json!({}))})), &[unselected]);
}

#[test]
fn the_other_kinds_have_their_rules() {
    let meta = json!({"name": "a", "namespace": "d"});
    check("configmaps", json!({"metadata": meta, "data": {"bad key": "x"}}), &["data[bad key]: Invalid value"]);
    check("secrets", json!({"metadata": meta, "data": {"k": "not base64"}}), &["illegal base64 data at input byte 3"]);
    check(
        "secrets",
        json!({"metadata": meta, "type": "kubernetes.io/tls"}),
        &["data[tls.crt]: Required value", "data[tls.key]: Required value"],
    );
    check(
        "leases",
        json!({"metadata": meta, "spec": {"leaseDurationSeconds": 0, "renewTime": "2026-11-22T02:00:00.123456Z"}}),
        &["spec.leaseDurationSeconds: Invalid value: 0"],
    );
    for time in ["2026-11-22T02:00:00Z", "2026-11-22T02:00:00.123Z", "2026-11-22T02:00:00.1234567Z"] {
        let lease = json!({"metadata": meta, "spec": {"renewTime": time}});
        check("leases", lease, &["parsing time"]);
    }
    check(
        "nodes",
        json!({"metadata": {"name": "n"}, "spec": {"taints": [{"key": "a", "effect": "Never"}]}}),
        &["metadata.taints[0].effect: Unsupported value"],
    );
    check("runtimeclasses", json!({"metadata": {"name": "r"}, "handler": "Not One"}), &["handler: Invalid value"]);
    let (secret, errors) = admit(
        "secrets",
        json!({"metadata": meta, "stringData": {"k": "hello", "e": "", "a": "ab"}, "data": {"k": "eA=="}}),
    );
    assert_eq!(errors, [""; 0]);
    assert_eq!((&secret["data"], &secret["type"]), (&json!({"k": "aGVsbG8=", "e": "", "a": "YWI="}), &json!("Opaque")));
    let (namespace, _) = admit("namespaces", json!({"metadata": {"name": "n"}}));
    assert_eq!(namespace["metadata"]["labels"], json!({"kubernetes.io/metadata.name": "n"}));
}

#[track_caller]
fn check_update(plural: &str, old: Value, mut new: Value, expected: &[&str]) {
    new["metadata"]["resourceVersion"] = json!("1");
    let errors: Vec<String> =
        resource(plural).validate_update(None, &new, &old).iter().map(ToString::to_string).collect();
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
    for (error, expected) in errors.iter().zip(expected) {
        assert!(error.starts_with(expected), "{error} begins with {expected}");
    }
}

#[test]
fn what_is_set_for_good_cannot_change() {
    let of = |spec: Value| admit("pods", pod(spec)).0;
    let old = of(json!({"containers": [{"name": "a", "image": "x"}]}));
    check_update("pods", old.clone(), of(json!({"containers": [{"name": "a", "image": "y:latest"}]})), &[]);
    let forbidden = ["spec: Forbidden: pod updates may not change fields"];
    let bound = of(json!({"nodeName": "n", "containers": [{"name": "a", "image": "x"}]}));
    check_update("pods", old.clone(), bound, &forbidden);
    check_update("pods", old, of(json!({"containers": [{"name": "a", "image": "x", "args": ["b"]}]})), &forbidden);
    check_update(
        "secrets",
        json!({"metadata": {"name": "a", "namespace": "b"}, "type": "Opaque"}),
        json!({"metadata": {"name": "a", "namespace": "b"}, "type": "x/y"}),
        &["type: Invalid value: \"x/y\": field is immutable"],
    );
    check_update(
        "configmaps",
        json!({"metadata": {"name": "a", "namespace": "b"}, "immutable": true, "data": {"a": "1"}}),
        json!({"metadata": {"name": "a", "namespace": "b"}, "immutable": true, "data": {}}),
        &["data: Forbidden: field is immutable when `immutable` is set"],
    );
}

#[test]
fn a_rolling_update_either_surges_or_goes_without() {
    let with = |rolling: Value| {
        daemon_set(json!({
            "selector": {"matchLabels": {"a": "b"}}, "updateStrategy": {"rollingUpdate": rolling},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "x"}]}},
        }))
    };
    let path = "spec.updateStrategy.rollingUpdate";
    let cases = [
        (json!({"maxUnavailable": 1}), vec![]),
        (json!({"maxUnavailable": "10%"}), vec![]),
        (json!({"maxUnavailable": "100%", "maxSurge": "0%"}), vec![]),
        (json!({"maxUnavailable": 0, "maxSurge": 3}), vec![]),
        (json!({"maxUnavailable": 0}), vec!["maxUnavailable: Required value: cannot be 0 when maxSurge is 0"]),
        (json!({"maxSurge": 1}), vec!["maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero"]),
        (
            json!({"maxUnavailable": "150%"}),
            vec!["maxUnavailable: Invalid value: \"150%\": must not be greater than 100%"],
        ),
        (json!({"maxUnavailable": -1}), vec!["maxUnavailable: Invalid value: -1: must be greater than or equal to 0"]),
        (
            json!({"maxUnavailable": "abc"}),
            vec![
                "maxUnavailable: Invalid value: \"abc\": a valid percent string must be a numeric string followed by an ending '%'",
                "maxUnavailable: Required value: cannot be 0 when maxSurge is 0",
            ],
        ),
        (
            json!({"maxUnavailable": "99999999999999999999%"}),
            vec!["maxUnavailable: Invalid value: \"99999999999999999999%\": must not be greater than 100%"],
        ),
    ];
    for (rolling, expected) in cases {
        let expected: Vec<String> = expected.iter().map(|error| format!("{path}.{error}")).collect();
        check("daemonsets", with(rolling), &expected.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let mut negative = with(json!({}));
    negative["spec"]["minReadySeconds"] = json!(-1);
    check("daemonsets", negative, &["spec.minReadySeconds: Invalid value: -1: must be greater than or equal to 0"]);
}

#[test]
fn on_the_hosts_network_a_port_is_the_hosts_own() {
    let with = |port: Value| json!({"hostNetwork": true, "containers": [{"name": "a", "image": "x", "ports": [port]}]});
    check_pod(with(json!({"containerPort": 9100, "name": "metrics"})), &[]);
    check_pod(with(json!({"containerPort": 9100, "hostPort": 9100})), &[]);
    check_pod(
        with(json!({"containerPort": 9100, "hostPort": 9101})),
        &[
            "spec.containers[0].ports[0].hostPort: Invalid value: 9101: must match `containerPort` when `hostNetwork` is true",
        ],
    );
}

#[test]
fn data_is_limited_to_a_mebibyte_as_it_is_when_it_is_read() {
    const MIB: usize = 1024 * 1024;
    let meta = json!({"name": "a", "namespace": "d"});
    let base64 = |bytes: usize| "AAAA".repeat(bytes / 3) + ["", "AA==", "AAA="][bytes % 3];
    check("configmaps", json!({"metadata": meta, "data": {"k": "x".repeat(MIB)}}), &[]);
    let too_long = "[]: Too long: may not be more than 1048576 bytes";
    check("configmaps", json!({"metadata": meta, "data": {"k": "x".repeat(MIB), "l": "x"}}), &[too_long]);
    check("configmaps", json!({"metadata": meta, "data": {"k": "x"}, "binaryData": {"b": base64(MIB)}}), &[too_long]);
    check(
        "configmaps",
        json!({"metadata": meta, "data": {"k": "x"}, "binaryData": {"k": "AA=="}}),
        &["data[k]: Invalid value: \"k\": duplicate of key present in binaryData"],
    );
    check("secrets", json!({"metadata": meta, "data": {"k": base64(MIB)}}), &[]);
    check(
        "secrets",
        json!({"metadata": meta, "data": {"k": base64(MIB + 1)}}),
        &["data: Too long: may not be more than 1048576 bytes"],
    );
}

#[test]
fn a_pod_refers_to_a_thousand_objects_at_most() {
    let with = |count: usize| {
        let sources: Vec<Value> = (0..count).map(|n| json!({"secretRef": {"name": format!("s{n}")}})).collect();
        json!({"containers": [{"name": "a", "image": "x", "envFrom": sources}]})
    };
    check_pod(with(1_000), &[]);
    check_pod(with(1_100), &["spec: Too many: 1100: must have at most 1024 items"]);
}

#[test]
fn mistakes_are_counted_before_they_are_kept() {
    let (_, errors) = admit("pods", pod(json!({"containers": vec![json!({}); 10_000]})));
    assert_eq!(errors.len(), 64);
    let unknown: serde_json::Map<String, Value> = (0..40_000).map(|n| (format!("f{n}"), json!(1))).collect();
    let unknown = resource("pods").decode(&mut json!({"spec": unknown})).expect("types are right");
    assert_eq!(unknown.len(), 100);
    // One long key, and many mistakes below it.
    let long = "k".repeat(1_000_000);
    let labels = json!({"metadata": {"name": "a", "namespace": "d", "labels": {&long: "-"}}});
    let (_, errors) = admit("configmaps", labels);
    assert!(!errors.is_empty() && errors.iter().all(|error| error.len() < 20_000), "{}", errors[0].len());
    // The value of one mistake is as large as the body.
    let (_, errors) = admit("configmaps", json!({"metadata": {"name": "x".repeat(1_000_000), "namespace": "d"}}));
    assert!(errors[0].len() < 20_000, "{}", errors[0].len());
}

/// JSON in which the names of fields that matter turn up in places where they do not belong.
fn hostile() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "(Always|True|Ready|é|[a-z]{0,3})".prop_map(Value::from),
    ];
    let key = "(metadata|spec|status|name|labels|data|stringData|containers|volumes|secret|env|valueFrom|template|selector|\
               conditions|type|state|terminated|resources|limits|versions|schema|openAPIV3Schema|properties|taints|names)";
    leaf.prop_recursive(6, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key, inner, 0..6).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

proptest! {
    #[test]
    fn no_object_makes_us_panic(object in hostile()) {
        let now = "2026-11-22T10:00:00Z".parse().expect("a time");
        for resource in Registry::builtin().resources() {
            let mut admitted = object.clone();
            if resource.decode(&mut admitted).is_err() {
                continue;
            }
            resource.apply_defaults(&mut admitted).expect("built-in defaults are small");
            resource.warnings(&admitted, None);
            resource.index_fields(&admitted, &mut |_, _| {});
            for part in [None, Some("status"), Some("finalize"), Some("approval")] {
                resource.prepare_update(part, &mut admitted.clone(), &object);
            }
            resource.validate(&admitted);
            resource.validate_update(None, &admitted, &object);
            crate::table(resource, [&object], now, crate::IncludeObject::Object);
        }
    }
}

#[test]
fn numbers_beyond_what_a_system_has_are_rejected() {
    let container = |field: &str, value: Value| json!({"name": "a", "image": "x", field: value});
    let check = |spec: &Value, at: &str, why: &str| {
        let mut spec = spec.clone();
        if spec.get("containers").is_none() {
            spec["containers"] = json!([{"name": "a", "image": "x"}]);
        }
        check_pod(spec.clone(), &[&format!("spec.{at}: Invalid value: {why}")]);
        // What makes pods is held to the same.
        let set = json!({
            "metadata": {"name": "s", "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"a": "b"}},
                     "template": {"metadata": {"labels": {"a": "b"}}, "spec": spec}},
        });
        self::check("daemonsets", set, &[&format!("spec.template.spec.{at}: Invalid value: {why}")]);
    };
    let between = |from: i64, to: i64, value: i64| format!("{value}: must be between {from} and {to}, inclusive");
    for id in [-1, 1 << 31, 1 << 32, 5_000_000_000] {
        let why = between(0, 2_147_483_647, id);
        for field in ["runAsUser", "runAsGroup", "fsGroup"] {
            check(&json!({"securityContext": {field: id}}), &format!("securityContext.{field}"), &why);
        }
        check(&json!({"securityContext": {"supplementalGroups": [id]}}), "securityContext.supplementalGroups[0]", &why);
        for field in ["runAsUser", "runAsGroup"] {
            let spec = json!({"containers": [container("securityContext", json!({field: id}))]});
            check(&spec, &format!("containers[0].securityContext.{field}"), &why);
        }
    }
    for port in [0, -1, 70_000] {
        for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
            for (kind, action) in [
                ("tcpSocket", json!({"port": port})),
                ("httpGet", json!({"port": port, "path": "/"})),
                ("grpc", json!({"port": port})),
            ] {
                let spec = json!({"containers": [container(probe, json!({kind: action}))]});
                check(&spec, &format!("containers[0].{probe}.{kind}.port"), &between(1, 65_535, port));
            }
        }
    }
    for mode in [-1, 0o1000, 0o7777] {
        let why = format!("{mode}: must be a number between 0 and 0777 (octal), both inclusive");
        for (kind, source) in [
            ("configMap", json!({"name": "c", "defaultMode": mode})),
            ("secret", json!({"secretName": "c", "defaultMode": mode})),
            ("downwardAPI", json!({"defaultMode": mode})),
            ("projected", json!({"defaultMode": mode, "sources": [{"configMap": {"name": "c"}}]})),
        ] {
            let spec = json!({"volumes": [{"name": "v", kind: source}]});
            check(&spec, &format!("volumes[0].{kind}.defaultMode"), &why);
        }
    }
}
