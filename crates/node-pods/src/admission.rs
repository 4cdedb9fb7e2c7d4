//! Which pods this node takes. What it cannot do is refused at once, saying why, instead of half done.

use node_runtime::{ContainerSpec, Limits, PodRef, PodResources, PodRuntime, Requests, RuntimeError};

use super::model::{Container, Pod, Quantity};
use crate::Runtimes;

/// Reason of a pod whose runtime class no runtime here answers to. It stays Pending: a version that has one begins with it anew.
pub(crate) const UNSUPPORTED_RUNTIME: &str = "UnsupportedRuntime";
/// Reason of a pod that asks for what this node does not have.
pub(crate) const UNSUPPORTED_POD: &str = "UnsupportedPod";

/// Why a pod is refused: `status.reason` and `status.message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AdmissionError {
    pub reason: &'static str,
    pub message: String,
}

/// What the node can give, and what admitted pods have asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Capacity {
    pub cpu_millis: u64,
    pub memory_bytes: u64,
    pub pods: u64,
}

impl Capacity {
    /// Both together.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.saturating_add(other.cpu_millis),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
            pods: self.pods.saturating_add(other.pods),
        }
    }
}

/// What a pod takes of one resource at most at a time, from what each of its containers takes.
fn total(pod: &Pod, of: impl Fn(&Container) -> u64) -> u64 {
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
pub(crate) fn requests(pod: &Pod) -> Capacity {
    let of = |container: &Container, resource: &str| {
        let resources = &container.resources;
        let asked = resources.requests.get(resource).or_else(|| resources.limits.get(resource));
        asked.and_then(Quantity::millis).unwrap_or(0)
    };
    let total = |resource: &str| total(pod, |container| of(container, resource));
    Capacity { cpu_millis: total("cpu"), memory_bytes: total("memory").div_ceil(1000), pods: 1 }
}

/// Chooses the runtime of a pod, or says why there is none.
pub(crate) fn runtime_for<'a>(
    pod: &Pod,
    runtimes: &'a Runtimes,
) -> Result<&'a std::sync::Arc<dyn PodRuntime>, AdmissionError> {
    let refuse = |message: String| Err(AdmissionError { reason: UNSUPPORTED_RUNTIME, message });
    let offered = || runtimes.iter().map(|runtime| runtime.handler()).collect::<Vec<_>>().join(", ");
    match pod.spec.runtime_class_name.as_deref() {
        None | Some("") => refuse(format!(
            "this node does not run container images yet; set spec.runtimeClassName to one of: {}",
            offered()
        )),
        Some(class) => match runtimes.iter().find(|runtime| runtime.handler() == class) {
            Some(runtime) => Ok(runtime),
            None => refuse(format!("this node has no runtime for runtimeClassName \"{class}\"; it has: {}", offered())),
        },
    }
}

/// Whether what a pod requests is there, beside what `used` already takes of `node`.
pub(crate) fn fits(requested: Capacity, used: Capacity, node: Capacity) -> Result<(), AdmissionError> {
    let fits = |reason, what: &str, requested: u64, used: u64, capacity: u64, unit: &str| {
        if used.saturating_add(requested) <= capacity {
            return Ok(());
        }
        let message = format!(
            "the pod asks for {requested}{unit} of {what}; {used}{unit} of the node's {capacity}{unit} are taken"
        );
        Err(AdmissionError { reason, message })
    };
    fits("OutOfpods", "pods", requested.pods, used.pods, node.pods, "")?;
    fits("OutOfcpu", "cpu", requested.cpu_millis, used.cpu_millis, node.cpu_millis, "m")?;
    fits("OutOfmemory", "memory", requested.memory_bytes, used.memory_bytes, node.memory_bytes, " bytes")
}

/// Whether the runtime can start the pod's containers here, as far as that is known before they are started. May touch the disk.
pub(crate) fn check_runtime(pod: &Pod, runtime: &dyn PodRuntime) -> Result<(), AdmissionError> {
    for container in pod.all_containers() {
        match runtime.check(&outline(pod, container)) {
            Ok(()) => {}
            // An image that is missing may be put in place later; it is no reason to reject the pod.
            Err(RuntimeError::Image { .. }) => {}
            Err(error @ RuntimeError::ImageNotAllowed { .. }) => {
                return Err(AdmissionError { reason: "ImageNotAllowed", message: error.to_string() });
            }
            Err(error) => return Err(AdmissionError { reason: UNSUPPORTED_POD, message: node_client::chain(&error) }),
        }
    }
    Ok(())
}

/// Whether this node does all that the pod asks for: what it would ignore is rejected, each field by its name. A hub of ours has
/// done so already; another control plane knows nothing of these runtimes.
pub(crate) fn check_features(pod: &[u8]) -> Result<(), AdmissionError> {
    let pod: serde_json::Value = serde_json::from_slice(pod).unwrap_or_default();
    let Some(runtime) = api_pod::Runtime::of_spec(&pod["spec"]) else { return Ok(()) };
    let unsupported = api_pod::unsupported(&pod["spec"], "spec", runtime);
    if unsupported.is_empty() {
        return Ok(());
    }
    let faults: Vec<String> = unsupported.iter().map(|fault| format!("{}: {}", fault.path, fault.message)).collect();
    Err(AdmissionError { reason: UNSUPPORTED_POD, message: faults.join("; ") })
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
        cpu_request_millis: Some(requested.cpu_millis).filter(|millis| *millis > 0),
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
