//! Which pods this node takes. What it cannot do is refused at once, saying why, instead of half done.

use node_runtime::{ContainerSpec, Limits, PodRef, PodRuntime, RuntimeError};

use super::model::{Container, Pod, Quantity};
use crate::Runtimes;

/// Why a pod is refused: `status.reason` and `status.message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub reason: &'static str,
    pub message: String,
}

/// What the node can give, and what admitted pods have asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Room {
    pub cpu_millis: u64,
    pub memory_bytes: u64,
    pub pods: u64,
}

/// What a pod asks for, as a scheduler counts it.
pub(crate) fn requests(pod: &Pod) -> Room {
    let of = |container: &Container, resource: &str| {
        let resources = &container.resources;
        let asked = resources.requests.get(resource).or_else(|| resources.limits.get(resource));
        asked.and_then(Quantity::millis).unwrap_or(0)
    };
    let total = |resource: &str| {
        let apps: u64 =
            pod.spec.containers.iter().map(|container| of(container, resource)).fold(0, u64::saturating_add);
        // Init containers run one at a time, before the others.
        let init = pod.spec.init_containers.iter().map(|container| of(container, resource)).max().unwrap_or(0);
        apps.max(init)
    };
    Room { cpu_millis: total("cpu"), memory_bytes: total("memory").div_ceil(1000), pods: 1 }
}

/// Chooses the runtime of a pod, or says why there is none.
pub(crate) fn runtime_for<'a>(
    pod: &Pod,
    runtimes: &'a Runtimes,
) -> Result<&'a std::sync::Arc<dyn PodRuntime>, Refusal> {
    let refuse = |message: String| Err(Refusal { reason: "UnsupportedRuntime", message });
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

/// Whether `pod` can run here, beside what `used` already does of `node`.
pub(crate) fn admit(pod: &Pod, runtime: &dyn PodRuntime, node: Room, used: Room) -> Result<(), Refusal> {
    for container in pod.all_containers() {
        check_features(container)?;
        match runtime.check(&outline(pod, container)) {
            Ok(()) => {}
            // An image that is missing may be put in place later; it is no reason to refuse the pod.
            Err(RuntimeError::Image { .. }) => {}
            Err(error @ RuntimeError::ImageNotAllowed { .. }) => {
                return Err(Refusal { reason: "ImageNotAllowed", message: error.to_string() });
            }
            Err(error) => return Err(Refusal { reason: "UnsupportedPod", message: crate::report::chain(&error) }),
        }
    }
    let asked = requests(pod);
    let fits = |reason, what: &str, asked: u64, used: u64, room: u64, unit: &str| {
        if used.saturating_add(asked) <= room {
            return Ok(());
        }
        let message =
            format!("the pod asks for {asked}{unit} of {what}; {used}{unit} of the node's {room}{unit} are taken");
        Err(Refusal { reason, message })
    };
    fits("OutOfpods", "pods", asked.pods, used.pods, node.pods, "")?;
    fits("OutOfcpu", "cpu", asked.cpu_millis, used.cpu_millis, node.cpu_millis, "m")?;
    fits("OutOfmemory", "memory", asked.memory_bytes, used.memory_bytes, node.memory_bytes, " bytes")
}

fn check_features(container: &Container) -> Result<(), Refusal> {
    let refuse = |what: &str| {
        let message = format!("container \"{}\" asks for {what}, which this node does not have", container.name);
        Err(Refusal { reason: "UnsupportedPod", message })
    };
    let probes = [&container.startup_probe, &container.liveness_probe, &container.readiness_probe];
    if probes.into_iter().flatten().any(|probe| probe.grpc.is_some()) {
        return refuse("a gRPC probe");
    }
    if let Some(lifecycle) = &container.lifecycle {
        if !lifecycle["postStart"].is_null() {
            return refuse("a postStart hook");
        }
        if !lifecycle["preStop"].is_null() && lifecycle["preStop"]["exec"].is_null() {
            return refuse("a preStop hook other than exec");
        }
    }
    Ok(())
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

pub(crate) fn limits(container: &Container) -> Limits {
    let limit = |resource: &str| container.resources.limits.get(resource);
    Limits {
        cpu_millis: limit("cpu").and_then(Quantity::millis).filter(|millis| *millis > 0),
        memory_bytes: limit("memory").and_then(Quantity::units).filter(|bytes| *bytes > 0),
        pids: None,
    }
}
