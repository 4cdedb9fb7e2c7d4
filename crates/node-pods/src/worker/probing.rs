//! What probes find, and what follows from it.

use std::time::Duration;

use jiff::Timestamp;
use node_runtime::{ContainerState, ContainerStatus};
use serde_json::Value;
use tokio::task::JoinSet;

use super::Worker;
use super::container::between;
use crate::model::{Container, Probe};
use crate::probes::{self, ProbeKind, ProbeReport, ProbeTask};
use crate::status;

impl Worker {
    /// Starts the probes of a container that runs. One that was adopted is as ready as it was last reported, until a probe says
    /// otherwise: the agent's restart is nothing that its clients should notice.
    pub(super) fn begin_probes(&mut self, container: &Container, status: &ContainerStatus, is_adopted: bool) {
        self.end_probes(&container.name);
        let is_done = is_adopted && self.is_post_start_done(status);
        if !is_done && self.begin_post_start(status) {
            return;
        }
        let reported = is_adopted.then(|| self.reported(container, status)).flatten();
        self.start_probes(container, status, reported);
    }

    /// Starts those probes that come first, with what was `reported` before: whether it had started, and was ready.
    pub(super) fn start_probes(
        &mut self,
        container: &Container,
        status: &ContainerStatus,
        reported: Option<(bool, bool)>,
    ) {
        let Some(record) = self.containers.get_mut(&container.name) else { return };
        let (started, ready) = match reported {
            Some((started, ready)) => (started, ready),
            None => (
                container.startup_probe.is_none(),
                container.startup_probe.is_none() && container.readiness_probe.is_none(),
            ),
        };
        (record.observed.started, record.observed.ready) = (started, ready);
        let kinds: &[ProbeKind] =
            if started { &[ProbeKind::Liveness, ProbeKind::Readiness] } else { &[ProbeKind::Startup] };
        self.spawn_probes(container, status, kinds);
    }

    /// Whether this very attempt was reported as started.
    pub(super) fn was_started(&self, current: &ContainerStatus) -> bool {
        self.reported_status(current).is_some_and(|status| status["started"] == true)
    }

    /// What was last reported of this very attempt: whether it had started, and was ready.
    fn reported(&self, container: &Container, current: &ContainerStatus) -> Option<(bool, bool)> {
        let found = self.reported_status(current)?;
        let is = |field: &str| found[field].as_bool().unwrap_or(false);
        let started = is("started") || container.startup_probe.is_none();
        // Nobody but a probe would say that one which has started is ready.
        Some((started, is("ready") || (started && container.readiness_probe.is_none())))
    }

    /// The status of this very attempt as it was last reported.
    fn reported_status(&self, current: &ContainerStatus) -> Option<Value> {
        let handler = self.runtime.as_ref().map_or(crate::status::NO_HANDLER, |runtime| runtime.handler());
        let id = status::container_id(handler, &current.id);
        let lists = ["containerStatuses", "initContainerStatuses"];
        let status = self.status.value();
        let mut statuses = lists.iter().filter_map(|list| status[*list].as_array()).flatten();
        let name = current.id.container.as_str();
        statuses.find(|one| one["name"] == name && one["containerID"] == id.as_str()).cloned()
    }

    pub(super) fn end_probes(&mut self, name: &str) {
        if let Some(record) = self.containers.get_mut(name) {
            // Dropping the set aborts its tasks.
            record.probes = JoinSet::new();
            record.observed.ready = false;
            record.observed.started = false;
        }
    }

    fn spawn_probes(&mut self, container: &Container, status: &ContainerStatus, kinds: &[ProbeKind]) {
        let (Some(runtime), inbox) = (self.runtime.clone(), self.inbox.clone()) else { return };
        let pod_ip = self.addresses().first().copied();
        let Some(record) = self.containers.get_mut(&container.name) else { return };
        let age = match &status.state {
            ContainerState::Running { started_at, .. } => between(*started_at, Timestamp::now()),
            _ => Duration::ZERO,
        };
        for kind in kinds {
            let probe = match kind {
                ProbeKind::Startup => &container.startup_probe,
                ProbeKind::Liveness => &container.liveness_probe,
                ProbeKind::Readiness => &container.readiness_probe,
            };
            let Some(probe) = probe.clone() else { continue };
            let task = ProbeTask {
                kind: *kind,
                probe,
                container: container.clone(),
                id: status.id.clone(),
                age,
                is_ready: record.observed.ready,
                pod_ip,
                runtime: runtime.clone(),
            };
            let inbox = inbox.clone();
            base_observe::spawn_in_set(
                &mut record.probes,
                "probe",
                probes::run(task, move |report| inbox.probe(report)),
            );
        }
    }

    pub(super) fn probed(&mut self, report: ProbeReport) {
        let name = report.id.container.clone();
        let Some(container) = self.pod.container(&name).cloned() else { return };
        let default_grace = self.pod.grace();
        let Some(record) = self.containers.get_mut(&name) else { return };
        let current = record.observed.current.clone().filter(|current| current.id == report.id);
        let Some(current) = current.filter(|_| record.is_running()) else { return };
        if let Some(failure) = &report.failure {
            let text = format!("{} probe failed: {failure}", report.kind.as_str());
            self.shared.events.pod_warning(&self.pod, Some(&name), "Unhealthy", text);
        }
        if let Some(warning) = &report.warning {
            let text = format!("{} probe warning: {warning}", report.kind.as_str());
            self.shared.events.pod_warning(&self.pod, Some(&name), "ProbeWarning", text);
        }
        let grace = |probe: &Option<Probe>| {
            let own = probe.as_ref().and_then(|probe| probe.termination_grace_period_seconds);
            own.and_then(|seconds| u64::try_from(seconds).ok()).map_or(default_grace, Duration::from_secs)
        };
        match (report.kind, report.verdict) {
            (_, None) | (ProbeKind::Liveness, Some(true)) => {}
            (ProbeKind::Readiness, Some(ready)) => record.observed.ready = ready,
            (ProbeKind::Liveness, Some(false)) => self.unhealthy(&name, "liveness", grace(&container.liveness_probe)),
            (ProbeKind::Startup, Some(false)) => self.unhealthy(&name, "startup", grace(&container.startup_probe)),
            (ProbeKind::Startup, Some(true)) => {
                record.observed.started = true;
                record.observed.ready = container.readiness_probe.is_none();
                self.spawn_probes(&container, &current, &[ProbeKind::Liveness, ProbeKind::Readiness]);
            }
        }
    }

    fn unhealthy(&mut self, name: &str, kind: &str, grace: Duration) {
        if let Some(record) = self.containers.get_mut(name) {
            record.kill_requested = Some(grace);
            let text = format!("Container {name} failed {kind} probe, will be restarted");
            self.shared.events.pod(&self.pod, Some(name), "Killing", text);
        }
    }
}
