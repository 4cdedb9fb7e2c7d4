//! What the containers of a pod share, for as long as the pod lives on this boot of the machine: its instance.
//!
//! Everything that is set up for a pod as a whole hangs on it: control group, namespaces, addresses, devices. Init containers
//! have set up one instance and know nothing of another, so a new id means that they run again.

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{NamespaceRef, PodRef, PodResources};

/// Version of [`PodInstance`] as the kubelet keeps it.
pub const POD_INSTANCE_VERSION: u32 = 1;

/// What a runtime needs to set a pod up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodSpec {
    /// The pod.
    pub pod: PodRef,
    /// What all its containers get together.
    pub resources: PodResources,
    /// Its host name.
    pub hostname: String,
    /// What of the node it uses in place of its own.
    pub host: HostNamespaces,
    /// `hostUsers: false`: its users are its own, and nobody on the node.
    pub own_users: bool,
    /// `shareProcessNamespace`: its containers see each other's processes.
    pub shares_processes: bool,
    /// Ports of the node that lead to it.
    pub host_ports: Vec<HostPort>,
    /// Addresses that it had before, to have them again.
    pub addresses: Vec<IpAddr>,
    /// Kernel parameters with their values: those of [`SAFE_SYSCTLS`].
    pub sysctls: Vec<(String, String)>,
}

/// The kernel parameters that a pod may set: each is one of a namespace, so no other pod and nothing of the node sees it. The same as
/// upstream's list.
pub const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// `hostNetwork`, `hostIPC`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostNamespaces {
    /// The node's network and host name.
    pub network: bool,
    /// The node's shared memory and queues.
    pub ipc: bool,
}

/// `hostPort` of a container's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// The node's address that it is at; `None` is all of them.
    pub host_ip: Option<IpAddr>,
    /// The node's port.
    pub host_port: u16,
    /// The pod's.
    pub container_port: u16,
    /// What runs over it.
    pub protocol: PortProtocol,
}

/// `protocol` of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortProtocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// What links pods to each other and to the world.
pub trait PodNetwork: Send + Sync + fmt::Debug {
    /// Gives a pod its addresses, in the network namespace that is pinned at `namespace`. What is there already stays as it is.
    ///
    /// # Errors
    /// A sentence, for an Event.
    fn set_up(&self, spec: &PodSpec, namespace: &Path) -> Result<Vec<IpAddr>, String>;

    /// Takes away what a pod had; one that had nothing is no error.
    fn remove(&self, uid: &str);
}

/// A pod that is set up. The kubelet keeps it with the pod and compares it with what
/// [`ensure_pod`](crate::PodRuntime::ensure_pod) returns later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodInstance {
    /// [`POD_INSTANCE_VERSION`].
    pub version: u32,
    /// No two instances have the same, not even of the same pod.
    pub id: String,
    /// `/proc/sys/kernel/random/boot_id`: an instance does not survive a reboot.
    pub boot_id: String,
    /// Its control group, below the root of the hierarchies; `None` where the node may not make any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<PathBuf>,
    /// Namespaces of its own that its containers enter. Processes and modules have one set per container, and none here.
    #[serde(default)]
    pub namespaces: Vec<NamespaceRef>,
    /// Its own addresses; none is the node's network.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// Devices that are its own while it lives.
    #[serde(default)]
    pub devices: Vec<DeviceRef>,
}

/// A device that was given to a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceRef {
    /// The resource that was asked for, as `vendor.example/serial`.
    pub resource: String,
    /// Which one it is, in the words of who manages it.
    pub id: String,
}
