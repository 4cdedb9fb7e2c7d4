//! Startup, liveness and readiness probes.
//!
//! Each probe of a running container is one task; it counts in a [`Tracker`] and reports to the pod's worker when its
//! verdict changes, and each failure for an event. A startup probe goes first: the others begin when it has succeeded,
//! which the worker arranges by starting their tasks then.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use node_runtime::{ContainerId, PodRuntime, RuntimeError};
use tokio::net::TcpStream;
use tracing::debug;

use crate::pods::model::{Container, HttpProbe, PortRef, Probe};
use crate::report::chain;

/// Longest output of a probe that is told in an event, as kubelets do.
const OUTPUT_BYTES_MAX: usize = 1024;

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

/// Tries a probe until the task is aborted; a startup probe ends with its verdict.
pub(crate) async fn run(
    kind: ProbeKind,
    probe: Probe,
    container: Container,
    id: ContainerId,
    runtime: Arc<dyn PodRuntime>,
    ip: IpAddr,
    report: impl Fn(ProbeReport) + Send,
) {
    let period = Duration::from_secs(probe.period_seconds.unwrap_or(10).max(1));
    let timeout = Duration::from_secs(probe.timeout_seconds.unwrap_or(1).max(1));
    tokio::time::sleep(Duration::from_secs(probe.initial_delay_seconds.unwrap_or(0))).await;
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut tracker = Tracker::new(&probe);
    loop {
        ticks.tick().await;
        let failure = match attempt(&probe, &container, &id, &*runtime, ip, timeout).await {
            Ok(()) => None,
            Err(Failure::Failed(said)) => Some(said),
            Err(Failure::NotTried(error)) => {
                debug!(container = %id, probe = kind.as_str(), %error, "A probe could not be tried; it does not count.");
                continue;
            }
        };
        let verdict = tracker.note(failure.is_none());
        if verdict.is_some() || failure.is_some() {
            report(ProbeReport { id: id.clone(), kind, verdict, failure });
        }
        if kind == ProbeKind::Startup && verdict.is_some() {
            return;
        }
    }
}

/// Why a try was no success.
#[derive(Debug, PartialEq)]
enum Failure {
    /// The container did not answer as it should.
    Failed(String),
    /// The node could not ask: that says nothing of the container.
    NotTried(String),
}

async fn attempt(
    probe: &Probe,
    container: &Container,
    id: &ContainerId,
    runtime: &dyn PodRuntime,
    ip: IpAddr,
    timeout: Duration,
) -> Result<(), Failure> {
    if let Some(exec) = &probe.exec {
        return match runtime.exec(id, exec.command.clone(), timeout).await {
            Ok(output) if output.exit_code == 0 => Ok(()),
            Ok(output) => {
                let bytes = output.combined();
                let text = String::from_utf8_lossy(&bytes[..bytes.len().min(OUTPUT_BYTES_MAX)]).into_owned();
                Err(Failure::Failed(match text.trim() {
                    "" => format!("exit code {}", output.exit_code),
                    _ => text,
                }))
            }
            Err(error @ (RuntimeError::ExecTimeout { .. } | RuntimeError::Exec { .. })) => {
                Err(Failure::Failed(error.to_string()))
            }
            Err(error) => Err(Failure::NotTried(chain(&error))),
        };
    }
    let network = async {
        if let Some(tcp) = &probe.tcp_socket {
            let port = port_of(&tcp.port, container)?;
            connect(tcp.host.as_deref(), ip, port).await.map(|_| ())
        } else if let Some(http) = &probe.http_get {
            http_get(http, container, ip).await
        } else {
            Err("the probe is of a kind that this node does not have; use exec, tcpSocket or httpGet".to_owned())
        }
    };
    tokio::time::timeout(timeout, network)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {} s", timeout.as_secs())))
        .map_err(Failure::Failed)
}

async fn connect(host: Option<&str>, ip: IpAddr, port: u16) -> Result<TcpStream, String> {
    let host = host.map_or_else(|| ip.to_string(), str::to_owned);
    TcpStream::connect((host.as_str(), port)).await.map_err(|error| format!("dial {host}:{port}: {error}"))
}

async fn http_get(probe: &HttpProbe, container: &Container, ip: IpAddr) -> Result<(), String> {
    if probe.scheme.as_deref().unwrap_or("HTTP") != "HTTP" {
        return Err("scheme HTTPS is not supported by this node's probes; use HTTP, tcpSocket or exec".to_owned());
    }
    let port = port_of(&probe.port, container)?;
    let stream = connect(probe.host.as_deref(), ip, port).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let path = if probe.path.starts_with('/') { probe.path.clone() } else { format!("/{}", probe.path) };
    let mut request = http::Request::get(path);
    // The probe's own headers stand in for these.
    for (name, value) in [("host", format!("{ip}:{port}")), ("user-agent", "kube-probe/1.36".to_owned())] {
        if !probe.http_headers.iter().any(|header| header.name.eq_ignore_ascii_case(name)) {
            request = request.header(name, value);
        }
    }
    for header in &probe.http_headers {
        request = request.header(&header.name, &header.value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status();
        // The body is not looked at; dropping it closes the connection.
        drop(response.into_body().frame());
        if (200..400).contains(&status.as_u16()) {
            Ok(())
        } else {
            Err(format!("HTTP probe failed with statuscode: {}", status.as_u16()))
        }
    };
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        result = &mut exchange => result,
        // The connection may be done a moment before the answer is taken.
        _ = connection => exchange.await,
    }
}

fn port_of(port: &PortRef, container: &Container) -> Result<u16, String> {
    match port {
        PortRef::Number(number) => Ok(*number),
        PortRef::Name(name) => container
            .ports
            .iter()
            .find(|port| port.name.as_deref() == Some(name))
            .map(|port| port.container_port)
            .or_else(|| name.parse().ok())
            .ok_or_else(|| format!("the container has no port named {name}")),
    }
}

#[cfg(test)]
mod tests;
