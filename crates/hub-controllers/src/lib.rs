//! The hub's controllers: what should exist because something else does.
//!
//! **Where is it?** One module per controller, all of one shape: `observe` (which keys does this change concern?) and
//! `reconcile` (what does this key need?), around decisions that are plain functions on data. What they run on is in
//! [`runtime`]; what they read of an object in [`views`]; what they write through in [`writer`].
//!
//! | module | key | what |
//! | --- | --- | --- |
//! | `bootstrap` | | namespaces, runtime classes and our own kinds, before anything else |
//! | `namespaces` | namespace | a service account in each; an end that takes the content along |
//! | `csr` | request | certificates of nodes, and the end of old requests |
//! | `daemonsets` | set | one pod on each node that the template fits |
//! | `garbage` | object | what has lost its owners goes; owners that wait for their dependents |
//! | `podgc` | pod | pods that no kubelet answers for |
//! | `nodes` | node | nodes are tainted as their leases and conditions are; leases of deleted nodes go |
//! | `duplicates` | node | two boxes that speak as one node are named |
//! | `unreachable` | node | pods of a node that is out of reach are not ready |
//! | `pods` | pod | a pod that nobody places says so |
//! | `protection` | claim, volume or class | what is in use is not deleted before its last user |
//! | `assignments` | node, or fleet object | devices, streams, rules, exports and the Services of its pods' namespaces become one `NodeAssignment` per node; what nodes report is summed up |
//!
//! **May I touch it?** Yes, within three rules. A controller is level-triggered: a run reads what should be and what is,
//! takes idempotent steps, and writes nothing when there is nothing to do; a restart of the hub runs every key once. It
//! keeps no copy of objects: it holds an [`ObjectRef`](runtime::ObjectRef) while it looks, and of what it remembers
//! anything may be lost. A change costs the keys it concerns, never the kind: find them by name or by
//! [`Field`](runtime::Field).
//!
//! **How do I try it?** `cargo test -p hub-controllers`: decisions as data beside each module, and `tests/in_process.rs`
//! for all controllers over the embedded API. `docs/how-to/add-a-controller.md` adds one.
//!
//! **What breaks?** With a controller stopped, everything that runs continues to run; what it should bring about waits.
//! One that fails repeats that key, with back-off, and holds up no other; see it in [`StatusRegistry`].

use std::sync::Arc;

use kube::Client;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod assignments;
mod bootstrap;
mod csr;
mod daemonsets;
mod duplicates;
mod events;
mod garbage;
mod joining;
pub mod kinds;
mod namespaces;
mod nodes;
mod podgc;
mod pods;
mod protection;
pub mod runtime;
mod selector;
mod served;
#[cfg(test)]
mod testing;
mod unreachable;
pub mod views;
pub mod writer;

pub use csr::{Authorities, NamePolicy};
pub use garbage::collects;
pub use runtime::{ControllerStatus, StatusRegistry};

use events::Recorder;
use kinds::Kind;
use runtime::{Reader, Reconciler, controller};
use writer::{WriteError, Writer};

/// Everything that the controllers read: what a [`Reader`] must offer.
pub const READ: &[Kind] = &[
    Kind::Namespace,
    Kind::Node,
    Kind::Pod,
    Kind::ConfigMap,
    Kind::Secret,
    Kind::ServiceAccount,
    Kind::Service,
    Kind::PersistentVolumeClaim,
    Kind::PersistentVolume,
    Kind::VolumeAttributesClass,
    Kind::Lease,
    Kind::RuntimeClass,
    Kind::CertificateSigningRequest,
    Kind::DaemonSet,
    Kind::ControllerRevision,
    Kind::CustomResourceDefinition,
    Kind::DeviceProfile,
    Kind::Device,
    Kind::Stream,
    Kind::Rule,
    Kind::Export,
    Kind::NodeAssignment,
];

/// What the controllers are made of.
pub struct ControllersConfig {
    /// Writes; must be allowed everything.
    pub client: Client,
    /// Reads: [`runtime::StoreReader`] over the embedded API's store, or [`runtime::Reflector`] over a cluster.
    pub reader: Arc<dyn Reader>,
    /// Who signs certificates.
    pub authorities: Authorities,
    /// Which names nodes may not have.
    pub names: NamePolicy,
    /// Where they record what they did last. Empty until they start, so that it can be served before.
    pub status: StatusRegistry,
}

/// The running controllers.
pub struct Controllers {
    tasks: TaskTracker,
    registry: StatusRegistry,
}

impl Controllers {
    /// Makes what a hub needs from the start.
    ///
    /// # Errors
    /// When the API rejects it.
    pub async fn bootstrap(client: &Client) -> Result<(), WriteError> {
        bootstrap::run(&Writer::new(client.clone())).await
    }

    /// Makes what a hub needs from the start, then starts all controllers. The API must be served already.
    ///
    /// # Errors
    /// When the API rejects what a hub needs from the start. Nothing runs then.
    pub async fn start(config: ControllersConfig, shutdown: CancellationToken) -> Result<Self, WriteError> {
        Self::bootstrap(&config.client).await?;
        let writer = Writer::new(config.client);
        let tasks = TaskTracker::new();
        let (recorder, record) = Recorder::new(writer.clone(), shutdown.clone());
        base_observe::spawn_named(&tasks, "event-recorder", record);
        let context = Context { reader: config.reader, writer, recorder };
        let started = Started { context, registry: config.status, tasks, shutdown };
        started.run(namespaces::Namespaces::new);
        started.run(|context| csr::Csr::new(context, config.authorities, config.names));
        started.run(daemonsets::DaemonSets::new);
        started.run(garbage::Garbage::new);
        started.run(podgc::PodGc::new);
        started.run(nodes::Nodes::new);
        started.run(duplicates::Duplicates::new);
        started.run(unreachable::Unreachable::new);
        started.run(pods::Pods::new);
        started.run(protection::Protection::new);
        started.run(assignments::Assignments::new);
        started.tasks.close();
        Ok(Self { tasks: started.tasks, registry: started.registry })
    }

    /// What each controller did last.
    pub fn status(&self) -> &StatusRegistry {
        &self.registry
    }

    /// Waits until every controller has ended, after the shutdown that was handed to [`Controllers::start`].
    pub async fn wait(&self) {
        self.tasks.wait().await;
    }
}

/// What every controller is handed.
#[derive(Clone)]
pub(crate) struct Context {
    reader: Arc<dyn Reader>,
    writer: Writer,
    recorder: Recorder,
}

struct Started {
    context: Context,
    registry: StatusRegistry,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Started {
    fn run<R: Reconciler>(&self, make: impl FnOnce(Context) -> R) {
        let reconciler = make(self.context.clone());
        controller::spawn(reconciler, &self.context.reader, &self.registry, &self.tasks, &self.shutdown);
    }
}
