//! One row per pod; the status column sums up phase, conditions and containers.

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::Value;

use super::{age_of, items, number, or_none, since, text};

pub(super) fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let summary = Summary::of(pod);
    let restarts = match summary.last_restart {
        Some(time) if summary.restarts > 0 => format!("{} ({} ago)", summary.restarts, since(time, now)),
        _ => summary.restarts.to_string(),
    };
    let address = match items(pod, "/status/podIPs").first() {
        Some(first) => text(first, "/ip"),
        None => text(pod, "/status/podIP"),
    };
    vec![
        text(pod, "/metadata/name").into(),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts.into(),
        age_of(pod, now),
        or_none(address).into(),
        or_none(text(pod, "/spec/nodeName")).into(),
        or_none(text(pod, "/status/nominatedNodeName")).into(),
        readiness_gates(pod).into(),
    ]
}

struct Summary<'p> {
    reason: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<&'p str>,
}

impl<'p> Summary<'p> {
    fn of(pod: &'p Value) -> Self {
        let mut summary = Self {
            reason: match text(pod, "/status/reason") {
                "" => text(pod, "/status/phase").to_owned(),
                reason => reason.to_owned(),
            },
            ready: 0,
            total: items(pod, "/spec/containers").len(),
            restarts: 0,
            last_restart: None,
        };
        let conditions = items(pod, "/status/conditions");
        let is_gated = |c: &&Value| text(c, "/type") == "PodScheduled" && text(c, "/reason") == "SchedulingGated";
        if conditions.iter().any(|condition| is_gated(&condition)) {
            summary.reason = "SchedulingGated".to_owned();
        }
        let initializing = summary.add_init_containers(pod);
        let is_initialized =
            conditions.iter().any(|c| text(c, "/type") == "Initialized" && text(c, "/status") == "True");
        if !initializing || is_initialized {
            summary.add_containers(pod, conditions);
        }
        if pod.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null()) {
            let is_lost = text(pod, "/status/reason") == "NodeLost";
            if is_lost {
                summary.reason = "Unknown".to_owned();
            } else if !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") {
                summary.reason = "Terminating".to_owned();
            }
        }
        summary
    }

    /// Whether an init container is still to finish.
    fn add_init_containers(&mut self, pod: &'p Value) -> bool {
        let specs = items(pod, "/spec/initContainers");
        let sidecars = specs.iter().filter(|spec| text(spec, "/restartPolicy") == "Always");
        self.total += sidecars.clone().count();
        let sidecars: HashSet<&str> = sidecars.map(|spec| text(spec, "/name")).collect();
        let statuses = items(pod, "/status/initContainerStatuses");
        let mut waiting = None;
        let mut sidecar_restarts = 0;
        let mut initializing = false;
        for (position, status) in statuses.iter().enumerate() {
            let sidecar = sidecars.contains(text(status, "/name"));
            self.restarts += number(status, "/restartCount");
            self.note_restart(status);
            if sidecar {
                sidecar_restarts += number(status, "/restartCount");
                if flag(status, "/ready") {
                    self.ready += 1;
                }
            }
            if initializing {
                continue;
            }
            let terminated = status.pointer("/state/terminated");
            if terminated.is_some() && number(status, "/state/terminated/exitCode") == 0 {
                continue;
            }
            if sidecar && flag(status, "/started") {
                continue;
            }
            initializing = true;
            waiting = Some(if terminated.is_some() {
                format!("Init:{}", exit_reason(status))
            } else {
                match text(status, "/state/waiting/reason") {
                    "" | "PodInitializing" => format!("Init:{position}/{}", specs.len()),
                    reason => format!("Init:{reason}"),
                }
            });
        }
        if let Some(waiting) = waiting {
            self.reason = waiting;
        } else {
            // When all is up, only what still runs counts.
            self.restarts = sidecar_restarts;
        }
        initializing
    }

    fn add_containers(&mut self, pod: &'p Value, conditions: &[Value]) {
        let mut has_running = false;
        for status in items(pod, "/status/containerStatuses").iter().rev() {
            self.restarts += number(status, "/restartCount");
            self.note_restart(status);
            if status.pointer("/state/running").is_some() {
                if flag(status, "/ready") {
                    has_running = true;
                    self.ready += 1;
                }
            } else if !text(status, "/state/waiting/reason").is_empty() {
                self.reason = text(status, "/state/waiting/reason").to_owned();
            } else if status.pointer("/state/terminated").is_some() {
                self.reason = exit_reason(status);
            }
        }
        if self.reason == "Completed" && has_running {
            let is_ready = conditions.iter().any(|c| text(c, "/type") == "Ready" && text(c, "/status") == "True");
            self.reason = if is_ready { "Running" } else { "NotReady" }.to_owned();
        }
    }

    fn note_restart(&mut self, status: &'p Value) {
        let finished = text(status, "/lastState/terminated/finishedAt");
        // RFC 3339 in UTC with whole seconds sorts as text.
        if !finished.is_empty() && self.last_restart.is_none_or(|last| last < finished) {
            self.last_restart = Some(finished);
        }
    }
}

fn exit_reason(status: &Value) -> String {
    match (text(status, "/state/terminated/reason"), number(status, "/state/terminated/signal")) {
        ("", 0) => format!("ExitCode:{}", number(status, "/state/terminated/exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn flag(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer) == Some(&Value::Bool(true))
}

fn readiness_gates(pod: &Value) -> String {
    let gates = items(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let conditions = items(pod, "/status/conditions").iter().filter(|c| text(c, "/status") == "True");
    let conditions: HashSet<&str> = conditions.map(|condition| text(condition, "/type")).collect();
    let is_true = |gate: &&Value| conditions.contains(text(gate, "/conditionType"));
    format!("{}/{}", gates.iter().filter(is_true).count(), gates.len())
}
