//! Rows as users see them.

use serde_json::{Value, json};

use super::{IncludeObject, human_duration, table};
use crate::Registry;

const NOW: &str = "2026-11-22T10:00:00Z";

fn row(plural: &str, object: Value) -> (Vec<String>, Vec<Value>) {
    let mut registry = Registry::builtin();
    registry.install_crd(&crate::registry::tests::widgets()).expect("the definition is good");
    let resource = registry.resources().find(|resource| &*resource.plural == plural).expect("served");
    let mut table = table(resource, [&object], NOW.parse().expect("a time"), IncludeObject::Metadata);
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let names = table["columnDefinitions"].as_array().expect("columns").iter();
    let names = names.map(|column| column["name"].as_str().unwrap_or_default().to_owned()).collect();
    let Value::Array(cells) = table["rows"][0]["cells"].take() else { panic!("a row has cells") };
    (names, cells)
}

/// The first cells of an object that was created 200 s ago.
#[track_caller]
fn check(plural: &str, mut object: Value, expected: Value) {
    object["metadata"]["name"] = json!("a");
    object["metadata"]["creationTimestamp"] = json!("2026-11-22T09:56:40Z");
    let (names, cells) = row(plural, object);
    assert_eq!(names.len(), cells.len(), "every column has a cell");
    let count = expected.as_array().map_or(0, Vec::len);
    assert_eq!(Value::from(cells[..count].to_vec()), expected);
}

/// READY, STATUS and RESTARTS of a pod with two containers.
#[track_caller]
fn check_pod(metadata: Value, status: Value, ready: &str, reason: &str, restarts: &str) {
    let spec =
        json!({"nodeName": "n", "containers": [{"name": "x"}, {"name": "y"}], "initContainers": [{"name": "i"}]});
    check(
        "pods",
        json!({"metadata": metadata, "spec": spec, "status": status}),
        json!(["a", ready, reason, restarts, "3m20s", "<none>", "n", "<none>", "<none>"]),
    );
}

#[test]
fn a_pods_status_sums_up_its_containers() {
    let running = json!({"ready": true, "restartCount": 0, "state": {"running": {}}});
    let done = json!({"restartCount": 0, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
    let failed = json!({"restartCount": 1, "state": {"terminated": {"exitCode": 3}}});
    let back_off = json!({"restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"finishedAt": "2026-11-22T09:59:00Z"}}});
    let ready = json!([{"type": "Ready", "status": "True"}, {"type": "Initialized", "status": "True"}]);
    check_pod(json!({}), json!({"phase": "Pending"}), "0/2", "Pending", "0");
    check_pod(json!({}), json!({"phase": "Running", "containerStatuses": [running, running]}), "2/2", "Running", "0");
    check_pod(
        json!({}),
        json!({"phase": "Running", "containerStatuses": [running, back_off]}),
        "1/2",
        "CrashLoopBackOff",
        "2 (60s ago)",
    );
    check_pod(json!({}), json!({"phase": "Succeeded", "containerStatuses": [done, done]}), "0/2", "Completed", "0");
    check_pod(json!({}), json!({"phase": "Failed", "containerStatuses": [done, failed]}), "0/2", "ExitCode:3", "1");
    check_pod(json!({}), json!({"phase": "Failed", "containerStatuses": [failed]}), "0/2", "ExitCode:3", "1");
    check_pod(
        json!({}),
        json!({"phase": "Running", "conditions": ready, "containerStatuses": [done, running]}),
        "1/2",
        "Running",
        "0",
    );
    check_pod(json!({}), json!({"phase": "Running", "containerStatuses": [done, running]}), "1/2", "NotReady", "0");
    check_pod(
        json!({"deletionTimestamp": "x"}),
        json!({"phase": "Running", "containerStatuses": [running, running]}),
        "2/2",
        "Terminating",
        "0",
    );
    check_pod(
        json!({}),
        json!({"phase": "Failed", "reason": "UnexpectedAdmissionError"}),
        "0/2",
        "UnexpectedAdmissionError",
        "0",
    );
    check_pod(
        json!({}),
        json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]}),
        "0/2",
        "Init:0/1",
        "0",
    );
    check_pod(
        json!({}),
        json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"waiting": {"reason": "ErrImagePull"}}}]}),
        "0/2",
        "Init:ErrImagePull",
        "0",
    );
    check_pod(
        json!({}),
        json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "restartCount": 1, "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]}),
        "0/2",
        "Init:Error",
        "1",
    );
}

#[test]
fn nodes_show_readiness_roles_and_what_they_run() {
    let node = json!({
        "metadata": {"labels": {"node-role.kubernetes.io/edge": "", "node-role.kubernetes.io/agent": ""}},
        "spec": {"unschedulable": true},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
            "nodeInfo": {"kubeletVersion": "v1.36.0", "osImage": "Debian", "kernelVersion": "6.1", "containerRuntimeVersion": "selvedge://0.1"},
        },
    });
    check(
        "nodes",
        node,
        json!([
            "a",
            "Ready,SchedulingDisabled",
            "agent,edge",
            "3m20s",
            "v1.36.0",
            "10.0.0.1",
            "<none>",
            "Debian",
            "6.1",
            "selvedge://0.1"
        ]),
    );
    check(
        "nodes",
        json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}),
        json!(["a", "NotReady", "<none>"]),
    );
}

#[test]
fn the_other_kinds_show_what_users_know() {
    let daemon_set = json!({
        "spec": {"selector": {"matchLabels": {"k": "v"}}, "template": {"spec": {"nodeSelector": {"role": "gateway"}, "containers": [{"name": "c", "image": "i"}]}}},
        "status": {"desiredNumberScheduled": 3, "currentNumberScheduled": 2, "numberReady": 1, "updatedNumberScheduled": 1},
    });
    check("daemonsets", daemon_set, json!(["a", 3, 2, 1, 1, 0, "role=gateway", "3m20s", "c", "i", "k=v"]));
    check("configmaps", json!({"data": {"x": "1"}, "binaryData": {"y": ""}}), json!(["a", 2, "3m20s"]));
    check("secrets", json!({"type": "Opaque", "data": {"x": "1"}}), json!(["a", "Opaque", 1, "3m20s"]));
    check("namespaces", json!({"status": {"phase": "Active"}}), json!(["a", "Active", "3m20s"]));
    check("leases", json!({"spec": {"holderIdentity": "h"}}), json!(["a", "h", "3m20s"]));
    check(
        "controllerrevisions",
        json!({"revision": 2, "metadata": {"ownerReferences": [{"controller": true, "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d"}]}}),
        json!(["a", "daemonset.apps/d", 2]),
    );
    check("customresourcedefinitions", json!({}), json!(["a", "2026-11-22T09:56:40Z"]));
    check(
        "certificatesigningrequests",
        json!({"spec": {"signerName": "s/x", "username": "u"}, "status": {"conditions": [{"type": "Approved"}], "certificate": "eA=="}}),
        json!(["a", "3m20s", "s/x", "u", "<none>", "Approved,Issued"]),
    );
    let event = json!({"type": "Warning", "reason": "BackOff", "message": " m\n", "lastTimestamp": "2026-11-22T09:59:59Z", "involvedObject": {"kind": "Pod", "name": "p"}});
    check("events", event, json!(["1s", "Warning", "BackOff", "pod/p", "", "", "m", "<unknown>", 1, "a"]));
    check("widgets", json!({"spec": {"size": 4}}), json!(["a", 4]));
    check("widgets", json!({}), json!(["a", null]));
}

#[test]
fn our_kinds_show_their_conditions() {
    let mut registry = Registry::builtin();
    for crd in api_edge::crds::all() {
        registry.install_crd(&crd).expect("our definitions are good");
    }
    let rules = registry.resource(api_edge::GROUP, api_edge::VERSION, "rules").expect("installed");
    let rule = json!({
        "metadata": {"name": "r", "creationTimestamp": "2026-11-22T09:00:00Z"}, "spec": {"sql": "SELECT 1"},
        "status": {"desired": 2, "applied": 1, "conditions": [{"type": "Ready", "status": "False", "reason": "Pending"}]},
    });
    let table = table(rules, [&rule], NOW.parse().expect("a time"), IncludeObject::None);
    assert_eq!(table["rows"], json!([{"cells": ["r", 2, 1, "False", "Pending", "SELECT 1", "60m"]}]));
}

#[test]
fn durations_read_as_kubectl_prints_them() {
    let cases = [
        (-5, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (200, "3m20s"),
        (600, "10m"),
        (10_799, "179m"),
        (10_800, "3h"),
        (12_000, "3h20m"),
        (28_800, "8h"),
        (172_799, "47h"),
        (172_800, "2d"),
        (180_000, "2d2h"),
        (691_200, "8d"),
        (63_072_000, "2y"),
        (64_000_000, "2y10d"),
        (400_000_000, "12y"),
    ];
    for (seconds, expected) in cases {
        assert_eq!(human_duration(seconds), expected, "{seconds} s");
    }
}
