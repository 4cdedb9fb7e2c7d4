//! The hub's controllers: what should exist because something else does.
//!
//! **Where is it?** One module per controller, all of one shape: `observe` (which keys does this change concern?) and
//! `reconcile` (what does this key need?), around decisions that are plain functions on data. What they run on is
//! [`hub_runtime`].
//!
//! | module | key | what |
//! | --- | --- | --- |
//! | `bootstrap` | | namespaces, runtime classes, the default StorageClass and our own kinds, before anything else |
//! | `namespaces` | namespace | a service account in each; an end that takes the content along |
//! | `csr` | request | certificates of nodes, and the end of old requests |
//! | `garbage` | object | what has lost its owners goes; owners that wait for their dependents |
//! | `podgc` | pod | pods that no kubelet answers for |
//! | `nodes` | node | nodes are tainted as their leases and conditions are; leases of deleted nodes go |
//! | `duplicates` | node | two boxes that speak as one node are named |
//! | `endpoints` | Service | EndpointSlices and Endpoints: which pods answer for it |
//! | `endpointslicemirroring` | Endpoints | EndpointSlices of Endpoints that somebody else writes |
//! | `unreachable` | node | pods of a node that is out of reach are not ready |
//! | `protection` | claim, volume or class | what is in use is not deleted before its last user |
//! | `assignments` | node, or fleet object | devices, streams, rules, exports and the Services of its pods' namespaces become one `NodeAssignment` per node; what nodes report is summed up |
//!
//! **May I touch it?** Yes, within three rules. A controller is level-triggered: a run reads what should be and what is,
//! takes idempotent steps, and writes nothing when there is nothing to do; a restart of the hub runs every key once. It
//! keeps no copy of objects: it holds an [`ObjectRef`](hub_runtime::ObjectRef) while it looks, and of what it remembers
//! anything may be lost. A change costs the keys it concerns, never the kind: find them by name or by
//! [`Field`](hub_runtime::Field).
//!
//! **How do I try it?** `cargo test -p hub-controllers`: decisions as data beside each module, and `tests/in_process.rs`
//! for all controllers over the embedded API. `docs/how-to/add-a-controller.md` adds one.
//!
//! **What breaks?** With a controller stopped, everything that runs continues to run; what it should bring about waits.
//! One that fails repeats that key, with back-off, and holds up no other; see it in [`StatusRegistry`](hub_runtime::StatusRegistry).

use hub_runtime::Manager;
use hub_runtime::kinds::Kind;
use hub_runtime::writer::{WriteError, Writer};
use kube::Client;

mod assignments;
mod bootstrap;
mod csr;
mod duplicates;
mod endpoints;
mod garbage;
mod joining;
mod namespaces;
mod nodes;
mod podgc;
mod protection;
mod served;
#[cfg(test)]
mod testing;
mod unreachable;

pub use csr::{Authorities, NamePolicy};
pub use garbage::collects;

/// Everything that the controllers read: what a [`Reader`](hub_runtime::Reader) must offer.
pub const READ: &[Kind] = &[
    Kind::Namespace,
    Kind::Node,
    Kind::Pod,
    Kind::ConfigMap,
    Kind::Secret,
    Kind::ServiceAccount,
    Kind::Service,
    Kind::Endpoints,
    Kind::EndpointSlice,
    Kind::PersistentVolumeClaim,
    Kind::PersistentVolume,
    Kind::VolumeAttributesClass,
    Kind::Lease,
    Kind::RuntimeClass,
    Kind::CertificateSigningRequest,
    Kind::ReplicationController,
    Kind::Deployment,
    Kind::ReplicaSet,
    Kind::DaemonSet,
    Kind::StatefulSet,
    Kind::Job,
    Kind::CronJob,
    Kind::PodDisruptionBudget,
    Kind::StorageClass,
    Kind::HorizontalPodAutoscaler,
    Kind::ControllerRevision,
    Kind::CustomResourceDefinition,
    Kind::DeviceProfile,
    Kind::Device,
    Kind::Stream,
    Kind::Rule,
    Kind::Export,
    Kind::NodeAssignment,
];

/// What the controllers need to know.
pub struct ControllersConfig {
    /// Who signs certificates.
    pub authorities: Authorities,
    /// Which names nodes may not have.
    pub names: NamePolicy,
}

/// Makes what a hub needs from the start.
///
/// # Errors
/// When the API rejects it.
pub async fn bootstrap(client: &Client) -> Result<(), WriteError> {
    bootstrap::run(&Writer::new(client.clone())).await
}

/// Makes what a hub needs from the start, then starts all controllers. The API must be served already; the manager's reader
/// must show [`READ`].
///
/// # Errors
/// When the API rejects what a hub needs from the start. Nothing runs then.
pub async fn start(manager: &Manager, config: ControllersConfig) -> Result<(), WriteError> {
    bootstrap::run(&manager.context().writer).await?;
    manager.run(namespaces::Namespaces::new);
    manager.run(|context| csr::Csr::new(context, config.authorities, config.names));
    manager.run(garbage::Garbage::new);
    manager.run(podgc::PodGc::new);
    manager.run(nodes::Nodes::new);
    manager.run(duplicates::Duplicates::new);
    manager.run(endpoints::Endpoints::new);
    manager.run(endpoints::Mirror::new);
    manager.run(unreachable::Unreachable::new);
    manager.run(protection::Protection::new);
    manager.run(assignments::Assignments::new);
    Ok(())
}
