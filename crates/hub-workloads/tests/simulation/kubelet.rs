//! Simulated nodes: each renews its lease, runs the pods that are bound to it, and reports how they fare.
//!
//! A node whose link is down runs what it has, ends what ends by itself, and reports it when it is back. It knows nothing of what
//! was deleted meanwhile until then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use hub_runtime::events::seconds;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::api::{Api, NAMESPACE, Who};
use crate::truth::{has_ended, is_terminating, number, text};

const RENEW_PERIOD: Duration = Duration::from_secs(10);

/// All nodes of a simulation.
pub(crate) struct Kubelets {
    api: Arc<Api>,
    random: fastrand::Rng,
    pub nodes: BTreeMap<String, Node>,
    /// Whether pods crash by themselves.
    pub do_crash: bool,
}

pub(crate) struct Node {
    pub is_linked: bool,
    renew_at: Instant,
    runs: BTreeMap<String, Run>,
}

/// A pod on a node, by its uid.
struct Run {
    name: String,
    phase: &'static str,
    is_ready: bool,
    ready_since: Timestamp,
    started: Option<Timestamp>,
    restarts: u32,
    behaviour: String,
    is_for_good: bool,
    does_restart: bool,
    next: Option<(Instant, Step)>,
    /// It is to be reported.
    is_news: bool,
    is_ending: bool,
    /// It has ended and its object was deleted.
    is_over: bool,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Start,
    BecomeReady,
    Crash,
    Finish { succeeds: bool },
    End,
}

impl Kubelets {
    pub(crate) fn new(api: Arc<Api>, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed ^ 0x6b75_6265);
        Self { api, random, nodes: BTreeMap::new(), do_crash: true }
    }

    /// A node registers.
    pub(crate) fn join(&mut self, name: &str, labels: &Value) {
        let mut all = json!({"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"});
        for (key, value) in labels.as_object().into_iter().flatten() {
            all[key] = value.clone();
        }
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": all},
            "status": {
                "capacity": {"cpu": "4", "memory": "8Gi", "pods": "40"},
                "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "40"},
            },
        });
        // One that was deleted comes again with the pods it has.
        self.api.send(Who::Kubelet, Method::POST, "/api/v1/nodes", Some(&node));
        let now = Instant::now();
        let node = self.nodes.entry(name.to_owned()).or_insert_with(|| Node {
            is_linked: true,
            renew_at: now,
            runs: BTreeMap::new(),
        });
        node.renew_at = now;
        self.report_node(name);
    }

    pub(crate) fn set_link(&mut self, name: &str, is_linked: bool) {
        let Some(node) = self.nodes.get_mut(name).filter(|node| node.is_linked != is_linked) else { return };
        node.is_linked = is_linked;
        if is_linked {
            node.renew_at = Instant::now();
            node.runs.values_mut().for_each(|run| run.is_news = true);
            self.api.truth.lock().changed_nodes.insert(name.to_owned());
            self.report_node(name);
        }
    }

    fn report_node(&mut self, name: &str) {
        let now = seconds(self.api.clock.now());
        let ready = json!({
            "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        });
        let path = format!("/api/v1/nodes/{name}/status");
        let status = json!({"status": {"conditions": [ready]}});
        let (status, _) = self.api.send(Who::Kubelet, Method::PATCH, &path, Some(&status));
        if status == http::StatusCode::NOT_FOUND && self.nodes.get(name).is_some_and(|node| node.is_linked) {
            // A kubelet whose Node was deleted registers again.
            self.join(name, &json!({}));
        }
    }

    fn renew(&mut self, name: &str) {
        let collection = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
        let now = self.api.clock.now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
        let spec = json!({"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now});
        let path = format!("{collection}/{name}");
        let (status, _) = self.api.send(Who::Kubelet, Method::PATCH, &path, Some(&json!({"spec": spec})));
        if status == http::StatusCode::NOT_FOUND {
            let lease = json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": name, "namespace": "kube-node-lease"}, "spec": spec,
            });
            self.api.send(Who::Kubelet, Method::POST, collection, Some(&lease));
        }
        let exists = self.api.truth.lock().get(hub_runtime::kinds::Kind::Node, name).is_some();
        if !exists {
            self.join(name, &json!({}));
        } else if self.api.truth.lock().get(hub_runtime::kinds::Kind::Node, name).is_some_and(is_unknown) {
            self.report_node(name);
        }
    }

    /// Does what is due on every node.
    pub(crate) fn tick(&mut self) {
        let now = Instant::now();
        let names: Vec<String> = self.nodes.keys().cloned().collect();
        for name in names {
            let node = &self.nodes[&name];
            let is_linked = node.is_linked;
            if is_linked && node.renew_at <= now {
                self.renew(&name);
                if let Some(node) = self.nodes.get_mut(&name) {
                    node.renew_at = now + RENEW_PERIOD;
                }
            }
            if is_linked {
                let is_changed = self.api.truth.lock().changed_nodes.remove(&name);
                if is_changed {
                    self.sync(&name, now);
                }
            }
            self.step(&name, now);
            if is_linked {
                self.report(&name);
            }
        }
    }

    fn after(&mut self, now: Instant, least_ms: u64, most_ms: u64) -> Instant {
        now + Duration::from_millis(self.random.u64(least_ms..=most_ms))
    }

    /// What the API has for this node, and what it has no more.
    fn sync(&mut self, name: &str, now: Instant) {
        let snapshot = self.api.store.snapshot("/pods");
        let pods = snapshot.iter_where(("spec.nodeName", name), None, None);
        let mut pods: Vec<(u64, Value)> =
            pods.filter_map(|object| Some((object.created.0, serde_json::from_slice(&object.bytes).ok()?))).collect();
        pods.sort_by_key(|(created, _)| *created);
        let mut node = self.nodes.remove(name).expect("it is one of them");
        let is_there = |uid: &str| pods.iter().any(|(_, pod)| text(pod, "/metadata/uid") == uid);
        let mut absent: Vec<&mut Run> =
            node.runs.iter_mut().filter(|(uid, _)| !is_there(uid)).map(|(_, run)| run).collect();
        absent.sort_by(|one, other| one.name.cmp(&other.name));
        for run in absent {
            if !run.is_ending {
                (run.is_ending, run.next) = (true, Some((self.after(now, 50, 3000), Step::End)));
            }
            run.is_over = true;
        }
        for (_, pod) in &pods {
            let uid = text(pod, "/metadata/uid");
            if !node.runs.contains_key(uid) {
                if has_ended(pod) {
                    // One that has ended and is deleted since; what counts it may hold it still.
                    if is_terminating(pod) && number(pod, "/metadata/deletionGracePeriodSeconds") > 0 {
                        self.remove(text(pod, "/metadata/name"), uid);
                    }
                    continue;
                }
                let run = self.admit(pod, now);
                node.runs.insert(uid.to_owned(), run);
                let mut truth = self.api.truth.lock();
                truth.running.entry(text(pod, "/metadata/name").to_owned()).or_default().insert(uid.to_owned());
            }
            let run = node.runs.get_mut(uid).expect("it was admitted above");
            if is_terminating(pod) && !run.is_ending {
                let grace = number(pod, "/metadata/deletionGracePeriodSeconds").clamp(0, 30).unsigned_abs();
                run.is_ending = true;
                run.next = Some((self.after(now, 0, (grace * 1000).min(8000)), Step::End));
            }
            // Somebody else has said otherwise of it.
            let says_ready = crate::truth::is_true(pod, "Ready");
            run.is_news |= says_ready != run.is_ready && !run.is_ending;
        }
        self.nodes.insert(name.to_owned(), node);
    }

    /// The object of a pod that has ended.
    fn remove(&self, name: &str, uid: &str) {
        let options = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}});
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}");
        self.api.send(Who::Kubelet, Method::DELETE, &path, Some(&options));
    }

    fn admit(&mut self, pod: &Value, now: Instant) -> Run {
        let restart_policy = text(pod, "/spec/restartPolicy");
        Run {
            name: text(pod, "/metadata/name").to_owned(),
            phase: "Pending",
            is_ready: false,
            ready_since: self.api.clock.now(),
            started: None,
            restarts: 0,
            behaviour: text(pod, "/metadata/labels/behaviour").to_owned(),
            is_for_good: restart_policy == "Always",
            does_restart: restart_policy != "Never",
            next: Some((self.after(now, 100, 3000), Step::Start)),
            is_news: false,
            is_ending: false,
            is_over: false,
        }
    }

    fn step(&mut self, name: &str, now: Instant) {
        let mut node = self.nodes.remove(name).expect("it is one of them");
        let mut order: Vec<(Instant, String)> = node
            .runs
            .iter()
            .filter_map(|(uid, run)| run.next.filter(|(at, _)| *at <= now).map(|(at, _)| (at, uid.clone())))
            .collect();
        order.sort_by(|one, other| (one.0, &node.runs[&one.1].name).cmp(&(other.0, &node.runs[&other.1].name)));
        for (_, uid) in order {
            let run = node.runs.get_mut(&uid).expect("it was found above");
            let Some((_, step)) = run.next.take() else { continue };
            run.is_news = true;
            match step {
                Step::Start => {
                    (run.phase, run.started) = ("Running", Some(self.api.clock.now()));
                    run.next = match &*run.behaviour {
                        "never" => None,
                        _ => Some((self.after(now, 0, 4000), Step::BecomeReady)),
                    };
                }
                Step::BecomeReady => {
                    (run.is_ready, run.ready_since) = (true, self.api.clock.now());
                    run.next = match (&*run.behaviour, run.is_for_good) {
                        ("crashing", _) if self.do_crash => Some((self.after(now, 1000, 60_000), Step::Crash)),
                        ("failing", false) => Some((self.after(now, 500, 5000), Step::Finish { succeeds: false })),
                        (_, false) => {
                            let succeeds = !self.do_crash || self.random.u32(0..100) < 85;
                            Some((self.after(now, 500, 25_000), Step::Finish { succeeds }))
                        }
                        (_, true) if self.do_crash && self.random.u32(0..100) < 8 => {
                            Some((self.after(now, 2000, 300_000), Step::Crash))
                        }
                        _ => None,
                    };
                }
                Step::Crash if run.does_restart => {
                    run.restarts += 1;
                    (run.is_ready, run.ready_since) = (false, self.api.clock.now());
                    run.next = Some((self.after(now, 500, 20_000), Step::BecomeReady));
                    // Once in a while a kubelet evicts it instead.
                    if self.random.u32(0..100) < 15 {
                        (run.phase, run.next) = ("Failed", None);
                    }
                }
                Step::Crash => (run.phase, run.is_ready) = ("Failed", false),
                Step::Finish { succeeds: false } if run.does_restart => {
                    run.restarts += 1;
                    (run.is_ready, run.ready_since) = (false, self.api.clock.now());
                    run.next = Some((self.after(now, 1000, 10_000), Step::BecomeReady));
                }
                Step::Finish { succeeds } => {
                    (run.phase, run.is_ready) = (if succeeds { "Succeeded" } else { "Failed" }, false);
                    run.ready_since = self.api.clock.now();
                }
                Step::End => {
                    if !matches!(run.phase, "Succeeded" | "Failed") {
                        run.phase = "Failed";
                    }
                    run.is_ready = false;
                }
            }
            if matches!(run.phase, "Succeeded" | "Failed") {
                let mut truth = self.api.truth.lock();
                if let Some(uids) = truth.running.get_mut(&run.name) {
                    uids.remove(&uid);
                }
            }
        }
        self.nodes.insert(name.to_owned(), node);
    }

    /// Reports what is news, and removes the objects of what has ended on request.
    fn report(&mut self, name: &str) {
        let mut node = self.nodes.remove(name).expect("it is one of them");
        let mut over = Vec::new();
        let mut order: Vec<&String> = node.runs.iter().filter(|(_, run)| run.is_news).map(|(uid, _)| uid).collect();
        order.sort_by(|one, other| node.runs[*one].name.cmp(&node.runs[*other].name));
        for uid in order.into_iter().cloned().collect::<Vec<_>>() {
            let run = node.runs.get_mut(&uid).expect("it was found above");
            run.is_news = false;
            let has_ended = matches!(run.phase, "Succeeded" | "Failed");
            let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{}", run.name);
            if !run.is_over {
                let status = json!({"metadata": {"uid": uid}, "status": status_of(run, &self.api)});
                self.api.send(Who::Kubelet, Method::PATCH, &format!("{path}/status"), Some(&status));
            }
            if run.is_ending && has_ended {
                self.remove(&run.name, &uid);
                over.push(uid);
            }
        }
        for uid in over {
            node.runs.remove(&uid);
        }
        self.nodes.insert(name.to_owned(), node);
    }
}

fn is_unknown(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|one| one["type"] == "Ready" && one["status"] != "True")
}

fn status_of(run: &Run, api: &Api) -> Value {
    let is = |holds: bool| if holds { "True" } else { "False" };
    let since = seconds(run.ready_since);
    let now = seconds(api.clock.now());
    let started = run.started.map_or(now.clone(), seconds);
    let state = match run.phase {
        "Running" => json!({"running": {"startedAt": started}}),
        "Pending" => json!({"waiting": {"reason": "ContainerCreating"}}),
        phase => {
            let code = i32::from(phase != "Succeeded");
            json!({"terminated": {"exitCode": code, "startedAt": started, "finishedAt": since}})
        }
    };
    json!({
        "phase": run.phase,
        "startTime": started,
        "conditions": [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": started},
            {"type": "Ready", "status": is(run.is_ready), "lastTransitionTime": since},
            {"type": "ContainersReady", "status": is(run.is_ready), "lastTransitionTime": since},
        ],
        "containerStatuses": [{
            "name": "main", "image": "registry.example/app:1", "imageID": "", "ready": run.is_ready,
            "restartCount": run.restarts, "state": state,
        }],
    })
}
