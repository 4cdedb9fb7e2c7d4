//! The network of this node's pods, and the names in it.
//!
//! `node-network` has the links, addresses and tables, `node-dns` the responder; here they are opened as the settings have it, and handed
//! to the runtimes. One agent has the network of a machine: a second one on it would give the same addresses to other pods.

mod api_proxy;
mod follow;

pub(crate) use follow::Follow;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::path::Path;
use std::sync::{Arc, Mutex};

use node_client::Endpoint;
use node_dns::{DnsConfig, DnsServer, Names, NamesConfig};
use node_network::{Network, NetworkConfig, NetworkError, PodLink, Protocol, Subnet, links, netlink};
use node_pods::{KeptPod, NodeDns};
use node_runtime::{PodNetwork, PodSpec, PortProtocol};

/// Name of the socket that says whose the network is. It is of the network namespace, as what it guards.
const OWNER: &[u8] = b"selvedge-pod-network";

/// Where this node's responder listens: an address of the link-local range that other node-local responders have as well.
const DNS_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(169, 254, 20, 10)), 53);

/// Port of the Service `kubernetes`.
const API_SERVICE_PORT: u16 = 443;

/// How the network is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSettings {
    /// Addresses of pods.
    pub subnet: Subnet,
    /// IPv6 addresses of pods, where they are to have some.
    pub subnet6: Option<Subnet>,
    /// Largest packet of a pod; the uplink's when absent.
    pub mtu: Option<u32>,
    /// Addresses of the cluster's Services. The first of each is that of the API.
    pub service_subnets: Vec<Subnet>,
    /// Where names are answered.
    pub dns: SocketAddr,
    /// `cluster.local`.
    pub domain: String,
}

impl Default for NetworkSettings {
    fn default() -> Self {
        Self {
            subnet: Subnet { address: IpAddr::from([10, 39, 0, 0]), prefix: 16 },
            subnet6: None,
            mtu: None,
            service_subnets: vec![Subnet { address: IpAddr::from([10, 96, 0, 0]), prefix: 16 }],
            dns: DNS_ADDRESS,
            domain: "cluster.local".to_owned(),
        }
    }
}

/// Why the pods of this node have no network of their own.
#[derive(Debug, thiserror::Error)]
pub enum OpenNetworkError {
    /// Another agent has it.
    #[error(
        "another node has the network of this machine's pods; set `podSubnet: none` to give this one's pods the machine's own"
    )]
    Taken,
    /// The kernel refused.
    #[error("failed to set up the network of pods; `podSubnet: none` gives them the machine's own")]
    Network(#[source] NetworkError),
    /// The settings have a domain that is none.
    #[error("failed to set up the names of pods")]
    Domain(#[source] node_dns::DomainError),
}

/// The network of this node's pods.
pub struct NodeNetwork {
    settings: NetworkSettings,
    pub(crate) network: Network,
    pub(crate) names: Names,
    dns: Option<DnsServer>,
    /// Where pods' connections to the API arrive, until somebody serves them.
    api: Mutex<Option<TcpListener>>,
    api_address: Option<SocketAddr>,
    _owner: UnixListener,
}

impl std::fmt::Debug for NodeNetwork {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("NodeNetwork").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl NodeNetwork {
    /// Sets up what the node itself has of it, and begins to answer names; what an operator should know is logged. What pods of
    /// an earlier agent have stays as it is.
    ///
    /// # Errors
    /// When the kernel has no such network, or another agent has it.
    pub fn open(settings: NetworkSettings) -> Result<Arc<Self>, OpenNetworkError> {
        let owner = own().map_err(|_| OpenNetworkError::Taken)?;
        let config = NetworkConfig {
            subnet: settings.subnet,
            subnet6: settings.subnet6,
            mtu: settings.mtu,
            service_subnets: settings.service_subnets.clone(),
            reserved: vec![settings.dns.ip()],
            ..NetworkConfig::default()
        };
        let (network, notices) = Network::open(config).map_err(OpenNetworkError::Network)?;
        for notice in notices {
            tracing::warn!("{notice}");
        }
        let networks = network.subnets().into_iter().chain(settings.service_subnets.iter().copied());
        let names = Names::new(&NamesConfig {
            domain: settings.domain.clone(),
            server_addresses: vec![settings.dns.ip()],
            networks: networks.map(|net| node_dns::Network { address: net.address, prefix_len: net.prefix }).collect(),
            ..NamesConfig::default()
        });
        let names = names.map_err(OpenNetworkError::Domain)?;
        let dns = match answer_names(&settings, &names) {
            Ok(dns) => Some(dns),
            Err(error) => {
                tracing::warn!(error = %node_client::chain(&*error), "Names are not answered on this node: its pods ask whom the node asks.");
                None
            }
        };
        let (api, api_address) = match listen_for_api(&network) {
            Ok((listener, address)) => (Some(listener), Some(address)),
            Err(error) => {
                tracing::warn!(%error, "Pods have no way to the API through this node.");
                (None, None)
            }
        };
        Ok(Arc::new(Self { settings, network, names, dns, api: Mutex::new(api), api_address, _owner: owner }))
    }

    /// Takes up the pods of an earlier agent before any new one begins: their addresses and ports are theirs, and what is left of pods
    /// that are known no more is taken off the network. `found` are those of which something is there beside what was kept. Blocks
    /// for milliseconds, and for some ten of each link that is deleted.
    pub(crate) fn take_up(&self, kept: &[KeptPod], found: &[String], last: &[IpAddr]) {
        let nowhere = Path::new("/nonexistent");
        let ports: Vec<Vec<node_network::HostPort>> = kept.iter().map(|pod| host_ports(&pod.host_ports)).collect();
        let links = kept.iter().zip(&ports).map(|(pod, host_ports)| PodLink {
            uid: &pod.uid,
            netns: pod.netns.as_deref().unwrap_or(nowhere),
            host_ports,
            addresses: &pod.addresses,
        });
        let others = found.iter().filter(|uid| kept.iter().all(|pod| pod.uid != **uid));
        let others = others.map(|uid| PodLink { uid, netns: nowhere, host_ports: &[], addresses: &[] });
        match self.network.reconcile(&links.chain(others).collect::<Vec<_>>()) {
            Ok(done) => {
                let (repaired, removed) = (done.repaired.len(), done.removed.len());
                // Those of another boot of the machine are set up when they begin.
                let failed = done.failed.len();
                tracing::info!(pods = kept.len(), repaired, removed, failed, "Took up the network of pods.");
            }
            Err(error) => {
                tracing::warn!(error = %node_client::chain(&error), "Failed to compare the network with the pods of before.");
            }
        }
        self.network.resume(last);
    }

    /// Where pods have names answered.
    pub fn node_dns(&self) -> NodeDns {
        let servers = if self.dns.is_some() { vec![self.settings.dns.ip()] } else { Vec::new() };
        NodeDns { domain: self.settings.domain.clone(), servers, ..NodeDns::default() }
    }

    /// Whether an address is a pod's, or the node's among its pods.
    fn is_inside(&self, address: &IpAddr) -> bool {
        self.network.is_pod(address) || self.network.node_addresses().contains(address)
    }

    /// Where pods find the API: the Service `kubernetes`.
    pub(crate) fn service_api(&self) -> Option<Endpoint> {
        self.api_address?;
        Some(Endpoint { host: self.api_service_ip()?.to_string(), port: API_SERVICE_PORT })
    }

    /// The first address of the Services' range, in every cluster the API's.
    fn api_service_ip(&self) -> Option<IpAddr> {
        self.settings.service_subnets.iter().find_map(|subnet| match subnet.address {
            IpAddr::V4(address) => Some(IpAddr::V4(Ipv4Addr::from_bits(address.to_bits().saturating_add(1)))),
            IpAddr::V6(_) => None,
        })
    }

    /// Removes what an agent has set up of it on this machine, unless one has it now.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn disable(settings: &NetworkSettings) -> Result<(), NetworkError> {
        let Ok(_owner) = own() else { return Ok(()) };
        let config = NetworkConfig { service_subnets: settings.service_subnets.clone(), ..NetworkConfig::default() };
        Network::disable(&config)?;
        let mut socket = netlink::Socket::open(netlink::Protocol::Route).map_err(NetworkError::Node)?;
        links::remove_node(&mut socket, &[settings.dns.ip()], &[]).map_err(NetworkError::Node)
    }
}

/// Takes the network of this machine, for as long as the answer is kept.
fn own() -> std::io::Result<UnixListener> {
    UnixListener::bind_addr(&UnixAddr::from_abstract_name(OWNER)?)
}

/// On the address from which the node speaks to its pods, at any port: rules lead them there.
fn listen_for_api(network: &Network) -> std::io::Result<(TcpListener, SocketAddr)> {
    let address = network.node_addresses().into_iter().find(IpAddr::is_ipv4);
    let address = address.ok_or_else(|| std::io::Error::other("the node has no address among its pods"))?;
    let listener = TcpListener::bind((address, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

fn answer_names(
    settings: &NetworkSettings,
    names: &Names,
) -> Result<DnsServer, Box<dyn std::error::Error + Send + Sync>> {
    let mut socket = netlink::Socket::open(netlink::Protocol::Route)?;
    links::ensure_node(&mut socket, &[settings.dns.ip()], &[])?;
    Ok(DnsServer::start(DnsConfig { listen: vec![settings.dns], ..DnsConfig::default() }, names)?)
}

impl PodNetwork for NodeNetwork {
    fn set_up(&self, spec: &PodSpec, namespace: &Path) -> Result<Vec<IpAddr>, String> {
        let host_ports = host_ports(&spec.host_ports);
        let link =
            PodLink { uid: &spec.pod.uid, netns: namespace, host_ports: &host_ports, addresses: &spec.addresses };
        self.network.setup_pod(link).map_err(|error| node_client::chain(&error))
    }

    fn remove(&self, uid: &str) {
        if let Err(error) = self.network.remove_pod(uid) {
            tracing::warn!(pod = uid, error = %node_client::chain(&error), "Failed to take a pod off the network.");
        }
    }
}

fn host_ports(ports: &[node_runtime::HostPort]) -> Vec<node_network::HostPort> {
    let port = |port: &node_runtime::HostPort| node_network::HostPort {
        host_ip: port.host_ip,
        host_port: port.host_port,
        container_port: port.container_port,
        protocol: protocol(port.protocol),
    };
    ports.iter().map(port).collect()
}

pub(crate) fn protocol(protocol: PortProtocol) -> Protocol {
    match protocol {
        PortProtocol::Tcp => Protocol::Tcp,
        PortProtocol::Udp => Protocol::Udp,
        PortProtocol::Sctp => Protocol::Sctp,
    }
}
