//! Tests of `daemonsets`: its decisions, as data.

use hub_runtime::views::{ConditionView, Labels, ObjectMeta};
use hub_runtime::{plausible_since, seen_since};
use hub_testing::Hub;

use super::plan::plan;
use super::template::pod_name;
use super::*;
use crate::history::template_hash;

const NOW: i64 = 1_800_000_000;

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

/// `node revision state`, where the state is `ready`, `ready-N` (for N seconds), `starting`, `failed` or `leaving`.
fn pod(index: usize, text: &str) -> Pod {
    let words: Vec<&str> = text.split(' ').collect();
    let ready_for = match words[2] {
        "ready" => Some(3600),
        state => state.strip_prefix("ready-").map(|seconds| seconds.parse().unwrap()),
    };
    Pod {
        name: text.to_owned(),
        node: words[0].to_owned(),
        created: Timestamp::from_second(i64::try_from(index).unwrap()).unwrap(),
        is_terminating: words[2] == "leaving",
        phase: if words[2] == "failed" { Phase::Failed } else { Phase::Alive },
        ready_since: ready_for.map(|seconds| Timestamp::from_second(NOW - seconds).unwrap()),
        is_updated: words[1] == "new",
        ..Pod::default()
    }
}

fn planned(strategy: Strategy, min_ready: u64, pods: &[&str]) -> (Plan, Vec<Pod>) {
    planned_without(&[], strategy, min_ready, pods)
}

/// With these nodes out of reach.
fn planned_without(away: &[&str], strategy: Strategy, min_ready: u64, pods: &[&str]) -> (Plan, Vec<Pod>) {
    let pods: Vec<Pod> = pods.iter().enumerate().map(|(index, text)| pod(index, text)).collect();
    let nodes = [("gw-1", Fit::Run), ("gw-2", Fit::Run), ("gw-3", Fit::Run), ("server", Fit::Leave)];
    let nodes = nodes.map(|(name, fit)| (name.into(), fit));
    let clock = Clock { now: now(), min_ready: Duration::from_secs(min_ready) };
    let away = away.iter().map(|node| (*node).into()).collect();
    (plan(&nodes.into(), &away, &pods, strategy, clock), pods)
}

fn check_after(strategy: Strategy, min_ready: u64, pods: &[&str], created_on: &[&str], deleted: &[&str]) {
    let (plan, given) = planned(strategy, min_ready, pods);
    let mut names: Vec<&str> = plan.delete.iter().map(|index| given[*index].name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(
        (plan.create_on.iter().map(String::as_str).collect::<Vec<_>>(), names),
        (created_on.to_vec(), deleted.to_vec()),
        "{strategy:?} {pods:?}"
    );
}

fn check(strategy: Strategy, pods: &[&str], created_on: &[&str], deleted: &[&str]) {
    check_after(strategy, 0, pods, created_on, deleted);
}

const ONE: Strategy = Strategy::Unavailable(1);

#[test]
fn each_node_that_fits_gets_one_pod() {
    check(ONE, &[], &["gw-1", "gw-2", "gw-3"], &[]);
    check(ONE, &["gw-1 new ready", "gw-3 new starting"], &["gw-2"], &[]);
}

#[test]
fn a_pod_on_a_node_that_no_longer_fits_goes() {
    let pods = ["gw-1 new ready", "gw-2 new ready", "gw-3 new ready", "server new ready"];
    check(ONE, &pods, &[], &["server new ready"]);
}

#[test]
fn a_pod_on_a_node_of_which_nothing_is_known_is_left_alone() {
    let pods = ["gw-1 new ready", "gw-2 new ready", "gw-3 new ready", "deleted old ready", "deleted new failed"];
    check(ONE, &pods, &[], &[]);
    let (plan, _) = planned(ONE, 0, &pods);
    assert!(plan.failed.is_empty());
    assert_eq!((plan.counts.desired, plan.counts.current, plan.counts.misscheduled), (3, 3, 0));
}

#[test]
fn what_does_not_read_as_a_node_fits_neither_well_nor_badly() {
    let template = TemplateView::default();
    let fit = |json: &str| fit_on(&template, Some(&ObjectRef::watched("", "gw-1", 1, json.to_owned().into())));
    assert_eq!(fit(r#"{"metadata":{"name":"gw-1"}}"#), Some(Fit::Run));
    assert_eq!(
        fit(r#"{"metadata":{"name":"gw-1"},"spec":{"taints":[{"key":"k","effect":"NoExecute"}]}}"#),
        Some(Fit::Leave)
    );
    assert_eq!(fit(r#"{"metadata":{"name":"gw-1"},"spec":{"taints":"none"}}"#), None);
    assert_eq!(fit_on(&template, None), None);
}

#[test]
fn a_pod_stays_on_a_node_that_only_keeps_new_ones_out() {
    let pods = [pod(0, "gw-1 old ready")];
    let clock = Clock { now: now(), min_ready: Duration::ZERO };
    let plan =
        plan(&[("gw-1".into(), Fit::Stay), ("gw-2".into(), Fit::Stay)].into(), &BTreeSet::new(), &pods, ONE, clock);
    assert_eq!((plan.create_on, plan.delete), (vec![], vec![]));
    assert_eq!((plan.counts.desired, plan.counts.misscheduled), (0, 1));
}

#[test]
fn a_node_has_no_second_pod_while_the_first_is_leaving() {
    check(ONE, &["gw-1 new leaving", "gw-2 new ready", "gw-3 new ready"], &[], &[]);
    check(Strategy::Surge(1), &["gw-1 old leaving", "gw-2 new ready", "gw-3 new ready"], &[], &[]);
}

#[test]
fn of_two_pods_on_one_node_the_older_stays() {
    let pods = ["gw-1 new ready", "gw-1 new starting", "gw-2 new ready", "gw-3 new ready"];
    check(ONE, &pods, &[], &["gw-1 new starting"]);
}

#[test]
fn a_pod_that_failed_is_replaced_in_its_own_time() {
    let (plan, pods) = planned(ONE, 0, &["gw-1 new failed", "gw-2 new ready", "gw-3 new ready"]);
    assert_eq!((plan.create_on.len(), plan.delete.len()), (0, 0));
    assert_eq!(plan.failed.iter().map(|index| pods[*index].node.as_str()).collect::<Vec<_>>(), ["gw-1"]);
}

#[test]
fn a_rollout_takes_no_more_pods_than_it_may() {
    let old = ["gw-1 old ready", "gw-2 old ready", "gw-3 old ready"];
    check(ONE, &old, &[], &["gw-1 old ready"]);
    check(Strategy::Unavailable(2), &old, &[], &["gw-1 old ready", "gw-2 old ready"]);
    check(ONE, &["gw-1 new starting", "gw-2 old ready", "gw-3 old ready"], &[], &[]);
    check(ONE, &["gw-1 old leaving", "gw-2 old ready", "gw-3 old ready"], &[], &[]);
    check(ONE, &["gw-2 old ready", "gw-3 old ready"], &["gw-1"], &[]);
    check(Strategy::OnDelete, &old, &[], &[]);
}

#[test]
fn an_old_pod_that_does_not_work_is_replaced_at_once() {
    check(ONE, &["gw-1 old ready", "gw-2 old starting", "gw-3 new ready"], &[], &["gw-2 old starting"]);
}

#[test]
fn a_rollout_waits_until_a_new_pod_was_ready_for_long_enough() {
    let at = |seconds| format!("gw-1 new ready-{seconds}");
    check_after(ONE, 5, &[&at(4), "gw-2 old ready", "gw-3 old ready"], &[], &[]);
    check_after(ONE, 5, &[&at(5), "gw-2 old ready", "gw-3 old ready"], &[], &["gw-2 old ready"]);
    let (plan, _) = planned(ONE, 5, &[&at(2), "gw-2 old ready", "gw-3 old ready"]);
    assert_eq!((plan.counts.ready, plan.counts.available, plan.counts.unavailable), (3, 2, 1));
    assert_eq!(plan.available_after, Some(Duration::from_secs(3)), "the next look is when it becomes available");
}

#[test]
fn a_surge_brings_the_new_pod_up_before_the_old_one_goes() {
    let old = ["gw-1 old ready", "gw-2 old ready", "gw-3 old ready"];
    check(Strategy::Surge(1), &old, &["gw-1"], &[]);
    check(Strategy::Surge(2), &old, &["gw-1", "gw-2"], &[]);
    let both = ["gw-1 old ready", "gw-1 new starting", "gw-2 old ready", "gw-3 old ready"];
    check(Strategy::Surge(1), &both, &[], &[]);
    check(Strategy::Surge(2), &both, &["gw-2"], &[]);
    let up = ["gw-1 old ready", "gw-1 new ready", "gw-2 old ready", "gw-3 old ready"];
    check(Strategy::Surge(1), &up, &["gw-2"], &["gw-1 old ready"]);
    let broken = ["gw-1 old starting", "gw-1 new starting", "gw-2 old starting", "gw-3 old ready"];
    check(Strategy::Surge(1), &broken, &["gw-2"], &["gw-1 old starting"]);
    let young = ["gw-1 old ready", "gw-1 new ready-4", "gw-2 old ready", "gw-3 old ready"];
    check_after(Strategy::Surge(1), 5, &young, &[], &[]);
}

#[test]
fn limits_are_numbers_or_shares_and_never_both_nothing() {
    let of = |strategy: Value, desired: usize| {
        let text = strategy.to_string();
        Strategy::of(&serde_json::from_str(&text).unwrap(), desired)
    };
    let rolling = |fields: Value| json!({"type": "RollingUpdate", "rollingUpdate": fields});
    assert_eq!(of(json!({}), 10), ONE);
    assert_eq!(of(json!({"type": "OnDelete"}), 10), Strategy::OnDelete);
    assert_eq!(of(rolling(json!({"maxUnavailable": "25%"})), 10), Strategy::Unavailable(3));
    assert_eq!(of(rolling(json!({"maxUnavailable": 0, "maxSurge": 3})), 10), Strategy::Surge(3));
    assert_eq!(of(rolling(json!({"maxUnavailable": 0, "maxSurge": "10%"})), 11), Strategy::Surge(2));
    assert_eq!(of(rolling(json!({"maxUnavailable": 0, "maxSurge": 0})), 10), ONE);
    assert_eq!(of(rolling(json!({"maxUnavailable": "lots"})), 10), ONE);
}

#[test]
fn the_status_counts_what_kubectl_shows() {
    let pods = ["gw-1 new ready", "gw-2 old ready", "server new ready", "server old leaving"];
    let (plan, _) = planned(Strategy::OnDelete, 0, &pods);
    let expected =
        Counts { desired: 3, current: 2, misscheduled: 1, ready: 2, available: 2, unavailable: 1, updated: 1 };
    assert_eq!(plan.counts, expected);
}

#[test]
fn a_nodes_clock_counts_only_where_it_can_be_right() {
    let ready = |time: &str| format!(r#"{{"type":"Ready","status":"True","lastTransitionTime":"{time}"}}"#);
    let since = |time: &str| {
        let text = ready(time);
        let ready: ConditionView<'_> = serde_json::from_str(&text).unwrap();
        plausible_since(&ready, "2026-01-02T00:00:00Z".parse().unwrap(), "2026-01-03T00:00:00Z".parse().unwrap())
    };
    assert!(since("2026-01-02T12:00:00Z").is_some());
    assert!(since("1970-01-01T00:00:07Z").is_none(), "a pod cannot be Ready before it exists");
    assert!(since("2031-01-01T00:00:00Z").is_none());
}

#[test]
fn names_of_pods_are_their_nodes() {
    let names: BTreeSet<String> = (0..20_000).map(|node| pod_name("agent", "hash", &format!("gw-{node}"), 0)).collect();
    assert_eq!(names.len(), 20_000);
    let name = |hash, collisions| pod_name("agent", hash, "gw-1", collisions);
    assert_eq!(name("hash", 0), name("hash", 0));
    assert_ne!(name("hash", 0), name("other", 0));
    assert_ne!(name("hash", 0), name("hash", 1));
    assert!(pod_name(&"x".repeat(300), "hash", "gw-1", 0).len() <= 253);
    // What an earlier version called its pods and revisions is what this one calls them.
    assert_eq!(template_hash(&json!({"spec": {}}), 0).len(), 10);
}

#[test]
fn a_pod_says_whose_it_is_and_where() {
    let meta: ObjectMeta<'_> = serde_json::from_str(r#"{"name":"agent","namespace":"default","uid":"u"}"#).unwrap();
    let metadata = json!({"labels": {"app": "a"}, "finalizers": ["example.com/mine"]});
    let template = json!({"metadata": metadata, "spec": {"nodeSelector": {"role": "x"}}});
    let (name, bytes) =
        PodFactory::new(Owner::new(Kind::DaemonSet, &meta), &template, "hash", 0).pod_on("gw-1", &Labels::default());
    let pod: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(pod["metadata"]["name"], name.as_str());
    assert_eq!(pod["spec"]["nodeName"], "gw-1");
    assert_eq!(pod["spec"]["nodeSelector"]["role"], "x");
    assert_eq!(pod["metadata"]["ownerReferences"][0]["uid"], "u");
    assert_eq!(pod["metadata"]["labels"], json!({"app": "a", REVISION_LABEL: "hash"}));
    assert_eq!(pod["metadata"]["finalizers"], json!(["example.com/mine"]));
    assert!(pod["metadata"].get("annotations").is_none());
}

#[tokio::test]
async fn a_deletion_that_meets_another_write_holds_the_set_up_only_shortly() {
    let hub = Hub::new(|config| config);
    hub.make(Kind::Namespace, json!({"metadata": {"name": "default"}})).await;
    hub.make_service_account().await;
    let container = json!({"name": "main", "image": "file:///bin/true"});
    let spec = json!({"nodeName": "gw-1", "runtimeClassName": "selvedge-process", "containers": [container]});
    let made = hub.make(Kind::Pod, json!({"metadata": {"name": "one"}, "spec": spec})).await;
    let conflict = tower::service_fn(|_: http::Request<kube::client::Body>| async {
        let status =
            json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Conflict", "code": 409});
        let response =
            http::Response::builder().status(409).body(kube::client::Body::from(status.to_string().into_bytes()));
        response.map_err(tower::BoxError::from)
    });
    let writer = Writer::new(kube::Client::new(conflict, "default"));
    let sets = DaemonSets::new(Context { writer, ..hub.context() });
    let text = json!({"metadata": {"name": "agent", "namespace": "default", "uid": "u"}, "spec": {}}).to_string();
    let set: DaemonSetView<'_> = serde_json::from_str(&text).unwrap();
    let uid = made["metadata"]["uid"].as_str().unwrap().to_owned();
    let pod = Pod { namespace: "default".into(), name: "one".into(), uid, ..Pod::default() };
    let key: Key = ("default".into(), "agent".into());
    assert_eq!(sets.delete(&key, &set, vec![pod]).await.unwrap(), Next::After(UNSEEN_RETRY));
    assert!(sets.expectations.are_seen(&key, sets.reader()), "nothing is expected of a pod that was not deleted");
}

#[tokio::test]
async fn a_list_of_all_nodes_cuts_no_pause_short() {
    let hub = Hub::new(|config| config);
    let sets = DaemonSets::new(hub.context());
    let text = json!({"metadata": {"name": "agent", "namespace": "default", "uid": "u", "generation": 1}, "spec": {}});
    let text = text.to_string();
    let set: DaemonSetView<'_> = serde_json::from_str(&text).unwrap();
    let (key, queue): (Key, _) = (("default".into(), "agent".into()), Queue::new(Default::default()));
    let (template, now) = (TemplateView::default(), Instant::now());
    let pods = [Pod { node: "gw-1".into(), phase: Phase::Failed, ..Pod::default() }];
    let plan = Plan { failed: vec![0], ..Plan::default() };
    sets.remember(&key, &set, &template);
    assert_eq!(sets.due_failures(&key, &plan, &pods, now), (vec![0], Next::OnChange));
    sets.observe(&Event::Listed(Kind::Node, Arc::new([])), &queue);
    sets.remember(&key, &set, &template);
    let pause = Next::After(Duration::from_secs(1));
    assert_eq!(sets.due_failures(&key, &plan, &pods, now), (vec![], pause));
}

#[test]
fn a_clock_that_is_set_back_holds_no_pod_up() {
    let at = |seconds: i64| Timestamp::from_second(NOW + seconds).unwrap();
    assert_eq!(seen_since(None, now()), now());
    assert_eq!(seen_since(Some(at(-30)), now()), at(-30));
    assert_eq!(seen_since(Some(at(24 * 3600)), now()), now());
}

#[test]
fn a_rollout_passes_by_nodes_that_are_out_of_reach() {
    let check = |away: &[&str], strategy, pods: &[&str], created_on: &[&str], deleted: &[&str], skipped: &[&str]| {
        let (plan, given) = planned_without(away, strategy, 0, pods);
        let names: Vec<&str> = plan.delete.iter().map(|index| given[*index].name.as_str()).collect();
        assert_eq!((&plan.create_on[..], &names[..]), (&strings(created_on)[..], deleted), "{away:?} {pods:?}");
        assert_eq!(plan.skipped, skipped, "{away:?} {pods:?}");
    };
    // Its pod is not ready, since nobody hears of it: neither is it deleted, nor do the others wait for it.
    let pods = ["gw-1 old starting", "gw-2 old ready", "gw-3 old ready"];
    check(&["gw-1"], ONE, &pods, &[], &["gw-2 old ready"], &["gw-1"]);
    check(&[], ONE, &pods, &[], &["gw-1 old starting"], &[]);
    check(&["gw-1"], ONE, &["gw-1 old starting", "gw-2 new ready", "gw-3 new ready"], &[], &[], &["gw-1"]);
    check(&["gw-1"], ONE, &["gw-1 new starting", "gw-2 old ready", "gw-3 new ready"], &[], &["gw-2 old ready"], &[]);
    // A pod that is missing there is created, and comes up when the node is back.
    check(&["gw-1"], ONE, &["gw-2 old ready", "gw-3 new ready"], &["gw-1"], &["gw-2 old ready"], &[]);
    check(&["gw-1"], Strategy::Surge(1), &pods, &["gw-2"], &[], &["gw-1"]);
    check(&["gw-1"], Strategy::OnDelete, &pods, &[], &[], &[]);
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn a_pod_is_what_its_variant_is_on_the_node() {
    let meta: ObjectMeta<'_> = serde_json::from_str(r#"{"name":"agent","namespace":"default","uid":"u"}"#).unwrap();
    let variants =
        json!([{"name": "arm", "nodeSelector": {"arch": "arm64"}, "containers": [{"name": "main", "image": "b"}]}]);
    let annotations = json!({"selvedge.dev/variants": variants.to_string()});
    let template =
        json!({"metadata": {"annotations": annotations}, "spec": {"containers": [{"name": "main", "image": "a"}]}});
    let factory = PodFactory::new(Owner::new(Kind::DaemonSet, &meta), &template, "hash", 0);
    let pod_on = |labels: &str| -> Value {
        serde_json::from_slice(&factory.pod_on("gw-1", &serde_json::from_str(labels).unwrap()).1).unwrap()
    };
    let pod = pod_on(r#"{"arch":"arm64"}"#);
    assert_eq!(pod["spec"]["containers"][0]["image"], "b");
    assert_eq!(pod["metadata"]["annotations"]["selvedge.dev/variant"], "arm");
    let pod = pod_on(r#"{"arch":"amd64"}"#);
    assert_eq!(pod["spec"]["containers"][0]["image"], "a");
    assert!(pod["metadata"]["annotations"].get("selvedge.dev/variant").is_none());
}
