use serde_json::{Value, json};

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": spec})).unwrap()
}

fn seen_as(states: &[(&str, ContainerPhase)]) -> BTreeMap<String, ContainerView> {
    let attempt = |state: &ContainerPhase| u32::from(*state != ContainerPhase::Nothing);
    states
        .iter()
        .map(|(name, state)| {
            let view =
                ContainerView { state: *state, next_attempt: attempt(state), started: true, ..Default::default() };
            ((*name).to_owned(), view)
        })
        .collect()
}

/// Short words for actions: `volumes`, `start a#1`, `stop a`, `fail R`, `finish`.
fn words(decision: &Decision) -> Vec<String> {
    decision
        .actions
        .iter()
        .map(|action| match action {
            Action::PrepareVolumes => "volumes".to_owned(),
            Action::Start { container, attempt } => format!("start {container}#{attempt}"),
            Action::Stop { container, .. } => format!("stop {container}"),
            Action::Fail { reason, .. } => format!("fail {reason}"),
            Action::Finish => "finish".to_owned(),
        })
        .collect()
}

fn view<'a>(pod: &'a Pod, containers: &'a BTreeMap<String, ContainerView>) -> View<'a> {
    View {
        pod,
        now: at(1000),
        ending: false,
        failed: false,
        start_time: Some(at(900)),
        volumes_ready: true,
        runs_ephemeral: true,
        containers,
    }
}

fn check(spec: &Value, states: &[(&str, ContainerPhase)], expected: &[&str]) {
    let (pod, containers) = (pod(spec.clone()), seen_as(states));
    assert_eq!(words(&decide(&view(&pod, &containers))), expected, "{spec} {states:?}");
}

fn check_ending(spec: &Value, states: &[(&str, ContainerPhase)], expected: &[&str]) {
    let (pod, containers) = (pod(spec.clone()), seen_as(states));
    let view = View { ending: true, ..view(&pod, &containers) };
    assert_eq!(words(&decide(&view)), expected, "{spec} {states:?}");
}

use ContainerPhase::{Exited, Nothing, Running, Starting, Stopping};

#[test]
fn app_containers_start_together_and_are_started_once() {
    let spec = json!({"containers": [{"name": "a"}, {"name": "b"}]});
    check(&spec, &[], &["start a#0", "start b#0"]);
    check(&spec, &[("a", Starting), ("b", Running)], &[]);
    check(&spec, &[("a", Stopping), ("b", Nothing)], &["start b#0"]);
}

#[test]
fn the_restart_policy_decides_what_an_exit_means() {
    for (policy, code, expected) in [
        ("Always", 0, vec!["start a#1"]),
        ("Always", 1, vec!["start a#1"]),
        ("OnFailure", 0, vec![]),
        ("OnFailure", 1, vec!["start a#1"]),
        ("Never", 0, vec![]),
        ("Never", 1, vec![]),
    ] {
        check(&json!({"restartPolicy": policy, "containers": [{"name": "a"}]}), &[("a", Exited(code))], &expected);
    }
}

#[test]
fn init_containers_run_one_after_the_other() {
    let spec = json!({"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "a"}]});
    check(&spec, &[], &["start i#0"]);
    check(&spec, &[("i", Running)], &[]);
    check(&spec, &[("i", Exited(1))], &["start i#1"]);
    check(&spec, &[("i", Exited(0))], &["start j#0"]);
    check(&spec, &[("i", Exited(0)), ("j", Exited(0))], &["start a#0"]);
    // Their records may be deleted when the app has long been running.
    check(&spec, &[("a", Exited(1))], &["start a#1"]);
}

#[test]
fn a_failed_init_container_under_never_ends_the_pod() {
    let spec = json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}], "containers": [{"name": "a"}]});
    check(&spec, &[("i", Exited(1))], &[]);
}

#[test]
fn a_sidecar_comes_first_and_leaves_last() {
    let spec = json!({
        "restartPolicy": "OnFailure",
        "initContainers": [{"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "a"}],
    });
    check(&spec, &[], &["start s#0"]);
    check(&spec, &[("s", Running)], &["start a#0"]);
    check(&spec, &[("s", Exited(0)), ("a", Running)], &["start s#1"]);
    check(&spec, &[("s", Running), ("a", Exited(0))], &["stop s"]);
    check_ending(&spec, &[("s", Running), ("a", Running)], &["stop a"]);
    check_ending(&spec, &[("s", Running), ("a", Stopping)], &[]);
    check_ending(&spec, &[("s", Running), ("a", Exited(143))], &["stop s"]);
}

#[test]
fn an_ending_pod_is_finished_when_nothing_runs() {
    let spec = json!({"containers": [{"name": "a"}, {"name": "b"}]});
    check_ending(&spec, &[("a", Running), ("b", Exited(1))], &["stop a"]);
    check_ending(&spec, &[("a", Starting)], &["stop a"]);
    check_ending(&spec, &[("a", Stopping)], &[]);
    check_ending(&spec, &[("a", Exited(143)), ("b", Exited(1))], &["finish"]);
    check_ending(&spec, &[], &["finish"]);
}

#[test]
fn init_containers_run_again_in_another_instance_and_once_in_each() {
    let pod = pod(json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}));
    let known = |state, is_former| ContainerView { state, is_former, next_attempt: 1, ..ContainerView::default() };
    let words_of = |init, app| {
        let containers = BTreeMap::from([("i".to_owned(), init), ("a".to_owned(), app)]);
        words(&decide(&view(&pod, &containers)))
    };
    assert_eq!(words_of(known(Exited(0), true), known(Exited(137), true)), ["start i#1"]);
    assert_eq!(words_of(known(Exited(0), false), known(Exited(137), true)), ["start a#1"]);
    assert_eq!(words_of(known(Exited(0), true), known(Running, false)), Vec::<String>::new());
}

#[test]
fn a_pod_waits_for_its_volumes_and_a_failed_pod_starts_nothing() {
    let (pod, containers) = (pod(json!({"containers": [{"name": "a"}]})), BTreeMap::new());
    assert_eq!(words(&decide(&View { volumes_ready: false, ..view(&pod, &containers) })), ["volumes"]);
    assert_eq!(words(&decide(&View { failed: true, ..view(&pod, &containers) })), Vec::<String>::new());
}

#[test]
fn what_is_added_to_a_running_pod_starts_once_and_ends_with_the_pod() {
    let spec = json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}], "ephemeralContainers": [{"name": "debug"}]});
    // It may be there to see why an init container hangs.
    check(&spec, &[("i", Running)], &["start debug#0"]);
    check(&spec, &[("i", Exited(0)), ("a", Running), ("debug", Starting)], &[]);
    check(&spec, &[("i", Exited(0)), ("a", Running), ("debug", Exited(1))], &[]);
    check(&spec, &[("i", Exited(0)), ("a", Exited(1)), ("debug", Running)], &["start a#1"]);
    check_ending(&spec, &[("i", Exited(0)), ("a", Running), ("debug", Running)], &["stop a", "stop debug"]);
    let (pod, containers) = (pod(spec), seen_as(&[("i", Exited(0)), ("a", Running)]));
    let of_a_process = View { runs_ephemeral: false, ..view(&pod, &containers) };
    assert_eq!(words(&decide(&of_a_process)), Vec::<String>::new());
}

#[test]
fn a_back_off_is_waited_for() {
    let pod = pod(json!({"containers": [{"name": "a"}]}));
    let mut containers = seen_as(&[("a", Exited(1))]);
    containers.get_mut("a").unwrap().not_before = Some(at(1010));
    let decision = decide(&view(&pod, &containers));
    assert_eq!(decision, Decision { actions: vec![], look_again_at: Some(at(1010)) });
    let later = View { now: at(1010), ..view(&pod, &containers) };
    assert_eq!(words(&decide(&later)), ["start a#1"]);
}

#[test]
fn a_kill_requested_container_is_stopped_once() {
    let pod = pod(json!({"containers": [{"name": "a"}]}));
    let mut containers = seen_as(&[("a", Running)]);
    containers.get_mut("a").unwrap().kill_requested = Some(Duration::from_secs(5));
    assert_eq!(words(&decide(&view(&pod, &containers))), ["stop a"]);
    containers.get_mut("a").unwrap().state = Stopping;
    assert_eq!(words(&decide(&view(&pod, &containers))), Vec::<String>::new());
}

#[test]
fn a_deadline_fails_the_pod_when_it_comes() {
    let pod = pod(json!({"activeDeadlineSeconds": 100, "containers": [{"name": "a"}]}));
    let containers = seen_as(&[("a", Running)]);
    assert_eq!(words(&decide(&view(&pod, &containers))), ["fail DeadlineExceeded"]);
    let before = View { now: at(950), ..view(&pod, &containers) };
    assert_eq!(decide(&before), Decision { actions: vec![], look_again_at: Some(at(1000)) });
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    fn any_state() -> impl Strategy<Value = ContainerPhase> {
        prop_oneof![Just(Nothing), Just(Starting), Just(Running), Just(Stopping), (0..3).prop_map(Exited),]
    }

    proptest! {
        #[test]
        fn nothing_active_is_started_and_nothing_inactive_is_stopped(
            i in any_state(), s in any_state(), a in any_state(), b in any_state(),
            policy in 0..3_usize, ending: bool, failed: bool, volumes_ready: bool,
        ) {
            let policy = ["Always", "OnFailure", "Never"][policy];
            let pod = pod(json!({
                "restartPolicy": policy,
                "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
                "containers": [{"name": "a"}, {"name": "b"}],
            }));
            let containers = seen_as(&[("i", i), ("s", s), ("a", a), ("b", b)]);
            let decision = decide(&View { ending, failed, volumes_ready, ..view(&pod, &containers) });
            for action in &decision.actions {
                match action {
                    Action::Start { container, .. } => {
                        prop_assert!(!ending && !failed && volumes_ready);
                        prop_assert!(!containers[container].state.is_active());
                    }
                    Action::Stop { container, .. } => {
                        prop_assert!(matches!(containers[container].state, Running | Starting));
                    }
                    Action::Finish => prop_assert!(ending && containers.values().all(|c| !c.state.is_active())),
                    Action::PrepareVolumes | Action::Fail { .. } => prop_assert!(!ending && !failed),
                }
            }
        }
    }
}
