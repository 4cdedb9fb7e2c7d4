//! Rules, defaults and rows of the core group and its neighbours, in the words of a kube-apiserver.

use serde_json::{Value, json};

use crate::{Registry, table::table_row};

const NOW: &str = "2026-11-26T10:00:00Z";

fn info(group: &str, plural: &str) -> std::sync::Arc<crate::ResourceInfo> {
    let registry = Registry::builtin();
    let mut found = registry.resources().filter(|info| &*info.group == group && &*info.plural == plural);
    found.next().expect("served").clone()
}

/// The errors of a new object.
#[track_caller]
fn check(group: &str, plural: &str, body: Value, expected: &[&str]) {
    let info = info(group, plural);
    let mut object = body;
    object["metadata"] = match object.get("metadata") {
        Some(metadata) => metadata.clone(),
        None => json!({"name": "one"}),
    };
    if info.namespaced {
        object["metadata"]["namespace"] = json!("n");
    }
    info.decode(&mut object).expect("types are right");
    info.apply_defaults(&mut object).expect("small");
    let errors: Vec<String> = info.validate(&object).iter().map(ToString::to_string).collect();
    assert_eq!(errors, expected);
}

/// The first cells of an object's row.
#[track_caller]
fn check_row(group: &str, plural: &str, mut object: Value, expected: Value) {
    object["metadata"]["name"] = json!("one");
    object["metadata"]["creationTimestamp"] = json!("2026-11-26T09:59:30Z");
    let row = table_row(&info(group, plural), &object, NOW.parse().expect("a time"), crate::IncludeObject::None);
    let count = expected.as_array().map_or(0, Vec::len);
    assert_eq!(Value::from(row["cells"].as_array().expect("cells")[..count].to_vec()), expected);
}

#[test]
fn secrets_have_what_their_type_says() {
    let of = |kind: &str, data: Value| json!({"type": kind, "data": data});
    check("", "secrets", of("kubernetes.io/tls", json!({"tls.crt": ""})), &["data[tls.key]: Required value"]);
    check(
        "",
        "secrets",
        of("kubernetes.io/dockercfg", json!({".dockercfg": "W10="})),
        &[
            "data[.dockercfg]: Invalid value: \"<secret contents redacted>\": json: cannot unmarshal array into Go value of type map[string]interface {}",
        ],
    );
    check(
        "",
        "secrets",
        of("kubernetes.io/basic-auth", json!({})),
        &["data[username]: Required value", "data[password]: Required value"],
    );
}

#[test]
fn services_say_who_reaches_them_and_how() {
    let with = |spec: Value| json!({"spec": spec});
    let ports = json!([{"port": 80}]);
    check(
        "",
        "services",
        with(json!({"ports": [{"port": 80}, {"name": "x", "port": 80, "targetPort": "a--b"}]})),
        &[
            "spec.ports[0].name: Required value",
            "spec.ports[1].targetPort: Invalid value: \"a--b\": must not contain consecutive hyphens",
            "spec.ports[1]: Duplicate value: {\"Name\":\"\",\"Protocol\":\"TCP\",\"AppProtocol\":null,\"Port\":80,\"TargetPort\":0,\"NodePort\":0}",
        ],
    );
    check(
        "",
        "services",
        with(json!({"type": "ExternalName", "externalName": "a_b"})),
        &[
            "spec.externalName: Invalid value: \"a_b\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
        ],
    );
    check(
        "",
        "services",
        with(json!({"ports": ports, "externalIPs": ["127.0.0.1"], "trafficDistribution": "X"})),
        &[
            "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            "spec.trafficDistribution: Unsupported value: \"X\": supported values: \"PreferClose\", \"PreferSameZone\", \"PreferSameNode\"",
        ],
    );
}

#[test]
fn ranges_and_quotas_fit_together() {
    let item = json!({"type": "Container", "max": {"cpu": "1"}, "min": {"cpu": "2"}});
    check(
        "",
        "limitranges",
        json!({"spec": {"limits": [item]}}),
        &[
            "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
            "spec.limits[0].defaultRequest[cpu]: Invalid value: \"1\": min value 2 is greater than default request value 1",
            "spec.limits[0].default[cpu]: Invalid value: \"2\": min value 2 is greater than default value 1",
        ],
    );
    check(
        "",
        "resourcequotas",
        json!({"spec": {"hard": {"pods": "1500m", "cpu": "1"}, "scopes": ["BestEffort"]}}),
        &[
            "spec.hard[pods]: Invalid value: \"1500m\": must be an integer",
            "spec.scopes: Invalid value: [\"BestEffort\"]: unsupported scope applied to resource",
        ],
    );
}

#[test]
fn paths_and_peers_are_what_controllers_can_serve() {
    let path = json!({"path": "x", "pathType": "Exact", "backend": {"service": {"name": "s", "port": {"number": 80}}}});
    check(
        "networking.k8s.io",
        "ingresses",
        json!({"spec": {"rules": [{"host": "1.2.3.4", "http": {"paths": [path]}}]}}),
        &[
            "spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
            "spec.rules[0].http.paths[0].path: Invalid value: \"x\": must be an absolute path",
        ],
    );
    let block = json!({"cidr": "10.0.0.0/24", "except": ["10.1.0.0/25"]});
    check(
        "networking.k8s.io",
        "networkpolicies",
        json!({"spec": {"egress": [{"to": [{"ipBlock": block}, {}]}]}}),
        &[
            "spec.egress[0].to[0].ipBlock.except[0]: Invalid value: \"10.1.0.0/25\": must be a strict subset of `cidr`",
            "spec.egress[0].to[1]: Required value: must specify a peer",
        ],
    );
}

#[test]
fn rows_show_what_users_know() {
    let spec = json!({"type": "LoadBalancer", "clusterIPs": ["10.96.0.7"], "selector": {"a": "b"},
        "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}]});
    check_row(
        "",
        "services",
        json!({"spec": spec}),
        json!(["one", "LoadBalancer", "10.96.0.7", "<pending>", "80:30080/TCP", "30s", "a=b"]),
    );
    let addresses: Vec<Value> = (1..5).map(|last| json!({"ip": format!("192.0.2.{last}")})).collect();
    check_row(
        "",
        "endpoints",
        json!({"subsets": [{"addresses": addresses, "ports": [{"port": 80}]}]}),
        json!(["one", "192.0.2.1:80,192.0.2.2:80,192.0.2.3:80 + 1 more...", "30s"]),
    );
    let status = json!({"hard": {"cpu": "2", "limits.cpu": "4"}, "used": {"cpu": "500m"}});
    check_row("", "resourcequotas", json!({"status": status}), json!(["one", "cpu: 500m/2", "limits.cpu: 0/4", "30s"]));
    check_row(
        "events.k8s.io",
        "events",
        json!({"regarding": {"kind": "Pod", "name": "p"}, "note": "n", "type": "Normal", "reason": "R",
            "series": {"count": 3, "lastObservedTime": "2026-11-26T09:59:59.000000Z"}}),
        json!(["1s", "Normal", "R", "pod/p", "", "", "n", "<unknown>", 3, "one"]),
    );
}
