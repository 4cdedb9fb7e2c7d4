use serde_json::{Value, json};

use super::*;
use crate::cluster::PlacedState;
use crate::hints::NodeChange;
use crate::testing::{add_node, cluster, labeled, pod, requests};

fn add(queue: &mut Queue, pod: Pod, now: Instant) -> QueueId {
    queue.add(Arc::new(pod), None, None, false, now)
}

fn priority(name: &str, priority: i32) -> Pod {
    pod(name, json!({"spec": {"priority": priority}}))
}

fn pop(queue: &mut Queue) -> Option<String> {
    let id = queue.pop()?;
    Some(queue.get(id)?.pod.name.to_string())
}

#[test]
fn the_more_important_come_first_and_then_the_earlier() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    for (name, of) in [("a", 1), ("b", 5), ("c", 1), ("d", -1)] {
        add(&mut queue, priority(name, of), now);
    }
    assert_eq!((0..4).filter_map(|_| pop(&mut queue)).collect::<Vec<_>>(), ["b", "a", "c", "d"]);
    assert!(!queue.has_active());
}

#[test]
fn a_pod_that_fails_again_and_again_waits_longer_each_time() {
    let (mut queue, mut now) = (Queue::default(), Instant::now());
    let id = add(&mut queue, priority("a", 0), now);
    for expected in [1, 2, 4, 8, 10, 10] {
        assert_eq!(queue.pop(), Some(id));
        queue.retry(id, now);
        assert_eq!(queue.next_due(), Some(now + Duration::from_secs(expected)));
        queue.advance(now + Duration::from_secs(expected) - Duration::from_millis(1));
        assert!(!queue.has_active());
        now += Duration::from_secs(expected);
        queue.advance(now);
    }
}

#[test]
fn a_pod_that_nothing_wakes_is_tried_after_five_minutes() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    let id = add(&mut queue, priority("a", 0), now);
    queue.pop();
    queue.reject(id, FilterSet::from_iter([Filter::NodeAffinity]), now);
    queue.advance(now + Duration::from_secs(299));
    assert!(!queue.has_active());
    assert_eq!(queue.next_due(), Some(now + Duration::from_secs(300)));
    queue.advance(now + Duration::from_secs(300));
    assert_eq!(queue.pop(), Some(id));
}

#[test]
fn a_pod_with_gates_waits_until_it_has_none() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    let gated = Arc::new(priority("a", 0));
    queue.add(gated.clone(), None, None, true, now);
    assert_eq!((pop(&mut queue), queue.counts().gated), (None, 1));
    queue.add(gated, None, None, false, now);
    assert_eq!(pop(&mut queue), Some("a".to_owned()));
}

#[test]
fn a_change_that_concerns_no_decision_leaves_a_pod_where_it_is() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    let id = add(&mut queue, priority("a", 0), now);
    queue.pop();
    queue.reject(id, FilterSet::from_iter([Filter::NodeAffinity]), now);
    // What the scheduler itself has written comes back.
    queue.add(Arc::new(priority("a", 0)), Some(("Unschedulable".into(), "why".into())), None, false, now);
    assert_eq!((queue.counts().waiting, queue.counts().active), (1, 0));
    queue.add(Arc::new(priority("a", 3)), None, None, false, now);
    assert_eq!(pop(&mut queue), Some("a".to_owned()));
    // Another one of its name begins anew.
    queue.retry(id, now);
    let mut other = priority("a", 0);
    other.uid = "other".into();
    add(&mut queue, other, now);
    assert_eq!((pop(&mut queue), queue.counts().back_off), (Some("a".to_owned()), 0));
}

/// Ten pods of each of these demands wait because of these filters.
fn waiting(cluster: &mut Cluster, now: Instant) -> Queue {
    let mut queue = Queue::default();
    let claim = json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data-0"}}]});
    let spread = json!({"topologySpreadConstraints": [{
        "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "s"}},
    }]});
    let anti = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "x"}}},
    ]}}});
    let demands: [(&str, Value, Value, &[Filter]); 6] = [
        (
            "small",
            json!({}),
            json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}),
            &[Filter::NodeResourcesFit],
        ),
        (
            "large",
            json!({}),
            json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "9"}}}]}),
            &[Filter::NodeResourcesFit],
        ),
        ("select", json!({}), json!({"nodeSelector": {"disk": "ssd"}}), &[Filter::NodeAffinity]),
        ("claims", json!({}), claim, &[Filter::VolumeBinding]),
        ("spread", json!({"app": "s"}), spread, &[Filter::PodTopologySpread]),
        ("anti", json!({}), anti, &[Filter::InterPodAffinity]),
    ];
    for (name, labels, spec, filters) in demands {
        for number in 0..10 {
            let mut one = labeled(&format!("{name}-{number}"), labels.clone(), spec.clone());
            if name == "claims" {
                one.claims[0].name = format!("data-{number}").into();
            }
            let one = cluster.share(one);
            let id = add(&mut queue, one, now);
            queue.pop();
            queue.reject(id, filters.iter().copied().collect(), now);
        }
    }
    queue
}

#[test]
fn a_change_wakes_those_that_it_could_help_and_no_others() {
    let now = Instant::now();
    let setup = || {
        let mut cluster =
            cluster(&[("full", json!({"labels": {"zone": "a"}})), ("new", json!({"labels": {"zone": "b"}}))]);
        cluster.place(requests("held", json!({"cpu": "4"})), "full", PlacedState::default());
        cluster
    };
    let all_new = NodeChange { is_new: true, ..NodeChange::default() };
    type Prepare = fn(&mut Cluster);
    let wakes = |prepare: Prepare, change: for<'c> fn(&'c Cluster, NodeChange) -> Change<'c>, what: NodeChange| {
        let mut cluster = setup();
        let mut queue = waiting(&mut cluster, now);
        prepare(&mut cluster);
        queue.wake(&cluster, change(&cluster, what), now + Duration::from_secs(60))
    };
    let of_new: for<'c> fn(&'c Cluster, NodeChange) -> Change<'c> =
        |cluster, what| Change::Node(cluster.node_id("new").unwrap(), what);
    // A node that is new helps whom it fits: the small, those with claims, those that spread over its zone, those that
    // demand to be apart. Not the large, and not those that select what it has not.
    assert_eq!(wakes(|_| {}, of_new, all_new), 40);
    let more = NodeChange { offers_more: true, ..NodeChange::default() };
    assert_eq!(wakes(|_| {}, of_new, more), 10);
    assert_eq!(wakes(|cluster| add_node(cluster, "new", json!({"allocatable": {"cpu": "16"}})), of_new, more), 20);
    let labels = NodeChange { labels: true, ..NodeChange::default() };
    let ssd: Prepare = |cluster| add_node(cluster, "new", json!({"labels": {"disk": "ssd", "zone": "b"}}));
    assert_eq!(wakes(ssd, of_new, labels), 50);
    let taints = NodeChange { taints: true, ..NodeChange::default() };
    assert_eq!(wakes(|_| {}, of_new, taints), 20, "whom it fits now, and spreading may care about taints");
    let tainted: Prepare =
        |cluster| add_node(cluster, "new", json!({"taints": [{"key": "a", "effect": "NoSchedule"}]}));
    assert_eq!(wakes(tainted, of_new, more), 0);
    // The end of a pod helps whom its node fits now, and whom it kept away.
    let freed: for<'c> fn(&'c Cluster, NodeChange) -> Change<'c> =
        |cluster, _| Change::PodFreed(cluster.find_placed("default", "held").unwrap());
    assert_eq!(wakes(|_| {}, freed, all_new), 0, "the node is still full");
    let smaller: Prepare = |cluster| {
        cluster.place(requests("held", json!({"cpu": "3"})), "full", PlacedState::default());
    };
    assert_eq!(wakes(smaller, freed, all_new), 10);
    let of_x: Prepare = |cluster| {
        let held = labeled(
            "held",
            json!({"app": "x"}),
            json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "4"}}}]}),
        );
        cluster.place(held, "full", PlacedState::default());
    };
    assert_eq!(wakes(of_x, freed, all_new), 10);
    let placed: for<'c> fn(&'c Cluster, NodeChange) -> Change<'c> =
        |cluster, _| Change::PodPlaced(cluster.find_placed("default", "held").unwrap());
    assert_eq!(wakes(of_x, placed, all_new), 0);
    let claim: for<'c> fn(&'c Cluster, NodeChange) -> Change<'c> = |_, _| Change::Claim("default", "data-3");
    assert_eq!(wakes(|_| {}, claim, all_new), 1);
    assert_eq!(wakes(|_| {}, |_, _| Change::Storage, all_new), 10);
    assert_eq!(wakes(|_| {}, |_, _| Change::NodeRemoved, all_new), 10);
    assert_eq!(wakes(|_| {}, |_, _| Change::Namespace, all_new), 0);
}

#[test]
fn a_pod_that_is_woken_in_its_back_off_waits_for_its_end() {
    let now = Instant::now();
    let mut cluster = cluster(&[("n", json!({}))]);
    let mut queue = waiting(&mut cluster, now);
    assert_eq!(queue.wake(&cluster, Change::Storage, now), 10);
    assert_eq!((queue.counts().active, queue.counts().back_off), (0, 10));
    queue.advance(now + Duration::from_secs(1));
    assert_eq!(queue.counts().active, 10);
}

#[test]
fn a_node_that_is_opened_in_two_steps_helps_with_the_second() {
    let now = Instant::now();
    let taint = json!([{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]);
    let mut cluster = cluster(&[("n", json!({"taints": taint}))]);
    let mut queue = Queue::default();
    let id = queue.add(Arc::new(priority("a", 0)), None, None, false, now);
    queue.pop();
    // A cordoned node rejects before its taints are asked about.
    queue.reject(id, [Filter::NodeUnschedulable].into_iter().collect(), now);
    let of_n = |cluster: &Cluster, what| Change::Node(cluster.node_id("n").unwrap(), what);
    let opened = NodeChange { opened: true, ..NodeChange::default() };
    assert_eq!(queue.wake(&cluster, of_n(&cluster, opened), now), 0, "its taint is still there");
    add_node(&mut cluster, "n", json!({}));
    let taints = NodeChange { taints: true, ..NodeChange::default() };
    assert_eq!(queue.wake(&cluster, of_n(&cluster, taints), now), 1);
}
