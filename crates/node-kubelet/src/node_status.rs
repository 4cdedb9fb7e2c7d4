//! The Node object: made when it is missing, kept in line with the configuration, its status told when it changes.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::KubeletConfig;
use crate::events::Events;
use crate::hub::{Hub, HubError, Patch};
use crate::pods::status::seconds;
use crate::report::{Board, chain};

/// The status is computed this often and told when it differs.
const LOOK_PERIOD: Duration = Duration::from_secs(10);
/// Below this the node says MemoryPressure, as kubelets do.
const MEMORY_AVAILABLE_MIN: u64 = 100 * 1024 * 1024;
/// On a node of less than 1 GiB a tenth is the threshold: 100 MiB would be pressure from the start.
const MEMORY_AVAILABLE_FRACTION: u64 = 10;
/// Below a tenth of free disk the node says DiskPressure.
const DISK_AVAILABLE_FRACTION: u64 = 10;

/// What does not change while the machine runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    pub cpu_millis: u64,
    pub memory_bytes: u64,
    pub info: Value,
}

/// What changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pressure {
    pub memory: bool,
    pub disk: bool,
    pub pids: bool,
    pub disk_bytes: u64,
}

/// Reads the machine.
pub(crate) fn machine() -> Machine {
    let uname = rustix::system::uname();
    let read = |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let meminfo = read("/proc/meminfo");
    Machine {
        cpu_millis: cpus as u64 * 1000,
        memory_bytes: meminfo_bytes(&meminfo, "MemTotal:").unwrap_or(0),
        info: json!({
            "machineID": read("/etc/machine-id"),
            "systemUUID": read("/sys/class/dmi/id/product_uuid"),
            "bootID": read("/proc/sys/kernel/random/boot_id"),
            "kernelVersion": uname.release().to_string_lossy(),
            "osImage": os_name(&read("/etc/os-release")),
            "containerRuntimeVersion": concat!("selvedge://", env!("CARGO_PKG_VERSION")),
            "kubeletVersion": api_edge::KUBERNETES_VERSION,
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": architecture(),
        }),
    }
}

/// The architecture as Go and Kubernetes call it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "riscv64" => "riscv64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

fn os_name(os_release: &str) -> String {
    let name = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

fn meminfo_bytes(meminfo: &str, field: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

fn pressure(config: &KubeletConfig, machine: &Machine) -> Pressure {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = meminfo_bytes(&meminfo, "MemAvailable:").unwrap_or(u64::MAX);
    let threshold = MEMORY_AVAILABLE_MIN.min(machine.memory_bytes / MEMORY_AVAILABLE_FRACTION);
    let mut pressure = Pressure { memory: available < threshold, ..Pressure::default() };
    if let Ok(disk) = rustix::fs::statvfs(&config.data_dir) {
        pressure.disk_bytes = disk.f_blocks * disk.f_frsize;
        pressure.disk = disk.f_bavail < disk.f_blocks / DISK_AVAILABLE_FRACTION;
    }
    let number = |path: &str| std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    // `/proc/loadavg` holds running/all tasks as its fourth field.
    let tasks = std::fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|text| text.split_whitespace().nth(3)?.split('/').nth(1)?.parse::<u64>().ok());
    if let (Some(tasks), Some(max)) = (tasks, number("/proc/sys/kernel/pid_max")) {
        pressure.pids = tasks > max - max / 10;
    }
    pressure
}

/// `status` of the Node; `before` is the one at the hub, for the times of conditions that did not change.
pub(crate) fn status(
    config: &KubeletConfig,
    machine: &Machine,
    pressure: Pressure,
    ip: Option<IpAddr>,
    port: u16,
    before: &Value,
    now: Timestamp,
) -> Value {
    let mut addresses = Vec::new();
    if let Some(ip) = ip {
        addresses.push(json!({"type": "InternalIP", "address": ip.to_string()}));
    }
    addresses.push(json!({"type": "Hostname", "address": config.node_name}));
    let resources = json!({
        "cpu": quantity_of_millis(machine.cpu_millis),
        "memory": format!("{}Ki", machine.memory_bytes / 1024),
        "ephemeral-storage": format!("{}Ki", pressure.disk_bytes / 1024),
        "pods": config.max_pods.to_string(),
    });
    let conditions: Vec<Value> = [
        ("MemoryPressure", pressure.memory, "KubeletHasInsufficientMemory", "KubeletHasSufficientMemory", "memory"),
        ("DiskPressure", pressure.disk, "KubeletHasDiskPressure", "KubeletHasNoDiskPressure", "disk space"),
        ("PIDPressure", pressure.pids, "KubeletHasInsufficientPID", "KubeletHasSufficientPID", "PIDs"),
    ]
    .into_iter()
    .map(|(name, bad, yes, no, what)| {
        let message = if bad {
            format!("the node is short of {what}")
        } else {
            format!("kubelet has sufficient {what} available")
        };
        condition(before, name, bad, if bad { yes } else { no }, &message, now)
    })
    .chain([condition(before, "Ready", true, "KubeletReady", "kubelet is posting ready status", now)])
    .collect();
    json!({
        "addresses": addresses,
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        "nodeInfo": machine.info,
        "capacity": resources,
        "allocatable": resources,
        "conditions": conditions,
    })
}

fn quantity_of_millis(millis: u64) -> String {
    if millis.is_multiple_of(1000) { (millis / 1000).to_string() } else { format!("{millis}m") }
}

fn condition(before: &Value, name: &str, holds: bool, reason: &str, message: &str, now: Timestamp) -> Value {
    let status = if holds { "True" } else { "False" };
    let old =
        before["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == name && c["status"] == status);
    let since = old.and_then(|c| c["lastTransitionTime"].as_str()).map_or_else(|| seconds(now), str::to_owned);
    json!({
        "type": name, "status": status, "reason": reason, "message": message,
        "lastHeartbeatTime": seconds(now), "lastTransitionTime": since,
    })
}

/// A status without its heartbeats: what must differ to be told.
pub(crate) fn without_heartbeats(status: &Value) -> Value {
    let mut status = status.clone();
    for condition in status["conditions"].as_array_mut().into_iter().flatten() {
        if let Some(condition) = condition.as_object_mut() {
            condition.remove("lastHeartbeatTime");
        }
    }
    status
}

/// Labels that every node has: what the kubelet says of the machine.
fn own_labels(config: &KubeletConfig) -> Map<String, Value> {
    let mut labels = Map::new();
    for prefix in ["kubernetes.io", "beta.kubernetes.io"] {
        labels.insert(format!("{prefix}/os"), "linux".into());
        labels.insert(format!("{prefix}/arch"), architecture().into());
    }
    labels.insert("kubernetes.io/hostname".to_owned(), config.node_name.clone().into());
    labels
}

/// Those, and the labels of the configuration, with which the node registers. As with a stock kubelet they count once:
/// afterwards they are the administrator's.
fn labels(config: &KubeletConfig) -> Map<String, Value> {
    let mut labels = own_labels(config);
    labels.extend(config.labels.iter().map(|(key, value)| (key.clone(), value.clone().into())));
    labels
}

/// What [`run`] works with.
pub(crate) struct Registration {
    pub config: KubeletConfig,
    pub machine: Arc<Machine>,
    pub port: u16,
    pub node_ip: watch::Sender<Option<IpAddr>>,
    pub node_uid: watch::Sender<Option<String>>,
    pub registered: watch::Sender<bool>,
    pub events: Events,
    pub board: Board,
}

/// Registers the node and keeps its status at the hub until `shutdown`.
pub(crate) async fn run(mut hub: Hub, registration: Registration, shutdown: CancellationToken) {
    let mut told = Value::Null;
    let mut told_at: Option<tokio::time::Instant> = None;
    let mut retry = hub.retry();
    let mut is_first = true;
    let mut connection = 0;
    let mut looked_at = Timestamp::now();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = hub.connected() => {}
        }
        if registration.config.node_ip.is_none()
            && let Some(ip) = hub.local_ip()
        {
            registration.node_ip.send_if_modified(|current| current.replace(ip) != Some(ip));
        }
        // While we were away, or the machine slept, the hub may have called the node unreachable: what was told before no
        // longer counts.
        let slept = Timestamp::now().duration_since(looked_at).unsigned_abs() >= registration.config.lease_duration;
        if hub.connection_number() != connection || slept {
            connection = hub.connection_number();
            told_at = None;
        }
        looked_at = Timestamp::now();
        retry.attempt();
        let failed = match step(&hub, &registration, &mut told, &mut told_at).await {
            Ok(()) => {
                retry.succeeded();
                if is_first {
                    is_first = false;
                    info!(node = %registration.config.node_name, "The node is registered and Ready.");
                    let node = &registration.config.node_name;
                    registration.events.node(node, "Starting", "Starting kubelet.");
                    registration.events.node(node, "NodeReady", format!("Node {node} status is now: NodeReady"));
                    registration.registered.send_replace(true);
                }
                false
            }
            Err(error) => {
                told_at = None;
                let text = chain(&error);
                if !error.is_outage() {
                    if retry.failures() == 0 {
                        warn!(error = %text, "Failed to report this node to the hub; trying again.");
                    }
                    registration.board.error(format!("node: {text}"));
                }
                true
            }
        };
        let pause = async { if failed { retry.pause().await } else { retry.rest(LOOK_PERIOD).await } };
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = pause => {}
        }
    }
}

/// One look: registers when needed, and tells the status when it differs or is due.
async fn step(
    hub: &Hub,
    registration: &Registration,
    told: &mut Value,
    told_at: &mut Option<tokio::time::Instant>,
) -> Result<(), HubError> {
    let config = &registration.config;
    let path = format!("/api/v1/nodes/{}", config.node_name);
    if told_at.is_none() {
        let node = register(hub, config, &path).await?;
        let uid = node["metadata"]["uid"].as_str().map(str::to_owned);
        registration.node_uid.send_replace(uid);
        *told = node["status"].clone();
    }
    let pressure = pressure(config, &registration.machine);
    let ip = config.node_ip.or(*registration.node_ip.borrow());
    let next = status(config, &registration.machine, pressure, ip, registration.port, told, Timestamp::now());
    let is_due = told_at.is_none_or(|at| at.elapsed() >= config.status_post_period);
    if !is_due && without_heartbeats(&next) == without_heartbeats(told) {
        return Ok(());
    }
    hub.patch(&format!("{path}/status"), Patch::Strategic, &json!({"status": next})).await?;
    *told = next;
    *told_at = Some(tokio::time::Instant::now());
    Ok(())
}

/// The Node at the hub: made when missing, its labels set right.
async fn register(hub: &Hub, config: &KubeletConfig, path: &str) -> Result<Value, HubError> {
    match hub.get(path).await {
        Ok(node) => {
            let own = own_labels(config);
            if own.iter().all(|(key, value)| node["metadata"]["labels"].get(key) == Some(value)) {
                Ok(node)
            } else {
                hub.patch(path, Patch::Merge, &json!({"metadata": {"labels": own}})).await
            }
        }
        Err(error) if error.code() == Some(404) => {
            let mut node = json!({
                "apiVersion": "v1", "kind": "Node",
                "metadata": {
                    "name": config.node_name, "labels": labels(config),
                    "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
                },
                "spec": {},
            });
            if !config.taints.is_empty() {
                node["spec"]["taints"] = json!(config.taints);
            }
            hub.create("/api/v1/nodes", &node).await
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
