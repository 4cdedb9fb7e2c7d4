use std::collections::BTreeMap;

use jiff::Timestamp;

use super::calculate::{self, CalculateError, Proposal, Sample, Samples};
use super::evaluate::verdict;
use super::normalize::{Normalized, Policy, Rules, Select, normalize};
use super::*;

const NOW: i64 = 1_800_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(NOW + seconds).unwrap()
}

/// Pods by letters, called 0, 1, …: R ready for long, N not ready since long, Y ready since 10 seconds and started before 20, P pending,
/// T terminating, X never ready.
fn pods(text: &str) -> Vec<Pod> {
    let pod = |(number, letter): (usize, char)| {
        let (is_false, since, started) = match letter {
            'N' => (true, -1000, -5000),
            'Y' => (false, -10, -20),
            'X' => (true, -4990, -5000),
            _ => (false, -1000, -5000),
        };
        Pod {
            name: number.to_string(),
            is_ignored: letter == 'T',
            is_pending: letter == 'P',
            is_ready: letter == 'R',
            started: Some(at(started)),
            ready: Some((is_false, at(since))),
        }
    };
    text.chars().enumerate().map(pod).collect()
}

/// `100 - 30` is 100 of pod 0 and 30 of pod 2.
fn samples(text: &str) -> Samples {
    let window = Duration::from_secs(15);
    let sample = |(number, value): (usize, &str)| {
        let value = value.parse().ok()?;
        Some((number.to_string(), Sample { value, at: at(0), window }))
    };
    text.split_whitespace().enumerate().filter_map(sample).collect()
}

fn situation(pods: &[Pod], current: i64) -> Situation<'_> {
    Situation { current, pods, tolerances: Tolerances { up: TOLERANCE, down: TOLERANCE }, now: at(0) }
}

#[test]
fn a_share_of_what_is_requested_says_how_many_pods_there_should_be() {
    // Pods, what they use, what each requests, the target; how many, percent, average.
    for (text, used, request, target, expected) in [
        ("RRR", "300 500 700", 1000, 30, Ok((5, 50, 500))),
        ("RRR", "300 500 700", 1000, 50, Ok((3, 50, 500))),
        ("RRR", "300 500 700", 1000, 46, Ok((3, 50, 500))),
        ("RRR", "100 100 100", 1000, 50, Ok((1, 10, 100))),
        ("RRRR", "200 200 200 200", 1000, 100, Ok((1, 20, 200))),
        // Nothing was measured of the last: more pods come as if it used nothing,
        ("RRR", "900 900 -", 1000, 50, Ok((4, 90, 900))),
        // fewer as if it were as busy as it should be,
        ("RRR", "100 100 -", 1000, 50, Ok((3, 10, 100))),
        ("RRRR", "300 300 300 -", 1000, 100, Ok((2, 30, 300))),
        // and none when that turns the direction.
        ("RR", "600 -", 1000, 50, Ok((2, 60, 600))),
        ("RR", "500 -", 1000, 50, Ok((2, 50, 500))),
        // What is not ready counts only when pods come.
        ("RRP", "900 900 900", 1000, 50, Ok((4, 90, 900))),
        ("RRP", "100 100 900", 1000, 50, Ok((1, 10, 100))),
        ("RRX", "900 900 900", 1000, 50, Ok((4, 90, 900))),
        ("RRY", "900 900 900", 1000, 50, Ok((4, 90, 900))),
        // One that was ready before and is not now is not starting.
        ("RRN", "900 900 900", 1000, 50, Ok((6, 90, 900))),
        ("RRT", "900 900 900", 1000, 50, Ok((4, 90, 900))),
        ("P", "100", 1000, 50, Err(CalculateError::NoneMeasured)),
        ("R", "-", 1000, 50, Err(CalculateError::NoneMeasured)),
        ("", "", 1000, 50, Err(CalculateError::NoPods)),
        ("R", "100", 0, 50, Err(CalculateError::NoneKnown)),
        ("R", "100", 1000, 0, Err(CalculateError::NoTarget)),
    ] {
        let pods = pods(text);
        let requests: BTreeMap<String, i64> = pods.iter().map(|pod| (pod.name.clone(), request)).collect();
        let current = i64::try_from(pods.len()).unwrap();
        let proposed = calculate::by_utilization(situation(&pods, current), samples(used), &requests, target, true);
        let proposed =
            proposed.map(|Proposal { replicas, utilization, average }| (replicas, utilization.unwrap(), average));
        assert_eq!(proposed, expected, "{text} {used} of {request} at {target}%");
    }
}

#[test]
fn an_average_says_how_many_pods_there_should_be() {
    for (text, used, target, expected) in [
        ("RRR", "20000 10000 30000", 15000, (4, 20000)),
        ("RRR", "20000 10000 30000", 20000, (3, 20000)),
        ("RRR", "1000 1000 1000", 20000, (1, 1000)),
        ("RRR", "1000 1000 -", 20000, (2, 1000)),
        ("RRR", "30000 30000 -", 15000, (4, 30000)),
        // Memory is not what a pod uses more of while it starts.
        ("RRX", "30000 30000 30000", 15000, (6, 30000)),
    ] {
        let pods = pods(text);
        let proposed = calculate::by_average(situation(&pods, 3), samples(used), target, false).unwrap();
        assert_eq!((proposed.replicas, proposed.average), expected, "{text} {used} at {target}");
    }
}

#[test]
fn an_amount_that_belongs_to_all_says_how_many_pods_there_should_be() {
    let three = pods("RRN");
    assert_eq!(calculate::by_total(situation(&three, 3), 30_000, 10_000), Ok(6), "the ready ones count");
    assert_eq!(calculate::by_total(situation(&three, 3), 10_500, 10_000), Ok(3));
    assert_eq!(calculate::by_total(situation(&[], 0), 25_000, 10_000), Ok(3));
    assert_eq!(calculate::by_total(situation(&[], 0), 0, 10_000), Ok(0));
    assert_eq!(calculate::by_total(situation(&[], 2), 30_000, 10_000), Err(CalculateError::NoPods));
    assert_eq!(calculate::by_share(situation(&three, 3), 3, 60_000, 10_000), Ok((6, 20_000)));
    assert_eq!(calculate::by_share(situation(&three, 3), 3, 31_000, 10_000), Ok((3, 10_334)));
    assert_eq!(calculate::by_share(situation(&[], 0), 0, 31_000, 10_000), Ok((4, 31_000)));
}

#[test]
fn a_pod_requests_what_its_containers_do() {
    let read = |spec: Value, container: Option<&str>| {
        let text = json!({"metadata": {"name": "a"}, "spec": spec}).to_string();
        let pod: PodView<'_> = serde_json::from_str(&text).unwrap();
        calculate::requests(&[pod], container, "cpu").map(|requests| requests["a"])
    };
    let cpu = |cpu: &str| json!({"requests": {"cpu": cpu}});
    let two = json!({"containers": [{"name": "m", "resources": cpu("100m")}, {"name": "s", "resources": cpu("0.2")}]});
    assert_eq!(read(two.clone(), None), Ok(300));
    assert_eq!(read(two.clone(), Some("s")), Ok(200));
    assert_eq!(read(two.clone(), Some("x")), Err("container x not found in Pod a".to_owned()));
    let mut of_pod = two.clone();
    of_pod["resources"] = cpu("1");
    assert_eq!((read(of_pod.clone(), None), read(of_pod, Some("m"))), (Ok(1000), Ok(100)));
    let mut with_init = two;
    let init = json!([{"name": "i"}, {"name": "r", "restartPolicy": "Always", "resources": cpu("50m")}]);
    with_init["initContainers"] = init;
    assert_eq!(read(with_init, None), Ok(350));
    let silent = json!({"containers": [{"name": "m"}]});
    assert_eq!(read(silent, None), Err("missing request for cpu in container m of Pod a".to_owned()));
}

fn rules(window: u64, select: Select, policies: &[(bool, i64, u64)]) -> Rules {
    let policy = |(is_percent, value, period): &(bool, i64, u64)| Policy {
        is_percent: *is_percent,
        value: *value,
        period: Duration::from_secs(*period),
    };
    Rules { window: Duration::from_secs(window), select, policies: policies.iter().map(policy).collect() }
}

const WIDE: Bounds = Bounds { min: 1, max: 1000 };

/// A workload that is looked at every so often: seconds, current and desired number; the number it gets, and why it is limited or stabilized.
fn check(behavior: Option<&Behavior>, bounds: Bounds, looks: &[(u64, i64, i64, i64, &str)]) {
    let (mut history, start) = (History::default(), Instant::now());
    history.begin(looks[0].1, start);
    for (seconds, current, desired, expected, why) in looks {
        let now = start + Duration::from_secs(*seconds);
        let Normalized { replicas, able, limited, is_limited } =
            normalize(&mut history, behavior, *current, *desired, bounds, now);
        let said = if is_limited { limited.0 } else { able.0 };
        assert_eq!((replicas, said), (*expected, *why), "at {seconds} s from {current} to {desired}");
        if replicas != *current {
            history.scaled(behavior, *current, replicas, now);
        }
    }
}

#[test]
fn without_a_behavior_pods_come_at_once_and_leave_after_five_minutes() {
    check(
        None,
        WIDE,
        &[
            (0, 3, 5, 5, "ReadyForNewScale"),
            (15, 5, 2, 5, "ScaleDownStabilized"),
            (30, 5, 100, 10, "ScaleUpLimit"),
            (45, 10, 1, 20, "ScaleUpLimit"),
            // The recommendation for 100 is of the second 30.
            (329, 10, 1, 20, "ScaleUpLimit"),
            (331, 10, 2, 2, "ReadyForNewScale"),
        ],
    );
    check(
        None,
        Bounds { min: 2, max: 6 },
        &[(0, 3, 9, 6, "TooManyReplicas"), (1000, 6, 1, 2, "TooFewReplicas"), (1001, 2, 2, 2, "ReadyForNewScale")],
    );
    check(None, WIDE, &[(0, 1, 50, 4, "ScaleUpLimit")]);
}

#[test]
fn a_behavior_bounds_the_rate_in_each_direction() {
    let behavior = Behavior {
        up: rules(0, Select::Max, &[(false, 4, 15), (true, 100, 15)]),
        down: rules(0, Select::Min, &[(false, 2, 60), (true, 50, 60)]),
    };
    check(
        Some(&behavior),
        WIDE,
        &[
            (0, 1, 100, 5, "ScaleUpLimit"),
            // The period is not over.
            (10, 5, 100, 5, "ScaleUpLimit"),
            (15, 5, 100, 10, "ScaleUpLimit"),
            (30, 10, 100, 20, "ScaleUpLimit"),
            // A minute ago there was one, so there may be one again.
            (45, 20, 1, 1, "ReadyForNewScale"),
        ],
    );
    check(
        Some(&behavior),
        WIDE,
        &[
            (0, 20, 1, 18, "ScaleDownLimit"),
            (30, 18, 1, 18, "ScaleDownLimit"),
            (60, 18, 1, 16, "ScaleDownLimit"),
            (120, 16, 15, 15, "ReadyForNewScale"),
        ],
    );
    let disabled = Behavior { down: rules(0, Select::Disabled, &[(true, 100, 15)]), ..behavior.clone() };
    check(Some(&disabled), WIDE, &[(0, 10, 1, 10, "ScaleDownLimit")]);
    let bounds = Bounds { min: 3, max: 6 };
    check(Some(&behavior), bounds, &[(0, 5, 50, 6, "TooManyReplicas"), (100, 4, 1, 3, "TooFewReplicas")]);
}

#[test]
fn a_window_holds_the_most_cautious_recommendation() {
    let all = &[(true, 100, 15)];
    let behavior = Behavior { up: rules(60, Select::Max, all), down: rules(120, Select::Max, all) };
    check(
        Some(&behavior),
        WIDE,
        &[
            (0, 5, 9, 5, "ScaleUpStabilized"),
            (30, 5, 8, 5, "ScaleUpStabilized"),
            (60, 5, 9, 8, "ScaleUpStabilized"),
            (90, 8, 2, 8, "ScaleDownStabilized"),
            (170, 8, 2, 8, "ScaleDownStabilized"),
            (181, 8, 2, 2, "ReadyForNewScale"),
        ],
    );
}

#[test]
fn what_the_api_leaves_open_has_a_default() {
    let view = |value: Value| serde_json::from_value(value).unwrap();
    let read = Behavior::read(&view(json!({"scaleUp": {"policies": []}, "scaleDown": {
        "selectPolicy": "Min", "stabilizationWindowSeconds": 999_999,
        "policies": [{"type": "Percent", "value": 10, "periodSeconds": -5}],
    }})));
    assert_eq!(read.up, rules(0, Select::Max, &[]));
    assert_eq!(read.down, rules(3600, Select::Min, &[(true, 10, 0)]));
    assert_eq!(Behavior::read(&view(json!({}))).down, rules(300, Select::Max, &[]));
    let spec: SpecView = serde_json::from_value(json!({"behavior": {"scaleUp": {"tolerance": "50m"}}})).unwrap();
    assert_eq!(tolerances(&spec), Tolerances { up: 0.05, down: 0.1 });
}

#[test]
fn the_most_that_a_metric_asks_for_counts() {
    let ok = |replicas: i64, name: &str| Ok(Evaluated { replicas, name: name.to_owned(), status: Value::Null });
    let failed = || {
        let why = "why".to_owned();
        Err(Failure { reason: "FailedGetPodsMetric", summary: format!("failed: {why}"), why })
    };
    for (evaluated, current, expected) in [
        (vec![ok(2, "a"), ok(5, "b"), ok(3, "c")], 3, Some((5, "b"))),
        (vec![ok(5, "a"), ok(5, "b")], 3, Some((5, "a"))),
        (vec![ok(1, "a")], 3, Some((1, "a"))),
        (vec![failed(), ok(5, "b")], 3, Some((5, "b"))),
        (vec![failed(), ok(3, "b")], 3, Some((3, "b"))),
        // Nobody knows whether fewer would do.
        (vec![failed(), ok(2, "b")], 3, None),
        (vec![failed(), failed()], 3, None),
        (vec![], 3, None),
    ] {
        let found = match verdict(&evaluated, current) {
            Verdict::Replicas { replicas, name } => Some((replicas, name)),
            Verdict::Unknown { .. } => None,
        };
        assert_eq!(found, expected.map(|(replicas, name)| (replicas, name.to_owned())), "{evaluated:?}");
    }
    let Verdict::Unknown { first, message } = verdict(&[ok(1, "a"), failed()], 3) else { panic!("it is unknown") };
    assert_eq!(first.reason, "FailedGetPodsMetric");
    assert_eq!(message, "invalid metrics (1 invalid out of 2), first error is: failed: why");
}
