//! What the server does to kinds, and what can be looked up about their objects.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::Registry;

fn info(group: &str, plural: &str) -> Arc<ResourceInfo> {
    Registry::builtin().resource(group, "v1", plural).expect("a built-in kind").clone()
}

fn create(info: &ResourceInfo, object: &mut Value) {
    let groups = ["system:bootstrappers".to_owned(), "system:authenticated".to_owned()];
    let creation =
        Creation { uid: "fresh", now: "2026-01-01T00:00:00Z", user: "system:bootstrap:abcdef", groups: &groups };
    info.prepare_create(object, &creation);
}

#[test]
fn the_author_of_a_new_object_does_not_choose_what_the_server_owns() {
    let mut pod = json!({
        "metadata": {"name": "web", "uid": "mine", "generation": 9, "resourceVersion": "4", "managedFields": [],
                     "deletionTimestamp": "2020-01-01T00:00:00Z"},
        "spec": {"containers": [{"resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]},
        "status": {"phase": "Running"},
    });
    create(&info("", "pods"), &mut pod);
    let metadata = json!({"name": "web", "uid": "fresh", "generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z"});
    assert_eq!(pod["metadata"], metadata);
    assert_eq!(pod["status"], json!({"phase": "Pending", "qosClass": "Guaranteed"}));
}

#[test]
fn a_new_namespace_keeps_the_finalizers_of_others_beside_ours() {
    let namespaces = info("", "namespaces");
    for (given, expected) in [
        (json!(null), json!(["kubernetes"])),
        (json!({}), json!(["kubernetes"])),
        (json!({"finalizers": null}), json!(["kubernetes"])),
        (json!({"finalizers": ["example.com/mine"]}), json!(["example.com/mine", "kubernetes"])),
        (json!({"finalizers": ["kubernetes", "example.com/mine"]}), json!(["kubernetes", "example.com/mine"])),
    ] {
        let mut namespace = json!({"metadata": {"name": "line-2"}, "spec": given});
        create(&namespaces, &mut namespace);
        assert_eq!(namespace["spec"]["finalizers"], expected);
        // Later they change through the subresource alone.
        let mut update = json!({"metadata": {"name": "line-2"}, "spec": {"finalizers": []}});
        namespaces.prepare_update(None, &mut update, &namespace);
        assert_eq!(update["spec"]["finalizers"], expected);
        let mut finalize = json!({"metadata": {"name": "line-2"}, "spec": {"finalizers": ["example.com/mine"]}});
        namespaces.prepare_update(Some("finalize"), &mut finalize, &namespace);
        assert_eq!(finalize["spec"]["finalizers"], json!(["example.com/mine"]));
    }
}

#[test]
fn a_finalizer_of_a_namespace_is_standard_or_has_a_domain() {
    for (finalizer, is_good) in [
        ("kubernetes", true),
        ("orphan", true),
        ("example.com/mine", true),
        ("mine", false),
        ("a b/c", false),
        ("", false),
    ] {
        let namespace = json!({"metadata": {"name": "line-2"}, "spec": {"finalizers": [finalizer]}});
        assert_eq!(info("", "namespaces").validate(&namespace).is_empty(), is_good, "{finalizer}");
    }
}

#[test]
fn a_signing_request_carries_the_name_of_its_caller() {
    let mut csr =
        json!({"metadata": {"name": "a"}, "spec": {"username": "system:node:other", "groups": ["system:masters"]}});
    create(&info("certificates.k8s.io", "certificatesigningrequests"), &mut csr);
    assert_eq!(csr["spec"]["username"], "system:bootstrap:abcdef");
    assert_eq!(csr["spec"]["groups"], json!(["system:bootstrappers", "system:authenticated"]));
}

#[test]
fn string_data_becomes_data() {
    let mut secret = json!({"metadata": {"name": "a"}, "data": {"x": "eA=="}, "stringData": {"y": "y", "x": "z"}});
    create(&info("", "secrets"), &mut secret);
    assert_eq!(secret["data"], json!({"x": "eg==", "y": "eQ=="}));
    assert!(secret.get("stringData").is_none());
}

#[test]
fn a_node_brings_its_status_and_no_other_kind_does() {
    let sent = json!({"metadata": {"name": "a"}, "status": {"addresses": []}});
    let mut node = sent.clone();
    create(&info("", "nodes"), &mut node);
    assert_eq!(node["status"], sent["status"]);
    let mut set = sent;
    create(&info("apps", "daemonsets"), &mut set);
    assert!(set["status"].get("addresses").is_none());
}

#[test]
fn spec_and_status_are_written_through_their_own_urls() {
    let replica_sets = info("apps", "replicasets");
    let old = json!({"metadata": {"name": "a", "uid": "u", "generation": 3}, "spec": {"a": 1}, "status": {"b": 1}});
    let sent = json!({"metadata": {"name": "a", "labels": {"x": "y"}}, "spec": {"a": 2}, "status": {"b": 2}});

    let mut new = sent.clone();
    replica_sets.prepare_update(None, &mut new, &old);
    assert_eq!(new["spec"], json!({"a": 2}));
    assert_eq!(new["status"], json!({"b": 1}));
    assert_eq!(new["metadata"], json!({"name": "a", "uid": "u", "generation": 4, "labels": {"x": "y"}}));

    let mut new = sent;
    replica_sets.prepare_update(Some("status"), &mut new, &old);
    // As upstream: labels and annotations may be written along with a status.
    let metadata = json!({"name": "a", "uid": "u", "generation": 3, "labels": {"x": "y"}});
    assert_eq!(new, json!({"metadata": metadata, "spec": {"a": 1}, "status": {"b": 2}}));
}

#[test]
fn a_status_of_the_wrong_type_is_left_for_validation() {
    let requests = info("certificates.k8s.io", "certificatesigningrequests");
    let old = json!({"metadata": {"name": "a"}, "status": {"conditions": [{"type": "Approved"}]}});
    for (part, status) in [("status", json!("x")), ("approval", json!(["x"])), ("status", Value::Null)] {
        let mut new = json!({"metadata": {"name": "a"}, "status": status});
        requests.prepare_update(Some(part), &mut new, &old);
        assert!(new["metadata"].is_object(), "{part}");
    }
    let mut issued = json!({"status": {"certificate": "x"}});
    requests.prepare_update(Some("status"), &mut issued, &old);
    // Conditions that were left out are missed by the rules, not put back.
    assert_eq!(issued["status"], json!({"certificate": "x"}));
}

#[test]
fn an_object_that_is_being_deleted_takes_no_new_finalizer() {
    let metadata = json!({
        "name": "a", "namespace": "n", "uid": "u", "resourceVersion": "4", "deletionGracePeriodSeconds": 0,
        "creationTimestamp": "2025-01-01T00:00:00Z", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["x/one"],
    });
    let old = json!({"metadata": metadata});
    let mut new = json!({"metadata": {"name": "a", "finalizers": ["x/one", "x/two"]}});
    let maps = info("", "configmaps");
    maps.prepare_update(None, &mut new, &old);
    assert_eq!(new["metadata"]["deletionTimestamp"], "2026-01-01T00:00:00Z");
    // The common rules find it, and those of the kind do.
    let line = "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"x/two\"}";
    let errors: Vec<String> = maps.validate_update(None, &new, &old).iter().map(ToString::to_string).collect();
    assert_eq!(errors, [line, line]);
}

#[test]
fn what_a_client_may_not_change_is_reported_and_what_it_cannot_change_is_ignored() {
    let old = json!({"metadata": {"name": "a", "namespace": "n", "uid": "u", "resourceVersion": "4", "generation": 2}});
    let check = |key: &str, value: Value, expected: &[&str]| {
        let mut new = old.clone();
        new["metadata"][key] = value;
        let maps = info("", "configmaps");
        maps.prepare_update(None, &mut new, &old);
        let errors: Vec<String> = maps.validate_update(None, &new, &old).iter().map(ToString::to_string).collect();
        assert_eq!(errors, expected, "{key}");
    };
    check("generation", json!(7), &[]);
    check("resourceVersion", json!(""), &[]);
    check("uid", json!(""), &[]);
    let line = "metadata.uid: Invalid value: \"v\": field is immutable";
    check("uid", json!("v"), &[line, line]);
    let line = "metadata.deletionTimestamp: Invalid value: \"2026-01-01T00:00:00Z\": field is immutable";
    check("deletionTimestamp", json!("2026-01-01T00:00:00Z"), &[line, line]);
    // Finalizers are looked at in the kind's own rules alone, which are those of a new object and those of a change.
    let line = "metadata.finalizers[0]: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully qualified";
    check("finalizers", json!(["mine"]), &[line, line]);
}

#[test]
fn an_owner_is_named_once() {
    let owner = |uid: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": uid});
    let mut object = json!({"metadata": {"ownerReferences": [owner("1"), owner("2"), owner("1")]}});
    let warning = crate::dedup_owner_references(&mut object, false).expect("one is named twice");
    assert!(
        warning.starts_with(".metadata.ownerReferences contains duplicate entries; API server dedups"),
        "{warning}"
    );
    assert!(warning.ends_with("duplicate UID(s) observed: 1"), "{warning}");
    assert_eq!(object["metadata"]["ownerReferences"], json!([owner("1"), owner("2")]));
    assert_eq!(crate::dedup_owner_references(&mut object, true), None);
}

#[test]
fn names_and_the_beginnings_of_names_are_checked_by_the_rule_of_the_kind() {
    let check = |rule: NameRule, name: &str, is_prefix: bool, is_good: bool| {
        assert_eq!(rule.messages(name, is_prefix).is_empty(), is_good, "{rule:?} {name}");
    };
    check(NameRule::Subdomain, "a-", true, true);
    check(NameRule::Subdomain, "a-", false, false);
    check(NameRule::Label, "a.b", false, false);
    check(NameRule::PathSegment, "system:node proxy", false, true);
    check(NameRule::PathSegment, "..", false, false);
    check(NameRule::PathSegment, "a/b", true, false);
}

#[test]
fn an_object_goes_when_its_node_and_its_finalizers_let_it() {
    let going = |grace: i64| json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": grace});
    let pods = info("", "pods");
    let bound = json!({"spec": {"nodeName": "n", "terminationGracePeriodSeconds": 5}, "status": {"phase": "Running"}});
    assert_eq!(pods.grace_seconds(&bound), Some(5));
    assert_eq!(pods.grace_seconds(&json!({"spec": {"nodeName": "n"}})), Some(30));
    assert_eq!(pods.grace_seconds(&json!({"spec": {}})), None, "nobody holds a pod without a node");
    assert_eq!(pods.grace_seconds(&json!({"spec": {"nodeName": "n"}, "status": {"phase": "Failed"}})), None);
    let with = |metadata: Value| {
        let mut pod = bound.clone();
        pod["metadata"] = metadata;
        pod
    };
    assert!(!pods.may_be_removed(&with(going(5))));
    assert!(pods.may_be_removed(&with(going(0))));
    assert!(!pods.may_be_removed(&with(json!({}))), "it is not being deleted");
    let namespaces = info("", "namespaces");
    let mut namespace = json!({"metadata": going(0), "spec": {"finalizers": ["kubernetes"]}});
    namespaces.begin_deletion(&mut namespace);
    assert_eq!(namespace["status"]["phase"], "Terminating");
    assert!(namespaces.is_held(&namespace) && !namespaces.may_be_removed(&namespace));
    namespace["spec"]["finalizers"] = json!([]);
    assert!(namespaces.may_be_removed(&namespace));
}

#[test]
fn leases_and_events_alone_are_acknowledged_early() {
    let registry = Registry::builtin();
    let lazy = registry.resources().filter(|info| info.durability() == Durability::Lazy).map(|info| &*info.kind);
    assert_eq!(lazy.collect::<Vec<_>>(), ["Event", "Lease", "Event"]);
}

#[test]
fn the_store_has_its_own_name_for_a_resource() {
    assert_eq!(&*info("", "pods").storage_key, "/pods");
    assert_eq!(&*info("apps", "daemonsets").storage_key, "apps/daemonsets");
    let mut registry = Registry::builtin();
    registry.install_crd(&crate::registry::tests::widgets()).expect("the definition is good");
    let widgets = registry.resource("example.com", "v1", "widgets").expect("installed");
    assert_eq!(&*widgets.storage_key, "example.com/widgets");
}

fn fields(info: &ResourceInfo, object: &Value) -> Vec<String> {
    let mut fields = Vec::new();
    info.index_fields(object, &mut |name, value| fields.push(format!("{name}={value}")));
    fields
}

#[test]
fn an_object_is_found_by_name_labels_and_owners() {
    let object = json!({"metadata": {
        "name": "a", "labels": {"app": "web", "bad": 1}, "ownerReferences": [{"uid": "u1"}, {"uid": ""}, {"uid": "u2"}],
    }});
    let expected =
        ["metadata.name=a", "label:app=web", "metadata.ownerReferences.uid=u1", "metadata.ownerReferences.uid=u2"];
    assert_eq!(fields(&info("", "configmaps"), &object), expected);
    assert!(!fields(&info("coordination.k8s.io", "leases"), &object).contains(&"metadata.name=a".to_owned()));
}

#[test]
fn a_pod_is_found_by_its_node_and_by_all_that_it_refers_to() {
    let mut pod = json!({
        "metadata": {"name": "p"},
        "spec": {
            "nodeName": "n", "serviceAccountName": "robot", "imagePullSecrets": [{"name": "pull"}],
            "containers": [{
                "env": [{"valueFrom": {"secretKeyRef": {"name": "s-env"}}}, {"valueFrom": {"configMapKeyRef": {"name": "c-env"}}}],
                "envFrom": [{"secretRef": {"name": "s-from"}}, {"configMapRef": {"name": "c-from"}}],
            }],
            "initContainers": [{"envFrom": [{"secretRef": {"name": "s-init"}}, {"secretRef": {"name": "s-from"}}]}],
            "ephemeralContainers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "s-debug"}}}]}],
            "volumes": [
                {"name": "a", "secret": {"secretName": "s-vol"}}, {"name": "b", "configMap": {"name": "c-vol"}},
                {"name": "c", "persistentVolumeClaim": {"claimName": "claim"}}, {"name": "d", "ephemeral": {}},
                {"name": "e", "projected": {"sources": [{"secret": {"name": "s-proj"}}, {"configMap": {"name": "c-proj"}}, {"downwardAPI": {}}]}},
                {"name": "f", "csi": {"driver": "x", "nodePublishSecretRef": {"name": "s-csi"}}},
                {"name": "g", "emptyDir": {}},
            ],
        },
    });
    let pods = info("", "pods");
    let found = fields(&pods, &pod);
    assert!(found.contains(&"spec.nodeName=n".to_owned()), "{found:?}");
    let refs: Vec<&str> = found.iter().filter_map(|field| field.strip_prefix("refs=")).collect();
    let expected = [
        "configmaps/c-env",
        "configmaps/c-from",
        "configmaps/c-proj",
        "configmaps/c-vol",
        "persistentvolumeclaims/claim",
        "persistentvolumeclaims/p-d",
        "secrets/pull",
        "secrets/s-csi",
        "secrets/s-debug",
        "secrets/s-env",
        "secrets/s-from",
        "secrets/s-init",
        "secrets/s-proj",
        "secrets/s-vol",
        "serviceaccounts/robot",
    ];
    assert_eq!(refs, expected, "each once");
    pod["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    assert!(!fields(&pods, &pod).iter().any(|field| field.starts_with("refs=")), "a mirror pod opens nothing");
}

#[test]
fn the_index_of_one_object_is_bounded() {
    let labels: Map<String, Value> = (0..300).map(|n| (format!("l{n}"), json!("x"))).collect();
    let owners: Vec<Value> =
        (0..300).map(|n| json!({"uid": format!("u{n}"), "apiVersion": "v1", "kind": "Pod", "name": "p"})).collect();
    let object = json!({"metadata": {"name": "a", "namespace": "d", "labels": labels, "ownerReferences": owners}});
    let maps = info("", "configmaps");
    let errors: Vec<String> = maps.validate(&object).iter().map(ToString::to_string).collect();
    let expected = ["metadata.labels: Too many: 300: must have", "metadata.ownerReferences: Too many: 300: must have"];
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors.iter().zip(expected).all(|(error, expected)| error.starts_with(expected)), "{errors:?}");
    assert_eq!(fields(&maps, &object).len(), 1 + 2 * INDEXED_ITEMS_MAX);
}

#[test]
fn a_variable_that_hides_another_is_stored_with_a_warning() {
    let spec = json!({"containers": [{"env": [{"name": "A"}, {"name": "B"}, {"name": "A"}]}]});
    let expected =
        "spec.containers[0].env[2]: hides previous definition of \"A\", which may be dropped when using apply";
    assert_eq!(info("", "pods").warnings(&json!({"metadata": {"name": "a"}, "spec": spec}), None), [expected]);
    let set = json!({"spec": {"template": {"spec": spec}}});
    assert_eq!(info("apps", "daemonsets").warnings(&set, None), [expected.replacen("spec", "spec.template.spec", 1)]);
}
