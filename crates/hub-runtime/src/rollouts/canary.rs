//! A new template comes to a few nodes first.
//!
//! ```yaml
//! metadata:
//!   annotations:
//!     selvedge.dev/canary: site=pilot      # over the labels of nodes
//!     selvedge.dev/canary-wait: 30m        # 10m where it is left out
//! ```
//!
//! ```text
//! new template ──▶ Waiting: only pods on these nodes are updated
//!                    │ all of them available for the wait, none restarted ──▶ Passed: the others follow
//!                    └ one restarted, failed, or not available in time ─────▶ RolledBack: the former template is put back
//! ```
//!
//! How a revision's canary ended is an annotation of the revision itself (a ReplicaSet, a ControllerRevision), so that a restarted
//! hub knows it, and a revision that failed is not tried again. How far one is follows from its pods: since when they are ready, and
//! how often they were restarted. A hub whose clock is set back waits longer.
//!
//! What is wrong stops a rollout and never widens it: with a selector that cannot be read, or that no node matches, nothing is
//! updated and the condition says so. A node out of reach is no failure: the canary waits for it, unless others are in reach.

use std::collections::BTreeMap;
use std::time::Duration;

use api_edge::{ANNOTATION_CANARY, ANNOTATION_CANARY_WAIT, go_duration};
use api_kube::selector::{LabelSelector, Operator};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::skipped::Skipped;
use crate::events::seconds;
use crate::kinds::Kind;
use crate::views::{Labels, NodeView, Text, condition, nullable, time};
use crate::{ObjectRef, Reader};

/// Type of the condition.
pub const CANARY: &str = "Canary";
/// How long canary pods must run well where nobody says.
const WAIT: Duration = Duration::from_secs(600);
/// How long a canary pod has to become available, where the workload has no `progressDeadlineSeconds`: Kubernetes' default of that.
pub const DEADLINE: Duration = Duration::from_secs(600);
/// How soon a canary that waits is looked at again: labels of nodes change without a word to workloads.
pub const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// What a workload's annotations say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Policy {
    /// A new template comes to all nodes.
    Off,
    /// It comes to some first.
    On(Canary),
    /// Nobody can say to which: nothing is updated.
    Invalid(String),
}

/// Which nodes are first, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canary {
    /// As it is written.
    pub text: String,
    nodes: LabelSelector,
    /// How long all pods there must be available before the others follow.
    pub wait: Duration,
}

impl Policy {
    /// Reads the values of [`ANNOTATION_CANARY`] and [`ANNOTATION_CANARY_WAIT`].
    pub fn read(nodes: Option<&str>, wait: Option<&str>) -> Self {
        let Some(text) = nodes else { return Self::Off };
        let canary = match Canary::nodes(text) {
            Ok(canary) => canary,
            Err(why) => return Self::Invalid(format!("{ANNOTATION_CANARY}: {text:?}: {why}; nothing is updated")),
        };
        match wait.map(go_duration::parse) {
            None => Self::On(canary),
            Some(Ok(wait)) => Self::On(Canary { wait, ..canary }),
            Some(Err(_)) => Self::Invalid(format!(
                "{ANNOTATION_CANARY_WAIT}: {:?} is no duration such as 10m or 1h30m; nothing is updated",
                wait.unwrap_or_default()
            )),
        }
    }
}

impl Canary {
    /// The nodes of a selector, with the default wait.
    ///
    /// # Errors
    /// When it is no selector, or selects every node; says which.
    pub fn nodes(text: &str) -> Result<Self, String> {
        let nodes = text.parse::<LabelSelector>().map_err(|error| format!("it is no label selector: {error}"))?;
        if nodes.is_everything() {
            return Err("it selects every node".to_owned());
        }
        Ok(Self { text: text.to_owned(), nodes, wait: WAIT })
    }

    /// Whether a node with these labels is first.
    pub fn matches(&self, labels: &Labels<'_>) -> bool {
        self.nodes.matches(|key| labels.get(key))
    }

    /// Has a pod's spec (JSON) placed on these nodes alone, beside what it demands itself.
    pub fn confine(&self, spec: &mut Value) {
        let expressions: Vec<Value> = self.nodes.requirements().iter().map(expression).collect();
        if !spec["affinity"].is_object() {
            spec["affinity"] = json!({});
        }
        if !spec["affinity"]["nodeAffinity"].is_object() {
            spec["affinity"]["nodeAffinity"] = json!({});
        }
        let required = &mut spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
        match required["nodeSelectorTerms"].as_array_mut() {
            // One of the terms must hold: each is narrowed.
            Some(terms) => {
                for term in terms {
                    let mut all = term["matchExpressions"].as_array().cloned().unwrap_or_default();
                    all.extend(expressions.iter().cloned());
                    term["matchExpressions"] = all.into();
                }
            }
            None => *required = json!({"nodeSelectorTerms": [{"matchExpressions": expressions}]}),
        }
    }
}

fn expression(requirement: &api_kube::selector::Requirement) -> Value {
    let (operator, values): (&str, Vec<String>) = match requirement.operator() {
        Operator::In(values) => ("In", values.clone()),
        Operator::NotIn(values) => ("NotIn", values.clone()),
        Operator::Exists => ("Exists", Vec::new()),
        Operator::Absent => ("DoesNotExist", Vec::new()),
        Operator::Greater(bound) => ("Gt", vec![bound.to_string()]),
        Operator::Less(bound) => ("Lt", vec![bound.to_string()]),
    };
    let mut expression = json!({"key": requirement.key(), "operator": operator});
    if !values.is_empty() {
        expression["values"] = values.into();
    }
    expression
}

/// The nodes of a canary, each with since when it can be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CanaryNodes {
    /// Those that can be updated.
    pub in_reach: BTreeMap<Box<str>, Timestamp>,
    /// Those that the rollout leaves out.
    pub skipped: BTreeMap<Box<str>, Timestamp>,
}

impl CanaryNodes {
    /// Finds the nodes of a canary among those that `may` have pods of the workload.
    pub fn find(canary: &Canary, reader: &dyn Reader, skipped: &Skipped, may: impl Fn(&str) -> bool) -> Self {
        let nodes = reader.list(Kind::Node, None).filter(|node| may(node.name()));
        Self::among(canary, nodes, skipped)
    }

    fn among(canary: &Canary, nodes: impl Iterator<Item = ObjectRef>, skipped: &Skipped) -> Self {
        let mut found = Self::default();
        for node in nodes {
            let Some(view) = node.view_or_log::<NodeView<'_>>() else { continue };
            if !canary.matches(&view.metadata.labels) {
                continue;
            }
            let ready = condition(&view.status.conditions, "Ready");
            // A node that does not say it has been there all the time.
            let since = ready.and_then(|ready| ready.last_transition_time.as_deref()).and_then(time);
            let is_skipped = skipped.contains_key(node.name());
            let nodes = if is_skipped { &mut found.skipped } else { &mut found.in_reach };
            nodes.insert(node.name().into(), since.unwrap_or_default());
        }
        found
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.in_reach.len() + self.skipped.len()
    }

    /// Since when one of them can be reached.
    pub fn since(&self, node: &str) -> Option<Timestamp> {
        self.in_reach.get(node).or_else(|| self.skipped.get(node)).copied()
    }
}

/// How a revision's canary ended, as its annotation says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The others may follow.
    Passed,
    /// The revision is not used again.
    Failed,
}

impl Ended {
    /// Reads the value of [`api_edge::ANNOTATION_CANARY_RESULT`].
    pub fn read(text: Option<&str>) -> Option<Self> {
        match text? {
            "Passed" => Some(Self::Passed),
            "Failed" => Some(Self::Failed),
            _ => None,
        }
    }

    /// The value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "Passed",
            Self::Failed => "Failed",
        }
    }
}

/// What is read of a pod to say whether it runs well.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Health<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    status: HealthStatus<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct HealthStatus<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    phase: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    reason: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    init_container_statuses: Vec<ContainerHealth<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    container_statuses: Vec<ContainerHealth<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerHealth<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    name: Text<'a>,
    #[serde(deserialize_with = "nullable")]
    restart_count: i64,
    #[serde(borrow, deserialize_with = "nullable")]
    state: ContainerState<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    last_state: ContainerState<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ContainerState<'a> {
    #[serde(borrow)]
    waiting: Option<Waiting<'a>>,
    terminated: Option<Terminated>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Waiting<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    reason: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Terminated {
    #[serde(deserialize_with = "nullable")]
    exit_code: i64,
}

impl Health<'_> {
    /// What is wrong with the pod and does not mend by waiting: it has ended, or a container was restarted.
    pub fn failure(&self) -> Option<String> {
        let HealthStatus { phase, reason, init_container_statuses, container_statuses } = &self.status;
        if matches!(&**phase, "Failed" | "Succeeded") {
            let reason = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
            return Some(format!("it has ended: {phase}{reason}"));
        }
        let restarted = init_container_statuses.iter().chain(container_statuses).find(|one| one.restart_count > 0)?;
        let code = restarted.last_state.terminated.as_ref().or(restarted.state.terminated.as_ref());
        let code = code.map(|ended| format!(" (exit code {})", ended.exit_code)).unwrap_or_default();
        Some(format!("container {} was restarted{code}", restarted.name))
    }

    /// Why a container has not started, for a pod that is not available in time.
    fn waits_for(&self) -> Option<&str> {
        let HealthStatus { init_container_statuses, container_statuses, .. } = &self.status;
        let waiting =
            init_container_statuses.iter().chain(container_statuses).filter_map(|one| one.state.waiting.as_ref());
        waiting.map(|waiting| &*waiting.reason).find(|reason| !reason.is_empty())
    }
}

/// A pod of the new template on a canary node.
#[derive(Clone, Debug, Default)]
pub struct CanaryPod {
    /// Its name.
    pub name: String,
    /// Since when it could have become available: its creation, or its node's return.
    pub since: Timestamp,
    /// Since when it is Ready, if it is.
    pub ready_since: Option<Timestamp>,
    /// What is wrong with it.
    pub failure: Option<String>,
    /// Why it has not started.
    pub waits_for: Option<String>,
    /// Whether its node is out of reach, or held by its owner: nothing is known of it, or nothing changes.
    pub is_skipped: bool,
}

impl CanaryPod {
    /// A pod by what is known of it.
    pub fn new(name: &str, since: Timestamp, ready_since: Option<Timestamp>, health: &Health<'_>) -> Self {
        Self {
            name: name.to_owned(),
            since,
            ready_since,
            failure: health.failure(),
            waits_for: health.waits_for().map(str::to_owned),
            is_skipped: false,
        }
    }
}

/// How a canary fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Why, and when to look again.
    Waiting(String, Duration),
    /// The others may follow.
    Passed,
    /// Which pod, and why.
    Failed(String),
}

/// What is expected of the pods of a canary.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// How many there shall be.
    pub pods: usize,
    /// How long one must be Ready to be available: `minReadySeconds`.
    pub min_ready: Duration,
    /// How long one has to become available.
    pub deadline: Duration,
}

/// Judges. `pods` are those of the new template on canary nodes.
pub fn judge(canary: &Canary, pods: &[CanaryPod], expected: Expected, now: Timestamp) -> Verdict {
    let Expected { pods: desired, min_ready, deadline } = expected;
    let since = |since: Timestamp| Duration::try_from(now.duration_since(since)).unwrap_or_default();
    let available_in = |pod: &CanaryPod| pod.ready_since.map(|ready| min_ready.saturating_sub(since(ready)));
    let is_available = |pod: &CanaryPod| available_in(pod).is_some_and(|left| left.is_zero());
    let known = || pods.iter().filter(|pod| !pod.is_skipped);
    for pod in known() {
        if let Some(why) = &pod.failure {
            return Verdict::Failed(format!("pod {}: {why}", pod.name));
        }
        if !is_available(pod) && since(pod.since) >= deadline {
            let why = pod.waits_for.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
            let seconds = deadline.as_secs();
            return Verdict::Failed(format!("pod {} was not available within {seconds} seconds{why}", pod.name));
        }
    }
    let available = known().filter(|pod| is_available(pod)).count();
    let (known, skipped) = (known().count(), pods.len() - known().count());
    let wait = canary.wait.as_secs();
    if desired == 0 || available < desired.saturating_sub(skipped) || available == 0 {
        let why = format!("{available} of {desired} pods on nodes with {} are available", canary.text);
        let ends = pods.iter().map(|pod| deadline.saturating_sub(since(pod.since)));
        let available_later =
            pods.iter().filter(|pod| !pod.is_skipped).filter_map(available_in).filter(|left| !left.is_zero());
        let next = ends.chain(available_later).min().unwrap_or(LOOK_AGAIN);
        return Verdict::Waiting(why, next.clamp(Duration::from_secs(1), LOOK_AGAIN));
    }
    let left = pods.iter().filter(|pod| !pod.is_skipped).filter_map(|pod| pod.ready_since);
    let left = left.map(|ready| min_ready.saturating_add(canary.wait).saturating_sub(since(ready)));
    let left = left.max().unwrap_or_default();
    if left.is_zero() {
        return Verdict::Passed;
    }
    let why = format!(
        "{known} of {desired} pods on nodes with {} are available; the others follow after {wait} seconds",
        canary.text
    );
    Verdict::Waiting(why, left.clamp(Duration::from_millis(100), LOOK_AGAIN))
}

/// Why a canary cannot begin: of `matching` nodes that match none can be updated.
pub fn no_node(canary: &Canary, matching: usize) -> String {
    match matching {
        0 => format!("no node matches {}; nothing is updated", canary.text),
        _ => format!(
            "all nodes that match {} ({matching}) are out of reach or held by their owners; nothing is updated",
            canary.text
        ),
    }
}

/// What is said before the first pod of a canary is created.
pub fn not_begun(canary: &Canary) -> String {
    format!("pods on nodes with {} are updated first", canary.text)
}

/// What the condition says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Says {
    /// Nothing: there is no canary.
    #[default]
    Nothing,
    /// What it said before.
    Same,
    /// It waits, or cannot begin.
    Waiting(String),
    /// The annotations cannot be followed.
    Invalid(String),
    /// The others follow.
    Passed,
    /// The former template is put back, since this failed.
    RolledBack(String),
}

/// The conditions of a workload with what its canary says.
pub fn with_canary(conditions: &[Value], says: &Says, now: Timestamp) -> Vec<Value> {
    let (held, mut others): (Vec<Value>, Vec<Value>) =
        conditions.iter().cloned().partition(|condition| condition["type"] == CANARY);
    let (status, reason, message) = match says {
        Says::Nothing => return others,
        Says::Same => return conditions.to_vec(),
        Says::Waiting(why) => ("Unknown", "Waiting", why.clone()),
        Says::Invalid(why) => ("Unknown", "InvalidAnnotation", why.clone()),
        Says::Passed => ("True", "Passed", "The pods that were updated first run well; the others follow".to_owned()),
        Says::RolledBack(why) => {
            ("False", "RolledBack", format!("The former template is put back and the new one not tried again: {why}"))
        }
    };
    let same = held.first().filter(|held| held["status"] == status);
    let since = same.map_or_else(|| seconds(now).into(), |held| held["lastTransitionTime"].clone());
    others.push(json!({
        "type": CANARY, "status": status, "reason": reason, "message": message, "lastTransitionTime": since,
    }));
    others
}

/// Whether there is the condition.
pub fn is_said(conditions: &[Value]) -> bool {
    conditions.iter().any(|condition| condition["type"] == CANARY)
}

/// Whether the condition says that a former template was put back.
pub fn is_rolled_back(conditions: &[Value]) -> bool {
    conditions.iter().any(|condition| condition["type"] == CANARY && condition["reason"] == "RolledBack")
}

#[cfg(test)]
mod tests {
    use super::super::skipped::Skip;
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn canary(wait: &str) -> Canary {
        match Policy::read(Some("site=pilot"), Some(wait)) {
            Policy::On(canary) => canary,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn annotations_say_which_nodes_come_first_or_nothing_is_updated() {
        assert_eq!(Policy::read(None, Some("10m")), Policy::Off);
        assert!(matches!(Policy::read(Some("site=pilot"), None), Policy::On(canary) if canary.wait == WAIT));
        assert_eq!(canary("1h").wait, Duration::from_secs(3600));
        for (nodes, wait, named) in [
            ("site==", Some("10m"), "canary"),
            ("site in pilot", None, "canary"),
            ("", None, "every node"),
            ("site=pilot", Some("soon"), "canary-wait"),
            ("site=pilot", Some("-5m"), "canary-wait"),
        ] {
            let Policy::Invalid(why) = Policy::read(Some(nodes), wait) else {
                assert_eq!(nodes, "site==", "an empty value is a value");
                continue;
            };
            assert!(why.contains(named) && why.contains("nothing is updated"), "{why}");
        }
    }

    #[test]
    fn a_pod_is_confined_beside_what_it_demands_itself() {
        let canary = Canary::nodes("site in (a,b),!old,slots>3").unwrap();
        let mut spec = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "x", "operator": "Exists"}]}, {"matchFields": []}],
        }}, "podAffinity": {}}});
        canary.confine(&mut spec);
        let terms =
            &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
        assert_eq!(terms[0]["matchExpressions"].as_array().map(Vec::len), Some(4));
        assert_eq!(terms[1]["matchExpressions"].as_array().map(Vec::len), Some(3));
        let expressions = terms[1]["matchExpressions"].as_array().unwrap();
        assert!(
            expressions.contains(&json!({"key": "site", "operator": "In", "values": ["a", "b"]})),
            "{expressions:?}"
        );
        assert!(expressions.contains(&json!({"key": "old", "operator": "DoesNotExist"})), "{expressions:?}");
        assert!(expressions.contains(&json!({"key": "slots", "operator": "Gt", "values": ["3"]})), "{expressions:?}");
        let mut bare = json!({});
        canary.confine(&mut bare);
        assert!(
            bare["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"][0]
                .is_object()
        );
    }

    #[test]
    fn nodes_that_are_left_out_are_of_a_canary_all_the_same() {
        let node = |name: &str, site: &str, since: Option<i64>| {
            let ready =
                json!({"type": "Ready", "status": "True", "lastTransitionTime": since.map(|since| seconds(at(since)))});
            let node = json!({"metadata": {"name": name, "labels": {"site": site}}, "status": {"conditions": [ready]}});
            ObjectRef::watched("", name, 1, node.to_string().into())
        };
        let nodes = [
            node("gw-1", "pilot", Some(3)),
            node("gw-2", "hall", Some(3)),
            node("gw-3", "pilot", None),
            node("gw-4", "pilot", Some(5)),
        ];
        let skipped = [("gw-4".into(), Skip::Held), ("gw-9".into(), Skip::Unreachable)].into();
        let found = CanaryNodes::among(&Canary::nodes("site=pilot").unwrap(), nodes.into_iter(), &skipped);
        assert_eq!(found.in_reach, [("gw-1".into(), at(3)), ("gw-3".into(), Timestamp::default())].into());
        assert_eq!(found.skipped, [("gw-4".into(), at(5))].into());
        assert_eq!(found.count(), 3);
        assert_eq!([found.since("gw-1"), found.since("gw-2"), found.since("gw-4")], [Some(at(3)), None, Some(at(5))]);
    }

    fn ready(name: &str, since: i64) -> CanaryPod {
        CanaryPod { name: name.to_owned(), since: at(0), ready_since: Some(at(since)), ..CanaryPod::default() }
    }

    #[test]
    fn the_others_follow_when_all_have_run_well_for_long_enough() {
        let (canary, deadline) = (canary("1m"), Duration::from_secs(300));
        let starting = CanaryPod { ready_since: None, ..ready("b", 0) };
        let away = CanaryPod { is_skipped: true, ..starting.clone() };
        let broken = CanaryPod { failure: Some("container main was restarted".into()), ..ready("c", 0) };
        let check_after = |min_ready, pods: &[CanaryPod], desired, now, expected: &str| {
            let demand = Expected { pods: desired, min_ready: Duration::from_secs(min_ready), deadline };
            let said = match judge(&canary, pods, demand, at(now)) {
                Verdict::Waiting(..) => "waiting".to_owned(),
                Verdict::Passed => "passed".to_owned(),
                Verdict::Failed(why) => why,
            };
            assert_eq!(said, expected, "{pods:?} {desired} at {now}");
        };
        let check = |pods: &[CanaryPod], desired, now, expected: &str| check_after(0, pods, desired, now, expected);
        check(&[], 1, 10, "waiting");
        check(&[], 0, 1000, "waiting");
        check(&[ready("a", 10)], 1, 69, "waiting");
        check(&[ready("a", 10)], 1, 70, "passed");
        check(&[ready("a", 10)], 2, 1000, "waiting");
        check(&[ready("a", 10), ready("b", 50)], 2, 70, "waiting");
        check(&[ready("a", 10), starting.clone()], 2, 200, "waiting");
        check(&[ready("a", 10), starting], 2, 300, "pod b was not available within 300 seconds");
        // The wait begins when a pod is available, and not when it is Ready.
        check_after(30, &[ready("a", 10)], 1, 70, "waiting");
        check_after(30, &[ready("a", 10)], 1, 99, "waiting");
        check_after(30, &[ready("a", 10)], 1, 100, "passed");
        check_after(30, &[ready("a", 290)], 1, 300, "pod a was not available within 300 seconds");
        check(&[ready("a", 10), broken], 2, 11, "pod c: container main was restarted");
        // One out of reach is not waited for while another is in reach, and never a failure.
        check(&[ready("a", 10), away.clone()], 2, 1000, "passed");
        check(&[away], 1, 1000, "waiting");
    }

    #[test]
    fn what_does_not_mend_by_waiting_is_a_failure() {
        let check = |status: Value, failure: Option<&str>, waits_for: Option<&str>| {
            let pod = json!({"status": status}).to_string();
            let health: Health<'_> = serde_json::from_str(&pod).unwrap();
            assert_eq!((health.failure().as_deref(), health.waits_for()), (failure, waits_for), "{pod}");
        };
        check(json!({"phase": "Running"}), None, None);
        check(json!({"phase": "Failed", "reason": "Evicted"}), Some("it has ended: Failed (Evicted)"), None);
        let container = |restarts: i64, state: Value, last: Value| json!([{"name": "main", "restartCount": restarts, "state": state, "lastState": last}]);
        let pulling = container(0, json!({"waiting": {"reason": "ImagePullBackOff"}}), json!({}));
        check(json!({"phase": "Pending", "containerStatuses": pulling}), None, Some("ImagePullBackOff"));
        let crashed = container(1, json!({"running": {}}), json!({"terminated": {"exitCode": 3}}));
        check(json!({"containerStatuses": crashed}), Some("container main was restarted (exit code 3)"), None);
    }

    #[test]
    fn a_condition_says_how_the_canary_fares() {
        let waiting = with_canary(&[], &Says::Waiting("one".into()), at(1));
        let again = with_canary(&waiting, &Says::Waiting("two".into()), at(2));
        assert_eq!(
            (&again[0]["lastTransitionTime"], &again[0]["message"]),
            (&waiting[0]["lastTransitionTime"], &json!("two"))
        );
        let failed = with_canary(&again, &Says::RolledBack("pod a".into()), at(3));
        assert!(is_rolled_back(&failed) && !is_rolled_back(&again));
        assert_eq!(with_canary(&failed, &Says::Same, at(4)), failed);
        assert!(with_canary(&failed, &Says::Nothing, at(5)).is_empty());
    }
}
