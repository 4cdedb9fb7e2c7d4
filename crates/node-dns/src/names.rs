//! The names that this node answers itself: its Services and pods, as plain data in and prepared answers out.
//!
//! ```text
//! set_pods, set_services ─▶ build (beside the readers) ─▶ Arc<Table> ─▶ generation + 1
//!                                                             ▲
//!                    the thread that answers: sees the generation change, takes the new table
//! ```
//!
//! - **Names.** As the Kubernetes DNS specification has them, schema 1.1.0: Services, headless Services and their endpoints, SRV, PTR,
//!   ExternalName, pods by address. Beside them the names of SMARTER: `<name>`, `<name>.<namespace>`, and both below
//!   `svc.<domain>` and `<domain>`, where `<name>` is a pod's name, hostname, or label `name` or `app`.
//! - **Who wins.** A Service before a pod; a pod's name before its hostname, then its label `name`, then its label `app`; namespace `default`
//!   before the others, and those by the alphabet. The winner has the name alone, so an answer does not depend on the order of events.
//! - **What exists.** Every parent of a name exists, too: asking for it is NODATA, not NXDOMAIN, which would deny all below it.
//! - **An update** builds a whole table, some milliseconds for thousands of names; readers keep the former one meanwhile.

mod build;
mod table;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

pub(crate) use build::soa_numbers;
pub(crate) use table::{Found, POINTER, Set, Table, address_record, push_records};

/// Seconds that answers about the cluster may be kept: CoreDNS's, as Kubernetes sets it up.
pub const TTL_SECONDS: u32 = 5;

/// Version of the Kubernetes DNS specification that `dns-version.<domain>` publishes.
pub const SCHEMA_VERSION: &str = "1.1.0";

/// Protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortProtocol {
    /// `_tcp`
    Tcp,
    /// `_udp`
    Udp,
    /// `_sctp`
    Sctp,
}

impl PortProtocol {
    fn label(self) -> &'static str {
        match self {
            Self::Tcp => "_tcp",
            Self::Udp => "_udp",
            Self::Sctp => "_sctp",
        }
    }
}

/// A port of a Service, or of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortName {
    /// Empty where it has none: no SRV record then.
    pub name: String,
    /// Its protocol.
    pub protocol: PortProtocol,
    /// Its number.
    pub port: u16,
}

/// A pod that runs here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodNames {
    /// Its namespace.
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
    /// Its label `app`.
    pub app_label: Option<String>,
    /// Its label `name`, by which SMARTER knows pods in the host's network.
    pub name_label: Option<String>,
    /// `spec.hostname`
    pub hostname: Option<String>,
    /// `spec.subdomain`
    pub subdomain: Option<String>,
    /// `status.podIPs`
    pub addresses: Vec<IpAddr>,
    /// Pods with one label are answered for by those that are ready, as long as there are any.
    pub is_ready: bool,
    /// It has the node's addresses, not its own.
    pub is_host_network: bool,
}

/// One endpoint of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointNames {
    /// As the pod's `spec.hostname`, where its `spec.subdomain` is the Service.
    pub hostname: Option<String>,
    /// Where it is.
    pub address: IpAddr,
    /// Its ports by the Service's names for them; where empty, the Service's own numbers are published.
    pub ports: Vec<PortName>,
    /// Whether it takes connections.
    pub is_ready: bool,
}

/// A Service that concerns this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceNames {
    /// Its namespace.
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
    /// Empty: headless, its endpoints are published.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalName`: an alias, and nothing else.
    pub external_name: Option<String>,
    /// `spec.ports`
    pub ports: Vec<PortName>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointNames>,
    /// `spec.publishNotReadyAddresses`
    pub publish_not_ready: bool,
}

/// All that has names here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameRecords {
    /// Pods of this node.
    pub pods: Vec<PodNames>,
    /// Services that concern it.
    pub services: Vec<ServiceNames>,
    /// Its own addresses: those of pods in its network.
    pub node_addresses: Vec<IpAddr>,
}

/// Addresses with a common beginning, whose reverse names are answered here and never forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Any address in it.
    pub address: IpAddr,
    /// Bits they have in common.
    pub prefix_len: u8,
}

/// What is known when the node starts.
#[derive(Clone, Debug)]
pub struct NamesConfig {
    /// `cluster.local`, as kubelets call it: below it nothing is ever forwarded.
    pub domain: String,
    /// Where this responder is reached: what `ns.dns.<domain>` has.
    pub server_addresses: Vec<IpAddr>,
    /// The pods' and the Services' ranges.
    pub networks: Vec<Network>,
    /// Bytes that prepared answers may take; names beyond them are left out and counted.
    pub table_bytes_max: usize,
}

impl Default for NamesConfig {
    fn default() -> Self {
        Self {
            domain: "cluster.local".into(),
            server_addresses: Vec::new(),
            networks: Vec::new(),
            // Some 60,000 names: a node has hundreds.
            table_bytes_max: 16 << 20,
        }
    }
}

/// The cluster domain is not a domain name.
#[derive(Debug, thiserror::Error)]
#[error("`{domain}` is not a domain name")]
pub struct DomainError {
    domain: String,
}

/// The table of names. Clones share it.
#[derive(Clone)]
pub struct Names {
    shared: Arc<Shared>,
}

struct Shared {
    config: build::Context,
    /// What the table was built from, so that a change of one part builds the whole.
    records: Mutex<NameRecords>,
    table: RwLock<Arc<Table>>,
    /// Changes with the table: readers look at this alone.
    generation: AtomicU64,
}

impl Names {
    /// A table without pods and Services.
    pub fn new(config: &NamesConfig) -> Result<Self, DomainError> {
        let config = build::Context::new(config).ok_or_else(|| DomainError { domain: config.domain.clone() })?;
        let records = NameRecords::default();
        let table = RwLock::new(Arc::new(build::build(&config, &records, 1)));
        Ok(Self {
            shared: Arc::new(Shared { config, records: Mutex::new(records), table, generation: AtomicU64::new(1) }),
        })
    }

    /// Replaces everything.
    pub fn replace(&self, records: NameRecords) {
        self.update(|current| set(current, records));
    }

    /// Replaces the pods.
    pub fn set_pods(&self, pods: Vec<PodNames>) {
        self.update(|current| set(&mut current.pods, pods));
    }

    /// Replaces the Services.
    pub fn set_services(&self, services: Vec<ServiceNames>) {
        self.update(|current| set(&mut current.services, services));
    }

    /// Replaces the node's addresses.
    pub fn set_node_addresses(&self, addresses: Vec<IpAddr>) {
        self.update(|current| set(&mut current.node_addresses, addresses));
    }

    /// Replaces or adds one pod.
    pub fn set_pod(&self, pod: PodNames) {
        self.update(|current| {
            match current.pods.iter_mut().find(|known| known.name == pod.name && known.namespace == pod.namespace) {
                Some(known) => set(known, pod),
                None => {
                    current.pods.push(pod);
                    true
                }
            }
        });
    }

    /// Removes one pod.
    pub fn remove_pod(&self, namespace: &str, name: &str) {
        self.update(|current| {
            let before = current.pods.len();
            current.pods.retain(|known| known.name != name || known.namespace != namespace);
            current.pods.len() != before
        });
    }

    /// Names that are answered, and how many were left out because the table was full or they are none.
    pub fn counts(&self) -> (usize, usize) {
        let table = self.shared.current();
        (table.len(), table.left_out())
    }

    /// Builds a new table where `change` says that it changed something.
    ///
    /// The lock on the records is held until the table is published, so that two updates cannot overtake each other. Readers never take it.
    fn update(&self, change: impl FnOnce(&mut NameRecords) -> bool) {
        let shared = &self.shared;
        let mut records = shared.records.lock().unwrap_or_else(PoisonError::into_inner);
        if !change(&mut records) {
            return;
        }
        let generation = shared.generation.load(Ordering::Relaxed) + 1;
        let table = Arc::new(build::build(&shared.config, &records, generation));
        let former = {
            let mut slot = shared.table.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *slot, table)
        };
        shared.generation.store(generation, Ordering::Release);
        // Freed outside of the lock: thousands of allocations.
        drop(former);
    }

    pub(crate) fn reader(&self) -> Reader {
        let generation = self.shared.generation.load(Ordering::Acquire);
        Reader { table: self.shared.current(), shared: Arc::clone(&self.shared), generation }
    }
}

/// Replaces a value; whether it is another one.
fn set<T: PartialEq>(slot: &mut T, value: T) -> bool {
    let is_another = *slot != value;
    *slot = value;
    is_another
}

impl Shared {
    fn current(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One thread's view of the table.
pub(crate) struct Reader {
    shared: Arc<Shared>,
    table: Arc<Table>,
    generation: u64,
}

impl Reader {
    /// The newest table: one atomic read as long as nothing changed.
    pub(crate) fn table(&mut self) -> &Arc<Table> {
        let generation = self.shared.generation.load(Ordering::Acquire);
        if generation != self.generation {
            self.table = self.shared.current();
            self.generation = generation;
        }
        &self.table
    }
}

#[cfg(test)]
pub(crate) mod tests;
