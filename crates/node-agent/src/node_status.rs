//! The Node object: created when it is missing, kept in line with the configuration, its status published when it changes.
//!
//! It is created once per start and per join, as stock kubelets do: an administrator who deletes a Node takes it away, and an agent
//! that put it back would overrule that. A hub that has lost its store is something else: its revisions are lower than what it has
//! said before, nobody has deleted anything, and the Node is created anew.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::AgentConfig;
use crate::hold;
use node_client::{
    ApiClient, ApiError, EventRecorder, NodePressure, Notice, Object, PODS_ON_HOLD, Patch, StatusRegistry, Verified,
    chain, encode, seconds, set_field,
};

/// The status is computed this often and published when it differs.
const RESYNC_PERIOD: Duration = Duration::from_secs(10);

/// What pods may not ask for: the agent with 110 pods and its compiler fit in.
const RESERVED_MEMORY_BYTES: u64 = 64 * 1024 * 1024;
/// The agent's own work, and the system's.
const RESERVED_CPU_MILLIS: u64 = 50;
/// On a small machine the reserve is this part of it.
const RESERVED_FRACTION_MAX: u64 = 16;

/// Images in the Node's status, as other kubelets have it: the status is sent each time one changes.
const IMAGES_MAX: usize = 50;
/// Names of each of them.
const IMAGE_NAMES_MAX: usize = 5;

/// What does not change while the machine runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Thousandths of a core.
    pub cpu_millis: u64,
    /// All of it.
    pub memory_bytes: u64,
    /// `status.nodeInfo`.
    pub info: Value,
    /// The runtimes that pods may ask for, by their names; `""` is that of pods that name none.
    pub runtime_handlers: Vec<String>,
}

impl Machine {
    /// Thousandths of a core that pods may ask for: the agent and the system keep some, a sixteenth at most.
    pub fn allocatable_cpu_millis(&self) -> u64 {
        self.cpu_millis - RESERVED_CPU_MILLIS.min(self.cpu_millis / RESERVED_FRACTION_MAX)
    }

    /// Memory that pods may ask for, likewise.
    pub fn allocatable_memory_bytes(&self) -> u64 {
        self.memory_bytes - RESERVED_MEMORY_BYTES.min(self.memory_bytes / RESERVED_FRACTION_MAX)
    }
}

/// Everything that a node's conditions are derived from.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// What the machine is short of.
    pub pressure: NodePressure,
    /// Size of the disk.
    pub disk_bytes: u64,
    /// What keeps the node from doing its work, by part: it is not Ready.
    pub faults: BTreeMap<String, String>,
    /// What else is so.
    pub conditions: BTreeMap<&'static str, Notice>,
}

/// Conditions that no stock node has.
const OWN_CONDITIONS: [&str; 1] = [PODS_ON_HOLD];

/// Reads the machine.
pub fn machine() -> Machine {
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
        runtime_handlers: Vec::new(),
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

fn disk_bytes(config: &AgentConfig) -> u64 {
    rustix::fs::statvfs(&config.data_dir).map_or(0, |disk| disk.f_blocks * disk.f_frsize)
}

/// `status` of the Node; `before` is the one at the hub, for the times of conditions that did not change.
pub fn status(
    config: &AgentConfig,
    machine: &Machine,
    health: &Health,
    ip: Option<IpAddr>,
    port: u16,
    before: &Value,
    now: Timestamp,
) -> Value {
    let pressure = health.pressure;
    let mut addresses = Vec::new();
    if let Some(ip) = ip {
        addresses.push(json!({"type": "InternalIP", "address": ip.to_string()}));
    }
    addresses.push(json!({"type": "Hostname", "address": config.node_name}));
    let resources = |cpu_millis: u64, memory_bytes: u64| {
        json!({
            "cpu": quantity_of_millis(cpu_millis),
            "memory": format!("{}Ki", memory_bytes / 1024),
            "ephemeral-storage": format!("{}Ki", health.disk_bytes / 1024),
            "pods": config.max_pods.to_string(),
        })
    };
    let conditions: Vec<Value> = [
        (
            "MemoryPressure",
            pressure.memory,
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        (
            "DiskPressure",
            pressure.disk,
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        (
            "PIDPressure",
            pressure.pids,
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
    ]
    .into_iter()
    .map(|(name, is_short, yes, no)| {
        let (reason, message) = if is_short { yes } else { no };
        condition(before, name, is_short, reason, message, now)
    })
    .chain(
        health
            .conditions
            .iter()
            .map(|(name, notice)| condition(before, name, true, notice.reason, &notice.message, now)),
    )
    .chain([match health.faults.is_empty() {
        true => condition(before, "Ready", true, "KubeletReady", "kubelet is posting ready status", now),
        false => {
            let faults: Vec<&str> = health.faults.values().map(String::as_str).collect();
            condition(before, "Ready", false, "KubeletNotReady", &faults.join("; "), now)
        }
    }])
    .chain(published_before(before, &health.conditions, now))
    .collect();
    json!({
        "addresses": addresses,
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        "nodeInfo": machine.info,
        "capacity": resources(machine.cpu_millis, machine.memory_bytes),
        "allocatable": resources(machine.allocatable_cpu_millis(), machine.allocatable_memory_bytes()),
        "conditions": conditions,
        "runtimeHandlers": machine.runtime_handlers.iter().map(|name| runtime_handler(name)).collect::<Vec<_>>(),
    })
}

/// A runtime, with what upstream's schedulers and kubelets ask of it. Users of a pod's own are the business of the node's own runtime, and
/// of a kernel that has them.
fn runtime_handler(name: &str) -> Value {
    let max = std::fs::read_to_string("/proc/sys/user/max_user_namespaces");
    let has_users = name.is_empty() && max.is_ok_and(|max| max.trim() != "0");
    json!({"name": name, "features": {"recursiveReadOnlyMounts": false, "userNamespaces": has_users}})
}

/// Conditions of ours that held and do not any more: a patch keeps what is not named.
fn published_before(before: &Value, now_held: &BTreeMap<&'static str, Notice>, now: Timestamp) -> Vec<Value> {
    let has = |name: &str| before["conditions"].as_array().into_iter().flatten().any(|c| c["type"] == name);
    OWN_CONDITIONS
        .into_iter()
        .filter(|name| !now_held.contains_key(name) && has(name))
        .map(|name| condition(before, name, false, "AsExpected", "", now))
        .collect()
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

/// A status without its heartbeats: what must differ to be published.
pub fn without_heartbeats(status: &Value) -> Value {
    let mut status = status.clone();
    for condition in status.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(condition) = condition.as_object_mut() {
            condition.remove("lastHeartbeatTime");
        }
    }
    status
}

/// Labels that every node has: what the kubelet says of the machine.
fn own_labels(config: &AgentConfig) -> Map<String, Value> {
    let mut labels = Map::new();
    for prefix in ["kubernetes.io", "beta.kubernetes.io"] {
        labels.insert(format!("{prefix}/os"), "linux".into());
        labels.insert(format!("{prefix}/arch"), architecture().into());
    }
    labels.insert("kubernetes.io/hostname".to_owned(), config.node_name.clone().into());
    labels
}

/// Annotations that the node has of itself: where it keeps volumes.
fn own_annotations(config: &AgentConfig) -> Map<String, Value> {
    let directory = config.data_dir.join(api_edge::volumes::DIRECTORY);
    // Without a working directory there is no other name for it.
    let directory = std::path::absolute(&directory).unwrap_or(directory);
    let shown = directory.to_string_lossy().into_owned();
    Map::from_iter([(api_edge::volumes::ANNOTATION_DIRECTORY.to_owned(), shown.into())])
}

/// Those, and the labels of the configuration, with which the node registers. As with a stock kubelet they count once:
/// afterwards they are the administrator's.
fn labels(config: &AgentConfig) -> Map<String, Value> {
    let mut labels = own_labels(config);
    labels.extend(config.labels.iter().map(|(key, value)| (key.clone(), value.clone().into())));
    labels
}

/// What is known of the Node at the hub.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// After how many joins it was there last.
    joins: Option<u64>,
    /// The highest revision that the hub has shown.
    revision: u64,
}

impl Known {
    /// Whether a Node that is not there at `revision` was deleted by somebody.
    fn is_deleted(&self, joins: u64, revision: u64) -> bool {
        self.joins == Some(joins) && revision >= self.revision
    }
}

/// An image that is on the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeImage {
    /// With digests, then with tags.
    pub names: Vec<String>,
    /// Bytes of its files.
    pub size_bytes: u64,
}

/// Lists the images of the node. It may wait for the disk.
pub type ListImages = Arc<dyn Fn() -> Vec<NodeImage> + Send + Sync>;

/// `status.images`: the largest ones, as they help a scheduler most.
fn image_status(mut images: Vec<NodeImage>) -> Value {
    images.sort_by(|one, other| other.size_bytes.cmp(&one.size_bytes).then_with(|| one.names.cmp(&other.names)));
    let listed = images.into_iter().take(IMAGES_MAX).map(|mut image| {
        image.names.truncate(IMAGE_NAMES_MAX);
        json!({"names": image.names, "sizeBytes": image.size_bytes})
    });
    listed.collect()
}

/// What [`run`] works with.
pub struct Registration {
    /// Names, labels, periods.
    pub config: AgentConfig,
    /// What images there are, where the node runs any.
    pub images: Option<ListImages>,
    /// The machine.
    pub machine: Arc<Machine>,
    /// Port of the kubelet's API.
    pub port: u16,
    /// Where the node's address is published.
    pub node_ip: watch::Sender<Option<IpAddr>>,
    /// Where the Node's uid is published.
    pub node_uid: watch::Sender<Option<String>>,
    /// Becomes true once the Node is at the hub.
    pub registered: watch::Sender<bool>,
    /// How often this process has joined a hub.
    pub joins: watch::Receiver<u64>,
    /// What is known of the hub by its Lease.
    pub verified: watch::Receiver<Verified>,
    /// What this process knows of the Node at the hub; outlives [`run`].
    pub known: watch::Sender<Known>,
    /// Events about the Node.
    pub events: EventRecorder,
    /// What is reported of the node.
    pub registry: StatusRegistry,
}

impl Registration {
    /// Remembers how far the hub has come.
    fn look_at_hub(&self) {
        let verified = self.verified.borrow();
        let confirmed = verified.confirmed.revision.max(verified.confirmed.seen);
        let shown = verified.state.as_ref().map_or(0, |state| state.revision).max(confirmed);
        self.known.send_modify(|known| known.revision = known.revision.max(shown));
    }
}

/// Registers the node and keeps its status at the hub until `shutdown`.
pub async fn run(mut hub: ApiClient, registration: &Registration, shutdown: CancellationToken) {
    let mut published = Value::Null;
    let mut published_at: Option<tokio::time::Instant> = None;
    // The Node's metadata as the hub has shown it last.
    let mut shown = Value::Null;
    let mut retry = hub.retry();
    let mut is_first = true;
    // The failure that the log has, until it is over: another one after it is news, however many attempts failed before.
    let mut logged = String::new();
    let mut connection = 0;
    let mut looked_at = Timestamp::now();
    let (mut faults, mut conditions) = (registration.registry.faults(), registration.registry.conditions());
    let mut pressure = registration.registry.pressure();
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
        // While we were away, or the machine slept, the hub may have called the node unreachable: what was published before no
        // longer counts.
        let slept = Timestamp::now().duration_since(looked_at).unsigned_abs() >= registration.config.lease_duration;
        if hub.connection_number() != connection || slept {
            connection = hub.connection_number();
            published_at = None;
        }
        looked_at = Timestamp::now();
        registration.look_at_hub();
        retry.attempt();
        let failed = match step(&hub, registration, &mut published, &mut published_at, &mut shown).await {
            Ok(()) => {
                retry.succeeded();
                logged.clear();
                if is_first {
                    is_first = false;
                    info!(node = %registration.config.node_name, "The node is registered and Ready.");
                    let node = &registration.config.node_name;
                    registration.events.node(node, false, "Starting", "Starting kubelet.");
                    registration.events.node(node, false, "NodeReady", format!("Node {node} status is now: NodeReady"));
                    registration.registered.send_replace(true);
                }
                false
            }
            Err(error) => {
                published_at = None;
                let text = chain(&error);
                if !error.is_outage() {
                    if text != logged {
                        warn!(error = %text, "Failed to report this node to the hub; trying again.");
                        text.clone_into(&mut logged);
                    }
                    registration.registry.error(format!("node: {text}"));
                }
                true
            }
        };
        let pause = async { if failed { retry.pause().await } else { retry.rest(RESYNC_PERIOD).await } };
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = pause => {}
            // The registry outlives this task, so neither channel closes.
            Ok(()) = faults.changed() => {}
            Ok(()) = conditions.changed() => {}
            Ok(()) = pressure.changed() => {}
        }
    }
}

/// One look: registers when needed, and says the status when it differs or is due.
async fn step(
    hub: &ApiClient,
    registration: &Registration,
    published: &mut Value,
    published_at: &mut Option<tokio::time::Instant>,
    shown: &mut Value,
) -> Result<(), ApiError> {
    let config = &registration.config;
    let path = format!("/api/v1/nodes/{}", config.node_name);
    if published_at.is_none() {
        let node = register(hub, registration, &path).await?;
        let joins = *registration.joins.borrow();
        registration.known.send_modify(|known| known.joins = Some(joins));
        let uid = Some(node.uid()).filter(|uid| !uid.is_empty()).map(str::to_owned);
        registration.node_uid.send_replace(uid);
        *published = node.field("status").clone();
        *shown = json!({"metadata": node.field("metadata")});
    }
    let data_dir = config.data_dir.clone();
    let held = tokio::task::spawn_blocking(move || hold::held(&data_dir, Timestamp::now())).await.ok().flatten();
    if let Some(patch) = hold::patch(shown, held.as_deref()) {
        match hub.patch(&path, Patch::Merge, &patch).await {
            Ok(node) => {
                *shown = node;
                match &held {
                    Some(until) => info!(%until, "The owner of this box holds updates."),
                    None => info!("Updates are released."),
                }
            }
            Err(error) if error.is_outage() => return Err(error),
            // A node that may not say this must still say that it is alive.
            Err(error) => registration.registry.error(format!("hold-updates: {}", chain(&error))),
        }
    }
    let registry = &registration.registry;
    let health = Health {
        pressure: *registry.pressure().borrow(),
        disk_bytes: disk_bytes(config),
        faults: registry.faults().borrow().clone(),
        conditions: registry.conditions().borrow().clone(),
    };
    let ip = config.node_ip.or(*registration.node_ip.borrow());
    let mut next = status(config, &registration.machine, &health, ip, registration.port, published, Timestamp::now());
    if let Some(list) = registration.images.clone()
        && let Ok(images) = tokio::task::spawn_blocking(move || image_status(list())).await
    {
        set_field(&mut next, "images", images);
    }
    let is_due = published_at.is_none_or(|at| at.elapsed() >= config.status_post_period);
    if !is_due && without_heartbeats(&next) == without_heartbeats(published) {
        return Ok(());
    }
    // Whoever changed what the owner said of updates is answered with the next look.
    *shown = hub.patch(&format!("{path}/status"), Patch::Strategic, &json!({"status": next})).await?;
    *published = next;
    *published_at = Some(tokio::time::Instant::now());
    Ok(())
}

/// The Node at the hub: made when missing, its labels set right.
async fn register(hub: &ApiClient, registration: &Registration, path: &str) -> Result<Object, ApiError> {
    let config = &registration.config;
    let read = |act: &str, value| Object::of_kind(value, "Node").map_err(|error| ApiError::unreadable(act, &error));
    match hub.get(path, "Node").await {
        Ok(node) => {
            let (labels, annotations) = (own_labels(config), own_annotations(config));
            let has = |field: &str, own: &Map<String, Value>| {
                own.iter().all(|(key, value)| node.field("metadata")[field].get(key) == Some(value))
            };
            if has("labels", &labels) && has("annotations", &annotations) {
                Ok(node)
            } else {
                let patch = json!({"metadata": {"labels": labels, "annotations": annotations}});
                read("PATCH node", hub.patch(path, Patch::Merge, &patch).await?)
            }
        }
        Err(error) if error.code() == Some(404) => {
            let joins = *registration.joins.borrow();
            let known = *registration.known.borrow();
            if known.joins == Some(joins) {
                let name = encode(&format!("metadata.name={}", config.node_name));
                let list = hub.list(&format!("/api/v1/nodes?fieldSelector={name}&limit=1"), "Node").await?.list;
                if list.items.is_empty() && known.is_deleted(joins, list.resource_version.parse().unwrap_or(0)) {
                    return Err(ApiError::Status {
                        act: "GET node".to_owned(),
                        code: 404,
                        reason: "NotFound".to_owned(),
                        message: format!(
                            "node {:?} was deleted; its pods run on, and it is registered again when it is started again",
                            config.node_name
                        ),
                        fields: Vec::new(),
                    });
                }
            }
            let mut annotations = own_annotations(config);
            annotations.insert("volumes.kubernetes.io/controller-managed-attach-detach".to_owned(), "true".into());
            let mut node = json!({
                "apiVersion": "v1", "kind": "Node",
                "metadata": {"name": config.node_name, "labels": labels(config), "annotations": annotations},
                "spec": {},
            });
            if !config.taints.is_empty() {
                set_field(&mut node, "spec", json!({"taints": config.taints}));
            }
            read("POST node", hub.create("/api/v1/nodes", &node).await?)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
