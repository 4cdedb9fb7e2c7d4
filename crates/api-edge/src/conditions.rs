//! The conditions of our own kinds. What a condition is, is Kubernetes': [`api_kube::Condition`].

/// The object is well formed and refers to things that exist.
pub const ACCEPTED: &str = "Accepted";
/// Every node that should run it has taken it over.
pub const APPLIED: &str = "Applied";
/// It does its work everywhere: the device answers, the rule runs.
pub const READY: &str = "Ready";
