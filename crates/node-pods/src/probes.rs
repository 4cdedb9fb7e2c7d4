//! Startup, liveness and readiness probes.
//!
//! Each probe of a running container is one task; it counts in a [`Tracker`] and reports to the pod's worker when its
//! verdict changes, and each failure for an event. A startup probe goes first: the others begin when it has succeeded,
//! which the worker arranges by starting their tasks then.

mod dial;
mod grpc;
pub(crate) mod http_get;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use node_runtime::{ContainerId, ExecOutput, PodRuntime, RuntimeError};
use tracing::debug;

use crate::model::{Container, Probe};
use dial::{connect, port_of};
use node_client::chain;

/// Longest output of a probe that is reported in an event, as kubelets do.
const OUTPUT_BYTES_MAX: usize = 1024;

/// Longest period, delay or time-out of a probe: a day is as good as never.
const PERIOD_SECONDS_MAX: u64 = 24 * 3600;
/// Who probes, as upstream says it.
const USER_AGENT: &str = "kube-probe/1.36";

/// Which probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

impl ProbeKind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// What a probe found.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ProbeReport {
    pub id: ContainerId,
    pub kind: ProbeKind,
    /// The verdict, when it changed.
    pub verdict: Option<bool>,
    /// What a failed try said.
    pub failure: Option<String>,
    /// What is odd about a try that was a success all the same.
    pub warning: Option<String>,
}

/// Counts tries towards a verdict.
#[derive(Clone, Debug)]
pub(crate) struct Tracker {
    success_threshold: u32,
    failure_threshold: u32,
    successes: u32,
    failures: u32,
    verdict: Option<bool>,
}

impl Tracker {
    pub(crate) fn new(probe: &Probe) -> Self {
        Self {
            success_threshold: probe.success_threshold.unwrap_or(1).max(1),
            failure_threshold: probe.failure_threshold.unwrap_or(3).max(1),
            successes: 0,
            failures: 0,
            verdict: None,
        }
    }

    /// Notes a try; answers the verdict when this try changed it.
    pub(crate) fn note(&mut self, success: bool) -> Option<bool> {
        if success {
            self.successes = self.successes.saturating_add(1);
            self.failures = 0;
        } else {
            self.failures = self.failures.saturating_add(1);
            self.successes = 0;
        }
        let verdict = if self.successes >= self.success_threshold {
            true
        } else if self.failures >= self.failure_threshold {
            false
        } else {
            return None;
        };
        (self.verdict.replace(verdict) != Some(verdict)).then_some(verdict)
    }
}

/// What one probe's task needs.
pub(crate) struct ProbeTask {
    pub kind: ProbeKind,
    pub probe: Probe,
    pub container: Container,
    pub id: ContainerId,
    /// How long the container runs already: delays count from its start, not from the agent's.
    pub age: Duration,
    /// Whether it is reported ready now.
    pub is_ready: bool,
    /// Where the pod is, when it has an address of its own.
    pub pod_ip: Option<IpAddr>,
    pub runtime: Arc<dyn PodRuntime>,
}

/// Tries a probe until the task is aborted; a startup probe ends with its verdict.
pub(crate) async fn run(task: ProbeTask, report: impl Fn(ProbeReport) + Send) {
    let ProbeTask { kind, probe, container, id, age, is_ready, pod_ip, runtime } = task;
    let target = Target { container, id: id.clone(), pod_ip };
    let period = Duration::from_secs(probe.period_seconds.unwrap_or(10).clamp(1, PERIOD_SECONDS_MAX));
    let timeout = Duration::from_secs(probe.timeout_seconds.unwrap_or(1).clamp(1, PERIOD_SECONDS_MAX));
    let delay = Duration::from_secs(probe.initial_delay_seconds.unwrap_or(0).min(PERIOD_SECONDS_MAX));
    tokio::time::sleep(delay.saturating_sub(age)).await;
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut tracker = Tracker::new(&probe);
    if kind == ProbeKind::Readiness && is_ready {
        tracker.verdict = Some(true);
    }
    loop {
        ticks.tick().await;
        let (failure, warning) = match attempt(&probe, &target, &*runtime, timeout).await {
            Ok(warning) => (None, warning),
            Err(Failure::Failed(said)) => (Some(said), None),
            Err(Failure::NotTried(error)) => {
                debug!(container = %id, probe = kind.as_str(), %error, "A probe could not be tried; it does not count.");
                continue;
            }
        };
        let verdict = tracker.note(failure.is_none());
        if verdict.is_some() || failure.is_some() || warning.is_some() {
            report(ProbeReport { id: id.clone(), kind, verdict, failure, warning });
        }
        if kind == ProbeKind::Startup && verdict.is_some() {
            return;
        }
    }
}

/// Why a try was no success.
#[derive(Debug, PartialEq)]
pub(crate) enum Failure {
    /// The container did not answer as it should.
    Failed(String),
    /// The node could not ask: that says nothing of the container.
    NotTried(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Failed(text) | Self::NotTried(text)) = self;
        formatter.write_str(text)
    }
}

/// What is probed.
struct Target {
    container: Container,
    id: ContainerId,
    pod_ip: Option<IpAddr>,
}

/// Tries once; a success may come with a warning.
async fn attempt(
    probe: &Probe,
    target: &Target,
    runtime: &dyn PodRuntime,
    timeout: Duration,
) -> Result<Option<String>, Failure> {
    let Target { container, id, pod_ip } = target;
    if let Some(exec) = &probe.exec {
        return match runtime.exec(id, exec.command.clone(), timeout).await {
            Ok(output) if output.exit_code == 0 => Ok(None),
            Ok(output) => Err(Failure::Failed(said(&output))),
            Err(error @ (RuntimeError::ExecTimeout { .. } | RuntimeError::Exec { .. })) => {
                Err(Failure::Failed(error.to_string()))
            }
            Err(error) => Err(Failure::NotTried(chain(&error))),
        };
    }
    let network = async {
        if let Some(tcp) = &probe.tcp_socket {
            let port = port_of(&tcp.port, container).map_err(Failure::Failed)?;
            connect(tcp.host.as_deref(), *pod_ip, port).await.map(|_| None)
        } else if let Some(action) = &probe.http_get {
            http_get::get(action, container, *pod_ip, USER_AGENT).await?.verdict()
        } else if let Some(grpc) = &probe.grpc {
            grpc::check(grpc, *pod_ip).await.map(|()| None)
        } else {
            let text = "the probe is of a kind that this node does not have; use exec, grpc, tcpSocket or httpGet";
            Err(Failure::NotTried(text.to_owned()))
        }
    };
    tokio::time::timeout(timeout, network)
        .await
        .unwrap_or_else(|_| Err(Failure::Failed(format!("no answer within {} s", timeout.as_secs()))))
}

/// What a command said that failed; its exit code where it said nothing.
pub(crate) fn said(output: &ExecOutput) -> String {
    let bytes = output.combined();
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(OUTPUT_BYTES_MAX)]).into_owned();
    match text.trim() {
        "" => format!("exit code {}", output.exit_code),
        _ => text,
    }
}

#[cfg(test)]
mod tests;
