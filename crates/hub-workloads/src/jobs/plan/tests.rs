//! Tests of `plan`: jobs and their pods, and what is needed next, as data.

use serde_json::{Value, json};

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

/// A job that has begun at second 0.
pub(crate) fn job(spec: &Value, status: &Value) -> Job {
    let mut status = status.clone();
    if status["startTime"].is_null() {
        status["startTime"] = at(0).to_string().into();
    }
    let job = json!({"spec": spec, "status": status}).to_string();
    Job::read(&serde_json::from_str(&job).unwrap())
}

/// Pods, one in each text: its name, then what it is like. `i3` is its index, `f2` and `g1` are failures of its index before it
/// that counted and that did not, `at30` is when it ended.
pub(crate) fn pods(texts: &[&str]) -> Vec<Pod> {
    texts.iter().map(|text| pod(text)).collect()
}

fn pod(text: &str) -> Pod {
    let mut parts = text.split_whitespace();
    let name = parts.next().unwrap().to_owned();
    let mut pod = Pod { uid: format!("uid-{name}"), name, is_tracked: true, is_assigned: true, ..Pod::default() };
    pod.created = at(0);
    for part in parts {
        let number = |prefix: &str| part.strip_prefix(prefix).and_then(|number| number.parse::<i64>().ok());
        match part {
            "pending" => pod.phase = Phase::Pending,
            "running" => pod.phase = Phase::Running,
            "ready" => (pod.phase, pod.ready) = (Phase::Running, Some(at(1))),
            "succeeded" => pod.phase = Phase::Succeeded,
            "failed" => pod.phase = Phase::Failed,
            "terminating" => pod.is_terminating = true,
            "counted" => pod.is_tracked = false,
            "unassigned" => pod.is_assigned = false,
            "ignored" => pod.failure = Failure::Ignore,
            "fails-index" => pod.failure = Failure::FailIndex,
            "fails-job" => pod.failure = Failure::FailJob(format!("{} fails it", pod.name)),
            _ if number("restarts").is_some() => {
                (pod.restarts, pod.restarts_max) = (number("restarts").unwrap(), number("restarts").unwrap());
            }
            _ if number("at").is_some() => pod.finished = at(number("at").unwrap()),
            _ if number("young").is_some() => pod.created = at(number("young").unwrap()),
            _ if number("i").is_some() => pod.index = number("i"),
            _ if number("f").is_some() => pod.failures = number("f").unwrap(),
            _ if number("g").is_some() => pod.ignored_failures = number("g").unwrap(),
            _ => panic!("no pod is {part}"),
        }
    }
    pod
}

fn say(plan: &Plan, pods: &[Pod]) -> String {
    let names = |indexes: &[usize]| indexes.iter().map(|index| pods[*index].name.clone()).collect::<Vec<_>>().join(" ");
    let new = |pod: &NewPod| match (pod.index, pod.failures) {
        (None, _) => "one".to_owned(),
        (Some(index), None) => format!("i{index}"),
        (Some(index), Some((failures, ignored))) => format!("i{index}({failures},{ignored})"),
    };
    let mut said = Vec::new();
    said.extend(plan.finish.as_ref().map(|finish| finish.reason.clone()));
    match &plan.action {
        Action::Nothing => {}
        Action::End(pods) => said.push(format!("end {}", names(pods)).trim_end().to_owned()),
        Action::Remove(pods) => said.push(format!("remove {}", names(pods))),
        Action::Create(pods) => said.push(format!("create {}", pods.iter().map(new).collect::<Vec<_>>().join(" "))),
    }
    said.extend(plan.again.map(|again| format!("again {}", again.as_secs())));
    said.join("; ")
}

/// At second 100, with failures counted before.
fn check_after(record: Record, spec: Value, status: Value, texts: &[&str], expected: &str) {
    let pods = pods(texts);
    let plan = plan(&job(&spec, &status), &pods, record, at(100));
    assert_eq!(say(&plan, &pods), expected, "{spec} {status} {texts:?}");
}

fn check(spec: Value, status: Value, texts: &[&str], expected: &str) {
    check_after(Record::default(), spec, status, texts, expected);
}

fn of(completions: i64, parallelism: i64) -> Value {
    json!({"completions": completions, "parallelism": parallelism, "backoffLimit": 6})
}

fn indexed(completions: i64, parallelism: i64) -> Value {
    with(of(completions, parallelism), json!({"completionMode": "Indexed"}))
}

fn with(mut spec: Value, more: Value) -> Value {
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

#[test]
fn as_many_pods_run_as_are_needed_and_allowed() {
    let none = || json!({});
    check(of(1, 1), none(), &[], "create one");
    check(of(3, 2), none(), &[], "create one one");
    check(of(3, 5), json!({"succeeded": 1}), &["a running"], "create one");
    check(of(3, 2), json!({"succeeded": 2}), &["a running"], "");
    check(of(2, 2), none(), &["a succeeded", "b running"], "");
    // What was counted is in the status; its uid is not counted again.
    check(of(2, 2), json!({"succeeded": 1}), &["a succeeded counted"], "create one");
    let uncounted = json!({"uncountedTerminatedPods": {"succeeded": ["uid-a"]}});
    check(of(2, 2), uncounted.clone(), &["a succeeded"], "create one");
    check(of(2, 2), uncounted, &["a succeeded counted"], "create one");
    // Without a number of completions the first success says that the work is done.
    let queue = json!({"parallelism": 3});
    check(queue.clone(), none(), &[], "create one one one");
    check(queue.clone(), json!({"succeeded": 1}), &["a running"], "");
    check(queue, none(), &["a succeeded", "b failed"], "");
    check(of(600, 600), none(), &[], &format!("create{}", " one".repeat(500)));
    check(of(0, 1), none(), &[], "");
}

#[test]
fn pods_that_nobody_needs_are_deleted_in_upstreams_order() {
    let status = || json!({"succeeded": 1});
    check(of(2, 4), status(), &["a running", "b pending"], "remove b");
    check(of(2, 4), status(), &["a pending", "b pending unassigned"], "remove b");
    check(of(2, 4), status(), &["a ready", "b running"], "remove b");
    check(of(2, 4), status(), &["a running restarts1", "b running restarts3"], "remove b");
    check(of(2, 4), status(), &["a running", "b running young5"], "remove b");
    check(of(9, 1), json!({}), &["a running young1", "b running young2", "c ready"], "remove b a");
    // One of each index.
    check(indexed(3, 3), json!({}), &["a ready i0", "b running i0", "c running i1", "d running i2"], "remove b");
    check(indexed(3, 3), json!({}), &["a running i0", "b running", "c running i7"], "remove b c");
}

#[test]
fn indexes_are_worked_off_in_order() {
    check(indexed(4, 2), json!({}), &[], "create i0 i1");
    check(indexed(4, 4), json!({"completedIndexes": "0,2"}), &["a running i1"], "create i3");
    check(indexed(4, 4), json!({}), &["a succeeded i1"], "create i0 i2 i3");
    check(indexed(4, 4), json!({"completedIndexes": "0-3", "succeeded": 4}), &[], "");
    // The same with fewer completions, and with more.
    check(
        indexed(2, 2),
        json!({"completedIndexes": "0,3", "succeeded": 2}),
        &["a running i1", "b running i2"],
        "remove b",
    );
    check(indexed(5, 5), json!({"completedIndexes": "0-2", "succeeded": 3}), &[], "create i3 i4");
    // A replacement waits for the end, if only failed pods are replaced.
    let careful = || with(indexed(2, 2), json!({"podReplacementPolicy": "Failed"}));
    check(careful(), json!({}), &["a running terminating i0"], "create i1");
    check(indexed(2, 2), json!({}), &["a running terminating i0 at80"], "create i0 i1");
}

#[test]
fn failures_bring_pauses_and_then_the_end() {
    check(of(1, 1), json!({}), &["a failed at95"], "again 5");
    check(of(1, 1), json!({}), &["a failed at90"], "create one");
    check(of(1, 1), json!({}), &["a failed at10", "b failed at85"], "again 5");
    check(of(2, 1), json!({}), &["a failed at95", "b succeeded at96"], "create one");
    let record = |failures| Record { failures, last: Some(at(95)) };
    check_after(record(3), of(1, 1), json!({"failed": 3}), &[], "again 35");
    check_after(record(5), of(1, 1), json!({"failed": 6}), &["a failed at96"], "BackoffLimitExceeded; end");
    check_after(
        record(5),
        of(9, 3),
        json!({"failed": 6}),
        &["a failed at96", "b running"],
        "BackoffLimitExceeded; end b",
    );
    // A pod that is deleted has failed; with another policy only once it has ended.
    let strict = || with(of(1, 1), json!({"backoffLimit": 0}));
    check(strict(), json!({}), &["a running terminating"], "BackoffLimitExceeded; end");
    check(with(strict(), json!({"podReplacementPolicy": "Failed"})), json!({}), &["a running terminating"], "");
    check(strict(), json!({}), &["a failed counted"], "create one");
    check(strict(), json!({"uncountedTerminatedPods": {"failed": ["uid-x"]}}), &[], "BackoffLimitExceeded; end");
    // Restarts in a pod.
    let restarts = |limit: i64| {
        let template = json!({"spec": {"restartPolicy": "OnFailure"}});
        with(of(2, 2), json!({"backoffLimit": limit, "template": template}))
    };
    check(restarts(4), json!({}), &["a running restarts1", "b running restarts2"], "");
    check(restarts(3), json!({}), &["a running restarts1", "b running restarts2"], "BackoffLimitExceeded; end a b");
    check(restarts(0), json!({}), &["a running", "b running"], "");
    check(restarts(0), json!({}), &["a running restarts1", "b running"], "BackoffLimitExceeded; end a b");
}

#[test]
fn each_index_has_failures_of_its_own() {
    let per_index = |limit: i64| with(indexed(3, 3), json!({"backoffLimitPerIndex": limit, "backoffLimit": i32::MAX}));
    check(per_index(1), json!({}), &[], "create i0(0,0) i1(0,0) i2(0,0)");
    check(per_index(1), json!({}), &["a failed i0 at90", "b running i1", "c running i2"], "create i0(1,0)");
    check(per_index(1), json!({}), &["a failed i0 at95", "b running i1", "c running i2"], "again 5");
    check(per_index(1), json!({}), &["a failed i0 at95", "b running i1"], "create i2(0,0); again 5");
    check(per_index(1), json!({}), &["a failed i0 f1 at95", "b running i1", "c running i2"], "");
    check(per_index(2), json!({}), &["a failed i0 f1 g1 at10", "b running i1", "c running i2"], "create i0(2,1)");
    check(per_index(0), json!({}), &["a failed i0 ignored at10", "b running i1", "c running i2"], "create i0(0,1)");
    check(per_index(5), json!({}), &["a failed i0 fails-index at10", "b running i1", "c running i2"], "");
    let failed = |indexes: &str| json!({"failedIndexes": indexes, "completedIndexes": "1", "succeeded": 1});
    check(per_index(0), failed("0"), &["c running i2"], "");
    check(per_index(0), failed("0"), &["c succeeded i2"], "FailedIndexes; end");
    check(per_index(0), failed("0"), &["c failed i2"], "FailedIndexes; end");
    let at_most = |max: i64| with(per_index(0), json!({"maxFailedIndexes": max}));
    check(at_most(0), json!({}), &["a failed i0", "b running i1", "c running i2"], "MaxFailedIndexesExceeded; end b c");
    check(at_most(1), json!({}), &["a failed i0", "b running i1", "c running i2"], "");
}

#[test]
fn the_pod_that_knows_the_failures_of_its_index_is_kept() {
    let spec = with(indexed(4, 4), json!({"backoffLimitPerIndex": 3}));
    let texts = [
        "a failed i0 at10",
        "b failed i0 f1 at20",
        "c failed i1 at10",
        "d running i1",
        "e failed i2 f3",
        "f succeeded i3",
    ];
    let pods = pods(&texts);
    let plan = plan(&job(&spec, &json!({})), &pods, Record::default(), at(1000));
    assert_eq!(plan.delayed, BTreeMap::from([(0, 1)]));
    assert_eq!(plan.failed_indexes.map(|indexes| indexes.to_string()).as_deref(), Some("2"));
    assert_eq!((plan.succeeded_indexes.to_string().as_str(), plan.succeeded), ("3", 1));
}

#[test]
fn rules_may_end_a_job() {
    let policy = || with(of(3, 3), json!({"podFailurePolicy": {"rules": []}}));
    check(policy(), json!({}), &["a failed fails-job", "b running"], "PodFailurePolicy; end b");
    check(policy(), json!({}), &["a running fails-job"], "create one one");
    let ignoring = with(policy(), json!({"backoffLimit": 0}));
    check(ignoring, json!({}), &["a failed ignored at10", "b running", "c running"], "create one");
    let success = with(indexed(3, 3), json!({"successPolicy": {"rules": [{"succeededIndexes": "0"}]}}));
    check(success.clone(), json!({}), &["a succeeded i0", "b running i1", "c running i2"], "SuccessPolicy; end b c");
    check(success, json!({}), &["a succeeded i1", "b running i0", "c running i2"], "");
    // Whatever was said once holds.
    let declared = |r#type: &str| json!({"conditions": [{"type": r#type, "status": "True", "reason": "Because"}]});
    check(of(3, 3), declared("FailureTarget"), &["a running"], "Because; end a");
    check(policy(), declared("SuccessCriteriaMet"), &["a failed fails-job", "b running"], "Because; end b");
}

#[test]
fn a_deadline_ends_a_job_that_is_not_suspended() {
    let within = |seconds: i64| with(of(1, 1), json!({"activeDeadlineSeconds": seconds}));
    check(within(130), json!({}), &["a running"], "again 30");
    check(within(100), json!({}), &["a running"], "DeadlineExceeded; end a");
    check(within(105), json!({}), &["a failed at98"], "again 5");
    check(with(within(1), json!({"suspend": true})), json!({}), &[], "");
    // It has run since it was resumed, which is now.
    let suspended = json!({"conditions": [{"type": "Suspended", "status": "True"}]});
    check(within(60), suspended, &["a running"], "again 60");
    check(within(i64::MAX), json!({}), &["a running"], &format!("again {}", i64::from(i32::MAX) - 100));
}

#[test]
fn a_suspended_job_has_no_pods_and_a_terminating_one_gets_none() {
    let suspended = || with(of(3, 3), json!({"suspend": true}));
    check(suspended(), json!({}), &["a running", "b pending", "c succeeded"], "remove b a");
    check(suspended(), json!({}), &[], "");
    let mut job = job(&of(3, 3), &json!({}));
    job.is_terminating = true;
    let plan = plan(&job, &pods(&["a running"]), Record::default(), at(100));
    assert_eq!(plan.action, Action::Nothing);
}

#[test]
fn numbers_that_no_api_takes_do_no_harm() {
    let huge =
        json!({"completions": i64::MAX, "parallelism": i64::MAX, "backoffLimit": -1, "completionMode": "Indexed"});
    let pods = pods(&["a failed i0 at100"]);
    let plan =
        plan(&job(&huge, &json!({"failed": i64::MAX, "succeeded": i64::MIN})), &pods, Record::default(), at(100));
    assert_eq!(plan.finish.map(|finish| finish.reason).as_deref(), Some("BackoffLimitExceeded"));
}
