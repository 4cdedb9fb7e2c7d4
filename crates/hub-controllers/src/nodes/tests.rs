//! Tests of `nodes`: its decisions, as data.

use super::*;
use crate::testing::TestApi;

/// Feeds `(second, revision of the lease)` and checks whether the node should be tainted at the last of them. What is
/// there at second 0 was there before the hub started.
fn check(was_tainted: bool, heartbeats: &[(u64, u64)], expected: bool) {
    let begin = Instant::now();
    let mut known = Heartbeats::default();
    let (mut now, mut last) = (begin, 0);
    for (second, revision) in heartbeats {
        now = begin + Duration::from_secs(*second);
        if *revision != last {
            known.renew("gw-1", *revision, *second > 0, now);
            last = *revision;
        }
    }
    assert_eq!(known.judge("gw-1", was_tainted, now).0, expected, "{heartbeats:?}");
}

#[test]
fn a_lease_expires_after_forty_seconds() {
    check(false, &[(0, 1), (40, 1)], false);
    check(false, &[(0, 1), (41, 1)], true);
    check(false, &[(0, 1), (30, 2), (70, 2)], false);
}

#[test]
fn a_late_heartbeat_brings_a_node_back() {
    check(true, &[(0, 1), (41, 1), (60, 2)], false);
}

#[test]
fn a_hub_that_has_just_started_takes_no_node_for_heard() {
    check(true, &[(0, 1)], true);
    check(true, &[(0, 1), (10, 1)], true);
    check(true, &[(0, 1), (10, 2)], false);
}

#[test]
fn a_node_without_a_lease_gets_the_time_that_every_node_has() {
    let (begin, mut known) = (Instant::now(), Heartbeats::default());
    let (should_taint, next) = known.judge("gw-1", false, begin);
    assert!(!should_taint);
    assert_eq!(next, Next::After(HEARTBEAT_GRACE + DEADLINE_MARGIN));
    assert_eq!(known.judge("gw-1", false, begin + Duration::from_secs(41)), (true, Next::OnChange));
}

#[test]
fn a_status_that_comes_before_the_lease_is_a_sign_of_life() {
    let (begin, mut known) = (Instant::now(), Heartbeats::default());
    known.renew("gw-1", 1, true, begin);
    assert!(known.judge("gw-1", false, begin + Duration::from_secs(60)).0);
    let reported = json!({"metadata": {"name": "gw-1"}, "status": {"conditions": conditions(&[("Ready", "True")])}});
    let reported = reported.to_string();
    known.look(&serde_json::from_str(&reported).unwrap(), begin + Duration::from_secs(61));
    assert!(!known.judge("gw-1", true, begin + Duration::from_secs(61)).0);
    assert!(known.judge("gw-1", false, begin + Duration::from_secs(102)).0, "and counts for as long");
}

/// The hub runs from one second to another.
fn runs(known: &mut Heartbeats, begin: Instant, seconds: std::ops::RangeInclusive<u64>) {
    seconds.for_each(|second| known.tick(begin + Duration::from_secs(second)));
}

#[test]
fn a_hub_that_did_not_run_has_heard_nobody() {
    let (begin, mut known) = (Instant::now(), Heartbeats::default());
    let at = |seconds: u64| begin + Duration::from_secs(seconds);
    known.renew("gw-1", 1, true, begin);
    known.renew("gw-2", 1, true, begin);
    runs(&mut known, begin, 0..=39);
    assert_eq!(known.judge("gw-1", false, at(5)).1, Next::After(Duration::from_secs(35) + DEADLINE_MARGIN));
    // The deadline was at 40; the process was stopped from then until 130.
    runs(&mut known, begin, 130..=130);
    assert_eq!(known.judge("gw-1", false, at(130)), (false, Next::After(HEARTBEAT_GRACE + DEADLINE_MARGIN)));
    runs(&mut known, begin, 131..=171);
    assert!(known.judge("gw-1", false, at(171)).0, "it had its time");
    // One that has expired was silent before the hub stood still, and is not back by that.
    runs(&mut known, begin, 300..=300);
    assert!(known.judge("gw-1", true, at(300)).0);
    assert!(!known.judge("gw-2", false, at(300)).0);
    // A tick that comes a little late is a tick.
    known.renew("gw-1", 2, true, at(300));
    assert!(!known.judge("gw-1", true, at(301)).0);
    runs(&mut known, begin, 309..=309);
    assert_eq!(known.judge("gw-1", false, at(309)).1, Next::After(Duration::from_secs(31) + DEADLINE_MARGIN));
}

#[test]
fn a_node_that_waits_for_a_worker_of_a_hub_that_runs_gets_no_more_time() {
    let (begin, mut known) = (Instant::now(), Heartbeats::default());
    known.renew("gw-1", 1, true, begin);
    assert!(!known.judge("gw-1", false, begin + Duration::from_secs(5)).0);
    // Thousands were cut off with it: its deadline at 40 is looked at when theirs were.
    runs(&mut known, begin, 0..=70);
    assert!(known.judge("gw-1", false, begin + Duration::from_secs(70)).0);
}

#[tokio::test(start_paused = true)]
async fn a_hub_whose_writes_do_not_end_does_not_run() {
    let heartbeats = Arc::new(Mutex::new(Heartbeats::default()));
    let ticks = tick(heartbeats.clone());
    tokio::pin!(ticks);
    let mut pass = async |seconds| {
        let passed = tokio::time::timeout(Duration::from_secs(seconds), &mut ticks).await;
        assert!(passed.is_err(), "ticks do not end");
        heartbeats.lock().runs_since
    };
    assert_eq!(pass(60).await, None);
    let one = Writing::begin(&heartbeats);
    assert_eq!(pass(30).await, None, "one is on its way");
    let other = Writing::begin(&heartbeats);
    drop(one);
    let ended_at = Instant::now();
    assert_eq!(pass(5).await, Some(ended_at));
    // They end one after the other: that is work, and no standstill.
    let next = Writing::begin(&heartbeats);
    drop(other);
    assert_eq!(pass(9).await, Some(ended_at));
    drop(next);
    assert_eq!(pass(60).await, Some(ended_at));
}

#[test]
fn what_was_known_of_a_lease_says_nothing_of_a_node_that_registers() {
    let (begin, mut known) = (Instant::now(), Heartbeats::default());
    known.renew("gw-1", 1, false, begin);
    let later = begin + Duration::from_secs(100);
    known.register("gw-1", later);
    assert!(!known.judge("gw-1", false, later).0);
    assert!(known.judge("gw-1", false, later + Duration::from_secs(41)).0);
}

/// A lease as a kubelet of today makes it before its node is registered, and one of old.
async fn lease(api: &TestApi, name: &str, holder: &str) {
    let lease = json!({
        "metadata": {"name": name, "namespace": LEASE_NAMESPACE},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 40, "renewTime": "2026-01-01T00:00:00.000000Z"},
    });
    api.make(Kind::Lease, lease).await;
}

#[tokio::test]
async fn a_lease_without_a_node_is_deleted_when_nobody_has_renewed_it_for_long() {
    let api = TestApi::start().await;
    let nodes = Nodes::new(api.context.clone());
    lease(&api, "gw-1", "gw-1").await;
    lease(&api, "gw-2", "gw-2").await;
    lease(&api, "leader", "somebody").await;
    api.make(Kind::Node, json!({"metadata": {"name": "gw-2"}})).await;
    assert_eq!(nodes.reconcile_node("leader").await.unwrap(), Next::OnChange);
    let Next::After(wait) = nodes.reconcile_node("gw-1").await.unwrap() else { panic!("it looks again") };
    assert!(wait > ORPHANED_LEASE_GRACE - Duration::from_secs(60), "{wait:?}");
    let long_ago = Instant::now().checked_sub(2 * ORPHANED_LEASE_GRACE).unwrap();
    for heartbeat in nodes.heartbeats.lock().nodes.values_mut() {
        heartbeat.since = long_ago;
    }
    for name in ["gw-1", "gw-2", "leader"] {
        nodes.reconcile_node(name).await.unwrap();
    }
    let mut left = Vec::new();
    for name in ["gw-1", "gw-2", "leader"] {
        left.extend(api.find(Kind::Lease, (LEASE_NAMESPACE, name)).await.map(|_| name));
    }
    assert_eq!(left, ["gw-2", "leader"]);
}

#[tokio::test]
async fn a_lease_whose_node_is_deleted_has_the_time_of_a_new_one() {
    let api = TestApi::start().await;
    let nodes = Nodes::new(api.context.clone());
    let queue = Queue::new(hub_runtime::QueueOptions::default());
    lease(&api, "gw-1", "gw-1").await;
    let node = api.make(Kind::Node, json!({"metadata": {"name": "gw-1"}})).await;
    nodes.heartbeats.lock().renew("gw-1", 1, true, Instant::now().checked_sub(2 * ORPHANED_LEASE_GRACE).unwrap());
    let there = api.context.reader.get(Kind::Node, "", "gw-1");
    api.context.writer.delete(Kind::Node, &node, None).await.unwrap();
    let change = hub_runtime::Change { kind: Kind::Node, previous: there, current: None };
    nodes.observe(&Event::Changed(change), &queue);
    assert!(matches!(nodes.reconcile_node("gw-1").await.unwrap(), Next::After(_)));
    assert!(api.find(Kind::Lease, (LEASE_NAMESPACE, "gw-1")).await.is_some());
}

#[test]
fn only_the_heartbeat_of_an_expired_node_is_news() {
    let (begin, mut known) = (Instant::now(), Heartbeats::default());
    assert!(!known.renew("gw-1", 1, true, begin));
    assert!(!known.renew("gw-1", 2, true, begin + Duration::from_secs(10)));
    assert!(known.judge("gw-1", false, begin + Duration::from_secs(60)).0);
    assert!(known.renew("gw-1", 3, true, begin + Duration::from_secs(61)));
    let (should_taint, _) = known.judge("gw-1", true, begin + Duration::from_secs(61));
    assert!(!should_taint);
    assert!(!known.renew("gw-1", 4, true, begin + Duration::from_secs(71)));
}

/// What the taints of a node become: those that are ours, and all of them.
fn check_taints(spec: Value, conditions: Value, has_expired: bool, expected: &[&str]) -> Value {
    let node = json!({"spec": spec, "status": {"conditions": conditions}});
    let text = node.to_string();
    let view: NodeView<'_> = serde_json::from_str(&text).unwrap();
    let due = due_taints(&view, has_expired);
    let expected: Vec<String> = expected.iter().map(|taint| format!("node.kubernetes.io/{taint}")).collect();
    assert_eq!(due, expected, "{node}");
    tainted(&node, &due, Timestamp::UNIX_EPOCH).into()
}

fn conditions(all: &[(&str, &str)]) -> Value {
    all.iter().map(|(r#type, status)| json!({"type": r#type, "status": status})).collect()
}

/// What admission gives every new node.
fn new_node() -> Value {
    json!({"taints": [{"key": NOT_READY, "effect": "NoSchedule"}]})
}

#[test]
fn a_node_is_tainted_as_its_conditions_are() {
    let (ready, not_ready) = (conditions(&[("Ready", "True")]), conditions(&[("Ready", "False")]));
    assert_eq!(check_taints(new_node(), ready.clone(), false, &[]), json!([]));
    assert_eq!(check_taints(new_node(), not_ready.clone(), false, &["not-ready"]), new_node()["taints"]);
    check_taints(json!({}), not_ready, false, &["not-ready"]);
    check_taints(new_node(), json!([]), false, &["not-ready"]);
    check_taints(json!({}), json!([]), false, &[]);
    let all = conditions(&[
        ("MemoryPressure", "True"),
        ("DiskPressure", "True"),
        ("PIDPressure", "True"),
        ("NetworkUnavailable", "True"),
        ("Ready", "True"),
    ]);
    let pressures = ["memory-pressure", "disk-pressure", "pid-pressure", "network-unavailable"];
    check_taints(json!({}), all, false, &pressures);
    let none = conditions(&[("MemoryPressure", "False"), ("DiskPressure", "Unknown"), ("Ready", "True")]);
    check_taints(json!({}), none, false, &[]);
    check_taints(json!({"unschedulable": true}), ready, false, &["unschedulable"]);
}

#[test]
fn a_node_out_of_reach_is_not_said_to_be_not_ready() {
    check_taints(new_node(), conditions(&[("Ready", "False")]), true, &["unreachable"]);
    check_taints(new_node(), json!([]), true, &["unreachable"]);
}

#[test]
fn a_node_of_which_nobody_knows_whether_it_is_ready_is_out_of_reach() {
    let unknown = conditions(&[("Ready", "Unknown")]);
    check_taints(json!({}), unknown.clone(), false, &["unreachable"]);
    check_taints(new_node(), unknown.clone(), false, &["unreachable"]);
    check_taints(json!({"unschedulable": true}), unknown, true, &["unreachable", "unschedulable"]);
}

/// The keys of a node's taints, and what its conditions say.
async fn shown(api: &TestApi) -> Value {
    let node = api.find(Kind::Node, ("", "gw-1")).await.unwrap();
    let all = |list: &Value, field: &str| -> Vec<Value> {
        list.as_array().into_iter().flatten().map(|one| one[field].clone()).collect()
    };
    json!([all(&node["spec"]["taints"], "key"), all(&node["status"]["conditions"], "status")])
}

async fn report(api: &TestApi, ready: &str) {
    let status = json!({"conditions": conditions(&[("DiskPressure", "False"), ("Ready", ready)])});
    api.context.writer.merge_status(Kind::Node, ("", "gw-1"), &status).await.unwrap();
}

#[tokio::test]
async fn a_node_that_is_said_to_be_unknown_is_tainted_and_its_lease_is_still_what_counts() {
    let api = TestApi::start().await;
    let nodes = Nodes::new(api.context.clone());
    api.make(Kind::Node, json!({"metadata": {"name": "gw-1"}})).await;
    report(&api, "Unknown").await;
    nodes.reconcile_node("gw-1").await.unwrap();
    assert_eq!(shown(&api).await, json!([[UNREACHABLE], ["False", "Unknown"]]));
    // Also over a restart of the hub: nobody noted that the lease has expired.
    let nodes = Nodes::new(api.context.clone());
    let tainted = revision(&api).await;
    assert!(matches!(nodes.reconcile_node("gw-1").await.unwrap(), Next::After(_)));
    assert_eq!(revision(&api).await, tainted);
    // The lease expires: then the other conditions are not known, either.
    let long_ago = Instant::now().checked_sub(2 * HEARTBEAT_GRACE).unwrap();
    nodes.heartbeats.lock().nodes.get_mut("gw-1").unwrap().since = long_ago;
    nodes.reconcile_node("gw-1").await.unwrap();
    assert_eq!(shown(&api).await, json!([[UNREACHABLE], ["Unknown", "Unknown"]]));
    // Renewed again, the taint stays for as long as nobody says how the node is.
    nodes.heartbeats.lock().renew("gw-1", 7, true, Instant::now());
    nodes.reconcile_node("gw-1").await.unwrap();
    assert_eq!(shown(&api).await, json!([[UNREACHABLE], ["Unknown", "Unknown"]]));
    assert_eq!(nodes.waves.lock().returned.count, 1);
    let renewed = revision(&api).await;
    nodes.reconcile_node("gw-1").await.unwrap();
    assert_eq!((revision(&api).await, nodes.waves.lock().returned.count), (renewed, 1), "it is noted once");
    report(&api, "True").await;
    nodes.reconcile_node("gw-1").await.unwrap();
    assert_eq!(shown(&api).await, json!([[], ["False", "True"]]));
}

#[tokio::test]
async fn a_node_that_reports_while_its_lease_is_judged_is_not_said_to_be_unknown() {
    let api = TestApi::start().await;
    let nodes = Nodes::new(api.context.clone());
    let node = api.make(Kind::Node, json!({"metadata": {"name": "gw-1"}})).await;
    let reported = json!({"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-03-01T00:00:40Z"});
    let status = json!({"conditions": [reported]});
    api.context.writer.merge_status(Kind::Node, ("", "gw-1"), &status).await.unwrap();
    let target = Target { namespace: "", name: "gw-1", uid: node["metadata"]["uid"].as_str().unwrap() };
    for judged in [None, Some("2026-03-01T00:00:00Z")] {
        assert!(!nodes.note_expired(target, judged).await.unwrap(), "{judged:?}");
    }
    assert_eq!(shown(&api).await[1], json!(["True"]));
    // It is judged before its report was observed.
    nodes.reconcile_node("gw-1").await.unwrap();
    nodes.heartbeats.lock().nodes.get_mut("gw-1").unwrap().since =
        Instant::now().checked_sub(2 * HEARTBEAT_GRACE).unwrap();
    let status =
        json!({"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-03-01T00:00:50Z"}]});
    api.context.writer.merge_status(Kind::Node, ("", "gw-1"), &status).await.unwrap();
    nodes.reconcile_node("gw-1").await.unwrap();
    assert_eq!(shown(&api).await[1], json!(["True"]));
    assert!(nodes.note_expired(target, Some("2026-03-01T00:00:50Z")).await.unwrap());
    assert_eq!(shown(&api).await[1], json!(["Unknown"]));
}

#[test]
fn each_taint_is_one_and_leaves_others_alone() {
    let mine = json!({"key": "mine", "effect": "NoExecute"});
    let evicts = json!({"key": NOT_READY, "effect": "NoExecute"});
    let spec = json!({"taints": [mine, evicts, {"key": NOT_READY, "effect": "NoSchedule"}]});
    let ready = conditions(&[("Ready", "True")]);
    let after = check_taints(spec, ready.clone(), true, &["unreachable"]);
    let unreachable = json!({"key": UNREACHABLE, "effect": "NoSchedule", "timeAdded": "1970-01-01T00:00:00Z"});
    assert_eq!(after, json!([mine, evicts, unreachable]));
    assert_eq!(check_taints(json!({"taints": after}), ready.clone(), true, &["unreachable"]), after);
    assert_eq!(check_taints(json!({"taints": after}), ready, false, &[]), json!([mine, evicts]));
}

/// The revision of a node, which each write moves on.
async fn revision(api: &TestApi) -> Value {
    api.find(Kind::Node, ("", "gw-1")).await.unwrap()["metadata"]["resourceVersion"].clone()
}

#[tokio::test]
async fn a_node_that_joins_is_written_once_more_for_its_taint() {
    let api = TestApi::start().await;
    let nodes = Nodes::new(api.context.clone());
    api.make(Kind::Node, json!({"metadata": {"name": "gw-1"}, "spec": new_node()})).await;
    let registered = revision(&api).await;
    nodes.reconcile_node("gw-1").await.unwrap();
    assert_eq!(revision(&api).await, registered, "it has not reported yet");
    let status = json!({"conditions": conditions(&[("DiskPressure", "False"), ("Ready", "True")])});
    api.context.writer.merge_status(Kind::Node, ("", "gw-1"), &status).await.unwrap();
    let before = api.context.reader.get(Kind::Node, "", "gw-1");
    nodes.reconcile_node("gw-1").await.unwrap();
    let node = api.find(Kind::Node, ("", "gw-1")).await.unwrap();
    assert!(node["spec"]["taints"].as_array().is_none_or(Vec::is_empty), "{node}");
    let joined = revision(&api).await;
    nodes.reconcile_node("gw-1").await.unwrap();
    assert_eq!(revision(&api).await, joined);
    // A status that says the same once more concerns nobody, another one does.
    let queue = Queue::new(hub_runtime::QueueOptions::default());
    let observe = |previous, current| {
        let change = hub_runtime::Change { kind: Kind::Node, previous, current };
        nodes.observe(&Event::Changed(change), &queue);
        queue.lengths().ready + queue.lengths().later
    };
    let now = api.context.reader.get(Kind::Node, "", "gw-1");
    assert_eq!(observe(now.clone(), now.clone()), 0);
    assert_eq!(observe(before, now), 1);
}

#[test]
fn every_condition_of_an_expired_node_is_unknown() {
    let node = json!({"status": {"conditions": [{"type": "DiskPressure", "status": "False"}]}});
    let changed = with_unknown_conditions(node, Timestamp::UNIX_EPOCH);
    let conditions = changed["status"]["conditions"].as_array().unwrap();
    assert_eq!(conditions.len(), 2);
    assert!(conditions.iter().all(|one| one["status"] == "Unknown" && one["reason"] == REASON));
}

#[test]
fn leases_that_expire_together_are_one_line() {
    let (begin, mut wave) = (Instant::now(), Wave::default());
    assert_eq!((wave.take(begin), wave.next("gw-0", begin)), (None, Next::OnChange));
    for index in 0..2000_u32 {
        wave.add(&format!("gw-{index}"), begin + Duration::from_millis(index.into()));
    }
    let soon = begin + Duration::from_secs(3);
    assert_eq!(wave.take(soon), None);
    // One node alone is looked at again for it.
    assert_eq!(wave.next("gw-0", soon), Next::After(Duration::from_secs(2)));
    assert_eq!(wave.next("gw-1", soon), Next::OnChange);
    let over = begin + WAVE;
    assert_eq!(wave.take(over), Some((2000, "gw-0, gw-1, gw-2, gw-3, gw-4, …".to_owned())));
    assert_eq!(wave.take(over), None);
    wave.add("gw-7", over);
    assert_eq!(wave.take(over + WAVE), Some((1, "gw-7".to_owned())));
}
