//! What is really there, change by change, and what must never be.
//!
//! After every request the truth takes in what changed, knows who changed it, and checks the invariants that hold at each moment.
//! What a controller knows may be late by what the simulation delays, so a limit is the highest (or lowest) of those that were in
//! force lately; and whose response was lost may have created one more than it knows.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use http::Request;
use hub_runtime::kinds::Kind;
use machinery_store::{ChangeKind, Store, Watch};
use serde_json::Value;
use tokio::time::Instant;

use crate::api::Who;

/// Watches are late by no more than this, requests of one run included.
const LATELY: Duration = Duration::from_secs(90);

const KINDS: &[Kind] = &[
    Kind::Node,
    Kind::Deployment,
    Kind::ReplicaSet,
    Kind::StatefulSet,
    Kind::DaemonSet,
    Kind::Job,
    Kind::CronJob,
    Kind::PodDisruptionBudget,
    Kind::HorizontalPodAutoscaler,
    Kind::ReplicationController,
    Kind::Pod,
];

/// A number that changes, and what it was lately.
#[derive(Default)]
pub(crate) struct History(VecDeque<(Instant, i64)>);

impl History {
    fn set(&mut self, now: Instant, value: i64) {
        // What was in force until lately is the last one before.
        while self.0.len() > 1 && now.duration_since(self.0[1].0) > LATELY {
            self.0.pop_front();
        }
        if self.0.back().map(|(_, last)| *last) != Some(value) {
            self.0.push_back((now, value));
        }
    }

    fn lately(&self, now: Instant) -> impl Iterator<Item = i64> {
        let first = self.0.iter().rposition(|(at, _)| now.duration_since(*at) > LATELY).unwrap_or(0);
        self.0.iter().skip(first).map(|(_, value)| *value)
    }

    fn most(&self, now: Instant) -> i64 {
        self.lately(now).max().unwrap_or(0)
    }

    fn least(&self, now: Instant) -> i64 {
        self.lately(now).min().unwrap_or(0)
    }
}

/// One object as the truth has it.
pub(crate) struct Known {
    pub value: Value,
    /// What limits its pods: replicas of a set, parallelism of a Job, replicas and surge of a Deployment.
    limit: History,
    /// What must be available of a Deployment.
    floor: History,
    /// Creations whose response was lost.
    lost: Vec<Instant>,
    /// Pods that were lost through no fault of a controller.
    losses: Vec<Instant>,
    /// When a pod of it was last lost through no fault of a controller, or its spec changed; of a pod, when it succeeded though it was
    /// given up.
    disturbed: Option<Instant>,
    created_seq: u64,
    created_at: Instant,
}

/// Everything that is there.
#[derive(Default)]
pub(crate) struct Truth {
    watches: Vec<(Kind, Watch)>,
    pub objects: BTreeMap<Kind, BTreeMap<String, Known>>,
    /// Pods that kubelets run: uids by name.
    pub running: BTreeMap<String, BTreeSet<String>>,
    /// Pods that were taken out of the API by force; kubelets may still run them.
    forced: BTreeSet<String>,
    /// When the hub's controllers were last started: the statuses that they find are of before.
    pub started: Option<Instant>,
    pub violations: Vec<String>,
    pub changed_nodes: BTreeSet<String>,
    /// Changes so far.
    pub seq: u64,
    /// Checks that were made, to see that they are made at all.
    pub checked: BTreeMap<&'static str, u64>,
}

pub(crate) fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

pub(crate) fn number(value: &Value, pointer: &str) -> i64 {
    value.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// How many of these were lately.
fn lately(moments: &[Instant], now: Instant) -> i64 {
    let recent = moments.iter().rev().take_while(|at| now.duration_since(**at) <= LATELY);
    i64::try_from(recent.count()).unwrap_or(i64::MAX)
}

/// Kind, name and uid of the controller.
pub(crate) fn controller(object: &Value) -> Option<(&str, &str, &str)> {
    let owners = object["metadata"]["ownerReferences"].as_array()?;
    let owner = owners.iter().find(|owner| owner["controller"] == true)?;
    Some((text(owner, "/kind"), text(owner, "/name"), text(owner, "/uid")))
}

pub(crate) fn is_terminating(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

pub(crate) fn has_ended(pod: &Value) -> bool {
    matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

pub(crate) fn is_active(pod: &Value) -> bool {
    !is_terminating(pod) && !has_ended(pod)
}

pub(crate) fn is_true(object: &Value, condition: &str) -> bool {
    says(object, condition, "True")
}

fn says(object: &Value, condition: &str, status: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|one| one["type"] == condition && one["status"] == status)
}

/// `maxSurge` or `maxUnavailable` of so many.
fn share(value: &Value, of: i64, rounds_up: bool) -> i64 {
    match value {
        Value::Number(number) => number.as_i64().unwrap_or(0),
        Value::String(percent) => {
            let percent: i64 = percent.trim_end_matches('%').parse().unwrap_or(0);
            if rounds_up { (of * percent + 99) / 100 } else { of * percent / 100 }
        }
        _ => share(&Value::String("25%".to_owned()), of, rounds_up),
    }
}

/// Most pods of a Deployment, and fewest that are available.
fn bounds(deployment: &Value) -> (i64, i64) {
    let replicas = deployment["spec"]["replicas"].as_i64().unwrap_or(1);
    if text(deployment, "/spec/strategy/type") == "Recreate" {
        return (replicas, 0);
    }
    let rolling = &deployment["spec"]["strategy"]["rollingUpdate"];
    let surge = share(&rolling["maxSurge"], replicas, true);
    let mut unavailable = share(&rolling["maxUnavailable"], replicas, false);
    if surge == 0 && unavailable == 0 {
        unavailable = 1;
    }
    (replicas + surge, replicas - unavailable)
}

impl Truth {
    pub(crate) fn all(&self, kind: Kind) -> impl Iterator<Item = &Value> {
        self.objects.get(&kind).into_iter().flat_map(BTreeMap::values).map(|known| &known.value)
    }

    pub(crate) fn get(&self, kind: Kind, name: &str) -> Option<&Value> {
        self.objects.get(&kind)?.get(name).map(|known| &known.value)
    }

    /// Objects of a kind in the order in which they were created, which is the same in each run of a seed.
    pub(crate) fn in_order(&self, kind: Kind) -> Vec<&Value> {
        let mut all: Vec<&Known> = self.objects.get(&kind).into_iter().flat_map(BTreeMap::values).collect();
        all.sort_by_key(|known| known.created_seq);
        all.into_iter().map(|known| &known.value).collect()
    }

    pub(crate) fn pods_of<'t>(&'t self, uid: &'t str) -> impl Iterator<Item = &'t Value> {
        self.all(Kind::Pod).filter(move |pod| controller(pod).is_some_and(|owner| owner.2 == uid))
    }

    fn by_uid(&self, kind: Kind, uid: &str) -> Option<&Known> {
        self.objects.get(&kind)?.values().find(|known| known.value["metadata"]["uid"] == uid)
    }

    fn by_uid_mut(&mut self, kind: Kind, uid: &str) -> Option<&mut Known> {
        self.objects.get_mut(&kind)?.values_mut().find(|known| known.value["metadata"]["uid"] == uid)
    }

    fn violated(&mut self, what: String) {
        if self.violations.len() < 20 {
            self.violations.push(what);
        }
    }

    fn check(&mut self, name: &'static str) {
        *self.checked.entry(name).or_default() += 1;
    }

    /// A creation of a controller whose response it will not see.
    pub(crate) fn lost_creation(&mut self, request: &Request<Bytes>, _: Who) {
        let Ok(object) = serde_json::from_slice::<Value>(request.body()) else { return };
        let Some((kind, _, uid)) = controller(&object).map(|(kind, name, uid)| (kind.to_owned(), name, uid.to_owned()))
        else {
            return;
        };
        let now = Instant::now();
        for of in [Kind::ReplicaSet, Kind::ReplicationController, Kind::Job, Kind::Deployment] {
            if of.name() == kind
                && let Some(known) = self.by_uid_mut(of, &uid)
            {
                known.lost.push(now);
            }
        }
    }

    /// Takes in what has changed, in order.
    pub(crate) fn pump(&mut self, store: &Store, who: Who, now: Instant) {
        if self.watches.is_empty() {
            let watch = |kind: &Kind| {
                let watch = store.watch(kind.store_key(), machinery_store::Revision(0));
                (*kind, watch.expect("a new store has its whole history"))
            };
            self.watches = KINDS.iter().map(watch).collect();
        }
        let mut changes = Vec::new();
        for (kind, watch) in &mut self.watches {
            while let Some(Ok(batch)) = watch.next().now_or_never() {
                changes.extend(batch.changes.into_iter().map(|change| (change.revision, *kind, change)));
            }
        }
        changes.sort_by_key(|(revision, ..)| *revision);
        for (_, kind, change) in changes {
            self.seq += 1;
            let name = change.object.key.name.to_string();
            let value: Value = serde_json::from_slice(&change.object.bytes).expect("the server stores JSON");
            match change.kind {
                ChangeKind::Put => self.put(kind, name, value, who, now),
                ChangeKind::Delete => self.delete(kind, &name, &value, who, now),
            }
        }
    }

    fn put(&mut self, kind: Kind, name: String, value: Value, who: Who, now: Instant) {
        let before = self.objects.get(&kind).and_then(|all| all.get(&name)).map(|known| known.value.clone());
        match kind {
            Kind::Pod => self.check_pod(&name, before.as_ref(), &value, who, now),
            Kind::ReplicaSet => self.check_set(before.as_ref(), &value, who, now),
            Kind::Job => self.check_job(before.as_ref(), &value),
            _ => {}
        }
        let seq = self.seq;
        let known = self.objects.entry(kind).or_default().entry(name).or_insert_with(|| Known {
            value: Value::Null,
            limit: History::default(),
            floor: History::default(),
            lost: Vec::new(),
            losses: Vec::new(),
            disturbed: None,
            created_seq: seq,
            created_at: now,
        });
        match kind {
            Kind::ReplicaSet | Kind::ReplicationController | Kind::StatefulSet => {
                known.limit.set(now, value["spec"]["replicas"].as_i64().unwrap_or(1));
            }
            Kind::Job => known.limit.set(now, value["spec"]["parallelism"].as_i64().unwrap_or(1)),
            Kind::Deployment => {
                let (most, least) = bounds(&value);
                known.limit.set(now, most);
                known.floor.set(now, least);
                if before.as_ref().is_none_or(|before| before["spec"] != value["spec"]) {
                    known.disturbed = Some(now);
                }
            }
            // Counted as failed, or as about to be, and then its node says how it ended before that.
            Kind::Pod if text(&value, "/status/phase") == "Succeeded" => {
                let was_given_up = |before: &Value| {
                    text(before, "/status/phase") == "Failed"
                        || (is_terminating(before) && text(before, "/status/phase") != "Succeeded")
                };
                if before.as_ref().is_some_and(was_given_up) {
                    known.disturbed = Some(now);
                }
            }
            _ => {}
        }
        known.value = value;
    }

    fn delete(&mut self, kind: Kind, name: &str, last: &Value, who: Who, now: Instant) {
        if kind == Kind::Pod {
            let uid = text(last, "/metadata/uid").to_owned();
            self.disturb(last, now);
            let is_running = self.running.get(name).is_some_and(|uids| uids.contains(&uid));
            if is_running {
                self.check("removal of a pod that runs");
                let node = text(last, "/spec/nodeName");
                // By force, or because its node does not exist: then nobody can wait for it.
                // One that has just come again may be too late for who asked a moment ago.
                let known = self.objects.get(&Kind::Node).and_then(|nodes| nodes.get(node));
                let is_there = known.is_some_and(|node| now.duration_since(node.created_at) > Duration::from_secs(30));
                if who == Who::User || !is_there || has_ended(last) {
                    self.forced.insert(uid);
                } else if !self.forced.contains(&uid) {
                    self.violated(format!("{who:?} took pod {name} ({uid}) out of the API while node {node} runs it"));
                }
            }
            let node = text(last, "/spec/nodeName").to_owned();
            self.changed_nodes.insert(node);
        }
        if let Some(all) = self.objects.get_mut(&kind) {
            all.remove(name);
        }
    }

    /// A pod's Deployment has lost something that no controller took.
    fn disturb(&mut self, pod: &Value, now: Instant) {
        let Some((_, _, set)) = controller(pod) else { return };
        if let Some(known) = self.by_uid_mut(Kind::ReplicaSet, set) {
            known.losses.push(now);
        }
        let owner = self.by_uid(Kind::ReplicaSet, set).and_then(|set| controller(&set.value));
        let Some(deployment) = owner.map(|owner| owner.2.to_owned()) else { return };
        if let Some(known) = self.by_uid_mut(Kind::Deployment, &deployment) {
            known.disturbed = Some(now);
        }
    }

    fn check_pod(&mut self, name: &str, before: Option<&Value>, pod: &Value, who: Who, now: Instant) {
        self.changed_nodes.insert(text(pod, "/spec/nodeName").to_owned());
        let is_by_controller = matches!(who, Who::Hub | Who::Workloads | Who::Scheduler);
        let Some(before) = before else {
            if is_by_controller {
                self.check_creation(name, pod, now);
            }
            return;
        };
        let was_ready = is_true(before, "Ready") && !is_terminating(before);
        let is_released = controller(before).is_some() && controller(before) != controller(pod);
        let is_deleted = !is_terminating(before) && is_terminating(pod) && !is_by_controller;
        let has_become_unready = was_ready && !is_true(pod, "Ready");
        if has_become_unready || is_deleted || is_released || (is_active(before) && has_ended(pod)) {
            self.disturb(before, now);
        }
        // A set that adopts what somebody has deleted a moment ago takes it for one of its pods.
        if is_terminating(pod) && controller(before).is_none() && controller(pod).is_some() {
            self.disturb(pod, now);
        }
        let (node, was) = (text(pod, "/spec/nodeName"), text(before, "/spec/nodeName"));
        if !was.is_empty() && was != node {
            self.violated(format!("pod {name} moved from {was} to {node}"));
        }
        // One with finalizers is taken out later, by whoever takes the last of them away.
        if who == Who::User && is_terminating(pod) && number(pod, "/metadata/deletionGracePeriodSeconds") == 0 {
            self.forced.insert(text(pod, "/metadata/uid").to_owned());
        }
        if !is_terminating(before) && is_terminating(pod) && is_by_controller {
            self.check_deletion(name, before, pod, who, now);
        }
    }

    fn check_creation(&mut self, name: &str, pod: &Value, now: Instant) {
        let Some((kind, owner, uid)) = controller(pod) else { return };
        let (kind, owner, uid) = (kind.to_owned(), owner.to_owned(), uid.to_owned());
        match &*kind {
            "StatefulSet" => {
                self.check("ordinals");
                let forced = &self.forced;
                let others = self.running.get(name).into_iter().flatten().filter(|uid| !forced.contains(*uid));
                let others: Vec<String> = others.cloned().collect();
                if !others.is_empty() {
                    self.violated(format!(
                        "pod {name} of a StatefulSet was created while a node still runs {others:?}"
                    ));
                }
                let ordinal: i64 = name.rsplit('-').next().and_then(|ordinal| ordinal.parse().ok()).unwrap_or(-1);
                let Some(set) = self.by_uid(Kind::StatefulSet, &uid) else { return };
                let end = set.limit.most(now) + number(&set.value, "/spec/ordinals/start");
                if ordinal >= end {
                    self.violated(format!("pod {name} of StatefulSet {owner} was created beyond ordinal {end}"));
                }
            }
            "ReplicaSet" | "ReplicationController" => {
                self.check("pods of a ReplicaSet");
                let of = if kind == "ReplicaSet" { Kind::ReplicaSet } else { Kind::ReplicationController };
                let Some(set) = self.by_uid(of, &uid) else { return };
                let limit = set.limit.most(now) + lately(&set.lost, now);
                let active = i64::try_from(self.pods_of(&uid).filter(|pod| is_active(pod)).count()).unwrap_or(0) + 1;
                if active > limit {
                    self.violated(format!("pod {name} is number {active} of {kind} {owner}, whose limit is {limit}"));
                }
            }
            "Job" => {
                self.check("pods of a Job");
                let Some(job) = self.by_uid(Kind::Job, &uid) else { return };
                let lost = lately(&job.lost, now);
                let (limit, has_lost) = (job.limit.most(now) + lost, lost > 0);
                let is_indexed = text(&job.value, "/spec/completionMode") == "Indexed";
                let index = |pod: &Value| {
                    pod.pointer("/metadata/annotations/batch.kubernetes.io~1job-completion-index").cloned()
                };
                let active = i64::try_from(self.pods_of(&uid).filter(|pod| is_active(pod)).count()).unwrap_or(0) + 1;
                // Who has not heard yet that a pod that was given up has succeeded replaces it, as upstream does.
                let is_news = |other: &Value| {
                    let known = self.objects.get(&Kind::Pod).and_then(|pods| pods.get(text(other, "/metadata/name")));
                    known.and_then(|known| known.disturbed).is_some_and(|at| lately(&[at], now) > 0)
                };
                let of_index = self.pods_of(&uid).find(|other| {
                    let has_succeeded = || text(other, "/status/phase") == "Succeeded" && !is_news(other);
                    (is_active(other) || has_succeeded()) && index(other) == index(pod)
                });
                let status = &job.value["status"];
                let taken =
                    of_index.map(|other| format!("{}: {}; {status}", text(other, "/metadata/name"), other["status"]));
                if active > limit {
                    self.violated(format!("pod {name} is number {active} of Job {owner}, whose limit is {limit}"));
                }
                if let Some(taken) = taken.filter(|_| is_indexed && !has_lost) {
                    self.violated(format!("pod {name} of Job {owner} has the index of {taken}"));
                }
            }
            "DaemonSet" => {
                self.check("pods of a DaemonSet");
            }
            _ => {}
        }
    }

    fn check_deletion(&mut self, name: &str, before: &Value, pod: &Value, who: Who, now: Instant) {
        let Some((kind, owner, uid)) = controller(before) else { return };
        let reason = before["status"]["conditions"].as_array().into_iter().flatten();
        let reason = reason.clone().find(|one| one["type"] == "DisruptionTarget").map(|one| text(one, "/reason"));
        let of = Kind::find(text(before, "/metadata/ownerReferences/0/apiVersion"), kind);
        let is_replaced = reason == Some("NodeUnreachable");
        if is_replaced {
            let is_asked = of.and_then(|of| self.by_uid(of, uid)).is_some_and(|known| {
                known.value.pointer("/metadata/annotations/selvedge.dev~1replace-when-unreachable").is_some()
            });
            let message = format!("pod {name} of {kind} {owner} was replaced though nobody asked for it");
            self.check("replacements");
            // The workload may have been deleted or changed a moment ago.
            if !is_asked && of.and_then(|of| self.by_uid(of, uid)).is_some() {
                self.violated(message);
            }
            // To the pod's owner it is a loss like any other.
            self.disturb(before, now);
            return;
        }
        if who != Who::Workloads {
            // The garbage collector, or the controller of nodes, took it from its owner, as a user would.
            self.disturb(before, now);
            return;
        }
        if kind != "ReplicaSet" || has_ended(before) {
            return;
        }
        let (owner, uid) = (owner.to_owned(), uid.to_owned());
        self.check("deletions by a ReplicaSet");
        let Some(set) = self.by_uid(Kind::ReplicaSet, &uid) else { return };
        let least = set.limit.least(now) - lately(&set.losses, now);
        let active = i64::try_from(self.pods_of(&uid).filter(|pod| is_active(pod)).count()).unwrap_or(0);
        let deployment = controller(&set.value).map(|owner| owner.2.to_owned());
        if active <= least {
            self.violated(format!("pod {name} of ReplicaSet {owner} was deleted though {active} are there of {least}"));
        }
        let Some(known) = deployment.and_then(|uid| self.by_uid(Kind::Deployment, &uid)) else { return };
        let disturbed = known.disturbed.into_iter().chain(self.started);
        let is_calm = disturbed.max().is_none_or(|at| now.duration_since(at) > 2 * LATELY);
        if !is_calm || !is_true(pod, "Ready") || is_terminating(&known.value) {
            return;
        }
        let (floor, deployment) = (known.floor.least(now), text(&known.value, "/metadata/name").to_owned());
        let sets: BTreeSet<&str> = self
            .all(Kind::ReplicaSet)
            .filter(|set| controller(set).is_some_and(|owner| owner.2 == text(&known.value, "/metadata/uid")))
            .map(|set| text(set, "/metadata/uid"))
            .collect();
        // One that ran well when its node was last heard of still does, for all that anybody knows.
        let is_away = |pod: &Value| {
            let node = self.get(Kind::Node, text(pod, "/spec/nodeName"));
            node.is_some_and(|node| says(node, "Ready", "Unknown")) && is_true(pod, "ContainersReady")
        };
        let is_one = |pod: &&Value| {
            is_active(pod)
                && (is_true(pod, "Ready") || is_away(pod))
                && controller(pod).is_some_and(|owner| sets.contains(owner.2))
        };
        // It is counted among them still.
        let available = i64::try_from(self.all(Kind::Pod).filter(is_one).count()).unwrap_or(0) - 1;
        self.check("what is available of a Deployment");
        if available < floor {
            self.violated(format!("Deployment {deployment} has {available} of {floor} ready after {name} was deleted"));
        }
    }

    fn check_set(&mut self, before: Option<&Value>, set: &Value, who: Who, now: Instant) {
        let (was, is) = (before.map_or(0, |set| number(set, "/spec/replicas")), number(set, "/spec/replicas"));
        let Some((_, name, uid)) = controller(set).filter(|_| who == Who::Workloads && is > was) else { return };
        let (name, uid) = (name.to_owned(), uid.to_owned());
        let Some(deployment) = self.by_uid(Kind::Deployment, &uid) else { return };
        let limit = deployment.limit.most(now);
        let lost = lately(&deployment.lost, now) > 0;
        let this = text(set, "/metadata/uid");
        let others = self.all(Kind::ReplicaSet).filter(|other| {
            text(other, "/metadata/uid") != this && controller(other).is_some_and(|owner| owner.2 == uid)
        });
        let total: i64 = others.map(|other| number(other, "/spec/replicas")).sum::<i64>() + is;
        self.check("surge");
        if total > limit && !lost {
            let set = text(set, "/metadata/name").to_owned();
            self.violated(format!("ReplicaSet {set} grew to {is}: Deployment {name} has {total}, above {limit}"));
        }
    }

    fn check_job(&mut self, before: Option<&Value>, job: &Value) {
        let name = text(job, "/metadata/name");
        let (was, is) = (before.map_or(0, |job| number(job, "/status/succeeded")), number(job, "/status/succeeded"));
        let is_same = before.is_some_and(|before| before["metadata"]["uid"] == job["metadata"]["uid"]);
        let completions = job["spec"]["completions"].as_i64();
        let message = if is_same && is < was {
            format!("Job {name} had {was} succeeded and has {is}")
        } else if text(job, "/spec/completionMode") == "Indexed" && completions.is_some_and(|most| is > most) {
            // An elastic Job may be made smaller than it is.
            let is_smaller = before.is_some_and(|before| before["spec"]["completions"] != job["spec"]["completions"]);
            if is_smaller {
                return;
            }
            format!("Job {name} has {is} succeeded of {completions:?}")
        } else {
            self.check("counts of a Job");
            return;
        };
        self.violated(message);
    }
}
