//! Annotations and words on volumes that binders, schedulers and provisioners of Kubernetes agree on.

/// Of a claim whose binding is complete: what its volume does from then on is the volume's fault.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// Of a claim or a volume whose binding a controller has chosen, and not a person.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// Of a claim: the node on which its first pod runs, for whoever makes its volume.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Of a claim: who is to make its volume. Provisioners look at either.
pub const PROVISIONER_OF_CLAIM: [&str; 2] =
    ["volume.beta.kubernetes.io/storage-provisioner", "volume.kubernetes.io/storage-provisioner"];
/// By which claims and volumes named their class before it was a field.
pub const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// Of the class that claims get which name none.
pub const DEFAULT_CLASS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
/// The provisioner of a class whose volumes somebody makes by hand.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
