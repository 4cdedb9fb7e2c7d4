//! Tests of `daemonsets`: its decisions, as data.

use super::*;

fn set(strategy: Value) -> Value {
    json!({
        "metadata": {"name": "agent", "namespace": "default", "uid": "u", "generation": 3},
        "spec": {
            "updateStrategy": strategy,
            "template": {"spec": {"nodeSelector": {"role": "gateway"}}},
        },
    })
}

fn nodes(names: &[&str]) -> Objects {
    let node = |name: &&str| {
        let role = if name.starts_with("gw") { "gateway" } else { "server" };
        let node = json!({"metadata": {"name": name, "labels": {"role": role}}});
        ((String::new(), (*name).to_owned()), Arc::new(node))
    };
    Arc::new(names.iter().map(node).collect())
}

/// `node revision state`, where the state is `ready`, `starting`, `failed` or `leaving`.
fn pod(text: &str) -> Arc<Value> {
    let words: Vec<&str> = text.split(' ').collect();
    let phase = if words[2] == "failed" { "Failed" } else { "Running" };
    let ready = if words[2] == "ready" { "True" } else { "False" };
    let mut pod = json!({
        "metadata": {"name": text, "labels": {REVISION_LABEL: words[1]}},
        "spec": {"nodeName": words[0]},
        "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]},
    });
    if words[2] == "leaving" {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    Arc::new(pod)
}

fn check(strategy: Value, pods: &[&str], created_on: &[&str], deleted: &[&str]) {
    let pods: Vec<Arc<Value>> = pods.iter().map(|text| pod(text)).collect();
    let plan = plan(&set(strategy), "new", &nodes(&["gw-1", "gw-2", "gw-3", "server"]), &pods);
    let names: Vec<&str> = plan.delete.iter().filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
    assert_eq!(
        (plan.create_on.iter().map(String::as_str).collect::<Vec<_>>(), names),
        (created_on.to_vec(), deleted.to_vec())
    );
}

#[test]
fn each_node_that_fits_gets_one_pod() {
    check(json!({}), &[], &["gw-1", "gw-2", "gw-3"], &[]);
    check(json!({}), &["gw-1 new ready", "gw-3 new starting"], &["gw-2"], &[]);
}

#[test]
fn a_pod_on_a_node_that_no_longer_fits_goes() {
    let pods = ["gw-1 new ready", "gw-2 new ready", "gw-3 new ready", "server new ready"];
    check(json!({}), &pods, &[], &["server new ready"]);
}

#[test]
fn a_pod_that_is_leaving_keeps_its_place() {
    check(json!({}), &["gw-1 new leaving", "gw-2 new ready", "gw-3 new ready"], &[], &[]);
}

#[test]
fn a_pod_that_has_ended_is_replaced() {
    check(json!({}), &["gw-1 new failed", "gw-2 new ready", "gw-3 new ready"], &[], &["gw-1 new failed"]);
}

#[test]
fn a_rollout_takes_no_more_pods_than_it_may() {
    let old = ["gw-1 old ready", "gw-2 old ready", "gw-3 old ready"];
    check(json!({}), &old, &[], &["gw-1 old ready"]);
    let two = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}});
    check(two, &old, &[], &["gw-1 old ready", "gw-2 old ready"]);
    let half = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "50%"}});
    check(half, &old, &[], &["gw-1 old ready", "gw-2 old ready"]);
    check(json!({}), &["gw-1 new starting", "gw-2 old ready", "gw-3 old ready"], &[], &[]);
    check(json!({"type": "OnDelete"}), &old, &[], &[]);
}

#[test]
fn an_old_pod_that_does_not_work_is_replaced_at_once() {
    let pods = ["gw-1 old ready", "gw-2 old starting", "gw-3 new ready"];
    check(json!({}), &pods, &[], &["gw-2 old starting"]);
}

#[test]
fn the_status_counts_what_kubectl_shows() {
    let pods = [pod("gw-1 new ready"), pod("gw-2 old ready"), pod("server new ready")];
    let plan = plan(&set(json!({"type": "OnDelete"})), "new", &nodes(&["gw-1", "gw-2", "gw-3", "server"]), &pods);
    let expected = json!({
        "observedGeneration": 3, "desiredNumberScheduled": 3, "currentNumberScheduled": 2, "numberMisscheduled": 1,
        "numberReady": 2, "numberAvailable": 2, "numberUnavailable": 1, "updatedNumberScheduled": 1,
    });
    assert_eq!(plan.status, expected);
}

#[test]
fn a_pod_that_fails_again_waits_longer() {
    let mut sets = DaemonSets::default();
    let place = || ("u".to_owned(), "gw-1".to_owned());
    let begin = Instant::now();
    let at = |seconds: u64| begin + Duration::from_secs(seconds);
    assert!(sets.may_replace(place(), at(0)));
    assert!(sets.may_replace(place(), at(1)));
    assert!(!sets.may_replace(place(), at(2)));
    assert!(sets.may_replace(place(), at(3)));
}

#[test]
fn names_of_pods_are_their_places() {
    let names: BTreeSet<String> = (0..20_000).map(|node| pod_name("agent", "hash", &format!("gw-{node}"))).collect();
    assert_eq!(names.len(), 20_000);
    assert_eq!(pod_name("agent", "hash", "gw-1"), pod_name("agent", "hash", "gw-1"));
    assert_ne!(pod_name("agent", "hash", "gw-1"), pod_name("agent", "other", "gw-1"));
    assert!(pod_name(&"x".repeat(300), "hash", "gw-1").len() <= 253);
}

#[test]
fn a_pod_says_whose_it_is_and_where() {
    let pod = pod_for(&set(json!({})), "hash", "gw-1");
    assert_eq!(pod["spec"]["nodeName"], "gw-1");
    assert_eq!(controller_of(&pod), Some("u"));
    assert_eq!(pod["metadata"]["labels"][REVISION_LABEL], "hash");
}
