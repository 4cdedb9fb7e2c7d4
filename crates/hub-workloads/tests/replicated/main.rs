//! The workload controllers over the embedded API, with a stand-in for the kubelets.

mod deployments;
mod hub;
mod replacements;
mod replicasets;
mod rollouts;
