//! The types that all planes share: custom resources, EdgeX models, labels, ports, the telemetry batch.
//!
//! Data only: nothing here reads a clock, a file or a socket. A plane that needs another plane's data at run time
//! finds its shape here and fetches it over a published protocol.
//!
//! **Where is it?**
//!
//! | module | what |
//! | --- | --- |
//! | [`edgex`] | events, readings, device profiles and devices as EdgeX Foundry v3 publishes them |
//! | [`resources`], [`conditions`] | the kinds of `edge.selvedge.dev/v1alpha1` as structs |
//! | [`services`] | what a node needs of a Service |
//! | [`volumes`] | volumes that are directories of a node |
//! | [`crds`] | their definitions, as the hub installs them |
//! | [`identity`] | which key may speak as a node |
//! | [`telemetry`] | what a node sends to `POST /telemetry/v1/batches` |
//! | [`status`] | what each role reports of itself |
//! | [`variants`] | what of a pod depends on the node that it is placed on |
//! | [`ports`] | default ports and the names that `ports.json` gives them |
//!
//! **May I touch it?** A field is a contract with objects in stores, journals on gateways and programs of other versions: add
//! fields with a default, never rename or retype one. A new field of a kind goes into its struct and into its definition; a
//! test compares the two and names what is missing.
//!
//! **How do I try it?** `cargo test -p api-edge`; on a running hub `kubectl explain device.spec`.
//!
//! **What breaks?** Every plane reads by these types: a definition that lets in what a struct rejects is an object that the
//! hub takes and no node runs.

pub mod conditions;
pub mod crds;
pub mod edgex;
pub mod go_duration;
pub mod identity;
pub mod ports;
pub mod resources;
pub mod services;
pub mod status;
pub mod telemetry;
pub mod usage;
pub mod variants;
pub mod volumes;

/// The API group of our own kinds.
pub const GROUP: &str = "edge.selvedge.dev";

/// The only version of our own kinds so far.
pub const VERSION: &str = "v1alpha1";

/// `group/version` of our own kinds, as `apiVersion` has it.
pub const API_VERSION: &str = "edge.selvedge.dev/v1alpha1";

/// Prefix of every label and annotation that is ours.
pub const LABEL_PREFIX: &str = "selvedge.dev/";

/// Label of a [`resources::NodeAssignmentSpec`] object: the node that it is for.
pub const LABEL_NODE: &str = "selvedge.dev/node";

/// Annotation of a pod: images that its node fetches ahead of their use, by name, separated by commas.
pub const ANNOTATION_PRE_PULL: &str = "selvedge.dev/pre-pull";

/// Annotation of a workload: how long a node must be out of reach before the workload's pods on it are replaced, as a Go duration.
/// Without it they stay, however long that takes.
pub const ANNOTATION_REPLACE_WHEN_UNREACHABLE: &str = "selvedge.dev/replace-when-unreachable";

/// Annotation of a pod: what of it depends on the node that it is placed on, as [`variants`] describes it.
pub const ANNOTATION_VARIANTS: &str = "selvedge.dev/variants";

/// Annotation that the hub writes on a pod when it gets its node: which of its [`ANNOTATION_VARIANTS`] it is.
pub const ANNOTATION_VARIANT: &str = "selvedge.dev/variant";

/// Annotation of a Node: its box's owner holds updates. `true`, or the time until when (RFC 3339), after which the node takes it away by
/// itself. Only the node writes it.
pub const ANNOTATION_HOLD_UPDATES: &str = "selvedge.dev/hold-updates";

/// Annotation of a workload: a label selector (`site=pilot`). A new template comes to the nodes that it selects first.
pub const ANNOTATION_CANARY: &str = "selvedge.dev/canary";

/// Annotation of a workload with [`ANNOTATION_CANARY`]: how long the pods there must run well before the others follow, as a Go duration.
pub const ANNOTATION_CANARY_WAIT: &str = "selvedge.dev/canary-wait";

/// Annotation that the hub writes on a revision (a ReplicaSet or a ControllerRevision): how its canary ended, `Passed` or `Failed`.
pub const ANNOTATION_CANARY_RESULT: &str = "selvedge.dev/canary-result";

/// Annotation that the hub writes on a revision whose canary failed: which pod, and why.
pub const ANNOTATION_CANARY_FAILURE: &str = "selvedge.dev/canary-failure";

/// Annotation that the hub writes on the ControllerRevision of a StatefulSet's canary: the ordinals that are updated first, separated by commas.
pub const ANNOTATION_CANARY_ORDINALS: &str = "selvedge.dev/canary-ordinals";

/// Annotation that a Deployment's rollout writes on its new ReplicaSet: the selector of the nodes that its pods are placed on for now.
pub const ANNOTATION_CANARY_NODES: &str = "selvedge.dev/canary-nodes";

/// Annotation that a Deployment's rollout writes on its old ReplicaSets: the selector of the nodes whose pods are deleted first.
pub const ANNOTATION_YIELD_NODES: &str = "selvedge.dev/yield-nodes";

/// Annotation that a Deployment's rollout writes on an old ReplicaSet: pods on nodes that the rollout leaves out are deleted last.
pub const ANNOTATION_KEEP_ON_SKIPPED_NODES: &str = "selvedge.dev/keep-on-skipped-nodes";

/// Bytes of a pod's status that a node may write: a basis, and as much for each container as its state before and now need with a message
/// of some hundred bytes each. `containers` are those of all kinds; those beyond a hundred, and those of mirror pods, which the node itself
/// writes, count none.
pub const fn pod_status_bytes_max(containers: usize) -> usize {
    let counted = if containers > 100 { 100 } else { containers };
    (32 + 2 * counted) * 1024
}

/// The Kubernetes version that hub and node claim, `v1.36.0+selvedge.VERSION`.
pub const KUBERNETES_VERSION: &str = concat!("v1.36.0+selvedge.", env!("CARGO_PKG_VERSION"));

/// `runtimeClassName` of pods whose containers are plain processes.
pub const RUNTIME_CLASS_PROCESS: &str = "selvedge-process";

/// `runtimeClassName` of pods whose containers are WebAssembly programs.
pub const RUNTIME_CLASS_WASM: &str = "selvedge-wasm";

/// Name of the runtime of pods whose containers are of images. They name no `runtimeClassName`.
pub const RUNTIME_CONTAINER: &str = "selvedge-container";

#[cfg(test)]
mod tests;
