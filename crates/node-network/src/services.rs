//! Services as the node's assignment names them, and what they are in the table.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, btree_map::Entry},
    net::IpAddr,
};

use tracing::warn;

use crate::{
    conntrack::Changed,
    links::octets,
    names,
    nft::{Family, Value},
    table::{Change, Contents, ServiceChain, Set, difference, port_key},
};

/// More than a node's pods can be behind one port; bounds what one message of a hub can make the kernel hold.
const ENDPOINTS_MAX: usize = 2048;
/// Ports of all services together.
const PORTS_MAX: usize = 32_768;
/// What of the table belongs to services.
const SETS: [Set; 3] = [Set::ClusterIps, Set::Services, Set::NodePorts];

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Its number in packets.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// Its name, in small letters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// As the service calls it.
    pub name: String,
    /// Of the port.
    pub protocol: Protocol,
    /// At the service's addresses.
    pub port: u16,
    /// At the node's addresses.
    pub node_port: Option<u16>,
    /// Who answers. Empty: connections are refused.
    pub endpoints: Vec<(IpAddr, u16)>,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEntry {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its addresses; none for a headless one.
    pub cluster_ips: Vec<IpAddr>,
    /// Whether a client stays with its endpoint (`sessionAffinity: ClientIP`), and how long at least. It always stays for as
    /// long as the endpoint exists.
    pub affinity_secs: Option<u32>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
}

impl ServiceEntry {
    fn key(&self) -> (&str, &str) {
        (&self.namespace, &self.name)
    }

    /// Whether two differ in nothing but who answers, and in both somebody answers or nobody does.
    fn differs_in_endpoints_only(&self, other: &Self, family: Family) -> bool {
        let is_same = |(mine, theirs): (&ServicePort, &ServicePort)| {
            let is_served = |port: &ServicePort| port.endpoints.iter().any(|(address, _)| family.has(address));
            (mine.protocol, mine.port, mine.node_port) == (theirs.protocol, theirs.port, theirs.node_port)
                && is_served(mine) == is_served(theirs)
        };
        self.cluster_ips == other.cluster_ips
            && self.ports.len() == other.ports.len()
            && self.ports.iter().zip(&other.ports).all(is_same)
    }

    /// The chain of a port, and where it leads; `None` when nobody answers.
    fn chain(&self, port: &ServicePort, family: Family) -> Option<(String, ServiceChain)> {
        let mut endpoints: Vec<_> = port.endpoints.iter().copied().filter(|(address, _)| family.has(address)).collect();
        endpoints.sort_unstable();
        endpoints.dedup();
        if endpoints.len() > ENDPOINTS_MAX {
            warn!(
                namespace = self.namespace,
                service = self.name,
                endpoints = endpoints.len(),
                "A service has too many endpoints; only {ENDPOINTS_MAX} are used."
            );
            endpoints.truncate(ENDPOINTS_MAX);
        }
        let name = names::service_chain(&self.namespace, &self.name, port.protocol.name(), port.port);
        let has_affinity = self.affinity_secs.is_some();
        (!endpoints.is_empty()).then_some((name, ServiceChain { endpoints, has_affinity }))
    }
}

/// Everything that services are in a table.
struct Desired {
    elements: BTreeMap<(Set, Vec<u8>), Value>,
    chains: BTreeMap<String, ServiceChain>,
}

fn desired(services: &[ServiceEntry], family: Family) -> Desired {
    let mut desired = Desired { elements: BTreeMap::new(), chains: BTreeMap::new() };
    let mut ports = 0;
    for service in services {
        let addresses = || service.cluster_ips.iter().filter(|address| family.has(address));
        for address in addresses() {
            desired.elements.insert((Set::ClusterIps, octets(address)), Value::None);
        }
        for port in &service.ports {
            let Some((name, chain)) = service.chain(port, family) else { continue };
            ports += 1;
            if ports > PORTS_MAX {
                warn!(
                    namespace = service.namespace,
                    service = service.name,
                    "Too many ports of services; the rest is left out."
                );
                return desired;
            }
            let protocol = port.protocol.number();
            let keys = addresses().map(|address| (Set::Services, port_key(Some(address), protocol, port.port)));
            let node_port = port.node_port.map(|port| (Set::NodePorts, port_key(None, protocol, port)));
            let mut is_used = false;
            for key in keys.chain(node_port) {
                match desired.elements.entry(key) {
                    Entry::Vacant(entry) => {
                        entry.insert(Value::Goto(name.clone()));
                        is_used = true;
                    }
                    Entry::Occupied(entry) => warn!(
                        namespace = service.namespace,
                        service = service.name,
                        port = port.port,
                        taken_by = ?entry.get(),
                        "Another service has this address and port already."
                    ),
                }
            }
            // A headless service has addresses of pods only, and needs no chain.
            if is_used {
                desired.chains.entry(name).or_insert(chain);
            }
        }
    }
    desired
}

/// What makes a table contain exactly these services.
fn full_change(entries: &[ServiceEntry], contents: &Contents, family: Family) -> Change {
    let desired = desired(entries, family);
    let delete_chains = contents.chains.keys().filter(|name| !desired.chains.contains_key(*name)).cloned().collect();
    let is_changed = |(name, chain): &(String, ServiceChain)| contents.chains.get(name) != Some(&chain.fingerprint());
    Change {
        put_chains: desired.chains.into_iter().filter(is_changed).collect(),
        delete_chains,
        ..difference(contents, &SETS, desired.elements)
    }
}

/// The services that are programmed.
#[derive(Debug, Default)]
pub struct Services {
    /// Sorted by namespace and name.
    entries: Vec<ServiceEntry>,
    /// Whether they are what the tables were last made to contain.
    is_current: bool,
}

/// What changes when other services become the desired ones.
#[derive(Debug)]
pub struct Update {
    entries: Vec<ServiceEntry>,
    /// Those that changed or are new, by their place.
    changed: Vec<usize>,
    /// Those that changed or are no longer there, as they were.
    before: Vec<ServiceEntry>,
    is_partial: bool,
}

impl Services {
    /// Compares with the services that should be. Of two with one name the later is taken.
    pub fn compare(&self, mut services: Vec<ServiceEntry>) -> Update {
        services.sort_by(|one, other| one.key().cmp(&other.key()));
        services.dedup_by(|later, kept| {
            let is_same = later.key() == kept.key();
            if is_same {
                std::mem::swap(later, kept);
            }
            is_same
        });
        let (mut changed, mut before) = (Vec::new(), Vec::new());
        let mut old = self.entries.iter().peekable();
        for (place, entry) in services.iter().enumerate() {
            before.extend(std::iter::from_fn(|| old.next_if(|old| old.key() < entry.key())).cloned());
            match old.next_if(|old| old.key() == entry.key()) {
                Some(old) if old == entry => {}
                found => {
                    before.extend(found.cloned());
                    changed.push(place);
                }
            }
        }
        before.extend(old.cloned());
        let is_partial = self.is_current && self.entries.len() == services.len();
        Update { entries: services, changed, before, is_partial }
    }

    /// Remembers an update that was made.
    pub fn commit(&mut self, update: Update) {
        self.entries = update.entries;
        self.is_current = true;
    }

    /// What it takes to make a table contain them again. Nothing while they were not set since the start.
    pub fn restoring(&self, contents: &Contents, family: Family) -> Change {
        if !self.is_current {
            return Change::default();
        }
        full_change(&self.entries, contents, family)
    }
}

impl Update {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.is_partial && self.changed.is_empty()
    }

    /// Makes this an update of everything, whatever is thought to be programmed.
    pub fn make_full(&mut self) {
        self.is_partial = false;
    }

    /// The change of one table.
    pub fn change(&self, contents: &Contents, family: Family) -> Change {
        let changed = || self.changed.iter().filter_map(|place| self.entries.get(*place));
        let is_same_but_endpoints = |(new, old): (&ServiceEntry, &ServiceEntry)| {
            new.key() == old.key() && new.differs_in_endpoints_only(old, family)
        };
        if self.is_partial
            && self.changed.len() == self.before.len()
            && changed().zip(&self.before).all(is_same_but_endpoints)
        {
            // What a thousand other services are does not matter; only chains that exist are looked at.
            let chains = changed().flat_map(|entry| entry.ports.iter().map(move |port| entry.chain(port, family)));
            let is_changed = |(name, chain): &(String, ServiceChain)| {
                contents.chains.get(name).is_some_and(|hash| *hash != chain.fingerprint())
            };
            return Change { put_chains: chains.flatten().filter(is_changed).collect(), ..Change::default() };
        }
        full_change(&self.entries, contents, family)
    }

    /// Flows of UDP that may lead to a wrong endpoint after this. `changed_chains` were written anew; a service that was
    /// removed has no endpoints.
    pub fn flows(&self, changed_chains: &BTreeSet<String>) -> Changed {
        let mut services: HashMap<(IpAddr, u16), HashSet<(IpAddr, u16)>> = HashMap::new();
        let mut node_ports: HashMap<u16, HashSet<(IpAddr, u16)>> = HashMap::new();
        let mut note = |entry: &ServiceEntry, port: &ServicePort, endpoints: &[(IpAddr, u16)]| {
            for address in &entry.cluster_ips {
                services.entry((*address, port.port)).or_default().extend(endpoints);
            }
            if let Some(port) = port.node_port {
                node_ports.entry(port).or_default().extend(endpoints);
            }
        };
        let is_udp = |port: &&ServicePort| port.protocol == Protocol::Udp;
        for entry in &self.before {
            entry.ports.iter().filter(is_udp).for_each(|port| note(entry, port, &[]));
        }
        for entry in &self.entries {
            // Sorted, as the services are.
            let is_before = self.before.binary_search_by(|before| before.key().cmp(&entry.key())).is_ok();
            for port in entry.ports.iter().filter(is_udp) {
                let chain = || names::service_chain(&entry.namespace, &entry.name, port.protocol.name(), port.port);
                if is_before || changed_chains.contains(&chain()) {
                    note(entry, port, &port.endpoints);
                }
            }
        }
        Changed { services, node_ports, local: HashSet::new() }
    }
}
