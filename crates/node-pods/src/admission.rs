//! Which pods this node takes. What it cannot do is refused at once, saying why, instead of half done.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use api_kube::QosClass;
use node_client::NodePressure;
use node_runtime::{
    ContainerSpec, HostNamespaces, HostPort, Limits, PodRef, PodResources, PodRuntime, PodSpec, PortProtocol, Requests,
    RuntimeError,
};

use super::model::{Container, ContainerPort, Pod, Quantity, Sysctl};
use crate::Runtimes;

/// Reason of a pod whose runtime class no runtime here answers to. It stays Pending: a version that has one begins with it anew.
pub(crate) const UNSUPPORTED_RUNTIME: &str = "UnsupportedRuntime";
/// Reason of a pod that asks for what this node does not have.
pub(crate) const UNSUPPORTED_POD: &str = "UnsupportedPod";

/// Reason of a pod that the node is too short of something to keep.
pub(crate) const EVICTED: &str = "Evicted";

/// Why a pod is refused: `status.reason` and `status.message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AdmissionError {
    pub reason: Cow<'static, str>,
    pub message: String,
}

/// Amounts by the names of resources: thousandths of `cpu`, whole units of all others. What the node can give, and what pods take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resources(BTreeMap<String, u64>);

impl Resources {
    /// Of these names and amounts.
    pub(crate) fn of(amounts: impl IntoIterator<Item = (&'static str, u64)>) -> Self {
        Self(amounts.into_iter().map(|(name, amount)| (name.to_owned(), amount)).collect())
    }

    /// How much there is of a resource; nothing of one that is not named.
    pub(crate) fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Adds those of another.
    pub(crate) fn add(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let sum = self.0.entry(name.clone()).or_default();
            *sum = sum.saturating_add(*amount);
        }
    }
}

/// What a pod takes of one resource at most at a time, from what each of its containers takes.
pub(crate) fn total(pod: &Pod, of: impl Fn(&Container) -> u64) -> u64 {
    let apps: u64 = pod.spec.containers.iter().map(&of).fold(0, u64::saturating_add);
    // Init containers run one at a time, before the others, each beside the sidecars that were started before it.
    let (mut sidecars, mut init) = (0_u64, 0_u64);
    for container in &pod.spec.init_containers {
        let taken = of(container);
        match container.is_sidecar() {
            true => sidecars = sidecars.saturating_add(taken),
            false => init = init.max(sidecars.saturating_add(taken)),
        }
    }
    apps.saturating_add(sidecars).max(init)
}

/// What a pod asks for, as a scheduler counts it.
pub(crate) fn requests(pod: &Pod) -> Resources {
    let named = |container: &Container| {
        let resources = &container.resources;
        resources.requests.keys().chain(resources.limits.keys()).cloned().collect::<Vec<_>>()
    };
    let mut requested = Resources(pod.all_containers().flat_map(named).map(|name| (name, 0)).collect());
    for (name, amount) in &mut requested.0 {
        let of = |container: &Container| {
            let resources = &container.resources;
            let asked = resources.requests.get(name).or_else(|| resources.limits.get(name));
            asked.and_then(if name == "cpu" { Quantity::millis } else { Quantity::units }).unwrap_or(0)
        };
        *amount = total(pod, of);
    }
    requested.0.insert("pods".to_owned(), 1);
    requested
}

/// Chooses the runtime of a pod, or says why there is none.
pub(crate) fn runtime_for<'a>(
    pod: &Pod,
    runtimes: &'a Runtimes,
) -> Result<&'a std::sync::Arc<dyn PodRuntime>, AdmissionError> {
    let refuse = |message: String| Err(AdmissionError { reason: UNSUPPORTED_RUNTIME.into(), message });
    let of_a_class = || runtimes.iter().filter(|runtime| runtime.handler() != api_edge::RUNTIME_CONTAINER);
    let offered = || of_a_class().map(|runtime| runtime.handler()).collect::<Vec<_>>().join(", ");
    match pod.spec.runtime_class_name.as_deref() {
        None | Some("") => {
            let images = runtimes.iter().find(|runtime| runtime.handler() == api_edge::RUNTIME_CONTAINER);
            images.map_or_else(
                || {
                    refuse(format!(
                        "this node runs no container images, for which it has to run as root; set spec.runtimeClassName to one of: {}",
                        offered()
                    ))
                },
                Ok,
            )
        }
        Some(class) => match of_a_class().find(|runtime| runtime.handler() == class) {
            Some(runtime) => Ok(runtime),
            None => refuse(format!("this node has no runtime for runtimeClassName \"{class}\"; it has: {}", offered())),
        },
    }
}

/// The first resource that is not there, with how much of it is requested, and how much there is.
pub(crate) fn missing<'a>(requested: &'a Resources, used: &Resources, node: &Resources) -> Option<(&'a str, u64, u64)> {
    // Whoever asks for nothing is not kept out by others who have it all.
    let is_there = |name: &str, amount: u64| amount == 0 || used.get(name).saturating_add(amount) <= node.get(name);
    let (name, amount) = requested.0.iter().find(|(name, amount)| !is_there(name, **amount))?;
    Some((name, *amount, node.get(name)))
}

/// Whether what a pod requests is there, beside what `used` already takes of `node`.
pub(crate) fn fits(requested: &Resources, used: &Resources, node: &Resources) -> Result<(), AdmissionError> {
    if let Some((name, amount, all)) = missing(requested, used, node) {
        let used = used.get(name);
        let unit = match name {
            "cpu" => "m",
            "memory" | "ephemeral-storage" => " bytes",
            _ => "",
        };
        let message = format!(
            "the pod asks for {amount}{unit} of {name}; {used}{unit} of the {all}{unit} that the node gives to pods are taken"
        );
        return Err(AdmissionError { reason: format!("OutOf{name}").into(), message });
    }
    Ok(())
}

/// Whether the runtime can start the pod's containers here, as far as that is known before they are started. May touch the disk.
pub(crate) fn check_runtime(pod: &Pod, runtime: &dyn PodRuntime) -> Result<(), AdmissionError> {
    for container in pod.all_containers() {
        match runtime.check(&outline(pod, container)) {
            Ok(()) => {}
            // An image that is missing may be put in place later; it is no reason to reject the pod.
            Err(RuntimeError::Image { .. }) => {}
            Err(error @ RuntimeError::ImageNotAllowed { .. }) => {
                return Err(AdmissionError { reason: "ImageNotAllowed".into(), message: error.to_string() });
            }
            Err(error) => {
                return Err(AdmissionError { reason: UNSUPPORTED_POD.into(), message: node_client::chain(&error) });
            }
        }
    }
    Ok(())
}

/// Whether this node does all that the pod asks for: what it would ignore is rejected, each field by its name. A hub of ours has
/// done so already; another control plane knows nothing of these runtimes.
pub(crate) fn check_features(pod: &[u8], handler: &str) -> Result<(), AdmissionError> {
    let pod: serde_json::Value = serde_json::from_slice(pod).unwrap_or_default();
    let runtime = api_pod::Runtime::of_handler(handler);
    let unsupported = api_pod::unsupported(&pod["spec"], "spec", runtime);
    if unsupported.is_empty() {
        return Ok(());
    }
    let faults: Vec<String> = unsupported.iter().map(|fault| format!("{}: {}", fault.path, fault.message)).collect();
    Err(AdmissionError { reason: UNSUPPORTED_POD.into(), message: faults.join("; ") })
}

/// Whether a node that is short of something takes a pod more: the most important ones always, and those that are promised memory
/// while it is memory that is short; in upstream's words.
pub(crate) fn check_pressure(pod: &Pod, pressure: NodePressure) -> Result<(), AdmissionError> {
    if pressure.is_shutting_down {
        let message = "Pod was rejected as the node is shutting down.".to_owned();
        return Err(AdmissionError { reason: "NodeShutdown".into(), message });
    }
    let conditions =
        [("MemoryPressure", pressure.memory), ("DiskPressure", pressure.disk), ("PIDPressure", pressure.pids)];
    let short: Vec<&str> = conditions.into_iter().filter(|(_, is_short)| *is_short).map(|(name, _)| name).collect();
    let is_promised = || pod.qos_class() != QosClass::BestEffort || pod.tolerates_memory_pressure();
    if short.is_empty() || pod.is_critical() || (short == ["MemoryPressure"] && is_promised()) {
        return Ok(());
    }
    let message = format!("The node had condition: [{}]. ", short.join(" "));
    Err(AdmissionError { reason: EVICTED.into(), message })
}

/// Whether a runtime, by the name it has here, makes the containers of images.
pub(crate) fn runs_images(handler: &str) -> bool {
    api_pod::Runtime::of_handler(handler) == api_pod::Runtime::Container
}

/// Whether the kernel parameters that a pod sets are its own alone; in upstream's words.
pub(crate) fn check_sysctls(pod: &Pod) -> Result<(), AdmissionError> {
    let is_safe = |sysctl: &&Sysctl| node_runtime::SAFE_SYSCTLS.contains(&sysctl.dotted_name().as_str());
    match pod.spec.security_context.sysctls.iter().find(|sysctl| !is_safe(sysctl)) {
        None => Ok(()),
        Some(sysctl) => {
            let message = format!("forbidden sysctl: \"{}\" not allowlisted", sysctl.dotted_name());
            Err(AdmissionError { reason: "SysctlForbidden".into(), message })
        }
    }
}

/// What is known of a container before its volumes and variables are.
fn outline(pod: &Pod, container: &Container) -> ContainerSpec {
    ContainerSpec {
        pod: pod_ref(pod),
        container: container.name.clone(),
        image: container.image.clone(),
        command: container.command.clone(),
        limits: limits(container),
        ..ContainerSpec::default()
    }
}

pub(crate) fn pod_ref(pod: &Pod) -> PodRef {
    let metadata = &pod.metadata;
    PodRef { uid: metadata.uid.clone(), namespace: metadata.namespace.clone(), name: metadata.name.clone() }
}

/// The node's ports that a pod asks for.
pub(crate) fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let ports = pod.all_containers().flat_map(|container| &container.ports).filter(|port| port.host_port > 0);
    let host_port = |port: &ContainerPort| HostPort {
        // As upstream: all of the node's addresses are written so as well.
        host_ip: port.host_ip.as_deref().and_then(|ip| ip.parse().ok()).filter(|ip: &IpAddr| !ip.is_unspecified()),
        host_port: port.host_port,
        container_port: port.container_port,
        protocol: match port.protocol.as_deref() {
            Some("UDP") => PortProtocol::Udp,
            Some("SCTP") => PortProtocol::Sctp,
            _ => PortProtocol::Tcp,
        },
    };
    ports.map(host_port).collect()
}

/// Rejects a pod that asks for a port of the node which one of these pods has, in upstream's words.
pub(crate) fn check_host_ports<'a>(pod: &Pod, others: impl Iterator<Item = &'a Pod>) -> Result<(), AdmissionError> {
    let desired = host_ports(pod);
    if desired.is_empty() {
        return Ok(());
    }
    let taken: Vec<HostPort> = others.flat_map(host_ports).collect();
    let collide = |one: &HostPort, other: &HostPort| {
        (one.host_port, one.protocol) == (other.host_port, other.protocol)
            && (one.host_ip.is_none() || other.host_ip.is_none() || one.host_ip == other.host_ip)
    };
    if !desired.iter().any(|one| taken.iter().any(|other| collide(one, other))) {
        return Ok(());
    }
    let message = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
    Err(AdmissionError { reason: "NodePorts".into(), message: message.to_owned() })
}

/// What a runtime sets up for a pod as a whole. `addresses` are those that it had before, `domain` is the cluster's.
pub(crate) fn pod_spec(pod: &Pod, addresses: Vec<IpAddr>, domain: &str) -> PodSpec {
    let sysctls = &pod.spec.security_context.sysctls;
    PodSpec {
        pod: pod_ref(pod),
        resources: pod_resources(pod),
        hostname: pod.kernel_hostname(domain),
        host: HostNamespaces { network: pod.spec.host_network, ipc: pod.spec.host_ipc },
        own_users: pod.spec.host_users == Some(false),
        shares_processes: pod.spec.share_process_namespace,
        host_ports: host_ports(pod),
        addresses,
        sysctls: sysctls.iter().map(|sysctl| (sysctl.dotted_name(), sysctl.value.clone())).collect(),
    }
}

/// What a container is promised: its requests, or its limits where it has none.
pub(crate) fn promised(container: &Container) -> Requests {
    let resources = &container.resources;
    let of = |resource: &str| resources.requests.get(resource).or_else(|| resources.limits.get(resource));
    Requests { cpu_millis: of("cpu").and_then(Quantity::millis), memory_bytes: of("memory").and_then(Quantity::units) }
}

/// What all containers of a pod get together. A limit of all only where each has one, init containers among them: one that is
/// larger than those of the app holds while it runs, and one that has none may take all there is.
pub(crate) fn pod_resources(pod: &Pod) -> PodResources {
    let limit = |of: fn(&Limits) -> Option<u64>| {
        let is_limited = pod.all_containers().all(|container| of(&limits(container)).is_some());
        is_limited.then(|| total(pod, |container| of(&limits(container)).unwrap_or(0)))
    };
    let requested = requests(pod);
    PodResources {
        cpu_request_millis: Some(requested.get("cpu")).filter(|millis| *millis > 0),
        cpu_limit_millis: limit(|limits| limits.cpu_millis),
        memory_limit_bytes: limit(|limits| limits.memory_bytes),
        pids_max: None,
    }
}

pub(crate) fn limits(container: &Container) -> Limits {
    let limit = |resource: &str| container.resources.limits.get(resource);
    Limits {
        cpu_millis: limit("cpu").and_then(Quantity::millis).filter(|millis| *millis > 0),
        memory_bytes: limit("memory").and_then(Quantity::units).filter(|bytes| *bytes > 0),
        pids: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_that_is_short_takes_what_it_must() {
        let memory = NodePressure { memory: true, ..NodePressure::default() };
        let disk = NodePressure { disk: true, ..NodePressure::default() };
        let both = NodePressure { memory: true, disk: true, ..NodePressure::default() };
        let shutdown = NodePressure { is_shutting_down: true, ..NodePressure::default() };
        let besteffort = json!({"containers": [{"name": "a"}]});
        let burstable = json!({"containers": [{"name": "a", "resources": {"requests": {"memory": "1"}}}]});
        let tolerant = json!({"tolerations": [{"key": "node.kubernetes.io/memory-pressure", "operator": "Exists", "effect": "NoSchedule"}]});
        let of_another = json!({"tolerations": [{"key": "node.kubernetes.io/disk-pressure", "operator": "Exists"}]});
        let critical = json!({"priority": 2_000_001_000});
        let check = |spec: &serde_json::Value, pressure, expected: Option<&str>| {
            let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
            let found = check_pressure(&pod, pressure).err().map(|error| error.message);
            assert_eq!(found.as_deref(), expected, "{spec} {pressure:?}");
        };
        check(&besteffort, NodePressure::default(), None);
        check(&besteffort, memory, Some("The node had condition: [MemoryPressure]. "));
        check(&burstable, memory, None);
        check(&tolerant, memory, None);
        check(&of_another, memory, Some("The node had condition: [MemoryPressure]. "));
        check(&burstable, disk, Some("The node had condition: [DiskPressure]. "));
        check(&burstable, both, Some("The node had condition: [MemoryPressure DiskPressure]. "));
        check(&critical, both, None);
        check(&critical, shutdown, Some("Pod was rejected as the node is shutting down."));
    }
}
