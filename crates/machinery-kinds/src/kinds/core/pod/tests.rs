//! What is filled in, kept and dropped of pods and of what makes pods.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{Creation, Registry, ResourceInfo};

fn info(group: &str, plural: &str) -> Arc<ResourceInfo> {
    Registry::builtin().resource(group, "v1", plural).expect("a built-in kind").clone()
}

/// An object as a server stores it: defaults, then what is the server's.
fn created(group: &str, plural: &str, mut object: Value) -> Value {
    let info = info(group, plural);
    info.apply_defaults(&mut object).expect("a small object");
    let creation = Creation { uid: "u", now: "2026-01-01T00:00:00Z", user: "me", groups: &[] };
    info.prepare_create(&mut object, &creation);
    info.apply_defaults(&mut object).expect("a small object");
    object
}

/// A template with one container, before and after defaults.
fn template() -> (Value, Value) {
    let before = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "m", "image": "web:1"}]}});
    let after = json!({
        "metadata": {"labels": {"a": "b"}},
        "spec": {
            "containers": [{
                "name": "m", "image": "web:1", "resources": {}, "imagePullPolicy": "IfNotPresent",
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            }],
            "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
            "securityContext": {}, "schedulerName": "default-scheduler",
        },
    });
    (before, after)
}

#[test]
fn workloads_are_stored_with_what_controllers_rely_on() {
    let (before, after) = template();
    for (plural, given, spec, status) in [
        (
            "deployments",
            json!({}),
            json!({
                "replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}},
            }),
            json!({}),
        ),
        ("replicasets", json!({}), json!({"replicas": 1}), json!({"replicas": 0})),
        (
            "daemonsets",
            json!({"updateStrategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}}),
            json!({
                "revisionHistoryLimit": 10,
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            }),
            json!({
                "currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0,
            }),
        ),
        (
            "statefulsets",
            json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}}]}),
            json!({
                "replicas": 1, "revisionHistoryLimit": 10, "podManagementPolicy": "OrderedReady",
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
                "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
                "volumeClaimTemplates": [{
                    "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
                    "spec": {"resources": {}, "volumeMode": "Filesystem"}, "status": {"phase": "Pending"},
                }],
            }),
            json!({"replicas": 0, "availableReplicas": 0}),
        ),
    ] {
        let mut object = json!({"metadata": {"name": "one"}, "spec": given});
        object["spec"]["template"] = before.clone();
        let object = created("apps", plural, object);
        let mut expected = spec;
        expected["template"] = after.clone();
        assert_eq!(object["spec"], expected, "{plural}");
        assert_eq!(object["status"], status, "{plural}");
    }
}

#[test]
fn a_job_selects_its_pods_by_its_own_uid() {
    let (before, _) = template();
    let (mut bare, _) = template();
    bare["metadata"] = json!({});
    let of_server = created("batch", "jobs", json!({"metadata": {"name": "one"}, "spec": {"template": bare}}));
    let labels = &of_server["spec"]["template"]["metadata"]["labels"];
    assert_eq!(labels.as_object().map(|labels| labels.len()), Some(4));
    assert_eq!(&of_server["metadata"]["labels"], labels, "when it is read back");
    let job = created("batch", "jobs", json!({"metadata": {"name": "one"}, "spec": {"template": before}}));
    let labels = json!({
        "a": "b", "job-name": "one", "batch.kubernetes.io/job-name": "one", "controller-uid": "u",
        "batch.kubernetes.io/controller-uid": "u",
    });
    assert_eq!(job["spec"]["template"]["metadata"]["labels"], labels);
    assert_eq!(job["metadata"]["labels"], labels, "a job without labels has those of its pods");
    assert_eq!(job["spec"]["selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}}));
    assert_eq!(job["status"], json!({}));
    for (field, value) in [
        ("completions", json!(1)),
        ("parallelism", json!(1)),
        ("backoffLimit", json!(6)),
        ("completionMode", json!("NonIndexed")),
        ("suspend", json!(false)),
        ("podReplacementPolicy", json!("TerminatingOrFailed")),
        ("manualSelector", json!(false)),
    ] {
        assert_eq!(job["spec"][field], value, "{field}");
    }
}

#[test]
fn a_new_template_of_a_daemon_set_is_counted() {
    let (before, _) = template();
    let set = created("apps", "daemonsets", json!({"metadata": {"name": "one"}, "spec": {"template": before}}));
    let annotation = "/metadata/annotations/deprecated.daemonset.template.generation";
    let counted = |set: &Value| set.pointer(annotation).map_or(String::new(), |text| text.as_str().unwrap().to_owned());
    assert_eq!(counted(&set), "1");
    let daemon_sets = info("apps", "daemonsets");
    for (pointer, value, generations) in [
        ("/spec/minReadySeconds", json!(5), (2, "1")),
        ("/spec/template/spec/restartPolicy", json!("Never"), (2, "2")),
        ("/metadata/labels", json!({"x": "y"}), (1, "1")),
    ] {
        let mut new = set.clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        new.pointer_mut(parent).unwrap()[key] = value;
        new["metadata"]["annotations"] = json!({});
        daemon_sets.prepare_update(None, &mut new, &set);
        assert_eq!((new["metadata"]["generation"].as_i64().unwrap(), counted(&new).as_str()), generations, "{pointer}");
    }
}

#[test]
fn annotations_of_a_deployment_count_as_its_spec() {
    let (before, _) = template();
    let old = created("apps", "deployments", json!({"metadata": {"name": "one"}, "spec": {"template": before}}));
    let mut new = old.clone();
    new["metadata"]["annotations"] = json!({"a": "b"});
    info("apps", "deployments").prepare_update(None, &mut new, &old);
    assert_eq!(new["metadata"]["generation"], 2);
}

#[test]
fn a_gated_pod_says_so_from_the_beginning() {
    let (template, _) = template();
    let mut pod = json!({"metadata": {"name": "one"}, "spec": template["spec"]});
    pod["spec"]["schedulingGates"] = json!([{"name": "example.com/wait"}]);
    let pod = created("", "pods", pod);
    assert_eq!(
        pod["status"],
        json!({"phase": "Pending", "qosClass": "BestEffort", "conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "lastProbeTime": null,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
        }]})
    );
}

#[test]
fn a_pod_as_a_whole_requests_what_its_containers_do() {
    let (template, _) = template();
    let mut pod = json!({"metadata": {"name": "one"}, "spec": template["spec"]});
    pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "100m"}});
    pod["spec"]["initContainers"] = json!([{"name": "i", "image": "x:1", "resources": {"requests": {"cpu": "300m"}}}]);
    pod["spec"]["resources"] = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
    let pod = created("", "pods", pod);
    assert_eq!(pod["spec"]["resources"]["requests"], json!({"cpu": "300m", "memory": "1Gi"}));
}

#[test]
fn each_part_of_a_pod_is_written_through_its_own_url() {
    let (template, _) = template();
    let old = created("", "pods", json!({"metadata": {"name": "one"}, "spec": template["spec"]}));
    let mut sent = old.clone();
    sent["spec"]["containers"][0]["image"] = json!("web:2");
    sent["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "1"}});
    sent["spec"]["ephemeralContainers"] = json!([{"name": "debug"}]);
    sent["metadata"]["labels"] = json!({"x": "y"});
    sent["status"] = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    let pods = info("", "pods");
    let after = |part: Option<&str>| {
        let mut new = sent.clone();
        pods.prepare_update(part, &mut new, &old);
        new
    };
    let whole = after(None);
    assert_eq!((&whole["spec"], &whole["status"]), (&sent["spec"], &old["status"]));
    assert_eq!(whole["metadata"]["generation"], 2);
    let status = after(Some("status"));
    assert_eq!(status["spec"], old["spec"]);
    assert_eq!((&status["status"]["phase"], &status["status"]["qosClass"]), (&json!("Running"), &json!("BestEffort")));
    assert_eq!((&status["metadata"]["labels"], &status["metadata"]["generation"]), (&json!({"x": "y"}), &json!(1)));
    let debugged = after(Some("ephemeralcontainers"));
    assert_eq!(debugged["spec"]["containers"], old["spec"]["containers"]);
    assert_eq!(debugged["spec"]["ephemeralContainers"], json!([{"name": "debug"}]));
    assert_eq!((&debugged["metadata"]["labels"], &debugged["metadata"]["generation"]), (&Value::Null, &json!(2)));
    let resized = after(Some("resize"));
    assert_eq!(resized["spec"]["containers"][0]["image"], "web:1");
    assert_eq!(resized["spec"]["containers"][0]["resources"], json!({"limits": {"cpu": "1"}}));
    assert_eq!(resized["spec"].get("ephemeralContainers"), None);
}

/// The warnings about a new object.
fn warned(group: &str, plural: &str, object: Value) -> Vec<String> {
    let object = created(group, plural, object);
    info(group, plural).warnings(&object, None)
}

#[test]
fn what_will_not_do_what_its_author_thinks_is_warned_of() {
    let spec = json!({
        "nodeSelector": {"beta.kubernetes.io/os": "linux"},
        "topologySpreadConstraints": [{"topologyKey": "zone"}],
        "imagePullSecrets": [{"name": "a"}, {"name": "a"}, {}],
        "volumes": [
            {"name": "g", "gitRepo": {"repository": "x"}},
            {"name": "c", "configMap": {"name": "m", "items": [{"key": "a", "path": "a"}, {"key": "b", "path": "a/b"}]}},
        ],
        "containers": [
            {"name": "m", "image": "x:1", "ports": [{"containerPort": 80, "name": "web"}, {"containerPort": 80}],
             "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "$(A)2"}, {"name": "A", "value": "3"}],
             "resources": {"limits": {"memory": "1500m"}}},
            {"name": "n", "image": "x:1", "ports": [{"containerPort": 81, "name": "web"}]},
        ],
    });
    let expected = [
        "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
        "spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
        "spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+",
        "volume \"c\" (ConfigMap \"m\"): overlapping paths: \"a/b\" with \"a\"",
        "spec.imagePullSecrets[1].name: duplicate name \"a\"",
        "spec.imagePullSecrets[2].name: invalid empty name \"\"",
        "spec.containers[0].resources.limits[memory]: fractional byte value \"1500m\" is invalid, must be an integer",
        "spec.containers[0].resources.requests[memory]: fractional byte value \"1500m\" is invalid, must be an integer",
        "spec.containers[0].env[2]: hides previous definition of \"A\", which may be dropped when using apply",
        "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
        "spec.containers[1].ports[0]: duplicate port name \"web\" with spec.containers[0].ports[0], services and probes \
         that select ports by name will use spec.containers[0].ports[0]",
    ];
    let pod = json!({"metadata": {"name": "one"}, "spec": spec});
    assert_eq!(warned("", "pods", pod), expected);
    // Requests of a template's containers are not filled in.
    let in_template = expected.iter().filter(|warning| !warning.contains("resources.requests"));
    let in_template: Vec<String> = in_template.map(|warning| warning.replace("spec.", "spec.template.spec.")).collect();
    let set = json!({"metadata": {"name": "one"}, "spec": {"template": {"spec": spec}}});
    assert_eq!(warned("apps", "daemonsets", set.clone()), in_template);
    let mut old = created("apps", "daemonsets", set);
    old["metadata"]["annotations"]["deprecated.daemonset.template.generation"] = json!("1");
    assert_eq!(info("apps", "daemonsets").warnings(&old.clone(), Some(&old)), [""; 0], "nothing new");
    let named = json!({"metadata": {"name": "a.b"}, "spec": {"containers": [{"name": "m", "image": "x:1"}]}});
    let warnings = warned("", "pods", named);
    assert!(
        warnings[0].starts_with("metadata.name: this is used in the Pod's hostname, which can result"),
        "{warnings:?}"
    );
}
