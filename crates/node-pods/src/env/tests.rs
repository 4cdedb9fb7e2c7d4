use proptest::prelude::*;
use serde_json::json;

use super::*;

struct Objects(Vec<(ObjectKind, &'static str, Value)>, Vec<ServiceRecord>);

impl Lookup for Objects {
    fn object(&self, key: &ObjectKey) -> Known {
        let found = self.0.iter().find(|(kind, name, _)| *kind == key.kind && *name == key.name);
        match found {
            Some((_, _, Value::Null)) => Known::Unknown,
            Some((_, _, object)) => Known::Present(object.clone()),
            None => Known::Absent,
        }
    }

    fn services(&self) -> Vec<ServiceRecord> {
        self.1.clone()
    }
}

fn objects() -> Objects {
    let objects = vec![
        (ObjectKind::ConfigMap, "c", json!({"data": {"a": "1", "b": "two"}, "binaryData": {"z": "/w=="}})),
        (ObjectKind::Secret, "s", json!({"data": {"p": "aHVudGVy"}})),
        (ObjectKind::Secret, "old", json!({"data": {"wrapped": "aHVu\ndGVy\r\n", "loose": "eB==", "bad": "?"}})),
        (ObjectKind::Secret, "late", Value::Null),
    ];
    Objects(objects, Vec::new())
}

fn env_of(container: Value) -> Result<BTreeMap<String, String>, ValueError> {
    let mut container = container;
    container["name"] = "a".into();
    env_near(container, None)
}

fn env_near(container: Value, hub: Option<Endpoint>) -> Result<BTreeMap<String, String>, ValueError> {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "d", "uid": "u", "labels": {"app": "x"}},
        "spec": {"containers": [container]},
    }))
    .unwrap();
    let node = NodeFacts {
        node_name: "n".into(),
        node_ip: "10.0.0.1".into(),
        pod_ips: Vec::new(),
        cpu_millis: 4000,
        memory_bytes: 1 << 30,
        storage_bytes: 64 << 30,
        hub,
        has_services: false,
        directories: Arc::default(),
    };
    environment(&pod, &pod.spec.containers[0], &node, &objects())
}

fn check(container: Value, expected: &[(&str, &str)]) {
    let expected = expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    assert_eq!(env_of(container.clone()), Ok(expected), "{container}");
}

fn check_refused(container: Value, expected: &str) {
    assert_eq!(env_of(container.clone()).unwrap_err().to_string(), expected, "{container}");
}

#[test]
fn values_come_from_every_source() {
    check(
        json!({"env": [{"name": "A", "value": "x"}, {"name": "B", "value": "$(A)$(NO)$$"}]}),
        &[("A", "x"), ("B", "x$(NO)$")],
    );
    check(json!({"envFrom": [{"prefix": "C_", "configMapRef": {"name": "c"}}]}), &[("C_a", "1"), ("C_b", "two")]);
    check(
        json!({"env": [{"name": "P", "valueFrom": {"secretKeyRef": {"name": "s", "key": "p"}}}]}),
        &[("P", "hunter")],
    );
    check(json!({"env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]}), &[("N", "n")]);
    check(
        json!({"env": [{"name": "L", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}}]}),
        &[("L", "x")],
    );
    check(
        json!({"resources": {"limits": {"memory": "64Mi"}}, "env": [
            {"name": "M", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
            {"name": "R", "valueFrom": {"resourceFieldRef": {"resource": "requests.memory", "divisor": "1Mi"}}},
            {"name": "C", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
            {"name": "S", "valueFrom": {"resourceFieldRef": {"resource": "limits.ephemeral-storage", "divisor": "1Gi"}}},
            {"name": "T", "valueFrom": {"resourceFieldRef": {"resource": "requests.ephemeral-storage"}}},
        ]}),
        &[("M", "64"), ("R", "64"), ("C", "4"), ("S", "64"), ("T", "0")],
    );
}

#[test]
fn every_container_learns_where_the_hub_is_and_its_own_word_goes_before() {
    let at = |host: &str| Some(Endpoint { host: host.to_owned(), port: 6443 });
    let found =
        env_near(json!({"name": "a", "env": [{"name": "URL", "value": "$(KUBERNETES_SERVICE_HOST)"}]}), at("::1"));
    let found = found.unwrap();
    let found: Vec<(&str, &str)> = found.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let variables = [
        ("PORT", "tcp://[::1]:6443"),
        ("PORT_6443_TCP", "tcp://[::1]:6443"),
        ("PORT_6443_TCP_ADDR", "::1"),
        ("PORT_6443_TCP_PORT", "6443"),
        ("PORT_6443_TCP_PROTO", "tcp"),
        ("SERVICE_HOST", "::1"),
        ("SERVICE_PORT", "6443"),
        ("SERVICE_PORT_HTTPS", "6443"),
    ];
    let variables = variables.map(|(name, value)| (format!("KUBERNETES_{name}"), value));
    let mut expected: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    expected.push(("URL", "::1"));
    assert_eq!(found, expected);
    let own = json!({"name": "a", "env": [{"name": "KUBERNETES_SERVICE_HOST", "value": "mine"}]});
    let found = env_near(own, at("hub.example.com")).unwrap();
    assert_eq!((&*found["KUBERNETES_SERVICE_HOST"], &*found["KUBERNETES_SERVICE_PORT"]), ("mine", "6443"));
}

#[test]
fn services_of_the_namespace_are_variables_as_kubernetes_words_them() {
    let service = |namespace: &str, name: &str, spec: Value| ServiceRecord {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: String::new(),
        spec: serde_json::from_value(spec).unwrap(),
    };
    let ports = json!([{"name": "http", "port": 80}, {"name": "dns-udp", "port": 53, "protocol": "UDP"}]);
    let objects = Objects(
        Vec::new(),
        vec![
            service("d", "web-1", json!({"clusterIPs": ["10.96.0.7", "fd00::7"], "ports": ports})),
            service("d", "six", json!({"clusterIPs": ["fd00::8"], "ports": [{"port": 9}]})),
            service("d", "headless", json!({"clusterIPs": ["None"], "ports": [{"port": 9}]})),
            service("d", "alias", json!({"type": "ExternalName", "externalName": "example.com"})),
            service("other", "far", json!({"clusterIPs": ["10.96.0.9"], "ports": [{"port": 9}]})),
        ],
    );
    let found = |links: Option<bool>, has_services: bool| -> Vec<(String, String)> {
        let container = json!({"name": "a", "env": [{"name": "SIX_PORT", "value": "mine"}, {"name": "URL", "value": "$(WEB_1_PORT)"}]});
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "d"},
            "spec": {"containers": [container], "enableServiceLinks": links},
        }))
        .unwrap();
        let node = NodeFacts { has_services, ..NodeFacts::default() };
        environment(&pod, &pod.spec.containers[0], &node, &objects).unwrap().into_iter().collect()
    };
    let expected = [
        ("SIX_PORT", "mine"),
        ("SIX_PORT_9_TCP", "tcp://[fd00::8]:9"),
        ("SIX_PORT_9_TCP_ADDR", "fd00::8"),
        ("SIX_PORT_9_TCP_PORT", "9"),
        ("SIX_PORT_9_TCP_PROTO", "tcp"),
        ("SIX_SERVICE_HOST", "fd00::8"),
        ("SIX_SERVICE_PORT", "9"),
        ("URL", "tcp://10.96.0.7:80"),
        ("WEB_1_PORT", "tcp://10.96.0.7:80"),
        ("WEB_1_PORT_53_UDP", "udp://10.96.0.7:53"),
        ("WEB_1_PORT_53_UDP_ADDR", "10.96.0.7"),
        ("WEB_1_PORT_53_UDP_PORT", "53"),
        ("WEB_1_PORT_53_UDP_PROTO", "udp"),
        ("WEB_1_PORT_80_TCP", "tcp://10.96.0.7:80"),
        ("WEB_1_PORT_80_TCP_ADDR", "10.96.0.7"),
        ("WEB_1_PORT_80_TCP_PORT", "80"),
        ("WEB_1_PORT_80_TCP_PROTO", "tcp"),
        ("WEB_1_SERVICE_HOST", "10.96.0.7"),
        ("WEB_1_SERVICE_PORT", "80"),
        ("WEB_1_SERVICE_PORT_DNS_UDP", "53"),
        ("WEB_1_SERVICE_PORT_HTTP", "80"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(found(None, true), expected);
    assert_eq!(found(Some(true), true), expected);
    let own = [("SIX_PORT", "mine"), ("URL", "$(WEB_1_PORT)")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(found(Some(false), true), own);
    assert_eq!(found(None, false), own, "programs of the node reach the hub alone");
}

#[test]
fn base64_is_read_as_the_hub_reads_it_and_what_is_none_is_named() {
    let of = |key: &str| json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "old", "key": key, "optional": true}}}]});
    check(of("wrapped"), &[("A", "hunter")]);
    check(of("loose"), &[("A", "x")]);
    let expected = "the value of key bad in secret old is not base64: illegal base64 data at input byte 0";
    check_refused(of("bad"), expected);
    check_refused(json!({"envFrom": [{"secretRef": {"name": "old"}}]}), expected);
}

#[test]
fn what_is_optional_may_be_missing_and_what_is_not_is_named() {
    let reference = |kind: &str, name: &str, key: &str, optional: bool| json!({"env": [{"name": "A", "valueFrom": {kind: {"name": name, "key": key, "optional": optional}}}]});
    check(reference("configMapKeyRef", "none", "a", true), &[]);
    check(reference("configMapKeyRef", "c", "none", true), &[]);
    check_refused(reference("configMapKeyRef", "none", "a", false), "configmap \"none\" not found");
    check_refused(reference("secretKeyRef", "s", "none", false), "couldn't find key none in secret s");
    check_refused(reference("configMapKeyRef", "c", "z", false), "the value of key z in configmap c is not text");
    check_refused(reference("secretKeyRef", "late", "a", true), "secret \"late\" was not fetched from the hub yet");
    check_refused(
        json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}}]}),
        "field path `spec.x` is not supported",
    );
}

#[test]
fn references_are_expanded_and_dollars_escaped() {
    let environment = BTreeMap::from([("A".to_owned(), "1".to_owned()), ("B".to_owned(), "$(A)".to_owned())]);
    for (text, expected) in [
        ("$(A)", "1"),
        ("$(B)", "$(A)"),
        ("$$(A)", "$(A)"),
        ("$A", "$A"),
        ("$(A", "$(A"),
        ("x$", "x$"),
        ("$$$(A)", "$1"),
        ("ü$(A)ü", "ü1ü"),
        ("$()", "$()"),
    ] {
        assert_eq!(expand(text, &environment).as_deref(), Some(expected), "{text}");
    }
}

#[test]
fn variables_that_double_each_other_take_no_memory() {
    let mut environment = BTreeMap::from([("A0".to_owned(), "xx".to_owned())]);
    let failed = (1..40).find(|number| {
        let value = expand(&format!("$(A{0})$(A{0})", number - 1), &environment);
        value.map(|value| environment.insert(format!("A{number}"), value)).is_none()
    });
    assert_eq!(failed, Some(17));
}

proptest! {
    #[test]
    fn text_without_dollars_is_unchanged_and_no_text_panics(text in "\\PC*") {
        let expanded = expand(&text, &BTreeMap::new());
        if !text.contains("$$") {
            prop_assert_eq!(expanded, Some(text));
        }
    }
}
