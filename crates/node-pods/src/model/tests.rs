use serde_json::json;

use super::*;

fn pod(value: Value) -> Pod {
    serde_json::from_value(value).unwrap()
}

#[test]
fn quantities_are_read_as_kubernetes_writes_them() {
    for (text, millis) in [
        ("1", Some(1_000)),
        ("250m", Some(250)),
        ("0.1", Some(100)),
        ("1.5", Some(1_500)),
        ("64Mi", Some(67_108_864_000)),
        ("1k", Some(1_000_000)),
        ("1e3", Some(1_000_000)),
        ("5n", Some(1)),
        ("0", Some(0)),
        ("-1", None),
        ("", None),
        ("x", None),
        ("nan", None),
        ("1Qi", None),
    ] {
        assert_eq!(Quantity::Text(text.into()).millis(), millis, "{text}");
    }
}

#[test]
fn requests_that_no_machine_has_are_counted_and_do_not_overflow() {
    let container = |name: &str| json!({"name": name, "resources": {"requests": {"memory": "100E"}}});
    let one = pod(json!({"spec": {"containers": [container("a")]}}));
    assert!(crate::admission::requests(&one).get("memory") > 1 << 50, "an amount beyond the largest is not nothing");
    let containers = ["a", "b", "c", "d"].map(container);
    let many = pod(json!({"spec": {"containers": containers}}));
    assert_eq!(crate::admission::requests(&many).get("memory"), u64::MAX);
}

#[test]
fn a_port_of_the_node_has_one_pod_and_the_second_is_rejected_in_upstreams_words() {
    let with_port = |port: serde_json::Value| pod(json!({"spec": {"containers": [{"name": "a", "ports": [port]}]}}));
    let first = with_port(json!({"containerPort": 80, "hostPort": 8080}));
    let check = |port| crate::admission::check_host_ports(&with_port(port), std::iter::once(&first));
    let rejection = check(json!({"containerPort": 81, "hostPort": 8080})).unwrap_err();
    assert_eq!(rejection.reason, "NodePorts");
    assert_eq!(
        rejection.message,
        "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
    );
    check(json!({"containerPort": 81, "hostPort": 8080, "hostIP": "127.0.0.1"})).unwrap_err();
    check(json!({"containerPort": 81, "hostPort": 8080, "hostIP": "0.0.0.0"})).unwrap_err();
    check(json!({"containerPort": 80, "hostPort": 8081})).unwrap();
    check(json!({"containerPort": 80, "hostPort": 8080, "protocol": "UDP"})).unwrap();
    check(json!({"containerPort": 8080})).unwrap();
}

#[test]
fn a_pod_is_limited_where_all_its_containers_are_and_an_init_container_gets_its_own_limit() {
    let limited =
        |cpu: &str, memory: &str| json!({"name": "a", "resources": {"limits": {"cpu": cpu, "memory": memory}}});
    let free = json!({"name": "b", "resources": {"requests": {"cpu": "100m"}}});
    let app = limited("1", "1Mi");
    for (init, containers, request, cpu, memory) in [
        (json!([]), json!([app]), Some(1000), Some(1000), Some(1 << 20)),
        (json!([]), json!([app, app]), Some(2000), Some(2000), Some(2 << 20)),
        (json!([limited("3", "5Mi")]), json!([app]), Some(3000), Some(3000), Some(5 << 20)),
        (json!([free]), json!([app]), Some(1000), None, None),
        (json!([]), json!([app, free]), Some(1100), None, None),
        (json!([]), json!([{"name": "a"}]), None, None, None),
    ] {
        let pod = pod(json!({"spec": {"initContainers": init, "containers": containers}}));
        let of = crate::admission::pod_resources(&pod);
        assert_eq!(
            (of.cpu_request_millis, of.cpu_limit_millis, of.memory_limit_bytes),
            (request, cpu, memory),
            "{pod:?}"
        );
    }
}

#[test]
fn the_class_of_service_follows_requests_and_limits() {
    for (resources, class) in [
        (json!({}), "BestEffort"),
        (json!({"limits": {"cpu": "1", "memory": "1Gi"}}), "Guaranteed"),
        (json!({"limits": {"cpu": 1, "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1Gi"}}), "Guaranteed"),
        (json!({"limits": {"cpu": "1"}}), "Burstable"),
        (json!({"requests": {"memory": "1Mi"}}), "Burstable"),
        (json!({"requests": {"cpu": "0"}}), "BestEffort"),
    ] {
        let pod = pod(json!({"spec": {"containers": [{"name": "a", "resources": resources}]}}));
        assert_eq!(pod.qos_class().as_str(), class, "{resources}");
    }
}

#[test]
fn every_kind_of_reference_is_found() {
    let pod = pod(json!({"spec": {
        "initContainers": [{"name": "i", "envFrom": [{"configMapRef": {"name": "c1"}}, {"secretRef": {"name": "s1"}}]}],
        "containers": [{"name": "a", "env": [
            {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c2", "key": "k"}}},
            {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s2", "key": "k", "optional": true}}},
        ]}],
        "volumes": [
            {"name": "v1", "configMap": {"name": "c3"}},
            {"name": "v2", "secret": {"secretName": "s3"}},
            {"name": "v3", "projected": {"sources": [{"configMap": {"name": "c4"}}, {"secret": {"name": "s4"}}]}},
        ],
    }}));
    let references = pod.references();
    assert_eq!(references.config_maps.into_iter().collect::<Vec<_>>(), ["c1", "c2", "c3", "c4"]);
    assert_eq!(references.secrets.into_iter().collect::<Vec<_>>(), ["s1", "s2", "s3", "s4"]);
}

#[test]
fn a_grace_of_any_length_can_be_counted_from_now() {
    for seconds in [i64::MIN, -1, 0, 30, i64::MAX - 1, i64::MAX] {
        let grace = pod(json!({"spec": {"terminationGracePeriodSeconds": seconds}})).grace();
        assert!(std::time::Instant::now().checked_add(grace * 2).is_some(), "{seconds}");
        assert!(
            jiff::Timestamp::now().checked_add(jiff::SignedDuration::try_from(grace).unwrap()).is_ok(),
            "{seconds}"
        );
    }
}

#[test]
fn whether_a_container_starts_again_is_up_to_the_pod_and_its_exit_code() {
    let check = |policy: &str, expected: [[bool; 2]; 3]| {
        let pod = Pod::from_json(
            serde_json::json!({"spec": {
                "restartPolicy": policy,
                "initContainers": [{"name": "first"}, {"name": "beside", "restartPolicy": "Always"}],
                "containers": [{"name": "app"}],
            }})
            .to_string()
            .as_bytes(),
        )
        .unwrap();
        let found: Vec<[bool; 2]> =
            pod.all_containers().map(|container| [1, 0].map(|code| pod.restarts_after(container, code))).collect();
        assert_eq!(found, expected, "{policy}: after a failure and after a success");
    };
    check("Always", [[true, false], [true, true], [true, true]]);
    check("OnFailure", [[true, false], [true, true], [true, false]]);
    check("Never", [[false, false], [true, true], [false, false]]);
}
