//! What a pod says of itself: `status` of the Pod object, derived from what was observed.
//!
//! Nothing is remembered but the times at which conditions changed, which are taken from the status before.

use std::net::IpAddr;

use jiff::Timestamp;
use node_client::{seconds, set_field};
use node_runtime::{ContainerState, ContainerStatus, ExitRecord};
use serde_json::{Map, Value, json};

use super::admission::runs_images;
use super::model::{Container, Pod, RestartPolicy};
use super::resize;

/// Why a container does not run although it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub reason: String,
    pub message: String,
}

/// One container, as observed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    /// The newest attempt.
    pub current: Option<ContainerStatus>,
    /// The one before it.
    pub previous: Option<ExitRecord>,
    /// Id of the one before it.
    pub previous_id: Option<String>,
    /// Set when the next start is held back.
    pub waiting: Option<Waiting>,
    pub ready: bool,
    pub started: bool,
    /// Whether its end is final.
    pub is_final: bool,
}

/// Everything a status is derived from.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub pod: &'a Pod,
    pub now: Timestamp,
    pub node_ip: Option<IpAddr>,
    /// The pod's own addresses; none is the node's.
    pub pod_ips: &'a [IpAddr],
    pub start_time: Option<Timestamp>,
    /// The pod failed as a whole: reason and message.
    pub failure: Option<(&'a str, &'a str)>,
    /// Whether that was the node's doing.
    pub is_disrupted: bool,
    pub volumes_ready: bool,
    pub ending: bool,
    /// A container runs with other resources than it is to have; what went wrong with that.
    pub resize_in_progress: Option<Option<&'a str>>,
    /// Handler of the runtime, as `containerID` begins with it.
    pub handler: &'a str,
}

/// What takes the place of a handler where a pod has no runtime.
pub(crate) const NO_HANDLER: &str = "none";

/// Why an ephemeral container does not run.
pub(crate) const EPHEMERAL_REASON: &str = "NotSupported";
const EPHEMERAL_MESSAGE: &str =
    "ephemeral containers are run in pods of images only; the pod's other containers are not affected";

/// Whether a runtime starts what is added to a running pod.
pub(crate) fn runs_ephemeral(handler: &str) -> bool {
    handler != NO_HANDLER && runs_images(handler)
}

/// Derives the status; `previous` is the one before it, for the times of conditions that did not change.
pub(crate) fn derive<'o>(
    facts: &Facts<'_>,
    observed: impl Fn(&str) -> Option<&'o Observed>,
    previous: &Value,
) -> Value {
    let spec = &facts.pod.spec;
    let initialised = spec.init_containers.iter().all(|container| init_done(container, observed(&container.name)))
        || spec.containers.iter().any(|container| observed(&container.name).is_some_and(|o| o.current.is_some()));
    let phase = phase(facts, &observed, initialised);
    let finished = matches!(phase, "Succeeded" | "Failed");
    let unready: Vec<&str> = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().filter(|container| container.is_sidecar()))
        .filter(|container| !observed(&container.name).is_some_and(|o| o.ready && is_running(o)))
        .map(|container| container.name.as_str())
        .collect();
    let any_made = facts.pod.all_containers().any(|c| observed(&c.name).is_some_and(|o| o.current.is_some()));
    let rejected = facts.failure.is_some() && !any_made;

    let mut status = Map::new();
    status.insert("phase".to_owned(), phase.into());
    if let Some(generation) = facts.pod.metadata.generation {
        status.insert("observedGeneration".to_owned(), generation.into());
    }
    if let Some((reason, message)) = facts.failure {
        status.insert("reason".to_owned(), reason.into());
        status.insert("message".to_owned(), message.into());
    }
    status.insert("qosClass".to_owned(), facts.pod.qos_class().as_str().into());
    if let Some(start) = facts.start_time {
        status.insert("startTime".to_owned(), seconds(start).into());
    }
    if let Some(ip) = facts.node_ip {
        status.insert("hostIP".to_owned(), ip.to_string().into());
        status.insert("hostIPs".to_owned(), json!([{"ip": ip.to_string()}]));
    }
    let of_the_node = facts.node_ip.map(|ip| vec![ip]).unwrap_or_default();
    let pod_ips = if facts.pod_ips.is_empty() { of_the_node.as_slice() } else { facts.pod_ips };
    if let (Some(first), true) = (pod_ips.first(), !finished && any_made) {
        status.insert("podIP".to_owned(), first.to_string().into());
        let list: Vec<Value> = pod_ips.iter().map(|ip| json!({"ip": ip.to_string()})).collect();
        status.insert("podIPs".to_owned(), list.into());
    }
    let mut conditions = Conditions { now: facts.now, previous: &previous["conditions"], list: Vec::new() };
    let has_sandbox = any_made && !finished || facts.volumes_ready && !finished && facts.failure.is_none();
    conditions.add("PodReadyToStartContainers", has_sandbox, "", String::new());
    conditions.add_if(
        "Initialized",
        initialised && !rejected,
        if phase == "Succeeded" { "PodCompleted" } else { "" },
        "ContainersNotInitialized",
        || "containers with incomplete status".to_owned(),
    );
    let ready = unready.is_empty() && !finished;
    let (reason, message) = match phase {
        "Succeeded" => ("PodCompleted", String::new()),
        "Failed" => ("PodFailed", String::new()),
        _ => ("ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" "))),
    };
    conditions.add_if("Ready", ready && !facts.ending, "", reason, || message.clone());
    conditions.add_if("ContainersReady", ready, "", reason, || message.clone());
    conditions.add("PodScheduled", true, "", String::new());
    if let Some(pending) = facts.pod.resize_pending.as_ref().filter(|_| !finished) {
        conditions.add("PodResizePending", true, pending.reason, pending.message.clone());
    }
    if let Some(error) = facts.resize_in_progress {
        let reason = if error.is_some() { "Error" } else { "" };
        conditions.add("PodResizeInProgress", true, reason, error.unwrap_or_default().to_owned());
    }
    if let Some((_, message)) = facts.failure.filter(|_| facts.is_disrupted) {
        conditions.add("DisruptionTarget", true, "TerminationByKubelet", message.to_owned());
    }
    status.insert("conditions".to_owned(), conditions.list.into());

    let statuses = |containers: &[Container], default_reason: &str| -> Vec<Value> {
        containers
            .iter()
            .map(|container| container_status(facts, container, observed(&container.name), default_reason))
            .collect()
    };
    if !rejected {
        let default_reason = if initialised { "ContainerCreating" } else { "PodInitializing" };
        status.insert("containerStatuses".to_owned(), statuses(&spec.containers, default_reason).into());
        if !spec.init_containers.is_empty() {
            status
                .insert("initContainerStatuses".to_owned(), statuses(&spec.init_containers, "PodInitializing").into());
        }
        if !spec.ephemeral_containers.is_empty() {
            let mut statuses = statuses(&spec.ephemeral_containers, "ContainerCreating");
            if !runs_ephemeral(facts.handler) {
                statuses = spec.ephemeral_containers.iter().map(ephemeral_status).collect();
            }
            // Nobody waits for them: as upstream, they are never ready.
            statuses.iter_mut().for_each(|status| set_field(status, "ready", false));
            status.insert("ephemeralContainerStatuses".to_owned(), statuses.into());
        }
    }
    let mut status = Value::Object(status);
    let counted = if facts.pod.is_static() { 0 } else { facts.pod.every_container().count() };
    fit(&mut status, api_edge::pod_status_bytes_max(counted));
    status
}

/// Shortens messages, all alike, until the hub takes the status: what programs and registries have said may be long.
fn fit(status: &mut Value, bytes_max: usize) {
    for message_bytes_max in [1024, 256, 64, 0] {
        if status.to_string().len() <= bytes_max {
            return;
        }
        shorten(status, message_bytes_max);
    }
}

fn shorten(value: &mut Value, message_bytes_max: usize) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(|one| shorten(one, message_bytes_max)),
        Value::Object(fields) => fields.iter_mut().for_each(|(name, field)| match field {
            Value::String(text) if name == "message" => text.truncate(text.floor_char_boundary(message_bytes_max)),
            field => shorten(field, message_bytes_max),
        }),
        _ => {}
    }
}

fn phase<'o>(facts: &Facts<'_>, observed: &impl Fn(&str) -> Option<&'o Observed>, initialised: bool) -> &'static str {
    let spec = &facts.pod.spec;
    if facts.failure.is_some() {
        return "Failed";
    }
    let exit = |c: &Container| {
        observed(&c.name).filter(|o| o.is_final).and_then(|o| exit_of(o.current.as_ref()?)).map(|e| e.exit_code)
    };
    if spec.restart_policy == RestartPolicy::Never
        && spec.init_containers.iter().any(|c| !c.is_sidecar() && exit(c).is_some_and(|code| code != 0))
    {
        return "Failed";
    }
    let exits: Vec<Option<i32>> = spec.containers.iter().map(exit).collect();
    if !exits.is_empty() && exits.iter().all(Option::is_some) {
        return if exits.iter().all(|code| *code == Some(0)) { "Succeeded" } else { "Failed" };
    }
    // Running means that every container was made at least once; a container between two restarts still counts.
    let made = |c: &Container| observed(&c.name).is_some_and(|o| o.current.is_some());
    if initialised && spec.containers.iter().all(made) { "Running" } else { "Pending" }
}

fn init_done(container: &Container, observed: Option<&Observed>) -> bool {
    let Some(observed) = observed else { return false };
    if container.is_sidecar() {
        return observed.started && is_running(observed);
    }
    observed.current.as_ref().and_then(exit_of).is_some_and(|exit| exit.exit_code == 0)
}

fn is_running(observed: &Observed) -> bool {
    observed.current.as_ref().is_some_and(|status| matches!(status.state, ContainerState::Running { .. }))
}

pub(crate) fn exit_of(status: &ContainerStatus) -> Option<&ExitRecord> {
    match &status.state {
        ContainerState::Exited(exit) => Some(exit),
        ContainerState::Created | ContainerState::Running { .. } => None,
    }
}

/// `containerID` of a container.
pub(crate) fn container_id(handler: &str, id: &node_runtime::ContainerId) -> String {
    format!("{handler}://{id}")
}

fn container_status(
    facts: &Facts<'_>,
    container: &Container,
    observed: Option<&Observed>,
    default_reason: &str,
) -> Value {
    let fresh = Observed::default();
    let observed = observed.unwrap_or(&fresh);
    let restarts = observed.current.as_ref().map_or(0, |status| status.id.attempt);
    let mut last_state = json!({});
    if let Some(exit) = &observed.previous {
        last_state = json!({"terminated": terminated(exit, observed.previous_id.as_deref().unwrap_or_default())});
    }
    let mut image_id = String::new();
    let mut id = String::new();
    let mut state = json!({"waiting": waiting(observed.waiting.as_ref(), default_reason)});
    if let Some(current) = &observed.current {
        id = container_id(facts.handler, &current.id);
        image_id.clone_from(&current.image_id);
        match &current.state {
            ContainerState::Created => {}
            ContainerState::Running { started_at, .. } => {
                state = json!({"running": {"startedAt": seconds(*started_at)}});
            }
            ContainerState::Exited(exit) => {
                // Between two starts the end is the last state, and what is waited for the present one.
                if observed.waiting.is_some() {
                    last_state = json!({"terminated": terminated(exit, &id)});
                } else {
                    state = json!({"terminated": terminated(exit, &id)});
                }
            }
        }
    }
    let mut status = json!({
        "name": container.name, "image": container.image, "imageID": image_id, "restartCount": restarts,
        "ready": observed.ready && (is_running(observed) || is_done_init(container, observed)),
        "started": observed.started && is_running(observed),
        "state": state, "lastState": last_state,
    });
    if !id.is_empty() {
        set_field(&mut status, "containerID", id);
    }
    if runs_ephemeral(facts.handler) {
        add_resources(&mut status, container, observed);
    }
    status
}

/// What the node has given a container, and what is in force of it. A hub takes changes of them from no node that says nothing of them.
fn add_resources(status: &mut Value, container: &Container, observed: &Observed) {
    let given = &container.resources;
    let allocated = if given.requests.is_empty() { &given.limits } else { &given.requests };
    if !allocated.is_empty() {
        set_field(status, "allocatedResources", json!(allocated));
    }
    let mut in_force = json!(given);
    if let Some(current) = observed.current.as_ref().filter(|_| is_running(observed))
        && resize::differs(container, current)
    {
        in_force = json!(resize::in_force(container, current));
    }
    set_field(status, "resources", in_force);
}

/// What waits for a runtime that can run it.
fn ephemeral_status(container: &Container) -> Value {
    json!({
        "name": container.name, "image": container.image, "imageID": "", "restartCount": 0,
        "ready": false, "started": false, "lastState": {},
        "state": {"waiting": {"reason": EPHEMERAL_REASON, "message": EPHEMERAL_MESSAGE}},
    })
}

/// Of each ephemeral container that is not run by a status and was not named so by the one before it, a sentence.
pub(crate) fn new_ephemeral(status: &Value, previous: &Value) -> Vec<(String, String)> {
    fn names(status: &Value) -> impl Iterator<Item = &str> {
        let statuses = status["ephemeralContainerStatuses"].as_array();
        let is_not_run = |status: &&Value| status["state"]["waiting"]["reason"] == EPHEMERAL_REASON;
        statuses.into_iter().flatten().filter(is_not_run).filter_map(|status| status["name"].as_str())
    }
    names(status)
        .filter(|name| !names(previous).any(|known| known == *name))
        .map(|name| (name.to_owned(), format!("Ephemeral container {name} is not started: {EPHEMERAL_MESSAGE}")))
        .collect()
}

/// A completed init container is shown as ready.
fn is_done_init(container: &Container, observed: &Observed) -> bool {
    !container.is_sidecar()
        && observed.is_final
        && observed.current.as_ref().and_then(exit_of).is_some_and(|e| e.exit_code == 0)
}

fn waiting(waiting: Option<&Waiting>, default_reason: &str) -> Value {
    match waiting {
        Some(waiting) if waiting.message.is_empty() => json!({"reason": waiting.reason}),
        Some(waiting) => json!({"reason": waiting.reason, "message": waiting.message}),
        None => json!({"reason": default_reason}),
    }
}

fn terminated(exit: &ExitRecord, id: &str) -> Value {
    let mut state = json!({
        "exitCode": exit.exit_code, "reason": exit.reason.as_str(),
        "startedAt": seconds(exit.started_at.unwrap_or(exit.finished_at)), "finishedAt": seconds(exit.finished_at),
        "containerID": id,
    });
    if let Some(signal) = exit.signal {
        set_field(&mut state, "signal", signal);
    }
    if !exit.message.is_empty() {
        set_field(&mut state, "message", exit.message.clone());
    }
    state
}

struct Conditions<'a> {
    now: Timestamp,
    previous: &'a Value,
    list: Vec<Value>,
}

impl Conditions<'_> {
    fn add_if(&mut self, name: &str, holds: bool, yes: &str, no: &str, message: impl Fn() -> String) {
        let (reason, message) = if holds { (yes, String::new()) } else { (no, message()) };
        self.add(name, holds, reason, message);
    }

    fn add(&mut self, name: &str, holds: bool, reason: &str, message: String) {
        let status = if holds { "True" } else { "False" };
        let before =
            self.previous.as_array().into_iter().flatten().find(|c| c["type"] == name && c["status"] == status);
        let since =
            before.and_then(|c| c["lastTransitionTime"].as_str()).map_or_else(|| seconds(self.now), str::to_owned);
        let mut condition = json!({"type": name, "status": status, "lastTransitionTime": since});
        if !reason.is_empty() {
            set_field(&mut condition, "reason", reason);
        }
        if !message.is_empty() {
            set_field(&mut condition, "message", message);
        }
        self.list.push(condition);
    }
}

#[cfg(test)]
mod tests;
