use machinery_schema::Registry;

use super::*;

fn info(group: &str, plural: &str) -> std::sync::Arc<ResourceInfo> {
    Registry::builtin().resource(group, "v1", plural).unwrap().clone()
}

#[test]
fn the_author_of_a_new_object_does_not_choose_what_the_server_owns() {
    let mut pod = json!({
        "metadata": {"name": "web", "uid": "mine", "generation": 9, "resourceVersion": "4", "managedFields": [],
                     "deletionTimestamp": "2020-01-01T00:00:00Z"},
        "spec": {"containers": [{"resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]},
        "status": {"phase": "Running"},
    });
    prepare_create(&info("", "pods"), &mut pod, &Identity::new("a", ["b"]), "2026-01-01T00:00:00Z");
    assert_ne!(uid(&pod), "mine");
    assert_eq!(pod["metadata"]["generation"], 1);
    assert_eq!(pod["metadata"]["creationTimestamp"], "2026-01-01T00:00:00Z");
    assert_eq!(pod["status"], json!({"phase": "Pending", "qosClass": "Guaranteed"}));
    for field in ["resourceVersion", "managedFields", "deletionTimestamp"] {
        assert!(pod["metadata"].get(field).is_none(), "{field}");
    }
}

fn uid(object: &Value) -> &str {
    text_at(object, "/metadata/uid")
}

#[test]
fn a_signing_request_carries_the_name_of_its_caller() {
    let mut csr =
        json!({"metadata": {"name": "a"}, "spec": {"username": "system:node:other", "groups": ["system:masters"]}});
    let caller = Identity::new("system:bootstrap:abcdef", ["system:bootstrappers"]);
    prepare_create(&info("certificates.k8s.io", "certificatesigningrequests"), &mut csr, &caller, "");
    assert_eq!(csr["spec"]["username"], "system:bootstrap:abcdef");
    assert_eq!(csr["spec"]["groups"], json!(["system:bootstrappers", "system:authenticated"]));
}

#[test]
fn string_data_becomes_data() {
    let mut secret = json!({"metadata": {"name": "a"}, "data": {"x": "eA=="}, "stringData": {"y": "y", "x": "z"}});
    prepare_create(&info("", "secrets"), &mut secret, &Identity::new("a", ["b"]), "");
    assert_eq!(secret["data"], json!({"x": "eg==", "y": "eQ=="}));
    assert!(secret.get("stringData").is_none());
}

#[test]
fn spec_and_status_are_written_through_their_own_doors() {
    let daemon_sets = info("apps", "daemonsets");
    let old = json!({"metadata": {"name": "a", "uid": "u", "generation": 3}, "spec": {"a": 1}, "status": {"b": 1}});
    let sent = json!({"metadata": {"name": "a", "labels": {"x": "y"}}, "spec": {"a": 2}, "status": {"b": 2}});

    let mut new = sent.clone();
    prepare_update(&daemon_sets, None, &mut new, &old);
    assert_eq!(new["spec"], json!({"a": 2}));
    assert_eq!(new["status"], json!({"b": 1}));
    assert_eq!(new["metadata"], json!({"name": "a", "uid": "u", "generation": 4, "labels": {"x": "y"}}));

    let mut new = sent;
    prepare_update(&daemon_sets, Some("status"), &mut new, &old);
    assert_eq!(new, json!({"metadata": old["metadata"], "spec": {"a": 1}, "status": {"b": 2}}));
}

#[test]
fn an_object_that_is_going_takes_no_new_finalizer() {
    let old = json!({"metadata": {"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["x/one"]}});
    let mut new = json!({"metadata": {"name": "a", "finalizers": ["x/one", "x/two"]}});
    prepare_update(&info("", "configmaps"), None, &mut new, &old);
    assert_eq!(new["metadata"]["finalizers"], json!(["x/one"]));
    assert_eq!(new["metadata"]["deletionTimestamp"], "2026-01-01T00:00:00Z");
}
