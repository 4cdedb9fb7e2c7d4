//! Startup, liveness and readiness probes.
//!
//! Each probe of a running container is one task; it counts in a [`Tracker`] and reports to the pod's worker when its
//! verdict changes, and each failure for an event. A startup probe goes first: the others begin when it has succeeded,
//! which the worker arranges by starting their tasks then.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use node_runtime::{ContainerId, PodRuntime, RuntimeError};
use tokio::net::TcpStream;
use tracing::debug;

use crate::model::{Container, HttpProbe, PortRef, Probe};
use node_client::chain;

/// Longest output of a probe that is reported in an event, as kubelets do.
const OUTPUT_BYTES_MAX: usize = 1024;

/// Longest period, delay or time-out of a probe: a day is as good as never.
const PERIOD_SECONDS_MAX: u64 = 24 * 3600;
/// Addresses of a host that are tried.
const ADDRESSES_MAX: usize = 4;

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
        let failure = match attempt(&probe, &target, &*runtime, timeout).await {
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

/// What is probed.
struct Target {
    container: Container,
    id: ContainerId,
    pod_ip: Option<IpAddr>,
}

async fn attempt(probe: &Probe, target: &Target, runtime: &dyn PodRuntime, timeout: Duration) -> Result<(), Failure> {
    let Target { container, id, pod_ip } = target;
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
            let port = port_of(&tcp.port, container).map_err(Failure::Failed)?;
            connect(tcp.host.as_deref(), *pod_ip, port).await.map(|_| ())
        } else if let Some(http) = &probe.http_get {
            http_get(http, container, *pod_ip).await
        } else {
            let text = "the probe is of a kind that this node does not have; use exec, tcpSocket or httpGet";
            Err(Failure::NotTried(text.to_owned()))
        }
    };
    tokio::time::timeout(timeout, network)
        .await
        .unwrap_or_else(|_| Err(Failure::Failed(format!("no answer within {} s", timeout.as_secs()))))
}

/// Connects to where a probe's port is. A pod that has the node's network is reached by loopback: the node's own addresses come and go
/// with the uplink.
async fn connect(host: Option<&str>, pod_ip: Option<IpAddr>, port: u16) -> Result<TcpStream, Failure> {
    let targets: Vec<SocketAddr> = match host.filter(|host| !host.is_empty()) {
        None => match pod_ip {
            Some(ip) => vec![(ip, port).into()],
            None => vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()],
        },
        Some(host) => match tokio::net::lookup_host((host, port)).await {
            Ok(found) => found.take(ADDRESSES_MAX).collect(),
            // Names are the network's: a resolver that is away says nothing of the container.
            Err(error) => return Err(Failure::NotTried(format!("find {host}: {error}"))),
        },
    };
    let mut failure = Failure::NotTried("it has no address".to_owned());
    for target in targets {
        match TcpStream::connect(target).await {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                let text = format!("dial {target}: {error}");
                // A node without IPv6 is no fault of a program that does not listen on it.
                let is_first = matches!(&failure, Failure::NotTried(_));
                match is_of_the_node(&error) {
                    true if is_first => failure = Failure::NotTried(text),
                    true => {}
                    false if is_first => failure = Failure::Failed(text),
                    false => {}
                }
            }
        }
    }
    Err(failure)
}

/// Whether a connection failed for want of a network here, which the program at its other end has no part in.
fn is_of_the_node(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::NetworkUnreachable
            | ErrorKind::NetworkDown
            | ErrorKind::AddrNotAvailable
            | ErrorKind::HostUnreachable
    )
}

async fn http_get(probe: &HttpProbe, container: &Container, pod_ip: Option<IpAddr>) -> Result<(), Failure> {
    if probe.scheme.as_deref().unwrap_or("HTTP") != "HTTP" {
        let text = "scheme HTTPS is not supported by this node's probes; use HTTP, tcpSocket or exec";
        return Err(Failure::NotTried(text.to_owned()));
    }
    let port = port_of(&probe.port, container).map_err(Failure::Failed)?;
    let stream = connect(probe.host.as_deref(), pod_ip, port).await?;
    let own = pod_ip.unwrap_or(Ipv4Addr::LOCALHOST.into()).to_string();
    let host = probe.host.clone().filter(|host| !host.is_empty()).unwrap_or(own);
    ask(probe, stream, &host, port).await.map_err(Failure::Failed)
}

async fn ask(probe: &HttpProbe, stream: TcpStream, host: &str, port: u16) -> Result<(), String> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let path = if probe.path.starts_with('/') { probe.path.clone() } else { format!("/{}", probe.path) };
    let mut request = http::Request::get(path);
    // The probe's own headers stand in for these.
    for (name, value) in [("host", format!("{host}:{port}")), ("user-agent", "kube-probe/1.36".to_owned())] {
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
