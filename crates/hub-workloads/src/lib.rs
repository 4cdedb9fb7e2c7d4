//! The hub's workload controllers: pods that should exist because a workload says so.
//!
//! | module | key | what |
//! | --- | --- | --- |
//! | `replicasets` | set | so many pods of one template; ReplicationControllers are the same with another selector |
//! | `deployments` | Deployment | one ReplicaSet per revision of its template, and pods that move to the new one |
//! | `daemonsets` | set | one pod on each node that the template fits |
//! | `statefulsets` | set | pods with a name, an order and claims of their own |
//! | `jobs` | Job, or a pod that lost its Job | pods that run to their end, each counted once |
//! | `cronjobs` | CronJob | a Job at each scheduled time |
//! | `ttl` | Job | finished Jobs are deleted after `ttlSecondsAfterFinished` |
//! | `disruption` | PodDisruptionBudget | how many of its pods may be evicted now |
//! | `autoscaling` | HorizontalPodAutoscaler | as many replicas as the measured use needs |
//! | `replacements` | node | pods of a node out of reach are replaced where their workload asks for it |
//!
//! They run on [`hub_runtime`] and use nothing but the Kubernetes API, so that they serve a cluster of any origin as well as
//! the embedded hub. Each is `observe` and `reconcile` around decisions that are plain functions on data; what several share is
//! beside them: `owner`, `claim` and `orphans` (whose is a pod?), `pods` (what is known of pods), `ready` (since when are they?),
//! `failures` (pauses between pods that fail), `history` (revisions of a template), `meaning` and `hash` (are two templates the
//! same?), `scales` (numbers of replicas), `status` (conditions), `settling` (which status waits a moment), `template` (what a pod
//! is made of), `json` (patches).
//!
//! **How do I try it?** `cargo test -p hub-workloads`: tables beside each module, and `tests/` over an embedded API with a
//! stand-in for the kubelets.

use std::time::Duration;

use hub_runtime::kinds::Kind;
use hub_runtime::{Context, Manager};

mod autoscaling;
mod claim;
mod cronjobs;
mod daemonsets;
mod deployments;
mod disruption;
mod failures;
mod hash;
mod history;
mod jobs;
mod json;
mod meaning;
mod orphans;
mod owner;
mod pods;
mod ready;
mod replacements;
mod replicasets;
mod scales;
mod settling;
mod statefulsets;
mod status;
mod template;
mod ttl;

/// Everything that the controllers read: what the reader of their [`Manager`] must show.
pub const READ: &[Kind] = &[
    Kind::Namespace,
    Kind::Node,
    Kind::Pod,
    Kind::PersistentVolumeClaim,
    Kind::ReplicationController,
    Kind::Deployment,
    Kind::ReplicaSet,
    Kind::DaemonSet,
    Kind::StatefulSet,
    Kind::Job,
    Kind::CronJob,
    Kind::PodDisruptionBudget,
    Kind::HorizontalPodAutoscaler,
    Kind::ControllerRevision,
];

/// How soon a key looks again when the reader does not show its own writes yet, or when a write met another; a change
/// usually comes first.
const UNSEEN_RETRY: Duration = Duration::from_millis(200);

/// Starts all of them. The API must be served already, and the manager's reader must show [`READ`].
pub fn start(manager: &Manager) {
    start_replicated(manager);
    start_daemons(manager);
    start_stateful(manager);
    start_batch(manager);
    start_policies(manager);
}

/// Starts those whose pods are alike: ReplicaSets, ReplicationControllers, Deployments, and who replaces their pods.
pub fn start_replicated(manager: &Manager) {
    manager.run(|context| replicasets::ReplicaSets::new(named(context, "replicaset-controller")));
    manager.run(|context| replicasets::ReplicaSets::controllers(named(context, "replication-controller")));
    manager.run(|context| deployments::Deployments::new(named(context, "deployment-controller")));
    manager.run(replacements::Replacements::new);
}

/// Starts the one whose pods are one for each node: DaemonSets.
pub fn start_daemons(manager: &Manager) {
    manager.run(|context| daemonsets::DaemonSets::new(named(context, "daemonset-controller")));
}

/// Starts the one whose pods have names: StatefulSets.
pub fn start_stateful(manager: &Manager) {
    manager.run(|context| statefulsets::StatefulSets::new(named(context, "statefulset-controller")));
}

/// Starts those whose pods end: Jobs, CronJobs, and who deletes finished ones.
pub fn start_batch(manager: &Manager) {
    manager.run(|context| jobs::Jobs::new(named(context, "job-controller")));
    manager.run(|context| cronjobs::CronJobs::new(named(context, "cronjob-controller")));
    manager.run(ttl::TtlAfterFinished::new);
}

/// Starts those that look at the pods of others: disruption budgets and autoscalers.
pub fn start_policies(manager: &Manager) {
    manager.run(|context| disruption::Disruption::new(named(context, "controllermanager")));
    manager.run(|context| autoscaling::Autoscaling::new(named(context, "horizontal-pod-autoscaler")));
}

/// What a controller is handed that has this name upstream: its Events come from it.
fn named(context: Context, component: &'static str) -> Context {
    Context { recorder: context.recorder.of(component), ..context }
}
