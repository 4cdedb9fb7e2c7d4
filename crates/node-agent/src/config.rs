//! What the agent works with.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Everything the agent needs to know.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Root of the program's state: its disk is the node's.
    pub data_dir: PathBuf,
    /// Name of the Node object.
    pub node_name: String,
    /// Labels the node registers with, beside the well-known ones.
    pub labels: BTreeMap<String, String>,
    /// Taints the node registers with.
    pub taints: Vec<Taint>,
    /// Address the node reports; found from the route to the hub when absent.
    pub node_ip: Option<IpAddr>,
    /// Pods the node takes at most.
    pub max_pods: u32,
    /// How often the node's Lease is renewed.
    pub lease_renew_period: Duration,
    /// `leaseDurationSeconds` of the Lease.
    pub lease_duration: Duration,
    /// How often an unchanged node status is posted again.
    pub status_post_period: Duration,
}

impl Default for AgentConfig {
    /// Periods as Kubernetes' kubelets have them.
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("/var/lib/selvedge"),
            node_name: "node".to_owned(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            node_ip: None,
            max_pods: 110,
            lease_renew_period: Duration::from_secs(10),
            lease_duration: Duration::from_secs(40),
            status_post_period: Duration::from_secs(300),
        }
    }
}

/// A taint that the node registers with.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Taint {
    /// Such as `selvedge.dev/lab`.
    pub key: String,
    /// May be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}
