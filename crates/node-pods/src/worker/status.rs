//! What a worker reports of its pod.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use api_edge::services::Protocol;
use api_edge::status::PodReport;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Phase, Worker};
use crate::model::{ContainerPort, Pod};
use crate::packed::Packed;
use crate::publisher::PodName;
use crate::status::{self, Facts, exit_of};
use crate::table::{PodPort, PodRecord};

/// What is reported is kept this often on average, …
const KEEP_PERIOD: Duration = Duration::from_secs(30);
/// … and this many times in a row: a pod's start changes it some times, and an agent may be restarted right after.
const KEEPS_AT_ONCE: usize = 5;

/// What of a status the next start of the agent begins with.
fn reported_of(status: &Value) -> Value {
    let containers = |list: &str| -> Vec<Value> {
        let statuses = status[list].as_array().into_iter().flatten();
        let kept = |one: &Value| json!({"name": one["name"], "containerID": one["containerID"], "ready": one["ready"], "started": one["started"]});
        statuses.map(kept).collect()
    };
    json!({
        "conditions": status["conditions"],
        "containerStatuses": containers("containerStatuses"),
        "initContainerStatuses": containers("initContainerStatuses"),
    })
}

/// Whether nothing of the pod will run again.
fn is_over(status: &Value) -> bool {
    matches!(status["phase"].as_str(), Some("Succeeded" | "Failed"))
}

fn is_ready(status: &Value) -> bool {
    let is_ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
    status["conditions"].as_array().is_some_and(|list| list.iter().any(is_ready))
}

/// What others on the node look up of a pod that has this status; `own` are the addresses that are its alone.
fn record(pod: &Pod, own: &[IpAddr], is_ending: bool, status: &Value) -> PodRecord {
    let (metadata, spec) = (&pod.metadata, &pod.spec);
    let given = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
    let listed = status["podIPs"].as_array().into_iter().flatten();
    let sidecars = spec.init_containers.iter().filter(|container| container.is_sidecar());
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| &container.ports);
    let port = |port: &ContainerPort| {
        let protocol = Protocol::parse(port.protocol.as_deref().unwrap_or_default())?;
        Some(PodPort { name: given(&port.name), port: port.container_port, protocol })
    };
    PodRecord {
        uid: metadata.uid.clone(),
        namespace: metadata.namespace.clone(),
        name: metadata.name.clone(),
        labels: metadata.labels.clone(),
        hostname: given(&spec.hostname),
        subdomain: given(&spec.subdomain),
        addresses: listed.filter_map(|entry| entry["ip"].as_str()?.parse().ok()).collect(),
        is_host_network: spec.host_network || own.is_empty(),
        is_ready: is_ready(status),
        is_ending,
        ports: ports.filter_map(port).collect(),
    }
}

impl Worker {
    /// Reports the pod's status where it has changed.
    pub(super) fn publish(&mut self) {
        if self.phase == Phase::History {
            self.shared.context.table.remove(&self.pod.metadata.uid);
            return;
        }
        if self.is_in_question() {
            return;
        }
        self.note_finals();
        let facts = Facts {
            pod: &self.pod,
            now: Timestamp::now(),
            node_ip: self.shared.node_ip(),
            pod_ips: self.addresses(),
            start_time: self.state.start_time,
            failure: self.state.failure.as_ref().map(|(reason, message)| (reason.as_str(), message.as_str())),
            is_disrupted: self.state.is_disrupted,
            volumes_ready: self.volumes.places().is_some(),
            ending: self.is_ending(),
            resize_in_progress: self.resize_in_progress(),
            handler: self.runtime.as_ref().map_or(status::NO_HANDLER, |runtime| runtime.handler()),
        };
        let containers = &self.containers;
        let observed = |name: &str| containers.get(name).map(|record| &record.observed);
        let before = self.status.value();
        let status = status::derive(&facts, observed, &before);
        // Labels are in no status, and change all the same.
        self.publish_record(&status);
        if status == before {
            return;
        }
        for (name, message) in status::new_ephemeral(&status, &before) {
            self.shared.events.pod_warning(&self.pod, Some(&name), status::EPHEMERAL_REASON, message);
        }
        self.status = Packed::from(&status);
        self.is_over.store(is_over(&status), Ordering::Relaxed);
        let uid = &self.pod.metadata.uid;
        self.shared.context.registry.set_pod(uid, self.report(&status));
        // Of no use after the first report.
        let base = std::mem::take(&mut self.stored_status);
        self.shared.publisher.status(uid, self.name(), &status, &base);
        let reported = reported_of(&status);
        if self.state.reported != reported {
            self.state.reported = reported;
            self.reported.is_outdated = true;
        }
        self.keep_reported();
    }

    /// Keeps what others on the node look up of the pod.
    fn publish_record(&self, status: &Value) {
        let table = &self.shared.context.table;
        match is_over(status) {
            true => table.remove(&self.pod.metadata.uid),
            false => table.set(record(&self.pod, self.addresses(), self.is_ending(), status)),
        }
    }

    /// Whether it is a moment too early to say anything of the pod: a rejected pod has no containers, and a status that was published
    /// with some keeps them.
    fn is_in_question(&self) -> bool {
        let is_new = self.containers.values().all(|record| record.observed.current.is_none());
        self.phase == Phase::Active && is_new && self.state.failure.is_none() && !self.volumes.is_checked()
    }

    /// When what was reported is to be kept, which a readiness that flaps must not make happen each time.
    pub(super) fn keep_reported_at(&self) -> Option<Instant> {
        let reported = &self.reported;
        let is_used_up = reported.kept_at.len() >= KEEPS_AT_ONCE;
        let oldest = reported.kept_at.front().filter(|_| is_used_up);
        reported.is_outdated.then(|| oldest.map_or_else(Instant::now, |at| *at + KEEP_PERIOD * KEEPS_AT_ONCE as u32))
    }

    pub(super) fn keep_reported(&mut self) {
        if self.keep_reported_at().is_some_and(|at| at <= Instant::now()) {
            let kept_at = &mut self.reported.kept_at;
            kept_at.push_back(Instant::now());
            if kept_at.len() > KEEPS_AT_ONCE {
                kept_at.pop_front();
            }
            self.reported.is_outdated = false;
            // Not urgent: after a power cut nothing of it is true.
            self.keep_state(false);
        }
    }

    /// Notes which ends are final: nothing follows them.
    fn note_finals(&mut self) {
        let finals: BTreeMap<String, bool> = self
            .pod
            .every_container()
            .filter_map(|container| {
                let record = self.containers.get(&container.name)?;
                let exit = exit_of(record.observed.current.as_ref()?);
                // What an init container did in a former instance is to be done again.
                let is_final = exit.is_some_and(|exit| !self.will_restart(container, exit));
                Some((container.name.clone(), is_final))
            })
            .collect();
        for (name, is_final) in finals {
            if let Some(record) = self.containers.get_mut(&name) {
                record.observed.is_final = is_final;
                if is_final {
                    record.observed.waiting = None;
                }
            }
        }
    }

    pub(super) fn name(&self) -> PodName {
        let metadata = &self.pod.metadata;
        PodName { namespace: metadata.namespace.clone(), name: metadata.name.clone() }
    }

    fn report(&self, status: &Value) -> PodReport {
        let current = self.containers.values().filter_map(|record| record.observed.current.as_ref());
        let restarts = current.map(|status| status.id.attempt).sum();
        PodReport {
            pod: self.pod.full_name(),
            phase: status["phase"].as_str().unwrap_or_default().to_owned(),
            restarts,
            ready: is_ready(status),
        }
    }
}
