//! What the kubelet is reported at its start.
//!
//! Reading files and environment variables is the program's; here are the values, their defaults and the rules that
//! hold between them, so that a bad setting is found before anything was done.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api_edge::ports;
use base_observe::Metrics;
use base_pki::JoinToken;
use node_agent::{AgentConfig, IdentityError, Taint};
use node_runtime::NodeImages;

use crate::{EvictionSettings, MachineShutdown, NodeNetwork};

/// A node heartbeat is lost now and then; four missed ones make the hub call the node unreachable.
const LEASE_RENEW_PERIOD: Duration = Duration::from_secs(10);
/// As Kubernetes' kubelets ask for.
const LEASE_DURATION: Duration = Duration::from_secs(40);
/// An unchanged node status is posted this often, as Kubernetes' kubelets do.
const STATUS_POST_PERIOD: Duration = Duration::from_secs(300);
/// As often as metrics-server asks other kubelets.
const USAGE_PERIOD: Duration = Duration::from_secs(15);
/// Kubernetes' own default.
const MAX_PODS: u32 = 110;

/// Everything the kubelet needs to know before it starts.
#[derive(Clone, Debug)]
pub struct KubeletConfig {
    /// Root of the program's state; the kubelet keeps to `node/`, `run/` and `ports.json` in it.
    pub data_dir: PathBuf,
    /// Name of the Node object, in lower case: a DNS-1123 subdomain of at most 63 bytes. See [`default_node_name`].
    pub node_name: String,
    /// Hubs to call, in order of preference; `https://host:port`. A joined node remembers those it joined with, so
    /// this may be empty at a later start.
    pub hub_urls: Vec<String>,
    /// Needed at the first start only; a joined node ignores it.
    pub token: Option<JoinToken>,
    /// The hub's CAs in PEM, when the caller has them at hand: what its certificate must lead to. The token's hash must be of one of
    /// them when both are given. Without both, a cluster proves its CA by what it has signed with the token.
    pub ca: Option<String>,
    /// Labels the node registers with, beside the well-known ones.
    pub labels: BTreeMap<String, String>,
    /// Taints the node registers with.
    pub taints: Vec<Taint>,
    /// Where the kubelet's own API listens.
    pub listen: SocketAddr,
    /// Address the node reports for itself and its pods; found from the route to the hub when absent.
    pub node_ip: Option<IpAddr>,
    /// Where the node's pods have names answered.
    pub dns: node_pods::NodeDns,
    /// The network of its pods, where they have not the machine's own.
    pub network: Option<Arc<NodeNetwork>>,
    /// What the node should have and has not, by name: reported for as long as the agent runs.
    pub faults: Vec<(&'static str, String)>,
    /// Conditions of the Node that hold for as long as the agent runs: what it should have and does without.
    pub conditions: Vec<(&'static str, node_client::Notice)>,
    /// The images of its containers, where it runs any.
    pub images: Option<Arc<NodeImages>>,
    /// Where links to logs are made.
    pub log_links: Option<node_pods::LogLinks>,
    /// How pods end with the machine, where its shutdown waits for them.
    pub machine_shutdown: Option<MachineShutdown>,
    /// When pods are evicted because the node runs short.
    pub eviction: EvictionSettings,
    /// Pods the node takes at most.
    pub max_pods: u32,
    /// How often the node's Lease is renewed.
    pub lease_renew_period: Duration,
    /// `leaseDurationSeconds` of the Lease.
    pub lease_duration: Duration,
    /// How often an unchanged node status is posted again.
    pub status_post_period: Duration,
    /// How often the hub learns what is used, when that has changed.
    pub usage_period: Duration,
    /// What the node's figures are added to, and what `/metrics` shows.
    pub metrics: Metrics,
}

impl Default for KubeletConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("/var/lib/selvedge"),
            node_name: default_node_name(),
            hub_urls: Vec::new(),
            token: None,
            ca: None,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, ports::KUBELET)),
            node_ip: None,
            dns: node_pods::NodeDns::default(),
            network: None,
            faults: Vec::new(),
            conditions: Vec::new(),
            images: None,
            log_links: None,
            machine_shutdown: None,
            eviction: EvictionSettings::default(),
            max_pods: MAX_PODS,
            lease_renew_period: LEASE_RENEW_PERIOD,
            lease_duration: LEASE_DURATION,
            status_post_period: STATUS_POST_PERIOD,
            usage_period: USAGE_PERIOD,
            metrics: Metrics::new(),
        }
    }
}

/// One mistake in a [`KubeletConfig`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The name cannot be a Node's.
    #[error("{0}")]
    NodeName(String),
    /// The URL cannot be a hub's.
    #[error("hub URL `{0}` is not of the form https://HOST[:PORT]")]
    HubUrl(String),
    /// Kubernetes knows three effects.
    #[error("taint `{key}` has effect `{effect}`; use NoSchedule, PreferNoSchedule or NoExecute")]
    TaintEffect {
        /// Key of the taint.
        key: String,
        /// What was given.
        effect: String,
    },
    /// The lease would run out between two renewals.
    #[error("lease duration {duration_s} s is not longer than its renew period {period_s} s")]
    Lease {
        /// The duration.
        duration_s: u64,
        /// The period.
        period_s: u64,
    },
}

impl KubeletConfig {
    /// What the agent needs of it.
    pub(crate) fn agent(&self) -> AgentConfig {
        AgentConfig {
            data_dir: self.data_dir.clone(),
            node_name: self.node_name.clone(),
            labels: self.labels.clone(),
            taints: self.taints.clone(),
            node_ip: self.node_ip,
            max_pods: self.max_pods,
            lease_renew_period: self.lease_renew_period,
            lease_duration: self.lease_duration,
            status_post_period: self.status_post_period,
        }
    }

    /// SHA-256 of the CAs that the configuration says the hub has: the token's word comes first, then the CA's.
    ///
    /// # Errors
    /// When the CA cannot be read.
    pub(crate) fn given_cas(&self) -> Result<Vec<String>, IdentityError> {
        match (self.token.as_ref().and_then(|token| token.ca_sha256.clone()), &self.ca) {
            (Some(ca_sha256), _) => Ok(vec![ca_sha256]),
            (None, Some(ca)) => {
                Ok(base_pki::certificates(ca)?.iter().map(|one| base_pki::fingerprint_of_der(one)).collect())
            }
            (None, None) => Ok(Vec::new()),
        }
    }

    /// All mistakes at once; empty when the configuration can be used.
    pub fn mistakes(&self) -> Vec<ConfigError> {
        let mut mistakes = Vec::new();
        mistakes.extend(api_edge::identity::bad_node_name(&self.node_name).map(ConfigError::NodeName));
        for url in &self.hub_urls {
            if !is_hub_url(url) {
                mistakes.push(ConfigError::HubUrl(url.clone()));
            }
        }
        for taint in &self.taints {
            if !matches!(taint.effect.as_str(), "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
                mistakes.push(ConfigError::TaintEffect { key: taint.key.clone(), effect: taint.effect.clone() });
            }
        }
        if self.lease_duration <= self.lease_renew_period {
            mistakes.push(ConfigError::Lease {
                duration_s: self.lease_duration.as_secs(),
                period_s: self.lease_renew_period.as_secs(),
            });
        }
        mistakes
    }
}

/// The machine's host name as a node name: lower case, every character a Node's name may not hold made a `-`.
pub fn default_node_name() -> String {
    node_name_from(&rustix::system::uname().nodename().to_string_lossy())
}

pub(crate) fn node_name_from(host_name: &str) -> String {
    let mapped: String = host_name
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' { c } else { '-' })
        .take(api_kube::names::LABEL_BYTES_MAX)
        .collect();
    let labels: Vec<&str> = mapped.split('.').map(|label| label.trim_matches('-')).filter(|l| !l.is_empty()).collect();
    if labels.is_empty() { "node".to_owned() } else { labels.join(".") }
}

/// Whether this can be a hub's: `https://HOST[:PORT]`.
pub fn is_hub_url(url: &str) -> bool {
    url.parse::<http::Uri>()
        .is_ok_and(|uri| uri.scheme_str() == Some("https") && uri.host().is_some_and(|host| !host.is_empty()))
}

#[cfg(test)]
mod tests;
