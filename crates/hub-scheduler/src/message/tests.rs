use serde_json::json;

use crate::decide::{Decider, Nominations, Verdict};
use crate::preempt::{Preemption, preempt};
use crate::testing::{cluster, place, pod, requests};

use super::*;

#[test]
fn a_pod_that_no_node_suits_says_why_in_upstreams_words() {
    let mut cluster = cluster(&[
        ("a", json!({"taints": [{"key": "x", "effect": "NoSchedule"}]})),
        ("b", json!({"taints": [{"key": "y", "effect": "NoExecute"}]})),
        ("c", json!({})),
    ]);
    place(&mut cluster, requests("held", json!({"cpu": "4"})), "c");
    let check = |cluster: &mut crate::cluster::Cluster, pod: &crate::pod::Pod, expected: &str| {
        let mut decider = Decider::new(fastrand::Rng::with_seed(1));
        let nominations = Nominations::default();
        let Verdict::Reject(diagnosis) = decider.decide(cluster, &nominations, pod, None) else { panic!("none suits") };
        let why = match preempt(cluster, &nominations, pod, None, &diagnosis, |_| 0) {
            Preemption::Keep(why) => why.to_owned(),
            Preemption::Clear(why) => why,
            Preemption::Victims(_) => String::new(),
        };
        assert_eq!(unschedulable(&pod.demand, &diagnosis, &why), expected);
    };
    check(
        &mut cluster,
        &requests("p", json!({"cpu": "1"})),
        "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint(s). no new claims to deallocate, \
         preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, 2 Preemption is not helpful for \
         scheduling.",
    );
    // More than any node offers: nobody's end would help.
    check(
        &mut cluster,
        &requests("p", json!({"cpu": "5"})),
        "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint(s). no new claims to deallocate, \
         preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.",
    );
    let never = json!({"spec": {"preemptionPolicy": "Never", "nodeSelector": {"a": "b"}}});
    check(
        &mut cluster,
        &pod("p", never),
        "0/3 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 2 node(s) had untolerated taint(s). \
         no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never.",
    );
    let claim = json!({"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}});
    check(
        &mut cluster,
        &pod("p", claim),
        "0/3 nodes are available: persistentvolumeclaim \"data\" not found. no new claims to deallocate, preemption: 0/3 \
         nodes are available: 3 Preemption is not helpful for scheduling.",
    );
}

#[test]
fn a_long_message_is_cut_where_an_event_ends() {
    assert_eq!(for_event("short"), "short");
    let long = for_event(&"ä".repeat(1000)).into_owned();
    assert!(long.len() <= 1024 && long.ends_with("ä ..."));
}
