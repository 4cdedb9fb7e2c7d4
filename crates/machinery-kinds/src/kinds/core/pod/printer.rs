//! One row per pod; the status column sums up phase, conditions and containers.

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    kit::Read,
    table::{age_of, or_none, since},
};

pub(super) fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (pod.part("spec"), pod.part("status"));
    let summary = Summary::of(pod);
    let restarts = match summary.restarts {
        Restarts { count, last: Some(time) } if count != 0 => format!("{count} ({} ago)", since(time, now)),
        Restarts { count, .. } => count.to_string(),
    };
    vec![
        pod.part("metadata").text("name").into(),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts.into(),
        age_of(pod, now),
        or_none(status.items("podIPs").first().map_or("", |ip| ip.text("ip"))).into(),
        or_none(spec.text("nodeName")).into(),
        or_none(status.text("nominatedNodeName")).into(),
        readiness_gates(spec, status).into(),
    ]
}

/// Names and images of the containers of a template, as two cells.
pub(crate) fn container_cells(template: &Value) -> [Value; 2] {
    let containers = template.part("spec").items("containers");
    let join = |key: &str| containers.iter().map(|container| container.text(key)).collect::<Vec<_>>().join(",").into();
    [join("name"), join("image")]
}

struct Summary<'p> {
    reason: String,
    ready: usize,
    total: usize,
    restarts: Restarts<'p>,
}

/// How often containers were started again, and when the last one before had ended.
#[derive(Clone, Copy, Default)]
struct Restarts<'p> {
    count: i64,
    last: Option<&'p str>,
}

impl<'p> Restarts<'p> {
    fn add(&mut self, container: &'p Value) {
        self.count += container.int("restartCount");
        let finished = container.part("lastState").part("terminated").text("finishedAt");
        // RFC 3339 in UTC with whole seconds sorts as text.
        if !finished.is_empty() && self.last.is_none_or(|last| last < finished) {
            self.last = Some(finished);
        }
    }
}

impl<'p> Summary<'p> {
    fn of(pod: &'p Value) -> Self {
        let (spec, status) = (pod.part("spec"), pod.part("status"));
        let reason = match status.text("reason") {
            "" => status.text("phase"),
            reason => reason,
        };
        let mut summary = Self {
            reason: reason.to_owned(),
            ready: 0,
            total: spec.items("containers").len(),
            restarts: Restarts::default(),
        };
        let conditions = status.items("conditions");
        if conditions.iter().any(|c| c.text("type") == "PodScheduled" && c.text("reason") == "SchedulingGated") {
            summary.reason = "SchedulingGated".to_owned();
        }
        let (is_initializing, of_sidecars) = summary.add_init_containers(spec, status);
        let is_true = |kind: &str| conditions.iter().any(|c| c.text("type") == kind && c.text("status") == "True");
        if !is_initializing || is_true("Initialized") {
            // When all is up, only what still runs counts.
            summary.restarts = of_sidecars;
            summary.add_containers(status, is_true("Ready"));
        }
        if pod.part("metadata").has("deletionTimestamp") {
            if status.text("reason") == "NodeLost" {
                summary.reason = "Unknown".to_owned();
            } else if !matches!(status.text("phase"), "Succeeded" | "Failed") {
                summary.reason = "Terminating".to_owned();
            }
        }
        summary
    }

    /// Whether an init container has yet to finish, and the restarts of those that run beside the containers.
    fn add_init_containers(&mut self, spec: &Value, status: &'p Value) -> (bool, Restarts<'p>) {
        let specs = spec.items("initContainers");
        let is_restartable = |container: &&Value| container.text("restartPolicy") == "Always";
        self.total += specs.iter().filter(is_restartable).count();
        let mut of_sidecars = Restarts::default();
        for (position, container) in status.items("initContainerStatuses").iter().enumerate() {
            let sidecar = specs.iter().filter(is_restartable).any(|spec| spec.text("name") == container.text("name"));
            self.restarts.add(container);
            if sidecar {
                of_sidecars.add(container);
            }
            let state = container.part("state");
            let terminated = state.some("terminated");
            if terminated.is_some_and(|terminated| terminated.int("exitCode") == 0) {
                continue;
            }
            if sidecar && container.flag("started") {
                self.ready += usize::from(container.flag("ready"));
                continue;
            }
            self.reason = match (terminated, state.part("waiting").text("reason")) {
                (Some(terminated), _) => format!("Init:{}", exit_reason(terminated)),
                (None, "" | "PodInitializing") => format!("Init:{position}/{}", specs.len()),
                (None, reason) => format!("Init:{reason}"),
            };
            return (true, of_sidecars);
        }
        (false, of_sidecars)
    }

    fn add_containers(&mut self, status: &'p Value, is_ready: bool) {
        let (mut has_running, mut failure) = (false, String::new());
        for container in status.items("containerStatuses").iter().rev() {
            self.restarts.add(container);
            let state = container.part("state");
            let waiting = state.part("waiting").text("reason");
            if !waiting.is_empty() {
                self.reason = waiting.to_owned();
            } else if let Some(terminated) = state.some("terminated") {
                self.reason = exit_reason(terminated);
                if terminated.int("exitCode") != 0 {
                    failure.clone_from(&self.reason);
                }
            } else if container.flag("ready") && state.has("running") {
                has_running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" {
            if has_running && is_ready {
                self.reason = "Running".to_owned();
            } else if !failure.is_empty() {
                self.reason = failure;
            } else if has_running {
                self.reason = "NotReady".to_owned();
            }
        }
    }
}

fn exit_reason(terminated: &Value) -> String {
    match (terminated.text("reason"), terminated.int("signal")) {
        ("", 0) => format!("ExitCode:{}", terminated.int("exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn readiness_gates(spec: &Value, status: &Value) -> String {
    let gates = spec.items("readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let conditions = status.items("conditions");
    let is_true = |gate: &&Value| {
        let of_gate = conditions.iter().find(|condition| condition.text("type") == gate.text("conditionType"));
        of_gate.is_some_and(|condition| condition.text("status") == "True")
    };
    format!("{}/{}", gates.iter().filter(is_true).count(), gates.len())
}
