//! Resources of a pod that change while it runs: what is desired, what the node has given, and what is in force.
//!
//! - **Desired** is the pod as its hub has it.
//! - **Given** is the pod that a worker has: the desired one, or as long as the node has not got that much, the one before with the reason
//!   why ([`ResizePending`]). Whatever starts, starts with that.
//! - **In force** is what the runtime says of each container. Where that is not what is given the worker changes it, or restarts the
//!   container where it says so (`resizePolicy`).
//!
//! Nothing else is remembered: an agent that starts again takes what is in force for what was given, and compares it with what is desired.

use std::collections::BTreeMap;

use node_runtime::{ContainerResources, ContainerStatus, Limits, Requests};

use crate::admission::{limits, pod_resources, promised};
use crate::model::{Container, Pod, Quantity, Resources};

/// Why a pod has not got what it is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResizePending {
    /// One word: [`INFEASIBLE`] or [`DEFERRED`].
    pub reason: &'static str,
    pub message: String,
}

/// The node has not got as much.
pub(crate) const INFEASIBLE: &str = "Infeasible";
/// Others have it.
pub(crate) const DEFERRED: &str = "Deferred";

/// What a container is to have.
pub(crate) fn given(pod: &Pod, container: &Container) -> ContainerResources {
    ContainerResources { limits: limits(container), requests: promised(container), pod: pod_resources(pod) }
}

/// Whether a container runs with something else than it is to have.
pub(crate) fn differs(container: &Container, status: &ContainerStatus) -> bool {
    (limits(container), promised(container)) != (status.limits, status.requests)
}

/// Whether a container takes what is different after a restart only.
pub(crate) fn needs_restart(container: &Container, status: &ContainerStatus) -> bool {
    let (limits, requests) = (limits(container), promised(container));
    let is_restarted = |resource: &str| {
        let policy = container.resize_policy.iter().find(|policy| policy.resource_name == resource);
        policy.is_some_and(|policy| policy.restart_policy == "RestartContainer")
    };
    let cpu = (limits.cpu_millis, requests.cpu_millis) != (status.limits.cpu_millis, status.requests.cpu_millis);
    let memory =
        (limits.memory_bytes, requests.memory_bytes) != (status.limits.memory_bytes, status.requests.memory_bytes);
    cpu && is_restarted("cpu") || memory && is_restarted("memory")
}

/// Whether two versions of a pod are to have the same.
pub(crate) fn is_same(one: &Pod, other: &Pod) -> bool {
    let of = |pod: &Pod| -> Vec<(String, Limits, Requests)> {
        pod.all_containers().map(|one| (one.name.clone(), limits(one), promised(one))).collect()
    };
    of(one) == of(other)
}

/// The pod with the resources of another version of it.
pub(crate) fn with_resources_of(mut pod: Pod, given: &Pod) -> Pod {
    for container in pod.all_containers_mut() {
        if let Some(known) = given.container(&container.name) {
            container.resources = known.resources.clone();
        }
    }
    pod
}

/// What a container runs with. Only CPU and memory are resized; of all else it has what is desired.
pub(crate) fn in_force(container: &Container, status: &ContainerStatus) -> Resources {
    type Amounts = BTreeMap<String, Quantity>;
    let amounts = |desired: &Amounts, cpu_millis: Option<u64>, memory_bytes: Option<u64>| -> Amounts {
        let cpu = cpu_millis.map(|millis| match millis % 1000 {
            0 => (millis / 1000).to_string(),
            _ => format!("{millis}m"),
        });
        let memory = memory_bytes.map(|bytes| match bytes % (1 << 20) {
            0 if bytes > 0 => format!("{}Mi", bytes >> 20),
            _ => bytes.to_string(),
        });
        let named = [("cpu", cpu), ("memory", memory)].into_iter();
        let given = named.filter_map(|(name, amount)| Some((name.to_owned(), Quantity::Text(amount?))));
        let others = desired.iter().filter(|(name, _)| !matches!(name.as_str(), "cpu" | "memory"));
        given.chain(others.map(|(name, amount)| (name.clone(), amount.clone()))).collect()
    };
    let desired = &container.resources;
    Resources {
        limits: amounts(&desired.limits, status.limits.cpu_millis, status.limits.memory_bytes),
        requests: amounts(&desired.requests, status.requests.cpu_millis, status.requests.memory_bytes),
    }
}

/// The pod with what is in force of its containers.
pub(crate) fn with_resources_in_force(mut pod: Pod, statuses: &[ContainerStatus]) -> Pod {
    for container in pod.all_containers_mut() {
        let of = statuses.iter().filter(|status| status.id.container == container.name);
        if let Some(status) = of.max_by_key(|status| status.id.attempt)
            && differs(container, status)
        {
            container.resources = in_force(container, status);
        }
    }
    pod
}

#[cfg(test)]
mod tests;
