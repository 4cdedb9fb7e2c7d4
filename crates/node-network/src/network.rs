//! The network of a node as one object: what the agent calls.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    net::IpAddr,
    path::Path,
    sync::{Mutex, PoisonError},
};

use tracing::{debug, warn};

use crate::{
    Exhausted, Notice, ServiceEntry, Subnet,
    addresses::{Addresses, choose_subnet},
    conntrack::{self, Changed},
    links::{self, EnsureError, PodEnds},
    names,
    netlink::{NetlinkError, Protocol, Socket},
    nft::{Family, Value},
    services::{self, Services},
    settings::{FORWARD_IPV4, FORWARD_IPV6, forward, read_setting, write_setting},
    table::{Base, Change, Contents, Set, Table, difference, endpoint_value, hairpin_key, port_key},
};

/// What every link has unless somebody says otherwise.
const MTU_DEFAULT: u32 = 1500;
/// IPv6 must carry packets of this size.
const MTU_MIN: u32 = 1280;
/// Freed addresses remembered before those whose links no longer exist are forgotten.
const LINGERING_MAX: usize = 256;
/// What belongs to pods in the table.
const POD_SETS: [Set; 4] = [Set::Pods, Set::Hairpin, Set::HostPorts, Set::HostPortsAt];

/// How a node's network should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Addresses of pods.
    pub subnet: Subnet,
    /// IPv6 addresses of pods; none: pods have IPv4 only.
    pub subnet6: Option<Subnet>,
    /// Bytes of a packet of a pod; `None`: as the uplink's when the pod begins.
    pub mtu: Option<u32>,
    /// Addresses of the cluster's services: the node's own programs reach them without any uplink.
    pub service_subnets: Vec<Subnet>,
    /// Where pods are known by their own addresses: other nodes' pods, when something routes them.
    pub no_masquerade: Vec<Subnet>,
    /// Addresses of this machine on which the agent itself listens; no pod's host port takes a port of theirs.
    pub reserved: Vec<IpAddr>,
    /// What [`Network::last_addresses`] returned before a restart, so that addresses do not come back too soon.
    pub last_addresses: Vec<IpAddr>,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            subnet: Subnet { address: IpAddr::from([10, 39, 0, 0]), prefix: 16 },
            subnet6: None,
            mtu: None,
            service_subnets: Vec::new(),
            no_masquerade: Vec::new(),
            reserved: Vec::new(),
            last_addresses: Vec::new(),
        }
    }
}

/// A port of a pod on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// At which of the node's addresses; `None`: at all.
    pub host_ip: Option<IpAddr>,
    /// The node's port.
    pub host_port: u16,
    /// The pod's.
    pub container_port: u16,
    /// Of both.
    pub protocol: services::Protocol,
}

/// A pod that should be on the network.
#[derive(Clone, Copy, Debug)]
pub struct PodLink<'a> {
    /// Its uid.
    pub uid: &'a str,
    /// The file of its network namespace.
    pub netns: &'a Path,
    /// Its ports on the node.
    pub host_ports: &'a [HostPort],
    /// The addresses that it had before; none for a new one.
    pub addresses: &'a [IpAddr],
}

/// Why the network is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernel refused.
    #[error("failed to set the node's network up")]
    Node(#[source] NetlinkError),
    /// The kernel has no nftables, or refused a change.
    #[error("failed to change the node's nftables")]
    Table(#[source] NetlinkError),
    /// No address is free.
    #[error("pod {uid} gets no address")]
    Address {
        /// The pod.
        uid: String,
        /// Of which range.
        #[source]
        source: Exhausted,
    },
    /// Another pod has the port.
    #[error("host port {port}/{} is taken by pod {owner}", protocol.name())]
    HostPortTaken {
        /// The port.
        port: u16,
        /// Of the port.
        protocol: services::Protocol,
        /// The pod that has it.
        owner: String,
    },
    /// The pod's namespace does not exist.
    #[error("failed to open the network namespace of pod {uid}")]
    Namespace {
        /// The pod.
        uid: String,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// The pod's link is incomplete.
    #[error("failed to connect pod {uid}")]
    Link {
        /// The pod.
        uid: String,
        /// What went wrong.
        #[source]
        source: EnsureError,
    },
}

/// What [`Network::reconcile`] found.
#[derive(Debug, Default)]
pub struct Reconciled {
    /// Pods whose link was incomplete and was set up again.
    pub repaired: Vec<String>,
    /// Links of pods that are none any more.
    pub removed: Vec<String>,
    /// Pods that are not on the network now.
    pub failed: Vec<(String, NetworkError)>,
}

/// The network of this machine.
///
/// Every function may block for milliseconds, and no two run at once; callers that serve others run them beside. The kernel
/// keeps what was set up when this is dropped: pods of an agent that is started again notice nothing.
#[derive(Debug)]
pub struct Network {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: NetworkConfig,
    route: Socket,
    netfilter: Socket,
    addresses: Addresses,
    /// The node's addresses among those of pods.
    node: Vec<IpAddr>,
    tables: Vec<Table>,
    host_ports: BTreeMap<String, Vec<HostPort>>,
    services: Services,
    /// The kernel's count of changes of tables when ours were last known to be as they should.
    generation: Option<u32>,
    /// Whether the pods of an earlier run are known.
    is_reconciled: bool,
    /// What the last look at uplinks has found.
    noticed: Vec<Notice>,
}

impl Network {
    /// Prepares the node: addresses of its own, forwarding, the table. What an earlier run has set up is taken over.
    pub fn open(config: NetworkConfig) -> Result<(Self, Vec<Notice>), NetworkError> {
        let mut notices = Vec::new();
        let mut route = Socket::open(Protocol::Route).map_err(NetworkError::Node)?;
        let mut netfilter = Socket::open(Protocol::Netfilter).map_err(NetworkError::Table)?;
        let (mut subnets, moved) = choose(&config, &mut route)?;
        notices.extend(moved);
        let mut tables = Vec::new();
        for (family, setting) in [(Family::Ip, FORWARD_IPV4), (Family::Ip6, FORWARD_IPV6)] {
            let Some(subnet) = subnets.iter().find(|subnet| family.has(&subnet.address)) else { continue };
            let forwarded = read_setting(setting).is_some_and(|value| value != "0");
            match open_family(&config, family, subnet.node_address(), forwarded, &mut route, &mut netfilter) {
                Ok(table) => tables.push(table),
                Err(error) if family == Family::Ip => return Err(error),
                Err(error) => {
                    notices.push(Notice::NoIpv6 { reason: chain(&error) });
                    subnets.retain(Subnet::is_ipv4);
                    continue;
                }
            }
            // The guard is there before the machine forwards.
            if !forwarded {
                notices.extend(forward(setting));
            }
        }
        let node: Vec<IpAddr> = subnets.iter().map(Subnet::node_address).collect();
        let dropping = crate::nft::read::dropping_forward_chains(&mut netfilter).map_err(NetworkError::Table)?;
        notices.extend(dropping.into_iter().map(|chain| Notice::ForwardDropped { chain }));
        let addresses = Addresses::new(&subnets, &config.last_addresses);
        let host_ports = BTreeMap::new();
        let services = Services::default();
        let generation = None;
        let mut inner = Inner {
            config,
            route,
            netfilter,
            addresses,
            node,
            tables,
            host_ports,
            services,
            generation,
            is_reconciled: false,
            noticed: notices.clone(),
        };
        inner.put_node_addresses()?;
        Ok((Self { inner: Mutex::new(inner) }, notices))
    }

    fn locked<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        // Whatever a panic interrupted, the next call compares with the kernel's state or repeats the whole.
        act(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The ranges that new pods get addresses from.
    pub fn subnets(&self) -> Vec<Subnet> {
        self.locked(|inner| inner.addresses.subnets().collect())
    }

    /// The node's addresses among those of its pods: from these it speaks to them.
    pub fn node_addresses(&self) -> Vec<IpAddr> {
        self.locked(|inner| inner.node.clone())
    }

    /// The addresses handed out last, to be remembered for [`NetworkConfig::last_addresses`].
    pub fn last_addresses(&self) -> Vec<IpAddr> {
        self.locked(|inner| inner.addresses.last())
    }

    /// Takes new addresses from behind those that were handed out last before a restart, whatever was adopted since: what
    /// [`NetworkConfig::last_addresses`] is to a caller who knows them later.
    pub fn resume(&self, last: &[IpAddr]) {
        self.locked(|inner| inner.addresses.resume(last));
    }

    /// Whether a pod has this address, of whatever range.
    pub fn is_pod(&self, address: &IpAddr) -> bool {
        self.locked(|inner| inner.addresses.is_taken(address))
    }

    /// Frees the node's ports of a pod whose programs have ended for good; its addresses stay until it is removed.
    pub fn release_host_ports(&self, uid: &str) -> Result<(), NetworkError> {
        self.locked(|inner| inner.release_host_ports(uid))
    }

    /// Puts a pod on the network, or completes what is there of it. Returns its addresses, to be remembered.
    ///
    /// # Errors
    /// A new pod that fails has nothing on the network afterwards but perhaps a link, which ends with its namespace.
    pub fn setup_pod(&self, pod: PodLink<'_>) -> Result<Vec<IpAddr>, NetworkError> {
        self.locked(|inner| inner.setup_pod(pod))
    }

    /// Takes a pod off the network. Its link ends with its namespace, which is the caller's; waiting for it here would take
    /// the kernel tens of milliseconds. A pod that is not known is fine.
    pub fn remove_pod(&self, uid: &str) -> Result<(), NetworkError> {
        self.locked(|inner| inner.remove_pod(uid))
    }

    /// Makes these the services, all at once: connections that exist are not touched, those to come see the old or the new.
    pub fn set_services(&self, services: Vec<ServiceEntry>) -> Result<(), NetworkError> {
        self.locked(|inner| inner.set_services(services))
    }

    /// Compares the kernel's state with the pods that should be on the network, as after a restart, and changes what differs. A pod
    /// whose addresses are not known keeps those that its link has.
    pub fn reconcile(&self, pods: &[PodLink<'_>]) -> Result<Reconciled, NetworkError> {
        self.locked(|inner| inner.reconcile(pods))
    }

    /// Looks whether somebody else has changed nftables, and puts ours right if so: a firewall that is loaded again deletes
    /// every table. Costs one message when nobody has; to be called every few seconds. Returns whether something was wrong.
    pub fn repair(&self) -> Result<bool, NetworkError> {
        self.locked(Inner::repair)
    }

    /// Looks whether an uplink has come that uses the pods' addresses; new pods get others then. What was noticed by the look before is
    /// not said again.
    pub fn check_uplinks(&self) -> Result<Vec<Notice>, NetworkError> {
        self.locked(Inner::check_uplinks)
    }

    /// Removes everything that this program has set up on this machine's network, whether a [`Network`] is open or not.
    pub fn disable(config: &NetworkConfig) -> Result<(), NetworkError> {
        let mut route = Socket::open(Protocol::Route).map_err(NetworkError::Node)?;
        let mut netfilter = Socket::open(Protocol::Netfilter).map_err(NetworkError::Table)?;
        let mut node = Vec::new();
        for family in [Family::Ip, Family::Ip6] {
            // A kernel without the family has no table of it.
            let Ok(true) = crate::nft::read::has_table(&mut netfilter, family, names::TABLE) else { continue };
            node.extend(own_addresses(&mut route, &mut netfilter, family)?);
            let was_guarded = guarded(&mut netfilter, family).map_err(NetworkError::Table)?;
            if was_guarded {
                let setting = if family == Family::Ip { FORWARD_IPV4 } else { FORWARD_IPV6 };
                write_setting(setting, "0")
                    .unwrap_or_else(|error| debug!(setting, %error, "Failed to restore a setting."));
            }
            Table::delete(&mut netfilter, family).map_err(NetworkError::Table)?;
        }
        for link in links::list(&mut route).map_err(NetworkError::Node)? {
            if is_own(&link) {
                links::delete(&mut route, &link.name).map_err(NetworkError::Node)?;
            }
        }
        links::remove_node(&mut route, &node, &config.service_subnets).map_err(NetworkError::Node)
    }
}

/// Prepares one family.
fn open_family(
    config: &NetworkConfig,
    family: Family,
    node: IpAddr,
    forwarded: bool,
    route: &mut Socket,
    netfilter: &mut Socket,
) -> Result<Table, NetworkError> {
    let services: Vec<Subnet> =
        config.service_subnets.iter().filter(|subnet| family.has(&subnet.address)).copied().collect();
    links::ensure_node(route, &[node], &services).map_err(NetworkError::Node)?;
    // It may have been this program that made the machine forward, in an earlier run.
    let is_guarded = !forwarded || guarded(netfilter, family).map_err(NetworkError::Table)?;
    let base = Base { no_masquerade: config.no_masquerade.clone(), reserved: config.reserved.clone(), is_guarded };
    Table::open(netfilter, family, base).map_err(NetworkError::Table)
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn is_own(link: &links::Link) -> bool {
    link.name.starts_with(names::HOST_LINK_PREFIX) && names::uid_of(&link.alias).is_some()
}

/// The node's addresses that this program has set: those on `lo` that the table counts among the pods'.
fn own_addresses(route: &mut Socket, netfilter: &mut Socket, family: Family) -> Result<Vec<IpAddr>, NetworkError> {
    let pods = crate::nft::read::elements(netfilter, family, names::TABLE, Set::Pods.name());
    let pods: BTreeSet<Vec<u8>> = pods.map_err(NetworkError::Table)?.into_iter().map(|(key, _)| key).collect();
    let Some(lo) = links::find(route, "lo").map_err(NetworkError::Node)? else { return Ok(Vec::new()) };
    let addresses = links::addresses(route).map_err(NetworkError::Node)?.into_iter();
    let own = addresses.filter(|(subnet, link)| *link == lo.index && pods.contains(&links::octets(&subnet.address)));
    Ok(own.map(|(subnet, _)| subnet.address).collect())
}

/// Whether the table there is was written with a guard.
fn guarded(netfilter: &mut Socket, family: Family) -> Result<bool, NetlinkError> {
    let chains = crate::nft::read::chains(netfilter, family, names::TABLE)?;
    Ok(chains.contains_key(crate::table::TRANSIT_CHAIN))
}

fn choose(config: &NetworkConfig, route: &mut Socket) -> Result<(Vec<Subnet>, Vec<Notice>), NetworkError> {
    let in_use = links::in_use(route).map_err(NetworkError::Node)?;
    let desired = [Some(config.subnet), config.subnet6].into_iter().flatten();
    let (subnets, notices): (_, Vec<_>) = desired.map(|subnet| choose_subnet(subnet, &in_use)).unzip();
    Ok((subnets, notices.into_iter().flatten().collect()))
}

impl Inner {
    fn setup_pod(&mut self, pod: PodLink<'_>) -> Result<Vec<IpAddr>, NetworkError> {
        self.check_host_ports(&pod)?;
        let namespace =
            File::open(pod.netns).map_err(|source| NetworkError::Namespace { uid: pod.uid.to_owned(), source })?;
        let is_new = self.addresses.of(pod.uid).is_empty() && pod.addresses.is_empty();
        let result = self.addresses_for(&pod).and_then(|addresses| self.connect(&pod, &namespace, addresses));
        if result.is_err() && is_new {
            self.addresses.release(pod.uid);
        }
        result
    }

    fn addresses_for(&mut self, pod: &PodLink<'_>) -> Result<Vec<IpAddr>, NetworkError> {
        let route = &mut self.route;
        if self.addresses.lingering() > LINGERING_MAX {
            let links = links::list(route).map_err(NetworkError::Node)?;
            let names: BTreeSet<&str> = links.iter().map(|link| link.name.as_str()).collect();
            self.addresses.settle(|owner| names.contains(names::host_link(owner).as_str()));
        }
        self.addresses.adopt(pod.uid, pod.addresses);
        // Asked only when the pool has come round; an answer that fails counts as a link that exists.
        let route = std::cell::RefCell::new(route);
        let is_link_there =
            |owner: &str| !matches!(links::find(&mut route.borrow_mut(), &names::host_link(owner)), Ok(None));
        let addresses = self.addresses.allocate(pod.uid, is_link_there);
        addresses.map_err(|source| NetworkError::Address { uid: pod.uid.to_owned(), source })
    }

    fn connect(
        &mut self,
        pod: &PodLink<'_>,
        namespace: &File,
        addresses: Vec<IpAddr>,
    ) -> Result<Vec<IpAddr>, NetworkError> {
        let mtu = self.mtu()?;
        let ends = PodEnds { uid: pod.uid, namespace, addresses: &addresses, node: &self.node, mtu };
        ends.ensure(&mut self.route).map_err(|source| NetworkError::Link { uid: pod.uid.to_owned(), source })?;
        let before = self.host_ports.insert(pod.uid.to_owned(), pod.host_ports.to_vec()).unwrap_or_default();
        for index in 0..self.tables.len() {
            let family = self.tables[index].family();
            let desired = pod_elements(family, &addresses, pod.host_ports);
            // Ports that the pod had before and has no longer.
            let mut former = pod_elements(family, &addresses, &before);
            former.retain(|key, _| !desired.contains_key(key));
            self.apply(index, |contents| {
                let mut change = Change::default();
                change.put.extend(
                    desired.iter().filter(|(key, value)| contents.elements.get(*key) != Some(value)).map(owned),
                );
                change.delete.extend(former.keys().filter(|key| contents.elements.contains_key(*key)).cloned());
                change
            })?;
        }
        self.forget_flows_to_host_ports(&addresses, pod.host_ports);
        Ok(addresses)
    }

    fn mtu(&mut self) -> Result<u32, NetworkError> {
        let mtu = match self.config.mtu {
            Some(mtu) => mtu,
            None => links::uplink_mtu(&mut self.route).map_err(NetworkError::Node)?.unwrap_or(MTU_DEFAULT),
        };
        Ok(mtu.clamp(MTU_MIN, u16::MAX.into()))
    }

    /// A port belongs to the pod that came first.
    fn check_host_ports(&self, pod: &PodLink<'_>) -> Result<(), NetworkError> {
        let others = || self.host_ports.iter().filter(|(uid, _)| *uid != pod.uid);
        for port in pod.host_ports {
            let collides = |other: &HostPort| {
                (other.host_port, other.protocol) == (port.host_port, port.protocol)
                    && (other.host_ip.is_none() || port.host_ip.is_none() || other.host_ip == port.host_ip)
            };
            if let Some((owner, _)) = others().find(|(_, ports)| ports.iter().any(collides)) {
                let (port, protocol) = (port.host_port, port.protocol);
                return Err(NetworkError::HostPortTaken { port, protocol, owner: owner.clone() });
            }
        }
        Ok(())
    }

    /// Clients of a port of UDP that another pod had before.
    fn forget_flows_to_host_ports(&mut self, addresses: &[IpAddr], host_ports: &[HostPort]) {
        let udp = host_ports.iter().filter(|port| port.protocol == services::Protocol::Udp);
        let node_ports =
            udp.map(|port| (port.host_port, addresses.iter().map(|address| (*address, port.container_port)).collect()));
        self.forget_flows(Changed { node_ports: node_ports.collect(), ..Changed::default() });
    }

    /// Failing here leaves clients of UDP with an endpoint that does not answer, until they pause: no reason to fail as a whole.
    fn forget_flows(&mut self, mut changed: Changed) {
        if changed.is_empty() {
            return;
        }
        if !changed.node_ports.is_empty() {
            let local = links::addresses(&mut self.route).unwrap_or_default();
            changed.local = local.into_iter().map(|(subnet, _)| subnet.address).collect();
        }
        for table in &self.tables {
            match conntrack::forget_stale(&mut self.netfilter, table.family().number(), &changed) {
                Ok(0) => {}
                Ok(flows) => debug!(flows, "Made the kernel forget flows to former endpoints."),
                Err(error) => warn!(%error, "Flows of UDP may lead to former endpoints for a while."),
            }
        }
    }

    fn remove_pod(&mut self, uid: &str) -> Result<(), NetworkError> {
        let host_ports = self.host_ports.remove(uid).unwrap_or_default();
        let addresses = self.addresses.release(uid);
        for index in 0..self.tables.len() {
            let former = pod_elements(self.tables[index].family(), &addresses, &host_ports);
            self.apply(index, |contents| {
                let delete = former.keys().filter(|key| contents.elements.contains_key(*key)).cloned().collect();
                Change { delete, ..Change::default() }
            })?;
        }
        Ok(())
    }

    fn release_host_ports(&mut self, uid: &str) -> Result<(), NetworkError> {
        let Some(host_ports) = self.host_ports.remove(uid) else { return Ok(()) };
        for index in 0..self.tables.len() {
            let family = self.tables[index].family();
            let mut former = pod_elements(family, self.addresses.of(uid), &host_ports);
            former.retain(|(set, _), _| matches!(set, Set::HostPorts | Set::HostPortsAt));
            self.apply(index, |contents| {
                let delete = former.keys().filter(|key| contents.elements.contains_key(*key)).cloned().collect();
                Change { delete, ..Change::default() }
            })?;
        }
        Ok(())
    }

    /// Changes a table. When somebody else has changed it, it is put right first.
    fn apply(&mut self, index: usize, change: impl Fn(&Contents) -> Change) -> Result<(), NetworkError> {
        let first = change(self.tables[index].contents());
        match self.send(index, first) {
            Err(error) if is_conflict(&error) => {
                warn!(%error, "The node's table was changed by somebody else; putting it right.");
                self.restore(index)?;
                let change = change(self.tables[index].contents());
                self.send(index, change).map_err(NetworkError::Table)
            }
            result => result.map_err(NetworkError::Table),
        }
    }

    /// Makes a change, and notes that the kernel's count of changes has grown by it.
    fn send(&mut self, index: usize, change: Change) -> Result<(), NetlinkError> {
        if change.is_empty() {
            return Ok(());
        }
        self.tables[index].apply(&mut self.netfilter, change)?;
        self.generation = self.generation.map(|generation| generation.wrapping_add(1));
        Ok(())
    }

    /// Reads what the kernel has of a table and makes it what it should be; returns whether it was not. Services that were not
    /// set since the start stay as they are.
    fn restore(&mut self, index: usize) -> Result<bool, NetworkError> {
        self.generation = None;
        let table = &mut self.tables[index];
        let family = table.family();
        let was_whole = table.reload(&mut self.netfilter).map_err(NetworkError::Table)?;
        let mut change = self.services.restoring(self.tables[index].contents(), family);
        let pods = difference(self.tables[index].contents(), &POD_SETS, self.pods_desired(family));
        change.put.extend(pods.put);
        // Pods of an earlier run are known only after they were compared once.
        if self.is_reconciled {
            change.delete.extend(pods.delete);
        }
        let is_right = was_whole && change.is_empty();
        self.send(index, change).map_err(NetworkError::Table)?;
        Ok(!is_right)
    }

    fn repair(&mut self) -> Result<bool, NetworkError> {
        let generation = crate::nft::read::generation(&mut self.netfilter).map_err(NetworkError::Table)?;
        if self.generation == Some(generation) {
            return Ok(false);
        }
        let mut was_wrong = false;
        for index in 0..self.tables.len() {
            was_wrong |= self.restore(index)?;
        }
        // Read before the comparison: what somebody changes meanwhile is noticed next time.
        self.generation = if was_wrong { None } else { Some(generation) };
        Ok(was_wrong)
    }

    fn put_node_addresses(&mut self) -> Result<(), NetworkError> {
        let node = self.node.clone();
        for index in 0..self.tables.len() {
            let family = self.tables[index].family();
            self.apply(index, |contents| {
                let keys = node.iter().filter(|address| family.has(address));
                let keys = keys.map(|address| (Set::Pods, links::octets(address)));
                let put =
                    keys.filter(|key| !contents.elements.contains_key(key)).map(|key| (key, Value::None)).collect();
                Change { put, ..Change::default() }
            })?;
        }
        Ok(())
    }

    fn set_services(&mut self, services: Vec<ServiceEntry>) -> Result<(), NetworkError> {
        let mut update = self.services.compare(services);
        if update.is_empty() {
            return Ok(());
        }
        let mut changed_chains = BTreeSet::new();
        for index in 0..self.tables.len() {
            let family = self.tables[index].family();
            let change = update.change(self.tables[index].contents(), family);
            changed_chains.extend(change.put_chains.iter().map(|(name, _)| name.clone()));
            let Err(error) = self.send(index, change) else { continue };
            if !is_conflict(&error) {
                return Err(NetworkError::Table(error));
            }
            warn!(%error, "The node's table was changed by somebody else; putting it right.");
            self.restore(index)?;
            update.make_full();
            let change = update.change(self.tables[index].contents(), family);
            changed_chains.extend(change.put_chains.iter().map(|(name, _)| name.clone()));
            self.send(index, change).map_err(NetworkError::Table)?;
        }
        let flows = update.flows(&changed_chains);
        self.services.commit(update);
        self.forget_flows(flows);
        Ok(())
    }

    fn reconcile(&mut self, pods: &[PodLink<'_>]) -> Result<Reconciled, NetworkError> {
        let mut found = Reconciled::default();
        let links = links::list(&mut self.route).map_err(NetworkError::Node)?;
        let live: BTreeSet<&str> = pods.iter().map(|pod| pod.uid).collect();
        let former: Vec<String> = self.addresses.uids().filter(|uid| !live.contains(uid)).map(str::to_owned).collect();
        for uid in former {
            self.remove_pod(&uid)?;
        }
        for link in links.iter().filter(|link| is_own(link)) {
            let Some(uid) = names::uid_of(&link.alias).filter(|uid| !live.contains(uid)) else { continue };
            links::delete(&mut self.route, &link.name).map_err(NetworkError::Node)?;
            found.removed.push(uid.to_owned());
        }
        // All that is remembered first: no repaired pod gets the address of one further down.
        let routes = links::routes(&mut self.route).map_err(NetworkError::Node)?;
        for pod in pods {
            self.addresses.adopt(pod.uid, pod.addresses);
        }
        for pod in pods.iter().filter(|pod| pod.addresses.is_empty()) {
            let name = names::host_link(pod.uid);
            let Some(link) = links.iter().find(|link| link.name == name && is_own(link)) else { continue };
            let own = routes.iter().filter(|route| route.is_own && route.link == link.index);
            let found: Vec<IpAddr> = own.filter_map(|route| Some(route.to?.address)).collect();
            self.addresses.adopt(pod.uid, &found);
        }
        for pod in pods {
            let link = links.iter().find(|link| link.name == names::host_link(pod.uid) && link.is_up);
            let is_routed = |address: &IpAddr| {
                let index = link.map(|link| link.index);
                routes
                    .iter()
                    .any(|route| Some(route.link) == index && route.to.is_some_and(|to| to.address == *address))
            };
            let addresses = self.addresses.of(pod.uid);
            let is_whole = link.is_some_and(|link| names::uid_of(&link.alias) == Some(pod.uid))
                && addresses.len() >= self.tables.len()
                && addresses.iter().all(is_routed);
            if is_whole && self.check_host_ports(pod).is_ok() {
                self.host_ports.insert(pod.uid.to_owned(), pod.host_ports.to_vec());
                continue;
            }
            match self.setup_pod(*pod) {
                Ok(_) => found.repaired.push(pod.uid.to_owned()),
                Err(error) => found.failed.push((pod.uid.to_owned(), error)),
            }
        }
        self.put_pods()?;
        Ok(found)
    }

    /// Makes the tables contain what all pods are, and nothing of others.
    fn put_pods(&mut self) -> Result<(), NetworkError> {
        self.is_reconciled = true;
        for index in 0..self.tables.len() {
            let desired = self.pods_desired(self.tables[index].family());
            self.apply(index, |contents| difference(contents, &POD_SETS, desired.clone()))?;
        }
        self.repair().map(drop)
    }

    /// What all pods and the node are in a table.
    fn pods_desired(&self, family: Family) -> BTreeMap<(Set, Vec<u8>), Value> {
        let node = self.node.iter().filter(|address| family.has(address));
        let mut desired: BTreeMap<_, _> =
            node.map(|address| ((Set::Pods, links::octets(address)), Value::None)).collect();
        for uid in self.addresses.uids() {
            let ports = self.host_ports.get(uid).map(Vec::as_slice).unwrap_or_default();
            desired.extend(pod_elements(family, self.addresses.of(uid), ports));
        }
        desired
    }

    fn check_uplinks(&mut self) -> Result<Vec<Notice>, NetworkError> {
        let in_use = links::in_use(&mut self.route).map_err(NetworkError::Node)?;
        let current: Vec<Subnet> = self.addresses.subnets().collect();
        let (chosen, notices): (Vec<_>, Vec<_>) = current.iter().map(|subnet| choose_subnet(*subnet, &in_use)).unzip();
        if chosen != current {
            self.addresses.move_to(&chosen);
            for address in chosen.iter().map(Subnet::node_address) {
                if !self.node.contains(&address) {
                    // The first of a family is the one that new pods' routes name.
                    self.node.insert(0, address);
                }
            }
            links::ensure_node(&mut self.route, &self.node, &self.config.service_subnets)
                .map_err(NetworkError::Node)?;
            self.put_node_addresses()?;
        }
        let notices: Vec<Notice> = notices.into_iter().flatten().collect();
        let before = std::mem::replace(&mut self.noticed, notices.clone());
        Ok(notices.into_iter().filter(|notice| !before.contains(notice)).collect())
    }
}

/// Whether a change failed because the table is not what it was thought to be.
fn is_conflict(error: &NetlinkError) -> bool {
    [libc::ENOENT, libc::EEXIST, libc::EBUSY].iter().any(|code| error.is(*code))
}

fn owned((key, value): (&(Set, Vec<u8>), &Value)) -> ((Set, Vec<u8>), Value) {
    (key.clone(), value.clone())
}

/// What a pod is in a table.
fn pod_elements(family: Family, addresses: &[IpAddr], host_ports: &[HostPort]) -> BTreeMap<(Set, Vec<u8>), Value> {
    let mut elements = BTreeMap::new();
    let own = || addresses.iter().filter(|address| family.has(address));
    for address in own() {
        elements.insert((Set::Pods, links::octets(address)), Value::None);
        elements.insert((Set::Hairpin, hairpin_key(address)), Value::None);
    }
    // Of two addresses of one family the first takes the ports.
    let Some(address) = own().next() else { return elements };
    for port in host_ports {
        let set = match port.host_ip {
            Some(host) if !family.has(&host) => continue,
            Some(_) => Set::HostPortsAt,
            None => Set::HostPorts,
        };
        let key = port_key(port.host_ip.as_ref(), port.protocol.number(), port.host_port);
        elements.insert((set, key), Value::Bytes(endpoint_value(address, port.container_port)));
    }
    elements
}
