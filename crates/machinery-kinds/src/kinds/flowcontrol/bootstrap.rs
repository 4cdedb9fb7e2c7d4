//! The schemas and levels that are there from the start.
//!
//! Two of each are mandatory: the rules hold them at these values (the shares of `exempt` apart). The others are
//! suggestions, which the server keeps as they are here until somebody sets their annotation to another value than `true`.

use serde_json::{Value, json};

const MASTERS: &str = "system:masters";
const NODES: &str = "system:nodes";
const EVERYONE: [&str; 2] = ["system:unauthenticated", "system:authenticated"];

/// Names of the mandatory levels, and of the mandatory schemas.
pub(crate) const MANDATORY: [&str; 2] = ["catch-all", "exempt"];

/// All levels, the mandatory ones first.
pub(crate) fn priority_levels() -> Vec<Value> {
    let reject = json!({"type": "Reject"});
    let queue = |queues: u32, hand: u32| json!({"type": "Queue", "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": 50}});
    let limited = |name: &str, shares: u32, lendable: u32, response: Value| {
        let limited =
            json!({"nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response});
        object("PriorityLevelConfiguration", name, json!({"type": "Limited", "limited": limited}))
    };
    let exempt = json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}});
    vec![
        limited("catch-all", 5, 0, reject),
        object("PriorityLevelConfiguration", "exempt", exempt),
        limited("system", 30, 33, queue(64, 6)),
        limited("node-high", 40, 25, queue(64, 6)),
        limited("leader-election", 10, 0, queue(16, 4)),
        limited("workload-high", 40, 50, queue(128, 6)),
        limited("workload-low", 100, 90, queue(128, 6)),
        limited("global-default", 20, 50, queue(128, 6)),
    ]
}

/// All schemas, the mandatory ones first.
pub(crate) fn flow_schemas() -> Vec<Value> {
    let groups = |names: &[&str]| -> Vec<Value> {
        names.iter().map(|name| json!({"kind": "Group", "group": {"name": name}})).collect()
    };
    let users = |names: &[&str]| -> Vec<Value> {
        names.iter().map(|name| json!({"kind": "User", "user": {"name": name}})).collect()
    };
    let system_accounts =
        vec![json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": "*"}})];
    let mut electors = users(&["system:kube-controller-manager", "system:kube-scheduler"]);
    electors.extend(system_accounts.clone());
    let resources = |verbs: &[&str], groups: &[&str], resources: &[&str], cluster: bool| {
        let mut rule = json!({"verbs": verbs, "apiGroups": groups, "resources": resources, "namespaces": ["*"]});
        if cluster {
            rule["clusterScope"] = true.into();
        }
        rule
    };
    let all = |subjects: Vec<Value>| {
        json!({
            "subjects": subjects,
            "resourceRules": [resources(&["*"], &["*"], &["*"], true)],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        })
    };
    let probes = json!({
        "subjects": groups(&EVERYONE),
        "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}],
    });
    let leases = |verbs: &[&str]| resources(verbs, &["coordination.k8s.io"], &["leases"], false);
    let election = json!({"subjects": electors, "resourceRules": [leases(&["get", "create", "update"])]});
    let heartbeats = json!({
        "subjects": groups(&[NODES]),
        "resourceRules": [resources(&["*"], &[""], &["nodes", "nodes/status"], true), leases(&["*"])],
    });
    let by_user = "ByUser";
    let by_namespace = "ByNamespace";
    vec![
        schema("exempt", "exempt", 1, "", all(groups(&[MASTERS]))),
        schema("catch-all", "catch-all", 10_000, by_user, all(groups(&EVERYONE))),
        schema("system-nodes", "system", 500, by_user, all(groups(&[NODES]))),
        schema("system-node-high", "node-high", 400, by_user, heartbeats),
        schema("probes", "exempt", 2, "", probes),
        schema("system-leader-election", "leader-election", 100, by_user, election),
        schema(
            "kube-controller-manager",
            "workload-high",
            800,
            by_namespace,
            all(users(&["system:kube-controller-manager"])),
        ),
        schema("kube-scheduler", "workload-high", 800, by_namespace, all(users(&["system:kube-scheduler"]))),
        schema("kube-system-service-accounts", "workload-high", 900, by_namespace, all(system_accounts)),
        schema("service-accounts", "workload-low", 9000, by_user, all(groups(&["system:serviceaccounts"]))),
        schema("global-default", "global-default", 9900, by_user, all(groups(&EVERYONE))),
    ]
}

fn schema(name: &str, level: &str, precedence: u32, distinguisher: &str, rule: Value) -> Value {
    let mut spec =
        json!({"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "rules": [rule]});
    if !distinguisher.is_empty() {
        spec["distinguisherMethod"] = json!({"type": distinguisher});
    }
    object("FlowSchema", name, spec)
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": name, "annotations": {"apf.kubernetes.io/autoupdate-spec": "true"}},
        "spec": spec,
    })
}
