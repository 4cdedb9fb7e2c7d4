use serde_json::json;

use super::*;

fn of(group: &str, version: &str, kind: &str) -> Type {
    Type::of_kind(group, version, kind).unwrap_or_else(|| panic!("{kind} is published"))
}

#[track_caller]
fn check_error(kind: (&str, &str), mut object: Value, expected: &str) {
    let error = decode(of(kind.0, "v1", kind.1), &mut object).expect_err("a wrong type");
    assert_eq!(error.to_string(), expected);
}

#[test]
fn a_wrong_type_is_reported_in_the_words_of_go() {
    check_error(
        ("apps", "Deployment"),
        json!({"spec": {"replicas": "3"}}),
        "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
    );
    check_error(
        ("", "Pod"),
        json!({"metadata": {"labels": "text"}}),
        "json: cannot unmarshal string into Go struct field ObjectMeta.metadata.labels of type map[string]string",
    );
    check_error(
        ("", "ConfigMap"),
        json!({"data": {"n": 1}}),
        "json: cannot unmarshal number into Go struct field ConfigMap.data of type string",
    );
    check_error(("", "ConfigMap"), json!({"binaryData": {"z": "!!"}}), "illegal base64 data at input byte 0");
    check_error(
        ("apiextensions.k8s.io", "CustomResourceDefinition"),
        json!({"spec": {"versions": [{"schema": {"openAPIV3Schema": {"properties": {"a": {"type": ["x"]}}}}}]}}),
        "json: cannot unmarshal array into Go struct field \
         JSONSchemaProps.spec.versions.schema.openAPIV3Schema.properties.type of type string",
    );
    check_error(
        ("coordination.k8s.io", "Lease"),
        json!({"spec": {"renewTime": "yesterday"}}),
        "parsing time \"yesterday\" as \"2006-01-02T15:04:05.000000Z07:00\": cannot parse \"yesterday\" as \"2006\"",
    );
    check_error(
        ("coordination.k8s.io", "Lease"),
        json!({"spec": {"renewTime": "2026-01-02T03:04:06Z"}}),
        "parsing time \"2026-01-02T03:04:06Z\" as \"2006-01-02T15:04:05.000000Z07:00\": cannot parse \"Z\" as \".000000\"",
    );
}

#[test]
fn unknown_fields_and_zeros_are_taken_away() {
    let mut pod = json!({"metadata": {"name": "a", "zzz": true, "labels": null},
        "spec": {"hostNetwork": false, "containers": [{"name": "c", "nope": 1, "tty": false}], "terminationGracePeriodSeconds": 0},
        "nonsense": 1});
    let unknown = decode(of("", "v1", "Pod"), &mut pod).expect("types are right");
    assert_eq!(unknown, ["metadata.zzz", "nonsense", "spec.containers[0].nope"]);
    let expected = json!({"metadata": {"name": "a"},
        "spec": {"containers": [{"name": "c"}], "terminationGracePeriodSeconds": 0}});
    assert_eq!(pod, expected, "a pointer to zero is not nil");
}

#[test]
fn a_complete_object_has_what_go_always_writes() {
    let mut pod =
        json!({"kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [{"name": "c"}], "volumes": []}});
    complete(of("", "v1", "Pod"), &mut pod);
    let expected = json!({"kind": "Pod", "metadata": {"name": "a"},
        "spec": {"containers": [{"name": "c", "resources": {}}]}, "status": {}});
    assert_eq!(pod, expected);
    let mut role = json!({"metadata": {"name": "a"}});
    complete(of("rbac.authorization.k8s.io", "v1", "Role"), &mut role);
    assert_eq!(role, json!({"metadata": {"name": "a"}, "rules": null}));
}

#[test]
fn quantities_and_times_come_into_their_canonical_form() {
    let mut pod = json!({"metadata": {"creationTimestamp": "2026-01-01T02:00:00.5+02:00"},
        "spec": {"containers": [{"resources": {"limits": {"cpu": 0.1, "memory": "1024Mi"}}}]}});
    decode(of("", "v1", "Pod"), &mut pod).expect("types are right");
    assert_eq!(pod["metadata"]["creationTimestamp"], "2026-01-01T00:00:00Z");
    assert_eq!(pod["spec"]["containers"][0]["resources"]["limits"], json!({"cpu": "100m", "memory": "1Gi"}));
}

#[test]
fn bytes_come_into_the_canonical_form_of_their_base64() {
    let mut secret =
        json!({"data": {"wrapped": "QUJD\nREVG\r\n", "loose": "eB==", "plain": "eA==", "empty": "\n", "null": null}});
    decode(of("", "v1", "Secret"), &mut secret).expect("types are right");
    let expected = json!({"wrapped": "QUJDREVG", "loose": "eA==", "plain": "eA==", "empty": "", "null": ""});
    assert_eq!(secret["data"], expected);
    let mut hook = json!({"webhooks": [{"name": "a", "clientConfig": {"caBundle": "QUJD\n"}}]});
    decode(of("admissionregistration.k8s.io", "v1", "ValidatingWebhookConfiguration"), &mut hook)
        .expect("types are right");
    assert_eq!(hook["webhooks"][0]["clientConfig"]["caBundle"], "QUJD");
}

#[test]
fn what_is_complete_stays_as_it_is() {
    for row in crate::types::all_kinds() {
        let mut object = json!({});
        complete(row, &mut object);
        let once = object.clone();
        complete(row, &mut object);
        assert_eq!(object, once, "{row:?}");
        decode(row, &mut object).expect("what we write can be read");
        complete(row, &mut object);
        assert_eq!(object, once, "{row:?}");
    }
}
