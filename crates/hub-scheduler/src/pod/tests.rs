use serde_json::{Value, json};

use super::*;
use crate::testing::pod;

fn container(requests: Value) -> Value {
    json!({"name": "main", "resources": {"requests": requests}})
}

#[test]
fn a_pod_occupies_what_its_containers_need_at_the_same_time() {
    let check = |what: &str, spec: Value, cpu: i64, memory: i64| {
        let demand = pod("p", json!({"spec": spec})).demand;
        assert_eq!((demand.requests.cpu, demand.requests.memory), (cpu, memory), "{what}");
    };
    let (small, large) =
        (container(json!({"cpu": "100m", "memory": "100"})), container(json!({"cpu": "1", "memory": "50"})));
    let mut sidecar = container(json!({"cpu": "10m", "memory": "10"}));
    sidecar["restartPolicy"] = json!("Always");
    check("nothing", json!({"containers": [{"name": "main"}]}), 0, 0);
    check("containers add up", json!({"containers": [small, large]}), 1100, 150);
    check(
        "of init containers the largest counts",
        json!({"containers": [small], "initContainers": [large, small]}),
        1000,
        100,
    );
    check(
        "a sidecar runs with all that come after it",
        json!({"containers": [small], "initContainers": [sidecar, large]}),
        1010,
        110,
    );
    check(
        "and not with those before it",
        json!({"containers": [small], "initContainers": [large, sidecar]}),
        1000,
        110,
    );
    check("overhead comes on top", json!({"containers": [small], "overhead": {"cpu": "5m", "memory": "1"}}), 105, 101);
    check(
        "what the pod as a whole requests is what it occupies",
        json!({"containers": [small, large], "resources": {"requests": {"cpu": "2"}}, "overhead": {"cpu": "5m"}}),
        2005,
        150,
    );
}

#[test]
fn a_container_that_is_resized_has_the_larger_of_both() {
    let status = |conditions: Value| {
        json!({
            "conditions": conditions,
            "containerStatuses": [{"name": "main", "allocatedResources": {"cpu": "2"}, "resources": {"requests": {"cpu": "3"}}}],
        })
    };
    let cpu = |desired: &str, status: Value| {
        pod("p", json!({"spec": {"containers": [container(json!({"cpu": desired}))]}, "status": status}))
            .demand
            .requests
            .cpu
    };
    assert_eq!(cpu("4", status(json!([]))), 4000);
    assert_eq!(cpu("1", status(json!([]))), 3000);
    let infeasible = json!([{"type": "PodResizePending", "reason": "Infeasible", "status": "True"}]);
    assert_eq!(cpu("4", status(infeasible)), 3000);
}

#[test]
fn a_container_that_requests_nothing_still_counts_for_scores() {
    let scored = |spec: Value| pod("p", json!({"spec": spec})).demand.scored;
    const MEGABYTES: i64 = 200 << 20;
    assert_eq!(scored(json!({"containers": [{"name": "a"}, {"name": "b"}]})), [200, 2 * MEGABYTES]);
    assert_eq!(scored(json!({"containers": [container(json!({"cpu": "0"}))]})), [0, MEGABYTES]);
    let of_pod = json!({"requests": {"cpu": "1"}});
    assert_eq!(scored(json!({"containers": [{"name": "a"}], "resources": of_pod})), [1000, MEGABYTES]);
}

#[test]
fn resources_are_counted_by_their_names() {
    let requests = json!({"example.org/gpu": 2, "hugepages-2Mi": "4Mi", "ephemeral-storage": "1Gi", "nonsense": 7});
    let demand = pod("p", json!({"spec": {"containers": [container(requests.clone()), container(requests)]}})).demand;
    assert_eq!(demand.requests.scalars, [("example.org/gpu".into(), 4), ("hugepages-2Mi".into(), 8 << 20)]);
    assert_eq!(demand.requests.storage, 2 << 30);
}

#[test]
fn what_is_read_of_a_pod_is_what_it_says() {
    let demand = pod(
        "p",
        json!({
            "metadata": {
                "labels": {"app": "a", "pod-template-hash": "x"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "u", "controller": true}],
            },
            "spec": {
                "containers": [{"name": "a", "image": "nginx", "ports": [
                    {"containerPort": 1, "hostPort": 80, "hostIP": "0.0.0.0"}, {"containerPort": 2},
                ]}],
                "volumes": [{"name": "v", "image": {"reference": "host:5000/models"}}],
                "tolerations": [{"key": "a", "operator": "Exists"}, {"key": "b", "operator": "Gt", "value": "1"}],
                "topologySpreadConstraints": [{
                    "maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
                    "labelSelector": {"matchLabels": {"app": "a"}}, "matchLabelKeys": ["pod-template-hash", "absent"],
                }],
                "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{
                    "topologyKey": "kubernetes.io/hostname", "labelSelector": {}, "mismatchLabelKeys": ["app"],
                    "namespaceSelector": {"matchLabels": {"team": "t"}},
                }]}},
                "priority": 7, "preemptionPolicy": "Never",
            },
        }),
    )
    .demand;
    assert_eq!(demand.owner, Some((WorkloadKind::ReplicaSet, "rs".into())));
    assert_eq!(demand.images, ["nginx:latest".into(), "host:5000/models:latest".into()]);
    assert_eq!(demand.ports, [HostPort { ip: "".into(), protocol: "TCP".into(), port: 80 }]);
    assert_eq!(demand.tolerations.len(), 1, "an operator behind a closed gate tolerates nothing");
    let spread = &demand.spread[0];
    assert_eq!(spread.matcher.selector.to_string(), "app=a,pod-template-hash=x");
    assert!(spread.is_hard && spread.honors_affinity && !spread.honors_taints);
    let term = &demand.affinity.required_anti[0];
    assert_eq!(term.matcher.selector.to_string(), "app!=a");
    assert!(term.matcher.namespaces.is_empty() && term.matcher.selects_namespaces());
    assert!((demand.priority, demand.never_preempts) == (7, true));
}

#[test]
fn claims_of_ephemeral_volumes_are_named_after_the_pod() {
    let volumes = json!([
        {"name": "a", "persistentVolumeClaim": {"claimName": "data"}}, {"name": "b", "ephemeral": {}}, {"name": "c", "emptyDir": {}},
    ]);
    let claims = pod("web-0", json!({"spec": {"volumes": volumes}})).claims;
    let claims: Vec<(&str, bool)> = claims.iter().map(|one| (&*one.name, one.is_ephemeral)).collect();
    assert_eq!(claims, [("data", false), ("web-0-b", true)]);
}
